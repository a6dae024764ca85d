"""Measure the server: listings, create, start, idle. Prints a table; asserts nothing.

    python tests/bench/bench_server.py [dist/clincus.pyz]

As root it starts an Incus of its own, as the tests do.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import clincus
from tests import (
    incus_bed,
    programs,
)

PROGRAM = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else str(programs.ROOT / "clincus.py")
REQUESTS = 2000
CREATES = 7


def show(what: str, figure: str, goal: str = "") -> None:
    print(f"{what:58} {figure:>24}   {goal}", flush=True)


def milliseconds(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99) - 1]
    return f"p50 {p50 * 1000:.2f}  p99 {p99 * 1000:.2f} ms"


@contextmanager
def server(home: Path, bed: incus_bed.Bed):
    environ = {**os.environ, **bed.environ, "HOME": str(home)}
    argv = [sys.executable, *(["-I"] if PROGRAM.endswith(".pyz") else []), PROGRAM, "serve", "--port", "0"]
    running = programs.Server(argv, environ, home / "log", home)
    try:
        yield running
    finally:
        running.stop()


def listings(running: programs.Server) -> list[float]:
    """Seconds of each GET /api/sessions on one kept connection."""
    connection = http.client.HTTPConnection(running.host, running.port)
    taken = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        connection.request("GET", "/api/sessions")
        connection.getresponse().read()
        taken.append(time.perf_counter() - began)
    return taken


def create(running: programs.Server, workspace: Path) -> float:
    began = time.perf_counter()
    session = running.create(workspace)
    taken = time.perf_counter() - began
    running.delete(f"/api/sessions/{session['id']}?force=true")
    return taken


def floor(bed: incus_bed.Bed, description: dict) -> float:
    """One bare `incus launch` and one `incus exec` of the same description."""
    began = time.perf_counter()
    argv = ["incus", "launch", "--quiet", "clincus", "clincus-0f1007-1"]
    subprocess.run(argv, input=json.dumps(description).encode(), check=True, capture_output=True)
    argv = ["incus", "exec", "clincus-0f1007-1", "--user", "1000", "--", "tmux", "new-session", "-d"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    taken = time.perf_counter() - began
    bed.incus.run("delete", "--force", "clincus-0f1007-1")
    return taken


def description_of(bed: incus_bed.Bed, id: str) -> dict:
    """What a session was launched with: its own keys and devices, without what the image and Incus added."""
    instance = bed.incus.query(f"/1.0/instances/{id}")
    config = {key: value for key, value in instance["config"].items() if not key.startswith(("volatile.", "image."))}
    return {"config": config, "devices": instance["devices"]}


def first_answer(home: Path, bed: incus_bed.Bed) -> float:
    began = time.perf_counter()
    with server(home, bed) as running:
        running.get("/api/sessions")
        return time.perf_counter() - began


def wake_ups(pid: int) -> int:
    """How often the threads of a process have slept so far."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for status in statuses)


def usage(pid: int) -> tuple[float, float]:
    """Resident memory in MB and CPU seconds, of a process and its children."""
    pids = [pid, *map(int, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False).stdout.split())]
    ticks = sum(sum(map(int, Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) for one in pids)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024, ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    with incus_bed.own_daemon() as bed, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        home = Path(folder) / "home"
        workspaces = [Path(folder) / f"project-{number}" for number in range(2)]
        for path in (home, *workspaces):
            path.mkdir(parents=True)
        for path in workspaces:
            os.chown(path, 1000, 1000)
        starts = [first_answer(home, bed) for _ in range(5)]
        show("start to first answer", f"median {statistics.median(starts):.3f} s", "goal: under 0.4 s")
        with server(home, bed) as running:
            listings(running)
            show("GET /api/sessions, no session", milliseconds(listings(running)), "goal: p50 under 1 ms")
            create(running, workspaces[0])
            session = running.create(workspaces[0])
            description = description_of(bed, session["id"])
            running.delete(f"/api/sessions/{session['id']}?force=true")
            pairs = [(create(running, workspaces[0]), floor(bed, description)) for _ in range(CREATES)]
            ours, bare = (statistics.median(side) for side in zip(*pairs))
            show("create to running", f"median {ours:.3f} s")
            show("one bare launch and one exec", f"median {bare:.3f} s")
            ratio = statistics.median(one / other for one, other in pairs)
            show("ratio, pair by pair", f"{ratio:.2f}", "goal: at most 1.25")
            for number in range(20):
                running.create(workspaces[number % 2])
            show("GET /api/sessions, 20 sessions", milliseconds(listings(running)), "goal: p50 under 1 ms")
            for one in running.get("/api/sessions").json:
                running.delete(f"/api/sessions/{one['id']}?force=true")
        with server(home, bed) as running:
            running.get("/api/sessions")
            time.sleep(3)
            memory, before = usage(running.process.pid)
            woken = wake_ups(running.process.pid)
            time.sleep(120)
            woken = wake_ups(running.process.pid) - woken
            show("memory at rest", f"{memory:.1f} MB", "goal: under 40 MB")
            cpu = usage(running.process.pid)[1] - before
            show("CPU in 120 s at rest, with the monitor", f"{cpu:.2f} s", "goal: at most 0.03 s")
            show("wake-ups at rest", f"{woken / 120:.1f} a second", "goal: at most 2")
        bed.delete_all()


if __name__ == "__main__":
    print(f"clincus {clincus.__version__}, {PROGRAM}")
    main()
