"""Which containers count as asleep: by the CPU that they have used, as Incus tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import clincus
from clincus_features import sleepers

NAME = "clincus-0a1b2c-1"
COST = 0.05  # seconds of CPU that the work of these tests may take


def metrics(used: Mapping[str, float], project: str = "default") -> str:
    """What Incus 6.0.4 answers, half of the CPU for each of two cores."""
    lines = ["# TYPE incus_cpu_seconds_total counter"]
    for name, seconds in used.items():
        for core in "01":
            labels = f'cpu="{core}",mode="user",name="{name}",project="{project}",type="container"'
            lines.append(f"incus_cpu_seconds_total{{{labels}}} {seconds / 2}")
        lines.append(f'incus_memory_Active_bytes{{name="{name}",project="{project}",type="container"}} 5')
    return "\n".join([*lines, "# EOF", ""])


class App:
    """As much of the application as the question needs; it is registry, engine and the door to Incus as well."""

    def __init__(self) -> None:
        self.registry = self.incus = self
        self.engines = {"": self}
        self.project = "default"
        self.used = {NAME: 1.0}  # seconds of CPU, by container
        self.run = "first"
        self.asked = 0
        self.failure: clincus.IncusError | None = None

    def all(self) -> list[clincus.Session]:
        same = {"workspace": "/w", "tool": "claude", "slot": 1, "status": "running", "persistent": False}
        return [clincus.Session(name, run=self.run, **same) for name in self.used]

    def query(self, path: str, **options: Any) -> str:
        assert path == "/1.0/metrics"
        self.asked += 1
        if self.failure:
            raise self.failure
        return metrics(self.used)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(sleepers.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def asleep(app, clock):
    """Whether the container has slept since a time, asked after so many seconds."""
    made = sleepers.Sleepers(app)

    def ask(since: float, seconds: float = 200.0) -> bool:
        clock[0] += seconds
        return made.asleep("", {NAME: since}, COST) == {NAME}

    return ask


def test_a_container_has_slept_since_the_first_answer_that_told_the_same(asleep, app, clock):
    assert not asleep(clock[0]), "nothing was known"
    first = clock[0]
    assert asleep(first)
    assert not asleep(first - 1), "nobody knows what it did before"
    assert asleep(first)


def test_work_of_ours_counts_as_sleep_and_what_else_runs_does_not(asleep, app, clock):
    asleep(0)
    for more, slept in ((0.0, True), (COST, True), (COST + 0.1, False), (-0.5, False)):
        app.used[NAME] += more
        assert asleep(clock[0]) == slept


def test_what_runs_once_the_work_is_over_is_no_work_of_ours(asleep, app, clock):
    asleep(0)
    begun = clock[0]
    assert asleep(begun, sleepers.SETTLED + 1), "it has not begun yet"
    app.used[NAME] += COST
    assert asleep(begun, sleepers.SETTLED + 1)
    app.used[NAME] += COST
    assert not asleep(begun)


def test_who_does_not_answer_or_runs_anew_is_awake(asleep, app, clock):
    asleep(0)
    begun = clock[0]
    app.failure = clincus.IncusError("not allowed")
    assert not asleep(begun)
    app.failure = None
    assert not asleep(begun), "nor is known what was before"
    begun, app.run = clock[0], "second"
    assert not asleep(begun)


def test_an_answer_holds_for_a_while_and_is_not_asked_for_where_it_costs_more_than_the_work(asleep, app):
    asleep(0)
    asleep(0, sleepers.HELD - 1)
    assert app.asked == 1
    asleep(0, 2)
    assert app.asked == 2
    app.used |= {f"clincus-0a1b2c-{number}": 1.0 for number in range(2, 12)}
    asleep(0)
    assert app.asked == 2


def test_a_container_of_another_project_is_no_session():
    assert sleepers.cpu_seconds(metrics({NAME: 3.0}) + metrics({NAME: 9.0}, "other"), "default") == {NAME: 3.0}
