#!/usr/bin/env python3
"""Clincus runs AI coding tools at full permissions, each locked in its own Incus container.

`clincus serve` is a REST API, terminals over WebSocket, an event stream and a dashboard, all on one port. The
other subcommands do the same work at a terminal. Incus is the only store of what runs; the `incus` command is
the only way there.

The file reads from top to bottom: each section uses only what stands above it and could be lifted out into a
file of its own.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shlex
import subprocess
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__version__ = "0.1.0"


# ----------------------------------------------------------------------------------------------------------------
# errors
# What went wrong, in words for the person who must act. Knows nothing of the rest.
# ----------------------------------------------------------------------------------------------------------------


class ClincusError(Exception):
    """A failure with a sentence that says what to do, and the HTTP status that fits it."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


# ----------------------------------------------------------------------------------------------------------------
# config
# Defaults, TOML layers, validation and the JSON view. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# tools
# What each AI tool is started with and which files it carries in and out. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# incus
# The one door to the `incus` command. Knows nothing of sessions or HTTP.
# ----------------------------------------------------------------------------------------------------------------


class IncusError(ClincusError):
    """Incus refused or failed; the message is its own, without the leading "Error: "."""


@dataclass(frozen=True)
class Completed:
    """The end of a command: its exit code (0..255) and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def reason(self) -> str:
        """The last words on stderr, for an error message."""
        text = self.stderr.decode("utf-8", "replace").strip()
        return text[-2000:].removeprefix("Error: ") if text else f"exit code {self.code}"


# What the client says when there is no daemon to talk to (cmd/incus, 6.0): each is answered as 503.
INCUS_UNREACHABLE = (
    ("executable file not found", "Incus is not installed. Run `clincus setup`."),
    ("doesn't appear to be started", "Incus is not running. Run `clincus setup`, or start the incus service."),
    (
        "needed permissions to talk to the incus daemon",
        "You may not talk to Incus yet. Run `clincus setup`, then log in again so that the group takes effect.",
    ),
    ("connection refused", "Incus is not answering. Check the incus service."),
    ("connection reset", "Incus closed the connection: it is restarting."),
    ("daemon is shutting down", "Incus is shutting down."),
)


def incus_failure(text: str) -> IncusError:
    """Turn what Incus wrote into an error with the HTTP status that fits: 503 unreachable, 404 unknown, else 500."""
    words = text.strip().removeprefix("Error: ")
    for mark, advice in INCUS_UNREACHABLE:
        if mark in words:
            return IncusError(advice, 503)
    if "UNIQUE constraint failed: instances" in words or "already exists" in words:
        return IncusError(words, 409)
    if "not found" in words.lower():
        return IncusError(words, 404)
    return IncusError(words or "Incus failed without a word", 500)


class Incus:
    """The one door to the `incus` command.

    A remote, project and cluster target are kept here, so that nothing above assumes that a container is local.
    Every call has a timeout in seconds and gets its whole input; a call that fails raises IncusError with Incus's
    own words.
    """

    def __init__(self, project: str = "default", *, remote: str = "", target: str = "", group: str = "") -> None:
        self.project = project
        self.remote = remote
        self.target = target
        self._group = group  # joined through `sg` when the login is older than the membership
        self._joins_group: bool | None = None  # whether `sg` is needed; found at the first call

    def instance(self, name: str) -> str:
        """The name as the command line takes it, with the remote in front where there is one."""
        return f"{self.remote}:{name}" if self.remote else name

    def argv(self, *arguments: str) -> list[str]:
        """The whole command line for `incus ARGUMENTS` in this project."""
        return self._as_member(["incus", "--project", self.project, *arguments])

    def run(self, *arguments: str, stdin: bytes = b"", timeout: float = 60) -> bytes:
        """Run `incus ARGUMENTS` and return its stdout. Raises IncusError."""
        done = self._spawn(self.argv(*arguments), stdin, timeout)
        if done.code != 0:
            raise incus_failure(done.stderr.decode("utf-8", "replace"))
        return done.stdout

    def query(
        self, path: str, method: str = "GET", data: object | None = None, *, wait: bool = False, timeout: float = 30
    ) -> Any:
        """Ask Incus's REST API (https://linuxcontainers.org/incus/docs/main/rest-api/) and return the metadata.

        `wait` waits for the operation that an asynchronous answer names, and raises when it fails.
        """
        # `incus query` refuses --project: it goes into the path (cmd/incus/query.go).
        joined = f"{path}{'&' if '?' in path else '?'}project={quote(self.project, safe='')}"
        command = ["incus", "query", "--request", method]
        if wait:
            command.append("--wait")
        if data is not None:
            command += ["--data", json.dumps(data)]
        command.append(f"{self.remote}:{joined}" if self.remote else joined)
        done = self._spawn(self._as_member(command), b"", timeout)
        if done.code != 0:
            raise incus_failure(done.stderr.decode("utf-8", "replace"))
        return json.loads(done.stdout) if done.stdout.strip() else None

    def launch(self, name: str, image: str, description: Mapping[str, object], *, timeout: float = 300) -> None:
        """Create and start an instance from its complete description (InstancePut) in one call.

        When the start fails Incus leaves the instance behind, stopped: removing it is the caller's work.
        """
        target = ["--target", self.target] if self.target else []
        self.run(
            "launch",
            "--quiet",
            *target,
            image,
            self.instance(name),
            stdin=json.dumps(description).encode(),
            timeout=timeout,
        )

    def exec(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: int = 0,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: bytes = b"",
        timeout: float = 60,
    ) -> Completed:
        """Run a command in an instance as a uid (and the gid of the same number), without a terminal.

        Incus writes the whole command line into its events: secrets belong on stdin, never in `command` or
        `environment`. An exit code other than 0 is returned, not raised.
        """
        return self._spawn(self.exec_argv(name, command, user=user, environment=environment, cwd=cwd), stdin, timeout)

    def exec_argv(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: int = 0,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/",
        terminal: bool = False,
    ) -> list[str]:
        """The command line of `incus exec`, for a process of the caller's own (a pty, a stream)."""
        mode = "--force-interactive" if terminal else "--force-noninteractive"
        options = [mode, "--user", str(user), "--group", str(user), "--cwd", cwd]
        for key, value in (environment or {}).items():
            options += ["--env", f"{key}={value}"]
        return self.argv("exec", *options, self.instance(name), "--", *command)

    def monitor(self) -> subprocess.Popen[bytes]:
        """Start `incus monitor`: one lifecycle event a line as JSON, with empty lines between.

        It prints nothing when it is ready and ends when the daemon goes; the caller ends it with terminate().
        """
        argv = self.argv("monitor", "--type", "lifecycle", "--format", "json")
        try:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise incus_failure("executable file not found") from error

    def _as_member(self, command: list[str]) -> list[str]:
        if self._joins_group is None:
            self._joins_group = self._needs_group()
        return ["sg", self._group, "-c", shlex.join(command)] if self._joins_group else command

    def _needs_group(self) -> bool:
        """Whether the socket is out of reach now, though the user is in its group since a later `usermod`."""
        sockets = incus_sockets(os.environ)
        if not self._group or self.remote or any(os.access(path, os.W_OK) for path in sockets):
            return False
        try:
            members = grp.getgrnam(self._group).gr_mem
            return pwd.getpwuid(os.getuid()).pw_name in members and any(os.path.exists(path) for path in sockets)
        except KeyError:
            return False

    def _spawn(self, command: Sequence[str], stdin: bytes, timeout: float) -> Completed:
        # A session of its own: Ctrl-C at our terminal is ours to handle, not the child's.
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=timeout, check=False, start_new_session=True
            )
        except FileNotFoundError as error:
            raise incus_failure("executable file not found") from error
        except subprocess.TimeoutExpired as error:
            words = shlex.join(command[:6])
            raise IncusError(f"Incus did not finish `{words} …` within {timeout:g} s", 500) from error
        return Completed(done.returncode, done.stdout, done.stderr)


def incus_sockets(environ: Mapping[str, str]) -> list[str]:
    """Where a local daemon may listen, in the client's own order (INCUS_SOCKET, INCUS_DIR, the default)."""
    if environ.get("INCUS_SOCKET"):
        return [environ["INCUS_SOCKET"]]
    folder = environ.get("INCUS_DIR") or "/var/lib/incus"
    return [f"{folder}/unix.socket", f"{folder}/unix.socket.user"]


# ----------------------------------------------------------------------------------------------------------------
# history
# history.jsonl: append a line, fold the lines into entries. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# protection
# The wall between a workspace and the host: what an instance description needs so that even root in the
# container cannot turn the workspace against its owner. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# sessions
# Names, slots and the instance description; create, stop, delete, resume; the live registry. Knows nothing of
# HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# workspaces
# Workspace roots, the projects in them, new folders. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# setup
# From a bare machine to a working Incus with the standard image; the health report. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# http
# Request, response, the routing table, static files and the gate. Knows nothing of what the handlers do.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# websocket
# The hand-off from http.server to the websockets library, the terminal bridge, the event hub.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# server
# Wires the sections above together: handlers, config polling, the listener, shutdown.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# command line
# argparse; each subcommand is a few lines over the sections above.
# ----------------------------------------------------------------------------------------------------------------
