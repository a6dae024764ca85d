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
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from wall_box import await_event
from websockets.exceptions import ConnectionClosed, InvalidStatus

import clincus
from tests.faults_bed import saved
from tests.programs import NO_CHECKPOINTS, connect, git, wait_until

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


def wait_for_screen(bed, session, words: str) -> None:
    bed.await_screen(session["id"], words, history=True)


def talk(bed, server, session) -> None:
    """Say something to the tool of a session that was just created."""
    wait_for_screen(bed, session, "STUB-READY")
    bed.await_screen(session["id"], "echo: remember the milk", type="remember the milk")


HARD_NAME = 'it\'s a "näme" \\ 中文 🦆 $(x) #1, 50%'


@pytest.fixture(scope="module")
def life(bed, shared_server, start_shared, keep_session, tmp_path_factory):
    """What is seen of a session that is talked to, stopped, resumed, deleted, and goes on in a new container."""
    server, seen = shared_server, SimpleNamespace(server=shared_server)
    seen.plain, seen.ours = Events(server), Events(server, ["clincus.events.v1"])
    seen.created = session = keep_session(server, folder=HARD_NAME, name="  login page \N{SNOWMAN} ")
    seen.workspace, path = Path(session["workspace"]), f"/api/sessions/{session['id']}"
    seen.query = f"/api/sessions/history?q={quote(HARD_NAME)}"
    seen.first_list, seen.first_run = server.get("/api/sessions").json, server.get(seen.query).json
    seen.label = bed.incus.query(f"/1.0/instances/{session['id']}")["config"]["user.clincus.workspace"]
    talk(bed, server, session)
    guest(bed, session, "cd /workspace && touch made")
    seen.made = [one.name for one in seen.workspace.iterdir()]
    guest(bed, session, "rm /workspace/made")
    type_line(bed, session, r'sh printf "\a"')
    seen.rang_at = wait_until(lambda: server.get(path).json["rang_at"], "the bell")
    seen.changed = server.request("PATCH", path, {"name": "-", "pinned": True, "persistent": True})

    seen.stop = server.delete(path)
    seen.stopped, seen.saved = server.get(path).json, saved(server, session)
    seen.files = server.get(f"{path}/files")
    data = tmp_path_factory.mktemp("data")
    data.chmod(0o755)
    (data / "note").write_text("mine\n")
    bed.incus.run("config", "device", "add", session["id"], "data", "disk", f"source={data}", "path=/data")
    seen.resume = server.post(f"{path}/resume")
    wait_for_screen(bed, session, "earlier: remember the milk")
    seen.note = guest(bed, session, "cat /data/note")

    seen.delete = server.delete(f"{path}?force=true")
    seen.gone = (server.get(path).status, bed.state(session["id"]))
    seen.listed = [one["id"] for one in server.get("/api/sessions").json]
    seen.again = server.create(seen.workspace, resume=session["session_id"])
    wait_for_screen(bed, session, "earlier: remember the milk")
    seen.unnamed = server.request("PATCH", path, {"name": ""})
    other = start_shared(config=NO_CHECKPOINTS)
    seen.elsewhere = wait_until(lambda: other.get(path).json.get("id") and other.get(path).json, "the other server")
    other.stop()
    for end in (path, f"{path}?force=true"):
        assert server.delete(end).status == 204
    seen.history = server.get(seen.query).json
    return seen


@pytest.mark.day
def test_a_created_session_has_the_references_fields(life):
    session = life.created
    assert {name: type(session[name]) for name in REFERENCE_FIELDS} == REFERENCE_FIELDS
    assert session["id"] == clincus.session_name("clincus-", str(life.workspace), 1)
    assert (session["workspace"], session["tool"], session["status"]) == (str(life.workspace), "claude", "running")
    (listed,) = (one for one in life.first_list if one["id"] == session["id"])
    assert [listed[name] for name in REFERENCE_FIELDS] == [session[name] for name in REFERENCE_FIELDS]


@pytest.mark.day
def test_the_tool_runs_as_the_code_user_in_tmux_in_the_workspace(bed, shared_session):
    session, workspace = shared_session, Path(shared_session["workspace"])
    wait_for_screen(bed, session, "STUB-READY claude")
    assert "cwd=/workspace" in screen(bed, session)
    type_line(bed, session, "sh id -u; touch made")
    wait_for_screen(bed, session, "1000")
    wait_until((workspace / "made").exists, "the file in the workspace")
    assert (workspace / "made").stat().st_uid == workspace.stat().st_uid


@pytest.mark.day
def test_a_name_stays_with_a_session_until_it_is_taken_away(life):
    assert (life.created["name"], life.created["pinned"]) == ("login page \N{SNOWMAN}", False)
    assert [life.changed.json[key] for key in ("name", "pinned", "persistent")] == ["-", True, True]
    assert life.resume.json["name"] == "-"
    assert (life.again["name"], life.again["pinned"]) == ("-", False)
    assert life.unnamed.json["name"] == ""
    assert life.elsewhere["name"] == ""  # not only remembered


def test_what_a_terminal_answered_to_a_tool_that_ended_is_no_key_of_the_shell(bed, shared_server, workspace):
    """A shell takes the tool's place. Bash takes ESC P for a search, and the next line for what to search."""
    session = shared_server.create(workspace)
    wait_for_screen(bed, session, "STUB-READY")
    (workspace / "asks").write_text(r"printf '\033[>q\033[c'; kill -KILL $PPID")
    type_line(bed, session, "sh sh asks")
    wait_for_screen(bed, session, "claude has ended (exit code 137)")
    wait_for_screen(bed, session, ":/workspace$")
    type_line(bed, session, "echo shell-$((40 + 2))")
    wait_for_screen(bed, session, "shell-42")


@pytest.mark.day
def test_a_conversation_goes_on_after_stop_and_resume(life):
    assert (life.stop.status, life.stopped["status"]) == (204, "stopped")
    assert "remember the milk" in life.saved
    resumed = life.resume.json
    assert (life.resume.status, resumed["id"], resumed["status"]) == (200, life.created["id"], "running")


@pytest.mark.parametrize("tool", ["copilot", "opencode"])
def test_a_conversation_with_another_tool_goes_on(bed, shared_server, workspace, tool):
    session = shared_server.create(workspace, tool=tool)
    talk(bed, shared_server, session)
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    saved = shared_server.home / ".clincus" / f"sessions-{tool}" / session["session_id"]
    assert any("remember the milk" in file.read_text() for file in saved.rglob("*") if file.is_file())
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").status == 200
    wait_for_screen(bed, session, "earlier: remember the milk")


@pytest.mark.day
def test_a_stopped_session_has_no_files(life):
    assert (life.files.status, "resume it first" in life.files.json["error"]) == (409, True)


@pytest.mark.day
def test_a_conversation_goes_on_in_a_new_container(life):
    assert life.delete.status == 204
    assert life.again["session_id"] == life.created["session_id"]


def test_a_stop_from_outside_is_told_ends_the_run_and_loses_nothing(bed, shared_server, workspace):
    events = Events(shared_server)
    session = shared_server.create(workspace)
    path = f"/api/sessions/{session['id']}"
    talk(bed, shared_server, session)
    bed.stop(session["id"])
    wait_until(lambda: shared_server.get(path).json["status"] == "stopped", "the stop")
    events.tells(session["id"], ["session.started", "session.stopped"])
    wait_until(lambda: runs_of(shared_server, session)[0]["ended_at"], "the end in the history")
    assert shared_server.delete(f"{path}?force=true").status == 204
    assert "remember the milk" in saved(shared_server, session)


def test_a_conversation_survives_the_delete_of_a_guest_that_cannot_be_asked(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    talk(bed, shared_server, session)
    bed.incus.run("config", "set", session["id"], "limits.processes=1")
    assert shared_server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    assert "remember the milk" in saved(shared_server, session)


def test_a_restart_from_inside_is_told_and_gives_the_tool_back_with_its_conversation(bed, shared_server, workspace):
    session = shared_server.create(workspace)
    talk(bed, shared_server, session)
    events = Events(shared_server)
    bed.restart_instance(session["id"])
    events.tells(session["id"], ["session.stopped", "session.started"])

    def is_back() -> bool:
        """Attach as the page does: again where the news of the restart closes the terminal."""
        url = f"{shared_server.socket_url}/ws/terminal/{session['id']}"
        with contextlib.suppress(ConnectionClosed, InvalidStatus, TimeoutError), connect(url) as terminal:
            terminal.recv(timeout=5)
        return "earlier: remember the milk" in screen(bed, session)

    wait_until(is_back, "the tool with its conversation")


@pytest.mark.day
def test_force_delete_removes_the_container(life):
    assert life.gone == (404, "")
    assert life.created["id"] not in life.listed


def test_a_paused_session_is_stopped_with_a_mark_resumes_and_can_be_stopped(bed, shared_server, workspace):
    session = shared_server.create(workspace, tool="shell")
    path = f"/api/sessions/{session['id']}"

    def pause() -> None:
        bed.incus.run("pause", session["id"])
        wait_until(lambda: shared_server.get(path).json["paused"], "the pause")

    pause()
    assert shared_server.get(path).json["status"] == "stopped"
    events = Events(shared_server)
    assert shared_server.post(path + "/resume").status == 200
    document = shared_server.get(path).json
    assert (document["status"], document["paused"]) == ("running", False)
    events.tells(session["id"], ["session.started"])
    pause()
    assert shared_server.delete(path).status == 204
    assert bed.state(session["id"]) == "Stopped"


def test_a_stop_can_be_hard_at_once(bed, start_server, workspace):
    server = start_server(config="[limits.runtime]\nstop_graceful = false\n")
    session = server.create(workspace)
    assert server.delete(f"/api/sessions/{session['id']}").status == 204
    assert bed.state(session["id"]) == "Stopped"


def test_resuming_a_running_session_changes_nothing(bed, shared_server, shared_session):
    wait_for_screen(bed, shared_session, "STUB-READY")
    pid = guest(bed, shared_session, "pgrep -o tmux")
    assert shared_server.post(f"/api/sessions/{shared_session['id']}/resume").json["status"] == "running"
    assert guest(bed, shared_session, "pgrep -o tmux") == pid


def test_a_session_says_whether_containers_can_run_in_it_and_keeps_the_choice(bed, shared_server, workspace):
    """What needs a mount namespace of its own does: a locked folder allows none, a choice costs the lock."""
    session = shared_server.create(workspace, nesting=True)
    path = f"/api/sessions/{session['id']}"
    assert (session["nesting"], session["protection"]) == (True, "basic")
    assert "security.nesting" in session["protection_note"]
    assert shared_server.delete(path).status == 204
    again = shared_server.post(f"{path}/resume").json
    assert (again["nesting"], again["protection"]) == (True, "basic")
    bed.shell(session["id"], "unshare -m true", user=0)
    clone = shared_server.create(workspace, mode="clone")
    assert (clone["nesting"], clone["protection"]) == (True, "locked")
    bed.shell(clone["id"], "unshare -m true", user=0)


@pytest.mark.day
def test_a_locked_folder_says_that_no_containers_run_beside_it(bed, shared_server, shared_session):
    session = shared_server.get(f"/api/sessions/{shared_session['id']}").json
    assert (session["nesting"], session["protection"]) == (False, "locked")
    said = bed.shell(session["id"], "unshare -m true 2>&1 || true", user=0)
    assert said == "unshare: unshare failed: Operation not permitted\n"


def create_at_once(server, workspace, count: int):
    """The answers to so many creates in one workspace at the same moment, those that made a session first."""
    with ThreadPoolExecutor(count) as pool:
        answers = pool.map(lambda _: server.post("/api/sessions", {"workspace": str(workspace)}), range(count))
        return sorted(answers, key=lambda answer: answer.status)


def test_creates_at_once_get_a_slot_each(shared_server, workspace):
    answers = create_at_once(shared_server, workspace, 2)
    assert sorted(answer.json.get("slot") for answer in answers) == [1, 2]


def test_ten_creates_at_once_fill_the_slots_and_the_eleventh_is_refused(bed, shared_server, workspace):
    *created, refused = create_at_once(shared_server, workspace, 11)
    assert sorted(answer.json.get("slot") for answer in created) == list(range(1, 11))
    assert refused.status == 409
    assert len(set(bed.names()) - bed.kept) == 10
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
    assert bed.kept.issuperset(bed.names())


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff", b"{} {}"])
def test_a_body_that_is_no_json_object_is_refused(shared_server, body):
    answer = shared_server.post("/api/sessions", body, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.json["error"]


def test_a_create_that_fails_half_way_leaves_no_container(bed, start_server, workspace):
    server = start_server(config=f'{NO_CHECKPOINTS}[incus]\ncode_user = "nobody-here"\n')
    answer = server.post("/api/sessions", {"workspace": str(workspace)})
    assert (answer.status, "no home" in answer.json["error"]) == (500, True), answer.json
    assert bed.kept.issuperset(bed.names())
    assert str(workspace) not in {session["workspace"] for session in server.get("/api/sessions").json}


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


CONFIGURED = """
[paths]
preserve_workspace_path = true
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
[profiles.small]
persistent = true
environment = {{ GREETING = "it's me" }}
[profiles.small.limits.memory]
limit = "128MiB"
"""
SECRET = "sk-very-secret-1"


@pytest.fixture(scope="module")
def configured(bed, start_shared, keep_session, tmp_path_factory):
    """A session with much that a configuration can say, a profile and credentials, and what Incus told meanwhile."""
    folder = tmp_path_factory.mktemp("configured")
    for name in ("extra", "home/.claude"):
        (folder / name).mkdir(parents=True)
    (folder / "extra/note").write_text("from the host\n")
    tools = folder / "home/.claude"
    (tools / ".credentials.json").write_text(json.dumps({"token": SECRET}))
    (tools / "settings.json").write_text(json.dumps({"theme": "light", "permissions": {"defaultMode": "plan"}}))
    server = start_shared(config=NO_CHECKPOINTS + CONFIGURED.format(extra=folder / "extra"), at=folder / "home")
    with bed.incus.monitor() as monitor:
        try:
            mark = partial(bed.incus.run, "profile", "set", "default", "user.mark=1")
            await_event(monitor, "profile-updated", mark)  # the monitor does not tell when it listens
            session = keep_session(server, profile="small")
            wait_for_screen(bed, session, "STUB-READY")
        finally:
            monitor.signal(signal.SIGTERM)
        events = monitor.stdout.read()
    instance = bed.incus.query(f"/1.0/instances/{session['id']}")
    return SimpleNamespace(server=server, session=session, instance=instance, events=events)


@pytest.mark.day
def test_limits_and_mounts_of_the_config_are_on_the_instance(bed, configured):
    limits = {key: value for key, value in configured.instance["config"].items() if key.startswith("limits.")}
    assert limits["limits.cpu"] == "1"
    assert limits["limits.memory.enforce"] == "hard"
    assert limits["limits.processes"] == "200"
    assert configured.instance["devices"]["root"]["limits.read"] == "10MiB"
    assert guest(bed, configured.session, "cat /extra/note") == "from the host\n"
    assert guest(bed, configured.session, "touch /extra/x 2>/dev/null || echo refused") == "refused\n"


@pytest.mark.day
def test_a_resume_keeps_the_devices_that_a_person_added(life):
    assert life.note == "mine\n"


@pytest.mark.day
def test_a_profile_sets_image_limits_and_environment(bed, configured):
    session = configured.session
    assert (session["profile"], session["persistent"]) == ("small", True)
    assert configured.instance["config"]["limits.memory"] == "128MiB"
    type_line(bed, session, "env GREETING")
    wait_for_screen(bed, session, "GREETING=[it's me]")
    assert configured.server.get("/api/config").json["profiles"]["small"]["environment"]["GREETING"] != "it's me"


@pytest.mark.day
def test_credentials_go_in_on_stdin_and_never_into_events(bed, configured):
    assert SECRET in guest(bed, configured.session, "cat ~/.claude/.credentials.json")
    assert json.loads(guest(bed, configured.session, "cat ~/.claude/settings.json"))["theme"] == "light"
    assert guest(bed, configured.session, "stat -c %a:%u ~/.claude/.credentials.json") == "600:1000\n"
    assert configured.session["id"].encode() in configured.events
    assert SECRET.encode() not in configured.events
    assert SECRET not in configured.server.log()


@pytest.mark.day
def test_the_workspace_can_keep_its_own_path(bed, configured):
    workspace = configured.session["workspace"]
    assert f"cwd={workspace}"[:40] in screen(bed, configured.session)
    assert guest(bed, configured.session, f"cat '{workspace}/README.md'") == "# project\n"


@pytest.mark.day
def test_a_bell_with_nobody_attached_is_on_the_session_until_its_end(life):
    assert life.created["rang_at"] == ""
    assert life.rang_at >= life.created["started_at"]
    assert life.stopped["rang_at"] == ""


@pytest.fixture(scope="module")
def restarted(bed, start_shared, keep_session, tmp_path_factory):
    """Three sessions, and the server that finds them after theirs was killed.

    Meanwhile one was stopped, and one reached its deadline.
    """
    config = (
        f"{NO_CHECKPOINTS}[security]\ndisable_protection = true\n"
        '[limits.cpu]\ncount = 1000\n[limits.runtime]\nmax_duration = "1h"\n'
    )
    home = tmp_path_factory.mktemp("restarted") / "home"
    server = start_shared(config=config, at=home)
    sessions = [keep_session(server, tool="shell") for _ in range(3)]
    server.kill()
    _, stopped, due = sessions
    bed.stop(stopped["id"])
    soon = clincus.format_time(datetime.now(timezone.utc) + timedelta(seconds=2))
    bed.incus.run("config", "set", due["id"], f"{clincus.LABEL}deadline={soon}")
    again = start_shared(at=home)
    for session in sessions:
        path = f"/api/sessions/{session['id']}"
        wait_until(lambda path=path: again.get(path).status == 200, "the session")
    return again, *sessions


def test_a_killed_server_leaves_sessions_that_the_next_one_knows(restarted):
    server, session, *_ = restarted
    found = server.get(f"/api/sessions/{session['id']}").json
    assert (found["status"], found["session_id"]) == ("running", session["session_id"])


def test_a_server_that_finds_a_running_session_adds_no_run(restarted):
    server, session, *_ = restarted
    assert [run["ended_at"] for run in runs_of(server, session)] == [None]


def test_a_stop_while_no_server_ran_ends_the_run(restarted):
    server, _, session, _ = restarted
    wait_until(lambda: runs_of(server, session)[0]["ended_at"], "the end in the history")
    assert len(runs_of(server, session)) == 1


def test_max_duration_stops_the_session_also_after_a_restart_of_the_server(bed, restarted):
    server, _, _, session = restarted
    assert session["deadline"] > session["started_at"]
    wait_until(lambda: server.get(f"/api/sessions/{session['id']}").json["status"] == "stopped", "the deadline")
    assert bed.state(session["id"]) == "Stopped"


def test_why_a_session_is_not_locked_is_on_it_and_known_after_a_restart(restarted):
    server, session, *_ = restarted
    assert (session["protection"], session["protection_note"]) == ("off", clincus.protect.SWITCHED_OFF)
    (warning,) = session["warnings"]
    assert "limits.cpu.count is '1000'" in warning
    later = server.get(f"/api/sessions/{session['id']}").json
    assert [later[key] for key in ("protection_note", "warnings")] == [clincus.protect.SWITCHED_OFF, [warning]]


def runs_of(server, session) -> list[dict]:
    """The runs of a session in the history, the latest first."""
    return [run for run in server.get("/api/sessions/history").json if run["id"] == session["id"]]


class TestHistory:
    @pytest.mark.day
    def test_each_run_is_an_entry_with_the_references_fields(self, life):
        assert [entry["ended_at"] for entry in life.first_run] == [None]
        assert len(life.history) == 3
        session = life.created
        for entry in life.history:
            known = (session["session_id"], str(life.workspace), "claude")
            assert (entry["session_id"], entry["workspace"], entry["tool"]) == known
            assert clincus.parse_time(entry["started_at"]) <= clincus.parse_time(entry["ended_at"])
        assert life.history == sorted(life.history, key=lambda entry: entry["started_at"], reverse=True)

    @pytest.mark.day
    def test_pages_and_searches(self, life):
        page = life.server.get(f"{life.query}&limit=1&offset=1")
        assert (page.headers["x-total-count"], page.json) == ("3", [life.history[1]])
        first = life.server.get(f"{life.query}&limit=2")
        address, _, relation = first.headers["link"].partition(">; ")
        last = life.server.get(address.lstrip("<"))
        assert relation == 'rel="next"'
        assert (first.json + last.json, "link" in last.headers) == (life.history, False)
        again = life.server.get(f"{life.query}&limit=2", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status, again.headers["link"]) == (304, first.headers["link"])
        found = life.server.get("/api/sessions/history?q=IT%27S%20A&tool=claude").json
        assert found == life.history
        assert life.server.get(f"{life.query}&tool=opencode").json == []
        assert life.server.get("/api/sessions/history?q=nothing-like-it").json == []

    @pytest.mark.parametrize(
        "query", ["limit=-1", "limit=x", "offset=-1", "limit=1.5", "limit=999999999999999999999", "before=x"]
    )
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

    def tells(self, id: str, types: list[str]) -> None:
        """Wait until these, and no others, were told of a session."""
        wait_until(lambda: self.of(id) == types, lambda: f"the events {types}; there are {self.seen}")

    def types(self) -> list[str]:
        return [event["type"] for event in self.seen]

    def forget(self) -> None:
        """Forget what was told so far, and what was under way: a new client may get what was told just before."""
        self._socket.send('{"type": "ping"}')
        wait_until(lambda: "pong" in self.types(), lambda: f"an answer of the stream; {self.seen}")
        self.seen.clear()


STOPS = {
    "the incus command": lambda bed, name: bed.incus.run("stop", name),
    "force": lambda bed, name: bed.stop(name),
    "the guest itself": lambda bed, name: bed.incus.exec(name, ["kill", "-PWR", "1"]),
    "a forced delete": lambda bed, name: bed.incus.run("delete", "--force", name),
}


class TestEvents:
    def test_every_way_to_stop_is_told(self, bed, shared_server, workspace):
        events = Events(shared_server)
        session = shared_server.create(workspace, tool="shell")
        told = ["session.started"]
        for stop in STOPS.values():
            events.tells(session["id"], told)
            bed.wait_for_init(session["id"])
            stop(bed, session["id"])
            told.append("session.stopped")
            events.tells(session["id"], told)
            if bed.state(session["id"]):
                bed.incus.run("start", session["id"])
                told.append("session.started")

    @pytest.mark.day
    def test_the_api_tells_each_change_once(self, life):
        told = ["session.started", "session.stopped"] * 3
        wait_until(lambda: len(life.plain.of(life.created["id"])) >= 7, "all seven events")
        assert life.plain.of(life.created["id"]) == [*told, "session.stopped"]

    @pytest.mark.day
    def test_only_the_references_types_reach_a_plain_client(self, life):
        wait_until(lambda: len(life.plain.of(life.created["id"])) >= 7, "all seven events")
        wait_until(lambda: "session.changed" in life.ours.of(life.created["id"]), "a change")
        assert set(life.plain.of(life.created["id"])) == {"session.started", "session.stopped"}

    def test_what_happened_while_the_monitor_was_gone_is_told(self, bed, start_server, workspace):
        server = start_server(config=NO_CHECKPOINTS)
        session = server.create(workspace, tool="shell")
        events = Events(server)
        monitors = []
        for task in Path(f"/proc/{server.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread, or a command, that has ended meanwhile
                for pid in (task / "children").read_text().split():
                    if b"\0monitor\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        monitors.append(int(pid))
        assert monitors
        for pid in monitors:
            os.kill(pid, signal.SIGSTOP)  # blind: it will be killed before it can tell
        bed.stop(session["id"])
        for pid in monitors:
            with contextlib.suppress(ProcessLookupError):  # a look that Incus did not answer in time ends it before us
                os.kill(pid, signal.SIGKILL)
        events.tells(session["id"], ["session.stopped"])


@pytest.mark.day
def test_a_workspace_with_a_hard_name_works(life):
    assert "made" in life.made
    assert (life.created["workspace"], life.label) == (str(life.workspace), str(life.workspace))
    assert life.resume.status == 200


def test_a_project_file_chooses_the_tool_within_bounds(bed, shared_server, workspace):
    (workspace / ".clincus.toml").write_text('[tool]\nname = "opencode"\n[security]\ndisable_protection = true\n')
    session = shared_server.create(workspace)
    assert session["tool"] == "opencode"
    assert session["protection"] != "off"
    (warning,) = session["warnings"]
    assert "security.disable_protection is left out, since the file is not trusted" in warning


@pytest.mark.day
def test_nothing_of_a_session_stays_on_the_host(life):
    assert life.created["id"] not in Path("/proc/self/mounts").read_text()
    assert git(life.workspace, "status", "--porcelain", "--ignored") == ""
    assert sorted(path.name for path in life.workspace.iterdir()) == [".git", "README.md"]


def test_a_create_that_was_cut_short_is_made_whole_by_the_next_start(bed, shared_server, shared_session):
    session = shared_session
    wait_for_screen(bed, session, "STUB-READY")
    guest(bed, session, "tmux kill-server; rm -r ~/.clincus ~/.claude ~/.claude.json")  # as if the server had died
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").status == 200
    wait_for_screen(bed, session, "STUB-READY")
    assert json.loads(guest(bed, session, "cat ~/.claude.json"))["hasCompletedOnboarding"] is True


def test_no_read_path_asks_incus(bed, start_server, workspace, tmp_path):
    """A stand-in for `incus` tells its calls and, while a lock is held, makes none: a read that waits for one fails."""
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    real = subprocess.run(["sh", "-c", "command -v incus"], capture_output=True, text=True, check=True).stdout.strip()
    stand_in = tmp_path / "bin" / "incus"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\0" "$*" >>{calls}\nflock --shared {gate} true\nexec {real} "$@"\n')
    stand_in.chmod(0o755)
    server = start_server(config=NO_CHECKPOINTS, environ={"PATH": f"{stand_in.parent}:{os.environ['PATH']}"})

    def made() -> list[str]:
        return calls.read_text().split("\0")[:-1] if calls.exists() else []

    def looks(call: str) -> bool:  # at the tool, or whether Incus answers: the server does so on its own, whoever reads
        asks = ("/1.0?project=default", "/internal/ready?project=default")
        return clincus.guest_program("look") in call or call.endswith(asks)

    wait_until(lambda: any("monitor" in call for call in made()), "the start")
    wait_until(lambda: sum("recursion=1" in call for call in made()) == 2, "the start")
    before = made()
    session = server.create(workspace, tool="shell")
    kinds = [call.split()[2] for call in made()[len(before) :] if call.startswith("--project") and not looks(call)]
    assert [kind for kind in kinds if kind in {"launch", "exec"}] == ["launch", "exec"]
    wait_until(lambda: any(looks(call) for call in made()), "the first look")
    # The events of the start are asked about one after the other: this one comes behind them.
    bed.incus.run("config", "set", session["id"], f"{clincus.LABEL}name=behind them")
    wait_until(lambda: server.get(f"/api/sessions/{session['id']}").json["name"] == "behind them", "the last event")
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


FIRST_LABELS = ("workspace", "tool", "persistent", "session_id", "created_at")
FIRST_METADATA = ("session_id", "tool", "workspace", "container_name", "persistent", "saved_at")


def test_a_session_with_no_more_labels_and_files_than_the_first_version_wrote_goes_on(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace)
    talk(bed, server, session)
    server.stop()
    config = bed.incus.query(f"/1.0/instances/{session['id']}")["config"]
    labels = {key.removeprefix(clincus.LABEL) for key in config if key.startswith(clincus.LABEL)}
    bed.incus.run("config", "set", session["id"], *(f"{clincus.LABEL}{one}=" for one in labels - {*FIRST_LABELS}))

    server, path = start_server(config=NO_CHECKPOINTS), f"/api/sessions/{session['id']}"
    everything = wait_until(lambda: server.get("/api/sessions").json, "the sessions")
    [listed] = [one for one in everything if one["id"] == session["id"]]
    assert listed.keys() == session.keys()
    same = ("id", "workspace", "tool", "slot", "status", "persistent", "session_id", "created_at", "mode", "network")
    assert {key: listed[key] for key in same} == {key: session[key] for key in same}
    assert server.delete(path).status == 204
    assert server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, session, "earlier: remember the milk")
    assert server.delete(f"{path}?force=true").status == 204

    (metadata,) = (server.home / ".clincus" / "sessions-claude").rglob("metadata.json")
    known = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({key: known[key] for key in FIRST_METADATA}))
    again = server.create(workspace, resume=session["session_id"])
    wait_for_screen(bed, again, "earlier: remember the milk")
