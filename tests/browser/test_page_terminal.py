"""The terminal on the page: size, colour, clipboard, search, several windows, and a heavy or hasty hand."""

from __future__ import annotations

import hashlib
import re

import pytest
from browser_bed import clear_tool, end_shell
from playwright.sync_api import Locator, Page, expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)


def line_of(page: Page, start: str) -> Locator:
    """The line of the shown terminal that begins with a text."""
    return page.locator(".xterm-rows:visible > div", has_text=re.compile(f"^{start}"))


def clipboard(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def copy(page: Page, text: str) -> None:
    page.evaluate("text => navigator.clipboard.writeText(text)", text)


@pytest.mark.day
def test_size_letters_and_colours_are_right(shell):
    """The tool never saw 80x24. All scripts arrive as they were typed, and colours as the program wants them."""
    page = shell.page
    assert abs(shell.count_rows() * 15 - 720) < 60
    shell.type_line("clear; stty size")
    shell.expect_screen(rf"\b{shell.count_rows()} \d{{3}}")
    page.set_viewport_size({"width": 1280, "height": 600})
    wait_until(lambda: abs(shell.count_rows() * 15 - 520) < 60, "the pane to follow")
    shell.expect_size()
    for text in ("中文字符", "e\u0301tude", "한국어", "naïve — “quotes”"):
        page.keyboard.insert_text(f"printf '<%s>\\n' '{text}'")
        page.keyboard.press("Enter")
        shell.expect_screen(f"<{text}>")
    shell.type_line(r"clear; printf '\033[38;2;250;120;10mtrue\033[0m\n\033[7minverse\033[0m\n'")
    words = page.locator(".xterm-rows span")
    for theme, background in (("dark", "rgb(21, 22, 26)"), ("light", "rgb(255, 255, 255)")):
        page.emulate_media(color_scheme=theme)
        expect(words.filter(has_text=re.compile("^inverse$"))).to_have_css("color", background)
        if theme == "dark":  # where it can be read, no colour is changed
            expect(words.filter(has_text=re.compile("^true$"))).to_have_css("color", "rgb(250, 120, 10)")


@pytest.mark.day
def test_the_clipboard_is_the_persons(shell):
    """A paste is one paste, a selection is copied, Ctrl+C is the program's; a program may write and never read."""
    page = shell.page
    copy(page, "echo one\necho two")
    page.keyboard.press("Control+Shift+V")
    shell.expect_screen("echo one.*echo two")
    assert not re.search(r"^one$", shell.screen(), re.MULTILINE)
    page.keyboard.press("Control+c")
    shell.expect_screen(r"\^C")

    shell.type_line(r"printf '\033]52;c;aGVsbG8=\a'")
    expect(page.get_by_text("copied 5 characters")).to_be_visible()
    assert clipboard(page) == "hello"
    copy(page, "secret")
    shell.type_line(r"clear; printf '\033]52;c;?\a'; read -t 1 -rsd '' answer; printf '%q|e''nd\n' \"$answer\"")
    shell.expect_screen(r"\|end")
    assert "c2VjcmV0" not in shell.screen(), "base64 of what the person has on the clipboard"

    shell.type_line("clear; echo antidisestablishment; sleep 1000")
    line_of(page, "antidis").dblclick(position={"x": 40, "y": 6}, force=True)
    wait_until(lambda: clipboard(page) == "antidisestablishment", "the selection")
    copy(page, "nothing")
    page.keyboard.press("Control+c")
    shell.expect_screen(r"\^C")
    assert clipboard(page) == "nothing"
    line_of(page, "antidis").dblclick(position={"x": 40, "y": 6}, force=True)
    wait_until(lambda: "antidis" in clipboard(page), "the selection")
    copy(page, "nothing")
    page.keyboard.press("Control+Shift+C")
    wait_until(lambda: "antidis" in clipboard(page), "the copy")


@pytest.mark.day
def test_one_looks_back_and_searches_and_goes_on_typing(tool):
    """The wheel shows what has left the screen, for this page alone; the first key is back in the present."""
    page, past = tool.page, tool.page.locator(".past .xterm-rows")
    tool.type_line("flood 10500")
    tool.expect_screen(r"10499\s*10500")
    page.locator(".xterm-screen").hover()
    page.mouse.wheel(0, -900)
    expect(past).not_to_contain_text("10500")
    expect(past).to_contain_text("104")
    page.keyboard.press("Control+Shift+Home")
    expect(past).to_contain_text("499500501")  # 10,000 lines above the screen
    tool.type_line("none of this is lost")
    expect(past).to_have_count(0)
    tool.expect_screen("echo: none of this is lost")

    page.keyboard.press("Control+Shift+F")
    page.keyboard.type("4242")  # at once after the chord
    expect(page.get_by_text("1 of 1", exact=True)).to_be_visible()
    expect(past).to_contain_text("4242")
    page.keyboard.press("Escape")
    expect(past).to_contain_text("4242")
    page.keyboard.press("Escape")
    tool.type_line("nothing was typed")
    tool.expect_screen(r"nothing was typed\s*echo: nothing was typed")


@pytest.mark.day
def test_a_shell_stands_beside_the_tool_and_outlives_its_page(tool, shared, bed):
    """It is a login shell in the project's folder, of which the tool sees nothing. Enter opens another one."""
    end_shell(bed, shared.session)
    page, sockets = tool.page, []
    page.get_by_role("link", name="Shell").click()
    tool.expect_screen(r"\$")
    tool.type_line("pwd; kept=the-same-shell")
    tool.expect_screen("/workspace.*the-same-shell")
    page.reload()
    tool.expect_screen("kept=the-same-shell")
    page.on("websocket", lambda one: sockets.append(one.url))
    page.get_by_role("link", name="History").click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    page.go_back()
    tool.type_line("echo $kept-")
    tool.expect_screen("the-same-shell-")
    assert sockets == [], "no new connection"
    tool.type_line("exit")
    expect(page.get_by_text("Press Enter to open it again")).to_be_visible()
    page.keyboard.press("Enter")
    tool.expect_screen(r"\$")
    tool.type_line("echo alive")
    tool.expect_screen("alive.*alive")
    page.get_by_role("link", name="Terminal", exact=True).click()
    tool.expect_screen("STUB-READY")
    assert "the-same-shell" not in tool.screen()


def test_a_paste_of_a_megabyte_arrives_whole(shell, shared, bed):
    """The server takes no message above 1 MiB: the page sends it in pieces, and nothing is lost or doubled."""
    page = shell.page
    text = "".join(f"{number:06d} {'x' * 72} é\n" for number in range(13_000))
    copy(page, text)
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


def test_a_link_over_several_lines_is_one(shared, open_shared, bed):
    """In the shell, and in the tool through tmux: the whole address is shown and opened, with no way back."""
    clear_tool(bed, shared.session)
    end_shell(bed, shared.session)
    dashboard = open_shared()
    page = dashboard.page
    address = f"{dashboard.server.url}/history?q={'a' * 270}end"
    for tab, line in (("/shell", f"clear; echo {address}"), ("", address)):
        dashboard.open_terminal(shared.session, tab=tab)
        dashboard.type_line(line)
        last = line_of(page, "a+end$").last
        last.hover(position={"x": 30, "y": 6}, force=True)
        expect(page.locator(".line .mono:visible")).to_have_text(address)
    with page.context.expect_page() as opened:
        last.click(position={"x": 30, "y": 6}, force=True)
    expect(opened.value).to_have_url(address)
    assert opened.value.evaluate("window.opener") is None


def test_of_two_windows_the_one_that_is_looked_at_has_its_size(tool, shared, bed):
    """The tool takes on the size of the window that was opened, typed in or given the focus last."""
    large, small = tool.page, tool.page.context.new_page()
    count = "tmux display-message -p -t =clincus-$(hostname): '#{window_height}'"

    def expect_size_of(page: Page, why: str) -> None:
        rows = page.locator(".xterm-rows:visible > div")
        wait_until(lambda: int(bed.shell(shared.session["id"], count)) == rows.count(), why)

    expect_size_of(large, "the size of the first")
    small.set_viewport_size({"width": 800, "height": 400})
    small.goto(large.url)
    expect_size_of(small, "the size of the second")
    large.evaluate("document.activeElement.blur()")
    large.locator(".xterm-helper-textarea:visible").focus()
    expect_size_of(large, "the size of the first, which has the focus")
    small.keyboard.type("x")
    expect_size_of(small, "the size of the second, where one types")
    small.close()
    expect_size_of(large, "the size of the one that is left")
