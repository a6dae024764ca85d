"""All engines but this host: following those of the config, GET /api/engines, and the way to a cluster by its members.

In the background, Clincus asks an engine for its version and the members of its cluster. A file keeps the answer: a
server that starts while the configured member is down finds the others there.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import clincus

SURVEY_PERIOD = 5.0  # seconds between two looks at an engine that cannot be reached
SURVEY_EVERY = 15.0  # seconds between two questions to an engine that can be reached
PATIENCE = 4.0  # seconds for a member to answer before the next one is tried
FACTS_LIMIT = 1 << 20  # bytes of the file


def install(extensions: clincus.Extensions) -> None:
    """Add the route and the looks, and follow the engines of the config."""
    app = extensions.app
    extensions.config_listeners.append(lambda: follow_config(app))
    survey = Survey(app)
    extensions.routes.append(("GET", "/api/engines", lambda request: survey.document()))
    extensions.duties.append(clincus.Duty("asking engines", SURVEY_PERIOD, survey.look, each_engine=True))


def follow_config(app: clincus.Application) -> None:
    """Follow exactly the engines of the config in force, as they are configured now."""
    wanted = app.config.get("engines")
    changed = [name for name, engine in app.engines.items() if name and engine.row != wanted.get(name)]
    app.forget_engines(changed)
    for name in wanted:
        if app.sessions.engine(name).thread is None:
            app.follow(name)


@dataclass(frozen=True)
class Facts:
    """The last answer of an engine about itself."""

    version: str = ""
    is_cluster: bool = False
    members: tuple[tuple[str, str, str], ...] = ()  # name, Incus's word for its state, URL
    groups: tuple[str, ...] = ()


def facts_file(environ: Mapping[str, str]) -> str:
    """The path of the file that keeps the facts of the engines."""
    return clincus.own_file(environ, "engines.json")


def read_facts(environ: Mapping[str, str]) -> dict[str, Facts]:
    """The kept facts of the engines, by their names. Raises ClincusError if the file cannot be read."""

    def fit(kept: dict[str, Any]) -> dict[str, Facts]:
        return {name: known_facts(one) for name, one in kept.items()}

    return clincus.read_json(facts_file(environ), FACTS_LIMIT, fit) or {}


def known_facts(kept: Mapping[str, Any]) -> Facts:
    """Facts from their JSON form. Raises KeyError, TypeError or ValueError for any other."""
    members = tuple((str(name), str(status), str(url)) for name, status, url in kept["members"])
    return Facts(str(kept["version"]), bool(kept["is_cluster"]), members, tuple(map(str, kept["groups"])))


def ask_facts(incus: clincus.Incus) -> Facts:
    """Ask an engine about itself, in one to three calls. Raises ClincusError."""
    environment = incus.query("/1.0", timeout=clincus.READ_TIMEOUT).get("environment") or {}
    version = str(environment.get("server_version", ""))
    if not environment.get("server_clustered"):
        return Facts(version)
    rows = incus.query("/1.0/cluster/members?recursion=1", timeout=clincus.READ_TIMEOUT)
    members = [(str(row["server_name"]), str(row["status"]), str(row["url"])) for row in rows]
    paths = incus.query("/1.0/cluster/groups", timeout=clincus.READ_TIMEOUT)
    groups = [str(path).rpartition("/")[2] for path in paths]
    return Facts(version, True, tuple(sorted(members)), tuple(sorted(groups)))


class Survey:
    """Keeps the facts of the engines, and finds another member of a cluster when the known one is down."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._lock = threading.Lock()  # guards the facts
        self._facts: dict[str, Facts] | None = None  # None: the file was not read yet
        self._next: dict[str, float] = {}  # engine -> time.monotonic of the next question
        self._turning = threading.Lock()  # held while `incus` rewrites its file, which has the remotes of all engines

    def document(self) -> list[dict[str, object]]:
        """The answer to GET /api/engines: this host first, then the engines of the config by name."""
        sessions = self._app.registry.all()
        facts = self._known()
        rows = self._app.config.get("engines")
        documents = []
        for name, engine in sorted(self._app.engines.items()):
            roots = rows.get(name, {}).get("roots", [])
            documents.append(engine_document(engine, facts.get(name, Facts()), sessions, roots))
        return documents

    def look(self, name: str) -> None:
        """Ask an engine about itself if it is time to, or look for another member if it cannot be reached."""
        engine = self._app.engines[name]
        known = self._known().get(name, Facts())
        if not name and known.version:  # this host stays as it is
            engine.stopping.wait()
            return
        if engine.reach.error:
            with self._turning:
                if known.is_cluster and name and find_member(engine.incus.fresh_door(), known):
                    engine.reconnect()
            return
        if time.monotonic() >= self._next.get(name, 0.0):
            fresh = ask_facts(engine.incus)
            self._next[name] = time.monotonic() + SURVEY_EVERY
            if fresh != known:
                self._keep(name, fresh)
                event = {"type": "engine.changed", "engine": name, "error": ""}
                self._app.hub.publish(event, extension=True)

    def _known(self) -> dict[str, Facts]:
        with self._lock:
            if self._facts is None:
                self._facts = read_facts(self._app.environ)
            return self._facts

    def _keep(self, engine: str, fresh: Facts) -> None:
        with self._lock:
            wanted = {"", *self._app.config.get("engines")}
            known = {**(self._facts or {}), engine: fresh}
            self._facts = {name: facts for name, facts in known.items() if name in wanted}
            document = {name: asdict(facts) for name, facts in self._facts.items()}
            path = facts_file(self._app.environ)
            with clincus.locked_folder(os.path.dirname(path)):
                clincus.replace_file(path, json.dumps(document).encode(), 0o600)


def find_member(incus: clincus.Incus, known: Facts) -> bool:
    """Point the remote to a member that answers. True if there is one.

    All members show one certificate, which the `incus` command compares with the trusted one.
    """
    for _, _, url in known.members:
        if url.startswith("https://"):
            incus.run("remote", "set-url", incus.remote, url, timeout=clincus.READ_TIMEOUT)
            try:
                incus.query("/1.0", timeout=PATIENCE)
            except clincus.ClincusError:
                continue
            clincus.log.info("engine %s: through %s from now on", incus.engine, url)
            return True
    return False


def engine_document(
    engine: clincus.Engine, known: Facts, sessions: Iterable[clincus.Session], roots: Iterable[str]
) -> dict[str, object]:
    """An engine in the form of the API. Pure."""
    counts = Counter(session.member for session in sessions if session.engine == engine.name)
    remote_kind = "cluster" if known.is_cluster else "remote"
    return {
        "name": engine.name,
        "kind": remote_kind if engine.name else "local",
        "reachable": not engine.reach.error and engine.looked.is_set(),
        "since": engine.reach.since,
        "error": engine.reach.error,
        "version": known.version,
        "members": [{"name": name, "status": status, "sessions": counts[name]} for name, status, _ in known.members],
        "groups": list(known.groups),
        "roots": list(roots),
    }
