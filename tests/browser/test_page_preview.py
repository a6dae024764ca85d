"""An app of a container in a real Chromium: what it shows, and what it tries against the dashboard."""

from __future__ import annotations

import pytest

from tests.dev_server import app_in
from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

PORT, OTHER_PORT = 3000, 3001
FRAME = """url => new Promise(done => {
  const frame = Object.assign(document.createElement('iframe'), {src: url, onload: () => done(true)});
  frame.sandbox = 'allow-scripts allow-forms allow-same-origin';
  document.body.append(frame);
})"""


def shown_in_frame(page, url: str) -> str:
    """What a frame in a page shows of an address; "" if the browser refuses to show it."""
    page.evaluate(FRAME, url)
    frame = page.frames[-1]
    return "" if frame.url.startswith("chrome-error:") else frame.locator("body").inner_text()


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
