"""How a text and an answer are typed into each tool: a table, with what was seen of the real tools; pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import clincus
from clincus_features.agents.rules import RULES
from clincus_features.agents.state import Decision, Facts, choices, read_screen

PROMPT_LIMIT = 64 << 10  # bytes of a prompt: Linux takes 128 KiB as one argument
SHOWN = 200  # characters of a question in a message


Step = Union[str, Sequence[str]]  # a text to paste, or keys to press, by tmux's names for them


@dataclass(frozen=True)
class Keys:
    """How one tool is typed at."""

    proof: str = ""  # the event that tells of a prompt that was taken; "": nothing proves it
    interrupt: Sequence[str] = ("Escape",)
    numbers: bool = True  # whether an option is chosen by its number; else by arrow keys and Enter
    own_answer: str = ""  # pattern of the option that lets a person write an answer


KEYS: Mapping[str, Keys] = {
    "claude": Keys(proof="UserPromptSubmit", own_answer="Type something"),
    "copilot": Keys(proof="UserPromptSubmit", numbers=False),
    "opencode": Keys(interrupt=("Escape", "Escape"), numbers=False),
    "aider": Keys(interrupt=("C-c",)),
}


def clean_prompt(text: str) -> str:
    """A prompt as a tool gets it: line ends are LF, no control character but tab. Raises ClincusError: 400, 413."""
    text = re.sub("(\x1b\\[|\x9b)20[01]~", "", re.sub("\r\n?", "\n", text))  # the ends of a bracketed paste
    text = re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
    if not text.strip():
        raise clincus.ClincusError("the prompt is empty: write what the tool is to do", 400)
    if len(text.encode()) > PROMPT_LIMIT:
        raise clincus.ClincusError(f"the prompt is larger than {PROMPT_LIMIT >> 10} KiB: put it into a file", 413)
    return text


def readiness(facts: Facts, decision: Decision) -> str:
    """Whether a prompt can be typed now (`ready`) or when a turn has ended (`busy`).

    Raises ClincusError(409) with the reason where neither is so.
    """
    agent, rules = decision.agent, RULES.get(facts.tool)
    if agent.state == "waiting":
        raise clincus.ClincusError(waiting_words(decision), 409)
    if agent.state in ("ended", "none") or facts.tool == "shell":
        raise clincus.ClincusError("no tool runs in this session: resume the session, or start one in it", 409)
    if agent.state == "unknown":
        if rules is None and facts.tool:
            return "ready"
        raise clincus.ClincusError("it is not known what the tool does: look at its terminal", 409)
    if agent.state in ("idle", "done", "failed"):
        return "ready"
    shown = read_screen(rules, facts.lines) if rules and facts.said.background else None
    return "ready" if shown and shown.rule.state == "ready" else "busy"


def waiting_words(decision: Decision) -> str:
    """Why no prompt can be typed while a tool waits for a person."""
    agent = decision.agent
    asked = agent.text if len(agent.text) <= SHOWN else agent.text[: SHOWN - 1] + "…"
    return f"the tool waits for an answer ({agent.reason})" + (f": {asked}" if asked else "")


def is_proof(data: Mapping[str, object], text: str) -> bool:
    """Whether an event tells of this very prompt; a hook keeps only its begin."""
    told = squeeze(str(data.get("prompt", "")))
    wanted = squeeze(text)
    head = wanted[:40]
    return bool(told) and (head in told or wanted.startswith(told[:-2]))


def squeeze(text: str) -> str:
    """A text without blanks, which tools change."""
    return "".join(text.split())


def question_on_screen(facts: Facts, decision: Decision) -> bool:
    """Whether a tool waits for an answer, and its screen shows the question."""
    rules = RULES.get(facts.tool)
    shown = read_screen(rules, facts.lines) if rules and facts.has_screen else None
    return decision.agent.state == "waiting" and shown is not None and shown.rule.state == "waiting"


def answer_steps(facts: Facts, decision: Decision, option: int | None, text: str | None) -> list[Step]:
    """What is typed to choose an option, counted from 1, or to answer by a text. ClincusError: 400, 409."""
    keys, options = KEYS.get(facts.tool, Keys()), choices(facts.lines)
    if option is None:
        own = next((number for number, label in enumerate(options, 1) if re.match(keys.own_answer, label)), None)
        if not keys.own_answer or own is None:
            raise clincus.ClincusError("this question takes one of its options, not a text", 409)
        return [(str(own),), clean_prompt(text or ""), ("Enter",)]
    count = len(options) or len(decision.agent.options)
    if option > count:
        raise clincus.ClincusError(f"the question has {count} options", 409)
    if keys.numbers and option < 10:
        return [(str(option),)]
    return [(*("Down",) * (option - 1), "Enter")]


def interrupt_steps(facts: Facts, decision: Decision) -> list[Step]:
    """What is typed to interrupt a tool; nothing where it is at rest. ClincusError(409) where no tool runs."""
    state = decision.agent.state
    if state in ("ended", "none") or facts.tool == "shell":
        raise clincus.ClincusError("no tool runs in this session", 409)
    at_rest = state in ("idle", "done", "failed")
    return [] if at_rest else [KEYS.get(facts.tool, Keys()).interrupt]
