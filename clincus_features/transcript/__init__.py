"""The conversation of a session: GET /api/sessions/{id}/conversation, in parts, and searched.

The source is the copy on the host (saved after each turn and every few minutes, kept when a session is deleted), in the
form of each tool (claude.py). Each answer reads a bounded part of the file, whatever the container has written there
(reading.py). A tool without a reader gets the state `unreadable`, so clients need no list of tools.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import clincus

from .reading import FORMS, Page, open_newest, read_after, read_before

AT_ONCE = 4  # answers that are read at the same time


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app
    turns = threading.BoundedSemaphore(AT_ONCE)

    def get_conversation(request: clincus.Request) -> object:
        saved = find_conversation(app, request.values["id"])
        with turns:
            document = read_part(saved, request.values)
        response = clincus.json_response(document)
        headers = [*response.headers, ("Cache-Control", "no-cache")]
        return clincus.Content(response.body).answer(request, headers)

    extensions.routes.append(("GET", "/api/sessions/{id}/conversation", get_conversation))


def find_conversation(app: clincus.Application, id: str) -> clincus.SavedSession:
    """The conversation of a session, also of one that is gone, by either of its ids.

    Raises ClincusError: 404, 503 if it is not known whether the session exists.
    """
    session = app.registry.find(id)
    if session is not None:
        directory = app.sessions.saved_directory(session)
        kept = clincus.read_metadata(directory, session.tool) or clincus.SavedSession()
        return kept._replace(tool=session.tool, directory=directory)
    for saved in clincus.list_saved(app.config, app.environ):
        if id in (saved.container_name, saved.session_id):
            return saved
    app.require(clincus.engine_of(id))
    raise clincus.ClincusError(f'session "{id}" not found', "session_not_found")


def read_part(saved: clincus.SavedSession, values: Mapping[str, Any]) -> dict[str, object]:
    """The answer of the API: the newest part, or the one before or after a place in the conversation."""
    form = FORMS.get(saved.tool)
    page = Page()
    state = "unreadable"
    conversation = None
    if form is not None:
        state = "none"
        with open_newest(saved.directory, form) as opened:
            if opened is not None:
                state = "ready"
                file, name = opened
                conversation = name.rpartition(".")[0]
                words = values["q"].casefold()
                if values["after"] is not None:
                    page = read_after(file, form, values["after"], values["limit"], words)
                else:
                    page = read_before(file, form, values["before"], values["limit"], words)
    return {
        "state": state,
        "tool": saved.tool,
        "conversation": conversation,
        "saved_at": saved.saved_at or None,
        "messages": [message.document() for message in page.messages],
        "start": page.start,
        "end": page.end,
        "size": page.size,
    }
