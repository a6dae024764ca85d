"""What the page says and asks of the wall: a seal that came off, and the choice of nested containers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from browser_bed import Dashboard, unfold_options
from playwright.sync_api import expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

# In a mount namespace in which the wall's mounts are not, a rename takes the seal off everywhere.
BREAK = """
for stage in /run/clincus/*; do umount -l "$stage" || :; done
cd "$1" && echo '# mine' >.git/evil && mv -f .git/evil .git/config
"""

QUESTION = [
    "─" * 40,
    "Shall I commit this?",
    "",
    "❯ 1. Commit",
    "  2. Keep on working",
    "",
    "Enter to select · Esc to cancel",
]


def break_seal(dashboard: Dashboard, session: dict[str, str]) -> None:
    """Take the seal off .git/config, once it is watched."""
    path = f"/api/sessions/{session['id']}/protection"
    wait_until(lambda: dashboard.server.get(path).json["sealed"], "what is sealed to be noted")
    words = ["unshare", "-m", "--propagation", "private", "sh", "-ec", BREAK, "apart", session["workspace"]]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def frozen(dashboard, session_on) -> tuple[Dashboard, dict[str, str]]:
    """A page on a session of which a seal came off while it was shown."""
    if os.geteuid() != 0:
        pytest.skip("needs root on the host, for a mount namespace of its own")
    session = session_on()
    dashboard.open_terminal(session)
    break_seal(dashboard, session)
    expect(dashboard.page.get_by_role("alert")).to_contain_text("A seal came off, and the container is frozen")
    return dashboard, session


def test_a_broken_seal_needs_a_person_who_stops_and_is_asked_at_the_next_start(frozen):
    dashboard, _ = frozen
    page = dashboard.page
    expect(page.get_by_role("alert")).to_contain_text(".git/config was replaced by another file")
    expect(page.get_by_role("alert")).to_contain_text("put back as it was")
    expect(page).to_have_title("(1) my-app · Clincus")
    page.get_by_role("button", name="Stop and keep").last.click()
    page.get_by_role("main").get_by_role("button", name="Resume").last.click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text(".git/config")
    dashboard.forgive("409")
    question.get_by_role("button", name="Seal it and resume").click()
    expect(page.get_by_role("button", name="About this session: locked")).to_be_visible()
    dashboard.expect_screen("STUB-READY")


def test_a_broken_seal_can_be_left_off_until_the_next_start(frozen):
    dashboard, session = frozen
    page = dashboard.page
    page.get_by_role("button", name="Go on …").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Go on").click()
    dashboard.expect_screen("STUB-READY")
    expect(page.get_by_role("button", name="About this session: basic")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert (Path(session["workspace"]) / ".git/config").read_text() != "# mine\n"


def test_nested_containers_are_chosen_with_what_they_cost(dashboard):
    page = dashboard.page
    page.get_by_role("button", name="New session in my-app").click()
    unfold_options(page)
    page.get_by_role("checkbox", name="Nested containers").check()
    page.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY")
    page.get_by_role("button", name="About this session: basic").click()
    about = page.get_by_role("dialog", name="About my-app")
    expect(about).to_contain_text("security.nesting")
    expect(about).to_contain_text("Docker and Podman can run in it.")


def test_what_appeared_and_runs_on_the_persons_machine_is_marked_and_named_before_a_stop(bed, dashboard, session_on):
    session, page = session_on(), dashboard.page
    dashboard.open_terminal(session)
    bed.shell(session["id"], "cd /workspace && git init -q lib && git -C lib config core.fsmonitor 'touch /tmp/evil'")
    bed.draw(session["id"], QUESTION)  # the turn ends
    expect(page.get_by_title("1 thing appeared that can run on your machine")).to_be_visible()
    page.get_by_role("main").get_by_role("button", name="Stop").last.click()
    question = page.get_by_role("alertdialog", name="Stop my-app?")
    expect(question).to_contain_text("1 thing appeared in the project that can run on your machine: lib")
    question.get_by_role("button", name="Cancel").click()
    dashboard.go(f"/sessions/{session['id']}/changes")
    expect(page.get_by_role("main")).to_contain_text("touch /tmp/evil")
