"""The second line behind the wall: records sealed paths, watches them, and acts when something replaces one.

Three moments make a record: the start of a container (`sealed`), a server that finds one running, and an edit of a
person, who changes a sealed file in place. Any other change of a sealed path while the container runs is a break:
the container is frozen first, and then the copy is restored.

In a server, one thread (`Watcher`) judges and writes records. Each break has a thread that acts on it, since it waits
for Incus. A command has no server: it writes the record, and compares when it ends the session.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import clincus

from . import gitlinks, index, links, restore, seals, unfinished
from .examiner import Examiner
from .identity import Copies, note_item, thing_at
from .leases import Leases
from .live import Fault, Live, Mends
from .moves import Move, Moves
from .records import Change, Record, Records, Run
from .seals import Stage
from .suspects import suspects
from .verdicts import (
    EDITED,
    MOST_TOLD,
    RESTARTS,
    add_changes,
    changed_files,
    differing,
    is_anothers,
    is_later,
    is_other,
    kind_of_unsealed,
    mend,
    set_aside,
    several_names,
    source_of,
    told,
    verdict,
    waiting_words,
    ways,
    what_happened,
)
from .watch import CHANGED, FOUND, LOST, MOVED, Mark, Touched, Watcher, graver

SETTLE = 0.3  # seconds from an edit in place to its record
NEW_IN_SEALED = (
    "is new in a sealed folder. You can have put it there, or a session in which that folder is not sealed: if it is"
    " not yours, remove it"
)
REWRITTEN = (
    "was changed from your side while it is sealed. If your git did that (checkout, reset, stash, pull), it is what the"
    " agent committed or put into the index: read it before a program runs it"
)
RESTART = 0.2  # seconds in which a missing placeholder may be created again, as the container restarts
LINKS = ""  # the mark for changes in a Git folder, where a link may have appeared
EXAMINED_WITHIN = 20.0  # seconds for which a stop waits for the look at its folder
FROZEN_WITHIN = 30.0  # seconds for Incus to freeze a container
FREEZE_TRY = 5.0  # seconds of one try: meanwhile the agent's file is in the place of the sealed one
ASK_AGAIN = 2.0  # seconds after which Incus is asked again if it does not answer
TRIES = 5  # to restore something
MENDED_WITHIN = 120.0  # seconds after the end of a run in which the wall goes away, even on a busy machine
MOST_MENDED = 30  # restorations in one run after the freeze
MEND_AGAIN = 1.0  # seconds between two of these
NOT_SEEN = "What is sealed on another host is not watched from here"
NOT_WATCHED = "Paths that plain devices seal are not watched"
NOT_REPORTED = (
    "what is sealed is compared every two seconds only, and an exchange for a shorter time is not noticed, as"
    " the kernel does not report changes"
)
MORE_WATCHES = "Raise fs.inotify.max_user_watches and max_user_instances (sysctl), or end the program that uses them"
NOBODY_SAW = "the end of that session was not seen, so you may have done it yourself since"
ACCEPT = 'or start with "accept_changes": true (clincus shell --accept-changes) if you made the change yourself'


class ChangedError(clincus.ClincusError):
    """The paths to seal differ from those at the last start, and nobody has accepted that."""


class Guard:
    """Handles sealed paths at a start, in a server, and for a person's requests. `app` is None in a command."""

    def __init__(self, app: Any, environ: Mapping[str, str]) -> None:
        self._app = app
        self.records = Records(environ)
        self._environ = environ
        self._stages: dict[str, Stage] = {}  # session -> the stage of its last start here
        self._accepted: dict[str, list[Change]] = {}  # session -> what its start accepted
        self._ended: dict[str, set[str]] = {}  # session -> the runs that its start found to be over
        self._noting: dict[str, threading.Thread] = {}  # in a command: session -> the thread that writes its record
        self._found: queue.SimpleQueue[clincus.Session] = queue.SimpleQueue()
        self._live: dict[str, Live] = {}  # only the thread of the watcher changes this
        # Session -> paths that were touched as its container ended, and how; changed as `_live`.
        self._late: dict[str, dict[str, str]] = {}
        self._edited: dict[tuple[str, str], float] = {}  # workspace and path -> time.monotonic; as `_live`
        self.examiner = Examiner(self, environ)
        self._mends = Mends()
        self._acting = threading.Lock()  # one break, or one decision of a person, at a time
        self._breaks: dict[str, threading.Event] = {}  # session -> set once the thread that acts on it has ended
        self._faults: dict[str, Fault] = {}  # path that was put aside and has to be reported -> the reason
        self._moves: dict[str, Moves] = {}  # session -> renames in its Git folders; as `_live`
        self._gitlinks: dict[str, gitlinks.Gitlinks] = {}  # session -> the gitlinks of its indexes; as `_live`
        self._blind: dict[str, str] = {}  # session -> why the kernel does not report all changes; as `_live`
        self._broken: dict[str, list[Change]] = {}  # session -> why it is frozen; empty while a thread acts
        self._changes: dict[str, list[Change]] = {}  # session -> all changes of its run
        self._reported: set[tuple[str, str]] = set()  # reports that are made once for each session
        self._asked: set[str] = set()  # sessions whose record was looked at for the field
        self._examined: dict[str, threading.Event] = {}  # session that has ended -> set once its folder was examined

    @clincus.locked_property
    def watcher(self) -> Watcher:
        """The watcher of a server."""
        return Watcher(self._judge, self._settle)

    @clincus.locked_property
    def leases(self) -> Leases:
        """The leases of a server, which keep files without a seal from being written unseen."""
        return Leases()

    def work(self) -> None:
        """Wait for changes of sealed paths, and act on them."""
        self.watcher.work()

    def close(self) -> None:
        """End the watch and the leases of a server. Its threads must have ended."""
        self.watcher.close()
        self.leases.let_go(())

    # -- Before a start

    def check_start(
        self, incus: clincus.Incus, session: clincus.Session, launch: clincus.Launch, description: dict[str, Any]
    ) -> None:
        """Remember what a start seals. Raises ChangedError(409) if it differs from what the last start sealed."""
        if session.mode != "mount":
            return
        stage = Stage.of(description["config"]) if not session.engine else None
        if stage is None or session.engine:
            self._stages.pop(session.id, None)
            if session.protection != "off":
                self._add_note(description, NOT_SEEN if session.engine else NOT_WATCHED)
        if session.engine:
            return
        if stage is not None:
            self._stages[session.id] = stage
        record = self.records.read(session.workspace)
        found = [*record.changes, *self._unseen_changes(record, session.id, incus)]
        found += self._note_links(session, stage, record)
        if found and not launch.request.accept_changes:
            words = f"{told(found)}; look at it before you run git there, {ACCEPT}"
            raise ChangedError(f'"{session.workspace}": {words}', "workspace_changed")
        self._accepted[session.id] = found

    def _add_note(self, description: dict[str, Any], words: str) -> None:
        key = f"{clincus.LABEL}protection_note"
        config = description["config"]
        config[key] = "; ".join(filter(None, (config.get(key, ""), words)))

    def _note_links(self, session: clincus.Session, stage: Stage | None, record: Record) -> list[Change]:
        """Record the links before a start. Those left by runs whose end was not seen are put aside."""
        told: list[Change] = []
        for id in self._ended[session.id]:
            told += self.examiner.settle_links(session, stage, record.runs[id])
        if stage is not None:
            self.examiner.seen.links_before[session.id] = self._known_now(session, stage)
        return told

    def _unseen_changes(self, record: Record, starting: str, incus: clincus.Incus) -> list[Change]:
        """The differences from the sealed content of runs whose end was not seen."""
        paths: set[str] = set()
        ended = self._ended[starting] = set()
        for id, run in record.runs.items():
            if not run.has_ended and (id == starting or not self._is_live(id, run, incus)):
                ended.add(id)
                paths.update(run.paths)
        now = clincus.utc_now()
        return [Change(path, what, "unknown", now, False, NOBODY_SAW) for path, what in differing(record, paths)]

    def _is_live(self, id: str, run: Run, incus: clincus.Incus) -> bool:
        live = self._live.get(id)
        if live is not None:
            return live.stage.name == run.stage
        instance = incus.instance(id)
        stage = Stage.of(instance["config"]) if instance else None
        return bool(instance and stage and stage.name == run.stage and clincus.incus_status(instance) != "Stopped")

    # -- Moments in the life of a session

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Handle a moment in a session's life. It waits in a command, and for the look at a folder at a stop."""
        if session.mode != "mount" or session.engine:
            return
        if self._app is None:
            self._hear_alone(moment, session)
        elif moment == "sealed" and session.id in self._stages:
            stage = self._stages[session.id]
            self.watcher.call(lambda: self._take_up(session, stage, is_fresh=True))
        elif moment == "after_start":  # not while the tool is being started: the look takes as long as that
            self.watcher.call(lambda: self.examiner.check_index_of(session.id))
        elif moment == "started":
            self._found.put(session)
        elif moment == "stopped":
            ended = self._examined[session.id] = threading.Event()
            self.watcher.call(lambda: self._rest(session, ended))
        elif moment == "deleted":
            self.watcher.call(lambda: self._rest(session, threading.Event()))
            self._asked.discard(session.id)
        elif moment == "after_stop":  # a person may run git in its folder next
            examined = self._examined.pop(session.id, None)
            if examined is not None:
                examined.wait(EXAMINED_WITHIN)
        elif moment == "changed":
            self._remember(session)

    def _hear_alone(self, moment: str, session: clincus.Session) -> None:
        stage = self._stages.get(session.id)
        if moment == "sealed" and stage is not None:
            thread = threading.Thread(target=self._note_alone, args=(session, stage), name="noting what is sealed")
            self._noting[session.id] = thread
            thread.start()
        elif moment == "after_start" and session.id in self._noting:
            self._noting.pop(session.id).join()
        elif moment == "before_stop":
            self._compare(session, is_up=True)
        elif moment == "after_stop":
            clincus.survive("looking for links", lambda: self._settle_alone(session))
            self._compare(session, is_up=False)
            if session.protection != "off":
                clincus.survive("looking at git's index", lambda: self.examiner.settle_index(session, None))

    def _note_alone(self, session: clincus.Session, stage: Stage) -> None:
        clincus.survive("noting what is sealed", lambda: self._note(session, stage, *seals.sealed_paths(stage)))
        clincus.survive("looking at git's index", lambda: self.examiner.settle_index(session, stage))

    def _settle_alone(self, session: clincus.Session) -> None:
        """In a command: look for links that a run has left."""
        run = self.records.read(session.workspace).runs.get(session.id)
        if run is not None and not run.has_ended:
            self.examiner.settle_links(session, self._stages.get(session.id), run)

    def _compare(self, session: clincus.Session, *, is_up: bool) -> None:
        """In a command: compare the seals before the stop, and the content after it."""
        with suppress(clincus.ClincusError), self.records.changing(session.workspace) as record:
            run = record.runs.get(session.id)
            if run is None or run.has_ended:
                return
            stage = self._stages.get(session.id)
            off: Iterable[tuple[str, str]] = ()
            if is_up and stage is None and session.status == "running":
                instance = self._door(session).instance(session.id)
                stage = Stage.of(instance["config"]) if instance else None
            if is_up and stage is not None and run.is_seen:
                off = ((path, "replaced") for path in seals.without_seal(stage, set(run.paths) - set(run.loose)))
            elif not is_up:
                off = (found for found in differing(record, run.paths) if is_anothers(record, found[0]))
                run.has_ended = True
            add_changes(record, run, [Change(path, what, "unknown", clincus.utc_now(), False) for path, what in off])

    # -- Recording, in the thread of the watcher

    def find_next(self) -> None:
        """Wait for a session that was found running, and take it over. Raises ClincusError."""
        session = self._found.get()
        stage = self._stages.get(session.id)
        if stage is None:
            try:
                instance = self._door(session).instance(session.id)
            except clincus.ClincusError:
                if self._app.registry.find(session.id) is not None:
                    self._found.put(session)
                time.sleep(ASK_AGAIN)
                raise
            stage = Stage.of(instance["config"]) if instance else None
        if stage is not None:
            found = stage
            self.watcher.call(lambda: self._take_up(session, found, is_fresh=False))

    def _take_up(self, session: clincus.Session, stage: Stage, *, is_fresh: bool) -> None:
        """Watch a session, and record what is sealed, or compare it with the record of this run if there is one."""
        paths, is_seen = seals.sealed_paths(stage)
        self.watcher.drain()  # earlier events do not concern these names
        record = Record(session.workspace) if is_fresh else self.records.read(session.workspace)
        run = record.runs.get(session.id)
        begun = clincus.parse_time(session.run)
        is_noted = run is not None and not run.has_ended and run.stage == stage.name
        is_known = is_noted and run is not None and begun is not None and run.at >= begun.timestamp()
        live = self._live.get(session.id)
        if is_known and live is not None and live.is_watched and live.stage == stage:
            if session.protection == clincus.protect.BROKEN:  # keep the protection from before the break
                kept = live.session
                session = session._replace(protection=kept.protection, protection_note=kept.protection_note)
            self._live[session.id] = live._replace(session=session)
            return  # this run was recorded and watched since its start, and all changes since were reported
        if is_known and run is not None:
            paths = run.paths
        self._watch(session, stage, paths, record if is_known else None)
        if not is_fresh:
            self.examiner.check_index_of(session.id)
        if not is_known:
            if not is_fresh:  # Incus alone began it, so nobody was asked
                found = self._unseen_changes(record, session.id, self._door(session))
                self._accepted[session.id] = []
            noted = self._note(session, stage, paths, is_seen)
            if not is_fresh:
                if found:
                    self._tell_unasked(session, found)
                self._hold(session.id)
            if any(several_names(noted, paths)):
                self._watch(session, stage, paths, noted)
            return
        self._judge_all(session.id, stage, paths)

    def _hold(self, id: str) -> None:
        """Freeze a run that began without a question, if there are changes that nobody has accepted.

        A container may reboot itself before it is frozen for them, again and again.
        """
        live = self._live.get(id)
        waiting = self.records.read(live.session.workspace).changes if live is not None else []
        if live is not None and waiting and not self._broken.get(id):
            self._broken[id] = []
            self._act_on(live, {one.path: one.what for one in waiting}, self._freeze_waiting)

    def _freeze_waiting(self, live: Live, _: Mapping[str, str]) -> None:
        """Freeze a container for unaccepted changes, which were restored or put aside when they were found."""
        session = live.session
        if not self._pause(session):
            return
        with self._acting, self.records.changing(session.workspace) as record:
            run = record.runs[session.id]
            waiting = [*record.changes]
            run.is_broken = bool(waiting)
            add_changes(record, run, waiting)
        if waiting:
            self._tell_broken(session, run.changes, waiting)
            self._let_nobody_wait(session)

    def _judge_all(self, id: str, stage: Stage, paths: list[str]) -> None:
        self._judge({Mark(id, path): FOUND for path in (*paths, *ways(stage, paths))})

    def _tell_unasked(self, session: clincus.Session, found: list[Change]) -> None:
        with self.records.changing(session.workspace) as record:
            add_changes(record, record.runs[session.id], found)
        self._changes[session.id] = record.runs[session.id].changes
        self._report(session, told(found))

    def _watch(self, session: clincus.Session, stage: Stage, paths: Collection[str], record: Record | None) -> None:
        placed = {path: stage.source(path) for path in paths}
        self.watcher.unwatch(session.id)
        self._blind.pop(session.id, None)
        is_watched = True
        try:
            self.watcher.watch(session.id, placed, several_names(record, paths) if record else ())
            for folder in index.git_folders(session.workspace, paths):
                self.watcher.watch_name(session.id, f"{folder}/index")
        except OSError as error:
            is_watched = False
            self._note_blind(session, error)
        self._live[session.id] = Live(session, stage, is_watched)
        self.watch_gitlinks(self._live[session.id])
        self.examiner.link_looks.ask(session.id)

    def _note(self, session: clincus.Session, stage: Stage, paths: list[str], is_seen: bool) -> Record:
        """Record what is sealed for a run that has begun, and return the record."""
        copies = Copies()
        at = time.time()
        items = {path: note_item(path, copies) for path in paths}
        items.update({path: note_item(path, copies, is_way=True) for path in ways(stage, paths)})
        with self.records.changing(session.workspace) as record:
            accepted = self._accepted.pop(session.id, [])
            known = {(one.path, one.at) for one in accepted}
            record.accepted += accepted
            record.changes = [one for one in record.changes if (one.path, one.at) not in known]
            ended = self._ended.pop(session.id, set())
            record.runs = {id: run for id, run in record.runs.items() if id not in ended and not run.has_ended}
            known_links = self._known_links(session, stage, record.runs.get(session.id))
            record.runs[session.id] = Run(stage.name, paths, at, is_seen, links=known_links)
            needed = {path for id, run in record.runs.items() if id != session.id for path in run.paths}
            kept = {path: item for path, item in record.items.items() if path in needed or item.is_way}
            record.items = {**kept, **{path: item for path, item in items.items() if item is not None}}
            record.copies.update(copies.data)
        self._broken.pop(session.id, None)
        self._mends.numbers.pop(session.id, None)
        self._changes[session.id] = []
        self._asked.add(session.id)
        self.examiner.seen.begin_run(session.id)
        if self._app is not None:
            self.examiner.link_looks.ask(session.id)
        return record

    def _known_links(self, session: clincus.Session, stage: Stage, last: Run | None) -> dict[str, str] | None:
        """The known links of a run. If Incus began it alone: those of its last run, or the present ones."""
        if session.id in self.examiner.seen.links_before:
            return self.examiner.seen.links_before.pop(session.id)
        if last is not None and not last.has_ended:
            return last.links
        return self._known_now(session, stage)

    def _known_now(self, session: clincus.Session, stage: Stage) -> dict[str, str]:
        """The present links and operations in progress, as `Run.links` keeps them."""
        found = links.find(links.places(session.workspace, stage))
        return {**unfinished.known_of(found.operations), **links.known_of(found)}

    # -- Judging, in the thread of the watcher

    def _judge(self, touched: Touched) -> None:
        """Judge the touched names of each session."""
        by_session: dict[str, dict[str, str]] = {}
        for mark, how in touched.items():
            by_session.setdefault(mark.id, {})[mark.path] = how
        for id, paths in by_session.items():
            live = self._live.get(id)
            how = paths.pop(LINKS, "")
            at_gitlinks = paths.pop(gitlinks.MARK, "")
            moves = self.watcher.take_moves(id)
            if at_gitlinks and live is not None:
                self._judge_gitlinks(live, moves, is_lost=at_gitlinks == LOST)
            if (how or at_gitlinks) and live is not None:
                in_tree = self._gitlinks[id].folders if id in self._gitlinks else ()
                moves = [move for move in moves if move.folder not in in_tree]
                self._judge_moves(live, moves, is_lost=LOST in (how, at_gitlinks))
            if how and live is not None:
                self.examiner.hold_files(live)
                self.examiner.link_looks.ask(id)
            if not paths:
                continue
            if live is not None and id not in self._broken:
                self._judge_session(live, paths)
            elif live is not None and self._broken[id] and id not in self._mends.in_progress:
                self._judge_broken(live, paths)
            elif live is not None:  # a thread acts on it, and has this judged at its end
                self._mends.missed.setdefault(id, set()).update(path for path, how in paths.items() if how == MOVED)

    def _judge_moves(self, live: Live, moves: list[Move], *, is_lost: bool) -> None:
        """Break a session in which a file without a seal was replaced, even if only for a moment."""
        known = self._moves.setdefault(live.session.id, Moves())
        if is_lost:
            known.forget()
            return
        bad = known.judge(moves)
        self._break_by_moves(live, {path: Fault(kind_of_unsealed(path), f"{path}: {bad[path]}") for path in bad})

    def _break_by_moves(self, live: Live, faults: dict[str, Fault]) -> None:
        """Break a session because of renames, unless its container has ended: then a person made them."""
        if not faults or live.session.id in self._broken:
            return
        run = self.records.read(live.session.workspace).runs.get(live.session.id)
        if run is None or (run.is_seen and not seals.is_up(live.stage, seals.mounted())):
            return
        faults = {path: fault for path, fault in faults.items() if path not in run.paths}
        if faults:
            self._faults.update(faults)
            self._break_by(live, faults)
            self.examiner.check_index(live)  # the new index may be bad too

    def watch_gitlinks(self, live: Live, sources: Mapping[str, str] | None = None) -> None:
        """Watch the way to the gitlinks of a session; `sources` are new ones, each with the folder that contains it."""
        known = self._gitlinks.get(live.session.id)
        if live.session.id not in self._live or (known is None and not sources):
            return
        known = self._gitlinks.setdefault(live.session.id, gitlinks.Gitlinks())
        if sources is not None:
            known.take(sources)
        try:
            self.watcher.watch_comers(live.session.id, gitlinks.MARK, known.places())
        except OSError as error:
            self._note_blind(live.session, error)

    def _judge_gitlinks(self, live: Live, moves: list[Move], *, is_lost: bool) -> None:
        """Break a session in which a repository was at a gitlink for a moment; one that is still there is put aside."""
        known = self._gitlinks.setdefault(live.session.id, gitlinks.Gitlinks())
        if is_lost:
            known.forget()
        faults = {}
        for path, words in known.judge(moves, time.monotonic()).items():
            done = ""
            if os.path.lexists(path) and os.path.basename(path) == ".git":
                done = f"; {set_aside(path)}"
            faults[path] = Fault("repository", f"{path}: {words}{done}")
        self._break_by_moves(live, faults)
        self.watch_gitlinks(live)

    def _judge_broken(self, live: Live, paths: Mapping[str, str]) -> None:
        """Restore again a path that was replaced after a freeze: the cause may be outside the container."""
        record = self.records.read(live.session.workspace)
        run = record.runs.get(live.session.id)
        if run is None or run.has_ended:
            return
        if run.is_seen and not seals.is_up(live.stage, seals.mounted()):  # the wall takes its placeholders with it
            self._note_late(live.session.id, paths)
            return
        others = {path for path, _ in is_other(record, live, run)}
        moved = {path for path in others if paths.get(path) == MOVED or thing_at(path) != record.items[path].thing}
        id = live.session.id
        mends = self._mends.numbers.get(id, 0)
        if moved and mends < MOST_MENDED:
            self._mends.numbers[id] = mends + 1
            self._mends.in_progress.add(id)
            self._act_on(live, {})
        elif moved and mends == MOST_MENDED:
            self.report_once(live.session, "sealed paths are replaced again and again, and are not put back any more")
        elif not moved:
            self._edited.update({(live.session.workspace, path): time.monotonic() + SETTLE for path in others})

    def _judge_session(self, live: Live, paths: Mapping[str, str]) -> None:
        record = self.records.read(live.session.workspace)
        run = record.runs.get(live.session.id)
        if run is None or run.has_ended:
            return
        if run.is_seen and not seals.is_up(live.stage, seals.mounted()):
            # The container has ended. Nobody knows if that was before or after the event: see `_rest`.
            self._note_late(live.session.id, paths)
            return
        if any(path.endswith("/index") for path in paths):
            self.examiner.hold_files(live)
            self.examiner.check_index(live)
        items = {path: record.items[path] for path in paths if path in record.items}
        off = seals.without_seal(live.stage, items.keys() - set(run.loose)) if run.is_seen else set()
        verdicts = {path: verdict(path, item, paths[path], path in off) for path, item in items.items()}
        if RESTARTS in verdicts.values():
            # The wall creates placeholders again as a container restarts; a moment later their seals are on.
            time.sleep(RESTART)
            doubted = [path for path, what in verdicts.items() if what == RESTARTS]
            gone = seals.without_seal(live.stage, doubted) if run.is_seen else doubted
            verdicts.update({path: what_happened(path) if path in gone else "" for path in doubted})
        broken = {path: what for path, what in verdicts.items() if what not in ("", EDITED)}
        if broken:
            self._break(live, broken)
            return
        edited = [path for path, what in verdicts.items() if what == EDITED]
        for path in edited:
            self._edited.setdefault((live.session.workspace, path), time.monotonic() + SETTLE)
        if edited:  # git on the host may have written there, from a bad index
            self.examiner.check_index(live)

    def _note_late(self, id: str, paths: Mapping[str, str]) -> None:
        late = self._late.setdefault(id, {})
        for path, how in paths.items():
            late[path] = graver(how, late.get(path, how))

    def warnings(self, session: clincus.Session) -> list[str]:
        """Warnings for a session's document about changes that the kernel does not report, Git folders without a seal,

        and texts that git may write into sealed paths.
        """
        if session.id not in self._live:
            return []
        blind = self._blind.get(session.id)
        return [*([blind] if blind else []), *self.examiner.warnings(session)]

    def folders_of(self, session: clincus.Session) -> list[str]:
        """The folders of this host that a session's container has, as far as they are known."""
        live = self._live.get(session.id)
        mounted = [source for source, _ in live.stage.trees] if live is not None else []
        return [*mounted, session.workspace] if self._is_here(session) else mounted

    def live(self, id: str) -> Live | None:
        """A watched session by its id."""
        return self._live.get(id)

    def break_later(self, live: Live, bad: Mapping[str, Fault], what: str = "replaced") -> None:
        """Have the watcher break a session because of paths that were put aside."""
        self._faults.update(bad)
        self.watcher.call(functools.partial(self._break_by, live, bad, what))

    def _break_by(self, live: Live, bad: Mapping[str, Fault], what: str = "replaced") -> None:
        """Break a session because of paths that were put aside; if it is broken already, only report them."""
        if live.session.id not in self._broken:
            self._break(live, dict.fromkeys(bad, what))
        else:
            self.tell(live.session, {path: self._faults.pop(path, fault) for path, fault in bad.items()}, what)

    def watch_for_links(self, live: Live, found: links.Found) -> None:
        """Watch the folders in which git could follow a link; look again if there is a new one."""
        id = live.session.id
        if id not in self._live:
            return
        try:
            if self.watcher.watch_comers(id, LINKS, found.folders):
                self.examiner.link_looks.ask(id)
        except OSError as error:
            self._note_blind(live.session, error)

    def _note_blind(self, session: clincus.Session, error: OSError) -> None:
        """Note that the kernel does not report all changes in a session's folders, and tell it."""
        self._blind[session.id] = clincus.printable(f"{NOT_REPORTED}: {error.strerror}. {MORE_WATCHES}")
        self.report_once(session, self._blind[session.id])

    def _look_blindly(self, live: Live) -> None:
        """Compare what the kernel may not report, and ask it once more to report it."""
        session = live.session
        if self._live.get(session.id) is not live or session.id in self._broken:
            return
        record = self.records.read(session.workspace)
        run = record.runs.get(session.id)
        if run is not None and not run.has_ended:
            self._watch(session, live.stage, run.paths, record)
            self._judge_all(session.id, live.stage, run.paths)

    def compare_indexes(self) -> None:
        """Have changed indexes examined, whatever changed them: a program may hold one open and write to it."""
        self.leases.let_go(self._live.keys())
        for live in list(self._live.values()):
            id = live.session.id
            if id in self._blind:
                self.watcher.call(functools.partial(self._look_blindly, live))
            self.examiner.compare(live)

    def tell(self, session: clincus.Session, bad: Mapping[str, Fault], what: str) -> list[Change]:
        """Report what was put aside, without a break."""
        at = clincus.utc_now()
        changes = [Change(path, what, "unknown", at, False, fault.words, fault.kind) for path, fault in bad.items()]
        self._report(session, told(changes))
        with self.records.changing(session.workspace) as record:
            add_changes(record, record.runs.get(session.id), changes)
        return changes

    def _settle(self) -> float:
        """Record the edits that have settled; returns the seconds until the next one settles, -1 without any."""
        now = time.monotonic()
        due = [key for key, at in self._edited.items() if at <= now]
        for key in due:
            del self._edited[key]
        for workspace in {workspace for workspace, _ in due}:
            paths = {path for one, path in due if one == workspace}
            clincus.survive("noting an edit", functools.partial(self._note_edits, workspace, paths))
        return max(0.0, min(self._edited.values()) - now) if self._edited else -1

    def _note_edits(self, workspace: str, paths: Collection[str]) -> None:
        """Record a person's edits of sealed files, unless a container could have made them."""
        here = [live for live in self._live.values() if live.session.workspace == workspace]
        ids = {live.session.id for live in here}
        is_looked_at = any(self.examiner.index_looks.is_busy(id) for id in ids)
        if is_looked_at or any(self._broken.get(id) == [] for id in ids):  # an apparent edit may be something else
            self._edited.update({(workspace, path): time.monotonic() + SETTLE for path in paths})
            return
        broken: set[str] = set()
        fresh: list[str] = []
        rewritten: list[str] = []
        with self.records.changing(workspace) as record:
            copies = Copies(sum(map(len, record.copies.values())))
            loose = {path for run in record.runs.values() if not run.has_ended for path in run.loose}
            for path in paths:
                old = record.items.get(path)
                new = note_item(path, copies, is_way=old.is_way) if old is not None else None
                if old is None or new is None or old.is_way or new.thing != old.thing:
                    continue
                if new.content != old.content and (old.has_other_names or path in loose):
                    broken.add(path)
                else:
                    record.items[path] = new
                    fresh += (f"{path}/{name}" for name in sorted(new.names - old.names))
                    rewritten += changed_files(path, old, new)
            record.copies.update(copies.data)
        for live in here[:1]:
            for paths_told, words in ((fresh, NEW_IN_SEALED), (rewritten, REWRITTEN)):
                if paths_told:
                    self._report(live.session, clincus.printable(f"{', '.join(paths_told[:MOST_TOLD])} {words}"))
        for live in here if broken else ():
            if live.session.id not in self._broken:
                self._break(live, dict.fromkeys(broken, "changed"))

    def _rest(self, session: clincus.Session, examined: threading.Event) -> None:
        """Stop watching a run that has ended, and record that its end was seen. It sets `examined` at the end."""
        if self._broken.get(session.id) == []:  # a thread is acting on it
            again = functools.partial(self.watcher.call, functools.partial(self._rest, session, examined))
            threading.Timer(RESTART, again).start()
            return
        self.watcher.finish()
        live = self._live.get(session.id)
        if live is not None and is_later(live.session.run, session.run):
            examined.set()
            return  # the next run, after a reboot, uses the state of this one
        self._live.pop(session.id, None)
        self.watcher.unwatch(session.id)
        self._broken.pop(session.id, None)
        self._alarm(session, None)
        self.examiner.seen.end_run(session.id)
        self._moves.pop(session.id, None)
        self._gitlinks.pop(session.id, None)
        self._blind.pop(session.id, None)
        self.leases.drop(session.id)
        late = self._late.pop(session.id, {})
        run = self.records.read(session.workspace).runs.get(session.id)
        edits = self._end_run(session, live, run, late) if run is not None else []
        if live is not None or session.protection != "off":
            stage = live.stage if live is not None else None
            settle = functools.partial(self.examiner.settle_index, session, stage, edits)

            def look() -> None:
                clincus.survive("looking at git's index", settle)
                examined.set()

            threading.Thread(target=look, name="looking at git's index", daemon=True).start()
        else:
            examined.set()

    def _end_run(
        self, session: clincus.Session, live: Live | None, run: Run, late: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """Record that a run has ended, and the differences at that time.

        Returns a person's edits just before the end; git on the host may also have made them from a bad index.
        """
        edits: list[tuple[str, str]] = []
        if live is not None and not run.has_ended:
            noted = run
            clincus.survive("looking for links", lambda: self.examiner.settle_links(session, live.stage, noted))
        with self.records.changing(session.workspace) as record:
            run = record.runs[session.id]
            if live is not None and not run.has_ended:
                unknown = late.keys() if live.is_watched else {*late, *run.paths}
                found = list(differing(record, unknown))
                anothers = [one for one in found if is_anothers(record, one[0]) or one[0] in run.loose]
                edits = [one for one in found if one not in anothers and late.get(one[0], CHANGED) in (CHANGED, LOST)]
                told_of = [one for one in found if one not in edits]
                add_changes(record, run, [Change(*one, "unknown", clincus.utc_now(), False) for one in told_of])
            put_back = {change.path for change in run.changes if change.restored}
            for id, other in record.runs.items():
                if id != session.id and not other.has_ended:
                    put_back.difference_update(other.paths)
            for path in sorted(put_back & set(record.items)):
                restore.remove_placeholder(path, record.items[path])
            run.has_ended = run.has_ended or live is not None
            run.is_broken = False
        if live is not None and any(not change.restored for change in run.changes):
            mend = functools.partial(self._mend_later, live)
            threading.Thread(target=mend, name="putting back sealed paths", daemon=True).start()
        return edits

    def _mend_later(self, live: Live) -> None:
        """Restore what could not be renamed while the wall was mounted on it.

        The mounts outlast the container for some time: the kernel takes a mount namespace down by itself.
        """
        deadline = time.monotonic() + MENDED_WITHIN
        while not self._has_mended(live) and time.monotonic() < deadline:
            time.sleep(RESTART)

    def _has_mended(self, live: Live) -> bool:
        """Restore what can be restored after a run. True if nothing is left to do, also if the next run has begun."""
        if seals.is_up(live.stage, seals.mounted()):
            return False
        is_whole = True
        with self.records.changing(live.session.workspace) as record:
            run = record.runs.get(live.session.id)
            if run is None or not run.has_ended:
                return True
            for change in sorted(run.changes):
                item = record.items.get(change.path)
                if change.restored or item is None:
                    continue
                if restore.restore(change.path, item, record.copies):
                    for changes in (run.changes, record.changes):
                        changes[:] = [one._replace(restored=True) if one == change else one for one in changes]
                else:
                    is_whole = False
        self._changes[live.session.id] = run.changes
        return is_whole

    # -- A break

    def _break(self, live: Live, found: Mapping[str, str]) -> None:
        """Begin to act on changes of paths, in a thread, while the watcher's thread continues."""
        self._broken[live.session.id] = []  # so that nothing is judged meanwhile
        # The apparent edit may have been the first step of this break.
        self._edited = {key: at for key, at in self._edited.items() if key[0] != live.session.workspace}
        self._act_on(live, found)

    def _act_on(
        self, live: Live, found: Mapping[str, str], freeze: Callable[[Live, Mapping[str, str]], None] | None = None
    ) -> None:
        has_ended = threading.Event()
        self._breaks[live.session.id] = has_ended

        def act() -> None:
            try:
                self._act(live, found, freeze or self._freeze)
            finally:
                has_ended.set()

        threading.Thread(target=act, name="freezing a session", daemon=True).start()

    def _act(self, live: Live, found: Mapping[str, str], freeze: Callable[[Live, Mapping[str, str]], None]) -> None:
        if not found:  # a program that continues must not make us start a command of Incus each time
            last = self._mends.last_at.get(live.session.id, float("-inf"))
            time.sleep(max(0.0, last + MEND_AGAIN - time.monotonic()))
            self._mends.last_at[live.session.id] = time.monotonic()
        for _ in range(TRIES):
            has_failed = clincus.survive(f"freezing {live.session.id}", lambda: freeze(live, found))
            if not has_failed:
                break
            time.sleep(ASK_AGAIN)
        self._mends.in_progress.discard(live.session.id)
        if not self._broken.get(live.session.id):  # it had ended
            self._broken.pop(live.session.id, None)
        elif not has_failed:
            self.watcher.call(lambda: self._judge_missed(live))

    def _judge_missed(self, live: Live) -> None:
        """Judge the events of the time in which a thread acted. A new file may have the inode of the old one."""
        id = live.session.id
        now = self._live.get(id)
        if now is not None and is_later(now.session.run, live.session.run):  # it rebooted before it was frozen
            self._broken.pop(id, None)
            self._hold(id)
            return
        moved = {Mark(id, path): MOVED for path in self._mends.missed.pop(id, ())}
        self._judge({Mark(id, live.session.workspace): LOST, **moved})

    def _freeze(self, live: Live, found: Mapping[str, str]) -> None:
        """Freeze all containers in which a path was sealed, restore the path, and report the break."""
        workspace = live.session.workspace
        record = self.records.read(workspace)
        frozen = [
            one for one in list(self._live.values())
            if one.session.workspace == workspace
            and (run := record.runs.get(one.session.id)) is not None
            and (one is live or found.keys() & {*run.paths, *ways(one.stage, run.paths)} or found.keys() - record.items)
            and (self._pause(one.session) or (one is live and run.is_seen))  # it ran when its seal came off
        ]  # fmt: skip
        if not frozen:  # no container runs: the person made the changes, except those of an index
            bad = {path: self._faults.pop(path) for path in found if path in self._faults}
            if bad:
                self.tell(live.session, bad, next(iter(found.values())))
            return
        with self._acting:
            self._put_back(frozen, found)
        for one in frozen:
            self._let_nobody_wait(one.session)

    def _let_nobody_wait(self, session: clincus.Session) -> None:
        """End commands that wait for a frozen container: a save would wait for two minutes, and hold up a delete."""
        door = self._door(session)
        now = self._app.registry.find(session.id)
        if now is not None and now.status == "stopping":  # its end had begun
            with suppress(clincus.IncusError):
                door.run("stop", "--force", door.place(session.id), timeout=FROZEN_WITHIN)
        door.end_commands(session.id, "the container is frozen, as something changed that your machine would run")

    def _pause(self, session: clincus.Session) -> bool:
        """Freeze a container; False if it does not run any more. If Incus does not answer, it counts as running.

        One that is freezing runs no program any more: it waits for a process that is in the kernel.
        """
        door = self._door(session)
        over = time.monotonic() + FROZEN_WITHIN
        while time.monotonic() < over:
            with suppress(clincus.IncusError):
                door.run("pause", door.place(session.id), timeout=FREEZE_TRY)
                return True
            try:
                instance = door.instance(session.id)
            except clincus.IncusError:
                return True
            status = "" if instance is None else clincus.incus_status(instance)
            if status != "Running":
                return status in ("Frozen", "Freezing")
            time.sleep(ASK_AGAIN)
        return True

    def _put_back(self, frozen: list[Live], found: Mapping[str, str]) -> None:
        workspace = frozen[0].session.workspace
        at = clincus.utc_now()
        new: list[Change] = []
        runs: dict[str, Run] = {}
        try:
            with self.records.changing(workspace) as record:
                runs = {live.session.id: record.runs[live.session.id] for live in frozen}
                is_first = not all(run.is_broken for run in runs.values())
                off = dict(pair for live in frozen for pair in is_other(record, live, runs[live.session.id]))
                off.update(found if is_first else {})
                mended = {path: mend(record, path) for path in sorted(off)}  # a folder comes before its content
                who = suspects() if off else ""
                by = "unknown" if who else "container"
                faults = {path: self._faults.pop(path, Fault("seal", who)) for path in mended}
                new = [
                    Change(path, off[path], by, at, is_back, faults[path].words, faults[path].kind)
                    for path, is_back in mended.items()
                ]
                for run in runs.values() if new else ():
                    run.is_broken = True
                    add_changes(record, run, new)
        except clincus.ClincusError as error:
            if not new:
                raise
            self._report(frozen[0].session, f"what was changed is not written down: {error}")  # a full disk
        for live in frozen if new else ():  # else another thread was here first
            self._tell_broken(live.session, runs[live.session.id].changes, new)

    def _tell_broken(self, session: clincus.Session, everything: list[Change], new: list[Change]) -> None:
        self._broken[session.id] = new  # first, so that no document has the changes with the level from before
        self._changes[session.id] = everything
        words = f"Frozen: {told(new)}"
        self._report(session, words)
        self._alarm(session, words, new[-1].at)
        self._publish(session.id, clincus.protect.BROKEN)
        self._label(session, clincus.protect.BROKEN, words)

    # -- Decisions of a person

    def resolve(self, session: clincus.Session, action: str) -> None:
        """Let a broken session continue, or end it. Raises ClincusError: 409 if there is nothing to decide.

        A session is shown as broken from the moment at which it is frozen, but a decision waits until all is restored.
        """
        self._remember(session)
        if session.id in self._breaks:
            self._breaks[session.id].wait(FROZEN_WITHIN)
        if not self._broken.get(session.id):
            waits = waiting_words(self.records.read(session.workspace), session)
            words = waits or "there is nothing to decide"
            raise clincus.ClincusError(f'"{session.id}" is not frozen: {words}', 409)
        sessions = self._app.sessions
        if action == "stop":
            sessions.end(session.id)
            return
        with sessions.held(session.id):
            with self._acting:
                self._go_on(sessions.look(session.id) or session)
            sessions.look(session.id)

    def _go_on(self, session: clincus.Session) -> None:
        """Let a frozen session continue. Raises ClincusError(409) if something sealed was changed again."""
        record, loose = self._accept_break(session)
        level, note = self._level_after(session, loose)
        self._label(session, level, note)
        self._watch_again(session, record)
        if session.id in self._broken:
            raise clincus.ClincusError(f'"{session.id}": something was changed again just now: look again', 409)
        self._alarm(session, None)
        if session.paused:
            self._app.sessions.containers(session.id).start(session.id)
        if session.id not in self._live:
            self._found.put(session)
        self._publish(session.id, level)

    def _accept_break(self, session: clincus.Session) -> tuple[Record, list[str]]:
        """Record that a person lets a session go on, and put back its operations in progress.

        Returns the new record, and the paths whose seal is off.
        """
        with self.records.changing(session.workspace) as record:
            run = record.runs[session.id]
            paths = sorted({one.path for one in run.changes if one.path in record.items})  # an index has no seal
            done = {(one.path, one.at) for one in run.changes if one.restored or one.path not in record.items}
            record.accepted += [one for one in record.changes if (one.path, one.at) in done]
            record.changes = [one for one in record.changes if (one.path, one.at) not in done]
            run.is_broken = False
            run.loose = sorted({*run.loose, *paths})
            asides = {path: unfinished.Aside(*row) for path, row in run.asides.items()}
            run.links = links.accepted(unfinished.with_marks(run.links or {}, asides))
            run.asides = {}
        known = self.examiner.seen.links
        if session.id in known:  # first, so that no look takes the returning links for new ones
            known[session.id] = links.accepted(unfinished.with_marks(known[session.id], asides))
        for path, aside in asides.items():
            unfinished.put_back(path, aside)
        return record, paths

    def _level_after(self, session: clincus.Session, loose: Sequence[str]) -> tuple[str, str]:
        """The level of protection of a session that goes on, and the note on it; the seals of `loose` paths are off."""
        if loose:
            names = ", ".join(path[len(session.workspace) + 1 :] for path in loose[:MOST_TOLD])
            return "basic", f"The seal of {names} is off until the next start, since you let it go on"
        live = self._live.get(session.id)
        if live is None or live.session.protection == clincus.protect.BROKEN:
            return "basic", ""
        return live.session.protection, live.session.protection_note

    def _watch_again(self, session: clincus.Session, record: Record) -> None:
        """Watch and judge the sealed paths of a session again: have the thread of the watcher do it, and wait."""
        is_done = threading.Event()
        paths = record.runs[session.id].paths

        def again() -> None:
            self._broken.pop(session.id, None)
            try:
                live = self._live.get(session.id)
                if live is not None:
                    self._watch(session, live.stage, paths, record)
                    self.examiner.check_index_of(session.id)
                    self._judge_all(session.id, live.stage, paths)
            finally:
                is_done.set()

        self.watcher.call(again)
        is_done.wait(FROZEN_WITHIN)

    # -- Reports

    def _remember(self, session: clincus.Session) -> None:
        """Read from the record what an earlier server knew of a session."""
        if session.id in self._asked or session.protection not in (clincus.protect.BROKEN, "basic"):
            return
        self._asked.add(session.id)
        with suppress(clincus.ClincusError):
            run = self.records.read(session.workspace).runs.get(session.id)
            if run is None or run.has_ended:
                return
            self._changes[session.id] = run.changes
            if run.is_broken and run.changes and session.protection == clincus.protect.BROKEN:
                last = [one for one in run.changes if one.at == run.changes[-1].at]
                self._broken[session.id] = last
                self._alarm(session, f"Frozen: {told(last)}", last[-1].at)

    def fields(self, session: clincus.Session) -> dict[str, object]:
        """The fields of a session's document."""
        self._remember(session)
        found = [change.document() for change in self._changes.get(session.id, ())]
        is_broken = session.id in self._broken and (session.paused or bool(self._broken[session.id]))
        is_at_rest = session.status == "stopped" and not session.paused and self._is_here(session)
        waits = [one.document() for one in self.records.open_changes(session.workspace)] if is_at_rest else []
        level = {"protection": clincus.protect.BROKEN} if is_broken else {}
        return {"protection_changes": found, "protection_waits": waits, **level}

    def _is_here(self, session: clincus.Session) -> bool:
        """True if a session has a folder of this host."""
        return session.mode == "mount" and not session.engine and bool(session.workspace)

    def document(self, session: clincus.Session) -> dict[str, object]:
        """The answer of GET …/protection, without the items that have appeared. Raises ClincusError."""
        changes: list[Any] = [*self._changes.get(session.id, ())]  # before their level, which is set before them
        record = self.records.read(session.workspace) if self._is_here(session) else Record(session.workspace)
        run = record.runs.get(session.id)
        sealed = []
        level = ""
        if run is not None and not run.has_ended:
            level = clincus.protect.BROKEN if run.is_broken else ""  # it is recorded a moment before it is reported
            places = (path for path in run.paths if path not in run.loose)
            sealed = [
                {"path": path, "why": seals.why_sealed(path, source_of(path, session.workspace))} for path in places
            ]
        fields = self.fields(session)
        waits = "" if self._broken.get(session.id) else waiting_words(record, session)
        changes += [change for change in record.changes if change not in changes]
        return {
            "level": level or fields.get("protection", session.protection),
            "note": "; ".join(filter(None, (session.protection_note, waits))),
            "sealed": sealed,
            "changes": [change.document() for change in changes],
        }

    def _label(self, session: clincus.Session, level: str, note: str) -> None:
        """Write the level to a label of the instance, for every Clincus that looks."""
        door = self._door(session)
        words = (f"{clincus.LABEL}protection={level}", f"{clincus.LABEL}protection_note={note[:1000]}")
        with suppress(clincus.ClincusError):  # the record has it too
            door.run("config", "set", door.place(session.id), *words)

    def publish_change(self, id: str) -> None:
        """Tell the pages of a server that something about a session has changed."""
        if self._app is not None:
            self._app.hub.publish({"type": "session.changed", "id": id}, extension=True)

    def _publish(self, id: str, level: str) -> None:
        self._app.hub.publish({"type": "session.protection", "id": id, "protection": level}, extension=True)

    def _alarm(self, session: clincus.Session, words: str | None, since: str = "") -> None:
        if self._app is None:
            return
        alarm = None
        if words is not None:
            alarm = {"state": "waiting", "reason": "protection", "text": words, "since": since}
        clincus.call_each(self._app.extensions.alarm_listeners, session, alarm)

    def _report(self, session: clincus.Session, words: str) -> None:
        report = clincus.log.warning if self._app is None else self._app.sessions.report
        report(f"{session.id}: {words}")

    def report_once(self, session: clincus.Session, words: str) -> None:
        if (session.session_id, words) not in self._reported:
            self._reported.add((session.session_id, words))
            self._report(session, words)

    def _door(self, session: clincus.Session) -> clincus.Incus:
        if self._app is None:
            return clincus.engine_door(clincus.load_config(self._environ), "")
        return self._app.sessions.door(session.id)  # type: ignore[no-any-return]

    # -- For the health report

    def examine(self) -> tuple[str, str] | None:
        """The workspaces whose sealed files changed while a session ran, if nobody has accepted the changes."""
        found = [record for record in self.records.all() if record.changes]
        if not found:
            return None
        names = ", ".join(sorted(record.workspace for record in found)[:MOST_TOLD])
        words = f"Something sealed was changed while a session ran, in {names}: {told(found[0].changes)}"
        return words, "look at each path before you run git there; `clincus shell --accept-changes` takes it as it is"
