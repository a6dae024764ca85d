"""The share of the machine that a session takes: GET /api/sessions/{id}/usage. Each answer is one call of Incus."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import clincus

KEPT = 2.0  # seconds for which an answer holds: more than one page may ask


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app, answers = extensions.app, clincus.LastAnswers(KEPT)

    def get_usage(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        return answers.get(session, lambda: ask_usage(app.sessions, session))

    extensions.routes.append(("GET", "/api/sessions/{id}/usage", get_usage))


def ask_usage(sessions: clincus.Sessions, session: clincus.Session) -> dict[str, object]:
    """The usage of a session that runs. Raises IncusError."""
    incus = sessions.door(session.id)
    state = incus.query(incus.path(session.id, "/state"), timeout=clincus.READ_TIMEOUT)
    cache = None if session.engine else page_cache(session.id, amount(state.get("pid")) or 0)
    return usage_document(state, cache, clincus.utc_now())


def usage_document(state: Mapping[str, Any], cache: int | None, at: str) -> dict[str, object]:
    """The answer of the API from what Incus says of an instance (InstanceState); None where it says nothing. Pure.

    `cache` are the bytes of files that the kernel keeps for it, and gives back when they are needed.
    """
    cpu, memory, network = (state.get(key) or {} for key in ("cpu", "memory", "network"))
    cards = [card.get("counters") or {} for name, card in network.items() if name != "lo"]
    disks = [disk.get("usage") for disk in (state.get("disk") or {}).values()]
    used, nanoseconds = amount(memory.get("usage")), amount(cpu.get("usage"))
    return {
        "cpu_seconds": None if nanoseconds is None else nanoseconds / 10**9,
        "memory_bytes": max(used - cache, 0) if used and cache else used,
        "memory_limit": amount(memory.get("total")) or None,
        "disk_bytes": total(disks),
        "processes": amount(state.get("processes")),
        "received_bytes": total(card.get("bytes_received") for card in cards),
        "sent_bytes": total(card.get("bytes_sent") for card in cards),
        "at": at,
    }


def amount(value: object) -> int | None:
    """A number of Incus's; it writes -1 for what it does not know."""
    return value if isinstance(value, int) and value >= 0 else None


def total(values: Iterable[object]) -> int | None:
    """The sum of the numbers that are known, None if none is. A disk without a quota has the usage 0 on some pools."""
    known = [number for number in map(amount, values) if number is not None]
    return sum(known) if known else None


def page_cache(name: str, pid: int) -> int | None:
    """The page cache of an instance on this machine, by the control group of its first process; None elsewhere."""
    groups = clincus.read_plain_file(f"/proc/{pid}/cgroup", 1 << 16) if pid else None
    found = re.search(
        rf"^0::(.*/lxc\.payload\.(?:[^/]+_)?{re.escape(name)})(?:/|$)".encode(), groups or b"", re.MULTILINE
    )
    if found is None:
        return None
    with contextlib.suppress(OSError):
        figures = clincus.read_plain_file(f"/sys/fs/cgroup{os.fsdecode(found[1])}/memory.stat", 1 << 16)
        said = re.search(rb"^file (\d+)$", figures or b"", re.MULTILINE)
        return int(said[1]) if said else None
    return None
