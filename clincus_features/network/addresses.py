"""Decides which addresses are closed to sessions: those of this host, of private networks, and of machine services."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Union

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
# Among them Teredo and 6to4, which lead to the IPv4 address that they contain.
CLOSED_6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
# Other forms of an IPv4 address: the kernel sends to a mapped one by IPv4, and a translator (NAT64) does the same.
IPV4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")

# rtnetlink(7), linux/rtnetlink.h, linux/if_link.h
_NLM_F_REQUEST = 1
_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_VIA = 18
_RTM_F_FIB_MATCH = 0x2000  # the answer is the entry of the table, not the one host's route (Linux 4.13)
_RTN_UNICAST = 1
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFF_BROADCAST = 2
_INSIDE = ("bridge", "tun")  # kinds of cards that lead to containers and virtual machines of this host


class Route(NamedTuple):
    """The kernel's way to an address."""

    is_elsewhere: bool  # over a network, to one machine: the address is not one of this host's own
    near: int = 0  # bits of the prefix of the network that the address is in without a router between; 0 for none
    is_inside: bool = False  # it is a network of this host's own containers or virtual machines


def why_closed(text: str, reachable: Sequence[Network] = ()) -> str:
    """The reason why an address is closed, "" if it is open; `reachable` are the networks that the user has opened.

    Such a network opens private addresses and neighbours. To open this host, it must have no address but the host's. To
    open a network of the host's own containers, it must lie within that network.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # connect(2) sends it as IPv4
    opened = [*reachable, *(plain_network(one, IPV4_MAPPED) for one in reachable)]
    plain = address
    plain_opened = opened
    if address in TRANSLATED:  # the translator sends it on as IPv4, perhaps back to this host or a neighbour
        plain = plain_address(address)
        plain_opened = [plain_network(one, TRANSLATED) for one in opened]
    if is_special(plain) and longest(plain_opened, plain) < 0:
        return f"{address} is not an address of the public internet"
    try:
        reason = why_near(address, ask_route(address), opened)
    except OSError as error:
        return f"this host has no route to {address} ({error.strerror or error})"
    if not reason and plain is not address:
        with suppress(OSError):  # such a host may have no IPv4 of its own
            reason = why_near(plain, ask_route(plain), plain_opened)
    return reason


def why_near(address: Address, route: Route, opened: Sequence[Network]) -> str:
    """The reason why an address with this route is closed, "" if it is open. Pure."""
    length = longest(opened, address)
    if not route.is_elsewhere and length < address.max_prefixlen:
        return f"{address} is an address of this host"
    if route.is_inside and length < route.near:
        return f"{address} is in a network of this host's own containers"
    if route.near and length < 0:
        return f"{address} is a neighbour of this host"
    return ""


def is_special(address: Address) -> bool:
    """True if an address is not one of the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in CLOSED_4)
    return address not in PUBLIC_6 or any(address in network for network in CLOSED_6)


def longest(networks: Sequence[Network], address: Address) -> int:
    """The bits of the longest prefix among the networks that contain an address, -1 if none does."""
    return max((one.prefixlen for one in networks if address in one), default=-1)


def plain_address(address: Address) -> ipaddress.IPv4Address:
    """The IPv4 address at the end of an IPv6 address."""
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def plain_network(network: Network, form: ipaddress.IPv6Network) -> Network:
    """The IPv4 network that a network in the address form `form` stands for; any other network as it is."""
    if isinstance(network, ipaddress.IPv4Network) or not network.overlaps(form):
        return network
    length = max(0, network.prefixlen - form.prefixlen)
    address = plain_address(network.network_address)
    return ipaddress.IPv4Network((address, length), strict=False)


def ask_route(address: Address) -> Route:
    """The kernel's route to an address. Raises OSError without one."""
    kind, _, found = get_route(address)
    if kind != _RTN_UNICAST:
        return Route(is_elsewhere=False)
    card = ""
    is_shared = False
    if _RTA_OIF in found:
        index = int.from_bytes(found[_RTA_OIF], sys.byteorder)
        card, is_shared = get_card(index)
    has_router = _RTA_GATEWAY in found or _RTA_VIA in found
    # Behind a card for two ends (PPP, a tunnel) is no neighbour, however the routes of the internet are cut.
    if not is_shared or has_router:
        return Route(is_elsewhere=True)
    _, length, _ = get_route(address, _RTM_F_FIB_MATCH)
    is_one_container = card == "veth" and length == address.max_prefixlen  # whose end of the pair is elsewhere
    is_inside = length > 0 and (card in _INSIDE or is_one_container)
    return Route(is_elsewhere=True, near=length, is_inside=is_inside)


def get_route(address: Address, flags: int = 0) -> tuple[int, int, dict[int, bytes]]:
    """Kind, bits of the prefix, and attributes of the route to an address. Raises OSError without a route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    attribute = struct.pack("=HH", 4 + len(address.packed), _RTA_DST) + address.packed
    asked = struct.pack("=8BI", family, 8 * len(address.packed), 0, 0, 0, 0, 0, 0, flags) + attribute
    answer = ask_kernel(_RTM_GETROUTE, _RTM_NEWROUTE, asked)
    return answer[7], answer[1], attributes(answer[12:])


def get_card(index: int) -> tuple[str, bool]:
    """The kind of a network card ("" for hardware), and True if more than one peer can be behind it."""
    asked = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    answer = ask_kernel(_RTM_GETLINK, _RTM_NEWLINK, asked)
    flags = struct.unpack_from("=I", answer, 8)[0]
    info = attributes(answer[16:]).get(_IFLA_LINKINFO, b"")
    kind = attributes(info).get(_IFLA_INFO_KIND, b"")
    return kind.rstrip(b"\0").decode("ascii", "replace"), bool(flags & _IFF_BROADCAST)


def ask_kernel(kind: int, wanted: int, asked: bytes) -> bytes:
    """The kernel's answer to a question about its network (rtnetlink(7)). Raises OSError for an error."""
    head = struct.pack("=IHHII", 16 + len(asked), kind, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(1)
        kernel.sendto(head + asked, (0, 0))
        answer = kernel.recv(1 << 16)
    length, came = struct.unpack_from("=IH", answer)
    if came != wanted:
        code = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(code, os.strerror(code))
    return answer[16:length]


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in an answer of the kernel, by their number; they begin at multiples of four bytes."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, number = struct.unpack_from("=HH", data)
        found[number & 0x3FFF] = data[4:length]
        data = data[max(4, (length + 3) & ~3) :]
    return found
