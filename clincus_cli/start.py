"""Starts the program. `list` and `ps` ask Incus before the other modules are loaded, so that both happen at once.

The question is a guess. The door to Incus takes the answer only for the very same command line, and only if the command
did not fail; otherwise it asks again.
"""

from __future__ import annotations

import os
import sys
from _signal import SIGKILL, SIGPIPE  # type: ignore[import-not-found]  # `signal` takes long to load

from clincus_cli import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTANCES = "/1.0/instances?recursion=2"  # all of them, with their addresses
LIST_QUESTION = ("incus", "query", "--request", "GET", f"{INSTANCES}&project=default")


class Question:
    """A command that runs, and answers on its stdout. It is in our process group: Ctrl-C ends it with us."""

    def __init__(self, command: tuple[str, ...]) -> None:
        """Raises OSError if it cannot start, NotImplementedError where the C library is too old."""
        self.command = command
        self._stdout, writer = os.pipe()
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 2)]
        streams = [*null, (os.POSIX_SPAWN_DUP2, writer, 1)]
        environ = {"GOMAXPROCS": "1", **os.environ}
        try:
            self._pid = os.posix_spawnp(command[0], command, environ, file_actions=streams, setsigdef=[SIGPIPE])
        except BaseException:
            os.close(self._stdout)
            raise
        finally:
            os.close(writer)

    def read(self, limit: int, timeout: float) -> bytes:
        """All that it writes, or the first bytes beyond the limit. Raises TimeoutError after the seconds."""
        import threading

        alarm = threading.Timer(timeout, os.kill, (self._pid, SIGKILL))
        alarm.daemon = True
        alarm.start()
        with open(self._stdout, "rb", closefd=False) as stream:
            said = stream.read(limit + 1)
        if len(said) <= limit:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)  # its number is no other's till `end`
        is_late = not alarm.is_alive()
        alarm.cancel()
        alarm.join()
        if is_late:
            raise TimeoutError
        return said

    def end(self) -> int:
        """End the command if it still runs, and return the status of its end as waitpid does."""
        os.close(self._stdout)
        os.kill(self._pid, SIGKILL)
        return os.waitpid(self._pid, 0)[1]


asked: list[Question] = []  # at most one, until its answer is taken


def answer_to(command: Sequence[str], limit: int, timeout: float) -> bytes | None:
    """The answer to a question that was asked; None if it was another one, or failed. Raises TimeoutError."""
    if not asked or asked[0].command != tuple(command):
        return None
    question = asked.pop()
    try:
        said = question.read(limit, timeout)
    finally:
        status = question.end()
    return said if status == 0 and len(said) <= limit else None


def ensure_utf8() -> None:
    """Start again in Python's UTF-8 mode, if the locale has another encoding, such as ASCII or Latin-1.

    Names in the config, in Incus and in containers are UTF-8: Python would find no file of such a name, or fail. The
    output stays in the encoding of the locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    encoding = sys.stdout.encoding if sys.stdout else "ascii"
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:surrogateescape")
    words = getattr(sys, "orig_argv", ["", *sys.argv])  # new in Python 3.10
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *words[1:]])


def main() -> int:
    """Run the command line and return its exit code; see main.py. A signal that ended it ends the process."""
    ensure_utf8()
    words = sys.argv[1:]
    has_streams = None not in (sys.stdin, sys.stdout, sys.stderr)  # else those of the question would take their places
    if words[:1] in (["list"], ["ps"], ["ls"]) and {"-h", "--help"}.isdisjoint(words) and has_streams:
        try:  # noqa: SIM105 (contextlib takes long to load)
            asked.append(Question(LIST_QUESTION))
        except (OSError, NotImplementedError):
            pass  # the door will say why
    from clincus_cli import main as command_line

    try:
        return command_line.main(words)
    except command_line.Ended as ended:
        number = ended.number
    finally:
        while asked:
            asked.pop().end()
    command_line.die_by(number)
    return 128 + number
