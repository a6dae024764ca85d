"""The page behind a token, reached under a name where this machine's own user needs it too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect
from test_page_connection import OF_A_LOST_SERVER, Road

pytest_plugins = ("browser_bed",)

FIRST, SECOND = "the-first-token-of-this-test", "the-second-token-of-this-test"


@pytest.fixture
def road():
    made = Road()
    yield made
    made.close()


def write_token(path: Path, token: str) -> None:
    path.write_text(token)
    path.chmod(0o600)


@pytest.fixture
def arguments(road: Road, tmp_path: Path) -> tuple[str, ...]:
    write_token(tmp_path / "token", FIRST)
    return ("--allowed-host", f"127.0.0.1:{road.port}", "--token-file", str(tmp_path / "token"))


@pytest.fixture
def dashboard(open_dashboard, road: Road, arguments):
    made = open_dashboard(arguments=arguments)
    road.server_port = made.server.port
    yield made
    made.forgive(f"{OF_A_LOST_SERVER}|401")


def sign_in(dashboard: Dashboard, token: str) -> None:
    dashboard.blank.get_by_label("Token").fill(token)
    dashboard.blank.get_by_role("button", name="Sign in").click()


@pytest.mark.day
def test_a_person_who_signs_in_can_install_the_page(dashboard, road):
    """The browser reads the manifest, and the icons need no cookie: Safari fetches that of the Home Screen without."""
    page, place = dashboard.blank, f"http://127.0.0.1:{road.port}"
    page.goto(place)
    sign_in(dashboard, "a-wrong-token-with-22-characters")
    expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
    sign_in(dashboard, FIRST)
    expect(page.get_by_role("main")).to_contain_text("my-app")
    assert FIRST not in page.url
    manifest = page.context.new_cdp_session(page).send("Page.getAppManifest")
    assert (json.loads(manifest["data"])["name"], manifest["errors"]) == ("Clincus", [])
    page.context.clear_cookies()
    icon = page.locator('link[rel="apple-touch-icon"]').get_attribute("href")
    assert page.request.get(f"{place}{icon}").status == 200
    assert page.request.get(f"{place}/api/sessions").status == 401


def test_signed_out_is_said_and_mended_where_one_is(dashboard, road, arguments, start_server, tmp_path):
    """Somebody changed the token. A page that is open says so, and leads back to where it was."""
    page, place = dashboard.blank, f"http://127.0.0.1:{road.port}/settings"
    page.goto(place)
    sign_in(dashboard, FIRST)
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    dashboard.server.stop()
    write_token(tmp_path / "token", SECOND)
    start_server(port=None, arguments=("--port", str(road.server_port), *arguments))
    expect(page.get_by_text("You are signed out")).to_be_visible()
    page.get_by_role("button", name="Sign in").click()
    sign_in(dashboard, SECOND)
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    assert page.url == place
    expect(page.get_by_text("You are signed out")).to_be_hidden()
