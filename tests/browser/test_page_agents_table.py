"""Each state of the table with the real Claude Code, as the API, an open page and the command line show it.

What a plain shell is (`unknown`) is seen on one. The other rows are reached by Claude Code 2.1.332 itself. It is held
back before its start, so that `starting` lasts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from test_agents import COLOURS, TEXT, Tool, config_of_claude
from test_page_agents import row_of

from tests.programs import DEADLINE, Server, program, wait_until
from tests.real_tools import real_tool
from tests.vendor_api import VendorApi

pytest_plugins = ("browser_bed",)

HELD = """#!/bin/sh
while [ ! -e ~/go ]; do sleep 0.2; done
exec /opt/tools/claude "$@"
"""
# The page's words where they differ from the state's name: a tool that has ended rings, until somebody looks.
WORDS = {"none": "Stopped", "ended": "(Ended|Needs you)"}
REASONS = {"retry": "tries again", "other": ""}
BACK = "cd ~/.clincus/agent; touch -d '-10 min' screen; perl -pi -e 's/\"at\":(\\d+)/q(\"at\":) . ($1 - 600)/e' events"


def listed(bed: Any, server: Server, id: str) -> dict[str, Any]:
    """The agent of a session in `clincus list`."""
    environ = {**os.environ, **bed.environ, "HOME": str(server.home)}
    argv = [*program(), "list", "--format", "json"]
    none = subprocess.DEVNULL
    done = subprocess.run(argv, env=environ, stdin=none, capture_output=True, check=True, timeout=DEADLINE)
    return next(dict(one["agent"]) for one in json.loads(done.stdout)["active_containers"] if one["name"] == id)


@pytest.fixture
def api(bed):
    """The stand-in for the vendor's API, on the bridge of the bed."""
    address = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
    server = VendorApi(address)
    yield server
    server.close()


@pytest.fixture
def opened(open_dashboard, api, tmp_path):
    """A page on a server whose Claude Code begins when there is a file `go` in its home."""
    held = tmp_path / "held" / "claude"
    held.parent.mkdir()
    held.write_text(HELD)
    held.chmod(0o755)
    config = config_of_claude(api).replace('binary = "/opt/tools/claude"', 'binary = "/opt/held/claude"')
    config += f'[[mounts.default]]\nhost = "{held.parent}"\ncontainer = "/opt/held"\nreadonly = true\n'
    config += f'[dashboard]\nworkspace_roots = ["{tmp_path / "workspaces"}"]\n'
    assert real_tool("claude")
    return open_dashboard(config=config, projects=("my-app", "my-shell"))


def checker(bed: Any, page: Page, tool: Tool) -> Callable[..., dict[str, Any]]:
    """A function that waits for a state in the API, and looks for the same in the page and in the command line."""

    def check(state: str, reason: str = "", text: str = "") -> dict[str, Any]:
        agent = tool.becomes(state, reason, text)
        in_list = next(one for one in tool.server.get("/api/sessions").json if one["id"] == tool.id)["agent"]
        assert (in_list["state"], in_list["reason"]) == (state, reason)
        words = " · ".join(filter(None, (WORDS.get(state, state.title()), REASONS.get(reason, reason))))
        expect(row_of(page).locator(".status")).to_have_attribute("title", re.compile(f"^{words}"))
        shown = listed(bed, tool.server, tool.id)
        assert (shown["state"], shown["reason"], text in shown["text"]) == (state, reason, True)
        return agent

    return check


@pytest.mark.timeout(1200)
def test_each_state_of_the_real_tool_is_the_same_in_api_page_and_command_line(bed, opened):
    server, page = opened.server, opened.page
    tool = Tool(bed, server, server.create(opened.root / "my-app", profile="real")["id"])
    check = checker(bed, page, tool)
    check("starting")
    tool.sh("touch ~/go")
    check("idle")
    tool.type("say hello there")
    check("done", text="hello there")
    with page.expect_response("**/seen"):
        page.keyboard.press("Alt+j")
    page.go_back()
    check("idle", text="hello there")
    tool.type("stall")
    check("working")
    wait_until(lambda: not tool.sh(BACK) and tool.agent()["state"] == "stuck", "stuck")
    check("stuck")
    tool.press("Escape")
    check("idle", "interrupted")
    tool.type("status 529")
    check("working", "retry", "529 stand-in")
    tool.press("Escape")
    check("idle", "interrupted")
    tool.press("C-u")
    tool.type("status 400")
    check("failed", "other", "400")
    tool.type("ask")
    assert check("waiting", "question", TEXT)["options"] == COLOURS
    wait_until(lambda: "Enter to select" in tool.screen(), "the question on the screen")
    row_of(page).get_by_role("button", name="Green").click()
    check("done", text="The tool has answered.")
    tool.choose_mode("manual mode on")
    tool.type("bash touch made")
    check("waiting", "permission", "Bash: touch made")
    tool.answer(1)
    check("done")
    tool.choose_mode("plan mode on")
    tool.type("plan")
    check("waiting", "plan")
    tool.press("Escape")
    check("idle", "interrupted")
    tool.type("/login")
    check("waiting", "login")
    tool.press("Escape")
    wait_until(lambda: tool.agent()["state"] == "idle", "the end of the login")
    tool.sh("pkill -KILL -x claude")
    check("ended", "crashed", "137")
    tool.sh("""sed -i 's/"hasTrustDialogAccepted": *true/"hasTrustDialogAccepted": false/' ~/.claude.json""")
    tool.start_again()
    asked = check("waiting", "dialog", "Is this a project you created or one you trust?")
    tool.answer(asked["options"].index("Yes, I trust this folder") + 1)
    tool.is_ready()
    tool.type("/exit")
    check("ended", text="exit code 0")
    shell = Tool(bed, server, server.create(opened.root / "my-shell", tool="shell")["id"])
    wait_until(lambda: shell.agent()["source"] == "process", "a look at what runs there")  # nothing is known before
    assert shell.becomes("unknown")["source"] == "process"
    assert listed(bed, server, shell.id)["state"] == "unknown"
    assert server.delete(f"/api/sessions/{tool.id}").status == 204
    check("none")
