"""Decides the state of a tool from the facts about it, with the reason: pure functions.

States come from `decide` only. The facts come from the container and are not trusted: only words of the tables in
rules.py count, and each text is cut and freed of control characters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from clincus_features.agents.drafts import PASTED, is_prompt_told, signs
from clincus_features.agents.menus import TICKS, Menu, across_menu, lettered_menu, numbered_menu, read_menu
from clincus_features.agents.rules import FAILURES, RULES, Hook, Rule, ToolRules
from clincus_features.agents.screen import Screen, cut
from clincus_features.agents.texts import LINES, OPTION_LIMIT, OPTIONS, TEXT_LIMIT, clean, clean_block
from clincus_features.agents.times import DRAWING, LAGGING, LATE, REPEATED, RESUMING, START_WITHIN, STUCK_AFTER, UNDRAWN

REST = ("idle", "done", "failed", "ended")  # no turn is in progress
PROMPT_TIME = r" {3,}\d\d?:\d\d(?: ?[AP]M)?(?=\n|\Z)"  # that Copilot CLI shows at the right of a prompt
REQUESTS = 8  # of sub-agents at the same time
REQUEST_SIGNS = 60  # letters and digits by which a dialog shows one
AMID = ("question", "plan", "permission")  # reasons for which a tool waits amid a turn
NO_CRASH = (0, 130, 147, 148)  # exit codes: Ctrl-C, and a shell's word for a tool that Ctrl-Z has suspended


@dataclass(frozen=True)
class Agent:
    """The state of a tool. Times are in seconds since 1970.

    A state is known by its numbers, since clocks differ and are set: the end of a turn by `turn`, any other need of a
    person by `question`. They never get smaller in a session.
    """

    state: str
    reason: str = ""
    text: str = ""
    options: tuple[str, ...] = ()
    since: float = 0.0
    source: str = "process"  # hook | screen | process | person
    seen: bool = False
    turn: int = 0  # counts the runs of the tool, and each time that it begins to work
    question: int = 0  # counts each time that it begins to need a person other than by the end of a turn

    @property
    def asks(self) -> bool:
        """True if a person is needed for another reason than the end of a turn."""
        return self.state in ("waiting", "stuck") or (self.state, self.reason) == ("ended", "crashed")

    @property
    def is_amid_a_turn(self) -> bool:
        """True if a turn is in progress. A person may also have opened a dialog of another kind at rest."""
        return self.state in ("working", "stuck") or (self.state == "waiting" and self.reason in AMID)

    @property
    def holds_queue(self) -> bool:
        """True if the prompts in the queue wait for a person: a turn has failed or was interrupted."""
        return self.state == "failed" or self.reason == "interrupted"


@dataclass(frozen=True)
class Seen:
    """The numbers of the turns and questions that a person has seen."""

    turn: int = -1  # the last turn whose end was seen
    question: int = 0
    begun: int = -1  # the last turn that was seen in part
    at: float = 0.0  # when that was, in seconds since 1970

    def has(self, agent: Agent) -> bool:
        """True if a person has seen a state."""
        if agent.asks:
            return agent.question <= self.question
        return agent.turn <= (self.turn if agent.state in REST else self.begun)

    def add(self, agent: Agent, now: float) -> Seen:
        """These numbers after a person has seen a state, too."""
        turn = agent.turn if agent.state in REST and not agent.asks else self.turn
        return Seen(max(self.turn, turn), max(self.question, agent.question), max(self.begun, agent.turn), now)


@dataclass(frozen=True)
class Held:
    """A turn that did not end by itself: prompts that were queued before wait for a person."""

    turn: int = -1  # -1 for none
    at: float = 0.0  # when that was by the server's clock, in seconds since 1970


@dataclass(frozen=True)
class Past:
    """The part of a tool's state that is kept from one decision to the next, also over a restart of the server."""

    agent: Agent | None = None  # as it was decided last
    run: float = 0.0  # the start of that run
    told: int = 0  # `Said.turn` at that time
    again: int = 0  # `Said.again` at that time
    asked: int = 0  # `Said.question` at that time
    turn_owed: float = 0.0  # when a look saw a turn begin that no hook has reported; 0 for never
    question_owed: float = 0.0  # the same for a question
    sum: str = ""  # of the screen
    seen: Seen = Seen()
    interrupted: Held = Held()  # the last turn that the server itself has interrupted
    stopped: float = 0.0  # time at which a look has shown that this ended the turn
    left: float = 0.0  # time at which a look has shown that the tool had ended, after all its earlier reports
    has_left: bool = False  # the last look has shown that the tool of this start had ended
    held: Held = Held()  # the last turn after which the queue waits for a person
    shows_old: bool = False  # the interruption on the screen is from an earlier run, whose conversation goes on

    def held_by(self, agent: Agent, now: float) -> Held:
        """The hold on the queue after a turn that did not end by itself; `now` is when this is noticed."""
        known = self.held, self.interrupted
        return next((one for one in known if one.turn == agent.turn), Held(agent.turn, now))


class Why(NamedTuple):
    """The evidence for a state."""

    rule: str
    source: str
    lines: tuple[str, ...]
    at: float


class Decision(NamedTuple):
    """The answer of `decide`. `detail` is a text that is too long for the agent, such as a plan."""

    agent: Agent
    why: Why
    detail: str = ""
    past: Past = Past()  # for the next decision


@dataclass(frozen=True)
class Said:
    """The state by the hooks of a tool alone, in this run."""

    state: str = ""  # "" before any event
    reason: str = ""
    text: str = ""
    options: tuple[str, ...] = ()
    since: float = 0.0  # of this state and reason
    at: float = 0.0  # of the last event that counted
    event: str = ""  # its name
    detail: str = ""
    background: int = 0  # tasks that continue after the turn
    tries: int = 0  # attempts that have failed in a row
    turn: int = 0  # counts the turns whose beginning was reported
    again: int = 0  # counts the ends that were reported after an end
    question: int = 0  # counts the questions that were reported
    key: str = ""  # of the last event and its data
    ids: tuple[str, ...] = ()  # the tool's ids for its last turns, the newest one last; not all tools report any
    prompt: str = ""  # the last reported one, as far as the hook keeps it
    agent: str = ""  # the sub-agent that asks, by the tool's name for it
    requests: tuple[str, ...] = ()  # texts of permissions asked for in a row: sub-agents may ask at the same time
    breaks_off: bool = False  # the event has ended a turn amid
    lacks_begin: bool = False  # the event has ended a turn whose begin was not reported
    begun: float = 0.0  # time of the last report of a begin; 0 for none
    overtaken: Said | None = None  # the state before a report of the tool's start that came right after a begin

    def forgotten(self) -> Said:
        """The state of a tool that was restarted and has reported nothing; the numbers continue."""
        return Said(turn=self.turn, again=self.again, question=self.question)


@dataclass(frozen=True)
class Facts:
    """All facts about a session's tool at one moment."""

    status: str = "running"  # of the session
    tool: str = ""
    started: float = 0.0  # the start of this run
    followed: float = 0.0  # since when this server has followed the run, which is once its start is complete
    now: float = 0.0  # time of the look
    lines: tuple[str, ...] = ()  # the last lines of the screen that are not empty
    has_screen: bool = False
    title: str = ""  # of the terminal, as the tool sets it
    below: int | None = None  # lines below the cursor without empty ones; None for a hidden cursor
    is_alive: bool = True  # the tool's process
    exit_code: int | None = None  # of the tool, once it has ended
    ended: float = 0.0  # time of that; while it runs, the time of its start
    is_stopping: bool = False  # a stop of the session has ended the tool
    runs_again: bool = False  # a person has started the tool from the shell that it had left
    was_again: bool = False  # and that run has ended, too
    again_code: int | None = None  # its exit code, if the shell has told it
    moved: float = 0.0  # time of the last change of screen or events, counters of time aside, or of use of the CPU
    is_measured: bool = True  # False if nobody knows yet whether the CPU is busy
    sum: str = ""  # the same for an unchanged screen (counters of time aside)
    steady: float = 0.0  # since when the clock has run without a jump; 0 for long
    said: Said = Said()
    can_ring: bool = True  # the container can make the server look
    rules: ToolRules | None = None  # of the user's own tool; else those of the table
    looked: bool = True  # False: nobody has looked into the container yet


def failure_reason(*texts: str) -> str:
    """Our reason for an error that a tool names."""
    text = " ".join(texts)
    return next((reason for reason, pattern in FAILURES if re.search(pattern, text, re.IGNORECASE)), "other")


# -- Hooks


class Event(NamedTuple):
    """One line that a hook has written."""

    at: float
    name: str
    data: Mapping[str, Any]


def parse_event(line: bytes, now: float, skew: float = 0.0) -> Event | None:
    """Read a line of a hook, whose clock is behind ours by `skew` seconds; None for anything else.

    No event is from the future, nor from before 1970, whatever time a container claims.
    """
    text = line.decode("utf-8", "replace")
    begin = re.match(r'\{"at":(\d{1,12}(?:\.\d{1,9})?),"event":"([\w.-]{1,60})"', text)
    if begin is None:
        return None
    try:
        data = json.loads(text, parse_int=str)["data"]  # the digits of a number may have no end
    except (ValueError, KeyError, TypeError, RecursionError):  # a hook may get something that is not JSON
        data = None
    at = max(0.0, min(float(begin[1]) + skew, now))
    return Event(at, begin[2], data if isinstance(data, dict) else {})


def listen(tool: str, said: Said, event: Event) -> Said:
    """The state by the hooks after one more event. An event that is not in the table changes nothing."""
    rules = RULES.get(tool)
    hook = rules.hooks.get(event.name) if rules else None
    if rules is None or hook is None:
        return said
    new = MEANINGS[hook.function](hook, said, event.data) if hook.function else Said(hook.state, hook.reason)
    if new is None or not new.state:
        return said
    id = clean(event.data.get("prompt_id"), 80)
    if comes_late(rules, said, new, event.name, id):
        return said
    if event.name in rules.begins_turn and is_of_the_last_turn(rules, said, event):
        return replace(said, lacks_begin=False)
    key = event_key(event)
    is_repeated = key == said.key and abs(event.at - said.at) < REPEATED
    turn = said.turn
    again = said.again
    question = said.question
    lacks_begin = said.lacks_begin if is_repeated else new.state in ("done", "failed") and said.state in ("", *REST)
    if not is_repeated:
        turn += begins_turn(rules, said, new, event.name, id)
        again += new.state in ("done", "failed") and said.state in ("done", "failed")
        question += new.state == "waiting"
    is_same = (turn, again, question) == (said.turn, said.again, said.question)
    goes_on = is_same and (new.state, new.reason) == (said.state, said.reason)
    ids = said.ids if not id or id in said.ids else (*said.ids, id)[-4:]
    is_request = (new.state, new.reason) == ("waiting", "permission")
    earlier = [text for text in said.requests if text != new.text]
    prompt = prompt_of(event) if event.name in rules.begins_turn else said.prompt
    return replace(
        new,
        since=said.since if goes_on else event.at,
        at=event.at,
        event=event.name,
        turn=turn,
        again=again,
        question=question,
        key=key,
        ids=ids,
        prompt=prompt,
        begun=event.at if event.name in rules.begins_turn else said.begun,
        lacks_begin=lacks_begin,
        overtaken=replace(said, overtaken=None) if is_start_behind(said, event) else None,
        requests=(*earlier[1 - REQUESTS :], new.text) if is_request else (),
    )


def comes_late(rules: ToolRules, said: Said, new: Said, name: str, id: str) -> bool:
    """True if an event is out of date: hooks run beside the tool, and one may overtake another."""
    if name in rules.answers:
        return said.state in REST
    is_known = id in said.ids
    is_last = said.ids[-1:] == (id,)
    if name in rules.begins_turn:
        is_asked = said.state == "waiting" and said.reason in AMID  # nobody gives a prompt while a question is open
        return is_known and (said.state in REST or is_asked or not is_last)
    return is_known and not is_last and new.state in ("done", "failed")


def is_start_behind(said: Said, event: Event) -> bool:
    """True if the tool's start is reported right after a prompt, which may be of that run: `decide` knows the runs."""
    is_start = event.name == "SessionStart" and event.data.get("source") in ("startup", "resume")
    return is_start and bool(said.begun) and abs(event.at - said.begun) < LATE


def is_of_the_last_turn(rules: ToolRules, said: Said, event: Event) -> bool:
    """True if a begin belongs to the turn whose end was reported before it."""
    return not rules.numbers_turns and said.lacks_begin and abs(event.at - said.at) < LATE


def begins_turn(rules: ToolRules, said: Said, new: Said, name: str, id: str) -> bool:
    """True if an event reports that another turn has begun."""
    if name in rules.begins_turn:
        return not id or said.ids[-1:] != (id,)  # else it was typed amid the turn (seen with Claude Code 2.1.332)
    is_new = bool(id) and id not in said.ids  # its question has overtaken its prompt
    is_amid = new.state == "working" or (new.state == "waiting" and is_new)
    return is_amid and said.state in ("", *REST)


def prompt_of(event: Event) -> str:
    """The prompt that an event reports; "" for a prompt that the tool gave itself, which no screen shows."""
    text = clean(event.data.get("prompt"))
    return "" if text.startswith("<task-notification>") else text


def event_key(event: Event) -> str:
    """The key of an event, equal for an event that is reported twice."""
    words = json.dumps([event.name, event.data], sort_keys=True, default=str)
    return hashlib.blake2s(words.encode("utf-8", "replace"), digest_size=8).hexdigest()


def after_session_start(hook: Hook, said: Said, data: Mapping[str, Any]) -> Said | None:
    """A session that begins waits for a prompt; one that was compacted continues its work.

    A person who lets Claude Code forget a conversation during a turn has interrupted it; no other event reports that.
    One that has failed may not have been looked at.
    """
    if data.get("source") == "compact":
        return None
    return Said(hook.state, breaks_off=data.get("source") == "clear" and said.state not in ("", "idle", "done"))


def after_permission(hook: Hook, said: Said, data: Mapping[str, Any]) -> Said:
    """A person is asked: about a choice, a plan, or whether a tool may run."""
    name = clean(data.get("tool_name"), 80)
    given = data.get("tool_input")
    words = given if isinstance(given, dict) else {}
    if name == "AskUserQuestion":
        return after_question(hook, said, words)
    if name in ("ExitPlanMode", "exit_plan_mode"):
        plan = clean_block(words.get("plan") or words.get("planContent") or words.get("summary"))
        return Said("waiting", "plan", clean(plan), detail=plan)
    about = next((words[key] for key in ("command", "file_path", "path", "url", "description") if words.get(key)), "")
    text = clean(f"{name}: {clean(about)}" if about else name)
    return Said(hook.state, hook.reason, text, agent=clean(data.get("agent_id"), 80))


def after_question(_hook: Hook, _said: Said, data: Mapping[str, Any]) -> Said:
    """A person is asked to choose."""
    text, options = question_of(data)
    return Said("waiting", "question", text, options)


def after_opencode_question(_hook: Hook, _said: Said, data: Mapping[str, Any]) -> Said:
    """A person is asked to choose, or about a plan (seen with opencode 1.18.34)."""
    text, options = question_of(data)
    is_plan = re.match(r"Plan at \S.* is complete\.", text) is not None
    return Said("waiting", "plan" if is_plan else "question", text, options)


def question_of(words: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The text and the options of a question; for several questions, the first one's options."""
    asked = words.get("questions")
    questions = [one for one in asked if isinstance(one, dict)] if isinstance(asked, list) else [words]
    first: Mapping[str, Any] = questions[0] if questions else {}
    given = first.get("options") or first.get("choices") or enumerated(first.get("requestedSchema"))
    choices = given if isinstance(given, list) else []
    labels = [one.get("label") if isinstance(one, dict) else one for one in choices]
    more = f" (1 of {len(questions)} questions)" if len(questions) > 1 else ""
    text = clean(first.get("question") or first.get("message"), TEXT_LIMIT - len(more)) + more
    return text, tuple(filter(None, (clean(label, OPTION_LIMIT) for label in labels[:OPTIONS])))


def enumerated(schema: object) -> object:
    """The choices of the first field of a form (JSON schema) that has some."""
    fields = schema.get("properties") if isinstance(schema, dict) else None
    found = (one.get("enum") for one in fields.values() if isinstance(one, dict)) if isinstance(fields, dict) else ()
    return next((choices for choices in found if choices), None)


def after_notification(_hook: Hook, said: Said, data: Mapping[str, Any]) -> Said | None:
    """A notification reports that the tool waits, if nothing else has reported it."""
    kinds = {
        "permission_prompt": "permission",
        "elicitation_dialog": "question",
        "elicitation_url_dialog": "question",
        "agent_needs_input": "dialog",
    }
    reason = kinds.get(str(data.get("notification_type")))
    if reason is None or said.state == "waiting":
        return None
    return Said("waiting", reason, clean(data.get("message")))


def after_message(hook: Hook, said: Said, data: Mapping[str, Any]) -> Said:
    """The state of the table, with the event's message."""
    return Said(hook.state, hook.reason, clean(data.get("message")))


def after_stop(hook: Hook, said: Said, data: Mapping[str, Any]) -> Said | None:
    """A turn is over, except for work in the background.

    A background agent may have asked before this end is reported (10 ms before, seen with Claude Code 2.1.332). It
    still waits then; if it was answered, the screen shows that.
    """
    given = data.get("background_tasks")
    last = clean(data.get("last_assistant_message"))
    tasks = given if isinstance(given, list) else []
    ids = [clean(task.get("id"), 80) for task in tasks if isinstance(task, dict)]
    if said.state == "waiting" and said.agent and said.agent in ids:
        return None
    return Said(hook.state, text=last, background=len(tasks))


def after_failure(hook: Hook, said: Said, data: Mapping[str, Any]) -> Said:
    """A turn has failed."""
    error = clean(data.get("error"), 200)
    details = clean(data.get("error_details"))
    message = clean(data.get("last_assistant_message") or data.get("message"))
    reason = failure_reason(message, details) if message or details else "other"
    return Said(hook.state, reason if reason != "other" else failure_reason(error), message or details or error)


def after_error(hook: Hook, said: Said, data: Mapping[str, Any]) -> Said | None:
    """An error ended a turn, unless a person wanted it, or the tool may try again.

    Copilot CLI calls each error recoverable. If it does not try again, its screen shows that.
    """
    error = data.get("error")
    words = error if isinstance(error, dict) else {"message": error}
    inner = words.get("data")
    message = error_text(inner.get("message") if isinstance(inner, dict) else words.get("message"))
    if data.get("recoverable") is True:
        text = clean(f"{message} (attempt {said.tries + 1} failed)")
        return Said("working", "retry", text, tries=said.tries + 1)
    if words.get("name") == "MessageAbortedError":
        return Said("idle", "interrupted")
    status = clean(inner.get("statusCode"), 9) if isinstance(inner, dict) else ""
    return Said(hook.state, failure_reason(message, clean(words.get("name")), status), message)


def error_text(message: object) -> str:
    """The words of an error; some tools pass on the API's own JSON."""
    text = clean(message)
    if text.startswith("{"):
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
            if isinstance(found, dict) and "message" in found:
                return clean(f"{clean(found.get('type'), 80)}: {clean(found['message'])}")
    return text


def after_status(_hook: Hook, said: Said, data: Mapping[str, Any]) -> Said | None:
    """opencode's own state: `busy`, `retry` or `idle`."""
    status = data.get("status")
    words = status if isinstance(status, dict) else {}
    if words.get("type") == "retry":
        attempt = clean(words.get("attempt"), 9)
        return Said("working", "retry", clean(f"{clean(words.get('message'))} (attempt {attempt} failed)"))
    if words.get("type") == "busy":
        return None if said.state == "waiting" else Said("working")
    return after_rest(Hook("done"), said, data) if words.get("type") == "idle" else None


def after_rest(hook: Hook, said: Said, _data: Mapping[str, Any]) -> Said | None:
    """Work is over; if it did not end well, that was reported before. Only a person ends a wait for a retry."""
    if said.reason == "retry":
        return Said("idle", "interrupted")
    return Said(hook.state) if said.state in ("working", "waiting") else None


def after_opencode_permission(hook: Hook, _said: Said, data: Mapping[str, Any]) -> Said:
    """opencode asks whether it may do something."""
    patterns = data.get("patterns")
    about = clean(" ".join(map(str, patterns[:5]))) if isinstance(patterns, list) else clean(data.get("title"))
    return Said(hook.state, hook.reason, clean(f"{clean(data.get('permission') or data.get('type'), 80)}: {about}"))


MEANINGS = {
    "session_start": after_session_start,
    "permission": after_permission,
    "notification": after_notification,
    "message": after_message,
    "stop": after_stop,
    "failure": after_failure,
    "opencode_question": after_opencode_question,
    "error": after_error,
    "status": after_status,
    "rest": after_rest,
    "opencode_permission": after_opencode_permission,
}


# -- The screen

# guest/tool.sh writes it behind the name of the tool, at the beginning of a line. The lines above are from an earlier
# run of the tool. When a tool shows a command or an answer, a sign or blanks come before it.
LEFT = r" has ended \(exit code \d+\)\. This is a shell in its container\."


class Shown(NamedTuple):
    """The rule that matches a screen, and its matches."""

    rule: Rule
    text: str
    menu: Menu  # of a dialog
    background: str


def read_screen(facts: Facts) -> Shown | None:
    """The first rule of a tool that matches the screen, None without one."""
    rules = rules_of(facts)
    if rules is None or not facts.has_screen:
        return None
    screen = screen_of(facts)
    for rule in rules.screen:
        part = [facts.title] if rule.part == "title" else [*getattr(screen, rule.part)[-rule.last :]]
        if not part:
            continue
        found = search(rule.pattern, part)
        if found is None and rule.state == "waiting" and r"\n" not in rule.pattern:
            found = search(rule.pattern, [" ".join(map(str.strip, part))])  # a narrow screen wraps a line at a blank
        if found is None:
            continue
        text = found[0] if rule.state == "failed" else ""
        if rule.group:
            text = found["text"] or ""
        if rules.frame:
            text = re.sub(rules.frame, "", text, flags=re.MULTILINE)
        text = clean(text)
        menu = Menu()
        if rule.state == "waiting":
            lines = getattr(screen, rule.part)
            menu = menu_shown(rule, found, lines)
            is_own = rules.layout is None and menu.first is None  # no border tells where its text begins
            text = text or (clean(lines_of(found)) if is_own else dialog_text(rules, lines[: menu.first]))
        running = search(rules.background, screen.footer) if rules.background else None
        return Shown(rule, text, menu, clean(running["text"]) if running else "")
    return None


def screen_of(facts: Facts) -> Screen:
    """The parts of a tool's screen. For a tool without a layout, the user's own rules decide if it is a dialog."""
    rules = rules_of(facts)
    left = re.escape(facts.tool) + LEFT
    begin = next((at for at in range(len(facts.lines), 0, -1) if re.fullmatch(left, facts.lines[at - 1])), 0)
    lines = facts.lines[begin:]
    if rules is None or rules.layout is None:
        return Screen(dialog=lines)
    return cut(rules.layout, lines, facts.below)


def menu_shown(rule: Rule, found: re.Match[str], lines: Sequence[str]) -> Menu:
    """The choices of a dialog whose rule has matched its screen."""
    groups = found.groupdict()
    if rule.is_panel:
        menu = numbered_menu(found[0].split("\n"))
        return Menu() if any("│" in label for label in menu.labels) else menu  # something is beside them
    if "across" in groups:
        return across_menu(groups["across"]) if groups["across"] else Menu()
    return lettered_menu(groups["letters"]) if "letters" in groups else read_menu(lines)


def search(pattern: str, lines: Sequence[str]) -> re.Match[str] | None:
    """The first match of a pattern in the lines."""
    return re.search(pattern, "\n".join(lines), re.MULTILINE)


def lines_of(found: re.Match[str]) -> str:
    """The whole lines that hold a match."""
    begin = found.string.rfind("\n", 0, found.start()) + 1
    end = found.string.find("\n", found.end())
    return found.string[begin : end if end >= 0 else None]


def dialog_text(rules: ToolRules, lines: Sequence[str]) -> str:
    """The text of a dialog: the lines between its upper border and its choices, as far as the screen has them."""
    text: list[str] = []
    for line in reversed(lines):
        if rules.notice and re.match(rules.notice, line):
            break
        text.insert(0, line)
    return clean(" ".join(text))


# -- All together


def decide(facts: Facts, past: Past = Past()) -> Decision:
    """Decide the state of a tool, with the evidence, by the facts and the past decisions.

    While state, reason and numbers stay, so does `since`. A turn whose end a person has seen is `idle`.
    """
    is_missed = facts.runs_again and not past.has_left  # it has ended and was started again between two looks
    if is_missed and past.agent is not None and past.run == facts.started:
        past = decide(replace(facts, runs_again=False), past).past
    # `ended` is in whole seconds, and it is the first end: a person may have started and ended the tool since.
    if facts.runs_again and facts.said.at < max(facts.ended + 1, past.left):
        facts = replace(facts, said=facts.said.forgotten())  # reported before a person started it again
    facts = replace(facts, said=without_late_start(facts, past))
    before = past.agent if past.run == facts.started else None
    if before is not None and facts.status == "running" and not facts.looked and before.state != "none":
        return decided(facts, past, Decision(before, Why("not-looked-yet", "process", (), facts.now)))
    decision = judge(facts, before, past.stopped)
    agent = decision.agent
    is_first = before is not None and before.state in ("starting", "ended")
    shows_old = agent.reason == "interrupted" and agent.source == "screen" and (is_first or past.shows_old)
    if shows_old:
        decision = decision._replace(agent=replace(agent, reason=""))
    return decided(facts, replace(past, shows_old=shows_old), decision)


def without_late_start(facts: Facts, past: Past) -> Said:
    """The reports without that of the tool's start, if the tool has begun a turn since it was started."""
    earlier = facts.said.overtaken
    begun = max(facts.started, past.left, facts.ended + 1 if facts.runs_again else 0.0)
    return earlier if earlier is not None and earlier.begun >= begun else facts.said


def decided(facts: Facts, past: Past, decision: Decision) -> Decision:
    """A decision with its numbers, compared with those that a person has seen."""
    before = past.agent if past.run == facts.started else None
    agent, past = count(facts, past, decision.agent)
    is_stopped = past.interrupted.turn == agent.turn and past.stopped > past.interrupted.at > facts.said.at
    if agent.state == "done" and is_stopped:
        agent = replace(agent, state="idle", reason="interrupted", text="")  # of a turn that no hook has reported
        past = replace(past, held=past.held_by(agent, facts.now))
    numbers = agent.state, agent.reason, agent.turn, agent.question
    if before is not None and before.since and numbers == (before.state, before.reason, before.turn, before.question):
        agent = replace(agent, since=before.since)
    if facts.looked and facts.status == "running":
        past = replace(past, has_left=facts.exit_code is not None)
    if agent.state == "ended" and facts.said.at >= past.left:
        past = replace(past, left=facts.now)
    seen = agent.seen or past.seen.has(agent)
    if agent.state == "done" and seen:
        was_idle = before is not None and (before.state, before.reason, before.turn) == ("idle", "", agent.turn)
        agent = replace(agent, state="idle", since=before.since if before is not None and was_idle else past.seen.at)
    agent = replace(agent, seen=seen)
    return decision._replace(agent=agent, past=replace(past, agent=agent))


def count(facts: Facts, past: Past, agent: Agent) -> tuple[Agent, Past]:
    """Number a state: count the turns and questions that have begun since the last decision.

    Hooks and looks report the same turn in any order. If a look has counted a turn, its hook does not count it again.
    """
    before = past.agent or Agent("none")
    said = facts.said
    is_new_run = past.run != facts.started or before.state == "none"
    if is_new_run or said.turn < past.told or said.question < past.asked:
        past = replace(past, told=0, again=0, asked=0)  # the earlier reports are from another file of events
    is_there = agent.state != "none"
    runs_anew = is_there and (is_new_run or (before.state == "ended" and agent.state != "ended"))
    turns, turn_owed = begun_turns(facts, past, before, agent)
    questions, question_owed = begun_questions(facts, past, before, agent)
    agent = replace(agent, turn=before.turn + turns + runs_anew, question=before.question + questions)
    is_broken_off = before.is_amid_a_turn and agent.state in ("ended", "none", "starting")
    is_broken_off |= said.breaks_off and agent.state == "idle"
    # No look has seen the turn: the engine was out of reach.
    is_broken_off |= agent.state == "ended" and said.turn > past.told and said.state in ("working", "waiting")
    is_new_run = runs_anew and not turns
    held = held_after(past, before, agent, facts.now, is_broken_off=is_broken_off, is_new_run=is_new_run)
    return agent, replace(
        past,
        agent=agent,
        run=facts.started,
        told=said.turn,
        again=said.again,
        asked=said.question,
        turn_owed=turn_owed,
        question_owed=question_owed,
        sum=facts.sum,
        held=held,
    )


def begun_turns(facts: Facts, past: Past, before: Agent, agent: Agent) -> tuple[int, float]:
    """The turns that have begun since the last decision, and the time of one that hooks have yet to report."""
    told = facts.said.turn - past.told
    again = facts.said.again - past.again
    if agent.state == "none":
        told = 0
        again = 0
    is_still = before.state in REST and facts.sum == past.sum  # the hooks report work that was over at the last look
    is_begun = agent.state in ("working", "stuck") and before.state in REST
    owed = past.turn_owed if before.state not in REST or is_still else 0.0
    # A hook of the project may make the tool continue after an end, which only the screen shows.
    return numbered(told + (0 if is_still else again), owed, facts.now, is_begun=is_begun)


def begun_questions(facts: Facts, past: Past, before: Agent, agent: Agent) -> tuple[int, float]:
    """As `begun_turns`, for questions."""
    asked = facts.said.question - past.asked
    is_same = (agent.state, agent.reason) == (before.state, before.reason) and not is_another_question(before, agent)
    is_earlier = agent.source == "hook" and agent.text == before.text and agent.text in facts.said.requests[:-1]
    if agent.state == "none" or (is_same and is_earlier):
        asked = 0  # the screen shows an earlier request than the one that was just reported
    needs = agent.asks and not agent.seen and not is_same
    return numbered(asked, past.question_owed, facts.now, is_begun=needs)


def is_another_question(before: Agent, agent: Agent) -> bool:
    """True if the screen shows the next one of several questions, which no hook reports.

    Permissions have the same choices. On a narrower terminal, the text of one may be cut elsewhere. If hooks have
    reported several requests, the screen shows one after the other.
    """
    if agent.source != "screen":
        both = {(one.state, one.reason, one.source) for one in (before, agent)}
        return both == {("waiting", "permission", "hook")} and before.text not in ("", agent.text)
    if before.options and agent.options and agent.text != before.text and agent.options != before.options:
        return True
    earlier = signs(before.text)
    now = signs(agent.text)
    is_cut = earlier.startswith(now) or now.startswith(earlier)  # a line that is typed behind it may belong to it, too
    takes_words = agent.reason == "question" and not (before.options or agent.options)
    return (agent.reason == "permission" or takes_words) and before.source == "screen" and not is_cut


def held_after(past: Past, before: Agent, agent: Agent, now: float, *, is_broken_off: bool, is_new_run: bool) -> Held:
    """The hold on the queue after one more decision."""
    if agent.holds_queue or is_broken_off:
        return past.held_by(agent, now)
    if agent.state in ("working", "stuck"):
        return Held()  # also the turn of a session that was frozen, which continues
    if is_new_run and past.held.turn == before.turn:
        return replace(past.held, turn=agent.turn)  # a run that begins is counted, but has reported nothing yet
    return past.held


def numbered(told: int, owed: float, now: float, *, is_begun: bool) -> tuple[int, float]:
    """The number that have begun, by hooks (`told`) and a look; and the time since which a hook's report is missing."""
    is_owed = bool(owed) and abs(now - owed) < LATE
    new = told - 1 if told and is_owed else told
    if is_begun and not new:
        return 1, 0.0 if told else now
    return new, 0.0 if told or not is_owed else owed


def rules_of(facts: Facts) -> ToolRules | None:
    """The rules for a tool, None for one without."""
    return facts.rules or RULES.get(facts.tool)


def judge(facts: Facts, before: Agent | None, stopped: float = 0.0) -> Decision:
    """The state by process, screen and hooks, in the order in which they correct each other.

    `stopped` is the time of the last look that showed that an interruption has ended a turn.
    """
    rules = rules_of(facts)
    by_facts = judge_processes(facts, rules, before)
    if by_facts is not None or rules is None:
        return by_facts or by_process(facts, Agent("unknown", since=facts.started), "no-rules")
    shown = read_screen(facts)
    said = facts.said
    if shown is not None and shown.rule.state == "waiting":
        return by_screen_waiting(facts, shown)
    lacks_work = shown is not None and shown.rule.state == "ready" and not shown.rule.reason
    if shown is not None and shown.rule.reason == "over" and is_over_before(facts, before):
        lacks_work = not is_put_back(facts)
    if lacks_work and before is not None and before.source == "person" and abs(facts.now - before.since) < LAGGING:
        return Decision(before, Why("prompt-typed", before.source, facts.lines, facts.now))  # it may not have begun yet
    lacks_question = shown is not None and shown.rule.state == "working" and said.state == "waiting"
    may_lag = LAGGING if lacks_question or (lacks_work and said.state in ("working", "waiting")) else DRAWING
    if lacks_work and said.state == "working" and lacks_prompt(facts) and not has_interrupted(facts, before):
        may_lag = UNDRAWN
    # The screen shows the result of the last event.
    is_drawn = abs(facts.now - said.at) >= may_lag or stopped > said.at
    # The tool reports the end before a hook of the project may make it continue. The turn is over once the screen shows
    # it too. It may be interrupted then.
    goes_on = said.state == "done" and shown is not None and shown.rule.state == "working"
    goes_on |= said.state == "done" and shown is not None and shown.rule.reason == "interrupted" and works_on(before)
    # A look has seen work that no hook has reported.
    is_unheard = said.state == "idle" and before is not None and before.source == "screen" and shown is not None
    is_unheard = is_unheard and before is not None and before.state in ("working", "stuck", "done")
    is_unheard = is_unheard and before is not None and said.at <= before.since
    is_claimed = shown is not None and shown.rule.reason == "interrupted" and is_only_said(facts, before)
    is_claimed = is_claimed and not rules.signs_end
    is_borne_out = shown is None or is_claimed or (agrees(rules, said, shown) and not is_unheard)
    if said.state and (is_borne_out or not (is_drawn or goes_on)):
        return by_hook(facts, shown, before)
    return by_screen(facts, shown, before) if shown is not None else by_nothing(facts, before)


def by_nothing(facts: Facts, before: Agent | None) -> Decision:
    """A decision if neither hook nor screen reports anything: a new tool starts, an old one is unknown."""
    begun = begin_of(facts, before)
    is_new = abs(facts.now - begun) < START_WITHIN
    agent = Agent("starting", since=begun) if is_new else Agent("unknown", since=begun, source="screen")
    return Decision(agent, Why("nothing-known", agent.source, facts.lines, facts.now))


def begin_of(facts: Facts, before: Agent | None) -> float:
    """The start of the tool, if it is known."""
    if not facts.runs_again:
        return max(facts.started, facts.ended)  # `run` is written at both
    return before.since if before is not None and before.state in ("starting", "unknown") else facts.now


def judge_processes(facts: Facts, rules: ToolRules | None, before: Agent | None) -> Decision | None:
    """The state by the processes alone, None if they do not decide it."""
    if facts.status != "running":
        state = "starting" if facts.status == "starting" else "none"
        return by_process(facts, Agent(state, since=facts.now), "session-not-running")
    if not facts.looked:
        return by_process(facts, Agent("starting" if rules else "unknown", since=facts.started), "not-looked-yet")
    if facts.runs_again or (facts.is_alive and facts.exit_code is None):
        return None
    is_old = bool(facts.ended) and facts.ended < facts.started  # the known state of the tool is from the last run
    # guest/tool.sh notes its process before the tool is a child of it, and the exit code of a tool that ends. On a busy
    # machine it begins long after the container has.
    begun = max(facts.started, facts.followed, facts.ended if facts.exit_code is None else 0.0)
    is_early = (is_old or facts.exit_code is None) and not (before is not None and before.state == "ended")
    if is_early and abs(facts.now - begun) < RESUMING:
        return by_process(facts, Agent("starting" if rules else "unknown", since=facts.started), "tool-not-started-yet")
    if facts.exit_code is not None:
        return by_process(facts, ended(facts, before), "tool-ended")
    gone = Agent("ended", "crashed", "its process is gone", since=facts.ended or facts.moved)
    return by_process(facts, gone, "tool-gone")


def agrees(rules: ToolRules, said: Said, shown: Shown) -> bool:
    """True if the screen confirms the last report of the hooks, whose words are then the better ones."""
    if shown.rule.state == "working":
        return said.state == "working" and not shown.rule.reason
    if rules.signs_end and said.state == "done" and shown.rule.state == "failed":
        return False
    is_broken_off = shown.rule.reason == "interrupted" and said.reason != "interrupted"
    return said.state in ("done", "idle", "failed") and not is_broken_off


def by_process(facts: Facts, agent: Agent, rule: str) -> Decision:
    """A decision by the processes."""
    code = last_code(facts)
    lines = (*facts.lines[-6:], *([] if code is None else [f"exit code {code}"]))
    return Decision(agent, Why(rule, "process", lines, facts.now))


def ended(facts: Facts, before: Agent | None) -> Agent:
    """A tool has ended by itself, by Ctrl-C, by a stop of the session or by a crash.

    Not every shell tells the exit code of a tool that a person had started again. Then only an end amid a turn counts
    as a crash.
    """
    code = last_code(facts)
    if code is None:
        is_crash = before is not None and (before.is_amid_a_turn or before.reason == "crashed")
        return Agent("ended", "crashed" if is_crash else "", "a person had started it again", since=facts.now)
    is_crash = code not in NO_CRASH and not facts.is_stopping
    return Agent("ended", "crashed" if is_crash else "", f"exit code {code}", since=facts.ended)


def last_code(facts: Facts) -> int | None:
    """The exit code of the last run of a tool that has ended, if it is known."""
    return facts.again_code if facts.was_again else facts.exit_code


def by_hook(facts: Facts, shown: Shown | None, before: Agent | None) -> Decision:
    """A decision by the last event of the hooks."""
    said = facts.said
    lines = (f"{said.event}: {said.text}" if said.text else said.event,)
    agent = Agent(said.state, said.reason, said.text, said.options, said.since, "hook")
    if said.tries and facts.moved > said.at + 2 * DRAWING:  # no hook reports that the next try succeeded
        agent = replace(agent, reason="", text="")
    if said.background:
        running = shown.background if shown and shown.background else str(said.background)
        agent = replace(agent, text=clean(f"{said.text} ({running} in the background)"))
    decision = Decision(agent, Why(f"{facts.tool}/{said.event}", "hook", lines, said.at), said.detail)
    return unless_stuck(facts, decision, before)


def by_screen_waiting(facts: Facts, shown: Shown) -> Decision:
    """A dialog is on the screen. If the hooks reported it, theirs are the text and the options."""
    said = facts.said
    rule = shown.rule
    since = max(said.at, min(facts.moved, facts.now)) or facts.now
    # A panel was just opened by a person, so it counts as seen, and no device is called.
    agent = Agent("waiting", rule.reason, shown.text, shown.menu.labels, since, "screen", seen=rule.is_panel)
    why = Why(f"{facts.tool}/{rule.name}", "screen", facts.lines, facts.now)
    is_told = (said.state, said.reason) == ("waiting", rule.reason) and are_told(said, shown.menu)
    text = request_shown(said, screen_of(facts).dialog) if len(said.requests) > 1 else said.text
    if not is_told or text is None or rule.name == "review":
        return Decision(agent, why)
    told = replace(agent, text=text or shown.text, since=said.since, source="hook")
    told = replace(told, options=said.options or shown.menu.labels)
    return Decision(told, why, said.detail)


def request_shown(said: Said, dialog: Sequence[str]) -> str | None:
    """The one of several requests that a dialog shows: a tool shows one after the other. None if it is none of them."""
    shown = signs("".join(dialog))
    found = [text for text in said.requests if signs(text.partition(": ")[2])[:REQUEST_SIGNS] in shown]
    return max(found, key=len, default=None)


def are_told(said: Said, menu: Menu) -> bool:
    """True if the choices on a screen are those that a hook has reported, as far as both are known.

    For several questions, a hook reports the first one's choices. A tool adds choices of its own, and breaks lines.
    """
    pairs = zip(map(signs, said.options), (signs(TICKS.sub("", label)) for label in menu.labels))
    return all(told.startswith(shown) or shown.startswith(told) for told, shown in pairs)


def by_screen(facts: Facts, shown: Shown, before: Agent | None) -> Decision:
    """A decision by the screen, compared with the last report of the hooks if there is one."""
    rule = shown.rule
    said = facts.said
    since = max(said.at, min(facts.moved, facts.now)) or facts.now
    lines = (f"title: {facts.title}",) if rule.part == "title" else facts.lines
    why = Why(f"{facts.tool}/{rule.name}", "screen", lines, facts.now)
    state = rule.state
    reason = rule.reason
    text = shown.text
    if state == "failed":
        reason = reason or failure_reason(text)
    elif state == "ready":
        # The hooks report the end of a turn. A turn without it was interrupted, unless the screen shows otherwise.
        was_told = said.state in ("working", "waiting")
        was_busy = was_told or (before is not None and (before.is_amid_a_turn or before.state == "done"))
        if not reason and not shows_end(rules_of(facts)):
            reason = "over"  # else it would show an interruption or an error
        if reason == "over" and was_told and is_over_before(facts, before):
            reason = ""
        if not reason and not was_told and before is not None and before.source == "screen" and is_unanswered(facts):
            reason = "interrupted"
        if was_busy and (reason == "over" or (not reason and not was_told)):
            state = "done"
            reason = ""
        else:
            state = "idle"
            reason = "interrupted" if reason == "interrupted" or (was_told and not reason) else ""
            since = since if said.state or reason or facts.runs_again else facts.started or since
    decision = Decision(Agent(state, reason, text, (), since, "screen"), why)
    return unless_stuck(facts, decision, before)


def shows_end(rules: ToolRules | None) -> bool:
    """True if a tool's screen shows the end of a turn, or nothing of an interruption either."""
    reasons = {rule.reason for rule in rules.screen} if rules is not None else set()
    return "over" in reasons or "interrupted" not in reasons


def is_over_before(facts: Facts, before: Agent | None) -> bool:
    """True if a screen shows the end of an earlier turn than the one that the hooks have reported.

    A tool that is interrupted before it has written anything may move the prompt from its screen back into its
    input (seen with Claude Code 2.1.332, while it tried again).
    """
    return has_interrupted(facts, before) or is_put_back(facts) or lacks_prompt(facts)


def has_interrupted(facts: Facts, before: Agent | None) -> bool:
    """True if the last turn was seen to be interrupted; a person may have changed the input since."""
    return before is not None and before.reason == "interrupted" and before.since >= facts.said.at


def is_only_said(facts: Facts, before: Agent | None) -> bool:
    """True if an interruption on a screen is only text that the agent wrote at the end of its turn.

    An answer may look like one (seen with Claude Code 2.1.332), and an interrupted tool reports no end. After the end,
    an interruption counts only if a look has seen that the tool works on.
    """
    return facts.said.state == "done" and not works_on(before) and not has_interrupted(facts, before)


def works_on(before: Agent | None) -> bool:
    """True if the last look has seen the tool work, regardless of its hooks."""
    return before is not None and before.is_amid_a_turn and before.source == "screen"


def lacks_prompt(facts: Facts) -> bool:
    """True if the screen shows an earlier prompt as the last one, and nowhere the last reported one."""
    shown = last_prompt(screen_of(facts).body)
    told = facts.said.prompt
    if not told or is_put_back(facts):
        return False
    if not shown:
        return shows_all(facts)
    return not PASTED.search(shown) and not is_prompt_told(shown, told)


def shows_all(facts: Facts) -> bool:
    """True if a screen shows the whole conversation, which only a tool with a scroll bar tells: it has none then."""
    rules = rules_of(facts)
    bar = rules.layout.bar if rules is not None and rules.layout is not None else ""
    return bool(bar) and len(facts.lines) < LINES and not any(line.endswith(bar) for line in facts.lines)


def is_unanswered(facts: Facts) -> bool:
    """True if a text stands in the input of a tool that shows nothing of the end of a turn, but would.

    After a turn of which no hook has told, this is its prompt, which the tool has put back.
    """
    rules = rules_of(facts)
    tells_end = rules is not None and rules.hooks and any(rule.reason == "over" for rule in rules.screen)
    return bool(tells_end) and bool("\n".join(screen_of(facts).box)[1:].strip())


def is_put_back(facts: Facts) -> bool:
    """True if the last reported prompt is in the input."""
    return is_prompt_told("\n".join(screen_of(facts).box)[1:], facts.said.prompt)


def last_prompt(lines: Sequence[str]) -> str:
    """The last prompt, as far as the screen shows it above a tool's answer; "" if it does not."""
    begin = next((at for at in range(len(lines) - 1, -1, -1) if re.match(" ?❯ ", lines[at])), len(lines))
    end = begin + 1
    while end < len(lines) and lines[end].startswith("  "):
        end += 1
    return re.sub(PROMPT_TIME, "", "\n".join(lines[begin:end])).lstrip()[1:]


def unless_stuck(facts: Facts, decision: Decision, before: Agent | None) -> Decision:
    """A decision, or `stuck` instead: the tool claims to work, and nothing has changed for minutes.

    A new server does not know yet whether the CPU is busy, so it keeps the last decision.
    """
    agent = decision.agent
    times = facts.steady, facts.moved, facts.said.at, agent.since if agent.source == "hook" else 0.0
    moved = max((at for at in times if at <= facts.now), default=0.0)
    if agent.state != "working" or agent.reason or facts.now - moved < STUCK_AFTER:
        return decision
    if not facts.is_measured and (before is None or before.state != "stuck"):
        return decision
    text = f"nothing has moved for {int(STUCK_AFTER // 60)} minutes"
    why = Why(f"{decision.why.rule}, still", "screen", facts.lines, facts.now)
    return Decision(Agent("stuck", "", text, (), moved + STUCK_AFTER, "screen"), why)
