"""Nobody waits long for an Incus that hangs.

A daemon that hangs accepts connections and answers none, so each question to it waits. While somebody waits, an
easy question finds that out; then all who wait are told, and no more commands begin until it answers again.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Iterable

import clincus

PERIOD = 2.0  # seconds between two looks at who waits
SLEEP = 600.0  # seconds between two looks while nobody begins to wait
SHORT = 0.5  # seconds for which nobody is said to wait: most commands take less
PATIENCE = (
    5.0  # seconds for the easy question: with the other two, well below the 10 s in which everybody has an answer
)


def install(extensions: clincus.Extensions) -> None:
    """Add the looks."""
    look = functools.partial(look_who_waits, extensions.app)
    extensions.duties.append(clincus.Duty("looking who waits", PERIOD, look, each_engine=True))


def look_who_waits(app: clincus.Application, engine: str) -> None:
    """If somebody waits for an engine that answers nobody, take it for lost, and end the commands that wait for it."""
    monitor, door = app.monitors[engine], app.sessions.door(f"{engine}:")
    if not door.waiting:
        door.has_begun.wait(SLEEP)
    door.has_begun.clear()
    begun_before = time.monotonic() - SHORT
    if not monitor.error and any(one.began < begun_before for one in tuple(door.waiting)) and not answers(door):
        monitor.lose()
    if monitor.error and door.lost:
        give_up(door.waiting, monitor.error)


def answers(door: clincus.Incus) -> bool:
    """Whether an engine answers an easy question, be it with a refusal."""
    try:
        door.anew().query("/1.0", timeout=PATIENCE)
    except clincus.IncusError as error:
        return "did not finish" not in error.message and "does not answer" not in error.message
    return True


def give_up(waiting: Iterable[clincus.IncusChild], reason: str) -> None:
    """End commands that wait for Incus. Each raises IncusError with the reason."""
    for child in tuple(waiting):
        if not child.failure:
            child.failure, child.status = reason, 503
        child.signal(signal.SIGKILL)
