"""Screens of Claude Code 2.1.332 that are low or narrow, its forms of MCP servers, and status lines like dialogs."""

from __future__ import annotations

import pytest

import clincus
from clincus_features.agents.answers import UNREAD, Answer, wait_for_question
from clincus_features.agents.menus import Menu, across_menu, read_menu
from clincus_features.agents.state import decide
from tests.table import table
from tests.typing_bed import Tool, use_clock
from tests.unit import test_agent_state as states

WIDE = "─" * 60
HEAD = "  MCP server “forms” requests your input"
HINT = "  Esc to cancel · ↑/↓ to navigate"
SWITCH = "  Esc to cancel · ←/→ to switch"
NARROW_HEAD = ["─" * 30, "  MCP server “forms”", "  requests your input"]
NARROW_HINT = ["  Esc to cancel · ↑/↓ to", "  navigate · Backspace to", "  unset · → to expand"]
CHOICES = ("Accept", "Decline")
FORM = [WIDE, HEAD, "  Which colour do you want?", "  ❯ * Colour: ▸ not set", "    Accept    Decline"]
LINK = ["  Please sign in at our site", "  https://example.com/sign-in"]
CONFIRM = [WIDE, HEAD, "  Please confirm the release", "  ❯ Accept    Decline", HINT]

# Each form with its text, and the choices that can be taken now.
FORMS = {
    "a mark at a field": ([*FORM, f"{HINT} · Backspace to unset · → to expand"], "Which colour do you want?", ()),
    "a list that is open": (
        [*FORM[:3], "  ❯ * Colour: ▾", "        ❯ ◯ Red", "          ◯ Green", FORM[4], f"{HINT} · Space to select"],
        "Which colour do you want?",
        (),
    ),
    "no fields": (CONFIRM, "Please confirm the release", CHOICES),
    "a narrow screen": (
        [*NARROW_HEAD, "  Which colour do you", "  want?", *FORM[3:], *NARROW_HINT],
        "Which colour do you want?",
        (),
    ),
    "a low screen, and a mark at a choice": (
        ["    ✔ sure: ☒", "    Accept  ❯ Decline", " ↑ 6 more lines", HINT],
        None,
        CHOICES,
    ),
    "a link that is open": (
        [WIDE, "  MCP server “forms” — waiting for completion", *LINK, "  ❯ Reopen URL    Skip confirmation", SWITCH],
        " ".join(map(str.strip, LINK)),
        ("Reopen URL", "Skip confirmation"),
    ),
    "choices on two lines": (
        [
            *LINK,
            "  ❯ Reopen     Skip",
            "   URL        confirmation",
            " ↑ 3 more lines",
            "  Esc to cancel · ←/→ to",
            "  switch",
        ],
        " ".join(map(str.strip, LINK)),
        (),
    ),
}


@table(("lines", "text", "options"), FORMS.values(), ids=FORMS.keys())
def test_a_form_of_an_mcp_server_waits_with_the_choices_that_can_be_taken_now(lines, text, options):
    agent = decide(states.facts(lines)).agent
    assert (agent.state, agent.reason, agent.options) == ("waiting", "question", options)
    assert agent.text == text or text is None
    elicited = ("Elicitation", {"message": "Tell me", "requested_schema": {}})
    agent = decide(states.facts(lines, said=states.hooks(states.PROMPT, elicited))).agent
    assert (agent.state, agent.text, agent.options) == ("waiting", "Tell me", options), "the text is that of the hook"


class Form(Tool):
    """Claude Code with a form, whose mark is at a choice or at a field."""

    marked: int | None = 0  # None: at a field

    def rows(self) -> list[str]:
        if not self.labels:
            return super().rows()
        names = [("❯ " if at == self.marked else "  ") + name for at, name in enumerate(self.labels)]
        field = ["  ❯ * Name: Type something…"] if self.marked is None else []
        return ["● hello", *CONFIRM[:3], *field, "  " + "  ".join(names), HINT]

    def on_key(self, key: str) -> None:
        if key in ("Left", "Right") and self.marked is not None:
            self.marked = 1 - self.marked
        elif key == "Enter" and self.marked is not None:
            self._answered(self.labels[self.marked])


@table(
    ("marked", "option", "pressed"),
    [
        (0, 1, []),
        (0, 2, ["Right"]),
    ],
)
def test_a_choice_of_a_form_is_taken_once_the_mark_is_at_it(monkeypatch, marked, option, pressed):
    form = Form(use_clock(monkeypatch), hooks=False)
    form.asks("Please confirm the release", *CHOICES)
    form.marked = marked
    form.look()
    wait_for_question(form, was_told=True)
    assert Answer(form).choose(option)
    assert (form.pressed, form.taken) == ([*pressed, "Enter"], [CHOICES[option - 1]])


def test_a_form_with_the_mark_at_a_field_says_that_it_is_to_be_answered_in_the_terminal(monkeypatch):
    form = Form(use_clock(monkeypatch), hooks=False)
    form.asks("Please confirm the release", *CHOICES)
    form.marked = None
    form.look()
    wait_for_question(form, was_told=True)
    for answer in (lambda: Answer(form).choose(1), lambda: Answer(form).write("me")):
        with pytest.raises(clincus.ClincusError, match=UNREAD) as caught:
            answer()
        assert caught.value.status == 409
    assert form.pressed == []


# -- Dialogs of which a low screen shows a part


LOW_PLAN = [
    *(" ❯ 1. Yes, and switch to", "      BYPASS PERMISSIONS (no", "   2. Yes, manually approve", "      edits"),
    *("   3. Tell Claude what to", "      change", "      shift+tab to approve", "      with this feedback"),
    *(" ↑ 125 more lines", " ctrl+g to edit in Vim ·", " ~/.claude/plans/purrfect-tin", " kering-moore.md"),
]
LOW_PERMISSION = [" ❯ 1. Yes", " ↓ 2. Yes, and always allow", "      access to /workspace", " ↑ 11 more lines"]
LOW_PERMISSION += [" Esc to cancel · Tab to amend"]
LOW_QUESTION = [
    *("Which colour do you want?", "❯ 1. Red", "     Like a rose", "  2. Green", "↓ 3. Blue", "     Like the sky"),
    *("─" * 30, "  5. Chat about this", " ↑ 5 more lines", "Enter to select · ↑/↓ to", "navigate · Esc to cancel"),
]
LOW = {
    "plan": (LOW_PLAN, "plan", ("Yes, and switch to", "Yes, manually approve", "Tell Claude what to")),
    "permission in 30 columns": (
        [*LOW_PERMISSION[:-1], " Esc to cancel · Tab to", " amend"],
        "permission",
        ("Yes", "Yes, and always allow"),
    ),
    "question": (LOW_QUESTION, "question", ("Red", "Green", "Blue")),
}


@table(("lines", "reason", "options"), LOW.values(), ids=LOW.keys())
def test_a_low_screen_shows_a_dialog_with_its_choices(lines, reason, options):
    agent = decide(states.facts(lines)).agent
    assert (agent.state, agent.reason, agent.options) == ("waiting", reason, options)


def test_an_option_below_the_end_of_a_low_screen_can_be_chosen(monkeypatch):
    """The hook has told of it, and Claude Code takes its number."""
    tool = Tool(use_clock(monkeypatch))
    tool.asks("Which colour?", "Red", "Green", "Blue")
    shown = tool.rows
    monkeypatch.setattr(tool, "rows", lambda: [row for row in shown() if ". Blue" not in row])
    tool.look()
    assert tool.decision.agent.options == ("Red", "Green", "Blue")
    wait_for_question(tool, was_told=True)
    assert Answer(tool).choose(3)
    assert tool.taken == ["Blue"]


def test_a_dialog_whose_subject_has_a_line_of_the_footer_is_a_dialog():
    """The box above it was left by an earlier run of the tool."""
    for own in ("  ⏵⏵ bypass permissions on (shift+tab to cycle)", "  ⏸ manual mode on", "  ? for shortcuts"):
        asked = [*states.BOX[:3], *states.PERMISSION[:4], own, *states.PERMISSION[5:]]
        assert states.answer(states.facts(asked)) == "waiting permission"


def test_the_mark_of_choices_in_one_line_or_beside_an_arrow_is_read():
    assert across_menu("Accept  ❯ Decline") == Menu(CHOICES, 1, keys=("Left", "Right"), is_marked=True)
    assert across_menu("❯ Accept    Decline").steps_to(1) == ("Right", "Enter")
    menu = read_menu(["❯ 1. Red", "↓ 2. Green"])
    assert (menu.labels, menu.chosen) == (("Red", "Green"), 0)
