"""Answers to a tool's questions: what is pressed, after which look, and what proves it. No Incus."""

from __future__ import annotations

import pytest

import clincus
from clincus_features.agents.answers import Answer, question_on_screen, wait_for_question
from tests.table import table
from tests.typing_bed import Asker, Clock, Tool, use_clock


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return use_clock(monkeypatch)


@pytest.fixture
def tool(clock) -> Tool:
    """Claude Code, whose hooks tell what it asks."""
    return Tool(clock)


def answered(tool: Tool, option: int) -> bool:
    wait_for_question(tool, was_told=True)
    return Answer(tool).choose(option)


# ---- the question


def test_a_question_that_the_hook_tells_of_before_it_is_drawn_is_waited_for(tool):
    tool.draws_after = 6.0
    tool.asks("Which colour?", "Red", "Green")
    tool.look()
    assert tool.decision.agent.state == "waiting"
    assert question_on_screen(tool.facts, tool.decision) is None
    assert answered(tool, 2)
    assert tool.taken == ["Green"]


def test_a_question_that_another_one_replaces_just_before_the_key_is_not_answered(tool):
    tool.asks("Which colour?", "Red", "Green")

    def replace() -> None:
        if tool.question == "Which colour?":
            tool.asks("Delete everything?", "Yes", "No")

    tool.before_key = replace
    with pytest.raises(clincus.ClincusError, match="no key was pressed") as caught:
        answered(tool, 1)
    assert caught.value.status == 409
    assert tool.taken == []


def test_where_no_question_comes_there_is_none_to_answer(tool, clock):
    for was_told, within in ((False, 0.0), (True, 3.0)):
        begin = clock.now
        with pytest.raises(clincus.ClincusError, match="no question is open") as caught:
            wait_for_question(tool, was_told=was_told)
        assert caught.value.status == 409
        assert clock.now - begin <= within
    tool.draws_after = 1000.0  # never
    tool.asks("Which colour?", "Red", "Green")
    with pytest.raises(clincus.ClincusError, match="no question is open"):
        wait_for_question(tool, was_told=True)
    assert tool.pressed == []


# ---- the choice


@table("hooks", [True, False])
def test_an_answer_is_proven_by_the_hook_or_by_the_screen(monkeypatch, hooks):
    tool = Tool(use_clock(monkeypatch), hooks=hooks)
    tool.asks("Which colour?", "Red", "Green")
    tool.look()
    assert answered(tool, 2)
    assert (tool.pressed, tool.taken) == (["2"], ["Green"])


def test_a_key_that_the_tool_has_ignored_is_pressed_again_once_the_tool_follows(tool):
    tool.asks("Which colour?", "Red", "Green", "Blue")
    tool.look()
    tool.ignores = 1
    assert answered(tool, 3)
    assert (tool.pressed, tool.taken) == (["3", "Down", "3"], ["Blue"])


def test_a_tool_that_follows_no_key_gets_no_second_answer(tool):
    tool.asks("Which colour?", "Red", "Green")
    tool.look()
    tool.ignores = 1000
    assert not answered(tool, 2)
    assert tool.pressed == ["2", "Down"]


def test_a_request_of_another_sub_agent_is_no_proof(tool):
    tool.asks("Which colour?", "Red", "Green")
    tool.look()
    tool.ignores = 1000

    def another(*keys: object, press=tool.press) -> None:
        press(*keys)
        tool._tell("PermissionRequest", {"tool_name": "Bash", "tool_input": {"command": "make"}, "agent_id": "a2"})

    tool.press = another
    assert not answered(tool, 2)


def test_a_box_that_was_ticked_is_no_answer_and_is_not_unticked(tool):
    tool.asks("Which sizes?", "[ ] Small", "[ ] Large", ticks=True)
    tool.rows = lambda rows=tool.rows: [
        row.replace("Which", f"{'☒' if '2' in tool.pressed else '☐'} Which") for row in rows()
    ]
    tool.look()
    assert not answered(tool, 2)
    assert tool.pressed == ["2"]


COLOUR = "\x1b[31m \x1b[0m"


@table(("sign", "keys"), [("❯", ["Down", "Down", "Down"]), (COLOUR, ["Down", "Down"])], ids=["a mark", "a colour"])
def test_a_choice_without_numbers_is_marked_on_the_screen_before_enter(monkeypatch, sign, keys):
    tool = Tool(use_clock(monkeypatch), tool="copilot", hooks=False)
    tool.sign = sign
    tool.asks("Which colour?", "Red", "Green", "Blue")
    tool.look()
    tool.ignores = int(sign == "❯")
    assert answered(tool, 3)
    assert (tool.pressed, tool.taken) == ([*keys, "Enter"], ["Blue"])


@table(("sign", "presses"), [("❯", 3), (COLOUR, 1)])
def test_no_enter_is_pressed_where_the_mark_does_not_move(monkeypatch, sign, presses):
    tool = Tool(use_clock(monkeypatch), tool="copilot", hooks=False)
    tool.sign = sign
    tool.asks("Which colour?", "Red", "Green")
    tool.look()
    tool.ignores = 1000
    assert not answered(tool, 2)
    assert tool.pressed == ["Down"] * presses


def test_an_option_that_there_is_not_or_that_takes_words_is_refused(tool):
    """A tool does nothing at the Enter of the latter, or only moves the mark there."""
    tool.asks("Which colour?", "Red", "Green", own=True)
    tool.look()
    for option, words in ((4, "3 options"), (3, r'takes a text.*"text"')):
        with pytest.raises(clincus.ClincusError, match=words) as caught:
            answered(tool, option)
        assert (caught.value.status, tool.pressed) == (409, [])


# ---- an answer in words


def test_an_answer_in_words_is_sent_once_it_stands_in_its_choice(tool):
    tool.asks("Which colour?", "Red", "Green", own=True)
    tool.look()
    assert Answer(tool).write("Purple\r\n")
    assert (tool.pressed, tool.taken) == (["Down", "Down", "Enter"], ["Purple\n"])


def test_words_that_do_not_show_are_not_sent(tool):
    tool.asks("Which colour?", "Red", "Green", own=True)
    tool.look()
    tool.paste = lambda text: None
    assert not Answer(tool).write("Purple")
    assert (tool.pressed, tool.taken) == (["Down", "Down"], [])


# ---- a tool of the user's own, of whose input nothing is known


@table(
    ("pattern", "question"),
    [
        (r"^(?P<text>.+\?) *$", "Your name?\n"),  # what is typed stands below the question
        (r"^(?P<text>Your name\?)", "Your name? "),
        (r"^Your name\?", "Your name? "),  # its text is the whole line, with what is typed
    ],
)
def test_a_question_without_options_is_answered_by_a_line(monkeypatch, pattern, question):
    tool = Asker(use_clock(monkeypatch), pattern, question)
    assert answered_by_a_line(tool, "Ada Lovelace\r\n")
    assert (tool.pressed, tool.taken) == (["Enter"], ["Ada Lovelace"])


def answered_by_a_line(tool: Tool, text: str) -> bool:
    wait_for_question(tool, was_told=True)
    return Answer(tool).write(text)


@table("second", ["Your name? ", "Your age? "])
def test_a_question_that_follows_proves_the_answer_and_gets_none(monkeypatch, second):
    tool = Asker(use_clock(monkeypatch), r"^(?P<text>Your .*?\?)", "Your name? ", second)
    assert answered_by_a_line(tool, "Ada")
    assert (tool.pressed, tool.taken) == (["Enter"], ["Ada"])


def test_a_line_that_does_not_show_is_not_sent(clock):
    """Such as a password; or it is no input at all, and Enter would take something else."""
    tool = Asker(clock, "^Password", "Password: ")
    tool.echoes = False
    assert not answered_by_a_line(tool, "secret")
    assert (tool.pressed, tool.taken) == ([], [])


def test_a_question_that_another_one_replaces_before_enter_gets_no_line(clock):
    tool = Asker(clock, r"^(?P<text>\S.*\?)", "Your name? ")

    def replace() -> None:
        tool.questions, tool.line = ["Delete everything? "], ""

    tool.before_key = replace
    assert not answered_by_a_line(tool, "Ada")
    assert (tool.pressed, tool.taken) == ([], [])


def test_a_choice_of_a_list_without_a_mark_is_typed_as_a_line(clock):
    for takes_keys, pressed in ((False, ["2", "Enter"]), (True, ["2"])):  # some tools need no Enter
        tool = Asker(clock, "^(?P<text>Which colour)", "Which colour\n 1. Red\n 2. Green\nNumber: ")
        tool.takes_keys = takes_keys
        assert answered(tool, 2)
        assert (tool.pressed, tool.taken) == (pressed, ["2"])


def test_what_such_a_question_does_not_take_is_refused(clock):
    tool = Asker(clock, "^Your name", "Your name? ")
    wait_for_question(tool, was_told=True)
    with pytest.raises(clincus.ClincusError, match='the answer as "text"'):
        Answer(tool).choose(1)
    with pytest.raises(clincus.ClincusError, match="one line"):
        Answer(tool).write("Ada\nLovelace")
    assert (tool.pressed, tool.line) == ([], "")
    choices = Tool(clock)
    choices.asks("Which colour?", "Red", "Green")
    choices.look()
    with pytest.raises(clincus.ClincusError, match="takes no text of your own"):
        Answer(choices).write("Purple")
