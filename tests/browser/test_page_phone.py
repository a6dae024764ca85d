"""The page on a phone: what its keyboard covers, what raises it, and what a finger can do."""

from __future__ import annotations

from browser_bed import Dashboard, clear_tool
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
    expect_above(page, page.get_by_role("dialog").get_by_role("button", name="Close").last)


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
