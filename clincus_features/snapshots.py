"""Snapshots of a session's container: its whole system with the tool's home, and not the workspace.

    GET    /api/sessions/{id}/snapshots                  oldest first
    POST   /api/sessions/{id}/snapshots                  take one
    DELETE /api/sessions/{id}/snapshots/{name}           delete one
    POST   /api/sessions/{id}/snapshots/{name}/restore   bring the container back to one

Incus keeps them with the container, and deletes them with it. A restore brings back the description of then as well,
and so the network and limits of then; today's come afterwards. `Unfinished` sees to that, whatever happens in between.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import clincus

TIMEOUT = 600.0  # seconds: without copy-on-write Incus copies the whole container
DESCRIPTION = "description.json"
DESCRIPTION_LIMIT = 4 << 20  # bytes
FINISH_PERIOD = 5.0  # seconds between two looks for restores that somebody broke off

clincus.register_settings(clincus.Setting("snapshots.most", 10, clincus.whole(1, 100)))


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, and a check before each start."""
    app = extensions.app
    extensions.instance_parts.append(functools.partial(check_start, lambda: os.environ if app is None else app.environ))
    extensions.duties.append(
        clincus.Duty("finishing restores", FINISH_PERIOD, lambda: Unfinished(app.sessions).finish_all())
    )

    def keeper(request: clincus.Request) -> Keeper:
        app.reachable_session(request.values["id"])
        return Keeper(app.sessions)

    def get_snapshots(request: clincus.Request) -> object:
        return keeper(request).all(request.values["id"])

    def post_snapshot(request: clincus.Request) -> object:
        return keeper(request).take(request.values["id"], request.values["name"])

    def delete_snapshot(request: clincus.Request) -> object:
        keeper(request).delete(request.values["id"], request.values["name"])
        return clincus.Response(204)

    def restore_snapshot(request: clincus.Request) -> object:
        id, name, force = (request.values[key] for key in ("id", "name", "force"))
        copies: list[str] = []
        session = keeper(request).restore(id, name, force=force, on_kept=copies.append)
        return clincus.json_response(app.sessions.document(session), headers=clincus.kept_header(copies))

    one = "/api/sessions/{id}/snapshots"
    extensions.routes += [
        ("GET", one, get_snapshots),
        ("POST", one, post_snapshot),
        ("DELETE", f"{one}/{{name}}", delete_snapshot),
        ("POST", f"{one}/{{name}}/restore", restore_snapshot),
    ]


def document(snapshot: Mapping[str, Any]) -> dict[str, object]:
    """A snapshot for the API, from what Incus tells of it."""
    size = snapshot.get("size", -1)
    return {
        "name": str(snapshot["name"]).rpartition("/")[2],
        "created_at": str(snapshot["created_at"]),
        "size": size if isinstance(size, int) and size > 0 else None,
    }


def restored_put(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a container that was brought back to a snapshot: what Incus keeps there is of then, all else
    (labels, limits, devices) of now. Pure.
    """
    kept = {key: value for key, value in after["config"].items() if key.startswith(("volatile.", "image."))}
    return clincus.instance_put(before, {**kept, **own_config(before)}, before["devices"])


def own_config(instance: Mapping[str, Any]) -> dict[str, str]:
    """The part of an instance's config that is not Incus's own."""
    return {key: value for key, value in instance["config"].items() if not key.startswith(("volatile.", "image."))}


def check_start(
    environ: Callable[[], Mapping[str, str]], _incus: clincus.Incus, session: clincus.Session, *_: object
) -> None:
    """Raise ClincusError(409) for a container that has the network and the limits of a snapshot just now."""
    if os.path.exists(unfinished_path(environ(), session.id, DESCRIPTION)):
        words = "it is being brought back to a snapshot, or that was broken off; a server (clincus serve) finishes it"
        raise clincus.ClincusError(f'"{session.id}" cannot start yet: {words} within seconds', 409)


def unfinished_path(environ: Mapping[str, str], *names: str) -> str:
    """The folder of the restores that go on; with the id of a session its own, and a file in that."""
    folder = clincus.own_file(environ, "restoring")
    return os.path.join(folder, *(hashlib.sha256(id.encode()).hexdigest()[:32] for id in names[:1]), *names[1:])


class Unfinished:
    """The descriptions of containers that are being brought back just now: a folder on this host for each."""

    def __init__(self, sessions: clincus.Sessions) -> None:
        self._sessions = sessions
        self._folder = unfinished_path(sessions.environ)

    @contextmanager
    def kept(self, id: str, name: str, before: Mapping[str, Any]) -> Iterator[None]:
        """Keep a description while the block brings a container back to a snapshot, and gives it the description again.

        If the block fails, or the process ends, a server finishes it. Raises ClincusError.
        """
        path = unfinished_path(self._sessions.environ, id)
        described = {key: before[key] for key in ("architecture", "description", "profiles", "config", "devices")}
        with clincus.locked_folder(path):
            document = json.dumps({"id": id, "snapshot": name, "before": described})
            clincus.replace_file(f"{path}/{DESCRIPTION}", document.encode(), 0o600)
            yield
            shutil.rmtree(path)

    def finish_all(self) -> None:
        """Give those containers their descriptions whose restore was broken off."""
        for entry in os.listdir(self._folder) if os.path.isdir(self._folder) else ():
            path = os.path.join(self._folder, entry)
            # One that goes on is locked, and while Incus is away none can be finished.
            with suppress(clincus.ClincusError, OSError), clincus.directory_lock(path, 0.0):
                kept = clincus.read_json(f"{path}/{DESCRIPTION}", DESCRIPTION_LIMIT, dict)
                if kept:
                    self._finish(**kept)
                shutil.rmtree(path, ignore_errors=True)

    def _finish(self, id: str, snapshot: str, before: Mapping[str, Any]) -> None:
        sessions, incus = self._sessions, self._sessions.door(id)
        with sessions.lock(id):
            now = incus.instance(id)
            if now is None:
                return
            try:
                then = incus.query(incus.path(id, f"/snapshots/{quote(snapshot, safe='')}"))
            except clincus.IncusError as error:
                if error.status == 404:
                    return
                raise
            if own_config(now) == own_config(then):  # it was brought back, and nobody has changed it since
                incus.update(id, restored_put(before, now))
                sessions.report(f"{id}: its restore was broken off; it has today's settings again")
                sessions.look(id)


class Keeper:
    """Takes, lists, deletes and brings back the snapshots of sessions."""

    def __init__(self, sessions: clincus.Sessions) -> None:
        self._sessions = sessions

    def all(self, id: str) -> list[dict[str, object]]:
        """The snapshots of a session, oldest first. Raises ClincusError(404)."""
        self._sessions.registry.get(id)
        incus = self._sessions.door(id)
        found = incus.query(incus.path(id, "/snapshots?recursion=1")) or ()
        return sorted(map(document, found), key=lambda one: str(one["created_at"]))

    def take(self, id: str, name: str | None) -> dict[str, object]:
        """Take a snapshot; without a name it is called after the time. Raises ClincusError: 404, 409."""
        name = name or time.strftime("snap-%Y%m%d-%H%M%S", time.gmtime())
        with self._sessions.lock(id):
            there, most = self.all(id), self._sessions.load().get("snapshots.most")
            if any(one["name"] == name for one in there):
                raise clincus.ClincusError(f'snapshot "{name}" exists already: choose another name', "already_exists")
            if len(there) >= most:
                words = "delete one, or raise snapshots.most in the configuration"
                raise clincus.ClincusError(f"this session has {len(there)} snapshots: {words}", "limit_reached")
            self._ask(id, "/snapshots", "POST", {"name": name, "stateful": False})
            return self._find(id, name)

    def delete(self, id: str, name: str) -> None:
        """Delete a snapshot. Raises ClincusError(404)."""
        with self._sessions.lock(id):
            self._find(id, name)
            self._ask(id, f"/snapshots/{quote(name, safe='')}", "DELETE")

    def restore(
        self,
        id: str,
        name: str,
        *,
        stateful: bool = False,
        force: bool = False,
        on_kept: Callable[[str], object] = lambda path: None,
    ) -> clincus.Session:
        """Bring a session's container back to a snapshot, with its conversation as it is now.

        The tool of a running session is ended and started again. With `stateful` Incus starts the programs that ran
        then, and they keep their conversation of then. The rest of the container's disk goes back with it, and so does
        a clone: with `force` copies keep what this host does not have, and `on_kept` gets their paths.

        Raises ClincusError: 404, 409 if the conversation cannot be saved before, and for `stateful` in a session whose
        network is closed: its programs would run with the network of then until today's is in force. Raises
        UnsavedError(409) if something would be lost without `force` (`Sessions.keep`).
        """
        sessions = self._sessions
        with sessions.lock(id):
            self._find(id, name)
            Unfinished(sessions).finish_all()  # else what one before left off would be kept as today's
            session = sessions.look(id) or sessions.registry.get(id)
            was_running = session.status == "running"
            if stateful and not session.has_open_network:
                words = "open it first (clincus network), or restore without the programs that ran then"
                raise clincus.ClincusError(f'the network of "{id}" is closed, and would be that of then: {words}', 409)
            if not force:
                sessions.keep(session)
            if sessions.save(id) is clincus.SaveResult.FAILED:
                words = "the conversation cannot be saved, and would be lost: try again later"
                raise clincus.UnsavedError(words, clincus.Unsaved({"conversation": None}, words))
            if was_running or session.paused:
                sessions.end(id)
            try:  # again, as the tool has ended since
                copies = sessions.keep(sessions.registry.get(id), saves=force, insists=force)
            except clincus.UnsavedError:
                if was_running:
                    sessions.resume(id)
                raise
            for path in copies:
                on_kept(path)
            incus = sessions.door(id)
            before = incus.query(incus.path(id))
            with Unfinished(sessions).kept(id, name, before):
                self._ask(id, "", "PUT", {"restore": name, "stateful": stateful})
                incus.update(id, restored_put(before, incus.query(incus.path(id))))
            if stateful:
                return sessions.look(id) or session
            self._bring_conversation(session)
            return sessions.resume(id) if was_running else sessions.registry.get(id)

    def _bring_conversation(self, session: clincus.Session) -> None:
        """Put the saved conversation into a stopped container, over the older one that is there."""
        sessions, tool = self._sessions, clincus.session_tool(session)
        files = clincus.saved_files(tool, sessions.saved_directory(session))
        if not files:
            return
        guest = sessions.guest(session)
        unpack = f"cd {shlex.quote(guest.home)} && exec tar -xf -"
        with sessions.containers(session.id).opened_for_reading(session.id):
            archive = clincus.pack_files(files, guest.uid, guest.uid)
            done = sessions.run(session, ["sh", "-c", unpack], stdin=archive, timeout=TIMEOUT)
        if done.code:
            raise clincus.ClincusError(f"the conversation was not brought back: {done.reason}", 500)

    def _find(self, id: str, name: str) -> dict[str, object]:
        for one in self.all(id):
            if one["name"] == name:
                return one
        raise clincus.ClincusError(f"snapshot {clincus.shorten(name)} of {id} not found", 404)

    def _ask(self, id: str, path: str, method: str, data: object = None) -> None:
        incus = self._sessions.door(id)
        incus.query(incus.path(id, path), method, data, wait=True, timeout=TIMEOUT)
