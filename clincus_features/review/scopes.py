"""Finds the two states of a workspace that a request names, and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import clincus
from clincus_features.review.changes import Changes
from clincus_features.review.recorder import Recorder
from clincus_features.review.records import Record, tree_of
from clincus_features.review.store import Store

FROZEN = "the container is frozen, so its folder cannot be looked at"


class Compared(NamedTuple):
    """Two states of a workspace, and their differences."""

    record: Record
    store: Store
    old: str  # tree
    new: str
    changes: Changes
    stale: str  # why `new` is not the present state, else ""


class Review:
    """Finds the states that a request names, for sessions that run, are stopped or are gone."""

    def __init__(self, app: clincus.Application, recorder: Recorder) -> None:
        self._app = app
        self.recorder = recorder

    def record(self, id: str) -> Record:
        """The record of a session; also by the session id of a session that is gone. Raises ClincusError(404)."""
        session = self._app.registry.find(id)
        if session is not None:
            return self.recorder.records.of(session)
        record = self.recorder.records.find(id)
        if record is None:
            self._app.require(clincus.engine_of(id))
            raise clincus.ClincusError(f'session "{id}" not found', "session_not_found")
        return record

    def store(self, record: Record) -> Store:
        """The repository with a session's checkpoints."""
        return self.recorder.store(record.workspace)

    def compare(self, values: Mapping[str, Any], *, looks: bool = True) -> Compared:
        """Compare the two states that a request names. Raises ClincusError: 404, 409 without checkpoints.

        Without `looks`, the last list counts as now: pages ask for the files of a list one after the other.
        """
        record, stale = self._looked_at(values, looks=looks)
        if not record.tree:
            words = (
                "no checkpoint of this session has been taken: the session's warnings say why, else take one by hand"
            )
            raise clincus.ClincusError(words, 409)
        old = tree_of(record, values["from"])
        new = tree_of(record, values["to"])
        store = self.store(record)
        changes = self.recorder.changes(store, old, new)
        return Compared(record, store, old, new, changes, stale)

    def _looked_at(self, values: Mapping[str, Any], *, looks: bool) -> tuple[Record, str]:
        """The record of a session after the looks that a request needs, and why it is stale."""
        record = self.record(values["id"])
        session = self._app.registry.find(values["id"])
        wants_now = values["to"] == "now"
        wants_branch = values["from"] == "branch"
        if session is None:
            return record, ""
        if session.status != "running":
            return record, FROZEN if session.paused and wants_now else ""
        is_silent = self._app.sessions.is_silent(session.id)
        try:
            if wants_now and (looks or not record.tree):
                record = self.recorder.soon(session, self.recorder.now, is_silent=is_silent)
            if wants_branch and (looks or not record.branch_tree):
                record = self.recorder.soon(session, self.recorder.with_branch, is_silent=is_silent)
        except clincus.ClincusError as error:
            if not record.tree or (wants_branch and not record.branch_tree):
                raise
            return record, error.message
        return record, ""

    def changes(self, values: Mapping[str, Any]) -> dict[str, object]:
        """The document of GET …/changes."""
        compared = self.compare(values)
        record = compared.record
        document: dict[str, object] = {
            "from": values["from"],
            "to": values["to"],
            "files": self._files(compared),
            "appeared": [],
            "appeared_truncated": False,
        }
        fields_of_features = self._app.extensions.review_fields
        for fields in clincus.call_each(fields_of_features, record.id, record.session_id):
            document.update(fields)
        document["truncated"] = compared.changes.truncated
        document["skipped"] = [vars(one) for one in record.skipped]
        document["skipped_truncated"] = record.skipped_truncated
        document["others"] = self.recorder.others(record)
        document["stale"] = compared.stale
        return document

    def _files(self, compared: Compared) -> list[dict[str, object]]:
        touched = self.recorder.touched(compared.record)
        rows = clincus.protect.preset_rows(self._app.config)
        documents = []
        for change in compared.changes.files:
            is_touched = not touched.isdisjoint((change.path, change.old_path))
            runs = clincus.protect.runs_on_host(change.path, rows)
            documents.append(change.document(is_touched, runs))
        return documents
