"""The whole job by hand, counted: start an agent, answer it from the phone, review, comment and commit."""

from __future__ import annotations

import pytest
from browser_bed import QUESTION, Dashboard
from playwright.sync_api import Locator, Page, expect

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import git, wait_until

pytest_plugins = ("browser_bed",)

MOST_STEPS = 14


class Hand:
    """A person's hand, which counts what it does: pages opened, clicks, taps, keys, and texts typed without a stop."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def open(self, dashboard: Dashboard) -> Page:
        """Open the page, as by its icon."""
        self.steps.append("open the page")
        dashboard.go()
        return dashboard.page

    def click(self, target: Locator) -> None:
        self.steps.append(f"click {target}")
        target.click()

    def tap(self, target: Locator) -> None:
        self.steps.append(f"tap {target}")
        target.tap()

    def press(self, page: Page, key: str) -> None:
        self.steps.append(f"press {key}")
        page.keyboard.press(key)

    def type(self, page: Page, text: str) -> None:
        self.steps.append(f"type {text}")
        page.keyboard.type(text)


@pytest.mark.day
def test_the_whole_job_takes_fourteen_steps_at_most(bed, open_dashboard, open_page):
    hand = Hand()
    desk: Dashboard = open_dashboard(projects=("another", "my-app"), checkpoints=True)
    project = desk.root / "my-app"
    git(project, "config", "user.name", "Ann")
    git(project, "config", "user.email", "ann@example.com")

    page = hand.open(desk)
    hand.click(page.get_by_role("main").get_by_role("button", name="my-app", exact=True))
    expect(page.get_by_label("First prompt")).to_be_focused()
    hand.type(page, "Mend the totals")
    hand.press(page, "Control+Enter")
    desk.expect_screen("Mend the totals")
    (session,) = desk.server.get("/api/sessions").json
    bed.draw(session["id"], QUESTION)

    phone: Dashboard = open_page(desk.server, desk.root, phone=True)
    hand.open(phone)
    with phone.page.expect_request_finished(lambda request: request.url.endswith("/answer")) as answered:
        hand.tap(phone.page.get_by_role("main").get_by_role("button", name="Green"))
    assert answered.value.post_data_json["option"] == 2
    # The stand-in reads whole lines, and what is drawn next is typed into it, too.
    bed.shell(session["id"], f"tmux send-keys -t =clincus-{session['id']}: Enter")
    desk.expect_screen("echo: 2")

    bed.draw(session["id"], CLAUDE_WORKS)
    expect(page.get_by_role("main")).to_contain_text("Working")
    bed.shell(session["id"], "cd /workspace && echo 'total = 3' >totals.py", user=1000)
    bed.draw(session["id"], ["The totals are mended", *CLAUDE_RESTS])
    review = page.get_by_role("link", name="Review 1 file")
    expect(review).to_be_visible()
    hand.click(review)
    expect(page.get_by_role("treeitem", name="totals.py")).to_be_visible()
    hand.press(page, "j")
    expect(page.locator(".cm-content").last).to_contain_text("total = 3")
    hand.press(page, "c")
    expect(page.get_by_role("textbox", name="Comment")).to_be_focused()
    hand.type(page, "Say why it is three")
    hand.press(page, "Control+Enter")
    expect(page.get_by_text("Say why it is three")).to_be_visible()

    hand.click(page.get_by_role("button", name="Commit …"))
    expect(page.get_by_role("dialog").get_by_label("Message")).to_be_focused()
    hand.type(page, "Mend the totals")
    hand.press(page, "Control+Enter")
    wait_until(lambda: git(project, "log", "-1", "--format=%s").strip() == "Mend the totals", "the commit")
    assert len(hand.steps) <= MOST_STEPS, hand.steps
