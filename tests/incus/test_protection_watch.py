"""The second line behind the wall: a real seal is taken off from another mount namespace of the host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import clincus
from clincus_features.protection.seals import Stage
from tests.programs import NO_CHECKPOINTS, git, wait_until

EVIL = "[core]\n\tfsmonitor = false\n"
# A program in a mount namespace in which the wall's mounts are not: a rename there takes the seal off everywhere.
APART = """
for stage in /run/clincus/*; do umount -l "$stage"; done
cd "$1" || exit 9
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host, for a mount namespace of its own")


def from_apart(workspace: Path, script: str) -> None:
    """Run a script in the workspace, in a mount namespace without the wall's mounts."""
    words = ["unshare", "-m", "--propagation", "private", "sh", "-ec", APART + script, "apart", str(workspace)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def protection(server, session):
    return server.get(f"/api/sessions/{session['id']}/protection").json


def await_broken(server, session):
    """The protection of a session once it is broken."""
    wait_until(lambda: protection(server, session)["level"] == "broken", "the session to be broken")
    return protection(server, session)


def await_watched(server, session):
    """Wait until what is sealed for a session is noted; the document."""
    wait_until(lambda: protection(server, session)["sealed"], "what is sealed to be noted")
    return protection(server, session)


def status_in_incus(bed, session):
    return bed.incus.query(f"/1.0/instances/{session['id']}")["status"]


@pytest.fixture
def server(start_server):
    return start_server(config=NO_CHECKPOINTS)


@pytest.fixture
def session(server, workspace):
    made = server.create(workspace)
    await_watched(server, made)
    return made


def test_what_is_sealed_is_told_with_the_reason(server, session, workspace):
    found = protection(server, session)
    assert (found["level"], found["changes"], found["appeared"]) == ("locked", [], [])
    sealed = {one["path"]: one["why"] for one in found["sealed"]}
    assert "runs the commands" in sealed[f"{workspace}/.git/config"]
    assert f"{workspace}/.husky" in sealed


def test_a_replaced_file_freezes_the_session_and_is_put_back(bed, server, session, workspace):
    before = (workspace / ".git/config").read_text()
    from_apart(workspace, f"printf '{EVIL}' >.git/evil && mv -f .git/evil .git/config")
    found = await_broken(server, session)
    assert status_in_incus(bed, session) == "Frozen"
    assert (workspace / ".git/config").read_text() == before
    [aside] = workspace.glob(".git/config.clincus-replaced-*")
    assert aside.read_text() == EVIL
    [change] = found["changes"]
    assert (change["path"], change["what"], change["restored"]) == (f"{workspace}/.git/config", "replaced", True)
    [told] = server.get("/api/sessions").json
    assert (told["protection"], told["paused"], len(told["protection_changes"])) == ("broken", True, 1)
    lines = server.get(f"/api/sessions/{session['id']}/log").json
    assert any("Frozen" in line["what"] and ".git/config" in line["what"] for line in lines)
