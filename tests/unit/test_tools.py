"""The section `tools`: commands, files carried in, conversations saved."""

from __future__ import annotations

import json

import pytest

import clincus

SESSION = "0cb916db-26aa-40f2-86b5-1ba81b225fd2"


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """A home directory of its own, and no system-wide config file."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "etc" / "config.toml"))
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "PATH": "/nowhere"}


@pytest.fixture
def home(environ, tmp_path):
    return tmp_path / "home"


def carried(tool, home, config, **options):
    """The files carried in, by path, and the warnings."""
    files, warnings = clincus.tool_files(tool, str(home), "/home/code", "/workspace", config, **options)
    return {file.path: file for file in files}, warnings


@pytest.mark.parametrize(
    ("tool", "conversation", "command"),
    [
        ("claude", None, f"claude --verbose --permission-mode bypassPermissions --session-id {SESSION}"),
        ("claude", "abc", "claude --verbose --permission-mode bypassPermissions --resume abc"),
        ("copilot", None, f"copilot --allow-all-tools --allow-all-paths --allow-all-urls --session-id {SESSION}"),
        ("copilot", "abc", "copilot --allow-all-tools --allow-all-paths --allow-all-urls --session-id abc"),
        ("opencode", None, "opencode"),
        ("opencode", "opencode", "opencode --continue"),
        ("shell", None, "bash -l"),
    ],
)
def test_command(environ, tool, conversation, command):
    config = clincus.load_config(environ)
    words = clincus.tool_command(clincus.find_tool(tool, config), config, SESSION, conversation)
    assert " ".join(words) == command


def test_a_fresh_home_gets_what_answers_claudes_questions(environ, home):
    config = clincus.load_config(environ)
    files, warnings = carried(clincus.TOOLS["claude"], home, config)
    assert warnings == []
    assert json.loads(files[".claude/settings.json"].data) == {"skipDangerousModePermissionPrompt": True}
    assert json.loads(files[".claude.json"].data)["projects"]["/workspace"]["hasTrustDialogAccepted"] is True
