"""The few pages that the preview itself shows in place of an app."""

from __future__ import annotations

import contextlib
import html

import clincus
from clincus_features.preview import relay

# No script, no picture, nothing from other hosts. Any site may frame it: its words are no secret.
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
    """Answer with the words of an error. The connection ends with it."""
    title = TITLES.get(error.status, "This did not work")
    reload = " Reload this page when the app runs." if error.status in (502, 504) else ""
    words = html.escape(error.message + reload)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    page = f'<!doctype html><html lang="en">{head}<h1>{title}</h1><p>{words}</p></html>'
    body = page.encode()
    fields = [*FIELDS, ("Content-Length", str(len(body)))]
    send(request, error.status, fields, body)


def send(request: clincus.Request, status: int, fields: list[tuple[str, str]], body: bytes = b"") -> None:
    """Send an answer of the preview's own, as far as the browser takes it."""
    connection = request.connection.connection
    answer = relay.head_bytes(status, fields)
    if request.method != "HEAD":
        answer += body
    with contextlib.suppress(OSError):
        connection.settimeout(clincus.ANSWER_TIMEOUT)
        connection.sendall(answer)
