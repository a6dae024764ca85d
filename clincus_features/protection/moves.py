"""Detects renames in Git folders that git never makes: another file may have the name at the moment when git reads it.

A file without a seal that git obeys or writes can be exchanged for another one and back within milliseconds. No look
sees that, nor does a lease, since nothing is opened for writing. The kernel reports each rename, whatever happens next.
It does so afterwards: a git command of that moment has been misled, and the person has to know.

Git writes most of its files as NAME.lock and renames that (lockfile.h), or writes them in place; it never moves them
away. Editors do move some of these files, to a backup, or a new file into their place, but never a file from another
folder. And no honest program renames a moved file or folder back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .operations import NAMES
from .restore import ASIDE, FRESH, moved_by_us

EDITED = frozenset(
    (
        *("git-rebase-todo", "COMMIT_EDITMSG", "MERGE_MSG", "SQUASH_MSG", "TAG_EDITMSG", "NOTES_EDITMSG"),
        *("EDIT_DESCRIPTION", "config", "config.worktree"),
    )
)
GITS_OWN = frozenset((*NAMES, "index", "HEAD", "FETCH_HEAD", "gitdir", "commondir")) - EDITED
# A branch may have any of these names, and `git branch -m` moves its log.
OF_REFS = re.compile(r"/refs(?:/|$)")
MOST_KEPT = 500  # renames, and paths that were moved away
MISLED = "a git command of yours at that moment may have obeyed another one, or written elsewhere: look at what it did"
AWAY = f"it was moved away, which git never does; {MISLED}"
CAME = f"something was moved to its place, and not as git does; {MISLED}"
Place = tuple[str, str]  # a folder and a name in it
ELSEWHERE: Place = ("", "")


class Move(NamedTuple):
    """One end of a rename, as inotify(7) reports it."""

    folder: str
    name: str
    cookie: int  # the same for both ends
    is_away: bool


class Moves:
    """The renames in the Git folders of one session."""

    def __init__(self) -> None:
        self._from: dict[int, Place] = {}  # cookie -> its old place
        self._went: dict[Place, set[Place]] = {}  # path that was moved away -> its new places

    def forget(self) -> None:
        """Forget all renames: events were lost."""
        self._from.clear()
        self._went.clear()

    def judge(self, moves: Iterable[Move]) -> dict[str, str]:
        """The paths at which something was replaced, each with words; `moves` are in the order of the events."""
        moves = [move for move in moves if not OF_REFS.search(move.folder)]
        into: dict[int, Place] = {move.cookie: (move.folder, move.name) for move in moves if not move.is_away}
        bad: dict[str, str] = {}
        for move in moves:
            path = f"{move.folder}/{move.name}"
            if not move.is_away:
                if not self._is_usual(move):
                    bad[path] = CAME
                self._learn(move)
                continue
            to = into.get(move.cookie, ELSEWHERE)
            self._from[move.cookie] = move.folder, move.name
            is_ours = path in moved_by_us
            moved_by_us.discard(path)
            if is_ours or f".{ASIDE}-" in to[1]:
                continue
            self._went.setdefault((move.folder, move.name), set()).add(to)
            if move.name in GITS_OWN:
                bad[path] = AWAY
        self._keep_few()
        return bad

    def _learn(self, move: Move) -> None:
        """Note the new place of something whose departure was reported before."""
        source = self._from.get(move.cookie, ELSEWHERE)
        if source in self._went:
            self._went[source].discard(ELSEWHERE)
            self._went[source].add((move.folder, move.name))

    def _is_usual(self, move: Move) -> bool:
        """True if git, an editor or Clincus gives a file or folder its name in this way."""
        source = self._from.get(move.cookie, ELSEWHERE)
        if source in self._went.get((move.folder, move.name), ()):
            return False
        folder, name = source
        if move.name in GITS_OWN and not name.startswith(f".{move.name}.{FRESH}-") and name != f"{move.name}.lock":
            return False
        return folder == move.folder or move.name not in GITS_OWN | EDITED

    def _keep_few(self) -> None:
        for cookie in list(self._from)[:-MOST_KEPT]:
            del self._from[cookie]
        for place in list(self._went)[:-MOST_KEPT]:
            del self._went[place]
