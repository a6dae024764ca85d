"""What would be lost with a container's disk, and the copies that are made first, on a real Incus."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.faults_bed import run_cli
from tests.programs import git

AGENT = "git -c user.name=A -c user.email=a@localhost"
# A commit, one that only a reference of the agent's names, a stash, a repository without a commit, one with a commit.
WORK = f"""
cd /workspace && echo made >made && git add made && {AGENT} commit --quiet --message 'Make it'
git checkout --quiet --detach && {AGENT} commit --quiet --allow-empty --message Wip
git update-ref refs/wip/one HEAD && git checkout --quiet main
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


def upload(server, session, name: str = "shot.png") -> str:
    path = f"/api/sessions/{session['id']}/uploads?name={name}"
    return server.request("POST", path, b"picture", headers={"Content-Type": "image/png"}).json["path"]


def kept_paths(answer) -> list[Path]:
    return [Path(unquote(path)) for path in answer.headers["clincus-kept"].split(", ")]


@pytest.mark.day
def test_the_answer_names_each_kind_and_a_forced_delete_keeps_it_all(bed, shared_server, workspace, clone):
    path = upload(shared_server, clone)
    told = shared_server.unsaved(clone["id"])
    counts = {kind: told[kind]["count"] for kind in ("commits", "uncommitted", "stashes", "nested", "outside")}
    assert counts == {"commits": 2, "uncommitted": 2, "stashes": 1, "nested": 1, "outside": 1}
    assert sorted(told["uncommitted"]["names"]) == ["empty/x", "half"]
    assert (told["nested"]["names"], told["outside"]["names"]) == (["inner"], [path])
    assert told["unreadable"] == {"count": 1, "names": ["data"]}
    assert told["unknown"] == ""

    refused = run_cli(bed, shared_server, "kill", clone["id"])
    assert refused.returncode == 1
    for words in ("2 commits (", "Make it", " Wip", "1 stash (", "1 repository within its clone (inner)", "(data)"):
        assert words in refused.stderr
    assert bed.state(clone["id"]) == "Running"

    answer = shared_server.delete(f"/api/sessions/{clone['id']}?force=true")
    assert (answer.status, bed.names()) == (204, [])
    bundle, uploads = kept_paths(answer)
    place = "refs/kept/all"
    git(workspace, "fetch", "--quiet", "--no-tags", str(bundle), f"refs/*:{place}/*")
    assert git(workspace, "show", f"{place}/heads/main:made") == "made\n"
    assert "Wip" in git(workspace, "log", "-1", "--format=%s", f"{place}/wip/one")
    assert git(workspace, "show", f"{place}/clincus/stash/1^3:away") == "away\n"
    assert git(workspace, "show", f"{place}/clincus/tip:half") == "half\n"
    assert "Inner" in git(workspace, "log", "--format=%s", f"{place}/clincus/nested/2/HEAD")
    assert git(workspace, "show", f"{place}/clincus/tip:data") == "of root\n", "the end gives root's files to the user"
    with tarfile.open(uploads) as archive:
        assert archive.extractfile(path.lstrip("/")).read() == b"picture"


def test_what_a_stopped_clone_holds_is_unknown_and_clean_keeps_it_only_when_forced(bed, shared_server, clone):
    path = f"/api/sessions/{clone['id']}"
    shared_server.delete(path)
    told = shared_server.unsaved(clone["id"])
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


def test_a_snapshot_of_a_mounted_session_comes_back_only_once_uploads_and_pushed_files_are_kept(
    bed, shared_server, workspace, tmp_path
):
    session = shared_server.create(workspace)
    id, one = session["id"], f"/api/sessions/{session['id']}/snapshots"
    shared_server.post(one, {"name": "before"})
    path = upload(shared_server, session)
    (tmp_path / "rules").write_text("mine\n")
    for target in ("/workspace/rules", "/home/code/rules"):
        done = run_cli(bed, shared_server, "file", "push", str(tmp_path / "rules"), f"{id}:{target}")
        assert done.returncode == 0, done.stderr
    refused = shared_server.post(f"{one}/before/restore")
    assert refused.status == 409
    assert sorted(refused.json["unsaved"]["outside"]["names"]) == sorted([path, "/home/code/rules"])
    now = shared_server.get(f"/api/sessions/{id}").json
    assert (now["status"], now["started_at"]) == ("running", session["started_at"]), "nothing was ended for the refusal"
    answer = shared_server.post(f"{one}/before/restore?force=true")
    assert answer.status == 200, answer.body
    [kept] = kept_paths(answer)
    with tarfile.open(kept) as archive:
        assert archive.extractfile(path.lstrip("/")).read() == b"picture"
    assert bed.shell(id, f"test -e {path} || echo gone") == "gone\n"
