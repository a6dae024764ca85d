"""Looks at what no seal covers: links, indexes, operations in progress and new Git folders.

Git on the host obeys them as well. Each look has a thread of its own, since it may read much. What git must not obey is
put aside, and the guard breaks the session.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import clincus

from . import index, links, modules, unfinished
from .leases import WRITTEN_FOR, is_renamed_into_place
from .live import Fault, Live, Seen
from .looks import Looks
from .records import Change, Run
from .seals import Stage
from .verdicts import MOST_TOLD, as_faults, kind_of_unsealed, set_aside

if TYPE_CHECKING:
    from .guard import Guard

LINKS_SETTLE = 0.05  # seconds from a new name in a Git folder to the look at it
INDEX_SETTLE = 0.2  # seconds from a change of git's index to the look at it
MOST_UNSEALED = 64  # Git folders that appear in one run; git is asked about each one
HELD_OPEN = (
    "a program keeps it open for writing, or mapped into memory: it could have changed it for the moment in which git "
    "on your side reads it"
)
FROM_INDEX = "git on your side may have written it from that index"


class Examiner:
    """Examines the sessions that a guard watches, and those whose run has ended."""

    def __init__(self, guard: Guard, environ: Mapping[str, str]) -> None:
        self._guard = guard
        self._environ = environ
        self.seen = Seen()
        self.index_looks = Looks("looking at git's index", lambda: INDEX_SETTLE, self._look_at_index)
        self.link_looks = Looks("looking for links", lambda: LINKS_SETTLE, self._look_for_links)
        # Apart from the looks for links, since it asks git about each folder, and an agent can make many.
        self.module_looks = Looks("looking at new Git folders", lambda: 0.0, self._look_at_modules)
        self._writer_looks = Looks("looking for who writes", lambda: WRITTEN_FOR, self._look_for_writers)

    def check_index(self, live: Live) -> None:
        """Examine git's index in a thread of its own, and once more if it changes meanwhile."""
        self.index_looks.ask(live.session.id)

    def check_index_of(self, id: str) -> None:
        """The same for a session that may have ended."""
        live = self._guard.live(id)
        if live is not None:
            self.check_index(live)

    def _look_at_index(self, id: str) -> bool:
        """Break a session if its index is bad. Returns True if it was."""
        live = self._guard.live(id)
        if live is None:
            return False
        files = self.seen.index_files.get(id)
        state = index.signature(files or ())  # taken before the look, so that a write meanwhile leads to another look
        looked = index.look(live.session.workspace, live.stage, self.sealed(live.session))
        self.seen.index_files[id] = looked.files
        self.seen.index_states[id] = state if looked.files == files else None
        if looked.unlike != self.seen.unlike.get(id, ()):
            self.seen.unlike[id] = looked.unlike
            if looked.unlike:
                self._guard.report_once(live.session, index.words_of_unlike(looked.unlike))
            self._guard.publish_change(id)
        sources = {path: source for path in looked.gitlinks if (source := live.stage.source(path))}
        self._guard.watcher.call(functools.partial(self._guard.watch_gitlinks, live, sources))
        self.hold_files(live)
        if looked.cut:
            self._guard.report_once(live.session, f"git's index was not looked at in all places: {looked.cut}")
        if looked.bad:
            bad = as_faults("index", looked.bad)
            self._guard.break_later(live, bad, "changed")
        return bool(looked.bad)  # until it is frozen, the container may put another bad one there

    def _look_for_links(self, id: str) -> bool:
        """Put aside the links that have appeared in the Git folders of a session, and break it. True if there were any.

        Until its container is frozen, it may create others: these are put aside as well.
        """
        live = self._guard.live(id)
        if live is None:
            return False
        known = self.seen.links.get(id)  # a start that is being recorded removes it again
        paths = self.seen.paths.get(id, frozenset())
        if known is None:
            run = self._guard.records.read(live.session.workspace).runs.get(id)
            if run is None or run.has_ended or run.links is None:
                return False  # it is only being recorded now, and is examined after that
            known = self.seen.links[id] = run.links
            paths = self.seen.paths[id] = frozenset(run.paths)
        folders = links.places(live.session.workspace, live.stage)
        found = links.find(folders)
        if found.cut and known.get(links.HEAPED) == links.ACCEPTED:
            words = "links are not looked for in all of it, since it was so at the start or you let the session go on"
            for cut in found.cut.values():
                self._guard.report_once(live.session, f"{cut}: {words}")
        fresh = modules.unsealed(found.repositories, paths)
        if len(fresh) > MOST_UNSEALED:
            above = os.path.commonpath(fresh)
            words = "more than can be looked at in time: if you have added no submodules or worktrees, remove them"
            found.cut[above] = f"{len(fresh)} Git folders have come in {above}, {words}"
        bad = self._bad_links(live.session, found, known, folders)
        bad.update(self._bad_operations(live.session, found, known))
        self.seen.repositories[id] = fresh, folders
        if fresh:
            self.module_looks.ask(id)
        self.hold_files(live)
        if bad:
            self._guard.break_later(live, bad)
        self._guard.watcher.call(functools.partial(self._guard.watch_for_links, live, found))
        return bool(bad)

    def _look_at_modules(self, id: str) -> bool:
        """Put aside dangerous settings in Git folders that appeared after the start, and break their session."""
        live = self._guard.live(id)
        fresh, folders = self.seen.repositories.get(id, ([], []))
        if live is None or not fresh:
            return False
        bad = self._bad_modules(live.session, fresh, self.seen.paths.get(id, frozenset()), folders)
        if bad:
            self._guard.break_later(live, bad)
        return bool(bad)

    def _bad_links(
        self, session: clincus.Session, found: links.Found, known: dict[str, str], folders: Iterable[str]
    ) -> dict[str, Fault]:
        """Put aside the links that a run has brought; returns their paths and possible hiding places, with words."""
        fresh = links.news(found, known)
        is_heap = bool(found.cut) and links.HEAPED not in known
        if not fresh and not is_heap:
            return {}
        with self._guard.records.changing(session.workspace) as record:
            runs = [run for run in record.runs.values() if not run.has_ended]
            sealed = [path for run in runs for path in run.paths]
            if is_heap:  # it is reported once
                known[links.HEAPED] = "told"
                for run in (record.runs[id] for id in record.runs if id == session.id):
                    run.links = {**(run.links or {}), links.HEAPED: "told"}
        # A link in the place of a sealed path, or on the way there, is a break by itself.
        bad = {path: to for path, to in fresh.items() if not any(clincus.path_inside(one, path) for one in sealed)}
        told, kept = links.put_aside(bad, folders)
        known.update(kept)  # reported once, and tried again at the stop
        return as_faults("link", {**told, **(found.cut if is_heap else {})})

    def _bad_modules(
        self, session: clincus.Session, fresh: list[str], paths: Collection[str], folders: Collection[str]
    ) -> dict[str, Fault]:
        """Put aside what Git folders that appeared after the start would make git run, if they have changed since."""
        state = modules.state_of(fresh, self.seen.trees.get(session.id, ()))
        if not fresh or state == self.seen.module_states.get(session.id):
            return {}
        git = clincus.protect.find_git(session.workspace, self._environ)
        bad: dict[str, Fault] = {}
        trees: list[str] = []
        for top in folders:
            written_by = [os.path.dirname(one) for one in folders]
            put_aside, named = modules.put_aside(fresh, top, git, written_by, sorted(paths))
            bad.update(as_faults("repository", put_aside))
            trees += named
        self.seen.trees[session.id] = trees
        self.seen.module_states[session.id] = state[0], []
        is_news = self.seen.unsealed.get(session.id) != fresh
        self.seen.unsealed[session.id] = fresh
        if is_news:
            for words in self.warnings(session):
                self._guard.report_once(session, words)
            self._guard.publish_change(session.id)
        return bad

    def warnings(self, session: clincus.Session) -> list[str]:
        """Warnings of a watched session: texts that git may write into sealed paths, and Git folders without a seal."""
        if self._guard.live(session.id) is None:
            return []
        unlike = self.seen.unlike.get(session.id, ())
        words = [index.words_of_unlike(unlike)] if unlike else []
        return [*words, *self._warnings_of_unsealed(session)]

    def _warnings_of_unsealed(self, session: clincus.Session) -> list[str]:
        folders = self.seen.unsealed.get(session.id, [])
        if not folders:
            return []
        more = f" and {len(folders) - MOST_TOLD} more" if len(folders) > MOST_TOLD else ""
        words = "came after the start and has no seal until the next one; what is not harmless there is put aside"
        return [clincus.printable(f"{', '.join(folders[:MOST_TOLD])}{more} {words}")]

    def _bad_operations(self, session: clincus.Session, found: links.Found, known: dict[str, str]) -> dict[str, Fault]:
        """Put aside files of operations in progress that git must not obey; returns each path with words."""
        files = self.seen.operation_files.get(session.id)
        state = index.signature(files or ())
        looked = unfinished.look(found.operations, known)
        self.seen.operation_files[session.id] = looked.files
        self.seen.operation_states[session.id] = state if looked.files == files else None
        told, kept, asides = unfinished.put_aside(looked.bad, found.operations)
        known.update(kept)  # reported once
        if asides:
            with self._guard.records.changing(session.workspace) as record:
                if session.id in record.runs:
                    record.runs[session.id].asides.update({path: [*aside] for path, aside in asides.items()})
        return as_faults("operation", told)

    def hold_files(self, live: Live) -> None:
        """Hold leases on a session's unsealed files that git obeys; break it if one stays open for writing."""
        id = live.session.id
        operations = [
            path for path in self.seen.operation_files.get(id, ()) if "/.git/" in path
        ]  # some are in the work tree
        paths = [*self.seen.index_files.get(id, ()), *filter(is_renamed_into_place, operations)]
        paths += modules.files_of(self.seen.unsealed.get(id, ())) or ()
        written = self._guard.leases.hold(id, paths, [path for path in operations if path not in paths])
        if written:
            bad = {path: Fault(kind_of_unsealed(path), f"{HELD_OPEN}; {set_aside(path)}") for path in written}
            self._guard.break_later(live, bad)
        if self._guard.leases.is_in_doubt(id):
            self._writer_looks.ask(id)

    def _look_for_writers(self, id: str) -> bool:
        """Take the leases that were refused. Returns True if another look is needed."""
        live = self._guard.live(id)
        if live is None:
            self._guard.leases.drop(id)
            return False
        self.hold_files(live)
        return self._guard.leases.is_in_doubt(id)

    def compare(self, live: Live) -> None:
        """Ask for looks at what has changed, whatever changed it: a program may hold a file open and write to it."""
        id = live.session.id
        self.hold_files(live)
        fresh = self.seen.unsealed.get(id)
        if fresh and modules.state_of(fresh, self.seen.trees.get(id, ())) != self.seen.module_states.get(id):
            self.module_looks.ask(id)
        written = self.seen.operation_files.get(id, [])
        if written and index.signature(written) != self.seen.operation_states.get(id):
            self.link_looks.ask(id)
        known = self.seen.links.get(id)
        tops = index.tops_of(live.session.workspace, live.stage)
        if known is not None and any(links.is_bare(top) and f"{top}/HEAD" not in known for top in tops):
            self.link_looks.ask(id)
        files = self.seen.index_files.get(id)
        if files is not None and index.signature(files) != self.seen.index_states.get(id):
            self.check_index(live)

    def put_links_aside(self, session: clincus.Session, found: Mapping[str, str]) -> None:
        """Put aside links in repositories within a workspace, and break the session if it is watched."""
        ends = {path: path.rpartition("/.git/")[0] + "/.git" for path in found}
        told, _ = links.put_aside(found, sorted(set(ends.values()), key=len, reverse=True))
        bad = as_faults("link", told)
        live = self._guard.live(session.id)
        if live is None:
            self._guard.tell(session, bad, "replaced")
        else:
            self._guard.break_later(live, bad)

    def settle_links(self, session: clincus.Session, stage: Stage | None, run: Run) -> list[Change]:
        """Put aside the unseen links of a run; returns the changes to record and report."""
        folders = links.places(session.workspace, stage, run.paths)
        bad: dict[str, Fault] = {}
        if run.links is not None:
            found = links.find(folders, references=True)
            self.seen.module_states.pop(session.id, None)
            bad = self._bad_links(session, found, run.links, folders)
            fresh = modules.unsealed(found.repositories, run.paths)
            bad.update(self._bad_modules(session, fresh, run.paths, folders))
            bad.update(self._bad_operations(session, found, dict(run.links)))
        return self._guard.tell(session, bad, "replaced") if bad else []

    def sealed(self, session: clincus.Session) -> list[str]:
        run = self._guard.records.read(session.workspace).runs.get(session.id)
        return run.paths if run is not None else []

    def settle_index(
        self, session: clincus.Session, stage: Stage | None, edits: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Examine the indexes of a session that is not watched now; record and report bad ones.

        Git on the host may have written texts from a bad index, which look like `edits` of a person: these are
        reported too.
        """
        looked = index.look(session.workspace, stage, self.sealed(session))
        if looked.unlike:
            self._guard.report_once(session, index.words_of_unlike(looked.unlike))
        if looked.bad:
            self._guard.tell(session, as_faults("index", looked.bad), "changed")
            for path, what in edits:
                self._guard.tell(session, {path: Fault("seal", FROM_INDEX)}, what)
