"""Looks at workspaces and keeps checkpoints: who asks for one, when it is taken, and how it comes to the host.

Moments of sessions and of their tools only put work into a queue, which a few threads do. A request of the API that
changes something does the work in its own thread; one that only reads waits for a look as long as an answer may take
(`soon`). Calls on one session wait for each other.
"""

from __future__ import annotations

import functools
import math
import os
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from io import BufferedReader
from typing import NamedTuple

import clincus
from clincus_features.review.changes import entry_of, list_changes, touched_paths
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
SKIPPED = 200  # paths that are told as left out
KEPT_LISTS = 16  # lists of changes in memory
LOOK_TIMEOUT = 120.0  # seconds that a look at a workspace may take
ANSWER_WITHIN = 10.0  # seconds that an answer waits for one
STILL_LOOKING = (
    "the container has not told yet what its workspace holds: ask again; if that goes on, its programs may hang, and a "
    "stop and a resume start them anew"
)
FAILURE_LIMIT = 300  # characters of why a checkpoint failed
SLOW = 20.0  # seconds after which a look that failed is not repeated, and moments of that session wait for a while
REST = 600.0  # seconds of that while, and seconds between two looks at the queue while nobody asks
LAST_LOOK = 5.0  # seconds that a stop waits for the last look
BEFORE_TOOL = 0.3  # seconds that a tool waits at a start until its workspace has been read
BEFORE_PROMPT = 2.0  # seconds that a prompt waits for its checkpoint
SAME_PROMPT = 60.0  # seconds for which the checkpoint before a prompt is that of the turn that begins
WAIT_FOR_STARTS = 5.0  # seconds that the first checkpoint leaves the machine to other sessions that start
SETTLING = 1.5  # seconds after a start that somebody else has begun
LOOK_COST = 0.4  # seconds of CPU that a look at a workspace may take in a container, and the container still sleeps
RECORDERS = 4  # checkpoints taken at the same time
PATIENCE = 5.0  # seconds after which one that still goes on counts as none of these: its container may hang
FIRST_PERIOD, LAST_PERIOD = 30.0, 600.0  # seconds between two looks at a tool without hooks, while nothing changes
SKIPPED_WHYS = ("large", "repository", "unreadable", "special", "ignored")
LATE = "late"  # in place of these: a file that the tool changed before it was recorded; `.` stands for any
ALL_LATE = "recorded while the tool was already at work, so what it changed first may be in it"
NAMED = 5  # files that a note names
RESTING = ("done", "idle", "failed", "waiting", "ended", "stuck")
REFUSALS = {  # what guest/checkpoint.sh says
    "workspace": "the workspace is not mounted in the container",
    "git": "the container has no git: use an image with git in it",
    "perl": "the container has no Perl: use an image with perl in it",
    "home": "the home in the container cannot be written to, or another checkpoint does not end",
    "large": f"more than 2000 files are larger than {FILE_LIMIT >> 20} MB: name their folders in .gitignore",
    "stuck": "git in the container did not end within 20 seconds: a repository in the workspace may keep it waiting, "
    "with a named pipe in its .git (`find . -type p` in a shell of the session shows them)",
    "commits": "the workspace is no git repository with a commit",
}

clincus.register_settings(
    clincus.Setting("checkpoints.enabled", True, clincus.check_switch),
    clincus.Setting("checkpoints.max_age", "720h", clincus.check_duration),
    clincus.Setting("checkpoints.max_count", 200, clincus.whole(10, 5000)),
    clincus.Setting("checkpoints.max_size", "2GiB", clincus.matching(clincus.SIZE, f"write {clincus.WRITE_SIZE}")),
)


class NothingSaid(BrokenPipeError):
    """The program has ended without a word: `Incus.open` then raises what it has written to stderr."""


class Look(NamedTuple):
    """The finding of guest/checkpoint.sh: a tree that is in the store by now."""

    tree: str
    commit: str
    skipped: list[Skipped]
    late: Sequence[str] = ()  # of the checkpoint of a start


class Recorder:
    """Takes the checkpoints of all sessions."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self.records = Records(lambda: records_folder(os.environ if app is None else app.environ))
        # Two trees always differ in the same way, so the last lists are kept.
        self.changes = functools.lru_cache(KEPT_LISTS)(list_changes)
        self._stores: dict[str, Store] = {}  # by workspace
        # The sessions that are held. A lock for each would keep a page of memory to itself, amid what comes and goes.
        self._holding: set[str] = set()
        self._released = threading.Condition()  # guards them
        self._changed = threading.Condition()  # guards all that follows
        self._slow: set[str] = set()  # sessions at which a look takes longer than an answer
        # Session -> why its last such look failed, for the next answer, and time.monotonic of that.
        self._untold: dict[str, tuple[Exception, float]] = {}
        self._queue: deque[tuple[float, str, str]] = deque()  # time.monotonic from which on, session, why
        self._doing: list[tuple[str, str]] = []  # session, why
        self._resting: dict[str, float] = {}  # session -> time.monotonic until which its moments count for nothing
        self._looks: dict[str, float] = {}  # session -> time.monotonic at which the last look at its workspace began
        self._waiting: dict[str, clincus.Session] = {}  # started while others were starting
        self._states: dict[str, Mapping[str, object]] = {}  # session -> what its agent was last heard to do
        self._ends: dict[str, int] = {}  # session -> a turn that is over and that nobody saw begin
        self._counts: dict[str, dict[str, int] | None] = {}  # session id -> changes since the start
        self._failures: dict[str, str] = {}  # session id -> why the last checkpoint was not taken
        self._late: dict[str, str] = {}  # session id -> the note of the checkpoint of its last start
        self._periods: dict[str, tuple[float, float]] = {}  # session -> next look at a tool without hooks, and period

    # -- Moments

    def tell(self, moment: str, session: clincus.Session) -> None:
        """A moment in a session's life; only "before_prompt" and "before_stop" wait, and not for long."""
        if moment in ("started", "after_start") and self._is_enabled():
            self._ask_for_first(session, SETTLING if moment == "started" else 0.0)
        elif moment == "ring":
            self._periods.pop(session.id, None)
        elif moment == "before_prompt" and self._is_enabled():
            self._ask(session, "prompt")
            with self._changed:
                self._changed.wait_for(lambda: not self._is_asked(session.id, "prompt"), BEFORE_PROMPT)
        elif moment == "before_stop" and session.status == "running" and not session.paused and self._is_enabled():
            clincus.survive(f"the last look at {session.id}", lambda: self.now(session, timeout=LAST_LOOK))
        elif moment == "deleted":
            self._forget(session)

    def hear(self, session: clincus.Session, agent: Mapping[str, object]) -> None:
        """A session's tool has another state: a turn has begun, or is over. It never waits."""
        state, last = agent["state"], self._states.get(session.id, {})
        before, self._states[session.id] = last.get("state"), agent
        if state == "working" and before in RESTING and before != "waiting":
            self._ask(session, "prompt")
        elif before == "working" and state in RESTING:
            self._ends.pop(session.id, None)
            self._ask(session, "turn")
        elif is_turn_over(agent) and (before == "stuck" or agent.get("turn") != last.get("turn")):
            self._ends[session.id] = number_of_turn(agent)  # no look saw the tool at work
            self._ask(session, "turn")

    def look_at_quiet_tools(self) -> None:
        """Ask for a checkpoint of sessions whose tool tells nothing; less often, the longer nothing changes there.

        None is taken of a container that has slept since its workspace was looked at.
        """
        at, due = time.monotonic(), []
        for session in self._app.registry.all():
            is_there = session.status == "running" and not session.unreachable_since
            if is_there and self._states.get(session.id, {}).get("state") == "unknown":
                when, period = self._periods.setdefault(session.id, (at + FIRST_PERIOD, FIRST_PERIOD))
                if at >= when:
                    longer = min(2 * period, LAST_PERIOD)
                    self._periods[session.id] = (at + longer, longer)
                    due.append(session)
        for session in self._awake(due) if self._is_enabled() else ():
            self._ask(session, "timer")

    def _awake(self, sessions: Sequence[clincus.Session]) -> Iterator[clincus.Session]:
        """Those whose containers are not known to have slept since the last look at their workspaces."""
        for engine in {session.engine for session in sessions}:
            here = [session for session in sessions if session.engine == engine]
            since = {session.id: self._looks.get(session.id, -math.inf) for session in here}
            asleep = self._app.extensions.known_to_sleep(engine, since, LOOK_COST)
            yield from (session for session in here if session.id not in asleep)

    def work(self, engine: str) -> None:
        """Wait until somebody has asked for a checkpoint of an engine's session, and take it.

        A container may take two minutes for one. So each is taken in a thread of its own, which is left after PATIENCE
        seconds, and a session has one such thread at most: however many hang, the others get theirs.
        """
        with self._changed:
            at = time.monotonic()
            busy = {id for id, _ in self._doing}
            asked = [one for one in self._queue if clincus.engine_of(one[1]) == engine and one[1] not in busy]
            due = next((one for one in asked if one[0] <= at), None)
            if due is None:
                self._changed.wait(min((one[0] for one in asked), default=at + REST) - at)
                return
            _, id, why = due
            self._queue.remove(due)
            self._doing.append((id, why))
        work = functools.partial(clincus.survive, f"a checkpoint of {id}", lambda: self._do(id, why))
        doing = threading.Thread(target=work, name=f"checkpoint of {id}", daemon=True)
        try:
            doing.start()
        except RuntimeError:  # no thread can be had just now
            work()
        else:
            doing.join(PATIENCE)

    def _do(self, id: str, why: str) -> None:
        """Take a checkpoint that was asked for, if it is still wanted."""
        at = time.monotonic()
        try:
            session = self._app.registry.find(id)
            if session is not None and session.status == "running" and self._is_wanted(session, why):
                self.take(session, why, only_changed=why == "timer")
        except (clincus.ClincusError, OSError) as error:
            clincus.log.info("%s: no checkpoint: %s", id, error)
            now = self._app.registry.find(id)
            if now is not None and now.status == "running":
                self._note_failure(self.records.of(now), clincus.printable(str(error))[:FAILURE_LIMIT])
            if time.monotonic() - at > SLOW:  # a container that hangs must not keep others waiting again and again
                self._resting[id] = time.monotonic() + REST
        finally:
            with self._changed:
                self._doing.remove((id, why))
                self._changed.notify_all()

    # -- Checkpoints

    def take(
        self, session: clincus.Session, why: str, note: str = "", *, only_changed: bool = False
    ) -> Checkpoint | None:
        """Keep the present state of a running session's workspace; None if it is that of the last checkpoint and should
        not be kept again. Raises ClincusError.
        """
        with self._held(session.id):
            made = self._take_start(session) if why == "start" else self._take(session, why, note, only_changed)
            if self._failures.get(session.session_id) != "":
                self._note_failure(self.records.of(session), "")
            return made

    def _take(self, session: clincus.Session, why: str, note: str, only_changed: bool) -> Checkpoint | None:
        self._begin(session)
        record = self._look(session)
        if only_changed and record.checkpoints and record.checkpoints[-1].tree == record.tree:
            return None
        self._periods.pop(session.id, None)
        return self._add(record, why, note)

    def now(self, session: clincus.Session, *, timeout: float = LOOK_TIMEOUT) -> Record:
        """The record of a running session with its workspace as it is now. If several wait, one looks for all.

        Raises ClincusError.
        """
        asked = time.monotonic()
        with self._held(session.id, timeout):
            if self._looks.get(session.id, 0.0) > asked:
                return self.records.of(session)
            self._begin(session, timeout)
            return self._look(session, max(1.0, timeout - (time.monotonic() - asked)))

    def soon(self, session: clincus.Session, look: Callable[[clincus.Session], Record]) -> Record:
        """What a look finds, for an answer. One that takes longer than an answer goes on, for the next question.

        Raises what `look` raises, and ClincusError(504) for a look that goes on.
        """
        with self._changed:
            if session.id in self._slow:
                raise clincus.ClincusError(STILL_LOOKING, 504)
            untold, failed_at = self._untold.pop(session.id, (None, 0.0))
        if untold is not None and time.monotonic() - failed_at < LOOK_TIMEOUT:  # later, it may be so no more
            raise untold
        outcome: list[Record | BaseException] = []

        def work() -> None:
            try:
                outcome.append(look(session))
            except BaseException as error:
                outcome.append(error)
            with self._changed:
                if session.id in self._slow and isinstance(outcome[0], clincus.ClincusError):
                    self._untold[session.id] = outcome[0], time.monotonic()
                self._slow.discard(session.id)

        thread = threading.Thread(target=work, name=f"looking at {session.id}", daemon=True)
        thread.start()
        thread.join(ANSWER_WITHIN)
        with self._changed:
            if not outcome:
                self._slow.add(session.id)
                raise clincus.ClincusError(STILL_LOOKING, 504)
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def with_branch(self, session: clincus.Session) -> Record:
        """The record of a running session with the tree of the commit at which its branch left its upstream or main.

        Raises ClincusError: 409 without a commit.
        """
        with self._held(session.id):
            record = self.records.of(session)
            look = self._run(session, record, "branch", LOOK_TIMEOUT)
            with self.records.changing(record) as record:
                if look.tree:
                    record.branch_commit, record.branch_tree = look.commit, look.tree
            return record

    def undo(self, session: clincus.Session, checkpoint: str, paths: Sequence[str] | None) -> dict[str, object]:
        """Bring paths of a running session's workspace back to a checkpoint, after one of now; what was done.

        Paths None: all that the session's turns have touched. Raises ClincusError: 404, 409.
        """
        with self._held(session.id):
            self._begin(session)
            then = tree_of(self.records.of(session), checkpoint)
            record = self._look(session)
            store = self.store(record.workspace)
            touched = self.touched(record) if paths is None else set()
            chosen = None if paths is None else [*paths, *self._old_names(store, then, record.tree, paths)]
            changes = wanted_changes(store, record.tree, then, chosen, touched)
            if not changes:
                for path in filter(None, paths or ()):
                    if not any(entry_of(store, tree, path) for tree in (then, record.tree)):
                        words = f"{clincus.shorten(path)} is in neither state: look at the changes for what differs"
                        raise clincus.ClincusError(words, 404)
                raise clincus.ClincusError("these files are as they were then: there is nothing to undo", 409)
            made = self._add(record, "restore", f"before going back to {checkpoint}")
            try:
                done = restore(self._app.sessions, session, store, changes)
            finally:
                clincus.survive(f"{session.id}: the look after an undo", lambda: self._look(session))
        return {"checkpoint": made.checkpoint, **done}

    def others(self, record: Record) -> list[str]:
        """The other sessions in the same folder of the same machine; one with a clone works in its own."""
        engine = clincus.engine_of(record.id)
        everything = self._app.registry.all() if record.mode == "mount" else ()
        return [
            one.id
            for one in everything
            if (one.workspace, one.engine, one.mode) == (record.workspace, engine, "mount") and one.id != record.id
        ]

    def touched(self, record: Record) -> set[str]:
        """The paths that the turns of a session have changed."""
        pairs = turn_pairs(record.checkpoints, record.tree, is_alone=not self.others(record))
        return touched_paths(self.store(record.workspace), pairs)

    def store(self, workspace: str) -> Store:
        """The repository of a workspace's checkpoints."""
        made = Store(records_folder(self._app.environ), workspace, self._app.environ)
        return self._stores.setdefault(workspace, made)

    def fields(self, session: clincus.Session) -> dict[str, object]:
        """The fields of a session: how much has changed since its start, null while that is not known."""
        self._recall(session)
        return {"changes": self._counts.get(session.session_id)}

    def warnings(self, session: clincus.Session) -> list[str]:
        """The warnings of a session: that its last checkpoint failed, and that its tool was faster than its first."""
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
        is_known = all(session.session_id in known for known in (self._counts, self._failures, self._late))
        if session.session_id and not is_known:
            record = self.records.find(session.id, session.session_id)
            self._counts.setdefault(session.session_id, record.changes if record and record.changes else None)
            self._failures.setdefault(session.session_id, record.failure if record else "")
            starts = [one.note for one in record.checkpoints if one.why == "start"] if record else []
            self._late.setdefault(session.session_id, starts[-1] if starts else "")

    def _note_failure(self, record: Record, failure: str) -> None:
        """Remember why the last checkpoint of a session failed, "" if it did not, and tell the pages of it."""
        known = self._failures.get(record.session_id, record.failure)
        self._failures[record.session_id] = failure
        if known == failure:
            return
        # The disk may be full: then it is known until the server ends.
        with suppress(clincus.ClincusError, OSError), self.records.changing(record) as now:
            now.failure = failure
        self._app.hub.publish({"type": "session.changed", "id": record.id}, extension=True)

    def _begin(self, session: clincus.Session, timeout: float = LOOK_TIMEOUT) -> None:
        """Take the checkpoint of a start first, if it is still to be taken: all others come after it."""
        if self._is_enabled() and self._is_wanted(session, "start"):
            self._take_start(session, timeout)

    def _take_start(self, session: clincus.Session, timeout: float = LOOK_TIMEOUT) -> Checkpoint:
        """Keep the workspace as it was before the tool started, as the container has recorded it then."""
        record = self.records.of(session)
        look = self._recorded(session, record, "start", timeout)
        made = start_since(self.records.of(session), session.started_at)
        if made is None:  # else another server has taken it, and the files of now may be known by now
            note = late_note(look.late)
            made = self._add(self._take_in(session, record, look), "start", note, since=session.started_at)
        if made.note != self._late.get(session.session_id, ""):
            self._late[session.session_id] = made.note
            self._app.hub.publish({"type": "session.changed", "id": session.id}, extension=True)
        return made

    def _look(self, session: clincus.Session, timeout: float = LOOK_TIMEOUT) -> Record:
        begun, record = time.monotonic(), self.records.of(session)
        look = self._recorded(session, record, "now", timeout)
        self._looks[session.id] = begun
        return self._take_in(session, record, look)

    def _recorded(self, session: clincus.Session, record: Record, mode: str, timeout: float) -> Look:
        """What guest/checkpoint.sh finds in a mode; once more without what it has if that may be damaged."""
        begun = time.monotonic()
        try:
            return self._run(session, record, mode, timeout)
        except clincus.ClincusError as error:
            if error.status != 500 or time.monotonic() - begun > SLOW:
                raise
        look = self._run(session, record, "fresh", timeout)
        return look._replace(late=["."]) if mode == "start" else look

    def _take_in(self, session: clincus.Session, before: Record, look: Look) -> Record:
        """Let the record tell what was found, and all pages how much has changed."""
        record = before
        if (look.tree, look.skipped) != (record.tree, record.skipped) or not record.changes:
            first = record.checkpoints[0].tree if record.checkpoints else look.tree
            counts = self.changes(self.store(session.workspace), first, look.tree).counts
            with self.records.changing(record) as record:
                record.tree, record.skipped, record.looked_at = look.tree, look.skipped, clincus.utc_now()
                record.changes = counts
        self._tell_counts(session, record)
        return record

    def _add(self, record: Record, why: str, note: str, *, since: str = "") -> Checkpoint:
        """Make the last look a checkpoint, unless it would be the same as the last one.

        A start is the only one `since` a time: another server on this home may have taken it meanwhile.
        """
        store = self.store(record.workspace)
        # All sessions share the lock, and a container decides how long it takes to list its changes: the list is made
        # before, and kept.
        known = next(iter(record.checkpoints[-1:]), None)
        self.changes(store, known.tree if known else record.tree, record.tree)
        with self.records.changing(record) as now:
            last = next(iter(now.checkpoints[-1:]), None)
            agent = self._states.get(record.id, {})
            if why == "turn" and is_turn_over(agent):
                now.turn = max(now.turn, number_of_turn(agent))
            # Another server on this home hears of the same turns.
            if last is not None and (last.why, last.tree) == (why, now.tree) and why in ("prompt", "turn"):
                return last
            if why == "start" and (known := start_since(now, since)) is not None:
                return known
            counts = self.changes(store, last.tree if last else now.tree, now.tree).counts
            made = Checkpoint(str(now.next), clincus.utc_now(), why, note, now.tree, **counts)
            store.keep(now.tree, f"{now.key}/{now.next}")
            now.checkpoints.append(made)
            now.next += 1
        self._app.hub.publish({"type": "session.checkpoint", "id": record.id}, extension=True)
        return made

    def _run(self, session: clincus.Session, record: Record, mode: str, timeout: float) -> Look:
        """Run guest/checkpoint.sh, and take in what it sends. Raises ClincusError."""
        store, mount = self.store(session.workspace), self._app.sessions.guest(session).mount
        known = record.tree if store.exists and mode != "fresh" else ""
        words = mount, known or "-", str(FILE_LIMIT), str(SKIPPED), mode, record.branch_commit or "-"
        with self._app.sessions.open(session, "checkpoint", *words, timeout=timeout) as (_, stdout):
            look = read_head(stdout)
            name = f"{record.key}/{'branch' if mode == 'branch' else 'now'}"
            if look.tree == known and known:
                store.keep(look.tree, name)
            elif look.tree:
                room = clincus.size_bytes(self._app.config.get("checkpoints.max_size")) - store.size()
                store.take(pieces_of(stdout), look.tree, name, room)
            return look
        raise clincus.ClincusError("the container did not answer with a checkpoint", 500)

    def _old_names(self, store: Store, then: str, now: str, paths: Sequence[str]) -> list[str]:
        """The names that files had then, for those that were renamed since and are chosen by their new names."""
        files = self.changes(store, then, now).files
        return [one.old_path for one in files if one.old_path and is_chosen(one.path, set(paths))]

    # -- The queue

    def _ask_for_first(self, session: clincus.Session, delay: float) -> None:
        """Ask for the checkpoint of a start; while other sessions start, all of them wait for the last one."""
        with self._changed:
            self._waiting[session.id] = session
            if any(one.status == "starting" for one in self._app.registry.all()):
                self._ask(session, "start", WAIT_FOR_STARTS)
                return
            waiting, self._waiting = self._waiting, {}
            for one in waiting.values():
                self._ask(one, "start", delay)

    def _ask(self, session: clincus.Session, why: str, delay: float = 0.0) -> None:
        if not self._is_enabled():
            return
        at = time.monotonic() + delay
        with self._changed:
            later = [one for one in self._queue if one[1:] == (session.id, why) and one[0] > at]
            for one in later:
                self._queue.remove(one)
            if not self._is_asked(session.id, why):
                add = self._queue.appendleft if why == "prompt" else self._queue.append
                add((at, session.id, why))
                self._changed.notify_all()

    def _is_asked(self, id: str, why: str) -> bool:
        return (id, why) in self._doing or any(one[1:] == (id, why) for one in self._queue)

    def _is_wanted(self, session: clincus.Session, why: str) -> bool:
        """Whether a checkpoint that was asked for by a moment is not there already."""
        if self._resting.get(session.id, 0.0) > time.monotonic():
            return False
        record = self.records.of(session)
        last = next(iter(record.checkpoints[-1:]), None)
        taken = clincus.parse_time(last.at) if last else None
        age = (datetime.now(timezone.utc) - taken).total_seconds() if taken else -1.0
        if last is None or age < 0:  # it is from before the clock was set back
            return True
        if why == "start":
            return last.at < session.started_at
        if why == "turn" and session.id in self._ends:
            return self._ends.pop(session.id) > record.turn
        return why != "prompt" or last.why != "prompt" or age > SAME_PROMPT

    def _is_enabled(self) -> bool:
        """Whether checkpoints are taken: never by a command, which has no server and no time for them."""
        return self._app is not None and bool(self._app.config.get("checkpoints.enabled"))

    @contextmanager
    def _held(self, id: str, timeout: float = LOOK_TIMEOUT) -> Iterator[None]:
        """Hold a session, so that it is looked at by one at a time. Raises ClincusError(409) after the timeout."""
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
        """Tell all pages how much has changed, if that is another number."""
        if self._counts.get(session.session_id) != record.changes:
            self._counts[session.session_id] = record.changes
            event = {"type": "session.changes", "id": session.id, "changes": record.changes}
            self._app.hub.publish(event, extension=True)

    def _forget(self, session: clincus.Session) -> None:
        """A session is gone; its record stays."""
        for kept in (self._states, self._ends, self._periods, self._looks, self._resting, self._untold):
            kept.pop(session.id, None)
        self._counts.pop(session.session_id, None)
        self._failures.pop(session.session_id, None)
        self._late.pop(session.session_id, None)
        record = self.records.find(session.id, session.session_id)
        if record:
            with self.records.changing(record) as record:
                record.ended, record.looked_at = True, clincus.utc_now()


def program_before_tool(launch: clincus.Launch) -> str:
    """The program that records the workspace beside a start: see guest/start-record.sh."""
    if not launch.config.get("checkpoints.enabled"):
        return ""
    record = shlex.quote(clincus.guest_program("checkpoint"))
    return (
        f"record={record} limit={FILE_LIMIT} most={SKIPPED} wait={BEFORE_TOOL}\n{clincus.guest_program('start-record')}"
    )


def start_since(record: Record, since: str) -> Checkpoint | None:
    """The checkpoint of a start that was taken since a time (RFC 3339), None if there is none."""
    starts = (one for one in record.checkpoints if one.why == "start")
    return next((one for one in starts if since <= one.at <= clincus.utc_now()), None)


def late_note(paths: Sequence[str]) -> str:
    """The note of a checkpoint of a start that is not in all as it was then; a path with a slash at its end is a folder
    in which the tool may have removed something.
    """
    if not paths:
        return ""
    if "." in paths:
        return ALL_LATE
    in_order = sorted(paths, key=lambda path: path.endswith("/"))
    named = ", ".join(clincus.shorten(path) for path in in_order[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    what = "files and folders" if in_order[-1].endswith("/") else "files"
    return f"recorded after the tool had changed these {what}: {named}{more}"


def is_turn_over(agent: Mapping[str, object]) -> bool:
    """Whether the state of a tool is the end of a turn that no person has looked at yet."""
    return agent.get("state") in ("done", "failed") or agent.get("reason") == "interrupted"


def number_of_turn(agent: Mapping[str, object]) -> int:
    """The number of the turn that a tool is in, or has ended last."""
    turn = agent.get("turn")
    return turn if isinstance(turn, int) else 0


def pieces_of(stream: BufferedReader) -> Iterator[bytes]:
    """The rest of a stream, as it comes."""
    return iter(lambda: stream.read1(1 << 16), b"")


def read_head(stream: BufferedReader) -> Look:
    """Read what guest/checkpoint.sh prints before the pack. ClincusError: 409 for a reason, 500 for anything else."""
    line = stream.readline(200)
    if not line:
        raise NothingSaid
    words = line.decode("ascii", "replace").split()
    if words[:1] == ["!"]:
        raise clincus.ClincusError(REFUSALS.get(" ".join(words[1:]), "no checkpoint can be taken"), 409)
    nonsense = clincus.ClincusError("the container did not answer with a checkpoint", 500)
    if len(words) != 3 or not words[2].isdecimal() or not 0 <= int(words[2]) <= SKIPPED:
        raise nonsense
    if not all(TREE.fullmatch(word) or word == "-" for word in words[:2]):
        raise nonsense
    skipped = []
    for _ in range(int(words[2])):
        why, _, path = read_field(stream).partition(b" ")
        if why.decode("ascii", "replace") not in (*SKIPPED_WHYS, LATE) or not path:
            raise nonsense
        skipped.append(Skipped(path.decode("utf-8", "surrogateescape"), why.decode()))
    late = [one.path for one in skipped if one.why == LATE]
    return Look(words[0].strip("-"), words[1].strip("-"), [one for one in skipped if one.why != LATE], late)


def read_field(stream: BufferedReader, most: int = 8192) -> bytes:
    """The bytes up to the next NUL. Raises ClincusError(500) where none comes."""
    field = bytearray()
    while byte := stream.read(1):
        if byte == b"\0":
            return bytes(field)
        field += byte
        if len(field) > most:
            break
    raise clincus.ClincusError("the container did not answer with a checkpoint", 500)
