"""What root in a container tries with the placeholders of its session, on a real Incus: no secret comes of it."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from login_box import ADDRESS, SEARCH, Box, Vendor, vendor_context, write_certificates
from network_box import command_with_hosts

from tests.more_tools import mounts
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API, OTHER = "api.anthropic.com", "other.example"  # two names of one address
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["anthropic"]
[logins.anthropic]
from = {{ env = "REAL_KEY" }}
"""


class Raw(BaseHTTPRequestHandler):
    """Notes all bytes that come, and answers each connection once."""

    server: Any

    def handle(self) -> None:
        data = b""
        self.connection.settimeout(2.0)
        try:
            while piece := self.connection.recv(65536):
                data += piece
                if b"\r\n\r\n" in data:
                    break
            body = json.dumps(data.decode("latin-1")).encode()
            fields = f"Location: https://{OTHER}/\r\nSet-Cookie: session=of-the-server\r\n"
            if data.startswith(b"GET /compressed "):
                body, fields = gzip.compress(body), "Content-Encoding: gzip\r\n"
            if data.startswith(b"GET /echoed "):  # in heads, before the answer too
                key = data.lower().partition(b"x-api-key: ")[2].partition(b"\r\n")[0].decode("latin-1")
                self.connection.sendall(f"HTTP/1.1 103 Early Hints\r\nLink: </{key}>\r\n\r\n".encode())
                fields = f"Location: https://{OTHER}/?key={key}\r\n"
            head = f"HTTP/1.1 302 Found\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
            if data:  # a connection may end without a word
                self.server.came.append(data)
            self.connection.sendall(head.encode() + body)
            while piece := self.connection.recv(65536):
                self.server.came.append(piece)
        except OSError:
            pass


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Any]:
    folder = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(folder, (API, OTHER), ADDRESS)
    made: Any = Vendor(vendor_context(folder), ADDRESS, Raw)
    made.came, made.folder = [], folder
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG + mounts("curl", "/opt/tools/curl"),
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem"), "REAL_KEY": KEY},
    )
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session, vendor) -> Box:
    return Box(bed, server, keep_session(server, tool="shell", folder="one")["id"])


@pytest.fixture(scope="module")
def other(bed, server, keep_session, vendor) -> Box:
    return Box(bed, server, keep_session(server, tool="shell", folder="two")["id"])


class Attack(NamedTuple):
    """What is sent over TLS; `{it}` is the placeholder, and `{percent}`, `{base64}` and `{basic}` are forms of it."""

    text: str
    answer: str  # what the program reads
    alarm: str = ""  # where the placeholder was
    connect: str = API
    name: str = API  # in the ClientHello


def request(*lines: str, first: str = "GET / HTTP/1.1", host: str = API, body: str = "") -> str:
    return "\r\n".join([first, f"Host: {host}", *lines, "", body])


FIELD = "X-Api-Key: {it}"
ATTACKS = {
    "query": Attack(request(first="GET /?key={it} HTTP/1.1"), "in the address", "in the address"),
    "path": Attack(request(first="GET /a/{it}/b HTTP/1.1"), "in the address", "in the address"),
    "another header": Attack(request("Cookie: key={it}"), "in the header cookie", "in the header cookie"),
    "another form": Attack(request("X-Api-Key: Bearer {it}"), "in the header x-api-key", "in the header x-api-key"),
    "the name of a header": Attack(request("{it}: x"), "in the header", "in the header {it}"),
    "twice": Attack(request(FIELD, FIELD), "comes twice"),
    "Host": Attack(request(FIELD, host=OTHER), f"the Host header must be {API}"),
    "a dot behind the Host": Attack(request(FIELD, host=f"{API}."), f"the Host header must be {API}"),
    "a user before the Host": Attack(request(FIELD, host=f"{OTHER}@{API}"), f"the Host header must be {API}"),
    "two Hosts": Attack(request(FIELD, f"Host: {OTHER}"), f"the Host header must be {API}"),
    "another port": Attack(request(FIELD, host=f"{API}:8443"), f"the Host header must be {API}"),
    "a whole address": Attack(request(FIELD, first=f"GET https://{OTHER}/ HTTP/1.1"), "must begin with /"),
    "a user in a whole address": Attack(
        request(FIELD, first=f"GET https://{API}@{OTHER}/ HTTP/1.1"), "must begin with /"
    ),
    "percent-encoded": Attack(request(first="GET /?key={percent} HTTP/1.1"), "in the address", "in the address"),
    "in base64": Attack(request("Cookie: key={base64}"), "in the header cookie", "in the header cookie"),
    "as the password of Basic": Attack(
        request("Authorization: Basic {basic}"), "in the header authorization", "in the header authorization"
    ),
    "a tunnel in the tunnel": Attack(
        request(FIELD, first=f"CONNECT {OTHER}:443 HTTP/1.1"), "the method CONNECT is not passed"
    ),
    "TRACE": Attack(request(FIELD, first="TRACE / HTTP/1.1"), "the method TRACE is not passed"),
    "HTTP/1.0": Attack(request(FIELD, first="GET / HTTP/1.0"), "not well-formed HTTP/1.1"),
    "HTTP/2": Attack("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not well-formed HTTP/1.1"),
    "length and chunks": Attack(
        request(FIELD, "Content-Length: 5", "Transfer-Encoding: chunked", first="POST / HTTP/1.1", body="0\r\n\r\n"),
        "either Content-Length or Transfer-Encoding",
    ),
    "two lengths": Attack(
        request(FIELD, "Content-Length: 1", "Content-Length: 2", first="POST / HTTP/1.1", body="xx"),
        "Content-Length must be one number",
    ),
    "a strange coding": Attack(
        request(FIELD, "Transfer-Encoding: xchunked", first="POST / HTTP/1.1", body="0\r\n\r\n"),
        "either Content-Length",
    ),
    "chunked twice": Attack(
        request(FIELD, "Transfer-Encoding: chunked, chunked", first="POST / HTTP/1.1", body="0\r\n\r\n"),
        "either Content-Length",
    ),
    "a coding behind a vertical tab": Attack(
        request(FIELD, "Transfer-Encoding: \x0bchunked", first="POST / HTTP/1.1", body="0\r\n\r\n"), "not well-formed"
    ),
    "a length with a sign": Attack(
        request(FIELD, "Content-Length: +1", first="POST / HTTP/1.1", body="x"), "Content-Length must be one number"
    ),
    "the size of a chunk with a sign": Attack(
        request("Transfer-Encoding: chunked", first="POST / HTTP/1.1", body="+1\r\nx\r\n0\r\n\r\n"), "not in chunks"
    ),
    "a field that ends in a return alone": Attack(request("X-A: b\rX-Api-Key: {it}"), "not well-formed"),
    "a NUL": Attack(request("X-Api-Key: {it}\0"), "not well-formed"),
    "a folded field": Attack(request("X-A: b\r\n X-Api-Key: {it}"), "not well-formed"),
    "a blank before the colon": Attack(request("X-Api-Key : {it}"), "not well-formed"),
    "a bare line feed": Attack(request("X-A: b\nX-Api-Key: {it}"), "not well-formed"),
    "a trailer": Attack(
        request(
            "Transfer-Encoding: chunked",
            first="POST / HTTP/1.1",
            body="1\r\nx\r\n0\r\nX-Api-Key: {it}\r\n\r\n",
        ),
        "a trailer is not passed",
    ),
    "a line feed in what follows the size of a chunk": Attack(
        request(FIELD, "Transfer-Encoding: chunked", first="POST / HTTP/1.1", body="1;a\nb\r\nx\r\n0\r\n\r\n"),
        "not in chunks",
    ),
    "an expectation in two readings": Attack(
        request(FIELD, "Expect: y 100-continue", "Content-Length: 1", first="POST / HTTP/1.1", body="x"),
        "may expect nothing but 100-continue",
    ),
    "a head without end": Attack(request(FIELD, "X-A: " + "a" * 70_000), "more than 64 KiB"),
    "another name in the ClientHello": Attack(request(FIELD), "", connect=API, name=OTHER),
    "another name in the tunnel": Attack(request(FIELD), "", connect=OTHER, name=API),
    "an address": Attack(request(FIELD), "", connect=ADDRESS, name=API),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_no_value_anywhere(box, server, vendor, name):
    attack = ATTACKS[name]
    it = box.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    forms = {
        "it": it,
        "percent": "".join(f"%{ord(sign):02x}" for sign in it),
        "base64": base64.b64encode(it.encode()).decode(),
        "basic": base64.b64encode(f"me:{it}".encode()).decode(),
    }
    text = attack.text
    for form, value in forms.items():
        text = text.replace(f"{{{form}}}", value)
    said = box.exchange(attack.connect, text, server_name=attack.name, connect=attack.connect)
    assert attack.answer in said
    assert KEY.encode() not in b"".join(vendor.came)
    assert KEY not in said
    if attack.alarm:
        where = attack.alarm.replace("{it}", it)
        alarms = server.get(f"/api/sessions/{box.id}/network").json["alarms"]
        assert ("anthropic", where, API) in [(one["login"], one["where"], one["host"]) for one in alarms]


def test_what_comes_after_a_request_is_a_request_of_its_own(box, vendor):
    """Which is read as strictly: nothing is smuggled behind the one that has a value."""
    it = box.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    body = request(FIELD.replace("{it}", it), first="GET /smuggled HTTP/1.1", host=OTHER)
    text = request(f"X-Api-Key: {it}", "Content-Length: 0", first="POST / HTTP/1.1") + body
    said = box.exchange(API, text)
    assert f"the Host header must be {API}" in said
    assert b"smuggled" not in b"".join(vendor.came)


def test_a_redirect_is_followed_with_a_placeholder_at_most(box, vendor):
    """The answer to a request with the value leads to another host: what goes there has none."""
    it = box.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    said = box.ask(API, f"X-Api-Key: {it}")
    assert f"Location: https://{OTHER}/" in said
    assert KEY.encode() in vendor.came[0]
    vendor.came.clear()
    box.shell(f"/opt/tools/curl/curl -sk -m 20 -H 'X-Api-Key: {it}' https://{OTHER}/ || true")
    assert it.encode() in vendor.came[0]
    assert KEY.encode() not in b"".join(vendor.came)


def test_a_value_in_the_head_of_an_answer_does_not_come_in(box, vendor):
    vendor.came.clear()
    said = box.ask(API, f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}", target="/echoed")
    assert KEY.encode() in vendor.came[0]
    assert f"Link: </{'*' * len(KEY)}>" in said
    assert f"Location: https://{OTHER}/?key={'*' * len(KEY)}" in said
    assert KEY.lower() not in said.lower()


def test_a_server_is_not_asked_for_a_value_in_parts_or_in_other_letters(box, vendor):
    """A server that gives parts shows the value in two answers; none of them has all of it."""
    asked = ("Range: bytes=0-30", "Request-Range: bytes=0-30", "Accept-Charset: utf-16", "A-IM: range")
    vendor.came.clear()
    box.ask(API, f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}", *asked)
    assert KEY.encode() in vendor.came[0]
    assert [field for field in asked if field.encode() in vendor.came[0]] == []


def test_what_follows_the_size_of_a_chunk_does_not_go_out(box, vendor):
    vendor.came.clear()
    it = box.variable("ANTHROPIC_API_KEY")
    box.exchange(
        API, request("Transfer-Encoding: chunked", first="POST / HTTP/1.1", body=f"1;a={it}\r\nx\r\n0\r\n\r\n")
    )
    wait_until(lambda: b"x\r\n0\r\n" in b"".join(vendor.came), "the body")
    assert it.encode() not in b"".join(vendor.came)


def test_an_answer_that_is_compressed_all_the_same_is_refused(box, vendor):
    vendor.came.clear()
    field = f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}"
    assert "compressed although that was not asked for" in box.ask(API, field, target="/compressed")
    assert KEY.encode() in vendor.came[0]
    assert b"Accept-Encoding: identity" in vendor.came[0]


def test_the_session_of_a_server_stays_on_the_host(box):
    """With its cookie a program would go on after a revoke, and past a limit."""
    assert "session=of-the-server" not in box.ask(API, f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}")


def test_an_upgrade_to_anything_but_a_websocket_is_left_out(box, vendor):
    it = box.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    box.ask(API, f"X-Api-Key: {it}", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    assert b"h2c" not in vendor.came[0]
    assert b"HTTP2-Settings" not in vendor.came[0]


WITHOUT_TLS = {
    "query": "http://{host}/?key={it}",
    "header": "-H 'Authorization: Bearer {it}' http://{host}/",
    "Basic": "-u x:{it} http://{host}/",
}


@pytest.mark.parametrize("how", WITHOUT_TLS)
def test_a_placeholder_in_a_request_without_tls_is_refused_and_told(box, server, how):
    """Also to a host of no login."""
    host = f"{how.lower()}.example"
    words = WITHOUT_TLS[how].format(host=host, it=box.variable("ANTHROPIC_API_KEY"))
    assert "in a request without TLS" in box.shell(f"/opt/tools/curl/curl -sS -m 20 {words} 2>&1 || true")
    alarm = server.get(f"/api/sessions/{box.id}/network").json["alarms"][0]
    assert (alarm["where"], alarm["host"]) == ("in a request without TLS", f"{host}:80")


def framed(text: str, *, in_chunks: bool) -> str:
    """A request with a body that comes in pieces, in its two framings."""
    if not in_chunks:
        return request(FIELD, f"Content-Length: {len(text)}", first="POST / HTTP/1.1", body=text)
    pieces = [text[at : at + 11] for at in range(0, len(text), 11)]
    body = "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in pieces)
    return request(FIELD, "Transfer-Encoding: chunked", first="POST / HTTP/1.1", body=f"{body}0\r\n\r\n")


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_placeholder_in_a_body_is_masked_and_told(box, server, vendor, in_chunks):
    it = box.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    box.exchange(API, framed(f"seen: {it} and on", in_chunks=in_chunks))
    wait_until(lambda: b"***" in b"".join(vendor.came), "the body")
    assert it[:20].encode() not in b"".join(vendor.came)
    alarms = server.get(f"/api/sessions/{box.id}/network").json["alarms"]
    assert "in the body" in [one["where"] for one in alarms]


def test_the_placeholder_of_another_session_is_refused_and_told(box, other, server, vendor):
    stolen = other.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    assert "that of another session" in box.ask(API, f"X-Api-Key: {stolen}")
    assert "that of another session" in box.ask(API, "A: " + base64.b64encode(stolen.encode()).decode())
    assert vendor.came == []
    assert "that of another session" in server.get(f"/api/sessions/{box.id}/network").json["alarms"][0]["where"]
    assert server.get(f"/api/sessions/{other.id}/network").json["alarms"] == []


def test_an_alarm_is_on_the_page_and_in_the_journal(box, server):
    box.ask(API, f"Cookie: key={box.variable('ANTHROPIC_API_KEY')}")
    session = server.get(f"/api/sessions/{box.id}").json
    (words,) = [one for one in session["warnings"] if "placeholder" in one]
    assert "the placeholder of the login anthropic was" in words
    assert "the placeholder of the login anthropic was" in server.log()

    def told() -> bool:
        entries = server.get(f"/api/sessions/{box.id}/log").json
        return any(entry["what"].startswith("Alarm: the placeholder") for entry in entries)

    wait_until(told, "the journal")


def test_root_has_no_way_to_the_server_but_the_proxy(box):
    """The socket of this host, the keys and the other session are not there; what is there is a placeholder's proxy."""
    assert box.shell("find / -xdev -type s -name '*.sock' -path '*clincus*' 2>/dev/null", 0) == ""
    assert box.shell("ls /run/user/*/clincus-logins* /dev/shm/clincus-logins* 2>/dev/null || true", 0) == ""
    for secret in (KEY, "BEGIN PRIVATE KEY"):
        done = box.bed.incus.exec(box.id, ["perl", "-e", SEARCH, secret[::-1].encode().hex()], user=0, timeout=DEADLINE)
        found = [one for one in done.stdout.decode().splitlines() if "/usr/" not in one and "/etc/ssl/pr" not in one]
        assert found == ["searched"], secret
