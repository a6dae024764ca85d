"""What became of each test of a run: written down as it ends, and read by the second chance and by the night.

`pytest --outcomes=FILE` writes a line of JSON for each end of a test, so that a run which is cut off loses nothing.
`pytest --skip-passed=FILE` leaves out the tests whose names stand in a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

REASON_LENGTH = 300  # characters
WORST_LAST = ("passed", "skipped", "failed")


@dataclass(frozen=True)
class Outcome:
    """What became of a test."""

    word: str  # passed, skipped, failed
    reason: str = ""  # the first line of why it failed or was skipped


class Recorder:
    """Writes down each outcome. Of a run with several workers, the process that tells them what to do does so."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has passed if nothing of its beginning, itself and its end failed."""
        if report.passed and report.when != "call":
            return
        line = {"test": report.nodeid, "word": report.outcome, "reason": reason_of(report)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def reason_of(report: pytest.TestReport) -> str:
    """The first line of why a test failed or was skipped; "" for one that passed."""
    if report.passed:
        return ""
    told = report.longrepr
    if isinstance(told, tuple):
        text = str(told[2])
    else:
        crash = getattr(told, "reprcrash", None)
        text = str(crash.message if crash else told)
    return (text.strip().splitlines() or ["no reason told"])[0][:REASON_LENGTH]


def read(*files: Path) -> dict[str, Outcome]:
    """The outcome of each test: the worst one within a run, and that of the last of several runs."""
    found: dict[str, Outcome] = {}
    for file in files:
        run: dict[str, Outcome] = {}
        for line in file.read_text().splitlines():
            one = json.loads(line)
            known = run.get(one["test"])
            if known is None or WORST_LAST.index(one["word"]) > WORST_LAST.index(known.word):
                run[one["test"]] = Outcome(one["word"], one["reason"])
        found.update(run)
    return found


def leave_out(items: list[pytest.Item], config: pytest.Config) -> None:
    """Take the tests out of a run whose names stand in the file of --skip-passed."""
    names = set(Path(config.option.skip_passed).read_text().splitlines())
    left = [item for item in items if item.nodeid in names]
    items[:] = [item for item in items if item.nodeid not in names]
    config.hook.pytest_deselected(items=left)
