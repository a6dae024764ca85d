"""Projects and sessions on the page: the first look, starting, stopping, deleting, and what others do meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from browser_bed import Dashboard, pick_project, unfold_options
from playwright.sync_api import Locator, Page, Route, expect
from test_page_keyboard import expect_focus_on_words, press

from tests.faults_bed import stopping
from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

# The stand-in shows nothing that a real tool shows: its state is not known yet, and later known not to be known.
ALIVE = re.compile("Starting|Running")


def row(dashboard, name: str = "my-app") -> Locator:
    """The line of a session in the list of the first page."""
    return (
        dashboard.page.get_by_role("main")
        .get_by_role("listitem")
        .filter(has=dashboard.page.get_by_role("link", name=name))
        .first
    )


class Held:
    """Requests that wait. The page may give one up and ask again."""

    def __init__(self, page: Page, address: str) -> None:
        self.routes: list[Route] = []
        self._goes_on = False
        page.route(address, self._take)

    def _take(self, route: Route) -> None:
        if self._goes_on:
            route.continue_()
        else:
            self.routes.append(route)

    def go_on(self) -> None:
        """Let them all go on, and those that come."""
        self._goes_on = True
        for route in self.routes:
            route.continue_()


def expect_state(dashboard, word: str | re.Pattern[str]) -> None:
    """Wait until the list shows the only session in a state."""
    expect(row(dashboard)).to_contain_text(word)


def test_no_roots_and_no_sessions_say_what_to_do(open_dashboard):
    """Each empty state carries the way out of it."""
    page = open_dashboard(projects=(), config="[dashboard]\nworkspace_roots = []\n").page
    expect(page.get_by_role("button", name="Start the first one")).to_be_visible()
    page.get_by_role("link", name="Add a workspace root in Settings").click()
    expect(page).to_have_url(re.compile("/settings$"))


def test_every_place_can_be_reached_by_tab_alone(dashboard):
    """From the top, Tab gets to the places, the actions and the card, each with a visible focus."""
    page = dashboard.page
    expect(page.get_by_role("button", name="my-app", exact=True)).to_be_visible()
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", seen[-1]
        if seen[-1] == "my-app":
            break
    assert {"History", "Settings", "New session", "my-app"} <= set(seen)


@pytest.mark.day
def test_a_session_starts_from_its_card_and_its_terminal_opens(dashboard):
    """Tool and persistence are chosen, `starting` is visible at once, then the tool's own screen is there."""
    page = dashboard.page
    page.get_by_role("button", name="my-app", exact=True).click()
    page.get_by_role("combobox", name="Tool").select_option("opencode")
    unfold_options(page)
    page.get_by_label("Persistent").check()
    page.get_by_role("button", name="Start session").click()
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("Starting my-app")
    dashboard.expect_screen("STUB-READY opencode")
    expect(page.locator("header .detail").get_by_text("persistent")).to_be_visible()
    session = dashboard.server.get("/api/sessions").json[0]
    assert (session["tool"], session["persistent"]) == ("opencode", True)
    assert page.url.endswith(f"/sessions/{session['id']}")


def test_what_is_chosen_stays_when_the_configuration_is_read_anew(dashboard):
    """Whoever edits the file meanwhile, the dialog keeps project and tool."""
    page = dashboard.page
    page.get_by_role("button", name="my-app", exact=True).click()
    page.get_by_role("combobox", name="Tool").select_option("opencode")
    file = dashboard.server.home / ".config" / "clincus" / "config.toml"
    with page.expect_response("**/api/config"):
        file.write_text(file.read_text() + '[tool]\nname = "copilot"\n')
    expect(page.get_by_role("dialog")).to_contain_text(str(dashboard.root / "my-app"))
    expect(page.get_by_role("combobox", name="Tool")).to_have_value("opencode")


def test_a_session_starts_from_a_path(dashboard, make_workspace):
    """A folder that is no project of a root is typed in full."""
    other = make_workspace("elsewhere")
    page = dashboard.page
    page.keyboard.press("n")
    pick_project(page, str(other))
    page.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY claude")
    assert [one["workspace"] for one in dashboard.server.get("/api/sessions").json] == [str(other)]


def test_delete_asks_first(dashboard, session_on):
    """Cancelling keeps the session; confirming removes the container."""
    session_on()
    for answer, left in (("Cancel", 1), ("Delete", 0)):
        row(dashboard).get_by_role("button", name="More actions").click()
        dashboard.page.get_by_role("menuitem", name="Delete").click()
        dashboard.page.get_by_role("alertdialog").get_by_role("button", name=answer).click()
        expect(dashboard.page.get_by_role("alertdialog")).to_have_count(0)
        wait_until(lambda left=left: len(dashboard.server.get("/api/sessions").json) == left, f"{left} sessions")
    expect(dashboard.page.get_by_text("No sessions", exact=True)).to_be_visible()


def test_an_open_menu_stays_where_it_is(dashboard, session_on):
    """Its session is stopped elsewhere and would go to another group: menu and row stay, the word changes."""
    session = session_on()
    row(dashboard).get_by_role("button", name="More actions").click()
    entry = dashboard.page.get_by_role("menuitem", name="Delete")
    entry.wait_for()
    place, offered = entry.bounding_box(), dashboard.page.get_by_role("menuitem").all_inner_texts()
    assert dashboard.server.delete(f"/api/sessions/{session['id']}").status == 204
    expect_state(dashboard, "Stopped")
    assert (entry.bounding_box(), dashboard.page.get_by_role("menuitem").all_inner_texts()) == (place, offered)
    entry.click()
    dashboard.page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    expect(dashboard.page.get_by_text("No sessions", exact=True)).to_be_visible()


@pytest.mark.day
def test_what_others_do_appears_without_a_reload(dashboard, session_on, bed):
    """A session that curl starts and the incus command stops is on the page as soon as the server knows."""
    dashboard.page.evaluate("window.notReloaded = true")
    session = session_on()
    expect_state(dashboard, ALIVE)
    bed.stop(session["id"])
    expect_state(dashboard, "Stopped")
    bed.incus.run("delete", session["id"], timeout=60)
    expect(dashboard.page.get_by_text("No sessions", exact=True)).to_be_visible()
    assert dashboard.page.evaluate("window.notReloaded")


@pytest.mark.day
def test_a_stopped_session_is_resumed_from_its_own_page(dashboard, session_on):
    """What stands in the terminal's place offers to go on; the same page then shows the new run, which has the keys."""
    session = session_on()
    dashboard.open_terminal(session)
    dashboard.type_line("something to go on with")
    dashboard.expect_screen("echo: something to go on with")
    dashboard.page.get_by_role("main").get_by_role("button", name="Stop").click()
    expect(dashboard.page.get_by_text("goes on with the conversation")).to_be_visible()
    dashboard.page.get_by_role("main").get_by_role("button", name="Resume").last.click()
    dashboard.expect_screen(f"resumed {session['session_id']} with 1 lines.*STUB-READY")
    dashboard.page.get_by_role("main").get_by_role("button", name="Stop").wait_for()
    expect(dashboard.page.locator(".screen textarea")).to_be_focused()
    dashboard.type_line("here again")
    dashboard.expect_screen("echo: here again")


def test_keys_typed_while_another_session_connects_reach_no_other(open_dashboard, bed):
    """To and fro between terminals that are opened for the first time, typing at once: nor are they the page's."""
    dashboard = open_dashboard(projects=("one", "two"))
    sessions = [dashboard.server.create(dashboard.root / name) for name in ("one", "two")]
    page = dashboard.page
    links = page.locator("aside section a")
    expect(links).to_have_count(2)
    order = [link.get_attribute("href") for link in links.all()]
    for turn in range(8):
        page.keyboard.press(f"Alt+{turn % 2 + 1}")
        dashboard.type_line(f"not-{turn % 2}")
    for index in (0, 1):
        page.keyboard.press(f"Alt+{index + 1}")
        expect(page).to_have_url(re.compile(f"{order[index]}$"))
        dashboard.expect_screen("STUB-READY")
        dashboard.type_line(f"last-{index}")
        dashboard.expect_screen(f"echo: last-{index}")
    for session in sessions:
        index = order.index(f"/sessions/{session['id']}")
        assert f"not-{1 - index}" not in bed.screen(session["id"])
    assert page.get_by_role("dialog").count() == 0


def test_a_lost_server_is_seen_and_found_again(dashboard, start_server):
    """The page keeps its content, disables what cannot work, and comes back by itself."""
    page = dashboard.page
    expect(page.get_by_role("button", name="my-app", exact=True)).to_be_visible()
    dashboard.server.stop()
    expect(page.get_by_text("Connection to the server lost")).to_be_visible()
    expect(page.get_by_role("button", name="my-app", exact=True)).to_be_visible()
    start_server(arguments=["--port", str(dashboard.server.port)])
    expect(page.get_by_text("Connection to the server lost")).to_be_hidden()
    dashboard.forgive("ERR_CONNECTION|Failed to load resource|WebSocket connection")


def test_an_incus_that_dies_is_shown_and_found_again(dashboard, session_on, bed):
    """Nothing stays green that nobody sees running; what cannot work can't be pressed."""
    page = dashboard.page
    session_on()
    expect_state(dashboard, ALIVE)
    with stopping(bed):
        expect(page.get_by_text("What you see is what was last seen")).to_contain_text("Incus is")
        expect_state(dashboard, "Unknown")
        expect(page.get_by_role("navigation").get_by_text(re.compile("^Last seen"))).to_be_visible()
        row(dashboard).get_by_role("button", name="More actions").click()
        expect(page.get_by_role("menuitem", name="Stop (Incus does not answer)")).to_be_disabled()
        page.keyboard.press("Escape")
    expect(page.get_by_text("What you see is what was last seen")).to_be_hidden()
    expect_state(dashboard, ALIVE)
    dashboard.forgive("status of 503")


def test_without_incus_the_page_says_what_to_do(open_page, start_server, make_workspace, tmp_path):
    """One cause, one command to copy; what follows from it is not listed, too."""
    root = make_workspace("my-app").parent
    config = f'[dashboard]\nworkspace_roots = ["{root}"]\n'
    dashboard = open_page(start_server(environ={"INCUS_DIR": str(tmp_path)}, config=config), root)
    page = dashboard.page
    expect(page.get_by_role("heading", name="Sessions cannot start yet")).to_be_visible()
    expect(page.get_by_role("button", name="Copy the command")).to_have_count(1)
    expect(page.get_by_role("button", name="my-app", exact=True)).to_be_visible()
    dashboard.forgive(r"status of 503")


def test_the_focus_is_in_the_place_that_one_goes_to(dashboard, session_on):
    """By a link, by a shortcut, by the palette and back: its name is heard, and Tab goes on from its top."""
    page, session = dashboard.page, session_on()
    place = page.locator(":focus")
    page.get_by_role("link", name="History").click()
    expect(place).to_have_accessible_name("History")
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(place).to_have_accessible_name("Settings")
    page.keyboard.press("Tab")
    expect(place).to_have_accessible_name("Theme")
    page.keyboard.press("Control+k")
    page.get_by_role("dialog").get_by_role("combobox").fill("projects")
    page.keyboard.press("Enter")
    expect(place).to_have_accessible_name("Projects")
    page.go_back()
    expect(place).to_have_accessible_name("Settings")
    dashboard.server.delete(f"/api/sessions/{session['id']}")
    page.get_by_role("main").page.keyboard.press("Alt+1")
    expect(place).to_have_accessible_name("my-app")


def delete_by_menu(dashboard: Dashboard, answer: Callable[[Locator], None]) -> None:
    """Open the menu of the first row of the list, choose its last line, and answer the question."""
    page = dashboard.page
    more = page.get_by_role("main").get_by_role("button", name="More actions").first
    more.focus()
    expect(page.locator("main [data-dropdown-menu-trigger]:focus")).to_have_count(1)  # the menu has been fetched
    page.keyboard.press("Enter")
    expect(page.locator('[role="menuitem"]:focus')).to_have_count(1)
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    answer(page.get_by_role("alertdialog"))
    expect(page.get_by_role("alertdialog")).to_have_count(0)


def test_the_focus_follows_a_row_that_goes_to_another_group(dashboard, session_on):
    """Stop becomes Resume and back under one finger; a refused delete stays at its row, a done one at what is left."""
    page, main = dashboard.page, dashboard.page.get_by_role("main")
    session_on()
    press(main.get_by_role("button", name="Stop"))
    expect(main.get_by_role("button", name="Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(main.get_by_role("button", name="Stop")).to_be_focused()
    delete_by_menu(dashboard, lambda question: question.press("Escape"))
    expect(main.get_by_role("button", name="More actions")).to_be_focused()
    delete_by_menu(dashboard, lambda question: press(question.get_by_role("button", name="Delete")))
    expect_focus_on_words(dashboard, "Start the first one")
