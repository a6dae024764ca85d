"""An Incus that hangs, without Incus: a door behind which every command sleeps."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import silence
from tests.programs import DEADLINE

NAME = "clincus-0a1b2c-1"
QUICK = "/1.0/quick"  # is answered at once
REASON = "Incus does not answer: check the incus service"


class SleepingDoor(clincus.Incus):
    """A door whose commands never end, but that of the easy question by which it `answers` or is `leaving`."""

    answers = False
    leaving = False
    on_easy_question: Callable[[], object] = staticmethod(lambda: None)  # before it sleeps

    def query(self, path: str, *, timeout: float = DEADLINE, **options: Any) -> Any:
        """The patience of the looks is for commands that never end. On a busy machine `echo` may take as long."""
        is_over = self.answers or self.leaving
        return super().query(path, timeout=DEADLINE if is_over else timeout, **options)

    def _as_member(self, command: list[str]) -> list[str]:
        super()._as_member(command)
        if command[-1].startswith(QUICK):
            return ["echo", "{}"]
        if not command[-1].startswith("/internal/ready?"):
            return ["sleep", "60"]
        self.on_easy_question()
        refusal = ["sh", "-c", "echo 'Error: Daemon is shutting down' >&2; exit 1"]
        return ["echo", "{}"] if self.answers else refusal if self.leaving else ["sleep", "60"]


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
        self._thread.join(DEADLINE)
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
    sockets, hub = clincus.OpenSockets(), SimpleNamespace(subscribers={})
    return SimpleNamespace(engines=sessions.engines, sessions=sessions, registry=registry, sockets=sockets, hub=hub)


@pytest.fixture
def look(app):
    """A look at who waits for the Incus of this host."""
    return functools.partial(silence.Looks(app).look, "")


def test_who_waits_for_an_incus_that_hangs_is_told(door, look):
    waiting = [Waiting(door, lambda: door.query("/1.0/instances")), Waiting(door, lambda: door.exec(NAME, ["true"]))]
    look()
    assert [one.end() for one in waiting] == [(REASON, 503)] * 2
    with pytest.raises(clincus.IncusError, match=REASON):  # nobody else begins to wait
        door.query("/1.0/instances")


def test_who_waits_for_an_incus_that_answers_waits_on(app, door, look):
    door.answers = True
    waiting = Waiting(door, lambda: door.query("/1.0/instances"))
    look()
    assert (app.engines[""].reach.error, len(door.waiting)) == ("", 1)
    silence.give_up(door.waiting, "the test is over")
    waiting.end()


def test_an_incus_that_answers_others_meanwhile_has_much_to_do_and_is_not_lost(app, door, look):
    """On a busy machine an engine was lost for an easy question that came late, and stops were refused."""
    waiting = Waiting(door, lambda: door.query("/1.0/instances"))
    for answers in (
        lambda: door.query(QUICK),
        lambda: door.fresh_door().query(QUICK),  # a look of the monitor
        door.signs.note,  # an event
    ):
        door.on_easy_question = answers
        look()
        assert app.engines[""].reach.error == ""
    silence.give_up(door.waiting, "the test is over")
    waiting.end()


def test_an_incus_that_hangs_since_its_last_answer_is_lost_at_once(app, door, look):
    answers = iter([True])
    door.on_easy_question = lambda: next(answers, False) and door.query(QUICK)
    waiting = Waiting(door, lambda: door.query("/1.0/instances"))
    look()
    assert waiting.end() == (REASON, 503)


def test_for_an_open_page_it_is_asked_while_nobody_waits(app, door, look, monkeypatch):
    look()
    assert app.engines[""].reach.error == "", "nobody waits, and nobody is asked"
    app.hub.subscribers = {7: "a page"}
    door.has_begun.set()
    look()
    assert app.engines[""].reach.error == "", "what has just begun tells as much as the question"
    monkeypatch.setattr(silence, "ASKED", 0.0)
    door.has_begun.set()
    look()
    assert app.engines[""].reach.error == REASON, "but it is asked now and then beside other commands"


def test_an_incus_that_goes_gets_no_new_commands_and_who_works_with_it_comes_to_an_end(app, door, look):
    door.leaving = True
    waiting = Waiting(door, lambda: door.query("/1.0/instances"))
    look()
    look()
    assert len(door.waiting) == 1
    with pytest.raises(clincus.IncusError, match="Incus is shutting down"):
        door.query("/1.0/instances")
    silence.give_up(door.waiting, "the test is over")
    assert waiting.end() == ("the test is over", 503)


def test_what_fails_in_an_incus_that_goes_says_so(app, door):
    def told(status: int, **values: str) -> tuple[str, int]:
        def fail(request: object) -> None:
            raise clincus.ClincusError("context canceled", status)

        with pytest.raises(clincus.ClincusError) as raised:
            silence.Looks(app).explain("GET", "/", fail)(SimpleNamespace(values=values))
        return raised.value.message, raised.value.status

    door.answers = True
    assert told(500, id=NAME) == ("context canceled", 500), "it stays"
    door.answers, door.leaving = False, True
    assert told(500, id=NAME) == ("Incus is shutting down.", 503)
    assert told(500, id=f"far:{NAME}") == told(500, engine="far") == ("context canceled", 500)
    assert told(404, id=NAME) == ("context canceled", 404), "by no fault of Incus"


def test_everybody_has_an_answer_within_ten_seconds(door, monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr(clincus.Incus, "query", lambda *_, timeout, **__: asked.append(timeout))
    silence.ask(door)
    assert asked == [silence.PATIENCE]
    longest_wait = silence.SHORT + silence.PERIOD + silence.PATIENCE  # the look that comes first is just too early
    assert max(longest_wait, 2 * silence.PATIENCE, silence.WATCHED + silence.PERIOD + silence.PATIENCE) <= 10
    assert max(clincus.FIRST_LOOK, clincus.READ_TIMEOUT, clincus.ENGINE_PATIENCE) < 10


def test_a_page_that_opens_wakes_who_looks(app, door):
    opened, other = [], object()
    assert silence.wake_for_page(app, "GET", "/api/sessions", other) is other
    silence.wake_for_page(app, "GET", "/ws/events", opened.append)("the request")
    assert (opened, door.has_begun.is_set()) == (["the request"], True)
