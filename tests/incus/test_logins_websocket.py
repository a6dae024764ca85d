"""A WebSocket of a program that borrows a login, on a real Incus."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from login_box import ADDRESS, Box, vendor_context, write_certificates
from network_box import command_with_hosts
from websockets.sync.server import ServerConnection, serve

from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
SECRET = "the-real-key-of-a-service-of-ones-own"
HOST = "socket.example"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["own", "limited"]
[logins.own]
hosts = ["{HOST}"]
header = "authorization"
form = "Bearer {{secret}}"
variable = "OWN_KEY"
from = {{ env = "REAL_KEY" }}
[logins.limited]
hosts = ["{HOST}"]
header = "x-limited"
form = "{{secret}}"
variable = "LIMITED_KEY"
limit = {{ requests_per_day = 1000 }}
from = {{ env = "REAL_KEY" }}
"""
TEXT, CLOSE = 1, 8  # kinds of frames (RFC 6455, 5.2)
STAY = "stay"


class Echo:
    """A server of WebSockets. It says a message again, with the login that came, and ends after any but STAY."""

    def __init__(self, folder: Path) -> None:
        self.messages: list[str] = []
        self.logins: list[str] = []
        self.extensions: list[str] = []  # that programs asked for
        self._server = serve(self._talk, ADDRESS, 443, ssl=vendor_context(folder), close_timeout=0.1)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _talk(self, connection: ServerConnection) -> None:
        assert connection.request
        fields = connection.request.headers
        self.logins.append(fields.get("Authorization", ""))
        self.extensions += fields.get_all("Sec-WebSocket-Extensions")
        for message in connection:
            self.messages.append(str(message))
            connection.send(f"{message} from {self.logins[-1]}")
            if message != STAY:
                return

    def close(self) -> None:
        self._server.shutdown()


def frame(kind: int, content: bytes = b"") -> str:
    """A frame of a client; its mask is zero."""
    return (struct.pack("!BB", 0x80 | kind, 0x80 | len(content)) + bytes(4) + content).decode("latin-1")


def upgrade(field: str) -> str:
    """A request for a WebSocket that may be compressed."""
    lines = ["GET / HTTP/1.1", f"Host: {HOST}", "Connection: Upgrade", "Upgrade: websocket", field]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, "Sec-WebSocket-Extensions: permessage-deflate", "", ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(made, (HOST,), ADDRESS)
    return made


@pytest.fixture(scope="module")
def echo(folder) -> Iterator[Echo]:
    made = Echo(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_shared, folder, echo) -> Server:
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG,
        command=command_with_hosts(folder / "hosts"),
        environ={"SSL_CERT_FILE": str(folder / "trust.pem"), "REAL_KEY": SECRET},
    )
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session) -> Box:
    return Box(bed, server, keep_session(server, tool="shell")["id"])


@pytest.mark.day
def test_a_websocket_goes_on_both_ways_and_shows_no_value(box, echo):
    field = f"Authorization: Bearer {box.variable('OWN_KEY')}"
    said = box.exchange(HOST, upgrade(field) + frame(TEXT, b"hello"))
    assert "HTTP/1.1 101 " in said
    assert echo.logins[-1] == f"Bearer {SECRET}"
    assert f"hello from Bearer {'*' * len(SECRET)}" in said


def test_a_websocket_is_not_compressed_since_its_messages_could_not_be_cleaned(box, echo):
    box.exchange(HOST, upgrade(f"Authorization: Bearer {box.variable('OWN_KEY')}") + frame(CLOSE))
    assert echo.logins[-1] == f"Bearer {SECRET}"
    assert echo.extensions == []


@pytest.mark.day
def test_a_placeholder_out_of_its_place_gets_no_websocket(box, server, echo):
    echo.logins.clear()
    said = box.exchange(HOST, upgrade(f"Sec-WebSocket-Protocol: key.{box.variable('OWN_KEY')}"))
    assert "in the header sec-websocket-protocol" in said
    assert echo.logins == []
    alarms = server.get(f"/api/sessions/{box.id}/network").json["alarms"]
    assert "in the header sec-websocket-protocol" in [one["where"] for one in alarms]


def test_a_login_with_a_limit_gets_no_websocket_and_the_journal_says_so(box, server, echo):
    echo.logins.clear()
    said = box.exchange(HOST, upgrade(f"X-Limited: {box.variable('LIMITED_KEY')}"))
    assert "it is not lent to WebSockets: use plain requests" in said
    assert echo.logins == []
    words = "The session does not get the login limited: it has a limit"
    log = f"/api/sessions/{box.id}/log"
    wait_until(lambda: any(one["what"].startswith(words) for one in server.get(log).json), "the journal")


def test_a_revoke_ends_an_open_websocket(box, server, echo):
    text = upgrade(f"Authorization: Bearer {box.variable('OWN_KEY')}") + frame(TEXT, STAY.encode())
    with ThreadPoolExecutor(1) as pool:
        talk = pool.submit(box.exchange, HOST, text)
        wait_until(lambda: STAY in echo.messages, "the message")
        assert server.post("/api/logins/own/revoke").json["state"] == "revoked"
        assert f"{STAY} from" in talk.result(DEADLINE)
    assert server.delete("/api/logins/own/revoke").status == 200
