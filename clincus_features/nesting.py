"""Nested containers: `POST /api/sessions {"nesting": true}`, and a field that shows which sessions allow them.

The setting is `security.nesting`. It costs a session with a mounted folder its lock: a process that may change mounts
can take the seals off the folder. A clone without extra mounts allows nesting anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import clincus

FIELD = "nesting"
KEY = "security.nesting"
LABEL = clincus.LABEL + FIELD
ALLOWED = "true"


def install(extensions: clincus.Extensions) -> None:
    """Accept the field in the request for a new session, and add it to each session."""
    extensions.wrappers.append(with_setting)
    extensions.instance_parts.append(note)
    extensions.session_fields.append(lambda session: {FIELD: session.nesting == ALLOWED})


def with_setting(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
    """Turn the field into a setting, which the session keeps for its later starts."""
    if (method, path) != ("POST", "/api/sessions"):
        return handler

    def create(request: clincus.Request) -> object:
        values = dict(request.values)
        chosen = values.pop(FIELD)
        if chosen is not None:
            values["settings"] = {**(values.get("settings") or {}), KEY: chosen}
        return handler(request._replace(values=values))

    return create


def note(_: clincus.Incus, __: clincus.Session, ___: clincus.Launch, description: dict[str, Any]) -> None:
    """Note on the instance of a start if containers can run in it."""
    if allows_nesting(description["config"]):
        description["config"][LABEL] = ALLOWED
    else:
        description["config"].pop(LABEL, None)  # of an earlier start


def allows_nesting(config: Mapping[str, str]) -> bool:
    """True if containers can run in an instance with these keys: each of them gets its root by pivot_root(2)."""
    denied = {rule.partition(" ")[0] for rule in config.get("security.syscalls.deny", "").splitlines()}
    return config.get("security.nesting") == "true" and "pivot_root" not in denied
