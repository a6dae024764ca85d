"""The way out of sessions in allow-list mode: a proxy on the host, with a socket of its own for each session.

One thread and one selector serve all sessions, so connections cost no threads; other threads look names up, two at most
for each session. Everything is bounded: connections, bytes that wait, and the time for each step. The proxy checks a
session's policy for each connection, and again when the policy changes.
"""

from __future__ import annotations

import functools
import os
import resource
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import clincus

from .addresses import Network, why_closed
from .link import Found, Link
from .lookups import LookUps
from .policy import Policy
from .records import Passage, Records
from .requests import Asked, Refused, answer

MOST_OF_SESSION = 256  # connections of one session
MOST_IN_ALL = 1024  # connections of all
MOST_NEW = 300  # new connections of a session in a round; more wait
PIECE = 256 << 10  # bytes that are read at once
ROUND = 0.5  # seconds between two looks at times, at most, while there are connections

Resolver = Callable[[str, int], Found]


def look_up(host: str, port: int) -> Found:
    """The addresses of a host from this host's resolver. Raises OSError."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)


class Outlet:
    """The way out of one session: its socket, its policy, and its connections."""

    def __init__(self, proxy: Proxy, session: str, policy: Policy) -> None:
        self.selector = proxy.selector
        self.piece = proxy.piece
        self.policy = policy
        self._proxy = proxy
        self._session = session
        self.links: set[Link] = set()
        self.new = 0  # connections of this round
        self._look_ups = LookUps(proxy.find, proxy.tell)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def look_up(self, link: Link, asked: Asked) -> None:
        """Look up the addresses of a host for a link, if the policy allows it. Raises Refused."""
        if not self.policy.allows(asked.host, asked.port):
            raise Refused(403, f"{asked.host}:{asked.port} is not on this session's list of names", is_policy=True)
        self._look_ups.ask(link, asked)

    def open(self, link: Link, host: str, port: int) -> clincus.OpenedConnection | None:
        """The object that reads the content of a link's connection, None if no feature does. Raises Refused."""
        later = functools.partial(self._proxy.later, link)
        try:
            return self._proxy.opener(self._session, host, port, later)
        except clincus.ClincusError as error:
            raise Refused(502, f"{host} cannot be reached: {error.message}", is_policy=True) from None

    def check_plain(self, asked: Asked) -> None:
        """Raise Refused for a plain request whose head a feature refuses."""
        words = self._proxy.head_check(self._session, asked.host, asked.port, asked.head)
        if words:
            raise Refused(403, words)

    def forget(self, link: Link) -> None:
        """Cancel the look-up of a link."""
        self._look_ups.forget(link)

    def passage(self, host: str, port: int) -> Passage:
        """The row that counts a connection."""
        return self._proxy.records(self._session).passage(host, port)

    def refuse(self, host: str, port: int, reason: str) -> None:
        """Count a refusal."""
        self._proxy.records(self._session).refuse(host, port, reason)
        self._proxy.on_refusal(self._session)


class Proxy:
    """Passes the connections of all sessions that have a policy here."""

    def __init__(
        self,
        path_of: Callable[[str], str],
        on_refusal: Callable[[str], None] = lambda session: None,
        resolve: Resolver = look_up,
        reachable: Callable[[], Sequence[Network]] = tuple,
        opener: clincus.Opener = lambda session, host, port, later: None,
        *,
        head_check: clincus.HeadCheck = lambda session, host, port, head: "",
    ) -> None:
        """`path_of` returns a session's socket, `reachable` the private networks that the user has opened.

        `on_refusal` gets the session, and may not wait. `opener` and `head_check` are each one of those of
        `clincus.Extensions`.
        """
        self.opener = opener
        self.head_check = head_check
        self._path_of = path_of
        self.on_refusal = on_refusal
        self._resolve = resolve
        self._reachable = reachable
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)
        self.selector.register(self._wake_reader, selectors.EVENT_READ, self._awake)
        self._lock = threading.Lock()  # guards the next three
        self._is_closed = False
        self._wanted: dict[str, Policy] = {}  # by session
        self._records: dict[str, Records] = {}
        self._outlets: dict[str, Outlet] = {}
        self._due: deque[Callable[[], None]] = deque()  # work from other threads
        self._known_reachable = list(reachable())
        self._failures: dict[str, str] = {}  # session -> why its socket cannot be opened
        self.piece = bytearray(PIECE)
        self._swept = 0.0
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = MOST_IN_ALL if files < 0 else min(MOST_IN_ALL, files // 4)

    # -- For other threads

    def want(self, session: str, policy: Policy | None) -> None:
        """Set the policy of a session, or None for no way out. Takes effect within a round."""
        with self._lock:
            if self._wanted.get(session) == policy:
                return
            if policy is None:
                del self._wanted[session]
            else:
                self._wanted[session] = policy
        self.wake()

    def wanted(self) -> set[str]:
        """The sessions that have a policy here."""
        with self._lock:
            return set(self._wanted)

    def records(self, session: str) -> Records:
        """The records of passed and refused connections in a session's run."""
        with self._lock:
            return self._records.setdefault(session, Records())

    def unseen(self, session: str) -> int:
        """The number of a session's refusals that no person has seen."""
        with self._lock:
            return self._records[session].unseen if session in self._records else 0

    def forget(self, session: str) -> None:
        """Begin new records for a session."""
        with self._lock:
            self._records.pop(session, None)

    def count(self) -> int:
        """The number of connections."""
        return sum(len(outlet.links) for outlet in self._outlets.values())

    def wake(self) -> None:
        """End the present `serve_round`."""
        with self._lock, suppress(BlockingIOError):
            if not self._is_closed:
                os.write(self._wake_writer, b"!")

    # -- The loop

    def serve_round(self, rest: float = ROUND) -> None:
        """Wait for events, `rest` seconds at most, and handle them."""
        is_busy = self.wanted() != self._outlets.keys() or any(one.links or one.new for one in self._outlets.values())
        for key, mask in self.selector.select(ROUND if is_busy else rest):
            key.data(mask)
        while self._due:
            self._due.popleft()()
        now = time.monotonic()
        if now >= self._swept + ROUND:
            self._swept = now
            self._adjust()  # again, if it failed
            for outlet in self._outlets.values():
                if outlet.new >= MOST_NEW:
                    self._register(outlet)
                outlet.new = 0
                for link in list(outlet.links):
                    link.check_time(now)

    def close(self) -> None:
        """End everything."""
        for session in list(self._outlets):
            self._stop_listening(session)
        with self._lock:  # nobody may write to a file of this number that another one has opened since
            self._is_closed = True
            self.selector.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def _awake(self, mask: int) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)
        self._adjust()

    def _adjust(self) -> None:
        """End connections that a policy does not allow, then listen for the sessions that have a policy.

        A socket that cannot be opened holds up no other session, and is tried again.
        """
        with self._lock:
            wanted = dict(self._wanted)
        for session in self._outlets.keys() - wanted.keys():
            self._stop_listening(session)
        for session, outlet in self._outlets.items():
            if outlet.policy != wanted[session]:
                self._narrow(outlet, wanted[session])
        self._narrow_reachable()
        for session in wanted.keys() - self._outlets.keys():
            listen = functools.partial(self._listen, session, wanted[session])
            known = self._failures.get(session, "")
            self._failures[session] = clincus.survive(f"{session}: its way out", listen, known)
        self._failures = {session: words for session, words in self._failures.items() if words and session in wanted}

    def _narrow_reachable(self) -> None:
        """End connections to networks that the user has closed in the configuration."""
        reachable = list(self._reachable())
        if reachable == self._known_reachable:
            return
        self._known_reachable = reachable
        for outlet in self._outlets.values():
            for link in list(outlet.links):
                if link.address and why_closed(link.address, reachable):
                    link.drop()

    def _narrow(self, outlet: Outlet, policy: Policy) -> None:
        outlet.policy = policy
        for link in list(outlet.links):
            if link.asked and not policy.allows(link.asked.host, link.asked.port):
                link.drop()

    # -- Sessions

    def _listen(self, session: str, policy: Policy) -> None:
        """Raises ClincusError."""
        path = self._path_of(session)
        try:
            outlet = Outlet(self, session, policy)
            try:
                with suppress(FileNotFoundError):
                    os.unlink(path)
                outlet.socket.bind(path)
                outlet.socket.listen(128)
                outlet.socket.setblocking(False)
                self._register(outlet)
            except BaseException:
                outlet.socket.close()
                raise
        except OSError as error:
            raise clincus.ClincusError(f"nothing passes, as {path} cannot be made: {error}", 500) from error
        self._outlets[session] = outlet

    def _register(self, outlet: Outlet) -> None:
        self.selector.register(outlet.socket, selectors.EVENT_READ, lambda mask: self._accept(outlet))

    def _stop_listening(self, session: str) -> None:
        outlet = self._outlets.pop(session)
        if outlet.new < MOST_NEW:
            self.selector.unregister(outlet.socket)
        outlet.socket.close()
        with suppress(OSError):
            os.unlink(self._path_of(session))
        for link in list(outlet.links):
            link.drop()

    def _accept(self, outlet: Outlet) -> None:
        if outlet.socket.fileno() < 0:  # closed in this round
            return
        connection = None
        try:
            connection, _ = outlet.socket.accept()
            outlet.new += 1
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # such as too many open files: the program that waits is accepted later
            outlet.new = MOST_NEW
        if outlet.new >= MOST_NEW:  # an agent that knocks all the time must not take the time of the others
            self.selector.unregister(outlet.socket)
        if connection is None:
            return
        if not is_ours(connection):
            connection.close()
        elif len(outlet.links) >= min(MOST_OF_SESSION, self._most - self.count()):
            # A connection that waited would take memory of Incus's own proxy, so this one is refused at once.
            with suppress(OSError):
                connection.send(answer(Refused(503, "too many connections at once")), socket.MSG_DONTWAIT)
            connection.close()
        else:
            outlet.links.add(Link(outlet, connection))

    # -- Names, in the threads that look them up

    def find(self, asked: Asked) -> Found | Refused:
        """The addresses of a host that may be used, or the refusal."""
        try:
            return self._usable(asked)
        except Refused as refused:
            return refused
        except Exception as error:
            return Refused(502, f"{asked.host} cannot be looked up: {error}")

    def tell(self, link: Link, found: Found | Refused) -> None:
        """Let a link go on with the result of its look-up."""
        self._due.append(functools.partial(link.go_on, found))
        self.wake()

    def later(self, link: Link, work: Callable[[], None]) -> None:
        """Let the proxy's thread do work for a link whose connection a feature reads."""
        self._due.append(functools.partial(link.go_on_opened, work))
        self.wake()

    def _usable(self, asked: Asked) -> Found:
        """The addresses of a host that may be used. Raises Refused, OSError."""
        reachable = self._reachable()
        reason = "it has no address"
        usable = []
        for found in self._resolve(asked.host, asked.port):
            address = str(found[4][0])
            closed = why_closed(address, reachable)
            if closed:
                reason = closed
            else:
                usable.append(found)
        if not usable:
            raise Refused(403, f"{asked.host} is closed: {reason}", is_policy=True)
        return usable


def is_ours(connection: socket.socket) -> bool:
    """True if a connection to one of our sockets comes from Incus (root), or from this server's own user."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", peer)[1] in (0, os.geteuid())
