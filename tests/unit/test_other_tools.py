"""Codex, Gemini, aider and the tools of `[tools.NAME]`: what the config makes of them, and what their screens mean."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import clincus
from clincus_features import tools, trust
from clincus_features.agents.rules import own_rules
from clincus_features.agents.state import Agent, Facts, Past, decide
from clincus_features.agents.texts import clean_lines
from tests.builders import a_session
from tests.table import table

SESSION = "0cb916db-26aa-40f2-86b5-1ba81b225fd2"
NOON = 1_700_000_000.0
MINE = """
[tools.mine]
command = ["mine", "--id={session}", "two words"]
resume = ["--continue", "{conversation}"]
prompt = ["--ask={prompt}"]
credentials = ["~/.mine/token"]
settings = [".mine/config"]
saved = [".mine"]
rules = [
  { state = "waiting", reason = "question", pattern = '^(?P<text>.+\\?)$', last = 2 },
  { name = "busy", state = "working", pattern = "^busy" },
  { state = "failed", reason = "auth", pattern = "^no key" },
  { state = "ready", pattern = '^> \\Z' },
]
"""


@pytest.fixture
def environ(tmp_path, monkeypatch):
    return a_home(tmp_path, monkeypatch)


def a_home(folder, monkeypatch):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(folder / "none"))
    return {"HOME": str(folder / "home"), "PATH": "/nowhere"}


def configured(environ, text):
    path = Path(environ["HOME"], ".config/clincus/config.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return clincus.load_config(environ)


def carried(environ, name, config, *, environment=None, **files):
    for path, text in files.get("files", {}).items():
        full = Path(environ["HOME"], path)
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
    given = (environ["HOME"], "/home/code", "/workspace", config)
    found, _ = clincus.tool_files(clincus.find_tool(name, config), *given, environment=environment or {})
    return {file.path: file.data.decode() for file in found}


# The config


def test_a_tool_of_the_config_is_started_resumed_and_asked_by_its_own_words(environ):
    config = configured(environ, MINE)
    tool = clincus.find_tool("mine", config)
    assert clincus.tool_command(tool, config, SESSION, None) == ["mine", f"--id={SESSION}", "two words"]
    assert clincus.tool_command(tool, config, SESSION, "c1")[3:] == ["--continue", "c1"]
    assert tool.prompt == ("--ask={prompt}",)


def test_the_ready_rows_have_full_permissions(environ):
    config = configured(environ, "")
    for name, begin, resumed in (
        ("codex", "codex --dangerously-bypass-approvals-and-sandbox", ["resume", "--last"]),
        ("gemini", "gemini --yolo --skip-trust", ["--resume", "latest"]),
        ("aider", "aider --yes-always --no-analytics", []),
    ):
        tool = clincus.find_tool(name, config)
        assert " ".join(clincus.tool_command(tool, config, SESSION, None)).startswith(begin)
        assert list(tool.resume[len(tool.start) :]) == resumed


def test_a_row_of_the_config_is_laid_over_a_ready_one(environ):
    text = '[tools.codex]\ncommand = ["codex", "--oss"]\n[tool.commands]\naider = "aider --dry-run"\n'
    config = configured(environ, text)
    tool = clincus.find_tool("codex", config)
    assert (tool.start, tool.resume) == (("codex", "--oss"), ("codex", "--oss", "resume", "--last"))
    assert ".codex/sessions" in tool.saved
    assert clincus.find_tool("aider", config).start == ("aider", "--dry-run")


@table(
    ("text", "line", "reason"),
    [
        ('[tools.claude]\ncommand = ["x"]', 1, "is none of"),
        ('[tools.x]\ncommand = ["--yes"]', 2, "the first word"),
        ('[tools.x]\ncommand = ["x"]\nrules = [{ state = "ready", pattern = "(" }]', 3, "broken"),
        ('[tools.x]\ncommand = ["x"]\nprompt = ["--ask"]', 3, "{prompt}"),
        ('[tools.x]\ncommand = ["x"]\nsaved = ["~/.clincus/start"]', 3, "a path of your home"),
        ('[tools.x]\ncommand = ["x"]\nconversation = "a"', 3, "(?P<id>"),
        ('[tools.x]\ncommand = ["x"]\nrules = [{ state = "busy", pattern = "x" }]', 3, "state: write"),
        ("[tools.x]\ncommand = ['x']\nrules = [{ state = 'ready', pattern = '^(a+)+$' }]", 3, "a repetition in"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_line(tmp_path, monkeypatch, text, line, reason):
    with pytest.raises(clincus.ConfigError) as caught:
        configured(a_home(tmp_path, monkeypatch), text)
    assert f"config.toml, line {line}: invalid tools" in caught.value.message
    assert reason in caught.value.message


def test_only_a_trusted_project_file_defines_a_tool_and_any_chooses_one(environ, tmp_path):
    text = '[tool]\nname = "mine"\n[tools.theirs]\ncommand = ["theirs"]\n'
    project = trust.ProjectFile(str(tmp_path / ".clincus.toml"), text, "")
    for trusted in (False, True):
        config = trust.apply_project(configured(environ, MINE), project, trusted=trusted)
        assert ("theirs" in clincus.all_tools(config)) is trusted
        assert any("tools is left out" in warning for warning in config.warnings) is not trusted
        assert config.get("tool.name") == "mine"


# Files in and out


def test_the_paths_of_a_row_go_in_and_its_secrets_never_come_out(environ):
    config = configured(environ, MINE)
    found = carried(environ, "mine", config, files={".mine/token": "t", ".mine/config": "c", ".mine/other": "o"})
    assert found == {".mine/token": "t", ".mine/config": "c"}
    tool = clincus.find_tool("mine", config)
    assert clincus.is_saved(tool, ".mine/talk/1")
    assert not clincus.is_saved(tool, ".mine/token")


def test_any_saved_file_is_a_conversation_unless_a_pattern_says_which(environ):
    listed = [clincus.ListedFile(".mine/talk/7.log", 1, 5)]
    plain = clincus.find_tool("mine", configured(environ, MINE))
    exact = clincus.find_tool("mine", configured(environ, MINE + "conversation = '\\.mine/talk/(?P<id>\\d+)\\.log'\n"))
    assert clincus.choose_conversation(plain, SESSION, "/w", listed) == ".mine/talk/7.log"
    assert clincus.choose_conversation(exact, SESSION, "/w", listed) == "7"
    assert clincus.choose_conversation(plain, SESSION, "/w", []) is None


def test_each_ready_tool_gets_what_it_would_ask_a_person_for(environ):
    config = configured(environ, "")
    for key, chosen in (("k", "gemini-api-key"), ("", None)):
        found = carried(environ, "gemini", config, environment={"GEMINI_API_KEY": key})
        settings = json.loads(found[".gemini/settings.json"])
        assert settings.get("security", {}).get("auth", {}).get("selectedType") == chosen
        assert settings["general"] == {"enableAutoUpdate": False}
    trusted = '[projects."/workspace"]\ntrust_level = "trusted"\n'
    for mine, expected in (("", trusted), ('model = "x"\n', f'model = "x"\n\n{trusted}'), (trusted, trusted)):
        files = {".codex/config.toml": mine} if mine else {}
        assert carried(environ, "codex", config, files=files)[".codex/config.toml"] == expected
    assert "name = Your Name" in carried(environ, "aider", config)[".config/git/config"]


# The session


def session_of(tool, *, row=None):
    row = clincus.tool_row(tool) if row is None else row
    return a_session(tool=tool.name, tool_row=row)


def test_a_session_keeps_its_tool_when_the_config_forgets_it(environ):
    tool = clincus.find_tool("mine", configured(environ, MINE))
    labels = clincus.session_labels(session_of(tool))
    config = {key: value for key, value in labels.items() if isinstance(value, str)}
    read = clincus.session_from_instance("clincus-", {"name": "clincus-a1b2c3-1", "config": config}, "")
    kept = clincus.session_tool(read)
    same = ("name", "saved", "unsaved", "conversation", "rules")
    assert [getattr(kept, name) for name in same] == [getattr(tool, name) for name in same]
    assert "two words" not in labels[clincus.LABEL + "tool_row"]
    assert clincus.session_tool(session_of(clincus.Tool("old", ("old",), ()), row="")).saved == (), "an older session"
    claude = clincus.find_tool("claude", configured(environ, ""))
    assert (session_of(claude).tool_row, clincus.session_tool(session_of(claude))) == ("", claude)


# What the screens mean


def seen(tool, screen, rows=()):
    rules = own_rules(rows)
    found = Facts(
        tool=tool,
        started=NOON - 600,
        now=NOON,
        lines=clean_lines(screen),
        has_screen=True,
        moved=NOON - 10,
        rules=rules,
    )
    return decide(found)


ROWS = (
    {"state": "waiting", "reason": "question", "pattern": r"^(?P<text>.+\?)$", "last": 2},
    {"name": "busy", "state": "working", "pattern": "^busy"},
    {"state": "failed", "pattern": "^no key: unauthorized"},
    {"state": "ready", "pattern": r"^>\Z"},
)


@table(
    ("screen", "state", "reason", "rule"),
    [
        ("Which one?\n 1. Red\n", "waiting", "question", "mine/rule-1"),
        ("busy with it\n", "working", "", "mine/busy"),
        ("no key: unauthorized\n", "failed", "auth", "mine/rule-3"),
        ("what is this\n", "unknown", "", "nothing-known"),
    ],
)
def test_the_users_own_rules_tell_the_state(screen, state, reason, rule):
    decision = seen("mine", screen, ROWS)
    assert (decision.agent.state, decision.agent.reason, decision.why.rule) == (state, reason, rule)


def test_the_group_text_of_a_rule_is_the_text_or_else_its_line():
    agent = seen("mine", "Which one?\n 1. Red\n", ROWS).agent
    assert (agent.text, agent.options) == ("Which one?", ("Red",))
    rows = [{"state": "waiting", "reason": "question", "pattern": r"\[y/n\]", "last": 2}]
    assert seen("mine", "hello\n" * 30 + "Go on? [y/n]\n", rows).agent.text == "Go on? [y/n]"
    assert seen("codex", "busy\n", ROWS).why.rule == "codex/busy", "own rules of a ready tool replace its table"


CODEX_BOX = (
    "› Ask Codex to do anything\n  gpt-5 default · /workspace\n  ← for agents · ? for shortcuts     ⚠ 1 warning\n"
)
GEMINI_BOX = f"""{" " * 84}? for shortcuts
{"─" * 100}
 YOLO Ctrl+Y
 *   Type your message or @path/to/file
 workspace (/directory)                  branch                  sandbox                     /model
 /workspace                              master                  no sandbox                    Auto
"""
RULE = "─" * 100
FRAME = "│            │"
# Seen with Codex 0.169.0, Gemini CLI 0.61.0 and aider 0.86.2, against a stand-in for their vendors.
SCREENS = {
    "codex, ready": ("codex", f"  permissions: YOLO mode\n{CODEX_BOX}", "idle"),
    "codex, works": ("codex", f"› do it\n• Working (3s • esc to interrupt)\n{CODEX_BOX}", "working"),
    "codex, interrupted": (
        "codex",
        f"› do it\n■ Conversation interrupted - use /feedback if something went wrong\n{CODEX_BOX}",
        "idle interrupted",
    ),
    "codex, no right": (
        "codex",
        f"› again\n■ unexpected status 401 Unauthorized: x, url: http://x/v1\n{CODEX_BOX}",
        "failed auth",
    ),
    "codex, after a failure": (
        "codex",
        f"■ unexpected status 401 Unauthorized\n› again\n• Hello there.\n  Worked for <1s • 17:15\n{CODEX_BOX}",
        "idle",
    ),
    "codex, asks": (
        "codex",
        "• Running touch made\n  Would you like to run the following command?\n  Reason: To see it\n  $ touch made\n"
        "› 1. Yes, proceed (y)\n  2. Yes, and don't ask again (p)\n  3. No, and tell Codex (esc)\n"
        "  Press enter to confirm or esc to cancel\n",
        "waiting permission",
    ),
    "codex, asks a question in its plan mode": (
        "codex",
        "› ask\n  Question 1/1 (1 unanswered)\n  Which colour do you want?\n  › 1. Red                Like a rose\n"
        "    2. Green              Like grass\n    3. None of the above  Optionally, add details in notes (tab)\n"
        "  tab to add notes | enter to submit answer | esc to interrupt\n",
        "waiting question",
    ),
    "codex, has a plan": (
        "codex",
        "  Worked for <1s • 18:15\n  Implement this plan?\n› 1. Yes, implement this plan          Switch to Default\n"
        "  2. Yes, clear context and implement  Fresh thread\n  3. No, stay in Plan mode\n  enter select · esc back\n",
        "waiting plan",
    ),
    "codex, a panel": (
        "codex",
        "  permissions: YOLO mode\n  Select Model and Effort\n› 1. GPT-6.1-Sol    Latest model.\n"
        "  2. GPT-6-Astra    Frontier.\n  3. GPT-6-Sol      Previous generation.\n↓\n  enter select · esc back\n",
        "waiting dialog",
    ),
    "gemini, asks": (
        "gemini",
        "│ ? Shell  touch made  │\n│ ╭────╮ │\n│ │ touch made │ │\n│ ╰────╯ │\n│ Allow execution of [Shell]?  │\n"
        "│   │\n│ ● 1. Allow once  │\n│   2. Allow for this session  │\n│   3. No (esc) │\n╰──╯\n",
        "waiting permission",
    ),
    "gemini, has a plan": (
        "gemini",
        f"╭──╮\n│ 60. Step number 60  │\n{FRAME}\n│ ● 1.  Yes, automatically accept edits │\n"
        "│   2.  Yes, manually accept edits │\n│   3.  Type your feedback... │\n│     │\n"
        "│ Enter to select · ↑/↓ to navigate · Ctrl+G to edit plan · Esc to cancel │\n╰──╯\n",
        "waiting plan",
    ),
    "gemini, asks for a choice": (
        "gemini",
        "╭──╮\n│ Answer Questions   │\n│     │\n│ Which colour do you want?  │\n│ │\n│ ▲   │\n"
        "│   1.  Red │\n│       Like a rose │\n│ ● 2.  Green │\n│   3.  Blue │\n│ ▼   │\n│     │\n"
        "│ Enter to select · ↑/↓ to navigate · Esc to cancel │\n╰──╯\n",
        "waiting question",
    ),
    "gemini, a panel": (
        "gemini",
        f" > /model\n╭────────────╮\n{FRAME}\n│ Select Model        │\n{FRAME}\n│ ● 1. Auto        │\n"
        f"│      Let it decide       │\n│   2. Manual              │\n{FRAME}\n│ (Press Esc to close)   │\n{FRAME}\n"
        "╰──────────╯\n",
        "waiting dialog",
    ),
    "gemini, a tall panel": (
        "gemini",
        "│    Enable Plan Mode             true  │\n│  ▼            │\n│  ● User Settings         │\n"
        f"{FRAME}\n│ (Use Enter to select, Tab to change focus, Esc to    │\n│ close)     │\n{FRAME}\n╰───────╯\n",
        "waiting dialog",
    ),
    "gemini, ready": ("gemini", f"4. Be specific for the best results\n{GEMINI_BOX}", "idle"),
    "gemini, interrupted": ("gemini", f" > do it\n\u2139 Request cancelled.\n{GEMINI_BOX}", "idle interrupted"),
    "gemini, no right": (
        "gemini",
        ' > again\n✕ [API Error: {"error":{"message":"x","code":401}}]\n'
        '\u2139 This request failed. Press F12 for diagnostics, or run /settings and change "Error Verbosity" to\n'
        f"  full for full details.\n{GEMINI_BOX}",
        "failed auth",
    ),
    "gemini, login": (
        "gemini",
        "│   How would you like to authenticate for this project?  │\n│   ● 2. Use Gemini API Key │\n╰──╯\n",
        "waiting login",
    ),
    "aider, works": ("aider", f"{RULE}\n> do it\n     ░█    Waiting for gpt-4o\n", "working"),
    "aider, interrupted": (
        "aider",
        f"> do it\n      ░^C  Waiting for gpt-4o\n^C again to exit\n{RULE}\n>\n",
        "idle interrupted",
    ),
    "aider, no right": (
        "aider",
        "> again\nlitellm.AuthenticationError: AuthenticationError: OpenAIException - 401 unauthorized\n"
        f"The API provider is not able to authenticate you. Check your API key.\n{RULE}\n>\n",
        "failed auth",
    ),
    "aider, answered": ("aider", f"Hello there.\nTokens: 2.6k sent, 3 received.\n{RULE}\n>\n", "idle"),
    "aider, asks": (
        "aider",
        "touch made\nRun shell command? (Y)es/(N)o/(D)on't ask again [Yes]: \n",
        "waiting permission",
    ),
}


# The dialogs of a login of Gemini CLI, lines and words of which are cut or wrapped by the size of the screen.
GEMINI_LOGINS = {
    "a key, 60x12": [
        *(
            f"│ ╰{'─' * 54}╯ │",
            "│ (Press Enter to submit, Esc to cancel, Ctrl+C to clear   │",
            f"│ stored key){' ' * 46}│",
        ),
        f"╰{'─' * 58}╯",
    ],
    "a choice, 40x15": [
        *("│     1. Sign in with Google           │", "│   ● 2. Use Gemini API Key            │"),
        *("│   (Use Enter to select)              │", "│   Terms of Services and Privacy      │"),
        *("│   Notice for Gemini CLI              │", f"╰{'─' * 38}╯"),
    ],
}


@table("lines", GEMINI_LOGINS.values(), ids=GEMINI_LOGINS.keys())
def test_a_login_of_gemini_is_known_on_a_screen_of_any_size(lines):
    agent = seen("gemini", "\n".join(lines)).agent
    assert (agent.state, agent.reason, agent.seen) == ("waiting", "login", False)


@table(("tool", "screen", "expected"), SCREENS.values(), ids=SCREENS.keys())
def test_the_screens_of_the_ready_tools(tool, screen, expected):
    agent = seen(tool, screen).agent
    assert f"{agent.state} {agent.reason}".strip() == expected


@table(
    ("name", "text", "options"),
    [
        ("codex, asks", "touch made", "Yes, proceed (y)"),
        ("gemini, asks for a choice", "Which colour do you want?", "Red"),
        ("codex, asks a question in its plan mode", "Which colour do you want?", "Red Like a rose"),
        (
            "codex, has a plan",
            "Implement this plan?",
            "Yes, implement this plan Switch to Default",
        ),
    ],
)
def test_a_question_on_the_screen_has_its_text_and_choices(name, text, options):
    agent = seen(*SCREENS[name][:2]).agent
    assert (agent.text, agent.options[0], len(agent.options)) == (text, options, 3)


@table(
    ("name", "text", "options"),
    [
        ("codex, a panel", "Select Model and Effort", 3),
        ("gemini, a panel", "Select Model", 2),
        ("gemini, a tall panel", "Use Enter to select, Tab to change focus", 0),
    ],
)
def test_what_a_person_has_opened_calls_nobody_and_offers_only_what_is_certain(name, text, options):
    agent = seen(*SCREENS[name][:2]).agent
    assert (agent.text, len(agent.options), agent.seen) == (text, options, True)


def test_codex_works_while_its_title_spins_and_its_screen_tells_nothing():
    lines = clean_lines(f"› do it\n• Let me think\n{CODEX_BOX}")
    found = Facts(tool="codex", started=NOON - 600, now=NOON, lines=lines, has_screen=True, moved=NOON - 1)
    assert decide(found).agent.state == "idle"
    decision = decide(replace(found, title="⠹ workspace"))
    assert (decision.agent.state, decision.why.lines) == ("working", ("title: ⠹ workspace",))
    assert decide(found, decision.past).agent.state == "done", "it was seen to work"


NESTED = ["(a+)+", "((a+)b)+", "(a{2,})+", "(a+){3,}", "(?P<x>[)]+)+", "(a|b+)*"]
PLAIN = ["^(?P<text>.+\\?)$", "(a+)?", "(a+){2}", "\\(a+\\)+", "[(a+)+]", "(a{3})+", "{"]


def test_only_a_repetition_in_a_repetition_is_refused():
    for pattern in NESTED:
        re.compile(pattern)
        with pytest.raises(clincus.Unfit, match="a repetition in a repetition"):
            tools.check_pattern(pattern)
    for pattern in PLAIN:
        assert tools.check_pattern(pattern) == pattern


def test_an_interruption_that_a_tool_shows_as_it_starts_is_an_old_one():
    """Codex shows the conversation with which it goes on."""
    old, works = SCREENS["codex, interrupted"][1], SCREENS["codex, works"][1]
    past, told = Past(Agent("starting"), NOON - 3600), []
    for screen in (old, old, works, old):
        lines = clean_lines(screen)
        facts = Facts(tool="codex", started=NOON - 3600, now=NOON, moved=NOON, lines=lines, has_screen=True)
        decision = decide(facts, past)
        past = decision.past
        told.append((decision.agent.state, decision.agent.reason))
    assert told == [("idle", ""), ("idle", ""), ("working", ""), ("idle", "interrupted")]
