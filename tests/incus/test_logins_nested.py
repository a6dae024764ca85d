"""A container that Docker runs in a session: it gets placeholders, the proxy and the session's authority."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from login_box import ADDRESS, Asked, Box, Vendor, vendor_context, vendor_of
from network_box import command_with_hosts

from tests.more_tools import tool_folder
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until

pytestmark = [
    pytest.mark.timeout(1200),  # Docker is fetched
    pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root"),
]
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["anthropic"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
"""
# The image of the tests has an init of few lines: what systemd mounts, and Docker wants, is mounted here.
CGROUPS = """if ! grep -q ' cgroup' /proc/self/mountinfo; then
    mkdir -p /sys/fs/cgroup; mount -t tmpfs cgroup /sys/fs/cgroup
    awk -F: '$2 != "" { print $2 }' /proc/self/cgroup | while read -r names; do
        mkdir -p "/sys/fs/cgroup/$names"
        mount -t cgroup -o "$names" cgroup "/sys/fs/cgroup/$names" || echo "no $names"
    done
    grep -q ' cgroup ' /proc/self/mountinfo || { umount /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup; }
fi >/tmp/cgroups.log 2>&1
"""


class Engine(NamedTuple):
    """A program that runs containers."""

    start: str
    is_there: str  # prints `yes`
    words: str = ""  # of a container that gets no variable without being told to


ENGINES = {
    # It needs no bridge: containers that Docker puts on one do not reach the proxy at 127.0.0.1.
    "docker": Engine(
        "setsid dockerd --bridge=none --iptables=false --ip6tables=false </dev/null >/tmp/dockerd.log 2>&1 &",
        "docker version >/dev/null 2>&1 && echo yes || tail -n 5 /tmp/dockerd.log",
    ),
}
# An image of nothing but curl. Nobody has told it of the authority.
IMAGE = """cd /opt/tools/curl && mkdir -p /tmp/image/lib64 /tmp/image/tmp && cp -a program lib /tmp/image/
cp -L /lib64/ld-linux-x86-64.so.2 /tmp/image/lib64/
for name in libc libm libdl librt libpthread libresolv; do cp -L /lib/x86_64-linux-gnu/$name.so.* /tmp/image/lib/; done
tar -C /tmp/image -c . | %s import - curl
"""
# What docs/configuration.md says.
RUN = "run --rm --network host -e LD_LIBRARY_PATH=/lib"
PROXY = "-e HTTPS_PROXY"
AUTHORITY = "-v /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro"
# The program, and the session: with a mounted folder it has to allow that, a clone does so by itself.
PLACES = [("docker", {"nesting": True}), ("docker", {"mode": "clone"})]


class Strict(Asked):
    """Answers nobody who comes without the value."""

    def do_GET(self) -> None:
        if self.headers["X-Api-Key"] == KEY:
            super().do_GET()
            return
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Vendor]:
    with vendor_of(tmp_path_factory.mktemp("vendors"), (API,), Strict) as made:
        yield made


@pytest.fixture(scope="module")
def near(bed, vendor) -> Iterator[Vendor]:
    """The same on the bridge, where a container reaches it without the proxy."""
    address = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
    made = Vendor(vendor_context(vendor.folder), address, Strict)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG,
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    key = started.home / "anthropic-key"
    key.write_text(KEY)
    key.chmod(0o600)
    return started


class Nest(Box):
    """A session with a program that runs containers."""

    def __init__(self, name: str, bed: Any, server: Server, fields: dict[str, Any]) -> None:
        super().__init__(bed, server, fields["id"])
        self.name = name
        for tool in (name, "curl"):
            self.bring(tool)
        self.here = f"export PATH=/opt/tools/{name}/bin:$PATH LD_LIBRARY_PATH=/opt/tools/{name}/lib\n"
        engine = ENGINES[name]
        self.shell(CGROUPS + self.here + engine.start, 0)
        wait_until(lambda: self.shell(self.here + engine.is_there, 0) == "yes\n", name)
        self.shell(self.here + IMAGE % name, 0)

    def bring(self, tool: str) -> None:
        """Copy a tool into it: a clone with a mount allows no nested containers."""
        unpack = f"mkdir -p /opt/tools/{tool} && tar -C /opt/tools/{tool} -x"
        with subprocess.Popen(["tar", "-C", tool_folder(tool), "-c", "."], stdout=subprocess.PIPE) as packing:
            assert packing.stdout
            pieces = iter(functools.partial(packing.stdout.read, 1 << 20), b"")
            done = self.bed.incus.exec(self.id, ["sh", "-c", unpack], stdin=pieces, user=0, timeout=2 * DEADLINE)
        assert done.code == 0, done.reason

    def curl(self, *words: str, of_curl: str = "") -> str:
        """What curl says in a container that is run with some words. It asks with the placeholder."""
        ask = f'/program -sS -i {of_curl} https://{API}/ -H "X-Api-Key: $ANTHROPIC_API_KEY"'
        words = (self.name, RUN, ENGINES[self.name].words, *words, "curl")
        return self.shell(f"{self.here}{' '.join(words)} {ask} 2>&1 || true", 0)


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: f"{place[0]} {place[1].get('mode', 'mount')}")
def nest(request, bed, server, keep_session) -> Nest:
    name, fields = request.param
    return Nest(name, bed, server, keep_session(server, tool="shell", folder=f"{name}-{'-'.join(fields)}", **fields))


def test_a_nested_container_uses_a_placeholder_as_the_manual_says(nest, vendor):
    said = nest.curl(PROXY, AUTHORITY)
    assert "HTTP/1.1 200" in said, said
    assert '"x-api-key": "' + "*" * len(KEY) in said, said
    assert vendor.heads[-1]["x-api-key"] == KEY


def test_one_that_nobody_has_told_of_the_authority_gets_nothing(nest, vendor):
    before = len(vendor.heads)
    assert "certificate" in nest.curl(PROXY)
    assert len(vendor.heads) == before


def test_one_that_nobody_has_told_of_the_proxy_gets_401_for_its_placeholder(nest, vendor, near):
    """It finds the server by itself, and trusts whoever answers there."""
    before = len(vendor.heads)
    said = nest.curl(of_curl=f"-k --resolve {API}:443:{near.server_address[0]}")
    assert "HTTP/1.1 401" in said, said
    assert len(vendor.heads) == before
    placeholder = nest.variable("ANTHROPIC_API_KEY")
    assert [head["x-api-key"] for head in near.heads[-1:]] == [placeholder]


def test_containers_run_in_a_clone_that_stays_locked(nest, server):
    session = server.get(f"/api/sessions/{nest.id}").json
    assert session["protection"] == ("locked" if session["mode"] == "clone" else "basic")
