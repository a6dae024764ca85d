"""Snapshots of a container: what is told of them, and what a container keeps that goes back to one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

import clincus
from clincus_features import snapshots


def test_a_snapshot_is_told_by_its_own_name():
    told = {"name": "clincus-a1b2c3-1/clean", "created_at": "2026-01-01T00:00:00Z", "size": 4096}
    assert snapshots.document(told) == {"name": "clean", "created_at": "2026-01-01T00:00:00Z", "size": 4096}
    assert snapshots.document({**told, "size": -1})["size"] is None


def test_a_container_that_goes_back_keeps_what_is_known_of_the_session():
    same = {"architecture": "x86_64", "description": "", "profiles": ["default"]}
    before = {
        **same,
        "config": {
            "user.clincus.name": "new",
            "limits.cpu": "2",
            "volatile.idmap.base": "now",
            "image.os": "now",
        },
        "devices": {"root": {"size": "2GiB"}},
    }
    after = {
        **same,
        "config": {"user.clincus.name": "old", "volatile.idmap.base": "then", "image.os": "then"},
        "devices": {},
    }
    put = snapshots.restored_put(before, after)
    assert put["config"] == {
        "user.clincus.name": "new",
        "limits.cpu": "2",
        "volatile.idmap.base": "then",
        "image.os": "then",
    }
    assert put["devices"] == {"root": {"size": "2GiB"}}


class Sessions:
    """As much of the sessions as the keeper uses; Incus has these snapshots."""

    def __init__(self, names: list[str], network: str = "") -> None:
        self.names, self.asked, self.network = names, [], network
        self.registry = self

    def load(self) -> dict[str, int]:
        return {"snapshots.most": 2}

    def door(self, id: str) -> Sessions:
        return self

    def path(self, id: str, more: str = "") -> str:
        return f"/1.0/instances/{id}{more}"

    def lock(self, id: str) -> Any:
        return nullcontext()

    def get(self, id: str) -> clincus.Session:
        return clincus.Session(id, "/w", "claude", 1, "running", persistent=False, network=self.network)

    def save(self, id: str) -> str:
        return ""

    def query(self, path: str, method: str = "GET", data: object = None, **_: object) -> object:
        self.asked.append(method)
        return [{"name": f"x/{name}", "created_at": name} for name in self.names]


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda keeper: keeper.take("x", "one"), 409, "exists already"),
        (lambda keeper: keeper.take("x", "three"), 409, "delete one, or raise snapshots.most"),
        (lambda keeper: keeper.delete("x", "none"), 404, "not found"),
        (lambda keeper: keeper.restore("x", "none"), 404, "not found"),
        (lambda keeper: keeper.restore("x", "one"), 409, "would be lost"),
    ],
    ids=["taken name", "too many", "delete none", "restore none", "unsaved conversation"],
)
def test_what_cannot_be_is_refused_before_incus_changes_anything(call, status, words):
    sessions = Sessions(["one", "two"])
    with pytest.raises(clincus.ClincusError, match=words) as raised:
        call(snapshots.Keeper(sessions))
    assert raised.value.status == status
    assert set(sessions.asked) == {"GET"}


@pytest.mark.parametrize("mode", ["none", "allow-list"])
def test_programs_of_then_do_not_come_back_into_a_closed_session(mode):
    """They would run with the network of then before today's is in force."""
    sessions = Sessions(["one"], f'{{"mode": "{mode}"}}')
    with pytest.raises(clincus.ClincusError, match="open it first") as raised:
        snapshots.Keeper(sessions).restore("x", "one", stateful=True)
    assert raised.value.status == 409
    assert set(sessions.asked) == {"GET"}
