"""What holds for every place: contrast and names, phone width, no shift, themes, and an app that can be installed."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_bed import Wire, clear_tool, end_shell
from playwright.sync_api import expect

pytest_plugins = ("browser_bed",)

OF_THE_SIDEBAR = ("/", "/projects", "/all", "/history", "/logins", "/settings")
PLACES = (*OF_THE_SIDEBAR, "/nowhere")
SERIOUS = {"serious", "critical"}


def serious(page, *rules: str) -> list[str]:
    """What axe-core finds of weight, by all of its rules or by some, one line each."""
    only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    options = {"resultTypes": ["violations"], "iframes": False, **only}  # what an app shows in a frame is not ours
    found = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found if one["impact"] in SERIOUS for node in one["nodes"]]


def settle(dashboard, path: str) -> None:
    """Open a place and wait until what it fetches is there."""
    dashboard.go(path)
    dashboard.page.wait_for_load_state("networkidle")


@pytest.mark.day
def test_axe_finds_nothing_serious(shared, open_shared):
    """Every place, the dialogs and a running session. In the dark theme only the contrast can be another one."""
    # Without motion: halfway through its fade a dialog has less contrast.
    dashboard = open_shared(reduced_motion="reduce")
    page, session = dashboard.blank, shared.session

    def check(where: str) -> None:
        page.emulate_media(color_scheme="light")
        assert serious(page) == [], where
        page.emulate_media(color_scheme="dark")
        assert serious(page, "color-contrast") == [], f"{where} in the dark theme"

    places = (
        *PLACES,
        f"/sessions/{session['id']}",
        f"/sessions/{session['id']}/files?path=README.md",
        f"/sessions/{session['id']}/transcript",
        "/sessions/gone",
    )
    for path in places:
        settle(dashboard, path)
        check(path)
    for key in ("n", "?", "Control+k"):
        settle(dashboard, "/")
        page.keyboard.press(key)
        page.get_by_role("dialog").wait_for()
        check(key)


# The contrast of each field's border with what lies behind it (WCAG 2.2, 1.4.11), after the browser's own drawing.
BORDERS = """
() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const luminance = (...colours) => {
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colours = [];
    for (let at = element; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
    return colours;
  };
  return [...document.querySelectorAll('.input')].map((field) => {
    const [light, dark] = [
      luminance(...behind(field.parentElement)), luminance(getComputedStyle(field).borderTopColor)
    ].sort((a, b) => b - a);
    return [field.id || field.ariaLabel || field.placeholder, (light + 0.05) / (dark + 0.05)];
  });
}
"""


def test_one_sees_where_a_field_is(open_shared):
    """The border of each field has a contrast of 3:1, in both themes."""
    dashboard = open_shared(reduced_motion="reduce")
    page = dashboard.blank
    seen = 0
    for path, key in (("/settings", ""), ("/history", ""), ("/", "n")):
        settle(dashboard, path)
        if key:
            page.keyboard.press(key)
            page.get_by_role("dialog").wait_for()
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            borders = page.evaluate(BORDERS)
            assert [name for name, contrast in borders if contrast < 3] == [], (path, theme)
        seen += len(borders)
    assert seen > 5


# What would scroll sideways, or be cut off without an ellipsis, and is not made to be swiped. The document itself never
# scrolls, so that its own width says nothing.
TOO_WIDE = """
() => [...document.querySelectorAll('body, #app, #app *')].filter((one) => {
  if (!one.checkVisibility() || one.clientWidth === 0 || one.scrollWidth <= one.clientWidth + 1) return false;
  if (one.closest('.xterm, .cm-editor, [role=toolbar], .sr, input, select, svg')) return false;
  const { overflowX, textOverflow } = getComputedStyle(one);
  return overflowX !== 'visible' && textOverflow !== 'ellipsis';
}).map((one) => `${one.tagName}.${one.className}: ${one.scrollWidth} > ${one.clientWidth}`)
"""


@pytest.mark.day
def test_a_phone_has_no_horizontal_scroll(shared, open_shared, make_workspace):
    """At 390 px every place fits, and long names are cut rather than pushed out."""
    name = "a-project-with-a-name-that-is-much-longer-than-a-phone-is-wide-and-then-some"
    (shared.root / name).mkdir()
    dashboard = open_shared(phone=True)
    session = dashboard.server.create(make_workspace(name))
    for path in (
        *PLACES,
        f"/sessions/{session['id']}",
        f"/sessions/{session['id']}/shell",
        f"/sessions/{session['id']}/files",
    ):
        settle(dashboard, path)
        assert dashboard.page.evaluate(TOO_WIDE) == [], path


def test_a_phone_shows_every_view_of_a_session(shared, open_shared):
    dashboard = open_shared(phone=True)
    page, session = dashboard.page, shared.session
    listed = [{**session, "changes": {"files": 128, "added": 9, "removed": 9}}]
    page.route(re.compile(r"/api/sessions(\?.*)?$"), lambda route: route.fulfill(json=listed))
    settle(dashboard, f"/sessions/{session['id']}")
    views = page.get_by_role("navigation", name="Views of this session").get_by_role("link")
    boxes = [view.bounding_box() for view in views.all()]
    assert len(boxes) == 6
    assert boxes[0]["x"] >= 0
    assert boxes[-1]["x"] + boxes[-1]["width"] <= page.viewport_size["width"]


def test_zoomed_to_twice_its_size_nothing_overlaps(shared, open_shared):
    """A window of 1280 pixels then has 640 of the page's: names are still there, and nothing is pushed out."""
    dashboard = open_shared(**ZOOMED)
    page, session = dashboard.page, shared.session
    listed = [{**session, "persistent": True}]
    page.route(re.compile(r"/api/sessions(\?.*)?$"), lambda route: route.fulfill(json=listed))
    for path in ("/", f"/sessions/{session['id']}"):
        settle(dashboard, path)
        assert page.evaluate(TOO_WIDE) == [], path
        name = page.get_by_role("main").get_by_text("my-app", exact=True).locator("visible=true").first
        box = name.bounding_box()
        assert box["width"] > 40, path
        over = "([x, y]) => document.elementFromPoint(x, y).textContent"
        assert "my-app" in page.evaluate(over, [box["x"] + 20, box["y"] + box["height"] / 2]), path


# Whether the word for a state lies over the name. A box may be narrower than the words in it.
OVERLAP = """
(row) => {
  const [word, name] = ['.status', 'a'].map((one) => {
    const range = document.createRange();
    range.selectNodeContents(row.querySelector(one));
    return range.getBoundingClientRect();
  });
  return word.right > name.left && word.bottom > name.top && name.bottom > word.top;
}
"""


ZOOMED = {"viewport": {"width": 640, "height": 400}}


@pytest.mark.parametrize(
    "screen",
    [
        pytest.param({}, id="desk"),
        pytest.param(ZOOMED, id="zoomed"),
        pytest.param({"phone": True}, id="phone"),
    ],
)
def test_a_row_with_all_that_can_be_said_keeps_its_name(shared, open_shared, screen):
    """Badges wrap before the name is cut away, and the longest word for a state has room."""
    dashboard = open_shared(**screen)
    page, session = dashboard.page, {**shared.session, "persistent": True}
    said = {**session["agent"], "state": "working", "text": "Running the migrations of all tenants in the database"}
    all_said = {
        "name": "A name of some length that says what it is about", "pinned": True, "mode": "clone", "agent": said,
        "engine": "a-tower-in-the-cellar", "warnings": ["one", "two"], "deadline": "2999-01-01T00:00:00Z",
        "changes": {"files": 1234}, "network": {"mode": "allow-list", "refused": 99},
    }  # fmt: skip
    listed = [{**session, **all_said}]
    page.route(re.compile(r"/api/sessions(\?.*)?$"), lambda route: route.fulfill(json=listed))
    for more in ({}, {"unreachable_since": session["created_at"]}):
        listed[0].update(more)
        dashboard.go()
        name = page.get_by_role("main").get_by_role("link", name="A name of some length")
        expect(name).to_be_visible()
        assert name.bounding_box()["width"] > 60
        assert page.evaluate(TOO_WIDE) == []
        assert not page.locator("main .row").evaluate(OVERLAP)


def test_a_long_name_stays_beside_its_state_in_the_sidebar(shared, open_shared):
    """A name that has no room is cut: neither it nor what stands beside it goes to a line of its own."""
    dashboard = open_shared()
    page, agent = dashboard.page, shared.session["agent"]
    question = {**agent, "state": "waiting", "reason": "question", "options": ["Yes"], "text": "Shall I commit this?"}
    told = {"name": "A name of some length that says what it is about", "agent": question, "changes": {"files": 1234}}
    page.route(re.compile(r"/api/sessions(\?.*)?$"), lambda route: route.fulfill(json=[{**shared.session, **told}]))
    dashboard.go()
    row = page.get_by_role("navigation", name="Main").get_by_role("link", name="A name of some length")
    state = row.locator(".status").bounding_box()
    name = row.get_by_text("A name of some length").bounding_box()
    assert state["x"] + state["width"] <= name["x"]
    assert state["y"] < name["y"] + name["height"]
    assert name["y"] < state["y"] + state["height"]
    assert name["width"] > 60
    assert row.get_by_text("±1234").bounding_box()["y"] < name["y"] + name["height"]


def test_a_row_of_a_tool_that_has_said_nothing_keeps_its_state_in_sight(shared, open_shared):
    """On a phone the field for the next prompt is as wide as the row, and stands below the state."""
    dashboard = open_shared(phone=True)
    page, agent = dashboard.blank, shared.session["agent"]
    listed = [{**shared.session, "agent": {**agent, "state": "done", "text": "", "seen": False}}]
    page.route(re.compile(r"/api/sessions(\?.*)?$"), lambda route: route.fulfill(json=listed))
    dashboard.go()
    field = page.get_by_role("textbox", name="Reply to").bounding_box()
    state = page.locator("main .state").bounding_box()
    assert state["y"] + state["height"] <= field["y"]


@pytest.mark.day
def test_a_phone_has_the_keys_that_its_keyboard_lacks(bed, shared, open_shared):
    """Esc, Tab, Ctrl and arrows: history with an arrow, ^C with Ctrl and a letter."""
    end_shell(bed, shared.session)
    dashboard = open_shared(phone=True)
    dashboard.open_terminal(shared.session, tab="/shell")
    page = dashboard.page
    bar = page.get_by_role("toolbar", name="Terminal keys")
    page.locator(".xterm-screen:visible").tap()
    dashboard.type_line("echo first")
    dashboard.expect_screen("first.*first")
    bar.get_by_role("button", name="Up", exact=True).tap()
    bar.get_by_role("button", name="Enter").tap()
    dashboard.expect_screen("first.*first.*first.*first")
    dashboard.type_line("sleep 1000")
    bar.get_by_role("button", name="Ctrl", exact=True).tap()
    page.keyboard.type("c")
    dashboard.expect_screen(r"\^C")
    dashboard.type_line("echo free")
    dashboard.expect_screen("free.*free")


@pytest.mark.parametrize(("tab", "flood"), [("", "flood 500"), ("/shell", "seq 500")])
def test_a_finger_scrolls_back(bed, shared, open_shared, tab, flood):
    """In a tool's terminal as in a shell's; a key goes back to the end."""
    clear_tool(bed, shared.session)
    end_shell(bed, shared.session)
    dashboard = open_shared(phone=True)
    dashboard.open_terminal(shared.session, tab=tab)
    dashboard.page.locator(".xterm-screen:visible").tap()
    dashboard.type_line(flood)
    dashboard.expect_screen("499.*500")
    finger = dashboard.page.context.new_cdp_session(dashboard.page)
    for kind, y in (("touchStart", 300), *(("touchMove", y) for y in range(310, 601, 10)), ("touchEnd", None)):
        points = [] if y is None else [{"x": 200, "y": y}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    shown = dashboard.page.locator(".xterm-rows:visible").last  # the past lies over the present
    expect(shown).not_to_contain_text("499")
    dashboard.type_line("x")
    expect(shown).to_contain_text("499")


def test_a_phone_switches_sessions_in_its_sheet(bed, shared, open_shared):
    """The menu holds what the sidebar holds, and closes when one has chosen."""
    clear_tool(bed, shared.session)
    dashboard = open_shared(phone=True)
    dashboard.go("/settings")
    dashboard.page.get_by_role("button", name="Menu").tap()
    dashboard.page.get_by_role("dialog").get_by_role("link", name="my-app").tap()
    dashboard.expect_screen("STUB-READY")
    expect(dashboard.page.get_by_role("dialog")).to_have_count(0)
    assert dashboard.page.url.endswith(shared.session["id"])


def test_a_tablet_with_a_keyboard_lists_the_keys(open_shared):
    """Hints of keys are hidden where one touches, but in the list of them each row has its keys."""
    page = open_shared(phone=True).page
    page.keyboard.press("?")
    rows = page.get_by_role("dialog").locator("dl > div")
    rows.first.wait_for()
    for row in rows.all():
        for key in row.locator("kbd").all():
            expect(key).to_be_visible()


def test_it_can_be_installed(open_shared):
    """The manifest is served as one, is complete, and its icons are there."""
    dashboard = open_shared()
    link = dashboard.page.locator('link[rel="manifest"]').get_attribute("href")
    answer = dashboard.server.get(link)
    assert "manifest" in answer.headers["content-type"]
    manifest = json.loads(answer.body)
    assert (manifest["start_url"], manifest["display"]) == ("/", "standalone")
    assert {icon["sizes"] for icon in manifest["icons"]} >= {"192x192", "512x512"}
    for icon in manifest["icons"]:
        assert dashboard.server.get(icon["src"]).headers["content-type"] == icon["type"]
    session = dashboard.page.context.new_cdp_session(dashboard.page)
    errors = {error["errorId"] for error in session.send("Page.getInstallabilityErrors")["installabilityErrors"]}
    assert errors <= {"in-incognito"}  # the test's own browser context


def test_a_chosen_theme_is_there_before_the_first_paint(open_shared):
    """A choice against the system's is kept, and set before the page's own script runs."""
    dashboard = open_shared()
    page = dashboard.page
    page.emulate_media(color_scheme="light")
    dashboard.go("/settings")
    page.get_by_label("Theme", exact=True).select_option("dark")
    page.route("**/assets/index-*.js", lambda route: route.abort())
    page.reload(wait_until="commit")
    page.wait_for_selector("body", state="attached")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 16, 19)"
    dashboard.forgive("ERR_FAILED")


# The texts below 12 px and, where a finger is the main pointer, the fields below 16 px, into which a phone zooms. What
# a terminal or an editor shows has the size that the person chose.
SMALL = """
() => {
  const found = new Set();
  const sizeOf = (one) => parseFloat(getComputedStyle(one).fontSize);
  const say = (one, words) => found.add(`${one.tagName}.${one.className}: ${words}, ${sizeOf(one)} px`);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const { data, parentElement: one } = texts.currentNode;
    if (!data.trim() || !one.checkVisibility() || one.closest('.xterm, .cm-editor, svg')) continue;
    if (sizeOf(one) < 12) say(one, data.trim());
  }
  if (matchMedia('(pointer: coarse)').matches)
    for (const one of document.querySelectorAll(
      'input:not([type=checkbox], [type=radio], [type=file]), textarea, select'
    ))
      if (one.checkVisibility() && sizeOf(one) < 16) say(one, 'a field');
  return [...found];
}
"""


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_every_text_can_be_read_and_no_field_is_zoomed_into(shared, open_shared, phone):
    """On every place, in each view of a session, and in the dialogs."""
    dashboard = open_shared(phone=phone)
    page = dashboard.blank
    views = ("", "/shell", "/transcript", "/files?path=README.md", "/changes", "/network")
    for path in (*PLACES, *(f"/sessions/{shared.session['id']}{view}" for view in views)):
        settle(dashboard, path)
        assert page.evaluate(SMALL) == [], path
    page.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Rename").click()
    assert page.evaluate(SMALL) == [], "while a session is renamed"
    settle(dashboard, "/")
    for key in ("n", "?", "Control+k"):
        page.keyboard.press(key)
        page.get_by_role("dialog").wait_for()
        assert page.evaluate(SMALL) == [], key
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


# Where the words of a place begin.
EDGE = """
() => {
  const inner = document.querySelector('.page > *');
  return inner.getBoundingClientRect().left + parseFloat(getComputedStyle(inner).paddingLeft);
}
"""


def test_each_place_begins_at_the_same_edge(open_shared):
    """One goes through the places without a jump of what one reads, in a window of any width."""
    dashboard = open_shared()
    page = dashboard.page
    for width in (1920, 1440, 1280, 820, 390):
        page.set_viewport_size({"width": width, "height": 800})
        edges = {}
        for path in OF_THE_SIDEBAR:
            dashboard.go(path)
            page.locator(".page > *").first.wait_for()
            edges[path] = page.evaluate(EDGE)
        assert len(set(edges.values())) == 1, (width, edges)


def test_back_leads_to_where_one_was(open_shared):
    """Also where what one had read has to be fetched once more. A link leads to the top."""
    dashboard = open_shared()
    page = dashboard.blank
    settle(dashboard, "/settings")
    place = page.get_by_role("region", name="Settings", exact=True)
    page.get_by_role("heading", name="About").scroll_into_view_if_needed()
    top = place.evaluate("(one) => one.scrollTop")
    assert top > 100
    history = page.get_by_role("navigation", name="Main").get_by_role("link", name="History")
    history.click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    page.go_back()
    page.wait_for_function("(top) => document.querySelector('.page[aria-label=Settings]')?.scrollTop === top", arg=top)
    history.click()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Settings").click()
    expect(place).to_be_visible()
    assert place.evaluate("(one) => one.scrollTop") == 0


@pytest.mark.parametrize("path", OF_THE_SIDEBAR)
def test_nothing_shifts_when_the_data_arrives(open_shared, path):
    """The layout shift of a load is next to nothing."""
    dashboard = open_shared()
    dashboard.blank.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => { for (const entry of list.getEntries()) "
        "window.shift += entry.value }).observe({ type: 'layout-shift', buffered: true })"
    )
    settle(dashboard, path)
    assert dashboard.page.evaluate("window.shift") < 0.05


def test_a_first_load_and_a_reload_cost_few_bytes(shared, open_shared):
    """With a terminal on the page, until it rests; the editor comes when somebody opens it.

    What the terminal waits for has a limit of its own, in spa/scripts/sizes.mjs.
    """
    dashboard = open_shared()
    wire = Wire(dashboard.blank)  # before it has been anywhere
    settle(dashboard, f"/sessions/{shared.session['id']}")
    dashboard.page.locator(".xterm-rows").wait_for()
    expect(dashboard.page.get_by_role("textbox", name="Prompt")).to_be_visible()
    assert len(wire.paths) <= 8, f"{sorted(wire.paths)}; each change of the session meanwhile asks for the list again"
    assert 0 < wire.take() < 170_000
    dashboard.page.reload(wait_until="networkidle")
    dashboard.page.locator(".xterm-rows").wait_for()
    assert 0 < wire.take() < 5_000, "no file, and the list once more for each thing that its session did meanwhile"
