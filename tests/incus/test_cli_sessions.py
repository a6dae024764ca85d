"""The commands for sessions, at a terminal and without one, on a real Incus."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from network_box import ASK
from terminal_box import Terminal

import clincus
from clincus_cli import relay as cli_relay
from tests.incus_bed import Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, program, wait_until
from tests.table import table


class Cli:
    """The command line in a project directory."""

    def __init__(self, bed: Bed, environ: dict[str, str], workspace: Path) -> None:
        self.bed = bed
        self.environ = environ
        self.workspace = workspace
        self.terminals: list[Terminal] = []

    def run(self, *words: str, stdin: bytes = b"", environ: dict[str, str] | None = None, cwd: Path | None = None):
        """Run a command without a terminal."""
        return subprocess.run(
            [*program(), *words], input=stdin, capture_output=True, timeout=DEADLINE, check=False,
            env={**self.environ, **(environ or {})}, cwd=cwd or self.workspace,
        )  # fmt: skip

    def ok(self, *words: str, **options) -> str:
        """Run a command that has to work, and return its stdout."""
        done = self.run(*words, **options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def start(self, *words: str, environ: dict[str, str] | None = None, cwd: Path | None = None) -> Terminal:
        """Run a command at a terminal."""
        terminal = Terminal([*program(), *words], {**self.environ, **(environ or {})}, cwd or self.workspace)
        self.terminals.append(terminal)
        return terminal

    def listed(self) -> list[dict]:
        """The containers that `clincus list` knows."""
        return json.loads(self.ok("list", "--format", "json"))["active_containers"]

    def background(self, *words: str) -> dict:
        """Start a session in the background and return its entry in the list."""
        before = self.bed.names()
        self.ok("shell", "--background", *words)
        (new,) = [entry for entry in self.listed() if entry["name"] not in before]
        return new

    def labelled(self, slot: int, *, start: bool = False, **labels: str) -> str:
        """Make the container of a session without a tool, as another program would: a tenth of the work of a start."""
        name = clincus.session_name("clincus-", str(self.workspace), slot)
        all_labels = {"managed": "true", "workspace": str(self.workspace), "tool": "claude", **labels}
        config = {f"user.clincus.{key}": value for key, value in all_labels.items()}
        image = {"type": "image", "alias": "clincus"}
        instance = {"name": name, "type": "container", "config": config, "source": image, "start": start}
        self.bed.incus.query("/1.0/instances", "POST", instance, wait=True)
        return name


def command_line(bed, home: Path, workspace: Path) -> Cli:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLINCUS_", "XDG_", "TMUX"))}
    own = {**kept, **bed.environ, "HOME": str(home), "TERM": "xterm-256color"}
    own.pop("GH_TOKEN", None)
    return Cli(bed, own, workspace)


@pytest.fixture
def cli(bed, home, workspace):
    made = command_line(bed, home, workspace)
    yield made
    for terminal in made.terminals:
        terminal.close()


def ready(bed, name: str, tool: str = "claude") -> None:
    """Wait until a session's tool takes lines."""
    bed.await_screen(name, f"STUB-READY {tool}")


def say_to(cli: Cli, name: str, line: str) -> None:
    """Type a line into a session's tool and wait for its answer."""
    cli.ok("tmux", "send", name, line)
    cli.bed.await_screen(name, f"echo: {line}")


def saved(cli: Cli, entry: dict) -> str:
    """What is saved of a conversation."""
    folder = Path(cli.environ["HOME"]) / ".clincus" / "sessions-claude" / entry["session_id"]
    return "".join(file.read_text() for file in folder.rglob("*.jsonl"))


# ---- shell


@pytest.mark.day
def test_shell_attaches_to_a_new_session_and_leaves_it_running_when_detached(cli):
    terminal = cli.start()
    terminal.expect("STUB-READY claude")
    terminal.type("buy milk\r")
    terminal.expect("echo: buy milk")
    terminal.detach()
    assert "Session data saved" in terminal.expect("Container kept running")
    assert terminal.end() == 0
    (entry,) = cli.listed()
    assert (entry["status"], entry["persistent"], entry["tool"], entry["slot"]) == ("Running", False, "claude", 1)
    assert "buy milk" in saved(cli, entry)


@pytest.mark.day
def test_the_end_of_all_programs_ends_an_ephemeral_session_and_its_conversation_goes_on(bed, cli):
    terminal = cli.start("shell")
    terminal.expect("STUB-READY claude")
    terminal.type("the answer is 42\r")
    terminal.expect("echo: the answer is 42")
    terminal.type("exit\r")
    terminal.expect("claude has ended")
    terminal.type("exit\r")
    terminal.expect("Container removed")
    assert terminal.end() == 0
    assert bed.names() == []
    terminal = cli.start("shell", "--resume")
    terminal.expect("Auto-detected session: ")
    terminal.expect("earlier: the answer is 42")
    terminal.detach()
    assert terminal.end() == 0


def test_a_persistent_session_rests_when_its_programs_have_ended_and_goes_on_in_its_container(bed, cli):
    terminal = cli.start("shell", "--persistent")
    terminal.expect("STUB-READY claude")
    terminal.type("sh touch ~/kept; echo one\r")
    terminal.expect("one")
    terminal.type("exit\r")
    terminal.expect("claude has ended")
    terminal.type("exit\r")
    terminal.expect("Container kept, stopped")
    assert terminal.end() == 0
    (entry,) = cli.listed()
    assert (entry["status"], entry["persistent"]) == ("Stopped", True)
    terminal = cli.start("shell", "--persistent")
    terminal.expect("STUB-READY claude")
    assert bed.shell(entry["name"], "ls ~/kept").endswith("kept\n")
    terminal.detach()
    assert terminal.end() == 0


def test_a_container_that_stops_under_the_terminal_is_saved_before_it_is_removed(bed, cli):
    terminal = cli.start("shell")
    terminal.expect("STUB-READY claude")
    terminal.type("last words\r")
    terminal.expect("echo: last words")
    (entry,) = cli.listed()
    bed.stop(entry["name"])
    terminal.expect("Container was stopped, removing...")
    terminal.expect("Container removed")
    assert terminal.end() == 0
    assert "last words" in saved(cli, entry)


@pytest.mark.day
@table(
    "words, reason",
    [
        (["shell"], "no terminal to attach to"),
        (["shell", "--background", "--tool", "nano"], "unknown tool: nano (supported: claude, copilot"),
        (["shell", "--background", "--image", "none"], "image 'none' not found"),
        (["shell", "--background", "--mount", "/srv:/a", "--mount", "/srv:/a/b"], "nested mount paths"),
        (["shell", "--background", "--profile", "x"], "profile 'x' not found"),
        (["shell", "--background", "--resume"], "no previous session to resume"),
    ],
)
def test_what_cannot_be_started_says_why_and_leaves_nothing(bed, cli, words, reason):
    done = cli.run(*words)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("Error: ")]
    assert reason in line
    assert bed.names() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(bed, cli, how):
    terminal = cli.start("shell")
    terminal.expect("[setup] Creating container")
    os.kill(terminal.pid, how)
    assert terminal.end() == -how
    assert bed.names() == []


def test_the_dashboard_goes_on_with_what_the_shell_began_and_the_other_way_round(bed, cli, start_server):
    """With the variables, limits and mounts of the first start."""
    server = start_server(config=NO_CHECKPOINTS)
    (cli.workspace / "extra").mkdir()
    flags = ("-e", 'QUOTED=it\'s "1,2" $HOME', "--limit-memory", "512MiB", "--mount", "extra:/extra:ro")
    entry = cli.background(*flags)
    name, path = entry["name"], f"/api/sessions/{entry['name']}"
    ready(bed, name)
    say_to(cli, name, "from the shell")
    cli.ok("stop", name)
    wait_until(lambda: server.get(path).json.get("status") == "stopped", "the server")
    assert server.post(f"{path}/resume").status == 200
    bed.await_screen(name, "earlier: from the shell")
    bed.await_screen(name, 'QUOTED=[it\'s "1,2" $HOME]', type="env QUOTED")
    assert bed.ask(f"/1.0/instances/{name}")["config"]["limits.memory"] == "512MiB"
    assert "ro" in bed.shell(name, "grep ' /extra ' /proc/mounts").split()[3].split(",")
    say_to(cli, name, "from the dashboard")
    assert server.delete(f"{path}?force=true").status == 204
    terminal = cli.start("shell", f"--resume={entry['session_id']}")
    terminal.expect("earlier: from the dashboard")
    terminal.detach()
    assert terminal.end() == 0


# ---- attach, list, info


@pytest.mark.day
def test_a_running_session_is_gone_back_to_attached_listed_typed_into_and_resumed(bed, cli):
    assert cli.ok("attach") == "No active sessions\n"
    entry = cli.background()
    name = entry["name"]
    ready(bed, name)
    say_to(cli, name, "where was I")
    terminal = cli.start("shell", str(cli.workspace), cwd=Path("/"))
    terminal.expect("echo: where was I")
    terminal.detach()
    assert terminal.end() == 0
    terminal = cli.start("attach")
    terminal.expect(f"Attaching to {name}...")
    terminal.expect("STUB-READY claude")
    terminal.detach()
    assert terminal.end() == 0
    terminal = cli.start("attach", "--bash")
    terminal.expect("$")
    terminal.type("pwd; exit 5\r")
    terminal.expect("/workspace")
    assert terminal.end() == 5

    sessions, _, kept = cli.ok("list", "--all").partition("\n\n")
    head, row = [line.split() for line in sessions.splitlines()]
    assert head == ["NAME", "STATE", "AGENT", "TOOL", "WORKSPACE", "AGE"]
    assert (row[0], row[1], row[-2]) == (name, "running", str(cli.workspace))
    assert entry["session_id"] in [line.split()[0] for line in kept.splitlines()]
    (of_json,) = json.loads(cli.ok("list", "--all", "--format=json"))["saved_sessions"]
    assert (of_json["ID"], of_json["Workspace"]) == (entry["session_id"], str(cli.workspace))
    line = "cost $5 `now` \\ -x; 'ü'"
    assert cli.ok("tmux", "send", name, line) == f"Sent command to session clincus-{name}\n"
    wait_until(lambda: f"echo: {line}" in cli.ok("tmux", "capture", name), "the line")
    bed.incus.run("pause", name)
    assert f"Resumed container: {name}" in cli.run("resume").stderr.decode()
    assert bed.state(name) == "Running"


def test_a_terminated_shell_leaves_no_child_and_keeps_the_session(cli):
    terminal = cli.start("shell")
    terminal.expect("STUB-READY claude")
    children = cli_relay.children_of(terminal.pid)
    assert children
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.expect("Container kept running")
    assert terminal.end() == -signal.SIGTERM
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the end of the children")
    assert [one["status"] for one in cli.listed()] == ["Running"]


@pytest.mark.day
def test_a_stopped_session_is_renamed_shown_and_kept_and_takes_no_line(bed, cli):
    entry = cli.background("--name", "login page")
    name = entry["name"]
    assert entry["display_name"] == "login page"
    ready(bed, name)
    say_to(cli, name, "something to keep")
    cli.ok("stop", name)
    assert cli.ok("rename", name, "sign-in") == f"{name}: sign-in\n"
    assert "(sign-in)" in cli.ok("list")
    for words in (["info"], ["info", entry["session_id"]], ["info", name]):
        text = cli.ok(*words)
        assert re.search(r"Session Data: +✓ Present", text)
        assert f"clincus shell --resume={entry['session_id']}" in text
    done = cli.run("attach", name)
    assert (done.returncode, "is stopped: clincus resume" in done.stderr.decode()) == (1, True)
    done = cli.run("tmux", "send", name, "hello")
    assert (done.returncode, b"not running" in done.stderr) == (1, True)
    assert f"✓ Persisted {name}" in cli.ok("persist", name)
    assert cli.listed()[0]["persistent"] is True


# ---- kill, shutdown, clean


@pytest.mark.day
def test_kill_saves_the_conversation_and_deletes(bed, cli):
    entry = cli.background()
    ready(bed, entry["name"])
    say_to(cli, entry["name"], "before the end")
    assert f"✓ Killed {entry['name']}\nKilled 1 container(s)\n" in cli.ok("kill", entry["name"])
    assert bed.names() == []
    assert "✓ Present" in cli.ok("info", entry["session_id"])


HANG = r"""
printf '#!/bin/sh\nexec sleep 100000\n' >/tmp/hang
chmod 755 /tmp/hang
cp /tmp/hang "$(command -v find)"
"""


def test_a_session_that_hangs_keeps_no_other_from_being_killed(bed, cli):
    """They were ended one after the other, and each that hangs took two minutes."""
    hanging, _, _ = (cli.labelled(slot, start=True) for slot in (1, 2, 3))
    assert bed.incus.exec(hanging, ["sh", "-c", HANG]).code == 0
    terminal = cli.start("kill", "--all", "--force")
    wait_until(lambda: bed.names() == [hanging], "the end of the others")
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.end() == -signal.SIGINT
    assert bed.state(hanging) == "Running"


def test_kill_keeps_what_the_container_does_not_hand_over_unless_forced(bed, cli):
    name = cli.background()["name"]
    cli.ok("container", "exec", name, "--", "sh", "-c", "rm $(command -v find)")
    done = cli.run("kill", name)
    assert (done.returncode, b"holds a conversation that is not saved" in done.stderr) == (1, True)
    assert cli.run("container", "delete", name).returncode == 1
    assert bed.names() == [name]
    assert "Killed" in cli.ok("kill", "--force", name)
    assert bed.names() == []


def test_clean_and_shutdown_remove_what_is_not_persistent_after_saving(bed, cli):
    stopped = cli.background()
    running, kept = cli.labelled(2, start=True), cli.labelled(3, persistent="true")
    ready(bed, stopped["name"])
    say_to(cli, stopped["name"], "do not lose me")
    bed.stop(stopped["name"])
    assert "[Dry run] No changes made." in cli.ok("clean", "--dry-run")
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--force")
    assert bed.names() == sorted([running, kept])
    assert "✓ Present" in cli.ok("info", stopped["session_id"])
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--sessions", "--force")
    assert cli.run("info", stopped["session_id"]).returncode == 1
    cli.ok("shutdown", "--timeout", "20", running, kept, "--force")
    assert bed.names() == [kept]
    cli.labelled(1, workspace=str(cli.workspace / "gone"))
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--orphans", "--force")
    assert bed.names() == [kept]


# ---- run


@pytest.mark.day
def test_run_passes_streams_variables_and_the_exit_code_on_and_works_in_the_workspace(bed, cli):
    script = 'cat; echo problem >&2; printf "  end"; id -u; pwd; echo "$USER $A"; touch made; exit 3'
    done = cli.run("run", "--quiet", "-e", "A=it's", "--limit-memory", "300MiB", script, stdin=b"one\ntwo \n")
    assert (done.returncode, done.stderr) == (3, b"problem\n")
    assert done.stdout == b"one\ntwo \n  end1000\n/workspace\ncode it's\n"
    assert cli.ok("run", "-q", "printf", "%s|", "a b", "$HOME", "-x", "--slot", "4") == "a b|$HOME|-x|"
    assert cli.run("run", "--timeout", "1", "sleep 1000").returncode == 124
    assert (cli.workspace / "made").exists()
    assert bed.names() == []


def begun(cli: Cli) -> subprocess.Popen[bytes]:
    """A `clincus run` whose command has begun, and does not end."""
    process = subprocess.Popen(
        [*program(), "run", "echo begun; sleep 1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=cli.environ, cwd=cli.workspace, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def test_an_interrupted_run_removes_its_container_and_clean_finds_what_a_killed_one_left(bed, cli):
    process = begun(cli)
    assert cli.listed() == [], "a command is no session"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGINT
    assert bed.names() == []
    process = begun(cli)
    assert "Nothing to clean." in cli.ok("clean", "--force"), "it is at work"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--force")
    assert bed.names() == []


def test_a_run_with_a_list_of_names_reaches_these_only_and_needs_no_server(cli, home):
    with (home / ".config/clincus/config.toml").open("a") as config:
        config.write('[network]\nreachable = ["127.0.0.1/32"]\n')
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        name = f"localhost:{site.server_port}"
        get = 'printf "GET http://$host/ HTTP/1.1\\r\\n\\r\\n" | perl -e "$0" | head -c 12; echo'
        script = f'for host in "$1" evil.example; do {get}; done; ls /sys/class/net'
        done = cli.run("run", "--allow", name, "--", "sh", "-c", script, ASK, name)
        site.shutdown()
    assert done.stdout == b"HTTP/1.0 200\nHTTP/1.1 403\nlo\n", done.stderr
    assert b"Refused 1x: evil.example:80 is not on this session's list of names" in done.stderr


# ---- containers of ours that are no sessions, tmux, trust


@pytest.mark.parametrize("of_go", [False, True])
def test_a_container_with_a_name_of_ours_is_listed_used_stopped_and_killed(bed, cli, clincus_server, of_go):
    """It has no workspace: `clincus container launch` makes such a one, and the Go program left them."""
    bare = clincus.session_name("clincus-", str(cli.workspace), 7)
    if of_go:
        bed.incus.run("launch", "--quiet", "clincus", bare)
    else:
        cli.ok("container", "launch", "clincus", bare)
    (entry,) = cli.listed()
    assert (entry["name"], entry["slot"], entry["status"], "workspace" in entry) == (bare, 7, "Running", False)
    assert clincus_server.get("/api/sessions").json == []
    terminal = cli.start("attach", bare)
    terminal.expect("$ ")
    cli.ok("tmux", "send", bare, "echo typed-$((40 + 2))")
    wait_until(lambda: "typed-42" in cli.ok("tmux", "capture", bare), "the line")
    terminal.detach()
    assert terminal.end() == 0
    assert "is stopped and kept" in cli.ok("shutdown", bare)
    cli.ok("clean", "--force")
    cli.ok("clean", "--orphans", "--force")
    assert bed.state(bare) == "Stopped", "nobody called it ephemeral"
    cli.ok("resume", bare)
    assert bed.state(bare) == "Running"
    assert f"✓ Killed {bare}" in cli.ok("kill", "--force", bare)
    assert bed.names() == []
