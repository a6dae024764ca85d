"""The page on a phone: what its keyboard covers, what raises it, and what a finger can do."""

from __future__ import annotations

import re

import pytest
from browser_bed import Dashboard, clear_tool, end_shell
from playwright.sync_api import Page, expect

pytest_plugins = ("browser_bed",)

VISIBLE = 460  # pixels that the keyboard of a phone with 844 leaves

# Safari lays the keyboard over the page and makes the visual viewport smaller. Chromium has no keyboard here, so a
# viewport of our own says so.
RAISE_KEYBOARD = """
(height) => {
  Object.defineProperty(visualViewport, 'height', {value: height, configurable: true});
  visualViewport.dispatchEvent(new Event('resize'));
}
"""
# What can be pressed or typed into and lies, if only in part, where the insets are. The keys of a terminal scroll.
UNDER_THE_NOTCH = """
(inset) => [...document.querySelectorAll('a[href], button, input, textarea, select')].filter((one) => {
  if (!one.checkVisibility() || one.closest('.xterm, [role=toolbar]')) return false;
  const { left, right, width } = one.getBoundingClientRect();
  return width > 1 && (left < inset || right > innerWidth - inset);
}).map((one) => `${one.tagName} ${one.ariaLabel || one.textContent.trim() || one.className}`)
"""


@pytest.fixture
def phone(bed, shared, open_shared) -> Dashboard:
    """A phone on the tool of the file's session."""
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared(phone=True)
    dashboard.open_terminal(shared.session)
    return dashboard


def choose(page: Page, entry: str) -> None:
    """Choose an entry of the session's menu."""
    page.get_by_role("button", name="More actions").tap()
    page.get_by_role("menuitem", name=entry, exact=True).tap()


def pin_in_vain(page: Page) -> None:
    """Let the page say what failed."""
    page.route(re.compile(r"/api/sessions/[^/]+$"), lambda route: route.fulfill(status=500, json={"error": "no disk"}))
    choose(page, "Pin to the top")


@pytest.mark.day
def test_keys_and_prompt_box_stand_above_the_keyboard(phone):
    page = phone.page

    def expect_above(element) -> None:
        expect(element).to_be_visible()
        handle = element.element_handle()
        page.wait_for_function(f"(one) => one.getBoundingClientRect().bottom <= {VISIBLE}", arg=handle)

    page.evaluate(RAISE_KEYBOARD, VISIBLE)
    expect_above(page.get_by_role("toolbar", name="Terminal keys"))
    expect_above(page.get_by_role("textbox", name="Prompt for"))
    choose(page, "About this session")
    close = page.get_by_role("dialog").get_by_role("button", name="Close").last
    expect_above(close)
    close.tap()
    pin_in_vain(page)
    expect_above(page.get_by_text("No disk"))
    phone.forgive("status of 500")


@pytest.mark.day
def test_one_goes_to_a_session_by_the_menu_and_no_visit_raises_the_keyboard(bed, phone, shared):
    """The menu holds what the sidebar holds; neither a link nor a dialog that closes gives a field the focus."""
    page, dialog = phone.page, phone.page.get_by_role("dialog")

    def has_keyboard() -> bool:
        return bool(page.evaluate("document.activeElement.matches('input, textarea, [contenteditable=true]')"))

    phone.go("/settings")
    page.get_by_role("button", name="Menu").tap()
    dialog.get_by_role("link", name="my-app").tap()
    phone.expect_screen("STUB-READY")
    expect(dialog).to_have_count(0)
    assert page.url.endswith(shared.session["id"])
    assert not has_keyboard()
    choose(page, "About this session")
    dialog.get_by_role("button", name="Close").last.tap()
    expect(dialog).to_have_count(0)
    assert not has_keyboard()
    page.locator(".xterm-screen:visible").tap()
    page.wait_for_function("document.activeElement.matches('.xterm-helper-textarea')")
    page.keyboard.type("typed by thumb\n")
    phone.expect_screen("echo: typed by thumb")


@pytest.mark.day
def test_the_terminal_has_the_keys_that_a_phone_lacks_and_a_finger_scrolls_it(bed, phone, shared):
    """History with an arrow, ^C with Ctrl and a letter; the past with a finger, and a key back to the end."""
    page = phone.page
    end_shell(bed, shared.session)
    phone.open_terminal(shared.session, tab="/shell")
    bar = page.get_by_role("toolbar", name="Terminal keys")
    page.locator(".xterm-screen:visible").tap()
    phone.type_line("echo first")
    phone.expect_screen("first.*first")
    bar.get_by_role("button", name="Up", exact=True).tap()
    bar.get_by_role("button", name="Enter").tap()
    phone.expect_screen("first.*first.*first.*first")
    phone.type_line("sleep 1000")
    bar.get_by_role("button", name="Ctrl", exact=True).tap()
    page.keyboard.type("c")
    phone.expect_screen(r"\^C")

    finger = page.context.new_cdp_session(page)
    for tab, flood in (("/shell", "seq 500"), ("", "flood 500")):
        phone.open_terminal(shared.session, tab=tab)
        page.locator(".xterm-screen:visible").tap()
        phone.type_line(flood)
        phone.expect_screen("499.*500")
        for kind, y in (("touchStart", 300), *(("touchMove", y) for y in range(310, 601, 10)), ("touchEnd", None)):
            points = [] if y is None else [{"x": 200, "y": y}]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        expect(phone.rows).not_to_contain_text("499")
        phone.type_line("x")
        expect(phone.rows).to_contain_text("499")


def test_nothing_lies_under_the_notch_of_a_phone_on_its_side(bed, shared, open_shared):
    """Neither on the places, nor in a session, its menu and its messages, nor in the dialog of a new session."""
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared(phone=True, viewport={"width": 844, "height": 390})
    page, inset = dashboard.page, 47

    def check(where: str) -> None:
        assert page.evaluate(UNDER_THE_NOTCH, inset) == [], where

    insets = {"left": inset, "right": inset, "bottom": 21}
    page.context.new_cdp_session(page).send("Emulation.setSafeAreaInsetsOverride", {"insets": insets})
    for path in ("/", "/projects", "/all", "/history", "/settings"):
        dashboard.go(path)
        page.locator(".page h1, .page h2").first.wait_for(state="attached")
        check(path)
    page.keyboard.press("n")
    page.get_by_role("dialog").wait_for()
    check("a new session")
    dashboard.open_terminal(shared.session)
    check("a session")
    pin_in_vain(page)
    page.get_by_text("No disk").wait_for()
    check("a message")
    dashboard.forgive("status of 500")
