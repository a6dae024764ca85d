"""The differences of two states of a workspace: the list of files, and one file's two texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import clincus
from clincus_features.review.store import Store

LISTED = 10_000  # files of one list
LIST_BYTES = 16 << 20  # bytes that git may print of it
TEXT_LIMIT = 1 << 20  # bytes of a text that is shown
IMAGE_LIMIT = 10 << 20
PATCH_LIMIT = 8 << 20
LINK, NONE = "120000", "000000"  # modes
DIFF = ("diff-tree", "-r", "-z", "--no-abbrev", "--no-ext-diff", "--no-textconv")
IMAGES = (  # how the content of a picture begins, and its type; no picture that can hold a script
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


class Side(NamedTuple):
    """A file in one of the two states."""

    mode: str
    blob: str


@dataclass
class Change:
    """A file that differs. `added` and `removed` are lines; None: they were not counted."""

    path: str
    old_path: str  # "" if it is the same
    status: str  # A, M, D, R, T
    old: Side
    new: Side
    added: int | None = None
    removed: int | None = None
    binary: bool = False

    def document(self, touched: bool, runs: str) -> dict[str, object]:
        """The change for the API; `runs` says when the file runs by itself on the host."""
        shown = {key: value for key, value in vars(self).items() if key not in ("old", "new")}
        runs = "" if self.status == "D" else runs
        return {**shown, "version": self.new.blob, "touched": touched, "runs": runs}


class Changes(NamedTuple):
    """A list of changes."""

    files: list[Change]
    truncated: bool  # there are more

    @property
    def counts(self) -> dict[str, int]:
        """How many files, and how many lines of those that were counted."""
        lines = {name: sum(getattr(one, name) or 0 for one in self.files) for name in ("added", "removed")}
        return {"files": len(self.files), **lines}

    def find(self, path: str) -> Change:
        """The change of a file. Raises ClincusError(404)."""
        for one in self.files:
            if one.path == path:
                return one
        raise clincus.ClincusError(f"{clincus.shorten(path)} has not changed between these two", 404)


def list_changes(store: Store, old: str, new: str, *, renames: bool = True, most: int = LISTED) -> Changes:
    """Ask git for the changes from one tree to another. Raises ClincusError(500).

    A list that takes too long or is too large comes without counts, or in part.
    Without `renames` a file that was moved is one that is gone and one that is new, and no lines are counted.
    """
    if old == new:
        return Changes([], False)
    how = ["--numstat", "-M", "-l400"] if renames else ["--no-renames"]
    output, is_whole = store.read_some([*DIFF, "--raw", *how, old, new], LIST_BYTES)
    files = parse_changes(output)
    return Changes(files[:most], len(files) > most or (not is_whole and is_list_cut(output)))


def is_list_cut(output: bytes) -> bool:
    """Whether the list itself is incomplete, and not only the counts that follow it."""
    return b"\0" not in output or output.rpartition(b"\0")[0].rpartition(b"\0")[2].startswith(b":")


def parse_changes(output: bytes) -> list[Change]:
    """Read what `git diff-tree --raw --numstat -z` prints (git-diff-tree(1), "RAW OUTPUT FORMAT"). Pure.

    What is cut off is left out.
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
    """One entry of the list, whose paths are the next fields."""
    old_mode, new_mode, old_blob, new_blob, status = words
    paths = [os.fsdecode(path) for _, path in zip(range(2 if status[0] in "RC" else 1), fields)]
    if not paths or (status[0] in "RC" and len(paths) != 2):
        return None
    old_path = paths[0] if len(paths) == 2 else ""
    return Change(paths[-1], old_path, status[0], Side(old_mode[1:], old_blob), Side(new_mode, new_blob))


def take_counts(field: bytes, fields: Iterator[bytes], changes: dict[bytes, Change]) -> None:
    """Give a change its counts; `-` stands for a binary file."""
    added, removed, path = [*field.split(b"\t", 2), b"", b""][:3]
    if not path:  # of a rename the paths are two fields of their own
        next(fields, b"")
        path = next(fields, b"")
    change = changes.get(path)
    if change is None:
        return
    if added.isdigit() and removed.isdigit():
        change.added, change.removed = int(added), int(removed)
    elif added == b"-":
        change.added = change.removed = 0
        change.binary = True


def touched_paths(store: Store, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """The paths that differ between the two trees of any pair."""
    asked = "".join(f"{old} {new}\n" for old, new in pairs if old != new)
    if not asked:
        return set()
    output, _ = store.read_some([*DIFF, "--stdin", "--no-renames", "--name-only"], LIST_BYTES, stdin=asked.encode())
    found = set()
    for field in output.split(b"\0")[:-1]:
        # Before the paths of a pair git repeats the pair, on a line of its own.
        head, line_break, rest = field.partition(b"\n")
        found.add(os.fsdecode(rest if line_break and len(head) == 81 and head[40:41] == b" " else field))
    return found


def file_texts(store: Store, change: Change) -> dict[str, object]:
    """Both texts of a file that changed, as GET …/changes/file answers them."""
    sides = [content(store, side, TEXT_LIMIT) for side in (change.old, change.new)]
    too_large = any(side is None for side in sides)
    data = [side or b"" for side in sides]
    binary = not too_large and any(b"\0" in one[:8000] for one in data)
    texts = ["" if binary or too_large else one.decode("utf-8", "replace") for one in data]
    return {
        "path": change.path,
        "old": texts[0],
        "new": texts[1],
        "binary": binary or (too_large and change.binary),
        "too_large": too_large,
        "images": [image_type(store, side) for side in (change.old, change.new)],
        "modes": [side.mode for side in (change.old, change.new)],
    }


def entry_of(store: Store, tree: str, path: str) -> bytes:
    """The line of `git ls-tree` for a file or folder of a tree, b"" if there is none of that path."""
    return store.read_some(["ls-tree", "-z", "--full-tree", tree, "--", path.rstrip("/")], 1 << 16)[0]


def blob_of(store: Store, tree: str, path: str) -> Side | None:
    """A file of a tree, None if there is none of that path."""
    output = entry_of(store, tree, path)
    mode, kind, blob = [*output.partition(b"\t")[0].decode("ascii", "replace").split(), "", "", ""][:3]
    return Side(mode, blob) if kind == "blob" else None


def content(store: Store, side: Side, limit: int) -> bytes | None:
    """The content of a file, b"" if there is none, None if it is too large. A link's content is its target."""
    if side.mode == NONE:
        return b""
    if store.sizes([side.blob])[0] > limit:
        return None
    with store.reading([side.blob]) as contents:
        return next(contents)


def image_type(store: Store, side: Side) -> str:
    """The type of a picture that a browser may show, "" for anything else."""
    if side.mode in (NONE, LINK):
        return ""
    data, _ = store.read_some(["cat-file", "blob", side.blob], 32)
    return image_kind(data)


def image_kind(data: bytes) -> str:
    """The type of a picture by how its content begins."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return next((kind for begin, kind in IMAGES if data.startswith(begin)), "")


def patch(store: Store, old: str, new: str, path: str | None) -> bytes:
    """The differences as a patch, of one path or of all. If it is too large, its last line says so."""
    words = ["diff-tree", "-r", "-p", "-M", "-l400", "--no-ext-diff", "--no-textconv", "--full-index", old, new]
    output, is_whole = store.read_some([*words, *(["--", path] if path else [])], PATCH_LIMIT)
    return output if is_whole else output.rpartition(b"\n")[0] + b"\n# The rest is left out: it is too much.\n"
