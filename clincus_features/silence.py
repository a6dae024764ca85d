"""Limits the wait for an Incus that hangs, and the wait of a stopping Incus for open terminals.

A daemon that hangs accepts connections but does not answer, so each request to it waits. While somebody waits, an easy
request detects that. Then all waiting callers get an error, and no command begins until the daemon answers again. An
open page counts as waiting: it shows the last known state. A daemon that answers other requests meanwhile does not
hang: it is busy, for example because containers load its machine.

A stopping daemon refuses new requests, and waits up to 5 minutes (core.shutdown_timeout) for commands in containers,
such as each open terminal. The same request detects that, when a page is open or somebody's work has failed. The
terminals are closed then, and a page opens its terminals again when the daemon is back.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterable

import clincus

LEAVING = "Incus is shutting down."
PERIOD = 2.0  # seconds between two looks at who waits
SLEEP = 600.0  # seconds between two looks while nobody begins to wait
WATCHED = 3.0  # the same while a page is open
ASKED = 30.0  # seconds between two questions while a page is open: a daemon that goes answers most of them as before
SHORT = 0.5  # seconds for which a command does not count as waiting: most take less
PATIENCE = 5.0  # seconds for the easy question; with PERIOD and SHORT, well below the 10 s that anybody waits


def install(extensions: clincus.Extensions) -> None:
    """Add the looks."""
    looks = Looks(extensions.app)
    extensions.duties.append(clincus.Duty("looking who waits", PERIOD, looks.look, each_engine=True))
    extensions.wrappers.append(functools.partial(wake_for_page, extensions.app))
    extensions.wrappers.append(looks.explain)


def wake_for_page(
    app: clincus.Application, _method: str, path: str, handler: Callable[[clincus.Request], object]
) -> Callable[[clincus.Request], object]:
    """Wrap the handler of a route.

    The handler of the events, which each page follows, also ends the long pause between looks.
    """

    def follow(request: clincus.Request) -> object:
        try:
            return handler(request)
        finally:
            app.engines[""].incus.has_begun.set()

    return follow if path == "/ws/events" else handler


class Looks:
    """Finds engines that somebody waits for, and asks those of which it is not clear that they answer."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._asked_at = time.monotonic()  # of the last question to this host's Incus

    def look(self, name: str) -> None:
        """If commands wait for an engine that does not answer, count it as lost, and end these commands.

        While a page is open, this asks this host's Incus: soon if nothing else did, and now and then in any case. The
        monitor of an engine elsewhere asks often enough.
        """
        engine = self._app.engines[name]
        door = engine.incus
        is_watched = bool(self._app.hub.subscribers) and not name
        pause = WATCHED if is_watched else SLEEP
        is_quiet = not door.waiting and not door.has_begun.wait(pause)
        door.has_begun.clear()
        now = time.monotonic()
        is_overdue = now - self._asked_at > ASKED
        is_due = is_watched and (is_quiet or is_overdue)
        waits_long = any(command.began < now - SHORT for command in tuple(door.waiting))
        if not engine.reach.error and (is_due or waits_long):
            self._ask(engine)
        lost = door.lost
        if lost and lost != LEAVING:
            give_up(door.waiting, lost)

    def explain(
        self, _method: str, _path: str, handler: Callable[[clincus.Request], object]
    ) -> Callable[[clincus.Request], object]:
        """Wrap the handler of a route. If it fails because Incus is stopping, the error says so."""

        def handle(request: clincus.Request) -> object:
            try:
                return handler(request)
            except clincus.ClincusError as error:
                engine = clincus.engine_of(request.values.get("id") or "") or request.values.get("engine")
                if error.status != 500 or engine or not self._is_leaving():
                    raise
                raise clincus.ClincusError(LEAVING, "incus_unreachable") from error

        return handle

    def _is_leaving(self) -> bool:
        """True if this host's Incus is stopping, by a new question."""
        engine = self._app.engines[""]
        if not engine.reach.error:
            self._ask(engine)
        return engine.reach.error == LEAVING

    def _ask(self, engine: clincus.Engine) -> None:
        """Ask an engine, and count it as lost if it hangs or stops.

        An engine that has answered another command meanwhile may hang since then, so it is asked once more at once.
        """
        for _ in range(2):
            began = time.monotonic()
            refusal = ask(engine.incus)
            hangs = refusal is clincus.FailureKind.HANGS
            has_answered = engine.incus.signs.since(began)
            if not (hangs and has_answered):
                break
        if not engine.name:
            self._asked_at = time.monotonic()
        if hangs and not has_answered:
            engine.lose()
        elif refusal is clincus.FailureKind.LEAVING:
            engine.lose(LEAVING)
            for session in self._app.registry.all():
                if session.engine == engine.name:
                    self._app.sockets.close_session(session.id, clincus.CloseCode.TRY_AGAIN_LATER, LEAVING)


def ask(door: clincus.Incus) -> clincus.FailureKind | None:
    """Ask an engine an easy question; the kind of its refusal, None if it answers.

    This host's Incus gets the question of `incusd waitready`. It answers most others even while it stops.
    """
    try:
        door.fresh_door().query("/1.0" if door.remote else "/internal/ready", timeout=PATIENCE)
    except clincus.IncusError as error:
        return error.kind
    return None


def give_up(waiting: Iterable[clincus.IncusChild], reason: str) -> None:
    """End commands that wait for Incus: they raise IncusError with the reason."""
    for child in tuple(waiting):
        if not child.failure:
            child.failure = reason
            child.status = 503
        child.signal(signal.SIGKILL)
