"""What the command line asks of the running server, and whom it trusts to be that server."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import server as cli_server


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers each GET with what it was asked for."""

    def do_GET(self) -> None:
        status = 404 if self.path == "/api/gone" else 200
        data = b'{"error": "no such session"}' if status == 404 else b'["' + self.path.encode() + b'"]'
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def context(tmp_path):
    """What a command has at hand, with a home of its own and a config that names a port where nothing listens."""
    return SimpleNamespace(options=SimpleNamespace(), environ={"HOME": str(tmp_path)}, basics={"dashboard.port": 9})


def remember(context, text: str) -> None:
    """Say a port as a server does that starts."""
    file = Path(clincus.own_file(context.environ, "port"))
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def test_the_server_that_was_started_last_is_asked(context, port):
    remember(context, f"{port}\n")
    assert cli_server.ask_server(context, "GET", "/api/sessions") == ["/api/sessions"]


def test_the_flag_names_another_server(context, port):
    remember(context, "9\n")
    context.options.port = port
    assert cli_server.ask_server(context, "GET", "/api/sessions") == ["/api/sessions"]


@pytest.mark.parametrize("text", ["", "0", "70000", "3000 4000"])
def test_a_file_that_names_no_port_is_passed_over(context, text):
    remember(context, text)
    assert cli_server.known_port(context) == 9


def test_no_server_is_said_with_what_to_do(context):
    with pytest.raises(clincus.ClincusError, match="start one with `clincus serve`") as raised:
        cli_server.ask_server(context, "GET", "/api/sessions")
    assert raised.value.status == 503


def test_what_the_server_refuses_is_said_in_its_words(context, port):
    remember(context, str(port))
    with pytest.raises(clincus.ClincusError, match="no such session") as raised:
        cli_server.ask_server(context, "GET", "/api/gone")
    assert raised.value.status == 404


@pytest.mark.parametrize(("uid", "words"), [(4242, "4242"), (None, "does not name")])
def test_nothing_is_sent_to_a_program_of_another_user(context, port, monkeypatch, uid, words):
    remember(context, str(port))
    monkeypatch.setattr(cli_server, "ACCEPT_PAUSE", 0)
    monkeypatch.setattr(clincus, "find_peer", lambda _: clincus.Peer("127.0.0.1", ("127.0.0.1", port), "", uid))
    with pytest.raises(clincus.ClincusError, match=words) as raised:
        cli_server.ask_server(context, "GET", "/api/sessions")
    assert raised.value.status == 403
