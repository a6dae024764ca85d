"""The Changes tab: what a session changed, comments on it, and undo; and the snapshots of its container."""

from __future__ import annotations

import re

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect

from tests.programs import git, wait_until

pytest_plugins = ("browser_bed",)


@pytest.fixture
def dashboard(open_dashboard) -> Dashboard:
    """A page whose server takes checkpoints."""
    return open_dashboard(checkpoints=True)


@pytest.fixture
def reviewed(dashboard, session_on, bed):
    """A session with a checkpoint of its start, and a function that runs a script in its workspace."""
    session = session_on()
    path = f"/api/sessions/{session['id']}"
    wait_until(lambda: dashboard.server.get(f"{path}/checkpoints").json, "the first checkpoint")
    return session, lambda script: bed.shell(session["id"], f"cd /workspace; {script}")


def keep(dashboard, session: dict) -> None:
    """Make a checkpoint, which tells every page."""
    assert dashboard.server.post(f"/api/sessions/{session['id']}/checkpoints", {"note": "kept"}).status == 201


@pytest.mark.day
def test_what_changed_is_shown_as_it_appears_and_is_undone(dashboard, reviewed):
    """The tree, the count at the row, one file, keys, an undo from the dialog, and the undo of that."""
    (session, run), page = reviewed, dashboard.blank
    readme = dashboard.root / "my-app" / "README.md"
    before = readme.read_text()
    dashboard.go(f"/sessions/{session['id']}/changes")
    expect(page.get_by_text("Nothing changed")).to_be_visible()
    run("echo two >>README.md; mkdir src; seq 40 >src/new.txt; printf 'a\\0b' >data.bin")
    keep(dashboard, session)
    rows = page.get_by_role("treeitem")
    expect(rows).to_contain_text(
        ["src", re.compile(r"A new\.txt\s+\+40"), "data.bin", re.compile(r"M README\.md\s+\+1")]
    )
    expect(page.get_by_role("navigation", name="Main")).to_contain_text("±3")
    page.keyboard.press("j")
    expect(page).to_have_url(re.compile(r"path=src%2Fnew\.txt$"))
    page.keyboard.press("Shift+J")
    expect(page.get_by_text("A binary file")).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator(".cm-merge-b .cm-changedLine")).to_have_text("two")
    page.keyboard.press("u")
    expect(page.locator(".cm-mergeView")).to_have_count(0)
    page.keyboard.press("u")
    page.get_by_role("button", name="Copy patch").click()
    expect(page.get_by_text("Copied the patch.")).to_be_visible()
    assert "+two\n" in page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Undo …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("A checkpoint is made first")
    dialog.get_by_role("checkbox", name="data.bin").uncheck()
    dialog.get_by_role("button", name="Revert 2 files").click()
    expect(page.get_by_text("Put back 1 file and removed 1 file.")).to_be_visible()
    assert readme.read_text() == before
    page.get_by_role("button", name="Undo this", exact=True).click()
    wait_until(lambda: readme.read_text() == f"{before}two\n", "the undo of the undo")
    page.get_by_role("button", name="Timeline").click()
    expect(page.get_by_role("listitem")).to_contain_text(
        ["before going back to 3", "before going back to start", "kept", "Start"]
    )
    # The page may ask for the texts of a file in the moment in which it is put back.
    dashboard.forgive(r"status of 404 .*/changes/file")


def test_comments_stay_until_the_tool_has_them(dashboard, reviewed):
    """Written between the lines, kept over a reload, marked when their code is gone, sent together."""
    (session, run), page = reviewed, dashboard.blank
    run("seq 9 >numbers")
    dashboard.go(f"/sessions/{session['id']}/changes?path=numbers")
    page.locator(".cm-lineNumbers .cm-gutterElement", has_text="4").click()
    expect(page.get_by_label("Comment on line 4")).to_be_focused()
    page.keyboard.type("Why four?")
    page.reload()
    expect(page.get_by_label("Comment on line 4")).to_have_value("Why four?")
    page.get_by_label("Comment on line 4").press("Control+Enter")
    expect(page.get_by_text("line 4 · not sent yet")).to_be_visible()
    run("seq 5 9 >numbers")
    keep(dashboard, session)
    above = page.get_by_role("region", name="Comments above the file")
    expect(above.locator("pre")).to_have_text("4")
    expect(above).to_contain_text("Why four?")
    page.get_by_role("button", name="Comments 1").click()
    page.get_by_role("button", name="Send 1 comment").click()
    expect(page.get_by_text("The agent is working. They are sent when its turn ends.")).to_be_visible()
    path = f"/api/sessions/{session['id']}"
    assert dashboard.server.get(f"{path}/comments").json == []
    assert dashboard.server.get(f"{path}/prompts").json[0]["text"].endswith("Why four?")


def test_snapshots_are_taken_brought_back_and_deleted(dashboard, session_on, bed):
    """Their place says what is not in them. The tool goes on with its conversation after one was brought back."""
    session, page = session_on(), dashboard.blank
    dashboard.open_terminal(session)
    dashboard.type_line("remember the milk")
    dashboard.expect_screen("echo: remember the milk")
    page.get_by_role("banner").or_(page.locator("header")).get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Snapshots").click()
    dialog = page.get_by_role("dialog", name=re.compile("^Snapshots of"))
    expect(dialog).to_contain_text("The project folder is not in it")
    dialog.get_by_label("Name of the snapshot").fill("clean")
    dialog.get_by_role("button", name="Take a snapshot").click()
    expect(dialog.get_by_role("listitem")).to_contain_text("clean")
    bed.shell(session["id"], "echo lost >~/lost; echo kept >/workspace/kept")
    dialog.get_by_role("button", name="Restore the container to this").click()
    with page.expect_response("**/restore?*"):
        page.get_by_role("alertdialog").get_by_role("button", name="Restore").click()
    expect(dialog.get_by_role("listitem")).not_to_contain_text("Working")
    assert bed.shell(session["id"], "cd; ls lost /workspace/kept 2>/dev/null || true") == "/workspace/kept\n"
    bed.await_screen(session["id"], "earlier: remember the milk")
    dialog.get_by_role("button", name="Delete the snapshot").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    expect(dialog.get_by_text("No snapshots")).to_be_visible()
    page.keyboard.press("Escape")
    dashboard.expect_screen("earlier: remember the milk")


@pytest.mark.day
def test_what_changed_is_viewed_put_right_and_committed(dashboard, reviewed):
    """A file is ticked, one place in another is undone, one file is committed: the job ends where it was reviewed."""
    (session, run), page = reviewed, dashboard.blank
    folder = dashboard.root / "my-app"
    run("seq 30 >numbers; echo more >notes; git add numbers")
    run("git -c user.name=A -c user.email=a@b commit --quiet --message Numbers")
    keep(dashboard, session)
    checkpoint = dashboard.server.get(f"/api/sessions/{session['id']}/checkpoints").json[0]["checkpoint"]
    run("sed -i 's/^3$/three/; s/^25$/twenty-five/' numbers; echo even more >notes")
    dashboard.go(f"/sessions/{session['id']}/changes?from={checkpoint}&path=notes")
    page.get_by_role("checkbox", name="Viewed").click()
    expect(page).to_have_url(re.compile("path=numbers$"))
    expect(page.get_by_role("treeitem", name="notes")).to_contain_text("viewed")
    expect(page.get_by_role("status").filter(has_text="2 files, 1 viewed")).to_be_visible()

    page.get_by_role("button", name="Undo this change").nth(1).click()
    expect(page.get_by_text("Undid one change in numbers.")).to_be_visible()
    assert "\n25\n" in (folder / "numbers").read_text()
    assert "three" in (folder / "numbers").read_text()
    page.get_by_role("button", name="Undo this", exact=True).click()
    wait_until(lambda: "twenty-five" in (folder / "numbers").read_text(), "the undo of the undo")

    page.get_by_role("button", name="Commit …").click()
    dialog = page.get_by_role("dialog", name="Commit to main")
    dialog.get_by_role("checkbox", name="notes").uncheck()
    dialog.get_by_label("Message").fill("Write numbers as words")
    dialog.get_by_label("Author").fill("Ann")
    dialog.get_by_label("E-mail").fill("ann@example.com")
    dialog.get_by_role("button", name="Commit 1 file").click()
    expect(page.get_by_text("Committed 1 file on main as")).to_be_visible()
    assert git(folder, "log", "-1", "--format=%an: %s", "--name-only").split("\n\n") == [
        "Ann: Write numbers as words",
        "numbers\n",
    ]
    page.get_by_role("button", name="Open in Files").click()
    expect(page).to_have_url(re.compile(r"/files\?path=numbers$"))
