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
import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import clincus
from clincus_features.network.devices import socket_path
from tests import costs, outcomes
from tests.incus_bed import Bed, image_cache, own_daemon, own_project
from tests.leftovers import Snapshot
from tests.programs import LAST_WORDS, NO_CHECKPOINTS, RENEWED, Server, close_connections, git, program

# A job that a script runs in the background has SIGINT ignored, one of nohup has SIGHUP, and both hand that on: no test
# of Ctrl-C would end, and no program would go with its terminal.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# How long an example takes says more of the machine than of the code.
settings.register_profile("clincus", deadline=None)
settings.load_profile("clincus")

NOTES: pytest.StashKey[list[str]] = pytest.StashKey()
METER: pytest.StashKey[costs.Meter] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for what the files cost, and for what became of the tests: see tests/costs.py and tests/outcomes.py."""
    parser.addoption("--costs", metavar="FILE", help="write what each test file costs, and say the head of it")
    parser.addoption("--outcomes", metavar="FILE", help="write down what became of each test as it ends")
    parser.addoption("--skip-passed", metavar="FILE", help="leave out the tests whose names stand in a file")


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what tests want to be said at the end of the run, and let Python keep what their programs compile.

    Hundreds of them start from the source. Compiling it takes longer than what most of them then do.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(image_cache() / "bytecode"))
    clincus.open_log()  # `caplog` hears a log that does not propagate only if that was so when the test began
    config.stash[NOTES] = []
    config.stash[METER] = costs.Meter()
    if config.option.outcomes and not hasattr(config, "workerinput"):
        record = open(config.option.outcomes, "w", encoding="utf-8")  # noqa: SIM115 - until the run ends
        config.add_cleanup(record.close)
        config.pluginmanager.register(outcomes.Recorder(record))


# What a machine is or is not, whatever is installed on it.
KINDS_OF_MACHINE = (
    "x86_64",
    "others have no such call",
    "without AppArmor",
    "this kernel has no",
    "this file system knows no",
    "only glibc",
    "a pool of the kind dir",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Let no test be skipped in CI for want of something that could be installed, or of root; show logs of failures."""
    report: pytest.TestReport = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(kind in reason for kind in KINDS_OF_MACHINE):
            report.outcome, report.longrepr = "failed", f"skipped, which nothing may be in CI: {reason}"
    if report.failed:
        report.sections += last_words(getattr(item, "funcargs", {}))
    return report


def last_words(fixtures: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A title and the end of the log of each server that a test may have used, and of its Incus daemon."""
    for server in Server.known:
        with contextlib.suppress(OSError):  # the log went with the folder of an earlier test
            yield f"server on port {server.port}", server.log()[-LAST_WORDS:]
    bed = fixtures.get("bed")
    if isinstance(bed, Bed):
        yield "Incus daemon", bed.last_words()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """With Incus or the page, a test is of the night unless it is marked as one of the day's stories."""
    if config.option.skip_passed:
        outcomes.leave_out(items, config)
    for item in items:
        is_unit = "/unit/" in item.path.as_posix()
        if not is_unit and item.get_closest_marker("day") is None:
            item.add_marker("nightly")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Let Python look for garbage neither while it collects the tests nor, later, among the thousands of them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[object]:
    """Put down what the tests of a file cost, when the last of them has run."""
    meter = item.config.stash[METER]
    file = item.nodeid.partition("::")[0]
    if file != meter.file:
        meter.charge()
        meter.file = file
    done = yield
    if nextitem is None:
        meter.charge()
    return done


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say the notes, what was made anew, and what the dearest files cost."""
    for note in config.stash[NOTES]:
        terminalreporter.write_line(note)
    for what, count in RENEWED.items():
        terminalreporter.write_line(f"made anew: {what}, {count} times")
    if config.option.costs:
        lines = costs.table(config.stash[METER].costs)
        Path(config.option.costs).write_text("\n".join([*lines, ""]))
        for line in [*lines[:-1][: costs.SAID], lines[-1]]:
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the notes and costs of a worker (pytest-xdist) over to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = session.config.stash[NOTES]
        session.config.workeroutput["renewed"] = dict(RENEWED)
        session.config.workeroutput["costs"] = session.config.stash[METER].sums()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take them over; what several workers note is said once."""
    output = getattr(node, "workeroutput", {})
    notes = node.config.stash[NOTES]
    notes += [text for text in output.get("notes", []) if text not in notes]
    RENEWED.update(output.get("renewed", {}))
    node.config.stash[METER].add(output.get("costs", {}))


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest):
    """A function that puts a line into the summary of the run, such as what was found on this machine."""
    return request.config.stash[NOTES].append


@pytest.fixture(scope="session")
def bed(pytestconfig: pytest.Config) -> Iterator[Bed]:
    """The Incus of this run; the text at the head of this file says which."""
    meter = pytestconfig.stash[METER]
    meter.charge()
    with own_daemon(database_in_memory=True) if os.geteuid() == 0 else own_project() as made:
        if pytestconfig.option.costs and made.folder:
            meter.starts.follow(made.folder / "unix.socket")
        meter.charge(costs.BEDS)
        yield made
        meter.charge()
    meter.charge(costs.BEDS)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends what it started; tests/leftovers.py says what counts. It is set up first, so it looks last."""
    before = Snapshot()
    yield
    close_connections()
    left = before.left_after_a_while()
    bed = request.node.funcargs.get("bed")
    if bed is not None and bed.daemon is not None:
        left = [one for one in left if not one.startswith(f"child {bed.daemon.pid} ")]  # it was started again
    assert left == [], "the test left something behind"


@pytest.fixture(autouse=True)
def no_instances_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test with Incus leaves no instance but those that its file keeps, and finds a daemon that lives."""
    bed = request.getfixturevalue("bed") if "bed" in request.fixturenames else None
    if bed is not None and bed.has_ended():
        RENEWED["Incus daemon that had ended"] += 1
        bed.restart()
    yield
    if bed is not None:
        bed.delete_all()


def new_workspace(folder: Path) -> Path:
    """Make a git repository with one commit; as root it belongs to uid 1000, as a person's would."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "README.md").write_text(f"# {folder.name}\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=Begin")
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 1000, 1000, follow_symlinks=False)
    return folder


@pytest.fixture
def make_workspace(tmp_path: Path):
    """A function that makes a workspace with the given name below this test's own folder."""
    return lambda name="project": new_workspace(tmp_path / "workspaces" / name)


@pytest.fixture
def workspace(make_workspace) -> Path:
    """A git repository with one commit that belongs to uid 1000."""
    return make_workspace()


def new_home(folder: Path, bed: Bed | None) -> Path:
    """Make a home whose configuration leads to the bed. All homes have one cache, with the archive unpacked."""
    (folder / ".config" / "clincus").mkdir(parents=True)
    (folder / ".cache").symlink_to(image_cache())
    if bed and bed.config:
        (folder / ".config" / "clincus" / "config.toml").write_text(bed.config)
    return folder


def remove_sockets(home: Path) -> None:
    """Remove the folder in /tmp that holds the sockets of a home, as the paths of tests are too long for any in it."""
    folder = Path(socket_path({"HOME": str(home)}, "lock")).parent
    if home not in folder.parents:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A home directory of its own for a server."""
    folder = tmp_path / "home"
    yield new_home(folder, request.getfixturevalue("bed") if "bed" in request.fixturenames else None)
    remove_sockets(folder)


@contextlib.contextmanager
def starting_servers(bed: Bed, home: Path, folder: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts a server on the bed's Incus; the end of the block ends all of them."""
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
        log = folder / f"server-{len(servers)}.log"
        server = Server(
            argv,
            {**kept, **bed.environ, "HOME": str(at), "XDG_CACHE_HOME": str(image_cache()), **environ},
            log,
            cwd=folder,
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
    for server in servers:
        remove_sockets(server.home)


@pytest.fixture
def start_server(bed: Bed, home: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts a server on the bed's Incus; all are ended after the test."""
    with starting_servers(bed, home, tmp_path) as start:
        yield start


@pytest.fixture
def clincus_server(start_server) -> Server:
    """A running server with the standard configuration."""
    return start_server()


@pytest.fixture(scope="module")
def start_shared(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """The same as `start_server` for the fixtures of a file."""
    folder = tmp_path_factory.mktemp("shared")
    with starting_servers(bed, new_home(folder / "home", bed), folder) as start:
        yield start


@pytest.fixture(scope="module")
def shared_server(start_shared) -> Server:
    """A server without checkpoints, for those tests of a file that leave it as they found it."""
    return start_shared(config=NO_CHECKPOINTS)


@pytest.fixture(scope="module")
def keep_session(bed: Bed, tmp_path_factory: pytest.TempPathFactory):
    """A function that starts a session in a workspace of its own, which stays until the last test of a file."""
    with contextlib.ExitStack() as kept:

        def keep(server: Server, *, folder: str = "project", **fields: Any) -> dict[str, Any]:
            session = server.create(new_workspace(tmp_path_factory.mktemp("workspaces") / folder), **fields)
            kept.enter_context(bed.keeping(session["id"]))
            return session

        yield keep


@pytest.fixture(scope="module")
def shared_session(shared_server: Server, keep_session) -> dict[str, Any]:
    """A session for those tests of a file that leave it as they found it."""
    return keep_session(shared_server)
