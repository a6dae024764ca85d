"""Reads a part of a conversation, forwards or backwards from a place. A place is an offset in the file, in bytes.

A container has written the file, so an answer reads READ bytes of it at most, whatever they are, and each answer moves
on by at least one line or by READ bytes. No link is followed on the way to it.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import clincus

from . import claude
from .messages import Message, message

READ = 8 << 20  # bytes of an answer
TEXTS = 400_000  # characters of an answer, and one message more
LINE = 4 << 20  # bytes of a line
COMMAS = 100_000  # of a line: the value behind each takes up to 200 bytes while the line is parsed
DIGITS = 30  # of a number: Python took minutes for a million of them before 3.10.7
FILES = 2_000  # conversations of a session

NOT_SHOWN = "A message that is too large to be shown."


class Form(NamedTuple):
    """The place and the form of a tool's conversations."""

    folder: Sequence[str]  # below the home, as parts: a folder in it holds the files
    name: re.Pattern[str]  # of a file
    read: Callable[[Mapping[str, Any]], Iterable[Message]]  # the messages of a line


FORMS = {"claude": Form(claude.FOLDER, claude.NAME, claude.read)}


class Page(NamedTuple):
    """A part of a conversation."""

    messages: Sequence[Message] = ()
    start: int = 0  # the place of its begin: 0 if nothing is before it
    end: int = 0  # the place of its end
    size: int = 0  # bytes of the whole conversation


class Found(NamedTuple):
    """A conversation's file."""

    mtime: int  # nanoseconds since 1970
    folder: str  # its name
    name: str


@contextmanager
def open_newest(directory: str, form: Form) -> Iterator[tuple[int, str] | None]:
    """Open the file that was written last: its descriptor and name, None if there is none. No link is followed."""
    with ExitStack() as held:
        opened = None
        with suppress(OSError):
            top = held.enter_context(open_folder(directory))
            for part in form.folder:
                top = held.enter_context(open_folder(part, top))
            found = max(itertools.islice(conversations(top, form), FILES), default=None)
            if found is not None:
                place = held.enter_context(open_folder(found.folder, top))
                file = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
                held.callback(os.close, file)
                opened = file, found.name
        yield opened


@contextmanager
def open_folder(path: str, place: int | None = None) -> Iterator[int]:
    """Open a folder below another one, but no link to one. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def conversations(top: int, form: Form) -> Iterator[Found]:
    """The regular files in the folders below a folder that have the name of a conversation."""
    for folder in os.listdir(top)[:FILES]:
        with suppress(OSError), open_folder(folder, top) as place, os.scandir(place) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if form.name.fullmatch(entry.name) and stat.S_ISREG(status.st_mode):
                    yield Found(status.st_mtime_ns, folder, entry.name)


def read_before(file: int, form: Form, before: int | None, limit: int, words: str) -> Page:
    """The last messages before a place, or of all, that have some words (in lower case)."""
    size = os.fstat(file).st_size
    end = size if before is None else min(before, size)
    low = max(0, end - READ)
    data = os.pread(file, end - low, low)
    first = data.find(b"\n") + 1 if low else 0
    last = data.rfind(b"\n") + 1
    if before is None:  # the line behind is still being written: the next answer has it
        end = low + last
    if last <= first:  # all of it is the inside of one line
        return Page((), low, end, size)
    taken = Taken(limit)
    position = last
    while position > first and not taken.is_full:
        begin = max(first, data.rfind(b"\n", first, position - 1) + 1)
        taken.add(messages_of(form, data[begin:position], low + begin), words, is_older=True)
        position = begin
    return Page(taken.messages, low + position, end, size)


def read_after(file: int, form: Form, after: int, limit: int, words: str) -> Page:
    """The first messages after a place."""
    size = os.fstat(file).st_size
    start = min(after, size)
    data = os.pread(file, READ, start)
    last = data.rfind(b"\n") + 1
    if not last:  # the inside of a line, or one that is still being written
        return Page((), start, start + len(data) if len(data) == READ else start, size)
    taken = Taken(limit)
    position = 0
    while position < last and not taken.is_full:
        end = data.index(b"\n", position) + 1
        taken.add(messages_of(form, data[position:end], start + position), words, is_older=False)
        position = end
    return Page(taken.messages, start, start + position, size)


class Taken:
    """The messages of an answer."""

    def __init__(self, limit: int) -> None:
        self.messages: list[Message] = []
        self._limit = limit
        self._left = TEXTS

    @property
    def is_full(self) -> bool:
        """True if the answer takes no more lines."""
        return len(self.messages) >= self._limit or self._left <= 0

    def add(self, found: Iterable[Message], words: str, *, is_older: bool) -> None:
        """Add those messages of a line that have some words."""
        fitting = [one for one in found if not words or words in one.words.casefold()]
        self.messages = [*fitting, *self.messages] if is_older else [*self.messages, *fitting]
        self._left -= sum(len(one.words) for one in fitting)


def messages_of(form: Form, line: bytes, offset: int) -> list[Message]:
    """The messages of a line, with ids."""
    found: Iterable[Message] = ()
    if len(line) > LINE or line.count(b",") > COMMAS:
        found = [message("system", "notice", NOT_SHOWN)]
    else:
        with suppress(ValueError, RecursionError):
            entry = clincus.parse_json(line, parse_int=number)
            found = list(form.read(clincus.as_object(entry)))
    return [one._replace(id=f"{offset}.{index}") for index, one in enumerate(found)]


def number(digits: str) -> object:
    """A number; its digits if there are too many."""
    return int(digits) if len(digits) <= DIGITS else digits
