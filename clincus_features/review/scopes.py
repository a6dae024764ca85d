"""Which two states of a workspace a request means, and what differs between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import clincus
from clincus_features.review.changes import Changes
from clincus_features.review.recorder import Recorder
from clincus_features.review.records import Record, tree_of
from clincus_features.review.store import Store

FROZEN = "the container is frozen, so its folder cannot be looked at"


class Compared(NamedTuple):
    """Two states of a workspace, and what differs."""

    record: Record
    store: Store
    old: str  # tree
    new: str
    changes: Changes
    stale: str  # why the later one is not of now


class Review:
    """Finds the states that a request means, of a session that runs, is stopped or is gone."""

    def __init__(self, app: clincus.Application, recorder: Recorder) -> None:
        self._app = app
        self.recorder = recorder

    def record(self, id: str) -> Record:
        """The record of a session, also by the session id of one that is gone. Raises ClincusError(404)."""
        session = self._app.registry.find(id)
        if session is not None:
            return self.recorder.records.of(session)
        record = self.recorder.records.find(id)
        if record is None:
            self._app.require(clincus.engine_of(id))
            raise clincus.ClincusError(f'session "{id}" not found', 404)
        return record

    def store(self, record: Record) -> Store:
        """The repository with a session's checkpoints."""
        return self.recorder.store(record.workspace)

    def compare(self, values: Mapping[str, Any], *, looks: bool = True) -> Compared:
        """Compare the two states that a request means. Raises ClincusError: 404, 409 where there are none.

        Without `looks` the last list counts as now: the files of a list are asked for one after the other.
        """
        record, stale = self.record(values["id"]), ""
        session = self._app.registry.find(values["id"])
        if session is not None and session.status == "running":
            try:
                if values["to"] == "now" and (looks or not record.tree):
                    record = self.recorder.soon(session, self.recorder.now)
                if values["from"] == "branch" and (looks or not record.branch_tree):
                    record = self.recorder.soon(session, self.recorder.with_branch)
            except clincus.ClincusError as error:
                if not record.tree or (values["from"] == "branch" and not record.branch_tree):
                    raise
                stale = error.message
        elif session is not None and session.paused and values["to"] == "now":
            stale = FROZEN
        if not record.tree:
            raise clincus.ClincusError("no checkpoint of this session has been taken", 409)
        old, new = tree_of(record, values["from"]), tree_of(record, values["to"])
        store = self.store(record)
        return Compared(record, store, old, new, self.recorder.changes(store, old, new), stale)

    def changes(self, values: Mapping[str, Any]) -> dict[str, object]:
        """The document of GET …/changes."""
        compared = self.compare(values)
        record = compared.record
        touched = self.recorder.touched(record)
        rows = clincus.preset_rows(self._app.config)
        found = clincus.call_each(self._app.extensions.review_fields, record.id, record.session_id)
        return {
            "from": values["from"],
            "to": values["to"],
            "files": [
                one.document(one.path in touched or one.old_path in touched, clincus.runs_on_host(one.path, rows))
                for one in compared.changes.files
            ],
            "appeared": [],
            **dict(itertools.chain.from_iterable(fields.items() for fields in found)),
            "truncated": compared.changes.truncated,
            "skipped": [vars(one) for one in record.skipped],
            "others": self.recorder.others(record),
            "stale": compared.stale,
        }
