"""What guest/look.sh finds, run by our own shell with a stand-in for tmux, and how it is read."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

import clincus
from clincus_features import agents
from clincus_features.agents import reading
from clincus_features.agents.reading import STILL, Known, measured_skew, parse_look
from clincus_features.agents.state import Facts, decide
from tests.programs import wait_until
from tests.table import table

NOON = 1_800_000_000.0
FACTS = Facts(tool="claude", started=NOON - 3600)
EVENT = '{"at":1.000,"event":"%s","data":{}}\n'


class Container:
    """A code user's home, and the screen that tmux shows there."""

    def __init__(self, home: Path) -> None:
        self.home, self.agent = home, home / ".clincus" / "agent"
        self.agent.mkdir(parents=True)
        (home / ".clincus" / "launch").write_text("program=/opt/tools/claude\n")
        (home / "bin").mkdir()
        tmux = '#!/bin/sh\n[ "$1" != display-message ] || { cat "$HOME/row"; echo title; cat "$HOME/screen"; }\n'
        (home / "bin" / "tmux").write_text(tmux)
        (home / "bin" / "tmux").chmod(0o755)
        self.show("")

    def show(self, screen: str, row: str = "") -> None:
        """Show a screen with the cursor in a row, counted from 0; without one the cursor is hidden."""
        (self.home / "screen").write_text(screen)
        (self.home / "row").write_text(f"{row}\n")

    def look(self, known: Known | None = None) -> Known:
        known = known or Known()
        environ = {"HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}"}
        words = ["clincus-x", "MARK", str(known.inode), str(known.offset), STILL, "0"]
        done = subprocess.run(
            ["sh", "-c", clincus.packaged_text("guest/look.sh"), "look", *words],
            env=environ,
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == b""
        return parse_look(done.stdout, "MARK", replace(FACTS, said=known.facts.said), known, time.time())


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


BUSY = """● Bash(make)
  ⎿  $ make
✶ Galloping… (3s · ↓ 9 tokens)
  ⎿  Tip: Set COLORTERM=truecolor
     for richer colors
────────────────
❯
"""
# Another screen, and whether something has happened then.
SCREENS = {
    "a clock": (BUSY.replace("(3s", "(1m 04s"), False),
    "a mark that blinks": (BUSY.replace("● Bash", "  Bash"), False),
    "a spinner": (BUSY.replace("✶", "·"), False),
    "another hint": (BUSY.replace("Set COLORTERM=truecolor\n     for richer colors", "Use Plan Mode"), False),
    "more tokens": (BUSY.replace("9 tokens", "12 tokens"), True),
    "another command": (BUSY.replace("$ make", "$ make all"), True),
}


@table(("screen", "is_movement"), SCREENS.values(), ids=SCREENS.keys())
def test_what_changes_while_nothing_happens_is_no_movement(tmp_path, screen, is_movement):
    container = Container(tmp_path)
    container.show(BUSY)
    before = container.look().facts.sum
    container.show(screen)
    assert (container.look().facts.sum != before) == is_movement


@table(("row", "below"), [("0", 2), ("2", 1), ("9", 0), ("", None), ("x", None), ("1 2", None)])
def test_the_lines_below_the_cursor_are_counted(tmp_path, row, below):
    container = Container(tmp_path)
    container.show("● hello\n\n❯\n   \n  footer\n", row)
    facts = container.look().facts
    assert (facts.lines, facts.title, facts.below) == (("● hello", "❯", "  footer"), "title", below)


def test_no_event_is_lost_when_a_new_file_begins(container):
    events = container.agent / "events"
    events.write_text(EVENT % "UserPromptSubmit")
    first = container.look()
    events.write_text(events.read_text() + EVENT % "Stop")
    events.rename(container.agent / "events.old")
    events.write_text(EVENT % "UserPromptSubmit" + EVENT % "Elicitation")
    then = container.look(first)
    assert (first.facts.said.turn, then.facts.said.turn, then.facts.said.state) == (1, 2, "waiting")
    assert container.look(then).facts.said == then.facts.said, "each is read once"
    for file in (events, container.agent / "events.old"):
        file.unlink()
    anew = container.look(then).facts.said
    assert (anew.state, anew.turn) == ("", 2), "a tool that was started anew has said nothing, and numbers go on"


# The processes of the tool's shell: `run` has it, and the exit code of the tool that it was before.
def is_run_by_shell(run: Path, program: str) -> bool:
    """Whether the shell whose number stands in a file runs a program. Until then that is the shell, or a shim."""
    if not run.exists() or not run.read_text():
        return False
    pid = run.read_text().split()[0]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = [Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].split(b"/")[-1] for child in children]
    return program.encode() in names


AGAIN = {
    "an interpreter that runs it": ("python3 {}/claude", True),
    "another program": ("sleep", False),
}


@table(("program", "runs"), AGAIN.values(), ids=AGAIN.keys())
def test_a_tool_that_a_person_has_started_from_the_shell_runs_again(tmp_path, program, runs):
    """In the foreground of a terminal, which `script` makes."""
    container, home = Container(tmp_path), tmp_path
    (home / "claude").write_text("import time\ntime.sleep(60)\n")
    (home / "bin" / "claude").symlink_to("/bin/sleep")
    command = program.format(home) if "{}" in program else f"{program} 60"
    environ = {**os.environ, "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    inner = f"echo $$ 0 >{container.agent}/run; set -m; {command}"
    words = ["script", "-qfec", f"sh -c '{inner}'", "/dev/null"]
    with subprocess.Popen(words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as terminal:
        try:
            wait_until(lambda: is_run_by_shell(container.agent / "run", command.split()[0]), "the program to run")
            assert container.look().facts.runs_again is runs
        finally:
            terminal.kill()


def test_a_shell_tells_how_a_tool_has_ended_that_was_started_again_in_it(container):
    """Bash does so, with what guest/tool.sh gives it; other commands there tell nothing."""
    home = container.home
    launch = {"workspace": str(home), "tool": "claude", "program": "claude", "message": "", "files": "find /nowhere"}
    for file in clincus.start_files({**launch, "first": ":", "again": ":", "afresh": ":"}, {}, {}):
        (home / file.path).write_bytes(file.data)
        (home / file.path).chmod(file.mode)
    claude = "#!/bin/sh\nuntil [ -e ~/end ]; do sleep 0.1; done\n[ ! -e ~/kill ] || kill -9 $$\n"
    ring = '#!/bin/sh\necho >>"$HOME/rung"\n'
    for path, text in {
        ".clincus/left": clincus.guest_program("left"),
        ".clincus/ring": ring,
        "bin/claude": claude,
    }.items():
        (home / path).write_text(text)
        (home / path).chmod(0o700)
    environ = {**os.environ, "HOME": str(home), "SHELL": "/bin/bash"}
    command = ["script", "-qfec", f"{home}/.clincus/start", "/dev/null"]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as terminal:
        keys = terminal.stdin
        assert keys is not None

        def enter(line: str) -> None:
            keys.write(f"{line}\n".encode())
            keys.flush()

        def is_ready() -> bool:  # a shell drops what is typed before its first prompt
            enter("touch ~/ready")
            return (home / "ready").exists()

        def end_of_next_run() -> tuple[int | None, int]:
            """Its exit code, and how often it has rung by then."""
            (home / "end").unlink(missing_ok=True)
            enter(f"{home}/bin/claude")
            wait_until(lambda: container.look().facts.runs_again, "the tool to run again")
            (home / "end").touch()
            wait_until(lambda: container.look().facts.again_code is not None, "its exit code")
            facts = container.look().facts
            assert (facts.exit_code, facts.was_again, abs(facts.ended - facts.now) < 30) == (0, True, True)
            return facts.again_code, len((home / "rung").read_text())

        try:
            wait_until(lambda: (container.agent / "run").exists() and container.look().facts.exit_code == 0, "its end")
            wait_until(is_ready, "the shell")
            (home / "kill").touch()
            assert end_of_next_run() == (137, 2)
            (home / "kill").unlink()
            enter("(exit 3); touch ~/typed")
            wait_until((home / "typed").exists, "another command")
            assert (container.look().facts.again_code, len((home / "rung").read_text())) == (137, 2)
            assert end_of_next_run() == (0, 3)
        finally:
            terminal.kill()


@table(
    ("there", "known", "skew"),
    [
        (1000.2, 0.0, 0.0),  # the same clock
        (640.2, 0.0, 359.8),  # behind
        (640.2, 360.1, 360.1),  # as it was known already
        (1000.2, 360.0, 0.0),  # it was set since
    ],
)
def test_a_clock_there_is_measured_by_a_look(there, known, skew):
    output = f"events=5:0 alive=1 now={there} cpu=3 \ntitle\n".encode()
    assert measured_skew(output, known, 1000.0, 1000.5) == pytest.approx(skew)
    for other in (b"now=x ", b"events=1:0 alive=1\n", b"now=99999999999999 "):
        assert measured_skew(other, known, 1000.0, 1000.5) == known, "a time in any other form tells nothing"


def test_whatever_a_container_takes_for_its_time_its_state_can_be_told():
    """Root there may put any program into the place of `date`. The API tells times as texts, which have no year 0."""

    def looked(there: str, code: str = "", at: float = 0.0) -> Facts:
        output = f"events=5:0 alive=1 code={code} now={there} screen=1799999000 run=1 \ntitle\nM\nx\nM\n".encode()
        output += b'{"at":%f,"event":"Stop","data":{}}\n' % at
        skew = measured_skew(output, 0.0, NOON - 1, NOON)
        return parse_look(output, "M", FACTS, Known(skew=skew), NOON).facts

    for there in ("0", "1", "999999999999"):
        for code, told in (("", "done"), ("0", "ended")):
            assert agents.document(decide(looked(there, code)).agent)["state"] == told
    facts = looked(f"{NOON - 360.5}", at=NOON - 500)
    assert (round(facts.moved), round(facts.said.at)) == (NOON - 640, NOON - 140), "by our clock"


def test_a_container_that_uses_its_cpu_is_not_still():
    def look(known: Known, at: float, cpu: float) -> Known:
        output = f"events=5:0 cpu={round(cpu * 1000)} screen={NOON - 900:.0f}\ntitle\nM\nx\nM\n".encode()
        return parse_look(output, "M", FACTS, known, at)

    known = look(Known(), NOON, 50.0)
    assert known.facts.moved == NOON - 900
    spinner = look(known, NOON + 10, 50.0 + 10 * reading.MOVED_BY_CPU * 0.9)
    assert spinner.facts.moved == NOON - 900
    busy = look(known, NOON + 10, 50.0 + 10 * reading.MOVED_BY_CPU * 1.1)
    assert busy.facts.moved == NOON + 10
    assert look(busy, NOON + 20, busy.work.used + 0.1).facts.moved == NOON + 10
    assert look(known, NOON + 1, 90.0).facts.moved == NOON - 900, "a look itself takes some"
