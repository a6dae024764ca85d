"""What the benches share: a house with Incus and servers, and figures of a process."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import incus_bed, programs
from tests.bench.figures import Results


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


def at_once(count: int, work: Callable[[int], object]) -> float:
    """Seconds until all of some works that begin together are done. Raises the first error of one of them."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


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
        """Its share of memory in MB (PSS): what it has in common with others counts in parts."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(text.split("\nPss:")[1].split()[0]) / 1000 * 1.024

    @property
    def own_memory(self) -> float:
        """Its memory in MB without pages of files, whose part depends on what else runs on the machine."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(text.split("\nPss_Anon:")[1].split()[0]) / 1000 * 1.024

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

    def sessions(self, count: int) -> list[str]:
        """Bring the house to so many running sessions; the ids of those that a server lists then.

        Whoever measures counts them: fewer may be listed than were asked for.
        """
        planned = {str(self.workspace(number)): min(8, count - 8 * number) for number in range(math.ceil(count / 8))}
        missing: list[str] = []
        with self.server() as server:
            kept = Counter[str]()
            for session in server.get("/api/sessions").json:
                if session["status"] == "running" and kept[session["workspace"]] < planned.get(session["workspace"], 0):
                    kept[session["workspace"]] += 1
                else:
                    delete(server, session["id"])
            for folder, number in planned.items():
                missing += [folder] * (number - kept[folder])
            if missing:
                at_once(2, lambda which: [server.create(Path(folder)) for folder in missing[which::2]])
            return [session["id"] for session in server.get("/api/sessions").json if session["status"] == "running"]

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


def main(work: Callable[[House, Results], object]) -> None:
    """Run one bench alone, and end with 1 if it failed."""
    print(f"{' '.join(sys.argv)}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    results = Results()
    with house() as made, results.part("all"):
        work(made, results)
    print(f"load {os.getloadavg()[0]:.1f}")
    sys.exit(1 if results.run().failed else 0)
