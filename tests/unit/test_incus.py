"""The door to the `incus` command, with a stand-in for it."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import relay as cli_relay
from tests.programs import DEADLINE, wait_until
from tests.table import table

LOST = "Failed to retrieve PID of executing child process"  # what Incus says when it lost sight of a command
RUN = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'  # `incus exec` without a container


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch):
    """The variable by which a test bed knows its own processes, when it runs in the same worker."""
    monkeypatch.delenv("INCUS_DIR", raising=False)


@pytest.fixture
def incus(tmp_path, monkeypatch):
    """A function that makes a stand-in `incus`: `on_exec` is the script for `incus exec`, `state` what a query says."""
    program = tmp_path / "bin" / "incus"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def make(on_exec: str = RUN, state: str = "Running") -> clincus.Incus:
        answer = f"""echo '{{"status": "{state}"}}'""" if state else "echo 'Error: Instance not found' >&2; exit 1"
        program.write_text(f'#!/bin/bash\ncase "$*" in\nquery*) {answer} ;;\n*) {on_exec} ;;\nesac\n')
        program.chmod(0o755)
        return clincus.Incus()

    return make


@pytest.fixture
def losing(tmp_path, incus):
    """A stand-in that loses sight of a command some times: it runs on closed streams then."""

    def make(times: int) -> clincus.Incus:
        left = tmp_path / "left"
        left.write_text("x" * times)
        lose = f"""if [ -s {left} ]; then
            truncate -s -1 {left}; while [ "$1" != -- ]; do shift; done; shift
            "$@" <&- >&- 2>&-; echo 'Error: {LOST}: {times}' >&2; exit 255
        fi; """
        return incus(lose + RUN)

    return make


# ---- what fails, and why


CREATE = 'Instance is busy running a "create" operation'
ADVICE = "Try `incus info --show-log box` for more info"
KINDS = [  # what Incus 6.0.4 writes, and what it means
    (LOST, "NOT_BEGUN", 500),
    ("Failed to begin transaction: context deadline exceeded", "NOT_BEGUN", 503),
    (f"Failed to create instance start operation: {CREATE}", "NOT_STARTED", 409),
    (f"Failed to create instance stop operation: {CREATE}", "NAME_WANTED", 409),
    ('Instance is busy running a "update" operation', "BUSY", 409),
    ("ETag doesn't match: 0bd5 vs f283", "OVERTAKEN", 500),
    ("A matching non-reusable operation has now succeeded", "DONE_BY_OTHERS", 500),
    ('Failed stopping instance, status is "Running"', "STILL_RUNS", 500),
    (f'container is not running: "box" {ADVICE}', "IS_STOPPED", 500),
    ("Failed getting image: Image not found", "NO_IMAGE", 404),
    ('The remote "tower" doesn\'t exist', "NO_REMOTE", 500),
    ("Failed to run: /usr/libexec/incus/incusd forkstart box /var/lib: exit status 1", "LXC_FAILED", 500),
    ('Instance "box" already exists', "OTHER", 409),
]


def test_a_change_that_another_one_has_overtaken_is_made_again(incus, tmp_path):
    """`incus config set` sends the ETag of what it read, and Incus refuses it if somebody wrote in between."""
    refuse = f"""touch {tmp_path}/tried; echo "Error: ETag doesn't match" >&2; exit 1"""
    once = f"[ -e {tmp_path}/tried ] && echo set || {{ {refuse}; }}"
    assert incus(once).run("config", "set", "box", "limits.cpu=2") == b"set\n"


@table(("words", "kind", "status"), KINDS)
def test_words_of_incus_have_a_kind_and_a_status(words, kind, status):
    failure = clincus.incus_failure(f"Error: {words}\n")
    assert (failure.kind.name, failure.status) == (kind, status)


def test_why_a_command_failed_is_asked_of_incus_and_not_read_from_the_words_of_the_guest(incus):
    forged = b"Error: The incus daemon doesn't appear to be started \x1b]52;c;eA==\x07\xff"
    shown = "The incus daemon doesn't appear to be started \\x1b]52;c;eA==\\x07\ufffd"
    for state, status, words in (
        ("Stopped", 409, "the container is stopped"),
        ("", 404, "Instance not found"),
        ("Running", 500, shown),
    ):
        failure = incus("true", state).guest_failure("box", clincus.Completed(1, b"", forged))
        assert (failure.status, failure.message) == (status, words)


# ---- an interruption


def test_a_launch_that_is_interrupted_ends_by_itself_so_that_its_instance_is_known(incus, tmp_path, monkeypatch):
    door = incus(f"cat >{tmp_path}/read; touch {tmp_path}/asked; sleep 0.3; touch {tmp_path}/made")

    def interrupted(child, stdin):
        child.feed([stdin])
        wait_until((tmp_path / "asked").exists, "the request")
        raise KeyboardInterrupt

    monkeypatch.setattr(clincus.Child, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        door.launch("box", "image", {})
    assert (tmp_path / "made").exists()


# ---- child processes


ENDINGS = {  # how a child is ended, the reason, and which signal it gets: "" if it has time to exit by itself
    "at once": (clincus.AT_ONCE, "", ""),
    "gently": (clincus.Ending(signal.SIGTERM, DEADLINE), "", "TERM"),
    "with time to finish": (clincus.Ending(signal.SIGINT, DEADLINE, DEADLINE), "", ""),
    "too late to finish": (clincus.Ending(signal.SIGINT, DEADLINE, DEADLINE), "it is late", "INT"),
}


@table(("ending", "reason", "number"), ENDINGS.values(), ids=ENDINGS.keys())
def test_a_child_is_ended_as_it_was_agreed(ending, reason, number):
    script = 'for one in INT TERM; do trap "echo $one; exit 1" $one; done; echo ready; read line; echo; exit 0'
    with clincus.Child(["sh", "-c", script], ending=ending) as child:
        assert child.stdout.readline() == b"ready\n"
        if ending.grace and not reason:
            child.stdin.close()  # it comes to its end by itself
        child.end(reason)
        assert (child.stdout.read().strip().decode(), child.failure) == (number, reason)
        assert (child.process.returncode == -signal.SIGKILL) is (ending is clincus.AT_ONCE)


def test_input_that_breaks_off_is_a_failure_and_no_short_input(tmp_path):
    """`tar` takes an archive that ends after its first file for a whole one."""
    (tmp_path / "one").write_text("1")
    files = [clincus.ToolFile("one", source=str(tmp_path / "one")), clincus.ToolFile("two", source="/nonexistent")]
    with clincus.Child(["tar", "-C", str(tmp_path), "-xf", "-"], timeout=DEADLINE) as child:
        with pytest.raises(clincus.ChildError, match=r"its input failed: .*'/nonexistent'") as raised:
            child.complete(clincus.pack_files(files, os.getuid(), os.getgid()))
        assert raised.value.status == 500


def test_output_that_somebody_holds_open_is_a_failure_and_no_short_output(tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "READ_WITHIN", 0.1)
    with pytest.raises(clincus.ChildError, match="left a program behind that holds its output open"):
        clincus.run_child(["sh", "-c", f"echo part; sleep 600 & echo $! >{tmp_path}/pid"], timeout=DEADLINE)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_child_that_takes_too_long_goes_with_all_that_it_started(tmp_path):
    os.mkfifo(tmp_path / "held")
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 3>{tmp_path}/held; sleep 600 & wait"
    with pytest.raises(clincus.ChildError, match=r"^`sh -c .* did not finish within 0\.5 s$"):
        clincus.run_child(["sh", "-c", script], timeout=0.5)
    os.set_blocking(held, True)
    assert os.read(held, 1) == b"", "all that has it open has ended"
    os.close(held)


@contextlib.contextmanager
def many_open():
    """So many files that all that is opened from now on has a number which select(2) does not know."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for _ in range(1024):
            held.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


def test_commands_run_in_a_server_with_more_than_a_thousand_descriptors(incus):
    door, data = incus(), os.urandom(1 << 20)
    with many_open(), giving(b"data") as (given, _):
        assert door.exec("box", ["cat"], stdin=data) == clincus.Completed(0, data, b"")
        with door.open("box", ["cat"], timeout=60) as (stdin, stdout):
            writer = threading.Thread(target=stdin.write, args=(data,))
            writer.start()
            assert stdout.read(len(data)) == data
            writer.join()
        held = cli_relay.Held()
        assert relayed(door, "cat", (held, print), stdin=given) == 0
        assert held.data == b"data"


# ---- commands in a container


COMMANDS = [
    (["sh", "-c", "cat; echo odd >&2; exit 3"], (3, b"data", b"odd\n")),
    (["sh", "-c", "kill -9 $$"], (137, b"", b"")),
    (["printf", "%s|", "a b", "$HOME"], (0, b"a b|$HOME|", b"")),
]


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_a_command_ends_as_it_would_alone(incus, tmp_path, shell):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    door = incus()
    (tmp_path / "bin" / "sh").symlink_to(program)
    for command, end in COMMANDS:
        assert door.exec("box", command, stdin=b"data") == clincus.Completed(*end)


def test_a_command_that_incus_lost_sight_of_runs_once_and_gets_all_of_stdin(losing, tmp_path, capfd):
    ran = tmp_path / "ran"
    for times in (0, 3):
        done = losing(times).exec("box", ["sh", "-c", f"echo x >>{ran}; cat"], stdin=b"data")
        assert done == clincus.Completed(0, b"data", b"")
        with giving(b"data") as (given, _):
            assert relayed(losing(times), f"echo y >>{ran}; cat; echo odd >&2; exit 3", stdin=given) == 3
        assert capfd.readouterr() == ("data", "odd\n")
        assert ran.read_text() == "x\ny\n"
        ran.unlink()
    with pytest.raises(clincus.IncusError, match=LOST):
        losing(1000).exec("box", ["true"])
    with pytest.raises(clincus.IncusError, match=LOST):
        relayed(losing(1000), "true", stdin=None)


def test_a_command_that_was_cut_off_has_failed(incus):
    assert incus().exec("box", ["sh", "-c", "echo half; kill -9 $PPID"]).code == 137
    lost = incus('IFS= read -r mark; printf "%shalf" "$mark"; exit 0')
    assert lost.exec("box", ["true"]) == clincus.Completed(1, b"half", b"")
    with pytest.raises(clincus.IncusError, match="lost the end"), lost.open("box", ["true"], timeout=60) as (_, stdout):
        assert stdout.read() == b"half"


def test_a_command_that_takes_too_long_is_ended_and_told(incus):
    door = incus()
    with pytest.raises(clincus.IncusError, match=r"did not finish within 0\.3 s") as late:
        door.exec("box", ["sleep", "600"], timeout=0.3)
    assert late.value.status == 504
    with (
        pytest.raises(clincus.IncusError, match=r"did not finish within 0\.3 s"),
        door.open("box", ["sleep", "600"], timeout=0.3) as (_, stdout),
    ):
        assert stdout.read() == b""
    with pytest.raises(subprocess.TimeoutExpired):
        relayed(door, "sleep 600", limit=0.3)


def test_a_description_is_made_while_the_client_loads(incus, tmp_path):
    """The client has half an object, which it refuses: if the server is killed now, it makes no bare container."""
    given = tmp_path / "given"
    door = incus(f"cat >{given}; echo >>{given}")

    def launch(description):
        with door.launching("box", "image") as start:
            wait_until(lambda: given.exists() and given.read_bytes() == b"{", "the begin of the client's stdin")
            if description is None:
                raise clincus.ClincusError("a workspace that cannot be protected", 409)
            start(description)

    launch({"config": {}})
    assert given.read_bytes() == b'{"config": {}}\n'
    with pytest.raises(clincus.ClincusError, match="cannot be protected"):
        launch(None)
    assert given.read_bytes() == b"{\n", "the client is left to end, with half an object"


def test_a_command_that_writes_too_much_is_ended_and_told(incus, monkeypatch):
    monkeypatch.setattr(clincus, "OUTPUT_LIMIT", 1 << 20)
    monkeypatch.setattr(clincus, "GENTLE", clincus.AT_ONCE)
    for stream in (1, 2):
        with pytest.raises(clincus.IncusError, match="wrote more than 1 MiB") as refused:
            incus().exec("box", ["sh", "-c", f"head -c 3000000 /dev/zero >&{stream}"])  # no end would fill our memory
        assert refused.value.status == 500
    with (
        pytest.raises(clincus.IncusError, match="more than was asked for"),
        incus().open("box", ["yes"], timeout=60) as (_, stdout),
    ):
        stdout.read(10)
    held = cli_relay.Held(100_000), cli_relay.Held()
    assert relayed(incus(), "yes", held) == 128 + signal.SIGPIPE
    assert held[0].is_full


MARK = b"<mark>"


@table("size", [1, 1 << 16])
@table(
    ("data", "text"),
    [
        (b"text" + MARK + b" " * 100_000, b"text"),
        (b"<mar" + MARK[:5] + MARK, b"<mar" + MARK[:5]),
        (b"cut off" + MARK[:-1], b"cut off" + MARK[:-1]),
    ],
)
def test_output_is_read_up_to_the_mark(data, text, size):
    source = io.BytesIO(data)
    pieces = SimpleNamespace(read=lambda most: source.read(min(size, most)), close=source.close)
    assert clincus.MarkedReader(pieces, MARK).readall() == text


# ---- commands on our own streams


def relayed(incus, script, *sinks, **options):
    """The exit code of a script on our streams."""
    return cli_relay.run_relayed(incus, "box", ["sh", "-c", script], *sinks, **options)


@contextlib.contextmanager
def giving(data: bytes | None = None):
    """Both ends of a pipe that gives some data, or stays open. It is closed after the threads that read it."""
    before = set(threading.enumerate())
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0) as end:
        if data is not None:
            end.write(data)
            end.close()
        yield reader, writer
        for thread in set(threading.enumerate()) - before:
            if thread.name != "deadlines":
                thread.join()


PASS_ON = """
import os, signal, subprocess, sys
children, early = [], []
def pass_on(number, frame):
    children[0].send_signal(number) if children else early.append(number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
    signal.signal(number, pass_on)
children.append(subprocess.Popen(sys.argv[sys.argv.index("--") + 1:], start_new_session=True))
for number in early:
    children[0].send_signal(number)
sys.exit(children[0].wait())
"""


@pytest.mark.parametrize("coreutils", [True, False])
def test_a_signal_is_passed_on_to_a_relayed_command_that_then_ends_by_itself(incus, tmp_path, coreutils):
    """By the wrapper alone: the stand-in for `incus` gives the command a session of its own."""
    if not coreutils:
        (tmp_path / "bin" / "env").symlink_to("/bin/false")
    door = incus(f"exec {sys.executable} -S -c '{PASS_ON}' \"$@\"")
    traps = 'for s in INT TERM HUP; do trap "echo $s; exit 9" $s; done'
    script = f"{traps}; echo READY; while :; do sleep 0.01; done"
    for number in (signal.SIGINT, signal.SIGHUP):
        held = cli_relay.Held()

        def on_output(piece, held=held, number=number):
            held(piece)
            if piece == b"READY\n":
                os.kill(os.getpid(), number)

        assert relayed(door, script, (on_output, print), passes=[number]) == 9
        expected = number.name[3:] if coreutils or number != signal.SIGINT else "TERM"
        assert held.data.decode().split()[1] == expected


@table(
    ("reachable", "members", "starts"),
    [
        ("unix.socket", ["ann"], "incus"),
        ("unix.socket.user", ["ann"], "sg"),  # of incus-user, which shows another project
    ],
)
def test_a_new_member_of_the_group_reaches_the_whole_incus(monkeypatch, tmp_path, reachable, members, starts):
    for name in ("unix.socket", "unix.socket.user"):
        (tmp_path / name).touch()
    monkeypatch.setenv("INCUS_DIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: os.path.basename(path) == reachable)
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_name="ann"))
    monkeypatch.setattr("grp.getgrnam", lambda _: SimpleNamespace(gr_mem=members))
    assert clincus.Incus(group="incus-admin")._as_member(["incus", "list"])[0] == starts
