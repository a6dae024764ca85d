"""HTTP/1.1 on connections that are opened: what is refused, and what is written anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clincus_features.logins import http1
from clincus_features.logins.http1 import Malformed
from tests.table import table

HOST = "api.example.com"
GET, POST = "GET / HTTP/1.1", "POST / HTTP/1.1"


def request(*lines: str, host: str = f"Host: {HOST}") -> bytes:
    return "\r\n".join([lines[0], *([host] if host else []), *lines[1:], "", ""]).encode("latin-1")


def parsed(*lines: str, **more: str) -> http1.Request:
    return http1.parse_request(request(*lines, **more), HOST, 443)


def body(data: bytes, piece: int, *, may_have_trailer: bool = False) -> tuple[bytes, bytes, bool]:
    """The content of a body in chunks that comes in pieces, what is left, and whether it is over."""
    reader, held, found = http1.ChunkedBody(may_have_trailer=may_have_trailer), bytearray(), b""
    for at in range(0, len(data), piece):
        held += data[at : at + piece]
        found += reader.take(held)
    return found, bytes(held), reader.is_over


@table(
    "lines",
    [
        ("GET / HTTP/1.0",),
        ("GET https://api.example.com/ HTTP/1.1",),
        ("GET /#x HTTP/1.1",),
        ("CONNECT evil.example:443 HTTP/1.1",),
        (GET, "Host: api.example.com"),
        (GET, "X-A: b", " folded"),
        (GET, " X-A: b"),
        (GET, "X-A: b\nX-B: c"),
        (GET, "X-A: b\x00"),
        (POST, "Content-Length: 1", "Content-Length: 2"),
        (POST, "Content-Length: +1"),
        (POST, "Content-Length: 1", "Transfer-Encoding: chunked"),
        (POST, "Transfer-Encoding: gzip, chunked"),
        (POST, "Transfer-Encoding: \x0bchunked"),
        (POST, "Transfer-Encoding: chunked", "Trailer: Authorization"),
        (POST, "Expect: 100-continue, x", "Content-Length: 1"),
        (GET, *(f"X-{number}: x" for number in range(http1.MOST_FIELDS))),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines):
    with pytest.raises(Malformed):
        parsed(*lines)


@table(
    "host",
    ["", "Host: evil.example", "Host: api.example.com:80"],
)
def test_a_request_for_another_host_is_refused(host):
    with pytest.raises(Malformed, match="Host header"):
        parsed(GET, host=host)


@table(("host", "port"), [("API.example.com", 443), (f"{HOST}:443", 443), (f"{HOST}:8443", 8443)])
def test_a_host_may_be_written_in_its_forms(host, port):
    found = http1.parse_request(request(GET, host=f"Host: {host}"), HOST, port)
    assert http1.request_head(found, HOST, port).split(b"\r\n")[1] == f"Host: {HOST}".encode() + (
        b"" if port == 443 else b":8443"
    )
    if port != 443:
        with pytest.raises(Malformed):  # without the port
            http1.parse_request(request(GET), HOST, port)


def test_a_request_is_written_anew_without_what_is_between_neighbours():
    found = parsed(
        "POST /v1?a=b HTTP/1.1",
        "Connection: keep-alive, X-Own, close",
        "x-own: 1",
        "Proxy-Connection: x",
        "Keep-Alive: 5",
        "TE: trailers",
        "Upgrade: h2c",
        "content-length: 3",
        "X-Api-Key:  \tkey\t",
        "Accept: */*",
    )
    assert http1.request_head(found, HOST, 443) == (
        b"POST /v1?a=b HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\nContent-Length: 3\r\n"
        b"X-Api-Key: key\r\nAccept: */*\r\n\r\n"
    )


@table(
    ("lines", "is_upgrade"),
    [
        ((GET, "Connection: keep-alive, Upgrade", "Upgrade: websocket"), True),
        ((GET, "Connection: Upgrade", "Upgrade: h2c"), False),
        ((POST, "Connection: Upgrade", "Upgrade: websocket"), False),
        ((GET, "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5"), False),
    ],
)
def test_nothing_is_asked_to_go_on_but_as_a_websocket(lines, is_upgrade):
    found = parsed(*lines)
    assert found.is_upgrade is is_upgrade
    assert (b"Upgrade: websocket" in http1.request_head(found, HOST, 443)) is is_upgrade


@table(
    ("head", "method", "length", "is_last"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", "GET", 5, False),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", "HEAD", 0, False),
        ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked", "GET", None, False),
        ("HTTP/1.1 200 OK", "GET", -1, True),
        ("HTTP/1.1 304 OK\r\nContent-Length: 5", "GET", 0, False),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5", "GET", 5, True),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close", "GET", 5, True),
    ],
)
def test_an_answer_ends_where_its_head_says(head, method, length, is_last):
    found = http1.parse_answer(f"{head}\r\n\r\n".encode(), method)
    assert (found.length, found.is_last) == (length, is_last)


@table(
    "head",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        "HTTP/2 200 OK",
    ],
)
def test_an_answer_that_could_be_read_in_two_ways_is_refused(head):
    with pytest.raises(Malformed):
        http1.parse_answer(f"{head}\r\n\r\n".encode(), "GET")


def test_an_answer_is_written_anew():
    head = b"HTTP/1.1 200 OK\r\nConnection: X-Own\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    found = http1.parse_answer(head, "GET")
    assert http1.answer_head(found, is_last=False) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    assert b"\r\nConnection: close\r\n" in http1.answer_head(found, is_last=True)


def test_a_head_that_does_not_end_is_refused():
    held = bytearray(b"GET / HTTP/1.1\r\nX: " + b"x" * http1.HEAD_LIMIT)
    with pytest.raises(Malformed):
        http1.take_head(held)


# Bodies


@table(
    "data",
    [
        b"-1\r\n",
        b"1\nx\n",
        b"1\r\nxy\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\nAuthorization: x\r\n\r\n",
        b"1" * http1.ChunkedBody.LINE_LIMIT,
    ],
)
@table("piece", [1, 10000])
def test_chunks_that_could_be_read_in_two_ways_are_refused(data, piece):
    try:
        _, _, is_over = body(data, piece)
    except Malformed:
        return
    assert data == b"1\nx\n"
    assert not is_over


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 60), st.binary(max_size=20))
def test_a_body_in_chunks_ends_where_it_ends(pieces, size, after):
    data = b"".join(map(http1.chunk, pieces)) + http1.LAST_CHUNK
    assert body(data + after, size)[0] == b"".join(pieces)
    found, left, is_over = body(data, len(data))
    assert (found, left, is_over) == (b"".join(pieces), b"", True)


def test_extensions_of_chunks_are_left_out_and_a_trailer_of_an_answer_too():
    data = b"3;a=b\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\nnext"
    assert body(data, 100, may_have_trailer=True) == (b"abc", b"next", True)


FIELD = st.tuples(
    st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True).filter(
        lambda name: name.lower() not in (*http1.BETWEEN, "host", "content-length")
    ),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_categories=("Cc",)), max_size=20),
)


@given(st.lists(FIELD, max_size=6), st.from_regex(r"/[!-\"$-~]{0,20}", fullmatch=True), st.integers(0, 99))
def test_what_is_written_anew_is_read_the_same_again(fields, target, length):
    found = http1.Request("POST", target, [(name, value.strip(" \t")) for name, value in fields], length)
    again = http1.parse_request(http1.request_head(found, HOST, 443), HOST, 443)
    own = ("host", "content-length")
    assert (again.method, again.target, again.length) == ("POST", target, length)
    assert [one for one in again.fields if one[0].lower() not in own] == list(found.fields)
