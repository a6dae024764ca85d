"""Review comments of a session: kept on the server until the tool has taken them.

A comment keeps the lines of code that it is about. While these lines are still in the file, once, the comment follows
them to where they stand now; else it is stale.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from typing import TYPE_CHECKING, Any

import clincus
from clincus_features.review.changes import TEXT_LIMIT as FILE_LIMIT
from clincus_features.review.changes import blob_of, content
from clincus_features.review.records import Record
from clincus_features.review.store import Store

if TYPE_CHECKING:
    from clincus_features.review.scopes import Review

MOST = 200  # comments of a session
TEXT_LIMIT = 10_000  # characters of a comment
CODE_LIMIT = 20_000  # characters of the code of a comment


def install(extensions: clincus.Extensions, review: Review) -> None:
    """Add the routes."""
    comments = Comments(extensions.app, review)
    one = "/api/sessions/{id}/comments"
    extensions.routes += [
        ("GET", one, comments.read),
        ("POST", one, comments.add),
        ("PATCH", f"{one}/{{comment_id}}", comments.change),
        ("DELETE", f"{one}/{{comment_id}}", comments.delete),
        ("POST", f"{one}/send", comments.send),
    ]


class Comments:
    """The routes of the comments."""

    def __init__(self, app: clincus.Application, review: Review) -> None:
        self._app = app
        self._review = review
        self._records = review.recorder.records

    def read(self, request: clincus.Request) -> object:
        """GET /api/sessions/{id}/comments"""
        record = self._review.record(request.values["id"])
        return shown(self._review.store(record), record)

    def add(self, request: clincus.Request) -> object:
        """POST /api/sessions/{id}/comments"""
        values, record = request.values, self._review.record(request.values["id"])
        lines = lines_of(self._review.store(record), record.tree, values["path"])
        made = make(values["path"], lines, values["line"], values["end_line"] or values["line"], values["text"])
        with self._records.changing(record) as now:
            if len(now.comments) >= MOST:
                raise clincus.ClincusError(f"there are {MOST} comments: send them, or delete some", 409)
            now.comments.append(made)
        self._tell(record)
        return placed(made, lines)

    def change(self, request: clincus.Request) -> object:
        """PATCH /api/sessions/{id}/comments/{comment_id}"""
        values, record = request.values, self._review.record(request.values["id"])
        with self._records.changing(record) as now:
            comment = find(now, values["comment_id"])
            comment["text"] = check_text(values["text"])
        self._tell(record)
        return placed(comment, lines_of(self._review.store(record), record.tree, comment["path"]))

    def delete(self, request: clincus.Request) -> object:
        """DELETE /api/sessions/{id}/comments/{comment_id}"""
        record = self._review.record(request.values["id"])
        with self._records.changing(record) as now:
            now.comments.remove(find(now, request.values["comment_id"]))
        self._tell(record)
        return clincus.Response(204)

    def send(self, request: clincus.Request) -> object:
        """POST /api/sessions/{id}/comments/send"""
        session = self._app.running_session(request.values["id"])
        record = self._review.record(session.id)
        if record.comments:
            record = self._review.recorder.now(session)
        comments = shown(self._review.store(record), record)
        if not comments:
            raise clincus.ClincusError("there are no comments to send", 409)
        # By the route of the prompts, which another feature answers.
        route, _ = self._app.router.find("POST", f"/api/sessions/{session.id}/prompt")
        values = {"id": session.id, "text": message(comments), "queue": True, "command": False}
        result: Any = route.handler(request._replace(headers=Message(), values=values))
        if result["result"] in ("submitted", "queued"):
            sent = {one["comment_id"] for one in comments}
            with self._records.changing(record) as now:
                now.comments = [one for one in now.comments if one["comment_id"] not in sent]
            self._tell(record)
        return result

    def _tell(self, record: Record) -> None:
        self._app.hub.publish({"type": "session.comments", "id": record.id}, extension=True)


def shown(store: Store, record: Record) -> list[dict[str, Any]]:
    """The comments of a session for the API."""
    files = {path: lines_of(store, record.tree, path) for path in {one["path"] for one in record.comments}}
    return [placed(one, files[one["path"]]) for one in record.comments]


def lines_of(store: Store, tree: str, path: str) -> list[str] | None:
    """The lines of a file of a tree, None if there is none, or none that is shown as text."""
    side = blob_of(store, tree, path) if tree and path else None
    data = content(store, side, FILE_LIMIT) if side else None
    return None if data is None or b"\0" in data else data.decode("utf-8", "replace").removesuffix("\n").split("\n")


def make(path: str, lines: Sequence[str] | None, line: int, end_line: int, text: str) -> dict[str, Any]:
    """A new comment on lines of a file, or with line 0 on the file as a whole. Raises ClincusError: 400, 409."""
    if end_line < line:
        raise clincus.ClincusError('"end_line" must not be before "line"', 400)
    if line and lines is None:
        raise clincus.ClincusError(
            f"{clincus.shorten(path)} has no lines to comment on: comment on it with line 0", 409
        )
    if line and end_line > len(lines or ()):
        raise clincus.ClincusError(f"{clincus.shorten(path)} has only {len(lines or ())} lines", 400)
    code = "\n".join((lines or ())[line - 1 : end_line]) if line else ""
    if len(code) > CODE_LIMIT:
        raise clincus.ClincusError("the lines are too long: comment on fewer", 400)
    return {
        "comment_id": secrets.token_hex(8),
        "path": path,
        "line": line,
        "end_line": end_line,
        "code": code,
        "text": check_text(text),
    }


def check_text(text: str) -> str:
    """The text of a comment. Raises ClincusError(400)."""
    if not text.strip():
        raise clincus.ClincusError("the comment is empty", 400)
    if len(text) > TEXT_LIMIT:
        raise clincus.ClincusError(f"a comment may have at most {TEXT_LIMIT} characters", 400)
    return text


def find(record: Record, comment_id: str) -> dict[str, Any]:
    """A comment. Raises ClincusError(404)."""
    for one in record.comments:
        if one["comment_id"] == comment_id:
            return one
    raise clincus.ClincusError(f"comment {clincus.shorten(comment_id)} not found", 404)


def placed(comment: Mapping[str, Any], lines: Sequence[str] | None) -> dict[str, Any]:
    """A comment for the API, at the place where its code stands now in the lines of its file, None without a file."""
    if not comment["line"]:
        return {**comment, "stale": lines is None}
    code, begin = comment["code"].split("\n"), comment["line"] - 1
    lines = lines or ()
    if list(lines[begin : begin + len(code)]) == code:
        return {**comment, "stale": False}
    places = [at for at in range(len(lines) - len(code) + 1) if list(lines[at : at + len(code)]) == code]
    if len(places) != 1 or not comment["code"].strip():
        return {**comment, "stale": True}
    return {**comment, "line": places[0] + 1, "end_line": places[0] + len(code), "stale": False}


def message(comments: Iterable[Mapping[str, Any]]) -> str:
    """One message for the tool with all comments: file, lines, code and text of each."""
    comments = list(comments)
    parts = [f"Review comments ({len(comments)}):" if len(comments) != 1 else "Review comment:"]
    for one in comments:
        first, last = one["line"], one["end_line"]
        where = "" if not first else f", line {first}" if first == last else f", lines {first} to {last}"
        old = " (the code has changed since; it was:)" if one["stale"] and first else ""
        fence = max(["``", *re.findall("`+", one["code"])], key=len) + "`"  # longer than any run of backticks in it
        code = f"\n{fence}\n{one['code']}\n{fence}" if first else ""
        parts.append(f"{clincus.printable(one['path'])}{where}{old}{code}\n{one['text'].strip()}")
    return "\n\n".join(parts)
