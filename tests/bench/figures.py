"""What a bench writes down: rows of the table, and the parts of a run, which may fail one by one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests import programs

LEAST_RUNS = 5  # a median of fewer says nothing about its spread
UNITS = {"s": ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (float("inf"), 1, "s"))}
WIDTHS = (60, 11, 28, 11, 10, 20, 6)


@dataclass(frozen=True)
class Row:
    """One figure beside its baseline of the same run, and its goal.

    `compare` says what the goal is for: "times" the baseline, "more" than the baseline, the figure "alone"; with
    `at_least` it is a lower bound. A figure that was measured several times is their median (see `of`).
    """

    figure: str
    unit: str
    value: float
    goal: float | None = None
    baseline: float | None = None
    compare: str = "alone"
    at_least: bool = False
    note: str = ""  # how the figure came about, or what was seen beside it
    runs: int = 0  # how often it was measured; 0 where that is no question, as with a size
    spread: Sequence[float] = ()  # the lowest and the highest

    @classmethod
    def of(
        cls,
        figure: str,
        unit: str,
        values: Collection[float],
        goal: float | None = None,
        *,
        baselines: Collection[float] = (),
        **more: Any,
    ) -> Row:
        """The row of repeated measurements. Raises ValueError for fewer than LEAST_RUNS of them."""
        for found in (values, baselines or values):
            if len(found) < LEAST_RUNS:
                raise ValueError(f"{figure} was measured {len(found)} times; a median needs {LEAST_RUNS}")
        baseline = statistics.median(baselines) if baselines else None
        spread = (min(values), max(values))
        return cls(figure, unit, statistics.median(values), goal, baseline, runs=len(values), spread=spread, **more)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        compared = self.value
        if self.baseline is not None and self.compare == "times":
            compared = self.value / self.baseline
        elif self.baseline is not None and self.compare == "more":
            compared = self.value - self.baseline
        return compared >= self.goal if self.at_least else compared <= self.goal

    def cells(self) -> list[str]:
        """Figure, value, spread, baseline, ratio, goal and whether it is met, in words."""
        spread = " to ".join(amount(one, self.unit) for one in self.spread)
        spread = f"{spread} ({self.runs})" if spread else ""
        goal = ""
        if self.goal is not None:
            bound = f"{self.goal:g} times" if self.compare == "times" else amount(self.goal, self.unit)
            more = " more" if self.compare == "more" else ""
            goal = f"{'at least' if self.at_least else 'at most'} {bound}{more}"
        baseline = ratio = ""
        if self.baseline is not None:
            baseline = amount(self.baseline, self.unit)
            more = ("+" if self.value >= self.baseline else "") + amount(self.value - self.baseline, self.unit)
            ratio = more if self.compare == "more" else f"{self.value / self.baseline:.2f}" if self.baseline else ""
        met = {True: "met", False: "missed", None: ""}[self.is_met]
        return [self.figure, amount(self.value, self.unit), spread, baseline, ratio, goal, met]


def amount(value: float, unit: str) -> str:
    """A figure with its unit, with three digits that count."""
    for bound, factor, name in UNITS.get(unit, ()):
        if abs(value) < 0.9995 * bound:  # else it would be rounded to the next unit
            return f"{value * factor:.3g} {name}"
    return f"{value:,.0f} {unit}".strip() if abs(value) >= 100 else f"{value:.3g} {unit}".strip()


@dataclass
class Part:
    """A part of a run: what it found, or why it failed; it may have found some rows before it did."""

    begun: str = ""
    seconds: float = 0.0
    load_before: float = 0.0
    load_after: float = 0.0
    failed: str = ""  # the error, in one line
    rows: list[Row] = field(default_factory=list)


@dataclass
class Run:
    about: dict[str, Any]  # see `machine`
    parts: dict[str, Part]
    missing: list[str]  # the parts that have not been measured, or have failed

    @property
    def failed(self) -> dict[str, str]:
        return {name: part.failed for name, part in self.parts.items() if part.failed}


class Results:
    """What the parts of a run found: printed as it comes, and written as JSON after each part."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.about: dict[str, Any] = machine()
        self.parts: dict[str, Part] = {}
        self.all: tuple[str, ...] = ()  # the names of all parts that there are
        self._part = Part()

    def resume(self) -> None:
        """Take over what an earlier run of the same program on the same machine has written."""
        if self.path is None or not self.path.exists():
            return
        before = read(self.path)
        if self.about["build"] and {**before.about, "incus": ""} == {**self.about, "incus": ""}:
            self.parts = before.parts

    def is_done(self, name: str) -> bool:
        return name in self.parts and not self.parts[name].failed

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part: what is added meanwhile is its own. An error in it is written down, and does not go on."""
        print(f"-- {name}; load {load()} on {os.cpu_count()} cores", flush=True)
        began = time.monotonic()
        begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        part = self.parts[name] = self._part = Part(begun=begun, load_before=load())
        try:
            yield
        except Exception as error:
            part.failed = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"  the part {name!r} failed:\n{traceback.format_exc()}", flush=True)
        part.seconds = round(time.monotonic() - began, 1)
        part.load_after = load()
        self._part = Part()
        if self.path:
            self.write()

    def add(self, *rows: Row) -> None:
        for row in rows:
            self._part.rows.append(row)
            print("  ".join(f"{cell:{width}}" for cell, width in zip(row.cells(), WIDTHS)), flush=True)
            if row.note:
                print(f"    {row.note}", flush=True)

    def run(self) -> Run:
        return Run(self.about, self.parts, [name for name in self.all if not self.is_done(name)])

    def write(self) -> None:
        """Write all of it, whole or not at all."""
        assert self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        run = self.run()
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps({**asdict(run), "failed": run.failed}, indent=1) + "\n")
        partial.replace(self.path)


def read(path: Path) -> Run:
    document = json.loads(path.read_text())
    parts = {}
    for name, values in document["parts"].items():
        rows = [Row(**row) for row in values.pop("rows")]
        parts[name] = Part(rows=rows, **values)
    return Run(document["about"], parts, document["missing"])


def run(results: Results, parts: dict[str, Callable[[], object]], wanted: Collection[str] = ()) -> None:
    """Measure the wanted parts, or else those that were not measured yet. Raises ValueError for an unknown one."""
    results.all = tuple(parts)
    unknown = ", ".join(name for name in wanted if name not in parts)
    if unknown:
        raise ValueError(f"unknown: {unknown}; the parts are {', '.join(parts)}")
    for name, work in parts.items():
        if name in wanted or not (wanted or results.is_done(name)):
            with results.part(name):
                work()


# -- Where a run was taken


def machine() -> dict[str, Any]:
    """The machine, and the program that is measured: its commit as it says itself, "+" where files were changed since.

    The build tells an archive from all others; it is "" for a checkout, which may change amid a run.
    """
    argv = [*programs.program(), "version"]
    said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
    commit = re.search(r"commit: ([0-9a-f]{7})[0-9a-f]*(\+?)", said)
    archive = Path(argv[-2])
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "commit": "".join(commit.groups()) if commit else "unknown",
        "build": hashlib.sha256(archive.read_bytes()).hexdigest() if archive.is_file() else "",
        "cores": os.cpu_count(),
        "cpu": cpu[1] if cpu else "unknown",
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def load() -> float:
    return round(os.getloadavg()[0], 2)
