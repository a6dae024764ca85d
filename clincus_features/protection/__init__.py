"""The second line behind the wall: what is sealed is noted, watched and put back; GET …/protection and its resolve.

seals.py knows what is sealed, identity.py which file that is, records.py keeps both, watch.py waits for changes,
guard.py decides what they mean, restore.py puts back, suspects.py names who else could have done it. What cannot be
sealed is looked at: git's index (index.py), links in Git folders (links.py), and Git folders that come while a session
runs (modules.py); looks.py takes such looks one after the other. appeared.py tells what runs by itself, scans.py asks
wall/scan.py.
"""

from __future__ import annotations

import os

import clincus

from .appeared import Appeared
from .guard import ChangedError, Guard

__all__ = ["ChangedError", "Guard", "install"]


def install(extensions: clincus.Extensions) -> None:
    """Add the check of a start, the listener, the field, the routes and the threads."""
    app = extensions.app
    guard = Guard(app, os.environ if app is None else app.environ)
    appeared = Appeared(app, guard.put_links_aside, guard.warnings)
    appeared.install(extensions)

    def get_protection(request: clincus.Request) -> object:
        session = app.known_session(request.values["id"])
        return {**guard.document(session), "appeared": appeared.current(session)}

    def post_resolve(request: clincus.Request) -> object:
        id = app.reachable_session(request.values["id"]).id
        guard.resolve(app.registry.get(id), request.values["action"])
        return app.sessions.document(app.registry.get(id))

    one = "/api/sessions/{id}/protection"
    extensions.routes += [("GET", one, get_protection), ("POST", f"{one}/resolve", post_resolve)]
    extensions.instance_parts += [guard.check_start, appeared.begin]  # a start that is refused has no look beside it
    extensions.listeners.append(guard.hear)
    extensions.session_fields.append(guard.fields)
    extensions.examiners.append(lambda environ: Guard(None, environ).examine())
    extensions.duties += [
        clincus.Duty("watching what is sealed", 0.0, guard.work),
        clincus.Duty("finding what is sealed", 0.0, guard.find_next),
        clincus.Duty("comparing files that have no seal", 2.0, guard.compare_indexes),
    ]
