"""docs/configuration.md names every setting as it is, and its examples load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import clincus
from tests.table import table

clincus.install_features(None)  # they add settings
PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROWS = {
    key: (default.strip(), variable.strip())
    for key, default, variable in re.findall(r"^\| `([\w.]+)` \|(.*?)\|(.*?)\|", PAGE, re.MULTILINE)
}
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@table("setting", clincus.SETTING.values(), ids=lambda setting: setting.key)
def test_each_key_is_there_with_its_default_and_variable(setting):
    default, variable = ROWS[setting.key.removeprefix("limits.")]
    assert default == f"`{json.dumps(setting.default)}`"
    assert variable == (f"`{setting.variable}`" if setting.variable else "")


def test_no_key_is_described_that_does_not_exist():
    described = {key for key, (default, _) in ROWS.items() if default.startswith("`") and "." in key}
    assert {key for key in described if key not in clincus.SETTING and f"limits.{key}" not in clincus.SETTING} == set()


@table("text", EXAMPLES)
def test_each_example_loads_without_a_warning(tmp_path, monkeypatch, text):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    path = tmp_path / ".config" / "clincus" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    config = clincus.load_config({"HOME": str(tmp_path)})
    assert config.warnings == ()
    for name in config.get("profiles"):
        clincus.with_flags(config, {}, name)
