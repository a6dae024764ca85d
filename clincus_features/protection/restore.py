"""Restores a sealed path from its record. The thing in its place is put aside; nothing is deleted."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import clincus

from .identity import FILE_LIMIT, Copies, Item, Piece, note_item, opened, thing_at

ASIDE = "clincus-replaced"  # a container's file is kept beside it as NAME.clincus-replaced-…
FRESH = "clincus-fresh"
moved_by_us: set[str] = set()  # paths from which this process puts something aside, until inotify has reported it
MOST_SEARCHED = 20000  # entries of a folder that are searched for a renamed file


def restore(path: str, item: Item, copies: Mapping[str, bytes]) -> bool:
    """Restore a path. False if that is not possible: there is no copy, or no right to write."""
    try:
        if item.is_way:
            return find_folder(path, item)
        now = note_item(path, Copies())
        if now is not None and item.digest and now.content == item.content:
            return True
        with opened(os.path.dirname(path)) as parent:
            name = os.path.basename(path)
            try:
                put_aside(parent, name)
                if not is_copied(item, copies):
                    return False  # an absent file is not run
            except OSError as error:
                if error.errno != errno.EBUSY or not is_copied(item, copies):
                    return False
                refill(parent, name, item, copies)  # it is back in its place, and its seal with it
            else:
                make_anew(parent, name, item, copies)
    except OSError:
        return False
    return True


def make_anew(parent: int, name: str, item: Item, copies: Mapping[str, bytes]) -> None:
    """Create a file or folder at an empty place, in one step. Raises OSError."""
    fresh = f".{name}.{FRESH}-{secrets.token_hex(4)}"
    if item.kind == "file":
        write_file(parent, fresh, copies[item.digest], item)
    else:
        os.close(make_folder(parent, fresh))
        fill_folder(parent, fresh, item, copies)
    os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)


def refill(parent: int, name: str, item: Item, copies: Mapping[str, bytes]) -> None:
    """Give a file or folder that cannot be renamed its old content; keep its present content aside. Raises OSError."""
    aside = f"{name}.{ASIDE}-{secrets.token_hex(4)}"
    if item.kind == "file":
        with open(os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), "r+b") as file:
            write_file(parent, aside, file.read(FILE_LIMIT), item)
            file.seek(0)
            file.truncate()
            file.write(copies[item.digest])
            give(file.fileno(), item)
        return
    with ExitStack() as held:
        kept = held.enter_context(clincus.closing_descriptor(make_folder(parent, aside)))
        folder = held.enter_context(clincus.closing_descriptor(open_folder(parent, name)))
        for entry in os.listdir(folder)[:MOST_SEARCHED]:
            os.rename(entry, entry, src_dir_fd=folder, dst_dir_fd=kept)
    fill_folder(parent, name, item, copies)


def is_copied(item: Item, copies: Mapping[str, bytes]) -> bool:
    """True if there is a copy of the whole content."""
    if item.kind == "file":
        return item.digest in copies
    pieces = item.pieces
    is_plain = item.kind == "folder" and bool(item.digest) and all(one.kind != "other" for one in pieces)
    return is_plain and all(one.digest in copies for one in pieces if one.kind == "file")


def write_file(folder: int, name: str, data: bytes, like: Item | Piece) -> None:
    """Write a new file into a folder by its descriptor. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(data)
        file.flush()
        give(file.fileno(), like)
        os.fsync(file.fileno())


def fill_folder(parent: int, name: str, item: Item, copies: Mapping[str, bytes]) -> None:
    """Fill an empty folder with its recorded content. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folders = {"": os.open(name, flags, dir_fd=parent)}
    try:
        for piece in item.pieces:  # a folder comes before its content
            above, _, last = piece.path.rpartition("/")
            if piece.kind == "folder":
                folders[piece.path] = make_folder(folders[above], last)
            elif piece.kind == "link":
                os.symlink(piece.digest, last, dir_fd=folders[above])
            else:
                write_file(folders[above], last, copies[piece.digest], piece)
        known: dict[str, Item | Piece] = {piece.path: piece for piece in item.pieces}
        for path, descriptor in folders.items():
            give(descriptor, known.get(path, item))
    finally:
        for descriptor in folders.values():
            os.close(descriptor)


def open_folder(parent: int, name: str) -> int:
    """Open a folder in another one. Raises OSError, for a link too."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def make_folder(parent: int, name: str) -> int:
    """Make a folder and open it. Raises OSError."""
    os.mkdir(name, 0o700, dir_fd=parent)
    return open_folder(parent, name)


def give(descriptor: int, like: Item | Piece) -> None:
    """Give a file or folder its owner and its mode. Raises OSError for the mode."""
    with suppress(PermissionError):  # it is ours then, as the workspace is
        os.fchown(descriptor, like.uid, like.gid)
    os.fchmod(descriptor, like.mode & 0o777)


def put_aside(parent: int, name: str) -> str:
    """Rename the file at a name, so that nothing reads it any more; returns the new name. Raises OSError."""
    aside = f"{name}.{ASIDE}-{secrets.token_hex(4)}"
    with suppress(FileNotFoundError):
        os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
    return aside


def set_aside(path: str) -> str:
    """Rename the file at a path, so that nothing reads it any more; returns the new name. Raises OSError."""
    with opened(os.path.dirname(path)) as parent:
        return put_aside(parent, os.path.basename(path))


def why_not_aside(error: OSError) -> str:
    """The advice for a person if something dangerous to git could not be put aside."""
    return f"it could not be put aside ({error.strerror}): remove it before you run git there"


def find_folder(path: str, item: Item) -> bool:
    """Rename a folder back that was renamed within its parent. Raises OSError.

    While the wall is mounted on it that fails with EBUSY: then the thing in its place is put aside, so that git reads
    nothing.
    """
    if thing_at(path) == item.thing:
        return True
    with opened(os.path.dirname(path)) as parent:
        with clincus.closing_descriptor(open_folder(parent, ".")) as listed, os.scandir(listed) as entries:
            inodes = {entry.inode(): entry.name for entry, _ in zip(entries, range(MOST_SEARCHED))}
        put_aside(parent, os.path.basename(path))
        if item.inode in inodes:
            os.rename(inodes[item.inode], os.path.basename(path), src_dir_fd=parent, dst_dir_fd=parent)
    return thing_at(path) == item.thing


def remove_placeholder(path: str, item: Item) -> None:
    """Remove a placeholder that we restored: the wall removes only those that it made itself."""
    now = note_item(path, Copies())
    if not item.is_placeholder or now is None or now.content != item.content:
        return
    with suppress(OSError), opened(os.path.dirname(path)) as parent:
        name = os.path.basename(path)
        if item.kind == "file":
            os.unlink(name, dir_fd=parent)
            return
        with opened(path) as folder:
            for piece in item.pieces:
                os.unlink(piece.path, dir_fd=folder)
        os.rmdir(name, dir_fd=parent)
