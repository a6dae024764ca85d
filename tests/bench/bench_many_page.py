"""Measure the page with 500 sessions on 20 engines, in Chromium. Prints a table; asserts nothing.

    python -m tests.bench.bench_many_page [SESSIONS [ENGINES]]

No Incus is needed: tests/bench/stand-in/incus answers in the place of the `incus` command. What Chromium's own threads
took is counted, so the figures hold on a busy machine as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

import clincus
from tests import programs
from tests.bench.bench_page import chromium
from tests.browser import browser_bed
from tests.bench.bench_many import ENGINES, SESSIONS, change, event, many_sessions, settled, show

EVENTS = 10
SEARCH = "project-4"
QUIET_MS = 3000

# Counts the rows in which anything changes.
WATCH_ROWS = """() => {
    window.touched = new Set();
    new MutationObserver((changes) => {
        for (const { target } of changes) {
            const row = (target instanceof Element ? target : target.parentElement)?.closest('li');
            if (row) window.touched.add(row);
        }
    }).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });
}"""


class Meter:
    """What the page's main thread has taken so far, as Chromium counts it."""

    def __init__(self, page: Page) -> None:
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def figures(self) -> dict[str, float]:
        """CPU seconds and counts by their names."""
        answer = self._devtools.send("Performance.getMetrics")
        return {one["name"]: float(one["value"]) for one in answer["metrics"]}

    def spent(self, work: Callable[[], object]) -> str:
        """Some work's CPU time on the main thread: all of it, and the parts."""
        before = self.figures()
        work()
        after = self.figures()
        taken = {name: (after[name] - before[name]) * 1000 for name in after if name.endswith("Duration")}
        parts = ("TaskDuration", "ScriptDuration", "RecalcStyleDuration", "LayoutDuration")
        return " / ".join(f"{taken[name]:.0f}" for name in parts) + " ms"


def load(page: Page, address: str) -> float:
    """Open the list; milliseconds of the page's clock until its first row is there."""
    page.goto(address)
    page.locator("main li a").first.wait_for(timeout=300_000)
    return float(page.evaluate("performance.now()"))


def hear_of(page: Page, folder: Path, engine: str, title: str) -> None:
    """Let one session have another name, and wait until the sidebar shows it."""
    event(folder, engine, change(folder, engine, title))
    page.locator("nav .name", has_text=title).wait_for(state="attached")


def first_looks(page: Page, running: programs.Server, folder: Path) -> None:
    """The rows of a page that is open while the server looks at each tool for the first time."""
    meter = Meter(page)
    at: list[float] = []

    def work() -> None:
        at.append(load(page, running.url))
        settled(folder)

    show("from the server's start to the last first look", meter.spent(work))
    show("its first row, of the page's own clock", f"{at[0]:.0f} ms")


def measure(page: Page, running: programs.Server, folder: Path, names: list[str]) -> None:
    """The rows of the table."""
    meter = Meter(page)
    at: list[float] = []
    show("the list: CPU all / script / style / layout", meter.spent(lambda: at.append(load(page, running.url))))
    show("the list: its first row, of the page's own clock", f"{at[0]:.0f} ms")
    show("after it, until nothing is to be done", meter.spent(lambda: page.wait_for_timeout(QUIET_MS)))
    figures = meter.figures()
    show("elements of the page", f"{figures['Nodes']:.0f}")
    show("heap", f"{figures['JSHeapUsedSize'] / 1e6:.1f} MB")
    show("ten seconds of rest", meter.spent(lambda: page.wait_for_timeout(10_000)))
    page.evaluate(WATCH_ROWS)
    wire = browser_bed.Wire(page)
    for number in range(2):  # warm
        hear_of(page, folder, names[0], f"warm {number}")
    page.evaluate("window.touched.clear()")
    wire.take()

    def events() -> None:
        for number in range(EVENTS):
            hear_of(page, folder, names[0], f"title {number}")

    show(f"{EVENTS} events of one session", meter.spent(events))
    show("rows that they touched", str(page.evaluate("window.touched.size")), "goal: its own, in list and sidebar")
    show("bytes for each", f"{wire.take() // EVENTS:,}")
    page.keyboard.press("Control+k")
    page.locator(".palette-input").wait_for()
    for letter in SEARCH:
        taken = meter.spent(lambda key=letter: (page.keyboard.type(key), page.wait_for_timeout(300)))
        show(f"the palette: the key {letter!r}", taken)


def main() -> None:
    with chromium() as browser, many_sessions() as (running, folder, names):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        first_looks(page, running, folder)
        measure(page, running, folder, names)


if __name__ == "__main__":
    print(f"clincus {clincus.__version__}; {SESSIONS} sessions on {ENGINES} engines")
    main()
