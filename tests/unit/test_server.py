"""The section `server`: the look at Incus, duties that must go on, the listeners. No Incus."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
from typing import Any

import pytest

import clincus
from tests.programs import DEADLINE, wait_until

NAME = "clincus-0a1b2c-1"


class Engine(clincus.Incus):
    """An Incus of which a test says what it has, and what its event stream tells."""

    def __init__(self) -> None:
        super().__init__()
        self.instances: dict[str, dict[str, Any]] = {}
        self.looks: list[str] = []  # the paths of the looks at more than one
        self.failures: list[Exception] = []  # what the next of them end with
        self.is_busy = False  # it answers others while these come to nothing
        self.stream = ["cat"]  # the program that stands in for `incus monitor`
        self.streams: list[clincus.Child] = []

    def add(self, name: str, status: str) -> None:
        labels = {"workspace": "/w", "tool": "claude", "session_id": name}
        config = {clincus.LABEL + key: value for key, value in labels.items()}
        self.instances[name] = {"name": name, "status": status, "config": config}

    def change(self, name: str, status: str) -> None:
        self.instances.pop(name, None)
        if status:
            self.add(name, status)

    def query(self, path: str, *arguments: Any, **options: Any) -> Any:
        name = path.rpartition("/")[2]
        if name != "instances?recursion=1" and path != clincus.RUNNING_INSTANCES:
            if name not in self.instances:
                raise clincus.IncusError("Instance not found", 404)
            return self.instances[name]
        self.looks.append(path)
        if self.failures:
            if self.is_busy:
                self.signs.note()
            raise self.failures.pop(0)
        if path == clincus.RUNNING_INSTANCES:
            return [f"/1.0/instances/{name}" for name, one in self.instances.items() if one["status"] == "Running"]
        return list(self.instances.values())

    def monitor(self) -> clincus.Child:
        self.streams.append(clincus.Child(self.stream))
        return self.streams[-1]

    def tell(self, action: str, name: str, **context: str) -> None:
        metadata = {"action": action, "name": name, "context": context or None}
        event = {"timestamp": clincus.utc_now(), "metadata": metadata}
        stream = self.streams[-1].stdin
        assert stream is not None
        stream.write(json.dumps(event).encode() + b"\n\n")
        stream.flush()


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    assert [stream.process.wait(DEADLINE) is not None for stream in engine.streams] == [True] * len(engine.streams)


@pytest.fixture
def told() -> list[str]:
    """What the monitor said of the way to Incus."""
    return []


@pytest.fixture
def monitor(engine, told, tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "RETRY_DELAY", 0.02)
    monkeypatch.setattr(clincus, "RELIST_DELAY", DEADLINE)
    environ = {"HOME": str(tmp_path)}
    registry = clincus.Registry("clincus-", lambda change: None)
    sessions = clincus.Sessions(engine, registry, lambda: clincus.load_config(environ), environ)
    here = sessions.engines[""]
    here.on_reach = lambda engine, error: told.append(error)
    yield clincus.Monitor(here, sessions, clincus.History(str(tmp_path / "history.jsonl")))
    here.stop()


def set_intervals(monkeypatch, monitor, *, who_runs: float, everything: float) -> None:
    """Let a monitor look so often, in seconds."""
    monkeypatch.setattr(clincus, "RELIST_DELAY", who_runs)
    monkeypatch.setattr(clincus, "WHOLE_INTERVAL", everything)
    monkeypatch.setattr(monitor, "_interval", who_runs)  # LOOK_INTERVAL, which it has read already


@pytest.fixture
def looking(monitor, monkeypatch):
    """The monitor at work, which looks all the time."""
    set_intervals(monkeypatch, monitor, who_runs=0.02, everything=DEADLINE)
    monitor.start()
    monitor.engine.require()
    return monitor


def statuses(monitor) -> list[str]:
    return [session.status for session in monitor._sessions.registry.all()]


class TestMonitor:
    def test_an_event_leads_to_a_look(self, engine, monitor):
        """No look at who runs would find what becomes of stopped ones: copied, imported, moved to another member."""
        monitor.start()
        monitor.engine.require()
        sessions = monitor._sessions.registry.all
        engine.add(NAME, "Stopped")
        engine.instances[NAME]["location"] = "m2"
        engine.tell("instance-created", NAME)
        wait_until(lambda: [session.member for session in sessions()] == ["m2"])
        engine.instances[NAME]["location"] = "m1"
        engine.tell("instance-migrated", NAME)
        wait_until(lambda: [session.member for session in sessions()] == ["m1"])
        engine.add(NAME, "Running")
        engine.tell("instance-started", NAME)
        wait_until(lambda: statuses(monitor) == ["running"])
        assert len(engine.looks) == 1

    def test_a_change_that_no_event_told_is_found_by_the_look_at_who_runs(self, engine, monitor, monkeypatch):
        set_intervals(monkeypatch, monitor, who_runs=0.02, everything=DEADLINE)
        monitor.start()
        wait_until(lambda: engine.looks[2:] and set(engine.looks[2:]) == {clincus.RUNNING_INSTANCES})
        for status, shown in (
            ("Running", ["running"]),
            ("Frozen", ["stopped"]),
            ("", []),
        ):
            engine.change(NAME, status)
            wait_until(lambda shown=shown: statuses(monitor) == shown)

    def test_a_line_without_end_is_not_held(self, engine, monitor, told):
        monitor.start()
        monitor.engine.require()
        with contextlib.suppress(BrokenPipeError):
            engine.streams[0].stdin.write(b"x" * (2 * clincus.EVENT_LIMIT))
        wait_until(lambda: len(engine.streams) == 2 and told[1:] == [""])

    @pytest.mark.parametrize("failure", [clincus.IncusError("no daemon", 503), ValueError("no daemon")])
    def test_a_failure_is_told_once_and_its_end_too(self, engine, monitor, told, failure):
        engine.failures = [failure] * 3
        monitor.start()
        with pytest.raises(clincus.ClincusError, match="no daemon") as raised:
            monitor.engine.require()
        assert raised.value.status == 503
        wait_until(lambda: len(told) == 2)
        assert "no daemon" in told[0]
        assert told[1] == ""
        monitor.engine.require()

    LATE = (
        clincus.IncusError("`incus query` did not finish within 30 s", 504, clincus.FailureKind.HANGS),
        clincus.incus_failure("Failed to begin transaction: context deadline exceeded"),
        clincus.incus_failure("context deadline exceeded", "far"),
    )

    def test_a_look_that_comes_late_is_no_outage_while_others_are_answered(self, engine, looking, told):
        """On a busy machine a remote counted as lost every few minutes, and whoever stopped a session was refused."""
        engine.is_busy = True
        engine.failures = [*self.LATE]
        looks = len(engine.looks)
        wait_until(lambda: not engine.failures and len(engine.looks) > looks + 3)
        assert told == []

    def test_an_incus_that_does_not_answer_is_not_waited_for(self, engine, monitor, monkeypatch):
        monkeypatch.setattr(clincus, "FIRST_LOOK", 0.05)
        answer = threading.Event()
        monkeypatch.setattr(monitor._sessions, "refresh", lambda *_: answer.wait())
        monitor.start()
        with pytest.raises(clincus.ClincusError, match="does not answer") as raised:
            monitor.engine.require()
        answer.set()
        assert raised.value.status == 503

    def test_a_paused_session_has_not_ended(self, engine, monitor):
        for name, status in ((NAME, "Frozen"), ("clincus-0a1b2c-2", "Stopped")):
            engine.add(name, status)
            monitor._history.record(clincus.Run(name, name, "/w", "claude", clincus.utc_now()))
        monitor.start()
        monitor.engine.require()
        assert [run.id for run in monitor._history.runs() if run.ended_at is None] == [NAME]


def test_a_duty_goes_on_whatever_goes_wrong_and_the_same_failure_is_logged_once(caplog):
    failures = [OSError("no room"), OSError("no room"), ZeroDivisionError(), clincus.ClincusError("no such thing")]
    stopping = threading.Event()

    def work() -> None:
        if not failures:
            return stopping.set()
        raise failures.pop(0)

    clincus.repeat("tidying up", work, 0.0, stopping).join(DEADLINE)
    assert [record.getMessage() for record in caplog.records] == [
        "tidying up failed",
        "tidying up failed",
        "tidying up: no such thing",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False]


def application(tmp_path) -> clincus.Application:
    return clincus.Application({"HOME": str(tmp_path)}, {})


def test_a_port_that_another_program_holds_on_ipv6_is_refused(tmp_path):
    """A browser that opens http://localhost:PORT may take ::1, and would hand that program its cookies."""
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(clincus.ClincusError, match=f"port {port} cannot be used on ::1"):
            application(tmp_path)._bind(port)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))  # what was bound before is let go of


def test_a_machine_without_ipv6_is_served_on_ipv4(tmp_path, monkeypatch):
    real = clincus.open_listener

    def open_listener(address, site):
        if address[0] == "::1":
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return real(address, site)

    monkeypatch.setattr(clincus, "open_listener", open_listener)
    [only] = application(tmp_path)._bind(0)
    assert only.server_address[0] == "127.0.0.1"
    only.server_close()
