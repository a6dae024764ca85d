"""The keyboard alone: every place and dialog, and where the keys go when what had them is gone."""

from __future__ import annotations

import re

import pytest
from browser_bed import Dashboard, await_next_run, end_shell, started_at
from playwright.sync_api import Locator, expect

pytest_plugins = ("browser_bed",)


def press(button: Locator) -> None:
    """Press a button as the keyboard does, once it can be pressed."""
    expect(button).to_be_enabled()
    button.focus()
    button.press("Enter")


def expect_focus_on_words(dashboard: Dashboard, words: str) -> None:
    """Wait until the focus is on something with that name."""
    expect(dashboard.page.locator(":focus")).to_have_accessible_name(re.compile(words))


def test_ctrl_k_is_the_shells(bed, shared, open_shared):
    """It cuts the rest of the line there, and what is chosen for the palette in the settings opens that."""
    end_shell(bed, shared.session)
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go("/settings")
    page.get_by_label("Command palette shortcut").select_option("Ctrl Shift K")
    dashboard.open_terminal(shared.session, tab="/shell")
    page.keyboard.type("echo kept-whole cut-off")
    for _ in "cut-off":
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+k")
    page.keyboard.press("Enter")
    dashboard.expect_screen(r"kept-whole\s*kept-whole")
    assert "cut-off" not in dashboard.screen()
    expect(page.locator(".hint:visible")).to_contain_text("Ctrl Shift K commands")
    page.keyboard.press("Control+Shift+K")
    expect(page.get_by_role("combobox", name="Command")).to_be_focused()


def test_how_well_a_session_is_protected_is_said_in_words(shared, open_shared):
    """With the keyboard, at each width: a badge's tooltip is nothing for who has no mouse."""
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go(f"/sessions/{shared.session['id']}/files")
    for width in (1280, 800, 390):
        page.set_viewport_size({"width": width, "height": 800})
        press(page.get_by_role("button", name="About this session"))
        expect(page.get_by_role("dialog", name="About my-app")).to_contain_text(re.compile("cannot change|read-only"))
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="About this session")).to_be_focused()


@pytest.mark.day
def test_a_dialog_gives_the_focus_back(shared, open_shared):
    """Escape leads to the button that opened it."""
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


def test_the_palette_key_gives_the_focus_back(open_shared):
    """It takes the focus at once, so that no key gets lost, and knows where it was."""
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go("/projects")
    button = page.get_by_role("button", name="New project")
    expect(button).to_be_enabled()  # which it is once the roots are known
    button.focus()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Command")).to_be_focused()
    page.keyboard.press("Escape")
    expect(button).to_be_focused()


def test_the_focus_stays_in_the_header_of_a_session(bed, shared, tool):
    """Stop and Resume take each other's place there, too."""
    page = tool.page
    before = started_at(shared)
    header = page.get_by_role("main").locator("header")
    press(header.get_by_role("button", name="Stop"))
    expect(header.get_by_role("button", name="Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(header.get_by_role("button", name="Stop")).to_be_focused()
    await_next_run(bed, shared.server, shared.session, before)


def test_the_focus_stays_near_a_root_that_was_removed(open_shared, tmp_path):
    """What is next in the list has it."""
    dashboard = open_shared()
    page = dashboard.blank
    (tmp_path / "more").mkdir()
    dashboard.go("/settings")
    page.get_by_label("Folder to add").fill(str(tmp_path / "more"))
    page.keyboard.press("Enter")
    added = page.get_by_role("button", name=f"Remove {tmp_path / 'more'}")
    press(added)
    expect(added).to_have_count(0)
    expect_focus_on_words(dashboard, f"^Remove {dashboard.root}$")


@pytest.mark.day
def test_a_terminal_takes_all_keys_but_lets_go(shell):
    """Tab is the program's; Ctrl+Shift+Up leads to the tabs above it, and from there Tab on to all the rest."""
    page = shell.page
    terminal = page.locator(".xterm-helper-textarea:visible")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(terminal).to_be_focused()
    page.keyboard.press("Control+Shift+ArrowUp")
    expect(page.get_by_role("main").get_by_role("link", name="Shell")).to_be_focused()
    for _ in ("Transcript", "Files", "Changes", "Network", "Stop"):
        page.keyboard.press("Tab")
    expect_focus_on_words(shell, "^Stop$")
    for _ in ("Network", "Changes", "Files", "Transcript", "Shell"):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(terminal).to_be_focused()


def test_an_editor_is_left_with_escape_and_tab(shared, open_shared):
    """Tab alone indents."""
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go(f"/sessions/{shared.session['id']}/files")
    press(page.get_by_role("treeitem", name="README.md"))
    text = page.locator(".cm-content")
    expect(text).to_be_focused()
    page.keyboard.press("Tab")
    expect(text).to_be_focused()
    page.keyboard.press("Control+s")
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    expect(text).not_to_be_focused()


def test_the_focus_is_seen_on_every_place(shared, open_shared):
    """Tab goes round each place and comes to its end, with an outline at each stop."""
    dashboard = open_shared()
    page, session = dashboard.blank, shared.session
    for path in (
        "/",
        "/settings",
        "/history",
        f"/sessions/{session['id']}/files",
        f"/sessions/{session['id']}/transcript",
    ):
        dashboard.go(path)
        page.wait_for_load_state("networkidle")
        stops = []
        while len(stops) < 60:
            page.keyboard.press("Tab")
            stop = page.evaluate(
                "(at => [[...document.querySelectorAll('*')].indexOf(at), at.tagName,"
                " at.ariaLabel ?? at.textContent.trim().slice(0, 40),"
                " getComputedStyle(at).outlineStyle, getComputedStyle(at, '::after').outlineStyle]"
                ")(document.activeElement)"
            )
            if stop[1] == "BODY" or stop in stops:
                break
            stops.append(stop)
        assert 10 < len(stops) < 60, (path, stops)
        dark = [name for _, tag, name, *outlines in stops if set(outlines) == {"none"} and tag != "INPUT"]
        assert dark == [], path
