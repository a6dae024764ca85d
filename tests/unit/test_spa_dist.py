"""spa_dist/ is what spa/ builds, byte for byte, with nothing but what the lock file names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*command: str, cwd: Path) -> None:
    """Run a program, and fail with what it said."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"


def test_the_committed_build_is_what_the_source_builds(tmp_path):
    """A clean install, once for each lock file, and a build give the very files that are committed."""
    if not shutil.which("npm"):
        if os.environ.get("CI") == "true":
            pytest.fail("needs npm")
        pytest.skip("needs npm; `make spa-test` installs it")
    run("make", "spa/node_modules/.ready", cwd=ROOT)
    run("npm", "run", "build", "--", "--outDir", str(tmp_path / "spa_dist"), cwd=ROOT / "spa")
    built, committed = files(tmp_path / "spa_dist"), files(ROOT / "spa_dist")
    differ = [name for name in built if name in committed and built[name] != committed[name]]
    assert (sorted(built), differ) == (sorted(committed), []), "run `make spa` and commit spa_dist/"


def test_the_lock_file_names_no_download_address():
    """Whoever installs it uses a registry of their own."""
    packages = json.loads((ROOT / "spa" / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline():
    """What the content security policy demands of index.html."""
    page = (ROOT / "spa_dist" / "index.html").read_text()
    assert "://" not in page.replace("http://www.w3.org", "")
    assert all('src="/' in part.split(">")[0] for part in page.split("<script")[1:])
