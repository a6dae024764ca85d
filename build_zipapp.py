#!/usr/bin/env python3
"""Build dist/clincus.pyz: clincus.py, its two libraries and the dashboard in one file that any Python 3.9+ runs.

    python3 build_zipapp.py [-o FILE] [--smallest]

The libraries come from PyPI through pip, once, into a cache, and are checked against the hashes below each time. The
same input gives the same bytes: fixed times and modes, sorted names, no trace of the machine or of its interpreters.

The modules go in without most of their docstrings and comments, which are a twelfth of the archive: lines keep their
numbers, so that a traceback leads to the source. The programs that run as root on the host (wall/) and in containers
(guest/) go in unchanged, for people who read them there. The files of the page go in with gzip, as browsers take them.

Bytecode in the archive would depend on the interpreters of the machine that builds it. Without bytecode, Python would
compile the modules at each start. START therefore lets clincus_unpack.py unpack a build once into the user's cache
directory, where Python keeps bytecode as usual. Only START itself is compiled each time, so it is short.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import io
import os
import re
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent

# The pure Python wheels: websockets 15.0.1 is the last that runs on Python 3.9; tomli is used below Python 3.11.
WHEELS = {
    "websockets-15.0.1-py3-none-any.whl": "f7a866fbc1e97b5c617ee4116daaa09b722101d4a3c170c787450ba409f9736f",
    "tomli-2.2.1-py3-none-any.whl": "cb55c73c5f4408779d0cf3eef9f762b9c9f147a77de7b258bef0a5628adc85cc",
}

# Parts of websockets that nothing of ours imports. Its C code could not be loaded from an archive.
LEFT_OUT = (
    "websockets/legacy/",
    "websockets/asyncio/",
    "websockets/sync/",
    "websockets/cli.py",
    "websockets/__main__.py",
)
LIBRARY_SUFFIXES = (".py", "LICENSE")

FOLDERS = ("clincus_cli", "clincus_features", "guest", "spa_dist", "wall")  # of the program, beside clincus.py

FIXED_DATE = 1 << 5 | 1  # 1980-01-01, the earliest that the zip format knows

START = '''\
"""Start Clincus from its archive, unpacked at the first start so that Python keeps the bytecode as always."""
import _signal
import sys

if sys.version_info < (3, 9):
    sys.exit("clincus needs Python 3.9 or newer, and this is %d.%d" % sys.version_info[:2])

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # till the program has a handler of its own, Ctrl-C ends it quietly

if sys.argv[1:] == ["version"] and sys.stdout:
    # The build knows the answer, so the program need not be loaded.
    try:
        print("@VERSION@\\nPython " + sys.version.split()[0], flush=True)
        sys.exit()
    except OSError:
        pass  # the program says why

import os

BUILD = "@BUILD@"  # of everything in the archive: another build never meets this one's files
SIZES = "@SIZES@"  # name=bytes of each module; Python compiles a text faster than a dict
ARCHIVE = os.path.dirname(os.path.abspath(__file__))


def is_private(path):
    """True if only we (and root) can change a folder, whose files will be run."""
    status = os.lstat(path)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def is_whole(folder):
    """True if every file exists in its size; after a power cut some may be empty."""
    try:
        files = (one.split("=") for one in SIZES.split())
        return all(os.stat(os.path.join(folder, name)).st_size == int(size) for name, size in files)
    except OSError:
        return False


def unpacked():
    """The folder with this build, unpacked if need be and locked while we run; "" where there can be none."""
    import fcntl

    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    top = os.path.join(base, "clincus")
    folder = os.path.join(top, BUILD)
    try:
        if not is_whole(folder):
            os.makedirs(base, exist_ok=True)
            os.makedirs(top, mode=0o700, exist_ok=True)
            if is_private(top):
                from clincus_unpack import unpack

                unpack(ARCHIVE, folder, is_whole)
        if is_private(top) and is_private(folder):
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
            return folder
    except OSError:
        pass
    return ""


if __name__ == "__main__":
    # Python found us by a path that may be relative, and finds the data of the modules beside it by an absolute one.
    sys.path.insert(0, (not sys.dont_write_bytecode and unpacked()) or ARCHIVE)
    from clincus_cli.start import main

    sys.exit(main())
'''


def find_wheel(name: str, digest: str) -> bytes:
    """A wheel from the cache, or else by pip. Ends the program with a reason if neither has it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clincus-wheels"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = cache / name
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != digest:
        path.unlink(missing_ok=True)
        download_wheel("==".join(name.split("-")[:2]), cache)
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        sys.exit(f"build_zipapp: pip brought another {name} than the one that is expected")
    return data


def download_wheel(requirement: str, cache: Path) -> None:
    """Let pip download a wheel."""
    if importlib.util.find_spec("pip") is None:
        sys.exit(
            f"build_zipapp: {sys.executable} has no pip, which fetches the two libraries once: "
            "`apt-get install python3-venv` and use a virtual environment's Python, as `make build` does"
        )
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    argv += ["--platform=any", "--implementation=py", "--abi=none", "--python-version=3.9"]
    argv += [f"--dest={cache}", requirement]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        sys.exit(f"build_zipapp: pip could not fetch {requirement}: {done.stderr.strip()[-800:]}")


def library_files(wheel: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a wheel that the archive takes: modules and the licence."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in archive.namelist():
            if name.endswith(LIBRARY_SUFFIXES) and not name.startswith(LEFT_OUT):
                yield name, archive.read(name)


def last_commit(root: Path) -> tuple[str, str]:
    """The commit of a checkout and its day, with "+" after a commit if files were changed since; empty without git."""

    def git(*words: str) -> str:
        argv = ["git", "-c", "safe.directory=*", "-C", str(root), *words]
        environ = {**os.environ, "TZ": "UTC0"}
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=environ, timeout=60, check=True)
        return done.stdout.decode().strip()

    try:
        commit, day = git("log", "-1", "--format=%H %cd", "--date=format-local:%Y-%m-%d").split()
        return commit + ("+" if git("status", "--porcelain", "-uno") else ""), day
    except (OSError, subprocess.SubprocessError):
        return "", ""


def stamped(source: bytes, commit: str, day: str) -> bytes:
    """The program with the commit and the day that `clincus version` names."""
    for name, value in (("__commit__", commit), ("__built__", day)):
        if value:
            source = re.sub(rb'(?m)^%s = "[^"]*"' % name.encode(), f'{name} = "{value}"'.encode(), source, count=1)
    return source


def version_line(source: bytes) -> str:
    """The first line of `clincus version`."""
    found = re.findall(r'(?m)^__(version|commit|built)__ = "([^"\\]*)"', source.decode())
    return "clincus {version} (commit: {commit}, built: {built})".format(
        **{"version": "", "commit": "", "built": "", **dict(found)}
    )


def own_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """The program, the programs for containers, the contract of its API, its licence and the built dashboard."""
    yield "clincus.py", stamped((root / "clincus.py").read_bytes(), *last_commit(root))
    for name in ("LICENSE", "clincus_unpack.py", "openapi.json"):
        yield name, (root / name).read_bytes()
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                yield path.relative_to(root).as_posix(), path.read_bytes()


def has_docstring(node: ast.AST) -> bool:
    """True if a node has a docstring, besides a body, that nothing reads when the program runs.

    A decorator may read it: a command's docstring is its help, and `dataclass` makes one if there is none.
    """
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    is_decorated = not isinstance(node, ast.Module) and bool(node.decorator_list)
    return not is_decorated and len(node.body) > 1 and ast.get_docstring(node, clean=False) is not None


def lean(source: bytes) -> bytes:
    """A module without docstrings and lines of comments. Every other line keeps its number."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = [node.body[0] for node in nodes if has_docstring(node)]  # type: ignore[attr-defined]
    texts = [node for node in nodes if isinstance(node, (ast.Constant, ast.JoinedStr))]
    dropped = {line for one in docstrings for line in range(one.lineno, one.end_lineno + 1)}
    within = {line for one in texts for line in range(one.lineno + 1, (one.end_lineno or one.lineno) + 1)}
    lines = enumerate(source.split(b"\n"), 1)
    return b"\n".join(
        b"" if number in dropped or (line.lstrip().startswith(b"#") and number not in within) else line
        for number, line in lines
    )


Deflate = Callable[[bytes], bytes]  # compresses to a raw stream (RFC 1951)


def quickly(data: bytes) -> bytes:
    """Compress with zlib."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def smallest(data: bytes) -> bytes:
    """Compress with Zopfli: a twentieth smaller, and a hundred times slower. Ends the program if it is missing."""
    try:
        zopfli = importlib.import_module("zopfli.zlib")
    except ImportError:
        sys.exit("build_zipapp: --smallest needs zopfli, which requirements-dev.txt names")
    return bytes(zopfli.compress(data)[2:-4])


def gzipped(data: bytes, deflate: Deflate) -> bytes:
    """A file as `gzip --best --no-name` writes it (RFC 1952)."""
    head = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
    return head + deflate(data) + struct.pack("<II", zlib.crc32(data), len(data))


def pack_page(files: dict[str, bytes], deflate: Deflate) -> Iterator[tuple[str, bytes]]:
    """The files of the page in the form for browsers, as NAME.gz, so that the server need not compress them."""
    for name, data in files.items():
        packed = gzipped(data, deflate) if name.startswith("spa_dist/") else data
        if len(packed) < 0.9 * len(data):
            yield f"{name}.gz", packed
        else:
            yield name, data


# APPNOTE.TXT of PKWARE, 4.3.7, 4.3.12 and 4.3.16.
LOCAL_HEAD = struct.Struct("<4s5H3I2H")
CENTRAL_HEAD = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")


def archive_of(files: dict[str, bytes], deflate: Deflate, first_line: bytes) -> bytes:
    """A zip archive after a first line. `zipfile` could only compress with zlib."""
    parts = [first_line]
    central = b""
    at = len(first_line)
    for name, data in sorted(files.items()):
        packed = data if name.endswith(".gz") else deflate(data)
        is_smaller = len(packed) < len(data)
        content = packed if is_smaller else data
        path = name.encode("ascii")
        shared = (20, 0, zipfile.ZIP_DEFLATED if is_smaller else zipfile.ZIP_STORED, 0, FIXED_DATE)
        sizes = (zlib.crc32(data), len(content), len(data), len(path), 0)
        made_by = 3 << 8 | 20  # Unix
        mode = (stat.S_IFREG | 0o644) << 16
        central += CENTRAL_HEAD.pack(b"PK\1\2", made_by, *shared, *sizes, 0, 0, 0, mode, at) + path
        parts += [LOCAL_HEAD.pack(b"PK\3\4", *shared, *sizes), path, content]
        at += LOCAL_HEAD.size + len(path) + len(content)
    count = len(files)
    return b"".join([*parts, central, END.pack(b"PK\5\6", 0, 0, count, count, len(central), at, 0)])


def pack(files: dict[str, bytes], deflate: Deflate = quickly) -> bytes:
    """The archive as bytes, with a first line that lets the system run it (PEP 441)."""
    sizes = " ".join(f"{name}={len(data)}" for name, data in sorted(files.items()) if name.endswith(".py"))
    digest = hashlib.sha256(START.encode())
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    start = START.replace("@BUILD@", digest.hexdigest()[:32]).replace("@SIZES@", sizes)
    start = start.replace("@VERSION@", version_line(files["clincus.py"]))
    return archive_of({**files, "__main__.py": start.encode()}, deflate, b"#!/usr/bin/env python3\n")


def write_program(target: Path, data: bytes) -> None:
    """Put the archive in its place, executable, completely or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.chmod(0o755)
    os.replace(partial, target)


def build(root: Path = ROOT, deflate: Deflate = quickly) -> bytes:
    """The archive of a checkout."""
    files = dict(own_files(root))
    for name, digest in WHEELS.items():
        files.update(library_files(find_wheel(name, digest)))
    programs = [name for name in files if name.startswith("wall/") and name != "wall/protect.py"]
    modules = [name for name in files if name.endswith(".py") and name not in programs]
    files.update({name: lean(files[name]) for name in modules})
    return pack(dict(pack_page(files, deflate)), deflate)


def main() -> int:
    """Build the archive and report the result."""
    parser = argparse.ArgumentParser(description="Build clincus.pyz, the whole program in one file.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "clincus.pyz", help="where to write it")
    parser.add_argument("--smallest", action="store_true", help="compress with Zopfli, which takes half a minute")
    words = parser.parse_args()
    target: Path = words.output
    data = build(deflate=smallest if words.smallest else quickly)
    write_program(target, data)
    print(f"{target} ({len(data) // 1024} KiB, sha256 {hashlib.sha256(data).hexdigest()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
