"""The listening ports of a session's container. It is asked while somebody looks, and not more than every 2 s.

Root in the container chooses what is said here: it can name ports at which nothing listens, and processes that are not
there. Nothing is decided by it but where a preview that a person opens connects to, in that same container.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

import clincus

KEPT = 2.0  # seconds for which an answer holds
SAID_MOST = 256 << 10  # bytes that the container may say
PORTS_MOST = 100  # that are shown
PROXY = (3128, ("127.0.0.1",))  # of the network mode `allow-list`
PROXY_HOLDERS = ("", "clincus-relay")  # Incus, which is no process of the container; on an engine, guest/relay.pl
NAME_MOST = 32  # characters of a process's name
ASK_WITHIN = 10  # seconds

_ROW = re.compile(r"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ")
_HOLDER = re.compile(r"LISTEN\s+\d+\s+\d+\s+\S*:(\d{1,5})\s.*?users:\(\(\"([^\"]*)\"")


class Listening(NamedTuple):
    """A port at which something listens."""

    port: int
    addresses: tuple[str, ...]  # numeric, sorted: those of IPv4 first
    process: str  # the name of a process that holds it, "" if it is not known

    @property
    def address(self) -> str:
        """Where to connect to from within the container: loopback where that is enough."""
        for any_of, choice in (({"127.0.0.1", "0.0.0.0"}, "127.0.0.1"), ({"::1", "::"}, "::1")):
            if any_of & set(self.addresses):
                return choice
        return self.addresses[0]


def parse_ports(said: str) -> list[Listening]:
    """Read what guest/ports.sh printed, by port; whatever does not fit is left out."""
    rows, _, holders = said.partition("processes\n")
    addresses: dict[int, set[str]] = {}
    for row in map(_ROW.match, rows.splitlines()):
        if row and int(row[2], 16):
            addresses.setdefault(int(row[2], 16), set()).add(address_of(row[1]))
    names: dict[int, str] = {}
    for holder in map(_HOLDER.match, holders.splitlines()):
        if holder:
            names.setdefault(int(holder[1]), clincus.printable(holder[2])[:NAME_MOST])
    found = [
        Listening(port, tuple(sorted(places, key=lambda one: (":" in one, one))), names.get(port, ""))
        for port, places in sorted(addresses.items())
    ]
    return [one for one in found if one.process not in PROXY_HOLDERS or one[:2] != PROXY][:PORTS_MOST]


def address_of(digits: str) -> str:
    """An address of /proc/net/tcp and tcp6: words of 32 bits in the machine's own byte order (proc(5))."""
    words = (int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8))
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def ask_ports(sessions: clincus.Sessions, session: clincus.Session) -> list[Listening]:
    """The listening ports of a session that runs. Raises IncusError."""
    door, program = sessions.door(session.id), clincus.guest_command("ports")
    done = door.exec(session.id, program, timeout=ASK_WITHIN, limit=SAID_MOST)
    return parse_ports(done.stdout.decode("utf-8", "replace"))


def port_at(found: Iterable[Listening], port: int) -> Listening:
    """The entry of a port. Raises ClincusError(409) if nothing listens there."""
    for one in found:
        if one.port == port:
            return one
    raise clincus.ClincusError(f"nothing listens at port {port} in the session: start the server there first", 409)
