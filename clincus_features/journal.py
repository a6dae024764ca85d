"""The journal: each request that changes something, its sender, and its result.

Each write gets a line in the log and one in `audit.jsonl` below `paths.logs_dir`; so does a command that changes
something (clincus_cli/journal.py). Beside it, `sessions/SESSION_ID.jsonl` keeps the events of a session in words, and
GET /api/sessions/{id}/log returns them, also for a deleted session.

A line has the sender, the operation, the session and the result. It never has a body, a query or a header: prompts,
files and tokens belong to the session only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import IO, Any, NamedTuple

import clincus

Entry = dict[str, Any]
Write = Callable[[str, float], None]  # gets a path, and the seconds that it may wait for a lock; raises OSError

AUDIT = "audit.jsonl"
AUDIT_SIZE = 4 << 20  # bytes of one file
AUDIT_FILES = 5  # files at most
LOG_SIZE = 128 << 10  # bytes of a session's log; one that is full is thinned to three quarters
LOGS_KEPT = 500  # sessions
# A container can change the state of its tool as often as it likes, and restart itself. The oldest entries of these
# kinds are removed first, except for the given number, and requests of persons last.
WASHABLE = ("agent", "session")
LEAST = 50
SESSION_LOGS = "sessions"  # their folder
WAITING = 1000  # entries on their way to the disk
LOCK_PATIENCE = 5.0  # seconds for another process to give the lock of a file back
REQUEST_PATIENCE = 0.5  # the same while a request waits; none at all if the journal could not be written before
TEXT_LIMIT = 200  # characters of a text that a container or an error gave
# Pages send these by themselves, again and again, and they only change what is shown.
QUIET = {"mark_session_seen", "mark_network_seen", "set_push_presence", "take_push_news"}
SOCKETS = {"/ws/terminal/{id}", "/ws/shell/{id}"}
MOMENTS = {"stopped": "The session has stopped", "deleted": "The container is deleted"}
# The words for each state of a tool. Words for a state with its reason come before those for the state alone. The state
# `none` has no words: a session without a run has no tool.
DOINGS = {
    "starting": "The tool starts",
    "working": "The tool works",
    "working/retry": "The tool tries again after an error",
    "waiting": "The tool waits for a person",
    "waiting/question": "The tool asks a question",
    "waiting/plan": "The tool has a plan to be read",
    "waiting/permission": "The tool asks for permission",
    "waiting/dialog": "The tool waits at a dialog",
    "waiting/login": "The tool wants somebody to log in",
    "done": "The tool is done",
    "idle": "The tool waits for a prompt",
    "idle/interrupted": "The tool was interrupted",
    "failed": "The tool has failed",
    "failed/rate_limit": "The tool has reached its limit",
    "failed/auth": "The tool cannot log in",
    "failed/billing": "The tool has a problem with billing",
    "failed/overloaded": "The tool gave up: the model is overloaded",
    "failed/server_error": "The tool gave up: the model's server has an error",
    "failed/network": "The tool gave up: no network",
    "stuck": "The tool seems to be stuck",
    "ended": "The tool has ended",
    "ended/crashed": "The tool has crashed",
    "unknown": "What the tool does is not known",
    "none": "",
}
OWN_WORDS = ("stuck", "ended")  # states whose text is ours; in any other the tool says it, which may hold a secret


class Outcome(NamedTuple):
    """The result of a request."""

    words: str
    status: int  # of HTTP
    seconds: float  # that it took


def install(extensions: clincus.Extensions) -> None:
    """Wrap the handlers, listen to sessions and their tools, and add the route."""
    app = extensions.app
    journal = Journal(app)
    paths = clincus.load_contract()["paths"]

    def wrap(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
        operation = paths.get(path, {}).get(method.lower(), {})
        if operation.get("operationId") in QUIET or (method == "GET" and path not in SOCKETS):
            return handler
        return functools.partial(journal.follow, handler, operation)

    extensions.wrappers.append(wrap)
    extensions.listeners.append(journal.hear)
    extensions.agent_listeners.append(journal.hear_agent)
    extensions.alarm_listeners.append(journal.hear_alarm)
    extensions.happenings.append(journal.hear_happening)
    extensions.routes.append(("GET", "/api/sessions/{id}/log", journal.get_log))
    extensions.duties += [
        clincus.Duty("writing the journal", 0.0, journal.write_next),
        clincus.Duty(
            "dropping old logs of sessions", 3600.0, lambda: drop_old_logs(logs_directory(app.config, app.environ))
        ),
    ]


def logs_directory(config: clincus.Config, environ: Mapping[str, str]) -> str:
    """The directory of the journal."""
    return clincus.expand(config.get("paths.logs_dir"), environ)


class Journal:
    """Writes down the requests to the server and the events of its sessions."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue(WAITING)  # writes to be done
        self._lock = threading.Lock()  # guards what follows
        self._newest: dict[tuple[str, str], str] = {}  # session_id and kind -> the words of the newest entry
        self._complaints: dict[str, str] = {}  # by path, why the last write to a file failed
        self._lost: set[str] = set()  # sessions whose engine could not be reached; only `hear` uses it

    # -- Requests of people

    def follow(self, handler: clincus.Handler, operation: Mapping[str, Any], request: clincus.Request) -> object:
        """Handle a request, and write down its result."""
        if request.is_socket and request.values.get("readonly"):
            return handler(request)
        session = self._session(request.values.get("id"))
        note = functools.partial(self._note, request, operation)
        if request.is_socket and session and session.status == "running":
            note(session, Outcome("opened", 101, 0.0))
        began = time.monotonic()
        try:
            result = handler(request)
        except Exception as error:
            status = error.status if isinstance(error, clincus.ClincusError) else 500
            note(session, Outcome(str(error), status, time.monotonic() - began))
            raise
        if isinstance(result, dict) and session is None:
            session = self._session(result.get("id"))
        status = result.status if isinstance(result, clincus.Response) else int(min(operation["responses"]))
        words = "closed" if request.is_socket else result_word(result)
        note(session, Outcome(words, status, time.monotonic() - began))
        return result

    def _session(self, id: object) -> clincus.Session | None:
        with contextlib.suppress(clincus.ClincusError):
            return self._app.registry.get(id) if isinstance(id, str) else None
        return None

    def _note(
        self, request: Any, operation: Mapping[str, Any], session: clincus.Session | None, ended: Outcome
    ) -> None:
        entry = {
            "at": clincus.utc_now(),
            **asker(request.peer),
            "action": operation["operationId"],
            "session": session.id if session else "",
            "outcome": clip(ended.words),
            "status": ended.status,
            "milliseconds": round(1000 * ended.seconds),
        }
        words = "{session} {action} by {by}: {outcome} ({status}, {milliseconds} ms)".format(**entry).strip()
        clincus.log.info("%s", words, extra={"fields": entry})
        what = asked_for(operation, request.values)
        for path, write in action_writes(self._path(""), entry, session.session_id if session else "", what):
            self._attempt(path, write, 0.0 if path in self._complaints else REQUEST_PATIENCE)

    # -- Events

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Write down that a session started, paused, stopped, was deleted or cannot be reached, by any program."""
        what = f"The session runs since {session.started_at}" if moment == "started" else MOMENTS.get(moment, "")
        if moment == "stopped" and is_over(session, datetime.now(timezone.utc)):
            what += ": its time was over"
        elif moment == "changed":
            what = self._news_of(session)
        if what:
            self._happened(session, "session", what)

    def _news_of(self, session: clincus.Session) -> str:
        """The news of a session that has changed, but neither started nor stopped; "" without news."""
        engine = f"The engine {session.engine}" if session.engine else "Incus"
        if session.unreachable_since:
            self._lost.add(session.id)
            return f"{engine} cannot be reached"
        if session.id in self._lost:
            self._lost.discard(session.id)
            return f"{engine} is reached again"
        return "The session is paused" if session.paused else ""

    def hear_agent(self, session: clincus.Session, agent: Mapping[str, object]) -> None:
        """Write down a new state of a session's tool."""
        state = str(agent["state"])
        words = DOINGS.get(f"{state}/{agent['reason']}") or DOINGS[state]
        text = f": {agent['text']}" if agent["text"] and state in OWN_WORDS else ""
        if words:
            self._happened(session, "agent", words + text)

    def hear_alarm(self, session: clincus.Session, alarm: Mapping[str, object] | None) -> None:
        """Write down an alarm."""
        if alarm is not None:
            self._happened(session, "session", str(alarm["text"]))

    def hear_happening(self, session: clincus.Session, words: str) -> None:
        """Write down an event of a session."""
        self._happened(session, "session", words)

    def _happened(self, session: clincus.Session, kind: str, what: str) -> None:
        entry = {"at": clincus.utc_now(), "kind": kind, "what": clip(what)}
        self._put(lambda: self._keep(session.session_id, entry))

    def _put(self, write: Callable[[], None]) -> None:
        with contextlib.suppress(queue.Full):  # a listener may not wait
            self._queue.put_nowait(write)

    def write_next(self) -> None:
        """Wait for the next entry that is to be written, and write it down."""
        self._queue.get()()

    def _keep(self, session_id: str, entry: Entry) -> None:
        """Add to a session's log. A server that starts finds sessions in known states, and does not repeat those."""
        name = log_name(session_id)
        if not name:
            return
        with self._lock:
            key = session_id, entry["kind"]
            if key not in self._newest:
                known = (old["what"] for old in read_entries(self._path(name)) if old["kind"] == entry["kind"])
                self._newest[key] = next(known, "")
            if self._newest[key] == entry["what"]:
                return
            self._newest[key] = entry["what"]
            if entry["what"] == MOMENTS["deleted"]:
                self._newest = {key: what for key, what in self._newest.items() if key[0] != session_id}
        self._attempt(self._path(name), functools.partial(append_entry, entry), LOCK_PATIENCE)

    def _path(self, name: str) -> str:
        return os.path.join(logs_directory(self._app.config, self._app.environ), name)

    def _attempt(self, path: str, write: Write, patience: float) -> None:
        """Write to a file. A full disk or a lock stops no work: it is logged, once while it lasts.

        If a lock is held for `patience` seconds, the journal tries again later.
        """
        try:
            write(path, patience)
        except OSError as error:
            complaint = error.strerror or str(error)
            if isinstance(error, BlockingIOError):
                self._put(lambda: self._attempt(path, write, LOCK_PATIENCE))
        else:
            complaint = ""
        with self._lock:
            is_new = complaint not in self._complaints.values()
            if complaint:
                self._complaints[path] = complaint
            else:
                self._complaints.pop(path, None)
        if complaint and is_new:
            clincus.log.warning("journal: %s cannot be written: %s", path, complaint)

    # -- Routes

    def get_log(self, request: clincus.Request) -> clincus.Response:
        """Answer GET …/log: the newest entries, and how many there are."""
        found = self.entries(request.values["id"])
        headers = [("Content-Type", "application/json"), ("X-Total-Count", str(len(found)))]
        document = clincus.json_response(found[: request.values["limit"]])
        return clincus.Content(document.body).answer(request, [*headers, ("Cache-Control", "private, no-cache")])

    def entries(self, id: str) -> list[Entry]:
        """The log of a session, newest first. Raises ClincusError(404) for a session that never existed."""
        if self._session(id) is None:
            self._app.require(clincus.engine_of(id))
        return session_log(self._app.registry, self._app.history, self._path(""), id)


def session_log(registry: clincus.Registry, history: clincus.History, directory: str, id: str) -> list[Entry]:
    """The log of a session, or of the last one of that name, newest first. Raises ClincusError(404)."""
    try:
        session_id = registry.get(id).session_id
    except clincus.ClincusError:
        session_id = next((run.session_id for run in history.runs() if run.id == id), "")
    name = log_name(session_id)
    if not name:
        raise clincus.ClincusError(f'session "{id}" not found', "session_not_found")
    return [public(entry) for entry in read_entries(os.path.join(directory, name))]


def is_over(session: clincus.Session, now: datetime) -> bool:
    """True if the session's time is over."""
    end = clincus.parse_time(session.deadline)
    return end is not None and end <= now


def asked_for(operation: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The words for a request: the first part of its summary in the contract."""
    if operation["operationId"] == "delete_session":
        return "Delete the container" if values.get("force") else "Stop the session"
    return str(re.split("[;,]", operation["summary"])[0])


def asker(peer: clincus.Peer) -> Entry:
    """The sender of a request: a user of this machine, or a person with the token."""
    by = clincus.user_name(peer.uid) if peer.uid is not None and not peer.why_token else "the token"
    return {"by": by, "uid": peer.uid, "from": peer.address}


def result_word(result: object) -> str:
    """The result of a request in one word: the `result` of the answer, else "done"."""
    found = result.get("result") if isinstance(result, dict) else None
    return found if isinstance(found, str) else "done"


def clip(text: str) -> str:
    """A text that a container may have written: short, on one line, without control characters."""
    text = clincus.printable(" ".join(text.split()))
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def public(entry: Entry) -> Entry:
    """An entry in the form of the API, with every field."""
    words = {name: entry.get(name, "") for name in ("at", "kind", "what", "by", "from", "outcome")}
    return {**words, "status": entry.get("status"), "milliseconds": entry.get("milliseconds")}


def log_name(session_id: str) -> str:
    """The file of a session's log below the directory of the journal; "" for a text that is no session id."""
    is_id = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", session_id)
    return f"{SESSION_LOGS}/{session_id}.jsonl" if is_id else ""


def action_writes(directory: str, entry: Entry, session_id: str, what: str) -> Iterator[tuple[str, Write]]:
    """The files that a request is written to, each with its write: the audit file, and the log of its session.

    `what` describes it in words, for the session's log. `directory` is that of the journal.
    """
    yield os.path.join(directory, AUDIT), functools.partial(append_action, entry)
    name = log_name(session_id)
    if name:
        told = {**entry, "kind": "request", "what": what}
        yield os.path.join(directory, name), functools.partial(append_entry, told)


def append_action(entry: Entry, path: str, patience: float) -> None:
    """Add to the audit file. Raises OSError."""
    append_line(path, line_of(entry), AUDIT_SIZE, AUDIT_FILES, patience)


def line_of(entry: Entry) -> bytes:
    """An entry in the form of the files."""
    return json.dumps(entry).encode() + b"\n"


def append_line(path: str, line: bytes, size: int, files: int, patience: float = LOCK_PATIENCE) -> None:
    """Add a line to a file for its owner only; a file that would outgrow `size` becomes PATH.1. Raises OSError.

    There are at most `files` files. More than one process may write: a lock is held on the file itself.
    """
    with locked_file(path, patience) as file:
        if add_line(file, line, size):
            return
        for number in range(files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path if number == 1 else f"{path}.{number - 1}", f"{path}.{number}")
    with open_private(path) as file:
        file.write(line)


def append_entry(entry: Entry, path: str, patience: float = LOCK_PATIENCE) -> None:
    """Add to a session's log, which is thinned when it is full. Raises OSError.

    PATH.1 is of older versions, which began a new file at that size. It joins the log now.
    """
    line = line_of(entry)
    with locked_file(path, patience) as file:
        if add_line(file, line, LOG_SIZE):
            return
        lines = [*read_lines(f"{path}.1"), *os.pread(file.fileno(), 2 * LOG_SIZE, 0).splitlines()]
        kept = thinned([*(one + b"\n" for one in lines), line], LOG_SIZE * 3 // 4)
        clincus.replace_file(path, b"".join(kept), 0o600)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.1")


def thinned(lines: list[bytes], size: int) -> list[bytes]:
    """The lines of a log, oldest first, without as many as it takes to fit into `size` bytes."""
    over = sum(map(len, lines)) - size
    kinds = [kind_of(line) for line in lines]
    gone: set[int] = set()
    for kind in (*WASHABLE, ""):
        numbers = [number for number, one in enumerate(kinds) if (one == kind or not kind) and number not in gone]
        for number in numbers[: -LEAST if kind else len(numbers)]:
            if over > 0:
                over -= len(lines[number])
                gone.add(number)
    return [line for number, line in enumerate(lines) if number not in gone]


def kind_of(line: bytes) -> str:
    """The kind of the entry of a line. A line that a power cut has torn counts as the agent's."""
    with contextlib.suppress(ValueError):
        return str(clincus.as_object(json.loads(line)).get("kind"))
    return WASHABLE[0]


def add_line(file: IO[bytes], line: bytes, size: int) -> bool:
    """Add a line to a file that is locked; False if it would outgrow `size`. Raises OSError."""
    length = os.fstat(file.fileno()).st_size
    if length + len(line) > size:
        return False
    is_torn = length and os.pread(file.fileno(), 1, length - 1) != b"\n"  # by a power cut
    file.write((b"\n" if is_torn else b"") + line)
    return True


@contextlib.contextmanager
def locked_file(path: str, patience: float) -> Iterator[IO[bytes]]:
    """Open and lock the file of a path. Raises OSError; BlockingIOError if another process keeps the lock.

    The process that had the lock before may have replaced the file; then the new file is locked.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    end = time.monotonic() + patience
    while True:
        with open_private(path) as file:
            lock_until(file, end)
            if is_file_of(path, file):
                yield file
                return


def lock_until(file: IO[bytes], end: float) -> None:
    """Lock a file. Raises BlockingIOError if another process still has the lock at a time of time.monotonic."""
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise BlockingIOError(errno.EAGAIN, "another process keeps it locked") from None
        time.sleep(0.01)


def is_file_of(path: str, file: IO[bytes]) -> bool:
    """True if an open file is the one of a path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    return False


def open_private(path: str) -> IO[bytes]:
    """Open a file to read and append to; a new one is its owner's only. A link is refused. Raises OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0)


def read_entries(path: str) -> Iterator[Entry]:
    """The entries of a session's log, newest first, without torn lines."""
    for name in (path, f"{path}.1"):
        for line in reversed(read_lines(name)):
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and {"kind", "what"} <= entry.keys():
                    yield entry


def read_lines(path: str) -> list[bytes]:
    """The lines of a file of a session's log, the oldest first; none if it cannot be read."""
    with contextlib.suppress(clincus.ClincusError):
        return (clincus.read_plain_file(path, 2 * LOG_SIZE, follow=False) or b"").splitlines()
    return []


def drop_old_logs(directory: str) -> None:
    """Remove the logs of all but the newest sessions, below the directory of the journal."""
    with contextlib.suppress(FileNotFoundError):
        found = sorted(
            os.scandir(os.path.join(directory, SESSION_LOGS)), key=lambda file: file.stat().st_mtime, reverse=True
        )
        for file in found[2 * LOGS_KEPT :]:  # older versions wrote two files for each
            os.unlink(file.path)


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object, with the fields that the record itself has, such as the session's id."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        at = clincus.format_time(datetime.fromtimestamp(record.created, timezone.utc))
        found = {"at": at, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**getattr(record, "fields", {}), **found})
