"""HTTPS of a session through the proxy of its list of names, beside a session with a network card. Asserts nothing.

    python tests/bench/bench_network.py [MEGABYTES] [ROUNDS] [CONNECTIONS]

As root it starts an Incus of its own, as the tests do. The server with TLS runs on this host; both ways in turns. Also:
the time to its first byte, how long a change takes, and memory, at rest and under very many connections.
"""

from __future__ import annotations

import socket
import ssl
import statistics
import subprocess
import sys
import threading
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "incus"),
]

from network_box import certificate

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Process, in_turns, main, timed
from tests.incus_bed import Bed
from tests.programs import wait_until
from tests.unit.test_network_policy import hello

MEGABYTES = int(sys.argv[1]) if len(sys.argv) > 1 else 200
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
CONNECTIONS = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
TRIES = 60
# Prints the seconds from a new connection to the first byte of the server, of so many tries.
FIRST_BYTE = r"""
use IO::Socket::INET; use Time::HiRes "time"; my ($where, $request, $hello, $tries) = @ARGV;
for (1..$tries) { my $begin = time; my $s = IO::Socket::INET->new(PeerAddr => $where) or die $!;
    if ($request) { syswrite $s, pack("H*", $request); sysread $s, my $ok, 39; }
    syswrite $s, pack("H*", $hello); sysread $s, my $first, 1; printf "%.6f\n", time - $begin; }
"""
MANY = r"""
use IO::Socket::INET; my @kept;
for (1..shift) { push @kept, IO::Socket::INET->new(PeerAddr => "127.0.0.1:3128") || last; }
print scalar(@kept), "\n"; sleep 2;
"""


def serve_bytes(folder: Path) -> int:
    """Start a server that sends many bytes over TLS to whoever sends it one; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder))
    listener = socket.create_server(("0.0.0.0", 0), backlog=512)

    def send(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                for _ in range(MEGABYTES if secure.recv(1) else 0):
                    secure.sendall(bytes(1 << 20))
        except OSError:
            connection.close()

    def accept() -> None:
        while True:
            threading.Thread(target=send, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def passer(id: str) -> Process:
    """The process of Incus that passes connections of a session's container to our socket."""
    found = subprocess.run(["pgrep", "-f", f"forkproxy -- .*{id}.sock"], stdout=subprocess.PIPE, check=True)
    return Process(int(found.stdout))


def measure(made: House, results: Results) -> None:
    """All figures."""
    bed, port = made.bed, serve_bytes(made.folder)
    bridge = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
    with made.server('[network]\nreachable = ["127.0.0.1/32"]\n') as server:
        allow = [f"localhost:{port}"]
        listed = server.create(made.workspace(), tool="shell", network="allow-list", allow=allow)["id"]
        opened = server.create(made.workspace(), tool="shell")["id"]
        wait_until(lambda: bed.shell(opened, f"busybox ping -c1 -W1 {bridge} >/dev/null && echo y || true", 0), "DHCP")
        ways = ((listed, f"-proxy 127.0.0.1:3128 -connect localhost:{port}"), (opened, f"-connect {bridge}:{port}"))
        rates = in_turns(ROUNDS, *(lambda way=way: rate(bed, *way) for way in ways))
        ours, baseline = map(statistics.median, rates)
        results.add(Row("HTTPS through a list of names", "MB/s", ours, 0.7, baseline, "times", at_least=True,
                        note="the baseline is a session with a card"))  # fmt: skip
        request = f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode().hex()
        first = [
            statistics.median(map(float, bed.incus.exec(id, ["perl", "-e", FIRST_BYTE, *words]).stdout.split()))
            for id, *words in (
                (listed, "127.0.0.1:3128", request, hello("localhost").hex(), str(TRIES)),
                (opened, f"{bridge}:{port}", "", hello("localhost").hex(), str(TRIES)),
            )
        ]
        results.add(Row("first byte through a list of names", "s", first[0], 0.003, first[1], "more"))
        for mode in ("none", "open", "allow-list", "none", "allow-list"):
            seconds = timed(lambda mode=mode: server.request("PATCH", f"/api/sessions/{listed}", {"network": mode}))
            results.add(Row(f"change to {mode}", "s", seconds, note="until it is answered, programs told included"))
        results.add(Row("memory of a list of names, for each session", "MB", passer(listed).memory))
        before = Process(server.process.pid).memory
        script = f"ulimit -n {CONNECTIONS + 100}; perl -e '{MANY}' {CONNECTIONS}"
        held = bed.shell(listed, script, 0).strip()
        after = Process(server.process.pid).memory
        note = f"in Incus's part {passer(listed).memory:.1f} MB then; {held} were taken, 256 passed on at most"
        results.add(Row(f"memory of the server for {CONNECTIONS} connections", "MB", after, None, before, note=note))


def rate(bed: Bed, id: str, how: str) -> float:
    """Megabytes in a second that a session gets over TLS."""
    get = f"echo x | openssl s_client -quiet -servername localhost {how} 2>/dev/null | wc -c"
    found = bed.shell(id, f"b=$(date +%s%N); {get}; e=$(date +%s%N); echo $((e - b))")
    size, nanoseconds = map(int, found.split())
    assert size >> 20 == MEGABYTES
    return size / 1e6 / (nanoseconds / 1e9)


if __name__ == "__main__":
    main(measure)
