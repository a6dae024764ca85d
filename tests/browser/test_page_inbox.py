"""The inbox: what a session needs and what one decides by, without a visit; beside it the projects and the history."""

from __future__ import annotations

import re

import pytest
from browser_bed import QUESTION, Dashboard, row_of
from playwright.sync_api import expect

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import git, wait_until

pytest_plugins = ("browser_bed",)


def test_a_question_has_its_answer_in_ones_own_words_on_its_row(bed, dashboard, session_on):
    """Beside the buttons; what was written is there in the session's own box, too."""
    page, session = dashboard.page, session_on()
    bed.draw(session["id"], QUESTION)
    row = row_of(page)
    reply = row.get_by_role("textbox", name="Reply to my-app")
    reply.fill("Mauve")
    with page.expect_request("**/answer") as answered:
        reply.press("Control+Enter")
    assert answered.value.post_data_json["text"] == "Mauve"
    reply.fill("Or blue")
    row.get_by_role("link", name="my-app").click()
    expect(page.get_by_role("textbox", name="Prompt for")).to_have_value("Or blue")
    dashboard.forgive("status of 409 .*/answer")  # the stand-in's question takes no words


@pytest.mark.day
def test_a_turn_that_is_over_shows_what_to_decide_by_and_takes_the_next_prompt(bed, open_dashboard, make_workspace):
    """Lines changed, the terminal's last lines, and a field for what comes next."""
    dashboard: Dashboard = open_dashboard(checkpoints=True)
    page = dashboard.page
    project = dashboard.root / "my-app"
    session = dashboard.server.create(project)
    bed.draw(session["id"], CLAUDE_WORKS)
    row = row_of(page)
    expect(row).to_contain_text("Working")
    bed.shell(session["id"], "cd /workspace && printf 'one\\ntwo\\n' >new.txt", user=1000)
    bed.draw(session["id"], ["All totals are mended", *CLAUDE_RESTS])
    expect(row).to_contain_text("Done")
    expect(row.get_by_role("link", name=re.compile(r"\+2 .0 lines"))).to_be_visible()
    said = page.get_by_role("log", name="Changes of sessions")
    expect(said.get_by_text("my-app is done.")).to_have_count(1)
    row.get_by_role("button", name="Last lines").click()
    expect(row.locator("pre")).to_contain_text("All totals are mended")
    reply = row.get_by_role("textbox", name="Reply to my-app")
    reply.fill("Now the docs")
    with page.expect_request("**/prompt") as sent:
        reply.press("Control+Enter")
    assert sent.value.post_data_json["text"] == "Now the docs"


def test_projects_are_a_place_of_their_own(shared, open_shared):
    """By a link, a key and an address; without a session the inbox shows them, too."""
    dashboard = open_shared()
    page = dashboard.page
    main = page.get_by_role("main")
    expect(main.get_by_role("link", name="my-app")).to_be_visible()
    expect(main.get_by_role("button", name="New project")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("p")
    expect(page).to_have_url(re.compile("/projects$"))
    expect(main.get_by_role("button", name="New project")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("i")
    expect(page).to_have_title("Inbox · Clincus")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Projects").click()
    page.reload()
    expect(page).to_have_title("Projects · Clincus")


def test_the_history_tells_runs_apart_and_finds_them_by_it(open_dashboard):
    """Name, first prompt and branch of two runs in one folder; all of them are searched."""
    dashboard: Dashboard = open_dashboard()
    page, project = dashboard.blank, dashboard.root / "my-app"
    git(project, "checkout", "--quiet", "-b", "topic/totals")
    for name, prompt in (("billing", "Fix the totals"), ("", "Write the docs")):
        session = dashboard.server.create(project, name=name, prompt=prompt)
        wait_until(
            lambda id=session["id"]: any(
                run["id"] == id and run["branch"] for run in dashboard.server.get("/api/sessions/history").json
            ),
            "the run in the history",
        )
    dashboard.go("/history")
    rows = page.get_by_role("row").filter(has_text="topic/totals")  # others may be of other tests
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="billing · Fix the totals")).to_have_count(1)
    for words in ("totals FIX", "docs", "billing"):
        page.get_by_role("searchbox").fill(words)
        expect(rows).to_have_count(1)
    page.get_by_role("searchbox").fill("topic/tot")
    expect(rows).to_have_count(2)
