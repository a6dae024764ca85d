"""Compares two states of a workspace: the list of changed files, and both texts of one file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import clincus
from clincus_features.review.store import Store

LISTED = 10_000  # files of one list
LIST_BYTES = 16 << 20  # bytes of git's output for such a list
TEXT_LIMIT = 1 << 20  # bytes of a text that is shown
IMAGE_LIMIT = 10 << 20
PATCH_LIMIT = 8 << 20
LINK = "120000"  # mode of a symbolic link
NONE = "000000"  # mode of a side without the file
DIFF = ("diff-tree", "-r", "-z", "--no-abbrev", "--no-ext-diff", "--no-textconv")


class Side(NamedTuple):
    """A file in one of the two states."""

    mode: str
    blob: str


@dataclass
class Change:
    """A file that differs. `added` and `removed` count lines; None if git did not count them."""

    path: str
    old_path: str  # before a rename, else ""
    status: str  # A, M, D, R, T
    old: Side
    new: Side
    added: int | None = None
    removed: int | None = None
    binary: bool = False

    def document(self, touched: bool, runs: str) -> dict[str, object]:
        """The change for the API; `runs` is the occasion on which the file runs by itself on the host."""
        shown = {key: value for key, value in vars(self).items() if key not in ("old", "new")}
        shown["version"] = self.new.blob
        shown["touched"] = touched
        shown["runs"] = "" if self.status == "D" else runs
        return shown


class Changes(NamedTuple):
    """A list of changes."""

    files: list[Change]
    truncated: bool  # there are more

    @property
    def counts(self) -> dict[str, int]:
        """The number of files, and of the lines that git counted."""
        return {
            "files": len(self.files),
            "added": sum(change.added or 0 for change in self.files),
            "removed": sum(change.removed or 0 for change in self.files),
        }

    def find(self, path: str) -> Change:
        """The change of a file. Raises ClincusError(404)."""
        for change in self.files:
            if change.path == path:
                return change
        shown = clincus.shorten(path)
        raise clincus.ClincusError(f"{shown} has not changed between these two: choose others", 404)


def list_changes(store: Store, old: str, new: str, *, renames: bool = True, most: int = LISTED) -> Changes:
    """Ask git for the changes from one tree to another. Raises ClincusError(500).

    A list that takes too long or is too large comes without counts, or in part. Without `renames`, a moved file is one
    deleted and one new file, and lines are not counted.
    """
    if old == new:
        return Changes([], False)
    how = ["--numstat", "-M", "-l400"] if renames else ["--no-renames"]
    command = [*DIFF, "--raw", *how, old, new]
    output, is_whole = store.read_some(command, LIST_BYTES)
    files = parse_changes(output)
    is_cut = not is_whole and is_list_cut(output)
    return Changes(files[:most], is_cut or len(files) > most)


def is_list_cut(output: bytes) -> bool:
    """True if the list itself is incomplete, and not only the counts after it."""
    complete, end, _ = output.rpartition(b"\0")
    last = complete.rpartition(b"\0")[2]
    return not end or last.startswith(b":")


def parse_changes(output: bytes) -> list[Change]:
    """Read the output of `git diff-tree --raw --numstat -z` (git-diff-tree(1), "RAW OUTPUT FORMAT"). Pure.

    Skips an entry that is cut off.
    """
    fields = iter(output.split(b"\0")[:-1])
    changes: dict[bytes, Change] = {}
    for field in fields:
        if field.startswith(b":"):
            change = parse_raw(field.decode("ascii", "replace").split(), fields)
            if change:
                changes[os.fsencode(change.path)] = change
        else:
            take_counts(field, fields, changes)
    return list(changes.values())


def parse_raw(words: list[str], fields: Iterator[bytes]) -> Change | None:
    """One entry of the list; its paths are the next fields. None if these are cut off."""
    old_mode, new_mode, old_blob, new_blob, status = words
    letter = status[0]
    wanted = 2 if letter in "RC" else 1
    paths = [os.fsdecode(path) for path in itertools.islice(fields, wanted)]
    if len(paths) < wanted:
        return None
    return Change(
        path=paths[-1],
        old_path=paths[0] if wanted == 2 else "",
        status=letter,
        old=Side(old_mode[1:], old_blob),
        new=Side(new_mode, new_blob),
    )


def take_counts(field: bytes, fields: Iterator[bytes], changes: dict[bytes, Change]) -> None:
    """Set the counts of a change; `-` stands for a binary file."""
    added, removed, path = [*field.split(b"\t", 2), b"", b""][:3]
    if not path:  # for a rename, two fields of their own hold the paths
        next(fields, b"")
        path = next(fields, b"")
    change = changes.get(path)
    if change is None:
        return
    if added.isdigit() and removed.isdigit():
        change.added = int(added)
        change.removed = int(removed)
    elif added == b"-":
        change.added = 0
        change.removed = 0
        change.binary = True


def touched_paths(store: Store, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """The paths that differ between the two trees of any pair."""
    asked = "".join(f"{old} {new}\n" for old, new in pairs if old != new)
    if not asked:
        return set()
    command = [*DIFF, "--stdin", "--no-renames", "--name-only"]
    output, _ = store.read_some(command, LIST_BYTES, stdin=asked.encode())
    return {os.fsdecode(without_pair(field)) for field in output.split(b"\0")[:-1]}


def without_pair(field: bytes) -> bytes:
    """A path of `git diff-tree --stdin`, without the line "TREE TREE" before the first path of a pair."""
    head, line_break, rest = field.partition(b"\n")
    is_pair = line_break and len(head) == 81 and head[40:41] == b" "
    return rest if is_pair else field


def file_texts(store: Store, change: Change) -> dict[str, object]:
    """Both texts of a changed file, in the form of GET …/changes/file."""
    sides = (change.old, change.new)
    contents = [content(store, side, TEXT_LIMIT) for side in sides]
    too_large = None in contents
    has_zeros = any(b"\0" in data[:8000] for data in contents if data)
    is_text = not too_large and not has_zeros
    texts = [(data or b"").decode("utf-8", "replace") if is_text else "" for data in contents]
    return {
        "path": change.path,
        "old": texts[0],
        "new": texts[1],
        "binary": change.binary if too_large else has_zeros,
        "too_large": too_large,
        "images": [image_type(store, side) for side in sides],
        "modes": [side.mode for side in sides],
    }


def entry_of(store: Store, tree: str, path: str) -> bytes:
    """The line of `git ls-tree` for a file or folder of a tree; b"" if nothing has this path."""
    command = ["ls-tree", "-z", "--full-tree", tree, "--", path.rstrip("/")]
    output, _ = store.read_some(command, 1 << 16)
    return output


def blob_of(store: Store, tree: str, path: str) -> Side | None:
    """A file of a tree; None if no file has this path."""
    words = entry_of(store, tree, path).partition(b"\t")[0].decode("ascii", "replace").split()
    if len(words) < 3 or words[1] != "blob":
        return None
    return Side(mode=words[0], blob=words[2])


def content(store: Store, side: Side, limit: int) -> bytes | None:
    """The content of a file: b"" for a missing one, None if it is too large. For a link, its target."""
    if side.mode == NONE:
        return b""
    if store.sizes([side.blob])[0] > limit:
        return None
    with store.reading([side.blob]) as contents:
        return next(contents)


def image_type(store: Store, side: Side) -> str:
    """The type of a picture that a browser may show; "" for any other file."""
    if side.mode in (NONE, LINK):
        return ""
    data, _ = store.read_some(["cat-file", "blob", side.blob], 32)
    return clincus.picture_type(data)


def patch(store: Store, old: str, new: str, path: str | None) -> bytes:
    """The differences as a patch, of one path or of all. If it is too large, its last line says so."""
    command = ["diff-tree", "-r", "-p", "-M", "-l400"]
    command += ["--no-ext-diff", "--no-textconv", "--full-index", old, new]
    if path:
        command += ["--", path]
    output, is_whole = store.read_some(command, PATCH_LIMIT)
    if is_whole:
        return output
    whole_lines = output.rpartition(b"\n")[0]
    return whole_lines + b"\n# The rest is left out: it is too much.\n"
