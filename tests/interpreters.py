"""The CPythons that the archive has to run on.

    python3 -m tests.interpreters    brings those that this machine lacks, from releases of Debian and Ubuntu

Those of pyenv and of the system come first. A version that a machine cannot have is named in the summary of a run.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.incus_bed import image_cache

SUITES = {  # a release that has the version; no release of Debian has 3.10 or 3.12
    "3.9": "bullseye",
    "3.10": "jammy",
    "3.11": "bookworm",
    "3.12": "noble",
    "3.13": "trixie",
    "3.14": "forky",
    "3.15": "forky",
}
UBUNTU = ("jammy", "noble")
ABOUT = "import ssl, sys, termios; print('.'.join(map(str, sys.version_info[:2])))"


@functools.cache
def ask(place: Path) -> str:
    """The version of an interpreter, as it tells itself; "" if there is none that runs."""
    if not place.exists():
        return ""
    argv = [place, "-I", "-c", ABOUT]
    try:
        asked = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()


def own_folder(version: str) -> Path:
    """Where `bring` puts a version."""
    return image_cache() / "pythons" / version


def machine_places(version: str) -> Iterator[Path]:
    """Where this machine may have a version, the likely places first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(pyenv.glob(f"{version}[.-]*/bin/python3"))
    yield Path(f"/usr/bin/python{version}")
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    yield Path("/usr/bin/python3")
    yield Path(sys.executable)


def find(version: str, *, own: bool = True) -> str | None:
    """The program of a version, from this machine or, with `own`, from what `bring` brought."""
    places = [*machine_places(version), *([own_folder(version) / "python"] if own else [])]
    return next((str(place) for place in places if ask(place) == version), None)


def interpreters() -> dict[str, str]:
    """One CPython of each supported version that is there: version -> program.

    Each worker asks anew, so no more than one of a version is asked.
    """
    found = {version: find(version) for version in SUITES}
    return {version: program for version, program in found.items() if program}


def missing(found: dict[str, str]) -> list[str]:
    """The versions that this machine lacks."""
    return [version for version in SUITES if version not in found]


def mirror() -> str:
    """The address that this machine takes Debian's packages from. Raises LookupError where it takes none."""
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    try:
        answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        answer = None
    addresses = answer.stdout.split() if answer else []
    if not addresses:
        raise LookupError("apt has no source of Debian's packages on this machine")
    return addresses[0]


def bring(version: str) -> None:
    """Unpack a distribution's Python into the cache, with a program `python` that runs it.

    mmdebstrap knows where Ubuntu's releases are, and the package ubuntu-keyring has their keys. Raises LookupError, or
    CalledProcessError with mmdebstrap's output.
    """
    suite = SUITES[version]
    folder = own_folder(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = folder / "root"
    # The list of a release that is being made is valid for a week, and a mirror may be older.
    argv = ["mmdebstrap", "--quiet", "--variant=extract", f"--include=python{version}"]
    argv += ["--aptopt=Acquire::Check-Valid-Until false", suite, str(root)]
    if suite not in UBUNTU:
        argv.append(f"deb {mirror()} {suite} main")
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=600)
    program = root / "usr" / "bin" / "python"  # Python finds its modules by its place
    program.write_text(f'#!/bin/sh\n{start_line(root, folder, version)} "$@"\n')
    program.chmod(0o755)
    (folder / "python").symlink_to(program)


def start_line(root: Path, folder: Path, version: str) -> str:
    """The command line that runs an unpacked Python: with this machine's C library, or its own where that is newer.

    What the Python starts is a program of this machine, and sees none of its libraries that this machine has.
    """
    python = root / "usr" / "bin" / f"python{version}"
    programs = [python, *root.glob("usr/lib/python3*/lib-dynload/*.so")]
    libraries = folder / "lib"
    libraries.mkdir()
    if "version `GLIBC_" not in linked(programs, libraries):
        bring_libraries(root, programs, libraries)
        return f"LD_LIBRARY_PATH={shlex.quote(str(libraries))} exec {shlex.quote(str(python))}"
    loader = next(root.glob("usr/lib/*/ld-linux-*"), None)
    if loader is None:
        raise LookupError("its C library has no loader for this machine")
    argv = [str(loader), "--library-path", str(loader.parent), "--argv0", str(python.with_name("python")), str(python)]
    return shlex.join(["exec", *argv])


def linked(programs: list[Path], folder: Path) -> str:
    """What ldd says of programs, with a folder of libraries more."""
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    argv = ["ldd", *map(str, programs)]
    told = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    return told.stdout + told.stderr


def bring_libraries(root: Path, programs: list[Path], folder: Path) -> None:
    """Copy those libraries that this machine lacks."""
    while True:
        names = re.findall(r"(?m)^\s*(\S+) => not found", linked(programs, folder))
        new = [path for name in sorted(set(names)) for path in list(root.glob(f"**/{name}"))[:1]]
        if not new:
            return
        for path in new:
            shutil.copy(path, folder / path.name)
        programs = [*programs, *(folder / path.name for path in new)]


def main() -> int:
    """Bring what is missing. A version that cannot be had is said, and is no failure: the tests name it too."""
    for version in missing(PYTHONS):
        print(f"installing Python {version} from {SUITES[version]} for the tests", flush=True)
        try:
            bring(version)
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or ""
            print(f"Python {version} could not be installed: {error}\n{said[-2000:]}", file=sys.stderr)
    return 0


PYTHONS = interpreters()

if __name__ == "__main__":
    sys.exit(main())
