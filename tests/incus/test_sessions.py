"""The life of sessions over the API, on a real Incus."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import clincus
from tests.programs import connect, git, wait_until

REFERENCE_FIELDS = {"id": str, "workspace": str, "tool": str, "slot": int, "status": str, "persistent": bool}


def guest(bed, session, command: str, user: int = 1000) -> str:
    """Run a shell command in a session's container and return what it prints."""
    done = bed.incus.exec(session["id"], ["sh", "-c", command], user=user, environment={"HOME": "/home/code"})
    assert done.code == 0, done.reason
    return done.stdout.decode()


def screen(bed, session) -> str:
    """What the tool's tmux shows; nothing while there is no tmux."""
    return guest(bed, session, f"tmux capture-pane -p -S - -t =clincus-{session['id']}: 2>/dev/null || true")


def type_line(bed, session, line: str) -> None:
    """Type a line into the tool."""
    guest(bed, session, f"tmux send-keys -t =clincus-{session['id']}: '{line}' Enter")


def wait_for_screen(bed, session, words: str) -> str:
    return wait_until(lambda: (text := screen(bed, session)) and words in text and text, f"{words!r} on the screen")


def test_a_created_session_has_the_references_fields(clincus_server, workspace):
    session = clincus_server.create(workspace)
    assert {name: type(session[name]) for name in REFERENCE_FIELDS} == REFERENCE_FIELDS
    assert session["id"] == clincus.session_name("clincus-", str(workspace), 1)
    assert (session["workspace"], session["tool"], session["status"]) == (str(workspace), "claude", "running")
    assert clincus_server.get("/api/sessions").json == [session]


def test_the_tool_runs_as_the_code_user_in_tmux_in_the_workspace(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY claude")
    assert "cwd=/workspace" in screen(bed, session)
    type_line(bed, session, "sh id -u; touch made")
    wait_for_screen(bed, session, "1000")
    wait_until((workspace / "made").exists, "the file in the workspace")
    assert (workspace / "made").stat().st_uid == workspace.stat().st_uid


def test_a_name_stays_with_a_session_until_it_is_taken_away(clincus_server, start_server, workspace):
    session = clincus_server.create(workspace, name="  login page \N{SNOWMAN} ")
    path = f"/api/sessions/{session['id']}"
    assert (session["name"], session["pinned"]) == ("login page \N{SNOWMAN}", False)
    changed = clincus_server.request("PATCH", path, {"name": "-", "pinned": True, "persistent": True})
    assert changed.status == 200
    assert [changed.json[key] for key in ("name", "pinned", "persistent")] == ["-", True, True]
    assert clincus_server.delete(path).status == 204
    assert clincus_server.post(f"{path}/resume").json["name"] == "-"
    assert clincus_server.delete(f"{path}?force=true").status == 204
    again = clincus_server.create(workspace, resume=session["session_id"])
    assert (again["name"], again["pinned"]) == ("-", False)
    assert clincus_server.request("PATCH", f"/api/sessions/{again['id']}", {"name": ""}).json["name"] == ""
    assert start_server().get("/api/sessions").json[0]["name"] == ""  # not only remembered


def test_when_the_tool_exits_a_shell_takes_its_place(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "exit 3")
    wait_for_screen(bed, session, "claude has ended (exit code 3)")
    type_line(bed, session, "echo shell-$((40 + 2))")
    wait_for_screen(bed, session, "shell-42")


def test_what_a_terminal_answered_to_a_killed_tool_is_no_key_of_the_shell(bed, shared_server, workspace):
    """Bash takes ESC P for a search, and the first line that a person types for what to search."""
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    (workspace / "asks").write_text(r"printf '\033[>q\033[c'; kill -KILL $PPID")
    type_line(bed, session, "sh sh asks")
    wait_for_screen(bed, session, "claude has ended (exit code 137)")
    wait_for_screen(bed, session, ":/workspace$")
    type_line(bed, session, "echo shell-$((40 + 2))")
    wait_for_screen(bed, session, "shell-42")


@pytest.mark.parametrize("tool", ["claude", "copilot", "opencode"])
def test_a_conversation_goes_on_after_stop_and_resume(bed, shared_server, workspace, tool):
    session = shared_server.create(workspace, tool=tool)
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "remember the milk")
    wait_for_screen(bed, session, "echo: remember the milk")
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    assert shared_server.get(f"/api/sessions/{session['id']}").json["status"] == "stopped"
    saved = shared_server.home / ".clincus" / f"sessions-{tool}" / session["session_id"]
    assert any("remember the milk" in file.read_text() for file in saved.rglob("*") if file.is_file())

    resumed = shared_server.post(f"/api/sessions/{session['id']}/resume")
    assert (resumed.status, resumed.json["id"], resumed.json["status"]) == (200, session["id"], "running")
    wait_for_screen(bed, session, "earlier: remember the milk")


def test_a_conversation_goes_on_in_a_new_container(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "remember the milk")
    wait_for_screen(bed, session, "echo: remember the milk")
    assert shared_server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    again = shared_server.create(workspace, resume=session["session_id"])
    assert again["session_id"] == session["session_id"]
    wait_for_screen(bed, again, "earlier: remember the milk")


def test_a_conversation_survives_a_stop_from_inside_and_a_delete(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "remember the milk")
    wait_for_screen(bed, session, "echo: remember the milk")
    bed.incus.run("stop", "--force", session["id"])
    wait_until(lambda: shared_server.get(f"/api/sessions/{session['id']}").json["status"] == "stopped", "the stop")
    assert shared_server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    saved = shared_server.home / ".clincus" / "sessions-claude" / session["session_id"]
    assert any("remember the milk" in file.read_text() for file in saved.rglob("*.jsonl"))


def test_a_conversation_survives_the_delete_of_a_guest_that_cannot_be_asked(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "remember the milk")
    wait_for_screen(bed, session, "echo: remember the milk")
    bed.incus.run("config", "set", session["id"], "limits.processes=1")
    assert shared_server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    saved = shared_server.home / ".clincus" / "sessions-claude" / session["session_id"]
    assert any("remember the milk" in file.read_text() for file in saved.rglob("*.jsonl"))


def test_a_restart_from_inside_gives_the_tool_back_with_its_conversation(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "remember the milk")
    wait_for_screen(bed, session, "echo: remember the milk")
    bed.incus.run("restart", "--force", session["id"])
    path = f"/api/sessions/{session['id']}"
    wait_until(lambda: shared_server.get(path).json["status"] == "running", "the restart to be over")

    def is_back() -> bool:
        """Attach as the page does: again where the news of the restart closes the terminal."""
        url = f"{shared_server.socket_url}/ws/terminal/{session['id']}"
        with contextlib.suppress(ConnectionClosed, InvalidStatus, TimeoutError), connect(url) as terminal:
            terminal.recv(timeout=5)
        return "earlier: remember the milk" in screen(bed, session)

    wait_until(is_back, "the tool with its conversation")


def test_force_delete_removes_the_container(bed, clincus_server, workspace):
    session = clincus_server.create(workspace, persistent=True)
    assert clincus_server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    assert clincus_server.get("/api/sessions").json == []
    assert clincus_server.get(f"/api/sessions/{session['id']}").status == 404
    assert bed.incus.query("/1.0/instances") == []


def test_a_paused_session_is_stopped_with_a_mark_and_resumes(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    path = f"/api/sessions/{session['id']}"
    bed.incus.run("pause", session["id"])
    wait_until(lambda: shared_server.get(path).json["paused"], "the pause")
    assert shared_server.get(path).json["status"] == "stopped"
    assert shared_server.post(path + "/resume").status == 200
    document = shared_server.get(path).json
    assert (document["status"], document["paused"]) == ("running", False)


def test_a_paused_session_can_be_stopped(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    bed.incus.run("pause", session["id"])
    wait_until(lambda: shared_server.get(f"/api/sessions/{session['id']}").json["paused"], "the pause")
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    assert bed.incus.query(f"/1.0/instances/{session['id']}")["status"] == "Stopped"


def test_a_guest_that_ignores_the_stop_is_stopped_hard(bed, start_server, workspace):
    server = start_server(config="[limits.runtime]\nstop_graceful = false\n")
    session = server.create(workspace)
    assert server.delete(f"/api/sessions/{session['id']}").status == 204
    assert bed.incus.query(f"/1.0/instances/{session['id']}")["status"] == "Stopped"


def test_resuming_a_running_session_changes_nothing(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    pid = guest(bed, session, "pgrep -o tmux")
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").json["status"] == "running"
    assert guest(bed, session, "pgrep -o tmux") == pid


def create_at_once(server, workspace, count: int):
    """The answers to so many creates in one workspace at the same moment, those that made a session first."""
    with ThreadPoolExecutor(count) as pool:
        answers = pool.map(lambda _: server.post("/api/sessions", {"workspace": str(workspace)}), range(count))
        return sorted(answers, key=lambda answer: answer.status)


def test_creates_at_once_get_a_slot_each(shared_server, workspace):
    answers = create_at_once(shared_server, workspace, 3)
    assert sorted(answer.json.get("slot") for answer in answers) == [1, 2, 3]


@pytest.mark.nightly
def test_ten_creates_at_once_fill_the_slots_and_the_eleventh_is_refused(bed, shared_server, workspace):
    *created, refused = create_at_once(shared_server, workspace, 11)
    assert sorted(answer.json.get("slot") for answer in created) == list(range(1, 11))
    assert refused.status == 409
    assert len(bed.incus.query("/1.0/instances")) == 10
    for answer in created:
        assert shared_server.delete(f"/api/sessions/{answer.json['id']}?force=true").status == 204


REFUSED = {
    "no workspace": ({}, 400, "workspace"),
    "a relative workspace": ({"workspace": "project"}, 400, "absolute"),
    "a missing workspace": ({"workspace": "/nowhere/at/all"}, 400, "does not exist"),
    "a file as workspace": ({"workspace": "/etc/passwd"}, 400, "not a directory"),
    "a number as workspace": ({"workspace": 7}, 400, "workspace"),
    "an unknown tool": ({"tool": "vim"}, 400, "unknown tool"),
    "a text for a switch": ({"persistent": "yes"}, 400, "persistent"),
    "an unknown image": ({"image": "nope"}, 400, "clincus build"),
    "an unknown profile": ({"profile": "nope"}, 404, "nope"),
    "a slot that is none": ({"slot": 11}, 400, "slot"),
    "an unknown field": ({"persistant": True}, 400, "persistant"),
    "an unknown conversation": ({"resume": "nope"}, 404, "nope"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_with_a_reason_and_leaves_nothing(bed, shared_server, workspace, case):
    fields, status, reason = case
    body = {**({} if "workspace" in fields or not fields else {"workspace": str(workspace)}), **fields}
    answer = shared_server.post("/api/sessions", body)
    assert (answer.status, reason in answer.json["error"]) == (status, True), answer.json
    assert str(workspace) not in {session["workspace"] for session in shared_server.get("/api/sessions").json}
    assert bed.incus.query("/1.0/instances") == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff", b"{} {}"])
def test_a_body_that_is_no_json_object_is_refused(shared_server, body):
    answer = shared_server.post("/api/sessions", body, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.json["error"]


def test_a_create_that_fails_half_way_leaves_no_container(bed, start_server, workspace):
    server = start_server(config='[incus]\ncode_user = "nobody-here"\n')
    answer = server.post("/api/sessions", {"workspace": str(workspace)})
    assert (answer.status, "no home" in answer.json["error"]) == (500, True), answer.json
    assert bed.incus.query("/1.0/instances") == []
    assert server.get("/api/sessions").json == []


def test_an_instance_of_another_that_has_our_name_is_left_alone(bed, shared_server, workspace):
    name = clincus.session_name("clincus-", str(workspace), 1)
    bed.incus.run("create", "clincus", name)
    try:
        session = shared_server.create(workspace)
        assert session["slot"] == 2
        assert shared_server.delete(f"/api/sessions/{name}?force=true").status == 404
        assert bed.incus.query(f"/1.0/instances/{name}")["name"] == name
    finally:
        bed.incus.run("delete", "--force", name)


def test_limits_and_mounts_of_the_config_are_on_the_instance(bed, start_server, workspace, tmp_path):
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "note").write_text("from the host\n")
    server = start_server(
        config=f"""
[limits.cpu]
count = 1
[limits.memory]
limit = "256MiB"
[limits.disk]
read = "10MiB/s"
[limits.runtime]
max_processes = 200
[[mounts.default]]
host = "{extra}"
container = "/extra"
readonly = true
"""
    )
    session = server.create(workspace)
    instance = bed.incus.query(f"/1.0/instances/{session['id']}")
    limits = {key: value for key, value in instance["config"].items() if key.startswith("limits.")}
    assert limits["limits.cpu"] == "1"
    assert limits["limits.memory"] == "256MiB"
    assert limits["limits.memory.enforce"] == "hard"
    assert limits["limits.processes"] == "200"
    assert instance["devices"]["root"]["limits.read"] == "10MiB"
    assert guest(bed, session, "cat /extra/note") == "from the host\n"
    assert guest(bed, session, "touch /extra/x 2>/dev/null || echo refused") == "refused\n"


def test_a_resume_keeps_the_devices_that_a_person_added(bed, shared_server, workspace, tmp_path):
    session = shared_server.create(workspace)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/note").write_text("mine\n")
    source = f"source={tmp_path / 'data'}"
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    bed.incus.run("config", "device", "add", session["id"], "data", "disk", source, "path=/data")
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").status == 200
    assert guest(bed, session, "cat /data/note") == "mine\n"


def test_a_profile_sets_image_limits_and_environment(bed, start_server, workspace):
    server = start_server(
        config="""
[profiles.small]
persistent = true
environment = { GREETING = "it's me" }
[profiles.small.limits.memory]
limit = "128MiB"
"""
    )
    session = server.create(workspace, profile="small")
    assert (session["profile"], session["persistent"]) == ("small", True)
    assert bed.incus.query(f"/1.0/instances/{session['id']}")["config"]["limits.memory"] == "128MiB"
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, "env GREETING")
    wait_for_screen(bed, session, "GREETING=[it's me]")
    assert server.get("/api/config").json["profiles"]["small"]["environment"]["GREETING"] != "it's me"


def test_credentials_go_in_on_stdin_and_never_into_events(bed, clincus_server, workspace):
    secret = "sk-very-secret-1"
    folder = clincus_server.home / ".claude"
    folder.mkdir()
    (folder / ".credentials.json").write_text(json.dumps({"token": secret}))
    (folder / "settings.json").write_text(json.dumps({"theme": "light", "permissions": {"defaultMode": "plan"}}))
    with bed.incus.monitor() as monitor:
        try:
            wait_until(lambda: monitor.process.poll() is None, "the monitor")
            session = clincus_server.create(workspace)
            assert secret in guest(bed, session, "cat ~/.claude/.credentials.json")
            settings = json.loads(guest(bed, session, "cat ~/.claude/settings.json"))
            assert settings["theme"] == "light"
            assert guest(bed, session, "stat -c %a:%u ~/.claude/.credentials.json") == "600:1000\n"
        finally:
            monitor.signal(signal.SIGTERM)
        events = monitor.stdout.read()
    assert secret.encode() not in events
    assert secret not in clincus_server.log()


def test_a_bell_with_nobody_attached_is_on_the_session_until_its_end(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    path = f"/api/sessions/{session['id']}"
    assert session["rang_at"] == ""
    wait_for_screen(bed, session, "STUB-READY")
    type_line(bed, session, r'sh printf "\a"')
    rang_at = wait_until(lambda: shared_server.get(path).json["rang_at"], "the bell")
    assert rang_at >= session["started_at"]
    wait_until(lambda: bed.state(session["id"]) == "Running", "the state that it had")
    shared_server.delete(path)
    assert shared_server.get(path).json["rang_at"] == ""


def test_max_duration_stops_the_session_also_after_a_restart_of_the_server(bed, start_server, workspace):
    server = start_server(config='[limits.runtime]\nmax_duration = "1h"\n')
    session = server.create(workspace)
    assert session["deadline"] > clincus.utc_now()
    server.stop()
    soon = clincus.format_time(datetime.now(timezone.utc) + timedelta(seconds=2))  # one before its start does not count
    bed.incus.run("config", "set", session["id"], f"{clincus.LABEL}deadline={soon}")
    again = start_server()
    path = f"/api/sessions/{session['id']}"
    wait_until(lambda: again.get(path).json.get("status") == "stopped", "the deadline")
    assert bed.incus.query(f"/1.0/instances/{session['id']}")["status"] == "Stopped"


class TestHistory:
    def entries(self, server) -> list[dict]:
        return server.get("/api/sessions/history").json

    def test_each_run_is_an_entry_with_the_references_fields(self, clincus_server, workspace):
        session = clincus_server.create(workspace)
        assert [entry["ended_at"] for entry in self.entries(clincus_server)] == [None]
        clincus_server.delete(f"/api/sessions/{session['id']}")
        clincus_server.post(f"/api/sessions/{session['id']}/resume")
        clincus_server.delete(f"/api/sessions/{session['id']}?force=true")
        entries = self.entries(clincus_server)
        assert len(entries) == 2
        for entry in entries:
            assert (entry["session_id"], entry["workspace"], entry["tool"]) == (
                session["session_id"],
                str(workspace),
                "claude",
            )
            assert clincus.parse_time(entry["started_at"]) <= clincus.parse_time(entry["ended_at"])
        assert entries[0]["started_at"] >= entries[1]["started_at"]

    def test_a_stop_from_outside_ends_the_run(self, bed, clincus_server, workspace):
        session = clincus_server.create(workspace)
        bed.incus.run("stop", "--force", session["id"])
        wait_until(lambda: self.entries(clincus_server)[0]["ended_at"], "the end in the history")

    def test_a_stop_while_no_server_ran_ends_the_run(self, bed, start_server, workspace):
        server = start_server()
        session = server.create(workspace)
        server.stop()
        bed.incus.run("stop", "--force", session["id"])
        again = start_server()
        wait_until(lambda: self.entries(again)[0]["ended_at"], "the end in the history")
        assert len(self.entries(again)) == 1

    def test_a_server_that_finds_a_running_session_adds_no_run(self, start_server, workspace):
        server = start_server()
        session = server.create(workspace)
        server.stop()
        again = start_server()
        wait_until(lambda: [one["id"] for one in again.get("/api/sessions").json] == [session["id"]], "the session")
        assert len(self.entries(again)) == 1

    def test_pages_and_searches(self, clincus_server, make_workspace):
        for name in ("alpha", "beta"):
            session = clincus_server.create(make_workspace(name))
            clincus_server.delete(f"/api/sessions/{session['id']}?force=true")
        page = clincus_server.get("/api/sessions/history?limit=1&offset=1")
        assert page.headers["x-total-count"] == "2"
        assert [os.path.basename(entry["workspace"]) for entry in page.json] == ["alpha"]
        found = clincus_server.get("/api/sessions/history?q=BETA&tool=claude").json
        assert [os.path.basename(entry["workspace"]) for entry in found] == ["beta"]

    @pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=-1", "limit=1.5", "limit=999999999999999999999"])
    def test_bad_paging_is_refused(self, shared_server, query):
        assert shared_server.get(f"/api/sessions/history?{query}").status == 400


class Events:
    """The event stream of a server, collected in a thread."""

    def __init__(self, server, subprotocols=None) -> None:
        self.seen: list[dict] = []
        self._socket = connect(server.socket_url + "/ws/events", subprotocols=subprotocols)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        try:
            for message in self._socket:
                self.seen.append(json.loads(message))
        except ConnectionClosed:
            pass

    def of(self, id: str) -> list[str]:
        return [event["type"] for event in self.seen if event.get("id") == id]


STOPS = {
    "the incus command": lambda bed, name: bed.incus.run("stop", name),
    "force": lambda bed, name: bed.incus.run("stop", "--force", name),
    "the guest itself": lambda bed, name: bed.incus.exec(name, ["kill", "-PWR", "1"]),
    "a forced delete": lambda bed, name: bed.incus.run("delete", "--force", name),
}


class TestEvents:
    @pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
    def test_every_way_to_stop_is_told(self, bed, shared_server, workspace, stop):
        events = Events(shared_server)
        session = shared_server.create(workspace)
        wait_until(lambda: events.of(session["id"]) == ["session.started"], "the start")
        stop(bed, session["id"])
        wait_until(lambda: "session.stopped" in events.of(session["id"]), "the stop")

    def test_the_api_tells_each_change_once(self, shared_server, workspace):
        events = Events(shared_server)
        session = shared_server.create(workspace)
        path = f"/api/sessions/{session['id']}"
        shared_server.delete(path)
        shared_server.post(path + "/resume")
        shared_server.delete(path)
        shared_server.delete(path + "?force=true")
        started_and_stopped = ["session.started", "session.stopped"] * 2
        wait_until(lambda: len(events.of(session["id"])) == 5, "all five events")
        assert events.of(session["id"]) == [*started_and_stopped, "session.stopped"]

    def test_an_outside_restart_is_told(self, bed, shared_server, workspace):
        session = shared_server.create(workspace)
        events = Events(shared_server)
        bed.incus.run("restart", "--force", session["id"])
        wait_until(lambda: events.of(session["id"]) == ["session.stopped", "session.started"], "the restart")

    def test_a_resume_from_a_pause_is_told(self, bed, shared_server, workspace):
        session = shared_server.create(workspace)
        path = f"/api/sessions/{session['id']}"
        bed.incus.run("pause", session["id"])
        wait_until(lambda: shared_server.get(path).json["paused"], "the pause")
        events = Events(shared_server)
        assert shared_server.post(f"{path}/resume").status == 200
        wait_until(lambda: events.of(session["id"]) == ["session.started"], "the resume")

    def test_only_the_references_types_reach_a_plain_client(self, shared_server, workspace):
        plain, ours = Events(shared_server), Events(shared_server, ["clincus.events.v1"])
        session = shared_server.create(workspace)
        shared_server.delete(f"/api/sessions/{session['id']}?force=true")
        wait_until(lambda: "session.stopped" in plain.of(session["id"]), "the stop")
        wait_until(lambda: "session.changed" in ours.of(session["id"]), "a change")
        assert set(plain.of(session["id"])) == {"session.started", "session.stopped"}

    def test_what_happened_while_the_monitor_was_gone_is_told(self, bed, clincus_server, workspace):
        session = clincus_server.create(workspace)
        events = Events(clincus_server)
        monitors = []
        for task in Path(f"/proc/{clincus_server.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread, or a command, that has ended meanwhile
                for pid in (task / "children").read_text().split():
                    if b"\0monitor\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        monitors.append(int(pid))
        assert monitors
        for pid in monitors:
            os.kill(pid, signal.SIGSTOP)  # blind: it will be killed before it can tell
        bed.incus.run("stop", "--force", session["id"])
        for pid in monitors:
            with contextlib.suppress(ProcessLookupError):  # a look that Incus did not answer in time ends it before us
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: events.of(session["id"]) == ["session.stopped"], "the stop that was missed")


def test_a_workspace_with_a_hard_name_works(bed, shared_server, make_workspace):
    workspace = make_workspace('it\'s a "näme" \\ 中文 🦆 $(x) #1, 50%')
    session = shared_server.create(workspace)
    guest(bed, session, "cd /workspace && touch made")
    assert (workspace / "made").exists()
    assert "nothing to commit" not in git(workspace, "status")
    assert session["workspace"] == str(workspace)
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").status == 200
    assert bed.incus.query(f"/1.0/instances/{session['id']}")["config"]["user.clincus.workspace"] == str(workspace)


def test_the_workspace_can_keep_its_own_path(bed, start_server, workspace):
    server = start_server(config="[paths]\npreserve_workspace_path = true\n")
    session = server.create(workspace)
    wait_for_screen(bed, session, f"cwd={workspace}"[:40])
    assert guest(bed, session, f"cat '{workspace}/README.md'") == "# project\n"


def test_a_project_file_chooses_the_tool_within_bounds(bed, shared_server, workspace):
    (workspace / ".clincus.toml").write_text('[tool]\nname = "opencode"\n[security]\ndisable_protection = true\n')
    session = shared_server.create(workspace)
    assert session["tool"] == "opencode"
    assert session["protection"] != "off"
    (warning,) = session["warnings"]
    assert "security.disable_protection is left out, since the file is not trusted" in warning


def test_why_a_session_is_not_locked_is_on_it_and_known_after_a_restart(start_server, workspace):
    config = "[security]\ndisable_protection = true\n[limits.cpu]\ncount = 1000\n"
    server = start_server(config=config)
    session = server.create(workspace)
    assert (session["protection"], session["protection_note"]) == ("off", clincus.SWITCHED_OFF)
    (warning,) = session["warnings"]
    assert "limits.cpu.count is '1000'" in warning
    server.stop()
    later = start_server(config=config).get(f"/api/sessions/{session['id']}").json
    assert [later[key] for key in ("protection_note", "warnings")] == [clincus.SWITCHED_OFF, [warning]]


def test_nothing_of_a_session_stays_on_the_host(bed, shared_server, workspace):
    before = git(workspace, "status", "--porcelain", "--ignored")
    session = shared_server.create(workspace)
    shared_server.delete(f"/api/sessions/{session['id']}?force=true")
    mounts = Path("/proc/self/mounts").read_text()
    assert session["id"] not in mounts
    assert git(workspace, "status", "--porcelain", "--ignored") == before
    assert sorted(path.name for path in workspace.iterdir()) == [".git", "README.md"]


def test_a_create_that_was_cut_short_is_made_whole_by_the_next_start(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    guest(bed, session, "tmux kill-server; rm -r ~/.clincus ~/.claude ~/.claude.json")  # as if the server had died
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").status == 200
    wait_for_screen(bed, session, "STUB-READY")
    assert json.loads(guest(bed, session, "cat ~/.claude.json"))["hasCompletedOnboarding"] is True


def test_a_killed_server_leaves_sessions_that_the_next_one_knows(bed, start_server, workspace):
    server = start_server()
    session = server.create(workspace)
    server.kill()
    again = start_server()
    found = wait_until(lambda: again.get("/api/sessions").json, "the session")
    assert [(one["id"], one["status"], one["session_id"]) for one in found] == [
        (session["id"], "running", session["session_id"])
    ]


def test_no_read_path_asks_incus(bed, start_server, workspace, tmp_path):
    """A stand-in for `incus` tells its calls and, while a lock is held, makes none: a read that waits for one fails."""
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    real = subprocess.run(["sh", "-c", "command -v incus"], capture_output=True, text=True, check=True).stdout.strip()
    stand_in = tmp_path / "bin" / "incus"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\0" "$*" >>{calls}\nflock --shared {gate} true\nexec {real} "$@"\n')
    stand_in.chmod(0o755)
    server = start_server(environ={"PATH": f"{stand_in.parent}:{os.environ['PATH']}"})

    def made() -> list[str]:
        return calls.read_text().split("\0")[:-1] if calls.exists() else []

    def looks(call: str) -> bool:  # at tool and workspace, which the server takes on its own, whoever reads
        return clincus.guest_program("look") in call or clincus.guest_program("checkpoint") in call

    wait_until(lambda: any("monitor" in call for call in made()), "the start")
    wait_until(lambda: sum("recursion=1" in call for call in made()) == 2, "the start")
    before = made()
    session = server.create(workspace, tool="shell")
    kinds = [call.split()[2] for call in made()[len(before) :] if call.startswith("--project") and not looks(call)]
    assert [kind for kind in kinds if kind in {"launch", "exec"}] == ["launch", "exec"]
    wait_until(lambda: any(looks(call) for call in made()), "the first look")
    with open(gate, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = made()
        for path in (
            "/api/sessions",
            f"/api/sessions/{session['id']}",
            f"/api/sessions/{session['id']}/agent",
            "/api/sessions/history",
            "/api/config",
            "/api/tools",
        ):
            assert server.get(path).status == 200
        assert [call for call in made()[len(before) :] if not looks(call)] == []


def test_what_a_hostile_guest_says_at_a_start_is_only_text(bed, shared_server, workspace):
    """It is neither a format of ours nor a word of Incus's, which would be 404 or 503."""
    session = shared_server.create(workspace)
    words = "{home:>900000000} {x} Error: Instance not found"
    hostile = f"#!/bin/sh\\necho '{words}' >&2; exit 9\\n"
    guest(bed, session, f'rm -f /usr/bin/tar; printf "{hostile}" >/usr/bin/tar; chmod 755 /usr/bin/tar', user=0)
    answer = shared_server.post(f"/api/sessions/{session['id']}/resume")
    assert (answer.status, answer.json["error"]) == (500, words)
