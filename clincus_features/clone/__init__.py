"""Clone mode: a session works on a clone of its folder, in its own container, and gives its commits back as a branch.

`POST /api/sessions {"mode": "clone", "branch"}` makes the clone, `POST …/fetch` and `…/push` move commits. KEEPER
counts the work that no fetch has brought here, and keeps it as a bundle. repository.py and private.py say why nothing
that lies in the folder runs on this host, landing.py why nothing that a container sends does.
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


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, what fills a new container, and what keeps its work."""
    app = extensions.app

    def with_clone(work: Callable[[clincus.Sessions, clincus.Session, clincus.Request], object]) -> clincus.Handler:
        def handle(request: clincus.Request) -> object:
            app.reachable_session(request.values["id"])
            with clone_of(app.sessions, request.values["id"]) as session:
                return work(app.sessions, session, request)

        return handle

    def post_fetch(sessions: clincus.Sessions, session: clincus.Session, request: clincus.Request) -> object:
        return fetch(sessions, session, request.values["branch"])._asdict()

    def post_push(sessions: clincus.Sessions, session: clincus.Session, request: clincus.Request) -> object:
        return give_branch(sessions, session, request.values["branch"])._asdict()

    one = "/api/sessions/{id}"
    extensions.routes += [
        ("POST", f"{one}/fetch", with_clone(post_fetch)),
        ("POST", f"{one}/push", with_clone(post_push)),
    ]
    extensions.fillers.append(prepare)
    extensions.keepers.append(KEEPER)


@contextmanager
def clone_of(sessions: clincus.Sessions, id: str) -> Iterator[clincus.Session]:
    """Hold a session with a clone that answers; a stopped one sleeps meanwhile. Raises ClincusError(404, 409).

    An end of the session calls off what the block does with it: the clone can be fetched once it is stopped, too.
    """
    if sessions.registry.get(id).mode != "clone":
        raise clincus.ClincusError(f'"{id}" works in the folder itself: its commits are there already', 409)
    with sessions.lock(id), sessions.until_end(id), ExitStack() as held:
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
    """Look at the folder that a new session is to have a clone of. Raises ClincusError: 400, 409."""
    if session.mode != "clone":
        if request.branch:
            raise clincus.ClincusError("a branch is for a clone: a mounted folder stays as it is checked out", 400)
        return None
    limit = clincus.size_bytes(sessions.load().get("clone.size_limit"))
    source = Source.find(session.workspace, request.branch, sessions.environ, limit)
    return functools.partial(make_clone, sessions, source, last_bundle(sessions, session) if request.resume else "")


def is_clone(_: clincus.Sessions, session: clincus.Session) -> bool:
    """Whether a session's work is in its container."""
    return session.mode == "clone"


def look(sessions: clincus.Sessions, session: clincus.Session) -> dict[str, clincus.Loss]:
    """The work in a session's clone that was not fetched. Raises ClincusError."""
    return unfetched(sessions, session) if session.mode == "clone" else {}


def keep(sessions: clincus.Sessions, session: clincus.Session, insists: bool) -> list[str]:
    """Keep the work in a session's clone: a bundle, and a tar of files that only root can read. Gives their paths.

    With `insists` it keeps what can still be read, such as the commits of a clone on a full disk. Raises ClincusError,
    and OSError.
    """
    try:
        found = unfetched(sessions, session)
    except clincus.ClincusError as error:
        if not insists:
            raise
        path = keep_bundle(sessions, session, "committed")
        sessions.report(f"{session.id}: what was uncommitted in its clone is lost: {error}")
        return [path]
    kinds = {kind for kind, loss in found.items() if loss.number}
    copies = [keep_bundle(sessions, session, "all")] if kinds - {"unreadable"} else []
    if "unreadable" in kinds:
        try:
            paths = unreadable_files(sessions, session)
            copies.append(sessions.keep_files(session, sessions.guest(session).mount, paths))
        except clincus.ClincusError as error:
            if not insists:
                raise
            sessions.report(f"{session.id}: files in its clone that only root can read are lost: {error}")
    return copies


KEEPER = clincus.Keeper(KINDS, is_clone, look, keep)


def last_bundle(sessions: clincus.Sessions, session: clincus.Session) -> str:
    """The newest bundle that `keep_bundle` has made of a session, "" without one. Their names tell their times."""
    directory, name = os.path.split(sessions.saved_directory(session))
    with suppress(FileNotFoundError):
        found = [one for one in os.listdir(directory) if one.startswith(f"{name}.") and one.endswith(".bundle")]
        return os.path.join(directory, max(found)) if found else ""
    return ""


def keep_bundle(sessions: clincus.Sessions, session: clincus.Session, what: str) -> str:
    """Keep a clone's work as a bundle beside the saved conversation; its path. `what` is that of guest/clone-out.sh."""
    known = read_state(sessions, session.id).known

    def write(path: str) -> int:
        return take_bundle(sessions, session, what, known, path)[1]

    path, size = clincus.keep_beside(sessions.saved_directory(session), "bundle", write)
    sessions.report(f"{session.id}: its work is kept ({size >> 10} KiB). In a repository: {fetch_command(path)}")
    return path


def fetch_command(path: str) -> str:
    """The command that fetches everything in a bundle, below refs/kept/, where it takes the place of nothing."""
    place = f"refs/kept/{os.path.basename(path).split('.')[-2]}"
    words = shlex.quote(path), shlex.quote(f"refs/*:{place}/*")
    return f"git fetch --no-tags {' '.join(words)} && git for-each-ref {place}"
