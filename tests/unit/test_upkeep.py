"""Which sessions are ended by themselves, and when."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_features import upkeep
from tests.programs import DEADLINE, wait_until
from tests.table import table

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
FIRST, SECOND = "clincus-0a1b2c-1", "clincus-0a1b2c-2"


class Sessions:
    """As much of `clincus.Sessions` as upkeep uses; `end` only notes down, and fails for the names in `broken`."""

    def __init__(self, folder: Path) -> None:
        self.registry = clincus.Registry("clincus-", lambda change: None)
        self.ended: list[tuple[str, bool]] = []
        self.kept: list[str] = []  # ended only after a copy of what would be lost
        self.reports: list[str] = []
        self.report = self.reports.append
        self.saved: list[str] = []
        self.broken: set[str] = set()
        self.half_made: dict[str, clincus.Session] = {}
        self._folder = folder

    def add(self, name: str = FIRST, *, is_ours: bool = True, status: str = "Stopped", **labels: str) -> None:
        config = {"workspace": "/w", "tool": "claude", "session_id": name, **labels}
        instance: dict[str, Any] = {"name": name, "status": status, "last_used_at": "2026-01-01T08:00:00Z"}
        instance["config"] = {clincus.LABEL + key: value for key, value in config.items()}
        self.registry.compare_one(next(self.registry.questions), name, instance)
        if is_ours:
            session = self.registry.get(name)
            directory = self.saved_directory(session)
            clincus.write_metadata(clincus.SavedSession(session_id=name, tool=session.tool, directory=directory))

    def saved_directory(self, session: clincus.Session) -> str:
        return str(self._folder / session.id)

    def save(self, id: str, *, wait: bool) -> clincus.SaveResult:
        if id in self.broken:
            return clincus.SaveResult.BUSY
        self.saved.append(id)
        return clincus.SaveResult.DONE

    @contextlib.contextmanager
    def held(self, id: str) -> Iterator[None]:
        yield

    def end(self, id: str, *, delete: bool = False, keeps: bool = False) -> None:
        if id in self.broken:
            raise clincus.ClincusError("Incus is busy")
        self.ended.append((id, delete))
        self.kept += [id] if keeps else []


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1000.0]
    monkeypatch.setattr(upkeep.time, "monotonic", lambda: seconds[0])
    return seconds


@table(
    ("deadline", "expired", "seconds"),
    [
        ("2026-01-01T11:00:00Z", True, -3600),
        ("2026-01-01T12:00:20Z", False, 20),
        ("2026-01-01T15:00:00Z", False, 60),  # far off, by a clock that may be set
        ("", False, 600),
    ],
)
def test_a_session_whose_time_is_over_is_stopped_and_nobody_looks_before_that(tmp_path, deadline, expired, seconds):
    sessions = Sessions(tmp_path)
    sessions.add(status="Running", deadline=deadline)
    assert upkeep.seconds_until_stop(sessions, NOON, "") == seconds
    upkeep.stop_expired(sessions, NOON, "")
    assert sessions.ended == ([(FIRST, False)] if expired else [])


def test_sessions_whose_stop_hangs_hold_up_no_other_and_are_stopped_once(sessions, monkeypatch):
    """There are as many of them as are stopped at once. A hostile container can take minutes."""
    monkeypatch.setattr(upkeep, "END_HANGS", 0.05)
    liars = [f"clincus-0a1b2c-{number}" for number in range(1, upkeep.ENDS_AT_ONCE + 1)]
    for name in (*liars, "clincus-ffffff-1"):
        sessions.add(name, status="Running", deadline="2026-01-01T10:00:00Z")
    goes_on, begun, stop = threading.Event(), [], sessions.end

    def end(id: str, **options: bool) -> None:
        begun.append(id)
        if id in liars:
            goes_on.wait(60)
        stop(id, **options)

    monkeypatch.setattr(sessions, "end", end)
    ends = upkeep.Ends()
    try:
        upkeep.stop_expired(sessions, NOON, "", ends)
        wait_until(lambda: sessions.ended == [("clincus-ffffff-1", False)], "the end of the other one")
        sessions.add("clincus-ffffff-1", status="Stopped")
        upkeep.stop_expired(sessions, NOON, "", ends)
        assert sorted(begun) == [*liars, "clincus-ffffff-1"]
    finally:
        goes_on.set()
        wait_until(lambda: len(sessions.ended) == len(begun), "the end of all")


def half_made(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Let the container of a failed start have stayed; the sessions that are ended, and whether that deletes them."""
    sessions.add(status="Running")
    sessions.half_made[FIRST] = sessions.registry.get(FIRST)
    monkeypatch.setattr(Sessions, "look", lambda self, id: self.registry.find(id), raising=False)
    return sessions.ended


def test_what_a_failed_start_left_is_removed_once_its_engine_is_back(sessions, monkeypatch):
    deleted = half_made(sessions, monkeypatch)
    upkeep.remove_half_made(sessions, "another engine")
    assert deleted == []
    upkeep.remove_half_made(sessions, "")
    assert (deleted, sessions.half_made) == ([(FIRST, True)], {})
    assert sessions.kept == []


def test_what_a_failed_start_left_stays_if_its_tool_has_done_something_since(sessions, monkeypatch):
    half_made(sessions, monkeypatch)

    def refuse(id: str, *, delete: bool) -> None:
        raise clincus.UnsavedError("this host does not have 2 commits", clincus.Unsaved({"commits": clincus.Loss(2)}))

    monkeypatch.setattr(sessions, "end", refuse)
    upkeep.remove_half_made(sessions, "")
    assert (sessions.half_made, len(sessions.reports)) == ({}, 1)
    assert "does not have 2 commits" in sessions.reports[0]


def tidy_up(sessions: Sessions, ended_at: str = "2026-01-01T10:00:00Z") -> None:
    ended = {session.session_id: ended_at for session in sessions.registry.all()}
    upkeep.delete_abandoned(sessions, NOON - timedelta(hours=1), ended, "")


@table(
    ("how", "ended_at", "goes"),
    [
        ({}, "2026-01-01T10:00:00Z", True),
        ({}, "2026-01-01T11:30:00Z", False),
        ({"status": "Running"}, "2026-01-01T10:00:00Z", False),
        ({"persistent": "true"}, "2026-01-01T10:00:00Z", False),
        ({"mode": "clone"}, "2026-01-01T10:00:00Z", False),
        ({"is_ours": False}, "2026-01-01T10:00:00Z", False),  # another user of this Incus started it
    ],
)
def test_an_ephemeral_session_that_stopped_long_ago_is_deleted_and_no_other(tmp_path, how, ended_at, goes):
    sessions = Sessions(tmp_path)
    sessions.add(**how)
    tidy_up(sessions, ended_at)
    assert sessions.ended == [(FIRST, True)] * goes
    assert sessions.kept == [FIRST] * goes, "files of a person are copied first"


def test_running_sessions_are_saved_after_a_ring_and_every_few_minutes(sessions, clock):
    saves = upkeep.Saves()
    sessions.add(status="Running")
    sessions.add(SECOND)  # a stopped one was saved at its stop

    def after(seconds: float) -> list[str]:
        clock[0] += seconds
        sessions.saved.clear()
        saves.save_due(sessions, "")
        return list(sessions.saved)

    assert after(0) == []
    assert after(upkeep.SAVE_AFTER_RING + 1) == []
    sessions.registry.ring(FIRST, NOON)
    assert after(1) == [FIRST]
    sessions.registry.ring(FIRST, NOON + timedelta(seconds=1))
    assert after(1) == []  # a bell that never rests costs no more than this
    assert after(upkeep.SAVE_AFTER_RING) == [FIRST]
    assert after(upkeep.SAVE_EVERY - 1) == []
    sessions.broken = {FIRST}
    assert after(2) == [], "it is being worked on"
    sessions.broken = set()
    assert after(5) == [FIRST]


def test_saves_that_hang_hold_up_no_other(sessions, monkeypatch):
    saves, over, hanging = upkeep.Saves(), threading.Event(), [f"clincus-0a1b2c-{slot}" for slot in (3, 4, 5)]
    monkeypatch.setattr(upkeep, "SAVE_HANGS", 0.01)
    for name in (*hanging, FIRST):
        sessions.add(name, status="Running")
        sessions.registry.ring(name, NOON)

    begun: set[str] = set()

    def save(id: str, *, wait: bool) -> clincus.SaveResult:
        begun.add(id)
        if id in hanging:
            assert over.wait(DEADLINE)
            return clincus.SaveResult.FAILED
        return Sessions.save(sessions, id, wait=wait)

    def are_begun() -> bool:
        """On a busy machine one does not begin in time: then it is due again."""
        last = saves._last.get("", {})
        for id in last:
            last[id] = last[id]._replace(at=math.inf if id in begun else -math.inf)
        saves.save_due(sessions, "")
        return begun == {FIRST, *hanging} and FIRST in sessions.saved

    monkeypatch.setattr(sessions, "save", save)
    wait_until(are_begun, "all saves to begin, and the end of the other one")
    over.set()
