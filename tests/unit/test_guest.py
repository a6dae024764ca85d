"""The programs of guest/, run by this machine's own shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import clincus
from tests.programs import wait_until
from tests.table import table

TMUX_CONFIG = Path(clincus.__file__).parent / "guest/tmux.conf"
FILES = 'find "$HOME" -type f -name saved'  # finds the conversation to go on with


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A code user's home as a start leaves it, with a tool that says which of its command lines ran."""
    launch = {"workspace": f"{tmp_path}/work space", "tool": "some'tool", "files": FILES, "message": ""}
    first = "printf 'first %s\\n' \"it's\""
    launch.update(first=first, again="printf 'again\\n'", afresh=first)
    (tmp_path / "work space").mkdir()
    (tmp_path / ".clincus").mkdir()
    for file in clincus.start_files(launch, {"KIND": "general", "PLACE": "a b"}, {"KIND": "my own"}):
        (tmp_path / file.path).write_bytes(file.data)
        (tmp_path / file.path).chmod(file.mode)
    return tmp_path


def run(home: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "SHELL": "/bin/sh"}
    return subprocess.run(words, input=stdin, env=environ, capture_output=True, text=True, timeout=60, check=False)


def start(home: Path, *words: str, stdin: str = "") -> str:
    return run(home, str(home / clincus.STARTED_FILE), *words, stdin=stdin).stdout


def program(home: Path, name: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run(home, "sh", "-c", clincus.guest_program(name), "clincus", *words, stdin=stdin)


@table(
    ("here", "environment", "chosen", "seen"),
    [
        ({}, {}, {}, "http://a'b@outer"),
        ({"http_proxy": "http://list"}, {}, {}, "http://list"),
        ({}, {}, {"http_proxy": "http://mine"}, "http://mine"),
    ],
)
def test_what_a_host_gives_by_itself_counts_where_nobody_else_says(tmp_path, here, environment, chosen, seen):
    (tmp_path / ".clincus").mkdir()
    for file in clincus.start_files({}, environment, chosen, {"http_proxy": "http://a'b@outer"}):
        (tmp_path / file.path).write_bytes(file.data)
    script = 'set -a; . "$HOME/.clincus/environment"; set +a; printenv http_proxy'
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **here}
    done = subprocess.run(["sh", "-eu", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"{seen}\n"


def test_the_tool_goes_on_with_its_conversation_when_it_is_started_again(home):
    assert start(home, "direct") == "first it's\n"
    assert start(home, "direct") == "first it's\n"
    (home / "saved").write_text("a conversation")
    assert start(home, "direct") == "again\n"


@pytest.fixture
def claude_files(home) -> Path:
    """The folder of Claude Code's conversations, of which the next start looks for the one named `talk`."""
    claude, projects = clincus.TOOLS["claude"], home / ".claude/projects/-workspace"
    projects.mkdir(parents=True)
    (home / clincus.STARTED_FILE).with_name("started").touch()
    with (home / ".clincus/launch").open("a") as launch:
        words = {"files": clincus.conversation_files(claude, "talk"), "message": claude.message}
        launch.write(clincus.shell_assignments(words))
    return projects


def test_a_conversation_without_a_message_makes_room_for_a_new_one_and_is_kept(home, claude_files):
    """Claude Code leaves such a file when it ends before the first prompt. A later version may write another form."""
    (claude_files / "talk.jsonl").write_text('{"type":"mode"}\n')
    (claude_files / "other.jsonl").write_text("of another session\n")
    assert start(home, "direct") == "first it's\n"
    [aside] = claude_files.glob("talk*")
    assert aside.name.startswith("talk.jsonl.aside-")
    assert aside.read_text() == '{"type":"mode"}\n'
    assert (claude_files / "other.jsonl").exists()
    (claude_files / "talk.jsonl").write_text('{"type":"mode"}\n{"parentUuid":null,"type":"user"}\n')
    assert start(home, "direct") == "again\n"
    assert (claude_files / "talk.jsonl").exists()


def test_a_shell_in_the_workspace_follows_the_tool_and_has_its_variables(home):
    assert start(home, stdin="pwd; echo $KIND, $PLACE").splitlines() == [
        "first it's",
        "",
        "some'tool has ended (exit code 0). This is a shell in its container.",
        f"{home}/work space",
        "my own, a b",
    ]


def test_another_pane_is_neither_looked_at_nor_typed_into(home):
    """A person opens one by tmux's keys, and a tool may show a sub-agent in one."""
    (home / "bin").mkdir()
    (home / "bin/tmux").write_text(f'#!/bin/sh\nexec {shutil.which("tmux")} -S "$HOME/socket" "$@"\n')
    (home / "bin/tmux").chmod(0o755)
    with (home / ".clincus/launch").open("a") as launch:
        launch.write(clincus.shell_assignments({"afresh": "stty -echo; echo TOOL; read -r line; echo GOT $line; cat"}))

    def sh(script: str, stdin: str = "") -> str:
        environ = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}", "SHELL": "/bin/sh"}
        argv = ["sh", "-c", script, "clincus", "clincus-x", "MARK", "0", "0", "", ""]
        return subprocess.run(
            argv, env=environ, input=stdin, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    sh(f"tmux -f {TMUX_CONFIG} new-session -d -x 80 -y 24 -s clincus-x {home / clincus.STARTED_FILE}")
    try:
        wait_until(lambda: "TOOL" in sh("tmux capture-pane -p -t =clincus-x:"), "the tool")
        sh("tmux split-window -t =clincus-x: 'echo OTHER; cat'")
        wait_until(lambda: "OTHER" in sh("tmux capture-pane -p -t =clincus-x:"), "the other one")
        look = clincus.guest_program("look")
        assert "\nTOOL\n" in sh(look)
        typed = sh(f"{look}\n{clincus.guest_program('type')}", stdin="paste 5\nhellokeys Enter\nlook 0\n")
        assert "OTHER" not in typed
        wait_until(lambda: "GOT hello" in sh(look), "the line in the tool")
    finally:
        sh("tmux kill-server")


def test_a_tool_that_the_image_lacks_is_named_with_what_to_do(home):
    text = (home / ".clincus/launch").read_text()
    (home / ".clincus/launch").write_text(text + "program=no-such-tool\nafresh=no-such-tool\n")
    assert "This image has no program no-such-tool, which starts some'tool." in start(home)
    (home / ".clincus/launch").write_text(text + "afresh='(exit 7)'\n")
    assert run(home, str(home / clincus.STARTED_FILE), "direct").returncode == 7, "without tmux it is the tool's"


@table(
    ("alert", "script"),
    [("bell", "exit 1"), ("activity", "echo something")],
)
def test_a_ring_that_goes_wrong_leaves_the_keys_to_the_tool(tmp_path, alert, script):
    """tmux shows what a `run-shell` prints, or that it failed, in a view over the pane that swallows each key."""
    ring = tmp_path / ".clincus/ring"
    ring.parent.mkdir()
    ring.write_text(f'#!/bin/sh\ntouch "$0.ran"\n{script}\n')
    ring.chmod(0o755)

    def tmux(*words: str) -> str:
        done = run(tmp_path, "tmux", "-S", f"{tmp_path}/socket", "-f", str(TMUX_CONFIG), *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tmux("new-session", "-d", "-s", "clincus-x", "cat")
    try:
        if alert == "activity":
            tmux("set-option", "-w", "-t", "=clincus-x:", "monitor-activity", "on")
        tmux("send-keys", "-t", "=clincus-x:", "C-v", "C-g", "Enter")  # what `cat` prints then rings the bell
        wait_until(Path(f"{ring}.ran").exists, "the ring")
        server, pane = tmux("display-message", "-p", "-t", "=clincus-x:", "#{pid} #{pane_pid}").split()
        children = Path(f"/proc/{server}/task/{server}/children")
        wait_until(lambda: children.read_text().split() == [pane], "the end of the ring")
        assert tmux("display-message", "-p", "-t", "=clincus-x:", "[#{pane_mode}]") == "[]\n"
    finally:
        tmux("kill-server")
