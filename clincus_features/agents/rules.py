"""The rules for each tool's screen and hooks: tables, each with the version that they were seen on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clincus_features.agents.screen import Layout
from clincus_features.agents.texts import LINES


class Rule(NamedTuple):
    """The state that a pattern in a part of a screen stands for. Empty lines do not count."""

    name: str
    state: str  # `ready`: the tool takes a prompt, which is `done` or `idle`; with the reason `over` its turn is over
    # Searched in each line, or from line to line if it holds a line break. One of `waiting` without a line break is
    # also searched in all lines joined by a blank: on a phone a hint takes more than one line. A group `across` has
    # choices that stand in one line, a group `letters` such choices that letters take.
    pattern: str
    reason: str = ""
    last: int = 24  # the number of lines at the end of the part that count
    group: bool = False  # the pattern's group `text` is the text
    is_panel: bool = False  # a person has opened it: its other content looks like choices without numbers
    part: str = "lines"  # a field of Screen; `lines` are all of them, and `title` is the terminal's


class Hook(NamedTuple):
    """The state that an event of a tool's hooks stands for. `keep` leaves it as it was; state.py has `function`."""

    state: str = ""
    reason: str = ""
    function: str = ""


@dataclass(frozen=True)
class ToolRules:
    """The rules for one tool."""

    seen_on: str  # the versions
    layout: Layout | None  # None: the screen cannot be cut, and rules see all of its lines
    screen: Sequence[Rule]  # the first match counts
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    begins_turn: Sequence[str] = ("UserPromptSubmit",)  # events after which all earlier work is over
    # Events that report an answer to a question. After the end of a turn they are late.
    answers: Sequence[str] = ("PostToolUse", "PostToolUseFailure", "ElicitationResult")
    # A line below each answer shows how the turn has ended. No answer can look like it, so it beats a report.
    signs_end: bool = False
    numbers_turns: bool = True  # else a begin that is reported after its end looks like that of another turn
    background: str = ""  # pattern of a line that reports work in the background
    frame: str = ""  # pattern of the frame beside the lines of a text
    notice: str = ""  # pattern of lines that are no text of the tool: borders, the prompt, hints


WORKS = Hook("working")


def asks(
    name: str, pattern: str, reason: str = "dialog", last: int = 24, *, group: bool = False, is_panel: bool = False
) -> Rule:
    """A rule for a dialog."""
    return Rule(name, "waiting", pattern, reason, last, group, is_panel, "dialog")


def said(name: str, state: str, pattern: str, reason: str = "") -> Rule:
    """A rule for the end of the text above the input."""
    return Rule(name, state, pattern, reason, group="(?P<text>" in pattern, part="body")


def framed(words: str) -> str:
    """A pattern for words on some lines, with or without a frame."""
    return r"(?: *│?\n *│?)? *".join(map(re.escape, words.split()))


PROMPT = Rule("prompt", "ready", "", part="box")

WRAPPED = r"(?:\n {2,}\S.*)*"  # the rest of a long line

BORDER = r"─{10,}.*"
# A status line of the user's own has any height. A border below the box belongs to a dialog: the box was left there by
# an earlier run of the tool.
# A question has one above its last choice. The tool's own line for its mode stands below all lines of the user's.
CLAUDE_LAYOUT = Layout(
    prompt="[❯!].*",
    more="  .*",
    top=BORDER,
    bottom=BORDER,
    covers="─{10,}",
    head=BORDER,
    inner=r"[❯ ] (?:[2-9]|\d\d)\. .*",
    asks=r" *❯ .*|.*\b(?:Esc|Enter)\s+to\b.*",
    ends=r"  (?:⏵⏵|⏸) .*|  \? for shortcuts\b.*",
)
# A panel that a person opens by a command such as /model has its title below a border, and its last line tells how to
# leave it.
CLAUDE_LEAVE = r"\bEsc\s+to\s+(?:cancel|close|go\s+back)"
CLAUDE_PANEL = (
    r"^─{10}.*\n {1,4}(?P<text>\S+(?: \S+)*)(?: {2}.*)?\n(?:(?!─{10}|.*Enter to con).*\n)*(?!.*Enter to con).*"
    + CLAUDE_LEAVE
    + r"\Z"
)
# Only this one has the hint of a dialog that Claude Code opens by itself, perhaps amid a turn.
CLAUDE_REWIND = r"^─{10}.*\n {1,4}(?P<text>Rewind)\n(?s:.*)" + CLAUDE_LEAVE + r"\Z"
# The question above the last choices. Its subject, such as a command or a plan, may hold such words too, and so may the
# name of a file in it, which may have a question mark. A narrow screen gives it some lines.
CLAUDE_FIRST = r"\n[^\S\n]*❯? ?1\. "
CLAUDE_PERMISSION = (
    rf"(?s:.*)^ *(?P<text>Do you want to\b.*(?:(?!{CLAUDE_FIRST})\n.*){{0,3}}?\?)"
    rf"{CLAUDE_FIRST}(?!(?s:.*){CLAUDE_FIRST})"
)

# Claude Code shows this above its input while it works, with tips or its list of tasks below. Its footer does not show
# work while there is text in the input.
CLAUDE_SPINNER = (
    r"^[·✢✳✶✻✽*] (?:\S.*(?:\n {2,}.*)?… \((?:[^()\n]* · )?\d+[hms]\b.*"
    r"|Waiting for .*(?:\n {2,}.*)?\bwill\s+retry\s+in\b.*)(?:\n {2,}\S.*)*\Z"
)

# A turn that has started agents or workflows goes on by itself once they end; it does not wait for a shell.
CLAUDE_AGENTS = (
    r"^✻ (?P<text>Waiting\s+for\s+\d+\s+(?:background\s+agent|dynamic\s+workflow)(?:.*\n {2,}){0,2}.*finish).*\Z"
)

# A hook of the project has refused a prompt, which Claude Code then puts back into its input. It reports nothing more.
CLAUDE_REFUSED = r"^● (?P<text>UserPromptSubmit\s+operation\s+blocked\s+by\s+hook:.*" + WRAPPED + r")\Z"

# A subscriber's plan is used up. It may go on by itself at the time of the reset.
CLAUDE_LIMIT = (
    r"⎿\s+(?P<text>You've hit your .*limit\b.*)(?:\n {5}.*)*(?:\n● (?:Usage limit|Automatic continue).*(?:\n  .*)*)*\Z"
)

# A screen that is too low for a dialog shows its choices and its hints, with the number of lines above it between them.
CLAUDE_ABOVE = r"^ ↑ \d+ more lines?\n"

# A form or a link of an MCP server (elicitation): fields, two choices in one line, and hints. Its fields take keys that
# only a person in the terminal can choose. The choices can be taken while the mark is at one of them.
CLAUDE_FORM = (
    r"\A(?:(?s:.*?)^  MCP\s+server\s+“[^”]*”\s+(?:requests\s+your\s+input|wants\s+to\s+open\s+a\s+URL"
    r"|—\s+waiting\s+for\s+completion)\n)?(?P<text>(?:  (?![ ❯]).*\n)*)(?s:.*)"
    r"^  (?:(?P<across>❯ \S.*? {2,}\S.*|  \S.*? {2,}❯ \S.*)|  \S.* {2,}\S.*|.*\n {3}\S.*)\n"
    rf"(?:{CLAUDE_ABOVE[1:]})?  Esc\s+to\s+cancel\s+·\s+(?:↑/↓\s+to\s+navigate|←/→\s+to\s+switch)"
    r"(?:\s+·.*(?:\n  (?! ).*){0,3})?\s*\Z"
)

CLAUDE = ToolRules(
    seen_on="2.1.331, 2.1.332",
    layout=CLAUDE_LAYOUT,
    screen=(
        asks("form", CLAUDE_FORM, "question", group=True),
        asks("question", r"Enter to select · .* to navigate · .*Esc to cancel\s*\Z", "question", 3),
        asks(
            "review", r"^(?P<text>Review your answers)\n(?s:.*)^[❯ ] 1\. Submit answers\n.*\Z", "question", group=True
        ),
        asks("permission", CLAUDE_PERMISSION, "permission", group=True),
        asks("plan", r"(?P<text>Claude has written up a plan[^\n]*)\n", "plan", 12, group=True),
        asks("low-permission", CLAUDE_ABOVE + r" Esc\s+to\s+cancel\s+·\s+Tab\s+to\s+amend\s*\Z", "permission"),
        asks("low-plan", CLAUDE_ABOVE + r" ctrl\+g\s+to\s+edit\b(?:.*\n){0,4}.*\Z", "plan"),
        asks("trust-dialog", r"\A(?:─{10}.*\n)? *(?:Accessing workspace:|Do you trust the files in this folder)"),
        asks("resume-dialog", r"^ *(❯ )?(\d\. )?Resume (from summary|full session)\b", last=8),
        asks("login", r"Select login method:|Paste code here if prompted", "login"),
        asks("panel", CLAUDE_PANEL, group=True, is_panel=True),
        asks("rewind", CLAUDE_REWIND, group=True, is_panel=True),
        asks("dialog", r"Enter to (confirm|continue)( · |$)", last=3),
        asks("choice", r"^ {1,4}❯ \S.*(?:\n {3,}\S.*)*\Z"),
        asks("tall-panel", r"(?P<text>.*" + CLAUDE_LEAVE + r")\Z", last=2, group=True, is_panel=True),
        said(
            "retry", "working", r"^(?![●❯])\S? ?(?P<text>\S.* · retrying in .*attempt \d+/\d+.*)(?:\n .*)*\Z", "retry"
        ),
        Rule("esc-to-interrupt", "working", r" · esc to interrupt", part="footer"),
        said("interrupted", "ready", r"⎿\s+Interrupted · .*\Z", "interrupted"),
        said("spinner", "working", CLAUDE_SPINNER),
        said("not-logged-in", "failed", r"⎿\s+(?P<text>Not logged in · .*)\Z", "auth"),
        said("prompt-refused", "failed", CLAUDE_REFUSED, "other"),
        said("usage-limit", "failed", CLAUDE_LIMIT, "rate_limit"),
        said("api-error", "failed", r"^● (?P<text>(?:Please run /login · )?API Error: .*" + WRAPPED + r")\Z"),
        said("waits-for-agents", "working", CLAUDE_AGENTS),
        said("turn-over", "ready", r"^✻ \S+ for \d.*\Z", "over"),
        PROMPT,
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
    notice=r"^[\s─╌╭╮╰╯│┃▔▁]*$|^\s*❯\s*$|^\s*⏵⏵|^\s*⏸|^←.*→\s*$",
)

# A list that a person has opened replaces the lines below the box.
COPILOT_LAYOUT = Layout(
    prompt="❯.*",
    more="  .*",
    top=BORDER,
    bottom=BORDER,
    covers=r".* · esc (?:cancel|close)\s*",
    head="[╭─]─{10,}.*",
    bar="┃",
)

# Such as the list of earlier prompts, to which one can go back.
COPILOT_PANEL = r"^╭─+╮\n│ (?P<text>\S+(?: \S+)*) +│\n(?:│.*│\n)*│ .* · Esc (?:Cancel|Close) *│\n╰─+╯\s*\Z"

# A dialog has a frame, and empty lines in it. The plan's summary stands below the title and a border, whose end a look
# may cut off: guest/look.sh counts bytes.
COPILOT_CHOICES = r"[ │]*\n(?:[ │]*\n)*[ │]*❯? *1\. "
COPILOT_FIRST = r"\n[ │]*❯? *1\. "
COPILOT_PERMISSION = (
    rf"(?s:.*)^[ │]*(?P<text>Do you want to\b.*(?:(?!{COPILOT_FIRST})\n.*){{0,3}}?\?)"
    rf"{COPILOT_CHOICES}(?!(?s:.*){COPILOT_FIRST})"
)
COPILOT_TRUST = rf"(?P<text>{framed('Do you trust the files in this folder?')})" + COPILOT_CHOICES
COPILOT_PLAN = r"^│ Plan Ready for Review +│\n│ ─+.*\n│ (?P<text>\S+(?: +\S+)*?) +│\n"
# Those of a login and the lists that a person opens have none.
COPILOT_LOGIN = (
    r"^ (?P<text>What account do you want to log into\?|How do you want to sign in\?) *\n"
    r"(?:[ ❯]+\d\. .*\n(?: {3,}(?! *\d\. ).*\n)*)+ *↑/↓\s+to\s+navigate\s+·\s+enter\s+to\s+select\s*\Z"
)
COPILOT_LIST = r"^ (?P<text>(?! )[^│\n]* · enter to select · esc to cancel)\s*\Z"

COPILOT = ToolRules(
    numbers_turns=False,
    seen_on="1.0.102",
    layout=COPILOT_LAYOUT,
    screen=(
        asks("permission", COPILOT_PERMISSION, "permission", group=True),
        asks("trust-dialog", COPILOT_TRUST, group=True),
        asks("question", r"enter accept · ctrl\+d decline", "question", 3),
        asks("plan", COPILOT_PLAN, "plan", group=True),
        asks("login", COPILOT_LOGIN, "login", group=True),
        asks("list", COPILOT_LIST, last=1, group=True, is_panel=True),
        asks("dialog", framed("enter to select · esc to cancel"), last=4),
        Rule("working", "working", r"^ *\S Working\b.* esc ", part="footer"),
        asks("panel", r"(?P<text>.* · esc (?:cancel|close))\s*\Z", last=2, group=True, is_panel=True),
        asks("framed-panel", COPILOT_PANEL, group=True, is_panel=True),
        said("interrupted", "ready", r"^ *● Operation cancelled by user\n.*\Z", "interrupted"),
        said("error", "failed", r"^ ?✗ (?P<text>\S.*(?:\n {3,}\S.*){0,4})\n.*\Z"),
        PROMPT,
    ),
    hooks={
        "UserPromptSubmit": WORKS,
        "PreToolUse": Hook("waiting", "question", function="permission"),
        "PostToolUse": WORKS,
        "Notification": Hook(function="notification"),
        "Stop": Hook("done", function="stop"),
        "ErrorOccurred": Hook("failed", function="error"),
    },
    frame=r"^ *│ *| *│$",
    notice=r"^[\s─╌╭╮╰╯│┃▔▁]*$|^\s*❯\s*$",
)

# A panel that a person opens with ctrl+p or by a command covers the rest, parts of which may show beside it. Its head
# has a title, and the key that closes it. The cursor is then in the panel, or hidden.
OPENCODE_HEAD = r"(?:.* {2})?(?P<text>%s) {4,}esc(?:/enter)?(?: .*)?"
OPENCODE_PANEL = r"\A" + OPENCODE_HEAD % r"\S+(?: \S+)*" + r"(?:\n|\Z)"

# Those that a command such as /connect opens.
OPENCODE_LOGIN = r"\A" + OPENCODE_HEAD % "Connect a provider|Select auth method|API key" + r"(?:\n|\Z)"

# One of several questions is confirmed, the last one submitted, and boxes are ticked. The subject of a question may
# hold such words too, but it stands above the hints. An empty line may have something beside it. The pattern matches
# that in one way only: otherwise a search could take for ever.
OPENCODE_BLANK = r" *┃(?: {0,7}| {8}.*)"
OPENCODE_END = rf".*(?:\n{OPENCODE_BLANK}){{0,2}}\Z"
OPENCODE_HINT = r"\benter \w+ +esc dismiss" + OPENCODE_END
# Its text may take some lines, and stand beside other things.
OPENCODE_CHOICES = rf"\n(?:{OPENCODE_BLANK}\n)* *┃ +1\. .*\n(?:.*\n)*.*" + OPENCODE_HINT
OPENCODE_WORDS = r"\S+(?: \S+)*(?: {8}.*| {0,7}$)"  # the names of several questions have other gaps
OPENCODE_MORE = rf"(?:\n *┃ {{1,4}}{OPENCODE_WORDS}){{0,9}}"
OPENCODE_QUESTION = rf"^ *┃ {{1,4}}(?P<text>{OPENCODE_WORDS}{OPENCODE_MORE})" + OPENCODE_CHOICES
# The question of its tool plan_exit, if OPENCODE_EXPERIMENTAL_PLAN_MODE is set.
OPENCODE_PLAN = rf"^ *┃ {{1,4}}(?P<text>Plan at {OPENCODE_WORDS}{OPENCODE_MORE})" + OPENCODE_CHOICES
# The last page of several questions.
OPENCODE_REVIEW = r"^ *┃ +(?P<text>Review) *\n(?:.*\n)*.*\benter (?P<across>submit) +esc dismiss" + OPENCODE_END
OPENCODE_PERMISSION = (
    r"(?:^ *┃ +△ (?P<text>Permission required(?:.*\n)+?))?"
    r" *┃ +(?P<across>Allow once {2,}Allow always {2,}Reject)\b.*(?:\n(?!.*\besc dismiss).*){0,3}\Z"
)

# A question stands in the place of the box, and has the same bar at the left, but no border below it.
OPENCODE_LAYOUT = Layout(
    prompt=" *┃.*",
    more=" *┃.*",
    bottom=" *╹▀.*",
    covers=" *┃.*",
    block=" *┃.*",
    floats=OPENCODE_HEAD % r"\S+(?: \S+)*",
)

# Below each answer it draws a line of its own, with how long the turn took, or that it was interrupted. After an error
# the line has neither, and the error stands above it, like a prompt; but a prompt follows such a line, or nothing.
OPENCODE_SIGNED = r"^ +▣ +\S.* · %s(?: {2,}.*)?\Z"
OPENCODE_ERROR = r"^(?! +▣ ).*\n *┃ *\n *┃ {2}(?P<text>\S.*(?:\n *┃ {2}\S.*){0,4})\n *┃ *\n +▣ +[^·\n]* · [^·\n]*\Z"

OPENCODE = ToolRules(
    seen_on="1.18.34",
    layout=OPENCODE_LAYOUT,
    screen=(
        asks("review", OPENCODE_REVIEW, "question", group=True),
        asks("plan", OPENCODE_PLAN, "plan", group=True),
        asks("question", OPENCODE_QUESTION, "question", group=True),
        asks("tall-question", OPENCODE_HINT, "question", 4),
        asks("permission", OPENCODE_PERMISSION, "permission", LINES, group=True),
        Rule(
            *("retry", "working", r"^\W*(?P<text>\S.* \[retrying in .*attempt #\d+\])", "retry"),
            group=True,
            part="footer",
        ),
        Rule("esc-interrupt", "working", r" esc (again to )?interrupt", part="footer"),
        asks("login", OPENCODE_LOGIN, "login", LINES, group=True, is_panel=True),
        asks("panel", OPENCODE_PANEL, last=LINES, group=True, is_panel=True),
        said("interrupted", "ready", OPENCODE_SIGNED % "interrupted", "interrupted"),
        said("turn-over", "ready", OPENCODE_SIGNED % r"\d[\d.]*(?:ms|[dhms])(?: \d+[hms])?", "over"),
        said("error", "failed", OPENCODE_ERROR),
        PROMPT,
    ),
    hooks={
        "session.status": Hook(function="status"),
        "session.idle": Hook("done", function="rest"),
        "session.error": Hook("failed", function="error"),
        "permission.asked": Hook("waiting", "permission", function="opencode_permission"),
        "permission.updated": Hook("waiting", "permission", function="opencode_permission"),
        "permission.replied": WORKS,
        "question.asked": Hook("waiting", "question", function="opencode_question"),
        "question.replied": WORKS,
        "question.rejected": WORKS,
    },
    frame=r"^ *┃ *| {8,}.*$",
    begins_turn=(),
    answers=("permission.replied", "question.replied", "question.rejected"),
    signs_end=True,
)

# The end of Codex's screen while it takes a prompt: the prompt, and indented lines with model, place and hints.
# A dialog stands below the prompt that it follows, which then looks like an input with more lines.
CODEX_LEAVE = r"  .*\b(?:esc (?:back|cancel|close|exit)|(?i:enter to (?:confirm|continue|submit)))\b.*"
CODEX_LAYOUT = Layout(prompt=r"› (?!\d\. ).*", more="  .*", foot=r"  .* · .*|" + CODEX_LEAVE, covers=CODEX_LEAVE)

# A panel that a person opens by a command: a title, choices with a mark, and how to leave it. A long list has arrows.
CODEX_PANEL = (
    r"^(?:(?!  \S).*|  (?:Worked for|permissions:|/\w+ -) .*)\n"
    r"  (?P<text>(?!permissions: |/\w+ - )\S.*)\n(?:  \S.*\n){0,3}(?:↑.*\n(?:  .*\n)*)?› (?s:.*)\n"
    r"  .*\besc (?:back|cancel|close)\b.*\Z"
)

# Codex asks in its plan mode with a tool of its own, and about a plan. A text is lines, so that a pattern can find its
# end in one way only.
CODEX_QUESTION = (
    r"(?s:.*)^  Question \d+/\d+\b.*\n(?P<text>(?:(?! *(?:› )?1\. )  \S.*\n)+) *(?:› )?1\. (?s:.*)\n"
    r"  .*\benter to submit\b.*(?:\n  .*)?\Z"
)
CODEX_PLAN = r"^  (?P<text>Implement this plan\?)\n(?:[› ] \d\. .*\n(?: {4,}.*\n)*)+  .*\besc back\b.*\Z"

# Below an answer, which may look so, a line tells how long the turn took.
CODEX_SPINS = r"\(\d[^()]* • esc to interrupt\).*(?:\n(?!  Worked for |[•◦] .* • esc to interrupt\)).*)*\Z"
CODEX_RETRY = r"^[•◦] (?P<text>Reconnecting\.\.\. \S+(?: \S+)*) " + CODEX_SPINS

# A picture stands above it.
CODEX_LOGIN = r"(?P<text>Choose how you want to use Codex)(?s:.*)\n  (?i:press enter to continue)\b.*\Z"

CODEX = ToolRules(
    seen_on="0.169.0",
    layout=CODEX_LAYOUT,
    screen=(
        asks("login", CODEX_LOGIN, "login", group=True),
        asks("trust-dialog", r"(?P<text>Trust this folder\?.*)\n(?s:.*)\n  enter continue\b.*\Z", group=True),
        asks("permission", r"(?s:.*)^  Would you like to (?s:.*?)^  \$ (?P<text>.*)", "permission", LINES, group=True),
        asks("question", CODEX_QUESTION, "question", LINES, group=True),
        asks("plan", CODEX_PLAN, "plan", group=True),
        asks("dialog", r"^  (?i:enter|press enter to) (continue|confirm)\b", last=2),
        asks("panel", CODEX_PANEL, group=True, is_panel=True),
        asks("resume-list", r"^ (?P<text>Resume a previous session)\n(?s:.*) esc exit ", group=True),
        asks("pager", r"^ (?P<text>q close\b.*)\Z", last=1, group=True, is_panel=True),
        # Without a network it waits for one. The sign in front blinks.
        Rule("retry", "working", CODEX_RETRY, "retry", 12, group=True, part="body"),
        Rule("esc-to-interrupt", "working", r"^[•◦] .*" + CODEX_SPINS, last=12, part="body"),
        # While an answer arrives, only the spinner in the title shows it.
        Rule("title-spins", "working", r"^[\u2800-\u28ff] ", part="title"),
        said("interrupted", "ready", r"^■ Conversation interrupted.*(?:\n  .*)*\Z", "interrupted"),
        said("error", "failed", r"^■ (?P<text>.*(?:\n(?![›•■]).*){0,6})\Z"),
        said("turn-over", "ready", r"^  Worked for .*\Z", "over"),
        PROMPT,
    ),
    notice=r"^[\s─]*$|^  /",
)

# Gemini CLI's box has a border above it and none below. A dialog has a frame.
GEMINI_LAYOUT = Layout(prompt=" (?! *[│╭╰]).*", more=" (?! *[│╭╰]).*", top=BORDER, head=" ?╭─.*")

# Its dialogs are in a box: a question above its choices, or a request above the permission for it. A text is
# words, so that there is one way to find its end: a container could make a search for any end take minutes.
GEMINI_TEXT = r"(?P<text>[^│\s]+(?: +[^│\s]+)*) *│\n"
GEMINI_QUESTION = rf"^ *│ {GEMINI_TEXT} *│ *│\n *│ *(?:▲|● \d|\d\.)[^\n]*\n(?: *│[^\n]*\n)* *│ Enter to select · "
GEMINI_PERMISSION = rf"^ *│ \? {GEMINI_TEXT}(?s:.*)^ *│ (?:Allow|Apply) [^│\n]*\?"

# A panel that a person opens by a command. A tall one lacks its head, and text beside a list does not belong to it.
GEMINI_LEAVE = r"\bEsc to(?: *│\n *│)? close\) *│\n(?: *│ *│\n)* *╰─"
GEMINI_TITLE = r"(?P<text>[^│\s]+(?: [^│\s]+)*) {2}[^\n]*│\n"
GEMINI_HINT = r"(?:\n +\? for shortcuts)?"
GEMINI_PANEL = rf"^ *╭─+╮\n *│ *│\n *│ (?:> )?{GEMINI_TITLE}(?: *│.*\n)* *│.*" + GEMINI_LEAVE


# The head of a dialog may have left a low screen, and the end of a line a wide one: guest/look.sh cuts it.
GEMINI_LOGIN = (
    r"How would you like to authenticate|Please visit the following URL to auth|^ *│ Enter Gemini API Key(?: |$)"
    rf"|^ *│ +{framed('Terms of Services and Privacy Notice for Gemini CLI')}|{framed('Ctrl+C to clear stored key)')}"
)

# A sign at the left, which is none of an answer, whose further lines have an indentation of two columns.
GEMINI_SPINS = r"^ ?[^\s\w✦] .*\(esc to cancel\b[^()]*\)(?: +\? for shortcuts)?\Z"
# The list of what waits stands below anything but an answer, whose lines have the same indentation.
GEMINI_QUEUED = r"^(?!✦ |  ).*\n(?:  .*\n)*?  Queued \(press ↑ to edit\):(?:\n +.*)*\Z"

GEMINI = ToolRules(
    seen_on="0.61.0",
    layout=GEMINI_LAYOUT,
    screen=(
        asks("permission", GEMINI_PERMISSION, "permission", LINES, group=True),
        asks("plan", r"^ *│ Enter to select · .* · Ctrl\+G to edit plan · Esc to cancel *│$", "plan", 2),
        asks("question", GEMINI_QUESTION, "question", LINES, group=True),
        asks("trust-dialog", r"(?P<text>Do you trust the files in this folder\?)", group=True),
        asks("login", GEMINI_LOGIN, "login"),
        asks("panel", GEMINI_PANEL, group=True, is_panel=True),
        asks("tall-panel", r"\((?P<text>[^│\n(]*?)[, ]*" + GEMINI_LEAVE, last=6, group=True, is_panel=True),
        asks("dialog", r"^ *│ +● \d+\. "),
        Rule("esc-to-cancel", "working", GEMINI_SPINS, part="body"),
        said("queued", "working", GEMINI_QUEUED),
        said("interrupted", "ready", r"^\u2139 Request cancelled\." + GEMINI_HINT + r"\Z", "interrupted"),
        said(
            *("error", "failed"),
            r"^✕ (?P<text>\S.*(?:\n(?![\u2139✕]).*){0,4}?)(?:\n\u2139 .*(?:\n  .*)*)*" + GEMINI_HINT + r"\Z",
        ),
        PROMPT,
    ),
    notice=r"^[\s─╭╮╰╯│]*$",
)

# aider's box is a border and a prompt, perhaps with its mode in front.
AIDER_LAYOUT = Layout(prompt=r"(?:[a-z]+ )*[a-z]*>.*", more="(?!)", top=BORDER)

AIDER_CHOICE = r"(?P<text>\S.*) (?P<letters>\(Y\)es/\(N\)o(?:/\([A-Z]\)[^/\[\n]*)*)(?: \[\w+\])?:.*\Z"

AIDER = ToolRules(
    seen_on="0.86.2",
    layout=AIDER_LAYOUT,
    screen=(
        asks("permission", AIDER_CHOICE, "permission", 2, group=True),
        Rule("retry", "working", r"^Retrying in [\d.]+ seconds", "retry", 2, part="dialog"),
        Rule("waiting-for", "working", r"\bWaiting for \S+\s*\Z", last=1, part="dialog"),
        said("interrupted", "ready", r"\^C again to exit(?:\n(?!─{10}|Tokens: ).*)*\Z", "interrupted"),
        said("error", "failed", r"(?P<text>litellm\.\w+: .*)(?:\n(?!─).*){0,4}\Z"),
        said("turn-over", "ready", r"^Tokens: .*\Z", "over"),
        PROMPT,
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
    """The rules that the user wrote for a tool of the config, None without any."""
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
    return ToolRules("", None, rules) if rules else None


# Our reason for the words of StopFailure and of errors on the screen. The first pattern that is found counts.
FAILURES = (
    ("auth", r"authentication_failed|oauth_org_not_allowed|\b40[13]\b|not logged in|please run /login|unauthori[sz]ed"),
    ("billing", r"billing|credit balance|payment required|\b402\b|quota exceeded"),
    ("rate_limit", r"rate_limit|rate limit|\b429\b|usage limit|hit your (\S+ )?limit|limit reached"),
    ("overloaded", r"overloaded|\b529\b|high demand"),
    (
        "network",
        r"\bE(CONN|NOTFOUND|TIMEDOUT|AI_AGAIN|(HOST|NET)UNREACH)|network error|unable to connect|could not connect"
        r"|connection (error|refused)",
    ),
    ("server_error", r"server_error|\b50\d\b|internal server error|api_error"),
)
