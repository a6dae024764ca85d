"""Opens paths of the host that a person names, without following a link that a container may have made.

A container writes its session's folder, so a link in it may be the agent's, and may lead anywhere. Links in other
places are the person's own, and are followed. Each step is opened by the descriptor of the last one, so a folder that
is swapped meanwhile has no effect.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import clincus
from clincus_cli.context import Context

MOST_LINKS = 40  # on the way to one path, as in the kernel
STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
Identity = tuple[int, int]  # device and inode
Identities = Callable[[], set[Identity]]


def shared_folders(context: Context) -> set[Identity]:
    """The folders of this host that a container writes or has written: of all instances, and of all past sessions."""
    paths: set[str] = set()
    with suppress(clincus.ClincusError):  # no Incus on this machine, say
        for instance in context.incus.query("/1.0/instances?recursion=1") or ():
            paths.update(source for source, _ in clincus.protect.disk_sources(instance["expanded_devices"].values()))
            plan = clincus.protect.hook_plan(instance["config"])  # with the folders that the wall's hook mounts
            paths.update(tree["source"] for tree in plan.get("trees", ()))
    with suppress(clincus.ClincusError):
        paths.update(run.workspace for run in context.history.runs())
    found = set()
    for path in paths:
        with suppress(OSError):
            about = os.stat(path) if path.startswith("/") else None
            if about is not None and stat.S_ISDIR(about.st_mode):
                found.add((about.st_dev, about.st_ino))
    return found


@contextmanager
def opened(path: str, shared: Identities, *, make: bool = False) -> Iterator[int]:
    """A descriptor (O_PATH) of the file or folder at a path, never of a link. With `make`, missing folders are made.

    `shared` gives the folders in which no link is followed; it is asked when there is a link. Raises OSError, and
    ClincusError(409) for such a link.
    """
    here = os.open("/" if path.startswith("/") else ".", STEP | os.O_DIRECTORY)
    waiting = deque(path.split("/"))
    passed = "/" if path.startswith("/") else ""  # for a person
    links = 0
    try:
        while waiting:
            name = waiting.popleft()
            if name in ("", "."):
                continue
            below = open_step(here, name, make=make)
            if stat.S_ISLNK(os.fstat(below).st_mode):
                os.close(below)
                links += 1
                target = followed(here, name, f"{passed}{name}", shared, links)
                waiting.extendleft(reversed(target.split("/")))
                passed = "/" if target.startswith("/") else passed
                below = os.open("/" if target.startswith("/") else ".", STEP | os.O_DIRECTORY, dir_fd=here)
            else:
                passed = f"{passed}{name}/"
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def open_step(folder: int, name: str, *, make: bool) -> int:
    """Open a name in a folder. Raises OSError."""
    try:
        return os.open(name, STEP, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, STEP, dir_fd=folder)


def followed(folder: int, name: str, place: str, shared: Identities, links: int) -> str:
    """The target of a link that may be followed. Raises OSError, ClincusError(409)."""
    if links > MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)
    target = os.readlink(name, dir_fd=folder)
    if is_inside(folder, shared()):
        words = f"is a link to {clincus.shorten(target)}, in a folder that a container can change"
        advice = "remove the link, or name the place that it leads to"
        raise clincus.ClincusError(f'"{place}" {words}, and Clincus does not follow it: {advice}', 409)
    return target


def is_inside(folder: int, shared: set[Identity]) -> bool:
    """True if a folder is one of some, or is in one of them. Raises OSError."""
    here = os.open(".", STEP | os.O_DIRECTORY, dir_fd=folder)
    try:
        while True:
            about = os.fstat(here)
            if (about.st_dev, about.st_ino) in shared:
                return True
            above = os.open("..", STEP | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = above
            parent = os.fstat(here)
            if (parent.st_dev, parent.st_ino) == (about.st_dev, about.st_ino):
                return False
    finally:
        os.close(here)


def readable(descriptor: int) -> int:
    """A descriptor to read from, for one of `opened`; a pipe does not block. Raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
