"""What the journal writes down of requests and sessions, and that it never holds what was said."""

from __future__ import annotations

import json
import os
import stat
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_cli.all_commands import load_commands
from clincus_cli.commands import Options, find_command
from clincus_cli.context import Context
from clincus_cli.journal import FROM, run_noted
from clincus_features import journal

load_commands()
ID = "clincus-0a1b2c-1"
PROMPT = {
    "operationId": "send_prompt",
    "summary": "Type a prompt; 409 says what is in the way",
    "responses": {"202": {}, "409": {}, "default": {}},
}
AGENT = {"state": "waiting", "reason": "question", "text": "Red\nor blue?\x1b[2J"}


def found(**labels: str) -> dict[str, Any]:
    config = {"workspace": "/srv/app", "tool": "claude", "session_id": "talk-1", **labels}
    return {
        "name": ID,
        "status": "Running",
        "last_used_at": "2026-01-01T08:00:00Z",
        "config": {clincus.LABEL + key: value for key, value in config.items()},
    }


class Office:
    def __init__(self, home: Path) -> None:
        self.environ = {"HOME": str(home)}
        self.folder = home / ".clincus" / "logs"
        self.config = clincus.load_config(self.environ)
        self.registry = clincus.Registry("clincus-", lambda change: None)
        self.registry.compare_one(next(self.registry.questions), ID, found())
        self.history = clincus.History(str(home / ".clincus" / "history.jsonl"))
        self.require = lambda engine: None
        self.restart()

    def restart(self) -> None:
        self.journal = journal.Journal(self)

    @property
    def session(self) -> clincus.Session:
        return self.registry.get(ID)

    def request(self, path: str = "/api/sessions/x/prompt", peer: Any = None, **values: object) -> Any:
        headers = Message()
        headers["Authorization"] = "Bearer a-secret-token"
        peer = peer or clincus.Peer("127.0.0.1", ("127.0.0.1", 3000), "", os.getuid())
        query = {"token": "a-secret-token"}
        given = {"id": ID, **values}
        return clincus.Request("POST", path, query, headers, 0, peer, None, body=b"a secret", values=given)  # type: ignore[arg-type]

    def ask(self, handler: Any = lambda request: {"result": "queued"}, **more: object) -> object:
        return self.journal.follow(handler, PROMPT, self.request(**more))

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def happen(self, moment: str = "", agent: dict[str, str] | None = None) -> None:
        if agent:
            self.journal.hear_agent(self.session, agent)
        else:
            self.journal.hear(moment, self.session)
        self.journal.write_next()

    def starts(self, at: str) -> None:
        self.registry.compare_one(next(self.registry.questions), ID, {**found(), "last_used_at": at})
        self.happen("started")

    def log(self, id: str = ID) -> list[str]:
        return [entry["what"] for entry in self.journal.entries(id)[:100]]


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


def fail(_request: object) -> object:
    raise clincus.ClincusError("it waits for an answer", 409)


def break_down(_request: object) -> object:
    raise ZeroDivisionError("a bug" * 1000)


def test_each_write_has_a_line_with_who_what_and_how_it_ended(office):
    office.ask()
    office.ask(lambda request: clincus.Response(204))
    for handler, error in ((fail, clincus.ClincusError), (break_down, ZeroDivisionError)):
        with pytest.raises(error):
            office.ask(handler)
    lines = office.audit()
    assert [(line["outcome"], line["status"]) for line in lines] == [
        *(("queued", 202), ("done", 204), ("it waits for an answer", 409), (lines[3]["outcome"], 500))
    ]
    assert lines[3]["outcome"].startswith("a bug")
    assert len(lines[3]["outcome"]) == journal.TEXT_LIMIT
    same = {"uid": os.getuid(), "from": "127.0.0.1", "action": "send_prompt", "session": ID}
    for line in lines:
        assert same.items() <= line.items()
        assert line["at"]
        assert line["milliseconds"] >= 0


def test_what_was_said_and_the_token_are_in_no_file(office, capsys):
    office.ask(text="a secret")
    with pytest.raises(clincus.ClincusError):
        office.ask(fail, text="a secret")
    written = b"".join(path.read_bytes() for path in office.folder.rglob("*") if path.is_file())
    assert b"send_prompt" in written
    modes = [path.stat().st_mode for path in (office.folder, *office.folder.rglob("*"))]
    assert len(modes) == 4
    assert not any(stat.S_IMODE(mode) & 0o077 for mode in modes), "the files are for their owner only"
    assert b"secret" not in written + capsys.readouterr().err.encode()


def test_who_shows_the_token_is_not_taken_for_the_user_of_the_connection(office):
    office.ask(peer=clincus.Peer("10.0.0.7", ("10.0.0.1", 3000), "this connection comes from another machine"))
    office.journal.follow(lambda request: {"id": ID}, PROMPT, office.request(id=None))  # which creates a session
    told = [(line["by"], line["from"], line["session"]) for line in office.audit()]
    assert told == [("the token", "10.0.0.7", ID), (clincus.user_name(os.getuid()), "127.0.0.1", ID)]


def test_a_terminal_is_written_down_as_it_opens_and_as_it_closes(office):
    office.ask(lambda request: None, path="/ws/terminal/x", readonly=True)
    assert not (office.folder / "audit.jsonl").exists(), "who only watches writes nothing"
    seen = []
    office.ask(lambda request: seen.append(office.audit()[-1]["outcome"]), path="/ws/terminal/x")
    assert seen == ["opened"]
    with pytest.raises(clincus.ClincusError):
        office.ask(fail, path="/ws/terminal/x", id="clincus-ffffff-1")
    assert [line["outcome"] for line in office.audit()] == ["opened", "closed", "it waits for an answer"]


def test_the_log_of_a_session_tells_requests_runs_and_its_tool_newest_first(office):
    office.happen("started")
    office.happen(agent=AGENT)
    office.ask()
    office.happen("stopped")
    assert office.log() == [
        "The session has stopped",
        "Type a prompt",
        "The tool asks a question",
        "The session runs since 2026-01-01T08:00:00Z",
    ]


def test_a_server_that_starts_does_not_say_again_what_is_known(office):
    office.happen("started")
    office.happen(agent=AGENT)
    before = office.log()
    office.restart()
    office.happen("started")
    office.happen(agent=AGENT)
    assert office.log() == before


def test_the_log_of_a_deleted_session_stays(office):
    office.history.record(clincus.Run("talk-1", ID, "/srv/app", "claude", "2026-01-01T08:00:00Z", persistent=False))
    office.happen("deleted")
    office.registry.compare_one(next(office.registry.questions), ID, None)
    assert office.log() == ["The container is deleted"]
    with pytest.raises(clincus.ClincusError) as caught:
        office.log("clincus-ffffff-1")
    assert caught.value.status == 404
    for id in ("../../etc/passwd", "", ".hidden", "a/b", "a" * 200):
        assert journal.log_name(id) == "", "an id from Incus leads to no other file"


def test_what_a_tool_does_is_told_in_words_of_ours(office):
    for state, reason, text in (
        ("waiting", "permission", "Bash: curl -H 'Key: a secret'"),
        ("failed", "other", "a secret"),
        ("ended", "crashed", "exit code 137"),
        ("stuck", "", "nothing has moved"),
    ):
        office.happen(agent={"state": state, "reason": reason, "text": text})
    assert office.log() == [
        "The tool seems to be stuck: nothing has moved",
        "The tool has crashed: exit code 137",
        "The tool has failed",
        "The tool asks for permission",
    ]
    states = clincus.load_contract()["components"]["schemas"]["Agent"]["properties"]["state"]["enum"]
    assert [state for state in states if state not in journal.DOINGS] == []


def test_what_becomes_of_a_session_without_a_request_is_told(office):
    changes = ("changed", {"unreachable_since": "2026-01-01T08:00:00Z"}), ("changed", {}), ("changed", {"paused": True})
    for moment, change in (*changes, ("stopped", {"deadline": "2026-01-01T09:00:00Z"})):
        office.journal.hear(moment, office.session._replace(**change))
        office.journal.write_next()
    assert office.log() == [
        "The session has stopped: its time was over",
        "The session is paused",
        "Incus is reached again",
        "Incus cannot be reached",
    ]
    words = [journal.asked_for({"operationId": "delete_session"}, {"force": force}) for force in (True, False)]
    assert words == ["Delete the container", "Stop the session"]


def test_a_container_cannot_push_out_what_persons_asked_for(office):
    office.happen("started")
    office.ask()
    for number in range(1500):
        office.happen(agent={"state": "working" if number % 2 else "idle", "reason": "", "text": ""})
        office.happen("stopped")
        office.starts(f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z")
    kinds = [entry["kind"] for entry in office.journal.entries(ID)]
    assert kinds.count("request") == 1
    assert kinds.count("session") >= 50
    assert kinds[0] == "session", "the newest are there"
    assert kinds.count("agent") in range(50, 1500)
    files = list((office.folder / "sessions").iterdir())
    assert [(file.suffix, file.stat().st_size <= journal.LOG_SIZE) for file in files] == [(".jsonl", True)]


# ---- files


def test_a_file_that_is_full_gives_way_and_the_oldest_goes(tmp_path):
    path = str(tmp_path / "sessions" / "a.jsonl")
    os.mkdir(tmp_path / "sessions")
    for number in range(10):
        journal.append_line(path, b"%d\n" % number, size=4, files=3)
    names = ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    assert sorted(os.listdir(tmp_path / "sessions")) == names
    texts = [(tmp_path / "sessions" / name).read_text().split() for name in names]
    assert texts == [["8", "9"], ["6", "7"], ["4", "5"]]
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(b'{"kind": "agent", "wh')  # by a power cut
    journal.append_line(str(torn), b'{"kind": "agent", "what": "b"}\n', 1000, 2)
    assert [entry["what"] for entry in journal.read_entries(str(torn))] == ["b"]


def test_only_the_logs_of_the_newest_sessions_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "LOGS_KEPT", 1)
    (tmp_path / "sessions").mkdir()
    for age in range(4):
        file = tmp_path / "sessions" / f"{age}.jsonl"
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    journal.drop_old_logs(str(tmp_path))
    assert sorted(os.listdir(tmp_path / "sessions")) == ["0.jsonl", "1.jsonl"]


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        journal.append_line(str(tmp_path / "a.jsonl"), b"x\n", 1000, 2)
    assert not (tmp_path / "elsewhere").exists()


def fill_the_disk(*_arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_takes_nothing_stops_no_work_and_is_said_once(office, capsys, monkeypatch):
    monkeypatch.setattr(journal, "append_line", fill_the_disk)
    assert office.ask() == office.ask() == {"result": "queued"}
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_every_write_of_the_contract_is_followed_but_those_that_pages_repeat():
    extensions = clincus.Extensions(SimpleNamespace(environ={}))
    journal.install(extensions)
    (wrap,) = extensions.wrappers
    paths = clincus.load_contract()["paths"]
    plain = {
        path if method == "get" else operation["operationId"]
        for path, item in paths.items()
        for method, operation in item.items()
        if method != "parameters" and wrap(method.upper(), path, fail) is fail
    }
    assert {name for name in plain if not name.startswith(("/api", "/metrics"))} == {"/ws/events", *journal.QUIET}


# ---- what the command line does -----------------------------------------------------------------------------------


class Asked:
    def __init__(self, home: Path) -> None:
        self.office = Office(home)
        self.context = Context(find_command(["rename"])[0], Options(container=ID, name="login"), self.office.environ)
        vars(self.context)["sessions"] = SimpleNamespace(registry=self.office.registry)

    def run(self, does: Any) -> Any:
        self.context.command = SimpleNamespace(name="rename", summary="Give a session a name", run=does)  # type: ignore[assignment]
        return run_noted(self.context)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def refuse(context: Context) -> int:
    raise clincus.ClincusError("there is no such session", 404)


def test_a_command_is_written_down_with_who_gave_it_and_how_it_ended(asked):
    asked.run(lambda context: context.changed.setdefault("talk-1", asked.office.session) and 0)
    (line,) = asked.office.audit()
    assert (line["by"], line["uid"], line["from"]) == (clincus.user_name(os.getuid()), os.getuid(), FROM)
    assert (line["action"], line["session"], line["outcome"]) == ("clincus rename", ID, "done")
    assert asked.office.log() == ["Give a session a name"]


def test_a_command_that_changed_no_session_or_fails_is_told_of_what_it_names(asked):
    for container in (ID, "box"):
        asked.context.options.container = container
        asked.run(lambda context: 3)
    with pytest.raises(clincus.ClincusError):
        asked.run(refuse)
    told = [(line["session"], line["outcome"]) for line in asked.office.audit()]
    assert told == [(ID, "exit code 3"), ("box", "exit code 3"), ("box", "there is no such session")]
