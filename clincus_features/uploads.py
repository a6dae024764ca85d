"""Files that a person gives to a session's tool: POST /api/sessions/{id}/uploads?name=shot.png

They lie in the container, outside the workspace, so that git never sees them. No tool and no shell needs quotes for the
path in the answer. A label of the container, which it cannot change, lists these paths and those of `clincus file
push`: KEEPER keeps the files before the container is deleted.
"""

from __future__ import annotations

import os
import re
import time

import clincus

FOLDER = ".clincus/uploads"  # in the home of the code user
ROOM = 400 << 20  # bytes of all uploads of a session; the oldest ones are removed
NAME_BYTES = 100  # of a file's name, in UTF-8


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def post_upload(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        name = f"{moment}-{os.urandom(2).hex()}-{file_name(request.values['name'])}"
        return {"path": keep_upload(app.sessions, session, name, request)}

    extensions.routes.append(("POST", "/api/sessions/{id}/uploads", post_upload))
    extensions.keepers.append(KEEPER)


def look(_: clincus.Sessions, session: clincus.Session) -> dict[str, clincus.Loss]:
    """The files that a person put outside a session's workspace, as far as Clincus knows, newest first."""
    number, paths = clincus.outside_files(session.outside)
    return {"outside": clincus.Loss.of(paths[::-1], number)}


def keep(sessions: clincus.Sessions, session: clincus.Session, _: bool) -> list[str]:
    """Keep those files as a tar; returns its path. Raises ClincusError and OSError."""
    uploads = f"{sessions.guest(session).home}/{FOLDER}"
    _number, paths = clincus.outside_files(session.outside)
    others = [path for path in paths if not clincus.path_inside(path, uploads)]
    relative = [path.lstrip("/") for path in (uploads, *others)]
    return [sessions.keep_files(session, "/", relative)]


KEEPER = clincus.Keeper(("outside",), lambda *_: False, look, keep)


def file_name(name: str) -> str:
    """A name for a file from the sender's name for it: letters, digits and `._+-`, with its ending."""
    own = name.rpartition("/")[2]
    plain = re.sub(r"[^\w.+-]+", "-", own).strip(".-_")
    stem, dot, ending = plain.rpartition(".")
    if not dot or not re.fullmatch(r"[A-Za-z0-9]{1,10}", ending):
        stem = plain
        dot = ""
        ending = ""
    left = NAME_BYTES - len(dot + ending)
    cut = stem.encode("utf-8", "ignore")[:left]
    stem = cut.decode("utf-8", "ignore").rstrip(".-_")
    return f"{stem or 'file'}{dot}{ending}"


def keep_upload(sessions: clincus.Sessions, session: clincus.Session, name: str, request: clincus.Request) -> str:
    """Stream the body of a request into a new file in a session's container; returns its path.

    Raises ClincusError: 408 if it does not arrive whole, 409 for a container that does not run any more.
    """
    size = request.body_length
    words = (FOLDER, name, str(size), str(ROOM))
    timeout = 2 * clincus.HEAD_TIMEOUT + size / clincus.BODY_RATE
    with sessions.open(session, "upload", *words, timeout=timeout) as (stdin, _):
        for piece in request.pieces:
            stdin.write(piece)
    path = f"{sessions.guest(session).home}/{FOLDER}/{name}"
    try:
        with sessions.engine(session.engine).label_lock:  # two at once would lose one
            clincus.add_outside_file(sessions.door(session.id), session.id, path)
    except clincus.ClincusError as error:  # the file exists, and can be used
        sessions.report(f"{session.id}: a delete will not know of {path}: {error}")
    return path
