"""The section `config`: layers, checks, bounds of a project's own file, and edits in place."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

import clincus
from clincus_features import trust
from clincus_features.sources import sources_document
from tests.table import table

clincus.install_features(None)  # they add settings


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """A home directory of its own, and no system-wide config file."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "etc" / "config.toml"))
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def user_file(environ):
    path = Path(environ["HOME"], ".config/clincus/config.toml")
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# Defaults


def test_the_default_is_protected(environ):
    settings = [setting for setting in clincus.SETTING.values() if not setting.rows]
    assert [setting.key for setting in settings if setting.fit(setting.default) != setting.default] == []
    config = clincus.load_config(environ)
    document = clincus.config_document(config)
    assert document["security"]["protected_paths"] == [".git/hooks", ".git/config", ".husky", ".vscode"]
    assert (document["security"]["disable_protection"], document["git"]["writable_hooks"]) == (False, False)


# Layers


def test_a_later_layer_wins_and_is_named_as_the_origin(environ, user_file, workspace, tmp_path):
    """System, user, project, $CLINCUS_CONFIG, variable, profile, flag: each beats those before it."""
    project, named = str(workspace / ".clincus.toml"), str(tmp_path / "named.toml")
    seen = {}

    def look(**options):
        config = trust.project_config(clincus.load_config(environ, **options), environ, str(workspace))
        seen[config.get("defaults.image")] = config.origins["defaults.image"]

    look()
    for path, text in (
        (clincus.SYSTEM_CONFIG, 'image = "system"'),
        (user_file, 'image = "user"\n[profiles.p]\nimage = "profile"'),
        (project, 'image = "project"'),
        (named, 'image = "named"'),
    ):
        write(path, f"[defaults]\n{text}")
        environ.update(CLINCUS_CONFIG=named) if path == named else None
        look()
    environ["CLINCUS_IMAGE"] = "variable"
    look()
    look(profile="p")
    look(profile="p", flags={"defaults.image": "flag"})
    assert seen == {
        "clincus": "default",
        "system": clincus.SYSTEM_CONFIG,
        "user": str(user_file),
        "project": project,
        "named": named,
        "variable": "CLINCUS_IMAGE",
        "profile": "profile 'p'",
        "flag": "command line",
    }


def test_a_present_key_wins_when_it_is_empty_or_false_and_an_absent_one_changes_nothing(environ, user_file):
    write(
        clincus.SYSTEM_CONFIG,
        '[defaults]\npersistent = true\n[limits.cpu]\ncount = "2"\npriority = 5\n',
    )
    write(user_file, "[defaults]\npersistent = false\n[limits.cpu]\ncount = ''\n")
    config = clincus.load_config(environ)
    assert config.get("defaults.persistent") is False
    assert config.get("limits.cpu") == {"count": "", "allowance": "", "priority": 5}


def test_lists_that_add_up_and_mounts_that_replace_each_other(environ, user_file):
    write(
        clincus.SYSTEM_CONFIG,
        '[security]\nadditional_protected_paths = ["a", "b"]\n'
        '[[mounts.default]]\nhost = "/one"\ncontainer = "/data"\n'
        '[[mounts.default]]\nhost = "/k"\ncontainer = "/keep"\n',
    )
    write(
        user_file,
        '[security]\nadditional_protected_paths = ["b", "c"]\n'
        '[[mounts.default]]\nhost = "~/two"\ncontainer = "/data/"\nreadonly = true\n'
        '[[mounts.default]]\nhost = "beside"\ncontainer = "/relative"\n',
    )
    config = clincus.load_config(environ)
    assert config.get("security.additional_protected_paths") == ["a", "b", "c"]
    assert config.get("mounts.default") == [
        {"host": "~/two", "container": "/data", "readonly": True},
        {"host": "/k", "container": "/keep"},
        {"host": str(user_file.parent / "beside"), "container": "/relative"},
    ]


def test_a_memory_limit_is_hard_unless_somebody_says_soft(environ, user_file):
    for text, enforce in (("", "soft"), ("limit = '1GiB'", "hard"), ("limit = '1GiB'\nenforce = 'soft'", "soft")):
        write(user_file, f"[limits.memory]\n{text}\n")
        assert clincus.load_config(environ).get("limits.memory.enforce") == enforce


# Variables, flags, profiles


@table(
    ("variable", "text", "key", "value"),
    [
        ("CLINCUS_PERSISTENT", "", "defaults.persistent", False),
        ("CLINCUS_LIMIT_CPU_PRIORITY", "3", "limits.cpu.priority", 3),
        ("CLINCUS_PORT", "8080", "dashboard.port", 8080),
    ],
)
def test_variable(environ, variable, text, key, value):
    assert clincus.load_config({**environ, variable: text}).get(key) == value
    with pytest.raises(clincus.ConfigError, match=r'CLINCUS_PORT: invalid dashboard.port "x"'):
        clincus.load_config({**environ, "CLINCUS_PORT": "x"})


def test_a_profile_inherits_and_merges_with_the_one_of_a_lower_layer_key_by_key(environ, user_file):
    write(clincus.SYSTEM_CONFIG, "[profiles.big]\nlimits.cpu.count = 4\nnesting = true\n")
    write(
        user_file,
        '[profiles.base]\nimage = "base"\npersistent = true\nenvironment = {A = "1", B = "2"}\n'
        '[profiles.big]\ninherits = "base"\nimage = "big"\nenvironment = {B = "3"}\ntool = "copilot"\n',
    )
    config = clincus.with_flags(clincus.load_config(environ), {}, "big")
    assert (config.get("defaults.image"), config.get("defaults.persistent")) == ("big", True)
    assert config.environment == {"A": "1", "B": "3"}
    assert (config.profile, config.get("tool.name"), config.get("limits.cpu.count")) == ("big", "copilot", "4")
    assert config.get("security.nesting") is True
    assert clincus.load_config(environ).get("security.nesting") is False


def test_a_profile_that_cannot_be_applied(environ, user_file):
    write(user_file, '[profiles.a]\ninherits = "x"\n[profiles.b]\ninherits = "c"\n[profiles.c]\ninherits = "b"')
    for name, words, status in (
        ("a", r"profile 'x' not found \(which profile 'a' inherits\)", 404),
        ("b", "profile 'b' inherits itself", 400),
    ):
        with pytest.raises(clincus.ConfigError, match=words) as caught:
            clincus.with_flags(clincus.load_config(environ), {}, name)
        assert caught.value.status == status


# Checks


@table(
    ("text", "key", "line"),
    [
        ("[dashboard]\n\nport = 0", "dashboard.port", 3),
        ('[dashboard]\nworkspace_roots = ["~/p", "p"]', "dashboard.workspace_roots", 2),
        ("limits = {cpu = 3}", "limits.cpu", 1),
        (f'[limits.cpu]\ncount = "{"0-99999," * 8000}1"', "limits.cpu.count", 2),
        ('[tool]\nname = "-x"', "tool.name", 2),
        ('[defaults]\nimage = "--help"', "defaults.image", 2),
        ('[incus]\ncode_user = "../x"', "incus.code_user", 2),
        ('[paths]\nsessions_dir = "here"', "paths.sessions_dir", 2),
        ('[security]\nprotected_paths = ["../x"]', "security.protected_paths", 2),
        ('[[mounts.default]]\nhost = "/a"\ncontainer = "/b/../c"', "mounts.default", 1),
        ('[profiles.x.environment]\nTOKEN = ["sesame"]', "profiles.x.environment", 1),
    ],
)
def test_a_wrong_value_is_reported_with_file_key_and_line(environ, user_file, text, key, line):
    write(user_file, text)
    with pytest.raises(clincus.ConfigError) as caught:
        clincus.load_config(environ)
    assert f"{user_file}, line {line}: invalid {key}" in caught.value.message
    assert "sesame" not in caught.value.message
    assert caught.value.status == 400


@table(
    ("text", "message"),
    [
        (b'x = 1\n[t\n"', "line 2"),
        (b"a = " + b"[" * 30000 + b"]" * 30000, "too deeply nested"),
        (b"# fine\n# \xff\n", "line 2: the file is not UTF-8"),
        (b"#" * (clincus.CONFIG_FILE_LIMIT + 1), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_toml_is_reported_and_a_pipe_is_not_waited_for(environ, user_file, text, message):
    if text is None:
        user_file.unlink()
        os.mkfifo(user_file)
    else:
        user_file.write_bytes(text)
    with pytest.raises(clincus.ConfigError, match=f"{user_file}.*{message}"):
        clincus.load_config(environ)


def test_an_unknown_key_is_a_warning_and_the_case_of_a_known_one_does_not_matter(environ, user_file):
    write(user_file, "[Limits.CPU]\nCount = 2\n[DashBord]\nport = 1\n[profiles.x]\nimages = 'y'\n")
    config = clincus.load_config(environ)
    assert config.get("limits.cpu.count") == "2"
    first, second = config.warnings
    assert first.startswith(f"{user_file}, line 4: unknown key ")
    assert "did you mean 'dashboard.port'?" in first
    assert "did you mean 'profiles.x.image'?" in second


def test_duration():
    for text, seconds in (("0", 0), ("1h30m", 5400), (".5m", 30)):
        assert clincus.parse_duration(text) == pytest.approx(seconds)
    for text in ("", "5", "-5m", "1d", "1h30", "9" * 99 + "h"):
        with pytest.raises(ValueError, match="duration"):
            clincus.parse_duration(text)


# A project's own file


def read(workspace):
    """The .clincus.toml of a workspace, which has one."""
    project = trust.read_project(str(workspace))
    assert project is not None
    return project


def project(environ, workspace, text, mine="", trusted=False):
    """The configuration that a .clincus.toml gives over a user's file."""
    write(os.path.join(environ["HOME"], ".config/clincus/config.toml"), mine)
    write(workspace / ".clincus.toml", text)
    return trust.apply_project(clincus.load_config(environ), read(workspace), trusted=trusted)


def test_an_untrusted_project_may_choose_tool_image_and_profile(environ, workspace):
    mine = "[tool]\nbinary = '/opt/claude'\n[profiles.small]\nlimits.cpu.count = 1\n"
    for text, key, value in (
        ('[tool]\nname = "copilot"', "tool.name", "copilot"),
        ('[tool]\nname = "copilot"', "tool.binary", ""),  # not that of my tool
        ('[defaults]\nprofile = "small"', "limits.cpu.count", "1"),
    ):
        config = project(environ, workspace, text, mine)
        assert (config.get(key), config.warnings) == (value, ())


@table(
    "profile",
    [
        'mounts = [{host = "~/.ssh", container = "/keys"}]',
        'environment = {TOKEN = "sesame"}',
        "limits.memory.limit = '8GiB'",
        "nesting = true",
        'inherits = "open"',
    ],
)
def test_an_untrusted_project_may_choose_no_profile_that_opens_more(environ, workspace, profile):
    mine = f'[profiles.p]\n{profile}\n[profiles.open]\nenvironment = {{A = "1"}}\n'
    limited = {**environ, "CLINCUS_LIMIT_MEMORY": "4GiB"}
    config = project(limited, workspace, '[defaults]\nprofile = "p"', mine)
    assert (config.profile, config.environment) == ("", {})
    assert "the file is not trusted" in config.warnings[0]
    assert project(limited, workspace, '[defaults]\nprofile = "p"', mine, trusted=True).profile == "p"


@table("theirs", ["", "p"])
def test_an_untrusted_project_lifts_no_profile_of_mine(environ, workspace, theirs):
    mine = (
        '[defaults]\nprofile = "careful"\n[profiles.careful]\nlimits.cpu.count = 1\n[profiles.p]\npersistent = true\n'
    )
    config = project(environ, workspace, f'[defaults]\nprofile = "{theirs}"', mine)
    assert (config.profile, config.get("limits.cpu.count")) == ("careful", "1")
    assert len(config.warnings) == 1


@table(
    "text",
    [
        '[[mounts.default]]\nhost = "/"\ncontainer = "/host"',
        "[security]\ndisable_protection = true",
        "[git]\nwritable_hooks = true",
        '[tool]\nbinary = "/workspace/evil"',
        "[defaults]\npersistent = true",
        '[defaults]\nimage = "images:evil"',
        '[incus]\nproject = "other"',
        "[limits.disk]\nmax = '999999999iops'",
    ],
)
def test_an_untrusted_project_may_not(environ, workspace, text):
    config = project(environ, workspace, text)
    untouched = clincus.load_config(environ)
    assert config.values == untouched.values
    (warning,) = config.warnings
    assert warning.startswith(f"{workspace}/.clincus.toml: ")
    assert "clincus trust" in warning
    assert project(environ, workspace, text, trusted=True).values != untouched.values


def test_trust_holds_for_one_content_in_one_place_until_it_is_taken_back(environ, workspace, tmp_path):
    def is_trusted(place):
        return trust.is_trusted(environ, str(place), read(place))

    def is_persistent():
        return trust.project_config(clincus.load_config(environ), environ, str(workspace)).get("defaults.persistent")

    text = "[defaults]\npersistent = true\n"
    write(workspace / ".clincus.toml", text)
    assert not is_trusted(workspace)
    assert trust.set_trust(environ, str(workspace), read(workspace)) is False
    assert (is_trusted(workspace), is_persistent()) == (True, True)
    kept = clincus.own_file(environ, "trust.json")
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(clincus.state_directory(environ)).st_mode) == 0o700
    write(tmp_path / "copy/.clincus.toml", text)
    assert not is_trusted(tmp_path / "copy")
    write(workspace / ".clincus.toml", f"{text}# changed\n")
    assert (is_trusted(workspace), is_persistent()) == (False, False)
    write(workspace / ".clincus.toml", text)
    assert trust.set_trust(environ, str(workspace), None) is True
    assert trust.set_trust(environ, str(workspace), None) is False
    assert not is_trusted(workspace)


def test_a_project_file_that_is_no_plain_small_file_is_refused(workspace):
    path = workspace / ".clincus.toml"
    for make in (
        lambda: path.symlink_to("/etc/passwd"),
        lambda: os.mkfifo(path),
        lambda: write(path, "#" * (trust.PROJECT_FILE_LIMIT + 1)),
    ):
        make()
        with pytest.raises(clincus.ConfigError, match="cannot be read"):
            trust.read_project(str(workspace))
        path.unlink()
    for line in ("a" + ".a" * 32000 + " = 1", "limits.cpu.count = '" + "0-99999," * 8000 + "1'"):  # slow to read
        write(path, f"# fine\n{line}\n")
        with pytest.raises(clincus.ConfigError, match="line 2: the line is longer than 1000 characters"):
            trust.read_project(str(workspace))


def test_a_hostile_project_file_costs_few_words(environ, workspace):
    config = project(environ, workspace, "".join(f"[a{number}]\nb = 1\n" for number in range(3000)))
    assert len(config.warnings) == clincus.Reader.MOST


# What the dashboard sets


def port_of(environ):
    return clincus.load_config(environ).get("dashboard.port")


@table(
    ("before", "after", "port"),
    [
        ("", "[tool]\nname = 'copilot'\n", 4000),
        ("[dashboard]\nport = 1\n", "# edited\n[dashboard]\nport = 1\n", 4000),
        ("[dashboard]\nport = 1\n", "[dashboard]\nport = 2\n", 2),
        ("[dashboard]\nport = 1\n", "", 3000),
    ],
)
def test_a_later_edit_of_the_same_key_in_a_file_wins(environ, user_file, before, after, port):
    write(user_file, before)
    clincus.save_dashboard(environ, {"dashboard.port": 4000})
    write(user_file, after)
    assert port_of(environ) == port
    clincus.save_dashboard(environ, {"dashboard.port": 4001})
    assert port_of(environ) == 4001


# What is hidden


def test_a_secret_of_a_feature_or_a_profile_is_not_shown(environ, user_file, monkeypatch):
    monkeypatch.setattr(clincus, "SETTING", dict(clincus.SETTING))
    clincus.register_settings(clincus.Setting("weather.key", "", clincus.check_text, "CLINCUS_WEATHER", secret=True))
    write(user_file, '[weather]\nkey = "sesame"\n[profiles.x]\nimage = "i"\nenvironment = {TOKEN = "sesame"}\n')
    config = clincus.load_config(environ, profile="x")
    document = clincus.config_document(config)
    assert document["weather"] == {"key": clincus.HIDDEN}
    assert document["profiles"] == {"x": {"image": "i", "environment": {"TOKEN": clincus.HIDDEN}}}
    assert config.environment == {"TOKEN": "sesame"}
    assert "sesame" not in json.dumps([document, sources_document(config, None)])
    assert clincus.load_config({**environ, "CLINCUS_WEATHER": "y"}).get("weather.key") == "y"
