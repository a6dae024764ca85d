"""Which addresses nothing is sent to: those of this host, of private networks, and of services for machines."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Sequence
from typing import Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# Networks that are not the public internet (IANA's registries of special-purpose addresses). In the last one Azure has
# its services for virtual machines.
CLOSED_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "168.63.129.16/32",
    )
]
PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
# Among them Teredo and 6to4, which lead to an IPv4 address that stands in them.
CLOSED_6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
# These are an IPv4 address in another form.
CARRIERS = [ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96")]

_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST, _RTA_DST = 24, 26, 1, 1
_RTN_UNICAST = 1


def why_closed(text: str, reachable: Sequence[Network] = ()) -> str:
    """Why nothing may be sent to an address, "" if something may; `reachable` are networks that the user has opened."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if any(address in network for network in reachable):
        return ""
    plain = carried(address)
    if isinstance(plain, ipaddress.IPv4Address):
        is_closed = any(plain in network for network in CLOSED_4)
    else:
        is_closed = plain not in PUBLIC_6 or any(plain in network for network in CLOSED_6)
    if is_closed:
        return f"{address} is not an address of the public internet"
    try:
        return "" if is_elsewhere(address) else f"{address} is an address of this host"
    except OSError as error:
        return f"this host has no route to {address} ({error.strerror or error})"


def carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 address is another form of, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_elsewhere(address: Address) -> bool:
    """Whether the kernel would send to an address over a network, to one machine: it is none of this host's own.

    Asks for the route (rtnetlink(7)), which knows the addresses of all interfaces. Raises OSError if there is no route.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    attribute = struct.pack("=HH", 4 + len(address.packed), _RTA_DST) + address.packed
    route = struct.pack("=8BI", family, 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0) + attribute
    head = struct.pack("=IHHII", 16 + len(route), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(1)
        kernel.sendto(head + route, (0, 0))
        answer = kernel.recv(8192)
    _, kind = struct.unpack_from("=IH", answer)
    if kind != _RTM_NEWROUTE:
        code = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(code, os.strerror(code))
    return answer[16 + 7] == _RTN_UNICAST
