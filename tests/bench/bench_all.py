"""Measure what docs/performance.md tells of, in one run: prints one table and writes it. Asserts nothing.

    python tests/bench/bench_all.py [--write dist/bench.json] [--idle-minutes 2] [--without terminal,page,…]

CLINCUS_TEST_PROGRAM=dist/clincus.pyz measures the archive, as `make bench` does. It takes about twelve minutes on two
cores with nothing beside it. As root it starts an Incus of its own, as the tests do. A part that fails is told, and the
others go on. `python tests/bench/report.py dist/bench.json` puts the result into docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests import programs
from tests.bench import bench_engines, bench_events, bench_page, bench_server, bench_terminal
from tests.bench.measuring import House, Process, Results, Series, house

COUNTS = (1, 5, 10, bench_server.RUNNING)
MANY = (50, 100)


class Run:
    """One run: what it measures one after the other, with sessions that become more."""

    def __init__(self, made: House, results: Results, options: argparse.Namespace) -> None:
        self._made = made
        self._results = results
        self._options = options
        self._ids: list[str] = []

    def all(self) -> None:
        """Everything that was not left out."""
        self._do("start", lambda: bench_server.starts(self._results))
        self._do("bridge", lambda: bench_terminal.bridges(self._made, self._results))
        with self._made.server() as server:
            server.get("/api/sessions")
            self._with(server)
        self._do("engines", lambda: bench_engines.engines(self._made, self._results))
        self._do("idle", lambda: bench_server.idle(self._made, self._results, self._options.idle_minutes))

    def _with(self, server: programs.Server) -> None:
        made, results = self._made, self._results
        lists, baseline = bench_server.Listings(results), bench_server.Baseline(made, server)
        creates, memory = Series("create", "create to running", "s"), Series("memory", "memory of the server", "MB")
        results.series += [creates, memory]

        def point(count: int) -> None:
            lists.take(server, count, is_row=count in (0, 20, 100))
            memory.points.append((count, Process(server.process.pid).memory))
            if count:
                self._do("create", lambda: self._create_point(server, baseline, creates, count))

        point(0)
        self._do("create", lambda: bench_server.one_at_a_time(made, server, baseline, results))
        self._do("ten", lambda: bench_server.ten_at_once(made, server, baseline, results))
        self._do("stop", lambda: bench_server.stop_and_resume(made, server, baseline, results))
        for count in COUNTS:
            bench_server.add_running(made, server, self._ids, count)
            point(count)
        running = list(self._ids)
        self._do("terminal", lambda: bench_terminal.first_bytes(server, running[0], results))
        self._do("memory", lambda: bench_terminal.memory(server, running, results))
        self._do("event", lambda: bench_events.ways(made, server, running[0], results, len(running)))
        self._do("page", lambda: bench_page.pages(made, server, running[0], results, whole=False))
        for count in MANY:
            self._do("many", lambda count=count: bench_server.add_stopped(made, server, self._ids, count))
            self._do("many", lambda count=count: point(count))
        self._do("many", lambda: bench_events.ways(made, server, running[0], results, len(self._ids)))
        for id in self._ids[len(running) :]:
            made.bed.incus.run("delete", "--force", id)

    def _create_point(
        self, server: programs.Server, baseline: bench_server.Baseline, series: Series, count: int
    ) -> None:
        ours, bare = bench_server.creates(self._made, server, baseline, 2)
        series.points.append((count, min(ours)))
        series.baseline.append((count, min(bare)))

    def _do(self, name: str, work: Callable[[], object]) -> None:
        """A part of the run that may be left out, or fail, while the others go on."""
        if name in self._options.without.split(","):
            return
        began = time.monotonic()
        try:
            work()
        except Exception:
            print(f"  the part {name!r} failed:\n{traceback.format_exc()}", flush=True)
        seconds = self._results.about.setdefault("parts", {})
        assert isinstance(seconds, dict)
        seconds[name] = round(seconds.get(name, 0) + time.monotonic() - began, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", type=Path, default=Path("dist/bench.json"), help="where the result goes, as JSON")
    parser.add_argument("--idle-minutes", type=float, default=2)
    parser.add_argument("--without", default="", help="parts to leave out, with commas")
    options, results = parser.parse_args(), Results()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with house() as made:
        results.about["incus"] = made.bed.incus.query("/1.0")["environment"]["server_version"]
        try:
            Run(made, results, options).all()
        finally:
            results.write(options.write)
    print(f"written to {options.write}: {results.about}")


if __name__ == "__main__":
    main()
