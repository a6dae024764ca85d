"""Measure an event's way from an action of Incus to a page in Chromium, beside `incus monitor`. Asserts nothing.

    python tests/bench/bench_events.py

As root it starts an Incus of its own, as the tests do.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "browser"),
]

import browser_bed
from playwright.sync_api import Page, sync_playwright

import clincus
from tests import programs
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, main, percentile, timed

CHANGES = 25
SESSIONS = 20
NUMBERS = itertools.count()
# All events that a page hears, with the time of their arrival in milliseconds.
LISTEN = """address => new Promise(resolve => {
    window.heard = [];
    const socket = new WebSocket(address, ['clincus.events.v1']);
    const now = () => performance.timeOrigin + performance.now();
    socket.onmessage = ({ data }) => window.heard.push([JSON.parse(data).id, now()]);
    socket.onopen = () => resolve(true);
})"""
HEARD = "([id, since]) => window.heard.find(([one, at]) => one === id && at > since)?.[1]"


class IncusMonitor:
    """What `incus monitor` itself prints, with the time."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, dict]] = []
        argv = ["incus", "monitor", "--type", "lifecycle", "--format", "json"]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.strip():
                self.lines.append((time.time(), json.loads(line)))

    def told(self, name: str, since: float) -> float:
        """When it told of the first event of an instance since a time; 0 if it did not so far."""
        return next((at for at, event in self.lines if at > since and event["metadata"].get("name") == name), 0.0)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def incus_monitor() -> Iterator[IncusMonitor]:
    """A monitor that listens."""
    monitor = IncusMonitor()
    time.sleep(1)
    try:
        yield monitor
    finally:
        monitor.close()


def delays(made: House, page: Page, server: programs.Server, id: str) -> tuple[list[float], list[float]]:
    """Seconds from an action of Incus to the page and to `incus monitor`, change by change."""
    page.goto(server.url)
    page.evaluate(LISTEN, f"{server.socket_url}/ws/events")
    ours, baseline = [], []
    with incus_monitor() as monitor:
        for _ in range(CHANGES):
            time.sleep(0.3)
            began = time.time()
            value = "true" if next(NUMBERS) % 2 == 0 else "false"  # a change each time, also in a further call
            change = {"config": {f"{clincus.LABEL}persistent": value}}
            made.bed.incus.query(f"/1.0/instances/{id}", "PATCH", change)
            at = page.wait_for_function(HEARD, arg=[id, began * 1000], polling=5).json_value()
            told = programs.wait_until(lambda since=began: monitor.told(id, since), "the monitor's line")
            ours.append(at / 1000 - began)
            baseline.append(told - began)
    return ours, baseline


def ways(made: House, server: programs.Server, results: Results) -> None:
    """The row of an event's way."""
    ids = [session["id"] for session in server.get("/api/sessions").json]
    id, count = ids[0], len(ids)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_bed.chromium(), args=browser_bed.FLAGS)
        ours, baseline = delays(made, browser.new_page(), server, id)
        browser.close()
    query = statistics.median(timed(lambda: made.bed.incus.query(f"/1.0/instances/{id}")) for _ in range(9))
    more = statistics.median(one - other for one, other in zip(ours, baseline))
    note = f"pair by pair {more * 1000:+.1f} ms, p90 {percentile(ours, 0.9) * 1000:.0f} ms; "
    note += f"one `incus query` of an instance, which each event takes: {query * 1000:.1f} ms"
    results.add(
        Row.of(
            f"event, {count} sessions: Incus action to browser", "s", ours, 0.010, baselines=baseline, compare="more",
            note=note,
        )
    )  # fmt: skip


def events(made: House, results: Results, count: int = SESSIONS) -> None:
    """It alone, with so many sessions."""
    made.sessions(count)
    with made.server() as server:
        ways(made, server, results)


if __name__ == "__main__":
    main(events)
