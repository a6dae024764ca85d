"""The results of a bench: how a figure is held against its goal, what a failed part leaves, what the docs say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from tests.bench import bench_server, figures, report
from tests.bench.figures import Part, Results, Row, Run, Series, amount
from tests.bench.measuring import percentile
from tests.table import table

SVG = "{http://www.w3.org/2000/svg}"
ABOUT = {
    "commit": "abc1234",
    "build": "f00d",
    "cores": 2,
    "cpu": "a CPU",
    "kernel": "6",
    "python": "3.13",
    "incus": "6.0",
}
FIVE = [3.0, 1.0, 2.0, 9.0, 4.0]


def series(**more):
    return Series("terminal-echo", "a <title>", "s", "time from key to echo", "open terminals", **more)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "machine", lambda: {**ABOUT})
    return lambda: Results(tmp_path / "bench.json")


# -- A row


@table(
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
    assert row.cells()[4:] == [ratio, goal, {True: "met", False: "missed", None: ""}[is_met]]


def test_a_figure_that_was_measured_several_times_is_their_median_with_its_spread():
    row = Row.of("a", "MB", FIVE, baselines=[1.0] * 7)
    assert row.cells()[1:4] == ["3 MB", "1 MB to 9 MB (5)", "1 MB"]


@table(("values", "baselines"), [(FIVE[:4], FIVE), (FIVE, FIVE[:4])])
def test_fewer_than_five_measurements_are_no_median(values, baselines):
    with pytest.raises(ValueError, match="4 times"):
        Row.of("a", "s", values, baselines=baselines)


@table(
    ("value", "unit", "words"),
    [
        (0.000012, "s", "12 µs"),
        (0.0123, "s", "12.3 ms"),
        (1.5, "s", "1.5 s"),
        (0.9999, "s", "1 s"),
        (151200, "", "151,200"),
        (7, "", "7"),
    ],
)
def test_a_figure_has_three_digits_and_a_unit_that_fits(value, unit, words):
    assert amount(value, unit) == words


def test_a_percentile_is_a_value_that_was_measured():
    assert [percentile(range(100), share) for share in (0.5, 0.99, 1)] == [50, 99, 99]


# -- The parts of a run


def measures(results, name, **more):
    return lambda: results.add(Row(name, "s", 1.0, **more))


def fails(*_):
    raise OSError("no such daemon")


def test_a_part_that_fails_is_written_down_and_the_others_go_on(results):
    one = results()
    figures.run(one, {"first": fails, "second": measures(one, "a")})
    written = json.loads(one.path.read_text())
    assert written["failed"] == {"first": "OSError: no such daemon"}
    assert written["missing"] == ["first"]
    assert [row["figure"] for row in written["parts"]["second"]["rows"]] == ["a"]


def test_a_part_that_fails_half_way_keeps_the_points_before_and_gets_none_after(results):
    one = results()
    grown = series()

    def work():
        one.add_series(grown)
        grown.points.append((1, FIVE))
        fails()

    figures.run(one, {"growth": work})
    read = figures.read(one.path).parts["growth"]
    assert [count for count, _ in read.series[0].points] == [1]
    assert read.failed


def test_each_part_is_on_the_disk_before_the_next_one_begins(results):
    one = results()
    seen = []
    figures.run(one, {"first": measures(one, "a"), "second": lambda: seen.append(figures.read(one.path).missing)})
    assert seen == [["second"]]


def test_another_run_measures_what_is_missing_or_has_failed(results):
    first, done = results(), []
    parts = {"one": lambda: done.append("one"), "two": fails, "three": lambda: done.append("three")}
    figures.run(first, parts, ["one", "two"])
    second = results()
    second.resume()
    figures.run(second, {**parts, "two": lambda: done.append("two")})
    assert done == ["one", "two", "three"]
    assert not figures.read(second.path).missing


def test_a_part_that_is_named_is_measured_anew(results):
    one, done = results(), []
    parts = {"one": lambda: done.append("one"), "two": fails}
    figures.run(one, parts, ["one"])
    figures.run(one, parts, ["one"])
    assert done == ["one", "one"]


@pytest.mark.parametrize("change", [{"build": "cafe"}, {"build": ""}, {"cpu": "another CPU"}, {"python": "3.9"}])
def test_figures_of_another_program_or_machine_are_not_taken_over(results, monkeypatch, change):
    first = results()
    figures.run(first, {"one": measures(first, "a")})
    monkeypatch.setattr(figures, "machine", lambda: {**ABOUT, **change})
    second = results()
    second.resume()
    assert second.parts == {}


def test_a_checkout_may_have_changed_since_and_is_measured_anew(results, monkeypatch):
    monkeypatch.setattr(figures, "machine", lambda: {**ABOUT, "build": ""})
    first = results()
    figures.run(first, {"one": measures(first, "a")})
    second = results()
    second.resume()
    assert second.parts == {}


def test_an_unknown_part_is_refused_with_the_names_of_all(results):
    with pytest.raises(ValueError, match="unknown: other; the parts are one, two"):
        figures.run(results(), {"one": fails, "two": fails}, ["other"])


def test_a_row_names_the_sessions_that_were_listed_not_those_that_were_asked_for(results, monkeypatch):
    """50 that were asked for were 22 once, and the page said 50."""
    listed = SimpleNamespace(json=[{"id": str(number)} for number in range(22)], body=b"[]")
    server = SimpleNamespace(get=lambda _: listed, process=SimpleNamespace(pid=1))
    made = SimpleNamespace(sessions=lambda _: [], server=lambda: figures.contextlib.nullcontext(server))
    monkeypatch.setattr(bench_server, "settle", lambda _: None)
    monkeypatch.setattr(bench_server, "listing", lambda _: (FIVE, FIVE, 2))
    monkeypatch.setattr(bench_server, "several", lambda _: FIVE)
    one = results()
    figures.run(one, {"many": lambda: bench_server.many(made, one, [50])})
    assert [row.figure for row in one.parts["many"].rows] == [
        "GET /api/sessions p50, 22 sessions",
        "memory of the server, 22 sessions",
    ]


# -- A plot


@table("highest", [0.0004, 0.9, 1, 20, 37, 101])
def test_the_scale_of_a_plot_ends_above_the_highest_point(highest):
    marks = report.ticks(highest)
    assert marks[0] == 0
    assert marks[-1] >= highest > marks[-2]
    assert 3 <= len(marks) <= 7


def test_a_plot_shows_each_median_of_the_figure_and_of_its_baseline():
    points = [(100, [0.002] * 5), (1, [0.001, 0.001, 0.001, 0.009, 0.0])]
    picture = ET.fromstring(report.plot(series(points=points, baseline=[(1, [0.0005]), (100, [0.0005])]), "today"))
    places = {
        kind: [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in picture.iter(f"{SVG}circle")
               if dot.get("class") == kind] for kind in ("ours", "base")
    }  # fmt: skip
    (few, low), (many, high) = places["ours"]
    assert few < many
    assert high < low < places["base"][0][1], "more is higher"
    bars = [bar for bar in picture.iter(f"{SVG}line") if bar.get("class") == "ours"]
    assert len(bars) == len(points)
    assert any(float(bar.get("y1", "")) > low > float(bar.get("y2", "")) for bar in bars), "from lowest to highest"


def test_a_plot_says_what_it_shows_in_which_units_when_and_where():
    made = report.plot(
        series(points=[(1, FIVE), (9, FIVE)], baseline=[(1, FIVE)], base="without the server"), "today, commit abc1234"
    )
    picture = ET.fromstring(made)
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    for words in ("a <title>", "time from key to echo", "open terminals", "Clincus", "without the server"):
        assert words in texts
    assert "today, commit abc1234" in texts
    assert any("5 measurements" in str(text) for text in texts)
    assert picture.findtext(f"{SVG}title") == "a <title>"
    assert "3 s at 9" in picture.findtext(f"{SVG}desc", "")


def test_a_plot_is_drawn_in_the_colours_of_both_themes():
    made = report.plot(series(points=[(1, FIVE), (9, FIVE)], baseline=[(1, FIVE)]), "today")
    light, dark = report.STYLE.split("@media (prefers-color-scheme: dark)")
    used = set(re.findall(r'class="(\w+)', made)) - {"line"}
    assert used == {"ground", "ink", "faint", "grid", "ours", "base"}
    for name in used:
        assert f".{name} {{" in light
        assert f".{name} {{" in dark
    assert not re.search(r'(fill|stroke)="#', made), "a colour that no theme changes"


# -- The page


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "docs" / "performance.md"
    path.parent.mkdir()
    path.write_text(report.PAGE.read_text())
    monkeypatch.setattr(report, "PAGE", path)
    load_path = tmp_path / "docs" / "dev" / "performance.md"
    load_path.parent.mkdir()
    load_path.write_text(report.LOAD_PAGE.read_text())
    monkeypatch.setattr(report, "LOAD_PAGE", load_path)
    return path


def made_run() -> Run:
    row = Row("`version`", "s", 0.03, 0.01, 0.02, "more", note="of seven")
    grown = series(points=[(1, FIVE), (9, FIVE)])
    start = Part(begun="2026-11-29 10:00 UTC", seconds=9, load_before=0.1, rows=[row], series=[grown])
    return Run(ABOUT, {"start": start, "engines": Part(begun="2026-11-29 10:01 UTC", failed="OSError: no")}, ["idle"])


def put(results, monkeypatch, *words):
    one = results()
    run = made_run()
    one.parts = run.parts
    one.all = ("start", "engines", "idle")
    one.write()
    monkeypatch.setattr("sys.argv", ["report.py", *(word.replace("RESULT", str(one.path)) for word in words)])
    report.main()


def test_the_result_of_a_run_comes_between_the_marks_of_the_page(page, results, monkeypatch):
    put(results, monkeypatch, "RESULT", "--load", "RESULT")
    text = page.read_text()
    row = "| `version` | 30 ms |  | 20 ms | +10 ms | at most 10 ms more | met |"
    assert text.count(row) == 1
    assert report.LOAD_PAGE.read_text().count(row) == 1
    assert "- `version`: of seven." in text
    assert "commit abc1234" in text
    assert [path.name for path in page.parent.glob("*.svg")] == ["performance-terminal-echo.svg"]
    report.main()
    assert page.read_text() == text, "a second time changes nothing"


def test_the_page_says_what_failed_and_what_was_not_measured(page, results, monkeypatch):
    put(results, monkeypatch, "RESULT")
    assert "- The part `engines` failed: OSError: no" in page.read_text()
    assert "- The part `idle` was not measured." in page.read_text()


def test_the_page_shows_the_pictures_that_there_are_and_no_others():
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report.PAGE.read_text())
    assert sorted(shown) == sorted(path.name for path in report.PAGE.parent.glob("performance-*.svg"))


def test_a_load_goes_into_its_page_without_another_run(page, results, monkeypatch):
    before = page.read_text()
    report.LOAD_PAGE.write_text("kept\n<!-- load -->\nold\n<!-- end load -->\n")
    put(results, monkeypatch, "--load", "RESULT")
    assert page.read_text() == before
    assert "kept" in report.LOAD_PAGE.read_text()
    assert "| `version` | 30 ms |" in report.LOAD_PAGE.read_text()
    assert "old" not in report.LOAD_PAGE.read_text()
