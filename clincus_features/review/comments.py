"""Review comments of a session: the server keeps them until the tool has taken them.

A comment keeps the lines of code that it is about. While the file contains these lines exactly once, the comment
follows them to their present place; otherwise it is stale.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
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
    path = "/api/sessions/{id}/comments"
    extensions.routes += [
        ("GET", path, comments.read),
        ("POST", path, comments.add),
        ("PATCH", f"{path}/{{comment_id}}", comments.change),
        ("DELETE", f"{path}/{{comment_id}}", comments.delete),
        ("POST", f"{path}/send", comments.send),
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
        values = request.values
        record = self._review.record(values["id"])
        path = values["path"]
        line = values["line"]
        lines = lines_of(self._review.store(record), record.tree, path)
        made = make(path, lines, line, values["end_line"] or line, values["text"])
        with self._records.changing(record) as stored:
            if len(stored.comments) >= MOST:
                problem = f"there are {MOST} comments: send them, or delete some"
                raise clincus.ClincusError(problem, "limit_reached")
            stored.comments.append(made)
        self._tell(record)
        return placed(made, lines)

    def change(self, request: clincus.Request) -> object:
        """PATCH /api/sessions/{id}/comments/{comment_id}"""
        values = request.values
        record = self._review.record(values["id"])
        with self._records.changing(record) as stored:
            comment = find(stored, values["comment_id"])
            comment["text"] = check_text(values["text"])
        self._tell(record)
        lines = lines_of(self._review.store(record), record.tree, comment["path"])
        return placed(comment, lines)

    def delete(self, request: clincus.Request) -> object:
        """DELETE /api/sessions/{id}/comments/{comment_id}"""
        record = self._review.record(request.values["id"])
        with self._records.changing(record) as stored:
            comment = find(stored, request.values["comment_id"])
            stored.comments.remove(comment)
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
            raise clincus.ClincusError("there are no comments to send: comment on a line first", "nothing_to_do")
        result = self._send_prompt(request, session.id, message(comments))
        if result["result"] in ("submitted", "queued"):
            self._remove(record, {comment["comment_id"] for comment in comments})
        return result

    def _send_prompt(self, request: clincus.Request, id: str, text: str) -> Any:
        """Send a text by the route for prompts, which another feature answers; its result."""
        route, _ = self._app.router.find("POST", f"/api/sessions/{id}/prompt")
        values = {"id": id, "text": text, "queue": True, "command": False}
        return route.handler(request._replace(headers=Message(), values=values))

    def _remove(self, record: Record, sent: Collection[str]) -> None:
        """Remove the comments with these ids."""
        with self._records.changing(record) as stored:
            stored.comments = [one for one in stored.comments if one["comment_id"] not in sent]
        self._tell(record)

    def _tell(self, record: Record) -> None:
        event = {"type": "session.comments", "id": record.id}
        self._app.hub.publish(event, extension=True)


def shown(store: Store, record: Record) -> list[dict[str, Any]]:
    """The comments of a session for the API."""
    paths = {comment["path"] for comment in record.comments}
    files = {path: lines_of(store, record.tree, path) for path in paths}
    return [placed(comment, files[comment["path"]]) for comment in record.comments]


def lines_of(store: Store, tree: str, path: str) -> list[str] | None:
    """The lines of a file of a tree; None if there is no such file, or if it is too large or binary."""
    side = blob_of(store, tree, path) if tree and path else None
    data = content(store, side, FILE_LIMIT) if side else None
    if data is None or b"\0" in data:
        return None
    text = data.decode("utf-8", "replace")
    return text.removesuffix("\n").split("\n")


def make(path: str, lines: Sequence[str] | None, line: int, end_line: int, text: str) -> dict[str, Any]:
    """A new comment on lines of a file, or with line 0 on the whole file. Raises ClincusError: 400, 409."""
    if end_line < line:
        raise clincus.ClincusError('"end_line" must not be before "line"', 400)
    return {
        "comment_id": secrets.token_hex(8),
        "path": path,
        "line": line,
        "end_line": end_line,
        "code": code_of(path, lines, line, end_line) if line else "",
        "text": check_text(text),
    }


def code_of(path: str, lines: Sequence[str] | None, line: int, end_line: int) -> str:
    """The commented lines of a file, `line` to `end_line`. Raises ClincusError: 400, 409."""
    shown = clincus.shorten(path)
    if lines is None:
        problem = f"{shown} has no lines to comment on: comment on it with line 0"
        raise clincus.ClincusError(problem, "limit_reached")
    if end_line > len(lines):
        raise clincus.ClincusError(f"{shown} has only {len(lines)} lines: choose one of them", 400)
    code = "\n".join(lines[line - 1 : end_line])
    if len(code) > CODE_LIMIT:
        raise clincus.ClincusError("the lines are too long: comment on fewer", 400)
    return code


def check_text(text: str) -> str:
    """The text of a comment, if it is valid. Raises ClincusError(400)."""
    if not text.strip():
        raise clincus.ClincusError("the comment is empty: write what should change", 400)
    if len(text) > TEXT_LIMIT:
        raise clincus.ClincusError(f"a comment may have at most {TEXT_LIMIT} characters", 400)
    return text


def find(record: Record, comment_id: str) -> dict[str, Any]:
    """A comment. Raises ClincusError(404)."""
    for comment in record.comments:
        if comment["comment_id"] == comment_id:
            return comment
    raise clincus.ClincusError(
        f"comment {clincus.shorten(comment_id)} not found: the list of comments has those that are left", 404
    )


def placed(comment: Mapping[str, Any], lines: Sequence[str] | None) -> dict[str, Any]:
    """A comment for the API, moved to the present place of its code.

    `lines` are those of its file, None if the file is gone.
    """
    if not comment["line"]:
        return {**comment, "stale": lines is None}
    code = comment["code"].split("\n")
    lines = lines or ()
    if stands_at(comment["line"] - 1, code, lines):
        return {**comment, "stale": False}
    places = [begin for begin in range(len(lines)) if stands_at(begin, code, lines)]
    if len(places) != 1 or not comment["code"].strip():
        return {**comment, "stale": True}
    begin = places[0]
    return {
        **comment,
        "line": begin + 1,
        "end_line": begin + len(code),
        "stale": False,
    }


def stands_at(begin: int, code: list[str], lines: Sequence[str]) -> bool:
    """True if the lines of `code` are at index `begin` of `lines`."""
    return list(lines[begin : begin + len(code)]) == code


def message(comments: Sequence[Mapping[str, Any]]) -> str:
    """One message for the tool with all comments: file, lines, code and text of each."""
    title = "Review comment:" if len(comments) == 1 else f"Review comments ({len(comments)}):"
    return "\n\n".join([title, *map(paragraph, comments)])


def paragraph(comment: Mapping[str, Any]) -> str:
    """One comment of the message."""
    head = clincus.printable(comment["path"])
    text = comment["text"].strip()
    first = comment["line"]
    last = comment["end_line"]
    if not first:
        return f"{head}\n{text}"
    head += f", line {first}" if first == last else f", lines {first} to {last}"
    if comment["stale"]:
        head += " (the code has changed since; it was:)"
    code = comment["code"]
    fence = max(["``", *re.findall("`+", code)], key=len) + "`"  # longer than any run of backticks in it
    return f"{head}\n{fence}\n{code}\n{fence}\n{text}"
