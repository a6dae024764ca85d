"""One session, and the list of all, made once for each change: hundreds are listed as quickly as one.

The pages hear of each change of the list by an event, so between two events the list is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import clincus


class Made(NamedTuple):
    """A session and its fields, of which its text was made, and where that begins and ends in the list."""

    session: clincus.Session
    fields: dict[str, object]
    begin: int
    end: int


class Kept(NamedTuple):
    """A list as it was made at a revision of the event hub, with its sessions by their ids."""

    revision: int
    content: clincus.Content
    made: Mapping[str, Made]


def install(extensions: clincus.Extensions) -> None:
    """Take the place of GET /api/sessions, and add the route of one session."""
    app = extensions.app
    extensions.routes.append(
        ("GET", "/api/sessions/{id}", lambda request: app.sessions.document(app.known_session(request.values["id"])))
    )
    extensions.wrappers.append(
        lambda method, path, handler: Listing(app).answer if (method, path) == ("GET", "/api/sessions") else handler
    )


class Listing:
    """Makes the list; the text of a session is made anew only where the session differs."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._kept = Kept(-1, clincus.Content(b""), {})

    def answer(self, request: clincus.Request) -> clincus.Response:
        """The answer to GET /api/sessions. Raises ClincusError(503)."""
        revision, kept = self._app.hub.revision, self._kept
        if kept.revision != revision:  # also where Incus has gone out of reach: then this raises each time
            self._kept = kept = self._made(revision, kept)
        content, wanted = kept.content, request.values["id"]
        if wanted is not None:
            one = kept.made.get(wanted)
            content = clincus.Content(b"[%s]" % content.body[one.begin : one.end] if one else b"[]")
        headers = [("Content-Type", "application/json"), ("Cache-Control", "private, no-cache")]
        return content.answer(request, headers)

    def _made(self, revision: int, before: Kept) -> Kept:
        """The list as it is now."""
        texts, made, at = [], {}, 1
        for session in self._app.all_sessions():
            fields, known = self._app.extensions.fields(session), before.made.get(session.id)
            if known is not None and known.session is session and known.fields == fields:
                text, fields = before.content.body[known.begin : known.end], known.fields
            else:
                text = clincus.json_response({**session.document(), **fields}).body
            made[session.id] = Made(session, fields, at, at + len(text))
            texts.append(text)
            at += len(text) + 1
        return Kept(revision, clincus.Content(b"[" + b",".join(texts) + b"]"), made)
