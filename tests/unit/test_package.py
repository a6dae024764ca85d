"""What `pip install .` installs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def test_a_pip_install_has_the_command_the_contract_and_the_dashboard(tmp_path: Path):
    venv = [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"]  # ours installs there, too
    subprocess.run(venv, stdin=subprocess.DEVNULL, check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    install = [*pip, "install", "--quiet", "--no-compile", ROOT]
    subprocess.run(install, stdin=subprocess.DEVNULL, check=True, timeout=240)
    version = subprocess.run([python.with_name("clincus"), "version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("clincus ")
    script = (
        "import clincus; print(clincus.load_contract()['openapi'], "
        "clincus.packaged_file('spa_dist/index.html')[:9], clincus.guest_program('shell')[:9])"
        "; clincus.protect.program('places'); print('/run/clincus' in clincus.packaged_text('wall/hook.py'))"
    )
    (site,) = (tmp_path / "venv" / "lib").glob("python3.*/site-packages")
    assert not (site / "wall").exists(), "a name that others may use"
    (site / "wall").mkdir()
    for name in ("hook.py", "places.py", "protect.py"):
        (site / "wall" / name).write_text("raise SystemExit('the module of another package')")
    found = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "3.1.0 b'<!doctype' #!/bin/sh\nTrue\n"
    installed = {path.stem.split("-")[0] for path in site.glob("*clincus*")}
    assert installed == {"clincus", "clincus_cli", "clincus_features", "clincus_wall"}
    assert not (site / "spa_dist").exists(), "a name that others may use"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements-dev.txt").read_text()


def test_what_is_asked_for_is_locked_by_its_hash_and_no_host():
    for wanted in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]):
        requirement = Requirement(wanted)
        locked = rf"(?m)^{re.escape(requirement.name)}==([\w.]+)[^\n]*\\\n    --hash=sha256:[0-9a-f]{{64}}"
        found = re.search(locked, LOCK)
        assert found, f"{wanted}: run `make lock`"
        assert requirement.specifier.contains(found.group(1)), f"{wanted}: run `make lock`"
    assert "://" not in LOCK
