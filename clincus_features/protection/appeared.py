"""Finds files that appeared in a workspace since its session began, and that run by themselves on the person's machine.

wall/scan.py looks at the workspace, in a child of its own: beside the start of a session, after each turn of its tool,
when the session has stopped, and when somebody asks. Files that existed at the start are not reported. A file of the
server for each session records both kinds, so that they are known after a restart of the server, and after the session.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import clincus

from .guard import Guard
from .scans import Scan, scan
from .seals import Stage

PERIOD = 10.0  # seconds from the end of one look at a session to the beginning of the next
QUIET_PERIOD = 60.0  # seconds between two looks at sessions whose tool reports nothing
BEGIN_WITHIN = 30.0  # seconds that a command waits for the look beside the start
RECORD_LIMIT = 32 << 20  # bytes
KEPT_DAYS = 30  # days for which the file of a deleted session is kept
LISTED = 200  # items that are reported at most
KINDS = ("broken", "link", "rebase", "gitlink", "repository", "commit", "settings")  # in the order of the report
MOST_CONTENTS = 1000  # known contents of one path in commits
TOLD_COMMANDS = 20  # reported commands of one item
NAMED = 3  # paths of commits in a warning, and references of one content
KEY_LENGTH = 200  # characters
# When it runs, by the only key of an item, and by its kind.
BY_KEY = {
    "pipe": "git on your machine waits there for ever, for example at `git status`: remove it",
    "object": "git writes what is in it, whatever a commit or an index says: `git fsck` finds it",
}
BY_KIND = {
    "link": "git on your machine follows it, for `git commit` or the end of a rebase: it writes and deletes there",
    "rebase": "runs on your machine when you run `git rebase --continue`",
}
Item = Mapping[str, Any]  # of wall/scan.py
Known = dict[str, "list[str]"]  # the known items, "KIND PATH" -> marks of their commands


@dataclass
class Record:
    """All that is kept of a session."""

    id: str
    session_id: str
    workspace: str
    since: str = ""  # when the first look began (RFC 3339); "" before it
    known: Known = field(default_factory=dict)
    appeared: list[dict[str, Any]] = field(default_factory=list)  # in the form of the API
    # The names of all items that have appeared, also of those that are not reported.
    left: list[str] = field(default_factory=list)
    truncated: bool = False  # `appeared` is cut: there are more
    cut: str = ""
    is_open: bool = True  # no look has been taken since the session ran
    sealed: list[str] = field(default_factory=list)  # paths of the working tree


# -- News


def name_of(item: Item) -> str:
    """The name of an item in `Known`."""
    return f"{item['kind']} {item['path']}"


def mark_of(command: Mapping[str, str]) -> str:
    """A short mark of a command, different for each command."""
    text = "\n".join(command[name] for name in ("key", "value", "cut") if name in command)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def commit_items(commits: Iterable[Item]) -> list[Item]:
    """The files that git may write from commits, as items. Pure.

    A content is a command, which is `unlike` the present file or not. Its mark does not depend on the references that
    have it.
    """
    return [
        {
            "path": one["path"],
            "kind": "commit",
            "there": True,
            "changed": one["changed"],
            "sealed": one["sealed"],
            "unlike": one["unlike"],
            "commands": [{"key": "", "value": content} for content in list(one["contents"])[:MOST_CONTENTS]],
            "names": one["contents"],
        }
        for one in commits
    ]


def known_of(items: Iterable[Item], before: float) -> Known:
    """Items as known ones, without those that were written after a time (seconds since 1970). Pure."""
    return {name_of(item): [mark_of(one) for one in item["commands"]] for item in items if item["changed"] <= before}


def news(items: Iterable[Item], known: Known) -> Iterator[dict[str, Any]]:
    """The new items, and the known items that have new commands, with these commands. Pure."""
    for item in items:
        names = [name_of(item)]
        if item["kind"] == "repository":  # it may have been a known submodule before
            names.append(f"gitlink {item['path'].removesuffix('/.git')}")
        before = next((known[name] for name in names if name in known), None)
        fresh = [one for one in item["commands"] if mark_of(one) not in (before or ())]
        if item["kind"] == "commit":
            fresh = [one for one in fresh if one["value"] in item["unlike"]]
        if fresh or (before is None and item["kind"] != "commit"):
            # The scan may have left out new commands, too, if it found that many.
            has_more = item["kind"] != "commit" and len(item["commands"]) > TOLD_COMMANDS
            yield {**item, "commands": fresh, "has_more": has_more}


def told(
    items: Iterable[Item], earlier: Iterable[Item], rows: Sequence[clincus.protect.Runs], at: str
) -> list[dict[str, Any]]:
    """News in the form of the API, the most urgent first; a repeated one keeps its first time. Pure."""
    times = {name_of(one): one["at"] for one in earlier}
    found = [
        {
            "path": item["path"],
            "kind": item["kind"],
            "when": when_it_runs(item, rows),
            "commands": commands_of(item),
            "truncated": len(item["commands"]) > TOLD_COMMANDS or bool(item.get("has_more")),
            "at": times.get(name_of(item), at),
        }
        for item in items
    ]
    return sorted(found, key=lambda one: (not one["commands"], KINDS.index(one["kind"]), one["path"]))


def commands_of(item: Item) -> list[dict[str, Any]]:
    """The commands of an item in the form of the API. For commits these are the references with each content. Pure."""
    first = item["commands"][:TOLD_COMMANDS]
    if item["kind"] == "commit":
        return [{**references_of(item["names"][one["value"]]), "value": one["value"]} for one in first]
    return [{"key": one["key"], "value": one["value"], "truncated": "cut" in one} for one in first]


def references_of(names: Sequence[str]) -> dict[str, Any]:
    """The first references of a content, in place of a command's key. Pure."""
    key = ", ".join(names[:NAMED])
    return {"key": key[:KEY_LENGTH], "truncated": len(names) > NAMED or len(key) > KEY_LENGTH}


def words_of_commits(appeared: Iterable[Item]) -> str:
    """The files that git may write from commits, for the warnings of a session; empty without any. Pure."""
    found = [one for one in appeared if one["kind"] == "commit"]
    if not found:
        return ""
    shown = "; ".join(f"{one['path']} of {one['commands'][0]['key']}" for one in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    words = f"commits have another content than your folder for paths that run by themselves: {shown}{more}"
    does = "`git checkout`, `git merge`, `git rebase` or `git reset --hard` on your side writes it"
    return clincus.printable(f"{words}; {does}. Look at `git log -p` of these paths first")


def is_told(item: Item, rows: Sequence[clincus.protect.Runs]) -> bool:
    """True if an item is reported: settings only by the presets that are on. Pure."""
    path = item["path"]
    if item["kind"] == "commit":
        return bool(item["sealed"] or clincus.protect.runs_on_host(path, rows))
    heads = {row.path.partition("/")[0] for row in rows if "/" in row.path}  # a link may replace one
    return (
        item["kind"] != "settings" or bool(clincus.protect.runs_on_host(path, rows)) or path.rpartition("/")[2] in heads
    )


def when_it_runs(item: Item, rows: Sequence[clincus.protect.Runs]) -> str:
    """The occasion on which an item runs on the person's machine, as a phrase for them. Pure."""
    kind = item["kind"]
    keys = {one["key"] for one in item["commands"]}
    words = (BY_KEY.get(min(keys)) if len(keys) == 1 else None) or BY_KIND.get(kind)
    if words is not None:
        return words
    if kind == "settings":
        return (
            clincus.protect.runs_on_host(item["path"], rows)
            or "runs on your machine when a program reads what it leads to"
        )
    if kind == "commit":
        runs = clincus.protect.runs_on_host(item["path"], rows) or "a program that runs it then runs the agent's"
        return f"git writes it there by `git checkout`, `git merge` or `git reset --hard` of such a commit, and {runs}"
    if kind == "broken":
        index = "`git checkout .` and `git restore .` on your machine write what it names, into .git as well"
        other = "git takes it for no repository any more, and looks for another one in the folder and above it"
        return index if keys else other
    if kind == "gitlink" and not item["there"]:
        return "nothing is checked out there; `git status` would read the settings of a repository that comes there"
    where = "git in it, or `git push` or `git fetch` with it as the remote"
    if kind == "gitlink":
        where = f"`git status` in the workspace, or {where}"
    words = f"git reads its settings when you run {where}; they name no command now"
    if keys == {"index"}:
        words = "`git checkout .` and `git restore .` in it write what its index names, outside of it as well"
    elif keys:
        words = f"runs on your machine when you run {where}"
    return words


# -- The files


class Looker:
    """Looks at workspaces and keeps the results, for the server and for commands."""

    def __init__(
        self, environ: Callable[[], Mapping[str, str]], config: Callable[[], clincus.Config],
        on_links: Callable[[clincus.Session, dict[str, str]], None],
    ) -> None:  # fmt: skip
        self._environ = environ
        self._config = config
        self._on_links = on_links  # gets new links with their targets, to put them aside
        self._looking = threading.Lock()  # held by one look at a time

    def is_wanted(self, session: clincus.Session) -> bool:
        """True if there is something to examine: a folder of this host that has to be protected."""
        is_here = bool(session.workspace) and session.mode == "mount" and not session.engine
        return is_here and not session.command and not self._config().get("security.disable_protection")

    def begin(self, session: clincus.Session, sealed: Sequence[str] = ()) -> None:
        """Record the items before a session starts. Items that its last run has left stay news. Raises ClincusError.

        `sealed` are the paths of the working tree that are sealed for it.
        """
        record = self.find(session.id, session.session_id)
        if record is not None and record.is_open and record.since:
            return  # it runs, or has run, and no look has followed
        begun = time.time()
        found = self._scan(session, sealed, record)
        with self._changing(session) as record:
            record.sealed = [*sealed]
            left = set(record.left)
            before = begun if not record.since else float("inf")
            fresh = known_of((item for item in items_of(found) if name_of(item) not in left), before)
            kept = {name: commands for name, commands in record.known.items() if name in left}
            record.known = {**kept, **fresh}
            nested = self._take(record, found, is_over=False)
            record.since = record.since or clincus.utc_now()
        if nested:
            self._on_links(session, nested)

    def look(self, session: clincus.Session, *, is_over: bool = False) -> list[dict[str, Any]]:
        """Look at a session's workspace now; returns everything that has appeared. Raises ClincusError.

        If nobody has looked before the session started, files that were written since then count as news.
        """
        before = self.find(session.id, session.session_id)
        try:
            found = self._scan(session, before.sealed if before is not None else (), before)
        except clincus.ClincusError as error:
            with self._changing(session) as record:
                record.cut = error.message
            raise
        with self._changing(session) as record:
            if not record.since:
                started = clincus.parse_time(session.run)
                record.known = known_of(items_of(found), started.timestamp() if started else time.time())
                record.since = clincus.utc_now()
            nested = self._take(record, found, is_over=is_over)
        if nested:
            self._on_links(session, nested)
        return record.appeared

    def find(self, id: str, session_id: str = "") -> Record | None:
        """The record of a session; without `session_id` the newest one of an id, or that of a session id."""
        if session_id:
            return self._read(self._name(id, session_id))
        names = self._names(rf"{re.escape(id)}\.[0-9a-f]{{12}}\.json") or self._names(rf".*\.{digest(id)}\.json")
        times = {}
        for name in names:
            with suppress(OSError):
                times[name] = os.stat(f"{self._folder()}/{name}").st_mtime
        newest = max(times, key=lambda name: times[name], default="")
        return self._read(newest) if newest else None

    def prune(self, living: Iterable[clincus.Session]) -> None:
        """Remove the files of sessions that were deleted long ago."""
        kept = {self._name(one.id, one.session_id) for one in living}
        for name in self._names(r".*\.json"):
            path = f"{self._folder()}/{name}"
            with suppress(OSError):
                if name not in kept and time.time() - os.stat(path).st_mtime > KEPT_DAYS * 86400:
                    os.unlink(path)

    def _scan(self, session: clincus.Session, sealed: Sequence[str], record: Record | None) -> Scan:
        # All presets count, so that turning one on does not make old files news.
        rows = [row.path for rows in clincus.protect.presets().values() for row in rows]
        since = clincus.parse_time(record.since) if record is not None and record.since else None
        with self._looking:
            return scan(session.workspace, rows, self._environ(), sealed, since.timestamp() if since else 0)

    def _take(self, record: Record, found: Scan, *, is_over: bool) -> dict[str, str]:
        """Write a look into a record; returns the new links in repositories within the workspace."""
        rows = clincus.protect.preset_rows(self._config())
        fresh = list(news(items_of(found), record.known))
        record.left = [name_of(item) for item in fresh]
        fresh = [item for item in fresh if is_told(item, rows)]
        everything = told(fresh, record.appeared, rows, clincus.utc_now())
        record.appeared = everything[:LISTED]
        record.truncated = len(everything) > LISTED
        record.cut = found.cut
        record.is_open = not is_over
        nested = [item for item in fresh if item["kind"] == "link" and not item["path"].startswith(".git/")]
        return {f"{record.workspace}/{item['path']}": item["commands"][0]["value"] for item in nested}

    @contextmanager
    def _changing(self, session: clincus.Session) -> Iterator[Record]:
        """A session's record, to be changed in place; it is written at the end of the block, unless that raises."""
        folder = self._folder()
        name = self._name(session.id, session.session_id)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with clincus.locked_folder(folder):
            record = self._read(name) or Record(session.id, session.session_id, session.workspace)
            yield record
            clincus.replace_file(f"{folder}/{name}", json.dumps(asdict(record)).encode(), 0o600)

    def _folder(self) -> str:
        return clincus.own_file(self._environ(), "appeared")

    def _name(self, id: str, session_id: str) -> str:
        return f"{id}.{digest(session_id)}.json"

    def _names(self, pattern: str) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder()) if re.fullmatch(pattern, name)]
        return []

    def _read(self, name: str) -> Record | None:
        found: Record | None = clincus.read_json(f"{self._folder()}/{name}", RECORD_LIMIT, record_of)
        return found


def record_of(document: dict[str, Any]) -> Record:
    """A record from its file. Commands in one of an older version do not have `truncated`. Pure."""
    record = Record(**document)
    for one in record.appeared:
        one["commands"] = [{"truncated": False, **command} for command in one["commands"]]
    return record


def items_of(found: Scan) -> list[Item]:
    """All items of a look. Pure."""
    return [*found.items, *commit_items(found.commits)]


def digest(session_id: str) -> str:
    """A session id as a part of a file's name."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:12]


def last_look(
    environ: Mapping[str, str], config: clincus.Config, session: clincus.Session
) -> tuple[list[dict[str, Any]], str]:
    """Look at the workspace of a session that has just stopped; returns what has appeared, and what was not examined.

    For a command, beside the server. Raises ClincusError.
    """
    looker = Looker(lambda: environ, lambda: config, Guard(None, environ).examiner.put_links_aside)
    if not looker.is_wanted(session):
        return [], ""
    found = looker.look(session, is_over=True)
    record = looker.find(session.id, session.session_id)
    return found, record.cut if record else ""


# -- Moments


class Appeared:
    """Looks at the workspace of each session at certain moments of its life, and reports how much has appeared.

    A command installs it too, without an `app`: there it only records the items before a start.
    """

    def __init__(
        self,
        app: Any,
        on_links: Callable[[clincus.Session, dict[str, str]], None],
        other_warnings: Callable[[clincus.Session], list[str]],
        folders_of: Callable[[clincus.Session], list[str]],
    ) -> None:
        self._app = app
        self._folders_of = folders_of  # the folders of the host that a session's container has
        self._other_warnings = other_warnings
        self.looker = Looker(self._environ, self._config, on_links)
        self._changed = threading.Condition()  # guards all that follows
        # Session id -> time.monotonic, the session, and True if it has stopped.
        self._due: dict[str, tuple[float, clincus.Session, bool]] = {}
        self._looked: dict[str, float] = {}  # session id -> time.monotonic of the last look
        self._states: dict[str, object] = {}  # session id -> the last known state of its tool
        # Session id -> number of items that have appeared, what was not examined, what git may write from commits
        self._told: dict[str, tuple[int, str, str]] = {}
        self._begins: dict[str, threading.Thread] = {}  # session id -> the look beside its start

    def install(self, extensions: clincus.Extensions) -> None:
        """Attach it to the core."""
        extensions.listeners.append(self.tell)
        extensions.agent_listeners.append(self.hear)
        extensions.session_fields.append(self.fields)
        extensions.session_warnings.append(self.warnings)
        extensions.review_fields.append(self.fields_of_changes)
        extensions.duties += [
            clincus.Duty("looking for what runs by itself", 0.0, self.work),
            clincus.Duty("looking at folders of quiet tools", QUIET_PERIOD, self.look_at_quiet_tools),
            clincus.Duty("forgetting what appeared", 3600.0, lambda: self.looker.prune(self._app.registry.all())),
        ]

    def begin(
        self, incus: object, session: clincus.Session, launch: object, description: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Begin the look beside a start: after its description is made, so that it takes no CPU from wall/places.py."""
        if self.looker.is_wanted(session) and session.session_id not in self._begins:
            stage = Stage.of(description["config"])
            sealed = stage.in_tree(session.workspace) if stage is not None else []
            begin = threading.Thread(target=self._begin, args=(session, sealed), name=f"looking at {session.id}")
            self._begins[session.session_id] = begin
            begin.start()

    def tell(self, moment: str, session: clincus.Session) -> None:
        """Act on a moment in a session's life. Only a command waits, for the look that it has begun."""
        if moment == "after_start" and self._app is None:
            self._wait_for_begin(session)
        elif moment == "started" and self.looker.is_wanted(session):
            record = self.looker.find(session.id, session.session_id)
            if record is None or not record.since:
                self._ask(session, delay=PERIOD)  # a look beside the start may be about to end
        elif moment == "stopped" and self.looker.is_wanted(session):
            self._ask(session, has_stopped=True)
        elif moment == "deleted":
            with self._changed:
                self._states.pop(session.session_id, None)
                self._looked.pop(session.session_id, None)

    def hear(self, session: clincus.Session, agent: Mapping[str, object]) -> None:
        """Note the new state of a session's tool. It never waits."""
        state = agent["state"]
        before = self._states.get(session.session_id)
        self._states[session.session_id] = state
        if state not in ("working", "starting", before):
            for one in (session, *self._neighbours(session)):
                if self.looker.is_wanted(one):
                    self._ask(one)

    def fields(self, session: clincus.Session) -> dict[str, object]:
        """The fields of a session: the number of items that have appeared."""
        return {"appeared": self._known(session)[0]}

    def warnings(self, session: clincus.Session) -> list[str]:
        """The warnings of a session: that something has appeared, and where the look at its workspace was cut short."""
        count, cut, commits = self._known(session)
        warnings = [*self._other_warnings(session), *([commits] if commits else [])]
        if count:
            many = "1 thing that runs by itself" if count == 1 else f"{count} things that run by themselves"
            where = f"on your machine appeared in the folder: `clincus diff {session.id} --stat` has them"
            warnings.append(f"{many} {where}")
        if cut:
            warnings.append(f"not all of the folder was looked at for what runs by itself on your machine: {cut}")
        return warnings

    def fields_of_changes(self, id: str, session_id: str = "") -> dict[str, object]:
        """Fields for the API: the items that had appeared at the last look at a session, and if the list is cut.

        The session may be gone.
        """
        record = self.looker.find(id, session_id)
        if record is None:
            return {"appeared": [], "appeared_truncated": False}
        return {"appeared": record.appeared, "appeared_truncated": record.truncated or bool(record.cut)}

    def current(self, session: clincus.Session) -> dict[str, object]:
        """The fields as above; for a running session, it looks again now and then."""
        is_old = time.monotonic() - self._looked.get(session.session_id, float("-inf")) > PERIOD
        if session.status == "running" and is_old and self.looker.is_wanted(session):
            clincus.survive(f"the look at the folder of {session.id}", lambda: self.look(session))
        return self.fields_of_changes(session.id, session.session_id)

    def look(self, session: clincus.Session, *, is_over: bool = False) -> list[dict[str, Any]]:
        """Look at a session's workspace now, and tell the pages if something is new. Raises ClincusError."""
        self._wait_for_begin(session)
        before = self._known(session)
        try:
            return self.looker.look(session, is_over=is_over)
        finally:
            self._looked[session.session_id] = time.monotonic()
            now = self._count(session)
            self._told[session.session_id] = now
            if now != before:
                self._app.hub.publish({"type": "session.changed", "id": session.id}, extension=True)
            if now[0] > before[0]:
                clincus.log.warning("%s: %d things have appeared that run by themselves", session.id, now[0])

    def work(self) -> None:
        """Wait until a look is due, and take it."""
        with self._changed:
            at = time.monotonic()
            due = min(self._due.values(), key=lambda one: one[0], default=None)
            if due is None or due[0] > at:
                self._changed.wait(None if due is None else due[0] - at)
                return
            _, session, has_stopped = due
            del self._due[session.session_id]
        now = self._app.registry.find(session.id)
        is_next_run = now is not None and now.session_id == session.session_id and now.status == "running"
        failure = clincus.survive(
            f"the look at the folder of {session.id}",
            lambda: self.look(session, is_over=has_stopped and not is_next_run),
        )
        if failure and is_next_run:  # no other look may come: the tool's turn is over
            self._ask(session, delay=QUIET_PERIOD)

    def look_at_quiet_tools(self) -> None:
        """Ask for looks at sessions whose tool reports nothing, unless their containers have been idle since."""
        quiet = [
            one
            for one in self._app.registry.all()
            if one.status == "running" and not one.engine and self._states.get(one.session_id, "unknown") == "unknown"
        ]
        since = {one.id: self._looked.get(one.session_id, float("-inf")) for one in quiet}
        asleep = self._app.extensions.known_to_sleep("", since, 0.0)
        for session in quiet:
            if session.id not in asleep and self.looker.is_wanted(session):
                self._ask(session)

    def _neighbours(self, session: clincus.Session) -> Iterator[clincus.Session]:
        """The other running sessions in whose workspaces a session's container may have written."""
        folders = self._folders_of(session)
        for other in self._app.registry.all():
            overlaps = (
                clincus.path_inside(folder, other.workspace) or clincus.path_inside(other.workspace, folder)
                for folder in folders
            )
            if other.session_id != session.session_id and other.status == "running" and any(overlaps):
                yield other

    def _begin(self, session: clincus.Session, sealed: Sequence[str]) -> None:
        try:
            clincus.survive(f"the look at the folder of {session.id}", lambda: self.looker.begin(session, sealed))
        finally:
            self._begins.pop(session.session_id, None)

    def _wait_for_begin(self, session: clincus.Session) -> None:
        """Wait for the look beside a session's start."""
        begin = self._begins.get(session.session_id)
        if begin is not None:
            begin.join(BEGIN_WITHIN)

    def _ask(self, session: clincus.Session, *, has_stopped: bool = False, delay: float = 0.0) -> None:
        """Ask for a look. A look at a running session waits for PERIOD since the last one."""
        at = time.monotonic() + delay
        with self._changed:
            if not has_stopped:
                at = max(at, self._looked.get(session.session_id, float("-inf")) + PERIOD)
            due = self._due.get(session.session_id)
            if due is None or has_stopped or due[0] > at:
                self._due[session.session_id] = at, session, has_stopped
                self._changed.notify_all()

    def _known(self, session: clincus.Session) -> tuple[int, str, str]:
        """The entry of `_told`."""
        if session.session_id not in self._told:
            count = self._count(session)
            return self._told.setdefault(session.session_id, count)  # a look that ended meanwhile knows more
        return self._told[session.session_id]

    def _count(self, session: clincus.Session) -> tuple[int, str, str]:
        record = self.looker.find(session.id, session.session_id) if session.session_id else None
        if record is None:
            return 0, "", ""
        return len(record.appeared), record.cut, words_of_commits(record.appeared)

    def _environ(self) -> Mapping[str, str]:
        return os.environ if self._app is None else self._app.environ

    def _config(self) -> clincus.Config:
        found: clincus.Config = clincus.load_config(os.environ) if self._app is None else self._app.config
        return found
