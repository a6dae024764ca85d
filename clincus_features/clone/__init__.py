"""Clone mode: a session works on a clone of its folder, in its own container, and gives its commits back as a branch.

`POST /api/sessions {"mode": "clone", "branch"}` makes the clone, `POST …/fetch` and `…/push` move commits, and
`GET …/unfetched` tells what a delete would lose. repository.py and private.py say why nothing that lies in the folder
runs on this host, landing.py why nothing that a container sends does.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import clincus

from .landing import fetch
from .transfer import Source, State, give_branch, make_clone, read_state, take_bundle, unfetched


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, what fills a new container, and what looks before one is deleted."""
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

    def get_unfetched(sessions: clincus.Sessions, session: clincus.Session, _: clincus.Request) -> object:
        return unfetched(sessions, session)[0].document()

    one = "/api/sessions/{id}"
    extensions.routes += [
        ("POST", f"{one}/fetch", with_clone(post_fetch)),
        ("POST", f"{one}/push", with_clone(post_push)),
        ("GET", f"{one}/unfetched", with_clone(get_unfetched)),
    ]
    extensions.fillers.append(prepare)
    extensions.keepers.append(keep)


@contextmanager
def clone_of(sessions: clincus.Sessions, id: str) -> Iterator[clincus.Session]:
    """Hold a session with a clone that answers; a stopped one sleeps meanwhile. Raises ClincusError(404, 409)."""
    if sessions.registry.get(id).mode != "clone":
        raise clincus.ClincusError(f'"{id}" works in the folder itself: its commits are there already', 409)
    with sessions.lock(id), ExitStack() as held:
        session = sessions.registry.get(id)
        if session.paused:
            raise clincus.ClincusError(f'session "{id}" is paused: resume it first', 409)
        if session.status != "running":
            session = held.enter_context(sessions.work(id, "stopping"))
            held.enter_context(sessions.containers(id).asleep(id))
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


def keep(sessions: clincus.Sessions, session: clincus.Session, saves: bool) -> None:
    """Look for commits that a delete would lose. Raises ClincusError(409) for them, or keeps them as a bundle.

    A clone that cannot be read is kept too, unless its delete is to save what can be saved.
    """
    if session.mode != "clone":
        return
    try:
        told, state = unfetched(sessions, session)
        if told.unreadable and saves:
            sessions.report(f"{session.id}: {told.unreadable} files in its clone that only root can read are lost")
        if told.total - told.unreadable and saves:
            keep_bundle(sessions, session, state)
    except OSError as error:
        raise clincus.ClincusError(
            f'"{session.id}" is kept, as its commits cannot be kept here: {error}', 409
        ) from error
    except clincus.ClincusError as error:
        if not saves:
            raise clincus.ClincusError(f'"{session.id}" is kept, as its clone cannot be read: {error}', 409) from error
        keep_what_is_committed(sessions, session, error)
        return
    if told.total and not saves:
        raise clincus.ClincusError(
            f'"{session.id}" is kept: {told.words} were not fetched (clincus fetch {session.id})', 409
        )


def keep_what_is_committed(sessions: clincus.Sessions, session: clincus.Session, error: clincus.ClincusError) -> None:
    """Keep what git can still send of a clone whose state cannot be taken, such as one on a full disk."""
    try:
        keep_bundle(sessions, session, read_state(sessions, session.id), "committed")
        sessions.report(f"{session.id}: what was uncommitted in its clone is lost: {error}")
    except (OSError, clincus.ClincusError):
        sessions.report(f"{session.id}: what its clone holds is lost: {error}")


def last_bundle(sessions: clincus.Sessions, session: clincus.Session) -> str:
    """The newest bundle that `keep_bundle` has made of a session, "" without one. Their names tell their times."""
    directory, name = os.path.split(sessions.saved_directory(session))
    with suppress(FileNotFoundError):
        found = [one for one in os.listdir(directory) if one.startswith(f"{name}.") and one.endswith(".bundle")]
        return os.path.join(directory, max(found)) if found else ""
    return ""


def keep_bundle(sessions: clincus.Sessions, session: clincus.Session, state: State, what: str = "all") -> None:
    """Keep what a clone holds as a bundle beside the session's saved conversation: `what` as in guest/clone-out.sh."""
    directory = sessions.saved_directory(session)
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    path = f"{directory}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.bundle"
    try:
        _, size = take_bundle(sessions, session, what, state.known, f"{path}.part")
        if not size:
            raise clincus.ClincusError("its clone sent no bundle", 409)
        with open(f"{path}.part", "rb") as part:
            os.fsync(part.fileno())  # the container is deleted next, and then this is all there is
        os.rename(f"{path}.part", path)
        clincus.sync_directory(os.path.dirname(path))
    finally:
        with suppress(FileNotFoundError):
            os.remove(f"{path}.part")
    words = f"git fetch {path} 'refs/heads/*:refs/heads/kept/*' refs/clincus/tip:refs/heads/kept/tip"
    sessions.report(f"{session.id}: its commits are kept ({size >> 10} KiB): {words}")
