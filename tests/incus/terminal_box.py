"""A program at a terminal of its own, for tests that sit in front of it."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.programs import DEADLINE


class Terminal:
    """A program at a terminal of its own, and a person in front of it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], cwd: Path) -> None:
        self.shown = ""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(argv[0], argv, environ)
        self._code: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def expect(self, words: str) -> str:
        """Wait until something is shown that was not waited for before; all that was shown up to its end."""
        end = time.monotonic() + DEADLINE
        while words not in self.shown:
            assert self._read(end), f"the program ended before it showed {words!r}:\n{self.shown}"
        before, _, self.shown = self.shown.partition(words)
        return before + words

    def until(self, form: re.Pattern[str], within: float = DEADLINE) -> tuple[str, re.Match[str] | None]:
        """Wait until something of a form is shown that was not waited for before; what was shown before it, and it.

        If that takes longer than `within` seconds, "" and None; if it takes as long as DEADLINE, this fails.
        """
        now = time.monotonic()
        while not (found := form.search(self.shown)):
            if (
                within < DEADLINE
                and not select.select([self.master], [], [], max(now + within - time.monotonic(), 0))[0]
            ):
                return "", None
            assert self._read(now + DEADLINE), f"the program ended before it showed {form.pattern!r}:\n{self.shown}"
        before, self.shown = self.shown[: found.start()], self.shown[found.end() :]
        return before, found

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.master, text.encode())

    def detach(self) -> None:
        """Leave tmux with its keys; a millisecond apart they would count as pasted (tmux(1), assume-paste-time)."""
        self.type("\x02")
        time.sleep(0.05)
        self.type("d")

    def end(self) -> int:
        """Wait for the end of the program and return its exit code."""
        end = time.monotonic() + DEADLINE
        while self._read(end):
            pass
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
            os.close(self.master)
        return self._code

    def _read(self, end: float) -> bool:
        assert select.select([self.master], [], [], max(end - time.monotonic(), 0))[0], f"waited in vain:\n{self.shown}"
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.shown += self._decoder.decode(data)
        return bool(data)

    def close(self) -> None:
        """End the program, whatever it does."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.master)
