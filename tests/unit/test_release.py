"""A release: what it is built from, what it holds, and when it is refused."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import build_release
from tests.programs import git

ROOT = Path(__file__).resolve().parents[2]
WELL = "passed: 100 passed in 10 min"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "clincus.py").write_text('__commit__ = "source"\n')
    git(folder, "init", "--quiet")
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=Step")
    return git(folder, "rev-parse", "HEAD").strip()


def write_night(folder: Path, of: str, result: str = WELL) -> None:
    (folder / "docs").mkdir(exist_ok=True)
    (folder / build_release.NIGHT).write_text(f"| | |\n| --- | --- |\n| commit | {of} |\n| result | {result} |\n")


def test_a_night_of_this_very_commit_lets_a_release_pass_until_a_file_changes(repository):
    write_night(repository, commit(repository))
    commit(repository)
    assert build_release.night_problem(repository) == ""
    (repository / "clincus.py").write_text("changed\n")
    commit(repository)
    assert "files have changed since (clincus.py)" in build_release.night_problem(repository)


def test_without_a_night_or_with_changed_files_there_is_no_release(repository):
    commit(repository)
    with pytest.raises(SystemExit, match=r"docs/nightly\.md is missing"):
        build_release.release(repository)
    (repository / "clincus.py").write_text("changed\n")
    with pytest.raises(SystemExit, match="commit or stash your changes first"):
        build_release.release(repository)


def test_a_night_that_says_nothing_for_a_release_is_refused(repository):
    for of, result, words in (
        (None, "2 failed, 98 passed in 10 min", "tells of failures"),
        (None, "a part passed: 4 passed in 4 min", "is of a part of a night"),
        ("0" * 40, WELL, "is not in this repository"),
        ("--output=/tmp/x", WELL, "which is no commit"),
    ):
        write_night(repository, of or commit(repository), result)
        commit(repository)
        assert words in build_release.night_problem(repository)


@pytest.fixture
def checkout(tmp_path):
    """A repository with the files of this checkout, a night, and things that belong into no release."""
    folder = tmp_path / "checkout"
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    write_night(folder, commit(folder))
    commit(folder)
    (folder / ".git" / "info" / "exclude").write_text("left-over\n")
    (folder / "guest" / "left-over").write_text("of an experiment")
    (folder / "dist" / "release").mkdir(parents=True)
    (folder / "dist" / "release" / "clincus-0.0.1-py3-none-any.whl").write_text("old")
    return folder


def test_a_release_holds_what_the_commit_has_and_names_it(checkout):
    argv = [sys.executable, "build_release.py", "--quick"]
    subprocess.run(argv, cwd=checkout, stdin=subprocess.DEVNULL, timeout=300, check=True)
    released = checkout / "dist" / "release"
    wheel, source, archive = (
        released / name for name in ("clincus-0.1.0-py3-none-any.whl", "clincus-0.1.0.tar.gz", "clincus.pyz")
    )
    assert {*released.iterdir()} == {released / "SHA256SUMS", wheel, source, archive}
    lines = [line.split("  ") for line in (released / "SHA256SUMS").read_text().splitlines()]
    assert {name: digest for digest, name in lines} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, source, archive)
    }
    with tarfile.open(source) as opened:
        names = opened.getnames()
    names += zipfile.ZipFile(wheel).namelist() + zipfile.ZipFile(archive).namelist()
    assert not [name for name in names if "left-over" in name]
    head = git(checkout, "rev-parse", "HEAD").strip()
    said = subprocess.run([sys.executable, archive, "version"], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.startswith(f"clincus 0.1.0 (commit: {head}, built: 2")
    assert f'__commit__ = "{head}"' in zipfile.ZipFile(wheel).read("clincus.py").decode()
