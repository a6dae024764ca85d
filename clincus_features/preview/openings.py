"""Ports of sessions that a person has opened: who may come in, under which address, and for how long.

On this machine an opening has an origin of its own on the dashboard's port, `http://PORT-SESSION.localhost:…/`, which
browsers lead to loopback by themselves. From another machine it has a listener of its own beside the dashboard's.
Either way a link with a ticket lets a browser in, once: it becomes a cookie of that origin.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import clincus
from clincus_features.preview import heads, pages
from clincus_features.preview.doors import Door

TICKET_PATH = "/.clincus/open"
TICKET_HOLDS = 60.0  # seconds
TICKETS_MOST = 16  # of one opening
CONNECTIONS_MOST = 64  # of one opening, WebSockets included
IN_ALL_MOST = 256  # of all: a page that holds connections must leave some to the dashboard
TOO_MANY = clincus.ClincusError("Too many connections to this app: close some of its pages.", 503)
LABEL_MOST = 63  # characters (RFC 1035, 2.3.4)


def host_label(port: int, id: str, *, is_confined: bool = False) -> str:
    """The name below `localhost` for a port of a session: its id where that is a name in the DNS, else a hash of it.

    A confined app has a name of its own. So nothing that a browser kept of one that was not, such as a page that is
    still open or a service worker, can ask it for anything.
    """
    engine, name = clincus.engine_of(id), clincus.instance_name(id)
    start = f"{port}-closed-" if is_confined else f"{port}-"
    label = start + (f"{engine}--{name}" if engine else name)
    is_plain = all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", part) for part in (engine or "x", name))
    return label if is_plain and len(label) <= LABEL_MOST else start + hashlib.sha256(id.encode()).hexdigest()[:40]


def origin_at(host: str, port: int) -> str:
    """The origin of an address, as browsers write it."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}" if port == 80 else f"http://{name}:{port}"


@dataclass
class Opening:
    """A port of a session that is open."""

    session_id: str
    port: int  # in the container
    door: Door
    address: str  # that the door leads to
    is_confined: bool = False  # its session's network is closed, so its pages must be no way out
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    listeners: dict[str, clincus.Listener] = field(default_factory=dict)  # origin -> a listener of its own
    framers: set[str] = field(default_factory=set)  # origins of the dashboard, which may show it in a frame
    is_closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._tickets: dict[str, float] = {}  # -> the moment (time.monotonic) until which it holds
        self._sockets: set[socket.socket] = set()

    @property
    def label(self) -> str:
        """Its name below `localhost`."""
        return host_label(self.port, self.session_id, is_confined=self.is_confined)

    def link(self, origin: str) -> str:
        """A link that lets one browser in, once, within TICKET_HOLDS seconds."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            kept = list(self._tickets.items())[1 - TICKETS_MOST :]
            self._tickets = {**dict(kept), ticket: time.monotonic() + TICKET_HOLDS}
        return f"{origin}{TICKET_PATH}?ticket={ticket}"

    def take_ticket(self, ticket: str) -> bool:
        """Whether a ticket holds; it does not any more."""
        with self._lock:
            return self._tickets.pop(ticket, 0.0) > time.monotonic()

    @contextlib.contextmanager
    def holding(self, *sockets: socket.socket) -> Iterator[None]:
        """Keep sockets among those that end with the opening, for the `with` block."""
        with self._lock:
            if self.is_closed:
                raise clincus.ClincusError(pages.CLOSED, 403)
            if len(self._sockets) >= 2 * CONNECTIONS_MOST:
                raise TOO_MANY
            self._sockets.update(sockets)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.difference_update(sockets)

    def end(self) -> None:
        """Let nobody in any more, and end all connections. The door stays."""
        with self._lock:
            self.is_closed, sockets = True, tuple(self._sockets)
        for listener in self.listeners.values():
            listener.close()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def admit(token: str, opening: Opening | None, request: clincus.Request, target: str, origin: str) -> bool:
    """Whether a request may go on to the app; a browser that shows its ticket is answered here.

    `token` is the dashboard's, which no app gets. Raises ClincusError(403).
    """
    if opening is None or opening.is_closed:
        raise clincus.ClincusError(pages.CLOSED, 403)
    words = b"\n".join([target.encode("latin-1"), *(v.encode("latin-1") for v in request.headers.values())])
    if token and token.encode() in words:
        raise clincus.ClincusError("This address belongs to an app: it must not get the dashboard's token.", 403)
    path, _, query = target.partition("?")
    if path == TICKET_PATH:
        if request.method != "GET" or not opening.take_ticket(query.partition("ticket=")[2]):
            raise clincus.ClincusError(f"This link was used, or is older than a minute. {pages.CLOSED}", 403)
        let_in(opening, request, origin)
        return False
    if not has_cookie(opening, request):
        raise clincus.ClincusError(pages.CLOSED, 403)
    check_site(request, origin)
    return True


def let_in(opening: Opening, request: clincus.Request, origin: str) -> None:
    """Give a browser the cookie: one for a page of its own, one for a frame in the dashboard of another site."""
    port = request.peer.here[1]
    cookies = [f"{heads.OURS}preview-{port}={opening.secret}; Path=/; HttpOnly; SameSite=Lax"]
    if ".localhost" in origin:  # a frame is of another site there, and its host counts as secure
        framed = f"{heads.OURS}framed-{port}={opening.secret}; Path=/; HttpOnly"
        cookies.append(f"{framed}; Secure; SameSite=None; Partitioned")
    fields = [("Location", "/"), ("Content-Length", "0"), ("Cache-Control", "no-store")]
    fields += [("Referrer-Policy", "no-referrer"), ("Connection", "close")]
    pages.send(request, 303, [*fields, *(("Set-Cookie", cookie) for cookie in cookies)])


def has_cookie(opening: Opening, request: clincus.Request) -> bool:
    """Whether one of the cookies of our names is right: the app may have set others of the same name."""
    pairs = ";".join(request.headers.get_all("Cookie") or []).split(";")
    names = {f"{heads.OURS}{word}-{request.peer.here[1]}" for word in ("preview", "framed")}
    secret = opening.secret.encode()
    return any(
        heads.cookie_name(pair) in names
        and hmac.compare_digest(pair.partition("=")[2].strip().encode("utf-8", "replace"), secret)
        for pair in pairs
    )


def check_site(request: clincus.Request, origin: str) -> None:
    """Refuse what a page of another origin asks for; a link or a frame that leads here may only read."""
    words = clincus.ClincusError("A page of another origin may not ask this app for anything.", 403)
    if any(one != origin for one in request.headers.get_all("Origin") or []):
        raise words
    if request.headers.get("Sec-Fetch-Site", "none").lower() in ("none", "same-origin"):
        return
    is_link = request.headers.get("Sec-Fetch-Mode", "").lower() == "navigate"
    if not is_link or request.method not in ("GET", "HEAD"):
        raise words


def split_target(head: bytes) -> tuple[bytes, str]:
    """A head with `/` in the place of its target, and the target: apps take what our own parser would refuse.

    Raises ClincusError(400) for a target that is no path.
    """
    first, end, rest = head.partition(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not re.fullmatch(rb"/[!\"$-~]*", words[1]):
        raise clincus.ClincusError("the request's address must be a path", 400)
    return b" ".join((words[0], b"/", words[2])) + end + rest, words[1].decode("ascii")
