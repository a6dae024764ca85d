"""Put the result of a run into docs/performance.md: its table, and the plots beside it.

    python -m tests.bench.report [dist/bench.json] [--load dist/load.json]

The load goes into docs/dev/performance.md.

What stands between the marks `<!-- NAME -->` and `<!-- end NAME -->` is written anew, and nothing else.
"""

from __future__ import annotations

import argparse
import html
import math
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench import figures
from tests.bench.figures import Row, Run, Series, amount
from tests.programs import ROOT

PAGE = ROOT / "docs" / "performance.md"
LOAD_PAGE = ROOT / "docs" / "dev" / "performance.md"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 680, 380, 84, 20, 64, 82
LEGEND = 42  # from the top
# The page's reader may have a dark theme; a picture in an <img> follows that of the system.
STYLE = """
.ground { fill: #fff } .ink { fill: #30343b } .faint { fill: #5c636e } .grid { stroke: #e4e6ea }
.ours { fill: #0a7d5a; stroke: #0a7d5a } .base { fill: #8a6d1d; stroke: #8a6d1d }
.line { fill: none; stroke-width: 2 } .base.line { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
.ground { fill: #16181d } .ink { fill: #e3e6eb } .faint { fill: #a3abb8 } .grid { stroke: #31353d }
.ours { fill: #4cc79a; stroke: #4cc79a } .base { fill: #d8b04a; stroke: #d8b04a }
}
""".strip()
END, MIDDLE = 'class="ink" text-anchor="end"', 'class="ink" text-anchor="middle"'
FAINT = 'class="faint" font-size="10"'
Points = Sequence[tuple[float, Sequence[float]]]


# -- A plot


def ticks(highest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to what is not below the highest."""
    raw = highest / count or 1.0
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw)
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def plot(series: Series, source: str) -> str:
    """An SVG of how a figure grows, with its baseline: medians, and bars from the lowest to the highest measurement.

    `source` says where and when they were taken.
    """
    every = [*series.points, *series.baseline]
    across, up = ticks(max(x for x, _ in every)), ticks(max(max(values) for _, values in every))
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / across[-1] * (right - LEFT), low - y / up[-1] * (low - TOP)

    def line(points: Points, kind: str) -> Iterator[str]:
        medians = [place(x, statistics.median(values)) for x, values in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in medians)
        yield f'<polyline class="{kind} line" points="{path}"/>'
        for x, values in points:
            (at, lowest), (_, highest) = place(x, min(values)), place(x, max(values))
            yield f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{lowest:.1f}" y2="{highest:.1f}"/>'
        yield from (f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in medians)

    def text(x: float, y: float, words: str, more: str = 'class="ink"') -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(words)}</text>'

    runs = " to ".join(map(str, sorted({len(values) for _, values in every})))
    how = f"Median and range of {runs} measurements at each point" if runs != "1" else "One measurement at each point"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-labelledby="title description">',
        f'<title id="title">{html.escape(series.title)}</title>',
        f'<desc id="description">{html.escape(described(series))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        text(LEFT, 22, series.title, 'class="ink" font-size="14" font-weight="bold"'),
    ]
    for value in up:
        _, y = place(0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 8, y + 4, amount(value, series.unit) if value else "0", END))
    parts += [text(place(value, 0)[0], low + 18, f"{value:g}", MIDDLE) for value in across]
    centre = (low + TOP) / 2
    parts.append(text(16, centre, series.up, f'{MIDDLE} transform="rotate(-90 16 {centre:.1f})"'))
    parts.append(text((LEFT + right) / 2, low + 38, series.across, MIDDLE))
    parts += [text(LEFT, HEIGHT - 24, how, FAINT), text(LEFT, HEIGHT - 10, source, FAINT)]
    at = LEFT
    for kind, name, points in (("ours", series.ours, series.points), ("base", series.base, series.baseline)):
        if points:
            parts.append(f'<polyline class="{kind} line" points="{at},{LEGEND} {at + 24},{LEGEND}"/>')
            parts.append(text(at + 30, LEGEND + 4, name))
            parts += line(points, kind)
            at += 54 + 7 * len(name)
    return "\n".join([*parts, "</svg>", ""])


def described(series: Series) -> str:
    """The medians of a plot in words, for those who do not see it."""
    told = [f"{series.up[:1].upper()}{series.up[1:]} by the number of {series.across}."]
    for name, points in ((series.ours, series.points), (series.base, series.baseline)):
        found = [f"{amount(statistics.median(values), series.unit)} at {x:g}" for x, values in sorted(points)]
        told += [f"{name}: {', '.join(found)}."] if found else []
    return " ".join(told)


# -- The tables


def table(rows: Iterable[Row]) -> str:
    """The rows as a table of Markdown."""
    rows = list(rows)
    lines = ["| figure | measured | lowest to highest (runs) | baseline | ratio | goal | |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    notes = [wrapped(f"- {row.figure}: {row.note}.", "  ") for row in rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def gaps(run: Run) -> str:
    """What a run has no figures of, and why."""
    lines = [f"- The part `{name}` failed: {why}" for name, why in run.failed.items()]
    lines += [f"- The part `{name}` was not measured." for name in run.missing if name not in run.failed]
    return "\n".join(wrapped(line, "  ") for line in lines)


def machine(about: dict[str, Any]) -> str:
    """What was measured, and on which machine."""
    incus = f", Incus {about['incus']}" if about.get("incus") else ""
    where = f"{about['cores']} cores of {about['cpu']}, Linux {about['kernel']}"
    return f"commit {about['commit']}, {where}, Python {about['python']}{incus}"


def block(run: Run) -> str:
    """All that the page says of a run, but for the plots."""
    parts = run.parts.values()
    begun = sorted({part.begun for part in parts})
    loads = [part.load_before for part in parts]
    origin = f"Measured on {' to '.join((begun[0], begun[-1])[: len(begun)])} in "
    origin += f"{sum(part.seconds for part in parts):.0f} s: {machine(run.about)}. Load of the machine as the parts "
    origin += f"began: {min(loads)} to {max(loads)}."
    rows = [row for part in parts for row in part.rows]
    return "\n\n".join(filter(None, (wrapped(origin), table(rows), gaps(run))))


def plots(run: Run, folder: Path) -> str:
    """Write the plots of a run, and give the lines that show them. Those of an earlier run are removed."""
    for old in folder.glob("performance-*.svg"):
        old.unlink()
    lines = []
    for part in run.parts.values():
        for series in part.series:
            if len(series.points) > 1:
                name = f"performance-{series.name}.svg"
                (folder / name).write_text(plot(series, f"{part.begun}, {machine(run.about)}"))
                lines.append(f"![{series.title}]({name})")
    return "\n\n".join(lines)


def wrapped(text: str, indent: str = "") -> str:
    """A text in lines as wide as the docs have them, those after the first with an indent."""
    return textwrap.fill(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def put_in(page: Path, **texts: str) -> None:
    """Replace what is between the marks of a page. Raises ValueError where they are missing."""
    found = page.read_text()
    for name, text in texts.items():
        before, begin, rest = found.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        if not (begin and end):
            raise ValueError(f"the page has no marks for {name!r}")
        found = f"{before}{begin}{text.strip()}\n{end}{after}"
    page.write_text(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("result", type=Path, nargs="?", help="what bench_all.py wrote")
    parser.add_argument("--load", type=Path, help="what bench_load.py wrote")
    options = parser.parse_args()
    if options.result:
        run = figures.read(options.result)
        put_in(PAGE, table=block(run), plots=plots(run, PAGE.parent))
    if options.load:
        put_in(LOAD_PAGE, load=block(figures.read(options.load)))


if __name__ == "__main__":
    main()
