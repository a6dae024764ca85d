"""history.jsonl: lines into runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import clincus
from tests.builders import a_session
from tests.table import table


def start(name: str, time: str, **more: object) -> bytes:
    return json.dumps({"type": "start", "id": name, "workspace": "/w", "tool": "claude", "time": time, **more}).encode()


def stop(name: str, time: str, **more: object) -> bytes:
    return json.dumps({"type": "stop", "id": name, "workspace": "/w", "time": time, **more}).encode()


def times(runs: list[clincus.Run]) -> list[tuple[str, str | None]]:
    return [(run.started_at[11:19], run.ended_at[11:19] if run.ended_at else None) for run in runs]


def fold(lines: list[bytes]) -> list[clincus.Run]:
    folded = clincus.Fold()
    folded.add(lines)
    return folded.newest_first()


def at(time: str, name: str = "a-1", **more: object) -> bytes:
    return start(name, f"2026-01-01T{time}", **more)


STOP = stop("a-1", "2026-01-01T11:00:00Z")


@table(
    ("lines", "expected"),
    [
        ([at("10:00:00Z"), STOP], [("10:00:00", "11:00:00")]),
        ([at("10:00:00Z"), STOP, at("12:00:00Z")], [("12:00:00", None), ("10:00:00", "11:00:00")]),
        # The same start told by two processes; a start whose stop was never seen; a stop without a start.
        ([at("10:00:00Z", session_id="s"), at("10:00:02Z", session_id="s")], [("10:00:00", None)]),
        ([at("10:00:00Z"), at("12:00:00Z")], [("12:00:00", None), ("10:00:00", "12:00:00")]),
        ([STOP], []),
        ([b'{"type":"start","id":"a-1","wor', b"[]", b"{}", b"\xff", at("10:00:00Z")], [("10:00:00", None)]),
        ([at("10:00:00+01:00")], [("09:00:00", None)]),
    ],
)
def test_lines_fold_into_runs(lines, expected):
    assert times(fold(lines)) == expected


RUN = clincus.Run("s", "clincus-0a0a0a-2", "/w", "claude", "2026-01-01T10:00:00Z")


def test_an_append_after_a_torn_line_keeps_its_own_line(tmp_path: Path):
    file = tmp_path / "state/history.jsonl"
    history = clincus.History(str(file))
    assert history.runs() == []
    file.parent.mkdir()
    file.write_bytes(b'{"type":"sta')
    history.record(RUN)
    assert times(history.runs()) == [("10:00:00", None)]
    history.record(RUN._replace(ended_at="2026-01-01T11:00:00Z"))
    assert times(history.runs()) == [("10:00:00", "11:00:00")]


@table(
    ("text", "expected"),
    [
        ("2026-11-24T16:16:26.349684052Z", "2026-11-24T16:16:26Z"),
        ("9999-12-31T23:59:59-14:00", None),  # year 10000 in UTC
        (None, None),
    ],
)
def test_times_of_incus_are_read(text, expected):
    moment = clincus.parse_time(text)
    assert (clincus.format_time(moment) if moment else None) == expected


def test_a_history_that_cannot_be_written_is_reported_and_hinders_nothing(tmp_path: Path):
    session = a_session(2, session_id="s")
    (tmp_path / "state").write_text("a file where the folder should be")
    history = clincus.History(str(tmp_path / "state" / "history.jsonl"))
    said: list[str] = []
    for kind in ("started", "stopped", "changed"):
        clincus.record_run(history, clincus.Change(kind, session, "2026-01-01T10:00:00Z"), said.append)
    assert len(said) == 2
    assert all("cannot be written" in line for line in said)
    with pytest.raises(clincus.ClincusError, match="cannot be read"):
        clincus.History(str(tmp_path)).runs()


def a_run(number: int, *, slot: int = 1) -> clincus.Run:
    started = f"2026-01-01T10:{number // 60:02}:{number % 60:02}Z"
    return clincus.Run(f"s{number}", f"a-{slot}", "/w", "claude", started, persistent=True)


def test_a_long_history_forgets_its_oldest_runs_and_none_that_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(clincus, "HISTORY_LIMIT", 10_000)
    history = clincus.History(str(tmp_path / "history.jsonl"))
    history.record(a_run(0, slot=2))
    for number in range(1, 200):
        run = a_run(number)
        history.record(run)
        history.record(run._replace(ended_at=run.started_at))
        assert (tmp_path / "history.jsonl").stat().st_size <= 10_000
        assert history.runs()[0].session_id == run.session_id
    *ended, oldest = history.runs()
    assert (oldest.session_id, oldest.ended_at) == ("s0", None)
    assert [run.session_id for run in ended] == [f"s{number}" for number in range(199, 199 - len(ended), -1)]
    assert 10 < len(ended) < 50


def test_writers_at_once_lose_no_line_while_the_history_is_shortened(tmp_path: Path):
    """Each process leaves runs that go on, which are never forgotten, among many that end."""
    path = tmp_path / "history.jsonl"
    script = """
import sys, clincus
clincus.HISTORY_LIMIT = 10_000
history, who = clincus.History(sys.argv[1]), int(sys.argv[2])
for number in range(30):
    kept = clincus.Run(f"kept{who}-{number}", f"kept{who}-{number}", "/w", "claude", clincus.utc_now())
    gone = clincus.Run(f"gone{number}", f"gone{who}-1", "/w", "claude", clincus.utc_now())
    history.record(kept), history.record(gone), history.record(gone._replace(ended_at=clincus.utc_now()))
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(who)]) for who in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 3
    kept = {run.session_id for run in clincus.History(str(path)).runs() if run.session_id.startswith("kept")}
    assert kept == {f"kept{who}-{number}" for who in range(3) for number in range(30)}


def test_a_process_that_keeps_the_lock_holds_up_one_start_for_a_moment_and_loses_none(tmp_path, monkeypatch):
    """It may be stopped by Ctrl-Z, or lie on another machine that hangs."""
    monkeypatch.setattr(clincus, "HISTORY_PATIENCE", 0.01)
    history = clincus.History(str(tmp_path / "history.jsonl"))
    runs = [a_run(number, slot=number) for number in (1, 2, 3)]
    with clincus.directory_lock(str(tmp_path)):
        for run in runs[:2]:
            with pytest.raises(clincus.ClincusError):
                history.record(run)
        assert history.runs() == []
    monkeypatch.setattr(clincus, "HISTORY_PATIENCE", 60)
    history.record(runs[2])
    assert {run.session_id for run in history.runs()} == {run.session_id for run in runs}


# -- A file that changes while it is read again and again


def lines(*numbers: int) -> bytes:
    runs = [a_run(number) for number in numbers]
    return b"".join(run.line("start") + run._replace(ended_at=run.started_at).line("stop") for run in runs)


def overwrite(path: Path, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def replaced(path: Path, data: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(data)
    new.rename(path)


def trimmed_by_another(path: Path, _: bytes) -> None:
    with open(path, "ab+") as file:
        clincus.History(str(path))._trim(file)


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


OPEN = a_run(4).line("start")
# What is done to a file of 8 lines that was read, and how many of its lines are read then.
CHANGES = [
    ([(append, lines(4))], 2),
    ([(append, OPEN[:40]), (append, OPEN[40:-1]), (append, b"\n")], 3),  # a line in pieces
    ([(overwrite, lines(*range(4))[:-30])], 8),
    ([(overwrite, lines(*range(5, 9)))], 8),  # of the same size
    ([(replaced, lines(*range(5, 9)))], 8),
    ([(trimmed_by_another, b""), (append, lines(5))], 10),
]


@table(("changes", "read"), CHANGES)
def test_after_a_change_only_what_is_new_is_read_and_the_runs_are_those_of_the_file(
    tmp_path, monkeypatch, changes, read
):
    path = tmp_path / "history.jsonl"
    path.write_bytes(lines(*range(4)))
    history, count, add = clincus.History(str(path)), [], clincus.Fold.add
    assert len(history.runs()) == 4

    def noted(fold: clincus.Fold, given: list[bytes]) -> int:
        count.extend(given := list(given))
        return add(fold, given)

    for change, data in changes:
        change(path, data)
        with monkeypatch.context() as patch:
            patch.setattr(clincus.Fold, "add", noted)
            runs = history.runs()
        assert runs == clincus.History(str(path)).runs()
    assert len(count) == read


RUNS = [
    clincus.Run(f"s{number}", f"a-{number}", "/w", "claude", f"2026-01-01T10:00:0{second}Z")
    for number, second in ((4, 3), (3, 2), (2, 2), (1, 1))
]


def test_the_next_page_begins_behind_the_mark_of_a_run():
    def behind(runs: list[clincus.Run], mark: str) -> list[str]:
        return [run.id for run in runs[clincus.place_behind(runs, mark) :]]

    mark = clincus.run_mark(RUNS[1])
    newer = clincus.Run("s5", "a-5", "/w", "claude", "2026-01-01T11:00:00Z")
    assert behind(RUNS, mark) == behind([newer, *RUNS], mark) == ["a-2", "a-1"]
    assert behind(RUNS, "2026-01-01T10:00:02Z,a-9") == ["a-1"], "the run of the mark is gone"
    with pytest.raises(clincus.ClincusError, match="is no mark of a run"):
        behind(RUNS, "clincus-ec0578-1")
