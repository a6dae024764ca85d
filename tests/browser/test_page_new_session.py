"""The dialog of a new session: the prompt first, what is kept for each project, and templates of prompts."""

from __future__ import annotations

import pytest
from browser_bed import pick_project
from playwright.sync_api import Page, expect

pytest_plugins = ("browser_bed",)


def open_dialog(page: Page) -> None:
    """Press the key, once the page knows its projects."""
    expect(page.get_by_role("navigation", name="Main")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_label("First prompt")).to_be_focused()


@pytest.mark.day
def test_n_a_prompt_and_ctrl_enter_start_a_session(dashboard):
    """With one project there is nothing else to choose; the tool gets the prompt at its start."""
    page = dashboard.page
    expect(page.get_by_role("main")).to_contain_text("my-app")
    open_dialog(page)
    page.keyboard.type("Fix the totals")
    page.keyboard.press("Control+Enter")
    dashboard.expect_screen("Fix the totals")
    (session,) = dashboard.server.get("/api/sessions").json
    assert session["workspace"] == str(dashboard.root / "my-app")
    page.keyboard.press("Control+Shift+ArrowUp")  # out of the terminal
    open_dialog(page)
    expect(page.get_by_role("button", name="Project: my-app")).to_be_visible()


def test_what_was_chosen_for_a_project_stands_there_again(open_dashboard):
    """Tool, mode and what lies under Options; another project has its own."""
    dashboard = open_dashboard(projects=("api", "web"))
    page = dashboard.page
    dialog = page.get_by_role("dialog", name="New session")
    open_dialog(page)
    pick_project(page, "api")
    dialog.get_by_role("combobox", name="Tool").select_option("opencode")
    dialog.locator("summary").click()
    dialog.get_by_label("Persistent").check()
    dialog.get_by_text("No network", exact=True).click()
    dialog.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY opencode")
    dashboard.go()
    open_dialog(page)
    expect(dialog.get_by_role("button", name="Project: api")).to_be_visible()
    expect(dialog.get_by_role("combobox", name="Tool")).to_have_value("opencode")
    expect(dialog.get_by_text("persistent, network: none")).to_be_visible()
    pick_project(page, "web")
    expect(dialog.get_by_role("combobox", name="Tool")).to_have_value("claude")


def test_a_prompt_is_kept_as_a_template_of_its_project(dashboard):
    """It is there again after a reload, goes into the prompt by a click, and can be deleted."""
    page = dashboard.page
    expect(page.get_by_role("main")).to_contain_text("my-app")
    open_dialog(page)
    page.keyboard.type("Run the tests and mend what fails")
    page.get_by_role("button", name="Templates").click()
    page.get_by_role("button", name="Save the prompt as a template").click()
    page.get_by_label("First prompt").fill("")
    page.reload()
    open_dialog(page)
    page.get_by_role("button", name="Templates").click()
    page.get_by_role("button", name="Run the tests and mend what fails").click()
    expect(page.get_by_label("First prompt")).to_have_value("Run the tests and mend what fails")
    page.get_by_role("button", name="Delete this template").click()
    expect(page.get_by_role("button", name="Run the tests and mend what fails")).to_have_count(0)
