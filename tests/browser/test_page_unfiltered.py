"""The page in a Chromium that hears of each network interface that a container adds, as a person's does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from browser_bed import FLAGS, chromium
from playwright.sync_api import Browser, expect

from tests.incus_bed import CLAUDE_RESTS

pytest_plugins = ("browser_bed",)

STARTS = 4


@pytest.fixture(scope="module")
def browser(chromium_type) -> Iterator[Browser]:
    """A Chromium without the filter of the other tests."""
    with chromium_type.launch(executable_path=chromium("chromium-headless-shell"), args=FLAGS) as running:
        yield running


def test_prompts_arrive_once_each_while_sessions_start(bed, open_dashboard, note):
    dashboard = open_dashboard(projects=("my-app", "other"))
    session = dashboard.server.create(dashboard.root / "my-app")
    dashboard.open_terminal(session)
    bed.draw(session["id"], CLAUDE_RESTS)
    page = dashboard.page
    box = page.get_by_role("textbox", name="Prompt for")
    sent: list[str] = []
    dropped: list[str] = []
    page.on("requestfailed", lambda request: dropped.append(f"{request.method} {request.failure}"))
    for _ in range(STARTS):
        start = threading.Thread(target=dashboard.server.create, args=(dashboard.root / "other",))
        start.start()
        while True:
            sent.append(f"prompt number {len(sent)}.")
            expect(box).to_be_editable()
            box.fill(sent[-1])
            with page.expect_response("**/prompt"):  # a request that the browser drops and nobody repeats gets none
                page.keyboard.press("Control+Enter")
            if not start.is_alive():
                break
        start.join()
    told = dashboard.server.get(f"/api/sessions/{session['id']}/prompts").json
    note(f"{len(sent)} prompts sent while sessions started; Chromium dropped {len(dropped)} requests")
    typed = [prompt["text"] for prompt in told]
    assert sorted(typed) == sorted(set(typed))
    assert set(typed) <= set(sent)
    dashboard.forgive("ERR_NETWORK_CHANGED")
