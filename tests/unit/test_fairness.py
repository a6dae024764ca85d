"""Which containers are slowed on a busy machine, and when they get as much CPU as others again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import fairness
from tests.table import table

BURNER = "clincus-0a1b2c-1"
OTHER = "clincus-0a1b2c-2"


@table(
    ("shares", "is_slowed", "verdict"),
    [
        ([0.3, 0.3, 0.3, 0.3], False, "slow"),
        ([0.3, 0.3, 0.3], False, ""),  # it has not been seen for long enough
        ([0.3, 0.1, 0.3, 0.3], False, ""),
        ([0.3, 0.3, 0.3, 0.3], True, ""),
        ([0.3, 0.0, 0.0], True, "restore"),
        ([0.0, 0.15], True, ""),  # slowed, it gets less
    ],
)
def test_the_last_looks_decide(shares, is_slowed, verdict):
    assert fairness.decide(shares, 0.2, is_slowed=is_slowed) == verdict


@table(("cores", "sessions", "limit"), [(2, 10, 0.1), (64, 2, fairness.MOST), (2, 200, fairness.LEAST), (1, 2, 0.25)])
def test_a_container_burns_by_its_part_of_the_machine(cores, sessions, limit):
    assert fairness.burning_limit(cores, sessions) == limit


class App:
    """As much of the application as the looks need; it is registry, sessions, engine and the door to Incus as well."""

    def __init__(self, engine: str = "") -> None:
        self.registry = self.sessions = self.incus = self.extensions = self
        self.engine = engine
        self.engines = {engine: self}
        self.reach = SimpleNamespace(error="")
        self.project = "default"
        self.config = {"sessions.fair_cpu": True}
        self.label_lock = threading.Lock()
        self.worked_on: set[str] = set()
        self.used = {BURNER: 0.0, OTHER: 0.0}
        self.instances: dict[str, dict[str, str]] = {BURNER: {}, OTHER: {}}
        self.profile: dict[str, str] = {}
        self.asked: list[str] = []
        self.happenings = [lambda session, words: self.told.append(words)]
        self.told: list[str] = []

    def all(self) -> list[clincus.Session]:
        same = {"workspace": "/w", "tool": "claude", "slot": 1, "status": "running", "persistent": False}
        return [
            clincus.Session(clincus.session_id_on(self.engine, name), engine=self.engine, **same) for name in self.used
        ]

    @contextmanager
    def held(self, id: str, *, wait: bool) -> Iterator[bool]:
        assert not wait
        yield id not in self.worked_on

    def query(self, path: str, **options: Any) -> object:
        self.asked.append(path)
        if path == fairness.SLOWED_INSTANCES:
            return [f"/1.0/instances/{name}" for name, config in self.instances.items() if fairness.SLOWED in config]
        assert path == "/1.0/metrics"
        lines = []
        for name, seconds in self.used.items():
            labels = f'name="{name}",project="default",type="container"'
            lines.append(f'incus_cpu_seconds_total{{cpu="0",mode="user",{labels}}} {seconds}')
            lines.append(f"incus_cpu_effective_total{{{labels}}} 2")
        return "\n".join(lines)

    def instance(self, id: str) -> dict[str, Any]:
        config = self.instances[clincus.instance_name(id)]
        return {"config": config, "expanded_config": {**self.profile, **config}}

    def place(self, id: str) -> str:
        return clincus.instance_name(id)

    def run(self, *words: str, timeout: float) -> None:
        assert words[:2] == ("config", "set")
        pairs = dict(word.split("=", 1) for word in words[3:])
        kept = {**self.instances[words[2]], **pairs}
        self.instances[words[2]] = {key: value for key, value in kept.items() if value}

    @property
    def slowed(self) -> list[str]:
        return [name for name, config in self.instances.items() if config.get(fairness.ALLOWANCE) == "10%"]


@pytest.fixture
def machine(monkeypatch):
    """This machine: whether it has much to do, and a clock."""
    made = SimpleNamespace(is_busy=True, now=1000.0)
    monkeypatch.setattr(fairness, "has_load", lambda: made.is_busy)
    monkeypatch.setattr(fairness.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(fairness, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


class Looker:
    """Looks every 30 seconds."""

    def __init__(self, app: App, machine: Any) -> None:
        self.app = app
        self.machine = machine
        self.fairness = fairness.Fairness(app)  # type: ignore[arg-type]

    def look(self, times: int = 1, share: float = 1.9) -> None:
        for _ in range(times):
            self.machine.now += fairness.PERIOD
            self.app.used[BURNER] += share * fairness.PERIOD
            self.fairness.look(self.app.engine)


@pytest.fixture
def here(machine):
    return Looker(App(), machine)


def test_a_container_that_burns_for_minutes_is_slowed_and_restored_when_it_is_calm(machine):
    for engine in ("", "tower"):
        looker = Looker(App(engine), machine)
        looker.look(4)
        assert looker.app.slowed == []
        looker.look()
        assert looker.app.slowed == [BURNER]
        looker.look(2, share=0.0)
        assert looker.app.instances[BURNER] == {}
        assert [words.split(",")[0] for words in looker.app.told] == [
            "It has used much CPU for minutes on a busy machine",
            "It gets as much CPU as others again",
        ]


def test_nobody_is_slowed_who_is_alone_or_on_an_engine_that_is_not_busy(here, machine):
    del here.app.used[OTHER]
    here.look(9)
    assert (here.app.slowed, here.app.asked) == ([], [])
    there = Looker(App("tower"), machine)
    there.look(9, share=1.0)
    assert there.app.slowed == []


def test_a_machine_that_is_not_busy_is_asked_nothing_and_slows_nobody(here):
    here.look(5)
    here.machine.is_busy = False
    here.app.asked.clear()
    here.look(9)
    assert (here.app.slowed, here.app.asked) == ([], [])


def test_the_next_server_finds_who_is_slowed(machine):
    for is_wanted in (True, False):
        here = Looker(App(), machine)
        here.app.instances[BURNER] = {fairness.ALLOWANCE: "10%", fairness.SLOWED: "true"}
        here.app.config["sessions.fair_cpu"] = is_wanted
        here.look()
        assert here.app.slowed == ([BURNER] if is_wanted else [])


def test_a_session_that_is_worked_on_is_left_for_later(here):
    here.app.worked_on.add(BURNER)
    here.look(5)
    here.app.worked_on.clear()
    with here.app.label_lock:  # its labels are changed
        here.look()
    assert here.app.slowed == []
    here.look()
    assert here.app.slowed == [BURNER]


def test_a_limit_of_a_person_stays(here):
    here.app.profile[fairness.ALLOWANCE] = "20ms/100ms"
    here.look(9)
    assert here.app.instances[BURNER] == {}
