"""security.presets: what programs on the host run by themselves, and how it is protected."""

import json
import os
import re
from pathlib import Path

import pytest

import clincus
from tests.table import table

ROOT = Path(__file__).parents[2]
ROWS = clincus.protect.preset_rows(clincus.make_config(()))


def paths(work, **settings):
    config = clincus.with_flags(clincus.make_config(()), {f"security.{key}": one for key, one in settings.items()})
    folder = clincus.protect.HostFolder(str(work), "/workspace", 1000, 1000)
    found = clincus.protect.protected_paths(config, folder)
    return {os.path.relpath(path, work): text for path, text in found.items()}


def test_a_path_of_a_preset_gets_nothing_in_its_place_while_it_is_absent(tmp_path):
    found = paths(tmp_path)
    assert found[".mcp.json"] is False
    assert found[".vscode"] is None, "it is protected anyway"
    assert paths(tmp_path, protected_paths=[])[".vscode"] is False
    marked = {".claude/skills", "*.code-workspace", ".vimrc"}
    assert marked <= {row.path for row in ROWS}
    assert not marked & set(found), "these are only marked"
    assert ".envrc" in found
    assert ".envrc" not in paths(tmp_path, presets=["agents"])
    assert clincus.protect.runs_on_host(".mcp.json", []) == ""


@table("value", ['["agents", "shells"]', "[1]", '[["agents"]]', '"agents"'])
def test_an_unknown_preset_is_an_error_that_names_those_there_are(tmp_path, value):
    path = tmp_path / ".config" / "clincus" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f"[security]\npresets = {value}\n")
    with pytest.raises(clincus.ConfigError, match=r"security.presets") as caught:
        clincus.load_config({"HOME": str(tmp_path)})
    assert re.search("agents, editors, commits|a list is wanted|text in quotes", caught.value.message)


def test_plain_devices_cover_what_is_there_and_leave_links_of_presets_alone(tmp_path):
    (tmp_path / ".mcp.json").write_text("{}")
    (tmp_path / "other").mkdir()
    os.symlink("other", tmp_path / ".claude")
    patterns = [".mcp.json", ".claude/settings.json", ".envrc"]
    asked = {"source": str(tmp_path), "patterns": patterns, "optional": patterns}
    assert clincus.protect.ask_places(**asked)["covers"] == [[".mcp.json", True]]
    with pytest.raises(clincus.ClincusError, match="is a symlink"):
        clincus.protect.ask_places(**{**asked, "optional": []})


def test_an_extra_mount_may_stand_where_a_preset_would_protect(tmp_path):
    workspace = clincus.protect.HostFolder(str(tmp_path), "/workspace", 1000, 1000)
    extra = clincus.protect.HostFolder("/elsewhere", "/workspace/.cursor", 1000, 1000)
    settings = clincus.make_config(())
    clincus.protect.check_targets(workspace, [extra], clincus.protect.protected_paths(settings, workspace))


@table(
    ("path", "when"),
    [
        (".envrc", "enter the folder in a shell with direnv"),
        ("a/b/.zed/tasks.json", "open the folder in Zed"),
        (".claude/skills/x/SKILL.md", "start Claude Code there, and it uses that"),
        (".github/hooks/x.json", "start Copilot there"),
        (".github/workflows/x.yml", ""),
        ("node_modules/a/.vscode/settings.json", ""),
    ],
)
def test_a_person_reads_when_a_file_runs(path, when):
    assert clincus.protect.runs_on_host(path, ROWS) == (f"runs on your machine when you {when}" if when else "")


def test_the_folders_that_are_left_out_are_those_of_the_look():
    text = clincus.packaged_text("wall/scan.py")
    (found,) = re.findall(r"^OTHERS_FOLDERS = frozenset\((.*)\)$", text, re.MULTILINE)
    assert frozenset(re.findall(r'"(\w[\w-]*)"', found)) == clincus.protect.OTHERS_FOLDERS


def test_the_contract_names_the_presets():
    schema = json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]["Config"]
    assert schema["properties"]["security"]["properties"]["presets"]["items"]["enum"] == list(clincus.protect.presets())


def test_the_page_on_protection_has_each_row():
    page = (ROOT / "docs" / "protection.md").read_text()
    for name, rows in clincus.protect.presets().items():
        (line,) = re.findall(rf"^\| `{name}`.*\|$", page, re.MULTILINE)
        _, _, sealed, marked, _ = line.split("|")
        assert re.findall("`(.*?)`", sealed) == [row.path for row in rows if row.is_sealed]
        assert re.findall("`(.*?)`", marked) == [row.path for row in rows if not row.is_sealed]
