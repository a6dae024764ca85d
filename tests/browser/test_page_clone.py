"""A session on a clone, on the page: it is started, its commits are fetched, and a delete says what would be lost."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.programs import git

pytest_plugins = ("browser_bed",)

COMMIT = "cd /workspace && git -c user.name=A -c user.email=a@localhost commit --quiet --allow-empty --message More"


@pytest.mark.day
def test_a_clone_is_started_fetched_and_deleted_after_a_question(bed, dashboard):
    page, project = dashboard.page, dashboard.root / "my-app"
    page.get_by_role("button", name="my-app", exact=True).click()
    dialog = page.get_by_role("dialog", name="New session")
    dialog.get_by_role("combobox", name="Works in").select_option("clone")
    dialog.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY")
    (session,) = dashboard.server.get("/api/sessions").json
    assert session["mode"] == "clone"
    main = page.get_by_role("main")
    expect(main.get_by_text("Claude Code · clone")).to_be_visible()

    bed.shell(session["id"], COMMIT)
    main.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Fetch commits to my repo").click()
    expect(page.get_by_text(f"1 new commit of my-app in the branch clincus/{session['id']} of my-app.")).to_be_visible()
    assert git(project, "log", "-1", "--format=%s", f"clincus/{session['id']}") == "More\n"

    dashboard.go(f"/sessions/{session['id']}/changes")
    main.get_by_role("button", name="Fetch to branch …").click()
    dialog = page.get_by_role("dialog", name="Fetch to a branch of my-app")
    dialog.get_by_label("Branch").fill("mine")
    dialog.get_by_role("button", name="Fetch commits").click()
    expect(page.get_by_text("in the branch mine of my-app.")).to_be_visible()
    assert git(project, "log", "-1", "--format=%s", "mine") == "More\n"

    bed.shell(session["id"], COMMIT)
    main.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Delete").click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("Only the container has this. It is copied beside the conversation first:")
    expect(question.get_by_role("listitem")).to_have_text(re.compile(r"^1 commit: \w+ More$"))
    question.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted my-app.")).to_be_visible()
    expect(page.get_by_text(f"What only my-app had is kept: {dashboard.server.home}/.clincus/")).to_be_visible()
    assert bed.names() == []
