"""What lending a login costs: connections that are opened beside tunnels, in the real proxy. Asserts nothing.

    python tests/bench/bench_logins.py [MEGABYTES] [ROUNDS]

The server, the proxy and the program are in this process, on loopback, so that all of TLS is paid four times here: both
ways of an opened connection share the cores with both ends. Beside wall time stands the CPU time of the proxy's thread.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import statistics
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
from tests.bench.measuring import in_turns
from tests.unit.test_logins_opened import HOST, REQUEST, Road, read_until

MEGABYTES = int(sys.argv[1]) if len(sys.argv) > 1 else 50
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
TUNNELLED = "b.example"
PIECE = b"x" * (256 << 10)


@contextlib.contextmanager
def made_road() -> Iterator[Road]:
    """A proxy, and a server that sends many bytes for a request with `big`."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        road = Road(Path(folder))

        def serve(tls: ssl.SSLSocket) -> None:
            while head := read_until(tls, b"\r\n\r\n"):
                size = MEGABYTES << 20 if b"/big" in head else 5
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                for _ in range(size // len(PIECE)):
                    tls.sendall(PIECE)
                tls.sendall(PIECE[: size % len(PIECE)])

        road.vendor.serve = serve
        yield road
        road.is_over = True
        road.proxy.want("one", None)
        road.thread.join(10)


def connected(road: Road, name: str) -> ssl.SSLSocket:
    """A connection of a program to a host: opened, or tunnelled."""
    if name == HOST:
        return road.connect()
    return road.vendors_trust.wrap_socket(road.tunnel(TUNNELLED), server_hostname=TUNNELLED)


def request(name: str, path: str = "/") -> bytes:
    """A request to a host, with a placeholder where it is opened."""
    if name == HOST:
        return REQUEST.replace(b"GET / ", f"GET {path} ".encode())
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def first_byte(road: Road, name: str) -> Callable[[], float]:
    """Milliseconds from a new connection to the first byte of the answer."""

    def once() -> float:
        began = time.perf_counter()
        with connected(road, name) as tls:
            tls.sendall(request(name))
            tls.recv(1)
            return (time.perf_counter() - began) * 1000

    return once


def next_byte(road: Road, name: str) -> Callable[[], float]:
    """Milliseconds to the first byte on a connection that is there."""
    tls = connected(road, name)

    def once() -> float:
        began = time.perf_counter()
        tls.sendall(request(name))
        first = tls.recv(65536)
        took = (time.perf_counter() - began) * 1000
        while not first.endswith(b"xxxxx"):
            first += tls.recv(65536)
        return took

    return once


def speed(road: Road, name: str) -> Callable[[], float]:
    """MB a second of a large answer."""

    def once() -> float:
        with connected(road, name) as tls:
            tls.sendall(request(name, "/big"))
            left, buffer, began = MEGABYTES << 20, bytearray(1 << 20), time.perf_counter()
            while left > 0:
                left -= tls.recv_into(buffer)
            return MEGABYTES / (time.perf_counter() - began)

    return once


def tell(words: str, unit: str, found: list[list[float]]) -> None:
    """One line: the median of the opened way beside that of the tunnel."""
    lent, plain = (statistics.median(values) for values in found)
    print(f"{words:<44}{lent:9.2f} {unit:<5} tunnel {plain:9.2f} {unit}   runs {len(found[0])}")


def thread_seconds(road: Road) -> float:
    """CPU time of the proxy's thread so far (proc(5), schedstat)."""
    text = Path(f"/proc/self/task/{road.thread.native_id}/schedstat").read_text()
    return int(text.split()[0]) / 10**9


def cost(road: Road) -> None:
    """What a MB costs the proxy's thread, which passes those of all sessions."""
    found = []
    for name in (HOST, TUNNELLED):
        before = thread_seconds(road)
        speed(road, name)()
        found.append(MEGABYTES / (thread_seconds(road) - before))
    lent, plain = found
    print(f"{'large answers, per second of its CPU time':<44}{lent:9.0f} MB    tunnel {plain:9.0f} MB")


def resident() -> float:
    """Memory of this process in KB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def certificates() -> None:
    """How long the certificates of a session take."""
    hosts = [Host(name) for name in SERVICES["copilot"].hosts]
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for _ in range(5):
            began = time.perf_counter()
            made = make_certificates(hosts, dict(os.environ), folder)
            found.append(time.perf_counter() - began)
        path = Path(folder, "one.pem")
        path.write_text(made.key + made.chain)
        before = resident()
        kept = [opened.session_context(str(path)) for _ in range(1000)]
        grown = resident() - before
    print(f"{'certificates of a session':<44}{statistics.median(found) * 1000:9.0f} ms    runs 5")
    print(f"{'memory of a session that lends, at rest':<44}{grown / len(kept):9.0f} KB    of {len(kept)}")


def memory(road: Road) -> None:
    """How much more memory this process takes for each connection that is open (both ends of it are here, too)."""
    before = resident()
    kept = [connected(road, HOST) for _ in range(100)]
    for tls in kept:
        tls.sendall(request(HOST))
        tls.recv(1)
    grown = resident() - before
    print(f"{'memory of an open connection, with its ends':<44}{grown / len(kept):9.0f} KB    of {len(kept)}")
    for tls in kept:
        tls.close()


def main() -> None:
    """Measure, and print."""
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    certificates()
    with made_road() as road:
        works = [first_byte(road, name) for name in (HOST, TUNNELLED)]
        in_turns(3, *works)
        tell("first byte of a new connection", "ms", in_turns(ROUNDS, *works))
        works = [next_byte(road, name) for name in (HOST, TUNNELLED)]
        in_turns(3, *works)
        tell("first byte on a connection that is there", "ms", in_turns(ROUNDS, *works))
        tell("large answers", "MB/s", in_turns(max(3, ROUNDS // 4), *(speed(road, one) for one in (HOST, TUNNELLED))))
        cost(road)
        memory(road)
    print(f"load {os.getloadavg()[0]:.1f}")


main()
