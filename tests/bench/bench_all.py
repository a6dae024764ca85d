"""Measure what docs/performance.md tells of, part by part: prints one table and writes it. Asserts nothing.

    python -m tests.bench.bench_all [PART …] [--write dist/bench.json] [--anew]

CLINCUS_TEST_PROGRAM=dist/clincus.pyz measures the archive, as `make bench` does. As root it starts an Incus of its own,
as the tests do. All parts take some twenty minutes on two cores with nothing beside it. The result is written after
each part. A part that fails is written down as failed, and the others go on; then the run ends with 1. Another run
measures what is missing or has failed, as long as program and machine are the same; a part that is named is measured
anew. `python -m tests.bench.report dist/bench.json` puts the result into docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import bench_engines, bench_page, bench_server, bench_terminal, figures
from tests.bench.measuring import House, house


def parts(made: House, results: figures.Results) -> dict[str, Callable[[], object]]:
    """What is measured, in this order. Each part stands alone: it brings about the sessions that it needs."""
    works: dict[str, Callable[[House, figures.Results], object]] = {
        "start": bench_server.starts,
        "bridge": bench_terminal.bridges,
        "create": bench_server.one_at_a_time,
        "stop": bench_server.stop_and_resume,
        "page": bench_page.first_pages,
        "terminals": bench_terminal.whole,
        "event": bench_page.events,
        "idle": bench_server.idle,
        "many": bench_server.many,
        "engines": bench_engines.engines,
    }
    return {name: lambda work=work: work(made, results) for name, work in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("part", nargs="*", help="what to measure; without one, what is missing in the result")
    parser.add_argument("--write", type=Path, default=Path("dist/bench.json"), help="where the result goes, as JSON")
    parser.add_argument("--anew", action="store_true", help="forget what an earlier run has measured")
    options = parser.parse_args()
    results = figures.Results(options.write)
    if not options.anew:
        results.resume()
    with house() as made:
        results.about["incus"] = made.bed.incus.query("/1.0")["environment"]["server_version"]
        figures.run(results, parts(made, results), options.part)
    failed = results.run().failed
    print(f"written to {options.write}", *(f"failed: {name}: {why}" for name, why in failed.items()), sep="\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
