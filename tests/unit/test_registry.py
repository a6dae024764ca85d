"""Names, descriptions and the registry: what needs no Incus."""

from __future__ import annotations

from datetime import datetime
from datetime import timedelta
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest

import clincus

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
NAME = "clincus-0a1b2c-1"


def instance(name: str = NAME, status: str = "Running", **labels: str) -> dict[str, Any]:
    config = {"user.clincus.workspace": "/w", "user.clincus.tool": "claude", "user.clincus.session_id": "s"}
    config.update({f"user.clincus.{key}": value for key, value in labels.items()})
    return {"name": name, "status": status, "config": config, "last_used_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("clincus-0a1b2c-1", 1),
        ("clincus-0a1b2c-10", 10),
        ("clincus-0a1b2c3d-2", 2),  # of the Go program
        ("clincus-0a1b2c-0", None),
        ("clincus-0a1b2c-100", None),
        ("clincus-0A1B2C-1", None),
        ("clincus-0a1b2-1", None),
        ("clincus-0a1b2c-1\n", None),
        ("web", None),
        ("--help", None),
    ],
)
def test_only_names_of_our_form_are_sessions(name, slot):
    assert clincus.session_slot("clincus-", name) == slot


def test_a_name_is_the_workspaces_hash_and_the_slot():
    assert clincus.session_name("clincus-", "/home/ann/demo", 1) == "clincus-ec0578-1"


def test_an_instance_without_our_label_is_no_session():
    assert clincus.session_from_instance("clincus-", {"name": NAME, "status": "Running", "config": {}}) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Running", ("running", False, False)),
        ("Ready", ("running", False, False)),
        ("Stopped", ("stopped", False, False)),
        ("Starting", ("starting", False, False)),
        ("Stopping", ("stopping", False, False)),
        ("Frozen", ("stopped", True, False)),
        ("Error", ("stopped", False, True)),
    ],
)
def test_states_of_incus_become_ours(status, expected):
    session = clincus.session_from_instance("clincus-", instance(status=status))
    assert session is not None
    document = session.document()
    assert (document["status"], document["paused"], "error" in document) == expected


def test_what_is_on_an_instance_is_read_back():
    session = clincus.replace(
        make(NAME, 1),
        status="running",
        protection="basic",
        protection_note="The kernel is too old",
        warnings=("one", "another"),
        created_at="2026-01-01T00:00:00Z",
        started_at="2026-01-01T00:00:00Z",
        settings='{"limits.cpu.count": "1"}',
    )
    labels = clincus.session_labels(session)
    assert clincus.session_from_instance("clincus-", instance(**labels)) == session


class TestWorkspace:
    def test_symlinks_are_resolved(self, tmp_path: Path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert clincus.resolve_workspace(str(tmp_path / "link"), "/home/ann") == str(tmp_path / "real")

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("", "is missing"),
            (None, "is missing"),
            (7, "is missing"),
            ("project", "not an absolute path"),
            ("/", "system directory"),
            ("/etc", "system directory"),
            ("/usr/share", "system directory"),
            ("/home", "system directory"),
            ("/nowhere/at/all", "does not exist"),
            ("/etc/passwd", "is not a directory"),
            ("/tmp/a\nb", "control character"),
            ("/tmp/\0", "control character"),
            ("/tmp/\udcff", "not UTF-8"),
        ],
    )
    def test_what_may_not_be_mounted_is_refused_with_the_reason(self, path, reason):
        with pytest.raises(clincus.ClincusError, match=reason) as raised:
            clincus.resolve_workspace(path, "/home/ann")
        assert raised.value.status == 400

    def test_the_home_directory_and_what_holds_it_are_refused(self, tmp_path: Path):
        home = tmp_path / "people" / "ann"
        (home / "project").mkdir(parents=True)
        assert clincus.resolve_workspace(str(home / "project"), str(home)) == str(home / "project")
        for path in (home, home.parent):
            with pytest.raises(clincus.ClincusError, match="home directory"):
                clincus.resolve_workspace(str(path), str(home))

    def test_our_own_files_are_refused(self, tmp_path: Path):
        state = tmp_path / "home" / ".config" / "clincus"
        state.mkdir(parents=True)
        for path in (state, state.parent):
            with pytest.raises(clincus.ClincusError, match="own files"):
                clincus.resolve_workspace(str(path), str(tmp_path / "home"), [str(state)])

    def test_a_config_file_that_a_link_puts_into_the_workspace_is_our_own(self, tmp_path: Path):
        (tmp_path / "dotfiles").mkdir()
        (tmp_path / "dotfiles/clincus.toml").write_text("")
        (tmp_path / "config.toml").symlink_to("dotfiles/clincus.toml")
        with pytest.raises(clincus.ClincusError, match="own files"):
            clincus.resolve_workspace(str(tmp_path / "dotfiles"), "/home/ann", [str(tmp_path / "config.toml")])


class TestMounts:
    @pytest.fixture
    def here(self, tmp_path: Path) -> Path:
        (tmp_path / "work/deep").mkdir(parents=True)
        (tmp_path / "secret/deep").mkdir(parents=True)
        return tmp_path

    def real(self, here: Path, path: str) -> str:
        return clincus.real_mount(str(here / path), {str(here / "work")})

    def test_links_of_the_owners_are_followed(self, here: Path):
        (here / "data").symlink_to("./secret/../secret/deep")
        (here / "absolute").symlink_to(here / "data")
        assert self.real(here, "absolute") == str(here / "secret/deep")

    def test_a_missing_directory_is_made(self, here: Path):
        assert self.real(here, "work/new/one") == str(here / "work/new/one")
        assert (here / "work/new/one").is_dir()

    @pytest.mark.parametrize("path", ["work/link", "work/link/deep", "way/link", "to_link"])
    def test_a_link_that_an_agent_may_have_put_is_refused(self, here: Path, path: str):
        (here / "work/link").symlink_to(here / "secret")
        (here / "way").symlink_to("work")
        (here / "to_link").symlink_to("way/link")
        with pytest.raises(clincus.ClincusError, match=r"work/link.* is a link") as raised:
            self.real(here, path)
        assert raised.value.status == 400

    def test_a_circle_of_links_and_a_place_where_nothing_can_be_made_are_told(self, here: Path):
        (here / "circle").symlink_to("circle")
        (here / "file").write_text("")
        for path, reason in (("circle", "is a link"), ("file/below", "cannot be made: Not a directory")):
            with pytest.raises(clincus.ClincusError, match=reason):
                self.real(here, path)


class Heard(list):
    """What a registry told: (kind, status) of each change, without the `changed` ones."""

    def __call__(self, change: clincus.Change) -> None:
        self.append((change.kind, change.session.status))

    @property
    def public(self) -> list[str]:
        return [kind for kind, _ in self if kind != "changed"]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def registry(heard: Heard) -> clincus.Registry:
    return clincus.Registry("clincus-", heard)


def apply(registry: clincus.Registry, *actions: str, at: int = 0) -> None:
    """Apply events a second apart, with an instance behind them that runs."""
    for number, action in enumerate(actions):
        moment = BEGIN + timedelta(seconds=at + number)
        registry.apply(action, NAME, moment, lambda: clincus.session_from_instance("clincus-", instance()))


EVENTS = {
    "start": (["instance-created", "instance-started"], ["started"], "running"),
    "clean stop": (["instance-started", "instance-shutdown"], ["started", "stopped"], "stopped"),
    "hard stop": (["instance-started", "instance-stopped"], ["started", "stopped"], "stopped"),
    "one change told twice": (
        ["instance-started", "instance-shutdown", "instance-stopped"],
        ["started", "stopped"],
        "stopped",
    ),
    "restart": (["instance-started", "instance-restarted"], ["started", "stopped", "started"], "running"),
    "pause": (["instance-started", "instance-paused"], ["started"], "stopped"),
    "pause and resume": (
        ["instance-started", "instance-paused", "instance-resumed"],
        ["started", "resumed"],
        "running",
    ),
    "forced delete": (
        ["instance-started", "instance-stopped", "instance-deleted"],
        ["started", "stopped", "stopped"],
        "",
    ),
    "delete of an ephemeral one": (
        ["instance-started", "instance-deleted", "instance-stopped"],
        ["started", "stopped"],
        "",
    ),
    "noise": (["instance-started", "instance-exec", "instance-snapshot-created"], ["started"], "running"),
}


@pytest.mark.parametrize(("actions", "told", "status"), EVENTS.values(), ids=EVENTS.keys())
def test_lifecycle_events_become_changes_and_states(registry, heard, actions, told, status):
    running = clincus.session_from_instance("clincus-", instance())
    for number, action in enumerate(actions):
        is_gone = "instance-deleted" in actions[: number + 1]
        registry.apply(action, NAME, BEGIN + timedelta(seconds=number), lambda now=None if is_gone else running: now)
    assert heard.public == told
    assert [session.status for session in registry.all()] == ([status] if status else [])


def test_an_event_that_comes_late_changes_nothing(registry):
    apply(registry, "instance-started", at=10)
    apply(registry, "instance-shutdown", at=5)
    assert registry.get(NAME).status == "running"


def test_events_count_though_the_clock_was_set_back(registry, monkeypatch):
    registry.settle(clincus.replace(make(NAME, 1), status="running"))
    registry.settle(clincus.replace(make("clincus-0a1b2c-2", 2), status="running"))
    earlier = datetime.now(timezone.utc) - timedelta(hours=1)
    monkeypatch.setattr(clincus, "_now", lambda: earlier)
    registry.apply("instance-shutdown", NAME, earlier - timedelta(seconds=1), lambda: None)
    assert registry.get(NAME).status == "stopped"
    registry.replace([instance()], earlier)
    assert [session.id for session in registry.all()] == [NAME]


def test_a_foreign_instance_never_enters(registry, heard):
    registry.apply("instance-started", "web", BEGIN, lambda: pytest.fail("asked about a foreign instance"))
    registry.replace([{"name": NAME, "status": "Running", "config": {}}], BEGIN)
    assert registry.all() == []
    assert heard == []


class TestListing:
    def test_what_was_missed_is_told(self, registry, heard):
        registry.replace([instance()], BEGIN)
        registry.replace([instance(status="Stopped")], BEGIN + timedelta(seconds=1))
        registry.replace([], BEGIN + timedelta(seconds=2))
        assert heard.public == ["started", "stopped", "stopped"]

    def test_a_restart_that_was_missed_is_told(self, registry, heard):
        registry.replace([instance()], BEGIN)
        registry.replace([{**instance(), "last_used_at": "2026-01-01T01:00:00Z"}], BEGIN + timedelta(seconds=1))
        assert heard.public == ["started", "stopped", "started"]

    def test_the_start_that_we_made_ourselves_is_not_taken_for_a_second_one(self, registry, heard):
        session = registry.reserve("/w", 0, make, ())
        registry.settle(clincus.replace(session, status="running", started_at="2026-01-01T00:00:01Z"))
        registry.replace([instance(session.id)], datetime.now(timezone.utc) + timedelta(seconds=1))
        assert heard.public == ["started"]

    def test_a_listing_older_than_an_event_does_not_undo_it(self, registry):
        apply(registry, "instance-started", at=10)
        registry.replace([instance(status="Stopped")], BEGIN + timedelta(seconds=5))
        assert registry.get(NAME).status == "running"


def make(name: str, slot: int) -> clincus.Session:
    return clincus.Session(name, "/w", "claude", slot, "starting", False, session_id=name)


class TestReservation:
    def test_the_lowest_free_slot_is_taken_and_shown_as_starting(self, registry):
        slots = [registry.reserve("/w", 0, make, ()).slot for _ in range(3)]
        assert slots == [1, 2, 3]
        assert {session.status for session in registry.all()} == {"starting"}

    def test_ten_slots_are_all(self, registry):
        for _ in clincus.SLOTS:
            registry.reserve("/w", 0, make, ())
        with pytest.raises(clincus.ClincusError, match="all 10 slots") as raised:
            registry.reserve("/w", 0, make, ())
        assert raised.value.status == 409

    def test_a_busy_slot_that_was_named_is_refused(self, registry):
        registry.reserve("/w", 4, make, ())
        with pytest.raises(clincus.ClincusError, match="slot 4"):
            registry.reserve("/w", 4, make, ())

    def test_a_name_that_incus_refused_is_passed_over(self, registry):
        taken = {clincus.session_name("clincus-", "/w", 1)}
        assert registry.reserve("/w", 0, make, taken).slot == 2

    def test_the_start_is_told_when_the_tool_runs_not_when_the_container_does(self, registry, heard):
        session = registry.reserve("/w", 0, make, ())
        registry.apply("instance-started", session.id, BEGIN, lambda: pytest.fail("asked Incus"))
        assert heard.public == []
        registry.settle(clincus.replace(session, status="running"))
        assert heard.public == ["started"]

    def test_a_failed_create_leaves_nothing_and_tells_no_stop(self, registry, heard):
        session = registry.reserve("/w", 0, make, ())
        registry.forget(session.id)
        assert registry.all() == []
        assert heard.public == []


class TestDescription:
    PROTECTION = clincus.Protection("locked", {"raw.idmap": "x"}, {"workspace": {"type": "disk"}}, "")

    def test_it_is_complete(self):
        labels = clincus.session_labels(make(NAME, 1))
        description = clincus.describe_instance(labels, {"limits.memory": "1GiB"}, self.PROTECTION)
        assert description["config"] == {
            "boot.autostart": "false",
            "limits.memory": "1GiB",
            "raw.idmap": "x",
            "user.clincus.managed": "true",
            "user.clincus.persistent": "false",
            "user.clincus.protection": "off",
            "user.clincus.session_id": NAME,
            "user.clincus.tool": "claude",
            "user.clincus.workspace": "/w",
        }
        assert description["devices"] == {"workspace": {"type": "disk"}}

    def test_rates_go_on_a_root_disk_of_its_own(self):
        root = {"type": "disk", "path": "/", "pool": "default", "limits.read": "10MB"}
        assert clincus.describe_instance({}, {}, self.PROTECTION, root)["devices"]["root"] == root

    def test_a_later_start_replaces_what_is_ours_and_keeps_the_rest(self):
        old = {"limits.cpu": "2", "image.os": "Debian", "user.mine": "kept", "user.clincus.name": "kept"}
        old["user.clincus.deadline"] = "2026-01-01T00:00:00Z"  # of the run before, when there was a limit still
        instance = {"config": old, "architecture": "x86_64", "description": "", "profiles": ["default"]}
        new = clincus.redescribe_instance(instance, {"config": {"limits.memory": "1GiB"}, "devices": {}})
        assert new["config"] == {
            "image.os": "Debian",
            "limits.memory": "1GiB",
            "user.mine": "kept",
            "user.clincus.name": "kept",
        }


def test_a_start_script_quotes_what_varies():
    script = clincus.start_script(["claude", "it's"], ["claude", "-c"], "true", "/w p", "claude")
    assert "cd '/w p' ||" in script
    assert """claude 'it'"'"'s'""" in script


def test_an_expired_session_that_does_not_stop_keeps_no_other_running(monkeypatch):
    deadline = clincus.format_time(BEGIN + timedelta(hours=1))
    registry = clincus.Registry("clincus-", lambda change: None)
    names = [f"clincus-0a1b2c-{slot}" for slot in (1, 2, 3)]
    registry.replace([instance(name, deadline=deadline) for name in names], BEGIN)
    said: list[str] = []
    sessions = clincus.Sessions(clincus.Incus(), registry, lambda: clincus.load_config({}), {}, said.append)
    asked: list[str] = []

    def stop(id: str) -> None:
        asked.append(id)
        raise clincus.ClincusError("Incus is busy")

    monkeypatch.setattr(sessions, "stop", stop)
    sessions.stop_expired(BEGIN + timedelta(hours=2))
    assert sorted(asked) == names
    assert f"{names[0]}: Incus is busy" in said


def test_a_bell_is_told_once_a_second_and_forgotten_with_its_run():
    told: list[clincus.Change] = []
    registry = clincus.Registry("clincus-", told.append)
    registry.ring(NAME, BEGIN)  # of a session that is not known, nothing is kept
    registry.replace([instance()], BEGIN)
    told.clear()
    for milliseconds in (0, 1, 999, 1000):
        registry.ring(NAME, BEGIN + timedelta(milliseconds=milliseconds))
    assert [change.session.rang_at for change in told] == ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"]
    registry.replace([instance()], BEGIN + timedelta(seconds=2))
    assert registry.get(NAME).rang_at == "2026-01-01T00:00:01Z"
    registry.apply(
        "instance-restarted",
        NAME,
        BEGIN + timedelta(seconds=3),
        lambda: clincus.session_from_instance("clincus-", instance()),
    )
    assert registry.get(NAME).rang_at == ""
