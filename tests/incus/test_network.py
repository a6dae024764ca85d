"""Network modes on a real Incus, against root in the container: nothing leaves but what the list allows."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_box import FLOOD, HOSTS, Box, Upstream, command_with_hosts, open_tunnel, silent_nameserver, tunnel
from raw_calls import INT_80, MEMORY, SYSCALL, ZEROS, program

from clincus_features.network.devices import UNRULED
from clincus_features.network.presets import PRESETS
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


def has_vsock() -> bool:
    """Whether the kernel of this host has sockets to a hypervisor."""
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


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
WITHOUT_RULES = {  # what is none of those that succeed on a host with AF_VSOCK, and why
    "socketpair": errno.EOPNOTSUPP,
    "socketcall for a pair": errno.EOPNOTSUPP,
    "x32": errno.ENOSYS,  # most kernels have no x32
    "io_uring, x32": errno.ENOSYS,
    "Qualcomm's processors": errno.EAFNOSUPPORT,  # the module is missing
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


@pytest.mark.day
def test_the_ready_lists_and_what_is_chosen_for_new_sessions_are_told(start_server):
    server = start_server(config='[network]\nmode = "allow-list"\nallow = ["git.example"]\npresets = ["tool", "npm"]\n')
    answer = server.get("/api/network/presets")
    assert answer.status == 200
    told = {one["name"]: one for one in answer.json["presets"]}
    assert answer.json["default"] == {"mode": "allow-list", "allow": ["git.example"], "presets": ["tool", "npm"]}
    assert told.keys() == PRESETS.keys()
    assert told["npm"] == {"name": "npm", "title": "npm", "hosts": ["registry.npmjs.org", "registry.yarnpkg.com"]}


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
@pytest.mark.parametrize("way", HYPERVISOR)
def test_no_call_gives_a_socket_to_the_hypervisor(bed, box, way):
    image, error = HYPERVISOR[way]
    assert run_raw(bed, box.id, image) == error


@on_x86_64
@pytest.mark.parametrize("number", [41, 359], ids=["64 bits", "32 bits"])
def test_other_sockets_are_there(bed, box, number):
    """Libraries of 32 bits use the direct call, or fall back to it."""
    assert run_raw(bed, box.id, program(SYSCALL if number == 41 else INT_80, number, 2, STREAM)) == 0


@on_x86_64
@pytest.mark.skipif(not has_apparmor(), reason="without AppArmor nothing sees this call (docs/security.md)")
@pytest.mark.parametrize("family", [VSOCK, 42])
def test_apparmor_refuses_the_call_that_no_rule_can_name(bed, box, family):
    assert run_raw(bed, box.id, program(INT_80, 359, family, 2)) in (errno.EACCES, errno.EPERM)


@on_x86_64
@pytest.mark.skipif(not has_vsock(), reason="this kernel has no AF_VSOCK")
def test_the_ways_to_the_hypervisor_are_ways(tmp_path):
    """On the host, where no rule is."""
    for way, (image, _) in HYPERVISOR.items():
        path = tmp_path / "raw"
        path.write_bytes(image)
        path.chmod(0o700)
        assert subprocess.run([path], check=False).returncode in (0, WITHOUT_RULES.get(way, 0)), way


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


def test_a_session_that_is_closed_while_it_runs_has_had_the_rules_all_along(bed, box, keep_session):
    session = keep_session(box.server, tool="shell", network="open")
    answer = box.server.request("PATCH", f"/api/sessions/{session['id']}", {"network": "none"})
    assert UNRULED not in answer.json["warnings"]
    if os.uname().machine == "x86_64":
        assert run_raw(bed, session["id"], HYPERVISOR["more than an int"][0]) == errno.EAFNOSUPPORT


@on_x86_64
def test_the_rules_hold_in_every_change_of_the_mode(bed, box, keep_session):
    """While the session runs, while it is stopped, and when Incus alone starts it."""
    session = keep_session(box.server, tool="shell", network="none")["id"]
    path = f"/api/sessions/{session}"

    def becomes(mode: str) -> None:
        answer = box.server.request("PATCH", path, {"network": mode})
        assert answer.status == 200, answer.body

    def is_refused() -> bool:
        ways = ("socket", "more than an int", "Qualcomm's processors")
        return all(run_raw(bed, session, HYPERVISOR[way][0]) == HYPERVISOR[way][1] for way in ways)

    assert is_refused()
    for mode in ("open", "allow-list", "open", "none", "allow-list"):
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
    assert box.server.post(f"{path}/resume").status == 200
    assert is_refused(), "resumed"


@pytest.mark.parametrize("mode", ["none", "allow-list"])
def test_programs_of_an_open_network_never_come_back_into_a_closed_one(bed, box, workspace, mode):
    """A stateful snapshot has them running. The restore is refused before it ends anything."""
    server = box.server
    session = server.create(workspace, network="open")
    id, path = session["id"], f"/api/sessions/{session['id']}"
    assert server.post(f"{path}/snapshots", {"name": "then"}).status == 201
    # Incus asks CRIU for a stateful one, which most hosts lack.
    bed.incus.run("admin", "sql", "global", "UPDATE instances_snapshots SET stateful = 1 WHERE name = 'then'")
    assert server.request("PATCH", path, {"network": mode}).status == 200
    words = ("snapshot", "restore", "then", "--container", id, "--stateful", "--force")
    refused = run_cli(bed, server, *words)
    assert refused.returncode == 1
    assert f'the network of "{id}" is closed' in refused.stderr
    assert bed.state(id) in ("Running", "Ready")
    now = server.get(path).json
    assert (now["network"]["mode"], now["started_at"]) == (mode, session["started_at"])


@pytest.mark.day
def test_a_program_goes_by_the_variables_and_gets_through(box):
    assert "refs/heads/main" in box.fetch()
    (row,) = [one for one in box.network()["passed"] if one["port"] == box.upstream.tls]
    assert row["host"] == "registry.example"
    assert row["count"] >= 1
    assert row["sent"] > 100
    assert row["received"] > row["sent"]


@pytest.mark.day
def test_terminals_and_sudo_know_the_proxy(bed, box):
    names = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NODE_USE_ENV_PROXY")
    for command in ("env", "sudo -n env", "sh -lc env", "tmux show-environment -g"):
        found = bed.shell(box.id, command)
        assert [name for name in names if f"{name}=" not in found] == [], command


@pytest.mark.day
def test_a_plain_request_passes(box):
    request = f"GET http://registry.example:{box.upstream.plain}/repository/HEAD HTTP/1.1\r\n\r\n"
    assert box.ask(request.encode()).endswith("ref: refs/heads/main\n")


@pytest.mark.day
@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (tunnel("evil.example:443"), "evil.example:443 is not on this session's list of names"),
        (tunnel("registry.example:22"), "registry.example:22 is not on this session's list of names"),
        (tunnel("private.example:443"), "10.1.2.3 is not an address of the public internet"),
        (tunnel("metadata.example:80"), "169.254.169.254 is not an address of the public internet"),
        (tunnel("169.254.169.254:80"), "is an address: only names are allowed"),
        (b"GET http://registry.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", "the Host header names another host"),
    ],
)
def test_what_the_list_does_not_allow_is_refused_with_the_reason(box, request_, words):
    answer = box.ask(request_)
    assert answer.startswith("HTTP/1.1 40")
    assert words in answer


@pytest.mark.day
def test_tls_for_another_name_does_not_get_through_and_refusals_are_told(box):
    answer = box.ask(tunnel(f"registry.example:{box.upstream.tls}", hello("front.example")))
    assert answer == "HTTP/1.1 200 Connection established\r\n\r\n"
    (row,) = [one for one in box.network()["refused"] if one["port"] == box.upstream.tls]
    assert row["reason"] == "TLS names front.example, CONNECT registry.example"
    assert box.server.get(box.path).json["network"]["refused"] > 0
    assert box.server.post(f"{box.path}/network/seen").status == 204
    assert box.server.get(box.path).json["network"] == {"mode": "allow-list", "refused": 0}


def test_a_name_that_leads_elsewhere_later_is_refused_then(listed):
    assert "refs/heads/main" in listed.fetch()
    listed.hosts.write_text(HOSTS.replace("127.0.0.1 localhost registry.example", "10.9.9.9 registry.example"))
    assert "403" in listed.fetch()


@pytest.mark.parametrize(
    "change", [{"allow": ["other.example"]}, {"network": "none"}, {"network": "open"}], ids=["name", "none", "open"]
)
def test_a_change_holds_at_once_also_for_connections(listed, change):
    holder = open_tunnel(listed)
    listed.change(**change)
    if change.get("network") == "open":
        assert holder.poll() is None, "what is allowed goes on"
        assert "eth0" in listed.cards()
        bridge = listed.bed.incus.query(f"/1.0/networks/{listed.bed.bridge}")["config"]["ipv4.address"].partition("/")[
            0
        ]
        wait_until(
            lambda: listed.bed.shell(listed.id, f"busybox ping -c1 -W1 {bridge} >/dev/null && echo yes || true", 0),
            "an address on the bridge",
        )
        assert "refs/heads/main" in listed.fetch(), "programs that know the proxy still get through"
        listed.change(network="none")
    holder.wait(DEADLINE)
    assert listed.cards() == ["lo"]
    assert "refs/heads/main" not in listed.fetch()


def test_root_cannot_keep_the_card_by_taking_the_proxys_port(bed, listed):
    listed.change(network="none")
    listed.change(network="open")
    listed.server.delete(listed.path)  # so that this run knows no proxy
    listed.server.post(f"{listed.path}/resume")
    taken = "my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => q(127.0.0.1:3128)); sleep 300"
    take = f"(perl -MIO::Socket::INET -e '{taken}' </dev/null >/dev/null 2>&1 &)"
    bed.shell(listed.id, f"{take}; until ss -ltn | grep -q :3128; do sleep 0.05; done", 0)
    assert "eth0" in listed.cards()
    answer = listed.server.request("PATCH", listed.path, {"network": "allow-list"})
    assert answer.status == 409, answer.body
    assert "port 3128" in answer.json["error"]
    assert listed.cards() == ["lo"]
    assert listed.server.get(listed.path).json["network"]["mode"] == "none"
    bed.shell(listed.id, "pkill perl", 0)


@pytest.mark.parametrize("count", [10_000])
def test_more_connections_than_a_session_may_have_harm_nobody(box, count):
    many = r"""use IO::Socket::INET; my @kept; for (1..$ARGV[0]) {
        push @kept, IO::Socket::INET->new(PeerAddr => "127.0.0.1:3128") || last; } print scalar @kept;"""
    script = f"ulimit -n {count + 100}; perl -e '{many}' {count}"
    assert box.bed.shell(box.id, script, 0) == str(count)
    wait_until(lambda: "refs/heads/main" in box.fetch(), "a place, once those are gone")


def test_a_session_keeps_its_mode_when_it_is_resumed(listed):
    listed.change(network="none")
    assert listed.server.delete(listed.path).status == 204
    answer = listed.server.post(f"{listed.path}/resume")
    assert answer.json["network"]["mode"] == "none"
    assert listed.cards() == ["lo"]


@pytest.mark.parametrize("form", ["{}", "::ffff:{}"])
def test_a_private_network_that_is_opened_opens_neither_this_host_nor_its_containers(bed, listed, form):
    """As with `10.0.0.0/8` for the machines of a company: the bridge of Incus is in it, and all containers."""
    here = bridge_address(bed)
    neighbour = here.rpartition(".")[0] + ".77"
    listed.hosts.write_text(f"{HOSTS}{form.format(here)} here.example\n{form.format(neighbour)} near.example\n")
    file = listed.server.home / ".config/clincus/config.toml"
    before = file.read_text()
    file.write_text(before.replace('reachable = ["', f'reachable = ["{here.partition(".")[0]}.0.0.0/8", "'))
    assert file.read_text() != before
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


def test_a_flood_of_look_ups_in_one_session_keeps_no_other_from_its_names(bed, box, keep_session):
    """Eight threads looked names up for all sessions, and the owner of a domain decides how long each takes."""
    made = keep_session(box.server, tool="shell", network="allow-list", allow=["*.slow.example"], presets=[])
    with silent_nameserver() as names:
        bed.shell(made["id"], f"setsid perl -e '{FLOOD}' </dev/null >/dev/null 2>&1 &")
        asked = names.recv(512)
        assert b"\x04slow\x07example" in asked
        for _ in range(10):
            assert "refs/heads/main" in box.fetch()
    bed.stop(made["id"])


def test_nothing_passes_without_incus_own_proxy(listed):
    """It comes back with the device, such as by a change of the mode."""
    found = subprocess.run(["pgrep", "-f", f"forkproxy -- .*{listed.id}.sock"], stdout=subprocess.PIPE, check=True)
    for pid in found.stdout.split():  # that of the device of before may be on its way out
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: listed.ask(tunnel("registry.example:443")) == "", "the end of the way out")
    assert listed.cards() == ["lo"]
    listed.change(network="none")
    listed.change(network="allow-list")
    assert "refs/heads/main" in listed.fetch()


def test_nothing_passes_without_a_server_and_the_next_one_knows_all(listed, start_with_names):
    holder = open_tunnel(listed)
    listed.server.kill()
    holder.wait(DEADLINE)
    assert listed.ask(tunnel("registry.example:443")) == ""
    listed.server, _ = start_with_names()
    wait_until(lambda: "refs/heads/main" in listed.fetch(), "the way out")
    assert listed.network()["allow"] == listed.allow
