"""A proxy that speaks TLS to the browser and passes all that it says on to a server, with a certificate of its own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def tls_proxy(folder: Path, name: str) -> Iterator[TlsProxy]:
    """A proxy for a host name, on a port of its own, until the end of the block. Its files are in the folder."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *made]
    subprocess.run([*argv, "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = TlsProxy(listener, context)
        threading.Thread(target=proxy.accept, daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)  # ends the thread


class TlsProxy:
    """The proxy. `server_port` is where it leads."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        self.port = int(listener.getsockname()[1])
        self.server_port = 0
        self._listener = listener
        self._context = context

    def accept(self) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.ExitStack() as ends:
            ends.enter_context(contextlib.suppress(OSError))
            browser = ends.enter_context(self._context.wrap_socket(accepted, server_side=True))
            server = ends.enter_context(socket.create_connection(("127.0.0.1", self.server_port)))
            threading.Thread(target=pass_on, args=(browser, server), daemon=True).start()
            pass_on(server, browser)


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Send all that comes from one side to the other one, and the end of it, too."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
