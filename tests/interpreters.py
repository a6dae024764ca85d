"""The CPythons of this machine that the archive has to run on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SUPPORTED = ("3.9", "3.10", "3.11", "3.12", "3.13")
ABOUT = "import json, platform, sys; print(json.dumps(['.'.join(map(str, sys.version_info[:2])), sys.executable]))"


def interpreters() -> dict[str, str]:
    """One CPython of each supported version that pyenv or the system has: version -> program."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places = [*sorted(pyenv.glob("3.*/bin/python3")), *(Path(f"/usr/bin/python{version}") for version in SUPPORTED)]
    places += [Path(found) for found in (shutil.which(f"python{version}") for version in SUPPORTED) if found]
    found: dict[str, str] = {}
    for place in (*places, Path("/usr/bin/python3"), Path(sys.executable)):
        if not place.exists():
            continue
        asked = subprocess.run(
            [place, "-I", "-c", ABOUT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if asked.returncode == 0:
            version, program = json.loads(asked.stdout)
            found.setdefault(version, program)
    return {version: found[version] for version in SUPPORTED if version in found}


PYTHONS = interpreters()
