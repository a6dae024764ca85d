"""Gives a container that burns CPU for minutes a tenth of the CPU's weight while its machine is busy.

`limits.cpu.allowance` in per cent is such a weight. It holds at once, by cgroup v1 and v2 (Incus 6.0.4, ParseCPU in
internal/server/cgroup), and a container still gets all CPU that nobody else wants.

A label marks the containers that are slowed, so that the next server finds them. Each start of a session removes both.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import clincus

PERIOD = 30.0  # seconds between two looks
HOT_LOOKS = 4  # looks in a row: a container that burns in all of them is slowed
CALM_LOOKS = 2  # the same for one that is calm again
MOST = 0.5  # cores: a container that uses more burns, even if it has the machine for itself
LEAST = 0.05  # cores: one that uses less never burns, however many share the machine
BUSY = 0.9  # of an engine's cores
PATIENCE = 3.0  # seconds for a change: a stop of the session may wait for it
ALLOWANCE = "limits.cpu.allowance"
SLOWED = f"{clincus.LABEL}slowed"
SLOWED_INSTANCES = f"/1.0/instances?filter=config.{SLOWED}%20eq%20true"  # returns their paths
USED = r'^incus_cpu_seconds_total\{.*?name="([^"]+)",project="([^"]+)",type="container"\} (\d+(?:\.\d+)?(?:e\+?\d+)?)$'
CORES = r"^incus_cpu_effective_total\{.*\} (\d{1,5})$"

clincus.register_settings(clincus.Setting("sessions.fair_cpu", True, clincus.check_switch))


def install(extensions: clincus.Extensions) -> None:
    """Add the looks."""
    fairness = Fairness(extensions.app)
    extensions.duties.append(clincus.Duty("sharing the CPU", PERIOD, fairness.look, each_engine=True))


def decide(shares: Sequence[float], limit: float, *, is_slowed: bool) -> str:
    """Tell what to do with a container: "slow", "restore" or "". Pure.

    `shares` are the cores that it used between the last looks, the newest last; it burns from `limit` cores on.
    """
    if is_slowed:
        calm = shares[-CALM_LOOKS:]
        return "restore" if len(calm) == CALM_LOOKS and max(calm) < limit / 2 else ""
    hot = shares[-HOT_LOOKS:]
    return "slow" if len(hot) == HOT_LOOKS and min(hot) >= limit else ""


def burning_limit(cores: int, sessions: int) -> float:
    """The use of cores from which on a container burns: half of an equal share for each session."""
    return max(LEAST, min(MOST, cores / (2 * sessions)))


class Answer(NamedTuple):
    """Incus's answer to a look."""

    at: float  # time.monotonic
    used: Mapping[str, float]  # seconds of CPU by session
    cores: int


class Sharing:
    """The containers of an engine."""

    def __init__(self, slowed: set[str]) -> None:
        self.slowed = slowed
        self.shares: dict[str, list[float]] = {}  # by session, see `decide`
        self.last: Answer | None = None

    def take(self, answer: Answer, runs: Mapping[str, str]) -> float:
        """Note an answer; returns the cores that all containers together used since the one before."""
        last = self.last
        self.last = answer
        shares: dict[str, list[float]] = {}
        for id in runs.keys() & answer.used.keys():
            if last is not None and id in last.used and answer.used[id] >= last.used[id]:
                share = (answer.used[id] - last.used[id]) / (answer.at - last.at)
                shares[id] = [*self.shares.get(id, []), share][-HOT_LOOKS:]
        self.shares = shares
        return sum(known[-1] for known in shares.values())

    def forget(self) -> None:
        """Forget what containers used."""
        self.shares = {}
        self.last = None


class Fairness:
    """Looks at the containers of each engine, and changes their weights."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._sharings: dict[str, Sharing] = {}  # by engine; each is used by the thread of its engine only

    def look(self, engine: str) -> None:
        """Slow containers that burn, and restore those that are calm. On a machine that is not busy, restore all."""
        if self._app.engines[engine].reach.error:
            return
        try:
            self._look(engine)
        except clincus.IncusError as error:
            clincus.log.debug("it is not known which containers burn CPU: %s", error)

    def _look(self, engine: str) -> None:
        sharing = self._sharings.get(engine)
        running = [one for one in self._app.registry.all() if (one.engine, one.status) == (engine, "running")]
        if sharing is None and len(running) < 2:
            return  # nobody to share with
        if sharing is None:
            sharing = Sharing(self._find_slowed(engine))
            self._sharings[engine] = sharing
        sharing.slowed &= {session.id for session in running}
        is_wanted = bool(self._app.config.get("sessions.fair_cpu"))
        is_busy = is_wanted and len(running) > 1 and (bool(engine) or has_load())
        limit = float("inf")
        if is_busy:
            answer = self._ask(engine)
            together = sharing.take(answer, {session.id: session.run for session in running})
            limit = burning_limit(answer.cores, len(running))
            is_busy = not engine or together >= BUSY * answer.cores
        if not is_busy and not engine:
            sharing.forget()
        for session in running:
            is_slowed = session.id in sharing.slowed
            verdict = decide(sharing.shares.get(session.id, []), limit, is_slowed=is_slowed)
            if not is_busy:
                verdict = "restore" if is_slowed else ""
            if verdict:
                self._change(session, sharing, slow=verdict == "slow")

    def _find_slowed(self, engine: str) -> set[str]:
        paths = self._app.engines[engine].incus.query(SLOWED_INSTANCES, timeout=clincus.READ_TIMEOUT) or []
        names = (str(path).partition("?")[0].rpartition("/")[2] for path in paths)
        return {clincus.session_id_on(engine, name) for name in names}

    def _ask(self, engine: str) -> Answer:
        door = self._app.engines[engine].incus
        text = door.query("/1.0/metrics", is_json=False, timeout=clincus.READ_TIMEOUT)
        used: dict[str, float] = {}
        for name, project, seconds in re.findall(USED, text, re.MULTILINE):
            if project == door.project:
                id = clincus.session_id_on(engine, name)
                used[id] = used.get(id, 0.0) + float(seconds)
        cores = max(map(int, re.findall(CORES, text, re.MULTILINE)), default=1)
        return Answer(time.monotonic(), used, cores if engine else os.cpu_count() or 1)

    def _change(self, session: clincus.Session, sharing: Sharing, *, slow: bool) -> None:
        """Slow or restore a container, unless somebody works on its session: the next look tries again."""
        with suppress(clincus.ClincusError), self._held(session) as is_held:
            if not is_held:
                return
            door = self._app.engines[session.engine].incus
            found = door.instance(session.id) or {}
            is_labelled = SLOWED in found.get("config", {})
            if slow and found.get("expanded_config", {}).get(ALLOWANCE) and not is_labelled:
                sharing.shares.pop(session.id, None)  # its owner has set a limit
                return
            words = (f"{ALLOWANCE}=10%", f"{SLOWED}=true") if slow else (f"{ALLOWANCE}=", f"{SLOWED}=")
            if slow or is_labelled:
                door.run("config", "set", door.place(session.id), *words, timeout=PATIENCE)
            if slow:
                sharing.slowed.add(session.id)
                told = "It has used much CPU for minutes on a busy machine, so others come first"
            else:
                sharing.slowed.discard(session.id)
                told = "It gets as much CPU as others again"
            clincus.call_each(self._app.extensions.happenings, session, told)

    @contextmanager
    def _held(self, session: clincus.Session) -> Iterator[bool]:
        """Hold a session and its labels if nobody else does; gives True then. Raises ClincusError(404)."""
        labels = self._app.engines[session.engine].label_lock
        has_labels = labels.acquire(blocking=False)
        try:
            with self._app.sessions.held(session.id, wait=False) as is_held:
                yield is_held and has_labels
        finally:
            if has_labels:
                labels.release()


def has_load() -> bool:
    """True if programs have wanted all cores of this machine for a minute."""
    return os.getloadavg()[0] >= (os.cpu_count() or 1)
