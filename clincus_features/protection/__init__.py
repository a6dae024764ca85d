"""The second line behind the wall: it records, watches and restores sealed paths; GET …/protection and its resolve.

seals.py lists the sealed paths, identity.py identifies the files there, records.py keeps both, watch.py waits for
changes, guard.py acts on them, verdicts.py says what they mean, restore.py restores the content, and suspects.py names
other programs that could be the cause. Some things cannot be sealed: examiner.py looks at git's index (index.py), links
in Git folders (links.py), operations in progress (unfinished.py), and Git folders that appear while a session runs
(modules.py). looks.py runs these looks one after the other, and live.py has their last results. appeared.py reports
files that run by themselves, and scans.py asks wall/scan.py.
"""

from __future__ import annotations

import os

import clincus

from . import watch
from .appeared import Appeared
from .guard import ChangedError, Guard

__all__ = ["ChangedError", "Guard", "install"]


def install(extensions: clincus.Extensions) -> None:
    """Add the check of a start, the listener, the field, the routes and the threads."""
    app = extensions.app
    guard = Guard(app, os.environ if app is None else app.environ)
    appeared = Appeared(app, guard.examiner.put_links_aside, guard.warnings, guard.folders_of)
    appeared.install(extensions)

    def get_protection(request: clincus.Request) -> object:
        session = app.known_session(request.values["id"])
        return {**guard.document(session), **appeared.current(session)}

    def post_resolve(request: clincus.Request) -> object:
        id = app.reachable_session(request.values["id"]).id
        guard.resolve(app.registry.get(id), request.values["action"])
        return app.sessions.document(app.registry.get(id))

    one = "/api/sessions/{id}/protection"
    extensions.routes += [("GET", one, get_protection), ("POST", f"{one}/resolve", post_resolve)]
    extensions.instance_parts += [guard.check_start, appeared.begin]  # a start that is refused has no look beside it
    extensions.listeners.append(guard.hear)
    extensions.session_fields.append(guard.fields)
    extensions.examiners.append(lambda environ, sessions: Guard(None, environ).examine())
    extensions.examiners.append(lambda environ, sessions: watch.examine())
    extensions.duties += [
        clincus.Duty("watching what is sealed", 0.0, guard.work),
        clincus.Duty("finding what is sealed", 0.0, guard.find_next),
        clincus.Duty("comparing files that have no seal", 2.0, guard.compare_indexes),
    ]
