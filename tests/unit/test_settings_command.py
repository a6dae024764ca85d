"""`clincus config`: the settings in force, and changing one in a person's file."""

from __future__ import annotations

import io
import json
import sys

import pytest

import clincus
from clincus_cli import all_commands, settings
from clincus_cli import commands as cli_commands
from clincus_cli import context as cli_context
from tests.table import table

all_commands.load_commands()


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".config" / "clincus" / "config.toml"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs `clincus config` in a home of its own and returns its exit code."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))

    def run_words(*words, **environ):
        command, rest = cli_commands.find_command(["config", *words])
        options = cli_commands.parse_words(command, rest)
        return command.run(cli_context.Context(command, options, {"HOME": str(tmp_path), **environ}))

    return run_words


def test_a_setting_is_kept_and_shown_with_where_it_comes_from(run, path, capsys, monkeypatch):
    assert run("set", "limits.cpu.count", "4", CLINCUS_LIMIT_CPU="2") == 0
    assert "still sets it, and wins" in capsys.readouterr().err
    assert run("show", "limits.cpu", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["limits.cpu.count"] == {"value": "4", "from": str(path)}
    assert document["limits.cpu.priority"]["from"] == "default"
    assert run("path") == 0
    assert str(path) in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("codex\n"))
    assert run("set", "tool.name", "-") == 0
    assert 'name = "codex"' in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


SETS = {
    "a file that is not there": ("", "[tool]\nname = \"codex\"\n"),
    "a key that is there": ("[tool]\n  name='claude' # mine\n", "[tool]\nname = \"codex\"\n"),
    "a table that is there": (
        "# mine\n[tool] # here\n\n[a]\n", "# mine\n[tool] # here\nname = \"codex\"\n\n[a]\n"
    ),
    "another table with such a key": (
        "[a]\nname = 1\n", "[a]\nname = 1\n\n[tool]\nname = \"codex\"\n"
    ),
}  # fmt: skip


@table(("before", "after"), SETS.values(), ids=SETS.keys())
def test_one_key_is_set_and_the_rest_stays(before, after):
    assert settings.with_setting(before, "tool.name", "codex", "config.toml") == after


REFUSED = {
    "a dotted key": "tool.name = 'claude'\n",
    "an inline table": "tool = { name = 'claude' }\n",
    "a text of several lines that looks like a table": 'x = """\n[tool]\nname = 1\n"""\n',
    "a file that is broken": "[tool\n",
}


@table("text", REFUSED.values(), ids=REFUSED.keys())
def test_a_file_in_another_form_is_left_alone(text):
    with pytest.raises(clincus.ConfigError, match=r"write `name = \"codex\"` under \[tool\]"):
        settings.with_setting(text, "tool.name", "codex", "config.toml")


VALUES = {"true": True, "4": 4, '["a", "b"]': ["a", "b"], "4GiB": "4GiB", "a\nb = 1": "a\nb = 1", "1\n[x]": "1\n[x]"}


@table(("text", "value"), VALUES.items())
def test_a_value_is_read_as_toml_or_is_a_text(text, value):
    assert settings.read_value(text) == value


def test_what_cannot_be_set_changes_nothing(run, path):
    for words, message in (
        (("no.such", "1"), "no single setting 'no.such'"),
        (("limits.cpu.priority", "eleven"), "invalid limits.cpu.priority"),
    ):
        with pytest.raises(clincus.ClincusError, match=message):
            run("set", *words)
    assert not path.exists()
