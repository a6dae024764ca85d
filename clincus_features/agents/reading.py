"""Looks into a container once, and keeps what a person has seen."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import clincus
from clincus_features.agents.rules import ToolRules, own_rules
from clincus_features.agents.state import Event, Facts, Said, listen, parse_event
from clincus_features.agents.texts import clean, clean_lines

SCREEN_LIMIT = 64 << 10  # bytes of a screen: guest/look.sh prints 24 lines of 400 bytes
EVENTS_LIMIT = 256 << 10  # bytes of events that guest/look.sh prints at most
# Takes off a screen what changes while nothing happens: times, the spinner in front of a line, and hints.
STILL = r"s/[0-9]+(\.[0-9]+)?(ms|[hms])\b//g; s/^ *[^[:alnum:][:space:]] //; /^ *⎿ +Tip:/d"


class SteadyClock:
    """Notices that the clock was set, or that the machine slept: what was still over that was not still for so long."""

    JUMP = 5.0  # seconds

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()
        self.since = 0.0  # when it has jumped last, in seconds since 1970; 0 for never

    def now(self) -> float:
        """The time in seconds since 1970."""
        now = time.time()
        ahead = now - time.monotonic()
        if abs(ahead - self._ahead) > self.JUMP:
            self.since = now
        self._ahead = ahead
        return now


CLOCK = SteadyClock()


@dataclass
class Known:
    """The facts about a tool in one run of its session, and how far its events are read."""

    facts: Facts = field(default_factory=lambda: Facts(looked=False))
    inode: int = 0  # of the file of events
    offset: int = 0  # bytes of it that were read
    is_armed: bool = False  # what is written next rings


@functools.lru_cache(maxsize=64)
def rules_of_row(tool: str, row: str) -> ToolRules | None:
    """The user's own rules for a tool, which sessions keep in a label: one object for all of them."""
    return own_rules(clincus.tool_from_row(tool, json.loads(row)).rules)


def first_facts(session: clincus.Session) -> Facts:
    """The facts that the session itself tells, before anybody has looked into its container."""
    started, has_row = clincus.parse_time(session.started_at), session.tool_row and session.tool not in clincus.TOOLS
    return Facts(
        status=session.status,
        tool=session.tool,
        started=started.timestamp() if started else 0.0,
        rules=rules_of_row(session.tool, session.tool_row) if has_row else None,
        looked=False,
    )


def look(sessions: clincus.Sessions, session: clincus.Session, known: Known, *, arm: bool = False) -> Known:
    """Look into a running session's container: one command there; with `arm` what is written next rings.

    Raises ClincusError.
    """
    mark = os.urandom(8).hex()
    words = *look_arguments(session, mark, known), str(int(arm))
    old = clincus.ClincusError("started by an older Clincus", 409)
    facts = replace(first_facts(session), said=known.facts.said, looked=True)
    try:
        limit = SCREEN_LIMIT + EVENTS_LIMIT + 4096
        output = sessions.output(session, "look", *words, timeout=clincus.READ_TIMEOUT, limit=limit, refusals={4: old})
    except clincus.ClincusError as error:
        if error is not old:
            raise
        return Known(replace(facts, tool="", now=time.time()))
    return replace(parse_look(output, mark, facts, known, CLOCK.now()), is_armed=arm)


def look_arguments(session: clincus.Session, mark: str, known: Known) -> tuple[str, ...]:
    """The arguments of guest/look.sh."""
    return clincus.tmux_name(session.id), mark, str(known.inode), str(known.offset), STILL


def parse_look(output: bytes, mark: str, facts: Facts, known: Known, now: float) -> Known:
    """Read the output of guest/look.sh. A word in any other form is left out. Pure."""
    head, screen, events = [*output.split(f"{mark}\n".encode(), 2), b"", b""][:3]
    numbers, _, title = head[:4096].decode("utf-8", "ignore").partition("\n")
    words = dict(word.partition("=")[::2] for word in numbers.split()[:8])

    def number(name: str) -> float:
        text = words.get(name, "")
        found = float(text) if text.isdecimal() and len(text) < 13 else 0.0
        return found if found <= now else CLOCK.since or now

    inode, _, offset = words.get("events", "").partition(":")
    begin = int(offset) if offset.isdecimal() and len(offset) < 10 else 0
    code = words.get("code", "")
    lines = clean_lines(screen[-SCREEN_LIMIT:].decode("utf-8", "ignore"))  # guest/look.sh cuts a long line anywhere
    facts = replace(
        facts,
        now=now,
        lines=lines,
        has_screen=bool(lines),
        title=clean(title, 80),
        is_alive=words.get("alive") == "1",
        can_ring=words.get("rings") != "0",
        exit_code=int(code) if code.isdecimal() and len(code) < 4 else None,
        ended=number("run"),
        moved=number("screen"),
        steady=CLOCK.since,
        said=facts.said if begin else Said(),
    )
    known = Known(facts, int(inode) if inode.isdecimal() and len(inode) < 20 else 0, begin)
    return with_events(known, events, now)[0]


def with_events(known: Known, events: bytes, now: float) -> tuple[Known, list[Event]]:
    """Add lines of a tool's hooks to the facts; the new facts, and the events in the lines. Pure.

    The begin of a line waits for its end, unless it is longer than any that guest/hook.sh writes.
    """
    events = events[:EVENTS_LIMIT]
    is_endless = len(events) == EVENTS_LIMIT and b"\n" not in events
    complete = events if is_endless else events[: events.rfind(b"\n") + 1]
    told = [event for event in (parse_event(line, now) for line in complete.splitlines()) if event]
    said = known.facts.said
    for event in told:
        said = listen(known.facts.tool, said, event)
    facts = replace(known.facts, said=said, now=now)
    return replace(known, facts=facts, offset=known.offset + len(complete)), told


class SeenTimes:
    """When a person last looked at each session, by its session id; kept in a file of the person's own."""

    LIMIT = 1000  # sessions; the oldest are forgotten

    def __init__(self, path: Callable[[], str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._times: dict[str, float] | None = None  # None: not read yet

    def get(self, session_id: str) -> float:
        """When a session was last seen, in seconds since 1970; 0 for never.

        A time of the future is from before the clock was set back: it tells nothing of what has happened since.
        """
        with self._lock:
            at = self._read().get(session_id, 0.0)
        return at if at <= time.time() else 0.0

    def set(self, session_id: str, at: float) -> None:
        """A session was seen. Raises ClincusError if that cannot be kept."""
        with self._lock:
            times = {**self._read(), session_id: at}
            newest = sorted(times.items(), key=lambda item: item[1])[-self.LIMIT :]
            self._times = dict(newest)
            path = self._path()
            with clincus.locked_folder(os.path.dirname(path)):
                clincus.replace_file(path, json.dumps(self._times).encode(), 0o600)

    def _read(self) -> dict[str, float]:
        if self._times is None:
            times = clincus.read_json(self._path(), 1 << 20, lambda kept: {id: float(at) for id, at in kept.items()})
            self._times = times or {}
        return self._times
