"""The resources that a session uses: GET /api/sessions/{id}/usage. Each answer is one call of Incus."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import clincus

KEPT = 2.0  # seconds for which an answer is kept: more than one page may ask


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app
    answers = clincus.LastAnswers(KEPT)

    def get_usage(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        return answers.get(session, lambda: ask_usage(app.sessions, session))

    extensions.routes.append(("GET", "/api/sessions/{id}/usage", get_usage))


def ask_usage(sessions: clincus.Sessions, session: clincus.Session) -> dict[str, object]:
    """The usage of a running session. Raises IncusError."""
    incus = sessions.door(session.id)
    state = incus.query(incus.path(session.id, "/state"), timeout=clincus.READ_TIMEOUT)
    cache = None
    if not session.engine:
        cache = page_cache(session.id, amount(state.get("pid")) or 0)
    return usage_document(state, cache, clincus.utc_now())


def usage_document(state: Mapping[str, Any], cache: int | None, at: str) -> dict[str, object]:
    """The answer of the API from Incus's InstanceState; None for figures that Incus lacks. Pure.

    `cache` are the bytes of files that the kernel caches for it, and frees when they are needed.
    """
    cpu = state.get("cpu") or {}
    memory = state.get("memory") or {}
    network = state.get("network") or {}
    cards = [card.get("counters") or {} for name, card in network.items() if name != "lo"]
    disks = [disk.get("usage") for disk in (state.get("disk") or {}).values()]
    used = amount(memory.get("usage"))
    if used and cache:
        used = max(used - cache, 0)
    nanoseconds = amount(cpu.get("usage"))
    return {
        "cpu_seconds": None if nanoseconds is None else nanoseconds / 10**9,
        "memory_bytes": used,
        "memory_limit": amount(memory.get("total")) or None,
        "disk_bytes": total(disks),
        "processes": amount(state.get("processes")),
        "received_bytes": total(card.get("bytes_received") for card in cards),
        "sent_bytes": total(card.get("bytes_sent") for card in cards),
        "at": at,
    }


def amount(value: object) -> int | None:
    """A number of Incus, None for -1, which means unknown."""
    return value if isinstance(value, int) and value >= 0 else None


def total(values: Iterable[object]) -> int | None:
    """The sum of the known numbers, None if none is known. On some pools a disk without a quota has the usage 0."""
    known = [number for number in map(amount, values) if number is not None]
    return sum(known) if known else None


def page_cache(name: str, pid: int) -> int | None:
    """The page cache of an instance on this machine, by the control group of its first process; None elsewhere."""
    if not pid:
        return None
    groups = clincus.read_plain_file(f"/proc/{pid}/cgroup", 1 << 16) or b""
    payload = rf"^0::(.*/lxc\.payload\.(?:[^/]+_)?{re.escape(name)})(?:/|$)"
    found = re.search(payload.encode(), groups, re.MULTILINE)
    if found is None:
        return None
    path = f"/sys/fs/cgroup{os.fsdecode(found[1])}/memory.stat"
    with contextlib.suppress(OSError):
        figures = clincus.read_plain_file(path, 1 << 16) or b""
        cached = re.search(rb"^file (\d+)$", figures, re.MULTILINE)
        return int(cached[1]) if cached else None
    return None
