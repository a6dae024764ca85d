"""The real Codex, Gemini CLI and aider, from npm and PyPI, in a folder that a container gets as ~/.local/bin."""

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

PACKAGES = {"codex": "@openai/codex@0.169.0", "gemini": "@google/gemini-cli@0.61.0", "aider": "aider-chat==0.86.2"}
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


def tool_folder(name: str) -> Path:
    """The folder of a tool. A test that needs it is skipped where it cannot be had, and fails in CI."""
    version = re.split("@|==", PACKAGES[name])[-1]
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
    """Run a program; its output."""
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
    """Scripts for Node."""
    npm_install("gemini", folder)
    node = Path(os.path.realpath(shutil.which("node") or "node"))
    shutil.copy(node, folder / "node")
    copy_libraries([node], folder / "lib")
    write_program(folder / "gemini", GEMINI)


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


FETCH = {"codex": fetch_codex, "gemini": fetch_gemini, "aider": fetch_aider}


def mounts(name: str) -> str:
    """The mounts of a configuration that bring a tool into each container."""
    places = {tool_folder(name): PLACE}
    if name == "aider":
        places[aider_python().parent.parent] = PYTHON_PLACE
    return "".join(
        f'[[mounts.default]]\nhost = "{host}"\ncontainer = "{place}"\nreadonly = true\n'
        for host, place in places.items()
    )
