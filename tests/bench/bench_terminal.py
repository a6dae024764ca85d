"""Measure what a terminal costs through the server, against the same program on a bare pseudo-terminal.

    python tests/bench/bench_terminal.py

First with a local program, then through `incus exec` in a container; as root it starts an Incus of its own, as the
tests do. Prints a table and asserts nothing. The bare terminal is read by this process, the WebSocket by it too, from a
server in a process of its own.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import clincus
from tests import incus_bed

ROUNDS = 5
KEYS = 2000
FLOOD_SIZE = 50_000_000
SIZE = clincus.TerminalSize(80, 24)


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, argv: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.argv = argv


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request: Any = SimpleNamespace(method="GET", version="HTTP/1.1", headers=self.headers, connection=self)
        with clincus.open_websocket(request) as websocket:
            clincus.TerminalBridge(websocket, self.server.argv, SIZE).run()

    def log_message(self, format: str, *args: object) -> None:
        pass


class BareTerminal:
    """The program on a pseudo-terminal, and nothing between it and us."""

    def __init__(self, argv: list[str]) -> None:
        self.program = clincus.PtyProgram(argv, SIZE)
        self.readable = select.poll()
        self.readable.register(self.program.terminal, select.POLLIN)

    def read(self) -> int | None:
        """Wait for output and return its size, None at the end."""
        self.readable.poll()
        data = self.program.read()
        return len(data) if data or self.program.has_output else None

    def type(self, key: bytes) -> None:
        os.write(self.program.terminal, key)

    def close(self) -> None:
        self.program.end()


class ServedTerminal:
    """The program behind a server that runs in a process of its own."""

    def __init__(self, argv: list[str]) -> None:
        server = Server(argv)
        self.server = os.fork()
        if self.server == 0:
            server.handle_request()
            server.server_close()
            os._exit(0)
        server.socket.close()
        self.connection = socket.create_connection(("127.0.0.1", server.server_port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"))
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

    def type(self, key: bytes) -> None:
        self.protocol.send_binary(key)
        self._send()

    def close(self) -> None:
        self.connection.close()
        _, _, usage = os.wait4(self.server, 0)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime


Terminal = Callable[[list[str]], "BareTerminal | ServedTerminal"]


def echo_times(kind: Terminal, argv: list[str]) -> list[float]:
    """Return how long each of many keys took to come back, in microseconds."""
    terminal = kind(argv)
    terminal.read()
    time.sleep(0.3)
    times = []
    for _ in range(KEYS):
        start = time.perf_counter()
        terminal.type(b"x")
        terminal.read()
        times.append((time.perf_counter() - start) * 1e6)
    terminal.close()
    return times


def flood_speed(kind: Terminal, argv: list[str]) -> float:
    """Return megabytes a second."""
    start = time.perf_counter()
    terminal = kind(argv)
    received = 0
    while received < FLOOD_SIZE:
        size = terminal.read()
        if size is None:
            break
        received += size
    seconds = time.perf_counter() - start
    terminal.close()
    return received / seconds / 1e6


def compare(name: str, echo: list[str], flood: list[str]) -> None:
    """Run bare and served in turns, so that a noisy machine is equally noisy for both, and print two rows."""
    times: dict[Terminal, list[float]] = {BareTerminal: [], ServedTerminal: []}
    speeds: dict[Terminal, list[float]] = {BareTerminal: [], ServedTerminal: []}
    for _ in range(ROUNDS):
        for kind in times:
            times[kind] += echo_times(kind, echo)
            speeds[kind].append(flood_speed(kind, flood))
    for kind, title in ((BareTerminal, "bare"), (ServedTerminal, "served")):
        percentiles = statistics.quantiles(times[kind], n=100)
        speed = statistics.median(speeds[kind])
        spread = f"({min(speeds[kind]):.0f} to {max(speeds[kind]):.0f})"
        print(f"{name:12} {title:8} {percentiles[49]:8.0f} {percentiles[98]:8.0f} {speed:8.0f} {spread}")
    more = statistics.median(times[ServedTerminal]) - statistics.median(times[BareTerminal])
    part = statistics.median(speeds[ServedTerminal]) / statistics.median(speeds[BareTerminal])
    print(f"{name:12} {'served':8} {more / 1000:+.3f} ms at p50, {part:.0%} of the bare flood\n")


def main() -> None:
    line = b"0123456789abcdef" * 4 + b"\n"
    raw = "stty raw -echo; echo ready;"
    with tempfile.NamedTemporaryFile() as text, incus_bed.own_daemon() as bed:
        text.write(line * (FLOOD_SIZE // len(line) + 1))
        text.flush()
        bed.incus.launch("bench", "clincus", {})
        os.environ.update(bed.environ)
        with open(text.name, "rb") as source:
            # Not `incus file push`: a command's own standard input needs no rights on the host's files.
            subprocess.run(
                ["incus", "exec", "-T", "bench", "--", "sh", "-c", "cat >/tmp/flood"], stdin=source, check=True
            )
        remote = ["incus", "exec", "-t", "bench", "--", "sh", "-c"]
        print(f"{'program':12} {'':8} {'p50 us':>8} {'p99 us':>8} {'MB/s':>8}")
        compare("cat", ["sh", "-c", f"{raw} exec cat"], ["sh", "-c", f"stty raw; exec cat {text.name}"])
        compare("incus exec", [*remote, f"{raw} exec cat"], [*remote, "stty raw; exec cat /tmp/flood"])


if __name__ == "__main__":
    main()
