"""The names that the connections of one session wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .link import Found, Link
from .requests import Asked, Refused

AT_ONCE = 2  # names of a session that are looked up at the same time


class LookUps:
    """Looks names up in threads, in the order of the connections.

    Connections that wait for the same name share the answer. A resolver may take half a minute for a name, and the
    owner of a domain chooses how long. Each session therefore has look-ups of its own: it holds up no other session,
    and costs AT_ONCE threads at most however many connections ask. A question goes with its connection, so there are
    never more questions than connections.
    """

    def __init__(self, find: Callable[[Asked], Found | Refused], tell: Callable[[Link, Found | Refused], None]) -> None:
        """`find` looks a name up and raises nothing; `tell` gets the answer, in one of the threads."""
        self._find = find
        self._tell = tell
        self._lock = threading.Lock()  # guards the next two
        self._waiting: dict[Link, Asked] = {}  # the oldest question first
        self._workers = 0

    def ask(self, link: Link, asked: Asked) -> None:
        """Let a name be looked up. Raises RuntimeError if no thread can be started for the first one."""
        with self._lock:
            self._waiting[link] = asked
            if self._workers >= AT_ONCE:
                return
            self._workers += 1
        try:
            threading.Thread(target=self._work, name="looking up names", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._workers -= 1
                if not self._workers:
                    raise

    def forget(self, link: Link) -> None:
        """Take back the question of a connection, if it still waits."""
        with self._lock:
            self._waiting.pop(link, None)

    def _work(self) -> None:
        """The work of a thread: it ends when nothing waits."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._workers -= 1
                    return
                asked = next(iter(self._waiting.values()))
                place = asked.host, asked.port
                links = [link for link, one in self._waiting.items() if (one.host, one.port) == place]
                for link in links:
                    del self._waiting[link]
            found = self._find(asked)
            for link in links:
                self._tell(link, found)
