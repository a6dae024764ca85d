"""The programs of this host that could have taken a seal off: those in a mount namespace of their own.

inotify does not report the process. A rename over a sealed path fails in the namespace of the host, so it was the
container, or a program in which the wall's mounts are not seen: a Flatpak editor, a toolbox, a service with PrivateTmp.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

import clincus

MOST_PROCESSES = 20000
MOST_NAMED = 3
OF_A_CONTAINER = re.compile(r"lxc\.payload|lxc\.monitor|/docker|/libpod|machine\.slice")  # in a cgroup's path


def suspects() -> str:
    """A sentence that names these programs; "" if none was found."""
    found = list(processes_apart())
    if not found:
        return ""
    named = [f"{name} (pid {pid})" for pid, name in found[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    verb = "runs in a mount namespace of its own and may have done it"
    if len(found) > 1:
        verb = "run in mount namespaces of their own and may have done it"
    return f"{', '.join(named)}{more} {verb}"


def processes_apart() -> Iterator[tuple[int, str]]:
    """The processes of our user (all if we are root) in a namespace that is neither ours, pid 1's nor a container's."""
    ours = {namespace_of(os.getpid()), namespace_of(1)}
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()][:MOST_PROCESSES]
    for pid in pids:
        with suppress(OSError):
            if os.geteuid() != 0 and os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            namespace = namespace_of(pid)
            if namespace and namespace not in ours and is_program(pid) and not is_contained(pid):
                yield pid, name_of(pid)


def namespace_of(pid: int) -> str:
    """The mount namespace of a process; "" if we may not know it."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def is_program(pid: int) -> bool:
    """True if a process has a command line, which threads of the kernel lack. Raises OSError."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(1) != b""


def is_contained(pid: int) -> bool:
    """True if a process is in a container, by its control group. Raises OSError."""
    with open(f"/proc/{pid}/cgroup", errors="replace") as file:
        return OF_A_CONTAINER.search(file.read(4096)) is not None


def name_of(pid: int) -> str:
    """The name of a process, which it has chosen itself. Raises OSError."""
    with open(f"/proc/{pid}/comm", errors="replace") as file:
        return clincus.printable(file.read(64).strip())
