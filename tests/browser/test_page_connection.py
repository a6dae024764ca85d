"""What the page makes of a connection that is lost: after sleep, on another network, with the server gone and back."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)

OF_A_LOST_SERVER = "ERR_CONNECTION|ERR_INTERNET|ERR_NETWORK|ERR_EMPTY|Failed to load resource|WebSocket connection"
# Milliseconds of the page's own clock, as in lib/pulse.ts and lib/api.ts, with a little more: after so long it asks
# whether what was typed arrived, gives up on an answer, and asks for a list once more.
TYPED_MS, ANSWER_MS, FIRST_TRY_MS = 600, 3_100, 2_600
QUIET_MS = 15_100  # after so long without a word it asks by itself
NOT_CONNECTED = "Disconnected. Typing"
MAYBE_LOST = "what was typed last may not have arrived"


class Road:
    """A TCP proxy between page and server that can be cut without a word, as by sleep or another network.

    Connections that are cut stay open and dead for ever, and so do those that are made until it is mended.
    """

    def __init__(self) -> None:
        self.server_port = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut = threading.Event()
        self._last_straw = b""
        self._open: list[socket.socket] = [self._listener]
        self._start(self._accept)

    def mend(self) -> None:
        """Let what connects from now on through."""
        self.cut = threading.Event()

    def break_off(self) -> None:
        """Stop forwarding, and close nothing."""
        self.cut.set()

    def break_off_at(self, request: bytes) -> None:
        """Stop forwarding as soon as a connection brings these bytes, which do not arrive."""
        self._last_straw = request

    def close(self) -> None:
        """End all connections."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _start(self, run, *arguments: object) -> None:
        threading.Thread(target=run, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                page = self._listener.accept()[0]
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:
                    page.close()
                    continue
                self._open += [page, server]
                for one, other in ((page, server), (server, page)):
                    self._start(self._forward, one, other, self.cut)

    def _forward(self, one: socket.socket, other: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if self._last_straw and self._last_straw in data:
                    self.break_off()
                if not cut.is_set():
                    other.sendall(data)
            if not cut.is_set():
                other.shutdown(socket.SHUT_WR)


@pytest.fixture
def road() -> Iterator[Road]:
    """A road to the server of `dashboard`."""
    made = Road()
    yield made
    made.close()


@pytest.fixture
def dashboard(open_dashboard, road: Road) -> Iterator[Dashboard]:
    """A page that reaches its server over the road."""
    made = open_dashboard(arguments=("--allowed-host", f"127.0.0.1:{road.port}"))
    road.server_port = made.server.port
    yield made
    made.forgive(OF_A_LOST_SERVER)


def open_over(road: Road, dashboard: Dashboard, session: dict, tab: str = "") -> None:
    """Open a session's terminal over the road."""
    dashboard.blank.goto(f"http://127.0.0.1:{road.port}/sessions/{session['id']}{tab}")
    dashboard.expect_screen("STUB-READY" if not tab else r"\$")


def in_rail(dashboard: Dashboard, name: str):
    """A session's line in the sidebar."""
    return dashboard.page.get_by_role("navigation").get_by_role("link", name=re.compile(name))


def test_keys_on_a_dead_connection_are_noticed_and_told(dashboard, session_on, road, make_workspace, bed):
    """The other end is gone without a word: the page finds out by what is typed, says so, and comes back by itself."""
    session = session_on()
    page = dashboard.blank
    page.clock.install()
    open_over(road, dashboard, session)
    dashboard.type_line("before")
    dashboard.expect_screen("echo: before")
    road.break_off()
    dashboard.type_line("into-the-void")
    page.clock.run_for(TYPED_MS + ANSWER_MS)
    expect(page.get_by_text(NOT_CONNECTED)).to_be_visible()
    dashboard.type_line("seen-to-be-lost")
    make_workspace("made-meanwhile")
    dashboard.server.create(dashboard.root / "made-meanwhile")
    road.mend()
    expect(page.get_by_text(MAYBE_LOST)).to_be_visible()
    expect(page.get_by_text(NOT_CONNECTED)).to_be_hidden()
    dashboard.expect_screen("echo: before")
    expect(in_rail(dashboard, "made-meanwhile")).to_be_visible()
    dashboard.type_line("after")
    dashboard.expect_screen("echo: after")
    shown = bed.screen(session["id"])
    assert (shown.count("echo: after"), "void" in shown, "seen-to-be-lost" in shown) == (1, False, False)


def test_a_dead_connection_is_noticed_with_nobody_typing(dashboard, road):
    """The list says within 20 seconds that it may be old, and is current again when the road is."""
    page, heard = dashboard.blank, []
    page.on("websocket", lambda one: one.on("framereceived", lambda frame: heard.append(str(frame))))
    page.clock.install()
    page.goto(f"http://127.0.0.1:{road.port}/")
    expect(page.get_by_role("main")).to_contain_text("my-app")
    wait_until(lambda: page.title() and any("pong" in frame for frame in heard), "the page's first question")
    road.break_off()
    lost = page.get_by_text("Connection to the server lost")
    page.clock.run_for(QUIET_MS + ANSWER_MS)
    if not lost.is_visible():  # a word that was under way when the road broke has begun the quiet time anew
        page.clock.run_for(QUIET_MS + ANSWER_MS)
    expect(lost).to_be_visible()
    dashboard.server.create(dashboard.root / "my-app")
    road.mend()
    expect(page.get_by_text("Connection to the server lost")).to_be_hidden()
    expect(in_rail(dashboard, "my-app")).to_be_visible()


def test_a_first_request_that_was_lost_holds_up_no_later_one(dashboard, road):
    """Chromium lets each request for an address wait for the one before, so the page has to give that one up."""
    page = dashboard.blank
    road.break_off_at(b"GET /api/sessions ")
    page.goto(f"http://127.0.0.1:{road.port}/")
    wait_until(lambda: page.title() and road.cut.is_set(), "the first request to be lost")
    dashboard.server.create(dashboard.root / "my-app")
    road.break_off_at(b"")
    road.mend()
    expect(in_rail(dashboard, "my-app")).to_be_visible()


def test_a_shell_survives_a_sleep_in_which_nothing_was_lost(dashboard, session_on, road):
    """It asks whether the connection holds, and does not end the person's programs by connecting anew."""
    dashboard.blank.clock.install()
    open_over(road, dashboard, session_on(), "/shell")
    page = dashboard.page
    sockets = []
    page.on("websocket", lambda one: sockets.append(one.url))
    dashboard.type_line("kept=still-the-same-shell")
    page.clock.fast_forward("01:00:00")
    dashboard.type_line("echo $kept-")
    dashboard.expect_screen("still-the-same-shell-")
    assert sockets == []


def test_a_page_that_slept_on_a_dead_connection_comes_back(dashboard, session_on, road):
    """While the laptop slept, the network changed and the session was deleted: both are seen within seconds."""
    session = session_on()
    page = dashboard.blank
    page.clock.install()
    open_over(road, dashboard, session)
    road.break_off()
    dashboard.server.delete(f"/api/sessions/{session['id']}?force=true")
    dashboard.server.create(dashboard.root / "my-app", tool="opencode")
    road.mend()
    page.clock.fast_forward("01:00:00")
    with page.expect_websocket(lambda one: "/ws/events" in one.url):
        page.clock.run_for(ANSWER_MS)
    page.clock.run_for(FIRST_TRY_MS)
    expect(in_rail(dashboard, "opencode")).to_be_visible()
    in_rail(dashboard, "opencode").click()
    dashboard.expect_screen("STUB-READY opencode")
    dashboard.type_line("awake")
    dashboard.expect_screen("echo: awake")


def test_another_network_is_taken_up_at_once(dashboard, session_on, road):
    """The browser says that it is online again: what is connected is doubted, what waits is tried."""
    session = session_on()
    dashboard.blank.clock.install()
    open_over(road, dashboard, session)
    road.break_off()
    dashboard.page.context.set_offline(True)
    road.mend()
    with dashboard.page.expect_websocket(lambda one: "/ws/terminal/" in one.url) as again:
        dashboard.page.context.set_offline(False)
        dashboard.page.clock.run_for(ANSWER_MS)
    again.value.wait_for_event("framereceived")
    dashboard.type_line("still here")
    dashboard.expect_screen("echo: still here")


@pytest.mark.day
def test_all_that_is_open_comes_back_after_the_server_did(dashboard, session_on, road, start_server):
    """Terminal and shell are as they were, the list is current, and what is not saved in the editor is still there."""
    session, page = session_on(), dashboard.blank
    open_over(road, dashboard, session)
    dashboard.type_line("before")
    dashboard.expect_screen("echo: before")
    page.get_by_role("link", name="Shell").click()
    dashboard.expect_screen(r"\$")
    dashboard.type_line("kept=the-same-shell")
    page.get_by_role("link", name="Files").click()
    page.get_by_role("treeitem", name="README.md").click()
    text = page.locator(".cm-content")
    text.click()
    page.keyboard.type("first ")
    dashboard.server.stop()
    expect(page.get_by_text("Connection to the server lost")).to_be_visible()
    page.keyboard.type("typed without a server ")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("No answer came")).to_be_visible()
    server = start_server(
        port=None, arguments=("--port", str(road.server_port), "--allowed-host", f"127.0.0.1:{road.port}")
    )
    server.create(dashboard.root / "my-app", tool="opencode")
    expect(page.get_by_text("Connection to the server lost")).to_be_hidden()
    expect(in_rail(dashboard, "opencode")).to_be_visible()
    expect(text).to_contain_text("first typed without a server")
    text.click()
    page.keyboard.press("Control+s")
    expect(page.get_by_text("Not saved")).to_be_hidden()
    expect(page.get_by_text("No answer came")).to_be_hidden()
    wait_until(lambda: "typed without" in (dashboard.root / "my-app" / "README.md").read_text(), "the file")
    page.get_by_role("link", name="Terminal", exact=True).click()
    dashboard.expect_screen("echo: before")
    dashboard.type_line("after")
    dashboard.expect_screen("echo: after")
    page.get_by_role("link", name="Shell").click()
    dashboard.type_line("echo $kept-")
    dashboard.expect_screen("the-same-shell-")


@pytest.mark.parametrize("lost", ["once", "at each look by its own address"])
def test_a_part_of_the_page_that_was_lost_on_its_way_is_fetched_again(open_shared, lost):
    """Browsers keep a failed import for good, so the last try is by another address."""
    dashboard: Dashboard = open_shared()
    page, times = dashboard.page, 1 if lost == "once" else 100
    page.route(re.compile(r"/assets/History-[\w-]+\.js$"), lambda route: route.abort(), times=times)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="History").click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    dashboard.forgive("ERR_FAILED")
