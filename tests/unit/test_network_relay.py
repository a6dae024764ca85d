"""The line to a container on an engine: guest/relay.pl as this machine's own process, and a proxy with real sockets."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

import clincus
from clincus_features import network
from clincus_features.network import lines, relay
from clincus_features.network.policy import ALLOW_LIST, NONE, Policy
from clincus_features.network.relay import CREDIT, DATA, FIN, HEAD, NUMBER, OPEN, PIECE, WINDOW
from tests.builders import a_session
from tests.programs import DEADLINE, wait_until
from tests.table import table
from tests.unit.test_network_proxy import Road, read_until, rest, road  # noqa: F401  # the fixture

OWNER, OTHER = "a1" * 16, "b2" * 16


class Far:
    """A container on an engine that stands for this machine: a line from its port to the proxy."""

    def __init__(self, path: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.mark = folder / "relay"
        self.told: list[str] = []
        text = clincus.packaged_text("guest/relay.pl")
        self.argv = ["perl", "-e", text, str(self.port), str(self.mark)]
        self.line = self.new_line(path, OWNER)

    def close(self) -> None:
        self.line.stop()
        for thread in threading.enumerate():
            if thread.name == "carrying connections":
                thread.join(DEADLINE)

    def new_line(self, path: str, owner: str, manner: str = lines.WAIT) -> lines.Line:
        return lines.Line(lambda: self.argv, path, self.told.append, owner, manner)

    def connect(self) -> socket.socket:
        assert self.line.ready.wait(DEADLINE), self.told
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)

    def tunnel(self) -> socket.socket:
        connection = self.connect()
        connection.sendall(b"CONNECT a.example:7 HTTP/1.1\r\n\r\n")
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        return connection


@pytest.fixture
def far(road: Road, tmp_path: Path) -> Iterator[Far]:  # noqa: F811
    with contextlib.closing(Far(road.path, tmp_path)) as made:
        yield made


def test_a_program_there_reaches_what_the_list_allows_and_nothing_else(far, road):  # noqa: F811
    with far.tunnel() as connection:
        connection.sendall(b"~hello")
        assert connection.recv(100) == b"echo ~hello"
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b""
    with far.connect() as connection:
        connection.sendall(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 403 ")
    assert road.refusals() == [("evil.example", 443, 1)]


def test_much_passes_both_ways_beside_a_connection_that_reads_nothing(far):
    with far.tunnel() as stuck, far.tunnel() as connection:
        stuck.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                stuck.send(b"~" * 65536)
        text = b"~" * (8 << 20)
        sender = threading.Thread(target=connection.sendall, args=(text,), daemon=True)
        sender.start()
        got = 0
        while got < len(text):
            got += connection.recv(1 << 20).count(b"~")
        sender.join(DEADLINE)


def test_a_line_that_breaks_is_made_anew(far):
    with far.tunnel() as connection:
        process = far.line._process
        os.kill(process.pid, signal.SIGKILL)
        assert rest(connection) == b""
        wait_until(lambda: far.told, "the reason")
    with far.tunnel() as connection:
        connection.sendall(b"~")
        assert connection.recv(100) == b"echo ~"


def test_what_waits_for_the_proxy_is_bounded_and_then_the_line_is_not_read(tmp_path):
    path = str(tmp_path / "proxy")
    ours, container = socket.socketpair()
    with ours, container, socket.socket(socket.AF_UNIX) as proxy:
        proxy.bind(path)
        proxy.listen(relay.MOST)
        carrier = relay.Carrier(ours, path)

        def is_read() -> int:
            carrier._watch_line()
            return carrier._line_mask & selectors.EVENT_READ

        for at in range(relay.MOST * WINDOW // PIECE):
            number, place = divmod(at, WINDOW // PIECE)
            if not place:
                container.sendall(frame(OPEN, number + 1))
            container.sendall(frame(DATA, number + 1, bytes(PIECE)))
            carrier._hear()
            if not is_read():
                break
        held = sum(len(stream.waiting) for stream in carrier._streams.values())
        assert relay.HELD_MOST <= held < relay.HELD_MOST + relay.READ
        for number in list(carrier._streams)[: relay.MOST // 2]:
            carrier._forget(number)
        assert is_read(), "half of it has gone"
        carrier.close()


def begun(far: Far, order: str = f"wait {OWNER}", said: bytes = b"ready\n") -> subprocess.Popen[bytes]:
    """The container's end of a line of its own, which listens."""
    process = subprocess.Popen(far.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    process.stdin.write(f"{order}\n".encode())
    assert process.stdout.readline() == said
    return process


@table("order", [f"wait {OWNER}", f"take {OTHER}"])
def test_a_line_takes_the_port_from_one_of_its_own_host_and_from_any_if_a_person_waits(far, order):
    far.line.stop()
    with begun(far) as old, begun(far, order) as new:
        assert old.wait(DEADLINE) == -signal.SIGTERM
        new.stdin.close()


def test_a_line_waits_for_that_of_another_host_without_a_word_and_comes_when_that_is_gone(far, road):  # noqa: F811
    with far.tunnel() as connection:
        with begun(far, f"wait {OTHER}", b"held\n") as refused:
            assert refused.wait(DEADLINE) == 1
        other = far.new_line(road.path, OTHER)
        connection.sendall(b"~still")
        assert connection.recv(100) == b"echo ~still"
        assert not other.ready.is_set()
        far.line.stop()
        assert other.ready.wait(DEADLINE)
        other.stop()
    assert far.told == []


def test_a_new_line_takes_the_port_of_one_that_hangs_and_ends_with_its_stdin(far):
    far.line.stop()
    with begun(far) as old:
        os.kill(old.pid, signal.SIGSTOP)
        with begun(far) as new:
            assert old.wait(DEADLINE) == -signal.SIGKILL
            new.stdin.close()
            assert new.wait(DEADLINE) == 0


def frame(kind: int, number: int, content: bytes = b"") -> bytes:
    return HEAD.pack(kind, 0, len(content), number) + content


class Root:
    def __init__(self, path: str) -> None:
        self.end, ours = socket.socketpair()
        self.end.settimeout(DEADLINE)
        self.failure = ""
        self.carrier = relay.Carrier(ours, path)
        self.thread = threading.Thread(target=self.serve, args=(ours,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.end.close()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()

    def serve(self, ours: socket.socket) -> None:
        try:
            self.carrier.serve()
        except (relay.BrokenLineError, OSError) as error:
            self.failure = str(error)
        ours.close()


@pytest.fixture
def silent(tmp_path_factory) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path_factory.mktemp("s") / "silent")
        listener.bind(path)
        listener.listen(20)
        yield path


@table(
    "bytes_",
    [
        b"GET / HTTP/1.1\r\n",
        frame(OPEN, 1, b"x"),
        HEAD.pack(DATA, 0, PIECE + 1, 1),
        frame(OPEN, 1) * 2,
        frame(OPEN, 1) + frame(DATA, 1, bytes(PIECE)) * (WINDOW // PIECE + 20),
        frame(OPEN, 1) + frame(FIN, 1) + frame(DATA, 1, b"x"),
        frame(OPEN, 1) + frame(CREDIT, 1, NUMBER.pack(1)),
    ],
)
def test_what_does_not_fit_ends_the_line(silent, bytes_):
    with contextlib.closing(Root(silent)) as root:
        with contextlib.suppress(OSError):
            root.end.sendall(bytes_)
        root.thread.join(DEADLINE)
    assert root.failure.startswith("the container ")


def test_more_connections_than_there_may_be_are_closed_at_once(road):  # noqa: F811
    with contextlib.closing(Root(road.path)) as root:
        root.end.sendall(b"".join(frame(OPEN, number) for number in range(1, relay.MOST + 3)))
        closed = {HEAD.unpack(root.end.recv(HEAD.size, socket.MSG_WAITALL))[3] for _ in range(2)}
        assert len(closed) == 2
        assert len(root.carrier._streams) <= relay.MOST


def test_a_container_that_takes_nothing_lets_nothing_grow(road):  # noqa: F811
    with contextlib.closing(Root(road.path)) as root:
        root.end.setblocking(False)
        number, sent = 1, b""
        with contextlib.suppress(BlockingIOError):
            for _ in range(2_000_000):
                sent = sent or b"".join(frame(OPEN, number + at) + frame(FIN, number + at) for at in range(1000))
                count = root.end.send(sent)
                sent, number = sent[count:], number + (0 if sent[count:] else 1000)
        assert len(root.carrier._unsent) < relay.UNSENT_MOST + 4 * relay.READ
        assert len(root.carrier._came) < 2 * relay.READ


@table("end", ["after_start", "stopped", "deleted"])
def test_only_while_a_session_starts_its_line_is_taken_from_another_host(monkeypatch, end):
    gateway, manners = network.Gateway(None), []
    monkeypatch.setattr(gateway, "_keep_line", lambda id, manner: manners.append(manner))
    monkeypatch.setattr(network.Gateway, "proxy", Mock())
    policy = Policy(ALLOW_LIST, has_proxy=True)
    far = {"engine": "far", "network": policy.label()}
    session = a_session(id="far:clincus-1", persistent=True, **far)
    gateway.hear("before_start", session)
    gateway.expect(session.id, policy)
    for moment in ("started", end, "started"):
        gateway.hear(moment, session)
    assert manners == [network.TAKE, network.WAIT]


@table(
    ("status", "paused", "engine", "has_way", "has_line"),
    [
        ("running", False, "far", True, True),
        ("running", False, "", True, False),
        ("stopped", True, "far", True, False),
        ("stopped", False, "far", False, False),
    ],
)
def test_a_live_session_has_a_way_and_one_that_runs_on_an_engine_a_line(status, paused, engine, has_way, has_line):
    policy = Policy(ALLOW_LIST, has_proxy=True)
    session = a_session(status=status, paused=paused, engine=engine)
    assert network.way_of(session, policy) == network.Way(policy if has_way else None, has_line)
    assert network.way_of(session, Policy(NONE, has_proxy=True)) == network.NO_WAY
