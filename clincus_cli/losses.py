"""The work in a session's container that is not on this machine, for the questions of commands that delete it."""

from __future__ import annotations

import clincus
from clincus_cli import console


def loss_note(sessions: clincus.Sessions, session: clincus.Session) -> str:
    """The losses with a session's container, as far as they are known; "" for none. Starts nothing."""
    asking = console.progress(f"Asking the container of {session.id} what only it has")
    with asking, clincus.patient(clincus.ANSWER_PATIENCE, clincus.ANSWER_PATIENCE):
        unsaved = sessions.unsaved(session)
    known = f"not on this machine: {unsaved.words}" if unsaved.words else ""
    unknown = f"what its container holds is not known: {unsaved.unknown}" if unsaved.unknown else ""
    return "; ".join(filter(None, (known, unknown)))


def loss_question(sessions: clincus.Sessions, session: clincus.Session | None) -> str:
    """The same as sentences after a question; "" for a container that is no session."""
    note = loss_note(sessions, session) if session is not None else ""
    return f" {note[0].upper()}{note[1:]}. What is not on this machine is copied here first." if note else ""
