"""Access with a token from other machines and users, and a page on which a browser can enter the token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlencode

import clincus
from clincus import Peer, Request, Response

COOKIE_AGE = 30 * 86400  # seconds; each visit of the page renews them
FORM_LIMIT = 4096  # bytes
# A browser fetches these files to install the page, without its cookie: Safari never sends one for an icon. They are
# the same on every machine, and reveal no more than the sign-in page.
INSTALLED = frozenset({"/manifest.webmanifest", "/icon.svg", "/icon-192.png", "/icon-512.png"})


def install(_extensions: clincus.Extensions) -> None:
    """Add nothing: `clincus serve` makes the gate, since it knows if there is a token."""


class TokenGate(clincus.Gate):
    """Admits this server's user and root on this machine, and every request with the token.

    The token comes as `Authorization: Bearer`, or once by the form of the sign-in page or as `?token=`, and then
    becomes a cookie.
    """

    def __init__(self, allowed_hosts: Iterable[str] = (), *, token: str) -> None:
        super().__init__(allowed_hosts)
        if not token:
            raise ValueError("an empty token would let everybody in")
        self.token = token
        # The cookie is derived from the token: a program that reads a browser's storage does not learn the token.
        self.cookie = hmac.new(token.encode(), b"clincus cookie", hashlib.sha256).hexdigest()

    def admit_connection(self, _peer: Peer) -> None:
        """Let every connection send requests: they may have the token."""

    def check_user(self, request: Request) -> Response | None:
        """None for a request that may go on, or an answer that signs a browser in. Raises Refused(401)."""
        is_reading = request.method in {"GET", "HEAD"}
        if is_reading and request.path in INSTALLED:
            return None
        is_form = is_sign_in(request)
        shown = token_of_form(request) if is_form else shown_token(request)
        if shown is not None:
            if not is_equal(shown, self.token):
                return self._ask(request, "the token is wrong")
            is_page = "token" in request.query and is_reading and not request.is_socket
            return self._sign_in(request) if is_page or is_form else None
        if self._is_owner(request) or self._has_cookie(request):
            return None
        how = "open the link that `clincus serve` printed, or send Authorization: Bearer TOKEN"
        return self._ask(request, f"this needs the token: {how}")

    def _is_owner(self, request: Request) -> bool:
        """True for a request of this server's user or root, directly from this machine."""
        if request.peer.why_token:
            return False
        return not self.is_forwarded(request) and not self.is_by_name(request)

    def _ask(self, request: Request, words: str) -> Response:
        """The page that asks for the token. Raises Refused(401) for a request that accepts no page."""
        error = self.refuse(request.peer, "token", words, 401)
        error.headers = [("WWW-Authenticate", 'Bearer realm="clincus"')]
        page = sign_in_page(request, error)
        if page is None:
            raise error
        request.connection.close_connection = True
        return page

    def _has_cookie(self, request: Request) -> bool:
        ours = cookie_name(request)
        for pair in ";".join(request.headers.get_all("Cookie") or []).split(";"):
            name, _, value = pair.strip().partition("=")
            if name == ours and is_equal(value, self.cookie):
                return True
        return False

    def page_headers(self, request: Request) -> Sequence[tuple[str, str]]:
        """The cookie once more for a visit that has it, so that a monthly visitor stays signed in."""
        if "text/html" not in request.headers.get("Accept", "") or not self._has_cookie(request):
            return ()
        return [self._cookie_header(request)]

    def _cookie_header(self, request: Request) -> tuple[str, str]:
        cookie = f"{cookie_name(request)}={self.cookie}; Path=/; Max-Age={COOKIE_AGE}; HttpOnly; SameSite=Strict"
        if request.headers.get("X-Forwarded-Proto", "").lower() == "https":
            cookie += "; Secure"
        return "Set-Cookie", cookie

    def _sign_in(self, request: Request) -> Response:
        """Turn the token of a form, or `?token=`, into a cookie, and remove it from the address bar."""
        others = [(name, value) for name, value in request.query.items() if name != "token"]
        query = urlencode(others, errors="surrogateescape")
        # Never "//name": a browser would take it for another server.
        path = "/" + request.path.lstrip("/")
        location = f"{path}?{query}" if query else path
        return Response(303, b"", [("Location", location), self._cookie_header(request)])


def cookie_name(request: Request) -> str:
    """The name of our cookie. A browser sends cookies to all ports of a host, so the port is in the name."""
    return f"clincus-{request.peer.here[1]}"


def is_sign_in(request: Request) -> bool:
    """True if a request is the form of the sign-in page, which the page sends to its own address."""
    if request.method != "POST" or request.is_api:
        return False
    media_type = request.headers.get("Content-Type", "").partition(";")[0]
    return media_type.strip().lower() == "application/x-www-form-urlencoded"


def token_of_form(request: Request) -> str:
    """The token of the sign-in form, "" for none. The rest of the body stays unread, which ends the connection."""
    body = request.connection.rfile.read(min(request.body_length, FORM_LIMIT))
    return dict(parse_qsl(body.decode("ascii", "replace"))).get("token", "").strip()


def shown_token(request: Request) -> str | None:
    """The token in a request, right or wrong; None if it has none."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.query.get("token")


def is_equal(shown: str, secret: str) -> bool:
    """Compare in a time that reveals nothing about the secret or its length."""

    def digest(text: str) -> bytes:
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    return hmac.compare_digest(digest(shown), digest(secret))


def sign_in_page(request: Request, error: clincus.Refused) -> Response | None:
    """The page for a browser that asks for one, None for any other request.

    A browser keeps a SameSite=Strict cookie back when a link on another site brought it here. It sends the cookie
    after a refresh, because that request comes from this site.
    """
    import html

    page = clincus.packaged_file("spa_dist/sign-in.html")
    if page is None or request.is_api or "text/html" not in request.headers.get("Accept", ""):
        return None
    has_tried = "token" in request.query or request.method == "POST"
    text = page.decode()
    if has_tried:
        words = html.escape(error.message[:1].upper() + error.message[1:])
        text = text.replace("<!-- problem -->", f'<p class="wrong" role="alert">{words}.</p>')
    elif request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        text = text.replace("<!-- refresh -->", '<meta http-equiv="refresh" content="0">')
    for unused in ("<!-- refresh -->", "<!-- problem -->"):
        text = text.replace(unused, "")
    headers = [("Content-Type", clincus.Assets.TYPES[".html"]), *error.headers]
    return Response(error.status, text.encode(), headers)
