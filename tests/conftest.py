"""The test bed: a real Incus, a real server and a real workspace for whoever asks for them.

    bed              the Incus of this test run (session-wide). `bed.incus` is a `clincus.Incus`, `bed.environ` what a
                     program needs to reach it. INCUS_DIR is set in this process too, so code under test that is
                     called directly finds the same daemon.
    workspace        a new git repository with one commit, owned by uid 1000 (or by us, when we are not root).
    make_workspace   the same as a function: `make_workspace("name")`.
    home             a new home directory for a server, with an empty Clincus configuration.
    clincus_server   a running `clincus serve` with that home on a port of its own: `clincus_server.get("/api/tools")`.
    start_server     the same as a function, for more than one or with settings of their own:
                     `start_server(config="[dashboard]\\n…", arguments=["--host", "::1"], environ={"TERM": "vt100"})`.

A test that uses `bed` or a server needs Incus. As root the bed starts a daemon of its own: own INCUS_DIR, own bridge,
own storage, and afterwards nothing of it is left. Otherwise it makes a project of its own in the daemon that is there.
Without either, the tests are skipped with the reason; where CI=true they fail instead.

The image `clincus` of the bed is built by the project's own code from this machine's packages, with
tests/image/tool-stub in place of the real tools; what it does on which line is written there. It is cached in
~/.cache/clincus/tests under the key of its recipe: it is built once, in about 20 seconds.

CLINCUS_TEST_PROGRAM=dist/clincus.pyz, as `make test` sets it, lets every program run from the archive as shipped
instead of from clincus.py. All of them unpack it into one cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
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

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = float(os.environ.get("CLINCUS_TEST_DEADLINE", "60"))  # seconds that anything awaited may take

# A job that a script runs in the background has SIGINT ignored and hands that on, and no test of Ctrl-C would end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
NO_INTERNET = "http://127.0.0.1:9"  # a proxy that is not there: the daemon would else ask for its image servers
OFFLINE = {"HTTP_PROXY": NO_INTERNET, "HTTPS_PROXY": NO_INTERNET, "http_proxy": NO_INTERNET}

NOTES: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what tests want to be said at the end of the run."""
    config.stash[NOTES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a test with a real Incus or Chromium once more when it fails: four of each share two cores in CI.

    A unit test is never run again: nothing but its own code can have failed.
    """
    for item in items:
        if {"incus", "browser"} & set(item.path.parts):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say the notes, and which test ran again because of what."""
    for note in config.stash[NOTES]:
        terminalreporter.write_line(note)
    for report in terminalreporter.stats.get("rerun", []):
        crash = getattr(report.longrepr, "reprcrash", None)
        cause = str(crash.message if crash else report.longrepr).strip().split("\n")[0]
        terminalreporter.write_line(f"ran again: {report.nodeid}: {cause[:300]}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the notes of a worker (pytest-xdist) over to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = session.config.stash[NOTES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take them over; what several workers note is said once."""
    notes = node.config.stash[NOTES]
    notes += [text for text in getattr(node, "workeroutput", {}).get("notes", []) if text not in notes]


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest):
    """A function that puts a line into the summary of the run, such as what was found on this machine."""
    return request.config.stash[NOTES].append


# ---- the image ------------------------------------------------------------------------------------------------

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


# ---- Incus ----------------------------------------------------------------------------------------------------


@dataclass
class Bed:
    """The Incus that this run uses."""

    incus: clincus.Incus
    environ: dict[str, str] = field(default_factory=dict)  # for programs that are to reach it
    config: str = ""  # TOML that every configuration needs: the table `incus`, if any
    folder: Path | None = None  # INCUS_DIR of the daemon of our own
    bridge: str = ""
    daemon: subprocess.Popen[bytes] | None = None

    def names(self) -> list[str]:
        """The instances there are now."""
        return sorted(str(instance["name"]) for instance in self.incus.query("/1.0/instances?recursion=1") or ())

    def state(self, name: str) -> str:
        """Incus's word for the state of an instance: Running, Stopped, Frozen …; empty when there is none."""
        try:
            return str(self.incus.query(f"/1.0/instances/{name}")["status"])
        except clincus.IncusError as error:
            if error.status != 404:
                raise
            return ""

    def shell(self, name: str, script: str, user: int = 1000) -> str:
        """Run a shell script in an instance, as the code user unless told otherwise; its output."""
        done = self.incus.exec(name, ["sh", "-c", script], user=user, environment={"HOME": "/home/code"})
        assert done.code == 0, f"{script!r} ended with {done.code}: {done.reason}"
        return done.stdout.decode()

    def screen(self, name: str) -> str:
        """What the tmux session of an instance shows now."""
        return self.shell(name, "tmux capture-pane -p -J -t $(tmux list-sessions -F '#{session_name}' | head -1)")

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

    def delete_all(self) -> None:
        """Remove every instance, running or not."""
        for name in self.names():
            with contextlib.suppress(clincus.IncusError):
                self.incus.run("delete", "--force", name, timeout=60)


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The Incus of this run; the text at the head of this file says which."""
    with own_daemon() if os.geteuid() == 0 else own_project() as made:
        yield made


@pytest.fixture(autouse=True)
def no_instances_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test with Incus leaves no instance to the next one."""
    yield
    if "bed" in request.fixturenames:
        request.getfixturevalue("bed").delete_all()


def unavailable(reason: str) -> None:
    """End a test that needs Incus where it cannot be had: skipped for a person, failed in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needs Incus: {reason}", pytrace=False)
    pytest.skip(f"needs Incus: {reason}")


@contextlib.contextmanager
def own_daemon() -> Iterator[Bed]:
    """Start a daemon of our own with everything in it, and take it away without a trace."""
    host = cli_host.Host()
    if not cli_setup.find_incusd(host):
        unavailable("the daemon is not installed; run `make test`, or `apt-get install incus-base dnsmasq-base`")
    clear_leftovers()
    folder = Path(tempfile.mkdtemp(prefix="clincus-test-", dir="/var/lib"))
    folder.chmod(0o711)
    bed = Bed(clincus.Incus(), {"INCUS_DIR": str(folder)}, folder=folder, bridge=f"cltest{os.getpid()}"[:15])
    os.environ["INCUS_DIR"] = str(folder)
    try:
        with one_at_a_time():
            start_daemon(bed, host)
        yield bed
    finally:
        try:
            stop_daemon(bed)
        finally:
            os.environ.pop("INCUS_DIR", None)
            remove_tree(folder)
    assert leftovers(bed) == [], "the test bed left something behind"


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
    reports = setup.run(lambda _: True)
    print(f"setup: {', '.join(f'{report.name} {report.state}' for report in reports)}")


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
        if pid_file.exists() and Path(f"/proc/{pid_file.read_text()}").exists():
            continue
        if not pid_file.exists() and time.time() - folder.stat().st_mtime < 120:
            continue  # being made just now
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


# ---- workspaces -----------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder with nothing of the user's own configuration."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    argv = ["git", "-c", "safe.directory=*", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments]
    done = subprocess.run(
        argv, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.fixture
def make_workspace(tmp_path: Path):
    """A function that makes a workspace with the given name below this test's own folder."""

    def make(name: str = "project") -> Path:
        folder = tmp_path / "workspaces" / name
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
        (folder / "README.md").write_text(f"# {name}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message=Begin")
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 1000, 1000, follow_symlinks=False)
        return folder

    return make


@pytest.fixture
def workspace(make_workspace) -> Path:
    """A git repository with one commit; as root it belongs to uid 1000, as a person's would."""
    return make_workspace()


# ---- the server -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Server:
    """A `clincus serve` in a process of its own, and a small client for it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], log: Path, cwd: Path) -> None:
        self.log_file = log
        self.home = Path(environ["HOME"])
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(environ), cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
        self.host, self.port = self._wait_until_it_listens()

    @property
    def url(self) -> str:
        """The address that a browser opens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def socket_url(self) -> str:
        """The same for WebSocket clients."""
        return self.url.replace("http", "ws", 1)

    def log(self) -> str:
        """All that the server has printed."""
        return self.log_file.read_text("utf-8", "replace")

    def _wait_until_it_listens(self) -> tuple[str, int]:
        end = time.monotonic() + DEADLINE
        while True:
            found = re.search(r"Dashboard running at http://\[?([^\]\s]+?)\]?:(\d+)", self.log())
            if found:
                return found.group(1), int(found.group(2))
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"the server did not come up:\n{self.log()}")
            time.sleep(0.01)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] = {},
        timeout: float = DEADLINE,
    ) -> Answer:
        """Send one request on a connection of its own; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        sent = dict(headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> Answer:
        """POST."""
        return self.request("POST", path, body, **options)

    def put(self, path: str, body: object = None, **options: Any) -> Answer:
        """PUT."""
        return self.request("PUT", path, body, **options)

    def delete(self, path: str, body: object = None, **options: Any) -> Answer:
        """DELETE."""
        return self.request("DELETE", path, body, **options)

    def create(self, workspace: Path, **fields: Any) -> dict[str, Any]:
        """Start a session on a workspace and return the session object."""
        answer = self.post("/api/sessions", {"workspace": str(workspace), **fields})
        assert answer.status == 200, answer.body.decode()
        return dict(answer.json)

    def stop(self, how: int = signal.SIGTERM, timeout: float = DEADLINE) -> int:
        """Ask the server to end and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=timeout)

    def kill(self) -> None:
        """End the server and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_until(condition, what: str = "the condition", timeout: float = DEADLINE) -> Any:
    """Wait for a condition to give something true, and return that; fail with `what` when it never does."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {timeout:g} s in vain for {what}"
        select.select([], [], [], 0.02)


def program(python: str = sys.executable) -> list[str]:
    """The command line that runs Clincus; the archive without any site packages, as on a person's machine."""
    path = ROOT / os.environ.get("CLINCUS_TEST_PROGRAM", "clincus_cli")
    return [python, *(["-I"] if path.suffix == ".pyz" else []), str(path)]


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A home directory of its own for a server, whose configuration leads to the bed."""
    folder = tmp_path / "home"
    (folder / ".config" / "clincus").mkdir(parents=True)
    if "bed" in request.fixturenames and request.getfixturevalue("bed").config:
        (folder / ".config" / "clincus" / "config.toml").write_text(request.getfixturevalue("bed").config)
    return folder


@pytest.fixture
def start_server(bed: Bed, home: Path, tmp_path: Path):
    """A function that starts a server on the bed's Incus; all are ended after the test."""
    servers: list[Server] = []

    def start(
        *,
        config: str = "",
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] = {},
        at: Path = home,
        port: int | None = 0,
        command: Sequence[str] = (),
    ) -> Server:
        file = at / ".config" / "clincus" / "config.toml"
        if config or (bed.config and not file.exists()):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(bed.config + config.replace("[incus]\n", "" if bed.config else "[incus]\n"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLINCUS_", "XDG_", "TMUX"))}
        argv = [*(command or program()), "serve", *(() if port is None else ("--port", str(port))), *arguments]
        log = tmp_path / f"server-{len(servers)}.log"
        server = Server(
            argv,
            {**kept, **bed.environ, "HOME": str(at), "XDG_CACHE_HOME": str(image_cache()), **environ},
            log,
            cwd=tmp_path,
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop(timeout=20)
        server.kill()
        if server.process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            print(f"server log:\n{server.log()}")


@pytest.fixture
def clincus_server(start_server) -> Server:
    """A running server with the standard configuration."""
    return start_server()
