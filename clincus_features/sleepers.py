"""Finds out which containers have slept, so that a timer does not look again where nothing can have been written.

Every write takes CPU. One query returns the CPU that each container of an engine has used so far. A container has slept
from one answer to the next if it used NOTHING in between, apart from the cost of Clincus's own work in it. A container
counts as awake if this is unknown: at a run's first answer, if its counter falls, or if its engine does not report it
(a restricted project may forbid that; a cluster reports one member). The result does not depend on a clock that a
person can set.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import clincus

NOTHING = 0.01  # seconds of CPU, two or three ticks of a clock; a turn of a tool takes a hundred times as much
HELD = 10.0  # seconds for which an answer holds; Incus keeps its own for 8
LATEST = 300.0  # seconds after which work no longer counts if no answer has shown it
SETTLED = 30.0  # seconds after which a new answer includes a whole piece of work, if it includes it at all
SHARE = 10  # an answer for that many running sessions costs as much as work in one of them
LINE = re.compile(r'^incus_cpu_seconds_total\{.*?name="([^"]+)",project="([^"]+)",type="container"\} (\S+)$', re.M)


def install(extensions: clincus.Extensions) -> None:
    """Add the question, and the duty that asks again when work is over."""
    sleepers = Sleepers(extensions.app)
    extensions.sleepers.append(sleepers.asleep)
    extensions.duties.append(clincus.Duty("looking who sleeps", 0.0, sleepers.settle, each_engine=True))


class Mark(NamedTuple):
    """A container as the last answer showed it. Times are of time.monotonic."""

    since: float  # when an answer came from which on it has slept
    read_at: float  # when this answer came
    used: float  # seconds of CPU until then
    run: str  # `Session.run`


class Work(NamedTuple):
    """Clincus's own work that was about to begin in a container."""

    asked_at: float  # time.monotonic
    left: float  # seconds of CPU that it may still take
    was_seen: bool = False  # an answer has included it


class Answers:
    """The answers of one engine about its containers. The lock guards all but `begun`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = threading.Event()  # there is work that no answer came after
        self.works: dict[str, Work] = {}  # by session
        self.marks: dict[str, Mark] = {}  # by session
        self.asked_at = -HELD  # time.monotonic

    def take(self, at: float, used: Mapping[str, float], runs: Mapping[str, str]) -> None:
        """Note an answer that came at a time: seconds of CPU by session, for running ones."""
        before = self.marks
        self.marks = {}
        for id, run in runs.items():
            if id in used:
                self.marks[id] = self._mark(id, before.get(id), Mark(at, at, used[id], run))

    def begin(self, at: float, ids: Iterable[str], cost: float) -> None:
        """Note that work is about to begin in containers."""
        for id in ids:
            before = self.works.get(id)
            self.works[id] = Work(at, cost + (before.left if before else 0.0))

    def _mark(self, id: str, before: Mark | None, now: Mark) -> Mark:
        work = self.works.pop(id, Work(now.read_at, 0.0))
        if before is None or before.run != now.run:
            return now
        used = now.used - before.used
        if not 0 <= used <= NOTHING + work.left:
            return now
        if used > NOTHING:
            work = work._replace(left=work.left - used, was_seen=True)
        kept_for = SETTLED if work.was_seen else LATEST
        if work.left > 0 and now.read_at - work.asked_at < kept_for:
            self.works[id] = work
        return now._replace(since=before.since)


class Sleepers:
    """Asks engines, and answers for their sessions."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._answers: dict[str, Answers] = {}  # by engine

    def asleep(self, engine: str, since: Mapping[str, float], cost: float) -> set[str]:
        """Which sessions of an engine have slept since a time of each (time.monotonic).

        The caller begins work in all others now, which takes up to `cost` seconds of CPU in each.
        """
        if not since or len(since) * SHARE < len(self._runs(engine)):
            return set()
        answers = self._of(engine)
        with answers.lock:
            self._ask(engine, answers)
            found = {id for id, at in since.items() if id in answers.marks and answers.marks[id].since <= at}
            answers.begin(time.monotonic(), since.keys() - found, cost)
        if found < since.keys():
            answers.begun.set()
        return found

    def settle(self, engine: str) -> None:
        """Wait until work in containers of an engine is over, and ask: from then on all that they use is their own."""
        answers = self._of(engine)
        answers.begun.wait()
        answers.begun.clear()
        time.sleep(SETTLED)
        with answers.lock:
            self._ask(engine, answers)

    def _ask(self, engine: str, answers: Answers) -> None:
        """Ask an engine, unless the last answer is fresh. Without an answer, all of its sessions count as awake."""
        if time.monotonic() - answers.asked_at < HELD:
            return
        door = self._app.engines[engine].incus
        text = ""
        try:
            text = door.query("/1.0/metrics", is_json=False, timeout=clincus.READ_TIMEOUT)
        except clincus.ClincusError as error:
            clincus.log.debug("it is not known which containers sleep: %s", error)
        answers.asked_at = time.monotonic()
        used = {clincus.session_id_on(engine, name): cpu for name, cpu in cpu_seconds(text, door.project).items()}
        answers.take(answers.asked_at, used, self._runs(engine))

    def _runs(self, engine: str) -> dict[str, str]:
        """The runs of an engine's sessions."""
        everything = self._app.registry.all()
        return {one.id: one.run for one in everything if (one.engine, one.status) == (engine, "running")}

    def _of(self, engine: str) -> Answers:
        return self._answers.setdefault(engine, Answers())


def cpu_seconds(text: str, project: str) -> dict[str, float]:
    """The CPU that each container of a project has used, in Incus's text for Prometheus.

    It has a line for each core and mode.
    """
    used: dict[str, float] = {}
    for name, place, seconds in (line.groups() for line in LINE.finditer(text)):
        if place == project:
            used[name] = round(used.get(name, 0.0) + float(seconds), 6)  # in any order the sum is the same
    return used
