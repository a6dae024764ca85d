"""Commits of a mounted workspace by git in its container, on a real Incus. More is in tests/unit/test_commit.py."""

from __future__ import annotations

import os

import pytest

from tests.programs import git, wait_until

ANN = {"name": "Ann", "email": "ann@example.com"}


@pytest.fixture
def session(bed, shared_server, workspace):
    made = shared_server.create(workspace)
    wait_until(lambda: bed.screen(made["id"]), "the tool")
    return made


@pytest.mark.day
def test_a_commit_is_made_in_the_container_with_its_hooks_and_the_persons_name(bed, shared_server, workspace):
    hook = workspace / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\nuname -n >hook-ran\n")
    hook.chmod(0o755)
    session = shared_server.create(workspace)
    (shared_server.home / ".gitconfig").write_text("[user]\nname = Ann\nemail = ann@example.com\n")
    bed.shell(session["id"], "cd /workspace; echo new >made; echo more >other")
    path = f"/api/sessions/{session['id']}/commit"
    draft = shared_server.get(path).json
    assert {key: draft[key] for key in ("branch", "name", "email", "hooks")} == {
        "branch": "main",
        **ANN,
        "hooks": ["pre-commit"],
    }
    assert {"made", "other"} <= {one["path"] for one in draft["files"]}

    made = shared_server.post(path, {"message": "Make it", **ANN, "paths": ["made"]})
    assert made.status == 200, made.body
    assert made.json["commit"] == git(workspace, "rev-parse", "main").strip()
    assert git(workspace, "show", "--format=%an %s", "--name-only").split() == ["Ann", "Make", "it", "made"]
    assert session["id"] in (workspace / "hook-ran").read_text()
    owners = {entry.lstat().st_uid for entry in (workspace / ".git/objects").rglob("*")}
    assert owners == {workspace.stat().st_uid}


def test_a_commit_that_cannot_be_says_why(bed, shared_server, session, workspace):
    path = f"/api/sessions/{session['id']}/commit"
    request = {"message": "Make it", **ANN}
    answer = shared_server.post(path, {**request, "paths": ["not/there"]})
    assert (answer.status, "has not changed" in answer.json["error"]) == (409, True)
    assert shared_server.post(path, {**request, "message": " "}).status == 400
    shared_server.delete(f"/api/sessions/{session['id']}")
    answer = shared_server.post(path, request)
    assert (answer.status, "resume it first" in answer.json["error"]) == (409, True)
    assert shared_server.get("/api/sessions/clincus-ffffff-1/commit").status == 404


def test_a_folder_without_a_repository_is_told_where_to_commit(bed, shared_server, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    session = shared_server.create(folder)
    answer = shared_server.get(f"/api/sessions/{session['id']}/commit")
    assert (answer.status, "on your side" in answer.json["error"]) == (409, True)
