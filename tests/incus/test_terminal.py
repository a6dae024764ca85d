"""Terminals of real sessions over WebSocket."""

from __future__ import annotations

import json
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.programs import DEADLINE, NO_CHECKPOINTS, connect, wait_until

CONTROL = ["clincus.terminal.v1"]
PING = json.dumps({"type": "ping"})


class Terminal:
    """A client of a terminal that keeps all that it has received."""

    def __init__(self, server, path: str, **options) -> None:
        self.socket = connect(server.socket_url + path, max_size=None, **options)
        self.output = b""
        self.notices: list[dict] = []

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def type(self, text: str) -> None:
        self.socket.send(text.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.socket.send(json.dumps({"type": "resize", "cols": columns, "rows": rows}))

    def wait_for(self, words: str) -> None:
        """Read until the words have come."""
        end = time.monotonic() + DEADLINE
        while words.encode() not in self.output:
            assert time.monotonic() < end, f"waited in vain for {words!r} in {self.output[-2000:]!r}"
            self._take(self.socket.recv(timeout=DEADLINE))

    def wait_for_size(self, size: str) -> None:
        """Ask the tool until it has this size: tmux gives a new one to its programs a moment later."""

        def has_it() -> bool:
            self.output = b""
            self.type("size\r")
            self.wait_for("size: ")
            return f"size: {size}".encode() in self.output

        wait_until(has_it, f"the size {size}")

    def close_code(self) -> int:
        """Read to the end and return the server's close code."""
        try:
            while True:
                self._take(self.socket.recv(timeout=DEADLINE))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006

    def _take(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            self.output += message
        else:
            self.notices.append(json.loads(message))


def tmux_clients(bed, session) -> str:
    return bed.shell(session["id"], f"tmux list-clients -t =clincus-{session['id']} -F '#{{client_pid}}'")


def path_of(session) -> str:
    return f"/ws/terminal/{session['id']}"


@pytest.fixture
def session(bed, shared_session):
    """The session of this file, with an empty screen and no shell."""
    id = shared_session["id"]
    clear = f"tmux send-keys -t '=clincus-{id}:' 'sh clear; echo STUB-READY' Enter"
    bed.shell(id, f"tmux kill-session -t =clincus-shell-{id} 2>/dev/null; {clear}")
    return shared_session


@pytest.fixture
def terminal_path(session):
    return path_of(session)


@pytest.fixture(scope="module")
def stopped(shared_server, keep_session):
    """A stopped session, and the code with which the stop closed its terminal."""
    session = keep_session(shared_server)
    with Terminal(shared_server, path_of(session), subprotocols=CONTROL) as terminal:
        terminal.wait_for("STUB-READY")
        shared_server.delete(f"/api/sessions/{session['id']}")
        return session, terminal.close_code()


@pytest.fixture
def stopped_path(stopped):
    """The terminal of a stopped session."""
    return path_of(stopped[0])


@pytest.mark.day
def test_a_plain_client_types_with_text_or_binary_and_reads_bytes(shared_server, terminal_path):
    with Terminal(shared_server, terminal_path) as terminal:
        terminal.wait_for("STUB-READY")
        terminal.socket.send("héllo 中文 👋\r")
        terminal.wait_for("echo: héllo 中文 👋")
        terminal.socket.send(b"second\r")
        terminal.wait_for("echo: second")
        assert terminal.notices == []


def test_the_first_size_is_that_of_the_query(shared_server, terminal_path):
    with Terminal(shared_server, terminal_path + "?cols=97&rows=31") as terminal:
        terminal.wait_for("STUB-READY")
        terminal.wait_for_size("31 97")


@pytest.mark.day
def test_a_resize_reaches_the_tool(shared_server, terminal_path):
    with Terminal(shared_server, terminal_path, subprotocols=CONTROL) as terminal:
        terminal.wait_for("STUB-READY")
        terminal.resize(101, 33)
        terminal.wait_for_size("33 101")


@pytest.mark.day
def test_a_watcher_sees_and_cannot_type(bed, shared_server, session, terminal_path):
    with (
        Terminal(shared_server, terminal_path) as terminal,
        Terminal(shared_server, terminal_path + "?readonly=1&cols=40&rows=10") as watcher,
    ):
        terminal.wait_for("STUB-READY")
        watcher.type("from the watcher\r")
        terminal.type("from the typist\r")
        watcher.wait_for("from the typist")
        assert "from the watcher" not in bed.screen(session["id"])


def test_a_shell_is_one_of_its_own_in_the_workspace(shared_server, session):
    with Terminal(shared_server, f"/ws/shell/{session['id']}?cols=90&rows=20") as shell:
        shell.type("echo $((40 + 2)):$PWD:$(id -un):$IS_SANDBOX; stty size\r")
        shell.wait_for("42:/workspace:code:1")
        shell.wait_for("20 90")


@pytest.mark.day
def test_the_exit_of_a_shell_is_announced_before_the_close(shared_server, session):
    with Terminal(shared_server, f"/ws/shell/{session['id']}", subprotocols=CONTROL) as shell:
        shell.type("exit\r")
        assert shell.close_code() == 1000
        assert [(notice["type"], notice["code"]) for notice in shell.notices] == [("exit", 0)]


@pytest.mark.parametrize(("id", "status"), [("clincus-000000-1", 404), ("web", 404), ("..", 404)])
def test_an_unknown_session_refuses_the_handshake(shared_server, id, status):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{shared_server.socket_url}/ws/terminal/{id}")
    assert refused.value.response.status_code == status


@pytest.mark.day
def test_a_stopped_session_refuses_the_handshake(shared_server, stopped_path):
    with pytest.raises(InvalidStatus) as refused:
        connect(shared_server.socket_url + stopped_path)
    assert refused.value.response.status_code == 409


@pytest.mark.day
def test_our_own_client_gets_the_reason_as_a_close_code(shared_server, stopped_path):
    for path, code in ((stopped_path, 4409), ("/ws/terminal/clincus-000000-1", 4404)):
        with Terminal(shared_server, path, subprotocols=CONTROL) as terminal:
            assert terminal.close_code() == code


def test_ctrl_c_gets_through_a_flood(shared_server, session):
    with Terminal(shared_server, f"/ws/shell/{session['id']}") as shell:
        shell.type("yes flood-$((40 + 2))\r")
        shell.wait_for("flood-42")
        shell.type("\x03")
        shell.type("echo after-$((40 + 2))\r")
        shell.wait_for("after-42")


def test_a_client_that_vanishes_leaves_no_process_and_no_tmux_client(bed, shared_server, session, terminal_path):
    terminal = Terminal(shared_server, terminal_path)
    terminal.wait_for("STUB-READY")
    assert tmux_clients(bed, session)
    terminal.socket.socket.shutdown(socket.SHUT_RDWR)  # gone without a close frame
    wait_until(lambda: not tmux_clients(bed, session), "the tmux client to go")


def tmux_sessions(bed, session) -> list[str]:
    return bed.shell(session["id"], "tmux list-sessions -F '#{session_name}'").split()


@pytest.mark.day
@pytest.mark.parametrize("query", ["", "?own_mouse=1"])
def test_a_shell_outlives_its_client_and_ends_when_a_person_exits_it(bed, shared_server, session, query):
    path = f"/ws/shell/{session['id']}{query}"
    name = f"clincus-shell-{session['id']}"
    with Terminal(shared_server, path) as shell:
        shell.type("answer=42; echo it-is-$answer\r")
        shell.wait_for("it-is-42")
        shell.socket.socket.shutdown(socket.SHUT_RDWR)  # gone without a close frame
    wait_until(lambda: tmux_sessions(bed, session) == [f"clincus-{session['id']}", name], "the client to go")
    with Terminal(shared_server, path) as shell:
        shell.type("echo the-answer-is-$answer\r")
        shell.wait_for("the-answer-is-42")  # tmux may drop what a shell says in its last moment
        shell.type("exit\r")
        assert shell.close_code() == 1000
    wait_until(lambda: tmux_sessions(bed, session) == [f"clincus-{session['id']}"], "the shell's tmux to go")


def test_a_shell_outlives_the_server(start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace, tool="shell")
    with Terminal(server, f"/ws/shell/{session['id']}") as shell:
        shell.type("answer=42; echo it-is-$answer\r")
        shell.wait_for("it-is-42")
    server.stop()
    again = start_server()
    wait_until(lambda: again.get(f"/api/sessions/{session['id']}").status == 200, "the session")
    with Terminal(again, f"/ws/shell/{session['id']}") as shell:
        shell.type("echo the-answer-is-$answer\r")
        shell.wait_for("the-answer-is-42")


def test_a_shell_gets_every_key(shared_server, session):
    """Ctrl-B, the prefix of tmux, goes one letter back in a line."""
    with Terminal(shared_server, f"/ws/shell/{session['id']}?own_mouse=1") as shell:
        shell.type("echo back-ac\x02b\r")
        shell.wait_for("\nback-abc")


def test_a_bell_of_the_shell_is_not_the_tools(bed, shared_server, workspace):
    session = shared_server.create(workspace)  # one in which nothing has rung
    path = f"/api/sessions/{session['id']}"
    with (
        Terminal(shared_server, path_of(session)) as terminal,
        Terminal(shared_server, f"/ws/shell/{session['id']}?own_mouse=1") as shell,
    ):
        terminal.wait_for("STUB-READY")
        hook = "tmux set-hook -ga alert-bell 'set-option -gaF @bells \"#{session_name} \"'"
        bed.shell(session["id"], hook)
        shell.type("printf '\\a'; echo rang-$((40 + 2))\r")
        shell.wait_for("rang-42")
        wait_until(lambda: "shell" in bed.shell(session["id"], "tmux show-options -gv @bells"), "the bell")
        assert shared_server.get(path).json["rang_at"] == ""
        terminal.type("sh printf '\\a'\r")
        wait_until(lambda: shared_server.get(path).json["rang_at"], "the tool's bell")


def test_a_paused_terminal_is_sent_nothing_until_it_is_resumed(shared_server, session):
    with Terminal(shared_server, f"/ws/shell/{session['id']}", subprotocols=CONTROL) as shell:
        shell.type("yes flood-$((40 + 2))\r")
        shell.wait_for("flood-42")
        shell.socket.send('{"type": "pause"}')
        for answers in (1, 2):  # what was on its way comes before the second answer
            shell.socket.send(PING)
            while len(shell.notices) < answers:
                shell._take(shell.socket.recv(timeout=DEADLINE))
        for _ in range(20):
            shell.socket.send(PING)
            assert json.loads(shell.socket.recv(timeout=DEADLINE)) == {"type": "pong"}
        shell.socket.send('{"type": "resume"}')
        shell.type("\x03")
        shell.type("echo after-$((40 + 2))\r")
        shell.wait_for("after-42")


@pytest.mark.day
def test_stopping_the_session_ends_its_terminals(stopped):
    assert stopped[1] in (1000, 4409)


def test_two_clients_share_one_screen(shared_server, terminal_path):
    with Terminal(shared_server, terminal_path) as one, Terminal(shared_server, terminal_path) as other:
        one.wait_for("STUB-READY")
        one.type("seen by both\r")
        other.wait_for("echo: seen by both")


@pytest.mark.day
def test_the_scrollback_holds_what_left_the_screen(shared_server, session):
    with Terminal(shared_server, path_of(session)) as terminal:
        terminal.wait_for("STUB-READY")
        terminal.type("sh seq -f 'line %.0f.' 500; printf '\\033[32mgr''een\\033[m'\n")  # its echo is another word
        terminal.wait_for("green")
    path = f"/api/sessions/{session['id']}/scrollback"
    whole = shared_server.get(f"{path}?lines=2000")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert [f"line {number}." for number in range(1, 501)] == [
        line for line in whole.body.decode().splitlines() if line.startswith("line ")
    ]
    assert "\x1b[32mgreen" in whole.body.decode()
    assert "line 300." not in shared_server.get(f"{path}?lines=100").body.decode()
    assert shared_server.get(f"{path}?lines=-1").status == 400
    assert shared_server.get(f"{path}?shell=1").status == 409
    with Terminal(shared_server, f"/ws/shell/{session['id']}") as shell:
        shell.type("echo only-$((40 + 2))\r")
        shell.wait_for("only-42")
    assert "only-42" in shared_server.get(f"{path}?shell=1").body.decode()


def test_a_stopped_session_has_no_scrollback(shared_server, stopped):
    assert shared_server.get(f"/api/sessions/{stopped[0]['id']}/scrollback").status == 409


def test_tmux_leaves_the_mouse_to_a_client_that_wants_it(bed, shared_server, session):
    """Such a client gets the mouse of programs alone, in a session of its own that goes with it."""
    tmux_wants_it = "\x1b[?1002h"
    with (
        Terminal(shared_server, path_of(session)) as plain,
        Terminal(shared_server, f"{path_of(session)}?own_mouse=1") as own,
    ):
        plain.wait_for("STUB-READY")
        plain.wait_for(tmux_wants_it)  # tmux says so behind the screen
        own.wait_for("STUB-READY")
        assert tmux_wants_it.encode() not in own.output
        own.type("sh printf '\\033[?1003h'\n")
        own.wait_for("\x1b[?1003h")
        own.type("sh printf '\\033[?1003l'\n")
        own.wait_for("\x1b[?1003l")
    name = f"clincus-{session['id']}"
    wait_until(lambda: tmux_sessions(bed, session) == [name], "the client's own session to go with it")
