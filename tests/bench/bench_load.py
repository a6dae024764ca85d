"""Load the server for a while and see that it stays as it was. Prints tables; asserts nothing.

    python tests/bench/bench_load.py [--minutes 15] [--sessions 20] [--terminals 200] [--subscribers 300] [--rate 50]

All of it is on loopback, against a server and an Incus that it starts itself: terminals with output, subscribers of
events, requests, prompts, and sessions that are stopped, saved and resumed. In the second half some clients do not read
what they asked for. At the end clients connect and vanish, a thousand times.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from tests import programs
from tests.bench.measuring import Client, House, Process, Results, Row, delete, house, percentile

State = tuple[float, int, int, int]  # memory in MB, threads, descriptors, children
KEY_PAUSE = 0.1  # seconds between two keys
PROMPT_PAUSE, STOP_PAUSE = 5.0, 30.0
SETTLE = 60.0  # seconds at most for all to be over
GIVE_BACK = 35.0  # seconds in which the server gives freed memory back: it looks every 15
# The stand-in of the tests as a tool with rules of its own, so that the server knows when it takes a prompt.
TOOL = r"""[tools.mine]
command = ["opencode"]
rules = [{ state = "ready", pattern = '^(STUB-READY|echo: ).*\Z', last = 1 }]
"""
EVENTS: Any = ["clincus.events.v1"]
SILENT = "loaded, some do not read"  # the second phase
# What is as it should be, of all that is counted. The stand-in of a tool never confirms a prompt.
FINE = "requests 200|prompts [a-z]+|stopped and saved: 204|resumed: 200|(terminals|events)( opened)?"
OUTPUT = "sh while sleep {pause}; do echo $RANDOM some output of a tool that works $RANDOM; done"


@dataclass
class Figures:
    """What was measured while the load was on, by phase."""

    listings: dict[str, list[float]] = field(default_factory=dict)  # seconds of GET /api/sessions
    echoes: dict[str, list[float]] = field(default_factory=dict)  # seconds from a key to its echo
    done: Counter[str] = field(default_factory=Counter)  # what else was done, and how it went
    phase: str = "before"
    stopping: threading.Event = field(default_factory=threading.Event)


# -- Clients in a process of their own, so that they take no time from those that measure


@dataclass
class Crowd:
    """Terminals and subscribers that are open at a time, and read."""

    terminals: list[str]  # addresses
    events: str
    subscribers: int
    ready: Event = field(default_factory=multiprocessing.Event)  # all are open
    over: Event = field(default_factory=multiprocessing.Event)
    got: Any = field(default_factory=multiprocessing.Queue)  # what came, at the end


def hold(crowd: Crowd) -> None:
    """Open all of them and read what comes, until it is over."""
    asyncio.run(_hold(crowd))


async def _hold(crowd: Crowd) -> None:
    count = Counter[str]()
    few = asyncio.Semaphore(10)  # handshakes at a time

    async def follow(url: str, **options: Any) -> None:
        kind, last = ("terminals" if "terminal" in url else "events"), b""
        try:
            async with few:
                client = await connect_async(url, open_timeout=120, compression=None, ping_interval=None, **options)
            count[f"{kind} opened"] += 1
            async for message in client:
                count[kind] += len(message)
                last = message if isinstance(message, bytes) else last
            count[f"{kind} closed: {client.close_code} {client.close_reason} {last[-120:]!r}"] += 1
        except Exception as error:
            count[f"{kind} lost: {error!r}"] += 1

    tasks = [asyncio.create_task(follow(url)) for url in crowd.terminals]
    tasks += [asyncio.create_task(follow(crowd.events, subprotocols=EVENTS)) for _ in range(crowd.subscribers)]
    while len(tasks) > sum(count[name] for name in count if re.search("opened|lost", name)) and not crowd.over.is_set():
        await asyncio.sleep(0.1)
    crowd.ready.set()
    while not crowd.over.is_set():
        await asyncio.sleep(0.2)
    crowd.got.put(dict(count))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- Clients that measure


def type_keys(url: str, figures: Figures) -> None:
    """Type into a terminal that nothing else touches, and note how long each key takes to come back."""
    with connect(url, compression=None, ping_interval=None) as terminal:
        time.sleep(1)
        for number in itertools.count():
            if figures.stopping.wait(KEY_PAUSE):
                return
            with contextlib.suppress(TimeoutError):
                while True:
                    terminal.recv(timeout=0)  # the status line and the like
            began = time.perf_counter()
            terminal.send(b"x" if number % 2 == 0 else b"\x7f")
            try:
                terminal.recv(timeout=10)
            except TimeoutError:
                figures.done["keys without an echo"] += 1
                continue
            figures.echoes.setdefault(figures.phase, []).append(time.perf_counter() - began)


def ask(server: programs.Server, figures: Figures, ids: list[str], rate: float, offset: float) -> None:
    """Send GET requests at a rate, most of them for the list."""
    client = Client(server.host, server.port)
    others = itertools.cycle(
        [f"/api/sessions/{ids[0]}", "/metrics", "/api/sessions/history", f"/api/sessions/{ids[-1]}/agent"]
    )
    due = time.monotonic() + offset / rate
    for number in itertools.count():
        due += 1 / rate
        if figures.stopping.wait(max(0.0, due - time.monotonic())):
            return
        try:
            seconds, _ = client.get("/api/sessions" if number % 5 else next(others))
            figures.done[f"requests {client.status}"] += 1
            if number % 5:
                figures.listings.setdefault(figures.phase, []).append(seconds)
        except OSError as error:
            figures.done[f"requests lost: {error!r}"] += 1
            with contextlib.suppress(OSError):
                client = Client(server.host, server.port)


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
            client.sendall(upgrade(server, path))
        yield


def upgrade(server: programs.Server, path: str) -> bytes:
    """The head of a request for a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {server.host}:{server.port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


def vanish(server: programs.Server, id: str, cycles: int) -> None:
    """Connect and go away without a word, in each way that there is; a tenth opens a terminal."""
    ways = [b"", b"GET /api/sess", b"GET /api/sessions HTTP/1.1\r\nHost: ", upgrade(server, "/ws/events")]
    for number in range(cycles):
        with socket.socket() as client:
            client.connect((server.host, server.port))
            is_terminal = number % 10 == 9
            with contextlib.suppress(OSError):
                client.sendall(upgrade(server, f"/ws/terminal/{id}") if is_terminal else ways[number % len(ways)])
                if is_terminal or number % len(ways) == len(ways) - 1:  # it will be answered
                    client.settimeout(5)
                    client.recv(100)
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset


# -- The run


def state(process: Process, when: str) -> State:
    """Print a line of the table of what the server takes, and return it."""
    figures = process.memory, process.threads, process.descriptors, len(process.children)
    memory, threads, descriptors, children = figures
    print(
        f"{when:34} {memory:8.1f} MB {threads:6} threads {descriptors:6} descriptors {children:5} children", flush=True
    )
    return figures


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


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    """The whole bench."""
    figures = Figures()
    with made.server(TOOL) as server:
        process = Process(server.process.pid)
        ids = start_sessions(made, server, options.sessions + 3)
        untouched, worked, printing = ids[0], ids[1:3], ids[3:]
        for id in printing:
            print_output(server, id, options.output_pause)
        time.sleep(10)
        rest = state(process, "at rest, sessions run")

        measuring = [threading.Thread(target=type_keys, args=(f"{server.socket_url}/ws/shell/{untouched}", figures))]
        for number in range(2):
            measuring.append(
                threading.Thread(target=ask, args=(server, figures, ids, options.rate / 2, number / 2), daemon=True)
            )
        measuring.append(threading.Thread(target=work_with_sessions, args=(server, figures, worked)))
        for thread in measuring:
            thread.start()
        time.sleep(10)
        with load(server, printing, options) as got:
            middle = stay(process, figures, "loaded", options.minutes * 30)
            # These make 507 connections of the 512 that a server takes: requests need some for themselves.
            with silent_clients(server, printing[:2], 2):
                end = stay(process, figures, SILENT, options.minutes * 30)
        figures.stopping.set()
        for thread in measuring:
            thread.join()
        took = settle(process, rest)
        state(process, f"{took:.0f} s after")
        time.sleep(GIVE_BACK)
        settle(process, rest)  # looks at tools come and go
        after = state(process, "and later")

        vanish(server, printing[0], options.cycles)
        took_again = settle(process, rest)
        state(process, f"{took_again:.0f} s after {options.cycles} that vanished")
        time.sleep(GIVE_BACK)
        settle(process, rest)
        last = state(process, "and later")
        report(results, figures, got, options)
        results.add(*taken({"at rest": rest, "in the middle": middle, "at the end": end, "afterwards": after}))
        results.add(*taken({"afterwards": after, f"after {options.cycles} that vanished": last}))
        print(f"  {dict(figures.done)}\n  the clients got {got}")
        log = [line for line in server.log().splitlines() if re.search("Traceback|failed|reached|not ", line)]
        print(f"  lines of the log with a failure: {len(log)}", *log[:5], sep="\n    ")
        for id in ids:
            delete(server, id)


def stay(process: Process, figures: Figures, phase: str, seconds: float) -> State:
    """Let the load go on, and look at the server three times; gives what was seen last."""
    figures.phase = phase
    for part in ("begins", "goes on", "ends"):
        time.sleep(seconds / 3)
        last = state(process, f"{phase}, {part}")
    return last


@contextlib.contextmanager
def load(server: programs.Server, ids: list[str], options: argparse.Namespace) -> Iterator[dict[str, int]]:
    """Hold terminals and subscribers open; yields what they got, which is known at the end."""
    urls = [f"{server.socket_url}/ws/terminal/{ids[number % len(ids)]}" for number in range(options.terminals)]
    crowd = Crowd(urls, f"{server.socket_url}/ws/events", options.subscribers)
    holder = multiprocessing.Process(target=hold, args=(crowd,))
    holder.start()
    found: dict[str, int] = {}
    try:
        if not crowd.ready.wait(300):
            print("  not all terminals and subscribers could be opened")
        yield found
    finally:
        crowd.over.set()
        found |= crowd.got.get(timeout=30)
        holder.join(30)


def report(results: Results, figures: Figures, got: Mapping[str, int], options: argparse.Namespace) -> None:
    """Add the rows of what the clients saw."""
    listings = figures.listings.get("loaded", []) + figures.listings.get(SILENT, [])
    lost = {name: count for name, count in {**figures.done, **got}.items() if not re.fullmatch(FINE, name)}
    echoes = figures.echoes
    results.add(
        Row("load: GET /api/sessions, p99", "s", percentile(listings, 0.99), 0.050,
            note=f"{options.terminals} terminals, {options.subscribers} subscribers, {options.rate:g} requests/s, "
            f"{options.minutes:g} minutes; p50 {percentile(listings, 0.5) * 1000:.1f} ms of {len(listings)}"),
        Row("load: key echo of an untouched terminal, p99", "s", percentile(echoes["loaded"], 0.99), 0.030,
            note=f"p50 {percentile(echoes['loaded'], 0.5) * 1000:.1f} ms of {len(echoes['loaded'])}; "
            f"without the load p99 {percentile(echoes['before'], 0.99) * 1000:.1f} ms"),
        Row("load: the same while clients do not read, p99", "s", percentile(echoes[SILENT], 0.99),
            floor=percentile(echoes["loaded"], 0.99), compare="times"),
        Row("load: what was lost or refused", "", sum(lost.values()), 0,
            note="; ".join(f"{count} times {name}" for name, count in lost.items()) or "nothing"),
    )  # fmt: skip


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
    options, results = options_of(), Results()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with house() as made:
        measure(made, results, options)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    if options.write:
        results.write(options.write)
        print(json.dumps(results.about))


if __name__ == "__main__":
    main()
