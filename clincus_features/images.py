"""The images in Incus that a person can choose from: GET /api/images."""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    extensions.routes.append(("GET", "/api/images", lambda request: list_images(extensions.app.sessions.incus)))


def list_images(incus: clincus.Incus) -> list[dict[str, object]]:
    """The images with an alias, one entry for each alias, by name. Raises IncusError."""
    entries = []
    for image in incus.query("/1.0/images?recursion=1", timeout=clincus.READ_TIMEOUT):
        own = image["properties"].get("description", "")
        for alias in image["aliases"]:
            entry = {
                "alias": alias["name"],
                "description": alias.get("description") or own,
                "size": image["size"],
                "created_at": image["created_at"],
            }
            entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["alias"]))
