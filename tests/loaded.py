"""Runs tests several times in a row while something else keeps the cores busy: `python tests/loaded.py --help`.

A test that fails only then waits for too little, or the program does. The load comes in bursts of random length, as
that of a compiler does: each of its processes computes, writes to the disk or starts programs, and rests a little.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BURST = 0.5  # seconds at most
REST = 0.1


def be_busy(seed: int) -> None:
    """Keep one core busy until the process that asked for it has gone, which ends stdin."""
    import select
    import time
    import zlib

    rng = random.Random(seed)
    data = rng.randbytes(1 << 16)
    while not select.select([sys.stdin], [], [], rng.uniform(0, REST))[0]:
        end = time.monotonic() + rng.uniform(0, BURST)
        kind = rng.choice(["compute", "compute", "write", "start"])
        while time.monotonic() < end:
            if kind == "compute":
                zlib.compress(data, 9)
            elif kind == "start":
                subprocess.run(["true"], stdin=subprocess.DEVNULL, check=True)
            else:
                with tempfile.TemporaryFile() as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())


def main() -> int:
    """Run pytest so many times with so much load; the exit code of the first run that fails, 0 if none does."""
    parser = argparse.ArgumentParser(description="Run tests on a busy machine. What is not known here goes to pytest.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--load", type=int, default=2 * (os.cpu_count() or 1), help="processes that compete for the cores"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the load")
    parser.add_argument("--busy", type=int, help=argparse.SUPPRESS)  # be one of these processes
    options, words = parser.parse_known_args()
    if options.busy is not None:
        be_busy(options.busy)
        return 0
    print(f"{options.load} processes keep the cores busy: --seed={options.seed}", flush=True)
    argv = [sys.executable, __file__, "--busy"]
    load = [
        subprocess.Popen([*argv, str(options.seed + number)], stdin=subprocess.PIPE) for number in range(options.load)
    ]
    try:
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", flush=True)
            code = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, check=False).returncode
            if code:
                return code
    finally:
        for one in load:
            one.kill()
            one.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
