"""Says in a line each what this machine lacks for the tests: `python3 -m tests.machine`, before anything is installed.

Without the check, a run on such a machine fails a thousand times, and none of the errors names the cause.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

KERNEL = (5, 12)  # the wall's mount_setattr(2)
INSTANCES = 40  # inotify instances that a run has at its peak, its Incus daemons with them
WATCHES = 8192
GIB = 1 << 30
ROOM = {"/var/lib": 8 * GIB, "/tmp": 2 * GIB, "/var/tmp": 2 * GIB}  # bytes: Incus's pools and images, files of tests


def instances_of_user() -> int:
    """How many inotify instances the programs of this user hold; those of others are not seen."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += sum(os.readlink(fd) == "anon_inode:inotify" for fd in (process / "fd").iterdir())
        except OSError:
            continue  # it has ended meanwhile
    return count


def inotify_limit(name: str) -> int:
    """A limit of inotify(7) for each user."""
    return int(Path(f"/proc/sys/fs/inotify/{name}").read_text())


def lacks() -> Iterator[str]:
    """What is missing, each with what to do."""
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if release < KERNEL:
        yield f"the kernel is {os.uname().release}, and the wall needs {KERNEL[0]}.{KERNEL[1]} or newer"
    free = inotify_limit("max_user_instances") - instances_of_user()
    if free < INSTANCES:
        yield f"{free} inotify instances are free, and {INSTANCES} are needed: sysctl fs.inotify.max_user_instances=256"
    watches = inotify_limit("max_user_watches")
    if watches < WATCHES:
        yield f"a user may have {watches} inotify watches: sysctl fs.inotify.max_user_watches={WATCHES}"
    for folder, needed in ROOM.items():
        room = shutil.disk_usage(folder).free
        if room < needed:
            yield f"{folder} has {room / GIB:.1f} GiB free, and {needed / GIB:.0f} are needed"


def main() -> int:
    """Print what is missing; 1 if anything is."""
    found = list(lacks())
    for line in found:
        print(f"this machine cannot run the tests: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
