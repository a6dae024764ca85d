"""What each test file costs: the time of its processor, and how many containers it starts.

`pytest --costs=FILE` writes a table, the dearest file first, and says its head at the end of the run. A file's time is
that of the worker and of every program that it started, the Incus daemon with them. Too little is told of what runs in
a container and of the monitor process that LXC keeps for each, which belong to nobody, and of the processes of a
browser, as nobody waits for their end. The row `(beds)` is what the workers took for Incus itself. Other work on the
machine makes a run longer, but hardly dearer: that is why seconds of a processor are counted, and not those of a clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from websockets.exceptions import WebSocketException
from websockets.sync.client import unix_connect

BEDS = "(beds)"
COLLECTION = "(collection)"
STARTS = ("instance-started", "instance-restarted")
COUNTING = "counting starts"  # the name of a thread, which a daemon that starts again makes anew
TICKS = os.sysconf("SC_CLK_TCK")
SAID = 15  # lines of the table at the end of a run


@dataclass
class Cost:
    """What a file took."""

    processor: float = 0.0  # seconds, user and system
    clock: float = 0.0
    starts: int = 0

    def add(self, other: Cost) -> None:
        """Add up."""
        self.processor += other.processor
        self.clock += other.clock
        self.starts += other.starts


def children(pid: int) -> list[int]:
    """The children of a process, whichever of its threads started them."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in thread.read_text().split()]
    return found


def of_the_living(pid: int) -> float:
    """Seconds of a processor that the living descendants of a process took, each with its own dead children."""
    total = 0.0
    for child in children(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / TICKS  # utime, stime, cutime, cstime: proc_pid_stat(5)
        total += of_the_living(child)
    return total


def processor_time() -> float:
    """Seconds of a processor that this process took until now, with all that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) + of_the_living(os.getpid())


class Starts:
    """Counts the containers that a daemon starts, for as long as there is one."""

    def __init__(self) -> None:
        self.count = 0

    def follow(self, socket: Path) -> None:
        """Count the starts of one more daemon, until its socket is gone."""
        threading.Thread(target=self._listen, args=(socket,), daemon=True).start()

    def _listen(self, socket: Path) -> None:
        address = "ws://incus/1.0/events?type=lifecycle&all-projects=true"
        while socket.parent.exists():
            quiet = {"ping_interval": None}
            with (
                contextlib.suppress(OSError, WebSocketException),
                unix_connect(str(socket), address, **quiet) as events,
            ):
                events.recv_events_thread.name = COUNTING
                for event in events:
                    self.count += json.loads(event)["metadata"]["action"] in STARTS
            time.sleep(0.2)  # a daemon that a test has killed is started again


class Meter:
    """Puts down to one file after the other what was used since the last time."""

    def __init__(self) -> None:
        self.starts = Starts()
        self.costs: dict[str, Cost] = {}
        self.file = COLLECTION  # whose tests run now
        self._last = (0.0, time.monotonic(), 0)

    def charge(self, name: str = "") -> None:
        """All since the last call was for this file, or for the one whose tests run."""
        now = (processor_time(), time.monotonic(), self.starts.count)
        processor, clock, starts = (max(0, new - old) for new, old in zip(now, self._last))
        self.costs.setdefault(name or self.file, Cost()).add(Cost(processor, clock, int(starts)))
        self._last = now

    def sums(self) -> dict[str, list[float]]:
        """What was put down, in plain types, which one process can send to another."""
        return {name: [cost.processor, cost.clock, cost.starts] for name, cost in self.costs.items()}

    def add(self, sums: dict[str, list[float]]) -> None:
        """Take over what another worker has put down."""
        for name, (processor, clock, starts) in sums.items():
            self.costs.setdefault(name, Cost()).add(Cost(processor, clock, int(starts)))


def table(costs: dict[str, Cost]) -> list[str]:
    """The lines of the table, the dearest file first, and under it the sum."""
    rows = sorted(costs.items(), key=lambda row: -row[1].processor)
    total = Cost()
    for cost in costs.values():
        total.add(cost)
    lines = [f"{'processor s':>11} {'clock s':>8} {'starts':>6}  file"]
    for name, cost in [*rows, ("all", total)]:
        lines.append(f"{cost.processor:11.1f} {cost.clock:8.1f} {cost.starts:6}  {name}")
    return lines
