"""The second line behind the wall: a real seal is taken off from another mount namespace of the host."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
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


def apart(workspace: Path, script: str) -> list[str]:
    """The command that runs a script in the workspace, in a mount namespace without the wall's mounts."""
    return ["unshare", "-m", "--propagation", "private", "sh", "-ec", APART + script, "apart", str(workspace)]


def from_apart(workspace: Path, script: str) -> None:
    """Run a script in the workspace, in a mount namespace without the wall's mounts."""
    subprocess.run(apart(workspace, script), check=True, stdin=subprocess.DEVNULL)


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
    await_frozen(bed, session)
    assert (workspace / ".git/config").read_text() == before
    [aside] = workspace.glob(".git/config.clincus-replaced-*")
    assert aside.read_text() == EVIL
    [change] = found["changes"]
    assert (change["path"], change["what"], change["restored"]) == (f"{workspace}/.git/config", "replaced", True)
    [told] = server.get("/api/sessions").json
    assert (told["protection"], told["paused"], len(told["protection_changes"])) == ("broken", True, 1)

    def lines() -> list[str]:
        return [line["what"] for line in server.get(f"/api/sessions/{session['id']}/log").json]

    wait_until(lambda: any("Frozen" in one and ".git/config" in one for one in lines()), lambda: f"a line; {lines()}")


def freeze_by(server, session, workspace, script):
    """Take a seal off by a script of another namespace; the protection once it is broken."""
    from_apart(workspace, script)
    return await_broken(server, session)


REPLACE = f"printf '{EVIL}' >.git/evil && mv -f .git/evil .git/config"


def test_a_program_of_the_person_that_may_have_taken_a_seal_off_is_named(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace)
    await_watched(server, session)
    runs_on = apart(workspace, f"{REPLACE}; exec sleep 1000")  # as an editor does
    with subprocess.Popen(runs_on, stdin=subprocess.DEVNULL) as editor:
        try:
            [change] = await_broken(server, session)["changes"]
        finally:
            editor.kill()
    assert change["by"] == "unknown"
    # Three are named, in the order of their numbers; a busy machine may have others.
    assert re.search(rf"\(pid {editor.pid}\)| and \d+ more run in mount namespaces", change["words"]), change["words"]


# What is done in the workspace, what it is that changes, and the word for that.
BREAKS = {
    "a file removed": ("rm .git/config", ".git/config", "gone"),
    "a folder in the place of a file": ("mkdir d && exchange d .git/config", ".git/config", "replaced"),
    "a link in the place of a file": ("ln -s l .git/l && exchange .git/l .git/config", ".git/config", "replaced"),
    "a folder of hooks replaced": ("cp -r .git/hooks .git/h && exchange .git/h .git/hooks", ".git/hooks", "replaced"),
    "a placeholder filled": ("mkdir h && echo x >h/pre-commit && exchange h .husky", ".husky", "replaced"),
    "away, changed and back": ("mv .git/config a && echo '#' >>a && mv a .git/config", ".git/config", "replaced"),
}


OFTEN = ("a folder of hooks replaced", "a placeholder filled", "away, changed and back")


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=() if how in OFTEN else pytest.mark.nightly) for how in BREAKS]
)
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


def test_what_goes_on_without_its_seal_stays_watched(bed, server, session, workspace):
    freeze_by(server, session, workspace, REPLACE)
    before = (workspace / ".git/config").read_text()
    server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "continue"})
    wait_until(lambda: bed.state(session["id"]) == "Running", "the session to go on")
    bed.attack(session["id"], "echo '[core] fsmonitor = x' >>/workspace/.git/config")
    await_frozen(bed, session)
    await_broken(server, session)
    wait_until(lambda: (workspace / ".git/config").read_text() == before, "the copy to be back")


def test_stop_keeps_the_container_and_the_next_start_asks(bed, server, session, workspace):
    freeze_by(server, session, workspace, REPLACE)
    answer = server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "stop"})
    assert (answer.status, answer.json["status"]) == (200, "stopped")
    assert bed.state(session["id"]) == "Stopped"
    refused = server.post(f"/api/sessions/{session['id']}/resume", {})
    assert refused.status == 409
    assert f"{workspace}/.git/config was replaced" in refused.json["error"]
    assert "accept_changes" in refused.json["error"]
    assert server.post("/api/sessions", {"workspace": str(workspace)}).status == 409
    answer = server.post(f"/api/sessions/{session['id']}/resume", {"accept_changes": True})
    assert (answer.status, answer.json["protection"]) == (200, "locked"), answer.body
    server.delete(f"/api/sessions/{session['id']}?force=true")
    assert server.post("/api/sessions", {"workspace": str(workspace)}).status == 200


@pytest.mark.parametrize("force", ["true", "false"])
def test_a_frozen_session_can_be_stopped_and_deleted(bed, server, session, workspace, force):
    freeze_by(server, session, workspace, REPLACE)
    answer = server.delete(f"/api/sessions/{session['id']}?force={force}")
    assert answer.status == 204, answer.body
    left = [one["status"] for one in server.get("/api/sessions").json]
    assert left == ([] if force == "true" else ["stopped"])
    assert (workspace / ".git/config").read_text() != EVIL


def test_a_server_that_starts_anew_knows_what_is_frozen(bed, start_server, server, session, workspace):
    freeze_by(server, session, workspace, REPLACE)
    server.kill()
    later = start_server(config=NO_CHECKPOINTS)
    found = await_broken(later, session)
    assert [one["path"] for one in found["changes"]] == [f"{workspace}/.git/config"]
    later.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "continue"})
    wait_until(lambda: bed.state(session["id"]) == "Running", "the session to go on")
    wait_until(lambda: protection(later, session)["level"] == "basic", "the level to be basic")


def test_a_server_that_starts_anew_sees_what_happened_meanwhile(bed, start_server, server, session, workspace):
    server.kill()
    from_apart(workspace, REPLACE)
    later = start_server(config=NO_CHECKPOINTS)
    await_broken(later, session)
    await_frozen(bed, session)
    assert (workspace / ".git/config").read_text() != EVIL


def test_a_normal_day_of_git_breaks_nothing(bed, server, session, workspace):
    on_host = ("checkout -q -b a", "commit -q --allow-empty -m x", "gc -q", "rebase -q main", "stash -q -u", "fsck")
    for words in on_host:
        git(workspace, *words.split())
    subprocess.run(["chown", "-R", "--no-dereference", "1000:1000", str(workspace)], check=False)
    script = """cd /workspace && git config --global safe.directory '*' && git config --global user.email a@b &&
        git config --global user.name a && date >new && git add new && git commit -q -m y && git checkout -q -b b &&
        git gc -q && git rebase -q main && git worktree add -q wt -b c && git -C wt commit -q --allow-empty -m z &&
        git worktree remove wt && git init -q nested && rm -r nested && git status"""
    done = bed.incus.exec(session["id"], ["sh", "-c", script], user=1000, environment={"HOME": "/home/code"})
    assert done.code == 0, done.stderr
    with open(workspace / ".git/config", "a") as file:  # as an editor does
        file.write("# mine\n")
    (workspace / ".git/hooks/post-commit").write_text("#!/bin/sh\n")
    (workspace / ".husky/mine").write_text("x\n")
    bed.restart_instance(session["id"])
    await_watched(server, session)
    assert (protection(server, session)["level"], protection(server, session)["changes"]) == ("locked", [])


def test_an_edit_in_place_is_what_is_put_back_later(server, session, workspace):
    with open(workspace / ".git/config", "a") as file:
        file.write("# mine\n")
    wait_until(lambda: b"IyBtaW5l" in recorded(server, workspace), "the edit to be noted")
    freeze_by(server, session, workspace, REPLACE)
    assert (workspace / ".git/config").read_text().endswith("# mine\n")


def recorded(server, workspace):
    """The copies in the records of a server."""
    folder = server.home / ".clincus/protection"
    texts = [json.loads(file.read_text())["copies"].values() for file in folder.glob("*.json")]
    return b"IyBtaW5l" if any(base64.b64decode(text).endswith(b"# mine\n") for text in texts[0]) else b""


def test_what_a_person_changes_after_the_end_is_no_question(server, session, workspace):
    server.delete(f"/api/sessions/{session['id']}?force=false")
    wait_until(lambda: not (workspace / ".husky").exists(), "the wall to be gone")
    git(workspace, "config", "user.name", "somebody")
    answer = server.post(f"/api/sessions/{session['id']}/resume", {})
    assert answer.status == 200, answer.body


def test_a_flood_of_events_hides_nothing(bed, server, session, workspace):
    loop = 'for (1..40000) { open F, ">/workspace/f"; close F; unlink "/workspace/f" }'
    assert bed.incus.exec(session["id"], ["sh", "-c", f"perl -e '{loop}' &"], user=1000).code == 0
    before = contents(workspace)
    freeze_by(server, session, workspace, "mv .git/config a && echo '#' >>a && mv a .git/config")
    wait_until(lambda: contents(workspace) == before, "all to be as it was")


# ---- calls ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(monkeypatch):
    """The receiver of the webhook."""
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as running:
        yield running


def test_the_person_is_called_and_every_page_is_told(start_server, workspace, service):
    notify = f'[notify]\nwebhook = "{service.webhook("team")}"\n'
    server = start_server(config=NO_CHECKPOINTS + notify)
    session = server.create(workspace, name="shop")
    await_watched(server, session)
    with connect(f"{server.socket_url}/ws/events", subprotocols=["clincus.events.v1"]) as events:
        from_apart(workspace, REPLACE)
        wanted = {"type": "session.protection", "id": session["id"], "protection": "broken"}
        wait_until(lambda: json.loads(events.recv(DEADLINE)) == wanted, "the event")
    wait_until(lambda: service.messages, "the call")
    assert service.messages[0][1]["title"] == "shop is frozen: something changed that your machine would run"


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


def test_the_end_of_one_session_is_no_break_for_the_other(bed, server, session, workspace):
    other = server.create(workspace)
    await_watched(server, other)
    bed.stop(session["id"])
    wait_until(lambda: protection(server, session)["sealed"] == [], "the end to be seen")
    bed.incus.run("start", session["id"])
    await_watched(server, session)
    for one in (session, other):
        assert (protection(server, one)["level"], protection(server, one)["changes"]) == ("locked", [])


def test_what_root_in_the_container_does_breaks_it_too(bed, server, session, workspace):
    """As W1 of the findings: the container lets its mounts go. Once the wall denies that, there is nothing to see."""
    script = """cd /workspace/.git && umount -l /workspace && printf '[core]\\n\\tfsmonitor = false\\n' >evil &&
        mv -f evil config"""
    done = bed.incus.exec(session["id"], ["sh", "-c", script])
    if done.code != 0:
        assert protection(server, session)["level"] == "locked"
        return
    await_broken(server, session)
    wait_until(lambda: (workspace / ".git/config").read_text() != EVIL, "the copy to be back")


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


def test_an_index_that_has_a_hook_for_a_sealed_folder_is_told(bed, server, session, workspace):
    """Nothing is forged in it, so it is not put aside: `git checkout .` of the person writes the hook."""
    script = """cd /workspace && blob=$(printf '#!/bin/sh\\n' | git hash-object -w --stdin) &&
        git update-index --add --cacheinfo "100755,$blob,.husky/pre-commit" """
    bed.shell(session["id"], script)

    def warnings() -> str:
        return " ".join(server.get(f"/api/sessions/{session['id']}").json["warnings"])

    wait_until(lambda: ".husky/pre-commit" in warnings(), lambda: f"a warning; there are {warnings()!r}")
    assert protection(server, session)["level"] == "locked"
    git(workspace, "checkout", ".")
    assert (workspace / ".husky/pre-commit").exists()


def test_without_a_server_the_stop_puts_a_bad_index_aside_and_the_next_start_asks(bed, cli, workspace):
    name = cli.background()["name"]
    plant_index(bed, name, b"../clincus-index-was-here")
    done = cli.run("stop", "--force", name)
    assert b"../clincus-index-was-here" in done.stderr
    assert b"git checkout ." in done.stderr
    assert not (workspace / ".git/index").exists()
    assert [*workspace.glob(".git/index.clincus-replaced-*")]
    refused = cli.run("resume", name)
    assert refused.returncode == 1
    assert b".git/index was changed" in refused.stderr
    cli.ok("kill", "--force", name)
