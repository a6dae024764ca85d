"""The record of a night."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import build_release
from tests import nightly
from tests.nightly import Night
from tests.outcomes import Outcome
from tests.table import table

GOOD, BAD = Outcome("passed"), Outcome("failed", "assert 1 == 2 | <cc>")
COMMIT = "c" * 40


def text_of(night):
    return "\n".join(nightly.record(night, commit=COMMIT, began=0.0, seconds=600.0, seed=7))


@table(
    "night, result",
    [
        (Night({"a": GOOD}), "passed: 1 passed in 10 min"),
        (Night({"a": GOOD, "b": BAD}), "failed: 1 failed, 1 passed in 10 min"),
        (Night({}), "failed: 0 passed in 10 min"),
        (Night({"a": GOOD}, fault="pytest ended with 2"), "failed: 1 passed in 10 min"),
        (Night({"a": GOOD}, part="-k one"), "a part passed: 1 passed in 10 min"),
    ],
)
def test_a_release_reads_the_commit_and_the_result(night, result):
    assert dict(re.findall(build_release.ROW, text_of(night))) == {"commit": COMMIT, "result": result}


def test_each_failure_is_told_in_a_cell():
    assert "| `b` | assert 1 == 2 \\| &lt;cc> |" in text_of(Night({"b": BAD}))


def test_a_night_goes_on_where_the_last_one_of_its_commit_ended(tmp_path, monkeypatch):
    (tmp_path / "test_small.py").write_text(
        "import os, pathlib, pytest\npytestmark = pytest.mark.nightly\n"
        "def test_seed(): assert os.environ['CLINCUS_TEST_SEED'] == '42'\n"
        f"def test_later(): assert pathlib.Path(r'{tmp_path}/mended').exists()\n"
    )
    monkeypatch.setattr(nightly, "NIGHTS", tmp_path / "nights")
    flags = ["-p", "tests.conftest", f"--rootdir={tmp_path}", str(tmp_path)]
    first = nightly.run(COMMIT, 42, flags)
    assert (first.of("passed").keys(), first.of("failed").keys()) == (
        {"test_small.py::test_seed"},
        {"test_small.py::test_later"},
    )
    (tmp_path / "mended").touch()
    second = nightly.run(COMMIT, 43, flags)
    assert second.is_good, "the test of the seed was not run again"
    assert second.figures == "2 passed"
    assert second.part
    nothing_left = nightly.run(COMMIT, 44, flags)
    assert nothing_left.is_good


def test_the_command_says_the_seed_and_fails_with_its_night(tmp_path):
    argv = [sys.executable, "-m", "tests.nightly", "--record", tmp_path / "night.md", f"--rootdir={tmp_path}", tmp_path]
    environ = {**os.environ, "CLINCUS_TEST_SEED": "42"}
    done = subprocess.run(argv, cwd=nightly.ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, "a night without a test is none"
    assert "the seed of this night: CLINCUS_TEST_SEED=42" in done.stdout
    assert "`CLINCUS_TEST_SEED=42`" in (tmp_path / "night.md").read_text()
