"""Causes faults for real: a daemon that hangs or dies, a disk that is full, a server that is killed at a moment.

Which test file of tests/incus causes which fault, at night:

test_faults_kill      the server is killed in the middle of a create, stop, resume, delete, save, restore or undo
test_faults_daemon    the daemon hangs or is stopped; test_agents kills it
test_engines          the same for an engine, and in test_cluster for a member of a cluster
test_faults_disk      the disk is full or read-only, for history, settings, saves and checkpoints
test_faults_torn      every file that the server has written is torn; each kind alone: tests/unit/test_torn_files
test_faults_limits    no file descriptors are left; the clock jumps by an hour
test_faults_outside   a container is deleted from outside in the middle of an action; two servers and ten command
                      lines use one workspace; a power cut kills everything at once; the program is replaced
test_losses           Incus refuses or loses a step; two people resume or delete one session at once
test_cut_off          a program of a container is killed in the middle of a save, a fetch or a copy of files
test_silent           each program of a container hangs
test_agents_hostile, test_lying_programs, test_review_attacks    root of a container lies, by hooks, screen,
                      programs that Clincus runs there, and git
test_protection_attacks    root of a container attacks the locked paths of a workspace
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import clincus
from clincus_cli import host as cli_host
from clincus_cli import setup as cli_setup
from tests.incus_bed import OFFLINE, Bed, start_after_panic, unavailable
from tests.programs import DEADLINE, Server, program, wait_until


def own(bed: Bed) -> Bed:
    """A bed whose daemon is our own, so that it may be hurt."""
    if bed.daemon is None:
        unavailable("only a daemon of our own may be hurt, which needs root")
    return bed


def daemon_processes(bed: Bed) -> list[int]:
    """The daemon's own processes, without its containers."""
    assert bed.daemon is not None
    return processes_of(bed.daemon)


def processes_of(daemon: subprocess.Popen[bytes]) -> list[int]:
    """A daemon's own processes: itself and its children."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return [daemon.pid, *map(int, children)]


@contextlib.contextmanager
def stopped(daemon: subprocess.Popen[bytes], pids: Sequence[int] = ()) -> Iterator[None]:
    """Stop the processes of a daemon until the end of the block. A child of it may end before its signal."""
    pids = pids or processes_of(daemon)
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def hung(bed: Bed) -> Iterator[None]:
    """Let the daemon hang: it accepts connections and answers none."""
    daemon = own(bed).daemon
    assert daemon is not None
    try:
        with stopped(daemon, daemon_processes(bed)):
            yield
    finally:
        if bed.folder is not None:
            start_after_panic(daemon, bed.folder / "logs" / "incusd.log", lambda: start_daemon_again(bed))


@contextlib.contextmanager
def killed(bed: Bed) -> Iterator[None]:
    """Let the daemon die, and start it again."""
    own(bed)
    assert bed.daemon is not None
    bed.daemon.kill()
    bed.daemon.wait()
    try:
        yield
    finally:
        start_daemon_again(bed)


@contextlib.contextmanager
def stopping(bed: Bed) -> Iterator[None]:
    """Tell the daemon to stop, as its service does (SIGTERM), wait until it has gone, and start it again."""
    own(bed)
    assert bed.daemon is not None
    bed.daemon.terminate()
    try:
        yield
        bed.daemon.wait(timeout=DEADLINE)
    finally:
        bed.daemon.kill()
        bed.daemon.wait()
        start_daemon_again(bed)


def start_daemon_again(bed: Bed) -> None:
    """Start the daemon of a bed that has died, and wait until it is ready, with its bridge."""
    assert bed.folder is not None
    log = bed.folder / "logs" / "incusd.log"
    bed.daemon = cli_setup.start_incusd(cli_host.Host(), bed.folder, log, group="root", env=OFFLINE)
    if bed.incus.query(f"/1.0/networks/{bed.bridge}")["status"] != "Created":
        bed.restart()


class Timed(NamedTuple):
    """How a request was answered, and after how many seconds."""

    request: str
    status: int
    seconds: float
    error: str


def answers(server: Server, requests: Iterable[tuple[str, str, Any]]) -> list[Timed]:
    """Send requests (method, path, body) at once, and wait for all answers."""

    def ask(request: tuple[str, str, Any]) -> Timed:
        method, path, body = request
        began = time.monotonic()
        try:
            answer = server.request(method, path, body, timeout=60)
        except TimeoutError:
            return Timed(f"{method} {path}", 0, time.monotonic() - began, "no answer")
        took = time.monotonic() - began
        error = answer.json.get("error", "") if answer.status >= 400 else ""
        return Timed(f"{method} {path}", answer.status, took, error)

    requests = list(requests)
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def wait_for_screen(bed: Bed, id: str, words: str) -> None:
    """Wait until a session's screen shows something."""
    bed.await_screen(id, words, history=True)


def say(bed: Bed, id: str, text: str) -> None:
    """Type a line into a session's tool, and wait for the answer: it is in the conversation by then."""
    bed.await_screen(id, f"echo: {text}", type=text, history=True)


def talk(bed: Bed, server: Server, workspace: Path, text: str = "remember the milk", **fields: Any) -> dict[str, Any]:
    """A session in which something was said."""
    session = server.create(workspace, **fields)
    wait_for_screen(bed, session["id"], "STUB-READY")
    say(bed, session["id"], text)
    return session


def run_cli(bed: Bed, server: Server, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command line in the home of a server."""
    environ = {**os.environ, **bed.environ, "HOME": str(server.home)}
    return subprocess.run(
        [*program(), *words],
        env=environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )


def saved(server: Server, session: dict[str, Any]) -> str:
    """What the host has of a conversation. A save takes the place of the one before in two steps, under this lock."""
    folder = server.home / ".clincus" / f"sessions-{session['tool']}" / session["session_id"]
    if not folder.parent.exists():
        return ""
    with clincus.directory_lock(str(folder.parent), DEADLINE):
        return "".join(path.read_text() for path in folder.rglob(f"{session['session_id']}.jsonl"))


def guest_says(bed: Bed, session: dict[str, Any], text: str) -> None:
    """Add words to a conversation from inside, without the tool."""
    script = f"cd ~/.claude/projects && for f in */{session['session_id']}.jsonl; do echo '{text}' >>$f; done"
    bed.shell(session["id"], script)


def broken_client(folder: Path, script: str) -> dict[str, str]:
    """The environment of a server for which a stand-in runs `script` before each `incus` command; `$real` is that."""
    program = folder / "bin" / "incus"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/bash\nreal={shutil.which("incus")}\n{script}\nexec "$real" "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


class Halt:
    """An `incus` for one server: while it is armed, a command whose line has `words` waits before it begins."""

    def __init__(self, folder: Path, words: str) -> None:
        self._armed, self._reached = folder / "armed", folder / "reached"
        waits = f"touch {self._reached}; while [ -e {self._armed} ]; do sleep 0.05; done"
        self.environ = broken_client(folder, f'if [[ -e {self._armed} && "$*" == *{words}* ]]; then {waits}; fi')

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Stop such commands within the block, or until `release`."""
        self._reached.unlink(missing_ok=True)
        self._armed.touch()
        try:
            yield
        finally:
            self.release()

    def wait(self) -> None:
        """Wait until a command has stopped."""
        wait_until(self._reached.exists, "a command to be held")

    def release(self) -> None:
        """Let them go on."""
        self._armed.unlink(missing_ok=True)
