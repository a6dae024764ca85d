"""The states of an agent that are worth a call, and the words for them: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from posixpath import basename
from typing import NamedTuple

import clincus

DWELL = {"waiting": 5.0}  # seconds that a state must last before a call; 2 for any other
COOLDOWN = 60.0  # seconds between two calls for one session, unless a person has looked at it in between
TOLD_LIMIT = 300  # sessions whose last call is remembered
# The words that a person reads behind the session's name. A state with its reason goes before the state alone.
WORDS = {
    "waiting": "waits for you",
    "waiting/question": "asks you a question",
    "waiting/plan": "has a plan for you to read",
    "waiting/permission": "asks for permission",
    "waiting/dialog": "waits at a dialog",
    "waiting/login": "wants you to log in",
    "waiting/protection": "is frozen: something sealed was changed",
    "done": "is done",
    "failed": "has failed",
    "failed/rate_limit": "has reached its limit",
    "failed/auth": "cannot log in",
    "failed/billing": "has a problem with billing",
    "failed/overloaded": "gave up: the model is overloaded",
    "failed/network": "gave up: no network",
    "stuck": "seems to be stuck",
}


class News(NamedTuple):
    """An event that a person is called for."""

    id: str  # of the session
    name: str
    state: str
    reason: str
    text: str  # what the tool says, "" unless the config lets it out
    since: str  # RFC 3339

    @property
    def event(self) -> tuple[str, str, str]:
        """The key of the event among those of its session."""
        return self.state, self.reason, self.since

    def document(self) -> dict[str, object]:
        """The news object of the API and of the webhook."""
        words = WORDS.get(f"{self.state}/{self.reason}") or WORDS.get(self.state, self.state)
        return {**self._asdict(), "title": f"{self.name} {words}"}


class Told(NamedTuple):
    """The last call for a session."""

    state: str
    reason: str
    at: str  # RFC 3339


def read_news(
    session: clincus.Session, agent: Mapping[str, object], wanted: Collection[str], with_text: bool
) -> News | None:
    """The news of a session by its agent object; None if there is none, or a person has seen it."""
    state, reason = str(agent.get("state", "")), str(agent.get("reason", ""))
    if state not in wanted or agent.get("seen"):
        return None
    text = str(agent.get("text", "")) if with_text else ""
    name = getattr(session, "name", "") or basename(session.workspace)
    return News(session.id, clincus.printable(name)[:80], state, reason, text, str(agent.get("since", "")))


def is_told(told: Mapping[str, Told], session_id: str, news: News, now: str) -> bool:
    """Whether the last call for a session was for this very event: it had begun by then.

    An event that is read anew, by a server that was started again, may have another time than before. A call of the
    future was made before the clock was set back, so it was for no event that has begun since.
    """
    last = told.get(session_id)
    if last is None or last[:2] != (news.state, news.reason) or news.since <= now < last.at:
        return False
    return news.since <= last.at


def remember(told: Mapping[str, Told], session_id: str, news: News, now: str) -> dict[str, Told]:
    """The calls so far with one more; the oldest of too many are forgotten."""
    everything = {**told, session_id: Told(news.state, news.reason, now)}
    return dict(sorted(everything.items(), key=lambda item: item[1].at)[-TOLD_LIMIT:])
