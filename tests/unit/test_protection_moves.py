"""Renames that exchange what git reads for a moment, told from those that git and editors make; with a real inotify."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clincus_features.protection import links, restore
from clincus_features.protection.links import find
from clincus_features.protection.moves import EDITED, GITS_OWN, Moves
from clincus_features.protection.watch import LOST, Watcher
from tests.programs import git
from tests.unit import wall_bench
from tests.unit.wall_bench import flood

bench = wall_bench.bench
nothing_left = wall_bench.nothing_left

EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step."""
    names = [os.fsencode(path) for path in (one, other)]
    assert ctypes.CDLL(None).renameat2(-100, names[0], -100, names[1], EXCHANGE) == 0


class Watching:
    """A Git folder that is watched as that of a session."""

    def __init__(self, folder: Path) -> None:
        self.git = folder
        self.lost: list[bool] = []
        self.watcher = Watcher(lambda touched: self.lost.append(LOST in touched.values()), lambda: -1.0)
        self.moves = Moves()

    def watch(self) -> None:
        """Watch all folders that are there by now."""
        self.watcher.watch_comers("one", "", find([str(self.git)]).folders)

    def bad(self, *, one_by_one: bool = False) -> set[str]:
        """What was exchanged, by the path in the Git folder; the events may come each by itself."""
        self.watcher.finish()
        moves = self.watcher.take_moves("one")
        found = [
            path for part in ([[one] for one in moves] if one_by_one else [moves]) for path in self.moves.judge(part)
        ]
        return {os.path.relpath(path, self.git) for path in found}


@pytest.fixture
def watching(nothing_left, workspace):
    """A repository in which a rebase has stopped, with another file beside each that git reads."""
    for name in ("one", "two"):
        (workspace / "file").write_text(name)
        git(workspace, "add", ".")
        git(workspace, "commit", "-q", "-m", name)
    folder = workspace / ".git"
    (folder / "rebase-merge").mkdir()
    for path in ("rebase-merge/git-rebase-todo", "rebase-merge/msgnum", "COMMIT_EDITMSG", "logs/HEAD", "index"):
        (folder / path).touch()
        (folder / path).with_name("zz").write_text("evil")
    (folder / "objects/00").mkdir(exist_ok=True)
    (folder / "objects/00/zz").symlink_to("/home/person/precious")
    shutil.copytree(folder / "rebase-merge", folder / "rebase-zz")
    made = Watching(folder)
    made.watch()
    yield made
    made.watcher.close()


def there_and_back(git, one, other):
    """By two renames each way."""
    (git / one).rename(git / "x")
    (git / other).rename(git / one)
    (git / one).rename(git / other)
    (git / "x").rename(git / one)


def twice(git, one, other):
    exchange(git / one, git / other)
    exchange(git / one, git / other)


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one by one"])
@pytest.mark.parametrize("how", [twice, there_and_back])
def test_what_is_exchanged_and_back_is_seen(watching, how, one_by_one):
    pairs = {
        "rebase-merge/git-rebase-todo": "rebase-merge/zz",
        "rebase-merge": "rebase-zz",
        "index": "objects/00/zz",
        "COMMIT_EDITMSG": "objects/00/zz",
    }
    for one, other in pairs.items():
        how(watching.git, one, other)
        assert one in watching.bad(one_by_one=one_by_one)


def test_what_comes_from_elsewhere_is_seen_before_it_goes_back(watching):
    exchange(watching.git / "index", watching.git / "objects/00/zz")
    assert watching.bad() == {"index"}


def test_one_rename_is_enough(watching):
    for source, to, seen in (
        ("index", "index.old", "index"),  # git moves none of its files away
        ("zz", "index", "index"),  # but for NAME.lock, nothing takes their names
        ("objects/00/zz", "COMMIT_EDITMSG", "COMMIT_EDITMSG"),  # no editor has its new file in another folder
    ):
        (watching.git / source).rename(watching.git / to)
        assert watching.bad() == {seen}


# What a person and an agent do with git.
DAY = """
    git checkout -q -b side HEAD~1; echo three >other; git add other; git commit -q -m three -- other
    git branch -m side index; git branch -m index side; git reflog expire --all --expire=now; git pack-refs --all
    git merge -q --no-ff -m m main; git reset -q --hard HEAD~1; echo x >file; git stash -q; git stash pop -q
    git add -A; git commit -q -m x; git checkout -q main; git cherry-pick -n side; git reset -q --hard
    git -c sequence.editor='sed -i s/^pick/edit/' rebase -q -i --autostash HEAD~1; git rebase --continue
    git rebase -q --apply side; git rebase --abort; git format-patch -1 --stdout side >p; git am -q p; git am --abort
    git revert --no-edit HEAD; git notes add -m n; git gc -q; git fetch -q . side:new; git bisect start HEAD HEAD~2
    git bisect reset; git worktree add -q ../tree; git worktree move ../tree ../wood; git worktree remove ../wood
    git update-index --split-index; git commit -q --allow-empty -m s; git config user.name b; git rerere
    git clone -q . ../sub; git -c protocol.file.allow=always submodule add -q ../sub sub; git commit -q -m sub
    git mv sub bus; git submodule absorbgitdirs; git submodule deinit -f bus; git clean -fdxq
"""


def test_no_command_of_git_exchanges_anything(watching):
    shutil.rmtree(watching.git / "rebase-merge")
    environment = {**os.environ, "GIT_EDITOR": "true", "HOME": str(watching.git.parent.parent)}
    environment.update(GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")
    for line in DAY.replace("\n", ";").split(";"):
        if line.strip():
            subprocess.run(
                ["sh", "-c", line], cwd=watching.git.parent, env=environment, capture_output=True, check=False
            )
            assert (line, watching.bad(one_by_one=True)) == (line, set())
            watching.watch()


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "one by one"])
def test_no_editor_exchanges_anything(watching, one_by_one):
    """By turns in place, with a backup beside it, and with a new file that takes its name."""
    for name in sorted(EDITED):
        file = watching.git / name
        for text in ("one", "two"):
            file.write_text(text)
            file.rename(file.with_name(f"{name}~"))
            file.write_text(text)
            file.with_name(f".{name}.new").write_text(text)
            file.with_name(f".{name}.new").rename(file)
        assert watching.bad(one_by_one=one_by_one) == set()


def test_what_git_renames_into_place_is_no_exchange(watching):
    for name in sorted(GITS_OWN):
        for _ in range(2):
            (watching.git / f"{name}.lock").write_text("new")
            (watching.git / f"{name}.lock").rename(watching.git / name)
    assert watching.bad() == set()


def test_what_is_put_aside_is_no_exchange(watching):
    restore.set_aside(str(watching.git / "index"))
    links.move(str(watching.git), "rebase-merge/msgnum", "clincus-replaced-0123abcd/0-msgnum", only_links=False)
    assert watching.bad() == set()


def test_a_flood_leaves_no_half_of_a_rename_behind(watching):
    flood(watching.git)
    (watching.git / "index.lock").write_text("new")
    (watching.git / "index.lock").rename(watching.git / "index")
    watching.watcher.finish()
    assert watching.lost == [True]


def test_an_exchange_freezes_the_session_and_says_what_may_have_happened(bench):
    for name in ("index", "zz"):
        (bench.root / ".git" / name).write_text(name)
    bench.start()
    bench.comes_to_rest()  # the first look ends with the watch for moves
    twice(bench.root / ".git", "index", "zz")
    bench.await_broken()
    assert (".git/index", "replaced") in bench.changes
    assert any("at that moment" in change.words for change in bench.record.changes)
