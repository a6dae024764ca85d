"""The terminal on the page: size, colour, clipboard, search, several at once, and coming back."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)


def rows_of(dashboard) -> int:
    """How many lines the shown terminal has."""
    return dashboard.page.locator(".xterm-rows:visible > div").count()


def test_the_size_is_right_from_the_first_byte_and_follows_the_pane(dashboard, session_on):
    """The tool never saw 80x24: what it is told equals what is on the page, before and after a resize."""
    dashboard.open_terminal(session_on(), tab="/shell")
    for height in (800, 600):
        dashboard.page.set_viewport_size({"width": 1280, "height": height})
        wait_until(lambda height=height: abs(rows_of(dashboard) * 15 - height + 80) < 60, "the pane to follow")
        dashboard.type_line("clear; stty size")
        dashboard.expect_screen(rf"\b{rows_of(dashboard)} \d{{3}}")


def test_every_script_arrives_as_it_was_typed(dashboard, session_on):
    """Wide and combining characters go in as UTF-8 and come back on the screen."""
    dashboard.open_terminal(session_on(), tab="/shell")
    for text in ("中文字符", "e\u0301tude", "한국어", "naïve — “quotes”"):
        dashboard.page.keyboard.insert_text(f"printf '<%s>\\n' '{text}'")
        dashboard.page.keyboard.press("Enter")
        dashboard.expect_screen(f"<{text}>")


def test_a_24_bit_colour_is_shown_as_it_is(open_dashboard):
    """Where it can be read on the theme's background, no colour is changed."""
    dashboard = open_dashboard(color_scheme="dark")
    session = dashboard.server.create(dashboard.root / "my-app")
    dashboard.open_terminal(session, tab="/shell")
    dashboard.type_line(r"clear; printf '\033[38;2;250;120;10mtrue\033[0m\n'")
    expect(dashboard.page.locator(".xterm-rows span", has_text=re.compile("^true$"))).to_have_css(
        "color", "rgb(250, 120, 10)"
    )


def test_inverse_text_has_the_colour_of_the_background(dashboard, session_on):
    """A bar of tmux or less is as legible as any other text, in both themes."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line(r"clear; printf '\033[7minverse\033[0m\n'")
    inverse = dashboard.page.locator(".xterm-rows span", has_text=re.compile("^inverse$"))
    for theme, colour in (("dark", "rgb(21, 22, 26)"), ("light", "rgb(255, 255, 255)")):
        dashboard.page.emulate_media(color_scheme=theme)
        expect(inverse).to_have_css("color", colour)


def test_a_paste_is_one_paste(dashboard, session_on):
    """With bracketed paste the shell takes several lines in and runs none of them by itself."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.page.evaluate("navigator.clipboard.writeText('echo one\\necho two')")
    dashboard.page.keyboard.press("Control+Shift+V")
    dashboard.expect_screen("echo one.*echo two")
    assert not re.search(r"^one$", dashboard.screen(), re.MULTILINE)


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


def test_the_paths_of_pictures_and_files_come_into_the_prompt_without_enter(dashboard, session_on):
    """Picked, dropped, and pasted by Ctrl V, which is the program's where the clipboard holds no file."""
    session = session_on()
    dashboard.open_terminal(session, tab="/shell")
    dashboard.page.keyboard.type("wc -c ")
    with dashboard.page.expect_file_chooser() as chooser:
        dashboard.page.get_by_role("button", name="Give files to the tool").click()
    chooser.value.set_files([{"name": "my shot.png", "mimeType": "image/png", "buffer": b"picked"}])
    dashboard.expect_screen(r"/home/code/\.clincus/uploads/[\d-]+[0-9a-f]{4}-my-shot\.png ")
    dashboard.page.locator(".stage:visible").evaluate(DROP_A_FILE)
    dashboard.expect_screen(r"dropped\.txt ")
    dashboard.page.evaluate(COPY_A_PICTURE)
    dashboard.page.locator(".xterm:visible").click()
    dashboard.page.keyboard.press("Control+V")
    dashboard.expect_screen(r"-image\.png ")
    dashboard.page.keyboard.press("Enter")
    dashboard.expect_screen(r"6 \S*my-shot\.png\s+7 \S*dropped\.txt")


def test_a_program_can_copy_but_never_read(dashboard, session_on):
    """OSC 52 sets the clipboard. A query gets tmux's own buffer at most, never what is on the clipboard."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line(r"printf '\033]52;c;aGVsbG8=\a'")
    expect(dashboard.page.get_by_text("copied 5 characters")).to_be_visible()
    assert dashboard.page.evaluate("navigator.clipboard.readText()") == "hello"
    dashboard.page.evaluate("navigator.clipboard.writeText('secret')")
    dashboard.type_line(r"clear; printf '\033]52;c;?\a'; read -t 1 -rsd '' answer; printf '%q|e''nd\n' \"$answer\"")
    dashboard.expect_screen(r"\|end")
    assert "c2VjcmV0" not in dashboard.screen(), "base64 of what the person has on the clipboard"


def test_a_selection_is_copied(dashboard, session_on):
    """A double click on a word puts it on the clipboard."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line("clear; echo antidisestablishment")
    word = dashboard.page.locator(".xterm-rows:visible > div", has_text=re.compile("^antidis"))
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    wait_until(
        lambda: dashboard.page.evaluate("navigator.clipboard.readText()") == "antidisestablishment", "the clipboard"
    )


def test_a_link_is_opened_by_a_click(dashboard, session_on):
    """An address in the output opens in a tab of its own, without a way back to this one."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line(f"clear; echo {dashboard.server.url}/history")
    line = dashboard.page.locator(".xterm-rows:visible > div", has_text=re.compile("^http"))
    line.hover(position={"x": 60, "y": 6}, force=True)
    expect(dashboard.page.locator(".line .mono:visible")).to_have_text(f"{dashboard.server.url}/history")
    with dashboard.page.context.expect_page() as opened:
        line.click(position={"x": 60, "y": 6}, force=True)
    assert opened.value.evaluate("window.opener") is None


def test_the_search_counts_what_it_finds(dashboard, session_on):
    """Ctrl+Shift+F searches, Enter goes on, Escape gives the keys back to the program."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line("clear; seq -f 'n%.0f' 100 120")  # the prompt has the session's name, with any digits
    dashboard.expect_screen(r"n119\s*n120")
    dashboard.page.keyboard.press("Control+Shift+F")
    dashboard.page.get_by_role("textbox", name="Search the terminal").fill("n11")
    expect(dashboard.page.get_by_text(re.compile(r"\d+ of 10$"))).to_be_visible()
    dashboard.page.keyboard.press("Escape")
    dashboard.type_line("echo back again")
    dashboard.expect_screen("back again.*back again")


def test_ten_thousand_lines_are_kept_and_searched(dashboard, session_on):
    """After a flood the first line can be scrolled and searched to, at any size, and the shell still answers."""
    dashboard.open_terminal(session_on(), tab="/shell")
    page = dashboard.page
    dashboard.type_line("clear; seq -f 'line %.0f.' 10500; echo fl''ood")
    dashboard.expect_screen("flood")
    for _ in range(3):
        page.keyboard.press("Control+Shift+Home")
        dashboard.expect_screen(r"line 4\d\d\.")  # 10,000 lines above the screen
        page.keyboard.press("Control+Shift+End")
        dashboard.expect_screen("flood")
    page.keyboard.press("Control+Shift+F")
    search = page.get_by_role("textbox", name="Search the terminal")
    search.fill("line 987.")
    expect(page.get_by_text("1 of 1", exact=True)).to_be_visible()
    dashboard.expect_screen(r"line 987\.")
    search.fill("7.")
    expect(page.get_by_text(re.compile(r"\d+ of \d{3,4}"))).to_be_visible()
    for width, height in ((900, 500), (1600, 900)):
        page.set_viewport_size({"width": width, "height": height})
        search.press("Enter")
        dashboard.expect_screen(r"7\.")
    search.press("Escape")
    page.keyboard.press("Escape")
    dashboard.type_line("echo st''ill; stty size")
    dashboard.expect_screen(rf"still\s*{rows_of(dashboard)} \d+")


def test_one_looks_back_at_a_tool_and_goes_on_typing(dashboard, session_on):
    """The wheel shows what has left the screen, for this page alone; the first key is back in the present."""
    dashboard.open_terminal(session_on())
    dashboard.type_line("flood 10500")
    dashboard.expect_screen(r"10499\s*10500")
    page, past = dashboard.page, dashboard.page.locator(".past .xterm-rows")
    page.locator(".xterm-screen").hover()
    page.mouse.wheel(0, -900)
    expect(past).not_to_contain_text("10500")
    expect(past).to_contain_text("104")
    page.keyboard.press("Control+Shift+Home")
    expect(past).to_contain_text("499500501")  # 10,000 lines above the screen
    dashboard.type_line("none of this is lost")
    expect(past).to_have_count(0)
    dashboard.expect_screen("echo: none of this is lost")
    page.keyboard.press("Shift+PageUp")
    expect(page.get_by_text("Looking back.")).to_be_visible()
    for _ in range(2):  # to the end, and beyond
        page.keyboard.press("Shift+PageDown")
    expect(past).to_have_count(0)


def test_the_search_of_a_tool_finds_what_left_the_screen(dashboard, session_on):
    """What is typed at once after the chord is the search's; Escape leads back in two steps."""
    dashboard.open_terminal(session_on())
    dashboard.type_line("flood 10500")
    dashboard.expect_screen(r"10499\s*10500")
    dashboard.page.keyboard.press("Control+Shift+F")
    dashboard.page.keyboard.type("4242")
    expect(dashboard.page.get_by_text("1 of 1", exact=True)).to_be_visible()
    expect(dashboard.page.locator(".past .xterm-rows")).to_contain_text("4242")
    dashboard.page.keyboard.press("Escape")
    expect(dashboard.page.locator(".past .xterm-rows")).to_contain_text("4242")
    dashboard.page.keyboard.press("Escape")
    dashboard.type_line("nothing was typed")
    dashboard.expect_screen(r"10500\s*nothing was typed\s*echo: nothing was typed")


def test_a_program_that_wants_the_mouse_gets_it(dashboard, session_on):
    """Its wheel is not the page's."""
    dashboard.open_terminal(session_on())
    dashboard.type_line("sh printf '\\033[?1000h\\033[?1006h'; echo re''ady; timeout 30 cat -v")
    dashboard.expect_screen("ready")
    dashboard.page.locator(".xterm-screen").hover()
    dashboard.page.mouse.wheel(0, -100)
    dashboard.expect_screen(r"\^\[\[<64;")


def test_keys_go_to_the_session_that_is_shown(open_dashboard):
    """While one switches to and fro with Alt+digit, no key reaches the other session."""
    dashboard = open_dashboard(projects=("one", "two"))
    sessions = {name: dashboard.server.create(dashboard.root / name) for name in ("one", "two")}
    dashboard.open_terminal(sessions["one"])
    for index in range(2):  # what is typed before a terminal is connected is dropped
        dashboard.page.keyboard.press(f"Alt+{index + 1}")
        dashboard.expect_screen("STUB-READY")
    links = dashboard.page.locator("aside section a")
    expect(links).to_have_count(2)
    order = [link.get_attribute("href") for link in links.all()]
    for turn in range(6):
        index = turn % 2
        dashboard.page.keyboard.press(f"Alt+{index + 1}")
        dashboard.type_line(f"to-{index}-{turn}")
        expect(dashboard.page).to_have_url(re.compile(f"{order[index]}$"))
    for index in range(2):
        dashboard.page.keyboard.press(f"Alt+{index + 1}")
        dashboard.expect_screen(f"echo: to-{index}-{4 + index}")
        assert f"to-{1 - index}-" not in dashboard.screen()


def test_terminals_stay_alive_while_another_place_is_shown(dashboard, session_on):
    """Coming back shows the same terminal, not a new connection."""
    dashboard.open_terminal(session_on())
    sockets = []
    dashboard.page.on("websocket", lambda socket: sockets.append(socket.url))
    dashboard.type_line("remember me")
    dashboard.expect_screen("echo: remember me")
    dashboard.page.get_by_role("link", name="History").click()
    expect(dashboard.page.get_by_role("heading", name="History")).to_be_visible()
    dashboard.page.go_back()
    dashboard.expect_screen("echo: remember me")
    assert sockets == []


def test_the_shell_is_a_second_program_beside_the_tool(dashboard, session_on):
    """The Shell tab is a login shell in the project's folder; the tool sees nothing of it."""
    dashboard.open_terminal(session_on())
    dashboard.page.get_by_role("link", name="Shell").click()
    dashboard.expect_screen(r"\$")
    dashboard.type_line("pwd; echo only-in-the-shell")
    dashboard.expect_screen("/workspace.*only-in-the-shell")
    dashboard.page.get_by_role("link", name="Terminal", exact=True).click()
    dashboard.expect_screen("STUB-READY")
    assert "only-in-the-shell" not in dashboard.screen()


def test_a_shell_outlives_its_page(dashboard, session_on):
    """After a reload, and in another tab, it is the same shell with what it showed."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line("kept=the-same-shell")
    dashboard.expect_screen("kept=the-same-shell")
    dashboard.page.reload()
    dashboard.expect_screen("kept=the-same-shell")
    dashboard.type_line("echo $kept-")
    dashboard.expect_screen("the-same-shell-")


def test_a_page_that_cannot_draw_for_a_while_loses_no_connection(dashboard, session_on):
    """The output waits in tmux meanwhile, and its end is shown then."""
    page = dashboard.page
    dashboard.open_terminal(session_on(), tab="/shell")
    sockets: list[str] = []
    page.on("websocket", lambda one: sockets.append(one.url))
    dashboard.type_line("kept=the-same-shell; seq -f '%.0f of many lines that are long enough' 400000; echo fl''ood")
    page.evaluate("() => { const end = Date.now() + 4000; while (Date.now() < end); }")
    dashboard.expect_screen("flood")
    dashboard.type_line("echo $kept-")
    dashboard.expect_screen("the-same-shell-")
    assert sockets == []


def test_a_shell_that_ended_is_not_opened_again_by_itself(dashboard, session_on):
    """A close with 1000 is final until the person wants a new one."""
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line("exit")
    expect(dashboard.page.get_by_text("Press Enter to open it again")).to_be_visible()
    dashboard.page.keyboard.press("Enter")
    dashboard.expect_screen(r"\$")
    dashboard.type_line("echo alive")
    dashboard.expect_screen("alive.*alive")


def test_the_text_size_is_a_setting(dashboard, session_on):
    """Larger text means fewer rows, at once and after a reload."""
    dashboard.open_terminal(session_on())
    before = rows_of(dashboard)
    dashboard.page.get_by_role("main").get_by_role("button", name="More actions").click()
    dashboard.page.get_by_role("menuitem", name="Larger terminal text").click()
    wait_until(lambda: rows_of(dashboard) < before, "fewer rows")
    after = rows_of(dashboard)
    dashboard.page.reload()
    dashboard.expect_screen("STUB-READY")
    wait_until(lambda: rows_of(dashboard) == after, "the same rows after a reload")
