"""The capabilities of Clincus beyond its API reference, a file for each; here is what several of them share."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import clincus
from clincus import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def size_bytes(text: str) -> int:
    """The bytes of a text that `SIZE` matches: KB (kB) to TB count in thousands, KiB to TiB in 1024s, as in Incus."""
    number, prefix = re.fullmatch(clincus.SIZE, text).groups()  # type: ignore[union-attr]
    base = 1024 if prefix.endswith("i") else 1000
    return int(number) * int(base ** ("KMGT".index(prefix[0].upper()) + 1))


def known_session(app: clincus.Application, id: str) -> clincus.Session:
    """A session, as it was known last if it is out of reach. Raises ClincusError: 404, 503."""
    app.all_sessions()
    return app.registry.get(id)


def known_to_sleep(extensions: clincus.Extensions, engine: str, since: Mapping[str, float], cost: float) -> set[str]:
    """Which sessions of an engine are known to have slept since a time; in all others work begins now."""
    return set().union(*clincus.call_each(extensions.sleepers, engine, since, cost))


@contextmanager
def locked_folder(folder: str) -> Iterator[None]:
    """Make a folder of our own, if need be, and keep other Clincus processes from changing its files.

    A fault of the disk in the block is ClincusError(500).
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with clincus.directory_lock(folder):
            yield
    except OSError as error:
        raise clincus.ClincusError(f"{folder}: cannot be written: {error.strerror}", 500) from error


class LastAnswers:
    """The last answer to a question about each session: it holds for some seconds, however many ask."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._locks: dict[str, threading.Lock] = {}
        self._answers: dict[str, tuple[float, Any]] = {}  # session -> time.monotonic, answer

    def get(self, session: clincus.Session, ask: Callable[[], Any]) -> Any:
        """The answer, asked for anew if the last one is too old. What `ask` raises is raised."""
        with self._locks.setdefault(session.id, threading.Lock()):
            at, answer = self._answers.get(session.id, (float("-inf"), None))
            if time.monotonic() - at >= self._seconds:
                answer = ask()
                self._answers[session.id] = time.monotonic(), answer
            return answer

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Forget a session that has stopped: what comes next is another run. It is for `Extensions.listeners`."""
        if moment in ("stopped", "deleted"):
            self._locks.pop(session.id, None)
            self._answers.pop(session.id, None)
