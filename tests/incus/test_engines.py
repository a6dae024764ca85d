"""Sessions on an engine: a daemon of our own that is reached over HTTPS, as a server elsewhere would be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from network_box import ASK, Upstream, tunnel
from websockets.exceptions import ConnectionClosed

import clincus
from tests.conftest import new_workspace
from tests.engines_bed import Engine, far_daemon
from tests.faults_bed import Halt, run_cli
from tests.incus_bed import Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, Answer, Server, connect, git, wait_until

COMMIT = "cd /workspace; HOME=/home/code git -c user.name=a -c user.email=a@b commit -q --allow-empty -m 'from there'"
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
def test_a_session_there_lives_as_one_here_and_a_clone_of_a_folder_here_too(server, far, there, make_workspace):
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

    here = make_workspace("mine")
    made = server.create(here, engine="far")
    assert (made["mode"], made["workspace"]) == ("clone", str(here))
    far.exec(made["id"], ["sh", "-c", COMMIT])
    assert server.delete(f"/api/sessions/{made['id']}").status == 204
    fetched = server.post(f"/api/sessions/{made['id']}/fetch", {}).json
    assert git(here, "log", "-1", "--format=%s", fetched["branch"]).strip() == "from there"


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
    assert server.request("PATCH", path, {"allow": ["other.example"]}).status == 200
    assert asked(far, id, get).startswith("HTTP/1.1 403 ")
    assert server.request("PATCH", path, {"network": "none"}).status == 200
    assert asked(far, id, get) == ""
    far.exec(id, ["rm", "/usr/bin/perl"], user=0)
    refused = server.request("PATCH", path, {"network": "allow-list"})
    assert (refused.status, "has no Perl" in refused.json["error"]) == (409, True)


def test_the_command_line_makes_containers_and_images_there_and_reaches_a_session(bed, server, far, there, tmp_path):
    bed_here = Bed(bed.incus, {**bed.environ, **far.environ})

    def run(*words: str) -> str:
        done = run_cli(bed_here, server, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def aliases() -> list[str]:
        return sorted(one["name"] for image in far.query("/1.0/images?recursion=1") for one in image["aliases"])

    before = aliases()
    run("container", "launch", "clincus", "far:box")
    run("container", "stop", "far:box", "--force")
    for day in (1, 2):
        run("image", "publish", "far:box", f"mine-2027030{day}-080000")
    run("container", "delete", "far:box", "--force")
    assert "mine-20270301-080000" in run("image", "cleanup", "mine-", "--keep", "1", "--engine", "far")
    run("image", "delete", "mine-20270302-080000", "--engine", "far")
    assert aliases() == before
    assert "✓ clincus" in run("images", "--engine", "far")

    id = server.create(there, engine="far", mode="mount")["id"]
    (tmp_path / "sent").write_text("over there\n")
    run("file", "push", str(tmp_path / "sent"), f"{id}:/tmp/there")
    run("snapshot", "create", "one", "-c", id)
    run("container", "exec", id, "rm", "/tmp/there")
    run("snapshot", "restore", "one", "-c", id, "--force")
    run("file", "pull", f"{id}:/tmp/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "over there\n"
    run("tmux", "send", id, "hello")
    wait_until(lambda: "echo: hello" in run("tmux", "capture", id), "what was typed")
