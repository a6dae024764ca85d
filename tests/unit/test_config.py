"""The section `config`: layers, checks, bounds of a project's own file, and edits in place."""

from __future__ import annotations

import itertools
import json
import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clincus
from clincus_features import trust
from clincus_features.limits import limit_options
from clincus_features.sources import sources_document
from tests.table import table

clincus.install_features(None)  # they add settings


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


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# The default document


REFERENCE = json.loads("""{
  "defaults": { "image": "clincus", "persistent": false, "model": "claude-sonnet-4-5" },
  "paths": { "sessions_dir": "~/.clincus/sessions", "storage_dir": "~/.clincus/storage",
             "logs_dir": "~/.clincus/logs", "preserve_workspace_path": false },
  "incus": { "project": "default", "group": "incus-admin", "code_uid": 1000, "code_user": "code",
             "disable_shift": false },
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


def differing(document, reference, path=""):
    """The keys of a reference document that another has not, or has with another value."""
    for key, value in reference.items():
        if isinstance(value, dict) and value and isinstance(document.get(key), dict):
            yield from differing(document[key], value, f"{path}{key}.")
        elif document.get(key, "absent") != value:
            yield f"{path}{key}"


def test_the_default_document_holds_every_key_of_the_reference(environ):
    document = clincus.config_document(clincus.load_config(environ))
    assert list(differing(document, REFERENCE)) == []
    assert [key for key in document if key in REFERENCE] == list(REFERENCE)


def test_every_default_passes_its_own_check():
    settings = [setting for setting in clincus.SETTING.values() if not setting.rows]
    wrong = [setting.key for setting in settings if setting.fit(setting.default) != setting.default]
    assert wrong == []


def test_a_changed_document_never_changes_the_defaults(environ):
    config = clincus.load_config(environ)
    clincus.config_document(config)["security"]["protected_paths"].append("x")
    config.values["dashboard"]["workspace_roots"].append("x")
    assert clincus.load_config(environ).get("dashboard.workspace_roots") == []
    assert clincus.load_config(environ).get("security.protected_paths") == clincus.PROTECTED


# Layers


def test_a_later_layer_wins(environ, home, user_file, workspace):
    """System, user, project, $CLINCUS_CONFIG, variable, profile, flag: each beats those before it."""
    named = home / "named.toml"
    steps = [
        ("default", lambda: None),
        ("system", lambda: write(clincus.SYSTEM_CONFIG, '[defaults]\nimage = "system"')),
        ("user", lambda: write(user_file, '[defaults]\nimage = "user"\n[profiles.p]\nimage = "profile"')),
        ("project", lambda: write(workspace / ".clincus.toml", '[defaults]\nimage = "project"')),
        ("named", lambda: (write(named, '[defaults]\nimage = "named"'), environ.update(CLINCUS_CONFIG=str(named)))),
        ("variable", lambda: environ.update(CLINCUS_IMAGE="variable")),
    ]
    seen = []
    for _, step in steps:
        step()
        config = trust.project_config(clincus.load_config(environ), environ, str(workspace))
        seen.append(config.get("defaults.image"))
    for options in ({"profile": "p"}, {"profile": "p", "flags": {"defaults.image": "flag"}}):
        config = trust.project_config(clincus.load_config(environ, **options), environ, str(workspace))
        seen.append(config.get("defaults.image"))
    assert seen == ["clincus", "system", "user", "project", "named", "variable", "profile", "flag"]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def test_a_file_that_does_not_mention_auto_stop_leaves_it_true(environ, user_file):
    write(user_file, '[tool]\nname = "copilot"\n')
    config = clincus.load_config(environ)
    assert config.get("tool.name") == "copilot"
    assert config.get("limits.runtime.auto_stop") is True


def test_a_present_key_wins_when_it_is_empty_or_false(environ, user_file):
    write(
        clincus.SYSTEM_CONFIG,
        '[defaults]\npersistent = true\n[limits.cpu]\ncount = "2"\npriority = 5\n'
        '[security]\ndisable_protection = true\nprotected_paths = ["a"]\n',
    )
    write(
        user_file,
        '[defaults]\npersistent = false\n[limits.cpu]\ncount = ""\npriority = 0\n'
        "[security]\ndisable_protection = false\nprotected_paths = []\n",
    )
    config = clincus.load_config(environ)
    assert config.get("defaults.persistent") is False
    assert config.get("limits.cpu") == {"count": "", "allowance": "", "priority": 0}
    assert config.get("security.disable_protection") is False
    assert config.get("security.protected_paths") == []


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
        '[[mounts.default]]\nhost = "~/two"\ncontainer = "/data/"\nreadonly = true\n',
    )
    config = clincus.load_config(environ)
    assert config.get("security.additional_protected_paths") == ["a", "b", "c"]
    assert config.get("mounts.default") == [
        {"host": "~/two", "container": "/data", "readonly": True},
        {"host": "/k", "container": "/keep"},
    ]


def test_a_relative_mount_is_below_the_directory_of_its_file(environ, user_file):
    write(user_file, 'mounts.default = [{host = "data", container = "/data"}]')
    assert clincus.load_config(environ).get("mounts.default")[0]["host"] == str(user_file.parent / "data")


def test_profiles_merge_key_by_key(environ, user_file):
    write(clincus.SYSTEM_CONFIG, '[profiles.big]\nimage = "big"\nlimits.cpu.count = 4\n')
    write(user_file, "[profiles.big]\nlimits.memory.limit = '4GiB'\n")
    config = clincus.load_config(environ, profile="big")
    assert config.get("defaults.image") == "big"
    assert config.get("limits.cpu.count") == "4"
    assert config.get("limits.memory.limit") == "4GiB"


def test_the_origin_of_each_value_is_known(environ, user_file):
    write(user_file, '[defaults]\nimage = "mine"\n[profiles.p]\npersistent = true\n')
    environ["CLINCUS_LIMIT_CPU"] = "2"
    config = clincus.load_config(environ, profile="p", flags={"tool.name": "opencode", "limits.disk.read": None})
    wanted = ("defaults.image", "limits.cpu.count", "defaults.persistent", "tool.name", "limits.disk.read")
    assert [config.origins[key] for key in wanted] == [
        str(user_file),
        "CLINCUS_LIMIT_CPU",
        "profile 'p'",
        "command line",
        "default",
    ]


LEAVES = {
    "defaults.image": st.sampled_from(["a", "b", "c"]),
    "defaults.persistent": st.booleans(),
    "limits.cpu.priority": st.integers(0, 10),
    "security.protected_paths": st.lists(st.sampled_from(["x", "y"])),
    "security.additional_protected_paths": st.lists(st.sampled_from(["x", "y", "z"]), unique=True),
    "profiles": st.dictionaries(st.sampled_from("pq"), st.fixed_dictionaries({}, optional={"image": st.just("i")})),
}
LAYER_VALUES = st.fixed_dictionaries({}, optional=LEAVES)


@given(LAYER_VALUES, LAYER_VALUES)
def test_what_a_layer_does_not_mention_stays(below, above):
    layers = [clincus.Layer(1, "below", below), clincus.Layer(2, "above", above)]
    alone, _ = clincus.fold_layers(layers[:1])
    both, origins = clincus.fold_layers(layers)
    for key, value in both.items():
        if key not in above:
            assert value == alone[key]
        elif clincus.SETTING[key].merge is None:
            assert value == above[key]
            assert origins[key] == "above"


@given(LAYER_VALUES, LAYER_VALUES)
def test_the_order_of_the_layers_does_not_matter_but_their_rank(one, two):
    layers = [clincus.Layer(1, "one", one), clincus.Layer(2, "two", two)]
    assert clincus.fold_layers(layers) == clincus.fold_layers(layers[::-1])


@given(LAYER_VALUES)
def test_a_layer_over_itself_changes_nothing(values):
    once, _ = clincus.fold_layers([clincus.Layer(1, "a", values)])
    twice, _ = clincus.fold_layers([clincus.Layer(1, "a", values), clincus.Layer(2, "b", values)])
    assert once == twice


def test_another_tool_starts_with_its_own_binary_and_model(environ, user_file):
    write(user_file, '[defaults]\nmodel = "opus"\n[tool]\nbinary = "/opt/claude"\n')
    config = clincus.load_config(environ, flags={"tool.name": "copilot"})
    assert (config.get("tool.binary"), config.origins["defaults.model"]) == ("", "default")
    assert clincus.load_config(environ, flags={"tool.name": "claude"}).get("tool.binary") == "/opt/claude"


@pytest.mark.parametrize(
    ("text", "enforce"),
    [
        ("", "soft"),
        ("limit = '1GiB'", "hard"),
        ("limit = '1GiB'\nenforce = 'soft'", "soft"),
        ("enforce = 'hard'", "hard"),
    ],
)
def test_a_memory_limit_is_hard_unless_somebody_says_soft(environ, user_file, text, enforce):
    write(user_file, f"[limits.memory]\n{text}\n")
    assert clincus.load_config(environ).get("limits.memory.enforce") == enforce


# Variables, flags, profiles


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("CLINCUS_IMAGE", "other", "defaults.image", "other"),
        ("CLINCUS_PERSISTENT", "true", "defaults.persistent", True),
        ("CLINCUS_PERSISTENT", "1", "defaults.persistent", True),
        ("CLINCUS_PERSISTENT", "0", "defaults.persistent", False),
        ("CLINCUS_PERSISTENT", "", "defaults.persistent", False),
        ("CLINCUS_SESSIONS_DIR", "~/s", "paths.sessions_dir", "~/s"),
        ("CLINCUS_STORAGE_DIR", "/s", "paths.storage_dir", "/s"),
        ("CLINCUS_LIMIT_CPU", "0-1", "limits.cpu.count", "0-1"),
        ("CLINCUS_LIMIT_CPU_ALLOWANCE", "50%", "limits.cpu.allowance", "50%"),
        ("CLINCUS_LIMIT_CPU_PRIORITY", "3", "limits.cpu.priority", 3),
        ("CLINCUS_LIMIT_MEMORY", "2GiB", "limits.memory.limit", "2GiB"),
        ("CLINCUS_LIMIT_MEMORY_ENFORCE", "hard", "limits.memory.enforce", "hard"),
        ("CLINCUS_LIMIT_MEMORY_SWAP", "false", "limits.memory.swap", "false"),
        ("CLINCUS_LIMIT_DISK_READ", "10MiB/s", "limits.disk.read", "10MiB/s"),
        ("CLINCUS_LIMIT_DISK_WRITE", "100iops", "limits.disk.write", "100iops"),
        ("CLINCUS_LIMIT_DISK_MAX", "1GB/s", "limits.disk.max", "1GB/s"),
        ("CLINCUS_LIMIT_DISK_PRIORITY", "9", "limits.disk.priority", 9),
        ("CLINCUS_LIMIT_DURATION", "1h30m", "limits.runtime.max_duration", "1h30m"),
        ("CLINCUS_LIMIT_PROCESSES", "500", "limits.runtime.max_processes", 500),
        ("CLINCUS_TOOL", "opencode", "tool.name", "opencode"),
        ("CLINCUS_PORT", "8080", "dashboard.port", 8080),
    ],
)
def test_variable(environ, variable, text, key, value):
    assert clincus.load_config({**environ, variable: text}).get(key) == value


def test_a_bad_variable_is_named(environ):
    with pytest.raises(clincus.ConfigError, match=r'CLINCUS_PORT: invalid dashboard.port "x"'):
        clincus.load_config({**environ, "CLINCUS_PORT": "x"})


def test_the_profile_of_a_variable_applies_and_an_argument_beats_it(environ, user_file):
    write(user_file, '[profiles.a]\nimage = "a"\n[profiles.b]\nimage = "b"\n')
    environ["CLINCUS_PROFILE"] = "a"
    assert clincus.load_config(environ).get("defaults.image") == "a"
    assert clincus.load_config(environ, profile="b").get("defaults.image") == "b"


def test_a_profile_inherits(environ, user_file):
    write(
        user_file,
        '[profiles.base]\nimage = "base"\npersistent = true\nenvironment = {A = "1", B = "2"}\n'
        '[profiles.big]\ninherits = "base"\nimage = "big"\nenvironment = {B = "3"}\ntool = "copilot"\n',
    )
    config = clincus.with_flags(clincus.load_config(environ), {}, "big")
    assert (config.get("defaults.image"), config.get("defaults.persistent")) == ("big", True)
    assert config.environment == {"A": "1", "B": "3"}
    assert (config.profile, config.get("tool.name")) == ("big", "copilot")


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [
        ("", "x", ("profile 'x' not found", 404)),
        ('[profiles.a]\ninherits = "x"', "a", (r"profile 'x' not found \(which profile 'a' inherits\)", 404)),
        ('[profiles.a]\ninherits = "b"\n[profiles.b]\ninherits = "a"', "a", ("profile 'a' inherits itself", 400)),
    ],
)
def test_a_profile_that_cannot_be_applied(environ, user_file, text, name, fault):
    write(user_file, text)
    with pytest.raises(clincus.ConfigError, match=fault[0]) as caught:
        clincus.with_flags(clincus.load_config(environ), {}, name)
    assert caught.value.status == fault[1]


# Checks


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("[dashboard]\n\nport = 0", ("dashboard.port", 3), "write a whole number from 1 to 65535"),
        ("dashboard.port = 65536", ("dashboard.port", 1), "write a whole number from 1 to 65535"),
        ("[dashboard]\nport = true", ("dashboard.port", 2), "write a whole number from 1 to 65535"),
        ('[dashboard]\nport = "3000"', ("dashboard.port", 2), "write a whole number"),
        ('[dashboard]\nworkspace_roots = "~/p"', ("dashboard.workspace_roots", 2), "a list is wanted"),
        (
            '[dashboard]\nworkspace_roots = ["~/p", "p"]',
            ("dashboard.workspace_roots", 2),
            r'entry 2 "p": write an abs',
        ),
        ("dashboard = 3", ("dashboard", 1), "a table is wanted"),
        ("limits = {cpu = 3}", ("limits.cpu", 1), "a table is wanted"),
        (f'[limits.cpu]\ncount = "{"0-99999," * 8000}1"', ("limits.cpu.count", 2), "write a number of CPUs from 1"),
        ('[limits.cpu]\n# two\ncount = "0"', ("limits.cpu.count", 3), "write a number of CPUs from 1"),
        ('[limits.cpu]\npriority = "5"', ("limits.cpu.priority", 2), "write a whole number from 0 to 10"),
        ('[limits]\nmemory.enforce = "firm"', ("limits.memory.enforce", 2), "write hard or soft"),
        ('[limits.disk]\nread = "10MB"', ("limits.disk.read", 2), "write a rate such as 10MiB/s"),
        ('[limits.runtime]\nmax_duration = "-5m"', ("limits.runtime.max_duration", 2), "write a duration such as"),
        ('[tool]\nname = "-x"', ("tool.name", 2), "write the name of a tool"),
        ('[tool.claude]\neffort_level = "huge"', ("tool.claude.effort_level", 2), "write low, medium or high"),
        ('[tool.commands]\n"a b" = "x"', ("tool.commands", 1), "a tool's name is made of"),
        ('[defaults]\nimage = "--help"', ("defaults.image", 2), "write the alias of an image"),
        ('[defaults]\nimage = ""', ("defaults.image", 2), "it may not be empty"),
        ('[defaults]\npersistent = "yes"', ("defaults.persistent", 2), "write true or false"),
        ('[incus]\nproject = "a b"', ("incus.project", 2), "write the name of an Incus project"),
        ('[incus]\ncode_user = "../x"', ("incus.code_user", 2), "write a user's name"),
        ('[paths]\nsessions_dir = "here"', ("paths.sessions_dir", 2), "write an absolute path"),
        ('[security]\nprotected_paths = ["../x"]', ("security.protected_paths", 2), "relative to the workspace"),
        ('[security]\nprotected_paths = ["/x"]', ("security.protected_paths", 2), "relative to the workspace"),
        ('[security]\nprotected_paths = ["."]', ("security.protected_paths", 2), "relative to the workspace"),
        ('[[mounts.default]]\nhost = "/a"', ("mounts.default", 1), "a mount has host, container"),
        (
            '[[mounts.default]]\nhost = "/a"\ncontainer = "b"',
            ("mounts.default", 1),
            "write an absolute path in the con",
        ),
        ('[[mounts.default]]\nhost = "/a"\ncontainer = "/b/../c"', ("mounts.default", 1), "without '..'"),
        ('[[mounts.default]]\nhost = "/a"\ncontainer = "/b"\nro = 1', ("mounts.default", 1), "'ro' is not known"),
        ("[profiles.x]\npersistent = 1", ("profiles.x.persistent", 2), "write true or false"),
        ('[profiles.x.limits.cpu]\ncount = "a"', ("profiles.x.limits.cpu.count", 2), "write a number of CPUs"),
        ("[profiles]\nx = 1", ("profiles.x", 2), "a table is wanted"),
        ('[profiles.x.environment]\n"a=b" = "1"', ("profiles.x.environment", 1), "a variable's name"),
    ],
)
def test_a_wrong_value_is_reported_with_file_key_and_line(environ, user_file, text, place, reason):
    write(user_file, text)
    with pytest.raises(clincus.ConfigError, match=reason) as caught:
        clincus.load_config(environ)
    assert f"{user_file}, line {place[1]}: invalid {place[0]}" in caught.value.message
    assert caught.value.status == 400


def test_a_secret_of_a_profile_never_gets_into_an_error(environ, user_file):
    write(user_file, '[profiles.x.environment]\nTOKEN = ["sesame"]\n')
    with pytest.raises(clincus.ConfigError) as caught:
        clincus.load_config(environ)
    assert "sesame" not in caught.value.message


def test_all_faults_are_reported_at_once(environ, user_file):
    write(user_file, '[limits.cpu]\ncount = "0"\n')
    with pytest.raises(clincus.ConfigError, match="validation failed") as caught:
        clincus.load_config(environ, flags={"limits.memory.limit": "1XB", "limits.cpu.priority": 11})
    named = [
        key for key in ("cpu.count", "memory.limit", "cpu.priority") if f"invalid limits.{key}" in str(caught.value)
    ]
    assert named == ["cpu.count", "memory.limit", "cpu.priority"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "line 1"),
        ('x = 1\n[t\n"', "line 2"),
        ("a = " + "[" * 30000 + "]" * 30000, "too deeply nested"),
    ],
)
def test_broken_toml_is_reported_with_the_file(environ, user_file, text, message):
    write(user_file, text)
    with pytest.raises(clincus.ConfigError, match=f"^{user_file}.*{message}"):
        clincus.load_config(environ)


def test_a_file_that_is_not_utf8_is_reported_with_its_line(environ, user_file):
    user_file.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(clincus.ConfigError, match="line 2: the file is not UTF-8"):
        clincus.load_config(environ)


@pytest.mark.parametrize("kind", ["large", "fifo", "directory"])
def test_what_is_no_small_regular_file_is_refused_and_never_waited_for(environ, user_file, kind):
    if kind == "large":
        write(user_file, "#" * (clincus.CONFIG_FILE_LIMIT + 1))
    elif kind == "fifo":
        os.mkfifo(user_file)
    else:
        user_file.mkdir()
    with pytest.raises(clincus.ConfigError, match="cannot be read"):
        clincus.load_config(environ)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[dashbord]\nport = 1", "line 2: unknown key 'dashbord.port' is ignored; did you mean 'dashboard.port'?"),
        ("[defaults]\n\nimag = 'x'", "line 3: unknown key 'defaults.imag' is ignored; did you mean 'defaults.image'?"),
        ("[profiles.x]\nimages = 'y'", "unknown key 'profiles.x.images' is ignored; did you mean 'profiles.x.image'?"),
        ("zzzzzzzzzzzzzzz = 1", "line 1: unknown key 'zzzzzzzzzzzzzzz' is ignored"),
    ],
)
def test_an_unknown_key_is_a_warning(environ, user_file, text, warning):
    write(user_file, text)
    (said,) = clincus.load_config(environ).warnings
    assert said.startswith(str(user_file))
    assert warning in said


def test_keys_match_whatever_their_case_and_numbers_become_text(environ, user_file):
    write(user_file, "[Limits.CPU]\nCount = 2\n[DashBoard]\nPORT = 3001\n")
    config = clincus.load_config(environ)
    assert (config.get("limits.cpu.count"), config.get("dashboard.port"), config.warnings) == ("2", 3001, ())


def test_an_unknown_tool_is_refused_and_a_configured_one_is_known(environ, user_file):
    with pytest.raises(clincus.ConfigError, match=r"unknown tool: x \(supported: claude, copilot, opencode, .*shell\)"):
        clincus.load_config(environ, flags={"tool.name": "x"})
    write(user_file, '[tool.commands]\nx = "x --yes"\n')
    assert clincus.load_config(environ, flags={"tool.name": "x"}).get("tool.commands") == {"x": ["x", "--yes"]}
    write(user_file, '[tool]\nname = "y"\nbinary = "/opt/y"\n')
    assert clincus.load_config(environ).get("tool.name") == "y"


@table(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5m", 30),
        ("1m1s", 61),
        ("500ms", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("3ns", 3e-9),
    ],
)
def test_duration(text, seconds):
    assert clincus.parse_duration(text) == pytest.approx(seconds)


@table("text", ["", "5", "-5m", "+5m", "1d", "m", "1 h", "1h ", "5M", "1h30", "1e3s", "9" * 99 + "h"])
def test_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        clincus.parse_duration(text)


# Files


def test_xdg_config_home_is_honoured(environ, home, tmp_path):
    write(home / ".config/clincus/config.toml", '[defaults]\nimage = "home"\n')
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert clincus.load_config(environ).get("defaults.image") == "home"
    write(tmp_path / "xdg/clincus/config.toml", '[defaults]\nimage = "xdg"\n')
    assert clincus.load_config(environ).get("defaults.image") == "xdg"
    assert str(tmp_path / "xdg/clincus/config.toml") in clincus.config_files(environ)


def test_a_missing_file_that_the_variable_names_is_an_error(environ):
    environ["CLINCUS_CONFIG"] = "/nowhere/config.toml"
    with pytest.raises(clincus.ConfigError, match=r"CLINCUS_CONFIG names '/nowhere/config\.toml'"):
        clincus.load_config(environ)
    assert "/nowhere/config.toml" in clincus.config_files(environ)


def test_the_fingerprint_sees_every_way_of_saving(environ, user_file):
    paths = clincus.config_files(environ)
    seen = [clincus.config_fingerprint(paths)]
    write(user_file, "a = 1\n")
    seen.append(clincus.config_fingerprint(paths))
    other = user_file.with_name("new")
    write(other, "a = 2\n")
    os.utime(other, ns=(user_file.stat().st_atime_ns, user_file.stat().st_mtime_ns))
    os.replace(other, user_file)
    seen.append(clincus.config_fingerprint(paths))
    user_file.unlink()
    seen.append(clincus.config_fingerprint(paths))
    assert all(one != other for one, other in itertools.combinations(seen[:3], 2))
    assert seen[0] == seen[3]


@pytest.mark.parametrize(
    ("path", "result"),
    [("~", "{home}"), ("~/a/../b", "{home}/b"), ("/x//y/", "/x/y"), ("~root/z", "/root/z")],
)
def test_expand(environ, home, path, result):
    assert clincus.expand(path, environ) == result.format(home=home)


def test_expand_names_a_user_that_is_not_there(environ):
    with pytest.raises(clincus.ConfigError, match="there is no user 'nobody-here'"):
        clincus.expand("~nobody-here/x", environ)


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


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('[tool]\nname = "copilot"', "tool.name", "copilot"),
        ('[defaults]\nimage = "other"', "defaults.image", "other"),
        ('[defaults]\nprofile = "p"', "defaults.persistent", True),
        ('[defaults]\nprofile = "small"', "limits.cpu.count", "1"),
    ],
)
def test_an_untrusted_project_may_choose_tool_image_and_profile(environ, workspace, text, key, value):
    mine = "[profiles.p]\npersistent = true\n[profiles.small]\nlimits.cpu.count = 1\n"
    config = project(environ, workspace, text, mine)
    assert config.get(key) == value
    assert config.warnings == ()


@pytest.mark.parametrize(
    "profile",
    [
        'mounts = [{host = "~/.ssh", container = "/keys"}]',
        'environment = {TOKEN = "sesame"}',
        "limits.memory.limit = '8GiB'",
        "limits.memory.swap = 'true'",
        "nesting = true",
        'inherits = "open"',
    ],
)
def test_an_untrusted_project_may_choose_no_profile_that_opens_more(environ, workspace, profile):
    environ["CLINCUS_LIMIT_MEMORY"] = "4GiB"
    mine = f'[profiles.p]\n{profile}\n[profiles.open]\nenvironment = {{A = "1"}}\n'
    config = project(environ, workspace, '[defaults]\nprofile = "p"', mine)
    assert (config.profile, config.environment) == ("", {})
    assert "defaults.profile is left out, since the file is not trusted and your profile 'p' " in config.warnings[0]
    assert project(environ, workspace, '[defaults]\nprofile = "p"', mine, trusted=True).profile == "p"


def test_an_untrusted_project_may_choose_a_profile_that_opens_what_is_open_anyway(environ, workspace):
    mine = "[security]\nnesting = true\n[profiles.p]\nnesting = true\n"
    config = project(environ, workspace, '[defaults]\nprofile = "p"', mine)
    assert (config.profile, config.warnings) == ("p", ())


def test_a_profile_can_choose_nested_containers(environ, user_file):
    write(user_file, "[profiles.docker]\nnesting = true\n")
    assert clincus.load_config(environ, profile="docker").get("security.nesting") is True
    assert clincus.load_config(environ).get("security.nesting") is False


@pytest.mark.parametrize("theirs", ["", "p", "unknown"])
def test_an_untrusted_project_lifts_no_profile_of_mine(environ, workspace, theirs):
    mine = (
        '[defaults]\nprofile = "careful"\n[profiles.careful]\nlimits.cpu.count = 1\n[profiles.p]\npersistent = true\n'
    )
    config = project(environ, workspace, f'[defaults]\nprofile = "{theirs}"', mine)
    assert (config.profile, config.get("limits.cpu.count")) == ("careful", "1")
    assert len(config.warnings) == 1


def test_a_flag_is_a_limit_of_mine_too(environ, workspace):
    write(workspace / ".clincus.toml", '[defaults]\nprofile = "fast"\n')
    user_file = os.path.join(environ["HOME"], ".config/clincus/config.toml")
    write(user_file, "[profiles.fast]\nlimits.disk.max = '999999999iops'\n")
    request = clincus.LaunchRequest(workspace=str(workspace), settings={"limits.disk.read": "10MiB/s"})
    features = clincus.Extensions()
    features.workspace_configs.append(trust.project_config)
    launch = clincus.plan_launch(request, clincus.load_config(environ), environ, features)
    assert limit_options(launch.config.get("limits"))[1] == {"limits.read": "10MiB"}


def test_the_profile_of_a_caller_beats_that_of_a_project(environ, workspace):
    write(workspace / ".clincus.toml", '[defaults]\nprofile = "p"')
    write(os.path.join(environ["HOME"], ".config/clincus/config.toml"), "[profiles.p]\n[profiles.q]\n")
    mine = clincus.load_config(environ, profile="q")
    config = trust.project_config(mine, environ, str(workspace))
    assert (config.profile, config.warnings) == ("q", ())


@pytest.mark.parametrize(
    "text",
    [
        '[[mounts.default]]\nhost = "/"\ncontainer = "/host"',
        "[security]\ndisable_protection = true",
        "[security]\nprotected_paths = []",
        "[security]\nnesting = true",
        "[git]\nwritable_hooks = true",
        '[profiles.p]\nimage = "x"',
        '[tool]\nbinary = "/workspace/evil"',
        '[tool.commands]\nclaude = "/workspace/evil"',
        "[defaults]\npersistent = true",
        '[defaults]\nimage = "images:evil"',
        '[incus]\nproject = "other"',
        '[paths]\nsessions_dir = "/tmp/x"',
        "[paths]\npreserve_workspace_path = true",
        "[dashboard]\nport = 1",
        "[sessions]\nephemeral_grace = '0'",
        "[limits.runtime]\nauto_stop = false",
        "[limits.runtime]\nstop_graceful = false",
        "[limits.cpu]\ncount = 1",
        "[limits.disk]\nmax = '999999999iops'",
    ],
)
def test_an_untrusted_project_may_not(environ, workspace, text):
    config = project(environ, workspace, text, trusted=False)
    untouched = clincus.load_config(environ)
    assert config.values == untouched.values
    (warning,) = config.warnings
    assert warning.startswith(f"{workspace}/.clincus.toml: ")
    assert "clincus trust" in warning
    assert project(environ, workspace, text, trusted=True).values != untouched.values


def test_an_untrusted_project_lifts_no_limit(environ, workspace):
    """Incus lets limits.max override limits.read and limits.write."""
    mine = "[limits.disk]\nread = '10MiB/s'\nwrite = '10MiB/s'\n"
    config = project(environ, workspace, "[limits.disk]\nmax = '999999999iops'\n", mine)
    assert limit_options(config.get("limits"))[1] == {"limits.read": "10MiB", "limits.write": "10MiB"}


def test_variables_profile_and_flags_beat_a_trusted_project(environ, workspace):
    environ["CLINCUS_LIMIT_CPU"] = "2"
    config = project(environ, workspace, "[limits]\ncpu.count = 8\ncpu.priority = 9\n", trusted=True)
    assert (config.get("limits.cpu.count"), config.get("limits.cpu.priority")) == ("2", 9)


def test_a_project_that_names_another_tool_does_not_inherit_my_binary(environ, workspace):
    config = project(environ, workspace, '[tool]\nname = "copilot"', '[tool]\nbinary = "/opt/claude"')
    assert config.get("tool.binary") == ""


def is_trusted(environ, workspace):
    return trust.is_trusted(environ, str(workspace), read(workspace))


def test_trust_holds_for_one_content_in_one_place(environ, workspace, tmp_path):
    write(workspace / ".clincus.toml", "[defaults]\npersistent = true\n")
    base = clincus.load_config(environ)
    assert not is_trusted(environ, workspace)
    assert trust.set_trust(environ, str(workspace), read(workspace)) is False
    assert is_trusted(environ, workspace)
    assert trust.project_config(base, environ, str(workspace)).get("defaults.persistent") is True
    write(tmp_path / "copy/.clincus.toml", "[defaults]\npersistent = true\n")
    assert not is_trusted(environ, tmp_path / "copy")
    write(workspace / ".clincus.toml", "[defaults]\npersistent = true\n# changed\n")
    assert not is_trusted(environ, workspace)
    assert trust.project_config(base, environ, str(workspace)).get("defaults.persistent") is False


def test_trust_can_be_taken_back_and_is_kept_private(environ, workspace):
    write(workspace / ".clincus.toml", "")
    trust.set_trust(environ, str(workspace), read(workspace))
    assert stat.S_IMODE(os.stat(clincus.own_file(environ, "trust.json")).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(clincus.state_directory(environ)).st_mode) == 0o700
    assert trust.set_trust(environ, str(workspace), None) is True
    assert trust.set_trust(environ, str(workspace), None) is False
    assert not is_trusted(environ, workspace)


def test_a_broken_trust_list_trusts_nothing(environ, workspace):
    write(workspace / ".clincus.toml", "")
    trust.set_trust(environ, str(workspace), read(workspace))
    write(clincus.own_file(environ, "trust.json"), "{")
    assert not is_trusted(environ, workspace)


@pytest.mark.parametrize("kind", ["link", "fifo", "large"])
def test_a_project_file_that_is_no_plain_small_file_is_refused(environ, workspace, kind):
    path = workspace / ".clincus.toml"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        write(path, "#" * (trust.PROJECT_FILE_LIMIT + 1))
    with pytest.raises(clincus.ConfigError, match="cannot be read"):
        trust.project_config(clincus.load_config(environ), environ, str(workspace))


LONG_LINES = {
    "a deep key": "a" + ".a" * 32000 + " = 1",
    "a deep key of quoted parts": 'a."\\"".' * 6000 + "a = 1",
    "a long word": "a" * 64000 + " = 1",
    "a list of CPUs": "limits.cpu.count = '" + "0-99999," * 8000 + "1'",
}


@pytest.mark.parametrize("line", LONG_LINES.values(), ids=LONG_LINES)
def test_a_project_file_with_a_line_that_takes_long_to_read_is_refused(workspace, line):
    write(workspace / ".clincus.toml", f"# fine\n{line}\n")
    with pytest.raises(clincus.ConfigError, match="line 2: the line is longer than 1000 characters"):
        trust.read_project(str(workspace))


def test_a_project_file_of_deep_tables_is_read(environ, workspace):
    deep = "a" + ".a" * 490
    config = project(environ, workspace, f"[{deep}]\n{deep} = 1\n", trusted=True)
    assert "unknown key 'a.a.a" in config.warnings[0]


def test_a_hostile_project_file_costs_no_time_and_few_words(environ, workspace):
    config = project(environ, workspace, "".join(f"[a{number}]\nb = 1\n" for number in range(3000)))
    assert len(config.warnings) == clincus.Reader.MOST


# What the API shows


def test_the_environment_of_profiles_is_hidden(environ, user_file):
    write(user_file, '[profiles.x]\nimage = "i"\n[profiles.x.environment]\nTOKEN = "sesame"\n')
    config = clincus.load_config(environ, profile="x")
    document = clincus.config_document(config)
    assert document["profiles"] == {"x": {"image": "i", "environment": {"TOKEN": clincus.HIDDEN}}}
    assert config.environment == {"TOKEN": "sesame"}
    assert "sesame" not in json.dumps([document, sources_document(config, None)])


def test_the_sources_document(environ, user_file):
    write(user_file, "[dashboard]\nport = 3001\n")
    document = sources_document(clincus.load_config(environ), "broken")
    assert document["files"] == [
        {"path": clincus.SYSTEM_CONFIG, "exists": False, "error": None},
        {"path": str(user_file), "exists": True, "error": None},
        {"path": clincus.own_file(environ, "dashboard.json"), "exists": False, "error": None},
    ]
    assert document["origins"]["dashboard.port"] == str(user_file)
    assert (document["warnings"], document["error"]) == ([], "broken")


# What the dashboard sets


ROOTS = "dashboard.workspace_roots"


def test_what_the_dashboard_sets_is_kept_in_a_file_of_its_own(environ, user_file):
    write(user_file, "# mine\n[dashboard]\nport = 3000\n")
    clincus.save_dashboard(environ, {"dashboard.port": 3001, ROOTS: ["~/p", "/q"]})
    config = clincus.load_config(environ)
    assert config.get("dashboard") == {"port": 3001, "workspace_roots": ["~/p", "/q"]}
    assert config.origins["dashboard.port"] == clincus.own_file(environ, "dashboard.json")
    assert user_file.read_text() == "# mine\n[dashboard]\nport = 3000\n"
    assert stat.S_IMODE(os.stat(clincus.own_file(environ, "dashboard.json")).st_mode) == 0o600


def test_the_dashboard_needs_no_directory_for_config_files(environ, home, user_file):
    user_file.parent.rmdir()
    (home / ".config").rmdir()
    clincus.save_dashboard(environ, {"dashboard.port": 3001})
    assert clincus.load_config(environ).get("dashboard.port") == 3001
    assert os.listdir(home) == [".clincus"]


@pytest.mark.parametrize(
    ("before", "after", "port"),
    [
        ("", "[tool]\nname = 'copilot'\n", 4000),
        ("", "[dashboard]\nport = 3000\n", 3000),
        ("[dashboard]\nport = 1\n", "# edited\n[dashboard]\nport = 1\n", 4000),
        ("[dashboard]\nport = 1\n", "[dashboard]\nport = 2\n", 2),
        ("[dashboard]\nport = 1\n", "", 3000),
    ],
)
def test_a_later_edit_of_the_same_key_in_a_file_wins(environ, user_file, before, after, port):
    write(user_file, before)
    clincus.save_dashboard(environ, {"dashboard.port": 4000})
    write(user_file, after)
    assert clincus.load_config(environ).get("dashboard.port") == port


def test_what_an_edit_has_overruled_does_not_come_back_when_the_edit_is_undone(environ, user_file):
    write(user_file, "[dashboard]\nport = 1\n")
    clincus.save_dashboard(environ, {"dashboard.port": 4000, ROOTS: ["/q"]})
    write(user_file, "[dashboard]\nport = 2\n")
    clincus.save_dashboard(environ, {})
    write(user_file, "[dashboard]\nport = 1\n")
    assert clincus.load_config(environ).get("dashboard") == {"port": 1, "workspace_roots": ["/q"]}


def test_an_edit_of_any_config_file_counts(environ, home, user_file):
    named = home / "named.toml"
    write(named, "[dashboard]\nport = 1\n")
    write(user_file, "[dashboard]\nport = 2\n")
    environ["CLINCUS_CONFIG"] = str(named)
    clincus.save_dashboard(environ, {"dashboard.port": 3})
    assert clincus.load_config(environ).get("dashboard.port") == 3
    write(user_file, "[dashboard]\nport = 4\n")
    assert clincus.load_config(environ).get("dashboard.port") == 3
    write(named, "[dashboard]\nport = 5\n")
    assert clincus.load_config(environ).get("dashboard.port") == 5


def test_setting_again_wins_over_the_edit(environ, user_file):
    clincus.save_dashboard(environ, {"dashboard.port": 3001})
    write(user_file, "[dashboard]\nport = 2\n")
    clincus.save_dashboard(environ, {"dashboard.port": 3001})
    assert clincus.load_config(environ).get("dashboard.port") == 3001


def test_saving_nothing_writes_nothing(environ, home):
    clincus.save_dashboard(environ, {})
    assert os.listdir(home) == [".config"]


def test_a_variable_and_a_flag_beat_what_the_dashboard_sets(environ):
    clincus.save_dashboard(environ, {"dashboard.port": 3001})
    environ["CLINCUS_PORT"] = "3002"
    assert clincus.load_config(environ).get("dashboard.port") == 3002
    assert clincus.load_config(environ, flags={"dashboard.port": 3003}).get("dashboard.port") == 3003


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"dashboard.port": 1}', '{"dashboard.port": {"value": 0, "instead_of": null}}']
)
def test_a_torn_file_of_the_dashboard_is_left_out_and_replaced_by_the_next_save(environ, text, caplog):
    write(clincus.own_file(environ, "dashboard.json"), text)
    assert clincus.load_config(environ).get("dashboard.port") == 3000
    assert "dashboard.json is torn" in caplog.text
    clincus.save_dashboard(environ, {"dashboard.port": 3001})
    assert clincus.load_config(environ).get("dashboard.port") == 3001


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dashboard.port", 0, "invalid port"),
        ("dashboard.port", 65536, "invalid port"),
        ("dashboard.port", True, "invalid port"),
        ("dashboard.port", "3000", "invalid port"),
        (ROOTS, "x", "invalid workspace_roots: a list is wanted"),
        (ROOTS, ["x"], "invalid workspace_roots: entry 1"),
        (ROOTS, ["/a\nb"], "control characters"),
        (ROOTS, [3], "invalid workspace_roots"),
    ],
)
def test_saving_refuses_bad_values_and_changes_nothing(environ, key, value, message):
    with pytest.raises(clincus.ConfigError, match=message) as caught:
        clincus.save_dashboard(environ, {"dashboard.port": 3001, key: value})
    assert caught.value.status == 400
    assert not os.path.exists(clincus.own_file(environ, "dashboard.json"))


def test_nothing_is_saved_while_a_config_file_is_broken(environ, user_file):
    write(user_file, "[dashboard\n")
    with pytest.raises(clincus.ConfigError, match="line 1") as caught:
        clincus.save_dashboard(environ, {"dashboard.port": 3})
    assert (caught.value.status, caught.value.message[: len(str(user_file))]) == (409, str(user_file))
    assert not os.path.exists(clincus.own_file(environ, "dashboard.json"))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(environ, home, monkeypatch):
    clincus.save_dashboard(environ, {"dashboard.port": 3})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(clincus.ClincusError, match="cannot be written: No space left on device") as caught:
        clincus.save_dashboard(environ, {"dashboard.port": 4})
    assert caught.value.status == 500
    assert clincus.load_config(environ).get("dashboard.port") == 3
    assert os.listdir(home / ".clincus") == ["dashboard.json"]


def test_changes_at_once_lose_none(environ):
    threads = [
        threading.Thread(target=clincus.save_dashboard, args=(environ, changes))
        for changes in ({"dashboard.port": 3001}, {ROOTS: ["/r"]}) * 8
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clincus.load_config(environ).get("dashboard") == {"port": 3001, "workspace_roots": ["/r"]}


# Keys of a feature


def test_a_feature_adds_keys_before_the_configuration_is_loaded(environ, user_file, monkeypatch):
    monkeypatch.setattr(clincus, "SETTING", dict(clincus.SETTING))
    clincus.register_settings(clincus.Setting("weather.key", "", clincus.check_text, "CLINCUS_WEATHER", secret=True))
    write(user_file, '[weather]\nkey = "sesame"\n')
    config = clincus.load_config(environ)
    assert clincus.load_config({**environ, "CLINCUS_WEATHER": "y"}).get("weather.key") == "y"
    assert clincus.config_document(config)["weather"] == {"key": clincus.HIDDEN}
    assert "sesame" not in json.dumps(sources_document(config, None))


def test_a_key_that_another_version_kept_with_a_session_is_a_warning():
    config = clincus.with_flags(clincus.make_config(()), {"limits.cpu.count": "2", "limits.cpu.counts": "3"})
    assert config.get("limits.cpu.count") == "2"
    assert config.warnings == (
        "command line: unknown key 'limits.cpu.counts' is ignored; did you mean 'limits.cpu.count'?",
    )
