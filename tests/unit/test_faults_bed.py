"""What the tests of faults do to a daemon of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import clincus
from tests import faults_bed, incus_bed
from tests.incus_bed import Bed
from tests.programs import wait_until
from tests.table import table


def state(process: subprocess.Popen[bytes]) -> str:
    """The kernel's letter for the state of a process: T is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_daemon_goes_on_after_it_hung_though_a_child_of_it_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    daemon = subprocess.Popen(["sleep", "60"])
    bed = Bed(clincus.Incus(), daemon=daemon)
    monkeypatch.setattr(faults_bed, "daemon_processes", lambda bed: [ended.pid, daemon.pid])
    try:
        with faults_bed.hung(bed):
            wait_until(lambda: state(daemon) == "T", "the daemon to be stopped")
        wait_until(lambda: state(daemon) != "T", "the daemon to go on")
    finally:
        daemon.kill()
        daemon.wait()


@table(
    ("code", "words", "starts"),
    [(2, incus_bed.CONNECT_PANIC, 1), (2, "panic: something else", 0), (0, incus_bed.CONNECT_PANIC, 0)],
)
def test_only_a_daemon_that_died_of_the_known_fault_is_started_again(
    tmp_path: Path, code: int, words: str, starts: int
) -> None:
    (tmp_path / "log").write_text(f"{words}0xc0004bc8c0)\n")
    started: list[int] = []
    daemon = subprocess.Popen(["sh", "-c", f"exit {code}"])
    incus_bed.start_after_panic(daemon, tmp_path / "log", lambda: started.append(1)).join()
    assert len(started) == starts
