"""What a tool's hooks, screen and process mean: pure functions over tables, with screens of the real tools."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from clincus import load_contract
from clincus_features.agents import state, texts
from clincus_features.agents.reading import EVENTS_LIMIT, Known, parse_look, with_events
from clincus_features.agents.rules import RULES
from clincus_features.agents.state import Agent, Facts, Past, Said, decide
from tests.programs import ROOT
from tests.table import table

NOON = 1_800_000_000.0
NOTHING = Said()
BROKEN_OFF = "idle interrupted"
RULE = "─" * 40
BOX = [RULE, "❯", RULE, "  ⏵⏵ bypass permissions on (shift+tab to cycle)      19 tokens"]
BUSY = [RULE, "❯", RULE, "  ⏵⏵ bypass permissions on (shift+tab to cycle) · esc to interrupt      19 tokens"]
DONE = ["❯ say hello", "● hello", "✻ Churned for 0s · done 4:09 PM", *BOX]
QUESTION = [
    *("❯ ask", RULE, " ☐ Colour", "Which colour do you want?", "❯ 1. Red", "     Like a rose", "  2. Green", RULE),
    *("  3. Chat about this", "Enter to select · ↑/↓ to navigate · Esc to cancel"),
]
PERMISSION = [
    *(RULE, " Bash command", "╌" * 20, " touch /workspace/x", "╌" * 20, " Do you want to proceed?"),
    *(" ❯ 1. Yes", "   2. Yes, and always allow access to /workspace", "   3. No", " Esc to cancel · Tab to amend"),
]
PLAN = [
    *(" 60. Step number 60 of the plan", "╌" * 20, RULE),
    " Claude has written up a plan and is ready to execute. Would you like to proceed?",
    *(" ❯ 1. Yes, and switch to BYPASS PERMISSIONS", "   2. Yes, manually approve edits", "   3. Tell Claude more"),
]
TRUST = [
    *(
        RULE,
        " Is this a project you trust?",
        " ❯ No, exit",
        "   Yes, I trust this folder",
        " Enter to confirm · Esc to cancel",
    ),
]
LIMIT = [
    *("❯ go on", "  ⎿ You've hit your 5-hour limit · resets 12:03pm (UTC)", "     /upgrade to increase it.", *BOX[:3]),
    *("  ⚠ Usage limit reached · limit resets 12:03pm", "    Continuing automatically at 12:03pm · Esc to cancel"),
    "  ⏵⏵ bypass permissions on (shift+tab to cycle)",
]
LIST = ["● 1. Apples", "  2. Pears"]  # an answer of the tool
MODEL = [
    *("❯ /model", "─" * 80, "  Select model", "  ❯ 1. Default (recommended) ✔", "    2. Opus     Opus 5.5 · Best"),
    "  s to use this session only · Enter to save · Esc to cancel",
]
REWIND = [
    *("❯ /rewind", "─" * 80, "  Rewind", "    say hi", "    No code changes", "  ❯ (current)"),
    "  Enter to continue · Esc to cancel",
]
CONFIG = [
    "  ❯ Auto-compact          on",
    "    Show tips         on",
    "  ↓ to navigate · ↑ to switch tabs · Esc to go back",
]
LOGIN = [
    "  Select login method:",
    "  ❯ 1. Claude account with subscription",
    "    2. Console account",
    "  Esc to cancel",
]
RETRY = ["❯ status 429", "✻ 429 stand-in 429 · retrying in 3s · attempt 4/10", *BUSY]
INTERRUPTED = ["❯ stall", "● Let me think", "  ⎿  Interrupted · What should Claude do instead?", *BOX]
BLOCKED = [
    *("● UserPromptSubmit operation blocked by hook:", "  [grep -q 429]: Do you want to", "  proceed?"),
    *("  Original prompt: say x", RULE, "❯ say x", *BOX[2:]),
]
LOGGED_OUT = ["❯ say hi", "  ⎿  Not logged in · Please run /login", RULE, "❯ Once fixed, resend your message", *BOX[2:]]
STALLED = ["❯ stall", "● Let me think", "✢ Tempering… (4s · ↓ 3 tokens)", "  ⎿  Tip: Size a workflow", *BUSY]
TYPES = [RULE, "❯ half a text", *BOX[2:]]  # Claude Code says nothing of an interruption then
SLOW_API = ["❯ go", "●", "✻ Waiting for API response · will retry in 3m", "  43s · check your network"]
AGENTS = ["● The tool has answered.", "✻ Waiting for 1 background agent to finish"]
SHELL = [RULE, "❯", RULE, "  ⏵⏵ bypass permissions on · 1 shell · ↓ to manage"]


def facts(lines=(), *, said: Said = NOTHING, **more) -> Facts:
    """What is known at noon of Claude Code, which was started an hour ago and drew its screen a moment ago."""
    fields = {"tool": "claude", "started": NOON - 3600, "now": NOON, "moved": NOON - 4, "has_screen": bool(lines)}
    return Facts(**{**fields, "lines": tuple(lines), "said": said, **more})


def after(decision, **more) -> Past:
    """What is kept of a decision or, in this run, of an agent."""
    past = Past(decision, NOON - 3600) if isinstance(decision, Agent) else decision.past
    return replace(past, **more)


def hooks(*events, at: float = NOON - 10, tool: str = "claude") -> Said:
    """What a tool has said by some events, a second from one to the next, the last one at a time."""
    said = Said()
    for number, (name, data) in enumerate(events):
        said = state.listen(tool, said, state.Event(at - len(events) + 1 + number, name, data))
    return said


def answer(*given, **more) -> str:
    """The state that is told, with its reason."""
    agent = decide(*given, **more).agent
    return f"{agent.state} {agent.reason}".strip()


def error(status: int, words: str = "stand-in") -> list[str]:
    return ["❯ go on", f"● API Error: {status} {words}", *BOX]


SCREENS = {
    "trust": (TRUST, "waiting dialog"),
    "a plan that is used up": (LIMIT, "failed rate_limit"),
    "models": (MODEL, "waiting dialog"),
    "settings that fill the screen": (CONFIG, "waiting dialog"),
    "login": (LOGIN, "waiting login"),
    "question": (QUESTION, "waiting question"),
    "plan": (PLAN, "waiting plan"),
    "permission": (PERMISSION, "waiting permission"),
    "works": (STALLED, "working"),
    "works, and a person types": ([*STALLED[:4], *TYPES], "working"),
    "waits for the API, and a person types": ([*SLOW_API, *TYPES], "working"),
    "waits for an agent": ([*AGENTS, *BOX], "working"),
    "a person types behind an end": ([*DONE[:3], *TYPES], "idle"),
    "retries": (RETRY, "working retry"),
    "interrupted": (INTERRUPTED, "idle interrupted"),
    "nothing asked yet": (BOX, "idle"),
    "logged out": (LOGGED_OUT, "failed auth"),
    "a hook of the project has refused a prompt": (BLOCKED, "failed other"),
    "401": (error(401), "failed auth"),
    "529": (error(529), "failed overloaded"),
    "no network": (["● API Error: Connection refused (ECONNREFUSED)", *BOX], "failed network"),
    "another error": (error(400), "failed other"),
    "nothing known": (["hm"], "unknown"),
}


SCREENS |= {
    "a draft like a dialog": ([RULE, "❯ Do you want to go?", "  ❯ 1. Yes", "    2. No", RULE, *BOX[3:]], "idle"),
}


@table(("lines", "expected"), SCREENS.values(), ids=SCREENS.keys())
def test_the_screen_alone_tells_the_state(lines, expected):
    assert answer(facts(lines)) == expected


PROMPT = ("UserPromptSubmit", {"prompt": "go"})
HELLO = ("UserPromptSubmit", {"prompt": "say hello"})
ASKED = ("PermissionRequest", {"tool_name": "AskUserQuestion", "tool_input": {"questions": [{
    "question": "Which colour?", "options": [{"label": "Red"}, {"label": "Green"}]}]}})  # fmt: skip
AGENT_ASKS = ("PermissionRequest", {"tool_name": "Bash", "tool_input": {"command": "ls"}, "agent_id": "a1"})
HOOKS = {
    "answered": ([PROMPT, ASKED, ("PostToolUse", {"tool_name": "AskUserQuestion"})], "working"),
    "notified": ([PROMPT, ("Notification", {"notification_type": "permission_prompt"})], "waiting permission"),
    "elicited": ([PROMPT, ("Elicitation", {"message": "Which?"})], "waiting question"),
    "over while an agent in the background asks": (
        [PROMPT, AGENT_ASKS, ("Stop", {"background_tasks": [{"type": "subagent", "id": "a1"}]})],
        "waiting permission",
    ),
    "compacted amid work": ([PROMPT, ("SessionStart", {"source": "compact"})], "working"),
    "overloaded": (
        [("StopFailure", {"error": "server_error", "last_assistant_message": "API Error: 529 x"})],
        "failed overloaded",
    ),
}


@table(("events", "expected"), HOOKS.values(), ids=HOOKS.keys())
def test_the_hooks_alone_tell_the_state(events, expected):
    assert answer(facts(said=hooks(*events))) == expected


COPILOT_FORM = {"message": "Which colour?", "requestedSchema": {"properties": {"colour": {"enum": ["Red", "Green"]}}}}
COPILOT_ASKED = ("PreToolUse", {"tool_name": "AskUserQuestion", "tool_input": COPILOT_FORM})
OPENCODE_ASKED = ("question.asked", {"questions": [{"question": "Which?", "options": [{"label": "Red"}]}]})
BUSY_NOW, IDLE_NOW = (("session.status", {"status": {"type": kind}}) for kind in ("busy", "idle"))
OTHERS = {
    "copilot, asked": ("copilot", [PROMPT, COPILOT_ASKED], "waiting question"),
    "copilot, failed": (
        "copilot",
        [PROMPT, ("ErrorOccurred", {"recoverable": False, "error": {"message": "rate_limit_error"}})],
        "failed rate_limit",
    ),
    "opencode, asked": ("opencode", [BUSY_NOW, OPENCODE_ASKED, BUSY_NOW], "waiting question"),
    "opencode, retries": (
        "opencode",
        [BUSY_NOW, ("session.status", {"status": {"type": "retry", "message": "Overloaded", "attempt": 2}})],
        "working retry",
    ),
    "opencode, interrupted between two tries": (
        "opencode",
        [BUSY_NOW, ("session.status", {"status": {"type": "retry", "attempt": 2}}), IDLE_NOW],
        BROKEN_OFF,
    ),
    "opencode, failed": (
        "opencode",
        [BUSY_NOW, ("session.error", {"error": {"name": "APIError", "data": {"message": "401 no"}}}), IDLE_NOW],
        "failed auth",
    ),
    "opencode, interrupted": (
        "opencode",
        [BUSY_NOW, ("session.error", {"error": {"name": "MessageAbortedError"}}), IDLE_NOW],
        "idle interrupted",
    ),
}


@table(("tool", "events", "expected"), OTHERS.values(), ids=OTHERS.keys())
def test_the_other_tools_say_the_same_in_words_of_their_own(tool, events, expected):
    assert answer(facts(tool=tool, said=hooks(*events, tool=tool), moved=NOON - 10)) == expected


COPILOT_BOX = [" /workspace [⎇ master%]", "─" * 40, "❯", "─" * 40, " ← open sidebar · / commands · ? help"]
COPILOT_PLAN = [
    *(f"╭{RULE}", "│ Plan Ready for Review │", f"│ {RULE}", "│ Two steps, and a test for each │", "│  │"),
    *("│ ❯ 1. Accept plan and continue in Autopilot execution mode (recommended) │", "│   2. Suggest changes │"),
    *("│  │", "│ ↑/↓ to navigate · enter to select · esc to cancel │", f"╰{RULE}╯"),
]
COPILOT_LOGIN = [
    *(" ● Tip: /instructions", " What account do you want to log into?", " ❯ 1. GitHub.com"),
    *("   2. GitHub Enterprise Cloud (*.ghe.com)", " ↑/↓ to navigate · enter to select"),
]
COPILOT_MODELS = [
    *("   gpt-6-sol", f" {RULE}", " ❯  Search models…", f" {RULE}"),
    " ↑/↓ to navigate · shift+tab group: recommended · enter to select · esc to cancel",
]


def beside_a_scroll_bar(*lines: str) -> list[str]:
    """Lines of a conversation of Copilot CLI that is taller than the screen (seen with 1.0.102)."""
    return [f"{line:100} ┃" for line in lines]


OPENCODE_BOX = ["  ┃", "  ┃  Ask anything…", "  ┃", "  ┃  Build · Claude Sonnet 4.5", f"  ╹{'▀' * 40}"]
OTHER_SCREENS = {
    "copilot is ready": ("copilot", [" ● hello", *COPILOT_BOX], "idle"),
    "copilot works": ("copilot", [*COPILOT_BOX[:4], " ◉ Working · 59 B esc esc interrupt"], "working"),
    "copilot was interrupted, with a scroll bar at the right": (
        "copilot",
        beside_a_scroll_bar(" ● Let me think", "", " ● Operation cancelled by user", "") + COPILOT_BOX,
        "idle interrupted",
    ),
    "copilot has given up": (
        "copilot",
        [" ❯ go", " ✗ Failed to get response from the AI model; Last error:", "   429 too many", *COPILOT_BOX],
        "failed rate_limit",
    ),
    "copilot has a plan": ("copilot", COPILOT_PLAN, "waiting plan"),
    "copilot wants a login": ("copilot", COPILOT_LOGIN, "waiting login"),
    "copilot with its models open": ("copilot", COPILOT_MODELS, "waiting dialog"),
    "opencode is ready": ("opencode", [*OPENCODE_BOX, "   tab agents  ctrl+p commands"], "idle"),
    "opencode works": ("opencode", [*OPENCODE_BOX, "   ⬝⬝■■  esc interrupt    ctrl+p commands"], "working"),
    "opencode retries": (
        "opencode",
        [*OPENCODE_BOX, "   ⬝⬝⬝■ Overloaded [retrying in 3s attempt #2]      esc interrupt"],
        "working retry",
    ),
    "opencode asks": ("opencode", ["┃  1. Red", "┃  ↑↓ select  enter submit  esc dismiss"], "waiting question"),
}


# As on a phone (seen with Copilot CLI 1.0.102 at 40x30 and 30x44).
OTHER_SCREENS |= {
    "copilot wants a permission in 30 columns": (
        "copilot",
        [
            *(f"╭{'─' * 28}╮", "│ Do you want to run this    │", "│ command?                   │"),
            *("│ ❯ 1. Yes                   │", "│  2. Yes, and don't ask     │", "│   3. No (Esc to stop)      │"),
            *("│ ↑/↓ to navigate · enter to │", "│  select · esc to cancel    │", f"╰{'─' * 28}╯"),
        ],
        "waiting permission",
    ),
    "copilot asks above a border": (
        "copilot",
        [
            *(" ○ Asking user Waiting for response", RULE, " Copilot needs information.", " Which colour do you want?"),
            *(" colour:", " ❯ Red", "   Green", " ↑/↓ select · enter accept · ctrl+d", " decline · esc cancel", RULE),
        ],
        "waiting question",
    ),
}


@table(("tool", "lines", "expected"), OTHER_SCREENS.values(), ids=OTHER_SCREENS.keys())
def test_the_screens_of_other_tools(tool, lines, expected):
    assert answer(facts(lines, tool=tool)) == expected


@table(
    ("lines", "text", "options", "is_seen"),
    [
        (COPILOT_PLAN, "Two steps, and a test for each", 2, False),
        (COPILOT_MODELS, COPILOT_MODELS[-1].strip(), 0, True),  # a person has opened it
    ],
)
def test_the_dialogs_of_copilot_are_told_with_their_texts(lines, text, options, is_seen):
    agent = decide(facts(lines, tool="copilot")).agent
    assert (agent.text, len(agent.options), agent.seen) == (text, options, is_seen)


BOXES = {
    "claude": BOX,
    "copilot": COPILOT_BOX,
    "opencode": [*OPENCODE_BOX, "   tab agents  ctrl+p commands", "  /workspace   1.18.34"],
    "aider": [RULE, "> "],
}


@table("height", [0, 1, 11])
@table(
    ("lines", "expected"),
    [
        (["● hello", *BOX[:3]], "idle"),
        (INTERRUPTED[:-1], "idle interrupted"),
        (STALLED[:-1], "working"),
    ],
)
def test_a_status_line_of_any_height_is_a_footer(lines, expected, height):
    status = ["  ⎇ main · 3 files", RULE, "Do you want to proceed?", "❯ 1. Yes", "  2. No", "Esc to cancel"] * 2
    last = BUSY[-1] if expected == "working" else BOX[-1]
    assert answer(facts([*lines, *status[:height], last])) == expected


def test_the_transcript_that_a_person_opens_is_no_dialog():
    """It has no box (seen with Claude Code 2.1.332)."""
    hint = "  Showing detailed transcript · ctrl+o to toggle · ctrl+e to show all    verbose"
    transcript = ["● Do you want to keep the old API?", "  1. Yes, keep it", "  2. No, drop it", RULE, hint]
    assert answer(facts(transcript, said=hooks(PROMPT, ("Stop", {})))) == "done"


STOPPED = ("Stop", {"last_assistant_message": "hello", "background_tasks": []})
CORRECTED = {
    "Esc has no hook": ([PROMPT], INTERRUPTED, "idle interrupted"),
    "a Stop that never came": ([HELLO], DONE, "done"),
    "a dialog without a hook": ([STOPPED], TRUST, "waiting dialog"),
    "work without a hook": ([STOPPED], STALLED, "working"),
    "an unknown screen": ([PROMPT], ["hm"], "working"),
}


AGAIN = ("UserPromptSubmit", {"prompt": "go on\nand on"})
EARLIER = DONE[:3]
CORRECTED |= {
    # Claude Code takes a prompt without an answer off its screen, and puts it back into its input.
    "a prompt that is back in the input": ([AGAIN], [*EARLIER, RULE, "❯ go on", "  and on", *BOX[2:]], BROKEN_OFF),
    "one that a person has deleted": ([AGAIN], DONE, BROKEN_OFF),
    "an answer that is taller than the screen": ([AGAIN], ["  of hello", EARLIER[2], *BOX], "done"),
    "one that the tool gave itself": (
        [("UserPromptSubmit", {"prompt": "<task-notification>\n<task-id>a5"})],
        ["❯ go on", "● Agent finished", EARLIER[2], *BOX],
        "done",
    ),
}


@table(("events", "lines", "expected"), CORRECTED.values(), ids=CORRECTED.keys())
def test_the_screen_corrects_the_hooks(events, lines, expected):
    assert answer(facts(lines, said=hooks(*events))) == expected


def test_a_screen_is_given_time_to_show_what_a_hook_has_told():
    assert answer(facts(DONE, said=hooks(PROMPT, at=NOON - 0.5))) == "working"
    assert answer(facts(BOX, said=hooks(PROMPT, at=NOON - 4))) == "working", "it only lacks the sign of work"
    assert answer(facts(BOX, said=hooks(PROMPT, at=NOON - 6))) == BROKEN_OFF
    asked = hooks(PROMPT, ("PermissionRequest", {"tool_name": "Bash"}), at=NOON)
    assert answer(facts(STALLED, said=asked, now=NOON + 4)) == "waiting permission"
    assert answer(facts(STALLED, said=asked, now=NOON + 6)) == "working", "it was answered in the terminal"


def test_a_screen_that_lacks_the_prompt_is_not_drawn_yet():
    """A tool on a busy host may take so long. It has the prompt, so it puts it back where it is interrupted."""
    for lines in (DONE, ["❯ say hello", "● hello", *BOX]):
        assert answer(facts(lines, said=hooks(PROMPT, at=NOON - 1))) == "working"
        assert answer(facts(lines, said=hooks(PROMPT, at=NOON - 25))).startswith("idle")


def test_a_screen_that_was_seen_to_be_at_rest_after_an_interruption_is_believed_at_once():
    given, before = facts(BOX, said=hooks(PROMPT, at=NOON - 1)), Agent("working")
    assert answer(given, after(before, stopped=NOON - 0.5)) == BROKEN_OFF
    assert answer(given, after(before, stopped=NOON - 2)) == "working"


def test_the_words_of_a_question_are_those_of_the_hook_or_else_of_the_screen():
    agent = decide(facts(QUESTION, said=hooks(PROMPT, ASKED))).agent
    assert (agent.text, agent.options, agent.source) == ("Which colour?", ("Red", "Green"), "hook")
    agent = decide(facts(QUESTION)).agent
    assert agent.text == "☐ Colour Which colour do you want?"
    assert agent.options == ("Red", "Green", "Chat about this")
    assert decide(facts(QUESTION[4:])).agent.text == "", "its text has left the screen"


PANELS = {
    "numbers": (LIST + MODEL, "Select model", ("Default", "Opus")),
    "a choice with what it changes": (LIST + REWIND, "Rewind", ()),
}


@table(("lines", "title", "options"), PANELS.values(), ids=PANELS.keys())
def test_what_a_person_has_opened_is_told_by_its_title_and_the_choices_that_have_numbers(lines, title, options):
    agent = decide(facts(lines, said=hooks(PROMPT, ("Stop", {})))).agent
    assert (agent.state, agent.reason, agent.text) == ("waiting", "dialog", title)
    assert agent.seen, "so nobody is called"
    assert tuple(label.split()[0] for label in agent.options) == options


def test_a_plan_can_be_read_whole():
    plan = "# Plan\n\n" + "x" * 2000
    asked = ("PermissionRequest", {"tool_name": "ExitPlanMode", "tool_input": {"plan": plan}})
    decision = decide(facts(PLAN, said=hooks(asked)))
    assert decision.detail == plan
    assert len(decision.agent.text) == texts.TEXT_LIMIT
    assert decision.agent.options[1] == "Yes, manually approve edits"


PROCESSES = {
    "killed": ({"exit_code": 137}, "ended crashed"),
    "gone without a word": ({"is_alive": False}, "ended crashed"),
    "a tool without rules": ({"tool": "shell"}, "unknown"),
    "the session does not run": ({"status": "stopped"}, "none"),
    "it starts": ({"status": "starting"}, "starting"),
    "nobody has looked": ({"looked": False}, "starting"),
    "its screen is not drawn": ({"has_screen": False, "started": NOON - 3, "said": NOTHING}, "starting"),
}


@table(("more", "expected"), PROCESSES.values(), ids=PROCESSES.keys())
def test_the_process_beats_hooks_and_screen(more, expected):
    shown = facts(STALLED, **{"said": hooks(PROMPT), **more})
    assert answer(shown) == expected
    if more.get("exit_code"):
        assert decide(shown).agent.text == f"exit code {more['exit_code']}"


def test_work_without_a_movement_for_five_minutes_is_stuck():
    still = {"said": hooks(PROMPT, at=NOON - 1000)}
    assert answer(facts(STALLED, **still, moved=NOON - 299)) == "working"
    assert answer(facts(STALLED, **still, moved=NOON - 301)) == "stuck"
    assert answer(facts(RETRY, **still, moved=NOON - 301)) == "working retry"
    fresh = facts(STALLED, **still, moved=NOON - 301, is_measured=False)
    assert answer(fresh) == "working", "a new server does not know yet whether it uses the CPU"
    assert answer(fresh, after(Agent("stuck"))) == "stuck"


def test_a_clock_that_is_set_makes_no_tool_stuck_and_keeps_none_from_it():
    still = {"said": hooks(PROMPT, at=NOON - 5000), "moved": NOON - 3602}
    assert answer(facts(STALLED, **still, steady=NOON - 299)) == "working"
    assert answer(facts(STALLED, **still, steady=NOON - 301)) == "stuck"
    said = hooks(PROMPT, at=NOON + 3000)  # before it was set back
    assert answer(facts(STALLED, said=said, moved=NOON + 3000, steady=NOON - 301)) == "stuck"
    assert answer(facts(INTERRUPTED, said=said)) == BROKEN_OFF


def test_a_turn_that_leaves_work_in_the_background_is_done_at_once_and_says_so():
    stop = ("Stop", {"last_assistant_message": "It runs.", "background_tasks": [{}]})
    done = decide(facts(SHELL, said=hooks(PROMPT, stop, at=NOON - 1))).agent
    assert (done.state, done.text, done.since) == ("done", "It runs. (1 shell in the background)", NOON - 1)


OTHER_PROMPT = ("UserPromptSubmit", {"prompt": "and then"})


def test_since_changes_only_with_state_reason_or_turn():
    events = [PROMPT, ("ElicitationResult", {}), STOPPED, PROMPT, OTHER_PROMPT]
    told = [hooks(*events[:count], at=NOON - 20 + count) for count in range(1, 6)]
    assert [said.since for said in told] == [NOON - 19, NOON - 19, NOON - 17, NOON - 16, NOON - 15]
    assert [said.turn for said in told] == [1, 1, 1, 2, 3], "each prompt begins a turn"
    assert hooks(PROMPT, ASKED, STOPPED, ("PostToolUse", {"tool_name": "AskUserQuestion"})).state == "done", "late"
    before = decide(facts(STALLED))
    assert decide(facts(STALLED, now=NOON + 60, moved=NOON + 58), after(before)).agent.since == before.agent.since


SEVERAL = ("PermissionRequest", {"tool_name": "AskUserQuestion", "tool_input": {"questions": [
    {"question": "Which colour?", "options": [{"label": "Red"}, {"label": "Green"}]},
    {"question": "Which sizes?", "options": [{"label": "Small"}, {"label": "Large"}]}]}})  # fmt: skip
FIRST_OF_SEVERAL = [
    *(RULE, "←  ☐ Colour  ☐ Size  ✔ Submit  →", "Which colour?", "❯ 1. Red", "     Like a rose", "  2. Green"),
    *(RULE, "  3. Chat about this", QUESTION[-1]),
]
SECOND_OF_SEVERAL = [
    *(RULE, "←  ☒ Colour  ☐ Size  ✔ Submit  →", "Which sizes?", "❯ 1. [ ] Small", "     Small ones", "  2. [ ] Large"),
    *("     Submit", RULE, "  3. Chat about this", QUESTION[-1]),
]


def test_the_next_one_of_several_questions_is_another_question():
    past, told = after(Agent("working")), []
    ticked = [line.replace("1. [ ]", "1. [✔]") for line in SECOND_OF_SEVERAL]
    for lines in (FIRST_OF_SEVERAL, FIRST_OF_SEVERAL, SECOND_OF_SEVERAL, ticked):
        decision = decide(facts(lines, said=hooks(PROMPT, SEVERAL)), past)
        past = decision.past
        told.append((decision.agent.text, decision.agent.options[:2], decision.agent.question))
    assert told == [
        *[("Which colour? (1 of 2 questions)", ("Red", "Green"), 1)] * 2,
        ("Which sizes?", ("[ ] Small", "[ ] Large"), 2),
        ("Which sizes?", ("[✔] Small", "[ ] Large"), 2),
    ]


def opencode_asks(*rows: str) -> list[str]:
    """The screen of opencode 1.18.34 with one page of several questions."""
    return [*("     ▣  Build", "  ┃   Colour   Size   Confirm"), *(f"  ┃  {row}" for row in rows), "  ┃"]


OPENCODE_PAGES = {
    "the first one": (
        opencode_asks(
            "Which colour?" + " " * 30 + "LSP", "1. Red", "   Like a rose", "2. Green", "↑↓  enter confirm  esc dismiss"
        ),
        ("Which colour? (1 of 2 questions)", ("Red", "Green")),
    ),
    "the last page": (
        opencode_asks("Review", "Colour: Green", "Size: Small", "⇆ tab  enter submit  esc dismiss"),
        ("Review", ("submit",)),
    ),
}


@table(("lines", "expected"), OPENCODE_PAGES.values(), ids=OPENCODE_PAGES.keys())
def test_each_page_of_several_questions_of_opencode_is_told_as_it_stands(lines, expected):
    said = hooks(("question.asked", SEVERAL[1]["tool_input"]), tool="opencode")
    agent = decide(facts(lines, tool="opencode", said=said), after(Agent("working"))).agent
    assert ((agent.state, agent.reason), (agent.text, agent.options)) == (("waiting", "question"), expected)


PLANNED = "Plan at home/code/.local/share/opencode/plans/1-misty-harbor.md is complete. Would you like to start it?"


@table("is_told", [True, False], ids=["by the hook", "by the screen"])
def test_the_plan_of_opencode_is_a_question_of_its_own_kind(is_told):
    lines = opencode_asks(
        PLANNED[:70], PLANNED[70:], "", "1. Yes", "   Start it", "2. No", "↑↓ select  enter submit  esc dismiss"
    )
    asked = {"question": PLANNED, "header": "Build Agent", "options": [{"label": "Yes"}, {"label": "No"}]}
    said = hooks(BUSY_NOW, ("question.asked", {"questions": [asked]}), tool="opencode") if is_told else NOTHING
    agent = decide(facts(lines, tool="opencode", said=said), after(Agent("working"))).agent
    assert (agent.state, agent.reason, agent.options) == ("waiting", "plan", ("Yes", "No"))
    assert agent.text.replace(" ", "") == PLANNED.replace(" ", "")


@table(
    ("opened", "expected"),
    [
        (Agent("waiting", "dialog", seen=True), "idle"),
        (Agent("waiting", "permission"), "done"),
    ],
)
def test_what_was_opened_at_rest_is_no_turn_that_ends_when_it_is_closed(opened, expected):
    """Nobody is called: no hook has told of a turn, and only a question of that kind comes amid one."""
    assert decide(facts(BOXES["opencode"], tool="opencode"), after(opened)).agent.state == expected


def test_a_turn_that_is_over_is_idle_once_a_person_has_seen_it():
    told = facts(DONE, said=hooks(PROMPT, STOPPED))
    before = decide(told)
    assert (before.agent.state, before.agent.seen, before.agent.text) == ("done", False, "hello")
    seen = before.past.seen.add(before.agent, NOON + 5)
    idle = decide(told, after(before, seen=seen))
    assert (idle.agent.state, idle.agent.seen, idle.agent.since) == ("idle", True, NOON + 5)
    assert decide(told, after(idle)).agent == idle.agent
    works = decide(facts(STALLED, said=hooks(PROMPT)))
    seen = works.past.seen.add(works.agent, NOON)
    assert answer(told, after(works, seen=seen)) == "done", "work that was seen is no end that was seen"
    again = facts(DONE, said=hooks(PROMPT, STOPPED, PROMPT, STOPPED, at=NOON + 20), now=NOON + 30)
    assert answer(again, after(idle)) == "done"


def test_a_tool_that_says_nothing_by_hooks_is_done_after_its_work_and_for_the_next_server_too():
    done = decide(facts(DONE), after(Agent("working", turn=4)))
    assert done.agent.state == "done"
    assert answer(facts(DONE), after(Agent("idle"))) == "idle"
    assert decide(facts(looked=False), after(done)).agent == done.agent


BY_HAND = {
    "a person starts it again": ({"exit_code": 0, "runs_again": True}, BOX, "idle"),
    "and he ends it": ({"exit_code": 137, "was_again": True, "again_code": 0}, BOX, "ended"),
    "and it is killed": ({"exit_code": 0, "was_again": True, "again_code": 137}, BOX, "ended crashed"),
    "a stop of the session ends it": ({"exit_code": 143, "is_stopping": True}, BOX, "ended"),
    "its session is just started": (
        {"is_alive": False, "ended": NOON - 60, "started": NOON - 5},
        BOX,
        "starting",
    ),
}


@table(("more", "lines", "expected"), BY_HAND.values(), ids=BY_HAND.keys())
def test_a_tool_that_has_ended_may_be_started_again(more, lines, expected):
    assert answer(facts(lines, **more)) == expected


LEFT = [*BOX, "claude has ended (exit code 0). This is a shell in its container.", "code@box:/workspace$ claude"]
STARTS = {
    "it is started": (LEFT, {"ended": NOON - 2}, "starting"),
    "it shows its box": ([*LEFT, *BOX], {"ended": NOON - 2}, "idle"),
    "it shows nothing for long": (LEFT, {"ended": NOON - 999}, "unknown"),
}


@table(("lines", "more", "expected"), STARTS.values(), ids=STARTS.keys())
def test_what_an_earlier_run_has_left_on_the_screen_is_not_the_tools(lines, more, expected):
    assert answer(facts(lines, **more)) == expected


def test_the_words_that_a_tool_leaves_are_known():
    for file in ("tool", "left"):
        words = re.search("printf '.*(%s has ended .*)\\\\n'", (ROOT / f"guest/{file}.sh").read_text())
        assert words is not None
        assert re.fullmatch("claude" + state.LEFT, words[1] % ("claude", "137"))


HOSTILE = {
    "control characters": ({"message": "a\x1b[31m\u202eb\x00"}, "a[31mb"),
    "a long text": ({"message": "x" * 9000}, "x" * 499 + "…"),
    "lines": ({"message": "a\nb"}, "a b"),
}


COPILOT_ENDS = {
    "it is too long for the screen": ([*beside_a_scroll_bar(" 9", " 10"), *COPILOT_BOX], "done"),
    "it has put the prompt back": ([" ❯ old", " ● hi", *COPILOT_BOX[:2], "❯ go", *COPILOT_BOX[3:]], BROKEN_OFF),
}


@table(("lines", "expected"), COPILOT_ENDS.values(), ids=COPILOT_ENDS.keys())
def test_an_end_of_copilot_that_no_hook_tells_of_is_told_from_an_interruption(lines, expected):
    said = hooks(("UserPromptSubmit", {"prompt": "go"}), at=NOON - 30, tool="copilot")
    assert answer(facts(lines, tool="copilot", said=said)) == expected


def asks_for(command: str, agent: str = "") -> tuple[str, dict[str, object]]:
    return ("PermissionRequest", {"tool_name": "Bash", "tool_input": {"command": command}, "agent_id": agent})


def permission_for(command: str) -> list[str]:
    return [line.replace("touch /workspace/x", command) for line in PERMISSION]


def test_of_two_sub_agents_that_ask_at_once_each_has_its_own_words_and_number():
    """Claude Code shows one dialog after the other, and no hook tells that the first one was answered."""
    said = hooks(PROMPT, asks_for("make a", "a1"), asks_for("make b", "a2"))
    past, told = after(Agent("working", turn=1), told=1), []
    for number, command in enumerate(("make a", "make a", "make b", "make c")):
        decision = decide(facts(permission_for(command), said=said, now=NOON + 30 * number), past)
        past = decision.past
        told.append((decision.agent.text, decision.agent.question))
    assert told[0] == told[1] == ("Bash: make a", told[0][1])
    assert (told[2][0], told[3][0]) == ("Bash: make b", "Do you want to proceed?"), "no hook has told of the last one"
    assert told[1][1] < told[2][1]


@table(("data", "text"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_text_of_a_container_is_cleaned_and_cut(data, text):
    assert decide(facts(said=hooks(("Elicitation", data)))).agent.text == text
    lines = texts.clean_lines("a\x1b[2J\n\n" + "y" * 9000 + "\nb\u202e \n" * 100)
    assert (lines[-1], len(lines), max(map(len, lines))) == ("b", texts.LINES, 1)


def event(name: str, at: float = NOON - 5, **data) -> bytes:
    return f'{{"at":{at:.3f},"event":"{name}","data":{json.dumps(data)}}}\n'.encode()


def test_a_look_is_read_and_goes_on_where_the_last_one_ended():
    first = event("UserPromptSubmit", prompt="go")
    head = b"events=77:0 alive=1 code= screen=1799999990 run=1799999000\n\xe2\xa0\xb9 alive=0\x1b\n"
    screen = b"M\n" + "\n".join(STALLED).encode() + b"\nM\n"
    known = parse_look(head + screen + first + b'{"at":1', "M", facts(), Known(), NOON)
    assert (known.inode, known.offset) == (77, len(first))
    assert (known.facts.is_alive, known.facts.title) == (True, "\u2839 alive=0")
    assert (known.facts.said.state, known.facts.moved, known.facts.exit_code) == ("working", 1799999990.0, None)
    head = b"events=77:%d alive=1 code= screen=1799999990 run=1799999000\n" % known.offset
    then = parse_look(head + screen + event("Stop"), "M", known.facts, known, NOON)
    assert (then.facts.said.state, then.facts.said.since) == ("done", NOON - 5)


@table(
    "output",
    [
        b"",
        b"events=x:-1 alive=2 code=999999 screen=1e9 run=99999999999999\nM\nM\n" + b"[" * 5000 + b"\n",
        b"events=1:0 alive=1\nM\nM\n" + b'{"at":nan,"event":"Stop"}\n{"at":1,"event":["Stop"]}\n\xff\n',
    ],
)
def test_what_is_not_as_it_should_be_counts_as_not_said(output):
    known = parse_look(output, "M", facts(), Known(), NOON)
    assert known.facts.said == Said()
    assert (known.facts.exit_code, known.facts.moved) == (None, 0.0)
    known = with_events(Known(facts(), offset=10), b"x" * EVENTS_LIMIT, NOON)[0]  # a line without an end
    assert known.offset == 10 + EVENTS_LIMIT
    known = with_events(known, b"x\n" + event("Stop", at=NOON + 1e6) + b'{"at":', NOON)[0]
    assert (known.facts.said.state, known.facts.said.at) == ("done", NOON), "no event is from the future"
    assert known.offset == 10 + EVENTS_LIMIT + 2 + len(event("Stop"))


def test_an_event_whose_data_no_parser_takes_is_one_without_data():
    for data in (b"9" * 60_000, b"[" * 60_000):
        told = state.parse_event(b'{"at":1,"event":"Stop","data":' + data + b"}", NOON)
        assert (told.name, told.data) == ("Stop", {})


@table(
    ("seconds", "noted", "code", "expected"),
    [
        (2, 0, None, "starting"),
        (60, 0, None, "ended"),
        (2, 0, 1, "ended"),
        (45, 43, None, "starting"),  # a busy machine needs so long from the container's start to guest/tool.sh
    ],
)
def test_a_tool_whose_process_is_not_there_yet_has_not_crashed(seconds, noted, code, expected):
    """guest/tool.sh notes its own process first: a prompt at that moment was refused, and a crash was told."""
    times = {"now": 1000.0 + seconds, "started": 1000.0, "ended": 1000.0 + noted}
    facts = Facts(tool="claude", **times, looked=True, is_alive=False, exit_code=code)
    assert decide(facts).agent.state == expected
    late = replace(facts, started=400.0, ended=0.0, exit_code=None, followed=facts.now - 1)
    assert decide(late).agent.state == "starting", "until the server is done with the start, nobody looks"


def documented() -> set[tuple[str, str]]:
    """Each state with each of its reasons, as the table of docs/api.md has them."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    states = load_contract()["components"]["schemas"]["Agent"]["properties"]["state"]["enum"]
    reasons = {state: re.findall(r"`(\w+)`", words) for state, words in rows if state in states}
    assert sorted(reasons) == sorted(states)
    return {(state, reason) for state, words in reasons.items() for reason in ("", *words)}


def test_each_state_and_reason_that_the_rules_know_is_documented():
    known = {(rule.state, rule.reason) for one in RULES.values() for rule in (*one.screen, *one.hooks.values())}
    assert {row for row in known if row[0] not in ("", "ready")} <= documented()
