"""Requests and answers of one opened connection, between plain bytes and plain bytes. No TLS, no sockets.

One request is in progress at a time: the next one is read when its answer is over, so that no answer can be taken for
that of another request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import clincus

from . import http1
from .http1 import Answer, Malformed, Request
from .lending import BodyMask, Cleaner, Loan, MisusedError, Use, filled, find_uses, masked
from .meter import Meter, Tokens
from .sources import Secret
from .vendors import answer_tokens

TOKENS_MOST = 16 << 10  # bytes of a request for tokens
READING = frozenset(("GET", "HEAD", "OPTIONS"))
HELD = 64 << 10  # bytes that wait while a value is read, or the answer before is in progress
MOST_INTERIM = 16  # answers of 1xx before the answer
PHRASES = {200: "OK", 400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway", 503: "Service Unavailable"}
KINDS = {400: "invalid_request_error", 403: "permission_error"}


class Listener(Protocol):
    """Gets the events of placeholders. No call may wait."""

    def misused(self, loan: Loan, where: str) -> None:
        """A placeholder is out of its place."""

    def lent(self, loan: Loan) -> None:
        """A value was sent."""

    def refused(self, loan: Loan, reason: str) -> None:
        """A request gets no value because of what it asks for."""

    def counted(self, loan: Loan, model: str, more: Tokens) -> None:
        """A model's answer reports `more` tokens, beside those that it has reported before."""

    def rejected(self, loan: Loan, secret: Secret, status: int) -> None:
        """A server rejected a value by the status of its answer."""


class RefusedError(Exception):
    """A request that a login is not lent for."""

    def __init__(self, loan: Loan, reason: str) -> None:
        super().__init__(f"the login {loan.login.name} {reason}")
        self.loan = loan
        self.reason = reason


class Exchange:
    """The HTTP exchange between a program in a container and a server, once both speak TLS with Clincus."""

    def __init__(
        self,
        place: tuple[str, int],
        loans: Sequence[Loan],
        listener: Listener,
        strangers: Mapping[bytes, Loan] = {},
    ) -> None:
        """`place` is the host and port, `loans` are all of the session, `strangers` the `marks` of other sessions."""
        self._host, self._port = place
        self._loans = loans
        self._here = [loan for loan in loans if loan.login.is_for(*place)]
        self._renewing = [loan for loan in loans if loan.login.gives_tokens(*place)]
        self._listener = listener
        self._strangers = strangers
        self.to_client = bytearray()
        self.to_server = bytearray()
        self.wanted: list[Loan] = []  # whose values the request waits for: `lend` or `refuse` is called next
        self.is_over = False  # the connection ends once `to_client` is written
        self.is_broken = False  # it ends at once: the client must not take its bytes for a whole answer
        self._failure: tuple[int, str] | None = None  # the reason why no request can be answered
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._is_raw = False  # it is a WebSocket
        self._begin()

    def _begin(self) -> None:
        """Prepare for the next request. The values of the last one are forgotten."""
        self._request: Request | None = None
        self._uses: list[Use] = []
        self._known: Mapping[str, Secret] = {}  # the values of these
        self._asked_tokens: bytearray | None = None  # the body of a request for tokens, which is answered here
        self._is_sent = False  # the server has the head
        self._request_body: http1.Body = clincus.SizedBody(0)
        self._mask = BodyMask(self._loans)
        self._answer: Answer | None = None
        self._answer_body: http1.Body = clincus.SizedBody(0)
        self._is_last = False  # the connection ends with this answer
        self._interim = 0
        self._meter = Meter()
        self._metered = Tokens()
        self._hidden: list[bytes] = []
        self._cleaner = Cleaner(())

    @property
    def takes_more(self) -> bool:
        """True if the client may send more now."""
        return len(self._from_client) < HELD and len(self.to_server) < HELD

    @property
    def is_idle(self) -> bool:
        """True if no request is in progress."""
        return self._request is None and not self._is_raw

    @property
    def names(self) -> list[str]:
        """The logins that the current request uses."""
        return [use.loan.login.name for use in self._uses]

    # -- Input

    def from_client(self, data: bytes) -> None:
        """Bytes of the program."""
        self._from_client += data
        self._guarded(self._read_client)

    def from_server(self, data: bytes) -> None:
        """Bytes of the server."""
        self._from_server += data
        self._guarded(self._read_server)
        if self._from_client:
            self._guarded(self._read_client)

    def server_ended(self) -> None:
        """Note that the server sends nothing more."""
        self._guarded(self._end_of_server)

    def lend(self, known: Mapping[str, Secret]) -> None:
        """Take the values that the request waited for, by the names of their logins."""
        self.wanted = []
        self._guarded(lambda: self._send_head(known))

    def refuse(self, status: int, words: str) -> None:
        """Answer the current request with an error, and end."""
        self.wanted = []
        self.to_server.clear()
        if self._answer is not None or self._is_raw:
            self.is_broken = True
            return
        self.to_client += error_answer(status, words)
        self.is_over = True

    def fail(self, words: str) -> None:
        """Answer no more requests: the server cannot be used. The first reason counts."""
        self._failure = self._failure or (502, words)
        if self._request is not None:
            self.refuse(*self._failure)

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.is_over or self.is_broken:
            return
        try:
            work()
        except Malformed as error:
            self.refuse(502 if work == self._read_server else 400, str(error))
        except RefusedError as error:
            self._listener.refused(error.loan, error.reason)
            self.refuse(403, str(error))
        except MisusedError as error:
            self._listener.misused(error.loan, error.where)
            self.refuse(403, str(error))

    # -- Requests

    def _read_client(self) -> None:
        if self._is_raw:
            self.to_server += self._from_client
            self._from_client.clear()
            return
        if self._request is None:
            head = http1.take_head(self._from_client)
            if not head:
                return
            request = http1.parse_request(head, self._host, self._port)
            if self._renewing and not self._passes(request):
                return
            if self._failure:
                self.refuse(*self._failure)
                return
            self._uses = find_uses(request, self._here, self._loans, self._strangers)
            check_path(request, self._uses)
            check_upgrade(request, self._uses)
            self._request = request
            self._request_body = http1.body_of(request.length)
            self.wanted = [use.loan for use in self._uses]
            if not self.wanted:
                self._send_head({})
            return
        if self._asked_tokens is not None:
            self._answer_tokens(self._request)
        elif self._is_sent and not self._request_body.is_over:
            self._pass_body(self._request)

    def _passes(self, request: Request) -> bool:
        """True if a request to a host that gives tokens is passed to it: only one that can get no tokens."""
        is_for_tokens = http1.plain_path(request.target) in {
            loan.login.vendor.token_path for loan in self._renewing if loan.login.vendor
        }
        if is_for_tokens and request.method == "POST":
            self._request = request
            self._request_body = http1.body_of(request.length)
            self._asked_tokens = bytearray()
            self._answer_tokens(request)
        elif is_for_tokens or request.method not in READING:
            words = "this session borrows its login: sign in on the host that runs Clincus, not in here"
            self._request = request
            self.refuse(403, words)
        else:
            return True
        return False

    def _answer_tokens(self, request: Request) -> None:
        """Answer a request for tokens once all of it has arrived. It is not passed to any server."""
        assert self._asked_tokens is not None
        self._asked_tokens += self._request_body.take(self._from_client)
        if len(self._asked_tokens) > TOKENS_MOST:
            raise Malformed("a request for tokens is not that large")
        if self._request_body.is_over:
            (kind,) = clincus.field_values(request.fields, "content-type")[:1] or [""]
            found = [answer_tokens(loan.placeholder, bytes(self._asked_tokens), kind) for loan in self._renewing]
            self.to_client += last_answer(*min(found, key=lambda one: one[0]))
            self.is_over = True

    def _send_head(self, known: Mapping[str, Secret]) -> None:
        assert self._request
        self._known = known
        fields, self._hidden = filled(self._request, self._uses, known)
        self._cleaner = Cleaner(self._hidden)
        for use in self._uses:
            self._listener.lent(use.loan)
        self.to_server += http1.request_head(self._request._replace(fields=fields), self._host, self._port)
        self._is_sent = True
        if not self._request_body.is_over:
            self._pass_body(self._request)

    def _pass_body(self, request: Request) -> None:
        """Pass on the part of the body that has arrived, with its placeholders masked."""
        piece, found = self._mask.take(self._request_body.take(self._from_client))
        for loan in found:
            self._listener.misused(loan, "in the body")
        if self._request_body.is_over:
            piece += self._mask.rest()
        if request.length is not None:
            self.to_server += piece
            return
        self.to_server += http1.chunk(piece)
        if self._request_body.is_over:
            self.to_server += http1.LAST_CHUNK

    # -- Answers

    def _read_server(self) -> None:
        if self._is_raw:
            self._pass_raw()
            return
        if self._request is None or not self._is_sent:
            raise Malformed("the server sends an answer without a request")
        while self._answer is None:
            head = http1.take_head(self._from_server)
            if not head:
                return
            self._read_answer(http1.parse_answer(head, self._request.method), self._request)
            if self._is_raw:
                self._pass_raw()
                return
        self._pass_answer(self._answer)

    def _read_answer(self, answer: Answer, request: Request) -> None:
        if answer.status == 101:
            if not request.is_upgrade or clincus.field_words(answer.fields, "upgrade") != ["websocket"]:
                raise Malformed("the server goes on in a way that was not asked for")
            self._is_raw = True
        elif answer.status < 200:
            self._interim += 1
            if self._interim > MOST_INTERIM:
                raise Malformed("the server gives no answer")
        else:
            if self._hidden and set(clincus.field_words(answer.fields, "content-encoding")) - {"identity"}:
                raise Malformed("the server's answer is compressed although that was not asked for")
            if answer.status in (401, 403):
                for use in self._uses:
                    self._listener.rejected(use.loan, self._known[use.loan.login.name], answer.status)
            self._is_last = answer.is_last or request.is_last or not self._request_body.is_over
            self._answer = answer
            self._answer_body = http1.body_of(answer.length, may_have_trailer=True)
        is_last = answer.status >= 200 and self._is_last
        if self._uses:
            answer = answer._replace(fields=[field for field in answer.fields if not is_credential(*field)])
        self.to_client += masked(http1.answer_head(answer, is_last=is_last), self._hidden)

    def _pass_answer(self, answer: Answer) -> None:
        body = self._answer_body
        piece = self._cleaner.take(body.take(self._from_server))
        if body.is_over:
            piece += self._cleaner.rest()
        self._count(piece)  # it is clean: what it says of a model goes into files, and to the page
        if body.is_over:
            self._count(b"\n")  # nothing follows the last number
        self.to_client += piece if answer.length is not None else http1.chunk(piece)
        if body.is_over:
            self.to_client += http1.LAST_CHUNK if answer.length is None else b""
            self._end_of_answer()

    def _count(self, piece: bytes) -> None:
        """Report the cost of an answer at once, since a program may leave before its end."""
        if not self._uses or not piece:
            return
        tokens = self._meter.take(piece)
        more = Tokens(*(max(0, now - before) for now, before in zip(tokens, self._metered)))
        if any(more):
            self._metered = tokens
            for use in self._uses:
                self._listener.counted(use.loan, self._meter.model, more)

    def _end_of_answer(self) -> None:
        if self._is_last:
            self.is_over = True
            return
        self._begin()
        if self._from_server:
            raise Malformed("the server sends an answer without a request")

    def _pass_raw(self) -> None:
        self.to_client += self._cleaner.take(bytes(self._from_server))
        self._from_server.clear()

    def _end_of_server(self) -> None:
        if self.is_idle and self._failure:
            return  # the program learns it at its next request
        if self.is_idle:
            self.is_over = True
        elif self._is_raw or (self._answer is not None and self._answer.length == -1):
            self.to_client += self._cleaner.rest()
            self.is_over = True
        else:
            self.refuse(502, f"{self._host} ended the connection before its answer")


def error_answer(status: int, words: str) -> bytes:
    """An answer of Clincus's own, in the form of the models' vendors, which the tools show."""
    error = {"type": KINDS.get(status, "api_error"), "message": f"Clincus: {words}"}
    return last_answer(status, {"type": "error", "error": error})


def is_credential(name: str, value: str) -> bool:
    """True if a header of an answer gives the program a credential of its own: with that it needs no login any more.

    Cloudflare's only confirm that a client is no robot; without them some vendors refuse it.
    """
    return name.lower() == "set-cookie" and not value.lstrip("_").startswith("cf")


def check_path(request: Request, uses: Sequence[Use]) -> None:
    """Raise RefusedError for a request whose answer holds a credential of its own."""
    path = http1.plain_path(request.target)
    for use in uses:
        for refused in use.loan.login.service.refused:
            if path == refused or path.startswith((f"{refused}/", f"{refused}.")):  # or the name of a format, as .json
                words = "is not lent for this: the answer would hold a credential, and those stay on the host"
                raise RefusedError(use.loan, words)


def check_upgrade(request: Request, uses: Sequence[Use]) -> None:
    """Raise RefusedError for a WebSocket with a login whose use is limited: on one, nobody can count."""
    limited = [use.loan for use in uses if any(use.loan.login.limit)]
    if request.is_upgrade and limited:
        raise RefusedError(limited[0], "has a limit, so it is not lent to WebSockets: use plain requests")


def last_answer(status: int, document: Mapping[str, object]) -> bytes:
    """An answer of ours, after which the connection ends."""
    body = json.dumps(document).encode()
    fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
    return http1.write_head(f"HTTP/1.1 {status} {PHRASES.get(status, 'Error')}", fields) + body
