"""HTTP/1.1 on a connection that Clincus opens: reads heads and finds the end of each body, without ambiguity. Pure.

RFC 9112. Both sides may be hostile: the agent wants a server to see another request than Clincus does, and a server may
belong to anybody. Clincus therefore refuses ambiguous messages, and writes each message again from the parsed one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Union
from urllib.parse import unquote

import clincus

HEAD_LIMIT = 64 << 10  # bytes
MOST_FIELDS = 200
BETWEEN = frozenset(("connection", "proxy-connection", "keep-alive", "te", "trailer", "upgrade", "transfer-encoding"))
BODIED = frozenset(("POST", "PUT", "PATCH"))  # methods for which each server reads a body
# Refused in requests. TRACE sends a request back as it arrived, with the lent value.
REFUSED_METHODS = frozenset(("CONNECT", "TRACE", "TRACK", "DEBUG"))

Fields = Sequence[tuple[str, str]]


class Malformed(ValueError):
    """A message that is ambiguous, or not HTTP/1.1."""


class Request(NamedTuple):
    """The head of a request."""

    method: str
    target: str  # begins with /, or is *
    fields: Fields
    length: int | None = 0  # bytes of the body; None: it comes in chunks
    is_last: bool = False  # the client wants the connection to end after it
    is_upgrade: bool = False  # it wants to continue as a WebSocket


class Answer(NamedTuple):
    """The head of an answer."""

    status: int
    reason: str
    fields: Fields
    length: int | None = 0  # bytes of the body; None: it comes in chunks; -1: up to the end of the connection
    is_last: bool = False  # the connection ends after it


# -- Heads


def take_head(held: bytearray) -> bytes:
    """Remove a head from the received bytes, with its empty line; b"" while its end is missing. Raises Malformed."""
    words = f"the head of the message has more than {HEAD_LIMIT >> 10} KiB"
    return clincus.take_head(held, HEAD_LIMIT, Malformed(words))


def parse_request(head: bytes, host: str, port: int) -> Request:
    """Read the head of a request on a connection to a host. Raises Malformed."""
    first, fields = clincus.split_head(head, MOST_FIELDS, Malformed)
    match = re.fullmatch(clincus.HTTP_REQUEST_LINE, first)
    if not match or match[3] != "1.1":
        raise Malformed("the request is not well-formed HTTP/1.1")
    method = match[1]
    target = match[2]
    if method.upper() in REFUSED_METHODS:
        raise Malformed(f"the method {method} is not passed")
    if not (target.startswith("/") or (target == "*" and method == "OPTIONS")) or "#" in target:
        raise Malformed("the address in the request must begin with /")
    named = clincus.field_values(fields, "host")
    if len(named) != 1 or not is_host(named[0], host, port):
        raise Malformed(f"the Host header must be {host}, as the connection is")
    length = clincus.framed_length(fields, Malformed)
    length = 0 if length == -1 else length
    between = clincus.field_words(fields, "connection")
    wanted = clincus.field_words(fields, "upgrade")
    is_upgrade = wanted == ["websocket"] and "upgrade" in between and method == "GET" and length == 0
    if clincus.field_words(fields, "trailer"):
        raise Malformed("a body with a trailer is not passed")
    expected = clincus.field_words(fields, "expect")
    if set(expected) - {"100-continue"}:
        raise Malformed("a request may expect nothing but 100-continue")
    # A server that answers without the body may take it for the next request, and that for the rest of this one.
    may_be_left = bool(expected) or (length != 0 and method not in BODIED)
    return Request(method, target, fields, length, "close" in between or may_be_left, is_upgrade)


def is_host(text: str, host: str, port: int) -> bool:
    """True if a Host header names the host of a connection. `host` is in lower case, without a dot at its end."""
    name, colon, number = text.lower().partition(":")
    return name == host and (number == str(port) if colon else port == 443)


def parse_answer(head: bytes, method: str) -> Answer:
    """Read the head of an answer to a request with a method. Raises Malformed."""
    first, fields = clincus.split_head(head, MOST_FIELDS, Malformed)
    match = re.fullmatch(clincus.HTTP_STATUS_LINE, first)
    if not match:
        raise Malformed("the server's answer is not well-formed HTTP/1.1")
    status = int(match[2])
    is_old = match[1] == "0"
    length = clincus.framed_length(fields, Malformed)
    if is_old and length is None:
        raise Malformed("an answer of HTTP/1.0 has no chunks")
    if method == "HEAD" or status < 200 or status in (204, 304):
        length = 0
    is_last = is_old or length == -1 or "close" in clincus.field_words(fields, "connection")
    return Answer(status, match[3] or "", fields, length, is_last)


def kept_fields(fields: Fields, also: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Fields without those between two neighbours (RFC 9110, 7.6.1), and without some more names."""
    dropped = BETWEEN.union(clincus.field_words(fields, "connection"), also)
    return [(name, value) for name, value in fields if name.lower() not in dropped]


def write_head(first: str, fields: Fields) -> bytes:
    """The bytes of a head."""
    lines = [first, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def request_head(request: Request, host: str, port: int) -> bytes:
    """The head of a request in the form for the server."""
    own = [("Host", host if port == 443 else f"{host}:{port}")]
    if request.is_upgrade:
        own += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    elif request.is_last:
        own += [("Connection", "close")]
    if request.length is None:
        own += [("Transfer-Encoding", "chunked")]
    elif request.length or clincus.field_values(request.fields, "content-length"):
        own += [("Content-Length", str(request.length))]
    kept = kept_fields(request.fields, ("host", "content-length"))
    return write_head(f"{request.method} {request.target} HTTP/1.1", [*own, *kept])


def answer_head(answer: Answer, *, is_last: bool) -> bytes:
    """The head of an answer in the form for the client."""
    if answer.status == 101:
        own = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    else:
        own = [("Connection", "close")] if is_last else []
    if answer.length is None:
        own += [("Transfer-Encoding", "chunked")]
    return write_head(f"HTTP/1.1 {answer.status} {answer.reason}", [*own, *kept_fields(answer.fields)])


def plain_path(target: str) -> str:
    """An address as a server may read it: decoded, in lower case, without segments that have no effect.

    A server may decode it twice, and leave out what follows a semicolon in each segment (RFC 3986, 3.3).
    """
    path = unquote(unquote(target.partition("?")[0]))
    segments = re.sub(r";[^/\\]*", "", path)
    return posixpath.normpath(re.sub(r"[/\\]+", "/", segments)).lower()


# -- Bodies: `take` removes received bytes and returns the content; `is_over` is true once all of it has arrived


class EndlessBody:
    """A body up to the end of its connection."""

    is_over = False

    def take(self, held: bytearray) -> bytes:
        """Take all bytes."""
        piece = bytes(held)
        held.clear()
        return piece


class ChunkedBody(clincus.ChunkedBody):
    """A body in chunks. A trailer is refused, or left out."""

    LINE_LIMIT = 4 << 10
    TRAILER_LIMIT = HEAD_LIMIT
    SIZE = rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?"
    error = Malformed

    def __init__(self, *, may_have_trailer: bool) -> None:
        super().__init__()
        self._may_have_trailer = may_have_trailer

    def check_trailer(self, line: bytes) -> None:
        """Raise Malformed for any trailer, unless trailers are left out."""
        if not self._may_have_trailer:
            raise Malformed("a body with a trailer is not passed")


Body = Union[clincus.SizedBody, EndlessBody, ChunkedBody]


def body_of(length: int | None, *, may_have_trailer: bool = False) -> Body:
    """The body of a length as `Request` and `Answer` have it."""
    if length is None:
        return ChunkedBody(may_have_trailer=may_have_trailer)
    return EndlessBody() if length < 0 else clincus.SizedBody(length)


def chunk(piece: bytes) -> bytes:
    """A piece of a body as a chunk; b"" for an empty one, which would end the body."""
    return b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b""


LAST_CHUNK = b"0\r\n\r\n"
