"""What lending a login costs: connections that are opened beside tunnels, in the real proxy.

It says which of its goals are met. Whether a create waits for the certificates is a figure of bench_ways.py.

    python tests/bench/bench_logins.py [MEGABYTES] [ROUNDS]

The proxy is in this process, server and program are in one of their own each, on loopback, and all of them on two
cores. All of TLS is paid four times here: both ways of an opened connection share the cores with both ends. Beside wall
time stands the CPU time of the proxy's thread. A busy machine may miss goals that an idle one meets.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from clincus_features.logins import opened
from clincus_features.logins.authority import make_certificates
from clincus_features.logins.services import SERVICES
from clincus_features.logins.settings import Host
from clincus_features.network.policy import Policy
from tests.bench.figures import LEAST_RUNS, Row
from tests.bench.measuring import in_turns
from tests.unit.test_logins_opened import HOST, LOAN, Road, Vendor, read_until

NUMBERS = [int(word) for word in sys.argv[1:3] if word.isdigit()]
MEGABYTES, ROUNDS = [*NUMBERS, *(50, 20)[len(NUMBERS) :]]
TUNNELLED = "b.example"
SESSIONS = 100
CORES = 2
MORE_TO_FIRST_BYTE = 0.003  # seconds more than the tunnel, at most
LEAST_SPEED = 80  # MB/s of model traffic
MOST_MEMORY = 1000  # KB of each session
# As Anthropic's Messages are streamed, 20 events in a piece.
EVENT = json.dumps({
    "type": "content_block_delta", "index": 0,
    "delta": {"type": "text_delta", "text": "The tokens of a model are words, or parts of \"words\". " * 12},
})  # fmt: skip
EVENTS = f"event: content_block_delta\ndata: {EVENT}\n\n".encode() * 20
PIECE = EVENTS * ((256 << 10) // len(EVENTS))
SIZE = (MEGABYTES << 20) // len(PIECE) * len(PIECE)  # bytes of a large body
BODIES = ("/answer", "/events", "/request")  # with a length; in chunks of 20 events; one that goes to the server


# -- The other processes


def serve(tls: ssl.SSLSocket) -> None:
    """Send or take a large body, or send a small one."""
    while head := read_until(tls, b"\r\n\r\n"):
        if b"/request" in head:
            left, buffer = SIZE, bytearray(256 << 10)
            while left > 0:
                left -= tls.recv_into(buffer)
        if b"/answer" in head:
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // len(PIECE)):
                tls.sendall(PIECE)
        elif b"/events" in head:
            tls.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"%x\r\n%s\r\n" % (len(EVENTS), EVENTS) * (len(PIECE) // len(EVENTS))
            for _ in range(SIZE // len(PIECE)):
                tls.sendall(piece)
            tls.sendall(b"0\r\n\r\n")
        else:
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nxxxxx")


def be_server(folder: str) -> None:
    """Print the port, and serve until stdin ends."""
    vendor = Vendor(Path(folder))
    vendor.serve = serve
    print(vendor.port, flush=True)
    sys.stdin.read()


def be_program(folder: str, name: str, path: str) -> None:
    """Print how many seconds a large body takes."""
    road = Road.__new__(Road)  # what it has of the proxy, without one
    road.path = f"{folder}/one"
    trust = "session.pem" if name == HOST else "trust.pem"
    context = ssl.create_default_context(cafile=f"{folder}/{trust}")
    with context.wrap_socket(road.tunnel(name), server_hostname=name) as tls:
        began = time.perf_counter()
        length = SIZE if path == "/request" else 0
        tls.sendall(request(name, path, length))
        for _ in range(length // len(PIECE)):
            tls.sendall(PIECE)
        head = read_until(tls, b"\r\n\r\n")
        buffer, tail = bytearray(256 << 10), b""
        left = 5 if length else SIZE
        while left > 0 or (b"chunked" in head and not tail.endswith(b"0\r\n\r\n")):
            count = tls.recv_into(buffer)
            left -= count
            tail = bytes(buffer[max(0, count - 5) : count])
        print(time.perf_counter() - began)


def be_programs(folder: str) -> None:
    """Hold an opened connection of each session, each after one answer. Say so, and end when stdin does."""
    context = ssl.create_default_context(cafile=f"{folder}/session.pem")
    road = Road.__new__(Road)
    kept = []
    for number in range(SESSIONS):
        road.path = f"{folder}/{number}"
        tls = context.wrap_socket(road.tunnel(HOST), server_hostname=HOST)
        tls.sendall(request(HOST))
        kept.append((tls, read_until(tls, b"xxxxx")))
    print("held", flush=True)
    sys.stdin.read()


# -- This one


class Sessions(Road):
    """The proxy of many sessions, each with a socket, certificates and a connection of its own."""

    def __init__(self, folder: Path, vendor: Vendor) -> None:
        super().__init__(folder, vendor)
        self.folder = folder
        self.kept: dict[str, ssl.SSLContext] = {}
        self.proxy._path_of = lambda id: str(folder / id)

    def open(self, id: str, host: str, port: int, later: Callable[[Callable[[], None]], None]) -> opened.Opened | None:
        if id not in self.kept:
            self.kept[id] = opened.session_context(str(self.folder / "session.pem"))
        self.contexts = (self.kept[id], self.vendors_trust)
        return super().open(id, host, port, later)


class Elsewhere(Vendor):
    """The server, in its own process."""

    def __init__(self, folder: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(MEGABYTES), "be_server", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())


@contextlib.contextmanager
def made_road() -> Iterator[Road]:
    """A proxy between a server and programs."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        vendor = Elsewhere(folder)
        road = Road(Path(folder), vendor)
        yield road
        road.is_over = True
        road.proxy.want("one", None)
        road.thread.join(10)
        vendor.process.communicate()


def connected(road: Road, name: str) -> ssl.SSLSocket:
    """A connection of a program to a host: opened, or tunnelled."""
    if name == HOST:
        return road.connect()
    return road.vendors_trust.wrap_socket(road.tunnel(TUNNELLED), server_hostname=TUNNELLED)


def request(name: str, path: str = "/", length: int = 0) -> bytes:
    """A request to a host, with a placeholder where it is opened."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {name}", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {LOAN.placeholder}"] if name == HOST else []
    return "\r\n".join([*lines, "", ""]).encode()


def first_byte(road: Road, name: str) -> Callable[[], float]:
    """Seconds from a new connection to the first byte of the answer."""

    def once() -> float:
        began = time.perf_counter()
        with connected(road, name) as tls:
            tls.sendall(request(name))
            tls.recv(1)
            return time.perf_counter() - began

    return once


def next_byte(road: Road, name: str) -> Callable[[], float]:
    """Seconds to the first byte on a connection that is there."""
    tls = connected(road, name)

    def once() -> float:
        began = time.perf_counter()
        tls.sendall(request(name))
        first = tls.recv(65536)
        took = time.perf_counter() - began
        while not first.endswith(b"xxxxx"):
            first += tls.recv(65536)
        return took

    return once


def speed(road: Road, name: str, path: str) -> Callable[[], float]:
    """MB a second of a large body."""

    def once() -> float:
        folder = str(Path(road.path).parent)
        words = [sys.executable, __file__, str(MEGABYTES), "be_program", folder, name, path]
        seconds = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout
        return SIZE / float(seconds) / 10**6

    return once


def tell(row: Row) -> None:
    """One line; the baseline is that of the tunnel."""
    figure, value, spread, baseline, _, goal, verdict = row.cells()
    parts = (
        f"{figure:<44}{value:>12}",
        spread,
        f"tunnel {baseline}" if baseline else "",
        f"{goal}: {verdict}" if goal else "",
        row.note,
    )
    print("   ".join(filter(None, parts)), flush=True)


def thread_seconds(road: Road) -> float:
    """CPU time of the proxy's thread so far (proc(5), schedstat)."""
    text = Path(f"/proc/self/task/{road.thread.native_id}/schedstat").read_text()
    return int(text.split()[0]) / 10**9


def cost(road: Road, path: str) -> None:
    """What a MB costs the proxy's thread, which passes those of all sessions."""
    found = []
    for name in (HOST, TUNNELLED):
        before = thread_seconds(road)
        speed(road, name, path)()
        found.append(SIZE / 10**6 / (thread_seconds(road) - before))
    lent, plain = found
    tell(Row(f"{path}, for a second of its CPU time", "MB", lent, baseline=plain))


def resident() -> float:
    """Memory of this process in KB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def certificates() -> None:
    """How long the certificates of a session take."""
    hosts = [Host(name) for name in SERVICES["copilot"].hosts]
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for _ in range(LEAST_RUNS):
            began = time.perf_counter()
            made = make_certificates(hosts, dict(os.environ), folder)
            found.append(time.perf_counter() - began)
        path = Path(folder, "one.pem")
        path.write_text(made.key + made.chain)
        before = resident()
        kept = [opened.session_context(str(path)) for _ in range(1000)]
        grown = resident() - before
    tell(Row.of("certificates of a session", "s", found))
    note = f"of {len(kept)}"
    tell(Row("memory of a session that lends, at rest", "KB", grown / len(kept), MOST_MEMORY, note=note))


def many() -> None:
    """The memory of this process for each of many sessions that lend. Both ends of their connections are elsewhere."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        vendor = Elsewhere(folder)
        road = Sessions(Path(folder), vendor)
        before = resident()
        for number in range(SESSIONS):
            road.proxy.want(str(number), Policy("open", has_proxy=True))
        words = [sys.executable, __file__, str(MEGABYTES), "be_programs", folder]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as programs:
            assert programs.stdout
            assert programs.stdout.readline() == "held\n"
            grown = resident() - before
            figure = "memory of a session with an open connection"
            tell(Row(figure, "KB", grown / SESSIONS, MOST_MEMORY, note=f"of {SESSIONS}"))
            programs.communicate()
        road.is_over = True
        road.proxy.want("one", None)
        road.thread.join(10)
        vendor.process.communicate()


def memory(road: Road) -> None:
    """How much more memory this process takes for each connection that is open (both ends of it are here, too)."""
    before = resident()
    kept = [connected(road, HOST) for _ in range(100)]
    for tls in kept:
        tls.sendall(request(HOST))
        tls.recv(1)
    grown = resident() - before
    tell(Row("memory of an open connection, with its ends", "KB", grown / len(kept), note=f"of {len(kept)}"))
    for tls in kept:
        tls.close()


def main() -> None:
    """Measure, and print."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    certificates()
    with made_road() as road:
        for figure, kind in (
            ("first byte of a new connection", first_byte),
            ("first byte on a connection that is there", next_byte),
        ):
            works = [kind(road, name) for name in (HOST, TUNNELLED)]
            in_turns(3, *works)
            lent, plain = in_turns(max(LEAST_RUNS, ROUNDS), *works)
            tell(Row.of(figure, "s", lent, MORE_TO_FIRST_BYTE, baselines=plain, compare="more"))
        for path in BODIES:
            works = [speed(road, name, path) for name in (HOST, TUNNELLED)]
            lent, plain = in_turns(max(LEAST_RUNS, ROUNDS // 4), *works)
            tell(Row.of(path, "MB/s", lent, LEAST_SPEED, baselines=plain, at_least=True))
            cost(road, path)
        memory(road)
    many()
    print(f"load {os.getloadavg()[0]:.1f}")


ROLES: dict[str, Callable[..., None]] = {"be_server": be_server, "be_program": be_program, "be_programs": be_programs}
if len(sys.argv) > 2 and sys.argv[2] in ROLES:
    ROLES[sys.argv[2]](*sys.argv[3:])
else:
    main()
