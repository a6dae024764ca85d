"""Counts how much sessions use each login, in a file of Clincus's own, and checks the limits of each login.

Days are those of this host's local time. A request that is in progress when a limit is reached may finish.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import clincus

from .meter import Tokens
from .settings import Limit

FILE = "logins-used.json"
FILE_LIMIT = 4 << 20  # bytes
WRITE_WITHIN = 2.0  # seconds
MOST_SESSIONS = 2000
MOST_DAYS = 31
MOST_COUNTED = 500  # sessions whose tokens are kept by day and model
MOST_ROWS = 24  # days and models of a session that are told apart: a container may name any model


class Sum(NamedTuple):
    """The use of a login."""

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0

    def plus(self, other: Sum) -> Sum:
        """Both together."""
        return Sum(self.requests + other.requests, self.tokens + other.tokens, self.usd + other.usd)

    @classmethod
    def read(cls, value: Sequence[Any]) -> Sum:
        """The sum in a file. Raises ValueError."""
        return cls(int(value[0]), int(value[1]), float(value[2]))


def today() -> str:
    """The day of this host."""
    return time.strftime("%Y-%m-%d")


def today_in_utc() -> str:
    """The day of UTC, as costs have it."""
    return time.strftime("%Y-%m-%d", time.gmtime())


Table = dict[str, dict[str, Sum]]
Rows = dict[str, dict[str, list[int]]]  # session id -> "DAY MODEL" -> numbers of tokens, as `clincus.Counted` has them


class Spending:
    """The sums of all logins, by day and by session."""

    def __init__(self, environ: Mapping[str, str], day: Callable[[], str] = today) -> None:
        self._path = clincus.own_file(environ, FILE)
        self._day = day
        self._lock = threading.Lock()  # guards the fields below
        self._days: Table = {}
        self._sessions: Table = {}  # in the order of their last use
        self._rows: Rows = {}  # in the same order
        self._mark: object = ()
        self._is_changed = False

    def add(self, login: str, session: str, more: Sum) -> None:
        """Count what a session has used, by its session id."""
        with self._lock:
            self._load()
            day = self._days.setdefault(self._day(), {})
            day[login] = day.get(login, Sum()).plus(more)
            mine = self._sessions.pop(session, {})
            mine[login] = mine.get(login, Sum()).plus(more)
            self._sessions[session] = mine
            self._change()

    def add_tokens(self, session: str, model: str, tokens: Sequence[int]) -> None:
        """Count the tokens of a model for the cost of a session."""
        key = f"{today_in_utc()} {model}"
        with self._lock:
            self._load()
            mine = self._rows.pop(session, {})
            if key not in mine and len(mine) >= MOST_ROWS:
                key = " "
            mine[key] = [before + more for before, more in zip(mine.get(key, [0] * len(tokens)), tokens)]
            self._rows[session] = mine
            self._change()

    def tokens_of(self, session: str) -> list[clincus.Counted]:
        """The tokens of a session by day and model."""
        with self._lock:
            self._load()
            found = dict(self._rows.get(session, {}))
        rows = [(key.partition(" "), tuple(counts)) for key, counts in found.items()]
        return [clincus.Counted(day, model, counts) for (day, _, model), counts in rows]

    def _change(self) -> None:
        """Write soon. The caller has the lock."""
        if not self._is_changed:
            self._is_changed = True
            timer = threading.Timer(WRITE_WITHIN, self.write)
            timer.daemon = True
            timer.start()

    def of_day(self, login: str) -> Sum:
        """The use of a login today."""
        with self._lock:
            self._load()
            return self._days.get(self._day(), {}).get(login, Sum())

    def of_session(self, login: str, session: str) -> Sum:
        """A session's use of a login in all its runs."""
        with self._lock:
            self._load()
            return self._sessions.get(session, {}).get(login, Sum())

    def write(self) -> None:
        """Write the changes since the last write."""
        with self._lock:
            if not self._is_changed:
                return
            self._is_changed = False
            self._days = dict(sorted(self._days.items())[-MOST_DAYS:])
            self._sessions = dict(list(self._sessions.items())[-MOST_SESSIONS:])
            self._rows = dict(list(self._rows.items())[-MOST_COUNTED:])
            text = json.dumps({"days": self._days, "sessions": self._sessions, "tokens": self._rows})
            try:
                clincus.replace_file(self._path, text.encode(), 0o600)
            except OSError as error:
                clincus.log.warning("%s cannot be written: %s", self._path, error.strerror)
            self._mark = clincus.config_fingerprint([self._path])

    def _load(self) -> None:
        """Read the sums that another server of this user has written."""
        mark = clincus.config_fingerprint([self._path])
        if self._is_changed or mark == self._mark:
            return
        self._mark = mark
        try:
            found = clincus.read_json(self._path, FILE_LIMIT, read_sums)
        except clincus.ConfigError as error:
            clincus.log.warning("%s", error)
            return
        if found:
            self._days, self._sessions, self._rows = found


def read_sums(document: Any) -> tuple[Table, Table, Rows]:
    """The sums in a file. Raises ValueError, TypeError and the like."""
    days, sessions = (
        {str(key): {str(name): Sum.read(value) for name, value in row.items()} for key, row in document[part].items()}
        for part in ("days", "sessions")
    )
    return days, sessions, {str(key): read_rows(rows) for key, rows in document.get("tokens", {}).items()}


def read_rows(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """The tokens of a session in a file. Raises ValueError, TypeError and the like."""
    found = {str(key): [int(count) for count in counts] for key, counts in rows.items()}
    if not all(" " in key and len(counts) == len(Tokens()) for key, counts in found.items()):
        raise ValueError("tokens have a day, a model and four numbers")
    return found


def reached(name: str, limit: Limit, day: Sum, session: Sum) -> str:
    """The limit that is reached, in words; empty if none is."""
    checks = (
        (limit.requests_per_day, day.requests, "requests a day"),
        (limit.tokens_per_day, day.tokens, "tokens a day"),
        (limit.usd_per_day, day.usd, "dollars a day"),
        (limit.requests_per_session, session.requests, "requests a session"),
        (limit.tokens_per_session, session.tokens, "tokens a session"),
        (limit.usd_per_session, session.usd, "dollars a session"),
    )
    for most, used, words in checks:
        if most and used >= most:
            return f"its limit of {most:,g} {words} is reached (limit in [logins.{name}] of the config)"
    return ""
