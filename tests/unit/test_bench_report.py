"""The results of a bench: how a figure is held against its goal, what a failed part leaves, what the docs say."""

from __future__ import annotations

import json

import pytest

from tests.bench import figures, report
from tests.bench.figures import Part, Results, Row, amount
from tests.bench.measuring import percentile
from tests.table import table

ABOUT = {"commit": "abc1234", "build": "f00d", "cores": 2, "cpu": "a CPU", "kernel": "6", "python": "3.13"}
FIVE = [3.0, 1.0, 2.0, 9.0, 4.0]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A function that begins a run."""
    monkeypatch.setattr(figures, "machine", lambda: {**ABOUT})
    return lambda: Results(tmp_path / "bench.json")


@table(
    ("row", "is_met", "ratio", "goal"),
    [
        (Row("a", "s", 1.2, 1.5, 1.0, "times"), True, "1.20", "at most 1.5 times"),
        (Row("a", "s", 1.6, 1.5, 1.0, "times"), False, "1.60", "at most 1.5 times"),
        (Row("a", "MB/s", 96, 0.95, 100, "times", at_least=True), True, "0.96", "at least 0.95 times"),
        (Row("a", "s", 0.020, 0.010, 0.025, "more"), True, "-5 ms", "at most 10 ms more"),
        (Row("a", "s", 0.2, 0.12, 0.02), False, "10.00", "at most 120 ms"),
        (Row("a", "MB", 3.0), None, "", ""),
    ],
)
def test_a_figure_is_held_against_its_goal(row, is_met, ratio, goal):
    assert row.is_met is is_met
    assert row.cells()[4:] == [ratio, goal, {True: "met", False: "missed", None: ""}[is_met]]


def test_a_figure_that_was_measured_several_times_is_their_median_with_its_spread():
    row = Row.of("a", "MB", FIVE, baselines=[1.0] * 7)
    assert row.cells()[1:4] == ["3 MB", "1 MB to 9 MB (5)", "1 MB"]
    for values, baselines in ((FIVE[:4], FIVE), (FIVE, FIVE[:4])):
        with pytest.raises(ValueError, match="4 times"):
            Row.of("a", "s", values, baselines=baselines)
    assert [percentile(range(100), share) for share in (0.5, 0.99, 1)] == [50, 99, 99]


@table(("value", "words"), [(0.000012, "12 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (0.9999, "1 s")])
def test_a_figure_has_three_digits_and_a_unit_that_fits(value, words):
    assert amount(value, "s") == words
    assert amount(151200, "") == "151,200"


def test_a_part_that_fails_is_written_down_with_its_rows_and_another_run_measures_it_again(results):
    one, done = results(), []

    def fails():
        one.add(Row("half", "s", 1.0))
        raise OSError("no such daemon")

    parts = {"one": lambda: done.append("one"), "two": fails, "three": lambda: done.append("three")}
    figures.run(one, parts, ["one", "two"])
    written = json.loads(one.path.read_text())
    assert written["failed"] == {"two": "OSError: no such daemon"}
    assert written["missing"] == ["two", "three"]
    assert [row.figure for row in figures.read(one.path).parts["two"].rows] == ["half"]
    second = results()
    second.resume()
    figures.run(second, {**parts, "two": lambda: done.append("two")})
    assert done == ["one", "two", "three"]
    assert not figures.read(second.path).missing
    figures.run(second, parts, ["one"])
    assert done[3:] == ["one"], "a part that is named is measured anew"
    with pytest.raises(ValueError, match="unknown: other; the parts are one, two, three"):
        figures.run(second, parts, ["other"])


@table("change", [{"build": "cafe"}, {"build": ""}, {"cpu": "another CPU"}])
def test_figures_of_another_program_or_machine_are_not_taken_over(results, monkeypatch, change):
    figures.run(results(), {"one": lambda: None})
    monkeypatch.setattr(figures, "machine", lambda: {**ABOUT, **change})
    second = results()
    second.resume()
    assert second.parts == {}


def test_the_result_of_a_run_comes_between_the_marks_of_the_pages(tmp_path, results, monkeypatch):
    pages = [tmp_path / "page.md", tmp_path / "load.md"]
    for path, name, mark in zip(pages, ("PAGE", "LOAD_PAGE"), ("table", "load")):
        assert f"<!-- {mark} -->" in getattr(report, name).read_text()
        path.write_text(f"kept\n<!-- {mark} -->\nold\n<!-- end {mark} -->\n")
        monkeypatch.setattr(report, name, path)
    one = results()
    row = Row("`version`", "s", 0.03, 0.01, 0.02, "more", note="of seven")
    begun = {"begun": "2026-11-29 10:00 UTC", "load_before": 0.1}
    one.parts = {"start": Part(rows=[row], **begun), "engines": Part(failed="OSError: no", **begun)}
    one.all = ("start", "engines", "idle")
    one.write()
    monkeypatch.setattr("sys.argv", ["report.py", str(one.path), "--load", str(one.path)])
    for _ in range(2):  # a second time changes nothing
        report.main()
        for path in pages:
            text = path.read_text()
            assert text.count("| `version` | 30 ms |  | 20 ms | +10 ms | at most 10 ms more | met |") == 1
            for words in ("kept", "commit abc1234", "of seven", "`engines` failed: OSError: no", "`idle` was not"):
                assert words in text
            assert "old" not in text
