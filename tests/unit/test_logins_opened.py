"""Connections that are opened, through the real proxy: real TLS on both sides, on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clincus_features.logins import exchange as exchanges
from clincus_features.logins import opened as openeds
from clincus_features.logins.authority import make_certificates
from clincus_features.logins.exchange import Exchange
from clincus_features.logins.lending import Loan
from clincus_features.logins.settings import Host
from clincus_features.logins.sources import Secret, SourceError
from clincus_features.logins.vault import Found
from clincus_features.network.policy import Policy
from tests.programs import DEADLINE, wait_until
from tests.unit import test_network_proxy as network
from tests.unit.test_logins_lending import VALUE, Heard, a_loan
from tests.unit.test_network_proxy import Upstream, read_until, rest

HOST = "a.example"
LOAN = a_loan("token", "Bearer {secret}", host=HOST)
REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {LOAN.placeholder}\r\n\r\n".encode()


class Vendor(Upstream):
    """A server over TLS that notes what it gets; a test says what it answers to each request."""

    def __init__(self, folder: Path) -> None:
        made = make_certificates([Host(HOST), Host("b.example")], dict(os.environ), str(folder))
        (folder / "vendor.pem").write_text(made.key + made.chain)
        (folder / "trust.pem").write_text(made.authority)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "vendor.pem")
        self.serve: Callable[[ssl.SSLSocket], None] = self.echo
        super().__init__()

    def one(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        with contextlib.suppress(OSError), self.context.wrap_socket(connection, server_side=True) as tls:
            self.serve(tls)

    def echo(self, tls: ssl.SSLSocket) -> None:
        while head := read_until(tls, b"\r\n\r\n"):
            self.got.append(head)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))


class Road(network.Road):
    """A proxy with one session that borrows a login, and TLS of programs in there."""

    def __init__(self, folder: Path, vendor: Vendor | None = None) -> None:
        vendor = vendor or Vendor(folder)
        made = make_certificates([Host(HOST)], dict(os.environ), str(folder))
        (folder / "session.pem").write_text(made.key + made.chain)
        self.trust = ssl.create_default_context(cadata=made.authority)
        self.vendors_trust = ssl.create_default_context(cafile=folder / "trust.pem")
        self.contexts = (openeds.session_context(str(folder / "session.pem")), self.vendors_trust)
        self.found: Found = Secret(VALUE)
        self.alarms: list[tuple[str, str]] = []
        self.opened: list[openeds.Opened] = []
        super().__init__(str(folder), vendor, Policy("open", has_proxy=True), opener=self.open)

    @property
    def vendor(self) -> Vendor:
        return self.upstream

    def open(self, id, host, port, later):
        if not LOAN.login.is_for(host, port):
            return None
        heard = Heard()
        heard.alarms = self.alarms
        exchange = Exchange((host, port), [LOAN], heard)
        self.opened.append(openeds.Opened(exchange, self.contexts, host, self, later))
        return self.opened[-1]

    def ask(self, loan: Loan, take: Callable[[Found], None]) -> None:
        threading.Thread(target=lambda: take(self.found), daemon=True).start()

    def tls(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(self.tunnel(f"{HOST}:443"), server_hostname=HOST)


@pytest.fixture
def road(tmp_path_factory) -> Iterator[Road]:
    made = Road(tmp_path_factory.mktemp("s"))
    yield made
    made.close()


def said(tls: ssl.SSLSocket) -> bytes:
    head = read_until(tls, b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        piece = tls.recv(length - len(body))
        assert piece
        body += piece
    return head + body


def test_the_server_gets_the_value_and_the_program_does_not_see_it(road):
    with road.tls() as tls:
        for number in (1, 2, 3):
            tls.sendall(REQUEST)
            answer = said(tls)
            assert f"Authorization: Bearer {VALUE}\r\n".encode() in road.vendor.got[-1]
            assert b"Authorization: Bearer " + b"*" * len(VALUE) in answer
            assert len(road.vendor.got) == number
    assert road.alarms == []


def test_other_hosts_are_tunnelled_untouched(road):
    with road.vendors_trust.wrap_socket(road.tunnel("b.example:443"), server_hostname="b.example") as tls:
        tls.sendall(REQUEST)
        assert said(tls).endswith(REQUEST)
    assert road.opened == []


def test_a_name_in_tls_that_is_not_the_one_of_the_tunnel_is_refused(road):
    with road.tunnel("b.example:443") as tunnel, pytest.raises((ssl.SSLError, OSError)):
        road.trust.wrap_socket(tunnel, server_hostname=HOST)
    assert road.vendor.got == []


def test_a_server_that_this_host_does_not_trust_gets_nothing(road):
    road.contexts = (road.contexts[0], ssl.create_default_context())
    with road.tls() as tls:
        tls.sendall(REQUEST)
        assert b"there is no safe connection to a.example: self" in said(tls).replace(b"-", b" ")
    assert road.vendor.got == []


def test_a_program_that_does_not_trust_the_session_is_told_to_people(road):
    with road.tunnel() as tunnel, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(tunnel, server_hostname=HOST)
    wait_until(lambda: road.proxy.records("one").documents()["refused"], "the words")
    (row,) = road.proxy.records("one").documents()["refused"]
    assert "does not take Clincus's certificate for a.example" in str(row["reason"])


def test_a_failure_of_ours_does_not_tell_a_value(road, monkeypatch):
    """Its reason is in the API and on the page; an error of an encoding has the whole text."""
    monkeypatch.setattr(exchanges, "filled", lambda *_: f"{VALUE} €".encode("latin-1"))
    with road.tls() as tls:
        tls.sendall(REQUEST)
        with contextlib.suppress(OSError):
            assert rest(tls) == b""
    wait_until(lambda: road.proxy.records("one").documents()["refused"], "the words")
    (row,) = road.proxy.records("one").documents()["refused"]
    assert row["reason"] == "the proxy failed: UnicodeEncodeError"


def test_a_value_that_cannot_be_read_is_told_to_the_tool(road):
    road.found = SourceError("there is no file /x")
    with road.tls() as tls:
        tls.sendall(REQUEST)
        assert b"the login token cannot be lent: there is no file /x" in said(tls)
    assert road.vendor.got == []


def test_bodies_pass_both_ways_whole(road):
    sent = os.urandom(3 << 20)
    back: list[bytes] = []

    def serve(tls: ssl.SSLSocket) -> None:
        read_until(tls, b"\r\n\r\n")
        while sum(map(len, back)) < len(sent):
            back.append(tls.recv(1 << 16))
            assert back[-1]
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent)

    road.vendor.serve = serve
    with road.tls() as tls:
        head = REQUEST.replace(b"GET", b"POST")[:-2] + b"Content-Length: %d\r\n\r\n" % len(sent)
        tls.sendall(head + sent)
        assert said(tls).endswith(sent)
    assert b"".join(back) == sent


def test_events_come_as_they_are_sent_and_end_when_the_login_is_revoked(road):
    is_next = threading.Event()

    def serve(tls: ssl.SSLSocket) -> None:
        read_until(tls, b"\r\n\r\n")
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
        assert is_next.wait(DEADLINE)
        tls.sendall(b"data: two\n\n")
        tls.recv(1)

    road.vendor.serve = serve
    with road.tls() as tls:
        tls.sendall(REQUEST)
        assert read_until(tls, b"one\n\n").startswith(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
        is_next.set()
        assert read_until(tls, b"two\n\n") == b"data: two\n\n"
        road.opened[0].end_loan("another", "it is revoked")
        road.opened[0].end_loan("token", "the login token is revoked")
        with contextlib.suppress(OSError):
            assert rest(tls) == b""
        wait_until(lambda: road.proxy.count() == 0, "the end of the connection")
