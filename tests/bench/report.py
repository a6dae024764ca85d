"""Put the result of a run into docs/performance.md: its table, and the plots beside it.

    python tests/bench/report.py [dist/bench.json] [--load dist/load.json]

What stands between the marks `<!-- NAME -->` and `<!-- end NAME -->` is written anew, and nothing else.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests.bench.measuring import Row, Series, amount
from tests.programs import ROOT

PAGE = ROOT / "docs" / "performance.md"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 78, 44, 40, 20
OURS, BASELINE, INK, GRID = "#0a7d5a", "#8a8f98", "#30343b", "#e4e6ea"


# -- A plot


def ticks(highest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to what is not below the highest."""
    raw = highest / count or 1.0
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw)
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def plot(series: Series) -> str:
    """An SVG of how a figure grows; its baseline of the same run is dashed."""
    every = [*series.points, *series.baseline]
    across, up = ticks(max(x for x, _ in every)), ticks(max(y for _, y in every))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / across[-1] * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / up[-1] * (HEIGHT - BOTTOM - TOP),
        )

    def line(points: Sequence[tuple[float, float]], colour: str, dash: str = "") -> Iterable[str]:
        places = [place(x, y) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places)

    def text(x: float, y: float, words: str, more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}" role="img" aria-label="{html.escape(series.title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 22, series.title, 'font-size="14" font-weight="bold"'),
    ]
    for value in up:
        _, y = place(0, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(LEFT - 8, y + 4, amount(value, series.unit) if value else "0", 'text-anchor="end"'))
    for value in across:
        x, _ = place(value, 0)
        parts.append(text(x, HEIGHT - BOTTOM + 18, f"{value:g}", 'text-anchor="middle"'))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, series.across, 'text-anchor="middle"'))
    if series.baseline:
        parts += line(series.baseline, BASELINE, ' stroke-dasharray="5 4"')
        parts.append(text(WIDTH - RIGHT, 22, "dashed: the baseline", f'text-anchor="end" fill="{BASELINE}"'))
    parts += line(series.points, OURS)
    return "\n".join([*parts, "</svg>", ""])


# -- The tables


def table(rows: Iterable[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = ["| figure | measured | baseline | ratio | goal | |", "| --- | --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    notes = [wrapped(f"- {row.figure}: {row.note}.", "  ") for row in rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def origin(about: dict[str, Any]) -> str:
    """Where and when the figures were taken."""
    return wrapped(
        f"Measured on {about['begun']} in {about['seconds']} s, on {about['cores']} cores of {about['cpu']}, Linux "
        f"{about['kernel']}, Python {about['python']}{', Incus ' + about['incus'] if about.get('incus') else ''}. Load "
        f"of the machine before: {about['load_before']}, after: {about['load_after']}."
    )


def wrapped(text: str, indent: str = "") -> str:
    """A text in lines as wide as the docs have them, those after the first with an indent."""
    return textwrap.fill(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def put_in(page: str, name: str, text: str) -> str:
    """A page with what is between two marks replaced. Raises ValueError where they are missing."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{PAGE.name} has no marks for {name!r}")
    return pattern.sub(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", page)


def read(path: Path) -> tuple[dict[str, Any], list[Row], list[Series]]:
    """What a run has written."""
    document = json.loads(path.read_text())
    return document["about"], [Row(**row) for row in document["rows"]], [Series(**one) for one in document["series"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("result", type=Path, nargs="?", help="what bench_all.py wrote")
    parser.add_argument("--load", type=Path, help="what bench_load.py wrote")
    options = parser.parse_args()
    page = PAGE.read_text()
    if options.result:
        about, rows, series = read(options.result)
        page = put_in(page, "table", f"{origin(about)}\n\n{table(rows)}")
        pictures = []
        for one in (one for one in series if len(one.points) > 1):
            name = f"performance-{one.name}.svg"
            (PAGE.parent / name).write_text(plot(one))
            pictures.append(f"![{one.title} with more and more {one.across}]({name})")
        page = put_in(page, "plots", "\n\n".join(pictures))
    if options.load:
        about, rows, _ = read(options.load)
        page = put_in(page, "load", f"{origin(about)}\n\n{table(rows)}")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
