"""Repositories that are at a gitlink of git's index for the moment in which git on the host looks there.

`git status` goes on to the repository that is checked out at a gitlink, and runs what its configuration names. A folder
with a whole repository can wait beside it under any other name, or elsewhere, and get the name `.git` for some
milliseconds. No look finds it, but the kernel tells of each rename (moves.py). Git renames nothing to `.git`; and
nobody moves a folder to a gitlink and away again within two seconds.

A `.git` that is made there, and not moved, is no sign: `git submodule update` makes one, and takes it away again if it
fails. It leads to a Git folder that is looked at (modules.py, appeared.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from .identity import steps_to
from .moves import MISLED, Move
from .restore import ASIDE, FRESH, moved_by_us

MARK = "gitlinks"  # the mark for what happens on the way to gitlinks
MOST = 500  # gitlinks that are watched
MOMENT = 2.0  # seconds
CAME = f"a repository was moved to the place of a gitlink, which git never does; {MISLED}"
WENT = f"a folder was moved to the place of a gitlink and away again; {MISLED}"


class Gitlinks:
    """What is known of the gitlinks of one session that have no seal."""

    def __init__(self) -> None:
        self._sources: Mapping[str, str] = {}  # absolute path of a gitlink -> the folder that the session got
        self._steps: frozenset[str] = frozenset()  # they, and the folders on the way there
        self.folders: frozenset[str] = frozenset()  # in which renames are judged here
        self._came: dict[str, float] = {}  # path -> when something was moved there

    def take(self, sources: Mapping[str, str]) -> None:
        """Take over which gitlinks there are."""
        self._sources = dict(list(sources.items())[:MOST])
        steps = {path: [source, *steps_to(path, source)] for path, source in self._sources.items()}
        self._steps = frozenset(step for path in steps for step in steps[path][1:])
        self.folders = frozenset(step for path in steps for step in steps[path])

    def places(self) -> dict[str, int]:
        """The folders that are to be watched, each with its inode: with the Git folders at the gitlinks."""
        found = {}
        for folder in (*self.folders, *(f"{path}/.git" for path in self._sources)):
            with suppress(OSError):
                found[folder] = os.lstat(folder).st_ino
        return found

    def forget(self) -> None:
        """Know of no rename: events were lost."""
        self._came.clear()

    def judge(self, moves: Iterable[Move], now: float) -> dict[str, str]:
        """The paths at which a repository was for a moment, each with words; `now` is that of time.monotonic. Pure."""
        moves = [move for move in moves if move.folder in self.folders]
        names = {move.cookie: move.name for move in moves if move.is_away}
        goals = {move.cookie: move.name for move in moves if not move.is_away}
        bad: dict[str, str] = {}
        for move in moves:
            path = f"{move.folder}/{move.name}"
            if move.is_away:
                is_ours = path in moved_by_us or f".{ASIDE}-" in goals.get(move.cookie, "")
                if not is_ours and path in self._steps and now - self._came.pop(path, now - MOMENT) < MOMENT:
                    bad[path] = WENT
                continue
            is_ours = names.get(move.cookie, "").startswith(f".{move.name}.{FRESH}-")
            if move.name == ".git" and move.folder in self._sources and not is_ours:
                bad[path] = CAME
            elif path in self._steps:
                self._came[path] = now
        return bad
