"""Engines for the tests: Incus daemons of our own that are reached over HTTPS, on loopback addresses only.

    far_daemon(bed)    one daemon, as the remote `far`
    cluster(bed)       three daemons, or more or fewer, as one cluster: the remote `cl` with the members m1, m2 and m3

Both need root. Each daemon has its own INCUS_DIR and its own address in 127.0.0.0/8, and no network: a bridge would be
shared with the bed's, as all stand in one network namespace. Afterwards nothing of them is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clincus
from clincus_cli import host as cli_host
from clincus_cli import setup as cli_setup
from tests.faults_bed import stopped
from tests.incus_bed import (
    NO_INTERNET,
    OFFLINE,
    Bed,
    clear_leftovers,
    mounts_below,
    processes_with,
    remove_tree,
    start_after_panic,
)
from tests.incus_bed import unavailable as unavailable_incus
from tests.programs import DEADLINE

QUIET = {"core.proxy_http": NO_INTERNET, "core.proxy_https": NO_INTERNET, "images.auto_update_interval": "0"}
PLAIN_POOL = {"name": "default", "driver": "dir"}
ROOT_DISK = {"name": "default", "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}}


@dataclass
class Daemon:
    """An Incus daemon that listens on a loopback address."""

    folder: Path  # INCUS_DIR
    address: str  # with the port
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        log = self.folder.with_suffix(".log")
        self.process = cli_setup.start_incusd(cli_host.Host(), self.folder, log, group="root", env=OFFLINE)

    def incus(self, *words: str, stdin: str = "") -> str:
        """Run `incus WORDS` on its own socket, as its administrator would; the output."""
        return run_incus({"INCUS_DIR": str(self.folder)}, *words, stdin=stdin)

    def token(self, *options: str, name: str = "tests") -> str:
        """A new token with which a client is trusted."""
        return self.incus("config", "trust", "add", "--quiet", name, *options).split()[-1]

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Let it hang: it accepts connections and answers none."""
        assert self.process is not None
        with stopped(self.process):
            yield
        start_after_panic(self.process, self.folder.with_suffix(".log"), self.start)

    def kill(self) -> None:
        """End it at once, as a power failure would; its containers run on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=DEADLINE)


def run_incus(environ: Mapping[str, str], *words: str, stdin: str = "", timeout: float = 120) -> str:
    """Run `incus WORDS` with some variables; the output."""
    done = subprocess.run(
        ["incus", *words], env={**os.environ, **environ}, input=stdin, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"incus {words}: {done.stderr}"
    return done.stdout


@dataclass
class Engine:
    """A remote of the tests: its daemons, and what a program needs to reach it."""

    remote: str
    folder: Path
    daemons: list[Daemon] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)  # the names of the instances that outlive a test

    @property
    def environ(self) -> dict[str, str]:
        """For a program that is to reach it: the configuration of the `incus` command."""
        return {"INCUS_CONF": str(self.folder / "client")}

    def incus(self, *words: str, timeout: float = 120) -> str:
        """Run `incus WORDS` as a client of this remote; the output."""
        return run_incus(self.environ, *words, timeout=timeout)

    def exec(self, id: str, command: Sequence[str], stdin: bytes = b"", user: int = 1000) -> str:
        """Run a command in an instance by the server's own door, which runs it again if Incus loses it; the output."""
        door = host_incus(self.remote)
        door.environ = {**os.environ, **self.environ}
        return door.exec(id, command, stdin=stdin, user=user).stdout.decode()

    def query(self, path: str) -> Any:
        """What its API answers."""
        return json.loads(self.incus("query", f"{self.remote}:{path}"))

    def names(self) -> set[str]:
        """The instances there are now, without those that are kept."""
        return {path.rpartition("/")[2] for path in self.query("/1.0/instances")} - self.kept

    def delete_all(self) -> None:
        """Remove every instance, running or not, that is not kept."""
        for name in self.names():
            with contextlib.suppress(AssertionError):
                self.incus("delete", "--force", f"{self.remote}:{name}")


def loopback(number: int) -> str:
    """An address of our own: parallel runs have other ones."""
    pid = os.getpid()
    return f"127.{1 + pid // 240 % 240}.{1 + pid % 240}.{number}:8443"


@contextlib.contextmanager
def engine(bed: Bed, remote: str) -> Iterator[Engine]:
    """A folder for the daemons of a remote, all of whom are ended afterwards."""
    if os.geteuid() != 0 or bed.folder is None:
        unavailable_incus("a second daemon needs root")
    clear_leftovers()
    folder = Path(tempfile.mkdtemp(prefix="clincus-test-", dir="/var/lib"))
    folder.chmod(0o711)
    (folder / "test.pid").write_text(str(os.getpid()))
    (folder / "client").mkdir()
    made = Engine(remote, folder)
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            made.kept.clear()
            made.delete_all()
        for pid in processes_with(f"INCUS_DIR={folder}"):  # the last members of a cluster have no quorum to end well
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in made.daemons:
            if daemon.process is not None:
                daemon.process.wait(timeout=DEADLINE)
        remove_tree(folder)
    left = [*mounts_below(folder), *processes_with(f"INCUS_DIR={folder}")]
    assert left == [], f"the engine left something behind: {left}"


def join(made: Engine, bed: Bed) -> None:
    """Let this run's client be trusted, and give the engine the image of the bed."""
    made.incus("remote", "add", made.remote, made.daemons[0].token())
    archive = made.folder / "image"
    if not archive.exists():
        bed.incus.run("image", "export", "clincus", str(archive), timeout=120)
    parts = sorted(map(str, made.folder.glob("image*")), key=lambda path: ".root" in path)
    made.incus("image", "import", *parts, f"{made.remote}:", "--alias", "clincus")


def init(daemon: Daemon, **document: object) -> None:
    """`incus admin init` with a document."""
    daemon.incus("admin", "init", "--preseed", stdin=json.dumps({**document, "profiles": [ROOT_DISK]}))


def pool_like(bed: Bed) -> dict[str, Any]:
    """A storage pool as the bed's: how it copies an image is most of a create."""
    driver = bed.incus.query("/1.0/storage-pools?recursion=1")[0]["driver"]
    return {"name": "default", "driver": driver, **({"config": {"size": "5GiB"}} if driver != "dir" else {})}


@contextlib.contextmanager
def far_daemon(bed: Bed) -> Iterator[Engine]:
    """One more daemon, as a remote over HTTPS."""
    with engine(bed, "far") as made:
        daemon = Daemon(made.folder / "far", loopback(1))
        made.daemons.append(daemon)
        daemon.start()
        init(daemon, config={"core.https_address": daemon.address, **QUIET}, storage_pools=[pool_like(bed)])
        join(made, bed)
        yield made


@contextlib.contextmanager
def cluster(bed: Bed, members: int = 3) -> Iterator[Engine]:
    """A cluster; the client knows the first member's address."""
    with engine(bed, "cl") as made:
        for number in range(1, members + 1):
            made.daemons.append(Daemon(made.folder / f"m{number}", loopback(10 + number)))
            made.daemons[-1].start()
        first, *others = made.daemons
        enabled = {"enabled": True, "server_name": "m1"}
        init(first, config={"core.https_address": first.address}, cluster=enabled, storage_pools=[PLAIN_POOL])
        for daemon in others:
            joining = {
                "enabled": True,
                "server_name": daemon.folder.name,
                "server_address": daemon.address,
                "cluster_token": first.incus("cluster", "add", "--quiet", daemon.folder.name).split()[-1],
                "member_config": [{"entity": "storage-pool", "name": "default", "key": "source", "value": ""}],
            }
            daemon.incus("admin", "init", "--preseed", stdin=json.dumps({"cluster": joining}))
        settings = {"cluster.offline_threshold": "11", **QUIET}
        first.incus("config", "set", *(f"{key}={value}" for key, value in settings.items()))
        join(made, bed)
        yield made


def host_incus(remote: str) -> clincus.Incus:
    """The door to a remote, as the server has it."""
    return clincus.Incus(engine=remote, remote=remote)
