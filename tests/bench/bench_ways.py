"""Create sessions with and without a way through the proxy, in turns, and print how long each took.

A session that borrows is to take no longer: its certificates are made while Incus works.

    python tests/bench/bench_ways.py [ROUNDS]

As root it starts an Incus of its own, as the tests do.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, delete, in_turns, main
from tests.programs import Server

ROUNDS = next((int(word) for word in sys.argv[1:] if word.isdigit()), 7)
MOST_TIMES = {"login": 1.05}  # the time of a plain one; the rest of it is what such times differ by themselves
CONFIG = '[logins.anthropic]\nfrom = { env = "LENT_KEY" }\n'
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "login": {"logins": ["anthropic"]},
    "allow-list": {"network": "allow-list", "allow": ["pypi.org"]},
    "allow-list and login": {"network": "allow-list", "logins": ["anthropic"]},
}


def time_of(server: Server, folder: Path, **fields: Any) -> float:
    """Seconds that a create takes; the session is deleted afterwards."""
    began = time.perf_counter()
    session = server.create(folder, **fields)
    seconds = time.perf_counter() - began
    delete(server, session["id"])
    return seconds


def measure(made: House, results: Results) -> None:
    """The median of each way, and the longest."""
    folder = made.workspace()
    with made.server(CONFIG, LENT_KEY="sk-ant-api03-of-a-bench") as server:
        works = [lambda fields=fields: time_of(server, folder, **fields) for fields in WAYS.values()]
        for work in works:
            work()
        figures = dict(zip(WAYS, in_turns(ROUNDS, *works)))
        for way, seconds in figures.items():
            note = f"of {ROUNDS}, in turns; {min(seconds):.2f} to {max(seconds):.2f} s"
            plain = statistics.median(figures["plain"])
            goal = MOST_TIMES.get(way)
            results.add(Row(f"create: {way}", "s", statistics.median(seconds), goal, plain, compare="times", note=note))


if __name__ == "__main__":
    main(measure)
