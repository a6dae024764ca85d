"""Names, descriptions and the registry: what needs no Incus."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import clincus
from clincus_cli.context import is_listed
from tests.builders import a_session
from tests.table import table

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
NAME = "clincus-0a1b2c-1"


def instance(name: str = NAME, status: str = "Running", **labels: str) -> dict[str, Any]:
    config = {"user.clincus.workspace": "/w", "user.clincus.tool": "claude", "user.clincus.session_id": "s"}
    config.update({f"user.clincus.{key}": value for key, value in labels.items()})
    return {"name": name, "status": status, "config": config, "last_used_at": "2026-01-01T00:00:00Z"}


@table(
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
    session = clincus.session_from_instance("clincus-", {"name": name, "status": "Stopped", "config": config}, "")
    assert session is not None
    assert (clincus.is_session(session), is_listed(session)) == shown
    assert session.persistent is ("workspace" not in labels), "what nobody called ephemeral is kept"


@table(("name", "labels", "shown"), KINDS.values(), ids=KINDS.keys())
def test_only_sessions_are_in_the_history(tmp_path: Path, name, labels, shown):
    config = {clincus.LABEL + key: value for key, value in labels.items()}
    session = clincus.session_from_instance("clincus-", {"name": name, "status": "Running", "config": config}, "")
    history = clincus.History(str(tmp_path / "history.jsonl"))
    for kind in ("started", "stopped"):
        clincus.record_run(history, clincus.Change(kind, session, "2026-01-01T00:00:00Z"), pytest.fail)
    assert len(history.runs()) == shown[0]


def test_any_other_instance_is_not_ours():
    assert clincus.session_from_instance("clincus-", {"name": "web", "status": "Running", "config": {}}, "") is None


@table(
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
    session = clincus.session_from_instance("clincus-", instance(status=status), "")
    assert session is not None
    document = session.document()
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


def test_all_that_a_session_is_read_from_is_kept_of_a_listing():
    full = {**instance(), "location": "one", "status_code": 103, "expanded_config": {"raw.lxc": "x" * 28_000}}
    full["config"] = {**full["config"], "raw.lxc": "x" * 28_000, "image.description": "Debian"}
    listed = {key: value for key, value in full.items() if clincus.READ_KEY(key)}
    listed["config"] = {key: value for key, value in full["config"].items() if clincus.READ_KEY(key)}
    assert clincus.session_from_instance("clincus-", listed, "") == clincus.session_from_instance("clincus-", full, "")
    assert len(json.dumps(listed)) < 1000


def test_the_types_of_a_sessions_fields_say_which_are_labels_and_which_the_api_shows():
    """A label is a contract with containers that are there already."""
    labels = (
        "workspace tool protection protection_note session_id created_at image profile deadline name mode "
        "settings guest command tool_row network logins nesting outside"
    )
    assert labels.split() == clincus.LABELS
    private = "settings guest command tool_row network logins nesting outside run"
    assert private.split() == [name for name in clincus.Session._fields if name in clincus.PRIVATE_FIELDS]


def test_a_session_has_no_dictionary_of_its_own():
    session = clincus.session_from_instance("clincus-", instance(), "")
    tracemalloc.start()
    copies = [session._replace() for _ in range(200)]
    size = tracemalloc.get_traced_memory()[0] / len(copies)
    tracemalloc.stop()
    assert size < 800  # 1,900 with a dictionary


class TestWorkspace:
    def test_symlinks_are_resolved(self, tmp_path: Path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert clincus.resolve_workspace(str(tmp_path / "link"), "/home/ann") == str(tmp_path / "real")

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("", "not the absolute path"),
            (None, "not the absolute path"),
            (7, "not the absolute path"),
            ("project", "not the absolute path"),
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


def test_what_is_told_again_unchanged_stays_the_same_object(registry):
    """Many sessions that rest would else take several times the memory, and their texts be made anew at each look."""
    look(registry, instance())
    first = registry.find(NAME)
    registry.ring(NAME, BEGIN)
    rung = registry.find(NAME)
    look(registry, instance())
    assert registry.find(NAME) is rung
    assert first.rang_at != rung.rang_at
    look(registry, instance(name_label="x"))
    assert registry.find(NAME) is rung, "a label that nobody reads"
    look(registry, instance(image="other"))
    assert registry.find(NAME).image == "other"


def list_all(registry: clincus.Registry, *found: dict[str, Any]) -> None:
    registry.compare_all(next(registry.questions), "", found)


RUNNING, STOPPED, PAUSED = instance(), instance(status="Stopped"), instance(status="Frozen")
AGAIN = {**RUNNING, "last_used_at": "2026-01-01T00:00:00.9Z"}  # the next run, in the same second
SEEN = {
    "start": ([RUNNING], ["started"], "running"),
    "stop": ([RUNNING, STOPPED], ["started", "stopped"], "stopped"),
    "two looks at one change": ([RUNNING, STOPPED, STOPPED], ["started", "stopped"], "stopped"),
    "restart": ([RUNNING, AGAIN], ["started", "stopped", "started"], "running"),
    "pause": ([RUNNING, PAUSED], ["started"], "stopped"),
    "pause and resume": ([RUNNING, PAUSED, RUNNING], ["started", "resumed"], "running"),
    "resume of one that was found paused": ([PAUSED, RUNNING], ["resumed"], "running"),
    "stop of a paused one": ([RUNNING, PAUSED, STOPPED], ["started", "stopped"], "stopped"),
    "delete of a stopped one": ([RUNNING, STOPPED, None], ["started", "stopped", "stopped"], ""),
    "delete of a running one": ([RUNNING, None, None], ["started", "stopped"], ""),
}


@pytest.mark.parametrize("how", ["one", "all"])
@pytest.mark.parametrize("case", SEEN.values(), ids=SEEN.keys())
def test_what_is_seen_becomes_changes_and_states(registry, heard, case, how):
    seen, told, status = case
    for found in seen:
        if how == "one":
            look(registry, found)
        else:
            list_all(registry, *filter(None, [found]))
    assert heard.public == told
    assert [session.status for session in registry.all()] == ([status] if status else [])


def test_the_answer_to_an_earlier_question_comes_too_late(registry):
    earlier = next(registry.questions)
    look(registry, STOPPED)
    registry.compare_one(earlier, NAME, RUNNING)
    assert registry.get(NAME).status == "stopped"
    registry.compare_all(earlier, "", [RUNNING])
    assert registry.get(NAME).status == "stopped"


def test_one_that_was_not_asked_about_stays(registry):
    list_all(registry, instance(), instance("clincus-0a1b2c-2"))
    look(registry, None)
    assert [session.id for session in registry.all()] == ["clincus-0a1b2c-2"]


def test_a_foreign_instance_never_enters(registry, heard):
    list_all(registry, {"name": NAME, "status": "Running", "config": {}})
    assert registry.all() == []
    assert heard == []


@table(
    ("labels", "fields"),
    [
        ({}, ("mount", "basic")),
        ({"mode": "mount", "protection": "locked"}, ("mount", "locked")),
        ({"mode": "\x1b[2J", "protection": "\x1b[2J"}, ("clone", "basic")),
    ],
)
def test_a_label_with_a_word_that_nobody_knows_promises_nothing(labels, fields):
    """A clone that passed for a mounted folder would be deleted without a question."""
    config = {f"user.clincus.{name}": value for name, value in labels.items()}
    made = clincus.session_from_instance(
        "clincus-", {"name": "clincus-a1b2c3-1", "status": "Stopped", "config": config}, "far"
    )
    assert (made.mode, made.protection) == fields


def test_labels_that_others_change_are_seen(registry, heard):
    look(registry, instance())
    look(registry, instance(persistent="true"))
    assert registry.get(NAME).persistent
    assert heard[-1] == ("changed", "running")


def test_the_times_of_a_run_are_those_of_incus():
    told: list[clincus.Change] = []
    registry = clincus.Registry("clincus-", told.append)
    look(registry, RUNNING, "2026-01-01T00:00:07Z")
    look(registry, STOPPED, "2026-01-01T01:00:00Z")
    assert [(change.kind, change.time) for change in told] == [
        ("started", "2026-01-01T00:00:00Z"),
        ("stopped", "2026-01-01T01:00:00Z"),
    ]


ON = a_session(id=NAME, run="2026-01-01T00:00:00Z")
OFF = ON._replace(status="stopped")
NEXT = ON._replace(run="2026-01-02T00:00:00Z")
HERE, AWAY = clincus.Place(), clincus.Place(unreachable_since="2026-01-03T00:00:00Z")
SHOWN = clincus.Record(incus=ON, run=ON, shown=ON)
STEPS = {  # the record that a fact has changed, where, the status that is shown, what is told
    "nothing": (clincus.Record(), HERE, "", []),
    "it runs": (clincus.Record(incus=ON), HERE, "running", ["started"]),
    "nothing new": (SHOWN, HERE, "running", []),
    "it has stopped": (SHOWN._replace(incus=OFF), HERE, "stopped", ["stopped"]),
    "it was started again meanwhile": (SHOWN._replace(incus=NEXT), HERE, "running", ["stopped", "started"]),
    "it is gone": (SHOWN._replace(incus=None), HERE, "", ["stopped", "deleted"]),
    "work on it begins": (SHOWN._replace(busy="stopping"), HERE, "stopping", ["changed"]),
    "it has stopped while work goes on": (SHOWN._replace(busy="stopping", incus=OFF), HERE, "stopping", ["changed"]),
    "a label was changed": (SHOWN._replace(incus=ON._replace(pinned=True)), HERE, "running", ["changed"]),
    "its bell rang": (SHOWN._replace(run=ON._replace(rang_at="2026-01-01T00:00:01Z")), HERE, "running", ["rang"]),
    "its engine is away": (SHOWN, AWAY, "running", ["changed"]),
    "its member is down": (SHOWN, clincus.Place(lost={"": "2026-01-03T00:00:00Z"}), "running", ["changed"]),
    "it is being made": (clincus.Record(reserved=OFF, busy="starting"), HERE, "starting", ["changed"]),
}


@table(("record", "place", "status", "told"), STEPS.values(), ids=STEPS.keys())
def test_a_fact_leads_to_what_is_shown_and_told(record, place, status, told):
    after, changes = clincus.step(record, place, "2026-01-04T00:00:00Z")
    assert (after.shown.status if after.shown else "", [change.kind for change in changes]) == (status, told)
    assert clincus.step(after, place, "2026-01-05T00:00:00Z") == (after, []), "the same fact again changes nothing"


class TestWork:
    def test_its_state_is_shown_until_its_end(self, registry, heard):
        look(registry, RUNNING)
        registry.begin_work(NAME, "stopping")
        look(registry, STOPPED)
        assert registry.get(NAME).status == "stopping"
        assert heard.public == ["started"]
        registry.end_work(NAME)
        assert registry.get(NAME).status == "stopped"
        assert heard.public == ["started", "stopped"]

    def test_a_resume_of_a_paused_one_is_told_at_its_end(self, registry, heard):
        look(registry, RUNNING)
        look(registry, PAUSED)
        registry.begin_work(NAME, "starting")
        look(registry, RUNNING)
        assert heard.public == ["started"]
        registry.end_work(NAME)
        assert heard.public == ["started", "resumed"]

    def test_a_look_meanwhile_that_is_newer_than_the_one_at_its_end_counts(self, registry):
        look(registry, RUNNING)
        registry.begin_work(NAME, "starting")
        question = next(registry.questions)
        look(registry, STOPPED)
        assert registry.get(NAME).status == "starting"
        registry.compare_one(question, NAME, RUNNING)
        registry.end_work(NAME)
        assert registry.get(NAME).status == "stopped"

    @pytest.mark.parametrize(
        ("status", "ends"), [("starting", {"Running"}), ("stopping", {"Stopped", "gone"})], ids=["start", "stop"]
    )
    def test_it_is_done_when_incus_has_told_its_end(self, registry, status, ends):
        look(registry, RUNNING if status == "stopping" else STOPPED)
        registry.begin_work(NAME, status)
        done = set()
        for found in (RUNNING, PAUSED, STOPPED):
            look(registry, found)
            done |= {found["status"]} if registry.shows_result_of_work(NAME) else set()
        registry.compare_one(next(registry.questions), NAME, None)
        assert done | ({"gone"} if registry.shows_result_of_work(NAME) else set()) == ends

    def test_a_stop_while_the_start_comes_to_its_end_is_seen(self, registry, heard):
        session = reserve(registry)
        look(registry, {**RUNNING, "name": session.id}, name=session.id)
        look(registry, {**STOPPED, "name": session.id}, name=session.id)
        registry.end_work(session.id)
        assert registry.get(session.id).status == "stopped"
        assert heard.public == []


def draft(session_id: str) -> clincus.Session:
    return a_session(0, id="", status="starting", session_id=session_id)


def reserve(registry: clincus.Registry, slot: int = 0, taken: Collection[str] = ()) -> clincus.Session:
    return registry.reserve(draft(str(len(registry.all()))), slot, taken)


class TestReservation:
    def test_the_slot_of_an_instance_that_is_not_shown_is_taken(self, registry):
        list_all(registry, instance(clincus.session_name("clincus-", "/w", 1), command="1 2"))
        assert registry.all() == []
        assert reserve(registry).slot == 2

    def test_the_lowest_free_slot_is_taken_and_shown_as_starting(self, registry):
        slots = [reserve(registry).slot for _ in range(3)]
        assert slots == [1, 2, 3]
        assert {session.status for session in registry.all()} == {"starting"}

    def test_ten_slots_are_all(self, registry):
        for _ in clincus.SLOTS:
            reserve(registry)
        with pytest.raises(clincus.ClincusError, match="all 10 slots") as raised:
            reserve(registry)
        assert raised.value.status == 409

    def test_a_busy_slot_that_was_named_is_refused(self, registry):
        reserve(registry, 4)
        with pytest.raises(clincus.ClincusError, match="slot 4"):
            reserve(registry, 4)

    def test_a_name_that_incus_refused_is_passed_over(self, registry):
        taken = {clincus.session_name("clincus-", "/w", 1)}
        assert reserve(registry, taken=taken).slot == 2

    def test_the_start_is_told_when_the_tool_runs_not_when_the_container_does(self, registry, heard):
        session = reserve(registry)
        look(registry, {**RUNNING, "name": session.id}, name=session.id)
        assert (heard.public, registry.get(session.id).status) == ([], "starting")
        registry.end_work(session.id)
        assert (heard.public, registry.get(session.id).status) == (["started"], "running")

    def test_a_failed_create_leaves_nothing_and_tells_no_stop(self, registry, heard):
        session = reserve(registry)
        look(registry, {**RUNNING, "name": session.id}, name=session.id)
        look(registry, None, name=session.id)
        registry.end_work(session.id)
        assert registry.all() == []
        assert heard.public == []
        assert heard[-1] == ("deleted", "stopped")


DISK = {"type": "disk", "source": "/a", "path": "/a"}
WORKSPACE = {"type": "disk", "source": "/w", "path": "/workspace"}


class TestDescription:
    PROTECTION = clincus.protect.Protection("locked", {"raw.idmap": "x"}, {"workspace": {"type": "disk"}}, "")

    LAUNCH = clincus.Launch(
        clincus.LaunchRequest("/w"),
        clincus.load_config({}),
        ("the project's",),
        draft("s"),
        clincus.Guest(1000, "code", "/workspace"),
        clincus.TOOLS["claude"],
        mounts=(),
    )

    def test_it_is_complete(self):
        started = draft(NAME)._replace(id=NAME, slot=1)
        session, description = clincus.describe_session(started, self.LAUNCH, self.PROTECTION)
        assert description["config"] == {
            "boot.autostart": "false",
            "raw.idmap": "x",
            "user.clincus.managed": "true",
            "user.clincus.persistent": "false",
            "user.clincus.protection": "locked",
            "user.clincus.session_id": NAME,
            "user.clincus.tool": "claude",
            "user.clincus.mode": "mount",
            "user.clincus.warnings": "the project's",
            "user.clincus.workspace": "/w",
        }
        assert (session.protection, session.warnings) == ("locked", ("the project's",))
        assert description["devices"] == {"workspace": {"type": "disk"}}

    def test_a_later_start_replaces_what_is_ours_and_keeps_the_rest(self):
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

    @pytest.mark.parametrize("label", [{"user.clincus.devices": "workspace mount-0"}, {}], ids=["labelled", "older"])
    def test_a_later_start_keeps_the_devices_that_a_person_added(self, label):
        old = {"workspace": {"path": "/old"}, "mount-0": DISK, "data": DISK}
        new = redescribed({}, {"workspace": WORKSPACE}, label, old)
        assert new["devices"] == {"workspace": WORKSPACE, "data": DISK}
        assert new["config"]["user.clincus.devices"] == "workspace"

    def test_a_later_start_keeps_a_persons_root_disk_and_sets_its_limits_anew(self):
        own = {"type": "disk", "path": "/", "pool": "p", "size": "9GiB"}
        ours = {"type": "disk", "path": "/", "pool": "default", "limits.read": "10MB"}
        old = {"user.clincus.devices": "workspace"}
        first = redescribed({}, {"root": ours}, old, {"root": own})
        assert first["devices"] == {"root": {**own, "limits.read": "10MB"}}
        assert redescribed({}, {}, first["config"], first["devices"])["devices"] == {"root": own}


def redescribed(config: dict[str, str], devices: dict[str, Any], old: dict[str, str], before: dict[str, Any]) -> Any:
    """An instance of the config `old` and the devices `before` with a new description."""
    instance = {"config": old, "devices": before, "architecture": "x86_64", "description": "", "profiles": ["default"]}
    return clincus.redescribe_instance(instance, {"config": config, "devices": devices})


def test_a_bell_is_told_once_a_second_and_forgotten_with_its_run():
    told: list[clincus.Change] = []
    registry = clincus.Registry("clincus-", told.append)
    registry.ring(NAME, BEGIN)  # of a session that is not known, nothing is kept
    look(registry, RUNNING)
    told.clear()
    for milliseconds in (0, 1, 999, 1000):
        registry.ring(NAME, BEGIN + timedelta(milliseconds=milliseconds))
    assert [(change.kind, change.session.rang_at) for change in told] == [
        ("rang", "2026-01-01T00:00:00Z"),
        ("rang", "2026-01-01T00:00:01Z"),
    ]
    look(registry, RUNNING)
    assert registry.get(NAME).rang_at == "2026-01-01T00:00:01Z"
    look(registry, AGAIN)
    assert registry.get(NAME).rang_at == ""
