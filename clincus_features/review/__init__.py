"""Review and undo: what a session has changed in its workspace, and back.

    GET  /api/sessions/{id}/checkpoints     the states that are kept, newest first
    POST /api/sessions/{id}/checkpoints     keep the present one
    GET  /api/sessions/{id}/changes         what differs between two states
    GET  /api/sessions/{id}/changes/file    both texts of a file
    GET  /api/sessions/{id}/changes/image   one of both pictures
    GET  /api/sessions/{id}/changes/patch   all of it as a patch

A checkpoint is made in the container, by git there (guest/checkpoint.sh), and comes to the host as a pack. store.py
keeps it apart from any repository of a person's. So all but a new checkpoint and an undo works for a session that is
stopped or deleted, too, and git on the host never looks into a folder that a container can change.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

import clincus
from clincus_features.review import changes as differing
from clincus_features.review.changes import Changes
from clincus_features.review.recorder import RECORDERS, Recorder
from clincus_features.review.records import Checkpoint, Record
from clincus_features.review.store import Store
from clincus_features.review.thinning import thin

THIN_EVERY = 3600.0  # seconds between two looks at what is too old or too much


def install(extensions: clincus.Extensions) -> None:
    """Add the field, the routes and the duties."""
    app = extensions.app
    recorder = Recorder(app)
    review = Review(app, recorder)

    def get_checkpoints(request: clincus.Request) -> object:
        record = review.record(request.values["id"])
        return [one.document() for one in reversed(record.checkpoints)]

    def post_checkpoint(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        made = recorder.take(session, "person", request.values["note"] or "")
        assert made is not None
        return made.document()

    def get_changes(request: clincus.Request) -> clincus.Response:
        return answer(request, review.changes(request))

    def get_file(request: clincus.Request) -> clincus.Response:
        compared = review.compare(request)
        change = compared.changes.find(request.values["path"])
        return answer(request, differing.file_texts(compared.store, change))

    def get_image(request: clincus.Request) -> clincus.Response:
        compared = review.compare(request)
        change = compared.changes.find(request.values["path"])
        return image(compared.store, change.old if request.values["side"] == "old" else change.new)

    def get_patch(request: clincus.Request) -> clincus.Response:
        compared = review.compare(request)
        patch = differing.patch(compared.store, compared.old, compared.new, request.values["path"])
        return clincus.Content(patch).answer(request, [("Content-Type", "text/plain; charset=utf-8")])

    one = "/api/sessions/{id}"
    extensions.routes += [
        ("GET", f"{one}/checkpoints", get_checkpoints),
        ("POST", f"{one}/checkpoints", post_checkpoint),
        ("GET", f"{one}/changes", get_changes),
        ("GET", f"{one}/changes/file", get_file),
        ("GET", f"{one}/changes/image", get_image),
        ("GET", f"{one}/changes/patch", get_patch),
    ]
    extensions.session_fields.append(recorder.fields)
    extensions.listeners.append(recorder.tell)
    extensions.agent_listeners.append(recorder.hear)
    extensions.duties += [
        *(clincus.Duty(f"taking checkpoints ({number})", 0.0, recorder.work) for number in range(1, RECORDERS + 1)),
        clincus.Duty("looking at workspaces of quiet tools", 10.0, recorder.look_at_quiet_tools),
        clincus.Duty(
            "thinning checkpoints", THIN_EVERY, lambda: thin(recorder, app.config, datetime.now(timezone.utc))
        ),
    ]


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
        self._app, self._recorder = app, recorder

    def record(self, id: str) -> Record:
        """The record of a session. Raises ClincusError(404)."""
        session = self._app.registry.find(id)
        if session is not None:
            return self._recorder.records.of(session)
        record = self._recorder.records.find(id)
        if record is None:
            self._app.monitor.require()
            raise clincus.ClincusError(f'session "{id}" not found', 404)
        return record

    def compare(self, request: clincus.Request) -> Compared:
        """What differs between the two states of a request. Raises ClincusError: 404, 409 where there are none."""
        values = request.values
        record, stale = self.record(values["id"]), ""
        session = self._app.registry.find(record.id)
        if session is not None and session.status == "running":
            try:
                if values["to"] == "now":
                    record = self._recorder.now(session)
                if values["from"] == "branch":
                    record = self._recorder.with_branch(session)
            except clincus.ClincusError as error:
                if not record.tree or (values["from"] == "branch" and not record.branch_tree):
                    raise
                stale = error.message
        if not record.tree:
            raise clincus.ClincusError("no checkpoint of this session has been taken", 409)
        old, new = tree_of(record, values["from"]), tree_of(record, values["to"])
        store = self._recorder.store(record.workspace)
        return Compared(record, store, old, new, self._recorder.differences.between(store, old, new), stale)

    def changes(self, request: clincus.Request) -> dict[str, object]:
        """The document of GET …/changes."""
        compared = self.compare(request)
        record = compared.record
        touched = self.touched(record)
        others = [
            one.id for one in self._app.registry.all() if one.workspace == record.workspace and one.id != record.id
        ]
        return {
            "from": request.values["from"],
            "to": request.values["to"],
            "files": [one.document(one.path in touched or one.old_path in touched) for one in compared.changes.files],
            "truncated": compared.changes.truncated,
            "skipped": [vars(one) for one in record.skipped],
            "others": others,
            "stale": compared.stale,
        }

    def touched(self, record: Record) -> set[str]:
        """The paths that the turns of a session have changed."""
        pairs = turn_pairs(record.checkpoints, record.tree)
        return differing.touched_paths(self._recorder.store(record.workspace), pairs)


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


def turn_pairs(checkpoints: list[Checkpoint], now: str) -> list[tuple[str, str]]:
    """The trees before and after each change that the tool may have made: those of its turns. Pure.

    What changed between the end of a turn and the next prompt is a person's work, or another session's. A tool that
    never tells of turns may have made any change.
    """
    has_turns = any(one.why in ("prompt", "turn") for one in checkpoints)
    pairs, is_turn, before = [], not has_turns, ""
    for why, tree in [*((one.why, one.tree) for one in checkpoints), ("now", now)]:
        if before and (is_turn or why in ("turn", "timer")):
            pairs.append((before, tree))
        is_turn = not has_turns or why == "prompt" or (is_turn and why in ("person", "restore", "timer"))
        before = tree
    return pairs


def answer(request: clincus.Request, document: object) -> clincus.Response:
    """A document as JSON, compressed, or 304 for a client that has it."""
    response = clincus.json_response(document)
    headers = [*response.headers, ("Cache-Control", "no-cache")]
    return clincus.Content(response.body).answer(request, headers)


def image(store: Store, side: differing.Side) -> clincus.Response:
    """A picture, in a form in which no browser runs anything of it. Raises ClincusError: 404, 413, 415."""
    if side.mode == differing.NONE:
        raise clincus.ClincusError("there is no such file on this side", 404)
    data = differing.content(store, side, differing.IMAGE_LIMIT)
    if data is None:
        raise clincus.ClincusError(f"the picture is larger than {differing.IMAGE_LIMIT >> 20} MB", 413)
    kind = differing.image_kind(data) if side.mode != differing.LINK else ""
    if not kind:
        raise clincus.ClincusError("this is no picture that can be shown", 415)
    return clincus.Response(200, data, [("Content-Type", kind), ("Cache-Control", "no-cache")])
