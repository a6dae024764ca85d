"""What would be lost with a container's disk, and the copies that are made first, on a real Incus."""

from __future__ import annotations

import os
import pty
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.incus.review_box import HASTY_TOOL
from tests.programs import DEADLINE, git, program, wait_until

AGENT = "git -c user.name=A -c user.email=a@localhost"
# A commit, a stash, a repository without a commit, one with a commit, and a database of root.
WORK = f"""
cd /workspace && echo made >made && git add made && {AGENT} commit --quiet --message 'Make it'
echo away >away && {AGENT} stash push --include-untracked --quiet
echo half >half
git init --quiet empty && echo x >empty/x
git init --quiet inner && cd inner && {AGENT} commit --quiet --allow-empty --message Inner
"""
DATABASE = "echo of root >/workspace/data && chmod 600 /workspace/data"


@pytest.fixture
def clone(bed, shared_server, workspace) -> dict[str, Any]:
    """A session whose clone holds a thing of each kind."""
    session = shared_server.create(workspace, mode="clone")
    bed.shell(session["id"], WORK)
    bed.shell(session["id"], DATABASE, user=0)
    return session


def run_cli(bed, server, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **bed.environ, "HOME": str(server.home)}
    argv = [*program(), *words]
    return subprocess.run(argv, env=environ, check=False, capture_output=True, text=True, timeout=DEADLINE, input="")


def unsaved(server, session) -> dict[str, Any]:
    return dict(server.unsaved(session["id"]))


def upload(server, session, name: str = "shot.png") -> str:
    path = f"/api/sessions/{session['id']}/uploads?name={name}"
    return server.request("POST", path, b"picture", headers={"Content-Type": "image/png"}).json["path"]


def kept_paths(answer) -> list[Path]:
    return [Path(unquote(path)) for path in answer.headers["clincus-kept"].split(", ")]


@pytest.mark.day
def test_the_answer_names_each_kind_and_a_forced_delete_keeps_it_all(bed, shared_server, workspace, clone):
    path = upload(shared_server, clone)
    told = unsaved(shared_server, clone)
    counts = {kind: told[kind]["count"] for kind in ("commits", "uncommitted", "stashes", "nested", "outside")}
    assert counts == {"commits": 1, "uncommitted": 2, "stashes": 1, "nested": 1, "outside": 1}
    assert told["commits"]["names"][0].endswith(" Make it")
    assert sorted(told["uncommitted"]["names"]) == ["empty/x", "half"]
    assert (told["nested"]["names"], told["outside"]["names"]) == (["inner"], [path])
    assert told["unreadable"] == {"count": 1, "names": ["data"]}
    assert told["unknown"] == ""

    refused = run_cli(bed, shared_server, "kill", clone["id"])
    assert refused.returncode == 1
    for words in ("1 commit (", "Make it)", "1 stash (", "1 repository within its clone (inner)", "(data)"):
        assert words in refused.stderr
    assert bed.state(clone["id"]) == "Running"

    answer = shared_server.delete(f"/api/sessions/{clone['id']}?force=true")
    assert (answer.status, bed.names()) == (204, [])
    bundle, uploads = kept_paths(answer)
    place = "refs/kept/all"
    git(workspace, "fetch", "--quiet", "--no-tags", str(bundle), f"refs/*:{place}/*")
    assert git(workspace, "show", f"{place}/heads/main:made") == "made\n"
    assert git(workspace, "show", f"{place}/clincus/stash/1^3:away") == "away\n"
    assert git(workspace, "show", f"{place}/clincus/tip:half") == "half\n"
    assert "Inner" in git(workspace, "log", "--format=%s", f"{place}/clincus/nested/2/HEAD")
    assert git(workspace, "show", f"{place}/clincus/tip:data") == "of root\n", "the end gives root's files to the user"
    with tarfile.open(uploads) as archive:
        assert archive.extractfile(path.lstrip("/")).read() == b"picture"


def test_a_repository_that_the_agent_committed_as_a_gitlink_is_refused_and_kept(bed, shared_server, workspace):
    """A fetch brings the gitlink, and neither its commits nor its files."""
    session = shared_server.create(workspace, mode="clone")
    script = f"""cd /workspace && git init --quiet app && cd app && echo x >main && git add main
        {AGENT} commit --quiet --message Inner && cd .. && git add --all 2>/dev/null
        {AGENT} commit --quiet --message 'Add the app' && echo half >app/half"""
    bed.shell(session["id"], script)
    assert shared_server.post(f"/api/sessions/{session['id']}/fetch", {}).json["gitlinks"] == ["app"]
    refused = run_cli(bed, shared_server, "kill", session["id"])
    assert refused.returncode == 1
    assert "1 uncommitted file (app/half) and 1 repository within its clone (app)" in refused.stderr
    answer = shared_server.delete(f"/api/sessions/{session['id']}?force=true")
    assert (answer.status, bed.names()) == (204, [])
    [bundle] = kept_paths(answer)
    git(workspace, "fetch", "--quiet", "--no-tags", str(bundle), "refs/*:refs/kept/inner/*")
    assert git(workspace, "show", "refs/kept/inner/clincus/nested/1/HEAD:main") == "x\n"
    assert git(workspace, "show", "refs/kept/inner/clincus/nested/1/uncommitted:half") == "half\n"


# A commit that only a reference of the agent's own names, one of a work tree whose folder is gone, and a changed file
# that git was told to take for unchanged.
HIDDEN = f"""
cd /workspace && git checkout --quiet --detach && echo wip >wip && git add wip
{AGENT} commit --quiet --message Wip && git update-ref refs/wip/one HEAD && git checkout --quiet main
git worktree add --quiet --detach /tmp/second && cd /tmp/second && echo more >more && git add more
{AGENT} commit --quiet --message More && rm -r /tmp/second
cd /workspace && git update-index --assume-unchanged README.md && echo mine >README.md
"""


def test_work_that_git_status_does_not_show_holds_each_end_back_and_is_kept(bed, shared_server, workspace):
    session = shared_server.create(workspace, mode="clone")
    one = f"/api/sessions/{session['id']}"
    assert shared_server.post(f"{one}/snapshots", {"name": "before"}).status < 300
    bed.shell(session["id"], HIDDEN)
    assert bed.shell(session["id"], "cd /workspace && git status --porcelain") == ""
    told = shared_server.post(f"{one}/snapshots/before/restore").json["unsaved"]
    assert (told["commits"]["count"], told["uncommitted"]["names"]) == (2, ["README.md"])
    refused = run_cli(bed, shared_server, "kill", session["id"])
    assert refused.returncode == 1
    for words in (" Wip", " More", "README.md"):
        assert words in refused.stderr
    answer = shared_server.post(f"{one}/snapshots/before/restore?force=true")
    assert answer.status == 200, answer.body
    [bundle] = kept_paths(answer)
    git(workspace, "fetch", "--quiet", "--no-tags", str(bundle), "refs/*:refs/kept/hidden/*")
    assert git(workspace, "show", "refs/kept/hidden/wip/one:wip") == "wip\n"
    assert git(workspace, "show", "refs/kept/hidden/clincus/worktree/1:more") == "more\n"
    assert git(workspace, "show", "refs/kept/hidden/clincus/tip:README.md") == "mine\n"


def test_a_start_that_fails_after_its_tool_has_worked_leaves_the_clone(bed, start_server, workspace):
    server = start_server(config=HASTY_TOOL)
    (server.home / ".clincus").mkdir(exist_ok=True)
    record = server.home / ".clincus/sessions-hasty"
    record.symlink_to("/proc/none")  # a disk that takes no more, also for root
    body = {"workspace": str(workspace), "mode": "clone", "tool": "hasty", "prompt": "go"}
    assert server.post("/api/sessions", body).status == 500
    [id] = bed.names()
    wait_until(lambda: "at-once" in bed.shell(id, "ls /workspace"), "the work of the tool")
    words = "its start failed, and its container stays: "
    wait_until(lambda: words in server.log(), "the server to leave the container")
    assert unsaved(server, {"id": id})["uncommitted"]["count"] == 3
    record.unlink()
    answer = server.delete(f"/api/sessions/{id}?force=true")
    assert (answer.status, bed.names()) == (204, [])
    assert kept_paths(answer)[0].suffix == ".bundle"


def test_what_a_stopped_clone_holds_is_unknown_and_clean_keeps_it_only_when_forced(bed, shared_server, clone):
    path = f"/api/sessions/{clone['id']}"
    shared_server.delete(path)
    told = unsaved(shared_server, clone)
    assert (told["commits"]["count"], told["total"], told["unknown"]) == (None, None, "the session is stopped")
    assert told["conversation"]["count"] == 0

    shown = run_cli(bed, shared_server, "clean", "--dry-run")
    assert "what its container holds is not known: the session is stopped" in shown.stdout
    shared_server.request("PATCH", path, {"persistent": False})
    kept = run_cli(bed, shared_server, "shutdown", clone["id"])
    assert "Make it" in kept.stderr
    assert bed.names() == [clone["id"]]
    cleaned = run_cli(bed, shared_server, "clean", "--force")
    assert (cleaned.returncode, bed.names()) == (0, []), cleaned.stderr
    assert "git fetch --no-tags " in cleaned.stderr


def test_a_snapshot_of_a_mounted_session_comes_back_only_once_uploads_are_kept(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    one = f"/api/sessions/{session['id']}/snapshots"
    shared_server.post(one, {"name": "before"})
    path = upload(shared_server, session)
    refused = shared_server.post(f"{one}/before/restore")
    assert refused.status == 409
    assert refused.json["unsaved"]["outside"] == {"count": 1, "names": [path]}
    assert refused.json["unsaved"]["commits"]["count"] == 0
    now = shared_server.get(f"/api/sessions/{session['id']}").json
    assert (now["status"], now["started_at"]) == ("running", session["started_at"]), "nothing was ended for the refusal"
    answer = shared_server.post(f"{one}/before/restore?force=true")
    assert answer.status == 200, answer.body
    [uploads] = kept_paths(answer)
    with tarfile.open(uploads) as archive:
        assert archive.extractfile(path.lstrip("/")).read() == b"picture"
    assert bed.shell(session["id"], f"test -e {path} || echo gone") == "gone\n"


def test_files_that_the_command_line_pushed_outside_the_workspace_count(bed, shared_server, workspace, tmp_path):
    session = shared_server.create(workspace)
    (tmp_path / "rules").write_text("mine\n")
    for target in ("/workspace/rules", "/home/code/rules"):
        done = run_cli(bed, shared_server, "file", "push", str(tmp_path / "rules"), f"{session['id']}:{target}")
        assert done.returncode == 0, done.stderr
    assert unsaved(shared_server, session)["outside"]["names"] == ["/home/code/rules"]


def at_a_terminal(bed, server, answer: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdin is a terminal, at which a person has typed an answer."""
    main, side = pty.openpty()
    try:
        os.write(main, f"{answer}\n".encode())
        environ = {**os.environ, **bed.environ, "HOME": str(server.home)}
        argv = [*program(), *words]
        return subprocess.run(
            argv, env=environ, check=False, capture_output=True, text=True, timeout=DEADLINE, stdin=side
        )
    finally:
        os.close(main)
        os.close(side)


def test_a_question_at_a_terminal_shows_the_work_and_a_yes_keeps_it(bed, shared_server, workspace, clone):
    id = clone["id"]
    shared_server.post(f"/api/sessions/{id}/snapshots", {"name": "empty"})
    refused = at_a_terminal(bed, shared_server, "n", "snapshot", "restore", "empty", "--container", id)
    assert "must be stopped before restore" in refused.stderr
    bed.stop(id)
    asked = at_a_terminal(bed, shared_server, "n", "snapshot", "restore", "empty", "--container", id)
    assert "What its container holds is not known: the session is stopped. What is not on" in asked.stderr
    shared_server.post(f"/api/sessions/{id}/resume")
    bed.stop(id)
    deleted = at_a_terminal(bed, shared_server, "y", "container", "delete", id)
    assert "What its container holds is not known: the session is stopped." in deleted.stderr
    assert (deleted.returncode, bed.names()) == (0, []), deleted.stderr
    [bundle] = (shared_server.home / ".clincus" / "sessions-claude").glob(f"{clone['session_id']}.*.bundle")
    git(workspace, "fetch", "--quiet", "--no-tags", str(bundle), "refs/*:refs/kept/terminal/*")
    assert git(workspace, "show", "refs/kept/terminal/heads/main:made") == "made\n"


def test_a_container_that_lies_or_hangs_makes_it_unknown_in_bounded_time(bed, shared_server, clone):
    for lie in ("exec cat /dev/zero", "echo commits 99", "exit 0"):
        script = f"printf '#!/bin/sh\\n{lie}\\n' >/usr/local/bin/git; chmod 755 /usr/local/bin/git"
        bed.shell(clone["id"], script, user=0)
        told = unsaved(shared_server, clone)
        assert told["commits"]["count"] is None, lie
        assert told["total"] is None
        assert told["unknown"]
    assert shared_server.delete(f"/api/sessions/{clone['id']}?force=true").status == 204
    assert bed.names() == []
