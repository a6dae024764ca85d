"""What an agent leaves in a folder that runs by itself on the host: told after the turn, in the review, at the stop."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.incus.review_box import Reviewed
from tests.programs import Server, git, program, wait_until

EVIL = "evil-command"
AS_AGENT = "git -c user.name=a -c user.email=a@b"
GITLINK = f"""
git init -q sub && {AS_AGENT} -C sub commit -q --allow-empty -m x
git add sub 2>&1; git -C sub config core.fsmonitor {EVIL}
"""
SETTINGS = """
mkdir -p .claude; echo '{}' >.claude/settings.json; echo x >.envrc; mkdir .devcontainer; echo '{}' >.devcontainer/x.json
"""


@pytest.fixture(scope="module")
def shared_server(start_shared) -> Server:
    return start_shared()


@pytest.fixture
def session(bed, shared_server, workspace) -> Reviewed:
    (workspace / ".mcp.json").write_text("{}\n")
    os.symlink("/elsewhere", workspace / ".cursor")
    git(workspace, "init", "-q")
    git(workspace, "add", ".")
    git(workspace, "commit", "-q", "-m", "first")
    init = ["chown", "-R", "--reference", str(workspace), str(workspace)]
    subprocess.run(init, check=True)
    return Reviewed(bed, shared_server, workspace)


def told(session: Reviewed) -> dict[str, tuple[str, list[str]]]:
    """What GET …/changes lists as appeared, by its path: the kind, and the values of its commands."""
    found = session.changes()["appeared"]
    return {one["path"]: (one["kind"], [each["value"] for each in one["commands"]]) for one in found}


def appeared(session: Reviewed) -> int:
    return int(session.server.get(session.path).json["appeared"])


def command(session: Reviewed, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a session that needs no server."""
    environ = {**os.environ, **session.bed.environ, "HOME": str(session.server.home)}
    argv = [*program(), words[0], session.id, *words[1:]]
    return subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)


PLANTED = {
    "own/.git": ("repository", [EVIL]),
    "sub": ("gitlink", [EVIL]),
    ".claude/settings.json": ("settings", []),
    ".envrc": ("settings", []),
    ".devcontainer": ("settings", []),
}


@pytest.mark.day
def test_what_an_agent_plants_is_told_after_its_turn_and_at_the_stop(session):
    assert appeared(session) == 0, told(session)
    session.turn(f"git init -q own && git -C own config core.fsmonitor {EVIL}\n{GITLINK}\n{SETTINGS}")
    wait_until(lambda: appeared(session) == len(PLANTED), "the session to tell what appeared")
    assert told(session) == PLANTED
    told_there = session.server.get(f"{session.path}/protection").json["appeared"]
    assert {one["path"] for one in told_there} == PLANTED.keys()
    (warning,) = [text for text in session.server.get(session.path).json["warnings"] if "appeared" in text]
    assert session.id in warning
    lines = session.cli("diff", "--stat").stdout.splitlines()
    assert all(any(line.startswith(f"!  {path}: ") for line in lines) for path in PLANTED)
    stopped = command(session, "stop").stderr
    assert EVIL in stopped
    assert all(f"  {path}: " in stopped for path in PLANTED)


COMMIT = f"""
evil=$(echo evil | git hash-object -w --stdin); export GIT_INDEX_FILE=/tmp/index; git read-tree HEAD
git update-index --add --cacheinfo 100755,$evil,.husky/pre-commit --cacheinfo 100644,$evil,.mcp.json
git branch evil $({AS_AGENT} commit-tree -p HEAD -m evil $(git write-tree))
"""


def test_a_commit_that_changes_sealed_paths_is_told_after_the_turn_and_at_the_stop(session):
    """Nothing in the folder is another thing: git on the host would write it there."""
    session.turn(COMMIT)
    wait_until(lambda: appeared(session) == 2, "the session to tell what appeared")
    evil = git(session.workspace, "rev-parse", "evil:.mcp.json").strip()
    assert told(session) == {
        ".husky/pre-commit": ("commit", [f"100755 {evil}"]),
        ".mcp.json": ("commit", [f"100644 {evil}"]),
    }
    [warning] = [text for text in session.server.get(session.path).json["warnings"] if "git checkout" in text]
    assert ".husky/pre-commit of refs/heads/evil" in warning
    assert "!  .husky/pre-commit: " in session.cli("diff", "--stat").stdout
    assert "  .husky/pre-commit: git writes it there by `git checkout`" in command(session, "stop").stderr


def test_settings_that_are_there_are_sealed_and_a_link_or_what_is_absent_is_left_alone(session):
    assert session.server.get(session.path).json["protection"] == "locked"
    said = session.run("for path in .mcp.json .zed .cursor; do rm -f $path && echo x >$path; echo $path $?; done 2>&1")
    assert ".mcp.json 1" in said
    assert ".zed 0" in said
    assert ".cursor 0" in said
    assert (session.workspace / ".mcp.json").read_text() == "{}\n"
    assert (session.workspace / ".zed").read_text() == "x\n"
    assert not (session.workspace / ".idea").exists()


def test_what_was_there_at_the_start_is_no_news_and_what_is_added_to_it_is(bed, shared_server, workspace):
    module = "node_modules/a"  # a repository there is not looked for, and not sealed
    git(workspace, "init", "-q", module)
    git(workspace, "-C", module, "config", "core.pager", "less")
    subprocess.run(["chown", "-R", "--reference", str(workspace), str(workspace / "node_modules")], check=True)
    session = Reviewed(bed, shared_server, workspace)
    session.turn(f"git -C {module} config core.editor {EVIL} && echo x >file")
    wait_until(lambda: appeared(session) == 1, "the session to tell what appeared")
    assert told(session) == {f"{module}/.git": ("repository", [EVIL])}


def test_what_another_session_plants_is_told_by_the_one_whose_workspace_it_is(bed, start_server, workspace, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["chown", "--reference", str(workspace), str(elsewhere)], check=True)
    server = start_server(config=f'[[mounts.default]]\nhost = "{workspace}"\ncontainer = "/mnt/shared"\n')
    planting = Reviewed(bed, server, elsewhere)
    other = Reviewed(bed, server, workspace)
    planting.turn(f"cd /mnt/shared && git init -q sub && git -C sub config core.fsmonitor {EVIL}")
    wait_until(lambda: appeared(other) == 1, "the other session to tell what appeared")
    assert told(other) == {"sub/.git": ("repository", [EVIL])}
