"""Reads the text in a tool's input, and compares it with the typed text: pure functions over a screen with colours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from clincus_features.agents.screen import Layout, cut
from clincus_features.agents.texts import clean_lines

SCREEN_LINES = 80  # of a screen that gets input: a long text makes a high box

COLOURS = re.compile(r"\x1b\[([0-9;:]*)m")
# Other sequences in the output of `tmux capture-pane -e`: links, and the change to a set of line drawing characters.
OTHERS = re.compile(r"\x1b\][^\x1b\x07]*(?:\x1b\\|\x07)|[\x0e\x0f]")
# A tool may draw these dim although they are not a placeholder: the beginning of its input, and borders.
SIGNS = "❯›>!*─│┃╭╮╰╯╹▀▄"
FRAME = re.compile(r"^ *┃ *| {8,}.*$", re.MULTILINE)  # to the left of a text, and to its right
CUT_SIGNS = 100  # of a prompt: a shorter one is never cut
# A long paste as each tool shows it, such as `[Pasted text #1 +3 lines]`.
PASTED = re.compile(r"\[Paste[^\]]*\]")


class Input(NamedTuple):
    """The place where a tool shows typed text: a pattern with a group `text`."""

    pattern: str
    is_whole: bool = False  # search the whole screen, with its empty lines, instead of the box
    placeholder: str = ""  # pattern of the text in an empty input that is not dim


# Seen with the versions of rules.py. The first character of the box is ❯ while the tool takes a prompt. The sign for a
# shell command counts as text, so Clincus types no prompt there.
SIGNED = Input(r"\A❯?\s?(?P<text>(?s:.*))")
INPUTS: Mapping[str, Input] = {
    "claude": SIGNED,
    "copilot": SIGNED,
    "codex": Input(r"(?s:.*)^›(?P<text>.*(?:\n {2}\S.*)*)", is_whole=True),
    # The last line of its box names the agent and the model.
    "opencode": Input(
        r"(?s:.*)^(?! *┃).*\n(?P<text>(?: *┃.*\n)+) *┃ +\S+ · .*\n *╹", is_whole=True, placeholder=r"Ask anything… "
    ),
    "gemini": Input(r"^ [*>] +(?P<text>.*(?:\n {3}.*)*)", placeholder=r"Type your message or @path/to/file"),
    "aider": Input(r"\A(?:[a-z]+ )*[a-z]*>\s?(?P<text>(?s:.*))"),
}


class Cell(NamedTuple):
    """A character on a screen."""

    text: str
    is_dim: bool
    is_reverse: bool


def plain(screen: str) -> str:
    """A screen without its colours."""
    return COLOURS.sub("", OTHERS.sub("", screen))


def cells_of(screen: str) -> Iterator[list[Cell]]:
    """The lines of a screen. A colour continues in the next line, as tmux prints it."""
    is_dim = is_reverse = False
    for line in OTHERS.sub("", screen).split("\n"):
        cells: list[Cell] = []
        for number, piece in enumerate(COLOURS.split(line)):
            if number % 2:
                is_dim, is_reverse = after_codes(piece, is_dim=is_dim, is_reverse=is_reverse)
            else:
                cells += [Cell(char, is_dim, is_reverse) for char in piece]
        yield cells


def after_codes(codes: str, *, is_dim: bool, is_reverse: bool) -> tuple[bool, bool]:
    """The state after a sequence of colours: True if the text is dim, and True if it is in reverse video."""
    numbers = iter(codes.split(";"))
    for number in numbers:
        if number in ("38", "48", "58"):  # a colour of its own: by its number, or by three parts
            parts = 1 if next(numbers, "") == "5" else 3
            for _ in range(parts):
                next(numbers, "")
        elif number in ("", "0"):
            is_dim = is_reverse = False
        elif number in ("2", "22"):
            is_dim = number == "2"
        elif number in ("7", "27"):
            is_reverse = number == "7"
    return is_dim, is_reverse


def without_placeholders(screen: str) -> str:
    """A screen without dim text, such as a placeholder. The cursor may hide that its first character is dim."""
    lines = []
    for cells in cells_of(screen):
        following = [*cells[1:], Cell(" ", is_dim=False, is_reverse=False)]
        kept = [
            cell.text
            for cell, after in zip(cells, following)
            if cell.text in SIGNS or not (cell.is_dim or (cell.is_reverse and after.is_dim))
        ]
        lines.append("".join(kept))
    return "\n".join(lines)


def draft_of(tool: str, layout: Layout | None, screen: str, below: int | None = None) -> str | None:
    """The text in a tool's input; None if it cannot be read, or if the screen does not show the input.

    `screen` is with colours, as `tmux capture-pane -e` prints it; `below` is as in `cut`.
    """
    place = INPUTS.get(tool)
    if place is None or layout is None:
        return None
    if not cut(layout, clean_lines(plain(screen), SCREEN_LINES), below).box:
        return None
    typed = without_placeholders(screen)
    shown = [line.rstrip() for line in typed.split("\n")]
    lines = shown if place.is_whole else cut(layout, clean_lines(typed, SCREEN_LINES), below).box
    found = re.search(place.pattern, "\n".join(lines), re.MULTILINE)
    if found is None:
        return None
    text = FRAME.sub("", found["text"]).strip()
    return "" if place.placeholder and re.match(place.placeholder, text) else text


def letters(text: str) -> str:
    """The letters and digits of a text that every terminal shows as they are."""
    return re.sub("[^A-Za-z0-9]", "", text)


def signs(text: str) -> str:
    """The letters and digits of a text, in any script; if it has none, all of its characters but the blanks."""
    return "".join(filter(str.isalnum, text)) or "".join(text.split())


def holds(draft: str, text: str) -> bool:
    """True if a tool's input holds a text and nothing else. It may show a part of a long one, or its length."""
    shown = PASTED.sub("", draft)
    if letters(shown) or shown != draft:
        return letters(shown) in letters(text)
    return bool(draft) and signs(draft) in signs(text)


def is_same(draft: str, text: str) -> bool:
    """True if a tool's input shows the whole of a text and nothing else."""
    return bool(letters(text)) and letters(draft) == letters(text)


def is_prompt_told(shown: str, told: str) -> bool:
    """True if a screen shows exactly the prompt that a tool's hook has reported; either may be cut."""
    one = signs(shown)
    other = signs(told)
    short, long = sorted((one, other), key=len)
    return bool(short) and (one == other or (len(short) >= CUT_SIGNS and long.startswith(short)))


def is_inserted(before: str, now: str, text: str) -> bool:
    """True if a screen is an earlier one with a text inserted. The first lines may have scrolled out of it."""
    gone = len(before) + len(text) - len(now)
    if not 0 <= 2 * gone <= len(before):
        return False
    before = before[gone:]
    begin = length_in_common(before, now)
    end = len(before) - length_in_common(before[::-1], now[::-1])
    return any(now.startswith(text, at) for at in range(end, begin + 1))


def length_in_common(one: str, other: str) -> int:
    """The length of the longest text with which both texts begin."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)
