"""What a tool does, on the page: a question on its screen, an answer by a button, and a turn that is over until seen.

The stand-in prints what the real tool draws. The look into the container, the event and the keys are real.
"""

from __future__ import annotations

import re

import pytest
from browser_bed import QUESTION, row_of
from playwright.sync_api import expect

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS

pytest_plugins = ("browser_bed",)


@pytest.mark.day
def test_a_question_is_answered_by_a_button_of_its_row(bed, dashboard, session_on):
    """Its text and its options are on the row; the number is typed into the tool."""
    page, session = dashboard.page, session_on()
    bed.draw(session["id"], QUESTION)
    row = row_of(page)
    expect(row).to_contain_text("Waiting")
    expect(row).to_contain_text("Which colour do you want?")
    expect(page).to_have_title(re.compile(r"^\(1\)"))
    expect(page.locator('link[rel="icon"]')).to_have_attribute("href", re.compile("^data:image/png"))
    with page.expect_response("**/answer") as answered:
        row.get_by_role("button", name="Green").click()
    assert answered.value.json() == {"result": "unconfirmed"}  # the stand-in goes on showing the question
    page.keyboard.press("Alt+j")
    expect(page).to_have_url(re.compile(f"/sessions/{session['id']}$"))


def test_a_turn_that_is_over_is_done_until_the_session_is_looked_at(bed, dashboard, session_on):
    """In the list it needs a person; in the session's own page it is idle at once, and elsewhere too."""
    page, session = dashboard.page, session_on()
    bed.draw(session["id"], CLAUDE_WORKS)
    sidebar = page.get_by_role("navigation")
    expect(row_of(page)).to_contain_text("Working")
    bed.draw(session["id"], CLAUDE_RESTS)
    expect(sidebar.get_by_role("region", name="Needs you sessions")).to_contain_text("Done")
    with page.expect_response("**/seen"):
        page.keyboard.press("Alt+j")
    expect(sidebar.get_by_role("region", name="Idle sessions")).to_contain_text("my-app")
    expect(page).to_have_title("my-app · Clincus")
