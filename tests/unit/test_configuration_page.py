"""docs/configuration.md names every setting as it is, and its examples load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import clincus
from tests.table import table

clincus.install_features(None)  # they add settings
PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_each_key_is_there_with_its_default_and_variable_and_no_other():
    rows = re.findall(r"^\| `([\w.]+)` \|(.*?)\|(.*?)\|", PAGE, re.MULTILINE)
    described = {key: (default.strip(), variable.strip()) for key, default, variable in rows}
    known = {
        setting.key.removeprefix("limits."): (
            f"`{json.dumps(setting.default)}`",
            f"`{setting.variable}`" if setting.variable else "",
        )
        for setting in clincus.SETTING.values()
    }
    assert {key: described.get(key) for key in known} == known
    settings = {key for key, (default, _) in described.items() if default.startswith("`") and "." in key}
    assert settings <= known.keys() | clincus.SETTING.keys()


@table("text", re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_each_example_loads_without_a_warning(tmp_path, monkeypatch, text):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    path = tmp_path / ".config" / "clincus" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    config = clincus.load_config({"HOME": str(tmp_path)})
    assert config.warnings == ()
    for name in config.get("profiles"):
        clincus.with_flags(config, {}, name)
