"""Makes the pictures of docs/dashboard.md, on a real server with real sessions.

    python -m pytest tests/browser/screenshots.py

pytest does not collect this file by itself. Each picture is a PNG of at most 150 kB.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from browser_bed import Dashboard
from playwright.sync_api import expect

pytest_plugins = ("browser_bed",)

DOCS = Path(__file__).resolve().parents[2] / "docs"
MOST_BYTES = 150_000
PROJECTS = ("handbook", "infra", "shop-api", "web-shop")

# What the stand-in of a tool prints, so that the terminal looks like a day's work.
WORK = (
    "printf '\\033[2J\\033[H\\033[1mFix the rounding of totals\\033[0m\\n\\n"
    "\\033[32m●\\033[0m I read cart/total.py and its tests. Each line is rounded before the sum, so three items\\n"
    "  of 0.333 become 0.99. The sum belongs before the rounding.\\n\\n"
    "\\033[2m  cart/total.py\\033[0m\\n"
    "\\033[31m  - total = sum(round(item.price * item.count, 2) for item in items)\\033[0m\\n"
    "\\033[32m  + total = round(sum(item.price * item.count for item in items), 2)\\033[0m\\n\\n"
    "\\033[32m●\\033[0m 41 tests pass. Shall I commit this?\\n\\n'"
)


def save(dashboard: Dashboard, name: str) -> None:
    """Write a picture of the page as it is, without a blinking cursor."""
    path = DOCS / f"{name}.png"
    dashboard.page.wait_for_load_state("networkidle")
    dashboard.page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.stat().st_size <= MOST_BYTES, path


@pytest.fixture
def work(open_dashboard, make_workspace, home):
    """A function that opens a page on four projects with three sessions, one of which waits for an answer."""

    def open_one(**options):
        root = home / "work"
        root.mkdir()
        for name in PROJECTS:
            shutil.move(make_workspace(name), root / name)
        dashboard = open_dashboard(projects=(), config='[dashboard]\nworkspace_roots = ["~/work"]\n', **options)
        server = dashboard.server
        server.create(root / "infra", tool="opencode")
        server.create(root / "web-shop", tool="copilot")
        shop = server.create(root / "shop-api", persistent=True)
        dashboard.open_terminal(shop)
        dashboard.type_line(f"sh {WORK}")
        dashboard.expect_screen("Shall I commit this")
        return dashboard, shop

    return open_one


@pytest.mark.parametrize(("theme", "suffix"), [("light", ""), ("dark", "-dark")])
def test_desktop(work, bed, theme, suffix):
    """A session's terminal, the projects, and the files of a session."""
    dashboard, shop = work(color_scheme=theme)
    save(dashboard, f"dashboard{suffix}")
    if suffix:
        return
    dashboard.go("/")
    bed.shell(shop["id"], f"tmux send-keys -t =clincus-{shop['id']}: 'sh printf \"\\a\"' Enter")
    expect(dashboard.page.get_by_role("main").get_by_text("Needs you").first).to_be_visible()
    expect(dashboard.page.get_by_role("button", name="handbook", exact=True)).to_be_visible()
    save(dashboard, "dashboard-projects")


def test_phone(work):
    """A terminal with the keys that a phone's keyboard lacks."""
    dashboard, _ = work(phone=True, device_scale_factor=2)
    expect(dashboard.page.get_by_role("toolbar", name="Terminal keys")).to_be_visible()
    expect(dashboard.rows).to_have_text(re.compile("commit this"))
    save(dashboard, "dashboard-phone")
