"""The records of checkpoints: one file for each session, beside the repositories.

The file of a session outlives the session. Its name has the id and the session id, so a later session of the same name
does not replace it. Every change reads the file and writes it, under a lock.
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


@dataclass
class Checkpoint:
    """A state of a workspace: a tree in its repository.

    `files`, `added` and `removed` count the changes since the checkpoint before.
    """

    checkpoint: str  # its number in the session, as a text
    at: str
    why: str  # start | prompt | turn | restore | person | timer
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
    """Everything that Clincus keeps about a session."""

    id: str
    session_id: str
    workspace: str
    tool: str
    mode: str = "mount"  # or "clone": no other session works in its folder
    checkpoints: list[Checkpoint] = field(default_factory=list)  # oldest first
    tree: str = ""  # of the workspace at the last look
    looked_at: str = ""  # time of the last look that found a change, or of the session's end
    skipped: list[Skipped] = field(default_factory=list)  # at the last look
    skipped_truncated: bool = False  # there were more
    branch_commit: str = ""  # at which the branch left its upstream or main
    branch_tree: str = ""
    next: int = 1  # number of the next checkpoint
    comments: list[dict[str, Any]] = field(default_factory=list)  # see comments.py
    ended: bool = False  # the container is gone
    run: str = ""  # the last run of the container whose start has a checkpoint, by Incus's time of that start
    turn: int = -1  # the last turn whose end has a checkpoint
    changes: dict[str, int] = field(default_factory=dict)  # files, added and removed since the start
    failure: str = ""  # why the last checkpoint failed; empty if it did not

    @property
    def key(self) -> str:
        """The session id in the form that names of files and trees have."""
        return short_key(self.session_id)

    def find(self, name: str) -> Checkpoint:
        """A checkpoint. Raises ClincusError(404)."""
        for checkpoint in self.checkpoints:
            if checkpoint.checkpoint == name:
                return checkpoint
        raise clincus.ClincusError(
            f"checkpoint {clincus.shorten(name)} not found: the list of checkpoints has those that are kept", 404
        )

    @classmethod
    def fit(cls, fields: dict[str, Any]) -> Record:
        """A record from its JSON form. Raises TypeError or KeyError."""
        fields["checkpoints"] = [Checkpoint(**one) for one in fields["checkpoints"]]
        fields["skipped"] = [Skipped(**one) for one in fields["skipped"]]
        return cls(**fields)


def tree_of(record: Record, name: str) -> str:
    """The tree that `from` or `to` of a request names. Raises ClincusError: 404, 409."""
    if name == "now":
        return record.tree
    if name == "branch":
        if not record.branch_tree:
            problem = "Clincus does not know where the branch began: it learns that when the session starts"
            raise clincus.ClincusError(problem, 409)
        return record.branch_tree
    if name == "turn":
        for checkpoint in reversed(record.checkpoints):
            if checkpoint.why == "prompt":
                return checkpoint.tree
        return tree_of(record, "start")
    if name == "start":
        return record.checkpoints[0].tree if record.checkpoints else record.tree
    return record.find(name).tree


def turn_pairs(checkpoints: list[Checkpoint], now: str, *, is_alone: bool = True) -> list[tuple[str, str]]:
    """The trees before and after each change that the tool may have made: the changes of its turns. Pure.

    Changes between the end of a turn and the next prompt are the work of a person or another session. A tool that
    never reports turns may have made any change, if it is alone in the folder.
    """
    reports_turns = any(one.why in ("prompt", "turn") for one in checkpoints)
    is_silent = is_alone and not reports_turns
    states = [(one.why, one.tree) for one in checkpoints]
    pairs = []
    is_turn = is_silent
    before = ""
    for why, tree in [*states, ("now", now)]:
        ends_turn = is_turn or why == "turn" or (why == "timer" and is_alone)
        if before and ends_turn:
            pairs.append((before, tree))
        goes_on = is_turn and why in ("person", "restore", "timer")
        is_turn = is_silent or goes_on or why == "prompt"
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
        """The record of a session; without a session id, the newest record of this id.

        `id` may also be the session id of a session that is gone.
        """
        if session_id:
            names = [f"{id}.{short_key(session_id)}.json"]
        else:
            names = self._names(rf"{re.escape(id)}\..*\.json")
            names = names or self._names(rf".*\.{short_key(id)}\.json")
        found = [record for record in map(self._read, names) if record]
        return max(found, key=lambda record: record.looked_at, default=None)

    def of(self, session: clincus.Session) -> Record:
        """The record of a session, a new one if none was kept."""
        found = self.find(session.id, session.session_id)
        if found:
            return found
        return Record(
            session.id,
            session.session_id,
            session.workspace,
            session.tool,
            session.mode,
        )

    def all(self) -> Iterator[Record]:
        """Every record."""
        yield from filter(None, map(self._read, self._names(r".*\.json")))

    @contextmanager
    def changing(self, record: Record) -> Iterator[Record]:
        """The stored record, to be changed in place. The end of the block writes it, unless the block raises."""
        with clincus.locked_folder(self._folder()):
            stored = self.find(record.id, record.session_id) or record
            yield stored
            data = json.dumps(asdict(stored)).encode()
            clincus.replace_file(self._path(stored), data, 0o600)

    def delete(self, record: Record) -> None:
        """Forget a session."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(record))

    def _path(self, record: Record) -> str:
        return os.path.join(self._folder(), f"{record.id}.{record.key}.json")

    def _names(self, pattern: str) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder()) if re.fullmatch(pattern, name)]
        return []

    def _read(self, name: str) -> Record | None:
        path = os.path.join(self._folder(), name)
        found: Record | None = clincus.read_json(path, FILE_LIMIT, Record.fit)
        return found


def records_folder(environ: Mapping[str, str]) -> str:
    """The folder with the repositories and the records of all checkpoints."""
    return clincus.own_file(environ, "checkpoints")
