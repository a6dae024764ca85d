"""The keyboard alone: every place and dialog, and where the keys go when what had them is gone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

pytest_plugins = ("browser_bed",)

OUTLINE = """
(at => [[...document.querySelectorAll('*')].indexOf(at), at.tagName, at.ariaLabel ?? at.textContent.trim().slice(0, 40),
  getComputedStyle(at).outlineStyle, getComputedStyle(at, '::after').outlineStyle])(document.activeElement)
"""


def press(button: Locator) -> None:
    """Press a button as the keyboard does, once it can be pressed."""
    expect(button).to_be_enabled()
    button.focus()
    button.press("Enter")


@pytest.mark.day
def test_the_palette_leads_everywhere(tool):
    """Alt+0 in a terminal and Ctrl+K elsewhere: it finds by a few letters, and what it leads to has the keys."""
    page, palette = tool.page, tool.page.get_by_role("combobox", name="Command")
    page.keyboard.press("Alt+0")
    expect(palette).to_be_focused()
    page.keyboard.type("history")
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_accessible_name("History")
    page.keyboard.press("Control+k")
    expect(palette).to_be_focused()
    page.keyboard.type("my-app")
    page.keyboard.press("Enter")
    expect(page.locator(".xterm-helper-textarea:focus")).to_have_count(1)
    tool.type_line("typed after the palette")
    tool.expect_screen("echo: typed after the palette")


@pytest.mark.day
def test_a_terminal_and_an_editor_take_all_keys_but_let_go(shell):
    """Ctrl+Shift+Up leads to the tabs above a terminal, and from there Tab on; Escape ends an editor."""
    page = shell.page
    terminal, text = page.locator(".xterm-helper-textarea:visible"), page.locator(".cm-content")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(terminal).to_be_focused()
    page.keyboard.press("Control+Shift+ArrowUp")
    expect(page.get_by_role("main").get_by_role("link", name="Shell")).to_be_focused()
    for _ in ("Transcript", "Files", "Changes", "Network", "Stop"):
        page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_accessible_name("Stop")
    for _ in ("Network", "Changes", "Files"):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    press(page.get_by_role("treeitem", name="README.md"))
    expect(text).to_be_focused()
    page.keyboard.press("Tab")
    expect(text).to_be_focused()
    page.keyboard.press("Control+s")
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    expect(text).not_to_be_focused()


@pytest.mark.day
def test_a_dialog_gives_the_focus_back(shared, open_shared):
    """Escape leads to the button that opened it. What a badge says is there in words, at any width."""
    (shared.root / "untouched").mkdir()
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go("/projects")
    for opener in ("New session", "untouched", "New project", "Keyboard shortcuts", "Search and commands"):
        button = page.get_by_role("button", name=opener, exact=True).last
        press(button)
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        expect(button).to_be_focused()
        expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Command")).to_be_focused()
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    dashboard.go(f"/sessions/{shared.session['id']}/files")
    about = page.get_by_role("button", name="About this session")
    for width in (1280, 800, 390):
        page.set_viewport_size({"width": width, "height": 800})
        press(about)
        expect(page.get_by_role("dialog", name="About my-app")).to_contain_text(re.compile("cannot change|read-only"))
        page.keyboard.press("Escape")
        expect(about).to_be_focused()


def test_the_focus_is_seen_on_every_place(shared, open_shared):
    """Tab goes round each place and comes to its end, with an outline at each stop."""
    dashboard = open_shared()
    page, session = dashboard.blank, f"/sessions/{shared.session['id']}"
    for path in ("/", "/settings", "/history", f"{session}/files", f"{session}/transcript"):
        dashboard.go(path)
        page.wait_for_load_state("networkidle")
        stops: list[list[str]] = []
        while len(stops) < 60:
            page.keyboard.press("Tab")
            stop = page.evaluate(OUTLINE)
            if stop[1] == "BODY" or stop in stops:
                break
            stops.append(stop)
        assert 10 < len(stops) < 60, (path, stops)
        dark = [name for _, tag, name, *outlines in stops if set(outlines) == {"none"} and tag != "INPUT"]
        assert dark == [], path
