"""The few pages that the preview itself shows in the place of an app."""

from __future__ import annotations

import contextlib
import html

import clincus
from clincus_features.preview import relay

# No script, no picture, nothing from anywhere. Who frames it sees words that are no secret.
FIELDS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)
STYLE = "body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}"
CLOSED = "This preview is not open. Open the port in the dashboard, or with `clincus ports SESSION --open PORT`."
TITLES = {403: "Not open", 502: "No answer", 503: "Too many connections", 504: "No answer in time"}


def send_page(request: clincus.Request, error: clincus.ClincusError) -> None:
    """Answer with the words of an error; the connection ends with it."""
    title = TITLES.get(error.status, "This did not work")
    reload = " Reload this page when the app runs." if error.status in (502, 504) else ""
    words = html.escape(error.message + reload)
    body = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{words}</p></html>"
    ).encode()
    send(request, error.status, [*FIELDS, ("Content-Length", str(len(body)))], body)


def send(request: clincus.Request, status: int, fields: list[tuple[str, str]], body: bytes = b"") -> None:
    """Send an answer of the preview's own, as far as the browser takes it."""
    connection = request.connection.connection
    with contextlib.suppress(OSError):
        connection.settimeout(clincus.ANSWER_TIMEOUT)
        connection.sendall(relay.head_bytes(status, fields) + (b"" if request.method == "HEAD" else body))
