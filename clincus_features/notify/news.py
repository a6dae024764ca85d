"""The states of an agent that are worth a call, and the words for them: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from posixpath import basename
from typing import Any, NamedTuple

import clincus

# Seconds that a state must last before a call. In the meantime the screen may show that the question was answered at
# once, or that the tool goes on: clincus_features/agents/times.py has the reasons.
DWELL_WAITING, DWELL = 6.0, 4.0
ASKS = ("waiting", "stuck", "ended")  # states that the number of a question tells from each other; else that of a turn
COOLDOWN = 60.0  # seconds between two calls for one session, unless a person has looked at it in between
ANSWERED_HERE = ("question", "permission")  # what an option in a notification may answer
ANSWERS = 2  # options that a notification shows; Chromium takes no more
WHOLE_TEXT = 240  # characters of a question that a notification shows whole, so that nobody answers a part of it
TOLD_LIMIT = 300  # sessions whose last call is remembered
# The words that a person reads behind the session's name. A state with its reason goes before the state alone.
WORDS = {
    "waiting": "waits for you",
    "waiting/question": "asks you a question",
    "waiting/plan": "has a plan for you to read",
    "waiting/permission": "asks for permission",
    "waiting/dialog": "waits at a dialog",
    "waiting/login": "wants you to log in",
    "waiting/protection": "is frozen: something changed that your machine would run",
    "done": "is done",
    "failed": "has failed",
    "failed/rate_limit": "has reached its limit",
    "failed/auth": "cannot log in",
    "failed/billing": "has a problem with billing",
    "failed/overloaded": "gave up: the model is overloaded",
    "failed/network": "gave up: no network",
    "ended/crashed": "has crashed",
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
    number: int | None = None  # of the turn that is over, or of the question; None for an alarm
    options: tuple[str, ...] = ()  # that the tool offers, as its text

    @property
    def answers(self) -> tuple[str, ...]:
        """The first options, if a notification shows all that a person has to read before."""
        is_read = 0 < len(self.text) <= WHOLE_TEXT and self.state == "waiting" and self.reason in ANSWERED_HERE
        return self.options[:ANSWERS] if is_read and self.number is not None else ()

    @property
    def kind(self) -> str:
        """The kind of its number: a field of Told."""
        return "alarm" if self.number is None else "question" if self.state in ASKS else "turn"

    @property
    def event(self) -> tuple[str, str]:
        """The key of the event among those of its session. Words and times may change while it lasts."""
        return self.kind, self.since if self.number is None else str(self.number)

    def document(self) -> dict[str, object]:
        """The news object of the API and of the webhook."""
        words = WORDS.get(f"{self.state}/{self.reason}") or WORDS.get(self.state, self.state)
        shown = {name: value for name, value in self._asdict().items() if name not in ("number", "options")}
        return {**shown, "title": f"{self.name} {words}"}

    def shown_on_device(self, *, fresh: bool, silent: bool) -> dict[str, object]:
        """The news object for the worker of a device, which may show buttons that answer."""
        answers = list(self.answers)
        number = self.number if answers else None
        return {**self.document(), "fresh": fresh, "silent": silent, "answers": answers, "number": number}


class Told(NamedTuple):
    """The last calls for a session: the number of each kind, and the time of the last one (RFC 3339)."""

    turn: int = -1  # whose end was told
    question: int = -1
    alarm: str = ""  # its time
    at: str = ""


def read_news(
    session: clincus.Session, agent: Mapping[str, object], wanted: Collection[str], with_text: bool
) -> News | None:
    """The news of a session by its agent object; None if there is none, or a person has seen it.

    A tool that has crashed is news where one that has failed is.
    """
    state, reason = str(agent.get("state", "")), str(agent.get("reason", ""))
    word = "failed" if (state, reason) == ("ended", "crashed") else state
    if word not in wanted or agent.get("seen"):
        return None
    text = str(agent.get("text", "")) if with_text else ""
    offered = agent.get("options", ()) if with_text else ()
    options = tuple(map(str, offered)) if isinstance(offered, (list, tuple)) else ()
    name = clincus.printable(getattr(session, "name", "") or basename(session.workspace))[:80]
    number = agent.get("question" if state in ASKS else "turn")
    since = str(agent.get("since", ""))
    return News(session.id, name, state, reason, text, since, number if isinstance(number, int) else None, options)


def is_told(told: Mapping[str, Told], session_id: str, news: News) -> bool:
    """Whether a person was called for this very event."""
    last = told.get(session_id, Told())
    if news.number is None:
        return last.alarm == news.since
    return int(getattr(last, news.kind)) >= news.number


def remember(told: Mapping[str, Told], session_id: str, news: News, now: str) -> dict[str, Told]:
    """The calls so far with one more; the oldest of too many are forgotten."""
    changed: dict[str, Any] = {news.kind: news.since if news.number is None else news.number, "at": now}
    last = told.get(session_id, Told())._replace(**changed)
    return dict(sorted({**told, session_id: last}.items(), key=lambda item: item[1].at)[-TOLD_LIMIT:])
