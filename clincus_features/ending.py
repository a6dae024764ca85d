"""POST /api/sessions/{id}/stop: stop a session, and keep its container.

DELETE does the same without `force`, under a name that promises more.
"""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def stop_session(request: clincus.Request) -> object:
        app.sessions.end(app.reachable_session(request.values["id"]).id)
        return clincus.Response(204)

    extensions.routes.append(("POST", "/api/sessions/{id}/stop", stop_session))
