"""When a checkpoint is taken, and for whom; the container and git are stood in for."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_features.review import recorder as recording
from clincus_features.review.changes import Changes
from clincus_features.review.recorder import Look, Recorder
from clincus_features.review.thinning import thin
from tests.builders import a_session
from tests.programs import DEADLINE
from tests.table import table

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
def clock(monkeypatch) -> list[float]:
    seconds = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def tree() -> list[str]:
    """What the workspace holds, as its last item; a test appends what it changes to."""
    return ["one"]


def make_recorder(app: App, tree: list[str], monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder(app)
    monkeypatch.setattr(made, "_run", lambda session, record, mode, timeout: Look(tree[-1], "", []))
    monkeypatch.setattr(recording.Store, "keep", lambda *_: None)
    monkeypatch.setattr(made, "changes", lambda *_: Changes([], False))
    return made


@pytest.fixture
def recorder(app, tree, monkeypatch) -> Recorder:
    return make_recorder(app, tree, monkeypatch)


def work_off(recorder: Recorder) -> list[str]:
    """Do all that was asked for, but for what failed again and again; why each checkpoint was taken."""
    while not all(request.tries == len(recording.RETRIES) for request in recorder._queue):
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


def test_a_start_says_where_the_tool_was_faster(recorder, app, monkeypatch):
    monkeypatch.setattr(recorder, "_run", lambda *_: Look("tree", "", [], ["./", *"abcdef"]))
    note = recorder.take(SESSION, "start").note
    assert all(word in note for word in ("files and folders", '"a"', "2 more"))
    for one in (recorder, Recorder(app)):  # and after a restart of the server
        assert [note in warning for warning in one.warnings(SESSION)] == [True]


@table(
    ("states", "whys"),
    [
        ("starting idle working done", ["prompt", "turn"]),
        ("idle working waiting working idle", ["prompt", "turn", "turn"]),
        ("working failed", ["turn"]),
        ("unknown", []),
    ],
)
def test_a_turn_has_one_before_and_one_after_it(tmp_path, monkeypatch, states, whys):
    tree = ["one"]
    recorder = make_recorder(App(tmp_path), tree, monkeypatch)
    assert hear(recorder, *states.split(), tree=tree) == whys


@table(
    ("told", "whys"),
    [
        ([("idle", 1), ("done", 2), ("done", 2)], ["start", "turn"]),
        ([("working", 1), ("stuck", 1), ("done", 1)], ["start", "turn", "turn"]),
        ([("done", 1), ("idle", 1)], ["start", "turn"]),
    ],
)
def test_a_turn_that_nobody_saw_begin_has_one_after_it(tmp_path, monkeypatch, told, whys):
    tree = ["one"]
    recorder = make_recorder(App(tmp_path), tree, monkeypatch)
    recorder.take(SESSION, "start")
    for number, (state, turn) in enumerate(told):
        tree.append(f"{number} {state}")
        recorder.hear(SESSION, {"state": state, "turn": turn})
        found = work_off(recorder)
    assert found == whys


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


def test_a_tool_whose_state_is_unknown_has_a_checkpoint_now_and_then_if_something_changed(recorder, tree, clock):
    recorder.take(SESSION, "start")
    recorder.hear(SESSION, {"state": "unknown"})
    for text, found in (("one", ["start"]), ("two", ["start", "timer"])):
        tree.append(text)
        clock[0] += 1000
        recorder.look_at_quiet_tools()
        assert work_off(recorder) == found


def test_nothing_is_taken_by_itself_where_that_is_switched_off(recorder, app):
    app.config = clincus.with_flags(app.config, {"checkpoints.enabled": False})
    recorder.tell("started", SESSION)
    recorder.tell("before_prompt", SESSION)
    assert hear(recorder, "idle", "working", "done") == []
    assert recorder.take(SESSION, "person") is not None
    alone = Recorder(None)  # a command without a server
    alone.tell("before_prompt", SESSION)
    assert not alone._queue


def test_a_checkpoint_that_fails_is_a_warning_of_the_session_until_one_is_taken(recorder, app, monkeypatch):
    works = recorder._run

    def fail(*_: object) -> Look:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "_run", fail)
    hear(recorder, "idle", "working")
    for one in (recorder, Recorder(app)):  # and after a start of the server
        [warning] = one.warnings(SESSION)
        assert "No space left on device" in warning
    assert {"type": "session.changed", "id": SESSION.id} in app.told
    monkeypatch.setattr(recorder, "_run", works)
    hear(recorder, "done")
    assert recorder.warnings(SESSION) == []
    assert Recorder(app).warnings(SESSION) == []


def test_a_checkpoint_that_fails_is_tried_again_until_it_is_taken(recorder, monkeypatch, clock):
    recorder.take(SESSION, "start")
    looks, works = [], recorder._run

    def run(*words: object) -> Look:
        looks.append(clock[0])
        if len(looks) <= 6:
            raise clincus.ClincusError("no answer", 409)
        return works(*words)

    monkeypatch.setattr(recorder, "_run", run)
    monkeypatch.setattr(recorder._changed, "wait", lambda seconds: clock.__setitem__(0, clock[0] + max(0.0, seconds)))
    recorder.hear(SESSION, {"state": "working"})
    recorder.hear(SESSION, {"state": "done"})
    while recorder._queue:
        recorder.work("")
    assert [one.why for one in recorder.records.of(SESSION).checkpoints] == ["start", "turn"]
    assert looks == [0, 1, 6, 31, 331, 631, 931]
    assert recorder.warnings(SESSION) == []


def test_the_counts_are_told_once_and_are_a_field_of_the_session(recorder, app):
    assert recorder.fields(SESSION) == {"changes": None}
    recorder.take(SESSION, "person")
    recorder.take(SESSION, "person")
    counts = {"files": 0, "added": 0, "removed": 0}
    assert [one for one in app.told if one["type"] == "session.changes"] == [
        {"type": "session.changes", "id": SESSION.id, "changes": counts}
    ]
    assert Recorder(app).fields(SESSION) == {"changes": counts}


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
    assert recorder.records.find(SESSION.id).ended
    thin(recorder, app.config, far)
    assert recorder.records.find(SESSION.id) is None
