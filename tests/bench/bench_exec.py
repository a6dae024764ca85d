"""Measure commands in a container: how many lose what they wrote, and how long each takes. Asserts nothing.

    python tests/bench/bench_exec.py [COMMANDS] [AT ONCE]

Plain `incus exec` is compared with guest/exec.sh, calm and beside busy processes. As root it starts an Incus of its
own, as the tests do; with INCUS_DIR set and a container `box` in it, that one is used.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import clincus
from tests import incus_bed

COMMANDS = int(sys.argv[1]) if len(sys.argv) > 1 else 400
AT_ONCE = int(sys.argv[2]) if len(sys.argv) > 2 else 8
BOX = "box"
# Short, on both streams, and written just before the end.
SCRIPT = "printf 'out %s\\n' \"$1\"; printf 'err %s\\n' \"$1\" >&2; seq 2000"
NUMBERS = "".join(f"{number}\n" for number in range(1, 2001))


def plain(incus: clincus.Incus, word: str) -> tuple[bytes, bytes]:
    argv = incus.exec_argv(BOX, ["sh", "-c", SCRIPT, "sh", word])
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.stdout, done.stderr


def whole(incus: clincus.Incus, word: str) -> tuple[bytes, bytes]:
    done = incus.exec(BOX, ["sh", "-c", SCRIPT, "sh", word])
    return done.stdout, done.stderr


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


def measure(incus: clincus.Incus, name: str, way: object) -> None:
    def one(number: int) -> tuple[float, bool, bool]:
        word = f"number-{number}"
        began = time.perf_counter()
        out, err = way(incus, word)  # type: ignore[operator]
        taken = time.perf_counter() - began
        return taken, out.decode() == f"out {word}\n{NUMBERS}", err.decode() == f"err {word}\n"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(one, range(COMMANDS)))
    times = sorted(taken for taken, _, _ in results)
    lost = sum(not (out and err) for _, out, err in results)
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99) - 1]
    print(
        f"{name:32} {COMMANDS} commands, {lost:3} lost something; p50 {p50 * 1e3:.0f} p99 {p99 * 1e3:.0f} ms",
        flush=True,
    )


def main() -> None:
    with contextlib.ExitStack() as held:
        if os.environ.get("INCUS_DIR"):
            incus = clincus.Incus()
        else:
            incus = held.enter_context(incus_bed.own_daemon()).incus
            incus.launch(BOX, "clincus", {"config": {}})
        for load in (0, 4):
            with busy(load):
                for name, way in (("incus exec", plain), ("guest/exec.sh", whole)):
                    measure(incus, f"{name}, {load} busy processes", way)


main()
