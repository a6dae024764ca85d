"""What git on the host would write from commits at sealed paths: found by wall/scan.py, and told if it is news."""

import os
import shutil
import subprocess
from unittest import mock

import pytest

import clincus
from clincus_features.protection import appeared, scans
from tests.builders import a_session
from tests.table import table

ROWS = [row for name in ("agents", "editors") for row in clincus.protect.presets()[name]]
SEALED = (".husky", ".githooks", ".vscode")
BEGIN = """
git init -q -b main .; git config user.name a; git config user.email a@b; git config core.autocrlf false
mkdir .husky; printf '#!/bin/sh\\ntrue\\n' >.husky/pre-commit; chmod 755 .husky/pre-commit; echo '{}' >.mcp.json
echo text >file; git add .; git commit -qm one; git branch old; echo more >>file; git commit -qam two
"""
# How the agent commits: without the working tree, which is sealed in the container.
COMMIT = """
commit() {  # of a content, with a mode, at a path, on a commit
    export GIT_INDEX_FILE=.git/mine; git read-tree ${4:-HEAD}
    git update-index --add --cacheinfo "$2,$(printf "$1" | git hash-object -w --stdin),$3"
    git commit-tree -p ${4:-HEAD} -m agent "$(git write-tree)"; unset GIT_INDEX_FILE
}
"""
EVIL = "commit '#!/bin/sh\\ntouch ran\\n' 100755 .husky/pre-commit"


class Workspace:
    def __init__(self, root):
        self.root = root
        root.mkdir()
        (root.parent / "home").mkdir()
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(root.parent / "home"), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(self, *words):
        return subprocess.run(
            ["git", *words], cwd=self.root, env=self.environ, capture_output=True, text=True, check=True
        ).stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The workspace of which each test has a copy."""
    made = Workspace(tmp_path_factory.mktemp("example") / "work")
    run(made, BEGIN)
    return made.root


def copy_of(example, folder):
    made = Workspace(folder / "work")
    shutil.copytree(example, made.root, symlinks=True, dirs_exist_ok=True)
    return made


@pytest.fixture
def work(tmp_path, example):
    return copy_of(example, tmp_path)


def run(work, script):
    subprocess.run(["sh", "-ec", COMMIT + script], cwd=work.root, check=True, capture_output=True)


def found(work, since=0):
    """The paths at which a commit has another content than the folder, with the references to each."""
    look = scans.scan(str(work.root), [row.path for row in ROWS], work.environ, SEALED, since)
    assert look.cut == ""
    return {
        one["path"]: sorted({name.split(" (")[0] for content in one["unlike"] for name in one["contents"][content]})
        for one in look.commits
        if one["unlike"]
    }


# What the agent does, and what is found.
COMMITS = [
    (f"git branch evil $({EVIL})", {".husky/pre-commit": ["refs/heads/evil"]}),
    (f"git update-ref --no-deref HEAD $({EVIL})", {".husky/pre-commit": ["HEAD"]}),
    (f"git tag -a -m x evil $({EVIL})", {".husky/pre-commit": ["refs/tags/evil"]}),
    (
        f"git repack -qad; git branch evil $({EVIL}); git repack -qd; git multi-pack-index write",
        {".husky/pre-commit": ["refs/heads/evil"]},
    ),
    (
        f"""git update-ref --create-reflog refs/stash $({EVIL}); git update-ref refs/stash $(commit x 100644 file)""",
        {".husky/pre-commit": ["stash"]},
    ),
    (
        "git branch evil $(commit x 100755 .githooks/pre-commit)", {".githooks/pre-commit": ["refs/heads/evil"]},
    ),
    ("git branch evil $(commit x 100644 .mcp.json)", {".mcp.json": ["refs/heads/evil"]}),
    (
        "echo x >.husky/a; chmod 644 .husky/a; git branch evil $(commit 'x\\n' 100755 .husky/a)",
        {".husky/a": ["refs/heads/evil"]},
    ),
    (
        f"echo $({EVIL}) >.git/MERGE_AUTOSTASH", {".husky/pre-commit": ["MERGE_AUTOSTASH"]},
    ),
    (
        f"evil=$({EVIL}); git replace HEAD: $evil:", {".husky/pre-commit": ["refs/heads/main"]},
    ),
    ("git branch evil $(commit '#!/bin/sh\\ntrue\\n' 100755 .husky/pre-commit)", {}),  # the same content
]  # fmt: skip


@table(("script", "expected"), COMMITS)
def test_what_git_would_write_from_commits_at_sealed_paths_is_found(tmp_path, example, script, expected):
    work = copy_of(example, tmp_path)
    run(work, script)
    assert found(work) == expected


HIDDEN = f"one=$({EVIL}); git branch evil $(commit '#!/bin/sh\\ntrue\\n' 100755 .husky/pre-commit $one)"


def test_a_new_commit_in_the_middle_of_a_branch_counts_as_a_rebase_goes_through_it(work):
    run(work, HIDDEN)
    assert found(work, since=1) == {".husky/pre-commit": ["refs/heads/evil"]}
    assert found(work) == {}
    assert found(work, since=4_000_000_000) == {}


FORGE = """
name=$(git rev-parse HEAD:.husky/pre-commit); file=.git/objects/$(echo $name | cut -c -2)/$(echo $name | cut -c 3-)
rm -f $file
python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.compress(b"blob 20\\0#!/bin/sh\\ntouch ran\\n"))' >$file
"""


# In an index of packs, the hook has the place of another object. Git believes it more than the index of the pack.
FORGE_LIST = """
evil=$(printf '#!/bin/sh\\ntouch ran\\n' | git hash-object -w --stdin); git update-ref refs/evil $evil
git repack -qad; git multi-pack-index write; git update-ref -d refs/evil
python3 - $(git rev-parse HEAD:.husky/pre-commit) $evil <<'END'
import os, struct, sys
path = ".git/objects/pack/multi-pack-index"
data = bytearray(open(path, "rb").read())
at = dict(struct.unpack_from(">4sQ", data, 12 + 12 * number) for number in range(data[6]))
count, = struct.unpack_from(">I", data, at[b"OIDF"] + 1020)
names = [data[at[b"OIDL"] + 20 * number :][:20].hex() for number in range(count)]
to, source = (at[b"OOFF"] + 8 * names.index(name) for name in sys.argv[1:])
data[to : to + 8] = data[source : source + 8]
os.unlink(path)
open(path, "wb").write(data)
END
"""


@table("forge", [FORGE, FORGE_LIST])
def test_an_object_that_is_not_what_its_name_says_is_found_as_git_writes_it(tmp_path, example, forge):
    work = copy_of(example, tmp_path)
    run(work, forge + "git config core.hooksPath .husky; touch -d 2001-01-01 .husky/pre-commit")
    look = scans.scan(str(work.root), (), work.environ, SEALED)
    name = work.git("rev-parse", "HEAD:.husky/pre-commit").strip()
    [item] = [one for one in look.items if one["kind"] == "broken"]
    assert item["path"] == f".git/objects/{name[:2]}/{name[2:]}"
    assert "git fsck" in appeared.when_it_runs(item, ROWS)
    work.git("reset", "-q", "--hard")
    work.git("commit", "-q", "--allow-empty", "-m", "x")
    assert (work.root / "ran").exists(), "it is an attack"


def unlike(work):
    return scans.look_at_indexes(str(work.root), (), SEALED)["indexes"][".git/index"]["unlike"]


def test_an_index_from_which_git_would_write_another_file_is_told(work):
    assert unlike(work) == []
    run(work, "git update-index --chmod=-x .husky/pre-commit")
    assert unlike(work) == [], "git would only make it less"
    run(work, "git update-index --chmod=+x .husky/pre-commit; chmod 644 .husky/pre-commit")
    assert unlike(work) == [".husky/pre-commit"]
    run(work, "chmod 755 .husky/pre-commit" + FORGE)
    assert unlike(work) == [".husky/pre-commit"]


@table("name", ["packed-refs", "HEAD", "index", "refs/heads/huge"])
def test_a_file_of_a_tebibyte_keeps_nobody_up(tmp_path, example, name):
    """It takes no room: it is one hole."""
    work = copy_of(example, tmp_path)
    path = work.root / ".git" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        file.truncate(1 << 40)
    look = scans.scan(str(work.root), [row.path for row in ROWS], work.environ, SEALED)
    is_read_whole = name in ("packed-refs", "index")  # a part of it says nothing, so that it is not passed over
    told = look.cut or [one for one in look.items if one["kind"] == "broken"]
    assert bool(told) == (is_read_whole or name == "HEAD")


def test_a_pipe_that_git_reads_in_the_working_tree_is_told(work):
    (work.root / "a").mkdir()
    os.mkfifo(work.root / "a/.gitignore")
    look = scans.scan(str(work.root), (), work.environ)
    [item] = [one for one in look.items if one["kind"] == "broken"]
    assert item["path"] == "a/.gitignore"
    assert "waits" in appeared.when_it_runs(item, ROWS)


# -- What is news


@pytest.fixture
def looker(tmp_path):
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    flags = {"security.presets": ["agents", "editors"]}
    return appeared.Looker(lambda: environ, lambda: clincus.with_flags(clincus.make_config(()), flags), mock.Mock())


def session_of(work):
    return a_session(workspace=str(work), session_id="abc", protection="locked")


def told(looker, session):
    return {one["path"]: [each["key"] for each in one["commands"]] for one in looker.look(session)}


def test_a_commit_of_the_session_is_told_and_no_older_one(looker, work):
    run(work, f"git branch older $({EVIL})")
    session = session_of(work.root)
    looker.begin(session, SEALED)
    assert told(looker, session) == {}
    run(work, "git branch evil $(commit evil 100755 .husky/pre-commit)")
    run(work, f"git branch again $({EVIL})")
    assert told(looker, session) == {".husky/pre-commit": ["refs/heads/evil"]}
    [item] = looker.look(session)
    assert item["kind"] == "commit"
    assert "git checkout" in item["when"]
    assert ".husky/pre-commit of refs/heads/evil" in appeared.words_of_commits([item])


def test_a_commit_stays_news_in_the_next_run_until_a_person_takes_it_over(looker, work):
    session = session_of(work.root)
    looker.begin(session, SEALED)
    (work.root / ".husky/pre-commit").write_text("edited")
    assert told(looker, session) == {}, "a person's edit is no news of what is committed"
    work.git("checkout", "-q", ".")
    run(work, f"git branch evil $({EVIL})")
    looker.look(session, is_over=True)
    looker.begin(session, SEALED)
    assert told(looker, session) == {".husky/pre-commit": ["refs/heads/evil"]}
    work.git("merge", "-q", "evil")
    assert told(looker, session) == {}
