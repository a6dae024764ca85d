"""Two requests for one session at the same time: each prompt and each answer arrives once, and where it belongs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import agents
from clincus_features.agents import prompts
from tests.builders import a_session
from tests.programs import DEADLINE
from tests.typing_bed import STARTED, Tool, use_clock

RUN = clincus.format_time(clincus.datetime.fromtimestamp(STARTED - 3600, clincus.timezone.utc))
SESSION = a_session(session_id="s", run=RUN)
WITHIN = DEADLINE  # seconds for a thread


class Desk:
    """The server's parts that type into a session, and its tool; requests come from several people."""

    def __init__(self, home: Path, tool: Tool) -> None:
        hub = SimpleNamespace(publish=lambda event, extension: None)
        registry = SimpleNamespace(get=lambda id: SESSION, find=lambda id: SESSION, all=lambda: [SESSION])
        self.app: Any = SimpleNamespace(environ={"HOME": str(home)}, registry=registry, hub=hub, sessions=None)
        self.app.extensions = clincus.Extensions()
        self.watch = agents.Watch(self.app)
        self.sender = prompts.Sender(self.app, self.watch)
        self.tool = tool
        self._came = threading.Event()
        self._lock = self.sender._lock
        self.sender._lock = self._note_lock  # type: ignore[method-assign]
        self.watch.tell("started", SESSION)
        self.look()

    def _note_lock(self, session: clincus.Session) -> threading.Lock:
        if threading.current_thread() is not threading.main_thread():
            self._came.set()
        return self._lock(session)

    def look(self) -> None:
        """Let people know what the tool does."""
        self.tool.look()
        self.watch.learn(SESSION, self.watch.known(SESSION), self.tool.known)

    def answer(self, option: int, **given: object) -> str:
        """Answer as the API does; the result, or the code of the refusal."""
        body = {"question": None, "number": None, "text": None, "option": option, **given}
        try:
            return self.sender.answer(SESSION, body)
        except clincus.ClincusError as error:
            return str(error.code)

    def prompt(self, text: str) -> str:
        """The same for a prompt."""
        try:
            return self.sender.prompt(SESSION, text).result
        except clincus.ClincusError as error:
            return str(error.code)

    def at_once(self, first: Callable[[], str], second: Callable[[], str]) -> list[str]:
        """Let the second request come when the first one is about to press its key; both results."""
        results: dict[int, str] = {}

        def run() -> None:
            results[1] = second()

        thread = threading.Thread(target=run, daemon=True)

        def come() -> None:
            self.tool.before_key = lambda: None
            thread.start()
            assert self._came.wait(WITHIN)

        self.tool.before_key = come
        results[0] = first()
        self.tool.before_key = lambda: None
        if not self._came.is_set():
            thread.start()  # the first one was refused, and pressed nothing
        thread.join(WITHIN)
        return [results[0], results[1]]


class Chain(Tool):
    """A tool that asks something else as soon as it is answered."""

    more = ("Which size?", "Small", "Large")

    def _answered(self, answer: str) -> None:
        super()._answered(answer)
        if self.more:
            text, *labels = self.more
            self.more = ()
            self.asks(text, *labels)


@pytest.fixture
def desk(monkeypatch, tmp_path) -> Desk:
    """A desk at a tool that asks something else as soon as it is answered, once."""
    tool = Chain(use_clock(monkeypatch))
    monkeypatch.setattr(prompts, "open_terminal", lambda *arguments: nullcontext(tool))
    monkeypatch.setattr(agents, "look", lambda *arguments, **options: tool.look() or tool.known)
    return Desk(tmp_path, tool)


def ask(desk: Desk) -> int:
    """Let the tool ask; the number of its question."""
    desk.tool.asks("Which colour?", "Red", "Green")
    desk.look()
    agent = desk.watch.decision(SESSION).agent
    assert agent.state == "waiting"
    return agent.question


@pytest.mark.parametrize("has_number", [True, False], ids=["by its number", "whatever it is"])
def test_of_two_people_who_answer_at_once_the_first_one_counts(desk, has_number):
    """The second answer does not meet the question behind: nobody has read it."""
    number = ask(desk)
    given = {"number": number} if has_number else {}
    results = desk.at_once(lambda: desk.answer(1, **given), lambda: desk.answer(2, **given))
    assert (results, desk.tool.taken) == (["answered", "question_closed"], ["Red"])
    desk.look()
    assert desk.answer(2) == "answered", "it can be answered by those who have read it"
    assert desk.tool.taken == ["Red", "Large"]


def test_a_prompt_at_once_with_an_answer_does_not_answer_the_question_behind(desk):
    ask(desk)
    results = desk.at_once(lambda: desk.answer(1), lambda: desk.prompt("go on"))
    assert (results, desk.tool.taken) == (["answered", "question_open"], ["Red"])


def test_a_prompt_before_an_answer_is_refused_with_the_question(desk):
    ask(desk)
    results = desk.at_once(lambda: desk.prompt("go on"), lambda: desk.answer(1))
    assert (results, desk.tool.taken) == (["question_open", "answered"], ["Red"])


def test_two_prompts_at_once_both_arrive(desk):
    results = desk.at_once(lambda: desk.prompt("one"), lambda: desk.prompt("two"))
    sent = [one.text for one in desk.sender.prompts.of(SESSION)]
    assert (results[0], desk.tool.taken[0]) == ("submitted", "one")
    assert results[1] in ("submitted", "queued")
    assert sent == ["one", "two"]


def test_a_queue_goes_on_after_incus_has_failed_once(desk, monkeypatch):
    """A tool at rest does nothing that would let Clincus look at it again."""
    desk.watch._due.clear()
    desk.sender.prompts.add(SESSION, "next", "queued", command=False)
    desk.sender.hear(SESSION, desk.watch.decision(SESSION))
    reached = prompts.open_terminal

    def fail(*arguments: object) -> Any:
        monkeypatch.setattr(prompts, "open_terminal", reached)
        raise clincus.IncusError("`incus exec` did not finish within 8 s", 504)

    monkeypatch.setattr(prompts, "open_terminal", fail)
    desk.sender.work("")
    assert (desk.tool.taken, list(desk.watch._due)) == ([], [SESSION.id])
    desk.watch.work("")
    desk.sender.work("")
    assert desk.tool.taken == ["next"]
