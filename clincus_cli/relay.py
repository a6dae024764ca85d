"""Programs on our own streams: relayed commands of a container, and the end of a program with its family."""

from __future__ import annotations

import errno
import functools
import glob
import os
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import clincus

Sink = Callable[[bytes], object]  # gets each piece that arrives; it raises BrokenPipeError when it wants no more
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OUR_STREAMS = functools.partial(clincus.write_all, 1), functools.partial(clincus.write_all, 2)


class Held:
    """A sink that keeps what it gets, up to a limit in bytes."""

    def __init__(self, limit: int = clincus.OUTPUT_LIMIT) -> None:
        self.data = bytearray()
        self.limit = limit
        self.is_full = False

    def __call__(self, piece: bytes) -> None:
        self.is_full = len(self.data) + len(piece) > self.limit
        if self.is_full:
            raise BrokenPipeError
        self.data += piece


def pour(stream: IO[bytes], sink: Sink, failures: list[OSError]) -> None:
    """Pass on the bytes of a stream. If the sink takes no more, the writer of the stream gets SIGPIPE."""
    try:
        while piece := stream.read1(1 << 16):  # type: ignore[attr-defined]
            sink(piece)
    except BrokenPipeError:
        stream.close()
    except OSError as error:
        failures.append(error)
        stream.close()


def input_for(command: clincus.GuestCommand, source: int) -> Iterator[bytes]:
    """The bytes that come from a descriptor until it or the command ends."""
    poll = clincus.poll_on(source, select.POLLIN)
    while command.process.poll() is None:
        if poll.poll(200):
            try:
                piece = os.read(source, 1 << 16)
            except OSError as error:
                if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(source).st_mode):
                    raise
                piece = b""  # the terminal is gone
            if not piece:
                return
            yield piece


def run_relayed(
    incus: clincus.Incus,
    name: str,
    command: Sequence[str],
    sinks: tuple[Sink, Sink] = OUR_STREAMS,
    *,
    stdin: int | None = 0,
    limit: float | None = None,
    passes: Sequence[int] = (),
    **options: Any,
) -> int:
    """Run a command in an instance on our streams, with `options` of `exec_argv`, and return its exit code.

    The command reads from the descriptor `stdin` (None: empty input), and writes to the sinks for stdout and stderr.
    Signals in `passes` that this process gets are passed on to it. The command ends with this call, however the call
    ends. Raises subprocess.TimeoutExpired after `limit` seconds, IncusError when the command cannot start, OSError from
    a sink.
    """
    failures: list[OSError] = []
    deadline = time.monotonic() + (limit or 0)
    try:
        with incus.running_command(name, command, limit, **options) as running, passing_signals(running, passes):
            running.feed([] if stdin is None else input_for(running, stdin))
            errors = threading.Thread(target=pour, args=(running.stderr, sinks[1], failures), daemon=True)
            errors.start()
            pour(running.stdout, sinks[0], failures)
            code = running.wait([errors])
    except clincus.IncusError:
        if limit and time.monotonic() >= deadline:
            raise subprocess.TimeoutExpired(list(command), limit) from None
        raise
    if failures:
        raise failures[0]
    return code


@contextmanager
def passing_signals(child: clincus.Child, numbers: Sequence[int]) -> Iterator[None]:
    """Pass signals that this process gets on to a child."""
    before = {number: signal.signal(number, lambda number, _: child.signal(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_children(child: subprocess.Popen[bytes], patience: float = 2) -> None:
    """End a process and its descendants, in any session: by SIGTERM, and by SIGKILL after `patience` seconds."""
    family = [child.pid, *children_of(child.pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
            return


def children_of(pid: int) -> list[int]:
    """The descendants of a process (proc_pid_stat(5): the fourth field is the parent)."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError), open(path, encoding="utf-8", errors="replace") as file:
            parents[int(path.split("/")[2])] = int(file.read().rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:  # the list grows meanwhile
        family += [one for one, parent in parents.items() if parent == member]
    return family[1:]
