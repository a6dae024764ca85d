"""Load the server for a while and see that it stays as it was. Prints tables; asserts nothing.

    python tests/bench/bench_load.py [--minutes 15] [--sessions 20] [--terminals 200] [--subscribers 300] [--rate 50]

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
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from websockets.sync.client import connect

from tests import programs
from tests.bench import spending
from tests.bench.bench_server import constant_server
from tests.bench.bench_terminal import attach_of
from tests.bench.figures import Results, Row
from tests.bench.load_clients import Sample, Work, ask, hold, type_keys, upgrade
from tests.bench.measuring import House, Process, Spent, delete, house, percentile

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
OUTPUT = "sh while sleep {pause}; do echo $RANDOM some output of a tool that works $RANDOM; done"


@dataclass
class Phase:
    """A time in which the load is the same, and what was seen of the server and of the machine then."""

    name: str
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)  # processors that each party kept busy
    calls: str = ""  # what the server has spent, in words
    state: State = (0.0, 0, 0, 0)  # at its end

    def of(self, samples: Iterable[Sample]) -> list[float]:
        """The seconds of those that were taken in it."""
        return [seconds for at, seconds in samples if self.began <= at <= self.ended]


@dataclass
class Figures:
    """What was measured while the load was on: seconds, each with its time, of the server and of its baselines."""

    phases: dict[str, Phase] = field(default_factory=dict)
    listings: list[Sample] = field(default_factory=list)
    bare_listings: list[Sample] = field(default_factory=list)
    echoes: list[Sample] = field(default_factory=list)
    bare_echoes: list[Sample] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)  # what else was done, and how it went
    stopping: threading.Event = field(default_factory=threading.Event)


# -- Work beside the clients of load_clients.py


def work_with_sessions(server: programs.Server, figures: Figures, ids: list[str]) -> None:
    """Send prompts to those that do not print, and stop, save and resume one now and then."""
    next_stop = time.monotonic() + STOP_PAUSE / 2
    for id in itertools.cycle(ids):
        if figures.stopping.wait(PROMPT_PAUSE):
            return
        path = f"/api/sessions/{id}"
        try:
            answer = server.post(f"{path}/prompt", {"text": f"please count {time.monotonic():.0f}"}, timeout=60)
            figures.done[f"prompts {answer.json.get('result', answer.status)}"] += 1
            if time.monotonic() >= next_stop:
                next_stop = time.monotonic() + STOP_PAUSE
                figures.done[f"stopped and saved: {server.delete(path, timeout=120).status}"] += 1
                figures.done[f"resumed: {server.post(f'{path}/resume', timeout=120).status}"] += 1
        except OSError as error:
            figures.done[f"work lost: {type(error).__name__}"] += 1


@contextlib.contextmanager
def silent_clients(server: programs.Server, terminals: list[str], subscribers: int) -> Iterator[None]:
    """Clients that ask for terminals and events and then do not read."""
    with contextlib.ExitStack() as held:
        for path in [*(f"/ws/terminal/{id}" for id in terminals), *["/ws/events"] * subscribers]:
            client = held.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((server.host, server.port))
            client.sendall(upgrade((server.host, server.port), path))
        yield


def vanish(server: programs.Server, id: str, cycles: int) -> None:
    """Connect and go away without a word, in each way that there is; a tenth opens a terminal."""
    address = server.host, server.port
    ways = [b"", b"GET /api/sess", b"GET /api/sessions HTTP/1.1\r\nHost: ", upgrade(address, "/ws/events")]
    for number in range(cycles):
        with socket.socket() as client:
            client.connect(address)
            is_terminal = number % 10 == 9
            with contextlib.suppress(OSError):
                client.sendall(upgrade(address, f"/ws/terminal/{id}") if is_terminal else ways[number % len(ways)])
                if is_terminal or number % len(ways) == len(ways) - 1:  # it will be answered
                    client.settimeout(5)
                    client.recv(100)
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset


# -- The run


def state(process: Process, when: str, looks: int = 1) -> State:
    """Print a line of the table of what the server takes, and return it.

    Looks at tools come and go: of several moments the least of each figure counts.
    """
    found = []
    for number in range(looks):
        time.sleep(0.2 * (number > 0))
        found.append((process.memory, process.threads, process.descriptors, len(process.children)))
    memory, threads, descriptors, children = (min(figures) for figures in zip(*found))
    print(
        f"{when:34} {memory:8.1f} MB {threads:6} threads {descriptors:6} descriptors {children:5} children", flush=True
    )
    return memory, threads, descriptors, children


def settle(process: Process, before: State) -> float:
    """Wait until threads and descriptors are what they were; the seconds that took. What is left is told."""
    began = time.monotonic()
    while time.monotonic() - began < SETTLE:
        if process.threads <= before[1] and process.descriptors <= before[2] and len(process.children) <= before[3]:
            return time.monotonic() - began
        time.sleep(0.5)
    for pid in process.children:  # looks at tools that print are among them at any time
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            age = time.time() - Path(f"/proc/{pid}").stat().st_mtime
            print(f"  still runs, for {age:.1f} s: {[word.partition(chr(10))[0][:60] for word in words][:24]}")
    return SETTLE


def start_sessions(made: House, server: programs.Server, count: int) -> list[str]:
    """Start so many sessions, three at a time."""
    ids: list[str] = []
    numbers = iter(range(count))

    def work() -> None:
        for number in numbers:
            ids.append(server.create(made.workspace(number // 8), tool="mine")["id"])

    run_threads([work] * 3)
    return ids


def run_threads(works: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def print_output(server: programs.Server, id: str, pause: float) -> None:
    """Let a session's tool print a line now and then, until the session is deleted."""
    with connect(f"{server.socket_url}/ws/terminal/{id}", ping_interval=None) as terminal:
        terminal.send(OUTPUT.format(pause=pause).encode() + b"\r")
        time.sleep(0.2)


class Loaded:
    """A server under load, and what is seen of it."""

    def __init__(self, made: House, server: programs.Server, options: argparse.Namespace) -> None:
        self.server, self.options, self.figures = server, options, Figures()
        self.address = server.host, server.port
        self.process = Process(server.process.pid)
        self._daemon = made.bed.daemon.pid if made.bed.daemon else 0
        self._clients = [os.getpid()]
        self.ids = start_sessions(made, server, options.sessions + 4)
        self.untouched, self.worked, self.printing = self.ids[:2], self.ids[2:4], self.ids[4:]
        for id in self.printing:
            print_output(server, id, options.output_pause)

    def run(self) -> dict[str, int]:
        """Load it; what the crowd got."""
        figures = self.figures
        attach = attach_of(self.server, self.untouched[1], "/ws/shell/")
        others = ["/metrics", "/api/sessions/history", *(f"/api/sessions/{id}/agent" for id in self.ids[-2:])]
        body = self.server.get("/api/sessions").body
        worker = threading.Thread(target=work_with_sessions, args=(self.server, figures, self.worked))
        with constant_server(body) as bare:
            keys = self._start(Work(type_keys, (self.address, f"/ws/shell/{self.untouched[0]}", attach)))
            requests = self._start(Work(ask, (self.address, bare, others, self.options.rate)))
            worker.start()
            with self._phase(BEFORE):
                time.sleep(20)
            crowd = self.open_crowd()
            half = self.options.minutes * 30
            with self._phase(LOADED):
                self._stay(LOADED, half)
            # These make 507 connections of the 512 that a server takes: requests need some for themselves.
            with silent_clients(self.server, self.printing[:2], 2), self._phase(SILENT):
                self._stay(SILENT, half)
            got: dict[str, int] = crowd.end()
            figures.stopping.set()
            figures.echoes, figures.bare_echoes, wrong = keys.end()
            figures.listings, figures.bare_listings, answers = requests.end()
        figures.done.update(wrong)
        figures.done.update(answers)
        worker.join()
        return got

    def _start(self, work: Work) -> Work:
        work.start()
        self._clients.append(work.pid)
        return work

    def open_crowd(self) -> Work:
        """Open terminals and subscribers, and wait until all are open."""
        ids = itertools.islice(itertools.cycle(self.printing), self.options.terminals)
        wanted = [(f"/ws/terminal/{id}", "") for id in ids] + [("/ws/events", EVENTS)] * self.options.subscribers
        crowd = self._start(Work(hold, (self.address, wanted)))
        if not crowd.ready.wait(300):
            print("  not all terminals and subscribers could be opened")
        return crowd

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Note what all parties spend while the block runs."""
        phase = self.figures.phases[name] = Phase(name)
        spent, before = Spent(self.server), self._spent()
        yield
        phase.ended = time.monotonic()
        phase.shares = spending.shares(before, self._spent())
        phase.calls = spent.words(round(phase.ended - phase.began))
        phase.state = state(self.process, f"{name}, ends")

    def _spent(self) -> dict[str, float]:
        return spending.spent(self.process.pid, self._daemon, self._clients)

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
        process, figures = loaded.process, loaded.figures
        time.sleep(10)
        rest = state(process, "at rest, sessions run", CALM)
        got = loaded.run()
        after = state_afterwards(process, rest, "the load")
        vanish(server, loaded.printing[0], options.cycles)
        last = state_afterwards(process, rest, f"{options.cycles} that vanished")
        loaded.open_crowd().end()
        again = state_afterwards(process, rest, "as many terminals and subscribers once more")
        report(results, figures, got, options)
        middle, end = (figures.phases[name].state for name in (LOADED, SILENT))
        results.add(*taken({"at rest": rest, "in the middle": middle, "at the end": end, "afterwards": after}))
        results.add(*taken({"afterwards": after, f"after {options.cycles} that vanished": last}))
        results.add(*taken({"afterwards": after, "after as many once more": again}))
        print(f"  {dict(figures.done)}\n  the crowd got {got}")
        log = [line for line in server.log().splitlines() if re.search("Traceback|failed|reached|not ", line)]
        print(f"  lines of the log with a failure: {len(log)}", *log[:5], sep="\n    ")
        for id in loaded.ids:
            delete(server, id)


def state_afterwards(process: Process, rest: State, what: str) -> State:
    """What the server takes when something is over, and memory was given back."""
    took = settle(process, rest)
    state(process, f"{took:.0f} s after {what}")
    time.sleep(GIVE_BACK)
    return state(process, "and later", CALM)


def report(results: Results, figures: Figures, got: Mapping[str, int], options: argparse.Namespace) -> None:
    """Add the rows of what the clients saw, and of who used the processors."""
    before, loaded, silent = (figures.phases[name] for name in (BEFORE, LOADED, SILENT))
    listings, bare_listings = (
        [*loaded.of(samples), *silent.of(samples)] for samples in (figures.listings, figures.bare_listings)
    )
    lost = {name: count for name, count in {**figures.done, **got}.items() if not re.fullmatch(FINE, name)}

    def echo(phase: Phase, share: float, bare: bool = False) -> float:
        return percentile(phase.of(figures.bare_echoes if bare else figures.echoes), share)

    def echo_row(figure: str, phase: Phase, goal: float | None = None) -> Row:
        note = f"p50 {echo(phase, 0.5) * 1000:.1f} ms, that of the baseline {echo(phase, 0.5, bare=True) * 1000:.1f} ms"
        return Row(f"load: {figure}", "s", echo(phase, 0.99), goal, echo(phase, 0.99, bare=True), note=note)

    results.add(
        Row("load: GET /api/sessions, p99", "s", percentile(listings, 0.99), 0.050, percentile(bare_listings, 0.99),
            note=f"{options.terminals} terminals, {options.subscribers} subscribers, {options.rate:g} requests/s, "
            f"{options.minutes:g} minutes; p50 {percentile(listings, 0.5) * 1000:.1f} ms of {len(listings)}, that of "
            f"the baseline {percentile(bare_listings, 0.5) * 1000:.1f} ms"),
        echo_row("key echo of an untouched terminal, p99", loaded, 0.030),
        echo_row("the same while clients do not read, p99", silent),
        echo_row("the same before the load, p99", before),
        Row("load: what was lost or refused", "", sum(lost.values()), 0,
            note="; ".join(f"{count} times {name}" for name, count in lost.items()) or "nothing"),
    )  # fmt: skip
    notes = {"the server": f"in a second of the load {loaded.calls}; before it {before.calls}"}
    for who, share in loaded.shares.items():
        baseline, note = before.shares[who], notes.get(who, "")
        results.add(Row(f"load: processors that {who} kept busy", "", share, None, baseline, "more", note=note))


def taken(states: Mapping[str, State]) -> Iterator[Row]:
    """The rows of what the server took of the machine, each held against the first."""
    (_, first), *others = states.items()
    for which, (what, unit) in enumerate((("memory", "MB"), ("threads", ""), ("descriptors", ""))):
        for when, one in others:
            goal = 0 if unit == "" and when.startswith("after") else None
            yield Row(f"load: {what} {when}", unit, one[which], goal, first[which], "more")


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """What is asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--terminals", type=int, default=200)
    parser.add_argument("--subscribers", type=int, default=300)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--cycles", type=int, default=1000, help="clients that vanish")
    parser.add_argument("--output-pause", type=float, default=0.5, help="seconds between two lines of a session")
    parser.add_argument("--write", type=Path, help="where to write the result as JSON")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    results = Results(options.write)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with house() as made, results.part("load"):
        measure(made, results, options)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    sys.exit(1 if results.run().failed else 0)


if __name__ == "__main__":
    main()
