"""The record of a night."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import build_release
from tests import nightly
from tests.table import table

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.incus.test_cluster" name="test_moves[a|b]"/>
<testcase classname="tests.unit.test_x" name="test_fails"><failure message="assert 1 == 2&#10;more | of it"/></testcase>
<testcase classname="tests.unit.test_x" name="test_breaks"><error message=""/></testcase>
<testcase classname="tests.unit.test_x" name="test_skips"><skipped message="no &lt;cc&gt;"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def night(tmp_path):
    """A night with a failure, an error and a skip."""
    (tmp_path / "report.xml").write_text(REPORT)
    return nightly.read_report(tmp_path / "report.xml")


def text_of(night, commit="c" * 40):
    return "\n".join(nightly.record(night, commit=commit, began=0.0, seconds=600.0, seed=7))


def test_what_failed_and_what_was_skipped_is_told(night):
    assert night.figures == "2 failed, 1 passed, 1 skipped"
    text = text_of(night)
    assert "| `tests/unit/test_x.py::test_fails` | assert 1 == 2 |" in text
    assert "| `tests/unit/test_x.py::test_breaks` | no reason told |" in text
    assert "| `tests/unit/test_x.py::test_skips` | no &lt;cc> |" in text
    assert "| result | failed: 2 failed, 1 passed, 1 skipped in 10 min |" in text
    assert "| seed | `CLINCUS_TEST_SEED=7` |" in text


@table(("good", "word"), [(nightly.Night(passed=3), "passed"), (nightly.Night(), "failed")])
def test_a_release_reads_the_commit_and_the_result(good, word):
    rows = dict(re.findall(build_release.ROW, text_of(good)))
    assert rows["commit"] == "c" * 40
    assert rows["result"].startswith(word), "a night in which nothing ran is none"


@table("outcome", [{"passed": 1}, {"failed": {"a": "b"}}])
def test_no_release_takes_a_part_of_a_night(outcome):
    rows = dict(re.findall(build_release.ROW, text_of(nightly.Night(part="-k one", **outcome))))
    assert not rows["result"].startswith("passed")
    assert "| only | `-k one` |" in text_of(nightly.Night(part="-k one", **outcome))


@table("code", [2, 3, 5])
def test_a_night_that_was_cut_short_has_failed(monkeypatch, code):
    def ends(argv, **_):
        return subprocess.CompletedProcess(argv, code)

    monkeypatch.setattr(nightly.subprocess, "run", ends)
    night = nightly.run(7, ["--numprocesses=4"])
    assert (night.is_good, night.part) == (False, "")
    assert f"ended with {code}" in night.failed["pytest"]


@table(("outcome", "code"), [("pass", 0), ("assert False", 1)])
def test_a_night_is_run_by_its_seed_and_written_down(tmp_path, outcome, code):
    test = tmp_path / "test_small.py"
    test.write_text(
        "import os, pytest\n@pytest.mark.nightly\ndef test_one():\n"
        f"    assert os.environ['CLINCUS_TEST_SEED'] == '42'\n    {outcome}\n"
    )
    argv = [sys.executable, "-m", "tests.nightly", "--record", tmp_path / "night.md", f"--rootdir={tmp_path}", test]
    environ = {**os.environ, "CLINCUS_TEST_SEED": "42"}
    done = subprocess.run(argv, cwd=nightly.ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "the seed of this night: CLINCUS_TEST_SEED=42" in done.stdout
    text = (tmp_path / "night.md").read_text()
    assert "`CLINCUS_TEST_SEED=42`" in text
    assert f"| only | `--rootdir={tmp_path} {test}` |" in text
