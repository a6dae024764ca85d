"""Measure how soon the server knows what a tool does, and what many idle sessions cost it. Asserts nothing.

    python tests/bench/bench_agents.py [CHANGES] [SESSIONS] [MINUTES]

With 0 CHANGES or 0 SESSIONS that part is left out. As root it starts an Incus of its own, as the tests do. The tools
are stand-ins; hook, ring, look and event are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from websockets.sync.client import connect

from tests import incus_bed
from tests.programs import Server, program

CHANGES = int(sys.argv[1]) if len(sys.argv) > 1 else 60
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 50
MINUTES = float(sys.argv[3]) if len(sys.argv) > 3 else 3
CONFIG = r"""[tools.mine]
command = ["opencode"]
rules = [
  { name = "asks", state = "waiting", reason = "question", pattern = '^echo: .+\?$', last = 1 },
  { name = "counts", state = "working", pattern = '^echo: \d+$', last = 1 },
  { state = "ready", pattern = '^(STUB-READY|echo: ).*\Z', last = 1 },
]
"""
# Writes down when each change begins, then makes it; the clock of a container is that of its host.
BY_HOOK = """for number in $(seq COUNT); do
    date +%s.%N; echo '{}' | ~/.clincus/hook $([ $((number % 2)) = 0 ] && echo Stop || echo UserPromptSubmit) ring
    sleep PAUSE; done"""
BY_SCREEN = """for number in $(seq COUNT); do
    date +%s.%N; tmux send-keys -t =clincus-ID: $([ $((number % 2)) = 0 ] && echo 'Which?' || echo $number) Enter
    sleep PAUSE; done"""


def show(what: str, figure: str, goal: str = "") -> None:
    print(f"{what:58} {figure:>30}   {goal}", flush=True)


class Events:
    """The events of one session's agent, with the time of their arrival."""

    def __init__(self, server: Server, id: str) -> None:
        self.id = id
        self.found: list[tuple[float, str]] = []  # time, state
        self._socket = connect(f"{server.socket_url}/ws/events", subprotocols=["clincus.events.v1"])  # type: ignore[list-item]
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(Exception):
            for message in self._socket:
                event = json.loads(message)
                if event["type"] == "session.agent" and event["id"] == self.id:
                    self.found.append((time.time(), event["agent"]["state"]))

    def close(self) -> None:
        self._socket.close()


def delays(bed: incus_bed.Bed, events: Events, script: str, states: tuple[str, str], pause: float) -> list[float]:
    """Make the changes in a container; how long after each one its event came, in seconds."""
    text = script.replace("COUNT", str(CHANGES)).replace("PAUSE", str(pause)).replace("ID", events.id)
    command = ["sh", "-c", text]
    done = bed.incus.exec(
        events.id, command, user=1000, environment={"HOME": "/home/code"}, timeout=CHANGES * (pause + 2) + 60
    )
    begins = [float(line) for line in done.stdout.split()]
    time.sleep(6)
    found = []
    for number, (begin, end) in enumerate(zip(begins, [*begins[1:], begins[-1] + 6]), 1):
        times = (at for at, state in events.found if state == states[number % 2] and begin <= at < end)
        found += [at - begin for at in times][:1]
    print(f"  {len(found)} of {len(begins)} changes were told before the next one")
    return sorted(found)


def spread(seconds: list[float]) -> str:
    p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
    return f"p50 {statistics.median(seconds):.2f}  p99 {p99:.2f} s"


def children(pid: int) -> int:
    """How many processes a server has below it."""
    return len(subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False).stdout.split())


def state_of(pid: int) -> tuple[float, float]:
    """Memory in KB that is a process's own (PSS), and the CPU seconds that it has taken, with those of its children."""
    memory = Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return float(memory), sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def settled(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not what() and time.monotonic() < end:
        time.sleep(0.2)


def idle_sessions(start: Callable[[], Server], folder: Path) -> None:
    """What idle sessions cost a server: one that finds a single one as it starts, and one that finds many."""
    costs, server = [], start()
    for first, last in ((0, 1), (1, SESSIONS + 1)):
        for number in range(first, last):
            workspace = folder / f"idle-{number // 8}"
            workspace.mkdir(exist_ok=True)
            os.chown(workspace, 1000, 1000)
            server.create(workspace, tool="mine")
        server.stop()
        costs.append(cost_at_rest(server := start()))
    one, many = costs
    show(
        f"memory of {SESSIONS} more idle sessions, each", f"{(many[0] - one[0]) / SESSIONS:.1f} KB", "goal: under 20 KB"
    )
    cpu = f"{one[1]:.2f} and {many[1]:.2f} s"
    show(f"CPU in {MINUTES:g} minutes, with one and with all", cpu, "goal: no difference that can be measured")
    show("processes more", str(many[2] - one[2]), "goal: 0")


def cost_at_rest(server: Server) -> tuple[float, float, int]:
    """Memory in KB that a server has of its own after a while, the CPU seconds that it took then, and its processes."""
    settled(lambda: server.get("/api/sessions").status == 200)
    time.sleep(60)
    memory, before = state_of(server.process.pid)
    time.sleep(MINUTES * 60)
    return memory, state_of(server.process.pid)[1] - before, children(server.process.pid)


def changes(bed: incus_bed.Bed, server: Server, workspace: Path) -> None:
    """How soon a change is told, with a hook and without."""
    for tool, script, states, pause, what, goal in (  # a container rings once a second, and is looked at every 3.5 s
        ("claude", BY_HOOK, ("done", "working"), 3, "from a hook to its event", "goal: p50 under 1 s"),
        ("mine", BY_SCREEN, ("waiting", "working"), 6, "from a screen to its event, no hook", "goal: under 5 s"),
    ):
        id = server.create(workspace, tool=tool)["id"]
        events = Events(server, id)
        time.sleep(8)
        found = delays(bed, events, script, states, pause)
        events.close()
        show(what, spread(found) if found else "nothing was told", goal)
        server.request("DELETE", f"/api/sessions/{id}?force=true")


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with contextlib.ExitStack() as held:
        bed = held.enter_context(incus_bed.own_daemon())
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        config = folder / ".config" / "clincus" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(bed.config + CONFIG)
        environ = {**os.environ, **bed.environ, "HOME": str(folder)}
        servers: list[Server] = []

        def start() -> Server:
            servers.append(
                Server([*program(), "serve", "--port", "0"], environ, folder / f"log-{len(servers)}", folder)
            )
            return servers[-1]

        held.callback(lambda: [server.kill() for server in servers])
        workspace = folder / "project"
        workspace.mkdir()
        os.chown(workspace, 1000, 1000)
        if CHANGES:
            changes(bed, start(), workspace)
            servers[-1].stop()
        if SESSIONS:
            idle_sessions(start, folder)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        bed.delete_all()


if __name__ == "__main__":
    main()
