"""The listening ports of a session's container. It is asked while a person looks, at most every 2 s.

Root in the container controls the answer: it can name ports at which nothing listens, and processes that do not exist.
The answer only decides where a preview that a person opens connects to, in that same container.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

import clincus

KEPT = 2.0  # seconds for which an answer holds
SAID_MOST = 256 << 10  # bytes of the container's answer
PROXY = (3128, ("127.0.0.1",))  # of the network mode `allow-list`
PROXY_HOLDERS = ("", "clincus-relay")  # Incus, which is no process of the container; on an engine, guest/relay.pl
NAME_MOST = 32  # characters of a process's name
ASK_WITHIN = 10  # seconds

_ROW = re.compile(r"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ")
_HOLDER = re.compile(r"LISTEN\s+\d+\s+\d+\s+\S*:(\d{1,5})\s.*?users:\(\(\"([^\"]*)\"")


class Listening(NamedTuple):
    """A port at which a process listens."""

    port: int
    addresses: tuple[str, ...]  # numeric, sorted: those of IPv4 first
    process: str  # the name of a process that holds it, "" if unknown

    @property
    def address(self) -> str:
        """The address to connect to from within the container: loopback if that is enough."""
        there = set(self.addresses)
        if there & {"127.0.0.1", "0.0.0.0"}:
            return "127.0.0.1"
        if there & {"::1", "::"}:
            return "::1"
        return self.addresses[0]


def parse_ports(said: str) -> list[Listening]:
    """Read the output of guest/ports.sh, by port, without lines that do not fit."""
    rows, _, holders = said.partition("processes\n")
    addresses: dict[int, set[str]] = {}
    for row in map(_ROW.match, rows.splitlines()):
        port = int(row[2], 16) if row else 0
        if row and port:
            addresses.setdefault(port, set()).add(address_of(row[1]))
    names: dict[int, str] = {}
    for holder in map(_HOLDER.match, holders.splitlines()):
        if holder:
            name = clincus.printable(holder[2])[:NAME_MOST]
            names.setdefault(int(holder[1]), name)
    found = []
    for port in sorted(addresses):
        in_order = sorted(addresses[port], key=lambda address: (":" in address, address))
        listening = Listening(port, tuple(in_order), names.get(port, ""))
        if listening[:2] != PROXY or listening.process not in PROXY_HOLDERS:
            found.append(listening)
    return found


def address_of(digits: str) -> str:
    """An address of /proc/net/tcp and tcp6: words of 32 bits in the machine's own byte order (proc(5))."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    data = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(data)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def ask_ports(sessions: clincus.Sessions, session: clincus.Session) -> list[Listening]:
    """The listening ports of a running session. Raises IncusError."""
    door = sessions.door(session.id)
    program = clincus.guest_command("ports")
    done = door.exec(session.id, program, timeout=ASK_WITHIN, limit=SAID_MOST)
    return parse_ports(done.stdout.decode("utf-8", "replace"))


def port_at(found: Iterable[Listening], port: int) -> Listening:
    """The entry of a port. Raises ClincusError(409) if nothing listens there."""
    for listening in found:
        if listening.port == port:
            return listening
    problem = f"nothing listens at port {port} in the session: start the server there first"
    raise clincus.ClincusError(problem, 409)
