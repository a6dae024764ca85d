"""What has left the screen of a session's terminal, as text: GET /api/sessions/{id}/scrollback."""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def get_scrollback(request: clincus.Request) -> clincus.Response:
        session = app.running_session(request.values["id"])
        text = app.sessions.scrollback(session, request.values["lines"], shell=request.values["shell"])
        return clincus.Response(200, text, [("Content-Type", "text/plain; charset=utf-8")])

    extensions.routes.append(("GET", "/api/sessions/{id}/scrollback", get_scrollback))
