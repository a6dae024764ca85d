"""The archive dist/clincus.pyz: what is in it, that it is the same each time, and that every Python runs it."""

from __future__ import annotations

import ast
import fcntl
import importlib.util
import io
import marshal
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

import build_zipapp
import clincus
import clincus_unpack
from tests.interpreters import PYTHONS, missing
from tests.table import table

# By day the oldest and the newest run the archive, and every version serves a session (tests/incus/test_archive.py).
ENDS = [*PYTHONS][:1] + [*PYTHONS][1:][-1:]


@pytest.fixture(scope="session")
def archive_bytes():
    return build_zipapp.build()


@pytest.fixture
def archive(archive_bytes, tmp_path):
    path = tmp_path / "elsewhere" / "clincus.pyz"
    build_zipapp.write_program(path, archive_bytes)
    return path


@pytest.fixture(scope="session")
def compiled_bytes(archive_bytes):
    """The archive with the bytecode of its modules (PEP 552, unchecked): to compile them is most of a start."""
    head = importlib.util.MAGIC_NUMBER + struct.pack("<IQ", 1, 0)
    made = io.BytesIO(archive_bytes)
    with zipfile.ZipFile(made, "a") as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                archive.writestr(f"{name}c", head + marshal.dumps(compile(archive.read(name), name, "exec")))
    return made.getvalue()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def started(archive, cache, *arguments, python=sys.executable, flags=("-I",)):
    """Run an archive with an interpreter of its own and no site packages."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(archive.parent), "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [python, *flags, archive, *arguments], env=environ, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def start(archive, cache):
    return partial(started, archive, cache)


@pytest.fixture(scope="session", autouse=True)
def say_what_was_found(note):
    """Tell which interpreters these tests use, and which this machine could not have."""
    absent = missing(PYTHONS)
    note(f"the archive ran on CPython {', '.join(PYTHONS)}" + (f"; not here: {', '.join(absent)}" if absent else ""))


@table("version", ENDS)
def test_runs_on_each_python_without_site_packages(archive, tmp_path, version):
    for command, words in (("version", clincus.__version__), ("list --help", "Usage:")):
        done = started(archive, tmp_path, *command.split(), python=PYTHONS[version])
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout


def test_the_same_input_gives_the_same_bytes_and_every_byte_of_it_counts_as_another_build():
    files = {"clincus.py": b"x", "LICENSE": b"y"}
    packed = build_zipapp.pack(files)
    assert packed == build_zipapp.pack(dict(reversed(files.items())))
    builds = []
    for data in (packed, build_zipapp.pack({**files, "clincus.py": b"z"})):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            builds += re.findall(rb'BUILD = "([0-9a-f]{32})"', archive.read("__main__.py"))
    assert len(set(builds)) == 2


def without_docstrings(source):
    """What a module does, with the line of each step, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            del body[0]
    return ast.dump(tree, include_attributes=True)


def test_the_modules_are_the_checkouts_without_docstrings_on_the_same_lines(archive):
    with zipfile.ZipFile(archive) as opened:
        packed = {name: opened.read(name) for name in opened.namelist()}
    own = {name: data for name, data in build_zipapp.own_files(build_zipapp.ROOT) if name.endswith(".py")}
    assert [name for name in own if without_docstrings(packed[name]) != without_docstrings(own[name])] == []
    programs = [name for name in own if name.startswith("wall/") and name != "wall/protect.py"]
    assert [name for name in programs if packed[name] != own[name]] == []
    assert len(packed["clincus.py"]) < 0.9 * len(own["clincus.py"])


TOPS = """
LICENSE __main__.py clincus.py clincus_cli clincus_features clincus_unpack.py guest openapi.json spa_dist tomli wall
websockets
"""


def test_holds_the_program_the_libraries_and_the_dashboard_only(archive):
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == set(TOPS.split())
    assert "spa_dist/index.html.gz" in names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".c", ".pyi")) or "/legacy/" in name]
    assert archive.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o755


# By the archive itself or its unpacked copy, as Python may keep bytecode or not.
WAYS = [
    ("-", ".", "./clincus.pyz"),
    ("B", ".", "python3 clincus.pyz"),
    ("-", "below", "./clincus"),
    ("B", "below", "env PATH=.:{path} clincus"),
    ("B", "gone", "env PATH={here}/below:{path} clincus"),
    ("-", ".", "env PYTHONPATH=clincus.pyz python3 -m clincus_cli"),
]


@table("way", WAYS)
def test_runs_by_every_path(compiled_bytes, unpacked, tmp_path, way):
    """`info` reads a file of the archive and the configuration, which the current folder is part of."""
    bytecode, folder, command = way
    here = tmp_path
    build_zipapp.write_program(here / "clincus.pyz", compiled_bytes)
    (here / "below").mkdir()
    (here / "below" / "clincus").symlink_to("../clincus.pyz")
    (here / "gone").mkdir()
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environ = {"PATH": path, "HOME": str(here), "XDG_CACHE_HOME": str(unpacked)}
    if bytecode == "B":
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
    leave = 'rmdir "$PWD"; ' if folder == "gone" else ""
    done = subprocess.run(
        ["sh", "-c", f"{leave}exec {command.format(here=here, path=path)} info clincus-000000-1"],
        env=environ, cwd=here / folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "missing" not in done.stderr
    assert done.stderr.startswith("Error: "), "for lack of Incus or of the session"


@pytest.fixture(scope="module")
def unpacked(archive_bytes, tmp_path_factory):
    """The cache after a first start, of which each test has a copy: the first one compiles all."""
    folder = tmp_path_factory.mktemp("first")
    build_zipapp.write_program(folder / "clincus.pyz", archive_bytes)
    assert started(folder / "clincus.pyz", folder / "cache", "help").returncode == 0
    return folder / "cache"


@pytest.fixture
def folder(unpacked, cache):
    """The folder in the user's cache that the first start of a build unpacks it into."""
    shutil.copytree(unpacked, cache)
    (folder,) = (cache / "clincus").iterdir()
    return folder


def test_the_next_start_finds_the_bytecode_and_writes_nothing(start, folder):
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert any(path.match("clincus_cli/__pycache__/main.*.pyc") for path in before)
    assert start("help").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_damaged_one_is_made_anew(start, folder):
    size = (folder / "clincus.py").stat().st_size
    (folder / "clincus.py").write_bytes(b"")
    assert start("help").returncode == 0
    assert (folder / "clincus.py").stat().st_size == size


def test_one_that_others_can_write_is_not_run(start, folder):
    program = folder / "clincus_cli" / "start.py"
    program.write_bytes(b"def main():\n    print('planted')\n".ljust(program.stat().st_size))
    os.utime(program, (0, 0))  # Python knows bytecode that is out of date by time and size
    assert start("help").stdout == "planted\n"  # the trap works, were it trusted …
    folder.chmod(0o777)
    assert "Usage" in start("help").stdout  # … and it is not


def test_an_old_build_goes_unless_it_runs(start, cache):
    old = cache / "clincus" / ("0" * 32)
    old.mkdir(parents=True)
    cache.joinpath("clincus").chmod(0o700)
    os.utime(old, (0, 0))
    running = os.open(old, os.O_RDONLY)
    fcntl.flock(running, fcntl.LOCK_SH)
    clincus_unpack.drop_other_builds(str(cache / "clincus" / ("f" * 32)))
    assert old.exists()
    os.close(running)
    assert start("help").returncode == 0
    assert not old.exists()


def test_the_program_runs_without_a_cache(start, cache):
    assert start("help", flags=("-I", "-B")).returncode == 0
    assert not cache.exists(), "Python may keep no bytecode"
    cache.write_text("a file in the way")
    assert start("help").returncode == 0


def test_an_old_python_is_told_what_is_needed():
    """START is compiled by whatever runs it: it must be readable by older ones to say so."""
    code = build_zipapp.START.split("import os")[0].replace("(3, 9)", "(99, 9)")
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("clincus needs Python 3.9 or newer, and this is 3.")


def test_a_wheel_with_another_hash_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (name, digest), *_ = build_zipapp.WHEELS.items()
    fetched: list[str] = []

    def download(requirement: str, cache: Path) -> None:
        fetched.append(requirement)
        (cache / name).write_bytes(b"not it either")

    monkeypatch.setattr(build_zipapp, "download_wheel", download)
    (tmp_path / "clincus-wheels").mkdir()
    (tmp_path / "clincus-wheels" / name).write_bytes(b"not it")
    with pytest.raises(SystemExit, match="another websockets"):
        build_zipapp.find_wheel(name, digest)
    assert fetched == ["websockets==15.0.1"]
