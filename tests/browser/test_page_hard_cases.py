"""The terminal under a heavy or hasty hand: long pastes, composed input, quick switches, several windows."""

from __future__ import annotations

import hashlib
import re

from playwright.sync_api import Page, expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)


def size_on(page: Page) -> str:
    """How many rows the terminal has that a page shows."""
    return str(page.locator(".xterm-rows:visible > div").count())


def rows_in_tmux(bed, session: dict) -> str:
    """How many rows the tool has."""
    return bed.shell(session["id"], "tmux display-message -p -t =clincus-$(hostname): '#{window_height}'").strip()


def test_a_paste_of_a_megabyte_arrives_whole(dashboard, session_on, bed):
    """The server takes no message above 1 MiB: the page sends it in pieces, and nothing is lost or doubled."""
    session, page = session_on(), dashboard.page
    dashboard.open_terminal(session, tab="/shell")
    text = "".join(f"{number:06d} {'x' * 72} é\n" for number in range(13_000))
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    dashboard.type_line("clear; stty -echo; echo rea''dy; cat > /tmp/pasted; stty echo; echo do''ne")
    dashboard.expect_screen("ready")
    page.keyboard.press("Control+Shift+V")
    page.keyboard.press("Control+d")
    dashboard.expect_screen("done")
    digest = bed.shell(session["id"], "sha256sum < /tmp/pasted").split()[0]
    assert digest == hashlib.sha256(text.encode()).hexdigest()


def test_composed_input_arrives_once(dashboard, session_on):
    """An input method's intermediate words do not, and a composition that was given up leaves nothing."""
    dashboard.open_terminal(session_on())
    page = dashboard.page
    devtools = page.context.new_cdp_session(page)
    for text in ("n", "ni", "你", "", "h", "你好"):
        compose = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
        devtools.send("Input.imeSetComposition", compose)
    devtools.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Enter")
    dashboard.expect_screen("echo: 你好(?!你)")
    dashboard.type_line("plain")
    dashboard.expect_screen("echo: plain")


def test_ctrl_c_is_the_programs_also_with_a_selection(dashboard, session_on):
    """Ctrl+Shift+C copies; Ctrl+C interrupts, and leaves the clipboard alone."""
    dashboard.open_terminal(session_on(), tab="/shell")
    page = dashboard.page
    dashboard.type_line("clear; echo antidisestablishment; sleep 1000")
    word = page.locator(".xterm-rows:visible > div", has_text=re.compile("^antidis"))
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    wait_until(lambda: "antidis" in page.evaluate("navigator.clipboard.readText()"), "the selection")
    page.evaluate("navigator.clipboard.writeText('nothing')")
    page.keyboard.press("Control+c")
    dashboard.expect_screen(r"\^C")
    assert page.evaluate("navigator.clipboard.readText()") == "nothing"
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    page.evaluate("navigator.clipboard.writeText('nothing')")
    page.keyboard.press("Control+Shift+C")
    wait_until(lambda: "antidis" in page.evaluate("navigator.clipboard.readText()"), "the copy")


def test_a_selection_is_copied_over_plain_http(dashboard, session_on):
    """From another machine browsers hide the clipboard's API: here it is taken away."""
    page = dashboard.page
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })")
    dashboard.open_terminal(session_on(), tab="/shell")
    dashboard.type_line("clear; echo antidisestablishment")
    word = page.locator(".xterm-rows:visible > div", has_text=re.compile("^antidis"))
    word.dblclick(position={"x": 40, "y": 6}, force=True)
    other = page.context.new_page()
    other.goto(dashboard.server.url)
    wait_until(lambda: "antidis" in other.evaluate("navigator.clipboard.readText()"), "the selection")


def test_what_a_program_copies_behind_ones_back_is_offered(dashboard, session_on):
    """A browser refuses the clipboard to a window without focus: the page keeps the text until the person takes it."""
    dashboard.open_terminal(session_on(), tab="/shell")
    page = dashboard.page
    page.evaluate(
        "() => { const write = navigator.clipboard.writeText.bind(navigator.clipboard); navigator.clipboard.writeText ="
        " () => { navigator.clipboard.writeText = write; return Promise.reject(new DOMException('no focus')); }; }"
    )
    dashboard.type_line(r"clear; printf '\033]52;c;aGVsbG8=\a'")
    toast = page.get_by_role("log")
    expect(toast).to_contain_text("my-app wants to copy 5 characters")
    toast.get_by_role("button", name="Copy").click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()") == "hello", "the clipboard")


def test_a_link_over_several_lines_is_one(dashboard, session_on):
    """In the shell, and in the tool through tmux: the whole address is shown and opened."""
    page, session = dashboard.page, session_on()
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


def test_a_hidden_terminal_takes_on_size_and_letters_when_it_is_shown(dashboard, session_on):
    """Larger text and a smaller window, chosen elsewhere: the shell is told once it is looked at."""
    dashboard.open_terminal(session_on(), tab="/shell")
    page = dashboard.page
    before = page.locator(".xterm-rows:visible > div").count()
    page.get_by_role("link", name="History").click()
    page.evaluate("localStorage.setItem('clincus.font-size', '18')")
    page.evaluate("dispatchEvent(new StorageEvent('storage', { key: 'clincus.font-size', newValue: '18' }))")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.go_back()
    wait_until(lambda: page.locator(".xterm-rows:visible > div").count() < before * 0.7, "fewer rows")
    dashboard.type_line("clear; stty size")
    dashboard.expect_screen(rf"\b{size_on(page)} \d\d")


def test_keys_typed_while_another_session_connects_reach_no_other(open_dashboard, bed):
    """To and fro between terminals that are opened for the first time, typing at once: nor are they the page's."""
    dashboard = open_dashboard(projects=("one", "two"))
    sessions = [dashboard.server.create(dashboard.root / name) for name in ("one", "two")]
    page = dashboard.page
    links = page.locator("aside section a")
    expect(links).to_have_count(2)
    order = [link.get_attribute("href") for link in links.all()]
    for turn in range(8):
        page.keyboard.press(f"Alt+{turn % 2 + 1}")
        dashboard.type_line(f"not-{turn % 2}")
    for index in (0, 1):
        page.keyboard.press(f"Alt+{index + 1}")
        expect(page).to_have_url(re.compile(f"{order[index]}$"))
        dashboard.expect_screen("STUB-READY")
        dashboard.type_line(f"last-{index}")
        dashboard.expect_screen(f"echo: last-{index}")
    for session in sessions:
        index = order.index(f"/sessions/{session['id']}")
        assert f"not-{1 - index}" not in bed.screen(session["id"])
    assert page.get_by_role("dialog").count() == 0


def test_a_resize_while_not_connected_is_made_good(dashboard, session_on, start_server, bed):
    """The window changed while the server was away: the tool has the new size afterwards."""
    session, page = session_on(), dashboard.page
    dashboard.open_terminal(session)
    dashboard.server.stop()
    expect(page.get_by_text("Not connected, keys go nowhere")).to_be_visible()
    page.set_viewport_size({"width": 900, "height": 500})
    start_server(arguments=["--port", str(dashboard.server.port)])
    expect(page.get_by_text("Not connected, keys go nowhere")).to_be_hidden()
    wait_until(lambda: rows_in_tmux(bed, session) == size_on(page), "the new size")
    dashboard.forgive("ERR_CONNECTION|Failed to load resource|WebSocket connection")


def test_of_two_windows_the_one_that_is_looked_at_has_its_size(dashboard, session_on, bed):
    """The tool takes on the size of the window that was opened, typed in or given the focus last."""
    session, large = session_on(), dashboard.page
    dashboard.open_terminal(session)
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
