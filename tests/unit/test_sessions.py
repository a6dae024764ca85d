"""What sessions do around Incus, with a door to it that only notes down what goes through."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

import clincus
from tests.builders import a_session
from tests.programs import DEADLINE, wait_until
from tests.table import table

NAME = "clincus-0a1b2c-1"


class Door(clincus.Incus):
    """A door to Incus that shows instances, but does nothing with them: that fails, unless `on_run` does it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []
        self.instances: dict[str, dict[str, Any]] = {}
        self.on_run: Callable[[tuple[str, ...]], None] = lambda words: None

    def run(self, *arguments: str, **options: Any) -> bytes:
        self.calls.append(arguments)
        self.on_run(arguments)
        return b""

    def query(self, path: str, *arguments: Any, **options: Any) -> Any:
        try:
            return copy.deepcopy(self.instances[path.rpartition("/")[2]])
        except KeyError:
            raise clincus.IncusError("Instance not found", 404) from None

    def exec(self, *arguments: Any, **options: Any) -> clincus.Completed:
        return clincus.Completed(1, b"", b"there is no Incus here")

    def exec_argv(self, *arguments: Any, **options: Any) -> list[str]:
        return ["false"]

    def update(self, name: str, description: Any) -> None:
        self.instances[name].update(description)


def test_a_description_is_yaml_whatever_is_in_it():
    value = 'a "quote" \\u0041 \n\t\x7f\x85 ä 中 🦆 \ufeff'
    text = clincus.yaml_of({"ä": value}).decode("ascii")
    assert re.fullmatch(r"[ -~]*", text)
    assert json.loads(re.sub(r"\\U000(\w{5})", lambda found: json.dumps(chr(int(found[1], 16)))[1:-1], text)) == {
        "ä": value
    }


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def reports() -> list[str]:
    return []


def make_sessions(door: Door, home: Path, report: Callable[[str], object] = print) -> clincus.Sessions:
    environ = {"HOME": str(home)}
    registry = clincus.Registry("clincus-", lambda change: None)
    return clincus.Sessions(door, registry, lambda: clincus.load_config(environ), environ, report=report)


@pytest.fixture
def sessions(door: Door, reports: list[str], tmp_path: Path) -> clincus.Sessions:
    return make_sessions(door, tmp_path, reports.append)


def add(sessions: clincus.Sessions, name: str = NAME, **fields: Any) -> clincus.Session:
    """A session that the registry knows."""
    session = a_session(id=name, **{"session_id": name, **fields})
    sessions.incus.instances[name] = {
        "name": name,
        "status": session.status.capitalize(),
        "config": clincus.session_labels(session),
        "last_used_at": session.started_at,
        "architecture": "x86_64",
        "description": "",
        "profiles": [],
        "devices": {},
        "expanded_devices": {},
    }
    sessions.look(name)
    return sessions.registry.get(name)


def stop(sessions: clincus.Sessions, door: Door, session: clincus.Session) -> None:
    """Let a session be seen stopped, with all that a description holds."""
    more = {"architecture": "", "description": "", "profiles": [], "ephemeral": False, "stateful": False}
    door.instances[session.id].update(status="Stopped", **more)
    sessions.look(session.id)


def failing(error: Exception) -> Callable[..., Any]:
    """A function that always raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def deleted(door: Door) -> list[str]:
    return [words[-1] for words in door.calls if words[0] == "delete"]


def test_a_container_with_a_full_disk_is_deleted_once_it_has_stopped(sessions, door):
    """Incus has stopped it then, and has no room to give the disk another owner."""
    add(sessions)
    full = clincus.IncusError("Stopping the instance failed: Failed clearing ownership: disk quota exceeded")
    door.on_run = lambda words: failing(full)() if "--force" in words else None
    with pytest.raises(clincus.IncusError, match="quota exceeded"):
        sessions.containers(NAME).delete(NAME)
    door.instances[NAME]["status"] = "Stopped"
    sessions.containers(NAME).delete(NAME)
    assert len(deleted(door)) == 3


def is_final(sessions: clincus.Sessions, session: clincus.Session) -> bool:
    """Whether the copy on the host counts as the last one that there will be."""
    kept = clincus.read_metadata(sessions.saved_directory(session), session.tool)
    assert kept is not None
    return kept.final


@pytest.fixture
def sends_nothing(door, monkeypatch):
    """Every container sends tar's archive of nothing, and fails then if there is an error in the list."""
    errors: list[clincus.ClincusError] = []

    @contextlib.contextmanager
    def open_command(name: str, command: list[str], timeout: float) -> Iterator[tuple[Any, IO[bytes]]]:
        yield SimpleNamespace(allow=lambda seconds: None), io.BufferedReader(io.BytesIO(b"/\0"))
        if errors:
            raise errors[0]

    monkeypatch.setattr(door, "open", open_command)
    return errors


def test_only_a_copy_that_came_whole_of_a_container_that_stopped_counts_as_the_last(sessions, door, sends_nothing):
    session = add(sessions)
    sends_nothing.append(clincus.IncusError("exit code 1", 500))
    sessions.end(NAME)
    assert not is_final(sessions, session)
    sends_nothing.clear()
    add(sessions)
    door.on_run = failing(clincus.IncusError("the daemon is gone", 503))
    with pytest.raises(clincus.IncusError):
        sessions.end(NAME)
    assert not is_final(sessions, session)
    door.on_run = lambda words: None
    sessions.end(NAME)
    assert is_final(sessions, session)


def test_a_stopped_container_is_read_within_its_limits_and_only_if_it_is_stopped(sessions, door, sends_nothing):
    session = add(sessions, status="stopped")
    limits = {"limits.memory": "1GiB", "limits.processes": "5", "raw.lxc": "lxc.mount.entry = /w"}
    door.instances[NAME]["config"].update(limits)
    seen = []
    door.on_run = lambda words: seen.append({**door.instances[NAME]["config"]}) if words[0] == "start" else None
    sessions.save(NAME)
    assert is_final(sessions, session)
    assert [seen[0][key] for key in ("limits.memory", "limits.processes")] == ["1GiB", "100"]
    assert "lxc.mount.entry" not in seen[0]["raw.lxc"]
    assert {key: door.instances[NAME]["config"][key] for key in limits} == limits

    door.instances[NAME]["status"] = "Running"
    before = len(door.calls)
    with (
        pytest.raises(clincus.ClincusError, match="is Running by now"),
        sessions.containers(NAME).opened_for_reading(NAME),
    ):
        pass
    assert door.calls[before:] == []
    assert {key: door.instances[NAME]["config"][key] for key in limits} == limits


@contextlib.contextmanager
def left_asleep(sessions, door, monkeypatch, since):
    """A container that a killed server has left asleep since a time; it had devices and settings of its own."""
    monkeypatch.setattr(clincus, "utc_now", lambda: since)
    root = {"type": "disk", "path": "/", "pool": "default"}
    own = {
        "config": {"raw.lxc": "a = b\n", "limits.processes": "5"},
        "devices": {"data": {"type": "disk"}, "root": {**root, "size": "400MiB"}},
    }
    door.instances[NAME]["config"].update(own["config"])
    door.instances[NAME].update(devices=own["devices"], expanded_devices=own["devices"])
    states = {"start": "Running", "stop": "Stopped"}
    door.on_run = lambda words: door.instances[NAME].update(status=states[words[0]])
    with sessions.containers(NAME).opened_for_reading(NAME):
        # No device but the disk, without a quota: Incus starts none whose disk is full.
        assert door.instances[NAME]["devices"] == {"data": {"type": "none"}, "root": root}
        monkeypatch.undo()
        yield own


def test_a_container_that_was_left_asleep_is_shown_as_stopped_and_put_back_before_it_is_worked_on(
    sessions, door, sends_nothing, monkeypatch
):
    add(sessions, status="stopped")
    with left_asleep(sessions, door, monkeypatch, "2026-01-01T10:00:00Z") as own:
        assert sessions.look(NAME).status == "stopped"
        with sessions.work(NAME, "stopping") as found:
            assert found.status == "stopped"
            now = door.instances[NAME]
            assert {key: now["config"][key] for key in own["config"]} == own["config"]
            assert (now["devices"], clincus.ASLEEP in now["config"]) == (own["devices"], False)
            assert ("stop", "--force", NAME) in door.calls
        calls = len(door.calls)
    assert door.calls[calls:] == []  # the late reader finds nothing to do


LATE = "Failed shutting down instance: context deadline exceeded"
STOPPED_LATE = f'container is not running: "{NAME}" Try `incus info --show-log {NAME}` for more info'
STILL_RUNS = 'Failed stopping instance, status is "Running"'


@table(
    ("seconds", "answers", "calls"),
    [
        (20, [LATE, STOPPED_LATE], ["--timeout", "--force"]),
        (0, [STILL_RUNS], ["--force", "--force"]),
        (0, [STILL_RUNS] * 9, ["--force", "--force"]),
    ],
)
def test_a_stop_is_tried_twice_and_one_that_came_late_has_worked(tmp_path, seconds, answers, calls):
    door = Door()
    left = iter(answers)

    def refuse(_: tuple[str, ...]) -> None:
        for words in left:
            raise clincus.incus_failure(words)

    door.on_run = refuse
    fails = len(answers) > 2
    with pytest.raises(clincus.IncusError, match="status is") if fails else contextlib.nullcontext():
        make_sessions(door, tmp_path).containers(NAME).stop(NAME, seconds)
    assert [words[1] for words in door.calls] == calls


def test_a_container_that_does_not_hand_over_its_conversation_is_kept_unless_that_is_wanted(sessions, door):
    add(sessions, status="stopped")
    with pytest.raises(clincus.ClincusError, match="is kept, as it holds a conversation that is not saved"):
        sessions.end(NAME, delete=True)
    assert deleted(door) == []
    sessions.end(NAME, delete=True, even_unsaved=True)
    assert deleted(door) == [NAME]


def test_a_host_that_cannot_write_keeps_what_is_not_saved_and_stops_nothing(sessions, door, sends_nothing, tmp_path):
    (tmp_path / ".clincus").write_text("a file where the folder should be")
    for status in ("running", "stopped"):
        add(sessions, status=status)
        with pytest.raises(clincus.ClincusError, match=r"is kept, as it holds a conversation .*clincus"):
            sessions.end(NAME, delete=True)
        assert deleted(door) == []
        assert status == "stopped" or door.calls == []


def test_a_workspace_that_became_a_link_is_not_followed(sessions, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "project").symlink_to("real")
    add(sessions, workspace=str(tmp_path / "project"), status="stopped", session_id="s")
    with pytest.raises(clincus.ClincusError, match=r"is a link to .*real. now") as raised:
        sessions.resume(NAME)
    assert raised.value.status == 409


def test_a_name_may_be_of_any_script_and_break_no_line():
    for name in ("x" * 81, "a\nb", "\x1b[31m", "\x9b", "\u2028", "\udc80"):
        with pytest.raises(clincus.ClincusError, match="cannot be the name of a session") as raised:
            clincus.check_name(name)
        assert raised.value.status == 400
    name = "Größe 大きさ \N{WOMAN}\u200d\N{PERSONAL COMPUTER}"
    assert clincus.check_name(f" {name} ") == name


class Machine(Door):
    """A door to Incus behind which instances are made, and commands in them end with `code`."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[tuple[str, dict[str, Any]]] = []  # name and description of each launch
        self.refusals: list[clincus.IncusError] = []  # what the next launches fail with
        self.log = ""  # what `incus info --show-log` says
        self.code = 0
        self.has_begun = "no"  # what a container says of its tool
        self.users: list[int] = []  # whose commands ran

    def run(self, *arguments: str, **options: Any) -> bytes:
        super().run(*arguments, **options)
        if arguments[0] == "delete":
            self.instances.pop(arguments[-1], None)
        elif arguments[0] in ("start", "stop"):
            instance = next(instance for name, instance in self.instances.items() if name in arguments)
            instance["status"] = "Running" if arguments[0] == "start" else "Stopped"
        return self.log.encode() if arguments[0] == "info" else b""

    @contextlib.contextmanager
    def launching(self, name: str, image: str, **options: Any) -> Iterator[Callable[[Any], None]]:
        yield functools.partial(self.launch, name)

    def launch(self, name: str, description: Any) -> None:
        self.launched.append((name, description))
        if self.refusals:
            raise self.refusals.pop(0)
        more = {"architecture": "x86_64", "description": "", "profiles": [], "status": "Running"}
        self.instances[name] = {"name": name, **more, **description}

    def exec(self, *arguments: Any, **options: Any) -> clincus.Completed:
        self.users.append(options.get("user", 0))
        if any(str(word).endswith(clincus.BEGUN_FILE) for word in arguments[1]):
            return clincus.Completed(0, f"{self.has_begun}\n".encode(), b"")
        return clincus.Completed(self.code, b"", b"")

    @contextlib.contextmanager
    def open(self, *arguments: Any, meanwhile: Callable[[], object] = lambda: None, **options: Any) -> Iterator[Any]:
        sent: list[bytes] = []
        meanwhile()
        if arguments[1][3] == "save":
            raise clincus.IncusError("there is no conversation", 500)
        yield SimpleNamespace(write=sent.append, allow=lambda seconds: None), io.BytesIO(b"/\0")
        done = self.exec(*arguments, stdin=sent, **options)
        if done.code:
            raise clincus.IncusError(done.reason, 500)


class TestStart:
    @pytest.fixture
    def door(self) -> Machine:
        return Machine()

    @pytest.fixture
    def sessions(self, sessions: clincus.Sessions) -> clincus.Sessions:
        sessions.containers("").support = {"default": clincus.protect.ProtectionSupport()}
        return sessions

    @pytest.fixture
    def request_(self, tmp_path: Path) -> clincus.LaunchRequest:
        (tmp_path / "project/.git").mkdir(parents=True)
        return clincus.LaunchRequest(str(tmp_path / "project"))

    def test_a_workspace_that_cannot_be_locked_gets_plain_devices_and_the_reason(self, sessions, door, request_):
        door.refusals = [clincus.IncusError("Failed to run", 500)]
        door.log = "clincus unsupported: the file system cannot map ids"
        session = sessions.create(request_)
        assert (session.protection, session.protection_note[:26]) == ("basic", "The file system cannot map")
        trees = ["lxc.mount.entry" in description["config"]["raw.lxc"] for _, description in door.launched]
        assert trees == [True, False]
        assert door.instances[session.id]["config"]["user.clincus.protection"] == "basic"
        assert sessions.create(request_).protection == "basic"  # known by now
        assert len(door.launched) == 3

    def test_a_start_that_fails_leaves_nothing(self, sessions, door, request_):
        door.refusals = [clincus.IncusError("Failed to run", 500)]
        door.log = "clincus refused: '.git' is a symlink"
        with pytest.raises(clincus.ClincusError, match=r"cannot be protected: '\.git' is a symlink") as raised:
            sessions.create(request_)
        assert raised.value.status == 409
        assert sessions.registry.all() == []
        door.code = 1
        with pytest.raises(clincus.ClincusError, match="exit code 1"):
            sessions.create(request_)
        assert (door.instances, sessions.registry.all()) == ({}, [])

    def test_a_name_of_another_is_passed_over_and_left_alone(self, sessions, door, request_):
        door.refusals = [clincus.IncusError("Instance already exists", 409)]
        assert sessions.create(request_).slot == 2
        assert deleted(door) == []
        door.refusals = [clincus.IncusError("Instance already exists", 409)]
        with pytest.raises(clincus.ClincusError, match="already exists"):
            sessions.create(request_._replace(slot=3))
        assert deleted(door) == []

    def test_of_two_that_go_on_with_one_conversation_neither_undoes_the_other(self, sessions, door, request_):
        session = sessions.create(request_)
        there = dict(door.instances)
        again = request_._replace(resume=session.session_id)
        with pytest.raises(clincus.ClincusError, match=f'still has its container: resume "{session.id}"'):
            sessions.create(again)
        registry = sessions.registry  # another process made it, of which this one has not heard
        registry.compare_one(next(registry.questions), session.id, None)
        door.refusals = [clincus.IncusError("Instance already exists", 409)]
        with pytest.raises(clincus.ClincusError, match="has just continued this conversation"):
            sessions.create(again)
        assert door.instances == there

    def test_a_tool_that_has_begun_stays_with_its_container_until_all_in_it_is_kept(
        self, sessions, door, request_, reports, monkeypatch
    ):
        """The disk of this host is full after the tool has got its prompt."""
        monkeypatch.setattr(clincus, "write_metadata", failing(OSError(28, "No space left on device")))
        door.has_begun = "yes"
        with pytest.raises(OSError, match="No space left"):
            sessions.create(request_._replace(prompt="Mend it"))
        [(id, session)] = sessions.half_made.items()
        assert (list(door.instances), sessions.registry.get(id).status) == ([session.id], "running")
        assert "its start failed after its tool had begun" in reports[-1]

    def test_features_hear_of_a_sessions_life_and_add_to_it(self, sessions, door, request_):
        profile = {"security.syscalls.deny": "keyctl errno 38", "raw.apparmor": "deny network alg,"}
        support = clincus.protect.ProtectionSupport("no id maps", profile_config=profile)
        sessions.containers("").support = {"default": support}
        added, heard = sessions.extensions, []
        added.listeners += [
            lambda moment, session: 1 // 0,
            lambda moment, session: heard.append((moment, session.slot)),
        ]

        def add_parts(incus, session, launch, description):
            description["devices"]["root"] = {"type": "disk"}
            description["config"]["user.clincus.warnings"] = "a limit does not hold"
            description["config"]["raw.apparmor"] += "\ndeny network vsock,"

        added.instance_parts.append(add_parts)
        added.session_fields += [lambda session: {"broken": 1 // 0}, lambda session: {"mine": session.slot}]
        added.session_warnings += [lambda session: ["1 / 0"[1 // 0]], lambda session: ["rain"]]
        open_folder = {"security.disable_protection": True}
        session = sessions.create(request_._replace(tool="shell", settings=open_folder))
        config = door.instances[session.id]["config"]
        assert config["security.syscalls.deny"] == "keyctl errno 38"
        assert config["raw.apparmor"] == "deny network alg,\ndeny network vsock,"
        assert "root" in config["user.clincus.devices"].split()
        document = sessions.document(session)
        assert (document["mine"], document["warnings"]) == (1, ["a limit does not hold", "rain"])
        sessions.end(session.id)
        told = [moment for moment, slot in heard if slot == 1]  # the server tells the others
        assert told == ["before_start", "sealed", "after_start", "before_stop", "after_stop"]

    def test_a_commit_that_is_made_while_a_clone_is_deleted_keeps_it(self, sessions, door, sends_nothing):
        """Its tool still works when it is looked at first."""
        heard: list[str] = []
        commits = {"commits": clincus.Loss.of(["a1b2c3d Just now"])}
        losses = iter([commits, {}, commits])
        keeper = clincus.Keeper(("commits",), lambda *_: True, lambda *_: next(losses), lambda *_: [])
        sessions.extensions.keepers.append(keeper)
        sessions.extensions.listeners.append(lambda moment, session: heard.append(moment))
        add(sessions, mode="clone")
        for moments in ([], ["before_stop"]):
            with pytest.raises(clincus.UnsavedError, match="a1b2c3d Just now"):
                sessions.end(NAME, delete=True)
            assert [moment for moment in heard if moment == "before_stop"] == moments
        assert deleted(door) == []

    @pytest.mark.parametrize("has_begun", ["no", "yes"])
    def test_a_container_goes_whose_late_devices_incus_takes_back(self, sessions, door, request_, has_begun):
        reports: list[str] = []
        sessions.report = reports.append
        late = clincus.LateDevices({"way": {"type": "proxy"}}, "wait-for-way")
        sessions.extensions.instance_parts.append(lambda *words: words[-1].update({clincus.LATE_DEVICES: late}))
        is_answered, query = threading.Event(), door.query

        def refuse(path: str, method: str = "GET", *more: Any, **options: Any) -> Any:
            if path.startswith("/1.0/operations"):
                return {}
            if method != "PATCH":
                return query(path, method, *more, **options)
            assert is_answered.wait(DEADLINE)
            raise clincus.IncusError("the disk is full", 500)

        door.query, door.end_commands, door.has_begun = refuse, lambda *_: None, has_begun
        session = sessions.create(request_)
        assert door.instances[session.id]["config"]["user.clincus.devices"] == "way"
        is_answered.set()
        wait_until(lambda: deleted(door) or sessions.half_made, "the end")
        assert deleted(door) == ([session.id] if has_begun == "no" else [])
        assert [*sessions.half_made] == ([] if has_begun == "no" else [session.id])
        assert f"{session.id}: its start has failed after all: the disk is full" in reports
