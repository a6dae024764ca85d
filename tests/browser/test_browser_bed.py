"""The browser's test bed itself: what the other tests rely on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from browser_bed import Chromium, chromium, one_chromium
from playwright.sync_api import expect

pytest_plugins = ("browser_bed",)


def netlink_sockets(pid: int) -> set[str]:
    """The netlink sockets that a process has open, as links of /proc/PID/fd; one that has ended has none."""
    held = set()
    try:
        lines = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(descriptor))
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return held & {f"socket:[{line.split()[-1]}]" for line in lines}


def test_chromium_hears_nothing_of_the_interfaces_that_containers_add(browser: Chromium):
    processes = browser.running.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    held = {f"{process['type']} {process['id']}": netlink_sockets(int(process["id"])) for process in processes}
    assert any(name.startswith("browser ") for name in held)
    assert not any(held.values()), held


def test_a_chromium_that_closed_is_started_again_and_noted(chromium_type):
    notes: list[str] = []
    with one_chromium(chromium_type, chromium("chromium-headless-shell"), notes.append) as browser:
        browser.running.close()
        page = browser.new_context().new_page()
        page.set_content("alive")
        expect(page.locator("body")).to_have_text("alive")
    assert [note.startswith("Chromium closed") for note in notes] == [True]
