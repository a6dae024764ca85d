"""Measure how soon the server knows what a tool does, and what many idle sessions cost it. Asserts nothing.

    python tests/bench/bench_agents.py [CHANGES] [SESSIONS] [MINUTES]

With 0 CHANGES or 0 SESSIONS that part is left out. As root it starts an Incus of its own, as the tests do. The tools
are stand-ins; hook, ring, look and event are real.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from websockets.sync.client import connect

from tests import incus_bed
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Process, delete, main, percentile
from tests.programs import Server, wait_until

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

# As root, so that nothing of guest/ring.sh and guest/hook.sh slows it down.
ATTACK = r"""
perl -MSocket -e 'my $end = time + 40; while (time < $end) { for my $state ("Ready", "Started") {
    socket(my $guest, PF_UNIX, SOCK_STREAM, 0) or die;
    connect($guest, sockaddr_un("/dev/incus/sock")) or die;
    my $body = qq({"state":"$state"});
    syswrite $guest, join "\r\n", "PATCH /1.0 HTTP/1.1", "Host: incus", "Connection: close",
        "Content-Type: application/json", "Content-Length: " . length $body, "", $body;
    1 while sysread $guest, my $answer, 4096; } }' &
perl -e 'my $end = time + 40; chdir "/home/code/.clincus/agent" or die; while (time < $end) {
    open my $file, ">>", "events" or die;
    my $event = time % 2 ? "Stop" : "UserPromptSubmit";
    print $file qq({"at":@{[time]}.5,"event":"$event","data":{"last_assistant_message":") . "y" x 400 . qq("}}\n);
    close $file;
    unlink "events" if -s "events" > 2e6; }'
wait"""


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


CREATED_WITHIN = 600  # seconds: a busy machine gets fewer sessions, and the figure says how many
SETTLED = 60  # seconds that a server gets after its start
AT_REST = 240  # seconds after a start when the first look, checkpoint and save of each session are over


@dataclass
class Idle:
    """A server that has found idle sessions, and what it took in each of the times at rest."""

    server: Server
    count: int  # of its sessions
    process: Process
    memory: list[float] = field(default_factory=list)  # MB (PSS), of the last time
    cpu: list[float] = field(default_factory=list)  # seconds, with its children

    def is_idle(self) -> bool:
        """Whether each of its sessions is known to be idle."""
        return states_of(self.server) == ({"idle": self.count} if self.count else {})


def idle_sessions(made: House, results: Results) -> None:
    """What idle sessions cost servers that find none of them as they start, one, SESSIONS, and twice as many.

    All of them run side by side on one Incus, so that its answers are as large for each.
    """
    counts = {}
    for number, wanted in enumerate((0, 1, SESSIONS, 2 * SESSIONS)):
        counts[f"idle{number}-"] = create_sessions(made, f"idle{number}-", wanted)
    with contextlib.ExitStack() as stack:
        found = []
        for prefix, count in counts.items():
            server = stack.enter_context(made.server(CONFIG, CLINCUS_CONTAINER_PREFIX=prefix))
            found.append(Idle(server, count, Process(server.process.pid)))
        began = time.monotonic()
        time.sleep(SETTLED)
        wait_until(lambda: all(one.is_idle() for one in found), "all sessions to be idle", 3 * SETTLED)
        rest_of(found)
        time.sleep(max(0.0, began + AT_REST - time.monotonic()))
        rest_of(found)
        tell_idle(found, results)


def rest_of(found: list[Idle]) -> None:
    """Wait for MINUTES, and note what each server took."""
    before = [one.process.seconds for one in found]
    for one in found:
        one.memory.clear()
    for _ in range(max(1, round(MINUTES * 12))):
        time.sleep(5)
        for one in found:
            one.memory.append(one.process.memory)
    for one, then in zip(found, before):
        one.cpu.append(one.process.seconds - then)


def tell_idle(found: list[Idle], results: Results) -> None:
    """The rows. What a session takes of memory stands apart from what the first ones take once."""
    none, single, some, many = found
    memory = [statistics.median(one.memory) for one in found]
    each = (memory[2] - memory[1]) * 1000 / (some.count - single.count)
    further = (memory[3] - memory[2]) * 1000 / (many.count - some.count)
    once = memory[2] - memory[0] - some.count * further / 1000
    points = ", ".join(f"{one.count}: {amount:.1f}" for one, amount in zip(found, memory))
    states, what = dict(states_of(some.server)), f"{some.count} idle sessions"
    note = f"{states}; MB (PSS) by the number of sessions: {points}"
    window = f"in {MINUTES:g} minutes"
    results.add(
        Row(f"memory of each of {what}", "KB", each, 20, note=note),
        Row(f"memory of each further one, up to {many.count}", "KB", further),
        Row("memory that the first ones take once", "KB", once * 1000),
        Row(f"CPU with {what}, {window} from the first one on", "s", some.cpu[0], baseline=none.cpu[0], compare="more"),
        Row(
            f"CPU with {what}, {window} from the fourth one on", "s", some.cpu[1], baseline=none.cpu[1], compare="more"
        ),
        Row(f"processes with {what}", "", len(some.process.children), 0, len(none.process.children), "more"),
    )


def create_sessions(made: House, prefix: str, wanted: int) -> int:
    """Create idle sessions whose containers have names that begin so, and how many there are."""
    end, made_so_far = time.monotonic() + CREATED_WITHIN, 0
    with made.server(CONFIG, CLINCUS_CONTAINER_PREFIX=prefix) as server:
        while made_so_far < wanted and time.monotonic() < end:
            server.create(made.workspace(1 + made_so_far // 8), tool="mine")
            made_so_far += 1
    return made_so_far


def states_of(server: Server) -> dict[str, int]:
    """How many sessions have each state."""
    found = server.get("/api/sessions")
    return Counter(one["agent"]["state"] for one in found.json) if found.status == 200 else {}


def changes(made: House, server: Server, results: Results) -> None:
    """How soon a change is told, with a hook and without."""
    for tool, script, states, pause, what, goal in (  # a container rings once a second, and is looked at every 3.5 s
        ("claude", BY_HOOK, ("done", "working"), 3, "from a hook to its event", 1),
        ("mine", BY_SCREEN, ("waiting", "working"), 6, "from a screen to its event, no hook", 5),
    ):
        id = server.create(made.workspace(), tool=tool)["id"]
        events = Events(server, id)
        time.sleep(8)
        found = delays(made.bed, events, script, states, pause)
        events.close()
        if found:
            note = f"p99 {percentile(found, 0.99):.2f} s of {len(found)}"
            results.add(Row(f"{what}, p50", "s", percentile(found, 0.5), goal, note=note))
        delete(server, id)


def under_attack(made: House, server: Server, results: Results) -> None:
    """The CPU that a server takes while root in a container rings and writes events as fast as it can."""
    id = server.create(made.workspace())["id"]
    process = Process(server.process.pid)
    time.sleep(10)
    spent = []
    for script in ("sleep 40", ATTACK):
        running = threading.Thread(target=made.bed.shell, args=(id, script, 0))
        running.start()
        time.sleep(4)
        before = process.seconds
        time.sleep(30)
        spent.append(process.seconds - before)
        running.join()
    note = "in 30 s, with the calls of incus; the baseline is a container at rest"
    results.add(Row("CPU while a container rings and writes without end", "s", spent[1], baseline=spent[0], note=note))
    delete(server, id)


def measure(made: House, results: Results) -> None:
    """Both parts, unless one is left out."""
    if CHANGES:
        with made.server(CONFIG) as server:
            changes(made, server, results)
            under_attack(made, server, results)
    if SESSIONS:
        idle_sessions(made, results)


if __name__ == "__main__":
    main(measure)
