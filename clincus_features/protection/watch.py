"""Watches names in a few folders of the host (inotify(7)), for all sessions by one thread that sleeps meanwhile.

Only the folders on the way to sealed paths are watched, each by itself: what happens deeper costs nothing. Of what
happens in them only sealed names count. A flood of events is read slowly, so the kernel drops what does not fit, says
so, and all is looked at.
"""

from __future__ import annotations

import functools
import importlib
import os
import queue
import select
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import clincus

from .identity import kind_of, opened, steps_to
from .operations import NAMES

# Each command loads this file, and none of them watches anything.
if TYPE_CHECKING:
    import ctypes
else:
    ctypes = clincus.Later(importlib.import_module, "ctypes")

# inotify(7), <linux/inotify.h>
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED = 0x2000, 0x4000, 0x8000
NAMES_CHANGE = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
NAMES_COME = IN_MOVED_TO | IN_CREATE
# Of a Git folder that has no seal, and of operations in progress.
WRITTEN_IN_PLACE = frozenset(map(os.fsencode, ("HEAD", "config", "config.worktree", "commondir", "gitdir", *NAMES)))
MAKE_A_REPOSITORY = frozenset((b"HEAD", b"objects", b"refs"))  # without one of these, it may hide another one
SELF_CHANGES = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED
IN_A_FOLDER = NAMES_CHANGE | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF
IN_A_FILE = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
READ_SIZE = 64 << 10  # bytes: some 2000 events
FLOOD = 500  # events that one read may bring before the next one waits
PAUSE, PAUSE_AFTER_LOSS = 0.05, 0.5  # seconds

# A name changed; its content did; events were dropped; a session was taken up that ran already.
MOVED, CHANGED, LOST, FOUND = "moved", "changed", "lost", "found"
GRAVEST_LAST = (FOUND, CHANGED, LOST, MOVED)


def graver(one: str, other: str) -> str:
    """Of two things that happened to one mark the one that is told."""
    return max(one, other, key=GRAVEST_LAST.index)


class Mark(NamedTuple):
    """A sealed path, or a folder on the way to one, of a session."""

    id: str
    path: str


Touched = dict[Mark, str]  # what happened: MOVED, CHANGED, LOST or FOUND


class Watched:
    """A folder, or a file with several names, that the kernel watches for us."""

    def __init__(self) -> None:
        self.names: dict[bytes, set[Mark]] = {}  # what each name in it means
        self.inside: set[Mark] = set()  # what is touched by whatever happens in it
        self.comers: set[Mark] = set()  # what is touched by whatever gets a name in it
        self.place = ("", 0)  # its path and inode, if it has comers

    def marks(self) -> set[Mark]:
        """All that depends on it."""
        return self.inside.union(self.comers, *self.names.values())


class Watcher:
    """Calls `on_touch` with what was touched, and `on_rest` at the times that it asks for; all in the thread of `work`.

    Whatever else uses the same state is handed to `call`, which runs it there too.
    """

    def __init__(self, on_touch: Callable[[Touched], None], on_rest: Callable[[], float]) -> None:
        self._on_touch, self._on_rest = on_touch, on_rest
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._inotify = -1
        self._watched: dict[int, Watched] = {}
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake[0], select.POLLIN)

    @functools.cached_property
    def _libc(self) -> Any:
        return ctypes.CDLL(None, use_errno=True)

    def call(self, job: Callable[[], object]) -> None:
        """Have a job done in the thread."""
        self._jobs.put(job)
        with suppress(BlockingIOError):  # it is awake anyhow
            os.write(self._wake[1], b"w")

    def work(self) -> None:
        """Wait for events, a job or a time, and do what is to be done."""
        wait = self._on_rest()
        self._poll.poll(None if wait < 0 else 1000 * wait)
        with suppress(BlockingIOError):
            os.read(self._wake[0], 4096)
        self.drain()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            clincus.survive("looking at what is sealed", job)

    def drain(self) -> None:
        """Read the events that have come, and tell what they touched. A flood is read slowly."""
        count = 0
        touched: Touched = {}
        with suppress(BlockingIOError):
            if self._inotify >= 0:
                for mask, marks in self._events(os.read(self._inotify, READ_SIZE)):
                    count += 1
                    for mark, how in marks:
                        touched[mark] = graver(how, touched.get(mark, how))
                    if mask & IN_Q_OVERFLOW:
                        count += FLOOD
        if touched:
            clincus.survive("judging what is sealed", lambda: self._on_touch(touched))
        if count > FLOOD:
            time.sleep(PAUSE_AFTER_LOSS if LOST in touched.values() else PAUSE)

    def _events(self, data: bytes) -> Iterator[tuple[int, Iterable[tuple[Mark, str]]]]:
        """The mask of each event, and what it touched."""
        at = 0
        while at < len(data):
            number, mask, _, length = EVENT.unpack_from(data, at)
            name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
            at += EVENT.size + length
            if mask & IN_Q_OVERFLOW:
                yield mask, [(mark, LOST) for watched in self._watched.values() for mark in watched.marks()]
                continue
            found = self._watched.get(number)
            if found is None:
                continue
            if mask & SELF_CHANGES:
                yield mask, [(mark, MOVED) for mark in found.marks()]
            elif name in found.names:
                yield mask, [(mark, MOVED if mask & NAMES_CHANGE else CHANGED) for mark in found.names[name]]
            else:
                yield mask, [(mark, CHANGED) for mark in found.inside]
            is_written = mask & IN_CLOSE_WRITE and name in WRITTEN_IN_PLACE
            if mask & NAMES_COME or is_written or (mask & NAMES_CHANGE and name in MAKE_A_REPOSITORY):
                yield mask, [(mark, CHANGED) for mark in found.comers]
            if mask & IN_IGNORED:
                self._watched.pop(number, None)

    # -- In the thread only

    def watch(self, id: str, paths: Mapping[str, str], several_names: Iterable[str] = ()) -> None:
        """Watch sealed paths of a session, each with the folder that its session got, in which it lies.

        `several_names` are files that can be changed under another name, too. Raises OSError if the kernel has no
        more watches for this user.
        """
        names: dict[str, set[tuple[str, Mark]]] = {}  # folder -> what is watched in it
        for path, source in paths.items():
            steps = [source, *steps_to(path, source)]
            for above, step in zip(steps, steps[1:]):
                names.setdefault(above, set()).update(((step, Mark(id, step)), (step, Mark(id, path))))
        for folder, marks in names.items():
            self._watch_names(folder, marks)
        for path in paths:
            self._watch_inside(path, Mark(id, path), IN_A_FOLDER)
        for path in several_names:
            sealed = next((one for one in paths if clincus.path_inside(path, one)), path)
            self._watch_inside(path, Mark(id, sealed), IN_A_FILE)

    def watch_name(self, id: str, path: str) -> None:
        """Watch what happens to one name of a folder, for a session. Raises OSError as `watch`."""
        self._watch_names(os.path.dirname(path), [(path, Mark(id, path))])

    def watch_comers(self, id: str, path: str, folders: Mapping[str, int]) -> bool:
        """Watch what gets a name in folders, each with its inode; `path` is touched then. Whether one is new here.

        Raises OSError as `watch`.
        """
        mark, is_new = Mark(id, path), False
        known = {watched.place for watched in self._watched.values() if mark in watched.comers}
        for folder in folders.items() - known:
            watched = self._add(folder[0], IN_A_FOLDER)
            if watched is not None:
                watched.place = folder
                watched.comers.add(mark)
                is_new = True
        return is_new

    def unwatch(self, id: str) -> None:
        """Watch for a session no more."""
        for number, watched in list(self._watched.items()):
            watched.inside = {mark for mark in watched.inside if mark.id != id}
            watched.comers = {mark for mark in watched.comers if mark.id != id}
            kept = {name: {mark for mark in marks if mark.id != id} for name, marks in watched.names.items()}
            watched.names = {name: marks for name, marks in kept.items() if marks}
            if not watched.marks():
                self._watched.pop(number)
                self._libc.inotify_rm_watch(self._inotify, number)

    def _watch_names(self, folder: str, marks: Iterable[tuple[str, Mark]]) -> None:
        watched = self._add(folder, IN_A_FOLDER)
        if watched is not None:
            for path, mark in marks:
                watched.names.setdefault(os.fsencode(os.path.basename(path)), set()).add(mark)

    def _watch_inside(self, path: str, mark: Mark, mask: int) -> None:
        watched = self._add(path, mask)
        if watched is not None:
            watched.inside.add(mark)

    def _add(self, path: str, mask: int) -> Watched | None:
        """Have the kernel watch a folder, or for IN_A_FILE a file; None if there is none at that path."""
        if self._inotify < 0:
            self._inotify = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            self._poll.register(self._inotify, select.POLLIN)
        with suppress(FileNotFoundError, NotADirectoryError), opened(path) as descriptor:
            if kind_of(os.fstat(descriptor)) != ("file" if mask == IN_A_FILE else "folder"):
                return None
            name = f"/proc/self/fd/{descriptor}".encode()
            number = self._check(self._libc.inotify_add_watch(self._inotify, name, ctypes.c_uint32(mask)))
            return self._watched.setdefault(number, Watched())
        return None

    def _check(self, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "inotify")
        return result
