"""What a session reaches, on the page: refusals of a real proxy."""

from __future__ import annotations

import re

import pytest
from browser_bed import unfold_options
from playwright.sync_api import expect
from test_page_quality import serious

pytest_plugins = ("browser_bed",)

ASK = "http_proxy=http://127.0.0.1:3128 busybox wget -T 5 -q -O /dev/null http://{}/ || true"


@pytest.mark.day
def test_a_new_session_has_an_allow_list_and_what_it_refuses_is_told_and_allowed(bed, dashboard):
    """The list follows from the dialog to the container; a badge tells of a refusal until somebody has looked."""
    page = dashboard.page
    page.emulate_media(reduced_motion="reduce")  # halfway through a fade a text has less contrast
    page.get_by_role("button", name="my-app", exact=True).click()
    dialog = page.get_by_role("dialog", name="New session")
    unfold_options(page)
    dialog.get_by_text("Allow list", exact=True).click()
    dialog.get_by_label("Allowed domains").fill("allowed.example")
    expect(dialog.get_by_role("button", name="Claude Code")).to_have_attribute("aria-pressed", "true")
    dialog.get_by_role("button", name="Start session").click()
    dashboard.expect_screen("STUB-READY")
    (session,) = dashboard.server.get("/api/sessions").json
    address = f"/api/sessions/{session['id']}/network"
    assert dashboard.server.get(address).json["allow"] == ["allowed.example"]

    dashboard.go("/")
    bed.shell(session["id"], ASK.format("tracker.example"))
    page.get_by_role("main").get_by_role("link", name="1 refused").click()
    expect(page).to_have_url(re.compile("/network$"))
    refused = page.get_by_role("list", name="Refused")
    expect(refused).to_contain_text("tracker.example")
    expect(page.get_by_role("navigation", name="Views of this session")).to_have_text(re.compile("Network$"))
    assert serious(page) == []
    refused.get_by_role("button", name="Allow tracker.example").click()
    expect(page.get_by_role("list", name="Allowed names")).to_contain_text("tracker.example")
    expect(refused.get_by_role("button")).to_have_count(0)

    page.get_by_text("No network", exact=True).click()
    expect(page.get_by_text("Within a second all connections end")).to_be_visible()
    page.get_by_role("button", name="Change to No network").click()
    expect(page.get_by_text("Within a second all connections end")).to_have_count(0)
    assert dashboard.server.get(address).json["mode"] == "none"
