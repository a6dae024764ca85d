"""Projects and sessions on the page: the first look, starting, stopping, deleting, and what others do meanwhile."""

from __future__ import annotations

import re

import pytest
from browser_bed import ALIVE, pick_project, row_of, unfold_options
from playwright.sync_api import Route, expect

from tests.conftest import new_workspace
from tests.programs import wait_until

pytest_plugins = ("browser_bed",)


@pytest.mark.day
def test_a_session_is_started_with_a_prompt_stopped_resumed_and_deleted(dashboard):
    """`Starting` is seen at once; the run that goes on has the keys, and only a yes deletes the container."""
    page, server = dashboard.page, dashboard.server
    page.get_by_role("button", name="my-app", exact=True).click()
    expect(page.get_by_label("First prompt")).to_be_focused()
    page.keyboard.type("Fix the totals")
    unfold_options(page)
    page.get_by_label("Persistent").check()
    page.get_by_role("button", name="Start session").click()
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("Starting my-app")
    dashboard.expect_screen("Fix the totals")
    expect(page.locator("header .detail").get_by_text("persistent")).to_be_visible()
    (session,) = server.get("/api/sessions").json
    assert (session["workspace"], session["persistent"]) == (str(dashboard.root / "my-app"), True)
    assert page.url.endswith(f"/sessions/{session['id']}")
    dashboard.type_line("something to go on with")
    dashboard.expect_screen("echo: something to go on with")

    main = page.get_by_role("main")
    main.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("goes on with the conversation")).to_be_visible()
    main.get_by_role("button", name="Resume").last.click()
    dashboard.expect_screen(rf"resumed {session['session_id']} with \d lines.*STUB-READY")
    main.get_by_role("button", name="Stop").wait_for()
    expect(page.locator(".screen textarea")).to_be_focused()
    dashboard.type_line("here again")
    dashboard.expect_screen("echo: here again")

    dashboard.go()
    for answer, left in (("Cancel", 1), ("Delete", 0)):
        row_of(page).get_by_role("button", name="More actions").click()
        page.get_by_role("menuitem", name="Delete").click()
        page.get_by_role("alertdialog").get_by_role("button", name=answer).click()
        expect(page.get_by_role("alertdialog")).to_have_count(0)
        wait_until(lambda left=left: len(server.get("/api/sessions").json) == left, f"{left} sessions")
    expect(page.get_by_text("No sessions", exact=True)).to_be_visible()


@pytest.mark.day
def test_what_others_do_appears_without_a_reload(dashboard, session_on, bed):
    """A session that curl starts and the incus command stops is on the page as soon as the server knows."""
    page = dashboard.page
    page.evaluate("window.notReloaded = true")
    session = session_on()
    expect(row_of(page)).to_contain_text(ALIVE)
    bed.stop(session["id"])
    expect(row_of(page)).to_contain_text("Stopped")
    bed.incus.run("delete", session["id"], timeout=60)
    expect(page.get_by_text("No sessions", exact=True)).to_be_visible()
    assert page.evaluate("window.notReloaded")


def test_a_menu_that_is_still_being_fetched_opens_all_the_same(dashboard, session_on):
    """It arrives while the pointer is down on its button, which must not be taken away under it."""
    page, held = dashboard.page, []
    menus = "**/assets/MenuContent-*.js"

    def hold(route: Route) -> None:
        held.append(route)

    page.route(menus, hold, times=1)
    session_on()
    row_of(page).get_by_role("button", name="More actions").hover()
    wait_until(lambda: (page.title(), held)[1], "the menu to be fetched")
    page.mouse.down()
    with page.expect_response(menus):
        held[0].continue_()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.mouse.up()
    expect(page.get_by_role("menuitem", name="Delete")).to_be_visible()


def test_keys_typed_while_another_session_connects_reach_no_other(dashboard, session_on, bed, tmp_path):
    """To and fro with Alt and a digit between terminals that are opened for the first time, typing at once.

    The second session is one of a folder that is no project of a root, by its path.
    """
    page, elsewhere = dashboard.page, str(new_workspace(tmp_path / "outside" / "elsewhere"))
    first = session_on()
    page.keyboard.press("n")
    pick_project(page, elsewhere)
    page.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY claude")
    (second,) = (one for one in dashboard.server.get("/api/sessions").json if one["workspace"] == elsewhere)
    order = [first["id"], second["id"]]  # in which they got their digits
    dashboard.go()
    expect(page.locator("aside section a")).to_have_count(2)
    for turn in range(8):
        page.keyboard.press(f"Alt+{turn % 2 + 1}")
        dashboard.type_line(f"not-{turn % 2}")
    for index in (0, 1):
        page.keyboard.press(f"Alt+{index + 1}")
        expect(page).to_have_url(re.compile(f"{order[index]}$"))
        dashboard.expect_screen("STUB-READY")
        dashboard.type_line(f"last-{index}")
        dashboard.expect_screen(f"echo: last-{index}")
    for index, id in enumerate(order):
        assert f"not-{1 - index}" not in bed.screen(id)
    assert page.get_by_role("dialog").count() == 0


def test_without_roots_or_incus_the_page_says_what_to_do(open_dashboard, open_page, start_server, tmp_path):
    page = open_dashboard(projects=(), config="[dashboard]\nworkspace_roots = []\n").page
    expect(page.get_by_role("button", name="Start the first one")).to_be_visible()
    page.get_by_role("link", name="Add a workspace root in Settings").click()
    expect(page).to_have_url(re.compile("/settings$"))

    dashboard = open_page(start_server(environ={"INCUS_DIR": str(tmp_path)}), tmp_path)
    expect(dashboard.page.get_by_role("heading", name="Sessions cannot start yet")).to_be_visible()
    expect(dashboard.page.get_by_role("button", name="Copy the command")).to_have_count(1)
    dashboard.forgive(r"status of 503")
