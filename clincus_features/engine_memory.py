"""A memory of each engine: after a start of the server, an engine that is down shows the sessions that it had.

A file for each engine has them in the form of instances, from which the registry reads sessions. The pages show them as
unreachable since the last answer of the engine. Once it answers, only its own answer counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import clincus

PERIOD = 5.0  # seconds between two looks
MOST = 1000  # sessions of an engine
SESSION_LIMIT = 8 << 10  # characters of a session
FILE_LIMIT = MOST * (SESSION_LIMIT + 2)  # bytes


def install(extensions: clincus.Extensions) -> None:
    """Add the looks."""
    memory = Memory(extensions.app)
    extensions.duties.append(clincus.Duty("remembering engines", PERIOD, memory.look, each_engine=True))


class Memory:
    """Keeps the sessions of the engines that answer, and shows those of one that has not answered yet."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._kept: dict[str, bytes] = {}  # engine that has answered -> the content of its file

    def look(self, name: str) -> None:
        """Keep the sessions of an engine, or show those that it had."""
        engine = self._app.engines.get(name)
        if engine is not None and not name:
            engine.stopping.wait()  # this host has the sessions itself
            return
        if engine is None or not engine.looked.is_set():
            return
        mine = [one for one in self._app.registry.all() if one.engine == name]
        if not engine.reach.error:
            self._keep(name, mine)
        elif not mine and name not in self._kept:
            self._recall(engine)

    def _path(self, engine: str) -> str:
        return clincus.own_file(self._app.environ, f"engine-{engine}.json")

    def _table(self, engine: str) -> object:
        """The place of an engine in the config: the same name may mean another engine now."""
        row = self._app.config.get("engines").get(engine, {})
        return [row.get("remote", ""), row.get("project", "")]

    def _keep(self, engine: str, sessions: list[clincus.Session]) -> None:
        path = self._path(engine)
        data = json.dumps({"table": self._table(engine), "instances": [*instances(sessions)]}).encode()
        if self._kept.get(engine) != data:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            clincus.replace_file(path, data, 0o600)
            self._kept[engine] = data
        else:
            with suppress(FileNotFoundError):
                os.utime(path)  # the time of the engine's last answer

    def _recall(self, engine: clincus.Engine) -> None:
        """Show the sessions that an engine had. A later answer of its own replaces them."""
        path = self._path(engine.name)
        registry = self._app.registry
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            seen = os.stat(path).st_mtime
            kept = json.loads(clincus.read_plain_file(path, FILE_LIMIT) or b"{}")
            if kept["table"] == self._table(engine.name):
                engine.date_back(clincus.format_time(datetime.fromtimestamp(seen, timezone.utc)))
                registry.compare_all(next(registry.questions), engine.name, kept["instances"])


def instances(sessions: list[clincus.Session]) -> Iterator[Mapping[str, Any]]:
    """Sessions in the form of instances, as far as the registry reads them. Pure.

    Skips sessions that are being made, and those whose labels are too large.
    """
    made = [session for session in sessions if session.status != "starting"]
    for session in made[:MOST]:
        instance = {
            "name": clincus.instance_name(session.id),
            "status": status_of(session),
            "location": session.member or "none",
            "created_at": session.created_at,
            "last_used_at": session.run,
            "config": clincus.session_labels(session),
        }
        if len(json.dumps(instance)) <= SESSION_LIMIT:
            yield instance


def status_of(session: clincus.Session) -> str:
    """Incus's word for the status of a session."""
    if session.error:
        return "Error"
    return "Frozen" if session.paused else session.status.capitalize()
