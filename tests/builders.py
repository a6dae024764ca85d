"""Builders of the core's values for tests: each names only the fields that its test is about."""

from __future__ import annotations

from typing import Any

import clincus


def a_session(slot: int = 1, **fields: Any) -> clincus.Session:
    """A running, ephemeral session of Claude Code in /w, except for the given fields."""
    usual = {
        "id": f"clincus-a1b2c3-{slot}",
        "workspace": "/w",
        "tool": "claude",
        "slot": slot,
        "status": "running",
        "persistent": False,
    }
    return clincus.Session(**{**usual, **fields})


def an_engine(name: str, registry: clincus.Registry) -> clincus.Engine:
    """An engine that nobody follows, with the registry of its sessions."""
    containers = clincus.Containers(clincus.Incus(engine=name), registry, print, clincus.Extensions())
    return clincus.Engine(name, {}, containers)
