"""How a text and an answer are typed into each tool: a table, with what was seen of the real tools; pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Union

import clincus
from clincus_features.agents.menus import Menu
from clincus_features.agents.state import Decision, Facts, read_screen, rules_of
from clincus_features.agents.texts import clean

PROMPT_LIMIT = 64 << 10  # bytes of a prompt: Linux takes 128 KiB as one argument
SHOWN = 200  # characters of a question in a message


Step = Union[str, Sequence[str]]  # a text to paste, or keys to press, by tmux's names for them


class Guard(NamedTuple):
    """A text that a tool would take for a command of its own, and how it is typed so that it is a prompt."""

    pattern: str  # of the begin of the text
    steps: Callable[[str], list[Step]]


def behind_a_blank(text: str) -> list[Step]:
    """The first character is typed behind a blank, which is then taken away: a mode begins only at the very begin."""
    return [("Space",), text[0], ("C-a",), ("DC",), ("C-e",), *([text[1:]] if text[1:] else [])]


def as_many_lines(text: str) -> list[Step]:
    """With line breaks at the end, so that there are three."""
    return [text + "\n" * max(0, 3 - text.count("\n"))]


def from_the_start(text: str) -> list[Step]:
    """The cursor leaves the end."""
    return [text, ("C-a",)]


def with_a_blank(text: str) -> list[Step]:
    """With a blank in front."""
    return [f" {text}"]


def behind_the_invisible(text: str) -> list[Step]:
    """With a blank of no width in front."""
    return [f"\u200b{text}"]


@dataclass(frozen=True)
class Keys:
    """How one tool is typed at."""

    proof: str = ""  # the event that tells of a prompt that was taken; "": nothing proves it
    guards: Sequence[Guard] = ()
    interrupt: Sequence[Step] = (("Escape",),)
    # Pattern (grep -E) of the last lines while it works. An interruption is tried again while it is there: the second
    # Esc counts only for a moment, and none before an answer begins.
    busy: str = ""
    numbers: bool = True  # whether an option is chosen by its number; else by arrow keys and Enter
    own_answer: str = ""  # pattern of the option that lets a person write an answer
    # Pattern (grep -E) of an empty input. Without a proof Enter is pressed again until it is there; where nothing is in
    # the input any more, Enter sends nothing.
    empty: str = ""


KEYS: Mapping[str, Keys] = {
    # Seen with 2.1.332. It trims a text before it looks for a command. A paste of three line breaks or more stands in
    # the input as `[Pasted text #1 +3 lines]`, which is none. Enter behind a backslash is a line break.
    "claude": Keys(
        proof="UserPromptSubmit",
        guards=(
            Guard(r"!", behind_a_blank),
            Guard(r"\s*(/|(exit|quit|:q!?|:wq!?)\s*\Z)", as_many_lines),
            Guard(r"(?s:.*)\\\Z", from_the_start),
        ),
        own_answer="Type something",
    ),
    # Seen with 1.0.102. It looks for `/` at the very begin, and for `!` behind blanks, too.
    "copilot": Keys(
        proof="UserPromptSubmit",
        guards=(Guard(r"\s*!", behind_the_invisible), Guard(r"/", with_a_blank)),
        interrupt=(("Escape",), ("Escape",)),
        busy=r"Working\b.* esc ",
        numbers=False,
    ),
    # Seen with 1.18.34. It looks for `/` at the very begin.
    "opencode": Keys(
        proof="UserPromptSubmit",
        guards=(Guard(r"/", with_a_blank),),
        interrupt=(("Escape",), ("Escape",)),
        busy=r" esc (again to )?interrupt",
        numbers=False,
    ),
    # Seen with 0.61.0. While it starts it shows its input and takes what is typed, but seconds later.
    "gemini": Keys(empty=r"^ [*>] +Type your message"),
    "aider": Keys(interrupt=(("C-c",),)),
}


def keys_of(tool: str) -> Keys:
    """How a tool is typed at, by its name."""
    return KEYS.get(tool, Keys())


def prompt_steps(tool: str, text: str) -> list[Step]:
    """The steps that type a prompt, without the Enter behind it."""
    guards = keys_of(tool).guards
    return next((guard.steps(text) for guard in guards if re.match(guard.pattern, text)), [text])


def clean_prompt(text: str) -> str:
    """A prompt as a tool gets it: line ends are LF, no control character but tab. Raises ClincusError: 400, 413."""
    text = re.sub("(\x1b\\[|\x9b)20[01]~", "", re.sub("\r\n?", "\n", text))  # the ends of a bracketed paste
    text = re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
    if not text.strip():
        raise clincus.ClincusError("the prompt is empty: write what the tool is to do", 400)
    if len(text.encode()) > PROMPT_LIMIT:
        raise clincus.ClincusError(f"the prompt is larger than {PROMPT_LIMIT >> 10} KiB: put it into a file", 413)
    return text


class CoveredError(clincus.ClincusError):
    """A tool at rest does not show its prompt: it draws just now, or something covers it."""


def readiness(facts: Facts, decision: Decision) -> str:
    """Whether a prompt can be typed now (`ready`) or when a turn has ended (`busy`).

    Raises ClincusError(409) with the reason where neither is so.
    """
    agent, rules = decision.agent, rules_of(facts)
    if agent.state == "waiting":
        raise clincus.ClincusError(waiting_words(decision), 409)
    if agent.state in ("ended", "none") or facts.tool == "shell":
        raise clincus.ClincusError("no tool runs in this session: resume the session, or start one in it", 409)
    if agent.state == "unknown":
        if rules is None and facts.tool:
            return "ready"
        raise clincus.ClincusError("it is not known what the tool does: look at its terminal", 409)
    shown = read_screen(facts)
    if agent.state in ("idle", "done", "failed"):
        if shown is None:
            raise CoveredError(
                "the tool's prompt is not on its screen: look at its terminal, something may cover it", 409
            )
        return "ready" if shown.rule.state in ("ready", "failed") else "busy"
    is_free = facts.said.background and shown is not None and shown.rule.state == "ready"
    return "ready" if is_free else "busy"


def waiting_words(decision: Decision) -> str:
    """Why no prompt can be typed while a tool waits for a person."""
    agent = decision.agent
    asked = clean(agent.text, SHOWN)
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
    shown = read_screen(facts)
    return decision.agent.state == "waiting" and shown is not None and shown.rule.state == "waiting"


def answer_steps(facts: Facts, decision: Decision, option: int | None, text: str | None) -> list[Step]:
    """The steps that choose an option, counted from 1, or answer by a text. Raises ClincusError: 400, 409."""
    keys, shown = keys_of(facts.tool), read_screen(facts)
    menu = shown.menu if shown else Menu()
    options = menu.labels
    if option is None:
        own = next((number for number, label in enumerate(options, 1) if re.match(keys.own_answer, label)), None)
        if not keys.own_answer or own is None:
            raise clincus.ClincusError("this question takes one of its options, not a text", 409)
        return [(str(own),), clean_prompt(text or ""), ("Enter",)]
    count = len(options) or len(decision.agent.options)
    if not count:
        raise clincus.ClincusError("the choices of this dialog cannot be read: answer it in the terminal", 409)
    if option > count:
        raise clincus.ClincusError(f"the question has {count} options", 409)
    is_list = menu.is_numbered or not options  # the hooks told of them, and the screen is too small to show them
    if keys.numbers and is_list and option < 10:
        return [(str(option),)]
    return [menu.steps_to(option - 1)]


def interrupt_steps(facts: Facts, decision: Decision) -> list[Step]:
    """The steps that interrupt a tool; none if it is at rest. Raises ClincusError(409) if no tool runs."""
    state = decision.agent.state
    if state in ("ended", "none") or facts.tool == "shell":
        raise clincus.ClincusError("no tool runs in this session", 409)
    at_rest = state in ("idle", "done", "failed")
    return [] if at_rest else [*keys_of(facts.tool).interrupt]
