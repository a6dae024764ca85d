"""Measure what many idle sessions cost a server. Asserts nothing.

    python -m tests.bench.bench_agents [--sessions 50] [--minutes 3]

Four servers beside each other find 0, 1, SESSIONS and twice as many containers on one Incus, so that its answers are
as large for each. As root it starts that Incus, as the tests do. The tools are stand-ins.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Process, run_alone
from tests.programs import Server, wait_until

CONFIG = r"""[tools.mine]
command = ["opencode"]
rules = [{ state = "ready", pattern = '^(STUB-READY|echo: ).*\Z', last = 1 }]
"""
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
        found = self.server.get("/api/sessions")
        states = Counter(one["agent"]["state"] for one in found.json) if found.status == 200 else {}
        return states == ({"idle": self.count} if self.count else {})


def create_sessions(made: House, prefix: str, wanted: int) -> int:
    """Create idle sessions whose containers have names that begin so, and how many there are."""
    end, made_so_far = time.monotonic() + CREATED_WITHIN, 0
    with made.server(CONFIG, CLINCUS_CONTAINER_PREFIX=prefix) as server:
        while made_so_far < wanted and time.monotonic() < end:
            server.create(made.workspace(1 + made_so_far // 8), tool="mine")
            made_so_far += 1
    return made_so_far


def rest(found: list[Idle], minutes: float) -> None:
    """Wait, and note what each server took."""
    before = [sum(one.process.times) for one in found]
    for one in found:
        one.memory.clear()
    for _ in range(max(1, round(minutes * 12))):
        time.sleep(5)
        for one in found:
            one.memory.append(one.process.memory)
    for one, then in zip(found, before):
        one.cpu.append(sum(one.process.times) - then)


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    """All of it."""
    wanted = (0, 1, options.sessions, 2 * options.sessions)
    counts = {f"idle{number}-": create_sessions(made, f"idle{number}-", one) for number, one in enumerate(wanted)}
    with contextlib.ExitStack() as stack:
        found = []
        for prefix, count in counts.items():
            server = stack.enter_context(made.server(CONFIG, CLINCUS_CONTAINER_PREFIX=prefix))
            found.append(Idle(server, count, Process(server.process.pid)))
        began = time.monotonic()
        time.sleep(SETTLED)
        wait_until(lambda: all(one.is_idle() for one in found), "all sessions to be idle", 3 * SETTLED)
        rest(found, options.minutes)
        time.sleep(max(0.0, began + AT_REST - time.monotonic()))
        rest(found, options.minutes)
        tell(found, results, options.minutes)


def tell(found: list[Idle], results: Results, minutes: float) -> None:
    """The rows. What a session takes of memory stands apart from what the first ones take once."""
    none, single, some, many = found
    memory = [statistics.median(one.memory) for one in found]
    each = (memory[2] - memory[1]) * 1000 / (some.count - single.count)
    further = (memory[3] - memory[2]) * 1000 / (many.count - some.count)
    once = memory[2] - memory[0] - some.count * further / 1000
    points = ", ".join(f"{one.count}: {amount:.1f}" for one, amount in zip(found, memory))
    what, note = f"{some.count} idle sessions", f"MB (PSS) by the number of sessions: {points}"
    results.add(
        Row(f"memory of each of {what}", "KB", each, 20, note=note),
        Row(f"memory of each further one, up to {many.count}", "KB", further),
        Row("memory that the first ones take once", "KB", once * 1000),
        Row(f"processes with {what}", "", len(some.process.children), 0, len(none.process.children), "more"),
    )
    for when, ours, baseline in zip(("first", "fourth"), some.cpu, none.cpu):
        figure = f"CPU with {what}, in {minutes:g} minutes from the {when} one on"
        results.add(Row(figure, "s", ours, baseline=baseline, compare="more"))


if __name__ == "__main__":
    run_alone(__doc__, measure, sessions=50, minutes=3.0)
