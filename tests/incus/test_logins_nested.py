"""A container that Docker runs within a session: it gets placeholders, the proxy and the session's authority."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from login_box import ADDRESS, Box, Vendor, vendor_context, write_certificates
from network_box import command_with_hosts

from tests.more_tools import mounts
from tests.programs import NO_CHECKPOINTS, Server, wait_until

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(1200),  # Docker is fetched
    pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root"),
]
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[security]
nesting = true
[defaults]
logins = ["anthropic"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
"""
HERE = "export PATH=/opt/tools/docker/bin:$PATH LD_LIBRARY_PATH=/opt/tools/docker/lib"
# It needs no bridge: containers that Docker puts on one do not reach the proxy at 127.0.0.1.
# The image of the tests has an init of few lines: what systemd mounts, and runc wants, is mounted here.
START = f"""{HERE}
if ! grep -q ' cgroup' /proc/self/mountinfo; then
    mkdir -p /sys/fs/cgroup; mount -t tmpfs cgroup /sys/fs/cgroup
    awk -F: '$2 != "" {{ print $2 }}' /proc/self/cgroup | while read -r names; do
        mkdir -p "/sys/fs/cgroup/$names"
        mount -t cgroup -o "$names" cgroup "/sys/fs/cgroup/$names" || echo "no $names"
    done
    grep -q ' cgroup ' /proc/self/mountinfo || {{ umount /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup; }}
fi >/tmp/cgroups.log 2>&1
setsid dockerd --bridge=none --iptables=false --ip6tables=false </dev/null >/tmp/dockerd.log 2>&1 &
"""
# An image of nothing but curl. Nobody has told it of the authority.
IMAGE = f"""{HERE}
cd /opt/tools/curl && mkdir -p /tmp/image/lib64 /tmp/image/tmp && cp -a program lib /tmp/image/
cp -L /lib64/ld-linux-x86-64.so.2 /tmp/image/lib64/
for name in libc libm libdl librt libpthread libresolv; do cp -L /lib/x86_64-linux-gnu/$name.so.* /tmp/image/lib/; done
tar -C /tmp/image -c . | docker import - curl
"""
ASK = f"""{HERE}
%s curl /program -sS https://{API}/ -H "X-Api-Key: $ANTHROPIC_API_KEY" 2>&1 || true
"""
# What docs/configuration.md says.
RUN = """docker run --rm --network host -e HTTPS_PROXY -e LD_LIBRARY_PATH=/lib \
    -v /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro"""


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Any]:
    folder = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(folder, (API,), ADDRESS)
    made: Any = Vendor(vendor_context(folder), ADDRESS)
    made.folder = folder
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    tools = "".join(mounts(name, f"/opt/tools/{name}") for name in ("docker", "curl"))
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG + tools,
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    key = started.home / "anthropic-key"
    key.write_text(KEY)
    key.chmod(0o600)
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session) -> Box:
    made = Box(bed, server, keep_session(server, tool="shell", folder="one")["id"])
    made.shell(START, 0)
    is_there = f"{HERE}; docker version >/dev/null 2>&1 && echo yes || tail -n 5 /tmp/dockerd.log"
    wait_until(lambda: made.shell(is_there, 0) == "yes\n", "Docker")
    made.shell(IMAGE, 0)
    return made


def test_a_nested_container_uses_a_placeholder_as_the_manual_says(box, vendor):
    said = box.shell(ASK % RUN, 0)
    assert '"x-api-key": "' + "*" * len(KEY) in said, said
    assert vendor.heads[-1]["x-api-key"] == KEY


def test_one_that_nobody_has_told_of_the_authority_gets_nothing(box, vendor):
    before = len(vendor.heads)
    said = box.shell(ASK % RUN.partition(" -v")[0], 0)
    assert "certificate" in said
    assert len(vendor.heads) == before
