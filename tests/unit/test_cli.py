"""The command line without Incus: what is read from the words, and what is said to a person."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import clincus
import clincus_cli
from clincus_cli import agents as cli_agents
from clincus_cli import all_commands
from clincus_cli import commands as cli_commands
from clincus_cli import console as cli_console
from clincus_cli import containers as cli_containers
from clincus_cli import context as cli_context
from clincus_cli import files as cli_files
from clincus_cli import help as cli_help
from clincus_cli import logins as cli_logins
from clincus_cli import relay as cli_relay
from clincus_cli import run as cli_run
from clincus_cli import sessions as cli_sessions
from clincus_cli import shell as cli_shell
from clincus_cli import transfer as cli_transfer
from clincus_cli.run import process_mark
from tests.builders import a_session
from tests.programs import DEADLINE, wait_until
from tests.table import table

PROGRAM = Path(clincus.__file__).with_name("clincus_cli")
NEVER = {"PATH": "/nowhere", "HOME": "/nowhere", "CLINCUS_CONFIG": "/nowhere"}  # no Incus, no home, a broken config
ID = "5b0c7d1e-8a34-4f6b-9d21-0c9e6f1a2b3c"


all_commands.load_commands()


def parse_command_line(words):
    """The command that the words name, and its options."""
    command, rest = cli_commands.find_command(words)
    return command, cli_commands.parse_words(command, rest)


def run(*words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program where there is neither Incus nor a config that could be read."""
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL, env={**NEVER, **(environ or {})}, cwd="/",
    )  # fmt: skip


# ---- words -------------------------------------------------------------------------------------------------------

COMMANDS = {
    "nothing": ([], "shell", {}),
    "only flags of shell": (["--tool", "copilot", "--background"], "shell", {"tool": "copilot", "background": True}),
    "a positional workspace": (["shell", "/srv/app"], "shell", {"directory": "/srv/app"}),
    "flags in front of the command": (["-w", "/srv", "--slot", "2", "list"], "list", {"workspace": "/srv", "slot": 2}),
    "flags behind the arguments": (["kill", "a", "--force", "b"], "kill", {"name": ["a", "b"], "force": True}),
    "flags inside a group": (["tmux", "--slot=3", "list"], "tmux list", {"slot": 3}),
    "flags of the command in front of it": (["--port", "4000", "serve"], "serve", {"port": 4000}),
    "--json": (["list", "--json"], "list", {"json": True}),
    "--json of a command of the command": (
        ["container", "exec", "a", "gh", "--json"], "container exec", {"command": ["gh", "--json"], "format": None}
    ),
    "joined values": (["list", "--format=json"], "list", {"format": "json"}),
    "a short flag with its value": (["list", "-w/srv"], "list", {"workspace": "/srv"}),
    "short flags in one word": (
        ["snapshot", "restore", "s", "-fc", "box"], "snapshot restore", {"force": True, "container": "box"}
    ),
    "a switch that is off": (["shell", "--persistent=false"], "shell", {"persistent": False}),
    "a switch that is not given": (["shell"], "shell", {"persistent": None, "tmux": True}),
    "a bare resume": (["--resume"], "shell", {"resume": "auto", "directory": ""}),
    "resume with an id": (["--resume", ID], "shell", {"resume": ID}),
    "resume with a joined id": (["shell", f"--resume={ID}"], "shell", {"resume": ID}),
    "resume and a workspace": (["shell", "--resume", "app"], "shell", {"resume": "auto", "directory": "app"}),
    "resume and a folder called like an id": (
        ["shell", "--resume", "./my-session"], "shell", {"resume": "auto", "directory": "./my-session"}
    ),
    "resume with an old id": (["shell", "--resume", "clincus-ec0578f9-1-session"], "shell", {"directory": ""}),
    "resume in front of a command": (["--resume", "list"], "list", {"resume": "auto"}),
    "repeated flags": (["shell", "-e", "A=1,2", "--env", "B"], "shell", {"env": ("A=1,2", "B")}),
    "words behind --": (["tmux", "send", "c", "--", "--help"], "tmux send", {"text": "--help"}),
    "delete as kill": (["delete", "a"], "kill", {"name": ["a"]}),
    "rm as kill": (["rm", "a"], "kill", {"name": ["a"]}),
    "ls as list": (["ls", "-q"], "list", {"quiet": True}),
    "ps as list": (["ps"], "list", {"quiet": False}),
    "start as resume": (["start", "a"], "resume", {"name": "a"}),
    "logs as log": (["logs", "a"], "log", {"name": "a"}),
    "exec as container exec": (["exec", "a", "ls", "-l"], "container exec", {"name": "a", "command": ["ls", "-l"]}),
    "a group alone": (["snapshot"], "help", {"command": ["snapshot"]}),
    "a command of the command": (["run", "ls", "-l", "--slot", "2"], "run", {"command": ["ls", "-l"], "slot": 2}),
    "a command behind --": (["run", "--", "ls", "--slot", "2"], "run", {"command": ["ls", "--slot", "2"], "slot": 0}),
}  # fmt: skip


# A server, a terminal, and pages of help. `run` and `container exec` have --format json: after the words of another
# program, --json is that program's.
NO_JSON = {"serve", "attach", "help", "man", "completion"}


def test_each_command_prints_its_result_as_json():
    known = [one for one in cli_commands.COMMANDS.values() if not (one.hidden or one.passes_on)]
    assert {one.name for one in known if "--json" not in one.all_flags} == NO_JSON


LOGIN = {"name": "github", "state": "good", "sessions": ["clincus-a1b2c3-1", "clincus-a1b2c3-2"]}


@table(
    ("words", "said"),
    [
        (
            "login revoke",
            "revoked until `clincus login allow github`; no longer lent to clincus-a1b2c3-1, clincus-a1b2c3-2",
        ),
        ("login allow", "allowed; sessions that name it may use it again"),
    ],
)
def test_a_login_that_is_taken_back_or_lent_again_is_told(monkeypatch, capsys, words, said):
    monkeypatch.setattr(cli_logins, "ask_server", lambda *_: LOGIN)
    for more, printed in (([], f"github: {said}\n"), (["--json"], json.dumps(LOGIN, indent=2) + "\n")):
        command, options = parse_command_line([*words.split(), "github", *more])
        assert command.run(cli_context.Context(command, options, {})) == 0
        assert capsys.readouterr().out == printed


def test_a_question_that_the_exit_code_answers_is_answered_as_json(monkeypatch, capsys):
    monkeypatch.setattr(cli_containers, "status_of", lambda *_: "Frozen")
    for name, code, document in (("exists", 0, {"exists": True}), ("running", 1, {"running": False})):
        command, options = parse_command_line(["container", name, "box", "--json"])
        assert command.run(cli_context.Context(command, options, {})) == code
        assert json.loads(capsys.readouterr().out) == document


@table("words", [["clean"], ["setup"], ["uninstall"]], ids=" ".join)
def test_a_plan_as_json_needs_a_dry_run(words):
    _, options = parse_command_line([*words, "--json"])
    with pytest.raises(cli_commands.UsageError, match="give --dry-run, too"):
        cli_commands.prints_plan(options)


@table(("words", "said"), [(["prompt", "go on"], "submitted"), (["answer", "2"], "answered")])
def test_what_a_tool_took_is_told_as_json(monkeypatch, capsys, words, said):
    monkeypatch.setattr(cli_agents, "ask_session", lambda *_: {"result": said})
    name, *rest = words
    command, options = parse_command_line([name, "clincus-a1b2c3-1", *rest, "--json"])
    assert command.run(cli_context.Context(command, options, {})) == 0
    assert json.loads(capsys.readouterr().out) == {"result": said}


@table(("words", "name", "options"), COMMANDS.values(), ids=COMMANDS.keys())
def test_words_become_a_command_and_its_options(words, name, options):
    command, found = parse_command_line(words)
    assert command.name == name
    assert {key: getattr(found, key) for key in options} == options


MISTAKES = {
    "an unknown command": (["shel"], "unknown command 'shel' for 'clincus'; did you mean 'shell'?"),
    "an unknown command of a group": (["tmux", "snd"], "unknown command 'snd' for 'clincus tmux'; did you mean"),
    "an unknown flag": (["list", "--al"], "unknown flag: --al; did you mean '--all'?"),
    "an unknown short flag behind a known one": (["snapshot", "delete", "-fx"], "unknown flag: -x"),
    "a dash behind a short flag": (["snapshot", "delete", "-f-", "name"], "unknown flag: -f-"),
    "an abbreviated flag": (["list", "--form", "json"], "unknown flag: --form; did you mean '--format'?"),
    "a flag without its value": (["list", "--format"], "flag needs a value: --format FORM"),
    "a wrong format": (["list", "--format", "xml"], "invalid format 'xml': write text or json"),
    "a slot that there is not": (["shell", "--slot", "11"], "invalid slot '11': write a whole number from 0 to 10"),
    "a negative slot": (["shell", "--slot", "-1"], "invalid slot '-1': write a whole number from 0 to 10"),
    "a bad switch": (["shell", "--persistent=maybe"], "invalid persistent 'maybe': write true or false"),
    "two arguments for one": (
        ["info", "a", "b"], "unexpected argument 'b': write `clincus info [SESSION_ID]`"
    ),
    "one argument too few": (
        ["tmux", "send"],
        "argument CONTAINER is required: write `clincus tmux send CONTAINER TEXT`",
    ),
    "one argument too many": (["list", "x"], "unexpected argument 'x': write `clincus list`"),
    "a flag that would be ignored": (["kill", "--all", "--slot", "2"], "unknown flag: --slot is no flag"),
    "a name that would be ignored": (["kill", "--all", "--yes", "clincus-706096-1"], "give either NAME or --all"),
    "a folder that would be ignored": (["clean", "-w", "/srv"], "unknown flag: -w is no flag of `clincus clean`"),
    "an engine for a command of this host": (["run", "--engine", "x", "ls"], "unknown flag: --engine is no flag"),
    "a shell that is none of ours": (["completion", "ksh"], "unknown shell 'ksh': write bash, zsh or fish"),
    "a port that is none": (["serve", "--port", "x"], "invalid port 'x': write a whole number from 0 to 65535"),
    "a limit that is none": (["--limit-memory", "lots"], "validation failed: invalid limit-memory 'lots': write"),
    "two values that are none": (
        ["run", "--slot", "x", "--network", "y", "true"],
        "invalid slot 'x': write a whole number from 0 to 10; invalid network 'y': write open or allow-list or none",
    ),
    "a mount that is none": (["run", "--mount", "x", "true"], "invalid mount 'x': write HOST:CONTAINER"),
    "a foreign flag in front of the command": (["run", "-l", "ls"], "unknown flag: -l; put -- in front of a command"),
}  # fmt: skip


@table(("words", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_a_hint_at_help(words, message):
    done = run(*words)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 2
    assert done.stdout == ""
    assert error.startswith(f"Error: {message}")
    assert "--help" in hint


@table("words", [["version"], ["--version"], ["-v"], ["help"], ["help", "run"], ["--help"], ["tmux"],
                                   ["shell", "--help"], ["run", "-h"], ["completion", "bash"], ["man"],
                                   ["version", "anything"], ["help", "build", "custom"],
                                   ["help", "run", "ls"]])  # fmt: skip
def test_help_version_and_completion_need_neither_config_nor_incus(words):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_version_has_the_form_that_scripts_know():
    assert re.match(r"clincus \S+ \(commit: \S+, built: \S+\)\n", run("version").stdout)
    assert re.fullmatch(r"clincus version \S+ \(\S+\)\n", run("--version").stdout)


def test_a_broken_config_is_an_error_of_the_commands_that_need_it():
    done = run("list")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: CLINCUS_CONFIG names '/nowhere'")


@pytest.fixture
def recorded(tmp_path):
    """A home with the history and the log of a session of the folder `app`, and no Incus."""
    folder = tmp_path / "app"
    folder.mkdir()
    begun = clincus.Run(ID, "clincus-ec0578-1", str(folder), "claude", "2027-03-01T09:15:00Z")
    logs = tmp_path / ".clincus" / "logs" / "sessions"
    logs.mkdir(parents=True)
    (tmp_path / ".clincus" / "history.jsonl").write_bytes(begun.line("start"))
    entry = {"at": "2027-03-01T09:20:00Z", "kind": "session", "what": "The session stopped"}
    (logs / f"{ID}.jsonl").write_text(json.dumps(entry) + "\n")
    return {"HOME": str(tmp_path), "CLINCUS_CONFIG": ""}


@pytest.mark.parametrize("word", ["clincus-ec0578-1", "clincus-ec"], ids=["id", "prefix"])
def test_the_log_is_read_without_incus(recorded, word):
    done = run("log", word, environ=recorded)
    assert done.stdout == "2027-03-01T09:20:00Z  The session stopped\n"
    assert "Only sessions of the history are known now" in done.stderr


def test_the_log_of_the_only_session_of_a_folder_is_read_without_incus(recorded):
    done = run("log", "-w", f"{recorded['HOME']}/app", environ=recorded)
    assert done.stdout == "2027-03-01T09:20:00Z  The session stopped\n"


def test_the_log_of_an_unknown_session_is_an_error_without_incus_too(recorded):
    done = run("log", "clincus-ffffff-1", environ=recorded)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'session "clincus-ffffff-1" not found' in done.stderr


def test_without_incus_the_error_says_what_to_do(tmp_path):
    done = run("list", environ={"CLINCUS_CONFIG": "", "HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (1, "Error: Incus is not installed. Run `clincus setup`.\n")


# ---- help --------------------------------------------------------------------------------------------------------

SHOWN = [command for command in cli_commands.COMMANDS.values() if command.summary]


@table("command", SHOWN, ids=lambda command: command.name)
def test_each_command_has_a_help_that_fits_a_terminal(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = cli_help.command_help(command)
    assert text.startswith(f"{command.summary}.\n\nUsage:\n  clincus {command.name}")
    assert "Exit codes:" in text
    assert "Examples:" in text
    for flag in command.flags:
        assert flag.names[-1] in text
    prose = text.partition("Examples:")[0].splitlines()
    assert max(map(len, prose[4:])) <= 80


def test_help_tells_defaults_and_each_exit_code_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shell, run = cli_help.help_text("shell"), cli_help.help_text("run")
    assert f"(default: {clincus.STOP_TIMEOUT})" in cli_help.help_text("stop")
    assert f"1 to {clincus.SLOTS[-1]}" in run
    assert "text or json (default: text)" in cli_help.help_text("list")
    assert ("--resume" in shell, "--resume" in run) == (True, False)
    assert len(re.findall(r"^  2 ", cli_help.help_text("image exists"), re.MULTILINE)) == 1


def test_the_help_of_the_program_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, cli_help.help_text("").splitlines())) <= 80


@table("command", SHOWN, ids=lambda command: command.name)
def test_the_examples_of_help_can_be_read(command):
    for line, _ in cli_help.page_of(command)[1]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_punctuation, words in itertools.groupby(lexer, lambda word: set(word) <= set("|&<>();")):
            name, *rest = words
            if not is_punctuation and name == "clincus":
                parse_command_line(rest)


@table("width", [40, 60, 80, 120])
def test_help_fits_narrow_and_wide_terminals(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for text in [cli_help.help_text(""), *map(cli_help.command_help, SHOWN)]:
        prose = [line for line in text.partition("Examples:")[0].splitlines() if not line.startswith("  clincus ")]
        assert max(map(len, prose)) <= width


def test_the_manual_page_holds_every_command_and_flag_and_is_sound_roff():
    text = run("man").stdout
    plain = text.replace("\\-", "-")
    for command in SHOWN:
        assert f".SS clincus {command.name}" in plain
        assert all(flag.names[-1] in plain for flag in command.flags)
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".nf", ".fi"}
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-ww", "-man", "-Tutf8", "-z"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")


@table("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_locale_without_our_marks_gets_the_output_all_the_same(tmp_path, encoding):
    saved = tmp_path / ".clincus/sessions-claude" / ID
    saved.mkdir(parents=True)
    saved.joinpath("metadata.json").write_text(f'{{"session_id": "{ID}", "workspace": "/süd/☃"}}', encoding="utf-8")
    environ = {"PYTHONIOENCODING": encoding, "HOME": str(tmp_path), "CLINCUS_CONFIG": ""}
    done = subprocess.run([sys.executable, str(PROGRAM), "info"], capture_output=True, env=environ, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "/süd/☃".encode(encoding, "backslashreplace") in done.stdout


def test_a_locale_of_ascii_keeps_no_name_from_being_used(tmp_path):
    settings = tmp_path / ".config/clincus/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[paths]\nlogs_dir = "~/süd"\n', encoding="utf-8")
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": str(tmp_path), "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, str(PROGRAM), "clean"], capture_output=True, env=environ, check=False)
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "süd").is_dir()


@table(("encoding", "text"), [("latin-1", b'"\\u00fc"'), ("UTF-8", '"ü"'.encode())])
def test_json_is_utf8_or_ascii(monkeypatch, encoding, text):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    cli_console.print_json("ü")
    sys.stdout.flush()
    assert data.getvalue() == text + b"\n"


def test_json_holds_nothing_that_a_terminal_obeys(capsys):
    cli_console.print_json({"path": "ü\x9b2J\x7f"})
    assert capsys.readouterr().out == '{\n  "path": "\\u00fc\\u009b2J\\u007f"\n}\n'


@table("name", ["", *cli_commands.GROUPS])
def test_the_commands_of_a_group_stand_under_the_words_that_scripts_know(name):
    assert "\nAvailable Commands:\n" in cli_help.help_text(name)


def test_every_command_stands_in_the_help_of_the_program():
    shown = {line.split()[0] for line in cli_help.help_text("").splitlines() if line.startswith("  ")}
    assert {command.group or command.name for command in SHOWN} <= shown


WORKING = {"state": "working", "reason": "", "text": "", "options": []}
WAITS = {
    "ends with a session that is deleted": ([WORKING, 404], "ended", 0),
    "goes on while the server restarts": ([WORKING, 503, 503, {**WORKING, "state": "done"}], "done", 0),
}


def answers(monkeypatch, *said):
    """Let the server answer so, one after the other: an agent object, or the status of an error."""
    left = iter(said)

    def ask(context, method, what):
        one = next(left)
        if isinstance(one, int):
            raise clincus.ClincusError("not now", one)
        return one

    monkeypatch.setattr(cli_agents, "ask_session", ask)
    monkeypatch.setattr(cli_agents, "LOOK_EVERY", 0)


def run_wait(*words):
    command, options = parse_command_line(["wait", "clincus-a1b2c3-1", *words])
    return command.run(cli_context.Context(command, options, {}))


@table(("said", "state", "code"), WAITS.values(), ids=WAITS.keys())
def test_a_wait(monkeypatch, capsys, said, state, code):
    answers(monkeypatch, *said)
    assert run_wait() == code
    assert json.loads(capsys.readouterr().out)["state"] == state


@table("status", [404, 503])
def test_a_wait_for_what_was_never_there_fails_at_once(monkeypatch, status):
    answers(monkeypatch, status)
    with pytest.raises(clincus.ClincusError, match="not now"):
        run_wait()


def test_a_wait_for_something_else_says_that_the_session_is_gone(monkeypatch):
    answers(monkeypatch, WORKING, 404)
    with pytest.raises(clincus.ClincusError, match="clincus-a1b2c3-1: the session was deleted"):
        run_wait("--for", "done")


def test_why_leaves_out_what_is_not_known():
    why = {"rule": "session-not-running", "source": "process", "at": "", "lines": []}
    found = {"state": "none", "reason": "", "since": "", "text": "", "options": [], "why": why}
    assert [*cli_agents.why_lines("box", found)] == ["box", "State: none\nRule:  session-not-running (process)"]


def test_a_flag_is_not_like_another_by_its_dashes_alone():
    assert cli_commands.did_you_mean("--foo", ["--tool"]) == ""


def test_the_table_of_the_files_has_the_words_of_each_command():
    words = {file: set(words.split()) for files in all_commands.TOPICS.values() for file, words in files.items()}
    declared = {file: set() for file in words}
    for command in cli_commands.COMMANDS.values():
        declared[command.run.__module__.rpartition(".")[2]].add(command.name.partition(" ")[0])
    assert {**declared, "completion": set(), "help": set()} == words


def test_each_command_that_prints_json_takes_one_flag_for_it():
    forms = [one for one in SHOWN if any(flag.key == "format" for flag in one.flags) and not one.passes_on]
    assert forms
    assert [one.name for one in forms if "--json" not in one.all_flags] == []


def test_no_group_is_empty():
    assert {command.group for command in SHOWN if command.group} == set(cli_commands.GROUPS)


@table("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_ask_the_program(shell):
    text = run("completion", shell).stdout
    assert f"{shell} completion for clincus" in text.splitlines()[0 if shell != "zsh" else 1]
    assert "clincus __complete" in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


OFFERED = {
    "commands": (["sh"], ["shell", "shutdown"]),
    "groups": (["sna"], ["snapshot"]),
    "the commands of a group": (["tmux", ""], ["send", "capture", "list"]),
    "a command of a group": (["snapshot", "res"], ["restore"]),
    "behind flags": (["-w", "/srv", "lis"], ["list"]),
    "a flag": (["list", "--f"], ["--format"]),
    "the flags of a start": (["run", "--limit-disk-w"], ["--limit-disk-write"]),
    "the values of a flag": (["list", "--format", ""], ["text", "json"]),
    "the values of a flag behind =": (["list", "--format=j"], ["--format=json"]),
    "files": (["shell", ""], []),
    "nothing for a mistake": (["no-such-command", ""], []),
    "nothing for a name of one's own": (["rename", "clincus-abcdef-1", ""], []),
}  # fmt: skip


@table(("words", "offered"), OFFERED.values(), ids=OFFERED.keys())
def test_what_may_come_next(words, offered):
    done = run("__complete", "--", *words)
    assert sorted(line.partition("\t")[0] for line in done.stdout.splitlines()) == sorted(offered)


def test_names_of_tools_are_offered(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    command, options = parse_command_line(["__complete", "--", "shell", "--tool", "co"])
    command.run(cli_context.Context(command, options, {"HOME": str(tmp_path)}))
    assert capsys.readouterr().out.splitlines() == ["copilot", "codex"]


def test_names_of_sessions_are_offered(monkeypatch, capsys):
    command, options = parse_command_line(["__complete", "--", "attach", "clincus-"])
    context = cli_context.Context(command, options, {})
    context.__dict__["sessions"] = SimpleNamespace(registry=SimpleNamespace(all=lambda: [session(1), session(2)]))
    command.run(context)
    assert capsys.readouterr().out.splitlines() == [
        "clincus-abcdef-1\tclaude, running, /w", "clincus-abcdef-2\tclaude, running, /w",
    ]  # fmt: skip


BROKEN_WORDS = {
    "a value behind =": (r"list --format=js\t", "GOT list --format=json"),
    "a name behind the colon of an engine": (r"attach tower:clincus-ab\t", "GOT attach tower:clincus-abcdef-1"),
    "a file behind a place in a container": (
        r"file pull clincus-abcdef-1:/x he\t",
        "GOT file pull clincus-abcdef-1:/x here",
    ),
}
COMPLETER = """#!/bin/sh
case "$1 $3 $4" in
  *' attach tower:'*) printf 'tower:clincus-abcdef-1\\tclaude\\n' ;;
  __complete*|completion*) exec {python} {program} "$@" ;;
  *) echo "GOT $*" ;;
esac
"""


@table(("typed", "run"), BROKEN_WORDS.values(), ids=BROKEN_WORDS.keys())
def test_bash_completes_words_that_it_breaks(tmp_path, typed, run):
    """At a terminal, as bash breaks words at : and = there."""
    clincus_stub = tmp_path / "clincus"
    clincus_stub.write_text(COMPLETER.format(python=sys.executable, program=PROGRAM))
    clincus_stub.chmod(0o755)
    (tmp_path / "here").write_text("")
    main, side = pty.openpty()
    environ = {**NEVER, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=side, stdout=side, stderr=side, env=environ, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    os.close(side)
    os.write(main, b". <(clincus completion bash); echo LOA''DED\n")
    read_until(main, b"LOADED")
    os.write(main, b"clincus " + typed.replace(r"\t", "\t").encode() + b"\n")
    shown = read_until(main, b"GOT ", b"\n")
    os.write(main, b"exit\n")
    shell.wait(timeout=60)
    os.close(main)
    assert run in shown.decode()


def read_until(terminal, *words):
    """What a terminal shows until the words have come, one after the other."""
    shown, at = b"", 0
    for word in words:
        while shown.find(word, at) < 0:
            shown += os.read(terminal, 4096)
        at = shown.find(word, at) + len(word)
    return shown


ZSH = r"""
zmodload zsh/zpty
zpty terminal zsh -f -i
zpty -w terminal "autoload -Uz compinit; compinit -u -D; source =(clincus completion zsh); echo LOA''DED"
zpty -r terminal shown '*LOADED*'
zpty -n -w terminal $'clincus tmux se\t'
zpty -r terminal shown '*clincus tmux send*' && echo send
"""
ASK = {
    "bash": ". <(clincus completion bash); COMP_WORDS=(clincus tmux se); COMP_CWORD=2; _clincus; echo $COMPREPLY",
    "fish": "clincus completion fish | source; complete -C 'clincus tmux se' | cut -f 1",
    "zsh": ZSH,
}


@table("shell", ASK)
def test_each_shell_completes_with_what_the_program_offers(tmp_path, shell):
    """In zsh by a key at a terminal, as its functions for completion work nowhere else."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "clincus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    program.chmod(0o755)
    environ = {**NEVER, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}
    done = subprocess.run(
        [shell, "-c", ASK[shell]], text=True, capture_output=True, check=False, timeout=60, env=environ, cwd="/"
    )  # fmt: skip
    assert done.stdout == "send\n", done.stderr


@table("words", ["help", "help run", "version", "--version", "completion zsh", "__complete -- li"])
def test_what_needs_no_core_loads_neither_it_nor_what_is_slow_to_load(words):
    """The core takes several times as long as all of the command line."""
    code = "import sys, clincus_cli.main; clincus_cli.main.main(sys.argv[1:]); core = vars(sys.modules['clincus'])"
    code += (
        "; print({'argparse', 'dataclasses', 'logging', 'shutil', 'typing', *core} & {*sys.modules, 'ClincusError'})"
    )
    argv = [sys.executable, "-S", "-c", code, *words.split()]
    done = subprocess.run(argv, text=True, capture_output=True, check=True, timeout=60, env=NEVER, cwd=PROGRAM.parent)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_list_loads_no_feature_but_the_tools_and_nothing_that_is_slow_to_load(tmp_path):
    """Tools of a feature may be named in the config; the rest takes longer than the list itself."""
    (tmp_path / "incus").write_text("#!/bin/sh\necho []\n")
    (tmp_path / "incus").chmod(0o755)
    code = "import sys, clincus_cli.main; clincus_cli.main.main(['list', '--all'])"
    code += "; print(sorted(name for name in sys.modules if name.startswith('clincus_features')),"
    code += " {'dataclasses', 'inspect', 'logging', 'typing', 'urllib.parse'} & {*sys.modules})"
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "CLINCUS_TOOL": "codex"}
    argv = [sys.executable, "-S", "-c", code]
    done = subprocess.run(argv, text=True, capture_output=True, check=True, timeout=60, env=environ, cwd=PROGRAM.parent)
    assert done.stdout.splitlines()[-1] == "['clincus_features', 'clincus_features.tools'] set()"


def test_a_server_holds_no_other_command_and_nothing_that_it_seldom_uses():
    code = "import sys, clincus; from clincus_cli import main; clincus.serve = lambda *_, **__: 0"
    code += "; main.main(['serve']); import http.server, shutil"
    code += "; print({'_ssl', 'html.entities', '_bz2', '_lzma', 'clincus_cli.shell'} & {*sys.modules})"
    argv = [sys.executable, "-S", "-c", code]
    done = subprocess.run(argv, text=True, capture_output=True, check=True, timeout=60, env=NEVER, cwd=PROGRAM.parent)
    assert done.stdout == "set()\n"


def test_an_interruption_while_the_core_loads_is_none_of_a_command_line_that_needs_it(tmp_path, monkeypatch):
    """It was told as an AttributeError: what handles it asks the core, of which only the first lines had run."""
    (tmp_path / "cut_short.py").write_text("import sys\nif sys.tries.pop():\n    raise KeyboardInterrupt\nname = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cut_short", raising=False)
    monkeypatch.setattr(sys, "tries", [False, True], raising=False)
    clincus_cli.load_when_used("cut_short")
    module = sys.modules.pop("cut_short")
    with pytest.raises(KeyboardInterrupt):
        assert module.name
    assert gc.isenabled()
    assert module.name == 1


def test_what_is_loaded_when_it_is_used_is_whole_for_each_thread(tmp_path, monkeypatch):
    (tmp_path / "slow_to_load.py").write_text("import shlex\nshlex.begun.set()\nshlex.goes_on.wait()\nname = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_load", raising=False)
    begun, goes_on, found = threading.Event(), threading.Event(), []
    monkeypatch.setattr(shlex, "begun", begun, raising=False)
    monkeypatch.setattr(shlex, "goes_on", goes_on, raising=False)
    clincus_cli.load_when_used("slow_to_load")
    module = sys.modules.pop("slow_to_load")
    threads = [threading.Thread(target=lambda: found.append(module.name)) for _ in range(2)]
    threads[0].start()
    assert begun.wait(DEADLINE)
    threads[1].start()
    goes_on.set()
    for thread in threads:
        thread.join()
    assert found == [1, 1]


# ---- talking -----------------------------------------------------------------------------------------------------


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli_console.paint("x", "red", terminal) == "\033[31mx\033[0m"
    assert cli_console.paint("x", "red", SimpleNamespace(isatty=lambda: False)) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli_console.paint("x", "red", terminal) == "x"


@table(
    ("script", "is_screen", "resets"),
    [("exit 3", False, 0), ("exit 130", False, 0), ("kill -9 $$", False, 1), ("exit 3", True, 1), ("true", True, 0)],
)
def test_the_screen_is_reset_only_after_what_was_cut_off(script, is_screen, resets):
    """The reset moves the cursor: what a command has shown would be written over."""
    words = "from clincus_cli import shell as cli_shell\n"
    words += f"cli_shell.run_in_terminal(['sh', '-c', {script!r}], is_screen={is_screen})"
    main, side = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", words], stdin=side, stdout=side, cwd=PROGRAM.parent) as process:
        assert process.wait(timeout=60) == 0
        os.write(side, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(main, 4096)
    assert shown.count(b"\033[?1049l") == resets
    os.close(main)
    os.close(side)


@table(("false_starts", "starts", "shown"), [(2, 3, b"attached"), (99, clincus.BEGIN_TRIES, b"Failed to retrieve PID")])
def test_a_terminal_that_incus_lost_at_its_start_is_attached_again(tmp_path, false_starts, starts, shown):
    count = f"echo >>{tmp_path}/starts; [ $(wc -l <{tmp_path}/starts) -gt {false_starts} ]"
    lost = "echo Error: Failed to retrieve PID of executing child process >&2; exit 255"
    script = f"{count} || {{ {lost}; }}; echo attached"
    words = f"from clincus_cli import shell as cli_shell\ncli_shell.attach_in_terminal(['sh', '-c', {script!r}])"
    done = subprocess.run(
        [sys.executable, "-c", words], stdin=subprocess.DEVNULL, capture_output=True, cwd=PROGRAM.parent, check=True,
        timeout=60,
    )  # fmt: skip
    assert (tmp_path / "starts").read_text() == "\n" * starts
    assert (done.stdout + done.stderr).count(b"Error") == (shown != b"attached")
    assert shown in done.stdout + done.stderr


def test_progress_stays_on_one_line(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    with cli_console.progress("Deleting a container with a very long name"):
        wait_until(lambda: "Deleting" in shown.getvalue())
    assert max(map(len, shown.getvalue().split("\r"))) < 20


def test_columns_are_as_wide_as_their_widest_cell():
    assert cli_console.table(("A", "NAME"), [("1", "x"), ("200", "yy")]) == "A    NAME\n1    x\n200  yy"
    assert cli_console.table(None, [("1", "x"), ("200", "yy")], "  ") == "  1    x\n  200  yy"


@table(("answer", "agreed"), [("y", True), ("YES", True), ("n", False), ("", False), ("ja", False)])
def test_only_yes_agrees(monkeypatch, capsys, answer, agreed):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: f"{answer}\n"))
    assert cli_console.confirm("Really?", yes=False) is agreed
    assert capsys.readouterr() == ("", "Really? [y/N]: " + ("" if agreed else "Cancelled.\n"))


def test_the_end_of_input_at_a_question_is_a_no_on_a_line_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: ""))
    assert not cli_console.confirm("Really?", yes=False)
    assert capsys.readouterr().err == "Really? [y/N]: \nCancelled.\n"


def test_ctrl_c_at_a_question_ends_its_line(monkeypatch, capsys):
    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=interrupt))
    with pytest.raises(KeyboardInterrupt):
        cli_console.confirm("Sure?", yes=False)
    assert capsys.readouterr().err == "Sure? [y/N]: \n"


def test_where_nobody_can_be_asked_yes_is_needed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    assert cli_console.confirm("Really?", yes=True)
    with pytest.raises(clincus.ClincusError, match="give --yes"):
        cli_console.confirm("Really?", yes=False)


def test_what_others_wrote_reaches_the_terminal_without_control_characters():
    assert clincus.printable("a\033]0;x\a\u202eb é") == "a\\x1b]0;x\\x07\\u202eb é"


CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"  # sets the clipboard of a terminal that obeys it (OSC 52)
PRINTERS = {
    "a warning": cli_console.warn,
    "an error": cli_console.complain,
    "a table": lambda text: print(cli_console.table(None, [(text,)])),
    "what a copy left out": lambda text: cli_files.report_transfer(
        SimpleNamespace(report=lambda words, document: cli_console.say(words)),
        *(cli_transfer.Transfer("here", True, [f"a link to {text}"]), "Pulled", "there", "here"),
    ),
}


@table("show", PRINTERS.values(), ids=PRINTERS.keys())
def test_text_of_a_container_cannot_command_the_terminal(show, capsys):
    show(f"out {CLIPBOARD}")
    said = "".join(capsys.readouterr())
    assert "\\x1b]52;" in said
    assert "\x1b" not in said


def test_a_screen_of_a_container_keeps_only_its_lines_and_colours():
    shown = cli_run.screen_text(f"one\n\x1b[1;31mred\x1b[0m {CLIPBOARD}\x1b[2J")
    assert shown == "one\n\x1b[1;31mred\x1b[0m \\x1b]52;c;cm0gLXJmIH4=\\x07\\x1b[2J"


# ---- which session a start means ---------------------------------------------------------------------------------


def session(
    slot: int, status: str = "running", *, tool: str = "claude", persistent: bool = False, paused: bool = False
):
    """A session of the workspace /w."""
    return a_session(slot, id=f"clincus-abcdef-{slot}", tool=tool, status=status, persistent=persistent, paused=paused)


RUNNING, STOPPED = session(1), session(2, "stopped")
KEPT, KEPT_TOO = session(4, "stopped", persistent=True), session(3, "stopped", persistent=True)
PAUSED, COPILOT = session(5, "stopped", paused=True), session(6, tool="copilot")

STARTS = {
    "nothing there": ([], {}, None),
    "the running one": ([RUNNING, STOPPED], {}, RUNNING),
    "a paused one": ([PAUSED], {}, PAUSED),
    "in the background, beside the running one": ([RUNNING], {"background": True}, None),
    "a stopped ephemeral one is left alone": ([STOPPED], {}, None),
    "a stopped persistent one without --persistent": ([KEPT], {}, None),
    "the lowest persistent one": ([KEPT, KEPT_TOO], {"persistent": True}, KEPT_TOO),
    "a running one before a persistent one": ([RUNNING, KEPT], {"persistent": True}, RUNNING),
    "the one of the tool": ([RUNNING, COPILOT], {"tool": "copilot"}, COPILOT),
    "none of the tool": ([RUNNING], {"tool": "opencode"}, None),
    "the slot": ([RUNNING, STOPPED], {"slot": 2}, STOPPED),
    "a free slot": ([RUNNING], {"slot": 7}, None),
}


@table(("here", "wanted", "chosen"), STARTS.values(), ids=STARTS.keys())
def test_a_start_means_a_session_that_is_there_or_a_new_one(here, wanted, chosen):
    request = clincus.LaunchRequest("/w", tool=wanted.get("tool", ""), slot=wanted.get("slot", 0))
    persistent, background = wanted.get("persistent", False), wanted.get("background", False)
    assert cli_shell.choose_session(here, request, persistent=persistent, background=background) is chosen


@table(
    ("here", "wanted", "reason"),
    [
        ([RUNNING, COPILOT], {}, "choose one with --slot 1 (claude), --slot 6 (copilot)"),
        ([RUNNING], {"slot": 1, "tool": "copilot"}, "slot 1 holds a session of claude"),
    ],
)
def test_a_start_that_could_mean_two_things_is_refused(here, wanted, reason):
    request = clincus.LaunchRequest("/w", **wanted)
    with pytest.raises(clincus.ClincusError, match=re.escape(reason)):
        cli_shell.choose_session(here, request, persistent=False, background=False)


# ---- formatting --------------------------------------------------------------------------------------------------


def test_a_container_in_the_list_has_the_fields_that_scripts_know():
    instance = {
        "name": "clincus-ec0578f9-1",
        "status": "Frozen",
        "created_at": "2027-03-01T09:15:00.123456789Z",
        "config": {
            "user.clincus.workspace": "/home/ann/demo", "user.clincus.tool": "claude",
            "image.description": "clincus image",
        },
        "state": {"network": {"eth0": {"addresses": [
            {"family": "inet6", "address": "fe80::1"}, {"family": "inet", "address": "10.7.7.21"},
        ]}}},
    }  # fmt: skip
    entry = cli_sessions.active_entry(clincus.session_from_instance("clincus-", instance, ""), instance)
    known = {
        "created_at": "2027-03-01 09:15:00", "image": "clincus image", "ipv4": "10.7.7.21",
        "name": "clincus-ec0578f9-1", "persistent": False, "status": "Frozen", "workspace": "/home/ann/demo",
    }  # fmt: skip
    assert {key: entry[key] for key in known} == known


@table("state", [None, {}, {"network": None}, {"network": {"lo": {"addresses": []}}}])
def test_a_container_without_an_address_has_an_empty_one(state):
    instance = {"name": "clincus-ec0578-1", "status": "Running", "created_at": "2027-03-01T09:15:00Z", "state": state}
    session = a_session(id="clincus-ec0578-1")
    assert cli_sessions.active_entry(session, instance)["ipv4"] == ""


def test_the_saved_conversations_as_a_table():
    saved = clincus.SavedSession(ID, "claude", workspace="/w", saved_at="2027-03-01T09:40:12Z")
    when = cli_console.local_time(saved.saved_at)
    assert [line.split() for line in cli_sessions.saved_table([saved]).splitlines()] == [
        ["CONVERSATION", "TOOL", "WORKSPACE", "SAVED"],
        [ID, "claude", "/w", *when.split()],
    ]


def one_session(*flags, is_default):
    """The context of a kill of one session."""
    command, rest = cli_commands.find_command(["kill", *flags])
    context = cli_context.Context(command, cli_commands.parse_words(command, rest), {})
    context.options.name = ["clincus-a1b2c3-1"]
    context.options.is_default = is_default
    registry = SimpleNamespace(all=lambda: [a_session()])
    context.__dict__["sessions"] = SimpleNamespace(registry=registry)
    return context


KILLS = {
    "asks at a terminal": ((), False, "n\n", 1),
    "goes on after a yes": ((), False, "y\n", 0),
    "asks no script that names the session": ((), False, None, 0),
    "is agreed to by --yes": (("--yes",), True, None, 0),
}


@table(("flags", "is_default", "typed", "code"), KILLS.values(), ids=KILLS.keys())
def test_a_kill_of_one_session(monkeypatch, flags, is_default, typed, code):
    stdin = io.StringIO(typed)
    stdin.isatty = lambda: typed is not None
    monkeypatch.setattr(sys, "stdin", stdin)
    killed = []
    context = one_session(*flags, is_default=is_default)
    words = ("kill", "Killing", "Killed")
    assert cli_sessions.for_each_session(context, words, killed.append, deletes=True) == code
    assert bool(killed) is (code == 0)


def test_a_script_that_names_no_session_kills_none_without_a_yes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    killed = []
    words = ("kill", "Killing", "Killed")
    with pytest.raises(clincus.ClincusError, match="give --yes"):
        cli_sessions.for_each_session(one_session(is_default=True), words, killed.append, deletes=True)
    assert killed == []


@table("fault", [None, clincus.ClincusError("no")], ids=["done", "failed"])
def test_a_kill_as_json_tells_nothing_else_on_stdout(capsys, fault):
    def kill(name):
        if fault:
            raise fault

    context = one_session("--yes", "--json", is_default=False)
    with contextlib.suppress(clincus.ClincusError):
        cli_sessions.for_each_session(context, ("kill", "Killing", "Killed"), kill, deletes=True)
    said = capsys.readouterr()
    name = "clincus-a1b2c3-1"
    assert json.loads(said.out) == ({"done": [], "failed": [name]} if fault else {"done": [name], "failed": []})
    assert f"Killing container {name}..." in said.err


def test_an_interruption_as_json(monkeypatch, capsys):
    monkeypatch.setattr(cli_agents, "ask_session", lambda *_: {})
    command, options = parse_command_line(["interrupt", "clincus-a1b2c3-1", "--json"])
    assert command.run(cli_context.Context(command, options, {})) == 0
    assert json.loads(capsys.readouterr().out) == {"result": "interrupted"}


def test_a_session_as_json_is_one_in_the_background(monkeypatch):
    monkeypatch.setattr(cli_console, "has_terminal", lambda: True)
    command, options = parse_command_line(["shell", "--json"])
    with pytest.raises(cli_commands.UsageError, match="give --background, too"):
        command.run(cli_context.Context(command, options, {}))


AGES = {0: "0s", 59: "59s", 60: "1m", 7199: "1h", 86400 * 3: "3d", -5: "0s"}


@table(("seconds", "text"), AGES.items())
def test_an_age_is_told_in_its_largest_unit(monkeypatch, seconds, text):
    monkeypatch.setattr("time.time", lambda: 1798761600 + seconds)
    assert cli_sessions.age_text("2027-01-01 00:00:00") == text


def test_the_sessions_as_a_table(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1798761600 + 7200)
    agent = {"state": "waiting", "reason": "question", "text": "Which of these?\nOr none?"}
    usual = {"tool": "claude", "created_at": "2027-01-01 00:00:00"}
    running = {"name": "c-1", "display_name": "login", "status": "Running", "workspace": "/w", "agent": agent, **usual}
    bare = {"name": "clincus-ec0578-2", "status": "Stopped", "created_at": ""}
    assert cli_sessions.session_table([running, bare]).splitlines() == [
        "NAME              STATE    AGENT               TOOL    WORKSPACE  AGE",
        "c-1 (login)       running  waiting (question)  claude  /w         2h",
        "clincus-ec0578-2  stopped  -                   -       -          -",
    ]


def test_columns_stand_below_each_other_whatever_the_letters():
    rows = [("東京", "a"), ("Łódź", "b"), ("e\N{COMBINING ACUTE ACCENT}", "c"), ("plain", "d")]
    lines = cli_console.table(None, rows).splitlines()
    assert lines == ["東京   a", "Łódź   b", "e\N{COMBINING ACUTE ACCENT}      c", "plain  d"]


def test_the_list_says_that_a_session_works_on_a_clone():
    instance = {"name": "clincus-ec0578-1", "status": "Running", "created_at": "2027-03-01T09:15:00Z"}
    session = a_session(id="clincus-ec0578-1", mode="clone")
    assert cli_sessions.active_entry(session, instance)["mode"] == "clone"


def test_a_process_has_a_mark_that_ends_with_it():
    assert process_mark(os.getpid()) == process_mark(os.getpid()) != ""
    child = subprocess.Popen(["true"])
    child.wait()
    assert process_mark(child.pid) == ""


def status_of(pid: int) -> str:
    """What /proc says of a process; of one that is gone, the same as of one that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # before the file was opened, and after that
        return "State:\tZ"


def test_children_are_found_down_to_the_last():
    with subprocess.Popen(["sh", "-c", "sleep 100 & wait"], start_new_session=True) as child:
        while not cli_relay.children_of(child.pid):
            pass
        family = cli_relay.children_of(child.pid)
        cli_relay.end_with_children(child)
        assert child.returncode is not None
        while any("State:\tZ" not in status_of(pid) for pid in family):  # the test's time limit ends this
            pass


def test_the_dashboards_address_is_said_on_stderr_with_the_time(home):
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, stdin=subprocess.DEVNULL, env={"PATH": "/nowhere", "HOME": str(home)}, cwd="/",
    )  # fmt: skip
    with process:
        line = next(line for line in process.stderr if "Dashboard" in line)
        process.terminate()
        assert re.fullmatch(r"[\d-]{10} [\d:]{8} Dashboard running at http://127\.0\.0\.1:\d+\n", line)
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_an_interruption_that_python_drops_comes_again():
    """In the callback of a weak reference an exception has nowhere to go, and a start went on after Ctrl-C."""
    script = """
import os, signal, sys, time, weakref
from clincus_cli import all_commands, main

all_commands.load_commands("list")

class Thing: pass

def press(dead):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass

def work(context):
    thing = Thing()
    reference = weakref.ref(thing, press)
    del thing
    time.sleep(30)

main.journal.run_noted = work
main.find_command(["list"])[0].run = work
sys.exit(main.main(["list"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False, cwd=PROGRAM.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_output_that_nobody_reads_ends_quietly():
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "help"],
        stdout=writes,
        stderr=subprocess.PIPE,
        env=NEVER,
        timeout=60,
        check=False,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@table("start", ["start", "clincus"], ids=["the archive", "clincus.py of a checkout"])
@table("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_a_signal_ends_dies_by_it(number, start):
    """Else a loop of a script goes on after Ctrl-C."""
    script = f"""
import os, sys
import clincus
from clincus_cli import all_commands, commands, start

all_commands.load_commands("version")
commands.COMMANDS["version"].run = lambda context: os.kill(os.getpid(), {int(number)})
sys.argv[1:] = ["version"]
sys.exit({start}.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False, cwd=PROGRAM.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")


@table(
    ("line", "end"),
    [
        ("help >/dev/full", (1, "", "Error: the output: No space left on device\n")),
        ("help shell >&-", (0, "", "")),
        ("bogus >&- 2>/dev/null", (2, "", "")),
        ("bogus >/dev/full 2>/dev/null", (2, "", "")),
        ("bogus 2>&-", (2, "", "")),
        ("bogus 2>/dev/full", (2, "", "")),
        ("--version <&-", (0, f"clincus version {clincus.__version__} ({clincus.__commit__[:7]})\n", "")),
    ],
)
def test_streams_that_take_nothing_end_it_in_one_line_at_most(line, end):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {PROGRAM} {line}"], capture_output=True, text=True, check=False,
        env=NEVER | {"PATH": os.environ["PATH"]}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == end
