"""An Incus that hangs, without Incus: a door behind which every command sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import clincus
from clincus_features import silence

REASON = "Incus does not answer: check the incus service"


class SleepingDoor(clincus.Incus):
    """A door whose commands never end, but that of the easy question if it `answers`."""

    answers = False

    def _as_member(self, command: list[str]) -> list[str]:
        super()._as_member(command)
        is_easy = command[-1].startswith("/1.0?") and self.answers
        return ["echo", "{}"] if is_easy else ["sleep", "60"]


class Waiting:
    """A call of the door that waits in a thread."""

    def __init__(self, door: clincus.Incus, call: Callable[[], object]) -> None:
        self.failure: clincus.ClincusError | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()
        while not door.waiting and self._thread.is_alive():
            self._thread.join(0.01)

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except clincus.ClincusError as error:
            self.failure = error

    def end(self) -> tuple[str, int]:
        """Why it ended."""
        self._thread.join(10)
        assert self.failure is not None
        return self.failure.message, self.failure.status


@pytest.fixture
def door() -> SleepingDoor:
    return SleepingDoor()


@pytest.fixture
def app(door, tmp_path, monkeypatch):
    monkeypatch.setattr(silence, "PATIENCE", 0.2)
    monkeypatch.setattr(silence, "SHORT", 0.0)
    monkeypatch.setattr(silence, "SLEEP", 0.0)
    monkeypatch.setattr(silence, "WATCHED", 0.0)
    environ = {"HOME": str(tmp_path)}
    registry = clincus.Registry("clincus-", lambda change: None)
    sessions = clincus.Sessions(door, registry, lambda: clincus.load_config(environ), environ)
    monitor = clincus.Monitor(sessions, clincus.History(str(tmp_path / "history.jsonl")), lambda engine, error: None)
    return SimpleNamespace(monitors={"": monitor}, sessions=sessions, hub=SimpleNamespace(subscribers={}))


CALLS: dict[str, Callable[[clincus.Incus], object]] = {
    "a question": lambda door: door.query("/1.0/instances"),
    "a launch": lambda door: door.launch("clincus-0a1b2c-1", "clincus", {}),
    "a command in a container": lambda door: door.exec("clincus-0a1b2c-1", ["true"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_who_waits_for_an_incus_that_hangs_is_told(app, door, call):
    waiting = Waiting(door, lambda: call(door))
    silence.look_who_waits(app, "")
    assert waiting.end() == (REASON, 503)
    with pytest.raises(clincus.IncusError, match=REASON):  # nobody else begins to wait
        call(door)


def test_who_waits_for_an_incus_that_answers_waits_on(app, door):
    door.answers = True
    waiting = Waiting(door, lambda: door.query("/1.0/instances"))
    silence.look_who_waits(app, "")
    assert (app.monitors[""].error, len(door.waiting)) == ("", 1)
    silence.give_up(door.waiting, "the test is over")
    waiting.end()


def test_who_has_just_begun_to_wait_is_not_asked_about(app, door, monkeypatch):
    monkeypatch.setattr(silence, "SHORT", 60.0)
    waiting = Waiting(door, lambda: door.query("/1.0/instances"))
    silence.look_who_waits(app, "")
    assert app.monitors[""].error == ""
    silence.give_up(door.waiting, "the test is over")
    waiting.end()


def test_nobody_is_asked_while_nobody_waits(app):
    silence.look_who_waits(app, "")
    assert app.monitors[""].error == ""


def test_for_an_open_page_it_is_asked_while_nobody_waits(app, door):
    app.hub.subscribers = {7: "a page"}
    door.answers = True
    silence.look_who_waits(app, "")
    assert app.monitors[""].error == ""
    door.answers = False
    silence.look_who_waits(app, "")
    assert app.monitors[""].error == REASON


def test_what_has_just_begun_tells_as_much_as_the_question(app, door):
    app.hub.subscribers = {7: "a page"}
    door.has_begun.set()
    silence.look_who_waits(app, "")
    assert app.monitors[""].error == ""


def test_a_page_that_opens_wakes_who_looks(app, door):
    opened, other = [], object()
    assert silence.wake_for_page(app, "GET", "/api/sessions", other) is other
    silence.wake_for_page(app, "GET", "/ws/events", opened.append)("the request")
    assert (opened, door.has_begun.is_set()) == (["the request"], True)
