"""Runs the tests of the night, and writes docs/nightly.md: what ran, on which commit, and what failed.

    python3 -m tests.nightly [--record FILE] [pytest's flags…]

A night goes on where the last one of the same commit ended: a test that passed then is not run again (its outcomes are
in dist/night/COMMIT). The seed of all that is tried at random is a new one each time. It stands in the record, and
CLINCUS_TEST_SEED=N makes the same run again. `make release` wants a record of its own commit. With files of tests, `-k`
or `-x` among the flags only a part of a night runs; the record says which, and no release takes it.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import outcomes

ROOT = Path(__file__).resolve().parent.parent
NIGHTS = ROOT / "dist" / "night"
# Flags with which all tests run nevertheless.
SCHEDULE = ("--numprocesses=", "--dist=", "--durations=", "--basetemp=", "-q", "-v")
DONE = (0, 1, 5)  # exit codes of a pytest that came to its end: all passed, some failed, nothing was left to run


@dataclass
class Night:
    """What came of the tests."""

    tests: dict[str, outcomes.Outcome] = field(default_factory=dict)
    part: str = ""  # the flags that left tests out
    fault: str = ""  # why pytest did not come to its end

    def of(self, word: str) -> dict[str, str]:
        """The tests with one outcome, each with the reason."""
        return {test: one.reason for test, one in self.tests.items() if one.word == word}

    @property
    def figures(self) -> str:
        """As pytest counts them."""
        counts = {word: len(self.of(word)) for word in ("failed", "passed", "skipped")}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "passed")

    @property
    def is_good(self) -> bool:
        """Whether something ran and nothing failed."""
        return bool(self.of("passed")) and not self.of("failed") and not self.fault


def git(*words: str) -> str:
    """What a git command says of this checkout."""
    argv = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout.strip()


def current_commit() -> str:
    """The commit of this checkout, "+" behind it where files differ from it."""
    changed = [line for line in git("status", "--porcelain").splitlines() if line[3:] != "docs/nightly.md"]
    return git("rev-parse", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """The machine, in words."""
    release = (
        platform.freedesktop_os_release().get("PRETTY_NAME", "") if hasattr(platform, "freedesktop_os_release") else ""
    )
    return f"{release or platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def cell(text: str) -> str:
    """A text as it may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def record(night: Night, *, commit: str, began: float, seconds: float, seed: int) -> Iterator[str]:
    """The lines of docs/nightly.md."""
    word = "passed" if night.is_good else "failed"
    yield "# The last night"
    yield ""
    yield "`.ci/nightly` writes this page. The tests of the night take too long for each change."
    yield "`make release` wants a night of its own commit in which nothing failed."
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| commit | {commit} |"
    yield f"| date | {time.strftime('%Y-%m-%d %H:%M', time.gmtime(began))} UTC |"
    yield f"| result | {'a part ' if night.part else ''}{word}: {night.figures} in {seconds / 60:.0f} min |"
    if night.part:
        yield f"| only | `{cell(night.part)}` |"
    yield f"| seed | `CLINCUS_TEST_SEED={seed}` |"
    yield f"| machine | {machine()} |"
    if night.fault:
        yield f"| cut short | {night.fault} |"
    for title in ("failed", "skipped"):
        if night.of(title):
            yield from ("", f"## {title.capitalize()}", "", "| test | reason |", "| --- | --- |")
            yield from (f"| `{cell(test)}` | {cell(reason)} |" for test, reason in sorted(night.of(title).items()))
    yield ""


def run(commit: str, seed: int, flags: Sequence[str]) -> Night:
    """Run the tests of a night that have not passed at this commit yet."""
    folder = NIGHTS / commit
    folder.mkdir(parents=True, exist_ok=True)
    earlier = [] if commit.endswith("+") else sorted(folder.glob("*.jsonl"))
    passed = folder / "passed.txt"
    passed.write_text("\n".join(test for test, one in outcomes.read(*earlier).items() if one.word == "passed"))
    record = folder / f"{time.time_ns()}.jsonl"
    argv = [sys.executable, "-m", "pytest", "-m", "nightly", "--timeout=3600", f"--hypothesis-seed={seed}"]
    argv += [f"--outcomes={record}", f"--skip-passed={passed}", *flags]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "CLINCUS_TEST_SEED": str(seed)}, check=False)
    night = Night(outcomes.read(*earlier, *([record] if record.exists() else [])))
    if done.returncode not in DONE:
        night.fault = f"pytest ended with {done.returncode}, so not all tests ran"
    night.part = shlex.join(flag for flag in flags if not flag.startswith(SCHEDULE))
    return night


def main() -> int:
    """Run a night, say what came of it, and write it down."""
    parser = argparse.ArgumentParser(description="Run the tests of the night.")
    parser.add_argument("--record", type=Path, help="write what came of it to this file")
    options, flags = parser.parse_known_args()
    seed = int(os.environ.get("CLINCUS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"the seed of this night: CLINCUS_TEST_SEED={seed}", flush=True)
    commit, began, clock = current_commit(), time.time(), time.monotonic()
    night = run(commit, seed, flags)
    lines = record(night, commit=commit, began=began, seconds=time.monotonic() - clock, seed=seed)
    if options.record:
        options.record.write_text("\n".join(lines))
        print(f"{options.record}: {night.figures}")
    return 0 if night.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
