"""The life of sessions over the API, on a real Incus."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import clincus
from tests.conftest import new_workspace
from tests.faults_bed import saved as saved_on_host
from tests.faults_bed import say, talk, wait_for_screen
from tests.programs import NO_CHECKPOINTS, connect, git, wait_until
from tests.table import table

REFERENCE_FIELDS = {"id": str, "workspace": str, "tool": str, "slot": int, "status": str, "persistent": bool}
HARD_NAME = 'it\'s a "näme" \\ 中文 🦆 $(x) #1, 50%'


class Events:
    """The event stream of a server, collected in a thread."""

    def __init__(self, server, subprotocols=None) -> None:
        self.seen: list[dict] = []
        self._socket = connect(server.socket_url + "/ws/events", subprotocols=subprotocols)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in self._socket:
                self.seen.append(json.loads(message))

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


def runs_of(server, session) -> list[dict]:
    """The runs of a session in the history, the latest first."""
    return [run for run in server.get("/api/sessions/history").json if run["id"] == session["id"]]


def check_history(server, session, query: str) -> None:
    """Three runs that have ended, on pages and by a search."""
    runs = server.get(query).json
    assert [(run["session_id"], run["tool"], bool(run["ended_at"])) for run in runs] == [
        (session["session_id"], "claude", True)
    ] * 3
    assert runs == sorted(runs, key=lambda run: run["started_at"], reverse=True)
    first = server.get(f"{query}&limit=2")
    address, _, relation = first.headers["link"].partition(">; ")
    last = server.get(address.lstrip("<"))
    assert (first.headers["x-total-count"], relation) == ("3", 'rel="next"')
    assert (first.json + last.json, "link" in last.headers) == (runs, False)
    assert server.get(f"{query}&tool=opencode").json == []
    assert server.get("/api/sessions/history?limit=-1").status == 400


@pytest.mark.day
def test_a_session_is_talked_to_stopped_resumed_deleted_and_goes_on_in_a_new_container(
    bed, shared_server, tmp_path_factory
):
    server = shared_server
    workspace = new_workspace(tmp_path_factory.mktemp("life") / HARD_NAME)
    plain, ours = Events(server), Events(server, ["clincus.events.v1"])
    session = server.create(workspace, name="  login page \N{SNOWMAN} ")
    id, path = session["id"], f"/api/sessions/{session['id']}"
    query = f"/api/sessions/history?q={quote(HARD_NAME)}"
    assert {name: type(session[name]) for name in REFERENCE_FIELDS} == REFERENCE_FIELDS
    assert (id, session["tool"]) == (clincus.session_name("clincus-", str(workspace), 1), "claude")
    assert (session["name"], session["rang_at"]) == ("login page \N{SNOWMAN}", "")
    assert [run["ended_at"] for run in server.get(query).json] == [None]
    wait_for_screen(bed, id, "cwd=/workspace")
    say(bed, id, "remember the milk")
    bed.await_screen(id, "1000", type="sh id -u; touch made")
    wait_until((workspace / "made").exists, "the file in the workspace")
    assert (workspace / "made").stat().st_uid == workspace.stat().st_uid
    (workspace / "made").unlink()
    bed.await_screen(id, "rung", type=r'sh printf "\a"; echo rung')
    wait_until(lambda: server.get(path).json["rang_at"], "the bell")
    server.request("PATCH", path, {"name": "-", "pinned": True, "persistent": True})

    assert server.delete(path).status == 204
    stopped = server.get(path).json
    assert [stopped[key] for key in ("status", "rang_at", "pinned", "persistent")] == ["stopped", "", True, True]
    assert "remember the milk" in saved_on_host(server, session)
    assert server.get(f"{path}/files").status == 409
    data = tmp_path_factory.mktemp("data")
    data.chmod(0o755)
    (data / "note").write_text("mine\n")
    bed.incus.run("config", "device", "add", id, "data", "disk", f"source={data}", "path=/data")
    resumed = server.post(f"{path}/resume").json
    assert (resumed["id"], resumed["status"], resumed["name"]) == (id, "running", "-")
    wait_for_screen(bed, id, "earlier: remember the milk")
    assert bed.shell(id, "cat /data/note") == "mine\n", "a device that a person added stays"

    assert server.delete(f"{path}?force=true").status == 204
    assert (server.get(path).status, bed.state(id)) == (404, "")
    again = server.create(workspace, resume=session["session_id"])
    assert (again["session_id"], again["name"], again["pinned"]) == (session["session_id"], "-", False)
    wait_for_screen(bed, id, "earlier: remember the milk")
    assert server.request("PATCH", path, {"name": ""}).json["name"] == ""
    assert server.delete(f"{path}?force=true").status == 204
    check_history(server, session, query)
    plain.tells(id, ["session.started", "session.stopped"] * 3)
    wait_until(lambda: "session.changed" in ours.of(id), "a change, which the reference does not have")
    assert id not in Path("/proc/self/mounts").read_text()
    assert git(workspace, "status", "--porcelain", "--ignored") == ""
    assert sorted(one.name for one in workspace.iterdir()) == [".git", "README.md"]


def test_a_resume_leaves_a_running_session_alone_and_makes_a_create_that_was_cut_short_whole(bed, shared_server):
    """And a locked folder says that no containers run beside it."""
    session = shared_server.create(new_workspace(shared_server.home / "project"))
    id, path = session["id"], f"/api/sessions/{session['id']}"
    assert (session["nesting"], session["protection"]) == (False, "locked")
    assert "Operation not permitted" in bed.shell(id, "unshare -m true 2>&1 || true", user=0)
    wait_for_screen(bed, id, "STUB-READY")
    pid = bed.shell(id, "pgrep -o tmux")
    assert shared_server.post(f"{path}/resume").json["status"] == "running"
    assert bed.shell(id, "pgrep -o tmux") == pid
    bed.shell(id, "tmux kill-server; rm -r ~/.clincus ~/.claude ~/.claude.json")  # as if the server had died
    assert shared_server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, id, "STUB-READY")
    assert json.loads(bed.shell(id, "cat ~/.claude.json"))["hasCompletedOnboarding"] is True


def test_what_a_terminal_answered_to_a_tool_that_ended_is_no_key_of_the_shell(bed, shared_server, workspace):
    """A shell takes the tool's place. Bash takes ESC P for a search, and the next line for what to search."""
    id = shared_server.create(workspace)["id"]
    wait_for_screen(bed, id, "STUB-READY")
    (workspace / "asks").write_text(r"printf '\033[>q\033[c'; kill -KILL $PPID")
    bed.await_screen(id, "claude has ended (exit code 137)", type="sh sh asks", history=True)
    wait_for_screen(bed, id, ":/workspace$")
    bed.await_screen(id, "shell-42", type="echo shell-$((40 + 2))")


@pytest.mark.parametrize("tool", ["copilot", "opencode"])
def test_a_conversation_with_another_tool_goes_on(bed, shared_server, workspace, tool):
    session = talk(bed, shared_server, workspace, tool=tool)
    assert shared_server.delete(f"/api/sessions/{session['id']}").status == 204
    assert shared_server.post(f"/api/sessions/{session['id']}/resume").status == 200
    wait_for_screen(bed, session["id"], "earlier: remember the milk")


STOPS = {
    "the incus command": lambda bed, name: bed.incus.run("stop", name),
    "force": lambda bed, name: bed.stop(name),
    "the guest itself": lambda bed, name: bed.incus.exec(name, ["kill", "-PWR", "1"]),
    "a forced delete": lambda bed, name: bed.incus.run("delete", "--force", name),
}


def test_every_way_to_stop_is_told_and_ends_the_run(bed, shared_server, workspace):
    events = Events(shared_server)
    session = shared_server.create(workspace, tool="shell")
    told = ["session.started"]
    for stop in STOPS.values():
        events.tells(session["id"], told)
        bed.wait_for_init(session["id"])
        stop(bed, session["id"])
        told.append("session.stopped")
        events.tells(session["id"], told)
        wait_until(lambda: runs_of(shared_server, session)[0]["ended_at"], "the end in the history")
        if bed.state(session["id"]):
            bed.incus.run("start", session["id"])
            told.append("session.started")


def test_a_session_that_is_paused_restarted_or_full_of_processes_loses_nothing(bed, shared_server, workspace):
    server, session = shared_server, talk(bed, shared_server, workspace)
    id, path = session["id"], f"/api/sessions/{session['id']}"
    bed.incus.run("pause", id)
    wait_until(lambda: server.get(path).json["paused"], "the pause")
    assert server.get(path).json["status"] == "stopped"
    assert server.post(f"{path}/resume").status == 200
    assert [server.get(path).json[key] for key in ("status", "paused")] == ["running", False]

    events = Events(server)
    events.forget()
    bed.restart_instance(id)
    events.tells(id, ["session.stopped", "session.started"])

    def is_back() -> bool:
        """Attach as the page does: again where the news of the restart closes the terminal."""
        url = f"{server.socket_url}/ws/terminal/{id}"
        with contextlib.suppress(ConnectionClosed, InvalidStatus, TimeoutError), connect(url) as terminal:
            terminal.recv(timeout=5)
        return "earlier: remember the milk" in bed.shell(id, f"tmux capture-pane -pS - -t =clincus-{id}: || true")

    wait_until(is_back, "the tool with its conversation")
    say(bed, id, "and the bread")
    bed.incus.run("config", "set", id, "limits.processes=1")  # no program can be asked any more
    assert server.delete(f"{path}?force=true").status == 204
    assert "and the bread" in saved_on_host(server, session)


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


def test_ten_creates_at_once_fill_the_slots_and_the_eleventh_is_refused(bed, shared_server, workspace):
    with ThreadPoolExecutor(11) as pool:
        asked = pool.map(lambda _: shared_server.post("/api/sessions", {"workspace": str(workspace)}), range(11))
        *created, refused = sorted(asked, key=lambda answer: answer.status)
    assert sorted(answer.json.get("slot") for answer in created) == list(range(1, 11))
    assert refused.status == 409
    assert len(set(bed.names()) - bed.kept) == 10


@pytest.mark.day
@table(
    "fields, status, reason",
    [
        ({"workspace": "project"}, 400, "absolute"),
        ({"workspace": "/nowhere/at/all"}, 400, "does not exist"),
        ({"tool": "vim"}, 400, "unknown tool"),
        ({"image": "nope"}, 400, "clincus build"),
        ({"profile": "nope"}, 404, "nope"),
        ({"persistant": True}, 400, "persistant"),
        ({"resume": "nope"}, 404, "nope"),
    ],
)
def test_bad_input_is_refused_with_a_reason_and_leaves_nothing(
    bed, shared_server, workspace, *, fields, status, reason
):
    answer = shared_server.post("/api/sessions", {"workspace": str(workspace), **fields})
    assert (answer.status, reason in answer.json["error"]) == (status, True), answer.json
    assert bed.kept.issuperset(bed.names())


def test_a_create_that_fails_half_way_leaves_no_container(bed, start_server, workspace):
    server = start_server(config=f'{NO_CHECKPOINTS}[incus]\ncode_user = "nobody-here"\n')
    answer = server.post("/api/sessions", {"workspace": str(workspace)})
    assert (answer.status, "no home" in answer.json["error"]) == (500, True), answer.json
    assert bed.kept.issuperset(bed.names())
    assert server.get("/api/sessions").json == []


def test_an_instance_of_another_that_has_our_name_is_left_alone(bed, shared_server, workspace):
    name = clincus.session_name("clincus-", str(workspace), 1)
    bed.incus.run("create", "clincus", name)
    assert shared_server.create(workspace)["slot"] == 2
    assert shared_server.delete(f"/api/sessions/{name}?force=true").status == 404
    assert bed.state(name) == "Stopped"


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


@contextlib.contextmanager
def told_by_incus(bed):
    """A list that has, after the block, all that `incus monitor` told meanwhile."""
    told: list[bytes] = []
    with bed.incus.monitor() as monitor:
        try:
            while not select.select([monitor.stdout], [], [], 0.5)[0]:  # it does not tell when it listens
                bed.incus.run("profile", "set", "default", "user.mark=1")
            yield told
        finally:
            monitor.signal(signal.SIGTERM)
        told.append(monitor.stdout.read())


@pytest.mark.day
def test_what_the_configuration_says_is_in_force_and_credentials_are_in_no_event(bed, start_server, home, workspace):
    (home / "extra").mkdir()
    (home / "extra/note").write_text("from the host\n")
    (home / ".claude").mkdir()
    (home / ".claude/.credentials.json").write_text(json.dumps({"token": SECRET}))
    (home / ".claude/settings.json").write_text(json.dumps({"theme": "light"}))
    server = start_server(config=NO_CHECKPOINTS + CONFIGURED.format(extra=home / "extra"))
    with told_by_incus(bed) as told:
        session = server.create(workspace, profile="small")
        bed.await_screen(session["id"], "GREETING=[it's me]", type="env GREETING")
    id, instance = session["id"], bed.ask(f"/1.0/instances/{session['id']}")
    assert (session["profile"], session["persistent"]) == ("small", True)
    limits = {"cpu": "1", "memory": "128MiB", "memory.enforce": "hard", "processes": "200"}
    assert {key: instance["config"][f"limits.{key}"] for key in limits} == limits
    assert instance["devices"]["root"]["limits.read"] == "10MiB"
    assert bed.shell(id, "cat /extra/note; touch /extra/x 2>/dev/null || echo refused") == "from the host\nrefused\n"
    assert bed.shell(id, f"cat '{workspace}/README.md'") == "# project\n", "the workspace keeps its own path"
    assert json.loads(bed.shell(id, "cat ~/.claude/settings.json"))["theme"] == "light"
    assert SECRET in bed.shell(id, "cat ~/.claude/.credentials.json")
    assert bed.shell(id, "stat -c %a:%u ~/.claude/.credentials.json") == "600:1000\n"
    assert (id.encode() in told[0], SECRET.encode() in told[0], SECRET in server.log()) == (True, False, False)


def test_a_killed_server_leaves_sessions_that_the_next_one_knows(bed, start_server, make_workspace):
    """Meanwhile one was stopped, and one reached its deadline."""
    server = start_server(
        config=f"{NO_CHECKPOINTS}[security]\ndisable_protection = true\n"
        '[limits.cpu]\ncount = 1000\n[limits.runtime]\nmax_duration = "1h"\n'
    )
    sessions = [server.create(make_workspace(name), tool="shell") for name in ("runs", "stopped", "due")]
    server.kill()
    runs, stopped, due = sessions
    bed.stop(stopped["id"])
    assert due["deadline"] > due["started_at"]
    soon = clincus.format_time(datetime.now(timezone.utc) + timedelta(seconds=2))
    bed.incus.run("config", "set", due["id"], f"{clincus.LABEL}deadline={soon}")
    server = start_server()
    wait_until(lambda: len(server.get("/api/sessions").json) == 3, "the sessions")
    found = server.get(f"/api/sessions/{runs['id']}").json
    same = ("status", "session_id", "protection", "protection_note", "warnings")
    assert [found[key] for key in same] == [runs[key] for key in same]
    assert (found["status"], found["protection"]) == ("running", "off")
    assert "limits.cpu.count is '1000'" in found["warnings"][0]
    assert [run["ended_at"] for run in runs_of(server, runs)] == [None]
    wait_until(lambda: runs_of(server, stopped)[0]["ended_at"], "the end in the history")
    wait_until(lambda: server.get(f"/api/sessions/{due['id']}").json["status"] == "stopped", "the deadline")
    assert bed.state(due["id"]) == "Stopped"


FIRST_LABELS = {"workspace", "tool", "persistent", "session_id", "created_at"}
FIRST_METADATA = ("session_id", "tool", "workspace", "container_name", "persistent", "saved_at")


def test_a_session_with_no_more_labels_and_files_than_the_first_version_wrote_goes_on(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = talk(bed, server, workspace)
    id, path = session["id"], f"/api/sessions/{session['id']}"
    server.stop()
    config = bed.ask(f"/1.0/instances/{id}")["config"]
    labels = {key.removeprefix(clincus.LABEL) for key in config if key.startswith(clincus.LABEL)}
    bed.incus.run("config", "set", id, *(f"{clincus.LABEL}{one}=" for one in labels - FIRST_LABELS))

    server = start_server(config=NO_CHECKPOINTS)
    [listed] = wait_until(lambda: server.get("/api/sessions").json, "the sessions")
    same = ("id", "workspace", "tool", "slot", "status", "persistent", "session_id", "created_at", "mode", "network")
    assert {key: listed[key] for key in same} == {key: session[key] for key in same}
    assert server.delete(path).status == 204
    assert server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, id, "earlier: remember the milk")
    assert server.delete(f"{path}?force=true").status == 204

    (metadata,) = (server.home / ".clincus" / "sessions-claude").rglob("metadata.json")
    known = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({key: known[key] for key in FIRST_METADATA}))
    server.create(workspace, resume=session["session_id"])
    wait_for_screen(bed, id, "earlier: remember the milk")
