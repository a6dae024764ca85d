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
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def context(tmp_path):
    """What a command has at hand, with a home of its own and a config that names a port where nothing listens."""
    return SimpleNamespace(options=SimpleNamespace(), environ={"HOME": str(tmp_path)}, basics={"dashboard.port": 9})


def remember(context, text: str) -> None:
    """Say a port as a server does that starts."""
    file = Path(clincus.own_file(context.environ, "port"))
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def test_the_server_is_asked_that_was_started_last_or_that_the_flag_names(context, port):
    remember(context, f"{port}\n")
    assert cli_server.ask_server(context, "GET", "/api/sessions") == ["/api/sessions"]
    with pytest.raises(clincus.ClincusError, match="no such session") as raised:
        cli_server.ask_server(context, "GET", "/api/gone")
    assert raised.value.status == 404
    for text in ("", "0", "70000", "3000 4000"):
        remember(context, text)
        assert cli_server.known_port(context) == 9
    with pytest.raises(clincus.ClincusError, match="start one with `clincus serve`") as raised:
        cli_server.ask_server(context, "GET", "/api/sessions")
    assert raised.value.status == 503
    context.options.port = port
    assert cli_server.ask_server(context, "GET", "/api/sessions") == ["/api/sessions"]


def test_nothing_is_sent_to_a_program_of_another_user(context, port, monkeypatch):
    remember(context, str(port))
    monkeypatch.setattr(cli_server, "ACCEPT_PAUSE", 0)
    for uid, words in ((4242, "4242"), (None, "does not name")):
        peer = clincus.Peer("127.0.0.1", ("127.0.0.1", port), "", uid)
        monkeypatch.setattr(clincus, "find_peer", lambda _, peer=peer: peer)
        with pytest.raises(clincus.ClincusError, match=words) as raised:
            cli_server.ask_server(context, "GET", "/api/sessions")
        assert raised.value.status == 403
