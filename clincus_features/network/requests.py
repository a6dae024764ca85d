"""The requests of a program in a container to the proxy: a tunnel (CONNECT), or plain HTTP. Pure.

A request that two programs could read in two ways is refused. The proxy writes a new request for the server.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import clincus

from .policy import AddressError, plain_host

HEAD_LIMIT = 32 << 10  # bytes
HELLO_LIMIT = 32 << 10
MOST_RECORDS = 32  # TLS records that a ClientHello may come in
MOST_FIELDS = 100
NOT_HTTP = "the request is not well-formed HTTP/1.1"
# Fields between two neighbours (RFC 9110, 7.6.1), and those that the proxy writes itself.
_DROPPED = {"connection", "proxy-connection", "keep-alive", "te", "trailer", "upgrade", "host"}
_DROPPED |= {"proxy-authorization", "proxy-authenticate", "content-length", "transfer-encoding"}
_ADDRESS_6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::([0-9]{1,5}))?")


class Refused(Exception):
    """A refusal in place of a connection; `is_policy` if the policy forbids it, so that a person may want to allow it.

    `place` is the host and port of the request, if there is no `Asked` with them.
    """

    def __init__(
        self, status: int, words: str, *, is_policy: bool = False, place: tuple[str, int] | None = None
    ) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.is_policy = is_policy
        self.place = place


class Asked(NamedTuple):
    """A request for a connection."""

    host: str  # in the form of `plain_host`
    port: int
    is_tunnel: bool
    head: bytes = b""  # of a plain request, for the server
    length: int | None = 0  # bytes of its body; None if that is in chunks
    is_upgrade: bool = False  # it wants to go on as a WebSocket


def parse_request(head: bytes, tunnel: Asked | None = None) -> Asked:
    """Read a request's head, with the empty line at its end. In a `tunnel` it must be for the tunnel's host.

    Raises Refused.
    """
    try:
        try:
            first, fields = clincus.split_head(head, MOST_FIELDS, ValueError)
        except ValueError:
            raise Refused(400, NOT_HTTP) from None
        match = re.fullmatch(clincus.HTTP_REQUEST_LINE, first)
        if not match or match[3] not in ("1.0", "1.1"):
            raise Refused(400, NOT_HTTP)
        method = match[1]
        target = match[2]
        if method == "CONNECT" and not tunnel:
            return Asked(*split_authority(target), is_tunnel=True)
        return plain_request(method, target, fields, tunnel)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def plain_request(method: str, target: str, fields: list[tuple[str, str]], tunnel: Asked | None) -> Asked:
    """A request for plain HTTP in the form for the server. Its connection ends with the answer.

    It may become a WebSocket, and nothing else: in HTTP/2, for example, further requests could name another host.
    Raises ValueError and Refused.
    """
    host, port, path = place_of(target, fields, tunnel)
    hosts = clincus.field_values(fields, "host")
    if len(hosts) > 1 or any(split_authority(one, 80) != (host, port) for one in hosts):
        raise Refused(403, "the Host header names another host than the address", is_policy=True)
    if tunnel and (host, port) != (tunnel.host, tunnel.port):
        raise Refused(403, f"the Host header is not the {tunnel.host} of CONNECT", is_policy=True)
    framing, length = body_framing(fields)
    between = set(clincus.field_words(fields, "connection"))
    wanted = clincus.field_words(fields, "upgrade")
    may_upgrade = method == "GET" and length == 0 and "upgrade" in between
    is_upgrade = may_upgrade and wanted == ["websocket"]
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}" if port == 80 else f"Host: {host}:{port}",
        *framing,
    ]
    if is_upgrade:
        lines += ["Connection: Upgrade", "Upgrade: websocket"]
    else:
        lines.append("Connection: close")
    dropped = _DROPPED | between
    lines += [f"{name}: {value}" for name, value in fields if name.lower() not in dropped]
    text = "\r\n".join([*lines, "", ""])
    return Asked(host, port, False, text.encode("latin-1"), length, is_upgrade)


def place_of(target: str, fields: list[tuple[str, str]], tunnel: Asked | None) -> tuple[str, int, str]:
    """Host, port and path of a request. In a tunnel they may come from the Host header. Raises ValueError, Refused."""
    hosts = clincus.field_values(fields, "host")
    if tunnel and target.startswith("/") and len(hosts) == 1:
        host, port = split_authority(hosts[0], 80)
        return host, port, target
    absolute = re.fullmatch(r"http://([^/?#@]+)([/?][^#]*)?", target, re.IGNORECASE)
    if not absolute:
        raise ValueError("write the whole address (http://…) in a request to a proxy, or use CONNECT")
    host, port = split_authority(absolute[1], 80)
    path = absolute[2] or "/"
    return host, port, path if path.startswith("/") else f"/{path}"


def body_framing(fields: list[tuple[str, str]]) -> tuple[list[str], int | None]:
    """The lines for the length of a request's body, and the length: None if it is in chunks. Raises ValueError."""
    length = clincus.framed_length(fields)
    if length is None:
        return ["Transfer-Encoding: chunked"], None
    return ([], 0) if length < 0 else ([f"Content-Length: {length}"], length)


def is_interim(head: bytes) -> bool:
    """True if another head follows the head of an answer (RFC 9110, 15.2)."""
    return bool(re.match(rb"HTTP/1\.1 1(?!01)", head))


def is_switched(head: bytes) -> bool:
    """True if an answer is the last one of HTTP on its connection."""
    return bool(re.match(rb"HTTP/1\.1 101[ \r]", head))


def with_close(head: bytes) -> bytes:
    """The head of an answer, with the statement that its connection ends with it."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    names = (b"connection", b"keep-alive", b"upgrade")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in names]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])


def split_authority(text: str, port: int = 0) -> tuple[str, int]:
    """Host and port of `host:port`; `port` is for a text without one. Raises ValueError, Refused for an address."""
    address = _ADDRESS_6.fullmatch(text)
    if address:
        raise refused_address(address[1], int(address[2] or port))
    host, colon, number = text.partition(":")
    if (colon and not re.fullmatch("[0-9]{1,5}", number)) or (not colon and not port):
        raise ValueError("write HOST:PORT with the name of a host: addresses are not taken")
    port = int(number) if colon else port
    if not 1 <= port <= 65535:
        raise ValueError("a port is from 1 to 65535")
    try:
        return plain_host(host), port
    except AddressError:
        raise refused_address(host, port) from None


def refused_address(address: str, port: int) -> Refused:
    """The refusal for a program that asks for an address."""
    words = f"{clincus.shorten(address)} is an address: only names are allowed"
    return Refused(403, words, is_policy=True, place=(address.lower(), port))


def answer(refused: Refused) -> bytes:
    """The answer that a program gets in place of a connection."""
    phrases = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway"}
    phrase = phrases.get(refused.status, "Unavailable")
    body = f"Clincus: {refused.words}\n".encode("utf-8", "backslashreplace")
    head = [
        f"HTTP/1.1 {refused.status} {phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(head).encode() + body


# -- TLS


def server_name(data: bytes) -> str | None:
    """The name in the ClientHello that begins a TLS connection (RFC 8446, 4.1.2; RFC 6066, 3), "" if it has none.

    None while more bytes are needed. Raises ValueError for anything but a ClientHello. It may come in several records.
    """
    hello = bytearray()
    at = 0
    records = 0
    while len(data) >= at + 5 and not is_whole(hello):
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] != 0x16 or data[at + 1] != 3 or not 1 <= size <= 16384 + 256:
            raise ValueError("no TLS handshake")
        end = at + 5 + size
        hello += data[at + 5 : end]
        if len(data) < end:
            break
        at = end
        records += 1
        if records > MOST_RECORDS:  # every further byte makes the proxy read all of them again
            raise ValueError("the ClientHello is in too many pieces")
    if not b"\x16".startswith(data[:1]) or not b"\x01".startswith(hello[:1]):
        raise ValueError("no TLS handshake")
    if hello_size(hello) > HELLO_LIMIT:
        raise ValueError("the ClientHello is too large")
    if not is_whole(hello):
        return None
    return name_in_hello(bytes(hello[4 : 4 + hello_size(hello)]))


def hello_size(hello: bytearray) -> int:
    """The bytes of a ClientHello's body, by its first bytes."""
    return int.from_bytes(hello[1:4], "big")


def is_whole(hello: bytearray) -> bool:
    """True if the whole ClientHello has arrived."""
    return len(hello) >= 4 and len(hello) >= 4 + hello_size(hello)


class Fields:
    """Reads numbers and vectors of TLS from bytes. Raises ValueError if there are too few."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self.rest):
            raise ValueError("the ClientHello is cut short")
        taken = self.rest[:count]
        self.rest = self.rest[count:]
        return taken

    def number(self, size: int) -> int:
        """The next number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """The next vector, whose length is in the `size` bytes before it."""
        return self.take(self.number(size))


def name_in_hello(body: bytes) -> str:
    """The server's name in the body of a ClientHello, "" if it has none. Raises ValueError."""
    fields = Fields(body)
    fields.take(2 + 32)  # version, random
    fields.vector(1)
    fields.vector(2)
    fields.vector(1)
    names: list[str] = []
    extensions = Fields(fields.vector(2) if fields.rest else b"")
    while extensions.rest:
        kind = extensions.number(2)
        content = Fields(extensions.vector(2))
        if kind == 0:
            entries = Fields(content.vector(2))
            while entries.rest:
                if entries.number(1) != 0:
                    raise ValueError("the server name is of an unknown kind")
                names.append(entries.vector(2).decode("ascii"))
    if len(names) > 1:
        raise ValueError("the ClientHello has more than one server name")
    return plain_host(names[0]) if names else ""
