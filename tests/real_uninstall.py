"""Uninstalls Clincus from an Incus daemon and a home that are made for it; prints what was there before and after.

It is a process of its own, since it takes a whole daemon away: `python -m tests.real_uninstall`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import new_workspace
from tests.incus_bed import Bed, own_daemon, passing_home
from tests.programs import program

# Hides what setup has made on this very machine: `uninstall` would take that away, too.
HIDE = '[ ! -d /var/lib/clincus ] || mount -t tmpfs clincus-test /var/lib/clincus; exec "$@"'
APART = ["unshare", "--mount", "--propagation", "private", "sh", "-c", HIDE, "sh"]


def own_program(home: Path) -> list[str]:
    """The command line of Clincus from a copy in the home: `uninstall` removes the archive that it runs from."""
    *python, path = program()
    if not path.endswith(".pyz"):
        return [*python, path]
    copy = home / ".local" / "bin" / "clincus.pyz"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, copy)
    return [*python, str(copy)]


def run(bed: Bed, home: Path, *words: str) -> dict[str, object]:
    """Run a command of Clincus; its exit code and what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLINCUS_", "XDG_"))}
    done = subprocess.run(
        [*(APART if "uninstall" in words else ()), *own_program(home), *words],
        env={**kept, **bed.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=home,
    )
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def state(bed: Bed, home: Path) -> dict[str, object]:
    listed = {name: bed.incus.query(f"/1.0/{name}") or [] for name in ("instances", "images", "storage-pools")}
    bridges = [one["name"] for one in (bed.incus.query("/1.0/networks?recursion=1") or []) if one["managed"]]
    devices = sorted(bed.incus.query("/1.0/profiles/default")["devices"])
    folders = [name for name in (".clincus", ".config/clincus", ".cache/clincus") if (home / name).exists()]
    numbers = {name: len(found) for name, found in listed.items()}
    return {**numbers, "bridges": len(bridges), "devices": devices, "folders": folders}


def main() -> None:
    with own_daemon() as bed, passing_home("clincus-home-") as home:
        home.chmod(0o755)
        workspace = new_workspace(home / "projects" / "app")
        (home / ".cache" / "clincus").mkdir(parents=True)  # a packed program unpacks itself there
        steps = {
            "started": run(bed, home, "shell", "--background", "--tool", "shell", str(workspace)),
            "configured": run(bed, home, "config", "set", "dashboard.port", "3999"),
            "dry": run(bed, home, "uninstall", "--dry-run"),
            "before": state(bed, home),
            "done": run(bed, home, "uninstall", "--yes"),
            "after": state(bed, home),
            "again": run(bed, home, "uninstall", "--dry-run"),
            "project": (workspace / "README.md").read_text(),
        }
    json.dump(steps, sys.stdout)


if __name__ == "__main__":
    main()
