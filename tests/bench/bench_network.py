"""HTTPS of a session through the proxy of its list of names, and directly over a card. Asserts nothing.

    python tests/bench/bench_network.py [MEGABYTES] [ROUNDS] [CONNECTIONS]

As root it starts an Incus of its own, as the tests do. The server with TLS runs on this host; both ways in turns. Also
printed: the time to the server's first byte, how long a change takes to hold, memory for each session, and what happens
when a program opens very many connections.
"""

from __future__ import annotations

import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "incus"),
]

from network_box import certificate, command_with_hosts

from tests import incus_bed
from tests.programs import Server, wait_until
from tests.unit.test_network_policy import hello

MEGABYTES = int(sys.argv[1]) if len(sys.argv) > 1 else 300
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
CONNECTIONS = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
NAME = "registry.example"
# Prints the milliseconds from a new connection to the first byte of the server, of so many tries.
FIRST_BYTE = r"""
use IO::Socket::INET; use Time::HiRes "time"; my ($where, $request, $hello, $tries) = @ARGV;
for (1..$tries) { my $begin = time; my $s = IO::Socket::INET->new(PeerAddr => $where) or die $!;
    if ($request) { syswrite $s, pack("H*", $request); sysread $s, my $ok, 39; }
    syswrite $s, pack("H*", $hello); sysread $s, my $first, 1; printf "%.3f\n", 1000 * (time - $begin); }
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
                if secure.recv(1):
                    piece = bytes(1 << 18)
                    for _ in range(MEGABYTES * 4):
                        secure.sendall(piece)
        except OSError:
            connection.close()

    def accept() -> None:
        while True:
            threading.Thread(target=send, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def memory(pid: int) -> float:
    """What a process alone takes (PSS), in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def forwarders() -> list[int]:
    """The processes of Incus that pass connections of containers to our sockets."""
    found = subprocess.run(["pgrep", "-f", r"forkproxy -- .*\.clincus/network/"], stdout=subprocess.PIPE, check=False)
    return [int(pid) for pid in found.stdout.split()]


def main() -> None:
    """Print all figures."""
    with incus_bed.own_daemon() as bed, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "home/.config/clincus").mkdir(parents=True)
        (folder / "home/.config/clincus/config.toml").write_text('[network]\nreachable = ["127.0.0.1/32"]\n')
        (folder / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
        (folder / "project").mkdir()
        os.chown(folder / "project", 1000, 1000)
        folder.chmod(0o755)
        port = serve_bytes(folder)
        bridge = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
        server = Server(
            [*command_with_hosts(folder / "hosts"), "serve", "--port", "0"],
            {**os.environ, **bed.environ, "HOME": str(folder / "home")}, folder / "log", folder,
        )  # fmt: skip
        try:
            before = memory(server.process.pid)
            fields = {"tool": "shell", "allow": [f"{NAME}:{port}"]}
            listed = server.create(folder / "project", network="allow-list", **fields)["id"]
            opened = server.create(folder / "project", network="open", tool="shell")["id"]
            wait_until(
                lambda: bed.shell(opened, f"busybox ping -c1 -W1 {bridge} >/dev/null && echo y || true", 0), "DHCP"
            )
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
            print(f"memory: proxy of Incus {memory(forwarders()[0]):.1f} MiB for each session, server {before:.1f} MiB")

            def rate(session: str, how: str) -> float:
                get = f"echo x | openssl s_client -quiet -servername {NAME} {how} 2>/dev/null | wc -c"
                script = f"b=$(date +%s%N); {get}; e=$(date +%s%N); echo $((e - b))"
                size, nanoseconds = map(int, bed.shell(session, script).split())
                assert size >> 20 == MEGABYTES
                return size / 1e6 / (nanoseconds / 1e9)

            ways = {
                "direct": (opened, f"-connect {bridge}:{port}"),
                "list": (listed, f"-proxy 127.0.0.1:3128 -connect {NAME}:{port}"),
            }
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way, where in ways.items():
                    rates[way].append(rate(*where))
            middle = {way: statistics.median(found) for way, found in rates.items()}
            print(f"throughput: direct {middle['direct']:.0f} MB/s, through the list {middle['list']:.0f} MB/s "
                  f"({100 * middle['list'] / middle['direct']:.0f} %)")  # fmt: skip

            request, greeting = f"CONNECT {NAME}:{port} HTTP/1.1\r\n\r\n".encode().hex(), hello(NAME).hex()
            tries = {"direct": (opened, f"{bridge}:{port}", ""), "list": (listed, "127.0.0.1:3128", request)}
            first = {}
            for way, (session, where, asked) in tries.items():
                done = bed.incus.exec(session, ["perl", "-e", FIRST_BYTE, where, asked, greeting, "60"])
                first[way] = statistics.median(map(float, done.stdout.split()))
            print(f"first byte: direct {first['direct']:.2f} ms, through the list {first['list']:.2f} ms "
                  f"(+{first['list'] - first['direct']:.2f})")  # fmt: skip

            for mode in ("none", "open", "allow-list", "none", "allow-list"):
                begin = time.monotonic()
                assert server.request("PATCH", f"/api/sessions/{listed}", {"network": mode}).status == 200
                print(f"change to {mode}: {1000 * (time.monotonic() - begin):.0f} ms")

            begin, script = time.monotonic(), f"ulimit -n {CONNECTIONS + 100} && exec perl -e '{MANY}' {CONNECTIONS}"
            made = bed.shell(listed, script, 0).strip()
            seconds, peak = time.monotonic() - begin - 2, memory(forwarders()[0])
            print(f"{made} connections opened and held in {seconds:.1f} s; then Incus's proxy {peak:.1f} MiB, "
                  f"server {memory(server.process.pid):.1f} MiB, listing in {timed(server):.1f} ms")  # fmt: skip
        finally:
            bed.delete_all()  # their workspace is mounted
            server.stop()
            server.kill()


def timed(server: Server) -> float:
    """Milliseconds for GET /api/sessions."""
    begin = time.monotonic()
    assert server.get("/api/sessions").status == 200
    return 1000 * (time.monotonic() - begin)


if __name__ == "__main__":
    main()
