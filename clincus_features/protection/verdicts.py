"""What changes of sealed paths mean, and the words in which they are reported."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import clincus

from . import restore
from .identity import Copies, Item, note_item, steps_to, thing_at
from .live import Fault, Live
from .operations import check_of
from .records import Change, Record, Run
from .seals import Stage
from .watch import MOVED

EDITED, RESTARTS = "edited", "restarts"  # verdicts besides those that the API reports
MOST_TOLD = 20  # changes in one message
VERBS = {"replaced": "was replaced", "changed": "was changed", "gone": "was taken away"}


def is_later(run: str, other: str) -> bool:
    """True if a run (`Session.run`) began after another one; False if that is not known. Pure."""
    begun = clincus.parse_time(run)
    before = clincus.parse_time(other)
    return begun is not None and before is not None and begun > before


def as_faults(kind: str, words: Mapping[str, str]) -> dict[str, Fault]:
    """Paths with words, as faults of one kind. Pure."""
    return {path: Fault(kind, why) for path, why in words.items()}


def kind_of_unsealed(path: str) -> str:
    """The `Change.kind` of a file that has no seal. Pure."""
    name = os.path.basename(path)
    if name.startswith(("index", "sharedindex")):
        return "index"
    return "operation" if check_of(path.rpartition("/.git/")[2]) is not None else "repository"


def set_aside(path: str) -> str:
    """Put a file aside; returns what was done, in words."""
    try:
        return f"it is put aside as {restore.set_aside(path)}"
    except OSError as error:
        return restore.why_not_aside(error)


def ways(stage: Stage, paths: Iterable[str]) -> list[str]:
    """The folders on the way to sealed paths, below the folder that the session got."""
    found: dict[str, None] = {}
    for path in paths:
        source = stage.source(path)
        found.update(dict.fromkeys(steps_to(path, source)[:-1]))
    return list(found)


def several_names(record: Record, paths: Iterable[str]) -> Iterator[str]:
    """The sealed files, also in sealed folders, that have another name by which they can be changed."""
    for path in paths:
        item = record.items.get(path)
        if item is not None and item.kind == "file" and item.links > 1:
            yield path
        for piece in item.pieces if item is not None else ():
            if piece.kind == "file" and piece.links > 1:
                yield f"{path}/{piece.path}"


def mend(record: Record, path: str) -> bool:
    """Restore a path, and record the identity of the file. False if that is not possible.

    If something has replaced it again by then, that is not recorded: it differs, and is restored next.
    """
    item = record.items.get(path)
    if item is None or not restore.restore(path, item, record.copies):
        return False
    noted = note_item(path, Copies(), is_way=item.is_way)
    if noted is not None and (noted.thing == item.thing if item.is_way else noted.content == item.content):
        record.items[path] = noted
    return True


def what_happened(path: str) -> str:
    """The word for the change of a replaced sealed path."""
    return "gone" if thing_at(path) is None else "replaced"


def verdict(path: str, item: Item, how: str, is_off: bool) -> str:
    """The meaning of an event at a sealed path, or at a folder on the way to one.

    "" for nothing, EDITED for a person's edit in place, RESTARTS for a possible restart of the container; else the word
    for the change. A person cannot have moved a sealed name: the kernel denies that on the host. A flood of events does
    not hide a move (`Watcher`), so different content after a flood is an edit as well: a program that can write there
    without a move does not need the flood.
    """
    now = note_item(path, Copies(), is_way=item.is_way)
    is_moved = now is None or now.thing != item.thing or is_off or how == MOVED
    if item.is_placeholder and not item.is_way and is_moved and (now is None or now.is_placeholder):
        return RESTARTS if now is None or now.thing != item.thing or is_off else ""
    if is_moved:
        return what_happened(path)
    return "" if item.is_way or now == item else EDITED


def differing(record: Record, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The paths whose content differs from the record, each with the change. Placeholders may be gone."""
    for path in paths:
        item = record.items.get(path)
        if item is None or item.is_way:
            continue
        now = note_item(path, Copies())
        if item.is_placeholder and (now is None or now.is_placeholder):
            continue
        if now is None:
            yield path, "gone"
        elif now.content != item.content:
            yield path, "changed" if now.thing == item.thing else "replaced"


def is_other(record: Record, live: Live, run: Run) -> Iterator[tuple[str, str]]:
    """The sealed paths of a run, and the folders on the way, that differ from the record, each with the change."""
    for path in (*ways(live.stage, run.paths), *run.paths):
        item = record.items.get(path)
        if item is None:
            continue
        if thing_at(path) != item.thing:
            yield path, what_happened(path)
        elif not item.is_way:
            now = note_item(path, Copies())
            if now is None or now.content != item.content:
                yield path, "changed"


def changed_files(path: str, old: Item, new: Item) -> list[str]:
    """The files at or in a sealed path of the working tree whose content has changed.

    Git's own files are left out: each `git config` writes them, and git never takes them from a commit.
    """
    if ".git" in path.split("/"):
        return []
    if old.kind == "file":
        return [path] if new.content != old.content else []
    before = {piece.path: piece.digest for piece in old.pieces}
    return [f"{path}/{one.path}" for one in new.pieces if before.get(one.path, one.digest) != one.digest]


def is_anothers(record: Record, path: str) -> bool:
    """True if a path that differs cannot be a person's edit in place."""
    item = record.items[path]
    return thing_at(path) != item.thing or item.has_other_names


def add_changes(record: Record, run: Run | None, changes: Iterable[Change]) -> None:
    """Add changes to those of a run, and to the unaccepted ones."""
    for change in changes:
        if run is not None and change not in run.changes:
            run.changes.append(change)
        if change not in record.changes:
            record.changes.append(change)


def waiting_words(record: Record, session: clincus.Session) -> str:
    """The advice for a person before the next start in a workspace; "" for none. Pure."""
    if not record.changes:
        return ""
    paths = ", ".join(dict.fromkeys(change.path for change in record.changes[-MOST_TOLD:]))
    words = "No session starts in this folder until you accept what was changed while one ran"
    return clincus.printable(f"{words}: look at {paths}, then `clincus resume {session.id} --accept-changes`")


def source_of(path: str, workspace: str) -> str:
    """The folder that a path is reported relative to."""
    return workspace if clincus.path_inside(path, workspace) else path.rpartition("/")[0]


def told(changes: Iterable[Change]) -> str:
    """Changes in words: each path once, with its last change and other possible causes."""
    last = {change.path: change for change in changes}
    parts = []
    for change in list(last.values())[:MOST_TOLD]:
        back = "; the copy is back in its place" if change.restored else ""
        parts.append(f"{change.path} {VERBS[change.what]} while a session ran (at {change.at}{back})")
    words = dict.fromkeys(change.words for change in last.values() if change.words)
    more = f" and {len(last) - MOST_TOLD} more" if len(last) > MOST_TOLD else ""
    return clincus.printable("; ".join([", ".join(parts) + more, *words][:MOST_TOLD]))
