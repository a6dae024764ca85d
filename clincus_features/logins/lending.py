"""Placeholders and the values that they stand for: in requests that go out, and in answers that come back. Pure.

A value is put into one place only: the header of its service, in one of its forms, in a request to one of its hosts.
"""

from __future__ import annotations

import base64
import binascii
import functools
import html
import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

import clincus

from .http1 import Fields, Malformed, Request
from .services import SECRET
from .settings import Login
from .sources import Secret

# A request that carries a value gets an answer that can be read: complete, in ASCII's letters, and not compressed.
# Apache takes Request-Range for Range; A-IM asks for the difference to an answer before (RFC 3229).
DROPPED = frozenset(
    ("accept-encoding", "accept-charset", "a-im", "range", "if-range", "request-range", "sec-websocket-extensions")
)
MASK = b"*"
# Characters that encoders of JSON write as \u00.. so that a page can hold it: Go's, and Gson.
IN_PAGES = [str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in signs}) for signs in ("&<>", "&<>'=")]
_RANDOM = re.compile(rb"(?=([0-9a-f]{32}))")  # at any place: letters before it may be such digits too

Filling = Callable[[str], str]  # gives the value of a header for a value of the login


class Loan(NamedTuple):
    """A login that a session borrows, and its placeholder there."""

    login: Login
    placeholder: str


class Use(NamedTuple):
    """A placeholder in its place."""

    loan: Loan
    at: int  # number of the field
    fill: Filling


class MisusedError(Exception):
    """A placeholder is not in its place."""

    def __init__(self, loan: Loan, where: str) -> None:
        place = "it is accepted in one header at the hosts of the login alone"
        super().__init__(f"the placeholder of the login {loan.login.name} is {where}: {place}")
        self.loan = loan
        self.where = where


def new_placeholder(login: Login) -> str:
    """A text that looks like a login's value, but is not one. Each session has its own."""
    return login.service.shape.replace("{random}", secrets.token_hex(16))


# -- Requests


def find_uses(
    request: Request, here: Collection[Loan], loans: Iterable[Loan], strangers: Mapping[bytes, Loan] = {}
) -> list[Use]:
    """The placeholders in a request that may become values.

    `here` are the loans for its host, `loans` all of the session, `strangers` those of other sessions in the form of
    `marks`. Raises MisusedError for a placeholder anywhere else, Malformed for a header that comes twice.
    """
    uses: list[Use] = []
    for number, (name, value) in enumerate(request.fields):
        found = use_in(number, name.lower(), value, here)
        if found:
            if len(clincus.field_values(request.fields, name.lower())) > 1:
                raise Malformed(f"the header {name.lower()} comes twice")
            uses.append(found)
            continue
        seen = readings(value)
        for loan in loans:
            if is_in(loan.placeholder, seen) or loan.placeholder.lower() in name.lower():
                raise MisusedError(loan, f"in the header {name.lower()}")
        check_strangers([*seen, name.lower().encode("latin-1")], strangers, f"in the header {name.lower()}")
    seen = readings(request.target)
    check_strangers(seen, strangers, "in the address")
    check_own(seen, loans, "in the address")
    return uses


def marks(loans: Iterable[Loan]) -> dict[bytes, Loan]:
    """Loans by the random part of their placeholders, which no two have in common."""
    found: dict[bytes, Loan] = {}
    for loan in loans:
        start = loan.login.service.shape.index("{random}")
        found[loan.placeholder[start : start + 32].encode()] = loan
    return found


def check_strangers(seen: Iterable[bytes], strangers: Mapping[bytes, Loan], where: str) -> None:
    """Raise MisusedError if the readings of a text hold a placeholder of another session."""
    for text in seen if strangers else ():
        for match in _RANDOM.finditer(text):
            loan = strangers.get(match[1])
            if loan:
                raise MisusedError(loan, f"that of another session, {where}")


def check_own(seen: Collection[bytes], loans: Iterable[Loan], where: str) -> None:
    """Raise MisusedError if the readings of a text hold a placeholder of some loans."""
    for loan in loans:
        if is_in(loan.placeholder, seen):
            raise MisusedError(loan, where)


def use_in(number: int, name: str, value: str, here: Iterable[Loan]) -> Use | None:
    """The use of a loan in a field, None if the field has no placeholder. The name is in lower case."""
    for loan in here:
        if name == loan.login.service.header:
            for form in loan.login.service.forms:
                fill = filling(form, value, loan.placeholder)
                if fill:
                    return Use(loan, number, fill)
    return None


def filling(form: str, value: str, placeholder: str) -> Filling | None:
    """How a header's value is written with another secret, None if it is not a placeholder in this form."""
    before, _, after = form.partition(SECRET)
    if before.startswith("Basic "):
        user, password = split_basic(value)
        wanted = before.removeprefix("Basic ").removesuffix(":")
        if password != placeholder or wanted not in ("*", user):
            return None
        return functools.partial(basic, user)
    given = value[: len(before)]
    rest = value[len(before) :]
    if given.lower() != before.lower() or rest != placeholder + after:
        return None
    return lambda secret: f"{before}{secret}{after}"


def split_basic(value: str) -> tuple[str, str]:
    """User and password of Basic credentials (RFC 7617), two empty texts for anything else."""
    scheme, _, coded = value.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        text = base64.b64decode(coded.strip(), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return "", ""
    user, _, password = text.partition(":")
    return user, password


def basic(user: str, secret: str) -> str:
    """The header's value for Basic credentials."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode("ascii")).decode()


def readings(text: str) -> list[bytes]:
    """The readings of a text in a head: as it is, without percent-encoding, and its base64 parts decoded."""
    plain = text.encode("latin-1")
    found = [plain, unquote_to_bytes(plain)]
    for coded in re.findall(rb"[A-Za-z0-9+/]{8,}", plain.replace(b"-", b"+").replace(b"_", b"/")):
        for start in range(4):  # it may follow other letters
            piece = coded[start:]
            whole = piece[: len(piece) - (len(piece) % 4 == 1)]  # one letter more says nothing
            found.append(base64.b64decode(whole + b"=" * (-len(whole) % 4)))
    return found


def is_in(placeholder: str, seen: Iterable[bytes]) -> bool:
    """True if a placeholder is in one of the `readings` of a text."""
    plain = placeholder.encode()
    return any(plain in one for one in seen)


def filled(request: Request, uses: Sequence[Use], known: Mapping[str, Secret]) -> tuple[Fields, list[bytes]]:
    """The fields of a request with values in place of placeholders, and the texts that an answer must not show.

    `known` has the values by the names of their logins.
    """
    fields = [(name, value) for name, value in request.fields]
    hidden: list[bytes] = []
    for use in uses:
        secret = known[use.loan.login.name].reveal()
        value = use.fill(secret)
        fields[use.at] = (fields[use.at][0], value)
        hidden += spellings(secret, value)
    if uses:
        fields = [(name, value) for name, value in fields if name.lower() not in DROPPED]
        fields.append(("Accept-Encoding", "identity"))
    return fields, hidden


def spellings(secret: str, value: str) -> list[bytes]:
    """The ways in which a server may write a secret that it got in the value of a header; the longest first."""
    found = {secret, secret.lower(), secret.upper(), *coded_in_texts(secret), *escaped_in_texts(secret)}
    if value.startswith("Basic "):
        found.add(value.removeprefix("Basic ").rstrip("="))
    return sorted((text.encode("ascii") for text in found), key=lambda text: (-len(text), text))


def coded_in_texts(secret: str) -> set[str]:
    """The base64 forms of a secret within a text, one for each number of bytes (0 to 2) before it in its group of 3.

    The letters at both edges depend on their neighbours, so they are left out: they reveal 4 bits at most.
    """
    found: set[str] = set()
    for before, edge in ((0, 0), (1, 2), (2, 3)):
        data = bytes(before) + secret.encode()
        coded = base64.b64encode(data).decode().rstrip("=")
        inner = coded[edge : len(coded) - bool(len(data) % 3)]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


def escaped_in_texts(secret: str) -> set[str]:
    """The forms that URLs, JSON and HTML give to the signs in a secret. Letters, digits, - and _ stay as they are."""
    percent = quote(secret, safe="")
    text = json.dumps(secret)[1:-1]
    page = html.escape(secret)
    return {
        *(percent, re.sub("%..", lambda sign: sign[0].lower(), percent)),
        *(text, text.replace("/", "\\/"), *(text.translate(table) for table in IN_PAGES)),
        *(page, page.replace("/", "&#x2F;"), html.escape(secret, quote=False)),
    }


# -- Answers


class Cleaner:
    """Replaces texts in a stream of bytes by asterisks; the length of the stream stays the same.

    It holds bytes back only while they may be the beginning of such a text, so the events of a stream arrive at once.
    """

    def __init__(self, hidden: Sequence[bytes]) -> None:
        """The longest text comes first."""
        self._hidden = hidden
        self._kept = b""

    def take(self, piece: bytes) -> bytes:
        """The bytes that may be passed on."""
        if not self._hidden:
            return piece
        data = masked(self._kept + piece, self._hidden)
        size = max(begun(data, text) for text in self._hidden)
        self._kept = data[len(data) - size :]
        return data[: len(data) - size]

    def rest(self) -> bytes:
        """The bytes that were held back, at the end."""
        rest = self._kept
        self._kept = b""
        return rest


def masked(data: bytes, hidden: Iterable[bytes]) -> bytes:
    """Bytes with asterisks in place of texts."""
    for text in hidden:
        data = data.replace(text, MASK * len(text))
    return data


def begun(data: bytes, text: bytes) -> int:
    """The number of bytes at the end of `data` that are an incomplete beginning of a text."""
    first = max(0, len(data) - len(text) + 1)
    at = data.find(text[:1], first)
    while at >= 0:
        if text.startswith(data[at:]):
            return len(data) - at
        at = data.find(text[:1], at + 1)
    return 0


class BodyMask:
    """Puts asterisks in the place of each placeholder in the body of a request.

    It holds bytes back only while they may be the beginning of one, so no part of a placeholder is passed on. A refusal
    would end the conversation of an agent that has printed its variables, since a tool sends again what it has read.
    """

    def __init__(self, loans: Iterable[Loan]) -> None:
        self._loans = [(loan, loan.placeholder.encode()) for loan in loans]
        self._kept = b""

    def take(self, piece: bytes) -> tuple[bytes, list[Loan]]:
        """The bytes that may be passed on, and the loans whose placeholders were in them."""
        data = self._kept + piece
        found = []
        for loan, text in self._loans:
            if text in data:
                found.append(loan)
                data = data.replace(text, MASK * len(text))
        size = max((begun(data, text) for _, text in self._loans), default=0)
        self._kept = data[len(data) - size :]
        return data[: len(data) - size], found

    def rest(self) -> bytes:
        """The bytes that were held back, at the end of the body."""
        rest = self._kept
        self._kept = b""
        return rest
