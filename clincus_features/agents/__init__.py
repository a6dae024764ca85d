"""The state of each session's tool, and the reason for it: the field `agent`, GET …/agent and POST …/seen.

Three sources correct each other: the tool's hooks (hooks.py carries them in), rules on the last lines of the screen
(rules.py), and the tool's process. A hook appends a line to a file in the container and rings. Then the server looks
(reading.py), and one pure function (state.py) decides what that means. While a tool works or waits, the server also
looks every few seconds, since not every event has a hook. A tool at rest is asked nothing: it rings when it writes,
for instance when a person opens a dialog.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone

import clincus
from clincus_features.agents import prompts
from clincus_features.agents.hooks import guest_files
from clincus_features.agents.reading import Known, first_facts, look
from clincus_features.agents.records import Record, Records
from clincus_features.agents.state import Agent, Decision, Facts, Held, Past, Why, decide, decided, rules_of
from clincus_features.agents.times import AGAIN, DRAWING, LAGGING, SLOW_LOOK, SOON, START_WITHIN

FAILED_LOOK = 5.0  # seconds after a look that failed
LOOKERS = 4  # looks at the same time on one engine
SLOW = 2.0  # seconds that a look may take before its session counts as slow
SLOW_LOOKERS = 2  # looks at slow sessions at the same time: a container that hangs must not keep others waiting
WAIT_FOR_STARTS = 5.0  # seconds that the first look at a tool leaves the machine to other sessions that start
AT_REST = ("idle", "done", "ended", "failed", "unknown", "none")


def install(extensions: clincus.Extensions) -> None:
    """Add the field, the routes, the files for the container, and the looks."""
    app = extensions.app
    extensions.guest_files.append(guest_files)
    watch = Watch(app)

    def get_agent(request: clincus.Request) -> object:
        return explained(watch.decision(app.known_session(request.values["id"])))

    def post_seen(request: clincus.Request) -> object:
        watch.see(app.registry.get(request.values["id"]))
        return clincus.Response(204)

    extensions.session_fields.append(lambda session: {"agent": watch.document(session)})
    extensions.routes += [
        ("GET", "/api/sessions/{id}/agent", get_agent),
        ("POST", "/api/sessions/{id}/seen", post_seen),
    ]
    extensions.listeners.append(watch.tell)
    extensions.duties += [
        clincus.Duty(f"looking at agents ({number})", 0.0, watch.work, each_engine=True)
        for number in range(1, LOOKERS + 1)
    ]
    prompts.install(extensions, watch)


def records_folder(environ: Mapping[str, str]) -> str:
    """The folder for the records of the sessions' tools."""
    return clincus.own_file(environ, "agents")


def examine(sessions: clincus.Sessions, session: clincus.Session, environ: Mapping[str, str]) -> Decision:
    """Look at a session's tool now and decide its state. Raises ClincusError."""
    record = Records(lambda: records_folder(environ)).read(session)
    known = look(sessions, session, record.known) if session.status == "running" else record.known
    return decide(known.facts, record.past)


def time_text(at: float) -> str:
    """A time for the API, "" where it is not known."""
    return clincus.format_time(datetime.fromtimestamp(at, timezone.utc)) if at else ""


def document(agent: Agent) -> dict[str, object]:
    """The agent object of the API."""
    return {**vars(agent), "options": list(agent.options), "since": time_text(agent.since)}


def explained(decision: Decision) -> dict[str, object]:
    """The agent object with the evidence for it, and the whole of a long text such as a plan."""
    why = {**decision.why._asdict(), "lines": list(decision.why.lines), "at": time_text(decision.why.at)}
    return {**document(decision.agent), "detail": decision.detail, "why": why}


class Watch:
    """Keeps the agents of all sessions up to date: looks at those that rang or are not at rest, and reports changes."""

    def __init__(self, app: clincus.Application) -> None:
        self._app = app
        self._records = Records(lambda: records_folder(app.environ))
        self.listeners: list[Callable[[clincus.Session, Decision], None]] = []  # get each decision; they never wait
        self._keeping = threading.Lock()  # held before `_changed`, so that no older record replaces a newer one
        self._changed = threading.RLock()  # guards all that follows
        self._looks: dict[str, threading.Condition] = {}  # engine -> notified when a look there is due
        self._known: dict[str, Known] = {}  # session -> its run's facts
        self._past: dict[str, Past] = {}  # session -> the last decision
        self._decisions: dict[str, Decision] = {}
        self._documents: dict[str, dict[str, object]] = {}  # the agent object of each, as reported; it is never changed
        self._due: dict[str, float] = {}  # session -> time.monotonic of its next look
        self._looking: set[str] = set()
        self._slow: set[str] = set()  # sessions whose last look took long
        self._waiting: set[str] = set()  # sessions whose first look waits for other starts
        self._away: set[str] = set()  # sessions that are paused, or whose engine cannot be reached

    def tell(self, moment: str, session: clincus.Session) -> None:
        """Handle a moment in a session's life. It never waits: the registry holds its lock."""
        with self._changed:
            if moment == "started":
                known = self._recorded(session)
                thawed = time.time() if session.id in self._away else known.thawed
                self._away.discard(session.id)
                self._begin(session, replace(known, facts=replace(known.facts, followed=time.time()), thawed=thawed))
                self._look_after_starts(session.id)
            elif moment == "changed" and (session.paused or session.unreachable_since):
                self._away.add(session.id)
            elif moment == "changed" and session.id in self._away:
                self._away.discard(session.id)
                if session.id in self._known:
                    self._wake(session.id)  # a ring in the meantime was not heard
            elif moment == "stopped":
                self._due.pop(session.id, None)
                self._recorded(session)
                self._begin(session, Known(Facts(status="stopped", tool=session.tool, now=time.time())))
            elif moment == "deleted":
                for kept in (self._known, self._past, self._decisions, self._documents, self._due):
                    kept.pop(session.id, None)
                self._records.forget(session.id)
                self._slow.discard(session.id)
                self._away.discard(session.id)
            elif moment in ("ring", "before_call") and session.id in self._known:
                self._wake(session.id)

    def decision(self, session: clincus.Session) -> Decision:
        """The last decision about a session's agent."""
        decision = self._decisions.get(session.id)
        if decision is None or (session.status != "running") != (decision.agent.state == "none"):
            return decide(first_facts(session))
        return decision

    def document(self, session: clincus.Session) -> dict[str, object]:
        """The agent object of the API. All callers share the one of a decision, so nobody may change it."""
        known = self._decisions.get(session.id)
        decision = self.decision(session)
        told = self._documents.get(session.id)
        return told if told is not None and decision is known else document(decision.agent)

    def known(self, session: clincus.Session) -> Known:
        """The facts of a session's run as of the last look."""
        return self._known.get(session.id) or Known(first_facts(session))

    def past(self, session: clincus.Session) -> Past:
        """The last decision about a session, with its facts."""
        return self._past.get(session.id) or Past()

    def interrupted(self, session: clincus.Session) -> None:
        """The server is interrupting a session's tool: if its turn ends because of that, the queue waits."""
        with self._changed:
            if session.id not in self._known:
                return
            turn = self._decisions[session.id].agent.turn
            past = replace(self._past[session.id], interrupted=Held(turn, time.time()))
            self._past[session.id] = past
        self._keep(session)

    def stopped(self, session: clincus.Session) -> None:
        """The screen of a session's tool has shown that this interruption has ended its turn."""
        with self._changed:
            if session.id in self._past:
                self._past[session.id] = replace(self._past[session.id], stopped=time.time())

    def learn(self, session: clincus.Session, before: Known, fresh: Known) -> None:
        """Take over the look of another caller, which started from `before`. Newer knowledge overrides it."""
        with self._changed:
            is_next = self._known.get(session.id) is before
            if is_next:
                self._known[session.id] = fresh
                self._decide(session)
                self._plan(session.id, fresh)
            latest = self._known.get(session.id)
        self._keep(session)
        if latest and not is_next:
            self._look(session.id, latest)

    def typed(self, session: clincus.Session) -> None:
        """A prompt was typed, and no event will prove that the tool took it: it counts as work until the next look.

        So the end of the turn is noticed even if the turn is shorter than the time between two looks.
        """
        now = time.time()
        with self._changed:
            if session.id in self._known:
                working = Agent("working", since=now, source="person")
                facts = replace(self._known[session.id].facts, now=now)
                typed = Decision(working, Why("prompt-typed", "person", (), now))
                self._take(session, decided(facts, self._past[session.id], typed))
                self._wake(session.id, DRAWING)

    def see(self, session: clincus.Session) -> None:
        """Note that a person has looked at a session. Raises ClincusError if that cannot be recorded."""
        decision = self._decisions.get(session.id)
        if decision is None or decision.agent.seen:
            return
        with self._keeping:
            with self._changed:
                if session.id not in self._known:
                    return
                past = self._past[session.id]
                past = replace(past, seen=past.seen.add(decision.agent, time.time()))
                record = Record(self._known[session.id], past)
            try:
                self._records.write(session, record)
            except OSError as error:
                raise clincus.ClincusError(f"{records_folder(self._app.environ)}: {error.strerror}") from None
            with self._changed:
                if session.id in self._known:
                    self._past[session.id] = replace(self._past[session.id], seen=past.seen)
                    self._decide(session)

    def work(self, engine: str) -> None:
        """Wait until a look at a session of an engine is due, and take it."""
        with self._changed:
            at = time.monotonic()
            here = {id: due for id, due in self._due.items() if clincus.engine_of(id) == engine}
            slow = {id for id in self._slow if clincus.engine_of(id) == engine}
            busy = self._looking | (slow if len(slow & self._looking) >= SLOW_LOOKERS else set())
            waiting = {id: due for id, due in here.items() if id not in busy}
            id = min(waiting, key=lambda one: waiting[one], default="")
            if not id or waiting[id] > at:
                self._look_is_due(engine).wait(waiting[id] - at if id else None)
                return
            del self._due[id]
            self._looking.add(id)
            known = self._known.get(id, Known())
        try:
            self._look(id, known)
        finally:
            is_slow = time.monotonic() - at > SLOW
            with self._changed:
                self._looking.discard(id)
                (self._slow.add if is_slow and id in self._known else self._slow.discard)(id)
                self._look_is_due(engine).notify_all()

    def _look(self, id: str, known: Known) -> None:
        try:
            session = self._app.registry.get(id)
            is_running = session.status == "running"
            has_rung = self._has_just_rung(id)
            fresh = look(self._app.sessions, session, known, arm=self._wants_ring(id)) if is_running else None
            with self._changed:
                if fresh is not None and self._known.get(id) is known:  # else another run has begun meanwhile
                    self._known[id] = fresh
                    self._decide(session)
                    self._plan(id, fresh, has_rung=has_rung)
        except Exception as error:
            with self._changed:
                if id in self._known:
                    self._due.setdefault(id, time.monotonic() + FAILED_LOOK)
            if not isinstance(error, clincus.ClincusError):  # else it or Incus is gone, as the next look tells
                raise
            return
        if fresh is not None:
            self._keep(session)

    def _wants_ring(self, id: str) -> bool:
        """True if a tool should ring when it writes: it is at rest or still, and has not just rung."""
        known = self._known.get(id)
        if known is None or not self._may_ring(id, known.facts):
            return False
        facts = known.facts
        is_still = facts.looked and facts.now - facts.moved > DRAWING
        return not self._has_just_rung(id) and (is_still or self._decisions[id].agent.state in AT_REST)

    def _has_just_rung(self, id: str) -> bool:
        """True if a tool that was to ring has just done so: a person who types would let it ring at each key."""
        known = self._known.get(id)
        return known is not None and known.is_armed and time.time() - known.facts.now < SLOW_LOOK

    def _may_ring(self, id: str, facts: Facts) -> bool:
        """True if a look would understand what a tool writes now, and no other look is due that would see it.

        A tool that has ended may be started again from the shell that it has left, without any hook event.
        """
        is_known = rules_of(facts) is not None and id in self._decisions
        return is_known and self._decisions[id].agent.state in (*AT_REST, "starting")

    def _plan(self, id: str, known: Known, *, has_rung: bool = False) -> None:
        """Plan the next look: soon, if the screen may lag behind a hook; none, if the tool is at rest.

        One that has come to rest is looked at once more, which lets it ring. Until then a short turn of a tool without
        hooks would be missed.

        A tool that starts, shows no known screen, and rings when it goes on, is looked at less and less often.
        """
        age = abs(known.facts.now - known.facts.said.at)
        lag = next((limit - age for limit in (DRAWING, LAGGING) if age < limit), 0.0)
        state = self._decisions[id].agent.state
        if age < DRAWING and state == "working" and known.facts.said.state == "done":
            pause = SOON
        elif lag > 0 and (age < DRAWING or state in ("working", "waiting")):
            pause = min(SLOW_LOOK, lag + AGAIN)
        elif self._decisions[id].agent.state == "starting" and known.is_armed and known.facts.can_ring:
            age = known.facts.now - known.facts.started
            pause = max(SLOW_LOOK, min(age, START_WITHIN + 1 - age))  # then it is `unknown`
        else:
            rests = self._decisions[id].agent.state in AT_REST and known.facts.can_ring
            if rests and (known.is_armed or not self._may_ring(id, known.facts)):
                return
            pause = AGAIN if rests and not has_rung else SLOW_LOOK
        self._due.setdefault(id, time.monotonic() + pause)

    def _decide(self, session: clincus.Session) -> None:
        """Decide again by the known facts."""
        self._take(session, decide(self._known[session.id].facts, self._past[session.id]))

    def _take(self, session: clincus.Session, new: Decision) -> None:
        """Keep a decision, and report it to all pages if it differs from the last one."""
        self._decisions[session.id] = new
        self._past[session.id] = new.past
        for listener in self.listeners:
            listener(session, new)
        agent = document(new.agent)
        if agent != self._documents.get(session.id):
            self._documents[session.id] = agent
            event = {"type": "session.agent", "id": session.id, "agent": agent}
            self._app.hub.publish(event, extension=True)
            clincus.call_each(self._app.extensions.agent_listeners, session, agent)

    def _recorded(self, session: clincus.Session) -> Known:
        """The stored facts and decision of a session's run, unless this server has newer ones."""
        if session.id in self._past:
            known = self._known.get(session.id)
            first = first_facts(session)
            if known is None or known.facts.started != first.started:
                return Known(first)
            # It was paused. Its events are not read again: the file may not hold all of them any more.
            return replace(known, facts=replace(first, said=known.facts.said, now=time.time()))
        try:
            record = self._records.read(session)
        except clincus.ClincusError as error:
            clincus.log.warning("%s: %s", session.id, error.message)
            return Known(first_facts(session))
        self._past[session.id] = record.past
        return record.known

    def _keep(self, session: clincus.Session) -> None:
        """Record the state of a session's tool. A full disk stops no look."""
        with self._keeping:
            with self._changed:
                if session.id not in self._known:
                    return
                record = Record(self._known[session.id], self._past[session.id])
            try:
                self._records.write(session, record)
            except OSError as error:
                clincus.log.warning("%s: its agent's state cannot be kept: %s", session.id, error.strerror)

    def _begin(self, session: clincus.Session, known: Known) -> None:
        self._known[session.id] = known
        self._past.setdefault(session.id, Past())
        self._decide(session)

    def _wake(self, id: str, delay: float = 0.0) -> None:
        self._due[id] = time.monotonic() + delay
        self._look_is_due(clincus.engine_of(id)).notify_all()

    def _look_after_starts(self, id: str) -> None:
        """Delay the first look at a tool while other sessions start, and take the delayed ones when none does."""
        self._waiting.add(id)
        if any(session.status == "starting" for session in self._app.registry.all()):
            self._wake(id, WAIT_FOR_STARTS)
            return
        for one in self._waiting & self._known.keys():
            self._wake(one)
        self._waiting.clear()

    def _look_is_due(self, engine: str) -> threading.Condition:
        return self._looks.setdefault(engine, threading.Condition(self._changed))
