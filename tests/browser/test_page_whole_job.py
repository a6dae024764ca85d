"""The whole job by hand, counted: start an agent, answer it from the phone, review, comment and commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser_bed import QUESTION, Dashboard
from playwright.sync_api import expect

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import git, wait_until

pytest_plugins = ("browser_bed",)

MOST_STEPS = 14


class Hand:
    """A person's hand, which counts what it does: pages opened, clicks, taps, keys, and texts typed without a stop."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def __call__(self, act: Callable[..., object], *words: str) -> None:
        self.steps.append(f"{act} {words}")
        act(*words)


@pytest.mark.day
def test_the_whole_job_takes_fourteen_steps_at_most(bed, open_dashboard, open_page):
    hand = Hand()
    desk: Dashboard = open_dashboard(projects=("another", "my-app"), checkpoints=True)
    project = desk.root / "my-app"
    git(project, "config", "user.name", "Ann")
    git(project, "config", "user.email", "ann@example.com")

    page = desk.blank
    hand(desk.go)
    hand(page.get_by_role("main").get_by_role("button", name="my-app", exact=True).click)
    expect(page.get_by_label("First prompt")).to_be_focused()
    hand(page.keyboard.type, "Mend the totals")
    hand(page.keyboard.press, "Control+Enter")
    desk.expect_screen("Mend the totals")
    (session,) = desk.server.get("/api/sessions").json
    bed.draw(session["id"], QUESTION)

    phone: Dashboard = open_page(desk.server, desk.root, phone=True)
    hand(phone.go)
    with phone.page.expect_request_finished(lambda request: request.url.endswith("/answer")) as answered:
        hand(phone.page.get_by_role("main").get_by_role("button", name="Green").tap)
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
    hand(review.click)
    expect(page.get_by_role("treeitem", name="totals.py")).to_be_visible()
    hand(page.keyboard.press, "j")
    expect(page.locator(".cm-content").last).to_contain_text("total = 3")
    hand(page.keyboard.press, "c")
    expect(page.get_by_role("textbox", name="Comment")).to_be_focused()
    hand(page.keyboard.type, "Say why it is three")
    hand(page.keyboard.press, "Control+Enter")
    expect(page.get_by_text("Say why it is three")).to_be_visible()

    hand(page.get_by_role("button", name="Commit …").click)
    expect(page.get_by_role("dialog").get_by_label("Message")).to_be_focused()
    hand(page.keyboard.type, "Mend the totals")
    hand(page.keyboard.press, "Control+Enter")
    wait_until(lambda: git(project, "log", "-1", "--format=%s").strip() == "Mend the totals", "the commit")
    assert len(hand.steps) <= MOST_STEPS, hand.steps
