"""What hostile workspaces and containers do to review and undo: nothing runs on the host, nothing leads out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.incus.review_box import Reviewed, kept_review
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


def give_to_person(workspace: Path) -> None:
    """Let all in a workspace belong to the person, as root has made it."""
    if os.geteuid() == 0:
        for path in workspace.rglob("*"):
            os.chown(path, 1000, 1000, follow_symlinks=False)


def see_everything(session: Reviewed) -> None:
    """Ask for all that a review asks for, and undo."""
    session.run("echo more >>README.md")
    kept = session.keep()["checkpoint"]
    session.run("echo most >>README.md")
    session.changes()
    session.changes(**{"from": "branch"})
    session.file("README.md")
    assert session.server.get(f"{session.path}/changes/patch").status == 200
    assert session.restore(kept, "README.md")["restored"] == ["README.md"]


def test_no_program_that_a_repository_names_runs_on_the_host(bed, shared_server, workspace, tmp_path):
    ran = f"touch {tmp_path}/ran; cat"  # a folder that no container has
    settings = {
        "core.fsmonitor": ran,
        "core.hooksPath": ".hooks",
        "diff.external": ran,
        "diff.x.textconv": ran,
        "diff.x.command": ran,
        "filter.x.clean": ran,
        "filter.x.smudge": ran,
        "filter.x.process": ran,
        "merge.x.driver": ran,
    }
    for name, command in settings.items():
        git(workspace, "config", name, command)
    (workspace / ".gitattributes").write_text("* diff=x filter=x merge=x\n")
    (workspace / ".hooks").mkdir()
    for name in ("post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc"):
        (workspace / ".hooks" / name).write_text(f"#!/bin/sh\n{ran}\n")
        (workspace / ".hooks" / name).chmod(0o755)
    (workspace / ".git" / "info" / "attributes").write_text("* diff=x filter=x\n")
    session = Reviewed(bed, shared_server, workspace)
    see_everything(session)
    assert not (tmp_path / "ran").exists()


def test_submodules_and_nested_repositories_are_told_and_not_entered(bed, shared_server, workspace):
    # The person has this URL in .git/config: a new submodule with any other one freezes the session.
    git(workspace, "config", "submodule.module.url", "/workspace/sub")
    give_to_person(workspace)
    session = Reviewed(bed, shared_server, workspace)
    session.run(
        "git init -q sub; cd sub; echo x >f; git add f; git -c user.name=a -c user.email=a@b commit -qm x; cd ..;"
        "git -c protocol.file.allow=always submodule --quiet add ./sub module; git init -q nested; echo x >nested/f"
    )
    see_everything(session)
    found = session.changes()
    assert {one["path"] for one in found["skipped"] if one["why"] == "repository"} == {"module", "nested", "sub"}
    assert not any(one["path"].startswith(("module/", "nested/", "sub/")) for one in found["files"])


NAMES = ["line\nbreak", "quo\"te'$(touch x)`", "\udcff\udcfe", " ", "-rf", "😀", "a\\b", ":(glob)*"]


def test_files_of_any_name_are_shown_and_brought_back(session):
    for name in NAMES:
        (session.workspace / name).write_text(f"{name!a} one\n")
    give_to_person(session.workspace)
    kept = session.keep()["checkpoint"]
    for name in NAMES:
        (session.workspace / name).write_text("two\n")
    assert session.files(**{"from": kept}) == dict.fromkeys(NAMES, "M")
    for name in NAMES:
        assert session.file(name, **{"from": kept})["old"] == f"{name!a} one\n"
    done = session.restore(kept, *NAMES)
    assert (sorted(done["restored"]), done["failed"]) == (sorted(NAMES), [])
    assert {(session.workspace / name).read_text() for name in NAMES} == {f"{name!a} one\n" for name in NAMES}


def test_a_line_of_many_megabytes_is_not_sent_to_the_page(session):
    session.run("head -c 52428800 /dev/zero | tr '\\0' x >fifty; head -c 15000000 /dev/zero | tr '\\0' x >fifteen")
    found = session.changes()
    assert [(one["path"], one["status"]) for one in found["files"]] == [("fifteen", "A")]
    assert [(one["path"], one["why"]) for one in found["skipped"]] == [("fifty", "large")]
    shown = session.file("fifteen")
    assert (shown["too_large"], shown["new"]) == (True, "")


def test_a_link_is_its_target_and_leads_nowhere(session):
    session.run("mkdir d; echo in >d/file; ln -s /etc/passwd out; ln -s .. up")
    kept = session.keep()["checkpoint"]
    assert (session.file("out")["new"], session.file("out")["modes"][1]) == ("/etc/passwd", "120000")
    session.run("rm -r d; mkdir -p /home/code/elsewhere; ln -s /home/code/elsewhere d; rm out; echo x >out")
    done = session.restore(kept, "d/file", "out")
    assert (done["restored"], done["failed"]) == (["out"], [{"path": "d/file", "why": "link"}])
    assert session.run("ls -A /home/code/elsewhere; readlink out") == "/etc/passwd\n"


def test_a_folder_that_is_swapped_for_a_link_while_an_undo_runs_leads_nowhere(session):
    """The undo writes 300 files into a folder that is a link half of the time."""
    session.run("mkdir -p d /home/code/elsewhere; for n in $(seq 300); do echo one >d/$n; done")
    kept = session.keep()["checkpoint"]
    session.run("for n in $(seq 300); do echo two >d/$n; done; ln -s /home/code/elsewhere link")
    stopped = threading.Event()
    rest = "select undef, undef, undef, 0.02"
    moves = f"rename qw(d e); rename qw(link d); {rest}; rename qw(d link); rename qw(e d); {rest};"

    def swap() -> None:
        while not stopped.is_set():
            session.run(f"perl -e 'for (1 .. 50) {{ {moves} }}'")

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        try:
            body = {"checkpoint": kept, "paths": ["d"]}
            answers = []

            def has_gone_well() -> bool:
                answers.append(session.server.post(f"{session.path}/restore", body))
                return len(answers) > 5 and any(answer.status == 200 for answer in answers)

            wait_until(has_gone_well, lambda: f"an undo that goes well: {[answer.body for answer in answers]}")
        finally:
            stopped.set()
        swapping.result()
    found = {one["why"] for answer in answers if answer.status == 200 for one in answer.json["failed"]}
    assert found <= {"link", "gone", "changed", "occupied"}
    assert session.run("ls -A /home/code/elsewhere") == ""


# unit/test_review_store.py has a folder without a commit.
@pytest.mark.parametrize("state", ["merge in progress", "no repository"])
def test_any_state_of_a_repository_can_be_reviewed(bed, shared_server, make_workspace, tmp_path, state):
    workspace = make_workspace("state")
    if state == "merge in progress":
        for branch, text in (("other", "theirs"), ("main", "ours")):
            git(workspace, "switch", "-qC", branch)
            (workspace / "README.md").write_text(f"{text}\n")
            git(workspace, "commit", "-qam", text)
        git(workspace, "switch", "-qC", "topic", "main~2")
        (workspace / "README.md").write_text("mine\n")
        git(workspace, "commit", "-qam", "mine")
        with pytest.raises(Exception, match="non-zero"):
            git(workspace, "merge", "other")
    else:
        remove_repository(workspace)
        if state == "no commits":
            git(workspace, "init", "-q")
    give_to_person(workspace)
    before = git(workspace, "status", "--porcelain") if (workspace / ".git").exists() else ""
    session = Reviewed(bed, shared_server, workspace)
    session.run("echo one >new; sed -i 1d README.md")
    kept = session.keep()["checkpoint"]
    assert session.files() == {"new": "A", "README.md": "M"}
    session.run("rm new")
    assert session.restore(kept, "new")["restored"] == ["new"]
    branch = session.server.get(f"{session.path}/changes?from=branch").status
    assert branch == (200 if state == "merge in progress" else 409)
    if before:
        session.restore("1", "new", "README.md")
        assert git(workspace, "status", "--porcelain") == before, "the merge goes on as it was"


def remove_repository(workspace: Path) -> None:
    """Make a folder one without a repository."""
    for path in sorted((workspace / ".git").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (workspace / ".git").rmdir()


TREES = "*write-tree*|*'^{tree}'*"


def tree_with(name: str) -> str:
    """A lie in place of a tree: one with a file of a name that no sound tree has."""
    made = "blob=$(echo x | /usr/bin/true-git hash-object -w --stdin)"
    return f"{TREES}) {made}; printf '100644 blob %s\\t{name}\\n' $blob | /usr/bin/true-git mktree"


FAKES = {
    "a tree with a Git folder": tree_with(".git"),
    "a tree with a Git folder for some file systems": tree_with(".GIT"),
    "a tree that leads out": tree_with(".."),
    "endless": "*pack-objects*) exec yes",
    "endless after a sound begin": "*pack-objects*) printf 'PACK\\0\\0\\0\\2\\0\\0\\0\\1'; exec cat /dev/zero",
    "nothing": "*pack-objects*) exit 0",
    "a tree that is not sent": f"{TREES}) echo 0123456789012345678901234567890123456789",
    "an option for a tree": f"{TREES}) echo --upload-pack=/bin/sh",
}


def test_a_container_whose_git_lies_gets_no_checkpoint_and_keeps_nobody_up(bed, session):
    bed.shell(session.id, "mv /usr/bin/git /usr/bin/true-git", user=0)
    for number, name in enumerate(sorted(FAKES)):
        fake = f'#!/bin/sh\ncase $* in {FAKES[name]} ;; *) exec /usr/bin/true-git "$@" ;; esac\n'
        bed.incus.exec(session.id, ["sh", "-c", "cat >/usr/bin/git; chmod 755 /usr/bin/git"], stdin=fake.encode())
        session.run(f"echo new >{number}")
        answer = session.server.post(f"{session.path}/checkpoints", {})
        assert answer.status in (409, 500), (name, answer.body)
    assert session.changes()["stale"], "the last list is shown, and says that it is old"
    bed.shell(session.id, "rm /usr/bin/git", user=0)
    answer = session.server.post(f"{session.path}/checkpoints", {})
    assert (answer.status, "has no git" in answer.json["error"]) == (409, True)
    bed.shell(session.id, "mv /usr/bin/true-git /usr/bin/git", user=0)
    # The program of a lie holds the container's lock of looks until it notices that nobody reads it any more.
    wait_until(lambda: session.changes()["stale"] == "", "a list of now")
    assert session.files() == {f"{number}": "A" for number in range(len(FAKES))}


def test_the_shadow_may_be_a_link_or_damaged(bed, session):
    session.run("echo x >new; cd; mkdir elsewhere; rm -rf .clincus/shadow; ln -s elsewhere .clincus/shadow")
    assert session.files() == {"new": "A"}
    session.run(
        "echo y >new2; cd; find -L .clincus/shadow -name '*.pack' -exec chmod u+w {} + -exec cp /bin/true {} ';'"
    )
    assert session.files() == {"new": "A", "new2": "A"}
    session.run("cd; rm -rf .clincus/shadow; mkfifo .clincus/shadow")
    assert session.files() == {"new": "A", "new2": "A"}


def test_a_pipe_in_a_repository_of_the_agents_is_named_as_what_keeps_git_waiting(session):
    session.run("mkdir -p x/.git/objects x/.git/refs; mkfifo x/.git/HEAD x/.git/config; echo x >new")
    # An answer does not wait until git is ended: a later one says why.
    wait_until(lambda: "named pipe" in session.changes()["stale"], "the reason")
    session.run("rm -r x")
    assert session.files() == {"new": "A"}


def test_a_hundred_thousand_files_are_listed_in_part(session):
    parts = range(10)
    for part in parts:  # each command has a minute
        session.run(f"mkdir -p many/{part}; cd many/{part}; seq 10000 | split -l 1 -a 5 -")
    found = session.changes()
    assert (len(found["files"]), found["truncated"]) == (10_000, True)
    assert session.keep()["files"] == 10_000
    for part in parts:
        session.run(f"rm -r many/{part}")
    assert session.files() == {}
