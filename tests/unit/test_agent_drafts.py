"""What stands in a tool's input, read off screens of the real tools with their colours."""

from __future__ import annotations

from clincus_features.agents import drafts
from clincus_features.agents.rules import RULES
from tests.table import table

BORDER = "\x1b[37m" + "─" * 40
FOOTER = "\x1b[39m  \x1b[95m⏵⏵ bypass permissions on\x1b[2m\x1b[37m (shift+tab to cycle)\x1b[0m"


def claude(*box: str) -> str:
    return "\n".join(("● hello", BORDER, *box, BORDER, FOOTER))


def opencode(*lines: str) -> str:
    bar = "\x1b[38;2;92;156;245m┃\x1b[38;2;255;255;255m\x1b[48;2;30;30;30m"
    asked = [f"  {bar}", f"  {bar}  say hello", f"  {bar}", "", "     hello", ""]
    box = [f"  {bar}", *(f"  {bar}  {line}" for line in lines), f"  {bar}", f"  {bar}  Build · Claude Sonnet 4.5"]
    return "\n".join((*asked, *box, "  ╹▀▀▀▀▀▀▀▀", "   /workspace        19 tokens  ctrl+p commands"))


def gemini(*lines: str) -> str:
    head = ("\x1b[97m > say hi", "✦ hi", "─" * 40, " YOLO Ctrl+Y", "")
    return "\n".join((*head, *lines, "", " workspace (/directory)", " /workspace"))


def codex(*lines: str) -> str:
    return "\n".join(("• hello", "", *lines, "", "  gpt-5 default · /workspace", "  ← for agents · ? for shortcuts"))


# Recorded with Claude Code 2.1.332, Copilot CLI 1.0.102, opencode 1.18.34, Codex 0.169.0, Gemini CLI 0.61.0 and aider
# 0.86.2. The placeholders of Claude Code that are not of an error are its own words in the same colours.
SCREENS = {
    "an empty input": ("claude", claude("\x1b[39m❯\xa0\x1b[7m \x1b[0m"), ""),
    "a text": ("claude", claude("\x1b[39m❯\xa0half a text\x1b[7m \x1b[0m"), "half a text"),
    "a text of lines": ("claude", claude("❯\xa0one", "  two", "  three\x1b[7m \x1b[0m"), "one\n  two\n  three"),
    "a placeholder": ("claude", claude('❯\xa0\x1b[7mT\x1b[0m\x1b[2mry "fix lint errors"\x1b[0m'), ""),
    "Gemini's command of a shell": ("gemini", gemini(" ! ls"), None),
    "a placeholder, all dim": ("claude", claude("❯\xa0\x1b[2;7mO\x1b[0;2mnce fixed, resend\x1b[0m"), ""),
    "a dialog": ("claude", "\n".join((BORDER, "Which colour?", "❯ 1. Red", "  2. Green", "Enter to select")), None),
    "opencode's placeholder": ("opencode", opencode('\x1b[38;2;128;128;128mAsk anything… "What is this?"'), ""),
    "opencode's text beside its sidebar": ("opencode", opencode("half a text" + 40 * " " + "Context"), "half a text"),
    "Gemini's placeholder": (
        "gemini",
        gemini(" \x1b[97m* \x1b[7m \x1b[0m\x1b[37m Type your message or @path/to/file"),
        "",
    ),
    "Gemini's text": ("gemini", gemini(" * half a text", "   second"), "half a text\n   second"),
    "Codex's placeholder": ("codex", codex("\x1b[1m›\x1b[0m \x1b[2mAsk Codex to do anything\x1b[0m"), ""),
    "Codex's text": ("codex", codex("\x1b[1m›\x1b[0m half a text", "  second"), "half a text\n  second"),
    "Codex's question, which looks like more lines of the prompt above it": (
        "codex",
        "› ask\n\n  Question 1/1 (1 unanswered)\n  Which?\n\n  › 1. Red\n\n  enter to submit answer | esc to interrupt",
        None,
    ),
    "a tool that nobody knows": ("mine", claude("❯ half a text"), None),
}


@table(("tool", "screen", "expected"), SCREENS.values(), ids=SCREENS.keys())
def test_what_stands_in_the_input_is_read_without_placeholders(tool, screen, expected):
    layout = RULES[tool].layout if tool in RULES else None
    assert drafts.draft_of(tool, layout, screen) == expected


@table(
    ("draft", "text", "expected"),
    [
        ("run the\n  tests", "run the tests", True),
        ("[Pasted text #1 +230 lines] the end", "run\nthe\ntests\nthe end", True),
        ("the tests", "run the tests", True),  # the box is too low for the whole of it
        ("漢", "漢字 and more", True),
        ("漢字", "漢 and more", False),
        ("???", "run the tests", False),
        ("xrun the tests", "run the tests", False),
        ("run the testsrun the tests", "run the tests", False),
        ("run [Pasted text #1 +3 lines]x", "run\nthe\ntests\n", False),
    ],
)
def test_only_a_text_and_nothing_else_is_held(draft, text, expected):
    assert drafts.holds(draft, text) == expected


@table(
    ("draft", "text", "expected"),
    [("run the\n  tests", "run the tests", True), ("the tests", "run the tests", False), ("漢字", "漢字", False)],
)
def test_the_whole_of_a_text_is_the_same_text(draft, text, expected):
    assert drafts.is_same(draft, text) == expected


def test_a_hostile_screen_holds_nobody_up():
    """This ends, as it can only if each pattern has one way through a screen."""
    for tool in drafts.INPUTS:
        for lines in ("  ┃ \n" * 4000, "❯ \n" * 4000, "› a\n  b\n" * 4000, "─" * 60000, "\x1b[2m" * 20000):
            drafts.draft_of(tool, RULES[tool].layout, lines)
