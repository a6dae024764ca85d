"""The section `tools`: commands, environment, files carried in, conversations saved."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import subprocess
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clincus

SESSION = "0cb916db-26aa-40f2-86b5-1ba81b225fd2"
OTHER = "11111111-2222-3333-4444-555555555555"
CLAUDE = "claude --verbose --permission-mode bypassPermissions"
COPILOT = "copilot --allow-all-tools --allow-all-paths --allow-all-urls"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory of its own, and no system-wide config file."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "etc" / "config.toml"))
    (tmp_path / "home").mkdir()
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
    files, warnings = clincus.tool_files(tool, str(home), "/home/code", "/workspace", config, **options)
    return {file.path: file for file in files}, warnings


def document(files, path):
    return json.loads(files[path].data)


# Commands


@pytest.mark.parametrize(
    ("tool", "conversation", "command"),
    [
        ("claude", None, f"{CLAUDE} --session-id {SESSION}"),
        ("claude", OTHER, f"{CLAUDE} --resume {OTHER}"),
        ("copilot", None, f"{COPILOT} --session-id {SESSION}"),
        ("copilot", OTHER, f"{COPILOT} --session-id {OTHER}"),
        ("opencode", None, "opencode"),
        ("opencode", "opencode", "opencode --continue"),
        ("shell", None, "bash -l"),
    ],
)
def test_command(config, tool, conversation, command):
    words = clincus.tool_command(clincus.find_tool(tool, config), config, SESSION, conversation)
    assert " ".join(words) == command


@pytest.mark.parametrize(
    ("text", "tool", "command"),
    [
        ('[defaults]\nmodel = "opus"', "claude", f"{CLAUDE} --session-id {SESSION} --model opus"),
        ('[defaults]\nmodel = "opus"', "copilot", f"{COPILOT} --session-id {SESSION}"),
        ('[tool]\nname = "opencode"\n[defaults]\nmodel = "opus"', "opencode", "opencode"),
        ('[tool]\nname = "opencode"\n[defaults]\nmodel = "a/b"', "opencode", "opencode --model a/b"),
        ('[tool]\nbinary = "/opt/c"', "claude", f"{CLAUDE.replace('claude', '/opt/c', 1)} --session-id {SESSION}"),
        ('[tool]\nbinary = "/opt/c"', "copilot", f"{COPILOT} --session-id {SESSION}"),
        ('[tool.commands]\naider = "aider --yes {session}"', "aider", f"aider --yes {SESSION}"),
        ('[tool]\nname = "aider"\nbinary = "/opt/aider"', "aider", "/opt/aider"),
    ],
)
def test_binary_model_and_commands_of_the_config(environ, text, tool, command):
    config = configured(environ, text)
    assert " ".join(clincus.tool_command(clincus.find_tool(tool, config), config, SESSION, None)) == command


def test_an_unknown_tool_is_refused_with_the_known_ones(config):
    with pytest.raises(clincus.ClincusError, match=r"unknown tool: vi \(supported: claude, copilot, opencode, shell\)"):
        clincus.find_tool("vi", config)


def test_the_stub_takes_the_tools_place(config):
    words = clincus.tool_command(clincus.TOOLS["opencode"], config, SESSION, None, environ={"CLINCUS_USE_DUMMY": "1"})
    assert words == ["dummy"]


# Environment


@pytest.mark.parametrize(
    ("term", "inside"),
    [
        ("", "xterm-256color"),
        ("xterm-ghostty", "xterm-256color"),
        ("wezterm", "xterm-256color"),
        ("alacritty-direct", "xterm-256color"),
        ("xterm-kitty", "xterm-256color"),
        ("foot", "xterm-256color"),
        ("what-nobody-knows", "xterm-256color"),
        ("tmux-256color", "xterm-256color"),
        ("screen-256color-bce", "xterm-256color"),
        ("dumb", "xterm-256color"),
        ("xterm", "xterm"),
        ("linux", "linux"),
        ("screen", "screen"),
    ],
)
def test_terminal_name(term, inside):
    assert clincus.terminal_name(term) == inside


@pytest.mark.parametrize(
    ("tool", "variables", "token"),
    [
        ("claude", {"GH_TOKEN": "a", "GITHUB_TOKEN": "b"}, "a"),
        ("copilot", {"GITHUB_TOKEN": "b"}, "b"),
        ("copilot", {"GH_TOKEN": "", "GITHUB_TOKEN": ""}, None),
        ("opencode", {"GH_TOKEN": "a"}, None),
        ("shell", {"GH_TOKEN": "a"}, None),
    ],
)
def test_the_github_token_goes_where_it_is_used(environ, config, tool, variables, token):
    inside = clincus.tool_environment(clincus.find_tool(tool, config), config, {**environ, **variables}, "/home/code")
    assert inside.get("GH_TOKEN") == token


@pytest.mark.parametrize(
    ("script", "token"),
    [
        ('[ "$*" = "auth token" ] && echo gho_x', "gho_x"),
        ("echo gho_x; exit 1", ""),
        ("echo two words", ""),
        ("exec sleep 60", ""),
    ],
)
def test_gh_is_asked_within_a_time_limit(tmp_path, monkeypatch, script, token):
    monkeypatch.setattr(clincus, "GH_TIMEOUT", 0.3)
    write(tmp_path / "gh", f"#!/bin/sh\n{script}\n", 0o700)
    assert clincus.github_token({"PATH": f"{tmp_path}:/usr/bin:/bin"}) == token


def test_the_environment_inside(environ):
    text = '[tool.claude]\neffort_level = "high"\n[profiles.p.environment]\nA = "1"\nTERM = "vt100"\n'
    text = f'[defaults]\nprofile = "p"\n{text}'
    config = configured(environ, text)
    assert clincus.tool_environment(clincus.TOOLS["claude"], config, environ, "/home/code") == {
        "HOME": "/home/code",
        "USER": "code",
        "LOGNAME": "code",
        "TERM": "vt100",
        "IS_SANDBOX": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_EFFORT_LEVEL": "high",
        "A": "1",
    }
    assert "CLAUDE_CODE_EFFORT_LEVEL" not in clincus.tool_environment(
        clincus.TOOLS["copilot"], config, environ, "/home/code"
    )


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
    write(
        home / ".claude.json",
        json.dumps(
            {
                "oauthAccount": {"emailAddress": "ann@example.org"},
                "theme": "light",
                "preferredNotifChannel": "notifications_disabled",
                "mcpServers": {"m": {"command": "m"}},
                "projects": {"/home/ann/secret": {"history": ["p"]}},
                "githubRepoPaths": {"a/b": ["/home/ann/secret"]},
                "cachedChangelog": "long",
            }
        ),
    )
    files, _ = carry("claude", home, config)
    account = document(files, ".claude.json")
    assert account["oauthAccount"] == {"emailAddress": "ann@example.org"}
    assert account["mcpServers"] == {"m": {"command": "m"}}
    assert (account["theme"], account["preferredNotifChannel"]) == ("light", "notifications_disabled")
    assert list(account["projects"]) == ["/workspace"]
    assert "secret" not in files[".claude.json"].data.decode()
    assert "cachedChangelog" not in account


def test_an_api_key_in_the_environment_counts_as_approved(home, config):
    write(home / ".claude.json", json.dumps({"customApiKeyResponses": {"approved": ["old"], "rejected": ["k" * 20]}}))
    files, _ = carry("claude", home, config, environment={"ANTHROPIC_API_KEY": "sk-" + "k" * 30})
    assert document(files, ".claude.json")["customApiKeyResponses"] == {"approved": ["old", "k" * 20], "rejected": []}


def test_paths_below_the_home_become_paths_in_the_container(home, config):
    settings = {
        "a": f"{home}/.claude/x.sh --y={home}",
        "b": f"{home}2/x",
        "c": f"/mnt{home}/x",
        f"{home}/k": [str(home)],
    }
    write(home / ".claude/settings.json", json.dumps(settings))
    write(home / ".claude/plugins/known.json", json.dumps({"at": f"{home}/.claude/plugins/m"}))
    files, _ = carry("claude", home, config)
    carried = document(files, ".claude/settings.json")
    assert carried["a"] == "/home/code/.claude/x.sh --y=/home/code"
    assert (carried["b"], carried["c"]) == (f"{home}2/x", f"/mnt{home}/x")
    assert carried["/home/code/k"] == ["/home/code"]
    assert document(files, ".claude/plugins/known.json") == {"at": "/home/code/.claude/plugins/m"}


def test_copilot_keeps_its_comments_apart_and_its_folders(home, config):
    write(home / ".copilot/config.json", '// managed\n{"trustedFolders": ["/x"], /* why */ "url": "http://a//b",}\n')
    files, warnings = carry("copilot", home, config)
    assert document(files, ".copilot/config.json") == {"trustedFolders": ["/x", "/workspace"], "url": "http://a//b"}
    assert warnings == []


@pytest.mark.parametrize(
    ("mine", "inside"),
    [
        (None, {"*": "allow"}),
        ("ask", {"*": "allow"}),
        ("allow", {"*": "allow"}),
        ("deny", "deny"),
        ({"bash": "ask", "edit": "deny"}, {"*": "allow", "bash": "allow", "edit": "deny"}),
        ({"bash": {"*": "ask", "rm *": "deny"}}, {"*": "allow", "bash": {"*": "allow", "rm *": "deny"}}),
        ({"*": "deny", "read": "allow"}, {"*": "deny", "read": "allow"}),
    ],
)
def test_opencode_may_do_what_the_user_did_not_deny(home, config, mine, inside):
    if mine is not None:
        write(home / ".config/opencode/opencode.jsonc", "// mine\n" + json.dumps({"permission": mine, "theme": "x"}))
    files, _ = carry("opencode", home, config)
    path = ".config/opencode/opencode.json" + ("c" if mine is not None else "")
    carried = document(files, path)
    assert carried["permission"] == inside
    assert isinstance(inside, str) or next(iter(carried["permission"])) == "*"  # the last rule that fits counts
    assert carried.get("theme") == (None if mine is None else "x")


def test_credentials_hooks_and_modes_go_in(home, config):
    write(home / ".claude/.credentials.json", "{}")
    write(home / ".claude/hooks/deep/a.sh", "#!/bin/sh\n", 0o755)
    write(home / ".claude/CLAUDE.md", "be kind")
    os.utime(home / ".claude/.credentials.json", (1000, 1000))
    files, _ = carry("claude", home, config)
    assert (files[".claude/.credentials.json"].mode, files[".claude/.credentials.json"].mtime) == (0o600, 1000)
    assert files[".claude/hooks/deep/a.sh"].mode == 0o700
    assert ".claude/CLAUDE.md" not in files
    only, _ = carry("claude", home, config, only_credentials=True)
    assert list(only) == [".claude/.credentials.json"]


@pytest.mark.parametrize(("inside", "carried"), [(999.0, True), (1000.0, False), (1001.5, False)])
def test_a_token_that_was_renewed_inside_stays(home, config, inside, carried):
    write(home / ".claude/.credentials.json", "{}")
    os.utime(home / ".claude/.credentials.json", (1000, 1000))
    present = [(".claude/.credentials.json", inside)]
    files, _ = carry("claude", home, config, only_credentials=True, present=present)
    assert (".claude/.credentials.json" in files) is carried


def test_instructions_go_in_where_the_user_wants_it(home, environ):
    write(home / ".claude/CLAUDE.md", "be kind")
    write(home / ".claude/agents/a.md", "a")
    files, _ = carry("claude", home, configured(environ, "[tool]\ncarry_instructions = true"))
    assert {".claude/CLAUDE.md", ".claude/agents/a.md"} <= files.keys()


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


def test_a_huge_file_stays_behind_and_the_sum_is_bounded(home):
    for name in ("a", "b", "c"):
        write(home / ".claude/hooks" / name, name * 70)
    write(home / ".claude/plugins/huge", "x" * 101)
    tool = clincus.TOOLS["claude"]
    carried = clincus.Carried(str(home), left=150, largest=100)
    for path in tool.settings:
        carried.add_tree(str(home), path)
    assert sum(len(file.data) for file in carried.files.values()) <= 150
    assert len(carried.warnings) == 2
    assert all("too large" in warning for warning in carried.warnings)


def test_a_broken_settings_file_is_replaced_with_a_warning(home, config):
    write(home / ".claude/settings.json", "{oops")
    files, warnings = carry("claude", home, config)
    assert document(files, ".claude/settings.json")["skipDangerousModePermissionPrompt"] is True
    assert any("it is not a JSON object" in warning for warning in warnings)


def test_a_pack_unpacks_to_the_same_files(tmp_path):
    files = [clincus.ToolFile("a/b/c", b"1" * 1000, 0o700, 5.0), clincus.ToolFile("d" * 150 + "/e", b"")]
    data = clincus.pack_files(files, os.getuid(), os.getgid())
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=data, check=True, timeout=20)
    assert (tmp_path / "a/b/c").read_bytes() == b"1" * 1000
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert (tmp_path / ("d" * 150) / "e").read_bytes() == b""


# Which conversation to go on with


def in_claude(*names, project="-workspace"):
    return [(f".claude/projects/{project}/{name}", float(time)) for time, name in enumerate(names)]


@pytest.mark.parametrize(
    ("tool", "listing", "chosen"),
    [
        ("claude", in_claude(f"{SESSION}.jsonl", f"{OTHER}.jsonl"), SESSION),
        ("claude", in_claude(f"{OTHER}.jsonl"), OTHER),
        ("claude", in_claude(f"{OTHER}.jsonl", f"{OTHER[::-1]}.jsonl".replace("-", "x")), OTHER),
        ("claude", in_claude("agent-1.jsonl", f"{OTHER}/subagents/{SESSION}.jsonl"), None),
        ("claude", in_claude(f"{SESSION}.jsonl", project="-elsewhere"), None),
        ("claude", [], None),
        ("copilot", [(f".copilot/session-state/{OTHER}/events.jsonl", 1.0)], OTHER),
        ("copilot", [(f".copilot/session-state/{OTHER}.jsonl", 1.0)], OTHER),
        ("copilot", [(f".copilot/session-state/{OTHER}/workspace.yaml", 1.0)], None),
        ("opencode", [(".local/share/opencode/opencode.db", 1.0)], "opencode"),
        ("opencode", [(".local/share/opencode/storage/session/a.json", 1.0)], "opencode"),
        ("opencode", [(".local/share/opencode/storage.json", 1.0)], None),
    ],
)
def test_conversation(tool, listing, chosen):
    assert clincus.choose_conversation(clincus.TOOLS[tool], SESSION, "/workspace", listing) == chosen


def test_claudes_directory_is_named_after_the_workspace():
    listing = in_claude(f"{OTHER}.jsonl", project="-home-ann-my-app-v2")
    assert clincus.choose_conversation(clincus.TOOLS["claude"], SESSION, "/home/ann/my.app_v2", listing) == OTHER


def test_a_shell_has_no_conversation(config):
    assert clincus.choose_conversation(clincus.find_tool("shell", config), SESSION, "/workspace", [("a", 1.0)]) is None


def run(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=20).stdout


def test_the_listing_command_lists_what_is_there(tmp_path):
    path = tmp_path / ".claude/projects/-workspace" / f"{OTHER}.jsonl"
    write(path, "{}")
    write(path.with_name(f"{SESSION}.jsonl"), "")
    os.utime(path, (12, 12.5))
    tool = clincus.TOOLS["claude"]
    listing = clincus.parse_listing(run(clincus.listing_command(tool, str(tmp_path))))
    assert listing == [(f".claude/projects/-workspace/{OTHER}.jsonl", 12.5)]


@given(st.binary(max_size=200))
def test_a_hostile_listing_is_harmless(output):
    for path, time in clincus.parse_listing(output):
        assert not path.startswith("/")
        assert time >= 0


# Saving


def saved_session(tmp_path, tool="claude"):
    return clincus.SavedSession(SESSION, tool, str(tmp_path / f"sessions-{tool}" / SESSION), workspace="/w", slot=2)


def store(tmp_path, data, tool="claude"):
    return clincus.store_saved(io.BytesIO(data), saved_session(tmp_path, tool), clincus.TOOLS[tool])


def content(tmp_path, path):
    with open(os.path.join(saved_session(tmp_path).directory, path), "rb") as file:
        return file.read()


def archive(*members, **options):
    """A tar of (name or TarInfo, content) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, **options) as tar:
        for name, data in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_a_conversation_survives_the_way_out_and_in_again(tmp_path, home, config):
    guest = tmp_path / "guest"
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    write(guest / path, b"x" * 70000)
    write(guest / ".claude/.credentials.json", "sesame")
    write(guest / ".claude/settings.json", "{}")
    os.utime(guest / path, (77, 77))
    data = run(clincus.save_command(clincus.TOOLS["claude"], str(guest)))
    assert store(tmp_path, data) == [path]
    directory = saved_session(tmp_path).directory
    assert sorted(os.listdir(directory)) == [".claude", "metadata.json"]
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(directory, path)).st_mode) == 0o600
    listing = clincus.saved_listing(directory)
    assert clincus.choose_conversation(clincus.TOOLS["claude"], SESSION, "/workspace", listing) == SESSION
    files, warnings = carry("claude", home, config, saved_dir=directory)
    assert (files[path].data, files[path].mtime, warnings) == (b"x" * 70000, 77, [])


def test_a_conversation_goes_in_whole_or_not_at_all(tmp_path, home, config, monkeypatch):
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    data = bytes(clincus.CARRIED_FILE_LIMIT + 1)
    store(tmp_path, archive((path, data)))
    directory = saved_session(tmp_path).directory
    files, _ = carry("claude", home, config, saved_dir=directory)
    assert files[path].data == data
    monkeypatch.setattr(clincus, "SAVED_LIMIT", 100)
    with pytest.raises(clincus.ClincusError, match=r"cannot go on: .* is too large"):
        carry("claude", home, config, saved_dir=directory)


def test_secrets_locks_and_logs_stay_in_the_container(tmp_path):
    guest = tmp_path / "guest"
    for path in (
        "auth.json",
        "mcp-auth.json",
        "log/a.log",
        "bin/x",
        "snapshot/0a1b/objects/00/x",
        "opencode.db",
        "opencode.db-shm",
        "opencode.db-wal",
    ):
        write(guest / ".local/share/opencode" / path, "x")
    write(guest / ".local/state/opencode/locks/a.lock", "x")
    data = run(clincus.save_command(clincus.TOOLS["opencode"], str(guest)))
    assert [os.path.basename(path) for path in sorted(store(tmp_path, data, "opencode"))] == [
        "opencode.db",
        "opencode.db-wal",
    ]
    assert b"auth.json" not in data


@pytest.mark.parametrize("last", [False, True])
def test_only_the_last_copy_ends_the_tool(last):
    command = clincus.save_command(clincus.TOOLS["claude"], "/home/code", ends_tool=last)
    assert ("pkill" in " ".join(command)) is last


def test_a_tool_that_does_not_end_is_killed_before_the_copy(tmp_path):
    name = f"stub{os.getpid()}"
    write(tmp_path / name, "#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    (tmp_path / name).chmod(0o755)
    with subprocess.Popen([tmp_path / name], stdout=subprocess.PIPE) as stub:
        assert stub.stdout.readline() == b"ready\n"
        threading.Thread(target=stub.wait, daemon=True).start()
        run(["sh", "-c", clincus.END_SCRIPT.format(tool=name)])
        assert stub.wait(10) == -signal.SIGKILL


def test_a_conversation_with_two_names_is_saved_under_both(tmp_path):
    paths = [f".claude/projects/-workspace/{name}.jsonl" for name in (SESSION, OTHER)]
    write(tmp_path / "guest" / paths[0], "talk")
    os.link(tmp_path / "guest" / paths[0], tmp_path / "guest" / paths[1])
    assert sorted(
        store(tmp_path, run(clincus.save_command(clincus.TOOLS["claude"], str(tmp_path / "guest"))))
    ) == sorted(paths)


def test_a_conversation_that_is_only_half_there_is_none(tmp_path):
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    store(tmp_path, archive((path, b"the whole talk")))
    write(tmp_path / "guest" / path, "the wh")
    write(tmp_path / "guest" / clincus.UNPACKING_FILE, "x")
    assert store(tmp_path, run(clincus.save_command(clincus.TOOLS["claude"], str(tmp_path / "guest")))) == [path]
    assert content(tmp_path, path) == b"the whole talk"


def test_nothing_to_save_is_an_empty_archive(tmp_path):
    (tmp_path / "guest").mkdir()
    data = run(clincus.save_command(clincus.TOOLS["claude"], str(tmp_path / "guest")))
    assert data.strip(b"\0") == b""
    assert data  # nothing at all would mean that Incus lost it
    assert store(tmp_path, data) == []
    assert os.listdir(saved_session(tmp_path).directory) == ["metadata.json"]


def test_a_container_without_a_conversation_never_takes_the_old_one(tmp_path):
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    store(tmp_path, archive((path, b"talk")))
    assert store(tmp_path, archive()) == [path]
    assert content(tmp_path, path) == b"talk"


def test_a_container_that_lost_its_conversation_never_takes_the_old_one(tmp_path):
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    store(tmp_path, archive((path, b"talk")))
    assert store(tmp_path, archive((".claude/history.jsonl", b"/clear"))) == [path]
    assert content(tmp_path, path) == b"talk"


def test_a_new_copy_replaces_the_old_one_as_a_whole(tmp_path):
    store(tmp_path, archive((".claude/projects/p/a", b"1"), (".claude/projects/p/b", b"1")))
    store(tmp_path, archive((".claude/projects/p/b", b"2")))
    directory = saved_session(tmp_path).directory
    assert os.listdir(os.path.join(directory, ".claude/projects/p")) == ["b"]
    assert os.listdir(os.path.dirname(directory)) == [SESSION]


def test_what_a_save_left_that_was_cut_short_is_mended(tmp_path):
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    store(tmp_path, archive((path, b"talk")))
    directory = saved_session(tmp_path).directory
    parent = os.path.dirname(directory)
    os.rename(directory, f"{parent}/.{SESSION}.new-1.old")  # killed between the two renames
    os.mkdir(f"{parent}/.{SESSION}.new-1")
    os.mkdir(f"{parent}/.{SESSION}.new-2")
    with clincus.directory_lock(f"{parent}/.{SESSION}.new-2"):  # somebody writes there
        assert store(tmp_path, archive()) == [path]
    assert content(tmp_path, path) == b"talk"
    assert sorted(os.listdir(parent)) == [f".{SESSION}.new-2", SESSION]


@pytest.mark.parametrize("is_started_again", [False, True])
def test_a_copy_that_lost_its_name_is_found(environ, config, is_started_again):
    base = Path(environ["HOME"]) / ".clincus"
    path = f".claude/projects/-workspace/{SESSION}.jsonl"
    store(base, archive((path, b"talk")))
    saved = saved_session(base)
    os.rename(saved.directory, f"{base}/sessions-claude/.{SESSION}.new-1.old")  # killed between the two renames
    if is_started_again:
        clincus.write_metadata(saved)
    assert clincus.find_saved(config, environ, SESSION).directory == saved.directory
    assert content(base, path) == b"talk"
    assert os.listdir(base / "sessions-claude") == [SESSION]


def test_a_copy_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    monkeypatch.setattr(os, "rename", lambda old, new: done.append(new) or rename(old, new))
    store(tmp_path, archive((f"{ROOT}/a", b"1"), (f"{ROOT}/b", b"2")))
    directory = saved_session(tmp_path).directory
    before = done[: done.index(directory)]
    assert [name for name in ("a", "b", "sessions-claude") if any(path.endswith(f"/{name}") for path in before)] == [
        "a",
        "b",
    ]
    assert done[-1] == os.path.dirname(directory)


def test_two_saves_at_once_leave_one_whole_copy(tmp_path):
    paths = [f"{ROOT}/{number}" for number in range(50)]

    def save(mark: bytes) -> None:
        for _ in range(10):
            store(tmp_path, archive(*((path, mark) for path in paths)))

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, [b"1", b"2", b"3", b"4"]))
    assert len({content(tmp_path, path) for path in paths}) == 1
    assert os.listdir(tmp_path / "sessions-claude") == [SESSION]


def test_a_copy_with_a_hole_does_not_go_on(tmp_path, home, config, monkeypatch):
    store(tmp_path, archive((f"{ROOT}/deep/a", b"1"), (f"{ROOT}/b", b"1")))
    directory = saved_session(tmp_path).directory
    scandir = os.scandir

    def fail(path):
        if str(path).endswith("/deep"):
            raise OSError(errno.EIO, "Input/output error", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    for work in (lambda: carry("claude", home, config, saved_dir=directory), lambda: store(tmp_path, archive())):
        with pytest.raises(clincus.ClincusError, match="deep: cannot be read"):
            work()


def odd(name, kind, linkname=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, linkname, 0o6777
    return member


ROOT = ".claude/projects"


@pytest.mark.parametrize(
    "member",
    [
        "/etc/cron.d/x",
        f"{ROOT}/../../../x",
        f"{ROOT}/./x",
        f"{ROOT}//x",
        f"{ROOT}/a\nb",
        f"{ROOT}/" + "d" * 256,
        f"{ROOT}/" + "d/" * 40 + "x",
        ".bashrc",
        ".claude/.credentials.json",
        ".claude/projects2/x",
        "metadata.json",
        odd(f"{ROOT}/x", tarfile.SYMTYPE, "/etc/passwd"),
        odd(f"{ROOT}/x", tarfile.LNKTYPE, "/etc/passwd"),
        odd(f"{ROOT}/x", tarfile.CHRTYPE),
        odd(f"{ROOT}/x", tarfile.BLKTYPE),
        odd(f"{ROOT}/x", tarfile.FIFOTYPE),
        odd(f"{ROOT}/x", tarfile.CONTTYPE),
        odd(f"{ROOT}/x", tarfile.GNUTYPE_SPARSE),
    ],
)
def test_a_hostile_member_is_passed_over_and_the_rest_is_kept(tmp_path, member):
    data = archive((member, b""), (f"{ROOT}/good", b"talk"))
    assert store(tmp_path, data) == [f"{ROOT}/good"]
    found = [os.path.join(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    assert sorted(os.path.basename(path) for path in found) == ["good", "metadata.json"]


def test_a_link_in_the_archive_is_never_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    data = archive((odd(f"{ROOT}/d", tarfile.SYMTYPE, str(outside)), b""), (f"{ROOT}/d/x", b"evil"))
    assert store(tmp_path, data) == [f"{ROOT}/d/x"]
    assert os.listdir(outside) == []


def test_setuid_and_execute_bits_are_dropped(tmp_path):
    store(tmp_path, archive((odd(f"{ROOT}/x", tarfile.REGTYPE), b"1")))
    assert stat.S_IMODE(os.stat(os.path.join(saved_session(tmp_path).directory, ROOT, "x")).st_mode) == 0o600


def test_names_that_do_not_go_together_cost_no_more_than_themselves(tmp_path):
    members = (f"{ROOT}/x", f"{ROOT}/x/y", "/".join([ROOT, *["d" * 250] * 16, "z"]), f"{ROOT}/good")
    assert store(tmp_path, archive(*((path, b"1") for path in members))) == [f"{ROOT}/x", f"{ROOT}/good"]


def test_of_two_members_of_one_name_the_first_counts(tmp_path):
    store(tmp_path, archive((f"{ROOT}/x", b"1"), (f"{ROOT}/x", b"22")))
    assert content(tmp_path, f"{ROOT}/x") == b"1"


GOOD = archive((f"{ROOT}/x", b"1" * 2000))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 4096, "not a tar archive"),
        (b"", "ends too early"),
        (GOOD[:700], "ends too early"),
        (GOOD[:512], "ends too early"),
        (GOOD[:2560], "ends too early"),
        (GOOD[:148] + b"0000000\0" + GOOD[156:], "not a tar archive"),
        (archive((f"{ROOT}/" + "d" * 5000, b"")), "a name that is too long"),
        (archive(*[(f"{ROOT}/{number}", b"") for number in range(11)]), "too many files"),
        (archive((f"{ROOT}/x", b"1" * 20001)), "too large"),
        (archive((f"{ROOT}/x", b"1" * 20000), (f"{ROOT}/y", b"1")), "too large"),
    ],
)
def test_a_broken_or_too_large_archive_leaves_the_old_copy(tmp_path, monkeypatch, data, message):
    store(tmp_path, archive((f"{ROOT}/old", b"talk")))
    monkeypatch.setattr(clincus.SavedTar.__init__, "__defaults__", (20000, 10))
    with pytest.raises(clincus.ClincusError, match=message):
        store(tmp_path, data)
    directory = saved_session(tmp_path).directory
    assert os.listdir(os.path.join(directory, ROOT)) == ["old"]
    assert os.listdir(os.path.dirname(directory)) == [SESSION]


@given(st.binary(max_size=3000), st.integers(0, 2000))
def test_no_archive_whatever_gets_past_the_reader(data, at):
    mixed = GOOD[:at] + data + GOOD[at:]
    try:
        for entry in clincus.SavedTar(io.BytesIO(mixed), limit=100_000).entries():
            assert len(b"".join(entry.content)) <= 100_000
    except clincus.ClincusError:
        pass


# The list of saved sessions


def test_metadata_is_written_as_the_go_program_did_and_read_again(tmp_path):
    saved = saved_session(tmp_path)
    clincus.write_metadata(saved)
    text = content(tmp_path, "metadata.json")
    assert (text[:18], text[-2:]) == (b'{\n  "session_id": ', b"}\n")
    read = clincus.read_metadata(saved.directory, "claude")
    assert read.saved_at[-6] in "+-"
    assert (read.session_id, read.workspace, read.slot, read.persistent) == (SESSION, "/w", 2, False)


def test_metadata_that_cannot_be_written_says_why(tmp_path):
    (tmp_path / "sessions-claude").write_text("a file where the folder should be")
    with pytest.raises(clincus.ClincusError, match=r"metadata\.json: cannot be written: Not a directory"):
        clincus.write_metadata(saved_session(tmp_path))


def test_saved_sessions_of_all_tools_are_listed_the_newest_first(environ, config):
    base = os.path.join(environ["HOME"], ".clincus")
    write(
        f"{base}/sessions-claude/a/metadata.json",
        '{"session_id": "a", "container_name": "clincus-1a2b3c4d-1", "persistent": true, "workspace": "/w",'
        ' "saved_at": "2026-01-01T10:00:00+01:00"}',
    )
    write(f"{base}/sessions-copilot/b/metadata.json", '{"session_id": "b", "saved_at": "2026-01-01T09:30:00Z"}')
    write(f"{base}/sessions-claude/c/metadata.json", '{"session_id": "c", "saved_at": 3, "slot": "x"}')
    write(f"{base}/sessions-claude/broken/metadata.json", "{")
    write(f"{base}/sessions-claude/no-id/metadata.json", '{"workspace": "/w"}')
    write(f"{base}/sessions-claude/.a.new-x/metadata.json", '{"session_id": "tmp"}')
    listed = clincus.list_saved(config, environ)
    assert [(saved.session_id, saved.tool) for saved in listed] == [("b", "copilot"), ("a", "claude"), ("c", "claude")]
    assert listed[1].persistent is True
    assert clincus.find_saved(config, environ, "c").slot == 0


@pytest.mark.parametrize("session_id", ["nope", "", "../x", "a/b", "."])
def test_an_unknown_session_id_is_not_found(environ, config, session_id):
    with pytest.raises(clincus.ClincusError, match="not found") as caught:
        clincus.find_saved(config, environ, session_id)
    assert caught.value.status == 404


@pytest.mark.parametrize("session_id", ["", ".", "..", "../x", "a/b", "-x", "a\0", "x" * 200])
def test_a_session_id_never_leads_elsewhere(environ, config, session_id):
    with pytest.raises(clincus.ClincusError, match="not found"):
        clincus.session_directory(config, environ, "claude", session_id)


def test_the_sessions_directory_follows_the_config(environ):
    config = configured(environ, '[paths]\nsessions_dir = "~/kept"')
    assert clincus.sessions_directory(config, environ, "claude") == os.path.join(environ["HOME"], "kept-claude")
