"""Works on several sessions at the same time; the output reads as if they came one after the other."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

import clincus
from clincus_cli import console

AT_ONCE = 4  # sessions: a container that hangs keeps its place for minutes, and the others take turns in the rest
INTERRUPTED = "interrupted"
NOTICE = 0.5  # seconds: Python notices a signal that came just before a wait only at its end
UNDO_WITHIN = 5.0  # seconds for running work to end after an interruption


def attempt_beside(sessions: clincus.Sessions, names: Iterable[str], work: Callable[[str], object]) -> list[str]:
    """Work on each session, and return the names of the successes; each failure becomes a warning.

    The output of the first unfinished session is shown at once, and that of the others in their turn. An interruption
    ends the commands that they wait for, and no further work begins.
    """
    attempts = Attempts(list(names), work)
    threads = [threading.Thread(target=attempts.work_on, daemon=True) for _ in attempts.names[:AT_ONCE]]
    try:
        for thread in threads:
            thread.start()
        attempts.said.show()
    except BaseException:
        attempts.waiting.clear()
        give_up(sessions, attempts.names)
        end = time.monotonic() + UNDO_WITHIN
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        raise
    if attempts.faults:
        raise attempts.faults[0]
    return [name for number, name in enumerate(attempts.names) if number not in attempts.failed]


class Attempts:
    """The work on several sessions, which some threads share."""

    def __init__(self, names: list[str], work: Callable[[str], object]) -> None:
        self.names = names
        self._work = work
        self.waiting = deque(range(len(names)))  # the numbers of sessions that no thread has begun
        self.said = Said(len(names))
        self.failed: set[int] = set()
        self.faults: list[BaseException] = []  # exceptions that are not a failure of one session

    def work_on(self) -> None:
        """Work on sessions, one after the other, until none is left."""
        while True:
            try:
                number = self.waiting.popleft()
            except IndexError:
                return
            contextvars.copy_context().run(self._attempt, number)

    def _attempt(self, number: int) -> None:
        console.SPEAKER.set(lambda line, is_error: self.said.put(number, line, is_error=is_error))
        try:
            self._work(self.names[number])
        except (clincus.ClincusError, OSError) as error:
            self.failed.add(number)
            console.warn(f"{self.names[number]}: {error}")
        except BaseException as error:
            self.failed.add(number)
            self.faults.append(error)
        finally:
            self.said.end(number)


class Said:
    """The output of several pieces of work, shown in the order of their numbers, whichever ends first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._news: queue.SimpleQueue[tuple[int, str | None, bool]] = queue.SimpleQueue()  # None: the work is over

    def put(self, number: int, line: str, *, is_error: bool) -> None:
        """Add a line of a piece of work."""
        self._news.put((number, line, is_error))

    def end(self, number: int) -> None:
        """Note that a piece of work is over."""
        self._news.put((number, None, False))

    def show(self) -> None:
        """Show everything; returns when all work is over."""
        held = [deque[tuple[str | None, bool]]() for _ in range(self._count)]
        for lines in held:
            is_over = False
            while not is_over:
                while not lines:
                    with suppress(queue.Empty):
                        number, line, is_error = self._news.get(timeout=NOTICE)
                        held[number].append((line, is_error))
                line, is_error = lines.popleft()
                if line is None:
                    is_over = True
                else:
                    console.show_line(line, is_error=is_error)


def give_up(sessions: clincus.Sessions, names: Iterable[str]) -> None:
    """End the commands of Incus that sessions wait for; their engines accept no further commands."""
    doors = {sessions.door(name) for name in names}
    for door in doors:
        door.lost = INTERRUPTED
    for door in doors:
        for child in tuple(door.waiting):
            child.end(INTERRUPTED, 503)
