"""Watches names in a few folders of the host (inotify(7)) for all sessions, in one thread.

Only the folders on the way to sealed paths are watched, each by itself, so deeper changes cost nothing. In these
folders only events at sealed names count. The kernel gives a user few inotify instances (fs.inotify.max_user_instances,
128), so all sessions share one. A flood of events is read slowly: the kernel drops some, reports that, and all paths of
all sessions are examined. Moves of sealed names also come by a second instance, which no container can flood, since
none can move them as long as the seal holds.
"""

from __future__ import annotations

import importlib
import os
import queue
import select
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import clincus

from .identity import kind_of, opened, steps_to
from .moves import Move
from .operations import NAMES

# Every command loads this file, but no command watches anything.
if TYPE_CHECKING:
    import ctypes
else:
    ctypes = clincus.Later(importlib.import_module, "ctypes")

# inotify(7), <linux/inotify.h>
IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
NAMES_CHANGE = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
NAMES_COME = IN_MOVED_TO | IN_CREATE
# Names in a Git folder without a seal, and of operations in progress.
WRITTEN_IN_PLACE = frozenset(map(os.fsencode, ("HEAD", "config", "config.worktree", "commondir", "gitdir", *NAMES)))
MAKE_A_REPOSITORY = frozenset((b"HEAD", b"objects", b"refs"))  # without one of these, it may hide another one
SELF_CHANGES = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED
IN_A_FOLDER = NAMES_CHANGE | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF
IN_A_FILE = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF
OF_ITSELF = IN_DELETE_SELF | IN_MOVE_SELF
KINDS = {IN_A_FOLDER: ("folder",), IN_A_FILE: ("file",), OF_ITSELF: ("folder", "file")}
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
READ_SIZE = 64 << 10  # bytes: some 2000 events
MOST_READS = 100  # reads at an end: enough for a full queue with long names, by the default of fs.inotify
FLOOD = 500  # events that one read may bring before the next one waits
PAUSE, PAUSE_AFTER_LOSS = 0.05, 0.5  # seconds

# A name changed; its content changed; events were dropped; a session that already ran was taken over.
MOVED = "moved"
CHANGED = "changed"
LOST = "lost"
FOUND = "found"
GRAVEST_LAST = (FOUND, CHANGED, LOST, MOVED)


def graver(one: str, other: str) -> str:
    """The more serious of two events at one mark, which is the one to report."""
    return max(one, other, key=GRAVEST_LAST.index)


class Mark(NamedTuple):
    """A sealed path, or a folder on the way to one, of a session."""

    id: str
    path: str


Touched = dict[Mark, str]  # the event: MOVED, CHANGED, LOST or FOUND


class Watched:
    """A folder, or a file with several names, that the kernel watches for us."""

    def __init__(self) -> None:
        self.names: dict[bytes, set[Mark]] = {}  # the marks of each name in it
        self.inside: set[Mark] = set()  # the marks that any event in it touches
        self.comers: set[Mark] = set()  # the marks that any new name in it touches
        self.place = ("", 0)  # its path and inode, if it has comers

    def marks(self) -> set[Mark]:
        """All marks that depend on it."""
        return self.inside.union(self.comers, *self.names.values())


class Instance:
    """An inotify instance, with a queue of its own. Raises OSError if this user may have no more of them."""

    def __init__(self, if_lost: str = LOST) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._if_lost = if_lost  # the event for all its marks if the kernel dropped some
        self.descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:  # EMFILE, whose words speak of files
            raise OSError(ctypes.get_errno(), "your user has no inotify instance left", "inotify")
        self.watched: dict[int, Watched] = {}
        self.moves: dict[str, list[Move]] = {}  # session -> renames in its Git folders
        self.rests_until = 0.0  # time.monotonic; 0 if it is read as soon as something happens

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self.descriptor)

    def read(self, touched: Touched) -> int:
        """Add what the waiting events touched; returns their number. Lost events count as a flood."""
        count = 0
        with suppress(BlockingIOError):
            for mask, marks in self._events(os.read(self.descriptor, READ_SIZE)):
                count += 1
                for mark, how in marks:
                    touched[mark] = graver(how, touched.get(mark, how))
                if mask & IN_Q_OVERFLOW:
                    count += FLOOD
        return count

    def read_all(self, touched: Touched) -> None:
        """The same until nothing waits; if that does not come to an end, all its marks count as lost."""
        for _ in range(MOST_READS):
            if not self.read(touched):
                return
        touched.update({mark: graver(LOST, touched.get(mark, LOST)) for mark in self.marks()})

    def marks(self) -> Iterator[Mark]:
        """All marks that depend on it."""
        for watched in self.watched.values():
            yield from watched.marks()

    def _events(self, data: bytes) -> Iterator[tuple[int, Iterable[tuple[Mark, str]]]]:
        """The mask of each event, and the marks that it touched."""
        at = 0
        while at < len(data):
            number, mask, cookie, length = EVENT.unpack_from(data, at)
            name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
            at += EVENT.size + length
            if mask & IN_Q_OVERFLOW:
                yield mask, [(mark, self._if_lost) for mark in self.marks()]
                continue
            found = self.watched.get(number)
            if found is None:
                continue
            if mask & SELF_CHANGES:
                yield mask, [(mark, MOVED) for mark in found.marks()]
            elif name in found.names:
                yield mask, [(mark, MOVED if mask & NAMES_CHANGE else CHANGED) for mark in found.names[name]]
            else:
                yield mask, [(mark, CHANGED) for mark in found.inside]
            is_written = mask & IN_CLOSE_WRITE and name in WRITTEN_IN_PLACE
            is_moved = bool(mask & (IN_MOVED_FROM | IN_MOVED_TO))
            if mask & NAMES_COME or is_written or is_moved or (mask & NAMES_CHANGE and name in MAKE_A_REPOSITORY):
                yield mask, [(mark, CHANGED) for mark in found.comers]
            for id in {mark.id for mark in found.comers} if is_moved else ():
                move = Move(found.place[0], os.fsdecode(name), cookie, bool(mask & IN_MOVED_FROM))
                self.moves.setdefault(id, []).append(move)
            if mask & IN_IGNORED:
                self.watched.pop(number, None)

    def add(self, path: str, mask: int) -> Watched | None:
        """Let the kernel watch a path; None if it is absent, or not of the kind that the mask is for."""
        with suppress(FileNotFoundError, NotADirectoryError), opened(path) as descriptor:
            if kind_of(os.fstat(descriptor)) not in KINDS[mask]:
                return None
            name = f"/proc/self/fd/{descriptor}".encode()
            number = checked(self._libc.inotify_add_watch(self.descriptor, name, ctypes.c_uint32(mask)))
            return self.watched.setdefault(number, Watched())
        return None

    def forget(self, id: str) -> None:
        """Stop watching for a session."""
        self.moves.pop(id, None)
        for number, watched in list(self.watched.items()):
            watched.inside = {mark for mark in watched.inside if mark.id != id}
            watched.comers = {mark for mark in watched.comers if mark.id != id}
            kept = {name: {mark for mark in marks if mark.id != id} for name, marks in watched.names.items()}
            watched.names = {name: marks for name, marks in kept.items() if marks}
            if not watched.marks():
                self.watched.pop(number)
                self._libc.inotify_rm_watch(self.descriptor, number)


def examine() -> tuple[str, str] | None:
    """For the health report: this user has no inotify instance left, so a server notices changes late."""
    try:
        Instance().close()
    except OSError as error:
        words = f"The kernel cannot tell of changes to what is sealed: {error.strerror}"
        return words, "sudo sysctl fs.inotify.max_user_instances=1024, or end the program that uses them"
    return None


def checked(result: int) -> int:
    """The result of a call of the C library. Raises OSError if it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "inotify")
    return result


class Watcher:
    """Calls `on_touch` with the touched marks, and `on_rest` at the times that it returns; all in the thread of `work`.

    Other code that uses the same state goes through `call`, which runs it in that thread too.
    """

    def __init__(self, on_touch: Callable[[Touched], None], on_rest: Callable[[], float]) -> None:
        self._on_touch = on_touch
        self._on_rest = on_rest
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.instance: Instance | None = None  # for all sessions
        self._quiet: Instance | None = None  # for events at sealed paths themselves, and at the folders above them
        self._closing = threading.Lock()
        self._is_closed = False
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake[0], select.POLLIN)

    def call(self, job: Callable[[], object]) -> None:
        """Run a job in the thread."""
        self._jobs.put(job)
        with self._closing, suppress(BlockingIOError):  # it is awake already
            if not self._is_closed:
                os.write(self._wake[1], b"w")

    def close(self) -> None:
        """Watch nothing any more, and run no further job. The thread of `work` must have ended."""
        with self._closing:
            self._is_closed = True
        for descriptor in self._wake:
            os.close(descriptor)
        for instance in filter(None, (self.instance, self._quiet)):
            instance.close()

    def work(self) -> None:
        """Wait for events, a job or a time, and handle it."""
        wait = self._on_rest()
        waits = [wait] if wait >= 0 else []
        if self.instance is not None and self.instance.rests_until:
            waits.append(max(0.0, self.instance.rests_until - time.monotonic()))
        self._poll.poll(1000 * min(waits) if waits else None)
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
        """Read the waiting events, and report what they touched. A flood is read slowly."""
        touched: Touched = {}
        instance = self.instance
        if instance is not None and instance.rests_until <= time.monotonic():
            is_flood = instance.read(touched) > FLOOD
            pause = PAUSE_AFTER_LOSS if LOST in touched.values() else PAUSE
            self._rest(instance, pause if is_flood else 0)
        self._tell(touched)

    def finish(self) -> None:
        """Read all events until now, since a session has ended, and report what they touched."""
        touched: Touched = {}
        if self.instance is not None:
            self.instance.read_all(touched)
        self._tell(touched)

    def _tell(self, touched: Touched) -> None:
        """Report the touched marks, and all moves: those are read last, so that no loss is judged without them."""
        if self._quiet is not None:
            self._quiet.read(touched)
        if touched:
            clincus.survive("judging what is sealed", lambda: self._on_touch(touched))

    def _rest(self, instance: Instance, seconds: float) -> None:
        """Stop reading the instance for some seconds."""
        if seconds and not instance.rests_until:
            self._poll.unregister(instance.descriptor)
        elif instance.rests_until and not seconds:
            self._poll.register(instance.descriptor, select.POLLIN)
        instance.rests_until = time.monotonic() + seconds if seconds else 0.0

    # -- In the thread only

    def watch(self, id: str, paths: Mapping[str, str], several_names: Iterable[str] = ()) -> None:
        """Watch sealed paths of a session, each with the folder of the session that contains it.

        `several_names` are files that can also be changed under another name. Raises OSError if the kernel has no
        instance or no watches left for this user.
        """
        instance = self._opened()
        quiet = self._quiet = self._quiet or self._new_instance(if_lost=MOVED)
        names: dict[str, set[tuple[str, Mark]]] = {}  # folder -> what is watched in it
        for path, source in paths.items():
            steps = [source, *steps_to(path, source)]
            for above, step in zip(steps, steps[1:]):
                names.setdefault(above, set()).update(((step, Mark(id, step)), (step, Mark(id, path))))
                self._watch_inside(quiet, step, Mark(id, path), OF_ITSELF)
            self._watch_inside(quiet, source, Mark(id, path), OF_ITSELF)
        for folder, marks in names.items():
            self._watch_names(instance, folder, marks)
        for path in paths:
            self._watch_inside(instance, path, Mark(id, path), IN_A_FOLDER)
        for path in several_names:
            sealed = next((one for one in paths if clincus.path_inside(path, one)), path)
            self._watch_inside(instance, path, Mark(id, sealed), IN_A_FILE)

    def watch_name(self, id: str, path: str) -> None:
        """Watch what happens to one name of a folder, for a session. Raises OSError as `watch`."""
        self._watch_names(self._opened(), os.path.dirname(path), [(path, Mark(id, path))])

    def watch_comers(self, id: str, path: str, folders: Mapping[str, int]) -> bool:
        """Watch for new names in folders, each with its inode; they touch `path`. True if a folder is new here.

        Raises OSError as `watch`.
        """
        mark = Mark(id, path)
        is_new = False
        instance = self._opened()
        known = {watched.place for watched in instance.watched.values() if mark in watched.comers}
        for folder in folders.items() - known:
            watched = instance.add(folder[0], IN_A_FOLDER)
            if watched is not None:
                watched.place = folder
                watched.comers.add(mark)
                is_new = True
        return is_new

    def take_moves(self, id: str) -> list[Move]:
        """The renames in the Git folders of a session that were reported since the last call."""
        return self.instance.moves.pop(id, []) if self.instance is not None else []

    def unwatch(self, id: str) -> None:
        """Stop watching for a session."""
        for instance in filter(None, (self.instance, self._quiet)):
            instance.forget(id)

    def _opened(self) -> Instance:
        """The instance of all sessions."""
        self.instance = self.instance or self._new_instance()
        return self.instance

    def _new_instance(self, if_lost: str = LOST) -> Instance:
        made = Instance(if_lost)
        self._poll.register(made.descriptor, select.POLLIN)
        return made

    def _watch_names(self, instance: Instance, folder: str, marks: Iterable[tuple[str, Mark]]) -> None:
        watched = instance.add(folder, IN_A_FOLDER)
        if watched is not None:
            for path, mark in marks:
                watched.names.setdefault(os.fsencode(os.path.basename(path)), set()).add(mark)

    def _watch_inside(self, instance: Instance, path: str, mark: Mark, mask: int) -> None:
        watched = instance.add(path, mask)
        if watched is not None:
            watched.inside.add(mark)
