"""A commit of a workspace's files: what git in the container is asked, run by this machine's own git. No Incus."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import clincus
from clincus_features import commit
from tests.programs import git
from tests.table import table

ANN = ("Ann", "ann@example.com")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with two committed files and an index that agrees with them."""
    folder = tmp_path / "my project"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "kept").write_text("kept\n")
    (folder / "gone").write_text("gone\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "First")
    return folder


def run(project: Path, name: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(project.parent), "LC_ALL": "C.UTF-8"}
    argv = ["sh", "-c", clincus.guest_program(name), "clincus", str(project), *words]
    return subprocess.run(argv, input=stdin, env=environ, capture_output=True, timeout=60, check=False)


def look(project: Path) -> commit.Draft:
    done = run(project, "commit-look")
    assert done.returncode == 0, done.stderr
    return commit.parse_draft(done.stdout)


def make(project: Path, *paths: str, message: str = "Work", hooks: str = "hooks") -> subprocess.CompletedProcess[bytes]:
    text = message.encode()
    names = b"".join(os.fsencode(path) + b"\0" for path in paths)
    return run(project, "commit-make", hooks, *ANN, str(len(text)), stdin=text + names)


def hook(project: Path, name: str, script: str) -> None:
    path = project / ".git/hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_draft_names_branch_changed_files_hooks_author_and_a_merge_in_progress(project):
    (project / "kept").write_text("changed\n")
    (project / "gone").unlink()
    (project / "new folder").mkdir()
    (project / "new folder/ä\nb").write_text("new\n")
    git(project, "init", "--quiet", "a repository of its own")
    (project / "staged").write_text("new\n")
    git(project, "add", "staged")
    (project / "staged").unlink()
    (project / ".git/MERGE_HEAD").write_text(git(project, "rev-parse", "HEAD"))
    hook(project, "pre-commit", "exit 0")
    git(project, "config", "user.name", "Ann at work")
    draft = look(project)
    assert (draft.branch, draft.head) == ("main", git(project, "rev-parse", "HEAD").strip())
    assert {one.path: one.status for one in draft.files} == {"gone": "D", "kept": "M", "new folder/ä\nb": "A"}
    assert draft.operation == "merge"
    assert (draft.hooks, draft.name, draft.email) == (("pre-commit",), "Ann at work", "")


def test_a_repository_without_a_commit_has_a_draft_and_gets_its_first_one(tmp_path):
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "first").write_text("first\n")
    draft = look(tmp_path)
    assert (draft.branch, draft.head, len(draft.files)) == ("main", "", 1)
    assert make(tmp_path, "first").returncode == 0
    assert git(tmp_path, "show", "--format=%an %s", "--name-only").split() == ["Ann", "Work", "first"]


def test_only_the_chosen_files_are_committed_and_what_else_is_staged_stays_so(project):
    (project / "kept").write_text("changed\n")
    (project / "gone").unlink()
    (project / "new").write_text("new\n")
    (project / "staged").write_text("staged\n")
    git(project, "add", "staged")
    done = make(project, "kept", "gone", "new", message="Two lines\n\nof words")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == git(project, "rev-parse", "HEAD")
    assert git(project, "log", "-1", "--format=%ae%n%B").strip() == "ann@example.com\nTwo lines\n\nof words"
    assert git(project, "show", "--format=", "--name-status").splitlines() == ["D\tgone", "M\tkept", "A\tnew"]
    assert git(project, "status", "--porcelain") == "A  staged\n"


def test_a_path_is_a_name_and_no_pattern(project):
    (project / "kept").write_text("changed\n")
    for name in (":(top)kept", "*", "-a", " lead"):
        (project / name).write_text("odd\n")
        done = make(project, name)
        assert done.returncode == 0, done.stderr
        assert git(project, "show", "--format=", "--name-only", "-z").rstrip("\0") == name


def test_a_hook_that_refuses_says_why_and_leaves_the_index_as_it_was(project):
    hook(project, "pre-commit", "echo no semicolons >&2; exit 1")
    (project / "new").write_text("new\n")
    before = (project / ".git/index").read_bytes()
    done = make(project, "new")
    assert (done.returncode, done.stderr) == (1, b"no semicolons\n")
    assert (project / ".git/index").read_bytes() == before
    assert sorted(path.name for path in (project / ".git").glob("clincus-*")) == []


def test_without_hooks_none_runs(project):
    hook(project, "pre-commit", "exit 1")
    (project / "new").write_text("new\n")
    assert make(project, "new", hooks="no-hooks").returncode == 0


HEAD = b"main\0" + b"a" * 40 + b"\0\0a\0b\0\0"


@table(
    "data",
    [b"", b"main\0no commit\0\0a\0b\0\0", HEAD + b"?? /etc/passwd\0", HEAD + b"?? a/../b\0"],
)
def test_an_answer_that_is_not_gits_is_refused(data):
    with pytest.raises(clincus.ClincusError, match="does not answer"):
        commit.parse_draft(data)


def test_control_characters_in_what_a_container_tells_are_not_shown():
    draft = commit.parse_draft(b"a\x1b[2J\0" + b"a" * 40 + b"\0\0A\x07\0b\0evil hook pre-commit\0")
    assert (draft.branch, draft.name, draft.hooks) == ("a\\x1b[2J", "A\\x07", ("pre-commit",))


def test_the_persons_own_name_comes_from_the_global_configuration(tmp_path):
    (tmp_path / ".gitconfig").write_text("[include]\npath = more\n[user]\nname = Ann\n")
    (tmp_path / "more").write_text("[user]\nemail = ann@example.com\n")
    assert commit.persons_identity("/nonexistent", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}) == ANN


@table(
    ("message", "author", "words"),
    [
        (" \n", ANN, "message"),
        ("Work", ("", "a@b"), "name"),
        ("Work", ("Ann", "a>b"), "e-mail"),
    ],
)
def test_a_request_that_git_could_not_take_is_refused_with_words(message, author, words):
    with pytest.raises(clincus.ClincusError, match=words) as refused:
        commit.check_request(message, *author)
    assert refused.value.status == 400
