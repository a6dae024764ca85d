"""When the server looks at a tool, and what it tells of it; the container is stood in for."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_features import agents
from clincus_features.agents import reading
from clincus_features.agents.reading import Known
from clincus_features.agents.records import Record, Records
from clincus_features.agents.state import Agent, Facts, Held, Past, Said, Seen
from tests.builders import a_session
from tests.programs import DEADLINE, wait_until
from tests.table import table

NOON = 1_700_000_000.0
STARTED = "2023-11-14T21:13:20Z"  # an hour before noon
SESSION = a_session(session_id="s", run=STARTED)


class App:
    """As much of the application as the watch uses."""

    def __init__(self, home: Path) -> None:
        self.environ = {"HOME": str(home)}
        self.registry = self.hub = self.sessions = self
        self.extensions = clincus.Extensions()
        self.told: list[dict[str, Any]] = []

    def get(self, id: str) -> clincus.Session:
        return SESSION._replace(id=id)

    def all(self) -> list[clincus.Session]:
        return []

    def publish(self, event, extension: bool) -> None:
        assert extension
        self.told.append(event["agent"])


class Container:
    """What a look finds, and how often somebody looked."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.looks: list[bool] = []  # whether what is written next was to ring

    def say(self, said: Said, **more) -> None:
        fields: dict[str, Any] = {"tool": "claude", "started": NOON - 3600, "now": NOON, "moved": NOON - 4, **more}
        self.facts = Facts(said=said, **fields)

    def look(self, sessions, session, known: Known, *, arm: bool = False) -> Known:
        self.looks.append(arm)
        return Known(self.facts, is_armed=arm)


@pytest.fixture
def container(monkeypatch) -> Container:
    return stand_in(monkeypatch)


def stand_in(monkeypatch) -> Container:
    """A container that the watch looks at."""
    made = Container()
    monkeypatch.setattr(agents, "look", made.look)
    return made


def stand_still(monkeypatch) -> None:
    """The clock of what is due stands still, as a busy machine does, or its disk, between two lines of a test."""
    monkeypatch.setattr(agents.time, "monotonic", lambda: 1000.0)


@pytest.fixture
def app(tmp_path) -> App:
    return App(tmp_path)


@pytest.fixture
def watch(app, container) -> agents.Watch:
    return agents.Watch(app)


@pytest.fixture
def still(monkeypatch) -> None:
    stand_still(monkeypatch)


def said(state: str, reason: str = "", ago: float = 10.0) -> Said:
    return Said(state, reason, since=NOON - ago, at=NOON - ago, event="Stop")


def next_look(watch: agents.Watch) -> float | None:
    """Seconds until the next look, None if there is none to come."""
    due = watch._due.get(SESSION.id)
    return None if due is None else round(due - agents.time.monotonic(), 1)


REST = {
    "done": (said("done"), {}, None),
    "ended": (said("working"), {"exit_code": 0}, None),
    "unknown": (said(""), {"tool": "shell"}, None),
    "working": (said("working"), {}, agents.SLOW_LOOK),
    "starting": (said(""), {"started": NOON - 5}, agents.SLOW_LOOK),
    "a hook of just now": (said("done", ago=1.5), {}, 0.7),
    "a container that cannot ring": (said("idle"), {"can_ring": False}, agents.SLOW_LOOK),
}


@table(("words", "more", "expected"), REST.values(), ids=REST.keys())
def test_nothing_is_asked_of_a_tool_at_rest_that_is_to_ring(tmp_path, monkeypatch, words, more, expected):
    stand_still(monkeypatch)
    container, watch = stand_in(monkeypatch), agents.Watch(App(tmp_path))
    container.say(words, **more)
    watch.tell("started", SESSION)
    watch.work("")
    if expected is None:
        watch.tell("ring", SESSION)
        watch.work("")
    assert next_look(watch) == (None if expected is None else pytest.approx(expected))


BOX = ("─" * 40, "❯", "─" * 40, "  ⏵⏵ bypass permissions on")
RESTING = {
    "no hook has told anything": (Said(), ("❯ old", "● old", *BOX)),
    "it was interrupted": (said("working"), ("⎿ Interrupted · What should Claude do instead?", *BOX)),
}


@table(("words", "lines"), RESTING.values(), ids=RESTING.keys())
def test_a_tool_at_rest_rings_when_it_writes(tmp_path, monkeypatch, words, lines):
    """No hook tells of a dialog that a person opens then."""
    stand_still(monkeypatch)
    container, watch = stand_in(monkeypatch), agents.Watch(App(tmp_path))
    container.say(words, lines=lines, has_screen=True)
    watch.tell("started", SESSION)
    watch.work("")
    assert next_look(watch) == pytest.approx(agents.AGAIN, abs=0.11), "a short turn would be missed until it rings"
    watch.tell("ring", SESSION)
    watch.work("")
    assert (container.looks, next_look(watch)) == ([False, True], None)


@pytest.mark.usefixtures("still")
def test_a_tool_that_starts_without_a_word_is_looked_at_less_and_less(watch, container, monkeypatch):
    now = [NOON]
    monkeypatch.setattr(agents.time, "time", lambda: now[0])
    watch.tell("started", SESSION)
    pauses = []
    for _ in range(7):
        container.say(Said(), started=NOON, now=now[0], moved=NOON)
        watch.work("")
        pauses.append(next_look(watch) or 0.0)
        now[0] += pauses[-1]
        watch._due[SESSION.id] = 0.0
    assert pauses == pytest.approx([3.5, 3.5, 7, 14, 28, 56, 9], abs=0.6)
    assert container.looks == [False] * 2 + [True] * 5
    now[0] = container.facts.now + 1
    watch.tell("ring", SESSION)
    watch.work("")
    assert container.looks[-1] is False, "it may write all the time"
    assert next_look(watch) == pytest.approx(agents.SLOW_LOOK)


@pytest.mark.usefixtures("still")
def test_a_prompt_that_nothing_proves_is_work_until_the_next_look(watch, container, app):
    shown: dict[str, Any] = {"tool": "gemini", "has_screen": True, "lines": ("─" * 40, " >  Type your message", " /w")}
    container.say(Said(), **shown)
    watch.tell("started", SESSION)
    watch.work("")
    watch.typed(SESSION)
    assert (app.told[-1]["state"], app.told[-1]["source"]) == ("working", "person")
    assert next_look(watch) == pytest.approx(agents.DRAWING)
    for after, state in ((1, "working"), (9, "done")):  # a busy host may show the begin of the work late
        container.say(Said(), **shown, now=watch.decision(SESSION).agent.since + after)
        watch.tell("ring", SESSION)
        watch.work("")
        assert app.told[-1]["state"] == state


def test_each_change_is_told_once(watch, container, app):
    container.say(said("idle"))
    watch.tell("started", SESSION)
    for words in (said("idle"), said("working"), said("working"), said("done")):
        container.say(words)
        watch.tell("ring", SESSION)
        watch.work("")
    watch.tell("stopped", SESSION)
    assert [agent["state"] for agent in app.told] == ["starting", "idle", "working", "done", "none"]


@pytest.mark.usefixtures("still")
def test_a_look_that_fails_or_of_which_nothing_can_be_made_is_taken_again(watch, container, monkeypatch):
    def fail(*arguments: object, **options: object) -> Known:
        raise failures.pop()

    failures = [ValueError("a fault of ours"), clincus.ClincusError("Incus is gone")]
    watch.tell("started", SESSION)
    with monkeypatch.context() as patch:
        patch.setattr(agents, "look", fail)
        watch.work("")
    assert next_look(watch) == pytest.approx(agents.FAILED_LOOK)
    watch.tell("ring", SESSION)
    monkeypatch.setattr(agents, "decide", fail)
    with pytest.raises(ValueError, match="a fault of ours"):
        watch.work("")
    assert next_look(watch) == pytest.approx(agents.FAILED_LOOK)


@pytest.mark.usefixtures("still")
def test_an_engine_that_is_reached_again_is_looked_at(watch, container):
    """What rang meanwhile was not heard."""
    container.say(said("idle"))
    watch.tell("started", SESSION)
    watch.work("")
    watch._due.clear()
    watch.tell("changed", SESSION._replace(unreachable_since=STARTED))
    assert next_look(watch) is None
    watch.tell("changed", SESSION)
    assert next_look(watch) == pytest.approx(0.0)


def test_a_ring_while_somebody_looks_is_not_lost(watch, container, monkeypatch):
    container.say(said("idle"))
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: object, **options: object) -> Known:
        begun.set()
        assert go_on.wait(DEADLINE)
        return container.look(*arguments, **options)

    monkeypatch.setattr(agents, "look", slow)
    watch.tell("started", SESSION)
    thread = threading.Thread(target=watch.work, args=("",))
    thread.start()
    assert begun.wait(DEADLINE)
    watch.tell("ring", SESSION)
    go_on.set()
    thread.join(DEADLINE)
    watch.work("")
    assert len(container.looks) == 2


def test_containers_that_hang_keep_no_other_waiting(watch, container, monkeypatch):
    hanging, honest = [f"clincus-a1b2c3-{number}" for number in (1, 2, 3)], "clincus-a1b2c3-4"
    go_on, looked = threading.Event(), []

    def look(sessions, session, known: Known, *, arm: bool = False) -> Known:
        assert session.id == honest or go_on.wait(DEADLINE)
        looked.append(session.id)
        return container.look(sessions, session, known)

    container.say(said("idle"))
    watch._slow |= {*hanging}  # the first look at these three took long
    monkeypatch.setattr(agents, "look", look)
    for id in hanging:
        watch.tell("started", SESSION._replace(id=id))
    workers = [threading.Thread(target=watch.work, args=("",)) for _ in range(agents.SLOW_LOOKERS)]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(watch._looking) == agents.SLOW_LOOKERS, "those that hang")
    watch.tell("started", SESSION._replace(id=honest))
    watch.work("")
    assert looked == [honest]
    go_on.set()
    for worker in workers:
        worker.join(DEADLINE)
    while not {*hanging} <= {*looked}:  # the third one's turn comes
        watch.work("")


ASKING = Agent("waiting", "question", "Which?", ("Red", "Green"), 5.0, turn=3, question=2)
PAST = Past(ASKING, NOON - 3600, seen=Seen(2, 1, 3, 4.0), interrupted=Held(2, 3.0), held=Held(3, 4.0))


def test_a_record_is_read_as_it_was_written_by_the_same_session_and_run(tmp_path):
    written, records = (Records(lambda: str(tmp_path / "agents")) for _ in range(2))
    known = Known(reading.first_facts(SESSION), inode=7, offset=9, skew=2.5)
    known.facts = replace(known.facts, said=Said("waiting", options=("Red",), turn=3))
    written.write(SESSION, Record(known, PAST))
    read = records.read(SESSION)
    assert (read.past, read.known.inode, read.known.offset, read.known.skew) == (PAST, 7, 9, 2.5)
    assert read.known.facts.said == known.facts.said
    other_run = records.read(SESSION._replace(run="2026-01-01T00:00:00Z"))
    assert (other_run.past, other_run.known.inode, other_run.known.offset) == (PAST, 0, 0)
    assert records.read(SESSION._replace(session_id="another")).past == Past()
    assert reading.first_facts(SESSION._replace(run="")).started == 0.0


def test_a_torn_record_is_none(tmp_path):
    for text in ("", '{"session_id": "s"}', '{"session_id": "s", "agent": 3, "past": {}}'):
        (tmp_path / f"{SESSION.id}.json").write_text(text)
        assert Records(lambda: str(tmp_path)).read(SESSION).past == Past()
