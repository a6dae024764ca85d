"""History, files, settings, all sessions and the second pane."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect

from tests.incus_bed import CLAUDE_WORKS
from tests.programs import free_port, wait_until

pytest_plugins = ("browser_bed",)


def own(*paths: Path) -> None:
    """Give what is in a project to its owner, as everything else in a workspace of the bed."""
    for path in paths if os.geteuid() == 0 else ():
        os.chown(path, 1000, 1000)


def open_file(dashboard: Dashboard, session: dict, *path: str) -> None:
    """Walk to a file through the tree and wait for its text."""
    dashboard.go(f"/sessions/{session['id']}/files")
    for name in path:
        dashboard.page.get_by_role("treeitem", name=name, exact=True).click()
    dashboard.page.locator(".cm-content").wait_for()


@pytest.mark.day
def test_a_file_of_any_name_is_edited_saved_and_followed(shared, open_shared, bed):
    """The tree leads there, Ctrl+S saves, the address alone leads back; what nobody edits follows the container."""
    dashboard = open_shared()
    page, project = dashboard.page, dashboard.root / "my-app"
    folder = project / "src dir"
    file = folder / os.fsdecode(b"\xe6\x95\xb0 #1?caf\xe9.py")  # no UTF-8: names are bytes
    folder.mkdir()
    file.write_text("x = 1\n")
    own(folder, file)
    text, unsaved = page.locator(".cm-content"), page.get_by_text("Not saved")
    open_file(dashboard, shared.session, "src dir", "数 #1?caf\ufffd.py")
    text.click()
    page.keyboard.press("Control+Home")
    page.keyboard.type("# typed here\n")
    expect(unsaved).to_be_visible()
    page.keyboard.press("Control+s")
    wait_until(lambda: file.read_text() == "# typed here\nx = 1\n", "the file to be saved")
    expect(unsaved).to_be_hidden()
    page.reload()
    expect(text).to_contain_text("# typed here")
    bed.shell(shared.session["id"], "cd /workspace/src*; for file in *; do echo 'from the agent' >>\"$file\"; done")
    expect(text).to_contain_text("from the agent")

    blob = project / "blob.bin"
    blob.write_bytes(bytes(range(256)) * 8)
    dashboard.go(f"/sessions/{shared.session['id']}/files")
    page.get_by_role("treeitem", name="blob.bin").click()
    expect(page.get_by_text("is not UTF-8 text")).to_be_visible()
    page.get_by_role("button", name="Copy its path").click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()") == str(blob), "the path on the clipboard")
    dashboard.forgive(r"status of 415")


@pytest.mark.day
def test_what_is_not_saved_is_not_lost_and_what_the_agent_wrote_is_not_overwritten(shared, open_shared, bed):
    """Other places, another file and a reload: each keeps it, or asks first. So does a save after the agent's own."""
    dashboard = open_shared()
    page, project = dashboard.page, dashboard.root / "my-app"
    other = project / "other.txt"
    other.write_text("other\n")
    own(other)
    open_file(dashboard, shared.session, "README.md")
    text = page.locator(".cm-content")
    text.click()
    page.keyboard.type("not saved yet ")
    page.get_by_role("link", name="History").click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    page.go_back()
    expect(text).to_contain_text("not saved yet")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.evaluate("setTimeout(() => location.reload())")
    wait_until(lambda: (page.title(), asked)[1], "the browser's question")
    assert asked == ["beforeunload"]
    for answer, shown in (("Cancel", "not saved yet"), ("Leave without saving", "other")):
        page.get_by_role("treeitem", name="other.txt").click()
        page.get_by_role("alertdialog").get_by_role("button", name=answer).click()
        expect(text).to_contain_text(shown)

    for choice, kept in (("Take theirs", "from the agent"), ("Keep mine", "typed here")):
        text.click()
        page.keyboard.type("typed here ")
        bed.shell(shared.session["id"], f"echo 'from the agent {choice}' >/workspace/other.txt")
        page.keyboard.press("Control+s")
        expect(page.get_by_text("changed in the container while you edited it")).to_be_visible()
        assert other.read_text() == f"from the agent {choice}\n"
        page.get_by_role("button", name=choice).click()
        expect(text).to_contain_text(kept)
        wait_until(lambda kept=kept: kept in other.read_text(), "the chosen version")
    dashboard.forgive(r"status of 412")


@pytest.mark.day
def test_settings_are_changed_and_kept(dashboard, start_server, tmp_path):
    """A root is added and removed; the page follows to another port, and so does a second one when it is told to."""
    page, server, more = dashboard.page, dashboard.server, tmp_path / "more"
    (more / "extra").mkdir(parents=True)
    second = page.context.new_page()
    second.goto(server.url)
    expect(second.get_by_role("main")).to_contain_text("my-app")
    dashboard.go("/settings")
    page.get_by_label("Folder to add").fill(str(more))
    page.get_by_role("button", name="Add folder").click()
    remove = page.get_by_role("button", name=f"Remove {more}")
    expect(remove).to_be_visible()
    assert str(more) in (server.home / ".clincus" / "dashboard.json").read_text()
    page.get_by_role("link", name="Projects").click()
    expect(page.get_by_role("button", name="extra", exact=True)).to_be_visible()
    dashboard.go("/settings")
    remove.click()
    expect(remove).to_have_count(0)

    page.get_by_label("Theme", exact=True).select_option("dark")
    field, save = page.get_by_role("spinbutton", name="Port"), page.get_by_role("button", name="Save port")
    with socket.create_server(("127.0.0.1", 0)) as other:
        field.fill(str(other.getsockname()[1]))
        save.click()
        expect(page.get_by_role("alert")).to_contain_text("already in use")
    assert page.url == f"{server.url}/settings"
    port = free_port()
    field.fill(str(port))
    save.click()
    expect(page).to_have_url(f"http://127.0.0.1:{port}/settings")
    expect(field).to_have_value(str(port))
    expect(page.get_by_label("Theme", exact=True)).to_have_value("dark")
    second.get_by_role("button", name="Go there").click()
    expect(second).to_have_url(f"http://127.0.0.1:{port}/")
    expect(second.get_by_role("main")).to_contain_text("my-app")

    file = server.home / ".config" / "clincus" / "config.toml"
    good = file.read_text()
    file.write_text(good + "\nthis is not TOML\n")  # of which the event stream of the new port tells
    expect(page.get_by_role("alert")).to_contain_text("the last good one is in force")
    file.write_text(good)
    expect(page.get_by_role("alert")).to_have_count(0)
    server.port = port
    server.stop()
    assert start_server(port=None).port == port
    expect(page.get_by_text("Connection to the server lost")).to_be_hidden()
    dashboard.forgive("ERR_CONNECTION|Failed to load resource|WebSocket connection")


@pytest.mark.day
def test_a_new_project_is_made_and_can_be_started(open_shared):
    """The name's rule is said before the server has to say it."""
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go("/projects")
    page.get_by_role("button", name="New project").click()
    page.get_by_label("Name").fill("Not This")
    expect(page.get_by_role("button", name="Create project")).to_be_disabled()
    page.get_by_label("Name").fill("brand-new")
    page.get_by_role("button", name="Create project").click()
    expect(page.get_by_role("dialog", name="New session")).to_contain_text("brand-new")
    assert (dashboard.root / "brand-new" / ".git").is_dir()


@pytest.mark.day
def test_several_sessions_are_chosen_watched_prompted_and_stopped(open_dashboard, bed):
    """By project and filter; the keys go from tile to tile, and what is typed goes to one of them alone."""
    dashboard = open_dashboard(projects=("one", "two"))
    server, page = dashboard.server, dashboard.blank
    sessions = {name: server.create(dashboard.root / name)["id"] for name in ("one", "two")}
    dashboard.go("/all")
    page.get_by_role("searchbox", name="Filter sessions").fill("two")
    expect(page.get_by_role("checkbox", name="Choose one")).to_have_count(0)
    page.get_by_role("searchbox", name="Filter sessions").fill("")
    page.get_by_role("checkbox", name="Choose one").check()
    page.get_by_role("region", name="two").get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Watch").click()
    tiles = [page.get_by_role("article", name=name) for name in sessions]
    for tile in tiles:
        expect(tile.locator(".xterm-rows")).to_contain_text("STUB-READY")
    tiles[0].locator(".xterm").click()
    page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.type("only here")
    expect(tiles[1].locator(".xterm-rows")).to_contain_text("only here")
    expect(tiles[0].locator(".xterm-rows")).not_to_contain_text("only here")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="All sessions").click()

    for name, id in sessions.items():
        bed.draw(id, CLAUDE_WORKS)
        page.get_by_role("checkbox", name=f"Choose {name}").check()
        expect(page.get_by_role("region", name=name).get_by_text("Working")).to_be_visible()
    page.get_by_role("button", name="Prompt …").click()
    page.get_by_role("dialog", name="Prompt 2 agents").get_by_label("Prompt", exact=True).fill("Write the docs, too")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Queued for 2.")).to_be_visible()
    for id in sessions.values():
        (queued,) = server.get(f"/api/sessions/{id}/prompts").json
        assert queued["text"] == "Write the docs, too"

    page.get_by_role("button", name="Stop …").click()
    question = page.get_by_role("alertdialog", name="Stop 2 sessions?")
    expect(question).to_contain_text("These agents are working")
    question.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped 2 sessions.")).to_be_visible()
    for id in sessions.values():
        assert server.get(f"/api/sessions/{id}").json["status"] == "stopped"
