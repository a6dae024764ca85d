"""What is skipped in CI."""

import os
import subprocess
import sys

from tests.programs import ROOT

SKIPS = """
import pytest
@pytest.mark.skip("only root can act as another user")
def test_that_needs_root(): pass
def test_that_needs_a_program(): pytest.skip("no C compiler")
def test_of_a_kind_of_machine(): pytest.skip("this kernel has no AF_VSOCK")
"""


def test_nothing_is_skipped_in_ci_but_for_the_kind_of_machine(tmp_path):
    (tmp_path / "test_it.py").write_text(SKIPS)
    options = ["-q", "-m", "", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path], env={**os.environ, "CI": "true"}, cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    told = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("ERROR ", "FAILED "))]
    assert told == ["ERROR test_it.py::test_that_needs_root", "FAILED test_it.py::test_that_needs_a_program"]
    assert "this kernel has no AF_VSOCK" in done.stdout
