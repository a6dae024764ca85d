"""Keeps the store of checkpoints bounded: by age, by number and by size. A session's first checkpoint stays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import clincus
from clincus_features.review.recorder import Recorder
from clincus_features.review.records import Checkpoint, Record
from clincus_features.review.store import Store

ROUNDS = 4  # times that half of what may go is taken from a store that is too large


def thin(recorder: Recorder, config: clincus.Config, now: datetime) -> None:
    """Remove what the config says is too old or too much, and give its room back."""
    age = clincus.parse_duration(config.get("checkpoints.max_age"))
    oldest = clincus.format_time(now - timedelta(seconds=age)) if age else ""
    by_workspace: dict[str, list[Record]] = {}
    for record in recorder.records.all():
        by_workspace.setdefault(record.workspace, []).append(record)
    for workspace, records in by_workspace.items():
        store = recorder.store(workspace)
        left = [record for record in records if not (record.ended and record.looked_at < oldest)]
        for record in records:
            if record in left:
                name_again(store, record)
                gone = too_many(record.checkpoints, config.get("checkpoints.max_count"), oldest)
                remove(recorder, record, gone)
            else:
                recorder.records.delete(record)
                forget_all(recorder, record)
        if not left:
            store.delete()
            continue
        store.tidy()
        shrink(recorder, left, clincus.size_bytes(config.get("checkpoints.max_size")) * 3 // 4)


def name_again(store: Store, record: Record) -> None:
    """Keep each tree of a session under its name again, where a power cut has torn that: else tidying would drop it."""
    for one in record.checkpoints if store.exists else ():
        with suppress(clincus.ClincusError):  # the tree itself is lost
            store.keep(one.tree, f"{record.key}/{one.checkpoint}")


def too_many(checkpoints: Sequence[Checkpoint], most: int, oldest: str) -> list[Checkpoint]:
    """Which checkpoints go: those before a time, and of the older half every second one as long as there are too many.

    The first and the last one stay. Pure.
    """
    kept = list(checkpoints)
    kept = [*kept[:1], *(one for one in kept[1:-1] if one.at >= oldest), *kept[1:][-1:]]
    while len(kept) > most:
        half = max(len(kept) // 2, 2)
        kept = [*kept[:half:2], *kept[half + half % 2 :]] if half > 2 else [kept[0], *kept[2:]]
    names = {one.checkpoint for one in kept}
    return [one for one in checkpoints if one.checkpoint not in names]


def remove(recorder: Recorder, record: Record, gone: Sequence[Checkpoint]) -> None:
    """Remove checkpoints of a session."""
    if not gone:
        return
    names = {one.checkpoint for one in gone}
    with recorder.records.changing(record) as now:
        now.checkpoints = [one for one in now.checkpoints if one.checkpoint not in names]
    recorder.store(record.workspace).forget(f"{record.key}/{name}" for name in names)


def forget_all(recorder: Recorder, record: Record) -> None:
    """Remove all trees of a session that is forgotten."""
    names = [one.checkpoint for one in record.checkpoints] + ["now"] + (["branch"] if record.branch_tree else [])
    recorder.store(record.workspace).forget(f"{record.key}/{name}" for name in names)


def shrink(recorder: Recorder, records: Sequence[Record], most: int) -> None:
    """Remove the older half of the checkpoints of a workspace, again and again, until its store is small enough."""
    store = recorder.store(records[0].workspace)
    for _ in range(ROUNDS):
        if store.size() <= most:
            return
        store.tidy(even_few=True)
        if store.size() <= most:
            return
        for record in records:
            found = recorder.records.find(record.id, record.session_id) or record
            remove(recorder, found, found.checkpoints[1:-1][: max(1, len(found.checkpoints) // 2)])
        store.tidy(even_few=True)
