"""The commands for sessions, at a terminal and without one, on a real Incus."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from network_box import ASK
from terminal_box import Terminal

import clincus
from clincus_cli import relay as cli_relay
from tests.conftest import new_home, new_workspace, remove_sockets
from tests.incus_bed import Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, program, wait_until


class Cli:
    """The command line in a project directory."""

    def __init__(self, bed: Bed, environ: dict[str, str], workspace: Path) -> None:
        self.bed = bed
        self.environ = environ
        self.workspace = workspace
        self.terminals: list[Terminal] = []
        self.kept = contextlib.ExitStack()

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

    def keep(self, *words: str) -> dict:
        """The same for a session that the tests of a class share."""
        entry = self.background(*words)
        self.kept.enter_context(self.bed.keeping(entry["name"]))
        return entry

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


@pytest.fixture(scope="class")
def shared_cli(bed, tmp_path_factory):
    """The same for the tests of a class. What they keep stays until the last of them."""
    folder = tmp_path_factory.mktemp("shared")
    made = command_line(bed, new_home(folder / "home", bed), new_workspace(folder / "project"))
    with made.kept:
        yield made
        for terminal in made.terminals:
            terminal.close()
    remove_sockets(folder / "home")


def ready(bed, name: str, tool: str = "claude") -> None:
    """Wait until a session's tool takes lines."""
    bed.await_screen(name, f"STUB-READY {tool}")


def say_to(cli: Cli, bed, name: str, line: str) -> None:
    """Type a line into a session's tool and wait for its answer."""
    cli.ok("tmux", "send", name, line)
    bed.await_screen(name, f"echo: {line}")


# ---- shell ------------------------------------------------------------------------------------------------------


@pytest.mark.day
def test_shell_attaches_to_a_new_session_and_leaves_it_running_when_detached(bed, cli):
    terminal = cli.start()
    terminal.expect("STUB-READY claude")
    terminal.type("buy milk\r")
    terminal.expect("echo: buy milk")
    terminal.detach()
    said = terminal.expect("Container kept running")
    assert "Session data saved" in said
    assert terminal.end() == 0
    (entry,) = cli.listed()
    assert (entry["status"], entry["persistent"], entry["tool"], entry["slot"]) == ("Running", False, "claude", 1)
    saved = Path(cli.environ["HOME"]) / ".clincus" / "sessions-claude" / entry["session_id"]
    assert "buy milk" in "".join(file.read_text() for file in saved.rglob("*.jsonl"))


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
    terminal.type("sh touch ~/kept\r")
    terminal.type("one\r")
    terminal.expect("echo: one")
    terminal.type("exit\r")
    terminal.expect("claude has ended")
    terminal.type("exit\r")
    terminal.expect("Container kept, stopped")
    assert terminal.end() == 0
    (entry,) = cli.listed()
    assert (entry["status"], entry["persistent"]) == ("Stopped", True)
    terminal = cli.start("shell", "--persistent")
    terminal.expect("earlier: one")
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
    saved = Path(cli.environ["HOME"]) / ".clincus" / "sessions-claude" / entry["session_id"]
    assert "last words" in "".join(file.read_text() for file in saved.rglob("*.jsonl"))


def test_a_variable_to_copy_that_is_not_there_is_a_mistake_of_usage(bed, cli):
    done = cli.run("shell", "--background", "-e", "SURELY_NOT_SET")
    assert done.returncode == 2
    assert b"SURELY_NOT_SET is not set here" in done.stderr
    assert bed.names() == []


MISTAKES = {
    "no terminal": (["shell"], "no terminal to attach to"),
    "an unknown tool": (["shell", "--background", "--tool", "nano"], "unknown tool: nano (supported: claude, copilot"),
    "an unknown image": (["shell", "--background", "--image", "none"], "image 'none' not found"),
    "nested mounts": (["shell", "--background", "--mount", "/srv:/a", "--mount", "/srv:/a/b"], "nested mount paths"),
    "no such workspace": (["shell", "--background", "/srv/nowhere"], "does not exist"),
    "an unknown profile": (["shell", "--background", "--profile", "x"], "profile 'x' not found"),
    "nothing to resume": (["shell", "--background", "--resume"], "no previous session to resume"),
    "an unknown session": (["shell", "--background", "--resume=abc"], "session 'abc' not found"),
}


@pytest.mark.parametrize(("words", "reason"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_cannot_be_started_says_why_and_leaves_nothing(bed, cli, words, reason):
    done = cli.run(*words)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("Error: ")]
    assert reason in line
    assert bed.names() == []


def test_a_container_that_cannot_start_says_why(bed, cli):
    done = cli.run("run", "-q", "--mount", f"{cli.workspace.parent}:/etc/passwd/x", "true")
    assert done.returncode == 1
    assert b"the container did not start: " in done.stderr
    assert b"/etc/passwd/x" in done.stderr
    assert bed.names() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(bed, cli, how):
    terminal = cli.start("shell")
    terminal.expect("[setup] Creating container")
    os.kill(terminal.pid, how)
    assert terminal.end() == -how
    assert bed.names() == []


def test_without_tmux_the_shell_ends_with_the_tool(bed, cli):
    terminal = cli.start("shell", "--tmux=false")
    terminal.expect("Mode:        Direct (no tmux)")
    terminal.expect("STUB-READY claude")
    terminal.type("exit 7\r")
    terminal.expect("Container removed")
    assert terminal.end() == 1


def test_the_dashboard_goes_on_with_what_the_shell_began_and_the_other_way_round(bed, cli, start_server):
    clincus_server = start_server(config=NO_CHECKPOINTS)
    entry = cli.background()
    ready(bed, entry["name"])
    say_to(cli, bed, entry["name"], "from the shell")
    cli.ok("stop", entry["name"])
    wait_until(
        lambda: clincus_server.get(f"/api/sessions/{entry['name']}").json.get("status") == "stopped", "the server"
    )
    assert clincus_server.post(f"/api/sessions/{entry['name']}/resume").status == 200
    bed.await_screen(entry["name"], "earlier: from the shell")
    say_to(cli, bed, entry["name"], "from the dashboard")
    assert clincus_server.delete(f"/api/sessions/{entry['name']}?force=true").status == 204
    terminal = cli.start("shell", f"--resume={entry['session_id']}")
    terminal.expect("earlier: from the dashboard")
    terminal.detach()
    assert terminal.end() == 0


class TestStartedAgain:
    """A session that was stopped, and was started again by `clincus shell --resume` in the container that it had."""

    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, bed, shared_cli):
        flags = ("-e", 'QUOTED=it\'s "1,2" $HOME', "--limit-memory", "512MiB", "--mount", "extra:/extra:ro")
        entry = shared_cli.keep(*flags)
        (shared_cli.workspace / "extra").mkdir(exist_ok=True)
        ready(bed, entry["name"])
        cls.expect_variable(bed, shared_cli, entry["name"])
        shared_cli.ok("stop", entry["name"])
        terminal = shared_cli.start("shell", "--resume", entry["session_id"])
        terminal.expect(f"Resuming session: {entry['session_id']}")
        terminal.expect("STUB-READY claude")
        terminal.detach()
        assert terminal.end() == 0
        return entry

    @staticmethod
    def expect_variable(bed, cli, name):
        cli.ok("tmux", "send", name, "env QUOTED")
        bed.await_screen(name, 'QUOTED=[it\'s "1,2" $HOME]')

    def test_it_is_in_the_container_that_it_had(self, shared_cli, entry):
        assert [one["name"] for one in shared_cli.listed()] == [entry["name"]]

    def test_variables_reach_the_tool_whole_again(self, bed, shared_cli, entry):
        self.expect_variable(bed, shared_cli, entry["name"])

    def test_limits_and_mounts_of_the_first_start_hold(self, bed, entry):
        config = bed.incus.query(f"/1.0/instances/{entry['name']}")["config"]
        assert config["limits.memory"] == "512MiB"
        assert "ro" in bed.shell(entry["name"], "grep ' /extra ' /proc/mounts").split()[3].split(",")


class TestDebug:
    """A session with bash in the tool's place."""

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls, bed, shared_cli):
        name = shared_cli.keep("--debug")["name"]
        bed.await_screen(name, "$")
        return name

    def test_bash_is_in_the_tools_place(self, shared_cli, name):
        terminal = shared_cli.start("shell")
        terminal.expect("$")
        terminal.type("echo $((40 + 2))$0\r")
        terminal.expect("42bash")
        terminal.detach()
        assert terminal.end() == 0

    def test_a_line_may_be_long_or_empty(self, bed, shared_cli, name):
        shared_cli.ok("tmux", "send", name, f"echo {'x' * 20_000} | wc -c; head -n 1 | cat -A")
        bed.await_screen(name, "20001")
        shared_cli.ok("tmux", "send", name, "")
        wait_until(lambda: "\n$\n" in bed.screen(name), "the empty line")


# ---- attach, list, info -----------------------------------------------------------------------------------------


def test_attach_without_sessions_says_so(bed, cli):
    assert cli.ok("attach") == "No active sessions\n"


def test_list_without_sessions_is_an_empty_list(bed, cli):
    assert json.loads(cli.ok("list", "--all", "--format", "json")) == {"active_containers": []}
    assert len(cli.ok("list").splitlines()) == 1  # the head


class TestOneRunningSession:
    """What a session that runs shows, and takes."""

    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, bed, shared_cli):
        entry = shared_cli.keep()
        ready(bed, entry["name"])
        return entry

    def test_shell_goes_back_to_the_running_session_of_its_workspace(self, bed, shared_cli, entry):
        say_to(shared_cli, bed, entry["name"], "where was I")
        terminal = shared_cli.start("shell", str(shared_cli.workspace), cwd=Path("/"))
        terminal.expect("echo: where was I")
        terminal.detach()
        assert terminal.end() == 0
        assert [one["name"] for one in shared_cli.listed()] == [entry["name"]]

    def test_a_terminated_shell_leaves_no_child_and_keeps_the_session(self, shared_cli, entry):
        terminal = shared_cli.start("shell")
        terminal.expect("STUB-READY claude")
        terminal.type("here I am\r")
        terminal.expect("echo: here I am")
        children = cli_relay.children_of(terminal.pid)
        assert children
        os.kill(terminal.pid, signal.SIGTERM)
        terminal.expect("Container kept running")
        assert terminal.end() == -signal.SIGTERM
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the end of the children")
        assert [one["status"] for one in shared_cli.listed()] == ["Running"]

    def test_attach_goes_to_the_only_session(self, shared_cli, entry):
        terminal = shared_cli.start("attach")
        terminal.expect(f"Attaching to {entry['name']}...")
        terminal.expect("STUB-READY claude")
        terminal.type("here I am again\r")
        terminal.expect("echo: here I am again")
        terminal.detach()
        assert terminal.end() == 0

    def test_attach_with_bash_gives_a_shell_beside_the_tool(self, shared_cli, entry):
        terminal = shared_cli.start("attach", "--bash")
        terminal.expect("$")
        terminal.type("pwd; exit 5\r")
        terminal.expect("/workspace")
        assert terminal.end() == 5

    def test_list_asks_incus_once(self, shared_cli, entry, tmp_path):
        calls = tmp_path / "calls"
        wrapper = tmp_path / "bin" / "incus"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\necho "$*" >>{calls}\nexec {shutil.which("incus")} "$@"\n')
        wrapper.chmod(0o755)
        shared_cli.ok("list", "--all", environ={"PATH": f"{wrapper.parent}:{os.environ['PATH']}"})
        assert len(calls.read_text().splitlines()) == 1

    def test_list_shows_a_session_as_text_and_as_json(self, shared_cli, entry):
        sessions, _, saved = shared_cli.ok("list", "--all").partition("\n\n")
        head, *rows = [line.split() for line in sessions.splitlines()]
        assert head == ["NAME", "STATE", "AGENT", "TOOL", "WORKSPACE", "AGE"]
        (row,) = [words for words in rows if words[0] == entry["name"]]
        assert (row[1], row[-2]) == ("running", str(shared_cli.workspace))
        assert entry["session_id"] in [line.split()[0] for line in saved.splitlines()]
        document = json.loads(shared_cli.ok("list", "--all", "--format=json"))
        (saved,) = document["saved_sessions"]
        assert (saved["ID"], saved["Workspace"]) == (entry["session_id"], str(shared_cli.workspace))
        assert {"name", "status", "created_at", "image", "persistent", "ipv4", "workspace"} <= entry.keys()

    def test_resume_lets_paused_sessions_run_on(self, bed, shared_cli, entry):
        bed.incus.run("pause", entry["name"])
        done = shared_cli.run("resume")
        assert done.stderr.decode().splitlines()[-2:] == [
            f"Resumed container: {entry['name']}", "Resumed 1 container(s)"
        ]  # fmt: skip
        assert bed.state(entry["name"]) == "Running"
        assert b"No frozen clincus containers found" in shared_cli.run("resume").stderr

    def test_a_line_is_typed_as_it_is(self, shared_cli, entry):
        name, line = entry["name"], "cost $5 `now` \\ -x; 'ü'"
        assert shared_cli.ok("tmux", "send", name, line) == f"Sent command to session clincus-{name}\n"
        wait_until(lambda: f"echo: {line}" in shared_cli.ok("tmux", "capture", name), "the line")
        assert f"  - {name} (tmux session: clincus-{name})" in shared_cli.ok("tmux", "list")


@pytest.mark.day
class TestOneStoppedSession:
    """What a session that was started with a name, and is stopped, shows, and takes."""

    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, bed, shared_cli):
        entry = shared_cli.keep("--name", "login page")
        ready(bed, entry["name"])
        say_to(shared_cli, bed, entry["name"], "something to keep")
        shared_cli.ok("stop", entry["name"])
        return entry

    def test_it_has_the_name_that_it_is_given(self, shared_cli, entry):
        assert entry["display_name"] == "login page"
        assert shared_cli.ok("rename", entry["name"], "sign-in") == f"{entry['name']}: sign-in\n"
        assert "(sign-in)" in shared_cli.ok("list")
        assert b"control character" in shared_cli.run("rename", entry["name"], "\a").stderr

    def test_info_shows_what_is_saved_of_it_by_id_and_by_container(self, shared_cli, entry):
        for words in (["info"], ["info", entry["session_id"]], ["info", entry["name"]]):
            text = shared_cli.ok(*words)
            assert re.search(r"Session Data: +✓ Present", text)
            assert f"clincus shell --resume={entry['session_id']}" in text

    def test_attach_tells_its_true_state(self, shared_cli, entry):
        done = shared_cli.run("attach", entry["name"])
        assert done.returncode == 1
        assert f'session "{entry["name"]}" is stopped: clincus resume' in done.stderr.decode()

    def test_a_line_for_it_is_refused(self, shared_cli, entry):
        done = shared_cli.run("tmux", "send", entry["name"], "hello")
        assert done.returncode == 1
        assert b"not running" in done.stderr

    def test_persist_sets_label_and_metadata(self, shared_cli, entry):
        assert f"✓ Persisted {entry['name']}" in shared_cli.ok("persist", entry["name"])
        assert shared_cli.listed()[0]["persistent"] is True
        folder = Path(shared_cli.environ["HOME"]) / ".clincus" / "sessions-claude" / entry["session_id"]
        assert json.loads((folder / "metadata.json").read_text())["persistent"] is True


class TestTwoSessions:
    """What has to say which session of a workspace is meant."""

    @pytest.fixture(scope="class")
    @classmethod
    def names(cls, bed, shared_cli):
        names = [shared_cli.keep()["name"], shared_cli.keep("--slot", "3", "--tool", "copilot")["name"]]
        ready(bed, names[1], "copilot")
        return names

    def test_shell_asks_which(self, shared_cli, names):
        terminal = shared_cli.start("shell")
        terminal.expect("several sessions of this workspace are running: choose one with --slot 1 (claude), --slot 3")
        assert terminal.end() == 1
        terminal = shared_cli.start("shell", "--tool", "copilot")
        terminal.expect("STUB-READY copilot")
        terminal.detach()
        assert terminal.end() == 0

    def test_attach_lists_them(self, shared_cli, names):
        text = shared_cli.ok("attach")
        assert text.startswith("Active sessions:\n")
        assert re.findall(r"\d\. +(\S+)", text) == names

    def test_a_named_slot_is_never_exchanged_for_another(self, bed, shared_cli, names):
        done = shared_cli.run("shell", "--background", "--slot", "3", "--tool", "claude")
        assert done.returncode == 1
        assert b"slot 3 holds a session of copilot" in done.stderr
        assert bed.names() == sorted(names)

    def test_run_refuses_a_slot_that_is_in_use(self, bed, shared_cli, names):
        done = shared_cli.run("run", "--slot", "3", "true")
        assert done.returncode == 1
        assert b"slot 3 of this workspace is in use" in done.stderr
        assert bed.state(names[1]) == "Running"

    def test_they_are_not_killed_without_a_question(self, bed, shared_cli, names):
        done = shared_cli.run("kill", *names)
        assert done.returncode == 1
        assert done.stdout.decode() == f"Found 2 container(s):\n  - {names[0]}\n  - {names[1]}\n"
        assert b"give --yes" in done.stderr
        terminal = shared_cli.start("kill", "--all")
        terminal.expect("Kill 2 container(s)? [y/N]: ")
        terminal.type("\r")
        terminal.expect("Cancelled.")
        assert terminal.end() == 1
        assert bed.names() == sorted(names)


CALL_ITSELF_READY = r"""
use IO::Socket::UNIX;
my $server = IO::Socket::UNIX->new(Peer => "/dev/incus/sock") or die "$!";
print $server "PATCH /1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 17\r\n\r\n{\"state\":\"Ready\"}";
exit(<$server> =~ / 200 / ? 0 : 1);
"""


def test_a_guest_that_calls_itself_ready_runs_and_can_be_stopped(bed, cli):
    name = cli.labelled(1, start=True)
    assert bed.incus.exec(name, ["perl", "-e", CALL_ITSELF_READY]).code == 0
    assert bed.state(name) == "Ready"
    assert cli.listed()[0]["status"] == "Running"
    cli.ok("container", "running", name)
    cli.ok("stop", name)
    assert bed.state(name) == "Stopped"


# ---- stop, resume, kill, shutdown, persist, clean ---------------------------------------------------------------


@pytest.mark.day
def test_kill_saves_the_conversation_and_deletes(bed, cli):
    entry = cli.background()
    ready(bed, entry["name"])
    say_to(cli, bed, entry["name"], "before the end")
    assert cli.ok("kill", entry["name"]).splitlines() == [
        f"Killing container {entry['name']}...", f"✓ Killed {entry['name']}", "Killed 1 container(s)"
    ]  # fmt: skip
    assert bed.names() == []
    assert "✓ Present" in cli.ok("info", entry["session_id"])


def test_kill_touches_only_sessions(bed, cli):
    bed.incus.run("init", "clincus", "clincus-other")
    done = cli.run("kill", "clincus-other", "clincus-000000-1", "--force")
    assert done.returncode == 1
    assert b"Warning: Container clincus-other does not exist" in done.stderr
    assert bed.names() == ["clincus-other"]


def test_what_could_not_be_killed_is_counted(bed, cli):
    names = [cli.labelled(slot) for slot in (1, 2)]
    done = cli.run("kill", *names, "clincus-000000-1", "--force")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "Warning: Container clincus-000000-1 does not exist as a session; `clincus list` shows those that do",
        "Error: only 2 of 3 containers were killed",
    ]  # fmt: skip
    assert bed.names() == []


def test_all_are_killed_when_the_answer_is_yes(bed, cli):
    for slot in (1, 2):
        cli.labelled(slot)
    terminal = cli.start("kill", "--all")
    terminal.expect("[y/N]: ")
    terminal.type("yes\r")
    assert terminal.end() == 0
    assert bed.names() == []


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


def test_only_what_is_there_is_asked_about(bed, cli):
    assert b"no containers were shut down" in cli.run("shutdown", "clincus-000000-1").stderr
    done = cli.run("kill", "clincus-000000-1", "clincus-000000-2")
    assert done.returncode == 1
    assert (done.stdout, done.stderr.count(b"does not exist")) == (b"", 2)


def test_kill_keeps_what_the_container_does_not_hand_over_unless_forced(bed, cli):
    name = cli.background()["name"]
    cli.ok("container", "exec", name, "--", "sh", "-c", "rm $(command -v find)")
    done = cli.run("kill", name)
    assert done.returncode == 1
    assert b"holds a conversation that is not saved" in done.stderr
    assert b"no containers were killed: --force copies what would be lost" in done.stderr
    assert cli.run("container", "delete", name).returncode == 1
    assert bed.names() == [name]
    assert "Killed" in cli.ok("kill", "--force", name)
    assert bed.names() == []


def test_a_name_is_needed(bed, cli):
    done = cli.run("kill")
    assert done.returncode == 1
    assert b"no container names provided, and " in done.stderr
    assert cli.ok("kill", "--all") == "No containers to kill\n"


def test_shutdown_deletes_what_is_not_persistent(bed, cli):
    gone, kept = cli.background()["name"], cli.labelled(2, persistent="true")
    text = cli.ok("shutdown", "--timeout", "20", gone, kept, "--force")
    assert f"Shutting down container {gone} (timeout: 20s)...\nAttempting graceful shutdown..." in text
    assert bed.names() == [kept]


def test_clean_removes_stopped_ephemeral_containers_after_saving(bed, cli):
    stopped = cli.background()
    running, kept = cli.labelled(2, start=True), cli.labelled(3, persistent="true")
    ready(bed, stopped["name"])
    say_to(cli, bed, stopped["name"], "do not lose me")
    bed.stop(stopped["name"])
    assert "[Dry run] No changes made." in cli.ok("clean", "--dry-run")
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--force")
    assert bed.names() == sorted([running, kept])
    assert "✓ Present" in cli.ok("info", stopped["session_id"])
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--sessions", "--force")
    assert cli.run("info", stopped["session_id"]).returncode == 1
    assert "Nothing to clean." in cli.ok("clean", "--force")


def test_clean_orphans_removes_only_containers_whose_workspace_is_gone(bed, cli):
    cli.labelled(1, workspace=str(cli.workspace / "gone"))
    other = cli.labelled(2)
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--orphans", "--force")
    assert bed.names() == [other]


# ---- the Go program's containers --------------------------------------------------------------------------------


def test_a_stopped_container_of_the_go_program_is_listed_and_resumed(bed, cli):
    name = cli.labelled(1, persistent="true", created="2026-01-02T03:04:05Z")
    (entry,) = cli.listed()
    assert (entry["name"], entry["persistent"], entry["created_at"]) == (name, True, "2026-01-02 03:04:05")
    terminal = cli.start("shell", "--persistent")
    terminal.expect("STUB-READY claude")
    terminal.detach()
    assert terminal.end() == 0
    assert re.fullmatch(r"[0-9a-f-]{36}", cli.listed()[0]["session_id"])


# ---- run --------------------------------------------------------------------------------------------------------


@pytest.mark.day
def test_run_passes_all_three_streams_and_the_exit_code_on(bed, cli):
    done = cli.run("run", "--quiet", "cat; echo problem >&2; printf '  end'; exit 3", stdin=b"one\ntwo \n")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"one\ntwo \n  end", b"problem\n")
    assert bed.names() == []


def test_run_tells_what_it_does_on_stderr(bed, cli):
    done = cli.run("run", "exit 4")
    words = done.stderr.decode()
    for expected in ("Auto-allocated slot 1", "Launching container ", " from image clincus", "Executing: 'exit 4'"):
        assert expected in words
    assert words.endswith("Command exited with code 4\n")


def test_run_hands_several_words_on_as_they_are(bed, cli):
    assert cli.ok("run", "-q", "printf", "%s|", "a b", "$HOME", "-x", "--slot", "4") == "a b|$HOME|-x|"


def test_run_works_in_the_workspace_as_the_code_user(bed, cli):
    text = cli.ok(
        "run", "-q", "-e", "A=it's", "--limit-memory", "300MiB", 'id -u; pwd; echo "$HOME $USER $A"; touch made'
    )
    assert text == "1000\n/workspace\n/home/code code it's\n"
    assert (cli.workspace / "made").exists()


def test_run_gives_json(bed, cli):
    done = cli.run("run", "-q", "--format", "json", "echo out; echo err >&2; exit 3")
    assert json.loads(done.stdout) == {"exit_code": 3, "stderr": "err\n", "stdout": "out\n"}


def test_a_command_over_its_time_is_killed(bed, cli):
    done = cli.run("run", "--timeout", "1", "sleep 1000")
    assert done.returncode == 124
    assert bed.names() == []


def test_an_interrupted_run_removes_its_container(bed, cli):
    process = subprocess.Popen(
        [*program(), "run", "echo begun; sleep 1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=cli.environ, cwd=cli.workspace, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert cli.listed() == [], "a command is no session"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGINT
    assert bed.names() == []


@pytest.mark.parametrize("count", [8])
def test_runs_at_once_in_one_workspace_get_a_slot_each(bed, cli, count):
    with ThreadPoolExecutor(4) as workers:
        ends = [*workers.map(lambda _: cli.run("run", "-q", "echo done"), range(count))]
    assert [(end.stdout, end.stderr) for end in ends] == [(b"done\n", b"")] * count
    assert bed.names() == []


class TestAPersistentRun:
    """The second of two commands with one slot and a container that is kept."""

    @pytest.fixture(scope="class")
    @classmethod
    def second(cls, bed, shared_cli):
        words = ("run", "--persistent", "--slot", "4")
        first = shared_cli.run(*words, "-e", "A=1", "touch ~/kept; echo A=$A B=$B")
        assert first.stdout == b"A=1 B=\n"
        (name,) = bed.names()
        shared_cli.kept.enter_context(bed.keeping(name))
        assert bed.state(name) == "Stopped"
        return shared_cli.run(*words, "-e", "B=2", "ls ~; echo A=$A B=$B")

    def test_it_has_the_container_of_the_first(self, second):
        assert b"Restarting existing persistent container" in second.stderr
        assert second.stderr.endswith(b"Command completed successfully\n")
        assert b"kept\n" in second.stdout

    def test_it_has_its_own_variables_and_no_earlier_ones(self, second):
        assert second.stdout.endswith(b"\nA= B=2\n")


def test_a_run_with_a_list_of_names_reaches_these_only_and_needs_no_server(bed, cli, home):
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


def test_clean_finds_what_a_killed_run_left(bed, cli):
    process = subprocess.Popen(
        [*program(), "run", "echo begun; sleep 1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=cli.environ, cwd=cli.workspace, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    assert "Nothing to clean." in cli.ok("clean", "--force"), "it is at work"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--force")
    assert bed.names() == []


# ---- containers of ours that are no sessions --------------------------------------------------------------------


@pytest.fixture(params=["launched by clincus", "left by the Go program"])
def bare(bed, cli, request) -> str:
    """A running container with a name of ours and no workspace."""
    name = clincus.session_name("clincus-", str(cli.workspace), 7)
    if request.param == "launched by clincus":
        cli.ok("container", "launch", "clincus", name)
        assert bed.incus.query(f"/1.0/instances/{name}")["config"]["user.clincus.managed"] == "true"
    else:
        bed.incus.run("launch", "--quiet", "clincus", name)
    return name


def test_a_container_with_a_name_of_ours_is_listed_used_and_killed(bed, cli, bare, clincus_server):
    (entry,) = cli.listed()
    assert (entry["name"], entry["slot"], entry["status"], "workspace" in entry) == (bare, 7, "Running", False)
    assert clincus_server.get("/api/sessions").json == []
    assert clincus_server.get(f"/api/sessions/{bare}").status == 404
    terminal = cli.start("attach", bare)
    terminal.expect("$ ")
    cli.ok("tmux", "send", bare, "echo typed-$((40 + 2))")
    wait_until(lambda: "typed-42" in cli.ok("tmux", "capture", bare), "the line")
    terminal.detach()
    assert terminal.end() == 0
    assert "✓ Persisted" in cli.ok("persist", bare)
    assert f"✓ Killed {bare}" in cli.ok("kill", "--force", bare)
    assert bed.names() == []


def test_a_container_with_a_name_of_ours_is_stopped_resumed_and_cleaned(bed, cli, bare):
    assert "is stopped and kept" in cli.ok("shutdown", bare)
    assert bed.state(bare) == "Stopped"
    cli.ok("clean", "--force")
    cli.ok("clean", "--orphans", "--force")
    assert bed.state(bare) == "Stopped", "nobody called it ephemeral"
    cli.ok("resume", bare)
    assert bed.state(bare) == "Running"
    cli.ok("stop", bare)
    assert "✓ Cleaned 1 item(s)" in cli.ok("clean", "--all", "--force")
    assert bed.names() == []


# ---- tmux, trust ------------------------------------------------------------------------------------------------


def test_a_terminal_in_the_tmux_of_root_is_listed_typed_into_and_read(bed, cli):
    name = clincus.session_name("clincus-", str(cli.workspace), 7)
    bed.incus.run("launch", "--quiet", "clincus", name)
    assert cli.ok("tmux", "list") == "Active sessions:\n"
    bed.shell(name, f"tmux new-session -d -s clincus-{name} sh")
    assert f"  - {name} (tmux session: clincus-{name})" in cli.ok("tmux", "list")
    cli.ok("tmux", "send", name, "echo typed-$((40 + 2))")
    wait_until(lambda: "typed-42" in cli.ok("tmux", "capture", name), "the line")


def test_a_project_sets_everything_only_while_its_file_is_trusted(bed, cli):
    (cli.workspace / ".clincus.toml").write_text('[[mounts.default]]\nhost = "/srv"\ncontainer = "/srv2"\n')
    look = ("run", "-q", "ls -d /srv2 || true")
    assert cli.ok(*look) == ""
    assert "mounts.default is left out" in cli.ok("trust", "--force")
    assert cli.ok(*look) == "/srv2\n"
    assert "is trusted" in cli.ok("trust")
    assert "taken back" in cli.ok("trust", "--revoke")
