"""The server: its start, listings, create, stop and resume, and what it takes at rest. bench_all.py runs it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import clincus
from tests import programs
from tests.bench.figures import LEAST_RUNS, Results, Row
from tests.bench.measuring import (
    Client,
    House,
    Process,
    Spent,
    create_seconds,
    delete,
    in_turns,
    timed,
)

TURNS, REQUESTS = 7, 300  # listings: connections one after the other, requests on each
STARTS, CREATES, STOPS = 7, 7, 5
SETTLED, SAVES = 150, 2  # seconds after which a server looks at nothing but what changes, and minutes of saves
RUNNING = 20  # sessions of a server at rest
COUNTS = (0, 20, 50, 100)  # sessions that run, while the list is measured
NUMBERS = itertools.count(1)


# -- The start


def starts(made: House, results: Results) -> None:
    """The program's start, to the version and to the first answer, beside Python's own; and the archive's size."""
    program = programs.program()

    def run(*argv: str) -> Callable[[], float]:
        return lambda: timed(lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True))

    run(*program, "version")()  # unpacks the archive, once
    bare, version = in_turns(2 * STARTS, run(sys.executable, "-I", "-c", "pass"), run(*program, "version"))
    with tempfile.TemporaryDirectory() as home:
        first = first_answer(program, home)  # unpacks and compiles there
        answers = [first_answer(program, home) for _ in range(STARTS)]
    note = f"without a first look at Incus; the very first start of a new archive took {first * 1000:.0f} ms"
    results.add(
        Row.of("`version`", "s", version, 0.010, baselines=bare, compare="more"),
        Row.of("start to first answer", "s", answers, 0.12, baselines=bare, note=note),
    )
    if program[-1].endswith(".pyz"):
        results.add(Row("archive", "MB", Path(program[-1]).stat().st_size / 1e6, 1.2))


def first_answer(program: list[str], home: str) -> float:
    """Seconds from the start of a server to its answer to a first request, which waits for no look at Incus.

    Python keeps what it has compiled, as for a person, also where the machine's tests forbid it.
    """
    port = programs.free_port()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"HOME": home}
    began = time.perf_counter()
    argv, null = [*program, "serve", "--port", str(port)], subprocess.DEVNULL
    with subprocess.Popen(argv, env=environ, stdin=null, stdout=null, stderr=null) as process:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            try:
                connection.request("GET", "/api/tools")
                connection.getresponse().read()
                break
            except ConnectionRefusedError:
                time.sleep(0.001)
            finally:
                connection.close()
        taken = time.perf_counter() - began
        process.terminate()
    return taken


# -- Listings


class Constant(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)


@contextlib.contextmanager
def forked(server: ThreadingHTTPServer) -> Iterator[int]:
    """Let a server of Python's own serve in a process of its own; the process."""
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.socket.close()
    try:
        yield child
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@contextlib.contextmanager
def constant_server(body: bytes) -> Iterator[tuple[str, int]]:
    handler = type("Handler", (Constant,), {"body": body, "log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with forked(server):
        yield "127.0.0.1", server.server_port


def listing(server: programs.Server) -> tuple[list[float], list[float], int]:
    """Seconds of GET /api/sessions, of the bare server's answer of the same size, and that size.

    Each turn has a connection of its own, and so a thread in the server: from some 30 KB on an answer takes twice as
    long on one connection as on the next, with either server.
    """
    ours = (server.host, server.port)
    body = server.get("/api/sessions").body
    with constant_server(body) as address:
        turns = in_turns(TURNS, *(lambda at=at: one_connection(at) for at in (ours, address)))
    return turns[0], turns[1], len(body)


def one_connection(address: tuple[str, int]) -> float:
    with contextlib.closing(Client(*address)) as client:
        return statistics.median(client.get("/api/sessions")[0] for _ in range(REQUESTS))


def settle(server: programs.Server) -> None:
    """Wait until the list has stayed the same for some seconds: what has just started is looked at for a while."""
    before = b""
    for _ in range(15):
        body = server.get("/api/sessions").body
        if body == before:
            return
        before = body
        time.sleep(3)


def many(made: House, results: Results, counts: Sequence[int] = COUNTS) -> None:
    """What a fresh server takes that finds more and more running sessions, which are counted in the measured list."""
    for wanted in counts:
        made.sessions(wanted)
        with made.server() as server:
            settle(server)
            what = f"{len(server.get('/api/sessions').json)} sessions"
            ours, bare, size = listing(server)
            row = {"baselines": bare, "compare": "times", "note": f"{size:,} bytes"}
            results.add(
                Row.of(f"GET /api/sessions p50, {what}", "s", ours, 1.5, **row),
                Row.of(f"memory of the server, {what}", "MB", several(Process(server.process.pid))),
            )


def several(process: Process) -> list[float]:
    """Its memory, looked at a few times, a second apart."""
    found = []
    for _ in range(LEAST_RUNS):
        found.append(process.memory)
        time.sleep(1)
    return found


# -- The life of a session


class Baseline:
    """Bare containers with the description that a session's was launched with."""

    def __init__(self, made: House, server: programs.Server) -> None:
        """Take the description of a session; the wall lets no two run that have one session's."""
        self._incus = made.bed.incus
        id = server.create(made.workspace(910))["id"]
        self._description = self._describe(id)
        delete(server, id)

    def _describe(self, id: str) -> bytes:
        instance = self._incus.query(f"/1.0/instances/{id}")
        # Without labels it is no session: the server would look at it.
        left_out = ("volatile.", "image.", clincus.LABEL)
        config = {key: value for key, value in instance["config"].items() if not key.startswith(left_out)}
        return json.dumps({"config": config, "devices": instance["devices"]}).encode()

    def incus(self, *words: str, stdin: bytes = b"") -> None:
        done = subprocess.run(["incus", *words], input=stdin, check=False, capture_output=True)
        assert done.returncode == 0, f"incus {words}: {done.stderr.decode()}"

    def launch(self) -> str:
        """One bare `incus launch` and one `incus exec`; the name of the container."""
        name = f"bare-{next(NUMBERS)}"
        self.incus("launch", "--quiet", "clincus", name, stdin=self._description)
        self.first_command(name)
        return name

    def first_command(self, name: str) -> None:
        self.incus("exec", name, "--user", "1000", "--", "tmux", "new-session", "-d")

    def delete(self, name: str) -> None:
        self.incus("delete", "--force", name)


@contextlib.contextmanager
def beside_bare(made: House) -> Iterator[tuple[programs.Server, Baseline]]:
    """A server without other sessions, and bare containers like its own."""
    made.sessions(0)
    with made.server() as server:
        yield server, Baseline(made, server)


def one_at_a_time(made: House, results: Results) -> None:
    with beside_bare(made) as (server, baseline):

        def bare() -> float:
            began = time.perf_counter()
            name = baseline.launch()
            taken = time.perf_counter() - began
            baseline.delete(name)
            return taken

        works = (lambda: create_seconds(server, made.workspace(901)), bare)
        in_turns(1, *works)  # the first of a bed is slower
        spent = Spent(server)
        ours, others = in_turns(CREATES, *works)
        note = f"each with its delete took {spent.words(len(ours))}"
        results.add(Row.of("create to running", "s", ours, 1.10, baselines=others, compare="times", note=note))


def stop_and_resume(made: House, results: Results) -> None:
    """Stop and save, and resume, beside `incus stop`, and `incus start` with one command."""
    with beside_bare(made) as (server, baseline):
        id = server.create(made.workspace(902), persistent=True)["id"]
        bare = baseline.launch()
        time.sleep(2)

        def resume() -> None:
            answer = server.post(f"/api/sessions/{id}/resume", timeout=120)
            assert answer.status == 200, answer.body

        def start() -> None:
            baseline.incus("start", bare)
            baseline.first_command(bare)

        spent = Spent(server)
        stops, bare_stops, resumes, bare_starts = in_turns(
            STOPS,
            lambda: timed(lambda: server.delete(f"/api/sessions/{id}", timeout=120)),
            lambda: timed(lambda: baseline.incus("stop", bare)),
            lambda: timed(resume),
            lambda: timed(start),
        )
        note = f"a stop with its resume took {spent.words(STOPS)}"
        baseline.delete(bare)
        delete(server, id)
        for figure, one, other in (("stop and save", stops, bare_stops), ("resume", resumes, bare_starts)):
            results.add(Row.of(figure, "s", one, 1.15, baselines=other, compare="times", note=note))


# -- At rest


def idle(made: House, results: Results, *, count: int = RUNNING, minutes: int = LEAST_RUNS) -> None:
    """What a server that finds running sessions takes in a minute at rest, once each of them has had its first save."""
    made.sessions(count)
    with made.server() as server:
        results.add(*rest(server, minutes))


def rest(server: programs.Server, minutes: int) -> Iterator[Row]:
    process = Process(server.process.pid)
    what = f"idle, {len(server.get('/api/sessions').json)} sessions"
    time.sleep(SETTLED)
    saving = Spent(server)
    time.sleep(SAVES * 60)
    note = f"the {SAVES} minutes before, with the first save of each session, took {saving.words()}"
    own, others, woken = list[float](), list[float](), list[float]()
    for _ in range(minutes):
        spent, before = Spent(server), process.wake_ups
        time.sleep(60)
        woken.append((process.wake_ups - before) / 60)
        for found, seconds in zip((own, others), spent.seconds()):
            found.append(seconds)
    counted = f"of {minutes} minutes together, as the kernel counts it in steps of 10 ms"
    yield Row.of(f"{what}: CPU of the server in a minute", "s", own, 0.03, note=note)
    yield Row(f"{what}: CPU of its `incus` commands in a minute", "s", sum(others) / minutes, note=counted)
    yield Row.of(f"{what}: wake-ups a second", "", woken, 2)
    yield Row.of(f"{what}: memory", "MB", several(process), 25, note=f"{process.threads} threads")
