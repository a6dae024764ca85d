"""The page behind a token, reached under a name where this machine's own user needs it too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect
from road import OF_A_LOST_SERVER, Road

pytest_plugins = ("browser_bed", "road")

FIRST, SECOND = "the-first-token-of-this-test", "the-second-token-of-this-test"


def write_token(path: Path, token: str) -> None:
    path.write_text(token)
    path.chmod(0o600)


def sign_in(dashboard: Dashboard, token: str) -> None:
    dashboard.blank.get_by_label("Token").fill(token)
    dashboard.blank.get_by_role("button", name="Sign in").click()


@pytest.mark.day
def test_a_person_signs_in_installs_the_page_and_signs_in_anew_where_they_are(
    open_dashboard, road: Road, start_server, tmp_path
):
    """The icons need no cookie, as Safari fetches that of the Home Screen without. Then somebody changes the token."""
    write_token(tmp_path / "token", FIRST)
    arguments = ("--allowed-host", f"127.0.0.1:{road.port}", "--token-file", str(tmp_path / "token"))
    dashboard = open_dashboard(arguments=arguments)
    road.server_port = dashboard.server.port
    page, place = dashboard.blank, f"http://127.0.0.1:{road.port}"
    page.goto(f"{place}/settings")
    sign_in(dashboard, "a-wrong-token-with-22-characters")
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    sign_in(dashboard, FIRST)
    settings = page.get_by_role("heading", name="Settings")
    expect(settings).to_be_visible()
    assert FIRST not in page.url

    cdp = page.context.new_cdp_session(page)
    manifest = cdp.send("Page.getAppManifest")
    told = json.loads(manifest["data"])
    assert (told["name"], told["display"], manifest["errors"]) == ("Clincus", "standalone", [])
    assert {icon["sizes"] for icon in told["icons"]} >= {"192x192", "512x512"}
    errors = {error["errorId"] for error in cdp.send("Page.getInstallabilityErrors")["installabilityErrors"]}
    assert errors <= {"in-incognito"}  # the test's own browser context
    cookies = page.context.cookies()
    page.context.clear_cookies()
    icon = page.locator('link[rel="apple-touch-icon"]').get_attribute("href")
    assert page.request.get(f"{place}{icon}").status == 200
    assert page.request.get(f"{place}/api/sessions").status == 401
    page.context.add_cookies(cookies)

    dashboard.server.stop()
    write_token(tmp_path / "token", SECOND)
    start_server(port=None, arguments=("--port", str(road.server_port), *arguments))
    expect(page.get_by_text("You are signed out")).to_be_visible()
    page.get_by_role("button", name="Sign in").click()
    sign_in(dashboard, SECOND)
    expect(settings).to_be_visible()
    assert page.url == f"{place}/settings"
    expect(page.get_by_text("You are signed out")).to_be_hidden()
    dashboard.forgive(f"{OF_A_LOST_SERVER}|401")
