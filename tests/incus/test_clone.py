"""Sessions that work on a clone, on a real Incus. What needs no container is in tests/unit/test_clone.py."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults_bed import Halt
from tests.programs import DEADLINE, git, program, wait_until

COMMIT = (
    "cd /workspace && echo made >made && git add made"
    " && git -c user.name=Agent -c user.email=agent@localhost commit --quiet --message 'Make it'"
)


def clone(server, workspace, **fields):
    return server.create(workspace, mode="clone", **fields)


def call(server, session, word: str, **body):
    return server.post(f"/api/sessions/{session['id']}/{word}", body)


def host_state(workspace) -> tuple[object, ...]:
    """What a fetch may not touch."""
    kept = [(workspace / ".git" / name).read_bytes() for name in ("HEAD", "index", "config")]
    return (*kept, git(workspace, "--no-optional-locks", "status", "--porcelain"), git(workspace, "rev-parse", "main"))


def run_cli(bed, server, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **bed.environ, "HOME": str(server.home)}
    argv = [*program(), *words]
    return subprocess.run(argv, env=environ, check=False, capture_output=True, text=True, timeout=DEADLINE, input="")


@pytest.mark.day
def test_an_agent_works_on_a_clone_and_its_commits_come_back_as_a_branch(bed, shared_server, workspace):
    (workspace / "open").write_text("mine\n")
    session = clone(shared_server, workspace, name="Login page")
    assert (session["mode"], session["protection"]) == ("clone", "locked")
    assert "no folder of this host" in session["protection_note"]
    bed.await_screen(session["id"], "cwd=/workspace")
    assert str(workspace) not in bed.shell(session["id"], "cat /proc/self/mountinfo", user=0)
    assert bed.shell(session["id"], "cat /workspace/open; stat -c %U /workspace") == "mine\ncode\n"
    assert shared_server.unsaved(session["id"])["commits"]["count"] == 0

    bed.shell(session["id"], COMMIT)
    before = host_state(workspace)
    told = shared_server.unsaved(session["id"])
    assert (told["commits"]["count"], told["uncommitted"]) == (1, {"count": 1, "names": ["open"]})
    fetched = call(shared_server, session, "fetch").json
    assert (fetched["branch"], fetched["commits"]) == ("clincus/Login-page", 2)
    assert host_state(workspace) == before
    assert git(workspace, "show", "clincus/Login-page:made") == "made\n"
    assert not (workspace / "made").exists()
    assert shared_server.unsaved(session["id"])["commits"]["count"] == 0
    owners = {path.lstat().st_uid for path in (workspace / ".git").rglob("*")}
    assert owners == {workspace.stat().st_uid}, "git on the host writes as the owner of the repository"

    git(workspace, "commit", "--quiet", "--allow-empty", "--message=Mine")
    pushed = call(shared_server, session, "push").json
    assert (pushed["branch"], pushed["commits"]) == ("host/main", 1)
    assert bed.shell(session["id"], "git -C /workspace rev-parse host/main").strip() == pushed["head"]


@pytest.mark.parametrize("has_git", [True, False], ids=["a repository", "a folder without git"])
def test_an_agent_commits_in_a_clone_as_the_person_does_on_the_host(bed, start_server, home, workspace, has_git):
    """The person's own settings on this host say who that is, and nothing else of them goes into the clone."""
    (home / ".gitconfig").write_text("[user]\n\tname = Ann Ö Ng\n\temail = ann@example.org\n\tsigningkey = secret\n")
    if not has_git:
        shutil.rmtree(workspace / ".git")
    session = clone(start_server(), workspace)
    commit = COMMIT.replace("-c user.name=Agent -c user.email=agent@localhost ", "")
    assert "-c user" not in commit
    bed.shell(session["id"], commit)
    assert bed.shell(session["id"], "git -C /workspace log -1 --format=%an:%ae") == "Ann Ö Ng:ann@example.org\n"
    assert "secret" not in bed.shell(session["id"], "git -C /workspace config --list")


def test_an_agent_works_on_a_clone_of_what_is_there_now_and_of_nothing_behind_a_filter(bed, shared_server, workspace):
    """A folder became a file, and a file of git-crypt or its like is in clear on the host."""
    (workspace / "thing" / "deep").mkdir(parents=True)
    (workspace / "thing" / "deep" / "in").write_text("before\n")
    (workspace / ".gitattributes").write_text("*.key filter=crypt\n")
    git(workspace, "config", "filter.crypt.clean", "echo sealed; cat >/dev/null")
    (workspace / "a.key").write_text("in clear\n")
    git(workspace, "add", ".")
    git(workspace, "commit", "--quiet", "--message=Things")
    shutil.rmtree(workspace / "thing")
    (workspace / "thing").write_text("a file\n")
    (workspace / "new.key").write_text("in clear\n")
    session = clone(shared_server, workspace)
    assert bed.shell(session["id"], "cd /workspace && cat thing a.key && ls *.key") == "a file\nsealed\na.key\n"
    warnings = shared_server.get(f"/api/sessions/{session['id']}").json["warnings"]
    assert [one for one in warnings if '"a.key", "new.key"' in one] != []


def test_a_stopped_clone_is_there_after_a_resume_and_can_be_fetched_meanwhile(bed, shared_server, workspace):
    session = clone(shared_server, workspace)
    path = f"/api/sessions/{session['id']}"
    bed.shell(session["id"], COMMIT)
    assert shared_server.delete(path).status == 204
    fetched = run_cli(bed, shared_server, "fetch", session["id"], "work")
    assert (fetched.returncode, fetched.stdout) == (0, "work\n"), fetched.stderr
    assert shared_server.get(path).json["status"] == "stopped"
    assert shared_server.post(f"{path}/resume").json["mode"] == "clone"
    assert bed.shell(session["id"], "cat /workspace/made") == "made\n"


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


def test_several_agents_work_side_by_side_on_branches_of_their_own(bed, shared_server, workspace):
    git(workspace, "branch", "older")
    mounted = shared_server.create(workspace)
    sessions = [
        clone(shared_server, workspace, name="one"),
        clone(shared_server, workspace, name="two", branch="older"),
    ]
    for session in sessions:
        bed.shell(session["id"], COMMIT.replace("made", session["name"]))
    fetched = [call(shared_server, session, "fetch").json["branch"] for session in sessions]
    assert fetched == ["clincus/one", "clincus/two"]
    assert bed.shell(sessions[1]["id"], "git -C /workspace symbolic-ref --short HEAD").strip() == "older"
    assert [path.name for path in workspace.iterdir() if path.name in ("one", "two")] == []
    assert mounted["mode"] == "mount"
    refused = call(shared_server, mounted, "fetch")
    assert (refused.status, "works in the folder itself" in refused.json["error"]) == (409, True)
    assert call(shared_server, {"id": "clincus-ffffff-1"}, "fetch").status == 404


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"branch": "no-such"}, (400, "no-such")),
        ({"mode": "mount", "branch": "main"}, (400, "a branch is for a clone")),
        ({}, (409, "git fetch --unshallow")),
    ],
)
def test_what_cannot_be_cloned_is_refused_and_leaves_nothing(bed, shared_server, workspace, fields, refusal):
    if not fields:
        (workspace / ".git/shallow").touch()
    answer = shared_server.post("/api/sessions", {"workspace": str(workspace), "mode": "clone", **fields})
    assert answer.status == refusal[0]
    assert refusal[1] in answer.json["error"]
    assert bed.names() == []


def test_a_hostile_container_gets_an_error_and_changes_nothing_here(bed, shared_server, workspace):
    """Root in the container answers in git's place: with too much, with rubbish, or not at all."""
    session = clone(shared_server, workspace)
    bed.shell(session["id"], COMMIT)
    before, objects = host_state(workspace), sorted((workspace / ".git").rglob("*"))
    for text in ("exec head -c 5000000 /dev/zero", "echo --upload-pack=x", "kill -9 $PPID", "exit 0"):
        script = f"printf '#!/bin/sh\\n{text}\\n' >/usr/local/bin/git; chmod 755 /usr/local/bin/git"
        bed.shell(session["id"], script, user=0)
        answer = call(shared_server, session, "fetch")
        assert answer.status in (409, 500), text
        assert answer.json["error"]
    assert host_state(workspace) == before
    assert sorted((workspace / ".git").rglob("*")) == objects
    bed.shell(session["id"], "rm /usr/local/bin/git", user=0)
    assert call(shared_server, session, "fetch").json["commits"] == 1
    assert call(shared_server, session, "fetch", branch="main").status == 409


@pytest.mark.parametrize("place", ["x/.git", ".git"], ids=["beside it", "its own"])
def test_a_pipe_in_a_repository_of_a_clone_is_named_as_what_keeps_git_waiting(bed, shared_server, workspace, place):
    session = clone(shared_server, workspace)
    pipe = f"mkdir -p {place}/objects {place}/refs; rm -f {place}/HEAD; mkfifo {place}/HEAD"
    bed.shell(session["id"], f"cd /workspace; {pipe}")
    # It has a minute, and what ends it then waits for its turn on a busy machine.
    answer = shared_server.post(f"/api/sessions/{session['id']}/fetch", {}, timeout=3 * DEADLINE)
    assert answer.status >= 400
    assert "named pipe" in answer.json["error"]


def test_a_branch_with_a_git_folder_in_its_tree_does_not_come_back(bed, shared_server, workspace):
    session = clone(shared_server, workspace)
    before, objects = host_state(workspace), sorted((workspace / ".git").rglob("*"))
    plant = """cd /workspace; hook=$(echo evil | git hash-object -w --stdin)
        hooks=$(printf '100755 blob %s\\tpost-checkout\\n' "$hook" | git mktree)
        inner=$(printf '040000 tree %s\\thooks\\n' "$hooks" | git mktree)
        top=$(printf '040000 tree %s\\t.git\\n' "$inner" | git mktree)
        commit=$(git -c user.name=a -c user.email=a@b commit-tree "$top" -p HEAD -m evil)
        git update-ref refs/heads/evil "$commit"; git symbolic-ref HEAD refs/heads/evil"""
    bed.shell(session["id"], plant)
    answer = call(shared_server, session, "fetch")
    assert answer.status >= 400, answer.body
    assert host_state(workspace) == before
    assert sorted((workspace / ".git").rglob("*")) == objects


def private_commit(place) -> tuple[str, str]:
    """A repository that nobody gave to a session, and the id of its commit."""
    place.mkdir(parents=True)
    git(place, "init", "--quiet", "--initial-branch=main")
    (place / "secret").write_text("secret\n")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "--message=Private")
    return str(place / ".git/objects"), git(place, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("way", ["alternates", "a link"])
def test_a_repository_that_borrows_objects_while_it_is_cloned_is_refused(bed, start_server, workspace, tmp_path, way):
    """A session that has the folder mounted may do that between the first look and the bundle."""
    objects, commit = private_commit(tmp_path / "private")
    halt = Halt(tmp_path, "clone-folder.sh")
    server = start_server(environ=halt.environ)
    with ThreadPoolExecutor(1) as pool, halt.armed():
        body = {"workspace": str(workspace), "mode": "clone"}
        create = pool.submit(server.post, "/api/sessions", body, timeout=2 * DEADLINE)
        halt.wait()
        if way == "alternates":
            (workspace / ".git/objects/info").mkdir(exist_ok=True)
            (workspace / ".git/objects/info/alternates").write_text(f"{objects}\n")
        else:
            shutil.rmtree(workspace / ".git/objects" / commit[:2], ignore_errors=True)
            (workspace / ".git/objects" / commit[:2]).symlink_to(f"{objects}/{commit[:2]}")
        (workspace / ".git/refs/heads/x").write_text(f"{commit}\n")
        halt.release()
        answer = create.result()
    assert answer.status >= 400, answer.body
    wait_until(lambda: bed.names() == [], "the half-made container to be gone")


def test_git_of_this_host_is_no_program_of_the_folder_and_heeds_no_variable(bed, start_server, workspace, tmp_path):
    """$PATH begins with a folder of the workspace, as direnv does, and variables name programs and another folder."""
    ran = tmp_path / "ran"
    trap = f"#!/bin/sh\ntouch {ran}\n"
    for place in (workspace / "bin/git", tmp_path / "trap"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(trap)
        place.chmod(0o755)
    objects, _ = private_commit(tmp_path / "other")
    settings = {"core.fsmonitor": tmp_path / "trap", "core.hooksPath": tmp_path, "uploadpack.packObjectsHook": "trap"}
    environ = {
        "PATH": f"{workspace}/bin:{os.environ['PATH']}",
        "GIT_DIR": str(tmp_path / "other/.git"),
        "GIT_WORK_TREE": str(tmp_path / "other"),
        "GIT_INDEX_FILE": str(tmp_path / "index"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        "GIT_EXTERNAL_DIFF": str(tmp_path / "trap"),
        "GIT_EXEC_PATH": str(tmp_path),
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (key, value) in enumerate(settings.items()):
        environ[f"GIT_CONFIG_KEY_{number}"] = key
        environ[f"GIT_CONFIG_VALUE_{number}"] = str(value)
    (workspace / "open").write_text("mine\n")
    server = start_server(environ=environ)
    session = clone(server, workspace)
    assert bed.shell(session["id"], "cat /workspace/open; git -C /workspace log --format=%s") == "mine\nBegin\n"
    bed.shell(session["id"], COMMIT)
    fetched = call(server, session, "fetch").json
    assert git(workspace, "show", f"{fetched['branch']}:made") == "made\n"
    git(workspace, "commit", "--quiet", "--allow-empty", "--message=Mine")
    assert call(server, session, "push").json["commits"] == 1
    assert server.get(f"/api/sessions/{session['id']}/changes").status == 200
    assert not ran.exists()
    assert not (tmp_path / "index").exists()
    assert git(tmp_path / "other", "branch", "--list") == "* main\n"
