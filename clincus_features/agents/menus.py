"""Reads the choices of a dialog on a tool's screen, and the keys that take them: pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from clincus_features.agents.texts import OPTION_LIMIT, OPTIONS, clean

FRAME = r"^\s*(?:[│┃]\s*)?(?:[↑↓] )?"  # an arrow shows that a list goes on outside the screen
# `❯ 1. Yes`
NUMBERED = re.compile(FRAME + r"(?P<mark>[❯›>→●]\s*)?(?P<number>\d)[.)]\s+(?P<label>\S.*)")
# `❯ Yes`
MARKED = re.compile(r"^(?P<before> *[❯›] )(?P<label>\S.*)$")
TICKS = re.compile(r"\[[ ✔x]?\]|[☐☑☒◻◼✔]")  # the mark that says whether a choice, or one of several questions, is taken
# Columns by which the numbers of a list may differ: Copilot CLI moves one where it wraps its label. A description
# begins three columns to the right of the number or more.
SHIFT = 2
MARGIN = 8  # columns at the right that a tool may leave empty where it wraps a line


class Menu(NamedTuple):
    """The choices of a dialog, in their order."""

    labels: tuple[str, ...] = ()
    chosen: int = 0  # the one that Enter takes, counted from 0
    first: int | None = None  # the line of the screen that has the first one; None for none, or for choices in one line
    is_numbered: bool = False
    keys: tuple[str, str] = ("Up", "Down")  # keys to the last one, and to the next one
    letters: str = ""  # the letter that takes each choice, if letters do
    is_marked: bool = False  # a sign shows `chosen`; if not, a colour may show another one, which is not read

    def steps_to(self, option: int) -> tuple[str, ...]:
        """The keys that take an option, counted from 0, if numbers have no effect."""
        if self.letters:
            return self.letters[option], "Enter"
        away = option - self.chosen
        return (*(self.keys[away > 0],) * abs(away), "Enter")


def read_menu(lines: Sequence[str]) -> Menu:
    """The last choices on a screen; none if they are uncertain.

    A mark at a line without a number decides: the text above may contain a numbered list.
    """
    menu = numbered_menu(lines)
    is_elsewhere = any(MARKED.match(line) and not NUMBERED.match(line) for line in lines[menu.first :])
    return marked_menu(lines) if is_elsewhere or not menu.labels else menu


class Choice(NamedTuple):
    """A line with a number."""

    at: int
    number: int
    label: str
    is_marked: bool
    columns: tuple[int, int]  # of the mark, or the number without one, and of the number


def numbered_menu(lines: Sequence[str]) -> Menu:
    """Choices with numbers, from the first one on.

    A description below a choice is an agent's own words, and may have numbers too, further to the right.
    """
    lists: list[list[Choice]] = []  # each but the first is further to the right than the one before it
    for at, line in enumerate(lines):
        match = NUMBERED.match(line)
        if match is None:
            continue
        columns = match.start("mark" if match["mark"] else "number"), match.start("number")
        label = clean(match["label"].rstrip("│┃ "), OPTION_LIMIT)
        choice = Choice(at, int(match["number"]), label, bool(match["mark"]), columns)
        place = next((n for n in range(len(lists) - 1, -1, -1) if continues(lists[n], choice)), None)
        if place is not None:
            del lists[place + 1 :]
            lists[place].append(choice)
        elif choice.number == 1:
            lists = [one for one in lists if one[0].columns[1] + SHIFT < columns[1]]
            lists.append([choice])
    # A list to the left may also stand in the text above the choices. Tools write choices of their own last.
    found = next((one for one in reversed(lists) if is_marked(one)), lists[-1] if lists else [])
    labels = tuple(choice.label for choice in found[:OPTIONS])
    chosen = max((choice.number - 1 for choice in found if choice.is_marked), default=0)
    return Menu(labels, chosen, found[0].at if found else None, is_numbered=True, is_marked=is_marked(found))


def continues(choices: Sequence[Choice], choice: Choice) -> bool:
    """True if a line is the next choice of a list. A mark may move the number to the right."""
    away = min(abs(one - other) for one in choices[0].columns for other in choice.columns)
    return choice.number == len(choices) + 1 and away <= SHIFT


def is_marked(choices: Sequence[Choice]) -> bool:
    """True if a sign shows the one of some choices that Enter takes."""
    return any(choice.is_marked for choice in choices)


def marked_menu(lines: Sequence[str]) -> Menu:
    """Choices without numbers: the line with the mark, and its neighbours whose text begins in the same column.

    If a label may have been wrapped, its second half would look like a choice, so no choices are returned.
    """
    at = next((at for at in range(len(lines) - 1, -1, -1) if MARKED.match(lines[at])), None)
    if at is None:
        return Menu()
    column = len(MARKED.sub(r"\g<before>", lines[at]))
    width = max(map(len, lines))

    def indent(line: str) -> int:
        return len(line) - len(line.lstrip())

    begin = at
    end = at + 1
    while begin > 0 and indent(lines[begin - 1]) >= column:
        begin -= 1
    while end < len(lines) and indent(lines[end]) >= column:
        end += 1
    block = lines[begin:end]
    for line, following in zip(block, block[1:]):
        if len(line) + 1 + len(following.split()[0]) > width - MARGIN:
            return Menu()
    rows = [row for row in range(begin, end) if row == at or indent(lines[row]) == column]
    labels = tuple(clean(lines[row][column:], OPTION_LIMIT) for row in rows)
    return Menu(labels[:OPTIONS], rows.index(at), begin, is_marked=True) if len(rows) > 1 else Menu()


def across_menu(text: str) -> Menu:
    """Choices in one line, with blanks between them; the first one is chosen unless a mark shows another one."""
    labels = re.split(r" {2,}", text.strip())[:OPTIONS]
    marked = next((at for at, label in enumerate(labels) if label.startswith("❯ ")), None)
    names = tuple(clean(label.removeprefix("❯ "), OPTION_LIMIT) for label in labels)
    return Menu(names, marked or 0, keys=("Left", "Right"), is_marked=marked is not None)


def lettered_menu(text: str) -> Menu:
    """Choices in one line, each with the letter that takes it: `(Y)es/(N)o`."""
    choices = re.findall(r"\(([A-Z])\)([^/]*)", text)[:OPTIONS]
    labels = tuple(clean(letter + rest, OPTION_LIMIT) for letter, rest in choices)
    return Menu(labels, letters="".join(letter.lower() for letter, _ in choices))
