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
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import clincus
from clincus_features import agents, notify
from clincus_features.agents import keys, prompts, queue, reading, records
from clincus_features.agents.times import SLOW_LOOK
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
        [BORDER, " Bash command", *CLAUDE_CHOICES],
        ["✻ Churned for 3s · done 4:09 PM"],
        ["● API Error: 529 stand-in"],
        ["  ⎿  Interrupted · What should Claude do instead?"],
    ),
    "copilot": Looks(
        [*COPILOT_BOX, " ← open sidebar · / commands · ? help"],
        [*COPILOT_BOX, " ◉ Working · 59 B esc esc interrupt"],
        [f"╭{BORDER}╮", *COPILOT_CHOICES, "│ ↑/↓ to navigate · enter to select · esc to cancel │", f"╰{BORDER}╯"],
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
# What a tool tells in the place of an event of Claude Code. `answered` and `aborted` are none of those. Tools that
# stand not here tell nothing.
TOLD: Mapping[str, Mapping[str, list[tuple[str, dict[str, Any]]]]] = {
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
FATES = ("late", "lost", "twice")  # of a hook


def time_text(at: float) -> str:
    """A time as Incus tells it."""
    return clincus.format_time(clincus.datetime.fromtimestamp(at, clincus.timezone.utc))


@dataclass
class Need:
    """What a person is to be called for, from the moment when it is so until it is over or seen."""

    kind: str  # done | failed | waiting | ended
    begin: float
    end: float = float("inf")
    hidden: float = 0.0  # seconds of that in which the server could not look
    is_over: bool = False


@dataclass
class World:
    """A session at noon. Verbs of a story are methods; a number lets so many seconds pass."""

    home: Path
    tool: str = "claude"
    skew: float = 0.0  # seconds by which the container's clock is ahead
    now: float = NOON
    set_by: float = 0.0  # seconds by which the server's clock was set
    calls: list[tuple[float, str]] = field(default_factory=list)
    shown: list[tuple[float, str]] = field(default_factory=list)  # states that pages were told
    needs: list[Need] = field(default_factory=list)
    truth: str = "idle"  # what the tool does
    hangs: bool = False  # it says that it works, and nothing moves
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._looks = LOOKS[self.tool]
        self._events, self._inode, self._screen, self._drawn = b"", 5, [*self._looks.rests], NOON
        self._began = NOON  # the run of the container
        self._session = SESSION._replace(tool=self.tool, run=time_text(NOON))
        self._run, self._code, self._again = NOON, "", "0"
        # Of a tool that a person has started again: the exit code; when it ended; whether a look has seen that it ran,
        # without which nobody knows of its end; and what a look is told of the last run that was seen.
        self._left, self._again_at, self._is_again_known, self._kept = "", NOON, False, ("0", "")
        self._armed = False
        self._how: list[str] = []  # of the next hook: late, lost, twice
        self._number, self._id, self._begun = 0, 0, NOON
        self._looked = NOON  # when the last look was
        self._has_said = False  # in this turn
        self._prompt = ""  # the last one
        self._left_behind: list[Need] = []  # needs that were over when a person started the tool again
        self._last: list[str] = []  # what the end of the last turn has left on the screen
        self._held_at = 0.0  # when the last turn has failed or was interrupted; 0 if it has not
        self._frozen_at = 0.0  # since when the container is frozen; 0 if it is not
        self._frozen = self._plan  # what goes on once it is not
        self._ready_at = NOON  # when the tool takes a prompt: what is typed before waits in its terminal
        self._cut_at = 0.0  # since when its engine cannot be reached; 0 if it can
        self._time = SimpleNamespace(time=lambda: self.now + self.set_by, monotonic=lambda: self.now - NOON)

    # -- The stage

    @contextlib.contextmanager
    def stage(self) -> Iterator[World]:
        """Play in this world: its clock is the clock of the server's parts."""
        with contextlib.ExitStack() as stack:
            for module in (agents, prompts, queue, reading, records, notify, agenda):
                stack.enter_context(mock.patch.object(module, "time", self._time))
            stack.enter_context(mock.patch.object(clincus.os, "fsync"))
            stack.enter_context(mock.patch.object(reading, "CLOCK", reading.SteadyClock()))
            self.serve()
            self.hook("SessionStart", source="startup")
            self.wait(10)
            yield self

    def serve(self) -> None:
        """Start the server, which finds the session running."""
        keys_of_config = {"notify.webhook": "http://hook.test/"}
        config = clincus.make_config([clincus.Layer(clincus.USER_RANK, "test", keys_of_config)])

        def find(id: str) -> clincus.Session:
            return self._session

        registry = SimpleNamespace(get=find, find=find, all=lambda: [self._session])
        self.app: Any = SimpleNamespace(environ={"HOME": str(self.home)}, config=config, registry=registry)
        self.app.hub = SimpleNamespace(publish=self._publish)
        self.app.sessions, self.app.extensions = self, clincus.Extensions()
        self.app.url = "http://here"
        self.watch = agents.Watch(self.app)
        self.sender = prompts.Sender(self.app, self.watch)
        self.notifier = notify.Notifier(self.app)
        self.notifier._push = lambda device, delay: None  # type: ignore[method-assign]
        self.notifier.outbox = SimpleNamespace(post_webhook=self._called)  # type: ignore[assignment]
        self.app.extensions.agent_listeners.append(self.notifier.hear)
        self.app.extensions.listeners.append(self._looks_before_call)
        self.watch.listeners.append(self._hear)
        self.watch.tell("changed" if self._session.paused else "started", self._session)

    def _looks_before_call(self, moment: str, session: clincus.Session) -> None:
        if not self._cut_at:
            self.watch.tell(moment, session)

    def _becomes(self, moment: str, **fields: object) -> None:
        """The registry tells the features of a moment in the session's life."""
        self._session = self._session._replace(**fields)
        self.watch.tell(moment, self._session)
        self.notifier.tell(moment, self._session)

    def _publish(self, event: dict[str, Any], extension: bool) -> None:
        if event["type"] == "session.agent":
            self.shown.append((self.now, event["agent"]["state"]))
            if event["agent"]["state"] == "stuck" and not self.hangs:
                self.faults.append(f"stuck at {self.now - NOON:.1f}, and it works")
            if event["agent"]["state"] == "done" and self.truth == "working" and self.now - self._begun > SEEN_WITHIN:
                self.faults.append(f"done at {self.now - NOON:.1f}, before the end")

    def _called(self, id: str, values: dict[str, Any], is_open: Callable[[], bool]) -> None:
        self.calls.append((self.now, str(values["state"])))

    def _hear(self, session: clincus.Session, decision: Any) -> None:
        if self.sender._queues.pop(session.id, "none") is None:
            self._later(0.3, self._send)

    def _send(self) -> None:
        """Send the first prompt of the queue that may go, as the sender does after a look of its own."""
        going = self.sender._going(self._session, self.watch.decision(self._session))
        if not going or self._cut_at or self.truth not in ("idle", "done", "failed", "interrupted"):
            return
        facts = self.watch.known(self._session).facts
        with contextlib.suppress(clincus.ClincusError):
            if keys.readiness(facts, self.watch.decision(self._session)) == "ready":
                if not self._may_go(going[0]):
                    self.faults.append(f"a prompt that waits for a person was sent at {self.now - NOON:.1f}")
                self.sender.prompts.mark(self._session, going[0], "submitted")
                self.prompt()

    def _may_go(self, prompt: queue.Prompt) -> bool:
        """Whether a prompt waits for no person."""
        return prompt.at > self._held_at

    def output(self, session: clincus.Session, program: str, *words: str, **more: object) -> bytes:
        """Answer a look."""
        if self._cut_at or self._frozen_at:
            raise clincus.ClincusError("nobody answers", 503)
        _, mark, inode, offset, _, arm = words
        self._armed = self._armed or arm == "1"
        begin = int(offset) if int(inode) == self._inode and int(offset) <= len(self._events) else 0
        self._is_again_known = self._is_again_known or self._again == "1"
        self._looked = self.now
        there = self.now + self.skew
        is_drawing = self.truth == "working" and not self.hangs
        self._drawn = max(self._drawn, there - there % 10 if is_drawing else 0.0)
        facts = {
            "events": f"{self._inode}:{begin}",
            "alive": int(not self._code),
            "code": self._code,
            "rings": 1,
            "now": f"{there:.3f}",
            "cpu": 0,
            "again": self._again,
            "left": self._left,
            "stopping": 0,
            "sum": hash(tuple(self._screen)),
            "below": self._looks.below if self._looks.rests[-2] in self._screen else "",
            "screen": int(self._drawn),
            "run": int(self._run + self.skew),
            "again_at": int(self._again_at + self.skew),
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
            due = [*self._plan]
            looks = self.watch._due.get(SESSION.id)
            jobs = [job.due for job in self.notifier.agenda._jobs.values()]
            due += [(looks + NOON, -1, functools.partial(self.watch.work, ""))] if looks is not None else []
            due += [(min(jobs) + NOON, -2, self.notifier.agenda.work)] if jobs else []
            if not due or min(due)[0] > end:
                break
            one = min(due, key=lambda item: item[:2])
            self._plan = [item for item in self._plan if item[1] != one[1]]
            self.now = max(self.now, one[0])
            one[2]()
        self.now = end

    # -- What hooks and the screen tell

    def hook(self, name: str, **data: object) -> None:
        """A hook runs: in time, late, never or twice, as the story has said."""
        how, self._how = self._how, []
        if "lost" in how:
            return
        delay, times = 8.0 if "late" in how else 0.05, 1 + ("twice" in how)
        for event in self._events_of(name, data):
            for _ in range(times):
                self._later(delay, functools.partial(self._tell, *event))

    def _events_of(self, name: str, data: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
        """What the tool tells in the place of an event of Claude Code. Copilot CLI numbers no turn."""
        if self.tool == "claude":
            return [(name, data)]
        plain = {key: value for key, value in data.items() if key != "prompt_id"}
        told = TOLD.get(self.tool, {}).get(name, [])
        return [(own, {**plain, **words} if own == name else words) for own, words in told]

    def _tell_if(self, name: str) -> None:
        """A hook of another tool runs where Claude Code has none."""
        if self.tool != "claude":
            self.hook(name)

    def _tell(self, name: str, data: dict[str, object]) -> None:
        at = self.now + self.skew
        self._events += f'{{"at":{at:.3f},"event":"{name}","data":{json.dumps(data)}}}\n'.encode()
        self._ring()

    def _ring(self) -> None:
        self._later(0.1, lambda: None if self._cut_at else self.watch.tell("ring", self._session))

    def draw(self, *lines: str, delay: float = 0.2) -> None:
        """The screen changes."""

        def drawn() -> None:
            self._screen, self._drawn = [*lines], self.now + self.skew
            if self._armed:
                self._armed = False
                self._ring()

        self._later(delay, drawn)

    def _turn(self) -> dict[str, object]:
        return {"prompt_id": str(self._id)}

    def _need(self, kind: str) -> None:
        """A person is needed from now on, though nobody may know it: no hook tells of a turn that no look sees."""
        is_unknown = (self._is_unseen() and kind in ("done", "failed")) or (
            kind == "ended" and self._again == "1" and not self._is_again_known
        )
        # An unknown need calls nobody, or somebody if the server has known of an earlier turn.
        self.needs.append(Need(kind, self.now, hidden=float("inf") if is_unknown else 0.0))

    def _is_unseen(self) -> bool:
        """Whether no look has seen this turn of a tool without hooks: its engine is lost, or it was a short one."""
        is_short = self.now - self._begun < SLOW_LOOK and self._looked < self._begun
        is_away = bool(self._cut_at) and self._begun > self._cut_at
        return self.tool not in ("claude", *TOLD) and (is_away or is_short)

    def _holds(self) -> None:
        """A turn does not end by itself: prompts that were queued before wait, if anybody can know it."""
        self._held_at = self._held_at if self._is_unseen() else self.now

    def _over(self) -> None:
        for need in self.needs:
            need.is_over = True
            if not self._cut_at:  # else the server cannot know it
                need.end = min(need.end, self.now)

    # -- Verbs

    def late(self) -> None:
        """The next hook comes late."""
        self._how.append("late")

    def lost(self) -> None:
        """The next hook never comes."""
        self._how.append("lost")

    def twice(self) -> None:
        """The next hook comes twice."""
        self._how.append("twice")

    def prompt(self) -> None:
        """A person gives it work."""
        self.wait(max(0.0, self._ready_at - self.now))
        self._over()
        self._held_at = 0.0
        self.truth, self._begun = "working", self.now
        self._number += 1
        self._id += 1
        self._has_said = False
        self._prompt = f"prompt {self._number}"
        self.hook("UserPromptSubmit", prompt=self._prompt, **self._turn())
        self.draw("❯ prompt", *self._looks.works)

    def stop(self) -> None:
        """It tells of an end, but a hook of the project lets it go on."""
        self._has_said = True
        self.hook("Stop", last_assistant_message=f"end {self._number}", **self._turn(), stop_hook_active=False)

    def end(self, background: int = 0, again: bool = False) -> None:
        """Its turn is over."""
        self.truth = "done"
        self._need("done")
        words = {"last_assistant_message": f"end {self._number}", "stop_hook_active": again}
        self.hook("Stop", background_tasks=[{}] * background, **self._turn(), **words)
        footer = self._looks.rests[-1] + (" · 1 shell · ↓ to manage" if background else "")
        prompt = [f" ❯ {self._prompt}"] if self.tool == "copilot" else []
        self._last = [*prompt, f"● end {self._number}", *self._looks.over]
        self.draw(*self._last, *self._looks.rests[:-1], footer)

    def end_slowly(self) -> None:
        """Its turn is over; its screen shows for six more seconds that a hook of the end runs."""
        self.end()
        shown = self._plan.pop()
        self.draw(*self._last, "* Bebopping… (running Stop hook · 1s)", *self._looks.works[1:])
        self._later(6, shown[2])

    def end_again(self) -> None:
        """The turn that a hook of the project has let go on is over."""
        self.end(again=True)

    def end_with_server(self) -> None:
        """Its turn is over, and a server that it has started goes on."""
        self.end(background=1)

    def wait_for_agent(self) -> None:
        """It says no more for now, and goes on when an agent in the background has ended."""
        self.hook("Stop", background_tasks=[{}], last_assistant_message="wait", **self._turn(), stop_hook_active=False)
        self.draw("● wait", "✻ Waiting for 1 background agent to finish", *self._looks.rests)

    def wake(self) -> None:
        """It goes on by itself, since something in the background has ended."""
        self._over()
        self._has_said = True
        self.truth, self._begun = "working", self.now
        self._number += 1
        self.draw(*self._looks.works)

    def fail(self) -> None:
        """Its turn fails."""
        self.truth = "failed"
        self._holds()
        self._need("failed")
        self.hook("StopFailure", error="overloaded", last_assistant_message="API Error: 529 stand-in", **self._turn())
        self.draw(*self._looks.failed, *self._looks.rests)

    def ask(self) -> None:
        """It asks for a permission."""
        self._has_said = True
        self.truth = "waiting"
        self._need("waiting")
        self._number += 1
        self.hook(
            "PermissionRequest", tool_name="Bash", tool_input={"command": f"command {self._number}"}, **self._turn()
        )
        self.draw(*(line.replace("make", f"command {self._number}") for line in self._looks.asks))

    def answer(self) -> None:
        """A person answers in the terminal."""
        self._over()
        self.truth, self._begun = "working", self.now
        self._tell_if("answered")
        self.draw(*self._looks.works)

    def escape(self) -> None:
        """A person interrupts it."""
        self._over()
        self.truth = "interrupted"
        self._holds()
        self._tell_if("aborted")
        self.draw("● Let me think", *self._looks.cancelled, *self._looks.rests)

    def take_back(self) -> None:
        """A person interrupts it before it has said anything: the prompt is in its input again."""
        if self._has_said:
            self.escape()
            return
        self._over()
        self.truth, self._held_at = "interrupted", self.now
        self.draw(*self._last, BORDER, f"❯ prompt {self._number}", *self._looks.rests[2:])

    def clear(self) -> None:
        """A person lets it forget the conversation."""
        self._over()
        self.truth = "idle"
        self.hook("SessionStart", source="clear")
        self.draw(*self._looks.rests)

    def look(self) -> None:
        """A person has the session open. The page tells what it shows as seen, if that calls for a person."""
        if self.watch.decision(self._session).agent.state in ("waiting", "done", "failed", "stuck", "ended"):
            self._over()
            self.watch.see(self._session)

    def type_amid(self) -> None:
        """A person types something while it works, and sends it not."""
        self.draw(self._looks.works[0], BORDER, "❯ and then", *self._looks.rests[2:])

    def enqueue(self) -> None:
        """A prompt is put into the queue; at rest it is sent at once."""
        self.sender.prompts.add(self._session, "more", "queued")
        if self.truth in ("idle", "done"):
            self._later(0.3, self._send)

    def leave(self) -> None:
        """A person ends the tool."""
        self._over()
        self.truth = "ended"
        self._exits("0")

    def hang(self) -> None:
        """Nothing moves any more; after five minutes a person is needed."""
        self.hangs, self._drawn = True, self.now + self.skew
        self._later(299, lambda: self._need("stuck") if self.hangs else None)

    def go_on(self) -> None:
        """It moves again."""
        self._over()
        self.hangs = False
        self.draw("● more", *self._looks.works)

    def crash(self) -> None:
        """The tool is killed, but not while it starts: a person who has just started it is there."""
        self.wait(max(0.0, self._ready_at + SEEN_WITHIN - self.now))
        self._over()
        self._need("ended")
        self._held_at = self.now if self.truth in ("working", "waiting") else self._held_at
        self.truth = "crashed"
        self._exits("137", *self._screen)

    def _exits(self, code: str, *screen: str) -> None:
        """The tool is gone. The shell that it had left before is there again, or another one."""
        if self._again == "1":
            if not self._is_again_known:  # for the server, that person never came
                for need in self._left_behind:
                    need.end = need.hidden = float("inf")
            words = SHELL if self._is_again_known else SHELL[-1:]
            if self._is_again_known:
                self._kept = "2", code
                self._again_at = self.now
            self._again, self._left = self._kept
            self.draw(*screen, *(line.format(self.tool, code) for line in words))
        else:
            self._code, self._again, self._run = code, "0", self.now
            self._kept = "0", ""
            self.draw(*screen, *(line.format(self.tool, code) for line in SHELL))
        self._ring()

    def again(self) -> None:
        """A person starts the tool again by its name, from the shell that it has left."""
        self._left_behind = [need for need in self.needs if need.kind == "ended" and not need.is_over]
        self._over()
        self.truth, self._again, self._left, self._is_again_known = "idle", "1", "", False
        self.draw(*self._screen[:-1], f"{SHELL[-1]} {self.tool}")
        self.hook("SessionStart", source="startup")
        self._starts()

    def restart(self) -> None:
        """The server is started again."""
        self.serve()

    def halt(self) -> None:
        """A person stops the session."""
        self._over()
        self._held_at = self.now if self.truth in ("working", "waiting") else self._held_at
        self.truth = "stopped"
        self._plan = []
        self._becomes("stopped", status="stopped")

    def resume(self) -> None:
        """A person resumes it: another run, with the conversation."""
        self.truth, self._began = "idle", self.now
        self._events, self._inode, self._code, self._again = b"", self._inode + 1, "", "0"
        self._run, self._screen, self._armed = self.now, [], False
        self._becomes("started", status="running", run=time_text(self._began))
        self.hook("SessionStart", source="resume")
        self._starts("● end")

    def _starts(self, *conversation: str) -> None:
        """The tool draws its input, below what an earlier run has left."""
        self.draw(*self._screen, *conversation, *self._looks.rests, delay=2.0)
        # A person sees its input first. Without hooks nobody can tell a turn before the next look.
        self._ready_at = self.now + (2.0 if self.tool in ("claude", *TOLD) else 6.0)

    def freeze(self) -> None:
        """A person pauses the session: nothing in it goes on."""
        self._frozen_at, self._plan, self._frozen = self.now, [], self._plan
        self._becomes("changed", status="stopped", paused=True)

    def thaw(self) -> None:
        """A person lets it go on."""
        passed, self._frozen_at = self.now - self._frozen_at, 0.0
        self._plan += [(at + passed, order, work) for at, order, work in self._frozen]
        self._begun += passed
        self._ready_at += passed
        for need in self.needs:
            need.hidden += max(0.0, min(self.now, need.end) - max(self.now - passed, need.begin))
        self._becomes("started", status="running", paused=False)

    def cut(self) -> None:
        """The engine of the session cannot be reached any more."""
        self._cut_at = self.now
        self._becomes("changed", unreachable_since=time_text(self.now))

    def reach(self) -> None:
        """It can be reached again. What was over meanwhile is over for the server once it has looked."""
        for need in self.needs:
            need.hidden += max(0.0, min(self.now, need.end) - max(self._cut_at, need.begin))
            need.end = min(need.end, self.now + NOTICED_WITHIN) if need.is_over else need.end
        self._cut_at = 0.0
        self._becomes("changed", unreachable_since="")

    def set_back(self) -> None:
        """The server's clock is set back by an hour."""
        self.set_by -= 3600

    # -- The end

    def play(self, script: str) -> World:
        """Play a story: verbs, and numbers of seconds."""
        for word in script.split():
            if word.replace(".", "").isdigit():
                self.wait(float(word))
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
        standing = [one for one in self.sender.prompts.queue(self._session) if self._may_go(one)]
        if standing and self.truth in ("idle", "done"):
            faults.append(f"{len(standing)} prompts stand in the queue")
        return faults
