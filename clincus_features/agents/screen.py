"""Cuts a tool's screen into its parts: a pure function over a table for each tool.

A tool draws its input box, or a dialog in its place, at the end of its screen. What an agent says stands above that
and may look like anything. Therefore a rule for a dialog sees nothing but the dialog.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Layout(NamedTuple):
    """How one tool draws the end of its screen: patterns of whole lines.

    The box is `top`, `prompt`, any number of `more`, `bottom`; an empty pattern stands for no line. The footer follows:
    anything below a `bottom`; with `rest`, a line of `foot` and lines of `rest`; else lines of `more`, from the first
    one of `foot` on.
    """

    prompt: str  # the first line of the input
    more: str  # its further lines
    top: str = ""  # the border above it
    bottom: str = ""  # the border below it
    foot: str = ""  # the first line of a footer without a border above it
    rest: str = ""  # the lines below `foot`
    covers: str = ""  # a line below a box that shows that a dialog has taken the place of the box
    head: str = ""  # the border above a dialog
    inner: str = ""  # a line that shows that the border above it is amid a dialog
    asks: str = ""  # a line of a dialog: what stands above a border is no box whose begin has left the screen then


class Screen(NamedTuple):
    """The parts of a screen. It has a box, a dialog, or neither where something unknown covers it."""

    body: tuple[str, ...] = ()  # what was asked and said
    dialog: tuple[str, ...] = ()  # with the border above it
    box: tuple[str, ...] = ()  # the lines of the input, without borders
    footer: tuple[str, ...] = ()  # all that stands below the box

    @property
    def lines(self) -> tuple[str, ...]:
        """The parts behind each other, without the borders of the box."""
        return (*self.body, *self.dialog, *self.box, *self.footer)


class Box(NamedTuple):
    """Where a box stands: the numbers of lines."""

    top: int
    begin: int  # of the input
    end: int
    footer: int


def cut(layout: Layout, lines: Sequence[str]) -> Screen:
    """Cut the lines of a screen, of which none is empty, into its parts."""
    box = find_box(layout, lines)
    if box is not None and not any(re.fullmatch(layout.covers, line) for line in lines[box.footer :] if layout.covers):
        body, inner = lines[: box.top], lines[box.begin : box.end]
        return Screen(tuple(body), (), tuple(inner), tuple(lines[box.footer :]))
    begin = find_dialog(layout, lines, box.footer if box is not None else 0)
    return Screen(tuple(lines[:begin]), tuple(lines[begin:]))


def find_box(layout: Layout, lines: Sequence[str]) -> Box | None:
    """The last input box on a screen, None if there is none."""
    for top in range(len(lines) - 1, -1, -1):
        found = box_at(layout, lines, top)
        if found is not None:
            return found
    return tall_box(layout, lines) if layout.asks else None


def tall_box(layout: Layout, lines: Sequence[str]) -> Box | None:
    """The input box whose begin has left the screen: its text fills all that is above its lower border."""
    end = next((at for at, line in enumerate(lines) if not re.fullmatch(layout.more, line)), 0)
    if end == 0 or not re.fullmatch(layout.bottom, lines[end]):
        return None
    is_dialog = any(re.fullmatch(f"{layout.asks}|{layout.bottom}", line) for line in lines[end + 1 :])
    return None if is_dialog else Box(0, 0, end, end + 1)


def box_at(layout: Layout, lines: Sequence[str], top: int) -> Box | None:
    """The input box that begins at a line, None if none does."""
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
        return Box(top, begin, end, end + 1) if is_closed else None
    has_foot = end < len(lines) and is_foot(layout, lines[end])
    is_last = has_foot or not layout.rest
    is_last = is_last and all(re.fullmatch(layout.rest or layout.more, line) for line in lines[end + has_foot :])
    return Box(top, begin, end, end) if is_last else None


def is_foot(layout: Layout, line: str) -> bool:
    """Whether a line is the first one of a footer without a border above it."""
    return bool(layout.foot and re.fullmatch(layout.foot, line))


def find_dialog(layout: Layout, lines: Sequence[str], after: int) -> int:
    """The number of the line at which a dialog begins: its border, or what follows the last box."""
    for at, line in enumerate(lines):
        if at >= after and layout.head and re.fullmatch(layout.head, line):
            below = lines[at + 1] if at + 1 < len(lines) else ""
            is_inner = layout.inner and re.fullmatch(layout.inner, below)
            return after if is_inner else at
    return after
