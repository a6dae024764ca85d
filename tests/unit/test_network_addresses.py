"""Which addresses are this host's own, or near it: as the kernel routes them, in a namespace of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from clincus_features.network import addresses
from tests.programs import ROOT

# A host with a public network of each family at its card, a router there, a bridge with containers, and a container
# that has a route of its own.
HOST = """
set -e
ip link set lo up
ip link add card type veth peer name router
ip address add 5.6.7.8/24 dev card
ip address add 2a01:4f8:1::2/64 dev card nodad
ip link set card up
ip link set router up
ip route add default via 5.6.7.1
ip -6 route add default via fe80::1 dev card
ip link add bridge type bridge
ip address add 10.5.0.1/16 dev bridge
ip link set bridge up
ip link add routed type veth peer name inside
ip link set routed up
ip link set inside up
ip route add 10.9.9.9/32 dev routed
ip route add 7.7.7.7/32 dev routed
ip address add 2a01:4f8:2::1/64 dev bridge nodad
ip link add second type veth peer name switch
ip address add 6.6.6.1/24 dev second
ip link set second up
ip link set switch up
ip route add blackhole 8.8.4.0/24
ip address add 4.4.4.4/32 dev lo
ip rule add from all lookup 7 priority 7
ip route add 3.3.3.0/24 via 5.6.7.1 table 7
ip route add 2.2.2.0/24 dev card table 7
if [ -e /dev/net/tun ]; then
    ip tuntap add tunnel mode tun
    ip link set tunnel up
    ip route add 128.0.0.0/1 dev tunnel
fi
exec "$@"
"""
ASK = """
import ipaddress, json, sys
from clincus_features.network.addresses import why_closed
asked = json.loads(sys.argv[1])
print(json.dumps([why_closed(text, [ipaddress.ip_network(one) for one in opened]) for text, opened in asked]))
"""
ROUTED = [
    # address, networks that are reachable, why it is closed
    ("9.9.9.9", [], ""),
    ("151.101.0.223", [], ""),  # by the tunnel, which has half of the internet
    ("5.6.7.8", [], "of this host"),
    ("5.6.7.77", [], "a neighbour"),
    ("2a01:4f8:1::77", [], "a neighbour"),
    ("5.6.7.77", ["5.6.0.0/16"], ""),
    ("10.7.0.1", ["10.0.0.0/8"], ""),
    ("10.5.0.1", ["10.5.0.0/16"], "of this host"),
    ("10.5.0.1", ["10.0.0.0/8", "10.5.0.1/32"], ""),
    ("10.5.0.7", ["10.0.0.0/8"], "own containers"),
    ("10.5.0.7", ["10.5.0.0/16"], ""),
    ("10.9.9.9", ["10.9.0.0/16"], "own containers"),
    # The same addresses in other forms, and networks that are written in such a form.
    ("64:ff9b::506:74d", [], "a neighbour"),
    ("64:ff9b::a05:7", ["64:ff9b::/96"], "own containers"),
    ("::ffff:10.5.0.7", ["::ffff:0:0/96"], "own containers"),
    ("::ffff:10.7.0.1", ["10.0.0.0/8"], ""),
    ("::5.6.7.8", [], "public internet"),
    ("2002:506:708::1", [], "public internet"),
    # Ways of the host that are less usual.
    ("7.7.7.7", [], "own containers"),
    ("2a01:4f8:2::7", [], "own containers"),
    ("6.6.6.6", [], "a neighbour"),
    ("4.4.4.4", [], "of this host"),
    ("8.8.4.4", [], "8.8.4.4"),
    ("3.3.3.3", [], ""),
    ("2.2.2.2", [], "a neighbour"),
]


def test_what_is_near_is_closed_unless_it_is_opened_by_itself():
    own = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net"]
    asked = json.dumps([row[:2] for row in ROUTED])
    command = [*own, "sh", "-c", HOST, "host", sys.executable, "-c", ASK, asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    wrong = [(row, words) for row, words in zip(ROUTED, said) if bool(words) != bool(row[2]) or row[2] not in words]
    assert wrong == []
    assert len(said) == len(ROUTED)


def test_an_address_without_a_route_says_so(monkeypatch):
    def no_route(address):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(addresses, "ask_route", no_route)
    assert addresses.why_closed("9.9.9.9") == "this host has no route to 9.9.9.9 (Network is unreachable)"


def test_a_host_without_ipv4_reaches_that_by_a_translator(monkeypatch):
    def only_6(address):
        if address.version == 4:
            raise OSError(101, "Network is unreachable")
        return addresses.Route(is_elsewhere=True)

    monkeypatch.setattr(addresses, "ask_route", only_6)
    assert addresses.why_closed("64:ff9b::101:101") == ""
