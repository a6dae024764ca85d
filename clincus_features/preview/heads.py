"""The heads of requests and answers between a browser and a port of a container: text in, text out.

The app believes that it is asked at `localhost:PORT`, so that the Host checks of dev servers pass. It never sees what
belongs to the dashboard: its cookies, its token, and the preview's own. What it answers is a container's word: only
what fits the grammar of HTTP/1.1 goes out, in a framing of our own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import clincus

FIELDS_MOST = 200  # header fields of an answer
OURS = "clincus-"  # the names of all cookies of ours begin so

# These fields concern one connection only (RFC 9110, 7.6.1), and never go on.
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length",
}  # fmt: skip
# These tell an app of the way to us, which is none of its business, or are what we say or do ourselves.
NOT_FORWARDED = {*HOP_BY_HOP, *clincus.Gate.PROXY_FIELDS, "host", "origin", "referer", "cookie", "expect"}
# These would lead the browser to another server, or take the cookie away by which it comes in here.
NOT_PASSED = {*HOP_BY_HOP, "alt-svc", "clear-site-data", "strict-transport-security", "x-frame-options"}
# With these the browser asks or tells other servers by itself, whatever a policy says.
LEADING_OUT = {
    "content-security-policy-report-only", "link", "nel", "report-to", "reporting-endpoints", "speculation-rules",
    "x-dns-prefetch-control",
}  # fmt: skip

_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")

Fields = Sequence[tuple[str, str]]


class Place(NamedTuple):
    """Where an app is, and where the browser finds it."""

    port: int  # in the container
    origin: str  # what the browser calls it
    framers: Sequence[str]  # origins whose pages may show it in a frame
    is_confined: bool = False  # its pages may load from, and send to, this origin alone


class BadAnswer(ValueError):
    """An app's answer is not HTTP, or could be read in two ways."""


class Answer(NamedTuple):
    """The head of an app's answer."""

    status: int
    fields: Fields
    chunked: bool
    length: int | None  # bytes of the body, None where it ends with the connection or is chunked

    def has_body(self, method: str) -> bool:
        """Whether a body follows (RFC 9112, 6.3)."""
        return method != "HEAD" and self.status not in (204, 304) and self.status >= 200


def members(fields: Fields, name: str) -> list[str]:
    """The members of a header field that is a list, in lower case."""
    text = ",".join(value for key, value in fields if key.lower() == name)
    return [member.strip().lower() for member in text.split(",") if member.strip()]


def cookie_name(pair: str) -> str:
    """The name in `name=value`, as a browser reads it (RFC 6265, 5.2)."""
    return pair.partition("=")[0].strip()


def request_head(request: clincus.Request, target: str, place: Place) -> bytes:
    """The head that an app gets for a browser's request."""
    here, origin = f"http://localhost:{place.port}", place.origin
    dropped = NOT_FORWARDED | request.options("Connection")
    fields = [("Host", f"localhost:{place.port}")]
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in ("origin", "referer") and (value == origin or value.startswith(f"{origin}/")):
            fields.append((name, here + value[len(origin) :]))
        elif lower == "cookie":
            kept = [pair.strip() for pair in value.split(";") if not cookie_name(pair).startswith(OURS)]
            fields += [(name, "; ".join(kept))] if kept else []
        elif lower not in dropped:
            fields.append((name, value))
    if request.body_length or request.headers.get("Content-Length"):
        fields.append(("Content-Length", str(request.body_length)))
    if wants_socket(request):
        fields += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    else:
        fields.append(("Connection", "close"))
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def wants_socket(request: clincus.Request) -> bool:
    """Whether a request asks for a WebSocket: the only other protocol that goes through."""
    upgrades = request.options("Upgrade") == {"websocket"} and "upgrade" in request.options("Connection")
    return upgrades and request.method == "GET" and not request.body_length and request.version == "HTTP/1.1"


def read_answer(head: bytes) -> Answer:
    """Take the head of an app's answer apart, without the empty line at its end. Raises BadAnswer."""
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    status = _STATUS.fullmatch(first)
    if not status or len(lines) > FIELDS_MOST:
        raise BadAnswer("it begins with no line of HTTP" if not status else "its head has too many fields")
    try:
        fields = [clincus.split_field(line) for line in lines]
    except ValueError:
        raise BadAnswer("a field of its head is not NAME: VALUE on a line of its own") from None
    codings = members(fields, "transfer-encoding")
    lengths = set(members(fields, "content-length"))
    if codings not in ([], ["chunked"]) or len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,18}", n) for n in lengths):
        raise BadAnswer("where its body ends is not beyond doubt")
    length = None if codings or not lengths else int(lengths.pop())
    return Answer(int(status[1]), fields, bool(codings), length)


def answer_fields(answer: Answer, place: Place) -> list[tuple[str, str]]:
    """The fields of an answer as the browser gets them."""
    dropped = NOT_PASSED | set(members(answer.fields, "connection")) | (LEADING_OUT if place.is_confined else set())
    taken = ("frame-ancestors", "report-to", "report-uri") if place.is_confined else ("frame-ancestors",)
    own_policy = functools.partial(without_directives, taken)
    rewrite: dict[str, Callable[[str], str]] = {
        **dict.fromkeys(("location", "content-location", "access-control-allow-origin"), place_address(place)),
        **dict.fromkeys(("content-security-policy", "content-security-policy-report-only"), own_policy),
        "set-cookie": own_cookie,
    }
    passed = [(name, value) for name, value in answer.fields if name.lower() not in dropped]
    passed = [(name, rewrite.get(name.lower(), str)(value)) for name, value in passed]
    ancestors = ("Content-Security-Policy", " ".join(["frame-ancestors 'self'", *place.framers]))
    return [*(field for field in passed if field[1]), *(confinement(place) if place.is_confined else ()), ancestors]


def confinement(place: Place) -> Fields:
    """The fields that keep the pages of an app from loading anything from elsewhere, or sending it there.

    The policy stands beside that of the app, and both hold (CSP3, 8.1). No field keeps a page from leading the browser
    to another address, nor from WebRTC: Chromium 156 does not know the directive `webrtc`, and says so in its console.
    Nor does any keep Chromium from loading an address ahead, which a script in the page asks for (speculation rules):
    it obeys a policy without 'unsafe-inline' alone, and the pages of most dev servers have scripts in them.
    """
    own = "'self' data: blob:"
    policy = (
        f"default-src {own} 'unsafe-inline' 'unsafe-eval'; connect-src {own} {place.origin.replace('http', 'ws', 1)}; "
        "object-src 'none'; base-uri 'self'; form-action 'self'"
    )
    return [("Content-Security-Policy", policy), ("X-DNS-Prefetch-Control", "off")]


def place_address(place: Place) -> Callable[[str], str]:
    """A function that gives a URL in which the app names itself as the browser finds it; any other as it is."""
    host = r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1?\])"
    pattern = re.compile(rf"(?:https?:)?//{host}:{place.port}(?=[/?#]|$)", re.IGNORECASE)

    def rewrite(url: str) -> str:
        found = pattern.match(url)
        return place.origin + url[found.end() :] if found else url

    return rewrite


def own_cookie(value: str) -> str:
    """A cookie that the app sets, for its own origin alone; "" for one of a name of ours."""
    pair, *attributes = value.split(";")
    if cookie_name(pair).startswith(OURS):
        return ""
    kept = [one for one in attributes if one.partition("=")[0].strip().lower() != "domain"]
    return ";".join([pair, *kept])


def without_directives(names: Sequence[str], policy: str) -> str:
    """A content security policy without what is not the app's to say."""
    kept = [
        ";".join(one for one in part.split(";") if "".join(one.split()[:1]).lower() not in names)
        for part in policy.split(",")
    ]
    return ",".join(part for part in kept if part.strip())
