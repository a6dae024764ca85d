"""Real tools from npm, PyPI and Debian, each in a folder that a container gets as ~/.local/bin, or elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.incus_bed import image_cache, one_at_a_time
from tests.interpreters import find

PACKAGES = {
    "codex": "@openai/codex@0.169.0",
    "gemini": "@google/gemini-cli@0.61.0",
    "aider": "aider-chat==0.86.2",
    "gh": "gh",  # Debian's
    "curl": "curl",  # the same
    "docker": "docker.io docker-cli containerd runc iptables libxtables12 libnftnl11 libmnl0 libip4tc2 libip6tc2",
}
PLACE = "/home/code/.local/bin"  # of the folder in a container
PYTHON_PLACE = "/opt/python"
LIBC = re.compile(r"/(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util))\.so")  # each image has its own
GEMINI = f"""#!/bin/sh
LD_LIBRARY_PATH={PLACE}/lib exec {PLACE}/node {PLACE}/node_modules/@google/gemini-cli/bundle/gemini.js "$@"
"""
AIDER = f"""#!/bin/sh
export LD_LIBRARY_PATH={PLACE}/lib PYTHONHOME={PYTHON_PLACE} PYTHONPATH={PLACE}/site
exec {PYTHON_PLACE}/bin/PYTHON -m aider "$@"
"""
# These may lie anywhere.
CURL = """#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here/lib exec "$here/program" "$@"
"""
DOCKER = """#!/bin/sh
here=$(dirname "$0")
PATH=$here/bin:$PATH LD_LIBRARY_PATH=$here/lib exec "$here/bin/docker" "$@"
"""


def tool_folder(name: str) -> Path:
    """The folder of a tool. A test that needs it is skipped where it cannot be had, and fails in CI."""
    version = re.split("@|==| ", PACKAGES[name])[-1]
    folder = image_cache() / f"tool-{name}-{version}"
    with one_at_a_time(f"tool-{name}"):
        if not (folder / name).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                FETCH[name](folder)
            except (OSError, subprocess.SubprocessError, StopIteration) as error:
                reason = getattr(error, "stderr", b"") or repr(error)
                (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {name}: {reason!r}")
    return folder


def run(*argv: object) -> str:
    words = [str(word) for word in argv]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=600)
    return done.stdout.decode()


def npm_install(name: str, folder: Path) -> None:
    """Install a package of npm's below a folder."""
    run("npm", "install", "--no-audit", "--no-fund", "--prefix", folder, PACKAGES[name])


def copy_libraries(programs: Iterable[Path], folder: Path) -> None:
    """Copy the shared libraries that programs of this machine need, so that an image needs none of them."""
    folder.mkdir(exist_ok=True)
    for path in set(re.findall(r"=> (/\S+)", run("ldd", *programs))):
        if not LIBC.search(path):
            shutil.copy(path, folder)


def write_program(path: Path, text: str) -> None:
    """Write a shell script. It comes last: its being there says that the folder is complete."""
    path.write_text(text)
    path.chmod(0o755)


def fetch_codex(folder: Path) -> None:
    """One static program."""
    npm_install("codex", folder)
    found = next(path for path in folder.glob("node_modules/@openai/codex-*/vendor/*/bin/codex"))
    os.link(found, folder / "codex")


def fetch_gemini(folder: Path) -> None:
    npm_install("gemini", folder)
    copy_node(folder)
    write_program(folder / "gemini", GEMINI)


def copy_node(folder: Path) -> None:
    """This machine's Node, with what it needs."""
    node = Path(os.path.realpath(shutil.which("node") or "node"))
    shutil.copy(node, folder / "node")
    copy_libraries([node], folder / "lib")


def fetch_gh(folder: Path) -> None:
    """One program, written in Go: this machine's. It is none of this name that a person has put before Debian's."""
    shutil.copy("/usr/bin/gh", folder)


def fetch_curl(folder: Path) -> None:
    """This machine's."""
    shutil.copy("/usr/bin/curl", folder / "program")
    copy_libraries([folder / "program"], folder / "lib")
    write_program(folder / "curl", CURL)


def fetch_docker(folder: Path) -> None:
    """The programs of Debian's packages in `bin`, and their libraries; root in a container runs them with both."""
    unpack = 'cd "$1" && shift && apt-get download "$@" && for one in *.deb; do dpkg -x "$one" all && rm "$one"; done'
    run("sh", "-c", unpack, "sh", folder, *PACKAGES["docker"].split())
    (folder / "bin").mkdir()
    for place in ("usr/bin", "usr/sbin"):
        for program in (folder / "all" / place).glob("*"):
            shutil.move(program, folder / "bin")
    libraries = folder / "lib"
    copy_libraries([folder / "bin" / name for name in ("dockerd", "docker", "runc", "containerd")], libraries)
    for library in (folder / "all/usr/lib/x86_64-linux-gnu").glob("*.so*"):
        shutil.copy(library, libraries)
    shutil.move(folder / "all/usr/lib", folder / "usr-lib")  # iptables looks for its own there
    write_program(folder / "docker", DOCKER)


def fetch_aider(folder: Path) -> None:
    """Modules for the Python of `aider_python`."""
    python = aider_python()
    run(python, "-m", "pip", "install", "--quiet", "--target", folder / "site", PACKAGES["aider"])
    modules = run(python, "-c", "import sysconfig; print(sysconfig.get_path('platstdlib'))").strip()
    copy_libraries([python, *Path(modules, "lib-dynload").glob("*.so")], folder / "lib")
    write_program(folder / "aider", AIDER.replace("PYTHON ", f"{python.name} "))


def aider_python() -> Path:
    """A Python with pip that aider runs on. Raises StopIteration if this machine has none."""
    found = (find(version, own=False) for version in ("3.12", "3.11", "3.10"))
    return Path(os.path.realpath(next(program for program in found if program)))


FETCH = {
    "codex": fetch_codex,
    "gemini": fetch_gemini,
    "aider": fetch_aider,
    "gh": fetch_gh,
    "curl": fetch_curl,
    "docker": fetch_docker,
}


def mounts(name: str, place: str = PLACE) -> str:
    """The mounts of a configuration that bring a tool into each container."""
    places = {tool_folder(name): place}
    if name == "aider":
        places[aider_python().parent.parent] = PYTHON_PLACE
    return "".join(
        f'[[mounts.default]]\nhost = "{host}"\ncontainer = "{place}"\nreadonly = true\n'
        for host, place in places.items()
    )
