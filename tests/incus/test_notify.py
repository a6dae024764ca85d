"""A tool asks, and its person is called: by push to each device and by the webhook, until it is seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_agents import TEXT, Tool

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
