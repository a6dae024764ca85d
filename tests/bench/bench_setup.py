"""Measure `clincus setup` on this machine, with the image of the tests. Prints a table; asserts nothing.

    python tests/bench/bench_setup.py

It is the real setup: it installs what is missing and leaves it there, so only the first run on a machine tells how
long a bare one takes. The second part of the table is a second run of the command itself, which has nothing to do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import clincus
from clincus_cli import build as cli_build
from clincus_cli import host as cli_host
from clincus_cli import setup as cli_setup
from tests import (
    incus_bed,
    programs,
)


class Timeline:
    """Says each stage of the setup when the next one begins, with the time it took."""

    def __init__(self) -> None:
        self.stage = "looking at the machine"
        self.began = self.start = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        print(f"{self.stage:58} {now - self.began:10.2f} s", flush=True)
        self.stage, self.began = stage, now

    def close(self) -> None:
        """The setup is over."""
        self("")
        print(f"{'the whole setup':58} {self.began - self.start:10.2f} s   under 90 on a bare machine")


def main() -> None:
    timeline = Timeline()
    options = cli_build.SetupOptions(recipe=incus_bed.stub_recipe())
    setup = cli_setup.Setup(options, cli_host.Host(), clincus.Incus(), timeline)
    for name, need in setup.plan().items():
        print(f"  {name}: {need}")
    setup.run(lambda need: "git config --global" not in need)
    timeline.close()
    for text in setup.notes:
        print(f"  note: {text}")

    began = time.perf_counter()
    argv = [sys.executable, "-I", str(programs.ROOT / "clincus.py"), "setup", "--yes"]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    print(f"{'a second run':58} {time.perf_counter() - began:10.2f} s   under 1")


if __name__ == "__main__":
    main()
