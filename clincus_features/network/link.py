"""One connection of a program in a container through the proxy, from its request to its end.

A link reads the program's request, has the host's addresses looked up, connects to one of them, and passes bytes both
ways. It checks the first bytes of the program in a tunnel before the server gets any of them.
"""

from __future__ import annotations

import errno
import functools
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import clincus

from .bodies import Body, ChunkedBody
from .policy import WEB_PORTS
from .records import Passage
from .relay import watch
from .requests import (
    HEAD_LIMIT,
    HELLO_LIMIT,
    Asked,
    Refused,
    answer,
    is_interim,
    is_switched,
    parse_request,
    server_name,
    with_close,
)

if TYPE_CHECKING:
    from .proxy import Outlet

WAITING = 256 << 10  # bytes that wait for one side before the other is not read any more
ASK_WITHIN = 10.0  # seconds for a program to say what it wants: its request, and its ClientHello
LOOK_UP_WITHIN = 15.0  # seconds to find a host's addresses
CONNECT_WITHIN = 10.0  # seconds for the last address that is tried
NEXT_WITHIN = 3.0  # seconds for each of the others
MOST_ADDRESSES = 4  # addresses of a host that are tried
IDLE_WITHIN = 3600.0  # seconds without a byte
LIFE = 24 * 3600.0  # seconds of a connection in all
LINGER = 2.0  # seconds for a program to read the answer that it was refused
DRAIN = 60.0  # seconds for a program to read the rest of an answer whose server is gone
METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"TRACE ")

Found = Sequence[tuple[Any, ...]]  # of getaddrinfo


class Side:
    """One end of a link: a socket, and the bytes that wait to be written to it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.waiting = bytearray()
        self.is_over = False  # nothing more comes from it
        self.is_shut = False  # nothing more goes to it
        self.mask = 0  # the events that the selector watches it for

    def give(self, data: bytes | bytearray | memoryview) -> None:
        """Write as many bytes as the socket takes now, and the rest later. Raises OSError."""
        count = 0
        if data and not self.waiting:
            with suppress(BlockingIOError):
                count = self.socket.send(data)
        if count < len(data):
            self.waiting += data[count:]

    def flush(self) -> None:
        """Write the bytes that wait. Raises OSError."""
        with suppress(BlockingIOError):
            del self.waiting[: self.socket.send(self.waiting)]

    def shut(self) -> None:
        """End this direction once all is written."""
        if not self.waiting and not self.is_shut:
            self.is_shut = True
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)


class Link:
    """A program's connection, and the one to the server that it asked for."""

    def __init__(self, outlet: Outlet, connection: socket.socket) -> None:
        self._outlet = outlet
        self._client = Side(connection)
        self._server: Side | None = None
        self.asked: Asked | None = None
        self._held = bytearray()  # bytes of the program that no server has got yet
        self._step: Callable[[], None] = self._read_request  # handles them
        self._body: Body = clincus.SizedBody(0)  # of a plain request
        self._opened: clincus.OpenedConnection | None = None  # reads its content, if any feature does
        self._answer = bytearray()  # the server's answer to an upgrade request, until its head is whole
        self._addresses: deque[tuple[Any, ...]] = deque()  # addresses that are still to be tried
        self.address = ""  # the address that was tried last
        self._row: Passage | None = None
        self._is_ending = False  # it was refused, and reads nothing more
        now = time.monotonic()
        self._end = now + LIFE
        self._deadline = now + ASK_WITHIN  # of the present step
        self._watch()

    def check_time(self, now: float) -> None:
        """End a step that takes too long: the next address is tried, or the link ends."""
        if now <= min(self._end, self._deadline):
            return
        if self._server and not self._is_connected:
            self._close(self._server)
            with self._ending():
                self._try_next("it does not answer")
        elif self._is_connected or self._is_ending:
            self.drop()
        else:
            self.fail(Refused(504, "that took too long"))

    @property
    def _is_connected(self) -> bool:
        return self._row is not None

    # -- Steps, with the bytes that the program has sent so far. They raise Refused and OSError.

    def _read_request(self) -> None:
        head = take_head(self._held)
        if head:
            self.asked = parse_request(head)
            if not self.asked.is_tunnel:
                self._outlet.check_plain(self.asked)
            self._begin(self._wait, LOOK_UP_WITHIN)
            self._outlet.look_up(self, self.asked)

    def _wait(self) -> None:
        """Do nothing, as there is no server yet."""

    def _inspect(self) -> None:
        """Find out how a tunnel begins: TLS to the host of the request, a plain request to it, or anything else."""
        assert self.asked
        host = self.asked.host
        port = self.asked.port
        held = self._held
        if held[:1] == b"\x16":
            try:
                name = server_name(bytes(held))
            except ValueError as error:
                raise Refused(403, f"TLS to {host}: {error}", is_policy=True) from None
            if name is None:
                if len(held) > HELLO_LIMIT:
                    raise Refused(403, f"TLS to {host}: the ClientHello is too large", is_policy=True)
            elif name != host and (name or port in WEB_PORTS):
                raise Refused(403, f"TLS names {name or 'no server'}, CONNECT {host}", is_policy=True)
            else:
                self._opened = self._outlet.open(self, host, port) if name else None
                self._begin(self._pass_opened if self._opened else self._pass, IDLE_WITHIN)
        elif held and port == 443:
            raise Refused(403, f"what was sent to {host}:443 is not TLS", is_policy=True)
        elif held and (port == 80 or begins_request(held)):
            head = take_head(held)
            if head:
                asked = parse_request(head, self.asked)
                self._outlet.check_plain(asked)
                self._begin_plain(asked)
        elif held and not may_begin_request(held):
            self._begin(self._pass, IDLE_WITHIN)

    def _pass(self) -> None:
        if self._held and self._server and self._row:
            self._row.sent += len(self._held)
            self._server.give(self._held)
            self._held.clear()

    def _pass_opened(self) -> None:
        """Pass the program's bytes to the feature that reads the connection."""
        data = bytes(self._held)
        self._held.clear()
        self._hand_over(data)

    def _hand_over(self, data: bytes | memoryview) -> None:
        """Let the feature that reads the connection have bytes of the program."""
        assert self._opened
        assert self._row
        self._row.sent += len(data)
        self._opened.from_client(data)
        self._give_opened()

    def _give_opened(self) -> None:
        """Write the output of the feature that reads the connection, and end the link if the feature wants that."""
        assert self._opened
        assert self._server
        opened = self._opened
        server = self._server
        if not (opened.is_over or opened.is_broken):
            try:
                server.give(opened.for_server())
            except OSError:  # it has ended, which the program is told in words
                server.is_over = True
                opened.server_ended()
        if opened.is_broken:
            if opened.failure and self.asked:
                self._outlet.refuse(self.asked.host, self.asked.port, opened.failure)
            self.drop()
            return
        self._client.give(opened.for_client())
        if opened.is_over:
            self._close(server)
            self._is_ending = True
            self._deadline = time.monotonic() + DRAIN

    def go_on_opened(self, work: Callable[[], None]) -> None:
        """Run the next step of a connection that a feature reads, in the proxy's thread."""
        if self not in self._outlet.links or self._is_ending:
            return
        with self._ending():
            work()
            self._give_opened()
            self._end_sides()
            self._watch()

    def _pass_body(self) -> None:
        """Pass the body of the one request, and no byte after it."""
        assert self._server
        assert self._row
        try:
            piece = self._body.take(self._held)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self._server.give(piece)
        self._row.sent += len(piece)
        if self._body.is_over:
            self._held.clear()

    def _await_answer(self) -> None:
        """Do nothing: the server has not said yet if it becomes a WebSocket."""

    def _read_answer(self, data: memoryview) -> None:
        """Pass an answer's head, and then go on as it says."""
        self._answer += data
        head = take_head(self._answer)
        while head and is_interim(head):
            self._client.give(head)
            head = take_head(self._answer)
        if head:
            rest = self._answer
            self._answer = bytearray()
            self._client.give((head if is_switched(head) else with_close(head)) + rest)
            self._begin(self._pass if is_switched(head) else self._pass_body, IDLE_WITHIN)

    def _begin(self, step: Callable[[], None], within: float) -> None:
        self._step = step
        self._deadline = time.monotonic() + within
        step()

    def _begin_plain(self, asked: Asked) -> None:
        assert self._server
        self._server.give(asked.head)
        self._body = ChunkedBody() if asked.length is None else clincus.SizedBody(asked.length)
        self._begin(self._await_answer if asked.is_upgrade else self._pass_body, IDLE_WITHIN)

    # -- The server

    def go_on(self, found: Found | Refused) -> None:
        """Connect to one of the addresses that were found, if the program still waits for that."""
        if self not in self._outlet.links or self._is_ending:
            return
        with self._ending():
            if isinstance(found, Refused):
                raise found
            self._addresses = deque(found[:MOST_ADDRESSES])
            self._try_next("it has no address")

    def _try_next(self, failure: str) -> None:
        assert self.asked
        while self._addresses:
            family, kind, protocol, _, address = self._addresses.popleft()
            try:
                server = Side(socket.socket(family, kind, protocol))
            except OSError as error:  # such as a kernel without IPv6
                failure = str(error.strerror)
                continue
            code = server.socket.connect_ex(address)
            self.address = str(address[0])
            if code in (0, errno.EINPROGRESS):
                patience = NEXT_WITHIN if self._addresses else CONNECT_WITHIN
                self._server = server
                self._deadline = time.monotonic() + patience
                self._watch()
                return
            failure = os.strerror(code)
            server.socket.close()
        self._server = None
        self.fail(Refused(502, f"no connection to {self.asked.host}: {failure}"))

    def _connected(self) -> None:
        assert self._server
        assert self.asked
        code = self._server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._close(self._server)
            self._try_next(os.strerror(code))
            return
        self._server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._row = self._outlet.passage(self.asked.host, self.asked.port)
        if self.asked.is_tunnel:
            self._client.give(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._begin(self._inspect, ASK_WITHIN if self.asked.port in WEB_PORTS else IDLE_WITHIN)
        else:
            self._begin_plain(self.asked)

    # -- Events of the selector

    def _ready(self, side: Side, mask: int) -> None:
        if not side.mask:  # closed in this round
            return
        with self._ending():
            if side is self._server and not self._is_connected:
                self._connected()
            else:
                if mask & selectors.EVENT_WRITE:
                    side.flush()
                if mask & selectors.EVENT_READ:
                    self._read(side)
                self._end_sides()
            self._watch()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """End the link after any error in the block: no other link may notice it, and the log stays short."""
        try:
            yield
        except Refused as refused:
            self.fail(refused)
        except OSError:
            self.drop()
        except Exception as error:
            words = type(error).__name__ if self._opened else repr(error)  # which may hold a value that was lent
            self.fail(Refused(500, f"the proxy failed: {words}", is_policy=True))

    def _receive(self, side: Side) -> int:
        """Read from a side into the outlet's piece; returns the bytes read, -1 if none are there. Raises OSError."""
        try:
            count = side.socket.recv_into(self._outlet.piece)
        except BlockingIOError:
            return -1
        except ConnectionError:
            if not self._opened or side is self._client:
                raise
            count = 0
        side.is_over = not count
        return count

    def _read(self, side: Side) -> None:
        count = self._receive(side)
        if not count and self._opened and side is self._server:
            self._opened.server_ended()
            self._give_opened()
        if count <= 0:
            return
        data = memoryview(self._outlet.piece)[:count]
        if self._step in (self._pass, self._pass_body, self._pass_opened):
            self._deadline = time.monotonic() + IDLE_WITHIN
        if side is self._server:
            assert self._row
            self._row.received += count
            if self._opened:
                self._opened.from_server(data)
                self._give_opened()
            elif self._step == self._await_answer:
                self._read_answer(data)
            else:
                self._client.give(data)
        elif self._is_ending:
            return
        elif self._step == self._pass and self._server and self._row:
            self._row.sent += count
            self._server.give(data)
        elif self._step == self._pass_opened and not self._held:
            self._hand_over(data)
        else:
            self._held += data
            self._step()

    def _end_sides(self) -> None:
        """Pass an end on to the other side, and drop the link when nothing is left to pass."""
        client = self._client
        server = self._server
        if self._is_ending:
            client.shut()
            if client.is_over:
                self.drop()
        elif server is None or self._opened:
            if client.is_over:
                self.drop()
        elif server.is_over:
            client.shut()
            if client.is_shut and (client.is_over or self._step != self._pass):
                self.drop()
        elif client.is_over:
            if self._step == self._pass:
                server.shut()
            elif self._step != self._pass_body:
                self.drop()

    def _watch(self) -> None:
        """Watch for the next events. A side that sends more than the other takes is not read."""
        client = self._client
        server = self._server
        if client.socket.fileno() < 0:
            return
        is_held_back = bool(self._opened and not self._opened.takes_more)
        is_full = (
            is_held_back
            or len(self._held) > max(HEAD_LIMIT, HELLO_LIMIT)
            or bool(server and len(server.waiting) >= WAITING)
        )
        self._set(client, (is_full and not self._is_ending) or client.is_over, bool(client.waiting))
        if server and server.socket.fileno() >= 0:
            is_held = not self._is_connected or server.is_over or len(client.waiting) >= WAITING
            self._set(server, is_held, bool(server.waiting) or not self._is_connected)

    def _set(self, side: Side, is_held: bool, writes: bool) -> None:
        mask = (0 if is_held else selectors.EVENT_READ) | (selectors.EVENT_WRITE if writes else 0)
        on_ready = functools.partial(self._ready, side)
        side.mask = watch(self._outlet.selector, side.socket, side.mask, mask, on_ready)

    # -- Its end

    def fail(self, refused: Refused) -> None:
        """Refuse the connection, and tell the program if it has got nothing else yet."""
        self._outlet.forget(self)
        if refused.is_policy:
            place = refused.place or ((self.asked.host, self.asked.port) if self.asked else ("", 0))
            self._outlet.refuse(*place, refused.words)
        if self._is_connected:
            self.drop()
            return
        self._is_ending = True
        self._deadline = time.monotonic() + LINGER
        try:
            self._client.give(answer(refused))
            self._end_sides()
            self._watch()
        except OSError:
            self.drop()

    def drop(self) -> None:
        """End both connections now."""
        self._outlet.forget(self)
        for side in filter(None, (self._client, self._server)):
            self._close(side)
        self._outlet.links.discard(self)

    def _close(self, side: Side) -> None:
        side.mask = watch(self._outlet.selector, side.socket, side.mask, 0, None)
        side.socket.close()


def take_head(held: bytearray) -> bytes:
    """Remove a request's head from the received bytes and return it, b"" while its end is missing. Raises Refused."""
    return clincus.take_head(held, HEAD_LIMIT, Refused(400, "the head of the request is too large"))


def begins_request(held: bytearray) -> bool:
    """True if bytes are the beginning of a plain HTTP request."""
    return bytes(held[:64]).lstrip(b"\r\n").upper().startswith(METHODS)


def may_begin_request(held: bytearray) -> bool:
    """True while bytes may still become the beginning of a plain HTTP request."""
    text = bytes(held[:64]).lstrip(b"\r\n").upper()
    return any(method.startswith(text) for method in METHODS)
