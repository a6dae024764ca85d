"""A tool asks, and its person is called: by push to each device and by the webhook, until it is seen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from test_agents import TEXT, Tool, api, config_of_claude, config_of_opencode  # noqa: F401  # a fixture

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until
from tests.push_service import PushService
from tests.vendor_api import QUESTION

# Its push services are those of this machine.
SERVER = (sys.executable, str(Path(__file__).parents[1] / "serve_with_local_push.py"))


@pytest.fixture
def service(monkeypatch):
    """The push service and the receiver of the webhook."""
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as running:
        yield running
    assert running.faults == []


@pytest.mark.day
def test_a_question_calls_every_device_and_the_webhook_until_it_is_seen(bed, start_server, workspace, service):
    """The device in use is left alone. Once it is answered at the terminal, no device has anything to show."""
    notify = f'[notify]\nwebhook = "{service.webhook("team")}"\nwith_text = true\n'
    server = start_server(config=NO_CHECKPOINTS + notify, command=SERVER)
    phone, laptop = (
        server.post("/api/push/subscriptions", {"endpoint": service.endpoint(name), "name": name}).json["id"]
        for name in ("phone", "laptop")
    )

    def news(device: str) -> list[tuple[str, str, str]]:
        answer = server.post(f"/api/push/subscriptions/{device}/news", {})
        return [(one["title"], one["text"], one["state"]) for one in answer.json]

    def uses_laptop() -> None:
        """Say that somebody is at the laptop, which holds for a minute."""
        assert server.post(f"/api/push/subscriptions/{laptop}/presence", {"here": True}).status == 204

    tool = Tool(bed, server, server.create(workspace, name="shop")["id"])
    tool.shows("STUB-READY")
    tool.tells("UserPromptSubmit", prompt="ask")
    uses_laptop()
    tool.tells("PermissionRequest", tool_name="AskUserQuestion", tool_input=QUESTION)
    tool.becomes("waiting", "question", TEXT)
    wait_until(lambda: service.pushes and service.messages, "the calls")
    asked = ("shop asks you a question", TEXT, "waiting")
    assert [push.name for push in service.pushes] == ["phone"]
    assert news(phone) == news(laptop) == [asked]
    path, body = service.messages[0]
    assert (path, body["title"], body["text"]) == ("/hook/team", *asked[:2])
    assert body["url"].endswith(f"/sessions/{tool.id}")

    tool.tells("PostToolUse", tool_name="AskUserQuestion")
    uses_laptop()
    tool.tells("Stop", last_assistant_message="The tool has answered.")
    tool.becomes("done", text="The tool has answered.")
    uses_laptop()
    assert server.post(f"/api/sessions/{tool.id}/seen").status == 204
    wait_until(lambda: len(service.pushes) > 1, "the push that lets the locked phone close it")
    assert {push.name for push in service.pushes} == {"phone"}
    assert news(phone) == news(laptop) == []
    tool.tells("UserPromptSubmit", prompt="say it is late")
    uses_laptop()
    tool.tells("Stop", last_assistant_message="it is late")
    tool.becomes("done", text="it is late")
    wait_until(lambda: len(service.messages) == 2, "the next call")
    assert news(phone) == [("shop is done", "it is late", "done")]
    assert [one["last"]["outcome"] for one in server.get("/api/push").json["devices"] if one["last"]] == ["delivered"]


class Crash:
    """A tool at work, with a prompt in its queue, is killed, and a person starts it again."""

    def __init__(self, tool: Tool, service: PushService, start_server: Callable[..., Server]) -> None:
        self._tool, self._service, self._start_server = tool, service, start_server
        self._path = f"/api/sessions/{tool.id}"
        self._queued = ""

    def happens(self) -> None:
        """Its person is called, and a new server knows that."""
        tool = self._tool
        self._queued = tool.server.post(f"{self._path}/prompt", {"text": "say later"}).json["prompt_id"]
        tool.sh("pkill -KILL -P $(cut -d ' ' -f 1 ~/.clincus/agent/run)")
        crashed = tool.becomes("ended", "crashed", "exit code 137")
        wait_until(lambda: self._service.messages, "the call")
        tool.server.stop()
        tool.server = self._start_server(command=SERVER)
        assert tool.becomes("ended", "crashed", "exit code 137")["question"] == crashed["question"]

    def is_told_once(self) -> None:
        """The end of the next turn is the next call. The queue has waited for the person."""
        tool = self._tool
        tool.becomes("done", text="hello again")
        wait_until(lambda: self._service.messages[1:], "the next call")
        assert [body["title"] for _, body in self._service.messages] == ["shop has crashed", "shop is done"]
        lines = [one["what"] for one in tool.server.get(f"{self._path}/log").json]
        assert lines.count("The tool has crashed: exit code 137") == 1

    def cancel(self) -> None:
        """Take the prompt out of the queue: 409 if it was sent."""
        assert self._tool.server.delete(f"{self._path}/prompts/{self._queued}").status == 204


@pytest.fixture
def start_shop(bed, start_server, workspace, service) -> Callable[..., Tool]:
    """A function that starts a tool in a session named shop, on a server that calls by the webhook."""

    def start(config: str = "", **fields: str) -> Tool:
        notify = f'[notify]\nwebhook = "{service.webhook("team")}"\n'
        server = start_server(config=NO_CHECKPOINTS + notify + config, command=SERVER)
        return Tool(bed, server, server.create(workspace, name="shop", **fields)["id"])

    return start


def test_a_crash_calls_once_and_its_queue_waits(bed, start_shop, start_server, service):
    tool = start_shop()
    tool.shows("STUB-READY")
    bed.draw(tool.id, CLAUDE_WORKS)
    tool.tells("UserPromptSubmit", prompt="work")
    tool.becomes("working")
    crash = Crash(tool, service, start_server)
    crash.happens()
    tool.start_again()
    tool.shows("STUB-READY")
    bed.draw(tool.id, CLAUDE_RESTS)
    tool.tells("SessionStart", source="resume")
    tool.becomes("idle")
    crash.cancel()
    tool.tells("UserPromptSubmit", prompt="once more")
    tool.tells("Stop", last_assistant_message="hello again")
    crash.is_told_once()


def test_a_crash_of_the_real_tool_calls_once_and_its_queue_waits(start_shop, start_server, service, api):  # noqa: F811
    tool = start_shop(config_of_claude(api), profile="real")
    tool.is_ready()
    tool.type("stall")
    tool.becomes("working")
    crash = Crash(tool, service, start_server)
    crash.happens()
    tool.start_again()
    tool.is_ready()
    crash.cancel()
    tool.type("say hello again")
    crash.is_told_once()


def test_a_turn_of_opencode_is_over_when_its_last_sub_agent_has_ended(start_shop, service, workspace, home, api):  # noqa: F811
    """The first one ends at once, the second one fails, and the third one takes longer than a call waits."""
    tool = start_shop(config_of_opencode(api, home), profile="real")
    tool.becomes("idle", timeout=4 * DEADLINE)
    tool.post("prompt", {"text": "delegate say one | status 400 | bash sleep 20; touch last"})
    done = tool.becomes("done", timeout=2 * DEADLINE)
    assert {"say one", "status 400", "bash sleep 20; touch last"} <= set(api.texts)
    assert (
        datetime.fromisoformat(done["since"].replace("Z", "+00:00")).timestamp() >= (workspace / "last").stat().st_mtime
    )
    wait_until(lambda: service.messages, "the call")
    tool.post("seen")
    tool.post("prompt", {"text": "say hello"})
    wait_until(lambda: service.messages[1:], "the next call")
    assert [body["title"] for _, body in service.messages] == ["shop is done"] * 2
    log = reversed(tool.server.get(f"/api/sessions/{tool.id}/log").json)
    told = [one["what"] for one in log if one["kind"] == "agent"]
    turn = ["The tool works", "The tool is done"]
    assert told[told.index("The tool works") :] == [*turn, "The tool waits for a prompt", *turn]
