"""Names, descriptions and the registry: what needs no Incus."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_cli.context import is_listed
from tests.builders import a_session
from tests.table import table

NAME = "clincus-0a1b2c-1"


def instance(name: str = NAME, status: str = "Running", **labels: str) -> dict[str, Any]:
    config = {"user.clincus.workspace": "/w", "user.clincus.tool": "claude", "user.clincus.session_id": "s"}
    config.update({f"user.clincus.{key}": value for key, value in labels.items()})
    return {"name": name, "status": status, "config": config, "last_used_at": "2026-01-01T00:00:00Z"}


def test_only_names_of_our_form_are_sessions():
    slots = {"clincus-0a1b2c-10": 10, "clincus-0a1b2c3d-2": 2}  # the second one is of the Go program
    slots |= dict.fromkeys(["clincus-0a1b2c-0", "clincus-0A1B2C-1", "clincus-0a1b2c-1\n", "web"])
    assert {name: clincus.session_slot("clincus-", name) for name in slots} == slots


# What an instance is: whether the API shows it, and the command line.
KINDS = {
    "a session": (NAME, {"workspace": "/w"}, (True, True)),
    "of the Go program's `run --persistent`": (NAME, {}, (False, True)),
    "of `container launch`, by its label": ("web", {"managed": "true"}, (False, True)),
    "of a command": (NAME, {"workspace": "/w", "command": "1 2"}, (False, False)),
}


@table(("name", "labels", "shown"), KINDS.values(), ids=KINDS.keys())
def test_which_instances_are_shown(name, labels, shown):
    config = {clincus.LABEL + key: value for key, value in labels.items()}
    session = clincus.session_from_instance("clincus-", {"name": name, "status": "Running", "config": config}, "")
    assert session is not None
    assert (clincus.is_session(session), is_listed(session)) == shown
    assert session.persistent is ("workspace" not in labels), "what nobody called ephemeral is kept"


@table(
    ("status", "expected"),
    [
        ("Running", ("running", False, False)),
        ("Ready", ("running", False, False)),
        ("Frozen", ("stopped", True, False)),
        ("Error", ("stopped", False, True)),
    ],
)
def test_states_of_incus_become_ours(status, expected):
    document = clincus.session_from_instance("clincus-", instance(status=status), "").document()
    assert (document["status"], document["paused"], "error" in document) == expected


def test_what_is_on_an_instance_is_read_back():
    session = draft(NAME)._replace(
        id=NAME,
        slot=1,
        status="running",
        protection="basic",
        protection_note="The kernel is too old",
        warnings=("one", "another"),
        created_at="2026-01-01T00:00:00Z",
        run="2026-01-01T00:00:00Z",
        settings='{"limits.cpu.count": "1"}',
        guest='[1000, "code", "/workspace"]',
    )
    found = {**instance(), "config": clincus.session_labels(session)}
    assert clincus.session_from_instance("clincus-", found, "") == session


@table(
    ("path", "reason"),
    [
        (None, "not the absolute path"),
        ("/", "system directory"),
        ("/usr/share", "system directory"),
        ("/nowhere/at/all", "does not exist"),
        ("/tmp/a\nb", "control character"),
        ("/tmp/\udcff", "not UTF-8"),
    ],
)
def test_what_may_not_be_mounted_is_refused_with_the_reason(path, reason):
    with pytest.raises(clincus.ClincusError, match=reason) as raised:
        clincus.resolve_workspace(path, "/home/ann")
    assert raised.value.status == 400


def test_the_home_directory_our_own_files_and_what_holds_them_are_refused(tmp_path: Path):
    home = tmp_path / "people" / "ann"
    state = home / ".config" / "clincus"
    for folder in (state, home / "project", home / "dotfiles"):
        folder.mkdir(parents=True)
    (home / "dotfiles/clincus.toml").write_text("")
    (home / "config.toml").symlink_to("dotfiles/clincus.toml")
    (home / "link").symlink_to("project")
    own = [str(state), str(home / "config.toml")]
    assert clincus.resolve_workspace(str(home / "link"), str(home), own) == str(home / "project")
    for path in (home, home.parent):
        with pytest.raises(clincus.ClincusError, match="home directory"):
            clincus.resolve_workspace(str(path), str(home))
    for path in (state, state.parent, home / "dotfiles"):
        with pytest.raises(clincus.ClincusError, match="own files"):
            clincus.resolve_workspace(str(path), str(home), own)


def test_a_mount_follows_links_of_the_owner_and_none_that_an_agent_may_have_put(tmp_path: Path):
    def real(path: str) -> str:
        return clincus.real_mount(str(tmp_path / path), {str(tmp_path / "work")})

    for folder in ("work/deep", "secret/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for link, target in (
        ("data", "./secret/../secret/deep"),
        ("absolute", tmp_path / "data"),
        ("work/link", tmp_path / "secret"),
        ("way", "work"),
        ("to_link", "way/link"),
        ("circle", "circle"),
    ):
        (tmp_path / link).symlink_to(target)
    assert real("absolute") == str(tmp_path / "secret/deep")
    assert real("work/new/one") == str(tmp_path / "work/new/one")
    assert (tmp_path / "work/new/one").is_dir()
    for path in ("work/link", "work/link/deep", "way/link", "to_link"):
        with pytest.raises(clincus.ClincusError, match=r"work/link.* is a link") as raised:
            real(path)
        assert raised.value.status == 400
    for path, reason in (("circle", "is a link"), ("file/below", "cannot be made")):
        with pytest.raises(clincus.ClincusError, match=reason):
            real(path)


class Heard(list):
    """What a registry told: (kind, status) of each change, without the `changed` ones."""

    def __call__(self, change: clincus.Change) -> None:
        self.append((change.kind, change.session.status))

    @property
    def public(self) -> list[str]:
        return [kind for kind, _ in self if kind not in ("changed", "deleted")]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def registry(heard: Heard) -> clincus.Registry:
    return clincus.Registry("clincus-", heard)


def look(registry: clincus.Registry, found: dict[str, Any] | None, when: str = "", name: str = NAME) -> None:
    """Look at one instance, which is `found` now."""
    registry.compare_one(next(registry.questions), name, found, when=when)


def list_all(registry: clincus.Registry, *found: dict[str, Any]) -> None:
    registry.compare_all(next(registry.questions), "", found)


RUNNING, STOPPED, PAUSED = instance(), instance(status="Stopped"), instance(status="Frozen")
AGAIN = {**RUNNING, "last_used_at": "2026-01-01T00:00:00.9Z"}  # the next run, in the same second
SEEN = {
    "start": ([RUNNING], ["started"], "running"),
    "restart": ([RUNNING, AGAIN], ["started", "stopped", "started"], "running"),
    "pause and resume": ([RUNNING, PAUSED, RUNNING], ["started", "resumed"], "running"),
    "resume of one that was found paused": ([PAUSED, RUNNING], ["resumed"], "running"),
    "stop of a paused one": ([RUNNING, PAUSED, STOPPED], ["started", "stopped"], "stopped"),
    "delete of a stopped one": ([RUNNING, STOPPED, None], ["started", "stopped", "stopped"], ""),
}


@table("how", ["one", "all"])
@table(("seen", "told", "status"), SEEN.values(), ids=SEEN.keys())
def test_what_is_seen_becomes_changes_and_states(how, seen, told, status):
    heard = Heard()
    registry = clincus.Registry("clincus-", heard)
    for found in seen:
        if how == "one":
            look(registry, found)
        else:
            list_all(registry, *filter(None, [found]), {"name": "clincus-0a1b2c-2", "status": "Running", "config": {}})
    assert heard.public == told
    assert [session.status for session in registry.all()] == ([status] if status else [])


def test_the_answer_to_an_earlier_question_comes_too_late(registry):
    earlier = next(registry.questions)
    look(registry, STOPPED)
    registry.compare_one(earlier, NAME, RUNNING)
    assert registry.get(NAME).status == "stopped"
    registry.compare_all(earlier, "", [RUNNING])
    assert registry.get(NAME).status == "stopped"


def test_a_label_with_a_word_that_nobody_knows_promises_nothing():
    """A clone that passed for a mounted folder would be deleted without a question."""
    for labels, fields in (
        ({}, ("mount", "basic")),
        ({"mode": "mount", "protection": "locked"}, ("mount", "locked")),
        ({"mode": "\x1b[2J", "protection": "\x1b[2J"}, ("clone", "basic")),
    ):
        session = clincus.session_from_instance("clincus-", instance(**labels), "far")
        assert (session.mode, session.protection) == fields


def draft(session_id: str) -> clincus.Session:
    return a_session(0, id="", status="starting", session_id=session_id)


def reserve(registry: clincus.Registry, slot: int = 0, taken: Collection[str] = ()) -> clincus.Session:
    return registry.reserve(draft(str(len(registry.all()))), slot, taken)


def test_the_lowest_slot_is_taken_that_nobody_has(registry):
    list_all(registry, instance(clincus.session_name("clincus-", "/w", 1), command="1 2"))
    assert registry.all() == [], "it is not shown, and has its slot"
    refused = {clincus.session_name("clincus-", "/w", 2)}
    assert [reserve(registry, slot, refused).slot for slot in (0, 5, 0, 0)] == [3, 5, 4, 6]
    assert {session.status for session in registry.all()} == {"starting"}
    with pytest.raises(clincus.ClincusError, match="slot 4"):
        reserve(registry, 4)
    for _ in range(5):
        reserve(registry)
    with pytest.raises(clincus.ClincusError, match="all 10 slots") as raised:
        reserve(registry)
    assert raised.value.status == 409


def test_the_start_is_told_when_the_tool_runs_and_not_when_the_container_does(registry, heard):
    session = reserve(registry)
    look(registry, {**RUNNING, "name": session.id}, name=session.id)
    assert (heard.public, registry.get(session.id).status) == ([], "starting")
    registry.end_work(session.id)
    assert (heard.public, registry.get(session.id).status) == (["started"], "running")


DISK = {"type": "disk", "source": "/a", "path": "/a"}
WORKSPACE = {"type": "disk", "source": "/w", "path": "/workspace"}


def redescribed(config: dict[str, str], devices: dict[str, Any], old: dict[str, str], before: dict[str, Any]) -> Any:
    """An instance of the config `old` and the devices `before` with a new description."""
    instance = {"config": old, "devices": before, "architecture": "x86_64", "description": "", "profiles": ["default"]}
    return clincus.redescribe_instance(instance, {"config": config, "devices": devices})


def test_a_later_start_replaces_what_is_ours_and_keeps_the_rest():
    old = {"limits.cpu": "2", "image.os": "Debian", "user.mine": "kept", "user.clincus.other": "kept"}
    old["user.clincus.deadline"] = "2026-01-01T00:00:00Z"  # of the run before, when there was a limit still
    new = redescribed({"limits.memory": "1GiB"}, {}, old, {})
    assert new["config"] == {
        "image.os": "Debian",
        "limits.memory": "1GiB",
        "user.clincus.devices": "-",
        "user.mine": "kept",
        "user.clincus.other": "kept",
    }
    devices = {"workspace": {"path": "/old"}, "mount-0": DISK, "data": DISK}
    for label in ({"user.clincus.devices": "workspace mount-0"}, {}):  # which older ones have not
        new = redescribed({}, {"workspace": WORKSPACE}, label, devices)
        assert new["devices"] == {"workspace": WORKSPACE, "data": DISK}
        assert new["config"]["user.clincus.devices"] == "workspace"


def test_a_bell_is_told_once_a_second():
    told: list[clincus.Change] = []
    registry = clincus.Registry("clincus-", told.append)
    look(registry, RUNNING)
    told.clear()
    for milliseconds in (0, 999, 1000):
        registry.ring(NAME, datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds))
    assert [change.kind for change in told] == ["rang", "rang"]
