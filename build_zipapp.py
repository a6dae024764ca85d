#!/usr/bin/env python3
"""Build dist/clincus.pyz: clincus.py, its two libraries and the dashboard in one file that any Python 3.9+ runs.

    python3 build_zipapp.py [-o FILE]

The libraries come from PyPI through pip, once, into a cache, and are checked against the hashes below each time. The
same input gives the same bytes: fixed times and modes, sorted names, no trace of the machine or of its interpreters.

Why no bytecode inside: an archive with bytecode would hold that of the interpreters which this machine happens to
have, so its bytes would depend on them. Without any, Python compiles a module of the archive at each start, and
clincus.py alone takes 0.3 to 0.5 s. So the archive's own START keeps what it compiled in the user's cache directory:
the first start of a build under an interpreter compiles, each later one reads the result.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent

# The pure Python wheels: websockets 15.0.1 is the last that runs on Python 3.9; tomli is used below Python 3.11.
WHEELS = {
    "websockets==15.0.1": "f7a866fbc1e97b5c617ee4116daaa09b722101d4a3c170c787450ba409f9736f",
    "tomli==2.2.1": "cb55c73c5f4408779d0cf3eef9f762b9c9f147a77de7b258bef0a5628adc85cc",
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

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the zip format knows

START = '''\
"""Start Clincus from its archive, with what was compiled at an earlier start."""
import _signal
import sys

if sys.version_info < (3, 9):
    sys.exit("clincus needs Python 3.9 or newer, and this is %d.%d" % sys.version_info[:2])

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # till the program has a handler of its own, Ctrl-C ends it quietly

if sys.argv[1:] == ["version"] and sys.stdout:
    # The answer is known since the archive was built; the program itself takes a while to load.
    try:
        print("@VERSION@\\nPython " + sys.version.split()[0], flush=True)
        sys.exit()
    except OSError:
        pass  # the program knows what to do then

import marshal
import os
import zipimport
from importlib.machinery import ModuleSpec

BUILD = "@BUILD@"  # of everything in the archive: another build never meets this one's compiled code
ARCHIVE = os.path.dirname(os.path.abspath(__file__))


def is_private(status):
    """Whether only we (and root) can change a file or a folder: what is compiled there will be run."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def cache_folder():
    """The folder for this build under this interpreter, made if need be; "" where there can be none."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    top = os.path.join(base, "clincus")
    folder = os.path.join(top, "%s-%s" % (BUILD, sys.implementation.cache_tag))
    try:
        if not os.path.isdir(folder):
            os.makedirs(base, exist_ok=True)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            drop_other_builds(top, folder)
        return folder if is_private(os.lstat(top)) and is_private(os.lstat(folder)) else ""
    except OSError:
        return ""


def drop_other_builds(top, folder):
    """Remove what other builds left that nobody has started for a month."""
    import time

    for name in os.listdir(top):
        other = os.path.join(top, name)
        parts = name.split("-", 1)
        if other != folder and len(parts) == 2 and len(parts[0]) == len(BUILD) and "python" in parts[1]:
            if os.lstat(other).st_mtime < time.time() - 30 * 86400 and is_private(os.lstat(other)):
                for entry in os.listdir(other):
                    os.unlink(os.path.join(other, entry))
                os.rmdir(other)


class Loader:
    """Loads the archive's modules; a part of the import system (importlib.abc.InspectLoader, ResourceLoader)."""

    def __init__(self):
        self.archive = zipimport.zipimporter(ARCHIVE)
        self.folder = "" if sys.dont_write_bytecode else cache_folder()

    def find_spec(self, name, path=None, target=None):
        relative = name.replace(".", os.sep)
        for file, is_package in ((relative + ".py", False), (os.path.join(relative, "__init__.py"), True)):
            if file.replace(os.sep, "/") in MODULES:
                origin = os.path.join(ARCHIVE, file)
                spec = ModuleSpec(name, self, origin=origin, is_package=is_package)
                spec.has_location = True
                if is_package:
                    spec.submodule_search_locations = [os.path.dirname(origin)]
                return spec
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.get_code(module.__name__), module.__dict__)

    def is_package(self, name):
        return self.find_spec(name).submodule_search_locations is not None

    def get_data(self, path):
        return self.archive.get_data(path)

    def get_source(self, name):
        return self.get_data(self.find_spec(name).origin).decode()

    def get_code(self, name):
        code = self.read(name)
        if code is None:
            origin = self.find_spec(name).origin
            code = compile(self.get_data(origin), origin, "exec", dont_inherit=True)
            self.keep(name, code)
        return code

    def read(self, name):
        """The compiled module from the cache, or None when it is not there, not ours or broken."""
        if not self.folder:
            return None
        try:
            descriptor = os.open(os.path.join(self.folder, name), os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                data = file.read() if is_private(status) else b""
            head = self.head()
            return marshal.loads(data[len(head):]) if data.startswith(head) else None
        except (OSError, EOFError, ValueError, TypeError):
            return None

    def keep(self, name, code):
        """Put a compiled module into the cache: whole or not at all, and no reason to fail."""
        if not self.folder:
            return
        path = os.path.join(self.folder, name)
        partial = "%s.%d" % (path, os.getpid())
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(self.head() + marshal.dumps(code))
            os.replace(partial, path)
        except OSError:
            try:
                os.unlink(partial)
            except OSError:
                pass

    def head(self):
        """What every file of the cache begins with: the form of bytecode, this build, and where the archive lies.

        The place counts because tracebacks name it.
        """
        from importlib.util import MAGIC_NUMBER

        return MAGIC_NUMBER + BUILD.encode() + ARCHIVE.encode("utf-8", "surrogateescape") + b"\\0"


MODULES = frozenset(@MODULES@)


if __name__ == "__main__":
    sys.meta_path.insert(0, Loader())
    from clincus import main

    sys.exit(main())
'''


def find_wheels() -> dict[str, bytes]:
    """The wheels by requirement, from the cache or else by pip. Ends the program with a reason if neither has them."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = base / "clincus-wheels"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = cached_wheels(cache)
    if len(found) < len(WHEELS):
        download_wheels(cache)
        found = cached_wheels(cache)
    missing = sorted(set(WHEELS) - set(found))
    if missing:
        sys.exit(f"build_zipapp: pip brought no wheel of {' and '.join(missing)} with the expected hash")
    return found


def cached_wheels(cache: Path) -> dict[str, bytes]:
    """The wheels in a folder whose bytes have the right hash."""
    by_hash = {digest: requirement for requirement, digest in WHEELS.items()}
    found = {}
    for path in sorted(cache.glob("*.whl")):
        data = path.read_bytes()
        requirement = by_hash.get(hashlib.sha256(data).hexdigest())
        if requirement:
            found[requirement] = data
    return found


def download_wheels(cache: Path) -> None:
    """Let pip bring the wheels; it checks the hashes too."""
    if importlib.util.find_spec("pip") is None:
        sys.exit(
            f"build_zipapp: {sys.executable} has no pip, which fetches the two libraries once: "
            "`apt-get install python3-venv` and use a virtual environment's Python, as `make build` does"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"{requirement} --hash=sha256:{digest}\n" for requirement, digest in WHEELS.items()))
        file.flush()
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        argv += ["--platform=any", "--implementation=py", "--abi=none", "--python-version=3.9"]
        argv += ["--require-hashes", f"--requirement={file.name}", f"--dest={cache}"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        sys.exit(f"build_zipapp: pip could not fetch the libraries: {done.stderr.strip()[-800:]}")


def library_files(wheel: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a wheel that the archive takes: modules and the licence."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in archive.namelist():
            if name.endswith(LIBRARY_SUFFIXES) and not name.startswith(LEFT_OUT):
                yield name, archive.read(name)


def last_commit(root: Path) -> tuple[str, str]:
    """The commit that a checkout is at and its day, "+" behind a commit that files were changed since; or nothing."""
    environ = {**os.environ, "TZ": "UTC0"}
    outputs = []
    for words in (["log", "-1", "--format=%H %cd", "--date=format-local:%Y-%m-%d"], ["status", "--porcelain", "-uno"]):
        argv = ["git", "-c", "safe.directory=*", "-C", str(root), *words]
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ, timeout=60, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return "", ""
        outputs.append(done.stdout.strip())
    commit, _, day = outputs[0].partition(" ")
    return commit + ("+" if outputs[1] else ""), day


def stamped(source: bytes, commit: str, day: str) -> bytes:
    """The program with the commit and the day that `clincus version` names."""
    for name, value in (("__commit__", commit), ("__built__", day)):
        if value:
            source = re.sub(rb'(?m)^%s = "[^"]*"' % name.encode(), f'{name} = "{value}"'.encode(), source, count=1)
    return source


def version_line(source: bytes) -> str:
    """The first line of `clincus version`."""
    found = dict(re.findall(r'(?m)^__(version|commit|built)__ = "([^"\\]*)"', source.decode()))
    return "clincus {version} (commit: {commit}, built: {built})".format(
        **{"version": "", "commit": "", "built": "", **found}
    )


def own_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """The program, the contract of its API, its licence and the built dashboard."""
    yield "clincus.py", stamped((root / "clincus.py").read_bytes(), *last_commit(root))
    for name in ("LICENSE", "openapi.json"):
        yield name, (root / name).read_bytes()
    for path in (root / "spa_dist").rglob("*"):
        if path.is_file():
            yield path.relative_to(root).as_posix(), path.read_bytes()


def pack(files: dict[str, bytes]) -> bytes:
    """The archive as bytes, with a first line that lets the system run it (PEP 441)."""
    modules = sorted(name for name in files if name.endswith(".py"))
    digest = hashlib.sha256(START.encode())
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    start = START.replace("@BUILD@", digest.hexdigest()[:32]).replace("@MODULES@", repr(modules))
    start = start.replace("@VERSION@", version_line(files["clincus.py"]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted({**files, "__main__.py": start.encode()}.items()):
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.create_system = 3  # Unix
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compresslevel=9)
    return b"#!/usr/bin/env python3\n" + buffer.getvalue()


def write_program(target: Path, data: bytes) -> None:
    """Put the archive in its place, executable, whole or not at all; one that is the same stays untouched."""
    with contextlib.suppress(OSError):
        if target.read_bytes() == data:
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.chmod(0o755)
    os.replace(partial, target)


def build(root: Path = ROOT) -> bytes:
    """The archive of a checkout."""
    files = dict(own_files(root))
    for wheel in find_wheels().values():
        files.update(library_files(wheel))
    return pack(files)


def main() -> int:
    """Build the archive and say what came of it."""
    parser = argparse.ArgumentParser(description="Build clincus.pyz, the whole program in one file.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "clincus.pyz", help="where to write it")
    target: Path = parser.parse_args().output
    data = build()
    write_program(target, data)
    print(f"{target} ({len(data) // 1024} KiB, sha256 {hashlib.sha256(data).hexdigest()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
