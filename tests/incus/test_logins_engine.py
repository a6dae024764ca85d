"""A session on an engine borrows a login: the value stays on this host, and the engine never has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from login_box import ADDRESS, Box, Vendor, lending_server, put_secret, vendor_of

import clincus
from clincus_features.logins.authority import memory_folder
from clincus_features.logins.loans import run_name
from tests.engines_bed import Engine, far_daemon, host_incus
from tests.incus_bed import processes_with
from tests.programs import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
LARGEST = 1 << 28  # bytes of a file, and of a part of a process's memory, that are looked at
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["anthropic"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
[engines.far]
roots = ["%s"]
"""


@pytest.fixture
def far(bed) -> Iterator[Engine]:
    with far_daemon(bed) as made:
        yield made


@pytest.fixture
def vendor(tmp_path) -> Iterator[Vendor]:
    with vendor_of(tmp_path, (API,)) as made:
        yield made


def holders(far: Engine, text: str) -> set[str]:
    """Where the daemon of the engine has a text: in memory of its processes, and in its files."""
    (daemon,) = far.daemons
    wanted, found = text.encode(), set()
    for pid in processes_with(f"INCUS_DIR={daemon.folder}"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found |= {"memory"} if is_in_memory(pid, wanted) else set()
    for path in daemon.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # of a container, or of a database that tidies up
            is_small = path.is_file() and not path.is_symlink() and path.stat().st_size < LARGEST
            found |= {"file"} if is_small and wanted in path.read_bytes() else set()
    return found


def is_in_memory(pid: int, wanted: bytes) -> bool:
    """Whether a process has bytes in its memory."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights = line.split()[:2]
            start, end = (int(one, 16) for one in bounds.split("-"))
            if rights[0] == "r" and end - start < LARGEST:
                with contextlib.suppress(OSError, OverflowError):  # such as [vvar]
                    memory.seek(start)
                    if wanted in memory.read(end - start):
                        return True
    return False


def test_an_engine_where_a_session_borrows_never_has_the_value_nor_a_key(start_server, far, vendor, workspace):
    server = lending_server(start_server, vendor, CONFIG % workspace.parent, **far.environ)
    put_secret(server.home / "anthropic-key", KEY)
    session = server.create(workspace, engine="far", mode="mount", tool="shell")
    path, name = f"/api/sessions/{session['id']}", clincus.instance_name(session["id"])
    incus = host_incus(far.remote)
    incus.environ = {**os.environ, **far.environ}
    shell = lambda id, script, user=1000: far.exec(id, ["sh", "-c", script], user=user)  # noqa: E731
    box = Box(SimpleNamespace(incus=incus, shell=shell), server, session["id"])
    placeholder = box.variable("ANTHROPIC_API_KEY")
    answer = box.ask(API, f"X-Api-Key: {placeholder}")
    assert vendor.heads[-1]["x-api-key"] == KEY
    assert '"x-api-key": "' + "*" * len(KEY) in answer, answer

    label = far.query(f"/1.0/instances/{name}")["config"]["user.clincus.logins"]
    certificates = Path(memory_folder(os.geteuid())) / f"{run_name(session['id'], label)}.pem"
    key = certificates.read_text().partition("-----BEGIN PRIVATE KEY-----\n")[2].splitlines()[0]
    for secret in (KEY, key):
        assert holders(far, secret) == set()
        assert box.holders(secret) == []
    assert holders(far, placeholder) == {"memory", "file"}, "what is there is found"

    server.post("/api/logins/anthropic/revoke")
    before = len(vendor.heads)
    assert "it is revoked" in box.ask(API, f"X-Api-Key: {placeholder}")
    assert len(vendor.heads) == before
    assert server.delete(f"{path}?force=true").status == 204
    wait_until(lambda: not certificates.exists(), "the end of the certificates")
