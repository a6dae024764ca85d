"""The work that would be lost with a session's container: GET /api/sessions/{id}/unsaved

The core asks the same (`Sessions.keep`) before it deletes a container or restores a snapshot. An answer waits SOON for
the container. It then says `pending`, the look goes on, and a later request gets its result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import clincus

SOON = 1.5  # seconds that an answer waits for a container
KEPT = 10.0  # seconds for which a result that no request has got is kept
PENDING = "its container has not answered yet: ask again"


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app

    def look(known: clincus.Session) -> clincus.Unsaved:
        session = app.sessions.look(known.id) or known  # with the latest files of other programs
        unsaved: clincus.Unsaved = app.sessions.unsaved(session)
        return unsaved

    looks = Looks(look)

    def get_unsaved(request: clincus.Request) -> object:
        session = app.reachable_session(request.values["id"])
        unsaved = looks.soon(session)
        if unsaved is None:
            unsaved = app.sessions.unsaved_without_guest(session, PENDING)
        return unsaved.document()

    extensions.routes.append(("GET", "/api/sessions/{id}/unsaved", get_unsaved))


class Look(NamedTuple):
    """A look at a container, by a thread of its own."""

    state: tuple[str, str, bool]  # of the session: its run, its status and if it is paused
    call: clincus.BackgroundCall
    ended: list[float]  # time.monotonic of its end

    @property
    def is_of_now(self) -> bool:
        """True if it goes on or has just ended."""
        return not self.ended or time.monotonic() - self.ended[0] < KEPT


class Looks:
    """Looks at what containers hold, one at a time for each session. A request gets the look that is on its way."""

    def __init__(self, look: Callable[[clincus.Session], clincus.Unsaved]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._looks: dict[str, Look] = {}  # session -> its look, until a request has got the result

    def soon(self, session: clincus.Session) -> clincus.Unsaved | None:
        """The result of a look; None if it takes longer than an answer. Raises what the look raises."""
        look = self._current(session)
        look.call.join(SOON)
        if look.call.is_alive():
            return None
        with self._lock:
            if self._looks.get(session.id) is look:
                del self._looks[session.id]
        unsaved: clincus.Unsaved = look.call.finish()
        return unsaved

    def _current(self, session: clincus.Session) -> Look:
        state = (session.run, session.status, session.paused)
        with self._lock:
            self._looks = {id: look for id, look in self._looks.items() if look.is_of_now}
            look = self._looks.get(session.id)
            if look is None or look.state != state:
                look = self._begin(session, state)
                self._looks[session.id] = look
            return look

    def _begin(self, session: clincus.Session, state: tuple[str, str, bool]) -> Look:
        ended: list[float] = []

        def work() -> clincus.Unsaved:
            try:
                return self._look(session)
            finally:
                ended.append(time.monotonic())

        return Look(state, clincus.BackgroundCall(work, f"looking into {session.id}", only_reads=True), ended)
