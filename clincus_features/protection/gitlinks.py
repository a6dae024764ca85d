"""Detects repositories that are at a gitlink of git's index only for the moment in which git on the host looks there.

`git status` enters the repository that is checked out at a gitlink, and runs what its configuration names. A folder
with a whole repository can wait beside it under any other name, or elsewhere, and have the name `.git` for some
milliseconds. No look finds it, but the kernel reports each rename (moves.py). Git renames nothing to `.git`, and
nobody moves a folder to a gitlink and away again within two seconds.

A `.git` that is created there, and not moved, is no sign of an attack: `git submodule update` creates one, and removes
it again if it fails. It leads to a Git folder that is examined (modules.py, appeared.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from .identity import steps_to
from .moves import MISLED, Move
from .restore import ASIDE, FRESH, moved_by_us

MARK = "gitlinks"  # the mark for events on the way to gitlinks
MOST = 500  # gitlinks that are watched
MOMENT = 2.0  # seconds; a repository that is moved away again within this time is reported
CAME = f"a repository was moved to the place of a gitlink, which git never does; {MISLED}"
WENT = f"a folder was moved to the place of a gitlink and away again; {MISLED}"


class Gitlinks:
    """The gitlinks of one session that have no seal, and the latest moves at them."""

    def __init__(self) -> None:
        self._sources: Mapping[str, str] = {}  # absolute path of a gitlink -> the folder that the session got
        self._steps: frozenset[str] = frozenset()  # the gitlinks, and the folders on the way to them
        self.folders: frozenset[str] = frozenset()  # the folders in which this class judges renames
        self._came: dict[str, float] = {}  # path -> time at which something was moved there

    def take(self, sources: Mapping[str, str]) -> None:
        """Replace the gitlinks."""
        self._sources = dict(list(sources.items())[:MOST])
        steps = {path: [source, *steps_to(path, source)] for path, source in self._sources.items()}
        self._steps = frozenset(step for path in steps for step in steps[path][1:])
        self.folders = frozenset(step for path in steps for step in steps[path])

    def places(self) -> dict[str, int]:
        """The folders to watch, each with its inode; they include the Git folders at the gitlinks."""
        found = {}
        for folder in (*self.folders, *(f"{path}/.git" for path in self._sources)):
            with suppress(OSError):
                found[folder] = os.lstat(folder).st_ino
        return found

    def forget(self) -> None:
        """Forget all renames: events were lost."""
        self._came.clear()

    def judge(self, moves: Iterable[Move], now: float) -> dict[str, str]:
        """The paths at which a repository was for a moment, each with words. `now` is from time.monotonic. Pure."""
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
