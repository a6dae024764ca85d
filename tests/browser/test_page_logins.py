"""The page of the logins: what it lists, checks and takes back, with a session that uses one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from login_box import ADDRESS, Box, Streaming, Vendor, vendor_of
from network_box import command_with_hosts
from playwright.sync_api import Locator, Page, expect
from test_page_quality import TOO_WIDE, serious

from tests.conftest import new_workspace
from tests.more_tools import mounts
from tests.programs import NO_CHECKPOINTS, Server, wait_until

pytest_plugins = ("browser_bed",)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["anthropic", "metered"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
[logins.metered]
hosts = ["other.example"]
header = "x-key"
form = "{{secret}}"
variable = "METERED_KEY"
limit = {{ requests_per_session = 2, usd_per_day = 5.0 }}
from = {{ file = "~/anthropic-key" }}
[logins.absent]
service = "openai"
from = {{ file = "~/nowhere/a-rather-long-path-that-has-to-break-on-a-narrow-phone/and-goes-on/key" }}
"""
CURL = mounts("curl", "/opt/tools/curl")
USAGE = b'{"model": "claude-opus-4-6", "usage": {"input_tokens": 1200, "output_tokens": 34}}\n'
# Holds a request that has no end, and says when it is over.
HOLD = (
    '(/opt/tools/curl/curl -sN -m 60 -H "X-Api-Key: $ANTHROPIC_API_KEY" https://api.anthropic.com/stream >/tmp/stream; '
    'echo "ended $(date +%s.%N)" >>/tmp/stream) >/dev/null 2>&1 &'
)


class Models(Streaming):
    """Says what it cost; and begins an answer that has no end."""

    begin = USAGE


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Vendor]:
    with vendor_of(tmp_path_factory.mktemp("vendors"), (API, "other.example"), Models) as made:
        yield made


@pytest.fixture(scope="module")
def box(bed, start_shared, vendor, tmp_path_factory) -> Iterator[Box]:
    """A session that borrows, on a server whose vendors are ours."""
    root = tmp_path_factory.mktemp("workspaces")
    server: Server = start_shared(
        config=f'[dashboard]\nworkspace_roots = ["{root}"]\n{NO_CHECKPOINTS}{CONFIG}{CURL}',
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    key = server.home / "anthropic-key"
    key.write_text(KEY)
    key.chmod(0o600)
    session = server.create(new_workspace(root / "my-app"), tool="shell")
    with bed.keeping(session["id"]):
        yield Box(bed, server, session["id"])


@pytest.fixture
def open_logins(open_page, box):
    """A function that gives the page of the logins."""

    def open_one(**how: Any) -> Page:
        dashboard = open_page(box.server, box.server.home, **how)
        dashboard.blank.emulate_media(reduced_motion="reduce")
        dashboard.go("/logins")
        return dashboard.blank

    return open_one


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("main").get_by_role("listitem").filter(has=page.get_by_role("heading", name=name))


@pytest.mark.day
@pytest.mark.parametrize("how", [{}, {"phone": True, "color_scheme": "dark"}], ids=["desk", "phone"])
def test_each_login_is_listed_and_checked_on_any_screen(open_logins, box, how):
    """Its place, its hosts and who borrows it; a check reads the value, and says what it found but not the value."""
    page = open_logins(**how)
    expect(row(page, "anthropic")).to_contain_text("A file of yours")
    expect(row(page, "anthropic")).to_contain_text(API)
    expect(row(page, "absent")).to_contain_text("No session")
    row(page, "anthropic").get_by_role("button", name="Check").click()
    expect(row(page, "anthropic")).to_contain_text("Good")
    row(page, "absent").get_by_role("button", name="Check").click()
    expect(row(page, "absent")).to_contain_text("there is no file")
    assert KEY not in page.content()
    assert serious(page) + page.evaluate(TOO_WIDE) == []
    row(page, "anthropic").get_by_role("link", name="my-app").click()
    expect(page).to_have_url(re.compile(f"/sessions/{box.id}/network$"))


@pytest.mark.day
def test_a_revoke_ends_open_connections_and_a_placeholder_elsewhere_is_an_alarm(open_logins, box, vendor):
    box.shell(HOLD)
    wait_until(lambda: "usage" in box.shell("cat /tmp/stream 2>/dev/null || true"), "the begin of an answer")
    page = open_logins()
    expect(row(page, "anthropic")).to_contain_text("Good")
    row(page, "anthropic").get_by_role("button", name="Revoke").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Revoke").click()
    expect(row(page, "anthropic")).to_contain_text("Revoked")
    wait_until(lambda: "ended" in box.shell("cat /tmp/stream"), "the end of the answer")
    field = f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}"
    before = len(vendor.heads)
    assert "it is revoked (clincus login allow anthropic)" in box.ask(API, field)
    assert len(vendor.heads) == before
    row(page, "anthropic").get_by_role("button", name="Allow again").click()
    expect(row(page, "anthropic")).to_contain_text("Good")
    box.ask(API, field)
    assert vendor.heads[-1]["x-api-key"] == KEY
    page.reload()
    expect(row(page, "anthropic")).to_contain_text("1,234 tokens")

    words = f"the placeholder of the login anthropic was in the header cookie, to {API}"
    box.ask(API, f"Cookie: key={box.variable('ANTHROPIC_API_KEY')}")
    expect(page.get_by_text(words)).to_be_visible()
    page.goto(f"/sessions/{box.id}")
    page.get_by_role("button", name="About this session").click()
    expect(page.get_by_role("dialog", name="About my-app")).to_contain_text(f"{words}. The secret was not sent")
    assert KEY not in page.content()


def test_what_was_used_is_shown_with_the_limit(open_logins, box):
    field = f"X-Key: {box.variable('METERED_KEY')}"
    said = [box.ask("other.example", field) for _ in range(3)]
    assert "its limit of 2 requests a session is reached" in said[-1]
    expect(row(open_logins(), "metered")).to_contain_text("2 requests; at most 2 requests a session, 5 dollars a day")
