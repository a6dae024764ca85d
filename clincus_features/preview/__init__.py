"""Previews: the listening ports of a session's container, each in a browser at an origin of its own.

Nothing can be reached before a person opens the port: POST /api/sessions/{id}/ports/{port}. DELETE and the end of the
session's run close it. listening.py finds the ports, doors.py leads to them, openings.py decides about access, relay.py
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
LISTED = 100  # ports of an answer
PORTS_TRIED = 20  # ports from `preview.port` on, for openings from other machines


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, the visitor and the listener."""
    previews = Previews(extensions.app)
    path = "/api/sessions/{id}/ports"
    extensions.routes += [
        ("GET", path, previews.get_ports),
        ("POST", path + "/{port}", previews.post_port),
        ("DELETE", path + "/{port}", previews.delete_port),
    ]
    extensions.visitors.append(previews.visit)
    extensions.listeners.append(previews.hear)


class Previews:
    """All openings of a server."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._listening = clincus.LastAnswers(KEPT)
        self._making = threading.Lock()  # one opening is made at a time
        self._lock = threading.Lock()  # guards the fields below
        self._openings: dict[tuple[str, int], Opening] = {}  # by session and port
        self._labels: dict[str, Opening] = {}  # by host label
        self._is_swept = False
        self._places = threading.Semaphore(openings.IN_ALL_MOST)

    # -- The API

    def get_ports(self, request: clincus.Request) -> object:
        """The listening ports, each with its address for this request; none if the session does not run."""
        session = self._app.reachable_session(request.values["id"])
        try:
            ports = self._ports(session) if session.status == "running" else []
        except clincus.ClincusError:
            if self._app.registry.get(session.id).status == "running":
                raise
            ports = []  # it stopped meanwhile
        listed = [self._document(session, port, request) for port in ports[:LISTED]]
        return {"ports": listed, "truncated": len(ports) > LISTED}

    def post_port(self, request: clincus.Request) -> object:
        """Open a port. The answer has a link that lets one browser in."""
        session = self._app.running_session(request.values["id"])
        port = request.values["port"]
        origin = self._origin(session, port, request)
        self._end_others(session)
        with self._making:
            opening = self._openings.get((session.id, port)) or self._open(session, port)
            origin = origin or self._own_origin(opening, request)
        host = request.headers["Host"].lower()
        if not host.startswith("["):
            opening.framers.add(f"http://{host}")
        return {"url": opening.link(origin), "confined": opening.is_confined}

    def delete_port(self, request: clincus.Request) -> object:
        """Close a port."""
        id = self._app.known_session(request.values["id"]).id
        self._close(id, request.values["port"])
        return clincus.Response(204)

    def _document(self, session: clincus.Session, found: Listening, request: clincus.Request) -> dict[str, object]:
        opening = self._openings.get((session.id, found.port))
        origin: str | None = None
        if opening:
            with contextlib.suppress(clincus.ClincusError):
                origin = self._origin(session, found.port, request) or self._known_origin(opening, request)
        return {
            "port": found.port,
            "addresses": list(found.addresses),
            "process": found.process,
            "open": opening is not None,
            "url": f"{origin}/" if origin else None,
        }

    # -- Addresses

    def _origin(self, session: clincus.Session, port: int, request: clincus.Request) -> str:
        """The origin on the dashboard's port for a request from this machine; "" for one from another machine.

        Raises ClincusError(409) for a request through a proxy, which would have to know the other addresses.
        """
        here, port_here = request.peer.here
        name, named_port = clincus.split_host(request.headers["Host"])
        if self._app.site.gate.is_forwarded(request) or named_port != port_here:
            problem = "a preview cannot be reached through a proxy: use the dashboard at localhost, or `ssh -L` to it"
            raise clincus.ClincusError(problem, 409)
        if not clincus.is_loopback(here):
            return ""
        if name not in ("localhost", *clincus.LOOPBACK):
            problem = "a preview needs the dashboard at localhost, 127.0.0.1 or [::1]: open it there, or by `ssh -L`"
            raise clincus.ClincusError(problem, 409)
        is_confined = not session.has_open_network
        label = openings.host_label(port, session.id, is_confined=is_confined)
        return openings.origin_at(f"{label}.localhost", port_here)

    def _known_origin(self, opening: Opening, request: clincus.Request) -> str | None:
        """The origin of an opening for a request from another machine, None if it has no listener for it yet."""
        name, _ = clincus.split_host(request.headers["Host"])
        start = openings.origin_at(name, 80) + ":"
        return next((origin for origin in opening.listeners if origin.startswith(start)), None)

    def _own_origin(self, opening: Opening, request: clincus.Request) -> str:
        """The origin of an opening for a request from another machine. Makes its listener if it has none.

        Raises ClincusError(409) if no port is free.
        """
        known = self._known_origin(opening, request)
        if known:
            return known
        here, _ = request.peer.here
        if ipaddress.ip_address(here.partition("%")[0]).is_link_local:
            raise clincus.ClincusError(
                "a preview does not work at a link-local address: open the dashboard at localhost", 409
            )
        listener = self._listen(opening, here)
        name, _ = clincus.split_host(request.headers["Host"])
        origin = openings.origin_at(name, int(listener.server_address[1]))
        opening.listeners[origin] = listener
        listener.start()
        return origin

    def _listen(self, opening: Opening, address: str) -> clincus.Listener:
        """A listener for one opening, at the first free port. Raises ClincusError(409) if none is free."""
        extensions = clincus.Extensions()
        extensions.visitors.append(functools.partial(self.visit_own, opening))
        places = threading.Semaphore(openings.CONNECTIONS_MOST)
        site = self._app.site._replace(places=places, extensions=extensions)
        first = self._app.config.get("preview.port")
        last = min(first + PORTS_TRIED, 65536)
        for port in range(first, last) if first else (0,):
            with contextlib.suppress(OSError):
                return clincus.open_listener((address, port), site)
        problem = f"the ports from preview.port = {first} on are taken: close previews, or set another preview.port"
        raise clincus.ClincusError(problem, 409)

    # -- Openings

    def _ports(self, session: clincus.Session) -> list[Listening]:
        """The listening ports of a running session, at most KEPT seconds old. Raises IncusError."""
        found: list[Listening] = self._listening.get(session, lambda: ask_ports(self._app.sessions, session))
        return found

    def _open(self, session: clincus.Session, port: int) -> Opening:
        """Make a way to a port at which a server listens. Raises ClincusError."""
        found = port_at(self._ports(session), port)
        is_confined = not session.has_open_network
        door = self._door(session, port, found.address)
        opening = Opening(session.id, port, door, found.address, is_confined)
        with self._lock:
            if not self._openings:
                atexit.register(self.close_all)
            self._openings[session.id, port] = opening
            self._labels[opening.label] = opening
        present = self._app.registry.get(session.id)
        if present.run != session.run:
            problem = "has stopped"
        elif present.has_open_network == is_confined:
            problem = "has another network now: open the port again"
        else:
            return opening
        self._close(session.id, port)
        raise clincus.ClincusError(f'session "{session.id}" {problem}', 409)

    def _door(self, session: clincus.Session, port: int, address: str) -> doors.Door:
        """The fastest way to a port that this Incus allows."""
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
        """Admit no further request. The caller closes the door."""
        with self._lock:
            opening = self._openings.pop((id, port), None)
            if opening:
                self._labels.pop(opening.label, None)
        if opening:
            opening.end()
        return opening

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Close the openings of a run that ends, and those of a network that is closed or opened."""
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
        """End a session's openings that were made while its network had another mode."""
        for (id, port), opening in tuple(self._openings.items()):
            is_outdated = opening.is_confined == session.has_open_network
            if id == session.id and is_outdated and self._forget(id, port):
                self._aside(opening.door.close)

    def _aside(self, work: Callable[[], None]) -> None:
        """Do work that waits for Incus in a thread of its own."""
        name = "tidying previews up"
        threading.Thread(target=clincus.survive, args=(name, work), name=name, daemon=True).start()

    def close_all(self) -> None:
        """Close all openings, as the server ends."""
        for id, port in tuple(self._openings):
            self._close(id, port)

    # -- Requests

    def visit(self, head: bytes, peer: clincus.Peer, connection: clincus.Connection) -> bool:
        """Answer a request at the dashboard's port if it is for one of our origins; True if it is."""
        if b".localhost" not in head.lower():
            return False
        request, target = parse(head, peer, connection)
        name, port = host_of(request)
        label, _, rest = name.partition(".")
        if rest != "localhost" or port != peer.here[1]:
            return False
        origin = openings.origin_at(name, port)
        self._serve(self._labels.get(label), request, target, origin)
        return True

    def visit_own(self, opening: Opening, head: bytes, peer: clincus.Peer, connection: clincus.Connection) -> bool:
        """Answer a request at an opening's own listener, which gets no requests for the dashboard."""
        request, target = parse(head, peer, connection)
        name, port = host_of(request)
        origin = openings.origin_at(name, port) if name else ""
        admitted = opening if origin in opening.listeners else None
        self._serve(admitted, request, target, origin)
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
        """Pass a request on to the app. Raises relay.Gone, and ClincusError while the browser has got nothing."""
        if not self._places.acquire(blocking=False):
            raise openings.TOO_MANY
        try:
            try:
                self._ask(opening, request, target, origin)
            except relay.Silent:
                is_plain = request.method in ("GET", "HEAD") and not request.body_length
                if not is_plain or not self._has_moved(opening):
                    raise
                self._ask(opening, request, target, origin)
        finally:
            self._places.release()

    def _ask(self, opening: Opening, request: clincus.Request, target: str, origin: str) -> None:
        try:
            browser = request.connection.connection
            with opening.door.connected() as app, opening.holding(app, browser):
                framers = sorted(opening.framers)
                place = heads.Place(opening.port, origin, framers, opening.is_confined)
                relay.carry(request, target, app, place)
        except OSError as error:
            raise relay.Silent("Nothing answers at this port.") from error

    def _has_moved(self, opening: Opening) -> bool:
        """True if the app listens at another address now, as after a restart. The door then follows."""
        with contextlib.suppress(clincus.ClincusError), self._making:
            session = self._app.running_session(opening.session_id)
            found = port_at(self._ports(session), opening.port)
            if found.address != opening.address and not opening.is_closed:
                opening.door.close()
                opening.door = self._door(session, opening.port, found.address)
                opening.address = found.address
                return True
        return False


def parse(head: bytes, peer: clincus.Peer, connection: clincus.Connection) -> tuple[clincus.Request, str]:
    """A request and its target. Raises ClincusError(400)."""
    plain, target = openings.split_target(head)
    return clincus.parse_head(plain, peer, connection), target


def host_of(request: clincus.Request) -> tuple[str, int]:
    """Name and port of a request's only Host field; ("", 0) for any other number of them."""
    hosts = request.headers.get_all("Host") or []
    return clincus.split_host(hosts[0]) if len(hosts) == 1 else ("", 0)
