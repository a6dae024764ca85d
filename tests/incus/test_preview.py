"""What serves in a container, in a browser's place: one session without a network for all of it, on a real Incus."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.dev_server import BIG, app_in
from tests.faults_bed import run_cli
from tests.incus_bed import passing_home
from tests.programs import DEADLINE, connect, wait_until

PORT, OTHER_PORT, PORT_6, INNER_PORT = 3000, 3001, 3006, 8088


class Preview:
    """A port of a session that is open, and a browser that was let in."""

    def __init__(self, server: Any, id: str, port: int) -> None:
        self.server, self.path = server, f"/api/sessions/{id}/ports/{port}"
        self.host = f"{port}-{id}.localhost:{server.port}"
        self.link = ""
        self.cookie = ""

    def open(self) -> Preview:
        """Open it and go in by the link."""
        answer = self.server.post(self.path)
        assert answer.status == 200, answer.body
        self.link = answer.json["url"]
        assert self.link.startswith(f"http://{self.host}/")
        let_in = self.ask(self.link.partition(self.host)[2])
        assert (let_in.status, let_in.headers["location"]) == (303, "/")
        self.cookie = let_in.headers["set-cookie"].partition(";")[0]
        return self

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        """Send a request to its origin, as the browser does."""
        fields = {"Host": self.host, **({"Cookie": self.cookie} if self.cookie else {})}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.request(method, path, body, headers=fields)


@pytest.fixture(scope="module")
def served(bed, start_shared, keep_session):
    """A server, and a session without a network card in which apps listen."""
    if bed.folder is None:
        pytest.skip("only root may enter the network of a container")
    server = start_shared()
    id = keep_session(server)["id"]
    bed.incus.run("config", "device", "add", id, "eth0", "none")
    bed.shell(id, f"busybox httpd -p 127.0.0.1:{INNER_PORT} -h /tmp")
    with app_in(bed, id, "127.0.0.1", PORT, OTHER_PORT), app_in(bed, id, "::1", PORT_6):
        wait_until(lambda: len(server.get(f"/api/sessions/{id}/ports").json["ports"]) >= 4, "the apps to listen")
        yield bed, server, id


@pytest.fixture(scope="module")
def preview(served):
    """An app on 127.0.0.1 that is open."""
    _, server, id = served
    return Preview(server, id, PORT).open()


def connected(preview: Preview) -> Any:
    """A WebSocket to the app, as its page opens it."""
    connection = socket.create_connection(("127.0.0.1", preview.server.port))
    fields = {"Cookie": preview.cookie}
    return connect(
        f"ws://{preview.host}/ws", sock=connection, origin=f"http://{preview.host}", additional_headers=fields
    )


@pytest.mark.day
def test_what_listens_is_told_and_reached_after_the_click_with_the_key_alone(served, preview):
    _, server, id = served
    known = {one["port"]: one for one in server.get(f"/api/sessions/{id}/ports").json["ports"]}
    assert known[PORT_6] == {"port": PORT_6, "addresses": ["::1"], "process": "", "open": False, "url": None}
    assert (known[OTHER_PORT]["addresses"], known[INNER_PORT]["process"]) == (["127.0.0.1"], "busybox")
    assert Preview(server, id, OTHER_PORT).ask("/").status == 403
    stranger = Preview(server, id, PORT)
    assert stranger.ask("/").status == 403
    assert stranger.ask(preview.link.partition(preview.host)[2]).status == 403, "a link lets in once"
    assert stranger.ask("/", Cookie=f"{preview.cookie}x").status == 403
    assert Preview(server, id, PORT_6).open().ask("/").json["headers"]["Host"] == f"localhost:{PORT_6}"


@pytest.mark.day
def test_the_app_sees_itself_at_localhost_and_nothing_of_ours_and_its_answers_come_as_they_are(preview):
    cookies = f"x=1; {preview.cookie}; clincus-3000=secret"
    answer = preview.ask("/a?b=1&b=2", Cookie=cookies, Origin=f"http://{preview.host}", Authorization="Bearer of-app")
    told, own = answer.json, f"localhost:{PORT}"
    assert told["path"] == "/a?b=1&b=2"
    expected = {"Host": own, "Origin": f"http://{own}", "Cookie": "x=1", "Authorization": "Bearer of-app"}
    assert {name: told["headers"][name] for name in expected} == expected
    assert "x-frame-options" not in answer.headers
    assert answer.headers["content-security-policy"] == f"frame-ancestors 'self' http://127.0.0.1:{preview.server.port}"
    assert preview.ask("/redirect").headers["location"] == f"http://{preview.host}/after"
    assert preview.ask("/login").headers["set-cookie"] == "app=1; Path=/"
    assert preview.ask("/chunks").body == b"firstsecond"
    assert preview.ask("/big").body == b"x" * BIG
    body = os.urandom(5 << 20)
    assert preview.ask("/", "POST", body).body.decode() == hashlib.sha256(body).hexdigest()
    assert preview.ask("/endless").status == 502


@pytest.mark.day
def test_neither_asks_a_page_of_another_origin_the_app_nor_the_app_the_dashboard(preview):
    for origin in ("http://evil.example", f"http://127.0.0.1:{preview.server.port}", "null"):
        assert preview.ask("/", "POST", b"x", Origin=origin).status == 403
    assert preview.ask("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    assert preview.ask("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    origin, server = f"http://{preview.host}", preview.server
    assert server.post("/api/sessions", {}, headers={"Origin": origin}).status == 403
    assert server.get("/api/sessions", headers={"Origin": origin}).status == 403
    assert server.get("/api/sessions", headers={"Sec-Fetch-Site": "cross-site"}).status == 403


@pytest.mark.day
def test_a_websocket_goes_through_until_the_port_is_closed(served):
    bed, server, id = served
    opened = Preview(server, id, OTHER_PORT).open()
    with connected(opened) as websocket:
        websocket.send("hot")
        assert websocket.recv(timeout=DEADLINE) == "hot"
        listed = json.loads(run_cli(bed, server, "ports", id, "--format", "json").stdout)["ports"]
        assert OTHER_PORT in [one["port"] for one in listed if one["open"]]
        assert run_cli(bed, server, "ports", id, "--close", str(OTHER_PORT)).returncode == 0
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=DEADLINE)
    assert opened.ask("/").status == 403
    devices = bed.ask(f"/1.0/instances/{id}")["devices"]
    assert [name for name in devices if name.endswith(str(OTHER_PORT))] == []
    assert server.post(f"/api/sessions/{id}/ports/9").status == 409, "nothing listens there"


def check_from_elsewhere(server: Any, id: str, address: str, token: str) -> None:
    """Open a port from another machine: it gets a port of its own, and the token is needed."""
    path, host = f"/api/sessions/{id}/ports/{PORT}", f"{address}:{server.port}"
    here, server.host = server.host, address
    assert server.post(path, {}).status == 401
    signed = {"Authorization": f"Bearer {token}"}
    assert server.post(path, headers={**signed, "X-Forwarded-For": "192.0.2.1"}).status == 409, "through a proxy"
    url = urllib.parse.urlsplit(server.post(path, headers=signed).json["url"])
    known = server.get(f"/api/sessions/{id}/ports", headers=signed).json["ports"]
    assert [one["url"] for one in known if one["open"]] == [f"http://{url.netloc}/"]
    dashboard, server.port = server.port, url.port
    assert (url.hostname, server.port == dashboard) == (address, False)
    assert server.get("/").status == 403
    assert server.get("/api/sessions", headers=signed).status == 403, "neither dashboard nor token there"
    cookie = server.get(f"{url.path}?{url.query}").headers["set-cookie"].partition(";")[0]
    told = server.get("/", headers={"Cookie": f"{cookie}; clincus-{dashboard}=signed-in; app=1"})
    assert told.json["headers"]["Cookie"] == "app=1"
    assert told.headers["content-security-policy"] == f"frame-ancestors 'self' http://{host}"
    server.port = dashboard
    assert server.get("/api/sessions", headers={"Cookie": cookie}).status == 401
    server.host = here


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A home in which a socket has room: the folders of tests have long names."""
    with passing_home("home") as folder:
        yield folder


def test_an_opening_ends_with_the_run_and_leaves_nothing(bed, short_home, start_server, workspace, tmp_path):
    """Also with a server that is killed: the next one takes away what it left."""
    if bed.folder is None:
        pytest.skip("only root may enter the network of a container")
    server = start_server(at=short_home)
    id = server.create(workspace, persistent=True)["id"]

    token = short_home / "token"

    def devices() -> list[str]:
        found = bed.incus.query(f"/1.0/instances/{id}")["devices"]
        return [name for name in found if name.startswith("clincus-preview")]

    with app_in(bed, id, "127.0.0.1", PORT):
        wait_until(lambda: server.get(f"/api/sessions/{id}/ports").json["ports"], "the app to listen")
        Preview(server, id, PORT).open()
        assert len(devices()) == 1
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        server = start_server(at=short_home, arguments=["--host", "0.0.0.0", "--token-file", str(token)])
        wait_until(lambda: not devices(), "the left device to go")
        address = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
        check_from_elsewhere(server, id, address, token.read_text().strip())
        assert len(devices()) == 1
        assert (server.stop(), devices()) == (0, []), "a server that ends leaves nothing"
        by_commands = Preview(start_server(at=tmp_path / ("x" * 90)), id, PORT).open()
        assert devices() == [], "no socket may have such a long path"
        assert by_commands.ask("/big").body == b"x" * BIG
        server = start_server(at=short_home)
        opened = Preview(server, id, PORT).open()
        assert server.delete(f"/api/sessions/{id}").status == 204
        assert server.get(f"/api/sessions/{id}/ports").json == {"ports": [], "truncated": False}, (
            "nothing, as in a look that came late"
        )
        assert (opened.ask("/").status, devices()) == (403, [])
    assert os.listdir(server.home / ".clincus" / "preview") == []
