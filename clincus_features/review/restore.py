"""Undo: brings files of a workspace back to a checkpoint, as the code user inside the container (guest/restore.sh).

A checkpoint of the present state comes first, so an undo can be undone. Files that have changed since, and files that
no checkpoint has because they are ignored or too large, stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

import clincus
from clincus_features.review.changes import Change, list_changes
from clincus_features.review.store import Store

MOST = 50_000  # files of one undo
TIMEOUT = 120.0  # seconds for an undo without content
RATE = 2 << 20  # bytes a second, for its content
ORDERS = 500  # files whose contents are on their way at the same time
WORDS = ("done", "link", "readonly", "gone", "failed", "occupied", "changed")  # answers of guest/restore.sh


def wanted_changes(store: Store, now: str, then: str, paths: Sequence[str] | None, touched: set[str]) -> list[Change]:
    """The changes that bring paths from tree `now` to their state in tree `then`.

    Raises ClincusError(409) for too many. Paths None means the touched paths. The path of a folder means everything in
    it.
    """
    found = list_changes(store, now, then, renames=False, most=MOST)
    if found.truncated:
        problem = f"more than {MOST} files differ: undo some folders, one after the other"
        raise clincus.ClincusError(problem, 409)
    if paths is None:
        return [change for change in found.files if change.path in touched]
    chosen = {path.strip("/") for path in paths}
    return [change for change in found.files if is_chosen(change.path, chosen)]


def is_chosen(path: str, chosen: Collection[str]) -> bool:
    """True if a path, or a folder above it, is one of the chosen ones."""
    while path and path not in chosen:
        path = path.rpartition("/")[0]
    return bool(path)


def restore(
    sessions: clincus.Sessions, session: clincus.Session, store: Store, changes: Sequence[Change]
) -> dict[str, object]:
    """Make changes in a running session's workspace. Returns the paths that were restored, removed, and failed.

    Raises ClincusError; IncusError if the container stops halfway. Changes made until then stay.
    """
    removed = [change for change in changes if change.status == "D"]
    written = [change for change in changes if change.status != "D"]
    size = sum(store.sizes([change.new.blob for change in written]))
    longest_word = max(map(len, WORDS))
    output = sessions.output(
        session,
        "restore",
        sessions.guest(session).mount,
        stdin=orders(store, removed, written),
        timeout=TIMEOUT + size / RATE,
        limit=len(changes) * (longest_word + 1),
    )
    words = output.decode("ascii", "replace").split()
    if len(words) != len(changes) or not set(words) <= set(WORDS):
        problem = "the container did not report the restored files: look at the changes before you continue"
        raise clincus.ClincusError(problem, "container_answer_bad")
    results = list(zip([*removed, *written], words))
    done = [change for change, word in results if word == "done"]
    return {
        "restored": [change.path for change in done if change.status != "D"],
        "removed": [change.path for change in done if change.status == "D"],
        "failed": [{"path": change.path, "why": word} for change, word in results if word != "done"],
    }


def orders(store: Store, removed: Sequence[Change], written: Sequence[Change]) -> Iterator[bytes]:
    """The input of guest/restore.sh: removals first, so that a folder can take the place of a file."""
    for change in removed:
        path = os.fsencode(change.path)
        yield b"remove - - %d 0\n" % len(path) + path
    for begin in range(0, len(written), ORDERS):
        group = written[begin : begin + ORDERS]
        with store.reading([change.new.blob for change in group]) as contents:
            for change, content in zip(group, contents):
                path = os.fsencode(change.path)
                is_new = int(change.status == "A")
                head = f"put {change.new.mode} {is_new} {len(path)} {len(content)}\n"
                yield head.encode() + path + content
