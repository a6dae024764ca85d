"""Clone mode: a session works on a clone of its folder in its own container, and gives its commits back as a branch.

`POST /api/sessions {"mode": "clone", "branch"}` makes the clone; `POST …/fetch` and `…/push` move commits. KEEPER
counts the work that no fetch has brought to the host, and keeps it as a bundle. repository.py and private.py say why
nothing in the folder runs on this host; landing.py says why nothing that a container sends does.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import clincus

from .landing import fetch
from .transfer import KINDS, Source, give_branch, make_clone, read_state, take_bundle, unfetched, unreadable_files

Work = Callable[[clincus.Sessions, clincus.Session, clincus.Request], object]


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, the filler of a new container and the keeper of its work."""
    app = extensions.app

    def with_clone(work: Work) -> clincus.Handler:
        def handle(request: clincus.Request) -> object:
            id = request.values["id"]
            app.reachable_session(id)
            with clone_of(app.sessions, id) as session:
                return work(app.sessions, session, request)

        return handle

    def post_fetch(sessions: clincus.Sessions, session: clincus.Session, request: clincus.Request) -> object:
        return fetch(sessions, session, request.values["branch"])._asdict()

    def post_push(sessions: clincus.Sessions, session: clincus.Session, request: clincus.Request) -> object:
        return give_branch(sessions, session, request.values["branch"])._asdict()

    extensions.routes += [
        ("POST", "/api/sessions/{id}/fetch", with_clone(post_fetch)),
        ("POST", "/api/sessions/{id}/push", with_clone(post_push)),
    ]
    extensions.fillers.append(prepare)
    extensions.keepers.append(KEEPER)


@contextmanager
def clone_of(sessions: clincus.Sessions, id: str) -> Iterator[clincus.Session]:
    """Hold a session with a clone that can be read. Raises ClincusError(404, 409).

    The container of a stopped session runs for the block, without its tool. An end of the session cancels the block's
    work: the clone can be fetched after a stop, too.
    """
    if sessions.registry.get(id).mode != "clone":
        problem = f'"{id}" works in the folder itself: its commits are there already'
        raise clincus.ClincusError(problem, 409)
    with sessions.held(id), sessions.in_progress.until_end(id), ExitStack() as held:
        session = sessions.registry.get(id)
        if session.paused:
            raise clincus.ClincusError(f'session "{id}" is paused: resume it first', 409)
        if session.status != "running":
            session = held.enter_context(sessions.work(id, "stopping"))
            held.enter_context(sessions.containers(id).opened_for_reading(id))
        yield session


def prepare(
    sessions: clincus.Sessions, session: clincus.Session, request: clincus.LaunchRequest
) -> Callable[[clincus.Session], None] | None:
    """Look at the folder that a new session gets a clone of. Raises ClincusError: 400, 409.

    The result makes the clone; it is None for a session without one.
    """
    if session.mode != "clone":
        if request.branch:
            problem = 'a branch is for a clone, and a mounted folder stays as it is checked out: leave "branch" out'
            raise clincus.ClincusError(problem, 400)
        return None
    limit = clincus.size_bytes(sessions.load().get("clone.size_limit"))
    source = Source.find(session.workspace, request.branch, sessions.environ, limit)
    kept = last_bundle(sessions, session) if request.resume else ""
    return functools.partial(make_clone, sessions, source, kept)


def is_clone(_: clincus.Sessions, session: clincus.Session) -> bool:
    """True if a session's work is in its container."""
    return session.mode == "clone"


def look(sessions: clincus.Sessions, session: clincus.Session) -> dict[str, clincus.Loss]:
    """The work in a session's clone that no fetch has brought to the host. Raises ClincusError."""
    return unfetched(sessions, session) if session.mode == "clone" else {}


def keep(sessions: clincus.Sessions, session: clincus.Session, insists: bool) -> list[str]:
    """Keep the work in a session's clone: a bundle, and a tar of files that only root can read. Returns their paths.

    With `insists` it keeps as much as it can read, such as the commits of a clone on a full disk. Raises ClincusError
    and OSError.
    """
    try:
        losses = unfetched(sessions, session)
    except clincus.ClincusError as error:
        if not insists:
            raise
        return [keep_committed(sessions, session, error)]
    kinds = {kind for kind, loss in losses.items() if loss.number}
    copies = []
    if kinds - {"unreadable"}:
        copies.append(keep_work(sessions, session, insists))
    if "unreadable" in kinds:
        copies += keep_unreadable(sessions, session, insists)
    return copies


def keep_work(sessions: clincus.Sessions, session: clincus.Session, insists: bool) -> str:
    """Keep the work in a clone as a bundle; returns its path. If it `insists`, the commits alone may have to do."""
    try:
        return keep_bundle(sessions, session, "all")
    except clincus.ClincusError as error:
        if not insists:
            raise
        return keep_committed(sessions, session, error)


def keep_committed(sessions: clincus.Sessions, session: clincus.Session, error: clincus.ClincusError) -> str:
    """Keep the commits of a clone as a bundle, because of an error with all of its work; returns the path."""
    path = keep_bundle(sessions, session, "committed")
    sessions.report(f"{session.id}: what was uncommitted in its clone is lost: {error}")
    return path


def keep_unreadable(sessions: clincus.Sessions, session: clincus.Session, insists: bool) -> list[str]:
    """Keep the files of a clone that only root can read, as a tar. Raises ClincusError unless it `insists`."""
    try:
        paths = unreadable_files(sessions, session)
        mount = sessions.guest(session).mount
        return [sessions.keep_files(session, mount, paths)]
    except clincus.ClincusError as error:
        if not insists:
            raise
        sessions.report(f"{session.id}: files in its clone that only root can read are lost: {error}")
        return []


KEEPER = clincus.Keeper(KINDS, is_clone, look, keep)


def last_bundle(sessions: clincus.Sessions, session: clincus.Session) -> str:
    """The newest bundle that `keep_bundle` has made of a session, "" without one. The names sort by time."""
    directory, name = os.path.split(sessions.saved_directory(session))
    with suppress(FileNotFoundError):
        files = os.listdir(directory)
        bundles = [file for file in files if file.startswith(f"{name}.") and file.endswith(".bundle")]
        return os.path.join(directory, max(bundles)) if bundles else ""
    return ""


def keep_bundle(sessions: clincus.Sessions, session: clincus.Session, what: str) -> str:
    """Keep a clone's work as a bundle beside the conversation; returns its path. `what` is as in guest/clone-out.sh."""
    known = read_state(sessions, session.id).known

    def write(path: str) -> int:
        _, size = take_bundle(sessions, session, what, known, path)
        return size

    path, size = clincus.keep_beside(sessions.saved_directory(session), "bundle", write)
    kept = f"its work is kept ({size >> 10} KiB)"
    sessions.report(f"{session.id}: {kept}. In a repository: {fetch_command(path)}")
    return path


def fetch_command(path: str) -> str:
    """The command that fetches everything in a bundle below refs/kept/, where it replaces nothing."""
    time = os.path.basename(path).split(".")[-2]
    place = f"refs/kept/{time}"
    refspec = shlex.quote(f"refs/*:{place}/*")
    return f"git fetch --no-tags {shlex.quote(path)} {refspec} && git for-each-ref {place}"
