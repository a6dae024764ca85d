"""Measure what docs/performance.md tells of, part by part: prints one table and writes it. Asserts nothing.

    python tests/bench/bench_all.py [PART …] [--write dist/bench.json] [--anew]

CLINCUS_TEST_PROGRAM=dist/clincus.pyz measures the archive, as `make bench` does. As root it starts an Incus of its own,
as the tests do. All parts take some twenty minutes on two cores with nothing beside it. The result is written after
each part. A part that fails is written down as failed, and the others go on; then the run ends with 1. Another run
measures what is missing or has failed, as long as program and machine are the same; a part that is named is measured
anew. `python tests/bench/report.py dist/bench.json` puts the result into docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests.bench import bench_engines, bench_events, bench_page, bench_server, bench_terminal, figures
from tests.bench.measuring import House, house


def parts(made: House, results: figures.Results) -> dict[str, Callable[[], object]]:
    """What is measured, in this order. Each part stands alone: it brings about the sessions that it needs."""

    def life(*works: bench_server.Life) -> Callable[[], object]:
        return lambda: bench_server.lives(made, results, *works)

    return {
        "start": lambda: bench_server.starts(results),
        "bridge": lambda: bench_terminal.bridges(made, results),
        "create": life(bench_server.one_at_a_time),
        "ten": life(bench_server.ten_at_once),
        "stop": life(bench_server.stop_and_resume),
        "delete": life(bench_server.deletes),
        "page": lambda: bench_page.pages(made, results, whole=False),
        "terminals": lambda: bench_terminal.whole(made, results),
        "event": lambda: bench_events.events(made, results),
        "idle": lambda: bench_server.idle(made, results),
        "many": lambda: bench_server.many(made, results),
        "engines": lambda: bench_engines.engines(made, results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("part", nargs="*", help="what to measure; without one, what is missing in the result")
    parser.add_argument("--write", type=Path, default=Path("dist/bench.json"), help="where the result goes, as JSON")
    parser.add_argument("--anew", action="store_true", help="forget what an earlier run has measured")
    options = parser.parse_args()
    results = figures.Results(options.write)
    if not options.anew:
        results.resume()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with house() as made:
        results.about["incus"] = made.bed.incus.query("/1.0")["environment"]["server_version"]
        figures.run(results, parts(made, results), options.part)
    print(
        f"written to {options.write}",
        *(f"failed: {name}: {why}" for name, why in results.run().failed.items()),
        sep="\n",
    )
    sys.exit(1 if results.run().failed else 0)


if __name__ == "__main__":
    main()
