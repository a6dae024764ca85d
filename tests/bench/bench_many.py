"""Measure the server with 500 sessions on 20 engines. Prints a table; asserts nothing.

    python -m tests.bench.bench_many [SESSIONS [ENGINES]]

No Incus is needed: tests/bench/stand-in/incus answers in the place of the `incus` command.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from websockets.sync.client import connect

import clincus
from tests import programs
from tests.bench.measuring import Client, Process, percentile

GIVEN = [int(word) for word in sys.argv[1:] if word.isdigit()]
SESSIONS, ENGINES = (*GIVEN, *(500, 20)[len(GIVEN) :])
STAND_IN = Path(__file__).parent / "stand-in"


def show(what: str, figure: str, goal: str = "") -> None:
    print(f"{what:58} {figure:>24}   {goal}", flush=True)


def instance(number: int) -> dict:
    """An instance as Incus lists it."""
    workspace = f"/srv/projects/project-{number}"
    labels = {"workspace": workspace, "tool": "claude", "session_id": f"session-{number}", "protection": "locked"}
    return {
        "name": clincus.session_name("clincus-", workspace, 1),
        "status": "Running",
        "created_at": "2026-01-01T00:00:00Z",
        "last_used_at": "2026-01-01T00:00:00Z",
        "config": {clincus.LABEL + key: value for key, value in labels.items()},
    }


def lay_out(folder: Path) -> list[str]:
    """Write what the stand-in answers; the names of the engines."""
    names = [f"engine-{number}" for number in range(ENGINES)]
    for at, name in enumerate(names):
        here = [instance(number) for number in range(at, SESSIONS, ENGINES)]
        (folder / f"{name}.json").write_text(json.dumps(here))
    (folder / "local.json").write_text("[]")
    for name in ("local", *names):
        (folder / f"{name}.events").touch()
    return names


def calls(folder: Path) -> int:
    """How often the stand-in was called so far."""
    return len((folder / "calls").read_text().splitlines())


def settled(folder: Path) -> None:
    """Wait until nothing is asked any more but the looks now and then."""
    before = -1
    while (now := calls(folder)) - before > 5:
        before = now
        time.sleep(3)


def event(folder: Path, engine: str, name: str) -> None:
    """Let an engine say that an instance has changed."""
    metadata = {"action": "instance-updated", "name": name}
    line = json.dumps({"timestamp": clincus.utc_now(), "metadata": metadata})
    with (folder / f"{engine}.events").open("a") as file:
        file.write(f"{line}\n\n")


def change(folder: Path, engine: str, title: str) -> str:
    """Give the first session of an engine a name; that of its container."""
    path = folder / f"{engine}.json"
    here = json.loads(path.read_text())
    here[0]["config"][f"{clincus.LABEL}name"] = title
    path.with_suffix(".new").write_text(json.dumps(here))
    path.with_suffix(".new").replace(path)
    return str(here[0]["name"])


def heard(running: programs.Server, folder: Path, engine: str) -> tuple[list[float], int]:
    """Seconds from a change to the page's news of it, and how many calls of Incus one change costs."""
    taken, before = [], calls(folder)
    with connect(f"{running.socket_url}/ws/events", subprotocols=["clincus.events.v1"]) as events:
        for number in range(20):
            name = change(folder, engine, f"title {number}")
            began = time.perf_counter()
            event(folder, engine, name)
            while json.loads(events.recv(timeout=20)).get("id") != f"{engine}:{name}":
                pass
            taken.append(time.perf_counter() - began)
    return taken, calls(folder) - before


@contextlib.contextmanager
def many_sessions() -> Iterator[tuple[programs.Server, Path, list[str]]]:
    """A server that knows all sessions, the folder of the stand-in, and the names of the engines."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        folder, home = Path(place) / "engines", Path(place) / "home"
        (home / ".config" / "clincus").mkdir(parents=True)
        folder.mkdir()
        names = lay_out(folder)
        (home / ".config" / "clincus" / "config.toml").write_text("".join(f"[engines.{name}]\n" for name in names))
        environ = {**os.environ, "HOME": str(home), "STAND_IN": str(folder), "PATH": f"{STAND_IN}:{os.environ['PATH']}"}
        running = programs.Server([*programs.program(), "serve", "--port", "0"], environ, home / "log", home)
        try:
            while len(running.get("/api/sessions").json) < SESSIONS:
                time.sleep(0.05)
            yield running, folder, names
        finally:
            running.stop()


def main() -> None:
    began = time.perf_counter()
    with many_sessions() as (running, folder, names):
        show(f"start to {SESSIONS} sessions on {ENGINES} engines", f"{time.perf_counter() - began:.2f} s")
        settled(folder)
        show("start to the last tool looked at", f"{time.perf_counter() - began:.1f} s")
        size = len(running.get("/api/sessions").body)
        client = Client(running.host, running.port)
        p50, p99 = (percentile([client.get("/api/sessions")[0] for _ in range(2000)], share) for share in (0.5, 0.99))
        words = f"p50 {p50 * 1000:.2f}  p99 {p99 * 1000:.2f} ms"
        show(f"GET /api/sessions, {size >> 10} KiB", words, "goal: p50 under 5 ms")
        taken, asked = heard(running, folder, names[0])
        show("a change there to the event here", f"median {statistics.median(taken) * 1000:.0f} ms")
        show("calls of Incus for 20 changes", str(asked), "goal: 20, and the looks now and then")
        process = Process(running.process.pid)
        before = process.times
        time.sleep(60)
        own, others = (now - then for now, then in zip(process.times, before))
        show("CPU in 60 s at rest", f"{own:.2f} s, its children {others:.2f} s")
        show("memory of the server (PSS)", f"{process.memory:.0f} MB")
        show("threads", str(process.threads))


if __name__ == "__main__":
    print(f"clincus {clincus.__version__}")
    main()
