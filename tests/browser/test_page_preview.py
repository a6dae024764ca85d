"""An app of a container in a real Chromium: what it shows, and what it tries against the dashboard."""

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
from test_page_network import SERVE

from tests.dev_server import app_in
from tests.programs import ROOT, wait_until

pytest_plugins = ("browser_bed",)

PORT, OTHER_PORT = 3000, 3001
FRAME = """url => new Promise(done => {
  const frame = Object.assign(document.createElement('iframe'), {src: url, onload: () => done(true)});
  frame.sandbox = 'allow-scripts allow-forms allow-same-origin';
  document.body.append(frame);
})"""


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


def shown_in_frame(page, url: str) -> str:
    """What a frame in a page shows of an address; "" if the browser refuses to show it."""
    page.evaluate(FRAME, url)
    frame = page.frames[-1]
    return "" if frame.url.startswith("chrome-error:") else frame.locator("body").inner_text()


@pytest.mark.day
def test_an_app_is_shown_and_can_do_nothing_to_the_dashboard(bed, dashboard, session_on):
    if bed.folder is None:
        pytest.skip("only root may enter the network of a container")
    server, id = dashboard.server, session_on()["id"]
    path = f"/api/sessions/{id}/ports"
    with app_in(bed, id, "127.0.0.1", PORT, OTHER_PORT):
        wait_until(lambda: len(server.get(path).json["ports"]) == 2, "the apps to listen")
        dashboard.go()
        links = [server.post(f"{path}/{PORT}").json["url"] for _ in range(2)]
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
        other.goto(server.post(f"{path}/{OTHER_PORT}").json["url"])
        assert "Not open" in shown_in_frame(other, f"{host}/"), (
            "the browser keeps the cookie from the page of another app"
        )
        assert server.delete(f"{path}/{PORT}").status == 204
        page.goto(f"{host}/")
        assert page.inner_text("h1") == "Not open"


@pytest.fixture
def away() -> Iterator[str]:
    """The origin of another server; what it was asked for is in `Away.asked`."""
    Away.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


WAYS = {"fetch", "beacon", "image", "script", "style", "prefetch", "frame", "media", "socket", "worker", "form", "kept"}
AHEAD = "ahead"  # loaded ahead by Chromium's speculation rules: see docs/preview.md


def test_the_browser_is_no_way_out_of_a_closed_session(bed, dashboard, session_on, away):
    if bed.folder is None:
        pytest.skip("only root may enter the network of a container")
    server, id = dashboard.server, session_on()["id"]
    path = f"/api/sessions/{id}/ports"
    page = dashboard.page.context.new_page()

    def report() -> dict[str, str]:
        page.goto(f"{page.url.rstrip('/')}/leaks?{away}")
        page.wait_for_function("() => window.report")
        return dict(page.evaluate("window.report"))

    with app_in(bed, id, "127.0.0.1", PORT):
        wait_until(lambda: server.get(path).json["ports"], "the app to listen")
        opened = server.post(f"{path}/{PORT}").json
        assert not opened["confined"]
        page.goto(opened["url"])
        assert report()["own"] == "done"
        wait_until(lambda: {*WAYS, AHEAD, "report"} <= Away.asked, "each way, where the network is open")

        assert server.request("PATCH", f"/api/sessions/{id}", {"network": "none"}).status == 200
        wait_until(lambda: not server.get(path).json["ports"][0]["open"], "the end of the opening")
        opened = server.post(f"{path}/{PORT}").json
        assert opened["confined"]
        assert page.evaluate("fetch('/own').then(answer => answer.status)") == 403, "the page from before"
        page.goto("about:blank")  # what that page may still be about to ask is none of what follows
        Away.asked.clear()
        page.goto(opened["url"])
        said = report()
        assert said["own"] == "done"
        assert Away.asked <= {AHEAD}


LINK = """at => {
  const link = Object.assign(document.createElement('a'), {href: at, target: 'WHERE'});
  document.body.append(link);
  link.click();
}"""
WINDOWS = {
    "opened": "at => { window.open(at); }",
    "linked": LINK.replace("WHERE", "_blank"),
    "top": LINK.replace("WHERE", "_top"),
}


def test_the_page_names_the_ways_that_remain_before_the_click_and_its_preview_opens_no_window(
    bed, dashboard, session_on, away
):
    page, session = dashboard.page, session_on(network="none")
    dashboard.open_terminal(session)
    bed.shell(session["id"], SERVE)
    ports = page.get_by_role("region", name="Ports")
    show = ports.get_by_role("button", name=re.compile("Show port 5173 .*here"))
    expect(show).to_be_visible()
    for words in ("lead your browser to another address", "load one in advance unseen", "connect by WebRTC"):
        expect(ports).to_contain_text(words)
    assert not dashboard.server.get(f"/api/sessions/{session['id']}/ports").json["ports"][0]["open"]

    show.click()
    expect(page.frame_locator("iframe").get_by_role("heading", name="Made in the container")).to_be_visible()
    app = next(frame for frame in page.frames if "-closed-" in frame.url)
    for name, way in WINDOWS.items():
        with page.expect_console_message(lambda message: "sandboxed" in message.text):
            app.evaluate(way, f"{away}/{name}")
    dashboard.forgive("sandboxed")
    with pytest.raises(Error, match="ERR_ABORTED"):  # the answer has no page
        page.context.new_page().goto(f"{away}/last")
    assert Away.asked == {"last"}


def test_in_the_browser_that_the_documents_name_an_app_reaches_nothing_else(
    bed, dashboard, session_on, away, chromium_type
):
    """Chromium asks no proxy for addresses of this machine by itself: its services could be reached."""
    if bed.folder is None:
        pytest.skip("only root may enter the network of a container")
    text = (ROOT / "docs" / "preview.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("$ chromium --user-data-dir="))
    flags = [word for word in shlex.split(line)[2:] if not word.startswith("--user-data-dir=")]
    server, id = dashboard.server, session_on()["id"]
    path = f"/api/sessions/{id}/ports"
    with app_in(bed, id, "127.0.0.1", PORT), launch(chromium_type, chromium(), *flags) as alone:
        wait_until(lambda: server.get(path).json["ports"], "the app to listen")
        opened = server.post(f"{path}/{PORT}").json
        assert not opened["confined"]
        page = alone.new_page()
        page.goto(opened["url"])
        page.goto(f"{page.url.rstrip('/')}/leaks?{away}")
        page.wait_for_function("() => window.report")
        assert page.evaluate("window.report.own") == "done"
        with pytest.raises(Error, match="ERR_PROXY_CONNECTION_FAILED"):
            page.goto(f"{away}/led")
        assert Away.asked == set()
