"""The proxy of allow-list mode: real sockets on loopback, and a resolver of the test's own."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from clincus_features.network import link as links
from clincus_features.network import proxy as proxies
from clincus_features.network.policy import Policy
from clincus_features.network.records import Records
from tests.programs import DEADLINE, wait_until
from tests.table import table
from tests.unit.test_network_policy import hello

LOOPBACK = [ipaddress.ip_network("127.0.0.1/32")]
POLICY = Policy("allow-list", ("a.example", "b.example", "a.example:7", "*.wide.example"), has_proxy=True)


class Upstream:
    """A server that sends back what it gets, after a word of its own for each connection; its port is any name's."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.threads.append(threading.Thread(target=self.one, args=(connection,), daemon=True))
            self.threads[-1].start()

    def one(self, connection: socket.socket) -> None:
        at = len(self.got)
        self.got.append(b"")
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.got[at] += data
                connection.sendall(b"echo " + data)
        connection.close()

    def close(self) -> None:
        """End the listener; its connections end with those of the proxy."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(DEADLINE)


class Road:
    """A proxy with one session, and connections to it as a program in the container makes them."""

    def __init__(self, folder: str, upstream: Upstream | None = None, policy: Policy = POLICY, **more: Any) -> None:
        self.upstream = upstream or Upstream()
        self.addresses = {"a.example": "127.0.0.1"}
        self.asked: list[str] = []
        self.ends: list[socket.socket] = []  # of programs in the container
        self.answers = threading.Event()  # names that begin with "slow." are answered then
        more = {"resolve": self.resolve, "reachable": lambda: LOOPBACK, **more}
        self.proxy = proxies.Proxy(lambda id: f"{folder}/{id}", **more)
        self.path, self.is_over = f"{folder}/one", False
        self.proxy.want("one", policy)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while not self.is_over:
            self.proxy.serve_round()
        self.proxy.close()

    def close(self) -> None:
        self.answers.set()
        self.is_over = True
        self.proxy.wake()
        self.thread.join(DEADLINE)
        self.upstream.close()
        for connection in self.ends:
            connection.close()
        self.upstream.join()
        for thread in threading.enumerate():
            if thread.name == "looking up names":
                thread.join(DEADLINE)

    def resolve(self, host: str, port: int) -> links.Found:
        self.asked.append(host)
        if host.startswith("slow."):
            assert self.answers.wait(DEADLINE)
        address = self.addresses.get(host, "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, self.upstream.port))]

    def connect(self, session: str = "one") -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        self.ends.append(connection)
        connection.settimeout(DEADLINE)
        path = self.path.replace("one", session)
        wait_until(lambda: connection.connect_ex(path) == 0, "the proxy's socket")
        return connection

    def asking(self, target: str = "a.example:443", session: str = "one") -> socket.socket:
        connection = self.connect(session)
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        return connection

    def tunnel(self, target: str = "a.example:443", session: str = "one") -> socket.socket:
        connection = self.asking(target, session)
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        return connection

    def connect_fails(self, session: str) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            return connection.connect_ex(self.path.replace("one", session)) != 0

    def refusals(self) -> list[tuple[object, ...]]:
        rows = self.proxy.records("one").documents()["refused"]
        return [(row["host"], row["port"], row["count"]) for row in rows]

    def refusal_count(self) -> int:
        return sum(count for _, _, count in self.refusals())


def read_until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end):
        data = connection.recv(1)
        if not data:
            break
        found += data
    return found


def rest(connection: socket.socket) -> bytes:
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


@pytest.fixture
def road(tmp_path_factory) -> Iterator[Road]:
    made = Road(str(tmp_path_factory.mktemp("s")))
    yield made
    made.close()


def test_tls_to_an_allowed_name_passes_both_ways_and_is_counted(road):
    """The name is looked up once, so no second answer can lead elsewhere than the one that was checked."""
    tunnel, greeting = road.tunnel(), hello("a.example")
    road.addresses["a.example"] = "10.1.2.3"
    tunnel.sendall(greeting[:50])
    tunnel.sendall(greeting[50:] + b"more")
    wait_until(lambda: b"".join(road.upstream.got) == greeting + b"more", "the bytes to arrive")
    tunnel.shutdown(socket.SHUT_WR)
    assert b"more" in rest(tunnel)
    (row,) = road.proxy.records("one").documents()["passed"]
    assert (row["host"], row["port"], row["count"], row["sent"]) == ("a.example", 443, 1, len(greeting) + 4)
    assert row["received"] > row["sent"]
    assert road.asked == ["a.example"]


@table(
    ("request_line", "status", "host"),
    [
        ("CONNECT evil.example:443", 403, "evil.example"),
        ("CONNECT a.example:22", 403, "a.example"),
        ("GET http://wide.example/", 403, "wide.example"),
        ("GET http://[fd00:EC2::254]/latest", 403, "fd00:ec2::254"),
        ("nonsense", 400, None),
    ],
)
def test_what_is_not_on_the_list_is_refused_and_never_looked_up(road, request_line, status, host):
    connection = road.connect()
    connection.sendall(f"{request_line} HTTP/1.1\r\n\r\n".encode())
    assert rest(connection).startswith(f"HTTP/1.1 {status} ".encode())
    assert road.asked == []
    assert host is None or host in [one[0] for one in road.refusals()]


@table("address", ["169.254.169.254", "127.0.0.2"])
def test_a_name_that_leads_to_a_private_address_is_refused(road, address):
    road.addresses["a.example"] = address
    before = road.refusal_count()
    assert b"is not an address of the public internet" in rest(road.asking())
    assert road.refusal_count() == before + 1


@table(
    ("target", "sent"),
    [
        ("a.example:443", hello("b.example")),
        ("a.example:443", hello(None)),
        ("a.example:443", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("a.example:80", b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n"),
        ("a.example:7", hello("b.example")),
    ],
)
def test_a_tunnel_to_one_host_carries_nothing_for_another(road, target, sent):
    before = road.refusal_count()
    tunnel = road.tunnel(target)
    tunnel.sendall(sent)
    assert rest(tunnel) == b""
    assert b"".join(road.upstream.got) == b""
    assert road.refusal_count() == before + 1


@table("is_tunnel", [False, True])
@table(("field", "body"), [("Content-Length: 4", b"body"), ("Transfer-Encoding: chunked", b"4\r\nbody\r\n0\r\n\r\n")])
def test_a_plain_connection_carries_one_request(road, is_tunnel, field, body):
    road.upstream.got.clear()
    connection = road.tunnel("a.example:80") if is_tunnel else road.connect()
    place = "" if is_tunnel else "http://a.example"
    first = f"POST {place}/x HTTP/1.1\r\nHost: a.example\r\n{field}\r\n\r\n"
    connection.sendall(first.encode() + body[:5])
    wait_until(lambda: body[:5] in b"".join(road.upstream.got), "the first part to arrive")
    connection.sendall(body[5:] + b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
    wait_until(lambda: b"".join(road.upstream.got).endswith(body), "the rest")
    connection.sendall(b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
    road.upstream.connections[-1].shutdown(socket.SHUT_RDWR)
    assert b"echo POST /x" in rest(connection)
    assert b"b.example" not in b"".join(road.upstream.got)


@table("is_tunnel", [False, True])
def test_a_plain_request_that_a_feature_refuses_gets_to_no_server(road, is_tunnel):
    asked: list[tuple[str, str, int]] = []

    def check(session: str, host: str, port: int, head: bytes) -> str:
        asked.append((session, host, port))
        return "not with that" if b"secret" in head else ""

    road.proxy.head_check = check
    connection = road.tunnel("a.example:80") if is_tunnel else road.connect()
    target = "/" if is_tunnel else "http://a.example/"
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a.example\r\nX-Key: secret\r\n\r\n".encode())
    assert (b"not with that" in rest(connection)) is not is_tunnel
    assert asked == [("one", "a.example", 80)]
    assert not any(road.upstream.got)


UPGRADE = b"GET http://a.example/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
AGREED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching\r\nA: b\r\n\r\nfirst"
DENIED = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nfirst"


@table("answer", [AGREED, DENIED])
def test_a_websocket_passes_both_ways_if_the_server_agrees_and_nothing_more_passes_otherwise(road, answer):
    connection = road.connect()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        road.upstream.port = listener.getsockname()[1]
        connection.sendall(UPGRADE + b"early")
        server, _ = listener.accept()
    with server:
        server.settimeout(DEADLINE)
        assert b"\r\nConnection: Upgrade" in read_until(server, b"\r\n\r\n")
        server.sendall(answer)
        said = read_until(connection, b"first")
        connection.sendall(b"later")
        if answer is AGREED:
            assert said == AGREED
            assert read_until(server, b"later") == b"earlylater"
        else:
            assert b"\r\nConnection: close\r\n" in said
            server.shutdown(socket.SHUT_WR)
            assert rest(connection) == rest(server) == b""


def test_a_name_that_is_taken_off_the_list_loses_its_connections(road):
    gone, stays = road.tunnel("b.example:443"), road.tunnel("a.example:443")
    for tunnel, name in ((gone, "b.example"), (stays, "a.example")):
        tunnel.sendall(hello(name))
        assert tunnel.recv(5) == b"echo "
    road.proxy.want("one", Policy("allow-list", ("a.example",), has_proxy=True))
    rest(gone)
    stays.sendall(b"still here")
    assert read_until(stays, b"still here").endswith(b"still here")
    road.proxy.want("one", None)
    rest(stays)
    assert road.connect_fails("one")


@table("target", ["lan.example:443", "93.184.216.34:443"])
def test_a_session_that_was_opened_since_its_start_keeps_the_limits_of_its_proxy(road, target):
    road.proxy.want("one", Policy("open", has_proxy=True))
    road.addresses["lan.example"] = "10.1.2.3"
    connection = road.asking(target)
    assert read_until(connection, b"\r\n").startswith(b"HTTP/1.1 403 ")
    road.tunnel("anything.example:443").close()


def test_a_network_that_is_not_reachable_any_more_loses_its_connections(road, monkeypatch):
    tunnel = road.tunnel("a.example:7")
    monkeypatch.setattr(road.proxy, "_reachable", lambda: [ipaddress.ip_network("10.0.0.0/8")])
    assert rest(tunnel) == b""
    road.connect().close()


def test_connections_past_the_bound_are_told_so_and_the_others_go_on(road, monkeypatch):
    monkeypatch.setattr(proxies, "MOST_OF_SESSION", 3)
    road.proxy.want("two", POLICY)
    kept = [road.tunnel() for _ in range(3)]
    assert b"503" in rest(road.connect())
    road.tunnel(session="two").close()
    kept.pop().close()
    wait_until(lambda: road.proxy.count() == 2, "the place to be free")
    tunnel = road.tunnel()
    tunnel.sendall(hello("a.example"))
    assert tunnel.recv(4) == b"echo"


def test_connections_of_all_sessions_have_a_bound(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(proxies, "MOST_IN_ALL", 4)  # one session leaves as many free as it has
    made = Road(str(tmp_path_factory.mktemp("s")))
    kept = [made.tunnel() for _ in range(2)]
    assert b"503" in rest(made.connect())
    kept.pop().close()
    wait_until(lambda: made.proxy.count() == 1, "the place to be free")
    made.tunnel()
    made.close()


def test_a_connection_has_a_day_however_busy_it_is(road, monkeypatch):
    day, later = 24 * 3600, [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later[0])
    monkeypatch.setattr(links, "IDLE_WITHIN", 9 * day)
    monkeypatch.setattr(links, "time", clock)
    monkeypatch.setattr(proxies, "time", clock)
    tunnel = road.tunnel("a.example:7")
    for later[0], lives in ((day - 3600, True), (day + 3600, False)):
        road.tunnel("a.example:7").close()
        if lives:
            tunnel.sendall(b"~")
            assert read_until(tunnel, b"~").endswith(b"~")
    assert rest(tunnel) == b""


@table("sent", [b"", b"CONNECT a.example:443 HTTP/1.1\r\n\r\n\x16\x03"])
def test_who_is_slow_to_say_what_he_wants_is_left(road, monkeypatch, sent):
    monkeypatch.setattr(links, "ASK_WITHIN", 0.2)
    monkeypatch.setattr(links, "LINGER", 0.2)
    connection = road.connect()
    connection.sendall(sent)
    rest(connection)
    wait_until(lambda: road.proxy.count() == 0, "the end of the connection")


def test_a_side_that_does_not_read_holds_up_no_more_than_a_bounded_part(road):
    tunnel = road.tunnel("a.example:7")
    tunnel.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 1 << 24:
            sent += tunnel.send(b"y" * 65536)
    other = road.tunnel("a.example:7")
    other.sendall(b"hi there, all\r\n")
    assert read_until(other, b"\n") == b"echo hi there, all\r\n"
    assert sent < 1 << 24


def test_an_address_that_does_not_answer_is_told(road):
    road.upstream.close()
    assert b"no connection to a.example: Connection refused" in rest(road.asking())
    assert road.refusals() == [], "nobody has forbidden it"


def test_the_slow_names_of_one_session_hold_up_no_other(road):
    road.proxy.want("two", POLICY)
    waiting = [road.asking("slow.wide.example:443") for _ in range(12)]
    wait_until(lambda: "slow.wide.example" in road.asked, "the first question")
    road.tunnel(session="two")
    road.answers.set()
    for connection in waiting:
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_proxy_that_is_closed_leaves_no_file_open_and_may_be_woken_still():
    before = len(os.listdir("/proc/self/fd"))
    proxy = proxies.Proxy(str)
    assert len(os.listdir("/proc/self/fd")) > before
    proxy.close()
    proxy.wake()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_rows_are_bounded():
    records = Records()
    for number in range(1000):
        records.refuse(f"h{number}.example", 443, "no")
        records.passage(f"h{number}.example", 443)
    assert {name: len(records.documents()[name]) for name in ("refused", "passed")} == {"refused": 200, "passed": 200}
    assert records.unseen == 1000
