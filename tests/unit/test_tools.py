"""The section `tools`: commands, environment, files carried in, conversations saved."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest

import clincus
from tests.table import table

SESSION = "0cb916db-26aa-40f2-86b5-1ba81b225fd2"
OTHER = "11111111-2222-3333-4444-555555555555"
CLAUDE = "claude --verbose --permission-mode bypassPermissions"
COPILOT = "copilot --allow-all-tools --allow-all-paths --allow-all-urls"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory of its own, and no system-wide config file."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "etc" / "config.toml"))
    return tmp_path / "home"


@pytest.fixture
def environ(home):
    return {"HOME": str(home), "PATH": "/nowhere"}


@pytest.fixture
def config(environ):
    return clincus.load_config(environ)


def configured(environ, text):
    """The configuration that a user's file gives."""
    write(os.path.join(environ["HOME"], ".config/clincus/config.toml"), text)
    return clincus.load_config(environ)


def write(path, data=b"", mode=0o600):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    os.chmod(path, mode)


def carry(name, home, config, **options):
    """The files that a tool carries in, by path, and the warnings."""
    tool = clincus.find_tool(name, config)
    options = {"environment": {}, **options}
    files, warnings = clincus.tool_files(tool, str(home), "/home/code", "/workspace", config, **options)
    return {file.path: file for file in files}, warnings


def document(files, path):
    return json.loads(files[path].data)


# Commands


@table(
    ("text", "tool", "conversation", "command"),
    [
        ("", "claude", None, f"{CLAUDE} --session-id {SESSION}"),
        ("", "copilot", OTHER, f"{COPILOT} --session-id {OTHER}"),
        ("", "opencode", "opencode", "opencode --continue"),
        ("", "shell", None, "bash -l"),
        ('[defaults]\nmodel = "opus"', "claude", None, f"{CLAUDE} --session-id {SESSION} --model opus"),
        ('[tool]\nname = "opencode"\n[defaults]\nmodel = "a/b"', "opencode", None, "opencode --model a/b"),
        ('[tool.commands]\naider = "aider --yes {session}"', "aider", None, f"aider --yes {SESSION}"),
    ],
)
def test_the_command_of_a_tool(environ, text, tool, conversation, command):
    config = configured(environ, text)
    words = clincus.tool_command(clincus.find_tool(tool, config), config, SESSION, conversation)
    assert " ".join(words) == command


# Environment


def test_the_github_token_goes_where_it_is_used(environ, config):
    for tool, variables, token in (
        ("claude", {"GH_TOKEN": "a", "GITHUB_TOKEN": "b"}, "a"),
        ("copilot", {"GITHUB_TOKEN": "b"}, "b"),
        ("opencode", {"GH_TOKEN": "a"}, None),
    ):
        given = {**environ, **variables}
        inside = clincus.tool_environment(clincus.find_tool(tool, config), config, given, "/home/code")
        assert inside.get("GH_TOKEN") == token


@table(
    ("script", "login", "token"),
    [
        ('[ "$*" = "auth token" ] && echo gho_x', ".config/gh", "gho_x"),
        ("exec sleep 60", ".config/gh", ""),
    ],
)
def test_gh_is_asked_within_a_time_limit_where_it_has_a_login(tmp_path, monkeypatch, script, login, token):
    monkeypatch.setattr(clincus, "GH_TIMEOUT", 0.3)
    write(tmp_path / "gh", f"#!/bin/sh\n{script}\n", 0o700)
    write(tmp_path / login / "hosts.yml", "github.com:\n")
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    assert clincus.github_token(environ) == token


# Files carried in


def test_a_fresh_home_gets_what_answers_each_tools_questions(home, config):
    claude, _ = carry("claude", home, config)
    assert document(claude, ".claude/settings.json") == {
        "skipDangerousModePermissionPrompt": True,
        "permissions": {"defaultMode": "bypassPermissions"},
    }
    account = document(claude, ".claude.json")
    assert account["hasCompletedOnboarding"] is account["bypassPermissionsModeAccepted"] is True
    assert account["projects"]["/workspace"]["hasTrustDialogAccepted"] is True
    assert account["preferredNotifChannel"] == "terminal_bell"
    copilot, _ = carry("copilot", home, config)
    assert document(copilot, ".copilot/config.json") == {"trustedFolders": ["/workspace"]}
    opencode, _ = carry("opencode", home, config)
    assert document(opencode, ".config/opencode/opencode.json") == {"permission": {"*": "allow"}}
    assert carry("shell", home, config) == ({}, [])


def test_claudes_settings_stay_as_the_user_set_them(home, config):
    mine = {
        "model": "opus",
        "permissions": {"defaultMode": "plan", "deny": ["Read(.env)"], "disableBypassPermissionsMode": "disable"},
        "env": {"X": "1"},
    }
    write(home / ".claude/settings.json", json.dumps(mine))
    files, _ = carry("claude", home, config)
    assert document(files, ".claude/settings.json") == {
        "model": "opus",
        "permissions": {"defaultMode": "plan", "deny": ["Read(.env)"]},
        "env": {"X": "1"},
        "skipDangerousModePermissionPrompt": True,
    }
    assert json.loads((home / ".claude/settings.json").read_text()) == mine


def test_of_claudes_account_file_only_account_and_preferences_go_in(home, config):
    kept = {
        "oauthAccount": {"emailAddress": "ann@example.org"},
        "theme": "light",
        "preferredNotifChannel": "notifications_disabled",
    }
    private = {
        "projects": {"/home/ann/secret": {"history": ["p"]}},
        "customApiKeyResponses": {"approved": ["old"], "rejected": ["k" * 20]},
    }
    write(home / ".claude.json", json.dumps({**kept, **private, "mcpServers": {"m": {"command": f"{home}/m"}}}))
    files, _ = carry("claude", home, config, environment={"ANTHROPIC_API_KEY": "sk-" + "k" * 30})
    account = document(files, ".claude.json")
    assert {key: account[key] for key in kept} == kept
    assert account["mcpServers"] == {"m": {"command": "/home/code/m"}}
    assert account["customApiKeyResponses"] == {"approved": ["old", "k" * 20], "rejected": []}
    assert list(account["projects"]) == ["/workspace"]
    assert "secret" not in files[".claude.json"].data.decode()


def test_paths_below_the_home_become_paths_in_the_container(home, config):
    settings = {
        "a": f"{home}/.claude/x.sh --y={home}",
        "b": f"{home}2/x",
        "c": f"/mnt{home}/x",
        f"{home}/k": [str(home)],
    }
    write(home / ".claude/settings.json", json.dumps(settings))
    write(home / ".claude/plugins/list.json", json.dumps([f"{home}/x"]))
    files, warnings = carry("claude", home, config)
    carried = document(files, ".claude/settings.json")
    assert carried["a"] == "/home/code/.claude/x.sh --y=/home/code"
    assert (carried["b"], carried["c"]) == (f"{home}2/x", f"/mnt{home}/x")
    assert carried["/home/code/k"] == ["/home/code"]
    assert document(files, ".claude/plugins/list.json") == ["/home/code/x"]
    assert warnings == []


def test_copilot_keeps_its_comments_apart_and_its_folders(home, config):
    write(home / ".copilot/config.json", '// managed\n{"trustedFolders": ["/x"], /* why */ "url": "http://a//b",}\n')
    files, warnings = carry("copilot", home, config)
    assert document(files, ".copilot/config.json") == {"trustedFolders": ["/x", "/workspace"], "url": "http://a//b"}
    assert warnings == []


@table(
    ("mine", "inside"),
    [
        ({"bash": "ask", "edit": "deny"}, {"*": "allow", "bash": "allow", "edit": "deny"}),
        ({"*": "deny", "read": "allow"}, {"*": "deny", "read": "allow"}),
    ],
)
def test_opencode_may_do_what_the_user_did_not_deny(home, config, mine, inside):
    write(home / ".config/opencode/opencode.jsonc", "// mine\n" + json.dumps({"permission": mine, "theme": "x"}))
    files, _ = carry("opencode", home, config)
    carried = document(files, ".config/opencode/opencode.jsonc")
    assert carried["permission"] == inside
    assert next(iter(carried["permission"])) == "*"  # the last rule that fits counts
    assert carried["theme"] == "x"


def test_credentials_hooks_and_modes_go_in_and_instructions_where_the_user_wants_that(home, environ, config):
    write(home / ".claude/.credentials.json", "{}")
    write(home / ".claude/hooks/deep/a.sh", "#!/bin/sh\n", 0o755)
    write(home / ".claude/CLAUDE.md", "be kind")
    os.utime(home / ".claude/.credentials.json", (1000, 1000))
    files, _ = carry("claude", home, config)
    credentials = files[".claude/.credentials.json"]
    assert (credentials.mode, credentials.mtime, files[".claude/hooks/deep/a.sh"].mode) == (0o600, 1000, 0o700)
    assert ".claude/CLAUDE.md" not in files
    assert ".claude/CLAUDE.md" in carry("claude", home, configured(environ, "[tool]\ncarry_instructions = true"))[0]
    for inside, is_carried in ((999.0, True), (1000.0, False), (1001.5, False)):
        only, _ = carry("claude", home, config, present={".claude/.credentials.json": inside})
        assert bool(only) is is_carried, "one that was renewed inside stays"


def test_what_leaves_the_home_or_is_no_file_stays_behind_with_a_warning(home, config, tmp_path):
    write(tmp_path / "outside/secret", "sesame")
    write(home / "dotfiles/settings.json", '{"a": 1}')
    write(home / ".claude/hooks/fine", "x")
    (home / ".claude/settings.json").symlink_to("../dotfiles/settings.json")
    (home / ".claude/plugins").symlink_to(tmp_path / "outside")
    (home / ".claude/hooks/link").symlink_to(tmp_path / "outside/secret")
    os.mkfifo(home / ".claude/hooks/fifo")
    files, warnings = carry("claude", home, config)
    assert document(files, ".claude/settings.json")["a"] == 1
    assert {".claude/hooks/fine"} == {path for path in files if path.startswith((".claude/hooks", ".claude/plugins"))}
    assert all(b"sesame" not in file.data for file in files.values())
    assert sorted(warning.partition(" is not carried")[0] for warning in warnings) == [
        f"{home}/.claude/hooks/fifo",
        f"{home}/.claude/hooks/link",
        f"{home}/.claude/plugins",
    ]


def test_a_huge_file_stays_behind_and_the_sum_is_bounded(home, monkeypatch):
    for number in range(10):
        write(home / "skills" / f"{number}.bin")
        os.truncate(home / "skills" / f"{number}.bin", 7 << 20)
    carried = clincus.Carried(str(home))
    carried.add("skills")
    assert sorted(carried.files) == [f"skills/{number}.bin" for number in range(9)]
    assert "all files together would be larger than 64 MiB" in carried.warnings[0]
    write(home / "huge", "x" * 101)
    monkeypatch.setattr(clincus, "CARRIED_FILE_LIMIT", 100)
    carried = clincus.Carried(str(home))
    carried.add("huge")
    assert (carried.files, "larger than" in carried.warnings[0]) == ({}, True)


def test_a_pack_unpacks_to_the_same_files(tmp_path):
    files = [
        clincus.ToolFile("a/b/c", b"1" * 1000, 0o700, 5.0),
        clincus.ToolFile("d" * 150 + "/e", b""),
        clincus.ToolFile("a/link", link="../far away"),
    ]
    data = b"".join(clincus.pack_files(files, os.getuid(), os.getgid(), 0o755))
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=data, check=True, timeout=60)
    assert (tmp_path / "a/b/c").read_bytes() == b"1" * 1000
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert (tmp_path / ("d" * 150) / "e").read_bytes() == b""
    assert os.readlink(tmp_path / "a/link") == "../far away"


def test_a_session_that_borrows_gets_no_key_that_claude_code_keeps():
    document = {"primaryApiKey": "sk-real", "customApiKeyResponses": {"approved": ["end-of-a-real-key"]}, "theme": "x"}
    file = clincus.ToolFile(".claude.json", json.dumps(document).encode())
    kept = clincus.without_claude_keys(file, {"ANTHROPIC_API_KEY": "sk-ant-api03-clincus-0123456789abcdef0123"})
    approved = {"approved": ["0123456789abcdef0123"]}
    assert json.loads(kept.data) == {"theme": "x", "customApiKeyResponses": approved}
    assert json.loads(clincus.without_claude_keys(file, {}).data) == {"theme": "x"}
