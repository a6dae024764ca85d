"""Projects and sessions on the page: the first look, starting, stopping, deleting, and what others do meanwhile."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

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


def hold(page: Page, address: str) -> list[Route]:
    """Let requests wait; the list takes them as they come."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(address, keep)
    return held


def expect_state(dashboard, word: str | re.Pattern[str]) -> None:
    """Wait until the list shows the only session in a state."""
    expect(row(dashboard)).to_contain_text(word)


def test_a_project_is_a_card_that_starts_nothing_by_a_stray_click(dashboard):
    """A click on a card without a session opens the dialog, and nothing else happens."""
    dashboard.page.get_by_role("button", name="my-app", exact=True).click()
    expect(dashboard.page.get_by_role("dialog")).to_contain_text(str(dashboard.root / "my-app"))
    dashboard.page.keyboard.press("Escape")
    expect(dashboard.page.get_by_role("dialog")).to_have_count(0)
    assert dashboard.server.get("/api/sessions").json == []


def test_no_roots_and_no_sessions_say_what_to_do(open_dashboard):
    """Each empty state carries the way out of it."""
    page = open_dashboard(projects=(), config="[dashboard]\nworkspace_roots = []\n").page
    expect(page.get_by_role("button", name="Start the first one")).to_be_visible()
    page.get_by_role("link", name="Add a workspace root in Settings").click()
    expect(page).to_have_url(re.compile("/settings$"))


def test_a_session_starts_from_its_card_and_its_terminal_opens(dashboard):
    """Tool and persistence are chosen, `starting` is visible at once, then the tool's own screen is there."""
    page = dashboard.page
    page.get_by_role("button", name="my-app", exact=True).click()
    page.get_by_text("opencode", exact=True).click()
    page.get_by_label("Persistent").check()
    page.get_by_role("button", name="Start session").click()
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("Starting my-app")
    dashboard.expect_screen("STUB-READY opencode")
    expect(page.locator("header").get_by_text("persistent")).to_be_visible()
    session = dashboard.server.get("/api/sessions").json[0]
    assert (session["tool"], session["persistent"]) == ("opencode", True)
    assert page.url.endswith(f"/sessions/{session['id']}")


def test_enter_before_the_list_of_projects_is_kept(dashboard):
    """What fits best is chosen as soon as there is a list to choose from."""
    page = dashboard.page
    held = hold(page, "**/api/workspaces")
    page.reload()
    page.get_by_role("main").get_by_role("button", name="New session").click()
    page.get_by_label("Project or path").fill("myapp")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Looking for that project")).to_be_visible()
    for one in held:
        one.continue_()
    expect(page.get_by_role("dialog")).to_contain_text(str(dashboard.root / "my-app"))
    expect(page.get_by_role("radio", name="Claude")).to_be_focused()


def test_what_is_chosen_stays_when_the_configuration_is_read_anew(dashboard):
    """Whoever edits the file meanwhile, the dialog keeps project and tool."""
    page = dashboard.page
    page.get_by_role("button", name="my-app", exact=True).click()
    page.get_by_text("opencode", exact=True).click()
    file = dashboard.server.home / ".config" / "clincus" / "config.toml"
    with page.expect_response("**/api/config"):
        file.write_text(file.read_text() + '[tool]\nname = "copilot"\n')
    expect(page.get_by_role("dialog")).to_contain_text(str(dashboard.root / "my-app"))
    expect(page.get_by_role("radio", name="opencode")).to_be_checked()


def test_a_session_starts_from_a_path(dashboard, make_workspace):
    """A folder that is no project of a root is typed in full."""
    other = make_workspace("elsewhere")
    page = dashboard.page
    page.keyboard.press("n")
    page.get_by_label("Project or path").fill(str(other))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY claude")
    assert [one["workspace"] for one in dashboard.server.get("/api/sessions").json] == [str(other)]


def test_a_start_that_fails_says_why_and_is_not_tried_again(dashboard):
    """The reason stands in the dialog, with all that was chosen; one POST was sent."""
    page = dashboard.page
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.keyboard.press("n")
    page.get_by_label("Project or path").fill("/nowhere/at/all")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start session").click()
    expect(page.get_by_role("alert")).to_contain_text("/nowhere/at/all")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert len(posts) == 1
    dashboard.forgive(r"status of 400 .*/api/sessions\)")


def test_stop_and_resume_from_the_list(dashboard, session_on):
    """Both are one click, and the list follows."""
    session_on()
    expect(row(dashboard)).to_be_visible()
    row(dashboard).get_by_role("button", name="Stop").click()
    row(dashboard).get_by_role("button", name="Resume").click()
    expect_state(dashboard, ALIVE)
    row(dashboard).get_by_role("button", name="Stop").wait_for()


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


def test_a_pin_keeps_a_session_at_the_top(dashboard, session_on):
    """Pinned in the older one's menu, it stands before the newer one, in the list and in the sidebar."""
    page, older, newer = dashboard.page, session_on(), session_on()
    links = page.locator(f'a[href$="{older["id"]}"], a[href$="{newer["id"]}"]')

    def expect_order(*wanted: dict) -> None:
        for place in (page.get_by_role("main"), page.get_by_role("navigation", name="Main")):
            for at, session in enumerate(wanted):
                expect(place.locator("li").filter(has=links).nth(at).locator("a").first).to_have_attribute(
                    "href", f"/sessions/{session['id']}"
                )

    expect_order(newer, older)
    entry = page.get_by_role("main").locator("li").filter(has=page.locator(f'a[href$="{older["id"]}"]')).first
    for action, order in (("Pin to the top", (older, newer)), ("Unpin", (newer, older))):
        entry.get_by_role("button", name="More actions").click()
        page.get_by_role("menuitem", name=action).click()
        page.mouse.move(0, 0)
        page.get_by_role("heading", name="Projects", exact=True).click()
        expect_order(*order)


def test_a_menu_that_is_still_being_fetched_opens_all_the_same(dashboard, session_on):
    """It arrives while the pointer is down on its button, which must not be taken away under it."""
    session_on()
    held = hold(dashboard.page, "**/assets/MenuContent-*.js")
    button = row(dashboard).get_by_role("button", name="More actions")
    button.hover()
    wait_until(lambda: (dashboard.page.title(), held)[1], "the menu to be fetched")
    dashboard.page.mouse.down()
    with dashboard.page.expect_response("**/assets/MenuContent-*.js"):
        held[0].continue_()
    dashboard.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    dashboard.page.mouse.up()
    expect(dashboard.page.get_by_role("menuitem", name="Delete")).to_be_visible()


def test_what_others_do_appears_without_a_reload(dashboard, session_on, bed):
    """A session that curl starts and the incus command stops is on the page as soon as the server knows."""
    dashboard.page.evaluate("window.notReloaded = true")
    session = session_on()
    expect_state(dashboard, ALIVE)
    bed.incus.run("stop", "--force", session["id"], timeout=60)
    expect_state(dashboard, "Stopped")
    bed.incus.run("delete", session["id"], timeout=60)
    expect(dashboard.page.get_by_text("No sessions", exact=True)).to_be_visible()
    assert dashboard.page.evaluate("window.notReloaded")


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
    if bed.daemon is None:
        pytest.skip("only a daemon of the tests may be ended")
    page = dashboard.page
    session_on()
    expect_state(dashboard, ALIVE)
    bed.daemon.terminate()
    expect(page.get_by_text("What you see is what was last seen")).to_contain_text("Incus is")
    expect_state(dashboard, "Unknown")
    expect(page.get_by_role("navigation").get_by_text(re.compile("^Last seen"))).to_be_visible()
    row(dashboard).get_by_role("button", name="More actions").click()
    expect(page.get_by_role("menuitem", name="Stop (Incus does not answer)")).to_be_disabled()
    page.keyboard.press("Escape")
    bed.restart()
    expect(page.get_by_text("What you see is what was last seen")).to_be_hidden()
    expect_state(dashboard, ALIVE)
    dashboard.forgive("status of 503")


def test_without_incus_the_page_says_what_to_do(open_dashboard, start_server, tmp_path):
    """One cause, one command to copy; what follows from it is not listed, too."""
    dashboard = open_dashboard()
    page = dashboard.page
    server = start_server(
        environ={"INCUS_DIR": str(tmp_path)}, config=f'[dashboard]\nworkspace_roots = ["{dashboard.root}"]\n'
    )
    page.goto(server.url)
    expect(page.get_by_role("heading", name="Sessions cannot start yet")).to_be_visible()
    expect(page.get_by_role("button", name="Copy the command")).to_have_count(1)
    expect(page.get_by_role("button", name="my-app", exact=True)).to_be_visible()
    dashboard.forgive(r"status of 503")


def test_many_sessions_leave_the_projects_in_reach(dashboard, session_on):
    """A long group is folded, and unfolded by a button; the sidebar has them all."""
    page = dashboard.page
    sessions = [
        {**session_on(), "id": f"clincus-abcdef-{number}", "workspace": f"/p/project-{number}"} for number in range(1)
    ]
    sessions += [{**sessions[0], "id": f"clincus-abcdef-{number}"} for number in range(2, 13)]
    page.route("**/api/sessions", lambda route: route.fulfill(json=sessions))
    page.reload()
    rows = page.get_by_role("main").get_by_role("link", name="project-0")
    expect(rows).to_have_count(8)
    page.get_by_role("button", name="Show 4 more").click()
    expect(rows).to_have_count(12)
    expect(page.get_by_role("navigation").get_by_role("link", name="project-0")).to_have_count(12)


def test_a_bell_puts_a_session_under_needs_you_until_somebody_looks(bed, dashboard):
    """No terminal of it is open in the page: the container itself tells that its tool rang."""
    page, session = dashboard.page, dashboard.server.create(dashboard.root / "my-app")
    needs_you = page.get_by_role("navigation").get_by_role("region", name="Needs you sessions")
    expect_state(dashboard, ALIVE)
    bed.shell(session["id"], f"tmux send-keys -t =clincus-{session['id']}: 'sh printf \"\\a\"' Enter")
    expect(needs_you).to_contain_text("my-app")
    expect(page).to_have_title("(1) Projects · Clincus")
    needs_you.get_by_role("link").click()
    dashboard.expect_screen("STUB-READY")
    expect(needs_you).to_have_count(0)
    page.go_back()
    page.reload()
    expect_state(dashboard, ALIVE)
    expect(page).to_have_title("Projects · Clincus")


def test_a_notification_is_shown_only_with_the_browsers_leave(dashboard):
    """Refused by the browser, the choice does not pretend to be made; allowed, it stays after a reload."""
    page = dashboard.page
    dashboard.go("/settings")
    choice = page.get_by_label("Notify me when a session needs me")
    choice.click()
    expect(page.get_by_text("does not let this page notify you")).to_be_visible()
    expect(choice).not_to_be_checked()
    page.context.grant_permissions(["notifications"], origin=dashboard.server.url)
    choice.check()
    # A test's Chromium has no push service, and says so: the page notifies by itself while it is open.
    expect(page.get_by_text("notified only while a page of the dashboard is open")).to_be_visible()
    dashboard.forgive("Push API in incognito mode")
    page.reload()
    expect(choice).to_be_checked()
