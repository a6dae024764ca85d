"""The server as a process: config, ports, static files, the end. On a real Incus where one is needed."""

from __future__ import annotations

import contextlib
import gzip
import http.client
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
from tests.programs import DEADLINE, NO_CHECKPOINTS, connect, free_port, git, wait_until

REFERENCE = {
    "defaults": {"image": str, "persistent": bool, "model": str},
    "paths": {"sessions_dir": str, "storage_dir": str, "logs_dir": str, "preserve_workspace_path": bool},
    "incus": {"project": str, "group": str, "code_uid": int, "code_user": str, "disable_shift": bool},
    "tool": {"name": str, "binary": str, "claude": dict},
    "mounts": {"default": list},
    "limits": {"cpu": dict, "memory": dict, "disk": dict, "runtime": dict},
    "git": {"writable_hooks": bool},
    "security": {"protected_paths": list, "additional_protected_paths": list, "disable_protection": bool},
    "profiles": {},
    "dashboard": {"port": int, "workspace_roots": list},
}


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


SAVES = {"in place": Path.write_text, "by rename": by_rename, "twice": twice, "as a symlink": as_symlink}
BAD_SETTINGS = [
    {"port": 0},
    {"port": 65536},
    {"port": "80"},
    {"port": True},
    {"workspace_roots": "x"},
    {"workspace_roots": [1]},
]


@pytest.fixture(scope="module")
def configurable(start_shared, tmp_path_factory):
    """A server with a home of its own, whose configuration the tests write."""
    return start_shared(at=tmp_path_factory.mktemp("configurable"))


class TestConfig:
    def test_the_document_has_every_section_and_key_of_the_reference(self, shared_server):
        document = shared_server.get("/api/config").json
        for section, keys in REFERENCE.items():
            for key, kind in keys.items():
                assert type(document[section][key]) is kind, f"{section}.{key}"
        assert document["limits"]["runtime"]["auto_stop"] is True
        assert document["security"]["protected_paths"][:4] == [".git/hooks", ".git/config", ".husky", ".vscode"]

    @pytest.mark.day
    def test_put_keeps_roots_over_a_restart(self, start_server, tmp_path):
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

    def test_a_later_edit_of_the_file_wins_for_good(self, start_server, tmp_path):
        (tmp_path / "mine").mkdir()
        server = start_server()
        assert server.put("/api/config", {"workspace_roots": [str(tmp_path)]}).status == 200

        def kept() -> list[str]:
            return server.get("/api/config").json["dashboard"]["workspace_roots"]

        def edit(roots: list[str]) -> None:
            config_file(server).parent.mkdir(parents=True, exist_ok=True)
            config_file(server).write_text(f"[dashboard]\nworkspace_roots = {roots}\n" if roots else "")
            wait_until(
                lambda: server.get("/api/config").json["dashboard"]["workspace_roots"] == roots,
                "the reload",
            )

        edit([str(tmp_path / "mine")])
        edit([])

    def test_put_of_nothing_is_fine(self, shared_server):
        assert shared_server.put("/api/config", {}).status == 200

    @pytest.mark.parametrize(
        "body",
        [
            {"port": 0},
            {"port": 65536},
            {"port": "80"},
            {"port": True},
            {"workspace_roots": "x"},
            {"workspace_roots": [1]},
        ],
    )
    def test_put_of_a_bad_value_is_refused(self, shared_server, body):
        assert shared_server.put("/api/config", body).status == 400

    def test_a_root_that_is_not_there_is_refused(self, shared_server):
        answer = shared_server.put("/api/config", {"workspace_roots": ["/nowhere/at/all"]})
        assert (answer.status, "does not exist" in answer.json["error"]) == (400, True)

    @pytest.mark.day
    def test_a_new_port_is_listened_on_and_the_old_one_let_go(self, clincus_server):
        port = free_port()
        assert clincus_server.put("/api/config", {"port": port}).status == 200
        old, clincus_server.port = clincus_server.port, port
        assert clincus_server.get("/api/config").json["dashboard"]["port"] == port

        def is_closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", old)) != 0

        wait_until(is_closed, "the old port to be let go")

    def test_a_taken_port_is_a_conflict_and_changes_nothing(self, clincus_server):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            answer = clincus_server.put("/api/config", {"port": taken.getsockname()[1]})
        assert answer.status == 409
        assert clincus_server.get("/api/tools").status == 200
        assert not (clincus_server.home / ".clincus" / "dashboard.json").exists()

    def test_the_flag_of_the_start_is_stronger_than_the_file(self, start_server):
        server = start_server(arguments=["--port", str(free_port())])
        events = Events(server)
        config_file(server).write_text(f"[dashboard]\nport = {free_port()}\n")
        wait_until(lambda: "config.reloaded" in events.types(), "the reload")
        assert server.get("/api/tools").status == 200

    @pytest.mark.parametrize("save", SAVES.values(), ids=SAVES.keys())
    @pytest.mark.parametrize("existed", [True, False], ids=["edited", "new"])
    def test_every_way_of_saving_is_seen(self, configurable, save, existed):
        server, file = configurable, config_file(configurable)
        file.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        if existed:
            file.write_text("[defaults]\nmodel = 'one'\n")
        unsaved = "one" if existed else clincus.SETTING["defaults.model"].default
        wait_until(lambda: server.get("/api/config").json["defaults"]["model"] == unsaved, "the start")
        events = Events(server)
        save(file, "[defaults]\nmodel = 'two'\n")
        wait_until(lambda: server.get("/api/config").json["defaults"]["model"] == "two", "the reload")
        wait_until(lambda: "config.reloaded" in events.types(), "the event")

    @pytest.mark.day
    def test_a_broken_file_keeps_the_last_good_config_and_is_told(self, configurable):
        """The files come by a rename: the server may look at one that is written in place while it is empty."""
        server = configurable
        config_file(server).parent.mkdir(parents=True, exist_ok=True)
        by_rename(config_file(server), "[defaults]\nmodel = 'one'\n")
        wait_until(lambda: server.get("/api/config").json["defaults"]["model"] == "one", "the start")
        # A setting waits for the reload, whose event comes a moment after the new values.
        assert server.put("/api/config", {"workspace_roots": []}).status == 200
        events = Events(server)
        events.forget()
        by_rename(config_file(server), "[defaults]\nmodel = 7, oops\n")
        error = wait_until(lambda: server.get("/api/config/sources").json["error"], "the error")
        assert "config.toml" in error
        assert server.get("/api/config").json["defaults"]["model"] == "one"
        assert "config.reloaded" not in events.types()
        by_rename(config_file(server), "[defaults]\nmodel = 'two'\n")
        wait_until(lambda: server.get("/api/config/sources").json["error"] is None, "the mended file")
        assert server.get("/api/config").json["defaults"]["model"] == "two"


class TestWorkspaces:
    @pytest.mark.day
    def test_roots_and_projects_in_the_references_form(self, start_server, workspace):
        clincus_server = start_server(config=NO_CHECKPOINTS)
        root = workspace.parent
        (root / ".hidden").mkdir()
        (root / "file").write_text("")
        added = clincus_server.post("/api/workspaces", {"path": str(root)})
        assert added.json == clincus_server.get("/api/workspaces").json
        assert added.json == {
            "roots": [str(root)],
            "expanded_roots": [str(root)],
            "workspaces": [
                {
                    "path": str(workspace),
                    "name": workspace.name,
                    "root": str(root),
                    "has_config": False,
                    "active_sessions": 0,
                }
            ],
            "truncated": False,
        }
        clincus_server.create(workspace, tool="shell")
        assert clincus_server.get("/api/workspaces").json["workspaces"][0]["active_sessions"] == 1

    @pytest.fixture
    def root(self, configurable, tmp_path):
        """A folder with workspaces, for as long as a test lasts."""
        configurable.post("/api/workspaces", {"path": str(tmp_path)})
        yield tmp_path
        configurable.delete(f"/api/workspaces?path={tmp_path}")

    @pytest.mark.parametrize("where", ["body", "query"])
    def test_a_root_is_removed_by_body_or_query(self, configurable, root, where):
        if where == "body":
            answer = configurable.delete("/api/workspaces", {"path": str(root)})
        else:
            answer = configurable.delete(f"/api/workspaces?path={root}")
        assert (answer.status, answer.json["roots"]) == (200, [])

    def test_a_home_relative_root_is_kept_as_written(self, configurable):
        (configurable.home / "projects").mkdir(parents=True)
        document = configurable.post("/api/workspaces", {"path": "~/projects"}).json
        assert document["roots"] == ["~/projects"]
        assert document["expanded_roots"] == [str(configurable.home / "projects")]
        assert configurable.delete("/api/workspaces?path=~/projects").json["roots"] == []

    def test_a_root_of_a_user_who_does_not_exist_is_shown_and_removed(self, start_server, tmp_path):
        roots = f'[dashboard]\nworkspace_roots = ["~ghost", "{tmp_path}"]\n'
        server = start_server(config=roots)
        (tmp_path / "app").mkdir()
        document = server.get("/api/workspaces").json
        assert document["roots"] == ["~ghost", str(tmp_path)]
        assert "app" in [one["name"] for one in document["workspaces"]]
        assert server.post("/api/workspaces", {"path": "~other-ghost"}).status == 400
        assert server.post("/api/workspaces", {"path": str(tmp_path / "app")}).status == 200
        assert server.delete("/api/workspaces?path=~ghost").json["roots"] == [str(tmp_path), str(tmp_path / "app")]

    def test_a_folder_is_made_in_a_root(self, configurable, root):
        body = {"root": str(root), "name": "my-app"}
        made = configurable.post("/api/workspaces/folder", body)
        assert (made.status, made.json) == (201, {"path": str(root / "my-app")})
        assert configurable.post("/api/workspaces/folder", body).status == 409

    def test_a_folder_can_be_made_a_repository(self, configurable, root):
        body = {"root": str(root), "name": "my-app", "git": True}
        assert configurable.post("/api/workspaces/folder", body).status == 201
        assert git(root / "my-app", "rev-parse", "--is-inside-work-tree") == "true\n"

    def test_a_folder_name_that_is_not_kebab_case_is_refused(self, configurable, root):
        for name in ("", "My", "a b", "-a", "a-", "a--b", "a\n", "../x", "é", "a/b"):
            answer = configurable.post("/api/workspaces/folder", {"root": str(root), "name": name})
            assert answer.status == 400, name

    def test_a_folder_outside_the_roots_is_refused(self, shared_server, tmp_path):
        assert shared_server.post("/api/workspaces/folder", {"root": str(tmp_path), "name": "x"}).status == 400


class TestStatic:
    def test_the_page_has_an_etag_and_is_not_sent_twice(self, shared_server):
        page = shared_server.get("/")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        again = shared_server.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status, again.body) == (304, b"")

    @pytest.mark.day
    def test_unknown_paths_fall_back_to_the_page_and_assets_do_not(self, shared_server):
        page = shared_server.get("/").body
        for path in ("/sessions", "/sessions/clincus-a1b2c3-1/files", "/settings", "/nothing.js"):
            assert shared_server.get(path).body == page
        for path in ("/assets/nothing.js", "/assets/"):
            assert shared_server.get(path).status == 404

    @pytest.mark.day
    def test_hashed_assets_are_compressed_and_immutable(self, shared_server):
        page = shared_server.get("/").body.decode()
        [path] = re.findall(r'"(/assets/index-[^"]+\.js)"', page)
        plain = shared_server.get(path)
        packed = shared_server.get(path, headers={"Accept-Encoding": "gzip"})
        assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["content-type"].startswith("text/javascript")
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body

    def test_an_answer_that_the_page_has_is_not_sent_twice(self, shared_server):
        for path in ("/api/config", "/api/sessions", "/api/workspaces"):
            first = shared_server.get(path, headers={"Accept-Encoding": "gzip"})
            again = shared_server.get(path, headers={"If-None-Match": first.headers["etag"]})
            assert (again.status, again.body) == (304, b""), path
            packed = first.headers.get("content-encoding") == "gzip"
            assert json.loads(gzip.decompress(first.body) if packed else first.body) == shared_server.get(path).json

    @pytest.mark.parametrize("path", ["/api/nothing", "/ws/nothing", "/ws"])
    def test_unknown_api_paths_are_json_404(self, shared_server, path):
        answer = shared_server.get(path)
        assert answer.status == 404
        assert answer.json["error"]

    @pytest.mark.parametrize("path", ["/../clincus.py", "/..%2fclincus.py", "/%2e%2e/clincus.py", "//etc/passwd"])
    def test_nothing_outside_the_folder_is_served(self, shared_server, path):
        assert b"Clincus runs AI coding tools" not in shared_server.get(path).body

    def test_a_wrong_method_names_the_right_ones(self, shared_server):
        answer = shared_server.put("/api/sessions")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")

    def test_a_body_is_never_read_as_the_next_request(self, shared_server):
        connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=DEADLINE)
        body = b"GET /api/tools HTTP/1.1\r\nHost: x\r\n\r\n"
        for method, path in (("GET", "/api/tools"), ("DELETE", "/api/nothing"), ("POST", "/"), ("PUT", "/api/config")):
            connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
            connection.getresponse().read()
        connection.request("GET", "/api/tools")
        assert json.loads(connection.getresponse().read())[:3] == ["claude", "copilot", "opencode"]


class TestEnd:
    @pytest.mark.day
    def test_a_signal_closes_sockets_with_a_code_and_leaves_no_child(self, start_server, workspace):
        server = start_server(config=NO_CHECKPOINTS)
        session = server.create(workspace)
        self.check_end(server, session, signal.SIGTERM)
        again = start_server()
        wait_until(lambda: again.get(f"/api/sessions/{session['id']}").status == 200, "the session")
        self.check_end(again, session, signal.SIGINT)

    def check_end(self, server, session, how) -> None:
        assert self.close_codes(server, ("/ws/events", f"/ws/terminal/{session['id']}"), how) == [1001, 1001]
        assert server.children() == []

    def close_codes(self, server, paths, how) -> list:
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

    def test_a_taken_port_is_said_in_one_line(self, start_server):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(AssertionError, match="did not come up") as raised:
                start_server(arguments=["--port", str(taken.getsockname()[1])])
        assert "Error: " in str(raised.value)
        assert "Traceback" not in str(raised.value)

    @pytest.mark.day
    def test_without_incus_the_server_serves_and_says_what_to_do(self, start_server, tmp_path):
        server = start_server(environ={"INCUS_DIR": str(tmp_path / "none")})
        answer = server.get("/api/sessions")
        assert (answer.status, "clincus setup" in answer.json["error"]) == (503, True)
        assert server.get("/").status == 200
        assert server.get("/api/config").status == 200


def test_the_daemons_restart_is_survived(bed, start_server, workspace):
    """The daemon goes and comes back: the session is told once, and the listing is true again."""
    clincus_server = start_server(config=NO_CHECKPOINTS)
    session = clincus_server.create(workspace, tool="shell")
    events = Events(clincus_server, ["clincus.events.v1"])
    if bed.daemon is None:
        pytest.skip("a restart would touch a daemon that is not ours")
    bed.restart()
    wait_until(lambda: "incus.reachable" in events.types(), "the event")
    told = [event for event in events.seen if event["type"] == "incus.unreachable"]
    assert told
    assert told[0]["error"]
    wait_until(lambda: clincus_server.get("/api/sessions").status == 200, "the listing")
    listed = clincus_server.get("/api/sessions").json
    assert [(one["id"], one["status"]) for one in listed] == [(session["id"], "running")]
    assert {"session.started", "session.stopped"}.isdisjoint(events.of(session["id"]))
    bed.stop(session["id"])
    wait_until(lambda: "session.stopped" in events.of(session["id"]), "the stop")


@pytest.fixture
def hung_daemon(bed):
    """An Incus that accepts connections and answers nothing, until the test is over."""
    with hung(bed):
        yield


def test_health_says_what_does_not_answer(clincus_server, hung_daemon):
    report = clincus_server.get("/api/health").json
    assert (report["status"], report["checks"]["incus"]["status"]) == ("unhealthy", "failed")
    assert report["checks"]["incus"]["message"].startswith("No answer within")


def test_a_new_subscriber_is_told_that_incus_cannot_be_reached(start_server, tmp_path):
    server = start_server(environ={"INCUS_DIR": str(tmp_path / "none")})
    assert server.get("/api/sessions").status == 503
    events = Events(server, ["clincus.events.v1"])
    wait_until(lambda: events.seen, "the event")
    assert events.seen[0]["type"] == "incus.unreachable"
    assert "clincus setup" in events.seen[0]["error"]


def test_another_project_is_no_outage(bed, start_server, workspace):
    server = start_server(config=f"{NO_CHECKPOINTS}[incus]\nproject = 'default'\n")
    server.create(workspace, tool="shell")
    events = Events(server, ["clincus.events.v1"])
    bed.incus.run("project", "create", "clincus-test-empty")
    try:
        by_rename(config_file(server), "[incus]\nproject = 'clincus-test-empty'\n")
        wait_until(lambda: "config.reloaded" in events.types(), "the reload")
        answer = server.get("/api/sessions")
        assert (answer.status, answer.json) == (200, [])
        assert "incus.unreachable" not in events.types()
    finally:
        server.stop()
        bed.incus.run("project", "delete", "clincus-test-empty")


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
    clincus_server = start_server(config=NO_CHECKPOINTS)
    session = clincus_server.create(workspace)
    one = f"/api/sessions/{session['id']}"
    (workspace / "file").write_text("")
    asks_incus = ("/api/images", f"{one}/files", f"{one}/files/content?path=file", f"{one}/scrollback")
    answers = {}

    def ask(path: str) -> None:
        answers[path] = clincus_server.get(path, timeout=DEADLINE)

    with hung(bed):
        threads = [threading.Thread(target=ask, args=(path,)) for path in (*asks_incus, "/api/tools", "/api/sessions")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for path in asks_incus:
        assert answers[path].status in {500, 503}, path
        assert "ncus" in answers[path].json["error"]
    assert answers["/api/tools"].status == 200


@pytest.mark.day
def test_a_sessions_log_says_who_asked_for_what_and_when_it_ran(shared_server, workspace):
    id, clincus_server = shared_server.create(workspace, tool="shell")["id"], shared_server
    log = f"/api/sessions/{id}/log"

    def told() -> list[str]:
        return [entry["what"].partition(" since")[0] for entry in clincus_server.get(log).json]

    wait_until(lambda: "The session runs" in told(), "the entry of the start")
    assert clincus_server.request("DELETE", f"/api/sessions/{id}?force=true").status == 204
    wait_until(lambda: "The container is deleted" in told(), "the entry of the end")
    asked = [entry for entry in clincus_server.get(log).json if entry["kind"] == "request"]
    assert [(entry["what"], entry["status"], entry["from"]) for entry in asked] == [
        ("Delete the container", 204, "127.0.0.1"),
        ("Create and start a session", 200, "127.0.0.1"),
    ]


def test_a_port_that_somebody_else_has_on_the_other_loopback_is_refused(start_server):
    """A browser that opens http://localhost:PORT would send its cookies and tickets there."""
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AssertionError, match=f"port {port} cannot be used on ::1: Address already in use"):
            start_server(port=port)


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
