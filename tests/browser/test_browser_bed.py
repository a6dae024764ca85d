"""The browser's test bed itself: what the other tests rely on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from playwright.sync_api import Browser

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


def test_chromium_hears_nothing_of_the_interfaces_that_containers_add(browser: Browser):
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    held = {f"{process['type']} {process['id']}": netlink_sockets(int(process["id"])) for process in processes}
    assert any(name.startswith("browser ") for name in held)
    assert not any(held.values()), held
