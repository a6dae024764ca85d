"""The commands for containers, files, snapshots and images against a real Incus."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import stat
import subprocess
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clincus
from clincus_cli import containers as cli_containers
from clincus_cli import images as cli_images
from tests.programs import DEADLINE, program, wait_until


@pytest.fixture
def command(bed, home, tmp_path):
    """A function that gives the words and options to start a command line with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLINCUS_", "XDG_"))}
    environ = {**kept, **bed.environ, "HOME": str(home)}
    return lambda *words: {"args": [*program(), *words], "env": environ, "cwd": tmp_path}


@pytest.fixture
def run(command):
    """A function that runs a command line without a terminal and returns how it ended."""

    def run_words(*words, data=b""):
        return subprocess.run(**command(*words), input=data, capture_output=True, timeout=DEADLINE * 2, check=False)

    return run_words


@pytest.fixture
def succeed(run):
    """The same for one that must succeed; its stdout."""

    def run_words(*words, data=b""):
        done = run(*words, data=data)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return run_words


@pytest.fixture
def box(bed, succeed):
    """A container of no session."""
    succeed("container", "launch", "clincus", "box")
    bed.wait_for_init("box")
    return "box"


@pytest.fixture(scope="module")
def shared_box(bed):
    """A container of no session for those tests that each use another part of it, and leave it running."""
    with bed.keeping("shared"):
        bed.incus.launch("shared", "clincus", {})
        yield "shared"


# ---- container


@pytest.mark.day
def test_a_container_is_launched_paused_stopped_started_and_deleted(bed, box, succeed, run):
    config = bed.ask(f"/1.0/instances/{box}")["config"]
    assert {key: config.get(key) for key in cli_containers.NESTING} == dict.fromkeys(cli_containers.NESTING, "true")
    done = run("container", "launch", "clincus", box)
    assert (done.returncode, b"already" in done.stderr) == (1, True)
    bed.incus.run("pause", box)
    done = run("container", "exec", box, "true")
    assert (done.returncode, f"clincus container start {box}".encode() in done.stderr) == (1, True)
    succeed("container", "start", box)
    succeed("container", "stop", box)
    assert bed.state(box) == "Stopped"
    assert run("container", "running", box).returncode == 1
    succeed("container", "start", box)
    assert run("container", "running", box).returncode == 0
    succeed("container", "delete", "--force", box)
    assert run("container", "exists", box).returncode == 1
    assert run("container", "launch", "nope", box).returncode == 1
    assert box not in bed.names()


@pytest.mark.day
def test_exec_passes_data_codes_users_and_variables_on(shared_box, run, succeed):
    data = bytes(range(256)) * 4096
    done = run("container", "exec", shared_box, "--", "sh", "-c", "cat; echo odd >&2", data=data)
    assert (done.stdout, done.stderr) == (data, b"odd\n")
    for script, code in (("exit 41", 41), ("kill -9 $$", 137), ("nope", 127)):
        assert run("container", "exec", shared_box, "--", "sh", "-c", script).returncode == code
    says = ("--", "sh", "-c", "echo ' out '; echo err >&2; exit 3")
    captured = json.loads(succeed("container", "exec", shared_box, "--capture", *says))
    assert captured == {"exit_code": 3, "stderr": "err\n", "stdout": " out \n"}
    done = run("container", "exec", shared_box, "--capture", "--format=raw", *says)
    assert (done.returncode, done.stdout, done.stderr) == (3, b" out \n", b"")
    flags = ("--user", "1000", "--group", "50", "--cwd", "/tmp", "--env", "A=1,2")
    script = 'echo "$(id -u) $(id -g) $PWD $A $HOME"'
    assert succeed("container", "exec", shared_box, *flags, "--", "sh", "-c", script) == "1000 50 /tmp 1,2 /home/code\n"
    done = run("container", "exec", shared_box, "--cwd", "/nope", "--", "touch", "/made")
    assert (done.returncode, b"/nope" in done.stderr) == (1, True)
    listed = json.loads(succeed("container", "list", "--format", "json"))
    assert shared_box in [entry["name"] for entry in listed]


def test_each_of_many_commands_at_once_runs_once_and_no_output_is_lost(shared_box, run):
    """Incus 6.0.4 alone loses the output of one in seven here, and calls one in fifty failed that has run."""
    script = "echo out; cat; echo err >&2; echo x >>/tmp/ran-$1; exit 3"
    with ThreadPoolExecutor(6) as workers:
        words = ("container", "exec", shared_box, "--", "sh", "-c", script, "sh")
        ends = list(workers.map(lambda number: run(*words, str(number), data=b"data\n"), range(200)))
    assert Counter((end.returncode, end.stdout, end.stderr) for end in ends) == {(3, b"out\ndata\n", b"err\n"): 200}
    assert run("container", "exec", shared_box, "--", "sh", "-c", "cat /tmp/ran-*").stdout == b"x\n" * 200


def arguments_of_all_programs():
    """What every user of this machine can read of its programs."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


@pytest.mark.day
def test_a_variable_of_exec_is_in_no_argument_list(bed, shared_box, command):
    mark, value = f"mark-{uuid.uuid4()}", f"it's {uuid.uuid4()}"
    words = command("container", "exec", shared_box, "-e", "KEY", "--", "sh", "-c", f'echo "$KEY"; cat; : {mark}')
    words["env"]["KEY"] = value
    process = subprocess.Popen(**words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == f"{value}\n".encode()
    arguments = b"".join(arguments_of_all_programs())
    assert (mark.encode() in arguments, value.encode() in arguments) == (True, False)
    process.communicate(timeout=DEADLINE)
    assert bed.shell(shared_box, "ls /run | grep clincus-exec || echo none") == "none\n"


def test_exec_gives_a_terminal_and_a_signal_to_it_ends_the_command_inside(bed, shared_box, command):
    main, side = pty.openpty()
    try:
        words = command("container", "exec", "-t", shared_box, "--", "sh", "-c", "test -t 0 && test -t 1 && exit 5")
        process = subprocess.Popen(**words, stdin=side, stdout=side, stderr=side, start_new_session=True)
        assert process.wait(timeout=DEADLINE) == 5
    finally:
        os.close(main)
        os.close(side)
    words = command("container", "exec", shared_box, "--", "sh", "-c", "echo ready; exec sleep 1234")
    process = subprocess.Popen(**words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE) == 143
    process.stdout.close()
    wait_until(lambda: "1234" not in bed.shell(shared_box, "ps ax -o args= | grep -v grep"), "the command to end")


# ---- file


@pytest.fixture
def source(tmp_path):
    """A directory with a file, a link and a private folder in it."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub").chmod(0o700)
    (folder / "sub/run.sh").write_text("echo hello\n")
    (folder / "sub/run.sh").chmod(0o755)
    (folder / "link").symlink_to("sub/run.sh")
    return folder


@pytest.mark.day
def test_a_directory_goes_in_and_comes_out_the_same(shared_box, succeed, run, *, source, tmp_path):
    succeed("file", "push", "-r", str(source), f"{shared_box}:/srv/made/copy")
    succeed("file", "push", "-r", str(source), f"{shared_box}:/opt")
    assert succeed("container", "exec", shared_box, "sh", "/opt/source/link") == "hello\n"
    succeed("file", "pull", "-r", f"{shared_box}:/srv/made/copy", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/run.sh").read_text() == "echo hello\n"
    assert os.readlink(tmp_path / "back/link") == "sub/run.sh"
    modes = [stat.S_IMODE(os.stat(tmp_path / "back" / name).st_mode) for name in ("sub", "sub/run.sh")]
    assert modes == [0o700, 0o755]
    (tmp_path / "here").mkdir()
    succeed("file", "pull", f"{shared_box}:/etc", str(tmp_path / "here"))
    (tmp_path / "here/etc/passwd").write_text("mine")
    done = run("file", "pull", f"{shared_box}:/etc", str(tmp_path / "here"))
    assert (done.returncode, b"exists already: move it away" in done.stderr) == (1, True)
    assert (tmp_path / "here/etc/passwd").read_text() == "mine"
    succeed("file", "pull", f"{shared_box}:/proc/version", ".")  # larger than it says
    assert (tmp_path / "version").read_text().startswith("Linux")


def test_what_is_pushed_belongs_to_the_owner_of_its_place_and_no_link_of_a_container_leads_a_copy_away(
    bed, shared_session, succeed, run, *, source, tmp_path
):
    session, workspace = shared_session["id"], Path(shared_session["workspace"])
    succeed("file", "push", "-r", str(source), f"{session}:/workspace/new/copy")
    made = [workspace / "new", *(workspace / "new").rglob("*")]
    assert {path.name for path in made} == {"new", "copy", "sub", "run.sh", "link"}
    assert {path.lstat().st_uid for path in made} == {workspace.stat().st_uid}
    succeed("file", "push", "-r", str(source), f"{session}:/home/code/a/b")
    assert bed.shell(session, "stat -c %U ~/a ~/a/b/sub/run.sh").split() == ["code", "code"]
    assert "README.md" in succeed("container", "exec", session, "ls")

    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/secret").write_text("mine")
    bed.shell(session, f"cd /workspace && echo theirs >report.txt && ln -s {tmp_path}/precious docs")
    pulled = run("file", "pull", f"{session}:/workspace/report.txt", f"{workspace}/docs/report.txt")
    pushed = run("file", "push", "-r", f"{workspace}/docs", f"{session}:/tmp/got")
    for refused in (pulled, pushed):
        assert b"in a folder that a container can change" in refused.stderr
    assert os.listdir(tmp_path / "precious") == ["secret"]
    assert bed.incus.exec(session, ["test", "-e", "/tmp/got"]).code != 0


# ---- snapshot, image


@pytest.mark.day
def test_snapshots_are_taken_listed_restored_and_deleted(bed, box, succeed, run):
    bed.shell(box, "echo old > ~/state")
    for name in ("one", "two"):
        succeed("snapshot", "create", name, "-c", box)
    done = run("snapshot", "create", "one", "-c", box)
    assert (done.returncode, b"already exists" in done.stderr) == (1, True)
    listed = json.loads(succeed("snapshot", "list", "-c", box, "--format", "json"))["snapshots"]
    assert [entry["name"] for entry in listed] == ["one", "two"]
    assert "Snapshot:    two" in succeed("snapshot", "info", "two", "-c", box)
    bed.shell(box, "echo new > ~/state")
    succeed("container", "stop", "--force", box)
    succeed("snapshot", "restore", "one", "-c", box, "--force")
    assert bed.state(box) == "Stopped"
    succeed("container", "start", box)
    assert bed.shell(box, "cat ~/state") == "old\n"
    succeed("snapshot", "delete", "two", "-c", box)
    succeed("snapshot", "delete", "--all", "--force", "-c", box)
    assert json.loads(succeed("snapshot", "list", "-c", box, "--format", "json"))["snapshots"] == []


@pytest.mark.day
def test_restore_by_force_stops_a_session_and_starts_its_tool_again(bed, succeed, workspace, home):
    succeed("shell", "--background", str(workspace))
    session = clincus.session_name("clincus-", str(workspace), 1)
    bed.shell(session, "echo old > ~/state")
    succeed("snapshot", "create", "before", "-w", str(workspace))
    bed.shell(session, "echo new > ~/state")
    bed.incus.run("config", "set", session, 'user.clincus.settings={"network.mode": "none"}')
    succeed("snapshot", "restore", "before", "-w", str(workspace), "--force")
    assert bed.state(session) == "Running"
    assert bed.shell(session, "ls /sys/class/net") == "lo\n", "what was closed since stays closed"
    assert bed.shell(session, "cat ~/state") == "old\n"
    assert f"clincus-{session}" in bed.shell(session, "tmux list-sessions")
    assert bed.shell(session, "ls /workspace") == "README.md\ncommondir\n"
    succeed("container", "delete", "--force", session)
    assert list(home.glob(".clincus/sessions-*/*/metadata.json")), "the conversation stays"


@pytest.fixture
def no_images_left(bed):
    yield
    for image in bed.incus.query("/1.0/images?recursion=1"):
        if "clincus" not in cli_images.alias_names(image):
            cli_images.delete_image(bed.incus, image["fingerprint"])


@pytest.mark.usefixtures("no_images_left")
def test_publish_makes_an_image_that_starts_and_keeps_the_container(bed, box, succeed, run):
    bed.shell(box, "echo mine > ~/state")
    assert run("image", "publish", box, "mine").returncode == 1
    published = json.loads(succeed("image", "publish", box, "mine", "--description", "my tools", "--force"))
    assert bed.state(box) == "Running"
    info = json.loads(succeed("image", "info", "mine", "--format", "json"))
    assert (info["fingerprint"], info["description"]) == (published["fingerprint"], "my tools")
    assert "clincus.recipe" in info["properties"]
    succeed("container", "launch", "mine", "other")
    assert bed.shell("other", "cat ~/state") == "mine\n"
