"""Notes on each run, by which a person finds it again: the name of its session, the first prompt and the branch.

`GET /api/sessions/history` shows them with each run, and `q` searches them. A file of the server's own keeps them by
the session's id, since the container and its conversation may be gone. A container can choose one of them, the branch:
it is a short text of printable characters.
"""

from __future__ import annotations

import functools
import json
import os
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import clincus

FIELDS = ("name", "prompt", "branch")
KEPT = 5000  # sessions
LETTERS = 300  # characters of a text that are kept
FILE_LIMIT = 8 << 20  # bytes
HEAD_LIMIT = 512  # bytes of a repository's HEAD
REFERENCE = "ref: refs/heads/"


def install(extensions: clincus.Extensions) -> None:
    """Note the facts of each session, and show them with its runs."""
    app = extensions.app
    environ = os.environ if app is None else app.environ
    notes = Notes(clincus.own_file(environ, "runs.json"))

    def begin(_: clincus.Sessions, session: clincus.Session, request: clincus.LaunchRequest) -> None:
        texts = {"name": session.name, "prompt": request.prompt, "branch": request.branch or branch_of(session)}
        # Incus makes the container meanwhile.
        threading.Thread(target=notes.add, args=(session.session_id,), kwargs=texts, name="noting a run").start()

    def listen(moment: str, session: clincus.Session) -> None:
        if moment in ("started", "changed", "stopped"):
            branch = branch_of(session) if moment != "changed" else ""
            notes.add(session.session_id, name=session.name, branch=branch)

    extensions.fillers.append(begin)
    extensions.listeners.append(listen)
    extensions.run_fields.append(lambda run: notes.of(run.session_id))
    extensions.run_words.append(lambda run: " ".join(notes.of(run.session_id).values()))
    if app is not None:
        extensions.wrappers.append(functools.partial(with_first_prompt, app, notes))


def with_first_prompt(
    app: clincus.Application, notes: Notes, method: str, path: str, handler: clincus.Handler
) -> clincus.Handler:
    """Note the first prompt that a session gets."""
    if (method, path) != ("POST", "/api/sessions/{id}/prompt"):
        return handler

    def send(request: clincus.Request) -> object:
        answer = handler(request)
        session = app.registry.find(request.values["id"])
        if session is not None and not request.values["command"]:
            notes.add(session.session_id, prompt=request.values["text"], is_first=True)
        return answer

    return send


class Notes:
    """The notes on all sessions, in a file that other processes of this user write, too."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int] = (0, 0)  # inode and mtime (ns) of the file behind _all
        self._all: dict[str, dict[str, str]] = {}

    def of(self, session_id: str) -> Mapping[str, str]:
        """The notes on a session, with each of FIELDS."""
        with self._lock:
            self._look()
            known = self._all.get(session_id, {})
        return {field: known.get(field, "") for field in FIELDS}

    def add(self, session_id: str, *, is_first: bool = False, **texts: str) -> None:
        """Note the values that are not empty; with `is_first` only those that have no note yet.

        A failure is only logged.
        """
        noted = {field: plain(text) for field, text in texts.items()}
        fresh = {field: text for field, text in noted.items() if text}
        if not session_id or self._has(session_id, fresh, is_first=is_first):
            return
        try:
            with clincus.locked_folder(os.path.dirname(self._path)), self._lock:
                self._look()
                known = self._all.pop(session_id, {})
                kept = {**fresh, **known} if is_first else {**known, **fresh}
                newest = [*self._all.items(), (session_id, kept)][-KEPT:]
                self._all = dict(newest)
                clincus.replace_file(self._path, json.dumps(self._all).encode(), 0o600)
                self._seen = seen(self._path)
        except clincus.ClincusError as error:
            clincus.log.warning("the notes on a run were not written: %s", error.message)

    def _has(self, session_id: str, fresh: Mapping[str, str], *, is_first: bool) -> bool:
        known = self.of(session_id)
        if is_first:
            return all(known[field] for field in fresh)
        return all(known[field] == text for field, text in fresh.items())

    def _look(self) -> None:
        """Read the file if it has changed."""
        now = seen(self._path)
        if now == self._seen:
            return
        self._all = {}
        with suppress(clincus.ClincusError):
            self._all = clincus.read_json(self._path, FILE_LIMIT, checked) or {}
        self._seen = now


def seen(path: str) -> tuple[int, int]:
    """Values that differ between two versions of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def checked(document: Any) -> dict[str, dict[str, str]]:
    """The document of the file. Raises AttributeError or TypeError for another one."""
    return {
        str(session_id): {field: plain(texts[field]) for field in FIELDS if field in texts}
        for session_id, texts in document.items()
    }


def plain(text: str) -> str:
    """A text in one line, printable and not too long."""
    line = " ".join(text[: 4 * LETTERS].split())
    return "".join(filter(str.isprintable, line))[:LETTERS]


def branch_of(session: clincus.Session) -> str:
    """The checked-out branch in the folder of a session, "" if unknown.

    The container writes there, so no link is followed: HEAD must be a regular file in a folder `.git`.
    """
    if session.engine or session.mode != "mount":
        return ""
    descriptors: list[int] = []
    try:
        descriptors.append(os.open(session.workspace, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        way = os.O_NOFOLLOW | os.O_CLOEXEC
        descriptors.append(os.open(".git", way | os.O_PATH | os.O_DIRECTORY, dir_fd=descriptors[-1]))
        descriptors.append(os.open("HEAD", way | os.O_RDONLY | os.O_NONBLOCK, dir_fd=descriptors[-1]))
        if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
            return ""
        text = os.read(descriptors[-1], HEAD_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return text[len(REFERENCE) :].strip() if text.startswith(REFERENCE) else ""
