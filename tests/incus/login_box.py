"""A session that borrows logins, and stand-ins for the servers that these are for."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from network_box import command_with_hosts

from clincus_features.logins.authority import make_certificates
from clincus_features.logins.settings import Host
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server

# On loopback, where port 443 is nobody else's: several workers may run tests of this file.
ADDRESS, OTHER_ADDRESS = (f"127.{number}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}" for number in (31, 32))
# Says where the bytes are that its first argument spells backwards: files, environments, command lines, memory.
SEARCH = r"""
use strict; my $wanted = reverse pack "H*", shift; my %own = map { $_ => 1 } $$, getppid;
sub look { my ($place, $name) = @_; my ($tail, $data) = ("");
    open my $file, "<:raw", $place or return;
    while (sysread $file, $data, 1 << 20) {
        return print "$name\n" if index($tail . $data, $wanted) >= 0;
        $tail = substr $data, -200 if length $data > 200; } }
for my $process (grep /^\d+$/ && !$own{$_}, map { m{/proc/(\d+)$} } glob "/proc/*") {
    look "/proc/$process/$_", "$_ of $process" for qw(environ cmdline);
    open my $maps, "<", "/proc/$process/maps" or next;
    open my $memory, "<:raw", "/proc/$process/mem" or next;
    while (<$maps>) { /^(\w+)-(\w+) r/ or next; my ($from, $to, $data) = (hex $1, hex $2);
        next if $to - $from > 1 << 28; sysseek $memory, $from, 0 or next; sysread $memory, $data, $to - $from or next;
        print "memory of $process\n" if index($data, $wanted) >= 0; } }
open my $files, "-|", "find / -xdev \\( -path /proc -o -path /sys \\) -prune -o -type f -size -64M -print0";
local $/ = "\0"; while (<$files>) { chomp; look $_, $_ } print "searched\n";
"""


class Vendor(ThreadingHTTPServer):
    """A stand-in for what the names lead to: it notes each request, and answers with what it got."""

    folder: Path  # of its certificates, and of the file of host names

    def __init__(
        self, context: ssl.SSLContext, address: str, handler: type[BaseHTTPRequestHandler] | None = None
    ) -> None:
        super().__init__((address, 443), handler or Asked)
        self.daemon_threads = True
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.heads: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that Clincus ends."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Asked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Vendor

    def do_GET(self) -> None:
        heads = {name.lower(): value for name, value in self.headers.items()}
        self.server.heads.append({**heads, "path": self.path})
        is_git = "/info/refs" in self.path
        status = 401 if is_git and "authorization" not in heads else 200
        body = f"{'a' * 40}\trefs/heads/main\n" if is_git else json.dumps(heads)
        self.send_response(status)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *words: object) -> None:
        """Say nothing."""


class Streaming(Asked):
    """Begins an answer at /stream that has no end."""

    begin = b"begun\n"

    def do_GET(self) -> None:
        if self.path != "/stream":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(self.begin)
        self.rfile.read(1)  # until the program goes


@contextmanager
def vendor_of(
    folder: Path, names: Sequence[str], handler: type[BaseHTTPRequestHandler] | None = None
) -> Iterator[Vendor]:
    """A stand-in for the servers with some names, until the block ends."""
    write_certificates(folder, names, ADDRESS)
    made = Vendor(vendor_context(folder), ADDRESS, handler)
    made.folder = folder
    yield made
    made.close()


def write_certificates(folder: Path, names: Sequence[str], address: str) -> None:
    """Write the servers' certificates, the authority that only the server of the tests trusts, and a file of hosts."""
    made = make_certificates([Host(name) for name in names], dict(os.environ), str(folder))
    (folder / "vendor.pem").write_text(made.key + made.chain)
    (folder / "trust.pem").write_text(made.authority)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {' '.join(names)}\n")


def vendor_context(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "vendor.pem")
    return context


def lending_server(start: Any, vendor: Vendor, config: str, **environ: str) -> Server:
    """A server for which the names lead to a stand-in that it trusts."""
    trust = {"SSL_CERT_FILE": str(vendor.folder / "trust.pem")}
    server: Server = start(
        config=NO_CHECKPOINTS + config,
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={**trust, **environ},
    )
    return server


def put_secret(file: Path, value: str) -> None:
    """Write a value into a file of its user's alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{value}\n")
    file.chmod(0o600)


class Box:
    """A session that borrows logins."""

    def __init__(self, bed: Any, server: Server, session: str) -> None:
        self.bed, self.server, self.id = bed, server, session

    def shell(self, script: str, user: int = 1000) -> str:
        return str(self.bed.shell(self.id, script, user))

    def ask(self, host: str, *fields: str, target: str = "/echo", name: str = "") -> str:
        """What a program gets that asks a host over TLS by the proxy, with what the system trusts."""
        lines = [f"GET {target} HTTP/1.1", f"Host: {name or host}", "Connection: close", *fields, "", ""]
        return self.exchange(host, "\r\n".join(lines))

    def post(self, host: str, target: str, body: str) -> str:
        """What a program gets that posts JSON."""
        return self.exchange(
            host,
            f"POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}",
        )

    def exchange(self, host: str, text: str, *, server_name: str = "", connect: str = "") -> str:
        """What a program gets that sends a text over TLS by the proxy, with what the system trusts."""
        name = server_name or host
        words = f"-connect {connect or host}:443 -servername {name} -verify_return_error -verify_hostname {name}"
        command = f"timeout 60 openssl s_client -quiet -ign_eof -proxy 127.0.0.1:3128 {words} 2>&1 || true"
        done = self.bed.incus.exec(self.id, ["sh", "-c", command], stdin=text.encode("latin-1"), user=1000, timeout=90)
        return str(done.stdout.decode("latin-1"))

    def variable(self, name: str) -> str:
        return self.shell(f"printenv {name}").strip()

    def holders(self, text: str) -> list[str]:
        """Where root of the container finds a text: in files, environments, command lines, memory."""
        backwards = text[::-1].encode().hex()
        done = self.bed.incus.exec(self.id, ["perl", "-e", SEARCH, backwards], user=0, timeout=2 * DEADLINE)
        *found, last = done.stdout.decode().splitlines()
        assert last == "searched", done.reason
        return list(found)
