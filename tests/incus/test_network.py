"""Network modes on a real Incus, against root in the container: nothing leaves but what the list allows."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_box import HOSTS, Box, Upstream, command_with_hosts, open_tunnel, tunnel
from raw_calls import INT_80, MEMORY, SYSCALL, ZEROS, program

from clincus_features.network.devices import UNRULED
from tests.faults_bed import run_cli
from tests.programs import DEADLINE, wait_until
from tests.unit.test_network_policy import hello

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")

# Each line is a way out that root tries: its name, and what the kernel says.
WAYS_OUT = r"""
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 AF_INET6);
sub attempt { my ($name, $family, $kind, $protocol, $to) = @_;
    socket(my $s, $family, $kind, $protocol) or return print "$name: $!\n";
    print "$name: ", (defined(send($s, "x" x 64, 0, $to)) ? "SENT" : $!), "\n"; }
my $bridge = shift;
attempt("ping", AF_INET, SOCK_RAW, 1, pack_sockaddr_in(0, inet_aton("1.1.1.1")));
attempt("raw IP", AF_INET, SOCK_RAW, 255, pack_sockaddr_in(0, inet_aton("1.1.1.1")));
attempt("DNS", AF_INET, SOCK_DGRAM, 17, pack_sockaddr_in(53, inet_aton("8.8.8.8")));
attempt("metadata", AF_INET, SOCK_DGRAM, 17, pack_sockaddr_in(80, inet_aton("169.254.169.254")));
attempt("bridge", AF_INET, SOCK_DGRAM, 17, pack_sockaddr_in(53, inet_aton($bridge)));
attempt("broadcast", AF_INET, SOCK_DGRAM, 17, pack_sockaddr_in(67, inet_aton("10.255.255.255")));
attempt("IPv6", AF_INET6, SOCK_DGRAM, 17, pack_sockaddr_in6(53, inet_pton(AF_INET6, "2606:4700::1111")));
attempt("IPv6 on the link", AF_INET6, SOCK_DGRAM, 17, pack_sockaddr_in6(53, inet_pton(AF_INET6, "fe80::1")));
print "hypervisor: ", (socket(my $v, 40, SOCK_STREAM, 0) ? "OPEN" : $!), "\n";
"""


def has_apparmor() -> bool:
    """Whether the kernel of this host confines containers by AppArmor."""
    switch = Path("/sys/module/apparmor/parameters/enabled")
    return switch.exists() and switch.read_text().startswith("Y")


VSOCK, STREAM, X32, SOCKETCALL = 40, 1, 0x40000000, 102
# Ways to a socket to the hypervisor: a program, and the error that it gets.
HYPERVISOR = {
    "socket": (program(SYSCALL, 41, VSOCK, STREAM), errno.EAFNOSUPPORT),
    "more than an int": (program(SYSCALL, 41, VSOCK + (1 << 32), STREAM), errno.EAFNOSUPPORT),
    "less than an int": (program(SYSCALL, 41, VSOCK + (0xFFFFFFFF << 32), STREAM), errno.EAFNOSUPPORT),
    "socketpair": (program(SYSCALL, 53, VSOCK, STREAM, 0, ZEROS), errno.EOPNOTSUPP),
    "x32": (program(SYSCALL, X32 + 41, VSOCK, STREAM), errno.EAFNOSUPPORT),
    "socketcall": (program(INT_80, SOCKETCALL, 1, MEMORY, memory=(VSOCK, STREAM, 0)), errno.ENOSYS),
    "socketcall for a pair": (program(INT_80, SOCKETCALL, 8, MEMORY, memory=(VSOCK, STREAM, 0, ZEROS)), errno.ENOSYS),
    "io_uring": (program(SYSCALL, 425, 1, ZEROS), errno.ENOSYS),
    "io_uring, 32 bits": (program(INT_80, 425, 1, ZEROS), errno.ENOSYS),
    "io_uring, x32": (program(SYSCALL, X32 + 425, 1, ZEROS), errno.ENOSYS),
    "Qualcomm's processors": (program(SYSCALL, 41, 42, 2), errno.EAFNOSUPPORT),
}
on_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs are for x86_64")


def run_raw(bed: Any, session: str, image: bytes) -> int:
    """How a program ended that root runs in a container."""
    run = 'cat >"$0" && chmod 700 "$0" && exec "$0"'
    return int(bed.incus.exec(session, ["sh", "-c", run, "/tmp/raw"], stdin=image, user=0).code)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory) -> Iterator[Upstream]:
    made = Upstream(tmp_path_factory.mktemp("upstream"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def start_with_names(start_shared, tmp_path_factory):
    """A function that starts a server which finds the names of a file of hosts, and that file."""
    hosts = tmp_path_factory.mktemp("hosts") / "hosts"
    hosts.write_text(HOSTS)
    command = command_with_hosts(hosts)
    return lambda: (start_shared(config='[network]\nreachable = ["127.0.0.1/32"]\n', command=command), hosts)


@pytest.fixture(scope="module")
def box(bed, start_with_names, keep_session, upstream) -> Box:
    server, hosts = start_with_names()
    made = Box(bed, server, upstream, "", hosts)
    session = keep_session(server, tool="shell", network="allow-list", allow=made.allow, presets=[])
    assert session["network"] == {"mode": "allow-list", "refused": 0}
    return Box(bed, server, upstream, session["id"], hosts)


@pytest.fixture
def listed(box: Box) -> Iterator[Box]:
    """The session, which a test leaves with its list of names."""
    yield box
    box.hosts.write_text(HOSTS)
    box.change(network="allow-list", allow=box.allow)


def bridge_address(bed: Any) -> str:
    """The host's address on the bridge."""
    return str(bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"]).partition("/")[0]


@pytest.mark.day
def test_nothing_of_roots_leaves_a_container_without_a_card(bed, box):
    assert box.cards() == ["lo"]
    command = ["perl", "-e", WAYS_OUT, bridge_address(bed)]
    tried = bed.incus.exec(box.id, command, user=0).stdout.decode().splitlines()
    assert len(tried) == 9
    refused = ("Network is unreachable", "Invalid argument", "Address family not supported by protocol")
    assert [line for line in tried if not line.endswith(refused)] == []


@on_x86_64
def test_no_call_gives_a_socket_to_the_hypervisor_and_other_sockets_are_there(bed, box):
    """Libraries of 32 bits use the direct call, or fall back to it."""
    got = {way: run_raw(bed, box.id, image) for way, (image, _) in HYPERVISOR.items()}
    assert got == {way: error for way, (_, error) in HYPERVISOR.items()}
    assert run_raw(bed, box.id, program(SYSCALL, 41, 2, STREAM)) == 0
    assert run_raw(bed, box.id, program(INT_80, 359, 2, STREAM)) == 0
    if has_apparmor():  # without AppArmor nothing sees this call, which no rule can name (docs/security.md)
        assert run_raw(bed, box.id, program(INT_80, 359, VSOCK, 2)) in (errno.EACCES, errno.EPERM)


def test_an_open_session_has_the_hosts_proxy_with_its_password(bed, start_server, keep_session):
    """In a file of the code user's, as no image may hold it; with a list of names Clincus's own proxy counts."""
    proxy = "http://ann:pass'word@192.0.2.1:3128"
    server = start_server(environ={"https_proxy": proxy})
    session = keep_session(server, tool="shell", network="open")
    tell = 'set -a; . "$HOME/.clincus/environment"; printenv HTTPS_PROXY https_proxy'
    assert bed.shell(session["id"], tell).split() == [proxy, proxy]
    assert bed.shell(session["id"], 'stat -c %a "$HOME/.clincus/environment"') == "600\n"
    answer = server.request("PATCH", f"/api/sessions/{session['id']}", {"network": "allow-list"})
    assert answer.status == 200, answer.body
    assert bed.shell(session["id"], tell).split() == ["http://127.0.0.1:3128"] * 2


@on_x86_64
def test_the_rules_hold_in_every_change_of_the_mode(bed, box, keep_session):
    """While the session runs, while it is stopped, and when Incus alone starts it."""
    session = keep_session(box.server, tool="shell", network="open")["id"]
    path = f"/api/sessions/{session}"

    def becomes(mode: str) -> None:
        answer = box.server.request("PATCH", path, {"network": mode})
        assert (answer.status, UNRULED in answer.json["warnings"]) == (200, False), answer.body

    def is_refused() -> bool:
        image, error = HYPERVISOR["more than an int"]
        return run_raw(bed, session, image) == error

    for mode in ("none", "open", "allow-list", "none"):
        becomes(mode)
        assert is_refused(), mode
    assert box.server.delete(path).status == 204
    becomes("open")
    bed.incus.run("config", "unset", session, "security.syscalls.deny")  # as an older Clincus left it
    becomes("none")
    bed.incus.run("start", session)
    wait_until(lambda: box.server.get(path).json["status"] == "running", "the start to be seen")
    assert is_refused(), "started by Incus alone"
    assert box.server.delete(path).status == 204
    assert box.server.post(f"{path}/resume").json["network"]["mode"] == "none"
    assert is_refused(), "resumed"


def test_programs_of_an_open_network_never_come_back_into_a_closed_one(bed, box, workspace):
    """A stateful snapshot has them running. The restore is refused before it ends anything."""
    server = box.server
    session = server.create(workspace, network="open")
    id, path = session["id"], f"/api/sessions/{session['id']}"
    assert server.post(f"{path}/snapshots", {"name": "then"}).status == 201
    # Incus asks CRIU for a stateful one, which most hosts lack.
    bed.incus.run("admin", "sql", "global", "UPDATE instances_snapshots SET stateful = 1 WHERE name = 'then'")
    assert server.request("PATCH", path, {"network": "allow-list"}).status == 200
    refused = run_cli(bed, server, "snapshot", "restore", "then", "--container", id, "--stateful", "--force")
    assert (refused.returncode, f'the network of "{id}" is closed' in refused.stderr) == (1, True)
    now = server.get(path).json
    assert (now["network"]["mode"], now["started_at"]) == ("allow-list", session["started_at"])


@pytest.mark.day
def test_a_program_goes_by_the_variables_and_gets_through(bed, box):
    names = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NODE_USE_ENV_PROXY")
    for command in ("env", "sudo -n env", "sh -lc env", "tmux show-environment -g"):
        found = bed.shell(box.id, command)
        assert [name for name in names if f"{name}=" not in found] == [], command
    assert "refs/heads/main" in box.fetch()
    (row,) = [one for one in box.network()["passed"] if one["port"] == box.upstream.tls]
    assert (row["host"], row["count"] >= 1, row["received"] > row["sent"] > 100) == ("registry.example", True, True)
    request = f"GET http://registry.example:{box.upstream.plain}/repository/HEAD HTTP/1.1\r\n\r\n"
    assert box.ask(request.encode()).endswith("ref: refs/heads/main\n")


REFUSED = {
    tunnel("evil.example:443"): "evil.example:443 is not on this session's list of names",
    tunnel("registry.example:22"): "registry.example:22 is not on this session's list of names",
    tunnel("private.example:443"): "10.1.2.3 is not an address of the public internet",
    tunnel("169.254.169.254:80"): "is an address: only names are allowed",
    b"GET http://registry.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n": "the Host header names another host",
}


@pytest.mark.day
def test_what_the_list_does_not_allow_is_refused_and_told(box):
    for request, words in REFUSED.items():
        answer = box.ask(request)
        assert (answer.startswith("HTTP/1.1 40"), words in answer) == (True, True), answer
    answer = box.ask(tunnel(f"registry.example:{box.upstream.tls}", hello("front.example")))
    assert answer == "HTTP/1.1 200 Connection established\r\n\r\n"
    (row,) = [one for one in box.network()["refused"] if one["port"] == box.upstream.tls]
    assert row["reason"] == "TLS names front.example, CONNECT registry.example"
    assert box.server.get(box.path).json["network"]["refused"] > 0
    assert box.server.post(f"{box.path}/network/seen").status == 204
    assert box.server.get(box.path).json["network"] == {"mode": "allow-list", "refused": 0}


@pytest.mark.parametrize("change", [{"allow": ["other.example"]}, {"network": "none"}], ids=["name", "none"])
def test_a_change_holds_at_once_also_for_connections(listed, change):
    holder = open_tunnel(listed)
    listed.change(network="open")
    assert holder.poll() is None, "what is allowed goes on"
    assert "eth0" in listed.cards()
    assert "refs/heads/main" in listed.fetch(), "programs that know the proxy still get through"
    listed.change(network="allow-list", allow=listed.allow)
    listed.change(**change)
    holder.wait(DEADLINE)
    assert listed.cards() == ["lo"]
    assert "refs/heads/main" not in listed.fetch()


def test_a_private_network_that_is_opened_opens_neither_this_host_nor_its_containers(bed, listed):
    """As with `10.0.0.0/8` for the machines of a company: the bridge of Incus is in it, and all containers."""
    here = bridge_address(bed)
    neighbour = here.rpartition(".")[0] + ".77"
    listed.hosts.write_text(f"{HOSTS}::ffff:{here} here.example\n{neighbour} near.example\n")
    file = listed.server.home / ".config/clincus/config.toml"
    before = file.read_text()
    file.write_text(before.replace('reachable = ["', f'reachable = ["{here.partition(".")[0]}.0.0.0/8", "'))
    try:
        with socket.create_server((here, 0)) as service:
            port = service.getsockname()[1]
            listed.change(allow=[*listed.allow, f"here.example:{port}", f"near.example:{port}"])
            ask = lambda name: listed.ask(tunnel(f"{name}:{port}"))  # noqa: E731
            wait_until(lambda: "an address of this host" in ask("here.example"), "the configuration")
            assert "a network of this host's own containers" in ask("near.example")
            service.settimeout(0)
            with pytest.raises(BlockingIOError):
                service.accept()
    finally:
        file.write_text(before)


def test_nothing_passes_without_a_server_and_the_next_one_knows_all(listed, start_with_names):
    holder = open_tunnel(listed)
    listed.server.kill()
    holder.wait(DEADLINE)
    assert listed.ask(tunnel("registry.example:443")) == ""
    listed.server, _ = start_with_names()
    wait_until(lambda: "refs/heads/main" in listed.fetch(), "the way out")
    assert listed.network()["allow"] == listed.allow
