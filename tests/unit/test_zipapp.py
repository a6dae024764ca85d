"""The archive dist/clincus.pyz: what is in it, that it is the same each time, and that every Python runs it."""

from __future__ import annotations

import ast
import fcntl
import gzip
import importlib.util
import io
import marshal
import os
import re
import shutil
import signal
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
from tests.interpreters import PYTHONS, SUITES, missing
from tests.table import table

# By day the oldest and the newest run these, and every version serves a session (tests/incus/test_archive.py).
BOUNDS = [
    version if version in (next(iter(PYTHONS)), next(reversed(PYTHONS)))
    else pytest.param(version, marks=pytest.mark.nightly)
    for version in PYTHONS
]  # fmt: skip


@pytest.fixture(scope="session")
def archive_bytes():
    return build_zipapp.build()


@pytest.fixture
def archive(archive_bytes, tmp_path):
    """A copy of the archive far from the checkout."""
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
def compiled(compiled_bytes, tmp_path):
    """A copy of that archive far from the checkout."""
    path = tmp_path / "elsewhere" / "clincus.pyz"
    build_zipapp.write_program(path, compiled_bytes)
    return path


@pytest.fixture
def cache(tmp_path):
    """The cache folder of a user who starts the archive."""
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
    """A function that runs the archive of a test."""
    return partial(started, archive, cache)


@pytest.fixture(scope="session", autouse=True)
def say_what_was_found(note):
    """Tell which interpreters these tests use."""
    absent = missing(PYTHONS)
    note(f"the archive ran on CPython {', '.join(PYTHONS)}" + (f"; not here: {', '.join(absent)}" if absent else ""))


def test_ci_has_each_python_that_the_archive_promises():
    absent = missing(PYTHONS)
    if absent and os.environ.get("CI") != "true":
        pytest.skip(f"Python {', '.join(absent)} is not here; `make pythons` installs it")
    assert absent == [], "run `make pythons`: it says why a version cannot be installed"


def test_a_python_that_is_not_there_is_missed():
    assert missing({"3.9": "/usr/bin/python3.9"}) == [version for version in SUITES if version != "3.9"]


@pytest.mark.parametrize("version", BOUNDS)
def test_runs_on_each_python_without_site_packages(start, version):
    for command, words in (("version", clincus.__version__), ("help", "Usage:"), ("list --help", "Usage:")):
        done = start(*command.split(), python=PYTHONS[version])
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout


@pytest.mark.parametrize("version", BOUNDS)
def test_libraries_load_from_the_archive_on_each_python(archive, version):
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import websockets.server, tomli, clincus;"
        "import websockets.version as v; print(v.version, websockets.server.__file__, tomli.loads('a = 1'))"
    )
    done = subprocess.run(
        [PYTHONS[version], "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith(f"15.0.1 {archive}/websockets/")


def test_same_input_same_bytes(archive_bytes):
    assert build_zipapp.build() == archive_bytes


def without_docstrings(source):
    """What a module does, with the line of each step, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
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


def test_a_text_that_looks_like_a_comment_stays():
    source = (
        b'"""About."""\n# A comment.\nTEXT = """\n# no comment\n"""\n\n\ndef one():\n    """Why."""\n    return 1\n'
    )
    assert build_zipapp.lean(source) == b'\n\nTEXT = """\n# no comment\n"""\n\n\ndef one():\n\n    return 1\n'


def test_the_manual_of_the_commands_is_that_of_the_checkout(start, cache):
    shown = started(build_zipapp.ROOT / "clincus_cli", cache, "man", flags=())
    assert start("man").stdout == shown.stdout
    assert ".SS clincus shell" in shown.stdout


def test_order_of_files_does_not_matter():
    files = {"clincus.py": b"x", "LICENSE": b"y"}
    assert build_zipapp.pack(files) == build_zipapp.pack(dict(reversed(files.items())))


@table("deflate", [build_zipapp.quickly, build_zipapp.smallest])
def test_what_is_compressed_is_whole_again(tmp_path, deflate):
    """By the readers of Python and, for the page, by any reader of gzip."""
    page = b"".join(b"line %d of a page\n" % number for number in range(500))
    files = {"clincus.py": b"1\n" * 300, "empty.py": b"", "spa_dist/a.js": page, "spa_dist/icon.png": os.urandom(99)}
    packed = dict(build_zipapp.pack_page(files, deflate))
    (tmp_path / "some.pyz").write_bytes(build_zipapp.pack(packed, deflate))
    with zipfile.ZipFile(tmp_path / "some.pyz") as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name) for name in archive.namelist() if name != "__main__.py"}
    assert found.keys() == {"clincus.py", "empty.py", "spa_dist/a.js.gz", "spa_dist/icon.png"}
    assert gzip.decompress(found.pop("spa_dist/a.js.gz")) == page
    assert found.items() <= files.items()


def test_the_smallest_archive_is_smaller():
    source = (build_zipapp.ROOT / "build_zipapp.py").read_bytes()
    assert len(build_zipapp.smallest(source)) < len(build_zipapp.quickly(source))


def test_every_byte_of_the_input_counts_as_another_build():
    builds = [
        re.search(rb'BUILD = "([0-9a-f]{32})"', start_of(build_zipapp.pack({"clincus.py": source})))
        for source in (b"1", b"2")
    ]
    assert builds[0]
    assert builds[1]
    assert builds[0].group(1) != builds[1].group(1)


def test_the_program_knows_its_commit():
    source = b'__version__ = "1"\n__commit__ = "source"  # a\n__built__ = "unknown"\n'
    assert build_zipapp.stamped(source, "abc+", "2027-03-01") == (
        b'__version__ = "1"\n__commit__ = "abc+"  # a\n__built__ = "2027-03-01"\n'
    )
    assert build_zipapp.stamped(source, "", "") == source


def test_outside_of_a_repository_there_is_no_commit(tmp_path):
    assert build_zipapp.last_commit(tmp_path) == ("", "")


def start_of(data):
    import io

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("__main__.py")


def test_holds_the_program_the_libraries_and_the_dashboard_only(archive):
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {
        "LICENSE",
        "__main__.py",
        "clincus.py",
        "guest",
        "clincus_cli",
        "clincus_features",
        "clincus_unpack.py",
        "wall",
        "openapi.json",
        "spa_dist",
        "tomli",
        "websockets",
    }
    assert "spa_dist/index.html.gz" in names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".c", ".pyi")) or "/legacy/" in name]


def test_is_a_program_of_its_own(archive):
    assert archive.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o755


@pytest.mark.parametrize("bytecode", [{}, {"PYTHONDONTWRITEBYTECODE": "1"}], ids=["bytecode", "no bytecode"])
@pytest.mark.parametrize(
    ("folder", "command"),
    [
        (".", "./clincus.pyz"),
        (".", "python3 clincus.pyz"),
        (".", "python3 -I ./clincus.pyz"),
        ("below", "../clincus.pyz"),
        ("below", "python3 ../below/../clincus.pyz"),
        ("/", "{here}/clincus.pyz"),
        ("/", "{here}/below/clincus"),
        ("below", "./clincus"),
        ("/", "env PATH={here}/below:{path} clincus"),
        ("below", "env PATH=.:{path} clincus"),
        ("gone", "{here}/clincus.pyz"),
        ("gone", "env PATH={here}/below:{path} clincus"),
        (".", "env PYTHONPATH=clincus.pyz python3 -m clincus_cli"),
        ("/", "env PYTHONPATH={here}/clincus.pyz python3 -m clincus_cli"),
    ],
)
def test_runs_by_every_path(compiled, unpacked, folder, command, bytecode):
    """`info` reads a file of the archive and the configuration, which the current folder is part of."""
    here = compiled.parent
    (here / "below").mkdir()
    (here / "below" / "clincus").symlink_to("../clincus.pyz")
    (here / "gone").mkdir()
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environ = {"PATH": path, "HOME": str(here), "XDG_CACHE_HOME": str(unpacked), **bytecode}
    leave = 'rmdir "$PWD"; ' if folder == "gone" else ""
    done = subprocess.run(
        ["sh", "-c", f"{leave}exec {command.format(here=here, path=path)} info clincus-000000-1"],
        env=environ, cwd=here / folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "missing" not in done.stderr
    assert done.stderr.startswith("Error: "), "for lack of Incus or of the session"


def test_version_is_answered_at_once_and_as_the_program_would(start, cache):
    at_once = start("version")
    assert not cache.exists()
    assert at_once.stdout == start("--slot", "0", "version").stdout


def test_version_that_nobody_reads_ends_quietly(archive):
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-I", archive, "version"], stdout=writes, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (-13, b"")


def test_ctrl_c_during_the_start_ends_it_quietly(archive):
    """The archive lets SIGINT end it before it does anything else; a handler of the program's own comes later."""
    script = "import os, runpy, signal, sys; sys.argv[1:] = ['version']; sys.path.insert(0, sys.argv[0])"
    script = f"{script}; sys.exit = lambda: os.kill(os.getpid(), signal.SIGINT); runpy.run_path({str(archive)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.fixture(scope="module")
def unpacked(archive_bytes, tmp_path_factory):
    """The cache after a first start, of which each test has a copy: the first one compiles all."""
    folder = tmp_path_factory.mktemp("first")
    build_zipapp.write_program(folder / "clincus.pyz", archive_bytes)
    assert started(folder / "clincus.pyz", folder / "cache", "help").returncode == 0
    return folder / "cache"


class TestUnpacked:
    """The folder in the user's cache that the first start of a build unpacks it into."""

    @pytest.fixture
    def folder(self, unpacked, cache):
        """The folder, after a first start."""
        shutil.copytree(unpacked, cache)
        (folder,) = (cache / "clincus").iterdir()
        return folder

    def test_nobody_else_can_write_there(self, folder):
        assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}

    def test_the_next_start_finds_the_bytecode_and_writes_nothing(self, start, folder):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert any(path.match("clincus_cli/__pycache__/main.*.pyc") for path in before)
        assert start("help").returncode == 0
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    @pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), Path.unlink], ids=["emptied", "gone"])
    def test_a_damaged_one_is_made_anew(self, start, folder, damage):
        size = (folder / "clincus.py").stat().st_size
        damage(folder / "clincus.py")
        assert start("help").returncode == 0
        assert (folder / "clincus.py").stat().st_size == size

    def test_one_that_others_can_write_is_not_run(self, start, folder):
        program = folder / "clincus_cli" / "start.py"
        program.write_bytes(b"def main():\n    print('planted')\n".ljust(program.stat().st_size))
        os.utime(program, (0, 0))  # Python knows bytecode that is out of date by time and size
        assert start("help").stdout == "planted\n"  # the trap works, were it trusted …
        folder.chmod(0o777)
        assert "Usage" in start("help").stdout  # … and it is not

    def test_starts_at_once_do_not_disturb_each_other(self, archive, cache, tmp_path):
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(cache)}
        argv = [sys.executable, "-I", archive, "help"]
        running = [subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [one.wait(timeout=120) for one in running] == [0] * 4
        assert len(list((cache / "clincus").iterdir())) == 1

    def test_an_old_build_goes_unless_it_runs(self, start, cache, folder):
        old = cache / "clincus" / ("0" * 32)
        old.mkdir()
        os.utime(old, (0, 0))
        running = os.open(old, os.O_RDONLY)
        fcntl.flock(running, fcntl.LOCK_SH)
        shutil.rmtree(folder)
        start("list", "--help")
        assert old.exists()
        os.close(running)
        shutil.rmtree(folder)
        start("list", "--help")
        assert not old.exists()

    def test_there_is_none_when_python_may_keep_no_bytecode(self, start, cache):
        assert start("help", flags=("-I", "-B")).returncode == 0
        assert not cache.exists()

    def test_the_program_runs_where_the_cache_cannot_be_written(self, start, cache):
        cache.write_text("a file in the way")
        assert start("help").returncode == 0


def test_an_odd_entry_of_the_cache_keeps_no_other_old_build(tmp_path):
    (tmp_path / "target").mkdir()
    link, old = tmp_path / ("0" * 32), tmp_path / ("1" * 32)
    link.symlink_to("target")
    old.mkdir()
    for path in (link, old):
        os.utime(path, (0, 0), follow_symlinks=False)
    clincus_unpack.drop_other_builds(str(tmp_path / ("f" * 32)))
    assert link.is_symlink()
    assert not old.exists()


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
