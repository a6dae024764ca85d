"""What a container records of its workspace before the tool starts, run by this machine's own shell."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import clincus
from clincus_features.review.recorder import FILE_LIMIT, SKIPPED
from tests.programs import git, wait_until
from tests.table import table

# Stands before a program of the container, and does once what a tool does while the workspace is being recorded.
TOOL = """#!/bin/sh
case "$*" in *{word}*) [ -e "$HOME/written" ] || {{ : >"$HOME/written"; sh -c "$WRITES"; }} ;; esac
exec {real} "$@"
"""
# The same for Perl, when it opens the first file.
PERL_TOOL = """
package Tool;
BEGIN {
    *CORE::GLOBAL::sysopen = sub (*$$) {
        -e "$ENV{HOME}/written" or system "sh", "-c", ": >\\$HOME/written; $ENV{WRITES}";
        return CORE::sysopen($_[0], $_[1], $_[2]);
    };
}
1;
"""
BEGINS = """
: >"$HOME/.clincus/shadow.late"
cd "$HOME/project"
"""
WRITES = """
for name in committed uncommitted dirty; do echo tool >>$name; done
rm gone
echo tool >new
"""


class Container:
    """A code user's home with a project in it, on this machine."""

    def __init__(self, home: Path, example: Path) -> None:
        self.home, self.project, self.bin = home, home / "project", home / "bin"
        self.writes = BEGINS + WRITES
        self.options: dict[str, str] = {}
        for folder in (self.bin, home / ".clincus"):
            folder.mkdir()
        shutil.copytree(example, self.project)
        git(self.project, "update-index", "--refresh")
        (self.project / "dirty").write_text("by a person\n")
        (self.project / "uncommitted").write_text("uncommitted\n")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "WRITES": self.writes,
            **self.options,
        }

    def interrupt(self, program: str, word: str) -> None:
        """Let a tool write when a program is called with a word, or as PERL_TOOL does."""
        if program == "perl":
            (self.bin / "Tool.pm").write_text(PERL_TOOL)
            self.options = {"PERL5LIB": str(self.bin), "PERL5OPT": "-MTool"}
            return
        real = shutil.which(program)
        (self.bin / program).write_text(TOOL.format(real=real, word=word))
        (self.bin / program).chmod(0o755)

    def record(self, mode: str) -> tuple[dict[str, str], list[str]]:
        """Run guest/checkpoint.sh; the files of the tree that it prints, and what it tells beside them."""
        words = [str(self.project), "-", str(FILE_LIMIT), str(SKIPPED), mode, "-"]
        argv = ["sh", "-c", clincus.guest_program("checkpoint"), "clincus", *words]
        done = subprocess.run(argv, env=self.environ, capture_output=True, timeout=60, check=True)
        if mode == "begin":
            assert done.stdout == b""
            return {}, []
        head, _, rest = done.stdout.partition(b"\n")
        tree, _, count = head.decode().split()
        told = [part.decode() for part in rest.split(b"\0")[: int(count)]]
        names = self.shadow("ls-tree", "-r", "--name-only", tree).split()
        return {name: self.shadow("show", f"{tree}:{name}") for name in names}, told

    def shadow(self, *words: str) -> str:
        """The output of git in the repository in which the container records."""
        environ = {**self.environ, "GIT_DIR": f"{self.home}/.clincus/shadow"}
        return subprocess.run(["git", *words], env=environ, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    git(folder, "init", "-q", "-b", "main")
    for name in ("committed", "dirty", "gone", "kept"):
        (folder / name).write_text(f"{name}\n")
        os.utime(folder / name, (1e9, 1e9))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def container(tmp_path, example) -> Container:
    return Container(tmp_path, example)


BEFORE = {
    "committed": "committed\n",
    "dirty": "by a person\n",
    "gone": "gone\n",
    "kept": "kept\n",
    "uncommitted": "uncommitted\n",
}


def test_a_start_is_what_was_recorded_before_it(container):
    assert container.record("start") == (BEFORE, ["late ."]), "it is asked for before it is recorded"
    container.record("begin")
    subprocess.run(["sh", "-c", container.writes], env=container.environ, check=True)
    assert container.record("start") == (BEFORE, [])
    files, _ = container.record("now")
    assert files == {
        "committed": "committed\ntool\n",
        "dirty": "by a person\ntool\n",
        "kept": "kept\n",
        "new": "tool\n",
        "uncommitted": "uncommitted\ntool\n",
    }


@table("is_known", [False, True])
def test_what_the_tool_changes_before_it_is_read_comes_from_git_or_is_told(tmp_path, example, is_known):
    container = Container(tmp_path, example)
    if is_known:  # other contents of them are recorded already
        for name in BEFORE:
            (container.project / name).write_text("old\n")
        container.record("now")
        for name, text in BEFORE.items():
            (container.project / name).write_text(text)
            os.utime(container.project / name, (1.1e9, 1.1e9))
        git(container.project, "add", "committed", "gone", "kept")
    container.interrupt(*(("git", "update-index") if is_known else ("perl", "")))
    container.record("begin")
    assert (container.home / "written").exists()
    files, told = container.record("start")
    late = {"dirty": "by a person\ntool\n", "uncommitted": "uncommitted\ntool\n"}
    assert files == {**BEFORE, **late}
    assert sorted(told) == ["late dirty", "late uncommitted"]


@table(
    ("is_known", "writes", "told"),
    [
        (True, "echo tool >>committed; rm -r folder/below", ["committed", "folder/"]),
        (False, "echo tool >new", ["./", "new"]),
        (False, "mv folder/below/file folder/below/other", ["folder/below/", "folder/below/other"]),
        (False, "echo tool >ignored/file; rm ignored/kept", []),
    ],
)
def test_a_tool_that_begins_before_the_files_are_listed_changes_what_its_times_tell(
    tmp_path, example, is_known, writes, told
):
    container = Container(tmp_path, example)
    for folder in ("folder/below", "ignored"):
        (container.project / folder).mkdir(parents=True)
        (container.project / folder / "kept").write_text("kept\n")
    (container.project / "folder/below/file").write_text("file\n")
    (container.project / ".gitignore").write_text("/ignored/\n")
    if is_known:
        container.record("now")
    container.writes = BEGINS + writes
    container.interrupt("git", "ls-files")
    container.record("begin")
    assert (container.home / "written").exists()
    beside = container.record("start")[1]
    assert [path for path in beside if path.startswith("late ")] == [f"late {path}" for path in told]


def test_a_start_of_before_is_none_of_this_run(container):
    container.record("begin")
    kept = container.home / ".clincus/shadow/start/tree"
    kept.write_text("1 " + kept.read_text().split()[1] + "\n")
    (container.project / "kept").write_text("later\n")
    files, told = container.record("start")
    assert (files["kept"], told) == ("later\n", ["late ."])


class Start:
    """A start of the tool, up to where the tool would begin: guest/start-record.sh, and what the tool waits for."""

    def __init__(self, container: Container, record: str, wait: float) -> None:
        self.container = container
        variables = f"record={shlex.quote(record)} limit={FILE_LIMIT} most={SKIPPED} wait={wait}"
        arguments = f"workspace={shlex.quote(str(container.project))}"  # of guest/start.sh
        program = clincus.guest_program("start-record")
        self.run(f"{variables} {arguments}\n{program}before_tool 2>/dev/null\nbeside_tool")

    def run(self, script: str) -> None:
        done = subprocess.run(
            ["sh", "-c", script], env=self.container.environ, capture_output=True, timeout=60, check=True
        )
        assert (done.stdout, done.stderr) == (b"", b"")

    def let_the_tool_wait(self) -> None:
        self.run('. "$HOME/.clincus/before"')

    @property
    def is_recording(self) -> bool:
        with (self.container.home / ".clincus/shadow.reading").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @property
    def is_late(self) -> bool:
        return (self.container.home / ".clincus/shadow.late").exists()


def test_a_start_does_not_wait_for_the_record_and_the_tool_does(container):
    os.mkfifo(container.home / "read")
    start = Start(container, 'cat "$HOME/read"', wait=60)
    assert start.is_recording
    with subprocess.Popen(["sh", "-c", '. "$HOME/.clincus/before"'], env=container.environ) as tool:
        with pytest.raises(subprocess.TimeoutExpired):
            tool.wait(0.2)
        (container.home / "read").write_text("")
        assert tool.wait(60) == 0
    assert not start.is_late


def test_a_tool_does_not_wait_for_a_record_without_end(container):
    start = Start(container, 'echo $$ >"$HOME/pid"; sleep 600', wait=0.01)
    start.let_the_tool_wait()
    assert start.is_recording
    assert start.is_late
    wait_until((container.home / "pid").exists, "the record")
    os.killpg(int((container.home / "pid").read_text()), 9)
