"""A session on an engine borrows a login: the value stays on this host, and the engine never has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from login_box import ADDRESS, SEARCH, Box, Vendor, vendor_of
from network_box import command_with_hosts

import clincus
from clincus_features.logins.authority import memory_folder
from clincus_features.logins.loans import run_name
from tests.conftest import new_workspace
from tests.engines_bed import Engine, far_daemon, host_incus
from tests.incus_bed import processes_with
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["anthropic"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
[engines.far]
roots = ["%s"]
"""
LARGEST = 1 << 28  # bytes of a file, and of a part of a process's memory, that are looked at


@pytest.fixture(scope="module")
def far(bed) -> Iterator[Engine]:
    with far_daemon(bed) as made:
        yield made


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Vendor]:
    with vendor_of(tmp_path_factory.mktemp("vendors"), (API,)) as made:
        yield made


@pytest.fixture(scope="module")
def server(start_shared, far, vendor, tmp_path_factory) -> Server:
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG % tmp_path_factory.getbasetemp(),
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={**far.environ, "SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    key = started.home / "anthropic-key"
    key.write_text(KEY)
    key.chmod(0o600)
    return started


class FarBed:
    """What a box asks of a bed, at the engine."""

    def __init__(self, far: Engine) -> None:
        self.incus = host_incus(far.remote)
        self.incus.environ = {**os.environ, **far.environ}

    def shell(self, id: str, script: str, user: int = 1000) -> str:
        """What a script in a container prints."""
        done = self.incus.exec(id, ["sh", "-c", script], user=user, timeout=DEADLINE)
        assert done.code == 0, done.reason
        return done.stdout.decode()


@pytest.fixture(scope="module")
def box(far, server, tmp_path_factory) -> Box:
    folder = new_workspace(tmp_path_factory.mktemp("there") / "project")
    session = server.create(folder, engine="far", mode="mount", tool="shell")
    far.kept.add(clincus.instance_name(session["id"]))
    return Box(FarBed(far), server, session["id"])


def certificates(far: Engine, box: Box) -> Path:
    """The file with the session's certificates, on this host."""
    label = far.query(f"/1.0/instances/{clincus.instance_name(box.id)}")["config"]["user.clincus.logins"]
    return Path(memory_folder(os.geteuid())) / f"{run_name(box.id, label)}.pem"


def holders(far: Engine, text: str) -> list[str]:
    """Where the daemon of the engine has a text: in memory of its processes, and in its files."""
    (daemon,) = far.daemons
    wanted, found = text.encode(), []
    for pid in processes_with(f"INCUS_DIR={daemon.folder}"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found += [f"memory of {pid}"] if is_in_memory(pid, wanted) else []
    for path in daemon.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # of a container, or of a database that tidies up
            is_small = path.is_file() and not path.is_symlink() and path.stat().st_size < LARGEST
            found += [str(path.relative_to(daemon.folder))] if is_small and wanted in path.read_bytes() else []
    return found


def is_in_memory(pid: int, wanted: bytes) -> bool:
    """Whether a process has bytes in its memory."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights = line.split()[:2]
            start, end = (int(one, 16) for one in bounds.split("-"))
            if rights[0] == "r" and end - start < LARGEST:
                try:
                    memory.seek(start)
                    if wanted in memory.read(end - start):
                        return True
                except (OSError, OverflowError):  # such as [vvar]
                    continue
    return False


def test_a_session_on_an_engine_borrows(box, vendor):
    placeholder = box.variable("ANTHROPIC_API_KEY")
    answer = box.ask(API, f"X-Api-Key: {placeholder}")
    assert vendor.heads[-1]["x-api-key"] == KEY
    assert '"x-api-key": "' + "*" * len(KEY) in answer, answer


def test_the_engine_never_has_the_value_nor_a_key(box, far):
    """After it was used, in the container, and in memory and files of the engine's daemon."""
    placeholder = box.variable("ANTHROPIC_API_KEY")
    box.ask(API, f"X-Api-Key: {placeholder}")
    key = certificates(far, box).read_text().partition("-----BEGIN PRIVATE KEY-----\n")[2].splitlines()[0]
    for secret in (KEY, key):
        assert holders(far, secret) == []
        done = box.bed.incus.exec(box.id, ["perl", "-e", SEARCH, secret[::-1].encode().hex()], user=0, timeout=DEADLINE)
        assert done.stdout.decode().splitlines() == ["searched"]
    found = holders(far, placeholder)
    assert [one for one in found if one.startswith("memory")], "what is there is found"
    assert [one for one in found if not one.startswith("memory")]


def test_a_revoke_holds_there_too(box, server, vendor):
    field = f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}"
    server.post("/api/logins/anthropic/revoke")
    before = len(vendor.heads)
    assert "it is revoked" in box.ask(API, field)
    assert len(vendor.heads) == before
    server.delete("/api/logins/anthropic/revoke")
    box.ask(API, field)
    assert vendor.heads[-1]["x-api-key"] == KEY


def test_a_session_there_that_is_deleted_leaves_no_certificates(box, far, server):
    file = certificates(far, box)
    assert file.exists()
    assert server.delete(f"/api/sessions/{box.id}?force=true").status == 204
    wait_until(lambda: not file.exists(), "the end of the certificates")
