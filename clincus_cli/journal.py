"""The journal of commands: changes by commands are recorded beside the requests to the server."""

from __future__ import annotations

import contextlib
import os
import time

import clincus
from clincus_cli import console
from clincus_cli.commands import UsageError
from clincus_cli.context import Context, named_words

FROM = "the command line"


def run_noted(context: Context) -> int:
    """Run a command that changes something, and write down its result. Returns its exit code."""
    began = time.monotonic()
    outcome = "interrupted"
    try:
        code = context.command.run(context)
        outcome = "done" if code == 0 else f"exit code {code}"
    except (clincus.ClincusError, UsageError) as error:
        outcome = error.message
        raise
    finally:
        note(context, outcome, time.monotonic() - began)
    return code


def note(context: Context, outcome: str, seconds: float) -> None:
    """Write a line for each session that the command touched, or one line. A failed write becomes a warning."""
    from clincus_features import journal

    entry = {
        "at": clincus.utc_now(),
        "by": clincus.user_name(os.getuid()),
        "uid": os.getuid(),
        "from": FROM,
        "action": f"clincus {context.command.name}",
        "session": "",
        "outcome": journal.clip(outcome),
        "status": None,
        "milliseconds": round(1000 * seconds),
    }
    try:
        directory = journal.logs_directory(context.basics, context.environ)
        for id, session_id in (touched(context) or {"": ""}).items():
            for path, write in journal.action_writes(
                directory, {**entry, "session": id}, session_id, context.command.summary
            ):
                write(path, journal.LOCK_PATIENCE)
    except clincus.ClincusError:
        return  # the config is broken: no command that needs it got anywhere
    except OSError as error:
        console.warn(f"the journal cannot be written: {error}")


def touched(context: Context) -> dict[str, str]:
    """The id of each session that the command changed, or else names, each with its session_id if that is known."""
    changed = {one.id: session_id for session_id, one in context.changed.items()}
    sessions = vars(context).get("sessions")  # a command that did without them is not slowed down now
    words = named_words(context.options)
    ids = {word: known_id(sessions, word) for word in words}
    known = {word: session_id for word, session_id in ids.items() if session_id}
    return changed or known or dict.fromkeys(words[:1], "")


def known_id(sessions: clincus.Sessions | None, id: str) -> str:
    """The session_id of a session, "" for an unknown one."""
    with contextlib.suppress(clincus.ClincusError):
        return sessions.registry.get(id).session_id if sessions else ""
    return ""
