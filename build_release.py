"""Build a release in dist/release: the .pyz, the wheel, the sdist and SHA256SUMS, the same bytes from the same commit.

    python3 build_release.py [--quick]

It builds from `git archive HEAD`, so that nothing of a checkout gets in that is not in the commit, twice and in
different folders, and compares. docs/nightly.md must report a night of this very commit without a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import build_zipapp

ROOT = Path(__file__).resolve().parent
NIGHT = "docs/nightly.md"
ROW = r"(?m)^\| (commit|result) \| (.+?) \|$"  # of the table in docs/nightly.md


def git(root: Path, *words: str) -> bytes:
    """Run git and return its output. Raises CalledProcessError."""
    argv = ["git", "-c", "safe.directory=*", "-c", "tar.umask=0022", "-C", str(root), *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True).stdout


def changed(root: Path) -> str:
    """The files that differ from the commit, or ""."""
    return git(root, "status", "--porcelain").decode().strip()


def night_problem(root: Path) -> str:
    """The reason why the last night does not vouch for this commit, or "".

    The commit that brings docs/nightly.md is one after the commit that the night ran on, and may change no other file.
    """
    try:
        text = git(root, "show", f"HEAD:{NIGHT}").decode()
    except subprocess.CalledProcessError:
        return "is missing"
    rows = dict(re.findall(ROW, text))
    commit = rows.get("commit", "")
    result = rows.get("result", "none")
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return f"is of '{commit}', which is no commit"
    try:
        files = git(root, "diff", "--name-only", commit, "HEAD", "--").decode().splitlines()
    except subprocess.CalledProcessError:
        return f"is of {commit}, which is not in this repository"
    others = [name for name in files if name != NIGHT]
    if others:
        return f"is of {commit}, and files have changed since ({', '.join(others[:3])})"
    if result.startswith("passed"):
        return ""
    return f"is of a part of a night ({result})" if result.startswith("a part") else f"tells of failures ({result})"


def export(root: Path, folder: Path) -> None:
    """Put the commit's files into a folder, with the commit and its day in clincus.py."""
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", "HEAD"))) as archive:
        archive.extractall(folder, filter="data")
    commit, day = build_zipapp.last_commit(root)
    program = folder / "clincus.py"
    program.write_bytes(build_zipapp.stamped(program.read_bytes(), commit, day))


def build(root: Path, folder: Path, *, quick: bool = False) -> dict[str, bytes]:
    """The files of the release, built in a folder that does not exist yet: name -> content."""
    source = folder / "clincus"
    out = folder / "out"
    source.mkdir(parents=True)
    export(root, source)
    # The time of the commit is used as that of the build.
    time = git(root, "log", "-1", "--format=%ct").decode().strip()
    environ = {**os.environ, "SOURCE_DATE_EPOCH": time, "GIT_CEILING_DIRECTORIES": str(folder)}
    python = [sys.executable, "-B"]
    size = [] if quick else ["--smallest"]
    for argv in (
        [*python, "build_zipapp.py", *size, "--output", str(out / "clincus.pyz")],
        [*python, "-m", "build", "--no-isolation", "--outdir", str(out)],
    ):
        subprocess.run(argv, cwd=source, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def sums(files: dict[str, bytes]) -> Iterator[str]:
    """The lines of SHA256SUMS, as sha256sum(1) reads them."""
    for name, data in files.items():
        yield f"{hashlib.sha256(data).hexdigest()}  {name}\n"


def write(target: Path, files: dict[str, bytes]) -> None:
    """Put the files and SHA256SUMS into an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, data in files.items():
        (target / name).write_bytes(data)
    (target / "clincus.pyz").chmod(0o755)
    (target / "SHA256SUMS").write_text("".join(sums(files)))


def release(root: Path, *, quick: bool = False) -> dict[str, bytes]:
    """Build a commit twice. Ends the program with a reason if it may not be released."""
    if changed(root):
        sys.exit(f"release: commit or stash your changes first:\n{changed(root)}")
    problem = night_problem(root)
    if problem:
        sys.exit(
            f"release: {NIGHT} {problem}: run `.ci/nightly` until nothing fails, commit {NIGHT} and nothing else, and "
            "release that commit"
        )
    with tempfile.TemporaryDirectory(prefix="clincus-release-") as top:
        try:
            once, again = (build(root, Path(top) / name, quick=quick) for name in ("first", "the-second"))
        except subprocess.CalledProcessError as error:
            sys.exit(f"release: {error}\n{(error.stderr or b'').decode(errors='replace')[-2000:]}")
    differ = [name for name in {**once, **again} if once.get(name) != again.get(name)]
    if differ:
        sys.exit(f"release: two builds of one commit differ in {', '.join(differ)}")
    return once


def main() -> int:
    """Build the release of this checkout's commit and print its checksums."""
    parser = argparse.ArgumentParser(description="Build a release of this checkout's commit.")
    parser.add_argument("--quick", action="store_true", help="compress with zlib in place of Zopfli, to try it out")
    target = ROOT / "dist" / "release"
    files = release(ROOT, quick=parser.parse_args().quick)
    write(target, files)
    print("".join(sums(files)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
