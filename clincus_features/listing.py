"""One session, and the list of all, made once for each change: hundreds are listed as quickly as one.

The pages hear of each change of the list by an event, so between two events the list is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import clincus

Handler = Callable[[clincus.Request], object]


class Kept(NamedTuple):
    """A list as it was made at a revision of the event hub."""

    revision: int
    content: clincus.Content


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
    """Makes the list from the text of each session, which is made anew only where the session differs."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._kept = Kept(-1, clincus.Content(b""))
        self._texts: dict[str, tuple[clincus.Session, dict[str, object], bytes]] = {}  # id -> what the text was made of

    def answer(self, request: clincus.Request) -> clincus.Response:
        """The answer to GET /api/sessions. Raises ClincusError(503)."""
        revision, kept = self._app.hub.revision, self._kept
        if kept.revision != revision:  # also where Incus has gone out of reach: then this raises each time
            self._texts = {session.id: self._text(session) for session in self._app.all_sessions()}
            body = b"[" + b",".join(text for _, _, text in self._texts.values()) + b"]"
            self._kept = kept = Kept(revision, clincus.Content(body))
        headers = [("Content-Type", "application/json"), ("Cache-Control", "private, no-cache")]
        return kept.content.answer(request, headers)

    def _text(self, session: clincus.Session) -> tuple[clincus.Session, dict[str, object], bytes]:
        fields = self._app.extensions.fields(session)
        known = self._texts.get(session.id)
        if known is not None and known[0] is session and known[1] == fields:
            return known
        return session, fields, clincus.json_response({**session.document(), **fields}).body
