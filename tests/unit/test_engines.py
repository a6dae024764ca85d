"""Engines without Incus: the door to a remote, the registry of all engines, what a remote may not make us do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

import clincus
from clincus_cli import engines as commands
from clincus_features import engine_memory, engines, upkeep
from clincus_features.network.policy import Policy
from tests.builders import an_engine
from tests.table import table

NAME = "clincus-0a1b2c-1"
FAR = f"far:{NAME}"
NOW = "2026-01-01T10:00:00Z"


# ---- the door


class Door(clincus.Incus):
    """A door that notes the command lines instead of running them, and answers from a list."""

    def __init__(self, *answers: object, **options: Any) -> None:
        super().__init__(**{"project": "p", "engine": "far", "remote": "tower", "target": "@gpu", **options})
        self.lines: list[str] = []
        self.given: list[bytes] = []  # on stdin
        self.answers = list(answers)

    @contextlib.contextmanager
    def _command(self, command: Any, first: bytes, timeout: float, *, finish: bool = False) -> Iterator[Any]:
        self._answer(command, first, timeout)
        with clincus.IncusChild(["true"]) as child:
            yield child

    def _answer(self, command: Any, stdin: bytes, timeout: float, *, finish: bool = False) -> bytes:
        self.lines.append(" ".join(command))
        self.given.append(stdin)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()


def test_a_remote_stands_before_instance_and_image_and_the_project_before_all():
    door = Door()
    door.launch(FAR, "clincus", {})
    door.launch(FAR, "images:debian/13", {}, target="m2")
    door.query(door.path(FAR, "/state"))
    door.update(FAR, {})
    assert door.lines == [
        f"incus --project p launch --quiet --target=@gpu tower:clincus tower:{NAME}",
        f"incus --project p launch --quiet --target=m2 images:debian/13 tower:{NAME}",
        f"incus query --request GET tower:/1.0/instances/{NAME}/state?project=p",
        f"incus --project p config edit tower:{NAME}",
    ]
    assert f"tower:{NAME} -- true" in " ".join(door.exec_argv(FAR, ["true"]))
    for id in (f"other:{NAME}", f"far:x:{NAME}"):
        with pytest.raises(AssertionError, match="not on the engine"):
            door.place(id)


def test_where_the_servers_own_certificate_is_known_no_authority_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("INCUS_CONF", str(tmp_path))
    (tmp_path / "servercerts").mkdir()
    (tmp_path / "servercerts" / "tower.crt").touch()
    assert {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/nonexistent"}.items() <= (Door().environ or {}).items()
    assert [Door(remote=remote).environ for remote in ("public", "")] == [None, None]


# ---- the registry


class Told:
    """A registry and what it has told."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.registry = clincus.Registry("clincus-", lambda one: self.changes.append((one.kind, one.session.id)))

    def hear(self, *instances: dict[str, Any], engine: str = "far", **options: Any) -> None:
        self.registry.compare_all(next(self.registry.questions), engine, instances, **options)

    def shown(self) -> dict[str, tuple[str, str]]:
        return {one.id: (one.status, one.unreachable_since) for one in self.registry.all()}


def instance(name: str = NAME, status: str = "Running", location: str = "none", **labels: str) -> dict[str, Any]:
    config = {"workspace": "/w", "tool": "claude", "session_id": name, **labels}
    keys = {clincus.LABEL + key: value for key, value in config.items()}
    return {"name": name, "status": status, "location": location, "config": keys, "last_used_at": NOW}


@pytest.fixture
def told() -> Told:
    return Told()


ANYTHING = [None, 0, 1.5, True, "", "x", [], ["a"], {}, {"mode": "open"}, "[" * 100_000, "x" * 100_000, "\0"]
OTHER = "clincus-ffffff-2"
FIELDS = ("name", "status", "location", "created_at", "last_used_at", "config")


def test_what_another_host_says_of_an_instance_costs_that_one_alone(told):
    for value in ANYTHING:
        with contextlib.nullcontext() if isinstance(value, list) else pytest.raises(clincus.IncusError, match="a list"):
            clincus.plain_instances(value)
        evil = [{**instance(), field: value} for field in FIELDS]
        evil += [instance(**{label: value}) for label in clincus.LABELS]
        for one in evil:
            told.hear(one, instance(OTHER))
            assert told.shown()[f"far:{OTHER}"] == ("running", ""), one
            for session in told.registry.all():
                assert len(json.dumps(session.document())) < 10 * clincus.LABEL_LIMIT
                for read in (
                    clincus.session_tool,
                    clincus.kept_settings,
                    lambda one: clincus.Guest.of(one, clincus.load_config({})),
                ):
                    with contextlib.suppress(clincus.ClincusError):
                        read(session)


def test_an_event_of_any_form_ends_no_stream(told):
    looked: list[str] = []
    sessions: Any = SimpleNamespace(registry=told.registry, look=lambda id, when: looked.append(id))
    monitor = clincus.Monitor(an_engine("far", told.registry), sessions, cast("Any", None))
    good = {"action": "instance-started", "name": NAME, "context": {}}
    for value in ANYTHING:
        for line in (value, {"metadata": value, "timestamp": NOW}, {"metadata": good, "timestamp": value}):
            monitor._handle(line.encode() if isinstance(line, str) else json.dumps(line).encode())
        for key in good:
            monitor._handle(json.dumps({"metadata": {**good, key: value}, "timestamp": NOW}).encode())
    looked.clear()
    monitor._handle(json.dumps({"metadata": good, "timestamp": NOW}).encode())
    assert looked == [FAR]


def test_a_member_that_is_down_takes_only_its_own_sessions_along(told):
    """The cluster has no more than the names of its instances, in the state Error, before and after it knows that."""
    other = "clincus-0a1b2c-2"
    well = instance(location="m1"), instance(other, location="m2")
    told.hear(*well)
    told.changes.clear()
    silent = {**instance(status="Error", location="m1"), "config": None}
    told.hear(silent, well[1])
    assert (told.shown()[FAR], told.changes) == (("running", ""), [])
    told.hear(silent, well[1], lost=["m1"], when=NOW)
    assert told.shown() == {FAR: ("running", NOW), f"far:{other}": ("running", "")}
    told.hear(*well)
    assert told.shown()[FAR] == ("running", "")
    assert {kind for kind, _ in told.changes} == {"changed"}


# ---- what another host may not make us do


def test_labels_and_names_that_would_lead_elsewhere_on_this_host_count_as_absent():
    session = clincus.session_from_instance("clincus-", instance(session_id="../../.ssh", tool="x/../../etc"), "far")
    assert session is not None
    assert (session.session_id, session.tool, session.id) == (NAME, "claude", FAR)
    named = instance("../evil")
    named["config"][clincus.LABEL + "managed"] = "true"
    assert clincus.session_from_instance("clincus-", named, "far") is None


ENDLESS = '{"saved": ["talks"], "start": ["sh"], "conversation": "a/(a+)+b", "rules": [{"pattern": "(a+)+b"}]}'


@table(
    ("row", "saved"),
    [(ENDLESS, ("talks",)), ("[]", ()), ('{"saved": ["../x"]}', ()), ('{"saved": ["a/./b"]}', ("a/b",)), ("", ())],
)
def test_no_pattern_of_another_host_is_ever_tried(row, saved):
    """With names that a container chooses, some take for ever."""
    session = clincus.session_from_instance("clincus-", instance(tool="theirs", tool_row=row), "far")
    tool = clincus.session_tool(session)
    assert (tool.name, tool.start, tool.saved, tool.conversation, tool.rules) == ("theirs", ("theirs",), saved, "", ())


def test_a_network_label_that_cannot_be_read_opens_nothing(told):
    for label in ('{"mode":"open"}' + " " * clincus.LABEL_LIMIT, 1, {"mode": "open"}, "[" * 100_000):
        told.hear(instance(network=label))
        assert not told.registry.get(FAR).has_open_network
        assert Policy.from_label(told.registry.get(FAR).network).mode == "none"


def test_a_session_there_takes_no_conversation_of_another_session_by_its_id(tmp_path):
    launch = plan(tmp_path, workspace="/srv/app", mode="mount")  # writes the config, too
    environ, reports = {"HOME": str(tmp_path)}, list[str]()
    registry = clincus.Registry("clincus-", lambda change: None)
    config = clincus.load_config(environ)
    sessions = clincus.Sessions(Door(engine="", remote=""), registry, lambda: config, environ, report=reports.append)
    registry.compare_all(1, "far", [instance(session_id="mine")])
    directory = clincus.session_directory(config, environ, "claude", "mine")
    clincus.write_metadata(clincus.SavedSession("mine", "claude", directory, container_name=NAME, workspace="/w"))
    refusal = f'"{FAR}" has the id of a conversation of "{NAME}"'
    assert sessions.save(FAR) is clincus.SaveResult.FAILED
    assert refusal in reports[0]
    with pytest.raises(clincus.ClincusError, match=refusal):
        sessions._start_tool(registry.get(FAR), launch, is_new=False, has_begun=False)
    kept = clincus.read_metadata(directory, "claude")
    assert kept is not None
    assert kept.container_name == NAME, "the next save would take the conversation for its own"


@table(
    ("path", "roots"),
    [
        ("/srv/projects/../etc", ["/srv/projects"]),
        ("/srv/projects-other/app", ["/srv/projects"]),
        ("/srv/projects/a\nb", ["/srv/projects"]),
        ("/srv/projects/app", []),
    ],
)
def test_a_workspace_there_lies_in_a_root(path, roots):
    with pytest.raises(clincus.ClincusError) as caught:
        clincus.far_workspace(path, "far", roots)
    assert caught.value.status == 400
    assert clincus.far_workspace("/srv/projects/app/", "far", ["/srv/projects/"]) == "/srv/projects/app"


def plan(tmp_path, **fields: Any) -> clincus.Launch:
    folder = tmp_path / ".config" / "clincus"
    folder.mkdir(parents=True, exist_ok=True)
    text = '[engines.far]\nroots = ["/srv"]\nimage = "theirs"\n[[mounts.default]]\nhost = "/opt/x"\ncontainer = "/x"\n'
    (folder / "config.toml").write_text(text)
    environ = {"HOME": str(tmp_path)}
    request = clincus.LaunchRequest(engine="far", **fields)
    return clincus.plan_launch(request, clincus.load_config(environ), environ, clincus.Extensions())


def test_a_session_there_works_on_a_clone_unless_a_folder_of_that_host_is_asked_for(tmp_path):
    (tmp_path / "app").mkdir()
    clone = plan(tmp_path, workspace=str(tmp_path / "app"))
    assert (clone.draft.mode, clone.draft.engine, clone.draft.image) == ("clone", "far", "theirs")
    mount = plan(tmp_path, workspace="/srv/app", mode="mount")
    assert (mount.draft.workspace, mount.mounts) == ("/srv/app", [])
    assert "mounts.default is left out" in mount.warnings[-1]


def test_a_folder_of_another_host_is_locked_with_the_owner_that_it_has_there():
    settings = clincus.load_config({"HOME": "/nowhere", "CLINCUS_CONFIG": ""})
    folder = clincus.protect.workspace_folder("/srv/app", "/workspace", settings, "far")

    def protect(reason: str) -> clincus.protect.Protection:
        return clincus.protect.protect_workspace(folder, settings, clincus.protect.ProtectionSupport(reason), stage="s")

    locked = protect("")
    assert (locked.level, "is on another host" in locked.note) == ("locked", True)
    assert "chmod errno 1 [1,2048" in locked.config["security.syscalls.deny"]  # it may be root's
    plain = protect("The kernel is too old")
    assert (plain.level, list(plain.devices)) == ("off", ["workspace"])
    assert "nothing in the folder is protected there" in plain.reason


# ---- background work, facts


def test_an_engine_that_is_lost_takes_no_command_until_it_is_reached_again(told):
    far, reached = an_engine("far", told.registry), list[tuple[str, str]]()
    far.on_reach = lambda engine, error: reached.append((engine, error))
    told.hear(instance())
    told.hear(instance(), engine="")
    far.note_reach("")
    for _ in range(2):
        far.note_reach("it hangs")
    assert told.shown() == {FAR: ("running", far.reach.since), NAME: ("running", "")}
    sessions: Any = SimpleNamespace(registry=told.registry)
    assert list(upkeep.reachable(sessions, "far")) == []
    with pytest.raises(clincus.IncusError, match="it hangs"):
        far.incus.argv("list")
    with pytest.raises(clincus.ClincusError, match="it hangs") as raised:
        far.require()
    assert raised.value.status == 503
    assert far.incus.fresh_door().argv("list"), "it can be asked whether it is back"
    far.note_reach("")
    far.require()
    assert far.incus.argv("list")
    assert [one.id for one in upkeep.reachable(sessions, "far")] == [FAR]
    assert reached == [("far", "it hangs"), ("far", "")]


CLUSTER = engines.Facts("6.0.4", True, (("m1", "Online", "https://a:1"), ("m2", "Online", "https://b:1")), ("default",))


def test_another_member_is_found_when_the_known_one_is_down():
    door = Door(None, clincus.IncusError("gone", 503), None, {"environment": {}})
    assert engines.find_member(door, CLUSTER)
    assert [line for line in door.lines if "set-url" in line] == [
        "incus --project p remote set-url tower https://a:1",
        "incus --project p remote set-url tower https://b:1",
    ]


# ---- clincus engine

KNOWN = {"addresses": ["h:8443"], "fingerprint": hashlib.sha256(b"of the token").hexdigest()}
TOKEN = base64.b64encode(json.dumps(KNOWN).encode()).decode()


@pytest.fixture
def shown(monkeypatch):
    """The server at the addresses of a token shows this certificate."""
    certificate = [b"of the token"]
    monkeypatch.setattr(commands, "first_certificate", lambda addresses: (addresses[0], certificate[0]))
    return certificate


def test_a_token_goes_to_incus_on_stdin_for_the_server_with_its_certificate_alone(shown, tmp_path):
    door, environ = Door({}), {"INCUS_CONF": str(tmp_path)}
    shown[0] = b"of another"
    with pytest.raises(clincus.ClincusError, match="is not the server that the token is for"):
        commands.add_remote(Door({}), "tower", TOKEN, "", environ)
    with pytest.raises(clincus.ClincusError, match="that is no token"):
        commands.add_remote(Door(), "tower", "--help", "", environ)
    shown[0] = b"of the token"
    with pytest.raises(clincus.ClincusError, match="without a token takes it") as caught:
        commands.add_remote(Door({"tower": {}}), "tower", TOKEN, "", environ)
    assert caught.value.status == 409
    assert not (tmp_path / "servercerts").exists()
    with pytest.raises(clincus.ClincusError, match="ask for a new one"):
        commands.add_remote(Door({}, clincus.incus_failure("Token has expired")), "tower", TOKEN, "", environ)
    assert [*(tmp_path / "servercerts").iterdir()] == []
    commands.add_remote(door, "tower", TOKEN, "mine", environ)
    assert door.lines[-1].endswith("remote add tower https://h:8443 --project=mine")
    assert TOKEN not in " ".join(door.lines)
    assert door.given[-1] == f"{TOKEN}\n".encode()
    content = base64.b64encode(b"of the token").decode()
    trusted = (tmp_path / "servercerts" / "tower.crt").read_text()
    assert trusted == f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n"


def test_the_config_and_the_clients_key_are_closed_to_others(tmp_path, capsys):
    environ = {"HOME": str(tmp_path), "INCUS_CONF": str(tmp_path)}
    path, key = tmp_path / ".config/clincus/config.toml", tmp_path / "client.key"
    commands.write_engine(environ, "a", {"roots": ['/s"x']})
    path.write_text(f"# mine\n{path.read_text()}")
    commands.write_engine(environ, "b", {})
    assert clincus.load_config(environ).get("engines") == {"a": {"roots": ['/s"x']}, "b": {}}
    assert path.read_text().startswith("# mine\n")
    key.touch(0o644)
    commands.restrict_key(environ)
    assert [one.stat().st_mode & 0o777 for one in (path, key)] == [0o600, 0o600]
    assert "was open to others" in capsys.readouterr().err


# ---- what is remembered of an engine


class Serving(Told):
    """As much of an application as the memory uses, with the engine `far`."""

    def __init__(self, home: Any, **row: str) -> None:
        super().__init__()
        self.environ = {"HOME": str(home)}
        self.far = an_engine("far", self.registry)
        self.far.reach = clincus.Reach("2099-01-01T00:00:00Z")
        self.far.looked.set()
        self.engines = {"far": self.far}
        self.config = SimpleNamespace(get=lambda key: {"far": row})
        self.memory = engine_memory.Memory(self)  # type: ignore[arg-type]


LOST = clincus.Reach("2099-01-01T00:00:00Z", "engine far: it does not answer")


def test_an_engine_that_is_down_at_the_start_shows_what_it_had_until_it_answers(tmp_path):
    def lost(**row: str) -> Serving:
        serving = Serving(tmp_path, **row)
        serving.far.reach = LOST
        serving.memory.look("far")
        return serving

    before = Serving(tmp_path)
    without_measure = instance(f"{NAME}3", settings="x" * 10_000)
    before.hear(instance(pinned="true"), instance(f"{NAME}2", "Stopped", location="m1"), without_measure)
    before.memory.look("far")
    after = lost()
    since = after.far.reach.since
    assert since < "2099"
    assert after.shown() == {FAR: ("running", since), f"{FAR}2": ("stopped", since)}
    kept, live = after.registry.get(f"{FAR}2"), before.registry.get(f"{FAR}2")
    assert kept._replace(unreachable_since="") == live
    assert lost(remote="another").shown() == {}, "it has the same name, and is not the same"
    for text in ("", "[]", "{", '{"table": ["", ""], "instances": [{"name": 1}]}', "\xff" * 100):
        (tmp_path / ".clincus" / "engine-far.json").write_text(text)
        assert lost().shown() == {}
