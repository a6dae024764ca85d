"""Measure the page: bytes and requests of a first load, when it can be used, a state's way to it, typing echo.

    python tests/bench/bench_page.py

A real Chromium against a real server on a real Incus; as root it starts an Incus of its own, as the tests do. Asserts
nothing.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "browser"),
]

import browser_bed
from playwright.sync_api import Browser, Page, sync_playwright

from tests import programs
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, main, percentile
from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS

LOADS = 7
SESSIONS = 1  # in the list
KEYS = 200
STATES = 40
LOOKED = 16
SLOW_DOWN = 4  # of the CPU, for the times of a first load
LOOK_PAUSE_MS = 4500  # a tool that works is looked at every 3.5 s
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
    """Milliseconds from the start of a load with an empty cache, on a slow machine, to something that can be used.

    The page is closed at the end: Chromium slows a page down by keeping a core busy, also when nothing happens in it.
    """
    with browser.new_page() as page:
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


def states_seen_by_looks(page: Page, address: str, draw: Callable[[list[str]], float]) -> list[float]:
    """Milliseconds from a change of the tool's screen, without a hook or a ring, to its word on the session's row.

    `draw` gives the time in the container, in seconds, just before its lines are there.
    """
    page.goto(address)
    page.locator("main li a").first.wait_for()
    page.evaluate(WATCH_STATE)
    took = []
    for count in range(LOOKED):
        lines, word = (CLAUDE_WORKS, "Working") if count % 2 == 0 else (CLAUDE_RESTS, "Done")
        at = draw(lines) * 1000
        seen = "([word, at]) => window.states.find(([one, when]) => one === word && when > at)?.[1]"
        took.append(page.wait_for_function(seen, arg=[word, at]).json_value() - at)
        page.wait_for_timeout(LOOK_PAUSE_MS + count * 137 % 3500)  # at any time between two looks
    return took


def drawing(shell: Callable[[str], str], id: str) -> Callable[[list[str]], float]:
    """A function that lets the stand-in of a session's tool draw lines; it gives the time just before."""
    target = f"-t =clincus-{id}:"
    shell(f"tmux send-keys {target} -l 'sh stty -echo' \\; send-keys {target} Enter")

    def draw(lines: list[str]) -> float:
        command = shlex.quote("sh printf '\\033[2J\\033[H{}\\n'".format("\\n".join(lines)))
        return float(shell(f"date +%s.%N; tmux send-keys {target} -l {command} \\; send-keys {target} Enter"))

    return draw


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


def first_pages(browser: Browser, server: programs.Server, id: str, results: Results) -> None:
    """The rows of a first load."""
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
        Row.of("first page: usable list", "s", [one / 1000 for one in lists], 0.8, note=slow),
        Row.of("first page: usable terminal", "s", [one / 1000 for one in terminals], 1.5, note=slow),
    )


def on_the_way(
    browser: Browser, server: programs.Server, id: str, shell: Callable[[str], str], results: Results
) -> None:
    """The rows of a state's way to the page, and of keys that are typed there."""
    # First without hooks: a tool whose hooks have told nothing so far is known by its screen.
    looks = states_seen_by_looks(browser.new_page(), server.url, drawing(shell, id))
    states = states_seen(browser.new_page(), server.url, shell)
    keys = echoes(browser.new_page(), f"{server.url}/sessions/{id}/shell")
    results.add(
        Row(f"hook to the row's word, p50 of {STATES}", "s", statistics.median(states) / 1000, 1),
        Row(f"hook to the row's word, p95 of {STATES}", "s", percentile(states, 0.95) / 1000),
        Row(f"screen without a hook to the row's word, p50 of {LOOKED}", "s", statistics.median(looks) / 1000, 5),
        Row(f"typing echo in the page, p50 of {KEYS}", "s", statistics.median(keys) / 1000),
        Row(f"typing echo in the page, p95 of {KEYS}", "s", percentile(keys, 0.95) / 1000),
    )


def pages(made: House, results: Results, *, whole: bool = True) -> None:
    """All rows, or those of a first load."""
    [id, *_] = made.sessions(SESSIONS)
    with made.server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_bed.chromium(), args=browser_bed.FLAGS)
        first_pages(browser, server, id, results)
        if whole:
            on_the_way(browser, server, id, lambda script: made.bed.shell(id, script, 1000), results)
        browser.close()


if __name__ == "__main__":
    main(pages)
