"""What a session may reach: names, addresses, requests, TLS greetings, and the devices that come of a policy. Pure."""

from __future__ import annotations

import json
import os
import ssl
import types
from dataclasses import replace

import pytest

import clincus
from clincus_features import trust
from clincus_features.network import addresses, devices, requests
from clincus_features.network.bodies import ChunkedBody
from clincus_features.network.policy import Entry, Policy
from clincus_features.network.presets import PRESETS
from tests.table import table


@table(
    ("entry", "host", "port", "fits"),
    [
        ("pypi.org", "pypi.org", 22, False),
        ("pypi.org", "notpypi.org", 443, False),
        ("*.github.com", "a.b.github.com", 443, True),
        ("*.github.com", "github.com", 443, False),
        ("host.example:8443", "host.example", 8443, True),
        ("host.example:8443", "host.example", 443, False),
        ("Host.Example.", "host.example", 443, True),
    ],
)
def test_an_entry_allows_its_names_and_ports(entry, host, port, fits):
    assert Entry.read(entry).fits(host, port) is fits


@table(
    "text",
    ["*", "*.com", "a b", "http://a.b", "10.1.2.3", "0x7f.1", "[::1]:443", "a.b:0", "a.*.b"],
)
def test_what_is_no_name_is_no_entry(text):
    with pytest.raises(ValueError, match=r"."):
        Entry.read(text)
    with pytest.raises(clincus.ConfigError):
        clincus.with_flags(clincus.load_config({"HOME": "/none"}), {"network.allow": [text]})
    assert all(Entry.read(host) for preset in PRESETS.values() for host in preset.hosts)


def test_a_label_gives_the_policy_that_wrote_it_and_none_that_of_an_older_clincus():
    policy = Policy("allow-list", ("pypi.org",), ("npm",), has_proxy=True, own={"eth1": {"type": "nic"}})
    assert Policy.from_label(policy.label()) == policy
    assert Policy.from_label("").mode == "open"
    for unreadable in ("nonsense", "[]", '{"mode": "other"}', '{"mode": "open", "allow": ["*"]}'):
        assert Policy.from_label(unreadable).mode == "none"


@table(
    "address",
    "0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.0.192 192.168.1.1 198.18.0.1 224.0.0.1 "  # noqa: SIM905
    "255.255.255.255 168.63.129.16 :: ::1 fe80::1%1 fc00::1 fd00:ec2::254 ff02::1 ::ffff:10.0.0.1 ::10.0.0.1 "
    "64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1::1 2001::1 2001:db8::1 3fff::1".split(),
)
def test_nothing_is_sent_to_an_address_that_is_not_public(address, monkeypatch):
    monkeypatch.setattr(addresses, "ask_route", lambda address: addresses.Route(is_elsewhere=True))
    assert "not an address of the public internet" in addresses.why_closed(address)


@table("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_a_public_address_is_sent_to_if_a_network_leads_there(address, monkeypatch):
    monkeypatch.setattr(addresses, "ask_route", lambda address: addresses.Route(is_elsewhere=True))
    assert addresses.why_closed(address) == ""
    monkeypatch.setattr(addresses, "ask_route", lambda address: addresses.Route(is_elsewhere=False))
    assert "of this host" in addresses.why_closed(address)


# Requests


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_tunnel_is_asked_for_by_name_and_port():
    asked = requests.parse_request(head("CONNECT PyPI.org.:443 HTTP/1.1", "Host: x"))
    assert asked == ("pypi.org", 443, True, b"", 0, False)


def test_a_plain_request_goes_on_as_one_that_was_written_anew():
    asked = requests.parse_request(
        head(
            "POST http://Host.example:81/a?b HTTP/1.1",
            "Host: host.example:81",
            "Proxy-Authorization: secret",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "Accept: */*",
            "Content-Length: 3",
        )
    )
    assert asked[:3] == ("host.example", 81, False)
    assert asked.length == 3
    assert asked.head == head(
        "POST /a?b HTTP/1.1", "Host: host.example:81", "Content-Length: 3", "Connection: close", "Accept: */*"
    )


@table(
    ("status", "lines"),
    [
        (400, ["CONNECT pypi.org HTTP/1.1"]),
        (403, ["GET http://[::1]/ HTTP/1.1"]),
        (400, ["GET / HTTP/1.1", "Host: pypi.org"]),
        (400, ["GET https://pypi.org/ HTTP/1.1"]),
        (400, ["GET http://user@pypi.org/ HTTP/1.1"]),
        (400, ["GET http://pypi.org/ HTTP/1.1", "A: b\nHost: evil"]),
        (400, ["GET http://pypi.org/ HTTP/1.1", "A: b", " folded"]),
        (400, ["GET http://pypi.org/ HTTP/1.1", "Content-Length: 1", "Content-Length: 2"]),
        (400, ["POST http://pypi.org/ HTTP/1.1", "Transfer-Encoding: gzip, chunked"]),
        (400, ["POST http://pypi.org/ HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 1"]),
        (403, ["GET http://pypi.org/ HTTP/1.1", "Host: evil.example"]),
        (403, ["GET http://pypi.org/ HTTP/1.1", "Host: pypi.org", "Host: pypi.org"]),
    ],
)
def test_what_two_programs_could_read_differently_is_refused(status, lines):
    with pytest.raises(requests.Refused) as refused:
        requests.parse_request(head(*lines))
    assert refused.value.status == status


@table("field", ["A: a{}\x01", "Connection: a{}b"])
def test_a_head_full_of_blanks_holds_nobody_up(field):
    """This ends, as it can only if each blank is looked at a few times and not together with all the others."""
    with pytest.raises(requests.Refused):
        requests.parse_request(head("GET / HTTP/1.1", field.format(1_000_000 * " ")))
    with pytest.raises(requests.Refused):
        requests.parse_request(head("GET http://pypi.org/ HTTP/1.1", "Host: other", field.format(1_000_000 * " ")))


def test_a_body_in_chunks_goes_on_without_what_two_programs_could_read_differently():
    body, held = ChunkedBody(), bytearray()
    passed = b""
    for byte in b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET /":
        held.append(byte)
        passed += body.take(held)
    assert (passed, body.is_over) == (b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n", True)
    assert held == b"GET /"


@table(
    "sent", [b"\r\n", b"-1\r\n", b"1\r\nab\r\n", b"1" * 16 + b"\r\n",
             b"1" * ChunkedBody.LINE_LIMIT, b"0\r\n" + (b"x" * 8000 + b"\r\n") * 5]
)  # fmt: skip
def test_what_is_not_in_chunks_is_refused(sent):
    with pytest.raises(ValueError, match=r"body"):
        ChunkedBody().take(bytearray(sent))


def upgrade(*lines: str) -> requests.Asked:
    return requests.parse_request(head(*lines, "Connection: keep-alive, Upgrade"))


def test_a_request_may_become_a_websocket_and_nothing_else():
    asked = upgrade("GET http://a.example/ HTTP/1.1", "Upgrade: WebSocket", "Sec-WebSocket-Key: x")
    assert asked.is_upgrade
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n" in asked.head
    for other in (
        ["GET http://a.example/ HTTP/1.1", "Upgrade: h2c"],
        ["POST http://a.example/ HTTP/1.1", "Upgrade: websocket"],
        ["GET http://a.example/ HTTP/1.1", "Upgrade: websocket", "Content-Length: 1"],
    ):
        assert not upgrade(*other).is_upgrade
        assert b"pgrade" not in upgrade(*other).head


def test_a_plain_request_in_a_tunnel_is_for_the_host_of_the_tunnel():
    tunnel = requests.Asked("pypi.org", 80, True)
    assert requests.parse_request(head("GET / HTTP/1.1", "Host: pypi.org"), tunnel).head.startswith(b"GET / ")
    with pytest.raises(requests.Refused, match="not the pypi"):
        requests.parse_request(head("GET / HTTP/1.1", "Host: evil.example"), tunnel)


# TLS


def hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    message = data[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@table("size", [100, 16384])
def test_the_name_of_a_greeting_is_found_in_any_number_of_records(size):
    data = in_records(hello("Host.Example"), size)
    assert requests.server_name(data) == "host.example"
    assert {requests.server_name(data[:end]) for end in range(0, len(data) - 1, 7)} == {None}
    assert requests.server_name(hello(None)) == "", "it has no name"
    with pytest.raises(ValueError, match="too many pieces"):
        requests.server_name(in_records(hello("host.example"), 1))


@table(
    "data", [b"GET / HTTP/1.1", b"\x16\x02\x01\x00\x05", b"\x16\x03\x01\x00\x00\x01", b"\x16\x03\x01\x00\x04\x02\0\0\0",
             b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", b"\x16\x03\x01\x00\x06\x01\0\0\x02\x03\x03"]
)  # fmt: skip
def test_what_is_no_greeting_is_no_tls(data):
    with pytest.raises(ValueError, match=r"."):
        requests.server_name(data)


# Devices

PROFILE = {
    "root": {"type": "disk"},
    "eth0": {"type": "nic"},
    "lan": {"type": "nic"},
    "door": {"type": "proxy", "bind": "instance"},
    "in": {"type": "proxy", "bind": "host"},
}


LISTED = Policy("allow-list", ("a.example",), has_proxy=True)


def laid(policy: Policy, own: dict[str, dict[str, str]] | None = None, label: str = ""):
    before = None if own is None else {"devices": own, "config": {devices.LABEL: label}}
    config: dict[str, str] = {}
    kept, found = devices.lay(policy, before, devices.cards_of(PROFILE, before), config, "/run/x.sock")
    return kept, found, config


def test_without_a_network_every_card_and_every_door_outwards_is_hidden_and_a_list_has_one_way_out():
    _, found, config = laid(Policy("none"))
    assert found == {name: {"type": "none"} for name in ("door", "eth0", "lan")}
    assert json.loads(config[devices.LABEL]) == {"mode": "none"}
    _, found, config = laid(LISTED)
    assert set(found) == {"door", "eth0", "lan", devices.DEVICE}
    assert found[devices.DEVICE]["connect"] == "unix:/run/x.sock"
    assert config["environment.https_proxy"] == "http://127.0.0.1:3128"
    far = devices.device_path({"HOME": "/home/ann"}, "far:clincus-1")
    _, found = devices.lay(LISTED, None, devices.cards_of(PROFILE), config, far)
    assert set(found) == {"door", "eth0", "lan"}, "on an engine the way out is a line"


ANY_FAMILY = ("socket errno 97 [0,40,SCMP_CMP_MASKED_EQ,4294967295]", "io_uring_setup errno 38")


def described(config: dict[str, str], mode: str = "open") -> dict[str, str]:
    """The config of an instance with what the network adds at a start."""
    settings = {"network.mode": mode, "network.allow": [], "network.presets": []}
    session = types.SimpleNamespace(id="one", tool="claude", network="")
    description = {"config": config, "devices": {}}
    profile = {"instance": lambda id: None, "query": lambda path: {"config": {}, "devices": PROFILE}}
    add = devices.start_part({"HOME": "/home/ann"}, lambda id, policy: None)
    add(types.SimpleNamespace(**profile), session, types.SimpleNamespace(config=settings), description)
    return description["config"]


def test_rules_come_behind_those_of_the_wall_and_of_the_profile():
    known = {"security.syscalls.deny": "umount errno 1\nio_uring_setup errno 38", "raw.apparmor": "deny network alg,"}
    config = described({**known, "raw.lxc": "lxc.x = y"})
    rules = config["security.syscalls.deny"].splitlines()
    assert rules[:2] == ["umount errno 1", "io_uring_setup errno 38"]
    assert len(rules) == len(set(rules)) == 2 + len(devices.DENIED) - 1
    assert config["raw.apparmor"].splitlines() == ["deny network alg,", *devices.CONFINED]
    for mode in ("open", "allow-list", "none"):
        config = described({}, mode)
        assert set(ANY_FAMILY) <= set(config["security.syscalls.deny"].splitlines())
        assert "raw.apparmor" not in config, "this Incus allows no raw settings"


@table(("depth", "place"), [(8, "/xxxxxxxx/.clincus/network/"), (90, "/tmp/clincus-")])
def test_all_sessions_have_their_sockets_in_one_folder_and_short_names(depth, place):
    ids = ("lock", "clincus-abcdef-1", "x" * 63, f"{'far' * 40}:clincus-{'x' * 40}", "a:b", "c:b")
    paths = [devices.socket_path({"HOME": f"/{'x' * depth}"}, id) for id in ids]
    assert len({os.path.dirname(path) for path in paths}) == 1
    assert len(set(paths)) == len(ids)
    assert paths[0].startswith(place)
    assert max(map(len, paths)) <= devices.PATH_LIMIT


def test_a_folder_of_the_sockets_that_others_can_enter_is_not_used(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(clincus.ClincusError, match="not a folder that is yours alone"):
        devices.own_folder(str(tmp_path / "open"))


# Settings


def config_of(tmp_path, text: str = "", project: str = "", *, trusted: bool = False) -> clincus.Config:
    path = tmp_path / ".config/clincus/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    config = clincus.load_config({"HOME": str(tmp_path)})
    return trust.apply_project(config, trust.ProjectFile("/w/.clincus.toml", project, ""), trusted=trusted)


def test_a_project_widens_nothing_unless_it_is_trusted_and_never_to_private_networks(tmp_path):
    config = config_of(tmp_path, '[network]\nmode = "none"\n', '[network]\nmode = "open"\nallow = ["evil.example"]\n')
    assert Policy.configured(config, "claude") == Policy("none", (), ("claude",))
    assert "network.mode is left out" in " ".join(config.warnings)
    config = config_of(tmp_path, "", '[network]\nmode = "allow-list"\nallow = ["a.example"]\n', trusted=True)
    assert Policy.configured(config, "shell") == Policy("allow-list", ("a.example",))
    with pytest.raises(clincus.ConfigError, match="in your own config only"):
        config_of(tmp_path, "", '[network]\nreachable = ["10.0.0.0/8"]\n', trusted=True)


@pytest.fixture(autouse=True)
def host_is_closed(monkeypatch):
    """Whatever this machine is: no test here is about its kernel, but for those that ask with a root of their own."""
    monkeypatch.setattr(devices, "leaves_32_bits", lambda: False)


leaves_32_bits = devices.leaves_32_bits


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="others have no such call")
@table(
    ("files", "leaves"),
    [
        ({"dev/vsock": "", "proc/cmdline": "quiet"}, True),
        ({"dev/vsock": "", "proc/cmdline": "quiet", "sys/module/apparmor/parameters/enabled": "Y\n"}, False),
        ({"dev/vsock": "", "proc/cmdline": "ia32_emulation=off quiet"}, False),
        ({"proc/cmdline": "quiet"}, False),  # there is no hypervisor
    ],
)
def test_a_closed_session_says_that_its_host_leaves_the_32_bit_call(tmp_path, monkeypatch, files, leaves):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(devices, "leaves_32_bits", lambda: leaves)
    assert (described({}, "none").get(devices.WARNINGS) == devices.IN_32_BITS) == leaves
    assert devices.WARNINGS not in described({}, "open")
    assert leaves_32_bits(f"{tmp_path}/") == leaves


class Door:
    """An Incus with one instance, which notes its devices at each change, and fails one that brings the proxy."""

    engine = ""

    def __init__(self, *, fails: bool = False, raw: str = "") -> None:
        self.instance = {"name": "one", "architecture": "", "description": "", "profiles": ["default"],
                         "config": {"raw.lxc": raw}, "devices": {}}  # fmt: skip
        self.fails, self.steps = fails, []

    def fitting(self) -> devices.Fitting:
        config, own = self.instance["config"], self.instance["devices"]
        expanded = {"expanded_config": config, "expanded_devices": {**PROFILE, **own}}
        return devices.Fitting(self, {**self.instance, **expanded}, "/run/x.sock")

    def path(self, name: str) -> str:
        return f"/1.0/instances/{name}"

    def query(self, path: str, method: str, change: dict, *, wait: bool) -> None:
        assert (path, method, wait) == ("/1.0/instances/one", "PATCH", True)
        self._become("PATCH", {key: {**self.instance[key], **change[key]} for key in ("config", "devices")})

    def update(self, name: str, description: dict) -> None:
        self._become("PUT", {key: description[key] for key in ("config", "devices")})

    def _become(self, how: str, change: dict) -> None:
        if self.fails and devices.DEVICE in change["devices"]:
            raise clincus.IncusError("address already in use", 500)
        self.steps.append((how, sorted(change["devices"])))
        self.instance = {**self.instance, **change}


def test_the_cards_go_before_the_proxy_comes_and_later_changes_take_one_call_or_none():
    door = Door()
    door.fitting().put(LISTED, "{}")
    assert door.steps == [("PATCH", ["door", "eth0", "lan"]), ("PATCH", [devices.DEVICE, "door", "eth0", "lan"])]
    door.steps.clear()
    door.fitting().put(LISTED, "{}")
    assert door.steps == []
    door.fitting().put(replace(LISTED, allow=("b.example",)), "{}")
    assert door.steps == [("PATCH", [devices.DEVICE, "door", "eth0", "lan"])]
    assert Policy.from_label(door.instance["config"][devices.LABEL]).allow == ("b.example",)
    door.instance["devices"]["eth9"] = {"type": "nic"}  # since then
    door.fitting().put(LISTED, "{}")
    assert door.instance["devices"]["eth9"] == {"type": "none"}
    door.fitting().put(Policy("open"), "{}")
    assert door.instance["devices"] == {"eth9": {"type": "nic"}}, "a person's own card comes back"


def test_a_session_whose_proxy_or_cards_cannot_be_changed_is_left_closed():
    door = Door(fails=True)
    with pytest.raises(clincus.ClincusError, match="what holds port 3128"):
        door.fitting().put(LISTED, "{}")
    assert door.steps == [("PATCH", ["door", "eth0", "lan"])]
    assert Policy.from_label(door.instance["config"][devices.LABEL]).mode == "none"
    door = Door(raw="lxc.net.1.type = none\n")
    with pytest.raises(clincus.ClincusError, match=r"lxc\.net"):
        door.fitting().put(Policy("none"), "{}")
    assert door.steps == []


RULED = {"security.syscalls.deny": "\n".join(devices.DENIED)}


@table(
    ("config", "status", "mode", "is_told"),
    [
        ({"security.syscalls.deny": "socket errno 97 [0,40,SCMP_CMP_EQ]"}, "Frozen", "none", True),
        (RULED, "Running", "none", False),
        ({}, "Stopped", "none", False),
    ],
)
def test_a_session_that_is_closed_says_what_holds_from_its_next_start_only(config, status, mode, is_told):
    door = Door()
    door.instance = {**door.instance, "status": status, "config": {**config, devices.WARNINGS: "a limit is left out"}}
    door.fitting().put(Policy(mode), "{}")
    warnings = door.instance["config"][devices.WARNINGS].splitlines()
    assert warnings == ["a limit is left out", *([devices.UNRULED] if is_told else [])]
    door.fitting().put(Policy("open"), "{}")
    assert devices.UNRULED not in door.instance["config"][devices.WARNINGS]
    assert door.instance["devices"] == {}, "it has the cards of its profile again"
    assert door.instance["config"][devices.DEVICES_LABEL] == "-"


@table("own", [{}, {"security.syscalls.deny": "keyctl errno 38"}])
def test_a_session_that_is_closed_while_it_is_stopped_has_the_rules_also_if_incus_starts_it(own):
    door = Door()
    door.instance = {**door.instance, "status": "Stopped", "config": own}
    door.fitting().put(Policy("none"), "{}")
    found = door.instance["config"]["security.syscalls.deny"].splitlines()
    assert found == [*own.values(), *devices.DENIED]
