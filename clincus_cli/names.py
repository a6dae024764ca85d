"""Finds the session that a command means: one rule for all commands.

A name is the id of a session, a unique prefix of an id, or the session's own name. Without one it is
$CLINCUS_CONTAINER, else the only session of this folder. `.` stands for the last two where more arguments follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    Search = Callable[[Iterable[clincus.Session]], list[clincus.Session]]

OWN_DEFAULTS = ("attach", "cost", "resume")  # commands in which a missing name has another meaning
READS_RECORDS = ("log",)  # commands that also take a session which only the history has
HERE = "."


def settle_names(context: Context) -> None:
    """Replace the typed words of a command by the ids of the sessions that they mean.

    Raises ClincusError, and UsageError for names beside --all.
    """
    command = context.command
    options = vars(context.options)
    if not command.names_session:
        return
    key = command.session_argument.lower()
    typed = options[key]
    options["is_default"] = not typed
    has_default = command.name not in OWN_DEFAULTS and not options.get("all")
    if isinstance(typed, list) and typed and options.get("all"):  # a person may mean either
        raise cli.UsageError(f"give either {command.session_argument} or --all", command.name)
    if isinstance(typed, str):
        options[key] = named_session(context, typed) if typed or has_default else ""
    elif typed:
        options[key] = [*dict.fromkeys(known_or_typed(context, word) for word in typed)]
    elif has_default:
        options[key] = [named_session(context, "")]


def known_or_typed(context: Context, word: str) -> str:
    """As `named_session`, but an unknown word stays: commands for several sessions warn of it, and continue."""
    try:
        return named_session(context, word)
    except clincus.ClincusError as error:
        if error.status != 404:
            raise
        return word


def named_session(context: Context, word: str) -> str:
    """The id of the session that a word means; "" and `.` mean the default one. Raises ClincusError: 404, 409."""
    if word in ("", HERE):
        word = context.environ.get("CLINCUS_CONTAINER", "")
    if not word:
        folder = clincus.expand(getattr(context.options, "workspace", "") or ".", context.environ)
        found = search(context, lambda known: sessions_of_folder(known, folder))
        nothing = f"no container names provided, and '{os.path.abspath(folder)}' has no session"
        return only_one(found, nothing, "this folder has several sessions")
    if is_whole_id(word, context.environ):
        return word
    found = search(context, lambda known: sessions_called(known, word))
    has_more = " " in context.command.arguments  # the word may have been meant for another argument
    hint = f": write `clincus {context.command.name} . …` for that of this folder" if has_more else ""
    return only_one(found, f'session "{word}" not found{hint}', f"'{word}' could be several sessions")


def search(context: Context, matching: Search) -> list[clincus.Session]:
    """The matching sessions of Incus, or of the history where the command reads what was written down."""
    if context.command.name not in READS_RECORDS:
        return matching(context.sessions.registry.all())
    return matching(context.known_sessions.all()) or matching(recorded_sessions(context.history.runs()))


def recorded_sessions(runs: Iterable[clincus.Run]) -> list[clincus.Session]:
    """The sessions of the history, by the newest run of each id."""
    newest: dict[str, clincus.Run] = {}
    for run in runs:
        newest.setdefault(run.id, run)
    return [
        clincus.Session(id, run.workspace, run.tool, 0, "recorded", run.persistent, engine=clincus.engine_of(id))
        for id, run in newest.items()
    ]


def only_one(found: Sequence[clincus.Session], nothing: str, several: str) -> str:
    """The id of the only session. Raises ClincusError after a list of several."""
    if not found:
        raise clincus.ClincusError(f"{nothing}; `clincus list` shows all sessions", 404)
    if len(found) > 1:
        rows = [(one.id, one.name, one.tool, one.status, one.workspace) for one in found]
        console.say(console.table(("ID", "NAME", "TOOL", "STATE", "WORKSPACE"), rows))
        raise clincus.ClincusError(f"{several}: name one of them", 409)
    return found[0].id


def is_whole_id(word: str, environ: Mapping[str, str]) -> bool:
    """True if a word is a whole id, also of a session that is gone: then no search is needed."""
    slot = clincus.session_slot(clincus.container_prefix(environ), clincus.instance_name(word))
    return slot is not None or cli.is_session_id([word])


def sessions_called(sessions: Iterable[clincus.Session], word: str) -> list[clincus.Session]:
    """The sessions for a word: the one with this exact id, else those whose id begins with it or whose name it is."""
    known = list(sessions)
    exact = [one for one in known if one.id == word]
    return exact or [one for one in known if one.id.startswith(word) or one.name == word]


def sessions_of_folder(sessions: Iterable[clincus.Session], folder: str) -> list[clincus.Session]:
    """The sessions of a folder of this machine, else those of the nearest folder above it that has some."""
    by_folder: dict[str, list[clincus.Session]] = {}
    for one in sessions:
        if not one.engine or one.mode == "clone":  # else its workspace is a folder of another machine
            by_folder.setdefault(one.workspace, []).append(one)
    for start in (os.path.abspath(folder), os.path.realpath(folder)):
        at = start
        while at not in by_folder and at != os.path.dirname(at):
            at = os.path.dirname(at)
        if at in by_folder:
            return by_folder[at]
    return []
