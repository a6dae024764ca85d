"""The section `websocket`: hand-off, terminal bridge, open sockets, event hub. Real sockets, real pseudo-terminals."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.sync.client import connect
from websockets.uri import parse_uri

import clincus
from clincus import EventHub, OpenSockets, TerminalBridge
from tests.programs import DEADLINE, wait_until
from tests.table import table

PATIENCE = DEADLINE
CONTROL = [clincus.TERMINAL_SUBPROTOCOL]
SUBPROTOCOLS = (clincus.TERMINAL_SUBPROTOCOL, clincus.EVENTS_SUBPROTOCOL)
RAW_CAT = ["sh", "-c", "stty raw -echo; echo ready; exec cat"]


@pytest.fixture(autouse=True)
def default_signals():
    """A shell that started the tests in the background leaves SIGINT ignored, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Server(ThreadingHTTPServer):
    """A server whose WebSockets do what `behave` does. Closing it waits for all of its threads.

    With `takes_over` the WebSocket is not over when `behave` returns.
    """

    daemon_threads = False

    def __init__(self, behave, takes_over):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.takes_over = takes_over
        self.failures = []

    def handle_error(self, request, client_address):
        self.failures.append(sys.exc_info()[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        request = clincus.Request(self.command, "/", {}, self.headers, 0, None, self, self.request_version)
        try:
            websocket = clincus.open_websocket(request, SUBPROTOCOLS)
            if self.server.takes_over:
                return self.server.behave(websocket)
            with websocket:
                return self.server.behave(websocket)
        except clincus.ClincusError as error:
            self.send_error(error.status)

    do_POST = do_GET

    def log_message(self, format, *args):
        pass


@contextmanager
def serving(behave, takes_over=False):
    """Serve until the block ends, then wait for every connection to end; its threads must not have failed."""
    with Server(behave, takes_over) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
    assert server.failures == []


def terminal(argv, size=None, **options):
    """Return what a server does that has a terminal for everybody."""
    return lambda websocket: TerminalBridge(websocket, argv, size, **options).run()


@contextmanager
def client(port, subprotocols=None):
    """Connect with the library's own client."""
    url = f"ws://127.0.0.1:{port}/"
    with connect(url, subprotocols=subprotocols, compression=None, proxy=None, ping_interval=None) as websocket:
        yield websocket


def receive_until(websocket, expected):
    """Read output until it contains `expected`."""
    output = b""
    while expected not in output:
        output += websocket.recv(PATIENCE)
    return output


def receive_all(websocket):
    """Read to the end; return the binary messages joined, the text messages, close code and reason."""
    output, texts = bytearray(), []  # megabytes that are copied for each message would keep the server waiting
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
        while True:
            message = websocket.recv(PATIENCE)
            if isinstance(message, str):
                texts.append(json.loads(message))
            else:
                output += message
    return bytes(output), texts, closed.value.rcvd.code, closed.value.rcvd.reason


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class RawClient:
    """A client that does only what it is told: it answers no ping and no close, and reads when asked to."""

    def __init__(self, port, *, early=(), receive_buffer=None):
        self.frames = []
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.close = self.socket.close
        self.protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"), subprotocols=CONTROL)
        self.protocol.send_request(self.protocol.connect())
        # Frames can only be made by a protocol that is open; one of its own makes the early ones.
        frames = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=State.OPEN)
        for data in early:
            frames.send_binary(data)
        self.socket.sendall(b"".join(self.protocol.data_to_send() + frames.data_to_send()))

    def receive(self):
        """Read once into `frames`; return whether it is not the end of the stream. Nothing is ever answered."""
        data = self.socket.recv(65536)
        if data:
            self.protocol.receive_data(data)
            self.protocol.data_to_send()
            self.frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        return bool(data)

    def receive_frame(self, opcode):
        """Return the next frame of this kind, dropping others before it."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.opcode is opcode:
                    return frame
            assert self.receive(), "the connection ended before it came"

    def receive_end(self):
        while self.receive():
            pass

    def open(self):
        """Wait for the answer to the handshake."""
        while self.protocol.state is State.CONNECTING:
            self.receive()
        return self

    def send(self):
        self.socket.sendall(b"".join(self.protocol.data_to_send()))

    def send_binary(self, data):
        self.protocol.send_binary(data)
        self.send()


# The hand-off


def test_first_frame_in_the_same_packet_as_the_handshake_is_not_lost():
    with serving(terminal(RAW_CAT)) as port, closing(RawClient(port, early=[b"early ", b"bird"])) as raw:
        output = b""
        while b"early bird" not in output:
            output += raw.receive_frame(Opcode.BINARY).data


HANDSHAKE = {
    "Host": "here",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def handshake(first_line="GET / HTTP/1.1", **changes):
    headers = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([first_line, *lines, "", ""]).encode()


@table(
    ("request_bytes", "status"),
    [
        (handshake(Upgrade=None), 426),
        (handshake(Sec_WebSocket_Version="8"), 400),
        (handshake(Sec_WebSocket_Protocol="x" * 20000), 400),
        (handshake(Cookie="c" * 20000), 101),
    ],
)
def test_a_bad_handshake_is_refused_and_a_long_cookie_is_none(request_bytes, status):
    with serving(terminal(["true"])) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
        raw.sendall(request_bytes)
        assert raw.recv(65536).split()[1] == b"%d" % status


# The terminal: control messages

# The signal is blocked, so that one which comes before sigwait is kept for it.
WINDOW_WATCHER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("ready", flush=True)
while signal.sigwait([signal.SIGWINCH]):
    print(*os.get_terminal_size(), flush=True)
"""


def test_a_viewer_can_resize_and_ping_and_type_nothing():
    argv = [sys.executable, "-c", WINDOW_WATCHER]
    with serving(terminal(argv, readonly=True)) as port, client(port, CONTROL) as websocket:
        receive_until(websocket, b"ready")
        websocket.send(b"typed\x03")
        websocket.send(['{"type": "resize", ', '"cols": 111, "rows": 33}'])  # in fragments
        assert b"typed" not in receive_until(websocket, b"111 33")
        websocket.send('{"type": "ping"}')
        while not isinstance(message := websocket.recv(PATIENCE), str):
            pass
        assert json.loads(message) == {"type": "pong"}


def test_paused_output_stops_the_program_and_goes_on_where_it_was(tmp_path):
    """Ten times what all buffers hold; input goes on getting through."""
    size = 16 * 1024 * 1024
    argv = ["sh", "-c", f"stty raw -echo; head -c {size} /dev/zero; touch {tmp_path}/done; read -r line; echo last"]
    with serving(terminal(argv)) as port, client(port, CONTROL) as websocket:
        websocket.send('{"type": "pause"}')
        websocket.send('{"type": "ping"}')
        received, has_pong = 0, False
        with suppress(TimeoutError):  # what was on its way may come before or after the pong
            while message := websocket.recv(0.3 if has_pong else PATIENCE):
                has_pong = has_pong or isinstance(message, str)
                received += len(message) if isinstance(message, bytes) else 0
        assert received < size
        assert not (tmp_path / "done").exists()
        websocket.send('{"type": "resume"}')
        websocket.send(b"\n")
        output, _, code, _ = receive_all(websocket)
    assert (received + len(output), output[-5:], code) == (size + 5, b"last\n", 1000)


# The terminal: its end


@table(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("exec <&- >&- 2>&-; sleep 0.3; exit 4", 4)])
def test_exit_is_announced_before_the_close(script, code):
    with serving(terminal(["sh", "-c", f"echo bye; {script}"])) as port, client(port, CONTROL) as websocket:
        output, texts, close_code, close_reason = receive_all(websocket)
    reason = f"The program ended with exit code {code}."
    assert output == b"bye\r\n"
    assert texts == [{"type": "exit", "code": code, "reason": reason}]
    assert (close_code, close_reason) == (1000, reason)


# What Incus says when it lost sight of a command.
LOST = b"Error: Failed to retrieve PID of executing child process\r\n"


@table(
    ("failure", "false_starts", "output", "exit_code"),
    [
        ((LOST, 255), 1, LOST + LOST + b"then it runs ", 7),
        ((LOST, 255), 99, LOST * 10, 255),  # not for ever
    ],
)
def test_a_program_that_incus_did_not_begin_is_started_again(tmp_path, failure, false_starts, output, exit_code):
    said, code = failure
    count = f"echo >>{tmp_path}/starts; echo '{said.decode().strip()}'"
    lost = f"{count}; [ $(wc -l <{tmp_path}/starts) -gt {false_starts} ] || exit {code}"
    argv = ["sh", "-c", f"{lost}; printf 'then it runs '; exit 7"]
    with serving(terminal(argv)) as port, client(port, CONTROL) as websocket:
        received, texts, _, _ = receive_all(websocket)
    assert received == output
    assert [text["code"] for text in texts] == [exit_code]


@table("leave", ["close", "vanish"])
@table("prelude", ["", "trap '' HUP TERM INT;"])
def test_client_that_leaves_takes_the_program_along(monkeypatch, leave, prelude):
    if prelude:  # one that ends by itself may take as long as a busy machine lets it
        monkeypatch.setattr(clincus, "HANGUP_GRACE", 0.1)
    codes, end = [], clincus.PtyProgram.end
    monkeypatch.setattr(clincus.PtyProgram, "end", lambda program: codes.append(end(program)))
    argv = ["sh", "-c", f"{prelude} echo $$; while :; do sleep 1; done"]
    with serving(terminal(argv)) as port, client(port) as websocket:
        pid = int(receive_until(websocket, b"\n"))
        assert is_running(pid)
        if leave == "vanish":
            websocket.socket.shutdown(socket.SHUT_RDWR)
    assert not is_running(pid)
    assert codes == [137 if prelude else 129]


# The terminal: under pressure


def test_client_that_stops_reading_stops_the_program_and_not_the_memory():
    held = [0]

    def behave(websocket):
        wait = websocket.wait

        def measure(*args, **options):
            held.append(max(held[-1], websocket.backlog))
            return wait(*args, **options)

        websocket.wait = measure
        TerminalBridge(websocket, ["sh", "-c", "stty raw -echo; exec yes"]).run()

    with serving(behave) as port, closing(RawClient(port).open()) as raw:
        wait_until(lambda: held[-1] >= clincus.BUFFER_MARK)
        # Typing goes round the server's loop, which must not read the terminal on that occasion.
        for _ in range(200):
            raw.send_binary(b"x")
        # And it flows again: this is more than the buffers of both kernels hold.
        received = 0
        while received < 32 * 1024 * 1024:
            received += len(raw.receive_frame(Opcode.BINARY).data)
    assert held[-1] < clincus.BUFFER_MARK + 2 * clincus.READ_SIZE + 100


def test_message_over_one_mebibyte_closes_with_1009():
    with serving(terminal(RAW_CAT)) as port, client(port) as websocket:
        with suppress(ConnectionClosed):
            websocket.send(b"x" * (clincus.MAX_MESSAGE_SIZE + 1))
        assert receive_all(websocket)[2] == 1009


# Deadlines


def test_silent_client_that_answers_no_ping_is_given_up(monkeypatch):
    with serving(terminal(["sh", "-c", "echo $$; exec cat"])) as port, closing(RawClient(port).open()) as raw:
        pid = int(raw.receive_frame(Opcode.BINARY).data)
        monkeypatch.setattr(clincus, "PING_AFTER", 0.05)
        monkeypatch.setattr(clincus, "PONG_WITHIN", 0.05)
        raw.send_binary(b"the last word")  # it is waited for by the new times
        raw.receive_frame(Opcode.PING)
        assert Close.parse(raw.receive_frame(Opcode.CLOSE).data).code == 1011
        raw.receive_end()
    assert not is_running(pid)


def test_silent_client_that_answers_pings_is_kept(monkeypatch):
    monkeypatch.setattr(clincus, "PING_AFTER", 0.02)
    monkeypatch.setattr(clincus, "PONG_WITHIN", PATIENCE)
    with serving(terminal(RAW_CAT)) as port, closing(RawClient(port).open()) as raw:
        for _ in range(5):
            raw.protocol.send_pong(raw.receive_frame(Opcode.PING).data)
            raw.send()
        raw.send_binary(b"still here")
        while b"still here" not in raw.receive_frame(Opcode.BINARY).data:
            pass


def test_silent_subscriber_that_answers_no_ping_is_given_up(monkeypatch):
    monkeypatch.setattr(clincus, "PING_AFTER", 0.05)
    monkeypatch.setattr(clincus, "PONG_WITHIN", 0.05)
    with hub_serving() as (_, port), closing(RawClient(port).open()) as raw:
        raw.receive_frame(Opcode.PING)
        assert Close.parse(raw.receive_frame(Opcode.CLOSE).data).code == 1011
        raw.receive_end()


# Open sockets


def test_the_sockets_of_one_session_are_closed_alone_and_all_when_the_server_stops():
    sockets = OpenSockets()
    names = iter(["a", "b", "b"])

    def behave(websocket):
        with sockets.track(websocket, next(names)):
            TerminalBridge(websocket, RAW_CAT).run()

    with serving(behave) as port, client(port) as one:
        receive_until(one, b"ready")
        with client(port) as two:
            receive_until(two, b"ready")
            sockets.close_session("a", 1000, "The session was deleted.")
            assert receive_all(one)[2:] == (1000, "The session was deleted.")
            two.send(b"still here")
            receive_until(two, b"still here")
            sockets.close_all(PATIENCE)
            assert not sockets._sessions
            with client(port) as late:
                for websocket in (two, late):
                    assert receive_all(websocket)[2:] == (1001, "The server is shutting down.")


# Events


@contextmanager
def hub_serving():
    """A hub and the port where it is served; in the end all subscribers must be gone."""
    hub, sockets = EventHub(), OpenSockets()
    hub.start()

    def behave(websocket):
        ending = ExitStack()
        ending.enter_context(sockets.track(websocket))
        hub.subscribe(websocket, ending.close)

    with serving(behave, takes_over=True) as port:
        yield hub, port
        wait_until(lambda: not sockets._sessions)
    assert not hub.subscribers
    hub.stop()


def receive_events(websocket, count):
    return [json.loads(websocket.recv(PATIENCE)) for _ in range(count)]


def test_events_arrive_in_order_and_extensions_only_where_they_are_asked_for():
    ours = [clincus.EVENTS_SUBPROTOCOL]
    greeting = {"type": "incus.unreachable", "error": "é"}
    events = [{"type": "session.started", "id": f"clincus-a1b2c3-{number}"} for number in range(20)]
    more = {"type": "session.changed", "id": "é"}
    with hub_serving() as (hub, port):
        hub.greetings = {"config": None, "incus": greeting}
        with client(port) as plain, client(port, ours) as extended:
            plain.send("what a client says is ignored")
            hub.publish(more, extension=True)
            for event in events:
                hub.publish(event)
            assert receive_events(extended, 22) == [greeting, more, *events]
            assert receive_events(plain, 20) == events
            plain.send('{"type":"ping"}')
            assert receive_events(plain, 1) == [{"type": "pong"}]


def test_subscriber_that_does_not_read_is_dropped_and_the_others_lose_nothing():
    with (
        hub_serving() as (hub, port),
        closing(RawClient(port, receive_buffer=32768).open()) as slow,
        client(port) as quick,
    ):
        for number in range(5000):
            hub.publish({"type": "session.started", "number": number, "padding": "x" * 32768})
            assert json.loads(quick.recv(PATIENCE))["number"] == number
            assert all(one.backlog < clincus.BUFFER_MARK + 33000 for one in list(hub.subscribers.values()))
            if not all(one.open for one in list(hub.subscribers.values())):
                break
        hub.publish({"type": "last"})
        assert json.loads(quick.recv(PATIENCE)) == {"type": "last"}
        assert Close.parse(slow.receive_frame(Opcode.CLOSE).data).code == 1013


def vanish(raw):
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def frame(opcode, data):
    return Frame(opcode, data).serialize(mask=True)


@table(
    ("misbehave", "code"),
    [
        (lambda raw: raw.socket.sendall(b"\xff" * 100), 1002),
        (lambda raw: raw.socket.sendall(frame(Opcode.PING, b"") * 20_000), None),
        (vanish, None),
    ],
)
def test_what_one_subscriber_does_amid_a_burst_costs_the_others_nothing(misbehave, code):
    events = [{"type": "session.changed", "number": number} for number in range(300)]
    with (
        hub_serving() as (hub, port),
        client(port) as one,
        closing(RawClient(port).open()) as bad,
        client(port) as two,
    ):
        for number, event in enumerate(events):
            hub.publish(event)
            if number == 100:
                misbehave(bad)
        for websocket in (one, two):
            assert receive_events(websocket, len(events)) == events
        if code:
            assert Close.parse(bad.receive_frame(Opcode.CLOSE).data).code == code
            bad.receive_end()
