"""Create sessions on a clone and on the mounted folder, in turns, and print how long each took. Asserts nothing.

    python tests/bench/bench_clone.py [ROUNDS] [FILES]

As root it starts an Incus of its own, as the tests do. The second repository has so many files, and a tenth of them
are changed and not committed.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, delete, in_turns, main
from tests.programs import Server, git

GIVEN = [int(word) for word in sys.argv[1:] if word.isdigit()] if __name__ == "__main__" else []
ROUNDS, FILES = (*GIVEN, *(5, 20_000)[len(GIVEN) :])


def make_repository(folder: Path, files: int) -> Path:
    """A repository with so many small files, a tenth of them changed since."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for number in range(files):
        path = folder / f"{number % 100:02}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"file {number}\n" * 40)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=Begin")
    for number in range(files // 10):
        (folder / f"{number % 100:02}" / f"{number}.txt").write_text(f"changed {number}\n" * 40)
    return folder


def time_of(server: Server, folder: Path, **fields: str) -> float:
    """Seconds that a create takes; the session is deleted afterwards."""
    began = time.perf_counter()
    session = server.create(folder, **fields)
    seconds = time.perf_counter() - began
    delete(server, session["id"])
    return seconds


def measure(made: House, results: Results) -> None:
    """The median of each kind, and the longest."""
    with made.server() as server:
        for files in (10, FILES):
            folder = make_repository(made.folder / str(files), files)
            clones, mounts = in_turns(
                ROUNDS,
                *(lambda mode=mode, folder=folder: time_of(server, folder, mode=mode) for mode in ("clone", "mount")),
            )
            note = f"the baseline is the mounted folder; most {max(clones):.2f} and {max(mounts):.2f} s"
            figure = f"create on a clone, {files} files"
            results.add(
                Row(
                    figure,
                    "s",
                    statistics.median(clones),
                    baseline=statistics.median(mounts),
                    compare="times",
                    note=note,
                )
            )


if __name__ == "__main__":
    main(measure)
