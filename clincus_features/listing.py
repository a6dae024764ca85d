"""One session, and the list of all sessions, made once for each change: hundreds are listed as quickly as one.

The pages get an event for each change of the list, so between two events the list is the same. With more engines and
sessions, these grow: one `incus monitor`, some twenty threads and a query every 15 seconds for each engine, and the
list that each page sorts after an event. Measured once with 500 sessions on 20 engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import clincus


class Made(NamedTuple):
    """A session, the fields of its text, and the place of that text in the list."""

    session: clincus.Session
    fields: dict[str, object]
    begin: int
    end: int


class Kept(NamedTuple):
    """A list of a revision of the event hub, with its sessions by their ids."""

    revision: int
    content: clincus.Content
    made: Mapping[str, Made]


def install(extensions: clincus.Extensions) -> None:
    """Replace GET /api/sessions, and add the route of one session."""
    app = extensions.app

    def get_session(request: clincus.Request) -> object:
        session = app.known_session(request.values["id"])
        return app.sessions.document(session)

    def with_listing(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
        return Listing(app).answer if (method, path) == ("GET", "/api/sessions") else handler

    extensions.routes.append(("GET", "/api/sessions/{id}", get_session))
    extensions.wrappers.append(with_listing)


class Listing:
    """Makes the list. It makes the text of a session again only if the session differs."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._kept = Kept(-1, clincus.Content(b""), {})

    def answer(self, request: clincus.Request) -> clincus.Response:
        """The answer to GET /api/sessions. Raises ClincusError(503)."""
        revision = self._app.hub.revision
        kept = self._kept
        if kept.revision != revision:  # also while Incus cannot be reached: then this raises each time
            kept = self._made(revision, kept)
            self._kept = kept
        content = kept.content
        wanted = request.values["id"]
        if wanted is not None:
            made = kept.made.get(wanted)
            text = content.body[made.begin : made.end] if made else b""
            content = clincus.Content(b"[%s]" % text)
        headers = [("Content-Type", "application/json"), ("Cache-Control", "private, no-cache")]
        return content.answer(request, headers)

    def _made(self, revision: int, before: Kept) -> Kept:
        """The present list."""
        texts = []
        made = {}
        at = 1
        for session in self._app.all_sessions():
            fields = self._app.extensions.fields(session)
            known = before.made.get(session.id)
            if known is not None and known.session is session and known.fields == fields:
                text = before.content.body[known.begin : known.end]
                fields = known.fields
            else:
                text = clincus.json_response({**session.document(), **fields}).body
            made[session.id] = Made(session, fields, at, at + len(text))
            texts.append(text)
            at += len(text) + 1
        content = clincus.Content(b"[%s]" % b",".join(texts))
        return Kept(revision, content, made)
