"""Prompts and answers: what is typed, when, and what is kept of it. No Incus."""

from __future__ import annotations

import contextlib
import json
import stat
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

import clincus
from clincus_features.agents import keys, prompts, queue
from clincus_features.agents.state import Agent, Decision, Facts, Held, Past, Why, decided
from tests.builders import a_session
from tests.table import table
from tests.typing_bed import Clock, Tool, use_clock

SESSION = a_session(session_id="one")
RULE = "─" * 20
BOX = (RULE, "❯ ", RULE)


def decision(state: str, reason: str = "", text: str = "", options: tuple[str, ...] = ()) -> Decision:
    return Decision(Agent(state, reason, text, options), Why("rule", "hook", (), 0.0))


# ---- texts


@table(
    ("written", "typed"),
    [
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        ("a\x1b[201~b\x1b[200~c", "abc"),
        ("a\x1b[2\x1b[201~01~b", "a[201~b"),
        ("a\x07\x08\x0b\x0c\x7f\x85\x9bb\x1b[31mc", "ab[31mc"),
        ("👩‍🚀 é 漢", "👩‍🚀 é 漢"),
    ],
)
def test_a_prompt_keeps_all_that_is_text(written, typed):
    assert keys.clean_prompt(written) == typed


# ---- when


@table(
    ("text", "status"),
    [("", 400), (" \n\t", 400), ("\x1b\x00", 400), ("é" * (keys.PROMPT_LIMIT // 2 + 1), 413)],
)
def test_an_empty_prompt_and_a_large_one_are_refused(text, status):
    assert keys.clean_prompt("é" * (keys.PROMPT_LIMIT // 2)), "the limit is in bytes"
    with pytest.raises(clincus.ClincusError) as caught:
        keys.clean_prompt(text)
    assert caught.value.status == status


@table(
    ("state", "tool", "expected"),
    [
        *((state, "claude", "ready") for state in ("idle", "done", "failed")),
        *((state, "claude", "busy") for state in ("working", "stuck", "starting")),
        ("unknown", "mine", "ready"),
    ],
)
def test_a_prompt_is_typed_at_rest_and_queued_while_the_tool_works(state, tool, expected):
    assert keys.readiness(Facts(tool=tool, lines=BOX, has_screen=True), decision(state)) == expected


@table(
    ("tool", "text", "steps"),
    [
        *((tool, "#1 @x", ["#1 @x"]) for tool in ("claude", "copilot", "opencode", "mine")),
        ("claude", "!ls", [("Space",), "!", ("C-a",), ("DC",), ("C-e",), "ls"]),
        ("claude", "/help me", ["/help me\n\n\n"]),
        ("claude", " \n/help", [" \n/help\n\n"]),
        ("claude", "exit", ["exit\n\n\n"]),
        ("claude", "a\nb\\", ["a\nb\\", ("C-a",)]),
        ("opencode", "/help", [" /help"]),
        ("copilot", " !ls", ["\u200b !ls"]),
    ],
)
def test_no_prompt_is_a_command_of_the_tool(tool, text, steps):
    assert keys.prompt_steps(tool, text) == steps


@table(
    ("state", "tool", "lines", "words"),
    [
        ("ended", "claude", (), "no tool runs"),
        ("unknown", "shell", (), "no tool runs"),
        ("unknown", "claude", (), "cannot tell"),
        ("done", "claude", ("● hi", "  Showing detailed transcript · ctrl+o to toggle"), "may cover it"),
        ("waiting", "claude", (), r"\(question\): Which colour\?"),
    ],
)
def test_a_prompt_is_refused_where_no_tool_takes_it(state, tool, lines, words):
    asked = decision(state, "question", "Which colour?") if state == "waiting" else decision(state)
    with pytest.raises(clincus.ClincusError, match=words) as caught:
        keys.readiness(Facts(tool=tool, lines=lines, has_screen=bool(lines)), asked)
    assert caught.value.status == 409
    assert isinstance(caught.value, keys.CoveredError) == bool(lines)


PLANNED = "[[PLAN]] I want to create an implementation plan. Please:\n1. Analyze the codebase\n\nMy request: "


@table(
    ("tool", "told", "text", "expected"),
    [
        ("claude", "run  the tests", "run\tthe\ntests\n", True),
        ("claude", "x" * 500, "x" * 9000, True),
        ("claude", "\u200b!ls", "!ls", True),
        ("claude", "x" * 400, "x" * 9000, False),
        ("claude", "a draft run the tests", "run the tests", False),
        ("claude", "a", "ab", False),
        ("claude", "\ud83d", "run the tests", False),  # half of a pair, as a container may tell it
        # What Copilot CLI writes before a prompt in its plan mode.
        ("copilot", PLANNED + "run the tests", "run the tests", True),
        ("copilot", PLANNED + "x" * 400, "x" * 9000, True),
        ("copilot", PLANNED, "run the tests", False),
        ("claude", PLANNED + "run the tests", "run the tests", False),
    ],
)
def test_only_an_event_with_the_same_text_is_a_proof(tool, told, text, expected):
    assert keys.is_proof(tool, {"prompt": told}, text) == expected


# ---- what is kept


@pytest.fixture
def kept(tmp_path) -> queue.Prompts:
    return queue.Prompts(lambda: prompts.prompts_folder({"HOME": str(tmp_path)}))


def test_the_queue_outlives_the_server_and_nobody_else_can_read_it(kept, tmp_path):
    first = kept.add(SESSION, "/compact", "queued", command=True)
    kept.add(SESSION, "two", "queued")
    folder = Path(prompts.prompts_folder({"HOME": str(tmp_path)}))
    again = queue.Prompts(lambda: str(folder))
    assert [prompt.text for prompt in again.queue(SESSION)] == ["/compact", "two"]
    assert not again.change(SESSION, first.prompt_id, "shorten it", None).command, "its text is no command any more"
    assert again.mark(SESSION, first, "sending")
    assert not kept.mark(SESSION, first, "sending"), "of two servers one takes it"
    assert [prompt.text for prompt in again.queue(SESSION)] == ["two"]
    late = replace(first, result="sending", at=time.time() - queue.SENDING - 1)
    assert late.document()["result"] == "unconfirmed", "its server has ended meanwhile"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())]
    assert modes == [0o700, 0o600]


@table(
    ("moved", "before", "order"),
    [
        ("three", "one", "three one two"),
        ("one", "three", "two one three"),
        ("one", "", "two three one"),
        ("two", "two", "one two three"),
    ],
)
def test_a_queued_prompt_is_moved(tmp_path, moved, before, order):
    kept = queue.Prompts(lambda: str(tmp_path))
    kept.add(SESSION, "zero", "submitted")
    ids = {text: kept.add(SESSION, text, "queued").prompt_id for text in ("one", "two", "three")}
    kept.change(SESSION, ids[moved], None, ids.get(before, before))
    assert " ".join(prompt.text for prompt in kept.queue(SESSION)) == order


def test_only_a_queued_prompt_is_changed_or_cancelled(kept):
    queued, typed = kept.add(SESSION, "one", "queued"), kept.add(SESSION, "two", "submitted")
    assert kept.change(SESSION, queued.prompt_id, "uno", None).text == "uno"
    refused = [(typed.prompt_id, "x", None, 409), ("none", "x", None, 404), (queued.prompt_id, "x", "none", 404)]
    for prompt_id, text, before, status in refused:
        with pytest.raises(clincus.ClincusError) as caught:
            kept.change(SESSION, prompt_id, text, before)
        assert caught.value.status == status
    assert kept.of(SESSION._replace(session_id="another")) == []
    kept.cancel(SESSION, queued.prompt_id)
    for prompt_id, status in ((queued.prompt_id, 404), (typed.prompt_id, 409)):
        with pytest.raises(clincus.ClincusError) as caught:
            kept.cancel(SESSION, prompt_id)
        assert caught.value.status == status
    assert [prompt.text for prompt in kept.of(SESSION)] == ["two"]
    kept.forget(SESSION)
    assert kept.of(SESSION) == []


def test_the_last_prompts_are_kept_and_the_queue_is_bounded(kept):
    for number in range(queue.QUEUED):
        kept.add(SESSION, f"queued {number}", "queued")
    for number in range(queue.KEPT + 5):
        kept.add(SESSION, f"sent {number}", "submitted")
    found = [prompt.text for prompt in kept.of(SESSION)]
    assert len(found) == queue.QUEUED + queue.KEPT
    assert "sent 4" not in found
    assert "sent 5" in found
    with pytest.raises(clincus.ClincusError, match="in the queue") as caught:
        kept.add(SESSION, "one more", "queued")
    assert caught.value.status == 409


@table("text", ["", "[]", '{"session_id": "one"}', '{"session_id": "one", "prompts": [{}]}'])
def test_a_broken_file_counts_as_none(tmp_path, text):
    kept, file = queue.Prompts(lambda: str(tmp_path)), tmp_path / f"{SESSION.id}.json"
    file.write_text(text)
    assert kept.of(SESSION) == []
    kept.add(SESSION, "two", "queued")
    assert json.loads(file.read_text())["prompts"][0]["text"] == "two"


# ---- whether it was taken


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return use_clock(monkeypatch)


def a_sender(home: Path) -> prompts.Sender:
    app, watch = mock.Mock(environ={"HOME": str(home)}), mock.Mock(listeners=[])
    return prompts.Sender(app, watch)


@pytest.fixture
def sender(tmp_path) -> prompts.Sender:
    return a_sender(tmp_path)


def test_a_prompt_that_the_tool_tells_of_is_submitted_though_it_stands_in_the_input_yet(clock, sender):
    """A hook tells of it before a busy tool has drawn its input empty, and the next prompt is given at once."""
    tool = Tool(clock)
    tool.clears_after = 3.0
    assert sender._submit(SESSION, tool, "run\nthe tests")
    keys.check_input(tool.draft)
    assert (tool.pressed, tool.taken) == (["Enter"], ["run\nthe tests"])


def test_an_enter_that_the_tool_has_ignored_is_pressed_again_while_the_text_stands(clock, sender):
    tool = Tool(clock)
    tool.on_key = lambda key, on_key=tool.on_key: tool.pressed.count("Enter") == 1 or on_key(key)
    assert sender._submit(SESSION, tool, "run the tests")
    assert (tool.pressed, tool.taken) == (["Enter", "Enter"], ["run the tests"])


def test_no_enter_goes_into_a_dialog_that_opens_between_the_look_and_the_key(clock, sender):
    """On a busy machine, a tool that hangs may take the first Enter and ask something as the second one is due."""
    tool = Tool(clock)
    tool.on_key = lambda key: None

    def ask() -> None:
        if "Enter" in tool.pressed and not tool.labels:
            tool.asks("Which colour?", "Red", "Green")

    tool.before_key = ask
    assert not sender._submit(SESSION, tool, "run the tests")
    assert tool.pressed == ["Enter"]


def test_no_second_enter_follows_where_nothing_proves_the_first_one(clock, sender):
    silent = Tool(clock, hooks=False)
    assert not sender._submit(SESSION, silent, "run the tests")
    assert (silent.pressed, silent.taken) == (["Enter"], ["run the tests"])
    unread = Tool(clock)
    unread.known = replace(unread.known, facts=replace(unread.facts, tool="mine"))
    unread.look = lambda: None
    assert not sender._submit(SESSION._replace(tool="mine"), unread, "run the tests")
    assert unread.pressed == ["Enter"]
    typed = Tool(clock)
    typed.text = "half a text"  # a person has begun to type after the look
    assert not sender._submit(SESSION, typed, "run the tests")
    assert (typed.pressed, typed.taken) == ([], [])
    with pytest.raises(clincus.ClincusError, match="half a text"):
        keys.check_input("half a text")


def test_a_paste_that_the_tool_has_ignored_comes_again(clock, sender):
    tool = Tool(clock)
    tool.ignores = 1
    assert sender._submit(SESSION, tool, "run the tests")
    assert tool.taken == ["run the tests"]


def test_a_prompt_that_has_left_the_input_of_a_tool_without_hooks_is_submitted(clock, sender):
    tool = Tool(clock, tool="codex")
    placeholder = "\x1b[2mAsk Codex to do anything\x1b[0m"
    tool.rows = lambda: ["• hello", "", f"› {tool.text or placeholder}", "", "  gpt-5 default · /workspace"]
    assert sender._submit(SESSION._replace(tool="codex"), tool, "run the tests")
    assert tool.taken == ["run the tests"]


# ---- what stands in the input after an interruption


def test_the_last_prompt_is_taken_out_where_the_tool_has_put_it_back(clock, sender):
    for text, result in (("earlier", "submitted"), ("run\nthe tests", "submitted"), ("next", "queued")):
        sender.prompts.add(SESSION, text, result)
    for standing in ("run\nthe tests", "run\nthe tests, no", "half a text"):
        tool = Tool(clock)
        tool.text = standing
        tool.look()
        sender._take_back(SESSION, tool)
        assert tool.text == ("" if standing == "run\nthe tests" else standing)


def test_what_is_said_after_an_interruption_goes_before_what_was_queued(sender):
    """The tool has not stopped yet when it is given, and so it is queued."""
    past, facts = Past(), Facts(started=1.0, now=time.time())

    def becomes(state: str, reason: str = "") -> Decision:
        return decided(replace(facts, now=time.time()), past, decision(state, reason))

    past = becomes("working").past
    sender.prompts.add(SESSION, "one", "queued")
    past = replace(past, interrupted=Held(past.agent.turn, time.time()))
    sender.prompts.add(SESSION, "meant instead", "queued")
    now = becomes("idle", "interrupted")
    sender._watch.decision, sender._watch.past = lambda session: now, lambda session: now.past
    assert [one.text for one in sender._going(SESSION, now)] == ["meant instead"]


def test_a_tool_that_works_by_its_hooks_only_has_just_begun_or_was_interrupted(clock):
    tool = Tool(clock)
    assert not keys.is_unsettled(tool.facts, decision("done"))
    assert keys.is_unsettled(tool.facts, decision("working"))
    tool.rows = lambda rows=tool.rows: [*rows()[:-1], rows()[-1] + " · esc to interrupt"]
    tool.look()
    assert not keys.is_unsettled(tool.facts, decision("working"))


class TwiceInterrupted(Tool):
    """Copilot CLI at work: two Esc within half a second interrupt it, and at rest they open a list."""

    def __init__(self, clock: Clock, delay: float) -> None:
        self._delay = delay  # seconds until it takes a key
        self._escaped_at = 0.0
        self._states = [(0.0, "works")]
        super().__init__(clock, tool="copilot")

    def on_key(self, key: str) -> None:
        now, state = self._clock.now + self._delay, self._states[-1][1]
        is_second = now - self._escaped_at < 0.5
        self._escaped_at = 0.0 if is_second else now
        if is_second:
            self._states.append((now, "list" if state == "rests" else "rests"))

    def rows(self) -> list[str]:
        state = next(state for at, state in reversed(self._states) if at <= self._clock.now)
        is_told = 0 <= self._clock.now - self._escaped_at < 0.5
        ends = {
            "works": f" ◎ Working · esc {'again to' if is_told else 'esc'} interrupt",
            "rests": " / commands · ? help",
        }
        box = [" /workspace", RULE, "❯", RULE, ends.get(state, "")]
        choice = ["│ Rewind to a previous point │", "│ ❯  1. ask │", "│ ↑↓ Navigate · Esc Cancel │"]
        panel = ["╭──────╮", *choice, "╰──────╯"]
        return [" ● hello", *(panel if state == "list" else box)]


@table("delay", [0.0, 0.3, 3.0])
def test_a_tool_that_takes_two_interruptions_gets_no_third(tmp_path, monkeypatch, delay):
    clock = use_clock(monkeypatch)
    tool = TwiceInterrupted(clock, delay)
    monkeypatch.setattr(prompts, "open_terminal", lambda *_: contextlib.nullcontext(tool))
    assert a_sender(tmp_path).interrupt(SESSION._replace(tool="copilot"))
    assert tool.decision.agent.state == "idle"
    clock.sleep(9)
    tool.look()
    assert tool.decision.agent.state == "idle"


class Interrupted(Tool):
    """A tool at work: some of the next keys close something else, then one stops it. At rest it counts each."""

    def __init__(self, clock: Clock, takes: int, tool: str = "claude") -> None:
        self.takes, self.at_rest, self.keys = takes, 0, 0
        super().__init__(clock, tool=tool)

    def on_key(self, key: str) -> None:
        self.keys += 1
        self.at_rest += self.takes == 0
        self.takes = max(0, self.takes - 1)

    def rows(self) -> list[str]:
        works = ["✢ Tempering… (4s · ↓ 3 tokens)"] if self.takes else []
        if self.tool == "aider":
            return ["> go", *(["Waiting for model"] if self.takes else [RULE, ">"])]
        return ["❯ go", *works, RULE, "❯ half a text", RULE, "  ⏵⏵ bypass permissions on"]


@table(
    ("name", "takes", "expected"),
    [
        ("claude", 1, (1, True)),
        ("claude", 2, (2, True)),  # a menu takes the first one
        ("claude", 99, (3, False)),
        ("aider", 2, (1, False)),  # a second Ctrl-C might end it
        ("nobody-knows", 1, (1, False)),
    ],
)
def test_an_interruption_is_proven_by_the_screen(tmp_path, monkeypatch, name, takes, expected):
    shown = Interrupted(use_clock(monkeypatch), takes, name)
    monkeypatch.setattr(prompts, "open_terminal", lambda *_: contextlib.nullcontext(shown))
    is_proven = a_sender(tmp_path).interrupt(SESSION._replace(tool=name))
    assert (shown.keys, is_proven, shown.at_rest) == (*expected, 0)
    assert keys.interrupt_steps(Facts(tool=name), decision("idle")) == [], "what does nothing is not interrupted"


class Deaf(Tool):
    """Copilot CLI that takes no Esc, as on a busy machine; Ctrl-C stops it, or deletes what stands in the input."""

    def __init__(self, clock: Clock, text: str) -> None:
        self.works, self.typed = True, text
        super().__init__(clock, tool="copilot")

    def on_key(self, key: str) -> None:
        self.works = self.works and key != "C-c"

    def rows(self) -> list[str]:
        works = " ◎ Working esc esc interrupt" if self.works else " / commands · ? help"
        return [" ● hello", RULE, f"❯ {self.typed}", RULE, works]


@table(("text", "is_proven"), [("", True), ("half a text", False)])
def test_what_would_delete_a_text_is_pressed_only_where_there_is_none(tmp_path, monkeypatch, text, is_proven):
    shown = Deaf(use_clock(monkeypatch), text)
    monkeypatch.setattr(prompts, "open_terminal", lambda *_: contextlib.nullcontext(shown))
    assert a_sender(tmp_path).interrupt(SESSION._replace(tool="copilot")) == is_proven
    assert ("C-c" in shown.pressed) == is_proven
