"""More of a session's terminals: a shell beside the tool, and the scrollback of both as text."""

from __future__ import annotations

import functools

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the routes /ws/shell/{id} and /api/sessions/{id}/scrollback."""
    app = extensions.app

    def get_scrollback(request: clincus.Request) -> clincus.Response:
        session = app.running_session(request.values["id"])
        name = clincus.tmux_name(session.id, shell=request.values["shell"])
        gone = f'"{session.id}" has no terminal now: connecting to it opens one'
        words = ("-e", "-J", "-S", f"-{request.values['lines']}")
        more = {3: clincus.ClincusError(gone, 409)}
        text = app.sessions.output(session, "capture", name, *words, timeout=clincus.READ_TIMEOUT, refusals=more)
        return clincus.Response(200, text, [("Content-Type", "text/plain; charset=utf-8")])

    extensions.routes += [
        ("GET", "/ws/shell/{id}", functools.partial(clincus.open_terminal, app, shell=True)),
        ("GET", "/api/sessions/{id}/scrollback", get_scrollback),
    ]
