"""The context of a command: its options; the config, Incus and the sessions, each read when it is first used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli

if TYPE_CHECKING:
    from typing import Any, TypeVar

    Answer = TypeVar("Answer")

INSTANCES = "/1.0/instances?recursion=2"  # all of them, with their addresses
PATIENCE = 2.0  # seconds for each engine to answer where all are asked


class Context:
    """The means of a command. A command that uses neither the config nor Incus never reads them."""

    def __init__(self, command: cli.Command, options: cli.Options, environ: Mapping[str, str]) -> None:
        self.command = command
        self.options = options
        self.environ = environ
        # Is called with a session that is being created.
        self.on_starting: Callable[[clincus.Session], None] = lambda session: None
        # By session_id: the sessions that this command started, stopped or changed.
        self.changed: dict[str, clincus.Session] = {}

    @functools.cached_property
    def extensions(self) -> clincus.Extensions:
        """The features: every start needs the files that they carry into a container."""
        return clincus.install_features(None)

    @functools.cached_property
    def config(self) -> clincus.Config:
        """The configuration in force. Raises ConfigError."""
        _ = self.extensions  # they may add keys and tools to it
        return clincus.load_config(self.environ, profile=getattr(self.options, "profile", ""))

    @functools.cached_property
    def basics(self) -> clincus.Config:
        """The configuration without the keys of features: enough to find Incus, the server and our files.

        Features take as long to load as all the rest of `clincus list`. Raises ClincusError.
        """
        import clincus_features.tools  # noqa: F401 (tool.name may be a tool of that feature)

        return clincus.load_config(self.environ, profile=getattr(self.options, "profile", ""))

    @functools.cached_property
    def incus(self) -> clincus.Incus:
        """The door to Incus."""
        return clincus.engine_door(self.basics, "")

    def door(self, id: str) -> clincus.Incus:
        """The door to the engine that the id of a container names. Raises ClincusError(404)."""
        return self.engine_door(clincus.engine_of(id))

    def engine_door(self, name: str) -> clincus.Incus:
        """The door to an engine of the config, "" for this host. Raises ClincusError(404)."""
        return clincus.engine_door(self.basics, name) if name else self.incus

    @functools.cached_property
    def history(self) -> clincus.History:
        """The history of all sessions."""
        return clincus.History(clincus.own_file(self.environ, "history.jsonl"))

    @functools.cached_property
    def sessions(self) -> clincus.Sessions:
        """All sessions as Incus has them now, by one call. Changes by this command go into the history."""
        is_known = False
        told = set[str]()

        def record(change: clincus.Change) -> None:
            if is_known:
                self.changed[change.session.session_id] = change.session
                clincus.record_run(self.history, change, console.warn)
            if change.session.status == "starting" and change.session.id not in told:
                told.add(change.session.id)
                self.on_starting(change.session)

        sees_commands = self.command.name in ("run", "clean", "uninstall")
        registry = clincus.Registry(
            clincus.container_prefix(self.environ),
            record,
            (lambda _: True) if sees_commands else is_listed,
            lambda tool: clincus.row_by_config(tool, self.config),
        )
        sessions = clincus.Sessions(
            self.incus,
            registry,
            lambda: self.config,
            self.environ,
            report=console.warn,
            extensions=self.extensions,
        )
        self._refresh(sessions)
        is_known = True
        return sessions

    @functools.cached_property
    def known_sessions(self) -> clincus.Registry:
        """The sessions as Incus has them now, for commands that work without them: none if Incus does not answer."""
        _ = self.config  # a broken config is an error
        try:
            return self.sessions.registry
        except clincus.ClincusError as error:
            console.warn(f"{error.message}. Only sessions of the history are known now.")
            return clincus.Registry(clincus.container_prefix(self.environ), lambda _: None)

    def _refresh(self, sessions: clincus.Sessions) -> None:
        """Ask the engines of the sessions that the command names, all engines if it names none."""
        prefix = sessions.registry.prefix
        words = named_words(self.options)
        ids = [word for word in words if clincus.session_slot(prefix, clincus.instance_name(word)) is not None]
        named = {clincus.engine_of(id) for id in ids} if len(ids) == len(words) else set()
        if "" in named or not named:
            sessions.refresh("")
        for engine in named - {""}:
            sessions.refresh(engine, clincus.READ_TIMEOUT)
        if not named:
            self.each_engine(lambda incus: sessions.refresh(incus.engine, PATIENCE), here=False)

    @property
    def prints_json(self) -> bool:
        """True if the command line asks for JSON, by `--json` or by `--format json`."""
        options = self.options
        return bool(getattr(options, "json", False)) or getattr(options, "format", "") == "json"

    def show(self, document: object, lines: Iterable[str]) -> int:
        """Print the result of the command: a document as JSON for programs, else lines for people. Returns 0."""
        if self.prints_json:
            console.print_json(document)
        else:
            for line in lines:
                print(line)
        return 0

    def report(self, words: str, document: object) -> int:
        """Say on stderr what was done; JSON for programs has it as a document. Returns 0."""
        console.say(words)
        return self.show(document, [])

    def tell(self, text: str) -> None:
        """Write a line about work in progress to stdout, or to stderr where stdout is for JSON."""
        write = console.say if self.prints_json else console.tell
        write(text)

    def instances(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Every instance of this host and of the engines that answer, as Incus describes it, with its engine."""

        def ask(incus: clincus.Incus) -> list[dict[str, Any]]:
            return checked_instances(incus.query(INSTANCES, timeout=PATIENCE if incus.engine else 30))

        for engine, found in self.each_engine(ask).items():
            if isinstance(found, list):
                yield from ((one, engine) for one in found)

    def each_engine(
        self, ask: Callable[[clincus.Incus], Answer], *, here: bool = True
    ) -> dict[str, Answer | clincus.ClincusError]:
        """Ask all engines at the same time; returns the answer of each, or its error.

        This host is among them with `here`. An engine that does not answer becomes a warning; raises ClincusError if it
        is this host, and there are no others.
        """
        engines = [*([""] if here else []), *self.basics.get("engines")]

        def attempt(engine: str) -> Answer | clincus.ClincusError:
            try:
                return ask(self.engine_door(engine))
            except clincus.ClincusError as error:
                return error

        if len(engines) < 2:
            found = {engine: attempt(engine) for engine in engines}
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(len(engines)) as pool:
                found = dict(zip(engines, pool.map(attempt, engines)))
        for said in found.values():
            if isinstance(said, clincus.ClincusError):
                if engines == [""]:
                    raise said
                console.warn(said.message)
        return found


def checked_instances(found: object) -> list[dict[str, Any]]:
    """The instances of an answer. The keys that Clincus uses are checked, the others are as Incus gave them.

    Raises IncusError(503).
    """
    if not isinstance(found, list):
        return clincus.plain_instances(found)  # which says what is wrong with it
    pairs = [(one, clincus.plain_instance(one)) for one in found]
    return [{**one, **plain} for one, plain in pairs if plain is not None]


def named_words(options: cli.Options) -> list[str]:
    """The sessions and containers that a command line names, as they were typed."""
    fields = vars(options)
    given = fields.get("container") or fields.get("name") or ()  # beside a container, `name` is a name to give
    return [given] if isinstance(given, str) else list(given)


def is_listed(session: clincus.Session) -> bool:
    """True if the command line shows a session: also one without a workspace, as the Go program does."""
    return not session.command
