"""Looks at workspaces and keeps checkpoints: decides when to take one, and brings it to the host.

Moments of sessions and of their tools only put work into a queue, for a few threads. A request that changes something
does its work in its own thread. A request that only reads waits for a look as long as an answer may take (`soon`).
Calls for one session wait for each other.
"""

from __future__ import annotations

import functools
import math
import os
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from io import BufferedReader
from typing import NamedTuple

import clincus
from clincus_features.review.changes import Change, entry_of, list_changes, touched_paths
from clincus_features.review.records import (
    Checkpoint,
    Record,
    Records,
    Skipped,
    records_folder,
    tree_of,
    turn_pairs,
)
from clincus_features.review.restore import is_chosen, restore, wanted_changes
from clincus_features.review.store import TREE, Store

FILE_LIMIT = 20 << 20  # bytes of a file that is recorded
FIELD_LIMIT = 8192  # bytes of a field in the answer of a container
SKIPPED = 200  # left-out paths that are listed
ASKED_SKIPPED = SKIPPED + 1  # one more shows that the list is cut
KEPT_LISTS = 16  # lists of changes in memory
LOOK_TIMEOUT = 120.0  # seconds that a look at a workspace may take
ANSWER_WITHIN = 10.0  # seconds that an answer waits for a look
STILL_LOOKING = (
    "the container has not told yet what its workspace holds: ask again; if that goes on, its programs may hang, and a "
    "stop and a resume start them anew"
)
FAILURE_LIMIT = 300  # characters of the reason why a checkpoint failed
# Seconds between a checkpoint that failed and the next tries; the last of these comes before each one that follows.
RETRIES = (1.0, 5.0, 25.0, 300.0)
# Seconds. After a look that fails later than this, its container rests: it may hang, or the machine is busy.
SLOW = 20.0
RESTS = (30.0, 120.0, 600.0)  # seconds of the first rest, the second one, and all that follow without a look in between
REST = 600.0  # seconds between two looks at an empty queue
LAST_LOOK = 5.0  # seconds that a stop waits for the last look
BEFORE_TOOL = 0.3  # seconds that a tool waits at a start until its workspace has been read
BEFORE_PROMPT = 2.0  # seconds that a prompt waits for its checkpoint
SAME_PROMPT = 60.0  # seconds for which the checkpoint before a prompt is that of the turn that begins
WAIT_FOR_STARTS = 5.0  # seconds that the first checkpoint leaves the machine to other sessions that start
SETTLING = 1.5  # seconds after a start by another program
LOOK_COST = 0.4  # seconds of CPU that a look may take in a container that counts as asleep
RECORDERS = 4  # checkpoints taken at the same time
PATIENCE = 5.0  # seconds after which a checkpoint frees its place among these: its container may hang
FIRST_PERIOD = 30.0  # seconds between two looks at a tool without hooks
LAST_PERIOD = 600.0  # seconds between them after many looks without a change
SKIPPED_WHYS = ("large", "repository", "unreadable", "special", "ignored")
LATE = "late"  # instead of these: the tool changed the file before it was recorded; path `.`: any file
ALL_LATE = "recorded while the tool was already at work, so its first changes may be in it"
NAMED = 5  # files that a note names
NO_CHECKPOINT = "the container did not answer with a checkpoint: stop and resume the session, then try again"
RESTING = ("done", "idle", "failed", "waiting", "ended", "stuck")
REFUSALS = {  # reasons of guest/checkpoint.sh
    "workspace": "the workspace is not mounted in the container",
    "git": "the container has no git: use an image with git in it",
    "perl": "the container has no Perl: use an image with perl in it",
    "home": "the home in the container cannot be written to, or another checkpoint does not end",
    "large": f"more than 2000 files are larger than {FILE_LIMIT >> 20} MB: name their folders in .gitignore",
    "stuck": "git in the container did not end within 20 seconds: a named pipe may keep it waiting, in a .git or in "
    "place of a .gitignore (`find . -type p` in a shell of the session shows them)",
    "commits": "the workspace is no git repository with a commit",
}

clincus.register_settings(
    clincus.Setting("checkpoints.enabled", True, clincus.check_switch),
    clincus.Setting("checkpoints.max_age", "720h", clincus.check_duration),
    clincus.Setting("checkpoints.max_count", 200, clincus.whole(10, 5000)),
    clincus.Setting("checkpoints.max_size", "2GiB", clincus.matching(clincus.SIZE, f"write {clincus.WRITE_SIZE}")),
)


class QueuedCheckpoint(NamedTuple):
    """A checkpoint that a moment asked for."""

    due: float  # time.monotonic from which on it may be taken
    id: str
    why: str
    tries: int = 0  # that have failed

    @property
    def key(self) -> tuple[str, str]:
        """Two requests with the same key ask for the same checkpoint."""
        return self.id, self.why


class NothingSaid(BrokenPipeError):
    """The program ended without output: `Incus.open` then raises an error with its stderr."""


class Look(NamedTuple):
    """The result of guest/checkpoint.sh; the store has the tree by now."""

    tree: str
    commit: str
    skipped: list[Skipped]
    late: Sequence[str] = ()  # paths that the tool changed first, for the checkpoint of a start
    is_cut: bool = False  # more paths were left out or late


class Recorder:
    """Takes the checkpoints of all sessions."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self.records = Records(lambda: records_folder(os.environ if app is None else app.environ))
        # Two trees always differ in the same way, so the last lists are kept.
        self.changes = functools.lru_cache(KEPT_LISTS)(list_changes)
        self._stores: dict[str, Store] = {}  # by workspace
        # Sessions that are held. A lock for each would keep a page of memory to itself among short-lived objects.
        self._holding: set[str] = set()
        self._released = threading.Condition()  # guards _holding
        self._changed = threading.Condition()  # guards everything below
        self._slow: set[str] = set()  # sessions with a look that takes longer than an answer
        # Session -> why its last slow look failed, for the next answer, and time.monotonic of the failure.
        self._untold: dict[str, tuple[Exception, float]] = {}
        self._queue: deque[QueuedCheckpoint] = deque()
        self._doing: list[tuple[str, str]] = []  # keys of the requests that are being served
        self._resting: dict[str, float] = {}  # session -> time.monotonic until which its requests wait
        self._in_vain: dict[str, int] = {}  # session -> its slow looks that have failed in a row
        self._looks: dict[str, float] = {}  # session -> time.monotonic at which the last look began
        self._waiting: dict[str, clincus.Session] = {}  # sessions that started while others were starting
        self._states: dict[str, Mapping[str, object]] = {}  # session -> the last reported state of its tool
        self._ends: dict[str, int] = {}  # session -> a turn that is over and whose beginning was not seen
        self._counts: dict[str, dict[str, int] | None] = {}  # session id -> changes since the start
        self._failures: dict[str, str] = {}  # session id -> why the last checkpoint failed
        self._late: dict[str, str] = {}  # session id -> the note of the checkpoint of its last start
        self._periods: dict[str, tuple[float, float]] = {}  # session -> next look at a tool without hooks, and period

    # -- Moments

    def tell(self, moment: str, session: clincus.Session) -> None:
        """Take note of a moment in a session's life. Only "before_prompt" and "before_stop" wait, and not for long."""
        if moment == "ring":
            self._periods.pop(session.id, None)
        elif moment == "deleted":
            self._forget(session)
        elif not self._is_enabled():
            return
        elif moment == "started":
            self._ask_for_first(session, SETTLING)
        elif moment == "after_start":
            self._ask_for_first(session, 0.0)
        elif moment == "before_prompt":
            self._ask(session, "prompt")
            with self._changed:
                self._changed.wait_for(lambda: not self._is_asked(session.id, "prompt"), BEFORE_PROMPT)
        elif moment == "before_stop" and session.status == "running" and not session.paused:
            title = f"the last look at {session.id}"
            clincus.survive(title, lambda: self.now(session, timeout=LAST_LOOK))

    def hear(self, session: clincus.Session, agent: Mapping[str, object]) -> None:
        """Take note of a new state of a session's tool: a turn may have begun or ended. It never waits."""
        last = self._states.get(session.id, {})
        before = last.get("state")
        state = agent["state"]
        self._states[session.id] = agent
        is_next_turn = agent.get("turn") != last.get("turn")
        if state == "working" and before in RESTING and before != "waiting":
            self._ask(session, "prompt")
        elif before == "working" and state in RESTING:
            self._ends.pop(session.id, None)
            self._ask(session, "turn")
        elif is_turn_over(agent) and (before == "stuck" or is_next_turn):
            # No look saw the tool at work.
            self._ends[session.id] = number_of_turn(agent)
            self._ask(session, "turn")

    def look_at_quiet_tools(self) -> None:
        """Ask for a checkpoint of sessions whose tool reports nothing; less often, the longer nothing changes there.

        Skips containers that have slept since the last look at their workspace.
        """
        if not self._is_enabled():
            return
        now = time.monotonic()
        quiet = [session for session in self._app.registry.all() if self._is_quiet(session)]
        due = [session for session in quiet if self._is_due(session.id, now)]
        for session in self._awake(due):
            self._ask(session, "timer")

    def _is_quiet(self, session: clincus.Session) -> bool:
        """True if a session runs, can be reached, and has a tool that reports nothing."""
        state = self._states.get(session.id, {}).get("state")
        return state == "unknown" and session.status == "running" and not session.unreachable_since

    def _is_due(self, id: str, now: float) -> bool:
        """True if a quiet session's next look is due at `now`; the look after it is then twice as far away."""
        due, period = self._periods.setdefault(id, (now + FIRST_PERIOD, FIRST_PERIOD))
        if now < due:
            return False
        longer = min(2 * period, LAST_PERIOD)
        self._periods[id] = (now + longer, longer)
        return True

    def _awake(self, sessions: Sequence[clincus.Session]) -> Iterator[clincus.Session]:
        """The sessions whose containers may have been active since the last look at their workspaces."""
        for engine in {session.engine for session in sessions}:
            here = [session for session in sessions if session.engine == engine]
            since = {session.id: self._looks.get(session.id, -math.inf) for session in here}
            asleep = self._app.extensions.known_to_sleep(engine, since, LOOK_COST)
            yield from (session for session in here if session.id not in asleep)

    def work(self, engine: str) -> None:
        """Wait until a checkpoint of an engine's session is due, and take it.

        A container may take two minutes for one, so a checkpoint gets a thread of its own, and this one waits PATIENCE
        seconds for it. A session has at most one such thread, so sessions that hang do not hold up the others.
        """
        with self._changed:
            request = self._next_request(engine)
            if request is None:
                return
            self._queue.remove(request)
            self._doing.append(request.key)
        title = f"a checkpoint of {request.id}"
        work = functools.partial(clincus.survive, title, lambda: self._serve(request))
        thread = threading.Thread(target=work, name=title, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads just now
            work()
        else:
            thread.join(PATIENCE)

    def _next_request(self, engine: str) -> QueuedCheckpoint | None:
        """The first due request for an engine. If none is due, waits for a change, and returns None."""
        now = time.monotonic()
        busy = {id for id, _ in self._doing}
        here = [one for one in self._queue if clincus.engine_of(one.id) == engine]
        asked = {one: max(one.due, self._resting.get(one.id, 0.0)) for one in here if one.id not in busy}
        for request, due in asked.items():
            if due <= now:
                return request
        first = min(asked.values(), default=now + REST)
        self._changed.wait(first - now)
        return None

    def _serve(self, request: QueuedCheckpoint) -> None:
        """Take a checkpoint that a moment asked for, if it is still wanted."""
        id, why = request.key
        begun = time.monotonic()
        try:
            session = self._running(id)
            if session is not None and self._is_wanted(session, why):
                is_late = request.tries and why == "prompt" and self._states.get(id, {}).get("state") == "working"
                self.take(session, why, ALL_LATE if is_late else "", only_changed=why == "timer")
        except (clincus.ClincusError, OSError) as error:
            clincus.log.info("%s: no checkpoint: %s", id, error)
            session = self._running(id)
            if session is not None:
                words = clincus.printable(str(error))
                self._note_failure(self.records.of(session), words[:FAILURE_LIMIT])
            if session is None:
                return
            if time.monotonic() - begun > SLOW:
                self._rest(request)
            else:
                self._try_again(request)
        else:
            self._in_vain.pop(id, None)
        finally:
            with self._changed:
                self._doing.remove(request.key)
                self._changed.notify_all()

    def _rest(self, request: QueuedCheckpoint) -> None:
        """Let a container's requests wait: if it hangs, it must not keep others waiting again and again."""
        with self._changed:
            number = self._in_vain.get(request.id, 0)
            self._in_vain[request.id] = number + 1
            self._resting[request.id] = time.monotonic() + RESTS[min(number, len(RESTS) - 1)]
            if not any(queued.key == request.key for queued in self._queue):
                self._queue.append(request._replace(tries=0))

    def _try_again(self, request: QueuedCheckpoint) -> None:
        """Ask once more for a checkpoint that has failed, unless a later moment has asked for another one."""
        with self._changed:
            is_over = any(queued.id == request.id for queued in self._queue)
            if not is_over:
                due = time.monotonic() + RETRIES[min(request.tries, len(RETRIES) - 1)]
                self._queue.append(request._replace(due=due, tries=request.tries + 1))

    def _running(self, id: str) -> clincus.Session | None:
        session = self._app.registry.find(id)
        return session if session is not None and session.status == "running" else None

    # -- Checkpoints

    def take(
        self, session: clincus.Session, why: str, note: str = "", *, only_changed: bool = False
    ) -> Checkpoint | None:
        """Keep the present state of a running session's workspace. Raises ClincusError.

        With `only_changed`, the result is None if the last checkpoint has the same state.
        """
        with self._held(session.id):
            made: Checkpoint | None
            if why == "start":
                made = self._take_start(session)
            else:
                made = self._take(session, why, note, only_changed)
            if self._failures.get(session.session_id) != "":
                self._note_failure(self.records.of(session), "")
            return made

    def _take(self, session: clincus.Session, why: str, note: str, only_changed: bool) -> Checkpoint | None:
        self._begin(session)
        record = self._look(session)
        last = last_of(record)
        if only_changed and last is not None and last.tree == record.tree:
            return None
        self._periods.pop(session.id, None)
        return self._add(record, why, note)

    def now(self, session: clincus.Session, *, timeout: float = LOOK_TIMEOUT) -> Record:
        """The record of a running session after a new look at its workspace. Raises ClincusError.

        If several callers wait, one look serves all.
        """
        asked = time.monotonic()
        with self._held(session.id, timeout):
            if self._looks.get(session.id, 0.0) > asked:
                return self.records.of(session)
            self._begin(session, timeout)
            left = timeout - (time.monotonic() - asked)
            return self._look(session, max(1.0, left))

    def soon(
        self, session: clincus.Session, look: Callable[[clincus.Session], Record], *, is_silent: bool = False
    ) -> Record:
        """The result of a look, for an answer. A look that takes longer than an answer goes on for the next request.

        `is_silent`: the container let the last command wait in vain, so this one waits less.
        Raises the errors of `look`, and ClincusError(504) for a look that goes on.
        """
        with self._changed:
            if session.id in self._slow:
                raise clincus.ClincusError(STILL_LOOKING, 504)
            untold, failed_at = self._untold.pop(session.id, (None, 0.0))
        if untold is not None and time.monotonic() - failed_at < LOOK_TIMEOUT:  # an older failure may be over
            raise untold
        outcome: list[Record | BaseException] = []

        def work() -> None:
            try:
                outcome.append(look(session))
            except BaseException as error:
                outcome.append(error)
            with self._changed:
                result = outcome[0]
                if session.id in self._slow and isinstance(result, clincus.ClincusError):
                    self._untold[session.id] = (result, time.monotonic())
                self._slow.discard(session.id)

        thread = threading.Thread(target=work, name=f"looking at {session.id}", daemon=True)
        thread.start()
        thread.join(clincus.ANSWER_OF_SILENT if is_silent else ANSWER_WITHIN)
        with self._changed:
            if not outcome:
                self._slow.add(session.id)
                raise clincus.ClincusError(STILL_LOOKING, 504)
        result = outcome[0]
        if isinstance(result, BaseException):
            raise result
        return result

    def with_branch(self, session: clincus.Session) -> Record:
        """The record of a running session with the tree of the commit at which its branch left its upstream or main.

        Raises ClincusError: 409 without a commit.
        """
        with self._held(session.id):
            record = self.records.of(session)
            look = self._run(session, record, "branch", LOOK_TIMEOUT)
            with self.records.changing(record) as record:
                if look.tree:
                    record.branch_commit = look.commit
                    record.branch_tree = look.tree
            return record

    def undo(self, session: clincus.Session, checkpoint: str, paths: Sequence[str] | None) -> dict[str, object]:
        """Bring paths of a running session's workspace back to a checkpoint. Raises ClincusError: 404, 409.

        Paths None means all that the session's turns have touched. A checkpoint of the present state comes first. The
        result is that of POST …/restore.
        """
        with self._held(session.id):
            self._begin(session)
            then = tree_of(self.records.of(session), checkpoint)
            record = self._look(session)
            store = self.store(record.workspace)
            changes = self._undoing(record, then, paths)
            if not changes:
                raise nothing_to_undo(store, (then, record.tree), paths or ())
            made = self._add(record, "restore", f"before going back to {checkpoint}")
            try:
                done = restore(self._app.sessions, session, store, changes)
            finally:
                title = f"{session.id}: the look after an undo"
                clincus.survive(title, lambda: self._look(session))
        return {"checkpoint": made.checkpoint, **done}

    def _undoing(self, record: Record, then: str, paths: Sequence[str] | None) -> list[Change]:
        """The changes that an undo makes: those of paths, or with None of everything that the turns touched."""
        store = self.store(record.workspace)
        if paths is None:
            return wanted_changes(store, record.tree, then, None, self.touched(record))
        old_names = self._old_names(store, then, record.tree, paths)
        return wanted_changes(store, record.tree, then, [*paths, *old_names], set())

    def others(self, record: Record) -> list[str]:
        """The other sessions in the same folder of the same machine; a session with a clone has its own folder."""
        if record.mode != "mount":
            return []
        place = (record.workspace, clincus.engine_of(record.id), "mount")
        everything = self._app.registry.all()
        same_place = [one for one in everything if (one.workspace, one.engine, one.mode) == place]
        return [one.id for one in same_place if one.id != record.id]

    def touched(self, record: Record) -> set[str]:
        """The paths that the turns of a session have changed."""
        pairs = turn_pairs(record.checkpoints, record.tree, is_alone=not self.others(record))
        return touched_paths(self.store(record.workspace), pairs)

    def store(self, workspace: str) -> Store:
        """The repository of a workspace's checkpoints."""
        made = Store(records_folder(self._app.environ), workspace, self._app.environ)
        return self._stores.setdefault(workspace, made)

    def fields(self, session: clincus.Session) -> dict[str, object]:
        """The fields of a session: the changes since its start, null while they are not known."""
        self._recall(session)
        return {"changes": self._counts.get(session.session_id)}

    def warnings(self, session: clincus.Session) -> list[str]:
        """The warnings of a session: its last checkpoint failed, or its tool was faster than its first one."""
        self._recall(session)
        failure = self._failures.get(session.session_id, "")
        late = self._late.get(session.session_id, "")
        found = []
        if failure:
            found.append(f"The last checkpoint failed, and undo cannot take back what has changed since: {failure}")
        if late:
            found.append(f"The checkpoint of the start was {late}")
        return found

    def _recall(self, session: clincus.Session) -> None:
        """Take over from the record what an earlier server knew of a session."""
        id = session.session_id
        if not id or all(id in known for known in (self._counts, self._failures, self._late)):
            return
        record = self.records.find(session.id, id)
        changes = record.changes if record else {}
        starts = [one.note for one in record.checkpoints if one.why == "start"] if record else []
        self._counts.setdefault(id, changes or None)
        self._failures.setdefault(id, record.failure if record else "")
        self._late.setdefault(id, starts[-1] if starts else "")

    def _note_failure(self, record: Record, failure: str) -> None:
        """Remember why the last checkpoint of a session failed, "" if it did not, and tell the pages."""
        known = self._failures.get(record.session_id, record.failure)
        self._failures[record.session_id] = failure
        if known == failure:
            return
        # With a full disk, only this server knows of the failure, until it ends.
        with suppress(clincus.ClincusError, OSError), self.records.changing(record) as stored:
            stored.failure = failure
        self._publish("session.changed", record.id)

    def _publish(self, type: str, id: str) -> None:
        self._app.hub.publish({"type": type, "id": id}, extension=True)

    def _begin(self, session: clincus.Session, timeout: float = LOOK_TIMEOUT) -> None:
        """Take the checkpoint of a start first, if that has not happened yet: all others come after it."""
        if self._is_enabled() and self._is_wanted(session, "start"):
            self._take_start(session, timeout)

    def _take_start(self, session: clincus.Session, timeout: float = LOOK_TIMEOUT) -> Checkpoint:
        """Keep the workspace as the container recorded it before the tool started."""
        record = self.records.of(session)
        look = self._recorded(session, record, "start", timeout)
        made = start_of(self.records.of(session), session.run)
        if made is None:  # else another server has taken it, and the record may show later files
            taken = self._take_in(session, record, look)
            made = self._add(taken, "start", late_note(look.late), run=session.run)
        if made.note != self._late.get(session.session_id, ""):
            self._late[session.session_id] = made.note
            self._publish("session.changed", session.id)
        return made

    def _look(self, session: clincus.Session, timeout: float = LOOK_TIMEOUT) -> Record:
        begun = time.monotonic()
        record = self.records.of(session)
        look = self._recorded(session, record, "now", timeout)
        self._looks[session.id] = begun
        return self._take_in(session, record, look)

    def _recorded(self, session: clincus.Session, record: Record, mode: str, timeout: float) -> Look:
        """Run guest/checkpoint.sh in a mode. If its files may be damaged, run it once more without them."""
        begun = time.monotonic()
        try:
            return self._run(session, record, mode, timeout)
        except clincus.ClincusError as error:
            if error.status != 500 or time.monotonic() - begun > SLOW:
                raise
        look = self._run(session, record, "fresh", timeout)
        return look._replace(late=["."]) if mode == "start" else look

    def _take_in(self, session: clincus.Session, before: Record, look: Look) -> Record:
        """Write a look into the record, and tell all pages how much has changed."""
        record = before
        found = (look.tree, look.skipped, look.is_cut)
        is_new = found != (record.tree, record.skipped, record.skipped_truncated)
        if is_new or not record.changes:
            first = record.checkpoints[0].tree if record.checkpoints else look.tree
            store = self.store(session.workspace)
            counts = self.changes(store, first, look.tree).counts
            with self.records.changing(record) as record:
                record.tree = look.tree
                record.skipped = look.skipped
                record.skipped_truncated = look.is_cut
                record.looked_at = clincus.utc_now()
                record.changes = counts
        self._tell_counts(session, record)
        return record

    def _add(self, record: Record, why: str, note: str, *, run: str = "") -> Checkpoint:
        """Make the last look a checkpoint, unless it would equal the last one.

        A start of the container has one checkpoint for its `run`: another server on this home may have taken it.
        """
        store = self.store(record.workspace)
        # All sessions share the lock of the records, and a container decides how long git takes to list its changes.
        # This call makes the list before the lock is taken, and keeps it.
        self._counts_since(store, last_of(record), record.tree)
        with self.records.changing(record) as stored:
            last = last_of(stored)
            agent = self._states.get(record.id, {})
            if why == "turn" and is_turn_over(agent):
                stored.turn = max(stored.turn, number_of_turn(agent))
            # Another server on this home hears of the same turns.
            is_known = last is not None and (last.why, last.tree) == (why, stored.tree)
            if last is not None and is_known and why in ("prompt", "turn"):
                return last
            known = start_of(stored, run) if why == "start" else None
            if known is not None:
                return known
            stored.run = run or stored.run
            made = Checkpoint(
                str(stored.next),
                clincus.utc_now(),
                why,
                note,
                stored.tree,
                **self._counts_since(store, last, stored.tree),
            )
            store.keep(stored.tree, f"{stored.key}/{stored.next}")
            stored.checkpoints.append(made)
            stored.next += 1
        self._publish("session.checkpoint", record.id)
        return made

    def _counts_since(self, store: Store, last: Checkpoint | None, tree: str) -> dict[str, int]:
        """The counts of the differences between a tree and the last checkpoint; nothing without one."""
        before = tree if last is None else last.tree
        return self.changes(store, before, tree).counts

    def _run(self, session: clincus.Session, record: Record, mode: str, timeout: float) -> Look:
        """Run guest/checkpoint.sh, and take in the objects that it sends. Raises ClincusError."""
        store = self.store(session.workspace)
        known = record.tree if store.exists and mode != "fresh" else ""
        words = (
            self._app.sessions.guest(session).mount,
            known or "-",
            str(FILE_LIMIT),
            str(ASKED_SKIPPED),
            mode,
            record.branch_commit or "-",
        )
        with self._app.sessions.open(session, "checkpoint", *words, timeout=timeout) as (_, stdout):
            look = read_head(stdout)
            name = f"{record.key}/{'branch' if mode == 'branch' else 'now'}"
            if look.tree == known and known:
                store.keep(look.tree, name)
            elif look.tree:
                most = clincus.size_bytes(self._app.config.get("checkpoints.max_size"))
                store.take(pieces_of(stdout), look.tree, name, most - store.size())
            return look
        raise clincus.ClincusError(NO_CHECKPOINT, "container_answer_bad")

    def _old_names(self, store: Store, then: str, now: str, paths: Sequence[str]) -> list[str]:
        """The former names of files that were renamed since and are chosen by their new names."""
        chosen = set(paths)
        renamed = [one for one in self.changes(store, then, now).files if one.old_path]
        return [one.old_path for one in renamed if is_chosen(one.path, chosen)]

    # -- The queue

    def _ask_for_first(self, session: clincus.Session, delay: float) -> None:
        """Ask for the checkpoint of a start; while other sessions start, all of them wait for the last one."""
        with self._changed:
            self._waiting[session.id] = session
            if any(one.status == "starting" for one in self._app.registry.all()):
                self._ask(session, "start", WAIT_FOR_STARTS)
                return
            for waiting in self._waiting.values():
                self._ask(waiting, "start", delay)
            self._waiting = {}

    def _ask(self, session: clincus.Session, why: str, delay: float = 0.0) -> None:
        if not self._is_enabled():
            return
        request = QueuedCheckpoint(time.monotonic() + delay, session.id, why)
        with self._changed:
            for queued in list(self._queue):
                is_later = queued.key == request.key and queued.due > request.due
                if is_later or (queued.id == session.id and queued.tries):
                    self._queue.remove(queued)
            if self._is_asked(session.id, why):
                return
            if why == "prompt":
                self._queue.appendleft(request)
            else:
                self._queue.append(request)
            self._changed.notify_all()

    def _is_asked(self, id: str, why: str) -> bool:
        keys = [*self._doing, *(queued.key for queued in self._queue)]
        return (id, why) in keys

    def _is_wanted(self, session: clincus.Session, why: str) -> bool:
        """False if the checkpoint that a moment asked for exists already."""
        record = self.records.of(session)
        if why == "start":
            return record.run != session.run  # its checkpoint may have been removed since, as one of too many
        if self._failures.get(session.session_id):  # the moment before this one still lacks its checkpoint
            return True
        last = last_of(record)
        age = age_of(last) if last else -1.0
        if last is None or age < 0:  # the clock may have been set back since
            return True
        if why == "turn" and session.id in self._ends:
            return self._ends.pop(session.id) > record.turn
        is_same = why == "prompt" and last.why == "prompt" and age <= SAME_PROMPT
        return not is_same

    def _is_enabled(self) -> bool:
        """True if checkpoints are taken. A command takes none: it has no server and no time for them."""
        return self._app is not None and bool(self._app.config.get("checkpoints.enabled"))

    @contextmanager
    def _held(self, id: str, timeout: float = LOOK_TIMEOUT) -> Iterator[None]:
        """Hold a session, so that one thread at a time looks at it. Raises ClincusError(409) after the timeout."""
        with self._released:
            if not self._released.wait_for(lambda: id not in self._holding, timeout):
                raise clincus.ClincusError(f'another checkpoint of "{id}" is being taken: try again', 409)
            self._holding.add(id)
        try:
            yield
        finally:
            with self._released:
                self._holding.discard(id)
                self._released.notify_all()

    def _tell_counts(self, session: clincus.Session, record: Record) -> None:
        """Tell all pages how much has changed, if the numbers have changed."""
        if self._counts.get(session.session_id) != record.changes:
            self._counts[session.session_id] = record.changes
            event = {"type": "session.changes", "id": session.id, "changes": record.changes}
            self._app.hub.publish(event, extension=True)

    def _forget(self, session: clincus.Session) -> None:
        """Forget a session that is gone; its record stays."""
        for by_id in (self._states, self._ends, self._periods, self._looks, self._resting, self._in_vain, self._untold):
            by_id.pop(session.id, None)
        for by_session_id in (self._counts, self._failures, self._late):
            by_session_id.pop(session.session_id, None)
        record = self.records.find(session.id, session.session_id)
        if record:
            with self.records.changing(record) as stored:
                stored.ended = True
                stored.looked_at = clincus.utc_now()


def program_before_tool(launch: clincus.Launch) -> str:
    """The program that records the workspace beside a start: see guest/start-record.sh."""
    if not launch.config.get("checkpoints.enabled"):
        return ""
    record = shlex.quote(clincus.guest_program("checkpoint"))
    variables = f"record={record} limit={FILE_LIMIT} most={ASKED_SKIPPED} wait={BEFORE_TOOL}"
    return f"{variables}\n{clincus.guest_program('start-record')}"


def last_of(record: Record) -> Checkpoint | None:
    """The newest checkpoint, None without any."""
    return record.checkpoints[-1] if record.checkpoints else None


def age_of(checkpoint: Checkpoint) -> float:
    """Seconds since a checkpoint was taken; -1 if its time is unreadable."""
    taken = clincus.parse_time(checkpoint.at)
    if taken is None:
        return -1.0
    return (datetime.now(timezone.utc) - taken).total_seconds()


def nothing_to_undo(store: Store, trees: Iterable[str], paths: Iterable[str]) -> clincus.ClincusError:
    """The error if an undo of paths changes nothing: a path is in neither tree (404), or all is as it was (409)."""
    trees = list(trees)
    for path in filter(None, paths):
        if not any(entry_of(store, tree, path) for tree in trees):
            shown = clincus.shorten(path)
            problem = f"{shown} is in neither state: the list of changes shows the paths that differ"
            return clincus.ClincusError(problem, 404)
    problem = "these files are as they were then: there is nothing to undo"
    return clincus.ClincusError(problem, "nothing_to_do")


def start_of(record: Record, run: str) -> Checkpoint | None:
    """The checkpoint of the start of a run, None without one. A run is known by Incus's time of its start.

    It is compared with no other time: the clocks of the engine and of the server differ, and may be set.
    """
    starts = [one for one in record.checkpoints if one.why == "start"]
    return starts[-1] if starts and record.run == run else None


def late_note(paths: Sequence[str]) -> str:
    """The note of a start's checkpoint if the tool was faster for some paths, else "".

    A path with a slash at its end is a folder in which the tool may have removed something.
    """
    if not paths:
        return ""
    if "." in paths:
        return ALL_LATE
    files_first = sorted(paths, key=lambda path: path.endswith("/"))
    named = ", ".join(clincus.shorten(path) for path in files_first[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    kinds = "files and folders" if files_first[-1].endswith("/") else "files"
    return f"recorded after the tool had changed these {kinds}: {named}{more}"


def is_turn_over(agent: Mapping[str, object]) -> bool:
    """True if the state of a tool is the end of a turn that no person has looked at yet."""
    return agent.get("state") in ("done", "failed") or agent.get("reason") == "interrupted"


def number_of_turn(agent: Mapping[str, object]) -> int:
    """The number of the turn that a tool is in, or that it ended last."""
    turn = agent.get("turn")
    return turn if isinstance(turn, int) else 0


def pieces_of(stream: BufferedReader) -> Iterator[bytes]:
    """The rest of a stream, as it comes."""
    return iter(lambda: stream.read1(1 << 16), b"")


def read_head(stream: BufferedReader) -> Look:
    """Read the part of guest/checkpoint.sh's output before the pack. ClincusError: 409 for a reason, else 500."""
    line = stream.readline(200)
    if not line:
        raise NothingSaid
    words = line.decode("ascii", "replace").split()
    if words[:1] == ["!"]:
        reason = REFUSALS.get(" ".join(words[1:]), "no checkpoint can be taken")
        raise clincus.ClincusError(reason, 409)
    if len(words) != 3 or not all(TREE.fullmatch(word) or word == "-" for word in words[:2]):
        raise clincus.ClincusError(NO_CHECKPOINT, "container_answer_bad")
    tree, commit, count = words
    if not count.isdecimal() or int(count) > ASKED_SKIPPED:
        raise clincus.ClincusError(NO_CHECKPOINT, "container_answer_bad")
    skipped = []
    late = []
    rows = [read_skipped(stream) for _ in range(int(count))]
    for path, why in rows[:SKIPPED]:
        if why == LATE:
            late.append(path)
        else:
            skipped.append(Skipped(path, why))
    return Look(tree.strip("-"), commit.strip("-"), skipped, late, is_cut=len(rows) > SKIPPED)


def read_skipped(stream: BufferedReader) -> tuple[str, str]:
    """The next path that the container left out or recorded late, and why. Raises ClincusError(500)."""
    word, _, path = read_field(stream).partition(b" ")
    why = word.decode("ascii", "replace")
    if why not in (*SKIPPED_WHYS, LATE) or not path:
        raise clincus.ClincusError(NO_CHECKPOINT, "container_answer_bad")
    return path.decode("utf-8", "surrogateescape"), why


def read_field(stream: BufferedReader) -> bytes:
    """The bytes up to the next NUL. Raises ClincusError(500) without a NUL within FIELD_LIMIT bytes."""
    field = bytearray()
    while byte := stream.read(1):
        if byte == b"\0":
            return bytes(field)
        field += byte
        if len(field) > FIELD_LIMIT:
            break
    raise clincus.ClincusError(NO_CHECKPOINT, "container_answer_bad")
