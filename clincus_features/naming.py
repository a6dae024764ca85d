"""What a person changes of a session: its name, whether it is kept when it stops, whether it is shown first.

PATCH /api/sessions/{id}    {"name", "persistent", "pinned"}, each of which may be left out
"""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def patch_session(request: clincus.Request) -> object:
        app.monitor.require()
        given = {key: request.values[key] for key in ("name", "persistent", "pinned")}
        changes = {key: value for key, value in given.items() if value is not None}
        return app.sessions.document(app.sessions.change(request.values["id"], changes))

    extensions.routes.append(("PATCH", "/api/sessions/{id}", patch_session))
