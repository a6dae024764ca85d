"""The states of an agent that a person is notified of, and the words for them: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from posixpath import basename
from typing import Any, NamedTuple

import clincus

# Seconds that a state must last before a call. In the meantime the screen may show that the question was answered at
# once, or that the tool goes on: clincus_features/agents/times.py has the reasons.
DWELL_WAITING = 6.0
DWELL = 4.0
ASKS = ("waiting", "stuck", "ended")  # states that count by questions; all others count by turns
COOLDOWN = 60.0  # seconds between two calls for one session, unless a person has looked at it in between
ANSWERED_HERE = ("question", "permission")  # reasons that an option in a notification may answer
ANSWERS = 2  # options in a notification; Chromium shows no more
WHOLE_TEXT = 240  # characters of a question that a notification shows whole: a person must not answer a part of it
TOLD_LIMIT = 300  # sessions whose last call is remembered
# The words after the session's name. A state with its reason goes before the state alone.
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
    """An event that a person is notified of."""

    id: str  # of the session
    name: str
    state: str
    reason: str
    text: str  # the tool's words, "" unless the config allows to send them
    since: str  # RFC 3339
    number: int | None = None  # of the turn that is over, or of the question; None for an alarm
    options: tuple[str, ...] = ()  # of the tool's question, under the same setting as its text

    @property
    def answers(self) -> tuple[str, ...]:
        """The first options, if the notification shows all that a person has to read before."""
        is_question = self.state == "waiting" and self.reason in ANSWERED_HERE
        is_whole = 0 < len(self.text) <= WHOLE_TEXT
        if is_question and is_whole and self.number is not None:
            return self.options[:ANSWERS]
        return ()

    @property
    def kind(self) -> str:
        """The kind of its number: a field of Told."""
        if self.number is None:
            return "alarm"
        return "question" if self.state in ASKS else "turn"

    @property
    def event(self) -> tuple[str, str]:
        """The key of the event among those of its session. Words and times may change while it lasts."""
        count = self.since if self.number is None else str(self.number)
        return self.kind, count

    @property
    def key(self) -> tuple[str, str, str]:
        """The key of the event among those of all sessions."""
        return (self.id, *self.event)

    def document(self) -> dict[str, object]:
        """The news object of the API and of the webhook."""
        shown = self._asdict()
        del shown["number"]
        del shown["options"]
        words = WORDS.get(f"{self.state}/{self.reason}") or WORDS.get(self.state, self.state)
        return {**shown, "title": f"{self.name} {words}"}

    def shown_on_device(self, *, fresh: bool, silent: bool) -> dict[str, object]:
        """The news object for the worker of a device, which may show buttons that answer."""
        answers = list(self.answers)
        return {
            **self.document(),
            "fresh": fresh,
            "silent": silent,
            "answers": answers,
            "number": self.number if answers else None,
        }


class Told(NamedTuple):
    """The last calls for a session: the number of each kind, and the time of the last one (RFC 3339)."""

    turn: int = -1
    question: int = -1
    alarm: str = ""  # the time of the alarm
    at: str = ""  # the time of the last call


def read_news(
    session: clincus.Session, agent: Mapping[str, object], wanted: Collection[str], with_text: bool
) -> News | None:
    """The news of a session by its agent object; None without news, or if a person has seen it.

    A crashed tool is news if failed ones are.
    """
    state = str(agent.get("state", ""))
    reason = str(agent.get("reason", ""))
    is_crash = state == "ended" and reason == "crashed"
    word = "failed" if is_crash else state
    if word not in wanted or agent.get("seen"):
        return None
    name = getattr(session, "name", "") or basename(session.workspace)
    number = agent.get("question" if state in ASKS else "turn")
    offered = agent.get("options", ()) if with_text else ()
    return News(
        session.id,
        clincus.printable(name)[:80],
        state,
        reason,
        text=str(agent.get("text", "")) if with_text else "",
        since=str(agent.get("since", "")),
        number=number if isinstance(number, int) else None,
        options=tuple(map(str, offered)) if isinstance(offered, (list, tuple)) else (),
    )


def is_told(told: Mapping[str, Told], session_id: str, news: News) -> bool:
    """True if a person was notified of this very event."""
    last = told.get(session_id, Told())
    if news.number is None:
        return last.alarm == news.since
    return int(getattr(last, news.kind)) >= news.number


def remember(told: Mapping[str, Told], session_id: str, news: News, now: str) -> dict[str, Told]:
    """The calls so far with one more, without the oldest of too many."""
    count = news.since if news.number is None else news.number
    changed: dict[str, Any] = {news.kind: count, "at": now}
    last = told.get(session_id, Told())
    calls = {**told, session_id: last._replace(**changed)}
    by_time = sorted(calls.items(), key=lambda item: item[1].at)
    return dict(by_time[-TOLD_LIMIT:])
