"""The terminal drawn by the GPU, and by the DOM when that is lost.

Chromium draws WebGL in software here, which the page takes for slower than the DOM: a made-up name of the GPU lets it.
"""

from __future__ import annotations

from browser_bed import Dashboard, end_shell

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

A_GPU = """
const getParameter = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  return name === 0x9246 /* UNMASKED_RENDERER_WEBGL */ ? 'A GPU' : getParameter.call(this, name);
};
"""
GPU_CANVAS = "[...document.querySelectorAll('.xterm-screen canvas')].find((one) => one.getContext('webgl2'))"
# What software WebGL and a lost context have to say.
OF_THE_DRIVER = "GL Driver Message|webglcontextlost|webgl context not restored"
SMALL = {"width": 900, "height": 480}  # what software draws costs by the pixel
DRAW_MUCH = "clear; until read -s -n 1 -t 0.02; do printf '%s\\r' $RANDOM; done"  # until the next key


def test_the_gpu_draws_what_is_worth_it_and_the_dom_takes_over_when_it_is_lost(bed, shared, open_shared):
    """As after sleep, or with too many terminals: the screen is as it was, and what is typed goes on.

    Without a GPU of its own the part for it is not even fetched.
    """
    for gpu in ("", A_GPU):
        end_shell(bed, shared.session)
        dashboard: Dashboard = open_shared(viewport=SMALL)
        page, fetched = dashboard.blank, []
        page.on("request", lambda request, fetched=fetched: fetched.append(request.url))
        page.add_init_script(gpu)
        dashboard.open_terminal(shared.session, tab="/shell")
        if not gpu:
            dashboard.type_line("clear; for n in $(seq 400); do printf '%s\\r' $n; read -t 0.02; done; echo do''ne")
            dashboard.expect_screen("done")
            assert [url for url in fetched if "webgl" in url] == []
    dashboard.type_line(DRAW_MUCH)
    drawn_by_gpu = f"!!{GPU_CANVAS} && !document.querySelector('.xterm-rows')"
    wait_until(lambda: page.evaluate(drawn_by_gpu), "the GPU to draw")
    dashboard.type_line("")
    dashboard.type_line("clear; printf 'be%s\\n' fore")
    page.evaluate(f"{GPU_CANVAS}.getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()")
    dashboard.expect_screen("before")
    assert not page.evaluate(drawn_by_gpu)
    dashboard.type_line("printf 'af%s\\n' ter")
    dashboard.expect_screen("before.*after")
    dashboard.forgive(OF_THE_DRIVER)
