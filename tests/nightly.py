"""Runs the tests that are marked nightly, and writes docs/nightly.md: what ran, on which commit, and what failed.

    python3 -m tests.nightly [--record FILE] [pytest's flags…]

The seed of all that is tried at random is a new one each night. It stands in the record, and CLINCUS_TEST_SEED=N makes
the same night again. `make release` wants a record of its own commit. With files of tests, `-k` or `-x` among the
flags only a part of a night runs; the record says which, and no release takes it.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REASON_LENGTH = 200  # characters of a failure's reason in the record
# Flags with which all tests run nevertheless.
SCHEDULE = ("--numprocesses=", "--dist=", "--durations=", "--basetemp=", "-q", "-v")
DONE = (0, 1)  # exit codes of a pytest that came to its end: all passed, some failed


@dataclass
class Night:
    """What came of the tests."""

    passed: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # test -> first line of the reason
    skipped: dict[str, str] = field(default_factory=dict)
    part: str = ""  # the flags that left tests out

    @property
    def figures(self) -> str:
        """As pytest counts them."""
        counts = {"failed": len(self.failed), "passed": self.passed, "skipped": len(self.skipped)}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "passed")

    @property
    def is_good(self) -> bool:
        """Whether something ran and nothing failed."""
        return self.passed > 0 and not self.failed


def read_report(path: Path) -> Night:
    """The night of a report in JUnit's format, as pytest writes it."""
    night = Night()
    for case in xml.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        problem = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        skip = case.find("skipped")
        if problem is not None:
            night.failed[name] = first_line(problem.get("message", ""))
        elif skip is not None:
            night.skipped[name] = first_line(skip.get("message", ""))
        else:
            night.passed += 1
    return night


def first_line(text: str) -> str:
    """The first line, as it may stand in a cell of a table."""
    line = (text.strip().splitlines() or ["no reason told"])[0]
    return line[:REASON_LENGTH].replace("|", "\\|").replace("<", "&lt;")


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


def result(night: Night) -> str:
    """The word for what came of it. That of a part is no word of a whole night."""
    word = "passed" if night.is_good else "failed"
    return f"a part {word}" if night.part else word


def record(night: Night, *, commit: str, began: float, seconds: float, seed: int) -> Iterator[str]:
    """The lines of docs/nightly.md."""
    yield "# The last night"
    yield ""
    yield "`.ci/nightly` writes this page. What it runs takes too long for each change: every test that is marked"
    yield "`nightly`. `make release` wants a night of its own commit in which nothing failed."
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| commit | {commit} |"
    yield f"| date | {time.strftime('%Y-%m-%d %H:%M', time.gmtime(began))} UTC |"
    yield f"| result | {result(night)}: {night.figures} in {seconds / 60:.0f} min |"
    if night.part:
        yield f"| only | `{night.part}` |"
    yield f"| seed | `CLINCUS_TEST_SEED={seed}` |"
    yield f"| machine | {machine()} |"
    for title, tests in (("Failed", night.failed), ("Skipped", night.skipped)):
        if tests:
            yield ""
            yield f"## {title}"
            yield ""
            yield "| test | reason |"
            yield "| --- | --- |"
            for name, reason in sorted(tests.items()):
                yield f"| `{name}` | {reason} |"
    yield ""


def run(seed: int, flags: Sequence[str]) -> Night:
    """Run the tests of a night."""
    with tempfile.TemporaryDirectory(prefix="clincus-night-") as folder:
        report = Path(folder) / "report.xml"
        argv = [sys.executable, "-m", "pytest", "-m", "nightly", "--timeout=3600", f"--junitxml={report}"]
        argv += [f"--hypothesis-seed={seed}", *flags]
        done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "CLINCUS_TEST_SEED": str(seed)}, check=False)
        night = read_report(report) if report.exists() else Night()
    if done.returncode not in DONE:
        night.failed["pytest"] = f"it ended with {done.returncode}, so not all tests ran"
    night.part = shlex.join(flag for flag in flags if not flag.startswith(SCHEDULE)).replace("|", "\\|")
    return night


def main() -> int:
    """Run a night, say what came of it, and write it down."""
    parser = argparse.ArgumentParser(description="Run the tests that are marked nightly.")
    parser.add_argument("--record", type=Path, help="write what came of it to this file")
    options, flags = parser.parse_known_args()
    seed = int(os.environ.get("CLINCUS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"the seed of this night: CLINCUS_TEST_SEED={seed}", flush=True)
    commit, began, clock = current_commit(), time.time(), time.monotonic()
    night = run(seed, flags)
    lines = record(night, commit=commit, began=began, seconds=time.monotonic() - clock, seed=seed)
    if options.record:
        options.record.write_text("\n".join(lines))
        print(f"{options.record}: {night.figures}")
    return 0 if night.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
