"""The records of sealed paths: one file for each workspace, in the state directory, for its owner only.

The record is a promise to later starts: it outlives sessions, servers and reboots.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import clincus

from .identity import COPIES_LIMIT, Item, Piece

FOLDER = "protection"
RECORD_LIMIT = 4 * COPIES_LIMIT  # bytes of the file of one workspace
MOST_RECORDS = 500  # workspaces; the oldest without open changes are forgotten
MOST_CHANGES = 50  # kept changes of each kind


class Change(NamedTuple):
    """A change of something sealed."""

    path: str
    what: str  # "replaced", "changed" or "gone"
    by: str  # "container", "host" or "unknown"
    at: str  # RFC 3339
    restored: bool
    words: str = ""  # other possible causes; for a path that was put aside: its effect on git
    kind: str = "seal"  # or what was put aside: "index", "link", "repository" (of a submodule, a worktree), "operation"

    def document(self) -> dict[str, object]:
        """The change in the form of the API."""
        return self._asdict()


@dataclass
class Run:
    """A run of a session for which paths were sealed."""

    stage: str
    paths: list[str]
    at: float  # time.time of the record
    is_seen: bool = True  # the mounts of the stage could be seen
    has_ended: bool = False  # its end was seen, and everything was as recorded
    is_broken: bool = False  # it is frozen until a person decides
    loose: list[str] = field(default_factory=list)  # paths whose seal is off, with a person's consent
    changes: list[Change] = field(default_factory=list)
    links: dict[str, str] | None = None  # `links.known_of` before it; None if nobody has looked
    asides: dict[str, list[str]] = field(default_factory=dict)  # path -> `unfinished.Aside`; until a person decides


@dataclass
class Record:
    """The record of a workspace's sealed paths."""

    workspace: str
    items: dict[str, Item] = field(default_factory=dict)  # by absolute path
    copies: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    runs: dict[str, Run] = field(default_factory=dict)  # by session
    changes: list[Change] = field(default_factory=list)  # the unaccepted ones
    accepted: list[Change] = field(default_factory=list)

    def drop_copies(self) -> None:
        """Forget the copies that no item needs."""
        needed = {item.digest for item in self.items.values()}
        needed |= {piece.digest for item in self.items.values() for piece in item.pieces}
        self.copies = {digest: data for digest, data in self.copies.items() if digest in needed}

    def document(self) -> dict[str, object]:
        """The record in the form of the file."""
        return {
            "workspace": self.workspace,
            "items": {path: [*item[:10], item.is_way, list(item.pieces)] for path, item in self.items.items()},
            "copies": {digest: base64.b64encode(data).decode() for digest, data in self.copies.items()},
            "runs": {id: vars(run) for id, run in self.runs.items()},
            "changes": self.changes[-MOST_CHANGES:],
            "accepted": self.accepted[-MOST_CHANGES:],
        }


def read_item(row: list[Any]) -> Item:
    """An item of a file."""
    *known, is_way, pieces = row
    item = Item(*known)
    return item._replace(pieces=tuple(Piece(*piece) for piece in pieces), is_way=is_way)


def read_run(row: Mapping[str, Any]) -> Run:
    """A run of a file."""
    return Run(**{**row, "changes": [Change(*one) for one in row["changes"]]})


def read_record(found: Mapping[str, Any]) -> Record:
    """The record of a file's document."""
    return Record(
        found["workspace"],
        {path: read_item(row) for path, row in found["items"].items()},
        {digest: base64.b64decode(text) for digest, text in found["copies"].items()},
        {id: read_run(row) for id, row in found["runs"].items()},
        [Change(*one) for one in found["changes"]],
        [Change(*one) for one in found["accepted"]],
    )


class Records:
    """The files."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.folder = clincus.own_file(environ, FOLDER)
        self._open: dict[str, tuple[object, list[Change]]] = {}  # workspace -> the state of its file, and its changes

    def path(self, workspace: str) -> str:
        """The file of a workspace."""
        return f"{self.folder}/{hashlib.sha256(os.fsencode(workspace)).hexdigest()[:32]}.json"

    def read(self, workspace: str) -> Record:
        """The record of a workspace, an empty one if none was kept. Raises ConfigError."""
        found = clincus.read_json(self.path(workspace), RECORD_LIMIT, read_record)
        return found if found is not None and found.workspace == workspace else Record(workspace)

    def open_changes(self, workspace: str) -> list[Change]:
        """The unaccepted changes in a workspace. Its file is read again only if it was replaced."""
        state: object = None
        with suppress(OSError):
            about = os.stat(self.path(workspace))
            state = about.st_ino, about.st_size, about.st_mtime_ns
        known = self._open.get(workspace)
        if known is None or known[0] != state:
            changes: list[Change] = []
            with suppress(clincus.ClincusError):
                changes = self.read(workspace).changes
            known = self._open[workspace] = state, changes
        return known[1]

    @contextmanager
    def changing(self, workspace: str) -> Iterator[Record]:
        """The record of a workspace, written at the end of the block if it has changed. Raises ClincusError."""
        with clincus.locked_folder(self.folder):
            record = self.read(workspace)
            before = json.dumps(record.document())
            yield record
            record.drop_copies()
            after = json.dumps(record.document())
            if after != before:
                clincus.replace_file(self.path(workspace), after.encode(), 0o600)
                self._forget_oldest()

    def all(self) -> Iterator[Record]:
        """Every record that can be read."""
        for path in self._paths():
            with suppress(clincus.ClincusError):
                found = clincus.read_json(path, RECORD_LIMIT, read_record)
                if found is not None:
                    yield found

    def _paths(self) -> list[str]:
        with suppress(OSError), os.scandir(self.folder) as entries:
            return sorted(entry.path for entry in entries if entry.name.endswith(".json"))
        return []

    def _forget_oldest(self) -> None:
        paths = self._paths()
        if len(paths) <= MOST_RECORDS:
            return
        oldest = sorted(paths, key=lambda path: os.stat(path).st_mtime)
        for path in oldest[: len(paths) - MOST_RECORDS]:
            found = clincus.read_json(path, RECORD_LIMIT, read_record)
            if found is not None and not found.changes and all(run.has_ended for run in found.runs.values()):
                os.unlink(path)
