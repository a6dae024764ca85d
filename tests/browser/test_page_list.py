"""The list of sessions and projects: its rows, its menus, the dialog of a new one, and what needs a person."""

from __future__ import annotations

from browser_bed import DESK, await_next_run, pick_project, started_at
from playwright.sync_api import expect
from test_page_sessions import ALIVE, Held, expect_state, row

from tests.programs import DEADLINE, wait_until

pytest_plugins = ("browser_bed",)


def test_a_project_is_a_card_that_starts_nothing_by_a_stray_click(shared, open_shared):
    """A click on a card without a session opens the dialog, and nothing else happens."""
    (shared.root / "untouched").mkdir()
    dashboard = open_shared()
    dashboard.go("/projects")
    dashboard.page.get_by_role("button", name="untouched", exact=True).click()
    expect(dashboard.page.get_by_role("dialog")).to_contain_text(str(dashboard.root / "untouched"))
    dashboard.page.keyboard.press("Escape")
    expect(dashboard.page.get_by_role("dialog")).to_have_count(0)
    assert [one["id"] for one in dashboard.server.get("/api/sessions").json] == [shared.session["id"]]


def test_enter_before_the_list_of_projects_is_kept(open_shared):
    """What fits best is chosen as soon as there is a list to choose from."""
    dashboard = open_shared()
    held = Held(dashboard.blank, "**/api/workspaces")
    page = dashboard.page
    page.get_by_role("main").get_by_role("button", name="New session").click()
    page.get_by_label("Project or path").fill("myapp")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Looking for that project")).to_be_visible()
    held.go_on()
    expect(page.get_by_role("dialog")).to_contain_text(str(dashboard.root / "my-app"))
    expect(page.get_by_label("First prompt")).to_be_focused()


def test_a_start_that_fails_says_why_and_is_not_tried_again(open_shared):
    """The reason stands in the dialog, with all that was chosen; one POST was sent."""
    dashboard = open_shared()
    page = dashboard.page
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.keyboard.press("n")
    pick_project(page, "/nowhere/at/all")
    page.get_by_role("button", name="Start session").click()
    expect(page.get_by_role("alert")).to_contain_text("/nowhere/at/all")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert len(posts) == 1
    dashboard.forgive(r"status of 400 .*/api/sessions\)")


def test_stop_and_resume_from_the_list(bed, shared, open_shared):
    """Both are one click, and the list follows."""
    dashboard = open_shared()
    before = started_at(shared)
    expect(row(dashboard)).to_be_visible()
    row(dashboard).get_by_role("button", name="Stop").click()
    row(dashboard).get_by_role("button", name="Resume").click()
    expect_state(dashboard, ALIVE)
    row(dashboard).get_by_role("button", name="Stop").wait_for()
    await_next_run(bed, shared.server, shared.session, before)


def test_a_pin_keeps_a_session_at_the_top(shared, open_shared, make_workspace):
    """Pinned in the older one's menu, it stands before the newer one, in the list and in the sidebar."""
    page, older, newer = open_shared().page, shared.session, shared.server.create(make_workspace("newer"))
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
        page.get_by_role("heading", name="Inbox", exact=True).click()
        expect_order(*order)


def test_a_menu_that_is_still_being_fetched_opens_all_the_same(open_shared):
    """It arrives while the pointer is down on its button, which must not be taken away under it."""
    dashboard = open_shared()
    held = Held(dashboard.page, "**/assets/MenuContent-*.js")
    button = row(dashboard).get_by_role("button", name="More actions")
    button.hover()
    wait_until(lambda: (dashboard.page.title(), held.routes)[1], "the menu to be fetched")
    dashboard.page.mouse.down()
    with dashboard.page.expect_response("**/assets/MenuContent-*.js"):
        held.go_on()
    dashboard.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    dashboard.page.mouse.up()
    expect(dashboard.page.get_by_role("menuitem", name="Delete")).to_be_visible()


def test_many_sessions_leave_the_projects_in_reach(shared, open_shared):
    """A long group is folded, and unfolded by a button; the sidebar has them all."""
    dashboard = open_shared()
    sessions = [
        {**shared.session, "id": f"clincus-abcdef-{number}", "workspace": "/p/project-0"} for number in range(1, 13)
    ]
    dashboard.blank.route("**/api/sessions", lambda route: route.fulfill(json=sessions))
    page = dashboard.page
    rows = page.get_by_role("main").get_by_role("link", name="project-0")
    expect(rows).to_have_count(8)
    page.get_by_role("button", name="Show 4 more").click()
    expect(rows).to_have_count(12)
    expect(page.get_by_role("navigation").get_by_role("link", name="project-0")).to_have_count(12)


def test_a_bell_puts_a_session_under_needs_you_until_somebody_looks(bed, shared, open_shared):
    """No terminal of it is open in the page: the container itself tells that its tool rang."""
    dashboard = open_shared()
    page, session = dashboard.page, shared.session
    needs_you = page.get_by_role("navigation").get_by_role("region", name="Needs you sessions")
    expect_state(dashboard, ALIVE)
    bed.shell(session["id"], f"tmux send-keys -t =clincus-{session['id']}: 'sh printf \"\\a\"' Enter")
    expect(needs_you).to_contain_text("my-app")
    expect(page).to_have_title("(1) Inbox · Clincus")
    needs_you.get_by_role("link").click()
    dashboard.expect_screen("STUB-READY")
    expect(needs_you).to_have_count(0)
    page.go_back()
    page.reload()
    expect_state(dashboard, ALIVE)
    expect(page).to_have_title("Inbox · Clincus")


def test_a_notification_is_shown_only_with_the_browsers_leave(shared, whole_browser):
    """Refused by the browser, the choice cannot be made; allowed beside the open page, it can, and is kept."""
    url = shared.server.url
    # Chromium without windows calls notifications denied, whatever it is told.
    with whole_browser.new_context(base_url=url, **DESK) as context:
        context.set_default_timeout(DEADLINE * 1000)
        context.grant_permissions([], origin=url)
        page = context.new_page()
        page.goto("/settings")
        choice = page.get_by_label("Notify me when a session needs me")
        refusal = page.get_by_text("does not let this page notify you")
        expect(refusal).to_be_visible()
        expect(choice).to_be_disabled()
        context.grant_permissions(["notifications"], origin=url)
        expect(refusal).to_have_count(0)
        choice.check()
        # A test's Chromium has no push service, and says so: the page notifies by itself while it is open.
        expect(page.get_by_text("notified only while a page of the dashboard is open")).to_be_visible()
        page.reload()
        expect(choice).to_be_checked()
