"""Runs the tests of the day, and those that failed once more, alone: `python -m tests.second_chance first|again`.

    first    the run itself, with pytest's flags. It fails only if it does not come to its end.
    again    those that failed, one after the other, on a machine that does nothing else any more.

A test that fails twice fails the run. One that then passes is *unsteady*: it is listed with its first error, at the end
and in dist/unsteady.txt, and is to be mended soon. More than ten of them fail the run as well.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests import outcomes

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dist" / "tests"
FIRST, AGAIN = FOLDER / "first.jsonl", FOLDER / "again.jsonl"
UNSTEADY = ROOT / "dist" / "unsteady.txt"
MOST_UNSTEADY = 10
MOST_REPEATED = 40  # where more fail, it is no chance, and the first reports say more than a second run
CAME_TO_ITS_END = (0, 1)  # exit codes of pytest: all passed, some failed


def run_pytest(record: Path, words: Sequence[str]) -> int:
    """Run pytest with a record of its outcomes; its exit code."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "pytest", f"--outcomes={record}", *words], cwd=ROOT, check=False
    ).returncode


def failed(record: Path) -> dict[str, str]:
    """The tests of a record that failed, each with the first line of its error."""
    return {test: one.reason for test, one in outcomes.read(record).items() if one.word == "failed"}


def verdict(first: dict[str, str], twice: dict[str, str]) -> tuple[int, list[str]]:
    """The exit code of a run, and the lines that say how steady it was."""
    unsteady = {test: reason for test, reason in first.items() if test not in twice}
    lines = [f"{len(unsteady)} unsteady, {len(twice)} failed twice"] if first else ["no test failed"]
    lines += [f"unsteady: {test}: {reason}" for test, reason in sorted(unsteady.items())]
    lines += [f"failed twice: {test}: {reason}" for test, reason in sorted(twice.items())]
    return int(bool(twice) or len(unsteady) > MOST_UNSTEADY), lines


def again() -> int:
    """Run the failed tests once more, and say which of them are unsteady."""
    if not FIRST.exists():
        print("the first run has not begun")
        return 1
    first = failed(FIRST)
    twice = first if len(first) > MOST_REPEATED else {}
    if first and not twice:
        tests = FOLDER / "again.txt"
        tests.write_text("\n".join(first))
        print(f"{len(first)} tests failed, and run once more, alone", flush=True)
        code = run_pytest(AGAIN, ["--numprocesses=0", f"@{tests}"])
        twice = failed(AGAIN) if code in CAME_TO_ITS_END else first
    code, lines = verdict(first, twice)
    print("\n".join(lines))
    UNSTEADY.write_text("\n".join([*lines, ""]))
    return code


def main(words: Sequence[str]) -> int:
    """Do one of the two."""
    if words[0] == "again":
        return again()
    code = run_pytest(FIRST, words[1:])
    return 0 if code in CAME_TO_ITS_END else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
