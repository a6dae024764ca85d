"""The rules for each tool's screen and hooks: tables, each with the version that they were seen on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """The state that a pattern in the last lines of a screen stands for. Empty lines do not count."""

    name: str
    state: str  # `ready`: the tool takes a prompt, which is `done` or `idle`; with the reason `over` its turn is over
    # Searched in each line, or from line to line if it holds a line break. One of `waiting` without a line break is
    # also searched in all lines joined by a blank: on a phone a hint takes more than one line. A group `across` has
    # choices that stand in one line, a group `letters` such choices that letters take.
    pattern: str
    reason: str = ""
    last: int = 24  # only so many lines count
    group: bool = False  # the pattern's group `text` is the text
    is_title: bool = False  # the pattern is searched in the terminal's title
    is_panel: bool = False  # a person has opened it: what it shows beside choices looks like choices without numbers


class Hook(NamedTuple):
    """The state that an event of a tool's hooks stands for. `keep` leaves it as it was; state.py has `function`."""

    state: str = ""
    reason: str = ""
    function: str = ""


@dataclass(frozen=True)
class ToolRules:
    """All that is known of one tool."""

    seen_on: str  # the versions
    screen: Sequence[Rule]  # the first one that matches counts
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    begins_turn: Sequence[str] = ("UserPromptSubmit",)  # events after which nothing goes on that was before
    background: str = ""  # pattern of a line that tells of work in the background
    notice: str = ""  # pattern of lines that are no text of the tool: borders, the prompt, hints


WORKS = Hook("working")

# The end of Claude Code's screen while it takes a prompt: a border, the prompt, a border, and a few lines of hints.
CLAUDE_BOX = r"^─{10}.*\n❯.*\n(?:(?!─).*\n)*─{10}.*(?:\n.*){0,3}\Z"
# Choices below a border and some text, where the prompt was. A menu of commands stands below the prompt.
CLAUDE_CHOICE = (
    r"\A(?!(?s:.*)^─{10}.*\n❯.*\n(?:  .*\n)*─{10}.*\n(?:(?!─).*\n)*.*\Z)"
    r"(?s:.*)^─{10}.*\n(?:(?!─|❯).*\n)+ {1,4}❯ \S.*(?:\n {3,}\S.*)*\Z"
)
WRAPPED = r"(?:\n {2,}\S.*)*"  # the rest of a long line
# A panel that a person opens by a command such as /model has its title below a border, and its last line says how to
# leave it.
CLAUDE_LEAVE = r"\bEsc\s+to\s+(?:cancel|close|go\s+back)"
CLAUDE_PANEL = (
    r"^─{10}.*\n {1,4}(?P<text>\S+(?: \S+)*)(?: {2}.*)?\n(?:(?!─{10}|.*Enter to confirm).*\n)*(?!.*Enter to confirm).*"
    + CLAUDE_LEAVE
    + r"\Z"
)

# A subscriber's plan is used up. It may go on by itself at the time of the reset.
CLAUDE_LIMIT = (
    r"⎿\s+(?P<text>You've hit your .*limit\b.*)\n(?: {5}.*\n)*(?:● (?:Usage limit|Automatic continue).*\n(?:  .*\n)*)*"
    + CLAUDE_BOX
)

CLAUDE = ToolRules(
    seen_on="2.1.331, 2.1.332",
    screen=(
        Rule("trust-dialog", "waiting", r"Accessing workspace:|Do you trust the files in this folder", "dialog"),
        Rule("resume-dialog", "waiting", r"^ *(❯ )?(\d\. )?Resume (from summary|full session)\b", "dialog", 8),
        Rule("login", "waiting", r"Select login method:|Paste code here if prompted", "login"),
        Rule(
            "plan", "waiting", r"(?P<text>Claude has written up a plan[^\n]*)|Here is Claude's plan", "plan", 12, True
        ),
        Rule("question", "waiting", r"Enter to select · .* to navigate · .*Esc to cancel", "question", 3),
        Rule("permission", "waiting", r"(?P<text>Do you want to [^?]*\?)\n\s*❯? ?1\. ", "permission", 14, True),
        Rule("panel", "waiting", CLAUDE_PANEL, "dialog", group=True, is_panel=True),
        Rule("dialog", "waiting", r"Enter to (confirm|continue)( · |$)", "dialog", 3),
        Rule("choice", "waiting", CLAUDE_CHOICE, "dialog"),
        Rule("tall-panel", "waiting", r"(?P<text>.*" + CLAUDE_LEAVE + r")\Z", "dialog", 2, True, is_panel=True),
        Rule("retry", "working", r"^\S? ?(?P<text>\S.* · retrying in .*attempt \d+/\d+.*)", "retry", 14, True),
        Rule("esc-to-interrupt", "working", r" · esc to interrupt", last=6),
        Rule("interrupted", "ready", r"⎿\s+Interrupted · .*\n" + CLAUDE_BOX, "interrupted"),
        Rule("not-logged-in", "failed", r"⎿\s+(?P<text>Not logged in · .*)\n" + CLAUDE_BOX, "auth", group=True),
        Rule("usage-limit", "failed", CLAUDE_LIMIT, "rate_limit", group=True),
        Rule(
            *("api-error", "failed"),
            r"^● (?P<text>(?:Please run /login · )?API Error: .*" + WRAPPED + r")\n" + CLAUDE_BOX,
            group=True,
        ),
        Rule("turn-over", "ready", r"^✻ \S+ for \d.*\n" + CLAUDE_BOX, "over"),
        Rule("prompt", "ready", CLAUDE_BOX),
    ),
    hooks={
        "SessionStart": Hook("idle", function="session_start"),
        "UserPromptSubmit": WORKS,
        "PostToolUse": WORKS,  # of a question or a plan only
        "PostToolUseFailure": WORKS,
        "PermissionRequest": Hook("waiting", "permission", function="permission"),
        "Notification": Hook(function="notification"),
        "Elicitation": Hook("waiting", "question", function="message"),
        "ElicitationResult": WORKS,
        "Stop": Hook("done", function="stop"),
        "StopFailure": Hook("failed", "other", function="failure"),
    },
    background=r" · (?P<text>\d+ (?:shell|task|agent|monitor)s?)(?: · |$)",
    notice=r"^[\s─╌╭╮╰╯│┃▔▁]*$|^\s*❯\s*$|^\s*⏵⏵|^\s*⏸",
)

COPILOT = ToolRules(
    seen_on="1.0.102",
    screen=(
        Rule("trust-dialog", "waiting", r"(?P<text>Do you trust the files in this folder\?)", "dialog", 10, True),
        Rule("question", "waiting", r"enter accept · ctrl\+d decline", "question", 3),
        Rule("permission", "waiting", r"(?P<text>Do you want to .*\?)[ │]*\n[ │]*❯ 1\. ", "permission", 10, True),
        Rule("dialog", "waiting", r"enter to select · esc to cancel", "dialog", 3),
        Rule("working", "working", r"^ *\S Working\b.* esc ", last=2),
        Rule("panel", "waiting", r"(?P<text>.* · esc (?:cancel|close))\s*\Z", "dialog", 2, True, is_panel=True),
        Rule("interrupted", "ready", r"^ *● Operation cancelled by user\n.*\n" + CLAUDE_BOX, "interrupted"),
        Rule("error", "failed", r"^ *✗ (?P<text>\S.*(?:\n {3,}\S.*){0,4})\n.*\n" + CLAUDE_BOX, group=True),
        Rule("prompt", "ready", CLAUDE_BOX),
    ),
    hooks={
        "UserPromptSubmit": WORKS,
        "PreToolUse": Hook("waiting", "question", function="permission"),
        "PostToolUse": WORKS,
        "Notification": Hook(function="notification"),
        "Stop": Hook("done", function="stop"),
        "ErrorOccurred": Hook("failed", function="error"),
    },
    notice=r"^[\s─╌╭╮╰╯│┃▔▁]*$|^\s*❯\s*$",
)

# A panel that a person opens with ctrl+p or by a command lies over the rest. Its head has a title, and the key that
# closes it.
OPENCODE_PANEL = r"^ {8,}(?P<text>[A-Z]\w*(?: \w+)*) {8,}esc(?:/enter)? *(?:\n|\Z)"

OPENCODE = ToolRules(
    seen_on="1.18.34",
    screen=(
        Rule("question", "waiting", r"enter submit +esc dismiss", "question", 4),
        Rule("permission", "waiting", r"^ *┃ +(?P<across>Allow once {2,}Allow always {2,}Reject)\b", "permission", 8),
        Rule("retry", "working", r"^\W*(?P<text>\S.* \[retrying in .*attempt #\d+\])", "retry", 3, True),
        Rule("esc-interrupt", "working", r" esc (again to )?interrupt", last=3),
        Rule("panel", "waiting", OPENCODE_PANEL, "dialog", group=True, is_panel=True),
        Rule("prompt", "ready", r"ctrl\+p commands", last=4),
    ),
    hooks={
        "session.status": Hook(function="status"),
        "session.idle": Hook("done", function="rest"),
        "session.error": Hook("failed", function="error"),
        "permission.asked": Hook("waiting", "permission", function="opencode_permission"),
        "permission.updated": Hook("waiting", "permission", function="opencode_permission"),
        "permission.replied": WORKS,
        "question.asked": Hook("waiting", "question", function="question"),
        "question.replied": WORKS,
        "question.rejected": WORKS,
    },
    begins_turn=(),
)

# The end of Codex's screen while it takes a prompt: the prompt, and indented lines with model, place and hints.
CODEX_BOX = r"^› (?!\d\. ).*(?:\n  .*)*\Z"

# A panel that a person opens by a command: a title, choices with a mark, and how to leave it. A long list has arrows.
CODEX_PANEL = (
    r"^(?:(?!  \S).*|  Worked for .*)\n  (?P<text>\S.*)\n(?:  \S.*\n){0,3}(?:↑.*\n(?:  .*\n)*)?› (?s:.*)\n"
    r"  .*\besc (?:back|cancel|close)\b.*\Z"
)

CODEX = ToolRules(
    seen_on="0.169.0",
    screen=(
        Rule("login", "waiting", r"Choose how you want to use Codex", "login"),
        Rule("trust-dialog", "waiting", r"(?P<text>Trust this folder\?.*)", "dialog", group=True),
        Rule("permission", "waiting", r"^  Would you like to (?s:.*?)^  \$ (?P<text>.*)", "permission", 24, True),
        Rule("dialog", "waiting", r"^  (?i:enter|press enter to) (continue|confirm)\b", "dialog", 2),
        Rule("panel", "waiting", CODEX_PANEL, "dialog", group=True, is_panel=True),
        Rule("resume-list", "waiting", r"^ (?P<text>Resume a previous session)\n(?s:.*) esc exit ", "dialog", 24, True),
        Rule("pager", "waiting", r"^ (?P<text>q close\b.*)\Z", "dialog", 1, True, is_panel=True),
        Rule("esc-to-interrupt", "working", r"\(\d[^()]* • esc to interrupt\)", last=12),
        # While an answer comes in, only the spinner in the title tells so.
        Rule("title-spins", "working", r"^[\u2800-\u28ff] ", is_title=True),
        Rule("interrupted", "ready", r"^■ Conversation interrupted.*\n(?:  .*\n)*" + CODEX_BOX, "interrupted"),
        Rule("error", "failed", r"^■ (?P<text>.*(?:\n(?![›•■]).*){0,6})\n" + CODEX_BOX, group=True),
        Rule("turn-over", "ready", r"^  Worked for .*\n" + CODEX_BOX, "over"),
        Rule("prompt", "ready", CODEX_BOX),
    ),
    notice=r"^[\s─]*$|^  /",
)

# The same of Gemini CLI: a hint, a border, and indented lines.
GEMINI_BOX = r"(?:^ +\? for shortcuts\n)?^─{10}.*\n(?: .*\n)* .*\Z"

# Its dialogs stand in a box: a question above its choices, or what is to be done above whether it may be. A text is
# words, so that there is one way to find its end: a container could make a search for any end take minutes.
GEMINI_TEXT = r"(?P<text>[^│\s]+(?: +[^│\s]+)*) *│\n"
GEMINI_QUESTION = rf"^ *│ {GEMINI_TEXT} *│ *│\n *│ *(?:▲|● \d|\d\.)[^\n]*\n(?: *│[^\n]*\n)* *│ Enter to select · "
GEMINI_PERMISSION = rf"^ *│ \? {GEMINI_TEXT}(?s:.*)^ *│ (?:Allow|Apply) [^│\n]*\?"

# A panel that a person opens by a command. A tall one lacks its head, and what stands beside a list is no part of it.
GEMINI_LEAVE = r"\bEsc to(?: *│\n *│)? close\) *│\n(?: *│ *│\n)* *╰─"
GEMINI_TITLE = r"(?P<text>[^│\s]+(?: [^│\s]+)*) {2}[^\n]*│\n"
GEMINI_PANEL = rf"^ *╭─+╮\n *│ *│\n *│ (?:> )?{GEMINI_TITLE}(?: *│.*\n)* *│.*" + GEMINI_LEAVE

GEMINI = ToolRules(
    seen_on="0.61.0",
    screen=(
        Rule("trust-dialog", "waiting", r"(?P<text>Do you trust the files in this folder\?)", "dialog", group=True),
        Rule("login", "waiting", r"How would you like to authenticate|Please visit the following URL to auth", "login"),
        Rule("question", "waiting", GEMINI_QUESTION, "question", group=True),
        Rule("permission", "waiting", GEMINI_PERMISSION, "permission", group=True),
        Rule("panel", "waiting", GEMINI_PANEL, "dialog", group=True, is_panel=True),
        Rule("tall-panel", "waiting", r"\((?P<text>[^│\n(]*?)[, ]*" + GEMINI_LEAVE, "dialog", 6, True, is_panel=True),
        Rule("dialog", "waiting", r"^ *│ +● \d+\. ", "dialog"),
        Rule("esc-to-cancel", "working", r"\(esc to cancel\b", last=10),
        Rule("queued", "working", r"^ *Queued \(press ↑ to edit\):"),
        Rule("interrupted", "ready", r"^\u2139 Request cancelled\.\n" + GEMINI_BOX, "interrupted"),
        Rule(
            *("error", "failed"),
            r"^✕ (?P<text>\S.*(?:\n(?![\u2139✕]).*){0,4}?)\n(?:\u2139 .*\n(?:  .*\n)*)*" + GEMINI_BOX,
            group=True,
        ),
        Rule("prompt", "ready", GEMINI_BOX),
    ),
    notice=r"^[\s─╭╮╰╯│]*$",
)

# The same of aider: a border and a prompt, in front of which its mode may stand.
AIDER_BOX = r"^─{10}.*\n(?:[a-z]+ )*[a-z]*>.*\Z"

AIDER_CHOICE = r"(?P<text>\S.*) (?P<letters>\(Y\)es/\(N\)o(?:/\([A-Z]\)[^/\[\n]*)*)"

AIDER = ToolRules(
    seen_on="0.86.2",
    screen=(
        Rule("permission", "waiting", AIDER_CHOICE, "permission", 2, True),
        Rule("retry", "working", r"^Retrying in [\d.]+ seconds", "retry", 2),
        Rule("waiting-for", "working", r"\bWaiting for \S+\s*\Z", last=1),
        Rule("interrupted", "ready", r"\^C again to exit\n(?:(?!─{10}|Tokens: ).*\n)*" + AIDER_BOX, "interrupted"),
        Rule("error", "failed", r"(?P<text>litellm\.\w+: .*)(?:\n(?!─).*){0,4}\n" + AIDER_BOX, group=True),
        Rule("turn-over", "ready", r"^Tokens: .*\n" + AIDER_BOX, "over"),
        Rule("prompt", "ready", AIDER_BOX),
        # An answer as it comes in has no mark of its own.
        Rule("answering", "working", r"^> \S.*(?:\n(?!─{10}).*)+\Z"),
    ),
)

RULES: dict[str, ToolRules] = {
    "claude": CLAUDE,
    "copilot": COPILOT,
    "opencode": OPENCODE,
    "codex": CODEX,
    "gemini": GEMINI,
    "aider": AIDER,
}


def own_rules(rows: Sequence[Mapping[str, Any]]) -> ToolRules | None:
    """The rules that the user wrote for a tool of the config, None if there are none."""
    rules = [
        Rule(
            row.get("name") or f"rule-{number}",
            row["state"],
            row["pattern"],
            row.get("reason", ""),
            row.get("last", Rule._field_defaults["last"]),
            "text" in re.compile(row["pattern"]).groupindex,
        )
        for number, row in enumerate(rows, 1)
    ]
    return ToolRules("", rules) if rules else None


# Our reason for the words of StopFailure and of errors on the screen. The first pattern that is found counts.
FAILURES = (
    ("auth", r"authentication_failed|oauth_org_not_allowed|\b40[13]\b|not logged in|please run /login|unauthori[sz]ed"),
    ("billing", r"billing|credit balance|payment required|\b402\b|quota exceeded"),
    ("rate_limit", r"rate_limit|rate limit|\b429\b|usage limit|hit your (\S+ )?limit|limit reached"),
    ("overloaded", r"overloaded|\b529\b|high demand"),
    (
        "network",
        r"\bE(CONN|NOTFOUND|TIMEDOUT|AI_AGAIN|(HOST|NET)UNREACH)|network error|unable to connect"
        r"|connection (error|refused)",
    ),
    ("server_error", r"server_error|\b50\d\b|internal server error|api_error"),
)
