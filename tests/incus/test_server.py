"""The server as a process: config, ports, static files, the end. On a real Incus where one is needed."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sessions import Events
from websockets.exceptions import ConnectionClosed

import clincus
from tests.faults_bed import hung
from tests.programs import DEADLINE, NO_CHECKPOINTS, connect, free_port, wait_until
from tests.table import table


def config_file(server) -> Path:
    return server.home / ".config" / "clincus" / "config.toml"


def by_rename(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def as_symlink(file: Path, text: str) -> None:
    (file.parent / "real.toml").write_text(text)
    file.unlink(missing_ok=True)
    file.symlink_to("real.toml")


def twice(file: Path, text: str) -> None:
    by_rename(file, "")
    by_rename(file, text)


def model_of(server) -> str:
    return str(server.get("/api/config").json["defaults"]["model"])


@pytest.mark.day
@table("body", [{"port": 65536}, {"port": True}, {"workspace_roots": [1]}, {"workspace_roots": ["/nowhere/at"]}])
def test_put_of_a_bad_value_is_refused(shared_server, body):
    assert shared_server.put("/api/config", body).status == 400


class TestConfig:
    @pytest.mark.day
    def test_put_keeps_roots_over_a_restart_until_the_file_says_others(self, start_server, tmp_path):
        mine = "# my own words\n[defaults]\npersistent = true\n"
        server = start_server(config=mine)
        answer = server.put("/api/config", {"workspace_roots": [str(tmp_path)]})
        assert (answer.status, answer.json) == (200, {"status": "updated"})
        server.stop()
        again = start_server()
        document = again.get("/api/config").json
        assert document["dashboard"]["workspace_roots"] == [str(tmp_path)]
        assert document["defaults"]["persistent"] is True
        assert config_file(again).read_text() == mine
        sources = again.get("/api/config/sources").json
        assert sources["origins"]["dashboard.workspace_roots"] == str(again.home / ".clincus" / "dashboard.json")
        for roots in ([str(tmp_path / "mine")], []):
            config_file(again).write_text(f"[dashboard]\nworkspace_roots = {roots}\n" if roots else "")
            kept = lambda: again.get("/api/config").json["dashboard"]["workspace_roots"]  # noqa: E731
            wait_until(lambda roots=roots, kept=kept: kept() == roots, "the reload")

    @pytest.mark.day
    def test_a_new_port_is_listened_on_and_the_old_one_let_go_and_a_taken_one_changes_nothing(self, clincus_server):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            assert clincus_server.put("/api/config", {"port": taken.getsockname()[1]}).status == 409
        assert not (clincus_server.home / ".clincus" / "dashboard.json").exists()
        port = free_port()
        assert clincus_server.put("/api/config", {"port": port}).status == 200
        old, clincus_server.port = clincus_server.port, port
        assert clincus_server.get("/api/config").json["dashboard"]["port"] == port

        def is_closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", old)) != 0

        wait_until(is_closed, "the old port to be let go")

    def test_every_way_of_saving_is_seen(self, start_server):
        server = start_server()
        file = config_file(server)
        for save in (Path.write_text, by_rename, twice, as_symlink):
            for existed in (True, False):
                file.unlink(missing_ok=True)
                if existed:
                    file.write_text("[defaults]\nmodel = 'one'\n")
                unsaved = "one" if existed else clincus.SETTING["defaults.model"].default
                wait_until(lambda unsaved=unsaved: model_of(server) == unsaved, "the start")
                save(file, "[defaults]\nmodel = 'two'\n")
                wait_until(lambda: model_of(server) == "two", f"the reload after {save} of a file, {existed=}")

    @pytest.mark.day
    def test_a_broken_file_keeps_the_last_good_config_and_is_told(self, start_server):
        """The files come by a rename: the server may look at one that is written in place while it is empty."""
        server = start_server()
        by_rename(config_file(server), "[defaults]\nmodel = 'one'\n")
        wait_until(lambda: model_of(server) == "one", "the start")
        # A setting waits for the reload, whose event comes a moment after the new values.
        assert server.put("/api/config", {"workspace_roots": []}).status == 200
        events = Events(server)
        events.forget()
        by_rename(config_file(server), "[defaults]\nmodel = 7, oops\n")
        error = wait_until(lambda: server.get("/api/config/sources").json["error"], "the error")
        assert ("config.toml" in error, model_of(server)) == (True, "one")
        assert "config.reloaded" not in events.types()
        by_rename(config_file(server), "[defaults]\nmodel = 'two'\n")
        wait_until(lambda: server.get("/api/config/sources").json["error"] is None, "the mended file")
        assert model_of(server) == "two"


@pytest.mark.day
def test_hashed_assets_are_compressed_and_immutable_and_unknown_paths_are_the_page(shared_server):
    page = shared_server.get("/").body
    for path in ("/sessions/clincus-a1b2c3-1/files", "/nothing.js"):
        assert shared_server.get(path).body == page
    for path in ("/assets/nothing.js", "/api/nothing", "/ws/nothing"):
        assert shared_server.get(path).status == 404
    assert b"Clincus runs AI coding tools" not in shared_server.get("/..%2fclincus.py").body
    [path] = re.findall(r'"(/assets/index-[^"]+\.js)"', page.decode())
    plain = shared_server.get(path)
    packed = shared_server.get(path, headers={"Accept-Encoding": "gzip"})
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


def close_codes(server, paths, how) -> list:
    """End a server by a signal; the codes with which it closes these sockets."""
    codes, ready = [], threading.Semaphore(0)

    def follow(path: str) -> None:
        with connect(server.socket_url + path) as websocket:
            ready.release()
            try:
                while True:
                    websocket.recv()
            except ConnectionClosed as closed:
                codes.append(closed.rcvd.code if closed.rcvd else None)

    threads = [threading.Thread(target=follow, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
        assert ready.acquire(timeout=DEADLINE)
    assert server.stop(how) == 0
    for thread in threads:
        thread.join(timeout=DEADLINE)
    return codes


@pytest.mark.day
def test_a_signal_closes_sockets_with_a_code_and_leaves_no_child(start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    id = server.create(workspace)["id"]
    wait_until(lambda: server.get(f"/api/sessions/{id}/log").json, "what was asked for in the log of the session")
    [asked] = [entry for entry in server.get(f"/api/sessions/{id}/log").json if entry["kind"] == "request"]
    assert (asked["what"], asked["status"], asked["from"]) == ("Create and start a session", 200, "127.0.0.1")
    for one, how in ((server, signal.SIGTERM), (start_server(), signal.SIGINT)):
        wait_until(lambda one=one: one.get(f"/api/sessions/{id}").status == 200, "the session")
        assert close_codes(one, ("/ws/events", f"/ws/terminal/{id}"), how) == [1001, 1001]
        assert one.children() == []


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_that_somebody_else_has_is_refused_in_one_line(start_server, family, host):
    """Also one on the other loopback: a browser at http://localhost:PORT would send its cookies and tickets there."""
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AssertionError, match=f"Error: port {port} cannot be used") as raised:
            start_server(arguments=["--port", str(port)], port=None)
    assert "Traceback" not in str(raised.value)


@pytest.mark.day
def test_without_incus_the_server_serves_and_says_what_to_do(start_server, tmp_path):
    server = start_server(environ={"INCUS_DIR": str(tmp_path / "none")})
    answer = server.get("/api/sessions")
    assert (answer.status, "clincus setup" in answer.json["error"]) == (503, True)
    assert server.get("/").status == 200
    events = Events(server, ["clincus.events.v1"])
    wait_until(lambda: events.seen, "the event that a new subscriber gets")
    assert events.seen[0]["type"] == "incus.unreachable"
    assert "clincus setup" in events.seen[0]["error"]


@contextlib.contextmanager
def other_project(bed, name: str) -> Iterator[clincus.Incus]:
    """A project beside `default`, with its images and profiles, until the end of the block."""
    bed.incus.run("project", "create", name, "-c", "features.images=false", "-c", "features.profiles=false")
    incus = clincus.Incus(name)
    try:
        yield incus
    finally:
        for instance in incus.query("/1.0/instances?recursion=1") or ():
            incus.run("delete", "--force", instance["name"])
        bed.incus.run("project", "delete", name)


def test_every_reading_answers_while_the_daemon_hangs(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    one = f"/api/sessions/{server.create(workspace)['id']}"
    asks_incus = ("/api/images", f"{one}/files", f"{one}/files/content?path=README.md", f"{one}/scrollback")
    answers = {}

    def ask(path: str) -> None:
        answers[path] = server.get(path)

    with hung(bed):
        paths = (*asks_incus, "/api/tools", "/api/sessions", "/api/health")
        threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for path in asks_incus:
        assert answers[path].status in {500, 503}, path
        assert "ncus" in answers[path].json["error"]
    assert answers["/api/tools"].status == 200
    report = answers["/api/health"].json
    assert (report["status"], report["checks"]["incus"]["status"]) == ("unhealthy", "failed")


def test_what_others_do_with_an_instance_is_waited_for_outside_the_project_default(bed):
    """A resume waits so for a stop that a killed server has begun."""
    with other_project(bed, "mine") as incus:
        incus.run("init", "clincus", "slow", timeout=DEADLINE)
        backups = incus.path("slow", "/backups")
        incus.query(backups, "POST", {"name": "one", "compression_algorithm": "none"})
        running = incus.query("/1.0/operations?recursion=1").get("running", [])
        assert [one["resources"]["instances"] for one in running] == [["/1.0/instances/slow?project=mine"]]
        incus.wait_for_others("slow")
        assert not incus.query("/1.0/operations?recursion=1").get("running", [])
        assert incus.query(backups) != []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the socket of an Incus of its own")
def test_a_change_of_an_instance_that_is_in_progress_is_waited_for(bed, shared_server, workspace):
    """Incus lists no operation for it, and refuses a stop meanwhile."""
    id = shared_server.create(workspace, tool="shell")["id"]
    device = {"type": "proxy", "listen": "tcp:127.0.0.1:9999", "connect": "tcp:127.0.0.1:1", "bind": "instance"}
    body = json.dumps({"devices": {"added": device}})
    head = f"PATCH /1.0/instances/{id} HTTP/1.1\r\nHost: incus\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(bed.folder / "unix.socket"))
        connection.sendall((head + body).encode())
        bed.incus.wait_for_others(id)
        assert "added" in bed.incus.query(bed.incus.path(id))["devices"]
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert shared_server.delete(f"/api/sessions/{id}?force=true").status == 204
