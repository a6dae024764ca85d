"""A page for people from elsewhere who come without the token: a form to paste it into."""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the page."""
    extensions.sign_in_pages.append(sign_in_page)


def sign_in_page(request: clincus.Request, error: clincus.Refused) -> clincus.Response | None:
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
    return clincus.Response(
        error.status, text.encode(), [("Content-Type", clincus.Assets.TYPES[".html"]), *error.headers]
    )
