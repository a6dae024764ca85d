"""What the page says and asks of the wall: a seal that came off, and what appeared that runs on the host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from browser_bed import QUESTION
from playwright.sync_api import expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

# In a mount namespace in which the wall's mounts are not, a rename takes the seal off everywhere.
BREAK = """
for stage in /run/clincus/*; do umount -l "$stage" || :; done
cd "$1" && echo '# mine' >.git/evil && mv -f .git/evil .git/config
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host, for a mount namespace of its own")
def test_a_broken_seal_needs_a_person_who_stops_or_goes_on_without_it(dashboard, session_on):
    """The next start after a stop asks; one who goes on has the file as it was, and no lock until the next start."""
    page, session = dashboard.page, session_on()
    alert, question = page.get_by_role("alert"), page.get_by_role("alertdialog")
    dashboard.open_terminal(session)

    def break_seal() -> None:
        path = f"/api/sessions/{session['id']}/protection"
        wait_until(lambda: dashboard.server.get(path).json["sealed"], "what is sealed to be noted")
        words = ["unshare", "-m", "--propagation", "private", "sh", "-ec", BREAK, "apart", session["workspace"]]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        expect(alert).to_contain_text("the container is frozen")

    break_seal()
    expect(alert).to_contain_text(".git/config was replaced by another file")
    expect(page).to_have_title("(1) my-app · Clincus")
    page.get_by_role("button", name="Stop and keep").last.click()
    page.get_by_role("main").get_by_role("button", name="Resume").last.click()
    expect(question).to_contain_text(".git/config")
    dashboard.forgive("409")
    question.get_by_role("button", name="Seal it and resume").click()
    expect(page.get_by_role("button", name="About this session: locked")).to_be_visible()
    dashboard.expect_screen("STUB-READY")

    break_seal()
    page.get_by_role("button", name="Go on …").click()
    question.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("button", name="About this session: basic")).to_be_visible()
    expect(alert).to_be_hidden()
    assert (Path(session["workspace"]) / ".git/config").read_text() != "# mine\n"


def test_what_appeared_and_runs_on_the_persons_machine_is_marked_and_named_before_a_stop(bed, dashboard, session_on):
    session, page = session_on(), dashboard.page
    dashboard.open_terminal(session)
    bed.shell(session["id"], "cd /workspace && git init -q lib && git -C lib config core.fsmonitor 'touch /tmp/evil'")
    bed.draw(session["id"], QUESTION)  # the turn ends
    expect(page.get_by_title("1 thing appeared that can run on your machine")).to_be_visible()
    page.get_by_role("main").get_by_role("button", name="Stop").last.click()
    question = page.get_by_role("alertdialog", name="Stop my-app?")
    expect(question).to_contain_text("can run on your machine: lib")
    question.get_by_role("button", name="Cancel").click()
    dashboard.go(f"/sessions/{session['id']}/changes")
    expect(page.get_by_role("main")).to_contain_text("touch /tmp/evil")
