"""The choices of a dialog, as they are read off a screen, and the keys that take one."""

from __future__ import annotations

from clincus_features.agents.menus import Menu, across_menu, lettered_menu, read_menu
from tests.table import table

RULE = "─" * 80
NUMBERED = [RULE, "Which colour?", "  1. Red", "     Like a rose", "❯ 2. Green", "Enter to select"]
FRAMED = ["│ 1. an old one │", "│ Run this?  │", "│ ❯ 1. Yes   │", "│   2. No    │"]
# Seen with Copilot CLI 1.0.102 in 44 columns.
NARROW = [
    *("│ Do you want to run this command?         │", "│                                          │"),
    *("│ ❯ 1. Yes                                 │", "│  2. Yes, and don't ask again for `touch` │"),
    *("│   in this repo (~/ws)                    │", "│   3. No (Esc)                            │"),
]
MARKED = [RULE, " Is this a project you trust?", " ❯ No, exit", "   Yes, I trust this folder", " Enter to confirm"]
DESCRIBED = [RULE, "  Which one?", "    Red", "      Like a rose", "  ❯ Green", "    Blue"]
TICKS = [
    RULE,
    "Which?",
    "❯ 1. [ ] Red",
    "     ❯ 1. Yes",
    "       2. No",
    "  2. [ ] Green",
    "     1. Yes",
    "  3. [ ] Type something",
]
WRAPPED = [RULE, "  ❯ Yes, set the mode that asks nobody for anything as my very own", "    default", "    No"]

SCREENS = {
    "numbers": (NUMBERED, ("Red", "Green"), 1, 2),
    "numbers in a frame": (FRAMED, ("Yes", "No"), 0, 2),
    "numbers amid a description": (TICKS, ("[ ] Red", "[ ] Green", "[ ] Type something"), 0, 2),
    "numbers in a command to the left": (["1. rm", "2. cp", "  ❯ 1. Yes", "    2. No"], ("Yes", "No"), 0, 2),
    "numbers that a narrow screen moves": (NARROW, ("Yes", "Yes, and don't ask again for `touch`", "No (Esc)"), 0, 2),
    "a mark that moves the number": (["1. Yes", "> 2. No"], ("Yes", "No"), 1, 0),
    "a mark": (MARKED, ("No, exit", "Yes, I trust this folder"), 0, 2),
    "a mark amid descriptions": (DESCRIBED, ("Red", "Green", "Blue"), 1, 2),
    "a mark below an answer that is a list": (
        ["● 1. Apples", "  2. Pears", *MARKED],
        ("No, exit", "Yes, I trust this folder"),
        0,
        4,
    ),
    "a label that may go on in the next line": (WRAPPED, (), 0, None),
    "a single line with a mark": (["❯ hello", "● hello"], (), 0, None),
}


@table(("lines", "labels", "chosen", "first"), SCREENS.values(), ids=SCREENS.keys())
def test_choices_are_read_with_the_one_that_is_chosen(lines, labels, chosen, first):
    assert read_menu(lines)[:3] == (labels, chosen, first)


def test_a_line_of_blanks_holds_nobody_up():
    """This ends, as it can only if a line is read once, and not for each end that a label could have."""
    assert read_menu([f"1. Yes{100_000 * ' '}or no"]).labels == ("Yes or no",)


KEYS = {
    "down": (Menu(("a", "b", "c"), chosen=0), 2, ("Down", "Down", "Enter")),
    "up": (Menu(("a", "b", "c"), chosen=2), 1, ("Up", "Enter")),
    "here": (Menu(("a", "b"), chosen=1), 1, ("Enter",)),
    "letters": (lettered_menu("(Y)es/(N)o/(D)on't ask again "), 2, ("d", "Enter")),
    "across": (across_menu("Allow once   Allow always   Reject"), 2, ("Right", "Right", "Enter")),
}


@table(("menu", "option", "keys"), KEYS.values(), ids=KEYS.keys())
def test_the_way_to_a_choice_begins_where_the_mark_is(menu, option, keys):
    assert menu.steps_to(option) == keys
