"""The page on a phone: what its keyboard covers, what raises it, and what a finger can do."""

from __future__ import annotations

import re

import pytest
from browser_bed import Dashboard, clear_tool
from playwright.sync_api import Page, expect

from tests.incus_bed import CLAUDE_WORKS

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


def raise_keyboard(page: Page) -> None:
    page.evaluate(RAISE_KEYBOARD, VISIBLE)


def expect_above(page: Page, *elements) -> None:
    """Wait until elements stand in what the keyboard leaves visible."""
    for element in elements:
        expect(element).to_be_visible()
        handle = element.element_handle()
        page.wait_for_function(f"(one) => one.getBoundingClientRect().bottom <= {VISIBLE}", arg=handle)


def has_keyboard(page: Page) -> bool:
    """Whether a field has the focus, for which a phone raises its keyboard."""
    return bool(page.evaluate("document.activeElement.matches('input, textarea, [contenteditable=true]')"))


@pytest.mark.day
def test_keys_and_prompt_box_stand_above_the_keyboard(bed, shared, open_shared):
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared(phone=True)
    dashboard.open_terminal(shared.session)
    page = dashboard.page
    raise_keyboard(page)
    keys = page.get_by_role("toolbar", name="Terminal keys")
    box = page.get_by_role("textbox", name="Prompt for")
    expect_above(page, keys, box)
    page.get_by_role("button", name="More actions").tap()
    page.get_by_role("menuitem", name="About this session").tap()
    close = page.get_by_role("dialog").get_by_role("button", name="Close").last
    expect_above(page, close)
    close.tap()
    page.route(re.compile(r"/api/sessions/[^/]+$"), lambda route: route.fulfill(status=500, json={"error": "no disk"}))
    page.get_by_role("button", name="More actions").tap()
    page.get_by_role("menuitem", name="Pin to the top").tap()
    expect_above(page, page.get_by_text("No disk"))
    dashboard.forgive("status of 500")


# What can be pressed or typed into and lies, if only in part, where the insets are. The keys of a terminal scroll.
UNDER_THE_NOTCH = """
(inset) => [...document.querySelectorAll('a[href], button, input, textarea, select')].filter((one) => {
  if (!one.checkVisibility() || one.closest('.xterm, [role=toolbar]')) return false;
  const { left, right, width } = one.getBoundingClientRect();
  return width > 1 && (left < inset || right > innerWidth - inset);
}).map((one) => `${one.tagName} ${one.ariaLabel || one.textContent.trim() || one.className}`)
"""


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
    page.route(re.compile(r"/api/sessions/[^/]+$"), lambda route: route.fulfill(status=500, json={"error": "no disk"}))
    page.get_by_role("button", name="More actions").tap()
    check("its menu")
    page.get_by_role("menuitem", name="Pin to the top").tap()
    page.get_by_text("No disk").wait_for()
    check("a message")
    dashboard.forgive("status of 500")


@pytest.mark.day
def test_no_visit_raises_the_keyboard(bed, shared, open_shared):
    """Neither a link, nor a dialog that closes, nor a look back; a tap on the terminal does."""
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared(phone=True)
    dashboard.go("/settings")
    page = dashboard.page
    page.get_by_role("button", name="Menu").tap()
    page.get_by_role("dialog").get_by_role("link", name="my-app").tap()
    dashboard.expect_screen("STUB-READY")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert not has_keyboard(page)
    page.get_by_role("button", name="More actions").tap()
    page.get_by_role("menuitem", name="About this session").tap()
    page.get_by_role("dialog").get_by_role("button", name="Close").last.tap()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert not has_keyboard(page)
    page.locator(".xterm-screen:visible").tap()
    page.wait_for_function("document.activeElement.matches('.xterm-helper-textarea')")
    page.keyboard.type("typed by thumb\n")
    dashboard.expect_screen("echo: typed by thumb")


def test_stop_is_no_symbol_beside_interrupt(bed, shared, open_shared):
    """A phone has room for symbols only: the menu stops the container, by name, and asks first while the tool works."""
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared(phone=True)
    dashboard.open_terminal(shared.session)
    bed.draw(shared.session["id"], CLAUDE_WORKS)
    page = dashboard.page
    expect(page.get_by_role("button", name="Interrupt (Esc)")).to_be_visible()
    expect(page.get_by_role("banner").or_(page.locator("header")).get_by_role("button", name="Stop")).to_have_count(0)
    page.get_by_role("button", name="More actions").tap()
    page.get_by_role("menuitem", name="Stop", exact=True).tap()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("Claude Code is working: its turn ends unfinished.")
    question.get_by_role("button", name="Cancel").tap()


def test_the_text_of_a_terminal_can_be_selected_and_copied(bed, shared, open_shared):
    """The browser's own selection, which a finger has. Colours and links are left out."""
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared(phone=True)
    dashboard.open_terminal(shared.session)
    bed.draw(shared.session["id"], ["\\033[31mthe red error\\033[0m of the build", "a second line"])
    dashboard.expect_screen("a second line")
    page = dashboard.page
    page.get_by_role("button", name="More actions").tap()
    page.get_by_role("menuitem", name="Select text").tap()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_contain_text("the red error of the build\na second line")
    selected = "(one) => (getSelection().selectAllChildren(one), getSelection().toString())"
    assert "the red error of the build" in dialog.locator("pre").evaluate(selected)
    dialog.get_by_role("button", name="Copy all").tap()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert "red error of the build\na second line" in page.evaluate("navigator.clipboard.readText()")
