"""Measure commands in a container: how many lose what they wrote, and how long each takes. Asserts nothing.

    python -m tests.bench.bench_exec [--commands 400] [--together 8]

Plain `incus exec` is compared with guest/exec.sh, calm and beside busy processes. As root it starts an Incus of its
own, as the tests do.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, percentile, run_alone

# Short, on both streams, and written just before the end.
SCRIPT = "printf 'out %s\\n' \"$1\"; printf 'err %s\\n' \"$1\" >&2; seq 2000"
NUMBERS = "".join(f"{number}\n" for number in range(1, 2001))


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    """All of it."""
    incus = made.bed.incus
    incus.launch("box", "clincus", {"config": {}})

    def plain(command: list[str]) -> tuple[bytes, bytes]:
        argv = incus.exec_argv("box", command)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.stdout, done.stderr

    def whole(command: list[str]) -> tuple[bytes, bytes]:
        done = incus.exec("box", command)
        return done.stdout, done.stderr

    def one(way: Callable[[list[str]], tuple[bytes, bytes]], number: int) -> tuple[float, bool]:
        began = time.perf_counter()
        found = way(["sh", "-c", SCRIPT, "sh", str(number)])
        taken = time.perf_counter() - began
        return taken, found != (f"out {number}\n{NUMBERS}".encode(), f"err {number}\n".encode())

    for load in (0, 4):
        for name, way in (("incus exec", plain), ("guest/exec.sh", whole)):
            with busy(load), ThreadPoolExecutor(options.together) as pool:
                found = list(pool.map(lambda number, way=way: one(way, number), range(options.commands)))
            taken = [seconds for seconds, _ in found]
            what = f"{name}, {load} busy processes"
            note = f"p99 {percentile(taken, 0.99) * 1000:.0f} ms of {len(taken)}"
            results.add(Row(f"{what}: p50", "s", percentile(taken, 0.5), note=note))
            results.add(Row(f"{what}: lost something", "", sum(is_lost for _, is_lost in found)))


if __name__ == "__main__":
    run_alone(__doc__, measure, commands=400, together=8)
