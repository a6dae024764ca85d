"""A tool asks, and its person is called: by push to each device and by the webhook, until it is seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_agents import TEXT, Tool

from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import NO_CHECKPOINTS, wait_until
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


def test_a_crash_calls_once_and_its_queue_waits(bed, start_server, workspace, service):
    notify = f'[notify]\nwebhook = "{service.webhook("team")}"\n'
    server = start_server(config=NO_CHECKPOINTS + notify, command=SERVER)
    tool = Tool(bed, server, server.create(workspace, name="shop")["id"])
    path = f"/api/sessions/{tool.id}"
    tool.shows("STUB-READY")
    bed.draw(tool.id, CLAUDE_WORKS)
    tool.tells("UserPromptSubmit", prompt="work")
    tool.becomes("working")
    queued = server.post(f"{path}/prompt", {"text": "say later"}).json["prompt_id"]
    tool.sh("pkill -KILL -P $(cut -d ' ' -f 1 ~/.clincus/agent/run)")
    crashed = tool.becomes("ended", "crashed", "exit code 137")
    wait_until(lambda: service.messages, "the call")
    server.stop()
    tool.server = server = start_server(command=SERVER)
    assert tool.becomes("ended", "crashed", "exit code 137")["question"] == crashed["question"]
    tool.start_again()
    tool.shows("STUB-READY")
    bed.draw(tool.id, CLAUDE_RESTS)
    tool.tells("SessionStart", source="resume")
    tool.becomes("idle")
    assert server.delete(f"{path}/prompts/{queued}").status == 204, "it has waited for the person"
    tool.tells("UserPromptSubmit", prompt="once more")
    tool.tells("Stop", last_assistant_message="hello again")
    tool.becomes("done", text="hello again")
    wait_until(lambda: service.messages[1:], "the next call")
    assert [body["title"] for _, body in service.messages] == ["shop has crashed", "shop is done"]
    lines = [one["what"] for one in server.get(f"{path}/log").json]
    assert lines.count("The tool has crashed: exit code 137") == 1
