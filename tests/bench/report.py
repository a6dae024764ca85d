"""Put the result of a run into docs/performance.md.

    python -m tests.bench.report [dist/bench.json] [--load dist/load.json]

The load goes into docs/dev/performance.md.

What stands between the marks `<!-- NAME -->` and `<!-- end NAME -->` is written anew, and nothing else.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench import figures
from tests.bench.figures import Row, Run
from tests.programs import ROOT

PAGE = ROOT / "docs" / "performance.md"
LOAD_PAGE = ROOT / "docs" / "dev" / "performance.md"


def table(rows: Iterable[Row]) -> str:
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
    incus = f", Incus {about['incus']}" if about.get("incus") else ""
    where = f"{about['cores']} cores of {about['cpu']}, Linux {about['kernel']}"
    return f"commit {about['commit']}, {where}, Python {about['python']}{incus}"


def block(run: Run) -> str:
    parts = run.parts.values()
    begun = sorted({part.begun for part in parts})
    loads = [part.load_before for part in parts]
    origin = f"Measured on {' to '.join((begun[0], begun[-1])[: len(begun)])} in "
    origin += f"{sum(part.seconds for part in parts):.0f} s: {machine(run.about)}. Load of the machine as the parts "
    origin += f"began: {min(loads)} to {max(loads)}."
    rows = [row for part in parts for row in part.rows]
    return "\n\n".join(filter(None, (wrapped(origin), table(rows), gaps(run))))


def wrapped(text: str, indent: str = "") -> str:
    """A text in lines as wide as the docs have them, those after the first with an indent."""
    return textwrap.fill(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def put_in(page: Path, name: str, text: str) -> None:
    """Replace what is between two marks of a page. Raises ValueError where they are missing."""
    before, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end {name} -->")
    if not (begin and end):
        raise ValueError(f"the page has no marks for {name!r}")
    page.write_text(f"{before}{begin}{text.strip()}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("result", type=Path, nargs="?", help="what bench_all.py wrote")
    parser.add_argument("--load", type=Path, help="what bench_load.py wrote")
    options = parser.parse_args()
    if options.result:
        put_in(PAGE, "table", block(figures.read(options.result)))
    if options.load:
        put_in(LOAD_PAGE, "load", block(figures.read(options.load)))


if __name__ == "__main__":
    main()
