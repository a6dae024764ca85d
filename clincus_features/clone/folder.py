"""Reads a folder of the host that another process may be changing, without following any link in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import clincus

OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Folder:
    """A folder that is held open. A link that takes the place of something below it leads nowhere."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, OPEN | os.O_DIRECTORY)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        os.close(self._descriptor)

    @contextmanager
    def _parent(self, relative: str) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that a path ends in, and the path's last part. Raises OSError."""
        *folders, name = relative.split("/")
        if not {"", ".", ".."}.isdisjoint((*folders, name)):
            raise FileNotFoundError(relative)
        here = os.dup(self._descriptor)
        try:
            for part in folders:
                below = os.open(part, OPEN | os.O_DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            yield here, name
        finally:
            os.close(here)

    def status(self, relative: str) -> os.stat_result | None:
        """The status of a path, of a link itself and not of its target; None if nothing is there."""
        try:
            with self._parent(relative) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return None

    def can_read(self, relative: str) -> bool:
        """True if this user may read a file that is there."""
        with suppress(OSError), self._parent(relative) as (parent, name):
            return os.access(name, os.R_OK, dir_fd=parent, effective_ids=True, follow_symlinks=False)
        return True

    def link(self, relative: str) -> str:
        """The target of a link. Raises OSError."""
        with self._parent(relative) as (parent, name):
            return os.readlink(name, dir_fd=parent)

    @contextmanager
    def open(self, relative: str) -> Iterator[int]:
        """A descriptor of a regular file. Raises OSError, also for anything else."""
        with self._parent(relative) as (parent, name):
            descriptor = os.open(name, OPEN, dir_fd=parent)
        with clincus.closing_descriptor(descriptor):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(relative)
            yield descriptor

    def read(self, relative: str, limit: int) -> bytes:
        """The content of a regular file, empty for a missing one. Raises ClincusError(409) if it is too large."""
        with suppress(OSError), self.open(relative) as descriptor, open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
            if len(data) > limit:
                raise clincus.ClincusError(f"{self.path}/{relative} is larger than {limit >> 10} KiB: shorten it", 409)
            return data
        return b""

    def files(self, relative: str) -> Iterator[str]:
        """The paths of all regular files below a folder."""
        try:
            with self._parent(relative) as (parent, name):
                descriptor = os.open(name, OPEN | os.O_DIRECTORY, dir_fd=parent)
        except OSError:
            return
        with clincus.closing_descriptor(descriptor), os.scandir(descriptor) as entries:
            found = [
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False))
                for entry in entries
            ]
        for name, is_folder, is_file in sorted(found):
            if is_folder:
                yield from self.files(f"{relative}/{name}")
            elif is_file:
                yield f"{relative}/{name}"
