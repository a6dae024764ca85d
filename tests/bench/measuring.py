"""What the benches share: a house with Incus and servers, rows of the table, and figures of a process."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests import incus_bed, programs

MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """One figure beside its baseline of the same run, and its goal.

    `compare` says what the goal is for: "times" the baseline, "more" than the baseline, the figure "alone"; with
    `at_least` it is a lower bound.
    """

    figure: str
    unit: str
    value: float
    goal: float | None = None
    baseline: float | None = None
    compare: str = "alone"
    at_least: bool = False
    note: str = ""  # how the figure came about, or what was seen beside it

    @property
    def compared(self) -> float:
        """What is held against the goal."""
        if self.baseline is None or self.compare == "alone":
            return self.value
        return self.value / self.baseline if self.compare == "times" else self.value - self.baseline

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.compared >= self.goal if self.at_least else self.compared <= self.goal

    def cells(self) -> list[str]:
        """Figure, value, baseline, ratio and goal, in words."""
        baseline = "" if self.baseline is None else amount(self.baseline, self.unit)
        goal = ""
        if self.goal is not None:
            bound = f"{self.goal:g} times" if self.compare == "times" else amount(self.goal, self.unit)
            more = " more" if self.compare == "more" else ""
            goal = f"{'at least' if self.at_least else 'at most'} {bound}{more}"
        ratio = ""
        if self.baseline is not None:
            more = ("+" if self.value >= self.baseline else "") + amount(self.value - self.baseline, self.unit)
            ratio = more if self.compare == "more" else f"{self.value / self.baseline:.2f}" if self.baseline else ""
        met = {True: "met", False: "missed", None: ""}[self.is_met]
        return [self.figure, amount(self.value, self.unit), baseline, ratio, goal, met]


@dataclass
class Series:
    """How a figure grows: points of a number of sessions (or terminals) and the figure then, with its baseline's.

    `name` is that of the picture's file as well.
    """

    name: str
    title: str
    unit: str
    across: str = "sessions"
    points: list[tuple[float, float]] = field(default_factory=list)
    baseline: list[tuple[float, float]] = field(default_factory=list)


class Results:
    """The rows and series of a run: printed as they come, and written as JSON."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.series: list[Series] = []
        self.about: dict[str, object] = {
            "begun": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "load_before": round(os.getloadavg()[0], 2),
            "cores": os.cpu_count(),
            "cpu": cpu_name(),
            "python": platform.python_version(),
            "kernel": platform.release(),
        }

    def add(self, *rows: Row) -> None:
        """Take rows in, and print them."""
        for row in rows:
            self.rows.append(row)
            print("  ".join(f"{cell:{width}}" for cell, width in zip(row.cells(), (62, 12, 12, 12, 22, 6))), flush=True)
            if row.note:
                print(f"    {row.note}", flush=True)

    def write(self, path: Path) -> None:
        """Write all of it."""
        self.about |= {"seconds": round(time.monotonic() - STARTED), "load_after": round(os.getloadavg()[0], 2)}
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"about": self.about, "rows": list(map(asdict, self.rows)), "series": list(map(asdict, self.series))}
        path.write_text(json.dumps(document, indent=1) + "\n")


STARTED = time.monotonic()
UNITS = {"s": ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (float("inf"), 1, "s"))}


def amount(value: float, unit: str) -> str:
    """A figure with its unit, with three digits that count."""
    for bound, factor, name in UNITS.get(unit, ()):
        if abs(value) < bound:
            return f"{value * factor:.3g} {name}"
    return f"{value:,.0f} {unit}".strip() if abs(value) >= 100 else f"{value:.3g} {unit}".strip()


def cpu_name() -> str:
    """What the kernel calls the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(rounds: int, *works: Callable[[], float]) -> list[list[float]]:
    """The figures of several works, each done so often: in turns, so that a noisy machine is equally noisy for all."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for figures, work in zip(found, works):
            figures.append(work())
    return found


def median_ratio(ours: Sequence[float], baselines: Sequence[float]) -> float:
    """The median of pairs that were measured one after the other."""
    return statistics.median(one / baseline for one, baseline in zip(ours, baselines))


# -- A process


@dataclass(frozen=True)
class Process:
    """What a process takes of the machine, as /proc tells it."""

    pid: int

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        return self._status("VmRSS") / 1000 * 1.024

    @property
    def own_memory(self) -> float:
        """Its share of memory in MB (PSS): what it has with others counts in parts."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(text.split("\nPss:")[1].split()[0]) / 1000 * 1.024

    @property
    def threads(self) -> int:
        """How many there are."""
        return self._status("Threads")

    @property
    def descriptors(self) -> int:
        """How many are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def children(self) -> list[int]:
        """The processes that it started and that run."""
        found = []
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text().split())
        return found

    @property
    def seconds(self) -> float:
        """CPU time, with that of children that have ended and were waited for."""
        ticks = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    @property
    def exact_seconds(self) -> float:
        """CPU time of its threads that still run, not in ticks of a clock."""
        total = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0])
        return total / 1e9

    @property
    def wake_ups(self) -> int:
        """How often its threads have slept so far, as far as they still run."""
        total = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        return total

    def _status(self, name: str) -> int:
        return int(Path(f"/proc/{self.pid}/status").read_text().split(f"\n{name}:")[1].split()[0])


class Spent:
    """What a server has spent since this was made: calls of the `incus` command, and CPU."""

    def __init__(self, server: programs.Server) -> None:
        self._server = server
        self._before = self._now()
        self._lasted_before = self._lasted

    def _now(self) -> tuple[Counter[str], float, float]:
        text = self._server.get("/metrics").body.decode()
        found = re.findall(r'clincus_incus_call_seconds_count{call="(\w+)"} (\d+)', text)
        sums = re.findall(r'clincus_incus_call_seconds_sum{call="(\w+)"} (\S+)', text)
        self._lasted = {call: float(seconds) for call, seconds in sums}
        own = float(re.findall(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)[0])
        return Counter({call: int(count) for call, count in found}), own, Process(self._server.process.pid).seconds

    def seconds(self) -> tuple[float, float]:
        """CPU of the server itself, and of its children that have ended."""
        before, now = self._before, self._now()
        own = now[1] - before[1]
        return own, now[2] - before[2] - own

    def words(self, count: int = 1) -> str:
        """What each of so many things took."""
        own, others = (seconds / count * 1000 for seconds in self.seconds())
        calls = sorted((self._now()[0] - self._before[0]).items())
        lasted = {call: seconds - self._lasted_before.get(call, 0) for call, seconds in self._lasted.items()}
        words = ", ".join(
            f"{call} {number / count:.2g} ({lasted[call] / number * 1000:.0f} ms each)"
            for call, number in calls
            if number
        )
        return (
            f"{own:.0f} ms of CPU in the server and {others:.0f} ms in its children; calls of incus: {words or 'none'}"
        )


# -- The house


class House:
    """An Incus of our own, a folder with workspaces, and servers."""

    def __init__(self, bed: incus_bed.Bed, folder: Path) -> None:
        self.bed = bed
        self.folder = folder
        self._logs = 0

    def workspace(self, number: int = 0) -> Path:
        """A project folder; a session has one of eight slots of it."""
        path = self.folder / f"project-{number}"
        path.mkdir(exist_ok=True)
        os.chown(path, 1000, 1000)
        return path

    @contextlib.contextmanager
    def server(self, config: str = "", **variables: str) -> Iterator[programs.Server]:
        """A server with a home of its own, and variables; the program is CLINCUS_TEST_PROGRAM, as in tests."""
        self._logs += 1
        home = self.folder / f"home-{self._logs}"
        file = home / ".config" / "clincus" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text(self.bed.config + config)
        environ = {**os.environ, **self.bed.environ, **variables, "HOME": str(home)}
        environ["XDG_CACHE_HOME"] = str(self.folder / "cache")
        log = self.folder / f"server-{self._logs}.log"
        running = programs.Server([*programs.program(), "serve", "--port", "0"], environ, log, self.folder)
        try:
            yield running
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.stop(timeout=30)
            running.kill()


@contextlib.contextmanager
def house() -> Iterator[House]:
    """Bring up Incus, and take all away at the end."""
    with incus_bed.own_daemon() as bed, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        try:
            yield House(bed, Path(folder))
        finally:
            bed.delete_all()  # before the folders that they mount


def delete(server: programs.Server, id: str) -> None:
    """Delete a session, whatever is in it."""
    server.delete(f"/api/sessions/{id}?force=true", timeout=120)


class Client:
    """One kept HTTP connection. It does next to nothing with an answer: what is measured is the server."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = socket.create_connection((host, port), timeout=60)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = f"{host}:{port}"
        self.status = 0  # of the last answer

    def get(self, path: str) -> tuple[float, bytes]:
        """Seconds and body of a GET."""
        request = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
        began = time.perf_counter()
        self._connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        self.status = int(head[9:12])
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(body) < length:
            body += self._receive()
        return time.perf_counter() - began, body

    def _receive(self) -> bytes:
        data = self._connection.recv(1 << 18)
        if not data:
            raise ConnectionError("the server hung up")
        return data

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def main(work: Callable[[House, Results], Any]) -> None:
    """Run one bench alone."""
    print(f"{' '.join(sys.argv)}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with house() as made:
        work(made, Results())
    print(f"load {os.getloadavg()[0]:.1f}")
