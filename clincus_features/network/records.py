"""Counts of what a session's proxy passed and refused in this run: bounded, in memory, and never in a log."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import clincus

MOST_ROWS = 200  # of each kind; the oldest goes


@dataclass
class Refusal:
    """How often a host was refused, and why the last time."""

    reason: str
    count: int = 0
    last: str = ""


@dataclass
class Passage:
    """How many connections went to a host, and how many bytes: `sent` by the container, `received` by it."""

    count: int = 0
    sent: int = 0
    received: int = 0
    last: str = ""


@dataclass
class Records:
    """The rows of one session, by host and port. The proxy's thread writes, those of requests read."""

    refused: OrderedDict[tuple[str, int], Refusal] = field(default_factory=OrderedDict)
    passed: OrderedDict[tuple[str, int], Passage] = field(default_factory=OrderedDict)
    unseen: int = 0  # refusals that nobody has looked at
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, host: str, port: int, reason: str) -> None:
        """Count a refusal."""
        with self.lock:
            row = self.refused.setdefault((host, port), Refusal(reason))
            row.reason, row.count, row.last = reason, row.count + 1, clincus.utc_now()
            self.unseen += 1
            self.refused.move_to_end((host, port))
            while len(self.refused) > MOST_ROWS:
                self.refused.popitem(last=False)

    def passage(self, host: str, port: int) -> Passage:
        """Count a connection; the result is the row that its bytes are added to."""
        with self.lock:
            row = self.passed.setdefault((host, port), Passage())
            row.count, row.last = row.count + 1, clincus.utc_now()
            self.passed.move_to_end((host, port))
            while len(self.passed) > MOST_ROWS:
                self.passed.popitem(last=False)
            return row

    def documents(self) -> dict[str, list[dict[str, object]]]:
        """The rows as the API shows them, newest first."""
        with self.lock:
            return {
                name: [{"host": host, "port": port, **vars(row)} for (host, port), row in reversed(rows.items())]
                for name, rows in (("refused", self.refused), ("passed", self.passed))
            }
