"""Counts of a session's passed and refused connections in this run: bounded, in memory, and never in a log."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, TypeVar

import clincus

MOST_ROWS = 200  # of each kind; the oldest goes


@dataclass
class Refusal:
    """The refusals of a host: their number, and the reason of the last one."""

    reason: str = ""
    count: int = 0
    last: str = ""


@dataclass
class Passage:
    """The connections to a host, and their bytes: `sent` by the container, `received` by it."""

    count: int = 0
    sent: int = 0
    received: int = 0
    last: str = ""


Row = TypeVar("Row", Refusal, Passage)


def counted(rows: OrderedDict[tuple[str, int], Row], key: tuple[str, int], fresh: Row) -> Row:
    """Add one to the row of a host and port, which becomes the newest, and return the row."""
    row = rows.setdefault(key, fresh)
    row.count = row.count + 1
    row.last = clincus.utc_now()
    rows.move_to_end(key)
    return row


@dataclass
class Records:
    """The rows of one session, by host and port. The proxy's thread writes them, threads of requests read them."""

    refused: OrderedDict[tuple[str, int], Refusal] = field(default_factory=OrderedDict)
    passed: OrderedDict[tuple[str, int], Passage] = field(default_factory=OrderedDict)
    is_cut: bool = False  # rows have made room for newer ones
    unseen: int = 0  # refusals that nobody has looked at
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, host: str, port: int, reason: str) -> None:
        """Count a refusal."""
        with self.lock:
            counted(self.refused, (host, port), Refusal()).reason = reason
            self.unseen += 1
            self._cut(self.refused)

    def passage(self, host: str, port: int) -> Passage:
        """Count a connection; the result is the row that its bytes are added to."""
        with self.lock:
            row = counted(self.passed, (host, port), Passage())
            self._cut(self.passed)
            return row

    def _cut(self, rows: OrderedDict[tuple[str, int], Any]) -> None:
        """Let the oldest rows make room for newer ones."""
        while len(rows) > MOST_ROWS:
            rows.popitem(last=False)
            self.is_cut = True

    def documents(self) -> dict[str, object]:
        """The rows in the form of the API, newest first."""
        with self.lock:
            rows = {
                name: [{"host": host, "port": port, **vars(row)} for (host, port), row in reversed(rows.items())]
                for name, rows in (("refused", self.refused), ("passed", self.passed))
            }
            return {**rows, "truncated": self.is_cut}
