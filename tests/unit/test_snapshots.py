"""Snapshots of a container: what is told of them, and what a container keeps that goes back to one."""

from __future__ import annotations

import functools
import os
from contextlib import nullcontext
from typing import Any

import pytest

import clincus
from clincus_features import snapshots
from tests.builders import a_session
from tests.table import table


def test_a_container_that_goes_back_keeps_what_is_known_of_the_session():
    same = {"architecture": "x86_64", "description": "", "profiles": ["default"]}
    known = {"user.clincus.name": "new", "limits.cpu": "2"}
    then = {"volatile.idmap.base": "then", "image.os": "then"}
    before = {
        **same,
        "config": {**known, "volatile.idmap.base": "now", "image.os": "now"},
        "devices": {"root": {"size": "2GiB"}},
    }
    put = snapshots.restored_put(before, {**same, "config": {"user.clincus.name": "old", **then}, "devices": {}})
    assert put["config"] == {**known, **then}
    assert put["devices"] == {"root": {"size": "2GiB"}}


class Box:
    """An Incus with one session and one snapshot of it, which has another description, and its sessions."""

    def __init__(self, home: str, *, fails: bool = False) -> None:
        same = {"architecture": "", "description": "", "profiles": ["default"], "devices": {}}
        self.now: dict[str, Any] | None = {**same, "config": {"user.clincus.network": "none", "volatile.x": "now"}}
        self.then = {**same, "config": {"user.clincus.network": "open", "volatile.x": "then"}}
        self.environ, self.fails = {"HOME": home}, fails
        self.reports: list[str] = []
        self.report, self.registry = self.reports.append, self
        self.session = a_session(id="x", tool="shell", status="stopped", persistent=True)
        self.unfetched = ""  # what the container holds, and this host does not
        self.save_result = clincus.SaveResult.DONE
        self.names = ["one"]
        self.changed: list[str] = []

    def door(self, id: str) -> Box:
        return self

    def load(self) -> dict[str, int]:
        return {"snapshots.most": 2}

    def held(self, id: str) -> Any:
        return nullcontext()

    def get(self, id: str) -> clincus.Session:
        return self.session

    def save(self, id: str) -> clincus.SaveResult:
        return self.save_result

    def keep(self, session: clincus.Session, *, saves: bool = False, insists: bool = False) -> list[str]:
        if self.unfetched and not saves:
            words = f'"x" is kept: this host does not have {self.unfetched}'
            raise clincus.UnsavedError(words, clincus.Unsaved({"commits": clincus.Loss(1)}))
        return [f"/kept/{self.unfetched}"] if self.unfetched else []

    def look(self, id: str) -> clincus.Session:
        return self.session

    def saved_directory(self, session: clincus.Session) -> str:
        return "/nonexistent"

    def path(self, id: str, more: str = "") -> str:
        return more

    def instance(self, id: str) -> dict[str, Any] | None:
        return self.now

    def query(self, path: str, method: str = "GET", data: Any = None, **_: object) -> Any:
        self.changed += [method] if method != "GET" else []
        if method == "PUT":
            self.now = {**self.then}
            return None
        if path.startswith("/snapshots?"):
            return [{"name": f"x/{name}", "created_at": 9 - place} for place, name in enumerate(self.names)]
        return self.then if path == "/snapshots/one" else self.now

    def update(self, id: str, put: dict[str, Any]) -> None:
        if self.fails:
            raise clincus.IncusError("Incus is shutting down", 503)
        self.now = {**self.now, **put}


def test_snapshots_are_listed_oldest_first(tmp_path):
    box = Box(str(tmp_path))
    box.names = ["one", "two"]  # Incus tells the newest first
    assert [one["name"] for one in snapshots.Keeper(box).all("x")] == ["two", "one"]


@table(
    ("call", "status", "words"),
    [
        (lambda keeper: keeper.take("x", "one"), 409, "exists already"),
        (lambda keeper: keeper.take("x", "three"), 409, "raise snapshots.most"),
        (lambda keeper: keeper.restore("x", "none"), 404, "not found"),
        # Programs of then would run with the network of then before today's is in force.
        (lambda keeper: keeper.restore("x", "one", stateful=True), 409, "open it first"),
    ],
)
def test_what_cannot_be_is_refused_before_incus_changes_anything(tmp_path, call, status, words):
    box = Box(str(tmp_path))
    box.names = ["one", "two"]
    box.session = box.session._replace(network='{"mode": "none"}')
    with pytest.raises(clincus.ClincusError, match=words) as raised:
        call(snapshots.Keeper(box))
    assert raised.value.status == status
    assert box.changed == []


def test_a_restore_is_refused_while_it_would_lose_the_conversation(tmp_path):
    box = Box(str(tmp_path))
    box.session, box.save_result = a_session(id="x"), clincus.SaveResult.FAILED
    with pytest.raises(clincus.ClincusError, match="would be lost"):
        snapshots.Keeper(box).restore("x", "one")
    assert box.changed == []


@pytest.fixture
def broken_off(tmp_path) -> Box:
    box = Box(str(tmp_path), fails=True)
    with pytest.raises(clincus.IncusError, match="shutting down"):
        snapshots.Keeper(box).restore("x", "one")
    return box


def restores(box: Box) -> list[str]:
    return os.listdir(f"{box.environ['HOME']}/.clincus/restoring")


def test_a_restore_that_is_broken_off_is_finished(broken_off):
    box = broken_off
    assert box.now["config"]["user.clincus.network"] == "open"
    check_start = functools.partial(snapshots.check_start, lambda: box.environ, box)
    with pytest.raises(clincus.ClincusError, match="broken off"):
        check_start(a_session(id="x"))
    check_start(a_session(id="y"))
    snapshots.Unfinished(box).finish_all()
    assert box.reports == [], "Incus is still away"
    box.fails = False
    for _ in range(2):
        snapshots.Unfinished(box).finish_all()
        assert box.now["config"] == {"user.clincus.network": "none", "volatile.x": "then"}
        assert len(box.reports) == 1
    check_start(a_session(id="x"))


def test_a_restore_after_one_that_was_broken_off_brings_back_the_settings_from_before_both(broken_off):
    broken_off.fails = False
    snapshots.Keeper(broken_off).restore("x", "one")
    assert broken_off.now["config"]["user.clincus.network"] == "none"
    assert restores(broken_off) == []


def test_what_was_changed_after_a_restore_that_was_broken_off_stays(broken_off):
    box = broken_off
    box.fails, box.now = False, {**box.now, "config": {"user.clincus.network": "allow-list"}}
    snapshots.Unfinished(box).finish_all()
    assert box.now["config"] == {"user.clincus.network": "allow-list"}
    assert restores(box) == []


def test_a_clone_goes_back_only_once_its_work_is_fetched_or_kept(tmp_path):
    """It lies on the disk of the container, unlike a folder that is mounted."""
    box = Box(str(tmp_path))
    box.unfetched = "2 commits and 1 stash"
    with pytest.raises(clincus.ClincusError, match="does not have 2 commits and 1 stash"):
        snapshots.Keeper(box).restore("x", "one")
    assert box.now["config"]["volatile.x"] == "now", "nothing was brought back"
    copies: list[str] = []
    snapshots.Keeper(box).restore("x", "one", force=True, on_kept=copies.append)
    assert (copies, box.now["config"]["volatile.x"]) == (["/kept/2 commits and 1 stash"], "then")


def test_a_tool_goes_on_if_what_it_did_at_its_end_refuses_the_restore(tmp_path, monkeypatch):
    box, resumed = Box(str(tmp_path)), list[str]()
    box.session = box.session._replace(status="running")
    monkeypatch.setattr(box, "end", lambda id: setattr(box, "unfetched", "1 commit"), raising=False)
    monkeypatch.setattr(box, "resume", resumed.append, raising=False)
    with pytest.raises(clincus.UnsavedError, match="1 commit"):
        snapshots.Keeper(box).restore("x", "one")
    assert (resumed, box.now["config"]["volatile.x"]) == (["x"], "now")
