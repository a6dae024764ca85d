"""Sessions on an engine: a daemon of our own that is reached over HTTPS, as a server elsewhere would be."""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from network_box import ASK, Upstream, tunnel
from test_lying_programs import replace_program, restore_programs
from test_silent import HANGS
from websockets.exceptions import ConnectionClosed

import clincus
from tests.conftest import new_workspace
from tests.engines_bed import Engine, Relay, far_daemon
from tests.faults_bed import Halt, talk
from tests.incus.review_box import HASTY_TOOL, PATIENT
from tests.programs import DEADLINE, NO_CHECKPOINTS, Answer, Server, connect, git, program, wait_until

CONFIG = '[engines.far]\nroots = ["{}"]\n[network]\nreachable = ["127.0.0.1/32"]\n'


@pytest.fixture(scope="module")
def far(bed) -> Iterator[Engine]:
    with far_daemon(bed) as made:
        yield made


@pytest.fixture(scope="module")
def halt(tmp_path_factory) -> Halt:
    """Stops a create of a server of this file: there is a container, and no tool in it yet."""
    return Halt(tmp_path_factory.mktemp("halt"), "new-session")


@pytest.fixture(scope="module")
def shared(start_shared, far, halt, tmp_path_factory) -> Server:
    """A server with the engine `far` for those tests that end the sessions they begin; it makes no checkpoints."""
    config = NO_CHECKPOINTS + CONFIG.format(tmp_path_factory.getbasetemp())
    return start_shared(config=config, environ={**far.environ, **halt.environ})


@pytest.fixture(scope="module")
def shared_pair(shared, far, keep_session, tmp_path_factory) -> tuple[str, str]:
    """The ids of a session here and of one there, for those tests that leave them running."""
    there = shared.create(new_workspace(tmp_path_factory.mktemp("there") / "project"), engine="far", mode="mount")["id"]
    far.kept.add(clincus.instance_name(there))
    return keep_session(shared)["id"], there


@pytest.fixture
def there(workspace) -> Path:
    """A project on the host of the engine."""
    return workspace


@pytest.fixture
def server(start_server, far, halt, there) -> Iterator[Server]:
    """A server with the engine `far`, on which projects may be mounted."""
    yield start_server(config=CONFIG.format(there.parent), environ={**far.environ, **halt.environ})
    far.delete_all()


def listed(server: Server) -> dict[str, dict]:
    """The sessions by their ids."""
    answer = server.get("/api/sessions")
    assert answer.status == 200, answer.body
    return {one["id"]: one for one in answer.json}


def engine(server: Server, name: str = "far") -> dict:
    return next(one for one in server.get("/api/engines").json if one["name"] == name)


def asked(far: Engine, id: str, request: bytes) -> str:
    """What the proxy answers a program of a session's container."""
    return far.exec(id, ["perl", "-e", ASK], request)


def typed(server: Server, id: str, text: str, shown: str) -> None:
    """Type a line into a session's terminal, and wait for what it shows."""
    with connect(f"{server.socket_url}/ws/terminal/{id}?cols=120&rows=30") as terminal:
        terminal.send(f"{text}\r".encode())
        seen = ""
        while shown not in seen:
            seen += terminal.recv(timeout=DEADLINE).decode("utf-8", "replace")


@pytest.mark.day
def test_a_session_there_lives_as_one_here(server, far, there):
    made = server.create(there, engine="far", mode="mount", name="over there")
    id, path = made["id"], f"/api/sessions/{made['id']}"
    assert id.startswith("far:clincus-")
    assert (made["engine"], made["status"], made["workspace"]) == ("far", "running", str(there))
    assert (made["protection"], made["unreachable_since"]) == ("locked", "")
    wait_until(lambda: server.get(f"{path}/checkpoints").json, "the first checkpoint")
    typed(server, id, "hello", "echo: hello")
    typed(server, id, "sh touch made-there && echo done-$((1 + 1))", "done-2")
    assert (there / "made-there").stat().st_uid == 1000
    assert [one["path"] for one in server.get(f"{path}/changes").json["files"]] == ["made-there"]
    assert server.get(f"{path}/changes/file?path=made-there").json["new"] == ""
    undone = server.post(f"{path}/restore", {"checkpoint": "start", "paths": ["made-there"]}).json
    assert (undone["removed"], (there / "made-there").exists()) == (["made-there"], False)
    assert "README.md" in [one["name"] for one in server.get(f"{path}/files?path=").json["entries"]]
    assert server.get(f"{path}/agent").status == 200
    assert server.get(f"{path}/usage").json["processes"] > 0
    assert server.request("PATCH", path, {"network": "none"}).json["network"]["mode"] == "none"
    assert server.request("PATCH", path, {"network": "allow-list"}).json["network"]["mode"] == "allow-list"
    assert asked(far, id, tunnel("evil.example:443")).startswith("HTTP/1.1 403 ")
    assert [one["host"] for one in server.get(f"{path}/network").json["refused"]] == ["evil.example"]
    assert 3128 not in [one["port"] for one in server.get(f"{path}/ports").json["ports"]]
    assert server.delete(path).status == 204
    assert listed(server)[id]["status"] == "stopped"
    assert server.post(f"{path}/resume").json["status"] == "running"
    typed(server, id, "again", "earlier: hello")
    assert server.delete(f"{path}?force=true").status == 204
    assert id not in listed(server)
    assert [run["id"] for run in server.get("/api/sessions/history").json] == [id, id]


@pytest.fixture
def pair(server, there, make_workspace) -> tuple[str, str]:
    """The ids of a session here and of one there."""
    return server.create(make_workspace("near"))["id"], server.create(there, engine="far", mode="mount")["id"]


def unreachable(server: Server, id: str) -> bool:
    return bool(listed(server)[id]["unreachable_since"])


def test_an_engine_that_stops_hides_nothing_and_comes_back(shared, start_shared, far, shared_pair):
    server, (near, id), daemon = shared, shared_pair, far.daemons[0]
    memory = server.home / ".clincus" / "engine-far.json"
    wait_until(lambda: memory.exists() and clincus.instance_name(id) in memory.read_text(), "what is remembered of it")
    with connect(f"{server.socket_url}/ws/terminal/{id}?cols=120&rows=30") as terminal:
        daemon.kill()
        try:
            with pytest.raises(ConnectionClosed):
                deque(iter(lambda: terminal.recv(timeout=DEADLINE), ""), maxlen=0)
            wait_until(lambda: unreachable(server, id), "the loss to be seen")
            assert {listed(server)[one]["status"] for one in shared_pair} == {"running"}
            assert (engine(server)["reachable"], engine(server, "")["reachable"]) == (False, True)
            for refused in (
                server.post(f"/api/sessions/{id}/prompt", {"text": "lost?"}),
                server.post(f"/api/sessions/{id}/resume"),
                server.delete(f"/api/sessions/{id}?force=true"),
                server.get(f"/api/sessions/{id}/unsaved"),
            ):
                assert (refused.status, refused.json["error"].split(":")[0]) == (503, "engine far")
            typed(server, near, "still here", "echo: still here")
            again = start_shared(environ=far.environ)
            wait_until(lambda: id in listed(again), "what is remembered of the engine")
            assert (listed(again)[id]["status"], unreachable(again, id)) == ("running", True)
            assert engine(again)["since"] <= engine(server)["since"]
        finally:
            daemon.start()
    wait_until(lambda: not unreachable(again, id), "the engine to be back for the server that never saw it")
    again.stop()
    wait_until(lambda: not unreachable(server, id), "the engine to be back")
    typed(server, id, "back", "echo: back")
    runs = [run for run in server.get("/api/sessions/history").json if run["id"] in shared_pair]
    assert [run["ended_at"] for run in runs] == [None, None]


# Labels as an engine of somebody else's may have them.
BAD_LABELS = {
    "tool_row": '{"start": ["x"], "saved": ["a"], "conversation": "a/(a+)+b", "rules": [{"match": "(a+)+b"}]}',
    "guest": '{"nope": 1}',
    "settings": '{"no.such.key": 1, "network.mode": ["x"]}',
    "deadline": "9999-12-31T23:59:59-14:00",
    "clone": "[]",
    "mode": "\x1b[2J",
    "protection": "\x1b[2J",
    "outside": "}",
    "session_id": "../../../etc",
    "workspace": "relative/\u202e",
    "warnings": "\x1b]0;owned\x07",
    "network": "{",
}


def test_labels_of_an_engine_that_describe_nothing_cost_their_session_alone(shared, far, shared_pair, make_workspace):
    server, near = shared, shared_pair[0]
    made = server.create(make_workspace("ruined"), engine="far", mode="mount", tool="shell")
    id, path = made["id"], f"/api/sessions/{made['id']}"
    name = clincus.instance_name(id)
    far.exec(id, ["sh", "-c", "mkdir -p ~/a; touch ~/a/" + 60 * "a"])
    before = far.query(f"/1.0/instances/{name}")["config"]
    for label, value in BAD_LABELS.items():
        own = f"user.clincus.{label}"
        far.incus("config", "set", f"{far.remote}:{name}", f"{own}={value}")
        wait_until(lambda: engine(server)["reachable"], label)
        for _ in range(2):  # before and after the server has seen it
            assert near in listed(server), label
            for way in ("", "/agent", "/changes", "/unsaved", "/usage", "/cost", "/files?path=", "/log", "/transcript"):
                answer = server.get(f"{path}{way}")
                assert "Clincus itself failed" not in str(answer.body), (label, way)
        typed(server, near, f"after {label}", f"echo: after {label}")
        far.incus("config", "set", f"{far.remote}:{name}", f"{own}={before.get(own, '')}")
        wait_until(lambda: id in listed(server), f"{label} as it was")
    assert "Traceback" not in server.log()
    assert server.delete(f"{path}?force=true").status == 204


def taken(answer: Answer) -> Answer | None:
    """The answer, unless Incus was at fault."""
    return None if answer.status in (500, 503, 504) else answer


def test_an_engine_that_hangs_delays_no_other_and_takes_no_prompt(shared, far, shared_pair):
    server, (near, id) = shared, shared_pair
    with far.daemons[0].hung(), ThreadPoolExecutor() as pool:
        prompt = pool.submit(server.post, f"/api/sessions/{id}/prompt", {"text": "lost?"})
        assert listed(server)[near]["status"] == "running"
        assert not prompt.done(), "the session here waited for the engine that hangs"
        typed(server, near, "quick", "echo: quick")
        wait_until(lambda: unreachable(server, id), "the loss to be seen")
        assert prompt.result().status in (500, 503)
        assert server.post("/api/sessions", {"workspace": "/nowhere", "engine": "far", "mode": "mount"}).status == 503
    wait_until(lambda: not unreachable(server, id), "the engine to be back")
    # Incus may lose the first command after that.
    sent = wait_until(lambda: taken(server.post(f"/api/sessions/{id}/prompt", {"text": "and then"})), "a taken prompt")
    assert sent.json["result"] == "queued"  # for the stub
    assert [one["text"] for one in server.get(f"/api/sessions/{id}/prompts").json] == ["and then"]
    typed(server, id, "back", "echo: back")


def test_a_create_on_an_engine_that_is_lost_leaves_nothing(shared, far, there, halt):
    server, daemon, before = shared, far.daemons[0], listed(shared).keys()
    body = {"workspace": str(there), "engine": "far", "mode": "mount"}
    with ThreadPoolExecutor() as pool, halt.armed():
        create = pool.submit(server.post, "/api/sessions", body)
        halt.wait()
        assert far.names(), "the container is begun"
        daemon.kill()
        halt.release()
        try:
            answer = create.result()
        finally:
            daemon.start()
            wait_until(lambda: engine(server)["reachable"], "the engine to be back")
    assert answer.status == 503, answer.body
    assert "far" in answer.json["error"]
    wait_until(lambda: not far.names(), "the half-made container to be gone")
    wait_until(lambda: listed(server).keys() == before, "the session to be gone")


def test_a_server_ends_soon_while_an_engine_and_a_container_hang(
    bed, server, start_server, far, there, *, make_workspace, note
):
    """Requests that wait for them go on meanwhile: none holds up the end, and nothing is lost by it."""
    id = server.create(there, engine="far", mode="mount")["id"]
    near = talk(bed, server, make_workspace("near"), mode="clone")["id"]
    for name in ("find", "git", "tar", "tail"):
        replace_program(bed, near, name, HANGS)
    requests = [
        ("DELETE", f"/api/sessions/{id}", None),
        ("DELETE", f"/api/sessions/{near}", None),
        ("GET", f"/api/sessions/{id}/unsaved", None),
        ("GET", f"/api/sessions/{near}/changes", None),
        ("GET", f"/api/sessions/{near}/files", None),
        ("POST", "/api/sessions", {"workspace": str(there), "engine": "far", "mode": "mount"}),
    ]

    def ask(request: tuple[str, str, object]) -> int:
        try:
            return server.request(*request).status
        except (OSError, HTTPException):  # the server has ended
            return 0

    with far.daemons[0].hung(), ThreadPoolExecutor(len(requests)) as pool:
        asked = [pool.submit(ask, request) for request in requests]
        wait_until(lambda: [one["status"] for one in listed(server).values()].count("stopping") == 2, "the stops")
        began = time.monotonic()
        assert server.stop() == 0
        note(f"end of a server while an engine and a container hang: {time.monotonic() - began:.1f} s")
        assert server.children() == []
        assert all(one.result() in (0, 200, 204, 409, 503, 504) for one in asked)
    restore_programs(bed, near)
    again = start_server(environ=far.environ)
    wait_until(lambda: listed(again).keys() >= {id, near} and not unreachable(again, id), "both sessions")
    assert again.post(f"/api/sessions/{near}/resume").status == 200
    assert again.delete(f"/api/sessions/{near}").status == 204
    assert any("remember the milk" in path.read_text() for path in again.home.rglob("*.jsonl"))


def test_an_engine_that_hangs_in_the_middle_of_a_create_leaves_nothing(server, far, there, halt, make_workspace):
    near = server.create(make_workspace("near"))["id"]
    body = {"workspace": str(there), "engine": "far", "mode": "mount"}
    with ThreadPoolExecutor() as pool, halt.armed():
        create = pool.submit(server.post, "/api/sessions", body, timeout=120)
        halt.wait()
        with far.daemons[0].hung():
            halt.release()
            rounds = 0
            while not create.done():
                typed(server, near, "quick", "echo: quick")
                rounds += 1
            answer = create.result()
        assert (answer.status in (500, 503), "far" in answer.json["error"]) == (True, True), answer.body
        assert rounds > 1, "the session here waited for the engine that hangs"
    wait_until(lambda: engine(server)["reachable"], "the engine to be back")
    wait_until(lambda: far.query("/1.0/instances") == [], "the half-made container to be gone")
    wait_until(lambda: listed(server).keys() == {near}, "the session to be gone")
    assert server.create(there, engine="far", mode="mount")["status"] == "running"


@pytest.fixture
def run(server, bed, far):
    """A function that runs a command line that succeeds, and gives what it prints."""
    environ = {**os.environ, **bed.environ, **far.environ, "HOME": str(server.home)}

    def run_one(*words: str) -> str:
        done = subprocess.run(
            [*program(), *words], env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run_one


def test_the_command_line_makes_containers_and_images_there(run, far):
    def aliases() -> list[str]:
        return sorted(one["name"] for image in far.query("/1.0/images?recursion=1") for one in image["aliases"])

    before = aliases()
    assert run("container", "launch", "clincus", "far:box") == "Container far:box launched from clincus\n"
    run("container", "stop", "far:box", "--force")
    run("image", "publish", "far:box", "mine-20270301-080000")
    run("image", "publish", "far:box", "mine-20270302-080000")
    run("container", "start", "far:box")
    run("container", "running", "far:box")
    run("container", "delete", "far:box", "--force")
    assert far.query("/1.0/instances") == []
    assert "mine-20270301-080000" in run("image", "cleanup", "mine-", "--keep", "1", "--engine", "far")
    assert aliases() == sorted([*before, "mine-20270302-080000"])
    run("image", "delete", "mine-20270302-080000", "--engine", "far")
    assert aliases() == before


def test_the_command_line_reaches_a_session_there(server, run, there, tmp_path):
    id = server.create(there, engine="far", mode="mount")["id"]
    (tmp_path / "sent").write_text("over there\n")
    run("file", "push", str(tmp_path / "sent"), f"{id}:/tmp/there")
    assert run("container", "exec", id, "cat", "/tmp/there") == "over there\n"
    run("file", "pull", f"{id}:/tmp/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "over there\n"
    run("tmux", "send", id, "hello")
    wait_until(lambda: "echo: hello" in run("tmux", "capture", id), "what was typed")
    assert id in run("tmux", "list")
    run("snapshot", "create", "one", "-c", id)
    run("container", "exec", id, "rm", "/tmp/there")
    run("snapshot", "restore", "one", "-c", id, "--force")
    assert run("container", "exec", id, "cat", "/tmp/there") == "over there\n"
    assert id in run("snapshot", "list", "--all")
    assert "✓ clincus" in run("images", "--engine", "far")
    assert "has it already" in run("engine", "update", "far")


def test_a_clone_of_a_folder_here_is_what_a_session_there_gets(shared, make_workspace):
    server, here = shared, make_workspace("mine")
    made = server.create(here, engine="far")
    assert (made["mode"], made["workspace"]) == ("clone", str(here))
    say = 'sh git -c user.name=a -c user.email=a@b commit -q --allow-empty -m "from there" && echo done-$((1 + 1))'
    typed(server, made["id"], say, "done-2")
    assert server.delete(f"/api/sessions/{made['id']}").status == 204
    fetched = server.post(f"/api/sessions/{made['id']}/fetch", {}).json
    assert git(here, "log", "-1", "--format=%s", fetched["branch"]).strip() == "from there"
    assert server.delete(f"/api/sessions/{made['id']}?force=true").status == 204


@pytest.mark.parametrize("mode", ["mount", "clone"])
def test_a_start_there_is_the_folder_before_the_tool_writes_at_once(start_server, far, there, mode):
    for name in ("gone", "uncommitted"):
        (there / name).write_text("one\n")
        os.chown(there / name, 1000, 1000)
    config = HASTY_TOOL + CONFIG.format(there.parent)
    server = start_server(config=config, command=PATIENT, environ=far.environ)
    path = f"/api/sessions/{server.create(there, engine='far', mode=mode, tool='hasty', prompt='go')['id']}"
    changed = {"README.md": "M", "at-once": "A", "gone": "D", "uncommitted": "M"}
    found = lambda: {one["path"]: one["status"] for one in server.get(f"{path}/changes").json.get("files", [])}  # noqa: E731
    wait_until(lambda: found() == changed, "what the tool has done at once")
    start = server.get(f"{path}/checkpoints").json[-1]
    assert (start["why"], start["note"]) == ("start", "")
    assert server.delete(f"{path}?force=true").status in (200, 204)


@pytest.fixture
def wire(far, server) -> Iterator[Relay]:
    """What the server reaches the engine through."""
    with far.through_relay() as relay:
        wait_until(lambda: engine(server)["reachable"], "the engine through the relay")
        yield relay


def test_a_network_that_is_cut_in_the_middle_of_a_create_and_of_a_prompt_loses_neither_host(
    server, far, pair, wire, halt
):
    """Nothing is refused and nothing answers; the daemon there goes on."""
    near, id = pair
    with ThreadPoolExecutor() as pool, halt.armed():
        body = {"workspace": server.get(f"/api/sessions/{id}").json["workspace"], "engine": "far", "mode": "mount"}
        create = pool.submit(server.post, "/api/sessions", body, timeout=120)
        halt.wait()
        with wire.cut():
            halt.release()
            prompt = pool.submit(server.post, f"/api/sessions/{id}/prompt", {"text": "lost?"}, timeout=120)
            rounds = 0
            while not unreachable(server, id):
                typed(server, near, "quick", "echo: quick")
                rounds += 1
            assert rounds > 1, "the session here waited for the engine that is cut off"
            assert {create.result().status, prompt.result().status} <= {500, 503}
    wait_until(lambda: not unreachable(server, id), "the engine to be back")
    wait_until(lambda: len(far.query("/1.0/instances")) == 1, "the half-made container to be gone")
    wait_until(lambda: listed(server).keys() == {near, id}, "the session to be gone")
    typed(server, id, "back", "echo: back")


@pytest.fixture
def upstream(tmp_path) -> Iterator[Upstream]:
    made = Upstream(tmp_path)
    yield made
    made.close()


def test_a_list_of_names_there_holds_beside_another_host_while_the_engine_is_away_and_heals(
    server, shared, far, there, upstream
):
    """`shared` has its own home, so it is another host that uses the engine and wants to carry the connections."""
    name = f"localhost:{upstream.plain}"
    made = server.create(there, engine="far", mode="mount", network="allow-list", allow=[name], presets=[])
    id, path = made["id"], f"/api/sessions/{made['id']}"
    get = f"GET http://{name}/repository/HEAD HTTP/1.1\r\n\r\n".encode()
    assert asked(far, id, get).endswith("ref: refs/heads/main\n"), "at once, as soon as the session is there"
    begun = len(server.log())  # the line may have begun twice: Incus may lose sight of a command, which goes on
    wait_until(lambda: id in listed(shared), "the other host to see the session")
    assert asked(far, id, get).endswith("ref: refs/heads/main\n"), "the other host leaves the line alone"
    assert "the way to its proxy broke" not in server.log()[begun:]
    assert far.exec(id, ["ls", "/sys/class/net"]) == "lo\n"
    daemon = far.daemons[0]
    daemon.kill()
    daemon.start()
    wait_until(lambda: not unreachable(server, id), "the engine to be back")
    wait_until(lambda: asked(far, id, get).endswith("main\n"), "the way out, after the daemon was away")
    wait_until(lambda: not unreachable(server, id), "the engine to be back")
    assert server.delete(path).status == 204
    assert server.post(f"{path}/resume").status == 200
    wait_until(lambda: asked(far, id, get).endswith("main\n"), "the way out, after a resume")
    assert server.request("PATCH", path, {"allow": ["other.example"]}).status == 200
    assert asked(far, id, get).startswith("HTTP/1.1 403 ")
    assert server.request("PATCH", path, {"network": "open"}).status == 200
    assert asked(far, id, get).endswith("main\n"), "programs that know the proxy still get through"
    assert server.request("PATCH", path, {"network": "none"}).status == 200
    assert asked(far, id, get) == ""
    far.exec(id, ["rm", "/usr/bin/perl"], user=0)
    refused = server.request("PATCH", path, {"network": "allow-list"})
    assert (refused.status, "has no Perl" in refused.json["error"]) == (409, True)


def test_what_serves_in_a_session_there_is_seen_here(server, far, there):
    """Each connection is a command there. The card is away, and the app listens on loopback only."""
    id = server.create(there, engine="far", mode="mount", network="none")["id"]
    path = f"/api/sessions/{id}/ports"
    say = "mkdir /srv/web && head -c 5000000 /dev/zero >/srv/web/big && busybox httpd -p 127.0.0.1:8088 -h /srv/web"
    far.exec(id, ["sh", "-c", say], user=0)
    wait_until(lambda: 8088 in [one["port"] for one in server.get(path).json["ports"]], "the app to listen")
    link = urlsplit(server.post(f"{path}/8088").json["url"])
    assert link.netloc == f"8088-{id.replace(':', '--')}.localhost:{server.port}"
    let_in = server.request("GET", f"{link.path}?{link.query}", headers={"Host": link.netloc})
    cookie = let_in.headers["set-cookie"].partition(";")[0]

    def ask(file: str) -> Answer:
        return server.request("GET", file, headers={"Host": link.netloc, "Cookie": cookie})

    assert len(ask("/big").body) == 5_000_000
    with ThreadPoolExecutor() as pool:
        assert [one.status for one in pool.map(ask, ["/big", "/nothing"] * 4)] == [200, 404] * 4
    assert server.delete(f"{path}/8088").status == 204
    assert ask("/big").status == 403
