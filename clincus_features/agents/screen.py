"""Cuts a tool's screen into its parts: a pure function over a table for each tool.

A tool draws its input box, or a dialog in its place, at the end of its screen. The agent's words are above that, and
may look like anything. A rule for a dialog therefore sees only the dialog.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Layout(NamedTuple):
    """How one tool draws the end of its screen: patterns of whole lines.

    The box is `top`, `prompt`, any number of `more`, `bottom`; an empty pattern stands for no line. The footer follows:
    anything below a `bottom`, else lines of `more`, from the first one of `foot` on.
    """

    prompt: str  # the first line of the input
    more: str  # its further lines
    top: str = ""  # the border above it
    bottom: str = ""  # the border below it
    foot: str = ""  # the first line of a footer without a border above it
    covers: str = ""  # a line below a box that shows that a dialog has taken the place of the box
    head: str = ""  # the border above a dialog
    # A line that shows that the border above it is within a dialog. Without this pattern the last border is the
    # dialog's: the agent's words may have a border too.
    inner: str = ""
    bar: str = ""  # the sign of a scroll bar at the right
    block: str = ""  # each line of a box or a dialog that has no border above it
    floats: str = ""  # the first line of a panel that covers the rest while the cursor is outside the box
    asks: str = ""  # a line of a dialog: the text above a border is then not a box whose beginning has left the screen
    ends: str = ""  # a line of the tool's own below all lines of a user's status line, whatever these look like


class Screen(NamedTuple):
    """The parts of a screen. It has a box, a dialog, or neither where something unknown covers it."""

    body: tuple[str, ...] = ()  # the conversation
    dialog: tuple[str, ...] = ()  # with the border above it
    box: tuple[str, ...] = ()  # the lines of the input, without borders
    footer: tuple[str, ...] = ()  # everything below the box

    @property
    def lines(self) -> tuple[str, ...]:
        """The parts in their order, without the borders of the box."""
        return (*self.body, *self.dialog, *self.box, *self.footer)


class Box(NamedTuple):
    """The place of a box, by the numbers of lines."""

    top: int
    begin: int  # of the input
    end: int
    footer: int


def cut(layout: Layout, lines: Sequence[str], below: int | None = None) -> Screen:
    """Cut the lines of a screen, without empty ones, into its parts.

    `below` is the number of lines below the cursor, None if the cursor is hidden or its place unknown. An agent's words
    may look like a panel, but they cannot move the cursor.
    """
    if layout.bar:
        lines = list(filter(None, (line.removesuffix(layout.bar).rstrip() for line in lines)))
    box = find_box(layout, lines)
    footer = lines[box.footer :] if box is not None else []
    if box is None or is_covered(layout, footer):
        # A box without a lower border is not told from a dialog that follows a prompt.
        begin = find_dialog(layout, lines, box.footer if box is not None and layout.bottom else 0)
        return Screen(tuple(lines[:begin]), tuple(lines[begin:]))
    cursor = len(lines) - 1 - below if below is not None else None
    panel = None if has_cursor(box, cursor) else find_panel(layout, lines[: box.top], cursor)
    if panel is not None:
        return Screen(tuple(lines[:panel]), tuple(lines[panel : box.top]), (), tuple(footer))
    return Screen(tuple(lines[: box.top]), (), tuple(lines[box.begin : box.end]), tuple(footer))


def is_covered(layout: Layout, footer: Sequence[str]) -> bool:
    """True if a dialog below a box has taken its place. A status line of the user's own may have a border too."""
    footer = below_status(layout, footer)
    is_like_one = bool(layout.covers) and any(re.fullmatch(layout.covers, line) for line in footer)
    return is_like_one and (not layout.asks or any(re.fullmatch(layout.asks, line) for line in footer))


def below_status(layout: Layout, footer: Sequence[str]) -> Sequence[str]:
    """The lines of a footer that are not of a user's status line.

    No dialog ends with the line that follows it, but the subject of one may have such a line.
    """
    ends = [at for at, line in enumerate(footer) if layout.ends and re.fullmatch(layout.ends, line)]
    below = footer[ends[-1] :] if ends else footer
    return footer if any(re.fullmatch(layout.asks, line) for line in below) else below


def find_panel(layout: Layout, lines: Sequence[str], cursor: int | None) -> int | None:
    """The number of the line above a box at which a panel over it begins; None without a panel.

    The panel's head is the last one above the cursor. If the cursor is visible and no head is found, all lines count as
    a panel. If the cursor is hidden, the tool may be drawing.
    """
    if not layout.floats:
        return None
    above = lines if cursor is None else lines[: max(0, cursor)]
    head = next((at for at in range(len(above) - 1, -1, -1) if re.fullmatch(layout.floats, lines[at])), None)
    return 0 if head is None and cursor is not None else head


def find_box(layout: Layout, lines: Sequence[str]) -> Box | None:
    """The last input box on a screen, None without one."""
    for top in range(len(lines) - 1, -1, -1):
        found = box_at(layout, lines, top)
        if found is not None:
            return found
    return tall_box(layout, lines) if layout.asks else None


def tall_box(layout: Layout, lines: Sequence[str]) -> Box | None:
    """The input box whose beginning has left the screen: its text fills everything above its lower border."""
    end = next((at for at, line in enumerate(lines) if not re.fullmatch(layout.more, line)), 0)
    if end == 0 or not re.fullmatch(layout.bottom, lines[end]):
        return None
    footer = below_status(layout, lines[end + 1 :])
    is_dialog = any(re.fullmatch(f"{layout.asks}|{layout.bottom}", line) for line in footer)
    return None if is_dialog else Box(0, 0, end, end + 1)


def box_at(layout: Layout, lines: Sequence[str], top: int) -> Box | None:
    """The input box that begins at a line; None if none does."""
    begin = top + bool(layout.top)
    if layout.top and not re.fullmatch(layout.top, lines[top]):
        return None
    if begin == len(lines) or not re.fullmatch(layout.prompt, lines[begin]):
        return None
    end = begin + 1
    while end < len(lines) and re.fullmatch(layout.more, lines[end]) and not is_foot(layout, lines[end]):
        end += 1
    if layout.bottom:
        is_closed = end < len(lines) and re.fullmatch(layout.bottom, lines[end])
        if layout.block:
            top = begin = begin_of_block(layout, lines, begin)
        return Box(top, begin, end, end + 1) if is_closed else None
    has_foot = end < len(lines) and is_foot(layout, lines[end])
    is_last = all(re.fullmatch(layout.more, line) for line in lines[end + has_foot :])
    return Box(top, begin, end, end) if is_last else None


def begin_of_block(layout: Layout, lines: Sequence[str], end: int, after: int = 0) -> int:
    """The first line of a block of lines that ends before a line."""
    return next((at for at in range(end, after, -1) if not re.fullmatch(layout.block, lines[at - 1])), after)


def has_cursor(box: Box, cursor: int | None) -> bool:
    """True if the cursor, in that line, is in a box."""
    return cursor is not None and box.top <= cursor < box.footer


def is_foot(layout: Layout, line: str) -> bool:
    """True if a line is the first one of a footer without a border above it."""
    return bool(layout.foot and re.fullmatch(layout.foot, line))


def find_dialog(layout: Layout, lines: Sequence[str], after: int) -> int:
    """The number of the line at which a dialog begins: its border, or the line after the last box."""
    if layout.block:
        end = next((at for at in range(len(lines), after, -1) if re.fullmatch(layout.block, lines[at - 1])), after)
        return begin_of_block(layout, lines, end, after)
    heads = [at for at in range(after, len(lines) - 1) if layout.head and re.fullmatch(layout.head, lines[at])]
    if not heads:
        return after
    if not layout.inner:
        return heads[-1]
    below = lines[heads[0] + 1] if heads[0] + 1 < len(lines) else ""
    return after if re.fullmatch(layout.inner, below) else heads[0]
