"""Reads what tools wrote into the copies of their conversations on the host, each file only where it has grown."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from .dialects import DIALECTS, Dialect, parse_line
from .prices import Message

FILES = 10_000  # transcripts of a session
LINE = 8 << 20  # bytes of a line; a longer one tells no usage
READ = 1 << 30  # bytes of a session's transcripts
MESSAGES = 200_000  # of a session
SESSIONS = 50  # whose messages are kept in memory
CHECKED = 4096  # bytes before the place where reading goes on: if they changed, the file is another one


@dataclass
class Transcript:
    """A transcript as far as it was read."""

    offset: int = 0  # bytes, up to the end of a line
    tail: bytes = b""  # hash of what stands before
    messages: dict[str, Message] = field(default_factory=dict)


class Ledger:
    """Reads transcripts, each only where it has grown."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, dict[str, Transcript]] = OrderedDict()  # by directory; the last used last

    def read(self, tool: str, directory: str) -> dict[str, Message] | None:
        """Every message of a saved conversation once, by its key, with the largest of its usages.

        None if there is too much, or the tool tells nothing.
        """
        dialect = DIALECTS.get(tool)
        if dialect is None:
            return None
        with self._lock:
            before = self._sessions.pop(directory, {})
            now: dict[str, Transcript] = {}
            merged: dict[str, Message] = {}
            left = READ
            for path in transcripts(os.path.join(directory, dialect.folder), dialect.suffix):
                with suppress(OSError), open_plain(path) as file:
                    left -= os.fstat(file.fileno()).st_size
                    if left < 0:
                        return None
                    now[path] = read_on(dialect, file, before.get(path, Transcript()))
                    merge(merged, now[path].messages.items())
                if len(merged) > MESSAGES or len(now) >= FILES:
                    return None
            self._sessions[directory] = now
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            return merged


def transcripts(folder: str, suffix: str) -> Iterator[str]:
    """The transcripts in a folder and below, those of subagents too. No link is followed."""
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in sorted(names) if name.endswith(suffix))


@contextmanager
def open_plain(path: str) -> Iterator[BinaryIO]:
    """Open a regular file that is no link. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no regular file")
        yield file


def read_on(dialect: Dialect, file: BinaryIO, known: Transcript) -> Transcript:
    """Read what a transcript has beyond what is known of it, or all of it if it is another one by now."""
    if known.offset and tail_of(file, known.offset) != known.tail:
        known = Transcript()
    messages, offset = dict(known.messages), known.offset
    file.seek(offset)
    while len(messages) <= MESSAGES and (line := file.readline(LINE)):
        start, offset = offset, offset + len(line)
        if not line.endswith(b"\n"):
            if len(line) < LINE:  # it is not written to its end yet
                offset = start
                break
            while (rest := file.readline(LINE)) and not rest.endswith(b"\n"):
                offset += len(rest)
            offset += len(rest)
        elif dialect.mark in line:
            merge(messages, parse_line(dialect, line, str(start)))
    return Transcript(offset, tail_of(file, offset), messages)


def tail_of(file: BinaryIO, offset: int) -> bytes:
    """The hash of what stands before a place in a file."""
    import hashlib

    begin = max(offset - CHECKED, 0)
    file.seek(begin)
    return hashlib.sha256(file.read(offset - begin)).digest()


def merge(into: dict[str, Message], found: Iterable[tuple[str, Message]]) -> None:
    """Keep the largest usage of each message: a transcript repeats it for each block and while it comes in."""
    for key, message in found:
        if key not in into or sum(message.tokens) > sum(into[key].tokens):
            into[key] = message
