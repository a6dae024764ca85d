"""The work of the server for sessions in the background.

It saves the conversations of those that run, stops those whose time is over, and deletes ephemeral ones that stopped
long ago.
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
SAVE_EVERY = 180.0  # seconds, if it did not
SAVE_RARELY = 600.0  # the same at most, as long as a save finds nothing new
SAVE_ASLEEP = 3600.0  # the same for a container that has slept since its last save
SAVES_AT_ONCE = 4  # of an engine
SAVE_HANGS = 15.0  # seconds after which a save that goes on is left to itself
SAVE_COST = 0.1  # seconds of CPU that a save may take in a container
ENDS_AT_ONCE = 4  # of an engine
END_HANGS = 15.0  # seconds after which the end of a session that goes on is left to itself
LOOK_EVERY = 60.0  # seconds between two looks at deadlines, which are times of a clock that may be set
REST = 600.0  # seconds between two looks for what is due, if nothing is known to come and nothing happens

clincus.register_settings(clincus.Setting("sessions.ephemeral_grace", "24h", clincus.check_duration))


def install(extensions: clincus.Extensions) -> None:
    """Add the duties. Nothing is ended while Incus cannot be asked."""
    app = extensions.app
    saves, ends = Saves(), Ends()
    before_stop, before_save = Alarm(), Alarm()
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
    """Lets a duty sleep until a time, or until something happens to a session of its engine."""

    def __init__(self) -> None:
        self._happened: dict[str, threading.Event] = {}

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Something happens."""
        self._of(session.engine).set()

    def wait(self, engine: str, seconds: float) -> None:
        """Sleep for so long."""
        happened = self._of(engine)
        happened.wait(seconds)
        happened.clear()

    def _of(self, engine: str) -> threading.Event:
        return self._happened.setdefault(engine, threading.Event())


class Save(NamedTuple):
    """The last save of a session's run; before the first one, when the session was found."""

    at: float  # time.monotonic
    rang_at: str = ""  # `Session.rang_at` at that time
    pause: float = SAVE_EVERY  # seconds to the next one without a ring
    done_at: float = -math.inf  # time.monotonic before the last save that went well; `at` may be that of none
    hung: bool = False  # it took SAVE_HANGS seconds, in vain: a container may ring and dribble to keep others waiting

    def due(self, session: clincus.Session) -> float:
        """When the next one is due."""
        has_rung = session.rang_at != self.rang_at
        return self.at + (SAVE_AFTER_RING if has_rung and not self.hung else self.pause)


class Saves:
    """Saves the conversations of running sessions soon after a turn (a ring) and every few minutes.

    A container that is lost from outside loses no more than what was said since. The pause grows while a session rests.
    One that has slept since its last save is left alone for up to an hour.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Save]] = {}  # by engine and session
        self._places: dict[str, threading.Semaphore] = {}  # by engine: for those that go on

    def due(self, sessions: clincus.Sessions, engine: str) -> float:
        """When something is due on an engine (time.monotonic)."""
        at, last = time.monotonic(), self._last.get(engine, {})
        return min((last.get(one.id, Save(at)).due(one) for one in running(sessions, engine)), default=at + REST)

    def save_due(self, sessions: clincus.Sessions, engine: str, asleep: Asleep = lambda *_: set()) -> None:
        """Save what is due on an engine. A session that is being worked on waits for the next time.

        `asleep` is that of Extensions.
        """
        at, known = time.monotonic(), self._last.get(engine, {})
        found = running(sessions, engine)
        last = self._last[engine] = {session.id: known.get(session.id, Save(at)) for session in found}
        due = [session for session in found if at >= last[session.id].due(session)]
        rested = {one.id: last[one.id].done_at for one in due if one.rang_at == last[one.id].rang_at}
        since = {id: done_at if at - done_at < SAVE_ASLEEP else -math.inf for id, done_at in rested.items()}
        sleeping = asleep(engine, since, SAVE_COST)
        for session in [session for session in due if session.id in sleeping]:
            before = last[session.id]
            last[session.id] = before._replace(at=at, pause=min(2 * before.pause, SAVE_RARELY))
        self._save_each(sessions, engine, [session for session in due if session.id not in sleeping])

    def _save_each(self, sessions: clincus.Sessions, engine: str, due: list[clincus.Session]) -> None:
        """Save sessions, some at a time, and wait up to SAVE_HANGS seconds for them. What does not begin stays due."""
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
            saving.append(threading.Thread(target=save, args=(session,), name=f"saving {session.id}", daemon=True))
            saving[-1].start()
        for thread in saving:
            thread.join(max(0.0, end - time.monotonic()))

    def _save(self, sessions: clincus.Sessions, session: clincus.Session) -> None:
        last, begun = self._last[session.engine], time.monotonic()
        before = last[session.id]
        with contextlib.suppress(clincus.ClincusError):  # it is gone by now
            copy = copy_of(sessions, session)
            result = sessions.save(session.id, wait=False)
            if result is clincus.SaveResult.BUSY:
                return
            is_saved = result is clincus.SaveResult.DONE
            has_hung = not is_saved and time.monotonic() - begun >= SAVE_HANGS
            rests = session.rang_at == before.rang_at and copy is not None and copy_of(sessions, session) == copy
            pause = min(2 * before.pause, SAVE_RARELY) if rests or has_hung else SAVE_EVERY
            done_at = begun if is_saved else -math.inf
            self._last[session.engine][session.id] = Save(begun, session.rang_at, pause, done_at, has_hung)


class Ends:
    """Ends sessions, some at a time. The stop of a container that hangs may take minutes, and the others go on."""

    def __init__(self) -> None:
        self._going: set[str] = set()  # ids of sessions that are being ended

    def each(self, ids: Iterable[str], end: Callable[[str], None]) -> None:
        """Call a function for each session in a thread, and wait up to END_HANGS seconds for each that has begun."""
        young = deque[tuple[threading.Thread, float]]()
        for id in [id for id in ids if id not in self._going]:
            if len(young) == ENDS_AT_ONCE:
                wait_until(*young.popleft())
            self._going.add(id)
            thread = threading.Thread(target=self._end, args=(id, end), name=f"ending {id}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread can be had just now
                self._going.discard(id)
                break
            young.append((thread, time.monotonic() + END_HANGS))
        for thread, until in young:
            wait_until(thread, until)

    def _end(self, id: str, end: Callable[[str], None]) -> None:
        clincus.survive(f"the end of {id}", lambda: end(id))
        self._going.discard(id)


def wait_until(thread: threading.Thread, until: float) -> None:
    """Wait for the end of a thread until a time of time.monotonic."""
    thread.join(max(0.0, until - time.monotonic()))


def running(sessions: clincus.Sessions, engine: str) -> list[clincus.Session]:
    """The sessions on an engine that run."""
    return [session for session in reachable(sessions, engine) if session.status == "running"]


def copy_of(sessions: clincus.Sessions, session: clincus.Session) -> int | None:
    """A number that is another one for each copy of a conversation: each is made in a folder of its own."""
    try:
        return os.stat(sessions.saved_directory(session)).st_ino
    except OSError:
        return None


def reachable(sessions: clincus.Sessions, engine: str) -> list[clincus.Session]:
    """The sessions on an engine that can be worked with now."""
    return [one for one in sessions.registry.all() if one.engine == engine and not one.unreachable_since]


def remove_half_made(sessions: clincus.Sessions, engine: str) -> None:
    """Remove the containers of starts that failed because their engine was gone, now that it is back.

    A person may resume one in the meantime, which takes it out of `half_made` under the lock of the session. The tool
    of one may have run since: one that holds something that this host does not have stays, for a person to decide.
    """
    for id, session in [(id, one) for id, one in list(sessions.half_made.items()) if one.engine == engine]:
        if sessions.look(id) is None:
            sessions.half_made.pop(id, None)
            continue
        with sessions.lock(id):
            found = sessions.look(id)
            is_same = found and (found.session_id, found.created_at) == (session.session_id, session.created_at)
            if is_same and id in sessions.half_made:
                try:
                    sessions.end(id, delete=True)
                except clincus.UnsavedError as error:
                    sessions.report(f"its start failed, and its container stays: {error}")
            sessions.half_made.pop(id, None)


def seconds_until_stop(sessions: clincus.Sessions, at: datetime, engine: str) -> float:
    """How long it takes from a time until there is a session to stop, or a half-made container to remove."""
    if any(session.engine == engine for session in list(sessions.half_made.values())):
        return 0.0
    deadlines = filter(None, map(deadline_of, running(sessions, engine)))
    return min((min(LOOK_EVERY, (one - at).total_seconds()) for one in deadlines), default=REST)


def stop_expired(sessions: clincus.Sessions, at: datetime, engine: str, ends: Ends | None = None) -> None:
    """Stop the sessions of an engine that have run past their deadline at a time."""

    def is_due(session: clincus.Session) -> bool:
        deadline = deadline_of(session)
        return session.status == "running" and deadline is not None and deadline <= at

    end_each(sessions, engine, is_due, "its time is over, stopping it", ends or Ends())


def deadline_of(session: clincus.Session) -> datetime | None:
    """When a session is to end. Each start by Clincus sets that anew; one by Incus alone gives no more time."""
    return clincus.parse_time(session.deadline)


def delete_abandoned(
    sessions: clincus.Sessions,
    stopped_before: datetime,
    ended: dict[str, str],
    engine: str,
    ends: Ends | None = None,
) -> None:
    """Delete the ephemeral sessions of an engine that stopped before a time.

    `ended` has the end of each session's last run. Files that a person put into one are copied to this host first. A
    session stays if its conversation or those cannot be saved, or if it works on a clone, which may hold what nobody
    has fetched: a person decides on that. It also stays if it was not started from this home: it may belong to another
    user of this Incus, who would not find the conversation.
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
            with sessions.lock(id):
                if is_due(sessions.registry.get(id)):
                    clincus.log.warning("%s: %s", id, words)
                    sessions.end(id, delete=delete, keeps=delete)
        except clincus.ClincusError as error:
            clincus.log.warning("%s: %s", id, error)

    ends.each([session.id for session in reachable(sessions, engine) if is_due(session)], end)
