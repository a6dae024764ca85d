"""History, files, settings and the keyboard."""

from __future__ import annotations

import json
import os
import re
import socket
from datetime import datetime, timezone
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.incus_bed import CLAUDE_WORKS
from tests.programs import free_port, wait_until

pytest_plugins = ("browser_bed",)


def stop(dashboard, session: dict) -> None:
    """Stop a session over the API."""
    assert dashboard.server.delete(f"/api/sessions/{session['id']}").status == 204


@pytest.mark.day
def test_history_finds_a_run_and_resumes_it(open_dashboard):
    """A stopped container goes on from its line in the history."""
    dashboard = open_dashboard(projects=("gone-on",))
    session, page = dashboard.server.create(dashboard.root / "gone-on"), dashboard.blank
    dashboard.open_terminal(session)
    dashboard.type_line("something to go on with")
    dashboard.expect_screen("echo: something to go on with")
    stop(dashboard, session)
    dashboard.go("/history")
    page.get_by_role("searchbox").fill("no such project")
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    page.get_by_role("searchbox").fill("gone-on")
    page.get_by_label("Tool").select_option("claude")
    expect(page).to_have_url(re.compile(r"/history\?q=gone-on&tool=claude$"))
    page.get_by_role("row", name="gone-on").get_by_role("button", name="Resume").click()
    page.get_by_role("row", name="gone-on").get_by_role("link", name="Open").first.click()
    dashboard.expect_screen(f"resumed {session['session_id']} with 1 lines.*STUB-READY")


def test_the_history_names_its_projects_at_any_width(shared, open_shared):
    dashboard = open_shared()
    dashboard.go("/history")
    name = dashboard.page.locator("td .name", has_text="my-app")
    for width in (390, 640, 800, 1024, 1920):
        dashboard.page.set_viewport_size({"width": width, "height": 800})
        wait_until(lambda: name.bounding_box()["width"] > 40, f"the name at {width} px")


def test_the_history_tells_what_was_spent(dashboard, home):
    """By project, and by day when one is unfolded; the conversation of a session that is long gone."""
    at = datetime.now(timezone.utc).isoformat()
    usage = {"input_tokens": 1_000_000, "output_tokens": 100_000}
    message = {"id": "msg_1", "model": "claude-opus-4-5", "usage": usage}
    saved = home / ".clincus/sessions-claude/5b0c7d1e"
    transcript = saved / ".claude/projects/-workspace/a.jsonl"
    transcript.parent.mkdir(parents=True)
    transcript.write_text(json.dumps({"timestamp": at, "message": message}) + "\n")
    (saved / "metadata.json").write_text(json.dumps({"session_id": "5b0c7d1e", "workspace": "/srv/web-shop"}))
    page = dashboard.blank
    dashboard.go("/history")
    page.get_by_text("Cost of the last 30 days").click()
    expect(page.get_by_role("row", name="Total")).to_contain_text("$7.50")
    page.get_by_role("button", name="web-shop").click()
    expect(page.get_by_role("row", name=at[:10])).to_contain_text("1.1M")


def test_history_goes_on_in_a_new_container(dashboard, session_on):
    """When the container is gone, its saved conversation goes on in a new one."""
    session = session_on()
    dashboard.open_terminal(session)
    dashboard.type_line("remember the milk")
    dashboard.expect_screen("echo: remember the milk")
    stop(dashboard, session)
    assert dashboard.server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    dashboard.go("/history")
    dashboard.page.get_by_role("button", name="Resume").first.click()
    expect(dashboard.page.get_by_role("dialog")).to_contain_text("Continues the conversation")
    dashboard.page.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("earlier: remember the milk")


def open_file(dashboard, session: dict, *path: str) -> None:
    """Walk to a file through the tree and wait for its text."""
    dashboard.go(f"/sessions/{session['id']}/files")
    for name in path:
        dashboard.page.get_by_role("treeitem", name=name, exact=True).click()
    dashboard.page.locator(".cm-content").wait_for()


def new_file(dashboard, name: str, text: str = "as it was\n") -> Path:
    """Make a file in the project, which belongs to its owner as everything else in a workspace of the bed."""
    file = dashboard.root / "my-app" / name
    file.write_text(text, encoding="utf-8")
    if os.geteuid() == 0:
        os.chown(file, 1000, 1000)
    return file


@pytest.mark.day
def test_a_file_is_edited_and_saved_with_a_key(shared, open_shared):
    """The tree leads there, Ctrl+S saves, and the address alone leads back."""
    dashboard = open_shared()
    folder = dashboard.root / "my-app" / "src dir"
    folder.mkdir()
    file = folder / "数据 #1?.py"
    file.write_text("x = 1\n")
    for path in (folder, file) if os.geteuid() == 0 else ():
        os.chown(path, 1000, 1000)  # as everything else in a workspace of the bed
    open_file(dashboard, shared.session, "src dir", file.name)
    dashboard.page.locator(".cm-content").click()
    dashboard.page.keyboard.press("Control+Home")
    dashboard.page.keyboard.type("# typed here\n")
    expect(dashboard.page.get_by_text("Not saved")).to_be_visible()
    dashboard.page.keyboard.press("Control+s")
    wait_until(lambda: file.read_text() == "# typed here\nx = 1\n", "the file to be saved")
    expect(dashboard.page.get_by_text("Not saved")).to_be_hidden()
    dashboard.page.reload()
    expect(dashboard.page.locator(".cm-content")).to_contain_text("# typed here")


def test_a_file_that_the_agent_changed_is_shown_anew(shared, open_shared, bed):
    """What nobody edits follows the container."""
    dashboard = open_shared()
    new_file(dashboard, "followed.md")
    open_file(dashboard, shared.session, "followed.md")
    bed.shell(shared.session["id"], "echo 'from the agent' >> /workspace/followed.md")
    expect(dashboard.page.locator(".cm-content")).to_contain_text("from the agent")


def test_a_file_that_the_agent_deleted_can_be_saved_anew(shared, open_shared, bed):
    """Its last text stays on the page, and the page says so."""
    dashboard = open_shared()
    file = new_file(dashboard, "deleted.md")
    open_file(dashboard, shared.session, file.name)
    bed.shell(shared.session["id"], "rm /workspace/deleted.md")
    expect(dashboard.page.get_by_text("was deleted in the container")).to_be_visible()
    assert not file.exists()
    dashboard.page.get_by_role("button", name="Save again").click()
    wait_until(file.exists, "the file")
    expect(dashboard.page.get_by_text("was deleted in the container")).to_be_hidden()
    dashboard.forgive(r"status of 404 .*/files/content")


def test_a_file_whose_name_is_no_utf_8_is_edited(shared, open_shared):
    """Names are bytes: this one is Latin-1, and is found again by its address."""
    dashboard = open_shared()
    file = new_file(dashboard, os.fsdecode(b"caf\xe9.txt"), "un café\n")
    page = dashboard.blank
    dashboard.go(f"/sessions/{shared.session['id']}/files")
    page.get_by_role("treeitem", name="caf\ufffd.txt").click()
    expect(page).to_have_url(re.compile(r"\?path=caf%E9\.txt$"))
    page.reload()
    expect(page.locator(".cm-content")).to_contain_text("un café")
    page.locator(".cm-content").click()
    page.keyboard.press("Control+Home")
    page.keyboard.type("encore ")
    page.keyboard.press("Control+s")
    wait_until(lambda: file.read_text(encoding="utf-8") == "encore un café\n", "the file to be saved")


def test_what_is_typed_stays_while_the_session_stops_and_starts(dashboard, session_on):
    """The editor stays, says that nothing can be saved now, and saves when the session runs again."""
    page, session = dashboard.blank, session_on()
    file = dashboard.root / "my-app" / "README.md"
    open_file(dashboard, session, "README.md")
    text = page.locator(".cm-content")
    text.click()
    page.keyboard.press("Control+Home")
    page.keyboard.type("typed before ")
    stop(dashboard, session)
    expect(page.get_by_text("nothing can be saved now")).to_be_visible()
    text.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("and after")
    page.get_by_label("Editor").get_by_role("button", name="Resume").click()
    expect(page.get_by_text("nothing can be saved now")).to_be_hidden()
    expect(text).to_contain_text("typed before")
    page.get_by_role("button", name="Save").click()
    wait_until(lambda: file.read_text() == "typed before # my-app\nand after", "both to be saved")


@pytest.mark.day
def test_what_is_not_saved_is_not_lost(shared, open_shared):
    """Other places, another file and a reload: each keeps it, or asks first."""
    dashboard = open_shared()
    page = dashboard.page
    new_file(dashboard, "other.txt", "other\n")
    open_file(dashboard, shared.session, "README.md")
    text = page.locator(".cm-content")
    text.click()
    page.keyboard.type("not saved yet ")
    page.get_by_role("link", name="History").click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    page.go_back()
    expect(text).to_contain_text("not saved yet")
    page.get_by_role("treeitem", name="other.txt").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel").click()
    expect(text).to_contain_text("not saved yet")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.evaluate("setTimeout(() => location.reload())")
    wait_until(lambda: (page.title(), asked)[1], "the browser's question")
    assert asked == ["beforeunload"]
    expect(text).to_contain_text("not saved yet")
    page.get_by_role("treeitem", name="other.txt").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Leave without saving").click()
    expect(text).to_contain_text("other")


@pytest.mark.parametrize(("choice", "kept"), [("Take theirs", "from the agent"), ("Keep mine", "typed here")])
def test_a_file_that_both_changed_is_never_overwritten_blindly(shared, open_shared, bed, choice, kept):
    """The save is refused, the container's version stands, and the person decides."""
    dashboard = open_shared()
    file = new_file(dashboard, f"{choice}.md")
    open_file(dashboard, shared.session, file.name)
    dashboard.page.locator(".cm-content").click()
    dashboard.page.keyboard.type("typed here ")
    bed.shell(shared.session["id"], f"echo 'from the agent' > '/workspace/{file.name}'")
    dashboard.page.keyboard.press("Control+s")
    expect(dashboard.page.get_by_text("changed in the container while you edited it")).to_be_visible()
    assert file.read_text() == "from the agent\n"
    dashboard.page.get_by_role("button", name=choice).click()
    expect(dashboard.page.locator(".cm-content")).to_contain_text(kept)
    wait_until(lambda: kept in file.read_text(), "the chosen version")
    dashboard.forgive(r"status of 412")


def test_a_binary_file_says_why_it_is_not_shown(shared, open_shared):
    """No garbage in the editor."""
    dashboard = open_shared()
    (dashboard.root / "my-app" / "blob.bin").write_bytes(bytes(range(256)) * 8)
    dashboard.go(f"/sessions/{shared.session['id']}/files")
    dashboard.page.get_by_role("treeitem", name="blob.bin").click()
    expect(dashboard.page.get_by_text("is not UTF-8 text, so it cannot be shown or edited here")).to_be_visible()
    dashboard.page.get_by_role("button", name="Copy its path").click()
    path = str(dashboard.root / "my-app" / "blob.bin")
    wait_until(lambda: dashboard.page.evaluate("navigator.clipboard.readText()") == path, "the path on the clipboard")
    expect(dashboard.page.locator(".cm-content")).to_have_count(0)
    dashboard.forgive(r"status of 415")


@pytest.mark.day
def test_a_workspace_root_is_added_and_kept(open_shared, make_workspace, tmp_path):
    """It is kept beside the configuration file, its projects in their place, and gone again when it is removed."""
    dashboard = open_shared()
    more = tmp_path / "more"
    (more / "extra").mkdir(parents=True)
    page = dashboard.blank
    dashboard.go("/settings")
    page.get_by_label("Folder to add").fill(str(more))
    page.get_by_role("button", name="Add folder").click()
    expect(page.get_by_role("button", name=f"Remove {more}")).to_be_visible()
    assert str(more) in (dashboard.server.home / ".clincus" / "dashboard.json").read_text()
    page.get_by_role("link", name="Projects").click()
    expect(page.get_by_role("button", name="extra", exact=True)).to_be_visible()
    dashboard.go("/settings")
    page.get_by_role("button", name=f"Remove {more}").click()
    expect(page.get_by_role("button", name=f"Remove {more}")).to_have_count(0)


@pytest.mark.day
def test_the_page_follows_to_another_port_which_is_kept(dashboard, start_server):
    """Address, data and event stream are those of the new port, and what this browser keeps has come along.

    A restart finds the port in the file.
    """
    page, port = dashboard.page, free_port()
    dashboard.go("/settings")
    page.get_by_label("Theme", exact=True).select_option("dark")
    page.get_by_role("spinbutton", name="Port").fill(str(port))
    page.get_by_role("button", name="Save port").click()
    expect(page).to_have_url(f"http://127.0.0.1:{port}/settings")
    expect(page.get_by_role("spinbutton", name="Port")).to_have_value(str(port))
    expect(page.get_by_label("Theme", exact=True)).to_have_value("dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    (dashboard.root / "made-later").mkdir()
    dashboard.server.port = port
    dashboard.server.create(dashboard.root / "made-later")
    expect(page.get_by_role("navigation").get_by_role("link", name="made-later")).to_be_visible()
    dashboard.server.stop()
    assert start_server(port=None).port == port
    expect(page.get_by_text("Connection to the server lost")).to_be_hidden()
    dashboard.forgive("ERR_CONNECTION|Failed to load resource|WebSocket connection")


def test_a_port_that_is_taken_is_refused_with_the_reason(open_shared):
    """Nothing moves, and the field can be corrected."""
    dashboard = open_shared()
    page = dashboard.blank
    dashboard.go("/settings")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        page.get_by_role("spinbutton", name="Port").fill(str(taken))
        page.get_by_role("button", name="Save port").click()
        expect(page.get_by_role("alert")).to_have_text(f"Port {taken} cannot be used: Address already in use")
    assert page.url == f"{dashboard.server.url}/settings"
    assert dashboard.server.get("/api/sessions").status == 200
    page.get_by_role("spinbutton", name="Port").fill("70000")
    expect(page.get_by_role("alert")).to_contain_text("from 1 to 65535")
    expect(page.get_by_role("button", name="Save port")).to_be_disabled()
    dashboard.forgive("status of 409")


def test_another_page_is_told_that_the_port_has_changed(dashboard):
    """It may be somebody else's by now, so that page goes there only when the person says so."""
    page, port = dashboard.page, free_port()
    expect(page.get_by_role("main")).to_contain_text("my-app")
    assert dashboard.server.put("/api/config", {"port": port}).status == 200
    page.get_by_role("button", name="Go there").click()
    expect(page).to_have_url(f"http://127.0.0.1:{port}/")
    expect(page.get_by_role("main")).to_contain_text("my-app")
    dashboard.forgive("ERR_CONNECTION|Failed to load resource|WebSocket connection")


def test_every_value_is_shown_with_where_it_comes_from(open_shared):
    """Set values name their file, the others say default."""
    dashboard = open_shared()
    dashboard.go("/settings")
    rows = dashboard.page.get_by_role("table").get_by_role("row")
    expect(rows.filter(has_text="dashboard.workspace_roots")).to_contain_text("config.toml")
    expect(rows.filter(has_text="limits.cpu.count")).to_contain_text("default")


def test_a_broken_configuration_is_shown_and_mended_without_a_reload(dashboard):
    """The error names the line; the last good configuration stays in force."""
    file = dashboard.server.home / ".config" / "clincus" / "config.toml"
    good = file.read_text()
    expect(dashboard.page.get_by_role("main")).to_contain_text("my-app")
    file.write_text(good + "\nthis is not TOML\n")
    expect(dashboard.page.get_by_role("alert")).to_contain_text("the last good one is in force")
    expect(dashboard.page.get_by_role("main")).to_contain_text("my-app")
    dashboard.go()  # a page that comes later is told as well
    expect(dashboard.page.get_by_role("alert")).to_contain_text("config.toml, line")
    file.write_text(good)
    expect(dashboard.page.get_by_role("alert")).to_have_count(0)


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
def test_the_palette_leads_everywhere(tool):
    """Alt+0 in a terminal and Ctrl+K elsewhere: it finds by a few letters, and what it leads to has the keys."""
    tool.page.keyboard.press("Alt+0")
    expect(tool.page.get_by_role("combobox", name="Command")).to_be_focused()
    tool.page.keyboard.type("history")
    tool.page.keyboard.press("Enter")
    expect(tool.page.get_by_role("heading", name="History")).to_be_visible()
    tool.page.keyboard.press("Control+k")
    expect(tool.page.get_by_role("combobox", name="Command")).to_be_focused()
    tool.page.keyboard.type("my-app")
    tool.page.keyboard.press("Enter")
    expect(tool.page.locator(".xterm-helper-textarea:focus")).to_have_count(1)
    tool.type_line("typed after the palette")
    tool.expect_screen("echo: typed after the palette")


def test_what_fits_best_is_chosen(open_dashboard):
    """A name that was typed in full comes before a longer one that holds its letters, in the dialog and the palette."""
    dashboard = open_dashboard(projects=("api", "a-project-in-all-its-length", "pi"))
    page = dashboard.blank
    dashboard.go("/projects")  # the inbox shows them only while there is no session, and the file has one
    expect(page.get_by_role("button", name="api", exact=True)).to_be_visible()
    for name in ("pi", "api"):
        page.keyboard.press("n")
        chip = page.get_by_role("button", name=re.compile("^(Project:|Choose a project)"))
        if chip.get_attribute("aria-expanded") != "true":
            chip.click()
        page.get_by_label("Project or path").fill(name)
        expect(page.locator("[data-command-item][data-selected]")).to_have_text(re.compile(rf"^\s*{name}\b"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text(str(dashboard.root / name))
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Command").fill("pi")
    expect(page.locator("[data-command-item][data-selected]")).to_contain_text("pi")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="New session")).to_contain_text(str(dashboard.root / "pi"))


def test_the_palette_key_and_enter_go_to_and_fro(tool, shared, make_workspace):
    """The session that was shown before is the first one offered."""
    sessions = [shared.session, shared.server.create(make_workspace("two"))]
    tool.open_terminal(sessions[1])
    for session in (sessions[0], sessions[1], sessions[0]):
        tool.page.keyboard.press("Alt+0")
        expect(tool.page.get_by_role("combobox", name="Command")).to_be_focused()
        tool.page.keyboard.press("Enter")
        expect(tool.page).to_have_url(re.compile(f"{session['id']}$"))


def test_shortcuts_are_listed(open_shared):
    """`?` shows them, Escape closes them."""
    dashboard = open_shared()
    dashboard.page.keyboard.press("?")
    expect(dashboard.page.get_by_role("dialog")).to_contain_text("Command palette")
    dashboard.page.keyboard.press("Escape")
    expect(dashboard.page.get_by_role("dialog")).to_have_count(0)


def test_a_second_pane_stands_beside_the_terminal_with_a_width_that_is_kept(open_dashboard):
    """The menu opens it, its line is moved by keys and by the pointer, and a reload finds both as they were."""
    dashboard = open_dashboard()
    page = dashboard.blank
    session = dashboard.server.create(dashboard.root / "my-app")
    page.set_viewport_size({"width": 1440, "height": 900})
    dashboard.open_terminal(session)
    page.locator("main header").get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Files in a second pane").click()
    expect(page.get_by_role("treeitem", name="README.md")).to_be_visible()
    page.locator(".xterm:visible").click()
    dashboard.type_line("still here")
    dashboard.expect_screen("echo: still here")
    line = page.get_by_role("separator", name="Width of the second pane")
    line.press("ArrowLeft")
    kept = line.get_attribute("aria-valuenow")
    assert int(kept) > 50
    page.get_by_role("treeitem", name="README.md").click()
    expect(page.locator(".cm-content")).to_contain_text("# my-app")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", name="my-app", level=3)).to_be_visible()
    expect(page.locator(".xterm:visible")).to_be_visible()
    edge = page.get_by_role("separator", name="Width of the sidebar")
    box = edge.bounding_box()
    page.mouse.move(box["x"], 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, 300, steps=3)
    page.mouse.up()
    expect(edge).to_have_attribute("aria-valuenow", "308")
    page.reload()
    expect(line).to_have_attribute("aria-valuenow", kept)
    expect(edge).to_have_attribute("aria-valuenow", "308")
    page.get_by_role("button", name="Close the second pane").click()
    expect(line).to_have_count(0)


@pytest.mark.day
def test_several_sessions_are_chosen_watched_prompted_stopped_and_deleted(open_dashboard, bed):
    """By project and filter; the keys go from tile to tile, and what is typed goes to one of them alone."""
    dashboard = open_dashboard(projects=("one", "two"))
    server, page = dashboard.server, dashboard.blank
    sessions = [server.create(dashboard.root / name) for name in ("one", "two")]
    dashboard.go("/all")
    page.get_by_role("searchbox", name="Filter sessions").fill("two")
    expect(page.get_by_role("checkbox", name="Choose one")).to_have_count(0)
    page.get_by_role("searchbox", name="Filter sessions").fill("")
    page.get_by_role("checkbox", name="Choose one").check()
    page.get_by_role("region", name="two").get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Watch").click()
    tiles = [page.get_by_role("article", name=name) for name in ("one", "two")]
    for tile in tiles:
        expect(tile.locator(".xterm-rows")).to_contain_text("STUB-READY")
    tiles[0].locator(".xterm").click()
    page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.type("only here")
    expect(tiles[1].locator(".xterm-rows")).to_contain_text("only here")
    expect(tiles[0].locator(".xterm-rows")).not_to_contain_text("only here")
    page.keyboard.press("Enter")
    tiles[0].get_by_role("button", name="Take one out of the grid").click()
    expect(tiles[0]).to_have_count(0)
    page.get_by_role("button", name="All sessions").click()

    for name, session in zip(("one", "two"), sessions):
        bed.draw(session["id"], CLAUDE_WORKS)
        page.get_by_role("checkbox", name=f"Choose {name}").check()
        expect(page.get_by_role("region", name=name).get_by_text("Working")).to_be_visible()
    page.get_by_role("button", name="Prompt …").click()
    page.get_by_role("dialog", name="Prompt 2 agents").get_by_label("Prompt", exact=True).fill("Write the docs, too")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Queued for 2.")).to_be_visible()
    for session in sessions:
        (queued,) = server.get(f"/api/sessions/{session['id']}/prompts").json
        assert queued["text"] == "Write the docs, too"

    page.get_by_role("button", name="Stop …").click()
    question = page.get_by_role("alertdialog", name="Stop 2 sessions?")
    expect(question).to_contain_text("These agents are working")
    question.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped 2 sessions.")).to_be_visible()
    for session in sessions:
        assert server.get(f"/api/sessions/{session['id']}").json["status"] == "stopped"
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("alertdialog", name="Delete 2 sessions?").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted 2 sessions.")).to_be_visible()
    for session in sessions:
        assert server.get(f"/api/sessions/{session['id']}").status == 404
