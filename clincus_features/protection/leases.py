"""Read leases (fcntl(2), "Leases") on files that git obeys and that have no seal: git's index, a new submodule's
configuration, the list of a rebase.

A write through a memory mapping raises no inotify event, and a program can undo it before the next look. The kernel
knows such a program anyway: it grants a read lease only while nobody has the file open for writing, and a
writable shared mapping counts as open until it is gone. While we hold the lease, each open for writing waits until we
release it.

git writes most of these files under another name and renames them. So the lease delays no git, in the container or on
the host, and a file that is open for writing under its final name at two looks is an attack. For the other files, a
lease is taken and returned, to see if it is available.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import secrets
import signal
import stat
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import clincus

from .identity import opened
from .restore import FRESH

# Every command loads this file, but no command takes a lease.
if TYPE_CHECKING:
    import ctypes
else:
    ctypes = clincus.Later(importlib.import_module, "ctypes")

MOST_HELD = 200  # files of a session
WRITTEN_FOR = 0.25  # seconds between two looks that find a file open for writing, at least
FORGOTTEN_AFTER = 60.0  # seconds without such a look
COPY_LIMIT = 16 << 20  # bytes of a file that is copied to make it ours
READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
SIG_IGN = 1  # <bits/signum-generic.h>
HELD = "held"
WRITTEN = "written"
ANOTHERS = "another's"
REFUSED = "refused"


class Lease(NamedTuple):
    """A lease that we hold."""

    descriptor: int
    thing: tuple[int, int]  # device and inode


class Sighting(NamedTuple):
    """A file that was open for writing."""

    first: float  # of the clock
    last: float
    is_open: bool  # at the last look
    is_certain: bool  # at two looks with WRITTEN_FOR between them


class Leases:
    """The leases of all sessions. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, dict[str, Lease]] = {}  # session -> path -> lease
        self._seen: dict[str, dict[str, Sighting]] = {}  # session -> path -> sighting
        ignore_sigio()

    def hold(self, id: str, paths: Collection[str], probed: Collection[str] = ()) -> list[str]:
        """Hold leases on files of a session, and no others; returns the files that some program keeps open for writing.

        For `probed` files, which git writes in place, no lease is kept. A path is reported once. Call this again after
        WRITTEN_FOR if `is_in_doubt`.
        """
        with self._lock:
            held = self._held.setdefault(id, {})
            written = [path for path in [*paths, *probed][:MOST_HELD] if self._is_written(id, path)]
            for path in held.keys() - paths:
                os.close(held.pop(path).descriptor)
            return written

    def is_in_doubt(self, id: str) -> bool:
        """True if a file of a session was open for writing at one look, and the second look is still to come."""
        with self._lock:
            return any(one.is_open and not one.is_certain for one in self._seen.get(id, {}).values())

    def let_go(self, living: Collection[str]) -> None:
        """End the leases for which a writing program waits, and those of all sessions except some."""
        for id in self._held.keys() - living:
            self.drop(id)
        with self._lock:
            for held in self._held.values():
                for path, lease in list(held.items()):
                    if fcntl.fcntl(lease.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
                        os.close(held.pop(path).descriptor)

    def drop(self, id: str) -> None:
        """End all leases of a session."""
        with self._lock:
            self._seen.pop(id, None)
            for lease in self._held.pop(id, {}).values():
                os.close(lease.descriptor)

    def _is_written(self, id: str, path: str) -> bool:
        """Take a lease. True if this look proves that a program keeps the file open for writing."""
        how = self._take(id, path)
        seen = self._seen.setdefault(id, {})
        now = self._clock()
        before = seen.get(path)
        if before is not None and now - before.last > FORGOTTEN_AFTER:
            del seen[path]
            before = None
        if how is not WRITTEN:
            if before is not None:
                seen[path] = before._replace(is_open=False)
            return False
        if before is None:
            seen[path] = Sighting(now, now, is_open=True, is_certain=False)
            return False
        is_certain = now - before.first >= WRITTEN_FOR
        seen[path] = Sighting(before.first, now, is_open=True, is_certain=is_certain)
        return is_certain and not before.is_certain

    def _take(self, id: str, path: str) -> str:
        """Take a lease on the file at a path, unless we hold it. A file of another owner becomes ours first."""
        how = self._take_as_it_is(id, path)
        if how is ANOTHERS and make_ours(path):
            how = self._take_as_it_is(id, path)
        return how

    def _take_as_it_is(self, id: str, path: str) -> str:
        held = self._held[id]
        before = held.get(path)
        descriptor = -1
        refusal = REFUSED
        try:
            with opened(path) as place:
                about = os.fstat(place)
                thing = about.st_dev, about.st_ino
                if before is not None and before.thing == thing:
                    return HELD
                if stat.S_ISREG(about.st_mode):
                    descriptor = os.open(f"/proc/self/fd/{place}", READ_FILE)
        except BlockingIOError:  # a program has a lease of its own, to change the file before anybody reads it
            refusal = WRITTEN
        except OSError:
            pass
        if before is not None:
            os.close(held.pop(path).descriptor)
        if descriptor < 0:
            return refusal
        how = lease(descriptor)
        if how is HELD:
            held[path] = Lease(descriptor, thing)
        else:
            os.close(descriptor)
        return how


def lease(descriptor: int) -> str:
    """Take a read lease on an open file: HELD, WRITTEN, ANOTHERS (only its owner may), or REFUSED."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
            return WRITTEN
        return ANOTHERS if error.errno in (errno.EACCES, errno.EPERM) else REFUSED
    return HELD


def make_ours(path: str) -> bool:
    """Replace a file of another owner, such as root in a container, by a copy that is ours.

    A program that has the old file open or mapped then writes what nobody reads. False if we may not write the folder.
    """
    fresh = f".{os.path.basename(path)}.{FRESH}-{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError), opened(os.path.dirname(path)) as parent:
        name = os.path.basename(path)
        with open(os.open(name, READ_FILE | os.O_NOFOLLOW, dir_fd=parent), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_uid == os.geteuid():
                return False
            data = file.read(COPY_LIMIT + 1)
        if len(data) > COPY_LIMIT:
            return False
        with open(os.open(fresh, flags, about.st_mode & 0o777, dir_fd=parent), "wb") as copy:
            copy.write(data)
        os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
        return True
    return False


def ignore_sigio() -> None:
    """Let the signal of a lease that has to end do nothing: by default it ends the process. Any thread may do this."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.signal(int(signal.SIGIO), ctypes.c_void_p(SIG_IGN))


def is_renamed_into_place(path: str) -> bool:
    """True if git writes a file of an operation in progress under another name first. Pure."""
    return path.endswith(("/git-rebase-todo", "/sequencer/todo"))
