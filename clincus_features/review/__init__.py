"""Review and undo: what a session has changed in its workspace, and back.

    GET  /api/sessions/{id}/checkpoints     the states that are kept, newest first
    POST /api/sessions/{id}/checkpoints     keep the present one
    GET  /api/sessions/{id}/changes         what differs between two states
    GET  /api/sessions/{id}/changes/file    both texts of a file
    GET  /api/sessions/{id}/changes/image   one of both pictures
    GET  /api/sessions/{id}/changes/patch   all of it as a patch
    POST /api/sessions/{id}/restore         bring files back to a state (restore.py)
    …    /api/sessions/{id}/comments        review comments (comments.py)

A checkpoint is made in the container, by git there (guest/checkpoint.sh), and comes to the host as a pack. store.py
keeps it apart from any repository of a person's. So all but a new checkpoint and an undo works for a session that is
stopped or deleted, too, and git on the host never looks into a folder that a container can change.
"""

from __future__ import annotations

from datetime import datetime, timezone

import clincus
from clincus_features.review import changes as differing
from clincus_features.review import comments
from clincus_features.review.recorder import RECORDERS, Recorder, program_before_tool
from clincus_features.review.scopes import Review
from clincus_features.review.store import Store
from clincus_features.review.thinning import thin

THIN_EVERY = 3600.0  # seconds between two looks at what is too old or too much
QUIET_EVERY = 30.0  # seconds between two looks at whose tool tells nothing


def install(extensions: clincus.Extensions) -> None:
    """Add the field, the routes and the duties."""
    app = extensions.app
    recorder = Recorder(app)
    review = Review(app, recorder)
    extensions.routes += routes(app, review)
    comments.install(extensions, review)
    extensions.session_fields.append(recorder.fields)
    extensions.session_warnings.append(recorder.warnings)
    extensions.listeners.append(recorder.tell)
    extensions.start_programs.append(program_before_tool)
    extensions.agent_listeners.append(recorder.hear)
    extensions.duties += [
        *(
            clincus.Duty(f"taking checkpoints ({number})", 0.0, recorder.work, each_engine=True)
            for number in range(1, RECORDERS + 1)
        ),
        clincus.Duty("looking at workspaces of quiet tools", QUIET_EVERY, recorder.look_at_quiet_tools),
        clincus.Duty(
            "thinning checkpoints", THIN_EVERY, lambda: thin(recorder, app.config, datetime.now(timezone.utc))
        ),
    ]


def routes(app: clincus.Application, review: Review) -> list[tuple[str, str, clincus.Handler]]:
    """The routes of checkpoints, changes and undo."""

    def get_checkpoints(request: clincus.Request) -> object:
        record = review.record(request.values["id"])
        return [one.document() for one in reversed(record.checkpoints)]

    def post_checkpoint(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        made = review.recorder.take(session, "person", request.values["note"] or "")
        assert made is not None
        return made.document()

    def get_changes(request: clincus.Request) -> clincus.Response:
        return answer(request, review.changes(request.values))

    def get_file(request: clincus.Request) -> clincus.Response:
        compared = review.compare(request.values, looks=False)
        change = compared.changes.find(request.values["path"])
        return answer(request, differing.file_texts(compared.store, change))

    def get_image(request: clincus.Request) -> clincus.Response:
        compared = review.compare(request.values, looks=False)
        change = compared.changes.find(request.values["path"])
        return image(compared.store, change.old if request.values["side"] == "old" else change.new)

    def get_patch(request: clincus.Request) -> clincus.Response:
        compared = review.compare(request.values)
        patch = differing.patch(compared.store, compared.old, compared.new, request.values["path"])
        return clincus.Content(patch).answer(request, [("Content-Type", "text/plain; charset=utf-8")])

    def post_restore(request: clincus.Request) -> object:
        session, values = app.running_session(request.values["id"]), request.values
        return review.recorder.undo(session, values["checkpoint"], values["paths"])

    one = "/api/sessions/{id}"
    return [
        ("GET", f"{one}/checkpoints", get_checkpoints),
        ("POST", f"{one}/checkpoints", post_checkpoint),
        ("GET", f"{one}/changes", get_changes),
        ("GET", f"{one}/changes/file", get_file),
        ("GET", f"{one}/changes/image", get_image),
        ("GET", f"{one}/changes/patch", get_patch),
        ("POST", f"{one}/restore", post_restore),
    ]


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
