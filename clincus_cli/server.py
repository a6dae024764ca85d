"""Requests of a command to the running server: `clincus serve` of the same user on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import clincus
from clincus_cli import TYPE_CHECKING
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    import socket
    from typing import Any

PORT = cli.Flag("--port N", "port of the dashboard's server (default: where it runs)", check=cli.number_from(1, 65535))
ANSWER_WITHIN = 60  # seconds: a prompt waits for its proof, and for another prompt that is being typed
ACCEPT_TRIES = 40
ACCEPT_PAUSE = 0.05  # seconds


def session_path(name: str, what: str, query: Mapping[str, str] = {}) -> str:
    """The path of an operation on a session, such as `agent`; "" is the session itself."""
    from urllib.parse import quote, urlencode

    path = f"/api/sessions/{quote(name, safe='')}" + (f"/{what}" if what else "")
    encoded = urlencode({name: os.fsencode(value) for name, value in query.items()})
    return f"{path}?{encoded}" if query else path


def ask_session(
    context: Context,
    method: str,
    what: str,
    body: Mapping[str, object] | None = None,
    *,
    query: Mapping[str, str] = {},
    within: float = ANSWER_WITHIN,
) -> Any:
    """Ask the server about the session that the options name; see `ask_server`."""
    return ask_server(context, method, session_path(context.options.name, what, query), body, within)


def ask_server(
    context: Context, method: str, path: str, body: Mapping[str, object] | None = None, within: float = ANSWER_WITHIN
) -> Any:
    """Ask the server, and return its answer, parsed from JSON. Raises ClincusError as `fetch_from_server` does."""
    import json

    answer = fetch_from_server(context, method, path, body, within)
    try:
        return json.loads(answer or b"{}")
    except ValueError as error:
        words = f"the server's answer cannot be read ({error}): is it Clincus? Name its port with --port"
        raise clincus.ClincusError(words, 503) from None


def fetch_from_server(
    context: Context, method: str, path: str, body: Mapping[str, object] | None, within: float
) -> bytes:
    """The body of the server's answer to a request. Raises ClincusError with the server's error; 503 if none answers.

    Nothing is sent to a program of another user that listens at the port.
    """
    import json
    import socket

    port = getattr(context.options, "port", None) or known_port(context)
    data = b"" if body is None else json.dumps(body).encode()
    # By HTTP/1.0, whose answer ends with the connection: to load http.client takes 20 ms of CPU.
    fields = f"Host: 127.0.0.1:{port}", "Content-Type: application/json", f"Content-Length: {len(data)}"
    head = "\r\n".join([f"{method} {path} HTTP/1.0", *fields, "", ""])
    try:
        with socket.socket() as connection:
            connection.settimeout(within)
            connection.connect((b"127.0.0.1", port))  # of a text Python would make an internationalised name, in 4 ms
            check_owner(connection, port)
            connection.sendall(head.encode("ascii") + data)
            answer, _, found = connection.makefile("rb").read().partition(b"\r\n\r\n")
        status = int(answer.split()[1])
        words = json.loads(found).get("error", "the server refused it") if status >= 400 else ""
    except ConnectionRefusedError:
        words = f"no server answers at port {port}: start one with `clincus serve` or "
        words += "`clincus service start`, or name its port with --port"
        raise clincus.ClincusError(words, 503) from None
    except (OSError, IndexError, ValueError) as error:
        raise clincus.ClincusError(
            f"the server at port {port} did not answer ({error}): check that `clincus serve` still runs", 503
        ) from None
    if status >= 400:
        raise clincus.ClincusError(str(words), status)
    return found


def check_owner(connection: socket.socket, port: int) -> None:
    """Make sure that a connection to this machine ends at a program of ours or of root's. Raises ClincusError, 403."""
    for _ in range(ACCEPT_TRIES):
        owner = clincus.find_peer(connection).uid
        if owner is not None:
            break
        time.sleep(ACCEPT_PAUSE)  # the kernel names no owner before the server has accepted the connection
    if owner not in (0, os.geteuid()):
        whose = "a program that the kernel does not name" if owner is None else f"{clincus.user_name(owner)}'s program"
        advice = "start a server of yours (`clincus serve --port N`), or name its port with --port"
        raise clincus.ClincusError(f"{whose} listens at port {port}, so nothing was sent to it: {advice}", 403)


def known_port(context: Context) -> int:
    """The port at which the last started server listens, or else that of the config."""
    try:
        with open(clincus.own_file(context.environ, "port"), encoding="ascii") as file:
            return cli.number_from(1, 65535)(file.read().strip())
    except (OSError, ValueError):
        return int(context.basics.get("dashboard.port"))
