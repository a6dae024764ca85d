"""Who uses the processors while a bench runs: the server, its `incus` commands, the daemon, containers, clients."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpuacct"))  # version 2, and 1


def times(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of its children that have ended; nothing for one that has ended itself."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
        own, system, children, system_of_children = (int(word) / TICKS for word in words)
        return own + system, children + system_of_children
    return 0.0, 0.0


def children_of(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def containers() -> float:
    """CPU seconds of all containers that run."""
    total = 0.0
    for folder in (path for place in CGROUPS for path in place.glob("lxc.payload.*")):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "cpuacct.usage").exists():
                total += int((folder / "cpuacct.usage").read_text()) / 1e9
            else:
                total += int((folder / "cpu.stat").read_text().split("usage_usec ")[1].split()[0]) / 1e6
    return total


def machine() -> float:
    """CPU seconds of all that runs on this machine."""
    user, nice, system, _idle, _waiting, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts[:2])) / TICKS


def spent(server: int, daemon: int, clients: Iterable[int]) -> dict[str, float]:
    """CPU seconds so far of each party, none of them twice; what is left is the kernel's, and that of Incus's helpers.

    `server`, `daemon` and `clients` are numbers of processes.
    """
    commands = times(server)[1] + sum(sum(times(pid)) for pid in children_of(server))
    found = {
        "the server": times(server)[0],
        "its `incus` commands": commands,
        "the daemon": times(daemon)[0],
        "what runs in containers": containers(),
        "the clients": sum(times(pid)[0] for pid in clients),
    }
    return {**found, "everything else": machine() - sum(found.values()), "time": time.monotonic()}


def shares(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How many processors each party kept busy between two looks."""
    seconds = after["time"] - before["time"]
    return {who: (after[who] - before[who]) / seconds for who in after if who != "time"}
