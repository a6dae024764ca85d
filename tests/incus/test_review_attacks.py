"""What hostile workspaces and containers do to review and undo: nothing runs on the host, nothing leads out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
    session.run("echo more >>README.md")
    kept = session.keep()["checkpoint"]
    session.run("echo most >>README.md; mkdir -p x/.git/objects x/.git/refs; mkfifo x/.git/HEAD x/.git/config")
    # An answer does not wait until git is ended: a later one says why.
    wait_until(lambda: "named pipe" in session.changes()["stale"], "what keeps git waiting to be named")
    session.run("rm -r x")
    session.changes(**{"from": "branch"})
    session.file("README.md")
    assert session.server.get(f"{session.path}/changes/patch").status == 200
    assert session.restore(kept, "README.md")["restored"] == ["README.md"]
    assert not (tmp_path / "ran").exists()


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
