"""The section `http` without the gate: heads, bodies, routes and connections."""

from __future__ import annotations

import contextlib
import io
import json
import queue
import socket
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import clincus
from clincus_features.sign_in import TokenGate
from tests.table import table

CRLF = "\r\n"


def head(*lines):
    """The bytes of a request's head."""
    return (CRLF.join([*lines, ""]) + CRLF).encode("latin-1")


def parse(raw):
    """A request's head taken apart."""
    return clincus.parse_head(raw, None, None)


# ---- a server of these tests ------------------------------------------------------------------------------------


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
        "/api/raw/all": {"put": DONE},
        "/api/stream": {"post": {"requestBody": STREAMED, **DONE}},
        "/api/fails": {"get": DONE},
        "/api/waits": {"get": DONE, "post": DONE},
        "/ws/events": {"get": {"responses": {"101": {}}}},
        "/api/nobody": {"get": DONE},
    },
}


def seconds_of_a_command(_):
    """The seconds that a command in a container gets that wants 600."""
    patience = clincus.PATIENCE.get()
    return 600 if patience is None else patience.share(600)


def make_router():
    router = clincus.Router(CONTRACT)
    for method, path, handler in (
        ("GET", "/api/echo", echo),
        ("POST", "/api/echo", echo),
        ("PUT", "/api/raw/{id}", lambda request: echo(request._replace(body=b"".join(request.pieces)))),
        ("DELETE", "/api/raw/{id}", lambda _: clincus.Response(204)),
        ("PUT", "/api/raw/all", lambda _: "all"),
        ("POST", "/api/stream", lambda request: [len(piece) for piece in request.pieces if piece != b"stop"]),
        ("GET", "/api/fails", fail),
        ("GET", "/api/waits", seconds_of_a_command),
        ("POST", "/api/waits", seconds_of_a_command),
        ("GET", "/ws/events", fail),
    ):
        router.add(method, path, handler)
    return router


FILES = {
    "index.html": b"<!doctype html>" + b"page " * 300,
    "assets/app-1.js": b"script" * 1000,
    "assets/app-1.js.gz": b"much shorter",
    "icon.png": b"\x89PNG",
}


@contextlib.contextmanager
def listening(limit=clincus.CONNECTION_LIMIT, gate=None):
    """A listener on a free port. Clients may connect and send, and nobody answers yet."""
    gate = gate or clincus.Gate()
    site = clincus.Site(
        make_router(), clincus.Assets(FILES.get), gate, threading.Semaphore(limit), clincus.Extensions()
    )
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
def serving(limit=clincus.CONNECTION_LIMIT, gate=None):
    """A listener that answers."""
    with listening(limit, gate) as listener, answering(listener):
        yield listener


@pytest.fixture(scope="module")
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

    def send(self, first, *lines, body=b"", host=True):
        """Send a request; `host=False` leaves out the Host header."""
        named = [f"Host: 127.0.0.1:{self.port}"] if host else []
        self.socket.sendall(head(first, *named, *lines) + body)
        return self

    def receive(self, method="GET"):
        """Read one answer: status, headers, body."""
        first = self.stream.readline().decode()
        assert first.startswith("HTTP/1.1 "), first
        headers = {}
        while (line := self.stream.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        return int(first.split()[1]), headers, self.stream.read(length)

    def is_closed(self):
        """Whether the server ended the connection, and sent nothing more."""
        return self.stream.read(1) == b""


def ask(server, first, *lines, body=b"", host=True):
    """One request on a connection of its own; the status and the answer's JSON."""
    with Client(server) as client:
        status, _, answer = client.send(first, *lines, body=body, host=host).receive(first.split(" ")[0])
        return status, answer


# ---- heads ------------------------------------------------------------------------------------------------------


def test_a_head_is_taken_apart():
    parsed = parse(head("PUT /a%2fb?x=1&y HTTP/1.1", "Host: here", "Content-Length:  5 ", "X-Empty:"))
    assert parsed.method == "PUT"
    assert parsed.path == "/a%2fb"
    assert parsed.query == {"x": "1", "y": ""}
    assert parsed.body_length == 5
    assert parsed.headers["x-empty"] == ""


@table(
    ("lines", "status"),
    [
        pytest.param(["GET / HTTP/1.1", "Host : a"], 400, id="blank before the colon"),
        pytest.param(["GET / HTTP/1.1", "Host: a", " folded"], 400, id="folded line"),
        pytest.param(["GET / HTTP/1.1", "\tHost: a"], 400, id="folded first line"),
        pytest.param(["GET / HTTP/1.1", "A: b\rContent-Length: 5"], 400, id="bare CR"),
        pytest.param(["GET / HTTP/1.1", "A: b\nContent-Length: 5"], 400, id="bare LF"),
        pytest.param(["GET / HTTP/1.1", "A: b\0"], 400, id="NUL in a value"),
        pytest.param(["GET / HTTP/1.1", "no colon"], 400, id="no colon"),
        pytest.param(["GET / HTTP/1.1", ": nameless"], 400, id="no name"),
        pytest.param(["GET / HTTP/1.1", "Ho\xe4st: a"], 400, id="name beyond ASCII"),
        pytest.param(["GET /"], 400, id="HTTP/0.9"),
        pytest.param(["GET  / HTTP/1.1"], 400, id="two blanks"),
        pytest.param(["GET / HTTP/1.1 "], 400, id="blank at the end"),
        pytest.param(["GET /a b HTTP/1.1"], 400, id="blank in the path"),
        pytest.param(["GET /\xe4 HTTP/1.1"], 400, id="raw byte in the path"),
        pytest.param(["GET /#part HTTP/1.1"], 400, id="fragment"),
        pytest.param(["G(T / HTTP/1.1"], 400, id="odd method"),
        pytest.param(["GET / HTTP/2.0"], 505, id="HTTP/2"),
        pytest.param(["GET / HTTP/11"], 400, id="odd version"),
        pytest.param(["CONNECT example.com:443 HTTP/1.1"], 400, id="CONNECT"),
        pytest.param(["GET http://other/ HTTP/1.1", "Host: here"], 400, id="URL of another host"),
        pytest.param(["GET http://a@here/ HTTP/1.1", "Host: here"], 400, id="URL with a user"),
        pytest.param(["GET /?a=1&a=2 HTTP/1.1"], 400, id="parameter twice"),
        pytest.param(["GET / HTTP/1.1", *["A: b"] * 101], 431, id="101 fields"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: 5", "Content-Length: 5"], 400, id="two lengths"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: 5, 5"], 400, id="a list of lengths"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: -1"], 400, id="negative length"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: +5"], 400, id="signed length"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: 0x5"], 400, id="hexadecimal length"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: 1_0"], 400, id="underscore in the length"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: \xb2"], 400, id="superscript length"),
        pytest.param(["POST / HTTP/1.1", "Content-Length:"], 400, id="empty length"),
        pytest.param(["POST / HTTP/1.1", f"Content-Length: {10**30}"], 400, id="endless length"),
        pytest.param(["POST / HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked"], 400, id="both"),
        pytest.param(["POST / HTTP/1.1", "Transfer-Encoding: chunked"], 411, id="chunked"),
        pytest.param(["POST / HTTP/1.1", "Transfer-Encoding: identity"], 411, id="identity"),
        pytest.param(["POST / HTTP/1.1", "transfer-encoding:\tchunked"], 411, id="chunked after a tab"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(lines, status):
    with pytest.raises(clincus.ClincusError) as caught:
        parse(head(*lines))
    assert caught.value.status == status


@table("ending", [b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_lines_that_do_not_end_with_cr_lf_are_refused(ending):
    with pytest.raises(clincus.ClincusError, match=r"line|NAME: VALUE"):
        parse(clincus.read_head(io.BytesIO(b"GET / HTTP/1.1" + ending)))


@table(
    ("target", "path"),
    [
        ("http://here:1/api?x=1", "/api"),
        ("HTTP://HERE:1", "/"),
        ("http://here:1?x=1", "/"),
        ("//api/tools", "//api/tools"),
        ("/http://other/", "/http://other/"),
    ],
)
def test_a_whole_url_of_this_host_is_a_path(target, path):
    assert parse(head(f"GET {target} HTTP/1.1", "Host: here:1")).path == path


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
        (b"GET / HT", 408),
    ],
)
def test_a_head_that_is_too_large_or_breaks_off_is_refused(data, status):
    stream = io.BytesIO(data)
    with pytest.raises(clincus.ClincusError) as caught:
        clincus.read_head(stream)
    assert caught.value.status == status
    assert stream.tell() <= clincus.HEAD_LIMIT


def test_nothing_is_read_beyond_a_head():
    stream = io.BytesIO(b"\r\n" + head("GET / HTTP/1.1") + b"next")
    assert clincus.read_head(stream) == head("GET / HTTP/1.1")
    assert stream.read() == b"next"
    assert clincus.read_head(stream) == b""


# ---- answers ----------------------------------------------------------------------------------------------------


def test_a_file_name_that_is_not_utf8_becomes_an_escape_in_json():
    assert json.loads(clincus.json_response({"name": "a\udcff"}).body) == {"name": "a\udcff"}


# ---- routes and methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "status", "allow"),
    [
        ("GET /api/echo HTTP/1.1", 200, None),
        ("PATCH /api/echo HTTP/1.1", 405, "GET, HEAD, POST"),
        ("OPTIONS /api/echo HTTP/1.1", 405, "GET, HEAD, POST"),
        ("BREW /api/echo HTTP/1.1", 405, "GET, HEAD, POST"),
        ("GET /api/raw/x HTTP/1.1", 405, "DELETE, PUT"),
        ("HEAD /ws/events HTTP/1.1", 405, "GET"),
        ("POST / HTTP/1.1", 405, "GET, HEAD"),
        ("GET /api HTTP/1.1", 404, None),
        ("GET /api/ HTTP/1.1", 404, None),
        ("GET /api/raw/a/b HTTP/1.1", 404, None),
        ("GET /ws HTTP/1.1", 404, None),
        ("GET /ws/none HTTP/1.1", 404, None),
        ("GET /api/fails HTTP/1.1", 500, None),
    ],
)
def test_unknown_paths_and_methods_are_json_errors(server, first, status, allow):
    with Client(server) as client:
        answer, headers, body = client.send(first).receive(first.split(" ")[0])
        assert answer == status
        assert headers.get("allow") == allow
        assert headers["content-type"] == "application/json"
        if status >= 400 and not first.startswith("HEAD"):
            assert json.loads(body)["error"]


def test_a_crash_tells_the_client_nothing_of_the_inside(server, capsys):
    status, body = ask(server, "GET /api/fails HTTP/1.1")
    assert status == 500
    assert b"secret" not in body
    assert "a secret of the house" in capsys.readouterr().err


@pytest.mark.parametrize(("quoted", "value"), [("..", ".."), ("a%2fb", "a/b"), ("--help", "--help"), ("%ff", "\ufffd")])
def test_a_value_in_the_path_is_one_segment_unquoted(server, quoted, value):
    status, body = ask(server, f"PUT /api/raw/{quoted} HTTP/1.1")
    assert status == 200
    assert json.loads(body)["values"] == {"id": value}


def test_a_value_in_the_path_that_nothing_can_have_is_unknown(server):
    assert ask(server, "PUT /api/raw/%00 HTTP/1.1")[0] == 404


def test_a_literal_segment_comes_before_a_value(server):
    assert ask(server, "PUT /api/raw/all HTTP/1.1") == (200, b'"all"')
    assert ask(server, "DELETE /api/raw/all HTTP/1.1")[0] == 204


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


# ---- the page's files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "media_type", "cache"),
    [
        ("/", 200, "text/html; charset=utf-8", "no-cache"),
        ("/sessions", 200, "text/html; charset=utf-8", "no-cache"),
        ("/sessions/clincus-a1b2c3-1", 200, "text/html; charset=utf-8", "no-cache"),
        ("/assets/app-1.js", 200, "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/icon.png", 200, "image/png", "no-cache"),
        ("/assets/app-2.js", 404, "application/json", "no-store"),
        ("/missing.js", 200, "text/html; charset=utf-8", "no-cache"),
        ("/assets/..%2findex.html", 404, "application/json", "no-store"),
        ("/..%2f..%2fetc%2fpasswd", 200, "text/html; charset=utf-8", "no-cache"),
    ],
)
def test_files_and_the_routes_of_the_page(server, path, status, media_type, cache):
    with Client(server) as client:
        answer, headers, body = client.send(f"GET {path} HTTP/1.1").receive()
    assert (answer, headers["content-type"], headers["cache-control"]) == (status, media_type, cache)
    if media_type.startswith("text/html"):
        assert body == FILES["index.html"]


def test_the_page_is_compressed_and_not_sent_twice(server):
    with Client(server) as client:
        _, headers, body = client.send("GET / HTTP/1.1", "Accept-Encoding: br, gzip").receive()
        assert headers["content-encoding"] == "gzip"
        assert len(body) < len(FILES["index.html"])
        status, headers, body = client.send("GET / HTTP/1.1", f"If-None-Match: {headers['etag']}").receive()
        assert (status, body) == (304, b"")
        assert "content-length" not in headers


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("", False),
        ("br, gzip", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("*, gzip;q=0", False),
    ],
)
def test_what_the_client_takes_is_sent(server, accepted, is_compressed):
    with Client(server) as client:
        _, headers, _ = client.send("GET / HTTP/1.1", f"Accept-Encoding: {accepted}").receive()
    assert ("content-encoding" in headers) is is_compressed


@pytest.mark.parametrize("accepted", ["gzip, br", "gzip;q=0", ""])
def test_a_file_that_was_compressed_by_the_build_is_sent_so(server, accepted):
    with Client(server) as client:
        _, headers, body = client.send("GET /assets/app-1.js HTTP/1.1", f"Accept-Encoding: {accepted}").receive()
    is_packed = headers.get("content-encoding") == "gzip"
    assert is_packed is (accepted == "gzip, br")
    assert body == FILES["assets/app-1.js.gz" if is_packed else "assets/app-1.js"]


def test_a_browser_without_the_token_is_answered_by_a_page_and_a_program_in_json():
    with serving(gate=TokenGate(token="t" * 22)) as listener:
        wrong = "Authorization: Bearer wrong"
        with Client(listener) as client:
            status, headers, body = client.send("GET / HTTP/1.1", wrong, "Accept: text/html").receive()
            assert (status, headers["connection"], b"<form" in body) == (401, "close", True)
        with Client(listener) as client:
            status, _, body = client.send("GET /api/echo HTTP/1.1", wrong).receive()
            assert (status, json.loads(body)) == (
                401,
                {"error": "the token is wrong", "code": "sign_in_required"},
            )


# ---- connections ------------------------------------------------------------------------------------------------

JSON = "Content-Type: application/json"


def test_requests_that_are_sent_at_once_are_answered_in_order(server):
    with Client(server) as client:
        one = head("POST /api/echo HTTP/1.1", f"Host: 127.0.0.1:{client.port}", JSON, "Content-Length: 12")
        client.socket.sendall(
            (one + b'{"name":"a"}') * 3 + head("GET /api/echo HTTP/1.1", f"Host: localhost:{client.port}")
        )
        bodies = [json.loads(client.receive()[2])["body"] for _ in range(4)]
        assert bodies == ['{"name":"a"}'] * 3 + [""]


def test_head_is_get_without_the_body(server):
    with Client(server) as client:
        _, of_get, body = client.send("GET /api/echo HTTP/1.1").receive()
        _, of_head, nothing = client.send("HEAD /api/echo HTTP/1.1").receive("HEAD")
        assert of_head["content-length"] == of_get["content-length"] == str(len(body))
        assert nothing == b""
        assert client.send("GET /api/echo HTTP/1.1").receive()[0] == 200


@pytest.mark.parametrize("option", ["close", "Keep-Alive, Close"])
def test_a_client_can_ask_for_the_end(server, option):
    with Client(server) as client:
        _, headers, _ = client.send("GET /api/echo HTTP/1.1", f"Connection: {option}").receive()
        assert headers["connection"] == "close"
        assert client.is_closed()


def test_http_1_0_is_answered_and_closed(server):
    with Client(server) as client:
        assert client.send("GET /api/echo HTTP/1.0").receive()[0] == 200
        assert client.is_closed()


@pytest.mark.parametrize(
    ("first", "lines", "status"),
    [
        ("POST /api/none HTTP/1.1", [JSON], 404),
        ("PATCH /api/echo HTTP/1.1", [JSON], 405),
        ("POST /api/echo HTTP/1.1", ["Content-Type: text/plain"], 415),
        ("POST /api/echo HTTP/1.1", [JSON, "Origin: http://evil"], 403),
        ("POST / HTTP/1.1", [JSON], 405),
        ("GET / HTTP/1.1", [], 200),
    ],
)
def test_a_body_that_is_not_wanted_is_never_the_next_request(server, first, lines, status):
    with Client(server) as client:
        smuggled = head("GET /api/fails HTTP/1.1", f"Host: 127.0.0.1:{client.port}")
        client.send(first, *lines, f"Content-Length: {len(smuggled)}", body=smuggled)
        assert client.receive()[0] == status
        assert client.is_closed()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"name":1}'])
def test_a_connection_goes_on_after_a_refused_body(server, body):
    with Client(server) as client:
        assert (
            client.send("POST /api/echo HTTP/1.1", JSON, f"Content-Length: {len(body)}", body=body).receive()[0] == 400
        )
        assert client.send("GET /api/echo HTTP/1.1").receive()[0] == 200


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server):
    with Client(server) as client:
        assert client.send("POST /api/echo HTTP/1.1", JSON, f"Content-Length: {10**12}").receive()[0] == 413
        assert client.is_closed()


def test_a_client_that_sends_before_it_reads_still_gets_the_413(server):
    size = 4 << 20
    status, body = ask(server, "POST /api/echo HTTP/1.1", JSON, f"Content-Length: {size}", body=b" " * size)
    assert status == 413
    assert b"1024 KiB" in body


@pytest.mark.parametrize(
    ("first", "line", "status"),
    [
        ("GET /api/echo HTTP/1.1", "A: " + "b" * 200_000, 431),
        ("GET /" + "a" * 200_000 + " HTTP/1.1", "A: b", 414),
        ("GET /api/echo HTTP/1.1", CRLF.join(["A: b"] * 500), 431),
    ],
)
def test_a_client_gets_to_read_that_its_head_is_too_large(server, first, line, status):
    assert ask(server, first, line)[0] == status


@pytest.mark.parametrize(("method", "seconds"), [("GET", 10), ("POST", 600)])
def test_an_answer_that_only_reads_waits_less_for_a_container(server, method, seconds):
    with Client(server) as client:
        client.send(f"{method} /api/waits HTTP/1.1", "Content-Length: 0")
        assert json.loads(client.receive()[2]) == seconds


def test_each_route_has_its_own_limit(server):
    assert ask(server, "PUT /api/raw/x HTTP/1.1", "Content-Length: 100", body=b"x" * 100)[0] == 200
    assert ask(server, "PUT /api/raw/x HTTP/1.1", "Content-Length: 101", body=b"x" * 101)[0] == 413


def test_a_large_body_comes_in_pieces(server):
    with Client(server) as client:
        first = "POST /api/stream HTTP/1.1", "Content-Type: image/png", "Content-Length: 300000"
        status, _, body = client.send(*first, body=b"x" * 300_000).receive()
        sizes = json.loads(body)
        assert (status, sum(sizes)) == (200, 300_000)
        assert max(sizes) <= 64 << 10
        assert client.send("GET /api/echo HTTP/1.1").receive()[0] == 200


def test_of_pieces_that_do_not_all_arrive_the_sender_is_told(monkeypatch):
    monkeypatch.setattr(clincus, "HEAD_TIMEOUT", 0.05)
    with listening() as server, Client(server) as client:
        client.send("POST /api/stream HTTP/1.1", "Content-Length: 9", body=b"half")
        with answering(server):
            assert client.receive()[0] == 408
            assert client.is_closed()


def test_the_body_is_asked_for_when_a_client_waits_for_that(server):
    with Client(server) as client:
        client.send("POST /api/echo HTTP/1.1", JSON, "Content-Length: 2", "Expect: 100-continue")
        assert client.stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert client.stream.readline() == b"\r\n"
        client.socket.sendall(b"{}")
        assert client.receive()[0] == 200
        assert client.send("GET /api/echo HTTP/1.1").receive()[0] == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([JSON, f"Content-Length: {10**12}", "Expect: 100-continue"], 413),
        (["Content-Type: text/plain", "Content-Length: 2", "Expect: 100-continue"], 415),
        ([JSON, "Content-Length: 2", "Expect: 200-ok"], 417),
    ],
)
def test_a_body_that_will_be_refused_is_not_asked_for(server, lines, status):
    with Client(server) as client:
        assert client.send("POST /api/echo HTTP/1.1", *lines).receive()[0] == status
        assert client.is_closed()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Type: application/json"], 200),
        (["Content-Type: Application/JSON; charset=utf-8"], 200),
        (["Content-Type: application/x-www-form-urlencoded"], 200),
        ([], 200),
        (["Content-Type: text/plain"], 415),
        (["Content-Type: text/plain; a=application/json"], 415),
        (["Content-Type: multipart/form-data"], 415),
        (["Content-Type: application/x-www-form-urlencoded", "Origin: http://localhost:{port}"], 415),
        (["Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: none"], 415),
        (["Content-Type: application/x-www-form-urlencoded", "sec-fetch-mode: navigate"], 415),
        (["Origin: http://localhost:{port}"], 415),
        (["Content-Type: application/json", "Origin: http://localhost:{port}", "Sec-Fetch-Site: same-origin"], 200),
    ],
)
def test_only_json_is_taken_from_a_browser(server, lines, status):
    named = [line.format(port=server.server_address[1]) for line in lines]
    assert ask(server, "POST /api/echo HTTP/1.1", *named, "Content-Length: 2", body=b"{}")[0] == status


def test_a_write_without_a_body_needs_no_type(server):
    assert ask(server, "POST /api/echo HTTP/1.1", "Content-Length: 0")[0] == 200


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


def test_a_connection_that_is_taken_over_stays_open_and_keeps_its_place():
    taken = queue.Queue()

    def take_over(request):
        request.connection.close_connection = True
        taken.put((threading.current_thread(), socket.socket(fileno=request.connection.connection.detach())))

    def is_full(server):
        with Client(server) as other:
            return other.send("GET /api/echo HTTP/1.1").receive()[0] == 503

    with serving(limit=1) as server, Client(server) as client:
        server.site.router.find("GET", "/ws/events")[0].handler = take_over
        client.send("GET /ws/events HTTP/1.1")
        thread, connection = taken.get(timeout=60)
        thread.join()
        assert is_full(server)
        with connection:
            connection.sendall(b"it is open")
            assert client.stream.read(10) == b"it is open"
        server.site.places.release()
        assert not is_full(server)


@table(("sent", "status"), [(b"", None), (b"GET / HT", 408)], ids=["nothing", "half a head"])
def test_who_says_too_little_is_cut_off(monkeypatch, sent, status):
    monkeypatch.setattr(clincus, "HEAD_TIMEOUT", 0.05)
    with listening() as server, Client(server) as client:
        client.socket.sendall(sent)
        with answering(server):
            if status:
                assert client.receive()[0] == status
            assert client.is_closed()


def test_a_body_that_does_not_arrive_is_told_so(monkeypatch):
    monkeypatch.setattr(clincus, "HEAD_TIMEOUT", 0.05)
    with listening() as server, Client(server) as client:
        client.send("PUT /api/raw/x HTTP/1.1", "Content-Length: 9", body=b"half")
        with answering(server):
            status, _, body = client.receive()
            assert status == 408
            assert "only 4 of the body's 9 bytes" in json.loads(body)["error"]
            assert client.is_closed()


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


def test_the_place_of_a_connection_that_ended_is_free_again():
    with serving(limit=1) as server:
        for _ in range(3):
            with Client(server) as client:
                assert client.send("GET /api/echo HTTP/1.1").receive()[0] == 200
            assert server.site.places.acquire(timeout=60)
            server.site.places.release()
