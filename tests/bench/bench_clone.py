"""Create sessions on a clone and on the mounted folder, in turns, and print how long each took. Asserts nothing.

    python tests/bench/bench_clone.py [ROUNDS] [FILES]

As root it starts an Incus of its own, as the tests do. The second repository has so many files, and a tenth of them
are changed and not committed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests import incus_bed
from tests.programs import Server, git, program

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
FILES = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000


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
    begin = time.monotonic()
    session = server.create(folder, **fields)
    seconds = time.monotonic() - begin
    assert server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    return seconds


def main() -> None:
    """Print the median and the longest of each kind."""
    with incus_bed.own_daemon() as bed, tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        server = Server(
            [*program(), "serve", "--port", "0"], {**os.environ, **bed.environ, "HOME": str(home)}, home / "log", home
        )
        try:
            for files in (10, FILES):
                folder = make_repository(Path(scratch) / str(files), files)
                times: dict[str, list[float]] = {"mount": [], "clone": []}
                for _ in range(ROUNDS):
                    for mode, seconds in times.items():
                        seconds.append(time_of(server, folder, mode=mode))
                for mode, seconds in times.items():
                    middle, most = statistics.median(seconds), max(seconds)
                    print(f"{files:>6} files  {mode}  median {middle:6.2f} s  most {most:6.2f} s")
        finally:
            server.stop()
            server.kill()


if __name__ == "__main__":
    main()
