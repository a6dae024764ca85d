"""The lines to containers on engines. A line is a command that runs as long as its session has a list of names.

relay.py describes what goes over a line.
"""

from __future__ import annotations

import functools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

import clincus

from .relay import BrokenLineError, Carrier

BEGIN_WITHIN = 20.0  # seconds for the command to start
FIRST_PAUSE = 0.25  # seconds after the first try; each pause is twice as long as the one before
LAST_PAUSE = 30.0  # seconds of the longest pause
STEADY = 60.0  # seconds that a line must hold before pauses begin again at the first
READY_WITHIN = 5.0  # seconds that a start, or a change, waits for the line

# Commands of guest/relay.pl for a port that a line to another Clincus holds.
TAKE = "take"
WAIT = "wait"

NO_PERL = 42  # exit code
CHECK = f"command -v perl >/dev/null || exit {NO_PERL}"
PERL_MISSING = "the container has no Perl, which a list of names needs on an engine: use another image, open or none"


def check_guest(incus: clincus.Incus, id: str) -> None:
    """Raise ClincusError(409) if a container lacks a program that a line needs, IncusError if it cannot be asked."""
    done = incus.exec(id, ["sh", "-c", CHECK])
    if done.code == NO_PERL:
        raise clincus.ClincusError(PERL_MISSING, 409)
    if done.code != 0:
        raise incus.guest_failure(id, done)


def command(port: int) -> list[str]:
    """The command in the container; it listens at a port there."""
    start = 'exec perl -e "$1" "$2" /run/clincus-relay'
    return ["sh", "-c", start, "relay", clincus.packaged_text("guest/relay.pl"), str(port)]


class HeldLineError(Exception):
    """Another Clincus carries the connections of the container."""


class Line:
    """A line that is restarted whenever it ends, after a pause that grows.

    Two hosts that use the same engine each want a line to its sessions. The one that starts a session takes its port;
    the other waits until that line is gone. Otherwise the two would take the port from each other for ever, and end all
    connections each time.
    """

    def __init__(
        self,
        argv: Callable[[], Sequence[str]],
        path: str,
        report: Callable[[str], None],
        owner: str,
        manner: str = WAIT,
    ) -> None:
        """Begin. `path` is the proxy's socket; `argv` returns the whole command line, and may raise ClincusError.

        `owner` names this Clincus, in hexadecimal digits.
        """
        self._argv = argv
        self._path = path
        self._report = report
        self._owner = owner
        self._manner = manner
        self.ready = threading.Event()  # programs in the container can connect
        self._over = threading.Event()
        self._again = threading.Event()  # ends a pause
        self._lock = threading.Lock()  # guards the next one
        self._process: subprocess.Popen[bytes] | None = None
        name = "carrying connections"
        threading.Thread(target=clincus.survive, args=(name, self._run), name=name, daemon=True).start()

    def take(self) -> None:
        """Take the port from another Clincus, if one has it."""
        self._manner = TAKE
        self._again.set()

    def stop(self) -> None:
        """End the line for good."""
        self._over.set()
        self._again.set()
        with self._lock:
            if self._process:
                clincus.kill_group(self._process)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        told = ""
        while not self._over.is_set():
            began = time.monotonic()
            failure = self._carry()
            if time.monotonic() > began + STEADY:
                pause = FIRST_PAUSE
                told = ""
            if failure and failure != told and not self._over.is_set():
                told = failure
                self._report(f"the way to its proxy broke: {failure}")
            if self._again.wait(pause):
                self._again.clear()
            pause = min(2 * pause, LAST_PAUSE)

    def _carry(self) -> str:
        """Run a line from its beginning to its end; returns why it ended, "" if another Clincus has one."""
        ours, theirs = socket.socketpair()
        try:
            with ours:
                with theirs:
                    self._start(theirs.fileno())
                begin(ours, f"{self._manner} {self._owner}")
                self._manner = WAIT
                self.ready.set()
                Carrier(ours, self._path).serve()
        except HeldLineError:
            return ""
        except (BrokenLineError, clincus.ClincusError, OSError) as error:
            return str(error)
        finally:
            self.ready.clear()
            with self._lock:
                if self._process:
                    clincus.kill_group(self._process)
                self._process = None
        return "its command ended"

    def _start(self, end: int) -> None:
        argv = self._argv()
        with self._lock:
            if self._over.is_set():
                raise BrokenLineError("it is not wanted any more")
            self._process = subprocess.Popen(
                argv, stdin=end, stdout=end, stderr=subprocess.DEVNULL, start_new_session=True
            )


def begin(line: socket.socket, order: str) -> None:
    """Start the command in the container, and wait until it listens.

    Raises HeldLineError, BrokenLineError, OSError.
    """
    line.settimeout(BEGIN_WITHIN)
    line.sendall(f"{order}\n".encode())
    said = b""
    while not said.endswith(b"\n") and len(said) < 16:
        said += line.recv(1) or b"\n"
    if said == b"held\n":
        raise HeldLineError
    if said == b"taken\n":
        raise BrokenLineError("another program has the port of the proxy in the container")
    if said != b"ready\n":
        raise BrokenLineError("its command did not begin")


class Lines:
    """The lines of a server, by session."""

    def __init__(
        self, sessions: clincus.Sessions, port: int, path_of: Callable[[str], str], owner: Callable[[], str]
    ) -> None:
        self._sessions = sessions
        self._port = port
        self._path_of = path_of
        self._owner = owner
        self._lock = threading.Lock()  # guards the next one
        self._lines: dict[str, Line] = {}

    def want(self, id: str, manner: str) -> Line:
        """The line of a session; a new one begins if it has none."""

        def report(words: str) -> None:
            self._sessions.report(f"{id}: {words}")

        with self._lock:
            line = self._lines.get(id)
            if line is None:
                argv = functools.partial(self._command_line, id)
                line = Line(argv, self._path_of(id), report, self._owner(), manner)
                self._lines[id] = line
            elif manner == TAKE and not line.ready.is_set():
                line.take()
            return line

    def end(self, id: str) -> None:
        """End the line of a session."""
        with self._lock:
            line = self._lines.pop(id, None)
        if line:
            line.stop()

    def _command_line(self, id: str) -> Sequence[str]:
        return self._sessions.door(id).exec_argv(id, command(self._port), cwd="/")
