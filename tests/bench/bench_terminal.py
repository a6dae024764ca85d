"""What a terminal costs through the server, against the same program on a bare pseudo-terminal. bench_all.py runs it.

Keys and floods go through a local program and through `incus exec`, by a server in a process of its own that has
nothing but the terminal's bridge. What it takes to open a terminal, and its memory, are of the whole server.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

import clincus
from clincus_features import turns
from tests import programs
from tests.bench.bench_server import forked
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Process, in_turns, percentile

ROUNDS, KEYS = 5, 1000
FLOOD_SIZE = 50_000_000
OPENS = 15
TERMINALS = (1, 10, 100)
SESSIONS = 10  # that have them
SHELL_KEYS = 60
SIZE = clincus.TerminalSize(80, 24)
RAW = "stty raw -echo; echo ready;"


# -- The two ways to a program


class BareTerminal:
    def __init__(self, argv: list[str]) -> None:
        self.program = clincus.PtyProgram(argv, SIZE)
        self.readable = select.poll()
        self.readable.register(self.program.terminal, select.POLLIN)

    def read(self) -> int | None:
        self.readable.poll()
        data = self.program.read()
        return len(data) if data or self.program.has_output else None

    def discard(self) -> None:
        while self.readable.poll(0) and self.read():
            pass

    def type(self, key: bytes) -> None:
        os.write(self.program.terminal, key)

    def close(self) -> None:
        self.program.end()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    programs: dict[str, list[str]]

    def do_GET(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request: Any = SimpleNamespace(method="GET", version="HTTP/1.1", headers=self.headers, connection=self)
        with clincus.open_websocket(request) as websocket:
            clincus.TerminalBridge(websocket, self.programs[self.path], SIZE).run()

    def log_message(self, format: str, *args: object) -> None:
        pass


class BridgeServer(ThreadingHTTPServer):
    def __init__(self, **argvs: list[str]) -> None:
        handler = type("Programs", (Handler,), {"programs": {f"/{name}": argv for name, argv in argvs.items()}})
        super().__init__(("127.0.0.1", 0), handler)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve, with the turns that a server takes."""
        turns.install(clincus.Extensions())
        super().serve_forever(poll_interval)

    def open(self, name: str) -> ServedTerminal:
        return ServedTerminal(("127.0.0.1", self.server_port), f"/{name}")


class ServedTerminal:
    def __init__(self, address: tuple[str, int], path: str) -> None:
        self.connection = socket.create_connection(address)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = ClientProtocol(parse_uri(f"ws://{address[0]}:{address[1]}{path}"))
        self.protocol.send_request(self.protocol.connect())
        self._send()
        while self.protocol.state is State.CONNECTING:
            byte = self.connection.recv(1)
            assert byte, "the server went away"
            self.protocol.receive_data(byte)
        self.buffer = bytearray(1 << 18)

    def _send(self) -> None:
        self.connection.sendall(b"".join(self.protocol.data_to_send()))

    def read(self) -> int | None:
        """Wait for output and return its size with the heads of the frames, None at the end."""
        # The frames are not taken apart: this measures the server, not a client.
        return self.connection.recv_into(self.buffer) or None

    def discard(self) -> None:
        self.connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.read():
                pass
        self.connection.setblocking(True)

    def type(self, key: bytes) -> None:
        self.protocol.send_binary(key)
        self._send()

    def close(self) -> None:
        self.connection.close()


Terminal = Callable[[], "BareTerminal | ServedTerminal"]


# -- Keys


def echo_times(terminal: BareTerminal | ServedTerminal, count: int) -> list[float]:
    """Seconds that each of many keys took to come back; the terminal is closed afterwards."""
    terminal.read()
    time.sleep(0.3)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        terminal.type(b"x")
        terminal.read()
        times.append(time.perf_counter() - began)
    terminal.close()
    return times


@contextlib.contextmanager
def flooding(open_terminal: Terminal) -> Iterator[None]:
    """Somebody else reads a terminal that floods, in a process of its own."""
    child = os.fork()
    if child == 0:
        terminal = open_terminal()
        while terminal.read():
            pass
        os._exit(0)
    time.sleep(0.5)
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def keys(name: str, echo: list[str], flood: list[str], results: Results, count: int = KEYS) -> None:
    server = BridgeServer(echo=echo, flood=flood)
    with forked(server):
        for place in ("alone", "beside a flood"):
            served: list[list[float]] = []
            bare: list[list[float]] = []
            for _ in range(ROUNDS):
                with flooding(lambda: server.open("flood")) if place != "alone" else contextlib.nullcontext():
                    served.append(echo_times(server.open("echo"), count))
                with flooding(lambda: BareTerminal(flood)) if place != "alone" else contextlib.nullcontext():
                    bare.append(echo_times(BareTerminal(echo), count))
            for share, goal in ((0.5, 0.12e-3), (0.99, 1e-3)):
                ours, base = ([percentile(one, share) for one in rounds] for rounds in (served, bare))
                figure = f"key echo {place}, {name}, p{share * 100:.0f}"
                results.add(Row.of(figure, "s", ours, goal, baselines=base, compare="more"))


# -- A flood


def flood_speed(terminal: BareTerminal | ServedTerminal) -> float:
    """Megabytes a second."""
    began = time.perf_counter()
    received = 0
    while received < FLOOD_SIZE:
        size = terminal.read()
        if size is None:
            break
        received += size
    seconds = time.perf_counter() - began
    terminal.close()
    return received / seconds / 1e6


def floods(name: str, flood: list[str], results: Results) -> None:
    server = BridgeServer(flood=flood)
    cpu: list[float] = []
    with forked(server) as pid:

        def served_speed() -> float:
            before = Process(pid).times[0]
            found = flood_speed(server.open("flood"))
            cpu.append((Process(pid).times[0] - before) / FLOOD_SIZE * 100e6)
            return found

        served, bare = in_turns(ROUNDS, served_speed, lambda: flood_speed(BareTerminal(flood)))
    results.add(
        Row.of(f"flood, {name}", "MB/s", served, 0.95, baselines=bare, compare="times", at_least=True),
        Row.of(f"server CPU per 100 MB, {name}", "s", cpu, 0.5),
    )


# -- The whole server


def attach_of(server: programs.Server, id: str, path: str = "/ws/terminal/") -> list[str]:
    """The command line that the server attaches to a session's terminal with, or to another place of it."""
    terminal = ServedTerminal((server.host, server.port), f"{path}{id}")
    terminal.read()
    found = clients_of(server.process.pid)
    terminal.close()
    programs.wait_until(lambda: not clients_of(server.process.pid), "the terminal to end")
    return next(iter(found.values()))


def clients_of(parent: int) -> dict[int, list[str]]:
    """The `incus exec` of each terminal that a process has open, and its command line."""
    found = {}
    for pid in Process(parent).children:
        with contextlib.suppress(OSError):  # a call that is over
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
            if "--force-interactive" in argv:
                found[pid] = argv
    return found


def first_bytes(server: programs.Server, id: str, results: Results) -> None:
    attach = attach_of(server, id)

    def first(open_terminal: Terminal) -> float:
        time.sleep(0.2)  # the one before is gone
        began = time.perf_counter()
        terminal = open_terminal()
        terminal.read()
        taken = time.perf_counter() - began
        terminal.close()
        return taken

    address = (server.host, server.port)
    ours, bare = in_turns(
        OPENS,
        lambda: first(lambda: ServedTerminal(address, f"/ws/terminal/{id}")),
        lambda: first(lambda: BareTerminal(attach)),
    )
    results.add(Row.of("terminal open to first byte", "s", ours, 0.015, baselines=bare, compare="more"))


def growth(server: programs.Server, ids: list[str], results: Results) -> None:
    """The rows of keys and memory beside more and more terminals, and of a further terminal's memory.

    The baseline of a key is the same command on a bare terminal beside as many terminals of the server, in turns.
    """
    process, attach = Process(server.process.pid), attach_of(server, ids[0], "/ws/shell/")
    address, open_ones = (server.host, server.port), list[ServedTerminal]()
    time.sleep(2)
    before = process.memory
    for wanted in TERMINALS:
        while len(open_ones) < wanted:
            open_ones.append(ServedTerminal(address, f"/ws/shell/{ids[len(open_ones) % len(ids)]}"))
            open_ones[-1].read()
        time.sleep(2)
        memory, count = process.memory, len(clients_of(process.pid))
        ours, bare = in_turns(
            ROUNDS,
            lambda: shell_echo(ServedTerminal(address, f"/ws/shell/{ids[0]}")),
            lambda: shell_echo(BareTerminal(attach)),
        )
        results.add(
            Row.of(f"key echo beside {count} terminals, p50", "s", ours, baselines=bare),
            Row(f"memory of the server with {count} terminals", "MB", memory),
        )
    added, count = process.memory - before, len(clients_of(process.pid))
    for terminal in open_ones:
        terminal.close()
    results.add(Row("server memory per further terminal", "MB", added / count, 0.2, note=f"of {count} terminals"))


def shell_echo(terminal: BareTerminal | ServedTerminal) -> float:
    """The median seconds of keys in a further shell of a session; the terminal is closed afterwards."""
    terminal.read()
    time.sleep(0.5)
    terminal.discard()
    times = []
    for number in range(SHELL_KEYS):
        began = time.perf_counter()
        terminal.type(b"x" if number % 2 == 0 else b"\x7f")
        terminal.read()
        times.append(time.perf_counter() - began)
        time.sleep(0.02)
    terminal.close()
    return statistics.median(times)


def bridges(made: House, results: Results) -> None:
    line = b"0123456789abcdef" * 4 + b"\n"
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as text:
        text.write(line * (FLOOD_SIZE // len(line) + 1))
        text.flush()
        made.bed.incus.launch("bench", "clincus", {})
        # Not `incus file push`: a command's own standard input needs no rights on the host's files.
        argv = ["incus", "exec", "-T", "bench", "--", "sh", "-c", "cat >/tmp/flood"]
        with open(text.name, "rb") as source:
            subprocess.run(argv, stdin=source, check=True)
        remote = ["incus", "exec", "-t", "bench", "--", "sh", "-c"]
        keys("a local program", ["sh", "-c", f"{RAW} exec cat"], ["sh", "-c", "stty raw; exec yes"], results)
        keys("`incus exec`", [*remote, f"{RAW} exec cat"], [*remote, "stty raw; exec yes"], results, KEYS // 4)
        floods("a local program", ["sh", "-c", f"stty raw; exec cat {text.name}"], results)
        floods("`incus exec`", [*remote, "stty raw; exec cat /tmp/flood"], results)
        made.bed.incus.run("delete", "--force", "bench")


def whole(made: House, results: Results) -> None:
    ids = made.sessions(SESSIONS)
    with made.server() as server:
        server.get("/api/sessions")
        first_bytes(server, ids[0], results)
        growth(server, ids, results)
