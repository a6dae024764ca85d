"""Looks into a container once, and parses the result."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import clincus
from clincus_features.agents.rules import ToolRules, own_rules
from clincus_features.agents.state import Event, Facts, listen, parse_event
from clincus_features.agents.texts import clean, clean_lines

SCREEN_LIMIT = 64 << 10  # bytes of a screen: guest/look.sh prints 40 lines of 400 bytes
EVENTS_LIMIT = 256 << 10  # bytes of events that guest/look.sh prints at most
# Removes from a screen what changes while nothing happens: times, spinners and other marks in front of a line, which
# blink, blanks, and hints up to the border below them.
STILL = r"s/[0-9]+(\.[0-9]+)?(ms|[hms])\b//g; /^─/!s/^[^[:alnum:]]*//; s/[[:blank:]]+/ /g; s/ $//; /^Tip:/,/^─/{/^─/!d}"
# CPUs in use: a container above that, without its tool's own process, is at work. Claude Code's spinner alone
# takes 0.06 to 0.09 of its process (2.1.332); a look takes 15 ms, which is 0.005 over the window.
MOVED_BY_CPU = 0.05
CPU_WINDOW = 3.0  # seconds over which that is measured


class SteadyClock:
    """Notices that the clock was set, or that the machine slept: times measured across that do not count."""

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


class Work(NamedTuple):
    """The use of the CPU of a container, as it was measured last."""

    used: float = 0.0  # seconds of CPU
    at: float = 0.0  # time of that measurement, by our clock; 0 for never
    busy: float = 0.0  # time at which the CPU was last in use
    is_measured: bool = False  # that takes two looks


@dataclass
class Known:
    """The facts about a tool in one run of its session, and the part of its events that was read."""

    facts: Facts = field(default_factory=lambda: Facts(looked=False))
    inode: int = 0  # of the file of events
    offset: int = 0  # bytes of it that were read
    skew: float = 0.0  # seconds by which the clock there is behind ours
    work: Work = field(default_factory=Work)
    is_armed: bool = False  # the next output rings
    thawed: float = 0.0  # time at which its session continued after a pause, in seconds since 1970; 0 for never


@functools.lru_cache(maxsize=64)
def rules_of_row(tool: str, row: str) -> ToolRules | None:
    """The user's own rules for a tool, which sessions keep in a label: one object for all of them."""
    return own_rules(clincus.tool_from_row(tool, clincus.parse_json(row)).rules)


def first_facts(session: clincus.Session) -> Facts:
    """The facts that the session itself has, before a look into its container."""
    started = clincus.parse_time(session.started_at)
    has_row = session.tool_row and session.tool not in clincus.TOOLS
    return Facts(
        status=session.status,
        tool=session.tool,
        started=started.timestamp() if started else 0.0,
        rules=rules_of_row(session.tool, session.tool_row) if has_row else None,
        looked=False,
    )


def look(sessions: clincus.Sessions, session: clincus.Session, known: Known, *, arm: bool = False) -> Known:
    """Look into a running session's container: one command there; with `arm` the next output rings.

    Raises ClincusError.
    """
    mark = os.urandom(8).hex()
    words = *look_arguments(session, mark, known), str(int(arm))
    began = CLOCK.now()
    old = clincus.ClincusError("started by an older Clincus: stop and resume it", 409)
    facts = facts_before_look(session, known)
    try:
        limit = SCREEN_LIMIT + EVENTS_LIMIT + 4096
        output = sessions.output(session, "look", *words, timeout=clincus.READ_TIMEOUT, limit=limit, refusals={4: old})
    except clincus.ClincusError as error:
        if error is not old:
            raise
        return Known(replace(facts, tool="", now=time.time()))
    now = CLOCK.now()
    known = replace(known, skew=measured_skew(output, known.skew, began, now))
    return replace(parse_look(output, mark, facts, known, now), is_armed=arm)


def facts_before_look(session: clincus.Session, known: Known) -> Facts:
    """The facts to which a look adds its results."""
    return replace(first_facts(session), said=known.facts.said, followed=known.facts.followed, looked=True)


def look_arguments(session: clincus.Session, mark: str, known: Known) -> tuple[str, ...]:
    """The arguments of guest/look.sh."""
    return clincus.tmux_name(session.id), mark, str(known.inode), str(known.offset), STILL


def number_of(words: Mapping[str, str], name: str, digits: int) -> int | None:
    """The number that a word of a look has, of so many digits at most; None if it has another form. Pure."""
    text = words.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= digits else None


def facts_of_words(facts: Facts, words: Mapping[str, str], known: Known, now: float) -> Facts:
    """The facts with those that are words in the head of a look: about the process of the tool, and times. Pure."""

    def time_of(name: str) -> float:
        there = number_of(words, name, 12)
        found = 0.0 if there is None else there + known.skew
        return max(0.0, found) if found <= now else CLOCK.since or now

    was_again = words.get("again") == "2"
    return replace(
        facts,
        now=now,
        is_alive=words.get("alive") == "1",
        can_ring=words.get("rings") != "0",
        exit_code=number_of(words, "code", 3),
        is_stopping=words.get("stopping") == "1",
        runs_again=words.get("again") == "1",
        was_again=was_again,
        again_code=number_of(words, "left", 3),
        ended=time_of("again_at" if was_again else "run"),
        moved=time_of("screen"),
        sum=words.get("sum", "")[:20],
        below=number_of(words, "below", 4),
        steady=max((at for at in (CLOCK.since, known.thawed) if at <= now), default=0.0),
    )


def parse_look(output: bytes, mark: str, facts: Facts, known: Known, now: float) -> Known:
    """Read the output of guest/look.sh. A word in any other form is left out. Times are those of our clock. Pure."""
    head, screen, events = [*output.split(f"{mark}\n".encode(), 2), b"", b""][:3]
    numbers, _, title = head[:4096].decode("utf-8", "ignore").partition("\n")
    words = dict(word.partition("=")[::2] for word in numbers.split()[:20])
    lines = clean_lines(screen[-SCREEN_LIMIT:].decode("utf-8", "ignore"))  # guest/look.sh cuts a long line anywhere
    work = measured_work(known.work, words.get("cpu", ""), now)
    facts = facts_of_words(facts, words, known, now)
    inode, _, offset = words.get("events", "").partition(":")
    begin = int(offset) if offset.isdecimal() and len(offset) < 10 else 0
    # A new file of events continues where the old one ended. `more` is one more than the bytes that follow there, and 0
    # if the tool was started anew.
    more = number_of(words, "more", 6) or 0
    goes_on = begin > 0 or more > 0
    facts = replace(
        facts,
        lines=lines,
        has_screen=bool(lines),
        title=clean(title, 80),
        moved=max(facts.moved, work.busy),
        is_measured=work.is_measured,
        said=facts.said if goes_on else facts.said.forgotten(),
    )
    read = int(inode) if inode.isdecimal() and len(inode) < 20 else 0
    known = replace(known, facts=facts, inode=read, offset=begin, work=work, is_armed=False)
    if more > 1:
        known = replace(with_events(known, events[: more - 1], now)[0], offset=begin)
    return with_events(known, events[max(0, more - 1) :], now)[0]


def measured_skew(output: bytes, known: float, began: float, ended: float) -> float:
    """The seconds by which the clock there is behind ours, by a look that began and ended at times of ours.

    The known value stays as long as it may be true.
    """
    there = re.match(rb"(?:\S+ )*?now=(\d{1,12}(?:\.\d{1,9})?) ", output[:4096])
    if there is None:
        return known
    least = began - float(there[1])
    most = ended - float(there[1])
    for one in (known, 0.0):
        if least <= one <= most:
            return one
    return least if least > 0 else most


def measured_work(known: Work, word: str, now: float) -> Work:
    """The use of the CPU, with one more measurement in milliseconds; a container that reports none is never busy."""
    if not word.isdecimal() or len(word) > 15:
        return known._replace(is_measured=True)
    passed = now - known.at
    more = int(word) / 1000 - known.used
    if known.at and 0 <= passed < CPU_WINDOW and more >= 0:
        return known
    is_busy = bool(known.at) and passed > 0 and more > MOVED_BY_CPU * passed
    return Work(int(word) / 1000, now, now if is_busy else known.busy, is_measured=bool(known.at))


def with_events(known: Known, events: bytes, now: float) -> tuple[Known, list[Event]]:
    """Add lines of a tool's hooks to the facts; returns the new facts, and the events in the lines. Pure.

    The beginning of a line waits for its end, unless it is longer than any that guest/hook.sh writes.
    """
    events = events[:EVENTS_LIMIT]
    is_endless = len(events) == EVENTS_LIMIT and b"\n" not in events
    complete = events if is_endless else events[: events.rfind(b"\n") + 1]
    told = [event for event in (parse_event(line, now, known.skew) for line in complete.splitlines()) if event]
    said = known.facts.said
    for event in told:
        said = listen(known.facts.tool, said, event)
    facts = replace(known.facts, said=said, now=now)
    return replace(known, facts=facts, offset=known.offset + len(complete)), told
