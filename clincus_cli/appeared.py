"""Warns of files in a session's folder that run by themselves on this machine, in commands that end a session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any

SHOWN = 20  # lines; `clincus diff --stat` has them all
SHOWN_COMMANDS = 3  # of one


def end_session(context: Context, name: str, **how: Any) -> clincus.Session | None:
    """As `Sessions.end`; then warn of files of the session that run by themselves."""
    session = context.sessions.registry.get(name)
    left = context.sessions.end(name, **how)
    warn_of_appeared(context, session)
    return left


def warn_of_appeared(context: Context, session: clincus.Session) -> None:
    """Look at the folder of a session that has just ended, and warn of files that have appeared there."""
    from clincus_features.protection.appeared import last_look

    try:
        found, cut = last_look(context.environ, context.config, session)
    except (clincus.ClincusError, OSError) as error:
        console.warn(f"{session.id}: what runs by itself in its folder was not looked for: {error}")
        return
    if cut:
        console.warn(f"{session.id}: not all of '{session.workspace}' was looked at: {cut}")
    if found:
        console.warn(f"since {session.id} began, this appeared in '{session.workspace}'; look at it before you go on:")
        lines = list(appeared_lines(found))
        for line in lines[:SHOWN]:
            console.say(f"  {line}")
        if len(lines) > SHOWN:
            console.say(f"  … and {len(lines) - SHOWN} more: clincus diff {session.id} --stat")


def appeared_lines(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each thing that has appeared; an agent may have chosen all that is in it."""
    for one in found:
        commands = [command_words(command) for command in one["commands"][:SHOWN_COMMANDS]]
        left = len(one["commands"]) - SHOWN_COMMANDS
        least = "at least " if one["truncated"] else ""
        more = [f"{least}{left} more"] if left > 0 else []
        told = f" ({'; '.join([*commands, *more])})" if commands else ""
        yield clincus.printable(f"{one['path']}: {one['when']}{told}")


def command_words(command: Mapping[str, Any]) -> str:
    """A command that has appeared, with a sign if it is cut."""
    more = " …" if command.get("truncated") else ""
    return f"{command['key']} = {command['value']}{more}"
