"""The report of a bench: how a figure is held against its goal, and what comes into docs/performance.md."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict

import pytest

from tests.bench import report
from tests.bench.measuring import Row, Series, amount, percentile

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("row", "is_met", "ratio", "goal"),
    [
        (Row("a", "s", 1.2, 1.5, 1.0, "times"), True, "1.20", "at most 1.5 times"),
        (Row("a", "s", 1.6, 1.5, 1.0, "times"), False, "1.60", "at most 1.5 times"),
        (Row("a", "MB/s", 96, 0.95, 100, "times", at_least=True), True, "0.96", "at least 0.95 times"),
        (Row("a", "s", 0.030, 0.010, 0.025, "more"), True, "+5 ms", "at most 10 ms more"),
        (Row("a", "s", 0.020, 0.010, 0.025, "more"), True, "-5 ms", "at most 10 ms more"),
        (Row("a", "s", 0.2, 0.12, 0.02), False, "10.00", "at most 120 ms"),
        (Row("a", "MB", 3.0), None, "", ""),
        (Row("a", "", 3, 0, 3, "more"), True, "+0", "at most 0 more"),
    ],
)
def test_a_figure_is_held_against_its_goal(row, is_met, ratio, goal):
    assert row.is_met is is_met
    assert row.cells()[3:] == [ratio, goal, {True: "met", False: "missed", None: ""}[is_met]]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [(0.000012, "s", "12 µs"), (0.0123, "s", "12.3 ms"), (1.5, "s", "1.5 s"), (151200, "", "151,200"), (7, "", "7")],
)
def test_a_figure_has_three_digits_and_a_unit_that_fits(value, unit, words):
    assert amount(value, unit) == words


def test_a_percentile_is_a_value_that_was_measured():
    assert [percentile(range(100), share) for share in (0.5, 0.99, 1)] == [50, 99, 99]


@pytest.mark.parametrize("highest", [0.0004, 0.9, 1, 20, 37, 101])
def test_the_scale_of_a_plot_ends_above_the_highest_point(highest):
    marks = report.ticks(highest)
    assert marks[0] == 0
    assert marks[-1] >= highest > marks[-2]
    assert 3 <= len(marks) <= 7


def test_a_plot_shows_each_point_of_the_figure_and_of_its_floor():
    series = Series("list", "a <title>", "s", points=[(100, 0.002), (1, 0.001)], baseline=[(1, 0.0005), (100, 0.0005)])
    picture = ET.fromstring(report.plot(series))
    places = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in picture.iter(f"{SVG}circle")]
    baseline, ours = places[:2], places[2:]
    assert ours[0][0] < ours[1][0], "from few to many"
    assert ours[1][1] < ours[0][1] < baseline[0][1], "more is higher"
    assert baseline[0][1] == baseline[1][1]
    assert "a <title>" in [text.text for text in picture.iter(f"{SVG}text")]


def test_the_result_of_a_run_comes_between_the_marks_of_the_page(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text(report.PAGE.read_text())
    about = {"begun": "today", "seconds": 9, "cores": 2, "cpu": "a CPU", "kernel": "6", "python": "3.13"}
    about |= {"load_before": 0.1, "load_after": 0.9}
    rows = [asdict(Row("`version`", "s", 0.03, 0.01, 0.02, "more", note="of seven"))]
    series = [asdict(Series("list", "the list", "s", points=[(1, 1.0), (2, 2.0)]))]
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"about": about, "rows": rows, "series": series}))
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["report.py", str(result), "--load", str(result)])
    report.main()
    text = page.read_text()
    assert text.count("| `version` | 30 ms | 20 ms | +10 ms | at most 10 ms more | met |") == 2
    assert "- `version`: of seven." in text
    assert ET.parse(tmp_path / "performance-list.svg").getroot().tag == f"{SVG}svg"
    report.main()
    assert page.read_text() == text, "a second time changes nothing"


def test_the_page_shows_only_pictures_that_there_are():
    names = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report.PAGE.read_text())
    assert [name for name in names if not (report.PAGE.parent / name).exists()] == []


def test_a_load_goes_into_the_page_without_another_run(tmp_path, monkeypatch):
    page, result = tmp_path / "performance.md", tmp_path / "load.json"
    page.write_text("<!-- table -->\nkept\n<!-- end table -->\n<!-- load -->\nold\n<!-- end load -->\n")
    about = dict.fromkeys(("begun", "seconds", "cores", "cpu", "kernel", "python", "load_before", "load_after"), "x")
    result.write_text(json.dumps({"about": about, "rows": [asdict(Row("lost", "", 0, 0))], "series": []}))
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["report.py", "--load", str(result)])
    report.main()
    assert "kept" in page.read_text()
    assert "| lost | 0 |" in page.read_text()
    assert "old" not in page.read_text()
