"""The box for prompts: files, completion, the prompts of before, the queue, and its keys."""

from __future__ import annotations

import os
import re

import pytest
from browser_bed import Dashboard, clear_tool
from playwright.sync_api import Locator, Page, expect

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

PASTE = """
(name) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File(['a picture'], name, {type: 'image/png'}));
  const init = {bubbles: true, cancelable: true, clipboardData};
  document.querySelector('.composer textarea').dispatchEvent(new ClipboardEvent('paste', init));
}
"""


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Prompt for")


def opened(bed, shared, open_shared) -> Dashboard:
    """A page on the tool of the file's session, with an empty queue."""
    prompts = f"/api/sessions/{shared.session['id']}/prompts"
    for one in shared.server.get(prompts).json:
        shared.server.delete(f"{prompts}/{one['prompt_id']}")
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared()
    dashboard.open_terminal(shared.session)
    expect(box(dashboard.page)).to_be_visible()
    return dashboard


def queue(shared) -> list[str]:
    found = shared.server.get(f"/api/sessions/{shared.session['id']}/prompts").json
    return [one["text"] for one in found if one["result"] == "queued"]


@pytest.mark.day
def test_pictures_go_into_the_prompt(bed, shared, open_shared):
    """Pasted or picked: each is uploaded, and its path stands in the prompt where the cursor was."""
    page = opened(bed, shared, open_shared).page
    box(page).fill("Look at  and say why")
    box(page).press("Home")
    for _ in "Look at ":
        box(page).press("ArrowRight")
    page.evaluate(PASTE, "shot.png")
    path = r"/home/code/\S*shot\S*\.png"
    wait_until(lambda: ".png" in box(page).input_value(), "the path of what was pasted")
    expect(box(page)).to_have_value(re.compile(rf"^Look at {path} and say why$"))
    box(page).fill("")
    with page.expect_file_chooser() as chosen:
        page.locator(".composer").get_by_role("button", name="Attach files").click()
    chosen.value.set_files([{"name": "picked.txt", "mimeType": "text/plain", "buffer": b"picked"}])
    wait_until(lambda: "picked" in box(page).input_value(), "the path of what was picked")
    picked = box(page).input_value().split()[-1]
    assert bed.shell(shared.session["id"], f"cat {picked}") == "picked"


@pytest.mark.day
def test_files_and_commands_are_completed(bed, shared, open_shared):
    """`@` offers the files of the project, folder by folder; `/` the commands of the tool and of the project."""
    project = shared.root / "my-app"
    for name in ("sources/app.py", "sources/bad\nname.py", ".claude/commands/ship.md"):
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    if os.geteuid() == 0:
        for one in (project / "sources", *(project / "sources").iterdir()):
            os.chown(one, 1000, 1000)
    page = opened(bed, shared, open_shared).page
    offers = page.get_by_role("listbox", name="Completions")
    box(page).press_sequentially("Look at @sour")
    expect(offers.get_by_role("option")).to_have_text(["sources/"])
    page.keyboard.press("Enter")
    expect(offers.get_by_role("option")).to_have_text(["sources/app.py"])
    page.keyboard.press("Tab")
    expect(box(page)).to_have_value("Look at @sources/app.py ")
    expect(offers).to_have_count(0)
    box(page).fill("")
    box(page).press_sequentially("/comp")
    expect(offers.get_by_role("option")).to_contain_text("/compact")
    page.keyboard.press("Escape")
    expect(offers).to_have_count(0)
    expect(box(page)).to_be_focused()
    box(page).fill("")
    box(page).press_sequentially("/sh")
    expect(offers.get_by_role("option")).to_have_text(["/ship Of this project"])
    with page.expect_response("**/prompt") as sent:
        page.keyboard.press("Enter")
        page.keyboard.press("Control+Enter")
    assert sent.value.request.post_data_json["command"] is True


@pytest.mark.day
def test_the_queue_is_edited_and_reordered(bed, shared, open_shared):
    page = opened(bed, shared, open_shared).page
    bed.draw(shared.session["id"], CLAUDE_WORKS)
    expect(page.get_by_role("button", name="Queue", exact=True)).to_be_visible()
    for text in ("one", "two", "three"):
        box(page).fill(text)
        page.keyboard.press("Control+Enter")
        expect(box(page)).to_have_value("")
    page.get_by_role("button", name="3 prompts queued").click()
    listed = page.get_by_role("list", name="Queue").get_by_role("listitem")
    listed.filter(has_text="three").get_by_role("button", name="Move up").click()
    expect(listed).to_contain_text(["one", "three", "two"])
    listed.filter(has_text="one").get_by_role("button", name="Move down").click()
    expect(listed).to_contain_text(["three", "one", "two"])
    listed.filter(has_text="one").get_by_role("button", name="Edit").click()
    page.get_by_label("Queued prompt").fill("uno")
    page.get_by_role("main").get_by_role("link", name="Network").click()
    page.reload()
    page.get_by_role("main").get_by_role("link", name="Terminal").click()
    expect(page.get_by_label("Queued prompt")).to_have_value("uno")
    page.get_by_label("Queued prompt").press("Control+Enter")
    expect(listed).to_contain_text(["three", "uno", "two"])
    assert queue(shared) == ["three", "uno", "two"]
    for left, taken in ((2, "three"), (1, "three\nuno")):
        listed.first.get_by_role("button", name="Remove from queue").click()
        expect(listed).to_have_count(left)
        expect(box(page)).to_have_value(taken)  # the list may change before the answer comes that this is done by
    box(page).fill("")


def test_keys_lead_from_the_terminal_to_the_prompt_and_back(bed, shared, open_shared):
    """Also where the box was hidden. Nothing typed in between reaches the other one; the arrow finds what was sent."""
    dashboard = opened(bed, shared, open_shared)
    page = dashboard.page
    page.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Hide prompt box").click()
    expect(box(page)).to_be_hidden()
    page.locator(".xterm-helper-textarea").focus()
    page.keyboard.press("Control+Shift+ArrowDown")
    expect(box(page)).to_be_focused()
    page.keyboard.type("in the box")
    page.keyboard.press("Escape")
    expect(page.locator(".xterm-helper-textarea")).to_be_focused()
    dashboard.type_line("in the terminal")
    dashboard.expect_screen("echo: in the terminal")
    expect(box(page)).to_have_value("in the box")
    bed.draw(shared.session["id"], CLAUDE_WORKS)
    expect(page.get_by_role("button", name="Queue", exact=True)).to_be_visible()
    box(page).press("Control+Enter")
    expect(box(page)).to_have_value("")
    box(page).press("ArrowUp")
    expect(box(page)).to_have_value("in the box")
    box(page).fill("half a thought")
    box(page).press("ArrowUp")
    expect(box(page)).to_have_value("half a thought")
    box(page).fill("")
    bed.draw(shared.session["id"], CLAUDE_RESTS)
