"""A TCP proxy between page and server, which can be cut without a word, as by sleep or another network; or with TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

OF_A_LOST_SERVER = "ERR_CONNECTION|ERR_INTERNET|ERR_NETWORK|ERR_EMPTY|Failed to load resource|WebSocket connection"


class Road:
    """The proxy. `server_port` is where it leads.

    Connections that are cut stay open and dead for ever, and so do those that are made until it is mended.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.server_port = 0
        self.cut = threading.Event()
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._last_straw = b""
        self._open: list[socket.socket] = [self._listener]
        self._start(self._accept)

    def mend(self) -> None:
        """Let what connects from now on through."""
        self.cut = threading.Event()

    def break_off(self) -> None:
        """Stop forwarding, and close nothing."""
        self.cut.set()

    def break_off_at(self, request: bytes) -> None:
        """Stop forwarding as soon as a connection brings these bytes, which do not arrive."""
        self._last_straw = request

    def close(self) -> None:
        """End all connections."""
        for one in self._open:
            end(one)
            one.close()

    def _start(self, run, *arguments: object) -> None:
        threading.Thread(target=run, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._join, self._listener.accept()[0])

    def _join(self, page: socket.socket) -> None:
        self._open.append(page)
        try:
            page = self._context.wrap_socket(page, server_side=True) if self._context else page
            server = socket.create_connection(("127.0.0.1", self.server_port))
        except OSError:
            page.close()
            return
        self._open += [page, server]
        for one, other in ((page, server), (server, page)):
            self._start(self._forward, one, other, self.cut)

    def _forward(self, one: socket.socket, other: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if self._last_straw and self._last_straw in data:
                    self.break_off()
                if not cut.is_set():
                    other.sendall(data)
        if not cut.is_set():
            end(one)
            end(other)


def end(one: socket.socket) -> None:
    """Tell both sides of a connection that it is over."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def road() -> Iterator[Road]:
    """A road to a server, until the end of the test."""
    with contextlib.closing(Road()) as made:
        yield made


def context_for(folder: Path, name: str) -> ssl.SSLContext:
    """What a server of a host name needs for TLS, with a certificate of its own."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *made]
    subprocess.run([*argv, "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
