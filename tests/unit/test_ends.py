"""How long a container can hold up the end of its session, and an answer about it. By a clock of the test's own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import clone, uploads
from tests.programs import DEADLINE
from tests.table import table
from tests.unit.test_sessions import NAME, Door, add, deleted, reports

__all__ = ["reports"]  # a fixture


class SilentDoor(Door):
    """A door to a container in which each command hangs: it takes all its time, and fails."""

    exec = clincus.Incus.exec

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float] = []  # seconds
        self.on_run = self.obey

    def obey(self, words: tuple[str, ...]) -> None:
        if words[0] in ("stop", "start"):
            self.instances[NAME]["status"] = {"stop": "Stopped", "start": "Running"}[words[0]]

    @contextmanager
    def _begun(self, _: str, __: Any, timeout: float, **___: Any) -> Iterator[clincus.GuestCommand]:
        patience = clincus.PATIENCE.get()
        seconds = timeout if patience is None else patience.share(timeout)
        self.waits.append(seconds)
        self.clock.now += seconds
        raise clincus.IncusError("it did not finish", 504)
        yield


# A command that has ended with the code 1.
WHOLE = SimpleNamespace(complete=lambda *_: clincus.Completed(1, b"", b""), is_whole=True)


class BusyDoor(Door):
    """A door to a container in which the first command goes on until it is ended."""

    exec = clincus.Incus.exec
    open = clincus.Incus.open

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.said: list[tuple[str, int]] = []

    def end(self, reason: str, status: int) -> None:
        self.said.append((reason, status))
        self.ended.set()

    @contextmanager
    def _begun(self, *_: Any, **__: Any) -> Iterator[clincus.GuestCommand]:
        if not self.begun.is_set():
            clincus.PATIENCE.get().add(self)
            self.begun.set()
            assert self.ended.wait(DEADLINE)
        raise clincus.IncusError("it was ended", 409)
        yield


class Clock:
    """Stands for the module `time` of the core."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return self.now


def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clincus, "time", made)
    return made


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return set_clock(monkeypatch)


@pytest.fixture
def door(clock) -> SilentDoor:
    return SilentDoor(clock)


@pytest.fixture
def sessions(door, reports, tmp_path) -> clincus.Sessions:
    return make_sessions(door, reports, tmp_path)


def make_sessions(door: Door, reports: list[str], tmp_path: Path) -> clincus.Sessions:
    environ = {"HOME": str(tmp_path)}
    registry = clincus.Registry("clincus-", lambda change: None)
    made = clincus.Sessions(door, registry, lambda: clincus.load_config(environ), environ, report=reports.append)
    made.extensions.keepers += [clone.KEEPER, uploads.KEEPER]
    return made


def add_clone(sessions: clincus.Sessions, door: Door) -> clincus.Session:
    session = add(sessions, mode="clone")
    door.instances[NAME]["config"][f"{clincus.LABEL}clone"] = "{}"
    return session


@table(
    "how",
    [{}, {"delete": True, "even_unsaved": True}],
)
def test_a_silent_container_costs_the_end_of_its_session_its_patience_once(tmp_path, monkeypatch, how):
    door = SilentDoor(set_clock(monkeypatch))
    sessions = make_sessions(door, [], tmp_path)
    add_clone(sessions, door)
    door.instances[NAME]["config"][f"{clincus.LABEL}outside"] = json.dumps({"count": 1, "paths": ["/etc/hosts"]})
    sessions.look(NAME)
    sessions.extensions.listeners.append(lambda *_: door.exec(NAME, ["true"], timeout=600))
    with suppress(clincus.UnsavedError):
        sessions.end(NAME, **how)
    assert sum(door.waits) <= clincus.END_PATIENCE
    assert len(door.waits) > 1, "one silent step is no proof: a later one may be answered"
    assert (deleted(door) == [NAME]) == ("even_unsaved" in how)


def answer(door: SilentDoor) -> float:
    """Ask the container something for an answer of the API; the seconds that all its commands took."""
    before = len(door.waits)
    with clincus.answering():
        for _ in range(5):
            with suppress(clincus.IncusError):
                door.exec(NAME, ["true"], timeout=600)
    return sum(door.waits[before:])


def test_only_the_first_answer_about_a_silent_container_waits_long(sessions, door, monkeypatch):
    session = add(sessions)
    assert not sessions.is_silent(session.id)
    assert answer(door) > 10
    assert sessions.is_silent(session.id)
    assert [answer(door) for _ in range(3)] == [clincus.ANSWER_OF_SILENT] * 3
    before = len(door.waits)
    with suppress(clincus.IncusError), clincus.patient(clincus.END_PATIENCE, clincus.END_WITHIN):
        door.exec(NAME, ["true"], timeout=600)
    assert door.waits[before:] == [clincus.END_PATIENCE / 2], "an end waits as long as before"
    monkeypatch.setattr(door, "_begun", lambda *_, **__: nullcontext(WHOLE))
    assert door.exec(NAME, ["true"], timeout=600).code == 1
    assert not sessions.is_silent(session.id), "a command that fails has answered"


def test_an_answer_waits_no_longer_for_an_incus_that_has_much_to_do(clock, monkeypatch):
    """Each question had its own 30 seconds: the look at a clone on a busy engine took 67."""
    given: list[float] = []

    class Child(clincus.IncusChild):
        def __init__(self, argv: list[str], *, timeout: float, **options: Any) -> None:
            given.append(timeout)
            clock.now += min(timeout, 16)
            super().__init__(["echo", "{}"], **options)

    monkeypatch.setattr(clincus, "IncusChild", Child)
    incus = clincus.Incus()
    with clincus.patient(clincus.ANSWER_PATIENCE, clincus.ANSWER_PATIENCE, within=clincus.ANSWER_WITHIN):
        for _ in range(2):
            incus.query("/1.0/instances")
        with pytest.raises(clincus.IncusError, match="Incus is busy") as late:
            incus.query("/1.0/instances")
    assert late.value.status == 504
    assert given == [clincus.ANSWER_WITHIN, clincus.ANSWER_WITHIN - 16]


@table(
    ("steps", "share"),
    [
        ([("silent", 50), ("answers", 25)], 25),
        ([("earns", 50)], 50),
        ([("answers", 50)] * 5, 30),  # the end of all that it gets
    ],
)
def test_time_is_counted_for_what_does_not_answer_and_a_command_gets_half_of_the_rest(monkeypatch, steps, share):
    clock = set_clock(monkeypatch)
    patience = clincus.Patience(100, 280)
    for what, seconds in steps:
        with suppress(clincus.IncusError), patience.waiting():
            clock.now += seconds
            if what == "earns":
                patience.earn(seconds)
            if what != "answers":
                raise clincus.IncusError("it did not finish", 504)
        clock.now += 1000  # with no command, as while Incus stops the container
    assert patience.share(600) == share


def fetch(sessions: clincus.Sessions) -> None:
    with clone.clone_of(sessions, NAME) as session:
        sessions.output(session, "clone-out", timeout=600)


def unpack(sessions: clincus.Sessions, begun: threading.Event) -> None:
    """As git of this host does: a container may send a few bytes of a pack that unfold to many gigabytes."""
    with sessions.held(NAME), sessions.in_progress.until_end(NAME):
        begun.set()
        clincus.run_child(["sleep", "1000"], timeout=1000)


@table("work", ["a fetch", "git"])
def test_an_end_calls_off_what_reads_the_container_instead_of_waiting_for_it(tmp_path, work):
    door = BusyDoor()
    sessions = make_sessions(door, [], tmp_path)
    add(sessions, mode="clone")
    failures: list[clincus.ClincusError] = []

    def read() -> None:
        try:
            if work == "a fetch":
                fetch(sessions)
            else:
                unpack(sessions, door.begun)
        except clincus.ClincusError as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert door.begun.wait(DEADLINE)
    sessions.end(NAME)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert [words[0] for words in door.calls] == ["stop"]
    if work == "git":
        assert [(one.message, one.status) for one in failures] == [(clincus.CALLED_OFF, 409)]
    else:
        assert door.said == [(clincus.CALLED_OFF, 409)]
