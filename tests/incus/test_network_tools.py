"""The real tools with no way out but the proxy: each starts and reaches what stands in for its vendor."""

from __future__ import annotations

import json
import os

import pytest
from network_box import HOSTS, command_with_hosts
from test_agents import KEY, Tool, config

from tests.programs import DEADLINE
from tests.vendor_api import VendorApi

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
COPILOT = {"COPILOT_OFFLINE": "true", "COPILOT_PROVIDER_TYPE": "anthropic", "COPILOT_MODEL": "claude-sonnet-4.5"}


def config_of(tool: str, url: str, home) -> str:
    """The configuration with a real tool whose vendor is at an address."""
    if tool == "claude":
        return config("claude", ANTHROPIC_BASE_URL=url, ANTHROPIC_AUTH_TOKEN=KEY)
    if tool == "copilot":
        return config("copilot", **COPILOT, COPILOT_PROVIDER_BASE_URL=url, COPILOT_PROVIDER_API_KEY=KEY)
    provider = {"anthropic": {"options": {"baseURL": f"{url}/v1", "apiKey": KEY}}}
    document = {"model": "anthropic/claude-sonnet-4-5", "provider": provider, "permission": {"*": "allow"}}
    (home / ".config/opencode").mkdir(parents=True)
    (home / ".config/opencode/opencode.json").write_text(json.dumps(document))
    return config("opencode")


@pytest.mark.parametrize("tool", ["claude", "copilot", "opencode"])
def test_a_real_tool_reaches_its_vendor_through_the_proxy(bed, start_server, workspace, home, tool):
    vendor, hosts = VendorApi("127.0.0.1"), home / "hosts"
    hosts.write_text(f"{HOSTS}127.0.0.1 vendor.example\n")
    name = f"vendor.example:{vendor.server_address[1]}"
    network = '[network]\nreachable = ["127.0.0.1/32"]\n'
    server = start_server(config=config_of(tool, f"http://{name}", home) + network, command=command_with_hosts(hosts))
    session = server.create(workspace, profile="real", network="allow-list", allow=[name])
    real = Tool(bed, server, session["id"])
    real.becomes("idle", timeout=4 * DEADLINE)
    real.type("say hello there")
    real.becomes("done", timeout=2 * DEADLINE)
    assert any("say hello there" in one for one in vendor.requests)
    passed = server.get(f"/api/sessions/{session['id']}/network").json["passed"]
    assert name in [f"{one['host']}:{one['port']}" for one in passed]
    vendor.close()
