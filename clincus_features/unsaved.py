"""The work that would be lost with a session's container: GET /api/sessions/{id}/unsaved

The core asks the same (`Sessions.keep`) before it deletes a container or restores a snapshot.
"""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def get_unsaved(request: clincus.Request) -> object:
        known = app.reachable_session(request.values["id"])
        session = app.sessions.look(known.id) or known  # with the latest files of other programs
        return app.sessions.unsaved(session).document()

    extensions.routes.append(("GET", "/api/sessions/{id}/unsaved", get_unsaved))
