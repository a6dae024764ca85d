"""history.jsonl: lines into runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import clincus


def start(name: str, time: str, **more: object) -> bytes:
    return json.dumps({"type": "start", "id": name, "workspace": "/w", "tool": "claude", "time": time, **more}).encode()


def stop(name: str, time: str, **more: object) -> bytes:
    return json.dumps({"type": "stop", "id": name, "workspace": "/w", "time": time, **more}).encode()


def times(runs: list[clincus.Run]) -> list[tuple[str, str | None]]:
    return [(run.started_at[11:19], run.ended_at[11:19] if run.ended_at else None) for run in runs]


CASES = {
    "a start without a stop is a run that goes on": (
        [start("a-1", "2026-01-01T10:00:00Z")],
        [("10:00:00", None)],
    ),
    "a stop ends the open run of its container": (
        [start("a-1", "2026-01-01T10:00:00Z"), stop("a-1", "2026-01-01T11:00:00Z")],
        [("10:00:00", "11:00:00")],
    ),
    "each run of one session is an entry, newest first": (
        [
            start("a-1", "2026-01-01T10:00:00Z"),
            stop("a-1", "2026-01-01T11:00:00Z"),
            start("a-1", "2026-01-01T12:00:00Z"),
            stop("a-1", "2026-01-01T13:00:00Z"),
        ],
        [("12:00:00", "13:00:00"), ("10:00:00", "11:00:00")],
    ),
    "the same start told by two processes is one run": (
        [start("a-1", "2026-01-01T10:00:00Z", session_id="s"), start("a-1", "2026-01-01T10:00:02Z", session_id="s")],
        [("10:00:00", None)],
    ),
    "a start whose stop was never seen ends the run before it": (
        [start("a-1", "2026-01-01T10:00:00Z"), start("a-1", "2026-01-01T12:00:00Z")],
        [("12:00:00", None), ("10:00:00", "12:00:00")],
    ),
    "a stop without a start is nothing": ([stop("a-1", "2026-01-01T11:00:00Z")], []),
    "torn and foreign lines are passed over": (
        [b'{"type":"start","id":"a-1","wor', b"[]", b"{}", b"\xff", start("a-1", "2026-01-01T10:00:00Z")],
        [("10:00:00", None)],
    ),
    "times of any zone become UTC": ([start("a-1", "2026-01-01T10:00:00+01:00")], [("09:00:00", None)]),
}


@pytest.mark.parametrize(("lines", "expected"), CASES.values(), ids=CASES.keys())
def test_lines_fold_into_runs(lines, expected):
    assert times(clincus.fold_history(lines)) == expected


def test_the_go_programs_lines_have_the_container_as_session_id():
    run = clincus.fold_history([start("clincus-ec0578f9-1", "2026-01-01T10:00:00Z")])[0]
    assert run.document() == {
        "session_id": "clincus-ec0578f9-1",
        "id": "clincus-ec0578f9-1",
        "workspace": "/w",
        "tool": "claude",
        "slot": 1,
        "started_at": "2026-01-01T10:00:00Z",
        "ended_at": None,
        "persistent": False,
        "exit_code": None,
    }


RUN = clincus.Run("s", "clincus-0a0a0a-2", "/w", "claude", "2026-01-01T10:00:00Z")


def test_what_is_appended_is_read_back(tmp_path: Path):
    history = clincus.History(str(tmp_path / "state" / "history.jsonl"))
    assert history.runs() == []
    history.start(RUN)
    assert times(history.runs()) == [("10:00:00", None)]
    history.stop(RUN, "2026-01-01T11:00:00Z")
    assert times(history.runs()) == [("10:00:00", "11:00:00")]


def test_an_append_after_a_torn_line_keeps_its_own_line(tmp_path: Path):
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'{"type":"sta')
    history = clincus.History(str(file))
    history.start(RUN)
    assert times(history.runs()) == [("10:00:00", None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T16:16:26.349684052Z", "2026-11-24T16:16:26Z"),
        ("2026-11-24T17:16:26.3+01:00", "2026-11-24T16:16:26Z"),
        ("0001-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z", None),
        ("2026-13-01T00:00:00Z", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_times_of_incus_are_read(text, expected):
    moment = clincus.parse_time(text)
    assert (clincus.format_time(moment) if moment else None) == expected


def test_a_history_that_cannot_be_written_is_reported_and_hinders_nothing(tmp_path: Path):
    session = clincus.Session("clincus-0a0a0a-2", "/w", "claude", 2, "running", False, session_id="s")
    (tmp_path / "state").write_text("a file where the folder should be")
    history = clincus.History(str(tmp_path / "state" / "history.jsonl"))
    said: list[str] = []
    for kind in ("started", "stopped", "changed"):
        clincus.record_run(history, clincus.Change(kind, session, "2026-01-01T10:00:00Z"), said.append)
    assert len(said) == 2
    assert all("cannot be written" in line for line in said)


def test_a_history_that_cannot_be_read_says_why(tmp_path: Path):
    with pytest.raises(clincus.ClincusError, match=r"cannot be read: Is a directory"):
        clincus.History(str(tmp_path)).runs()


def a_run(number: int, *, slot: int = 1) -> clincus.Run:
    started = f"2026-01-01T10:{number // 60:02}:{number % 60:02}Z"
    return clincus.Run(f"s{number}", f"a-{slot}", "/w", "claude", started, persistent=True)


def test_a_long_history_forgets_its_oldest_runs_and_none_that_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(clincus, "HISTORY_LIMIT", 10_000)
    history = clincus.History(str(tmp_path / "history.jsonl"))
    history.start(a_run(0, slot=2))
    for number in range(1, 200):
        run = a_run(number)
        history.start(run)
        history.stop(run, run.started_at)
        assert (tmp_path / "history.jsonl").stat().st_size <= 10_000
        assert history.runs()[0].session_id == run.session_id
    *ended, oldest = history.runs()
    assert (oldest.session_id, oldest.ended_at) == ("s0", None)
    assert [run.session_id for run in ended] == [f"s{number}" for number in range(199, 199 - len(ended), -1)]
    assert {(run.tool, run.persistent, run.ended_at == run.started_at) for run in ended} == {("claude", True, True)}
    assert 10 < len(ended) < 50


def test_of_a_history_that_is_far_too_long_the_newest_runs_are_read_in_little_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(clincus, "HISTORY_LIMIT", 100_000)
    path = tmp_path / "history.jsonl"
    with open(path, "wb") as file:
        file.truncate(50_000_000)  # without any end of a line
        file.seek(0, os.SEEK_END)
        for number in range(3000):
            file.write((b"\n" if number == 0 else b"") + a_run(number).line("start"))
    history = clincus.History(str(path))
    tracemalloc.start()
    try:
        runs = history.runs()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert (runs[0].session_id, 500 < len(runs) < 3000) == ("s2999", True)
    history.start(a_run(3000))
    assert (history.runs()[0].session_id, path.stat().st_size < 100_000) == ("s3000", True)


def test_a_history_that_cannot_be_shortened_stays_whole(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clincus, "HISTORY_LIMIT", 600)
    monkeypatch.setattr(clincus, "replace_file", full)
    history = clincus.History(str(tmp_path / "history.jsonl"))
    for number in range(5):
        history.start(a_run(number, slot=number))
    assert len(history.runs()) == 5


def test_writers_at_once_lose_no_line_while_the_history_is_shortened(tmp_path: Path):
    """Each process leaves runs that go on, which are never forgotten, among many that end."""
    path = tmp_path / "history.jsonl"
    script = """
import sys, clincus
clincus.HISTORY_LIMIT = 20_000
history, who = clincus.History(sys.argv[1]), int(sys.argv[2])
for number in range(60):
    kept = clincus.Run(f"kept{who}-{number}", f"kept{who}-{number}", "/w", "claude", clincus.utc_now())
    gone = clincus.Run(f"gone{number}", f"gone{who}-1", "/w", "claude", clincus.utc_now())
    history.start(kept), history.start(gone), history.stop(gone, clincus.utc_now())
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(who)]) for who in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    kept = {run.session_id for run in clincus.History(str(path)).runs() if run.session_id.startswith("kept")}
    assert kept == {f"kept{who}-{number}" for who in range(4) for number in range(60)}
