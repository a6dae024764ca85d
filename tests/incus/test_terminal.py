"""Terminals of real sessions over WebSocket."""

from __future__ import annotations

import json
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.programs import DEADLINE, connect, wait_until

CONTROL = ["clincus.terminal.v1"]
PING = json.dumps({"type": "ping"})
NAMES = "list-sessions -F '#{session_name}'"


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

    def vanish(self) -> None:
        """Go without a close frame."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)

    def wait_for(self, words: str) -> None:
        """Read until the words have come."""
        end = time.monotonic() + DEADLINE
        while words.encode() not in self.output:
            assert time.monotonic() < end, f"waited in vain for {words!r} in {self.output[-2000:]!r}"
            self.take()

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
                self.take()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006

    def take(self) -> None:
        """Take the next message."""
        message = self.socket.recv(timeout=DEADLINE)
        if isinstance(message, bytes):
            self.output += message
        else:
            self.notices.append(json.loads(message))


def tmux(bed, session, words: str) -> list[str]:
    """What a command of tmux prints in a session's container."""
    return bed.shell(session["id"], f"tmux {words}").split()


@pytest.fixture
def session(bed, shared_session):
    """The session of this file, with an empty screen and no shell."""
    id = shared_session["id"]
    clear = f"tmux send-keys -t '=clincus-{id}:' 'sh clear; echo STUB-READY' Enter"
    bed.shell(id, f"tmux kill-session -t =clincus-shell-{id} 2>/dev/null; {clear}")
    return shared_session


@pytest.fixture
def path(session) -> str:
    return f"/ws/terminal/{session['id']}"


@pytest.fixture
def shell_path(session) -> str:
    return f"/ws/shell/{session['id']}"


@pytest.mark.day
def test_a_client_types_reads_and_resizes_and_others_see_the_same_screen(bed, shared_server, session, path):
    with (
        Terminal(shared_server, path + "?cols=97&rows=31") as terminal,
        Terminal(shared_server, path + "?readonly=1&cols=40&rows=10") as watcher,
    ):
        terminal.wait_for("STUB-READY")
        terminal.wait_for_size("31 97")
        terminal.socket.send("héllo 中文 👋\r")
        terminal.wait_for("echo: héllo 中文 👋")
        watcher.type("from the watcher\r")
        terminal.socket.send(b"second\r")
        watcher.wait_for("echo: second")
        assert "from the watcher" not in bed.screen(session["id"])
        assert terminal.notices == []
    with Terminal(shared_server, path, subprotocols=CONTROL) as terminal:
        terminal.socket.send(json.dumps({"type": "resize", "cols": 101, "rows": 33}))
        terminal.wait_for_size("33 101")
        terminal.vanish()
    wait_until(lambda: not tmux(bed, session, f"list-clients -t =clincus-{session['id']}"), "the tmux client to go")


@pytest.mark.day
@pytest.mark.parametrize("query", ["", "?own_mouse=1"])
def test_a_shell_is_one_of_its_own_that_outlives_its_client_and_ends_when_a_person_exits_it(
    bed, shared_server, session, shell_path, *, query
):
    with Terminal(shared_server, shell_path + query) as shell:
        shell.type("echo $((40 + 2)):$PWD:$(id -un):$IS_SANDBOX\r")
        shell.wait_for("42:/workspace:code:1")
        shell.type("answer=42; echo back-ac\x02b\r")  # Ctrl-B, the prefix of tmux, goes one letter back in a line
        shell.wait_for("\nback-abc")
        shell.vanish()
    both = [f"clincus-{session['id']}", f"clincus-shell-{session['id']}"]
    wait_until(lambda: tmux(bed, session, NAMES) == both, "the client to go")
    with Terminal(shared_server, shell_path + query, subprotocols=CONTROL) as shell:
        shell.type("echo the-answer-is-$answer\r")
        shell.wait_for("the-answer-is-42")  # tmux may drop what a shell says in its last moment
        shell.type("exit\r")
        assert shell.close_code() == 1000
        assert [(notice["type"], notice["code"]) for notice in shell.notices] == [("exit", 0)]
    wait_until(lambda: tmux(bed, session, NAMES) == both[:1], "the shell's tmux to go")


@pytest.mark.day
def test_a_stop_ends_the_terminals_and_a_stopped_session_has_none(shared_server, workspace):
    """Plain clients are refused at the handshake; our own get the reason as a close code."""
    id = shared_server.create(workspace)["id"]
    with Terminal(shared_server, f"/ws/terminal/{id}", subprotocols=CONTROL) as terminal:
        terminal.wait_for("STUB-READY")
        shared_server.delete(f"/api/sessions/{id}")
        assert terminal.close_code() in (1000, 4409)
    for name, status in ((id, 409), ("clincus-000000-1", 404), ("..", 404)):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{shared_server.socket_url}/ws/terminal/{name}")
        assert refused.value.response.status_code == status
    for name, code in ((id, 4409), ("clincus-000000-1", 4404)):
        with Terminal(shared_server, f"/ws/terminal/{name}", subprotocols=CONTROL) as terminal:
            assert terminal.close_code() == code
    assert shared_server.get(f"/api/sessions/{id}/scrollback").status == 409


def test_ctrl_c_gets_through_a_flood_of_which_a_paused_terminal_is_sent_nothing(shared_server, shell_path):
    with Terminal(shared_server, shell_path, subprotocols=CONTROL) as shell:
        shell.type("yes flood-$((40 + 2))\r")
        shell.wait_for("flood-42")
        shell.socket.send('{"type": "pause"}')
        for answers in (1, 2):  # what was on its way comes before the second answer
            shell.socket.send(PING)
            while len(shell.notices) < answers:
                shell.take()
        for _ in range(20):
            shell.socket.send(PING)
            assert json.loads(shell.socket.recv(timeout=DEADLINE)) == {"type": "pong"}
        shell.socket.send('{"type": "resume"}')
        shell.type("\x03")
        shell.type("echo after-$((40 + 2))\r")
        shell.wait_for("after-42")


@pytest.mark.day
def test_the_scrollback_holds_what_left_the_screen(shared_server, session, path, shell_path):
    with Terminal(shared_server, path) as terminal:
        terminal.wait_for("STUB-READY")
        terminal.type("sh seq -f 'line %.0f.' 500; printf '\\033[32mgr''een\\033[m'\n")  # its echo is another word
        terminal.wait_for("green")
    scrollback = f"/api/sessions/{session['id']}/scrollback"
    whole = shared_server.get(f"{scrollback}?lines=2000").body.decode()
    assert {f"line {number}." for number in range(1, 501)} <= set(whole.splitlines())
    assert "\x1b[32mgreen" in whole
    assert "line 300." not in shared_server.get(f"{scrollback}?lines=100").body.decode()
    assert shared_server.get(f"{scrollback}?shell=1").status == 409
    with Terminal(shared_server, shell_path) as shell:
        shell.type("echo only-$((40 + 2))\r")
        shell.wait_for("only-42")
    assert "only-42" in shared_server.get(f"{scrollback}?shell=1").body.decode()


def test_tmux_leaves_the_mouse_to_a_client_that_wants_it(bed, shared_server, session, path):
    """Such a client gets the mouse of programs alone, in a session of its own that goes with it."""
    tmux_wants_it = "\x1b[?1002h"
    with Terminal(shared_server, path) as plain, Terminal(shared_server, f"{path}?own_mouse=1") as own:
        plain.wait_for("STUB-READY")
        plain.wait_for(tmux_wants_it)  # tmux says so behind the screen
        own.wait_for("STUB-READY")
        assert tmux_wants_it.encode() not in own.output
        own.type("sh printf '\\033[?1003h'\n")
        own.wait_for("\x1b[?1003h")
    name = f"clincus-{session['id']}"
    wait_until(lambda: tmux(bed, session, NAMES) == [name], "its own session to go")
