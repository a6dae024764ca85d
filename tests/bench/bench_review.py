"""Measure checkpoints and lists of changes: 20,000 files, 5,000 changed ones, NEW (100,000) new ones. Asserts nothing.

    python tests/bench/bench_review.py [NEW]

As root it starts an Incus of its own, as the tests do. The baseline of a checkpoint is git's own work in the container.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, main, timed
from tests.programs import wait_until

FILES, CHANGED = 20_000, 5_000
NEW = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
REPEATS = 7
GIT = "rm -rf /tmp/f; git init -q --bare /tmp/f; GIT_DIR=/tmp/f GIT_WORK_TREE=/workspace git -c core.bare=false"


def fill(folder: Path, count: int, name: str = "d") -> None:
    """Make so many files of some lines."""
    for number in range(count):
        place = folder / f"{name}{number // 200}"
        place.mkdir(exist_ok=True)
        file = place / f"{number}.txt"
        file.write_text(f"line {number}\n" * 40)
        for path in (place, file):
            os.chown(path, 1000, 1000)


def measure(made: House, results: Results) -> None:
    """All of it."""
    small, large = made.workspace(0), made.workspace(1)
    fill(large, FILES)

    def show(what: str, seconds: float, goal: float | None = None) -> None:
        results.add(Row(what, "s", seconds, goal))

    with made.server() as server:
        wait_until(lambda: server.get("/api/sessions").status == 200, "Incus")
        server.create(small)
        show("create a session, empty folder", timed(lambda: server.create(small)))
        began = time.perf_counter()
        session = server.create(large)["id"]
        show(f"create a session, {FILES} files (nothing is held up)", time.perf_counter() - began)
        path = f"/api/sessions/{session}"
        wait_until(lambda: server.get(f"{path}/checkpoints").json, "the first checkpoint", timeout=300)
        first = time.perf_counter() - began
        baseline = timed(lambda: made.bed.shell(session, f"{GIT} add -A"))
        note = "from the request to create; baseline: git add of all in the container, a command there takes "
        note += f"{timed(lambda: made.bed.shell(session, 'true')):.2f} s"
        results.add(Row(f"first checkpoint of {FILES} files", "s", first, 3, baseline, note=note))
        later = []
        for number in range(REPEATS):
            (large / "d0" / "0.txt").write_text(f"{number}\n")
            later.append(timed(lambda: server.post(f"{path}/checkpoints", {})))
        show("a later checkpoint, one file changed", statistics.median(later), 0.5)
        for number in range(CHANGED):
            (large / f"d{number // 200}" / f"{number}.txt").write_text("changed\n")
        show(f"list {CHANGED} changed files, with a look", timed(lambda: server.get(f"{path}/changes")))
        show(f"list {CHANGED} changed files again", timed(lambda: server.get(f"{path}/changes")), 1)
        show("one file's two texts", timed(lambda: server.get(f"{path}/changes/file?path=d0/0.txt")))
        answer = server.post(f"{path}/restore", {"checkpoint": "start"}, timeout=300)
        results.add(Row("files that an undo restored", "", len(answer.json["restored"])))
        fill(large, NEW, "new")
        show(f"list {NEW} new files (cut to 10,000)", timed(lambda: server.get(f"{path}/changes", timeout=300)))
        store = server.home / ".clincus" / "checkpoints"
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        results.add(Row("store of all that", "MB", size / 1e6))


if __name__ == "__main__":
    main(measure)
