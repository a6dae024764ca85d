"""A look at what serves in a session's container: which ports, and each in a browser at an origin of its own.

Nothing can be reached before a person opens the port: POST /api/sessions/{id}/ports/{port}. It ends with DELETE, and
with the session's run. listening.py finds the ports, doors.py leads to them, openings.py says who may come in, relay.py
and heads.py carry requests and answers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import ipaddress
import threading
from collections.abc import Callable
from typing import Any

import clincus
from clincus_features.preview import doors, heads, openings, pages, relay
from clincus_features.preview.listening import KEPT, Listening, ask_ports, port_at
from clincus_features.preview.openings import Opening

clincus.register_settings(clincus.Setting("preview.port", 0, clincus.whole(0, 65535)))
PORTS_TRIED = 20  # from `preview.port` on, for openings from other machines


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, the visitor and the listener."""
    previews = Previews(extensions.app)
    one = "/api/sessions/{id}/ports"
    extensions.routes += [
        ("GET", one, previews.get_ports),
        ("POST", one + "/{port}", previews.post_port),
        ("DELETE", one + "/{port}", previews.delete_port),
    ]
    extensions.visitors.append(previews.visit)
    extensions.listeners.append(previews.hear)


class Previews:
    """All openings of a server."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._listening = clincus.LastAnswers(KEPT)
        self._making = threading.Lock()  # one opening is made at a time
        self._lock = threading.Lock()  # guards what follows
        self._openings: dict[tuple[str, int], Opening] = {}
        self._labels: dict[str, Opening] = {}
        self._is_swept = False
        self._places = threading.Semaphore(openings.IN_ALL_MOST)

    # -- The API

    def get_ports(self, request: clincus.Request) -> object:
        """The listening ports, each with its address for this request; none if the session does not run."""
        session = self._app.reachable_session(request.values["id"])
        try:
            found = self._ports(session) if session.status == "running" else []
        except clincus.ClincusError:
            if self._app.registry.get(session.id).status == "running":
                raise
            found = []  # it stopped meanwhile
        return {"ports": [self._document(session, one, request) for one in found]}

    def post_port(self, request: clincus.Request) -> object:
        """Open a port, and give a link that lets one browser in."""
        session, port = self._app.running_session(request.values["id"]), request.values["port"]
        origin = self._origin(session, port, request)
        self._end_others(session)
        with self._making:
            opening = self._openings.get((session.id, port)) or self._open(session, port)
            origin = origin or self._own_origin(opening, request)
        opening.framers |= {f"http://{host}" for host in (request.headers["Host"].lower(),) if host[0] != "["}
        return {"url": opening.link(origin), "confined": opening.is_confined}

    def delete_port(self, request: clincus.Request) -> object:
        """Close a port."""
        id = self._app.known_session(request.values["id"]).id
        self._close(id, request.values["port"])
        return clincus.Response(204)

    def _document(self, session: clincus.Session, one: Listening, request: clincus.Request) -> dict[str, object]:
        opening = self._openings.get((session.id, one.port))
        url = None
        with contextlib.suppress(clincus.ClincusError):
            url = opening and (self._origin(session, one.port, request) or self._known_origin(opening, request))
        return {
            "port": one.port,
            "addresses": list(one.addresses),
            "process": one.process,
            "open": opening is not None,
            "url": url and url + "/",
        }

    # -- Addresses

    def _origin(self, session: clincus.Session, port: int, request: clincus.Request) -> str:
        """The origin on the dashboard's port for a request from this machine; "" for one from another machine.

        Raises ClincusError(409) for one through a proxy, which would have to know the other addresses.
        """
        here, port_here = request.peer.here
        name, named_port = clincus.split_host(request.headers["Host"])
        if self._app.site.gate.is_forwarded(request) or named_port != port_here:
            words = "a preview cannot be reached through a proxy: use the dashboard at localhost, or `ssh -L` to it"
            raise clincus.ClincusError(words, 409)
        if not clincus.is_loopback(here):
            return ""
        if name not in ("localhost", *clincus.LOOPBACK):
            raise clincus.ClincusError("a preview needs the dashboard at localhost, 127.0.0.1 or [::1]", 409)
        label = openings.host_label(port, session.id, is_confined=not session.has_open_network)
        return openings.origin_at(f"{label}.localhost", port_here)

    def _known_origin(self, opening: Opening, request: clincus.Request) -> str | None:
        """The origin of an opening for a request from another machine, if it has one."""
        start = openings.origin_at(clincus.split_host(request.headers["Host"])[0], 80) + ":"
        return next((origin for origin in opening.listeners if origin.startswith(start)), None)

    def _own_origin(self, opening: Opening, request: clincus.Request) -> str:
        """The same origin, with a listener made for it if need be. Raises ClincusError(409) if no port is free."""
        known = self._known_origin(opening, request)
        if known:
            return known
        here, first = request.peer.here[0], self._app.config.get("preview.port")
        if ipaddress.ip_address(here.partition("%")[0]).is_link_local:
            raise clincus.ClincusError("a preview cannot be had at a link-local address", 409)
        extensions = clincus.Extensions()
        extensions.visitors.append(functools.partial(self.visit_own, opening))
        places = threading.Semaphore(openings.CONNECTIONS_MOST)
        site = self._app.site._replace(places=places, extensions=extensions)
        for port in range(first, min(first + PORTS_TRIED, 65536)) if first else (0,):
            with contextlib.suppress(OSError):
                listener = clincus.open_listener((here, port), site)
                break
        else:
            raise clincus.ClincusError(f"the ports from preview.port = {first} on are taken", 409)
        origin = openings.origin_at(clincus.split_host(request.headers["Host"])[0], int(listener.server_address[1]))
        opening.listeners[origin] = listener
        listener.start()
        return origin

    # -- Openings

    def _ports(self, session: clincus.Session) -> list[Listening]:
        """The listening ports of a running session, asked at most KEPT seconds ago. Raises IncusError."""
        found: list[Listening] = self._listening.get(session, lambda: ask_ports(self._app.sessions, session))
        return found

    def _open(self, session: clincus.Session, port: int) -> Opening:
        """Make a way to a port at which something listens. Raises ClincusError."""
        found = port_at(self._ports(session), port)
        door, is_confined = self._door(session, port, found.address), not session.has_open_network
        opening = Opening(session.id, port, door, found.address, is_confined)
        with self._lock:
            if not self._openings:
                atexit.register(self.close_all)
            self._openings[session.id, port] = self._labels[opening.label] = opening
        now = self._app.registry.get(session.id)
        if now.run != session.run or now.has_open_network == is_confined:
            self._close(session.id, port)
            words = "has stopped" if now.run != session.run else "has another network now: open the port again"
            raise clincus.ClincusError(f'session "{session.id}" {words}', 409)
        return opening

    def _door(self, session: clincus.Session, port: int, address: str) -> doors.Door:
        """The best way there is."""
        incus = self._app.sessions.door(session.id)
        if not session.engine:
            try:
                return doors.DeviceDoor(incus, session.id, address, port, self._folder)
            except clincus.ClincusError as error:
                clincus.log.info("preview: %s: by commands, as no device can be added: %s", session.id, error)
        user = self._app.sessions.guest(session).uid
        return doors.CommandDoor(incus, session.id, address, port, user)

    @property
    def _folder(self) -> str:
        return clincus.own_file(self._app.environ, "preview")

    def _close(self, id: str, port: int) -> None:
        opening = self._forget(id, port)
        if opening:
            opening.door.close()

    def _forget(self, id: str, port: int) -> Opening | None:
        """Let nobody in any more. The door is still to be closed."""
        with self._lock:
            opening = self._openings.pop((id, port), None)
            if opening:
                self._labels.pop(opening.label, None)
        if opening:
            opening.end()
        return opening

    def hear(self, moment: str, session: clincus.Session) -> None:
        """A run that ends takes its openings with it, and so does a network that is closed or opened."""
        if moment == "started" and not self._is_swept:
            self._is_swept = True
            self._aside(lambda: doors.sweep(self._app.sessions.door(""), self._folder))
        self._end_others(session)
        if moment not in ("before_stop", "stopped", "deleted"):
            return
        for id, port in [key for key in tuple(self._openings) if key[0] == session.id]:
            opening = self._forget(id, port)
            if opening and moment == "before_stop":
                opening.door.close()
            elif opening:
                self._aside(opening.door.close)

    def _end_others(self, session: clincus.Session) -> None:
        """End the openings that a session has from the time when its network was open, or closed."""
        for (id, port), opening in tuple(self._openings.items()):
            if id == session.id and opening.is_confined == session.has_open_network and self._forget(id, port):
                self._aside(opening.door.close)

    def _aside(self, work: Callable[[], None]) -> None:
        """Do what asks Incus where nobody may wait for it."""
        name = "tidying previews up"
        threading.Thread(target=clincus.survive, args=(name, work), name=name, daemon=True).start()

    def close_all(self) -> None:
        """The server ends."""
        for id, port in tuple(self._openings):
            self._close(id, port)

    # -- Requests

    def visit(self, head: bytes, peer: clincus.Peer, connection: clincus.Connection) -> bool:
        """Answer a request at the dashboard's port that is for an origin of ours."""
        if b".localhost" not in head.lower():
            return False
        plain, target = openings.split_target(head)
        request = clincus.parse_head(plain, peer, connection)
        hosts = request.headers.get_all("Host") or []
        name, port = clincus.split_host(hosts[0]) if len(hosts) == 1 else ("", 0)
        label, _, rest = name.partition(".")
        if rest != "localhost" or port != peer.here[1]:
            return False
        self._serve(self._labels.get(label), request, target, openings.origin_at(name, port))
        return True

    def visit_own(self, opening: Opening, head: bytes, peer: clincus.Peer, connection: clincus.Connection) -> bool:
        """Answer a request at a listener of an opening's own: none of them is for the dashboard."""
        plain, target = openings.split_target(head)
        request = clincus.parse_head(plain, peer, connection)
        hosts = request.headers.get_all("Host") or []
        origin = openings.origin_at(*clincus.split_host(hosts[0])) if len(hosts) == 1 else ""
        self._serve(opening if origin in opening.listeners else None, request, target, origin)
        return True

    def _serve(self, opening: Opening | None, request: clincus.Request, target: str, origin: str) -> None:
        try:
            if openings.admit(self._app.site.gate.token, opening, request, target, origin) and opening:
                self._carry(opening, request, target, origin)
        except clincus.ClincusError as error:
            request.connection.close_connection = True
            pages.send_page(request, error)
        except relay.Gone:
            request.connection.close_connection = True

    def _carry(self, opening: Opening, request: clincus.Request, target: str, origin: str) -> None:
        """Let a request go to the app. Raises ClincusError while the browser has got nothing, relay.Gone."""
        if not self._places.acquire(blocking=False):
            raise openings.TOO_MANY
        try:
            try:
                self._ask(opening, request, target, origin)
            except relay.Silent:
                if request.body_length or request.method not in ("GET", "HEAD") or not self._has_moved(opening):
                    raise
                self._ask(opening, request, target, origin)
        finally:
            self._places.release()

    def _ask(self, opening: Opening, request: clincus.Request, target: str, origin: str) -> None:
        try:
            with opening.door.connected() as app, opening.holding(app, request.connection.connection):
                place = heads.Place(opening.port, origin, sorted(opening.framers), opening.is_confined)
                relay.carry(request, target, app, place)
        except OSError as error:
            raise relay.Silent("Nothing answers at this port.") from error

    def _has_moved(self, opening: Opening) -> bool:
        """Whether the app listens at another address by now, as after a restart; the door then follows."""
        with contextlib.suppress(clincus.ClincusError), self._making:
            session = self._app.running_session(opening.session_id)
            found = port_at(self._ports(session), opening.port)
            if found.address != opening.address and not opening.is_closed:
                opening.door.close()
                opening.door = self._door(session, opening.port, found.address)
                opening.address = found.address
                return True
        return False
