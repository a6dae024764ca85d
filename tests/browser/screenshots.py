"""Makes the pictures of docs/dashboard.md, on a real server with real sessions.

    python -m pytest tests/browser/screenshots.py

pytest does not collect this file by itself. Each picture of the docs is a PNG of at most 150 kB.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from browser_bed import Dashboard, pick_project
from playwright.sync_api import expect
from test_page_network import ASK

from tests.programs import wait_until

pytest_plugins = ("browser_bed",)
pytestmark = pytest.mark.day  # else a run by hand would leave them to the night

DOCS = Path(__file__).resolve().parents[2] / "docs"
MOST_BYTES = 150_000
PROJECTS = ("handbook", "infra", "shop-api", "web-shop")

# What the stand-ins of the tools draw, so that the page looks like a day's work: a question, work, and a prompt.
BORDER = "─" * 40
WORK = [
    "\\033[1mFix the rounding of totals\\033[0m",
    "",
    "\\033[32m●\\033[0m I read cart/total.py and its tests. Each line is rounded before the sum, so three items",
    "  of 0.333 become 0.99. The sum belongs before the rounding.",
    "",
    "\\033[2m  cart/total.py\\033[0m",
    "\\033[31m  - total = sum(round(item.price * item.count, 2) for item in items)\\033[0m",
    "\\033[32m  + total = round(sum(item.price * item.count for item in items), 2)\\033[0m",
    "",
    BORDER,
    "41 tests pass. Shall I commit this?",
    "",
    "❯ 1. Commit",
    "  2. Show the whole diff first",
    "  3. Keep on working",
    "",
    "\\033[2mEnter to select · ↑/↓ to navigate · Esc to cancel\\033[0m",
]
COPILOT_WORKS = [
    *("● Reading src/cart", " /workspace [⎇ main]", BORDER, "❯", BORDER),
    " ◉ Working · 59 B esc esc interrupt",
]
OPENCODE_RESTS = [
    *("  The plan is in PLAN.md.", "  ┃", "  ┃  Ask anything…", "  ┃"),
    *("  ┃  Build · Claude Sonnet 4.5", f"  ╹{'▀' * 40}", "   tab agents  ctrl+p commands"),
]


def save(dashboard: Dashboard, name: str) -> None:
    """Write a picture of the page as it is, without a blinking cursor."""
    path = DOCS / f"{name}.png"
    dashboard.page.wait_for_load_state("networkidle")
    dashboard.page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.stat().st_size <= MOST_BYTES, path


@pytest.fixture
def work(bed, open_dashboard, make_workspace, home):
    """A function that opens a page on four projects with three sessions, one of which waits for an answer."""

    def open_one(**options):
        root = home / "work"
        root.mkdir()
        for name in PROJECTS:
            shutil.move(make_workspace(name), root / name)
        dashboard = open_dashboard(projects=(), config='[dashboard]\nworkspace_roots = ["~/work"]\n', **options)
        server = dashboard.server
        bed.draw(server.create(root / "infra", tool="opencode")["id"], OPENCODE_RESTS)
        bed.draw(server.create(root / "web-shop", tool="copilot")["id"], COPILOT_WORKS)
        shop = server.create(root / "shop-api", persistent=True)
        dashboard.open_terminal(shop)
        bed.draw(shop["id"], WORK)
        dashboard.expect_screen("Shall I commit this")
        expect(dashboard.page.get_by_role("button", name="Show the whole diff first")).to_be_visible()
        return dashboard, shop

    return open_one


@pytest.mark.parametrize(("theme", "suffix"), [("light", ""), ("dark", "-dark")])
def test_desktop(work, bed, theme, suffix):
    """A session's terminal, in both themes; the inbox, and the dialog of a new session."""
    dashboard, _ = work(color_scheme=theme)
    save(dashboard, f"dashboard{suffix}")
    if suffix:
        return
    page = dashboard.page
    dashboard.go("/")
    expect(page.get_by_role("main").get_by_role("button", name="Show the whole diff first")).to_be_visible()
    page.get_by_role("button", name="Last lines").first.click()
    expect(page.locator("main pre")).to_contain_text("41 tests pass")
    save(dashboard, "dashboard-inbox")
    dashboard.go("/projects")
    expect(page.get_by_role("button", name="handbook", exact=True)).to_be_visible()
    page.keyboard.press("n")
    page.get_by_label("First prompt").fill("Explain in the handbook how totals are rounded, with an example.")
    pick_project(page, "handbook")
    expect(page.get_by_role("button", name="Start session")).to_be_enabled()
    save(dashboard, "dashboard-new")


BEFORE = "def total(items):\n    return sum(round(item.price * item.count, 2) for item in items)\n"
AFTER = """\
from decimal import ROUND_HALF_UP, Decimal

CENT = Decimal("0.01")


def total(items):
    amount = sum(item.price * item.count for item in items)
    return amount.quantize(CENT, ROUND_HALF_UP)
"""


def test_changes(work, bed):
    """What a session changed, side by side."""
    dashboard, shop = work()
    page, path = dashboard.page, f"/api/sessions/{shop['id']}"
    wait_until(lambda: dashboard.server.get(f"{path}/checkpoints").json, "the first checkpoint")

    def write(**files: str) -> None:
        for name, text in files.items():
            place = f"/workspace/{name.replace('__', '/')}.py"
            script = f"mkdir -p $(dirname {place}); cat >{place}"
            bed.incus.exec(shop["id"], ["sh", "-c", script], user=1000, stdin=text.encode())

    write(cart__total=BEFORE)
    kept = dashboard.server.post(f"{path}/checkpoints", {}).json["checkpoint"]
    write(cart__total=AFTER, tests__test_total="def test_three_thirds_are_one():\n    ...\n")
    dashboard.go(f"/sessions/{shop['id']}/changes?from={kept}&path=cart%2Ftotal.py")
    expect(page.locator(".cm-merge-b")).to_contain_text("ROUND_HALF_UP")
    save(dashboard, "dashboard-changes")


def test_network(bed, open_dashboard):
    """What a session with an allow list was refused."""
    dashboard = open_dashboard(projects=("shop-api",))
    allow = ["registry.example.com", "*.docs.example.org"]
    session = dashboard.server.create(dashboard.root / "shop-api", network="allow-list", allow=allow)
    for host in ("tracker.example.net", "tracker.example.net", "files.example.com:8443"):
        bed.shell(session["id"], ASK.format(host))
    dashboard.go(f"/sessions/{session['id']}/network")
    expect(dashboard.page.get_by_role("button", name="Allow files.example.com:8443")).to_be_visible()
    save(dashboard, "dashboard-network")


def test_phone(work):
    """A terminal with the keys that a phone's keyboard lacks."""
    dashboard, _ = work(phone=True, device_scale_factor=1.5)
    expect(dashboard.page.get_by_role("toolbar", name="Terminal keys")).to_be_visible()
    expect(dashboard.rows).to_have_text(re.compile("commit this"))
    save(dashboard, "dashboard-phone")
