"""Review and undo on a real Incus: checkpoints, what they hold, and what differs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.incus.review_box import HASTY_TOOL, PATIENT, Reviewed, kept_review
from tests.programs import Server, git, wait_until


@pytest.fixture(scope="module")
def shared_server(start_shared) -> Server:
    """A server with checkpoints, for those tests of a file that leave it as they found it."""
    return start_shared()


@pytest.fixture(scope="module")
def shared_review(bed, shared_server, tmp_path_factory) -> Iterator[Reviewed]:
    with kept_review(bed, shared_server, tmp_path_factory.mktemp("shared")) as session:
        yield session


@pytest.fixture
def session(shared_review) -> Iterator[Reviewed]:
    """A session whose workspace is at each test's begin as it was at the session's start."""
    yield shared_review
    shared_review.clear()


@pytest.mark.day
def test_what_a_session_changes_is_seen_and_outlives_it(bed, shared_server, workspace):
    session = Reviewed(bed, shared_server, workspace)
    assert [(one["checkpoint"], one["why"], one["files"]) for one in session.checkpoints()] == [("1", "start", 0)]
    session.run("echo two >>README.md; mkdir src; seq 3 >src/new.txt; printf '\\211PNG\\r\\n\\032\\n\\0' >a.png")
    session.run("git update-index --assume-unchanged README.md")  # which hides nothing
    found = session.changes()
    assert [(one["path"], one["status"], one["added"], one["removed"], one["binary"]) for one in found["files"]] == [
        ("README.md", "M", 1, 0, False),
        ("a.png", "A", 0, 0, True),
        ("src/new.txt", "A", 3, 0, False),
    ]
    assert (found["truncated"], found["skipped"], found["others"], found["stale"]) == (False, [], [], "")
    kept = session.keep("before the move")
    assert (kept["checkpoint"], kept["why"], kept["note"], kept["files"]) == ("2", "person", "before the move", 3)
    session.run("mv src/new.txt src/moved.txt; rm a.png")
    moved = session.changes(**{"from": "2"})["files"]
    assert [(one["path"], one["old_path"], one["status"]) for one in moved] == [
        ("a.png", "", "D"),
        ("src/moved.txt", "src/new.txt", "R"),
    ]
    shown = session.file("README.md")
    assert (shown["old"], shown["new"]) == ("# project\n", "# project\ntwo\n")
    picture = session.server.get(f"{session.path}/changes/image?path=a.png&to=2")
    assert (picture.headers["content-type"], picture.body) == ("image/png", b"\x89PNG\r\n\x1a\n\0")
    assert b"+two\n" in session.server.get(f"{session.path}/changes/patch?path=README.md").body
    one = session.server.get(session.path).json
    assert one["changes"] == {"files": 2, "added": 4, "removed": 0}
    session.run("rm -rf src; git update-index --no-assume-unchanged README.md")
    assert git(workspace, "status", "--short") == " M README.md\n", "index and HEAD are as they were"
    assert session.server.delete(f"{session.path}?force=true").status == 204
    assert session.files(to="2") == {"README.md": "M", "a.png": "A", "src/new.txt": "A"}
    assert session.server.post(f"{session.path}/checkpoints").status == 404
    again = Reviewed(bed, shared_server, workspace)
    assert (again.id, again.files()) == (session.id, {}), "a new session of that name"
    gone = session.server.get(f"/api/sessions/{one['session_id']}/changes?to=2").json
    assert len(gone["files"]) == 3, "the one before is found by its session id"


@pytest.mark.day
def test_an_undo_brings_files_back_and_can_be_undone_and_writes_over_nothing_that_no_checkpoint_holds(session):
    session.run("mkdir src; echo one >src/a; echo keep >gone.txt; echo old >hook.txt; echo '*.log' >.gitignore")
    kept = session.keep()["checkpoint"]
    session.run("echo two >src/a; chmod +x src/a; rm gone.txt; mkdir new; echo n >new/file; ln -s src/a link")
    before, paths = session.files(), ("src", "gone.txt", "new", "link")
    done = session.restore(kept, *paths)
    assert sorted(done["restored"]) == ["gone.txt", "src/a"]
    assert (sorted(done["removed"]), done["failed"]) == (["link", "new/file"], [])
    assert session.files(**{"from": kept}) == {}
    assert session.run("cat src/a gone.txt; stat -c '%a %U' src/a").split() == ["one", "keep", "644", "code"]
    assert session.checkpoints()[0]["why"] == "restore"
    session.restore(done["checkpoint"], *paths)
    assert session.files() == before
    assert session.run("cat src/a new/file; readlink link; stat -c %a src/a").split() == ["two", "n", "src/a", "755"]
    for path, status in (("README.md", 409), ("missing", 404)):
        body = {"checkpoint": done["checkpoint"], "paths": [path]}
        assert session.server.post(f"{session.path}/restore", body).status == status
    session.run("head -c 21000000 /dev/zero >hook.txt")
    assert {(one["path"], one["why"]) for one in session.changes()["skipped"]} == {("hook.txt", "large")}
    assert session.restore(kept, "hook.txt")["failed"] == [{"path": "hook.txt", "why": "occupied"}]


@pytest.mark.day
def test_comments_follow_their_lines_and_are_sent_as_a_prompt(session):
    session.run("seq 1 9 >numbers")
    session.changes()
    path = f"{session.path}/comments"
    made = session.server.post(path, {"path": "numbers", "line": 3, "end_line": 4, "text": "why?"})
    assert (made.status, made.json["code"], made.json["stale"]) == (201, "3\n4", False)
    session.run("seq 0 9 >numbers")
    session.changes()
    [found] = session.server.get(path).json
    assert (found["line"], found["end_line"], found["stale"]) == (4, 5, False)
    one = f"{path}/{found['comment_id']}"
    assert session.server.request("PATCH", one, {"text": "really why?"}).json["text"] == "really why?"
    assert session.server.post(f"{path}/send").json["result"] == "queued"
    [prompt] = session.server.get(f"{session.path}/prompts").json
    assert prompt["text"].endswith("```\n3\n4\n```\nreally why?")
    assert session.server.delete(one).status == 404
    assert session.server.delete(f"{session.path}/prompts/{prompt['prompt_id']}").status == 204


@pytest.mark.day
def test_a_container_goes_back_to_a_snapshot_and_its_conversation_goes_on(bed, shared_server, workspace):
    session = Reviewed(bed, shared_server, workspace)
    path = f"{session.path}/snapshots"
    talk = ".claude/projects/-workspace"
    bed.shell(session.id, f"cd; echo before >file; mkdir -p {talk}; rm -f {talk}/*; echo 1 >{talk}/new.jsonl")
    assert [session.server.post(path, {"name": "clean"}).status for _ in range(2)] == [201, 409]
    bed.shell(session.id, f"cd; echo after >file; echo 2 >>{talk}/new.jsonl")
    session.run("echo workspace >>README.md")
    session.server.request("PATCH", session.path, {"name": "mine"})
    back = session.server.post(f"{path}/clean/restore")
    assert back.status == 200, back.body
    assert (back.json["status"], back.json["name"]) == ("running", "mine")
    assert bed.shell(session.id, f"cd; cat file {talk}/new.jsonl").split() == ["before", "1", "2"]
    assert session.run("tail -1 README.md") == "workspace\n"
    assert [session.server.delete(f"{path}/clean").status for _ in range(2)] == [204, 404]


@pytest.mark.day
def test_the_command_line_shows_and_takes_back(session):
    session.run("echo two >>README.md; printf 'esc\\033[2J\\n' >new")
    assert session.cli("diff", "--stat").stdout == "M  README.md  +1 -0\nA  new  +1 -0\n"
    assert "+two\n" in session.cli("diff", "README.md").stdout
    assert session.cli("checkpoints", "--keep", "mine").returncode == 0
    kept = session.cli("checkpoints").stdout.splitlines()[1].split()[0]
    session.run("rm new")
    assert session.cli("undo", "--to", kept, "new").returncode == 1, "nobody can be asked"
    mistyped = session.cli("undo", "--to", kept, "--force", "new", "missing.txt")
    assert (mistyped.returncode, "'missing.txt' does not differ" in mistyped.stderr) == (1, True)
    assert "new" not in session.run("ls"), "nothing is brought back where a path is mistyped"
    done = session.cli("undo", "--to", kept, "--force", "new")
    assert done.returncode == 0, done.stderr
    assert session.run("cat new") == "esc\033[2J\n"


@pytest.fixture(scope="module")
def patient_server(start_shared) -> Server:
    return start_shared(config=HASTY_TOOL, command=PATIENT)


@pytest.mark.parametrize("mode", ["mount", "clone"])
def test_a_start_is_the_workspace_before_the_tool_writes_at_once(bed, patient_server, workspace, mode):
    for name in ("gone", "uncommitted"):
        (workspace / name).write_text("one\n")
        os.chown(workspace / name, 1000, 1000)
    session = Reviewed(bed, patient_server, workspace, mode=mode, tool="hasty", prompt="go")
    changed = {"README.md": "M", "at-once": "A", "gone": "D", "uncommitted": "M"}
    wait_until(lambda: session.files() == changed, lambda: f"{changed}; now {session.files()}")
    assert session.file("README.md")["old"] == "# project\n"
    assert patient_server.delete(session.path).status == 204
    assert patient_server.post(f"{session.path}/resume", {}).status == 200
    wait_until(lambda: session.whys()[1:].count("start") == 1, "the second start")
    again = next(one for one in session.checkpoints() if one["why"] == "start")
    since = {"from": again["checkpoint"]}
    changed = {"README.md": "M", "uncommitted": "M"}
    wait_until(lambda: session.files(**since) == changed, lambda: f"{changed} since {again}: {session.files(**since)}")
    assert again["note"] == ""
