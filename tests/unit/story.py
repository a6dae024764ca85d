"""A world in which stories of a session are played: its tool, its container, the server, a person, and their clocks.

The server's parts are the real ones: the watch, which looks and decides, the notifier, and the record on the disk. The
container answers a look as guest/look.sh does. Nothing waits: the world's clock goes from one thing that is due to the
next.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import clincus
from clincus_features import agents, notify
from clincus_features.agents import keys, prompts, queue, reading, records
from clincus_features.notify import agenda
from tests.builders import a_session

NOON = 1_800_000_000.0
SESSION = a_session(workspace="/srv/app", session_id="s")
BORDER = "─" * 40
CLAUDE_CHOICES = [" Do you want to proceed?", " ❯ 1. Yes", "   2. No", " Esc to cancel · Tab to amend"]
COPILOT_BOX = [" /workspace [⎇ master]", BORDER, "❯", BORDER]
COPILOT_CHOICES = ["│ Do you want to run this command? │", "│ ❯ 1. Yes │", "│   2. No (Esc to stop) │"]
OPENCODE_BOX = ["  ┃", "  ┃", "  ┃", "  ┃  Build · Claude", f"  ╹{'▀' * 40}"]
OPENCODE_ASKS = ["  ┃  △ Permission required", "  ┃  $ make", "  ┃", "  ┃   Allow once   Allow always   Reject"]
CODEX_BOX = ["› Ask Codex to do anything", "  gpt-5 default · /workspace", "  ← for agents · ? for shortcuts"]
CODEX_ASKS = ["  Would you like to run the following command?", "  $ make", "› 1. Yes, proceed (y)", "  2. No (esc)"]
GEMINI_BOX = [BORDER, " YOLO Ctrl+Y", " *   Type your message or @path/to/file", " /workspace"]
GEMINI_ASKS = ["│ ? Shell  make  │", "│ Allow execution of [Shell]?  │", "│ ● 1. Allow once  │", "│   2. No (esc) │"]


class Looks(NamedTuple):
    """What a tool draws. The begin of each list stands above the input."""

    rests: list[str]
    works: list[str]
    asks: list[str]
    over: list[str]  # behind the last words of a turn
    failed: list[str]
    cancelled: list[str]
    below: str = ""  # lines below the cursor, of a tool that shows it in its input


LOOKS = {
    "claude": Looks(
        [BORDER, "❯", BORDER, "  ⏵⏵ bypass permissions on"],
        ["✢ Tempering… (4s · ↓ 3 tokens)", BORDER, "❯", BORDER, "  ⏵⏵ bypass permissions on · esc to interrupt"],
        [BORDER, " Bash command", "   make", "╌" * 20, *CLAUDE_CHOICES],
        ["✻ Churned for 3s · done 4:09 PM"],
        ["● API Error: 529 stand-in"],
        ["  ⎿  Interrupted · What should Claude do instead?"],
    ),
    "copilot": Looks(
        [*COPILOT_BOX, " ← open sidebar · / commands · ? help"],
        [*COPILOT_BOX, " ◉ Working · 59 B esc esc interrupt"],
        [
            f"╭{BORDER}╮",
            "│ │ make │ │",
            *COPILOT_CHOICES,
            "│ ↑/↓ to navigate · enter to select · esc to cancel │",
            f"╰{BORDER}╯",
        ],
        [],
        [" ✗ Failed to get response from the AI model; Last error:", "   529 overloaded"],
        [" ● Operation cancelled by user"],
    ),
    "opencode": Looks(
        [*OPENCODE_BOX, "   /workspace      19 (0%)  ctrl+p commands"],
        [*OPENCODE_BOX, "   ⬝⬝■■  esc interrupt    ctrl+p commands"],
        [*OPENCODE_ASKS, "  ┃  ctrl+f fullscreen  ⇆ select  enter confirm"],
        ["     ▣  Build · Claude · 3.0s"],
        ["  ┃  prompt", "  ┃", "  ┃", "  ┃  529 overloaded", "  ┃", "     ▣  Build · Claude"],
        ["     ▣  Build · Claude · interrupted"],
        below="4",
    ),
    "codex": Looks(
        CODEX_BOX,
        ["• Working (3s • esc to interrupt)", *CODEX_BOX],
        [*CODEX_ASKS, "  Press enter to confirm or esc to cancel"],
        ["  Worked for 3s • 17:15"],
        ["■ unexpected status 529 overloaded"],
        ["■ Conversation interrupted - use /feedback if something went wrong"],
    ),
    "gemini": Looks(
        ["   ? for shortcuts", *GEMINI_BOX],
        [" ⠸ Thinking... (esc to cancel, 3s)   ? for shortcuts", *GEMINI_BOX],
        [f"╭{BORDER}╮", *GEMINI_ASKS, f"╰{BORDER}╯"],
        [],
        ["✕ [API Error: 529 overloaded]"],
        ["\u2139 Request cancelled."],
    ),
}
TURN_ENDS = [("session.status", {"status": {"type": "idle"}}), ("session.idle", {})]
OVERLOADED = {"name": "APIError", "data": {"message": "overloaded", "statusCode": 529}}
# What a tool tells in the place of an event of Claude Code. `answered` and `aborted` are none of those. A tool that is
# not here tells nothing.
TOLD: Mapping[str, Mapping[str, list[tuple[str, dict[str, Any]]]]] = {
    "claude": {"answered": [], "aborted": []},
    "copilot": {
        "UserPromptSubmit": [("UserPromptSubmit", {})],
        "PermissionRequest": [("Notification", {"notification_type": "permission_prompt"})],
        "Stop": [("Stop", {})],
        "StopFailure": [("ErrorOccurred", {"error": {"message": "overloaded"}, "recoverable": True})],
    },
    "opencode": {
        "UserPromptSubmit": [("session.status", {"status": {"type": "busy"}})],
        "PermissionRequest": [("permission.asked", {"permission": "bash"})],
        "answered": [("permission.replied", {})],
        "Stop": TURN_ENDS,
        "StopFailure": [("session.error", {"error": OVERLOADED}), *TURN_ENDS],
        "aborted": [("session.error", {"error": {"name": "MessageAbortedError"}}), *TURN_ENDS],
    },
}
SHELL = ["{} has ended (exit code {}). This is a shell in its container.", "code@box:/workspace$"]
SEEN_WITHIN = 3.0  # seconds after which a look has seen that the tool works
NOTICED_WITHIN = 6.0  # seconds after which a server that can reach an engine again has looked at its sessions
HOOK_TIMES = {"late": [8.0], "lost": [], "twice": [0.05, 0.05]}  # seconds until a hook that has such a fate is heard
FATES = tuple(HOOK_TIMES)


def time_text(at: float) -> str:
    """A time as Incus tells it."""
    return clincus.format_time(clincus.datetime.fromtimestamp(at, clincus.timezone.utc))


@dataclass
class Need:
    """What a person is to be called for, from the moment when it is so until it is over or seen."""

    kind: str  # done | failed | waiting | stuck | ended
    begin: float
    end: float = float("inf")
    hidden: float = 0.0  # seconds of that in which the server could not look
    is_over: bool = False


class World:
    """A session at noon. Verbs of a story are methods."""

    def __init__(self, home: Path, tool: str = "claude", skew: float = 0.0) -> None:
        self._home, self.tool = home, tool
        self._skew = skew  # seconds by which the container's clock is ahead
        self._set_by = 0.0  # seconds by which the server's clock was set
        self.now = NOON
        self.truth = "idle"  # what the tool does
        self.calls: list[tuple[float, str]] = []
        self.shown: list[tuple[float, str]] = []  # states that pages were told
        self.needs: list[Need] = []
        self.faults: list[str] = []
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._frozen: list[tuple[float, int, Callable[[], None]]] = []  # what goes on after a pause
        self._order = 0
        self._looks = LOOKS[tool]
        self._session = SESSION._replace(tool=tool, run=time_text(NOON))
        # What a look finds: the events and their file, the screen and when it moved, the tool's start or end.
        self._events, self._inode, self._screen, self._drawn = b"", 5, [*self._looks.rests], NOON
        self._run, self._code, self._is_armed = NOON, "", False
        self._fate = ""  # of the next hook
        self._number = 0  # of what the tool says
        self._prompt = ""  # the last one
        self._begun = NOON  # when the turn did
        self._has_said = self._hangs = False  # in this turn
        self._last: list[str] = []  # what the end of the last turn has left on the screen
        self._held_at = 0.0  # when the last turn has failed or was interrupted; 0 if it has not
        self._ready_at = NOON  # when the tool takes a prompt: what is typed before waits in its terminal
        self._frozen_at = self._cut_at = 0.0  # since when the container is frozen, its engine lost; 0 if it is not
        self._time = SimpleNamespace(time=lambda: self.now + self._set_by, monotonic=lambda: self.now - NOON)

    # -- The stage

    @contextlib.contextmanager
    def stage(self) -> Iterator[World]:
        """Play in this world: its clock is the clock of the server's parts."""
        with contextlib.ExitStack() as stack:
            for module in (agents, prompts, queue, reading, records, notify, agenda):
                stack.enter_context(mock.patch.object(module, "time", self._time))
            stack.enter_context(mock.patch.object(clincus.os, "fsync"))
            stack.enter_context(mock.patch.object(reading, "CLOCK", reading.SteadyClock()))
            self.restart()
            self._hook("SessionStart", source="startup")
            self.wait(10)
            yield self

    def restart(self) -> None:
        """Start the server, which finds the session running."""
        config = clincus.make_config(
            [clincus.Layer(clincus.USER_RANK, "test", {"notify.webhook": "http://hook.test/"})]
        )
        registry = SimpleNamespace(
            get=lambda id: self._session, find=lambda id: self._session, all=lambda: [self._session]
        )
        app: Any = SimpleNamespace(
            environ={"HOME": str(self._home)}, config=config, registry=registry, url="http://here"
        )
        app.hub, app.sessions, app.extensions = SimpleNamespace(publish=self._show), self, clincus.Extensions()
        self.watch = agents.Watch(app)
        self._sender = prompts.Sender(app, self.watch)
        self._notifier = notify.Notifier(app)
        self._notifier._push = lambda device, delay: None  # type: ignore[method-assign]
        self._notifier.outbox = SimpleNamespace(post_webhook=self._call)  # type: ignore[assignment]
        app.extensions.agent_listeners.append(self._notifier.hear)
        app.extensions.listeners.append(lambda moment, session: self._cut_at or self.watch.tell(moment, session))
        self.watch.listeners.append(self._go_on_with_queue)
        self.watch.tell("changed" if self._session.paused else "started", self._session)

    def _becomes(self, moment: str, **fields: object) -> None:
        """The registry tells the features of a moment in the session's life."""
        self._session = self._session._replace(**fields)
        self.watch.tell(moment, self._session)
        self._notifier.tell(moment, self._session)

    def _show(self, event: dict[str, Any], extension: bool) -> None:
        if event["type"] != "session.agent":
            return
        state = event["agent"]["state"]
        self.shown.append((self.now, state))
        if state == "stuck" and not self._hangs:
            self.faults.append(f"stuck at {self.now - NOON:.1f}, and it works")
        if state == "done" and self.truth == "working" and self.now - self._begun > SEEN_WITHIN:
            self.faults.append(f"done at {self.now - NOON:.1f}, before the end")

    def _call(self, id: str, values: dict[str, Any], is_open: Callable[[], bool]) -> None:
        self.calls.append((self.now, str(values["state"])))

    def _go_on_with_queue(self, session: clincus.Session, decision: Any) -> None:
        if self._sender._queues.pop(session.id, "none") is None:
            self._later(0.3, self._send)

    def _send(self) -> None:
        """Send the first prompt of the queue that may go, as the sender does after a look of its own."""
        decision, facts = self.watch.decision(self._session), self.watch.known(self._session).facts
        going = self._sender._going(self._session, decision)
        if not going or self._cut_at or self.truth not in ("idle", "done", "failed", "interrupted"):
            return
        with contextlib.suppress(clincus.ClincusError):
            if keys.readiness(facts, decision) == "ready":
                if not self._may_go(going[0]):
                    self.faults.append(f"a prompt that waits for a person was sent at {self.now - NOON:.1f}")
                self._sender.prompts.mark(self._session, going[0], "submitted")
                self.prompt()

    def _may_go(self, prompt: queue.Prompt) -> bool:
        """Whether a prompt waits for no person."""
        return prompt.at > self._held_at

    def output(self, session: clincus.Session, program: str, *words: str, **more: object) -> bytes:
        """Answer a look."""
        if self._cut_at or self._frozen_at:
            raise clincus.ClincusError("nobody answers", 503)
        _, mark, inode, offset, _, arm = words
        self._is_armed = self._is_armed or arm == "1"
        begin = int(offset) if int(inode) == self._inode and int(offset) <= len(self._events) else 0
        there = self.now + self._skew
        if self.truth == "working" and not self._hangs:
            self._drawn = max(self._drawn, there - there % 10)
        facts = {
            "events": f"{self._inode}:{begin}",
            "alive": int(not self._code),
            "code": self._code,
            "rings": 1,
            "now": f"{there:.3f}",
            "sum": hash(tuple(self._screen)),
            "below": self._looks.below if self._looks.rests[-2] in self._screen else "",
            "screen": int(self._drawn),
            "run": int(self._run + self._skew),
        }
        head = " ".join(f"{name}={value}" for name, value in facts.items())
        screen = "\n".join(self._screen)
        return f"{head}\ntitle\n{mark}\n{screen}\n{mark}\n".encode() + self._events[begin:]

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        self._order += 1
        self._plan.append((self.now + seconds, self._order, work))

    def wait(self, seconds: float) -> None:
        """Let time pass, and do what becomes due."""
        end = self.now + seconds
        while True:
            look = self.watch._due.get(SESSION.id)
            jobs = [job.due for job in self._notifier.agenda._jobs.values()]
            due = [*self._plan]
            due += [] if look is None else [(look + NOON, -1, functools.partial(self.watch.work, ""))]
            due += [(min(jobs) + NOON, -2, self._notifier.agenda.work)] if jobs else []
            at, order, work = min(due, key=lambda item: item[:2], default=(end + 1, 0, None))
            if at > end or work is None:
                break
            self._plan = [item for item in self._plan if item[1] != order]
            self.now = max(self.now, at)
            work()
        self.now = end

    # -- What hooks and the screen tell

    def _hook(self, name: str, **data: object) -> None:
        """A hook of the turn runs: in time, late, never or twice, as the story has said."""
        times, self._fate = HOOK_TIMES.get(self._fate, [0.05]), ""
        if self.tool == "claude":
            data["prompt_id"] = self._prompt
        for event, words in TOLD.get(self.tool, {}).get(name, [(name, {})] if self.tool == "claude" else []):
            said = {**data, **words} if event == name else words
            for seconds in times:
                self._later(seconds, functools.partial(self._tell, event, said))

    def _tell(self, name: str, data: dict[str, object]) -> None:
        at = self.now + self._skew
        self._events += f'{{"at":{at:.3f},"event":"{name}","data":{json.dumps(data)}}}\n'.encode()
        self._ring()

    def _ring(self) -> None:
        self._later(0.1, lambda: None if self._cut_at else self.watch.tell("ring", self._session))

    def _draw(self, *lines: str, delay: float = 0.2) -> None:
        """The screen changes."""

        def drawn() -> None:
            self._screen, self._drawn = [*lines], self.now + self._skew
            if self._is_armed:
                self._is_armed = False
                self._ring()

        self._later(delay, drawn)

    def _need(self, kind: str) -> None:
        self.needs.append(Need(kind, self.now))

    def _over(self, truth: str = "") -> None:
        """What a person was needed for is over, and the tool does something else."""
        self.truth = truth or self.truth
        for need in self.needs:
            need.is_over = True
            if not self._cut_at:  # else the server cannot know it
                need.end = min(need.end, self.now)

    def _works(self, *words: str) -> None:
        self._over("working")
        self._begun = self.now
        self._draw(*words, *self._looks.works)

    def _breaks_off(self, truth: str) -> None:
        """A turn does not end by itself: prompts that were queued before wait."""
        if self.truth in ("working", "waiting"):
            self._held_at = self.now
        self._over(truth)

    # -- Verbs: the tool

    def prompt(self) -> None:
        """A person gives it work."""
        self.wait(max(0.0, self._ready_at - self.now))
        self._held_at, self._has_said = 0.0, False
        self._number += 1
        self._prompt, self._begun = f"prompt {self._number}", self.now
        self._hook("UserPromptSubmit", prompt=self._prompt)
        self._works("❯ prompt")

    def stop(self) -> None:
        """It tells of an end, but a hook of the project lets it go on."""
        self._has_said = True
        self._hook("Stop", last_assistant_message=f"end {self._number}", stop_hook_active=False)

    def end(self, background: int = 0, again: bool = False) -> None:
        """Its turn is over."""
        self.truth = "done"
        self._need("done")
        words = {"last_assistant_message": f"end {self._number}", "stop_hook_active": again}
        self._hook("Stop", background_tasks=[{}] * background, **words)
        footer = self._looks.rests[-1] + (" · 1 shell · ↓ to manage" if background else "")
        prompt = [f" ❯ {self._prompt}"] if self.tool == "copilot" else []
        self._last = [*prompt, f"● end {self._number}", *self._looks.over]
        self._draw(*self._last, *self._looks.rests[:-1], footer)

    def end_again(self) -> None:
        """The turn that a hook of the project has let go on is over."""
        self.end(again=True)

    def end_with_server(self) -> None:
        """Its turn is over, and a server that it has started goes on."""
        self.end(background=1)

    def wait_for_agent(self) -> None:
        """It says no more for now, and goes on when an agent in the background has ended."""
        self._hook("Stop", background_tasks=[{}], last_assistant_message="wait", stop_hook_active=False)
        self._draw("● wait", "✻ Waiting for 1 background agent to finish", *self._looks.rests)

    def wake(self) -> None:
        """It goes on by itself, since something in the background has ended."""
        self._has_said = True
        self._number += 1
        self._works()

    def fail(self) -> None:
        """Its turn fails."""
        self.truth, self._held_at = "failed", self.now
        self._need("failed")
        self._hook("StopFailure", error="overloaded", last_assistant_message="API Error: 529 stand-in")
        self._draw(*self._looks.failed, *self._looks.rests)

    def ask(self) -> None:
        """It asks for a permission."""
        self.truth, self._has_said = "waiting", True
        self._need("waiting")
        self._number += 1
        command = f"command {self._number}"
        self._hook("PermissionRequest", tool_name="Bash", tool_input={"command": command})
        self._draw(*(line.replace("make", command) for line in self._looks.asks))

    def answer(self) -> None:
        """A person answers in the terminal."""
        self._hook("answered")
        self._works()

    def escape(self) -> None:
        """A person interrupts it."""
        self._breaks_off("interrupted")
        self._hook("aborted")
        self._draw("● Let me think", *self._looks.cancelled, *self._looks.rests)

    def take_back(self) -> None:
        """A person interrupts it before it has said anything: the prompt is in its input again."""
        if self._has_said:
            self.escape()
            return
        self._breaks_off("interrupted")
        self._draw(*self._last, BORDER, f"❯ {self._prompt}", *self._looks.rests[2:])

    def clear(self) -> None:
        """A person lets it forget the conversation."""
        self._over("idle")
        self._hook("SessionStart", source="clear")
        self._draw(*self._looks.rests)

    def hang(self) -> None:
        """Nothing moves any more; after five minutes a person is needed."""
        self._hangs, self._drawn = True, self.now + self._skew
        self._later(299, lambda: self._need("stuck") if self._hangs else None)

    def go_on(self) -> None:
        """It moves again."""
        self._over()
        self._hangs = False
        self._draw("● more", *self._looks.works)

    def leave(self) -> None:
        """A person ends the tool."""
        self._over("ended")
        self._exits("0")

    def crash(self) -> None:
        """The tool is killed, but not while it starts: a person who has just started it is there."""
        self.wait(max(0.0, self._ready_at + SEEN_WITHIN - self.now))
        self._breaks_off("crashed")
        self._need("ended")
        self._exits("137", *self._screen)

    def _exits(self, code: str, *screen: str) -> None:
        """The tool is gone, and a shell is there."""
        self._code, self._run = code, self.now
        self._draw(*screen, *(line.format(self.tool, code) for line in SHELL))
        self._ring()

    # -- Verbs: persons, the container and the server

    def look(self) -> None:
        """A person has the session open. The page tells what it shows as seen, if that calls for a person."""
        if self.watch.decision(self._session).agent.state in ("waiting", "done", "failed", "stuck", "ended"):
            self._over()
            self.watch.see(self._session)

    def enqueue(self) -> None:
        """A prompt is put into the queue; at rest it is sent at once."""
        self._sender.prompts.add(self._session, "more", "queued")
        if self.truth in ("idle", "done"):
            self._later(0.3, self._send)

    def halt(self) -> None:
        """A person stops the session."""
        self._breaks_off("stopped")
        self._plan = []
        self._becomes("stopped", status="stopped")

    def resume(self) -> None:
        """A person resumes it: another run, with the conversation."""
        self.truth, self._run, self._code = "idle", self.now, ""
        self._events, self._inode, self._screen, self._is_armed = b"", self._inode + 1, [], False
        self._becomes("started", status="running", run=time_text(self.now))
        self._hook("SessionStart", source="resume")
        self._draw("● end", *self._looks.rests, delay=2.0)
        # A person sees its input first. Without hooks nobody can tell a turn before the next look.
        self._ready_at = self.now + (2.0 if self.tool in TOLD else 6.0)

    def freeze(self) -> None:
        """A person pauses the session: nothing in it goes on."""
        self._frozen_at, self._plan, self._frozen = self.now, [], self._plan
        self._becomes("changed", status="stopped", paused=True)

    def thaw(self) -> None:
        """A person lets it go on."""
        passed = self.now - self._frozen_at
        self._plan += [(at + passed, order, work) for at, order, work in self._frozen]
        self._begun += passed
        self._ready_at += passed
        self._was_hidden(self._frozen_at)
        self._frozen_at = 0.0
        self._becomes("started", status="running", paused=False)

    def cut(self) -> None:
        """The engine of the session cannot be reached any more."""
        self._cut_at = self.now
        self._becomes("changed", unreachable_since=time_text(self.now))

    def reach(self) -> None:
        """It can be reached again. What was over meanwhile is over for the server once it has looked."""
        self._was_hidden(self._cut_at)
        for need in self.needs:
            need.end = min(need.end, self.now + NOTICED_WITHIN) if need.is_over else need.end
        self._cut_at = 0.0
        self._becomes("changed", unreachable_since="")

    def _was_hidden(self, since: float) -> None:
        for need in self.needs:
            need.hidden += max(0.0, min(self.now, need.end) - max(since, need.begin))

    def set_back(self) -> None:
        """The server's clock is set back by an hour."""
        self._set_by -= 3600

    # -- The end

    def play(self, script: str) -> World:
        """Play a story: verbs, numbers of seconds, and what becomes of the next hook."""
        for word in script.split():
            if word.replace(".", "").isdigit():
                self.wait(float(word))
            elif word in FATES:
                self._fate = word
            else:
                getattr(self, word.replace("-", "_"))()
        return self

    def wrong(self) -> list[str]:
        """What has gone wrong: a call too much, none, a call or `done` before the end, a queue that stands still."""
        faults = [*self.faults]
        for at, kind in self.calls:
            if not any(need.kind == kind and need.begin <= at <= need.end + 1 for need in self.needs):
                faults.append(f"called for {kind} at {at - NOON:.1f}, and there was no such need")
        for need in self.needs:
            end = min(need.end, self.now)
            count = sum(need.begin <= at <= end + 1 and kind == need.kind for at, kind in self.calls)
            name = f"{need.kind} from {need.begin - NOON:.1f} to {end - NOON:.1f}"
            # A need that was over while the engine was lost lasts until the next look, which may see another one.
            if count > sum(need.begin <= other.begin <= end and other.kind == need.kind for other in self.needs):
                faults.append(f"called {count} times for {name}")
            if count == 0 and end - need.begin - need.hidden > 90:
                faults.append(f"not called for {name}")
        standing = [one for one in self._sender.prompts.queue(self._session) if self._may_go(one)]
        if standing and self.truth in ("idle", "done"):
            faults.append(f"{len(standing)} prompts stand in the queue")
        return faults
