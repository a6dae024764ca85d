"""Measure the page: bytes of a first load and of a reload, the first paint of the list, typing echo. Prints a table.

    python tests/bench/bench_page.py

A real Chromium against a real server on a real Incus; as root it starts an Incus of its own, as the tests do.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "browser"),
]

import browser_bed
from playwright.sync_api import (
    Page,
    sync_playwright,
)

from tests import (
    incus_bed,
    programs,
)

LOADS = 7
KEYS = 200
SETTLED_MS = 4000  # long enough for all that the page fetches by itself

# From the key's event to the change of the terminal's rows, in the page's own clock.
WATCH_ECHO = """() => {
    window.echoes = [];
    let pressed = 0;
    document.addEventListener('keydown', () => (pressed = performance.now()), true);
    const rows = [...document.querySelectorAll('.xterm-rows')].find(one => one.offsetParent);
    new MutationObserver(() => {
        if (!pressed) return;
        window.echoes.push(performance.now() - pressed);
        pressed = 0;
    }).observe(rows, { childList: true, subtree: true, characterData: true });
}"""


def bytes_of(page: Page, address: str) -> tuple[int, int]:
    """What a first load and a reload of an address cost."""
    wire = browser_bed.Wire(page)
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    first = wire.take()
    page.reload()
    page.wait_for_timeout(SETTLED_MS)
    return first, wire.take()


def list_painted(page: Page, address: str) -> float:
    """Milliseconds from the start of a load with an empty cache to the first session in the list."""
    page.goto(address)
    page.locator("main li a").first.wait_for()
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def echoes(page: Page, address: str) -> list[float]:
    """Milliseconds from key to echo, one key at a time, in a shell of the session."""
    page.goto(address)
    page.locator(".xterm-rows:visible", has_text="$").wait_for()
    page.keyboard.type("cat\n")
    page.wait_for_timeout(500)
    page.evaluate(WATCH_ECHO)
    for count in range(KEYS):
        page.keyboard.press("Enter" if count % 60 == 59 else "x")
        page.wait_for_function("seen => window.echoes.length > seen", arg=count)
    return list(page.evaluate("window.echoes"))


def measure(server: programs.Server, session: dict[str, Any]) -> None:
    """Take all measurements and print the table."""
    terminal = f"{server.url}/sessions/{session['id']}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_bed.chromium(), args=browser_bed.FLAGS)
        first, reload = bytes_of(browser.new_context().new_page(), terminal)
        paints = [list_painted(browser.new_context().new_page(), server.url) for _ in range(LOADS)]
        keys = sorted(echoes(browser.new_context().new_page(), f"{terminal}/shell"))
        browser.close()
    print(f"first load with the terminal, all answers   {first:8d} bytes")
    print(f"reload, all answers                         {reload:8d} bytes")
    print(f"first paint of the list, cold cache         {statistics.median(paints):8.0f} ms, median of {LOADS}")
    print(f"typing echo, p50                            {statistics.median(keys):8.1f} ms of {KEYS} keys")
    print(f"typing echo, p95                            {keys[int(len(keys) * 0.95)]:8.1f} ms")


def main() -> None:
    """Bring up Incus, a server and one session, and measure."""
    with incus_bed.own_daemon() as bed, tempfile.TemporaryDirectory() as folder:
        home, project = Path(folder) / "home", Path(folder) / "root" / "project"
        home.mkdir()
        project.mkdir(parents=True)
        Path(folder).chmod(0o755)
        os.chown(project, 1000, 1000)
        argv = [*programs.program(), "serve", "--port", "0"]
        server = programs.Server(argv, {**os.environ, **bed.environ, "HOME": str(home)}, home / "log", cwd=home)
        session = server.create(project)
        try:
            measure(server, session)
        finally:
            server.delete(f"/api/sessions/{session['id']}?force=true")
            server.stop()


if __name__ == "__main__":
    main()
