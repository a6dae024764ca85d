"""What a delete of a clone would lose: all that agents leave in one, counted, fetched or kept. No Incus."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_features import clone
from tests.table import table
from tests.unit.test_clone import Box, box, example, git, project

__all__ = ["box", "example", "project"]  # fixtures


def commit(folder: Path, name: str, *words: str) -> None:
    (folder / name).write_text(f"{name}\n")
    git(folder, "add", name)
    git(folder, "commit", "--quiet", "--message", f"Make {name}", *words)


def stash(folder: Path) -> None:
    for name in ("first", "second"):
        (folder / name).write_text("of the agent\n")
        git(folder, "stash", "push", "--include-untracked", "--quiet")


def commit_that_only_a_tag_has(folder: Path) -> None:
    git(folder, "checkout", "--quiet", "--detach")
    commit(folder, "released")
    git(folder, "tag", "v1")
    git(folder, "checkout", "--quiet", "main")


def work_tree(folder: Path) -> None:
    git(folder, "worktree", "add", "--quiet", "--detach", str(folder.parent / "second"))
    (folder.parent / "second/half").write_text("done\n")


def nested(folder: Path) -> None:
    (folder / "app").mkdir()
    git(folder / "app", "init", "--quiet", "--initial-branch=main")
    commit(folder / "app", "main.py")


LEFT: dict[str, tuple[Callable[[Path], None], str]] = {
    "stashes": (stash, r"2 stashes \(WIP on main: \w+ Add two, WIP on main: \w+ Add two\)"),
    "a tag": (commit_that_only_a_tag_has, r"1 commit \(\w+ Make released\)"),
    "a work tree": (work_tree, r"1 uncommitted file \(second/half\)"),
    "a repository in it": (nested, r"1 uncommitted file \(app/main.py\) and 1 repository within its clone \(app\)"),
}


@pytest.mark.parametrize(("leave", "words"), LEFT.values(), ids=list(LEFT))
def test_a_delete_is_refused_for_all_that_agents_leave(box, leave, words):
    box.make()
    box.keep(box.session)  # nothing is there yet
    leave(box.folder)
    with pytest.raises(clincus.UnsavedError, match=f"is kept: this host does not have {words}. To go on,"):
        box.keep(box.session)


def commit_with_a_name_of_its_own(folder: Path) -> None:
    git(folder, "checkout", "--quiet", "--detach")
    commit(folder, "wip")
    git(folder, "update-ref", "refs/wip/one", "HEAD")
    git(folder, "checkout", "--quiet", "main")


def work_tree_without_its_folder(folder: Path) -> None:
    """As after a restart, if it was in /tmp."""
    git(folder, "worktree", "add", "--quiet", "--detach", str(folder.parent / "second"))
    commit(folder.parent / "second", "more")
    shutil.rmtree(folder.parent / "second")


def work_tree_of_a_repository_within(folder: Path) -> None:
    nested(folder)
    git(folder / "app", "worktree", "add", "--quiet", "--detach", str(folder.parent / "third"))
    commit(folder.parent / "third", "alone")


def change_behind(flag: str) -> Callable[[Path], None]:
    def leave(folder: Path) -> None:
        git(folder, "update-index", flag, "one")
        (folder / "one").write_text("settings of the agent\n")

    return leave


def rebase_with_a_conflict(folder: Path) -> None:
    """It has not ended, so what `--autostash` put aside is in no stash."""
    (folder / "two").write_text("uncommitted\n")
    for branch in ("other", "main"):
        git(folder, "checkout", "--quiet", *(["-b"] if branch == "other" else []), branch)
        (folder / "one").write_text(f"{branch}\n")
        git(folder, "commit", "--quiet", "--message", f"Change it in {branch}", "one")
    with contextlib.suppress(subprocess.CalledProcessError):
        git(folder, "rebase", "--autostash", "other")


HIDDEN: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "a name of its own": (commit_with_a_name_of_its_own, r"1 commit \(\w+ Make wip\)", "wip/one", "wip"),
    "a lost folder": (work_tree_without_its_folder, r"1 commit \(\w+ Make more\)", "clincus/worktree/1", "more"),
    "a work tree of one within": (
        work_tree_of_a_repository_within,
        r"1 uncommitted file \(app/main.py\) and 1 repository within its clone \(app\)",
        "clincus/nested/1/worktree/1",
        "alone",
    ),
    "an unfinished rebase": (
        rebase_with_a_conflict,
        r"2 commits \(.*\), 1 uncommitted file \(one\) and 1 stash \(autostash\)",
        "clincus/stash/1",
        "two",
    ),
    "unchanged": (change_behind("--assume-unchanged"), r"1 uncommitted file \(one\)", "clincus/tip", "one"),
    "skipped": (change_behind("--skip-worktree"), r"1 uncommitted file \(one\)", "clincus/tip", "one"),
}


@pytest.mark.parametrize("way", list(HIDDEN))
def test_work_that_git_status_does_not_show_is_refused_and_kept(box, tmp_path, way):
    leave, words, name, file = HIDDEN[way]
    box.make()
    leave(box.folder)
    with pytest.raises(clincus.UnsavedError, match=f"is kept: this host does not have {words}. To go on,"):
        box.keep(box.session)
    assert file in files_of(tmp_path, kept_refs(box, tmp_path)[name])


def test_a_file_outside_of_a_sparse_checkout_is_no_work_of_the_agent(box):
    box.make()
    git(box.folder, "update-index", "--skip-worktree", "one")
    (box.folder / "one").unlink()
    box.keep(box.session)


def test_tags_of_the_project_itself_are_no_work_of_the_agent(box, project):
    commit_that_only_a_tag_has(project)
    box.make()
    box.keep(box.session)


def kept_refs(box: Box, tmp_path: Path) -> dict[str, str]:
    """What a forced delete keeps, by the names in the bundle, as it can be had back."""
    box.saved_directory = lambda session: str(tmp_path / "sessions-claude" / "id")
    box.keep(box.session, saves=True, insists=True)
    [bundle] = Path(box.saved_directory(box.session)).parent.glob("*.bundle")
    back = tmp_path / "back"
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(box.workspace), str(back)], check=True)
    git(back, "fetch", "--quiet", str(bundle), "refs/*:refs/kept/*")
    lines = git(back, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/kept").splitlines()
    return dict(line.split(" ") for line in lines)


def files_of(tmp_path: Path, commit_id: str) -> set[str]:
    return set(git(tmp_path / "back", "ls-tree", "-r", "--name-only", commit_id).splitlines())


def test_a_forced_delete_keeps_stashes_tags_work_trees_and_repositories_within(box, tmp_path):
    box.make()
    for leave, _ in LEFT.values():
        leave(box.folder)
    refs = kept_refs(box, tmp_path)
    assert {"clincus/tip", "clincus/stash/1", "clincus/stash/2", "tags/v1", "clincus/worktree/1"} <= refs.keys()
    assert "app/main.py" in files_of(tmp_path, refs["clincus/tip"])
    assert "half" in files_of(tmp_path, refs["clincus/worktree/1"])
    inner = {name.rpartition("clincus/nested/1/")[2]: id for name, id in refs.items() if "/nested/" in name}
    assert files_of(tmp_path, inner["main"]) == {"main.py"}


def test_a_forced_delete_keeps_stashes_tags_notes_and_a_detached_head_of_a_repository_within(box, tmp_path):
    box.make()
    nested(box.folder)
    git(box.folder / "app", "notes", "add", "--message", "a note")
    stash(box.folder / "app")
    git(box.folder / "app", "checkout", "--quiet", "--detach")
    commit(box.folder / "app", "released")
    git(box.folder / "app", "tag", "v1")
    commit(box.folder / "app", "alone")
    inner = {name for name in kept_refs(box, tmp_path) if "/nested/" in name}
    place = "clincus/nested/1/"
    assert {f"{place}{name}" for name in ("main", "HEAD", "tags/v1", "notes/commits", "stash/1", "stash/2")} <= inner


def test_a_mirror_within_a_clone_is_kept_with_more_references_than_a_command_line_takes(box, tmp_path):
    box.make()
    nested(box.folder)
    head = git(box.folder / "app", "rev-parse", "HEAD").strip()
    names = [f"refs/pull/{number:04}{'x' * 240}" for number in range(9000)]
    (box.folder / "app/.git/packed-refs").write_text("".join(f"{head} {name}\n" for name in names))
    box.settings["clone.size_limit"] = "64MiB"
    kept = kept_refs(box, tmp_path)
    assert len([name for name in kept if name.startswith("clincus/nested/1/pull/")]) == len(names)


def test_a_repository_that_the_agent_commits_as_a_gitlink_is_no_less_than_another(box, tmp_path):
    """`git add --all` of a folder with a repository in it makes one, and a fetch brings nothing of its files."""
    box.make()
    nested(box.folder)
    git(box.folder, "add", "--all")
    git(box.folder, "commit", "--quiet", "--message", "Add the app")
    (box.folder / "app/half").write_text("done\n")
    assert box.fetch().gitlinks == ("app",)
    words = r"1 uncommitted file \(app/half\) and 1 repository within its clone \(app\)"
    with pytest.raises(clincus.UnsavedError, match=words):
        box.keep(box.session)
    refs = kept_refs(box, tmp_path)
    assert files_of(tmp_path, refs["clincus/nested/1/main"]) == {"main.py"}
    assert files_of(tmp_path, refs["clincus/nested/1/uncommitted"]) == {"main.py", "half"}


def repositories_in(folder: Path, number: int) -> None:
    """Folders with a `.git` each, which sort before all that is named with a letter."""
    for count in range(number):
        (folder / f"{count}/.git").mkdir(parents=True)


def test_ignored_repositories_hide_no_other(box, tmp_path):
    box.make()
    (box.folder / ".git/info/exclude").write_text("/0cache/\n")
    repositories_in(box.folder / "0cache", 201)
    nested(box.folder)
    words = r"1 uncommitted file \(app/main.py\) and 1 repository within its clone \(app\)"
    with pytest.raises(clincus.UnsavedError, match=words):
        box.keep(box.session)
    refs = kept_refs(box, tmp_path)
    assert files_of(tmp_path, refs["clincus/nested/1/main"]) == {"main.py"}


def test_a_clone_with_more_repositories_than_are_looked_into_is_unknown(box, tmp_path):
    box.make()
    commit_id = box.commit()
    repositories_in(box.folder / "0cache", 200)
    assert clone.KEEPER.look(box, box.session)
    nested(box.folder)
    with pytest.raises(clincus.ClincusError, match="more than 200 repositories are in the clone"):
        clone.KEEPER.look(box, box.session)
    with pytest.raises(clincus.ClincusError, match="more than 200 repositories are in the clone"):
        box.fetch()
    assert kept_refs(box, tmp_path)["heads/main"] == commit_id


def test_a_repository_in_a_submodule_is_seen_beside_ignored_ones(box):
    """Git then refuses to tell of many paths at once which it ignores."""
    box.make()
    nested(box.folder)
    git(box.folder, "add", "--all")
    git(box.folder, "commit", "--quiet", "--message", "Add the app")
    nested(box.folder / "app")
    (box.folder / ".git/info/exclude").write_text("/0cache/\n")
    repositories_in(box.folder / "0cache", 3)
    with pytest.raises(clincus.UnsavedError, match=r"repositories within its clone \(app, app/app\)"):
        box.keep(box.session)


def test_a_submodule_that_has_only_what_its_remote_has_is_no_work(box, tmp_path):
    box.make()
    nested(tmp_path)
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "app"), "app")
    git(box.folder, *add)
    git(box.folder, "commit", "--quiet", "--message", "Add the app")
    box.fetch()
    box.keep(box.session)
    commit(box.folder / "app", "more")
    with pytest.raises(clincus.UnsavedError, match=r"1 repository within its clone \(app\)"):
        box.keep(box.session)


def test_a_work_tree_whose_state_cannot_be_taken_is_unknown(box):
    box.make()
    work_tree(box.folder)
    (box.folder / ".git/worktrees/second/index").write_text("no index")
    with pytest.raises(clincus.ClincusError):
        clone.KEEPER.look(box, box.session)
    commit_id = box.commit()
    assert box.fetch().head == commit_id, "which needs no other work tree"


def test_the_command_that_is_named_for_a_bundle_fetches_everything_in_it(box, tmp_path):
    box.make()
    for leave, _ in LEFT.values():
        leave(box.folder)
    names = kept_refs(box, tmp_path)
    command = box.reports[-1].partition("In a repository: ")[2]
    done = subprocess.run(command, shell=True, cwd=box.workspace, check=True, capture_output=True, text=True)
    for name in names:
        assert name in done.stdout
    assert git(box.workspace, "branch", "--list") == "* main\n"


def test_names_of_an_agent_are_printable_few_and_short(box):
    box.make()
    for number in range(25):
        (box.folder / f"\x1b]0;{'x' * 150}{number}").touch()
    found = clone.KEEPER.look(box, box.session)["uncommitted"]
    assert (found.number, len(found.names)) == (25, clincus.LOSS_NAMES)
    assert all(name.isprintable() and len(name) <= clincus.LOSS_NAME for name in found.names)


def test_a_fetch_brings_the_files_of_a_repository_within(box):
    box.make()
    nested(box.folder)
    moved = box.fetch()
    names = git(box.workspace, "ls-tree", "-r", "--name-only", moved.head).splitlines()
    assert "app/main.py" in names
    assert moved.gitlinks == ()


def empty_repository(folder: Path) -> None:
    (folder / "sub").mkdir()
    git(folder / "sub", "init", "--quiet")


def unreadable_file(folder: Path) -> None:
    """A database that the agent's `sudo` has made."""
    (folder / "data").write_text("of root\n")
    (folder / "data").chmod(0)


@pytest.fixture
def user_box(box, monkeypatch) -> Iterator[Box]:
    """A clone, in which the guest's programs run as a user whom permissions bind, as the code user is."""
    with tempfile.TemporaryDirectory() as place:  # pytest closes its own folders to other users
        Path(place).chmod(0o755)
        box.folder = Path(place) / "box"
        box.make()
        if os.geteuid() == 0:
            run_as_user(monkeypatch)
        yield box


def run_as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Box.exec

    def exec_as_user(self: Box, id: str, command: list[str], stdin: Any = b"") -> clincus.Completed:
        for path in [self.folder, *self.folder.rglob("*")]:
            if path.name != "data":
                os.chown(path, 1000, 1000, follow_symlinks=False)
        return real(self, id, ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *command], stdin)

    monkeypatch.setattr(Box, "exec", exec_as_user)


def test_files_that_only_root_can_read_are_kept_beside_the_bundle(user_box, tmp_path):
    box = user_box
    box.commit()
    unreadable_file(box.folder)
    with pytest.raises(clincus.UnsavedError, match=r"1 file that only root can read \(data\)"):
        box.keep(box.session)
    box.saved_directory = lambda session: str(tmp_path / "sessions-claude" / "id")
    bundle, files = box.keep(box.session, saves=True)
    assert bundle.endswith(".bundle")
    with tarfile.open(files) as archive:
        assert archive.extractfile("data").read() == b"of root\n"


def test_a_file_of_root_that_is_taken_in_again_after_a_pattern_is_kept(user_box):
    (user_box.folder / ".git/info/exclude").write_text("da*\n!data\n")
    unreadable_file(user_box.folder)
    with pytest.raises(clincus.UnsavedError, match=r"1 file that only root can read \(data\)"):
        user_box.keep(user_box.session)


@pytest.mark.parametrize("leave", [empty_repository, unreadable_file])
def test_one_odd_file_costs_no_commit(user_box, tmp_path, leave):
    box = user_box
    commit_id = box.commit()
    leave(box.folder)
    with pytest.raises(clincus.ClincusError, match="1 commit"):
        box.keep(box.session)
    assert kept_refs(box, tmp_path)["heads/main"] == commit_id
    assert box.fetch().head == commit_id


def test_a_repository_of_root_within_a_clone_is_kept_as_any_other(user_box, tmp_path):
    """As `sudo git clone` makes it. Git reads none of another user's, unless it is told to."""
    box = user_box
    nested(box.folder)
    (box.folder / "app").rename(box.folder / "data")  # run_as_user leaves it to root
    (box.folder / "data/half").write_text("done\n")
    found = clone.KEEPER.look(box, box.session)
    assert (found["nested"].names, found["uncommitted"].names) == (("data",), ("data/half", "data/main.py"))
    refs = kept_refs(box, tmp_path)
    assert files_of(tmp_path, refs["clincus/nested/1/main"]) == {"main.py"}
    assert {"data/half", "data/main.py"} <= files_of(tmp_path, refs["clincus/tip"])


def test_the_files_of_a_repository_that_git_cannot_read_are_kept(box, tmp_path):
    box.make()
    nested(box.folder)
    (box.folder / "app/.git/index").write_text("no index")
    refs = kept_refs(box, tmp_path)
    assert "app/main.py" in files_of(tmp_path, refs["clincus/tip"])


def test_a_clone_whose_state_cannot_be_taken_keeps_its_commits(box, tmp_path, monkeypatch):
    """As on a full disk, where git cannot write a tree."""
    box.make()
    commit_id = box.commit()
    (box.folder / ".git/index").write_text("no index")
    assert kept_refs(box, tmp_path)["heads/main"] == commit_id
    assert any("what was uncommitted in its clone is lost" in report for report in box.reports)


def huge_file(folder: Path) -> None:
    (folder / "large").write_bytes(os.urandom(1 << 20))


def broken_repository(folder: Path) -> None:
    """A repository within the clone that lacks an object."""
    nested(folder)
    [blob] = git(folder / "app", "rev-parse", "HEAD:main.py").split()
    (folder / "app/.git/objects" / blob[:2] / blob[2:]).unlink()


@pytest.mark.parametrize("leave", [huge_file, broken_repository])
def test_work_that_cannot_be_kept_is_refused_and_costs_no_commit_of_a_forced_delete(box, tmp_path, leave):
    box.make()
    commit_id = box.commit()
    leave(box.folder)
    if leave is huge_file:
        box.settings["clone.size_limit"] = "64KiB"
    box.saved_directory = lambda session: str(tmp_path / "sessions-claude" / "id")
    with pytest.raises(clincus.UnsavedError, match="not all of it can be copied"):
        box.keep(box.session, saves=True)
    assert kept_refs(box, tmp_path)["heads/main"] == commit_id
    assert any("is lost: " in report for report in box.reports)


def test_a_forced_delete_keeps_the_commits_of_a_clone_on_a_disk_that_takes_nothing(user_box, tmp_path):
    box = user_box
    commit_id = box.commit()
    stash(box.folder)
    newest = git(box.folder, "rev-parse", "refs/stash").strip()
    (box.folder / "more").write_text("more\n")
    for folder, _, _ in os.walk(box.folder / ".git"):
        os.chmod(folder, 0o500)
    refs = kept_refs(box, tmp_path)
    assert refs["heads/main"] == commit_id
    assert refs["stash"] == newest


def test_an_unreadable_file_hides_no_other_that_git_cannot_take(user_box):
    """Git says only that it could not take all of them."""
    box = user_box
    unreadable_file(box.folder)
    (box.folder / "one").write_text("changed\n")
    (box.folder / ".git/objects").chmod(0o500)
    for folder in (box.folder / ".git/objects").iterdir():
        folder.chmod(0o500)
    with pytest.raises(clincus.ClincusError):
        clone.KEEPER.look(box, box.session)


@table(("name", "text"), [("head", "exec head -c 3"), ("xargs", "kill -9 $$"), ("xargs", "head -c 4; exit 1")])
def test_half_of_the_list_of_the_files_to_keep_is_a_failure(tmp_path, monkeypatch, name, text):
    for one in ("one", "two"):
        (tmp_path / one).write_text(f"{one}\n")
    place = tmp_path / "bin" / name
    place.parent.mkdir()
    place.write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{text}\n")
    place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place.parent}:{os.environ['PATH']}")
    listed = b"one\0two\0"
    command = clincus.guest_command("keep-files", str(tmp_path), str(len(listed)))
    done = subprocess.run(command, check=False, input=listed, capture_output=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr
