"""The way of a session on an engine to its proxy on this host: one command in its container for all connections.

guest/relay.pl listens in the container. Its stdin and stdout are the line, on which both sides send frames: a kind, a
zero, the length of the content (2 bytes), the number of a connection (4 bytes), and the content.

    OPEN    a program has connected; only from the container, with a number higher than all before
    DATA    at most PIECE bytes of a connection
    FIN     nothing more comes in this direction
    CLOSE   the connection is over, both ways
    CREDIT  4 bytes: the number of bytes that the other side may send in addition; it has WINDOW at first
    PING    the host sends one now and then, and the container sends it back

Root in the container can write any bytes on the line. Everything received is therefore bounded, a frame that does not
fit ends the line, and a frame can only lead to a connection to the socket of the session's own proxy, which decides.
"""

from __future__ import annotations

import select
import selectors
import socket
import struct
import time
from contextlib import suppress

OPEN = 1
DATA = 2
FIN = 3
CLOSE = 4
CREDIT = 5
PING = 6
SIZES = {OPEN: 0, FIN: 0, CLOSE: 0, CREDIT: 4, PING: 0}  # bytes of content; DATA has any number
HEAD = struct.Struct("!BBHI")
NUMBER = struct.Struct("!I")
PIECE = 16 << 10  # bytes in a frame
WINDOW = 256 << 10  # bytes of a connection that were sent and not passed on yet
MOST = 256  # connections
HELD_MOST = 8 << 20  # bytes of all connections that wait here for the proxy, before the line is not read any more
UNSENT_MOST = 1 << 20  # bytes that wait for the line, before nothing is read that adds to them
READ = 128 << 10  # bytes that are read off the line at once
CROWD = 256  # frames in one read, after which there is a PAUSE if they are SMALL on average
SMALL = 256  # bytes
PAUSE = 0.05  # seconds
PING_EVERY = 10.0  # seconds
SILENT = 30.0  # seconds without a word after which the line is taken for dead


class BrokenLineError(Exception):
    """The line cannot continue; the message has the reason."""


class Stream:
    """A connection: the socket that leads to the proxy, and the state of each direction."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.waiting = bytearray()  # for the proxy
        self.room = WINDOW  # bytes that the container may send yet
        self.credit = WINDOW  # bytes that may be sent to the container yet
        self.heard_fin = False  # the container sends nothing more
        self.is_shut = False  # the proxy knows that
        self.said_fin = False  # the proxy sends nothing more, and the container knows that
        self.mask = 0  # the events that the selector watches it for


class Carrier:
    """Carries the connections of one line to the socket of a proxy, until the line ends."""

    def __init__(self, line: socket.socket, path: str) -> None:
        self._line = line
        self._path = path
        line.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, Stream] = {}
        self._last = 0  # number of the newest connection
        self._came = bytearray()
        self._unsent = bytearray()
        self._line_mask = 0
        self._was_full = False
        self._heard = time.monotonic()
        self._pinged = self._heard

    def serve(self) -> None:
        """Carry until the other side ends the line. Raises BrokenLineError, OSError."""
        try:
            while True:
                self._watch_line()
                for key, mask in self._selector.select(PING_EVERY):
                    if key.data is None:
                        if mask & selectors.EVENT_READ and not self._hear():
                            return
                    elif key.data in self._streams:
                        self._move(key.data, mask)
                self._flush()
                self._look_at_time()
        finally:
            self.close()

    def close(self) -> None:
        """End the connections; the line is its owner's."""
        for stream in self._streams.values():
            stream.socket.close()
        self._selector.close()

    # -- The line

    def _watch_line(self) -> None:
        is_held = sum(len(one.waiting) for one in self._streams.values()) >= HELD_MOST
        if is_held:
            self._heard = time.monotonic()  # it is us who do not listen
        mask = (0 if is_held or self._is_full else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if self._unsent else 0
        )
        self._line_mask = watch(self._selector, self._line, self._line_mask, mask, None)
        if self._is_full != self._was_full:
            self._was_full = self._is_full
            for number, stream in self._streams.items():
                self._watch(number, stream)

    @property
    def _is_full(self) -> bool:
        return len(self._unsent) >= UNSENT_MOST

    def _send(self, kind: int, number: int, content: bytes = b"") -> None:
        self._unsent += HEAD.pack(kind, 0, len(content), number) + content

    def _flush(self) -> None:
        if self._unsent:
            with suppress(BlockingIOError):
                del self._unsent[: self._line.send(self._unsent)]

    def _look_at_time(self) -> None:
        now = time.monotonic()
        if now < self._pinged + PING_EVERY:
            return
        if now > self._heard + SILENT:
            raise BrokenLineError("the container says nothing any more")
        self._pinged = now
        self._send(PING, 0)
        for number, stream in list(self._streams.items()):
            if stream.said_fin and is_gone(stream.socket):
                self._close(number)

    def _hear(self) -> bool:
        """Handle the bytes received over the line; False at its end."""
        try:
            piece = self._line.recv(READ)
        except BlockingIOError:
            return True
        if not piece:
            return False
        self._heard = time.monotonic()
        self._came += piece
        at = 0
        frames = 0
        while len(self._came) >= at + HEAD.size:
            kind, zero, size, number = HEAD.unpack_from(self._came, at)
            if zero or size > PIECE or not OPEN <= kind <= PING or SIZES.get(kind, size) != size:
                raise BrokenLineError("the container sent something that is not a frame")
            if len(self._came) < at + HEAD.size + size:
                break
            at += HEAD.size + size
            frames += 1
            self._obey(kind, number, bytes(self._came[at - size : at]))
        del self._came[:at]
        if frames >= CROWD and len(piece) < SMALL * frames:
            time.sleep(PAUSE)  # this thread has nothing to do but this line, and the other threads have the time
        return True

    def _obey(self, kind: int, number: int, content: bytes) -> None:
        stream = self._streams.get(number)
        if kind == OPEN:
            self._open(number)
        elif stream is None:
            return  # a ping, or a connection that has ended here meanwhile
        elif kind == DATA:
            stream.room -= len(content)
            if stream.room < 0 or stream.heard_fin:
                raise BrokenLineError("the container sent more than it may")
            stream.waiting += content
            self._give(number, stream)
        elif kind == FIN:
            stream.heard_fin = True
            self._finish(number, stream)
        elif kind == CREDIT:
            stream.credit += NUMBER.unpack(content)[0]
            if stream.credit > WINDOW:
                raise BrokenLineError("the container gave more credit than it had bytes")
            self._watch(number, stream)
        elif kind == CLOSE:
            self._forget(number)

    # -- Connections

    def _open(self, number: int) -> None:
        if number <= self._last:
            raise BrokenLineError("the container opened a connection twice")
        self._last = number
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            if len(self._streams) >= MOST:
                raise BlockingIOError
            connection.connect(self._path)
        except OSError:  # the proxy does not listen, or has no place
            connection.close()
            self._send(CLOSE, number)
            return
        self._streams[number] = Stream(connection)
        self._watch(number, self._streams[number])

    def _move(self, number: int, mask: int) -> None:
        stream = self._streams[number]
        if mask & selectors.EVENT_WRITE:
            self._give(number, stream)
        if mask & selectors.EVENT_READ and number in self._streams:
            self._take(number, stream)
        if number in self._streams:
            self._watch(number, stream)

    def _take(self, number: int, stream: Stream) -> None:
        """Read from the proxy."""
        try:
            data = stream.socket.recv(min(PIECE, stream.credit))
        except BlockingIOError:
            return
        except OSError:
            self._close(number)
            return
        if data:
            stream.credit -= len(data)
            self._send(DATA, number, data)
        elif is_gone(stream.socket):
            self._close(number)
        else:
            stream.said_fin = True
            self._send(FIN, number)
            self._finish(number, stream)

    def _give(self, number: int, stream: Stream) -> None:
        """Write what waits to the proxy."""
        try:
            count = stream.socket.send(stream.waiting)
        except BlockingIOError:
            count = 0
        except OSError:
            self._close(number)
            return
        if count:
            del stream.waiting[:count]
            stream.room += count
            self._send(CREDIT, number, NUMBER.pack(count))
        self._finish(number, stream)

    def _finish(self, number: int, stream: Stream) -> None:
        """Pass an end on once all is written, and forget a connection that has ended both ways."""
        if stream.heard_fin and not stream.waiting:
            if not stream.is_shut:
                stream.is_shut = True
                with suppress(OSError):
                    stream.socket.shutdown(socket.SHUT_WR)
            if stream.said_fin:
                self._forget(number)
                return
        self._watch(number, stream)

    def _close(self, number: int) -> None:
        self._send(CLOSE, number)
        self._forget(number)

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number)
        watch(self._selector, stream.socket, stream.mask, 0, number)
        stream.socket.close()

    def _watch(self, number: int, stream: Stream) -> None:
        reads = stream.credit > 0 and not stream.said_fin and not self._is_full
        mask = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if stream.waiting else 0)
        stream.mask = watch(self._selector, stream.socket, stream.mask, mask, number)


def watch(selector: selectors.BaseSelector, one: socket.socket, before: int, mask: int, data: object) -> int:
    """Watch a socket for other events than before, perhaps none. Returns `mask`."""
    if mask and before and mask != before:
        selector.modify(one, mask, data)
    elif mask and not before:
        selector.register(one, mask, data)
    elif before and not mask:
        selector.unregister(one)
    return mask


def is_gone(connection: socket.socket) -> bool:
    """True if the other end of a Unix socket is closed, both ways."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
