"""What the page and `clincus health` say when a placeholder is out of place, and when copies log each other out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from login_box import ADDRESS, Box, Vendor, vendor_of
from network_box import command_with_hosts
from playwright.sync_api import Page, expect

from tests.conftest import new_workspace
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, program

pytest_plugins = ("browser_bed",)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[logins.anthropic]
from = {{ env = "REAL_KEY" }}
"""


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Vendor]:
    with vendor_of(tmp_path_factory.mktemp("vendors"), (API,)) as made:
        yield made


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return Path(tmp_path_factory.mktemp("workspaces"))


@pytest.fixture(scope="module")
def server(start_shared, vendor, root) -> Server:
    """Its host is signed in to Claude."""
    started: Server = start_shared(
        config=f'[dashboard]\nworkspace_roots = ["{root}"]\n{NO_CHECKPOINTS}{CONFIG}',
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem"), "REAL_KEY": KEY},
    )
    file = started.home / ".claude" / ".credentials.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"claudeAiOauth": {"accessToken": "a", "refreshToken": "b", "expiresAt": 1}}))
    file.chmod(0o600)
    return started


@pytest.fixture
def page(open_page, server, root) -> Page:
    dashboard = open_page(server, root)
    dashboard.blank.emulate_media(reduced_motion="reduce")
    return dashboard.blank


def open_at(page: Page, server: Server, path: str) -> None:
    page.goto(server.url + path)


def about(page: Page, name: str) -> Any:
    """The dialog about the session that is shown."""
    page.get_by_role("button", name="About this session").click()
    return page.get_by_role("dialog", name=f"About {name}")


def test_a_placeholder_that_turns_up_elsewhere_is_an_alarm_on_the_page(page, bed, server, root, vendor):
    session = server.create(new_workspace(root / "borrower"), tool="shell", logins=["anthropic"])
    box = Box(bed, server, session["id"])
    open_at(page, server, f"/sessions/{session['id']}")
    expect(page.get_by_role("button", name="About this session")).to_be_visible()
    before = len(vendor.heads)
    box.ask(API, f"Cookie: key={box.variable('ANTHROPIC_API_KEY')}")
    words = f"the placeholder of the login anthropic was in the header cookie, to {API}"
    expect(page.get_by_text(f"{session['id']}: {words}")).to_be_visible()
    expect(about(page, "borrower")).to_contain_text(f"{words}. The secret was not sent")
    assert len(vendor.heads) == before
    assert KEY not in page.content()


@pytest.fixture
def copies(server, root, tmp_path) -> list[str]:
    """Two running sessions with copies of this host's login."""
    names = [f"{tmp_path.name}-{number}" for number in (1, 2)]
    return [server.create(new_workspace(root / name), tool="claude", name=name)["id"] for name in names]


def test_the_page_warns_of_each_of_two_sessions_with_copies_of_one_login(page, server, copies):
    for id, other in (copies, copies[::-1]):
        open_at(page, server, f"/sessions/{id}")
        name = server.get(f"/api/sessions/{id}").json["name"]
        words = f"it holds a copy of this host's login of claude, as does {other}: the first one that renews it logs"
        expect(about(page, name)).to_contain_text(words)


def test_the_pages_health_warns_of_two_sessions_with_copies_of_one_login(page, server, copies):
    open_at(page, server, "/settings")
    words = f"2 running sessions hold copies of one login of claude: {', '.join(sorted(copies))}"
    expect(page.get_by_text(words)).to_be_visible()


def health(bed, server: Server) -> str:
    """What `clincus health` prints."""
    done = subprocess.run(
        [*program(), "health"],
        env={**os.environ, **bed.environ, "HOME": str(server.home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    return done.stdout


def test_clincus_health_warns_of_two_sessions_with_copies_of_one_login(bed, server, copies):
    said = health(bed, server)
    assert f"2 running sessions hold copies of one login of claude: {', '.join(sorted(copies))}" in said
    assert "Lend it instead: `lend = true` in [logins.claude]" in said


def test_clincus_health_says_nothing_of_one_session_with_a_copy(bed, server, copies):
    assert server.delete(f"/api/sessions/{copies[0]}?force=true").status == 204
    assert "hold copies of one login" not in health(bed, server)
