"""What a session takes of the machine, and what its conversation has cost, on a real Incus."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_agents import FIRST_TURN, KEY, Tool, config_of_claude, vendor_on_bridge

import clincus
from clincus_features import fairness
from tests.programs import DEADLINE, wait_until
from tests.vendor_api import VendorApi


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


# A plan has limits.
PLAN = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": KEY.replace("test", "oat01")}


@pytest.fixture
def vendor(bed) -> Iterator[VendorApi]:
    with vendor_on_bridge(bed) as made:
        yield made


def test_what_claude_code_has_used_and_said_is_told(bed, start_server, workspace, vendor):
    """The stand-in counts 10 tokens in and 9 out for each answer."""
    server = start_server(config=config_of_claude(vendor, **PLAN))
    real = Tool(bed, server, server.create(workspace, profile="real")["id"])
    real.becomes("idle", timeout=4 * DEADLINE)
    real.type("say hello there")
    real.becomes("done", text="hello there", timeout=FIRST_TURN)
    real.has_written("hello there")
    path = f"/api/sessions/{real.id}"
    assert server.delete(path).status == 204, "all is saved when it stops"
    said = [(one["role"], one["text"]) for one in server.get(f"{path}/conversation").json["messages"]]
    assert said == [("person", "say hello there"), ("agent", "hello there")]
    cost = server.get(f"{path}/cost").json
    assert cost["tokens"] == {"input": 10, "output": 9, "cache_read": 0, "cache_write": 0}
    assert (cost["cost_usd"], cost["context"]["used"]) == (0.00011, 19)
    assert [(one["name"], one["used"]) for one in cost["windows"]] == [("5 h", 42), ("7 days", 17)]
    spent = server.get("/api/cost?days=2").json
    assert [(one["workspace"], one["tokens"]["output"]) for one in spent["projects"]] == [(str(workspace), 9)]
