"""Load the server for a while and see that it stays as it was. Prints tables; asserts nothing.

    python -m tests.bench.bench_load [--minutes 15] [--sessions 20] [--terminals 200] [--subscribers 300] [--rate 50]

All of it is on loopback, against a server and an Incus that it starts itself: terminals with output, subscribers of
events, and requests.
"""

from __future__ import annotations

import argparse
import itertools
import re
import time
from collections.abc import Iterator, Mapping

from websockets.sync.client import connect

from tests import programs
from tests.bench.bench_server import constant_server
from tests.bench.figures import Results, Row
from tests.bench.load_clients import Work, ask, hold
from tests.bench.measuring import House, Process, Spent, delete, percentile, run_alone

State = tuple[float, int, int, int]  # memory in MB, threads, descriptors, children
CALM = 50  # moments of which the least counts
SETTLE = 60.0  # seconds at most for all to be over
GIVE_BACK = 65.0  # seconds in which the server gives freed memory back: it does every 30, and twice is sure
EVENTS = "clincus.events.v1"
# What is as it should be, of all that is counted.
FINE = "requests 200|(terminals|events)( opened)?"
OUTPUT = b"sh while sleep 0.5; do echo $RANDOM some output of a tool that works $RANDOM; done\r"


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


def start_printing(server: programs.Server, id: str) -> None:
    """Let a session's tool print a line now and then, until the session is deleted."""
    with connect(f"{server.socket_url}/ws/terminal/{id}", ping_interval=None) as terminal:
        terminal.send(OUTPUT)
        time.sleep(0.2)


def open_crowd(server: programs.Server, ids: list[str], options: argparse.Namespace) -> Work:
    terminals = itertools.islice(itertools.cycle(ids), options.terminals)
    wanted = [(f"/ws/terminal/{id}", "") for id in terminals] + [("/ws/events", EVENTS)] * options.subscribers
    crowd = Work(hold, (server.host, server.port), wanted)
    if not crowd.ready.wait(300):
        print("  not all terminals and subscribers could be opened")
    return crowd


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    made.sessions(options.sessions)
    with made.server() as server:
        process, address = Process(server.process.pid), (server.host, server.port)
        printing = [one["id"] for one in server.get("/api/sessions").json]
        for id in printing:
            start_printing(server, id)
        time.sleep(10)
        rest = state(process, "at rest, sessions run", CALM)
        others = ["/metrics", "/api/sessions/history", f"/api/sessions/{printing[0]}/agent"]
        with constant_server(server.get("/api/sessions").body) as bare:
            crowd = open_crowd(server, printing, options)
            requests, spent = Work(ask, address, bare, others, options.rate), Spent(server)
            time.sleep(options.minutes * 60)
            calls = spent.words(round(options.minutes * 60))
            end = state(process, "at the end")
            got: dict[str, int] = crowd.end()
            listings, baselines, answers = requests.end()
        after = state_afterwards(process, rest, "the load")
        note = f"{options.terminals} terminals, {options.subscribers} subscribers, {options.rate:g} requests/s, "
        note += f"{options.minutes:g} minutes; in a second of it {calls}; "
        results.add(
            listing_row(listings, baselines, note),
            lost_row({**got, **answers}),
            *taken({"at rest": rest, "at the end": end, "afterwards": after}),
        )
        for id in printing:
            delete(server, id)


def listing_row(ours: list[float], bare: list[float], note: str) -> Row:
    p50, bare_p50 = (percentile(values, 0.5) * 1000 for values in (ours, bare))
    words = f"{note}p50 {p50:.1f} ms of {len(ours)}, that of the baseline {bare_p50:.1f} ms"
    figure = "load: GET /api/sessions, p99"
    return Row(figure, "s", percentile(ours, 0.99), 0.050, percentile(bare, 0.99), note=words)


def lost_row(counts: Mapping[str, int]) -> Row:
    lost = {name: count for name, count in counts.items() if not re.fullmatch(FINE, name)}
    note = "; ".join(f"{count} times {name}" for name, count in lost.items()) or "nothing"
    return Row("load: what was lost or refused", "", sum(lost.values()), 0, note=note)


def taken(states: Mapping[str, State]) -> Iterator[Row]:
    (_, first), *others = states.items()
    for which, (what, unit) in enumerate((("memory", "MB"), ("threads", ""), ("descriptors", ""))):
        for when, one in others:
            goal = 0 if unit == "" and when.startswith("after") else None
            yield Row(f"load: {what} {when}", unit, one[which], goal, first[which], "more")


if __name__ == "__main__":
    run_alone(__doc__, measure, minutes=15.0, sessions=20, terminals=200, subscribers=300, rate=50.0)
