"""Slow examinations of sessions, each in a thread of its own, and never two of one session at once."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

import clincus


class Looks:
    """Examines sessions in threads. A request for a session that is being examined leads to one more look at it.

    `look` gets the id of the session, and returns True if another look is needed in any case. Looks at a session that
    keeps changing take the part `1 / (1 + REST)` of the time.
    """

    REST = 4.0  # the pause after a look, as a multiple of its duration

    def __init__(self, what: str, settle: Callable[[], float], look: Callable[[str], bool]) -> None:
        self._what = what
        self._settle = settle  # seconds from a change until the look
        self._look = look
        self._lock = threading.Lock()
        self._changed: dict[str, bool] = {}  # session that is being examined -> True if it has changed since

    def ask(self, id: str) -> None:
        """Have a session looked at."""
        with self._lock:
            is_looked_at = id in self._changed
            self._changed[id] = True
        if not is_looked_at:
            work = functools.partial(clincus.survive, self._what, lambda: self._go_on(id))
            threading.Thread(target=work, name=self._what, daemon=True).start()

    def is_busy(self, id: str) -> bool:
        """True if a look at a session is in progress or due."""
        with self._lock:
            return id in self._changed

    def _go_on(self, id: str) -> None:
        wait = self._settle()
        try:
            while True:
                time.sleep(wait)
                with self._lock:
                    self._changed[id] = False
                begun = time.monotonic()
                has_found = self._look(id)
                wait = max(self._settle(), self.REST * (time.monotonic() - begun))
                with self._lock:
                    if not has_found and not self._changed[id]:
                        del self._changed[id]
                        return
        except BaseException:
            with self._lock:
                self._changed.pop(id, None)
            raise
