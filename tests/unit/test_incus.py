"""The door to the `incus` command, with a stand-in for it."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
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


# ---- what fails, and why -------------------------------------------------------------------------------------------

FORGED = "tar: not found", "Error: The incus daemon doesn't appear to be started", "already exists", "{x}{0}"


@pytest.mark.parametrize("words", FORGED)
def test_words_of_a_guest_are_no_words_of_incus(incus, words):
    door = incus("true")
    failure = door.guest_failure("box", clincus.Completed(2, b"", words.encode()))
    assert (failure.status, failure.message) == (500, words.removeprefix("Error: "))


CREATE = 'Instance is busy running a "create" operation'
ADVICE = "Try `incus info --show-log box` for more info"
KINDS = [  # what Incus 6.0.4 writes, and what it means
    ("Failed to retrieve PID of executing child process", "NOT_BEGUN", 500),
    ("Failed to begin transaction: context deadline exceeded", "NOT_BEGUN", 503),
    (f"Failed to create instance start operation: {CREATE}", "NOT_STARTED", 409),
    (f"{CREATE}\n{ADVICE}", "NOT_STARTED", 409),
    (f"Failed to create instance stop operation: {CREATE}", "NAME_WANTED", 409),
    ('Instance is busy running a "update" operation', "BUSY", 409),
    (f"no such disk\n{ADVICE}", "OTHER", 500),
    ("A matching non-reusable operation has now succeeded", "DONE_BY_OTHERS", 500),
    ("The instance is already stopped", "IS_STOPPED", 500),
    ('Failed stopping instance, status is "Running"', "STILL_RUNS", 500),
    (f'container is not running: "box" {ADVICE}', "IS_STOPPED", 500),
    ("Daemon is shutting down", "LEAVING", 503),
    ("Failed getting image: Image not found", "NO_IMAGE", 404),
    ("Instance not found", "OTHER", 404),
    ("Device doesn't exist", "NO_DEVICE", 500),
    ('The remote "tower" doesn\'t exist', "NO_REMOTE", 500),
    (
        "Failed to run: /usr/libexec/incus/incusd forkstart box /var/lib/incus/containers: exit status 1",
        "LXC_FAILED",
        500,
    ),
    ('Invalid PID "-1"', "LXC_ENDS", 500),
    ('Instance "box" already exists', "OTHER", 409),
    ("exit status 1", "OTHER", 500),
]


@table(("words", "kind", "status"), KINDS)
def test_words_of_incus_have_a_kind_and_a_status(words, kind, status):
    failure = clincus.incus_failure(f"Error: {words}\n")
    assert (failure.kind.name, failure.status) == (kind, status)


def test_an_incus_that_does_not_answer_in_time_hangs(incus):
    for engine in ("", "far"):
        door = incus("sleep 60")
        door.engine = engine
        with pytest.raises(clincus.IncusError) as raised:
            door.run("list", timeout=0.1)
        assert raised.value.kind is clincus.FailureKind.HANGS


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [("Stopped", 409, "the container is stopped"), ("", 404, "Instance not found"), ("Running", 500, "exit code 1")],
)
def test_why_a_command_failed_is_asked_of_incus(incus, state, status, words):
    failure = incus("true", state).guest_failure("box", clincus.Completed(1, b"", b""))
    assert (failure.status, failure.message) == (status, words)


def test_what_a_guest_says_is_written_as_plain_text():
    done = clincus.Completed(1, b"", b"Error: a\x1b]52;c;eA==\x07\nb\xff")
    assert done.reason == "a\\x1b]52;c;eA==\\x07\nb\ufffd"


# ---- another one of the same name -----------------------------------------------------------------------------------

WANTED = f"Error: {CREATE}"  # which Incus says of one that is there, too
NOT_STARTED = f"Error: Failed to create instance start operation: {WANTED[7:]}"  # of a launch that has made it


@pytest.fixture
def wanted(tmp_path, incus):
    """A stand-in that is told to fail: a file named after a command has the words; the calls are lines of `calls`."""

    def make(**words: str) -> clincus.Incus:
        for command, text in words.items():
            (tmp_path / command).write_text(text)
        refuse = f'shift 2; echo "$1" >>{tmp_path}/calls; cd {tmp_path}; ! cat "$1" >&2 || {{ rm "$1"; exit 1; }}'
        return incus(f"{refuse} 2>/dev/null")

    return make


def calls(tmp_path) -> list[str]:
    return (tmp_path / "calls").read_text().split()


@pytest.mark.parametrize("command", ["start", "stop", "delete"])
def test_what_is_refused_while_another_one_of_the_name_is_being_made_is_tried_again(wanted, tmp_path, command):
    wanted(**{command: WANTED}).run(command, "box")
    assert calls(tmp_path) == [command, command]


@pytest.mark.parametrize("words", [NOT_STARTED, f"{WANTED}\n{ADVICE}"], ids=["6.0.4", "before"])
def test_an_instance_that_was_made_and_not_started_since_its_name_is_wanted_is_started(wanted, tmp_path, words):
    wanted(launch=words, start=WANTED).launch("box", "image", {})
    assert calls(tmp_path) == ["launch", "start", "start"]


NOT_MADE = f"Error: Failed creating instance record: {WANTED[7:]}"


@pytest.mark.parametrize("words", [NOT_MADE, f"Error: no such disk\n{ADVICE}"], ids=["not made", "cannot be started"])
def test_a_launch_that_failed_for_another_reason_starts_nothing(wanted, tmp_path, words):
    with pytest.raises(clincus.IncusError):
        wanted(launch=words).launch("box", "image", {})
    assert calls(tmp_path) == ["launch"]


# ---- an interruption ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["launch", "update"])
def test_a_client_that_is_lost_at_its_start_reads_half_an_object_and_so_changes_nothing(
    incus, tmp_path, monkeypatch, command
):
    class Interrupted(subprocess.Popen):  # a signal comes between the fork and the end of `Popen`
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            raise KeyboardInterrupt

    door = incus(f"cat >{tmp_path}/reading; mv {tmp_path}/reading {tmp_path}/read")
    monkeypatch.setattr(clincus.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        door.launch("box", "image", {}) if command == "launch" else door.update("box", {"config": {}})
    wait_until((tmp_path / "read").exists, "the end of the client")
    assert (tmp_path / "read").read_text() == "{"


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


# ---- child processes -----------------------------------------------------------------------------------------------


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

    def is_let_go() -> bool:
        with contextlib.suppress(BlockingIOError):
            return os.read(held, 1) == b""
        return False

    wait_until(is_let_go, "the end of all that has it open")
    os.close(held)


@table("stream", [1, 2])
@table(("limit", "most"), [(1 << 20, "1 MiB"), (256 << 10, "256 KiB")])
def test_a_child_that_writes_too_much_is_ended(monkeypatch, stream, limit, most):
    monkeypatch.setattr(clincus, "OUTPUT_LIMIT", limit)
    with pytest.raises(clincus.ChildError, match=f"wrote more than {most}"):
        clincus.run_child(["sh", "-c", f"exec yes >&{stream}"], timeout=60)


def test_a_child_gets_its_stdin_while_it_writes():
    data = os.urandom(1 << 20)
    assert clincus.run_child(["cat"], stdin=data, timeout=60) == clincus.Completed(0, data, b"")


def test_deadlines_are_met_in_the_order_of_their_times():
    deadlines = clincus.Deadlines()
    met: queue.Queue[str] = queue.Queue()
    deadlines.add(600, lambda: met.put("much later"))
    deadlines.add(0.2, lambda: met.put("second"))
    cancelled = deadlines.add(0.1, lambda: met.put("cancelled"))
    deadlines.add(0.05, lambda: met.put("first"))
    cancelled.cancel()
    assert [met.get(timeout=DEADLINE), met.get(timeout=DEADLINE)] == ["first", "second"]
    assert met.empty()


def test_what_is_slow_to_end_holds_up_no_other_deadline():
    deadlines = clincus.Deadlines()
    has_ended = threading.Event()
    release = threading.Event()
    deadlines.add(0, release.wait)
    deadlines.add(0.05, has_ended.set)
    assert has_ended.wait(DEADLINE)
    release.set()


def test_deadlines_that_are_cancelled_do_not_pile_up():
    """A transfer sets a new one for each piece."""
    deadlines = clincus.Deadlines()
    for _ in range(1000):
        deadlines.add(3600, print).cancel()
    assert len(deadlines._heap) <= 66


def test_a_child_that_has_ended_leaves_nothing_for_the_garbage_collector():
    with clincus.Child(["true"], timeout=60) as child:
        left = weakref.ref(child)
        child.wait()
    gc.disable()
    try:
        del child
        assert left() is None
    finally:
        gc.enable()


@pytest.fixture
def many_open():
    """So many files that all that is opened from now on has a number which select(2) does not know."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_open")
def test_commands_run_in_a_server_with_more_than_a_thousand_descriptors(incus):
    door, data = incus(), os.urandom(1 << 20)
    assert door.exec("box", ["cat"], stdin=data) == clincus.Completed(0, data, b"")
    with door.open("box", ["cat"], timeout=60) as (stdin, stdout):
        threading.Thread(target=stdin.write, args=(data,)).start()
        assert stdout.read(len(data)) == data


def test_a_command_takes_one_core_unless_the_environment_says_how_many(incus, monkeypatch):
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    door = incus(state="'$GOMAXPROCS'")
    assert door.query("/1.0")["status"] == "1"
    assert door.exec("box", ["printenv", "GOMAXPROCS"]).stdout == b"1\n"
    monkeypatch.setenv("GOMAXPROCS", "8")
    assert door.query("/1.0")["status"] == "8"


def test_a_program_that_is_not_there_is_told(incus):
    with pytest.raises(clincus.ChildError, match="`nope` cannot be started"):
        clincus.run_child(["nope"], timeout=1)


def test_a_word_that_is_no_text_is_told_and_leaves_no_descriptor_open():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(clincus.ChildError, match=r"`echo` cannot be started: '\\ud800' is no text"):
            clincus.run_child(["echo", "\ud800"], timeout=1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_program_gets_its_words_in_utf8_whatever_the_locale():
    code = "import clincus; print(clincus.run_child(['printf', '%s', '⎿'], timeout=20).stdout == '⎿'.encode())"
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-"], input=code.encode(), env=environ, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"True\n", b"")


# ---- commands in a container ---------------------------------------------------------------------------------------


@pytest.fixture(params=["dash", "bash", "busybox"])
def shell(request, tmp_path, incus):
    """`sh` is this shell."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"there is no {request.param} here")
    (tmp_path / "bin" / "sh").symlink_to(program)


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(
    ("command", "end"),
    [
        (["sh", "-c", "cat; echo odd >&2; exit 3"], (3, b"data", b"odd\n")),
        (["sh", "-c", "kill -9 $$"], (137, b"", b"")),
        (["sh", "-c", "exec nope 2>/dev/null"], (127, b"", b"")),
        (["printf", "%s|", "a b", "$HOME"], (0, b"a b|$HOME|", b"")),
        (["true"], (0, b"", b"")),
    ],
)
def test_a_command_ends_as_it_would_alone(incus, command, end):
    assert incus().exec("box", command, stdin=b"data") == clincus.Completed(*end)


def test_the_end_of_a_command_waits_until_all_is_read():
    words = ["sh", "-c", clincus.packaged_text("guest/exec.sh"), "exec", "echo", "x"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdin.write(b"MARK\n")
        process.stdin.flush()
        assert process.stdout.read(10) == b"MARKx\nMARK"
        assert process.stderr.read(4) == b"MARK"
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_command_that_incus_lost_sight_of_runs_once_and_gets_all_of_stdin(losing, tmp_path, times):
    done = losing(times).exec("box", ["sh", "-c", f"echo x >>{tmp_path}/ran; cat"], stdin=b"data")
    assert done == clincus.Completed(0, b"data", b"")
    assert (tmp_path / "ran").read_text() == "x\n"


STARVED = "Failed to begin transaction: context deadline exceeded"


@pytest.mark.parametrize("words", ["Timed out waiting for websockets to connect", "Operation not found", STARVED])
def test_a_command_that_a_busy_machine_began_too_late_is_run_again(incus, tmp_path, words):
    door = incus(f"[ -e {tmp_path}/late ] || {{ touch {tmp_path}/late; echo 'Error: {words}' >&2; exit 1; }}; {RUN}")
    assert door.exec("box", ["cat"], stdin=b"data") == clincus.Completed(0, b"data", b"")


def test_a_command_that_incus_always_loses_fails_with_its_words(losing):
    with pytest.raises(clincus.IncusError, match=LOST):
        losing(1000).exec("box", ["true"])


def test_all_tries_of_a_command_have_one_time_together(losing, monkeypatch):
    """Each is lost just before its time is over."""
    clock, given = [0.0], []

    class Late(clincus.GuestCommand):
        def __init__(self, argv, *, timeout: float, **options) -> None:
            given.append(timeout)
            clock[0] += timeout * 0.6
            super().__init__(argv, timeout=60, **options)

    monkeypatch.setattr(clincus, "GuestCommand", Late)
    monkeypatch.setattr(clincus.time, "monotonic", lambda: clock[0])
    with pytest.raises(clincus.IncusError, match=LOST):
        losing(1000).exec("box", ["true"], timeout=100)
    assert given == [100, 40, 16, 6.4, 2.6, 1, 0.4, 0.2, 0.1]


def test_a_command_that_was_cut_off_has_failed(incus):
    assert incus().exec("box", ["sh", "-c", "echo half; kill -9 $PPID"]).code == 137
    lost = incus('IFS= read -r mark; printf "%shalf" "$mark"; exit 0')
    assert lost.exec("box", ["true"]) == clincus.Completed(1, b"half", b"")
    with pytest.raises(clincus.IncusError, match="lost the end"), lost.open("box", ["true"], timeout=60) as (_, stdout):
        assert stdout.read() == b"half"


def test_a_command_that_takes_too_long_is_ended_and_told(incus):
    with pytest.raises(clincus.IncusError, match=r"did not finish within 0\.5 s") as late:
        incus().exec("box", ["sleep", "600"], timeout=0.5)
    assert late.value.status == 504
    with (
        pytest.raises(clincus.IncusError, match=r"did not finish within 0\.5 s"),
        incus().open("box", ["sleep", "600"], timeout=0.5) as (_, stdout),
    ):
        assert stdout.read() == b""


def test_a_description_is_made_while_the_client_loads(incus, tmp_path):
    """The client has half an object, which it refuses: if the server is killed now, it makes no bare container."""
    given = tmp_path / "given"
    with incus(f"cat >{given}; echo >>{given}").launching("box", "image") as start:
        wait_until(lambda: given.exists() and given.read_bytes() == b"{", "the begin of the client's stdin")
        start({"config": {}})
    assert given.read_bytes() == b'{"config": {}}\n'


def test_a_description_that_cannot_be_made_makes_nothing(incus, tmp_path):
    given = tmp_path / "given"
    door = incus(f"cat >{given}; echo >>{given}")

    def launch() -> None:
        with door.launching("box", "image"):
            wait_until(given.exists, "the client")
            raise clincus.ClincusError("a workspace that cannot be protected", 409)

    with pytest.raises(clincus.ClincusError, match="cannot be protected"):
        launch()
    assert given.read_bytes() == b"{\n", "the client is left to end, with half an object"


@pytest.mark.parametrize("stream", [1, 2])
def test_a_command_that_writes_too_much_is_ended_and_told(incus, monkeypatch, stream):
    monkeypatch.setattr(clincus, "OUTPUT_LIMIT", 1 << 20)
    with pytest.raises(clincus.IncusError, match="wrote more than 1 MiB") as refused:
        incus().exec("box", ["sh", "-c", f"exec yes >&{stream}"])
    assert refused.value.status == 500


def test_an_open_command_reads_and_writes(incus):
    with incus().open("box", ["sh", "-c", "read a; echo $a; read b; echo $b"], timeout=60) as (stdin, stdout):
        for word in (b"one\n", b"two\n"):
            stdin.write(word)
            assert stdout.readline() == word


def test_what_a_command_says_beats_the_broken_pipe(incus):
    command = ["sh", "-c", "exec <&-; echo no space >&2; exit 1"]
    with (
        pytest.raises(clincus.IncusError, match="no space"),
        incus().open("box", command, timeout=60) as (stdin, _),
    ):
        stdin.write(b"x" * 10_000_000)


def test_a_command_may_not_write_much_more_than_is_wanted(incus):
    with (
        pytest.raises(clincus.IncusError, match="more than was asked for"),
        incus().open("box", ["yes"], timeout=60) as (_, stdout),
    ):
        stdout.read(10)


MARK = b"<mark>"


@table("size", [1, 3, 1 << 16])
@table(
    ("data", "text"),
    [
        (b"", b""),
        (b"all of it", b"all of it"),
        (b"text" + MARK + b" " * 100_000, b"text"),
        (MARK * 2, b""),
        (b"<mar" + MARK[:5] + MARK, b"<mar" + MARK[:5]),
        (b"cut off" + MARK[:-1], b"cut off" + MARK[:-1]),
    ],
    ids=["nothing", "no mark", "a mark", "two marks", "its beginning in front of it", "its beginning alone"],
)
def test_output_is_read_up_to_the_mark(data, text, size):
    source = io.BytesIO(data)
    pieces = SimpleNamespace(read=lambda most: source.read(min(size, most)), close=source.close)
    assert clincus.MarkedReader(pieces, MARK).readall() == text


# ---- commands on our own streams -----------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    """Both ends of a pipe. They are closed after the threads that read them: their numbers may soon be of another."""
    before = set(threading.enumerate())
    reads, writes = os.pipe()
    with open(reads, "rb"), open(writes, "wb"):
        yield reads, writes
        for thread in set(threading.enumerate()) - before:
            thread.join()


def relayed(incus, script, *sinks, **options):
    """The exit code of a script on our streams."""
    return cli_relay.run_relayed(incus, "box", ["sh", "-c", script], *sinks, **options)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 37", 37), ("kill -9 $$", 137)])
def test_a_relayed_command_gives_the_exit_code_as_a_shell_would(incus, script, code):
    assert relayed(incus(), script) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("coreutils", [True, False])
def test_a_signal_is_passed_on_to_a_relayed_command_that_then_ends_by_itself(incus, tmp_path, number, coreutils):
    """By the wrapper alone: the stand-in for `incus` gives the command a session of its own."""
    if not coreutils:
        (tmp_path / "bin" / "env").symlink_to("/bin/false")
    door = incus(f"exec {sys.executable} -c '{PASS_ON}' \"$@\"")
    traps = 'for s in INT TERM HUP; do trap "echo $s; exit 9" $s; done'
    script = f"{traps}; echo READY; while :; do sleep 0.01; done"
    held = cli_relay.Held()

    def on_output(piece):
        held(piece)
        if piece == b"READY\n":
            os.kill(os.getpid(), number)

    assert relayed(door, script, (on_output, print), passes=[number]) == 9
    assert held.data.decode().split()[1] == (number.name[3:] if coreutils or number != signal.SIGINT else "TERM")


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


def test_output_and_errors_are_relayed_apart_while_the_command_runs(incus, capfd, pipe):
    reads, writes = pipe
    held = cli_relay.Held()
    sinks = (lambda piece: (held(piece), os.write(writes, b"\n")), cli_relay.OUR_STREAMS[1])
    script = "echo question; read answer; echo problem >&2; exit 3"
    assert relayed(incus(), script, sinks, stdin=reads) == 3
    assert (bytes(held.data), *capfd.readouterr()) == (b"question\n", "", "problem\n")


def test_a_relayed_command_that_writes_too_much_is_cut_off(incus):
    held = cli_relay.Held(100_000), cli_relay.Held()
    assert relayed(incus(), "yes", held) == 128 + signal.SIGPIPE
    assert held[0].is_full


def test_a_relayed_command_that_nobody_ends_is_ended_after_its_time(incus):
    with pytest.raises(subprocess.TimeoutExpired):
        relayed(incus(), "sleep 600", limit=0.5)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_relayed_command_that_incus_lost_sight_of_runs_once(losing, tmp_path, capfd, times):
    reads, writes = os.pipe()
    os.write(writes, b"data")
    os.close(writes)
    script = f"echo x >>{tmp_path}/ran; cat; echo odd >&2; exit 3"
    assert relayed(losing(times), script, stdin=reads) == 3
    assert capfd.readouterr() == ("data", "odd\n")
    assert (tmp_path / "ran").read_text() == "x\n"
    os.close(reads)


def test_a_relayed_command_that_incus_always_loses_fails_with_its_words(losing):
    with pytest.raises(clincus.IncusError, match=LOST):
        relayed(losing(1000), "true", stdin=None)


def test_a_sink_that_fails_once_the_command_has_ended_holds_nothing_up(incus):
    """The mark of the end lies in the pipe that is closed then, and guest/exec.sh waits until somebody has seen it."""

    def waits() -> bool:
        names = []
        for pid in cli_relay.children_of(os.getpid()):
            with contextlib.suppress(OSError):
                names.append(Path(f"/proc/{pid}/comm").read_text())
        return "sleep\n" in names

    def fail(_: bytes) -> None:
        wait_until(waits, "the end of the command")
        raise BrokenPipeError

    assert relayed(incus(), "echo x", (fail, print)) in (0, 141)


def test_output_that_cannot_be_written_is_told(incus):
    with open("/dev/full", "wb") as full, pytest.raises(OSError, match="No space left"):
        relayed(incus(), "echo x", (lambda piece: clincus.write_all(full.fileno(), piece), print))


@table(
    ("reachable", "members", "starts"),
    [
        ({"unix.socket"}, ["ann"], "incus"),
        (set(), ["ann"], "sg"),
        ({"unix.socket.user"}, ["ann"], "sg"),  # of incus-user, which shows another project
        ({"unix.socket.user"}, [], "incus"),
    ],
)
def test_a_new_member_of_the_group_reaches_the_whole_incus(monkeypatch, tmp_path, reachable, members, starts):
    for name in ("unix.socket", "unix.socket.user"):
        (tmp_path / name).touch()
    monkeypatch.setenv("INCUS_DIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: os.path.basename(path) in reachable)
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_name="ann"))
    monkeypatch.setattr("grp.getgrnam", lambda _: SimpleNamespace(gr_mem=members))
    assert clincus.Incus(group="incus-admin")._as_member(["incus", "list"])[0] == starts
