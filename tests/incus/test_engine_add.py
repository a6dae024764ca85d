"""`clincus engine add` and `check` with a real daemon: a confined certificate, used-up tokens, another certificate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

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


class Person:
    """Somebody with a home and a client key of their own."""

    def __init__(self, bed, home: Path) -> None:
        self.home, self.client = home, home / ".config" / "incus"
        self.client.mkdir(parents=True, exist_ok=True)
        self.environ = {**os.environ, **bed.environ, "HOME": str(home), "INCUS_CONF": str(self.client)}

    def run(self, *words: str) -> tuple[int, str]:
        """The exit code of a command, and all that it says."""
        return self.give("", *words)

    def give(self, stdin: str, *words: str) -> tuple[int, str]:
        """The same for a command that reads from stdin."""
        done = subprocess.run(
            [*program(), *words], env=self.environ, input=stdin, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def person(bed, home) -> Person:
    return Person(bed, home)


def test_a_certificate_for_one_restricted_project_is_enough(far, person, start_server, workspace):
    token = far.daemons[0].token("--projects", "confined", "--restricted")
    assert "the token is for certain projects only" in person.run("engine", "add", "tower", token)[1]
    code, said = person.run("engine", "add", "tower", token, "--project", "confined")
    assert code == 0, said
    assert 'the project "confined" is restricted: ' in said
    for lack in ("no locked workspace", "no snapshots", "no previews of ports", "no network"):
        assert lack in said
    code, said = person.run("engine", "list")
    assert [line.split()[:3] for line in said.splitlines()[1:]] == [["tower", "remote", "confined"]], said
    assert oct((person.client / "client.key").stat().st_mode)[-3:] == "600"
    code, said = person.run("engine", "check", "tower")
    assert code == 0, said

    server = start_server(environ={"INCUS_CONF": str(person.client)})
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

    (person.client / "client.crt").unlink()  # somebody else's machine
    (person.client / "client.key").unlink()
    code, said = person.run("engine", "add", "second", token, "--project", "confined")
    assert (code, "the token is not good any more" in said, "ask for a new one" in said) == (1, True, True), said
    assert "[engines.second]" not in (person.home / ".config" / "clincus" / "config.toml").read_text()


def test_a_token_is_in_no_argument_list(far, person, tmp_path):
    """Each `incus` that the command starts notes its arguments."""
    noted = tmp_path / "arguments"
    (tmp_path / "incus").write_text(f'#!/bin/sh\nprintf "%s " "$@" >>{noted}\nexec {shutil.which("incus")} "$@"\n')
    (tmp_path / "incus").chmod(0o755)
    person.environ["PATH"] = f"{tmp_path}:{person.environ['PATH']}"
    token = far.daemons[0].token(name="quiet")
    _, said = person.give(f"{token}\n", "engine", "add", "tower", "-", "--copy-image=false")
    assert "trusts this machine" in said, said
    assert "remote add tower" in noted.read_text()
    assert token not in noted.read_text()


def test_a_server_with_another_certificate_is_refused(far, person):
    daemon = far.daemons[0]
    token, late = daemon.token(), daemon.token(name="late")
    code, said = person.run("engine", "add", "tower", token)
    assert code == 0, said
    daemon.kill()
    for name in ("server.crt", "server.key"):
        (daemon.folder / name).unlink()
    daemon.start()
    code, said = person.run("engine", "check", "tower")
    assert (code, "its server is not the one that was trusted" in said) == (1, True), said
    code, said = person.run("engine", "list", "--format", "json")
    (listed,) = json.JSONDecoder().raw_decode(said)[0]
    assert (listed["reachable"], "is not the one that was trusted" in listed["state"]) == (False, True), said
    code, said = person.run("engine", "add", "again", late)
    assert (code, "not the server that the token is for" in said) == (1, True), said
