"""The steps that type texts and answers into each tool: facts seen with the real tools, and pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Union

import clincus
from clincus_features.agents.state import Decision, Facts, read_screen, rules_of
from clincus_features.agents.texts import clean

PROMPT_LIMIT = 64 << 10  # bytes of a prompt: Linux takes 128 KiB as one argument
SHOWN = 200  # characters of a question, or of the text in an input, that a message quotes
CUT = 480  # bytes of a prompt in an event: guest/hook.sh cuts it at 500, amid a character or an escape


Step = Union[str, Sequence[str]]  # a text to paste, or keys to press, by tmux's names for them


class Guard(NamedTuple):
    """A text that a tool would take for a command of its own, and the steps that type it as a prompt."""

    pattern: str  # of the beginning of the text
    steps: Callable[[str], list[Step]]


def behind_a_blank(text: str) -> list[Step]:
    """Type the first character after a blank, and remove the blank: a mode begins only at the very beginning."""
    return [("Space",), text[0], ("C-a",), ("DC",), ("C-e",), *([text[1:]] if text[1:] else [])]


def as_many_lines(text: str) -> list[Step]:
    """Add line breaks at the end, so that there are three."""
    return [text + "\n" * max(0, 3 - text.count("\n"))]


def from_the_start(text: str) -> list[Step]:
    """Move the cursor away from the end."""
    return [text, ("C-a",)]


def with_a_blank(text: str) -> list[Step]:
    """Put a blank in front."""
    return [f" {text}"]


def behind_the_invisible(text: str) -> list[Step]:
    """Put a blank of no width in front."""
    return [f"\u200b{text}"]


@dataclass(frozen=True)
class Keys:
    """The keys and facts for typing into one tool."""

    proof: str = ""  # the event that reports a taken prompt; "": the input shows it, if it can be read
    preface: str = ""  # pattern of the text that the tool may put before a prompt, and report as a part of it
    guards: Sequence[Guard] = ()
    interrupt: Sequence[Step] = (("Escape",),)
    # Pattern of the last lines after an interruption that counts only if another one follows at once; "" if the first
    # one counts. The tool shows that for half a second to some seconds.
    again: str = ""
    otherwise: Sequence[Step] = ()  # keys that also interrupt, but would delete a text in the input
    # How often `interrupt` may be pressed until the tool is at rest: a menu or a view takes the first one.
    tries: int = 3
    numbers: bool = True  # an option is chosen by its number; else by arrow keys and Enter
    own_answer: str = ""  # pattern of the option that lets a person write an answer
    clear: Sequence[str] = ("C-u", "BSpace")  # keys that delete a line of the input, and the break before it


KEYS: Mapping[str, Keys] = {
    # Seen with 2.1.332. It trims a text before it looks for a command. A paste of three line breaks or more stands in
    # the input as `[Pasted text #1 +3 lines]`, which is not a command. Enter after a backslash is a line break.
    "claude": Keys(
        proof="UserPromptSubmit",
        guards=(
            Guard(r"!", behind_a_blank),
            Guard(r"\s*(/|(exit|quit|:q!?|:wq!?)\s*\Z)", as_many_lines),
            Guard(r"(?s:.*)\\\Z", from_the_start),
        ),
        own_answer="Type something",
    ),
    # Seen with 1.0.102. It looks for `/` at the very beginning, and for `!` also after blanks. In its plan mode it
    # tells the model what to do with the prompt.
    "copilot": Keys(
        proof="UserPromptSubmit",
        preface=r"\[\[PLAN\]\] (?s:.*?)\n\nMy request: ",
        guards=(Guard(r"\s*!", behind_the_invisible), Guard(r"/", with_a_blank)),
        again=r"\besc again to ",
        otherwise=(("C-c",),),
        numbers=False,
        own_answer="Suggest changes",
    ),
    # Seen with 1.18.34. It looks for `/` at the very beginning.
    "opencode": Keys(
        proof="UserPromptSubmit",
        guards=(Guard(r"/", with_a_blank),),
        again=r" esc again to interrupt",
        numbers=False,
    ),
    "aider": Keys(interrupt=(("C-c",),), tries=1),  # a second one ends it
}


def keys_of(tool: str) -> Keys:
    """The `Keys` of a tool, by its name."""
    return KEYS.get(tool, Keys())


def prompt_steps(tool: str, text: str) -> list[Step]:
    """The steps that type a prompt, without the Enter after it."""
    guards = keys_of(tool).guards
    return next((guard.steps(text) for guard in guards if re.match(guard.pattern, text)), [text])


def clean_prompt(text: str) -> str:
    """A prompt as a tool gets it: line ends are LF, no control character but tab. Raises ClincusError: 400, 413."""
    text = re.sub("(\x1b\\[|\x9b)20[01]~", "", re.sub("\r\n?", "\n", text))  # the ends of a bracketed paste
    text = re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
    if not text.strip():
        raise clincus.ClincusError("the prompt is empty: write what the tool should do", 400)
    if len(text.encode()) > PROMPT_LIMIT:
        raise clincus.ClincusError(f"the prompt is larger than {PROMPT_LIMIT >> 10} KiB: put it into a file", 413)
    return text


def clean_command(text: str) -> str:
    """A command of a tool: one line that begins with `/`. Raises ClincusError: 400, 413."""
    text = clean_prompt(text).strip()
    if not text.startswith("/") or "\n" in text:
        raise clincus.ClincusError("a command must be one line that begins with /", 400)
    return text


class CoveredError(clincus.ClincusError):
    """A tool at rest does not show its prompt: it is drawing, or something covers the prompt."""


def readiness(facts: Facts, decision: Decision) -> str:
    """`ready` if a prompt can be typed now, `busy` if it has to wait for the end of a turn.

    Raises ClincusError(409) with the reason if it is neither.
    """
    agent = decision.agent
    rules = rules_of(facts)
    if agent.state == "waiting":
        raise clincus.ClincusError(waiting_words(decision), "question_open")
    if agent.state in ("ended", "none") or facts.tool == "shell":
        raise clincus.ClincusError(
            "no tool runs in this session: resume the session, or start the tool in its terminal", "tool_not_running"
        )
    if agent.state == "unknown":
        if rules is None and facts.tool:
            return "ready"
        raise clincus.ClincusError("Clincus cannot tell what the tool is doing: look at its terminal", "tool_not_ready")
    if agent.state in ("idle", "done", "failed"):
        shown = read_screen(facts)
        if shown is None:
            raise CoveredError(
                "the tool does not show its input: look at its terminal, a menu or dialog may cover it",
                "tool_not_ready",
            )
        return "ready" if shown.rule.state in ("ready", "failed") else "busy"
    return "busy"


def is_unsettled(facts: Facts, decision: Decision) -> bool:
    """True if a tool works by its hooks and does not show it: it has just begun, or was just interrupted."""
    shown = read_screen(facts)
    return decision.agent.state == "working" and shown is not None and shown.rule.state == "ready"


def waiting_words(decision: Decision) -> str:
    """The reason why no prompt can be typed while a tool waits for a person."""
    agent = decision.agent
    asked = clean(agent.text, SHOWN)
    question = f": {asked}" if asked else ""
    return f"answer the tool first: it waits for an answer ({agent.reason}){question}"


def check_input(draft: str | None) -> None:
    """Raise ClincusError(409) if a tool's input holds a text: a prompt would be pasted after it."""
    if draft:
        words = "the tool's input holds a text that was not sent: send or delete it in the terminal first"
        raise clincus.ClincusError(f'{words} ("{clean(draft, SHOWN)}")', "tool_not_ready")


def is_proof(tool: str, data: Mapping[str, object], text: str) -> bool:
    """True if an event reports exactly this prompt; a hook keeps only its beginning."""
    prompt = str(data.get("prompt", ""))
    told = squeeze(without_preface(tool, prompt))
    wanted = squeeze(text)
    is_cut = len(json.dumps(prompt, ensure_ascii=False).encode("utf-8", "replace")) >= CUT  # half of a pair is no UTF-8
    head = told[:-2]  # the last character may be half of one
    return bool(told) and (told == wanted or (is_cut and wanted.startswith(head)))


def without_preface(tool: str, prompt: str) -> str:
    """A prompt as a tool reports it, without the text that the tool has put before it."""
    preface = keys_of(tool).preface
    return re.sub(rf"\A{preface}", "", prompt) if preface else prompt


def squeeze(text: str) -> str:
    """A text without blanks, which tools change, and without those of no width, which a guard writes in front."""
    return "".join(text.replace("\u200b", "").split())


def interrupt_steps(facts: Facts, decision: Decision) -> list[Step]:
    """The steps that interrupt a tool; none if it is at rest. Raises ClincusError(409) if no tool runs."""
    state = decision.agent.state
    if state in ("ended", "none") or facts.tool == "shell":
        raise clincus.ClincusError("no tool runs in this session: there is nothing to interrupt", "tool_not_running")
    at_rest = state in ("idle", "done", "failed")
    return [] if at_rest else [*keys_of(facts.tool).interrupt]
