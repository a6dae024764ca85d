"""What a session takes of the machine, and what its conversation has cost, on a real Incus."""

from __future__ import annotations

import json
import re
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_agents import FIRST_TURN, KEY, Tool, api, config, config_of_claude  # noqa: F401 (`api` is a fixture)

import clincus
from clincus_features import fairness, sleepers
from tests.programs import DEADLINE, wait_until


@pytest.mark.day
def test_a_session_that_works_takes_more(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    path = f"/api/sessions/{session['id']}/usage"

    def all_is_known() -> bool:
        """Incus may miss a figure for a moment on a busy machine. A directory as storage pool tells no disk use."""
        nonlocal before
        before = shared_server.get(path).json
        return {name for name, value in before.items() if value is None} <= {"disk_bytes"}

    before: dict[str, float] = {}
    wait_until(all_is_known, "each figure to be told")
    assert 0 < before["memory_bytes"] < before["memory_limit"]
    bed.shell(session["id"], "timeout 1 sh -c 'while :; do :; done' || true")
    wait_until(lambda: shared_server.get(path).json["cpu_seconds"] > before["cpu_seconds"] + 0.1, "the work to be told")
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    assert shared_server.get(path).status == 409


def test_incus_tells_what_cpu_each_container_has_used(bed):
    bed.incus.run("launch", "clincus", "plain")

    def used() -> float:
        """What Incus has told before holds for eight seconds."""
        told = bed.incus.query("/1.0/metrics", is_json=False)
        return sleepers.cpu_seconds(told, bed.incus.project).get("plain", 0)

    wait_until(lambda: used() > 0, "the CPU of a new container")


def cpu_weight(pid: int) -> Path:
    """The file with the weight of the container of a process."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        payload = re.match(r".*/lxc\.payload[^/]*", path)
        if payload and controllers in ("cpu", "cpu,cpuacct"):
            return Path(f"/sys/fs/cgroup/{controllers}{payload[0]}/cpu.shares")
        if payload and not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return Path(f"/sys/fs/cgroup{payload[0]}/cpu.weight")
    pytest.fail(f"the process {pid} is in no container")


def test_a_container_that_burns_is_slowed_at_once_and_restored(bed):
    """By the kernel's weight of it: cgroup v1 has shares of 1024, v2 a weight of 100."""
    bed.incus.run("launch", "clincus", "plain")
    session = clincus.Session("plain", workspace="/w", tool="claude", slot=1, status="running", persistent=False)
    engine = SimpleNamespace(incus=bed.incus, label_lock=threading.Lock())
    sessions = SimpleNamespace(held=lambda id, wait: nullcontext(True))
    app = SimpleNamespace(engines={"": engine}, sessions=sessions, extensions=SimpleNamespace(happenings=[]))
    fair = fairness.Fairness(app)
    sharing = fairness.Sharing(set())
    weight = cpu_weight(bed.ask("/1.0/instances/plain/state")["pid"])
    before = int(weight.read_text())
    fair._change(session, sharing, slow=True)
    assert fair._find_slowed("") == sharing.slowed == {"plain"}
    assert int(weight.read_text()) == before // 10
    fair._change(session, sharing, slow=False)
    assert fair._find_slowed("") == sharing.slowed == set()
    assert int(weight.read_text()) == before
    assert fair._ask("").used["plain"] > 0


# What each real tool needs to reach the stand-in for its vendor's API; Claude Code with a plan, which has limits.
COPILOT = {"COPILOT_OFFLINE": "true", "COPILOT_PROVIDER_TYPE": "anthropic", "COPILOT_MODEL": "claude-sonnet-4.5"}
PLAN = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": KEY.replace("test", "oat01")}

TOLD = {"claude": (0.00011, [("5 h", 42), ("7 days", 17)]), "copilot": (None, []), "opencode": (0.000165, [])}


@pytest.fixture
def config_of(request, home):
    """A function that gives the configuration with a real tool."""

    def configure(tool: str) -> str:
        vendor = request.getfixturevalue("api")
        if tool == "claude":
            return config_of_claude(vendor, **PLAN)
        if tool == "copilot":
            return config("copilot", **COPILOT, COPILOT_PROVIDER_BASE_URL=vendor.url, COPILOT_PROVIDER_API_KEY=KEY)
        provider = {"anthropic": {"options": {"baseURL": f"{vendor.url}/v1", "apiKey": KEY}}}
        document = {"model": "anthropic/claude-sonnet-4-5", "provider": provider, "permission": {"*": "allow"}}
        (home / ".config/opencode").mkdir(parents=True)
        (home / ".config/opencode/opencode.json").write_text(json.dumps(document))
        return config("opencode", HTTPS_PROXY="http://127.0.0.1:9")

    return configure


@pytest.mark.parametrize("tool", TOLD)
def test_what_a_real_tool_has_used_and_said_is_told(bed, start_server, workspace, config_of, tool):
    """The stand-in counts 10 tokens in and 9 out for each answer."""
    dollars, windows = TOLD[tool]
    server = start_server(config=config_of(tool))
    session = server.create(workspace, profile="real")
    real = Tool(bed, server, session["id"])
    real.becomes("idle", timeout=4 * DEADLINE)
    real.type("say hello there")
    real.becomes("done", text="hello there" if tool == "claude" else "", timeout=FIRST_TURN)
    if tool == "claude":
        real.has_written("hello there")
    path = f"/api/sessions/{session['id']}"
    assert server.delete(path).status == 204, "all is saved when it stops"
    said = [(one["role"], one["text"]) for one in server.get(f"{path}/conversation").json["messages"]]
    assert said == ([("person", "say hello there"), ("agent", "hello there")] if tool == "claude" else [])
    cost = server.get(f"{path}/cost").json
    assert cost["tokens"] == {"input": 10, "output": 9, "cache_read": 0, "cache_write": 0}
    assert (cost["cost_usd"], cost["context"]["used"]) == (dollars, 19)
    assert [(one["name"], one["used"]) for one in cost["windows"]] == windows
    spent = server.get("/api/cost?days=2").json
    assert [(one["workspace"], one["tokens"]["output"]) for one in spent["projects"]] == [(str(workspace), 9)]
