"""The CPythons of this machine that the archive has to run on."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ("3.9", "3.10", "3.11", "3.12", "3.13")
ABOUT = "import json, platform, sys; print(json.dumps(['.'.join(map(str, sys.version_info[:2])), sys.executable]))"


@functools.cache
def ask(place: Path) -> tuple[str, str] | None:
    """The version of an interpreter and its program, as it tells them itself."""
    if not place.exists():
        return None
    asked = subprocess.run(
        [place, "-I", "-c", ABOUT], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if asked.returncode != 0:
        return None
    version, program = json.loads(asked.stdout)
    return version, program


def places(version: str) -> Iterator[Path]:
    """Where a version may be, the likely ones first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(pyenv.glob(f"{version}[.-]*/bin/python3"))
    yield Path(f"/usr/bin/python{version}")
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    yield Path("/usr/bin/python3")
    yield Path(sys.executable)


def interpreters() -> dict[str, str]:
    """One CPython of each supported version that pyenv or the system has: version -> program.

    Each worker asks anew, so no more than one of a version is asked.
    """
    found: dict[str, str] = {}
    for version in SUPPORTED:
        answers = (ask(place) for place in places(version))
        program = next((answer[1] for answer in answers if answer and answer[0] == version), None)
        if program:
            found[version] = program
    return found


PYTHONS = interpreters()
