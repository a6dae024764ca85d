"""What the page makes of a connection that is lost: after sleep, on another network, with the server gone and back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect
from road import OF_A_LOST_SERVER, Road

from tests.programs import wait_until

pytest_plugins = ("browser_bed", "road")

# Milliseconds of the page's own clock, as in lib/pulse.ts and lib/api.ts, with a little more: after so long it asks
# whether what was typed arrived, and gives up on an answer.
TYPED_MS, ANSWER_MS = 600, 3_100
LOST = "Connection to the server lost"
NOT_CONNECTED = "Disconnected. Typing"


@pytest.fixture
def dashboard(open_dashboard, road: Road) -> Iterator[Dashboard]:
    """A page that reaches its server over the road."""
    made = open_dashboard(arguments=("--allowed-host", f"127.0.0.1:{road.port}"))
    road.server_port = made.server.port
    yield made
    made.forgive(OF_A_LOST_SERVER)


def open_over(road: Road, dashboard: Dashboard, session: dict) -> None:
    """Open a session's terminal over the road."""
    dashboard.blank.goto(f"http://127.0.0.1:{road.port}/sessions/{session['id']}")
    dashboard.expect_screen("STUB-READY")


def in_rail(dashboard: Dashboard, name: str):
    """A session's line in the sidebar."""
    return dashboard.page.get_by_role("navigation").get_by_role("link", name=re.compile(name))


def test_keys_on_a_dead_connection_are_noticed_and_told(dashboard, session_on, road, make_workspace, bed):
    """The other end is gone without a word: the page finds out by what is typed, says so, and comes back by itself."""
    session, page = session_on(), dashboard.blank
    page.clock.install()
    open_over(road, dashboard, session)
    dashboard.type_line("before")
    dashboard.expect_screen("echo: before")
    road.break_off()
    dashboard.type_line("into-the-void")
    page.clock.run_for(TYPED_MS + ANSWER_MS)
    expect(page.get_by_text(NOT_CONNECTED)).to_be_visible()
    dashboard.type_line("seen-to-be-lost")
    dashboard.server.create(make_workspace("made-meanwhile"))
    road.mend()
    expect(page.get_by_text("what was typed last may not have arrived")).to_be_visible()
    expect(page.get_by_text(NOT_CONNECTED)).to_be_hidden()
    dashboard.expect_screen("echo: before")
    expect(in_rail(dashboard, "made-meanwhile")).to_be_visible()
    dashboard.type_line("after")
    dashboard.expect_screen("echo: after")
    shown = bed.screen(session["id"])
    assert (shown.count("echo: after"), "void" in shown, "seen-to-be-lost" in shown) == (1, False, False)


def test_a_first_request_that_was_lost_holds_up_no_later_one(dashboard, road):
    """Chromium lets each request for an address wait for the one before, so the page has to give that one up."""
    page = dashboard.blank
    road.break_off_at(b"GET /api/sessions ")
    page.goto(f"http://127.0.0.1:{road.port}/")
    wait_until(lambda: page.title() and road.cut.is_set(), "the first request to be lost")
    dashboard.server.create(dashboard.root / "my-app")
    road.break_off_at(b"")
    road.mend()
    expect(in_rail(dashboard, "my-app")).to_be_visible()


@pytest.mark.day
def test_all_that_is_open_comes_back_after_the_server_did(dashboard, session_on, road, start_server):
    """Terminal and shell are as they were, the list is current, and what is not saved in the editor is still there."""
    session, page = session_on(), dashboard.blank
    open_over(road, dashboard, session)
    dashboard.type_line("before")
    dashboard.expect_screen("echo: before")
    page.get_by_role("link", name="Shell").click()
    dashboard.expect_screen(r"\$")
    dashboard.type_line("kept=the-same-shell")
    page.get_by_role("link", name="Files").click()
    page.get_by_role("treeitem", name="README.md").click()
    text = page.locator(".cm-content")
    text.click()
    dashboard.server.stop()
    expect(page.get_by_text(LOST)).to_be_visible()
    page.keyboard.type("typed without a server ")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("No answer came")).to_be_visible()
    arguments = ("--port", str(road.server_port), "--allowed-host", f"127.0.0.1:{road.port}")
    server = start_server(port=None, arguments=arguments)
    expect(page.get_by_text(LOST)).to_be_hidden()
    server.create(dashboard.root / "my-app", tool="opencode")
    expect(in_rail(dashboard, "opencode")).to_be_visible()
    text.click()
    page.keyboard.press("Control+s")
    expect(page.get_by_text("Not saved")).to_be_hidden()
    wait_until(lambda: "typed without" in (dashboard.root / "my-app" / "README.md").read_text(), "the file")
    page.get_by_role("link", name="Terminal", exact=True).click()
    dashboard.expect_screen("echo: before")
    dashboard.type_line("after")
    dashboard.expect_screen("echo: after")
    page.get_by_role("link", name="Shell").click()
    dashboard.type_line("echo $kept-")
    dashboard.expect_screen("the-same-shell-")
