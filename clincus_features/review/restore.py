"""Undo: brings files of a workspace back to a checkpoint, as the code user inside the container (guest/restore.sh).

A checkpoint of the present state comes first, so an undo can be undone. A file that has changed since, or is in no
checkpoint because it is ignored or too large, is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

import clincus
from clincus_features.review.changes import Change, list_changes
from clincus_features.review.store import Store

MOST = 50_000  # files of one undo
TIMEOUT, RATE = 120.0, 2 << 20  # seconds, and bytes a second
ORDERS = 500  # files whose contents are on their way at the same time
WORDS = ("done", "link", "readonly", "gone", "failed", "occupied", "changed")  # of guest/restore.sh


def wanted_changes(store: Store, now: str, then: str, paths: Sequence[str] | None, touched: set[str]) -> list[Change]:
    """The changes after which paths (None: those that were touched) are again as they were then.

    A path of a folder means all in it. Raises ClincusError(409) for too many.
    """
    found = list_changes(store, now, then, renames=False, most=MOST)
    if found.truncated:
        raise clincus.ClincusError(f"more than {MOST} files differ: undo some folders, one after the other", 409)
    if paths is None:
        return [one for one in found.files if one.path in touched]
    chosen = {path.strip("/") for path in paths}
    return [one for one in found.files if is_chosen(one.path, chosen)]


def is_chosen(path: str, chosen: Collection[str]) -> bool:
    """Whether a path, or a folder above it, is one of those that were chosen."""
    while path and path not in chosen:
        path = path.rpartition("/")[0]
    return bool(path)


def restore(
    sessions: clincus.Sessions, session: clincus.Session, store: Store, changes: Sequence[Change]
) -> dict[str, object]:
    """Make these changes in a running session's workspace; which were made, and why not the others.

    Raises ClincusError: IncusError if the container does not do it to the end; what was done by then stays.
    """
    removed = [one for one in changes if one.status == "D"]
    written = [one for one in changes if one.status != "D"]
    timeout = TIMEOUT + sum(store.sizes([one.new.blob for one in written])) / RATE
    mount, asked = sessions.guest(session).mount, orders(store, removed, written)
    limit = len(changes) * (max(map(len, WORDS)) + 1)
    answer = sessions.output(session, "restore", mount, stdin=asked, timeout=timeout, limit=limit)
    words = answer.decode("ascii", "replace").split()
    if len(words) != len(changes) or not set(words) <= set(WORDS):
        raise clincus.ClincusError("the container did not say what it has restored: look at the changes", 500)
    results = list(zip([*removed, *written], words))
    return {
        "restored": [one.path for one, word in results if word == "done" and one.status != "D"],
        "removed": [one.path for one, word in results if word == "done" and one.status == "D"],
        "failed": [{"path": one.path, "why": word} for one, word in results if word != "done"],
    }


def orders(store: Store, removed: Sequence[Change], written: Sequence[Change]) -> Iterator[bytes]:
    """The input of guest/restore.sh: first what goes, so that a folder can take the place of a file."""
    for one in removed:
        path = os.fsencode(one.path)
        yield b"remove - - %d 0\n" % len(path) + path
    for begin in range(0, len(written), ORDERS):
        some = written[begin : begin + ORDERS]
        with store.reading([one.new.blob for one in some]) as contents:
            for one, content in zip(some, contents):
                path = os.fsencode(one.path)
                head = f"put {one.new.mode} {int(one.status == 'A')} {len(path)} {len(content)}\n".encode()
                yield head + path + content
