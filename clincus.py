#!/usr/bin/env python3
"""Clincus runs AI coding tools at full permissions, each locked in its own Incus container.

`clincus serve` provides a REST API, terminals over WebSocket, an event stream and a dashboard, all on one port. The
other subcommands do the same work at a terminal. Incus is the only record of what runs, and Clincus reaches it only
through the `incus` command.

The file reads from top to bottom: each section uses only the sections above it and could become a file of its own.
"""

from __future__ import annotations

import contextvars
import enum
import errno
import fcntl
import fnmatch
import functools
import grp
import heapq
import importlib
import io
import itertools
import json
import operator
import os
import posixpath
import pwd
import re
import select
import shlex
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime, timedelta, timezone

# Every command loads this file. Modules that load slowly and that few commands need are loaded at their first use.
TYPE_CHECKING = False  # type checkers take it for true and see plain imports; at run time a `Later` stands in
if TYPE_CHECKING:
    import copy
    import glob
    import hashlib
    import logging
    import shutil
    import socket
    import tarfile
    import urllib.parse as urls
    from email.message import Message
    from http.server import ThreadingHTTPServer
    from io import BufferedReader
    from logging import Handler as LoggingHandler
    from typing import IO, Any, ClassVar, NamedTuple, Protocol, cast

    from typing_extensions import Self, TypeAlias
    from websockets.frames import Frame  # noqa: F401 (in a cast)
    from websockets.server import ServerProtocol
    from websockets.typing import Subprotocol

    from wall import protect as protect  # noqa: PLC0414 (features use it)

    log: logging.Logger
    locked_property = functools.cached_property
else:

    class Later:
        """Stands in for a module, or for the log, and loads it when one of its names is used."""

        def __init__(self, load: Callable[..., object], *name: str) -> None:
            self._load = load
            self._name = name

        def __getattr__(self, name: str) -> object:
            return getattr(self._load(*self._name), name)

    class locked_property:
        """A cached_property that is made once even if two threads read it first at the same time.

        functools.cached_property locks nothing since Python 3.12, and then each of the two threads gets its own object.
        """

        def __init__(self, make: Callable[[Any], object]) -> None:
            self._make = make
            self._lock = threading.RLock()
            self.__doc__ = make.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: object, owner: type | None = None) -> object:
            if instance is None:
                return self
            with self._lock:
                if self._name not in vars(instance):
                    vars(instance)[self._name] = self._make(instance)
            return vars(instance)[self._name]

    class Fields(type):
        """Makes a class as that of NamedTuple in `typing` does, but without compiling the type of each field.

        That would cost each command 9 ms of CPU (`clincus list`: 83 instead of 74 ms).
        """

        def __new__(cls, name: str, bases: object, names: dict[str, Any]) -> type:
            fields = names["__annotations__"]
            defaults = [names.pop(field) for field in fields if field in names]
            made = namedtuple(name, fields, defaults=defaults)
            for key, value in names.items():
                setattr(made, key, value)
            return made

    NamedTuple = type.__new__(Fields, "NamedTuple", (), {})
    cast = lambda _, value: value  # noqa: E731 (as in typing)
    for name in ("base64", "copy", "glob", "hashlib", "logging", "shutil", "socket", "tarfile"):
        globals()[name] = Later(importlib.import_module, name)
    urls = Later(importlib.import_module, "urllib.parse")
    # pip installs the folder wall/ under this name: another package might be called `wall`.
    wall = sys.modules["clincus_wall"] = type(sys)("clincus_wall")
    wall.__path__ = [f"{os.path.dirname(os.path.abspath(__file__))}/{name}" for name in ("clincus_wall", "wall")]
    protect = Later(importlib.import_module, "clincus_wall.protect")
    log = Later(lambda: open_log())  # noqa: PLW0108 (`open_log` is defined below)
    # A base class must be there at once. `open_log` and `open_listener` add the real ones to these classes.
    LoggingHandler = object
    ThreadingHTTPServer = object
    Any = object
    Protocol = object

__version__ = "0.1.0"
__commit__ = "source"  # build_zipapp.py fills in the commit and the day of a release
__built__ = "unknown"


# ----------------------------------------------------------------------------------------------------------------
# errors, helpers
# Errors that tell a person what to do, the log, times, and files that are replaced atomically. Knows nothing else.
# ----------------------------------------------------------------------------------------------------------------


class Cause(NamedTuple):
    """The meaning of an error code: the HTTP status of the answer, and what its reader can do."""

    status: int
    remedy: str


# Every `code` of an error. The first row of a status has the code of the errors that name no row. openapi.json and
# docs/api.md list the same.
CAUSES: Mapping[str, Cause] = {
    "bad_request": Cause(400, "Correct the field or parameter that `error` names."),
    "workspace_refused": Cause(400, "Choose a project folder: by its full path, below your home directory."),
    "image_not_found": Cause(400, "Build the image with `clincus build`, or name another one."),
    "sign_in_required": Cause(401, "Send the server's token as `Authorization: Bearer TOKEN`."),
    "forbidden": Cause(403, "Call the server by its own address, from its own page, as its own user or with a token."),
    "not_found": Cause(404, "Check the id, name or path."),
    "session_not_found": Cause(404, "List the sessions: this one was deleted, or its id is mistyped."),
    "engine_not_found": Cause(404, "List the engines, or add this one with `clincus engine add`."),
    "method_not_allowed": Cause(405, "Use a method of the header `Allow`."),
    "request_timeout": Cause(408, "Send the request again. The whole body has to arrive in time."),
    "conflict": Cause(409, "Do what `error` says, then send the request again."),
    "session_not_running": Cause(409, "Resume the session first."),
    "session_busy": Cause(409, "Wait for the event that ends the start or stop, then send the request again."),
    "session_frozen": Cause(409, "Decide with `POST …/protection/resolve` (`clincus protection`)."),
    "question_open": Cause(409, "Answer the question first."),
    "question_closed": Cause(409, "Read the session's `agent` again: the question was answered or has changed."),
    "tool_not_running": Cause(409, "Resume the session, or start the tool in its terminal."),
    "tool_not_ready": Cause(409, "Look at the terminal: text stands in the tool's input, or something covers it."),
    "tool_busy": Cause(409, "Wait until the turn ends, or let the prompt be queued."),
    "slots_in_use": Cause(409, "Delete a session of this workspace, or choose a free slot."),
    "limit_reached": Cause(409, "Remove some of what is there first; `error` says how many there may be."),
    "already_exists": Cause(409, "Choose another name."),
    "nothing_to_do": Cause(409, "Nothing: there is nothing to commit, send or undo."),
    "unsaved_work": Cause(409, "Fetch or save what `unsaved` lists, or repeat the request with `force=true`."),
    "workspace_changed": Cause(409, "Undo the change, or start with `accept_changes` if you made it yourself."),
    "workspace_not_protected": Cause(409, "Remove what `error` names from the workspace, then start the session."),
    "branch_conflict": Cause(409, "Fetch into another branch, or merge or check out a different one first."),
    "port_in_use": Cause(409, "Choose another port, or end the program that holds it."),
    "key_in_use": Cause(409, "Take a new Idempotency-Key for each new request."),
    "gone": Cause(410, "Turn notifications on again on this device."),
    "length_required": Cause(411, "Send Content-Length instead of a chunked body."),
    "file_changed": Cause(412, "Read the file again and apply your change to what it holds now."),
    "too_large": Cause(413, "Send less; `error` says how much is allowed."),
    "address_too_long": Cause(414, "Shorten the address."),
    "unsupported_type": Cause(415, "Send JSON as `application/json`; ask for text files only."),
    "expectation_failed": Cause(417, "Leave out the header `Expect`."),
    "websocket_required": Cause(426, "Open this address as a WebSocket."),
    "precondition_required": Cause(428, "Send `If-Match` with the file's ETag, or `If-None-Match: *` for a new file."),
    "header_too_large": Cause(431, "Send fewer or shorter header fields."),
    "failed": Cause(500, "Read `error` and the server's log; the request may have done a part of its work."),
    "incus_failed": Cause(500, "Read Incus's own words in `error`; `clincus health` finds the common causes."),
    "container_answer_bad": Cause(500, "Look at the session: programs in its container do not answer as Clincus's do."),
    "no_answer": Cause(502, "Check the address that `error` names, then send the request again."),
    "unavailable": Cause(503, "Send the request again after `Retry-After` seconds; `error` says what is missing."),
    "incus_unreachable": Cause(503, "Start Incus, or the engine that `error` names; then send the request again."),
    "too_many_connections": Cause(503, "Close connections, then send the request again after `Retry-After` seconds."),
    "timeout": Cause(504, "Send the request again; stop or resume the session if that does not help."),
    "version_not_supported": Cause(505, "Use HTTP/1.1."),
}
CODES = {cause.status: code for code, cause in reversed(list(CAUSES.items()))}  # the first code of each status
RETRY_AFTER = 2  # seconds after which a client may ask again for what is unavailable


class ClincusError(Exception):
    """A failure: a sentence that says what to do, a code of CAUSES, and the HTTP status and header fields."""

    def __init__(self, message: str, cause: int | str = 500, headers: Sequence[tuple[str, str]] = ()) -> None:
        """`cause` is a code of CAUSES, or just an HTTP status."""
        super().__init__(message)
        self.message = message
        self.code = CODES.get(cause, "failed") if isinstance(cause, int) else cause
        self.status = cause if isinstance(cause, int) else CAUSES[cause].status
        self.headers = headers
        self.fields: Mapping[str, object] = {}  # more members of the JSON answer


class ConfigError(ClincusError):
    """A setting or a file that cannot be used; the message says where."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, status)


def shorten(value: object) -> str:
    """A value as JSON for an error message, at most 80 characters long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = "a value without end"
    return text if len(text) <= 80 else text[:77] + "…"


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON as `json.loads` does. Raises ValueError, also for a document that is nested too deeply."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def printable(text: str) -> str:
    """Escape control and invisible characters for our terminal: the text may come from a container."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


PICTURES = (  # how the content of a picture begins, and its type; no picture that can hold a script, such as SVG
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


def picture_type(data: bytes) -> str:
    """The type of a picture that a browser may show, judged by its first bytes; "" for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return next((kind for begin, kind in PICTURES if data.startswith(begin)), "")


# -- The log and the meters


class LogHandler(LoggingHandler):
    """Writes each message to stderr on one line, with a traceback below it.

    A message may quote a container, so control characters are escaped. The handler never raises: a stderr that is
    closed, full or not read must not end a thread.
    """

    PATIENCE = 1.0  # seconds to wait until the reader of a pipe makes room

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or drop it."""
        with suppress(Exception):
            record.msg = " ".join(record.getMessage().split("\n"))
            record.args = ()
            lines = self.format(record).split("\n")
            text = "\n".join(map(printable, lines))
            stream = sys.stderr
            with suppress(io.UnsupportedOperation):  # no file is behind the stream, so it is always ready
                if not poll_on(stream.fileno(), select.POLLOUT).poll(1000 * self.PATIENCE):
                    return
            print(text, file=stream, flush=True)


@functools.cache
def open_log() -> logging.Logger:
    """Return the log of what the server does, for the person who runs it. No secret is ever logged."""
    handler = cast(LogHandler, type("Handler", (LogHandler, logging.Handler), {})())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("clincus")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [handler]  # assigned, so that two threads that get here at once install one handler
    return logger


# Functions that count finished work. They get its kind, its name within that kind, and the seconds that it took.
meters: list[Callable[[str, str, float], None]] = []


def tally(kind: str, which: str, seconds: float = 0.0) -> None:
    """Report a finished piece of work to the meters, such as ("answer", "404")."""
    for meter in meters:
        meter(kind, which, seconds)


# -- Times


def utc_now() -> str:
    """The time as RFC 3339 in UTC, to the second."""
    return format_time(datetime.now(timezone.utc))


def format_time(moment: datetime) -> str:
    """A time as RFC 3339 in UTC, to the second."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime | None:
    """Parse an RFC 3339 time of any zone; the result is in UTC.

    None for anything else, for Incus's "never" (year 1 or 1970), and for a time that UTC cannot express (an engine may
    send `9999-12-31T23:59:59-14:00`).
    """
    try:  # Python 3.9 and 3.10 accept three or six digits of a fraction only
        micros = re.sub(r"\.\d+", lambda found: f"{found[0]:0<7}"[:7], str(text))
        moment = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", micros))
        if moment.tzinfo is None:
            return None
        in_utc = moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return in_utc if in_utc.year > 1970 else None


# -- Files


def expand(path: str, environ: Mapping[str, str]) -> str:
    """Expand `~` or `~name` at the start of a path. The result is absolute and in normal form. Raises ConfigError."""
    if not path.startswith("~"):
        return os.path.abspath(path)
    user, _, rest = path[1:].partition("/")
    try:
        if user:
            home = pwd.getpwnam(user).pw_dir
        else:
            home = environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise ConfigError(
            f"{path!r}: there is no user {user or os.getuid()!r} on this machine: write the whole path"
        ) from None
    return os.path.abspath(os.path.join(home, rest))


def read_plain_file(path: str, limit: int, follow: bool = True) -> bytes | None:
    """The content of a regular file, None if it does not exist.

    ConfigError if it is anything but a regular file or larger than `limit` bytes; without `follow` also for a symlink.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if not follow:
        flags |= os.O_NOFOLLOW
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError(f"{path}: cannot be read: it is not a regular file; put one in its place")
            data = stream.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        is_link = error.errno == errno.ELOOP and not follow
        reason = "it is a symbolic link; put the file itself there" if is_link else os.strerror(error.errno or 0)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > limit:
        raise ConfigError(f"{path}: cannot be read: it is larger than {limit >> 10} KiB")
    return data


def read_text(path: str, limit: int, follow: bool = True) -> str | None:
    """As `read_plain_file`, decoded as UTF-8. Raises ConfigError with the line that is not UTF-8."""
    data = read_plain_file(path, limit, follow)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: the file is not UTF-8 text: save it as UTF-8") from None


def read_json(path: str, limit: int, fit: Callable[[Any], Any]) -> Any:
    """Read a JSON file of ours; `fit` turns its document into the result. None if the file does not exist.

    ConfigError if it cannot be read. A damaged file is renamed to PATH.torn, so that nothing overwrites it, and logged.
    """
    data = read_plain_file(path, limit)
    if data is None:
        return None
    try:
        return fit(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("%s is torn, so it is left out, and kept as %s.torn: %r", path, path, error)
        with suppress(OSError):
            os.replace(path, f"{path}.torn")
    return None


@contextmanager
def directory_lock(directory: str, timeout: float | None = 5.0) -> Iterator[None]:
    """Keep other Clincus processes from changing the files of a directory while the block runs.

    ClincusError if another one holds the lock for more than `timeout` seconds; None waits without a limit.
    """
    how = fcntl.LOCK_EX
    if timeout is not None:
        how |= fcntl.LOCK_NB
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + (timeout or 0)
        while True:
            try:
                fcntl.flock(descriptor, how)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ClincusError(
                        f"{directory}: another Clincus is at work there: try again when it has finished", 409
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(folder: str, timeout: float | None = 5.0) -> Iterator[None]:
    """Make a folder of our own if it is missing, and keep other Clincus processes from changing its files.

    `timeout` is that of `directory_lock`. If the disk fails while the block runs, ClincusError(500).
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with directory_lock(folder, timeout):
            yield
    except OSError as error:
        raise ClincusError(f"{folder}: cannot be written: {error.strerror or error}", 500) from error


def replace_file(path: str, data: bytes, mode: int) -> None:
    """Replace the content of a file atomically. An existing file keeps its mode and owner; `mode` is for a new one."""
    import tempfile

    directory = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".clincus-", dir=directory)
    try:
        with open(descriptor, "wb") as stream:
            with suppress(FileNotFoundError):
                old = os.stat(path)
                os.fchown(descriptor, old.st_uid, old.st_gid)
                mode = stat.S_IMODE(old.st_mode)
            os.fchmod(descriptor, mode)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Close a file descriptor at the end of the block, which gets it."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(directory: str) -> None:
    """Write a directory to the disk, so that a rename in it survives a power cut."""
    with closing_descriptor(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as descriptor:
        os.fsync(descriptor)


def packaged_file(path: str) -> bytes | None:
    """The content of a file that comes with this module, None if it is missing.

    In a checkout and in the .pyz the file is beside this module. After an installation with pip, wall/ has the name
    `clincus_wall`, and the others are in share/clincus: three levels above the module (`lib/python3.11/site-packages`
    in a virtual environment, in `~/.local` and in `/usr/local`), or beside it (`pip install --target`). The .pyz has
    the page's files compressed, as NAME.gz.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.abspath(f"{here}/../../../share/clincus")
    for place in (f"{here}/clincus_{path}", f"{here}/{path}", f"{installed}/{path}", f"{here}/share/clincus/{path}"):
        with suppress(OSError):
            return cast(bytes, globals()["__loader__"].get_data(place))
        with suppress(OSError):
            packed = globals()["__loader__"].get_data(f"{place}.gz")
            import gzip

            return gzip.decompress(packed)
    return None


@functools.cache
def packaged_text(path: str) -> str:
    """A text that comes with the program, such as `guest/exec.sh`. Raises ClincusError if it is missing."""
    content = packaged_file(path)
    if content is None:
        raise ClincusError(f"{path} is missing beside clincus.py: install Clincus again", 500)
    return content.decode()


# ----------------------------------------------------------------------------------------------------------------
# child processes
# One runner for every program, in a process session of its own, with bounded output and a timeout.
# ----------------------------------------------------------------------------------------------------------------

OUTPUT_LIMIT = 32 << 20  # bytes of each stream that a child may write
READ_WITHIN = 5.0  # seconds after the end of a child within which its output has to be read


class ChildError(ClincusError):
    """A child process could not be started, did not finish in time, or wrote too much."""


class Completed(NamedTuple):
    """The end of a command: its exit code (0..255) and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def reason(self) -> str:
        """The last words on stderr, for an error message."""
        text = self.stderr.decode("utf-8", "replace").strip()[-2000:]
        lines = text.removeprefix("Error: ").splitlines()
        return "\n".join(map(printable, lines)) or f"exit code {self.code}"


def poll_on(stream: IO[bytes] | socket.socket | int, event: int) -> select.poll:
    """Return a poll that waits until a stream can be read (POLLIN) or written (POLLOUT).

    select(2) fails for descriptors above 1023.
    """
    poll = select.poll()
    poll.register(stream, event)
    return poll


def write_all(descriptor: int, data: bytes, is_over: Callable[[], bool] = lambda: False) -> None:
    """Write all data to a descriptor of ours, even if somebody made it non-blocking.

    If a pipe is full and its reader never closes it, `is_over` shows that nobody reads it any more: BrokenPipeError.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            if not poll_on(descriptor, select.POLLOUT).poll(200) and is_over():
                raise BrokenPipeError from None


def exit_code(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process as a shell gives it."""
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a process group, with the whole group, and wait for it."""
    if process.returncode is None:  # else another process may have this number by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Ending(NamedTuple):
    """How a child is ended before its exit: by a signal, and by SIGKILL if that does not help."""

    number: int = signal.SIGKILL
    patience: float = 0.0  # seconds in which it may exit before SIGKILL
    grace: float = 0.0  # of these, the seconds before the signal; a child that was too slow has had its time


AT_ONCE = Ending()


class Deadline:
    """A time at which a function is called, unless `cancel` comes first."""

    def __init__(self, at: float, late: Callable[[], object]) -> None:
        self.at = at  # of time.monotonic()
        self.late: Callable[[], object] | None = late

    def __lt__(self, other: Deadline) -> bool:
        return self.at < other.at

    def cancel(self) -> None:
        """Call nothing, and keep nothing alive."""
        self.late = None


class Deadlines:
    """The deadlines of all children, in one thread.

    With a thread for each, a start would wait for the CPU some four times that its child needs just then: 5 ms each.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[Deadline] = []
        self._thread: threading.Thread | None = None

    def add(self, seconds: float, late: Callable[[], object]) -> Deadline:
        """Call a function after some seconds, in a thread of its own."""
        deadline = Deadline(time.monotonic() + seconds, late)
        with self._changed:
            if len(self._heap) > 64 and sum(one.late is None for one in self._heap) * 2 > len(self._heap):
                self._heap = [one for one in self._heap if one.late is not None]
                heapq.heapify(self._heap)
            heapq.heappush(self._heap, deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="deadlines", daemon=True)
                self._thread.start()
            elif self._heap[0] is deadline:
                self._changed.notify()
        return deadline

    def _work(self) -> None:
        while True:
            late = self._next().late
            if late is not None:  # it may take its time
                threading.Thread(target=late, name="a deadline has passed", daemon=True).start()

    def _next(self) -> Deadline:
        """Wait for the first deadline, and take it off the heap."""
        with self._changed:
            while True:
                left = self._heap[0].at - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._heap)
                self._changed.wait(left)


DEADLINES = Deadlines()


class Child:
    """A child process that leads a process session: a signal reaches everything that it started (`sg` starts `incus`).

    Its three streams are pipes; with `merged` stdout and stderr are one. After `timeout` seconds, and at the end of a
    `with` block, it is ended in the way of `ending`. `first` is in the stdin pipe before the child starts, so it
    arrives even if we are killed. Raises ChildError.
    """

    error: type[ClincusError] = ChildError

    def __init__(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        ending: Ending = AT_ONCE,
        environ: Mapping[str, str] | None = None,
        cwd: str | None = None,
        merged: bool = False,
        first: bytes = b"",
    ) -> None:
        try:
            words = [word.encode("utf-8", "surrogateescape") for word in argv]  # whatever the encoding of the locale
        except UnicodeEncodeError as error:  # half a surrogate pair, as a label of an engine may hold
            raise self.error(f"`{argv[0]}` cannot be started: {error.object!a} is no text") from error
        source, writer = os.pipe()
        os.write(writer, first)
        self.stdin = cast("IO[bytes]", io.FileIO(writer, "w"))
        try:
            self.process = subprocess.Popen(
                words,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                bufsize=0,
                env=environ,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            self.stdin.close()
            raise self.error(f"`{argv[0]}` cannot be started: {error.strerror}") from error
        finally:
            os.close(source)
        self.stdout = cast("IO[bytes]", self.process.stdout)
        self.stderr = self.process.stderr or self.stdout
        self.failure = ""  # the reason if we had to end it
        self.status = 500  # the HTTP status that fits the reason
        self.began = time.monotonic()
        self._ending = ending
        self._is_fed = False  # another thread writes to stdin, and closes it
        self._words = shlex.join(argv[:6])
        self._deadline: Deadline | None = None
        if timeout is not None:
            self.allow(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._cancel_deadline()
        self.end()
        kind = "child" if exit_code(self.process) == 0 else "failed child"
        tally(kind, self._words, time.monotonic() - self.began)
        streams = [self.stdout, self.stderr]
        if not self._is_fed:
            streams.append(self.stdin)
        for stream in streams:
            with suppress(OSError):
                stream.close()

    def allow(self, seconds: float, failure: str = "") -> None:
        """Let the child run for some seconds more. If it takes longer, `wait` raises `failure`."""
        self._cancel_deadline()
        failure = failure or f"`{self._words} …` did not finish within {seconds:g} s"
        self._deadline = DEADLINES.add(seconds, functools.partial(self.end, failure))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None  # the two refer to each other: Python would free them much later

    def signal(self, number: int) -> None:
        """Send a signal to the child and to everything in its process group."""
        if self.process.returncode is None:  # else another process may have this number by now
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def end(self, failure: str = "", status: int = 504) -> None:
        """End the child if it still runs. With `failure` it gets no grace, and `wait` raises this reason."""
        if self.process.poll() is not None:
            return
        if not self.failure:
            self.failure = failure
            self.status = status
        ending = self._ending
        grace = 0.0 if failure else ending.grace
        if self._exits_within(grace):
            return
        if ending.patience > grace:
            self.signal(ending.number)
            if self._exits_within(ending.patience - grace):
                return
        kill_group(self.process)

    def _exits_within(self, seconds: float) -> bool:
        """Wait for the exit. SIGCONT wakes a child that is stopped, or that waits at the end of guest/exec.sh."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
                return True
            self.signal(signal.SIGCONT)
        return False

    def wait(self, readers: Iterable[threading.Thread] = ()) -> int:
        """Wait for the end, and for threads that read the output; returns the exit code as a shell gives it.

        Raises ChildError if we had to end the child, or if a reader has not reached the end of the output.
        """
        self.process.wait()
        end = time.monotonic() + READ_WITHIN
        for reader in readers:
            reader.join(timeout=max(0.0, end - time.monotonic()))
            if reader.is_alive() and not self.failure:
                self.failure = f"`{self._words} …` left a program behind that holds its output open"
                self.status = 500
        if self.failure:
            raise self.error(self.failure, self.status)
        return exit_code(self.process)

    def feed(self, pieces: Iterable[bytes]) -> None:
        """Write to stdin in a thread of its own, then close it. If a piece cannot be made, the child is ended."""

        def write() -> None:
            with suppress(OSError), self.stdin:
                for piece in self._whole(pieces):
                    write_all(self.stdin.fileno(), piece)

        self._is_fed = True
        threading.Thread(target=write, daemon=True).start()

    def end_input(self) -> None:
        """Close stdin, unless `feed` does so once it has written everything."""
        if not self._is_fed:
            self.stdin.close()

    def _whole(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces. If one fails, end the child before its stdin ends: half of the input would look whole."""
        try:
            yield from pieces
        except Exception as error:
            self.end(f"its input failed: {error}", error.status if isinstance(error, ClincusError) else 500)

    def complete(self, stdin: bytes | Iterable[bytes] = b"", limit: int = 0) -> Completed:
        """Feed the child its whole stdin, and wait for its end and for everything that it writes."""
        readers = [Collector(self, stream, limit) for stream in (self.stdout, self.stderr)]
        if stdin == b"":
            self.stdin.close()
        else:
            self.feed([stdin] if isinstance(stdin, bytes) else stdin)
        code = self.wait(readers)
        stdout, stderr = (bytes(reader.data) for reader in readers)
        return Completed(code, stdout, stderr)


class Collector(threading.Thread):
    """Keeps what a child writes to one of its streams. More than `limit` bytes end the child (0: OUTPUT_LIMIT)."""

    def __init__(self, child: Child, stream: IO[bytes], limit: int = 0) -> None:
        super().__init__(daemon=True)
        self.data = bytearray()
        self._child = child
        self._stream = stream
        self._limit = limit or OUTPUT_LIMIT
        self.start()

    def run(self) -> None:
        """Read to the end."""
        with suppress(OSError):
            while piece := self._stream.read(1 << 16):
                if len(self.data) + len(piece) > self._limit:
                    mebibytes = self._limit >> 20
                    most = f"{mebibytes} MiB" if mebibytes else f"{self._limit >> 10} KiB"
                    self._child.end(f"the command wrote more than {most}", 500)
                    return
                self.data += piece


def run_child(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float,
    environ: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Completed:
    """Run a program to its end. Raises ChildError if it cannot start, takes too long or writes too much."""
    with Child(argv, timeout=timeout, environ=environ, cwd=cwd) as child, ended_with_work(child):
        return child.complete(stdin)


@contextmanager
def ended_with_work(child: Child) -> Iterator[None]:
    """End a program of this host if the work of this thread is called off during the block (`Patience.call_off`).

    A container may give it much to do: a few bytes of a pack can unfold to any number.
    """
    patience = PATIENCE.get()
    if patience is None:
        yield
        return
    patience.add(child)
    try:
        yield
    finally:
        patience.discard(child)


# ----------------------------------------------------------------------------------------------------------------
# config
# Defaults, TOML layers, validation and the JSON view. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------

SYSTEM_CONFIG = "/etc/clincus/config.toml"
CONFIG_FILE_LIMIT = 1 << 20  # bytes
HIDDEN = "********"  # stands for a secret in what the API shows


class Unfit(ValueError):
    """A value that cannot be used; the text says what to write instead."""


# -- Checks: each returns the value in its normal form, or raises Unfit

Check = Callable[[Any], Any]


def check_text(value: object) -> str:
    """A text without control characters. A number becomes its digits."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Unfit("a text in quotes is wanted")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in value):
        raise Unfit("control characters are not allowed")
    return value


def check_switch(value: object) -> bool:
    """A boolean."""
    if not isinstance(value, bool):
        raise Unfit("write true or false")
    return value


def whole(low: int, high: int) -> Check:
    """A check for whole numbers from `low` to `high`."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Unfit(f"write a whole number from {low} to {high}")
        return value

    return check


def matching(pattern: str, expected: str) -> Check:
    """A check for texts that match a whole pattern; `expected` says what to write."""

    def check(value: object) -> str:
        text = check_text(value)
        if not re.fullmatch(pattern, text):
            raise Unfit(expected)
        return text

    return check


def list_of(check: Check) -> Check:
    """A check for lists, item by item."""

    def check_list(value: object) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise Unfit('a list is wanted, such as ["a", "b"]')
        return [fit_item(check, item, f"entry {number} {shorten(item)}") for number, item in enumerate(value, 1)]

    return check_list


def table_of(check: Check, pattern: str, expected: str) -> Check:
    """A check for tables with keys of the user's choice; all values have the same form."""

    def check_table(value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Unfit("a table is wanted")
        for name in value:
            if not re.fullmatch(pattern, name):
                raise Unfit(f"{name!r}: {expected}")
        return {name: fit_item(check, item, name) for name, item in value.items()}

    return check_table


def fit_item(check: Check, item: object, name: str) -> Any:
    """An item in its normal form. Raises Unfit, whose text begins with the name of the item."""
    try:
        return check(item)
    except ValueError as error:
        raise Unfit(f"{name}: {error}") from None


DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """The seconds of a duration such as `1h30m`, `1.5h` or `90s`: numbers with a unit each, joined.

    Units are those of Go's time.ParseDuration: ns, us (µs), ms, s, m, h; `0` needs none. Unfit for anything else,
    including a sign, days, and durations of more than 290 years.
    """
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", text[:100])
    if text != "0" and (not parts or "".join(map("".join, parts)) != text):
        raise Unfit("write a duration such as 90s, 45m or 1h30m (units: ms, s, m, h)")
    seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)
    if seconds > 290 * 365 * 86400:
        raise Unfit("a duration may not be longer than 290 years")
    return seconds


def check_duration(value: object) -> str:
    """A text for `parse_duration`."""
    text = check_text(value)
    parse_duration(text)
    return text


SIZE = r"([1-9][0-9]{0,11})([KMGT]i?|k)B"
WRITE_SIZE = "a whole number and a unit, such as 512MiB or 4GB (KB, MB, GB, TB, KiB, MiB, GiB, TiB)"


def size_bytes(text: str) -> int:
    """The bytes of a text that matches `SIZE`. As in Incus, KB (kB) to TB are powers of 1000, KiB to TiB of 1024."""
    number, prefix = re.fullmatch(SIZE, text).groups()  # type: ignore[union-attr]
    base = 1024 if prefix.endswith("i") else 1000
    return int(number) * int(base ** ("KMGT".index(prefix[0].upper()) + 1))


CPUS = r"(?!0+$)\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?){0,80}"


def check_cpu_count(value: object) -> str:
    """A number of CPUs from 1, or a list of CPUs and ranges to pin to, such as `0-1,3` (Incus: limits.cpu)."""
    check = matching(CPUS, "write a number of CPUs from 1, or a list of CPUs such as 0-1,3")
    text = str(check(value))
    for first, last in re.findall(r"(\d+)-(\d+)", text):
        if int(first) > int(last):
            raise Unfit(f"the range {first}-{last} ends before it begins")
    return text


def check_swap(value: object) -> str:
    """`true`, `false` or a size. Incus accepts no percentage here (limits.memory.swap)."""
    check = matching(rf"true|false|{SIZE}", "write true, false or a size such as 2GiB")
    return str(check(str(value).lower() if isinstance(value, bool) else value))


def check_relative_path(value: object) -> str:
    """A path below the workspace, in normal form."""
    text = check_text(value)
    path = posixpath.normpath(text)
    if path in (".", "..") or path.startswith(("/", "../")) or text.startswith("~"):
        raise Unfit("write a path relative to the workspace, without '..'")
    return path


def check_container_path(value: object) -> str:
    """An absolute path in the container, in normal form."""
    text = check_text(value)
    if not text.startswith("/") or ".." in text.split("/"):
        raise Unfit("write an absolute path in the container, without '..'")
    return "/" + posixpath.normpath(text).strip("/")


MOUNT = {
    "host": matching(".+", "host may not be empty"),  # `Reader` makes a relative one absolute
    "container": check_container_path,
    "readonly": check_switch,
}


def check_mount(value: object) -> dict[str, Any]:
    """One extra mount: host, container and optionally readonly."""
    if not isinstance(value, Mapping) or not {"host", "container"} <= set(value):
        raise Unfit("a mount has host, container and, if wanted, readonly")
    for key in value:
        if key not in MOUNT:
            raise Unfit(f"{key!r} is not known; a mount has host, container and, if wanted, readonly")
    return {key: MOUNT[key](item) for key, item in value.items()}


def check_command(value: object) -> list[str]:
    """A command as a list of words. A single text is split as a shell would split it."""
    try:
        words = shlex.split(value) if isinstance(value, str) else list_of(check_text)(value)
    except ValueError as error:
        raise Unfit(f"write a command as a list of words ({error})") from None
    if not words or not words[0]:
        raise Unfit("a command may not be empty")
    return words


WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
IMAGE = matching(r"([A-Za-z0-9][\w.-]*:)?[A-Za-z0-9][\w./+-]*", "write the alias of an image, or REMOTE:ALIAS")
TOOL_NAME = matching(WORD, "write the name of a tool")
HOST_PATH = matching(r"[/~].*", "write an absolute path, or one that begins with ~")
MEMORY = matching(rf"{SIZE}|[1-9]\d?%|100%", f"write {WRITE_SIZE}, or a share such as 50%")
RATE = matching(rf"{SIZE}/s|[1-9]\d{{0,8}}iops", "write a rate such as 10MiB/s or 1000iops")
ALLOWANCE = matching(r"[1-9]\d{0,4}%|[1-9]\d{0,6}ms/[1-9]\d{0,6}ms", "write a share (50%) or a quota (25ms/100ms)")
ENFORCE = matching(r"hard|soft", "write hard or soft")
ENVIRONMENT = table_of(check_text, r"[A-Za-z_]\w*", "a variable's name is made of letters, digits and '_'")
COMMANDS = table_of(check_command, WORD, "a tool's name is made of letters, digits, '.', '_' and '-'")
PROTECTED = [".git/hooks", ".git/config", ".husky", ".vscode"]


# -- Settings


def joined(old: Iterable[Any], new: Iterable[Any]) -> list[Any]:
    """The entries of both lists, each once. A later mount replaces an earlier one of the same container path."""
    entries = {}
    for entry in [*old, *new]:
        key = entry["container"] if isinstance(entry, Mapping) else entry
        entries[key] = entry
    return list(entries.values())


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables as one, key by key. If both have a value, the later one wins."""
    result = dict(old)
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Setting(NamedTuple):
    """One key of the configuration."""

    key: str  # dotted, as in the TOML files and in GET /api/config
    default: Any
    check: Check = check_text
    variable: str = ""  # the environment variable that sets it
    merge: Callable[[Any, Any], Any] | None = None  # combines an earlier and a later value; None: the later one wins
    may_be_empty: bool = False  # allows "", which is always allowed if the default is empty
    secret: bool = False  # the value is never shown
    rows: Mapping[str, Setting] = {}  # for a table of tables: the keys of each table; `check` checks their names
    in_page: bool = False  # the dashboard may change it; see save_dashboard

    def fit(self, value: object) -> Any:
        """A value in its normal form. Raises Unfit."""
        if value == "" and isinstance(self.default, str):
            if self.default and not self.may_be_empty:
                raise Unfit("it may not be empty")
            return value
        return self.check(value)


SETTING: dict[str, Setting] = {}  # all keys, in the order of GET /api/config


def register_settings(*settings: Setting) -> None:
    """Add keys to the configuration. Features do this before the configuration is loaded."""
    SETTING.update((setting.key, setting) for setting in settings)


def nest(flat: Mapping[str, object]) -> dict[str, Any]:
    """The nested document of a mapping with dotted keys. Values are copied, so that no two documents share a list."""
    document: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        table = document
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = copy.deepcopy(value)
    return document


def check_preset(value: object) -> str:
    """A check for the name of a list of presets."""
    known = protect.presets()
    if check_text(value) not in known:
        raise Unfit(f"write one of {', '.join(known)}")
    return str(value)


register_settings(
    Setting("defaults.image", "clincus", IMAGE, "CLINCUS_IMAGE"),
    Setting("defaults.persistent", False, check_switch, "CLINCUS_PERSISTENT"),
    Setting("defaults.model", "claude-sonnet-4-5", matching(r"[^-\s]\S*", "write a model's name"), may_be_empty=True),
    Setting("defaults.profile", "", matching(r"\S.*", "write the name of a profile"), "CLINCUS_PROFILE"),
    Setting("paths.sessions_dir", "~/.clincus/sessions", HOST_PATH, "CLINCUS_SESSIONS_DIR"),
    Setting("paths.storage_dir", "~/.clincus/storage", HOST_PATH, "CLINCUS_STORAGE_DIR"),
    Setting("paths.logs_dir", "~/.clincus/logs", HOST_PATH),
    Setting("paths.preserve_workspace_path", False, check_switch),
    Setting("incus.project", "default", matching(WORD, "write the name of an Incus project")),
    Setting("incus.group", "incus-admin", matching(WORD, "write the name of a group"), may_be_empty=True),
    Setting("incus.code_uid", 1000, whole(0, 65533)),
    Setting("incus.code_user", "code", matching(r"[a-z_][a-z0-9_-]{0,31}", "write a user's name")),
    Setting("incus.disable_shift", False, check_switch),
    Setting("tool.name", "claude", TOOL_NAME, "CLINCUS_TOOL"),
    Setting("tool.binary", "", matching(r"[^-\s].*", "write the name or the path of a program")),
    Setting("tool.carry_instructions", False, check_switch),
    Setting("tool.commands", {}, COMMANDS, merge=merged),
    Setting("mounts.default", [], list_of(check_mount), merge=joined),
    Setting("limits.cpu.count", "", check_cpu_count, "CLINCUS_LIMIT_CPU"),
    Setting("limits.cpu.allowance", "", ALLOWANCE, "CLINCUS_LIMIT_CPU_ALLOWANCE"),
    Setting("limits.cpu.priority", 0, whole(0, 10), "CLINCUS_LIMIT_CPU_PRIORITY"),
    Setting("limits.memory.limit", "", MEMORY, "CLINCUS_LIMIT_MEMORY"),
    Setting("limits.memory.enforce", "soft", ENFORCE, "CLINCUS_LIMIT_MEMORY_ENFORCE", may_be_empty=True),
    Setting("limits.memory.swap", "true", check_swap, "CLINCUS_LIMIT_MEMORY_SWAP"),
    Setting("limits.disk.read", "", RATE, "CLINCUS_LIMIT_DISK_READ"),
    Setting("limits.disk.write", "", RATE, "CLINCUS_LIMIT_DISK_WRITE"),
    Setting("limits.disk.max", "", RATE, "CLINCUS_LIMIT_DISK_MAX"),
    Setting("limits.disk.priority", 0, whole(0, 10), "CLINCUS_LIMIT_DISK_PRIORITY"),
    Setting("limits.disk.tmpfs_size", "", matching(SIZE, f"write {WRITE_SIZE}")),
    Setting("limits.runtime.max_duration", "", check_duration, "CLINCUS_LIMIT_DURATION"),
    Setting("limits.runtime.max_processes", 0, whole(0, 4194304), "CLINCUS_LIMIT_PROCESSES"),
    Setting("limits.runtime.auto_stop", True, check_switch),
    Setting("limits.runtime.stop_graceful", True, check_switch),
    Setting("git.writable_hooks", False, check_switch),
    Setting("security.protected_paths", PROTECTED, list_of(check_relative_path)),
    Setting("security.additional_protected_paths", [], list_of(check_relative_path), merge=joined),
    Setting("security.disable_protection", False, check_switch),
    Setting("security.require_locked", False, check_switch),
    Setting("security.nesting", False, check_switch),
    Setting("security.presets", ["agents", "editors"], list_of(check_preset)),
)
# The keys of [profiles.NAME], with the setting that a value replaces.
PROFILE = {
    "image": SETTING["defaults.image"],
    "tool": SETTING["tool.name"],
    "model": SETTING["defaults.model"],
    "persistent": SETTING["defaults.persistent"],
    "mounts": SETTING["mounts.default"],
    "environment": Setting("environment", {}, ENVIRONMENT, secret=True),
    "nesting": SETTING["security.nesting"],
    "inherits": Setting("inherits", ""),
    **{key: setting for key, setting in SETTING.items() if key.startswith("limits.")},
}
# The keys of [engines.NAME]: the name of an Incus remote (`incus remote list`), and what to use there.
ENGINE_NAME = r"[a-z0-9][a-z0-9-]{0,31}"
ENGINE = {
    "remote": Setting("remote", "", matching(r"[A-Za-z0-9][\w.-]*", "write a name of `incus remote list`")),
    "project": SETTING["incus.project"],
    "target": Setting("target", "", matching(r"@?[\w.-]+", "write a cluster member, or @ and a group of members")),
    "image": SETTING["defaults.image"],
    "roots": Setting("roots", [], list_of(HOST_PATH)),  # folders of that host; workspaces lie below them
}
register_settings(
    Setting("profiles", {}, merge=merged, rows=PROFILE),
    Setting("engines", {}, matching(ENGINE_NAME, "a name has small letters, digits and -"), merge=merged, rows=ENGINE),
    Setting("dashboard.port", 3000, whole(1, 65535), "CLINCUS_PORT", in_page=True),
    Setting("dashboard.workspace_roots", [], list_of(HOST_PATH), in_page=True),
)
TOOL_BOUND = ("tool.binary", "defaults.model")  # they hold for the tool in tool.name only


# -- Layers: a higher one overrides a lower one

SYSTEM_RANK = 0
USER_RANK = 1
PROJECT_RANK = 2
NAMED_RANK = 3  # the file in CLINCUS_CONFIG
DASHBOARD_RANK = 4
VARIABLE_RANK = 5
PROFILE_RANK = 6
FLAG_RANK = 7


class Layer(NamedTuple):
    """The values that one source sets, by dotted key and in normal form."""

    rank: int  # a higher rank wins
    source: str  # a file's path, a variable's name, "profile 'x'", "command line"
    values: Mapping[str, Any]


class Config(NamedTuple):
    """The configuration in force. It is never changed: `with_flags` makes a new one."""

    values: dict[str, Any]  # the complete document, nested as GET /api/config shows it
    origins: dict[str, str]  # dotted key: where its value comes from
    warnings: tuple[str, ...]
    files: dict[str, bool]  # path: whether the file exists
    layers: tuple[Layer, ...]  # the sources of `values`, except the profile
    profile: str  # the name of the profile in force
    wanted_profile: str  # the profile that a caller chose; it overrides defaults.profile
    environment: dict[str, str]  # variables of the profile, for the tool

    def get(self, key: str) -> Any:
        """The value of a dotted key."""
        return functools.reduce(operator.getitem, key.split("."), self.values)


def fold_layers(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values by dotted key, and the source of each. A key that a layer has counts even if it is empty or false."""
    values = {key: setting.default for key, setting in SETTING.items()}
    origins = dict.fromkeys(values, "default")
    for layer in sorted(layers, key=lambda layer: layer.rank):
        if layer.values.get("tool.name", values["tool.name"]) != values["tool.name"]:
            for key in TOOL_BOUND:
                values[key] = SETTING[key].default
                origins[key] = "default"
        for key, value in layer.values.items():
            merge = SETTING[key].merge
            if merge is None:
                origins[key] = layer.source
                values[key] = value
                continue
            is_mixed = values[key] != SETTING[key].default
            origins[key] = f"{origins[key]}, {layer.source}" if is_mixed else layer.source
            values[key] = merge(values[key], value)
    if values["limits.memory.limit"] and origins["limits.memory.enforce"] == "default":
        values["limits.memory.enforce"] = "hard"  # Incus enforces a soft limit only when the host runs short of memory
    return values, origins


def profile_values(profiles: Mapping[str, Mapping[str, Any]], name: str, heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a profile by its own keys, merged over those of the profiles that it inherits from."""
    if not name:
        return {}
    if name not in profiles:
        origin = f" (which profile {heirs[-1]!r} inherits)" if heirs else ""
        advice = f"there are {', '.join(profiles) or 'none'}; add [profiles.{name}] to your config"
        raise ConfigError(f"profile '{name}' not found{origin}: {advice}", 404)
    if name in heirs:
        raise ConfigError(f"profile '{name}' inherits itself: leave out one `inherits` on the way")
    profile = profiles[name]
    inherited = profile_values(profiles, profile.get("inherits", ""), (*heirs, name))
    return merged(inherited, profile)


CONFIG_CHECKS: list[Callable[[Config], object]] = []  # each raises ConfigError for keys that contradict each other


def make_config(
    layers: Iterable[Layer], files: Mapping[str, bool] = {}, warnings: Iterable[str] = (), wanted_profile: str = ""
) -> Config:
    """The configuration of the layers, with the profile that they or the caller choose."""
    layers = tuple(layers)
    values, origins = fold_layers(layers)
    profile = wanted_profile or values["defaults.profile"]
    chosen = profile_values(values["profiles"], profile)
    if profile:
        settings = {PROFILE[key].key: value for key, value in chosen.items()}
        overrides = {key: value for key, value in settings.items() if key in SETTING}
        values, origins = fold_layers([*layers, Layer(PROFILE_RANK, f"profile '{profile}'", overrides)])
    config = Config(
        values=nest(values),
        origins=origins,
        warnings=tuple(warnings),
        files=dict(files),
        layers=layers,
        profile=profile,
        wanted_profile=wanted_profile,
        environment=dict(chosen.get("environment", {})),
    )
    for check in CONFIG_CHECKS:
        check(config)
    return config


def with_flags(config: Config, flags: Mapping[str, object], profile: str = "") -> Config:
    """The configuration with more settings from the command line, by dotted key, and possibly another profile.

    The profile overrides files and variables; flags override the profile. A key that this version does not know is a
    warning, since another version may have stored it with a session. Raises ConfigError: 400 for a bad value, 404 for
    an unknown profile.
    """
    reader = Reader()
    layers = [*config.layers, reader.flags(flags)]
    reader.raise_faults()
    warnings = (*config.warnings, *reader.warnings)
    return make_config(layers, config.files, warnings, profile or config.wanted_profile)


# -- Reading the sources


class Reader:
    """Reads the sources of a configuration and collects what is wrong in them.

    Only the first findings are kept, since a stranger may have written the file.
    """

    MOST = 20

    def __init__(self) -> None:
        self.faults: list[str] = []  # with any of them, nothing is loaded
        self.warnings: list[str] = []
        self._texts: dict[str, str] = {}  # the texts of the files by path, to find line numbers

    def file(self, path: str, text: str, rank: int) -> Layer:
        """The layer of a config file. Raises ConfigError with file and line if it is not TOML."""
        self._texts[path] = text
        return Layer(rank, path, self._values(path, parse_toml(path, text), SETTING))

    def variables(self, environ: Mapping[str, str]) -> Iterator[Layer]:
        """A layer for each CLINCUS_* variable that is set. An empty variable counts as unset."""
        for setting in SETTING.values():
            value: Any = environ.get(setting.variable, "")
            if not value:
                continue
            if isinstance(setting.default, bool):
                value = SWITCH_WORDS.get(value.lower(), value)
            elif isinstance(setting.default, int) and re.fullmatch(r"-?\d{1,10}", value):
                value = int(value)
            yield Layer(VARIABLE_RANK, setting.variable, self._fit(setting.variable, setting.key, setting, value))

    def flags(self, flags: Mapping[str, object]) -> Layer:
        """The layer of the command line's flags by dotted key. None stands for a flag that was not given."""
        values: dict[str, Any] = {}
        for key, value in flags.items():
            if key == "dashboard.port" and value == 0:
                values[key] = value  # any free port
            elif key not in SETTING:
                self._unknown("command line", key, SETTING)
            elif value is not None and value != "":
                values.update(self._fit("command line", key, SETTING[key], value))
        return Layer(FLAG_RANK, "command line", values)

    def raise_faults(self) -> None:
        """Raise one ConfigError that names every fault."""
        if self.faults:
            raise ConfigError(f"validation failed: {'; '.join(self.faults)}")

    def _values(self, path: str, table: object, settings: Mapping[str, Setting], at: str = "") -> dict[str, Any]:
        """The values of a table in a file by the dotted keys of `settings`. `at` is the table's own key and a dot."""
        values: dict[str, Any] = {}
        if not isinstance(table, Mapping):
            self._fault(path, at.rstrip("."), "a table is wanted", table)
            return values
        for key, value in flat_values(table, settings):
            if key in settings and settings[key].rows:
                beside = {name: one for name, one in as_object(value).items() if f"{key}.{name}" in settings}
                for name, plain in beside.items():
                    one = f"{key}.{name}"
                    values.update(self._fit(path, at + one, settings[one], plain, one))
                if value != beside or not beside:
                    values[key] = dict(self._tables(path, settings[key], value, beside))
            elif key in settings:
                values.update(self._fit(path, at + key, settings[key], value, key))
            elif any(known.lower().startswith(f"{key.lower()}.") for known in settings):
                self._fault(path, at + key, "a table is wanted", value)
            else:
                self._unknown(path, at + key, (at + known for known in settings))
        for mount in (*values.get("mounts.default", ()), *values.get("mounts", ())):
            if not mount["host"].startswith(("/", "~")):
                mount["host"] = os.path.normpath(os.path.join(os.path.dirname(path), mount["host"]))
        return values

    def _tables(
        self, path: str, setting: Setting, value: object, others: Collection[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tables of a key that holds a table for each name, but for `others`."""
        if not isinstance(value, Mapping):
            self._fault(path, setting.key, "a table is wanted", value)
            return
        for name, table in value.items():
            if name in others:
                continue
            if self._fit(path, f"{setting.key}.{name}", setting, name):
                yield name, self._values(path, table, setting.rows, f"{setting.key}.{name}.")

    def _fit(self, source: str, place: str, setting: Setting, value: object, key: str = "") -> dict[str, Any]:
        """A key with its value in normal form. A value that cannot be used is noted as a fault; the result is empty."""
        try:
            return {key or place: setting.fit(value)}
        except ValueError as error:
            self._fault(source, place, str(error), HIDDEN if setting.secret else value)
            return {}

    def _fault(self, source: str, key: str, reason: str, value: object) -> None:
        if len(self.faults) < self.MOST:
            self.faults.append(f"{self._place(source, key)}: invalid {key} {shorten(value)}: {reason}")

    def _unknown(self, source: str, key: str, known: Iterable[str]) -> None:
        import difflib

        if len(self.warnings) >= self.MOST:
            return
        near = difflib.get_close_matches(key[:100], list(known), 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        self.warnings.append(f"{self._place(source, key)}: unknown key {key[:200]!r} is ignored{hint}")

    def _place(self, source: str, key: str) -> str:
        line = toml_line(self._texts.get(source, ""), key)
        return f"{source}, line {line}" if line else source


SWITCH_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def parse_toml(path: str, text: str) -> dict[str, Any]:
    """Parse the text of a TOML file. Raises ConfigError with file and line."""
    if sys.version_info >= (3, 11):
        import tomllib  # novm
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text.lstrip("\ufeff"))
    except ValueError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = found[1] if found else text.count("\n") + 1
        raise ConfigError(f"{path}, line {line}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: too deeply nested: use fewer levels") from None


def toml_line(text: str, key: str) -> int:
    """The number of the line that sets a dotted key, or else of the table around it; 0 if neither is found.

    tomllib reports no positions, so this searches the text. It expects one header or one key a line, as is usual.
    """
    wanted = key.lower().split(".")
    table: list[str] = []
    most = 0  # how many parts of the key the best line so far has
    found = 0
    for number, line in enumerate(text.lstrip("\ufeff").split("\n"), 1):
        is_header = line.lstrip().startswith("[")
        if not is_header and "=" not in line:
            continue
        name = line.partition("]" if is_header else "=")[0].strip(" \t[")
        parts = [part.strip(" \t\"'").lower() for part in name.split(".")]
        path = parts if is_header else [*table, *parts]
        if is_header:
            table = parts
        if path == wanted[: len(path)] and len(path) > most:
            most = len(path)
            found = number
    return found


def flat_values(
    table: Mapping[str, object], stops: Collection[str], prefix: str = "", depth: int = 8
) -> Iterator[tuple[str, object]]:
    """The leaves of a nested table by dotted key. A key in `stops` is a leaf, and so is everything `depth` levels deep.

    Keys match in any case, as in the Go program.
    """
    lower = {stop.lower(): stop for stop in stops}
    for name, value in table.items():
        key = f"{prefix}{name}"
        key = lower.get(key.lower(), key)
        if isinstance(value, Mapping) and key not in stops and depth:
            yield from flat_values(value, stops, f"{key}.", depth - 1)
        else:
            yield key, value


# -- Loading


def state_directory(environ: Mapping[str, str]) -> str:
    """The directory for Clincus's own files: `~/.clincus`."""
    return expand("~/.clincus", environ)


def own_file(environ: Mapping[str, str], name: str) -> str:
    """The path of one of Clincus's own files: `port`, `history.jsonl`, `trust.json`, `dashboard.json`."""
    return os.path.join(state_directory(environ), name)


def user_configs(environ: Mapping[str, str]) -> list[str]:
    """The possible paths of the user's config file, in order of preference: XDG_CONFIG_HOME, then ~/.config."""
    base = environ.get("XDG_CONFIG_HOME", "")
    below = [os.path.join(base, "clincus", "config.toml")] if os.path.isabs(base) else []
    return [*below, expand("~/.config/clincus/config.toml", environ)]


def config_files(environ: Mapping[str, str]) -> dict[str, int]:
    """Every path that can change the configuration, whether it exists or not, with its rank. `serve` polls them."""
    ranks = {SYSTEM_CONFIG: SYSTEM_RANK}
    for path in user_configs(environ):
        ranks[path] = USER_RANK
    named = environ.get("CLINCUS_CONFIG")
    if named:
        ranks[expand(named, environ)] = NAMED_RANK
    ranks[own_file(environ, "dashboard.json")] = DASHBOARD_RANK
    return ranks


def config_fingerprint(paths: Iterable[str]) -> list[tuple[object, ...]]:
    """Time (ns), size and inode of each file that exists. They differ when a file has changed, appeared or gone."""
    marks: list[tuple[object, ...]] = []
    with suppress(OSError):  # a file may disappear between the two calls
        for path in paths:
            if os.access(path, os.F_OK):  # for the many paths that do not exist, cheaper than an error of os.stat
                status = os.stat(path)
                marks.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
    return marks


def load_config(environ: Mapping[str, str], *, flags: Mapping[str, object] = {}, profile: str = "") -> Config:
    """The configuration of defaults, files, CLINCUS_* variables, profile and flags; a later one wins.

    `flags` are values by dotted key (None: not given). Raises ConfigError for broken values; unknown keys are warnings.
    """
    reader = Reader()
    layers: list[Layer] = []
    files: dict[str, bool] = {}
    places = user_configs(environ)
    user = next(filter(os.path.exists, places), places[0])
    for path, rank in config_files(environ).items():
        if rank == USER_RANK and path != user:
            continue
        files[path] = os.path.exists(path)
        if rank == DASHBOARD_RANK:
            layers.append(dashboard_layer(path, layers, reader.warnings))
            continue
        text = read_text(path, CONFIG_FILE_LIMIT)
        if text is not None:
            layers.append(reader.file(path, text, rank))
        elif rank == NAMED_RANK:
            raise ConfigError(
                f"CLINCUS_CONFIG names {path!r}, but there is no such file: make it, or unset the variable"
            )
    layers += [*reader.variables(environ), reader.flags(flags)]
    reader.raise_faults()
    return make_config(layers, files, reader.warnings, profile)


# -- Settings of the dashboard: in `dashboard.json`, since the config files belong to the user

# It has an entry for each dotted key: {"value": …, "instead_of": the value that the config files had at that moment}.


def said_by_files(layers: Iterable[Layer], key: str) -> object:
    """The value of a key in the config file of the highest rank that sets it, None if no file does."""
    said = [layer.values[key] for layer in layers if layer.rank <= NAMED_RANK and key in layer.values]
    return said[-1] if said else None


def dashboard_layer(path: str, layers: Sequence[Layer], warnings: list[str]) -> Layer:
    """The layer of the dashboard's file. If the file cannot be read, it is empty and `warnings` gets the reason.

    An entry is left out if the config files have changed its key since: the later change wins.
    """

    def fit(document: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for key, entry in document.items():
            if key in SETTING and SETTING[key].in_page and entry["instead_of"] == said_by_files(layers, key):
                values[key] = SETTING[key].fit(entry["value"])
        return values

    try:
        return Layer(DASHBOARD_RANK, path, read_json(path, CONFIG_FILE_LIMIT, fit) or {})
    except ConfigError as error:
        warnings.append(error.message)
        return Layer(DASHBOARD_RANK, path, {})


def save_dashboard(environ: Mapping[str, str], changes: Mapping[str, object]) -> None:
    """Set keys that the page may change in `dashboard.json`. Entries that an edit of a config file has overruled go.

    A flag or a variable that sets a key still wins. ClincusError: 400 for a bad value, 409 while a config file is
    broken, 500 if the file cannot be written.
    """
    checked = {}
    try:
        for key, value in changes.items():
            checked[key] = fit_item(SETTING[key].fit, value, f"invalid {key.rpartition('.')[2]}")
    except Unfit as error:
        raise ConfigError(str(error)) from None
    path = own_file(environ, "dashboard.json")
    if not checked and not os.path.exists(path):
        return
    try:
        with locked_folder(state_directory(environ)):
            layers = load_config(environ).layers
            kept = next(layer.values for layer in layers if layer.rank == DASHBOARD_RANK)
            entries = {}
            for key, value in {**kept, **checked}.items():
                instead_of = said_by_files(layers, key)
                if value != instead_of:
                    entries[key] = {"value": value, "instead_of": instead_of}
            text = json.dumps(entries, indent=2) + "\n"
            if text != (read_text(path, CONFIG_FILE_LIMIT) or "{}\n"):
                replace_file(path, text.encode(), 0o600)
    except ConfigError as error:
        raise ConfigError(error.message, 409) from None


# -- What the API shows


def config_document(config: Config) -> dict[str, Any]:
    """The document of GET /api/config; secrets are hidden."""
    document = nest({key: shown(setting, config.get(key)) for key, setting in SETTING.items()})
    for setting in SETTING.values():
        if not setting.rows:
            continue
        tables = document[setting.key]
        for name, values in tables.items():
            if f"{setting.key}.{name}" in SETTING:
                continue
            tables[name] = nest({key: shown(setting.rows[key], value) for key, value in values.items()})
    return document


def shown(setting: Setting, value: Any) -> Any:
    """A value as the API shows it. A secret becomes asterisks, and so does each value in a table of secrets."""
    if not setting.secret or not value:
        return value
    return dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN


# ----------------------------------------------------------------------------------------------------------------
# tools
# The AI tools: how each is started, and which files go in and out of its container. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------

CARRIED_FILE_LIMIT = 8 << 20  # bytes of a single file that is carried in
CARRIED_LIMIT = 64 << 20  # bytes of the tar of all files carried in
GH_TIMEOUT = 5.0  # seconds for `gh auth token`


# -- Files carried in


class ToolFile(NamedTuple):
    """A file for the container's home."""

    path: str  # relative to the container's home
    data: bytes = b""
    mode: int = 0o600
    mtime: float = 0.0  # of the host's file, in seconds since 1970; 0 for a file that was made or merged here
    source: str = ""  # a file of the host that has the content, instead of `data`
    link: str = ""  # the target, if it is a symlink


class Carried:
    """The files to carry in so far, within the limits. A file that has to stay behind becomes a warning."""

    def __init__(self, home: str, left: int = CARRIED_LIMIT) -> None:
        self.home = home
        self.files: dict[str, ToolFile] = {}
        self.warnings: list[str] = []
        self._left = left  # bytes by which the tar may still grow

    def skip(self, path: str, reason: str) -> None:
        """Note a file that is not carried in."""
        self.warnings.append(f"{os.path.join(self.home, path)} is not carried into the container: {reason}")

    def add(self, path: str) -> None:
        """Add a file, or a directory with its content. A symlink to a place in the home counts as its target."""
        source = os.path.join(self.home, path)
        real = os.path.realpath(source)
        if not path_inside(real, os.path.realpath(self.home)):
            self.skip(path, "it is a link that leads out of the home directory")
        elif os.path.isdir(real):
            for folder, _, names in os.walk(real):
                inner = os.path.normpath(os.path.join(path, os.path.relpath(folder, real)))
                for name in sorted(names):
                    self._add_file(os.path.join(folder, name), os.path.join(inner, name))
        elif os.path.lexists(source):
            self._add_file(real, path)

    def _add_file(self, source: str, path: str) -> None:
        try:
            status = os.lstat(source)
            size = tarfile.BLOCKSIZE + status.st_size
            data = read_plain_file(source, CARRIED_FILE_LIMIT, follow=False) if size <= self._left else None
        except (OSError, ConfigError) as error:
            self.skip(path, str(error).rpartition(": ")[2])
            return
        if data is None:
            self.skip(path, f"all files together would be larger than {CARRIED_LIMIT >> 20} MiB")
            return
        self._left -= size
        mode = 0o700 if status.st_mode & 0o100 else 0o600
        self.files[path] = ToolFile(path, data, mode, status.st_mtime)

    def document(self, path: str) -> dict[str, Any]:
        """The JSON object in a file, {} if the file is missing. If it holds no object: {} too, and a warning."""
        value = self.value(path) if path in self.files else {}
        if not isinstance(value, dict):
            self.skip(path, "it is not a JSON object")
        return as_object(value)

    def value(self, path: str) -> Any:
        """The value of a JSON file, which may have comments and trailing commas; None if it is not JSON."""
        string = r'"(?:\\.|[^"\\])*"'
        comment = rf"{string}|//[^\n]*|/\*.*?\*/"
        trailing_comma = rf"({string})|,(\s*[}}\]])"
        try:
            text = self.files[path].data.decode("utf-8-sig")
            text = re.sub(comment, lambda m: m[0] if m[0][0] == '"' else " ", text, flags=re.DOTALL)
            text = re.sub(trailing_comma, lambda m: m[1] or m[2], text, flags=re.DOTALL)
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    def put(self, path: str, document: object) -> None:
        """Write JSON to a file."""
        self.files[path] = ToolFile(path, (json.dumps(document, indent=2) + "\n").encode())


def as_object(value: object) -> dict[str, Any]:
    """A JSON object as it is; an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def with_answers(value: object, answers: Any, workspace: str) -> Any:
    """A JSON value merged with answers: members of objects, items of lists. `{workspace}` is filled in."""
    if isinstance(answers, str):
        return answers.replace("{workspace}", workspace)
    if isinstance(answers, list):
        items = value if isinstance(value, list) else []
        new = [with_answers(None, item, workspace) for item in answers]
        return [*items, *(item for item in new if item not in items)]
    if isinstance(answers, dict):
        result = {**as_object(value)}
        for name, answer in answers.items():
            key = name.replace("{workspace}", workspace)
            result[key] = with_answers(result.get(key), answer, workspace)
        return result
    return answers


def path_inside(path: str, parent: str) -> bool:
    """True if a path is `parent` or lies below it. Both are in normal form, and absolute or relative to one folder."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def with_home(value: Any, home: str, container_home: str) -> Any:
    """A JSON value in which each path below the host's home becomes one below the container's home."""
    if isinstance(value, str):
        return re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", lambda _: container_home, value)
    if isinstance(value, list):
        return [with_home(item, home, container_home) for item in value]
    if isinstance(value, dict):
        moved = {}
        for key, item in value.items():
            moved[with_home(key, home, container_home)] = with_home(item, home, container_home)
        return moved
    return value


# -- Settings with which a tool starts at full permissions and asks no question

Completion = Callable[[Carried, str, Mapping[str, str]], None]  # gets the files, the workspace's path and variables

# Keys of ~/.claude.json that are carried in although their values are objects.
CLAUDE_ACCOUNT = ("oauthAccount", "customApiKeyResponses", "mcpServers")


def complete_claude(carried: Carried, _workspace_path: str, environment: Mapping[str, str]) -> None:
    """Let Claude Code run with full permissions and the user's account.

    From the user's ~/.claude.json, the container gets the account, plain preferences and the MCP servers, but not the
    list of all projects with their prompts, and no caches.
    """
    settings = carried.document(".claude/settings.json")
    permissions = {"defaultMode": "bypassPermissions", **as_object(settings.get("permissions"))}
    permissions.pop("disableBypassPermissionsMode", None)
    carried.put(".claude/settings.json", {**settings, "permissions": permissions})
    account: dict[str, Any] = {"theme": "dark"}
    for key, value in carried.document(".claude.json").items():
        is_short_text = isinstance(value, str) and len(value) <= 1024
        is_plain = is_short_text or isinstance(value, (bool, int, float))
        if (is_plain and not key.startswith("cached")) or key in CLAUDE_ACCOUNT:
            account[key] = value
    if account.get("preferredNotifChannel", "auto") == "auto":
        account["preferredNotifChannel"] = "terminal_bell"  # tells the dashboard that the tool waits
    api_key = environment.get("ANTHROPIC_API_KEY", "")[-20:]  # Claude Code identifies a key by its last 20 characters
    if api_key:
        account["customApiKeyResponses"] = with_approved_key(account.get("customApiKeyResponses"), api_key)
    carried.put(".claude.json", account)


def with_approved_key(responses: object, api_key: str) -> dict[str, list[object]]:
    """Claude Code's lists of approved and rejected API keys, with one key approved and in no other list."""
    lists: dict[str, list[object]] = {}
    for word, keys in as_object(responses).items():
        if isinstance(keys, list):
            lists[word] = [key for key in keys if key != api_key]
    lists.setdefault("approved", []).append(api_key)
    return lists


def without_claude_keys(file: ToolFile, lent: Mapping[str, str]) -> ToolFile:
    """Claude Code's ~/.claude.json without its API key, and without the ends of approved and rejected keys.

    `lent` holds the variables of logins that a session borrows. A placeholder among them is approved.
    """
    if file.path != ".claude.json":
        return file
    try:
        document = as_object(parse_json(file.data))
    except ValueError:
        document = {}
    kept = {key: value for key, value in document.items() if key not in ("primaryApiKey", "customApiKeyResponses")}
    placeholder = lent.get("ANTHROPIC_API_KEY", "")
    if placeholder:
        kept["customApiKeyResponses"] = with_approved_key(None, placeholder[-20:])
    return file._replace(data=json.dumps(kept, indent=2).encode() + b"\n")


def complete_opencode(carried: Carried, _workspace_path: str, _environment: Mapping[str, str]) -> None:
    """Let opencode run all tools (https://opencode.ai/docs/permissions). Tools that the user denied stay denied."""
    paths = [f".config/opencode/{name}" for name in ("opencode.json", "opencode.jsonc", "config.json")]
    present = [path for path in paths if path in carried.files] or paths[:1]
    if ".opencode.json" in carried.files:
        present.append(".opencode.json")
    for path in present:
        document = carried.document(path)
        rules = allowed_instead_of_asked(document.get("permission"))
        if rules != "deny":  # of the rules that match, the last one counts
            document["permission"] = {"*": "allow", **as_object(rules)}
        carried.put(path, document)


def allowed_instead_of_asked(rules: object) -> object:
    """Permission rules of opencode in which every "ask" is "allow"."""
    if isinstance(rules, dict):
        return {key: allowed_instead_of_asked(value) for key, value in rules.items()}
    return "allow" if rules == "ask" else rules


# -- The table of tools: no other code in this file knows a tool by name


class Tool(NamedTuple):
    """One AI tool. Paths are relative to a home directory."""

    name: str
    start: tuple[str, ...]  # the command that starts it; `{session}` stands for our session id
    resume: tuple[str, ...]  # the command that resumes a conversation; `{conversation}` stands for its id
    prompt: tuple[str, ...] = ()  # the last words of the command for a first prompt, `{prompt}`, which may begin with -
    models: str = ""  # pattern of the models that its flag --model accepts
    effort_variable: str = ""  # the variable for tool.NAME.effort_level
    credentials: tuple[str, ...] = ()  # carried in at every start, never saved
    settings: tuple[str, ...] = ()  # files and directories carried into a new container
    instructions: tuple[str, ...] = ()  # carried in as well if tool.carry_instructions is set
    complete: Completion | None = None  # changes the files before they go in
    answers: Mapping[str, Any] = {}  # path: JSON to merge into the file, so that the tool asks nothing (`with_answers`)
    saved: tuple[str, ...] = ()  # files and directories that hold the conversations
    unsaved: tuple[str, ...] = ()  # glob patterns of files that stay behind (`*` matches slashes): secrets, locks, logs
    conversation: str = ""  # pattern of the path of a conversation's file; the group `id` is the conversation's id
    message: str = ""  # a text in every conversation that has a message; one without it cannot be resumed
    github_token: bool = False
    environment: Mapping[str, str] = {}  # for instance, to switch updates off: the image has the version
    rules: tuple[Mapping[str, Any], ...] = ()  # for a user's own tool: what its screens mean (clincus_features/agents)
    package: tuple[str, ...] = ()  # for the image: the npm package, and the path of the program in it
    source: str = ""  # where these facts come from, and the reasons for them


def tool_from_row(name: str, row: Mapping[str, Any]) -> Tool:
    """The tool that a JSON object with some fields of `Tool` describes. Without any field it is a bare command."""
    fields: dict[str, Any] = {"start": (name,), "resume": ()}
    for key, value in row.items():
        fields[key] = tuple(value) if isinstance(value, list) else value
    fields["name"] = name
    return Tool(**fields)


def read_tools(path: str, complete: Mapping[str, Completion]) -> dict[str, Tool]:
    """The tools of a packaged file, which has a row for each name; `complete` has their functions by name."""
    rows: dict[str, dict[str, Any]] = json.loads(packaged_text(path))
    return {name: tool_from_row(name, {**row, "complete": complete.get(name)}) for name, row in rows.items()}


TOOLS = read_tools("guest/tools.json", {"claude": complete_claude, "opencode": complete_opencode})
EFFORT = matching(r"low|medium|high|xhigh|max", "write low, medium or high")
register_settings(
    *(Setting(f"tool.{tool.name}.effort_level", "", EFFORT) for tool in TOOLS.values() if tool.effort_variable)
)


MORE_TOOLS: list[Callable[[Config], Mapping[str, Tool]]] = []  # features add to this before the config is loaded
SHELL = Tool("shell", ("bash", "-l"), ("bash", "-l"))


def all_tools(config: Config) -> dict[str, Tool]:
    """The tools to choose from, by name: the table's, those of features, and those of tool.commands."""
    tools = {**TOOLS}
    for more in MORE_TOOLS:
        tools.update(more(config))
    for name, words in config.get("tool.commands").items():
        if name not in TOOLS and name != SHELL.name:
            tools[name] = Tool(name, tuple(words), tuple(words))
    return tools


def find_tool(name: str, config: Config) -> Tool:
    """The tool of a name: one of `all_tools`, a plain shell, or the program in tool.binary. Raises ConfigError(400)."""
    tools = {**all_tools(config), SHELL.name: SHELL}
    chosen = config.get("tool.name")
    if config.get("tool.binary"):  # `tool_command` puts this program in place of the name
        tools.setdefault(chosen, Tool(chosen, (chosen,), (chosen,)))
    if name not in tools:
        source = f"{config.origins['tool.name']}: " if name == chosen else ""
        advice = "name its program in tool.binary or tool.commands"
        raise ConfigError(f"{source}unknown tool: {name} (supported: {', '.join(tools)}); {advice}")
    return tools[name]


CONFIG_CHECKS.append(lambda config: find_tool(config.get("tool.name"), config))


def tool_command(
    tool: Tool, config: Config, session_id: str, conversation: str | None, *, environ: Mapping[str, str] | None = None
) -> list[str]:
    """The command that starts a tool, or resumes the conversation of an id.

    tool.binary replaces the first word, and a defaults.model that the user set is passed on, but only for the tool in
    tool.name. `environ` with CLINCUS_USE_DUMMY=1 replaces the tool by the test stub `dummy`.
    """
    words = tool.resume if conversation else tool.start
    command = [word.replace("{session}", session_id).replace("{conversation}", conversation or "") for word in words]
    if tool.name == config.get("tool.name"):
        command[0] = config.get("tool.binary") or command[0]
        model = config.get("defaults.model")
        is_chosen = config.origins.get("defaults.model", "default") != "default"
        if model and is_chosen and re.fullmatch(tool.models, model):
            command += ["--model", model]
    if environ and environ.get("CLINCUS_USE_DUMMY") == "1":
        command[0] = "dummy"
    return command


# -- Environment


def terminal_name(term: str) -> str:
    """The TERM to use in a container: tmux does not start with a name that it cannot look up there.

    A plain image has a terminfo entry for the names below (Debian's ncurses-base), and tmux can draw on them. Any other
    terminal in use today understands xterm-256color.
    """
    plain = r"ansi|linux|screen|tmux|rxvt(-unicode(-256color)?)?|vt(100|102|220)|xterm(-(256color|color|mono))?"
    return term if re.fullmatch(plain, term) else "xterm-256color"


def github_token(environ: Mapping[str, str]) -> str:
    """The user's GitHub token: GH_TOKEN, GITHUB_TOKEN, or the output of `gh auth token` within 5 s; "" if none."""
    token = environ.get("GH_TOKEN") or environ.get("GITHUB_TOKEN")
    if token:
        return token
    program = shutil.which("gh", path=environ.get("PATH"))
    if program is None or not may_be_logged_in(program, environ):
        return ""
    try:
        done = run_child([program, "auth", "token"], timeout=GH_TIMEOUT, environ=environ)
    except ChildError:
        return ""
    token = done.stdout.decode("ascii", "replace").strip()
    is_token = done.code == 0 and re.fullmatch(r"[\x21-\x7e]{1,1024}", token)
    return token if is_token else ""


def may_be_logged_in(gh: str, environ: Mapping[str, str]) -> bool:
    """False if `gh` has no login: then it has no hosts.yml, also where the token itself is in a keyring.

    To ask it costs each start 65 ms of CPU. A snap keeps its files in a place of its own, so it is asked in any case.
    The folder is that of `gh help environment`.
    """
    if gh.startswith("/snap/"):
        return True
    in_config = f"{environ.get('XDG_CONFIG_HOME') or '~/.config'}/gh"
    folder = environ.get("GH_CONFIG_DIR") or in_config
    return os.path.exists(expand(f"{folder}/hosts.yml", environ))


def tool_environment(tool: Tool, config: Config, environ: Mapping[str, str], container_home: str) -> dict[str, str]:
    """The variables that a tool runs with. Those of the profile override ours; `-e` on the command line overrides both.

    They may hold secrets: pass them in a file or on stdin, never in an argument list.
    """
    user = config.get("incus.code_user")
    variables = {
        "HOME": container_home,
        "USER": user,
        "LOGNAME": user,
        "TERM": terminal_name(environ.get("TERM", "")),
        "IS_SANDBOX": "1",
        **tool.environment,
    }
    if tool.effort_variable:
        variables[tool.effort_variable] = config.get(f"tool.{tool.name}.effort_level")
    if tool.github_token and "GH_TOKEN" not in config.environment:
        variables["GH_TOKEN"] = github_token(environ)
    return {**{name: value for name, value in variables.items() if value}, **config.environment}


# -- A tool's files


def tool_files(
    tool: Tool,
    home: str,
    container_home: str,
    workspace_path: str,
    config: Config,
    *,
    environment: Mapping[str, str],
    present: Mapping[str, float] | None = None,
) -> tuple[list[ToolFile], list[str]]:
    """The user's files that a tool needs in its container, in order of path, and warnings.

    Paths of the home in credentials and settings are rewritten. Settings that full-permission mode needs to start
    without a question are added. A setting of the user's is never overwritten, except the keys that answer those
    questions or forbid that mode. `environment` holds the variables that the user chose for the tool.

    For a container that already has its settings, `present` holds the times of its files by path. It only gets
    credentials that are newer: a token that the tool has renewed inside stays.
    """
    carried = Carried(home)
    for path in tool.credentials:
        carried.add(path)
    if present is not None:
        newer = [file for file in carried.files.values() if file.mtime > present.get(file.path, 0)]
        return newer, carried.warnings
    for path in tool.settings:
        carried.add(path)
    if config.get("tool.carry_instructions"):
        for path in tool.instructions:
            carried.add(path)
    if home.strip("/"):
        move_home(carried, tool, home.rstrip("/"), container_home)
    if tool.complete is not None:
        tool.complete(carried, workspace_path, environment)
    for path, answers in tool.answers.items():
        carried.put(path, with_answers(carried.document(path), answers, workspace_path))
    return [carried.files[path] for path in sorted(carried.files)], carried.warnings


def move_home(carried: Carried, tool: Tool, home: str, container_home: str) -> None:
    """Rewrite paths of the host's home in JSON files of settings. Credentials stay as they are."""
    for path in carried.files:
        if path.endswith((".json", ".jsonc")) and path not in tool.credentials:
            value = carried.value(path)
            moved = with_home(value, home, container_home)
            if moved != value:
                carried.put(path, moved)


def pack_files(files: Iterable[ToolFile], uid: int, gid: int, folder_mode: int = 0o700) -> Iterator[bytes]:
    """A tar with the files and their directories, all of one owner, to be unpacked in a container."""

    def header(path: str, mode: int, kind: bytes, *, size: int = 0, mtime: float = 0, link: str = "") -> bytes:
        member = tarfile.TarInfo(path)
        member.mode = mode
        member.type = kind
        member.size = size
        member.mtime = int(mtime)
        member.linkname = link
        member.uid = uid
        member.gid = gid
        return member.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")

    made: set[str] = set()
    for file in files:
        *folders, _ = itertools.accumulate(file.path.split("/"), "{}/{}".format)
        for path in folders:
            if path not in made:
                made.add(path)
                yield header(path, folder_mode, tarfile.DIRTYPE)
        if file.link:
            yield header(file.path, file.mode, tarfile.SYMTYPE, mtime=file.mtime, link=file.link)
            continue
        with open(file.source, "rb") if file.source else io.BytesIO(file.data) as content:
            left = content.seek(0, os.SEEK_END)
            content.seek(0)
            yield header(file.path, file.mode, tarfile.REGTYPE, size=left, mtime=file.mtime)
            padding = -left % tarfile.BLOCKSIZE
            while left:
                most = min(left, 1 << 16)
                piece = content.read(most) or bytes(most)  # zeros, if somebody has cut the file meanwhile
                left -= len(piece)
                yield piece
            yield bytes(padding)
    yield bytes(2 * tarfile.BLOCKSIZE)


# ----------------------------------------------------------------------------------------------------------------
# incus
# The one door to the `incus` command. Knows nothing of sessions or HTTP.
# ----------------------------------------------------------------------------------------------------------------


class FailureKind(enum.Enum):
    """The meaning of a failure of Incus for the caller, where the HTTP status does not say enough."""

    OTHER = "other"
    HANGS = "hangs"  # Incus has not answered in time
    OVERLOADED = "overloaded"  # the machine is too busy for the database of Incus
    LEAVING = "leaving"  # the daemon is shutting down
    NOT_BEGUN = "not begun"  # it lost a command in an instance at the start: the command can be started again
    NOT_STARTED = "not started"  # a launch created the instance, and could not start it because of NAME_WANTED
    NAME_WANTED = "name wanted"  # somebody tries to create a second instance of this name
    BUSY = "busy"  # another operation on the instance is in progress
    IS_STOPPED = "is stopped"  # the instance to stop does not run
    STILL_RUNS = "still runs"  # the instance to stop runs: a busy machine has ended it too late, or it starts again
    DONE_BY_OTHERS = "done by others"  # another client asked for the same, and it is done
    NO_IMAGE = "no image"
    NO_DEVICE = "no device"
    NO_REMOTE = "no remote"
    LXC_FAILED = "LXC failed"  # its log has the reason
    LXC_ENDS = "LXC ends"  # the process that watches the container is just ending
    INTERFACE_GONE = "interface gone"  # a network interface vanished while Incus looked at all of them
    OTHER_PROJECT = "other project"  # a token is for other projects
    BAD_TOKEN = "bad token"
    CLOSED = "closed"  # its socket does not let this user in


class IncusError(ClincusError):
    """Incus refused or failed. The message is its own, without the leading "Error: "."""

    CODES: ClassVar[Mapping[int, str]] = {500: "incus_failed", 503: "incus_unreachable"}

    def __init__(self, message: str, status: int = 500, kind: FailureKind = FailureKind.OTHER) -> None:
        super().__init__(message, self.CODES.get(status, status))
        self.kind = kind


class NameTakenError(IncusError):
    """Another instance already has the name of the instance to create."""


class FailureRow(NamedTuple):
    """The meaning of some words of Incus. The first match with a kind or a status gives that."""

    words: str  # a regular expression
    kind: FailureKind | None = None
    status: int = 0
    advice: str = ""  # a sentence to show instead


RESTARTING = "Incus closed the connection: it is restarting. Try again in a moment; sessions run on."
# The words of the client and the daemon, as read in the source of Incus 6.0.4: the file is named beside them. They are
# matched here and nowhere else. Clincus never matches what a guest writes.
INCUS_FAILURES = (
    FailureRow(
        "Failed to retrieve PID of exec"  # drivers/driver_lxc.go
        "|Failed to begin transaction"  # internal/server/db/query: the machine is too busy for its database
        "|Timed out waiting for websockets"  # incusd/instance_exec.go
        "|Operation not found",  # incusd/operations.go
        FailureKind.NOT_BEGUN,
    ),
    # drivers/driver_lxc.go around operationlock.go; cmd/incus/launch.go adds the advice to a start that failed.
    FailureRow('create instance start operation: .*running a "create" operation', FailureKind.NOT_STARTED),
    FailureRow(r'(?s)running a "create" operation.*--show-log', FailureKind.NOT_STARTED),
    FailureRow('Instance is busy running a "create" operation', FailureKind.NAME_WANTED),  # operationlock.go
    FailureRow("is busy running", FailureKind.BUSY),
    FailureRow("operation has now succeeded", FailureKind.DONE_BY_OTHERS),
    FailureRow("already stopped", FailureKind.IS_STOPPED),  # drivers/driver_common.go
    FailureRow("container is not running", FailureKind.IS_STOPPED),  # liblxc's binding for Go
    FailureRow("Failed stopping instance, status is", FailureKind.STILL_RUNS),  # drivers/driver_lxc.go
    FailureRow("hutting down", FailureKind.LEAVING),  # incusd/api_internal.go
    FailureRow("(?s)mage.*(not found|Not Found)", FailureKind.NO_IMAGE),  # incusd/images.go, db/images.go
    FailureRow("Device doesn't exist", FailureKind.NO_DEVICE),  # cmd/incus/config_device.go
    FailureRow('The remote ".*" doesn\'t exist', FailureKind.NO_REMOTE),  # shared/cliconfig/remote.go
    FailureRow("bridge children interfaces", FailureKind.INTERFACE_GONE),  # network/driver_bridge.go
    FailureRow("permission for project", FailureKind.OTHER_PROJECT),  # auth/driver_tls.go
    FailureRow("[Tt]oken|certificate add operation", FailureKind.BAD_TOKEN),  # of an old one, of a used one
    FailureRow("forkstart", FailureKind.LXC_FAILED),  # drivers/driver_lxc.go
    FailureRow("Invalid PID", FailureKind.LXC_ENDS),  # drivers/driver_common.go
    # shared/cliconfig/remote.go
    FailureRow(
        "doesn't appear to be started",
        status=503,
        advice="Incus is not running. Run `clincus setup`, or start the incus service.",
    ),
    FailureRow(
        "needed permissions to talk",
        FailureKind.CLOSED,
        status=503,
        advice="You may not talk to Incus yet. Run `clincus setup`, then log in again.",
    ),
    # Go's own words, and those of its WebSocket library
    FailureRow(
        "connection refused",
        status=503,
        advice="Incus is not answering. Start it (`sudo systemctl start incus`), or read `journalctl -u incus`.",
    ),
    FailureRow("connection reset", status=503, advice=RESTARTING),
    FailureRow("websocket: close 1006", status=503, advice=RESTARTING),
    FailureRow("hutting down", status=503, advice="Incus is shutting down."),
    FailureRow("context deadline exceeded", FailureKind.OVERLOADED, 503),
    FailureRow("UNIQUE constraint failed: instances", status=409),  # SQLite
    FailureRow("already exists", status=409),
    FailureRow("Instance is busy", status=409),  # or the daemon is creating the instance of that name
    FailureRow("not found|Not Found", status=404),  # api.StatusErrorf, net/http
    FailureRow("file does not exist", status=404),  # Go's io/fs
)
# The same for a client that talks to a remote over HTTPS. Here the client's own words follow the advice.
ENGINE_FAILURES = (
    FailureRow(
        "failed to verify certificate",
        status=503,
        advice="its server is not the one that was trusted, so nothing is sent to it",
    ),
    FailureRow("The remote", status=503, advice="run `clincus engine add`"),
    FailureRow(
        "not authorized",
        status=503,
        advice="it does not trust this machine (any more): run `clincus engine add` with a new token",
    ),
    FailureRow('"https://', status=503, advice="it cannot be reached"),
    FailureRow("websocket: close", status=503, advice="the connection broke"),
)


def incus_failure(text: str, engine: str = "") -> IncusError:
    """Turn the client's stderr into an error with the HTTP status that fits, 500 if no table has its words."""
    words = text.strip().removeprefix("Error: ") or "Incus failed without a word"
    table = (*ENGINE_FAILURES, *INCUS_FAILURES) if engine else INCUS_FAILURES
    matches = [row for row in table if re.search(row.words, words)]
    kind = next((row.kind for row in matches if row.kind), FailureKind.OTHER)
    status, advice = next(((row.status, row.advice) for row in matches if row.status), (500, ""))
    if not engine:
        return IncusError(advice or words, status, kind)
    reason = f"{advice}: {words}" if advice else words
    return IncusError(f"engine {engine}: {reason}", status, kind)


# -- Engines: this host, and each Incus remote in the config


def engine_of(id: str) -> str:
    """The engine of a session, from its id (`NAME:clincus-…`); "" is this host."""
    return id.rpartition(":")[0]


def instance_name(id: str) -> str:
    """The name of a session's container on its engine."""
    return id.rpartition(":")[2]


def session_id_on(engine: str, name: str) -> str:
    """The id of a session, from its engine and the name of its container."""
    return f"{engine}:{name}" if engine else name


class SignsOfLife:
    """The time of an engine's last answer. An overloaded engine still answers some questions, late."""

    def __init__(self) -> None:
        self._last = float("-inf")  # time.monotonic

    def note(self) -> None:
        """Note that it has answered now."""
        self._last = time.monotonic()

    def since(self, at: float) -> bool:
        """True if it has answered anything since a time of time.monotonic."""
        return self._last >= at


# -- Commands in a container

BEGIN_TRIES = 10
FINISH_GRACE = 10.0  # seconds; a client that is interrupted before the daemon has answered leaves an instance behind
ONE_CORE = {"GOMAXPROCS": "1"}  # with more threads, Go takes a fifth more CPU for a short command, and no less time
NO_AUTHORITIES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": "/nonexistent"}  # reading them is half a command's CPU
GENTLE = Ending(signal.SIGTERM, 2.0)  # reaches the command itself; SIGKILL only ends the shell around it
# For answers about a container that lets them wait. Incus takes a second to see the end of a command with children.
BRIEF = Ending(signal.SIGTERM, 0.2)
STREAM_REST = 1 << 20  # bytes that may follow the wanted part of a stream, such as the last block of a tar


def has_not_begun(said: bytes) -> bool:
    """True if the client reports that Incus lost its command at the start.

    The caller then starts it again, at most BEGIN_TRIES times. A guest can print the same words, so this must not be
    asked about a command that has begun.
    """
    return incus_failure(said.decode("utf-8", "replace")).kind is FailureKind.NOT_BEGUN


class IncusChild(Child):
    """The `incus` command as a child process. Raises IncusError."""

    error: type[ClincusError] = IncusError

    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        environ = {**ONE_CORE, **(options.pop("environ", None) or os.environ)}
        try:
            super().__init__(argv, environ=environ, **options)
        except IncusError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise IncusError("Incus is not installed. Run `clincus setup`.", 503) from error
            raise


def guest_program(*names: str) -> str:
    """Programs of guest/, one after the other, as one text for `sh -c`.

    Incus writes the whole command line into its events. So this text is always the same: variable parts are passed as
    arguments, secrets on stdin.
    """
    return "".join(packaged_text(f"guest/{name}.sh") for name in names)


def guest_command(programs: str, *arguments: str, front: str = "") -> list[str]:
    """The command that runs programs of guest/ (names with blanks between) after the program `front`."""
    return ["sh", "-c", front + guest_program(*programs.split()), "clincus", *arguments]


class MarkedReader(io.RawIOBase):
    """One stream of a command under guest/exec.sh: everything that the command writes to it, up to the mark."""

    def __init__(self, source: IO[bytes], mark: bytes) -> None:
        self._source = source  # unbuffered
        self._mark = mark
        self._ready = b""
        self._held = b""  # may be the beginning of the mark
        self._is_over = False
        self.is_whole = False  # the mark has arrived

    def readable(self) -> bool:
        """Return True: pipes are read."""
        return True

    def close(self) -> None:
        """Close the stream."""
        self._source.close()
        super().close()

    def readinto(self, target: Any) -> int:
        """Fill a buffer with the available bytes; wait only if there are none."""
        while not self._ready and not self._is_over:
            self._take(self._source.read(1 << 16))
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _take(self, piece: bytes) -> None:
        text, found, _ = (self._held + piece).partition(self._mark)
        self.is_whole = bool(found)
        self._is_over = self.is_whole or not piece
        longest = 0 if self._is_over else len(self._mark) - 1
        held = next(size for size in range(longest, -1, -1) if text.endswith(self._mark[:size]))
        end = len(text) - held
        self._ready = text[:end]
        self._held = text[end:]


class Patience:
    """The time that one piece of work, such as the end of a session, may spend waiting for its container.

    All commands of the work share `seconds`, and each gets at most half of the rest. A silent container therefore costs
    this time once and not in each step, and a later step still finds out if it answers again. Data that arrives earns
    time back, and a command that ends normally costs nothing. All commands together get `most` seconds. `advice`
    follows the error of a command that took too long. Another thread may call the work off. If somebody waits for the
    work, `within` limits it, including the time that Incus needs. A container that let the last command wait in vain
    (`Incus.silent`) gets only the seconds of `for_silent`.
    """

    def __init__(
        self,
        seconds: float,
        most: float,
        advice: str = "",
        within: float = float("inf"),
        for_silent: float = float("inf"),
    ) -> None:
        self.advice = advice
        self._for_silent = for_silent
        self.ending = GENTLE  # of its commands
        self._until = time.monotonic() + within
        self._full = seconds
        self._left = seconds
        self._rest = most  # seconds until data earns nothing more
        self._running = 0  # commands, some of them beside each other
        self._counted = 0.0  # time.monotonic up to which the time has been counted
        self._commands: set[Child] = set()
        self._reason = ""  # why the work was called off
        self._lock = threading.Lock()

    def share(self, seconds: float) -> float:
        """The seconds that a command may take from now on; `seconds` is the most that it wants."""
        with self._lock:
            self._count()
            return max(0.0, min(seconds, self._left / 2, self._rest, self._until - time.monotonic()))

    def share_of_incus(self, seconds: float) -> float:
        """The same for a call to Incus itself. Raises IncusError(504) if too little time is left."""
        seconds = min(seconds, self._until - time.monotonic())
        if seconds < LEAST_SHARE:
            raise IncusError("Incus is busy and did not answer in time: try again", 504)
        return seconds

    def earn(self, seconds: float) -> None:
        """Give back time for data that has arrived."""
        with self._lock:
            self._count()
            self._left = min(self._full, self._left + seconds)

    def hurry(self) -> None:
        """Wait less from now on: the container let the last command wait in vain, so this one alone gets time."""
        with self._lock:
            self._count()
            self._left = min(self._left, 2 * self._for_silent)
        if self._for_silent < NO_LIMIT:
            self.ending = BRIEF

    def call_off(self, reason: str) -> None:
        """End the commands of the work, and begin no others: they raise IncusError(409) with the reason."""
        with self._lock:
            self._reason = reason
            commands = [*self._commands]
        for command in commands:
            command.end(reason, 409)

    def add(self, command: Child) -> None:
        """Note a command that runs."""
        with self._lock:
            self._commands.add(command)
        if self._reason:
            command.end(self._reason, 409)

    def discard(self, command: Child) -> None:
        """Forget a command that has ended."""
        with self._lock:
            self._commands.discard(command)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block, in which a command runs.

        Raises IncusError: 504 if too little is left for it, 409 if the work was called off.
        """
        if self._reason:
            raise IncusError(self._reason, 409)
        if self.share(LEAST_SHARE) < LEAST_SHARE:
            raise IncusError(f"the container does not answer{self.advice}", 504)
        with self._lock:
            self._count()
            before = self._left
            self._running += 1
        try:
            yield
            has_answered = True
        except BaseException:
            has_answered = False
            raise
        finally:
            with self._lock:
                self._count()
                self._running -= 1
                if has_answered:
                    self._left = max(self._left, before)

    def _count(self) -> None:
        now = time.monotonic()
        if self._running:
            self._left -= now - self._counted
            self._rest -= now - self._counted
        self._counted = now


# The patience of the work that the current thread does. A thread that it starts has none, unless it is given this one.
PATIENCE: contextvars.ContextVar[Patience | None] = contextvars.ContextVar("PATIENCE", default=None)
LEAST_SHARE = 1.0  # seconds: with less, a command is not begun
NO_LIMIT = float("inf")  # for work in which only the commands have limits


@contextmanager
def patient(
    seconds: float = NO_LIMIT,
    most: float = NO_LIMIT,
    advice: str = "",
    within: float = NO_LIMIT,
    for_silent: float = NO_LIMIT,
) -> Iterator[Patience]:
    """Let all commands in containers that the block runs share a Patience: that of a block around it, or a new one."""
    patience = PATIENCE.get() or Patience(seconds, most, advice, within, for_silent)
    token = PATIENCE.set(patience)
    try:
        yield patience
    finally:
        PATIENCE.reset(token)


class GuestInput:
    """The stdin of a command under guest/exec.sh.

    The pipe never breaks, so `is_over` shows that nobody reads it any more.
    """

    def __init__(self, descriptor: int, is_over: Callable[[], bool], child: GuestCommand) -> None:
        self.allow = child.allow  # lets the command run for some seconds more
        self.earn = child.earn  # counts data that has arrived, in the seconds that it may take
        self.end = child.end  # ends the command, from any thread, with a reason and an HTTP status
        self._descriptor = descriptor
        self._is_over = is_over
        os.set_blocking(descriptor, False)

    def write(self, data: bytes) -> None:
        """Write all of it. Raises BrokenPipeError."""
        write_all(self._descriptor, data, self._is_over)


class GuestCommand(IncusChild):
    """A command under guest/exec.sh: it runs exactly once, and its whole output arrives. Call `begin` first."""

    instance = ""  # the instance in which it runs

    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        self._patience = PATIENCE.get()  # other threads may call `allow` and `earn`
        super().__init__(argv, **options)
        self._mark = f"<{os.urandom(12).hex()}>".encode()
        self._pipe = self.stdout
        if self._patience is not None:
            self._patience.add(self)
        self._readers = [MarkedReader(stream, self._mark) for stream in (self.stdout, self.stderr)]
        self.stdout, self.stderr = (cast("IO[bytes]", io.BufferedReader(reader, 1 << 16)) for reader in self._readers)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._patience is not None:
            self._patience.discard(self)
        super().__exit__(kind, error, trace)

    def allow(self, seconds: float, failure: str = "") -> None:
        """As `Child.allow`, within the Patience of the work that has begun it."""
        if self._patience is not None:
            seconds = round(self._patience.share(seconds), 1)
            failure = failure or f"the container has not answered for {seconds:g} s"
            failure += self._patience.advice
        super().allow(seconds, failure)

    def earn(self, seconds: float) -> None:
        """Count data that has arrived, in the seconds that it may take."""
        if self._patience is not None:
            self._patience.earn(seconds)

    @property
    def is_whole(self) -> bool:
        """True if the command ended and its whole output was read."""
        return all(reader.is_whole for reader in self._readers)

    def begin(self) -> bool:
        """Let the command begin, which it confirms by the mark. False if anything else arrives."""
        with suppress(BrokenPipeError):
            write_all(self.stdin.fileno(), self._mark + b"\n")
        seen = b""
        while len(seen) < len(self._mark):
            piece = self._pipe.read(len(self._mark) - len(seen))
            if not piece:
                break
            seen += piece
        return seen == self._mark

    def wait(self, readers: Iterable[threading.Thread] = ()) -> int:
        """Wait for the end of a command whose streams are read; returns its exit code. Raises IncusError."""
        for reader in readers:
            reader.join()
        # A sink that failed has closed its stream, maybe before the mark arrived.
        has_closed = self.stdout.closed or self.stderr.closed
        if self.is_whole or has_closed:
            poll = select.poll() if self._pipe.closed else poll_on(self._pipe, select.POLLIN)
            while self.process.poll() is None:
                self.signal(signal.SIGCONT)  # repeated: the first one may arrive before the client listens for it
                if poll.poll(200) and not self._pipe.read(1 << 16):
                    break
        return super().wait()


def yaml_of(document: Mapping[str, object]) -> bytes:
    """A document for the client's stdin. JSON is YAML except for some characters, so all beyond ASCII are escaped."""
    text = json.dumps(document, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", text).encode()


READ_TIMEOUT = 8.0  # seconds for Incus to answer when a person waits
HANGS_ADVICE = "Incus hangs, or is very busy: try again. `journalctl -u incus` shows the cause."


class Incus:
    """The one door to the `incus` command.

    Every call has a timeout in seconds and gets its whole input. A call that fails raises IncusError with Incus's own
    words.
    """

    def __init__(
        self, project: str = "default", *, group: str = "", engine: str = "", remote: str = "", target: str = ""
    ) -> None:
        self.project = project
        self.has_begun = threading.Event()  # set whenever somebody begins to wait for a command
        self._group = group  # joined through `sg` if the login is older than the membership
        self.engine = engine  # the engine behind this door, which refuses the sessions of others
        self.remote = remote  # the remote of the `incus` command, "" for the Incus of this host
        self.target = target  # the cluster member or `@group` for new instances, "" for any
        self.waiting: set[IncusChild] = set()  # the commands that somebody waits for
        self.silent: set[str] = set()  # names of the instances whose last command took too long
        self.lost = ""  # why the engine cannot be reached (`Engine.note_reach`): only a `fresh_door` begins commands
        self.signs = SignsOfLife()  # of the engine; a `fresh_door` has the same
        self.environ: Mapping[str, str] | None = None
        if remote:
            folder = os.environ.get("INCUS_CONF", "~/.config/incus")
            if os.path.exists(expand(f"{folder}/servercerts/{remote}.crt", os.environ)):
                self.environ = {**os.environ, **NO_AUTHORITIES}

    def place(self, name: str) -> str:
        """The word of the command line for an instance (given by a session's id or its name) or an image."""
        return f"{self.remote}:{self._own_name(name)}" if self.remote else self._own_name(name)

    def path(self, id: str, more: str = "") -> str:
        """The path in Incus's API of an instance, which is given by a session's id or its name."""
        return f"/1.0/instances/{urls.quote(self._own_name(id), safe='')}{more}"

    def _own_name(self, id: str) -> str:
        assert engine_of(id) in ("", self.engine), f"{id} is not on the engine {self.engine!r}"
        return instance_name(id)

    def argv(self, *arguments: str) -> list[str]:
        """The complete command line of `incus ARGUMENTS` in this project."""
        return self._as_member(["incus", "--project", self.project, *arguments])

    def run(self, *arguments: str, stdin: bytes = b"", timeout: float = 60, finish: bool = False) -> bytes:
        """Run `incus ARGUMENTS` and return its stdout. Raises IncusError.

        With `finish`, a client that takes too long, or that we abandon, gets time to undo its work. Otherwise the
        daemon would continue after the client is gone, and nobody could tell what it leaves behind. A command that
        Incus refuses since its name is wanted is repeated until `timeout`.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                return self._answer(self.argv(*arguments), stdin, timeout, finish=finish)
            except IncusError as error:
                is_wanted = error.kind in (FailureKind.NAME_WANTED, FailureKind.NOT_STARTED)
                if not is_wanted or arguments[0] == "launch" or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def query(
        self,
        path: str,
        method: str = "GET",
        data: object | None = None,
        *,
        wait: bool = False,
        is_json: bool = True,
        timeout: float = 30,
        kept: Callable[[str], object] | None = None,
    ) -> Any:
        """Ask Incus's REST API (https://linuxcontainers.org/incus/docs/main/rest-api/) and return the metadata.

        `wait` waits for the operation that an asynchronous answer names, and raises IncusError if it fails. Without
        `is_json` the answer is returned as text. `kept` selects keys of JSON objects; all others are left out.
        """
        options = ["--request", method]
        if wait:
            options.append("--wait")
        if data is not None:
            options += ["--data", json.dumps(data)]
        command = self._as_member(["incus", "query", *options, self._query_path(path)])
        answer = self._answer(command, b"", timeout)
        if not is_json:
            return answer.decode("utf-8", "replace")
        if not answer.strip():
            return None
        hook = (lambda pairs: {key: value for key, value in pairs if kept(key)}) if kept else None
        try:
            return parse_json(answer, object_pairs_hook=hook)
        except ValueError as error:
            raise IncusError(f"engine {self.engine}: {shorten(answer[:80])} is no JSON", 503) from error

    def _query_path(self, path: str) -> str:
        """A path for `incus query`, which refuses --project: the project goes into the path (cmd/incus/query.go)."""
        project = self.project if self.project == "default" else urls.quote(self.project, safe="")
        separator = "&" if "?" in path else "?"
        path = f"{path}{separator}project={project}"
        return f"{self.remote}:{path}" if self.remote else path

    def instance(self, id: str) -> dict[str, Any] | None:
        """An instance as Incus describes it, None if it does not exist. Raises IncusError."""
        try:
            return {**self.query(self.path(id))}
        except IncusError as error:
            if error.status != 404:
                raise
            return None
        except TypeError:
            raise IncusError(f"engine {self.engine}: its answer for {id} describes no instance", 503) from None

    def wait_for_others(self, id: str) -> None:
        """Wait until all current operations on an instance are over, whatever their result, and changes of it too.

        Outside the project `default` Incus adds `?project=NAME` to the paths of instances. A PATCH is no operation, but
        Incus does one after the other (incusd/instance_patch.go): one that changes nothing waits for those before.
        """
        operations = self.query("/1.0/operations?recursion=1") or {}
        for operation in operations.get("running", []):
            resources = operation["resources"] or {}
            paths = [path.partition("?")[0] for path in resources.get("instances", [])]
            if self.path(id) in paths:
                with suppress(IncusError):
                    self.query(f"/1.0/operations/{operation['id']}/wait?timeout=40", timeout=60)
        with suppress(IncusError):
            self.query(self.path(id), "PATCH", {"config": {}}, timeout=60)

    def launch(self, name: str, image: str, description: Mapping[str, object], **options: Any) -> None:
        """As `launching`, for a complete description."""
        with self.launching(name, image, **options) as give:
            give(description)

    @contextmanager
    def launching(
        self, name: str, image: str, *, ephemeral: bool = False, target: str = "", timeout: float = 300
    ) -> Iterator[Callable[[Mapping[str, object]], None]]:
        """Create and start an instance in one call: the client loads while the caller makes the description.

        The block gets a function, and calls it with the complete description (InstancePut); it returns when the
        instance runs. If the block ends before that, no instance is created. If the start fails, Incus leaves a stopped
        instance behind, and the caller has to delete it. Incus deletes an `ephemeral` instance when it stops; it
        ignores this word in the description.
        """
        words = ["launch", "--quiet"]
        if ephemeral:
            words.append("--ephemeral")
        if target or self.target:
            words.append(f"--target={target or self.target}")
        words += [image if ":" in image else self.place(image), self.place(name)]
        with self._command(self.argv(*words), b"{", timeout, finish=True) as child:

            def give(description: Mapping[str, object]) -> None:
                try:
                    self._finished(child, yaml_of(description)[1:])
                except IncusError as error:
                    if error.kind is not FailureKind.NOT_STARTED:
                        raise
                    self.run("start", "--quiet", self.place(name))

            try:
                yield give
            finally:
                child.end_input()  # without a description the client ends by itself

    def update(self, name: str, description: Mapping[str, object]) -> None:
        """Replace an instance's description (InstancePut). It is passed on stdin, since its keys may hold secrets."""
        self.run("config", "edit", self.place(name), stdin=yaml_of(description))

    def exec(
        self,
        name: str,
        command: Sequence[str],
        *,
        stdin: bytes | Iterable[bytes] = b"",
        timeout: float = 60,
        limit: int = 0,
        **options: Any,
    ) -> Completed:
        """Run a command in an instance; returns its exit code and its whole output. `options` are those of `exec_argv`.

        An exit code other than 0 is returned, not raised; a command that was cut off has one, too. Incus writes the
        whole command line into its events: secrets belong on stdin, never in `command` or in an environment.
        Raises IncusError if the command cannot begin, takes more than `timeout` seconds or writes too much.
        """
        with self.running_command(name, command, timeout, **options) as running:
            done = running.complete(stdin, limit)
            if running.is_whole:
                return done
            return done._replace(code=done.code or 1)

    @contextmanager
    def open(
        self, name: str, command: Sequence[str], *, timeout: float, **options: Any
    ) -> Iterator[tuple[GuestInput, BufferedReader]]:
        """Run a command in an instance and pass its stdin and stdout to the `with` block; see `exec`.

        The end of the block closes stdin. Raises IncusError if the command fails or is cut off; its own words are
        raised instead of a broken pipe.
        """
        with self.running_command(name, command, timeout, **options) as running:
            errors = Collector(running, running.stderr)
            stdin = GuestInput(running.stdin.fileno(), lambda: not errors.is_alive(), running)
            try:
                with suppress(BrokenPipeError):
                    yield stdin, cast("BufferedReader", running.stdout)
            except ClincusError as error:
                if running.failure:  # we have cut the stream off, so the reader's complaint does not matter
                    raise running.error(running.failure, running.status) from error
                raise
            with suppress(OSError):
                running.stdin.close()
            if len(running.stdout.read(STREAM_REST)) == STREAM_REST:
                running.end("the command in the container wrote more than was asked for", 500)
            code = running.wait([errors])
            if code != 0:
                raise self.guest_failure(name, Completed(code, b"", bytes(errors.data)))
            if not running.is_whole:
                raise IncusError("Incus lost the end of the container's answer: try again", 500)

    @contextmanager
    def running_command(
        self, name: str, command: Sequence[str], timeout: float | None, **options: Any
    ) -> Iterator[GuestCommand]:
        """Start a command in an instance, with `options` of `exec_argv`. Raises IncusError if it does not begin.

        `meanwhile` is called once, while the client loads.
        """
        patience = PATIENCE.get()
        instance = instance_name(name)
        if patience is not None and instance in self.silent:
            patience.hurry()
        counting = patience.waiting() if patience is not None else nullcontext()
        try:
            with counting, self._begun(name, command, timeout, **options) as running:
                yield running
        except IncusError as error:
            if error.status == 504:
                self.silent.add(instance)
            raise
        self.silent.discard(instance)

    @contextmanager
    def _begun(
        self,
        name: str,
        command: Sequence[str],
        timeout: float | None,
        *,
        meanwhile: Callable[[], object] | None = None,
        **options: Any,
    ) -> Iterator[GuestCommand]:
        argv = self.exec_argv(name, guest_command("exec", *command), **options)
        patience = PATIENCE.get()
        ending = GENTLE if patience is None else patience.ending
        end = None if timeout is None else time.monotonic() + timeout  # for all tries together
        for left in reversed(range(BEGIN_TRIES)):
            seconds = None if end is None else max(0.1, round(end - time.monotonic(), 1))
            with GuestCommand(argv, timeout=seconds, ending=ending, environ=self.environ) as run, self._awaited(run):
                run.instance = name
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                if run.begin():
                    self.signs.note()
                    yield run
                    return
                refusal = run.complete()
            is_late = end is not None and time.monotonic() > end
            if not left or is_late or not has_not_begun(refusal.stderr):
                raise self.guest_failure(name, refusal)

    def end_commands(self, name: str, reason: str) -> None:
        """End all commands in a frozen instance. Their callers get an IncusError(409) with the reason."""
        for child in [*self.waiting]:
            if isinstance(child, GuestCommand) and child.instance == name:
                child.end(reason, 409)

    def guest_failure(self, name: str, done: Completed) -> IncusError:
        """The error for a command in an instance that failed.

        Incus and the guest write to the same stderr, and the guest may write anything. So the error is not derived from
        the words: Incus is asked whether the instance can run a command.
        """
        try:
            status = self.query(self.path(name))["status"]
        except IncusError as error:
            return error
        if status != "Running":
            return IncusError(f"the container is {status.lower()}", 409)
        return IncusError(done.reason, 500)

    def exec_argv(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: int = 0,
        group: int | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/",
        terminal: bool = False,
    ) -> list[str]:
        """The command line of `incus exec`, for a process of the caller's own (a pty, a relay).

        The command runs as a uid, and as the gid of the same number unless a `group` is given.
        """
        if group is None:
            group = user
        mode = "--force-interactive" if terminal else "--force-noninteractive"
        options = [mode, "--user", str(user), "--group", str(group), "--cwd", cwd]
        for key, value in (environment or {}).items():
            options += ["--env", f"{key}={value}"]
        return self.argv("exec", *options, self.place(name), "--", *command)

    def monitor(self) -> IncusChild:
        """Start `incus monitor`, which prints each lifecycle event as a line of JSON, with empty lines between.

        It prints nothing when it is ready, and exits when the daemon stops. The caller ends it.
        """
        words = [f"{self.remote}:"] if self.remote else []
        return IncusChild(self.argv("monitor", *words, "--type", "lifecycle", "--format", "json"))

    def fresh_door(self) -> Incus:
        """The same door with a state of its own, to find out whether a lost engine is back: commands begin here."""
        door = copy.copy(self)
        door.lost = ""
        door.waiting = set()
        door.has_begun = threading.Event()
        return door

    @contextmanager
    def _awaited(self, child: IncusChild) -> Iterator[None]:
        self.waiting.add(child)
        self.has_begun.set()
        try:
            yield
        finally:
            self.waiting.discard(child)

    def _as_member(self, command: list[str]) -> list[str]:
        """A command, through `sg` if the socket is out of reach and a later `usermod` has put the user into its group.

        This is checked for each command, since a server may be older than Incus or than the membership. Members of the
        group `incus` reach the restricted socket of incus-user(8) meanwhile, where everything is in another project.
        """
        if self.lost:
            raise IncusError(self.lost, 503)
        if not self._group:
            return command
        socket = incus_sockets(os.environ)[0]
        if not os.path.exists(socket) or os.access(socket, os.W_OK):
            return command
        with suppress(KeyError):
            if pwd.getpwuid(os.getuid()).pw_name in grp.getgrnam(self._group).gr_mem:
                return ["sg", self._group, "-c", shlex.join(command)]
        return command

    def _answer(self, command: Sequence[str], stdin: bytes, timeout: float, *, finish: bool = False) -> bytes:
        """Run a command and return its stdout. Raises IncusError if it fails."""
        with self._command(command, stdin[:1], timeout, finish=finish) as child:
            return self._finished(child, stdin[1:])

    @contextmanager
    def _command(
        self, command: Sequence[str], first: bytes, timeout: float, *, finish: bool = False
    ) -> Iterator[IncusChild]:
        """Start a command, which has the `first` byte of its input. Raises IncusError.

        The byte is the beginning of a JSON object. If this process dies early, the client refuses the half object; with
        an empty stdin it would create an instance without our description, or erase an existing one's.
        """
        patience = PATIENCE.get()
        if patience is not None:
            timeout = patience.share_of_incus(timeout)
        # SIGINT lets the client cancel what can be cancelled, such as a download.
        ending = Ending(signal.SIGINT, timeout, FINISH_GRACE) if finish else AT_ONCE
        child = IncusChild(command, timeout=timeout, first=first, ending=ending, environ=self.environ)
        with child, self._awaited(child):
            yield child

    def _finished(self, child: IncusChild, stdin: bytes) -> bytes:
        """Give a command the rest of its input and return its stdout. Raises IncusError if it fails."""
        try:
            done = child.complete(stdin)
        except IncusError as error:
            if error.status == 504:
                error.kind = FailureKind.HANGS
            if error.status == 504 and not self.engine:
                raise IncusError(f"{error.message}. {HANGS_ADVICE}", 504, FailureKind.HANGS) from error
            if not self.engine or error.status == 503:
                raise
            silent = f"it does not answer: is it on? `clincus engine check {self.engine}` asks again"
            words = silent if error.kind is FailureKind.HANGS else error.message
            raise IncusError(f"engine {self.engine}: {words}", 503, error.kind) from error
        failure = incus_failure(done.stderr.decode("utf-8", "replace"), self.engine) if done.code != 0 else None
        if failure is None or failure.status != 503:
            self.signs.note()
        if failure is not None:
            raise failure
        return done.stdout


def incus_sockets(environ: Mapping[str, str]) -> list[str]:
    """The possible sockets of a local daemon, in the client's own order (INCUS_SOCKET, INCUS_DIR, the default)."""
    if environ.get("INCUS_SOCKET"):
        return [environ["INCUS_SOCKET"]]
    folder = environ.get("INCUS_DIR") or "/var/lib/incus"
    return [f"{folder}/unix.socket", f"{folder}/unix.socket.user"]


def engine_door(config: Config, engine: str) -> Incus:
    """The door to an engine of the config, "" for this host. Raises ClincusError(404) for an unknown name."""
    if not engine:
        return Incus(config.get("incus.project"), group=config.get("incus.group"))
    row = config.get("engines").get(engine)
    if row is None:
        raise ClincusError(f'there is no engine "{engine}": `clincus engine list` shows them', "engine_not_found")
    project = row.get("project") or "default"
    remote = row.get("remote") or engine
    return Incus(project, engine=engine, remote=remote, target=row.get("target", ""))


def lost_members(incus: Incus, instances: Iterable[Mapping[str, Any]]) -> list[str]:
    """The cluster members that are down. Incus is only asked if an instance is in the state Error, as theirs are."""
    if not any(instance.get("status") == "Error" for instance in instances):
        return []
    try:
        members = incus.query("/1.0/cluster/members?recursion=1", timeout=READ_TIMEOUT)
    except IncusError:  # it is not a cluster
        return []
    return [str(member["server_name"]) for member in members if member["status"] == "Offline"]


# ----------------------------------------------------------------------------------------------------------------
# conversations
# Saved conversations: <sessions_dir>-<tool>/<session id>/ has the paths of Tool.saved and metadata.json. Knows
# nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------

SAVED_LIMIT = 8 << 30  # bytes of one session on the host; above it, the oldest files of the conversation are left out
GROWTH_LIMIT = 64 << 20  # bytes by which the files of a conversation may grow while they are copied
DISK_RESERVE = 256 << 20  # bytes that a copy out of a container leaves free on the host's disk
LISTING_LIMIT = 64 << 20  # bytes
LISTED_FILES = 100_000  # guest/save.sh lists no more; each costs memory, and a file on this host
# A container states how much it will send, so it earns time by the bytes that arrive, not by its statement.
LIST_WITHIN = 60.0  # seconds for a container to list its files
SAVE_PATIENCE = 20.0  # seconds for the first MiB or the first 8 files, and for each one after that
SAVE_RATE = 1 << 20  # bytes per second
SAVE_FILES = 8  # per second: guest/save.sh starts some programs for each
SAVE_WITHIN = 600.0  # seconds for a save in all
LAST_SAVE_WITHIN = 60.0  # the same for a save that a stop waits for, which copies the changes since the last save
HAND_OVER_WITHIN = 60.0  # seconds for guest/hand-over.sh
END_PATIENCE = 120.0  # seconds in which the end of a session waits for its container in vain, in all steps together
END_WITHIN = 3600.0  # seconds that it waits for data that arrives, in all steps together
SEND_RATE = 4 << 20  # bytes per second that a container accepts at a start
SAVED_LOCK_TIMEOUT = 60.0  # seconds that another save may take for its clean-up
METADATA_LIMIT = 64 << 10  # bytes


class SavedSession(NamedTuple):
    """A conversation on the host, as described by its metadata.json. Fields that old files lack are empty."""

    session_id: str = ""
    tool: str = ""
    directory: str = ""
    container_name: str = ""
    workspace: str = ""
    persistent: bool = False
    saved_at: str = ""  # RFC 3339 with zone
    slot: int = 0
    tool_session_id: str = ""
    image: str = ""
    profile: str = ""
    name: str = ""  # given by a person
    mode: str = "mount"
    final: bool = False  # the container had stopped when this was saved, so it holds nothing newer


def sessions_directory(config: Config, environ: Mapping[str, str], tool_name: str) -> str:
    """The directory for a tool's conversations: `<paths.sessions_dir>-<tool>`."""
    return f"{expand(config.get('paths.sessions_dir'), environ)}-{tool_name}"


LIST_SAVED = "`clincus list --all` shows what is saved"


def session_directory(config: Config, environ: Mapping[str, str], tool_name: str, session_id: str) -> str:
    """The directory for one conversation. ClincusError (404) for an impossible id."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", session_id):
        raise ClincusError(f"session '{session_id}' not found; {LIST_SAVED}", "session_not_found")
    return os.path.join(sessions_directory(config, environ, tool_name), session_id)


def is_saved(tool: Tool, path: str) -> bool:
    """True if a file (relative to the home) belongs to a tool's conversations."""
    inside = any(path_inside(path, part) for part in tool.saved)
    return inside and not any(fnmatch.fnmatchcase(path, pattern) for pattern in tool.unsaved)


BEGUN_FILE = ".clincus/started"  # guest/tool.sh makes it before it runs the tool
STARTED_FILE = ".clincus/start"  # the program in tmux; in a container without it, no start has ever been completed
UNPACKING_FILE = ".clincus/unpacking"  # exists while a saved conversation is unpacked: its files may be incomplete


class ListedFile(NamedTuple):
    """A file of a home directory, in a container or in the copy on the host."""

    path: str  # relative to the home
    size: int
    mtime: int  # nanoseconds since 1970
    stamp: bytes = b""  # size and time as the container wrote them


def parse_listing(data: bytes) -> Iterator[ListedFile]:
    """The files in a listing of guest/save.sh. Records of any other form are left out."""
    for record in data.split(b"\0", LISTED_FILES)[:LISTED_FILES]:
        match = re.fullmatch(rb"((\d{1,15}) (\d{1,10})(?:\.(\d{1,9})\d*)?) (.+)", record, re.DOTALL)
        if match:
            stamp, size, seconds, fraction, path = match.groups()
            nanoseconds = int((fraction or b"").ljust(9, b"0"))
            mtime = int(seconds) * 10**9 + nanoseconds
            yield ListedFile(os.fsdecode(path), int(size), mtime, stamp)


def saved_listing(directory: str) -> dict[str, ListedFile]:
    """The files of a saved conversation by path, without empty ones and metadata.json.

    ClincusError if a part cannot be read: no tool may go on with half of a conversation, and no save may replace it.
    """

    def refuse(error: OSError) -> None:
        is_missing = error.filename == directory and isinstance(error, FileNotFoundError)
        if not is_missing:
            raise ClincusError(f"{error.filename}: cannot be read: {error.strerror}") from error

    found = {}
    for folder, _, names in os.walk(directory, onerror=refuse):
        for name in names:
            file = os.path.join(folder, name)
            status = os.lstat(file)
            path = os.path.relpath(file, directory)
            if stat.S_ISREG(status.st_mode) and status.st_size and path != "metadata.json":
                found[path] = ListedFile(path, status.st_size, status.st_mtime_ns)
    return found


def saved_files(tool: Tool, saved_dir: str) -> list[ToolFile]:
    """The files of a saved conversation, to be streamed. Other files, which the Go program saved too, are left out.

    ClincusError if one cannot be read: the tool would go on without it, and the next save would replace it.
    """
    found = []
    for path, file in sorted(saved_listing(saved_dir).items()):
        if not is_saved(tool, path):
            continue
        source = os.path.join(saved_dir, path)
        if not os.access(source, os.R_OK):
            advice = "make it readable for you, or start without --resume"
            raise ClincusError(f"the conversation cannot be continued, because {source} cannot be read: {advice}", 500)
        found.append(ToolFile(path, mtime=file.mtime / 10**9, source=source))
    return found


def conversation_pattern(tool: Tool, project: str = "[^/]+") -> re.Pattern[str]:
    """The pattern for the paths of a tool's conversation files."""
    return re.compile(tool.conversation.replace("{project}", project))


def choose_conversation(tool: Tool, session_id: str, workspace: str, files: Iterable[ListedFile]) -> str | None:
    """The id of the conversation to resume: the session's own, else the newest; None if there is none.

    Claude Code keeps a directory for each working directory. Its name is the path with a dash for each character that
    is neither a letter nor a digit.
    """
    if not tool.conversation:
        return None
    project = re.sub(r"[^A-Za-z0-9]", "-", workspace)
    pattern = conversation_pattern(tool, re.escape(project))
    found = []
    for file in files:
        match = pattern.fullmatch(file.path)
        if match:
            found.append((file.mtime, match["id"]))
    if any(id == session_id for _, id in found):
        return session_id
    return max(found)[1] if found else None


def safe_relative(path: str) -> bool:
    """True for a relative path in normal form that has no `..`, no control characters and no overlong parts."""
    parts = path.split("/")
    if len(parts) > 32 or any(ord(char) < 32 for char in path):
        return False
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) <= 255 for part in parts)


# Runs a command in a container and gives its stdin and stdout to a `with` block, as `Incus.open` does.
OpenCommand = Callable[..., "AbstractContextManager[tuple[GuestInput, BufferedReader]]"]


class UnsettledError(ClincusError):
    """A conversation changed while it was copied, so its files would not fit together."""


def save_conversation(
    open_command: OpenCommand,
    home: str,
    saved: SavedSession,
    tool: Tool,
    *,
    is_last: bool = False,
    owner: tuple[str, int] | None = None,
    within: float = SAVE_WITHIN,
) -> list[str]:
    """Bring the host's copy of a conversation up to date; returns what a person should know.

    `open_command` runs a command in the container as root, since files that `sudo` wrote belong to the conversation as
    well. `home` is the home of the tool there. With `is_last`, a running tool is ended first, and files that still
    change are copied as they are. `owner` is a folder and a uid, which gets what root made in that folder at the end.
    `within` is how long the copy may take, in seconds.

    Raises ClincusError, and OSError for a fault of this host.
    """
    program = os.path.basename(tool.start[0])[:15]  # the kernel keeps 15 characters of a process's name
    folder, uid = map(str, owner or ("", ""))
    command = guest_command("save hand-over", home, program if is_last else "", folder, uid, *tool.saved)
    with open_command(command, timeout=LIST_WITHIN) as (stdin, stream):
        notes = update_copy(stdin, stream, saved, tool, is_last=is_last, within=within)
        stdin.allow(HAND_OVER_WITHIN)
        return notes


def update_copy(
    stdin: GuestInput, stream: BufferedReader, saved: SavedSession, tool: Tool, *, is_last: bool, within: float
) -> list[str]:
    """Ask guest/save.sh for what the host's copy lacks: new files, and the new end of files that have grown.

    The new copy is made beside the old one, and replaces it when it is complete and not emptier: a container that has
    lost the conversation never replaces the copy.
    """
    parent = os.path.dirname(saved.directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    os.chmod(parent, 0o700)
    compared = compare_copy(stream, saved, tool)
    if is_emptier(compared, tool) or compared.is_same:
        write_metadata(saved)
        return []
    disk = os.statvfs(parent)
    if disk.f_bavail * disk.f_frsize < sum(compared.changed.values()) + DISK_RESERVE:
        raise OSError(errno.ENOSPC, "the disk of the saved conversations is nearly full", parent)
    stdin.allow(SAVED_LOCK_TIMEOUT + SAVE_PATIENCE)
    with fresh_copy(parent, saved.session_id) as fresh:
        copier = Copier(stdin, stream, saved.directory, fresh, is_last=is_last, pace=Pace(stdin, within))
        try:
            for file in compared.wanted:
                is_changed = file.path in compared.changed
                copier.take(file, is_changed=is_changed, is_kept=file.path in compared.kept)
        except FileNotFoundError:  # a file of the old copy
            raise UnsettledError("another save was faster", 409) from None
        write_metadata(saved._replace(directory=fresh))
        take_place(fresh, saved.directory)
    left_out = len({*compared.listed} - {*compared.wanted})
    if not left_out:
        return []
    return [f"{left_out} files are not saved: a session may hold {SAVED_LIMIT >> 30} GiB here"]


def is_emptier(compared: Compared, tool: Tool) -> bool:
    """True if a container has nothing of a saved conversation any more, or no file with messages."""
    if not compared.kept:
        return False
    is_talk = conversation_pattern(tool).fullmatch
    has_talk = any(is_talk(file.path) for file in compared.wanted)
    return not compared.wanted or (any(map(is_talk, compared.kept)) and not has_talk)


@contextmanager
def fresh_copy(parent: str, session_id: str) -> Iterator[str]:
    """Make a new directory for the copy of a conversation, and lock it. It is removed at the end if it still exists."""
    import tempfile

    with ExitStack() as held:
        with directory_lock(parent, SAVED_LOCK_TIMEOUT):
            mend_saved(parent)
            fresh = tempfile.mkdtemp(prefix=f".{session_id}.new-", dir=parent)
            held.callback(shutil.rmtree, fresh, ignore_errors=True)
            held.enter_context(directory_lock(fresh))
        yield fresh


def keep_beside(directory: str, ending: str, write: Callable[[str], int]) -> tuple[str, int]:
    """Keep a file of a session beside the directory of its conversation; returns its path and its size in bytes.

    `write` gets the path of a new file, fills it and returns its size. The name of the file ends with the time and
    `ending`. Raises what `write` raises, ClincusError(409) for an empty file, and OSError.
    """
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    stem = f"{directory}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path = f"{stem}.{ending}"
    number = 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}-{number}.{ending}"
    part = f"{path}.part"
    try:
        size = write(part)
        if not size:
            raise ClincusError("the container sent no data: look at its terminal, then try again", 409)
        with open(part, "rb") as file:
            os.fsync(file.fileno())  # the container's disk is deleted next, and then this is the only copy
        os.rename(part, path)
        sync_directory(parent)
    finally:
        with suppress(FileNotFoundError):
            os.remove(part)
    return path, size


KEPT_FILES = 4 << 30  # bytes of a tar with a container's files
KEEP_PATIENCE = 60.0  # seconds for each RECEIVE_STEP of the tar
RECEIVE_STEP = 4 << 20  # bytes; each step of this size has the same time limit
RECEIVE_RATE = 256 << 10  # bytes per second that a container has to send on average: an engine's line may be slow
RECEIVE_WITHIN = 3600.0  # seconds for the whole file


def receive_file(
    stdin: GuestInput, stream: BufferedReader, path: str, *, limit: int, patience: float, limited_by: str = ""
) -> int:
    """Write the bytes that a container sends to a new file that only its owner can read; returns their number.

    A RECEIVE_STEP may take `patience` seconds, within RECEIVE_RATE and RECEIVE_WITHIN. Raises ClincusError(409) for
    more than `limit` bytes (`limited_by` ends the message), and OSError for a fault of this host.
    """
    size = 0
    begun = time.monotonic()
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        while piece := stream.read(1 << 16):
            if size // RECEIVE_STEP < (size + len(piece)) // RECEIVE_STEP:
                stdin.earn(RECEIVE_STEP / RECEIVE_RATE)
                earned = min(2 * patience + size / RECEIVE_RATE, RECEIVE_WITHIN)
                seconds = min(patience, begun + earned - time.monotonic())
                stdin.allow(max(0.0, seconds), "the container sends too slowly")
            size += len(piece)
            if size > limit:
                raise ClincusError(f"the container sends more than {limit >> 20} MiB{limited_by}", 409)
            disk = os.fstatvfs(file.fileno())
            if disk.f_bavail * disk.f_frsize < DISK_RESERVE:
                raise OSError(errno.ENOSPC, "the disk is nearly full", path)
            file.write(piece)
    return size


class Compared(NamedTuple):
    """A conversation in a container, compared with its copy on this host."""

    listed: list[ListedFile]  # in the container: files with messages first, then the newest
    kept: dict[str, ListedFile]  # on this host, by path
    wanted: list[ListedFile]  # the files that a new copy will have
    changed: dict[str, int]  # path: size of each wanted file that the copy on this host lacks

    @property
    def is_same(self) -> bool:
        """True if the copy has exactly the files that the container has."""
        return not self.changed and self.kept.keys() == {file.path for file in self.listed}


def compare_copy(stream: BufferedReader, saved: SavedSession, tool: Tool) -> Compared:
    """Read the list of guest/save.sh and compare it with the copy on this host. Raises ClincusError."""
    is_talk = conversation_pattern(tool).fullmatch
    listed = [file for file in read_listing(stream) if safe_relative(file.path) and is_saved(tool, file.path)]
    listed.sort(key=lambda file: not is_talk(file.path))  # stable: within each group the newest stay first
    kept = saved_listing(saved.directory)
    wanted = within_limit(listed, kept)
    changed = {file.path: file.size for file in wanted if kept.get(file.path) != file._replace(stamp=b"")}
    return Compared(listed, kept, wanted, changed)


def unsaved_files(open_command: OpenCommand, home: str, saved: SavedSession, tool: Tool) -> list[str]:
    """The paths of a conversation's files that this host does not have completely.

    The arguments are those of save_conversation. Raises ClincusError.
    """
    words = guest_command("save hand-over", home, "", "", "", *tool.saved)
    with open_command(words, timeout=LIST_WITHIN) as (_, stream):
        compared = compare_copy(stream, saved, tool)
    left_out = {file.path for file in compared.listed} - {file.path for file in compared.wanted}
    return [*compared.changed, *sorted(left_out)]


def read_listing(stream: BufferedReader) -> list[ListedFile]:
    """Read the list that guest/save.sh writes. Raises ClincusError."""
    data = bytearray()
    while not data.endswith(b"\0/\0") and data != b"/\0":
        piece = stream.read1(1 << 16)
        data += piece
        if not piece:
            raise ClincusError(
                "the container's list of files is incomplete: stop and resume the session, then try again",
                "container_answer_bad",
            )
        if len(data) > LISTING_LIMIT:
            raise ClincusError(
                "the container's list of files is too long: delete old conversations in it", "container_answer_bad"
            )
    return list(parse_listing(bytes(data)))


def within_limit(listed: Iterable[ListedFile], kept: Mapping[str, ListedFile]) -> list[ListedFile]:
    """The files that fit into SAVED_LIMIT. For a file that has grown too large, its smaller copy in `kept` may fit."""
    wanted = []
    left = SAVED_LIMIT
    for file in listed:
        for version in (file, kept.get(file.path)):
            if version is not None and version.size <= left:
                wanted.append(version)
                left -= version.size
                break
    return wanted


class Pace:
    """Extends a container's deadline as data arrives, at most SAVE_PATIENCE seconds ahead, so that it cannot dribble.

    It has `within` seconds in all.
    """

    def __init__(self, stdin: GuestInput, within: float) -> None:
        self._stdin = stdin
        self._end = time.monotonic() + within
        self._earned_until = time.monotonic() + SAVE_PATIENCE
        self._credit = 0.0  # seconds that were earned since the deadline was last extended
        self._give()

    def earn(self, *, size: int = 0, files: int = 0, seconds: float = 0.0) -> None:
        """Count what has arrived, and `seconds` of this host's own work."""
        self._credit += size / SAVE_RATE + files / SAVE_FILES + seconds
        if self._credit >= 1:
            self._earned_until += self._credit
            self._stdin.earn(self._credit)
            self._credit = 0.0
            self._give()

    def _give(self) -> None:
        now = time.monotonic()
        seconds = min(SAVE_PATIENCE, self._earned_until - now, self._end - now)
        self._stdin.allow(max(0.0, seconds), "the container sends its conversation too slowly")


class Copier:
    """Fills a new directory (folders 0700, files 0600) with files of a container, which guest/save.sh sends."""

    def __init__(
        self, stdin: GuestInput, stream: BufferedReader, old: str, new: str, *, is_last: bool, pace: Pace
    ) -> None:
        self.stdin = stdin
        self.stream = stream
        self.old = old  # the directory of the existing copy
        self.new = new  # the directory of the new one
        self.is_last = is_last
        self.pace = pace
        self.growth = GROWTH_LIMIT  # bytes that may still arrive beyond the listed sizes

    def take(self, file: ListedFile, *, is_changed: bool, is_kept: bool) -> None:
        """Copy a file, or link it from the old copy if it has not changed."""
        target = os.path.join(self.new, file.path)
        try:
            if not is_changed:
                self.link(file.path)
                return
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return  # the name belongs to a file and to a folder, or is too long on this host
        with open(descriptor, "wb") as output:
            is_whole = self._fetch(file, output, os.path.join(self.old, file.path) if is_kept else os.devnull)
            began = time.monotonic()
            output.flush()
            os.fsync(descriptor)  # the container may be gone before the next power cut
            self.pace.earn(seconds=time.monotonic() - began)
        os.utime(target, ns=(file.mtime, file.mtime))
        if not is_whole:
            os.unlink(target)
            if not self.is_last:
                raise UnsettledError(f"{file.path} changes just now", 409)
            if is_kept:
                self.link(file.path)

    def link(self, path: str) -> None:
        """Take a file over from the old copy."""
        source = os.path.join(self.old, path)
        target = os.path.join(self.new, path)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except PermissionError:  # a file system without hard links
            shutil.copy2(source, target, follow_symlinks=False)

    def _fetch(self, file: ListedFile, output: IO[bytes], old: str) -> bool:
        """Write a file's content; False if it is not what was listed. `old` is the copy on the host."""
        with open(old, "rb") as before:
            start, left = self._ask(file, before)
            size = start + left
            before.seek(0)
            if start:
                shutil.copyfileobj(before, output, 1 << 16)
        while left:
            piece = self.stream.read(min(left, 1 << 16))
            if not piece:
                raise broke_off()
            output.write(piece)
            left -= len(piece)
            self.pace.earn(size=len(piece))
        self.pace.earn(files=1)
        line = self.stream.readline(64)
        if not line:  # it could not read the file to its end, and has filled it up
            raise broke_off()
        stamp = line.rstrip(b"\n")
        if stamp == file.stamp:
            return True
        now = re.match(rb"\d{1,15}(?= )", stamp)
        has_grown = now is not None and int(now[0]) >= size
        return has_grown and (self.is_last or file.path.endswith(".jsonl"))

    def _ask(self, file: ListedFile, before: IO[bytes]) -> tuple[int, int]:
        """Ask for a file, and name the part of it that this host has. Returns where the rest starts, and its size."""
        digest = hashlib.sha256()
        known = 0
        if os.fstat(before.fileno()).st_size <= file.size:
            for piece in iter(lambda: before.read(1 << 16), b""):
                digest.update(piece)
                known += len(piece)
        self.stdin.write(b"%d %s %s\n" % (known, digest.hexdigest().encode(), os.fsencode(file.path)))
        answer = re.fullmatch(rb"(\d{1,15}) (\d{1,15})\n", self.stream.readline(64))
        if answer is None:
            raise ClincusError(
                "the container does not answer as it should: stop and resume the session, then try again",
                "container_answer_bad",
            )
        start, left = map(int, answer.groups())
        self.growth -= max(start + left - file.size, 0)
        if start not in (0, known) or self.growth < 0:
            raise ClincusError(f"the container sends more of {file.path} than it has listed", "container_answer_bad")
        return start, left


def broke_off() -> ClincusError:
    """The error for a container that does not send the whole of a file."""
    words = "the container broke off within a file: stop and resume the session, then try again"
    return ClincusError(words, "container_answer_bad")


def take_place(fresh: str, directory: str) -> None:
    """Replace the old copy by a new one. `mend_saved` repairs what a crash in between leaves behind."""
    parent = os.path.dirname(directory)
    old = f"{fresh}.old"
    with directory_lock(parent, SAVED_LOCK_TIMEOUT):
        with suppress(FileNotFoundError):
            os.rename(directory, old)
        os.rename(fresh, directory)
        sync_directory(parent)
    shutil.rmtree(old, ignore_errors=True)


def mend_saved(parent: str) -> None:
    """Clean up after interrupted saves into `parent`; the caller holds its lock.

    An old copy gets its name back if the directory of that name is missing or has only metadata.json. Everything else
    is removed.
    """
    for left in glob.glob(f"{glob.escape(parent)}/.*.new-*"):
        name, _, ending = os.path.basename(left)[1:].rpartition(".new-")
        directory = os.path.join(parent, name)
        with suppress(ClincusError, OSError), directory_lock(left, timeout=0):  # else it is in use
            if ending.endswith(".old") and not saved_listing(directory):
                shutil.rmtree(directory, ignore_errors=True)
                os.rename(left, directory)
            else:
                shutil.rmtree(left, ignore_errors=True)


def write_metadata(saved: SavedSession) -> None:
    """Write metadata.json of a session. A missing directory is made (0700); an empty `saved_at` becomes now.

    ClincusError if that is not possible.
    """
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    document = {**saved._asdict(), "saved_at": saved.saved_at or now}
    del document["directory"]
    path = os.path.join(saved.directory, "metadata.json")
    try:
        os.makedirs(saved.directory, mode=0o700, exist_ok=True)
        replace_file(path, (json.dumps(document, indent=2) + "\n").encode(), 0o600)
    except OSError as error:
        raise ClincusError(f"{path}: cannot be written: {error.strerror}") from error


def read_metadata(directory: str, tool_name: str) -> SavedSession | None:
    """A saved session, None if there is none. If metadata.json is damaged, the directory's name is the session's id."""
    document: dict[str, Any] = {}
    with suppress(ConfigError, ValueError, RecursionError):
        text = read_text(os.path.join(directory, "metadata.json"), METADATA_LIMIT, follow=False)
        document = as_object(json.loads(text or "null"))
    if not document.get("session_id") or not isinstance(document["session_id"], str):
        with suppress(ClincusError):
            document = {"session_id": os.path.basename(directory)} if saved_listing(directory) else {}
    fields: dict[str, Any] = {}
    for key, default in SavedSession()._asdict().items():
        if type(document.get(key)) is type(default):
            fields[key] = document[key]
    if "session_id" not in fields:
        return None
    fields["tool"] = tool_name
    fields["directory"] = directory
    return SavedSession(**fields)


def list_saved(config: Config, environ: Mapping[str, str]) -> list[SavedSession]:
    """All saved sessions of all tools, the newest first."""
    base = expand(config.get("paths.sessions_dir"), environ)
    pattern = f"{glob.escape(base)}-*"
    for parent in {os.path.dirname(left) for left in glob.glob(f"{pattern}/.*.new-*.old")}:
        with suppress(OSError, ClincusError), directory_lock(parent):
            mend_saved(parent)
    found = []
    for folder in sorted(glob.glob(f"{pattern}/*")):
        if os.path.islink(folder):
            continue
        tool_name = os.path.dirname(folder)[len(base) + 1 :]
        saved = read_metadata(folder, tool_name)
        if saved is not None:
            found.append(saved)
    never = datetime.min.replace(tzinfo=timezone.utc)
    return sorted(found, key=lambda saved: parse_time(saved.saved_at) or never, reverse=True)


def find_saved(config: Config, environ: Mapping[str, str], session_id: str) -> SavedSession:
    """The saved session of an id, for any tool; ClincusError (404) if there is none."""
    for saved in list_saved(config, environ):
        if saved.session_id == session_id:
            return saved
    raise ClincusError(f"session '{session_id}' not found; {LIST_SAVED}", "session_not_found")


def check_own_copy(saved: SavedSession) -> None:
    """Raise ClincusError(409) if the copy on the host belongs to the conversation of another container."""
    kept = read_metadata(saved.directory, saved.tool)
    if kept is not None and kept.container_name not in ("", saved.container_name):
        words = f'"{saved.container_name}" has the id of a conversation of "{kept.container_name}"'
        raise ClincusError(f"{words}: it cannot be saved or resumed here; delete one of the two", 409)


def is_copy_of_last_run(saved: SavedSession, started_at: str) -> bool:
    """True if the copy on the host has everything of a stopped container whose last run began at `started_at`.

    Somebody may have begun that run with `incus start`, which writes no metadata.
    """
    kept = read_metadata(saved.directory, saved.tool)
    if kept is None or not kept.final:
        return False
    saved_at = parse_time(kept.saved_at)
    if saved_at is None:
        return False
    started = parse_time(started_at)
    if started is None:
        return True
    # Both are whole seconds. A time in the future comes from a clock that was set back since, and proves nothing.
    return started < saved_at <= datetime.now(timezone.utc)


# ----------------------------------------------------------------------------------------------------------------
# history
# history.jsonl: appends lines, and folds lines into entries. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------

HISTORY_LIMIT = 4 << 20  # bytes, about ten thousand runs; above it, the older half of the runs is dropped
HISTORY_PATIENCE = 5.0  # seconds that a start or a stop waits while another process locks the history
HISTORY_TAIL = 1000  # bytes at its end that show whether a longer file is the same one with more appended
# Two starts of one container within this time are one start that the server and the command line both wrote.
SAME_START = timedelta(seconds=10)


class Run(NamedTuple):
    """One run of a session: from a start of its container to the next stop."""

    session_id: str
    id: str
    workspace: str
    tool: str
    started_at: str
    ended_at: str | None = None
    persistent: bool = False
    exit_code: int | None = None

    def document(self) -> dict[str, object]:
        """The entry as `GET /api/sessions/history` shows it."""
        slot = self.id.rpartition("-")[2]
        return {**self._asdict(), "slot": int(slot) if slot.isdecimal() else 0}

    def line(self, kind: str) -> bytes:
        """The line of history.jsonl for its `start` or its `stop`."""
        record: dict[str, object] = {
            "type": kind,
            "id": self.id,
            "session_id": self.session_id,
            "workspace": self.workspace,
        }
        if kind == "start":
            record["time"] = self.started_at
            record["tool"] = self.tool
            record["persistent"] = self.persistent
        else:
            record["time"] = self.ended_at
            if self.exit_code is not None:
                record["exit_code"] = self.exit_code
        return json.dumps(record).encode() + b"\n"


class Fold:
    """Folds start and stop lines into runs.

    A container has at most one open run, so a stop is matched to its run by the container's name. This also works for
    lines of the Go program, which have no session id. Damaged lines and lines of another kind are skipped.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._open: dict[str, tuple[int, datetime]] = {}  # container -> index of its open run in _runs, and its start

    def add(self, lines: Iterable[bytes]) -> int:
        """Fold in more lines; returns how many bytes were read. A line that is still being written does not count."""
        size = 0
        for line in lines:
            record: dict[str, Any] = {}
            with suppress(ValueError):  # the line is damaged
                record = as_object(json.loads(line))
            if record or line.endswith(b"\n"):
                size += len(line)
            kind = record.get("type")
            name = record.get("id")
            moment = parse_time(record.get("time"))
            if kind in ("start", "stop") and isinstance(name, str) and moment is not None:
                self._add(record, kind, name, moment)
        return size

    def _add(self, record: Mapping[str, Any], kind: str, name: str, moment: datetime) -> None:
        if name in self._open:
            index, started = self._open[name]
            run = self._runs[index]
            is_same = record.get("session_id") in (None, run.session_id) and abs(moment - started) <= SAME_START
            if kind == "start" and is_same:
                return
            del self._open[name]
            # A start ends the run too: its stop was not seen.
            self._runs[index] = run._replace(ended_at=format_time(moment), exit_code=record.get("exit_code"))
        if kind == "start":
            run = Run(
                session_id=str(record.get("session_id") or name),
                id=name,
                workspace=str(record.get("workspace", "")),
                tool=str(record.get("tool", "")),
                started_at=format_time(moment),
                persistent=bool(record.get("persistent", False)),
            )
            self._open[name] = (len(self._runs), moment)
            self._runs.append(run)

    def newest_first(self) -> list[Run]:
        """The runs, newest first, also within the same second: the sort is stable, and its result is reversed."""
        return sorted(self._runs, key=lambda run: run.started_at)[::-1]


class HistoryWriter(threading.Thread):
    """Writes to the history in a thread of its own, since another process may hold the lock for any length of time."""

    def __init__(self, write: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = write
        self.since = time.monotonic()
        self.fault: ClincusError | None = None
        self.start()

    def run(self) -> None:
        """Write once the lock is free."""
        try:
            self._work()
        except ClincusError as error:
            self.fault = error


class History:
    """`history.jsonl`: lines are appended under a lock of its directory that other processes respect too.

    A writer that makes the file longer than HISTORY_LIMIT replaces it. The new file has the open runs, and the newest
    of the others that fit in half of the limit. All methods raise ClincusError if the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen = (0, 0, 0)  # inode, size and mtime (ns) of the file behind _runs
        self._fold = Fold()
        self._begin = 0  # _fold has read the part of the file from here to _end
        self._end = 0
        self._tail = b""  # the last bytes of this part
        self._runs: list[Run] = []
        self._writing = threading.Lock()  # guards the next two fields
        self._unwritten = b""  # lines that a writer will write as soon as it has the lock
        self._writer: HistoryWriter | None = None  # waits for the lock

    def record(self, run: Run) -> None:
        """Record that a run has begun, or that it has ended if it has an `ended_at`.

        Every start and stop waits here. If another process holds the lock for HISTORY_PATIENCE seconds, this raises
        ClincusError(409), and the line is written as soon as the lock is free.
        """
        line = run.line("stop" if run.ended_at else "start")
        with self._writing:
            self._unwritten = (self._unwritten + line)[-HISTORY_LIMIT:]
            is_waiting = self._writer is not None and self._writer.is_alive()
        if not is_waiting and self._writes_at_once():
            return
        with self._writing:
            if self._writer is None or not self._writer.is_alive():
                self._writer = HistoryWriter(self._write)
            writer = self._writer
        writer.join(max(0.0, writer.since + HISTORY_PATIENCE - time.monotonic()))
        if writer.is_alive():
            words = "another process holds a lock on it: it is written when that lets go"
            raise ClincusError(f"the history {shorten(self.path)}: {words}", 409)
        if writer.fault:
            raise writer.fault

    def _writes_at_once(self) -> bool:
        """Write unless another process holds the lock. Returns True if it wrote."""
        try:
            self._write(0)
        except ClincusError as error:
            if error.status != 409:
                raise
            return False
        return True

    def _write(self, timeout: float | None = None) -> None:
        with locked_folder(os.path.dirname(self.path), timeout), open(self.path, "ab+") as file:
            with self._writing:
                lines = self._unwritten
                self._unwritten = b""
                self._writer = None
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                lines = b"\n" + lines  # the last writer was cut off: ours must not continue its line
            file.write(lines)
            file.flush()
            if size + len(lines) > HISTORY_LIMIT:
                self._trim(file)

    def close_runs(self, running: Collection[str], when: str, engine: str) -> None:
        """End the open runs of an engine whose stop nobody saw: those of sessions that are not in `running`."""
        for run in self.runs():
            if run.ended_at is None and run.id not in running and engine_of(run.id) == engine:
                self.record(run._replace(ended_at=when))

    def runs(self) -> list[Run]:
        """All runs, newest first. If the file has grown, only the new part is read. Raises ClincusError."""
        with self._lock:
            try:
                with open(self.path, "rb") as file:
                    self._read(file)
            except FileNotFoundError:
                self._runs = []
                self._seen = (0, 0, 0)
            except OSError as error:
                self._seen = (0, 0, 0)
                raise ClincusError(f"the history {shorten(self.path)} cannot be read: {error.strerror}") from error
            return self._runs

    def _read(self, file: BufferedReader) -> None:
        """Fold what was appended since the last time, or everything if the file was replaced or changed otherwise."""
        status = os.fstat(file.fileno())
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == self._seen:
            return
        if not self._has_grown(file, status) or status.st_size - self._begin > 3 * HISTORY_LIMIT:
            self._fold = Fold()
            self._begin = max(0, status.st_size - 2 * HISTORY_LIMIT)  # the Go program lets the file grow
            self._end = self._begin
        file.seek(self._end)
        self._end += self._fold.add(file)
        size = min(HISTORY_TAIL, self._end - self._begin)
        self._tail = os.pread(file.fileno(), size, self._end - size)
        self._runs = self._fold.newest_first()
        self._seen = seen

    def _has_grown(self, file: BufferedReader, status: os.stat_result) -> bool:
        """True if this is the file that was read last, with more appended."""
        inode, size, _ = self._seen
        if status.st_ino != inode or status.st_size <= size:
            return False
        return os.pread(file.fileno(), len(self._tail), self._end - len(self._tail)) == self._tail

    def _trim(self, file: IO[bytes]) -> None:
        """Replace the file by one with the newest runs. If that fails, the file stays as it is."""
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * HISTORY_LIMIT))
        fold = Fold()
        fold.add(file)
        ended = []
        going_on = []
        left = HISTORY_LIMIT // 2
        for run in fold.newest_first():
            if run.ended_at is None:
                going_on.append(run.line("start"))
            elif left > 0:
                ended.append(run.line("start") + run.line("stop"))
                left -= len(ended[-1])
        lines = reversed([*going_on, *ended])
        with suppress(OSError):
            replace_file(os.path.realpath(self.path), b"".join(lines), 0o600)


# ----------------------------------------------------------------------------------------------------------------
# what would be lost
# Data on a container's disk that this host lacks, by kind, with names for people. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------

# Kind -> its singular and plural in a sentence. The order is also that of the sentence and of the API.
LOSSES = {
    "conversation": ("changed file of its conversation", "changed files of its conversation"),
    "commits": ("commit", "commits"),
    "uncommitted": ("uncommitted file", "uncommitted files"),
    "stashes": ("stash", "stashes"),
    "nested": ("repository within its clone", "repositories within its clone"),
    "outside": ("file that was put outside its workspace", "files that were put outside its workspace"),
    "unreadable": ("file that only root can read", "files that only root can read"),
}
LOSS_NAMES = 20  # names of a kind in an answer
LOSS_NAMES_IN_WORDS = 3  # names of a kind in a sentence
LOSS_NAME = 120  # characters of a name
LOSS_COUNT = 10**9  # the largest number in an answer, since a container may claim any number


class Loss(NamedTuple):
    """Things of one kind: their number, and the names of the first ones. Both may come from a container."""

    number: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], number: int | None = None) -> Loss:
        """A loss with at most LOSS_NAMES names, each printable and cut. By default the number is that of the names."""
        if number is None:
            number = len(names)
        shown = []
        for name in map(printable, names[:LOSS_NAMES]):
            shown.append(name if len(name) <= LOSS_NAME else name[: LOSS_NAME - 1] + "…")
        return cls(min(number, LOSS_COUNT), tuple(shown))


class Unsaved(NamedTuple):
    """The work that would be lost with a container's disk."""

    found: Mapping[str, Loss | None]  # by kind (LOSSES); None for a kind that cannot be known now
    unknown: str = ""  # why it cannot be known
    pending: bool = False  # the container has not answered yet: a later question gets its answer

    @property
    def total(self) -> int | None:
        """The number of all things; 0 if nothing would be lost, None if that cannot be known."""
        total = 0
        for loss in self.found.values():
            if loss is None:
                return None
            total += loss.number
        return total

    @property
    def words(self) -> str:
        """The known things with some of their names, for a sentence; "" if there are none."""
        parts = []
        for kind, (singular, plural) in LOSSES.items():
            loss = self.found.get(kind)
            if loss is None or not loss.number:
                continue
            names = ", ".join(loss.names[:LOSS_NAMES_IN_WORDS])
            if names and loss.number > LOSS_NAMES_IN_WORDS:
                names += ", …"
            noun = singular if loss.number == 1 else plural
            parts.append(f"{loss.number} {noun} ({names})" if names else f"{loss.number} {noun}")
        *first, last = parts or [""]
        return f"{', '.join(first)} and {last}" if first else last

    def document(self) -> dict[str, object]:
        """The answer of GET /api/sessions/{id}/unsaved."""
        document: dict[str, object] = {}
        for kind in LOSSES:
            loss = self.found.get(kind, Loss())
            if loss is None:
                document[kind] = {"count": None, "names": []}
            else:
                document[kind] = {"count": loss.number, "names": list(loss.names)}
        return {**document, "total": self.total, "unknown": self.unknown, "pending": self.pending}


class UnsavedError(ClincusError):
    """A refusal to delete or rewind a container's disk: something would be lost with it, or nobody knows."""

    def __init__(self, message: str, unsaved: Unsaved) -> None:
        super().__init__(message, "unsaved_work")
        self.fields = {"unsaved": unsaved.document()}


class Keeper(NamedTuple):
    """How one part of Clincus finds what would be lost with a container's disk, and keeps it on this host."""

    kinds: tuple[str, ...]  # the kinds (LOSSES) that it looks for
    # True if the container has to run for `look`; a sleeping process is enough.
    asks_guest: Callable[[Sessions, Session], bool]
    # Finds the losses. Raises ClincusError if they cannot be known.
    look: Callable[[Sessions, Session], Mapping[str, Loss]]
    # Copies everything to this host and returns the paths of the copies. With the last argument, `insists`, it copies
    # what it can, and reports the rest. Raises ClincusError if that is not possible, and OSError for a fault of this
    # host.
    keep: Callable[[Sessions, Session, bool], list[str]]


# ----------------------------------------------------------------------------------------------------------------
# features
# The points where the files of clincus_features attach, and how they are found. Knows nothing of what they do.
# ----------------------------------------------------------------------------------------------------------------


class Duty(NamedTuple):
    """Work that the server repeats in the background. No duty waits for another."""

    name: str  # for the log
    period: float  # seconds from the end of one run to the start of the next
    work: Callable[..., None]
    each_engine: bool = False  # a thread for each engine, whose name `work` gets, so that no engine delays another


class OpenedConnection(Protocol):
    """A connection of a session that a feature inspects. It receives the bytes of both ends and returns those to write.

    The proxy's thread alone uses it. No call may wait.
    """

    @property
    def takes_more(self) -> bool:
        """True if the program may send more now."""

    @property
    def is_over(self) -> bool:
        """True if the connection ends once what `for_client` gives is written."""

    @property
    def is_broken(self) -> bool:
        """True if it ends at once."""

    @property
    def failure(self) -> str:
        """The reason why it is broken, if a person should know."""

    def from_client(self, data: bytes | memoryview) -> None:
        """Take bytes of the program. A view is valid only during the call."""

    def from_server(self, data: bytes | memoryview) -> None:
        """Take bytes of the server. A view is valid only during the call."""

    def server_ended(self) -> None:
        """Note that the server sends nothing more."""

    def for_client(self) -> bytes:
        """Return bytes to write to the program."""

    def for_server(self) -> bytes:
        """Return bytes to write to the server."""


HeadCheck: TypeAlias = "Callable[[str, str, int, bytes], str]"
Opener: TypeAlias = "Callable[[str, str, int, Callable[[Callable[[], None]], None]], OpenedConnection | None]"


class ContainerParts:
    """The parts that features add to a session's container, from the plan of its start to its delete."""

    def __init__(self) -> None:
        super().__init__()
        # Functions that return the configuration for a workspace of this host, from the configuration so far, our
        # variables and the path.
        self.workspace_configs: list[Callable[[Config, Mapping[str, str], str], Config]] = []
        # Functions that change the description (InstancePut) of a start. One feature may put a `LateDevices` under its
        # key LATE_DEVICES. An exception fails the start.
        self.instance_parts: list[Callable[[Incus, Session, Launch, dict[str, Any]], None]] = []
        # Functions that run before a new session has a container. They may return a function that brings something into
        # the container before the tool starts. An exception in either fails the start.
        self.fillers: list[Callable[[Sessions, Session, LaunchRequest], Callable[[Session], None] | None]] = []
        # Keepers of what would be lost when a container is deleted or goes back to a snapshot.
        self.keepers: list[Keeper] = []
        # Functions that return default variables for a session's programs. Those of the container and of a person win.
        self.default_variables: list[Callable[[Session, Launch], Mapping[str, str]]] = []
        # Functions that return variables for the logins that a session borrows. An error fails the start.
        self.lent_variables: list[Callable[[Session], Mapping[str, str]]] = []
        # Functions that return a program: with it, root prepares a started container for its logins before the tool
        # starts. They get the home in the container, and paths in it where no copy of a login may be. An error fails
        # the start.
        self.lenders: list[Callable[[Session, str, Sequence[str]], str]] = []
        # Functions that return the credentials of which a session that borrows logins gets no copy: paths in the home,
        # GITHUB_TOKEN and CLAUDE_KEYS. Without any function it gets no copy at all.
        self.withheld: list[Callable[[Session, Launch], Iterable[str]]] = []
        # Functions that return more files to carry into a session's container at a start.
        self.guest_files: list[Callable[[Session], Sequence[ToolFile]]] = []
        # Functions that return a program for `sh`. It runs before guest/start.sh with its arguments, as the code user.
        # If it defines a function `before_tool` or `beside_tool`, guest/start.sh calls that before or after it starts
        # the tool in tmux. The tool itself then waits for ~/.clincus/before, a program for `sh`, if that is there.
        self.start_programs: list[Callable[[Launch], str]] = []


class Listeners:
    """The functions of features that hear of events."""

    def __init__(self) -> None:
        super().__init__()
        # Functions that get a moment in a session's life: "before_start", "sealed", "after_start", "started", "ring",
        # "before_prompt", "before_call", "before_stop", "after_stop", "after_delete", "stopped", "deleted", or
        # "changed" for any other change.
        # "started" and "stopped" are reported for every run, even if another program began or ended it, and "started"
        # also for a run that a new server finds. "sealed", "after_stop" and "after_delete" are reported only in the
        # process that starts, ends or deletes: at "sealed" the container runs and its tool does not yet; at
        # "after_stop" it has stopped or is gone, and "after_delete" follows if it is gone.
        self.listeners: list[Callable[[str, Session], None]] = []
        # Functions that get the new `agent` object of the API when a tool's activity changes. They must not wait.
        self.agent_listeners: list[Callable[[Session, Mapping[str, object]], None]] = []
        # Functions that get news which a person must see at once, in the form of an `agent` object, and None when that
        # is over. They must not wait.
        self.alarm_listeners: list[Callable[[Session, Mapping[str, object] | None], None]] = []
        # Functions that get words for an event in a session's life, for the journal. They must not wait.
        self.happenings: list[Callable[[Session, str], None]] = []
        # Functions that are called when the server starts, and whenever it has read the config again.
        self.config_listeners: list[Callable[[], None]] = []

    def tell(self, moment: str, session: Session) -> None:
        """Tell the listeners about a moment in a session's life."""
        call_each(self.listeners, moment, session)


class Counted(NamedTuple):
    """The tokens of a model that a session has used on a day."""

    day: str  # of UTC (2026-11-29), "" if it is not known
    model: str  # "" if it is not known
    tokens: tuple[int, ...]  # input, output, cache read, cache write


class DocumentParts:
    """The parts that features add to documents of the API."""

    def __init__(self) -> None:
        super().__init__()
        # Functions that return more fields of a session's document.
        self.session_fields: list[Callable[[Session], Mapping[str, object]]] = []
        # Functions that return more warnings of a session's document.
        self.session_warnings: list[Callable[[Session], Iterable[str]]] = []
        # Functions that return more fields of GET …/changes, by id and session id, since the session may be gone.
        self.review_fields: list[Callable[[str, str], Mapping[str, object]]] = []
        # Functions that return more fields of a run in the history.
        self.run_fields: list[Callable[[Run], Mapping[str, object]]] = []
        # Functions that return more text of a run, in which the history is searched.
        self.run_words: list[Callable[[Run], str]] = []
        # Functions that return the tokens that this host has counted for a session, by its session id.
        self.counters: list[Callable[[str], Iterable[Counted]]] = []
        # Functions that return more fields of GET …/network.
        self.network_fields: list[Callable[[Session], Mapping[str, object]]] = []

    def fields(self, session: Session) -> dict[str, object]:
        """The fields that features add to a session's document."""
        fields: dict[str, object] = {}
        for found in call_each(self.session_fields, session):
            fields.update(found)
        warnings = list(itertools.chain.from_iterable(call_each(self.session_warnings, session)))
        if warnings:
            fields["warnings"] = [*session.warnings, *warnings]
        return fields

    def words_of(self, run: Run) -> str:
        """The text of a run in which the history is searched, in lower case."""
        return " ".join([run.workspace, run.id, *call_each(self.run_words, run)]).lower()

    def fields_of(self, run: Run) -> dict[str, object]:
        """The fields that features add to a run in the history."""
        fields: dict[str, object] = {}
        for found in call_each(self.run_fields, run):
            fields.update(found)
        return fields


# Gets our variables and a function that returns the known sessions; returns a warning for `clincus health` with the
# remedy, or None.
Examiner: TypeAlias = "Callable[[Mapping[str, str], Callable[[], Iterable[Session]]], tuple[str, str] | None]"


class Extensions(ContainerParts, Listeners, DocumentParts):
    """Everything that features add to the core.

    A feature is a module of clincus_features with a function `install(extensions)`, which fills these lists and
    returns. Nothing runs yet at that time; `app` is the Application that handlers and duties use later.

    Settings, checks of the config, tools and meters are added when the module is loaded (`register_settings`,
    `CONFIG_CHECKS`, `MORE_TOOLS`, `meters`), since commands read the config without installing features.
    """

    def __init__(self, app: Any = None) -> None:
        super().__init__()
        self.app = app
        # Method, path in openapi.json, handler.
        self.routes: list[tuple[str, str, Callable[[Any], object]]] = []
        # Functions that return the cost in dollars of a model's tokens (input, output, cache read, cache write), None
        # if they do not know the model.
        self.pricers: list[Callable[[str, tuple[int, ...]], float | None]] = []
        self.examiners: list[Examiner] = []
        self.duties: list[Duty] = []
        # Functions that get an engine, {id: time.monotonic of our last work there}, and the CPU seconds that this work
        # may have cost. They return the ids whose container has been idle since; see sleepers.py.
        self.sleepers: list[Callable[[str, Mapping[str, float], float], set[str]]] = []
        # Functions that apply their part of a session's PATCH. They get the values of the request.
        self.changes: list[Callable[[Session, Mapping[str, Any]], None]] = []
        # Functions that may open an encrypted connection. They get the session's id, host and port of the connection,
        # and a function that calls another one in the proxy's thread. An error ends the connection.
        self.openers: list[Opener] = []
        # Functions that may refuse a plain request. They get the session's id, host and port, and the head, and return
        # the reason, "" if they do not refuse it.
        self.head_checks: list[HeadCheck] = []
        # Functions that may answer a request for another Host. They get its head, its peer and its `Connection`.
        self.visitors: list[Callable[[bytes, Any, Any], bool]] = []
        # The first one replaces `socket_owner`: it finds the owner of the other end of a local connection.
        self.owners: list[Callable[[tuple[str, int], tuple[str, int]], int | None]] = []
        # Functions that get method, path and handler, and return the handler to use instead.
        self.wrappers: list[Callable[[str, str, Callable[[Any], object]], Callable[[Any], object]]] = []

    def known_to_sleep(self, engine: str, since: Mapping[str, float], cost: float) -> set[str]:
        """The ids of sessions of an engine that were idle since their time. The caller works on all others now."""
        return set().union(*call_each(self.sleepers, engine, since, cost))


GITHUB_TOKEN = "GH_TOKEN"
CLAUDE_KEYS = "primaryApiKey"  # in ~/.claude.json, with the ends of keys that were approved


def withheld(extensions: Extensions, session: Session, launch: Launch) -> list[str]:
    """The credentials that a session which borrows logins gets no copy of. A feature that fails withholds all."""
    found = call_each(extensions.withheld, session, launch)
    if len(found) < max(1, len(extensions.withheld)):
        return [*launch.tool.credentials, GITHUB_TOKEN, CLAUDE_KEYS]
    return list(itertools.chain.from_iterable(found))


def without_credentials(tool: Tool, kept_out: Collection[str]) -> Tool:
    """A tool that gets no copy of the credentials that `withheld` names."""
    credentials = tuple(path for path in tool.credentials if path not in kept_out)
    gets_token = tool.github_token and GITHUB_TOKEN not in kept_out
    return tool._replace(credentials=credentials, github_token=gets_token)


def call_each(functions: Iterable[Callable[..., Any]], *arguments: object) -> list[Any]:
    """Call functions of features and return their results. One that raises is logged and stops no other."""
    found = []
    for function in functions:
        try:
            found.append(function(*arguments))
        except Exception:
            log.exception("%s of a feature failed", getattr(function, "__qualname__", function))
    return found


# Features without which a session could do more than a person allows.
GUARDS = ("clone", "limits", "logins", "network", "protection")


def refuse_starts(feature: str, *_: object) -> None:
    """Replaces a guarding feature's part of the description, and fails each start. Raises ClincusError(500)."""
    words = f"no session can start, since the part of Clincus that sees to {feature} does not work"
    raise ClincusError(f"{words}: see the server's log, or install Clincus again", 500)


def install_features(app: Any, package: str = "clincus_features") -> Extensions:
    """Let every module of the package install itself. A module that raises is logged, and nothing of it is installed.

    A checkout without the package has no features, and the core is complete without them.
    """
    import pkgutil

    everything = Extensions(app)
    try:
        folder = importlib.import_module(package).__path__
    except ModuleNotFoundError:
        return everything
    for found in sorted(pkgutil.iter_modules(folder), key=lambda each: each.name):
        added = Extensions(app)
        try:
            importlib.import_module(f"{package}.{found.name}").install(added)
        except Exception:
            log.exception("the feature %s is left out", found.name)
            if found.name in GUARDS:
                everything.instance_parts.append(functools.partial(refuse_starts, found.name))
        else:
            for name, items in vars(added).items():
                if name != "app":
                    getattr(everything, name).extend(items)
    return everything


# ----------------------------------------------------------------------------------------------------------------
# sessions
# Names and slots, the instance description, the registry of all sessions, how sessions start and end. Knows nothing of
# HTTP and WebSocket.
# ----------------------------------------------------------------------------------------------------------------

# -- Workspaces and extra mounts

# None of these folders can be a workspace, and no folder below one of SYSTEM_TREES.
SYSTEM_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
SHARED_ROOTS = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp")


def resolve_workspace(path: object, home: str, private: Sequence[str] = ()) -> str:
    """Check a workspace path and resolve its symlinks.

    `private` are Clincus's own files and directories (config, saved conversations): an agent that can write there can
    run code on the host. Raises ClincusError(400) with the reason for a folder that must not be mounted into a
    container.
    """
    if not isinstance(path, str) or not os.path.isabs(path):
        raise ClincusError(
            f"workspace {shorten(path)} is not the absolute path of a project directory: write it from / on",
            "workspace_refused",
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ClincusError("the workspace path holds a control character: rename the directory", "workspace_refused")
    try:
        resolved = os.path.realpath(path)
        resolved.encode()
    except UnicodeEncodeError as error:
        raise ClincusError(
            f"workspace {shorten(path)} has a name that is not UTF-8: rename it", "workspace_refused"
        ) from error
    if not os.path.isdir(resolved):
        problem = "is not a directory" if os.path.exists(resolved) else "does not exist"
        raise ClincusError(f'workspace "{path}" {problem}: make it, or choose another', "workspace_refused")
    if resolved in SHARED_ROOTS or any(path_inside(resolved, tree) for tree in SYSTEM_TREES):
        raise ClincusError(
            f'workspace "{resolved}" is a system directory: choose a project directory below it', "workspace_refused"
        )
    home = os.path.realpath(home)
    if path_inside(home, resolved):
        raise ClincusError(
            f'workspace "{resolved}" holds your home directory: choose a project in it', "workspace_refused"
        )
    for folder in map(os.path.realpath, private):
        if path_inside(resolved, folder) or path_inside(folder, resolved):
            raise ClincusError(
                f'workspace "{resolved}" overlaps with Clincus\'s own files in "{folder}": choose another',
                "workspace_refused",
            )
    return resolved


def far_workspace(path: str, engine: str, roots: Sequence[str]) -> str:
    """Check a workspace path on the host of an engine, which must lie in one of the roots. Raises ClincusError(400).

    This host cannot see whether the folder exists or has links in its path. The start sees that, and refuses links.
    """
    plain = path.rstrip("/")
    parents = [root.rstrip("/") for root in roots]
    is_plain = path.startswith("/") and path.isprintable() and plain == os.path.normpath(path)
    is_below = plain not in parents and any(path_inside(plain, parent) for parent in parents)
    if not is_plain or not is_below:
        where = f"in a root: add roots to [engines.{engine}]"
        if roots:
            where = f"in one of its roots ({', '.join(roots)})"
        raise ClincusError(
            f'a mounted workspace of "{engine}" is a folder there, by its full path, {where}', "workspace_refused"
        )
    return plain


class MountEntry(NamedTuple):
    """One extra mount, ready to become a disk device."""

    host: str  # absolute
    container: str  # absolute, in normal form
    readonly: bool


def mount_entries(
    mounts: Iterable[Mapping[str, Any]], environ: Mapping[str, str], workspace_path: str = "/workspace"
) -> list[MountEntry]:
    """The extra mounts of a checked configuration, which has one for each container path.

    ClincusError (400) if one lies in another, hides the workspace, or covers a path that the container itself needs.
    """
    entries = []
    for mount in mounts:
        host = expand(mount["host"], environ)
        entries.append(MountEntry(host, mount["container"], mount.get("readonly", False)))
    paths = sorted(entry.container for entry in entries)
    for path in paths:
        if path_inside(workspace_path, path):
            raise ClincusError(f"mount {path!r}: it would hide the workspace {workspace_path!r}; choose another", 400)
        if any(path_inside(path, system) for system in ("/proc", "/sys", "/dev")):
            raise ClincusError(f"mount {path!r}: the container needs that path itself; choose another", 400)
        for other in paths:
            if other != path and path_inside(path, other):
                raise ClincusError(f"nested mount paths: {path!r} lies in {other!r}; mount only one of them", 400)
    return entries


def real_mount(path: str, workspaces: Collection[str]) -> str:
    """The real path of an extra mount, with links resolved. A missing directory is made.

    Raises ClincusError(400), also for a link in one of the workspaces: an agent may have put it there to get access to
    its target.
    """
    *links, here = protect.path_trail(path)
    for link in links:
        if len(links) == protect.MOST_LINKS or any(path_inside(link, workspace) for workspace in workspaces):
            raise ClincusError(f'mount "{path}": "{link}" is a link; name the directory that it leads to', 400)
    try:
        os.makedirs(here, exist_ok=True)
    except OSError as error:
        if not os.path.exists(here):  # if it exists, it is a file
            raise ClincusError(f'mount "{path}" cannot be made: {error.strerror}', 400) from error
    if os.path.realpath(here) != here:
        raise ClincusError(f'mount "{path}" is being changed: try again', 400)
    return here


# -- Sessions and their labels

SLOTS = range(1, 11)
LABEL = "user.clincus."
ASLEEP = LABEL + "asleep"  # set while a stopped container runs only to be read: what `put_back` restores, as JSON

# Incus's own states (https://linuxcontainers.org/incus/docs/main/rest-api/, "status codes") as ours.
STATUS = {"Running": "running", "Stopped": "stopped", "Starting": "starting", "Stopping": "stopping"}
# The types of the fields of `Session` say where each is kept and shown. The API shows those that are not private.
Label: TypeAlias = str  # kept in a label of the same name on the instance, so that any Clincus can read the session
PrivateLabel: TypeAlias = str
PrivateText: TypeAlias = str  # Clincus finds it elsewhere, as it does a plain `str`


def some_fields(item: object, names: Iterable[str]) -> dict[str, Any]:
    """The fields of those names, to build another tuple that has them too."""
    return {name: getattr(item, name) for name in names}


class Session(NamedTuple):
    """A session as the API shows it; `document()` has the reference's fields and ours."""

    id: str
    workspace: Label
    tool: Label
    slot: int
    status: str
    persistent: bool
    paused: bool = False
    error: str = ""
    protection: Label = "off"
    protection_note: Label = ""  # why it is not locked, or what is special about the lock
    warnings: tuple[str, ...] = ()  # settings of the config and the project's own file that have no effect, and why
    session_id: Label = ""
    created_at: Label = ""
    image: Label = ""
    profile: Label = ""
    deadline: Label = ""
    name: Label = ""  # given by a person
    mode: Label = "mount"  # or "clone": the workspace is a clone in the container
    engine: str = ""  # the name of the Incus remote in the config, "" for this host
    member: str = ""  # the cluster member that has the container
    unreachable_since: str = ""  # RFC 3339; engine or member cannot be reached, and the other fields are of that time
    pinned: bool = False  # a person wants it at the top of lists
    muted: bool = False  # no notification is sent for its tool
    rang_at: str = ""  # when the terminal's bell last rang in this run
    settings: PrivateLabel = ""  # what the creation set beyond the config, as JSON, for later starts too
    guest: PrivateLabel = ""  # the user in the container, and the path of the workspace there: a `Guest` as JSON
    command: PrivateLabel = ""  # identifies the `clincus run` process, if the container was made for one command
    tool_row: PrivateLabel = ""  # the description of a tool that is not in TOOLS, for `session_tool`, as JSON
    network: PrivateLabel = ""  # what it may reach, in the form of the feature of this name
    logins: PrivateLabel = ""  # what it borrows, in the form of the feature of this name; it gets no copy of a login
    nesting: PrivateLabel = ""  # whether containers can run in it, in the form of the feature of this name
    outside: PrivateLabel = ""  # files that a person put outside the workspace, for `outside_files`
    run: PrivateText = ""  # Incus's time of the last start, which identifies the run

    @property
    def started_at(self) -> str:
        """The time of the last start (RFC 3339), "" for never."""
        started = parse_time(self.run)
        return "" if started is None else format_time(started)

    @property
    def has_open_network(self) -> bool:
        """True if its programs may reach everything. An unreadable label means that they may not."""
        try:
            return not self.network or parse_json(self.network).get("mode", "open") == "open"
        except (ValueError, AttributeError):
            return False

    def document(self) -> dict[str, object]:
        """The session object of the API."""
        hidden = PRIVATE_FIELDS if self.error else {*PRIVATE_FIELDS, "error"}
        shown = {key: value for key, value in self._asdict().items() if key not in hidden}
        return {"started_at": self.started_at, **shown}


LABELS = [name for name, kind in Session.__annotations__.items() if kind in ("Label", "PrivateLabel")]
PRIVATE_FIELDS = {name for name, kind in Session.__annotations__.items() if kind in ("PrivateLabel", "PrivateText")}


def container_prefix(environ: Mapping[str, str]) -> str:
    """The start of every container's name."""
    return environ.get("CLINCUS_CONTAINER_PREFIX") or "clincus-"


def session_name(prefix: str, workspace: str, slot: int) -> str:
    """The container's name: prefix, first 6 hex digits of the workspace's SHA-256, slot."""
    return f"{prefix}{hashlib.sha256(os.fsencode(workspace)).hexdigest()[:6]}-{slot}"


NAME_LIMIT = 80  # characters of a person's name for a session


def check_name(name: str) -> str:
    """A person's name for a session, without spaces around it. Raises ClincusError(400)."""
    if len(name) > NAME_LIMIT or re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", name):
        words = f"at most {NAME_LIMIT} characters, none of them a control character"
        raise ClincusError(f"{shorten(name)} cannot be the name of a session: it may have {words}", 400)
    return name.strip()


ROW_FIELDS = ("saved", "unsaved", "conversation", "rules")


def tool_row(tool: Tool) -> str:
    """The row of a tool that is not in the table, to keep it with the instance: the config may change. Else ""."""
    if tool.name in TOOLS or not tool.name:
        return ""
    return json.dumps({"start": tool.start[:1], **some_fields(tool, ROW_FIELDS)})


def session_tool(session: Session) -> Tool:
    """A session's tool as it was when the session was started, so that no change of the config loses a conversation.

    Raises ClincusError(409) for a label that does not describe a tool.
    """
    if session.tool in TOOLS:
        return TOOLS[session.tool]
    try:
        return tool_from_row(session.tool, parse_json(session.tool_row or "{}"))
    except (ValueError, TypeError, AttributeError):
        words = f'"{session.id}": its label {LABEL}tool_row describes no tool: correct or unset it'
        raise ClincusError(words, 409) from None


def row_by_config(name: str, config: Config) -> str:
    """The `tool_row` of a tool in a config, by name. "" for a tool of the table, and for one that the config lacks."""
    if not name or name in TOOLS:
        return ""
    return tool_row(all_tools(config).get(name, NO_TOOL))


def plain_row(label: str) -> str:
    """The part of a `tool_row` from another host that is safe to use: the paths of files to save.

    Its patterns are not used. They would be matched against names and screens that a container chooses, and a bad
    pattern with a bad text can take for ever.
    """
    try:
        row = as_object(parse_json(label or "{}"))
        check = list_of(check_relative_path)
        kept = {name: check(row[name]) for name in ("saved", "unsaved") if name in row}
    except ValueError:
        return ""
    return json.dumps(kept) if kept else ""


def tmux_name(id: str, *, shell: bool = False) -> str:
    """The name of the tmux session of a session's tool, or of the shell beside it."""
    return f"clincus-shell-{instance_name(id)}" if shell else f"clincus-{instance_name(id)}"


def session_slot(prefix: str, name: str) -> int | None:
    """The slot in a session's name, None if the name is not ours. The Go program's names with 8 digits count too."""
    match = re.fullmatch(re.escape(prefix) + r"(?:[0-9a-f]{6}|[0-9a-f]{8})-([1-9][0-9]?)", name)
    return int(match[1]) if match else None


def incus_status(instance: Mapping[str, Any]) -> str:
    """Incus's word for the state of an instance. Ready becomes Running: root in a guest can choose between the two.

    (https://linuxcontainers.org/incus/docs/main/dev-incus/, PATCH of /1.0.)
    """
    status = str(instance.get("status", ""))
    return "Running" if status == "Ready" else status


PROTECTION_LEVELS = ("locked", "basic", "off", "broken")


def session_from_instance(
    prefix: str, instance: Mapping[str, Any], engine: str, row_of: Callable[[str], str] = lambda tool: ""
) -> Session | None:
    """Read a session from an instance of an engine; None if neither its name nor a label says that it is ours.

    The API shows sessions for which `is_session` holds; the command line shows others too. `row_of` gives the
    `tool_row` of a tool by name.
    """
    slot = session_slot(prefix, instance["name"])
    config = instance.get("config") or {}
    if slot is None and (engine or config.get(LABEL + "managed") != "true"):
        return None
    labels = read_labels(config, engine, row_of)
    workspace = labels["workspace"]
    default_tool = "claude" if workspace and not labels["command"] else ""
    status = "Stopped" if config.get(ASLEEP) else incus_status(instance)
    location = instance.get("location")
    fields: dict[str, Any] = {
        **labels,
        "id": session_id_on(engine, instance["name"]),
        "engine": engine,
        "member": "" if location in (None, "none") else str(location),
        "tool": labels["tool"] or default_tool,
        "slot": slot or 0,
        "status": STATUS.get(status, "stopped"),
        # A container without a workspace counts as persistent, so that no clean-up deletes it.
        "persistent": config.get(LABEL + "persistent") == "true" or not workspace,
        "pinned": config.get(LABEL + "pinned") == "true",
        "muted": config.get(LABEL + "muted") == "true",
        "paused": status in {"Frozen", "Freezing"},
        "error": "Incus reports an error in this container; `incus info` says more." if status == "Error" else "",
        "protection": labels["protection"] if labels["protection"] in PROTECTION_LEVELS else "basic",
        "warnings": tuple((config.get(LABEL + "warnings") or "").splitlines()),
        "session_id": labels["session_id"] or instance["name"],
        # A clone that passed for a mounted folder would be deleted without a question.
        "mode": "mount" if labels["mode"] in ("", "mount") else "clone",
        "created_at": str(labels["created_at"] or config.get(LABEL + "created") or instance.get("created_at") or ""),
        "image": labels["image"] or config.get("image.description") or "",
        "run": instance.get("last_used_at") or "",
    }
    return Session(**fields)


def read_labels(config: Mapping[str, str], engine: str, row_of: Callable[[str], str]) -> dict[str, str]:
    """The labels of an instance by the fields of `Session`.

    Labels lead to files of this host, but other people write the labels on another host. There a label that is not a
    plain name counts as absent, and the tool is the one that `row_of` finds for its name.
    """
    labels = {label: sys.intern(config.get(LABEL + label) or "") for label in LABELS}  # sessions share most values
    if engine:
        for label in ("tool", "session_id"):
            if not re.fullmatch(WORD, labels[label]):
                labels[label] = ""
        labels["tool_row"] = row_of(labels["tool"]) or plain_row(labels["tool_row"])
    return labels


OUTSIDE_NAMES = 50  # how many paths outside its workspace a session remembers
OUTSIDE_LIMIT = 4000  # characters of these paths together


def outside_files(label: str) -> tuple[int, list[str]]:
    """The number of files that a person put outside a session's workspace, and the paths of the newest, oldest first.

    The label is `Session.outside`. A broken one, as an engine may have it, counts as empty.
    """
    if len(label) > 2 * OUTSIDE_LIMIT:
        return 0, []
    try:
        kept = parse_json(label or "{}")
        paths = [path for path in kept.get("paths", []) if isinstance(path, str) and path.startswith("/")]
        count = min(int(kept.get("count", 0)), LOSS_COUNT)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return 0, []
    return max(len(paths), count), paths[-OUTSIDE_NAMES:]


def with_outside_file(label: str, path: str) -> str:
    """The label with one more path. A path that it has already counts once."""
    count, paths = outside_files(label)
    if path not in paths:
        count += 1
    kept = [other for other in paths if other != path] + [path]
    kept = kept[-OUTSIDE_NAMES:]
    while len(kept) > 1 and len(json.dumps(kept)) > OUTSIDE_LIMIT:
        kept.pop(0)
    return json.dumps({"count": count, "paths": kept})


def add_outside_file(incus: Incus, id: str, path: str) -> None:
    """Note on a session's container that a person put a file outside its workspace. Raises IncusError."""
    instance = incus.instance(id) or {"config": {}}
    label = with_outside_file(instance["config"].get(f"{LABEL}outside", ""), path)
    incus.query(incus.path(id), "PATCH", {"config": {f"{LABEL}outside": label}}, wait=True)


LABEL_LIMIT = 256 << 10  # characters of a label
UNREADABLE = "?"  # replaces a label that is too long or not a text: an absent one may permit more, as for the network


def plain_instances(found: object) -> list[dict[str, Any]]:
    """The instances of an answer that have the form in which Incus describes them.

    Another host may answer anything. An instance of another form is left out, and a label that is not a text or is too
    long becomes UNREADABLE: this affects one session and not the list. Raises IncusError(503) if the answer is not a
    list.
    """
    if not isinstance(found, (list, tuple)):
        raise IncusError(f"a list of instances was asked for, and the answer is {shorten(found)}", 503)
    return list(filter(None, map(plain_instance, found)))


def plain_instance(found: object) -> dict[str, Any] | None:
    """An instance as in `plain_instances`, None for a value of another form."""
    if not isinstance(found, Mapping):
        return None
    config = found.get("config") or {}
    is_plain = isinstance(found.get("name"), str) and isinstance(found.get("status"), str)
    if not is_plain or not isinstance(config, Mapping):
        return None
    instance: dict[str, Any] = {"name": found["name"], "status": found["status"]}
    for key in ("location", "created_at", "last_used_at"):
        if isinstance(found.get(key), str):
            instance[key] = found[key]
    labels = {}
    for key, text in config.items():
        if text is not None:
            is_readable = isinstance(text, str) and len(text) <= LABEL_LIMIT
            labels[key] = text if is_readable else UNREADABLE
    instance["config"] = labels
    return instance


def kept_settings(session: Session) -> dict[str, Any]:
    """The settings beyond the config of a session's creation, by dotted key. ClincusError(409) for a bad label."""
    try:
        settings = parse_json(session.settings or "{}")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ClincusError(f'"{session.id}": its label {LABEL}settings is not a JSON object: correct or unset it', 409)
    return settings


RUNNING_INSTANCES = "/1.0/instances?filter=status%20eq%20Running%20or%20status%20eq%20Ready"  # returns their paths
# The keys that `session_from_instance` reads; the others, 60 KB an instance, are dropped while the answer is parsed.
READ_KEY = re.compile(rf"{LABEL}.*|name|status|config|location|created_at|last_used_at|image\.description").fullmatch


def session_labels(session: Session) -> dict[str, str]:
    """The labels of an instance from which `session_from_instance` reads a session."""
    labels: dict[str, str] = {
        **some_fields(session, LABELS),
        "managed": "true",
        "persistent": "true" if session.persistent else "false",
        "pinned": "true" if session.pinned else "",
        "muted": "true" if session.muted else "",
        "warnings": "\n".join(session.warnings),
    }
    return {LABEL + label: value for label, value in labels.items() if value}


def is_session(session: Session) -> bool:
    """True if the API shows a session: it has a name of our form and a workspace, and is not for one command only."""
    return bool(session.slot and session.workspace) and not session.command


# -- The registry: the known state of all sessions

# The lifecycle actions that may change an instance. Others (exec, snapshots) are frequent and change nothing here.
LOOK_AFTER = re.compile(
    "instance-(created|renamed|(re)?started|resumed|paused|stopped|shutdown|deleted|restored|updated|migrated)"
)


class Change(NamedTuple):
    """A change that the registry reports to its listener.

    `kind` is `started`, `resumed` (from a pause: no new run), `stopped` (also: deleted), `rang`, `deleted`, or
    `changed` for anything else that the listing shows. `time` is RFC 3339.
    """

    kind: str
    session: Session
    time: str


def record_run(history: History, change: Change, report: Callable[[str], None]) -> None:
    """Record a start or a stop of a session in the history. A failure is only reported."""
    session = change.session
    if change.kind not in ("started", "stopped") or not is_session(session):
        return
    run = Run(
        session_id=session.session_id,
        id=session.id,
        workspace=session.workspace,
        tool=session.tool,
        started_at=change.time,
        ended_at=change.time if change.kind == "stopped" else None,
        persistent=session.persistent,
    )
    try:
        history.record(run)
    except ClincusError as error:
        report(error.message)


class LastAnswers:
    """The last answer to a question about a run of each session. It is valid for some seconds, however many ask."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._locks: dict[str, threading.Lock] = {}
        self._answers: dict[str, tuple[str, float, Any]] = {}  # session -> its run, time.monotonic, answer

    def get(self, session: Session, ask: Callable[[], Any]) -> Any:
        """The answer. It is asked for again if the last one is too old. Raises what `ask` raises."""
        with self._locks.setdefault(session.id, threading.Lock()):
            run, at, answer = self._answers.get(session.id, ("", float("-inf"), None))
            if run != session.run or time.monotonic() - at >= self._seconds:
                answer = ask()
                self._answers[session.id] = (session.run, time.monotonic(), answer)
            return answer


class Place(NamedTuple):
    """The state of one engine in the registry."""

    unreachable_since: str = ""  # RFC 3339, "" while it can be reached
    lost: Mapping[str, str] = {}  # the cluster members that are down -> since when
    others: frozenset[str] = frozenset()  # the names, as ids, of its instances that are not shown


class Record(NamedTuple):
    """The state of one session in the registry."""

    incus: Session | None = None  # as Incus reports it
    question: int = 0  # the last question about it that was answered
    reserved: Session | None = None  # it is being created here
    busy: str = ""  # starting | stopping, while work is in progress here
    run: Session | None = None  # the run whose start was reported, and whose stop was not
    shown: Session | None = None  # as it is listed, and was last reported


def step(record: Record, place: Place, when: str) -> tuple[Record, list[Change]]:
    """A record after a fact has changed it or its place, with the session to show now, and the changes to report. Pure.

    The record takes its state from Incus, and work in progress here overrides that. `when` is the time of the fact (RFC
    3339).
    """
    before = record.shown
    now = record.incus or record.reserved
    if now is not None:
        lost_since = place.unreachable_since or place.lost.get(now.member, "")
        now = now._replace(status=record.busy or now.status, unreachable_since=lost_since)
    known = now or before
    run = record.run
    changes: list[Change] = []
    is_settled = now is None or now.status in ("running", "stopped")  # else it is on its way to one of the two
    if known is not None and is_settled:
        run, changes = run_changes(run, known, now, when)
    if now is not None:
        now = now._replace(rang_at="" if run is None else run.rang_at)
        if now == before:
            now = before  # an equal one stays: its texts are shared with what is listed
        elif not changes:
            has_rung = before is not None and before._replace(rang_at=now.rang_at) == now
            changes.append(Change("rang" if has_rung else "changed", now, when))
    elif before is not None:
        changes.append(Change("deleted", before._replace(status="stopped"), when))
    return record._replace(run=run, shown=now), changes


def run_changes(
    run: Session | None, known: Session, now: Session | None, when: str
) -> tuple[Session | None, list[Change]]:
    """The run that continues, and the changes: the end of the last `run`, its resume from a pause, a new one's start.

    `known` is the last known state of the session, and `now` its state, None if it is gone.
    """
    changes: list[Change] = []
    is_live = now is not None and (now.status == "running" or now.paused)
    live = now if is_live else None
    is_over = run is not None and (live is None or live.run != run.run)
    was_deleted = run is None and now is None and known.status != "starting"  # a stopped session was deleted
    if is_over or was_deleted:
        stopped = known._replace(status="stopped", paused=False, rang_at="")
        changes.append(Change("stopped", stopped, when if live is None else live.started_at))
        run = None
    if live is None:
        return None, changes
    live = live._replace(rang_at="" if run is None else run.rang_at)
    if live.status == "running" and run is None:
        changes.append(Change("started", live, live.started_at or when))
    elif live.status == "running" and run is not None and run.paused:
        changes.append(Change("resumed", live, when))
    return live, changes


def is_lost(instance: Mapping[str, Any] | None, session: Session | None, members: Collection[str]) -> bool:
    """True if Incus does not know the state of an instance now: its member is down, or only its name is known."""
    if session is not None and session.member in members:
        return True
    return instance is not None and instance["status"] == "Error" and not instance["config"]


class Registry:
    """All sessions of all engines, for the listing and the event stream: both read the same state.

    A session is a `Record`; `step` decides what a fact changes. `compare_all` and `compare_one` merge Incus's answers,
    whatever they were asked for. `on_change` gets each change once, in order, and only when the listing shows it.
    `shows` selects the sessions to list, and `row_of` gives the `tool_row` of a tool on an engine.
    """

    def __init__(
        self,
        prefix: str,
        on_change: Callable[[Change], None],
        shows: Callable[[Session], bool] = is_session,
        row_of: Callable[[str], str] = lambda tool: "",
    ) -> None:
        self.prefix = prefix
        self._row_of = row_of
        self._shows = shows
        self._on_change = on_change
        self._lock = threading.RLock()  # held while changes are reported, which keeps their order
        self.questions = itertools.count(1)  # numbers the questions to Incus; the answer to the latest one counts
        self._records: dict[str, Record] = {}  # by id
        self._places: dict[str, Place] = {}  # by engine

    def _record(self, id: str) -> Record:
        return self._records.get(id) or Record()

    def _place(self, engine: str) -> Place:
        return self._places.get(engine) or Place()

    def _note(self, id: str, record: Record, when: str = "") -> None:
        """Keep a record that a fact has changed, and report what that changes. The caller holds the lock."""
        record, changes = step(record, self._place(engine_of(id)), when or utc_now())
        self._records[id] = record
        for change in changes:
            self._on_change(change)

    def read(self, instance: Mapping[str, Any], engine: str) -> Session | None:
        """The session of an instance, as `session_from_instance`; None also for a document of another form."""
        plain = plain_instance(instance)
        return None if plain is None else session_from_instance(self.prefix, plain, engine, self._row_of)

    def all(self) -> list[Session]:
        """Every session, oldest first. It never waits, not even while a change is being reported."""
        records = self._records.copy()  # in one step, even while another thread changes it
        shown = [record.shown for record in records.values() if record.shown is not None]
        return sorted(shown, key=lambda session: (session.created_at, session.id))

    def find(self, id: str) -> Session | None:
        """One session, None for an unknown id."""
        return self._record(id).shown

    def get(self, id: str) -> Session:
        """One session. Raises ClincusError(404)."""
        session = self.find(id)
        if session is None:
            raise ClincusError(f'session "{id}" not found', "session_not_found")
        return session

    def compare_all(
        self, question: int, engine: str, found: object, *, when: str = "", lost: Collection[str] = ()
    ) -> None:
        """Merge an engine's answer to a question for all its instances, and report the changes.

        `when` is the time of the answer (RFC 3339), now if empty. `lost` names cluster members that are down. Their
        sessions keep the last known state, since Incus 6.0.4 may report only their names. Raises IncusError(503) if the
        answer is no list.
        """
        instances = {session_id_on(engine, instance["name"]): instance for instance in plain_instances(found)}
        sessions = {id: self._session(instance, engine) for id, instance in instances.items()}
        shown = {id for id, session in sessions.items() if session is not None}
        with self._lock:
            place = self._place(engine)
            members = {member: place.lost.get(member) or when or utc_now() for member in lost}
            self._places[engine] = place._replace(lost=members, others=frozenset(instances.keys() - shown))
            known = {id for id, record in self._records.items() if record.incus and record.incus.engine == engine}
            for id in sorted(known | shown):
                session = sessions.get(id)
                self._merge(question, id, session, when, is_lost=is_lost(instances.get(id), session, lost))

    def compare_one(
        self,
        question: int,
        id: str,
        instance: Mapping[str, Any] | None,
        *,
        when: str = "",
        lost: Collection[str] = (),
    ) -> None:
        """As `compare_all`, for the instance with the name of one session; None: there is none.

        `when` is the time of the event that caused the question.
        """
        engine = engine_of(id)
        instance = plain_instance(instance)
        if instance is not None and session_id_on(engine, instance["name"]) != id:
            instance = None  # another host may answer anything
        session = None if instance is None else self._session(instance, engine)
        with self._lock:
            place = self._place(engine)
            others = place.others - {id}
            if instance is not None and session is None:
                others |= {id}
            members = {**dict.fromkeys(lost, when or utc_now()), **place.lost}
            self._places[engine] = place._replace(lost=members, others=others)
            self._merge(question, id, session, when, is_lost=is_lost(instance, session, lost))

    def _session(self, instance: Mapping[str, Any], engine: str) -> Session | None:
        """The session of a plain instance, None if it is not shown."""
        session = session_from_instance(self.prefix, instance, engine, self._row_of)
        return session if session is not None and self._shows(session) else None

    def _merge(self, question: int, id: str, session: Session | None, when: str, *, is_lost: bool) -> None:
        """Merge the answer for one id; None: it is gone. It has no effect if a later question was answered before."""
        record = self._record(id)
        if record.question < question:
            record = record._replace(question=question)
            is_kept = record.incus is not None and (is_lost or record.incus == session)
            if not is_kept:
                record = record._replace(incus=session)
        self._note(id, record, when)

    def agrees(self, engine: str, paths: Iterable[str]) -> bool:
        """True if exactly those sessions of an engine run whose paths in Incus's API are given."""
        if not all(isinstance(path, str) for path in paths):
            return False  # another host may answer anything
        names = {path.rpartition("/")[2].partition("?")[0] for path in paths}
        ours = {session_id_on(engine, name) for name in names if session_slot(self.prefix, name) is not None}
        reachable = [session for session in self.all() if session.engine == engine and not session.unreachable_since]
        # Incus only knows the names of instances on a lost member.
        others = {id for id in self._place(engine).others if self.find(id) is None}
        return ours - others == {session.id for session in reachable if session.status == "running"}

    def set_unreachable(self, engine: str, since: str) -> None:
        """Note that an engine is unreachable since a time (RFC 3339), or with "" that it is reachable."""
        with self._lock:
            self._places[engine] = self._place(engine)._replace(unreachable_since=since)
            for session in [session for session in self.all() if session.engine == engine]:
                self._note(session.id, self._record(session.id))

    def forget(self, engine: str) -> None:
        """Stop showing the sessions of an engine that is no longer in the config. They run on."""
        with self._lock:
            gone = [session for session in self.all() if session.engine == engine]
            self._places.pop(engine, None)
            self._records = {id: record for id, record in self._records.items() if engine_of(id) != engine}
            for session in gone:
                self._on_change(Change("changed", session, utc_now()))

    def reserve(self, draft: Session, slot: int, taken: Collection[str]) -> Session:
        """Give a new session a name and a slot, and show it as `starting` until `end_work`.

        `slot` 0 means the lowest free one; `taken` are names that Incus refused. Raises ClincusError(409), also if the
        conversation has a container already: two containers would overwrite each other's copy on the host.
        """
        with self._lock:
            sessions = self.all()
            for other in sessions:
                if other.session_id == draft.session_id:
                    words = f'session "{other.session_id}" still has its container: resume "{other.id}"'
                    raise ClincusError(words, 409)
            place = (draft.engine, draft.workspace)
            used = {session.slot for session in sessions if (session.engine, session.workspace) == place}
            names = {*taken, *self._place(draft.engine).others, *(session.id for session in sessions)}
            for candidate in [slot] if slot else SLOTS:
                id = session_id_on(draft.engine, session_name(self.prefix, draft.workspace, candidate))
                if candidate not in used and id not in names:
                    session = draft._replace(id=id, slot=candidate, created_at=utc_now())
                    self._note(id, self._record(id)._replace(reserved=session, busy="starting"))
                    return session
        if slot:
            raise ClincusError(f"slot {slot} of this workspace is in use: choose another, or 0 for any", "slots_in_use")
        raise ClincusError(
            f"all {len(SLOTS)} slots of this workspace are in use: delete a session first", "slots_in_use"
        )

    def is_reserved(self, id: str) -> bool:
        """True while a session that `reserve` named is being created."""
        return self._record(id).reserved is not None

    def begin_work(self, id: str, status: str) -> None:
        """Show `starting` or `stopping` until `end_work`, whatever Incus reports meanwhile."""
        with self._lock:
            self._note(id, self._record(id)._replace(busy=status))

    def shows_result_of_work(self, id: str) -> bool:
        """True if Incus reports the wanted state: running after `starting`, stopped or gone after `stopping`."""
        record = self._record(id)
        now = record.incus
        if record.busy == "starting":
            return now is not None and now.status == "running"
        return now is None or (now.status == "stopped" and not now.paused)

    def end_work(self, id: str) -> None:
        """Show a session as Incus last reported it."""
        with self._lock:
            record = self._record(id)
            if record.busy:
                self._note(id, record._replace(busy="", reserved=None))

    def ring(self, id: str, moment: datetime) -> None:
        """The bell of a session's terminal rang. It is reported once a second at most."""
        when = format_time(moment)
        with self._lock:
            record = self._record(id)
            if record.run is not None and record.run.rang_at != when:
                self._note(id, record._replace(run=record.run._replace(rang_at=when)), when)


# -- From a request to an instance


class LaunchRequest(NamedTuple):
    """The request to create a session. For an empty field, the config decides."""

    workspace: str
    tool: str = ""
    persistent: bool | None = None
    image: str = ""
    profile: str = ""
    slot: int = 0
    name: str = ""  # given by a person
    resume: str = ""  # the id of a saved session whose conversation continues in the new container
    settings: Mapping[str, object] = {}  # by dotted key; they override the config, including its profile
    environment: Mapping[str, str] = {}
    debug: bool = False  # a shell instead of the tool
    tmux: bool = True  # False: the caller runs the tool in its own terminal, by `guest/shell.sh`
    command: str = ""  # identifies a process that runs one command in the container, instead of a tool
    prompt: str = ""  # the first prompt, which the tool gets as an argument
    mode: str = ""  # "mount" or "clone"; see `launch_mode` for an empty one
    branch: str = ""  # where a clone starts; empty: at what is checked out, with its uncommitted changes
    engine: str = ""  # the name of an engine of the config, "" for this host
    target: str = ""  # a member of its cluster, or `@group`
    accept_changes: bool = False  # paths that were sealed at the last start may have changed since


class Guest(NamedTuple):
    """The user and the path of the workspace in a container, as its start decided: the config may change later."""

    uid: int
    user: str
    mount: str  # the path of the workspace

    @classmethod
    def configured(cls, config: Config, workspace: str) -> Guest:
        """The guest of a config. Its workspace is /workspace, or the host's own path if the config wants that."""
        uid = config.get("incus.code_uid")
        user = config.get("incus.code_user")
        if not workspace or not config.get("paths.preserve_workspace_path"):
            return cls(uid, user, "/workspace")
        taken = ("/root", f"/home/{user}", *SYSTEM_TREES, "/var")
        is_free = not any(path_inside(workspace, folder) for folder in taken)
        return cls(uid, user, workspace if is_free else "/workspace")

    @classmethod
    def of(cls, session: Session, config: Config) -> Guest:
        """The guest of a session's label; the config decides if there is no label. Raises ClincusError(409)."""
        if not session.guest:
            return cls.configured(config, session.workspace)
        try:
            uid, user, mount = parse_json(session.guest)
            is_guest = type(uid) is int and isinstance(user, str) and isinstance(mount, str)
        except (ValueError, TypeError):
            is_guest = False
        if not is_guest:
            words = f'"{session.id}": its label {LABEL}guest is not [uid, user, folder]: correct or unset it'
            raise ClincusError(words, 409)
        return cls(uid, user, mount)

    @property
    def home(self) -> str:
        """The home directory of the code user."""
        return "/root" if self.user == "root" else f"/home/{self.user}"

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of every command of the code user."""
        return {"HOME": self.home, "USER": self.user, "LANG": "C.UTF-8", **more}


class Launch(NamedTuple):
    """A request with the config applied: everything that the start of a session needs to know."""

    request: LaunchRequest
    config: Config
    warnings: tuple[str, ...]  # of the project's own file
    draft: Session  # the session without its name and slot
    guest: Guest
    tool: Tool
    mounts: Sequence[MountEntry]


NO_TOOL = Tool("", (), ())  # of a container for one command
LATE_DEVICES = "late"  # the key of a `LateDevices` in the description of a start; Incus does not get it


class LateDevices(NamedTuple):
    """Devices that a container gets beside the start of its tool: Incus waits a second for a device of type `proxy`.

    The container starts without them, so they may only add to what it needs, and take nothing away.
    """

    devices: Mapping[str, Mapping[str, str]] = {}
    program: str = ""  # of guest/: waits in the container until they work, and fails if they do not


def plan_launch(request: LaunchRequest, config: Config, environ: Mapping[str, str], extensions: Extensions) -> Launch:
    """Check a request and apply the config to it. Raises ClincusError(400) before anything exists."""
    general = config
    engine = config.get("engines").get(request.engine, {})
    # The flags come first: an untrusted project's choice of a profile must not change a limit that they set.
    config = with_flags(config, request.settings, request.profile)
    resumed = find_saved(config, environ, request.resume) if request.resume else None
    mode = launch_mode(request, resumed)
    if request.engine and mode == "mount":
        workspace = far_workspace(request.workspace, request.engine, engine.get("roots", []))
    else:
        workspace = resolve_workspace(request.workspace, expand("~", environ), private_paths(general, environ))
        for adapt in extensions.workspace_configs:
            config = adapt(config, environ, workspace)
    guest = Guest.configured(config, workspace)
    tool = launch_tool(request, config, resumed)
    draft = Session(
        id="",
        workspace=workspace,
        tool=tool.name,
        slot=0,
        status="starting",
        persistent=config.get("defaults.persistent") if request.persistent is None else request.persistent,
        session_id=resumed.session_id if resumed else new_session_id(),
        image=request.image or engine.get("image") or config.get("defaults.image"),
        engine=request.engine,
        profile=request.profile,
        name=check_name(request.name) or (resumed.name if resumed else ""),
        mode=mode,
        deadline=run_deadline(config),
        settings=json.dumps(request.settings, sort_keys=True) if request.settings else "",
        guest=json.dumps(guest),
        command=request.command,
        tool_row=tool_row(tool),
    )
    warnings = tuple(warning for warning in config.warnings if warning not in general.warnings)
    mounts = mount_entries(config.get("mounts.default"), environ, guest.mount)
    if mounts and request.engine:
        mounts = []
        warnings = (*warnings, "mounts.default is left out: its folders are on another host")
    return Launch(request, config, warnings, draft, guest, tool, mounts)


def private_paths(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Clincus's own files and directories on this host, which no workspace may contain."""
    saved = [sessions_directory(config, environ, tool) for tool in all_tools(config)]
    folders = [os.path.dirname(path) for path in user_configs(environ)]
    return [state_directory(environ), *folders, *config_files(environ), *saved]


def launch_mode(request: LaunchRequest, resumed: SavedSession | None) -> str:
    """The mode of a new session: as requested, or as the resumed conversation had it; by default engines clone."""
    if request.mode:
        return request.mode
    if resumed:
        return resumed.mode
    return "clone" if request.engine else "mount"


def launch_tool(request: LaunchRequest, config: Config, resumed: SavedSession | None) -> Tool:
    """The tool of a new session. Raises ConfigError for an unknown one, ClincusError(400) if it takes no prompt."""
    default = resumed.tool if resumed else config.get("tool.name")
    if request.command:
        tool = NO_TOOL
    elif request.debug:
        tool = find_tool("shell", config)
    else:
        tool = find_tool(request.tool or default, config)
    if request.prompt and not tool.prompt:
        raise ClincusError(f'the tool "{tool.name}" takes no prompt at its start: type it once it runs', 400)
    return tool


def new_session_id() -> str:
    """A random id for a session."""
    import uuid

    return str(uuid.uuid4())


def run_deadline(config: Config) -> str:
    """When a run that starts now has to end (RFC 3339), "" for never."""
    runtime = config.get("limits.runtime")
    seconds = parse_duration(runtime["max_duration"] or "0") if runtime["auto_stop"] else 0
    if not seconds:
        return ""
    return format_time(datetime.now(timezone.utc) + timedelta(seconds=seconds))


def describe_session(
    session: Session, launch: Launch, protection: protect.Protection
) -> tuple[Session, dict[str, Any]]:
    """The description (InstancePut) with which `incus launch` makes a session's container, and the session. Pure."""
    session = session._replace(
        protection=protection.level,
        protection_note="; ".join(filter(None, (protection.reason, protection.note))),
        warnings=launch.warnings,
    )
    # Incus must not start a container after a reboot: it would run without its tool. It stays stopped, to be resumed.
    config = {"boot.autostart": "false", **protection.config, **session_labels(session)}
    return session, {"config": config, "devices": {**protection.devices}}


# The names of our devices, for instances of the Go program: they have no label that lists them.
OUR_DEVICE = r"workspace|mount-\d+|protect-.*-[0-9a-f]{6}|root"

# Every start sets these keys again. All other keys of an instance (image.*, volatile.*, a person's own) stay.
OWNED_KEYS = (
    "limits.",
    "raw.",
    "security.",
    "boot.",
    *(LABEL + label for label in ("devices", "warnings", "slowed", *LABELS)),
)


def foreign_devices(instance: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The devices of an instance that no start of ours added: a person's own, and those of its profiles."""
    devices = instance.get("expanded_devices") or instance["devices"]
    return without_our_devices(instance, devices)


def without_our_devices(
    instance: Mapping[str, Any], devices: Mapping[str, dict[str, str]]
) -> dict[str, dict[str, str]]:
    """Some devices of an instance, without those that its last start added."""
    label = instance["config"].get(LABEL + "devices")
    if label:
        ours = label.split()
    else:
        ours = [name for name in devices if re.fullmatch(OUR_DEVICE, name)]
    return {name: device for name, device in devices.items() if name not in ours}


def redescribe_instance(instance: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """An existing instance with today's description instead of the one that it was created with (for PUT).

    Keys and devices that somebody else added stay. So does somebody else's root disk, except for its limits.
    """
    new = dict(description["devices"])
    others = without_our_devices(instance, instance["devices"])
    if "root" in others:
        limits = {key: value for key, value in new.pop("root", {}).items() if key.startswith("limits.")}
        own = {key: value for key, value in others["root"].items() if not key.startswith("limits.")}
        others["root"] = {**own, **limits}
    kept = {key: value for key, value in instance["config"].items() if not key.startswith(OWNED_KEYS)}
    late = description.get(LATE_DEVICES, LateDevices()).devices
    config = {**kept, **description["config"], LABEL + "devices": " ".join([*new, *late]) or "-"}
    config = {key: value for key, value in config.items() if value}
    return instance_put(instance, config, {**others, **new})


def instance_put(
    instance: Mapping[str, Any], config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The document (InstancePut) that changes config and devices of an instance, and nothing else."""
    kept = {key: instance[key] for key in ("architecture", "description", "profiles")}
    return {**kept, "config": {**config}, "devices": {**devices}, "ephemeral": False, "stateful": False}


# -- Files that a start carries into a container


def conversation_files(tool: Tool, conversation: str) -> str:
    """A `find` command for the files of a conversation, whose names contain our id.

    A tool that saves nothing is always resumed: the command finds the file of its start. Files that guest/tool.sh has
    moved aside do not count.
    """
    has_our_id = tool.saved and any("{session}" in word for word in tool.start)
    name = f"*{conversation}*" if has_our_id else "*"
    places = " ".join(f'"$HOME"/{shlex.quote(path)}' for path in tool.saved or (STARTED_FILE,))
    return f"find {places} -type f -path {shlex.quote(name)} ! -name '*.aside-*'"


def shell_assignments(variables: Mapping[str, str]) -> str:
    """Assignments of variables, as lines for a shell."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items())


def start_files(
    launch: Mapping[str, str],
    environment: Mapping[str, str],
    chosen: Mapping[str, str] | None,
    defaults: Mapping[str, str] = {},
) -> list[ToolFile]:
    """Our own files in the code user's home; `launch` holds the variables of guest/tool.sh.

    `chosen` are a person's own variables, which get a file of their own. With None the file of an earlier start stays.
    `defaults` are for variables that neither the container nor `environment` has.
    """
    variables = shell_assignments(environment)
    for name, value in defaults.items():
        variables += f'[ -n "${{{name}:-}}" ] || {shell_assignments({name: value})}'
    variables += '[ ! -r "$HOME/.clincus/chosen" ] || . "$HOME/.clincus/chosen"\n'
    files = {
        "launch": (shell_assignments(launch), 0o600),
        "environment": (variables, 0o600),
        "tmux.conf": (packaged_text("guest/tmux.conf"), 0o600),
        "start": (guest_program("tool"), 0o700),
        "ring": (guest_program("ring"), 0o700),
    }
    if chosen is not None:
        files["chosen"] = (shell_assignments(chosen), 0o600)
    return [ToolFile(f".clincus/{name}", text.encode(), mode) for name, (text, mode) in files.items()]


# -- Containers

STOP_TIMEOUT = 30  # seconds that a guest has for a clean stop before it is killed
ASLEEP_PATIENCE = 20.0  # seconds that another server may take to read a stopped container
START_TIMEOUT = 120.0  # seconds that a start of the tool may take, and one more for each 4 MiB that are brought in
FIRST_LOOK = 8.0  # seconds for which a request waits for the first answer of Incus
STOP_WITHIN = 5.0  # seconds for the threads that follow Incus to end
END_AGAIN = 0.05  # seconds until the commands in a container whose start has failed are ended again


class Containers:
    """Describes, starts, stops and reads the containers of sessions, in one way for every caller."""

    def __init__(self, incus: Incus, registry: Registry, report: Callable[[str], None], extensions: Extensions) -> None:
        self.incus = incus
        self.registry = registry
        self.extensions = extensions
        self.report = report  # gets what a person should know although it stops nothing
        self.support: dict[str, protect.ProtectionSupport] = {}  # Incus project -> the abilities of the host there
        self.unlockable: dict[str, str] = {}  # workspace that cannot be locked -> the reason

    def create_or_start(
        self, session: Session, launch: Launch, before: Mapping[str, Any] | None = None, *, exposed: str = ""
    ) -> tuple[Session, LateDevices]:
        """Start a container with today's limits, mounts and protection: a new one, or the existing one `before`.

        `before` is the instance as Incus describes it. The result is the session with its protection and warnings, and
        what the container lacks yet. `exposed` is that of `protect_workspace`, as an earlier try found it. Raises
        NameTakenError; after any other failure a new container may exist, stopped.
        """
        with self._starting(session.id, launch, before) as start:
            session, description = self._describe(session, launch, exposed, before)
            try:
                start(description)
            except IncusError as error:
                if error.status != 500:
                    raise
                exposed = self._obstacle(error, session, launch, exposed)
            else:
                return session, description[LATE_DEVICES]
        if before is None:
            self.delete(session.id)
        again = before and self.incus.query(self.incus.path(session.id))
        return self.create_or_start(session, launch, again, exposed=exposed)

    def add_devices(self, id: str, devices: Mapping[str, Mapping[str, str]]) -> None:
        """Add devices to a container, which may run. Raises IncusError."""
        self.incus.query(self.incus.path(id), "PATCH", {"devices": devices}, wait=True)

    @contextmanager
    def _starting(
        self, id: str, launch: Launch, before: Mapping[str, Any] | None
    ) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Give the block a function that starts a container by its description; the client of a new one loads now."""
        if before is None:
            with self.incus.launching(id, launch.draft.image, target=launch.request.target) as give:
                yield functools.partial(self._create, launch.draft.image, give)
        else:
            yield functools.partial(self._start_again, id, before)

    def _create(self, image: str, give: Callable[[Mapping[str, Any]], None], description: Mapping[str, Any]) -> None:
        """Create and start a new container. Raises NameTakenError, and ClincusError(400) for an unknown image."""
        try:
            give({key: value for key, value in description.items() if key != LATE_DEVICES})
        except IncusError as error:
            if error.status == 409:
                raise NameTakenError(error.message, 409) from error
            if error.status == 404 and error.kind is FailureKind.NO_IMAGE:
                engine = self.incus.engine
                hint = f"`clincus engine add {engine}` copies it" if engine else "build it with `clincus build`"
                raise ClincusError(
                    f"image '{image}' not found: {hint}, or choose another", "image_not_found"
                ) from error
            raise

    def _start_again(self, id: str, before: Mapping[str, Any], description: Mapping[str, Any]) -> None:
        """Start the existing container `before`, with another description if that has changed."""
        description = redescribe_instance(before, description)
        if any(before.get(key) != value for key, value in description.items()):
            self.incus.update(id, description)
        self.start(id)

    def _obstacle(self, error: IncusError, session: Session, launch: Launch, exposed: str) -> str:
        """Find out why a start failed, so that the next try works with less protection; returns its `exposed`.

        Raises the reason if less protection would not help, or if that was tried already.
        """
        failure = protect.start_failure(self.incus, session.id, error)
        workspace = launch.draft.workspace
        if isinstance(failure, protect.WallUnsupportedError) and workspace not in self.unlockable:
            self.unlockable[workspace] = failure.message  # so the next try takes plain devices
            return exposed
        if isinstance(failure, protect.WallExposedError) and not exposed:
            return failure.message
        raise failure from error

    def start(self, name: str) -> None:
        """Start a container as it is, or unpause it. Raises IncusError."""
        self.incus.run("start", "--quiet", self.incus.place(name))

    def stop(self, name: str, timeout: int, *, is_second_try: bool = False) -> None:
        """Stop a container: cleanly within `timeout` seconds, else hard. It may already have stopped by itself."""
        how = ["--timeout", str(timeout)] if timeout > 0 else ["--force"]
        try:
            self.incus.run("stop", *how, self.incus.place(name), timeout=max(timeout, 30) + 30)
        except IncusError as error:
            if error.kind in (FailureKind.IS_STOPPED, FailureKind.DONE_BY_OTHERS):
                return
            if timeout > 0:
                self.report(f"{name}: does not stop cleanly ({error}), stopping it hard")
                self.stop(name, 0)
            elif error.kind in (FailureKind.BUSY, FailureKind.NAME_WANTED) and not is_second_try:
                self.incus.wait_for_others(name)  # a label is being changed
                self.stop(name, 0, is_second_try=True)
            elif error.kind is FailureKind.STILL_RUNS and not is_second_try:
                self.stop(name, 0, is_second_try=True)
            else:
                raise

    def delete(self, name: str, *, even_running: bool = True, is_second_try: bool = False) -> None:
        """Delete a container; somebody else may delete it too. Raises IncusError, also if it runs and may not."""
        force = ["--force"] if even_running else []
        try:
            self.incus.run("delete", *force, self.incus.place(name), timeout=120)
        except IncusError as error:
            has_failed_late = even_running and error.status == 500
            if has_failed_late and (self.incus.instance(name) or {}).get("status") == "Stopped":
                self.delete(name, even_running=False)  # it has stopped, and its disk was too full for the next step
            elif error.kind in (FailureKind.BUSY, FailureKind.NAME_WANTED) and not is_second_try:
                self.incus.wait_for_others(name)  # a label is being changed
                self.delete(name, even_running=even_running, is_second_try=True)
            elif error.status != 404 and error.kind is not FailureKind.DONE_BY_OTHERS:
                raise

    @contextmanager
    def opened_for_reading(self, name: str) -> Iterator[None]:
        """Run a stopped container with one sleeping process, without workspace and network, to read its files.

        No program of the container is started. `incus file pull` cannot read a hostile container: it follows
        links, and a named pipe blocks every later start.
        """
        before = self.incus.query(self.incus.path(name))
        config = before["config"]
        if before["status"] not in ("Stopped", "Error") or ASLEEP in config:
            raise ClincusError(f"{name} is {before['status']} by now: look at it, then try again", 409)
        settings = {key: value for key, value in config.items() if not key.startswith("raw.")}
        if "limits.processes" in settings:
            settings["limits.processes"] = "100"  # a guest may have died of too few; `sleep` is its own, and may fork
        changed = {key: value for key, value in config.items() if settings.get(key) != value}
        mark = {"since": utc_now(), "config": {"raw.lxc": "", **changed}, "devices": before["devices"]}
        settings["raw.lxc"] = f"lxc.init.cmd = sleep {LIST_WITHIN + SAVE_WITHIN + 120:.0f}\n"
        settings[ASLEEP] = json.dumps(mark)
        devices = {}
        for key, device in before["expanded_devices"].items():
            if device.get("path") == "/":  # without its quota: Incus starts no container with a full disk
                devices[key] = {option: value for option, value in device.items() if option != "size"}
            else:
                devices[key] = {"type": "none"}
        try:
            self.incus.update(name, instance_put(before, settings, devices))
            self.start(name)
            yield
        finally:
            try:
                self.put_back(name)
            except IncusError as error:  # the next work on it puts it back
                self.report(f"{name}: still has the settings with which it was read: {error}")

    def put_back(self, name: str, patience: float = 0) -> None:
        """Stop a container that was `opened_for_reading`, and restore its own settings. Raises IncusError.

        A killed server may have left it in that state. Another server may still read it: it has `patience` seconds.
        """
        while True:
            found = self.incus.instance(name)
            if found is None or ASLEEP not in found["config"]:
                return
            before = json.loads(found["config"].pop(ASLEEP))
            since = parse_time(before["since"])
            if since is None:
                break
            age = (datetime.now(timezone.utc) - since).total_seconds()
            if not 0 <= age < patience:
                break
            time.sleep(0.2)
        if found["status"] not in ("Stopped", "Error"):
            self.stop(name, 0)
        config = {key: value for key, value in {**found["config"], **before["config"]}.items() if value}
        self.incus.update(name, instance_put(found, config, before["devices"]))

    def _describe(
        self, session: Session, launch: Launch, exposed: str, before: Mapping[str, Any] | None
    ) -> tuple[Session, dict[str, Any]]:
        """The instance description for a start now, and the session with its protection and warnings."""
        support = self._support(launch.draft.workspace, before)
        protection = self._protect(session, launch, support, exposed)
        if protection.reason:
            self.report(f"{session.id}: protection is {protection.level}: {protection.reason}")
        session, description = describe_session(session, launch, protection)
        config = description["config"]
        for key in protect.SHARED_KEYS:
            if key in support.profile_config:
                config.setdefault(key, support.profile_config[key])
        for add in self.extensions.instance_parts:
            add(self.incus, session, launch, description)
        late = description.setdefault(LATE_DEVICES, LateDevices())
        config[LABEL + "devices"] = " ".join([*description["devices"], *late.devices]) or "-"
        warnings = tuple(config.get(LABEL + "warnings", "").splitlines())
        session = session._replace(warnings=warnings, logins=config.get(LABEL + "logins", ""))
        for warning in dict.fromkeys((*launch.config.warnings, *session.warnings)):
            self.report(f"{session.id}: {warning}")
        return session, description

    def _support(self, workspace: str, before: Mapping[str, Any] | None) -> protect.ProtectionSupport:
        """The abilities of the host for a workspace, and for an existing instance `before`."""
        project = self.incus.project
        if project not in self.support:
            self.support[project] = protect.protection_support(self.incus)
        support = self.support[project]
        reason = self.unlockable.get(workspace)
        if before is not None:
            expanded = before.get("expanded_config", {})
            of_profiles = {key: value for key, value in expanded.items() if key not in before["config"]}
            reason = reason or protect.why_calls_stay(of_profiles)
            folders = protect.disk_sources(foreign_devices(before).values())
            support = support._replace(profile_folders=tuple(folders))
        if not reason:
            return support
        # If the workspace's file system cannot map ids, a disk device cannot either.
        shift = support.shift and protect.NO_ID_MAPS not in reason
        return support._replace(reason=reason, shift=shift, takes_hooks=not support.reason)

    def _protect(
        self, session: Session, launch: Launch, support: protect.ProtectionSupport, exposed: str
    ) -> protect.Protection:
        """The mounts of a session's instance; see `protect_workspace`."""
        path = launch.draft.workspace
        workspaces = {path}
        for known in self.registry.all():
            if known.workspace and not known.engine:
                workspaces.add(known.workspace)
        engine = self.incus.engine if session.mode == "mount" else ""
        extra = []
        for host, container, readonly in launch.mounts:
            extra.append(protect.host_folder(real_mount(host, workspaces), container, readonly))
        is_clone = session.mode == "clone"
        target = launch.guest.mount
        workspace = protect.workspace_folder(path, target, launch.config, engine, extra, is_clone=is_clone)
        stage = hashlib.sha256(f"{session.session_id} {session.id}".encode()).hexdigest()[:16]  # the same at each start
        return protect.protect_workspace(
            workspace,
            launch.config,
            support,
            extra,
            stage,
            is_clone=is_clone,
            session=session.id,
            exposed=exposed,
        )


# -- Engines


class Reach(NamedTuple):
    """The reachability of an engine."""

    since: str  # when that last changed (RFC 3339)
    error: str = ""  # why it cannot be reached, "" if it can


class Engine:
    """All of one Incus: its door and its containers, whether it can be reached, and the stream that a server follows.

    The name of this host's is ""; all others are remotes in the config.
    """

    def __init__(self, name: str, row: object, containers: Containers) -> None:
        self.name = name
        self.row = row  # its table in the config
        self.containers = containers
        self.incus = containers.incus  # the door
        subject = f"engine {name}: it" if name else "Incus"
        self.silence = f"{subject} does not answer: check the incus service"
        self.reach = Reach(utc_now())  # replaced by `note_reach` and `date_back` only
        self.on_reach: Callable[[str, str], object] = lambda engine, error: None  # gets each change of `reach`
        self.looked = threading.Event()  # set when the first look has succeeded or failed
        self.stopping = threading.Event()
        self.thread: threading.Thread | None = None  # of a server, which follows the engine
        self.stream: Child | None = None  # its `incus monitor`
        self.is_stale = False  # the events of `stream` are not wanted any more
        self.label_lock = threading.Lock()  # held while a label of an instance is read, changed and written

    def require(self) -> None:
        """Raise ClincusError(503) if it cannot be reached. The first requests wait for the first look."""
        reason = self.reach.error if self.looked.wait(FIRST_LOOK) else self.silence
        if reason:
            raise ClincusError(reason, "incus_unreachable")

    def note_reach(self, error: str) -> None:
        """Note that it can be reached, or the reason why not: for its door, its sessions and `on_reach`."""
        before = self.reach
        has_changed = bool(error) != bool(before.error)
        self.reach = Reach(utc_now() if has_changed else before.since, error)
        if not self.stopping.is_set():
            self.containers.registry.set_unreachable(self.name, self.reach.since if error else "")
        self.incus.lost = error
        self.looked.set()
        if error == before.error:
            return
        where = f"engine {self.name}" if self.name else "Incus"
        if error:
            log.warning("%s cannot be reached: %s", where, error)
        else:
            log.info("%s is reached again", where)
        self.on_reach(self.name, error)

    def date_back(self, since: str) -> None:
        """Note that an engine that cannot be reached was last seen at a time (RFC 3339), before this server started."""
        self.reach = self.reach._replace(since=min(self.reach.since, since))
        self.containers.registry.set_unreachable(self.name, self.reach.since)

    def lose(self, leaving: str = "") -> None:
        """Treat it as lost until it is reached again: it does not answer, or it is `leaving` and ends the stream."""
        self.note_reach(leaving or self.silence)
        if not leaving:
            self._end_stream()

    def reconnect(self) -> None:
        """Follow it again, for another project. Requests wait for its first look."""
        self.looked.clear()
        self._end_stream()

    def begin_stop(self) -> None:
        """Ask the thread that follows it, and its stream, to end."""
        self.stopping.set()
        self._end_stream()

    def stop(self, timeout: float = STOP_WITHIN) -> None:
        """End the thread and the stream; wait up to `timeout` seconds for the thread."""
        self.begin_stop()
        if self.thread is not None:
            self.thread.join(timeout)

    def _end_stream(self) -> None:
        self.is_stale = True
        if self.stream is not None:
            self.stream.signal(signal.SIGTERM)


def stop_engines(engines: Collection[Engine]) -> None:
    """Stop following engines. They get STOP_WITHIN seconds together, since the times of several hanging ones add up."""
    for engine in engines:
        engine.begin_stop()
    end = time.monotonic() + STOP_WITHIN
    for engine in engines:
        engine.stop(max(0.0, end - time.monotonic()))


# -- The life of sessions


def is_hosts_fault(error: Exception) -> bool:
    """True if a save failed because of this host (a full disk, a missing right): a person can fix it and try again."""
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError)


CALLED_OFF = "the session is being ended: try again when it has stopped"


class SaveResult(enum.Enum):
    """How a save of a conversation ended."""

    DONE = "done"
    FAILED = "failed"
    BUSY = "busy"  # somebody else works on the session, so nothing was saved


def talk_asks_guest(sessions: Sessions, session: Session) -> bool:
    """True if only its container knows whether a conversation is saved."""
    if not session_tool(session).saved:
        return False
    is_at_rest = session.status == "stopped" and not session.paused
    return not (is_at_rest and is_copy_of_last_run(sessions.saved(session), session.started_at))


def unsaved_talk(sessions: Sessions, session: Session) -> dict[str, Loss]:
    """The files of a conversation that this host lacks, or has in an older version. Raises ClincusError."""
    if not talk_asks_guest(sessions, session):
        return {"conversation": Loss()}
    saved = sessions.saved(session)
    if session.engine:
        check_own_copy(saved)
    command = functools.partial(sessions.door(session.id).open, session.id)
    paths = unsaved_files(command, sessions.guest(session).home, saved, session_tool(session))
    return {"conversation": Loss.of(paths)}


def with_conversation(unsaved: Unsaved, talk: Unsaved) -> Unsaved:
    """The losses of a session, with those of its conversation."""
    reasons = dict.fromkeys(filter(None, (unsaved.unknown, talk.unknown)))
    return Unsaved({**unsaved.found, "conversation": talk.found["conversation"]}, "; ".join(reasons))


# `Sessions.end` keeps the conversation by its own save, so this one copies nothing.
CONVERSATION = Keeper(("conversation",), talk_asks_guest, unsaved_talk, lambda *_: [])


def refusal_words(session: Session, unsaved: Unsaved) -> str:
    """The words of UnsavedError for a session, with what to do."""
    reasons = []
    if unsaved.words:
        reasons.append(f"this host does not have {unsaved.words}")
    if unsaved.unknown:
        reasons.append(f"what its container holds cannot be known ({unsaved.unknown})")
    losses = [unsaved.found.get(kind) for kind in ("commits", "uncommitted")]
    can_fetch = any(loss is not None and loss.number for loss in losses)
    fetch = f"bring commits here with `clincus fetch {session.id}`, or " if can_fetch else ""
    return f'"{session.id}" is kept: {"; ".join(reasons)}. To go on, {fetch}use force, which keeps a copy here first'


class BackgroundCall(threading.Thread):
    """Calls a function in a thread of its own, with the context of its caller, and so with its Patience.

    The end of the process waits for it, unless a thread that it does not wait for has begun it, or it `only_reads`.
    """

    def __init__(self, work: Callable[[], object], name: str = "", *, only_reads: bool = False) -> None:
        super().__init__(name=name or None, daemon=only_reads or None)
        self._work = work
        self._context = contextvars.copy_context()
        self._result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Call it."""
        try:
            self._result = self._context.run(self._work)
        except BaseException as error:
            self.error = error

    def finish(self) -> Any:
        """Wait for its end, and return its result. Raises its error."""
        self.join()
        if self.error is not None:
            raise self.error
        return self._result


class WorkInProgress:
    """The work that this process does on sessions: one piece on each at a time."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.RLock] = {}  # id -> the lock of a session that was worked on
        # id of a session with work in progress -> the number of the latest question, and the instance that it returned.
        self._latest: dict[str, tuple[int, dict[str, Any]]] = {}
        self._latest_lock = threading.Lock()
        self._until_end: dict[str, Patience] = {}  # id -> work that an end of the session calls off
        self._ending: set[str] = set()  # ids of sessions that are being ended

    @contextmanager
    def held(self, id: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a session's lock. Without `wait`, the block gets False at once if another thread holds it."""
        lock = self._locks.setdefault(id, threading.RLock())
        is_held = lock.acquire(blocking=wait)
        try:
            yield is_held
        finally:
            if is_held:
                lock.release()

    def begin(self, id: str) -> None:
        """Work on a session begins: from now on the latest answer about its instance is kept."""
        self._latest[id] = (-1, {})

    def note(self, id: str, question: int, instance: dict[str, Any]) -> None:
        """Keep the instance of a session with work in progress, unless this answers an older question.

        The monitor asks too, so an older answer may arrive later.
        """
        with self._latest_lock:
            newest = self._latest.get(id)
            if newest is not None and question > newest[0]:
                self._latest[id] = (question, instance)

    def instance(self, id: str) -> dict[str, Any]:
        """The instance of a session with work in progress, as Incus described it last."""
        return self._latest[id][1]

    def finish(self, id: str) -> None:
        """Work on a session has ended."""
        with self._latest_lock:
            self._latest.pop(id, None)

    @contextmanager
    def until_end(self, id: str) -> Iterator[None]:
        """Let an end of the session call off the work of the block. The caller has the session's lock."""
        with patient() as patience:
            self._until_end[id] = patience
            try:
                if id in self._ending:
                    patience.call_off(CALLED_OFF)
                yield
            finally:
                self._until_end.pop(id, None)

    @contextmanager
    def ending(self, id: str) -> Iterator[None]:
        """Call off work `until_end`, also if it begins while the block runs: the end of a session saves by itself."""
        self._ending.add(id)
        try:
            work = self._until_end.get(id)
            if work is not None:
                work.call_off(CALLED_OFF)
            yield
        finally:
            self._ending.discard(id)

    def is_ending(self, id: str) -> bool:
        """True if a session is being ended."""
        return id in self._ending


class SessionContext:
    """The parts that all work on sessions shares: the config, the registry, the engines, and the work in progress."""

    def __init__(
        self,
        incus: Incus,
        registry: Registry,
        load: Callable[[], Config],
        environ: Mapping[str, str],
        *,
        report: Callable[[str], None] | None = None,
        extensions: Extensions | None = None,
    ) -> None:
        self.registry = registry
        self.environ = environ
        self.load = load  # returns the config in force
        self.report = report or log.warning  # gets what a person should know although it stops nothing
        self.extensions = extensions or Extensions()
        self.engines: dict[str, Engine] = {}  # by name, this host's first; replaced, not changed
        self._engines_lock = threading.RLock()
        self._add_engine("", incus)
        self.in_progress = WorkInProgress()
        self.half_made: dict[str, Session] = {}  # id -> a session whose container stayed after a failed start

    def _add_engine(self, name: str, incus: Incus) -> None:
        row = self.load().get("engines").get(name) if name else None
        containers = Containers(incus, self.registry, self.report, self.extensions)
        self.engines = {**self.engines, name: Engine(name, row, containers)}

    def engine(self, name: str) -> Engine:
        """An engine by its name. Raises ClincusError(404) if the config does not have it."""
        with self._engines_lock:
            if name not in self.engines:
                self._add_engine(name, engine_door(self.load(), name))
            return self.engines[name]

    def forget_engine(self, name: str) -> None:
        """Stop showing the sessions of an engine; they run on. The next question for it reads the config again."""
        with self._engines_lock:
            self.engines = {other: engine for other, engine in self.engines.items() if other != name}
        self.registry.forget(name)

    @property
    def incus(self) -> Incus:
        """The door to the Incus of this host."""
        return self.engines[""].incus

    def containers(self, id: str) -> Containers:
        """The containers of a session's engine. Raises ClincusError(404) if the config has no such engine."""
        return self.engine(engine_of(id)).containers

    def door(self, id: str) -> Incus:
        """The door to a session's engine. Raises ClincusError(404) if the config has no such engine."""
        return self.engine(engine_of(id)).incus

    def is_silent(self, id: str) -> bool:
        """True if the last command in a session's container took too long."""
        return instance_name(id) in self.door(id).silent


class SessionWork(SessionContext):
    """Looks at sessions, and holds one for work on it. Calls that work on one session wait for each other."""

    def refresh(self, engine: str, timeout: float = 30, *, whole: bool = True) -> None:
        """Ask an engine for all its sessions, in one call. Raises IncusError.

        Without `whole`, ask only which instances run (34 bytes each). If the registry agrees, stop; else ask for
        everything (60 KB each).
        """
        question = next(self.registry.questions)
        incus = self.engine(engine).incus.fresh_door()
        if not whole and self.registry.agrees(engine, incus.query(RUNNING_INSTANCES, timeout=timeout)):
            return
        answer = incus.query("/1.0/instances?recursion=1", timeout=timeout, kept=READ_KEY)
        instances = plain_instances(answer or [])
        self.registry.compare_all(question, engine, instances, lost=lost_members(incus, instances))

    def look(self, id: str, when: str = "") -> Session | None:
        """Ask Incus for one session; None if it is gone or not ours. `when` is that of `Registry.compare_one`."""
        question = next(self.registry.questions)
        incus = self.containers(id).incus
        instance = incus.instance(id)
        if instance is None:
            self.registry.compare_one(question, id, None, when=when)
            return None
        lost = lost_members(incus, [instance])
        self.registry.compare_one(question, id, instance, when=when, lost=lost)
        self.in_progress.note(id, question, instance)
        return self.registry.read(instance, incus.engine)

    @contextmanager
    def held(self, id: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a session, as `WorkInProgress.held`. Raises ClincusError(404)."""
        self.registry.get(id)  # an unknown id gets no lock
        with self.in_progress.held(id, wait=wait) as is_held:
            yield is_held

    @contextmanager
    def work(self, id: str, status: str, *, beside: threading.Thread | None = None) -> Iterator[Session]:
        """Hold a session for work on it and show `status` meanwhile. Raises ClincusError: 404, 409 while it starts.

        A thread `beside` is started once the session is held: the first look waits for Incus.
        """
        with self.held(id):
            session = self.registry.get(id)
            if session.status not in {"running", "stopped"}:
                raise ClincusError(f'session "{id}" is {session.status}: wait until that has finished', "session_busy")
            self.registry.begin_work(id, status)
            with self._looking_at_the_end(id):
                self.in_progress.begin(id)
                if beside is not None:
                    beside.start()
                found = self.look(id)  # the registry may be out of date, since others work with Incus too
                if ASLEEP in self.in_progress.instance(id).get("config", {}):
                    self.containers(id).put_back(id, ASLEEP_PATIENCE)
                    found = self.look(id)
                if found is None:
                    raise ClincusError(f'session "{id}" not found', "session_not_found")
                yield found

    @contextmanager
    def _looking_at_the_end(self, id: str) -> Iterator[None]:
        """Look at a session when the work on it has ended, and then show it as it is.

        The look is skipped if an event has already shown the state that the work aims at.
        """
        try:
            yield
            if not self.registry.shows_result_of_work(id):
                self.look(id)
        except BaseException:
            with suppress(ClincusError):
                self.look(id)
            raise
        finally:
            self.in_progress.finish(id)
            self.registry.end_work(id)  # even if Incus did not answer


class GuestCommands(SessionWork):
    """Runs commands in the containers of sessions, as their code user."""

    def guest(self, session: Session) -> Guest:
        """The user of a session's container, and the path of the workspace there."""
        return Guest.of(session, self.load())

    def run(self, session: Session, command: Sequence[str], **more: Any) -> Completed:
        """Run a command in a running session as its code user; `more` as in `Incus.exec`."""
        guest = self.guest(session)
        door = self.door(session.id)
        return door.exec(session.id, command, user=guest.uid, environment=guest.environment(), **more)

    def open(
        self, session: Session, programs: str, *arguments: str, front: str = "", as_root: str = "", **options: Any
    ) -> AbstractContextManager[tuple[GuestInput, BufferedReader]]:
        """Run programs of guest/ as the code user; a `with` block gets their stdin and stdout, as from `Incus.open`.

        Root runs the program `as_root` before them, in the same command: a command of its own would cost a start some
        40 ms.
        """
        guest = self.guest(session)
        words = guest_command(programs, *arguments, front=front)
        user = guest.uid
        if as_root:
            words = guest_command("as-user", str(user), *words, front=as_root)
            user = 0
        door = self.door(session.id)
        return door.open(session.id, words, user=user, environment=guest.environment(), **options)

    def output(
        self, session: Session, programs: str, *arguments: str, refusals: Mapping[int, Exception] = {}, **more: Any
    ) -> bytes:
        """Run programs of guest/ and return their output; `more` as in `run`.

        Raises what `refusals` has for an exit code, and IncusError for any other but 0.
        """
        done = self.run(session, guest_command(programs, *arguments), **more)
        if done.code in refusals:
            raise refusals[done.code]
        if done.code != 0:
            raise self.door(session.id).guest_failure(session.id, done)
        return done.stdout

    def guest_argv(self, session: Session, program: str, *arguments: str, term: str) -> list[str]:
        """The command line that runs a program of `guest_program` as the code user, in a terminal of the type `term`.

        The caller starts the process.
        """
        guest = self.guest(session)
        words = ["sh", "-c", program, "clincus", *arguments]
        variables = guest.environment(TERM=term)
        door = self.door(session.id)
        return door.exec_argv(session.id, words, user=guest.uid, environment=variables, terminal=True)

    def terminal_argv(
        self, session: Session, how: str = "mouse", *, shell: bool = False, term: str = "xterm-256color"
    ) -> list[str]:
        """The command that attaches a pty of the type `term` to a session's tmux: the tool's, or that of a shell.

        Both outlive their clients; the shell ends when a person exits it. `how` is `watch` (read-only), `mouse`, or
        `own-mouse`: only programs in tmux get the mouse, if they ask for it. The client keeps wheel and selection, and
        shows older output from `scrollback`.
        """
        name = tmux_name(session.id, shell=shell)
        words = [name, self.guest(session).mount, how, guest_program("shell")]
        return self.guest_argv(session, guest_program("attach"), *words, term=term)


class ConversationSaves(GuestCommands):
    """Saves the conversations of sessions on this host."""

    def saved(self, session: Session) -> SavedSession:
        """The description of this host's copy of a session's conversation."""
        same = ("session_id", "tool", "workspace", "persistent", "slot", "image", "profile", "name", "mode")
        return SavedSession(
            **some_fields(session, same),
            directory=session_directory(self.load(), self.environ, session.tool, session.session_id),
            container_name=session.id,
            tool_session_id=session.session_id,
        )

    def saved_directory(self, session: Session) -> str:
        """The directory for a session's conversation."""
        return self.saved(session).directory

    def save(self, id: str, *, wait: bool = True) -> SaveResult:
        """Save a session's conversation now. An end of the session cancels the save.

        Without `wait`, a session with work in progress is left alone: BUSY. Raises ClincusError(404).
        """
        with self.held(id, wait=wait) as is_held:
            if not is_held:
                return SaveResult.BUSY
            with self.in_progress.until_end(id):
                error = self._try_save(self.registry.get(id), may_be_called_off=True)
        return SaveResult.DONE if error is None else SaveResult.FAILED

    def _try_save(
        self, session: Session, *, ends_tool: bool = False, within: float = SAVE_WITHIN, may_be_called_off: bool = False
    ) -> Exception | None:
        """As `_save`, if there is anything to save. A failure is reported and returned, not raised."""
        try:
            if not self._needs_save(session):
                return None
            notes = self._save(session, ends_tool=ends_tool, within=within)
        except UnsettledError as error:  # the next save will find the conversation unchanged
            return error
        except (ClincusError, OSError) as error:
            if may_be_called_off and self.in_progress.is_ending(session.id):
                return error
            tally("save", "failed")
            self.report(f"{session.id}: the conversation was not saved: {error}")
            return error
        tally("save", "done")
        for note in notes:
            self.report(f"{session.id}: {note}")
        return None

    def _needs_save(self, session: Session) -> bool:
        """False for a tool without conversations, a frozen container, and a stopped one whose last run was saved."""
        if not session_tool(session).saved or session.paused:
            return False
        is_at_rest = session.status == "stopped"
        return not (is_at_rest and is_copy_of_last_run(self.saved(session), session.started_at))

    def _save(self, session: Session, *, ends_tool: bool, within: float) -> list[str]:
        """Copy the tool's conversation to the host, `within` seconds; returns what a person should know.

        With `ends_tool`: first end the tool; after the copy give files that root made in the workspace to the
        workspace's owner. Raises ClincusError and OSError.
        """
        saved = self.saved(session)
        if session.engine:  # another host may claim any id
            check_own_copy(saved)
        is_stopped = session.status == "stopped"
        guest = self.guest(session)
        with self.containers(session.id).opened_for_reading(session.id) if is_stopped else nullcontext():
            notes = save_conversation(
                functools.partial(self.door(session.id).open, session.id),
                guest.home,
                saved,
                session_tool(session),
                is_last=ends_tool or is_stopped,
                owner=(guest.mount, guest.uid) if ends_tool and not is_stopped else None,
                within=within,
            )
        if is_stopped:
            write_metadata(saved._replace(final=True))
        return notes


def login_program(extensions: Extensions, session: Session, launch: Launch) -> str:
    """The program with which root prepares a started container for the logins that its session borrows.

    Raises ClincusError.
    """
    kept_out = withheld(extensions, session, launch)
    stale = [path for path in launch.tool.credentials if path in kept_out]
    return "".join(call_each(extensions.lenders, session, launch.guest.home, stale))


def start_words(session: Session, launch: Launch, *, is_new: bool) -> list[str]:
    """The arguments of guest/start.sh. It lists the tool's files in the container, unless the container is new."""
    tool = launch.tool
    columns = "200"  # nobody watches yet: the first terminal brings its own size
    rows = "50"
    how = "tmux" if launch.request.tmux else "direct"
    listed = [] if is_new else [STARTED_FILE, UNPACKING_FILE, *tool.saved, *tool.credentials]
    return [tmux_name(session.id), launch.guest.mount, columns, rows, how, *listed]


def check_clone_is_complete(session: Session, present: Iterable[ListedFile]) -> None:
    """Raise ClincusError(409) for a clone whose first start did not finish. `present` are the tool's files in it."""
    if session.mode == "clone" and STARTED_FILE not in {file.path for file in present}:
        words = f'the clone of "{session.id}" is incomplete: its start was interrupted. Delete it, then start anew'
        raise ClincusError(words, 409)


def send_start_files(stdin: GuestInput, files: Sequence[ToolFile], uid: int) -> None:
    """Send the files of a start to guest/start.sh, which has more time for large ones."""
    size = sum(os.path.getsize(file.source) for file in files if file.source)
    stdin.allow(START_TIMEOUT + size / SEND_RATE)
    for piece in pack_files(files, uid, uid):
        stdin.write(piece)


class ToolStarts(ConversationSaves):
    """Starts the tool in a container that runs, with its files and its conversation."""

    def _start_tool(self, session: Session, launch: Launch, *, is_new: bool, has_begun: bool, waiter: str = "") -> None:
        """Unpack the tool's files and start it in tmux: one call, with all secrets on stdin.

        `has_begun` is True if the container has just been started. `waiter` is a program of guest/ that comes before
        the tool.
        """
        if launch.request.command:
            self.extensions.tell("sealed", session)
            if waiter:
                self.output(session, waiter)
            return
        if session.engine and not is_new:  # another host may claim any id, and would get the conversation of that id
            check_own_copy(self.saved(session))
        files: list[ToolFile] = []
        as_root = login_program(self.extensions, session, launch) if session.logins and has_begun else ""

        def meanwhile() -> None:
            """Work that would slow down the start anywhere else: here the client loads, and this process waits."""
            if has_begun:
                self.extensions.tell("sealed", session)
            if is_new:
                files.extend(self._start_files(session, launch, []))

        programs = f"wait-for-boot {waiter} start"
        words = start_words(session, launch, is_new=is_new)
        front = "".join(call_each(self.extensions.start_programs, launch))
        opened = self.open(
            session,
            programs,
            *words,
            front=front,
            as_root=as_root,
            timeout=START_TIMEOUT,
            meanwhile=meanwhile,
        )
        with opened as (stdin, stdout):
            if not is_new:
                present = read_listing(stdout)
                check_clone_is_complete(session, present)
                files.extend(self._start_files(session, launch, present))
            send_start_files(stdin, files, launch.guest.uid)
        write_metadata(self.saved(session))

    def _start_files(self, session: Session, launch: Launch, present: list[ListedFile]) -> list[ToolFile]:
        """The files that a start carries into the code user's home; `present` are the tool's files in there."""
        chosen = launch.request.environment
        kept_out = withheld(self.extensions, session, launch) if session.logins else []
        tool = without_credentials(launch.tool, kept_out)
        lent: dict[str, str] = {}
        for lend in self.extensions.lent_variables if session.logins else ():
            lent.update(lend(session))
        times = {file.path: file.mtime / 10**9 for file in present}
        is_new = STARTED_FILE not in times
        conversation, talk = self._conversation(session, launch, present)
        files, warnings = tool_files(
            tool,
            expand("~", self.environ),
            launch.guest.home,
            launch.guest.mount,
            launch.config,
            environment={**launch.config.environment, **chosen, **lent},
            present=None if is_new else times,
        )
        if CLAUDE_KEYS in kept_out:
            files = [without_claude_keys(file, lent) for file in files]
        for warning in warnings:
            self.report(f"{session.id}: {warning}")
        defaults: dict[str, str] = {}
        for variables in call_each(self.extensions.default_variables, session, launch):
            defaults.update(variables)
        own = start_files(
            self._launch_words(session, launch, conversation),
            tool_environment(tool, launch.config, self.environ, launch.guest.home),
            chosen if is_new or chosen else None,
            defaults,
        )
        if talk and conversation:
            files = [ToolFile(UNPACKING_FILE, b"until the start\n"), *files]
        of_features = itertools.chain(*call_each(self.extensions.guest_files, session))
        return [*files, *talk, *own, *of_features]

    def _conversation(
        self, session: Session, launch: Launch, present: list[ListedFile]
    ) -> tuple[str | None, list[ToolFile]]:
        """The id of the conversation that a start resumes, and its files if they have to be brought in."""
        tool = launch.tool
        choose = functools.partial(choose_conversation, tool, session.session_id, launch.guest.mount)
        paths = {file.path for file in present}
        conversation = None if UNPACKING_FILE in paths else choose(present)
        if STARTED_FILE in paths or conversation is not None:
            return conversation, []
        # A session that continues in a new container has its conversation on the host.
        directory = self.saved_directory(session)
        return choose(saved_listing(directory).values()), saved_files(tool, directory)

    def _launch_words(self, session: Session, launch: Launch, conversation: str | None) -> dict[str, str]:
        """The variables of guest/tool.sh."""
        tool = launch.tool
        known = conversation or session.session_id
        command = functools.partial(tool_command, tool, launch.config, session.session_id, environ=self.environ)
        prompt = launch.request.prompt
        asked = [word.replace("{prompt}", prompt) for word in tool.prompt] if prompt else []
        return {
            "workspace": launch.guest.mount,
            "tool": tool.name,
            "program": command(None)[0],
            "first": shlex.join([*command(conversation), *asked]),
            "again": shlex.join(command(known)),
            "afresh": shlex.join([*command(None), *asked]),
            "files": conversation_files(tool, known),
            "message": tool.message,
        }

    def _may_have_begun(self, session: Session) -> bool:
        """True if the tool of a new session has begun, or if its container does not answer the question."""
        place = f"{self.guest(session).home}/{BEGUN_FILE}", tmux_name(session.id)
        asked = '{ [ -e "$1" ] || tmux has-session -t "=$2" 2>/dev/null; } && echo yes || echo no'
        with suppress(ClincusError):
            return self.run(session, ["sh", "-c", asked, "sh", *place]).stdout != b"no\n"
        return True


class DeviceAttachment:
    """Adds late devices to a started container, beside the `with` block that starts its tool.

    If Incus refuses them, the commands that the block runs in the container end, and the block raises Incus's reason.
    The block need not wait for Incus: `LateDevices.program` has seen the devices work. If Incus fails after the block,
    the container of a new session goes.
    """

    def __init__(self, sessions: Sessions, session: Session, late: LateDevices, *, is_new: bool) -> None:
        """`is_new`: nobody holds the session yet, so it is held until Incus has ended: the next work waits for that."""
        self._sessions = sessions
        self._session = session
        self._late = late
        self._is_new = is_new
        self._lock = threading.Lock()  # guards the next two
        self._error: BaseException | None = None  # of Incus, before the end of the block
        self._is_started = False  # the block has ended, and has raised nothing
        self._over = threading.Event()
        self._thread: BackgroundCall | None = None

    def __enter__(self) -> DeviceAttachment:
        if self._late.devices:
            self._thread = BackgroundCall(self._hold_and_add, "adding devices")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._lock:
            self._over.set()
            self._is_started = kind is None
        if self._thread and not self._is_started:
            self._thread.join()  # the container is removed next
        if self._error not in (None, error):
            raise self._error from error

    def finish(self) -> None:
        """Wait for Incus, and raise its reason if it has refused."""
        self._over.set()
        if self._thread:
            self._thread.finish()

    def _hold_and_add(self) -> None:
        id = self._session.id
        try:
            with self._sessions.held(id) if self._is_new else nullcontext():
                self._sessions.containers(id).add_devices(id, self._late.devices)
        except BaseException as error:
            self._fail(error)  # holds nothing: the block may wait to hold the session
            raise

    def _fail(self, error: BaseException) -> None:
        id = self._session.id
        with self._lock:
            is_late = self._is_started
            if not is_late:
                self._error = error
        if is_late and self._is_new:
            self._sessions.report(f"{id}: its start has failed after all: {error}")
            self._sessions.remove_half_made(self._session, may_begin=not self._session.command)
        door = self._sessions.door(id)
        while not self._over.wait(END_AGAIN):
            door.end_commands(id, str(error))  # also one that has just begun to wait for the devices


class Sessions(ToolStarts):
    """The life of sessions. Every caller starts them in the same way and ends them in the same way."""

    def document(self, session: Session) -> dict[str, object]:
        """The session object of the API, with the fields of features."""
        return {**session.document(), **self.extensions.fields(session)}

    def plan(self, request: LaunchRequest) -> Launch:
        """Apply the current config to a request. Raises ClincusError(400)."""
        return plan_launch(request, self.load(), self.environ, self.extensions)

    def create(self, request: LaunchRequest) -> Session:
        """Create a session and start its tool; returns when it runs.

        Raises ClincusError: 400 for a bad request, 409 without a free slot, 500 with Incus's words. If anything fails
        or interrupts the start, its container is removed.
        """
        launch = self.plan(request)
        taken: set[str] = set()
        while True:
            session = self.registry.reserve(launch.draft, request.slot, taken)
            try:
                with self._looking_at_the_end(session.id):
                    self._launch(session, launch)
                return self._started(session.id)
            except NameTakenError:
                other = self.look(session.id)
                if other is not None and other.session_id == session.session_id:
                    raise ClincusError(
                        f'"{session.id}" has just continued this conversation: use that session, or stop it first', 409
                    ) from None
                if request.slot:
                    raise
                taken.add(session.id)

    def resume(self, id: str, request: LaunchRequest | None = None) -> Session:
        """Resume a stopped, paused or running session: its tool runs again, with its conversation if there is one.

        Only these fields of `request` may change between starts: settings, environment, debug and tmux.
        """
        with self.work(id, "starting") as found:
            is_stopped = found.status == "stopped" and not found.paused
            if found.workspace:
                try:
                    self._resume(found, request, is_stopped=is_stopped)
                except IncusError as error:  # a killed server may have begun a stop that is still in progress
                    self.door(id).wait_for_others(id)
                    now = self.look(id)
                    if now is None or now.status != "stopped" or (is_stopped and error.status != 409):
                        raise
                    self._resume(now, request, is_stopped=True)
            elif is_stopped or found.paused:
                self.containers(id).start(id)  # it has no tool of ours
        return self._started(id)

    def _resume(self, found: Session, request: LaunchRequest | None, *, is_stopped: bool) -> None:
        """Start the container of a session if it `is_stopped`, unpause it if it is paused, and start its tool."""
        self.half_made.pop(found.id, None)  # a person wants it
        before = self._adopted(found)
        launch = self.plan(self._again(before, request))
        self._check_resume(found, before, launch, is_stopped=is_stopped)
        self.extensions.tell("before_start", before)
        session = self._thawed(before)
        late = LateDevices()
        if is_stopped:  # if this fails, it stays stopped unless somebody else starts it
            renewed = ("deadline", "settings", "guest", "command", "tool_row", "persistent")
            changes = some_fields(launch.draft, renewed)
            instance = self.in_progress.instance(found.id)
            session, late = self.containers(found.id).create_or_start(session._replace(**changes), launch, instance)
        else:
            launch = launch._replace(guest=self.guest(session))
            if before is not found:
                incus = self.door(found.id)
                incus.run("config", "set", incus.place(found.id), f"{LABEL}session_id={before.session_id}")
        try:
            with DeviceAttachment(self, session, late, is_new=False) as adding:
                self._start_tool(session, launch, is_new=False, has_begun=is_stopped, waiter=late.program)
                adding.finish()
        except BaseException:
            if is_stopped:
                self.containers(found.id).stop(found.id, 0)
            raise

    def _check_resume(self, found: Session, before: Session, launch: Launch, *, is_stopped: bool) -> None:
        """Raise ClincusError(409) if a session cannot be resumed as planned. `before` is `found`, or `_adopted`."""
        if found.paused and self.document(found)["protection"] == protect.BROKEN:
            words = "something changed that your machine would run, so it is frozen until you decide"
            raise ClincusError(f'"{found.id}": {words} (clincus protection {found.id})', "session_frozen")
        target = launch.draft.workspace
        if is_stopped and before is found and target != before.workspace:  # a person chose the folder, not a link
            raise ClincusError(f'"{before.workspace}" is a link to "{target}" now: start a session there', 409)
        if launch.request.prompt and not is_stopped:
            raise ClincusError(f'"{found.id}" was started already: clincus prompt {found.id} types a prompt', 409)

    def end(
        self,
        id: str,
        *,
        delete: bool = False,
        keeps: bool = False,
        even_unsaved: bool = False,
        timeout: int = STOP_TIMEOUT,
        on_kept: Callable[[str], object] = lambda path: None,
    ) -> Session | None:
        """Save a session's conversation and stop its container, or delete it. There is no other way to end a session.

        A running guest gets `timeout` seconds for a clean stop, and is then stopped hard. A delete raises
        ClincusError(409) and keeps the container if somebody has started it meanwhile, and UnsavedError(409) if
        something would be lost with it (`keep`). With `keeps`, that is copied to this host first, and `on_kept` gets
        the path of each copy. `even_unsaved` does the same, and deletes even if not everything could be copied, unless
        that is the fault of this host. The result is the session that is left, None if the container is gone.

        A container that does not answer holds this up for END_PATIENCE in all, and one that sends data for END_WITHIN.
        """
        known = self.registry.get(id)
        may_lose_nothing = delete and not (keeps or even_unsaved)
        may_be_refused = known.status != "running" or may_lose_nothing
        with self.in_progress.ending(id), patient(END_PATIENCE, END_WITHIN), ExitStack() as held:
            here = contextvars.copy_context()  # the thread shares the patience
            telling = threading.Thread(target=here.run, args=(self.extensions.tell, "before_stop", known))
            beside = None if may_be_refused else telling
            found = held.enter_context(self.work(id, "stopping", beside=beside))
            was_stopped = known.status == "stopped" and not known.paused
            if delete and was_stopped and found.status == "running":
                problem = "because someone has started it meanwhile: look at it first"
                raise ClincusError(f'"{id}" was not deleted, {problem}', 409)
            session = self._awake(found)
            if may_lose_nothing:
                self.keep(session)
            if may_be_refused:
                telling.start()  # beside the save, since both mostly wait for Incus
            within = LAST_SAVE_WITHIN if session.status == "running" else SAVE_WITHIN
            error = self._try_save(session, ends_tool=True, within=within)
            telling.join()
            if delete:
                session, error = self._save_stopped(session, error)
                self._keep_before_delete(session, error, keeps=keeps, even_unsaved=even_unsaved, on_kept=on_kept)
            self._end_container(session, timeout, delete=delete, is_saved=error is None)
        return self.registry.find(id)

    def _end_container(self, session: Session, timeout: int, *, delete: bool, is_saved: bool) -> None:
        """Stop or delete the container of a session, once its conversation was saved as well as possible."""
        if not is_saved or not session_tool(session).saved:  # else the save has done this
            self._hand_over(session)
        if delete:
            self._delete(session)
        elif session.status == "running":
            self._stop(session, timeout, is_saved=is_saved)
        self.extensions.tell("after_stop", session)
        if delete:
            self.extensions.tell("after_delete", session)

    def _delete(self, session: Session) -> None:
        """Delete a session's container, and note that it is gone."""
        even_running = session.status == "running" or bool(session.error)
        self.containers(session.id).delete(session.id, even_running=even_running)
        self.registry.compare_one(next(self.registry.questions), session.id, None)

    def _save_stopped(self, session: Session, error: Exception | None) -> tuple[Session, Exception | None]:
        """Stop a container whose save failed with `error`, and save once more; returns the session and the new error.

        A guest that cannot be asked (out of processes, just shutting down) can be read once it has stopped.
        """
        if error is None or session.status != "running" or is_hosts_fault(error):
            return session, error
        self.containers(session.id).stop(session.id, 0)
        session = session._replace(status="stopped")
        return session, self._try_save(session, within=LAST_SAVE_WITHIN)

    def _keep_before_delete(
        self,
        session: Session,
        error: Exception | None,
        *,
        keeps: bool,
        even_unsaved: bool,
        on_kept: Callable[[str], object],
    ) -> None:
        """Raise UnsavedError if a delete would lose something. `error` is the last save's, the rest is as in `end`."""
        if error is not None and (not even_unsaved or is_hosts_fault(error)):
            words = f'"{session.id}" is kept, as it holds a conversation that is not saved: {error}'
            raise UnsavedError(words, Unsaved({"conversation": None}, str(error)))
        if keeps or even_unsaved:
            for path in self.keep(session, saves=True, insists=even_unsaved):
                on_kept(path)
        elif session.status == "running":  # the tool may have worked between the first look and its end
            self.keep(session)

    def _stop(self, session: Session, timeout: int, *, is_saved: bool) -> None:
        """Stop a running container. `is_saved`: its conversation was saved after its tool had ended."""
        graceful = self.load().get("limits.runtime.stop_graceful")
        self.containers(session.id).stop(session.id, timeout if graceful else 0)
        stopped = {**self.in_progress.instance(session.id), "status": "Stopped"}
        self.registry.compare_one(next(self.registry.questions), session.id, stopped)
        # The copy is final only now: in a container that runs on, the conversation could go on.
        if is_saved and session_tool(session).saved:
            with suppress(ClincusError):  # then the container is read again
                write_metadata(self.saved(session)._replace(final=True))

    def _hand_over(self, session: Session) -> None:
        """Give what root made in the workspace to its owner, if the session runs. A guest may fail to do it."""
        if session.status != "running" or not session.workspace:
            return
        guest = self.guest(session)
        command = guest_command("hand-over", guest.mount, str(guest.uid))
        with suppress(ClincusError):
            self.door(session.id).exec(session.id, command, timeout=HAND_OVER_WITHIN)

    def unsaved(self, session: Session) -> Unsaved:
        """The data that a session's container holds and this host lacks. Starts no container to find out.

        Only the container knows most of it, so it is unknown while the session does not run, or does not answer.
        """
        groups = ([CONVERSATION], self.extensions.keepers)  # each may wait for the container
        looks = [BackgroundCall(functools.partial(self._look, session, one), only_reads=True) for one in groups]
        talk, unsaved = [look.finish() for look in looks]
        return with_conversation(unsaved, talk)

    def unsaved_without_guest(self, session: Session, why: str) -> Unsaved:
        """The same as this host knows it alone. All that only the container knows is unknown, for the reason `why`."""
        unsaved = self._look(session, [CONVERSATION, *self.extensions.keepers], why)
        return unsaved._replace(pending=True)

    def _look(self, session: Session, keepers: Iterable[Keeper], why_not: str = "") -> Unsaved:
        """The losses that keepers find. With a reason `why_not`, the container is not asked."""
        if session.status != "running":
            why_not = why_not or f"the session is {'paused' if session.paused else session.status}"
        found: dict[str, Loss | None] = dict.fromkeys(LOSSES, Loss())
        reasons = []
        for keeper in keepers:
            reason = ""
            try:
                if why_not and keeper.asks_guest(self, session):
                    reason = why_not
                else:
                    found.update(keeper.look(self, session))
            except (ClincusError, OSError) as error:
                reason = str(error)
            if reason:
                found.update(dict.fromkeys(keeper.kinds))
                reasons.append(printable(reason))
        return Unsaved(found, "; ".join(dict.fromkeys(reasons)))

    def keep(self, session: Session, *, saves: bool = False, insists: bool = False) -> list[str]:
        """Look for what would be lost with a container's disk. Everything that deletes or rewinds one asks here first.

        The conversation is left out, since `end` saves it. A stopped container runs a sleeping process meanwhile.
        Raises UnsavedError(409) if anything would be lost or nobody knows. With `saves`, that is copied to this host,
        and the result is the paths of the copies; UnsavedError if not everything can be copied. With `insists`, the
        rest is only reported, and UnsavedError means a fault of this host.
        """
        with patient(END_PATIENCE, END_WITHIN), ExitStack() as held:
            readable = session
            try:
                readable = self._readable(session, held, saves=saves)
                unsaved = self._look(readable, self.extensions.keepers)
            except ClincusError as error:
                readable = session
                unsaved = Unsaved(dict.fromkeys(LOSSES), str(error))
            if unsaved.total == 0:
                return []
            if not saves:
                raise UnsavedError(refusal_words(session, unsaved), self._with_conversation(readable, unsaved))
            return self._copies(readable, unsaved, insists=insists)

    def _readable(self, session: Session, held: ExitStack, *, saves: bool) -> Session:
        """The session. If a stopped container has to be read, it runs until `held` ends, and the result says so."""
        if session.status != "stopped":
            return session
        keepers = self.extensions.keepers
        needs_guest = any(keeper.asks_guest(self, session) for keeper in keepers)
        if not needs_guest and not (saves and self._look(session, keepers).total):
            return session
        held.enter_context(self.containers(session.id).opened_for_reading(session.id))
        return session._replace(status="running", paused=False)

    def _with_conversation(self, session: Session, unsaved: Unsaved) -> Unsaved:
        """The losses with the conversation, for an answer."""
        return with_conversation(unsaved, self._look(session, [CONVERSATION]))

    def _copies(self, session: Session, unsaved: Unsaved, *, insists: bool) -> list[str]:
        copies: list[str] = []
        for keeper in self.extensions.keepers:
            losses = [unsaved.found[kind] for kind in keeper.kinds]
            if all(loss is not None and not loss.number for loss in losses):
                continue
            kinds = ", ".join(keeper.kinds)
            try:
                copies += keeper.keep(self, session, insists)
            except OSError as error:
                words = f'"{session.id}" is kept, as no copy can be written here ({kinds}): {error}'
                raise UnsavedError(words, unsaved) from error
            except ClincusError as error:
                if not insists:
                    words = f'"{session.id}" is kept, as not all of it can be copied ({kinds}): {error}'
                    raise UnsavedError(words, unsaved) from error
                self.report(f"{session.id}: what its container holds is lost ({kinds}): {error}")
        return copies

    def keep_files(self, session: Session, folder: str, paths: Sequence[str]) -> str:
        """Keep files of a running container as a tar beside its conversation; returns the path of the tar.

        Their paths are relative to `folder`, and root in the container reads them. Nothing is unpacked here. Raises
        ClincusError, and OSError for a fault of this host.
        """
        listed = b"".join(os.fsencode(path) + b"\0" for path in paths)

        def write(path: str) -> int:
            command = guest_command("keep-files", folder, str(len(listed)))
            with self.door(session.id).open(session.id, command, timeout=KEEP_PATIENCE) as (stdin, stream):
                stdin.write(listed)
                return receive_file(stdin, stream, path, limit=KEPT_FILES, patience=KEEP_PATIENCE)

        path, size = keep_beside(self.saved_directory(session), "tar", write)
        words = f"{len(paths)} paths of its container are kept ({size >> 10} KiB)"
        self.report(f"{session.id}: {words}: tar -xf {shlex.quote(path)} -C FOLDER")
        return path

    def _thawed(self, session: Session) -> Session:
        """Unpause a session if it is paused: a frozen guest can neither be read nor stop."""
        if not session.paused:
            return session
        self.containers(session.id).start(session.id)
        return session._replace(status="running", paused=False)

    def _awake(self, session: Session) -> Session:
        """As `_thawed`, before its end. If its seal came off, it is stopped hard: nothing in it may run any more."""
        if not session.paused or self.document(session)["protection"] != protect.BROKEN:
            return self._thawed(session)
        self.containers(session.id).stop(session.id, 0)
        return session._replace(status="stopped", paused=False)

    def _again(self, session: Session, request: LaunchRequest | None) -> LaunchRequest:
        """The request that a session was created with, with the changes of a new request."""
        new = request or LaunchRequest(session.workspace)
        if session.command:
            return new
        settings = {**kept_settings(session), **new.settings}
        same = some_fields(session, ("workspace", "tool", "persistent", "image", "profile", "mode", "engine"))
        return new._replace(settings=settings, **same)

    def _adopted(self, session: Session) -> Session:
        """A session with its id. A container of the Go program has none: it gets the one that it was saved under."""
        if session.session_id != session.id:
            return session
        place = (session.id, session.workspace, session.tool)
        for saved in list_saved(self.load(), self.environ):
            if (saved.container_name, saved.workspace, saved.tool) == place:
                return session._replace(session_id=saved.session_id)
        return session._replace(session_id=new_session_id())

    def _launch(self, session: Session, launch: Launch) -> None:
        """Create the container and start the tool.

        If that fails or is interrupted, nothing stays, unless the tool has begun: then it may have worked, and
        `half_made` has the session, for an end that keeps what would be lost.
        """
        self.extensions.tell("before_start", session)
        may_begin = False
        try:
            fills = [fill(self, session, launch.request) for fill in self.extensions.fillers]
            session, late = self.containers(session.id).create_or_start(session, launch)
            with DeviceAttachment(self, session, late, is_new=True):
                for bring_in in filter(None, fills):
                    bring_in(session)
                may_begin = not launch.request.command
                self._start_tool(session, launch, is_new=True, has_begun=True, waiter=late.program)
        except BaseException as error:
            if isinstance(error, NameTakenError) and launch.request.resume:
                raise  # the container may belong to somebody who resumes the same conversation
            self.remove_half_made(session, may_begin=may_begin)
            raise

    def remove_half_made(self, session: Session, *, may_begin: bool) -> None:
        """Delete the container of a failed start, unless its tool may have worked, or it belongs to another session."""
        try:
            made = self.look(session.id)
            if not made or (made.session_id, made.created_at) != (session.session_id, session.created_at):
                return
            if may_begin and self._may_have_begun(made):
                self.half_made[session.id] = session
                words = "its start failed after its tool had begun: its container goes once all in it is kept"
                self.report(f"{session.id}: {words}")
            else:
                self.containers(session.id).delete(session.id)
        except ClincusError as error:
            self.half_made[session.id] = session
            self.report(f"{session.id}: could not be removed after a failed start: {error}")

    def _started(self, id: str) -> Session:
        session = self.registry.get(id)
        self.extensions.tell("after_start", session)
        return session


# ----------------------------------------------------------------------------------------------------------------
# workspaces
# Workspace roots, the projects in them, new folders. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------

PROJECTS_PER_ROOT = 500  # nobody reads a longer list


class Workspaces:
    """The workspace roots of the config and the project directories in them."""

    def __init__(
        self, load: Callable[[], Config], environ: Mapping[str, str], sessions: Callable[[], list[Session]]
    ) -> None:
        self.load = load
        self.environ = environ
        self.sessions = sessions

    def document(self) -> dict[str, object]:
        """The answer of `GET /api/workspaces`."""
        roots = self._roots()
        active = Counter(session.workspace for session in self.sessions() if session.status != "stopped")
        projects = []
        is_cut = False
        for root in dict.fromkeys(roots.values()):
            folders = project_folders(root)
            is_cut = is_cut or len(folders) > PROJECTS_PER_ROOT
            for path in folders[:PROJECTS_PER_ROOT]:
                project = {
                    "path": path,
                    "name": os.path.basename(path),
                    "root": root,
                    "has_config": os.path.isfile(os.path.join(path, ".clincus.toml")),
                    "active_sessions": active[os.path.realpath(path)],
                }
                projects.append(project)
        expanded = list(roots.values())
        return {"roots": list(roots), "expanded_roots": expanded, "workspaces": projects, "truncated": is_cut}

    def with_root(self, path: str) -> list[str]:
        """The roots with one more. Raises ClincusError(400) if it is not an existing absolute directory."""
        target = os.path.realpath(self.check_root(path))
        roots = self._roots()
        if target in map(os.path.realpath, roots.values()):
            return list(roots)
        return [*roots, path]

    def without_root(self, path: str) -> list[str]:
        """The roots without one, which is given as configured or expanded. Raises ClincusError(400)."""
        roots = self._roots()
        target = roots.get(path) or expand(path, self.environ)
        kept = [root for root, expanded in roots.items() if root != path and expanded != target]
        if len(kept) == len(roots):
            raise ClincusError(f'"{path}" is not a workspace root: there is nothing to remove', 400)
        return kept

    def check_root(self, path: str) -> str:
        """A workspace root, expanded. Raises ClincusError(400) if it is not an existing absolute directory."""
        if not path.startswith(("/", "~")):
            raise ClincusError(f'workspace root "{path}" must be an absolute path, or begin with ~', 400)
        target = expand(path, self.environ)
        if not os.path.isdir(target):
            problem = "is not a directory" if os.path.exists(target) else "does not exist"
            raise ClincusError(f'workspace root "{path}" {problem}: make it, or choose another', "workspace_refused")
        return target

    def make_folder(self, root: str, name: str, **_of_features: object) -> str:
        """Make a folder in a root; returns its path. openapi.json limits `name`. Raises ClincusError: 400, 409, 500."""
        target = expand(root, self.environ)
        if target not in self._roots().values():
            raise ClincusError(f'"{root}" is not a workspace root: add it first', 400)
        path = os.path.join(target, name)
        try:
            os.mkdir(path)
        except FileExistsError:
            raise ClincusError(f'"{path}" exists already: choose another name', "already_exists") from None
        except OSError as error:
            raise ClincusError(f'cannot create "{path}": {error.strerror}', 500) from error
        return path

    def _roots(self) -> dict[str, str]:
        """The configured roots, each with its expanded path.

        A root of an unknown user (`~name`) stays as it is: it has no projects, and the page can remove it.
        """
        roots: dict[str, str] = {}
        for root in self.load().get("dashboard.workspace_roots"):
            try:
                roots[root] = expand(root, self.environ)
            except ConfigError:
                roots[root] = root
        return roots


def project_folders(root: str) -> list[str]:
    """The project directories in a root, sorted by name, and one more than are shown; empty if the root is gone."""
    with suppress(OSError):
        paths = (os.path.join(root, name) for name in sorted(os.listdir(root)) if not name.startswith("."))
        return list(itertools.islice(filter(os.path.isdir, paths), PROJECTS_PER_ROOT + 1))
    return []


# ----------------------------------------------------------------------------------------------------------------
# http
# Requests, responses, the routing table, static files and the gate. Knows nothing of what the handlers do.
# ----------------------------------------------------------------------------------------------------------------

BODY_LIMIT = 1 << 20  # bytes of a request's body
HEAD_LIMIT = 64 << 10  # bytes of a request's head
FIELD_LIMIT = 100  # header fields of a request
HEAD_TIMEOUT = 30.0  # seconds for a request to arrive, and for an idle connection to send the next one
BODY_RATE = 16 << 10  # bytes a second at which a body must arrive on average, after HEAD_TIMEOUT
ANSWER_TIMEOUT = 120.0  # seconds for a client to read an answer
LINGER_TIMEOUT = 2.0  # seconds for a client to read the last answer before its connection is closed
REFUSED_LINGER = 0.5  # the same, if the gate refused the connection
LINGER_LIMIT = 8 << 20  # bytes that are read and dropped during that time
CONNECTION_LIMIT = 512
COMPRESS_FROM = 1000  # bytes; smaller bodies are not worth compressing
LOOPBACK = ("127.0.0.1", "::1")
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; frame-src http:; worker-src 'self'; manifest-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
SAFE_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
)


class Refused(ClincusError):
    """A refusal of the gate. The connection is closed after the answer."""


def method_not_allowed(method: str, allowed: Iterable[str]) -> ClincusError:
    """The error for a path that has other methods only. The Allow field names them (RFC 9110, 15.5.6)."""
    methods = ", ".join(sorted(set(allowed)))
    return ClincusError(f"{shorten(method)} is not allowed for this path: use {methods}", 405, [("Allow", methods)])


# -- The contract: openapi.json

KINDS = {  # the types of JSON Schema, except "number", which no request has: Python's type, and words for people
    "string": (str, "a text"),
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "array": (list, "a list"),
    "object": (dict, "an object"),
    "null": (type(None), "null"),
}
# Characters that no argument of a command and no file name can contain: NUL, and half surrogate pairs. Only U+DC80 to
# U+DCFF are possible: they stand for bytes that are not UTF-8 (PEP 383).
UNUSABLE = "[\0\ud800-\udc7f\udd00-\udfff]"
Schema = Mapping[str, Any]


def inlined(node: Any, document: Schema, skip: str = "") -> Any:
    """A part of a JSON document with each {"$ref": "#/…"} replaced by its target, except in members `skip`."""
    if isinstance(node, list):
        return [inlined(value, document, skip) for value in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        keys = node["$ref"].removeprefix("#/").split("/")
        return inlined(functools.reduce(operator.getitem, keys, document), document, skip)
    return {key: value if key == skip else inlined(value, document, skip) for key, value in node.items()}


def check_value(schema: Schema, value: Any, name: str = "") -> None:
    """Raise ClincusError(400) with the name of the value and what it must be, unless the value fits its schema.

    Without a name the value is the body. A test makes sure that each integer of the contract has both bounds, and that
    each object lists its members.
    """
    kind = next((name for name, (known, _) in KINDS.items() if known is type(value)), "number")
    wanted = what_is_wanted(schema, value, kind)
    if wanted:
        subject = f'"{name}"' if name else "the body"
        raise ClincusError(f"{subject} must {wanted}, not {shorten(value)}", 400)
    if kind == "array":
        for index, item in enumerate(value):
            check_value(schema["items"], item, f"{name}[{index}]")
    elif kind == "object":
        check_members(schema, value, f"{name}." if name else "")


def what_is_wanted(schema: Schema, value: Any, kind: str) -> str:
    """The condition that a value of a kind violates, in words that follow "must"; empty if it fits its schema."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if kind not in kinds:
        return "be " + " or ".join(KINDS[name][1] for name in kinds)
    if "enum" in schema and value not in schema["enum"]:
        return "be one of " + ", ".join(map(str, schema["enum"]))
    if kind == "string" and re.search(UNUSABLE, value):
        return "hold only characters that a name can have"
    if kind == "string" and "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        return f"match {schema['pattern']} ({schema['description']})"
    if kind == "integer" and not schema["minimum"] <= value <= schema["maximum"]:
        return f"be from {schema['minimum']} to {schema['maximum']}"
    return ""


def check_members(schema: Schema, value: Mapping[str, object], prefix: str) -> None:
    """Check the members of an object; in messages `prefix` comes before their names."""
    known = schema.get("properties", {})
    others = schema["additionalProperties"]
    for name, member in value.items():
        if name not in known and others is False:
            listed = ", ".join(known) or "none"
            raise ClincusError(f"unknown field {shorten(prefix + name)}; known are: {listed}", 400)
        check_value(known.get(name, others), member, prefix + name)
    for name in schema.get("required", ()):
        if name not in value:
            raise ClincusError(f'"{prefix}{name}" is missing in the body: {known[name]["description"]}', 400)


def parse_text(schema: Schema, text: str, name: str) -> Any:
    """Read a value from a path or a query, and check it. Raises ClincusError(400)."""
    value: object = text
    if schema["type"] == "integer" and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        value = int(text)
    elif schema["type"] == "boolean" and text in {"true", "false", "1", "0"}:
        value = text in {"true", "1"}
    check_value(schema, value, name)
    return value


# -- Requests and answers


class Request(NamedTuple):
    """One request. Its body is read when its route is known."""

    method: str
    path: str  # still percent-encoded
    query: Mapping[str, str]
    headers: Message
    body_length: int  # bytes that follow the head
    peer: Peer
    connection: Connection  # for a WebSocket to take over
    version: str = "HTTP/1.1"  # or HTTP/1.0
    body: bytes = b""
    pieces: Iterable[bytes] = ()  # the body as it arrives, for a route that takes bytes
    values: Mapping[str, Any] = {}  # the checked fields of path, query and body

    @property
    def is_socket(self) -> bool:
        """True if the request is for a WebSocket."""
        return self.path == "/ws" or self.path.startswith("/ws/")

    @property
    def is_api(self) -> bool:
        """True if the path belongs to the API, and not to the dashboard's files."""
        return self.is_socket or self.path in {"/api", "/metrics"} or self.path.startswith("/api/")

    def options(self, name: str) -> set[str]:
        """The members of a header field that is a list (RFC 9110, 5.6.1), in lower case."""
        values = ",".join(self.headers.get_all(name) or [])
        return {word.strip().lower() for word in values.split(",")}


class Response(NamedTuple):
    """An answer that a handler returns instead of a plain value: status, body and headers as they are sent."""

    status: int = 200
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()


def json_response(value: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A value as a JSON answer. Bytes of a file name that are not UTF-8 become JSON escapes."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return Response(status, body, [("Content-Type", "application/json"), *headers])


def error_response(error: ClincusError) -> Response:
    """The answer for an error."""
    headers = list(error.headers)
    if error.status == 503 and not any(name == "Retry-After" for name, _ in headers):
        headers.append(("Retry-After", str(RETRY_AFTER)))
    return json_response({"error": error.message, "code": error.code, **error.fields}, error.status, headers)


def kept_header(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The header field with the paths of copies that were made before a loss: percent-encoded, with commas between."""
    names = ", ".join(urls.quote(path, safe="/") for path in paths)
    return [("Clincus-Kept", names)] if names else []


@functools.lru_cache(maxsize=1)
def http_date(second: int) -> str:
    """A Unix time in the form of header fields."""
    from email.utils import formatdate

    return formatdate(second, usegmt=True)


def response_bytes(response: Response, *, is_last: bool, head_only: bool = False) -> bytes:
    """An answer as it is sent; `is_last` tells the client that the connection ends with it."""
    from http import HTTPStatus

    has_body = response.status not in {204, 304}
    headers = [("Date", http_date(int(time.time()))), *response.headers]
    if response.status != 304:  # a client that gets 304 keeps the header fields that it has (RFC 9111, 4.3.4)
        headers += SAFE_HEADERS
    if not any(key == "Cache-Control" for key, _ in headers):
        headers.append(("Cache-Control", "no-store"))
    if has_body:
        headers.append(("Content-Length", str(len(response.body))))
    if is_last:
        headers.append(("Connection", "close"))
    lines = [f"{key}: {value}" for key, value in headers]
    text = "".join(lines)
    if not text.isascii() or not text.isprintable():
        lines = [re.sub(r"[^\t -~\x80-\xff]", "?", line) for line in lines]
    first = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"
    head = "\r\n".join([first, *lines, "", ""]).encode("latin-1")
    return head + response.body if has_body and not head_only else head


class Content:
    """The body of an answer to GET. A client that has it gets 304, any other one the body, compressed if that helps."""

    def __init__(self, body: bytes, packed: bytes = b"") -> None:
        self.body = body
        self._packed = packed  # compressed with gzip when the archive was built
        self.etag = f'"{hashlib.sha256(body).hexdigest()}"'

    @functools.cached_property
    def compressed(self) -> bytes:
        """The body, compressed for the first client that accepts it."""
        if self._packed:
            return self._packed
        import gzip

        return gzip.compress(self.body, 6, mtime=0)

    def answer(self, request: Request, headers: Iterable[tuple[str, str]]) -> Response:
        """The answer to a request: 304 if the client has the body already."""
        headers = [("ETag", self.etag), ("Vary", "Accept-Encoding"), *headers]
        if self.etag in re.findall(r'"[^"]*"', request.headers.get("If-None-Match", "")):
            return Response(304, b"", headers)
        is_long = len(self.body) > COMPRESS_FROM
        if is_long and accepts(request, "gzip") and len(self.compressed) < len(self.body):
            return Response(200, self.compressed, [*headers, ("Content-Encoding", "gzip")])
        return Response(200, self.body, headers)


def accepts(request: Request, coding: str) -> bool:
    """True if the client accepts a content coding (RFC 9110, 12.5.3)."""
    accepted = {}
    for option in request.options("Accept-Encoding"):
        name, _, weight = option.partition(";")
        accepted[name.strip()] = not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return accepted.get(coding, accepted.get("*", False))


# -- A request to another server


def post(url: str, headers: Mapping[str, str], body: bytes, *, timeout: float, limit: int = 0) -> tuple[int, bytes]:
    """Send a POST request; returns the status of the answer and, if it is no error, up to `limit` bytes of its body.

    No redirect is followed. Raises ClincusError(502) without an answer. Its message does not have the URL, which may
    hold a secret.
    """
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any, **kwargs: Any) -> None:
            """Make no further request."""

    request = urllib.request.Request(url, body or None, dict(headers), method="POST")
    opener = urllib.request.build_opener(NoRedirects)
    try:
        with opener.open(request, timeout=timeout) as answer:
            return int(answer.status), answer.read(limit)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, b""
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # of URLError
        words = getattr(reason, "strerror", None) or type(reason).__name__
        if isinstance(reason, TimeoutError):
            words = "it took too long; try again"
        raise ClincusError(f"no answer: {words}", "no_answer") from None


# -- The head of a request


def read_head(stream: io.BufferedIOBase) -> bytes:
    """Read up to the empty line that ends a request's head; b"" if the stream ends before a request.

    Raises ClincusError: 408 if the stream ends within the head, 414 and 431 if the head is too large.
    """
    line = stream.readline(HEAD_LIMIT)
    if line == b"\r\n":  # one empty line before a request is to be ignored (RFC 9112, 2.2)
        line = stream.readline(HEAD_LIMIT)
    head = bytearray(line)
    while line.endswith(b"\n") and line not in {b"\r\n", b"\n"} and len(head) < HEAD_LIMIT:
        line = stream.readline(HEAD_LIMIT - len(head))
        head += line
    if len(head) >= HEAD_LIMIT:
        size = f"larger than {HEAD_LIMIT >> 10} KiB: send less"
        if b"\n" in head:
            raise ClincusError(f"the request's header fields are {size}", 431)
        raise ClincusError(f"the request's address is {size}", 414)
    if head and not line.endswith(b"\n"):
        raise ClincusError("the request did not arrive whole, or too late: send it again", 408)
    return bytes(head)


# The grammar of HTTP/1 for every head that Clincus reads: of requests here, in the proxy and in the preview.
HTTP_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
HTTP_CONTROL = r"[\x00-\x08\x0a-\x1f\x7f]"  # no value may contain these
HTTP_REQUEST_LINE = rf"({HTTP_TOKEN}) ([!-~]+) HTTP/([0-9]\.[0-9])"
HTTP_STATUS_LINE = r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?"
HttpFields: TypeAlias = "Sequence[tuple[str, str]]"  # names in the case of the message, and values


def split_field(line: str) -> tuple[str, str]:
    """Name and value of a line of a head (RFC 9112, 5), decoded as Latin-1. Raises ValueError for any other form.

    A pattern for the blanks around the value would try all ways to share them out, and a head has much room.
    """
    name, colon, value = line.partition(":")
    if not colon or not re.fullmatch(HTTP_TOKEN, name) or re.search(HTTP_CONTROL, value):
        raise ValueError("a header field is not NAME: VALUE on a line of its own, ended by CR LF")
    return name, value.strip(" \t")


def split_head(head: bytes, most: int, error: type[ValueError]) -> tuple[str, list[tuple[str, str]]]:
    """The first line and the fields of a head that ends with its empty line. Raises `error`, also for too many."""
    first, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    if len(lines) > most:
        raise error(f"the message has more than {most} header fields")
    try:
        return first, [split_field(line) for line in lines]
    except ValueError as fault:
        raise error("a header field is not well-formed") from fault


def field_values(fields: HttpFields, name: str) -> list[str]:
    """The values of all fields of a name, which is in lower case."""
    return [value for known, value in fields if known.lower() == name]


def field_words(fields: HttpFields, name: str) -> list[str]:
    """The members of all fields of a name whose values are lists (RFC 9110, 5.6.1), in lower case."""
    found = ",".join(field_values(fields, name)).split(",")
    return [word.strip(" \t").lower() for word in found if word.strip(" \t")]


def framed_length(fields: HttpFields, error: type[ValueError] = ValueError) -> int | None:
    """The length of a body by the fields of its head: None for chunks, -1 if they give none. Raises `error`."""
    lengths = field_values(fields, "content-length")
    codings = field_values(fields, "transfer-encoding")
    if codings:
        if lengths or [coding.lower() for coding in codings] != ["chunked"]:
            raise error("a body has either Content-Length or Transfer-Encoding: chunked")
        return None
    if not lengths:
        return -1
    if len(lengths) != 1 or not re.fullmatch("[0-9]{1,15}", lengths[0]):
        raise error("Content-Length must be one number of bytes")
    return int(lengths[0])


def take_head(held: bytearray, limit: int, too_large: Exception) -> bytes:
    """Remove a head from received bytes, with its empty line; b"" while its end is missing. Raises `too_large`."""
    end = held.find(b"\r\n\r\n", 0, limit)
    if end < 0:
        if len(held) >= limit:
            raise too_large
        return b""
    head = bytes(held[: end + 4])
    del held[: end + 4]
    return head


def parse_head(head: bytes, peer: Peer, connection: Connection) -> Request:
    """Parse a request's head, and refuse one that two programs could read differently (RFC 9112, 2 to 6 and 11.2).

    The parser of http.server is not safe: a bare CR or LF ends a line for it, so a second Content-Length can hide in
    the value of another field, and nothing shows that.

    Raises ClincusError: 400, 411 for a chunked body, 431 for too many fields, 505.
    """
    from email.message import Message

    first, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    match = re.fullmatch(HTTP_REQUEST_LINE, first)
    if not match:
        raise ClincusError("the request's first line must be METHOD PATH HTTP/1.1", 400)
    method, target, version = match.groups()
    if not version.startswith("1."):
        raise ClincusError("this server speaks HTTP/1.0 and HTTP/1.1 only: send the request as HTTP/1.1", 505)
    if len(lines) > FIELD_LIMIT:
        raise ClincusError(f"the request has more than {FIELD_LIMIT} header fields: send fewer", 431)
    headers = Message()
    for line in lines:
        try:
            name, value = split_field(line)
        except ValueError as error:
            raise ClincusError(str(error), 400) from None
        headers[name] = value
    path, query = parse_target(target, headers)
    spoken = "HTTP/1.0" if version == "1.0" else "HTTP/1.1"
    return Request(method, path, query, headers, body_length(headers), peer, connection, spoken)


def parse_target(target: str, headers: Message) -> tuple[str, dict[str, str]]:
    """Split a request's target into path and query. A whole URL must name the same host (RFC 9112, 3.2.2).

    Raises ClincusError(400).
    """
    absolute = re.fullmatch(r"https?://([^/?]*)(.*)", target, re.IGNORECASE)
    if absolute:
        if absolute[1].lower() != headers.get("Host", "").lower():
            raise ClincusError(
                "the request's address and its Host header name different servers: send the same in both", 400
            )
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if not target.startswith("/") or "#" in target:
        raise ClincusError(f"the request's address must be a path, not {shorten(target)}", 400)
    path, _, text = target.partition("?")
    pairs = urls.parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    query = dict(pairs)
    if len(query) < len(pairs):
        raise ClincusError("the query has a parameter more than once: give each one once", 400)
    return path, query


def body_length(headers: Message) -> int:
    """The number of bytes that follow a head. Raises ClincusError (400, 411) if there is any doubt (RFC 9112, 6.3)."""
    lengths = headers.get_all("Content-Length") or []
    if headers.get_all("Transfer-Encoding"):
        if lengths:
            raise ClincusError(
                "Content-Length and Transfer-Encoding together are not accepted: send Content-Length alone", 400
            )
        raise ClincusError("a chunked body is not accepted: send Content-Length", 411)
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
        raise ClincusError("Content-Length must be one number of bytes", 400)
    return int(lengths[0])


# -- The end of a body that is passed on to another program


class SizedBody:
    """A body of a known size."""

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def is_over(self) -> bool:
        """True if the whole body has arrived."""
        return not self._left

    def take(self, held: bytearray) -> bytes:
        """Remove the bytes of the body from `held`, and return them."""
        if len(held) <= self._left:  # the usual case of a large body
            piece = bytes(held)
            held.clear()
        else:
            piece = bytes(held[: self._left])
            del held[: self._left]
        self._left -= len(piece)
        return piece


class ChunkedBody:
    """A body in chunks (RFC 9112, 7.1), without extensions and trailers."""

    LINE_LIMIT: ClassVar = 8 << 10  # bytes of a line between chunks
    TRAILER_LIMIT: ClassVar = 32 << 10  # bytes
    SIZE: ClassVar = rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?"
    error: type[ValueError] = ValueError

    def __init__(self) -> None:
        self.is_over = False  # the whole body has arrived
        self._left = 0  # bytes of this chunk that are still to come
        self._is_after_data = False  # the line that ends a chunk comes next
        self._is_trailer = False
        self._trailer = 0  # bytes of trailers so far

    def take(self, held: bytearray) -> bytes:
        """Remove the bytes of the body from `held`; returns those to pass on. Raises `error` for malformed chunks."""
        found = bytearray()
        while not self.is_over:
            if self._left:
                piece = held[: self._left]
                if not piece:
                    break
                del held[: len(piece)]
                found += piece
                self._left -= len(piece)
                self._is_after_data = not self._left
                continue
            end = held.find(b"\r\n", 0, self.LINE_LIMIT)
            if end < 0:
                if len(held) >= self.LINE_LIMIT:
                    raise self.error("a line between the chunks of the body is too long")
                break
            line = bytes(held[:end])
            del held[: end + 2]
            found += self._read_line(line)
        return bytes(found)

    def framing(self, size: int | None) -> bytes:
        """The bytes to pass on before a chunk of a size (0: the last chunk) or after one (None): here none."""
        return b""

    def check_trailer(self, line: bytes) -> None:
        """Raise `error` for a trailer that is refused."""

    def _read_line(self, line: bytes) -> bytes:
        """The bytes to pass on for a line of the framing."""
        if self._is_after_data:
            if line:
                raise self.error("a chunk of the body is longer than it says")
            self._is_after_data = False
            return self.framing(None)
        if self._is_trailer:
            self._trailer += len(line)
            if line:
                self.check_trailer(line)
            if self._trailer > self.TRAILER_LIMIT:
                raise self.error("the trailer of the body is too long")
            self.is_over = not line
            return b""
        size = re.fullmatch(self.SIZE, line)
        if not size:
            raise self.error("the body is not in chunks")
        self._left = int(size[1], 16)
        self._is_trailer = not self._left
        return self.framing(self._left)


# -- The peer of a connection


class Peer(NamedTuple):
    """The other end of a connection. It is looked up once."""

    address: str  # numeric
    here: tuple[str, int]  # our address and port
    why_token: str  # why its requests need the token; empty for this server's user and root on this machine
    uid: int | None = None  # of the user, on this machine

    def __str__(self) -> str:
        return self.address if self.uid is None else f"{self.address} ({user_name(self.uid)})"


def find_peer(connection: socket.socket, owners: Sequence[Callable[..., int | None]] = ()) -> Peer:
    """Find out who is at the other end of a connection. Raises OSError if the connection is gone."""
    there = _plain_address(connection.getpeername())
    here = _plain_address(connection.getsockname())
    if not (is_loopback(there[0]) and is_loopback(here[0])):
        return Peer(there[0], here, "this connection comes from another machine")
    find = owners[0] if owners else socket_owner
    owner = find(there, here)
    # While this connection lives, no other one has its pair of addresses. If it lives now, `owner` is its owner.
    connection.getpeername()
    why_token = ""
    if owner is None:
        why_token = "the kernel (/proc/net/tcp) does not say which user this connection comes from"
    elif owner not in {0, os.geteuid()}:
        why_token = f"this connection comes from {user_name(owner)}, but the server is {user_name(os.geteuid())}'s"
    return Peer(there[0], here, why_token, owner)


def _plain_address(address: tuple[Any, ...]) -> tuple[str, int]:
    host = str(address[0])
    if host.startswith("::ffff:") and "." in host:  # an IPv4 address on an IPv6 socket
        host = host.removeprefix("::ffff:")
    return host, int(address[1])


def is_loopback(host: str) -> bool:
    """True if a numeric address is a loopback address."""
    return bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}|::1", host))


def user_name(uid: int) -> str:
    """A user in words for people: the name, or the uid if there is no name."""
    try:
        return f'user "{pwd.getpwuid(uid).pw_name}"'
    except KeyError:
        return f"user {uid}"


def socket_owner(theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
    """The user id of the process at the other end of a local connection; None if the kernel does not show it."""
    ends = [kernel_address(*theirs), kernel_address(*ours)]
    tables = {"/proc/net/tcp6": ends}
    if ":" not in theirs[0]:  # an IPv4 connection is in tcp, unless its socket is an IPv6 one
        tables = {"/proc/net/tcp": [end[-len("0100007F:0BB8") :] for end in ends], **tables}
    for path, pair in [*tables.items()] * 2:  # the kernel can skip a row while connections come and go
        with suppress(FileNotFoundError, PermissionError), open(path, encoding="ascii") as table:
            owner = find_owner(table, pair)
            if owner is not None:
                return owner
    return None


def kernel_address(host: str, port: int) -> str:
    """Write an address as /proc/net/tcp6 does: 32-bit words in the machine's own byte order."""
    packed = socket.inet_pton(socket.AF_INET6, host if ":" in host else f"::ffff:{host}")
    words = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def find_owner(table: Iterable[str], ends: Sequence[str]) -> int | None:
    """The user id of the connection with these two ends in /proc/net/tcp or tcp6, None if it is not there (proc(5)).

    A socket without an inode was closed by its process already. The kernel shows it as root's, so it does not count.
    """
    for line in table:
        if ends[0] in line:
            row = line.split()
            if row[1:3] == ends and row[9] != "0":
                return int(row[7])
    return None


# -- Routes

Handler = Callable[[Request], object]
TakeSettings: TypeAlias = "Callable[[Mapping[str, Any]], Mapping[str, object]]"


def with_settings(fields: Collection[str], take: TakeSettings) -> Callable[[str, str, Handler], Handler]:
    """A wrapper for the create of a session: fields of the request become settings, which the session keeps.

    `take` returns them by dotted key, from the values of the request. It may raise ClincusError(400).
    """

    def wrap(method: str, path: str, handler: Handler) -> Handler:
        if (method, path) != ("POST", "/api/sessions"):
            return handler

        def create(request: Request) -> object:
            settings = {**(request.values.get("settings") or {}), **take(request.values)}
            others = {name: value for name, value in request.values.items() if name not in fields}
            return handler(request._replace(values={**others, "settings": settings or None}))

        return create

    return wrap


class Route:
    """One operation of openapi.json: how requests find it, what they may contain, and the handler that answers them."""

    def __init__(self, method: str, path: str, item: Schema, handler: Handler) -> None:
        """`item` is the contract's entry for the path. In the path, {name} stands for one segment."""
        operation = item[method.lower()]
        content = operation.get("requestBody", {}).get("content", {})
        raw = content.get("application/octet-stream")
        self.path = path
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
        self.pattern = re.compile(pattern)  # for a path that is still percent-encoded
        self.methods = [method]
        if method == "GET" and not path.startswith("/ws/"):
            self.methods.append("HEAD")
        self.handler = handler
        named: list[Schema] = [*item.get("parameters", ()), *operation.get("parameters", ())]
        self.parameters = [known for known in named if known["in"] != "header"]  # handlers read headers themselves
        self.body: Schema = content.get("application/json", {"schema": {}})["schema"]
        self.takes_bytes = raw is not None  # the handler gets the body as it arrives, not as JSON
        self.body_limit: int = raw["schema"]["maxLength"] if raw else BODY_LIMIT
        self.status = int(min(operation["responses"]))  # the status if the handler returns a plain value
        schemas = {known["name"]: known["schema"] for known in self.parameters}
        schemas.update(self.body.get("properties", {}))
        self.defaults = {name: schema.get("default") for name, schema in schemas.items()}

    def read_parameters(self, in_path: Mapping[str, str], query: Mapping[str, str]) -> dict[str, Any]:
        """The values of known parameters; unknown ones are ignored. Raises ClincusError(400)."""
        given = {**query, **in_path}
        values = {}
        for known in self.parameters:
            name = known["name"]
            if name in given:
                values[name] = parse_text(known["schema"], given[name], name)
            elif known.get("required"):
                raise ClincusError(f'"{name}" is missing in the query: {known["description"]}', 400)
        return values

    def read_body(self, body: bytes) -> dict[str, Any]:
        """The fields of a JSON body; an empty body is an empty object. Raises ClincusError(400)."""
        if not self.body:
            return {}
        try:
            document: dict[str, Any] = json.loads(body.decode("utf-8") or "{}")
        except (ValueError, RecursionError) as error:
            raise ClincusError(f"the body is not valid JSON ({error}): send a JSON object", 400) from error
        check_value(self.body, document)
        return document


def bound_routes(
    routes: Iterable[tuple[str, str, Callable[..., object]]], *context: object
) -> list[tuple[str, str, Handler]]:
    """Routes whose handlers get the objects of `context` before the request: method, path in openapi.json, handler."""
    return [(method, path, functools.partial(handler, *context)) for method, path, handler in routes]


class Router:
    """The routing table. openapi.json, the `contract`, describes the input and the answers of each route."""

    def __init__(self, contract: Schema) -> None:
        self.contract = contract
        self._items: Schema = inlined(contract["paths"], contract, skip="responses")  # only clients read responses
        self.routes: list[Route] = []
        self._plain: dict[tuple[str, str], Route] = {}  # method, path without a {name} -> route

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Let a handler answer an operation of the contract. Raises KeyError for one that the contract lacks."""
        route = Route(method, path, self._items[path], handler)
        self.routes.append(route)
        self.routes.sort(key=lambda route: route.path.replace("{", "~"))  # a literal segment goes before a {name}
        if "{" not in path:
            for allowed in route.methods:
                self._plain[(allowed, path)] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request and the values in its path. Raises ClincusError: 404, 405."""
        plain = self._plain.get((method, path))
        if plain:
            return plain, {}
        allowed: list[str] = []
        is_usable = not re.search(UNUSABLE, urls.unquote(path))
        for route in self.routes if is_usable else ():
            match = route.pattern.fullmatch(path)
            if match is None:
                continue
            if method in route.methods:
                return route, {key: urls.unquote(value) for key, value in match.groupdict().items()}
            allowed += route.methods
        if not allowed:
            raise ClincusError(f"there is no {shorten(path)} in the API: /api/openapi.json lists its paths", 404)
        raise method_not_allowed(method, allowed)


@functools.cache
def load_contract() -> Schema:
    """The content of openapi.json, which is beside this module."""
    return cast(Schema, json.loads(packaged_text("openapi.json")))


# -- The gate


class RefusalLog:
    """Logs refusals, once a minute for each peer and cause, so that nobody can fill the log.

    A minute begins with the first refusal in it.
    """

    LIMIT = 256  # lines in a minute

    def __init__(self) -> None:
        self._over = 0.0  # time.monotonic of the end of this minute
        self._written: set[tuple[str, str]] = set()  # peer and cause, in this minute

    def note(self, peer: str, cause: str, message: str) -> None:
        """Log a refusal, unless the same one was logged in this minute."""
        now = time.monotonic()
        if now >= self._over:
            self._over = now + 60
            self._written = set()
        if (peer, cause) not in self._written and len(self._written) < self.LIMIT:
            self._written.add((peer, cause))
            log.warning("gate: %s: %s", peer, message.encode("ascii", "backslashreplace").decode())


class Gate:
    """The gate checks each connection and each request before any handler runs.

    It admits this server's user and root on this machine. `allowed_hosts` are names, with or without a port, by which
    people reach this server through a reverse proxy or at another address. The gate in clincus_features/sign_in.py
    admits others too, by a token.
    """

    PROXY_FIELDS = ("forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
    token = ""  # a secret that admits others, "" for none

    def __init__(self, allowed_hosts: Iterable[str] = ()) -> None:
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        for host in self.allowed_hosts:
            if not split_host(host)[0]:
                raise ClincusError(f"--allowed-host must be NAME or NAME:PORT, not {shorten(host)}", 400)
        self.refusals = RefusalLog()

    def admit_connection(self, peer: Peer) -> None:
        """Admit a connection. Raises Refused(403) if no request of it could be admitted."""
        if peer.why_token:
            raise self.refuse(peer, "peer", f"refused: {peer.why_token}. To let others in, serve with --token-file")

    def admit_request(self, request: Request) -> Response | None:
        """Admit a request. Returns None, or an answer to send instead of a handler's. Raises Refused: 401, 403."""
        peer = request.peer
        hosts = request.headers.get_all("Host") or []
        if len(hosts) != 1 or not self._is_ours(hosts[0], peer):
            problem = f"the Host header {shorten(hosts)} is not a name of this server; see --allowed-host"
            raise self.refuse(peer, "host", f"refused: {problem}")
        if request.is_api or request.method not in {"GET", "HEAD", "OPTIONS"}:
            self._check_origin(request)
        return self.check_user(request)

    def check_user(self, request: Request) -> Response | None:
        """Refuse a request of another user. Returns None, or an answer to send instead. Raises Refused.

        With `--allowed-host` the proxy has to check its users itself.
        """
        if request.peer.why_token or (self.is_forwarded(request) and not self.is_by_name(request)):
            words = "refused: this request came through a proxy; serve with --token-file to let it in"
            raise self.refuse(request.peer, "proxy", words)
        return None

    def page_headers(self, _request: Request) -> Sequence[tuple[str, str]]:
        """Headers for the answer to a request of the dashboard's files that was let in."""
        return ()

    def is_forwarded(self, request: Request) -> bool:
        """True if a proxy forwards a request: then the user of the connection proves nothing."""
        return any(name.lower() in self.PROXY_FIELDS for name in request.headers)

    def is_by_name(self, request: Request) -> bool:
        """True if a request calls this server by one of `allowed_hosts`, as through a proxy."""
        return not self._is_local(request.headers.get("Host", ""), request.peer)

    def refuse(self, peer: Peer, cause: str, words: str, status: int = 403) -> Refused:
        """Log a refusal, and return the error to raise."""
        self.refusals.note(str(peer), cause, words)
        return Refused(words, status)

    def _check_origin(self, request: Request) -> None:
        """Refuse a write or a WebSocket that a page of another site asked for (RFC 6454; W3C Fetch Metadata)."""
        for origin in request.headers.get_all("Origin") or []:
            scheme, _, host = origin.partition("://")
            if scheme not in {"http", "https"} or not self._is_ours(host, request.peer):
                problem = f"a page of {shorten(origin)} may not do this; see --allowed-host"
                raise self.refuse(request.peer, "origin", f"refused: {problem}")
        if request.headers.get("Sec-Fetch-Site", "none").lower() not in {"none", "same-origin"}:
            raise self.refuse(request.peer, "site", "refused: the page of another site asked for this")

    def _is_ours(self, host: str, peer: Peer) -> bool:
        if self._is_local(host, peer):
            return True
        name, port = split_host(host)
        names = {f"{name}:{port}", f"[{name}]:{port}"}
        if port in {80, 443, peer.here[1]}:
            names |= {name, f"[{name}]"}
        return not names.isdisjoint(self.allowed_hosts)

    def _is_local(self, host: str, peer: Peer) -> bool:
        """True if a Host header has a loopback name or our literal address: no other site can have these."""
        name, port = split_host(host)
        return name in {"localhost", *LOOPBACK, peer.here[0]} and port == peer.here[1]


@functools.lru_cache(64)
def split_host(host: str) -> tuple[str, int]:
    """Split a Host header or an origin's authority into name and port (80 by default); ("", -1) if it is malformed."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?", host, re.IGNORECASE)
    if not match:
        return "", -1
    return (match[1] or match[2]).lower(), int(match[3]) if match[3] else 80


def check_content_type(request: Request) -> None:
    """Refuse a body whose type is not JSON: forms on foreign pages cannot send JSON. Raises ClincusError(415).

    `curl -d` labels every body as a form. This is accepted if nothing shows that the client is a browser.
    """
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not request.body_length or media_type == "application/json":
        return
    is_browser = any(name.lower() == "origin" or name.lower().startswith("sec-fetch-") for name in request.headers)
    if is_browser or media_type not in {"", "application/x-www-form-urlencoded"}:
        raise ClincusError("send the body as Content-Type: application/json", 415)


# -- The dashboard's files


class Assets:
    """The dashboard's files, beside this module or in the same .pyz. Each one is read once."""

    TYPES: ClassVar[Mapping[str, str]] = {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".webmanifest": "application/manifest+json",
        ".svg": "image/svg+xml",
        ".png": "image/png",
    }

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._read = read
        self._cache: dict[str, Content] = {}  # only existing files, since a client may ask for any number of others

    def respond(self, request: Request) -> Response:
        """Answer GET of any path outside the API: a file, or index.html for the page's own routes."""
        path = urls.unquote(request.path).lstrip("/")
        is_hashed = path.startswith("assets/")
        content = self.find(path)
        if content is None and is_hashed:  # HTML must not be sent in place of a missing script
            raise ClincusError(f"there is no file {shorten('/' + path)}", 404)
        if content is None:
            path = "index.html"
            content = self.find(path)
        if content is None:
            raise ClincusError("the dashboard is not built: run `make spa`, or use the released clincus.pyz", 404)
        media_type = self.TYPES.get(posixpath.splitext(path)[1], "application/octet-stream")
        cache = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
        return content.answer(request, [("Content-Type", media_type), ("Cache-Control", cache)])

    def find(self, path: str) -> Content | None:
        """The content of a file, None if there is none."""
        if path in self._cache:
            return self._cache[path]
        if ".." in path or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", path):
            return None
        body = self._read(path)
        if body is None:
            return None
        self._cache[path] = Content(body, self._read(f"{path}.gz") or b"")
        return self._cache[path]


# -- Connections


class TimedInput(io.RawIOBase):
    """The input of a client, as a stream with a deadline. After the deadline it reads as ended.

    The deadline is for all reads together. With a timeout for each read, a client that sends a byte now and then could
    hold a thread for ever.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = 0.0  # of time.monotonic()

    def allow(self, seconds: float) -> None:
        """Let the next reads together take some seconds."""
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True: clients are read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for input and read it; 0 at the end, after the deadline, and on a broken connection."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            return 0
        with suppress(OSError):
            if self._connection.gettimeout() != 0:  # else a WebSocket owns the connection, and must not wait here
                self._connection.settimeout(left)
            return self._connection.recv_into(buffer)
        return 0


ANSWER_PATIENCE = 20.0  # seconds that an answer waits for a container in all; the first command gets half of it
ANSWER_WITHIN = 25.0  # seconds for a container and for Incus itself
ANSWER_OF_SILENT = 1.5  # seconds for a container that let the last command wait in vain
ANSWER_ADVICE = ": try again; if that does not help, its programs may hang: stop or resume the session"


def answering() -> AbstractContextManager[Patience]:
    """The Patience of an answer that reads from a container."""
    return patient(ANSWER_PATIENCE, ANSWER_PATIENCE, ANSWER_ADVICE, ANSWER_WITHIN, ANSWER_OF_SILENT)


class Site(NamedTuple):
    """Everything that answers a connection: routes, files, gate and features. `places` limits the connections."""

    router: Router
    assets: Assets
    gate: Gate
    places: threading.Semaphore
    extensions: Extensions


class Connection:
    """One connection: reads requests, and sends what handlers return or raise, all answers in ONE place, `_answer`.

    http.server only accepts it and starts its thread; see `parse_head` for the reason.
    """

    def __init__(self, connection: socket.socket, site: Site) -> None:
        self.connection = connection
        self.close_connection = False  # the next answer is the last one
        self._site = site
        self._input = TimedInput(connection)
        self.rfile = io.BufferedReader(self._input)
        self._unread = 0  # bytes of the request's body that have not been read yet
        self._linger = LINGER_TIMEOUT  # seconds for the client to read the last answer

    def serve(self) -> None:
        """Look up the peer, then answer one request after the other."""
        try:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = find_peer(self.connection, self._site.extensions.owners)
            try:
                self._site.gate.admit_connection(peer)
            except ClincusError as error:
                # A stranger must not occupy a place that the server's own user needs.
                self.close_connection = True
                self._linger = REFUSED_LINGER
                self._answer(error_response(error))
            while not self.close_connection:
                self._serve_request(peer)
        except OSError:
            pass  # the client is gone
        finally:
            self._finish()

    def _serve_request(self, peer: Peer) -> None:
        """Read and answer one request. The connection stays open only if it is clear where the next one starts."""
        self.close_connection = True
        self._unread = 0
        self._input.allow(HEAD_TIMEOUT)
        request = None
        try:
            head = read_head(self.rfile)
            if not head or any(takes(head, peer, self) for takes in self._site.extensions.visitors):
                return
            request = parse_head(head, peer, self)
            self._unread = request.body_length
            self.close_connection = request.version == "HTTP/1.0" or "close" in request.options("Connection")
            response = self._respond(request)
        except ClincusError as error:
            self.close_connection = self.close_connection or isinstance(error, Refused)
            response = error_response(error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            log.exception("%s: failed", f"{request.method} {request.path}" if request else "a request")
            response = error_response(
                ClincusError("Clincus itself failed here, which is a bug: the server's log has the details", 500)
            )
        if response is not None:
            self._answer(response, head_only=request is not None and request.method == "HEAD")

    def _respond(self, request: Request) -> Response | None:
        """Admit a request and call its handler; None if a WebSocket has taken the connection over."""
        site = self._site
        instead = site.gate.admit_request(request)
        if instead is not None:
            return instead
        if not request.is_api:
            return self._respond_with_file(request)
        route, in_path = site.router.find(request.method, request.path)
        given = route.read_parameters(in_path, request.query)
        if not route.takes_bytes and "GET" not in route.methods:
            check_content_type(request)
        pieces = self._body(request, route.body_limit)
        body = b"" if route.takes_bytes else b"".join(pieces)
        values = {**route.defaults, **given, **route.read_body(body)}
        request = request._replace(pieces=pieces, body=body, values=values)
        if request.is_socket:
            route.handler(request)
            return None
        reads = "GET" in route.methods
        with answering() if reads else nullcontext():
            result = route.handler(request)
        if isinstance(result, Response):
            return result
        response = json_response(result, route.status)
        if not reads:
            return response
        return Content(response.body).answer(request, [*response.headers, ("Cache-Control", "private, no-cache")])

    def _respond_with_file(self, request: Request) -> Response:
        """The answer to a request for one of the dashboard's files. Raises ClincusError: 404, 405."""
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed(request.method, ["GET", "HEAD"])
        page = self._site.assets.respond(request)
        more = self._site.gate.page_headers(request)
        return page._replace(headers=[*page.headers, *more])

    def _body(self, request: Request, limit: int) -> Iterator[bytes]:
        """The body as it arrives. Raises ClincusError: 413 and 417 at once, 408 if it does not arrive completely."""
        length = request.body_length
        expected = request.headers.get("Expect", "").lower()
        if length > limit:
            raise ClincusError(f"the body is larger than {limit >> 10} KiB: send less", 413)
        if expected not in {"", "100-continue"}:
            raise ClincusError(f"this server does not know `Expect: {expected}`: leave this header out", 417)

        def pieces() -> Iterator[bytes]:
            if length and expected and request.version != "HTTP/1.0":
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._input.allow(HEAD_TIMEOUT + length / BODY_RATE)
            while self._unread:
                piece = self.rfile.read1(min(self._unread, 64 << 10))
                if not piece:
                    words = f"only {length - self._unread} of the body's {length} bytes arrived in time: send it again"
                    raise ClincusError(words, 408)
                self._unread -= len(piece)
                yield piece

        return pieces()

    def _answer(self, response: Response, head_only: bool = False) -> None:
        """Write one answer. Nothing else writes answers."""
        # Otherwise the rest of an unread body would be read as the next request.
        self.close_connection = self.close_connection or self._unread > 0
        tally("answer", str(response.status))
        self._send(response_bytes(response, is_last=self.close_connection, head_only=head_only))

    def _send(self, data: bytes) -> None:
        self.connection.settimeout(ANSWER_TIMEOUT)  # for all of it (socket.sendall)
        self.connection.sendall(data)

    def _finish(self) -> None:
        """Close the connection so that the client can read the last answer (RFC 9112, 9.6).

        The kernel resets a connection that is closed with unread input, and then the client loses the answer.
        """
        self._input.allow(self._linger)
        with suppress(OSError):
            self.connection.setblocking(True)
            self.connection.shutdown(socket.SHUT_WR)
            left = LINGER_LIMIT
            while left > 0:
                data = self._input.read(64 << 10)
                if not data:
                    break
                left -= len(data)


LISTENER_POLL = 1e6  # seconds; poll(2) accepts at most 24 days


class Listener(ThreadingHTTPServer):
    """One listening address. Each connection gets a thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        self.site = site
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, cast(Any, lambda connection, *_: Connection(connection, site).serve()))

    def start(self) -> None:
        """Accept connections in a thread of its own until `close`. Only a connection wakes it."""
        threading.Thread(target=self.serve_forever, args=(LISTENER_POLL,), name="listener", daemon=True).start()

    def close(self) -> None:
        """Accept no more connections; open ones continue."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes `serve_forever`
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log why a connection got no thread, such as a limit on threads.

        http.server prints it instead, which ends the accepting thread if stderr is closed.
        """
        log.exception("a connection of %s was dropped", client_address)

    def server_bind(self) -> None:
        """Bind the socket. http.server would also look up its own name in the DNS, which can take long."""
        from socketserver import TCPServer

        TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection. Without free file descriptors, wait a moment instead of spinning."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self.site.gate.refusals.note("all", "descriptors", "no file descriptors are left: see `ulimit -n`")
                time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Accept a connection, or answer 503 if there are too many."""
        if self.site.places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        error = ClincusError(
            "too many connections: close some and try again", "too_many_connections", [("Retry-After", "1")]
        )
        with suppress(OSError):
            request.setblocking(False)
            request.send(response_bytes(error_response(error), is_last=True))
            request.recv(HEAD_LIMIT)  # with unread input, the connection would be reset before the answer is read
        super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close an accepted connection and free its place, unless somebody has taken it over."""
        if request.fileno() >= 0:
            self.site.places.release()
            super().shutdown_request(request)


def open_listener(address: tuple[str, int], site: Site) -> Listener:
    """Listen at an address (name or literal, port). Raises OSError."""
    import http.server

    # `Listener` is defined without its base class, since http.server loads slowly.
    server = type("Server", (Listener, http.server.ThreadingHTTPServer), {})
    return cast(Listener, server(address, site))


# ----------------------------------------------------------------------------------------------------------------
# websocket
# Hands connections to the websockets library; the terminal bridge and the event hub.
# ----------------------------------------------------------------------------------------------------------------

TERMINAL_SUBPROTOCOL = "clincus.terminal.v1"
EVENTS_SUBPROTOCOL = "clincus.events.v1"
# A page cannot send WebSocket pings, so it sends {"type": "ping"} to find out whether the server is still there.
PONG = b'{"type": "pong"}'

# Sizes in bytes. A buffer above its mark is not filled further, so it holds at most its mark and one more read.
BUFFER_MARK = 256 * 1024
READ_SIZE = 64 * 1024
CONTINUATION = 0  # this and the next two are kinds of frames (RFC 6455, 5.2)
TEXT = 1
BINARY = 2
FULL_READ = 4095  # the kernel returns a terminal's output in pieces of a page
MAX_MESSAGE_SIZE = 1024 * 1024

# Times in seconds. A client that has vanished is dropped PING_AFTER + PONG_WITHIN after its last sign of life.
PING_AFTER = 30.0
PONG_WITHIN = 25.0
CLOSE_WITHIN = 5.0
HANGUP_GRACE = 2.0
KILL_GRACE = 5.0

EVENTS_READ = 4096  # for one subscriber at a time, since the others wait meanwhile
MAX_TERMINAL_SIDE = 1000


class CloseCode(enum.IntEnum):
    """The close codes that Clincus sends (RFC 6455 section 7.4; 4000 and up are ours)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    INVALID_DATA = 1007
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    UNKNOWN_SESSION = 4404
    NOT_RUNNING = 4409


def wake(waker: socket.socket) -> None:
    """Wake the poll at the other end of this pair of sockets."""
    with suppress(OSError):  # if it is full or closed, the poll returns anyway
        waker.send(b"\0", socket.MSG_DONTWAIT)


class WebSocket:
    """An upgraded connection: its socket, its protocol state, its deadlines.

    One thread owns it. In a `with` block, the owner calls `wait` until it has `ended`; the end of the block finishes
    the closing handshake (RFC 6455 section 7) and closes all descriptors except the connection, which belongs to the
    HTTP server. Or the owner takes over the connection with `leave_server`, and calls `act` after its own polls. Other
    threads may only call `close`, while the WebSocket is in `OpenSockets`.
    """

    def __init__(self, connection: socket.socket, protocol: ServerProtocol, early: bytes = b"") -> None:
        """Take over `connection`; `early` is what the client sent after its handshake request."""
        self.subprotocol: str | None = protocol.subprotocol
        self.ended = False  # nothing more can be sent or received
        self.connection = connection
        self._protocol = protocol
        self._outgoing = bytearray()  # bytes for the socket, including the answer to the handshake
        self._half_close = False  # half-close after `_outgoing`: the protocol has sent its last byte
        # Complete messages that the owner has not taken yet, and the fragments of the next one.
        self._messages: list[tuple[bool, bytes]] = []
        self._fragments = bytearray()
        self._fragments_are_text = False
        # The client's last sign of life (time.monotonic), and whether a ping was sent since then.
        self._heard_at = time.monotonic()
        self._pinged = False
        self._close_deadline: float | None = None  # when to give up the closing handshake, if it has begun
        self._close_request: tuple[int, str] | None = None  # the code and the reason of `close`
        self._waker: socket.socket | None = None  # wakes the poll of the owner
        self._poll = select.poll()
        self._watched: dict[int, int] = {}  # the descriptors of `_poll` and their masks
        self._feed(early)

    def __enter__(self) -> WebSocket:
        self._wake_pair = socket.socketpair()
        self._wake_reader, self._waker = self._wake_pair
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self.close(CloseCode.INTERNAL_ERROR, "The server failed.")
        try:
            self.end()
        finally:
            self.forget()
            for end in self._wake_pair:
                end.close()

    def leave_server(self, waker: socket.socket, on_end: Callable[[], object]) -> None:
        """Take the connection from the HTTP server, whose thread may end then. `waker` wakes a new owner's poll."""
        self.connection = socket.socket(fileno=self.connection.detach())
        self.connection.setblocking(False)
        self._waker = waker
        self.on_end = on_end

    def forget(self) -> None:
        """Free the protocol after the end. It refers to itself, so Python would free it much later."""
        vars(self._protocol).clear()

    @property
    def open(self) -> bool:
        """True if messages can still be sent: no close was requested, sent or received."""
        return self._close_request is None and self._close_deadline is None and not self.ended

    @property
    def backlog(self) -> int:
        """The number of bytes that the client has not read yet."""
        return len(self._outgoing)

    def send(self, data: bytes | memoryview, *, text: bool = False) -> None:
        """Send a binary message, or UTF-8 as `text`. `wait` sends what TCP does not accept now."""
        if text:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._flush()

    def take_messages(self) -> list[tuple[bool, bytes]]:
        """Return the complete messages that have arrived since the last call: whether each is text, and its data."""
        messages = self._messages
        self._messages = []
        return messages

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake. Only the first call's code and reason count."""
        if self._close_request is None:
            # A control frame holds 125 bytes, two of them the code (RFC 6455 section 5.5).
            self._close_request = (code, reason.encode()[:123].decode(errors="ignore"))
        if self._waker is not None:
            wake(self._waker)

    def end(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close, if that has not begun, and wait for the end of the connection: at most CLOSE_WITHIN seconds."""
        self.close(code, reason)
        while not self.ended:
            self.wait()
            self.take_messages()

    def wait(self, others: Mapping[int, int] = {}, reading: bool = True) -> dict[int, int]:
        """Wait until there is something to do, then do the socket's part of it.

        `others` are further file descriptors to watch, with their poll masks; the ready ones are returned. Without
        `reading` nothing is read from the client, so TCP slows it down.
        """
        if self.ended:
            return {}
        waker = self._wake_reader.fileno()
        connection = self.connection.fileno()
        masks = {**others, waker: select.POLLIN, connection: self.mask(reading)}
        if masks != self._watched:
            self._poll = select.poll()
            self._watched = masks
            for descriptor, mask in masks.items():
                self._poll.register(descriptor, mask)
        # Send nothing before poll: the caller has chosen `others` by the present size of the buffers.
        ready = dict(self._poll.poll(1000 * max(0.0, self.due() - time.monotonic())))
        if ready.pop(waker, 0):
            self._wake_reader.recv(READ_SIZE)
        self.act(ready.pop(connection, 0))
        return ready

    def mask(self, reading: bool = True) -> int:
        """The events of poll(2) to watch the connection for."""
        # Pongs for a client that pings and never reads must not pile up. Terminal output alone stays below this limit.
        mask = select.POLLRDHUP
        if reading and len(self._outgoing) < 2 * BUFFER_MARK:
            mask |= select.POLLIN
        if self._outgoing:
            mask |= select.POLLOUT
        return mask

    def act(self, ready: int, frames: bytes = b"", most: int = READ_SIZE) -> None:
        """Do the connection's part of a round: read up to `most` bytes if poll reports input, and send `frames`."""
        if ready & ~select.POLLOUT:
            self._receive(most if ready & select.POLLIN else 0)
        self._outgoing += frames
        if self._close_request is not None and self._close_deadline is None:
            self._protocol.send_close(*self._close_request)
        self._flush()
        if not self.ended and time.monotonic() >= self.due():
            self._act_on_silence()

    def _receive(self, most: int) -> None:
        try:
            # Without POLLIN in its mask, poll only reports the end of the connection.
            data = self.connection.recv(most) if most else b""
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._heard_at = time.monotonic()
            self._pinged = False
            self._feed(data)
        else:
            self.ended = True

    def _feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for frame in cast("list[Frame]", self._protocol.events_received()):
            if frame.opcode in (TEXT, BINARY):
                self._fragments_are_text = frame.opcode == TEXT
            elif frame.opcode != CONTINUATION:
                continue
            self._fragments += frame.data
            if frame.fin:
                self._messages.append((self._fragments_are_text, bytes(self._fragments)))
                self._fragments.clear()
        self._collect()  # the client may have started to close

    def _collect(self) -> None:
        """Collect the bytes that the protocol wants to send."""
        for data in self._protocol.data_to_send():
            self._outgoing += data
            self._half_close = self._half_close or not data
        if self._protocol.close_expected() and self._close_deadline is None:
            self._close_deadline = time.monotonic() + CLOSE_WITHIN

    def _flush(self) -> None:
        """Send what the protocol wants to send. Call this after each call to the protocol."""
        self._collect()
        try:
            if self._outgoing:
                del self._outgoing[: self.connection.send(self._outgoing)]
            if self._half_close and not self._outgoing:
                self._half_close = False
                self.connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True

    def due(self) -> float:
        """The time (time.monotonic) at which the client will have been silent for too long."""
        if self._close_deadline is not None:
            return self._close_deadline
        return self._heard_at + PING_AFTER + (PONG_WITHIN if self._pinged else 0)

    def _act_on_silence(self) -> None:
        """Ping a silent client; drop one that does not answer, and give up a closing handshake that takes too long.

        A client whose input nobody reads counts as silent, so it is dropped as well.
        """
        if self._close_deadline is not None:
            self.ended = True
            return
        if self._pinged:
            self._protocol.fail(CloseCode.INTERNAL_ERROR, "The client did not answer a ping.")
            self.ended = True
        else:
            self._protocol.send_ping(b"")
            self._pinged = True
        self._flush()


def open_websocket(request: Request, subprotocols: Sequence[str] = ()) -> WebSocket:
    """Turn the connection of a GET request into a WebSocket; use it in a `with` statement.

    The first `WebSocket.wait` sends the answer to the handshake, so the caller can set things up before the client
    knows that it is connected. The first of `subprotocols` that the client offers is chosen. Raises ClincusError 426 if
    the request does not ask for an upgrade, 400 if its handshake is wrong.
    """
    from websockets.exceptions import InvalidUpgrade
    from websockets.http11 import Request as HandshakeRequest  # noqa: F401 (in a cast)
    from websockets.server import ServerProtocol

    def select_subprotocol(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((name for name in cast("Sequence[Subprotocol]", subprotocols) if name in offered), None)

    connection = request.connection.connection
    request.connection.close_connection = True  # from here on, the connection does not carry HTTP
    protocol = ServerProtocol(select_subprotocol=select_subprotocol, max_size=MAX_MESSAGE_SIZE)
    # The library parses the request again, without fields that it does not need: a long cookie could make it fail.
    wanted = re.compile("host|origin|connection|upgrade|sec-websocket-.*", re.IGNORECASE)
    fields = [f"{name}: {value}" for name, value in request.headers.items() if wanted.fullmatch(name)]
    head = "\r\n".join([f"{request.method} / {request.version}", *fields, "", ""])
    protocol.receive_data(head.encode("latin-1"))
    # Without any event, the parser could not read the request.
    for event in protocol.events_received():
        response = protocol.accept(cast("HandshakeRequest", event))
        if response.status_code == 101:
            protocol.send_response(response)
            connection.setblocking(False)
            early = b""
            with suppress(OSError):  # a client may send its first frame in the same packet as the request
                early = request.connection.rfile.peek()
            return WebSocket(connection, protocol, early)
    error = protocol.handshake_exc
    problem = f"{error}: {error.__cause__}" if error and error.__cause__ else str(error)
    status = 426 if isinstance(error, InvalidUpgrade) else 400
    upgrade = [("Upgrade", "websocket")] if status == 426 else []  # RFC 9110, 15.5.22
    raise ClincusError(f"this address speaks WebSocket only, and the handshake failed: {problem}", status, upgrade)


class TerminalSize(NamedTuple):
    """Columns and rows, in the order in which people write them."""

    columns: int
    rows: int


class PtyProgram:
    """A program on a pseudo-terminal of its own, which is its controlling terminal.

    `terminal` is the master side of the terminal, for poll. The terminal hangs up when no process has it open any more,
    which shows the end of the program: `incus exec` starts no process that could outlive it.
    """

    def __init__(self, argv: Sequence[str], size: TerminalSize) -> None:
        """Start `argv`. Raises OSError."""
        self.has_output = True  # the terminal has not hung up: more output may come
        self._room = memoryview(bytearray(READ_SIZE))  # the buffer of `read`
        self.terminal, slave = os.openpty()
        try:
            os.set_blocking(self.terminal, False)
            self.resize(size)
            # setsid(1) makes it the controlling terminal: then closing it ends an `incus exec`, and a new size
            # reaches it. preexec_fn could do that too, but is not safe beside threads.
            environ = {**os.environ, "TERM": "xterm-256color"}
            argv = ["setsid", "--ctty", *argv]
            self._process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environ)
        except BaseException:
            os.close(self.terminal)
            raise
        finally:
            os.close(slave)

    def resize(self, size: TerminalSize) -> None:
        """Set the size of the terminal. The kernel sends SIGWINCH to the program."""
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

    def read(self) -> memoryview:
        """Return the output so far, up to READ_SIZE bytes, valid until the next call. Few large frames are cheapest."""
        size = 0
        while size < READ_SIZE:
            try:
                count = os.readv(self.terminal, [self._room[size:]])
            except BlockingIOError:
                break
            except OSError:
                count = 0  # EIO: no program has the terminal open any more
            self.has_output = count > 0
            size += count
            if count < FULL_READ:  # after a full read more output follows at once, after a short one there is none
                break
        return self._room[:size]

    def write(self, data: bytearray) -> int:
        """Type `data`; returns how many of its bytes the terminal accepted."""
        try:
            return os.write(self.terminal, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # no program is left to read it

    def end(self) -> int:
        """Hang up, kill the program if it does not exit within HANGUP_GRACE, and return its exit code.

        A program that has exited by itself gets no signal. An `incus exec` with an interactive shell outlives its
        terminal, so it needs a signal. It forwards signals only while it has a terminal, so the terminal is closed
        afterwards.
        """
        if not self.has_output:
            self._wait(HANGUP_GRACE)
        for number, grace in ((signal.SIGHUP, HANGUP_GRACE), (signal.SIGKILL, KILL_GRACE)):
            if self._process.poll() is None:
                try:
                    os.killpg(self._process.pid, number)
                except ProcessLookupError:  # it has not called setsid yet
                    self._process.send_signal(number)
                self._wait(grace)
        os.close(self.terminal)
        if self._process.returncode is None:
            return 128 + signal.SIGKILL
        return exit_code(self._process)

    def _wait(self, seconds: float) -> None:
        """Wait for the exit, and discard the output: a program that is blocked in a write could not exit."""
        deadline = time.monotonic() + seconds
        poll = poll_on(self.terminal, select.POLLIN)
        while self.has_output:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                break
            self.read()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))


BEGINNING_SIZE = 512  # bytes at the start of the output in which Incus may report that it lost the program


class TerminalBridge:
    """Connects a WebSocket to a program on a pseudo-terminal, with one thread and one poll.

    Output is read while the client keeps up, input is read while the program keeps up, and neither waits for the
    other. So Ctrl-C arrives even if much output is waiting, and a client that stops reading stops the program instead
    of filling memory.
    """

    def __init__(
        self, websocket: WebSocket, argv: Sequence[str], size: TerminalSize | None = None, *, readonly: bool = False
    ) -> None:
        """Prepare the bridge; `run` starts the program.

        A program that Incus did not begin is started again. With `readonly` the client's input is dropped. The client
        still sizes its own terminal, so `argv` must not pass the size on to others (`tmux attach -r -f ignore-size`).
        For a client of TERMINAL_SUBPROTOCOL, text messages are control messages, and one of them announces the exit;
        otherwise every message is input.
        """
        self._websocket = websocket
        self._argv = argv
        self._size = size or TerminalSize(80, 24)
        self._readonly = readonly
        self._control = websocket.subprotocol == TERMINAL_SUBPROTOCOL
        self._input = bytearray()  # typed, but not accepted by the terminal yet
        self._beginning = b""  # the first bytes of the output
        self._paused = False  # the client wants no output until it sends "resume"

    def run(self) -> None:
        """Run the program until it exits or the connection is closed. Leaves no process behind."""
        for starts_left in reversed(range(BEGIN_TRIES)):
            try:
                program = PtyProgram(self._argv, self._size)
            except OSError as error:
                self._websocket.end(CloseCode.INTERNAL_ERROR, f"The terminal could not be started: {error}")
                return
            self._beginning = b""
            try:
                self._pump(program)
                exited_by_itself = not program.has_output
            finally:
                code = program.end()
            is_lost = exited_by_itself and code in (1, 255) and has_not_begun(self._beginning)
            if not (is_lost and starts_left):
                break
        reason = f"The program ended with exit code {code}."
        if exited_by_itself and self._control and self._websocket.open:
            notice = {"type": "exit", "code": code, "reason": reason}
            self._websocket.send(json.dumps(notice).encode(), text=True)
        self._websocket.end(CloseCode.NORMAL, reason)

    def _pump(self, program: PtyProgram) -> None:
        """Copy bytes in both directions until one side is gone."""
        websocket = self._websocket
        while websocket.open and program.has_output:
            # If nobody reads the output, it is not taken from the program, which then stops.
            listens = not self._paused and websocket.backlog < BUFFER_MARK
            mask = 0
            if listens:
                mask |= select.POLLIN
            if self._input:
                mask |= select.POLLOUT
            # poll reports a hung-up terminal even with an empty mask, which would be a busy loop.
            watched = {program.terminal: mask} if mask else {}
            ready = websocket.wait(watched, reading=len(self._input) < BUFFER_MARK)
            for is_text, data in websocket.take_messages():
                if is_text and self._control:
                    self._obey(data, program)
                elif not self._readonly:
                    self._input += data
            if self._input:
                del self._input[: program.write(self._input)]
            may_send = listens and websocket.open and not self._paused  # a message may have paused it just now
            has_output = ready.get(program.terminal, 0) & ~select.POLLOUT
            if may_send and has_output:
                output = program.read()
                if output:
                    self._beginning += output[: BEGINNING_SIZE - len(self._beginning)]
                    websocket.send(output)

    def _obey(self, data: bytes, program: PtyProgram) -> None:
        """Obey a control message. Unknown types and impossible sizes are ignored, so that newer clients work."""
        try:
            request = json.loads(data.decode())
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            words = "A text message must be a JSON object; input goes in binary messages."
            self._websocket.close(CloseCode.INVALID_DATA, words)
        elif request.get("type") == "resize":
            sides = (request.get("cols"), request.get("rows"))
            if all(type(side) is int and 1 <= side <= MAX_TERMINAL_SIDE for side in sides):
                self._size = TerminalSize(*cast("tuple[int, int]", sides))
                program.resize(self._size)
        elif request.get("type") in ("pause", "resume"):
            self._paused = request["type"] == "pause"
        elif request.get("type") == "ping" and self._websocket.open:
            self._websocket.send(PONG, text=True)


GOING_AWAY = (CloseCode.GOING_AWAY, "The server is shutting down.")


class OpenSockets:
    """The open WebSockets and the session of each, so that other threads can close them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # WebSocket -> session id; "" if it belongs to no session.
        self._sessions: dict[WebSocket, str] = {}
        self._is_over = False  # the server is shutting down

    @contextmanager
    def track(self, websocket: WebSocket, session_id: str = "") -> Iterator[None]:
        """Keep `websocket` in the list while the `with` block runs."""
        with self._changed:
            self._sessions[websocket] = session_id
            if self._is_over:
                websocket.close(*GOING_AWAY)
        try:
            yield
        finally:
            with self._changed:
                del self._sessions[websocket]
                self._changed.notify_all()

    def close_session(self, session_id: str, code: int, reason: str) -> None:
        """Close all WebSockets of one session."""
        with self._changed:
            for websocket, owner in self._sessions.items():
                if owner == session_id:
                    websocket.close(code, reason)

    def close_all(self, timeout: float) -> None:
        """Close all WebSockets, and each new one from now on; wait up to `timeout` seconds for their end."""
        with self._changed:
            self._is_over = True
            for websocket in self._sessions:
                websocket.close(*GOING_AWAY)
            self._changed.wait_for(lambda: not self._sessions, timeout)


class EventHub:
    """Sends each event to all subscribers, in order, from one thread. A subscriber that does not keep up is dropped."""

    def __init__(self) -> None:
        self.greetings: dict[str, Mapping[str, object] | None] = {}  # events for each new client of EVENTS_SUBPROTOCOL
        self.revision = 0  # number of events so far; while it is the same, nothing a page can see has changed
        self.subscribers: dict[int, WebSocket] = {}  # by descriptor; the thread removes those that have ended
        self._lock = threading.Lock()  # held while something is passed to the thread
        # Frame, and whether only EVENTS_SUBPROTOCOL gets it. No extension is negotiated, so one frame serves all.
        self._events: list[tuple[bytes, bool]] = []
        self._thread: threading.Thread | None = None
        self._is_over = False

    def start(self) -> None:
        """Start the thread that sends."""
        self._wake_reader, self._waker = socket.socketpair()
        self._poll = poll_on(self._wake_reader, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="telling events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started. What is published from now on reaches nobody."""
        if self._thread is None:
            return
        self._is_over = True
        wake(self._waker)
        self._thread.join()
        self._wake_reader.close()
        self._waker.close()

    def publish(self, event: Mapping[str, object], extension: bool = False) -> None:
        """Send `event` to all, or with `extension` to clients of our subprotocol only. It never blocks."""
        data = json.dumps(event, ensure_ascii=False).encode()
        with self._lock:
            self.revision += 1
            if not self.subscribers:
                return
            from websockets.frames import Frame, Opcode

            self._events.append((Frame(Opcode.TEXT, data).serialize(mask=False), extension))
        wake(self._waker)

    def subscribe(self, websocket: WebSocket, on_end: Callable[[], object]) -> None:
        """Own `websocket` until it has ended. It gets everything that is published after its handshake."""
        websocket.leave_server(self._waker, on_end)
        with self._lock:
            greetings = list(self.greetings.values()) if websocket.subprotocol == EVENTS_SUBPROTOCOL else []
            for event in filter(None, greetings):
                if websocket.open:  # a client may send its close frame in the same packet as the handshake
                    websocket.send(json.dumps(event, ensure_ascii=False).encode(), text=True)
            self._poll.register(websocket.connection, select.POLLOUT)
            self.subscribers[websocket.connection.fileno()] = websocket
        wake(self._waker)

    def _run(self) -> None:
        while not self._is_over:
            due = min((websocket.due() for websocket in list(self.subscribers.values())), default=None)
            patience = None if due is None else 1000 * max(0.0, due - time.monotonic())
            ready = dict(self._poll.poll(patience))
            if self._wake_reader.fileno() in ready:
                self._wake_reader.recv(READ_SIZE)
            with self._lock:
                events = self._events
                self._events = []
            public = b"".join(frame for frame, extension in events if not extension)
            everything = b"".join(frame for frame, _ in events)
            now = time.monotonic()
            for descriptor, websocket in list(self.subscribers.items()):
                frames = everything if websocket.subprotocol == EVENTS_SUBPROTOCOL else public
                if frames or descriptor in ready or not websocket.open or now >= websocket.due():
                    self._attend(descriptor, websocket, ready.get(descriptor, 0), frames)

    def _attend(self, descriptor: int, websocket: WebSocket, ready: int, frames: bytes) -> None:
        """Send `frames` to one subscriber, read what it has sent, and drop it if it has ended or is too slow."""
        try:
            if frames and websocket.backlog >= BUFFER_MARK:
                websocket.close(CloseCode.TRY_AGAIN_LATER, "Too slow: events were lost. Connect again.")
            websocket.act(ready, frames if websocket.open else b"", EVENTS_READ)
            # A client may ask whether we are still there. Any other message is ignored.
            if any(b'"ping"' in data for _, data in websocket.take_messages()) and websocket.open:
                websocket.send(PONG, text=True)
        except Exception:
            log.exception("a subscriber of events failed")
            websocket.ended = True
        if not websocket.ended:
            self._poll.register(descriptor, websocket.mask())
            return
        self._poll.unregister(descriptor)
        del self.subscribers[descriptor]
        websocket.connection.close()
        websocket.forget()
        websocket.on_end()


# ----------------------------------------------------------------------------------------------------------------
# server
# Connects the sections above: handlers, config polling, the listeners, shutdown.
# ----------------------------------------------------------------------------------------------------------------

# Times in seconds.
RELIST_DELAY = 1.0  # `incus monitor` does not say when it listens: a second look closes the gap
LOOK_INTERVAL = 60.0  # between looks at what runs, in case of a lost event or a daemon that hangs
WHOLE_INTERVAL = 600.0  # between looks at everything, in case a lost event was about something else
ENGINE_INTERVAL = 15.0  # as LOOK_INTERVAL, for a remote: a connection that is cut off reports nothing
ENGINE_PATIENCE = 8.0  # for a remote to answer such a look
OTHERS_WAIT = 2.0  # for which a list of all sessions waits for the first answer of an engine
RETRY_DELAY = 2.0
POLL_INTERVAL = 1.0  # between looks at the config files and at overdue connections

EVENT_LIMIT = 1 << 20  # bytes of one event of Incus


def survive(what: str, work: Callable[[], object], known: str = "") -> str:
    """Do a piece of work, and return what failed, or "". A failure is logged, unless it is the `known` one."""
    try:
        work()
    except Exception as error:
        failure = repr(error)
        if failure == known:
            return failure
        if isinstance(error, ClincusError):
            log.warning("%s: %s", what, error)
        else:
            log.exception("%s failed", what)
        return failure
    return ""


def repeat(
    what: str, work: Callable[[], object], pause: float, stopping: threading.Event, first: float = 0.0
) -> threading.Thread:
    """Start a thread that does `work` after `first` seconds, and again `pause` seconds after each end.

    It repeats this until `stopping`, even if the work fails. A failure is logged once while it stays the same.
    """

    def run() -> None:
        failure = ""
        delay = first
        while not stopping.wait(delay):
            failure = survive(what, work, failure)
            delay = pause

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    return thread


def read_lines(stream: IO[bytes], patience: Callable[[], float]) -> Iterator[bytes]:
    """Yield the lines of a stream as they arrive, and an empty line whenever `patience()` seconds are over."""
    poll = poll_on(stream, select.POLLIN)
    rest = b""
    while True:
        if not poll.poll(1000 * max(0.0, patience())):
            yield b""
            continue
        data = os.read(stream.fileno(), READ_SIZE)
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if not data or len(rest) > EVENT_LIMIT:
            return


class Monitor:
    """Follows an engine: asks about instances that its lifecycle events name, and about everything at times."""

    def __init__(self, engine: Engine, sessions: Sessions, history: History) -> None:
        self.engine = engine
        self._interval = ENGINE_INTERVAL if engine.name else LOOK_INTERVAL
        self._patience = ENGINE_PATIENCE if engine.name else 30.0
        self._history = history
        self._sessions = sessions
        self._next_look = 0.0  # time.monotonic
        self._next_whole_look = 0.0

    def start(self) -> None:
        """Read all sessions, so that the first request finds them, and follow the events until `Engine.stop`."""
        what = f"following Incus {self.engine.name}"
        self.engine.thread = repeat(what, self._follow, RETRY_DELAY, self.engine.stopping)

    def _follow(self) -> None:
        engine = self.engine
        try:
            while not engine.stopping.is_set():
                self._listen()
        except ClincusError as error:
            engine.note_reach(error.message)
        except Exception as error:
            what = f"engine {engine.name}: its answer is no use" if engine.name else "Clincus failed to follow Incus"
            engine.note_reach(f"{what}: {error!r}")
            raise

    def _listen(self) -> None:
        """Look at everything, then at each instance that an event names. Raises ClincusError if Incus is lost."""
        engine = self.engine
        engine.is_stale = False
        with engine.incus.fresh_door().monitor() as stream:
            engine.stream = stream
            if engine.stopping.is_set() or engine.is_stale:
                return  # somebody ended the stream just before this process started, and did not reach it
            self._sessions.refresh(engine.name, self._patience)
            survive("history", self._close_runs)
            engine.note_reach("")
            self._next_look = time.monotonic() + RELIST_DELAY
            self._next_whole_look = self._next_look
            for line in read_lines(stream.stdout, lambda: self._next_look - time.monotonic()):
                if line:
                    engine.incus.signs.note()
                    self._handle(line)
                if time.monotonic() >= self._next_look:
                    self._look()
            with suppress(subprocess.TimeoutExpired):
                stream.process.wait(1)  # before it exits, it writes the reason
            stream.end()
            said = stream.stderr.read(4096)
        if not engine.is_stale:
            raise incus_failure(said.decode("utf-8", "replace"), engine.name)

    def _close_runs(self) -> None:
        """End the runs in the history whose stop nobody saw."""
        running = set()
        for session in self._sessions.registry.all():
            if session.status != "stopped" or session.paused or session.unreachable_since:
                running.add(session.id)
        self._history.close_runs(running, utc_now(), self.engine.name)

    def _look(self) -> None:
        """Look at what runs, and from time to time at everything. If only this is late, look again soon."""
        began = time.monotonic()
        is_whole = began >= self._next_whole_look
        try:
            self._sessions.refresh(self.engine.name, self._patience, whole=is_whole)
        except IncusError as error:
            is_late = error.kind in {FailureKind.HANGS, FailureKind.OVERLOADED, FailureKind.NOT_BEGUN}
            if not (is_late and self.engine.incus.signs.since(began)):
                raise
            self._next_look = time.monotonic() + RETRY_DELAY
            return
        self._next_look = time.monotonic() + self._interval
        if is_whole:
            self._next_whole_look = time.monotonic() + WHOLE_INTERVAL

    def _handle(self, line: bytes) -> None:
        """Act on a lifecycle event. A line of another form is ignored."""
        registry = self._sessions.registry
        try:
            event = parse_json(line)
            metadata = event["metadata"]
            moment = parse_time(event["timestamp"])
            action = metadata["action"]
            name = metadata["name"]
            may_differ = LOOK_AFTER.fullmatch(action)
            old_name = (metadata.get("context") or {}).get("old_name", name)  # of a renamed instance
            names = [each for each in {old_name, name} if session_slot(registry.prefix, each) is not None]
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if moment is None:
            return
        for each in names:
            id = session_id_on(self.engine.name, each)
            if action == "instance-ready":
                registry.ring(id, moment)
            elif action == "instance-created" and registry.is_reserved(id):
                continue  # this process is creating it, and reports its start
            elif may_differ:
                look = functools.partial(self._sessions.look, id, format_time(moment))
                survive(f"event {action} of {id}", look)


class Application:
    """Everything that `clincus serve` runs. Owns the config in force and the listeners."""

    def __init__(
        self,
        environ: Mapping[str, str],
        flags: Mapping[str, object],
        *,
        hosts: Sequence[str] = LOOPBACK,
        gate: Gate | None = None,
    ) -> None:
        self.environ = dict(environ)
        self._flags = dict(flags)
        self.extensions = install_features(self)
        self._files = config_files(environ)  # every path that counts, whether it exists or not
        self.config = self._read_config()  # in force
        self.config_error: str | None = None  # what is wrong with the files; the last good config stays in force
        self._config_lock = threading.Lock()
        self.on_address: Callable[[str], object] = lambda url: None  # gets the new URL when the dashboard has moved
        self._hosts = hosts
        self._listeners: list[Listener] = []
        self._stopping = threading.Event()
        self.hub = EventHub()
        self.sockets = OpenSockets()
        self.history = History(own_file(environ, "history.jsonl"))
        incus = engine_door(self.config, "")
        self.registry = Registry(
            container_prefix(environ), self._on_change, row_of=lambda tool: row_by_config(tool, self.config)
        )
        self.sessions = Sessions(incus, self.registry, lambda: self.config, environ, extensions=self.extensions)
        self.workspaces = Workspaces(lambda: self.config, environ, self.registry.all)
        self.router = Router(load_contract())
        for route in (*api_routes(self), *self.extensions.routes):
            self._add_route(*route)
        assets = Assets(lambda path: packaged_file(f"spa_dist/{path}"))
        self.site = Site(self.router, assets, gate or Gate(), threading.Semaphore(CONNECTION_LIMIT), self.extensions)

    def _add_route(self, method: str, path: str, handler: Handler) -> None:
        """Add a route, with the wrappers of features around its handler. A failure leaves out this route only."""
        for wrap in self.extensions.wrappers:
            handler = wrap(method, path, handler)
        survive(f"the route {method} {path}", functools.partial(self.router.add, method, path, handler))

    @property
    def engines(self) -> Mapping[str, Engine]:
        """Every engine by its name; that of this host is ""."""
        return self.sessions.engines

    @property
    def port(self) -> int:
        """The port of the listeners."""
        return int(self._listeners[0].server_address[1])

    @property
    def url(self) -> str:
        """The URL of the dashboard for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._hosts[0], self._hosts[0])
        if ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Listen and start the threads. Raises ClincusError if the port is in use."""
        self._listeners = self._bind(self.config.get("dashboard.port"), hint=". Choose another with --port")
        self.hub.start()
        for listener in self._listeners:
            listener.start()
        self._tell_port()
        self.follow("")
        call_each(self.extensions.config_listeners)
        repeat("looking at the config", self._follow_config, POLL_INTERVAL, self._stopping)
        for duty in self.extensions.duties:
            if not duty.each_engine:
                repeat(duty.name, duty.work, duty.period, self._stopping, first=duty.period)

    def close(self) -> None:
        """End everything in order: accept no connection, close WebSockets with a code, end child processes."""
        self._stopping.set()
        for listener in self._listeners:
            listener.close()
        self.sockets.close_all(CLOSE_WITHIN + HANGUP_GRACE + 1)
        self.hub.stop()
        stop_engines(self.engines.values())

    def save_settings(self, changes: Mapping[str, Any]) -> None:
        """Save settings of the dashboard, by dotted key, and apply them. Raises ClincusError: 400, 409, 500."""
        with self._config_lock:
            port = changes.get("dashboard.port", self.port)
            # Bound before anything is written, so that a port in use changes nothing.
            moved = [] if port == self.port else self._bind(port)
            try:
                save_dashboard(self.environ, changes)
            except BaseException:
                for listener in moved:
                    listener.server_close()
                raise
            if "dashboard.port" in changes:  # it overrides the flag and the variable of the start
                self._flags.pop("dashboard.port", None)
                self.environ.pop("CLINCUS_PORT", None)
            self._reload()
            if moved:
                self._move_to(moved)

    def require(self, engine: str) -> None:
        """Raise ClincusError: 404 if the config does not have an engine, 503 with the reason if it does not answer."""
        self.sessions.engine(engine).require()

    def all_sessions(self) -> list[Session]:
        """All sessions, including unreachable ones.

        Raises ClincusError(503) if Incus on this host cannot be reached, and there is no other engine.
        """
        engines = self.engines
        if len(engines) == 1:
            engines[""].require()
        end = time.monotonic() + OTHERS_WAIT
        for engine in engines.values():
            engine.looked.wait(end - time.monotonic())
        return self.registry.all()

    def known_session(self, id: str) -> Session:
        """A session, in its last known state if it is unreachable. Raises ClincusError: 404, 503."""
        self.all_sessions()
        return self.registry.get(id)

    def reachable_session(self, id: str) -> Session:
        """A reachable session. Raises ClincusError: 404, 503 while its engine or cluster member does not answer."""
        engine = engine_of(id)
        if engine in self.engines:
            self.require(engine)
        session = self.registry.get(id)
        if session.unreachable_since:
            place = f'the member "{session.member}" of the engine "{session.engine}"'
            raise ClincusError(f"{place} cannot be reached since {session.unreachable_since}", "incus_unreachable")
        return session

    def running_session(self, id: str) -> Session:
        """A running session. Raises ClincusError: 404, 409 if it does not run, 503 while Incus is unreachable."""
        session = self.reachable_session(id)
        if session.status != "running":
            state = "paused" if session.paused else session.status
            raise ClincusError(f'session "{id}" is {state}: resume it first', "session_not_running")
        return session

    def _on_change(self, change: Change) -> None:
        session = change.session
        record_run(self.history, change, log.warning)
        if change.kind == "stopped":
            self.sockets.close_session(session.id, CloseCode.NOT_RUNNING, "The session has stopped.")
        moment = {"rang": "ring", "resumed": "started"}.get(change.kind, change.kind)
        self.extensions.tell(moment, session)
        public = {"started": "session.started", "resumed": "session.started", "stopped": "session.stopped"}
        event = {"type": public.get(change.kind, "session.changed"), "id": session.id}
        if change.kind == "rang":
            event["rang_at"] = session.rang_at  # nothing else has changed
        self.hub.publish(event, extension=change.kind not in public)

    def follow(self, name: str) -> None:
        """Follow an engine of the config, and start the duties for each engine. Raises ClincusError(404)."""
        engine = self.sessions.engine(name)
        engine.on_reach = self._on_reach
        Monitor(engine, self.sessions, self.history).start()
        for duty in self.extensions.duties:
            if duty.each_engine:
                work = functools.partial(duty.work, name)
                repeat(f"{duty.name} {name}".strip(), work, duty.period, engine.stopping, first=duty.period)

    def forget_engines(self, names: Collection[str]) -> None:
        """Stop following engines, and stop showing their sessions; the sessions run on."""
        stop_engines([self.engines[name] for name in names])
        for name in names:
            self.sessions.forget_engine(name)

    def _on_reach(self, engine: str, error: str) -> None:
        if engine:
            event = {"type": "engine.changed", "engine": engine, "error": error}
        elif error:
            event = {"type": "incus.unreachable", "error": error}
            self.hub.greetings["incus"] = event
        else:
            event = {"type": "incus.reachable"}
            self.hub.greetings["incus"] = None
        self.hub.publish(event, extension=True)

    def _bind(self, port: int, hint: str = "") -> list[Listener]:
        """Bind every address at one port. `hint` ends the error message with advice.

        A machine may lack an address other than the first (IPv6 is often off). If another program has the port there,
        that is an error: a browser that opens http://localhost:PORT would send its cookies to that program.
        """
        listeners: list[Listener] = []
        for host in self._hosts:
            try:
                listeners.append(open_listener((host, port), self.site))
            except OSError as error:
                if listeners and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    continue
                for listener in listeners:
                    listener.server_close()
                place = f" on {host}" if listeners else ""
                raise ClincusError(
                    f"port {port} cannot be used{place}: {error.strerror}{hint}", "port_in_use"
                ) from error
            port = int(listeners[0].server_address[1])
        return listeners

    def _tell_port(self) -> None:
        with suppress(OSError):  # it helps the command line only
            os.makedirs(state_directory(self.environ), mode=0o700, exist_ok=True)
            replace_file(own_file(self.environ, "port"), f"{self.port}\n".encode(), 0o600)

    def _move_to(self, listeners: list[Listener]) -> None:
        old = self._listeners
        self._listeners = listeners
        for listener in listeners:
            listener.start()
        self._tell_port()
        log.info("Dashboard running at %s", self.url)
        self.on_address(self.url)
        for listener in old:
            listener.close()

    def _follow_config(self) -> None:
        """Wait until the config files change, and load them."""
        while config_fingerprint(self._files) == self._fingerprint:
            time.sleep(POLL_INTERVAL)  # takes half the CPU of waiting for an event too, which is most of each look
            if self._stopping.is_set():
                return
        with self._config_lock:
            if config_fingerprint(self._files) == self._fingerprint:
                return
            before = self.config.get("dashboard.port")
            self._reload()
            port = self.config.get("dashboard.port")
            if port not in (before, self.port):
                try:
                    self._move_to(self._bind(port))
                except ClincusError as error:
                    self._set_config_error(f"{error.message} (still on port {self.port})")

    def _read_config(self) -> Config:
        """Read the files. Raises ConfigError."""
        # A setting that an edit has overruled is removed: undoing that edit must not bring it back.
        with suppress(ClincusError):  # a broken file is reported by `load_config`
            save_dashboard(self.environ, {})
        self._fingerprint = config_fingerprint(self._files)
        return load_config(self.environ, flags=self._flags)

    def _reload(self) -> None:
        """Read the files again. If one is broken, the last good config stays in force."""
        before = self.config
        try:
            self.config = self._read_config()
        except ClincusError as error:
            self._set_config_error(error.message)
            return
        self.config_error = None
        project = self.config.get("incus.project")
        if project != before.get("incus.project"):
            here = self.engines[""]
            here.incus.project = project
            here.reconnect()
        call_each(self.extensions.config_listeners)
        self.hub.greetings["config"] = None
        self.hub.publish({"type": "config.reloaded", "timestamp": utc_now()})

    def _set_config_error(self, message: str) -> None:
        log.error("config not reloaded: %s", message)
        self.config_error = message
        event = {"type": "config.error", "error": message}
        self.hub.greetings["config"] = event
        self.hub.publish(event, extension=True)


def list_history(app: Application, request: Request) -> Response:
    """Answer GET /api/sessions/history: one page of the matching runs, and their total number."""
    values = request.values
    words = (values["q"] or "").lower().split()
    tool = values["tool"] or ""
    runs = app.history.runs()
    if tool:
        runs = [run for run in runs if run.tool == tool]
    if words:
        runs = [run for run in runs if all(word in app.extensions.words_of(run) for word in words)]
    start = place_behind(runs, values["before"]) if values["before"] else 0
    start += values["offset"]
    page = runs[start : start + values["limit"]]
    documents = [{**run.document(), **app.extensions.fields_of(run)} for run in page]
    headers = [("X-Total-Count", str(len(runs)))]
    if page and start + len(page) < len(runs):
        query = {"limit": values["limit"], "before": run_mark(page[-1]), "q": values["q"], "tool": tool}
        given = urls.urlencode({name: value for name, value in query.items() if value})
        headers.append(("Link", f'</api/sessions/history?{given}>; rel="next"'))
    response = json_response(documents, headers=[*headers, ("Cache-Control", "private, no-cache")])
    return Content(response.body).answer(request, response.headers)


def run_mark(run: Run) -> str:
    """The mark of a run for `before` of GET /api/sessions/history; a container has only one start at a time."""
    return f"{run.started_at},{run.id}"


def place_behind(runs: Sequence[Run], mark: str) -> int:
    """The index of the first run behind the one of a mark, or behind its time if it is gone. Raises ClincusError(400).

    The runs are the newest first.
    """
    started_at = mark.partition(",")[0]
    if parse_time(started_at) is None:
        raise ClincusError(f"before: '{shorten(mark)}' is no mark of a run: take it from the header Link", 400)
    for index, run in enumerate(runs):
        if run_mark(run) == mark:
            return index + 1
        if run.started_at < started_at:
            return index
    return len(runs)


def open_terminal(app: Application, request: Request, shell: bool = False) -> None:
    """Bridge a WebSocket to the terminal of a session's tool, or to its shell's."""
    values = request.values
    try:
        session = app.running_session(values["id"])
    except ClincusError as error:
        if TERMINAL_SUBPROTOCOL not in request.options("Sec-WebSocket-Protocol"):
            raise
        # A page cannot read a refused handshake, so it gets the reason with a close code.
        codes = {404: CloseCode.UNKNOWN_SESSION, 409: CloseCode.NOT_RUNNING}
        with open_websocket(request, [TERMINAL_SUBPROTOCOL]) as websocket:
            websocket.end(codes.get(error.status, CloseCode.TRY_AGAIN_LATER), error.message)
        return
    readonly = values.get("readonly", False)
    size = TerminalSize(values["cols"], values["rows"])
    how = "own-mouse" if values["own_mouse"] else "mouse"
    if readonly:
        how = "watch"
    argv = app.sessions.terminal_argv(session, how, shell=shell)
    with open_websocket(request, [TERMINAL_SUBPROTOCOL]) as websocket, app.sockets.track(websocket, session.id):
        TerminalBridge(websocket, argv, size, readonly=readonly).run()


def put_config(app: Application, request: Request) -> object:
    """Answer PUT /api/config: save the given settings."""
    changes = {f"dashboard.{name}": value for name, value in request.values.items() if value is not None}
    for root in changes.get("dashboard.workspace_roots", ()):
        app.workspaces.check_root(root)
    if changes:
        app.save_settings(changes)
    return {"status": "updated"}


def create_session(app: Application, request: Request) -> object:
    """Answer POST /api/sessions: start a session."""
    given = {name: value for name, value in request.values.items() if value is not None}
    app.require(given.get("engine", ""))
    return app.sessions.document(app.sessions.create(LaunchRequest(**given)))


def delete_session(app: Application, request: Request) -> object:
    """Answer DELETE /api/sessions/{id}: stop a session, or delete it."""
    force = request.values["force"]
    id = app.reachable_session(request.values["id"]).id
    copies: list[str] = []
    app.sessions.end(id, delete=force, even_unsaved=force, on_kept=copies.append)
    return Response(204, headers=kept_header(copies))


def resume_session(app: Application, request: Request) -> object:
    """Answer POST /api/sessions/{id}/resume."""
    session = app.reachable_session(request.values["id"])
    accepts = bool(request.values.get("accept_changes"))
    again = LaunchRequest(session.workspace, accept_changes=accepts)
    return app.sessions.document(app.sessions.resume(session.id, again))


def save_roots(app: Application, roots: list[str]) -> object:
    """Save the workspace roots, and return the answer of GET /api/workspaces."""
    if roots != list(app.config.get("dashboard.workspace_roots")):
        app.save_settings({"dashboard.workspace_roots": roots})
    return app.workspaces.document()


def add_workspace(app: Application, request: Request) -> object:
    """Answer POST /api/workspaces: add a workspace root."""
    return save_roots(app, app.workspaces.with_root(request.values["path"]))


def remove_workspace(app: Application, request: Request) -> object:
    """Answer DELETE /api/workspaces: remove a workspace root."""
    path = request.values["path"]
    if not path:
        raise ClincusError('"path" is missing: name the root to remove in the body or as ?path=', 400)
    return save_roots(app, app.workspaces.without_root(path))


def send_events(app: Application, request: Request) -> None:
    """Subscribe a WebSocket to events. The hub owns it from then on, and this thread ends."""
    websocket = open_websocket(request, [EVENTS_SUBPROTOCOL])
    ending = ExitStack()
    ending.enter_context(app.sockets.track(websocket))
    ending.callback(app.site.places.release)
    try:
        app.hub.subscribe(websocket, ending.close)
    except BaseException:
        ending.close()
        raise


def api_routes(app: Application) -> list[tuple[str, str, Handler]]:
    """Method, path in openapi.json and handler of every route of the core."""
    routes: list[tuple[str, str, Callable[[Application, Request], object]]] = [
        ("GET", "/api/config", lambda app, request: config_document(app.config)),
        ("PUT", "/api/config", put_config),
        ("GET", "/api/tools", lambda app, request: list(all_tools(app.config))),
        ("GET", "/api/sessions", lambda app, request: list(map(app.sessions.document, app.all_sessions()))),
        ("POST", "/api/sessions", create_session),
        ("DELETE", "/api/sessions/{id}", delete_session),
        ("POST", "/api/sessions/{id}/resume", resume_session),
        ("GET", "/api/sessions/history", list_history),
        ("GET", "/api/workspaces", lambda app, request: app.workspaces.document()),
        ("POST", "/api/workspaces", add_workspace),
        ("DELETE", "/api/workspaces", remove_workspace),
        ("POST", "/api/workspaces/folder", lambda app, request: {"path": app.workspaces.make_folder(**request.values)}),
        ("GET", "/ws/terminal/{id}", open_terminal),
        ("GET", "/ws/events", send_events),
    ]
    return bound_routes(routes, app)


# ----------------------------------------------------------------------------------------------------------------
# main
# `serve` is here, every other command in clincus_cli.
# ----------------------------------------------------------------------------------------------------------------


def serve(
    port: int | None,
    *,
    hosts: Sequence[str] = LOOPBACK,
    gate: Gate | None = None,
    on_address: Callable[[str], object] = lambda url: None,
) -> int:
    """Serve until Ctrl-C or SIGTERM; a second one ends the process at once. Raises ClincusError.

    `on_address` gets the URL of the dashboard when it runs, and again when it has moved.
    """
    import resource

    with suppress(ValueError, OSError):  # a terminal takes four file descriptors: allow as many as possible
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gate = gate or Gate()
    app = Application(os.environ, {"dashboard.port": port}, hosts=hosts, gate=gate)
    app.start()
    end = catch_end_signals()
    # Only the person at the terminal may see the token; it must not get into a log.
    link = f"{app.url}/?token={urls.quote(gate.token, safe='')}" if gate.token else app.url
    log.info("Dashboard running at %s", link if sys.stderr.isatty() else app.url)
    app.on_address = on_address
    on_address(app.url)
    os.read(end, 1)
    app.close()
    return 0


def catch_end_signals() -> int:
    """Return a descriptor that becomes readable when a signal asks for the end. The next signal ends the process.

    Python writes to it when the signal arrives (signal.set_wakeup_fd), so none is missed just before the wait begins.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]

    def end(first: int, frame: object) -> None:
        for number in numbers:
            signal.signal(number, lambda second, _: os._exit(128 + second))

    for number in numbers:
        signal.signal(number, end)
    return reader


def serve_alone(words: Sequence[str]) -> int:
    """The command line of a copy without clincus_cli: it only has `serve`."""
    import argparse

    parser = argparse.ArgumentParser("clincus", description="Clincus's dashboard and its API.", allow_abbrev=False)
    parser.add_argument("command", choices=["serve"], help="the only command of a copy without clincus_cli/")
    parser.add_argument("--port", type=int)
    try:
        return serve(parser.parse_args(words).port)
    except ClincusError as error:
        print(f"Error: {printable(error.message)}", file=sys.stderr)
        return 1


def main() -> int:
    """Run the command line and return its exit code; see clincus_cli/start.py."""
    try:
        from clincus_cli import start
    except ModuleNotFoundError as error:
        if error.name != "clincus_cli":
            raise
        return serve_alone(sys.argv[1:])
    return start.main()


if __name__ == "__main__":
    sys.modules["clincus"] = sys.modules["__main__"]  # an import by name finds this same module
    sys.exit(main())
