"""The gate against real attacks on a running server: forged names, foreign pages, neighbours, foreign containers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess

import pytest
from websockets.exceptions import InvalidStatus

import clincus
from tests.programs import DEADLINE, connect, wait_until
from tests.table import table

NEIGHBOUR = 65534
HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
JSON = "Content-Type: application/json"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def exchange(server, *lines, body=b""):
    """Send a request as it is, and return all that comes back until the server closes or upgrades."""
    received = b""
    with socket.create_connection((server.host, server.port), timeout=DEADLINE) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        with contextlib.suppress(ConnectionError):
            while not received.startswith(b"HTTP/1.1 101") and (chunk := connection.recv(65536)):
                received += chunk
    return received


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


def ask(server, first, *lines, body=b"", host=None):
    """One request, which asks to be the last of its connection; the status."""
    named = [f"Host: {server.host}:{server.port}"] if host is None else host
    return status_of(exchange(server, first, *named, *lines, "Connection: close", body=body))


def as_user(uid, work):
    """Do something in a process under another user id; what it returns, through JSON."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(writer, json.dumps(work()).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with open(reader, "rb") as stream:
        said = stream.read()
    assert os.waitpid(child, 0)[1] == 0, "the other process failed"
    return json.loads(said)


@pytest.fixture
def other_machine():
    """An address of this machine that is not loopback: who uses it comes from elsewhere, as far as the server knows."""
    words = ["ip", "-4", "-o", "address", "show", "scope", "global"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True, timeout=DEADLINE).stdout.splitlines()
    return lines[0].split()[3].partition("/")[0]


# ---- forged names and foreign pages


@pytest.mark.day
@table("first", ["GET / HTTP/1.1", "POST /api/sessions HTTP/1.1"])
def test_a_name_that_is_not_ours_is_refused(shared_server, first):
    ours = f"localhost:{shared_server.port}"
    assert ask(shared_server, first, host=[f"Host: {ours}"]) != 403
    for forged in (
        [f"Host: evil.example:{shared_server.port}"],
        [f"Host: localhost:{shared_server.port + 1}"],
        [],
        [f"Host: {ours}", "Host: evil.example"],
    ):
        assert ask(shared_server, first, host=forged) == 403, forged
    assert ask(shared_server, "GET /ws/events HTTP/1.1", *HANDSHAKE, host=["Host: evil.example"]) == 403


WRITES = [
    ("POST", "/api/sessions"), ("DELETE", "/api/sessions/x"), ("POST", "/api/sessions/x/resume"),
    ("PUT", "/api/config"), ("POST", "/api/workspaces"), ("DELETE", "/api/workspaces"),
    ("POST", "/api/workspaces/folder"), ("PUT", "/api/sessions/x/files/content?path=a"),
]  # fmt: skip


@pytest.mark.day
def test_foreign_pages_can_read_nothing_and_write_nothing_and_our_own_can(shared_server):
    for mark in ("Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"):
        for method, path in WRITES:
            status = ask(shared_server, f"{method} {path} HTTP/1.1", JSON, mark, "Content-Length: 2", body=b"{}")
            assert status == 403, (method, path, mark)
        for path in ("/ws/events", "/ws/terminal/x", "/ws/shell/x"):
            assert ask(shared_server, f"GET {path} HTTP/1.1", mark, *HANDSHAKE) == 403, (path, mark)
    answer = shared_server.get("/api/sessions", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    form = shared_server.post("/api/workspaces", b'{"path": "/tmp"}', headers={"Content-Type": "text/plain"})
    assert (form.status, shared_server.get("/api/workspaces").json["roots"]) == (415, [])
    own = {"Origin": shared_server.url, "Sec-Fetch-Site": "same-origin"}
    assert shared_server.put("/api/config", {}, headers=own).status == 200
    with connect(shared_server.socket_url + "/ws/events", origin=shared_server.url) as websocket:
        assert websocket.response.status_code == 101


def test_profile_secrets_are_not_shown_and_every_refusal_is_logged_once(start_server):
    server = start_server(config='[profiles.work.environment]\nAPI_KEY = "hunter2"\n')
    answer = server.get("/api/config")
    assert "API_KEY" in answer.json["profiles"]["work"]["environment"]
    assert b"hunter2" not in answer.body
    for _ in range(5):
        ask(server, "GET / HTTP/1.1", host=["Host: evil.example"])
    ask(server, "POST /api/sessions HTTP/1.1", "Origin: null")
    wait_until(lambda: '"null"' in server.log(), "the last refusal")
    lines = [line for line in server.log().splitlines() if "gate: 127.0.0.1" in line]
    assert [word in line for word, line in zip(("evil.example", '"null"'), lines)] == [True, True]
    assert len(lines) == 2


# ---- other users of this machine


def knock(host, port):
    """Try to read, to write and to open a WebSocket; the statuses. A host with ::ffff is reached by its IPv4 name."""
    name = host.removeprefix("::ffff:")
    named = f"Host: {f'[{name}]' if ':' in name else name}:{port}"
    requests = [
        ["GET /api/tools HTTP/1.1", named, "Connection: close"],
        ["PUT /api/config HTTP/1.1", named, JSON, "Content-Length: 2", "Connection: close"],
        ["GET / HTTP/1.1", named, "Connection: close"],
        ["GET /ws/events HTTP/1.1", named, *HANDSHAKE],
    ]
    statuses = []
    for lines in requests:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
            connection.settimeout(DEADLINE)
            connection.connect((host, port))
            body = b"{}" if lines[0].startswith("PUT") else b""
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            statuses.append(status_of(connection.recv(65536)))
    return statuses


@pytest.mark.day
@needs_root
def test_a_neighbour_on_the_same_machine_gets_nothing(clincus_server):
    for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert as_user(NEIGHBOUR, lambda host=host: knock(host, clincus_server.port)) == [403] * 4, host
        assert knock(host, clincus_server.port) == [200, 200, 200, 101], host
    assert 'user "nobody"' in clincus_server.log()


@needs_root
def test_a_neighbour_that_hangs_up_at_once_has_done_nothing(shared_server):
    """The kernel lists a socket that its process closed as root's."""
    head = f"POST /api/workspaces HTTP/1.1\r\nHost: localhost:{shared_server.port}\r\n{JSON}\r\n"
    request = f'{head}Content-Length: 16\r\n\r\n{{"path": "/tmp"}}'.encode()

    def fire():
        for _ in range(50):
            with contextlib.suppress(ConnectionError):
                connection = socket.create_connection((shared_server.host, shared_server.port))
                connection.sendall(request)
                connection.close()
        return True

    assert as_user(NEIGHBOUR, fire)
    assert shared_server.get("/api/workspaces").json["roots"] == []


@needs_root
def test_neighbours_that_hold_connections_do_not_lock_the_owner_out(clincus_server):
    with contextlib.ExitStack() as held:
        os.seteuid(NEIGHBOUR)  # whose sockets are the neighbour's then
        try:
            for _ in range(clincus.CONNECTION_LIMIT + 10):
                held.enter_context(socket.create_connection((clincus_server.host, clincus_server.port)))
        finally:
            os.seteuid(0)
        assert wait_until(lambda: clincus_server.get("/api/tools").status == 200, "a place for the owner")


# ---- the token


@pytest.mark.day
def test_another_machine_signs_in_with_the_token(start_server, home, other_machine):
    path = home / "token"
    server = start_server(arguments=["--host", "0.0.0.0", "--token-file", str(path)])
    token = path.read_text().strip()
    assert token not in server.log()
    assert server.get("/api/sessions").status == 200, "the owner on this machine needs no token"

    server.host = other_machine
    shown = {"Authorization": f"Bearer {token}"}
    assert server.get("/api/sessions").status == 401
    wrong = [server.get("/api/sessions", headers={"Authorization": "Bearer wrong"}).status for _ in range(20)]
    assert wrong == [401] * 20
    assert server.get("/api/sessions", headers=shown).status == 200, "wrong ones never keep the right one out"
    assert (server.get("/metrics").status, server.get("/metrics", headers=shown).status) == (401, 200)
    assert server.get("/api/sessions", headers={"Host": f"evil.example:{server.port}"}).status == 403
    with pytest.raises(InvalidStatus, match="401"):
        connect(server.socket_url + "/ws/events")

    page = server.get("/", headers={"Accept": "text/html"})
    assert (page.status, b'name="token"' in page.body) == (401, True)
    answer = server.get(f"/sessions?token={token}&x=1", headers={"Accept": "text/html"})
    assert (answer.status, answer.headers["location"]) == (303, "/sessions?x=1")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert token not in cookie
    assert server.get("/api/sessions", headers={"Cookie": cookie}).status == 200
    form = {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded", "Origin": server.url}
    answer = server.request("POST", "/sessions/a", f"token={token}".encode(), headers=form)
    assert (answer.status, answer.headers["location"]) == (303, "/sessions/a")
    with connect(
        server.socket_url + "/ws/events", additional_headers={"Cookie": cookie}, origin=server.url
    ) as websocket:
        assert websocket.response.status_code == 101


def test_the_browser_that_serve_opens_does_not_get_the_token_among_its_arguments(start_server, home, tmp_path):
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$*" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    arguments = ["--open", "--host", "0.0.0.0", "--token-file", str(home / "token")]
    start_server(arguments=arguments, environ={"BROWSER": f"{browser} %s"})
    wait_until(opened.exists, "the browser")
    assert opened.read_text().startswith("http://")
    assert (home / "token").read_text().strip() not in opened.read_text()


@pytest.mark.day
def test_a_reverse_proxy_and_a_neighbour_need_the_token(start_server):
    token = "a-token-for-every-proxy"
    server = start_server(arguments=["--allowed-host", "box.example"], environ={"CLINCUS_TOKEN": token})
    through = {"Host": "box.example", "X-Forwarded-For": "192.0.2.7", "Origin": "https://box.example"}
    assert server.put("/api/config", {}, headers=through).status == 401
    assert server.put("/api/config", {}, headers={**through, "Authorization": f"Bearer {token}"}).status == 200
    assert server.put("/api/config", {}, headers={"X-Forwarded-For": "192.0.2.7"}).status == 401
    assert server.put("/api/config", {}, headers={**through, "Host": "other.example"}).status == 403
    if os.geteuid() == 0:
        first = "GET /api/sessions HTTP/1.1"
        assert as_user(NEIGHBOUR, lambda: ask(server, first)) == 401
        assert as_user(NEIGHBOUR, lambda: ask(server, first, f"Authorization: Bearer {token}")) == 200


# ---- containers that are not ours


@pytest.mark.day
def test_foreign_containers_are_not_there(bed, clincus_server):
    """A name of ours without our label, and any other container; no odd id means anything."""
    foreign = ["clincus-abcdef-1", "database"]
    for name in foreign:
        bed.incus.launch(name, "clincus", {"config": {}})
    assert clincus_server.get("/api/sessions").json == []
    for name in (*foreign, "..", "%2e%2e", "--help", "%00", "a%2fb", "%0a", "%ff", "local:x", "a" * 5000):
        for method, path in (
            ("GET", f"/api/sessions/{name}"),
            ("DELETE", f"/api/sessions/{name}?force=true"),
            ("POST", f"/api/sessions/{name}/resume"),
            ("GET", f"/api/sessions/{name}/files/content?path=etc/passwd"),
        ):
            assert ask(clincus_server, f"{method} {path} HTTP/1.1") == 404, (method, path)
        for kind in ("terminal", "shell"):
            assert ask(clincus_server, f"GET /ws/{kind}/{name} HTTP/1.1", *HANDSHAKE) == 404, name
    assert [bed.state(name) for name in foreign] == ["Running"] * 2
    assert clincus_server.get("/api/sessions/history").json == []
    assert "Traceback" not in clincus_server.log()


# ---- what only a broken or hostile client sends
