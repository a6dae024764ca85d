"""`clincus engine add` and `check` with a real daemon: a confined certificate, used-up tokens, another certificate."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.engines_bed import Engine, far_daemon
from tests.programs import program, wait_until


@pytest.fixture(scope="module")
def far(bed) -> Iterator[Engine]:
    """A daemon with a project whose restrictions are those that Incus sets by itself."""
    with far_daemon(bed) as made:
        incus = made.daemons[0].incus
        incus("project", "create", "confined", "--config", "restricted=true", "--config", "features.images=true")
        incus("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default", "--project", "confined")
        yield made


@pytest.fixture
def run(bed, home):
    """A function that runs a command of somebody with a client key of their own; its exit code, and all it says."""
    environ = {**os.environ, **bed.environ, "HOME": str(home), "INCUS_CONF": str(home / ".config" / "incus")}
    (home / ".config" / "incus").mkdir(parents=True)

    def run_words(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*program(), *words], env=environ, input="", capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run_words


def test_a_certificate_for_one_restricted_project_is_enough(far, run, home, start_server, workspace):
    client, token = home / ".config" / "incus", far.daemons[0].token("--projects", "confined", "--restricted")
    assert "the token is for certain projects only" in run("engine", "add", "tower", token)[1]
    code, said = run("engine", "add", "tower", token, "--project", "confined")
    assert code == 0, said
    assert 'the project "confined" is restricted: ' in said
    assert "no locked workspace" in said
    assert oct((client / "client.key").stat().st_mode)[-3:] == "600"
    code, said = run("engine", "check", "tower")
    assert code == 0, said

    server = start_server(environ={"INCUS_CONF": str(client)})
    made = server.create(workspace, engine="tower")
    id, path = made["id"], f"/api/sessions/{made['id']}"
    assert (made["mode"], made["status"]) == ("clone", "running")
    wait_until(lambda: server.get(f"{path}/checkpoints").json, "the first checkpoint")
    assert server.delete(path).status == 204
    assert server.post(f"{path}/resume").json["status"] == "running"
    refused = server.post("/api/sessions", {"workspace": str(workspace), "engine": "tower", "mode": "mount"})
    assert (refused.status, "tower" in refused.json["error"]) == (400, True), refused.body
    refused = server.post(f"{path}/snapshots", {"name": "one"})
    assert refused.status in (403, 409, 500), refused.body
    assert server.delete(f"{path}?force=true").status == 204
    assert id not in [one["id"] for one in server.get("/api/sessions").json]

    (client / "client.crt").unlink()  # somebody else's machine
    (client / "client.key").unlink()
    code, said = run("engine", "add", "second", token, "--project", "confined")
    assert (code, "the token is not good any more" in said, "ask for a new one" in said) == (1, True, True), said
    assert "[engines.second]" not in (home / ".config" / "clincus" / "config.toml").read_text()


def test_a_server_with_another_certificate_is_refused(far, run):
    daemon = far.daemons[0]
    token, late = daemon.token(), daemon.token(name="late")
    code, said = run("engine", "add", "tower", token)
    assert code == 0, said
    daemon.kill()
    for name in ("server.crt", "server.key"):
        (daemon.folder / name).unlink()
    daemon.start()
    code, said = run("engine", "check", "tower")
    assert (code, "its server is not the one that was trusted" in said) == (1, True), said
    code, said = run("engine", "list", "--format", "json")
    (listed,) = json.JSONDecoder().raw_decode(said)[0]
    assert (listed["reachable"], "is not the one that was trusted" in listed["state"]) == (False, True), said
    code, said = run("engine", "add", "again", late)
    assert (code, "not the server that the token is for" in said) == (1, True), said
