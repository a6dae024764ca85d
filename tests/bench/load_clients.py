"""The clients of the load, in processes of their own: a crowd that is only there, and one that measures.

They stand in for browsers on other machines, so the crowd takes as little of this one as it can: one loop for all
connections, which throws away what it reads, a few times a second.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from typing import Any

from tests.bench.measuring import Client

Address = tuple[str, int]
ROUND = 0.02  # seconds between two rounds of the crowd
ALIVE = b"\x8a\x80\0\0\0\0"  # a pong that nobody asked for (RFC 6455, 5.5.3): the server asks those that say nothing
ALIVE_PAUSE = 20.0
PATIENCE = 10.0  # seconds that a connection may take to open


def upgrade(address: Address, path: str, subprotocol: str = "") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


class Work:
    """A process that does something until it is told to end, and gives what it found."""

    def __init__(self, target: Callable[..., Any], *arguments: Any) -> None:
        """Start it; the target is called with this and the arguments, and returns what it found."""
        self.ready, self.over = multiprocessing.Event(), multiprocessing.Event()
        self._found: Any = multiprocessing.Queue()
        self._process = multiprocessing.Process(target=self._run, args=(target, *arguments), daemon=True)
        self._process.start()

    def end(self) -> Any:
        self.over.set()
        found = self._found.get(timeout=60)
        self._process.join(30)
        return found

    def _run(self, target: Callable[..., Any], *arguments: Any) -> None:
        self._found.put(target(self, *arguments))


class Crowd:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.count = Counter[str]()
        self._members: dict[int, tuple[str, socket.socket]] = {}
        self._poll, self._room = select.epoll(), memoryview(bytearray(1 << 18))
        self._due = time.monotonic() + ALIVE_PAUSE

    def open(self, path: str, subprotocol: str) -> None:
        """Open one; a terminal is open once it shows something."""
        kind = "events" if subprotocol else "terminals"
        try:
            client = socket.create_connection(self.address, timeout=PATIENCE)
            client.sendall(upgrade(self.address, path, subprotocol))
            head = client.recv(1 << 16)
            if b" 101 " not in head[:16]:
                raise ConnectionError(str(head[:80]))
            if kind == "terminals" and head.endswith(b"\r\n\r\n"):
                client.recv(1 << 16)
        except OSError as error:
            self.count[f"{kind} refused: {error}"] += 1
            return
        self._members[client.fileno()] = kind, client
        self._poll.register(client, select.EPOLLIN)
        self.count[f"{kind} opened"] += 1

    def read(self, seconds: float) -> None:
        """Wait so long for something, and throw it away; tell the server now and then that all are still there."""
        for descriptor, _ in self._poll.poll(seconds):
            kind, client = self._members[descriptor]
            size = 0
            with contextlib.suppress(OSError):
                size = client.recv_into(self._room)
            self.count[kind] += size
            if not size:
                self.count[f"{kind} closed"] += 1
                self._poll.unregister(descriptor)
                self._members.pop(descriptor)[1].close()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + ALIVE_PAUSE
            for _, client in self._members.values():
                with contextlib.suppress(OSError):
                    client.send(ALIVE)


def hold(work: Work, address: Address, wanted: list[tuple[str, str]]) -> dict[str, int]:
    """Be a crowd until it is over; what was read, and who was closed. `wanted` are paths and subprotocols."""
    crowd = Crowd(address)
    for path, subprotocol in wanted:
        crowd.open(path, subprotocol)
        crowd.read(0)
    work.ready.set()
    while not work.over.is_set():
        crowd.read(0.2)
        time.sleep(ROUND)
    return dict(crowd.count)


# -- The client that measures

Found = tuple[list[float], list[float], dict[str, int]]  # seconds of the server, of the baseline, and the answers


def ask(work: Work, ours: Address, bare: Address, others: list[str], rate: float) -> Found:
    """Send GET requests at a rate, most of them for the list, and a fifth as many to a bare server besides.

    Gives the seconds of each list and of each answer of the bare server, and how the answers were.
    """
    listings, baselines, count = list[float](), list[float](), Counter[str]()

    def send(offset: float) -> None:
        client, baseline, paths = Client(*ours), Client(*bare), itertools.cycle(others)
        for number, _ in enumerate(ticks(work.over, rate / 2, offset)):
            is_list = number % 5 > 0
            try:
                seconds, _ = client.get("/api/sessions" if is_list else next(paths))
                count[f"requests {client.status}"] += 1
                samples = listings
                if not is_list:
                    samples, (seconds, _) = baselines, baseline.get("/")
                samples.append(seconds)
            except OSError as error:
                count[f"requests lost: {error!r}"] += 1
                with contextlib.suppress(OSError):
                    client = Client(*ours)

    threads = [threading.Thread(target=send, args=(offset,)) for offset in (0.0, 0.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return listings, baselines, dict(count)


def ticks(over: Event, rate: float, offset: float) -> Iterator[None]:
    """Yield at a rate, until it is over; what was missed is made up for."""
    due = time.monotonic() + offset / rate
    while True:
        due += 1 / rate
        if over.wait(max(0.0, due - time.monotonic())):
            return
        yield
