"""Links that an agent makes in .git, so that git on the host writes or deletes elsewhere.

What is judged is the host: is what such a link leads to as it was, once git has run there?
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import shutil
import subprocess

import pytest
from test_cli_sessions import command_line
from test_protection_watch import (
    await_broken,
    await_resumed,
    await_watched,
    changes_so_far,
    protection,
)

from tests.programs import NO_CHECKPOINTS, git
from tests.unit.test_scan import index_with

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host")


# Where the link is, what it leads to, and the command of git on the host that goes through it.
ATTACKS = {
    "worktrees that are pruned": ("worktrees", "folder", "worktree prune --expire=now"),
    "a rebase that is given up": ("rebase-merge", "folder", "rebase --quit"),
    "the text of a commit": ("COMMIT_EDITMSG", "file", "commit --allow-empty -m evil"),
    "the text of a commit, into the sealed config": ("COMMIT_EDITMSG", "config", "commit --allow-empty -m #evil"),
    "the log of a branch": ("logs/refs/heads/main", "file", "commit --allow-empty -m evil"),
}


def contents(precious, workspace):
    """All that the links of the table lead to."""
    files = sorted(file for file in precious.rglob("*") if file.is_file() or file.is_symlink())
    return {str(file): file.read_text(errors="replace") for file in (*files, workspace / ".git/config")}


def target_of(kind, precious):
    """What a link leads to; the same path in the container is nothing, or something else."""
    return {"folder": f"{precious}/precious", "file": f"{precious}/bashrc", "config": "config"}[kind]


def planting(at, target):
    """The script of an attacker in the workspace."""
    return f"mkdir -p $(dirname .git/{at}) && rm -rf .git/{at} && ln -s {target} .git/{at}"


def act(workspace, words):
    """What the person does; that git fails is none of the test."""
    with contextlib.suppress(subprocess.CalledProcessError):
        git(workspace, *words.split())
    subprocess.run(["chown", "-R", "--no-dereference", "1000:1000", workspace], check=True)


@pytest.fixture
def precious(tmp_path_factory):
    """What an attacker wants git to reach: a folder with something in it, and a file."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "precious" / "inner").mkdir(parents=True)
    (folder / "precious" / "inner" / "data").write_text("kept\n")
    (folder / "bashrc").write_text("# kept\n")
    return folder


@pytest.fixture
def side(workspace):
    """A workspace with a branch to merge."""
    git(workspace, "checkout", "-q", "-b", "side")
    git(workspace, "commit", "-q", "--allow-empty", "-m", "side")
    git(workspace, "checkout", "-q", "-")
    git(workspace, "branch", "-M", "main")
    subprocess.run(["chown", "-R", "1000:1000", workspace], check=True)
    return workspace


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_one_where_nobody_watches(side, precious, name):
    at, kind, words = ATTACKS[name]
    before = contents(precious, side)
    subprocess.run(["sh", "-ec", planting(at, target_of(kind, precious))], cwd=side, check=True)
    act(side, words)
    assert contents(precious, side) != before


def test_no_link_of_a_container_leads_git_on_the_host_out_of_the_folder(bed, start_server, side, precious):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    before = contents(precious, side)
    for name, (at, kind, words) in ATTACKS.items():
        earlier = changes_so_far(server, session)
        script = f"cd /workspace && {planting(at, target_of(kind, precious))}"
        bed.attack(session["id"], script)
        found = await_broken(server, session, earlier)
        act(side, words)
        assert contents(precious, side) == before, name
        [change] = found["changes"][-1:]
        assert (change["path"], change["what"]) == (f"{side}/.git/{at}", "replaced"), name
        assert "put aside" in change["words"], name
        assert not (side / ".git" / at).is_symlink(), name
        server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "continue"})
        await_resumed(server, session)
    assert protection(server, session)["level"] == "locked"


# ---- a submodule of the agent's making -------------------------------------------------------------------------------

# It comes into .git in one step, as a look may freeze the container after any other one.
PLANT_MODULE = r"""mkdir -p made/hooks && cp -r .git/HEAD .git/objects .git/refs made/
printf '[core]\n\tbare = false\n\tworktree = ../../../sub\n[remote "origin"]\n\turl = %s\n' \
    "$(git config -f .gitmodules submodule.sub.url)" >made/config
printf '#!/bin/sh\ntouch MARK\n' >made/hooks/post-checkout
chmod 755 made/hooks/post-checkout
mkdir -p .git/modules && mv made .git/modules/sub"""


@pytest.fixture
def with_submodule(make_workspace, side):
    """A workspace with a submodule that is not there yet, as after a clone."""
    other = make_workspace("other")
    subprocess.run(["chown", "-R", f"{os.getuid()}:{os.getgid()}", other], check=True)  # its git asks who owns it
    git(side, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub")
    git(side, "commit", "-q", "-m", "submodule")
    subprocess.run(["sh", "-ec", "rm -rf .git/modules sub && mkdir sub"], cwd=side, check=True)
    git(side, "config", "--remove-section", "submodule.sub")
    subprocess.run(["chown", "-R", "1000:1000", side], check=True)
    return side


def update(side):
    act(side, "-c protocol.file.allow=always submodule update --init")


def test_a_submodule_of_the_agents_runs_its_hook_where_nobody_watches(with_submodule, precious):
    script = PLANT_MODULE.replace("MARK", f"{precious}/ran")
    subprocess.run(["sh", "-ec", script], cwd=with_submodule, check=True)
    update(with_submodule)
    assert (precious / "ran").exists()


def test_a_submodule_of_the_agents_runs_nothing(bed, start_server, with_submodule, precious):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(with_submodule)
    await_watched(server, session)
    bed.attack(session["id"], "cd /workspace && " + PLANT_MODULE.replace("MARK", f"{precious}/ran"))
    changes = await_broken(server, session)["changes"]
    assert f"{with_submodule}/.git/modules/sub/hooks" in [change["path"] for change in changes]
    [warning] = [words for words in server.get("/api/sessions").json[0]["warnings"] if "has no seal" in words]
    assert warning.startswith(f"{with_submodule}/.git/modules/sub came after the start")
    update(with_submodule)
    assert not (precious / "ran").exists()


# ---- at the stop -----------------------------------------------------------------------------------------------------

# A reference that names commondir takes effect only once the placeholders are gone.
REFERENCE = r"""h=made/HASH; mkdir -p $h/objects/info $h/refs; cp -r .git/refs/heads $h/refs/
echo ../../objects >$h/objects/info/alternates; printf '[core]\n\tfsmonitor = touch MARK;false\n' >$h/config
echo "ref: commondir" >made/ORIG_HEAD; mv -t .git $h made/ORIG_HEAD"""
# What an agent plants in a repository in an extra mount.
IN_A_MOUNT = r"""cd /mnt/other; mkdir .git/rebase-merge; echo 'exec touch MARK' >.git/rebase-merge/git-rebase-todo
for path in onto orig-head; do git rev-parse HEAD >.git/rebase-merge/$path; done
echo refs/heads/main >.git/rebase-merge/head-name; : >.git/rebase-merge/interactive
rm -f .git/COMMIT_EDITMSG; ln -s HOME/bashrc .git/COMMIT_EDITMSG; cp -r .git /tmp/m; mkdir -p .git/modules
printf '[core]\n\tfsmonitor = touch MARK\n' >/tmp/m/config; rm -r /tmp/m/hooks; cp -r /tmp/m .git/modules/m
echo INDEX | base64 -d >/tmp/i; mv -f /tmp/i .git/index; """


def test_without_a_server_the_stop_looks_at_a_repository_in_an_extra_mount_too(bed, home, side, precious):
    other = side.parent / "other"
    shutil.copytree(side, other, symlinks=True)
    subprocess.run(["chown", "-R", "1000:1000", other], check=True)
    head = git(other, "rev-parse", "HEAD").strip()
    evil = base64.b64encode(index_with(b".git/hooks/post-checkout")).decode()
    words_of = {"HASH": head, "MARK": f"{precious}/ran", "HOME": str(precious), "INDEX": evil}
    script = functools.reduce(lambda text, item: text.replace(*item), words_of.items(), IN_A_MOUNT + REFERENCE)
    cli = command_line(bed, home, side)
    name = cli.background("--mount", f"{other}:/mnt/other")["name"]
    before = contents(precious, other)
    assert bed.incus.exec(name, ["sh", "-ec", script], user=1000).code == 0
    done = cli.run("stop", "--force", name)
    aside = {
        f".git/{head}",
        ".git/ORIG_HEAD",
        ".git/rebase-merge/git-rebase-todo",
        ".git/COMMIT_EDITMSG",
        ".git/modules/m/config",
        ".git/index",
    }
    assert [path for path in sorted(aside) if os.path.lexists(other / path)] == [], done.stderr
    for words in ("reset --hard HEAD", "status", "rebase --continue", "commit --allow-empty -m evil", "checkout ."):
        act(other, words)
    assert contents(precious, other) == before
    assert not (precious / "ran").exists()
    cli.ok("kill", "--force", name)
