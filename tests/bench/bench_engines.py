"""Sessions on an engine beside those on this host, in turns: create, clone, and a key's echo. bench_all.py runs it.

The engine is a second Incus daemon, which is reached over HTTPS on a loopback address. Both have the same kind of
storage, and no session has a network, since that daemon has none.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests import engines_bed
from tests.bench.bench_terminal import ServedTerminal
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Spent, create_seconds, delete, in_turns, percentile, timed
from tests.programs import Server, git

CREATES, KEYS, ROUNDS = 6, 200, 5
FILES = 200
TIMES, MORE = 1.3, 0.002  # the goals


@contextlib.contextmanager
def server_with_engine(made: House, config: str = "") -> Iterator[tuple[Server, engines_bed.Engine]]:
    """A server with the engine `far`, on which the bench's folder may be mounted, and with a configuration beside."""
    with engines_bed.far_daemon(made.bed) as far:
        os.environ.update(far.environ)
        try:
            with made.server(f'{config}[engines.far]\nroots = ["{made.folder}"]\n') as server:
                yield server, far
        finally:
            for name in far.environ:
                del os.environ[name]


def create_row(server: Server, folder: Path, mode: str, transfer: float, note: str) -> Row:
    here = functools.partial(create_seconds, server, folder, network="none", mode=mode)
    there = functools.partial(here, engine="far")
    in_turns(1, here, there)  # the first of each is slower
    ours, baseline = in_turns(CREATES, lambda: there() - transfer, here)
    for place, work in (("with its delete, there", there), ("; here", here)):
        spent = Spent(server)
        work()
        note += f"{place} {spent.words()}"
    figure = f"create on an engine, {'mounted folder' if mode == 'mount' else 'clone'}"
    return Row.of(figure, "s", ours, TIMES, baselines=baseline, compare="times", note=note)


def transfer_seconds(made: House, far: engines_bed.Engine, size: int) -> float:
    """How much longer so many bytes take over an `incus exec` there than over one here, at the least."""
    argv = ["--force-noninteractive", "--", "sh", "-c", "cat >/dev/null"]
    made.bed.incus.launch("near-bytes", "clincus", {})
    far.incus("launch", "far:clincus", "far:far-bytes")
    data = os.urandom(size)
    ours, baseline = in_turns(
        ROUNDS,
        lambda: timed(lambda: made.bed.incus.run("exec", "far:far-bytes", *argv, stdin=data)),
        lambda: timed(lambda: made.bed.incus.run("exec", "near-bytes", *argv, stdin=data)),
    )
    made.bed.incus.run("delete", "--force", "near-bytes")
    far.incus("delete", "--force", "far:far-bytes")
    return max(0.0, min(ours) - min(baseline))


def bundle_size(folder: Path) -> int:
    """Bytes of a repository as a clone gets them."""
    path = folder.with_suffix(".bundle")
    git(folder, "bundle", "create", "--quiet", str(path), "--all")
    return path.stat().st_size


def echo_terminal(server: Server, id: str) -> ServedTerminal:
    """A shell of a session with a program in it that returns each byte."""
    terminal = ServedTerminal((server.host, server.port), f"/ws/shell/{id}")
    terminal.read()
    for letter in b"stty raw -echo; clear; exec cat\r":
        terminal.type(bytes([letter]))
    time.sleep(2)
    terminal.discard()
    return terminal


def echoes(terminal: ServedTerminal) -> list[float]:
    """Seconds that each of many keys takes to come back."""

    def press() -> None:
        terminal.type(b"x")
        terminal.read()

    return [timed(press) for _ in range(KEYS)]


def echo_rows(server: Server, folder: Path) -> Iterator[Row]:
    ids = [server.create(folder, network="none", mode="mount", **fields)["id"] for fields in ({"engine": "far"}, {})]
    terminals = [echo_terminal(server, id) for id in ids]
    found: list[list[list[float]]] = [[], []]
    for _ in range(ROUNDS):
        for rounds, terminal in zip(found, terminals):
            rounds.append(echoes(terminal))
    for terminal, id in zip(terminals, ids):
        terminal.close()
        delete(server, id)
    for share in (0.5, 0.99):
        ours, baseline = ([percentile(times, share) for times in rounds] for rounds in found)
        figure = f"key echo on an engine, p{share * 100:.0f}"
        yield Row.of(figure, "s", ours, MORE, baselines=baseline, compare="more")


def engines(made: House, results: Results) -> None:
    with server_with_engine(made) as (server, far):
        folder = made.repository("on-engine", FILES)
        results.add(create_row(server, folder, "mount", 0, ""))
        size = bundle_size(folder)
        transfer = transfer_seconds(made, far, size)
        note = f"without the {transfer * 1000:.0f} ms that its {size:,} bytes take longer over the network; "
        results.add(create_row(server, folder, "clone", transfer, note))
        results.add(*echo_rows(server, folder))
