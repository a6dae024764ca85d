"""The inbox: what a session needs and what one decides by, without a visit.

The stand-in prints what the real tool draws. The look into the container, the event and the keys are real.
"""

from __future__ import annotations

import re

import pytest
from browser_bed import ALIVE, QUESTION, row_of
from playwright.sync_api import expect

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS

pytest_plugins = ("browser_bed",)


@pytest.mark.day
def test_a_question_is_answered_on_its_row_by_a_button_or_in_ones_own_words(bed, dashboard, session_on):
    """Its text and its options are on the row; what was written there is in the session's own box, too."""
    page, session = dashboard.page, session_on()
    bed.draw(session["id"], QUESTION)
    row = row_of(page)
    expect(row).to_contain_text("Waiting")
    expect(row).to_contain_text("Which colour do you want?")
    expect(page).to_have_title(re.compile(r"^\(1\)"))
    expect(page.locator('link[rel="icon"]')).to_have_attribute("href", re.compile("^data:image/png"))
    reply = row.get_by_role("textbox", name="Reply to my-app")
    reply.fill("Mauve")
    with page.expect_response("**/answer") as answered:
        reply.press("Control+Enter")
    assert answered.value.request.post_data_json["text"] == "Mauve"
    with page.expect_response("**/answer") as answered:
        row.get_by_role("button", name="Green").click()
    assert answered.value.json() == {"result": "unconfirmed"}  # the stand-in goes on showing the question
    reply.fill("Or blue")
    row.get_by_role("link", name="my-app").click()
    expect(page.get_by_role("textbox", name="Prompt for")).to_have_value("Or blue")
    dashboard.forgive("status of 409 .*/answer")  # the stand-in's question takes no words


@pytest.mark.day
def test_a_turn_that_is_over_shows_what_to_decide_by_and_takes_the_next_prompt(bed, open_dashboard):
    """Lines changed, the terminal's last lines, and a field for what comes next."""
    dashboard = open_dashboard(checkpoints=True)
    page, session = dashboard.page, dashboard.server.create(dashboard.root / "my-app")
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


def test_a_bell_puts_a_session_under_needs_you_until_somebody_looks(bed, shared, open_shared):
    """No terminal of it is open in the page: the container itself tells that its tool rang."""
    dashboard = open_shared()
    page, session = dashboard.page, shared.session
    needs_you = page.get_by_role("navigation").get_by_role("region", name="Needs you sessions")
    expect(row_of(page)).to_contain_text(ALIVE)
    bed.shell(session["id"], f"tmux send-keys -t =clincus-{session['id']}: 'sh printf \"\\a\"' Enter")
    expect(needs_you).to_contain_text("my-app")
    expect(page).to_have_title("(1) Inbox · Clincus")
    needs_you.get_by_role("link").click()
    dashboard.expect_screen("STUB-READY")
    expect(needs_you).to_have_count(0)
    page.go_back()
    page.reload()
    expect(row_of(page)).to_contain_text(ALIVE)
    expect(page).to_have_title("Inbox · Clincus")
