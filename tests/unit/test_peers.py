"""Who holds the other end of a connection, by one look-up of the kernel."""

from __future__ import annotations

import os
import socket
import struct

import pytest

import clincus
from clincus_features import peers
from tests.table import table
from tests.unit.test_gate import PAIRS, connected

PORTS = struct.pack("!HH", 50000, 3000)
ESTABLISHED, ERROR = 1, 2  # a state of TCP, and the kind of message that says no


def answer(
    *, kind: int = peers.BY_FAMILY, state: int = ESTABLISHED, ports: bytes = PORTS, uid: int = 1000, inode: int = 7
) -> bytes:
    """An answer of the kernel."""
    body = (
        struct.pack("=BBxx", socket.AF_INET, state) + ports.ljust(48, b"\0") + struct.pack("=5I", 0, 0, 0, uid, inode)
    )
    return peers.HEAD.pack(peers.HEAD.size + len(body), kind, 0, 1, 0) + body


ANSWERS = {
    "open": (answer(), 1000),
    "of root": (answer(uid=0), 0),
    "closed by its process: shown as root's": (answer(uid=0, inode=0), None),
    "gone: a socket that listens at its address": (answer(state=peers.LISTENING, ports=b"\xc3\x50\0\0"), None),
    "one that listens, with these ports": (answer(state=peers.LISTENING), None),
    "another connection": (answer(ports=struct.pack("!HH", 50001, 3000)), None),
    "a refusal": (answer(kind=ERROR), None),
    "cut off": (answer()[:-1], None),
    "empty": (b"", None),
}


@table(("said", "owner"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_counts_for_the_connection_that_was_asked_about(said, owner):
    assert peers.read_owner(said, PORTS) == owner


@table(("listen", "connect"), PAIRS)
def test_our_own_connection_is_found_whatever_its_family(listen, connect, monkeypatch):
    client, here = connected(listen, connect)
    with client, here:
        ends = [clincus._plain_address(one) for one in (here.getpeername(), here.getsockname())]
        if peers.look_up(*ends) is None:
            pytest.skip("this kernel has no such look-up")
        monkeypatch.setattr(clincus, "socket_owner", None)  # nobody asks for the list
        peer = clincus.find_peer(here, [peers.Owners().find])
    assert (peer.why_token, peer.uid) == ("", os.geteuid())


def test_a_client_that_closed_at_once_is_nobody():
    client, here = connected("127.0.0.1", "127.0.0.1")
    with here:
        client.close()
        assert "does not say which user" in clincus.find_peer(here, [peers.Owners().find]).why_token


def test_where_the_kernel_cannot_look_up_it_is_asked_for_its_list_alone(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(peers, "look_up", lambda *_: asked.append("look-up"))
    monkeypatch.setattr(clincus, "socket_owner", lambda *_: asked.append("list") or 1000)
    owners = peers.Owners()
    assert [owners.find(("127.0.0.1", 50000), ("127.0.0.1", 3000)) for _ in range(2)] == [1000, 1000]
    assert asked == ["look-up", "list", "list"]
    found = iter([None, 1000])  # what neither finds ends no look-up
    monkeypatch.setattr(peers, "look_up", lambda *_: next(found))
    monkeypatch.setattr(clincus, "socket_owner", lambda *_: None)
    owners = peers.Owners()
    assert [owners.find(("127.0.0.1", 50000), ("127.0.0.1", 3000)) for _ in range(2)] == [None, 1000]
