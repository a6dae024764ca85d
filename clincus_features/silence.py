"""Nobody waits long for an Incus that hangs.

A daemon that hangs accepts connections and answers none, so each question to it waits. While somebody waits, an
easy question finds that out; then all who wait are told, and no more commands begin until it answers again. An open
page waits, too: it shows what Incus has told last.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterable

import clincus

PERIOD = 2.0  # seconds between two looks at who waits
SLEEP = 600.0  # seconds between two looks while nobody begins to wait
WATCHED = 3.0  # the same while a page is open
SHORT = 0.5  # seconds for which nobody is said to wait: most commands take less
PATIENCE = 5.0  # seconds for the easy question; with PERIOD and SHORT, well below the 10 s that anybody waits


def install(extensions: clincus.Extensions) -> None:
    """Add the looks."""
    look = functools.partial(look_who_waits, extensions.app)
    extensions.duties.append(clincus.Duty("looking who waits", PERIOD, look, each_engine=True))
    extensions.wrappers.append(functools.partial(wake_for_page, extensions.app))


def wake_for_page(
    app: clincus.Application, _method: str, path: str, handler: Callable[[clincus.Request], object]
) -> Callable[[clincus.Request], object]:
    """The handler of a route; that of the events, which each page follows, also ends the long sleep of the looks."""

    def follow(request: clincus.Request) -> object:
        try:
            return handler(request)
        finally:
            app.sessions.door(":").has_begun.set()

    return follow if path == "/ws/events" else handler


def look_who_waits(app: clincus.Application, engine: str) -> None:
    """If somebody waits for an engine that answers nobody, take it for lost, and end the commands that wait for it.

    While a page is open and nothing has been asked of this host's Incus, the question is asked for the page. An engine
    elsewhere is looked at often enough by its monitor.
    """
    monitor, door = app.monitors[engine], app.sessions.door(f"{engine}:")
    is_watched = bool(app.hub.subscribers) and not engine
    is_quiet = not door.waiting and not door.has_begun.wait(WATCHED if is_watched else SLEEP)
    door.has_begun.clear()
    begun_before = time.monotonic() - SHORT
    is_unknown = (is_quiet and is_watched) or any(one.began < begun_before for one in tuple(door.waiting))
    if not monitor.error and is_unknown and not answers(door):
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
