"""A connection of a session to a host of one of its logins: TLS to the program and TLS to the server, over bytes.

`ssl` does all of it on bytes in memory (ssl.MemoryBIO), so that the proxy's one thread serves it like any other.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .exchange import Exchange
from .lending import Loan
from .sources import Secret, SourceError
from .vault import Found

RECORD = 16 << 10  # bytes that `ssl` gives at once: a record of TLS (RFC 8446, 5.1)
PIECE = 256 << 10  # bytes that are handled at once, so that each of them costs little more than its cipher


class Lender(Protocol):
    """Provides the values."""

    def ask(self, loan: Loan, take: Callable[[Found], None]) -> None:
        """Calls `take` with a value, or with the reason why there is none: at once, or later in another thread."""


@functools.lru_cache(1)
def server_trust() -> ssl.SSLContext:
    """The TLS context for servers: their certificates are checked against those that this host trusts."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def session_context(path: str) -> ssl.SSLContext:
    """The TLS context for programs of a session, with the certificates of a file. Raises OSError (ssl.SSLError too)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(path)
    return context


class End:
    """One end's TLS."""

    def __init__(self, context: ssl.SSLContext, server_name: str = "") -> None:
        """With a name, it is the client's end of a connection to that server."""
        self.coming = ssl.MemoryBIO()
        self.going = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self.coming, self.going, server_side=not server_name, server_hostname=server_name or None
        )
        self.is_ready = False  # both have agreed
        self.is_over = False  # the other side sends nothing more

    def shake(self) -> None:
        """Continue the handshake. Raises ssl.SSLError."""
        if not self.is_ready:
            try:
                self._tls.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            self.is_ready = True

    def read(self) -> bytes:
        """The received bytes, at most PIECE; b"" for none. Raises ssl.SSLError if no byte came before it."""
        records: list[bytes] = []
        room = PIECE
        try:
            while self.is_ready and not self.is_over and room > 0:
                records.append(self._tls.read(RECORD))
                self.is_over = not records[-1]
                room -= len(records[-1])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLZeroReturnError:
            self.is_over = True
        except ssl.SSLError:
            if not records:
                raise  # else the next call raises it again
        return records[0] if len(records) == 1 else b"".join(records)

    def write(self, data: bytearray) -> None:
        """Send bytes, which are taken off. Raises ssl.SSLError."""
        if not self.is_ready or not data:
            return
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self._tls.write(view[sent : sent + RECORD])
        data.clear()

    def close(self) -> None:
        """Announce that nothing more comes."""
        with suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()


class Opened:
    """An opened connection. Only the proxy's thread may use it, except for `go_on`."""

    def __init__(
        self,
        exchange: Exchange,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        host: str,
        lender: Lender,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        """`contexts` are those for the program and for the server. `later` lets the proxy's thread call a function."""
        self._exchange = exchange
        self._lender = lender
        self._later = later
        self._host = host
        self._client = End(contexts[0])
        self._server = End(contexts[1], host)
        self._is_asked = False
        self._known: dict[str, Secret] = {}
        self.is_over = False  # the connection ends once `for_client` is written
        self.is_broken = False  # it ends at once
        self.failure = ""  # the reason, if a person should know
        self._turn()

    @property
    def takes_more(self) -> bool:
        """True if the program may send more now."""
        return self._exchange.takes_more

    @property
    def names(self) -> list[str]:
        """The logins that the current request uses. For any thread."""
        return self._exchange.names

    def from_client(self, data: bytes | memoryview) -> None:
        """Bytes of the program, as received."""
        self._client.coming.write(data)
        self._turn()

    def from_server(self, data: bytes | memoryview) -> None:
        """Bytes of the server, as received."""
        if not self._server.is_over:
            self._server.coming.write(data)
            self._turn()

    def server_ended(self) -> None:
        """The server's connection has ended."""
        self._server.is_over = True
        if self._server.is_ready:
            self._exchange.server_ended()
        else:
            self._exchange.fail(f"{self._host} ended the connection")
        self._turn()

    def for_client(self) -> bytes:
        """Bytes to write to the program."""
        return self._client.going.read()

    def for_server(self) -> bytes:
        """Bytes to write to the server."""
        return b"" if self._server.is_over else self._server.going.read()

    def end_loan(self, name: str, words: str) -> None:
        """End the current request if it was lent a login that it may not use any more. For any thread."""
        if name in self._exchange.names:
            self._later(functools.partial(self._end, words))

    def _end(self, words: str) -> None:
        self._exchange.refuse(403, words)
        self._turn()

    def _turn(self) -> None:
        """Process everything that has arrived."""
        try:
            self._client.shake()
            data = self._client.read()
            while data:
                self._exchange.from_client(data)
                data = self._client.read()
        except ssl.SSLError as error:
            self.is_broken = True
            if not self._client.is_ready:
                self.failure = f"a program does not take Clincus's certificate for {self._host}: {why(error)}"
            return
        self._turn_server()
        self._ask()
        try:
            self._client.write(self._exchange.to_client)
        except ssl.SSLError:
            self.is_broken = True
        self.is_broken = self.is_broken or self._exchange.is_broken
        if self._client.is_over or (self._exchange.is_over and not self._exchange.to_client):
            self._client.close()
            self.is_over = True

    def _turn_server(self) -> None:
        if self._server.is_over:
            return
        try:
            self._server.shake()
            data = self._server.read()
            while data:
                self._exchange.from_server(data)
                data = self._server.read()
            if self._server.is_over:
                self._exchange.server_ended()
            self._server.write(self._exchange.to_server)
        except ssl.SSLError as error:
            self._server.is_over = True
            self._exchange.fail(f"there is no safe connection to {self._host}: {why(error)}")

    def _ask(self) -> None:
        """Ask for the values that a request waits for."""
        if self._exchange.wanted and not self._is_asked:
            self._is_asked = True
            for loan in list(self._exchange.wanted):
                self._lender.ask(loan, functools.partial(self._take, loan))

    def _take(self, loan: Loan, found: Found) -> None:
        """Note a value that has become known. May be called from any thread."""
        self._later(lambda: self._go_on(loan, found))

    def _go_on(self, loan: Loan, found: Found) -> None:
        if not self._is_asked or self.is_over or self.is_broken:
            return
        if isinstance(found, SourceError):
            self._is_asked = False
            self._known = {}
            self._exchange.refuse(403, f"the login {loan.login.name} cannot be lent: {found.message}")
        else:
            self._known[loan.login.name] = found
            if len(self._known) == len(self._exchange.wanted):
                known = self._known
                self._known = {}
                self._is_asked = False
                self._exchange.lend(known)
        self._turn()


def why(error: ssl.SSLError) -> str:
    """The words of an error of TLS."""
    return str(getattr(error, "verify_message", "") or error.reason or "the connection ended").lower().replace("_", " ")
