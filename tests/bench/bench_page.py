"""The page in a real Chromium: its first load, and the way of an event to it. bench_all.py runs it."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from playwright.sync_api import Browser, Page, sync_playwright

import clincus
from tests import programs
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, percentile, timed
from tests.browser import browser_bed

LOADS = 7
SLOW_DOWN = 4  # of the CPU, for the times of a first load
SETTLED_MS = 4000  # long enough for all that the page fetches by itself
CHANGES = 25
SESSIONS = 20  # beside the one of which an event tells

# When something is there for the first time, in milliseconds since the load began.
WATCH_FIRST = """window.found = new Promise((resolve) => {
    new MutationObserver(() => {
        const one = document.querySelector('SELECTOR');
        if (one?.textContent.trim()) requestAnimationFrame(() => resolve(performance.now()));
    }).observe(document, { childList: true, subtree: true, characterData: true });
});"""
# All events that a page hears, with the time of their arrival in milliseconds.
LISTEN = """address => new Promise(resolve => {
    window.heard = [];
    const socket = new WebSocket(address, ['clincus.events.v1']);
    const now = () => performance.timeOrigin + performance.now();
    socket.onmessage = ({ data }) => window.heard.push([JSON.parse(data).id, now()]);
    socket.onopen = () => resolve(true);
})"""
HEARD = "([id, since]) => window.heard.find(([one, at]) => one === id && at > since)?.[1]"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_bed.chromium(), args=browser_bed.FLAGS)
        yield browser
        browser.close()


# -- A first load


def cost_of(browser: Browser, address: str) -> tuple[int, int, int]:
    """Bytes and requests of a first load of an address, and the bytes of a reload."""
    with browser.new_page() as page:
        wire = browser_bed.Wire(page)
        page.goto(address)
        page.wait_for_timeout(SETTLED_MS)
        requests, first = wire.answers, wire.take()
        page.reload()
        page.wait_for_timeout(SETTLED_MS)
        return first, requests, wire.take()


def first_seen(browser: Browser, address: str, selector: str) -> float:
    """Seconds from the start of a load with an empty cache, on a slow machine, to something that can be used.

    The page is closed at the end: Chromium slows a page down by keeping a core busy, also when nothing happens in it.
    """
    with browser.new_page() as page:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOW_DOWN})
        page.add_init_script(WATCH_FIRST.replace("SELECTOR", selector))
        page.goto(address)
        return float(page.evaluate("window.found")) / 1000


def first_pages(made: House, results: Results) -> None:
    [id, *_] = made.sessions(1)
    with made.server() as server, chromium() as browser:
        terminal = f"{server.url}/sessions/{id}"
        first, requests, reload = cost_of(browser, terminal)
        of_list, requests_of_list, _ = cost_of(browser, server.url)
        lists = [first_seen(browser, server.url, "main li a") for _ in range(LOADS)]
        terminals = [first_seen(browser, terminal, ".xterm-rows") for _ in range(LOADS)]
    note = f"of the list alone {of_list / 1000:.0f} KB, {requests_of_list} requests; a reload {reload / 1000:.0f} KB"
    slow = f"cold, CPU {SLOW_DOWN} times slower"
    results.add(
        Row("first page with a terminal: bytes", "KB", first / 1000, 150, note=note),
        Row("first page with a terminal: requests", "", requests, 8),
        Row.of("first page: usable list", "s", lists, 0.8, note=slow),
        Row.of("first page: usable terminal", "s", terminals, 1.5, note=slow),
    )


# -- An event


@contextlib.contextmanager
def incus_monitor() -> Iterator[Callable[[str, float], float]]:
    """Ask when `incus monitor` itself told of the first event of an instance since a time; 0 if it did not so far."""
    argv = ["incus", "monitor", "--type", "lifecycle", "--format", "json"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    lines: list[tuple[float, str]] = []

    def read() -> None:
        for line in process.stdout or ():
            if line.strip():
                lines.append((time.time(), json.loads(line)["metadata"].get("name")))

    threading.Thread(target=read, daemon=True).start()
    time.sleep(1)
    try:
        yield lambda name, since: next((at for at, one in lines if at > since and one == name), 0.0)
    finally:
        process.terminate()
        process.wait()


def delays(made: House, page: Page, server: programs.Server, id: str) -> tuple[list[float], list[float]]:
    """Seconds from an action of Incus to the page and to `incus monitor`, change by change."""
    page.goto(server.url)
    page.evaluate(LISTEN, f"{server.socket_url}/ws/events")
    ours, baseline = [], []
    with incus_monitor() as told_at:
        for number in range(CHANGES):
            time.sleep(0.3)
            began = time.time()
            change = {"config": {f"{clincus.LABEL}persistent": "false" if number % 2 else "true"}}
            made.bed.incus.query(f"/1.0/instances/{id}", "PATCH", change)
            at = page.wait_for_function(HEARD, arg=[id, began * 1000], polling=5).json_value()
            told = programs.wait_until(lambda since=began: told_at(id, since), "the monitor's line")
            ours.append(at / 1000 - began)
            baseline.append(told - began)
    return ours, baseline


def events(made: House, results: Results) -> None:
    made.sessions(SESSIONS)
    with made.server() as server, chromium() as browser:
        ids = [session["id"] for session in server.get("/api/sessions").json]
        ours, baseline = delays(made, browser.new_page(), server, ids[0])
    query = statistics.median(timed(lambda: made.bed.incus.query(f"/1.0/instances/{ids[0]}")) for _ in range(9))
    more = statistics.median(one - other for one, other in zip(ours, baseline))
    note = f"pair by pair {more * 1000:+.1f} ms, p90 {percentile(ours, 0.9) * 1000:.0f} ms; "
    note += f"one `incus query` of an instance, which each event takes: {query * 1000:.1f} ms"
    figure = f"event, {len(ids)} sessions: Incus action to browser"
    results.add(Row.of(figure, "s", ours, 0.010, baselines=baseline, compare="more", note=note))
