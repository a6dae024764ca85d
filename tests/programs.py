"""Clincus as a process of its own, a small client for it, and what tests wait with."""

from __future__ import annotations

import collections
import contextlib
import http.client
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from websockets.sync import client as websocket_client

from tests.contract import check_answer

ROOT = Path(__file__).resolve().parent.parent


# Seconds that anything awaited may take. They only bound how long a failure takes, and a busy machine needs its time.
DEADLINE = float(os.environ.get("CLINCUS_TEST_DEADLINE", "90"))


# For servers of tests that are not about checkpoints: each start of a session would cost a command in its container and
# five git programs.
NO_CHECKPOINTS = "[checkpoints]\nenabled = false\n"


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder with nothing of the user's own configuration, and without looks at what could be packed."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    settings = ("safe.directory=*", "user.name=Test", "user.email=test@localhost", "maintenance.auto=false")
    argv = ["git", *(word for setting in settings for word in ("-c", setting)), *arguments]
    done = subprocess.run(
        argv, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        timeout=DEADLINE,
    )  # fmt: skip
    return done.stdout


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


LAST_WORDS = 1500  # characters of a log that the report of a failed test shows

# What fixtures made anew in this run as it had ended by itself: the end of the run says how often.
RENEWED: collections.Counter[str] = collections.Counter()
NOT_STARTED = b"incusd fork"  # Incus's helpers fail now and then as they mount or start a container


class Server:
    """A `clincus serve` in a process of its own, and a small client for it."""

    known: ClassVar[weakref.WeakSet[Server]] = weakref.WeakSet()  # those that a test may still use

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], log: Path, cwd: Path) -> None:
        self.log_file = log
        self.home = Path(environ["HOME"])
        self.is_whole = True  # the answers have the fields of every feature, as openapi.json promises
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(environ), cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
        self.host, self.port = self._wait_until_it_listens()
        Server.known.add(self)

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
        """Send one request on a connection of its own; a body that is not bytes goes as JSON.

        Fails if the answer is not one that openapi.json promises.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        sent = dict(headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            content = answer.read()
        finally:
            connection.close()
        if self.is_whole:
            check_answer(method, path, answer.status, names, content)
        return Answer(answer.status, names, content)

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
        body = {"workspace": str(workspace), **fields}
        answer = self.post("/api/sessions", body)
        if answer.status == 500 and NOT_STARTED in answer.body:
            RENEWED["container that did not start"] += 1
            answer = self.post("/api/sessions", body)
        assert answer.status == 200, answer.body.decode()
        return dict(answer.json)

    def unsaved(self, id: str) -> dict[str, Any]:
        """What a session's container holds and this host does not, once the container has told."""
        while True:
            answer = self.get(f"/api/sessions/{id}/unsaved")
            assert answer.status == 200, answer.body.decode()
            if not answer.json["pending"]:
                return dict(answer.json)

    def stop(self, how: int = signal.SIGTERM, timeout: float = DEADLINE) -> int:
        """Ask the server to end and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=timeout)

    def children(self) -> list[str]:
        """The command lines of the processes that are there of those that the server has started."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # another's, that has ended meanwhile
                if path.read_text().rsplit(")", 1)[1].split()[3] == str(self.process.pid):
                    words = (path.parent / "cmdline").read_bytes().split(b"\0")
                    found.append(b" ".join(words).decode("utf-8", "replace"))
        return found

    def kill(self) -> None:
        """End the server and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


CONNECTIONS: weakref.WeakSet[websocket_client.ClientConnection] = weakref.WeakSet()  # of this test


def connect(url: str, **options: Any) -> websocket_client.ClientConnection:
    """Open a WebSocket, until the end of the test at the latest.

    A busy machine may take longer over the handshake or a pong than the library waits.
    """
    made = websocket_client.connect(url, **{"open_timeout": DEADLINE, "ping_timeout": DEADLINE, **options})
    CONNECTIONS.add(made)
    return made


def close_connections() -> None:
    """Close those that are open, without a word: the server may have gone."""
    for one in list(CONNECTIONS):
        with contextlib.suppress(OSError):
            one.socket.shutdown(socket.SHUT_RDWR)
    CONNECTIONS.clear()


PORTS = itertools.count(os.getpid() * 10)


def free_port() -> int:
    """A port of loopback that nobody uses, for a program that is started later.

    The kernel gives ports of its own range to connections: one of these could be taken until that program has it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 10_000 + next(PORTS) % (lowest - 10_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(condition, what: str | Callable[[], object] = "the condition", timeout: float = DEADLINE) -> Any:
    """Wait for a condition to give something true, and return that; fail with `what` when it never does.

    A function in place of `what` is called then, and can say what is there instead.

    Between two looks it rests four times as long as a look takes, and longer the longer it has waited: one that runs a
    command in a container is dear, and the others who wait on these cores want to go on, too.
    """
    began = time.monotonic()
    while True:
        looked = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now >= began + timeout:
            raise AssertionError(f"waited {timeout:g} s in vain for {what() if callable(what) else what}")
        select.select([], [], [], min(max(0.02, 4 * (now - looked), (now - began) / 10), 0.5))


def program(python: str = sys.executable) -> list[str]:
    """The command line that runs Clincus; the archive without any site packages, as on a person's machine."""
    path = ROOT / os.environ.get("CLINCUS_TEST_PROGRAM", "clincus_cli")
    return [python, *(["-I"] if path.suffix == ".pyz" else []), str(path)]
