"""Prompts, answers and interruptions from outside: typed into the tool's terminal, and proven by the tool's own event.

The server looks first, in the same command in the container (terminal.py), and decides by the same rules as the state
of the session. It looks again before each Enter: a dialog may have opened, or a person may have begun to type.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import clincus
from clincus_features.agents import keys as typed
from clincus_features.agents.answers import Answer, texts_of, wait_for_question
from clincus_features.agents.drafts import holds, is_same
from clincus_features.agents.queue import Prompt, Prompts
from clincus_features.agents.reading import Known
from clincus_features.agents.state import Decision, read_screen, rules_of
from clincus_features.agents.terminal import PAUSE, Terminal, open_terminal
from clincus_features.agents.times import AGAIN, LAGGING

if TYPE_CHECKING:
    from clincus_features.agents import Watch

SENDERS = 2  # queues that are processed at the same time
STANDING = 10.0  # seconds that a text may take to show in the tool's input, or to leave it
COMMAND_STANDING = 3.0  # seconds that a command may take to show in the tool's input
FIRST_PROOF = 5.0  # seconds to wait for the proof after the first Enter
SECOND_PROOF = 10.0  # the same after the second one
DRAWING_TRIES = 2  # more looks at a tool that may be drawing its screen
DRAWING_TIME = 0.7  # seconds between them
LINES = 200  # of a prompt that the tool has put back into its input
INTERRUPTIONS = 4  # tries to interrupt a tool that takes two keys for it
TELLING = 1.5  # seconds that such a tool may take to show that it took the first key
STOPPING = 4.0  # seconds that a tool may take to show that it has stopped


def install(extensions: clincus.Extensions, watch: Watch) -> None:
    """Add the routes, and send what is in the queues."""
    app = extensions.app
    sender = Sender(app, watch)
    extensions.routes += routes(app, sender)
    extensions.wrappers.append(with_clean_prompt)
    extensions.listeners.append(sender.tell)
    extensions.duties += [
        clincus.Duty(f"sending queued prompts ({number})", 0.0, sender.work, each_engine=True)
        for number in range(1, SENDERS + 1)
    ]


def routes(app: clincus.Application, sender: Sender) -> list[tuple[str, str, clincus.Handler]]:
    """The routes of prompts, answers and interruptions."""
    path = "/api/sessions/{id}"
    table = [
        ("POST", f"{path}/prompt", post_prompt),
        ("GET", f"{path}/prompts", get_prompts),
        ("PATCH", f"{path}/prompts/{{prompt_id}}", patch_prompt),
        ("DELETE", f"{path}/prompts/{{prompt_id}}", delete_prompt),
        ("POST", f"{path}/answer", post_answer),
        ("POST", f"{path}/interrupt", post_interrupt),
    ]
    return clincus.bound_routes(table, app, sender)


def post_prompt(app: clincus.Application, sender: Sender, request: clincus.Request) -> object:
    """Type a prompt, or queue it."""
    values = request.values
    text = typed.clean_command(values["text"]) if values["command"] else typed.clean_prompt(values["text"])
    session = app.running_session(values["id"])
    prompt = sender.prompt(session, text, may_queue=values["queue"], command=values["command"])
    return {"prompt_id": prompt.prompt_id, "result": prompt.result}


def get_prompts(app: clincus.Application, sender: Sender, request: clincus.Request) -> object:
    """The queue and the last prompts."""
    found = sender.prompts.of(app.registry.get(request.values["id"]))
    return [prompt.document() for prompt in found]


def patch_prompt(app: clincus.Application, sender: Sender, request: clincus.Request) -> object:
    """Change the text or the place of a prompt in the queue."""
    values = request.values
    text = None if values["text"] is None else typed.clean_prompt(values["text"])
    session = app.registry.get(values["id"])
    return sender.change(session, values["prompt_id"], text, values["before"]).document()


def delete_prompt(app: clincus.Application, sender: Sender, request: clincus.Request) -> object:
    """Cancel a prompt in the queue."""
    sender.cancel(app.registry.get(request.values["id"]), request.values["prompt_id"])
    return clincus.Response(204)


def post_answer(app: clincus.Application, sender: Sender, request: clincus.Request) -> object:
    """Answer the question on the screen."""
    values = request.values
    if (values["option"] is None) == (values["text"] is None):
        raise clincus.ClincusError('give either "option" or "text"', 400)
    return {"result": sender.answer(app.running_session(values["id"]), values)}


def post_interrupt(app: clincus.Application, sender: Sender, request: clincus.Request) -> object:
    """Let the tool stop its work."""
    is_proven = sender.interrupt(app.running_session(request.values["id"]))
    return clincus.Response(204) if is_proven else {"result": "unconfirmed"}


def with_clean_prompt(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
    """Clean the first prompt of a new session like any other."""

    def create(request: clincus.Request) -> object:
        prompt = request.values["prompt"]
        if prompt is not None:
            request = request._replace(values={**request.values, "prompt": typed.clean_prompt(prompt)})
        return handler(request)

    return create if (method, path) == ("POST", "/api/sessions") else handler


class Sender:
    """Types into sessions, one at a time into each, and sends the prompts of the queues when a turn has ended."""

    def __init__(self, app: clincus.Application, watch: Watch) -> None:
        self._app = app
        self._watch = watch
        self.prompts = Prompts(lambda: prompts_folder(app.environ))
        self._locks: dict[str, threading.Lock] = {}  # one for each session that was typed into
        self._lock_of_queues = threading.RLock()
        self._due: dict[str, threading.Condition] = {}  # engine -> tells that a queue there may go on
        self._queues: dict[str, None] = {}  # sessions whose queue may go on, the first one first
        watch.listeners.append(self.hear)

    def tell(self, moment: str, session: clincus.Session) -> None:
        """Handle a moment in a session's life."""
        if moment == "deleted":
            self._locks.pop(session.id, None)
            self.prompts.forget(session)

    def hear(self, session: clincus.Session, decision: Decision) -> None:
        """Take the result of a look at a session; it never waits."""
        if decision.agent.state in ("idle", "done", "failed"):
            with self._lock_of_queues:
                self._queues[session.id] = None
                self._queue_is_due(session.engine).notify()

    def prompt(self, session: clincus.Session, text: str, *, may_queue: bool = True, command: bool = False) -> Prompt:
        """Type a prompt, or put it into the queue. Raises ClincusError(409) with the obstacle.

        A text that begins like a command of the tool is a command only with `command`. While the queue waits for a
        person, the prompt is the person's reply: it goes before the queue, which then goes on.
        """

        def choose(terminal: Terminal) -> Prompt:
            terminal.becomes(lambda: not typed.is_unsettled(terminal.facts, terminal.decision), LAGGING + AGAIN)
            is_next = self._is_next(session, terminal)
            if is_next:
                terminal.look()
                self._take_back(session, terminal)
                is_next = self._is_next(session, terminal)
                typed.check_input(terminal.draft)
            if not (is_next or may_queue):
                raise clincus.ClincusError(
                    "the tool works or has prompts in its queue: send it later, or queue it", "tool_busy"
                )
            prompt = self.prompts.add(session, text, "sending" if is_next else "queued", command=command)
            self._publish(session)
            return prompt

        return cast(Prompt, self._look_and_type(session, choose))

    def _is_next(self, session: clincus.Session, terminal: Terminal) -> bool:
        """True if a prompt that a person gives now is typed at once. Raises ClincusError(409) if it cannot be given."""
        is_ready = typed.readiness(terminal.facts, terminal.decision) == "ready"
        return is_ready and not self._going(session, terminal.decision)

    def _going(self, session: clincus.Session, decision: Decision) -> list[Prompt]:
        """The prompts of a session's queue that do not wait for a person.

        After a turn that did not end by itself, the prompts from before its end wait until another turn has begun.
        `decision` is the newest one; the watch may not know of it yet.
        """
        turn = self._watch.decision(session).agent.turn
        past = self._watch.past(session)
        newest = replace(decision.agent, turn=turn)
        held = past.held_by(newest, time.time()) if newest.holds_queue else past.held
        queue = self.prompts.queue(session)
        return [one for one in queue if one.at > held.at] if held.turn == turn else queue

    def cancel(self, session: clincus.Session, prompt_id: str) -> None:
        """Take a prompt out of the queue. Raises ClincusError: 404, 409."""
        self.prompts.cancel(session, prompt_id)
        self._publish(session)

    def change(self, session: clincus.Session, prompt_id: str, text: str | None, before: str | None) -> Prompt:
        """Change the text or the place of a prompt in the queue. Raises ClincusError: 404, 409."""
        changed = self.prompts.change(session, prompt_id, text, before)
        self._publish(session)
        return changed

    def answer(self, session: clincus.Session, given: Mapping[str, Any]) -> str:
        """Answer the question that is on the screen: `answered` once the tool has shown that it took the answer.

        Otherwise the result is `unconfirmed`. `given` is the body of the request. Raises ClincusError: 400, 409 if no
        question is on the screen, or another one. An answer without a number belongs to the question that was open when
        it came: another answer may be in progress.
        """
        asked = self._watch.decision(session).agent
        wanted = asked.question if given["number"] is None and asked.state == "waiting" else given["number"]
        with self._lock(session), self._terminal(session, self._watch.known(session)) as terminal:
            was_told = self._watch.decision(session).agent.state == "waiting"
            before = self._watch.known(session)
            terminal.look()
            wait_for_question(terminal, was_told=was_told)
            self._learn(session, before, terminal)
            number = self._watch.decision(session).agent.question
            is_another = given["question"] not in (None, *texts_of(terminal.facts, terminal.decision))
            if is_another or wanted not in (None, number):
                now = terminal.decision.agent.text
                raise clincus.ClincusError(f"another question has opened meanwhile: {now}", "question_closed")
            before = self._watch.known(session)
            answer = Answer(terminal)
            is_taken = answer.write(given["text"]) if given["option"] is None else answer.choose(given["option"])
            self._learn(session, before, terminal)  # another question may be open now
        self._watch.tell("ring", session)
        return "answered" if is_taken else "unconfirmed"

    def interrupt(self, session: clincus.Session) -> bool:
        """Let the tool stop its work. True if its screen shows that it has. A tool at rest gets no key.

        Raises ClincusError(409) without a tool.
        """
        with self._lock(session):
            known = self._watch.known(session)
            with self._terminal(session, known) as terminal:
                terminal.becomes(lambda: not typed.is_unsettled(terminal.facts, terminal.decision), LAGGING + AGAIN)
                steps = typed.interrupt_steps(terminal.facts, terminal.decision)
                has_turn = terminal.decision.agent.is_amid_a_turn
                if has_turn:
                    self._watch.interrupted(session)
                is_proven = not steps or interrupted(terminal, typed.keys_of(session.tool))
                if has_turn and is_proven:
                    self._watch.stopped(session)
            self._learn(session, known, terminal)
        self._watch.tell("ring", session)
        return is_proven

    def work(self, engine: str) -> None:
        """Wait until a queue of an engine's session may go on, and send its first prompt."""
        with self._lock_of_queues:
            while not (here := [id for id in self._queues if clincus.engine_of(id) == engine]):
                self._queue_is_due(engine).wait()
            id = here[0]
            del self._queues[id]
        session = self._app.registry.find(id)
        if session is None or session.status != "running":
            return
        if not self._going(session, self._watch.decision(session)):
            return
        try:
            self._send_next(session)
        except clincus.ClincusError as error:  # it stays in the queue: it waits for a person, or is gone
            clincus.log.info("%s: a queued prompt waits on: %s", id, error.message)
            if isinstance(error, clincus.IncusError):
                self._watch.tell("ring", session)  # the next look lets the queue go on

    def _send_next(self, session: clincus.Session) -> None:
        """Send the first prompt of a queue. Raises ClincusError with the obstacle."""

        def choose(terminal: Terminal) -> Prompt | None:
            if typed.readiness(terminal.facts, terminal.decision) != "ready":
                return None
            terminal.look()
            queue = self._going(session, terminal.decision)
            is_ready = typed.readiness(terminal.facts, terminal.decision) == "ready"
            if not queue or not is_ready:
                return None
            typed.check_input(terminal.draft)
            is_ours = self.prompts.mark(session, queue[0], "sending")
            return replace(queue[0], result="sending") if is_ours else None

        self._look_and_type(session, choose)

    def _look_and_type(self, session: clincus.Session, choose: Callable[[Terminal], Prompt | None]) -> Prompt | None:
        """Look at a terminal, let `choose` decide, and type a prompt that is `sending`; returns it with its result."""
        for _ in range(DRAWING_TRIES):
            with suppress(typed.CoveredError):
                return self._look_and_type_once(session, choose)
            time.sleep(DRAWING_TIME)
        return self._look_and_type_once(session, choose)

    def _look_and_type_once(
        self, session: clincus.Session, choose: Callable[[Terminal], Prompt | None]
    ) -> Prompt | None:
        with self._lock(session):
            if self._watch.decision(session).agent.state in ("idle", "done", "failed"):
                # Reported before the look: listeners may take a while, and nothing is typed by an old look.
                self._app.extensions.tell("before_prompt", session)
            prompt = None
            known = self._watch.known(session)
            try:
                with self._terminal(session, known) as terminal:
                    prompt = choose(terminal)
                    if prompt is not None and prompt.result == "sending":
                        prompt = self._type(session, terminal, prompt)
                self._learn(session, known, terminal)
                is_typed = prompt is not None and prompt.result in ("submitted", "unconfirmed")
                has_left = not terminal.has_draft or terminal.draft == ""
                if is_typed and has_left and not typed.keys_of(session.tool).proof:
                    self._watch.typed(session)
            except clincus.IncusError as error:
                if prompt is None:
                    raise
                clincus.log.warning("%s: the end of a prompt was not seen: %s", session.id, error.message)
            return prompt

    def _type(self, session: clincus.Session, terminal: Terminal, prompt: Prompt) -> Prompt:
        """Type a prompt and wait for the proof; returns the prompt with its result."""
        is_proven = False
        try:
            submit = self._run if prompt.command else self._submit
            is_proven = submit(session, terminal, prompt.text)
        except (clincus.ClincusError, OSError) as error:
            clincus.log.warning("%s: it is not known whether a prompt was typed: %s", session.id, error)
        result = "submitted" if is_proven else "unconfirmed"
        self.prompts.mark(session, prompt, result)
        self._publish(session)
        return replace(prompt, result=result)

    def _submit(self, session: clincus.Session, terminal: Terminal, text: str) -> bool:
        """Paste a text, and press Enter while it is in the input. True if it is proven that the tool took it.

        If the input cannot be read, Enter is pressed once, unless a dialog is known to be open, and nothing is proven.
        """
        steps = typed.prompt_steps(session.tool, text)
        terminal.told.clear()  # earlier reports prove nothing
        terminal.take(steps)
        if not terminal.has_draft:
            terminal.look()
            terminal.press_while(["Enter"], lambda: terminal.decision.agent.state != "waiting")
            return False
        if not terminal.becomes(lambda: bool(terminal.draft), STANDING) and terminal.draft == "":
            terminal.take(steps)  # it was ignored; if it appears twice now, it does not count as this text
        return terminal.becomes(lambda: terminal.stands(text), STANDING) and self._enter(session, terminal, text)

    def _enter(self, session: clincus.Session, terminal: Terminal, text: str) -> bool:
        """Press Enter while a text is in the input. True if it is proven that the tool took it."""
        event = typed.keys_of(session.tool).proof
        for seconds in (FIRST_PROOF, SECOND_PROOF):
            terminal.press_while(["Enter"], lambda: terminal.stands(text))
            if terminal.becomes(lambda: terminal.has_told(event, text) if event else terminal.draft == "", seconds):
                # A busy tool draws its input empty some time after its hook has reported the prompt. Until then, the
                # next prompt would be refused: the text looks as if a person had typed it.
                with suppress(clincus.ClincusError, OSError):  # the proof holds, whatever the screen shows
                    terminal.becomes(lambda: not terminal.stands(text), STANDING)
                return True
        return False

    def _run(self, session: clincus.Session, terminal: Terminal, text: str) -> bool:
        """Type a command of the tool, and press Enter; returns True if the screen shows that the tool took it.

        The tool's suggestions may cover the input, and the command may open a question.
        """
        terminal.told.clear()
        terminal.take([text])
        terminal.becomes(lambda: terminal.stands(text), COMMAND_STANDING)

        def is_free() -> bool:
            return terminal.decision.agent.state != "waiting" and (not terminal.draft or terminal.stands(text))

        if not terminal.press_while(["Enter"], is_free):
            return False
        proof = typed.keys_of(session.tool).proof

        def is_taken() -> bool:
            has_left = terminal.draft == "" or terminal.decision.agent.state == "waiting"
            return has_left or (bool(proof) and terminal.has_told(proof, text))

        return terminal.becomes(is_taken, FIRST_PROOF)

    def _take_back(self, session: clincus.Session, terminal: Terminal) -> None:
        """Delete the last prompt from the input if the tool has put it back there, as some do after an interruption.

        It was sent from here, so its text is in the list of prompts. A text that a person has edited stays.
        """
        sent = [one.text for one in self.prompts.of(session) if one.result != "queued"]
        if not sent or not terminal.draft or not is_same(terminal.draft, sent[-1]):
            return
        for _ in range(LINES):
            before = terminal.draft
            if not before or not holds(before, sent[-1]):
                return
            terminal.press(typed.keys_of(session.tool).clear)
            if not terminal.becomes(lambda before=before: terminal.draft != before, STANDING):  # type: ignore[misc]
                return

    def _learn(self, session: clincus.Session, known: Known, terminal: Terminal) -> None:
        """Tell the watch what was seen at a terminal."""
        if terminal.is_rotated:
            self._watch.tell("ring", session)  # only another look finds out how far the new file of events was read
        else:
            self._watch.learn(session, known, terminal.known)

    def _publish(self, session: clincus.Session) -> None:
        self._app.hub.publish({"type": "session.prompts", "id": session.id}, extension=True)

    def _lock(self, session: clincus.Session) -> threading.Lock:
        return self._locks.setdefault(session.id, threading.Lock())

    def _terminal(self, session: clincus.Session, known: Known) -> AbstractContextManager[Terminal]:
        return open_terminal(self._app.sessions, session, known, self._watch.past(session))

    def _queue_is_due(self, engine: str) -> threading.Condition:
        return self._due.setdefault(engine, threading.Condition(self._lock_of_queues))


def prompts_folder(environ: Mapping[str, str]) -> str:
    """The folder for the prompts of all sessions."""
    return clincus.own_file(environ, "prompts")


def is_at_rest(terminal: Terminal) -> bool:
    """True if a tool's screen shows that no turn is in progress."""
    shown = read_screen(terminal.facts)
    return shown is not None and shown.rule.state in ("ready", "failed")


def interrupted(terminal: Terminal, keys: typed.Keys) -> bool:
    """Interrupt a tool. True if its screen shows that it is at rest.

    A tool without known facts gets the keys once. Others get them again only if a look has shown that the tool is
    not at rest, because there the keys would do something else.
    """
    if keys.again:
        return interrupt_twice(terminal, keys)

    def has_stopped() -> bool:
        if not is_at_rest(terminal):
            return False
        time.sleep(PAUSE)  # a screen that was just drawn may not show yet that the tool works
        terminal.look()
        return is_at_rest(terminal)

    has_rules = rules_of(terminal.facts) is not None
    for _ in range(keys.tries if has_rules else 1):
        terminal.take(keys.interrupt)
        if has_rules and terminal.becomes(has_stopped, STOPPING):
            return True
    return False


def interrupt_twice(terminal: Terminal, keys: typed.Keys) -> bool:
    """Interrupt a tool that needs two keys, the second of which counts only for a moment; returns as `interrupted`.

    Tools often take two keys at once for one, and a key too many opens the list of earlier messages in a tool at rest.
    The second key therefore follows when the tool shows that it took the first one. A tool that is too busy to show
    this in time gets both at once, and then time to stop.
    """

    def is_told() -> bool:
        return re.search(keys.again, "\n".join(terminal.facts.lines[-6:])) is not None

    for number in range(INTERRUPTIONS):
        terminal.take(keys.interrupt)
        if number % 2 == 0:
            if not terminal.becomes(lambda: is_at_rest(terminal) or is_told(), TELLING):
                continue
            if is_at_rest(terminal):
                return True
        terminal.take(keys.interrupt)
        if terminal.becomes(lambda: is_at_rest(terminal), STOPPING):
            return True
    if not keys.otherwise or terminal.draft != "":
        return False
    terminal.take(keys.otherwise)
    return terminal.becomes(lambda: is_at_rest(terminal), STOPPING)
