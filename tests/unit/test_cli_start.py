"""How a command meets Incus: one question, and words that help if the answer does not come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import clincus
from clincus_cli import main
from tests.table import table

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


def test_a_list_asks_once_for_the_project_of_the_config_and_says_why_it_fails(tmp_path):
    (tmp_path / ".config/clincus").mkdir(parents=True)
    (tmp_path / ".config/clincus/config.toml").write_text('[incus]\nproject = "mine"\n')
    question = "query --request GET /1.0/instances?recursion=2&project=mine"
    done, asked = run_list(incus_that(tmp_path, f"echo '[{INSTANCE}]'"))
    assert "clincus-ec0578-1" in done.stdout
    assert asked == [question]
    done, asked = run_list(incus_that(tmp_path, "echo 'Error: no such luck' >&2; exit 1"))
    assert (done.returncode, done.stderr) == (1, "Error: no such luck\n")
    assert asked == [question] * 2


@table("words", [["list"], ["image", "list"]])
def test_a_command_says_what_to_do_about_an_incus_that_hangs(words, tmp_path, monkeypatch, capsys):
    for name, value in incus_that(tmp_path, "exec sleep 600").items():
        monkeypatch.setenv(name, value)
    allow = clincus.Child.allow
    monkeypatch.setattr(clincus.Child, "allow", lambda child, seconds, *more: allow(child, min(seconds, 0.2), *more))
    assert main.main(words) == 1
    said = capsys.readouterr().err
    assert "did not finish within 0.2 s" in said
    assert "`journalctl -u incus` shows the cause" in said
