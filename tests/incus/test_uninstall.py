"""`clincus uninstall` for real: on an Incus daemon and in a home that are there for it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.incus_bed import unavailable
from tests.programs import ROOT

pytestmark = pytest.mark.day


def test_uninstall_takes_away_what_it_lists_and_leaves_the_project():
    if os.geteuid() != 0:
        unavailable("only root can start a daemon to uninstall from")
    kept = {name: value for name, value in os.environ.items() if name != "INCUS_DIR"}
    command = [sys.executable, "-m", "tests.real_uninstall"]
    ran = subprocess.run(command, env=kept, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    steps = json.loads(ran.stdout.splitlines()[-1])

    assert steps["started"]["code"] == 0, steps["started"]
    assert steps["dry"]["code"] == 0
    before = steps["before"]
    assert (before["instances"], before["images"], before["bridges"]) == (1, 1, 1)
    assert before["folders"] == [".clincus", ".config/clincus", ".cache/clincus"]
    for command in (
        "clincus kill --all",
        "incus image delete",
        "incus network delete",
        "incus storage delete",
        "rm -r",
    ):
        assert command in steps["dry"]["stdout"]

    assert steps["done"]["code"] == 0, steps["done"]["stderr"]
    nothing = {"instances": 0, "images": 0, "storage-pools": 0, "bridges": 0, "devices": [], "folders": []}
    assert steps["after"] == nothing, steps["done"]["stderr"]
    assert steps["project"] == "# app\n"
    left = [line for line in steps["again"]["stdout"].splitlines() if "$ " in line]
    own = ("clincus.pyz", ".cache/clincus")  # what the copy that says so has brought
    assert [line for line in left if not line.endswith(own)] == []
    assert steps["again"]["code"] == 0, steps["again"]["stderr"]
