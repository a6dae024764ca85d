"""HTTPS of a session through the proxy of its list of names, beside a session with a network card. Asserts nothing.

    python -m tests.bench.bench_network [--megabytes 200] [--rounds 5]

As root it starts an Incus of its own, as the tests do. The server with TLS runs on this host; both ways in turns. Also:
the time to its first byte, how long a change takes, and memory.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import statistics
import subprocess
import threading
from pathlib import Path

from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Process, in_turns, run_alone, timed
from tests.programs import wait_until

TRIES = 60
# Prints the seconds from a new connection to the first byte of the server, of so many tries.
FIRST_BYTE = r"""
use IO::Socket::INET; use Time::HiRes "time"; my ($where, $request, $hello, $tries) = @ARGV;
for (1..$tries) { my $begin = time; my $s = IO::Socket::INET->new(PeerAddr => $where) or die $!;
    if ($request) { syswrite $s, pack("H*", $request); sysread $s, my $ok, 39; }
    syswrite $s, pack("H*", $hello); sysread $s, my $first, 1; printf "%.6f\n", time - $begin; }
"""
NEW_KEY = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout key.pem -out certificate.pem"


def serve_bytes(folder: Path, megabytes: int) -> int:
    """Start a server that sends many bytes over TLS to a client that sends it one; its port."""
    subprocess.run(NEW_KEY.split(), cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    listener = socket.create_server(("0.0.0.0", 0), backlog=512)

    def send(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                for _ in range(megabytes if secure.recv(1) else 0):
                    secure.sendall(bytes(1 << 20))
        except OSError:
            connection.close()

    def accept() -> None:
        while True:
            threading.Thread(target=send, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def hello() -> str:
    """The first words of a TLS client to localhost, in hexadecimal digits."""
    outgoing, context = ssl.MemoryBIO(), ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read().hex()
    raise AssertionError


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    """All figures."""
    bed, port = made.bed, serve_bytes(made.folder, options.megabytes)
    bridge = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
    with made.server('[network]\nreachable = ["127.0.0.1/32"]\n') as server:
        allow = [f"localhost:{port}"]
        listed = server.create(made.workspace(), tool="shell", network="allow-list", allow=allow)["id"]
        opened = server.create(made.workspace(), tool="shell")["id"]
        wait_until(lambda: bed.shell(opened, f"busybox ping -c1 -W1 {bridge} >/dev/null && echo y || true", 0), "DHCP")

        def rate(id: str, how: str) -> float:
            """Megabytes in a second that a session gets over TLS."""
            get = f"echo x | openssl s_client -quiet -servername localhost {how} 2>/dev/null | wc -c"
            size, nanoseconds = map(
                int, bed.shell(id, f"b=$(date +%s%N); {get}; e=$(date +%s%N); echo $((e - b))").split()
            )
            assert size >> 20 == options.megabytes
            return size / 1e6 / (nanoseconds / 1e9)

        ours, baseline = in_turns(
            options.rounds,
            lambda: rate(listed, f"-proxy 127.0.0.1:3128 -connect localhost:{port}"),
            lambda: rate(opened, f"-connect {bridge}:{port}"),
        )
        speeds = {"baseline": statistics.median(baseline), "compare": "times", "at_least": True}
        results.add(Row("HTTPS through a list of names", "MB/s", statistics.median(ours), 0.7, **speeds))
        request = f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode().hex()
        first = [
            statistics.median(map(float, bed.incus.exec(id, ["perl", "-e", FIRST_BYTE, *words]).stdout.split()))
            for id, *words in (
                (listed, "127.0.0.1:3128", request, hello(), str(TRIES)),
                (opened, f"{bridge}:{port}", "", hello(), str(TRIES)),
            )
        ]
        results.add(Row("first byte through a list of names", "s", first[0], 0.003, first[1], "more"))
        for mode in ("none", "open", "allow-list", "none", "allow-list"):
            seconds = timed(lambda mode=mode: server.request("PATCH", f"/api/sessions/{listed}", {"network": mode}))
            results.add(Row(f"change to {mode}", "s", seconds, note="until it is answered, programs told included"))
        # The process of Incus that passes connections of the session's container to our socket.
        found = subprocess.run(["pgrep", "-f", f"forkproxy -- .*{listed}.sock"], stdout=subprocess.PIPE, check=True)
        results.add(Row("memory of a list of names, for each session", "MB", Process(int(found.stdout)).memory))


if __name__ == "__main__":
    run_alone(__doc__, measure, megabytes=200, rounds=5)
