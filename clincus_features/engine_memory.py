"""A memory of each engine: after a start of the server, an engine that is down shows the sessions that it had.

They stand in a file for each engine, as the instances that the registry reads sessions from, and are shown as
unreachable since the engine was last seen. As soon as it answers, what it says counts alone.
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
SESSION_LIMIT = 8 << 10  # characters of one
FILE_LIMIT = MOST * (SESSION_LIMIT + 2)  # bytes


def install(extensions: clincus.Extensions) -> None:
    """Add the looks."""
    memory = Memory(extensions.app)
    extensions.duties.append(clincus.Duty("remembering engines", PERIOD, memory.look, each_engine=True))


class Memory:
    """Keeps the sessions of the engines that answer, and shows those of one that has not answered yet."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._kept: dict[str, bytes] = {}  # engine that has answered -> what its file has

    def look(self, name: str) -> None:
        """Keep what an engine has, or show what it had."""
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
        """The place of an engine in the config: under the same name there may be another one by now."""
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
                os.utime(path)  # it tells when the engine was last seen

    def _recall(self, engine: clincus.Engine) -> None:
        """Show what an engine had. An answer of its own that comes later counts more."""
        path, registry = self._path(engine.name), self._app.registry
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            seen = os.stat(path).st_mtime
            kept = json.loads(clincus.read_plain_file(path, FILE_LIMIT) or b"{}")
            if kept["table"] == self._table(engine.name):
                engine.date_back(clincus.format_time(datetime.fromtimestamp(seen, timezone.utc)))
                registry.compare_all(next(registry.questions), engine.name, kept["instances"])


def instances(sessions: list[clincus.Session]) -> Iterator[Mapping[str, Any]]:
    """Sessions as instances of Incus, as far as the registry reads them. Pure.

    One that is being made is left out, and one with labels without measure.
    """
    for one in [one for one in sessions if one.status != "starting"][:MOST]:
        status = "Error" if one.error else "Frozen" if one.paused else one.status.capitalize()
        instance = {
            "name": clincus.instance_name(one.id),
            "status": status,
            "location": one.member or "none",
            "created_at": one.created_at,
            "last_used_at": one.run,
            "config": clincus.session_labels(one),
        }
        if len(json.dumps(instance)) <= SESSION_LIMIT:
            yield instance
