"""The command line without Incus: what is read from the words, and what is said to a person."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import agents as cli_agents
from clincus_cli import all_commands
from clincus_cli import commands as cli_commands
from clincus_cli import console as cli_console
from clincus_cli import context as cli_context
from clincus_cli import files as cli_files
from clincus_cli import help as cli_help
from clincus_cli import relay as cli_relay
from clincus_cli import run as cli_run
from clincus_cli import sessions as cli_sessions
from clincus_cli import shell as cli_shell
from clincus_cli import transfer as cli_transfer
from tests.builders import a_session
from tests.programs import wait_until
from tests.table import table

PROGRAM = Path(clincus.__file__).with_name("clincus_cli")
NEVER = {"PATH": "/nowhere", "HOME": "/nowhere", "CLINCUS_CONFIG": "/nowhere"}  # no Incus, no home, a broken config
ID = "5b0c7d1e-8a34-4f6b-9d21-0c9e6f1a2b3c"
BOX = "clincus-a1b2c3-1"

all_commands.load_commands()


def parse_command_line(words):
    """The command that the words name, and its options."""
    command, rest = cli_commands.find_command(words)
    return command, cli_commands.parse_words(command, rest)


def run_here(*words, environ=None, **parts):
    """Run a command in this process and return its exit code; `parts` stand in for parts of its context."""
    command, options = parse_command_line(words)
    context = cli_context.Context(command, options, environ or {})
    context.__dict__.update(parts)
    return command.run(context)


def execute(argv, **more):
    """Run a program that is asked for nothing, beside the sources."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, "cwd": PROGRAM.parent, **more}
    return subprocess.run(argv, check=False, **options)


def run(*words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program where there is neither Incus nor a config that could be read."""
    return execute([sys.executable, str(PROGRAM), *words], text=True, env={**NEVER, **(environ or {})}, cwd="/")


def run_python(script: str, *words: str, **more) -> subprocess.CompletedProcess[bytes]:
    """Run a script that may import Clincus."""
    return execute([sys.executable, "-S", "-c", script, *words], **more)


# ---- words -------------------------------------------------------------------------------------------------------


@table(
    ("words", "name", "options"),
    [
        (["shell", "/srv/app"], "shell", {"directory": "/srv/app"}),
        (["-w", "/srv", "--slot", "2", "list"], "list", {"workspace": "/srv", "slot": 2}),
        (["tmux", "--slot=3", "list"], "tmux list", {"slot": 3}),
        (["container", "exec", "a", "gh", "--json"], "container exec", {"command": ["gh", "--json"], "format": None}),
        (["snapshot", "restore", "s", "-fc", "box"], "snapshot restore", {"force": True, "container": "box"}),
        (["--resume"], "shell", {"resume": "auto", "directory": ""}),
        (["shell", "--resume", "./my-session"], "shell", {"resume": "auto", "directory": "./my-session"}),
        (["shell", "--resume", "clincus-ec0578f9-1-session"], "shell", {"directory": ""}),
        (["--resume", "list"], "list", {"resume": "auto"}),
        (["shell", "-e", "A=1,2", "--env", "B"], "shell", {"env": ("A=1,2", "B")}),
        (["tmux", "send", "c", "--", "--help"], "tmux send", {"text": "--help"}),
        (["exec", "a", "ls", "-l"], "container exec", {"name": "a", "command": ["ls", "-l"]}),
        (["run", "ls", "-l", "--slot", "2"], "run", {"command": ["ls", "-l"], "slot": 2}),
        (["run", "--", "ls", "--slot", "2"], "run", {"command": ["ls", "--slot", "2"], "slot": 0}),
    ],
)
def test_words_become_a_command_and_its_options(words, name, options):
    command, found = parse_command_line(words)
    assert command.name == name
    assert {key: getattr(found, key) for key in options} == options


@table(
    ("words", "message"),
    [
        (["shel"], "unknown command 'shel'.*did you mean 'shell'"),
        (["list", "--form", "json"], "unknown flag: --form; did you mean '--format'"),
        (["snapshot", "delete", "-fx"], "unknown flag: -x"),
        (["list", "--format", "xml"], "'xml': write text or json"),
        (["shell", "--slot", "-1"], "'-1': write a whole number from 0 to 10"),
        (["tmux", "send"], "argument CONTAINER is required"),
        (["kill", "--all", "--slot", "2"], "--slot is no flag"),
        (["run", "--slot", "x", "--network", "y", "true"], "slot 'x': .*; invalid network 'y'"),
        (["run", "-l", "ls"], "put -- in front of a command"),
    ],
)
def test_words_that_cannot_be_read_are_a_mistake_of_usage(words, message):
    with pytest.raises(cli_commands.UsageError, match=message):
        parse_command_line(words)


@table(
    ("words", "message"),
    [
        (["shel"], "unknown command"),
        (["kill", "--all", "--yes", BOX], "give either NAME or --all"),
    ],
)
def test_a_mistake_ends_with_2_in_one_line_and_a_hint_at_help(tmp_path, words, message):
    done = run(*words, environ={"CLINCUS_CONFIG": "", "HOME": str(tmp_path)})
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert error.startswith("Error: ")
    assert message in error
    assert "--help" in hint


# A server, a terminal, and pages of help. `run` and `container exec` have --format json: after the words of another
# program, --json is that program's.
NO_JSON = {"serve", "attach", "help", "man", "completion"}


def test_each_command_prints_its_result_as_json():
    known = [one for one in cli_commands.COMMANDS.values() if not (one.hidden or one.passes_on)]
    assert {one.name for one in known if "--json" not in one.all_flags} == NO_JSON


@table("words", ["--version", "help", "tmux", "run -h"])
def test_help_and_version_need_neither_config_nor_incus(words):
    done = run(*words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_command_that_needs_a_config_or_incus_says_what_is_missing(tmp_path):
    broken, without = run("list"), run("list", environ={"CLINCUS_CONFIG": "", "HOME": str(tmp_path)})
    assert (broken.returncode, without.returncode) == (1, 1)
    assert broken.stderr.startswith("Error: CLINCUS_CONFIG names '/nowhere'")
    assert "`clincus setup`" in without.stderr


# ---- help --------------------------------------------------------------------------------------------------------

SHOWN = [command for command in cli_commands.COMMANDS.values() if command.summary]


@table("width", [40, 80])
def test_each_command_has_a_help_that_fits_a_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for command in SHOWN:
        text = cli_help.command_help(command)
        missing = {"Usage:", "Exit codes:", "Examples:", *(flag.names[-1] for flag in command.flags)}
        assert [word for word in missing if word not in text] == [], command.name
    for text in [cli_help.help_text(""), *map(cli_help.command_help, SHOWN)]:
        prose = [line for line in text.partition("Examples:")[0].splitlines() if not line.startswith("  clincus ")]
        assert max(map(len, prose)) <= width


def test_every_command_stands_in_the_help_of_the_program_or_its_group():
    shown = {line.split()[0] for line in cli_help.help_text("").splitlines() if line.startswith("  ")}
    assert {command.group or command.name for command in SHOWN} <= shown
    assert {command.group for command in SHOWN if command.group} == set(cli_commands.GROUPS)


def test_the_examples_of_help_can_be_read():
    for line, _ in itertools.chain.from_iterable(cli_help.page_of(command)[1] for command in SHOWN):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_punctuation, words in itertools.groupby(lexer, lambda word: set(word) <= set("|&<>();")):
            name, *rest = words
            if not is_punctuation and name == "clincus":
                parse_command_line(rest)


def test_a_locale_without_our_marks_gets_the_output_all_the_same(tmp_path):
    saved = tmp_path / ".clincus/sessions-claude" / ID
    saved.mkdir(parents=True)
    saved.joinpath("metadata.json").write_text(f'{{"session_id": "{ID}", "workspace": "/süd/☃"}}', encoding="utf-8")
    environ = {"PYTHONIOENCODING": "ascii", "HOME": str(tmp_path), "CLINCUS_CONFIG": ""}
    done = execute([sys.executable, str(PROGRAM), "info"], env=environ)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "/süd/☃".encode("ascii", "backslashreplace") in done.stdout


def test_a_locale_of_ascii_keeps_no_name_from_being_used(tmp_path):
    settings = tmp_path / ".config/clincus/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[paths]\nlogs_dir = "~/süd"\n', encoding="utf-8")
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": str(tmp_path), "PATH": "/nowhere"}
    done = execute([sys.executable, str(PROGRAM), "clean"], env=environ)
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "süd").is_dir()


def test_json_holds_nothing_that_a_terminal_obeys(capsys):
    cli_console.print_json({"path": "ü\x9b2J\x7f"})
    assert capsys.readouterr().out == '{\n  "path": "\\u00fc\\u009b2J\\u007f"\n}\n'


# ---- waiting for an agent ----------------------------------------------------------------------------------------

WORKING = {"state": "working", "reason": "", "text": "", "options": []}


def wait_for(monkeypatch, said, *words):
    """Run `wait` while the server answers so, one after the other: an agent object, or the status of an error."""
    left = iter(said)

    def ask(context, method, what):
        one = next(left)
        if isinstance(one, int):
            raise clincus.ClincusError("not now", one)
        return one

    monkeypatch.setattr(cli_agents, "ask_session", ask)
    monkeypatch.setattr(cli_agents, "LOOK_EVERY", 0)
    return run_here("wait", BOX, *words)


def test_a_wait_ends_with_its_session_and_goes_on_while_the_server_restarts(monkeypatch, capsys):
    for said, state in (([WORKING, 404], "ended"), ([WORKING, 503, 503, {**WORKING, "state": "done"}], "done")):
        assert wait_for(monkeypatch, said) == 0
        assert json.loads(capsys.readouterr().out)["state"] == state


def test_a_wait_for_what_was_never_there_or_cannot_come_fails(monkeypatch):
    for said, words, message in (
        ([404], (), "not now"),
        ([503], (), "not now"),
        ([WORKING, 404], ("--for", "done"), "deleted"),
    ):
        with pytest.raises(clincus.ClincusError, match=message):
            wait_for(monkeypatch, said, *words)


# ---- completion --------------------------------------------------------------------------------------------------


@table(
    ("words", "offered"),
    [
        (["sh"], ["shell", "shutdown"]),
        (["tmux", ""], ["send", "capture", "list"]),
        (["list", "--format=j"], ["--format=json"]),
        (["shell", "--tool", "co"], ["copilot", "codex"]),
        (["shell", ""], []),  # the shell offers files
        (["rename", "clincus-abcdef-1", ""], []),  # a name of one's own
    ],
)
def test_what_may_come_next_is_offered(tmp_path, monkeypatch, capsys, words, offered):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    assert run_here("__complete", "--", *words, environ={"HOME": str(tmp_path)}) == 0
    found = [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(found) == sorted(offered)


COMPLETER = """#!/bin/sh
case "$1 $3 $4" in
  __complete*|completion*) exec {python} {program} "$@" ;;
  *) echo "GOT $*" ;;
esac
"""


@pytest.fixture
def completer(tmp_path):
    """The environment of a shell, with a `clincus` that completes, and else prints its words."""
    stub = tmp_path / "clincus"
    stub.write_text(COMPLETER.format(python=sys.executable, program=PROGRAM))
    stub.chmod(0o755)
    return {**NEVER, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb", "PS1": "$ "}


# In zsh by a key at a terminal, as its functions for completion work nowhere else.
ZSH = r"""
zmodload zsh/zpty
zpty terminal zsh -f -i
zpty -w terminal "autoload -Uz compinit; compinit -u -D; source =(clincus completion zsh); echo LOA''DED"
zpty -r terminal shown '*LOADED*'
zpty -n -w terminal $'clincus tmux se\t'
zpty -r terminal shown '*clincus tmux send*' && echo send
"""


@table(
    ("shell", "script"),
    [
        ("bash", ". <(clincus completion bash); COMP_WORDS=(clincus tmux se); COMP_CWORD=2; _clincus; echo $COMPREPLY"),
        ("fish", "clincus completion fish | source; complete -C 'clincus tmux se' | cut -f 1"),
        ("zsh", ZSH),
    ],
)
def test_each_shell_completes_with_what_the_program_offers(completer, shell, script):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = execute([shell, "-c", script], text=True, env=completer, cwd="/")
    assert done.stdout == "send\n", done.stderr


# ---- what is loaded ----------------------------------------------------------------------------------------------


def test_the_table_of_the_files_has_the_words_of_each_command():
    words = {file: set(words.split()) for files in all_commands.TOPICS.values() for file, words in files.items()}
    declared = {file: set() for file in words}
    for command in cli_commands.COMMANDS.values():
        declared[command.run.__module__.rpartition(".")[2]].add(command.name.partition(" ")[0])
    assert {**declared, "completion": set(), "help": set()} == words


# ---- talking -----------------------------------------------------------------------------------------------------


@table(("typed", "agreed"), [("YES\n", True), ("ja\n", False), ("", False)])
def test_only_yes_agrees_to_a_question(monkeypatch, capsys, typed, agreed):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: typed))
    assert cli_console.confirm("Really?", yes=False) is agreed
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Really? [y/N]: ")
    assert "\nCancelled." in shown.err or typed, "the end of input begins no line of its own"


CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"  # sets the clipboard of a terminal that obeys it (OSC 52)


def tell_of_link(text):
    """Tell what a copy left out."""
    context = SimpleNamespace(report=lambda words, document: cli_console.say(words))
    arrival = cli_transfer.Transfer("here", True, [f"a link to {text}"])
    cli_files.report_transfer(context, arrival, "Pulled", "there", "here")


@table(
    "show",
    [cli_console.warn, cli_console.complain, lambda text: print(cli_console.table(None, [(text,)])), tell_of_link],
)
def test_text_of_a_container_cannot_command_the_terminal(show, capsys):
    show(f"out {CLIPBOARD}\u202e")
    said = "".join(capsys.readouterr())
    assert "\\x1b]52;" in said
    assert not {"\x1b", "\x07", "\u202e"} & {*said}


def test_a_screen_of_a_container_keeps_only_its_lines_and_colours():
    shown = cli_run.screen_text(f"one\n\x1b[1;31mred\x1b[0m {CLIPBOARD}\x1b[2J")
    assert shown == "one\n\x1b[1;31mred\x1b[0m \\x1b]52;c;cm0gLXJmIH4=\\x07\\x1b[2J"


# ---- which session a start means ---------------------------------------------------------------------------------


def session(slot: int, status: str = "running", **more):
    """A session of the workspace /w."""
    return a_session(slot, id=f"clincus-abcdef-{slot}", status=status, **{"tool": "claude", **more})


RUNNING, STOPPED = session(1), session(2, "stopped")
KEPT, KEPT_TOO = session(4, "stopped", persistent=True), session(3, "stopped", persistent=True)
PAUSED, COPILOT = session(5, "stopped", paused=True), session(6, tool="copilot")


@table(
    ("here", "wanted", "chosen"),
    [
        ([RUNNING, STOPPED], {}, RUNNING),
        ([RUNNING], {"background": True}, None),
        ([STOPPED], {}, None),
        ([KEPT, KEPT_TOO], {"persistent": True}, KEPT_TOO),
        ([RUNNING, KEPT], {"persistent": True}, RUNNING),
        ([RUNNING, COPILOT], {"tool": "copilot"}, COPILOT),
        ([RUNNING, STOPPED], {"slot": 2}, STOPPED),
        ([RUNNING, COPILOT], {}, "--slot 1 (claude), --slot 6 (copilot)"),
        ([RUNNING], {"slot": 1, "tool": "copilot"}, "slot 1 holds a session of claude"),
    ],
)
def test_a_start_means_a_session_that_is_there_or_a_new_one_or_is_refused(here, wanted, chosen):
    request = clincus.LaunchRequest("/w", tool=wanted.get("tool", ""), slot=wanted.get("slot", 0))
    how = {"persistent": wanted.get("persistent", False), "background": wanted.get("background", False)}
    if isinstance(chosen, str):
        with pytest.raises(clincus.ClincusError, match=re.escape(chosen)):
            cli_shell.choose_session(here, request, **how)
    else:
        assert cli_shell.choose_session(here, request, **how) is chosen


# ---- killing -----------------------------------------------------------------------------------------------------


def kill_one(kill, *flags, is_default=False):
    """Kill one session, which is named or, with `is_default`, meant by the workspace."""
    command, options = parse_command_line(["kill", *flags])
    context = cli_context.Context(command, options, {})
    context.options.name = [BOX]
    context.options.is_default = is_default
    context.__dict__["sessions"] = SimpleNamespace(registry=SimpleNamespace(all=lambda: [a_session()]))
    return cli_sessions.for_each_session(context, ("kill", "Killing", "Killed"), kill, deletes=True)


@table(
    ("flags", "is_default", "typed", "code"),
    [
        ((), False, "n\n", 1),
        ((), False, "y\n", 0),
        (("--yes",), True, None, 0),
        ((), True, None, "give --yes"),  # a script that names none
    ],
)
def test_a_kill_of_one_session_is_agreed_to(monkeypatch, flags, is_default, typed, code):
    stdin = io.StringIO(typed)
    stdin.isatty = lambda: typed is not None
    monkeypatch.setattr(sys, "stdin", stdin)
    killed = []
    if isinstance(code, str):
        with pytest.raises(clincus.ClincusError, match=code):
            kill_one(killed.append, *flags, is_default=is_default)
    else:
        assert kill_one(killed.append, *flags, is_default=is_default) == code
    assert bool(killed) is (code == 0)


# ---- as a program ------------------------------------------------------------------------------------------------


def status_of(pid: int) -> str:
    """What /proc says of a process; of one that is gone, the same as of one that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # before the file was opened, and after that
        return "State:\tZ"


def test_children_are_found_down_to_the_last():
    with subprocess.Popen(["sh", "-c", "sleep 100 & wait"], start_new_session=True) as child:
        wait_until(lambda: cli_relay.children_of(child.pid), "the child")
        family = cli_relay.children_of(child.pid)
        cli_relay.end_with_children(child)
        assert child.returncode is not None
        wait_until(lambda: all("State:\tZ" in status_of(pid) for pid in family), "their end")


@table(
    ("number", "start"),
    [(signal.SIGINT, "start"), (signal.SIGTERM, "clincus")],
)
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
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")


def test_output_that_nobody_reads_ends_quietly():
    reads, writes = os.pipe()
    os.close(reads)
    argv = [sys.executable, str(PROGRAM), "help"]
    done = subprocess.run(argv, stdout=writes, stderr=subprocess.PIPE, env=NEVER, timeout=60, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@table(
    ("line", "end"),
    [
        ("help >/dev/full", (1, "", "Error: the output: No space left on device\n")),
        ("bogus >/dev/full 2>/dev/null", (2, "", "")),
        ("bogus 2>&-", (2, "", "")),
        ("--version <&-", (0, f"clincus version {clincus.__version__} ({clincus.__commit__[:7]})\n", "")),
    ],
)
def test_streams_that_take_nothing_end_it_in_one_line_at_most(line, end):
    environ = NEVER | {"PATH": os.environ["PATH"]}
    done = execute(["bash", "-c", f"{sys.executable} {PROGRAM} {line}"], text=True, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == end
