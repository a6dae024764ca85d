"""How the program starts: `list` asks Incus ahead of all else; the door to Incus takes the answer, or asks itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clincus
from clincus_cli import door, main, start

ROOT = Path(__file__).resolve().parents[2]
INSTANCE = '{"name": "clincus-ec0578-1", "status": "Running", "created_at": "2027-03-01T08:00:00Z", "config": {}}'


def incus_that(folder, script):
    """Put a stand-in for `incus` into a folder, which keeps what it was asked; the environment to find it by."""
    program = folder / "incus"
    program.write_text(f'#!/bin/sh\necho "$*" >>{folder}/asked\n{script}\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}


def run_list(environ, *words):
    argv = [sys.executable, "-m", "clincus_cli", "list", *words]
    done = subprocess.run(argv, text=True, capture_output=True, check=False, timeout=60, env=environ, cwd=ROOT)
    asked = (Path(environ["HOME"]) / "asked").read_text().splitlines()
    return done, asked


def test_a_list_asks_once(tmp_path):
    done, asked = run_list(incus_that(tmp_path, f"echo '[{INSTANCE}]'"))
    assert "clincus-ec0578-1" in done.stdout
    assert asked == [" ".join(start.LIST_QUESTION[1:])]


def test_the_door_asks_itself_where_the_guess_was_wrong(tmp_path):
    """The config names a project: what the default one has is not shown."""
    (tmp_path / ".config/clincus").mkdir(parents=True)
    (tmp_path / ".config/clincus/config.toml").write_text('[incus]\nproject = "mine"\n')
    script = f"case $* in *project=mine) echo '[]';; *) echo '[{INSTANCE}]';; esac"
    done, asked = run_list(incus_that(tmp_path, script))
    assert "(none)" in done.stdout
    assert "query --request GET /1.0/instances?recursion=2&project=mine" in asked


def test_the_door_asks_again_where_the_guess_failed_and_says_why(tmp_path):
    done, asked = run_list(incus_that(tmp_path, "echo 'Error: no such luck' >&2; exit 1"))
    assert (done.returncode, done.stderr) == (1, "Error: no such luck\n")
    assert len(asked) == 2


def test_the_question_runs_when_the_command_line_begins_and_is_over_when_that_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", incus_that(tmp_path, "exec sleep 60")["PATH"])
    monkeypatch.setattr(sys, "argv", ["clincus", "list"])
    pids = []
    monkeypatch.setattr(main, "main", lambda words: pids.append(start.asked[0]._pid) or 0)
    assert start.main() == 0
    assert start.asked == []
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize("words", [["list", "--help"], ["kill", "list"], []])
def test_nothing_is_asked_ahead_of_other_commands(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clincus", *words])
    monkeypatch.setattr(main, "main", lambda words: len(start.asked))
    assert start.main() == 0


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_nothing_is_asked_ahead_where_the_caller_closed_a_stream(stream, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clincus", "list"])
    monkeypatch.setattr(sys, stream, None)
    monkeypatch.setattr(main, "main", lambda words: len(start.asked))
    assert start.main() == 0


def test_where_there_is_no_incus_the_command_line_runs_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["clincus", "list"])
    monkeypatch.setattr(main, "main", lambda words: len(start.asked))
    assert start.main() == 0


def test_a_question_without_an_answer_fails_when_its_time_is_over(monkeypatch):
    command = ("sleep", "60")
    monkeypatch.setattr(start, "asked", [start.Question(command)])
    with pytest.raises(clincus.IncusError, match=r"^`sleep 60 …` did not finish within 0.01 s: .*Try again") as raised:
        door.Door()._answer(command, b"", 0.01)
    assert (raised.value.status, start.asked) == (504, [])


def test_an_answer_that_is_too_long_is_none(monkeypatch):
    monkeypatch.setattr(start, "asked", [start.Question(("yes",))])
    assert start.answer_to(("yes",), 1000, 60) is None
