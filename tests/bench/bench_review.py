"""Measure checkpoints and lists of changes: 20,000 files, 5,000 changed ones, NEW (100,000) new ones. Asserts nothing.

    python tests/bench/bench_review.py [NEW]

As root it starts an Incus of its own, as the tests do. The floor of a checkpoint is git's own work in the container.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests import incus_bed
from tests.programs import Server, program, wait_until

FILES, CHANGED = 20_000, 5_000
NEW = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
REPEATS = 7
GIT = "rm -rf /tmp/f; git init -q --bare /tmp/f; GIT_DIR=/tmp/f GIT_WORK_TREE=/workspace git -c core.bare=false"


def show(what: str, seconds: float, goal: str = "") -> None:
    print(f"{what:70} {seconds:8.3f} s   {goal}", flush=True)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fill(folder: Path, count: int, name: str = "d") -> None:
    """Make so many files of some lines."""
    for number in range(count):
        place = folder / f"{name}{number // 200}"
        place.mkdir(exist_ok=True)
        file = place / f"{number}.txt"
        file.write_text(f"line {number}\n" * 40)
        for path in (place, file):
            os.chown(path, 1000, 1000)


def main() -> None:
    with contextlib.ExitStack() as held:
        bed = held.enter_context(incus_bed.own_daemon())
        home = Path(held.enter_context(tempfile.TemporaryDirectory()))
        held.callback(bed.delete_all)  # before the folders that they mount
        config = home / ".config" / "clincus" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(bed.config)
        small, large = home / "small", home / "large"
        for folder in (small, large):
            folder.mkdir()
            os.chown(folder, 1000, 1000)
        fill(large, FILES)
        environ = {**os.environ, **bed.environ, "HOME": str(home)}
        server = Server([*program(), "serve", "--port", "0"], environ, home / "log", home)
        held.callback(server.stop)
        wait_until(lambda: server.get("/api/sessions").status == 200, "Incus")
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
        server.create(small)
        show("create a session, empty folder", timed(lambda: server.create(small)))
        began = time.perf_counter()
        session = server.create(large)["id"]
        show(f"create a session, {FILES} files (nothing is held up)", time.perf_counter() - began)
        path = f"/api/sessions/{session}"
        wait_until(lambda: server.get(f"{path}/checkpoints").json, "the first checkpoint", timeout=300)
        show(f"first checkpoint of {FILES} files, from the request to create", time.perf_counter() - began, "goal 3 s")
        show(f"  floor: git add of {FILES} files in the container", timed(lambda: bed.shell(session, f"{GIT} add -A")))
        show("  floor: a command in the container", timed(lambda: bed.shell(session, "true")))
        later = []
        for number in range(REPEATS):
            (large / "d0" / "0.txt").write_text(f"{number}\n")
            later.append(timed(lambda: server.post(f"{path}/checkpoints", {})))
        show("a later checkpoint, one file changed (median)", statistics.median(later), "goal 0.5 s")
        for number in range(CHANGED):
            (large / f"d{number // 200}" / f"{number}.txt").write_text("changed\n")
        show(
            f"list {CHANGED} changed files, with a look at the workspace", timed(lambda: server.get(f"{path}/changes"))
        )
        show(
            f"list {CHANGED} changed files again", timed(lambda: server.get(f"{path}/changes")), "goal 1 s in the page"
        )
        show("one file's two texts", timed(lambda: server.get(f"{path}/changes/file?path=d0/0.txt")))
        answer = server.post(f"{path}/restore", {"checkpoint": "start"}, timeout=300)
        print(f"{'undo of ' + str(CHANGED) + ' files':70} {len(answer.json['restored'])} restored")
        fill(large, NEW, "new")
        show(f"list {NEW} new files (cut to 10,000)", timed(lambda: server.get(f"{path}/changes", timeout=300)))
        size = sum(path.stat().st_size for path in (home / ".clincus" / "checkpoints").rglob("*") if path.is_file())
        print(f"{'store of all that':70} {size / 1e6:8.1f} MB")
        server.request("DELETE", f"{path}?force=true")


main()
