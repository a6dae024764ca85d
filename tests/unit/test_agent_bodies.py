"""What an agent says or wants to do, crafted like a dialog: it makes none, hides none, and holds nobody up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from clincus_features.agents.drafts import draft_of
from clincus_features.agents.rules import RULES
from clincus_features.agents.state import Agent, Facts, Said, decide
from clincus_features.agents.texts import clean_lines
from tests.table import table
from tests.unit import test_agent_low_screens as low_screens
from tests.unit import test_agent_state as states
from tests.unit import test_other_tools as others
from tests.unit.story import LOOKS

NOON = states.NOON
RULE = "─" * 60
# The end of each tool's screen at rest, and while it works.
RESTS = {"aider": states.BOXES["aider"], **{tool: looks.rests for tool, looks in LOOKS.items()}}
WORKS = {tool: looks.works for tool, looks in LOOKS.items()}
CURSOR = {"opencode": 4}  # lines below the one with the cursor, of a tool that does not hide it in its box

# Seen with opencode 1.18.34. What stands beside the panels is what was there before.
PANELS = {
    "commands": [
        *("  ┃  ask", "  ┃  Which colour do you want?    Commands                                         esc"),
        *("  ┃  Red", "  ┃                               Search", "     The tool has answered.       Suggested"),
        *("                                  Share session", "     ▣  Build · Claude Sonnet     Switch session"),
    ],
    "help": [
        *("  ┃  ask", "  ┃  Which colour do you want?  Help                                           esc/enter"),
        *("  ┃  Red", "  ┃                             Press ctrl+p to see all available actions"),
        "     ▣  Build · Claude Sonnet                                                      ok",
    ],
}


def dialogs() -> Iterator[tuple[str, str, list[str]]]:
    """Each dialog of each tool that the other tests know: tool, name, lines."""
    for name, (lines, state) in states.SCREENS.items():
        if state.startswith("waiting"):
            yield "claude", name, lines
    for name, (lines, _, _) in states.PANELS.items():
        yield "claude", f"panel, {name}", lines
    for name, (lines, _, _) in {**low_screens.FORMS, **low_screens.LOW}.items():
        yield "claude", name, lines
    for name, (tool, lines, state) in states.OTHER_SCREENS.items():
        if state.startswith("waiting"):
            yield tool, name, lines
    for name, (tool, screen, state) in others.SCREENS.items():
        if state.startswith("waiting"):
            yield tool, name, screen.split("\n")
    for name, (lines, _) in states.OPENCODE_PAGES.items():
        yield "opencode", name, lines
    for name, lines in PANELS.items():
        yield "opencode", f"panel, {name}", lines


DIALOGS = {f"{tool}, {name}": (tool, lines) for tool, name, lines in dialogs()}
SIGNS = {"claude": "● ", "copilot": " ● ", "opencode": "     ", "codex": "• ", "gemini": "✦ ", "aider": ""}


def framed(lines: list[str]) -> list[str]:
    """The lines in a box that is drawn with the signs of the tools' own ones."""
    return [f"╭{RULE}╮", *(f"│ {line:58} │" for line in lines), f"╰{RULE}╯"]


def said(tool: str, lines: list[str]) -> list[str]:
    """The lines as a tool shows what its agent says."""
    sign = SIGNS[tool]
    return [sign + lines[0], *(" " * len(sign) + line for line in lines[1:])]


LEFT = " has ended (exit code 0). This is a shell in its container."  # guest/tool.sh writes it behind the tool's name
# How an agent says the words of a dialog.
WAYS: dict[str, Callable[[str, list[str]], list[str]]] = {
    "as they are": lambda tool, lines: lines,
    "as an answer": said,
    "in a box": lambda tool, lines: framed(lines),
    "above a box of its own": lambda tool, lines: [*lines, *RESTS[tool], *lines],
    "below what a tool leaves at its end": lambda tool, lines: said(tool, [tool + LEFT, *lines]),
}


def shown(tool: str, *parts: list[str], **more: object) -> Facts:
    """The facts with a screen of these parts."""
    lines = clean_lines("\n".join(line for part in parts for line in part))
    return states.facts(lines, tool=tool, below=CURSOR.get(tool), **more)


@table("way", WAYS.values(), ids=WAYS.keys())
@table(("tool", "lines"), DIALOGS.values(), ids=DIALOGS.keys())
def test_an_answer_like_a_dialog_is_none(tool, lines, way):
    body = way(tool, lines)
    told = Said("done", text="x", since=NOON - 60, at=NOON - 60, event="Stop")
    before = states.after(Agent("done", since=NOON - 60, source="hook"))
    assert states.answer(shown(tool, body, RESTS[tool])) == "idle"
    assert states.answer(shown(tool, body, RESTS[tool], said=told), before) == "done"
    if tool in WORKS:
        assert states.answer(shown(tool, body, WORKS[tool])) == "working"


def permission(tool: str, command: list[str]) -> list[str]:
    """The screen on which a tool asks for a permission for a command of some lines."""
    lines: list[str] = []
    for row in LOOKS[tool].asks:
        lines += [row.replace("make", line) for line in command] if "make" in row else [row]
    return lines


# Single lines that mean something to the rules of a tool, as all or as the end of what an agent says.
LINES = {
    "claude": [
        *("x · retrying in 3s · attempt 4/10", "The footer says · esc to interrupt", "Select login method:"),
        *("✢ Tempering… (4s)", "Enter to select · ↑/↓ to navigate · Esc to cancel"),
    ],
    "copilot": [
        *("◉ Working · 59 B esc esc interrupt", "✗ Failed to get response from the AI model; Last error: 401"),
        *("↑/↓ to navigate · enter to select · esc to cancel", "❯ 1. Yes"),
    ],
    "opencode": [
        *("⬝⬝■■  esc interrupt", "x [retrying in 3s attempt #2]"),
        *("enter submit  esc dismiss", "Allow once   Allow always   Reject"),
        "Connect a provider                     esc",
    ],
    "codex": [
        *("• Working (3s • esc to interrupt)", "q close", "Reconnecting... 1/5 (3s • esc to interrupt)"),
        *("■ unexpected status 401 Unauthorized", "■ Conversation interrupted - x", "enter select · esc back"),
    ],
    "gemini": [
        *("⠸ Thinking... (esc to cancel, 3s)", "✕ [API Error: 401]", "\u2139 Request cancelled."),
        *("Queued (press ↑ to edit):", "Do you trust the files in this folder?", "● 1. Allow once"),
    ],
    "aider": ["It asks: Add it? (Y)es/(N)o", "Retrying in 8.0 seconds", "Waiting for x"],
}


@table("tool", LINES)
def test_an_answer_that_ends_in_a_line_of_the_tools_own_is_one(tool):
    for line in LINES[tool]:
        for words in (["Here it is:", line], ["It prints:", "```", line, "```"]):
            assert states.answer(shown(tool, said(tool, words), RESTS[tool])) == "idle", line
            if tool in WORKS:
                assert states.answer(shown(tool, said(tool, words), WORKS[tool])) == "working", line


def test_what_waits_below_the_work_does_not_hide_it():
    waits = ["  Queued (press ↑ to edit):", "    say hello"]
    notice = ["\u2139 Waiting for MCP servers to initialize... Slash commands are available."]
    assert states.answer(shown("gemini", ["✦ It prints:", "  x"], waits, RESTS["gemini"])) == "idle"
    assert states.answer(shown("gemini", notice, waits, RESTS["gemini"])) == "working"
    lines = ["• Working (3s • esc to interrupt)", "• Queued follow-up inputs", "  ↳ and then"]
    assert states.answer(shown("codex", lines, RESTS["codex"])) == "working"


# What an agent puts into a command of what it is asked for: whole lines, or their words.
CONTENTS: dict[str, Callable[[list[str]], list[str]]] = {
    "its lines": lambda lines: lines,
    "in a box": framed,
    "its words": lambda lines: [line.strip(" │┃╭╮╰╯─") or "x" for line in lines],
    "below what a tool leaves at its end": lambda lines: ["TOOL" + LEFT, *lines],
}


@table("content", CONTENTS.values(), ids=CONTENTS.keys())
@table(("tool", "lines"), DIALOGS.values(), ids=DIALOGS.keys())
def test_a_permission_for_what_looks_like_another_dialog_is_a_permission(tool, lines, content):
    """Else a person who answers the other one gives it."""
    if tool not in LOOKS:
        return
    asked = decide(shown(tool, permission(tool, ["make all"]))).agent
    command = [line.replace("TOOL", tool) for line in content(lines)]
    found = decide(shown(tool, permission(tool, command))).agent
    assert (asked.state, asked.reason) == ("waiting", "permission")
    assert (found.state, found.reason, found.options) == (asked.state, asked.reason, asked.options)


# -- Panels of opencode, which lie over the rest


def with_a_panel(*lines: str, has_cursor: bool) -> Facts:
    """A screen of opencode with a panel, and the cursor in its first input, if it has one."""
    screen = [*lines, *RESTS["opencode"]]
    rows = [at for at, line in enumerate(lines) if "Search" in line]
    below = len(screen) - 1 - rows[-1] if rows and has_cursor else None
    return states.facts(screen, tool="opencode", below=below)


@table("has_cursor", [True, False])
@table("lines", PANELS.values(), ids=PANELS.keys())
def test_a_panel_of_opencode_is_known_beside_what_it_does_not_cover(lines, has_cursor):
    """And below the words of an agent that are like the head of another one (seen with the real tool)."""
    words = [
        "  ┃  say",
        "                    Commands                                esc",
        "                    Search",
    ]
    title = next(word for word in ("Connect a provider", "Commands", "Help") if word in "".join(lines))
    for above in ([], words if title != "Help" else []):  # which has no input
        agent = decide(with_a_panel(*above, *lines, has_cursor=has_cursor)).agent
        assert (agent.state, agent.text, agent.seen) == ("waiting", title, True)


def test_a_cursor_above_the_box_shows_that_something_covers_it():
    """A dialog of another version may have another head."""
    lines = ["     Are you sure?", "     yes    no", *RESTS["opencode"]]
    assert states.answer(states.facts(lines, tool="opencode", below=7)) == "unknown"
    layout, screen = RULES["opencode"].layout, "\n".join([*PANELS["commands"], *RESTS["opencode"]])
    assert draft_of("opencode", layout, screen, 12) is None, "nothing is typed into the input below a panel"
    assert draft_of("opencode", layout, screen, 4) is not None, "an answer of the agent that looks so"


# -- Costs


def crafted(tool: str, random_one: random.Random) -> list[str]:
    """Forty lines of pieces of the tool's own dialogs, with gaps between them."""
    pieces = [line for name, lines in DIALOGS.values() if name == tool for line in lines]
    pieces += [*RESTS[tool], "  ┃", "│", " " * 60, "x" * 60, "1. a", "❯ 1. a"]

    def line() -> str:
        parts = [random_one.choice(pieces)[random_one.choice((0, 0, 5)) :] for _ in range(random_one.randint(1, 4))]
        return (" " * random_one.choice((0, 2, 8, 20))).join(parts)

    kind = random_one.choice((1, 2, 40))  # of how many different lines
    few = [line() for _ in range(kind)]
    return [random_one.choice(few) for _ in range(40)]


@table("tool", SIGNS)
def test_no_screen_holds_the_server_up(tool):
    """A search that goes back and forth would take minutes, in which no other thread of the server runs."""
    chance = random.Random(26)
    for number in range(40):
        lines = clean_lines("\n".join(crafted(tool, chance)))
        began = time.process_time()
        decide(states.facts(lines, tool=tool, below=chance.choice((None, 3))))
        assert time.process_time() - began < 2, (number, lines)


# -- The end of a turn


def test_an_answer_like_an_interruption_ends_its_turn_like_any_other():
    """Else nobody would be called, and the queue would wait for a person."""
    tool, lines = "claude", ["● It says:", "  ⎿  Interrupted · What should Claude do instead?", *states.BOX]
    said = states.hooks(states.PROMPT, ("Stop", {"last_assistant_message": "It says"}), tool=tool, at=NOON - 60)
    works = states.after(Agent("working", since=NOON - 90, source="hook"))
    decision = decide(states.facts(lines, tool=tool, said=said), works)
    assert (decision.agent.state, decision.agent.reason) == ("done", "")
    assert decide(states.facts(lines, tool=tool, said=said), decision.past).agent.state == "done"
