"""What would be lost with a container's disk: asked in one place, for each end. No Incus."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import clincus
from clincus_features import unsaved, uploads
from tests.programs import DEADLINE, wait_until
from tests.table import table
from tests.unit.test_sessions import NAME, add, deleted, door, reports, sessions

__all__ = ["door", "reports", "sessions"]  # fixtures

Loss = clincus.Loss


def keeper(
    commits: int | None, keep: Callable[..., list[str]] = lambda *_: [], *, asks_guest: bool = False
) -> clincus.Keeper:
    """A feature that finds so many commits; None: the container does not answer."""

    def look(*_: object) -> dict[str, Loss]:
        if commits is None:
            raise clincus.ClincusError("git does not end", 409)
        return {"commits": Loss.of([f"c{number} Work" for number in range(commits)])}

    return clincus.Keeper(("commits",), lambda *_: asks_guest, look, keep)


def failing(error: Exception) -> Callable[..., list[str]]:
    def keep(*_: object) -> list[str]:
        raise error

    return keep


@table(
    ("found", "words", "total"),
    [
        ({}, "", 0),
        (
            {"uncommitted": Loss(5, ("a", "b", "c", "d", "e")), "outside": Loss(1, ("/x",)), "commits": Loss(1)},
            "1 commit, 5 uncommitted files (a, b, c, …) and 1 file that was put outside its workspace (/x)",
            7,
        ),
        ({"commits": None, "outside": Loss(1)}, "1 file that was put outside its workspace", None),
    ],
)
def test_a_loss_is_told_with_numbers_and_some_names(found, words, total):
    told = clincus.Unsaved(found)
    assert (told.words, told.total, told.document()["total"]) == (words, total, total)


def test_a_container_cannot_write_to_a_terminal_by_names_nor_fill_it():
    loss = Loss.of(["\x1b[2J", "y" * 1000, *map(str, range(100))], 10**30)
    assert loss.names[0] == "\\x1b[2J"
    assert (len(loss.names), max(map(len, loss.names))) == (clincus.LOSS_NAMES, clincus.LOSS_NAME)
    assert loss.number == clincus.LOSS_COUNT


def test_the_work_in_a_container_that_does_not_run_is_unknown_and_not_nothing(sessions, door):
    sessions.extensions.keepers.append(keeper(0, asks_guest=True))
    told = sessions.unsaved(add(sessions, mode="clone", status="stopped")).document()
    assert told["commits"] == {"count": None, "names": []}
    assert (told["total"], told["stashes"]) == (None, {"count": 0, "names": []})
    assert "the session is " in told["unknown"]
    assert door.calls == [], "nothing is started for a look"


@pytest.fixture
def ask(sessions, monkeypatch) -> Callable[[str], dict[str, object]]:
    """A function that asks the API about a session, whose answer waits for no container."""
    monkeypatch.setattr(unsaved, "SOON", 0.01)
    app = SimpleNamespace(sessions=sessions, reachable_session=sessions.registry.get)
    extensions = clincus.Extensions(app)
    unsaved.install(extensions)
    [(_, _, handler)] = extensions.routes
    return lambda id: handler(SimpleNamespace(values={"id": id}))


class Slow:
    """A container that tells of its clone once it `may`."""

    def __init__(self) -> None:
        self.may, self.looks = threading.Event(), 0

    def look(self, *_: object) -> dict[str, Loss]:
        self.looks += 1
        assert self.may.wait(DEADLINE)
        return {"commits": Loss(1, ("a1 Fix",))}

    @property
    def keeper(self) -> clincus.Keeper:
        return clincus.Keeper(("commits",), lambda *_: True, self.look, lambda *_: [])


def await_looks() -> None:
    wait_until(lambda: "looking into" not in str(threading.enumerate()), "the end of the looks")


def test_an_answer_comes_before_that_of_the_container_and_calls_nothing_clean(sessions, ask):
    slow = Slow()
    sessions.extensions.keepers += [slow.keeper, uploads.KEEPER]
    add(sessions, tool="shell", outside=clincus.with_outside_file("", "/etc/hosts"))
    try:
        for _ in range(3):
            told = ask(NAME)
            assert (told["pending"], told["total"], told["unknown"]) == (True, None, unsaved.PENDING)
            assert told["commits"] == {"count": None, "names": []}
            assert told["outside"] == {"count": 1, "names": ["/etc/hosts"]}, "this host knows it alone"
        assert slow.looks == 1, "a question beside a look begins none"
    finally:
        slow.may.set()
    await_looks()
    told = ask(NAME)
    assert (told["commits"], told["total"], told["unknown"]) == ({"count": 1, "names": ["a1 Fix"]}, 2, "")
    assert slow.looks == 1
    await_looks()


def test_a_conversation_whose_last_run_was_saved_is_known_to_be_here(sessions):
    session = add(sessions, status="stopped", run="2026-01-01T08:00:00Z")
    assert sessions.unsaved(session).found["conversation"] is None
    clincus.write_metadata(sessions.saved(session)._replace(final=True))
    assert sessions.unsaved(session).total == 0


def test_a_delete_is_refused_with_what_would_be_lost_as_an_object(sessions, door):
    add(sessions, tool="shell")
    for commits in (2, None):
        sessions.extensions.keepers[:] = [keeper(commits)]
        with pytest.raises(clincus.UnsavedError) as refused:
            sessions.end(NAME, delete=True)
        answer = clincus.error_response(refused.value)
        body = json.loads(answer.body)
        assert (answer.status, body["unsaved"]["commits"]["count"], body["unsaved"]["total"]) == (409, commits, commits)
        assert ("cannot be known (git does not end)" in body["error"]) == (commits is None)
    assert deleted(door) == []


def test_a_forced_delete_tells_where_it_kept_what_would_be_lost(sessions, door):
    nothing = uploads.KEEPER._replace(keep=failing(ValueError("it had nothing to keep")))
    sessions.extensions.keepers += [keeper(2, lambda *_: ["/home/ann/a b.bundle"]), nothing]
    add(sessions, tool="shell")
    copies: list[str] = []
    sessions.end(NAME, delete=True, even_unsaved=True, on_kept=copies.append)
    assert (copies, deleted(door)) == (["/home/ann/a b.bundle"], [NAME])
    assert clincus.kept_header(copies) == [("Clincus-Kept", "/home/ann/a%20b.bundle")]


def test_a_copy_that_fails_stops_a_delete_unless_a_person_insists(sessions, door, reports):
    add(sessions, tool="shell")
    unable, full = clincus.ClincusError("git does not end", 409), OSError(28, "No space left on this host")
    for how, error in (({"keeps": True}, unable), ({"even_unsaved": True}, full)):
        sessions.extensions.keepers[:] = [keeper(2, failing(error))]
        with pytest.raises(clincus.UnsavedError, match="is kept, as"):
            sessions.end(NAME, delete=True, **how)
        assert deleted(door) == []
    sessions.extensions.keepers[:] = [keeper(2, failing(unable))]
    sessions.end(NAME, delete=True, even_unsaved=True)
    assert "is lost" in reports[-1]
    assert deleted(door) == [NAME]


# ---- Files that a person put outside the workspace


def test_files_of_a_person_are_remembered_newest_last_and_once_up_to_a_bound():
    label = ""
    for path in ("/home/code/a", "/home/code/b", "/home/code/a"):
        label = clincus.with_outside_file(label, path)
    assert clincus.outside_files(label) == (2, ["/home/code/b", "/home/code/a"])
    for number in range(300):
        label = clincus.with_outside_file(label, f"/home/code/{number}{'x' * 150}")
    assert len(label) < clincus.OUTSIDE_LIMIT + 100
    assert clincus.outside_files(label)[0] == 302


@table(
    "label",
    ["[]", "{", '{"paths": [3, null, "x"]}', '{"count": 1e999}', "[" * 100_000],
)
def test_a_broken_label_of_an_engine_stands_for_no_file(label):
    assert clincus.outside_files(label) == (0, [])


def test_two_copies_in_one_second_are_two_files(tmp_path: Path):
    directory = str(tmp_path / "sessions-claude" / "id")
    paths = {clincus.keep_beside(directory, "tar", lambda part: Path(part).write_bytes(b"x"))[0] for _ in range(3)}
    assert len(paths) == 3
    with pytest.raises(clincus.ClincusError, match="sent no data"):
        clincus.keep_beside(directory, "tar", lambda part: Path(part).write_bytes(b""))
    assert sorted(map(str, (tmp_path / "sessions-claude").iterdir())) == sorted(paths)


@table(("second_for_step", "allowed"), [(1, 60), (3600, 0)])
def test_a_container_that_dribbles_gets_no_more_time(tmp_path: Path, monkeypatch, second_for_step, allowed):
    now = [0.0]
    monkeypatch.setattr(clincus.time, "monotonic", lambda: now[0])

    class SlowStream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            piece = super().read(size)
            now[0] += second_for_step * len(piece) / clincus.RECEIVE_STEP
            return piece

    given: list[float] = []
    stdin = SimpleNamespace(allow=lambda seconds, words: given.append(seconds), earn=lambda _: None)
    size, path = 6 * clincus.RECEIVE_STEP, str(tmp_path / "copy")
    assert clincus.receive_file(stdin, SlowStream(bytes(size)), path, limit=size, patience=60) == size
    assert int(given[-1]) == allowed
    with pytest.raises(clincus.ClincusError, match="sends more than"):
        clincus.receive_file(stdin, io.BytesIO(bytes(size)), path, limit=size - 1, patience=60)
