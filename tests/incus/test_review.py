"""Review and undo on a real Incus: checkpoints, what they hold, and what differs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.incus.review_box import HASTY_TOOL, PATIENT, Reviewed, kept_review, server_whose_tools_wait
from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import DEADLINE, ROOT, Server, git, wait_until


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


@pytest.fixture
def own_session(bed, shared_server, workspace) -> Reviewed:
    return Reviewed(bed, shared_server, workspace)


@pytest.mark.day
def test_what_a_session_changes_is_seen_and_outlives_it(own_session, workspace):
    session = own_session
    first = session.checkpoints()
    assert [(one["checkpoint"], one["why"], one["files"]) for one in first] == [("1", "start", 0)]
    session.run("echo two >>README.md; mkdir src; seq 3 >src/new.txt; printf '\\211PNG\\r\\n\\032\\n\\0' >a.png")
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
    patch = session.server.get(f"{session.path}/changes/patch?path=README.md")
    assert b"+two\n" in patch.body
    one = next(one for one in session.server.get("/api/sessions").json if one["id"] == session.id)
    assert one["changes"] == {"files": 2, "added": 4, "removed": 0}
    session.run("rm -rf src; sudo rm -rf /home/code/.clincus/shadow")
    assert session.files() == {"README.md": "M"}
    assert git(workspace, "status", "--short") == " M README.md\n", "index and HEAD are as they were"
    assert session.server.delete(f"{session.path}?force=true").status == 204
    assert session.files(to="2") == {"README.md": "M", "a.png": "A", "src/new.txt": "A"}
    assert session.server.post(f"{session.path}/checkpoints").status == 404
    again = Reviewed(session.bed, session.server, workspace)
    assert (again.id, again.files()) == (session.id, {}), "a new session of that name"
    gone = session.server.get(f"/api/sessions/{one['session_id']}/changes?to=2").json
    assert len(gone["files"]) == 3, "the one before is found by its session id"


@pytest.mark.day
def test_an_undo_brings_files_back_and_can_be_undone(session):
    session.run("mkdir src; echo one >src/a; echo keep >gone.txt; echo '*.log' >.gitignore; echo log >x.log")
    kept = session.keep()["checkpoint"]
    session.run("echo two >src/a; chmod +x src/a; rm gone.txt; mkdir new; echo n >new/file; ln -s src/a link")
    before = session.files()
    answer = session.server.post(
        f"{session.path}/restore", {"checkpoint": kept, "paths": ["src", "gone.txt", "new", "link"]}
    )
    assert answer.status == 200, answer.body
    done = answer.json
    assert (sorted(done["restored"]), sorted(done["removed"]), done["failed"]) == (
        ["gone.txt", "src/a"],
        ["link", "new/file"],
        [],
    )
    assert session.files(**{"from": kept}) == {}
    assert session.run("cat src/a gone.txt x.log; stat -c '%a %U' src/a; ls").split() == [
        *("one", "keep", "log", "644", "code"),
        *("README.md", "commondir", "gone.txt", "src", "x.log"),
    ]
    assert session.checkpoints()[0]["why"] == "restore"
    again = session.server.post(
        f"{session.path}/restore", {"checkpoint": done["checkpoint"], "paths": ["src", "gone.txt", "new", "link"]}
    )
    assert again.status == 200, again.body
    assert session.files() == before
    assert session.run("cat src/a new/file; readlink link; stat -c %a src/a").split() == ["two", "n", "src/a", "755"]
    nothing = session.server.post(f"{session.path}/restore", {"checkpoint": done["checkpoint"], "paths": ["README.md"]})
    assert (nothing.status, "nothing to undo" in nothing.json["error"]) == (409, True)
    unknown = session.server.post(f"{session.path}/restore", {"checkpoint": done["checkpoint"], "paths": ["missing"]})
    assert (unknown.status, '"missing" is in neither state' in unknown.json["error"]) == (404, True)
    assert (session.workspace / "src" / "a").stat().st_uid == 1000


def test_what_no_checkpoint_holds_and_what_is_protected_is_left_alone(session):
    session.run("echo old >data; echo h >hook.txt")
    kept = session.keep()["checkpoint"]
    session.run("rm data hook.txt")
    session.changes()
    session.run("echo data >.gitignore; echo precious >data; head -c 21000000 /dev/zero >hook.txt")
    found = session.changes()
    assert {(one["path"], one["why"]) for one in found["skipped"]} == {("data", "ignored"), ("hook.txt", "large")}
    offered = session.cli("undo", ".gitignore", "--to", kept).stdout
    assert "-  hook.txt  not looked at: large" in offered.splitlines()
    answer = session.server.post(f"{session.path}/restore", {"checkpoint": kept, "paths": ["data", "hook.txt"]})
    assert answer.json["failed"] == [{"path": "data", "why": "occupied"}, {"path": "hook.txt", "why": "occupied"}]
    assert session.run("cat data; stat -c %s hook.txt").split() == ["precious", "21000000"]


def test_what_cannot_be_read_is_told_and_stays(bed, shared_server, workspace):
    """From the start, and later."""
    (workspace / "theirs").write_text("secret\n")
    (workspace / "theirs").chmod(0o600)
    os.chown(workspace / "theirs", 12345, 12345)
    session = Reviewed(bed, shared_server, workspace)
    session.run("echo mine >mine; sudo sh -c 'umask 077; echo secret >roots'")
    found = session.changes()
    assert [(one["path"], one["why"]) for one in found["skipped"]] == [
        ("roots", "unreadable"),
        ("theirs", "unreadable"),
    ]
    assert session.restore("start", "mine", "roots")["removed"] == ["mine"]
    assert session.run("ls").split() == ["README.md", "commondir", "roots", "theirs"]


def test_of_two_sessions_in_a_folder_each_offers_what_its_own_turns_changed(bed, own_session):
    session = own_session
    other = Reviewed(bed, session.server, session.workspace)
    session.turn("echo its >its")
    other.run("echo theirs >theirs; echo theirs >>README.md")
    found = session.changes()
    assert {one["path"]: one["touched"] for one in found["files"]} == {"README.md": False, "its": True, "theirs": False}
    assert (found["others"], other.changes()["others"]) == ([other.id], [session.id])
    assert not any(one["touched"] for one in other.changes()["files"]), "it had no turn"
    done = session.server.post(f"{session.path}/restore", {"checkpoint": "start"}).json
    assert (done["restored"], done["removed"]) == ([], ["its"])
    assert session.run("cat theirs") == "theirs\n"


def test_what_was_recorded_once_cannot_be_hidden(session):
    session.run("echo README.md >.gitignore; echo evil >>README.md; git update-index --assume-unchanged README.md")
    assert session.files() == {".gitignore": "A", "README.md": "M"}


def test_the_changes_of_a_frozen_session_say_that_they_are_not_of_now(bed, own_session):
    own_session.run("echo two >>README.md")
    bed.incus.run("pause", own_session.id)
    wait_until(lambda: own_session.server.get(own_session.path).json["paused"], "it to be frozen")
    found = own_session.changes()
    assert (found["files"], found["stale"]) == ([], "the container is frozen, so its folder cannot be looked at")
    bed.incus.run("start", own_session.id)


@pytest.mark.day
def test_comments_follow_their_lines_and_are_stale_without_them(session):
    session.run("seq 1 9 >numbers")
    session.changes()
    path = f"{session.path}/comments"
    made = session.server.post(path, {"path": "numbers", "line": 3, "end_line": 4, "text": "why?"})
    assert made.status == 201, made.body
    assert (made.json["code"], made.json["stale"]) == ("3\n4", False)
    assert session.server.post(path, {"path": "numbers", "line": 99, "text": "?"}).status == 400
    session.run("seq 0 9 >numbers")
    session.changes()
    assert [(one["line"], one["end_line"], one["stale"]) for one in session.server.get(path).json] == [(4, 5, False)]
    session.run("seq 5 9 >numbers")
    session.changes()
    found = session.server.get(path).json
    assert [(one["line"], one["code"], one["stale"]) for one in found] == [(3, "3\n4", True)]
    one = f"{path}/{found[0]['comment_id']}"
    assert session.server.request("PATCH", one, {"text": "really why?"}).json["text"] == "really why?"
    sent = session.server.post(f"{path}/send")
    assert sent.json["result"] == "queued", sent.body
    assert session.server.get(path).json == []
    [prompt] = session.server.get(f"{session.path}/prompts").json
    assert prompt["text"] == (
        "Review comment:\n\nnumbers, lines 3 to 4 (the code has changed since; it was:)\n```\n3\n4\n```\nreally why?"
    )
    assert session.server.delete(one).status == 404
    assert session.server.delete(f"{session.path}/prompts/{prompt['prompt_id']}").status == 204


@pytest.mark.day
def test_a_container_goes_back_to_a_snapshot_and_its_conversation_goes_on(bed, own_session):
    session = own_session
    path = f"{session.path}/snapshots"
    talk = ".claude/projects/-workspace"
    bed.shell(session.id, f"cd; echo before >file; mkdir -p {talk}; rm -f {talk}/*; echo 1 >{talk}/new.jsonl")
    taken = session.server.post(path, {"name": "clean"})
    assert taken.status == 201, taken.body
    assert session.server.post(path, {"name": "clean"}).status == 409
    bed.shell(session.id, f"cd; echo after >file; echo 2 >>{talk}/new.jsonl")
    session.run("echo workspace >>README.md")
    session.server.request("PATCH", session.path, {"name": "mine"})
    back = session.server.post(f"{path}/clean/restore")
    assert back.status == 200, back.body
    assert (back.json["status"], back.json["name"]) == ("running", "mine")
    assert bed.shell(session.id, f"cd; cat file {talk}/new.jsonl").split() == ["before", "1", "2"]
    assert session.run("tail -1 README.md") == "workspace\n"
    assert [one["name"] for one in session.server.get(path).json] == ["clean"]
    assert [session.server.delete(f"{path}/clean").status for _ in range(2)] == [204, 404]


@pytest.mark.day
def test_the_command_line_shows_and_takes_back(session):
    session.run("echo two >>README.md; printf 'esc\\033[2J\\n' >new")
    assert session.cli("diff", "--stat").stdout == "M  README.md  +1 -0\nA  new  +1 -0\n"
    assert "+two\n" in session.cli("diff", "README.md").stdout
    assert session.cli("checkpoints", "--keep", "mine").returncode == 0
    listed = session.cli("checkpoints").stdout.splitlines()
    assert ("mine" in listed[1], "start" in listed[-1]) == (True, True)
    kept = listed[1].split()[0]
    session.run("rm new")
    refused = session.cli("undo", "--to", kept, "new")
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    mistyped = session.cli("undo", "--to", kept, "--force", "new", "missing.txt")
    assert mistyped.returncode == 1
    assert f"'missing.txt' does not differ from '{kept}': `clincus diff" in mistyped.stderr
    assert "new" not in session.run("ls"), "nothing is brought back where a path is mistyped"
    done = session.cli("undo", "--to", kept, "--force", "new")
    assert done.returncode == 0, done.stderr
    assert session.run("cat new") == "esc\033[2J\n"
    assert session.cli("diff", "--from", "nonsense").returncode == 2
    assert "not found" in session.cli("diff", "--from", "99").stderr


@pytest.fixture(scope="module")
def patient_server(start_shared) -> Server:
    return start_shared(config=HASTY_TOOL, command=PATIENT)


def start_note(session: Reviewed) -> str:
    return str(next(one["note"] for one in session.checkpoints() if one["why"] == "start"))


@pytest.mark.parametrize("mode", ["mount", "clone"])
def test_a_start_is_the_workspace_before_the_tool_writes_at_once(bed, patient_server, workspace, mode):
    for name in ("gone", "uncommitted"):
        (workspace / name).write_text("one\n")
        os.chown(workspace / name, 1000, 1000)
    session = Reviewed(bed, patient_server, workspace, mode=mode, tool="hasty", prompt="go")
    changed = {"README.md": "M", "at-once": "A", "gone": "D", "uncommitted": "M"}
    wait_until(lambda: session.files() == changed, lambda: f"{changed}; now {session.files()}, {start_note(session)}")
    assert session.file("README.md")["old"] == "# project\n"
    assert start_note(session) == ""
    assert patient_server.delete(session.path).status == 204
    assert patient_server.post(f"{session.path}/resume", {}).status == 200
    wait_until(lambda: session.whys()[1:].count("start") == 1, "the second start")
    again = next(one for one in session.checkpoints() if one["why"] == "start")
    since = {"from": again["checkpoint"]}
    changed = {"README.md": "M", "uncommitted": "M"}
    wait_until(lambda: session.files(**since) == changed, lambda: f"{changed} since {again}: {session.files(**since)}")
    assert session.file("README.md", **since)["old"] == "# project\ntwo\n"
    assert start_note(session) == ""


@pytest.mark.parametrize("count", [2_000, 20_000], ids=["2,000 files", "20,000 files"])
def test_of_many_files_a_start_tells_which_the_tool_was_faster_with(bed, start_server, workspace, note, count):
    """The tool waits for 0.3 s, in which 20,000 files cannot be read, and for 0.01 s with 2,000."""
    command = {"command": server_whose_tools_wait(0.01)} if count < 20_000 else {}
    hasty_server = start_server(config=HASTY_TOOL, **command)
    for number in range(count):
        folder = workspace / f"d{number % 20}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}.txt").write_text(f"{number}\n")
    (workspace / "gone").write_text("one\n")
    git(workspace, "add", ".")
    git(workspace, "commit", "-qm", "many")
    (workspace / "uncommitted").write_text("one\n")
    for name in ("gone", "uncommitted"):
        os.chown(workspace / name, 1000, 1000)
    session = Reviewed(bed, hasty_server, workspace, tool="hasty", prompt="go")
    wait_until((workspace / "at-once").exists, "the last that the tool writes")
    found, told = session.files(), start_note(session)
    assert not (workspace / "gone").exists()
    for name, status in {"README.md": "M", "uncommitted": "M", "at-once": "A", "gone": "D"}.items():
        assert found.get(name) == status or name in told or (name == "gone" and '"./"' in told), (found, told)
    began, wrote = session.run("stat -c %.Y ~/.clincus/shadow.reading /workspace/at-once").split()
    waited = float(wrote) - float(began)
    assert waited < DEADLINE, "the tool waited for the end of the record"
    note(f"a start with {count:,} files: the tool had written {waited:.2f} s after the start of its record")


def test_a_checkpoint_that_fails_is_shown_at_the_session_until_one_is_taken(own_session):
    session = own_session
    warnings = lambda: session.server.get(session.path).json["warnings"]  # noqa: E731
    assert not any("checkpoint" in one for one in warnings())
    place = session.run("command -v git").strip()
    session.run(f"mv {place} {place}-away", user=0)
    session.bed.draw(session.id, CLAUDE_RESTS)
    wait_until(lambda: session.server.get(f"{session.path}/agent").json["state"] in ("idle", "done"), "a tool at rest")
    session.bed.draw(session.id, CLAUDE_WORKS)
    words = "The last checkpoint failed, and undo cannot take back what has changed since: the container has no git"
    wait_until(lambda: any(one.startswith(words) for one in warnings()), lambda: f"a warning in {warnings()}")
    session.run(f"mv {place}-away {place}", user=0)
    wait_until(lambda: not any("checkpoint" in one for one in warnings()), "the next try of the checkpoint")
    assert session.whys()[-1] == "prompt"


def test_a_clone_is_reviewed_as_a_mounted_folder_is(bed, shared_server, workspace):
    session = Reviewed(bed, shared_server, workspace, mode="clone")
    session.run("echo two >>README.md; echo x >new")
    assert session.files() == session.files(**{"from": "branch"}) == {"README.md": "M", "new": "A"}
    assert session.restore("1", "new")["removed"] == ["new"]
    assert session.server.delete(session.path).status == 204
    assert session.files() == {"README.md": "M"}, "of a stopped one, as it was when it stopped"
    assert (workspace / "README.md").read_text() == "# project\n"


# A server that looks at quiet tools, and thins, every second.
HASTY = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}]
from clincus_features import review
from clincus_features.agents import state
from clincus_features.review import recorder
state.START_WITHIN = recorder.FIRST_PERIOD = review.QUIET_EVERY = review.THIN_EVERY = 1.0
from clincus_cli.main import main
sys.exit(main())
"""


def test_a_tool_that_tells_nothing_is_looked_at_and_its_store_stays_small(bed, start_server, workspace):
    server = start_server(config='[checkpoints]\nmax_size = "4MiB"\n', command=[sys.executable, "-c", HASTY])
    session = Reviewed(bed, server, workspace)
    session.run("head -c 1500000 /dev/urandom >data")
    wait_until(lambda: "timer" in session.whys(), "the checkpoint of the timer")
    for _ in range(3):
        session.run("head -c 1500000 /dev/urandom >data")
        answer = session.server.post(f"{session.path}/checkpoints", {})
        assert answer.status == 201 or "there is room for" in answer.json["error"], answer.body
    packs = server.home / ".clincus" / "checkpoints"
    size = lambda: sum(path.stat().st_size for path in packs.rglob("*.pack"))  # noqa: E731
    wait_until(lambda: size() < 3 << 20, "a smaller store")
    assert session.whys()[0] == "start"
    session.run("head -c 9000000 /dev/urandom >data")
    refused = session.server.post(f"{session.path}/checkpoints", {})
    assert (refused.status, "there is room for" in refused.json["error"]) == (409, True)
    session.run("rm data")
    assert session.files() == {}
