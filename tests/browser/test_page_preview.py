"""An app of a container in a real Chromium: what it shows, and what it tries against the dashboard and the world."""

from __future__ import annotations

import http.server
import re
import shlex
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from browser_bed import chromium, launch
from playwright.sync_api import Error, expect
from test_page_quality import serious

from tests.dev_server import app_in
from tests.programs import ROOT, wait_until

pytest_plugins = ("browser_bed",)

PORT, OTHER_PORT = 3000, 3001
SERVE = (
    "mkdir -p /tmp/app && echo '<h1>Made in the container</h1>' >/tmp/app/index.html && "
    "setsid busybox httpd -p 127.0.0.1:5173 -h /tmp/app"
)
FRAME = """url => new Promise(done => {
  const frame = Object.assign(document.createElement('iframe'), {src: url, onload: () => done(true)});
  frame.sandbox = 'allow-scripts allow-forms allow-same-origin';
  document.body.append(frame);
})"""
WAYS = {"fetch", "beacon", "image", "script", "style", "prefetch", "frame", "socket", "worker", "form", "kept"}
AHEAD = "ahead"  # loaded ahead by Chromium's speculation rules: see docs/preview.md
LINK = "at => Object.assign(document.createElement('a'), {href: at, target: 'WHERE'}).click()"
WINDOWS = ("at => { window.open(at); }", LINK.replace("WHERE", "_blank"), LINK.replace("WHERE", "_top"))


class Away(http.server.BaseHTTPRequestHandler):
    """Some other server of the world, which notes what it is asked for."""

    asked: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.asked.add(self.path.strip("/"))
        self.send_response(204)
        self.end_headers()

    do_POST = do_OPTIONS = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def away() -> Iterator[str]:
    """The origin of another server; what it was asked for is in `Away.asked`."""
    Away.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def shown_in_frame(page, url: str) -> str:
    """What a frame in a page shows of an address; "" if the browser refuses to show it."""
    page.evaluate(FRAME, url)
    frame = page.frames[-1]
    return "" if frame.url.startswith("chrome-error:") else frame.locator("body").inner_text()


@pytest.fixture
def app(bed, dashboard, session_on) -> Iterator[str]:
    """The path of the ports of a session with an app on two of them."""
    if bed.folder is None:
        pytest.skip("only root may enter the network of a container")
    id = session_on()["id"]
    path = f"/api/sessions/{id}/ports"
    with app_in(bed, id, "127.0.0.1", PORT, OTHER_PORT):
        wait_until(lambda: len(dashboard.server.get(path).json["ports"]) == 2, "the apps to listen")
        yield path


def leaks(page, away: str) -> str:
    """Let the app in a page try all ways to another server; what came of a request to its own."""
    page.goto(f"{page.url.rstrip('/')}/leaks?{away}")
    page.wait_for_function("() => window.report")
    return str(page.evaluate("window.report.own"))


@pytest.mark.day
def test_an_app_is_shown_and_can_do_nothing_to_the_dashboard(dashboard, app):
    server, id = dashboard.server, app.split("/")[3]
    dashboard.go()
    links = [server.post(f"{app}/{PORT}").json["url"] for _ in range(2)]
    host = f"http://{PORT}-{id}.localhost:{server.port}"
    assert '"path": "/"' in shown_in_frame(dashboard.page, links[0]), "in the dashboard's pane"

    page = dashboard.page.context.new_page()
    page.goto(links[1])
    assert page.url == f"{host}/"
    assert '"path": "/"' in page.inner_text("body")

    api, cookie = f"http://localhost:{server.port}", f"clincus-{server.port}"
    page.goto(f"{host}/attacks?{api}&{cookie}")
    page.wait_for_function("() => window.report")
    report = page.evaluate("window.report")
    assert set(report.pop("tossed").split("; ")) == {f"{cookie}=tossed"}, "for its own origin it may"
    assert report == {
        "cookie": "",
        **dict.fromkeys(("write", "form", "look", "read", "socket", "script"), "failed"),
        "worker": f"{host}/",
    }
    assert page.context.cookies(api) == [], "no cookie for localhost"
    assert server.get("/api/workspaces").json["roots"] == [str(dashboard.root)], "nothing was written"
    assert shown_in_frame(page, f"{api}/") == "", "the dashboard in a frame of the app"
    page.reload()
    assert page.evaluate("() => !!navigator.serviceWorker.controller"), "its worker rules its own page"

    other = page.context.new_page()
    other.goto(server.post(f"{app}/{OTHER_PORT}").json["url"])
    assert "Not open" in shown_in_frame(other, f"{host}/"), "the browser keeps the cookie from another app's page"
    assert server.delete(f"{app}/{PORT}").status == 204
    page.goto(f"{host}/")
    assert page.inner_text("h1") == "Not open"


def test_the_browser_is_no_way_out_of_a_closed_session(dashboard, app, away):
    server, page = dashboard.server, dashboard.page.context.new_page()
    opened = server.post(f"{app}/{PORT}").json
    assert not opened["confined"]
    page.goto(opened["url"])
    assert leaks(page, away) == "done"
    wait_until(lambda: {*WAYS, AHEAD, "report"} <= Away.asked, "each way, where the network is open")

    assert server.request("PATCH", app.replace("/ports", ""), {"network": "none"}).status == 200
    wait_until(lambda: not any(one["open"] for one in server.get(app).json["ports"]), "the end of the opening")
    opened = server.post(f"{app}/{PORT}").json
    assert opened["confined"]
    assert page.evaluate("fetch('/own').then(answer => answer.status)") == 403, "the page from before"
    page.goto("about:blank")  # what that page may still be about to ask is none of what follows
    Away.asked.clear()
    page.goto(opened["url"])
    assert leaks(page, away) == "done"
    assert Away.asked <= {AHEAD}


def test_in_the_browser_that_the_documents_name_an_app_reaches_nothing_else(dashboard, app, away, chromium_type):
    """Chromium asks no proxy for addresses of this machine by itself: its services could be reached."""
    text = (ROOT / "docs" / "preview.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("$ chromium --user-data-dir="))
    flags = [word for word in shlex.split(line)[2:] if not word.startswith("--user-data-dir=")]
    with launch(chromium_type, chromium(), *flags) as alone:
        page = alone.new_page()
        page.goto(dashboard.server.post(f"{app}/{PORT}").json["url"])
        assert leaks(page, away) == "done"
        with pytest.raises(Error, match="ERR_PROXY_CONNECTION_FAILED"):
            page.goto(f"{away}/led")
    assert Away.asked == set()


@pytest.mark.day
def test_what_listens_is_a_chip_that_opens_a_tab_and_a_preview(bed, dashboard, session_on, away):
    """Also without a network card. The ways out that remain are named before the click; the preview opens no window."""
    page, session = dashboard.page, session_on(network="none")
    page.emulate_media(reduced_motion="reduce")
    dashboard.open_terminal(session)
    bed.shell(session["id"], SERVE)
    ports = page.get_by_role("region", name="Ports")
    chip = ports.get_by_role("button", name=re.compile(r"Open port 5173 .*in a new tab"))
    expect(chip).to_be_visible()
    for words in ("another address", "in advance", "WebRTC"):
        expect(ports).to_contain_text(words)
    assert not dashboard.server.get(f"/api/sessions/{session['id']}/ports").json["ports"][0]["open"]
    with page.expect_popup() as opened:
        chip.click()
    expect(opened.value.get_by_role("heading", name="Made in the container")).to_be_visible()
    assert opened.value.evaluate("window.opener") is None
    opened.value.close()

    ports.get_by_role("button", name=re.compile("Show port 5173 .*here")).click()
    preview = page.get_by_role("region", name="Preview of port 5173")
    shown = preview.frame_locator("iframe").get_by_role("heading", name="Made in the container")
    expect(shown).to_be_visible()
    preview.get_by_text("Phone", exact=True).click()
    assert preview.locator("iframe").evaluate("frame => frame.offsetWidth") == 390
    preview.get_by_role("button", name="Reload").click()
    expect(shown).to_be_visible()
    assert serious(page) == []
    frame = next(frame for frame in page.frames if "-closed-" in frame.url)
    for way in WINDOWS:
        with page.expect_console_message(lambda message: "sandboxed" in message.text):
            frame.evaluate(way, f"{away}/window")
    dashboard.forgive("sandboxed")
    assert Away.asked == set()
    ports.get_by_role("button", name=re.compile("Close port 5173")).click()
    expect(preview).to_have_count(0)
    expect(ports.get_by_role("button", name=re.compile("Close port 5173"))).to_have_count(0)
