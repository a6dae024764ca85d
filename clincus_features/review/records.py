"""The records of checkpoints: a file of the server's own for each session, beside the repositories.

The file of a session outlives the session. It is named after its id and its session id, so that a later session of the
same name does not take its place. Every change reads the file and writes it, under a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import clincus

FILE_LIMIT = 32 << 20  # bytes
WHYS = ("start", "prompt", "turn", "restore", "person", "timer")


@dataclass
class Checkpoint:
    """A state of a workspace: a tree in its repository. `files`, `added` and `removed` count from the one before."""

    checkpoint: str  # its number in the session, as a text
    at: str
    why: str  # one of WHYS
    note: str
    tree: str
    files: int = 0
    added: int = 0
    removed: int = 0

    def document(self) -> dict[str, object]:
        """The checkpoint for the API."""
        return {key: value for key, value in vars(self).items() if key != "tree"}


@dataclass
class Skipped:
    """A path that is in no checkpoint, and why: large, repository, unreadable, special, ignored."""

    path: str
    why: str


@dataclass
class Record:
    """All that is kept of a session."""

    id: str
    session_id: str
    workspace: str
    tool: str
    mode: str = "mount"  # or "clone": no other session works in its folder
    checkpoints: list[Checkpoint] = field(default_factory=list)  # oldest first
    tree: str = ""  # of the workspace when it was last looked at
    looked_at: str = ""  # when it was last found to have changed, or the session ended
    skipped: list[Skipped] = field(default_factory=list)  # at that time
    branch_commit: str = ""  # where the branch left its upstream or main
    branch_tree: str = ""
    next: int = 1  # number of the next checkpoint
    comments: list[dict[str, Any]] = field(default_factory=list)  # see comments.py
    ended: bool = False  # the container is gone
    turn: int = -1  # the last turn whose end has a checkpoint
    changes: dict[str, int] = field(default_factory=dict)  # files, added and removed since the start
    failure: str = ""  # why the last checkpoint was not taken; empty if it was

    @property
    def key(self) -> str:
        """The session id in the form that the names of the record's file and trees have."""
        return short_key(self.session_id)

    def find(self, name: str) -> Checkpoint:
        """A checkpoint. Raises ClincusError(404)."""
        for one in self.checkpoints:
            if one.checkpoint == name:
                return one
        raise clincus.ClincusError(f"checkpoint {clincus.shorten(name)} not found", 404)

    @classmethod
    def fit(cls, fields: dict[str, Any]) -> Record:
        """A record from its JSON form. Raises TypeError or KeyError."""
        fields["checkpoints"] = [Checkpoint(**one) for one in fields["checkpoints"]]
        fields["skipped"] = [Skipped(**one) for one in fields["skipped"]]
        return cls(**fields)


def tree_of(record: Record, name: str) -> str:
    """The tree that `from` or `to` of a request means. Raises ClincusError(404)."""
    if name == "now":
        return record.tree
    if name == "branch":
        if not record.branch_tree:
            raise clincus.ClincusError("it is not known where the branch began: start the session", 409)
        return record.branch_tree
    if name == "turn":
        begin = next((one for one in reversed(record.checkpoints) if one.why == "prompt"), None)
        return begin.tree if begin else tree_of(record, "start")
    if name == "start":
        return record.checkpoints[0].tree if record.checkpoints else record.tree
    return record.find(name).tree


def turn_pairs(checkpoints: list[Checkpoint], now: str, *, is_alone: bool = True) -> list[tuple[str, str]]:
    """The trees before and after each change that the tool may have made: those of its turns. Pure.

    What changed between the end of a turn and the next prompt is a person's work, or another session's. A tool that
    never tells of turns may have made any change, if it is alone in the folder.
    """
    is_silent = is_alone and not any(one.why in ("prompt", "turn") for one in checkpoints)
    pairs, is_turn, before = [], is_silent, ""
    for why, tree in [*((one.why, one.tree) for one in checkpoints), ("now", now)]:
        if before and (is_turn or why == "turn" or (why == "timer" and is_alone)):
            pairs.append((before, tree))
        is_turn = is_silent or why == "prompt" or (is_turn and why in ("person", "restore", "timer"))
        before = tree
    return pairs


def short_key(session_id: str) -> str:
    """A session id in 16 hexadecimal digits, for names of files and references."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


class Records:
    """The records of all sessions."""

    def __init__(self, folder: Callable[[], str]) -> None:
        self._folder = folder

    def find(self, id: str, session_id: str = "") -> Record | None:
        """The record of a session; without a session id that of the last one of this name, or of this session id."""
        if session_id:
            names = [f"{id}.{short_key(session_id)}.json"]
        else:
            names = self._names(f"{re.escape(id)}\\..*\\.json") or self._names(f".*\\.{short_key(id)}\\.json")
        found = [record for record in map(self._read, names) if record]
        return max(found, key=lambda record: record.looked_at, default=None)

    def of(self, session: clincus.Session) -> Record:
        """The record of a session, a new one if there is none."""
        found = self.find(session.id, session.session_id)
        return found or Record(session.id, session.session_id, session.workspace, session.tool, session.mode)

    def all(self) -> Iterator[Record]:
        """Every record."""
        yield from filter(None, map(self._read, self._names(r".*\.json")))

    @contextmanager
    def changing(self, record: Record) -> Iterator[Record]:
        """A record as it is now, to be changed in place; it is written at the end of the block, unless that raises."""
        folder = self._folder()
        with clincus.locked_folder(folder):
            now = self.find(record.id, record.session_id) or record
            yield now
            data = json.dumps(asdict(now)).encode()
            clincus.replace_file(os.path.join(folder, f"{now.id}.{now.key}.json"), data, 0o600)

    def delete(self, record: Record) -> None:
        """Forget a session."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder(), f"{record.id}.{record.key}.json"))

    def _names(self, pattern: str) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder()) if re.fullmatch(pattern, name)]
        return []

    def _read(self, name: str) -> Record | None:
        path = os.path.join(self._folder(), name)
        found: Record | None = clincus.read_json(path, FILE_LIMIT, Record.fit)
        return found


def records_folder(environ: Mapping[str, str]) -> str:
    """Where the checkpoints of all sessions are kept: the repositories and the records."""
    return clincus.own_file(environ, "checkpoints")
