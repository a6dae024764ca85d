"""People from elsewhere: whoever has the token may come in, and a page to paste it into for those who come without."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlencode

import clincus
from clincus import Peer, Request, Response


def install(_extensions: clincus.Extensions) -> None:
    """Add no more: `clincus serve` makes the gate, since it knows whether there is a token."""


class TokenGate(clincus.Gate):
    """Admits this server's user and root on this machine, and everybody who has the token.

    It comes as `Authorization: Bearer`, or once as `?token=`, which becomes a cookie.
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
        shown = shown_token(request)
        if shown is not None:
            if not is_equal(shown, self.token):
                return self._ask(request, "the token is wrong")
            is_page = "token" in request.query and request.method in {"GET", "HEAD"} and not request.is_socket
            return self._sign_in(request) if is_page else None
        is_owner = not (request.peer.doubt or self.is_forwarded(request) or self.is_by_name(request))
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
        ours = f"clincus-{request.peer.here[1]}"  # cookies know no ports, so the name does
        return any(name == ours and is_equal(value, self.cookie) for name, _, value in pairs)

    def _sign_in(self, request: Request) -> Response:
        """Turn `?token=` into a cookie, and take it out of the address bar."""
        rest = urlencode([pair for pair in request.query.items() if pair[0] != "token"], errors="surrogateescape")
        # Never "//name": a browser would take it for another server.
        path = "/" + request.path.lstrip("/") + (f"?{rest}" if rest else "")
        secure = "; Secure" if request.headers.get("X-Forwarded-Proto", "").lower() == "https" else ""
        cookie = f"clincus-{request.peer.here[1]}={self.cookie}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"
        return Response(303, b"", [("Location", path), ("Set-Cookie", cookie + secure)])


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
    has_tried = "token" in request.query
    is_led_here = request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"} and not has_tried
    refresh = '<meta http-equiv="refresh" content="0">' if is_led_here else ""
    words = html.escape(error.message[:1].upper() + error.message[1:])
    problem = f'<p class="wrong" role="alert">{words}.</p>' if has_tried else ""
    text = page.decode().replace("<!-- refresh -->", refresh).replace("<!-- problem -->", problem)
    return Response(error.status, text.encode(), [("Content-Type", clincus.Assets.TYPES[".html"]), *error.headers])
