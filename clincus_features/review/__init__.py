"""Review and undo: shows what a session has changed in its workspace, and takes it back.

Git in the container makes a checkpoint (guest/checkpoint.sh) and sends it to the host as a pack. store.py keeps it
apart from the repositories of people. Everything but a new checkpoint and an undo therefore works for stopped and
deleted sessions too, and git on the host never looks into a folder that a container can change.
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

THIN_EVERY = 3600.0  # seconds between two looks for checkpoints that are too old or too many
QUIET_EVERY = 30.0  # seconds between two looks at sessions whose tool reports nothing


def install(extensions: clincus.Extensions) -> None:
    """Add the fields, the routes and the duties."""
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
    for number in range(1, RECORDERS + 1):
        title = f"taking checkpoints ({number})"
        extensions.duties.append(clincus.Duty(title, 0.0, recorder.work, each_engine=True))
    extensions.duties += [
        clincus.Duty(
            "looking at workspaces of quiet tools",
            QUIET_EVERY,
            recorder.look_at_quiet_tools,
        ),
        clincus.Duty(
            "thinning checkpoints",
            THIN_EVERY,
            lambda: thin(recorder, app.config, datetime.now(timezone.utc)),
        ),
    ]


def routes(app: clincus.Application, review: Review) -> list[tuple[str, str, clincus.Handler]]:
    """The routes of checkpoints, changes and undo."""
    path = "/api/sessions/{id}"
    table = [
        ("GET", f"{path}/checkpoints", get_checkpoints),
        ("POST", f"{path}/checkpoints", post_checkpoint),
        ("GET", f"{path}/changes", get_changes),
        ("GET", f"{path}/changes/file", get_file),
        ("GET", f"{path}/changes/image", get_image),
        ("GET", f"{path}/changes/patch", get_patch),
        ("POST", f"{path}/restore", post_restore),
    ]
    return clincus.bound_routes(table, app, review)


def get_checkpoints(_app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """The kept states, newest first."""
    record = review.record(request.values["id"])
    return [checkpoint.document() for checkpoint in reversed(record.checkpoints)]


def post_checkpoint(app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """Keep the present state."""
    session = app.running_session(request.values["id"])
    note = request.values["note"] or ""
    made = review.recorder.take(session, "person", note)
    assert made is not None
    return made.document()


def get_changes(_app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """The differences of two states."""
    return answer(request, review.changes(request.values))


def get_file(_app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """Both texts of a file."""
    compared = review.compare(request.values, looks=False)
    change = compared.changes.find(request.values["path"])
    return answer(request, differing.file_texts(compared.store, change))


def get_image(_app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """One of both pictures."""
    compared = review.compare(request.values, looks=False)
    change = compared.changes.find(request.values["path"])
    side = change.old if request.values["side"] == "old" else change.new
    return image(request, compared.store, side)


def get_patch(_app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """All differences, or those of one file, as a patch."""
    compared = review.compare(request.values)
    path = request.values["path"]
    patch = differing.patch(compared.store, compared.old, compared.new, path)
    headers = [("Content-Type", "text/plain; charset=utf-8")]
    return clincus.Content(patch).answer(request, headers)


def post_restore(app: clincus.Application, review: Review, request: clincus.Request) -> object:
    """Bring files back to a state."""
    session = app.running_session(request.values["id"])
    checkpoint = request.values["checkpoint"]
    return review.recorder.undo(session, checkpoint, request.values["paths"])


def answer(request: clincus.Request, document: object) -> clincus.Response:
    """A document as compressed JSON, or 304 if the client has it already."""
    response = clincus.json_response(document)
    headers = [*response.headers, ("Cache-Control", "no-cache")]
    return clincus.Content(response.body).answer(request, headers)


def image(request: clincus.Request, store: Store, side: differing.Side) -> clincus.Response:
    """A picture of a type in which browsers run nothing. Raises ClincusError: 404, 413, 415."""
    if side.mode == differing.NONE:
        raise clincus.ClincusError("the file is not there on this side: look at the other one", 404)
    data = differing.content(store, side, differing.IMAGE_LIMIT)
    if data is None:
        limit = f"{differing.IMAGE_LIMIT >> 20} MB"
        raise clincus.ClincusError(f"the picture is larger than {limit}: open it in your editor", 413)
    kind = "" if side.mode == differing.LINK else clincus.picture_type(data)
    if not kind:
        raise clincus.ClincusError("this file is no picture that the page can show: open it in your editor", 415)
    headers = [("Content-Type", kind), ("Cache-Control", "no-cache")]
    return clincus.Content(data).answer(request, headers)
