"""The Incus of a test run: a daemon of our own, or a project of our own in the one that is there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_cli import build as cli_build
from clincus_cli import host as cli_host
from clincus_cli import recipe as cli_recipe
from clincus_cli import relay as cli_relay
from clincus_cli import setup as cli_setup
from tests import incus_api
from tests.programs import DEADLINE, LAST_WORDS, ROOT, wait_until

NO_INTERNET = "http://127.0.0.1:9"  # a proxy that is not there: the daemon would else ask for its image servers


OFFLINE = {"HTTP_PROXY": NO_INTERNET, "HTTPS_PROXY": NO_INTERNET, "http_proxy": NO_INTERNET}


STUB_PACKAGES = ("busybox-static", "ca-certificates", "git", "iproute2", "less", "procps", "sudo", "tmux")


def stub_recipe() -> cli_recipe.Recipe:
    """The image of the tests: the standard one with few packages, and stand-ins for the tools."""
    stub = (ROOT / "tests" / "image" / "tool-stub").read_bytes()
    standard = cli_recipe.host_recipe(cli_host.Host(), {}, tools=(), user="code", uid=1000)
    files = tuple(cli_recipe.ImageFile(f"/usr/local/bin/{name}", stub, 0o755) for name in cli_recipe.TOOL_PACKAGES)
    return cli_recipe.Recipe(
        standard.distribution, standard.suite, packages=STUB_PACKAGES, tools=(), files=files, mirrors=standard.mirrors
    )


def image_cache() -> Path:
    """Where built images are kept between runs: per user, readable by nobody else."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "clincus" / "tests"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


# What Claude Code's screen ends with while it works, and while it waits for a prompt.
BORDER = "─" * 40
CLAUDE_WORKS = [BORDER, "❯ ", BORDER, "  ⏵⏵ bypass permissions on · esc to interrupt"]
CLAUDE_RESTS = [BORDER, "❯ ", BORDER, "  ⏵⏵ bypass permissions on"]


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Take a container for stopped that stops by itself just before Incus stops it hard.

    Incus forbids it new processes first. Our process 1 ends by that if it is still at its own start.
    """
    try:
        yield
    except clincus.IncusError as error:
        if "container is not running" not in error.message:
            raise


@dataclass
class Bed:
    """The Incus that this run uses."""

    incus: clincus.Incus
    environ: dict[str, str] = field(default_factory=dict)  # for programs that are to reach it
    config: str = ""  # TOML that every configuration needs: the table `incus`, if any
    folder: Path | None = None  # INCUS_DIR of the daemon of our own
    bridge: str = ""
    daemon: subprocess.Popen[bytes] | None = None
    kept: set[str] = field(default_factory=set)  # the instances that outlive a test

    def ask(self, path: str, method: str = "GET", data: object = None) -> Any:
        """The same as `incus.query` with `wait`, but without a program where the daemon is our own."""
        if self.folder is None:
            return self.incus.query(path, method, data, wait=method != "GET")
        return incus_api.ask(self.folder / "unix.socket", method, path, data)

    def last_words(self) -> str:
        """The end of the daemon's log, and how it ended if it did; empty for an Incus that is not our own."""
        if self.folder is None or self.daemon is None:
            return ""
        log = self.folder / "logs" / "incusd.log"
        words = log.read_text("utf-8", "replace")[-LAST_WORDS:] if log.exists() else ""
        code = self.daemon.poll()
        return words if code is None else f"{words}\nThe daemon has ended with {code}."

    def names(self) -> list[str]:
        """The instances there are now."""
        return sorted(str(instance["name"]) for instance in self.ask("/1.0/instances?recursion=1") or ())

    def state(self, name: str) -> str:
        """Incus's word for the state of an instance: Running, Stopped, Frozen …; empty when there is none."""
        try:
            return str(self.ask(f"/1.0/instances/{name}")["status"])
        except clincus.IncusError as error:
            if error.status != 404:
                raise
            return ""

    def shell(self, name: str, script: str, user: int = 1000) -> str:
        """Run a shell script in an instance, as the code user unless told otherwise; its output."""
        own = {"HOME": "/home/code"}
        done = self.incus.exec(name, ["sh", "-c", script], user=user, environment=own, timeout=DEADLINE)
        assert done.code == 0, f"{script!r} ended with {done.code}: {done.reason}"
        return done.stdout.decode()

    def attack(self, name: str, script: str, user: int = 1000) -> None:
        """Have a shell script begin in an instance that it may freeze: then it ends no sooner than the freeze does."""

        def run() -> None:
            with contextlib.suppress(clincus.IncusError):
                done = self.incus.exec(name, ["sh", "-ec", script], user=user)
                print(f"{script!r} ended with {done.code}: {done.reason}")

        threading.Thread(target=run, daemon=True).start()

    def stop(self, name: str) -> None:
        """Stop an instance hard, as by the incus command; once more, if it still runs after the first one."""
        with stopping():
            try:
                self.incus.run("stop", "--force", name)
            except clincus.IncusError as error:
                if error.kind is not clincus.FailureKind.STILL_RUNS:
                    raise
                self.incus.run("stop", "--force", name)

    def restart_instance(self, name: str) -> None:
        """Stop an instance hard, and start it again, as by the incus command."""
        with stopping():
            self.incus.run("restart", "--force", name)
            return
        self.incus.run("start", name)

    def wait_for_init(self, name: str) -> None:
        """Wait until process 1 has started: before, it does not heed a clean stop, and a hard one may fail."""
        self.shell(name, "until pgrep -P 1 -x sleep >/dev/null; do sleep 0.05; done")

    def screen(self, name: str) -> str:
        """What the tmux session of an instance shows now."""
        return self.shell(name, "tmux capture-pane -p -J -t $(tmux list-sessions -F '#{session_name}' | head -1)")

    def await_screen(self, name: str, words: str, *, type: str = "", history: bool = False) -> None:
        """Wait until a session's tool shows words on its screen, or with `history` above it; first type a line.

        The container looks itself: a command for each look would cost more than all that is asked for.
        """
        target = f"-t =clincus-{name}:"
        keys = f"tmux send-keys {target} -l {shlex.quote(type)} \\; send-keys {target} Enter || exit 2" if type else ":"
        shown = f"tmux capture-pane -p -J {'-S - ' * history}{target} 2>/dev/null"
        look = f"{shown} | grep -qF -- {shlex.quote(words)} && exit"
        script = f"{keys}; for n in $(seq {DEADLINE * 10:.0f}); do {look}; sleep 0.1; done; exit 1"
        done = self.incus.exec(name, ["sh", "-c", script], user=1000, timeout=3 * DEADLINE)
        assert done.code == 0, f"waited in vain for {words!r} ({done.code}, {done.reason}):\n{self.screen(name)}"

    def draw(self, name: str, lines: Sequence[str]) -> None:
        """Let the stand-in of a tool draw lines on an empty screen, and ring so that the server looks.

        The command is not echoed, for which the terminal has to be told before it is typed: a look at it, between two
        screens, would see a tool that shows nothing known.
        """
        text = "\\n".join(lines)
        target = f"-t =clincus-{name}:"
        enter = f"\\; send-keys {target} Enter"
        quiet = f'tmux send-keys {target} -l "sh stty -echo; tmux wait-for -S quiet-$$" {enter}'
        drawing = shlex.quote(f"sh printf '\\033[2J\\033[H{text}\\n\\a'")
        wait = "timeout 10 tmux wait-for quiet-$$"  # in vain if the keys were lost: the next step shows that
        self.shell(name, f"{quiet}; {wait}; tmux send-keys {target} -l {drawing} {enter}")

    def has_ended(self) -> bool:
        """Whether a daemon of our own has died."""
        return self.daemon is not None and self.daemon.poll() is not None

    def restart(self) -> None:
        """End the daemon as its service would, with its containers left running, and start it again.

        And again where it came up without its bridge: see `NETWORK_TRIES` in clincus.py for why that may be.
        """
        assert self.daemon is not None
        assert self.folder is not None
        for _ in range(cli_setup.NETWORK_TRIES):
            self.daemon.terminate()
            self.daemon.wait(timeout=DEADLINE)
            self.daemon = cli_setup.start_incusd(
                cli_host.Host(), self.folder, self.folder / "logs" / "incusd.log", group="root", env=OFFLINE
            )
            if self.incus.query(f"/1.0/networks/{self.bridge}")["status"] == "Created":
                return

    @contextlib.contextmanager
    def keeping(self, *names: str) -> Iterator[None]:
        """Keep instances from one test to the next until the end of the block, which deletes them."""
        self.kept.update(names)
        try:
            yield
        finally:
            self.kept.difference_update(names)
            self.delete_all()

    def delete_all(self) -> None:
        """Remove every instance, running or not, that is not kept; again where Incus is still at work on one."""
        if self.folder and self.kept.issuperset(os.listdir(self.folder / "containers")):
            return  # no other of any project: the daemon need not be asked after each test

        def are_gone() -> bool:
            extra = set(self.names()) - self.kept
            for name in extra:
                with contextlib.suppress(clincus.IncusError):  # it does not run
                    self.ask(f"/1.0/instances/{name}/state", "PUT", {"action": "stop", "force": True, "timeout": -1})
                with contextlib.suppress(clincus.IncusError):
                    self.ask(f"/1.0/instances/{name}", "DELETE")
            return not extra or self.kept.issuperset(self.names())

        wait_until(are_gone, "the test's instances to be deleted")


def unavailable(reason: str) -> None:
    """End a test that needs Incus where it cannot be had: skipped for a person, failed in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needs Incus: {reason}", pytrace=False)
    pytest.skip(f"needs Incus: {reason}")


@contextlib.contextmanager
def own_daemon(*, database_in_memory: bool = False) -> Iterator[Bed]:
    """Start a daemon of our own with everything in it, and take it away without a trace.

    It waits for the disk at each step of its database: 3 ms and more, which is what four test workers waited for. A
    measurement leaves it there, as with a person's Incus.
    """
    host = cli_host.Host()
    if not host.which("incusd"):
        unavailable("the daemon is not installed; run `make test`, or `apt-get install incus-base dnsmasq-base`")
    clear_leftovers()
    folder = Path(tempfile.mkdtemp(prefix="clincus-test-", dir="/var/lib"))
    folder.chmod(0o711)
    if database_in_memory:
        (folder / "database").mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "mode=0700,size=512m", "clincus-test", str(folder / "database")]
        subprocess.run(mount, stdin=subprocess.DEVNULL, check=False, capture_output=True)  # else it is on the disk
    bed = Bed(clincus.Incus(), {"INCUS_DIR": str(folder)}, folder=folder, bridge=f"cltest{os.getpid()}"[:15])
    os.environ["INCUS_DIR"] = str(folder)
    try:
        start_daemon(bed, host)
        yield bed
    finally:
        try:
            stop_daemon(bed)
        finally:
            os.environ.pop("INCUS_DIR", None)
            remove_tree(folder)
    left = leftovers(bed)
    assert left == [], f"the test bed left something behind: {left}"


def start_daemon(bed: Bed, host: cli_host.Host) -> None:
    """Start incusd and let the project's own setup do the rest."""
    assert bed.folder is not None
    # Incus's log, were a test to fail: bed.folder / "logs" / "incusd.log".
    bed.daemon = cli_setup.start_incusd(host, bed.folder, bed.folder / "logs" / "incusd.log", group="root", env=OFFLINE)
    (bed.folder / "test.pid").write_text(str(os.getpid()))
    bed.incus.run(
        "config", "set", f"core.proxy_http={NO_INTERNET}", f"core.proxy_https={NO_INTERNET}",
        "images.auto_update_interval=0",
    )  # fmt: skip
    with one_at_a_time():
        run_setup(bed, host, subnet=far_subnet(host))


def far_subnet(host: cli_host.Host) -> str:
    """A free subnet from the far end of the choices: a person's own network that is down is likely at the near one."""
    return cli_setup.free_subnet(cli_setup.taken_subnets(host), cli_setup.SUBNET_CHOICES[::-1]).replace(".0/", ".1/")


def run_setup(bed: Bed, host: cli_host.Host, **options: Any) -> None:
    """Take the setup's steps on the bed's Incus."""
    chosen = cli_build.SetupOptions(
        project=bed.incus.project, bridge=bed.bridge, recipe=stub_recipe(), cache=image_cache(), **options
    )
    setup = cli_setup.Setup(chosen, host, bed.incus, say=lambda text: print(f"setup: {text}"))
    assert setup.run(lambda need: "git config --global" not in need)  # that is of whoever runs the tests


# Incus dies of an exec whose client connects just as the operation ends, as after a hang: `Operation.Connect` releases
# its lock before a goroutine of it calls `onConnect`, which is nil by then (the stack of 6.0.4 names line 451 of
# internal/server/operations/operations.go). Its service would start it again.
CONNECT_PANIC = "operations.(*Operation).Connect.func1("
GO_PANIC = 2  # the exit code of a Go program that panics


def start_after_panic(daemon: subprocess.Popen[bytes], log: Path, start: Callable[[], object]) -> threading.Thread:
    """Start a daemon again if it dies of `CONNECT_PANIC` soon after a hang; returns the thread that waits for it."""

    def watch() -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = daemon.wait(timeout=DEADLINE)
            if code == GO_PANIC and CONNECT_PANIC in log.read_text("utf-8", "replace")[-LAST_WORDS:]:
                start()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def delete_network(bed: Bed) -> None:
    """Delete the bridge; again where Incus gave up because an interface of somebody else's vanished meanwhile."""
    for _ in range(cli_setup.NETWORK_TRIES):
        try:
            bed.incus.run("network", "delete", bed.bridge)
            return
        except clincus.IncusError as error:
            if "does not exist" not in error.message:
                raise


def stop_daemon(bed: Bed) -> None:
    """Remove what the daemon keeps in the kernel, end it, and wait for its end."""
    if bed.daemon is None:
        return
    containers: list[str] = []
    with contextlib.suppress(clincus.ClincusError):
        containers = bed.names()
        bed.delete_all()
        for device in ("eth0", "root"):
            with contextlib.suppress(clincus.ClincusError):
                bed.incus.run("profile", "device", "remove", "default", device)
        delete_network(bed)
        for image in bed.incus.query("/1.0/images") or ():
            bed.incus.query(image, "DELETE", wait=True)
        bed.incus.run("storage", "delete", "default")
    with contextlib.suppress(clincus.ClincusError):
        bed.incus.run("admin", "shutdown", "--timeout=20", timeout=40)
    with contextlib.suppress(subprocess.TimeoutExpired):
        bed.daemon.wait(timeout=20)
    cli_relay.end_with_children(bed.daemon, 20)
    for name in containers:
        for path in Path("/sys/fs/cgroup").glob(f"**/lxc.*.{name}"):
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def one_at_a_time(what: str = "test") -> Iterator[None]:
    """Keep two test runs of one user from choosing the same subnet, or building the same image twice."""
    with open(f"/var/tmp/clincus-{what}-{os.getuid()}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clear_leftovers() -> None:
    """Remove what a killed run left: daemons, mounts and bridges of folders whose test run is gone."""
    for folder in Path("/var/lib").glob("clincus-test-*"):
        pid_file = folder / "test.pid"
        try:
            if pid_file.exists():
                is_used = Path(f"/proc/{pid_file.read_text()}").exists()
            else:
                is_used = time.time() - folder.stat().st_mtime < 120  # being made just now
        except FileNotFoundError:
            continue  # its run has just ended and taken it away
        if is_used:
            continue
        for pid in processes_with(str(folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if pid_file.exists():
            bridge = f"cltest{pid_file.read_text()}"[:15]
            subprocess.run(["ip", "link", "delete", bridge], stdin=subprocess.DEVNULL, check=False, capture_output=True)
        remove_tree(folder)


def processes_with(word: str) -> list[int]:
    """The processes whose command line or INCUS_DIR names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (path / "cmdline").read_bytes() + b"\0" + (path / "environ").read_bytes()
            if word.encode() in text and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


@contextlib.contextmanager
def passing_home(prefix: str) -> Iterator[Path]:
    """A home with a short path, which goes at the end of the block with the programs that have it.

    A program that outlives the one that has started it, such as an `incus` client of a server that was killed, writes
    into its home until it ends: the folder would not be empty when it is removed.
    """
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        try:
            yield Path(folder)
        finally:
            for pid in processes_with(f"HOME={folder}\0"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not processes_with(f"HOME={folder}\0"), "the programs of a home to end")


def mounts_below(folder: Path) -> list[str]:
    """The mount points at or below a folder, innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1] for line in lines]
    return sorted((p for p in points if p == str(folder) or p.startswith(f"{folder}/")), reverse=True)


def remove_tree(folder: Path) -> None:
    """Unmount all that is mounted in a folder, then remove it. Never reaches through a mount."""
    for point in mounts_below(folder):
        subprocess.run(["umount", "--lazy", point], stdin=subprocess.DEVNULL, check=False, capture_output=True)
    if not mounts_below(folder):
        shutil.rmtree(folder, ignore_errors=True)


def leftovers(bed: Bed) -> list[str]:
    """What is still there of a bed that was taken down."""
    assert bed.folder is not None
    found = [f"mount {point}" for point in mounts_below(bed.folder)]
    found += [f"process {pid}" for pid in processes_with(f"INCUS_DIR={bed.folder}")]
    found += [f"bridge {bed.bridge}"] if Path(f"/sys/class/net/{bed.bridge}").exists() else []
    return found + ([f"folder {bed.folder}"] if bed.folder.exists() else [])


@contextlib.contextmanager
def own_project() -> Iterator[Bed]:
    """Make a project of our own in the daemon that is there, and take it away again."""
    name = f"clincus-test-{os.getpid()}"
    plain = clincus.Incus(group="incus-admin")
    try:
        profile = plain.query("/1.0/profiles/default")
    except clincus.ClincusError as error:
        unavailable(str(error))
    features = {"features.images": "true", "features.profiles": "true", "features.networks": "false"}
    bed = Bed(
        clincus.Incus(name, group="incus-admin"), config=f'[incus]\nproject = "{name}"\n', bridge=own_bridge(name)
    )
    host = cli_host.Host()
    try:
        with one_at_a_time():
            clear_projects(plain)
            plain.query("/1.0/projects", "POST", {"name": name, "config": features})
            root = {key: device for key, device in profile["devices"].items() if device["type"] == "disk"}
            # A bridge of our own: on one bridge no two instances may have one name.
            options = cli_build.SetupOptions(bridge=bed.bridge, subnet=far_subnet(host))
            cli_setup.Setup(options, host, plain, say=print).create_bridge()
            card = {"type": "nic", "network": bed.bridge, "name": "eth0"}
            bed.incus.query("/1.0/profiles/default", "PATCH", {"devices": {**root, "eth0": card}})
            run_setup(bed, host)
        yield bed
    finally:
        remove_project(name)


def own_bridge(project: str) -> str:
    """The bridge of a project of the tests. It ends with a letter, so that none is taken for that of another run."""
    return f"cltest{project.rpartition('-')[2]}u"


def clear_projects(plain: clincus.Incus) -> None:
    """Remove what a killed run left: the projects whose test run is gone."""
    for project in plain.query("/1.0/projects?recursion=1"):
        run = re.fullmatch(r"clincus-test-(\d+)", project["name"])
        if run and not Path(f"/proc/{run.group(1)}").exists():
            remove_project(project["name"])


def remove_project(name: str) -> None:
    """Delete a project of the tests, all that is in it, and its bridge."""
    bed = Bed(clincus.Incus(name, group="incus-admin"))
    bed.delete_all()
    for image in bed.incus.query("/1.0/images?recursion=1") or ():
        bed.incus.query(f"/1.0/images/{image['fingerprint']}", "DELETE", wait=True)
    bed.incus.query(f"/1.0/projects/{name}", "DELETE")
    with contextlib.suppress(clincus.IncusError):
        delete_network(Bed(clincus.Incus(group="incus-admin"), bridge=own_bridge(name)))
