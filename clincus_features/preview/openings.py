"""Ports of sessions that a person has opened: the browsers that may use them, their addresses, and their end.

On this machine an opening has an origin of its own on the dashboard's port, `http://PORT-SESSION.localhost:…/`, which
browsers resolve to loopback by themselves. From another machine it has a listener of its own beside the dashboard's.
Either way a link with a ticket lets one browser in, once: the ticket becomes a cookie of that origin.
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
IN_ALL_MOST = 256  # of all openings: a page that holds connections must leave some to the dashboard
TOO_MANY = clincus.ClincusError("Too many connections to this app: close some of its pages.", 503)
LABEL_MOST = 63  # characters (RFC 1035, 2.3.4)


def host_label(port: int, id: str, *, is_confined: bool = False) -> str:
    """The name below `localhost` for a port of a session: its id if that is a name in the DNS, else a hash of it.

    A confined app has another name. So nothing that a browser kept while the network was open, such as an open page or
    a service worker, can send it requests.
    """
    engine = clincus.engine_of(id)
    name = clincus.instance_name(id)
    start = f"{port}-closed-" if is_confined else f"{port}-"
    label = start + (f"{engine}--{name}" if engine else name)
    is_plain = all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", part) for part in (engine or "x", name))
    if is_plain and len(label) <= LABEL_MOST:
        return label
    return start + hashlib.sha256(id.encode()).hexdigest()[:40]


def origin_at(host: str, port: int) -> str:
    """The origin of an address, in the spelling of browsers."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}" if port == 80 else f"http://{name}:{port}"


@dataclass
class Opening:
    """An open port of a session."""

    session_id: str
    port: int  # in the container
    door: Door
    address: str  # in the container, to which the door leads
    is_confined: bool = False  # its session's network is closed, so its pages must be no way out
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    listeners: dict[str, clincus.Listener] = field(default_factory=dict)  # origin -> a listener of its own
    framers: set[str] = field(default_factory=set)  # origins of the dashboard, which may show it in a frame
    is_closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._tickets: dict[str, float] = {}  # ticket -> time.monotonic until which it is valid
        self._sockets: set[socket.socket] = set()

    @property
    def label(self) -> str:
        """Its name below `localhost`."""
        return host_label(self.port, self.session_id, is_confined=self.is_confined)

    def link(self, origin: str) -> str:
        """A link that lets one browser in, once, within TICKET_HOLDS seconds."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            newest = list(self._tickets.items())[1 - TICKETS_MOST :]
            self._tickets = dict(newest)
            self._tickets[ticket] = time.monotonic() + TICKET_HOLDS
        return f"{origin}{TICKET_PATH}?ticket={ticket}"

    def take_ticket(self, ticket: str) -> bool:
        """True if a ticket is valid. It is used up then."""
        with self._lock:
            return self._tickets.pop(ticket, 0.0) > time.monotonic()

    @contextlib.contextmanager
    def holding(self, *sockets: socket.socket) -> Iterator[None]:
        """For the `with` block, count sockets among those that end with the opening."""
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
        """Admit no further request, and end all connections. The door stays."""
        with self._lock:
            self.is_closed = True
            sockets = tuple(self._sockets)
        for listener in self.listeners.values():
            listener.close()
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def admit(token: str, opening: Opening | None, request: clincus.Request, target: str, origin: str) -> bool:
    """True if a request may go on to the app. Answers a browser that shows its ticket.

    `token` is the dashboard's, which no app gets. Raises ClincusError(403).
    """
    if opening is None or opening.is_closed:
        raise clincus.ClincusError(pages.CLOSED, 403)
    texts = "\n".join([target, *request.headers.values()])
    if token and token.encode() in texts.encode("latin-1"):
        problem = "This address belongs to an app: it must not get the dashboard's token."
        raise clincus.ClincusError(problem, 403)
    path, _, query = target.partition("?")
    if path == TICKET_PATH:
        ticket = query.partition("ticket=")[2]
        if request.method != "GET" or not opening.take_ticket(ticket):
            problem = f"This link was used, or is older than a minute. {pages.CLOSED}"
            raise clincus.ClincusError(problem, 403)
        let_in(opening, request, origin)
        return False
    if not has_cookie(opening, request):
        raise clincus.ClincusError(pages.CLOSED, 403)
    check_site(request, origin)
    return True


def let_in(opening: Opening, request: clincus.Request, origin: str) -> None:
    """Give a browser the cookie: one for a page of its own, one for a frame in the dashboard of another site."""
    port = request.peer.here[1]
    own = f"{heads.OURS}preview-{port}={opening.secret}; Path=/; HttpOnly; SameSite=Lax"
    fields = [
        ("Location", "/"),
        ("Content-Length", "0"),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("Connection", "close"),
        ("Set-Cookie", own),
    ]
    if ".localhost" in origin:  # there a frame is of another site, and its host counts as secure
        framed = f"{heads.OURS}framed-{port}={opening.secret}; Path=/; HttpOnly"
        fields.append(("Set-Cookie", f"{framed}; Secure; SameSite=None; Partitioned"))
    pages.send(request, 303, fields)


def has_cookie(opening: Opening, request: clincus.Request) -> bool:
    """True if one of the cookies with our names is right: the app may have set others of the same name."""
    port = request.peer.here[1]
    names = {f"{heads.OURS}preview-{port}", f"{heads.OURS}framed-{port}"}
    secret = opening.secret.encode()
    for pair in ";".join(request.headers.get_all("Cookie") or []).split(";"):
        value = pair.partition("=")[2].strip().encode("utf-8", "replace")
        if heads.cookie_name(pair) in names and hmac.compare_digest(value, secret):
            return True
    return False


def check_site(request: clincus.Request, origin: str) -> None:
    """Refuse requests of a page of another origin. A link or a frame that leads here may only read."""
    refusal = clincus.ClincusError(
        "A page of another origin may not ask this app for anything. Open it from the dashboard.", 403
    )
    if any(other != origin for other in request.headers.get_all("Origin") or []):
        raise refusal
    if request.headers.get("Sec-Fetch-Site", "none").lower() in ("none", "same-origin"):
        return
    is_link = request.headers.get("Sec-Fetch-Mode", "").lower() == "navigate"
    if not is_link or request.method not in ("GET", "HEAD"):
        raise refusal


def split_target(head: bytes) -> tuple[bytes, str]:
    """A head with `/` in place of its target, and the target: apps accept targets that our own parser rejects.

    Raises ClincusError(400) for a target that is no path.
    """
    line, end, rest = head.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or not re.fullmatch(rb"/[!\"$-~]*", words[1]):
        raise clincus.ClincusError("the request's address must be a path", 400)
    method, target, version = words
    plain = b" ".join((method, b"/", version))
    return plain + end + rest, target.decode("ascii")
