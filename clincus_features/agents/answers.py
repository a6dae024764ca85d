"""Answers a question on a tool's screen: presses keys, checks the screen after each, and waits for the proof.

Clincus presses Enter only after a look has shown the same question with the wanted choice marked, or the text in its
place.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import NamedTuple

import clincus
from clincus_features.agents.drafts import holds, is_inserted, without_placeholders
from clincus_features.agents.keys import clean_prompt, keys_of, squeeze
from clincus_features.agents.menus import TICKS, Menu
from clincus_features.agents.state import Decision, Facts, decide, read_screen, rules_of, screen_of
from clincus_features.agents.terminal import PAUSE, Terminal
from clincus_features.agents.texts import LINES

QUESTION_WITHIN = 10.0  # seconds that a tool may take to draw a question after its hook has reported it
REDRAWN_WITHIN = 2.0  # seconds for one that was on the screen at the last look
SHOWN_WITHIN = 5.0  # seconds that a text may take to show on the screen
IGNORED_AFTER = 3.0  # seconds after which a key counts as ignored if the screen shows nothing of it
ANSWERED_WITHIN = 15.0  # seconds for the proof
TRIES = 3
STEPS = 30  # keys that bring the mark to a choice, with those that are ignored
TAIL = 80  # characters that show where on a screen a line was typed
UNREAD = "the choices of this dialog cannot be read: answer it in the terminal"
TELLING_LENGTH = 4  # characters of a text that is not on a screen by chance


class Question(NamedTuple):
    """The properties that distinguish one question on a screen from another."""

    rule: str
    head: str  # the text above the choices
    labels: tuple[str, ...]  # without the choice that lets a person write an answer


def menu_of(facts: Facts) -> Menu:
    """The choices on a tool's screen."""
    shown = read_screen(facts)
    return shown.menu if shown else Menu()


def own_option(facts: Facts) -> int | None:
    """The option that lets a person write an answer, counted from 1; None without one."""
    pattern = keys_of(facts.tool).own_answer
    labels = enumerate(menu_of(facts).labels, 1)
    return next((number for number, label in labels if pattern and re.match(pattern, label)), None)


def takes_line(facts: Facts) -> bool:
    """True if a tool takes a line as an answer: a user's own tool without anything to mark on its screen."""
    rules = rules_of(facts)
    return rules is not None and rules.layout is None and not menu_of(facts).is_marked


def question_on_screen(facts: Facts, decision: Decision, own: int | None = None) -> Question | None:
    """The question that a tool's screen shows; None if it shows none, or the tool waits for no answer.

    `own` is the option that takes a text of one's own: its label is what was written.
    """
    shown = read_screen(facts)
    if decision.agent.state != "waiting" or shown is None or shown.rule.state != "waiting":
        return None
    first = shown.menu.first
    head = [shown.text] if first is None else screen_of(facts).dialog[:first]
    labels = [label for number, label in enumerate(shown.menu.labels, 1) if number != own]
    return Question(shown.rule.name, plain("".join(head)), tuple(map(plain, labels)))


def plain(text: str) -> str:
    """A text without blanks and ticks."""
    return squeeze(TICKS.sub("", text))


def texts_of(facts: Facts, decision: Decision) -> set[str]:
    """The texts by which people may know the question on a screen: the hook's, or what a look saw of the screen."""
    part = replace(facts, lines=facts.lines[-LINES:])
    shown = [read_screen(seen) for seen in (facts, part)]
    return {decision.agent.text, decide(part).agent.text, *(one.text for one in shown if one)}


def wait_for_question(terminal: Terminal, *, was_told: bool) -> None:
    """Wait until a question is on the screen. Raises ClincusError(409) if none comes.

    A hook may tell of a question before the tool has drawn it. `was_told`: people know of a question by the last look.
    """
    begin = time.monotonic()
    while question_on_screen(terminal.facts, terminal.decision) is None:
        within = REDRAWN_WITHIN if was_told else 0.0
        if terminal.facts.said.state == "waiting":
            within = QUESTION_WITHIN
        if time.monotonic() >= begin + within:
            raise clincus.ClincusError(
                "no question is open now: it was answered, or the tool went on; look at the session", "question_closed"
            )
        time.sleep(PAUSE)
        terminal.look()


class Answer:
    """One answer to the question that is on the screen."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._own = own_option(terminal.facts)
        self._question = question_on_screen(terminal.facts, terminal.decision, self._own)
        self._said = terminal.facts.said

    def choose(self, option: int) -> bool:
        """Choose an option, counted from 1. True if it is proven that the tool took it. Raises ClincusError(409).

        A tool may ignore a key that comes right after it has drawn the question (seen with Claude Code 2.1.332). It is
        pressed again only if the screen is the same as before it, and the tool has followed another key meanwhile.
        """
        terminal = self._terminal
        menu = menu_of(terminal.facts)
        is_list = menu.is_numbered or not menu.labels  # a screen that is too small shows none, or not all
        count = max(len(menu.labels), len(terminal.decision.agent.options) if is_list else 0)
        if not count and takes_line(terminal.facts):
            raise clincus.ClincusError('this question has no options: give the answer as "text"', 409)
        if not count:
            raise clincus.ClincusError(UNREAD, 409)
        if option > count:
            raise clincus.ClincusError(f"the question has only {count} options: give the number of one", 409)
        if option == self._own:
            raise clincus.ClincusError('this option takes a text: give it as "text" instead of the option', 409)
        if takes_line(terminal.facts):
            return self._send_line(str(option), is_key=option < 10)
        by_number = keys_of(terminal.facts.tool).numbers and is_list and option < 10
        for number in range(TRIES):
            if not by_number and not self._mark(option):
                return False
            before = screen_of(terminal.facts).dialog
            key, is_right = (str(option), self._is_open) if by_number else ("Enter", lambda: self._is_marked(option))
            if not terminal.press_while([key], is_right):
                return self._is_answered(is_first=number == 0)
            if terminal.becomes(self._is_proven, IGNORED_AFTER):
                return True
            if screen_of(terminal.facts).dialog != before or not self._follows():
                return terminal.becomes(self._is_proven, ANSWERED_WITHIN - IGNORED_AFTER)
        return False

    def write(self, text: str) -> bool:
        """Answer by a text. True if it is proven that the tool took it. Raises ClincusError: 400, 409."""
        terminal = self._terminal
        own = self._own
        if takes_line(terminal.facts):
            line = clean_prompt(text).strip()
            if "\n" in line:
                raise clincus.ClincusError("this question takes one line: leave out the line breaks", 400)
            return self._send_line(line)
        if own is None and not (menu_of(terminal.facts).labels or terminal.decision.agent.options):
            raise clincus.ClincusError(UNREAD, 409)
        if own is None:
            raise clincus.ClincusError("this question takes no text of your own: give the number of an option", 409)
        text = clean_prompt(text)

        def stands() -> bool:
            labels = menu_of(terminal.facts).labels
            return self._is_marked(own) and len(labels) >= own and holds(labels[own - 1], text)

        if not self._mark(own):
            return False
        terminal.paste(text)
        if not terminal.becomes(stands, SHOWN_WITHIN):
            return False
        if not terminal.press_while(["Enter"], stands):
            return self._is_answered(is_first=True)
        return terminal.becomes(self._is_proven, ANSWERED_WITHIN)

    def _send_line(self, line: str, *, is_key: bool = False) -> bool:
        """Type a line into a tool of the user's own, and press Enter once it shows; whether the tool goes on then.

        Nobody knows where the input of such a tool is, so the screen has to be the earlier one with the line in it. A
        tool may also take a single key without Enter.
        """
        terminal = self._terminal
        terminal.look()
        if not self._is_open():
            return self._is_answered(is_first=True)
        before = self._signs()
        text = squeeze(line)

        def stands() -> bool:
            now = self._signs()
            is_more = self._is_open() and len(text) >= TELLING_LENGTH and now.count(text) > before.count(text)
            return is_more or is_inserted(before, now, text)

        if is_key:
            terminal.press(line)
        else:
            terminal.paste(line)
        if not terminal.becomes(stands, IGNORED_AFTER if is_key else SHOWN_WITHIN):
            return is_key and self._is_proven()
        stood = self._signs()
        asked = self._question, question_on_screen(terminal.facts, terminal.decision, self._own)
        if not terminal.press_while(["Enter"], stands):
            return False

        def goes_on() -> bool:
            now = self._signs()
            tail = stood[-TAIL:]
            is_followed = tail in now and not now.endswith(tail)  # the same question may come once more
            shown = question_on_screen(terminal.facts, terminal.decision, self._own)
            is_open = shown is not None and shown in asked
            return now != stood and (is_followed or not is_open)

        return terminal.becomes(goes_on, ANSWERED_WITHIN)

    def _signs(self) -> str:
        """The screen without blanks and placeholders."""
        return squeeze(without_placeholders(self._terminal.screen))

    def _is_answered(self, *, is_first: bool) -> bool:
        """True if an earlier key has answered a question that has changed since. Raises ClincusError(409)."""
        if is_first:
            raise clincus.ClincusError(
                "the question changed before the answer was typed, so no key was pressed: read it again",
                "question_closed",
            )
        return self._terminal.becomes(self._is_proven, ANSWERED_WITHIN)

    def _is_proven(self) -> bool:
        """True if the tool's hook reports that it continues, or the question has left the screen.

        A report that it waits proves nothing: it may be the request of another sub-agent.
        """
        said = self._terminal.facts.said
        is_told = self._said.state == "waiting" and said.state != "waiting"
        if is_told or self._is_open():
            return is_told
        time.sleep(PAUSE)  # a tool may draw the same question again: it is gone if two looks in a row do not show it
        self._terminal.look()
        return not self._is_open()

    def _is_open(self) -> bool:
        return self._question == question_on_screen(self._terminal.facts, self._terminal.decision, self._own)

    def _is_marked(self, option: int) -> bool:
        """True if a sign on the screen shows that Enter would take an option."""
        menu = menu_of(self._terminal.facts)
        return self._is_open() and (menu.chosen == option - 1 or not menu.is_marked)

    def _mark(self, option: int) -> bool:
        """Move the mark to an option, one key after the other. True if the screen shows it there."""
        menu = menu_of(self._terminal.facts)
        if not menu.is_marked:
            return all(self._moves(key) for key in menu.steps_to(option - 1)[:-1])
        ignored = 0
        for _ in range(STEPS):
            keys = menu_of(self._terminal.facts).steps_to(option - 1)[:-1]
            if not keys or ignored == TRIES or not self._is_open():
                break
            ignored = 0 if self._moves(keys[0]) else ignored + 1
        return self._is_marked(option)

    def _moves(self, key: str) -> bool:
        """Press a key that moves the mark. True if the screen shows that: by the sign, or by any change without one."""
        terminal = self._terminal
        before = menu_of(self._terminal.facts)
        screen = self._terminal.screen
        if not terminal.press_while([key], self._is_open):
            return False

        def has_moved() -> bool:
            return menu_of(terminal.facts).chosen != before.chosen if before.is_marked else terminal.screen != screen

        return terminal.becomes(has_moved, IGNORED_AFTER) and self._is_open()

    def _follows(self) -> bool:
        """True if the tool moves the mark when it gets keys for that, which answer nothing."""
        menu = menu_of(self._terminal.facts)
        if not menu.is_marked or len(menu.labels) < 2:
            return False
        return self._moves(menu.keys[menu.chosen < len(menu.labels) - 1])
