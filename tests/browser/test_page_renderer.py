"""Both ways in which the terminal is drawn, by the DOM and by the GPU, and the change between them.

Chromium draws WebGL in software here, which the page takes for slower than the DOM: a made-up name of the GPU lets it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

import pytest
from browser_bed import Dashboard, end_shell
from playwright.sync_api import expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

A_GPU = """
const getParameter = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  return name === 0x9246 /* UNMASKED_RENDERER_WEBGL */ ? 'A GPU' : getParameter.call(this, name);
};
"""
# A canvas has no text to read: the picture's colours have to do. Each with how many pixels it has.
COLOURS = """async (picture) => {
  const bytes = Uint8Array.from(atob(picture), (character) => character.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
  const context = new OffscreenCanvas(image.width, image.height).getContext('2d');
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const counts = {};
  for (let at = 0; at < data.length; at += 4) {
    const colour = [data[at], data[at + 1], data[at + 2]].join(' ');
    counts[colour] = (counts[colour] ?? 0) + 1;
  }
  return counts;
}"""
GPU_CANVAS = "[...document.querySelectorAll('.xterm-screen canvas')].find((one) => one.getContext('webgl2'))"
# What software WebGL and a lost context have to say.
OF_THE_DRIVER = "GL Driver Message|webglcontextlost|webgl context not restored"
SMALL = {"width": 900, "height": 480}  # what software draws costs by the pixel
DARK, LIGHT, CURSOR, SELECTION = "21 22 26", "255 255 255", "157 178 255", "58 74 120"


def colours(dashboard) -> dict[str, int]:
    """How many pixels of the terminal have each colour."""
    picture = dashboard.page.locator(".xterm-screen:visible").screenshot()
    return dict(dashboard.page.evaluate(COLOURS, base64.b64encode(picture).decode()))


def is_drawn_by_gpu(dashboard) -> bool:
    """Whether the shown terminal has the canvas of the GPU, and no text in the DOM."""
    return bool(dashboard.page.evaluate(f"!!{GPU_CANVAS} && !document.querySelector('.xterm-rows')"))


def draw_much(dashboard) -> None:
    """Let the shell draw until the page thinks the GPU worth its bytes.

    A key ends it, since bash forgets a Ctrl-C when the command that it waits for ends well at that moment.
    """
    dashboard.type_line("clear; until read -s -n 1 -t 0.02; do printf '%s\\r' $RANDOM; done")
    wait_until(lambda: is_drawn_by_gpu(dashboard), "the GPU to draw")
    dashboard.type_line("")
    dashboard.type_line("clear")


@pytest.fixture
def shell_drawn_by(bed, shared, open_shared) -> Iterator[Callable[[str], Dashboard]]:
    """A function that opens a shell in the dark theme, drawn by `dom` or `gpu`."""

    def open_shell(renderer: str):
        end_shell(bed, shared.session)
        dashboard = open_shared(color_scheme="dark", viewport=SMALL)
        if renderer == "gpu":
            dashboard.blank.add_init_script(A_GPU)
        dashboard.open_terminal(shared.session, tab="/shell")
        if renderer == "gpu":
            draw_much(dashboard)
        else:
            dashboard.type_line("clear")
        opened.append(dashboard)
        return dashboard

    opened: list[Dashboard] = []
    yield open_shell
    for dashboard in opened:
        dashboard.forgive(OF_THE_DRIVER)


def expect_all_drawn(dashboard: Dashboard) -> None:
    """Colours, cursor and selection are on the screen; a link can be followed; the theme changes under it."""
    page = dashboard.page
    screen = page.locator(".xterm-screen:visible")
    dashboard.type_line(
        r"clear; echo https://example.org/antidisestablishment; printf '\033[48;2;250;120;10m%20s\033[0m\n'"
    )
    wait_until(lambda: colours(dashboard).get("250 120 10", 0) > 1000, "the colour, below the link")
    assert colours(dashboard)[DARK] > 100_000
    wait_until(lambda: colours(dashboard).get(CURSOR, 0) > 50, "the cursor")
    screen.hover(position={"x": 60, "y": 8})
    expect(page.locator(".line .mono:visible")).to_have_text("https://example.org/antidisestablishment")
    page.evaluate("navigator.clipboard.writeText('nothing')")
    screen.dblclick(position={"x": 60, "y": 8})
    wait_until(lambda: "example" in page.evaluate("navigator.clipboard.readText()"), "the selection")
    wait_until(lambda: colours(dashboard).get(SELECTION, 0) > 200, "the selection's colour")
    page.keyboard.press("Escape")
    page.emulate_media(color_scheme="light")

    def is_light() -> bool:
        shown = colours(dashboard)
        return shown.get(LIGHT, 0) > 100_000 and shown.get("250 120 10", 0) > 1000

    wait_until(is_light, "the light theme, with the program's own colour")


def test_the_dom_draws_all(shell_drawn_by):
    dashboard = shell_drawn_by("dom")
    expect_all_drawn(dashboard)
    assert not is_drawn_by_gpu(dashboard)


def test_the_gpu_draws_the_same_and_the_dom_takes_over_when_it_is_lost(shell_drawn_by):
    """After sleep, or with too many terminals: the screen is as it was, and what is typed goes on.

    One test of both: to draw so much that the GPU is worth it takes several seconds of a core.
    """
    dashboard = shell_drawn_by("gpu")
    expect_all_drawn(dashboard)
    assert is_drawn_by_gpu(dashboard)
    dashboard.type_line("clear; printf 'be%s\\n' fore")
    dashboard.page.evaluate(f"{GPU_CANVAS}.getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()")
    dashboard.expect_screen("before")
    assert not is_drawn_by_gpu(dashboard)
    dashboard.type_line("printf 'af%s\\n' ter")
    dashboard.expect_screen("before.*after")
    line = dashboard.page.locator(".xterm-rows:visible > div", has_text=re.compile("^before"))
    line.dblclick(position={"x": 20, "y": 6}, force=True)
    wait_until(lambda: dashboard.page.evaluate("navigator.clipboard.readText()") == "before", "the selection")


def test_without_a_gpu_of_its_own_the_add_on_is_not_even_fetched(bed, shared, open_shared):
    """In software the DOM is faster."""
    end_shell(bed, shared.session)
    dashboard = open_shared(viewport=SMALL)
    fetched = []
    dashboard.blank.on("request", lambda request: fetched.append(request.url))
    dashboard.open_terminal(shared.session, tab="/shell")
    dashboard.type_line("clear; for n in $(seq 400); do printf '%s\\r' $n; read -t 0.02; done; echo do''ne")
    dashboard.expect_screen("done")
    assert [url for url in fetched if "webgl" in url] == []
