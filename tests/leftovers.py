"""What a test may leave to the next one: no inotify instance, no listening port, no thread and no child.

The kernel allows a user 128 inotify instances (`fs.inotify.max_user_instances`): a few files of tests whose watchers
outlive them took all of them, and then nothing that needs one started, such as the dnsmasq of an Incus daemon.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import threading
import time
from pathlib import Path

ENDS_WITHIN = 10.0  # seconds for a thread or a child that was told to end
# One for each process, for good: the deadlines of children in clincus.py, and the workers of asyncio.
OF_THE_PROCESS = ("deadlines", "a deadline has passed", "asyncio_")


def inotify_instances(pid: int | str = "self") -> set[str]:
    """The descriptors of a process that are inotify instances. Another's that may not be read, or that ended: none."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) == "anon_inode:inotify":
                    found.add(entry.name)
    return found


def listening() -> set[str]:
    """The sockets of this process that wait for connections, by their addresses."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.stat(entry.path).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.add(str(one.getsockname()))
    return found


def living_children() -> set[str]:
    """The children of this process that run, each with the number and the words of its command line."""
    found = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in thread.read_text().split():
                words = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                )
                if words:  # a zombie has none: it has ended, and the next start of a program reaps it
                    found.add(f"{pid} {words[:200]}")
    return found


class Snapshot:
    """What this process has at one moment."""

    def __init__(self) -> None:
        self.threads = {one for one in threading.enumerate() if not one.name.startswith(OF_THE_PROCESS)}
        self.instances = inotify_instances()
        self.ports = listening()
        self.children = living_children()

    def left(self) -> list[str]:
        """What is there now and was not there then, in words."""
        now = Snapshot()
        found = [f"thread {thread.name}" for thread in now.threads - self.threads]
        found += [f"inotify instance {number}" for number in now.instances - self.instances]
        found += [f"listening port {address}" for address in now.ports - self.ports]
        return found + [f"child {child}" for child in now.children - self.children]

    def left_after_a_while(self) -> list[str]:
        """The same, after what was told to end had its time, and what nobody holds any more is gone."""
        end = time.monotonic() + ENDS_WITHIN
        found = self.left()
        if found:
            gc.collect()
        pause = threading.Event()
        while (found := self.left()) and time.monotonic() < end:
            pause.wait(0.05)
        return found
