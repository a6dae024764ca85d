"""What agents say and show, crafted like any part of their tools' screens, at three widths, whole and half scrolled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.table import table
from tests.unit import test_agent_bodies as bodies
from tests.unit import test_agent_state as states
from tests.unit import test_other_tools as others

# Single lines that mean something to the rules of a tool, at the end or as all of what an agent says.
LINES = {
    "copilot": [
        *("◉ Working · 59 B esc esc interrupt", "✗ Failed to get response from the AI model; Last error: 401"),
        *("Do you trust the files in this folder?", "↑/↓ to navigate · enter to select · esc to cancel", "❯ 1. Yes"),
    ],
    "opencode": [
        *("▣  Build · Claude · 3.0s", "▣  Build · Claude · interrupted", "▣  Build · Claude", "⬝⬝■■  esc interrupt"),
        *("x [retrying in 3s attempt #2]", "enter submit  esc dismiss", "Allow once   Allow always   Reject", "1. Yes"),
        *("Select auth method                     esc", "Connect a provider                     esc"),
    ],
    "codex": [
        *("Working (3s • esc to interrupt)", "• Working (3s • esc to interrupt)", "Worked for 3s • 17:15", "q close"),
        *("Reconnecting... 1/5 (3s • esc to interrupt)", "■ unexpected status 401 Unauthorized", "esc cancel · x"),
        *("■ Conversation interrupted - x", "enter select · esc back", "press enter to continue", "Trust this folder?"),
    ],
    "gemini": [
        *("⠸ Thinking... (esc to cancel, 3s)", "Thinking... (esc to cancel, 3s)", "a (esc to cancel, 3s)"),
        *("✕ [API Error: 401]", "\u2139 Request cancelled.", "Queued (press ↑ to edit):", "? for shortcuts"),
        *("Do you trust the files in this folder?", "How would you like to authenticate for this project?"),
        "● 1. Allow once",
    ],
}
# What a tool draws below the last words of a turn.
ENDS = {"codex": ["  Worked for 3s • 17:15"], "opencode": ["     ▣  Build · Claude · 3.0s"]}


def mimicked(tool: str) -> Iterator[list[str]]:
    """All that an agent may imitate: each screen that the other tests know of its tool, and each line of the table."""
    yield from (lines for name, lines in bodies.DIALOGS.values() if name == tool)
    yield from (lines for name, lines, _ in states.OTHER_SCREENS.values() if name == tool)
    yield from (screen.split("\n") for name, screen, *_ in others.SCREENS.values() if name == tool)
    yield from (lines for lines, _ in states.OPENCODE_ENDS.values() if tool == "opencode")
    for line in LINES[tool]:
        yield from ([line], ["Here it is:", line], ["Here it is:", "```", line, "```"])


def wrapped(line: str, width: int) -> list[str]:
    """The line as a tool breaks it: at a blank where it can."""
    parts = []
    while len(line) > width:
        blank = line.rfind(" ", 1, width + 1)
        end = blank if blank > 0 and line[:blank].strip() else width
        parts.append(line[:end])
        line = line[end:].lstrip()
    return [*parts, line]


def answer(tool: str, lines: list[str], width: int) -> list[str]:
    sign = bodies.SIGNS[tool]
    parts = [part for line in lines for part in wrapped(line, width - len(sign))]
    return [sign + parts[0], *(" " * len(sign) + part for part in parts[1:])]


def fence(tool: str, lines: list[str], width: int) -> list[str]:
    return answer(tool, ["It prints:", "```", *lines, "```"], width)


def diff(tool: str, lines: list[str], width: int) -> list[str]:
    rows = [part for at, line in enumerate(lines, 1) for part in wrapped(f"{at:4} + {line}", width - 8)]
    if tool == "gemini":
        return boxed(["✓  Edit x.py", *rows], width)
    if tool == "opencode":
        return [f"  ┃  {row}".rstrip() for row in ("", "# Edit x.py", *rows, "")]
    return [f"{bodies.SIGNS[tool]}Edited x.py (+9 -0)", *(f"    {row}" for row in rows)]


def output(tool: str, lines: list[str], width: int) -> list[str]:
    rows = [part for line in lines for part in wrapped(line, width - 8)]
    if tool == "gemini":
        return boxed(["✓  Shell cat x", *rows], width)
    if tool == "opencode":
        return [f"  ┃  {row}".rstrip() for row in ("", "# Shell", "", "$ cat x", "", *rows, "")]
    head, rest = ("  └ ", "    ") if tool == "codex" else ("   │ ", "   │ ")
    return [f"{bodies.SIGNS[tool]}Ran cat x", head + rows[0], *(rest + row for row in rows[1:])]


def boxed(rows: list[str], width: int) -> list[str]:
    inner = width - 4
    return [f"╭{'─' * (width - 2)}╮", *(f"│ {row[:inner]:{inner}} │" for row in rows), f"╰{'─' * (width - 2)}╯"]


SHOWN: dict[str, Callable[[str, list[str], int], list[str]]] = {
    "answer": answer,
    "code fence": fence,
    "diff": diff,
    "output of a program": output,
}


@table("width", [200, 40])
@table("show", SHOWN.values(), ids=SHOWN.keys())
@table("tool", LINES)
def test_what_an_agent_shows_is_no_state(tool, show, width):
    """Also where its beginning has left the screen, and where the footer has no line above the input."""
    rest = bodies.RESTS[tool]
    rests = [rest, rest[1:]] if tool == "gemini" else [rest]
    misread = []
    for lines in mimicked(tool):
        body = show(tool, [line for line in lines if line.strip()], width)
        for begin in sorted({0, 1, len(body) // 2, len(body) - 1}):
            at_rest = [bodies.shown(tool, body[begin:], ENDS.get(tool, []), end) for end in rests]
            at_work = bodies.shown(tool, body[begin:], bodies.WORKS[tool])
            found = [*map(states.answer, at_rest), states.answer(at_work)]
            if found != [*[("idle", "")] * len(rests), ("working", "")]:
                misread.append((begin, body, found))
    assert misread == []


def test_what_waits_below_the_work_does_not_hide_it():
    waits = ["  Queued (press ↑ to edit):", "    say hello"]
    notice = ["\u2139 Waiting for MCP servers to initialize... Slash commands are available."]
    rest = bodies.RESTS["gemini"]
    assert states.answer(bodies.shown("gemini", ["✦ It prints:", "  x"], waits, rest)) == ("idle", "")
    assert states.answer(bodies.shown("gemini", notice, waits, rest)) == ("working", "")
    lines = ["• Working (3s • esc to interrupt)", "• Queued follow-up inputs", "  ↳ and then"]
    assert states.answer(bodies.shown("codex", lines, bodies.RESTS["codex"])) == ("working", "")
