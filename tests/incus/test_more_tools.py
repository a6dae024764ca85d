"""The real Codex, Gemini CLI and aider, with a stand-in for their vendors' APIs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_agents import Tool, vendor_on_bridge

from tests.more_tools import mounts
from tests.programs import DEADLINE, wait_until
from tests.vendor_api import VendorApi

# Each takes a minute or two, and to fetch a tool some more; unit/test_other_tools.py has their screens.
pytestmark = [pytest.mark.timeout(1200)]
CODEX = """model = "gpt-5"
model_provider = "local"
[model_providers.local]
name = "local"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
"""
# Without the words that give each tool all permissions.
ASKING = {
    "codex": ["codex", "-c", "check_for_update_on_startup=false", "--ask-for-approval", "on-request"],
    "gemini": ["gemini", "--skip-trust"],
    "aider": ["aider", "--no-check-update", "--no-show-release-notes", "--no-analytics", "--no-git", "--no-gitignore"],
}
PERMISSIONS = {"codex": "touch made", "gemini": "touch made", "aider": "Run shell command?"}
LATER = {"codex": "say hello there", "gemini": "hello there", "aider": "Restored previous conversation history."}


def config_of(name: str, vendor: VendorApi, home: Path, *, asks: bool) -> str:
    """The configuration with a tool at the stand-in for its vendor."""
    (home / ".codex").mkdir(exist_ok=True)
    (home / ".codex/config.toml").write_text(CODEX.format(url=vendor.url))
    (home / ".gemini").mkdir(exist_ok=True)
    (home / ".gemini/settings.json").write_text('{"general": {"maxAttempts": 1}}')  # else it tries for minutes
    (home / ".aider.conf.yml").write_text("model: openai/gpt-4o\n")
    keys = {"OPENAI_API_KEY": "sk-x", "OPENAI_API_BASE": f"{vendor.url}/v1"}
    keys |= {"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": vendor.url}
    environment = ", ".join(f'{key} = "{value}"' for key, value in keys.items())
    own = f"[tools.{name}]\ncommand = {json.dumps(ASKING[name])}\n" if asks else ""
    return f"{mounts(name)}[profiles.real]\nenvironment = {{ {environment} }}\n{own}"


@pytest.fixture
def vendor(bed) -> Iterator[VendorApi]:
    with vendor_on_bridge(bed) as made:
        yield made


@pytest.fixture
def start(bed, start_server, workspace, home, vendor) -> Callable[..., Tool]:
    """A function that starts a tool, and waits until it takes a prompt."""

    def begin(name: str, *, asks: bool) -> Tool:
        server = start_server(config=config_of(name, vendor, home, asks=asks))
        session = server.create(workspace, tool=name, profile="real")
        assert session["protection"] == "locked", session["protection_note"]
        tool = Tool(bed, server, session["id"])
        assert tool.agent()["state"] == "starting"
        tool.becomes("idle", timeout=2 * DEADLINE)
        return tool

    return begin


@pytest.mark.parametrize("name", LATER)
def test_a_tool_without_hooks_tells_what_it_does_and_goes_on_at_a_resume(start, vendor, name):
    tool = start(name, asks=False)
    session = f"/api/sessions/{tool.id}"
    tool.post("prompt", {"text": "say hello there"})
    tool.becomes("done")
    assert any("say hello there" in text for text in vendor.texts)
    tool.post("prompt", {"text": "stall"})
    wait_until(lambda: name == "gemini" or "Let me think" in tool.screen(), "the begin of the answer")
    tool.becomes("working")
    queued = tool.server.post(f"{session}/prompt", {"text": "say later"}).json
    assert queued["result"] == "queued"
    assert tool.server.delete(f"{session}/prompts/{queued['prompt_id']}").status == 204
    tool.post("interrupt")
    tool.becomes("idle", "interrupted")
    tool.post("prompt", {"text": "status 401"})
    tool.becomes("failed", "auth", "stand-in 401")
    tool.post("prompt", {"text": "say goodbye"})
    tool.becomes("done")
    assert tool.server.delete(session).status == 204
    tool.becomes("none")
    tool.post("resume")
    tool.becomes("idle", timeout=2 * DEADLINE)
    wait_until(lambda: LATER[name] in tool.sh(f"tmux capture-pane -p -S - -t =clincus-{tool.id}:"), "the conversation")


@pytest.mark.parametrize("name", PERMISSIONS)
def test_a_tool_without_hooks_that_asks_waits_and_is_answered(start, workspace, name):
    tool = start(name, asks=True)
    tool.post("prompt", {"text": "bash touch made"})
    asked = tool.becomes("waiting", "permission", PERMISSIONS[name])
    assert re.search("Yes|Allow", asked["options"][0])
    refused = tool.server.post(f"/api/sessions/{tool.id}/prompt", {"text": "x"})
    assert "waits for an answer" in refused.json["error"]
    tool.answer(1)
    wait_until((workspace / "made").exists, "what it was allowed to do")
    tool.becomes("done")


# What each tool does by itself until its screen tells of a plan, a question or a dialog.
ENDS = {"codex": "/quit", "gemini": "/quit"}
KILLED = {"codex": "-x codex", "gemini": "-f [b]undle/gemini.js"}  # for pkill
PANELS = {"codex": "Select Model and Effort", "gemini": ""}  # that of Gemini CLI is taller than the screen
CHOICES = {"codex": "Green Like grass", "gemini": "Green"}
PLANS = {"codex": "No, stay in Plan mode", "gemini": "Type your feedback..."}
NO_ACCOUNT = {
    "codex": "env -u OPENAI_API_KEY ~/.local/bin/codex --no-daemon -c model_provider=openai",
    "gemini": "env -u GEMINI_API_KEY ~/.local/bin/gemini --skip-trust",
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_question_of_a_tool_without_hooks_is_told_and_answered(start, name):
    """Codex asks in its plan mode only."""
    tool = start(name, asks=True)
    if name == "codex":
        tool.press_until("BTab", lambda: "Plan mode (" in tool.screen(), "its plan mode")
    tool.post("prompt", {"text": "ask"})
    asked = tool.becomes("waiting", "question", "Which colour do you want?")
    assert (asked["options"][1], asked["seen"]) == (CHOICES[name], False)
    tool.answer(2)
    tool.becomes("done")
    tool.shows("Green")


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_of_a_tool_without_hooks_is_told_and_answered(start, name):
    tool = start(name, asks=True)
    tool.press_until("BTab", lambda: re.search(r"^ plan Shift|Plan mode \(", tool.screen(), re.MULTILINE), "its mode")
    tool.post("prompt", {"text": "plan"})
    asked = tool.becomes("waiting", "plan")
    assert (asked["options"][-1].startswith(PLANS[name]), asked["seen"]) == (True, False)
    tool.answer(2 if name == "gemini" else 3)
    tool.becomes("done")


# Codex takes status 500 for too much demand. Gemini CLI tries again for minutes after 429, 503 and 529, whatever its
# setting `maxAttempts` says.
REASONS = {
    "codex": {402: "billing", 429: "rate_limit", 503: "server_error", 529: "overloaded", 400: "other"},
    "gemini": {402: "billing", 400: "other"},
}


@pytest.mark.parametrize("name", REASONS)
def test_why_a_tool_without_hooks_has_failed_is_told(start, name):
    tool = start(name, asks=False)
    for status, reason in REASONS[name].items():
        tool.type(f"status {status}")
        tool.becomes("failed", reason, str(status), timeout=2 * DEADLINE)


def test_codex_without_a_network_waits_for_one(start, vendor):
    tool = start("codex", asks=False)
    vendor.close()  # nobody takes a connection there any more
    tool.type("say hello")
    tool.becomes("working", "retry", "waiting for network")


@pytest.mark.parametrize("name", PANELS)
def test_what_a_person_opens_in_a_tool_without_hooks_is_told(start, name):
    tool = start(name, asks=False)
    tool.type("/model")
    assert tool.becomes("waiting", "dialog", PANELS[name])["seen"], "a person has opened it"
    tool.press_to_leave("Escape")
    tool.becomes("idle")


@pytest.mark.parametrize("name", ENDS)
def test_a_tool_without_hooks_is_stuck_ends_crashes_and_is_started_again(start, start_server, name):
    tool = start(name, asks=False)
    tool.post("prompt", {"text": "stall"})
    tool.becomes("working")
    tool.is_put_back(start_server)
    tool.becomes("stuck")
    tool.post("interrupt")
    tool.becomes("idle", "interrupted")
    tool.press("C-u")
    tool.type(ENDS[name])
    tool.becomes("ended", text="exit code 0")
    tool.start_again()
    tool.becomes("idle", timeout=2 * DEADLINE)
    tool.sh(f"pkill -KILL {KILLED[name]}")
    tool.becomes("ended", "crashed")


@pytest.mark.parametrize("name", NO_ACCOUNT)
def test_a_tool_without_hooks_and_without_an_account_waits_for_a_login(start, name):
    """It is started by its name, from the shell that it has left."""
    tool = start(name, asks=False)
    tool.type(ENDS[name])
    tool.becomes("ended")
    tool.has_shell()
    tool.press("C-l")
    tool.type(NO_ACCOUNT[name])
    asked = tool.becomes("waiting", "login", timeout=2 * DEADLINE)
    assert not asked["seen"]
