"""Prompts and answers: what is typed, when, and what is kept of it. No Incus."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from unittest import mock

import pytest

import clincus
from clincus_features.agents import keys, prompts, queue
from clincus_features.agents.state import Agent, Decision, Facts, Said, Why

SESSION = clincus.Session("clincus-a1b2c3-1", "/w", "claude", 1, "running", persistent=False, session_id="one")
RULE = "─" * 20
BOX = (RULE, "❯ ", RULE)
HINT = "Enter to select · ↑/↓ to navigate · Esc to cancel"
QUESTION = ("Which colour?", "❯ 1. Red", "  2. Green", "  3. Type something.", HINT)


def decision(state: str, reason: str = "", text: str = "", options: tuple[str, ...] = ()) -> Decision:
    return Decision(Agent(state, reason, text, options), Why("rule", "hook", (), 0.0))


# ---- texts


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        ("a\tb", "a\tb"),
        ("a\x1b[201~b\x1b[200~c", "abc"),
        ("a\x1b[2\x1b[201~01~b", "a[201~b"),
        ("a\x9b201~b", "ab"),
        ("a\x07\x08\x0b\x0c\x7f\x85\x9bb\x1b[31mc", "ab[31mc"),
        ("a\udc80b", "ab"),
        ("👩‍🚀 é 漢", "👩‍🚀 é 漢"),
        ("/help", "/help"),
    ],
)
def test_a_prompt_keeps_all_that_is_text(written, typed):
    assert keys.clean_prompt(written) == typed


@pytest.mark.parametrize("text", ["", " \n\t", "\x1b\x00"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(clincus.ClincusError, match="empty") as caught:
        keys.clean_prompt(text)
    assert caught.value.status == 400


def test_the_size_of_a_prompt_is_limited_in_bytes():
    assert keys.clean_prompt("é" * (keys.PROMPT_LIMIT // 2))
    with pytest.raises(clincus.ClincusError, match="64 KiB") as caught:
        keys.clean_prompt("é" * (keys.PROMPT_LIMIT // 2 + 1))
    assert caught.value.status == 413


# ---- when


@pytest.mark.parametrize(
    ("state", "tool", "expected"),
    [
        *((state, "claude", "ready") for state in ("idle", "done", "failed")),
        *((state, "claude", "busy") for state in ("working", "stuck", "starting")),
        ("unknown", "mine", "ready"),
    ],
)
def test_a_prompt_is_typed_at_rest_and_queued_while_the_tool_works(state, tool, expected):
    assert keys.readiness(Facts(tool=tool, lines=BOX, has_screen=True), decision(state)) == expected


def test_a_prompt_is_not_typed_into_what_covers_the_tools_prompt():
    facts = Facts(tool="claude", lines=("● hi", "  Showing detailed transcript · ctrl+o to toggle"), has_screen=True)
    with pytest.raises(keys.CoveredError) as caught:
        keys.readiness(facts, decision("done"))
    assert caught.value.status == 409


@pytest.mark.parametrize(
    ("tool", "text", "steps"),
    [
        *((tool, "#1 @x", ["#1 @x"]) for tool in ("claude", "copilot", "opencode", "mine")),
        ("claude", "!ls", [("Space",), "!", ("C-a",), ("DC",), ("C-e",), "ls"]),
        ("claude", "!", [("Space",), "!", ("C-a",), ("DC",), ("C-e",)]),
        ("claude", "/help me", ["/help me\n\n\n"]),
        ("claude", " \n/help", [" \n/help\n\n"]),
        ("claude", "/a\nb\nc\nd", ["/a\nb\nc\nd"]),
        ("claude", "exit", ["exit\n\n\n"]),
        ("claude", "exit the loop", ["exit the loop"]),
        ("claude", "a\nb\\", ["a\nb\\", ("C-a",)]),
        *((tool, "/help", [" /help"]) for tool in ("copilot", "opencode")),
        ("copilot", " !ls", ["\u200b !ls"]),
    ],
)
def test_no_prompt_is_a_command_of_the_tool(tool, text, steps):
    assert keys.prompt_steps(tool, text) == steps


@pytest.mark.parametrize(
    ("state", "tool", "words"),
    [
        ("ended", "claude", "no tool runs"),
        ("none", "claude", "no tool runs"),
        ("unknown", "shell", "no tool runs"),
        ("unknown", "claude", "not known"),
    ],
)
def test_a_prompt_is_refused_where_no_tool_takes_it(state, tool, words):
    with pytest.raises(clincus.ClincusError, match=words) as caught:
        keys.readiness(Facts(tool=tool), decision(state))
    assert caught.value.status == 409


def test_a_prompt_is_refused_with_the_question_that_is_open():
    with pytest.raises(clincus.ClincusError, match=r"\(question\): Which colour\?") as caught:
        keys.readiness(Facts(tool="claude"), decision("waiting", "question", "Which colour?"))
    assert caught.value.status == 409


def test_work_in_the_background_does_not_hold_a_prompt_back():
    facts = Facts(tool="claude", lines=BOX, has_screen=True, said=Said("working", background=1))
    assert keys.readiness(facts, decision("working")) == "ready"
    assert keys.readiness(replace(facts, said=Said("working")), decision("working")) == "busy"


# ---- the proof


@pytest.mark.parametrize(
    ("told", "text", "expected"),
    [
        ("run the tests", "run the tests", True),
        ("run  the tests", "run\tthe\ntests\n", True),
        ("x" * 500, "x" * 9000, True),
        ("a draft run the tests", "run the tests", True),
        ("something else", "run the tests", False),
        ("", "run the tests", False),
    ],
)
def test_only_an_event_with_the_same_text_is_a_proof(told, text, expected):
    assert keys.is_proof({"prompt": told}, text) == expected


# ---- answers


def test_an_option_is_chosen_by_its_number():
    facts = Facts(tool="claude", lines=QUESTION, has_screen=True)
    asked = decision("waiting", "question", "Which colour?", ("Red", "Green"))
    assert keys.question_on_screen(facts, asked)
    assert keys.answer_steps(facts, asked, 2, None) == [("2",)]
    assert keys.answer_steps(facts, asked, None, "Blue\r\n") == [("3",), "Blue\n", ("Enter",)]
    with pytest.raises(clincus.ClincusError, match="3 options") as caught:
        keys.answer_steps(facts, asked, 4, None)
    assert caught.value.status == 409


def test_a_choice_without_a_number_is_taken_by_arrow_keys():
    lines = ("─" * 40, " Do you trust it?", "   Yes", " ❯ No, exit", " Enter to confirm · Esc to cancel")
    facts = Facts(tool="claude", lines=lines, has_screen=True)
    assert keys.answer_steps(facts, decision("waiting", "dialog"), 1, None) == [("Up", "Enter")]
    hidden = replace(facts, lines=(" Enter to confirm · Esc to cancel",))
    with pytest.raises(clincus.ClincusError, match="answer it in the terminal"):
        keys.answer_steps(hidden, decision("waiting", "dialog"), 1, None)


def test_a_question_that_is_not_on_the_screen_cannot_be_answered():
    facts = Facts(tool="claude", lines=BOX, has_screen=True)
    assert not keys.question_on_screen(facts, decision("waiting", "question"))
    assert not keys.question_on_screen(replace(facts, lines=QUESTION), decision("idle"))


@pytest.mark.parametrize(
    ("state", "tool", "steps"),
    [
        ("working", "claude", [("Escape",)]),
        ("working", "opencode", [("Escape",), ("Escape",)]),
        ("waiting", "claude", [("Escape",)]),
        ("idle", "claude", []),
        ("done", "claude", []),
    ],
)
def test_only_a_tool_that_does_something_is_interrupted(state, tool, steps):
    assert keys.interrupt_steps(Facts(tool=tool), decision(state)) == steps


# ---- what is kept


@pytest.fixture
def kept(tmp_path) -> queue.Prompts:
    return queue.Prompts(lambda: prompts.prompts_folder({"HOME": str(tmp_path)}))


def test_the_queue_outlives_the_server_and_nobody_else_can_read_it(kept, tmp_path):
    first = kept.add(SESSION, "one", "queued")
    kept.add(SESSION, "two", "queued")
    folder = prompts.prompts_folder({"HOME": str(tmp_path)})
    again = queue.Prompts(lambda: folder)
    assert [prompt.text for prompt in again.queue(SESSION)] == ["one", "two"]
    assert again.mark(SESSION, first, "sending")
    assert not kept.mark(SESSION, first, "sending"), "of two servers one takes it"
    assert [prompt.text for prompt in again.queue(SESSION)] == ["two"]
    (file,) = os.listdir(folder)
    assert stat.S_IMODE(os.stat(f"{folder}/{file}").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_only_a_queued_prompt_is_cancelled(kept):
    queued, typed = kept.add(SESSION, "one", "queued"), kept.add(SESSION, "two", "submitted")
    kept.cancel(SESSION, queued.prompt_id)
    assert [prompt.text for prompt in kept.of(SESSION)] == ["two"]
    for prompt_id, status in ((queued.prompt_id, 404), (typed.prompt_id, 409)):
        with pytest.raises(clincus.ClincusError) as caught:
            kept.cancel(SESSION, prompt_id)
        assert caught.value.status == status


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


def test_a_prompt_whose_server_ended_meanwhile_is_unconfirmed(kept):
    prompt = kept.add(SESSION, "one", "sending")
    assert prompt.document()["result"] == "sending"
    late = replace(prompt, at=time.time() - queue.SENDING - 1)
    assert late.document()["result"] == "unconfirmed"


def test_prompts_go_with_their_session(kept):
    kept.add(SESSION, "one", "queued")
    assert kept.of(SESSION._replace(session_id="another")) == []
    kept.forget(SESSION)
    assert kept.of(SESSION) == []
    kept.forget(SESSION)


@pytest.mark.parametrize("text", ["", "[]", '{"session_id": "one"}', '{"session_id": "one", "prompts": [{}]}', "{"])
def test_a_broken_file_counts_as_none(kept, tmp_path, text):
    kept.add(SESSION, "one", "queued")
    folder = prompts.prompts_folder({"HOME": str(tmp_path)})
    with open(f"{folder}/{SESSION.id}.json", "w", encoding="utf-8") as file:
        file.write(text)
    assert kept.of(SESSION) == []
    kept.add(SESSION, "two", "queued")
    assert json.load(open(file.name, encoding="utf-8"))["prompts"][0]["text"] == "two"  # noqa: SIM115


# ---- whether it was taken


class Input:
    """A terminal whose tool takes what is typed with the n-th press of a key."""

    def __init__(self, takes_at: int) -> None:
        self.takes_at = takes_at
        self.pressed: list[str] = []
        self.has_taken = True
        self.facts, self.decision = Facts(tool="copilot"), decision("working")

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def take(self, steps) -> None:
        self.pressed += [key for keys_of_step in steps if not isinstance(keys_of_step, str) for key in keys_of_step]

    def press(self, names) -> None:
        self.pressed += names

    def wait_for_line(self, seconds: float, pattern: str, *, gone: bool = False) -> bool:
        return len(self.pressed) >= self.takes_at


@pytest.fixture
def sender(tmp_path, monkeypatch) -> prompts.Sender:
    app, watch = mock.Mock(environ={"HOME": str(tmp_path)}), mock.Mock(listeners=[])
    return prompts.Sender(app, watch)


@pytest.mark.parametrize(("takes_at", "enters", "has_taken"), [(1, 1, True), (2, 2, True), (9, 2, False)])
def test_enter_comes_once_more_where_a_prompt_stays_in_the_input(sender, takes_at, enters, has_taken):
    gemini, terminal = SESSION._replace(tool="gemini"), Input(takes_at)
    typed = sender._type(gemini, terminal, sender.prompts.add(gemini, "say hello", "sending"))
    assert (terminal.pressed, terminal.has_taken) == (["Enter"] * enters, has_taken)
    assert typed.result == "unconfirmed"


@pytest.mark.parametrize(("takes_at", "presses"), [(2, 2), (4, 4), (99, 8)])
def test_a_tool_that_has_not_stopped_is_interrupted_again(sender, monkeypatch, takes_at, presses):
    terminal = Input(takes_at)
    monkeypatch.setattr(prompts, "open_terminal", lambda *_: terminal)
    sender.interrupt(SESSION._replace(tool="copilot"))
    assert terminal.pressed == ["Escape"] * presses
