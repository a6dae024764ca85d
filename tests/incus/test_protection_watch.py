"""The second line behind the wall: a real seal is taken off from another mount namespace of the host."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_sessions import command_line

from tests.programs import DEADLINE, NO_CHECKPOINTS, connect, git, wait_until
from tests.push_service import PushService

EVIL = "[core]\n\tfsmonitor = false\n"
# renameat2(2) with RENAME_EXCHANGE.
EXCHANGE = """import ctypes, sys
one, other = map(str.encode, sys.argv[1:])
sys.exit(ctypes.CDLL(None).renameat2(-100, one, -100, other, 2))
"""
# A program in a mount namespace in which the wall's mounts are not: a rename there takes the seal off everywhere.
# `exchange ONE OTHER` is one step: a server that looks between two would put back the first one.
APART = f"""
exchange() {{ {sys.executable} -ISc {shlex.quote(EXCHANGE)} "$@"; }}
for stage in /run/clincus/*; do umount -l "$stage" || :; done
cd "$1" || exit 9
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host, for a mount namespace of its own")


def from_apart(workspace: Path, script: str) -> None:
    """Run a script in the workspace, in a mount namespace without the wall's mounts."""
    command = ["unshare", "-m", "--propagation", "private", "sh", "-ec", APART + script, "apart", str(workspace)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def protection(server, session):
    return server.get(f"/api/sessions/{session['id']}/protection").json


def changes_so_far(server, session):
    """How many changes are told of the session's run."""
    [told] = [one for one in server.get("/api/sessions").json if one["id"] == session["id"]]
    return len(told["protection_changes"])


def await_broken(server, session, earlier=0):
    """The protection of a session once it is broken, by another change than so many earlier ones of its run.

    A session that is frozen once more says so a moment before it says what has changed.
    """

    def is_frozen():
        [told] = [one for one in server.get("/api/sessions").json if one["id"] == session["id"]]
        return told["protection"] == "broken" and told["paused"] and len(told["protection_changes"]) > earlier

    wait_until(is_frozen, lambda: f"the session to be broken; it is {protection(server, session)}")
    return protection(server, session)


def await_resumed(server, session):
    """Wait until a session that was broken goes on."""

    def goes_on():
        [told] = [one for one in server.get("/api/sessions").json if one["id"] == session["id"]]
        return told["protection"] != "broken" and not told["paused"]

    wait_until(goes_on, "the session to go on")


def await_watched(server, session):
    """Wait until what is sealed for a session is noted; the document."""
    wait_until(lambda: protection(server, session)["sealed"], "what is sealed to be noted")
    return protection(server, session)


def await_frozen(bed, session):
    """Wait until no program of a session runs: one that is freezing waits for a process that is in the kernel."""
    wait_until(
        lambda: bed.state(session["id"]) in ("Frozen", "Freezing"), lambda: f"no freeze; {bed.state(session['id'])}"
    )


@pytest.fixture
def server(start_server):
    return start_server(config=NO_CHECKPOINTS)


@pytest.fixture
def cli(bed, home, workspace):
    made = command_line(bed, home, workspace)
    yield made
    for terminal in made.terminals:
        terminal.close()


@pytest.fixture
def session(server, workspace):
    made = server.create(workspace)
    await_watched(server, made)
    return made


def freeze_by(server, session, workspace, script):
    """Take a seal off by a script of another namespace; the protection once it is broken."""
    from_apart(workspace, script)
    return await_broken(server, session)


REPLACE = f"printf '{EVIL}' >.git/evil && mv -f .git/evil .git/config"


@pytest.mark.day
def test_an_exchanged_file_freezes_the_session_is_put_back_and_the_next_start_asks(bed, server, session, workspace):
    found = protection(server, session)
    assert (found["level"], found["changes"], found["appeared"]) == ("locked", [], [])
    sealed = {one["path"]: one["why"] for one in found["sealed"]}
    assert "runs the commands" in sealed[f"{workspace}/.git/config"]
    assert sealed.keys() >= {f"{workspace}/.git/hooks", f"{workspace}/.husky"}
    before = (workspace / ".git/config").read_text()
    found = freeze_by(server, session, workspace, REPLACE)
    await_frozen(bed, session)
    assert (workspace / ".git/config").read_text() == before
    [aside] = workspace.glob(".git/config.clincus-replaced-*")
    assert aside.read_text() == EVIL
    [change] = found["changes"]
    assert (change["path"], change["what"], change["restored"]) == (f"{workspace}/.git/config", "replaced", True)
    log = f"/api/sessions/{session['id']}/log"
    wait_until(lambda: any("Frozen" in line["what"] for line in server.get(log).json), "a line in the log")
    refused = server.post(f"/api/sessions/{session['id']}/resume", {})
    assert (refused.status, "until you decide" in refused.json["error"]) == (409, True)
    answer = server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "stop"})
    assert (answer.status, answer.json["status"]) == (200, "stopped")
    assert bed.state(session["id"]) == "Stopped"
    refused = server.post(f"/api/sessions/{session['id']}/resume", {})
    assert refused.status == 409
    assert f"{workspace}/.git/config was replaced" in refused.json["error"]
    assert server.post("/api/sessions", {"workspace": str(workspace)}).status == 409
    answer = server.post(f"/api/sessions/{session['id']}/resume", {"accept_changes": True})
    assert (answer.status, answer.json["protection"]) == (200, "locked"), answer.body


# What is done in the workspace, what it is that changes, and the word for that.
BREAKS = {
    "a link in the place of a file": ("ln -s l .git/l && exchange .git/l .git/config", ".git/config", "replaced"),
    "a folder of hooks replaced": ("cp -r .git/hooks .git/h && exchange .git/h .git/hooks", ".git/hooks", "replaced"),
    "away, changed and back": ("mv .git/config a && echo '#' >>a && mv a .git/config", ".git/config", "replaced"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_each_break_is_seen_and_mended(bed, server, session, workspace, how):
    script, path, what = BREAKS[how]
    before = contents(workspace)
    freeze_by(server, session, workspace, script)
    await_frozen(bed, session)

    def changes() -> list[tuple[str, str, bool]]:
        """What is told. Of more than one step, the first one may be told before the last one is done."""
        return [(one["path"], one["what"], one["restored"]) for one in protection(server, session)["changes"]]

    wait_until(lambda: (f"{workspace}/{path}", what, True) in changes(), lambda: f"{path} {what}; {changes()}")
    wait_until(lambda: contents(workspace) == before, "all to be as it was")


def test_a_git_folder_that_was_replaced_is_back_after_the_end(server, session, workspace):
    """The wall is mounted on the true one until then, and the kernel renames no mount point."""
    own = (str(workspace / ".git/config"), str(workspace / ".git/hooks"))  # placeholders go as a session ends
    before = {path: what for path, what in contents(workspace).items() if path.startswith(own)}
    assert before
    freeze_by(server, session, workspace, "cp -r .git g && exchange g .git")
    assert not (workspace / ".git").exists()
    server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "stop"})
    wait_until(lambda: contents(workspace).items() >= before.items(), "the folder to be back")


def contents(workspace):
    """What git reads at the sealed paths of a workspace."""
    tops = [workspace / name for name in (".git/config", ".git/hooks", ".husky", ".git/HEAD")]
    files = [file for top in tops for file in [top, *sorted(top.rglob("*"))]]
    return {str(file): file.read_bytes() if file.is_file() else file.is_symlink() for file in files if file.exists()}


def test_a_frozen_session_waits_for_a_decision(bed, server, session, workspace):
    freeze_by(server, session, workspace, REPLACE)
    refused = server.post(f"/api/sessions/{session['id']}/resume", {})
    assert refused.status == 409
    assert "until you decide" in refused.json["error"]
    answer = server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "continue"})
    assert answer.status == 200, answer.body
    wait_until(lambda: bed.state(session["id"]) == "Running", "the session to go on")
    wait_until(lambda: protection(server, session)["level"] == "basic", "the level to be basic")
    found = protection(server, session)
    assert ".git/config" in found["note"]
    assert f"{workspace}/.git/config" not in {one["path"] for one in found["sealed"]}
    again = server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "stop"})
    assert again.status == 409


def test_a_server_that_starts_anew_sees_what_happened_meanwhile(bed, start_server, server, session, workspace):
    server.kill()
    from_apart(workspace, REPLACE)
    later = start_server(config=NO_CHECKPOINTS)
    await_broken(later, session)
    await_frozen(bed, session)
    assert (workspace / ".git/config").read_text() != EVIL


def test_a_normal_day_of_git_breaks_nothing(bed, server, session, workspace):
    for words in ("checkout -q -b a", "commit -q --allow-empty -m x", "gc -q", "rebase -q main", "stash -q -u"):
        git(workspace, *words.split())
    subprocess.run(["chown", "-R", "--no-dereference", "1000:1000", str(workspace)], check=False)
    script = """cd /workspace && git config --global safe.directory '*' && git config --global user.email a@b &&
        git config --global user.name a && date >new && git add new && git commit -q -m y && git checkout -q -b b &&
        git gc -q && git rebase -q main && git worktree add -q wt -b c && git worktree remove wt && git status"""
    done = bed.incus.exec(session["id"], ["sh", "-c", script], user=1000, environment={"HOME": "/home/code"})
    assert done.code == 0, done.stderr
    with open(workspace / ".git/config", "a") as file:  # as an editor does
        file.write("# mine\n")
    (workspace / ".git/hooks/post-commit").write_text("#!/bin/sh\n")
    bed.restart_instance(session["id"])
    await_watched(server, session)
    assert (protection(server, session)["level"], protection(server, session)["changes"]) == ("locked", [])
    snapshots = f"/api/sessions/{session['id']}/snapshots"
    assert server.post(snapshots, {"name": "before"}).status in (200, 201)
    assert server.post(f"{snapshots}/before/restore", {}).status == 200
    if server.get(f"/api/sessions/{session['id']}").json["status"] != "running":
        assert server.post(f"/api/sessions/{session['id']}/resume", {}).status == 200
    await_watched(server, session)
    bed.incus.exec(session["id"], ["sh", "-c", "echo evil >>/workspace/.git/config"])
    assert (workspace / ".git/config").read_text().endswith("# mine\n")


# ---- calls ----------------------------------------------------------------------------------------------------------


def test_the_person_is_called_and_every_page_is_told(start_server, workspace, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as service:
        server = start_server(config=f'{NO_CHECKPOINTS}[notify]\nwebhook = "{service.webhook("team")}"\n')
        session = server.create(workspace, name="shop")
        await_watched(server, session)
        with connect(f"{server.socket_url}/ws/events", subprotocols=["clincus.events.v1"]) as events:
            from_apart(workspace, REPLACE)
            wanted = {"type": "session.protection", "id": session["id"], "protection": "broken"}
            wait_until(lambda: json.loads(events.recv(DEADLINE)) == wanted, "the event")
        wait_until(lambda: service.messages, "the call")
        assert service.messages[0][1]["title"].startswith("shop is frozen")


# ---- the command line, without a server -----------------------------------------------------------------------------


def test_without_a_server_the_next_start_asks(bed, cli, workspace):
    name = cli.background()["name"]
    from_apart(workspace, REPLACE)
    cli.ok("stop", "--force", name)
    wait_until(lambda: not (workspace / ".husky").exists(), "the wall to be gone")
    done = cli.run("resume", name)
    assert done.returncode == 1
    assert b".git/config was replaced" in done.stderr
    assert b"[WARN]" in cli.run("health").stdout
    asking = cli.start("resume", name)
    asking.expect("Start with it as it is now? [y/N]: ")
    asking.type("y\n")
    assert asking.end() == 0
    cli.ok("kill", "--force", name)
    wait_until(lambda: not (workspace / ".husky").exists(), "the wall to be gone")
    assert "replaced" not in cli.run("run", "--accept-changes", "true").stderr.decode()


def test_the_command_shows_and_decides(bed, cli, start_server, home, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace)
    await_watched(server, session)
    assert ".git/hooks" in cli.ok("protection", session["id"])
    from_apart(workspace, REPLACE)
    await_broken(server, session)
    shown = cli.ok("protection", session["id"])
    assert "broken" in shown
    assert "replaced" in shown
    assert json.loads(cli.ok("protection", session["id"], "--json"))["level"] == "broken"
    assert "until you decide" in cli.run("resume", session["id"]).stderr.decode()
    cli.ok("protection", session["id"], "--resolve", "continue")
    assert cli.run("protection", session["id"], "--resolve", "stop").returncode == 1
    assert "basic" in cli.ok("protection", session["id"])


# ---- more than one session ------------------------------------------------------------------------------------------


def test_both_sessions_of_a_workspace_are_frozen(bed, server, session, workspace):
    other = server.create(workspace)
    await_watched(server, other)
    from_apart(workspace, REPLACE)
    await_broken(server, session)
    await_broken(server, other)
    server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "stop"})
    wait_until(lambda: bed.state(session["id"]) == "Stopped", "the first to be stopped")
    assert protection(server, other)["level"] == "broken"


def plant_index(bed, session_id, name):
    """Have the agent write an index of one entry, with a content that is a hook, as git writes one."""
    hook = "printf '#!/bin/sh\\ntouch /tmp/clincus-index-ran\\n' | git hash-object -w --stdin"
    object_name = bytes.fromhex(bed.shell(session_id, f"cd /workspace && {hook}").strip())
    entry = struct.pack(">10I", *[0] * 6, 0o100755, *[0] * 3) + object_name + struct.pack(">H", len(name)) + name
    entry += bytes(8 - len(entry) % 8)
    data = struct.pack(">4sII", b"DIRC", 2, 1) + entry
    data += hashlib.sha1(data).digest()
    plant = "cd /workspace/.git && cat >index.lock && mv -f index.lock index"
    bed.incus.exec(session_id, ["sh", "-c", plant], stdin=data, user=1000)


def test_an_index_that_would_write_into_the_sealed_hooks_is_put_aside(bed, server, session, workspace):
    """Git checks the names of an index when it adds them, and not when it reads one: `git checkout .` writes them."""
    plant_index(bed, session["id"], b".git/hooks/post-checkout")
    wait_until(lambda: protection(server, session)["changes"], "the session to be frozen")
    found = protection(server, session)
    assert (found["level"], [one["path"] for one in found["changes"]]) == ("broken", [f"{workspace}/.git/index"])
    wait_until(lambda: not (workspace / ".git/index").exists(), "the index to be put aside")
    subprocess.run(["git", "-C", workspace, "checkout", "."], capture_output=True, check=False)
    assert not (workspace / ".git/hooks/post-checkout").exists()
