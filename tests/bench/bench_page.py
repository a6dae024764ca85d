"""Measure the page: bytes and requests of a first load, when it can be used, a state's way to it, typing echo.

    python tests/bench/bench_page.py

Prints a table. A real Chromium against a real server on a real Incus; as root it starts an Incus of its own, as the
tests do.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
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
STATES = 40
SLOW_DOWN = 4  # of the CPU, for the times of a first load
RING_PAUSE_MS = 1200  # guest/ring.sh rings once a second at most
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


# When something is there for the first time, in milliseconds since the load began.
WATCH_FIRST = """window.found = new Promise((resolve) => {
    new MutationObserver(() => {
        const one = document.querySelector('SELECTOR');
        if (one?.textContent.trim()) requestAnimationFrame(() => resolve(performance.now()));
    }).observe(document, { childList: true, subtree: true, characterData: true });
});"""

# Each word that a session's row has for its state, with the time.
WATCH_STATE = """() => {
    window.states = [];
    new MutationObserver(() => {
        const word = document.querySelector('main li .state')?.textContent.trim();
        if (word && word !== window.states.at(-1)?.[0]) window.states.push([word, Date.now()]);
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def cost_of(page: Page, address: str) -> tuple[int, int, int]:
    """Bytes and requests of a first load of an address, and the bytes of a reload."""
    wire = browser_bed.Wire(page)
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    requests, first = wire.answers, wire.take()
    page.reload()
    page.wait_for_timeout(SETTLED_MS)
    return first, requests, wire.take()


def first_seen(page: Page, address: str, selector: str) -> float:
    """Milliseconds from the start of a load with an empty cache, on a slow machine, to something that can be used."""
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOW_DOWN})
    page.add_init_script(WATCH_FIRST.replace("SELECTOR", selector))
    page.goto(address)
    return float(page.evaluate("window.found"))


def states_seen(page: Page, address: str, shell: Callable[[str], str]) -> list[float]:
    """Milliseconds from a hook in the container to its word on the session's row in the list."""
    page.goto(address)
    page.locator("main li a").first.wait_for()
    page.evaluate(WATCH_STATE)
    took = []
    for count in range(STATES):
        event, word = ("UserPromptSubmit", "Working") if count % 2 == 0 else ("Stop", "Done")
        line = shell(f"echo '{{}}' | ~/.clincus/hook {event} ring; tail -n 1 ~/.clincus/agent/events")
        at = float(json.loads(line)["at"]) * 1000
        seen = "([word, at]) => window.states.find(([one, when]) => one === word && when > at)?.[1]"
        took.append(page.wait_for_function(seen, arg=[word, at]).json_value() - at)
        page.wait_for_timeout(RING_PAUSE_MS)
    return took


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


def measure(server: programs.Server, session: dict[str, Any], shell: Callable[[str], str]) -> None:
    """Take all measurements and print the table; `shell` runs a script in the session's container."""
    terminal = f"{server.url}/sessions/{session['id']}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_bed.chromium(), args=browser_bed.FLAGS)
        open_page = lambda: browser.new_context().new_page()  # noqa: E731
        first, requests, reload = cost_of(open_page(), terminal)
        of_list, requests_of_list, _ = cost_of(open_page(), server.url)
        lists = [first_seen(open_page(), server.url, "main li a") for _ in range(LOADS)]
        terminals = [first_seen(open_page(), terminal, ".xterm-rows") for _ in range(LOADS)]
        states = sorted(states_seen(open_page(), server.url, shell))
        keys = sorted(echoes(open_page(), f"{terminal}/shell"))
        browser.close()
    print(f"first load with the terminal, all answers   {first:8d} bytes, {requests} requests")
    print(f"first load of the list, all answers         {of_list:8d} bytes, {requests_of_list} requests")
    print(f"reload with the terminal, all answers       {reload:8d} bytes")
    print(
        f"list can be used, cold, {SLOW_DOWN} times slower CPU    {statistics.median(lists):8.0f} ms, median of {LOADS}"
    )
    print(f"terminal is drawn, the same                 {statistics.median(terminals):8.0f} ms, median of {LOADS}")
    print(f"hook to the row's word, p50                 {statistics.median(states):8.0f} ms of {STATES} changes")
    print(f"hook to the row's word, p95                 {states[int(len(states) * 0.95)]:8.0f} ms")
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
            measure(server, session, lambda script: bed.shell(session["id"], script, 1000))
        finally:
            server.delete(f"/api/sessions/{session['id']}?force=true")
            server.stop()


if __name__ == "__main__":
    main()
