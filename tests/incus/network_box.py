"""A session with a list of names, the server that one of them leads to, and host names of the test's own."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import clincus
from tests.programs import Server, program
from tests.unit.test_network_policy import hello

# A loopback address of this run's own.
NAMESERVER = f"127.{1 + os.getpid() // 240 % 240}.{1 + os.getpid() % 240}.53"
HOSTS = """127.0.0.1 localhost registry.example other.example
10.1.2.3 private.example
169.254.169.254 metadata.example
"""
# Sends stdin to the proxy and prints what comes back.
ASK = (
    'use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:3128") or die "$!"; local $/; '
    "my $text = <STDIN>; print $s $text; $s->flush; alarm 55; print <$s>"
)
# The same with a request from its argument, on a connection that it holds.
HOLD = (
    'use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:3128") or die "$!"; '
    'print $s pack("H*", shift); $s->flush; $| = 1; while (sysread $s, my $text, 9999) { print $text, "\\n" }'
)


def command_with_hosts(hosts: Path) -> list[str]:
    """The command line of a Clincus that finds the names of a file, in a mount namespace of its own.

    All other names it asks of an address at which nobody answers.
    """
    servers = hosts.with_name("resolv.conf")
    servers.write_text(f"nameserver {NAMESERVER}\noptions timeout:30 attempts:1\n")
    mount = f'mount --bind {hosts} /etc/hosts && mount --bind {servers} /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh", *program()]


def tunnel(target: str, then: bytes = b"") -> bytes:
    """A request for a tunnel, and what goes into it."""
    return f"CONNECT {target} HTTP/1.1\r\n\r\n".encode() + then


def certificate(folder: Path) -> Path:
    """A new file with a key and a certificate for the allowed name."""
    key, public, both = folder / "key.pem", folder / "public.pem", folder / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=registry.example", "-keyout", key, "-out", public],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    both.write_bytes(key.read_bytes() + public.read_bytes())
    return both


class Upstream:
    """What the allowed name leads to: HTTP, and the same over TLS with a certificate of its own making."""

    def __init__(self, folder: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(folder))
        site = folder / "site"
        (site / "repository/info").mkdir(parents=True)
        (site / "repository/info/refs").write_text(f"{'a' * 40}\trefs/heads/main\n")
        (site / "repository/HEAD").write_text("ref: refs/heads/main\n")
        self.servers = []
        for secure in (False, True):

            class Handler(SimpleHTTPRequestHandler):
                def __init__(self, *words: Any) -> None:
                    super().__init__(*words, directory=str(site))

                def log_message(self, format: str, *words: object) -> None:
                    """Say nothing."""

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            if secure:
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.servers.append(server)
        self.plain, self.tls = (server.server_address[1] for server in self.servers)

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Box:
    """A session with a list of names."""

    def __init__(self, bed: Any, server: Server, upstream: Upstream, session: str, hosts: Path) -> None:
        self.bed, self.server, self.upstream, self.id, self.hosts = bed, server, upstream, session, hosts
        self.path = f"/api/sessions/{session}"
        self.allow = [f"registry.example:{upstream.tls}", f"registry.example:{upstream.plain}", "private.example",
                      "metadata.example", "registry.example"]  # fmt: skip

    def ask(self, request: bytes) -> str:
        """What the proxy answers a program of the container."""
        done = self.bed.incus.exec(self.id, ["perl", "-e", ASK], stdin=request, user=1000)
        return done.stdout.decode("latin-1")

    def change(self, **fields: Any) -> None:
        answer = self.server.request("PATCH", self.path, fields)
        assert answer.status == 200, answer.body

    def network(self, query: str = "") -> Any:
        return self.server.get(f"{self.path}/network{query}").json

    def cards(self) -> list[str]:
        return self.bed.shell(self.id, "ls /sys/class/net").split()

    def fetch(self) -> str:
        """What git gets of a repository over TLS, as it does by itself."""
        url = f"https://registry.example:{self.upstream.tls}/repository"
        return self.bed.shell(self.id, f"git -c http.sslVerify=false ls-remote {url} 2>&1 || true")


def open_tunnel(box: Box) -> subprocess.Popen[bytes]:
    """A program in the container that holds a connection to the server, and ends with it."""
    request = tunnel(f"registry.example:{box.upstream.tls}", hello("registry.example"))
    argv = box.bed.incus.exec_argv(box.id, ["perl", "-e", HOLD, request.hex()], user=1000)
    for _ in range(clincus.BEGIN_TRIES):
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout
        while line := process.stdout.readline(100):
            if b"\x16\x03" in line:  # the server's greeting
                return process
        said = process.communicate()[1]
        assert clincus.has_not_begun(said), said
    raise AssertionError("Incus lost the program at each start")
