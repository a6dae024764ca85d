"""The record of a night."""

from __future__ import annotations

import re
import subprocess

import build_release
from tests import nightly
from tests.table import table

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.incus.test_cluster" name="test_moves[a|b]"/>
<testcase classname="tests.unit.test_x" name="test_fails"><failure message="assert 1 == 2&#10;more | of it"/></testcase>
<testcase classname="tests.unit.test_x" name="test_breaks"><error message=""/></testcase>
<testcase classname="tests.unit.test_x" name="test_skips"><skipped message="no &lt;cc&gt;"/></testcase>
</testsuite></testsuites>"""


def text_of(night, commit="c" * 40):
    return "\n".join(nightly.record(night, commit=commit, began=0.0, seconds=600.0, seed=7))


def test_what_failed_and_what_was_skipped_is_told(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    night = nightly.read_report(tmp_path / "report.xml")
    assert night.figures == "2 failed, 1 passed, 1 skipped"
    text = text_of(night)
    assert "| `tests/unit/test_x.py::test_fails` | assert 1 == 2 |" in text
    assert "| `tests/unit/test_x.py::test_skips` | no &lt;cc> |" in text
    assert "| seed | `CLINCUS_TEST_SEED=7` |" in text


@table(
    ("night", "word"),
    [
        (nightly.Night(passed=3), "passed"),
        (nightly.Night(), "failed"),  # a night in which nothing ran is none
        (nightly.Night(part="-k one", passed=1), "a part"),
    ],
)
def test_a_release_reads_the_commit_and_the_result(night, word):
    rows = dict(re.findall(build_release.ROW, text_of(night)))
    assert rows["commit"] == "c" * 40
    assert rows["result"].startswith(word)


def test_a_night_that_was_cut_short_has_failed(monkeypatch):
    monkeypatch.setattr(nightly.subprocess, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 3))
    assert not nightly.run(7, ["--numprocesses=4"]).is_good
