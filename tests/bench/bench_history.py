"""Measure a history of 200,000 lines, as the Go program leaves one: a page of it, and memory. Asserts nothing.

    python tests/bench/bench_history.py

It prints processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path[:0] = [str(Path(__file__).parents[2])]

import clincus

RUNS, PAGES = 100_000, 50


def memory() -> int:
    """Resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def write(path: Path) -> None:
    """Write a start and a stop for each run."""
    begin = datetime(2025, 1, 1, tzinfo=timezone.utc)
    with open(path, "wb") as file:
        for number in range(RUNS):
            times = (clincus.format_time(begin + timedelta(minutes=number, seconds=at)) for at in (0, 50))
            place = f"clincus-{number % 1000:06x}-{number % 10}", "/home/person/src/project", "claude"
            run = clincus.Run(f"session-{number}", *place, *times)
            file.write(run.line("start") + run.line("stop"))


def page(history: clincus.History, **values: Any) -> float:
    """Seconds of the processor for a page of 50."""
    wanted = {"q": "", "tool": None, "offset": 0, "limit": 50, **values}
    app, request = cast(Any, SimpleNamespace(history=history)), cast(Any, SimpleNamespace(values=wanted))
    began = time.process_time()
    clincus.list_history(app, request)
    return time.process_time() - began


def main() -> None:
    """Print a line for each figure."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        write(path)
        history, before = clincus.History(str(path)), memory()
        print(f"lines written             {2 * RUNS:>10,} ({path.stat().st_size >> 20} MiB)")
        print(f"first page, file is read  {1000 * page(history):>10.1f} ms")
        for words, values in (
            ("a page", {}),
            ("a page of a search", {"q": "project"}),
            ("the last page", {"offset": -50}),
        ):
            best = min(page(history, **values) for _ in range(PAGES))
            print(f"{words:<25} {1000 * best:>10.2f} ms")
        print(f"memory for it             {(memory() - before) / (1 << 20):>10.1f} MiB")
        began = time.process_time()
        history.record(clincus.Run("new", "clincus-aaaaaa-1", "/w", "claude", clincus.utc_now()))
        print(f"one more run              {1000 * (time.process_time() - began):>10.1f} ms (it shortens the file)")
        print(f"runs kept                 {len(history.runs()):>10,}")


if __name__ == "__main__":
    main()
