"""A container that Docker runs in a session: it gets placeholders, the proxy and the session's authority."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest
from login_box import ADDRESS, Asked, Box, Vendor, lending_server, put_secret, vendor_context, vendor_of

from tests.more_tools import tool_folder
from tests.programs import DEADLINE, wait_until

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


# It needs no bridge: containers that Docker puts on one do not reach the proxy at 127.0.0.1.
START = "setsid dockerd --bridge=none --iptables=false --ip6tables=false </dev/null >/tmp/dockerd.log 2>&1 &"
IS_THERE = "docker version >/dev/null 2>&1 && echo yes || tail -n 5 /tmp/dockerd.log"
# An image of nothing but curl. Nobody has told it of the authority.
IMAGE = """cd /opt/tools/curl && mkdir -p /tmp/image/lib64 /tmp/image/tmp && cp -a program lib /tmp/image/
cp -L /lib64/ld-linux-x86-64.so.2 /tmp/image/lib64/
for name in libc libm libdl librt libpthread libresolv; do cp -L /lib/x86_64-linux-gnu/$name.so.* /tmp/image/lib/; done
tar -C /tmp/image -c . | docker import - curl
"""
# What docs/configuration.md says.
RUN = "run --rm --network host -e LD_LIBRARY_PATH=/lib"
PROXY = "-e HTTPS_PROXY"
AUTHORITY = "-v /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro"


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


class Nest(Box):
    """A session with Docker, and an image of curl."""

    here = "export PATH=/opt/tools/docker/bin:$PATH LD_LIBRARY_PATH=/opt/tools/docker/lib\n"

    def prepare(self) -> None:
        """Bring the tools, and start Docker."""
        for tool in ("docker", "curl"):
            unpack = f"mkdir -p /opt/tools/{tool} && tar -C /opt/tools/{tool} -x"
            with subprocess.Popen(["tar", "-C", tool_folder(tool), "-c", "."], stdout=subprocess.PIPE) as packing:
                assert packing.stdout
                pieces = iter(functools.partial(packing.stdout.read, 1 << 20), b"")
                done = self.bed.incus.exec(self.id, ["sh", "-c", unpack], stdin=pieces, user=0, timeout=2 * DEADLINE)
            assert done.code == 0, done.reason
        self.shell(CGROUPS + self.here + START, 0)
        wait_until(lambda: self.shell(self.here + IS_THERE, 0) == "yes\n", "Docker")
        self.shell(self.here + IMAGE, 0)

    def curl(self, *words: str, of_curl: str = "") -> str:
        """What curl says in a container that is run with some words. It asks with the placeholder."""
        ask = f'/program -sS -i {of_curl} https://{API}/ -H "X-Api-Key: $ANTHROPIC_API_KEY"'
        return self.shell(f"{self.here}docker {RUN} {' '.join(words)} curl {ask} 2>&1 || true", 0)


def test_a_nested_container_uses_a_placeholder_as_the_manual_says_and_gets_nothing_else(
    bed, start_server, workspace, tmp_path
):
    with vendor_of(tmp_path, (API,), Strict) as vendor:
        server = lending_server(start_server, vendor, CONFIG)
        put_secret(server.home / "anthropic-key", KEY)
        session = server.create(workspace, tool="shell", mode="clone")
        assert session["protection"] == "locked"
        nest = Nest(bed, server, session["id"])
        nest.prepare()
        said = nest.curl(PROXY, AUTHORITY)
        assert ("HTTP/1.1 200" in said, '"x-api-key": "' + "*" * len(KEY) in said) == (True, True), said
        assert vendor.heads[-1]["x-api-key"] == KEY
        before = len(vendor.heads)
        assert "certificate" in nest.curl(PROXY), "nobody has told it of the authority"
        # One that is not told of the proxy finds a server by itself, on the bridge, and trusts whoever answers there.
        address = bed.ask(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
        near = Vendor(vendor_context(vendor.folder), address, Strict)
        said = nest.curl(of_curl=f"-k --resolve {API}:443:{address}")
        near.close()
        assert "HTTP/1.1 401" in said, said
        assert [head["x-api-key"] for head in near.heads[-1:]] == [nest.variable("ANTHROPIC_API_KEY")]
        assert len(vendor.heads) == before
