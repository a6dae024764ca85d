"""A tool that is typed at, and a clock, for tests of what is typed: no container, and no waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from clincus_features.agents import answers, drafts, prompts, terminal
from clincus_features.agents.reading import Known
from clincus_features.agents.rules import own_rules
from clincus_features.agents.state import Event, Facts, Said, decide, listen
from clincus_features.agents.texts import clean_lines

RULE = "─" * 20
HINTS = {
    "claude": "Enter to select · ↑/↓ to navigate · Esc to cancel",
    "copilot": "↑↓ to navigate · enter to select · esc to cancel",
}
STARTED = 1_800_000_000.0


class Clock:
    """Stands in for the module `time`: who sleeps moves it."""

    def __init__(self) -> None:
        self.now = STARTED

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def use_clock(monkeypatch) -> Clock:
    """Let all that types go by a clock of its own."""
    clock = Clock()
    for module in (answers, prompts, terminal):
        monkeypatch.setattr(module, "time", clock)
    assert clock.now != time.time()
    return clock


class Tool(terminal.Terminal):
    """The terminal of a tool like Claude Code, which has an input, and a dialog in its place while one is open."""

    def __init__(self, clock: Clock, *, tool: str = "claude", hooks: bool = True) -> None:
        self._clock, self._hooks = clock, hooks
        self.tool = tool
        self.text = ""  # in the input
        self.labels: list[str] = []  # of the dialog
        self.question = ""
        self.chosen = 0
        self.ticks = False  # the dialog has boxes to tick
        self.sign = "❯"  # of the choice that Enter takes
        self.own = ""  # the answer in words
        self.ignores = 0  # so many of the next keys and pastes are ignored
        self.draws_after = 0.0  # seconds from an event to its screen
        self.clears_after = 0.0  # seconds from an Enter to the screen without what was sent
        self.before_key: Callable[[], None] = lambda: None  # what happens between a look and the key that follows it
        self.pressed: list[str] = []
        self.taken: list[str] = []  # prompts and answers
        self._events: list[Event] = []
        self._drawn_at = 0.0
        self._cleared_at = 0.0
        self.told, self.is_rotated = [], False
        self.known = Known(Facts(tool=tool, now=clock.now, started=clock.now - 3600, looked=True))
        self.screen, self.draft = "", None
        self.look()

    # ---- what the tool does

    def asks(self, question: str, *labels: str, own: bool = False, ticks: bool = False) -> None:
        """Open a dialog; its hook tells at once, and the screen after a while."""
        self.question, self.chosen, self.ticks, self.own = question, 0, ticks, ""
        self.labels = [*labels, *(["Type something."] if own else [])]
        self._drawn_at = self._clock.now + self.draws_after
        options = [{"label": label} for label in labels]
        data = {
            "tool_name": "AskUserQuestion",
            "tool_input": {"questions": [{"question": question, "options": options}]},
        }
        self._tell("PermissionRequest", data)

    def _tell(self, name: str, data: dict[str, object]) -> None:
        if self._hooks:
            self._events.append(Event(self._clock.now, name, data))

    def _answered(self, answer: str) -> None:
        self.taken.append(answer)
        self.labels = []
        self._tell("PostToolUse", {"tool_name": "AskUserQuestion"})

    def on_key(self, key: str) -> None:
        if not self.labels or self._clock.now < self._drawn_at:
            self._key_in_the_input(key)
        elif key.isdigit():
            self.chosen = int(key) - 1
            label = self.labels[self.chosen].removeprefix("[ ] ")
            if self.ticks:
                self.labels[self.chosen] = f"[✔] {label}"
            elif label != "Type something.":
                self._answered(label)
        elif key in ("Up", "Down"):
            self.chosen = (self.chosen + (1 if key == "Down" else -1)) % len(self.labels)
        elif key == "Enter":
            self._answered(self.own or self.labels[self.chosen])

    def _key_in_the_input(self, key: str) -> None:
        if key == "Enter" and self.text:
            self.taken.append(self.text)
            self._tell("UserPromptSubmit", {"prompt": self.text})
            self.text = ""
            self._cleared_at = self._clock.now + self.clears_after
        elif key == "C-u":
            head, line_break, _ = self.text.rpartition("\n")
            self.text = head + line_break
        elif key == "BSpace":
            self.text = self.text[:-1]
        elif len(key) == 1:
            self.text += key

    def rows(self) -> list[str]:
        if not self.labels or self._clock.now < self._drawn_at:
            shown = self.taken[-1] if self._clock.now < self._cleared_at else self.text
            first, *rest = shown.split("\n")
            return [
                "● hello",
                RULE,
                f"❯\xa0{first}",
                *(f"  {line}" for line in rest),
                RULE,
                "  ⏵⏵ bypass permissions on",
            ]
        shown = [self.own or label if label == "Type something." else label for label in self.labels]
        marks = [self.sign if number == self.chosen else " " for number in range(len(shown))]
        rows = [f"{mark} {number}. {label}" for number, (mark, label) in enumerate(zip(marks, shown), 1)]
        return ["● hello", RULE, self.question, *rows, HINTS[self.tool]]

    # ---- the terminal

    def look(self) -> None:
        """What guest/type.sh would print."""
        self.screen = "\n".join(self.rows())
        lines = clean_lines(drafts.plain(self.screen))
        self._hear_events()
        facts = replace(self.known.facts, lines=lines, has_screen=True, now=self._clock.now)
        self.known, self.decision = replace(self.known, facts=facts), decide(facts)
        rules = terminal.rules_of(facts)
        self.draft = drafts.draft_of(self.tool, rules.layout if rules else None, self.screen)

    def _hear_events(self) -> None:
        said: Said = self.known.facts.said
        for event in self._events:
            said = listen(self.tool, said, event)
        self.told += self._events
        self._events = []
        self.known = replace(self.known, facts=replace(self.known.facts, said=said))

    def press(self, keys: Sequence[str]) -> None:
        self.pressed += keys
        for key in keys:
            if self.ignores:
                self.ignores -= 1
            else:
                self.on_key(key)

    def press_if_same(self, keys: Sequence[str]) -> bool:
        """What guest/type.sh does for `same`."""
        self.before_key()
        if self.screen != "\n".join(self.rows()) or self._events:
            return False
        self.press(keys)
        return True

    def paste(self, text: str) -> None:
        if self.ignores:
            self.ignores -= 1
        elif self.labels and self._clock.now >= self._drawn_at:
            self.own = text if self.labels[self.chosen] == "Type something." else self.own
        else:
            self.text += text


class Asker(Tool):
    """The terminal of a program of the user's own, which asks, and reads lines; its rule is for the last four lines."""

    def __init__(self, clock: Clock, pattern: str, *questions: str) -> None:
        self.printed = ["hello"]
        self.questions = [*questions]
        self.line = ""  # behind the question
        self.echoes = True
        self.reads = True
        self.takes_keys = False  # without Enter
        super().__init__(clock, tool="mine", hooks=False)
        rules = own_rules([{"state": "waiting", "reason": "question", "pattern": pattern, "last": 4}])
        self.known = replace(self.known, facts=replace(self.known.facts, rules=rules))
        self.look()

    def rows(self) -> list[str]:
        asked = self.questions[0] + (self.line if self.echoes else "") if self.questions else "Thank you."
        return [*self.printed, *asked.split("\n")]

    def on_key(self, key: str) -> None:
        if key != "Enter":
            self.line += key
        if self.reads and self.questions and (key == "Enter" or self.takes_keys):
            self.printed = self.rows() + (["Well."] * 4)
            self.taken.append(self.line)
            self.questions.pop(0)
            self.line = ""

    def paste(self, text: str) -> None:
        self.line += text
