"""The identity of a sealed path: the file itself, and its content. No link is ever followed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import NamedTuple

import clincus

FILE_LIMIT = 1 << 20  # bytes of a file whose content is read and kept
COPIES_LIMIT = 4 << 20  # bytes of all copies of a workspace
MOST_PIECES = 2000  # files in the sealed folders of a workspace
DEEPEST = 8  # folders below a sealed one
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
# The forms of a placeholder of the wall's hook: SHA-256 of each text, and the one file in a folder.
PLACEHOLDER_TEXTS = ("", ".\n")
HIDING_FILE, HIDING_TEXT = ".gitignore", "*\n"


def digest_of(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


PLACEHOLDERS = {digest_of(text.encode()) for text in PLACEHOLDER_TEXTS}


class Piece(NamedTuple):
    """A file, link or folder in a sealed folder."""

    path: str  # relative to the folder
    kind: str
    mode: int
    uid: int
    gid: int
    links: int
    digest: str  # of the content, or the target of a link; "" if it was not read


class Item(NamedTuple):
    """A sealed path, or a folder on the way to one, as it was recorded."""

    kind: str  # "file", "folder", "link" or "other"
    device: int
    inode: int
    ctime: int  # nanoseconds
    links: int
    mode: int
    uid: int
    gid: int
    size: int
    digest: str = ""  # of the content; "" if it was not read
    pieces: tuple[Piece, ...] = ()
    is_way: bool = False  # a folder on the way to a sealed path, of which only the identity counts

    @property
    def thing(self) -> tuple[str, int, int]:
        """The identity of a file or folder."""
        return self.kind, self.device, self.inode

    @property
    def content(self) -> tuple[object, ...]:
        """The identity of a content."""
        if self.digest:
            return self.kind, self.digest, self.mode & 0o111 if self.kind == "file" else 0
        return self.kind, self.inode, self.size, self.ctime

    @property
    def is_placeholder(self) -> bool:
        """True if it is the wall's placeholder for an absent path, or is just as empty."""
        if self.kind == "file":
            return self.digest in PLACEHOLDERS
        hiding = [(HIDING_FILE, digest_of(HIDING_TEXT.encode()))]
        return self.kind == "folder" and [(one.path, one.digest) for one in self.pieces] in ([], hiding)

    @property
    def names(self) -> set[str]:
        """The content of a sealed folder, by path."""
        return {one.path for one in self.pieces}

    @property
    def has_other_names(self) -> bool:
        """True if its content can be reached, and so changed, under another name."""
        files: list[Item | Piece] = [self, *self.pieces]
        return any(one.kind == "file" and one.links > 1 for one in files)


class Copies:
    """The content of sealed files, read within the limits of a workspace."""

    def __init__(self, used: int = 0) -> None:
        self.data: dict[str, bytes] = {}  # by SHA-256
        self._left = COPIES_LIMIT - used
        self.pieces_left = MOST_PIECES

    def keep(self, data: bytes) -> str:
        """Keep a copy if there is room; returns the digest."""
        digest = digest_of(data)
        if digest not in self.data and len(data) <= self._left:
            self.data[digest] = data
            self._left -= len(data)
        return digest


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor (O_PATH) of an absolute path, opened step by step; for a link, of the link itself.

    Raises OSError, also for a link on the way.
    """
    parts = [part for part in path.split("/") if part]
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, part in enumerate(parts, 1):
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part, flags | (os.O_DIRECTORY if number < len(parts) else 0), dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def thing_at(path: str) -> tuple[str, int, int] | None:
    """The file or folder at a path, as `Item.thing`; None for an empty place."""
    try:
        with opened(path) as descriptor:
            found = os.fstat(descriptor)
    except OSError:
        return None
    return kind_of(found), found.st_dev, found.st_ino


def steps_to(path: str, source: str) -> list[str]:
    """The folders on the way from a folder to a path in it, and the path itself."""
    return [f"{source}/{step}" for step in accumulate(path[len(source) + 1 :].split("/"), "{}/{}".format)]


def kind_of(found: os.stat_result) -> str:
    """The kind of an `Item`."""
    return KINDS.get(stat.S_IFMT(found.st_mode), "other")


def note_item(path: str, copies: Copies, *, is_way: bool = False) -> Item | None:
    """The present identity of a path, with copies of its content; None if it is absent or cannot be reached."""
    try:
        with opened(path) as descriptor:
            found = os.fstat(descriptor)
            kind = kind_of(found)
            digest = ""
            pieces: tuple[Piece, ...] = ()
            if kind == "file" and not is_way:
                digest = read_digest(descriptor, copies)
            elif kind == "folder" and not is_way:
                pieces = tuple(pieces_in(descriptor, copies))
                rows = [(one.path, one.kind, one.mode & 0o111, one.digest) for one in pieces]
                is_whole = all(one.digest or one.kind == "folder" for one in pieces)
                digest = digest_of(json.dumps(rows).encode()) if is_whole else ""
    except OSError:
        return None
    numbers = found.st_dev, found.st_ino, found.st_ctime_ns, found.st_nlink
    mode = stat.S_IMODE(found.st_mode)
    return Item(kind, *numbers, mode, found.st_uid, found.st_gid, found.st_size, digest, pieces, is_way)


def read_digest(descriptor: int, copies: Copies) -> str:
    """The digest of a file by its O_PATH descriptor; "" if it is too large, or not ours to read."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with suppress(OSError), open(os.open(f"/proc/self/fd/{descriptor}", flags), "rb") as file:
        data = file.read(FILE_LIMIT + 1)
        return copies.keep(data) if len(data) <= FILE_LIMIT else ""
    return ""


def pieces_in(folder: int, copies: Copies, above: str = "", depth: int = 0) -> Iterator[Piece]:
    """All entries below a folder given by its descriptor, sorted, within the limits."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with suppress(OSError), clincus.closing_descriptor(os.open(f"/proc/self/fd/{folder}", flags)) as listed:
        with os.scandir(listed) as entries:
            names = sorted(entry.name for entry, _ in zip(entries, range(copies.pieces_left)))
        for name in names:
            yield from piece_at(listed, name, copies, above, depth)


def piece_at(folder: int, name: str, copies: Copies, above: str, depth: int) -> Iterator[Piece]:
    """One entry of a folder, and everything below it."""
    copies.pieces_left -= 1
    if copies.pieces_left < 0:
        return
    try:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    with clincus.closing_descriptor(descriptor):
        found = os.fstat(descriptor)
        kind = kind_of(found)
        digest = ""
        if kind == "file":
            digest = read_digest(descriptor, copies)
        elif kind == "link":
            digest = os.readlink(name, dir_fd=folder)
        path = f"{above}{name}"
        owner = found.st_uid, found.st_gid
        yield Piece(path, kind, stat.S_IMODE(found.st_mode), *owner, found.st_nlink, digest)
        if kind == "folder" and depth < DEEPEST:
            yield from pieces_in(descriptor, copies, f"{path}/", depth + 1)
