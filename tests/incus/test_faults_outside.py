"""Others at work beside the server: containers that vanish, a power cut, many programs at once, an upgrade."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import build_zipapp
from tests.faults_bed import broken_client, own, run_cli, say, start_daemon_again, talk, wait_for_screen
from tests.incus_bed import Bed, processes_with
from tests.programs import DEADLINE, NO_CHECKPOINTS, Answer, Server, connect, wait_until

# Action -> the request, and words of the `incus` command line before which the container is deleted.
VANISHES: dict[str, tuple[str, str, Any, str]] = {
    "a create": ("POST", "/api/sessions", None, " exec "),
    "a resume": ("POST", "{one}/resume", None, " exec "),
    "a stop": ("DELETE", "{one}", None, " stop "),
    "the save of a stop": ("DELETE", "{one}", None, " exec "),
    "a snapshot": ("POST", "{one}/snapshots", {"name": "now"}, "/snapshots"),
    "a look at its files": ("GET", "{one}/files?path=", None, " exec "),
    "an undo": ("POST", "{one}/restore", {"checkpoint": "start"}, " exec "),
    "a restore": ("POST", "{one}/snapshots/kept/restore", {}, " PUT "),
    "a new name": ("PATCH", "{one}", {"name": "mine"}, " PATCH "),
    "an upload": ("POST", "{one}/uploads?name=new", b"new", " exec "),
    "a look at its changes": ("GET", "{one}/changes", None, " exec "),
}


# Deletes a container before a command: the file `now` has its name and the command's words.
VANISH = """if mark=$(cat {now} 2>/dev/null) && [[ " $* " == *"${{mark#* }}"* ]] && rm {now} 2>/dev/null; then
  $real delete --force "${{mark%% *}}" </dev/null >/dev/null 2>&1
fi"""


def tells_why(answer: Answer) -> bool:
    """Whether an answer says that it could not be done, or that what it shows is as it was before."""
    return "error" in answer.json if answer.status in (404, 409) else bool(answer.json.get("stale"))


def test_a_container_that_vanishes_meanwhile_is_told_and_nothing_stays(bed, start_server, workspace, tmp_path):
    server = start_server(environ=broken_client(tmp_path, VANISH.format(now=tmp_path / "now")))
    session, unclear = talk(bed, server, workspace), {}
    assert server.delete(f"/api/sessions/{session['id']}").status == 204
    for what, (method, path, asked, words) in VANISHES.items():
        body = asked
        one = f"/api/sessions/{session['id']}"
        if path == "/api/sessions":
            body = {"workspace": str(workspace), "resume": session["session_id"]}
            assert server.delete(f"{one}?force=true").status == 204
        elif "resume" in path:
            server.delete(one)
        else:
            assert server.post(f"{one}/resume").status == 200, what
        if "snapshots/kept" in path:
            assert server.post(f"{one}/snapshots", {"name": "kept"}).status in (200, 201)
        (tmp_path / "now").write_text(f"{session['id']} {words}")
        headers = {"If-None-Match": "*"} if method == "PUT" else {}
        answer = server.request(method, path.format(one=one), body, headers=headers)
        assert not (tmp_path / "now").exists(), f"{what}: {words!r} never came"
        is_gone = method == "DELETE" and answer.status == 204
        if not is_gone and not tells_why(answer):
            unclear[what] = answer.status, answer.body
        wait_until(lambda: server.get("/api/sessions").json == [], f"{what}: the session to be gone")
        assert bed.names() == []
        session = server.create(workspace, resume=session["session_id"])
        assert session["slot"] == 1
        wait_for_screen(bed, session["id"], "earlier: remember the milk")
    assert unclear == {}
    assert "Traceback" not in server.log()


def kill_all_of(bed: Bed, id: str) -> None:
    """Kill the daemon and everything in a container at once, as a power cut does."""
    assert bed.folder is not None
    groups = Path("/sys/fs/cgroup").glob(f"**/lxc.payload.*{id}")
    inside = [int(pid) for group in groups for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]
    for pid in (*processes_with(str(bed.folder)), *inside):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if bed.daemon is not None:
        bed.daemon.wait()


def test_a_power_cut_loses_nothing_that_was_said(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    id = talk(bed, server, workspace)["id"]
    server.process.kill()
    kill_all_of(own(bed), id)
    server.process.wait()
    start_daemon_again(bed)
    server = start_server()
    wait_until(lambda: server.get("/api/sessions").status == 200, "Incus")
    wait_until(lambda: server.get(f"/api/sessions/{id}").json["status"] == "stopped", "the session to be stopped")
    assert server.post(f"/api/sessions/{id}/resume").status == 200
    wait_for_screen(bed, id, "earlier: remember the milk")
    runs = server.get("/api/sessions/history").json
    assert [(run["id"], bool(run["ended_at"])) for run in runs] == [(id, False), (id, True)]


def test_two_servers_and_many_command_lines_on_one_workspace(bed, start_server, workspace):
    servers: list[Server] = [start_server(config=NO_CHECKPOINTS), start_server()]

    def command(*words: str) -> tuple[int, str]:
        done = run_cli(bed, servers[0], *words)
        return done.returncode, done.stdout + done.stderr

    with ThreadPoolExecutor(12) as pool:
        begun = [pool.submit(command, "shell", "--background", str(workspace)) for _ in range(3)]
        begun += [pool.submit(command, "list", "--format", "json") for _ in range(5)]
        begun += [pool.submit(command, "run", "--workspace", str(workspace), "true") for _ in range(2)]
        made = [pool.submit(server.post, "/api/sessions", {"workspace": str(workspace)}) for server in servers]
        assert [work.result()[0] for work in begun] == [0] * len(begun), [work.result() for work in begun]
        assert [work.result().status for work in made] == [200, 200]

    def slots() -> list[set[int]]:
        return [{one["slot"] for one in server.get("/api/sessions").json} for server in servers]

    wait_until(lambda: [len(known) for known in slots()] == [5, 5], lambda: f"both to know all: {slots()}")
    ids = [one["id"] for one in servers[0].get("/api/sessions").json]
    with ThreadPoolExecutor(10) as pool:  # one deletes what the other deletes: Incus may refuse either
        deletes = [pool.submit(server.delete, f"/api/sessions/{id}?force=true") for id in ids for server in servers]
        assert all(work.result().status == 204 or work.result().json["error"] for work in deletes)
    for id in set(bed.names()) & set(ids):
        assert servers[0].delete(f"/api/sessions/{id}?force=true").status == 204
    wait_until(lambda: slots() == [set(), set()], "all to be gone")
    # A server that reads a stopped container wakes it for that, which the other one takes for no run.
    runs = lambda: [run for run in servers[0].get("/api/sessions/history").json if run["id"] in ids]  # noqa: E731
    assert sorted(run["id"] for run in runs()) == sorted(ids)
    wait_until(lambda: all(run["ended_at"] for run in runs()), lambda: f"the end of each run: {runs()}")


def other_build(archive: bytes) -> bytes:
    """The same program as another build."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b'BUILD = "', b'BUILD = "x') if name == "__main__.py" else data)
    return made.getvalue()


def test_an_upgrade_while_agents_work_stops_none(bed, start_server, workspace, make_workspace, tmp_path):
    archive, place = build_zipapp.build(), tmp_path / "bin" / "clincus.pyz"
    build_zipapp.write_program(place, archive)
    command, environ = [sys.executable, "-I", str(place)], {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    server = start_server(command=command, environ=environ)
    id = talk(bed, server, workspace)["id"]
    tool = bed.shell(id, "pgrep -x claude")
    build_zipapp.write_program(place, other_build(archive))
    listed = subprocess.run(
        [*command, "list", "--format", "json"], env={**os.environ, **bed.environ, **environ, "HOME": str(server.home)},
        stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=DEADLINE,
    )  # fmt: skip
    assert [one["name"] for one in json.loads(listed.stdout)["active_containers"]] == [id]
    assert len(list((tmp_path / "cache" / "clincus").iterdir())) == 2, "the new build is another one"
    # The old server goes on with its own files, also with those that it has not read yet.
    other = server.create(make_workspace("other"))["id"]
    assert server.get("/").status == 200
    with connect(f"{server.socket_url}/ws/terminal/{id}") as terminal:
        assert terminal.recv(timeout=DEADLINE)
        server.stop()
    server = start_server(command=command, environ=environ)
    wait_until(lambda: {one["id"] for one in server.get("/api/sessions").json} == {id, other}, "the sessions")
    say(bed, id, "still here")
    assert bed.shell(id, "pgrep -x claude") == tool
    assert [run["ended_at"] for run in server.get("/api/sessions/history").json] == [None, None]
