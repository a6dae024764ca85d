"""The heads of requests and answers between a browser and a port of a container: text in, text out.

The app sees requests for `localhost:PORT`, so that the Host checks of dev servers pass. It never sees the dashboard's
cookies and token, nor the preview's own. Its answer is a container's word: only what fits the grammar of HTTP/1.1 goes
out, in a framing of our own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import clincus

FIELDS_MOST = 200  # header fields of an answer
OURS = "clincus-"  # prefix of all our cookies

# Fields that concern one connection only (RFC 9110, 7.6.1), and never go on.
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length",
}  # fmt: skip
# Fields that would tell an app the way to us, or that we write ourselves.
NOT_FORWARDED = {*HOP_BY_HOP, *clincus.Gate.PROXY_FIELDS, "host", "origin", "referer", "cookie", "expect"}
# Fields that would lead the browser to another server, or remove its cookie for this origin.
NOT_PASSED = {*HOP_BY_HOP, "alt-svc", "clear-site-data", "strict-transport-security", "x-frame-options"}
# Fields with which the browser contacts other servers by itself, in spite of any policy.
LEADING_OUT = {
    "content-security-policy-report-only", "link", "nel", "report-to", "reporting-endpoints", "speculation-rules",
    "x-dns-prefetch-control",
}  # fmt: skip

Fields = Sequence[tuple[str, str]]


class Place(NamedTuple):
    """The address of an app in its container, and for the browser."""

    port: int  # in the container
    origin: str  # for the browser
    framers: Sequence[str]  # origins whose pages may show it in a frame
    is_confined: bool = False  # its pages may load from, and send to, this origin alone


class BadAnswer(ValueError):
    """An app's answer is not HTTP, or could be read in two ways."""


class Answer(NamedTuple):
    """The head of an app's answer."""

    status: int
    fields: Fields
    chunked: bool
    length: int | None  # bytes of the body; None if it ends with the connection or is chunked

    def has_body(self, method: str) -> bool:
        """True if a body follows (RFC 9112, 6.3)."""
        is_final = self.status >= 200
        return is_final and method != "HEAD" and self.status not in (204, 304)


def cookie_name(pair: str) -> str:
    """The name in `name=value`, as a browser reads it (RFC 6265, 5.2)."""
    return pair.partition("=")[0].strip()


def request_head(request: clincus.Request, target: str, place: Place) -> bytes:
    """The head that an app gets for a browser's request."""
    here = f"http://localhost:{place.port}"
    origin = place.origin
    dropped = NOT_FORWARDED | request.options("Connection")
    fields = [("Host", f"localhost:{place.port}")]
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in ("origin", "referer") and (value == origin or value.startswith(f"{origin}/")):
            fields.append((name, here + value[len(origin) :]))
        elif lower == "cookie":
            pairs = [pair.strip() for pair in value.split(";")]
            kept = [pair for pair in pairs if not cookie_name(pair).startswith(OURS)]
            if kept:
                fields.append((name, "; ".join(kept)))
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
    """True if a request asks for a WebSocket: the only other protocol that goes through."""
    is_plain = request.method == "GET" and not request.body_length and request.version == "HTTP/1.1"
    upgrades = "upgrade" in request.options("Connection")
    return is_plain and upgrades and request.options("Upgrade") == {"websocket"}


def read_answer(head: bytes) -> Answer:
    """Parse the head of an app's answer, without the empty line at its end. Raises BadAnswer."""
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    status = re.fullmatch(clincus.HTTP_STATUS_LINE, first)
    if not status:
        raise BadAnswer("it begins with no line of HTTP")
    if len(lines) > FIELDS_MOST:
        raise BadAnswer("its head has too many fields")
    try:
        fields = [clincus.split_field(line) for line in lines]
    except ValueError:
        raise BadAnswer("a field of its head is not NAME: VALUE on a line of its own") from None
    codings = clincus.field_words(fields, "transfer-encoding")
    lengths = set(clincus.field_words(fields, "content-length"))
    is_known = codings in ([], ["chunked"]) and len(lengths) <= 1
    if not is_known or not all(re.fullmatch("[0-9]{1,18}", length) for length in lengths):
        raise BadAnswer("where its body ends is not beyond doubt")
    length = None if codings or not lengths else int(lengths.pop())
    return Answer(int(status[2]), fields, bool(codings), length)


def answer_fields(answer: Answer, place: Place) -> list[tuple[str, str]]:
    """The fields of an answer as the browser gets them."""
    dropped = NOT_PASSED.union(clincus.field_words(answer.fields, "connection"))
    not_the_apps = ["frame-ancestors"]
    if place.is_confined:
        dropped |= LEADING_OUT
        not_the_apps += ["report-to", "report-uri"]
    own_policy = functools.partial(without_directives, not_the_apps)
    address = place_address(place)
    rewrite: dict[str, Callable[[str], str]] = {
        "location": address,
        "content-location": address,
        "access-control-allow-origin": address,
        "content-security-policy": own_policy,
        "content-security-policy-report-only": own_policy,
        "set-cookie": own_cookie,
    }
    fields = []
    for name, value in answer.fields:
        if name.lower() not in dropped:
            rewritten = rewrite.get(name.lower(), str)(value)
            fields.append((name, rewritten))
    fields = [field for field in fields if field[1]]
    if place.is_confined:
        fields += confinement(place)
    ancestors = " ".join(["frame-ancestors 'self'", *place.framers])
    return [*fields, ("Content-Security-Policy", ancestors)]


def confinement(place: Place) -> Fields:
    """The fields that keep the pages of an app from loading anything from other origins, or sending it there.

    The policy is added to that of the app, and both hold (CSP3, 8.1). No field keeps a page from leading the browser
    to another address, or from using WebRTC: Chromium 156 does not know the directive `webrtc`, and says so in its
    console. Chromium also loads an address ahead if a script in the page asks for it (speculation rules). Only a policy
    without 'unsafe-inline' prevents that, and the pages of most dev servers have scripts in them.
    """
    own = "'self' data: blob:"
    sockets = place.origin.replace("http", "ws", 1)
    directives = [
        f"default-src {own} 'unsafe-inline' 'unsafe-eval'",
        f"connect-src {own} {sockets}",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
    return [
        ("Content-Security-Policy", "; ".join(directives)),
        ("X-DNS-Prefetch-Control", "off"),
    ]


def place_address(place: Place) -> Callable[[str], str]:
    """A function that replaces the app's own address in a URL by its address for the browser. Other URLs stay."""
    host = r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1?\])"
    pattern = re.compile(rf"(?:https?:)?//{host}:{place.port}(?=[/?#]|$)", re.IGNORECASE)

    def rewrite(url: str) -> str:
        found = pattern.match(url)
        return place.origin + url[found.end() :] if found else url

    return rewrite


def own_cookie(value: str) -> str:
    """A cookie of the app, for its own origin alone; "" if it has one of our names."""
    pair, *attributes = value.split(";")
    if cookie_name(pair).startswith(OURS):
        return ""
    kept = [one for one in attributes if one.partition("=")[0].strip().lower() != "domain"]
    return ";".join([pair, *kept])


def without_directives(names: Sequence[str], policy: str) -> str:
    """A content security policy without the directives that an app may not set."""
    policies = []
    for part in policy.split(","):
        kept = [directive for directive in part.split(";") if directive_name(directive) not in names]
        policies.append(";".join(kept))
    return ",".join(policy for policy in policies if policy.strip())


def directive_name(directive: str) -> str:
    """The name of a directive in lower case, "" for an empty one."""
    words = directive.split()
    return words[0].lower() if words else ""
