"""A real Chromium in front of a real server on a real Incus.

    dashboard        a server whose workspace root is this test's own folder, and a page that shows it.
    open_dashboard   the same as a function: `open_dashboard(phone=True, checkpoints=True, config="…")`.
    session_on       a function that starts a session over the API and gives its object.
    shared           the server and the session of a file, for those of its tests that leave both as they found them or
                     use another part: `shared.session`. Each has a page of its own: `open_shared(phone=True)`.
    tool             a page on the tool of that session, whose screen is empty but for STUB-READY.
    shell            a page on a shell of that session that has just begun.

Every test fails when the page wrote an error to the console, beyond the failed requests that the test expects. A test
that fails leaves a trace (`playwright show-trace`), a picture of the page and the server's log in test-results/.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Error, Locator, Page, expect, sync_playwright

from tests.conftest import new_workspace
from tests.incus_bed import Bed, unavailable
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server

RESULTS = Path(__file__).resolve().parents[2] / "test-results"
FAILED = pytest.StashKey[bool]()
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 800}}
# As root Chromium needs --no-sandbox; the rest keeps it from asking the internet for anything.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MOUNTED = "#app > *, form"  # the page's script has run, or there is a token to give
# What a busy machine makes the page complain of: the terminal's library is late, or a container with its ports.
SLOW = r"task queue exceeded allotted deadline|status of 504 .*/ports\)"

expect.set_options(timeout=DEADLINE * 1000)


def chromium(*preferred: str) -> str:
    """The system's Chromium, or a program of it that is preferred where it is installed."""
    for name in (*preferred, "chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    unavailable("chromium is not installed; run `apt-get install chromium`")
    return ""


def launch(chromium_type: BrowserType, path: str, *flags: str) -> Browser:
    """Start a Chromium that hears nothing of the interfaces that containers add beside it."""
    return chromium_type.launch(
        executable_path=Path(__file__).with_name("chromium-without-netlink"),
        args=[*FLAGS, *flags],
        env={**os.environ, "CLINCUS_TEST_CHROMIUM": path},
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixtures of a test know that it failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def chromium_type() -> Iterator[BrowserType]:
    """What starts a Chromium."""
    with sync_playwright() as playwright:
        yield playwright.chromium


class Chromium:
    """A Chromium for many tests. One that has closed fails the test that it closed in, and is started again."""

    def __init__(self, chromium_type: BrowserType, path: str) -> None:
        self._start = lambda: launch(chromium_type, path)
        self.running = self._start()
        self.closed = 0  # times

    def new_context(self, **options: Any) -> BrowserContext:
        """A context of the Chromium that runs, or else of a new one."""
        try:
            return self.running.new_context(**options)
        except Error:
            if self.running.is_connected():
                raise
        self.closed += 1
        self.running = self._start()
        return self.running.new_context(**options)


@contextmanager
def one_chromium(chromium_type: BrowserType, path: str, note: Callable[[str], None]) -> Iterator[Chromium]:
    """A Chromium until the end of the block. The summary of the run says how often it had to be started again."""
    made = Chromium(chromium_type, path)
    yield made
    made.running.close()
    if made.closed:
        note(f"Chromium closed and was started again: {made.closed} times")


@pytest.fixture(scope="session")
def browser(chromium_type: BrowserType, note) -> Iterator[Chromium]:
    """One Chromium for all tests: that without windows, in which a page takes less than half of the time."""
    with one_chromium(chromium_type, chromium("chromium-headless-shell"), note) as made:
        yield made


@pytest.fixture(scope="module")
def whole_browser(chromium_type: BrowserType, note) -> Iterator[Chromium]:
    """The whole Chromium, for what the other one lacks."""
    with one_chromium(chromium_type, chromium(), note) as made:
        yield made


class Wire:
    """Counts what a page's HTTP answers take on the wire, headers included."""

    def __init__(self, page: Page) -> None:
        self.bytes = 0
        self.answers = 0  # in all
        self.paths: set[str] = set()  # of the answers, each one once
        self._path_of: dict[str, str] = {}  # of an answer, by its id
        cdp = page.context.new_cdp_session(page)
        cdp.send("Network.enable")
        cdp.on("Network.responseReceived", self._note)
        cdp.on("Network.loadingFinished", self._count)

    def _note(self, event: dict[str, Any]) -> None:
        self._path_of[event["requestId"]] = urlsplit(event["response"]["url"]).path

    def _count(self, event: dict[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])
        self.answers += 1
        self.paths.add(self._path_of.get(event["requestId"], event["requestId"]))

    def take(self) -> int:
        """The bytes since the last call."""
        counted, self.bytes = self.bytes, 0
        return counted


@dataclass
class Dashboard:
    """A page of the dashboard, with the server behind it. `errors` is what the page complained of."""

    blank: Page  # the page before it has been anywhere
    server: Server
    root: Path  # its only workspace root
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blank.on("console", self._hear)
        self.blank.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def _hear(self, message: Any) -> None:
        said = f"{message.type}: {message.text} ({message.location.get('url', '')})"
        if message.type in {"error", "warning"} and not re.search(SLOW, said):
            self.errors.append(said)

    @property
    def page(self) -> Page:
        """The page. It opens at the inbox, unless it has gone elsewhere: each load is half a second of a core."""
        if self.blank.url == "about:blank":
            self.go()
        return self.blank

    def keep(self, folder: Path) -> None:
        """Write down what there is to see of a failure."""
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(Error):  # the page may hang or be closed: its trace is still there
            self.blank.screenshot(path=folder / "page.png", timeout=5_000)
            (folder / "page.html").write_text(self.blank.content(), encoding="utf-8", errors="replace")
        with suppress(Error):
            self.blank.context.tracing.stop(path=folder / "trace.zip")
        (folder / "server.log").write_text(self.server.log())

    def close(self) -> None:
        """Close the page and its context."""
        with suppress(Error):  # its trace is kept already; one that goes on leaves a folder behind
            self.blank.context.tracing.stop()
        with suppress(Error):  # Chromium has closed
            self.blank.context.close()

    def go(self, path: str = "/") -> None:
        """Open a place by its address, and wait until the page takes keys: its script may begin after the load."""
        self.blank.goto(self.server.url + path)
        self.blank.wait_for_selector(MOUNTED, state="attached")

    @property
    def rows(self) -> Locator:
        """The lines of the terminal that is shown. The past, where one looks back at it, lies over the present."""
        return self.page.locator(".xterm-rows:visible").last

    def screen(self) -> str:
        """The text of the terminal that is shown."""
        return self.rows.inner_text().replace("\xa0", " ")

    def expect_screen(self, pattern: str) -> None:
        """Wait until the shown terminal's text matches."""
        expect(self.rows).to_have_text(re.compile(pattern))

    def open_terminal(self, session: dict[str, Any], tab: str = "") -> None:
        """Open a session's terminal and wait until the tool can be typed to."""
        self.go(f"/sessions/{session['id']}{tab}")
        self.expect_screen("STUB-READY" if not tab else r"\$")

    def count_rows(self) -> int:
        """How many lines the terminal has that is shown."""
        return self.page.locator(".xterm-rows:visible > div").count()

    def expect_size(self) -> None:
        """Wait until the shell has as many rows as are shown: keys may overtake a new size, which goes another way."""
        rows = self.count_rows()
        self.type_line(f"clear; until stty size | grep '^{rows} '; do sleep 0.1; done")
        self.expect_screen(rf"\b{rows} \d+")

    def type_line(self, text: str) -> None:
        """Type into what has the focus, as a person does."""
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def forgive(self, pattern: str) -> None:
        """Take back console errors that belong to a failure that the test made."""
        self.errors[:] = [error for error in self.errors if not re.search(pattern, error)]


@pytest.fixture
def open_page(browser: Chromium, request: pytest.FixtureRequest) -> Iterator[Callable[..., Dashboard]]:
    """A function that gives a page, in a browser context of its own, on a server that runs."""
    opened: list[Dashboard] = []

    def open_one(server: Server, root: Path, *, phone: bool = False, **context: Any) -> Dashboard:
        made = browser.new_context(base_url=server.url, **{**(PHONE if phone else DESK), **context})
        made.set_default_timeout(DEADLINE * 1000)
        made.tracing.start()  # pictures of each step would take a twelfth of the time of all tests
        made.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        opened.append(Dashboard(made.new_page(), server, root))
        return opened[-1]

    yield open_one
    errors = [error for dashboard in opened for error in dashboard.errors]
    name = re.sub(r"[^\w.-]+", "-", request.node.name)
    for number, dashboard in enumerate(opened):
        if errors or request.node.stash.get(FAILED, False):
            dashboard.keep(RESULTS / f"{name}-{number}")
        dashboard.close()
    assert errors == [], f"the page wrote errors to the console: {errors}"


@pytest.fixture
def open_dashboard(open_page, start_server, make_workspace, tmp_path: Path) -> Callable[..., Dashboard]:
    """A function that starts a server with one workspace root and gives a page on it."""

    def open_one(
        *,
        projects: tuple[str, ...] = ("my-app",),
        config: str | None = None,
        arguments: tuple[str, ...] = (),
        checkpoints: bool = False,
        **page: Any,
    ) -> Dashboard:
        root = tmp_path / "workspaces"
        root.mkdir(exist_ok=True)
        for name in projects:
            make_workspace(name)
        if config is None:
            config = f'[dashboard]\nworkspace_roots = ["{root}"]\n{"" if checkpoints else NO_CHECKPOINTS}'
        return open_page(start_server(config=config, arguments=arguments), root, **page)

    return open_one


@pytest.fixture
def dashboard(open_dashboard) -> Dashboard:
    """A page on a server with one project, `my-app`, and no session."""
    return open_dashboard()


@pytest.fixture
def session_on(dashboard: Dashboard):
    """A function that starts a session on a project of the root and gives its object."""
    return lambda name="my-app", **fields: dashboard.server.create(dashboard.root / name, **fields)


def pick_project(page: Page, text: str) -> None:
    """Choose a project in the dialog of a new session, by its name or its path."""
    dialog = page.get_by_role("dialog", name="New session")
    chip = dialog.get_by_role("button", name=re.compile("^(Project:|Choose a project)"))
    if chip.get_attribute("aria-expanded") != "true":
        chip.click()
    dialog.get_by_label("Project or path").fill(text)
    page.keyboard.press("Enter")
    expect(chip).to_have_attribute("aria-expanded", "false")


def unfold_options(page: Page) -> None:
    """Show what is seldom chosen in the dialog of a new session."""
    page.get_by_role("dialog", name="New session").locator("summary").click()


@dataclass
class Shared:
    """What the tests of a file share."""

    server: Server
    root: Path  # the only workspace root, with the project `my-app`
    session: dict[str, Any]  # of that project


@pytest.fixture(scope="module")
def shared_by_file(bed: Bed, start_shared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A server without checkpoints, and a session."""
    root = tmp_path_factory.mktemp("workspaces")
    server = start_shared(config=f'[dashboard]\nworkspace_roots = ["{root}"]\n{NO_CHECKPOINTS}')
    session = server.create(new_workspace(root / "my-app"))
    with bed.keeping(session["id"]):
        # What a test writes at the place of the conversation before the tool has begun is put aside.
        bed.await_screen(session["id"], "STUB-READY")
        yield Shared(server, root, session)


@pytest.fixture
def shared(shared_by_file: Shared) -> Shared:
    """The same. The session runs, also after a test that stopped it and failed."""
    path = f"/api/sessions/{shared_by_file.session['id']}"
    if shared_by_file.server.get(path).json["status"] != "running":
        assert shared_by_file.server.post(f"{path}/resume").status == 200
    return shared_by_file


@pytest.fixture
def open_shared(shared: Shared, open_page) -> Callable[..., Dashboard]:
    """A function that gives a page on the server of the file."""
    return lambda **page: open_page(shared.server, shared.root, **page)


def clear_tool(bed: Bed, session: dict[str, Any]) -> None:
    """Empty the screen of the tool, and what has left it, but for STUB-READY. A pane that is scrolled takes no keys.

    The page of a test before may scroll it just after it was told to leave that mode: what is typed is lost then.
    """
    target = f"-t =clincus-{session['id']}:"
    leave = f"tmux if-shell -F {target} '#{{pane_in_mode}}' 'send-keys {target} -X cancel'"
    clear = "sh printf '\\033[2J\\033[HSTUB-READY\\n'; tmux clear-history; tmux wait-for -S cleared-"
    afresh = f"tmux send-keys {target} C-u"  # a test that failed may have left half a line
    typed = f'{afresh} \\; send-keys {target} -l {shlex.quote(clear)}"$channel" \\; send-keys {target} Enter'
    attempt = f'channel=$$-$n; {leave}; {typed}; timeout 10 tmux wait-for "cleared-$channel" && exit'
    bed.shell(session["id"], f"for n in 1 2 3 4; do {attempt}; done; exit 1")


def end_shell(bed: Bed, session: dict[str, Any]) -> None:
    """End the session's shell, if there is one: the next one that is opened has just begun."""
    bed.shell(session["id"], f"tmux kill-session -t =clincus-shell-{session['id']} 2>/dev/null || true")


@pytest.fixture
def tool(bed: Bed, shared: Shared, open_shared) -> Dashboard:
    """A page on the tool of the file's session, whose screen is empty."""
    clear_tool(bed, shared.session)
    dashboard: Dashboard = open_shared()
    dashboard.open_terminal(shared.session)
    return dashboard


@pytest.fixture
def shell(bed: Bed, shared: Shared, open_shared) -> Dashboard:
    """A page on a shell of the file's session that has just begun."""
    end_shell(bed, shared.session)
    dashboard: Dashboard = open_shared()
    dashboard.open_terminal(shared.session, tab="/shell")
    return dashboard


# What the stand-in of a tool draws as a question, with two answers.
QUESTION = [
    "Which colour do you want?",
    "❯ 1. Red",
    "  2. Green",
    "",
    "Enter to select · ↑/↓ to navigate · Esc to cancel",
]
# The stand-in shows nothing that a real tool shows: its state is not known yet, and later known not to be known.
ALIVE = re.compile("Starting|Running")


def row_of(page: Page) -> Locator:
    """The line of the session in the list of the first page."""
    return page.get_by_role("main").get_by_role("listitem").filter(has=page.get_by_role("link", name="my-app")).first
