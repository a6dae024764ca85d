"""The files of a session's workspace: list a directory, read and write a text file, show a picture.

The container opens every file, as its code user (guest/files.sh): a link there leads to nothing on the host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import quote

import clincus

if TYPE_CHECKING:
    from email.message import Message

FILE_LIMIT = 5 << 20  # bytes of a file that can be opened or saved; openapi.json says so too
ENTRY_LIMIT = 5000  # entries of one directory that are listed
KINDS = {"f": "file", "d": "directory", "l": "symlink"}  # of find(1), %y
# Fields of an entry that are true, by its mark. A placeholder is no part of the project: the wall puts it at a
# protected path that the project lacks, so that the container cannot create it.
MARKS = {b"r": ("readonly",), b"p": ("readonly", "placeholder")}

ERRORS = {  # exit codes of guest/files.sh
    40: ("leads out of the workspace", 400),
    41: ("does not exist", 404),
    42: ("is not a directory", 400),
    43: ("is not a regular file", 400),
    44: (f"is larger than {FILE_LIMIT >> 20} MB", 413),
    45: ("has changed meanwhile: read it again before you save", 412),
    46: ("cannot be written: it is read-only in this session", 409),
    47: ("exists already", 412),
    48: ("did not arrive whole: save it again", 500),
}


def install(extensions: clincus.Extensions) -> None:
    """Add the routes."""
    app = extensions.app

    def session(request: clincus.Request) -> clincus.Session:
        found: clincus.Session = app.running_session(request.values["id"])
        return found

    def get_listing(request: clincus.Request) -> object:
        path = request.values["path"].strip("/")
        entries, is_cut = list_directory(app.sessions, session(request), path)
        return {"path": path, "entries": entries, "truncated": is_cut}

    def get_content(request: clincus.Request) -> clincus.Response:
        path = request.values["path"]
        content = read_file(app.sessions, session(request), path)
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-cache")]
        return clincus.Content(content).answer(request, headers)

    def get_image(request: clincus.Request) -> clincus.Response:
        content, kind = read_picture(app.sessions, session(request), request.values["path"])
        headers = [("Content-Type", kind), ("Cache-Control", "no-cache"), ("Content-Disposition", "attachment")]
        return clincus.Content(content).answer(request, headers)

    def put_content(request: clincus.Request) -> clincus.Response:
        expected = expected_content(request.headers)
        path = request.values["path"]
        content = b"".join(request.pieces)
        run_program(app.sessions, session(request), "write", path, expected, content=content)
        return clincus.Response(204, b"", [("ETag", clincus.Content(content).etag)])

    extensions.routes += [
        ("GET", "/api/sessions/{id}/files", get_listing),
        ("GET", "/api/sessions/{id}/files/content", get_content),
        ("GET", "/api/sessions/{id}/files/image", get_image),
        ("PUT", "/api/sessions/{id}/files/content", put_content),
    ]


def list_directory(
    sessions: clincus.Sessions, session: clincus.Session, path: str
) -> tuple[list[dict[str, object]], bool]:
    """The entries of a directory, directories first, and True if it has more. Raises ClincusError: 400, 404."""
    output = run_program(sessions, session, "list", path, str(ENTRY_LIMIT + 1))
    lines = [line for line in output.split(b"\0", ENTRY_LIMIT + 1)[: ENTRY_LIMIT + 1] if line]
    try:
        entries = [parse_entry(line) for line in lines[:ENTRY_LIMIT]]
    except ValueError:
        message = f"{session.id} did not answer with a listing of {clincus.shorten(path)}"
        raise clincus.ClincusError(message, 500) from None
    entries.sort(key=lambda entry: (entry["type"] != "directory", str(entry["name"]).lower()))
    return entries, len(lines) > ENTRY_LIMIT


def read_file(sessions: clincus.Sessions, session: clincus.Session, path: str) -> bytes:
    """The content of a text file. Raises ClincusError: 400, 404, 413, and 415 for content that is not UTF-8."""
    content = run_program(sessions, session, "read", path, str(FILE_LIMIT))
    try:
        if b"\0" not in content:
            content.decode("utf-8")
            return content
    except UnicodeDecodeError:
        pass
    raise clincus.ClincusError(
        f"{clincus.shorten(path)} is not UTF-8 text, so it cannot be shown or edited here; use the terminal", 415
    )


def read_picture(sessions: clincus.Sessions, session: clincus.Session, path: str) -> tuple[bytes, str]:
    """The content and the type of a picture. Raises ClincusError: 400, 404, 413, 415 for another file.

    Its content decides, never its name: an SVG or a page with the name of a PNG is refused.
    """
    content = run_program(sessions, session, "read", path, str(FILE_LIMIT))
    kind = clincus.picture_type(content)
    if not kind:
        raise clincus.ClincusError(f"{clincus.shorten(path)} is no picture that can be shown: use the terminal", 415)
    return content, kind


def run_program(
    sessions: clincus.Sessions, session: clincus.Session, verb: str, path: str, argument: str, *, content: bytes = b""
) -> bytes:
    """Run guest/files.sh, which explains the arguments, and return its output.

    Raises ClincusError: 400 for a path that leads out of the workspace, and those of ERRORS.
    """
    shown = clincus.shorten(path)
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        problem = f"{shown} is not inside the workspace: give a path relative to its top"
        raise clincus.ClincusError(problem, 400)
    name = os.fsencode(path)
    refusals = {}
    for code, (problem, status) in ERRORS.items():
        refusals[code] = clincus.ClincusError(f"{shown} {problem}", status)
    return sessions.output(
        session,
        "files",
        verb,
        sessions.guest(session).mount,
        str(len(name)),
        argument,
        str(len(content)),
        stdin=name + content,
        timeout=clincus.READ_TIMEOUT,
        refusals=refusals,
    )


def parse_entry(line: bytes) -> dict[str, object]:
    """An entry of a listing, from the output of find(1). Raises ValueError: the container may print anything."""
    mark, kind, size, modified, name = line.split(b"\t", 4)
    entry: dict[str, object] = {
        "name": name.decode("utf-8", "replace"),
        "type": KINDS.get(kind.decode(), "other"),
        "size": int(size),
        "modified": file_time(float(modified)),
    }
    for field in MARKS.get(mark, ()):
        entry[field] = True
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        entry["encoded"] = quote(name)  # for ?path=, as the name is not UTF-8
    return entry


def file_time(seconds: float) -> str:
    """The time of a file (seconds since 1970, any number) as text, moved into the years that every reader knows."""
    earliest = datetime(1000, 1, 1, tzinfo=timezone.utc).timestamp()
    latest = datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp()
    known = min(max(seconds, earliest), latest)
    return clincus.format_time(datetime.fromtimestamp(known, timezone.utc))


def expected_content(headers: Mapping[str, str] | Message) -> str:
    """The content that a PUT expects to replace, as an argument of guest/files.sh.

    Raises ClincusError: 412, 428 for none.
    """
    match = headers.get("If-Match")
    none_match = headers.get("If-None-Match")
    if none_match is not None and none_match.strip() == "*":
        return "new"
    if match is None:
        message = "send If-Match with the ETag that you read, or If-None-Match: * for a new file"
        raise clincus.ClincusError(message, 428)
    if match.strip() == "*":
        return "any"
    found = re.fullmatch(r'\s*"([0-9a-f]{64})"\s*', match)
    if not found:
        raise clincus.ClincusError("If-Match is not an ETag of this file: read it again", 412)
    return found[1]
