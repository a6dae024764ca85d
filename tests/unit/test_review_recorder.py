"""When a checkpoint is taken, and for whom; the container and git are stood in for."""

from __future__ import annotations

import functools
import os
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_features.review import recorder as recording
from clincus_features.review.changes import Changes
from clincus_features.review.recorder import Look, Recorder
from clincus_features.review.records import Record
from clincus_features.review.thinning import thin
from tests.builders import a_session
from tests.programs import DEADLINE, wait_until

SESSION = a_session(session_id="s", run="2026-01-01T00:00:00Z")


class App:
    """As much of the application as the recorder uses."""

    def __init__(self, home: Path) -> None:
        self.environ = {"HOME": str(home)}
        self.registry = self.hub = self
        self.extensions = clincus.Extensions()
        self.config = clincus.load_config({"HOME": str(home)})
        self.sessions = [SESSION]
        self.told: list[dict[str, Any]] = []

    def all(self) -> list[clincus.Session]:
        return self.sessions

    def find(self, id: str) -> clincus.Session | None:
        return next((one for one in self.sessions if one.id == id), None)

    def publish(self, event, extension: bool) -> None:
        assert extension
        self.told.append(event)


@pytest.fixture
def app(tmp_path) -> App:
    clincus.install_features(None)  # they register settings
    return App(tmp_path)


@pytest.fixture
def tree() -> list[str]:
    """What the workspace holds, as its last item; a test appends what it changes to."""
    return ["one"]


@pytest.fixture
def recorder(app, tree, monkeypatch) -> Recorder:
    made = Recorder(app)
    monkeypatch.setattr(made, "_run", lambda session, record, mode, timeout: Look(tree[-1], "", []))
    monkeypatch.setattr(recording.Store, "keep", lambda *_: None)
    monkeypatch.setattr(made, "changes", lambda *_: Changes([], False))
    return made


def work_off(recorder: Recorder) -> list[str]:
    """Do all that was asked for and does not rest; why each checkpoint of the session was taken.

    One that has failed again and again rests too.
    """

    def rests(request: Any) -> bool:
        is_hanging = recorder._resting.get(request.id, 0.0) > recording.time.monotonic()
        return is_hanging or request.tries == len(recording.RETRIES)

    while not all(map(rests, recorder._queue)):
        recorder._queue[0] = recorder._queue[0]._replace(due=0.0)
        recorder.work("")
    return [one.why for one in recorder.records.of(SESSION).checkpoints]


def hear(recorder: Recorder, *states: str, tree: list[str] | None = None) -> list[str]:
    """Let the tool change its state, and its workspace with each; why checkpoints were taken after the start's."""
    for state in states:
        if tree is not None:
            tree.append(f"{len(tree)}")
        recorder.hear(SESSION, {"state": state})
        whys = [why for why in work_off(recorder) if why != "start"]
    return whys


def test_a_start_has_one_checkpoint_whoever_tells_of_it(recorder):
    recorder.tell("started", SESSION)
    recorder.tell("after_start", SESSION)
    assert work_off(recorder) == ["start"]
    recorder.tell("started", SESSION)  # a server that was started again finds it
    assert work_off(recorder) == ["start"]
    later = SESSION._replace(run="2999-01-01T00:00:00Z")
    recorder._app.sessions = [later]
    recorder.tell("started", later)
    assert work_off(recorder) == ["start", "start"]


def test_the_state_before_the_start_comes_first_whatever_is_asked_for_first(recorder, monkeypatch):
    """The container has recorded it before its tool began; by now the tool has written."""
    trees = {"start": Look("before", "", []), "now": Look("after", "", [])}
    monkeypatch.setattr(recorder, "_run", lambda session, record, mode, timeout: trees[mode])
    recorder.tell("started", SESSION)
    recorder.take(SESSION, "prompt")
    assert [(one.why, one.tree) for one in recorder.records.of(SESSION).checkpoints] == [
        ("start", "before"),
        ("prompt", "after"),
    ]
    assert work_off(recorder) == ["start", "prompt"]


def test_no_other_session_waits_for_a_list_of_changes(recorder, tree, monkeypatch):
    """Git needs up to 20 seconds for a tree of a million files, and after 5 the others had no checkpoint."""
    folder = recording.records_folder(recorder._app.environ)

    @functools.cache
    def changes(store: object, old: str, new: str) -> Changes:
        listed.append((old, new))
        os.makedirs(folder, exist_ok=True)
        with clincus.directory_lock(folder, 0.0):
            return Changes([], False)

    listed: list[tuple[str, str]] = []
    monkeypatch.setattr(recorder, "changes", changes)
    for _ in range(3):
        recorder.take(SESSION, "person")
        tree.append(f"{tree[-1]} more")
    assert len(set(listed)) == len(listed) >= 4


@pytest.mark.parametrize(
    ("late", "note"),
    [
        ([], ""),
        (["a", "b"], 'recorded after the tool had changed these files: "a", "b"'),
        (list("abcdef"), 'recorded after the tool had changed these files: "a", "b", "c", "d", "e" and 1 more'),
        (["./", "a"], 'recorded after the tool had changed these files and folders: "a", "./"'),
        (["a", "."], recording.ALL_LATE),
    ],
)
def test_a_start_says_where_the_tool_was_faster(recorder, monkeypatch, late, note):
    monkeypatch.setattr(recorder, "_run", lambda *_: Look("tree", "", [], late))
    assert recorder.take(SESSION, "start").note == note
    warnings = [f"The checkpoint of the start was {note}"] if note else []
    for one in (recorder, Recorder(recorder._app)):  # and after a restart of the server
        assert one.warnings(SESSION) == warnings


def test_a_start_that_is_damaged_in_the_container_is_of_later(recorder, monkeypatch):
    def damaged(session, record, mode, timeout) -> Look:
        if mode == "start":
            raise clincus.ClincusError("damaged", 500)
        return Look(mode, "", [])

    monkeypatch.setattr(recorder, "_run", damaged)
    made = recorder.take(SESSION, "start")
    assert (made.tree, made.note) == ("fresh", recording.ALL_LATE)


def test_a_start_that_was_made_here_is_not_waited_for(recorder):
    """Incus tells of each start as it begins; a start of this server's own tells when it is done."""
    recorder.tell("started", SESSION)
    recorder.tell("after_start", SESSION)
    recorder.work("")
    assert [one.why for one in recorder.records.of(SESSION).checkpoints] == ["start"]


def test_the_first_checkpoints_wait_until_no_session_starts_any_more(recorder, app):
    app.sessions = [SESSION, SESSION._replace(id="clincus-0a1b2c-9", status="starting")]
    recorder.tell("after_start", SESSION)
    assert recorder._queue[0].due > time.monotonic() + 1
    app.sessions = [SESSION, SESSION._replace(id="clincus-0a1b2c-9")]
    recorder.tell("after_start", app.sessions[1])
    assert [asked.id for asked in recorder._queue if asked.due <= time.monotonic()] == [one.id for one in app.sessions]


def test_a_checkpoint_of_before_the_clock_was_set_back_is_none_of_now(recorder):
    recorder.take(SESSION, "prompt")
    assert not recorder._is_wanted(SESSION, "prompt")
    with recorder.records.changing(recorder.records.of(SESSION)) as record:
        record.checkpoints[-1].at = "2999-01-01T00:00:00Z"
    assert recorder._is_wanted(SESSION, "prompt")


@pytest.mark.parametrize("run", ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
def test_a_start_has_one_checkpoint_whatever_clock_its_engine_has(recorder, app, tree, run):
    """The server's clock may have been set since, too."""
    session = SESSION._replace(run=run)
    app.sessions = [session]
    for state in ("idle", "working", "done", "working", "done"):
        tree.append(f"{tree[-1]}+")
        recorder.hear(session, {"state": state})
        found = work_off(recorder)
    recorder.now(session)
    assert found == ["start", "prompt", "turn", "prompt", "turn"]


@pytest.mark.parametrize(
    ("states", "whys"),
    [
        (("starting", "idle", "working", "done"), ["prompt", "turn"]),
        (("idle", "working", "waiting", "working", "idle"), ["prompt", "turn", "turn"]),
        (("working", "failed"), ["turn"]),
        (("idle", "none"), []),
        (("unknown",), []),
    ],
)
def test_a_turn_has_one_before_and_one_after_it(recorder, tree, states, whys):
    assert hear(recorder, *states, tree=tree) == whys


def test_two_servers_on_one_home_keep_the_same_turn_once(recorder, app, monkeypatch):
    other = Recorder(app)
    for name in ("_run", "changes"):
        monkeypatch.setattr(other, name, getattr(recorder, name))
    for state in ("idle", "working", "done"):
        for one in (recorder, other):
            found = hear(one, state)
    assert found == ["prompt", "turn"]


def test_two_servers_on_one_home_keep_the_same_start_once(recorder, app, monkeypatch):
    """Each begins before the other one has ended."""
    other = Recorder(app)
    monkeypatch.setattr(other, "changes", recorder.changes)

    def meanwhile(*_: object) -> Look:
        other.take(SESSION, "start")
        other.now(SESSION)
        return Look("start", "", [])

    monkeypatch.setattr(other, "_run", lambda session, record, mode, timeout: Look(mode, "", []))
    monkeypatch.setattr(recorder, "_run", meanwhile)
    recorder.take(SESSION, "start")
    record = recorder.records.of(SESSION)
    assert [one.why for one in record.checkpoints] == ["start"]
    assert record.tree == "now", "the older state does not count as the last one"


UNSEEN = {
    "a turn": ([("idle", 1), ("done", 2)], ["start", "turn"]),
    "one that failed": ([("done", 1), ("failed", 2)], ["start", "turn", "turn"]),
    "the second one in a row": ([("done", 1), ("done", 2)], ["start", "turn", "turn"]),
    "the first of a session": ([("starting", 1), ("done", 2)], ["start", "turn"]),
    "one after long silence": ([("working", 1), ("stuck", 1), ("done", 1)], ["start", "turn", "turn"]),
    "one that is told twice": ([("idle", 1), ("done", 2), ("done", 2)], ["start", "turn"]),
    "one that a person has seen": ([("done", 1), ("idle", 1)], ["start", "turn"]),
}


@pytest.mark.parametrize(("told", "whys"), UNSEEN.values(), ids=UNSEEN.keys())
def test_a_turn_that_nobody_saw_begin_has_one_after_it(recorder, tree, told, whys):
    recorder.take(SESSION, "start")
    for number, (state, turn) in enumerate(told):
        tree.append(f"{number} {state}")
        recorder.hear(SESSION, {"state": state, "turn": turn})
        found = work_off(recorder)
    assert found == whys


def test_the_last_turn_has_one_for_a_server_that_is_started_again(recorder, app, tree, monkeypatch):
    other = Recorder(app)
    for name in ("_run", "changes"):
        monkeypatch.setattr(other, name, getattr(recorder, name))
    for one in (recorder, other):
        tree.append(f"{tree[-1]}+")
        one.hear(SESSION, {"state": "done", "turn": 4})
        found = work_off(one)
    assert found == ["start", "turn"]


def test_a_prompt_waits_for_its_checkpoint_and_its_turn_gets_no_second_one(recorder):
    waiting = threading.Thread(target=lambda: recorder.tell("before_prompt", SESSION))
    waiting.start()
    while not recorder._queue:
        waiting.join(0.01)
    assert work_off(recorder) == ["start", "prompt"]
    waiting.join(DEADLINE)
    assert not waiting.is_alive()
    assert hear(recorder, "idle", "working") == ["prompt"]


def test_a_prompt_does_not_wait_for_ever(recorder, monkeypatch):
    monkeypatch.setattr(recording, "BEFORE_PROMPT", 0.01)
    recorder.tell("before_prompt", SESSION)
    assert len(recorder._queue) == 1


def test_a_quiet_tool_is_looked_at_less_often_while_nothing_changes(recorder, tree, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])
    recorder.take(SESSION, "start")
    recorder.hear(SESSION, {"state": "unknown"})
    asked = []
    for second in range(0, 1000, 10):
        clock[0] = float(second)
        recorder.look_at_quiet_tools()
        if recorder._queue:
            asked.append(second)
            work_off(recorder)
    assert asked[:4] == [30, 90, 210, 450]
    tree.append("two")
    clock[0] = 10_000.0
    recorder.look_at_quiet_tools()
    assert work_off(recorder) == ["start", "timer"]


def test_a_container_that_has_slept_since_the_last_look_is_not_looked_at(recorder, app, monkeypatch):
    clock, asked = [0.0], []
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])
    app.extensions.sleepers.append(lambda engine, since, cost: asked.append(since) or {SESSION.id})
    recorder.now(SESSION)
    recorder.hear(SESSION, {"state": "unknown"})
    for clock[0] in (10.0, 50.0):
        recorder.look_at_quiet_tools()
    assert (asked, list(recorder._queue)) == ([{SESSION.id: 0.0}], [])


def test_nothing_is_taken_by_itself_where_that_is_switched_off(recorder, app):
    app.config = clincus.with_flags(app.config, {"checkpoints.enabled": False})
    recorder.tell("started", SESSION)
    recorder.tell("before_prompt", SESSION)
    assert hear(recorder, "idle", "working", "done") == []
    assert recorder.take(SESSION, "person") is not None


def test_a_container_that_hangs_keeps_nobody_waiting_again_and_again(recorder, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])

    def hang(*_: object) -> Look:
        clock[0] += 120
        raise clincus.IncusError("did not finish", 500)

    monkeypatch.setattr(recorder, "_run", hang)
    hear(recorder, "idle", "working", "done", "working", "done")
    assert clock[0] == 120


def test_a_busy_machine_delays_the_checkpoint_of_a_start_and_does_not_lose_it(recorder, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])
    run = recorder._run

    def hang(*_: object) -> Look:
        clock[0] += 25
        raise clincus.IncusError("did not finish", 504)

    monkeypatch.setattr(recorder, "_run", hang)
    recorder.tell("started", SESSION)
    rests = []
    for _ in range(4):
        assert work_off(recorder) == []
        rests.append(recorder._resting[SESSION.id] - clock[0])
        clock[0] = recorder._resting[SESSION.id]
    assert rests == [30, 120, 600, 600]
    monkeypatch.setattr(recorder, "_run", run)
    assert work_off(recorder) == ["start"]


def test_containers_that_hang_hold_up_no_checkpoint_of_another(recorder, app, monkeypatch):
    """There are more of them than recorders, and each wants several."""
    monkeypatch.setattr(recording, "PATIENCE", 0.01)
    liars = [SESSION._replace(id=f"clincus-0a1b2c-{number}", session_id=str(number)) for number in range(1, 8)]
    app.sessions = [*liars, SESSION]
    ends, asked = threading.Event(), []

    def run(session, record, mode, timeout) -> Look:
        if session.id != SESSION.id:
            asked.append(session.id)
            ends.wait(60)
            raise clincus.IncusError("did not finish", 504)
        return Look("tree", "", [])

    monkeypatch.setattr(recorder, "_run", run)
    for session in app.sessions:
        for why in ("start", "turn", "timer"):
            recorder._ask(session, why)

    def work() -> None:
        while not ends.is_set():
            recorder.work("")

    workers = [threading.Thread(target=work, daemon=True) for _ in range(recording.RECORDERS)]
    for worker in workers:
        worker.start()
    try:
        wait_until(lambda: recorder.records.of(SESSION).checkpoints, "the honest session's checkpoint")
        assert len(set(asked)) == len(asked), "one at a time of each session"
    finally:
        ends.set()
        recorder._ask(SESSION, "prompt")  # wakes who waits


def test_a_stop_waits_for_the_last_look_alone_whatever_is_still_to_be_taken(recorder, monkeypatch):
    """The start may never have been taken, as the container hangs."""
    given, clock = [], [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])

    def hang(session, record, mode, timeout) -> Look:
        given.append(timeout)
        clock[0] += timeout * 0.9
        return Look(mode, "", [])

    monkeypatch.setattr(recorder, "_run", hang)
    recorder.tell("before_stop", SESSION)
    assert given == [recording.LAST_LOOK, 1.0]


@pytest.mark.parametrize(
    "error", [clincus.ClincusError("the checkpoints take 2 GiB", 409), OSError(28, "No space left on device")]
)
def test_a_checkpoint_that_fails_is_a_warning_of_the_session_until_one_is_taken(recorder, app, monkeypatch, error):
    works = recorder._run

    def fail(*_: object) -> Look:
        raise error

    monkeypatch.setattr(recorder, "_run", fail)
    hear(recorder, "idle", "working")
    for one in (recorder, Recorder(app)):  # and after a start of the server
        [warning] = one.warnings(SESSION)
        assert str(error) in warning
        assert "cannot take back what has changed since" in warning
    assert {"type": "session.changed", "id": SESSION.id} in app.told
    monkeypatch.setattr(recorder, "_run", works)
    hear(recorder, "done")
    assert recorder.warnings(SESSION) == []
    assert Recorder(app).warnings(SESSION) == []


def failing(recorder: Recorder, monkeypatch, times: int) -> list[float]:
    """Let the next looks fail; the times of all looks, by a clock that goes to whatever is due."""
    clock, looks, works = [100.0], [], recorder._run

    def run(*words: object) -> Look:
        looks.append(clock[0] - 100)
        if len(looks) <= times:
            raise clincus.ClincusError("no answer", 409)
        return works(*words)

    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(recorder, "_run", run)
    monkeypatch.setattr(recorder._changed, "wait", lambda seconds: clock.__setitem__(0, clock[0] + max(0.0, seconds)))
    return looks


def serve_all(recorder: Recorder) -> list[tuple[str, str]]:
    """Take what is due until nothing is asked for; why each checkpoint was taken, with its note."""
    while recorder._queue:
        recorder.work("")
    return [(one.why, one.note) for one in recorder.records.of(SESSION).checkpoints]


@pytest.mark.parametrize(
    ("fails", "looks"),
    [(1, [0, 1]), (3, [0, 1, 6, 31]), (6, [0, 1, 6, 31, 331, 631, 931])],
)
def test_a_checkpoint_that_fails_is_tried_again_until_it_is_taken(recorder, monkeypatch, fails, looks):
    recorder.take(SESSION, "start")
    found = failing(recorder, monkeypatch, fails)
    recorder.hear(SESSION, {"state": "working"})
    recorder.hear(SESSION, {"state": "done"})
    assert [why for why, _ in serve_all(recorder)] == ["start", "turn"]
    assert found == looks
    assert recorder.warnings(SESSION) == []


def test_a_moment_that_needs_no_checkpoint_of_its_own_takes_the_one_that_failed_before_it(recorder, monkeypatch):
    recorder.hear(SESSION, {"state": "done", "turn": 4})
    assert work_off(recorder) == ["start", "turn"]
    failing(recorder, monkeypatch, 1)
    recorder.hear(SESSION, {"state": "idle", "turn": 4})
    recorder.hear(SESSION, {"state": "working", "turn": 4})
    recorder.work("")
    recorder.hear(SESSION, {"state": "stuck", "turn": 4})
    recorder._ends[SESSION.id] = 4  # the end of this turn has been kept already
    serve_all(recorder)
    assert recorder.warnings(SESSION) == []


def test_a_checkpoint_of_a_prompt_that_is_tried_again_tells_that_the_tool_works_by_then(recorder, monkeypatch):
    recorder.take(SESSION, "start")
    failing(recorder, monkeypatch, 1)
    recorder.hear(SESSION, {"state": "idle"})
    recorder.hear(SESSION, {"state": "working"})
    assert serve_all(recorder)[1:] == [("prompt", recording.ALL_LATE)]


def test_no_checkpoint_is_tried_again_once_another_one_is_asked_for(recorder, monkeypatch):
    """That of a turn would show what the next turn has done."""
    recorder.take(SESSION, "start")
    failing(recorder, monkeypatch, 1)
    recorder.hear(SESSION, {"state": "working"})
    recorder.hear(SESSION, {"state": "done"})
    recorder.work("")
    recorder.hear(SESSION, {"state": "working"})
    assert serve_all(recorder)[1:] == [("prompt", "")]


def test_a_session_that_has_ended_meanwhile_has_no_failed_checkpoint(recorder, app, monkeypatch):
    def end(*_: object) -> Look:
        app.sessions = [SESSION._replace(status="stopped")]
        raise clincus.ClincusError("the container is not running", 409)

    monkeypatch.setattr(recorder, "_run", end)
    hear(recorder, "idle", "working")
    assert recorder.warnings(SESSION) == []


def test_a_look_that_failed_at_once_is_repeated_without_what_the_container_has(recorder, monkeypatch):
    modes = []

    def fail_once(session, record, mode, timeout) -> Look:
        modes.append(mode)
        if mode == "now":
            raise clincus.ClincusError("damaged", 500)
        return Look("two", "", [])

    recorder.take(SESSION, "start")
    monkeypatch.setattr(recorder, "_run", fail_once)
    assert recorder.now(SESSION).tree == "two"
    assert modes == ["now", "fresh"]


def test_who_waits_for_a_look_that_began_later_takes_its_result(recorder, monkeypatch):
    looks = []
    recorder.take(SESSION, "start")
    monkeypatch.setattr(
        recorder, "_look", lambda session, timeout=0.0: looks.append(session) or recorder.records.of(session)
    )
    recorder._looks[SESSION.id] = float("inf")
    recorder.now(SESSION)
    assert looks == []
    recorder._looks[SESSION.id] = 0.0
    recorder.now(SESSION)
    assert looks == [SESSION]


def test_the_counts_are_told_once_and_are_a_field_of_the_session(recorder, app):
    assert recorder.fields(SESSION) == {"changes": None}
    recorder.take(SESSION, "person")
    recorder.take(SESSION, "person")
    counts = {"files": 0, "added": 0, "removed": 0}
    assert [one for one in app.told if one["type"] == "session.changes"] == [
        {"type": "session.changes", "id": SESSION.id, "changes": counts}
    ]
    assert Recorder(app).fields(SESSION) == {"changes": counts}


def test_a_session_that_is_gone_leaves_its_record(recorder):
    recorder.take(SESSION, "person")
    recorder.tell("deleted", SESSION)
    record = recorder.records.find(SESSION.id)
    assert record is not None
    assert (record.ended, len(record.checkpoints)) == (True, 2)


def test_what_is_too_old_goes_and_a_live_sessions_first_checkpoint_stays(recorder, app, monkeypatch):
    forgotten: list[str] = []
    monkeypatch.setattr(recording.Store, "forget", lambda _, names: forgotten.extend(names))
    for why in ("start", "prompt", "turn"):
        recorder.take(SESSION, why)
    far = datetime(2999, 1, 1, tzinfo=timezone.utc)
    thin(recorder, app.config, far)
    record = recorder.records.of(SESSION)
    assert [one.checkpoint for one in record.checkpoints] == ["1", "3"]
    assert forgotten == [f"{record.key}/2"]
    recorder.tell("deleted", SESSION)
    thin(recorder, app.config, far)
    assert recorder.records.find(SESSION.id) is None


def test_what_is_torn_gets_its_name_again_before_others_are_tidied(recorder, app, monkeypatch):
    named: list[tuple[str, str]] = []
    monkeypatch.setattr(recording.Store, "keep", lambda _, tree, name: named.append((tree, name)))
    monkeypatch.setattr(recording.Store, "exists", True)
    monkeypatch.setattr(recording.Store, "tidy", lambda _, even_few=False: None)
    recorder.take(SESSION, "start")
    named.clear()
    thin(recorder, app.config, datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert named == [("one", f"{recorder.records.of(SESSION).key}/1")]


def test_a_command_without_a_server_takes_no_checkpoint():
    alone = Recorder(None)
    for moment in ("started", "before_prompt", "before_stop"):
        alone.tell(moment, SESSION)
    assert not alone._queue


def test_a_question_does_not_wait_for_a_look_that_hangs_and_the_look_goes_on(recorder, monkeypatch):
    monkeypatch.setattr(recording, "ANSWER_WITHIN", 0.01)
    ends, looks = threading.Event(), []

    def look(session) -> Record:
        looks.append(session.id)
        ends.wait(60)
        return recorder.records.of(session)

    try:
        for _ in range(3):
            with pytest.raises(clincus.ClincusError, match="has not told yet") as refused:
                recorder.soon(SESSION, look)
            assert refused.value.status == 504
        wait_until(lambda: looks, "the look")
        assert looks == [SESSION.id], "a question beside a slow look begins none"
    finally:
        ends.set()
    wait_until(lambda: not recorder._slow, "the end of the look")
    monkeypatch.setattr(recording, "ANSWER_WITHIN", DEADLINE)
    assert recorder.soon(SESSION, recorder.records.of).id == SESSION.id


def test_a_question_waits_little_for_a_container_that_has_just_let_another_one_wait(recorder, monkeypatch):
    monkeypatch.setattr(clincus, "ANSWER_OF_SILENT", 0.01)
    ends = threading.Event()
    with pytest.raises(clincus.ClincusError, match="has not told yet"):
        recorder.soon(SESSION, lambda session: ends.wait(DEADLINE) and recorder.records.of(session), is_silent=True)
    ends.set()


def test_a_question_gets_the_error_of_its_look(recorder):
    def fail(_: clincus.Session) -> Record:
        raise clincus.ClincusError("the container has no git", 409)

    with pytest.raises(clincus.ClincusError, match="has no git"):
        recorder.soon(SESSION, fail)
