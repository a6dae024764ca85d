"""A WebSocket of a program that borrows a login, on a real Incus."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from login_box import ADDRESS, Box, lending_server, vendor_context, write_certificates
from websockets.sync.server import ServerConnection, serve

from tests.programs import DEADLINE, wait_until

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


def request(field: str, message: bytes = b"") -> str:
    """A request for a WebSocket that may be compressed, and a text of the client, whose mask is zero."""
    lines = ["GET / HTTP/1.1", f"Host: {HOST}", "Connection: Upgrade", "Upgrade: websocket", field]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    frame = struct.pack("!BB", 0x81, 0x80 | len(message)) + bytes(4) + message
    return "\r\n".join([*lines, "Sec-WebSocket-Extensions: permessage-deflate", "", frame.decode("latin-1")])


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> Iterator[SimpleNamespace]:
    folder = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(folder, (HOST,), ADDRESS)
    made = Echo(folder)
    made.folder = folder
    yield made
    made.close()


@pytest.fixture(scope="module")
def box(bed, start_shared, keep_session, echo) -> Box:
    server = lending_server(start_shared, echo, CONFIG, REAL_KEY=SECRET)
    return Box(bed, server, keep_session(server, tool="shell")["id"])


@pytest.mark.day
def test_a_websocket_goes_on_both_ways_and_shows_no_value(box, echo):
    """It is not compressed, since its messages could not be cleaned."""
    said = box.exchange(HOST, request(f"Authorization: Bearer {box.variable('OWN_KEY')}", b"hello"))
    assert "HTTP/1.1 101 " in said
    assert (echo.logins[-1], echo.extensions) == (f"Bearer {SECRET}", [])
    assert f"hello from Bearer {'*' * len(SECRET)}" in said


@pytest.mark.day
def test_a_placeholder_out_of_its_place_and_a_login_with_a_limit_get_no_websocket(box, echo):
    echo.logins.clear()
    said = box.exchange(HOST, request(f"Sec-WebSocket-Protocol: key.{box.variable('OWN_KEY')}"))
    assert "in the header sec-websocket-protocol" in said
    alarms = box.server.get(f"/api/sessions/{box.id}/network").json["alarms"]
    assert "in the header sec-websocket-protocol" in [one["where"] for one in alarms]
    said = box.exchange(HOST, request(f"X-Limited: {box.variable('LIMITED_KEY')}"))
    assert "it is not lent to WebSockets: use plain requests" in said
    assert echo.logins == []


def test_a_revoke_ends_an_open_websocket(box, echo):
    text = request(f"Authorization: Bearer {box.variable('OWN_KEY')}", STAY.encode())
    with ThreadPoolExecutor(1) as pool:
        talk = pool.submit(box.exchange, HOST, text)
        wait_until(lambda: STAY in echo.messages, "the message")
        assert box.server.post("/api/logins/own/revoke").json["state"] == "revoked"
        assert f"{STAY} from" in talk.result(DEADLINE)
    assert box.server.delete("/api/logins/own/revoke").status == 200
