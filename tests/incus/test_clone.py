"""Sessions that work on a clone, on a real Incus. What needs no container is in tests/unit/test_clone.py."""

from __future__ import annotations

import stat

import pytest

from tests.faults_bed import run_cli
from tests.programs import DEADLINE, git

COMMIT = (
    "cd /workspace && echo made >made && git add made"
    " && git -c user.name=Agent -c user.email=agent@localhost commit --quiet --message 'Make it'"
)


def clone(server, workspace, **fields):
    return server.create(workspace, mode="clone", **fields)


def call(server, session, word: str, **body):
    return server.post(f"/api/sessions/{session['id']}/{word}", body)


def host_state(workspace) -> tuple[object, ...]:
    """What a fetch may not touch, and the names of all files of git."""
    kept = [(workspace / ".git" / name).read_bytes() for name in ("HEAD", "index", "config")]
    names = sorted((workspace / ".git").rglob("*"))
    return (*kept, git(workspace, "--no-optional-locks", "status", "--porcelain"), names)


@pytest.mark.day
def test_an_agent_works_on_a_clone_and_its_commits_come_back_as_a_branch(bed, shared_server, workspace):
    (workspace / "open").write_text("mine\n")
    session = clone(shared_server, workspace, name="Login page")
    assert (session["mode"], session["protection"]) == ("clone", "locked")
    bed.await_screen(session["id"], "cwd=/workspace")
    assert str(workspace) not in bed.shell(session["id"], "cat /proc/self/mountinfo", user=0)
    assert bed.shell(session["id"], "cat /workspace/open; stat -c %U /workspace") == "mine\ncode\n"

    bed.shell(session["id"], COMMIT)
    before = host_state(workspace)[:4]
    told = shared_server.unsaved(session["id"])
    assert (told["commits"]["count"], told["uncommitted"]) == (1, {"count": 1, "names": ["open"]})
    fetched = call(shared_server, session, "fetch").json
    assert (fetched["branch"], fetched["commits"]) == ("clincus/Login-page", 2)
    assert host_state(workspace)[:4] == before
    assert git(workspace, "show", "clincus/Login-page:made") == "made\n"
    assert not (workspace / "made").exists()
    assert shared_server.unsaved(session["id"])["commits"]["count"] == 0
    owners = {path.lstat().st_uid for path in (workspace / ".git").rglob("*")}
    assert owners == {workspace.stat().st_uid}, "git on the host writes as the owner of the repository"

    git(workspace, "commit", "--quiet", "--allow-empty", "--message=Mine")
    pushed = call(shared_server, session, "push").json
    assert (pushed["branch"], pushed["commits"]) == ("host/main", 1)
    assert bed.shell(session["id"], "git -C /workspace rev-parse host/main").strip() == pushed["head"]


def test_several_agents_work_side_by_side_on_branches_of_their_own_which_a_stopped_one_has_too(
    bed, shared_server, workspace
):
    git(workspace, "branch", "older")
    mounted = shared_server.create(workspace)
    sessions = [
        clone(shared_server, workspace, name="one"),
        clone(shared_server, workspace, name="two", branch="older"),
    ]
    for session in sessions:
        bed.shell(session["id"], COMMIT.replace("made", session["name"]))
    assert shared_server.delete(f"/api/sessions/{sessions[0]['id']}").status == 204
    fetched = run_cli(bed, shared_server, "fetch", sessions[0]["id"], "work")
    assert (fetched.returncode, fetched.stdout) == (0, "work\n"), fetched.stderr
    assert call(shared_server, sessions[1], "fetch").json["branch"] == "clincus/two"
    resumed = call(shared_server, sessions[0], "resume").json
    assert (resumed["mode"], bed.shell(resumed["id"], "cat /workspace/one")) == ("clone", "one\n")
    assert bed.shell(sessions[1]["id"], "git -C /workspace symbolic-ref --short HEAD").strip() == "older"
    assert sorted(path.name for path in workspace.iterdir() if path.name in ("one", "two")) == []
    refused = call(shared_server, mounted, "fetch")
    assert (refused.status, "works in the folder itself" in refused.json["error"]) == (409, True)


@pytest.mark.day
def test_a_delete_asks_for_what_was_not_fetched_and_keeps_it_as_a_bundle(bed, shared_server, workspace):
    session = clone(shared_server, workspace)
    bed.shell(session["id"], COMMIT)
    refused = run_cli(bed, shared_server, "kill", session["id"])
    assert refused.returncode == 1
    assert "1 commit" in refused.stderr
    assert f"clincus fetch {session['id']}" in refused.stderr
    assert bed.state(session["id"]) == "Running"
    assert shared_server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    saved = shared_server.home / ".clincus" / "sessions-claude"
    (bundle,) = saved.glob(f"{session['session_id']}.*.bundle")
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    git(workspace, "fetch", "--quiet", str(bundle), "refs/heads/main:refs/heads/kept")
    assert git(workspace, "show", "kept:made") == "made\n"

    again = clone(shared_server, workspace, resume=session["session_id"])
    bed.shell(again["id"], "git -C /workspace checkout --quiet kept/main")
    fetched = call(shared_server, again, "fetch", branch="back").json
    assert (fetched["branch"], git(workspace, "show", "back:made")) == ("back", "made\n")


# A branch with a `.git` in its tree, whose hook would run on the host.
PLANT = """cd /workspace; hook=$(echo evil | git hash-object -w --stdin)
    hooks=$(printf '100755 blob %s\\tpost-checkout\\n' "$hook" | git mktree)
    inner=$(printf '040000 tree %s\\thooks\\n' "$hooks" | git mktree)
    top=$(printf '040000 tree %s\\t.git\\n' "$inner" | git mktree)
    commit=$(git -c user.name=a -c user.email=a@b commit-tree "$top" -p HEAD -m evil)
    git update-ref refs/heads/evil "$commit"; git symbolic-ref HEAD refs/heads/evil"""


def test_a_hostile_container_gets_an_error_and_changes_nothing_here(bed, shared_server, workspace):
    """Root in the container answers in git's place: with too much, with rubbish, or not at all; then it plants a hook.

    At last a pipe in the repository keeps git waiting, and is named.
    """
    session = clone(shared_server, workspace)
    id = session["id"]
    bed.shell(id, COMMIT)
    before = host_state(workspace)
    for text in ("exec head -c 5000000 /dev/zero", "echo --upload-pack=x", "kill -9 $PPID", "exit 0"):
        bed.shell(id, f"printf '#!/bin/sh\\n{text}\\n' >/usr/local/bin/git; chmod 755 /usr/local/bin/git", user=0)
        answer = call(shared_server, session, "fetch")
        assert (answer.status in (409, 500), bool(answer.json["error"])) == (True, True), text
    bed.shell(id, "rm /usr/local/bin/git", user=0)
    assert call(shared_server, session, "fetch", branch="main").status == 409
    bed.shell(id, PLANT)
    assert call(shared_server, session, "fetch").status >= 400
    assert host_state(workspace) == before
    bed.shell(id, "git -C /workspace symbolic-ref HEAD refs/heads/main")
    assert call(shared_server, session, "fetch").json["commits"] == 1
    bed.shell(id, "cd /workspace; rm -f .git/HEAD; mkfifo .git/HEAD")
    # It has a minute, and what ends it then waits for its turn on a busy machine.
    answer = shared_server.post(f"/api/sessions/{id}/fetch", {}, timeout=3 * DEADLINE)
    assert (answer.status >= 400, "named pipe" in answer.json["error"]) == (True, True)
