"""Snapshots of a session's container: its whole system with the tool's home, without the workspace.

Incus keeps snapshots with the container, and deletes them with it. A restore also brings back the old description with
its network and limits; Clincus then writes today's again. `Unfinished` ensures that, even if the restore is cut off.
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
FINISH_PERIOD = 5.0  # seconds between two looks for restores that were cut off

clincus.register_settings(clincus.Setting("snapshots.most", 10, clincus.whole(1, 100)))


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, and a check before each start."""
    app = extensions.app

    def environ() -> Mapping[str, str]:
        return os.environ if app is None else app.environ

    extensions.instance_parts.append(functools.partial(check_start, environ))
    extensions.duties.append(
        clincus.Duty(
            "finishing restores",
            FINISH_PERIOD,
            lambda: Unfinished(app.sessions).finish_all(),
        )
    )

    routes = Routes(app)
    path = "/api/sessions/{id}/snapshots"
    extensions.routes += [
        ("GET", path, routes.get_all),
        ("POST", path, routes.take),
        ("DELETE", f"{path}/{{name}}", routes.delete),
        ("POST", f"{path}/{{name}}/restore", routes.restore),
    ]


class Routes:
    """The handlers of the routes."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app

    def _keeper(self, request: clincus.Request) -> Keeper:
        self._app.reachable_session(request.values["id"])
        return Keeper(self._app.sessions)

    def get_all(self, request: clincus.Request) -> object:
        """The snapshots of a session, oldest first."""
        return self._keeper(request).all(request.values["id"])

    def take(self, request: clincus.Request) -> object:
        """Take a snapshot."""
        return self._keeper(request).take(request.values["id"], request.values["name"])

    def delete(self, request: clincus.Request) -> object:
        """Delete a snapshot."""
        self._keeper(request).delete(request.values["id"], request.values["name"])
        return clincus.Response(204)

    def restore(self, request: clincus.Request) -> object:
        """Bring a container back to a snapshot."""
        values = request.values
        copies: list[str] = []
        keeper = self._keeper(request)
        session = keeper.restore(values["id"], values["name"], force=values["force"], on_kept=copies.append)
        document = self._app.sessions.document(session)
        return clincus.json_response(document, headers=clincus.kept_header(copies))


def document(snapshot: Mapping[str, Any]) -> dict[str, object]:
    """A snapshot of Incus in the form of the API."""
    size = snapshot.get("size", -1)
    return {
        "name": str(snapshot["name"]).rpartition("/")[2],
        "created_at": str(snapshot["created_at"]),
        "size": size if isinstance(size, int) and size > 0 else None,
    }


def restored_put(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a container after a restore. Pure.

    Incus's own keys are those of the snapshot; everything else (labels, limits, devices) is as before the restore.
    """
    of_incus = {key: value for key, value in after["config"].items() if is_of_incus(key)}
    config = {**of_incus, **own_config(before)}
    return clincus.instance_put(before, config, before["devices"])


def own_config(instance: Mapping[str, Any]) -> dict[str, str]:
    """An instance's config without Incus's own keys."""
    return {key: value for key, value in instance["config"].items() if not is_of_incus(key)}


def is_of_incus(key: str) -> bool:
    """True for a key of an instance's config that Incus itself writes."""
    return key.startswith(("volatile.", "image."))


def check_start(
    environ: Callable[[], Mapping[str, str]], incus: clincus.Incus, session: clincus.Session, *_: object
) -> None:
    """Raise ClincusError(409) for a container that still has the network and the limits of a snapshot.

    If that container is gone, forget its restore: a new one of its name has nothing of the snapshot.
    """
    path = unfinished_path(environ(), session.id)
    if not os.path.exists(f"{path}/{DESCRIPTION}"):
        return
    if incus.instance(session.id) is None:
        with suppress(FileNotFoundError), clincus.directory_lock(path):
            shutil.rmtree(path)
        return
    reason = "it is being brought back to a snapshot, or that was broken off"
    advice = "try again in some seconds: a server (clincus serve) finishes it"
    raise clincus.ClincusError(f'"{session.id}" cannot start yet: {reason}; {advice}', 409)


def unfinished_folder(environ: Mapping[str, str]) -> str:
    """The folder of all restores in progress."""
    return clincus.own_file(environ, "restoring")


def unfinished_path(environ: Mapping[str, str], id: str) -> str:
    """The folder of a session's restore in progress."""
    digest = hashlib.sha256(id.encode()).hexdigest()
    return os.path.join(unfinished_folder(environ), digest[:32])


class Unfinished:
    """The descriptions of containers during a restore: a folder on this host for each."""

    def __init__(self, sessions: clincus.Sessions) -> None:
        self._sessions = sessions
        self._folder = unfinished_folder(sessions.environ)

    @contextmanager
    def kept(self, id: str, name: str, before: Mapping[str, Any]) -> Iterator[None]:
        """Keep a description while the block restores a snapshot and then writes the description again.

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
        """Write the descriptions of containers whose restore was cut off."""
        if not os.path.isdir(self._folder):
            return
        for entry in os.listdir(self._folder):
            path = os.path.join(self._folder, entry)
            # A restore in progress holds the lock; without Incus none can be finished.
            with suppress(clincus.ClincusError, OSError), clincus.directory_lock(path, 0.0):
                kept = clincus.read_json(f"{path}/{DESCRIPTION}", DESCRIPTION_LIMIT, dict)
                if kept:
                    self._finish(**kept)
                shutil.rmtree(path, ignore_errors=True)

    def _finish(self, id: str, snapshot: str, before: Mapping[str, Any]) -> None:
        sessions = self._sessions
        incus = self._sessions.door(id)
        with sessions.held(id):
            now = incus.instance(id)
            if now is None:
                return
            try:
                then = incus.query(incus.path(id, f"/snapshots/{quote(snapshot, safe='')}"))
            except clincus.IncusError as error:
                if error.status == 404:
                    return
                raise
            if own_config(now) == own_config(then):  # the snapshot was restored, and nothing has changed since
                incus.update(id, restored_put(before, now))
                sessions.report(f"{id}: its restore was broken off; it has today's settings again")
                sessions.look(id)


class Keeper:
    """Takes, lists, deletes and restores the snapshots of sessions."""

    def __init__(self, sessions: clincus.Sessions) -> None:
        self._sessions = sessions

    def all(self, id: str) -> list[dict[str, object]]:
        """The snapshots of a session, oldest first. Raises ClincusError(404)."""
        self._sessions.registry.get(id)
        incus = self._sessions.door(id)
        found = incus.query(incus.path(id, "/snapshots?recursion=1")) or ()
        return sorted(map(document, found), key=lambda snapshot: str(snapshot["created_at"]))

    def take(self, id: str, name: str | None) -> dict[str, object]:
        """Take a snapshot; without a name it is named after the time. Raises ClincusError: 404, 409."""
        name = name or time.strftime("snap-%Y%m%d-%H%M%S", time.gmtime())
        with self._sessions.held(id):
            present = self.all(id)
            if any(snapshot["name"] == name for snapshot in present):
                problem = f'snapshot "{name}" exists already: choose another name'
                raise clincus.ClincusError(problem, "already_exists")
            if len(present) >= self._sessions.load().get("snapshots.most"):
                advice = "delete one, or raise snapshots.most in the configuration"
                raise clincus.ClincusError(f"this session has {len(present)} snapshots: {advice}", "limit_reached")
            self._ask(id, "/snapshots", "POST", {"name": name, "stateful": False})
            return self._find(id, name)

    def delete(self, id: str, name: str) -> None:
        """Delete a snapshot. Raises ClincusError(404)."""
        with self._sessions.held(id):
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
        """Bring a session's container back to a snapshot, with its present conversation.

        The tool of a running session ends and starts again. With `stateful`, Incus starts the programs that ran at the
        snapshot, and they keep their old conversation. The rest of the container's disk goes back too, and so does a
        clone: with `force`, copies keep the work that this host lacks, and `on_kept` gets their paths.

        Raises ClincusError: 404, 409 if the conversation cannot be saved before, and for `stateful` in a session whose
        network is closed: its programs would run with the old network until today's is in force. Raises
        UnsavedError(409) if something would be lost without `force` (`Sessions.keep`).
        """
        sessions = self._sessions
        with sessions.held(id):
            self._find(id, name)
            Unfinished(sessions).finish_all()  # else its old description would count as today's
            session = sessions.look(id) or sessions.registry.get(id)
            was_running = session.status == "running"
            check_stateful(session, stateful)
            self._save(session, force)
            if was_running or session.paused:
                sessions.end(id)
            try:  # once more: the tool may have written until its end
                copies = sessions.keep(sessions.registry.get(id), saves=force, insists=force)
            except clincus.UnsavedError:
                if was_running:
                    sessions.resume(id)
                raise
            for path in copies:
                on_kept(path)
            self._restore_container(id, name, stateful)
            if stateful:
                return sessions.look(id) or session
            self._bring_conversation(session)
            return sessions.resume(id) if was_running else sessions.registry.get(id)

    def _save(self, session: clincus.Session, force: bool) -> None:
        """Save what a restore would lose, without an end of the tool. Raises UnsavedError."""
        sessions = self._sessions
        if not force:
            sessions.keep(session)
        if sessions.save(session.id) is clincus.SaveResult.FAILED:
            problem = "the conversation cannot be saved, and would be lost: try again later"
            unsaved = clincus.Unsaved({"conversation": None}, problem)
            raise clincus.UnsavedError(problem, unsaved)

    def _restore_container(self, id: str, name: str, stateful: bool) -> None:
        """Let Incus restore a snapshot, and write today's description again. Raises ClincusError."""
        incus = self._sessions.door(id)
        before = incus.query(incus.path(id))
        with Unfinished(self._sessions).kept(id, name, before):
            self._ask(id, "", "PUT", {"restore": name, "stateful": stateful})
            after = incus.query(incus.path(id))
            incus.update(id, restored_put(before, after))

    def _bring_conversation(self, session: clincus.Session) -> None:
        """Write the saved conversation into a stopped container, over the older one."""
        sessions = self._sessions
        tool = clincus.session_tool(session)
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
        for snapshot in self.all(id):
            if snapshot["name"] == name:
                return snapshot
        raise clincus.ClincusError(
            f"snapshot {clincus.shorten(name)} of {id} not found: the list of snapshots has those that are left", 404
        )

    def _ask(self, id: str, path: str, method: str, data: object = None) -> None:
        incus = self._sessions.door(id)
        incus.query(incus.path(id, path), method, data, wait=True, timeout=TIMEOUT)


def check_stateful(session: clincus.Session, stateful: bool) -> None:
    """Raise ClincusError(409) if a stateful restore would give a session with a closed network the old one."""
    if stateful and not session.has_open_network:
        problem = f'the network of "{session.id}" is closed, and would be that of then'
        advice = "open it first (clincus network), or restore without the programs that ran then"
        raise clincus.ClincusError(f"{problem}: {advice}", 409)
