"""What stays of sessions that are gone: their certificates are removed, and nobody else's."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import logins
from clincus_features.logins import Lending, authority, loans
from clincus_features.logins.authority import Certificates, Owner
from clincus_features.logins.vault import set_revoked
from tests.builders import a_session
from tests.programs import DEADLINE, wait_until

GONE, LIVE, ELSEWHERE = "clincus-aaaaaa-1", "clincus-aaaaaa-2", "far:clincus-aaaaaa-1"
LABEL = '{"key": "clincus-0123456789abcdef0123456789abcdef"}'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    made = tmp_path / "kept"
    made.mkdir(0o700)
    monkeypatch.setattr(authority, "place_in_memory", lambda uid: str(made))
    monkeypatch.setattr(authority, "memory_folder", lambda uid: str(made))
    monkeypatch.setattr(
        authority, "make_certificates", lambda hosts, environ, folder: Certificates("root", "chain", "key")
    )
    return made


class Door(clincus.Incus):
    def __init__(self) -> None:
        super().__init__()
        self.failure, self.config = "", {loans.LABEL: LABEL}

    def instance(self, id: str) -> dict[str, Any] | None:
        if self.failure:
            raise clincus.IncusError(self.failure, 503)
        return {"config": self.config} if id == LIVE else None


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def lending(door, tmp_path, folder) -> Lending:
    looked = threading.Event()
    looked.set()
    engine = SimpleNamespace(name="", looked=looked, incus=door)
    return Lending({"HOME": str(tmp_path)}, SimpleNamespace(engines={"": engine}))


def make(
    lending: Lending, door: clincus.Incus, id: str, *, label: str = LABEL, place: str = "", age: float = 7200
) -> str:
    """Make the certificates of a session some seconds ago; the name of the run."""
    run = loans.run_name(id, label)
    lending.store.make(run, [], Owner(id, place or lending._place(door)))
    made = time.time() - age
    os.utime(lending.store.path(run), (made, made))
    return run


def swept(lending: Lending) -> None:
    before = set(threading.enumerate())
    lending.sweep()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE)


def left(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_a_server_that_starts_removes_those_without_a_session(lending, door, folder):
    make(lending, door, GONE)
    live = make(lending, door, LIVE)
    make(lending, door, LIVE, label='{"key": "clincus-earlier-logins-earlier-logins-1"}')
    swept(lending)
    assert left(folder) == {live}


def test_others_stay(lending, door, folder):
    """Those of a session that may not be there yet, of another Incus, of an engine, and of an older Clincus."""
    kept = {
        make(lending, door, GONE, age=5.0),
        make(lending, door, "clincus-aaaaaa-3", place="another Incus of this user"),
        make(lending, door, ELSEWHERE),
        "old",
    }
    (folder / "old.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    os.utime(folder / "old.pem", (0, 0))
    swept(lending)
    assert left(folder) == kept


def test_those_of_an_incus_that_cannot_tell_stay(lending, door, folder):
    kept = make(lending, door, GONE)
    door.failure = "it cannot be reached"
    swept(lending)
    door.failure, door.config = "", {}  # its member of a cluster is down
    live = make(lending, door, LIVE)
    os.unlink(lending.store.path(kept))
    swept(lending)
    assert left(folder) == {live}


def test_a_program_that_deletes_a_session_removes_its_certificates(lending, door, folder):
    make(lending, door, GONE)
    lending.hear("after_stop", a_session(id=GONE, logins=LABEL))
    assert left(folder)
    lending.hear("after_delete", a_session(id=GONE, logins=LABEL))
    assert not left(folder)


class Connection:
    """An open connection, as far as a revoke needs it."""

    def __init__(self, *names: str) -> None:
        self.names, self.ended = names, list[str]()

    def end_loan(self, name: str, words: str) -> None:
        self.ended.append(words)


def test_what_another_server_of_this_user_revokes_ends_here_too(lending, monkeypatch, tmp_path):
    monkeypatch.setattr(logins, "LOOK_PERIOD", 0.01)
    (tmp_path / ".clincus").mkdir()
    kept = [Connection("github"), Connection("npm")]
    lending._opened.update(dict.fromkeys(kept, "one"))
    lending._look_at_revocations()
    set_revoked({"HOME": str(tmp_path)}, "github", is_revoked=True)
    wait_until(lambda: kept[0].ended, "the end")
    assert kept[1].ended == []
    (looking,) = (thread for thread in threading.enumerate() if thread.name == "looking at revoked logins")
    kept.clear()
    looking.join(DEADLINE)
    assert not looking.is_alive(), "nobody looks while nothing is open"
