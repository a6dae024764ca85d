"""What a second run of failed tests decides, and what a run writes down of each test."""

from __future__ import annotations

import subprocess
import sys

from tests import outcomes, second_chance
from tests.outcomes import Outcome
from tests.table import table

MANY = {f"test_{number}": "" for number in range(second_chance.MOST_UNSTEADY + 1)}


@table(
    "first, twice, code",
    [({}, {}, 0), ({"a": "chance"}, {}, 0), ({"a": "", "b": "why"}, {"b": "why"}, 1), (MANY, {}, 1)],
)
def test_only_what_fails_twice_or_much_that_fails_by_chance_fails_a_run(first, twice, code):
    found, lines = second_chance.verdict(first, twice)
    assert found == code
    assert sum(line.startswith("unsteady: ") for line in lines) == len(first) - len(twice)


TESTS = """
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2
def test_left_out(): pytest.skip("this kernel has no need")

@pytest.fixture
def breaks():
    yield
    raise ValueError("at the end")

def test_whose_end_fails(breaks): pass
"""


def test_the_outcome_of_each_test_is_written_down_and_what_passed_is_left_out_next_time(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "passed.txt").write_text("")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"--rootdir={tmp_path}",
        "--confcutdir=tests",
        "-p",
        "tests.conftest",
    ]
    command += [f"--skip-passed={tmp_path / 'passed.txt'}", f"{tmp_path}"]

    def run(record):
        subprocess.run([*command, "-m", "", f"--outcomes={record}"], capture_output=True, check=False, timeout=120)
        return outcomes.read(record)

    assert run(tmp_path / "1") == {
        "test_some.py::test_good": Outcome("passed"),
        "test_some.py::test_bad": Outcome("failed", "assert 1 == 2"),
        "test_some.py::test_left_out": Outcome("skipped", "Skipped: this kernel has no need"),
        "test_some.py::test_whose_end_fails": Outcome("failed", "ValueError: at the end"),
    }
    (tmp_path / "passed.txt").write_text("test_some.py::test_good\n")
    assert "test_some.py::test_good" not in run(tmp_path / "2")


def test_a_later_run_counts_more_than_an_earlier_one(tmp_path):
    (tmp_path / "1").write_text('{"test": "a", "word": "failed", "reason": "x"}\n')
    (tmp_path / "2").write_text('{"test": "a", "word": "passed", "reason": ""}\n')
    assert outcomes.read(tmp_path / "1", tmp_path / "2") == {"a": Outcome("passed")}
