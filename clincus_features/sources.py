"""The source of each setting in force, and the faults of the files: GET /api/config/sources."""

from __future__ import annotations

from typing import Any

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app
    get_sources = ("GET", "/api/config/sources", lambda request: sources_document(app.config, app.config_error))
    extensions.routes.append(get_sources)


def sources_document(config: clincus.Config, error: str | None) -> dict[str, Any]:
    """The files, the origin of each setting and the warnings; `error` says why newer files are not in force."""
    return {
        "files": [{"path": path, "exists": exists, "error": None} for path, exists in config.files.items()],
        "origins": dict(config.origins),
        "warnings": list(config.warnings),
        "error": error,
    }
