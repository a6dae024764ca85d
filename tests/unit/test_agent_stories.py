"""Stories of a session: a person is called once for each turn that ends and each question, and never too early."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.table import table
from tests.unit.story import FATES, TOLD, World

# A word is a verb of tests/unit/story.py, a number lets so many seconds pass; what a person was called for.
STORIES = {
    "a turn": ("prompt 30 end 100", "done"),
    "two turns": ("prompt 30 end 100 prompt 30 end 100", "done done"),
    "a turn that a person has seen": ("prompt 30 end 1 look 100", ""),
    "a short turn": ("prompt 0.1 end 100", "done"),
    "a short turn behind one that was seen": ("prompt 30 end 1 look 100 prompt 0.1 end 100", "done"),
    "a Stop hook that lets Claude go on": ("prompt 60 stop 540 end-again 100", "done"),
    "one that does so, and a person interrupts it": (
        "prompt 60 enqueue stop 20 escape 100 prompt 9 end 9 end 99",
        "done",
    ),
    "one that does so thrice, and a person looks": ("prompt 60 stop 20 look stop 20 stop 30 end-again 100", "done"),
    "a server in the background": ("prompt 30 end-with-server 400", "done"),
    "one, and a person types half a line": ("prompt 30 end-with-server 2 look 10 type-half 400", ""),
    "a person types half a line while it works": ("prompt 30 type-amid 60 enqueue 60 end 20 end 100", "done"),
    "work in the background wakes it": ("prompt 30 end-with-server 100 wake 30 end 100", "done done"),
    "an agent in the background": ("prompt 30 wait-for-agent 100 enqueue wake 9 end 9 end 100", "done"),
    "a question": ("prompt 30 ask 100 answer 30 end 100", "waiting done"),
    "a question that is answered at once": ("prompt 30 ask 1 answer 60 end 100", "done"),
    "one that is over just before its call, which was put off": ("prompt 1 end 30 prompt 2 ask 30 escape 100", "done"),
    "two questions": ("prompt 30 ask 100 answer 10 ask 100 answer 10 end 100", "waiting waiting done"),
    "two questions, one behind the other": (
        "prompt 9 ask 100 answer 0.1 ask 100 answer 9 end 100",
        "waiting waiting done",
    ),
    "a question that was seen is no end that was seen": ("prompt 9 ask 1 look 20 answer 9 end 100", "done"),
    "two, the second of which comes late and before a look": (
        "prompt 9 ask 30 answer 3 late ask 200",
        "waiting waiting",
    ),
    "a failure": ("prompt 30 fail 100 prompt 30 end 100", "failed done"),
    "nothing moves": ("prompt 30 hang 400 go-on 30 end 100", "stuck done"),
    "nothing moves for less than five minutes": ("prompt 30 hang 250 go-on 30 end 100", "done"),
    "a person has seen that nothing moves": ("prompt 30 hang 303.5 look 60 go-on 30 end 100", "done"),
    "a build that writes nothing for long": ("prompt 30 build 900 built 30 end 100", "done"),
    "a new server amid such a build": ("prompt 30 build 400 restart 400 built 30 end 100", "done"),
    "the same, and something rings at once": ("prompt 30 build 400 restart 1 ring 400 built 30 end 100", "done"),
    "nothing moves, and a new server": ("prompt 30 hang 400 restart 400 go-on 30 end 100", "stuck done"),
    "a new server before five minutes are over": ("prompt 30 hang 280 restart 120 go-on 30 end 100", "stuck done"),
    "an interruption": ("prompt 30 escape 100 prompt 30 end 100", "done"),
    "one that puts the prompt back": ("prompt 30 end 100 prompt 30 take-back 100", "done"),
    "a person deletes it": ("prompt 30 end 100 prompt 30 take-back 9 delete 100 prompt 30 end 100", "done done"),
    "a queue after that": ("prompt 30 end 100 prompt 30 enqueue take-back 1 restart 99", "done"),
    "an exit": ("prompt 30 end 2 look leave 100", ""),
    "a crash at work": ("prompt 30 crash 100", "ended"),
    "a crash at rest, of a turn that was seen": ("prompt 30 end 2 look 60 crash 100", "ended"),
    "started again by its name": ("prompt 9 end 2 look leave 60 again 30 prompt 30 end 100", "done"),
    "started again at once": ("prompt 9.5 end 0.2 look leave 0.1 late again 100", ""),
    "its start is reported when a turn is over": ("leave 9 late again 3 prompt 3 end 100", "done"),
    "it is so, and a new server": ("leave 9 late again 3 prompt 3 end 3 restart 100", "done"),
    "it is reported of the next run": ("prompt 2 end 2 look leave 4 late again 100", ""),
    "it is reported amid a turn": ("leave 9 late again 3 prompt 60 end 100", "done"),
    "started again after a crash, and left": ("prompt 9 crash 100 again 30 prompt 30 end 2 look 60 leave 100", "ended"),
    "it crashes, started again after an exit": ("leave 9 again 30 prompt 30 crash 100", "ended"),
    "it crashes twice": ("prompt 30 crash 100 again 30 prompt 30 crash 100", "ended ended"),
    "it crashes twice at rest": ("crash 100 again 30 prompt 30 end 2 look 60 crash 100", "ended ended"),
    "it crashes thrice, and a new server": (
        "crash 100 again 30 prompt 9 crash 100 restart 30 again 30 prompt 9 crash 100",
        "ended ended ended",
    ),
    "a queue after two crashes": ("crash 100 again 30 prompt 30 enqueue crash 60 again 100", "ended ended"),
    "its last frame is none of the next run": ("leave 9 again 9 prompt 99 crash 99 again 30 leave 99", "ended"),
    "a queue after an interruption, and a turn that crashes while its engine is lost": (
        "prompt 9 enqueue escape 100 cut 9 prompt 9 crash 60 reach 9 again 200",
        "ended",
    ),
    "it is started again and left at once": ("crash 0.3 again 3 leave 3 look 100", ""),
    "a turn that fails while its engine is lost, and a person lets it forget": (
        "prompt 30 end 2 look 9 cut 9 prompt 9 enqueue fail 9 clear 9 reach 200",
        "",
    ),
    "the same of a turn that was seen": ("prompt 30 enqueue cut 9 fail 9 clear 9 reach 200", ""),
    "it is left twice": ("prompt 9 end 2 look leave 60 again 30 prompt 30 end 2 look 60 leave 100", ""),
    "a queue after a crash": ("prompt 30 enqueue crash 60 again 100 prompt 30 end 9 end 100", "ended done"),
    "a queue after a crash at a question": ("prompt 30 ask 9 enqueue crash 60 again 100", "waiting ended"),
    "a queue after a crash while its engine is lost, and somebody starts it again there": (
        "prompt 30 enqueue cut 9 crash 9 again 9 reach 100",
        "",
    ),
    "the hook of its begin comes late": ("late prompt 30 end 100", "done"),
    "it comes behind the end": ("late prompt 3 end 100", "done"),
    "it comes behind a question": ("prompt 9 end 9 look 9 late prompt 1 ask 100 answer 9 end 100", "done waiting done"),
    "it never comes": ("lost prompt 30 end 100", "done"),
    "the hook of its end comes late": ("prompt 30 late end 100", "done"),
    "it comes when the next turn has begun": ("prompt 30 late end 5 prompt 60 end 100", "done"),
    "it never comes, too": ("prompt 30 lost end 100", "done"),
    "it comes twice": ("prompt 30 twice end 100 prompt 30 twice end 100", "done done"),
    "each comes twice": ("twice prompt 30 twice ask 100 answer 9 twice end 100", "waiting done"),
    "no hook comes": (
        "lost prompt 30 lost end 100 lost prompt 30 lost ask 100 answer 9 lost end 100",
        "done waiting done",
    ),
    "a new server amid a turn": ("prompt 30 restart 30 end 100", "done"),
    "a new server after a turn that was told": ("prompt 30 end 100 restart 100", "done"),
    "a new server after a turn that was seen": ("prompt 30 end 2 look 9 restart 100", ""),
    "a new server before the call": ("prompt 30 end 1 restart 100", "done"),
    "a new server at a question that was told": ("prompt 30 ask 100 restart 100 answer 30 end 100", "waiting done"),
    "a new server after a crash that was told": ("prompt 30 crash 100 restart 100", "ended"),
    "the clock is set back": ("prompt 30 end 100 look set-back 100 prompt 30 end 100", "done done"),
    "it is set back amid a turn": ("prompt 30 set-back 30 end 100", "done"),
    "it is set forward amid a turn": ("prompt 30 set-forward 30 end 100", "done"),
    "a queue": ("prompt 30 enqueue enqueue end 10 end 10 end 100", "done"),
    "a prompt while a hook of the end still runs": ("prompt 30 end-slowly 1 enqueue 60 end 100", "done"),
    "that, and a new server meanwhile": ("prompt 30 end-slowly 1 enqueue restart 60 end 100", "done"),
    "the same, and a prompt right after the end": (
        "prompt 30 end-slowly 0.1 enqueue enqueue 60 end 60 end 100",
        "done",
    ),
    "a hook of the end runs, and a person looks": ("prompt 30 end-slowly 1 look 5 enqueue 60 end 100", "done"),
    "a queue after an interruption": ("prompt 30 enqueue escape 100 prompt 30 end 10 end 100", "done"),
    "a queue after one, and a person lets it forget": ("prompt 30 enqueue escape 30 clear 100", ""),
    "the same, and a new server": ("prompt 30 enqueue escape 30 clear 30 restart 100", ""),
    "the same, and a tool that a person has started again": ("prompt 30 enqueue escape 30 leave 9 again 100", ""),
    "a person lets it forget right after one": ("prompt 30 enqueue escape 1 clear 200", ""),
    "a question, an interruption, and a person lets it forget": (
        "prompt 30 ask 30 enqueue escape 1 clear 200",
        "waiting",
    ),
    "an interruption right after a Stop hook that lets Claude go on": ("prompt 30 stop 1 escape 200", ""),
    "a prompt that is put back before the hook of its begin comes": ("late prompt 1 take-back 200", ""),
    "one whose hook never comes": ("lost prompt 1 take-back 200", ""),
    "a queue after a failure, and a new server": ("prompt 30 enqueue fail 2 look 30 clear 30 restart 100", ""),
    "a queue, and a server in the background": ("prompt 30 enqueue end-with-server 30 end 100", "done"),
    "a new server amid a turn, and its end meanwhile": ("prompt 30 restart 0.1 end 100", "done"),
    "a new server amid a question, and its answer": ("prompt 9 ask 20 restart 3 answer 30 end 100", "waiting done"),
    "a stop amid a turn, and a resume": ("prompt 30 halt 60 resume 100 prompt 30 end 100", "done"),
    "a stop after a turn that was told": ("prompt 30 end 100 halt 60 resume 200", "done"),
    "a stop after a turn that was seen": ("prompt 30 end 2 look 9 halt 60 resume 200", ""),
    "a stop at a question, and a resume": ("prompt 9 ask 20 halt 60 resume 30 prompt 9 end 100", "waiting done"),
    "a queue, and a stop amid its turn": ("prompt 30 enqueue halt 60 resume 60 prompt 30 end 9 end 100", "done"),
    "a stop, and a new server before the resume": ("prompt 30 end 2 look 9 halt 9 restart 9 resume 200", ""),
    "a pause amid a turn": ("prompt 30 freeze 400 thaw 30 end 100", "done"),
    "a pause at a question": ("prompt 9 ask 20 freeze 400 thaw 30 answer 9 end 100", "waiting done"),
    "a pause before the call": ("prompt 9 ask 1 freeze 400 thaw 100 answer 9 end 100", "waiting done"),
    "a pause right after an answer": ("prompt 30 ask 1 answer 3 freeze 60 thaw 30 end 100", "done"),
    "a pause right after a question": ("prompt 30 ask 3 freeze 60 thaw 30 answer 30 end 100", "waiting done"),
    "an engine that is lost right after an answer": ("prompt 30 ask 1 answer 3 cut 60 reach 30 end 100", "done"),
    "a short turn right after a resume": ("halt 30 resume 4 prompt 0.3 end 100", "done"),
    "a short turn right after an interruption": ("prompt 30 escape 4 prompt 1 end 100", "done"),
    "a pause before its screen shows that it works": ("prompt 0.1 freeze 60 thaw 30 end 100", "done"),
    "a pause between an end and its screen": ("prompt 30 end 0.1 freeze 60 thaw 100", "done"),
    "a pause of a turn that was seen, behind a new file of events": (
        "prompt 9 end 2 look 9 fill prompt 9 end 2 look 30 freeze 60 thaw 200",
        "",
    ),
    "a pause amid work that is still for less than five minutes": (
        "prompt 30 hang 100 freeze 400 thaw 100 go-on 30 end 100",
        "done",
    ),
    "the same, and a new server meanwhile": (
        "prompt 30 hang 100 freeze 200 restart 200 thaw 100 go-on 30 end 100",
        "done",
    ),
    "a pause amid work that is still for longer": (
        "prompt 30 hang 200 freeze 60 thaw 400 go-on 30 end 100",
        "stuck done",
    ),
    "a queue, and a pause amid its turn": ("prompt 30 enqueue freeze 60 thaw 30 end 9 end 100", "done"),
    "an engine that is lost amid a turn": ("prompt 30 cut 400 reach 30 end 100", "done"),
    "a turn that ends while its engine is lost": ("prompt 30 cut 60 end 60 reach 100", "done"),
    "a question that comes while its engine is lost": (
        "prompt 30 cut 60 ask 60 reach 100 answer 9 end 100",
        "waiting done",
    ),
    "one that somebody answers there": ("prompt 30 cut 60 ask 60 answer 60 reach 30 end 100", "done"),
    "a tool at rest that works while its engine is lost": (
        "prompt 30 end 2 look 30 cut 9 prompt 30 end 60 reach 100",
        "done",
    ),
    "one that goes on by itself there": ("prompt 30 end-with-server 2 look 30 cut 9 wake 30 end 60 reach 100", "done"),
    "a crash while its engine is lost": ("prompt 30 end 2 look 30 cut 30 crash 60 reach 100", "ended"),
    "a queue while its engine is lost": ("prompt 30 enqueue cut 60 end 60 reach 9 end 100", "done"),
    "a build that writes nothing, and its engine is lost": (
        "prompt 30 build 100 cut 900 reach 100 built 30 end 100",
        "done",
    ),
    "an engine that is lost for a moment, time and again": (
        "prompt 30 cut 1 reach 1 cut 1 reach 30 end 1 cut 1 reach 1 cut 1 reach 100",
        "done",
    ),
    "a new file of events amid a turn": ("prompt 30 end 2 look fill prompt 30 fill end 100", "done"),
}


def played(script: str, possible: Mapping[str, Collection[str]] | None = None, **world: object) -> World:
    with tempfile.TemporaryDirectory() as home, World(Path(home), **world).stage() as stage:  # type: ignore[arg-type]
        return stage.play(script, possible)


@table("skew", [0.0, -360.0, -5.0, 30.0], ids=lambda skew: f"clock {skew:+.0f} s")
@table(("script", "calls"), STORIES.values(), ids=STORIES.keys())
def test_a_person_is_called_once_for_each_thing(script, calls, skew):
    """The clock of the session's engine may be another one than the server's."""
    world = played(script, skew=skew)
    assert ([kind for _, kind in world.calls], world.wrong()) == (calls.split(), [])


@table(
    ("script", "calls"),
    [
        ("leave 9 again 30 prompt 30 crash 100", "ended"),
        ("leave 9 again 30 prompt 30 ask 30 crash 100 restart 100", "waiting ended"),
        ("prompt 30 crash 100 again 30 prompt 9 crash 100", "ended ended"),
        ("crash 100 again 30 prompt 30 end 2 look 60 leave 100", "ended"),
    ],
)
def test_in_any_shell_a_crash_amid_a_turn_calls(script, calls):
    """Only Bash tells the exit code of a tool that a person has started again in it."""
    world = played(script, shell="zsh")
    assert ([kind for _, kind in world.calls], world.wrong()) == (calls.split(), [])


# What only Claude Code does, and what only happens to hooks.
OWN = {
    "stop",
    "end-slowly",
    "end-again",
    "end-with-server",
    "wait-for-agent",
    "wake",
    "take-back",
    "type-half",
    "type-amid",
    "clear",
}
ANYONES = {name: story for name, story in STORIES.items() if not {*OWN, *FATES} & set(story[0].split())}
# Nobody sees what a tool without hooks does between two looks. Left is what is put into the place of what.
UNSEEN = {
    "a short turn": ("0.1", "5"),
    "a short turn behind one that was seen": ("0.1", "5"),
    "a tool at rest that works while its engine is lost": ("end 60 reach", "60 reach 9 end"),
}


@table("tool", ["copilot", "opencode", "codex", "gemini"])
@table(("name", "story"), ANYONES.items(), ids=ANYONES.keys())
def test_a_person_is_called_once_whatever_tool_it_is(name, story, tool):
    script, calls = story
    if name in UNSEEN and tool not in TOLD:
        script = script.replace(*UNSEEN[name])
    world = played(script, tool=tool, skew=-5.0)
    assert ([kind for _, kind in world.calls], world.wrong()) == (calls.split(), [])


# What hooks do to other tools' reports. Copilot CLI numbers no turn.
REPORTS = {
    "the end of a turn is lost": ("prompt 30 lost end 100", "done"),
    "that of a short one": ("prompt 0.2 lost end 100", "done"),
    "that of one that had asked": ("prompt 30 ask 9 lost answer 30 lost end 100", "waiting done"),
    "its begin comes behind its end": ("late prompt 5 end 100", "done"),
    "the same, and a person looks": ("late prompt 3 end 2 look 100", ""),
    "its begin comes late": ("late prompt 9 end 3 look 100", ""),
    "both are lost": ("lost prompt 30 lost end 100", "done"),
    "its begin is lost, and the next turn comes at once": ("lost prompt 30 end 5 prompt 30 end 100", "done done"),
    "a failure is lost": ("prompt 30 lost fail 100", "failed"),
    "all is lost of a failure": ("lost prompt 30 lost fail 100", "failed"),
    "a run between two looks, of which no hook tells": ("crash 0.3 again 0.3 leave 100", "ended"),
    "an interruption is lost": ("prompt 30 enqueue lost escape 100", ""),
}


# The reports of opencode come one after the other, so none comes behind its end.
BEHIND = {"copilot": [], "opencode": ["its begin comes behind its end", "the same, and a person looks"]}


@table(
    ("tool", "script", "calls"),
    [
        pytest.param(tool, *story, id=f"{tool}, {name}")
        for tool, behind in BEHIND.items()
        for name, story in REPORTS.items()
        if name not in behind
    ],
)
def test_a_report_that_is_late_or_lost_calls_once_too(tool, script, calls):
    world = played(script, tool=tool, skew=-5.0)
    assert ([kind for _, kind in world.calls], world.wrong()) == (calls.split(), [])


@table(
    ("script", "calls"),
    [
        ("prompt 30 first-lost end 100", "done"),
        ("prompt 30 first-lost fail 100", "failed"),
        ("prompt 30 enqueue first-lost escape 100", ""),
    ],
)
def test_one_of_the_reports_of_opencode_about_an_end_is_enough(script, calls):
    """It tells of an error or an interruption first, and then that it rests."""
    world = played(script, tool="opencode", skew=-5.0)
    assert ([kind for _, kind in world.calls], world.wrong()) == (calls.split(), [])


# What may happen next, by what the tool does; the first word of a pair is what happens to the hook of the second one.
ALWAYS = ("look", "restart", "enqueue", "halt")
# What nobody does while the engine is out of reach.
BY_SERVER = ("look", "restart", "enqueue", "halt", "resume", "again")
# An interruption behind one of these looks like the words of an answer, unless a look has seen that the tool worked on.
GOES_ON = ("stop", "wake")
NEXT = {
    "idle": ("prompt", "leave", "crash", *ALWAYS),
    "done": ("prompt", "wake", "leave", "crash", "type-half", *ALWAYS),
    "failed": ("prompt", "clear", "leave", "crash", *ALWAYS),
    "interrupted": ("prompt", "clear", "leave", "crash", *ALWAYS),
    "working": (
        "end",
        "end",
        "end-with-server",
        "stop",
        "ask",
        "fail",
        "escape",
        "take-back",
        "type-amid",
        "crash",
        *ALWAYS,
    ),
    "waiting": ("answer", "answer", "escape", "crash", *ALWAYS),
    "ended": ("again", *ALWAYS),
    "crashed": ("again", *ALWAYS),
    "stopped": ("resume",),
}
HOOKED = {"prompt", "end", "end-with-server", "ask", "fail", "again"}
PAUSES = ("0.3", "1", "3", "9", "30", "100")


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, float]:
    """A story and the skew of a clock. After each thing some time passes. One hook does not come in time, once.

    Two of them may look like a turn more or less: a lost begin and a late end look the same.
    """
    skew = draw(st.sampled_from([0.0, -360.0, -3.0, 30.0]))
    teller, words = Teller(draw, own=True), []
    fate, fated = draw(st.sampled_from(FATES)), draw(st.integers(0, 11))
    for number in range(draw(st.integers(1, 12))):
        word = teller.next()
        has_fate = number == fated and word in HOOKED and (word, fate) != ("fail", "lost")  # then it may be `done`
        words += [*([fate] if has_fate else []), word, teller.pause(), *teller.aside()]
    return " ".join([*words, *teller.end()]), skew


AFTER = {
    "prompt": "working",
    "wake": "working",
    "answer": "working",
    "end": "done",
    "end-with-server": "done",
    "ask": "waiting",
    "fail": "failed",
    "escape": "interrupted",
    "take-back": "interrupted",
    "clear": "idle",
    "crash": "crashed",
    "leave": "ended",
    "again": "idle",
    "halt": "stopped",
    "resume": "idle",
}


class Teller:
    """Draws what happens next in a story: to the tool, and now and then to its container or to its engine."""

    def __init__(self, draw: st.DrawFn, own: bool) -> None:
        self._draw, self._own = draw, own
        self.truth, self._is_cut = "idle", False

    def next(self) -> str:
        """What the tool does, or what is done to it."""
        left = set() if self._own else OWN
        words = [
            word for word in NEXT[self.truth] if word not in (*left, *((*BY_SERVER, *GOES_ON) if self._is_cut else ()))
        ]
        word = self._draw(st.sampled_from(words or [""]))
        self.truth = AFTER.get(word, self.truth)
        return word

    def pause(self) -> str:
        """How much time passes."""
        return self._draw(st.sampled_from(PAUSES))

    def aside(self) -> list[str]:
        """What happens to the container, or to its engine."""
        kind = self._draw(st.sampled_from(["", "", "", "", "freeze", "cut"]))
        if kind == "freeze" and not self._is_cut and self.truth != "stopped":
            return ["freeze", self.pause(), "thaw", self.pause()]
        if kind != "cut" or (self.truth == "stopped" and not self._is_cut):
            return []
        self._is_cut = not self._is_cut
        return ["cut" if self._is_cut else "reach", self.pause()]

    def end(self) -> list[str]:
        """The end, by when all is settled."""
        return [*(["reach"] if self._is_cut else []), "200"]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
def test_no_story_calls_too_often_too_early_or_not_at_all(story):
    script, skew = story
    world = played(script, NEXT, skew=skew)
    assert world.wrong() == [], (world.calls, world.shown, world.needs)


@st.composite
def scripts_of_anyone(draw: st.DrawFn) -> tuple[str, str, float]:
    """A tool other than Claude Code, a story of what any tool does, and the skew of a clock."""
    teller, words = Teller(draw, own=False), []
    for _ in range(draw(st.integers(1, 12))):
        words += [teller.next(), teller.pause(), *teller.aside()]
    tool = draw(st.sampled_from(["copilot", "opencode", "codex", "gemini"]))
    return tool, " ".join([*words, *teller.end()]), draw(st.sampled_from([0.0, -360.0, 30.0]))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scripts_of_anyone())
def test_no_story_of_another_tool_calls_too_often_too_early_or_not_at_all(story):
    tool, script, skew = story
    world = played(script, NEXT, tool=tool, skew=skew)
    assert world.wrong() == [], (world.calls, world.shown, world.needs)
