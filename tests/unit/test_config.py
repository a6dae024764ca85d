"""The section `config`: layers, validation, bounds of a project's own file, and edits in place."""

from __future__ import annotations

import json
import os
import stat

import pytest

import clincus


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory of its own, and no system-wide config file."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "etc" / "config.toml"))
    (tmp_path / "home" / ".config" / "clincus").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def environ(home):
    return {"HOME": str(home)}


@pytest.fixture
def user_file(home):
    return home / ".config" / "clincus" / "config.toml"


REFERENCE = json.loads("""{
  "defaults": { "image": "clincus", "persistent": false, "model": "claude-sonnet-4-5" },
  "paths": { "sessions_dir": "~/.clincus/sessions", "storage_dir": "~/.clincus/storage",
             "logs_dir": "~/.clincus/logs", "preserve_workspace_path": false },
  "incus": { "project": "default", "group": "incus-admin", "code_uid": 1000, "code_user": "code", "disable_shift": false },
  "tool": { "name": "claude", "binary": "", "claude": { "effort_level": "" } },
  "mounts": { "default": [] },
  "limits": {
    "cpu": { "count": "", "allowance": "", "priority": 0 },
    "memory": { "limit": "", "enforce": "soft", "swap": "true" },
    "disk": { "read": "", "write": "", "max": "", "priority": 0, "tmpfs_size": "" },
    "runtime": { "max_duration": "", "max_processes": 0, "auto_stop": true, "stop_graceful": true }
  },
  "git": { "writable_hooks": false },
  "security": { "protected_paths": [".git/hooks", ".git/config", ".husky", ".vscode"],
                "additional_protected_paths": [], "disable_protection": false },
  "profiles": {},
  "dashboard": { "port": 3000, "workspace_roots": [] }
}""")


def missing_from(document, reference, path=""):
    """The keys of a reference document that another has not, or has with another value."""
    for key, value in reference.items():
        if isinstance(value, dict) and value and isinstance(document.get(key), dict):
            yield from missing_from(document[key], value, f"{path}{key}.")
        elif document.get(key, "absent") != value:
            yield f"{path}{key}"


def test_the_default_document_holds_every_key_of_the_reference(environ):
    document = clincus.config_document(clincus.load_config(environ))
    assert list(missing_from(document, REFERENCE)) == []
    assert [key for key in document if key in REFERENCE] == list(REFERENCE)


def test_a_file_that_does_not_mention_auto_stop_leaves_it_true(environ, user_file):
    user_file.write_text('[tool]\nname = "copilot"\n')
    config = clincus.load_config(environ)
    assert config.get("tool.name") == "copilot"
    assert config.get("limits.runtime.auto_stop") is True


def test_a_symlink_keeps_its_target_and_the_target_its_mode(environ, user_file, home):
    target = home / "dotfiles.toml"
    target.write_text("# kept\n[dashboard]\nport = 3000 # here\n")
    target.chmod(0o640)
    user_file.symlink_to(target)
    written = clincus.save_dashboard(environ, clincus.load_config(environ), port=3001)
    assert written == (str(user_file),)
    assert user_file.is_symlink()
    assert target.read_text() == "# kept\n[dashboard]\nport = 3001 # here\n"
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o640
