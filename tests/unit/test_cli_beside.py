"""Several sessions are worked on beside each other, and the output reads as if one came after the other."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import beside, console
from tests.programs import DEADLINE, wait_until

NAMES = [f"clincus-00000{number}-1" for number in range(3)]


@pytest.fixture
def door():
    return clincus.Incus()


@pytest.fixture
def sessions(door):
    return SimpleNamespace(door=lambda id: door)


def test_the_lines_of_each_stand_together_in_the_order_of_the_names(sessions, capsys):
    over = {name: threading.Event() for name in NAMES}
    over["after the last"] = threading.Event()
    over["after the last"].set()
    next_one = dict(zip(NAMES, [*NAMES[1:], "after the last"]))

    def work(name: str) -> None:
        console.tell(f"{name} begins")
        assert over[next_one[name]].wait(DEADLINE)  # the last one ends first
        console.tell(f"{name} ends")
        console.warn(f"{name} leaves something")
        over[name].set()

    beside.attempt_beside(sessions, NAMES, work)
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{name} {what}" for name in NAMES for what in ("begins", "ends")]
    assert said.err.splitlines() == [f"Warning: {name} leaves something" for name in NAMES]


def test_one_that_fails_stops_no_other_and_is_told(sessions, capsys):
    for error in (clincus.ClincusError("it is kept", 409), OSError("it is kept"), ZeroDivisionError()):
        done = []

        def work(name: str, error=error, done=done) -> None:
            if name == NAMES[0]:
                raise error
            done.append(name)

        if isinstance(error, ZeroDivisionError):  # a fault of the program
            with pytest.raises(ZeroDivisionError):
                beside.attempt_beside(sessions, NAMES, work)
        else:
            assert beside.attempt_beside(sessions, NAMES, work) == NAMES[1:]
            assert capsys.readouterr().err == f"Warning: {NAMES[0]}: it is kept\n"
        assert sorted(done) == NAMES[1:]


def test_an_interruption_ends_what_they_wait_for_and_begins_nothing_more(door, sessions):
    """Their commands would run on for minutes, and those that wait for their turn would still be ended."""
    begun, failures = [], []
    names = [f"box-{number}" for number in range(2 * beside.AT_ONCE)]
    all_wait = threading.Barrier(beside.AT_ONCE + 1)

    def work(name: str) -> None:
        begun.append(name)
        with clincus.IncusChild(["sleep", "1000"]) as child, door._awaited(child):
            all_wait.wait(DEADLINE)
            try:
                child.complete()
            except clincus.IncusError as error:
                failures.append(str(error))
        door.argv("delete", name)

    def interrupt() -> None:
        all_wait.wait(DEADLINE)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        beside.attempt_beside(sessions, names, work)
    interrupter.join()
    assert failures == [beside.INTERRUPTED] * beside.AT_ONCE
    assert sorted(begun) == names[: beside.AT_ONCE]
    with pytest.raises(clincus.IncusError, match=beside.INTERRUPTED):
        door.argv("delete", "box")


def test_the_work_goes_on_when_nobody_reads_of_it():
    script = f"""
import sys
from types import SimpleNamespace
from clincus_cli import beside, console

def work(name):
    console.tell(name)

sessions = SimpleNamespace(door=lambda id: SimpleNamespace(waiting=set()))
print(beside.attempt_beside(sessions, {NAMES}, work), file=sys.stderr)
"""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writes, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        cwd=clincus.__file__.rpartition("/")[0],
    )  # fmt: skip
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, f"{NAMES}\n")


def test_a_line_does_not_stand_behind_the_mark_that_turns(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress("Killing 3 containers"):
        wait_until(lambda: "Killing" in shown.getvalue())
        console.tell("one is gone")
    assert "\r\033[Kone is gone\n" in shown.getvalue()
    console.tell("all are gone")
    assert shown.getvalue().endswith("\r\033[Kall are gone\n")
