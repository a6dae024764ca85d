"""People from elsewhere: whoever has the token may come in, and a page to paste it into for those who come without."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlencode

import clincus
from clincus import Peer, Request, Response

COOKIE_AGE = 30 * 86400  # seconds; each visit of the page begins them anew
FORM_LIMIT = 4096  # bytes
# What a browser fetches to install the page. It does not show the cookie then: Safari never does for an icon. These are
# the same on every machine, and tell no more than the sign-in page.
INSTALLED = frozenset({"/manifest.webmanifest", "/icon.svg", "/icon-192.png", "/icon-512.png"})


def install(_extensions: clincus.Extensions) -> None:
    """Add no more: `clincus serve` makes the gate, since it knows whether there is a token."""


class TokenGate(clincus.Gate):
    """Admits this server's user and root on this machine, and everybody who has the token.

    It comes as `Authorization: Bearer`, or once by the form of the sign-in page or as `?token=`: that becomes a cookie.
    """

    def __init__(self, allowed_hosts: Iterable[str] = (), *, token: str) -> None:
        super().__init__(allowed_hosts)
        if not token:
            raise ValueError("an empty token would let everybody in")
        self.token = token
        # The cookie is derived from the token: a program that reads a browser's storage does not learn the token.
        self.cookie = hmac.new(token.encode(), b"clincus cookie", hashlib.sha256).hexdigest()

    def admit_connection(self, _peer: Peer) -> None:
        """Let every connection send requests: they may bring the token."""

    def check_user(self, request: Request) -> Response | None:
        """Let in who shows the token: None, or an answer that signs a browser in. Raises Refused(401)."""
        if request.path in INSTALLED and request.method in {"GET", "HEAD"}:
            return None
        is_form = is_sign_in(request)
        shown = token_of_form(request) if is_form else shown_token(request)
        if shown is not None:
            if not is_equal(shown, self.token):
                return self._ask(request, "the token is wrong")
            is_page = "token" in request.query and request.method in {"GET", "HEAD"} and not request.is_socket
            return self._sign_in(request) if is_page or is_form else None
        is_owner = not (request.peer.why_token or self.is_forwarded(request) or self.is_by_name(request))
        if is_owner or self._has_cookie(request):
            return None
        how = "open the link that `clincus serve` printed, or send Authorization: Bearer TOKEN"
        return self._ask(request, f"this needs the token: {how}")

    def _ask(self, request: Request, words: str) -> Response:
        """The page that asks for the token. Raises Refused(401) for who wants no page."""
        error = self.refuse(request.peer, "token", words, 401)
        error.headers = [("WWW-Authenticate", 'Bearer realm="clincus"')]
        page = sign_in_page(request, error)
        if page is None:
            raise error
        request.connection.close_connection = True
        return page

    def _has_cookie(self, request: Request) -> bool:
        pairs = [pair.strip().partition("=") for pair in ";".join(request.headers.get_all("Cookie") or []).split(";")]
        ours = cookie_name(request)
        return any(name == ours and is_equal(value, self.cookie) for name, _, value in pairs)

    def page_headers(self, request: Request) -> Sequence[tuple[str, str]]:
        """The cookie once more for a visit that brings it, so that nobody who comes each month is signed out."""
        if "text/html" not in request.headers.get("Accept", "") or not self._has_cookie(request):
            return ()
        return [self._cookie_header(request)]

    def _cookie_header(self, request: Request) -> tuple[str, str]:
        secure = "; Secure" if request.headers.get("X-Forwarded-Proto", "").lower() == "https" else ""
        cookie = f"{cookie_name(request)}={self.cookie}; Path=/; Max-Age={COOKIE_AGE}; HttpOnly; SameSite=Strict"
        return "Set-Cookie", cookie + secure

    def _sign_in(self, request: Request) -> Response:
        """Turn the token of a form, or `?token=`, into a cookie, and take it out of the address bar."""
        rest = urlencode([pair for pair in request.query.items() if pair[0] != "token"], errors="surrogateescape")
        # Never "//name": a browser would take it for another server.
        path = "/" + request.path.lstrip("/") + (f"?{rest}" if rest else "")
        return Response(303, b"", [("Location", path), self._cookie_header(request)])


def cookie_name(request: Request) -> str:
    """The name of our cookie. A browser sends cookies to all ports of a host, so the port is in the name."""
    return f"clincus-{request.peer.here[1]}"


def is_sign_in(request: Request) -> bool:
    """Whether a request is the form of the sign-in page, which it sends to its own address."""
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return request.method == "POST" and not request.is_api and media_type == "application/x-www-form-urlencoded"


def token_of_form(request: Request) -> str:
    """The token of the sign-in form, "" for none. The rest of the body stays unread, which ends the connection."""
    body = request.connection.rfile.read(min(request.body_length, FORM_LIMIT))
    return dict(parse_qsl(body.decode("ascii", "replace"))).get("token", "").strip()


def shown_token(request: Request) -> str | None:
    """The token that a request shows, right or wrong; None if it shows none."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.query.get("token")


def is_equal(shown: str, secret: str) -> bool:
    """Compare in a time that tells nothing about the secret or its length."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (shown, secret)]
    return hmac.compare_digest(*digests)


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
    is_led_here = request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"} and not has_tried
    refresh = '<meta http-equiv="refresh" content="0">' if is_led_here else ""
    words = html.escape(error.message[:1].upper() + error.message[1:])
    problem = f'<p class="wrong" role="alert">{words}.</p>' if has_tried else ""
    text = page.decode().replace("<!-- refresh -->", refresh).replace("<!-- problem -->", problem)
    return Response(error.status, text.encode(), [("Content-Type", clincus.Assets.TYPES[".html"]), *error.headers])
