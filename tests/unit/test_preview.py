"""The preview without Incus: what is said to be listening, how heads are rewritten, who may come in."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from types import SimpleNamespace

import pytest

import clincus
from clincus_features import preview
from clincus_features.preview import doors, heads, listening, openings, relay
from tests.builders import a_session
from tests.programs import DEADLINE
from tests.table import table

ORIGIN = "http://3000-clincus-a1b2c3-1.localhost:8080"
PLACE = heads.Place(3000, ORIGIN, ["http://localhost:8080"])
HERE = ("127.0.0.1", 8080)

# What listens

SAID = """\
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 30125 1
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 30126 1
   0: 00000000000000000000000001000000:1432 00000000000000000000000000000000:0000 0A 0 0 0
   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0 0 0
   2: 0000000000000000FFFF00000100007F:0BB9 00000000000000000000000000000000:0000 0A 0 0 0
   3: 0100007F:0C38 00000000:0000 0A 0 0 0
   9: 0100007F:0050 0100007F:0051 01 0 0 0
nonsense 0A nonsense
processes
LISTEN 0      511        127.0.0.1:3000       0.0.0.0:*    users:(("node",pid=33,fd=18))
LISTEN 0      511            [::1]:5170          [::]:*    users:(("\x1b[31mevil",pid=33,fd=18))
"""


def test_ports_are_read_from_what_the_container_says():
    found = listening.parse_ports(SAID)
    assert found == [
        listening.Listening(3000, ("127.0.0.1",), "node"),
        listening.Listening(3001, ("127.0.0.1",), ""),
        listening.Listening(5170, ("::1",), "\\x1b[31mevil"),
        listening.Listening(8080, ("0.0.0.0", "::"), ""),
    ]
    assert [one.address for one in found] == ["127.0.0.1", "127.0.0.1", "::1", "127.0.0.1"]
    with pytest.raises(clincus.ClincusError, match="nothing listens at port 81"):
        listening.port_at(found, 81)


# Names


@table(
    ("id", "label"),
    [
        ("clincus-a1b2c3-1", "3000-clincus-a1b2c3-1"),
        ("box:clincus-a1b2c3-1", "3000-box--clincus-a1b2c3-1"),
        ("a--b:clincus-a1b2c3-1", None),
        (f"{'x' * 60}:clincus-a1b2c3-1", None),
    ],
)
def test_the_name_of_an_origin_is_one_of_the_dns(id, label):
    found = openings.host_label(3000, id)
    assert found == label or (label is None and openings.host_label(3000, id + "1") != found)
    closed = openings.host_label(3000, id, is_confined=True)
    assert closed not in (found, openings.host_label(3000, id + "1", is_confined=True))
    for one in (found, closed):
        assert len(one) <= openings.LABEL_MOST
        assert clincus.split_host(f"{one}.localhost:8080") == (f"{one}.localhost", 8080)


# Requests


def request(*lines: str, first: str = "GET / HTTP/1.1", connection=None) -> clincus.Request:
    head = "\r\n".join([first, f"Host: {ORIGIN[7:]}", *lines, "", ""]).encode("latin-1")
    return clincus.parse_head(head, clincus.Peer("127.0.0.1", HERE, ""), connection)


@table(
    ("field", "expected"),
    [
        ("Cookie: a=1; clincus-preview-8080=x; clincus-3000 =x;b=2", "Cookie: a=1; b=2"),
        (f"Origin: {ORIGIN}", "Origin: http://localhost:3000"),
        (f"Referer: {ORIGIN}.evil.example/", None),
        ("X-Forwarded-For: 1.2.3.4", None),
        ("Authorization: Bearer of-the-app", "Authorization: Bearer of-the-app"),
        ("Upgrade: h2c", None),
    ],
)
def test_a_field_of_a_request(field, expected):
    head = heads.request_head(request(field), "/x?a=1&a=2", PLACE).decode()
    kept = [expected] if expected else []
    assert head.split("\r\n") == [
        "GET /x?a=1&a=2 HTTP/1.1", "Host: localhost:3000", *kept, "Connection: close", "", ""
    ]  # fmt: skip


def test_what_a_connection_names_ends_with_it_unless_it_is_a_websocket():
    assert b"X-Hop" not in heads.request_head(request("Connection: x-hop", "X-Hop: 1"), "/", PLACE)
    asked = request("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
    assert heads.request_head(asked, "/", PLACE).endswith(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")


@table("target", [b"http://x.localhost/", b"*", b"/a#b", b"/a\x80"])
def test_a_target_that_is_no_path_is_refused(target):
    with pytest.raises(clincus.ClincusError):
        openings.split_target(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")


# Answers


@table(
    ("field", "expected"),
    [
        ("Location: http://[::1]:3000?x", f"{ORIGIN}?x"),
        ("Location: http://localhost:3000.evil.example/", "http://localhost:3000.evil.example/"),
        ("Set-Cookie: a=1;Domain = .localhost;Path=/", "a=1;Path=/"),
        ("Set-Cookie: clincus-8080=x", None),
        ("Content-Security-Policy: default-src 'self'; frame-ancestors 'none'", "default-src 'self'"),
        ("Access-Control-Allow-Origin: http://localhost:3000", ORIGIN),
        ("X-Frame-Options: DENY", None),
        ("Strict-Transport-Security: max-age=9", None),
        ("Alt-Svc: h3=\":443\"", None),
        ("Clear-Site-Data: \"cookies\"", None),
    ],
)  # fmt: skip
def test_a_field_of_an_answer(field, expected):
    answer = heads.read_answer(f"HTTP/1.1 200 OK\r\n{field}".encode())
    *fields, ancestors = heads.answer_fields(answer, PLACE)
    assert fields == ([(field.partition(":")[0], expected)] if expected else [])
    assert ancestors == ("Content-Security-Policy", "frame-ancestors 'self' http://localhost:8080")


CONFINED = heads.Place(3000, "http://3000-closed-clincus-a1b2c3-1.localhost:8080", ["http://localhost:8080"], True)
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self' data: blob: ws://3000-closed-clincus-a1b2c3-1.localhost:8080; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


@table(
    ("field", "expected"),
    [
        ("Content-Security-Policy: default-src *; report-uri https://evil.example/", "default-src *"),
        ("Content-Security-Policy: Report-To x;frame-ancestors *, img-src *", " img-src *"),
        ("Content-Security-Policy-Report-Only: img-src 'none'", None),
        ("Reporting-Endpoints: x=\"https://evil.example/\"", None),
        ("Link: <https://evil.example>; rel=preconnect", None),
        ("Speculation-Rules: \"/rules\"", None),
        ("X-DNS-Prefetch-Control: on", None),
    ],
)  # fmt: skip
def test_an_answer_of_a_closed_session_leads_its_pages_nowhere_else(field, expected):
    answer = heads.read_answer(f"HTTP/1.1 200 OK\r\n{field}".encode())
    *fields, policy, prefetch, ancestors = heads.answer_fields(answer, CONFINED)
    assert fields == ([(field.partition(":")[0], expected)] if expected else [])
    assert policy == ("Content-Security-Policy", POLICY)
    assert prefetch == ("X-DNS-Prefetch-Control", "off")
    assert ancestors == ("Content-Security-Policy", "frame-ancestors 'self' http://localhost:8080")


@table(
    ("label", "is_open"),
    [("", True), ('{"mode": "open"}', True), ("{", False), ('{"mode": 1}', False)],
)  # fmt: skip
def test_a_session_with_an_unreadable_network_label_is_closed(label, is_open):
    session = a_session(network=label)
    assert session.has_open_network == is_open


@table(
    "head",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded",
        "HTTP/1.1 200 OK" + "\r\nX: a" * (heads.FIELDS_MOST + 1),
    ],
)
def test_an_answer_that_could_be_read_in_two_ways_is_none(head):
    with pytest.raises(heads.BadAnswer):
        heads.read_answer(head.encode())


def carried(said: bytes, *lines: str, first: str = "GET / HTTP/1.1") -> tuple[bytes, bool]:
    """What a browser gets of what an app said before it closed, and whether its connection goes on."""
    with contextlib.ExitStack() as stack:
        ours, browser, ours_too, app = (
            stack.enter_context(one) for one in (*socket.socketpair(), *socket.socketpair())
        )
        rfile = SimpleNamespace(raw=SimpleNamespace(allow=lambda seconds: None), peek=lambda: b"")
        connection = SimpleNamespace(connection=ours, rfile=rfile, close_connection=False)
        app.sendall(said)
        app.shutdown(socket.SHUT_WR)
        with contextlib.suppress(relay.Gone):
            relay.carry(request(*lines, first=first, connection=connection), "/", ours_too, PLACE)
        ours.shutdown(socket.SHUT_WR)
        got = b""
        while piece := browser.recv(1 << 16):
            got += piece
        return got, not connection.close_connection


@table(
    ("said", "body", "goes_on"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", b"Content-Length: 3\r\n\r\nabc", True),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 103 Hints\n\nHTTP/1.1 204 Ok\n\nx", b"\r\n", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n"
            b"2;x=y\r\nab\r\n0\r\nT: 1\r\n\r\nrest",
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"Content-Length: 9\r\n\r\nabc", False),
    ],
)
def test_bodies_get_a_framing_of_our_own(said, body, goes_on):
    got, went_on = carried(said)
    assert (got.partition(b"http://localhost:8080\r\n")[2], went_on) == (body, goes_on)


def test_a_body_has_the_time_that_its_size_takes():
    given, sent = [], []
    body = io.BytesIO(b"x" * (4 * clincus.BODY_RATE))
    rfile = SimpleNamespace(raw=SimpleNamespace(allow=given.append), read1=body.read1)
    connection = SimpleNamespace(connection=None, rfile=rfile)
    upstream = SimpleNamespace(send=lambda piece, listening: sent.append(bytes(piece)) or True)
    asked = request(f"Content-Length: {4 * clincus.BODY_RATE}", first="POST / HTTP/1.1", connection=connection)
    assert relay.send_body(asked, upstream)
    assert b"".join(sent) == body.getvalue()
    assert given == [clincus.HEAD_TIMEOUT + 4]


def test_the_apps_of_all_sessions_leave_connections_to_the_dashboard(monkeypatch):
    monkeypatch.setattr(openings, "IN_ALL_MOST", 2)
    previews = preview.Previews(None)
    refused = []

    def ask(*_: object) -> None:  # another page asks meanwhile
        try:
            previews._carry(opening(), request(), "/", ORIGIN)
        except clincus.ClincusError as error:
            refused.append(error.status)

    monkeypatch.setattr(previews, "_ask", ask)
    for _ in range(2):  # what has ended leaves its place
        previews._carry(opening(), request(), "/", ORIGIN)
    assert refused == [503, 503]


@table(
    ("said", "words"),
    [
        (b"", "Nothing answers"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "nobody asked for"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000, "larger than"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 5000, "larger than"),
    ],
)
def test_an_answer_that_cannot_go_on_is_explained(said, words):
    with pytest.raises(relay.Unanswered, match=words):
        carried(said)


# Who may come in


@table("label", ['{"mode": "none"}', ""])
def test_an_opening_ends_when_the_network_is_closed_or_opened(label):
    before = a_session(network=label)
    after = before._replace(network='{"mode": "open"}' if label else '{"mode": "allow-list"}')
    previews, one = preview.Previews(None), opening()
    one.is_confined = bool(label)
    previews._openings[before.id, 3000] = previews._labels[one.label] = one
    previews.hear("changed", before)
    assert not one.is_closed
    previews.hear("changed", after)
    assert one.is_closed
    assert previews._labels == {}


def opening() -> openings.Opening:
    door = doors.CommandDoor(clincus.Incus(), "clincus-a1b2c3-1", "127.0.0.1", 3000, 1000)
    return openings.Opening("clincus-a1b2c3-1", 3000, door, "127.0.0.1")


def admitted(
    *lines: str, one: openings.Opening | None, target: str = "/", token: str = "", method: str = "GET"
) -> bool:
    with contextlib.suppress(clincus.ClincusError):
        return openings.admit(token, one, request(*lines, first=f"{method} / HTTP/1.1"), target, ORIGIN)
    return False


@table(
    ("method", "site", "mode", "may"),
    [
        ("GET", "cross-site", "navigate", True),
        ("POST", "same-site", "navigate", False),
        ("GET", "cross-site", "no-cors", False),
        ("POST", "same-origin", "cors", True),
    ],
)
def test_a_page_elsewhere_may_link_to_an_app_and_ask_it_for_nothing(method, site, mode, may):
    one = opening()
    fields = (f"Cookie: clincus-preview-8080={one.secret}", f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}")
    assert admitted(*fields, one=one, method=method) is may


def test_the_cookie_lets_in_beside_what_the_app_has_tossed():
    one = opening()
    cookie = f"Cookie: clincus-preview-8080=tossed; clincus-framed-8080={one.secret}"
    assert admitted(cookie, one=one)
    assert not admitted("Cookie: clincus-preview-8080=tossed", one=one)
    assert not admitted(f"Cookie: other={one.secret}", one=one)
    assert not admitted(cookie, one=opening())
    one.end()
    assert not admitted(cookie, one=one)


def test_the_dashboards_token_is_never_passed_on():
    one, token = opening(), "t" * 22
    cookie = f"Cookie: clincus-preview-8080={one.secret}"
    assert admitted(cookie, one=one, token=token)
    assert not admitted(cookie, f"Authorization: Bearer {token}", one=one, token=token)
    assert not admitted(cookie, one=one, token=token, target=f"/?token={token}")


def test_a_ticket_holds_once_and_not_for_ever(monkeypatch):
    one, now = opening(), [1000.0]
    monkeypatch.setattr(openings, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tickets = [one.link(ORIGIN).partition("ticket=")[2] for _ in range(openings.TICKETS_MOST + 1)]
    assert not one.take_ticket(tickets[0]), "too many have followed"
    assert one.take_ticket(tickets[1])
    assert not one.take_ticket(tickets[1])
    now[0] += openings.TICKET_HOLDS + 1
    assert not one.take_ticket(tickets[2])


def test_an_opening_takes_only_so_many_connections_and_ends_them_when_it_ends():
    one = opening()
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(openings.CONNECTIONS_MOST)]
        for pair in pairs:
            stack.enter_context(one.holding(*map(stack.enter_context, pair)))
        with pytest.raises(clincus.ClincusError, match="Too many"), one.holding():
            pass
    ours, theirs = socket.socketpair()
    with ours, theirs, one.holding(ours):
        ender = threading.Thread(target=one.end)
        ender.start()
        assert theirs.recv(1) == b""
    ender.join(DEADLINE)


@table(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_command_carries_bytes_both_ways_and_ends_with_its_connection(family, address):
    incus = SimpleNamespace(exec_argv=lambda id, command, user: command)
    with socket.create_server((address, 0), family=family) as server:
        door = doors.CommandDoor(incus, "", address, server.getsockname()[1], 1000)  # type: ignore[arg-type]
        with door.connected() as stream:
            app, _ = server.accept()
            with app:
                stream.sendall(b"question")
                assert app.recv(8, socket.MSG_WAITALL) == b"question"
                app.sendall(b"answer")
                assert stream.recv(6, socket.MSG_WAITALL) == b"answer"
            assert stream.recv(1) == b"", "the app has hung up"
        with door.connected(), server.accept()[0] as app:
            pass
    with pytest.raises(OSError, match="nothing answers"), door.connected():
        pass


LOST = "Error: Failed to retrieve PID of executing child process"


@table(
    ("false_starts", "words", "starts", "is_connected"),
    [(2, LOST, 3, True), (1, "Error: Instance is not running", 1, False)],
)
def test_a_relay_that_incus_lost_at_its_start_is_started_again(tmp_path, false_starts, words, starts, is_connected):
    count = f"echo >>{tmp_path}/starts; [ $(wc -l <{tmp_path}/starts) -gt {false_starts} ]"
    script = f"{count} || {{ echo '{words}' >&2; exit 1; }}; printf +; exec cat"
    incus = SimpleNamespace(exec_argv=lambda id, command, user: ["sh", "-c", script])
    door = doors.CommandDoor(incus, "", "127.0.0.1", 80, 1000)  # type: ignore[arg-type]
    refused = contextlib.nullcontext() if is_connected else pytest.raises(ConnectionRefusedError)
    with refused, door.connected() as stream:
        stream.sendall(b"echo")
        assert stream.recv(4, socket.MSG_WAITALL) == b"echo"
    assert (tmp_path / "starts").read_text() == "\n" * starts


def test_a_device_that_a_killed_server_left_is_taken_away(tmp_path):
    removed: list[tuple[str, ...]] = []
    incus = SimpleNamespace(place=str, run=lambda *words: removed.append(words))
    gone = 2**22 + 1  # no process has this number (proc(5), pid_max)
    for pid in (gone, os.getpid()):
        (tmp_path / f"{pid}.3000.clincus-a1b2c3-1.mark").touch()
    doors.sweep(incus, str(tmp_path))  # type: ignore[arg-type]
    assert removed == [("config", "device", "remove", "clincus-a1b2c3-1", f"clincus-preview-{gone}-3000")]
    assert os.listdir(tmp_path) == [f"{os.getpid()}.3000.clincus-a1b2c3-1.mark"]
