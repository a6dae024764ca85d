"""Keeps the state of each session's tool in a file, so that a new server continues where the last one ended.

The place in the tool's events, the facts from the events before it, and the numbers of turns and questions are kept
together: events after that place are read and counted again in the same way.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple, TypeVar

import clincus
from clincus_features.agents.reading import Known, first_facts
from clincus_features.agents.state import Agent, Held, Past, Said, Seen

FILE_LIMIT = 1 << 20  # bytes
Kept = TypeVar("Kept", Agent, Held, Said, Seen)


class Record(NamedTuple):
    """The state of a session's tool: the place in its events, and the last decision."""

    known: Known
    past: Past


class Records:
    """The records of all sessions, each in a file."""

    def __init__(self, folder: Callable[[], str]) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}  # session -> the document in its file
        self._lock = threading.Lock()

    def read(self, session: clincus.Session) -> Record:
        """A session's record, an empty one if none was kept. Raises ClincusError."""
        known = Known(first_facts(session))
        kept = clincus.read_json(self._path(session.id), FILE_LIMIT, lambda found: parse(session, found, known))
        return kept or Record(known, Past())

    def write(self, session: clincus.Session, record: Record) -> None:
        """Keep a session's record, if it has changed. Raises OSError."""
        document = json.dumps(document_of(session, record))
        with self._lock:
            if self._written.get(session.id) == document:
                return
            os.makedirs(self._folder(), mode=0o700, exist_ok=True)
            clincus.replace_file(self._path(session.id), document.encode(), 0o600)
            self._written[session.id] = document

    def forget(self, id: str) -> None:
        """Delete the record of a session that is gone."""
        with self._lock:
            self._written.pop(id, None)
            with suppress(OSError):
                os.unlink(self._path(id))

    def _path(self, id: str) -> str:
        return os.path.join(self._folder(), f"{id}.json")


def document_of(session: clincus.Session, record: Record) -> dict[str, object]:
    """A record for its file."""
    past = record.past
    known = record.known
    kept = asdict(replace(past, agent=None))
    agent = asdict(past.agent) if past.agent is not None else None
    said = asdict(known.facts.said)
    place = {"inode": known.inode, "offset": known.offset, "skew": known.skew}
    return {"session_id": session.session_id, "agent": agent, "said": said, **place, "past": kept}


def parse(session: clincus.Session, document: dict[str, Any], known: Known) -> Record | None:
    """The record in a document; None if it belongs to an earlier session of this name. Raises for a damaged one."""
    if document["session_id"] != session.session_id:
        return None
    agent = shaped(Agent, document["agent"]) if document["agent"] is not None else None
    kept = {**document["past"], "agent": agent, "seen": shaped(Seen, document["past"]["seen"])}
    kept.update({name: shaped(Held, kept[name]) for name in ("interrupted", "held") if name in kept})
    past = Past(**kept)
    if past.run != known.facts.started:  # another run has begun, whose events are not those
        return Record(known, past)
    overtaken = document["said"].get("overtaken")
    said = replace(shaped(Said, document["said"]), overtaken=shaped(Said, overtaken) if overtaken else None)
    facts = replace(known.facts, said=said, now=time.time())
    place = {name: document[name] for name in ("inode", "offset", "skew")}
    return Record(replace(known, facts=facts, **place), past)


def shaped(kind: type[Kept], words: dict[str, Any]) -> Kept:
    """A dataclass of plain values; lists become tuples."""
    names = {field.name for field in fields(kind)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in words.items() if name in names
    }
    return kind(**values)
