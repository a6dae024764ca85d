"""Runs tests several times in a row while something else keeps the cores busy: `python tests/loaded.py --help`.

A test that fails only then waits for too little, or the program does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Computes in bursts, until the process that asked for it has gone, which ends its stdin.
BUSY = """import random, select, sys, zlib
data = random.randbytes(1 << 20)
while not select.select([sys.stdin], [], [], random.uniform(0, 0.1))[0]:
    for _ in range(random.randrange(20)):
        zlib.compress(data, 9)
"""


def main() -> int:
    """Run pytest so many times with so much load; the exit code of the first run that fails, 0 if none does."""
    parser = argparse.ArgumentParser(description="Run tests on a busy machine. What is not known here goes to pytest.")
    parser.add_argument("--rounds", type=int, default=5)
    processes = 2 * (os.cpu_count() or 1)
    parser.add_argument("--load", type=int, default=processes, help="processes that compete for the cores")
    options, words = parser.parse_known_args()
    argv = [sys.executable, "-c", BUSY]
    load = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(options.load)]
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
