"""What holds for every place: contrast and names, sizes and widths, no shift, and few bytes."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_bed import Dashboard
from playwright.sync_api import expect

pytest_plugins = ("browser_bed",)

OF_THE_SIDEBAR = ("/", "/projects", "/all", "/history", "/logins", "/settings")
VIEWS = ("", "/shell", "/transcript", "/files?path=README.md", "/changes", "/network")
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


def every_place(dashboard: Dashboard, session: dict, check) -> None:
    """Open each place, each view of a session and each dialog once, and call `check` with its name."""
    page = dashboard.blank
    for path in (
        *OF_THE_SIDEBAR,
        "/nowhere",
        "/sessions/gone",
        *(f"/sessions/{session['id']}{view}" for view in VIEWS),
    ):
        settle(dashboard, path)
        check(path)
    page.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Rename").click()
    check("while a session is renamed")
    settle(dashboard, "/")
    for key in ("n", "?", "Control+k"):
        page.keyboard.press(key)
        page.get_by_role("dialog").wait_for()
        check(key)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.day
def test_every_place_has_names_and_contrast_and_can_be_read(shared, open_shared):
    """In the dark theme only the contrast can be another one."""
    # Without motion: halfway through its fade a dialog has less contrast.
    dashboard = open_shared(reduced_motion="reduce")
    page = dashboard.blank

    def check(where: str) -> None:
        assert page.evaluate(SMALL) + page.evaluate(TOO_WIDE) == [], where
        for theme, rules in (("light", ()), ("dark", ("color-contrast",))):
            page.emulate_media(color_scheme=theme)
            assert serious(page, *rules) == [], (where, theme)

    every_place(dashboard, shared.session, check)


@pytest.mark.day
def test_a_phone_has_no_horizontal_scroll_and_zooms_into_no_field(shared, open_shared):
    """At 390 px every place fits with all that it can say, and long names are cut rather than pushed out."""
    dashboard = open_shared(phone=True)
    page = dashboard.blank
    all_said = {
        "name": "a-project-with-a-name-that-is-much-longer-than-a-phone-is-wide-and-then-some",
        "agent": {**shared.session["agent"], "state": "working", "text": "Running the migrations of all tenants"},
        "changes": {"files": 128, "added": 9, "removed": 9},
        "pinned": True,
        "persistent": True,
        "mode": "clone",
        "engine": "a-tower-in-the-cellar",
        "warnings": ["one", "two"],
        "network": {"mode": "allow-list", "refused": 99},
    }
    listed = [{**shared.session, **all_said}]
    page.route(re.compile(r"/api/sessions(\?.*)?$"), lambda route: route.fulfill(json=listed))

    def check(where: str) -> None:
        assert page.evaluate(SMALL) + page.evaluate(TOO_WIDE) == [], where

    every_place(dashboard, shared.session, check)
    for width in (390, 640):  # the latter is a window of 1280 pixels that is zoomed to twice its size
        page.set_viewport_size({"width": width, "height": 844})
        settle(dashboard, "/")
        assert page.evaluate(TOO_WIDE) == [], width
        link = page.get_by_role("main").get_by_role("link", name="a-project")
        assert link.bounding_box()["width"] > 60, width
    page.set_viewport_size({"width": 390, "height": 844})
    settle(dashboard, f"/sessions/{shared.session['id']}")
    views = page.get_by_role("navigation", name="Views of this session").get_by_role("link")
    boxes = [view.bounding_box() for view in views.all()]
    assert len(boxes) == len(VIEWS)
    assert boxes[0]["x"] >= 0
    assert boxes[-1]["x"] + boxes[-1]["width"] <= page.viewport_size["width"]


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


# Where the words of a place begin.
EDGE = """
() => {
  const inner = document.querySelector('.page > *');
  return inner.getBoundingClientRect().left + parseFloat(getComputedStyle(inner).paddingLeft);
}
"""


def test_no_place_jumps(open_shared):
    """Each begins at the same edge, in a window of any width, and next to nothing shifts when its data arrives."""
    dashboard = open_shared()
    page = dashboard.blank
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => { for (const entry of list.getEntries()) "
        "window.shift += entry.value }).observe({ type: 'layout-shift', buffered: true })"
    )
    for width in (1920, 1280, 820, 390):
        page.set_viewport_size({"width": width, "height": 800})
        edges = {}
        for path in OF_THE_SIDEBAR:
            settle(dashboard, path)
            edges[path] = page.evaluate(EDGE)
            assert page.evaluate("window.shift") < 0.05, (width, path)
        assert len(set(edges.values())) == 1, (width, edges)
