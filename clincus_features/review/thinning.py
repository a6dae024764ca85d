"""Keeps the store of checkpoints within bounds of age, number and size. A session's first checkpoint stays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import clincus
from clincus_features.review.recorder import Recorder
from clincus_features.review.records import Checkpoint, Record
from clincus_features.review.store import Store

ROUNDS = 4  # tries to make a store small enough; each one removes half of the states that may go


def thin(recorder: Recorder, config: clincus.Config, now: datetime) -> None:
    """Remove checkpoints that are too old or too many by the config, and free their space."""
    age = clincus.parse_duration(config.get("checkpoints.max_age"))
    oldest = clincus.format_time(now - timedelta(seconds=age)) if age else ""
    by_workspace: dict[str, list[Record]] = {}
    for record in recorder.records.all():
        by_workspace.setdefault(record.workspace, []).append(record)
    for workspace, records in by_workspace.items():
        thin_workspace(recorder, config, recorder.store(workspace), records, oldest)


def thin_workspace(
    recorder: Recorder, config: clincus.Config, store: Store, records: Sequence[Record], oldest: str
) -> None:
    """Thin the checkpoints of all sessions of one workspace; `oldest` is a time of the API, "" for no limit."""
    left = []
    for record in records:
        if record.ended and record.looked_at < oldest:
            recorder.records.delete(record)
            forget_all(recorder, record)
            continue
        left.append(record)
        name_again(store, record)
        most = config.get("checkpoints.max_count")
        remove(recorder, record, too_many(record.checkpoints, most, oldest))
    if not left:
        store.delete()
        return
    store.tidy()
    size = clincus.size_bytes(config.get("checkpoints.max_size"))
    shrink(recorder, left, size * 3 // 4)


def name_again(store: Store, record: Record) -> None:
    """Name each tree of a session again.

    If a power cut has torn a name, tidying would otherwise drop its tree.
    """
    if not store.exists:
        return
    for checkpoint in record.checkpoints:
        with suppress(clincus.ClincusError):  # the tree itself is lost
            store.keep(checkpoint.tree, f"{record.key}/{checkpoint.checkpoint}")


def too_many(checkpoints: Sequence[Checkpoint], most: int, oldest: str) -> list[Checkpoint]:
    """The checkpoints to remove. Pure.

    First those before the time `oldest`; then, while there are more than `most`, every second one of the older half.
    The first and the last checkpoint stay.
    """
    first = checkpoints[:1]
    last = checkpoints[1:][-1:]
    young = [one for one in checkpoints[1:-1] if one.at >= oldest]
    kept = [*first, *young, *last]
    while len(kept) > most:
        half = max(len(kept) // 2, 2)
        if half > 2:
            kept = [*kept[:half:2], *kept[half + half % 2 :]]
        else:
            kept = [kept[0], *kept[2:]]
    names = {one.checkpoint for one in kept}
    return [one for one in checkpoints if one.checkpoint not in names]


def remove(recorder: Recorder, record: Record, gone: Sequence[Checkpoint]) -> None:
    """Remove checkpoints of a session."""
    if not gone:
        return
    names = {one.checkpoint for one in gone}
    with recorder.records.changing(record) as stored:
        stored.checkpoints = [one for one in stored.checkpoints if one.checkpoint not in names]
    store = recorder.store(record.workspace)
    store.forget(f"{record.key}/{name}" for name in names)


def forget_all(recorder: Recorder, record: Record) -> None:
    """Remove all trees of a session whose record is deleted."""
    names = [one.checkpoint for one in record.checkpoints]
    names.append("now")
    if record.branch_tree:
        names.append("branch")
    store = recorder.store(record.workspace)
    store.forget(f"{record.key}/{name}" for name in names)


def shrink(recorder: Recorder, records: Sequence[Record], most: int) -> None:
    """Remove the older half of the checkpoints of a workspace until its store has at most `most` bytes."""
    store = recorder.store(records[0].workspace)
    for _ in range(ROUNDS):
        if store.size() <= most:
            return
        store.tidy(even_few=True)
        if store.size() <= most:
            return
        for record in records:
            stored = recorder.records.find(record.id, record.session_id) or record
            half = max(1, len(stored.checkpoints) // 2)
            remove(recorder, stored, stored.checkpoints[1:-1][:half])
        store.tidy(even_few=True)
