"""What the benches share: a house with Incus and servers, figures of a process, and the way a bench is run."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import incus_bed, programs
from tests.bench.figures import Results

TICKS = os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def timed(work: Callable[[], object]) -> float:
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
    began = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
    return time.perf_counter() - began


# -- A process


@dataclass(frozen=True)
class Process:
    """What a process takes of the machine, as /proc tells it."""

    pid: int

    @property
    def memory(self) -> float:
        """Its share of memory in MB (PSS): what it has in common with others counts in parts."""
        return int(self._value("smaps_rollup", "Pss")) / 1000 * 1.024

    @property
    def threads(self) -> int:
        return int(self._value("status", "Threads"))

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def children(self) -> list[int]:
        """The processes that it started and that run."""
        return [int(pid) for text in self._of_threads("children") for pid in text.split()]

    @property
    def times(self) -> tuple[float, float]:
        """CPU seconds of its own, and of children that have ended and were waited for; none once it has ended."""
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
            user, system, of_children, system_of_children = (int(word) / TICKS for word in words)
            return user + system, of_children + system_of_children
        return 0.0, 0.0

    @property
    def wake_ups(self) -> int:
        """How often its threads have slept so far, as far as they still run."""
        found = (re.search(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.M) for text in self._of_threads("status"))
        return sum(int(one[1]) for one in found if one)

    def _of_threads(self, name: str) -> Iterator[str]:
        for path in Path(f"/proc/{self.pid}/task").glob(f"*/{name}"):
            with contextlib.suppress(OSError):
                yield path.read_text()

    def _value(self, file: str, name: str) -> str:
        return Path(f"/proc/{self.pid}/{file}").read_text().split(f"\n{name}:")[1].split()[0]


class Spent:
    """What a server has spent since this was made: calls of the `incus` command, and CPU."""

    def __init__(self, server: programs.Server) -> None:
        self._server = server
        self._before = self._now()

    def _now(self) -> tuple[Counter[str], dict[str, float], float, float]:
        text = self._server.get("/metrics").body.decode()
        counts = re.findall(r'clincus_incus_call_seconds_count{call="(\w+)"} (\d+)', text)
        sums = re.findall(r'clincus_incus_call_seconds_sum{call="(\w+)"} (\S+)', text)
        own = float(re.findall(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)[0])
        all_of_it = sum(Process(self._server.process.pid).times)
        lasted = {call: float(seconds) for call, seconds in sums}
        return Counter({call: int(count) for call, count in counts}), lasted, own, all_of_it

    def seconds(self) -> tuple[float, float]:
        """CPU of the server itself, and of its children that have ended."""
        now = self._now()
        own = now[2] - self._before[2]
        return own, now[3] - self._before[3] - own

    def words(self, count: int = 1) -> str:
        own, others = (seconds / count * 1000 for seconds in self.seconds())
        calls, lasted, *_ = self._now()
        parts = []
        for call, number in sorted((calls - self._before[0]).items()):
            each = (lasted[call] - self._before[1].get(call, 0)) / number * 1000
            parts.append(f"{call} {number / count:.2g} ({each:.0f} ms each)")
        return (
            f"{own:.0f} ms of CPU in the server and {others:.0f} ms in its children; "
            f"calls of incus: {', '.join(parts) or 'none'}"
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

    def repository(self, name: str, files: int) -> Path:
        """A repository with so many small files, a tenth of them changed since."""
        folder = self.folder / name
        folder.mkdir()
        paths = [folder / f"{number % 100:02}" / f"{number}.txt" for number in range(files)]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"file {path.name}\n" * 40)
        programs.git(folder, "init", "--quiet", "--initial-branch=main")
        programs.git(folder, "add", ".")
        programs.git(folder, "commit", "--quiet", "--message=Begin")
        for path in paths[: files // 10]:
            path.write_text(f"changed {path.name}\n" * 40)
        return folder

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
    with incus_bed.own_daemon() as bed, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        try:
            yield House(bed, Path(folder))
        finally:
            bed.delete_all()  # before the folders that they mount


def delete(server: programs.Server, id: str) -> None:
    server.delete(f"/api/sessions/{id}?force=true", timeout=120)


def create_seconds(server: programs.Server, folder: Path, **fields: Any) -> float:
    """Seconds of a create; the session is deleted afterwards."""
    began = time.perf_counter()
    session = server.create(folder, **fields)
    taken = time.perf_counter() - began
    delete(server, session["id"])
    return taken


class Client:
    """One kept HTTP connection. It does next to nothing with an answer: what is measured is the server."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = socket.create_connection((host, port), timeout=60)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = f"{host}:{port}"
        self.status = 0  # of the last answer

    def get(self, path: str) -> tuple[float, bytes]:
        began = time.perf_counter()
        self._connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        head, body, length = b"", b"", 1
        while len(body) < length:
            data = self._connection.recv(1 << 18)
            if not data:
                raise ConnectionError("the server hung up")
            if not head:
                head, _, data = data.partition(b"\r\n\r\n")  # the servers here send the whole head at once
                self.status = int(head[9:12])
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
            body += data
        return time.perf_counter() - began, body

    def close(self) -> None:
        self._connection.close()


# -- A bench of its own


def run_alone(
    about: str | None, work: Callable[[House, Results, argparse.Namespace], object], **numbers: float
) -> None:
    """Run one bench, whose options are numbers with these defaults, and end with 1 if it failed.

    `about` is the docstring of its module.
    """
    parser = argparse.ArgumentParser(description=(about or "").split("\n", maxsplit=1)[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{default} if not given")
    parser.add_argument("--write", type=Path, help="where to write the result as JSON")
    options = parser.parse_args()
    results = Results(options.write)
    with house() as made, results.part(Path(sys.argv[0]).stem):
        work(made, results, options)
    sys.exit(1 if results.run().failed else 0)
