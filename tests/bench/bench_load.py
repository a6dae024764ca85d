"""Load the server for a while and see that it stays as it was. Prints tables; asserts nothing.

    python -m tests.bench.bench_load [--minutes 15] [--sessions 20] [--terminals 200] [--subscribers 300] [--rate 50]

All of it is on loopback, against a server and an Incus that it starts itself: terminals with output, subscribers of
events, requests, prompts, and sessions that are stopped, saved and resumed. In the second half some clients do not read
what they asked for. At the end clients connect and vanish, a thousand times.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from websockets.sync.client import connect

from tests import programs
from tests.bench.bench_server import constant_server
from tests.bench.bench_terminal import attach_of
from tests.bench.figures import Results, Row
from tests.bench.load_clients import Sample, Work, ask, hold, type_keys, upgrade
from tests.bench.measuring import TICKS, House, Process, Spent, at_once, delete, percentile, run_alone

State = tuple[float, int, int, int]  # memory in MB, threads, descriptors, children
PROMPT_PAUSE, STOP_PAUSE = 5.0, 30.0
CALM = 50  # moments of which the least counts
SETTLE = 60.0  # seconds at most for all to be over
GIVE_BACK = 65.0  # seconds in which the server gives freed memory back: it does every 30, and twice is sure
# The stand-in of the tests as a tool with rules of its own, so that the server knows when it takes a prompt.
TOOL = r"""[tools.mine]
command = ["opencode"]
rules = [{ state = "ready", pattern = '^(STUB-READY|echo: ).*\Z', last = 1 }]
"""
EVENTS = "clincus.events.v1"
BEFORE, LOADED, SILENT = "before", "loaded", "loaded, some do not read"  # the phases
# What is as it should be, of all that is counted. The stand-in of a tool never confirms a prompt.
FINE = "requests 200|prompts [a-z]+|stopped and saved: 204|resumed: 200|(terminals|events)( opened)?"
OUTPUT = "sh while sleep 0.5; do echo $RANDOM some output of a tool that works $RANDOM; done"


# -- Who uses the processors


def containers() -> float:
    """CPU seconds of all containers that run (cgroups of version 2)."""
    total = 0.0
    for path in Path("/sys/fs/cgroup").glob("lxc.payload.*/cpu.stat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split("usage_usec ")[1].split()[0]) / 1e6
    return total


def used(server: int, daemon: int, clients: Iterable[int]) -> dict[str, float]:
    """CPU seconds so far of each party, none of them twice; what is left is the kernel's, and that of Incus's helpers.

    `server`, `daemon` and `clients` are numbers of processes.
    """
    own, ended = Process(server).times
    found = {
        "the server": own,
        "its `incus` commands": ended + sum(sum(Process(pid).times) for pid in Process(server).children),
        "the daemon": Process(daemon).times[0],
        "what runs in containers": containers(),
        "the clients": sum(Process(pid).times[0] for pid in clients),
    }
    user, nice, system, _idle, _waiting, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    whole = (user + nice + system + sum(interrupts[:2])) / TICKS
    return {**found, "everything else": whole - sum(found.values())}


# -- What was seen


@dataclass
class Phase:
    """A time in which the load is the same, and what was seen of the server and of the machine then."""

    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)  # processors that each party kept busy
    calls: str = ""  # what the server has spent, in words
    state: State = (0.0, 0, 0, 0)  # at its end

    def of(self, samples: Iterable[Sample]) -> list[float]:
        """The seconds of those that were taken in it."""
        return [seconds for at, seconds in samples if self.began <= at <= self.ended]


def state(process: Process, when: str, looks: int = 1) -> State:
    """Print a line of the table of what the server takes, and return it.

    Looks at tools come and go: of several moments the least of each figure counts.
    """
    found = []
    for number in range(looks):
        time.sleep(0.2 * (number > 0))
        found.append((process.memory, process.threads, process.descriptors, len(process.children)))
    memory, threads, descriptors, children = (min(figures) for figures in zip(*found))
    words = f"{memory:8.1f} MB {threads:6} threads {descriptors:6} descriptors {children:5} children"
    print(f"{when:34} {words}", flush=True)
    return memory, threads, descriptors, children


def state_afterwards(process: Process, rest: State, what: str) -> State:
    """What the server takes when something is over, and memory was given back."""
    began = time.monotonic()
    while time.monotonic() - began < SETTLE:
        if process.threads <= rest[1] and process.descriptors <= rest[2] and len(process.children) <= rest[3]:
            break
        time.sleep(0.5)
    state(process, f"{time.monotonic() - began:.0f} s after {what}")
    time.sleep(GIVE_BACK)
    return state(process, "and later", CALM)


# -- The load


class Loaded:
    """A server under load, and what is seen of it."""

    def __init__(self, made: House, server: programs.Server, options: argparse.Namespace) -> None:
        self.server, self.options = server, options
        self.phases: dict[str, Phase] = {}
        self.done: Counter[str] = Counter()  # what was done beside, and how it went
        self.stopping = threading.Event()
        self.address = server.host, server.port
        self.process = Process(server.process.pid)
        self._daemon = made.bed.daemon.pid if made.bed.daemon else 0
        self._clients = [os.getpid()]
        self.ids: list[str] = []
        numbers = iter(range(options.sessions + 4))

        def create(_: int) -> None:
            for number in numbers:
                self.ids.append(server.create(made.workspace(number // 8), tool="mine")["id"])

        at_once(3, create)
        self.untouched, self.worked, self.printing = self.ids[:2], self.ids[2:4], self.ids[4:]
        for id in self.printing:  # their tools print a line now and then, until they are deleted
            with connect(f"{server.socket_url}/ws/terminal/{id}", ping_interval=None) as terminal:
                terminal.send(OUTPUT.encode() + b"\r")
                time.sleep(0.2)

    def run(self) -> None:
        """Load it."""
        attach = attach_of(self.server, self.untouched[1], "/ws/shell/")
        others = ["/metrics", "/api/sessions/history", *(f"/api/sessions/{id}/agent" for id in self.ids[-2:])]
        worker = threading.Thread(target=self.work_with_sessions)
        half = self.options.minutes * 30
        with constant_server(self.server.get("/api/sessions").body) as bare:
            keys = self._start(type_keys, self.address, f"/ws/shell/{self.untouched[0]}", attach)
            requests = self._start(ask, self.address, bare, others, self.options.rate)
            worker.start()
            with self._phase(BEFORE):
                time.sleep(20)
            crowd = self.open_crowd()
            with self._phase(LOADED):
                self._stay(LOADED, half)
            # These make 507 connections of the 512 that a server takes: requests need some for themselves.
            with self.silent_clients(), self._phase(SILENT):
                self._stay(SILENT, half)
            self.got: dict[str, int] = crowd.end()
            self.stopping.set()
            self.echoes, self.bare_echoes, wrong = keys.end()
            self.listings, self.bare_listings, answers = requests.end()
        self.done.update({**wrong, **answers})
        worker.join()

    def _start(self, target: object, *arguments: object) -> Work:
        work = Work(target, *arguments)  # type: ignore[arg-type]
        self._clients.append(work.pid)
        return work

    def open_crowd(self) -> Work:
        """Open terminals and subscribers, and wait until all are open."""
        ids = itertools.islice(itertools.cycle(self.printing), self.options.terminals)
        wanted = [(f"/ws/terminal/{id}", "") for id in ids] + [("/ws/events", EVENTS)] * self.options.subscribers
        crowd = self._start(hold, self.address, wanted)
        if not crowd.ready.wait(300):
            print("  not all terminals and subscribers could be opened")
        return crowd

    def work_with_sessions(self) -> None:
        """Send prompts to those that do not print, and stop, save and resume one now and then."""
        next_stop = time.monotonic() + STOP_PAUSE / 2
        for id in itertools.cycle(self.worked):
            if self.stopping.wait(PROMPT_PAUSE):
                return
            path = f"/api/sessions/{id}"
            try:
                prompt = {"text": f"please count {time.monotonic():.0f}"}
                answer = self.server.post(f"{path}/prompt", prompt, timeout=60)
                self.done[f"prompts {answer.json.get('result', answer.status)}"] += 1
                if time.monotonic() >= next_stop:
                    next_stop = time.monotonic() + STOP_PAUSE
                    self.done[f"stopped and saved: {self.server.delete(path, timeout=120).status}"] += 1
                    self.done[f"resumed: {self.server.post(f'{path}/resume', timeout=120).status}"] += 1
            except OSError as error:
                self.done[f"work lost: {type(error).__name__}"] += 1

    @contextlib.contextmanager
    def silent_clients(self) -> Iterator[None]:
        """Clients that ask for terminals and events and then do not read."""
        with contextlib.ExitStack() as held:
            for path in [*(f"/ws/terminal/{id}" for id in self.printing[:2]), *["/ws/events"] * 2]:
                client = held.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(self.address)
                client.sendall(upgrade(self.address, path))
            yield

    def vanish(self) -> None:
        """Connect and go away without a word, in each way that there is; a tenth opens a terminal."""
        cut = [b"", b"GET /api/sess", b"GET /api/sessions HTTP/1.1\r\nHost: "]
        answered = [upgrade(self.address, path) for path in ("/ws/events", f"/ws/terminal/{self.printing[0]}")]
        for number in range(self.options.cycles):
            with socket.socket() as client:
                client.connect(self.address)
                words = answered[1] if number % 10 == 9 else [*cut, answered[0]][number % 4]
                with contextlib.suppress(OSError):
                    client.sendall(words)
                    if words in answered:
                        client.settimeout(5)
                        client.recv(100)
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Note what all parties spend while the block runs."""
        phase = self.phases[name] = Phase()
        spent, before = Spent(self.server), used(self.process.pid, self._daemon, self._clients)
        yield
        phase.ended = time.monotonic()
        seconds = phase.ended - phase.began
        after = used(self.process.pid, self._daemon, self._clients)
        phase.shares = {who: (after[who] - before[who]) / seconds for who in after}
        phase.calls = spent.words(round(seconds))
        phase.state = state(self.process, f"{name}, ends")

    def _stay(self, phase: str, seconds: float) -> None:
        """Let the load go on, and look at the server."""
        for part in ("begins", "goes on"):
            time.sleep(seconds / 3)
            state(self.process, f"{phase}, {part}")
        time.sleep(seconds / 3)


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    """The whole bench."""
    with made.server(TOOL) as server:
        loaded = Loaded(made, server, options)
        process = loaded.process
        time.sleep(10)
        rest = state(process, "at rest, sessions run", CALM)
        loaded.run()
        after = state_afterwards(process, rest, "the load")
        loaded.vanish()
        last = state_afterwards(process, rest, f"{options.cycles} that vanished")
        loaded.open_crowd().end()
        again = state_afterwards(process, rest, "as many terminals and subscribers once more")
        results.add(*rows(loaded))
        middle, end = (loaded.phases[name].state for name in (LOADED, SILENT))
        results.add(*taken({"at rest": rest, "in the middle": middle, "at the end": end, "afterwards": after}))
        results.add(*taken({"afterwards": after, f"after {options.cycles} that vanished": last}))
        results.add(*taken({"afterwards": after, "after as many once more": again}))
        print(f"  {dict(loaded.done)}\n  the crowd got {loaded.got}")
        log = [line for line in server.log().splitlines() if re.search("Traceback|failed|reached|not ", line)]
        print(f"  lines of the log with a failure: {len(log)}", *log[:5], sep="\n    ")
        for id in loaded.ids:
            delete(server, id)


def rows(loaded: Loaded) -> Iterator[Row]:
    """The rows of what the clients saw, and of who used the processors."""
    before, busy, silent = (loaded.phases[name] for name in (BEFORE, LOADED, SILENT))
    options = loaded.options

    def row(figure: str, ours: list[float], bare: list[float], goal: float | None = None, note: str = "") -> Row:
        p50, bare_p50 = (percentile(values, 0.5) * 1000 for values in (ours, bare))
        words = f"{note}p50 {p50:.1f} ms of {len(ours)}, that of the baseline {bare_p50:.1f} ms"
        return Row(f"load: {figure}, p99", "s", percentile(ours, 0.99), goal, percentile(bare, 0.99), note=words)

    listings, bare_listings = (
        [*busy.of(samples), *silent.of(samples)] for samples in (loaded.listings, loaded.bare_listings)
    )
    note = f"{options.terminals} terminals, {options.subscribers} subscribers, {options.rate:g} requests/s, "
    note += f"{options.minutes:g} minutes; "
    yield row("GET /api/sessions", listings, bare_listings, 0.050, note)
    for figure, phase, goal in (
        ("key echo of an untouched terminal", busy, 0.030),
        ("the same while clients do not read", silent, None),
        ("the same before the load", before, None),
    ):
        yield row(figure, phase.of(loaded.echoes), phase.of(loaded.bare_echoes), goal)
    lost = {name: count for name, count in {**loaded.done, **loaded.got}.items() if not re.fullmatch(FINE, name)}
    note = "; ".join(f"{count} times {name}" for name, count in lost.items()) or "nothing"
    yield Row("load: what was lost or refused", "", sum(lost.values()), 0, note=note)
    note = f"in a second of the load {busy.calls}; before it {before.calls}"
    for who, share in busy.shares.items():
        yield Row(f"load: processors that {who} kept busy", "", share, None, before.shares[who], "more", note=note)
        note = ""


def taken(states: Mapping[str, State]) -> Iterator[Row]:
    """The rows of what the server took of the machine, each held against the first."""
    (_, first), *others = states.items()
    for which, (what, unit) in enumerate((("memory", "MB"), ("threads", ""), ("descriptors", ""))):
        for when, one in others:
            goal = 0 if unit == "" and when.startswith("after") else None
            yield Row(f"load: {what} {when}", unit, one[which], goal, first[which], "more")


if __name__ == "__main__":
    run_alone(__doc__, measure, minutes=15.0, sessions=20, terminals=200, subscribers=300, rate=50.0, cycles=1000)
