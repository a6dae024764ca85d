"""What a delete of a clone would lose: all that agents leave in one, counted, fetched or kept. No Incus."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import clincus
from clincus_features import clone
from tests.table import table
from tests.unit.test_clone import Box, box, example, git, make_box, project

__all__ = ["box", "example", "project"]  # fixtures

APP = r"1 uncommitted file \(app/main.py\) and 1 repository within its clone \(app\)"


def commit(folder: Path, name: str) -> None:
    (folder / name).write_text(f"{name}\n")
    git(folder, "add", name)
    git(folder, "commit", "--quiet", "--message", f"Make {name}")


def detached(folder: Path, name: str, *command: str) -> None:
    """Make a commit that no branch has, and name it with a command."""
    git(folder, "checkout", "--quiet", "--detach")
    commit(folder, name)
    git(folder, *command)
    git(folder, "checkout", "--quiet", "main")


def stash(folder: Path) -> None:
    for name in ("first", "second"):
        (folder / name).write_text("of the agent\n")
        git(folder, "stash", "push", "--include-untracked", "--quiet")


def commits_without_a_branch(folder: Path) -> None:
    detached(folder, "released", "tag", "v1")
    detached(folder, "wip", "update-ref", "refs/wip/one", "HEAD")


def work_trees(folder: Path) -> None:
    for name in ("second", "lost"):
        git(folder, "worktree", "add", "--quiet", "--detach", str(folder.parent / name))
    (folder.parent / "second/half").write_text("done\n")
    commit(folder.parent / "lost", "more")
    shutil.rmtree(folder.parent / "lost")


def nested(folder: Path) -> None:
    (folder / "app").mkdir()
    git(folder / "app", "init", "--quiet", "--initial-branch=main")
    commit(folder / "app", "main.py")


def rich_nested(folder: Path) -> None:
    nested(folder)
    app = folder / "app"
    git(app, "notes", "add", "--message", "a note")
    stash(app)
    git(app, "worktree", "add", "--quiet", "--detach", str(folder.parent / "third"))
    commit(folder.parent / "third", "alone")
    git(app, "checkout", "--quiet", "--detach")
    commit(app, "released")
    git(app, "tag", "v1")
    git(app, "checkout", "--quiet", "--detach", "main")


def changes_behind_flags(folder: Path) -> None:
    for name, flag in (("one", "--assume-unchanged"), ("two", "--skip-worktree")):
        git(folder, "update-index", flag, name)
        (folder / name).write_text("settings of the agent\n")


def rebase_with_a_conflict(folder: Path) -> None:
    """It has not ended, so what `--autostash` put aside is in no stash."""
    (folder / "two").write_text("uncommitted\n")
    for branch in ("other", "main"):
        git(folder, "checkout", "--quiet", *(["-b"] if branch == "other" else []), branch)
        (folder / "one").write_text(f"{branch}\n")
        git(folder, "commit", "--quiet", "--message", f"Change it in {branch}", "one")
    with contextlib.suppress(subprocess.CalledProcessError):
        git(folder, "rebase", "--autostash", "other")


# What agents leave; what is said of it; and, of a forced delete's bundle, names and a file of the commit of each.
LEFT = [
    (stash, r"2 stashes \(WIP on main: \w+ Add two, WIP on main: \w+ Add two\)", {"clincus/stash/2": "one"}),
    (commits_without_a_branch, r"2 commits \(.*\)", {"tags/v1": "released", "wip/one": "wip"}),
    (
        work_trees,
        r"1 commit \(\w+ Make more\) and 1 uncommitted file \(second/half\)",
        {"clincus/worktree/1": "more", "clincus/worktree/2": "half"},
    ),
    (
        rich_nested,
        APP,
        {
            "clincus/tip": "app/main.py",
            "clincus/nested/1/worktree/1": "alone",
            "clincus/nested/1/main": "main.py",
            "clincus/nested/1/HEAD": "main.py",
            "clincus/nested/1/tags/v1": "released",
            "clincus/nested/1/stash/2": "main.py",
        },
    ),
    (
        rebase_with_a_conflict,
        r"2 commits \(.*\), 1 uncommitted file \(one\) and 1 stash \(autostash\)",
        {"clincus/stash/1": "two"},
    ),
    (changes_behind_flags, r"2 uncommitted files \(one, two\)", {"clincus/tip": "one"}),
]


@table("row", LEFT)
def test_work_that_agents_leave_is_refused_to_a_delete_and_kept_by_a_forced_one(tmp_path, example, row):
    leave, words, kept = row
    box = make_box(tmp_path, example).make()
    leave(box.folder)
    with pytest.raises(clincus.UnsavedError, match=f"this host does not have {words}. To go on,"):
        box.keep(box.session)
    refs = kept_refs(box)
    for name, file in kept.items():
        assert file in files_of(box, refs[name])
    command = box.reports[-1].partition("In a repository: ")[2]
    done = subprocess.run(command, shell=True, cwd=box.workspace, check=True, capture_output=True, text=True)
    assert all(name in done.stdout for name in refs), "the command that is named fetches everything"
    assert git(box.workspace, "branch", "--list") == "* main\n"


def test_what_the_project_has_is_no_work_of_the_agent(box, project):
    detached(project, "released", "tag", "v1")
    box.make()
    git(box.folder, "update-index", "--skip-worktree", "one")  # a file outside of a sparse checkout
    (box.folder / "one").unlink()
    box.keep(box.session)


def kept_refs(box: Box) -> dict[str, str]:
    """What a forced delete keeps, by the names in the bundle, as it can be had back."""
    box.keep(box.session, saves=True, insists=True)
    [bundle] = box.saved.glob("*.bundle")
    back = box.saved.parent / "back"
    shutil.copytree(box.workspace, back)
    git(back, "fetch", "--quiet", str(bundle), "refs/*:refs/kept/*")
    lines = git(back, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/kept").splitlines()
    return dict(line.split(" ") for line in lines)


def files_of(box: Box, commit_id: str) -> set[str]:
    return set(git(box.saved.parent / "back", "ls-tree", "-r", "--name-only", commit_id).splitlines())


def test_a_mirror_within_a_clone_is_kept_with_more_references_than_a_command_line_takes(box):
    box.make()
    nested(box.folder)
    head = git(box.folder / "app", "rev-parse", "HEAD").strip()
    names = [f"refs/pull/{number:04}{'x' * 240}" for number in range(1100)]
    (box.folder / "app/.git/packed-refs").write_text("".join(f"{head} {name}\n" for name in names))
    box.front = ["prlimit", f"--stack={1 << 20}"]  # command lines of 256 KiB
    kept = kept_refs(box)
    assert len([name for name in kept if name.startswith("clincus/nested/1/pull/")]) == len(names)


def repositories_in(folder: Path, number: int) -> None:
    """Folders with a `.git` each, which sort before all that is named with a letter."""
    for count in range(number):
        (folder / f"{count}/.git").mkdir(parents=True)


@pytest.fixture
def few(monkeypatch) -> int:
    real = clincus.packaged_text
    assert "most=200 #" in real("guest/clone-snapshot.sh")
    monkeypatch.setattr(clincus, "packaged_text", lambda path: real(path).replace("most=200 #", "most=3 #"))
    return 3


def test_a_clone_with_more_repositories_than_are_looked_into_is_unknown(box, few):
    box.make()
    commit_id = box.commit()
    repositories_in(box.folder / "0cache", few)
    assert clone.KEEPER.look(box, box.session)
    nested(box.folder)
    for work in (lambda: clone.KEEPER.look(box, box.session), box.fetch):
        with pytest.raises(clincus.ClincusError, match="more than 3 repositories are in the clone"):
            work()
    assert kept_refs(box)["heads/main"] == commit_id


def test_ignored_repositories_hide_no_other(box, few):
    box.make()
    (box.folder / ".git/info/exclude").write_text("/0cache/\n")
    repositories_in(box.folder / "0cache", few + 1)
    nested(box.folder)
    with pytest.raises(clincus.UnsavedError, match=APP):
        box.keep(box.session)
    assert "app/main.py" in git(box.workspace, "ls-tree", "-r", "--name-only", box.fetch("before").head)


# -- What only root can read, and what git cannot take


@pytest.fixture
def user_box(box) -> Iterator[Box]:
    """A clone, in which the guest's programs run as a user whom permissions bind, as the code user is.

    All in it belongs to him, but for what is named `data`.
    """
    with tempfile.TemporaryDirectory() as place:  # pytest closes its own folders to other users
        Path(place).chmod(0o755)
        box.folder = Path(place) / "box"
        box.make()
        if os.geteuid() == 0:
            box.before_exec = lambda: give_to_user(box.folder)
            box.front = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
        yield box


def give_to_user(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.name != "data":
            os.chown(path, 1000, 1000, follow_symlinks=False)


def unreadable_file(folder: Path) -> None:
    (folder / "data").write_text("of root\n")
    (folder / "data").chmod(0)


def test_files_that_only_root_can_read_are_kept_beside_the_bundle(user_box):
    box = user_box
    commit_id = box.commit()
    (box.folder / ".git/info/exclude").write_text("da*\n!data\n")
    unreadable_file(box.folder)
    with pytest.raises(clincus.UnsavedError, match=r"1 commit .*1 file that only root can read \(data\)"):
        box.keep(box.session)
    _, files = box.keep(box.session, saves=True)
    with tarfile.open(files) as archive:
        assert archive.extractfile("data").read() == b"of root\n"
    for bundle in box.saved.glob("*.bundle"):
        bundle.unlink()
    assert kept_refs(box)["heads/main"] == commit_id
    assert box.fetch().head == commit_id


def close_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top):
        os.chmod(folder, 0o500)


def test_a_forced_delete_keeps_the_commits_of_a_clone_on_a_disk_that_takes_nothing(user_box):
    box = user_box
    commit_id = box.commit()
    stash(box.folder)
    newest = git(box.folder, "rev-parse", "refs/stash").strip()
    (box.folder / "more").write_text("more\n")
    close_folders(box.folder / ".git")
    refs = kept_refs(box)
    assert (refs["heads/main"], refs["stash"]) == (commit_id, newest)


def nested_without_an_index(box: Box) -> None:
    nested(box.folder)
    (box.folder / "app/.git/index").write_text("no index")


def index_lost(box: Box) -> None:
    (box.folder / ".git/index").write_text("no index")


@table(
    ("spoil", "is_lost"),
    [
        (nested_without_an_index, False),
        (index_lost, True),
    ],
)
def test_work_that_cannot_be_kept_costs_no_commit_of_a_forced_delete(tmp_path, example, spoil, is_lost):
    box = make_box(tmp_path, example).make()
    commit_id = box.commit()
    spoil(box)
    with contextlib.nullcontext() if not is_lost else pytest.raises(clincus.ClincusError, match="not all"):
        box.keep(box.session, saves=True)
    shutil.rmtree(box.saved, ignore_errors=True)
    refs = kept_refs(box)
    assert refs["heads/main"] == commit_id
    assert any("is lost: " in report for report in box.reports) == is_lost
    if spoil is nested_without_an_index:
        assert "app/main.py" in files_of(box, refs["clincus/tip"])
