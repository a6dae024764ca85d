"""The server's background work for sessions.

It saves the conversations of running sessions, stops sessions whose time is over, and deletes ephemeral ones that
stopped long ago.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import clincus

SAVE_AFTER_RING = 15.0  # seconds between two saves of a running session, if its bell rang
SAVE_EVERY = 180.0  # seconds between them without a bell
SAVE_RARELY = 600.0  # seconds between them after many saves that found nothing new
SAVE_ASLEEP = 3600.0  # seconds between them for a container that sleeps
SAVES_AT_ONCE = 4  # saves of an engine
SAVE_HANGS = 15.0  # seconds after which nothing waits for a save any more
SAVE_COST = 0.1  # seconds of CPU that a save may take in a container
ENDS_AT_ONCE = 4  # ends of an engine
END_HANGS = 15.0  # seconds after which nothing waits for the end of a session any more
LOOK_EVERY = 60.0  # seconds between two looks at deadlines: a person may set the clock
REST = 600.0  # seconds between two looks while no work is known to come

clincus.register_settings(clincus.Setting("sessions.ephemeral_grace", "24h", clincus.check_duration))


def install(extensions: clincus.Extensions) -> None:
    """Add the duties. No session ends while Incus cannot be reached."""
    app = extensions.app
    saves = Saves()
    ends = Ends()
    before_stop = Alarm()
    before_save = Alarm()
    extensions.listeners += [before_stop.hear, before_save.hear]

    def save(engine: str) -> None:
        before_save.wait(engine, saves.due(app.sessions, engine) - time.monotonic())
        saves.save_due(app.sessions, engine, app.extensions.known_to_sleep)

    def stop(engine: str) -> None:
        before_stop.wait(engine, seconds_until_stop(app.sessions, datetime.now(timezone.utc), engine))
        if not app.engines[engine].reach.error:
            stop_expired(app.sessions, datetime.now(timezone.utc), engine, ends)
            remove_half_made(app.sessions, engine)

    def delete(engine: str) -> None:
        if not app.engines[engine].reach.error:
            grace = timedelta(seconds=clincus.parse_duration(app.config.get("sessions.ephemeral_grace")))
            ended = {run.session_id: run.ended_at or "" for run in reversed(app.history.runs())}
            delete_abandoned(app.sessions, datetime.now(timezone.utc) - grace, ended, engine, ends)

    extensions.duties += [
        clincus.Duty("saving conversations", 5.0, save, each_engine=True),
        clincus.Duty("deadlines", 2.0, stop, each_engine=True),
        clincus.Duty("tidying up", 600.0, delete, each_engine=True),
    ]


Asleep = Callable[[str, dict[str, float], float], set[str]]


class Alarm:
    """Lets a duty sleep until a time, or until an event of a session of its engine."""

    def __init__(self) -> None:
        self._happened: dict[str, threading.Event] = {}

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Wake the duty for an event of a session."""
        self._of(session.engine).set()

    def wait(self, engine: str, seconds: float) -> None:
        """Sleep for some seconds, or until an event."""
        happened = self._of(engine)
        happened.wait(seconds)
        happened.clear()

    def _of(self, engine: str) -> threading.Event:
        return self._happened.setdefault(engine, threading.Event())


class Save(NamedTuple):
    """The last save of a session's run, or the look that found the session."""

    at: float  # time.monotonic
    rang_at: str = ""  # `Session.rang_at` at that time
    pause: float = SAVE_EVERY  # seconds to the next one without a bell
    done_at: float = -math.inf  # time.monotonic before the last successful save
    hung: bool = False  # it failed after SAVE_HANGS seconds: a container may ring and dribble to keep others waiting

    def due(self, session: clincus.Session) -> float:
        """When the next save is due (time.monotonic)."""
        has_rung = session.rang_at != self.rang_at
        pause = SAVE_AFTER_RING if has_rung and not self.hung else self.pause
        return self.at + pause


class Saves:
    """Saves the conversations of running sessions soon after a turn (a bell) and every few minutes.

    A container that is deleted from outside loses only the words since then. The pause grows while a session rests. A
    container that has slept since its last save gets no save for up to an hour.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Save]] = {}  # by engine and session
        self._places: dict[str, threading.Semaphore] = {}  # by engine: limits the saves at once

    def due(self, sessions: clincus.Sessions, engine: str) -> float:
        """When the next save of an engine is due (time.monotonic)."""
        now = time.monotonic()
        last = self._last.get(engine, {})
        times = [last.get(session.id, Save(now)).due(session) for session in running(sessions, engine)]
        return min(times, default=now + REST)

    def save_due(self, sessions: clincus.Sessions, engine: str, asleep: Asleep = lambda *_: set()) -> None:
        """Make the due saves of an engine. A session with other work in progress waits for the next time.

        `asleep` is `Extensions.known_to_sleep`.
        """
        now = time.monotonic()
        known = self._last.get(engine, {})
        found = running(sessions, engine)
        last = {session.id: known.get(session.id, Save(now)) for session in found}
        self._last[engine] = last
        due = [session for session in found if now >= last[session.id].due(session)]
        since = {}
        for session in due:
            save = last[session.id]
            if session.rang_at == save.rang_at:
                is_fresh = now - save.done_at < SAVE_ASLEEP
                since[session.id] = save.done_at if is_fresh else -math.inf
        sleeping = asleep(engine, since, SAVE_COST)
        for id in [session.id for session in due if session.id in sleeping]:
            longer = min(2 * last[id].pause, SAVE_RARELY)
            last[id] = last[id]._replace(at=now, pause=longer)
        self._save_each(sessions, engine, [session for session in due if session.id not in sleeping])

    def _save_each(self, sessions: clincus.Sessions, engine: str, due: list[clincus.Session]) -> None:
        """Save sessions, some at a time, and wait up to SAVE_HANGS seconds for all.

        A save that does not begin is due.
        """
        places = self._places.setdefault(engine, threading.Semaphore(SAVES_AT_ONCE))
        end = time.monotonic() + SAVE_HANGS
        saving: list[threading.Thread] = []

        def save(session: clincus.Session) -> None:
            try:
                self._save(sessions, session)
            finally:
                places.release()

        for session in due:
            if not places.acquire(timeout=max(0.0, end - time.monotonic())):
                break
            thread = threading.Thread(target=save, args=(session,), name=f"saving {session.id}", daemon=True)
            saving.append(thread)
            thread.start()
        for thread in saving:
            thread.join(max(0.0, end - time.monotonic()))

    def _save(self, sessions: clincus.Sessions, session: clincus.Session) -> None:
        last = self._last[session.engine]
        begun = time.monotonic()
        before = last[session.id]
        with contextlib.suppress(clincus.ClincusError):  # the session is gone
            copy = copy_of(sessions, session)
            result = sessions.save(session.id, wait=False)
            if result is clincus.SaveResult.BUSY:
                return
            is_saved = result is clincus.SaveResult.DONE
            is_slow = time.monotonic() - begun >= SAVE_HANGS
            has_hung = is_slow and not is_saved
            is_same = copy is not None and copy_of(sessions, session) == copy
            rests = session.rang_at == before.rang_at and is_same
            pause = min(2 * before.pause, SAVE_RARELY) if rests or has_hung else SAVE_EVERY
            done_at = begun if is_saved else -math.inf
            self._last[session.engine][session.id] = Save(begun, session.rang_at, pause, done_at, has_hung)


class Ends:
    """Ends sessions, some at a time. The stop of a container that hangs may take minutes; the others go on."""

    def __init__(self) -> None:
        self._going: set[str] = set()  # ids of sessions that are being ended

    def each(self, ids: Iterable[str], end: Callable[[str], None]) -> None:
        """Call a function for each session in a thread, and wait up to END_HANGS seconds for each that has begun."""
        waited_for = deque[tuple[threading.Thread, float]]()
        for id in [id for id in ids if id not in self._going]:
            if len(waited_for) == ENDS_AT_ONCE:
                wait_until(*waited_for.popleft())
            self._going.add(id)
            thread = threading.Thread(target=self._end, args=(id, end), name=f"ending {id}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads just now
                self._going.discard(id)
                break
            waited_for.append((thread, time.monotonic() + END_HANGS))
        for thread, until in waited_for:
            wait_until(thread, until)

    def _end(self, id: str, end: Callable[[str], None]) -> None:
        clincus.survive(f"the end of {id}", lambda: end(id))
        self._going.discard(id)


def wait_until(thread: threading.Thread, until: float) -> None:
    """Wait for the end of a thread until a time of time.monotonic."""
    thread.join(max(0.0, until - time.monotonic()))


def running(sessions: clincus.Sessions, engine: str) -> list[clincus.Session]:
    """The running sessions of an engine."""
    return [session for session in reachable(sessions, engine) if session.status == "running"]


def copy_of(sessions: clincus.Sessions, session: clincus.Session) -> int | None:
    """A number that differs for each copy of a conversation: each copy has a folder of its own."""
    try:
        return os.stat(sessions.saved_directory(session)).st_ino
    except OSError:
        return None


def reachable(sessions: clincus.Sessions, engine: str) -> list[clincus.Session]:
    """The sessions of an engine that can be reached."""
    return [one for one in sessions.registry.all() if one.engine == engine and not one.unreachable_since]


def remove_half_made(sessions: clincus.Sessions, engine: str) -> None:
    """Remove the containers of starts that failed because their engine was gone, now that it is back.

    A person may resume such a session in the meantime, which removes it from `half_made` under its lock. Its tool may
    have run since: a container with work that this host lacks stays, for a person to decide.
    """
    for id, session in list(sessions.half_made.items()):
        if session.engine != engine:
            continue
        if sessions.look(id) is None:
            sessions.half_made.pop(id, None)
            continue
        with sessions.held(id):
            found = sessions.look(id)
            identity = (session.session_id, session.created_at)
            is_same = found is not None and (found.session_id, found.created_at) == identity
            if is_same and id in sessions.half_made:
                try:
                    sessions.end(id, delete=True)
                except clincus.UnsavedError as error:
                    sessions.report(f"its start failed, and its container stays: {error}")
            sessions.half_made.pop(id, None)


def seconds_until_stop(sessions: clincus.Sessions, at: datetime, engine: str) -> float:
    """Seconds from a time until there is a session to stop, or a half-made container to remove."""
    if any(session.engine == engine for session in list(sessions.half_made.values())):
        return 0.0
    deadlines = [deadline_of(session) for session in running(sessions, engine)]
    left = [(deadline - at).total_seconds() for deadline in deadlines if deadline]
    return min(LOOK_EVERY, *left) if left else REST


def stop_expired(sessions: clincus.Sessions, at: datetime, engine: str, ends: Ends | None = None) -> None:
    """Stop the sessions of an engine whose deadline is over at a time."""

    def is_due(session: clincus.Session) -> bool:
        deadline = deadline_of(session)
        return session.status == "running" and deadline is not None and deadline <= at

    end_each(sessions, engine, is_due, "its time is over, stopping it", ends or Ends())


def deadline_of(session: clincus.Session) -> datetime | None:
    """The end of a session's time. Each start by Clincus sets it again; a start by Incus alone does not."""
    return clincus.parse_time(session.deadline)


def delete_abandoned(
    sessions: clincus.Sessions,
    stopped_before: datetime,
    ended: dict[str, str],
    engine: str,
    ends: Ends | None = None,
) -> None:
    """Delete the ephemeral sessions of an engine that stopped before a time.

    `ended` has the end of each session's last run. Files that a person put into a session are copied to this host
    first. A session stays if its conversation or these files cannot be saved, and if it works on a clone, which may
    have work that no fetch has brought here: a person decides on that. It also stays if it was not started from this
    home: it may belong to another user of this Incus, who would not find the conversation.
    """

    def is_due(session: clincus.Session) -> bool:
        if session.status != "stopped" or session.persistent or session.paused or session.mode == "clone":
            return False
        end = clincus.parse_time(ended.get(session.session_id))
        is_old = end is not None and end < stopped_before
        return is_old and clincus.read_metadata(sessions.saved_directory(session), session.tool) is not None

    end_each(sessions, engine, is_due, "ephemeral and long stopped, deleting it", ends or Ends(), delete=True)


def end_each(
    sessions: clincus.Sessions,
    engine: str,
    is_due: Callable[[clincus.Session], bool],
    words: str,
    ends: Ends,
    *,
    delete: bool = False,
) -> None:
    """End every session that is due, if it still is when its turn comes. A failure is logged; the others go on."""

    def end(id: str) -> None:
        try:
            with sessions.held(id):
                if is_due(sessions.registry.get(id)):
                    clincus.log.warning("%s: %s", id, words)
                    sessions.end(id, delete=delete, keeps=delete)
        except clincus.ClincusError as error:
            clincus.log.warning("%s: %s", id, error)

    ends.each([session.id for session in reachable(sessions, engine) if is_due(session)], end)
