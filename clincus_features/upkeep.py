"""The work of the server for sessions in the background.

It saves the conversations of those that run, stops those whose time is over, and deletes ephemeral ones that stopped
long ago.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import clincus

SAVE_AFTER_RING = 15.0  # seconds between two saves of a running session, if its bell rang
SAVE_EVERY = 180.0  # seconds, if it did not

clincus.register_settings(clincus.Setting("sessions.ephemeral_grace", "24h", clincus.check_duration))


def install(extensions: clincus.Extensions) -> None:
    """Add the duties. Nothing is ended while Incus cannot be asked."""
    app = extensions.app
    saves = Saves()

    def stop(engine: str) -> None:
        if not app.monitors[engine].error:
            stop_expired(app.sessions, datetime.now(timezone.utc), engine)
            remove_half_made(app.sessions, engine)

    def delete(engine: str) -> None:
        if not app.monitors[engine].error:
            grace = timedelta(seconds=clincus.parse_duration(app.config.get("sessions.ephemeral_grace")))
            ended = {run.session_id: run.ended_at or "" for run in reversed(app.history.runs())}
            delete_abandoned(app.sessions, datetime.now(timezone.utc) - grace, ended, engine)

    extensions.duties += [
        clincus.Duty(
            "saving conversations", 5.0, lambda engine: saves.save_due(app.sessions, engine), each_engine=True
        ),
        clincus.Duty("deadlines", 2.0, stop, each_engine=True),
        clincus.Duty("tidying up", 600.0, delete, each_engine=True),
    ]


class Saves:
    """Saves the conversations of running sessions soon after a turn (a ring) and every few minutes.

    A container that is lost from outside loses no more than what was said since.
    """

    def __init__(self) -> None:
        # Engine -> id -> ring and monotonic time of the last save of this run.
        self._last: dict[str, dict[str, tuple[str, float]]] = {}

    def save_due(self, sessions: clincus.Sessions, engine: str = "") -> None:
        """Save what is due on an engine. A session that is being worked on waits for the next time."""
        at, known = time.monotonic(), self._last.get(engine, {})
        running = [session for session in reachable(sessions, engine) if session.status == "running"]
        last = self._last[engine] = {session.id: known.get(session.id, ("", at)) for session in running}
        for session in running:
            rang_at, saved = last[session.id]
            is_due = at - saved > (SAVE_AFTER_RING if session.rang_at != rang_at else SAVE_EVERY)
            with contextlib.suppress(clincus.ClincusError):  # it is gone by now
                if is_due and sessions.save(session.id, wait=False) is not None:
                    last[session.id] = (session.rang_at, at)


def reachable(sessions: clincus.Sessions, engine: str) -> list[clincus.Session]:
    """The sessions on an engine that can be worked with now."""
    return [one for one in sessions.registry.all() if one.engine == engine and not one.unreachable_since]


def remove_half_made(sessions: clincus.Sessions, engine: str) -> None:
    """Remove the containers of starts that failed because their engine was gone, now that it is back."""
    for id, session in list(sessions.half_made.items()):
        if session.engine == engine:
            found = sessions.look(id)
            if found and (found.session_id, found.created_at) == (session.session_id, session.created_at):
                sessions.containers(id).delete(id)
                sessions.look(id)
            sessions.half_made.pop(id)


def stop_expired(sessions: clincus.Sessions, at: datetime, engine: str = "") -> None:
    """Stop the sessions of an engine that have run past their deadline at a time."""

    def is_due(session: clincus.Session) -> bool:
        deadline, started = clincus.parse_time(session.deadline), clincus.parse_time(session.started_at)
        # A deadline from before the start belongs to an earlier run.
        return session.status == "running" and bool(deadline and started and started < deadline <= at)

    end_each(sessions, engine, is_due, "its time is over, stopping it")


def delete_abandoned(
    sessions: clincus.Sessions, stopped_before: datetime, ended: dict[str, str], engine: str = ""
) -> None:
    """Delete the ephemeral sessions of an engine that stopped before a time.

    `ended` has the end of each session's last run.
    A session stays if its conversation cannot be saved, or if it works on a clone, which may hold what nobody has
    fetched: a person decides on that. It also stays if it was not started from this home: it may
    belong to another user of this Incus, who would not find the conversation.
    """

    def is_due(session: clincus.Session) -> bool:
        if session.status != "stopped" or session.persistent or session.paused or session.mode == "clone":
            return False
        end = clincus.parse_time(ended.get(session.session_id))
        is_old = end is not None and end < stopped_before
        return is_old and clincus.read_metadata(sessions.saved_directory(session), session.tool) is not None

    end_each(sessions, engine, is_due, "ephemeral and long stopped, deleting it", delete=True)


def end_each(
    sessions: clincus.Sessions,
    engine: str,
    is_due: Callable[[clincus.Session], bool],
    words: str,
    *,
    delete: bool = False,
) -> None:
    """End every session that is due, if it still is when its turn comes. A failure is logged; the others go on."""
    for id in [session.id for session in reachable(sessions, engine) if is_due(session)]:
        try:
            with sessions.lock(id):
                if is_due(sessions.registry.get(id)):
                    clincus.log.warning("%s: %s", id, words)
                    sessions.end(id, delete=delete)
        except clincus.ClincusError as error:
            clincus.log.warning("%s: %s", id, error)
