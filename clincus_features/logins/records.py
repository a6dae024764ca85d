"""Records how each session used its logins in this run: bounded, in memory, and without any value."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import clincus

MOST_ALARMS = 50  # reported ones of a session
MOST_ROWS = 200  # of a session: logins and hosts are few, but a wild host stands for many


@dataclass
class Row:
    """The requests to a host with one login."""

    requests: int = 0
    refused: int = 0
    tokens: int = 0  # that the answers report
    last: str = ""  # RFC 3339


@dataclass
class Records:
    """The records of one session. The proxy's thread writes them, and threads of requests read them."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)  # by login and host
    alarms: list[dict[str, str]] = field(default_factory=list)
    _told: set[tuple[str, str, str]] = field(default_factory=set)
    _reasons: set[tuple[str, str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, login: str, host: str, *, is_refused: bool = False) -> bool:
        """Count a request; True for the first one of a login."""
        with self._lock:
            is_first = not is_refused and not any(key[0] == login and row.requests for key, row in self.rows.items())
            if (login, host) not in self.rows and len(self.rows) >= MOST_ROWS:
                return is_first
            row = self.rows.setdefault((login, host), Row())
            row.last = clincus.utc_now()
            row.refused += is_refused
            row.requests += not is_refused
        return is_first

    def refuse(self, login: str, host: str, reason: str) -> bool:
        """Count a request that got no value; True for the first one with this reason."""
        self.count(login, host, is_refused=True)
        with self._lock:
            is_first = (login, reason) not in self._reasons and len(self._reasons) < MOST_ROWS
            if is_first:
                self._reasons.add((login, reason))
        return is_first

    def add_tokens(self, login: str, host: str, tokens: int) -> None:
        """Count tokens of a request that is counted."""
        with self._lock:
            row = self.rows.get((login, host))
            if row:
                row.tokens += tokens

    def alarm(self, login: str, where: str, host: str) -> bool:
        """Keep an alarm; False if it is known already, or if there are too many."""
        with self._lock:
            key = (login, where, host)
            if key in self._told or len(self.alarms) >= MOST_ALARMS:
                return False
            self._told.add(key)
            self.alarms.append({"login": login, "where": where, "host": host, "at": clincus.utc_now()})
        return True

    def documents(self) -> dict[str, object]:
        """The rows in the form of the API, newest first."""
        with self._lock:
            rows = sorted(self.rows.items(), key=lambda item: item[1].last, reverse=True)
            lent = [{"login": login, "host": host, **vars(row)} for (login, host), row in rows]
            return {"lent": lent, "alarms": list(reversed(self.alarms))}
