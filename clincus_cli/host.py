"""Finds and runs programs of this machine, and finds out their rights here."""

from __future__ import annotations

import functools
import io
import os
import re
import shlex
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import clincus
from clincus_cli import relay
from clincus_features.health import Machine

Say = Callable[[str], None]  # tells the user in a few words what is being done

PATIENCE = 60  # seconds for a program to end: mmdebstrap unmounts and removes what it has unpacked
LINE_LIMIT = 1 << 16  # bytes


def hand_on_lines(stream: io.BufferedReader, on_line: Say) -> str:
    """Pass on each line of a stream until its end. Returns the last ones, without those that are empty."""
    tail: deque[str] = deque(maxlen=12)
    try:
        while raw := stream.readline(LINE_LIMIT):
            tail.append(raw.decode("utf-8", "replace").rstrip())
            on_line(tail[-1])
    except BaseException:
        rest = iter(functools.partial(stream.read1, LINE_LIMIT), b"")
        threading.Thread(target=deque, args=(rest, 0), daemon=True).start()  # a full pipe would hold up its end
        raise
    return "\n".join(line for line in tail if line)


def program_failure(name: str, code: int, words: str) -> clincus.ClincusError:
    """The error for a program that ended with a code, with its last words."""
    return clincus.ClincusError(f"{name} failed (exit code {code}): {words}")


class Family(clincus.Child):
    """A child whose own children get each signal too, also in other sessions, as mmdebstrap's dpkg is."""

    def signal(self, number: int) -> None:
        for pid in relay.children_of(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        super().signal(number)


class Host(Machine):
    """The machine that setup works on: its files and its programs. Tests pass one of their own."""

    def which(self, program: str) -> str:
        """The full path of a program, or "". Root's own folders and Incus's are searched too."""
        more = "/usr/sbin:/sbin:/usr/libexec/incus:/opt/incus/bin"
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{more}") or ""

    def run(self, argv: Sequence[str], *, timeout: float = 60, env: Mapping[str, str] = {}) -> None:
        """Run a program. Raises ClincusError with its last words."""
        done = self.attempt(argv, timeout=timeout, env=env)
        if done.code != 0:
            raise clincus.ClincusError(f"`{shlex.join(argv[:4])}` failed: {done.reason}")

    def attempt(self, argv: Sequence[str], *, timeout: float = 60, env: Mapping[str, str] = {}) -> clincus.Completed:
        """Run a program and return its result; the code is 127 if it cannot be run, or takes too long."""
        try:
            return clincus.run_child(argv, timeout=timeout, environ={**os.environ, **env})
        except clincus.ChildError as error:
            return clincus.Completed(127, b"", error.message.encode())

    def follow(self, argv: Sequence[str], on_line: Say, *, timeout: float, env: Mapping[str, str] = {}) -> None:
        """Run a program and pass on each line that it prints. Raises ClincusError with its last words."""
        options: dict[str, Any] = {"ending": clincus.Ending(signal.SIGTERM, PATIENCE), "environ": {**os.environ, **env}}
        with Family(argv, timeout=timeout, merged=True, **options) as child:
            child.feed([])
            words = hand_on_lines(io.BufferedReader(cast("io.RawIOBase", child.stdout)), on_line)
            code = child.wait()
        if code != 0:
            raise program_failure(argv[0], code, words)

    def has_systemd(self) -> bool:
        """True if systemd runs this machine (sd_booted(3))."""
        return self.path("/run/systemd/system").is_dir()

    def may_have_capability(self, number: int) -> bool:
        """True if root can have a capability here, by the bounding set (capabilities(7))."""
        found = re.search(r"^CapBnd:\s*([0-9a-f]+)", self.read("/proc/self/status"), re.MULTILINE)
        return bool(found and int(found.group(1), 16) >> number & 1)
