"""The section `http` without the gate: heads, bodies, routes and connections."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import clincus
from tests.table import table

CRLF = "\r\n"


def head(*lines):
    """The bytes of a request's head."""
    return (CRLF.join([*lines, ""]) + CRLF).encode("latin-1")


def parse(raw):
    """A request's head taken apart."""
    return clincus.parse_head(raw, None, None)


# ---- a server of these tests


def echo(request):
    return {"path": request.path, "values": request.values, "body": request.body.decode("latin-1")}


def fail(request):
    raise RuntimeError("a secret of the house")


NAME = {"type": "string", "description": "a name"}
NAMED = {"type": "object", "properties": {"name": NAME}, "additionalProperties": False}
BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "maxLength": 100}}}}
STREAMED = {"content": {"application/octet-stream": {"schema": {"type": "string", "maxLength": 10**6}}}}
ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
DONE = {"responses": {"200": {}}}
CONTRACT = {
    "info": {},
    "paths": {
        "/api/echo": {
            "get": {"parameters": [{"name": "name", "in": "query", "schema": NAME}], **DONE},
            "post": {"requestBody": {"content": {"application/json": {"schema": NAMED}}}, **DONE},
        },
        "/api/raw/{id}": {"parameters": [ID], "put": {"requestBody": BYTES, **DONE}, "delete": DONE},
        "/api/stream": {"post": {"requestBody": STREAMED, **DONE}},
        "/api/fails": {"get": DONE},
        "/ws/events": {"get": {"responses": {"101": {}}}},
    },
}


ROUTES = [
    ("GET", "/api/echo", echo),
    ("POST", "/api/echo", echo),
    ("PUT", "/api/raw/{id}", lambda request: echo(request._replace(body=b"".join(request.pieces)))),
    ("DELETE", "/api/raw/{id}", lambda _: clincus.Response(204)),
    ("POST", "/api/stream", lambda request: [len(piece) for piece in request.pieces if piece != b"stop"]),
    ("GET", "/api/fails", fail),
    ("GET", "/ws/events", fail),
]


def make_router():
    router = clincus.Router(CONTRACT)
    for route in ROUTES:
        router.add(*route)
    return router


FILES = {
    "index.html": b"<!doctype html>" + b"page " * 300,
    "assets/app-1.js": b"script" * 1000,
}


@contextlib.contextmanager
def listening(limit=clincus.CONNECTION_LIMIT):
    """A listener on a free port. Clients may connect and send, and nobody answers yet."""
    assets, places = clincus.Assets(FILES.get), threading.Semaphore(limit)
    site = clincus.Site(make_router(), assets, clincus.Gate(), places, clincus.Extensions())
    listener = clincus.open_listener(("127.0.0.1", 0), site)
    try:
        yield listener
    finally:
        listener.server_close()


@contextlib.contextmanager
def answering(listener):
    """Let a listener answer, without leaving a thread.

    What clients are to send within a short time has to be sent before: a busy machine may take longer for a line.
    """
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        listener.shutdown()
        thread.join()


@contextlib.contextmanager
def serving(limit=clincus.CONNECTION_LIMIT):
    """A listener that answers."""
    with listening(limit) as listener, answering(listener):
        yield listener


@pytest.fixture
def server():
    with serving() as listener:
        yield listener


class Client:
    """A client that sends bytes as they are."""

    def __init__(self, server):
        self.port = server.server_address[1]
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.stream = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def send(self, first, *lines, body=b""):
        self.socket.sendall(head(first, f"Host: 127.0.0.1:{self.port}", *lines) + body)
        return self

    def receive(self, method="GET"):
        """Read one answer: status, headers, body."""
        first = self.stream.readline().decode()
        assert first.startswith("HTTP/1.1 "), first
        lines = iter(lambda: self.stream.readline().decode().strip(), "")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        return int(first.split()[1]), headers, self.stream.read(length)

    def is_closed(self):
        """Whether the server ended the connection, and sent nothing more."""
        return self.stream.read(1) == b""


def ask(server, first, *lines, body=b""):
    """One request on a connection of its own; the status and the answer's JSON."""
    with Client(server) as client:
        status, _, answer = client.send(first, *lines, body=body).receive(first.split(" ")[0])
        return status, answer


# ---- heads


GET, POST = "GET / HTTP/1.1", "POST / HTTP/1.1"
TWO_WAYS = [
    [GET, "Host : a"],
    [GET, "Host: a", " folded"],
    [GET, "A: b\rContent-Length: 5"],
    [GET, "A: b\nContent-Length: 5"],
    [GET, "A: b\0"],
    [GET, "Ho\xe4st: a"],
    ["GET /"],
    ["GET /\xe4 HTTP/1.1"],
    ["GET /#part HTTP/1.1"],
    ["G(T / HTTP/1.1"],
    ["GET http://other/ HTTP/1.1", "Host: here"],
    ["GET http://a@here/ HTTP/1.1", "Host: here"],
    ["GET /?a=1&a=2 HTTP/1.1"],
    [POST, "Content-Length: 5", "Content-Length: 5"],
    *([POST, f"Content-Length: {length}"] for length in ("5, 5", "-1", "+5", "1_0", "\xb2", "", "1" * 31)),
    [POST, "Content-Length: 5", "Transfer-Encoding: chunked"],
]
REFUSED = [
    *((lines, 400) for lines in TWO_WAYS),
    (["GET / HTTP/2.0"], 505),
    ([GET, *["A: b"] * 101], 431),
    ([POST, "Transfer-Encoding: chunked"], 411),
    ([POST, "transfer-encoding:\tchunked"], 411),
]


@table(("lines", "status"), REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(lines, status):
    with pytest.raises(clincus.ClincusError) as caught:
        parse(head(*lines))
    assert caught.value.status == status


@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nA:\x85b\r\n\r\n")
def test_any_bytes_give_a_head_or_a_refusal(data):
    with contextlib.suppress(clincus.ClincusError):
        raw = clincus.read_head(io.BytesIO(data))
        assert not raw or parse(raw).path.startswith("/")


@table(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, 431),
        (b"GET /" + b"a" * 200_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 408),
        (b"GET / HTTP/1.1\n\n", 400),
    ],
)
def test_a_head_that_is_too_large_or_breaks_off_is_refused(data, status):
    stream = io.BytesIO(data)
    with pytest.raises(clincus.ClincusError) as caught:
        parse(clincus.read_head(stream))
    assert caught.value.status == status
    assert stream.tell() <= clincus.HEAD_LIMIT


# ---- routes and methods


@table(
    ("first", "status", "allow"),
    [
        ("PATCH /api/echo", 405, "GET, HEAD, POST"),
        ("GET /api/raw/x", 405, "DELETE, PUT"),
        ("HEAD /ws/events", 405, "GET"),
        ("GET /api/raw/a/b", 404, None),
    ],
)
def test_unknown_paths_and_methods_are_json_errors(server, first, status, allow):
    with Client(server) as client:
        answer, headers, body = client.send(f"{first} HTTP/1.1").receive(first.split(" ")[0])
        assert answer == status
        assert headers.get("allow") == allow
        assert headers["content-type"] == "application/json"
        assert first.startswith("HEAD") or json.loads(body)["error"]


def test_a_crash_tells_the_client_nothing_of_the_inside(server, capsys):
    status, body = ask(server, "GET /api/fails HTTP/1.1")
    assert status == 500
    assert b"secret" not in body
    assert "a secret of the house" in capsys.readouterr().err


def test_a_value_in_the_path_is_one_segment_unquoted(server):
    for quoted, value in (("..", ".."), ("a%2fb", "a/b")):
        status, body = ask(server, f"PUT /api/raw/{quoted} HTTP/1.1")
        assert (status, json.loads(body)["values"]) == (200, {"id": value})
    assert ask(server, "PUT /api/raw/%00 HTTP/1.1")[0] == 404


def test_every_answer_forbids_scripts_frames_and_guessing(server):
    for path in ("/", "/api/echo", "/api/none"):
        with Client(server) as client:
            _, headers, _ = client.send(f"GET {path} HTTP/1.1").receive()
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "worker-src 'self';" in policy  # no blob: a script that made one would run it
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.startswith("access-control-")]


# ---- the page's files


HTML, SCRIPT = "text/html; charset=utf-8", "text/javascript; charset=utf-8"


@table(
    ("path", "status", "media_type", "cache"),
    [
        ("/", 200, HTML, "no-cache"),
        ("/sessions/clincus-a1b2c3-1", 200, HTML, "no-cache"),
        ("/assets/app-1.js", 200, SCRIPT, "public, max-age=31536000, immutable"),
        ("/assets/app-2.js", 404, "application/json", "no-store"),
        ("/..%2f..%2fetc%2fpasswd", 200, HTML, "no-cache"),
    ],
)
def test_files_and_the_routes_of_the_page(server, path, status, media_type, cache):
    with Client(server) as client:
        answer, headers, body = client.send(f"GET {path} HTTP/1.1").receive()
    assert (answer, headers["content-type"], headers["cache-control"]) == (status, media_type, cache)
    if media_type.startswith("text/html"):
        assert body == FILES["index.html"]


# ---- connections

JSON = "Content-Type: application/json"


def test_requests_that_are_sent_at_once_are_answered_in_order(server):
    with Client(server) as client:
        one = head("POST /api/echo HTTP/1.1", f"Host: 127.0.0.1:{client.port}", JSON, "Content-Length: 12")
        client.socket.sendall(
            (one + b'{"name":"a"}') * 3 + head("GET /api/echo HTTP/1.1", f"Host: localhost:{client.port}")
        )
        bodies = [json.loads(client.receive()[2])["body"] for _ in range(4)]
        assert bodies == ['{"name":"a"}'] * 3 + [""]
        for body in (b"{", b"[]", b'{"name":1}'):
            client.send("POST /api/echo HTTP/1.1", JSON, f"Content-Length: {len(body)}", body=body)
            assert client.receive()[0] == 400
        _, of_get, body = client.send("GET /api/echo HTTP/1.1").receive()
        _, of_head, nothing = client.send("HEAD /api/echo HTTP/1.1").receive("HEAD")
        assert of_head["content-length"] == of_get["content-length"] == str(len(body))
        assert nothing == b""
    with Client(server) as client:
        assert client.send("GET /api/echo HTTP/1.0").receive()[0] == 200
        assert client.is_closed()


def test_what_is_too_large_is_refused_in_words_that_the_sender_gets_to_read(server):
    with Client(server) as client:
        assert client.send("POST /api/echo HTTP/1.1", JSON, f"Content-Length: {10**12}").receive()[0] == 413
        assert client.is_closed()
    size = 4 << 20
    status, body = ask(server, "POST /api/echo HTTP/1.1", JSON, f"Content-Length: {size}", body=b" " * size)
    assert status == 413
    assert b"1024 KiB" in body
    assert ask(server, "PUT /api/raw/x HTTP/1.1", "Content-Length: 100", body=b"x" * 100)[0] == 200
    assert ask(server, "PUT /api/raw/x HTTP/1.1", "Content-Length: 101", body=b"x" * 101)[0] == 413
    assert ask(server, "GET /api/echo HTTP/1.1", "A: " + "b" * 200_000)[0] == 431
    assert ask(server, "GET /" + "a" * 200_000 + " HTTP/1.1")[0] == 414


@table(
    ("first", "lines", "status"),
    [
        ("POST /api/none", [JSON], 404),
        ("PATCH /api/echo", [JSON], 405),
        ("POST /api/echo", ["Content-Type: text/plain"], 415),
        ("POST /api/echo", [JSON, "Origin: http://evil"], 403),
    ],
)
def test_a_body_that_is_not_wanted_is_never_the_next_request(server, first, lines, status):
    with Client(server) as client:
        smuggled = head("GET /api/fails HTTP/1.1", f"Host: 127.0.0.1:{client.port}")
        client.send(f"{first} HTTP/1.1", *lines, f"Content-Length: {len(smuggled)}", body=smuggled)
        assert client.receive()[0] == status
        assert client.is_closed()


FORM, OWN = "Content-Type: application/x-www-form-urlencoded", "Origin: http://localhost:{port}"


@table(
    ("lines", "status"),
    [
        (["Content-Type: Application/JSON; charset=utf-8"], 200),
        ([FORM], 200),
        ([], 200),
        (["Content-Type: text/plain"], 415),
        (["Content-Type: text/plain; a=application/json"], 415),
        ([FORM, OWN], 415),
        ([FORM, "Sec-Fetch-Site: none"], 415),
        ([OWN], 415),
        ([JSON, OWN, "Sec-Fetch-Site: same-origin"], 200),
    ],
)
def test_only_json_is_taken_from_a_browser(server, lines, status):
    named = [line.format(port=server.server_address[1]) for line in lines]
    assert ask(server, "POST /api/echo HTTP/1.1", *named, "Content-Length: 2", body=b"{}")[0] == status


def test_a_connection_too_many_is_told_so():
    with serving(limit=3) as server, contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(Client(server)) for _ in range(3)]
        for client in clients:
            assert client.send("GET /api/echo HTTP/1.1").receive()[0] == 200
        with Client(server) as late:
            status, headers, body = late.send("GET /api/echo HTTP/1.1").receive()
            assert (status, headers["retry-after"]) == (503, "1")
            assert "too many connections" in json.loads(body)["error"]
            assert late.is_closed()
        assert clients[0].send("GET /api/echo HTTP/1.1").receive()[0] == 200


PUT = "PUT /api/raw/x HTTP/1.1"


@table(
    ("sent", "answer"),
    [
        (b"", None),
        (b"GET / HT", b"408"),
        (head(PUT, "Host: localhost", "Content-Length: 9") + b"half", b"only 4 of the body's 9 bytes"),
        (head("POST /api/stream HTTP/1.1", "Host: localhost", "Content-Length: 9") + b"half", b"408"),
    ],
)
def test_who_says_too_little_is_cut_off(monkeypatch, sent, answer):
    monkeypatch.setattr(clincus, "HEAD_TIMEOUT", 0.05)
    with listening() as server, Client(server) as client:
        client.socket.sendall(sent.replace(b"localhost", b"localhost:%d" % client.port))
        with answering(server):
            said = client.stream.read()  # to the end of the connection
    assert answer in said if answer else said == b""


def test_bytes_in_drops_do_not_hold_a_connection_open(monkeypatch):
    """The time counts for the whole head, not for each read."""
    monkeypatch.setattr(clincus, "HEAD_TIMEOUT", 0.2)
    with listening() as server, Client(server) as client:
        client.socket.sendall(b"A")
        client.socket.settimeout(0.02)
        with answering(server), contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.socket.sendall(b"A")
                with contextlib.suppress(OSError):  # nothing to read yet
                    assert client.socket.recv(12) == b"HTTP/1.1 408"
                    return
        pytest.fail("20 s of drops were listened to")
