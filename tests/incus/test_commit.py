"""Commits of a mounted workspace by git in its container, on a real Incus. More is in tests/unit/test_commit.py."""

from __future__ import annotations

import pytest

from tests.programs import git

ANN = {"name": "Ann", "email": "ann@example.com"}


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
    expected = {"branch": "main", **ANN, "hooks": ["pre-commit"]}
    assert {key: draft[key] for key in expected} == expected
    assert {"made", "other"} <= {one["path"] for one in draft["files"]}

    request = {"message": "Make it", **ANN}
    made = shared_server.post(path, {**request, "paths": ["made"]})
    assert made.status == 200, made.body
    assert made.json["commit"] == git(workspace, "rev-parse", "main").strip()
    assert git(workspace, "show", "--format=%an %s", "--name-only").split() == ["Ann", "Make", "it", "made"]
    assert session["id"] in (workspace / "hook-ran").read_text()
    owners = {entry.lstat().st_uid for entry in (workspace / ".git/objects").rglob("*")}
    assert owners == {workspace.stat().st_uid}
    assert shared_server.post(path, {**request, "paths": ["not/there"]}).status == 409
    shared_server.delete(f"/api/sessions/{session['id']}")
    answer = shared_server.post(path, request)
    assert (answer.status, "resume it first" in answer.json["error"]) == (409, True)
