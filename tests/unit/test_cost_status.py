"""The limits of a person's plan, as Claude Code tells them to its status line."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import clincus
from clincus_features.cost import document, status
from tests.table import table

NOW = 1_795_640_000.0
LIMITS = {
    "five_hour": {"used_percentage": 42, "resets_at": 1_795_650_000},
    "seven_day": {"used_percentage": 17.5, "resets_at": 1_796_000_000},
}


def written(home: Path, tool: str = "claude") -> dict[str, str]:
    session = SimpleNamespace(tool=tool, workspace=str(home / "work"))
    files = status.guest_files({"HOME": str(home)})(session)
    return {file.path: file.data.decode() for file in files}


def test_claude_gets_a_status_line_where_it_has_none(tmp_path):
    settings = json.loads(written(tmp_path)[status.SETTINGS])
    assert settings["statusLine"]["command"].endswith("~/.clincus/status")
    assert written(tmp_path, tool="copilot") == {}
    (tmp_path / ".claude").mkdir()
    for content in ("{", "[1]", '{"statusLine": null}'):
        (tmp_path / ".claude/settings.json").write_text(content)
        assert "statusLine" in json.loads(written(tmp_path)[status.SETTINGS])


@table("place", [".claude/settings.json", "work/.claude/settings.json", "work/.claude/settings.local.json"])
def test_nobody_loses_a_status_line_of_their_own(tmp_path, place):
    """Of the person or of the project; a file of an earlier start, with ours, is replaced by an empty one."""
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text('{"statusLine": {"type": "command", "command": "mine"}}')
    assert json.loads(written(tmp_path)[status.SETTINGS]) == {}


def kept(home: Path, told: object) -> status.Status:
    file = home / status.KEPT
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return status.Status(str(home))


def test_the_windows_and_the_context_are_told(tmp_path):
    found = kept(tmp_path, {"rate_limits": LIMITS, "context_window": {"context_window_size": 1_000_000}})
    assert found.windows(NOW) == [
        {"name": "5 h", "used": 42, "resets_at": "2026-11-25T23:40:00Z"},
        {"name": "7 days", "used": 17.5, "resets_at": "2026-11-30T00:53:20Z"},
    ]
    assert found.context_size == 1_000_000
    assert [one["name"] for one in found.windows(1_795_650_000.0)] == ["7 days"], "the first has ended"
    assert document(None, found)["windows"] == found.windows(datetime.now(timezone.utc).timestamp())


@table(
    "told",
    [
        "",
        "[" * 100_000,
        {"rate_limits": {"five_hour": {"used_percentage": "42", "resets_at": 1_795_650_000}}},
        {"context_window": {"context_window_size": True}},
    ],
)
def test_what_makes_no_sense_is_not_told(tmp_path, told):
    found = kept(tmp_path, told)
    assert (found.windows(NOW), found.context_size) == ([], None)


def test_what_is_kept_is_read_through_no_link(tmp_path):
    (tmp_path / "elsewhere").write_text(json.dumps({"rate_limits": LIMITS}))
    (tmp_path / status.KEPT).parent.mkdir(parents=True)
    (tmp_path / status.KEPT).symlink_to(tmp_path / "elsewhere")
    assert status.Status(str(tmp_path)).windows(NOW) == []


def test_the_program_keeps_what_it_is_told_and_prints_nothing(tmp_path):
    def run(text: str) -> subprocess.CompletedProcess[str]:
        argv = ["sh", "-c", clincus.guest_program("status")]
        environ = {**os.environ, "HOME": str(tmp_path)}
        return subprocess.run(argv, input=text, env=environ, capture_output=True, text=True, check=False)

    assert run("{}").returncode == 0, "before the first transcript there is no place to keep it"
    (tmp_path / ".claude/projects").mkdir(parents=True)
    done = run(json.dumps({"rate_limits": LIMITS}))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(status.Status(str(tmp_path)).windows(NOW)) == 2
    assert [file.name for file in (tmp_path / ".claude/projects").iterdir()] == ["clincus-status.json"]
