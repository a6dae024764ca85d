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
    extensions.wrappers.append(clincus.with_settings([FIELD], taken_settings))
    extensions.instance_parts.append(note)
    extensions.session_fields.append(lambda session: {FIELD: session.nesting == ALLOWED})


def taken_settings(values: Mapping[str, Any]) -> dict[str, object]:
    """The field of a request, as a setting."""
    return {} if values[FIELD] is None else {KEY: values[FIELD]}


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
