"""A session's terminal: one command in the container lets the server look at it and type into it, in turns.

The command runs guest/look.sh, which prints all facts, and then guest/type.sh, which takes orders on stdin.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader

import clincus
from clincus_features.agents import keys as typed
from clincus_features.agents.drafts import SCREEN_LINES, draft_of, holds, plain
from clincus_features.agents.reading import CLOCK, Known, facts_before_look, look_arguments, parse_look, with_events
from clincus_features.agents.state import Decision, Event, Facts, Past, decide, rules_of
from clincus_features.agents.texts import clean, clean_lines

PASTED_WITHIN = 2.0  # seconds that a paste may take to show
PAUSE = 0.1  # seconds between two looks at a terminal that is expected to change
OUTPUT_LIMIT = 1 << 20  # bytes that a look prints at most
SAME_TRIES = 20  # looks at a screen that changes, before a key is pressed at it


class Terminal:
    """A session's terminal, as of the last look."""

    def __init__(self, stdin: clincus.GuestInput, stdout: BufferedReader, mark: str, past: Past) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._mark = f"{mark}\n".encode()
        self._past = past  # the earlier state that counts for this screen
        self.known = Known()  # of the last look and the reports of the tool since
        self.decision: Decision
        self.told: list[Event] = []  # reports of the tool since guest/look.sh ran
        self.is_rotated = False  # guest/hook.sh has begun a new file of events since
        self.screen = ""  # with its colours
        self.draft: str | None = None  # the text in the tool's input; None if it is not shown or cannot be read

    @property
    def facts(self) -> Facts:
        """The facts of the last look."""
        return self.known.facts

    @property
    def has_draft(self) -> bool:
        """True if the text in the input of this tool can be read."""
        rules = rules_of(self.facts)
        return rules is not None and rules.layout is not None

    def stands(self, text: str) -> bool:
        """True if the tool's input holds exactly a text."""
        return self.draft is not None and holds(self.draft, text)

    def begin(self, session: clincus.Session, known: Known) -> None:
        """Read the output of guest/look.sh. Raises ClincusError."""
        seen = self._read(3).removesuffix(self._mark)
        facts = facts_before_look(session, known)
        self.known = parse_look(seen, self._mark.decode().strip(), facts, known, CLOCK.now())
        self.decision = decide(self.known.facts, self._past)

    def look(self) -> None:
        """Look at the screen again, with its colours, and read the tool's new reports. Raises ClincusError."""
        self._say(f"look {self.known.offset}\n".encode())
        shown, events = self._read(2).split(self._mark)[:2]
        inode, row, title, self.screen = [*shown.decode("utf-8", "ignore").split("\n", 3), "", "", ""][:4]
        self.is_rotated |= inode != str(self.known.inode)
        self._hear(events)
        text = plain(self.screen)
        lines = clean_lines(text, SCREEN_LINES)
        below = lines_below(text, row)
        facts = replace(self.facts, lines=lines, has_screen=bool(lines), title=clean(title, 80), below=below)
        self.known = replace(self.known, facts=facts)
        self.decision = decide(facts, self._past)
        rules = rules_of(facts)
        self.draft = draft_of(facts.tool, rules.layout if rules else None, self.screen, below)

    def becomes(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Look until a condition is true for the screen, or the time is over. Returns True if it became true."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE)
            self.look()
        return True

    def press(self, keys: Sequence[str]) -> None:
        """Press keys, by tmux's names for them."""
        self._say(f"keys {' '.join(keys)}\n".encode())

    def press_if_same(self, keys: Sequence[str]) -> bool:
        """Press keys if the screen is still that of the last look; returns True if they were pressed.

        The container compares: on a busy machine a dialog may open between a look here and a key there.
        """
        self._say(f"same {' '.join(keys)}\n".encode())
        return self._read(1).startswith(b"1")

    def press_while(self, keys: Sequence[str], condition: Callable[[], bool]) -> bool:
        """Press keys once a condition holds for the screen; returns True if they were pressed.

        A screen that never stops changing is looked at once more, and taken as it is.
        """
        for _ in range(SAME_TRIES):
            if not condition():
                return False
            if self.press_if_same(keys):
                return True
            self.look()
        if not condition():
            return False
        self.press(keys)
        return True

    def paste(self, text: str) -> None:
        """Paste a text."""
        data = text.encode()
        self._say(f"paste {len(data)}\n".encode() + data)

    def take(self, steps: Iterable[typed.Step]) -> None:
        """Paste the texts and press the keys of some steps.

        After a paste the screen should change: some tools take an Enter that comes with a paste for a line break.
        """
        for step in steps:
            before = self.screen
            if isinstance(step, str):
                self.paste(step)
                self.becomes(lambda before=before: self.screen != before, PASTED_WITHIN)  # type: ignore[misc]
            else:
                self.press(step)

    def has_told(self, event: str, text: str) -> bool:
        """True if the tool has reported that it has taken a prompt."""
        tool = self.facts.tool
        return any(one.name == event and typed.is_proof(tool, one.data, text) for one in self.told)

    def _say(self, data: bytes) -> None:
        self._stdin.allow(clincus.READ_TIMEOUT)
        self._stdin.write(data)

    def _hear(self, events: bytes) -> None:
        self.known, told = with_events(self.known, events, time.time())
        self.told += told

    def _read(self, marks: int) -> bytes:
        """Read up to a number of marks."""
        data = bytearray()
        while data.count(self._mark) < marks:
            piece = self._stdout.read1(1 << 16)
            data += piece
            if not piece or len(data) > OUTPUT_LIMIT:
                old = "it was started by an older Clincus: stop and resume it"
                raise clincus.ClincusError(f"the session's terminal cannot be read ({old})", 409)
        return bytes(data)


def lines_below(screen: str, row: str) -> int | None:
    """The number of lines of a screen below a row (counted from 0), without empty ones; None for no row."""
    if not re.fullmatch(r"\d{1,4}", row):
        return None
    return len(clean_lines("\n".join(screen.split("\n")[int(row) + 1 :]), SCREEN_LINES))


@contextmanager
def open_terminal(sessions: clincus.Sessions, session: clincus.Session, known: Known, past: Past) -> Iterator[Terminal]:
    """Look at a running session's terminal, and hold it ready to be typed into. Raises ClincusError."""
    mark = os.urandom(8).hex()
    words = look_arguments(session, mark, known)
    with sessions.open(session, "look type", *words, timeout=clincus.READ_TIMEOUT) as (stdin, stdout):
        terminal = Terminal(stdin, stdout, mark, Past(stopped=past.stopped, left=past.left))
        terminal.begin(session, known)
        yield terminal
