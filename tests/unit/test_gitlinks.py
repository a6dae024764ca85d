"""Repositories that are at a gitlink for a moment: what the kernel tells of, and what of it is an attack."""

import contextlib
import os
import subprocess

import pytest

from clincus_features.protection import gitlinks, index
from clincus_features.protection.moves import Move
from clincus_features.protection.restore import moved_by_us
from clincus_features.protection.watch import Watcher
from tests.programs import git, wait_until
from tests.table import table
from tests.unit import wall_bench

bench = wall_bench.bench
nothing_left = wall_bench.nothing_left

TOP = "/work"
X = f"{TOP}/vendor/x"
ELSEWHERE = "/elsewhere"  # a folder that is not watched: the kernel tells one end only


def known_gitlink():
    made = gitlinks.Gitlinks()
    made.take({X: TOP})
    return made


@pytest.fixture
def known():
    return known_gitlink()


def rename(old, new, cookie=1):
    """A rename as inotify tells it."""
    (from_folder, name), (folder, new_name) = os.path.split(old), os.path.split(new)
    ends = [Move(from_folder, name, cookie, True), Move(folder, new_name, cookie, False)]
    return [move for move in ends if not move.folder.startswith(ELSEWHERE)]


def away(path, cookie=1):
    return rename(path, f"{ELSEWHERE}/x", cookie)


def came(path, cookie=1):
    return rename(f"{ELSEWHERE}/x", path, cookie)


BAD = {
    "a hidden folder": (rename(f"{X}/.gi", f"{X}/.git"), [f"{X}/.git"]),
    "a hidden folder, and back": (
        [*rename(f"{X}/.gi", f"{X}/.git"), *rename(f"{X}/.git", f"{X}/.gi", 2)], [f"{X}/.git"],
    ),
    "a folder from elsewhere": (came(f"{X}/.git"), [f"{X}/.git"]),
    "what holds it, and back": ([*rename(f"{TOP}/y", X), *rename(X, f"{TOP}/y", 2)], [X]),
    "what holds it, from elsewhere and back": ([*came(X), *away(X, 2)], [X]),
    "a folder above": ([*came(f"{TOP}/vendor"), *away(f"{TOP}/vendor", 2)], [f"{TOP}/vendor"]),
    "an exchange": ([*rename(f"{TOP}/y", X), *rename(X, f"{TOP}/y", 1)], [X]),
}  # fmt: skip
USUAL = {
    "a Git folder that git takes in": away(f"{X}/.git"),
    "a folder that is moved away and comes back": [*away(X), *came(X, 2)],
    "a file beside it": rename(f"{X}/a", f"{X}/b"),
    "a `.git` elsewhere": rename(f"{TOP}/vendor/.gi", f"{TOP}/vendor/.git"),
    "an editor's file": rename(f"{TOP}/.file.swp", f"{TOP}/file"),
    "git's own file in a folder of the work tree": rename(f"{TOP}/index.new", f"{TOP}/index"),
    "what Clincus puts back": rename(f"{X}/..git.clincus-fresh-12345678", f"{X}/.git"),
}


@table("how", BAD)
@table("is_one_by_one", [False, True])
def test_a_repository_that_is_moved_to_a_gitlink_is_an_attack(how, is_one_by_one):
    moves, paths = BAD[how]
    known = known_gitlink()
    found = {}
    for part in [[move] for move in moves] if is_one_by_one else [moves]:
        found.update(known.judge(part, 0.0))
    assert [*found] == paths


@table("how", USUAL)
def test_what_git_and_persons_do_is_none(how):
    assert known_gitlink().judge(USUAL[how], 0.0) == {}


def test_a_folder_that_is_moved_away_later_or_by_clincus_is_none(known):
    assert known.judge(came(X), 0.0) == {}
    assert known.judge(away(X), gitlinks.MOMENT) == {}
    assert known.judge(came(X), 10.0) == {}
    moved_by_us.add(X)
    try:
        assert known.judge(away(X), 10.1) == {}
    finally:
        moved_by_us.discard(X)


# -- With a real git and inotify


def with_gitlink(top, name="x"):
    """A repository in a folder, of which the index of the one at the top has a gitlink."""
    git(top, "init", "-q", name)
    git(top / name, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    git(top, "-c", "advice.addEmbeddedRepo=false", "add", name)
    return top / name


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q", "work")
    return tmp_path / "work"


def test_the_gitlinks_of_the_index_are_found_but_for_those_with_a_seal(repository):
    for name in ("x", "y", "z", "a.git"):
        with_gitlink(repository, name)
    sealed = [f"{repository}/{path}" for path in ("y/.git", "z/.git/config", "a.git/.github/hooks")]
    assert index.look(str(repository), None, sealed).gitlinks == (f"{repository}/a.git", f"{repository}/x")


# What an agent and a person do with submodules.
DAY = """
git init -q ../lib; git -C ../lib commit -q --allow-empty -m l; git commit -q --allow-empty -m one; git branch without
git submodule add -q ../lib x; git commit -q -m sub; git submodule update --init; git -C x commit -q --allow-empty -m y
git add x; git commit -q -m moved; git submodule deinit -f x; git submodule update --init; git checkout -q without
rm -rf x; git checkout -q -; git submodule update --init; git mv x z; git mv z x; mv x y; mv y x; rm -rf x
git checkout .; git submodule update; git clean -ffdxq; git stash -q; git rm -q -f x
git init -q n; git -C n commit -q --allow-empty -m n; git add n; git submodule absorbgitdirs; git worktree add -q ../w
"""


def test_nothing_that_git_does_with_submodules_is_an_attack(nothing_left, repository, known):
    watcher = Watcher(lambda touched: None, lambda: -1.0)
    environment = {**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow"}
    environment.update(GIT_CONFIG_VALUE_0="always", GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b")
    environment.update(GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b", GIT_EDITOR="true")
    seen = 0
    known.take({f"{repository}/{name}": str(repository) for name in ("x", "n")})
    for step, line in enumerate(DAY.replace("\n", ";").split(";")):
        watcher.watch_comers("one", gitlinks.MARK, known.places())
        subprocess.run(["sh", "-c", line], cwd=repository, env=environment, capture_output=True, check=False)
        watcher.finish()
        moves = watcher.take_moves("one")
        seen += len(moves)
        assert (line, known.judge(moves, step * gitlinks.MOMENT)) == (line, {})
    watcher.close()
    assert seen > 5


def test_a_repository_at_a_gitlink_for_a_moment_freezes_the_session(bench):
    """It is gone again before anybody looks."""
    git(bench.root, "init", "-q")
    place = with_gitlink(bench.root)
    (place / ".git").rename(place / ".gi")
    bench.start()
    wait_until(lambda: bench.session.id in bench.guard._gitlinks, "the way to the gitlink to be watched")
    bench.settle()
    (place / ".gi").rename(place / ".git")
    with contextlib.suppress(FileNotFoundError):  # somebody has looked, and it is put aside
        (place / ".git").rename(place / ".gi")
    bench.await_broken()
    assert ("x/.git", "replaced") in bench.changes
    assert not (place / ".git").exists()
