"""The network of a session: it reaches everything (`open`), some names (`allow-list`), or nothing (`none`).

POST and PATCH of sessions take `network`, `allow` and `presets`; GET /api/sessions/{id}/network lists refused and
passed connections. devices.py closes the container, proxy.py passes connections to the names of a list, and lines.py
connects the container of an engine with the proxy.
"""

from __future__ import annotations

import fcntl
import functools
import ipaddress
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import clincus

from .addresses import Network
from .devices import (
    LABEL,
    PORT,
    SUDOERS,
    VARIABLES,
    Fitting,
    device_path,
    own_folder,
    socket_path,
    start_part,
)
from .lines import READY_WITHIN, TAKE, WAIT, Lines, check_guest
from .outside import session_variables
from .policy import ALLOW_LIST, MODES, OPEN, Policy, bounded, check_entry, check_preset, known_presets
from .presets import PRESETS, TOOL
from .proxy import Proxy

BringIn = Callable[[clincus.Session], None]
FIELDS = {"network": "network.mode", "allow": "network.allow", "presets": "network.presets"}
LOCK_PERIOD = 1.0  # seconds between two tries to become the server that has the sockets
TELL_WITHIN = 5.0  # seconds for a container to hear of a change
TELL_PERIOD = 2.0  # seconds between two events about refusals
REST = 60.0  # seconds between two looks at the policies if no event comes


def check_network(value: object) -> str:
    """A network in CIDR. Raises Unfit."""
    text = clincus.check_text(value)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise clincus.Unfit(f"write a network such as 10.1.2.0/24 ({error})") from None


clincus.register_settings(
    clincus.Setting("network.mode", OPEN, clincus.matching("|".join(MODES), f"write {', '.join(MODES)}")),
    clincus.Setting("network.allow", [], clincus.list_of(check_entry)),
    clincus.Setting("network.presets", [TOOL], clincus.list_of(check_preset)),
    clincus.Setting("network.reachable", [], clincus.list_of(check_network)),
)


def check_layers(config: clincus.Config) -> None:
    """Raise ConfigError if a project's own file opens private networks: only the user's config may do that."""
    for layer in config.layers:
        if layer.rank == clincus.PROJECT_RANK and "network.reachable" in layer.values:
            raise clincus.ConfigError(
                f"{layer.source}: network.reachable can be set in your own config only: move it there"
            )


clincus.CONFIG_CHECKS.append(check_layers)
read_policy = functools.lru_cache(1024)(Policy.from_label)


def install(extensions: clincus.Extensions) -> None:
    """Add the parts of a start, the routes, and the proxy."""
    app = extensions.app
    gateway = Gateway(app)
    environ = os.environ if app is None else app.environ
    extensions.instance_parts.append(start_part(environ, gateway.expect))
    extensions.default_variables.append(functools.partial(session_variables, environ))
    extensions.guest_files.append(lambda session: [clincus.ToolFile(SUDOERS[0], SUDOERS[1].encode(), 0o644)])
    extensions.session_fields.append(gateway.fields)
    extensions.fillers.append(gateway.filler)
    extensions.changes.append(gateway.change)
    extensions.wrappers.append(clincus.with_settings(FIELDS, taken_settings))
    extensions.listeners.append(gateway.hear)
    extensions.routes += [
        ("GET", "/api/sessions/{id}/network", gateway.get_network),
        ("POST", "/api/sessions/{id}/network/seen", gateway.mark_seen),
        ("GET", "/api/network/presets", lambda request: gateway.presets()),
    ]
    extensions.duties.append(clincus.Duty("passing connections", 0.0, gateway.serve))


class Gateway:
    """The proxy of this server, and the requests about it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = -1  # descriptor of the lock file; -1 in a server without the sockets
        self._owner = ""  # names the servers of this user to those of other hosts that use the same engine
        self._changing: set[str] = set()  # sessions whose policy is being changed
        self._runs: dict[str, str] = {}  # session -> the run that its records belong to
        self._carried: set[str] = set()  # sessions that start on an engine, and need a line
        self._untold: set[str] = set()  # sessions with refusals that no event has announced
        self._told_at = 0.0

    @clincus.locked_property
    def proxy(self) -> Proxy:
        """The proxy."""
        return Proxy(
            self._socket, self._untold.add, reachable=self._reachable, opener=self._open, head_check=self._check
        )

    @clincus.locked_property
    def _lines(self) -> Lines:
        return Lines(self._app.sessions, PORT, self._socket, lambda: self._owner)

    def _socket(self, id: str) -> str:
        return socket_path(self._app.environ, id)

    def _open(
        self, id: str, host: str, port: int, later: Callable[[Callable[[], None]], None]
    ) -> clincus.OpenedConnection | None:
        for opener in self._app.extensions.openers:
            opened: clincus.OpenedConnection | None = opener(id, host, port, later)
            if opened is not None:
                return opened
        return None

    def _check(self, id: str, host: str, port: int, head: bytes) -> str:
        return next(filter(None, (check(id, host, port, head) for check in self._app.extensions.head_checks)), "")

    def _reachable(self) -> list[Network]:
        return [ipaddress.ip_network(text) for text in self._app.config.get("network.reachable")]

    # -- The proxy's thread

    def serve(self) -> None:
        """Run one round of the proxy. If a user has several servers, only one of them does this."""
        if self._lock < 0 and not self._take_lock():
            time.sleep(LOCK_PERIOD)
            return
        self._compare()
        self.proxy.serve_round(TELL_PERIOD if self._untold else REST)
        now = time.monotonic()
        if self._untold and now > self._told_at + TELL_PERIOD:
            self._told_at = now
            for id in list(self._untold):
                self._untold.discard(id)
                self._app.hub.publish({"type": "session.changed", "id": id}, extension=True)

    def _take_lock(self) -> bool:
        path = socket_path(self._app.environ, "lock")
        own_folder(os.path.dirname(path))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._owner = kept_owner(descriptor)
        self._lock = descriptor
        return True

    def _compare(self) -> None:
        """Give the proxy the policies of all instances, also those that another program has changed."""
        known = {session.id: session for session in self._app.registry.all()}
        for id, session in known.items():
            if session.status in ("running", "stopped") and id not in self._changing:
                self._lead(id, way_of(session, read_policy(session.network)))
        for id in self.proxy.wanted() - known.keys():
            self._lead(id, NO_WAY)

    def _lead(self, id: str, way: Way) -> None:
        """Give a session its way out, or take it away."""
        self.proxy.want(id, way.policy)
        if way.has_line:
            self._keep_line(id)
        elif clincus.engine_of(id):
            self._lines.end(id)

    def _keep_line(self, id: str, manner: str = WAIT, patience: float = 0.0) -> None:
        """Keep a line to a container on an engine, and wait up to `patience` seconds for it.

        If this user has several servers, only the one with the sockets does this. If this server starts or changes the
        session, `manner` is TAKE, which ends the line of a Clincus on another host.
        """
        if self._lock >= 0:
            self._lines.want(id, manner).ready.wait(patience)

    def expect(self, id: str, policy: Policy) -> None:
        """In a server, prepare the way out before a container starts."""
        if policy.has_proxy and clincus.engine_of(id):
            self._carried.add(id)
        if self._app is not None and policy.has_proxy:
            self.proxy.want(id, policy)

    def filler(self, sessions: clincus.Sessions, session: clincus.Session, request: object) -> BringIn | None:
        """A function that gives a new container of an engine its line, before its tool starts; None on this host."""
        return functools.partial(self._bring_in, sessions) if session.engine else None

    def _bring_in(self, sessions: clincus.Sessions, session: clincus.Session) -> None:
        """Raise ClincusError(409) if the container cannot have a line."""
        if session.id in self._carried:
            self._carried.discard(session.id)
            check_guest(sessions.door(session.id), session.id)
            self._keep_line(session.id, TAKE, READY_WITHIN)

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Begin new records with each run, and compare the policies after each change."""
        id = session.id
        if moment in ("before_start", "after_start", "stopped", "deleted"):
            # No start goes on, or it has not come to its line yet.
            self._carried.discard(id)
        if moment == "started":
            if self._runs.get(id) not in (None, session.run):
                self.proxy.forget(id)
            self._runs[id] = session.run
            if session.engine and read_policy(session.network).has_way:
                # The line comes before the tool starts.
                self._keep_line(id, TAKE if id in self._carried else WAIT)
        elif moment == "deleted":
            self.proxy.forget(id)
            self._runs.pop(id, None)
        has_way = read_policy(session.network).has_way
        if self._app is not None and (has_way or id in self.proxy.wanted()):
            self.proxy.wake()

    # -- Requests

    def fields(self, session: clincus.Session) -> dict[str, object]:
        """The field `network` of a session's document."""
        unseen = self.proxy.unseen(session.id) if self._app is not None else 0
        return {"network": {"mode": read_policy(session.network).mode, "refused": unseen}}

    def change(self, session: clincus.Session, values: Mapping[str, Any]) -> None:
        """Apply our settings in a PATCH, at once if the session runs. Raises ClincusError."""
        given = taken_settings(values)
        if not given:
            return
        id = session.id
        sessions = self._app.sessions
        with sessions.held(id):
            session = sessions.registry.get(id)
            if session.status not in ("running", "stopped"):
                problem = f'session "{id}" is {session.status}: wait until that has finished'
                raise clincus.ClincusError(problem, "session_busy")
            before = sessions.door(id).instance(id)
            if before is None:
                raise clincus.ClincusError(f'session "{id}" not found', "session_not_found")
            known = Policy.from_label(before["config"].get(LABEL, ""))
            self._changing.add(id)
            try:
                self._put(session, before, known, given)
                self._see(id)
            finally:
                sessions.look(id)
                self._changing.discard(id)
                self.proxy.wake()

    def get_network(self, request: clincus.Request) -> object:
        """The answer to GET …/network."""
        session = self._app.known_session(request.values["id"])
        records = self.proxy.records(session.id)
        policy = read_policy(session.network)
        document = {
            "mode": policy.mode,
            "allow": list(policy.allow),
            "presets": list(policy.presets),
            "preset_hosts": [{"name": name, "hosts": list(PRESETS[name].hosts)} for name in policy.presets],
            **records.documents(),
        }
        for more in clincus.call_each(self._app.extensions.network_fields, session):
            document.update(more)
        return document

    def mark_seen(self, request: clincus.Request) -> object:
        """Answer POST …/network/seen: a person has looked at the refusals."""
        self._see(self._app.known_session(request.values["id"]).id)
        return clincus.Response(204)

    def _see(self, id: str) -> None:
        if self.proxy.unseen(id):
            self.proxy.records(id).unseen = 0
            self._app.hub.publish({"type": "session.changed", "id": id}, extension=True)

    def presets(self) -> object:
        """The answer to GET /api/network/presets."""
        config = self._app.config
        presets = []
        for name, preset in PRESETS.items():
            presets.append({"name": name, "title": preset.title, "hosts": list(preset.hosts)})
        settings = {name: config.get(f"network.{name}") for name in ("mode", "allow", "presets")}
        return {"presets": presets, "default": settings}

    def _put(
        self, session: clincus.Session, before: Mapping[str, Any], known: Policy, given: Mapping[str, object]
    ) -> None:
        door = self._app.sessions.door(session.id)
        is_awake = session.status == "running"
        policy = changed(known, given, session)
        keeps_proxy = policy.has_proxy and (is_awake or session.paused)
        policy = replace(policy, has_proxy=keeps_proxy or policy.mode == ALLOW_LIST)
        way = way_of(session, policy)
        if way.has_line:
            check_guest(door, session.id)
        # Connections to a name that is closed end at once. A name that is opened works before a program asks for it.
        self._lead(session.id, way)
        settings = {**clincus.parse_json(session.settings or "{}"), **given}
        text = json.dumps(settings, sort_keys=True)
        fitting = Fitting(door, before, device_path(self._app.environ, session.id))
        gets_proxy = policy.has_proxy and not known.has_proxy
        with self._telling_terminals(session) if is_awake and gets_proxy else nullcontext():
            fitting.put(policy, text)
        if is_awake and policy.mode == OPEN != known.mode:
            program = clincus.guest_command("network-up")
            self._tell(session, lambda: door.exec(session.id, program, user=0, timeout=TELL_WITHIN))
        if way.has_line:
            self._keep_line(session.id, TAKE, READY_WITHIN)

    def _tell(self, session: clincus.Session, tell: Callable[[], object]) -> None:
        """Tell a container about a change, which also holds if that fails."""
        try:
            tell()
        except clincus.ClincusError as error:
            self._app.sessions.report(f"{session.id}: its programs were not told of the network: {error}")

    @contextmanager
    def _telling_terminals(self, session: clincus.Session) -> Iterator[None]:
        """Tell the terminals of a container about the proxy, while the block adds it: Incus takes a second."""
        words = [f"{name}={value}" for name, value in VARIABLES.items()]
        tell = functools.partial(self._app.sessions.output, session, "network", *words, timeout=TELL_WITHIN)
        teller = threading.Thread(target=self._tell, args=(session, tell), name="telling terminals", daemon=True)
        teller.start()
        try:
            yield
        finally:
            teller.join()


class Way(NamedTuple):
    """The way out of a session through the proxy."""

    policy: Policy | None  # of the proxy; None for a session without a way
    has_line: bool  # a line connects the container, which is on an engine


NO_WAY = Way(None, False)


def way_of(session: clincus.Session, policy: Policy) -> Way:
    """The way out of a session with a policy. A paused session keeps its way, but no line. Pure."""
    is_awake = session.status == "running"
    if not policy.has_way or not (is_awake or session.paused):
        return NO_WAY
    return Way(policy, is_awake and bool(session.engine))


def kept_owner(descriptor: int) -> str:
    """The name of this user's servers in a file; a new one if it has none."""
    owner = os.pread(descriptor, 64, 0).decode("ascii", "replace")
    if re.fullmatch("[0-9a-f]{32}", owner):
        return owner
    owner = os.urandom(16).hex()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, owner.encode(), 0)
    return owner


def taken_settings(values: Mapping[str, Any]) -> dict[str, object]:
    """Our fields of a request, as settings by dotted key. Raises ClincusError(400)."""
    settings: dict[str, object] = {}
    for name, key in FIELDS.items():
        value = values[name]
        if value is None:
            continue
        try:
            plain = bounded(value) if isinstance(value, list) else value
            settings[key] = clincus.SETTING[key].fit(plain)
        except ValueError as error:
            raise clincus.ClincusError(f'"{name}": {error}', 400) from None
    return settings


def changed(policy: Policy, given: Mapping[str, Any], session: clincus.Session) -> Policy:
    """A policy with the given settings in place of its own."""
    presets = known_presets(given.get("network.presets", policy.presets), session.tool)
    return replace(
        policy,
        mode=given.get("network.mode", policy.mode),
        allow=tuple(given.get("network.allow", policy.allow)),
        presets=presets,
    )
