"""Prompts, answers and interruptions from outside: typed into the tool's terminal, and proven by the tool's own event.

    POST   /api/sessions/{id}/prompt               type a prompt, or queue it while the tool works
    GET    /api/sessions/{id}/prompts              the queue and the last prompts
    DELETE /api/sessions/{id}/prompts/{prompt_id}  cancel one that is in the queue
    POST   /api/sessions/{id}/answer               answer the question that is on the screen
    POST   /api/sessions/{id}/interrupt            let the tool stop its work

Whoever types looks first, in the same command in the container (guest/look.sh and guest/type.sh), and decides by the
same rules as the state of the session. So nothing is typed into a dialog that has opened meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from io import BufferedReader
from typing import TYPE_CHECKING, cast

import clincus
from clincus_features.agents import keys as typed
from clincus_features.agents.queue import Prompt, Prompts
from clincus_features.agents.reading import CLOCK, Known, first_facts, look_arguments, parse_look, with_events
from clincus_features.agents.state import Decision, Facts, decide

if TYPE_CHECKING:
    from clincus_features.agents import Watch

SENDERS = 2  # queues that are worked on at the same time
FIRST_PROOF, SECOND_PROOF = 5.0, 10.0  # seconds to wait for the tool's event after the first Enter, and the second
DRAWING_TRIES, DRAWING_TIME = 2, 0.7  # more looks at a tool that may draw its screen just now; seconds between them
INTERRUPTIONS, STOPPING = 4, 2.0  # tries to interrupt a tool; seconds that it takes to stop
SCREEN_LIMIT = 1 << 20  # bytes that a look or a proof prints at most


def install(extensions: clincus.Extensions, watch: Watch) -> None:
    """Add the routes, and send what is in the queues."""
    app = extensions.app
    sender = Sender(app, watch)

    def session(request: clincus.Request) -> clincus.Session:
        found: clincus.Session = app.running_session(request.values["id"])
        return found

    def post_prompt(request: clincus.Request) -> object:
        text = typed.clean_prompt(request.values["text"])
        prompt = sender.prompt(session(request), text)
        return {"prompt_id": prompt.prompt_id, "result": prompt.result}

    def get_prompts(request: clincus.Request) -> object:
        found = sender.prompts.of(app.registry.get(request.values["id"]))
        return [prompt.document() for prompt in found]

    def delete_prompt(request: clincus.Request) -> clincus.Response:
        sender.cancel(app.registry.get(request.values["id"]), request.values["prompt_id"])
        return clincus.Response(204)

    def post_answer(request: clincus.Request) -> clincus.Response:
        values = request.values
        if (values["option"] is None) == (values["text"] is None):
            raise clincus.ClincusError('give either "option" or "text"', 400)
        sender.answer(session(request), values["option"], values["text"], values["question"])
        return clincus.Response(204)

    def post_interrupt(request: clincus.Request) -> clincus.Response:
        sender.interrupt(session(request))
        return clincus.Response(204)

    one = "/api/sessions/{id}"
    extensions.routes += [
        ("POST", f"{one}/prompt", post_prompt),
        ("GET", f"{one}/prompts", get_prompts),
        ("DELETE", f"{one}/prompts/{{prompt_id}}", delete_prompt),
        ("POST", f"{one}/answer", post_answer),
        ("POST", f"{one}/interrupt", post_interrupt),
    ]
    extensions.wrappers.append(with_clean_prompt)
    extensions.listeners.append(sender.tell)
    extensions.duties += [
        clincus.Duty(f"sending queued prompts ({number})", 0.0, sender.work, each_engine=True)
        for number in range(1, SENDERS + 1)
    ]


def with_clean_prompt(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
    """Let the first prompt of a new session be cleaned as any other."""

    def create(request: clincus.Request) -> object:
        prompt = request.values["prompt"]
        if prompt is not None:
            request = request._replace(values={**request.values, "prompt": typed.clean_prompt(prompt)})
        return handler(request)

    return create if (method, path) == ("POST", "/api/sessions") else handler


class Terminal:
    """A session's terminal, looked at and ready to be typed into, for the time of one command in the container."""

    def __init__(self, stdin: clincus.GuestInput, stdout: BufferedReader, mark: str) -> None:
        self._stdin, self._stdout, self._mark = stdin, stdout, f"{mark}\n".encode()
        self.known = Known()  # of the look and of what the tool has told since
        self.decision: Decision
        self.has_taken = True  # a prompt that was typed is not known to stand in the tool's input

    @property
    def facts(self) -> Facts:
        """The facts of the last look."""
        return self.known.facts

    def look(self, session: clincus.Session, known: Known) -> None:
        """Take in what guest/look.sh prints, and decide what it means. Raises ClincusError."""
        seen = self._read(3).removesuffix(self._mark)
        facts = replace(first_facts(session), said=known.facts.said, looked=True)
        self.known = parse_look(seen, self._mark.decode().strip(), facts, known, CLOCK.now())
        self.decision = decide(self.known.facts)

    def press(self, keys: Sequence[str]) -> None:
        """Press keys, by tmux's names for them."""
        self._stdin.write(f"keys {' '.join(keys)}\n".encode())

    def paste(self, text: str) -> None:
        """Paste a text."""
        data = text.encode()
        self._stdin.write(f"paste {len(data)}\n".encode() + data)

    def take(self, steps: Iterable[typed.Step]) -> None:
        """Paste the texts and press the keys of some steps."""
        for step in steps:
            if isinstance(step, str):
                self.paste(step)
            else:
                self.press(step)

    def wait_for_line(self, seconds: float, pattern: str, *, gone: bool = False) -> bool:
        """Wait until a line of the screen has a pattern (grep -E), or `gone`: until none has it. Whether it is so."""
        self._stdin.allow(seconds + clincus.READ_TIMEOUT)
        self._stdin.write(f"{'gone' if gone else 'await'} {round(seconds * 10)} {pattern}\n".encode())
        return self._read(1).startswith(b"1")

    def wait_for_proof(self, seconds: float, event: str, text: str) -> bool:
        """Wait until the tool tells that it has taken a prompt; False if it does not."""
        self._stdin.allow(seconds + clincus.READ_TIMEOUT)
        self._stdin.write(f"proof {round(seconds * 10)} {self.known.offset} {event}\n".encode())
        self.known, told = with_events(self.known, self._read(1).removesuffix(self._mark), time.time())
        return any(one.name == event and typed.is_proof(one.data, text) for one in told)

    def _read(self, marks: int) -> bytes:
        """Read up to a number of marks."""
        data = bytearray()
        while data.count(self._mark) < marks:
            piece = self._stdout.read1(1 << 16)
            data += piece
            if not piece or len(data) > SCREEN_LIMIT:
                old = "it was started by an older Clincus: stop and resume it"
                raise clincus.ClincusError(f"the session's terminal cannot be read ({old})", 409)
        return bytes(data)


@contextmanager
def open_terminal(sessions: clincus.Sessions, session: clincus.Session, known: Known) -> Iterator[Terminal]:
    """Look at a running session's terminal, and hold it ready to be typed into. Raises ClincusError."""
    mark = os.urandom(8).hex()
    words = look_arguments(session, mark, known)
    with sessions.open(session, "look type", *words, timeout=clincus.READ_TIMEOUT) as (stdin, stdout):
        terminal = Terminal(stdin, stdout, mark)
        terminal.look(session, known)
        yield terminal


class Sender:
    """Types into sessions, one at a time into each, and sends the prompts of the queues when a turn has ended."""

    def __init__(self, app: clincus.Application, watch: Watch) -> None:
        self._app, self._watch = app, watch
        self.prompts = Prompts(lambda: prompts_folder(app.environ))
        self._locks: dict[str, threading.Lock] = {}  # one for each session that was typed into
        self._lock_of_queues = threading.RLock()
        self._due: dict[str, threading.Condition] = {}  # engine -> tells that a queue there may go on
        self._queues: dict[str, bool] = {}  # sessions to look at for their queue; whether also after a failure
        watch.listeners.append(self.hear)

    def tell(self, moment: str, session: clincus.Session) -> None:
        """A moment in a session's life."""
        if moment == "deleted":
            self._locks.pop(session.id, None)
            self.prompts.forget(session)

    def hear(self, session: clincus.Session, decision: Decision) -> None:
        """A session was looked at; it never waits."""
        if decision.agent.state in ("idle", "done"):
            self._wake(session.id)

    def prompt(self, session: clincus.Session, text: str) -> Prompt:
        """Type a prompt, or put it into the queue. Raises ClincusError(409) with what is in the way."""

        def choose(terminal: Terminal) -> Prompt:
            is_ready = typed.readiness(terminal.facts, terminal.decision) == "ready"
            is_first = not self.prompts.queue(session)
            if is_ready and not is_first:
                self._wake(session.id, even_failed=True)
            prompt = self.prompts.add(session, text, "sending" if is_ready and is_first else "queued")
            self._publish(session)
            return prompt

        return cast(Prompt, self._look_and_type(session, choose))

    def cancel(self, session: clincus.Session, prompt_id: str) -> None:
        """Take a prompt out of the queue. Raises ClincusError: 404, 409."""
        self.prompts.cancel(session, prompt_id)
        self._publish(session)

    def answer(self, session: clincus.Session, option: int | None, text: str | None, question: str | None) -> None:
        """Answer the question that is on the screen. Raises ClincusError(409) if there is none, or another one."""
        with self._lock(session), self._terminal(session) as terminal:
            asked, shown = terminal.decision.agent, typed.question_on_screen(terminal.facts, terminal.decision)
            if not shown:
                raise clincus.ClincusError("no question is on the screen (any more)", 409)
            if question is not None and question != asked.text:
                raise clincus.ClincusError(f"another question is on the screen now: {asked.text}", 409)
            terminal.take(typed.answer_steps(terminal.facts, terminal.decision, option, text))
        self._watch.tell("ring", session)

    def interrupt(self, session: clincus.Session) -> None:
        """Let the tool stop what it does; nothing is pressed where it is at rest. ClincusError(409) without a tool."""
        with self._lock(session), self._terminal(session) as terminal:
            steps = typed.interrupt_steps(terminal.facts, terminal.decision)
            busy = typed.keys_of(session.tool).busy if steps else ""
            for _ in range(INTERRUPTIONS if busy else 1):
                terminal.take(steps)
                if busy and terminal.wait_for_line(STOPPING, busy, gone=True):
                    break
        self._watch.tell("ring", session)

    def work(self, engine: str = "") -> None:
        """Wait until a queue of an engine's session may go on, and send its first prompt."""
        with self._lock_of_queues:
            while not (here := [id for id in self._queues if clincus.engine_of(id) == engine]):
                self._queue_is_due(engine).wait()
            id = here[0]
            even_failed = self._queues.pop(id)
        session = self._app.registry.find(id)
        if session is None or session.status != "running" or not self.prompts.queue(session):
            return
        try:
            self._send_next(session, even_failed=even_failed)
        except clincus.ClincusError as error:  # it stays in the queue: it waits for a person, or is gone
            clincus.log.info("%s: a queued prompt waits on: %s", id, error.message)

    def _send_next(self, session: clincus.Session, *, even_failed: bool) -> None:
        """Send the first prompt of a queue. After a failure only a person lets the queue go on."""

        def choose(terminal: Terminal) -> Prompt | None:
            queue = self.prompts.queue(session)
            is_ready = typed.readiness(terminal.facts, terminal.decision) == "ready"
            if not queue or not is_ready or (terminal.decision.agent.state == "failed" and not even_failed):
                return None
            is_ours = self.prompts.mark(session, queue[0], "sending")
            return replace(queue[0], result="sending") if is_ours else None

        self._look_and_type(session, choose)

    def _look_and_type(self, session: clincus.Session, choose: Callable[[Terminal], Prompt | None]) -> Prompt | None:
        """Look at a terminal, choose what to do, and type the prompt that is `sending`; that prompt with its result."""
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
                # Before the look: whoever listens may take a while, and nothing is typed on an old look.
                self._app.extensions.tell("before_prompt", session)
            prompt, known = None, self._watch.known(session)
            try:
                with open_terminal(self._app.sessions, session, known) as terminal:
                    prompt = choose(terminal)
                    if prompt is not None and prompt.result == "sending":
                        prompt = self._type(session, terminal, prompt)
                self._watch.learn(session, known, terminal.known)
                is_unproven = prompt is not None and prompt.result == "unconfirmed"
                if is_unproven and terminal.has_taken and not typed.keys_of(session.tool).proof:
                    self._watch.typed(session)
            except clincus.IncusError as error:
                if prompt is None:
                    raise
                clincus.log.warning("%s: the end of a prompt was not seen: %s", session.id, error.message)
            return prompt

    def _type(self, session: clincus.Session, terminal: Terminal, prompt: Prompt) -> Prompt:
        """Type a prompt and wait for the proof; the prompt with its result."""
        keys, is_proven = typed.keys_of(session.tool), False
        try:
            terminal.take(typed.prompt_steps(session.tool, prompt.text))
            if keys.empty:
                terminal.wait_for_line(SECOND_PROOF, keys.empty, gone=True)
            for seconds in (FIRST_PROOF, SECOND_PROOF) if keys.proof or keys.empty else (0.0,):
                terminal.press(["Enter"])
                if keys.empty:
                    terminal.has_taken = terminal.wait_for_line(seconds, keys.empty)
                is_proven = bool(keys.proof) and terminal.wait_for_proof(seconds, keys.proof, prompt.text)
                if is_proven or (keys.empty and terminal.has_taken):
                    break
        except (clincus.ClincusError, OSError) as error:
            clincus.log.warning("%s: it is not known whether a prompt was typed: %s", session.id, error)
        result = "submitted" if is_proven else "unconfirmed"
        self.prompts.mark(session, prompt, result)
        self._publish(session)
        return replace(prompt, result=result)

    def _publish(self, session: clincus.Session) -> None:
        self._app.hub.publish({"type": "session.prompts", "id": session.id}, extension=True)

    def _lock(self, session: clincus.Session) -> threading.Lock:
        return self._locks.setdefault(session.id, threading.Lock())

    def _terminal(self, session: clincus.Session) -> AbstractContextManager[Terminal]:
        return open_terminal(self._app.sessions, session, self._watch.known(session))

    def _wake(self, id: str, *, even_failed: bool = False) -> None:
        with self._lock_of_queues:
            self._queues[id] = even_failed or self._queues.get(id, False)
            self._queue_is_due(clincus.engine_of(id)).notify()

    def _queue_is_due(self, engine: str) -> threading.Condition:
        return self._due.setdefault(engine, threading.Condition(self._lock_of_queues))


def prompts_folder(environ: Mapping[str, str]) -> str:
    """Where the prompts of all sessions are kept."""
    return clincus.own_file(environ, "prompts")
