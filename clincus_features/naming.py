"""A person's changes to a session: its name, if it is kept when it stops, if it is shown first.

PATCH /api/sessions/{id}    {"name", "persistent", "pinned"}, each optional, and fields of features
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def patch_session(request: clincus.Request) -> object:
        session = app.reachable_session(request.values["id"])
        for change in app.extensions.changes:
            change(session, request.values)
        given = {key: request.values[key] for key in ("name", "persistent", "pinned", "muted")}
        changes = {key: value for key, value in given.items() if value is not None}
        return app.sessions.document(change_session(app.sessions, session.id, changes))

    extensions.routes.append(("PATCH", "/api/sessions/{id}", patch_session))


def change_session(sessions: clincus.Sessions, id: str, changes: Mapping[str, str | bool]) -> clincus.Session:
    """Change `name`, `persistent` or `pinned` of a session, in its labels and its metadata.json.

    Raises ClincusError: 400 for an invalid name.
    """
    changes = {key: clincus.check_name(value) if isinstance(value, str) else value for key, value in changes.items()}
    if not changes:
        return sessions.registry.get(id)
    with sessions.held(id):
        session = sessions.registry.get(id)._replace(**cast("dict[str, Any]", changes))
        labels = {
            clincus.LABEL + key: str(value).lower() if value in (True, False) else value
            for key, value in changes.items()
        }
        incus = sessions.door(id)
        incus.query(incus.path(id), "PATCH", {"config": labels}, wait=True)
        kept = clincus.read_metadata(sessions.saved_directory(session), session.tool)
        if kept is not None:
            fresh = clincus.some_fields(session, ("name", "persistent"))
            clincus.write_metadata(kept._replace(**fresh))
        sessions.look(id)
        return session
