"""A real Claude Code asks, and its person is called: by push to each device and by the webhook, until it is seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_agents import TEXT, Tool, api, config_of_claude  # noqa: F401 (`api` is a fixture)

from tests.programs import wait_until
from tests.push_service import PushService

# Its push services are those of this machine.
SERVER = (sys.executable, str(Path(__file__).parents[1] / "serve_with_local_push.py"))


@pytest.fixture
def service(monkeypatch):
    """The push service and the receiver of the webhook."""
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as running:
        yield running
    assert running.faults == []


def test_a_question_calls_every_device_and_the_webhook_until_it_is_seen(bed, start_server, workspace, service, request):
    """The device in use is left alone. Once it is answered at the terminal, no device has anything to show."""
    notify = f'[notify]\nwebhook = "{service.webhook("team")}"\nwith_text = true\n'
    server = start_server(config=config_of_claude(request.getfixturevalue("api")) + notify, command=SERVER)
    phone, laptop = (
        server.post("/api/push/subscriptions", {"endpoint": service.endpoint(name), "name": name}).json["id"]
        for name in ("phone", "laptop")
    )

    def news(device: str) -> list[tuple[str, str, str]]:
        answer = server.post(f"/api/push/subscriptions/{device}/news", {})
        return [(one["title"], one["text"], one["state"]) for one in answer.json]

    tool = Tool(bed, server, server.create(workspace, profile="real", name="shop")["id"])
    tool.becomes("idle")
    assert server.post(f"/api/push/subscriptions/{laptop}/presence", {"here": True}).status == 204
    tool.type("ask")
    tool.becomes("waiting", "question", TEXT)
    wait_until(lambda: service.pushes and service.messages, "the calls")
    asked = ("shop asks you a question", TEXT, "waiting")
    assert [push.name for push in service.pushes] == ["phone"]
    assert news(phone) == news(laptop) == [asked]
    path, body = service.messages[0]
    assert (path, body["title"], body["text"]) == ("/hook/team", *asked[:2])
    assert body["url"].endswith(f"/sessions/{tool.id}")

    wait_until(lambda: "Enter to select" in tool.screen(), "the question on the screen")
    tool.press("2")
    tool.becomes("done", text="The tool has answered.")
    assert server.post(f"/api/sessions/{tool.id}/seen").status == 204
    wait_until(lambda: len(service.pushes) > 1, "the push that lets the locked phone close it")
    assert {push.name for push in service.pushes} == {"phone"}
    assert news(phone) == news(laptop) == []
    tool.type("say it is late")
    tool.becomes("done", text="it is late")
    wait_until(lambda: len(service.messages) == 2, "the next call")
    assert news(phone) == [("shop is done", "it is late", "done")]
    assert [one["last"]["outcome"] for one in server.get("/api/push").json["devices"] if one["last"]] == ["delivered"]
