"""Operations in progress that an agent forges in .git, so that git on the host reads, writes or runs something else.

What is judged is the host: is all as it was, once git has gone on with the operation?
"""

from __future__ import annotations

import os
import subprocess

import pytest
from test_protection_links import act, contents, precious  # noqa: F401  # the fixture
from test_protection_watch import await_broken, await_resumed, await_watched, changes_so_far, protection

from tests.programs import NO_CHECKPOINTS, git

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host")

ID = "1" * 40
REWRITE = (
    f"mkdir -p .git/rr-cache/{ID}; echo '# kept' >.git/rr-cache/{ID}/preimage;"
    f" echo evil >.git/rr-cache/{ID}/postimage; printf '{ID}.-1\\tAT\\0' >.git/MERGE_RR"
)
STRATEGY = r"""mkdir -p git-merge-x .git/sequencer; printf '#!/bin/sh\ntouch HOME/ran\n' >git-merge-x/evil
chmod 755 git-merge-x/evil; git rev-parse HEAD | tee .git/sequencer/head >.git/sequencer/abort-safety
printf 'pick HEAD\npick one\n' >.git/sequencer/todo; printf '[options]\n\tstrategy = x/evil\n' >.git/sequencer/opts"""
# What the person has begun, what the agent writes, the file that is put aside, and what the person's git does next.
ATTACKS = {
    "a file that a commit writes": ("", REWRITE, "MERGE_RR", "commit --allow-empty -m x"),
    "a strategy of a cherry-pick": ("", STRATEGY, "sequencer/opts", "cherry-pick --continue"),
    "a command of a rebase": (
        "rebase --rebase-merges one",
        "echo 'exec touch HOME/ran' >.git/rebase-merge/git-rebase-todo",
        "rebase-merge/git-rebase-todo",
        "rebase --skip",
    ),
}
ENDS = ("cherry-pick --quit", "rebase --abort", "reset -q --hard two")


@pytest.fixture
def branches(workspace, precious):  # noqa: F811
    """A workspace with two branches that change the same line, and the patches of one of them in the home."""
    git(workspace, "config", "user.name", "a")
    git(workspace, "config", "user.email", "a@b")
    git(workspace, "branch", "-M", "main")
    for branch in ("one", "two"):
        git(workspace, "checkout", "-q", "-b", branch, "main")
        for number in range(2):
            (workspace / "file").write_text(f"{branch} {number}\n")
            git(workspace, "add", "file")
            git(workspace, "commit", "-q", "-m", f"{branch} {number}")
    (workspace / "file").write_text("two 1\n")
    subprocess.run(["chown", "-R", "1000:1000", workspace], check=True)
    return workspace


def harm(workspace, home):
    """All that git could have changed for the agent."""
    return contents(home, workspace)


def planting(script, workspace, home):
    """The script of an attacker in the workspace."""
    return script.replace("AT", os.path.relpath(home / "bashrc", workspace)).replace("HOME", str(home))


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_one_where_nobody_watches(branches, precious, name):  # noqa: F811
    begun, script, _, words = ATTACKS[name]
    before = harm(branches, precious)
    if begun:
        act(branches, planting(begun, branches, precious))
    subprocess.run(["sh", "-ec", planting(script, branches, precious)], cwd=branches, check=True)
    act(branches, words)
    assert harm(branches, precious) != before


def test_no_operation_of_a_container_has_git_on_the_host_read_write_or_run(
    bed,
    start_server,
    branches,
    precious,  # noqa: F811
):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(branches)
    await_watched(server, session)
    for name, (begun, script, path, words) in ATTACKS.items():
        earlier = changes_so_far(server, session)
        before = harm(branches, precious)
        if begun:
            act(branches, planting(begun, branches, precious))
            assert (branches / ".git" / path).parent.exists(), name
        planted = f"cd /workspace && {planting(script, branches, precious)}"
        bed.attack(session["id"], planted)
        found = await_broken(server, session, earlier)
        act(branches, words)
        assert harm(branches, precious) == before, name
        [change] = found["changes"][-1:]
        assert change["path"] == f"{branches}/.git/{path}", name
        assert "put aside" in change["words"], name
        for end in ENDS:
            act(branches, end)
        server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "continue"})
        await_resumed(server, session)
    assert protection(server, session)["level"] == "locked"
