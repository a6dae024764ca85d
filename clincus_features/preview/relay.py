"""Carries one request to an app in a container and its answer back, piece by piece: it holds one piece at most."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterable, Iterator

import clincus
from clincus_features.preview import heads

PIECE = 64 << 10  # bytes
HEAD_MOST = 64 << 10  # bytes of the head of an answer, with all interim answers before it
ANSWER_WITHIN = 300.0  # seconds for an app to begin its answer: a build may come first
STALLED_AFTER = 120.0  # seconds in which a side accepts no byte
HEARD = select.POLLIN | select.POLLHUP | select.POLLERR


class Unanswered(clincus.ClincusError):
    """The app gave no complete answer, and the browser has got nothing yet."""

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message, status)


class Silent(Unanswered):
    """The app closed the connection without a byte, as Incus does if nothing listens."""


class Gone(Exception):
    """One of the two sides closed or broke the connection too early."""


class Broken(Gone):
    """It was the side of the failed read or write."""


class Stream:
    """The connection to one of the two sides."""

    def __init__(self, connection: socket.socket, held: bytes = b"") -> None:
        self.socket = connection
        self.held = held  # received bytes that no one has read yet
        connection.setblocking(False)

    def read(self, most: int = PIECE, *, end: float | None = None, watched: Stream | None = None) -> bytes:
        """Wait for a piece and return it; b"" is the end of the stream.

        Raises TimeoutError after the moment `end` (time.monotonic), Gone if the `watched` side hangs up meanwhile.
        """
        while not self.held:
            left = None if end is None else max(0, int((end - time.monotonic()) * 1000))
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            if watched:
                poll.register(watched.socket, select.POLLRDHUP)
            ready = dict(poll.poll(left))
            if self.socket.fileno() not in ready:
                raise Gone if ready else TimeoutError
            try:
                return self.socket.recv(most)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Broken from error
        piece = self.held[:most]
        self.held = self.held[most:]
        return piece

    def send(self, data: bytes, *, listening: bool = False) -> bool:
        """Send all of it.

        Raises Broken. While `listening`, it is False if this side sent something before all was out.
        """
        rest = memoryview(data)
        while rest:
            poll = select.poll()
            poll.register(self.socket, select.POLLOUT | (select.POLLIN if listening else 0))
            ready = poll.poll(int(STALLED_AFTER * 1000))
            if not ready:
                raise Broken
            if listening and ready[0][1] & HEARD:
                return False
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Broken from error
        return True


def carry(request: clincus.Request, target: str, app: socket.socket, place: heads.Place) -> None:
    """Pass a request to the app at a socket, and its answer to the browser. Raises Unanswered, Gone.

    The browser's connection stays open if both came to their end.
    """
    connection = request.connection
    upstream = Stream(app)
    connection.close_connection = True
    is_sent = False
    with contextlib.suppress(Broken):  # an app that hangs up may have answered before
        upstream.send(heads.request_head(request, target, place))
        is_sent = send_body(request, upstream)
    wants_socket = heads.wants_socket(request)
    browser = Stream(connection.connection, early_bytes(connection) if wants_socket else b"")
    try:
        answer = first_answer(upstream, browser)
        fields = heads.answer_fields(answer, place)
        if answer.status == 101:
            if not wants_socket or clincus.field_words(answer.fields, "upgrade") != ["websocket"]:
                raise Unanswered("The app changed to another protocol that nobody asked for.")
            fields += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
            browser.send(head_bytes(101, fields))
            pump(browser, upstream)
            return
        asks_to_close = request.version == "HTTP/1.0" or "close" in request.options("Connection")
        is_last = asks_to_close or not is_sent
        send_answer(request, answer, fields, browser, upstream, is_last=is_last)
    finally:
        connection.connection.settimeout(clincus.ANSWER_TIMEOUT)
    connection.close_connection = is_last


def early_bytes(connection: clincus.Connection) -> bytes:
    """The beginning of a WebSocket's first frame, which a client may send in the packet of its request."""
    connection.connection.setblocking(False)
    with contextlib.suppress(OSError):
        return connection.rfile.peek()
    return b""


def send_body(request: clincus.Request, upstream: Stream) -> bool:
    """Pass on the body of a request; False if the app answered before it had taken all. Raises Gone."""
    connection = request.connection
    left = request.body_length
    waits = request.headers.get("Expect", "").lower() == "100-continue"
    if left and waits and request.version != "HTTP/1.0":
        connection.connection.settimeout(clincus.ANSWER_TIMEOUT)
        connection.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    allow = getattr(connection.rfile.raw, "allow")  # noqa: B009 (mypy knows the stream by its interface only)
    allow(clincus.HEAD_TIMEOUT + left / clincus.BODY_RATE)
    while left:
        piece = connection.rfile.read1(min(left, PIECE))
        if not piece:
            raise Gone  # the browser
        left -= len(piece)
        if not upstream.send(piece, listening=True):
            return False
    return True


def first_answer(upstream: Stream, browser: Stream) -> heads.Answer:
    """The head of the app's answer, after the interim ones (100, 103). Raises Unanswered, Gone."""
    end = time.monotonic() + ANSWER_WITHIN
    left = HEAD_MOST
    while True:
        head = take_head(upstream, browser, left, end)
        left -= len(head)
        try:
            answer = heads.read_answer(head)
        except heads.BadAnswer as error:
            raise Unanswered(f"The app's answer is not HTTP: {error}.") from error
        if answer.status >= 200 or answer.status == 101:
            return answer


def take_head(upstream: Stream, browser: Stream, most: int, end: float) -> bytes:
    """Read the next head of the app, up to the empty line after it. Raises Unanswered, Gone.

    The app has time until `end` (time.monotonic).
    """
    said = upstream.held
    upstream.held = b""
    while True:
        found = re.search(rb"\r?\n\r?\n", said)
        if found:
            upstream.held = said[found.end() :]
            return said[: found.start()]
        if len(said) > most:
            raise Unanswered(f"The head of the app's answer is larger than {HEAD_MOST >> 10} KiB.")
        piece = b""
        try:
            piece = upstream.read(end=end, watched=browser)
        except TimeoutError:
            raise Unanswered(f"The app did not answer within {ANSWER_WITHIN:g} seconds.", 504) from None
        except Broken:
            pass
        if not piece and not said:
            raise Silent("Nothing answers at this port.")
        if not piece:
            raise Unanswered("The app broke off its answer.")
        said += piece


def head_bytes(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """The head of an answer, with the standard words for its status."""
    import http

    phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def send_answer(
    request: clincus.Request,
    answer: heads.Answer,
    fields: list[tuple[str, str]],
    browser: Stream,
    upstream: Stream,
    *,
    is_last: bool,
) -> None:
    """Send an answer in a framing of our own. Raises Gone, also if the app breaks off: the connection then ends."""
    has_body = answer.has_body(request.method)
    is_old = request.version == "HTTP/1.0"
    may_have_length = answer.status not in (204, 304)
    in_chunks = has_body and answer.length is None and not is_old
    if answer.length is not None and may_have_length:
        fields.append(("Content-Length", str(answer.length)))
    elif in_chunks:
        fields.append(("Transfer-Encoding", "chunked"))
    elif not has_body and request.method != "HEAD" and may_have_length:
        fields.append(("Content-Length", "0"))
    if is_last:
        fields.append(("Connection", "close"))
    browser.send(head_bytes(answer.status, fields))
    if not has_body:
        return
    for piece in body_pieces(answer, upstream, browser):
        browser.send(b"%x\r\n%s\r\n" % (len(piece), piece) if in_chunks else piece)
    if in_chunks:
        browser.send(b"0\r\n\r\n")


def body_pieces(answer: heads.Answer, upstream: Stream, browser: Stream) -> Iterator[bytes]:
    """The body of an answer, out of its framing. Raises Gone if it breaks off."""
    if answer.chunked:
        yield from unchunked(upstream, browser)
        return
    if answer.length is not None:
        yield from exactly(answer.length, upstream, browser)
        return
    while piece := upstream.read(watched=browser):
        yield piece


def exactly(count: int, upstream: Stream, browser: Stream) -> Iterator[bytes]:
    """The next `count` bytes of an app. Raises Gone if it ends before."""
    while count:
        piece = upstream.read(min(count, PIECE), watched=browser)
        if not piece:
            raise Gone
        count -= len(piece)
        yield piece


def unchunked(upstream: Stream, browser: Stream) -> Iterator[bytes]:
    """The content of a body in chunks. Raises Gone if the body breaks off or is not in chunks."""
    body = clincus.ChunkedBody()
    held = bytearray()
    while not body.is_over:
        piece = upstream.read(watched=browser)
        if not piece:
            raise Gone
        held += piece
        try:
            content = body.take(held)
        except ValueError:
            raise Gone from None
        if content:
            yield content


def pump(one: Stream, other: Stream) -> None:
    """Pass on the bytes of both sides until one of them ends. A side is read only once the other has taken all."""
    pending = {one: other.held, other: one.held}  # bytes to send to each side
    peer = {one: other, other: one}
    sides = {side.socket.fileno(): side for side in peer}
    while True:
        poll = select.poll()
        for side in peer:
            events = 0
            if pending[side]:
                events |= select.POLLOUT
            if not pending[peer[side]]:
                events |= select.POLLIN
            if events:
                poll.register(side.socket, events)
        for number, event in poll.poll():
            side = sides[number]
            with contextlib.suppress(BlockingIOError):
                if event & select.POLLOUT:
                    sent = side.socket.send(pending[side])
                    pending[side] = pending[side][sent:]
                    continue
                data = side.socket.recv(PIECE)
                if not data:
                    return
                pending[peer[side]] = data
