"""The terminal under a heavy or hasty hand: long pastes, composed input, quick switches, several windows."""

from __future__ import annotations

import hashlib
import re

from browser_bed import clear_tool, end_shell
from playwright.sync_api import Page, expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)


def size_on(page: Page) -> str:
    """How many rows the terminal has that a page shows."""
    return str(page.locator(".xterm-rows:visible > div").count())


def rows_in_tmux(bed, session: dict) -> str:
    """How many rows the tool has."""
    return bed.shell(session["id"], "tmux display-message -p -t =clincus-$(hostname): '#{window_height}'").strip()


def test_a_paste_of_a_megabyte_arrives_whole(shell, shared, bed):
    """The server takes no message above 1 MiB: the page sends it in pieces, and nothing is lost or doubled."""
    page = shell.page
    text = "".join(f"{number:06d} {'x' * 72} é\n" for number in range(13_000))
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    shell.type_line("clear; stty -echo; echo rea''dy; cat > /tmp/pasted; stty echo; echo do''ne")
    shell.expect_screen("ready")
    page.keyboard.press("Control+Shift+V")
    page.keyboard.press("Control+d")
    shell.expect_screen("done")
    digest = bed.shell(shared.session["id"], "sha256sum < /tmp/pasted").split()[0]
    assert digest == hashlib.sha256(text.encode()).hexdigest()


def test_composed_input_arrives_once(tool):
    """An input method's intermediate words do not, and a composition that was given up leaves nothing."""
    page = tool.page
    devtools = page.context.new_cdp_session(page)
    for text in ("n", "ni", "你", "", "h", "你好"):
        compose = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
        devtools.send("Input.imeSetComposition", compose)
    devtools.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Enter")
    tool.expect_screen("echo: 你好(?!你)")
    tool.type_line("plain")
    tool.expect_screen("echo: plain")


def test_ctrl_c_is_the_programs_also_with_a_selection(shell):
    """Ctrl+Shift+C copies; Ctrl+C interrupts, and leaves the clipboard alone."""
    page = shell.page
    shell.type_line("clear; echo antidisestablishment; sleep 1000")
    page.evaluate("navigator.clipboard.writeText('nothing')")
    word = page.locator(".xterm-rows:visible > div", has_text=re.compile("^antidis"))
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    wait_until(lambda: "antidis" in page.evaluate("navigator.clipboard.readText()"), "the selection")
    page.evaluate("navigator.clipboard.writeText('nothing')")
    page.keyboard.press("Control+c")
    shell.expect_screen(r"\^C")
    assert page.evaluate("navigator.clipboard.readText()") == "nothing"
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    page.evaluate("navigator.clipboard.writeText('nothing')")
    page.keyboard.press("Control+Shift+C")
    wait_until(lambda: "antidis" in page.evaluate("navigator.clipboard.readText()"), "the copy")


def test_a_selection_is_copied_over_plain_http(shared, open_shared, bed):
    """From another machine browsers hide the clipboard's API: here it is taken away."""
    end_shell(bed, shared.session)
    dashboard = open_shared()
    page = dashboard.page
    page.evaluate("navigator.clipboard.writeText('nothing')")
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })")
    dashboard.open_terminal(shared.session, tab="/shell")
    dashboard.type_line("clear; echo antidisestablishment")
    word = page.locator(".xterm-rows:visible > div", has_text=re.compile("^antidis"))
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    other = page.context.new_page()
    other.goto(dashboard.server.url)
    wait_until(lambda: "antidis" in other.evaluate("navigator.clipboard.readText()"), "the selection")


def test_what_a_program_copies_behind_ones_back_is_offered(shell):
    """A browser refuses the clipboard to a window without focus: the page keeps the text until the person takes it."""
    page = shell.page
    page.evaluate(
        "() => { const write = navigator.clipboard.writeText.bind(navigator.clipboard); navigator.clipboard.writeText ="
        " () => { navigator.clipboard.writeText = write; return Promise.reject(new DOMException('no focus')); }; }"
    )
    shell.type_line(r"clear; printf '\033]52;c;aGVsbG8=\a'")
    toast = page.get_by_role("log", name="Messages")
    expect(toast).to_contain_text("my-app wants to copy 5 characters")
    toast.get_by_role("button", name="Copy").click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()") == "hello", "the clipboard")


def test_a_link_over_several_lines_is_one(shared, open_shared, bed):
    """In the shell, and in the tool through tmux: the whole address is shown and opened."""
    clear_tool(bed, shared.session)
    end_shell(bed, shared.session)
    dashboard = open_shared()
    page, session = dashboard.page, shared.session
    address = f"{dashboard.server.url}/history?q={'a' * 270}end"
    for tab, line in (("/shell", f"clear; echo {address}"), ("", address)):
        dashboard.open_terminal(session, tab=tab)
        dashboard.type_line(line)
        rows = page.locator(".xterm-rows:visible > div", has_text=re.compile("a+end$"))
        rows.last.hover(position={"x": 30, "y": 6}, force=True)
        expect(page.locator(".line .mono:visible")).to_have_text(address)
    with page.context.expect_page() as opened:
        rows.last.click(position={"x": 30, "y": 6}, force=True)
    expect(opened.value).to_have_url(address)


def test_a_hidden_terminal_takes_on_size_and_letters_when_it_is_shown(shell):
    """Larger text and a smaller window, chosen elsewhere: the shell is told once it is looked at."""
    page = shell.page
    before = page.locator(".xterm-rows:visible > div").count()
    page.get_by_role("link", name="History").click()
    page.evaluate("localStorage.setItem('clincus.font-size', '18')")
    page.evaluate("dispatchEvent(new StorageEvent('storage', { key: 'clincus.font-size', newValue: '18' }))")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.go_back()
    wait_until(lambda: page.locator(".xterm-rows:visible > div").count() < before * 0.7, "fewer rows")
    shell.expect_size()


def test_a_resize_while_not_connected_is_made_good(dashboard, session_on, start_server, bed):
    """The window changed while the server was away: the tool has the new size afterwards."""
    session, page = session_on(), dashboard.page
    dashboard.open_terminal(session)
    dashboard.server.stop()
    expect(page.get_by_text("Disconnected. Typing")).to_be_visible()
    page.set_viewport_size({"width": 900, "height": 500})
    start_server(arguments=["--port", str(dashboard.server.port)])
    expect(page.get_by_text("Disconnected. Typing")).to_be_hidden()
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(page), "the new size")
    dashboard.forgive("ERR_CONNECTION|Failed to load resource|WebSocket connection")


def test_of_two_windows_the_one_that_is_looked_at_has_its_size(tool, shared, bed):
    """The tool takes on the size of the window that was opened, typed in or given the focus last."""
    session, large = shared.session, tool.page
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(large), "the size of the first")
    small = large.context.new_page()
    small.set_viewport_size({"width": 800, "height": 400})
    small.goto(large.url)
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(small), "the size of the second")
    large.evaluate("document.activeElement.blur()")
    large.locator(".xterm-helper-textarea:visible").focus()
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(large), "the size of the first, which has the focus")
    small.keyboard.type("x")
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(small), "the size of the second, where one types")
    small.close()
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(large), "the size of the one that is left")
