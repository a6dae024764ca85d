"""Stories of a session: a person is called once for each turn that ends and each question, and never too early."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.table import table
from tests.unit.story import FATES, TOLD, World

OTHERS = ("copilot", "opencode", "codex", "gemini")
# A word is a verb of tests/unit/story.py, a number lets so many seconds pass; what a person was called for.
STORIES = {
    "a turn that a person has seen": ("prompt 30 end 1 look 100", ""),
    "a short turn behind one that was seen": ("prompt 30 end 1 look 100 prompt 0.1 end 100", "done"),
    "a Stop hook lets Claude go on": ("prompt 60 stop 540 end-again 100", "done"),
    "the same, and an interruption": ("prompt 60 enqueue stop 20 escape 100 prompt 9 end 9 end 99", "done"),
    "work in the background wakes it": ("prompt 30 end-with-server 100 wake 30 end 100", "done done"),
    "an agent in the background": ("prompt 30 wait-for-agent 100 enqueue wake 9 end 9 end 100", "done"),
    "a question is over before its call, which was put off": ("prompt 1 end 30 prompt 2 ask 30 escape 100", "done"),
    "two questions": ("prompt 9 ask 100 answer 0.1 ask 100 answer 9 end 100", "waiting waiting done"),
    "a question that was seen is no end that was seen": ("prompt 9 ask 1 look 20 answer 9 end 100", "done"),
    "nothing moves, and a new server": ("prompt 30 hang 400 restart 400 go-on 30 end 100", "stuck done"),
    "the same before the hook of its begin comes": ("late prompt 1 take-back 200", ""),
    "a queue after a crash and a resume": ("prompt 30 enqueue crash 60 halt 9 resume 99", "ended"),
    "the hook of a begin comes behind the end": ("late prompt 3 end 100", "done"),
    "the hook of an end never comes": ("prompt 30 lost end 100", "done"),
    "each hook comes twice": ("twice prompt 30 twice ask 100 answer 9 twice end 100", "waiting done"),
    "no hook comes": ("lost prompt 30 lost ask 100 answer 9 lost end 100", "waiting done"),
    "a new server amid a turn that ends meanwhile": ("prompt 30 restart 0.1 end 100", "done"),
    "a new server before the call": ("prompt 30 end 1 restart 100", "done"),
    "the clock is set back": ("prompt 30 end 100 look set-back 100 prompt 30 end 100", "done done"),
    "a queue, and a stop amid its turn": ("prompt 30 enqueue halt 60 resume 60 prompt 30 end 9 end 100", "done"),
    "a pause before the call": ("prompt 9 ask 1 freeze 400 thaw 100 answer 9 end 100", "waiting done"),
    "a question is answered while it is lost": ("prompt 30 cut 60 ask 60 answer 60 reach 30 end 100", "done"),
    "a turn while it is lost": ("prompt 30 end 2 look 30 cut 9 prompt 30 end 60 reach 100", "done"),
    "a queue while it is lost": ("prompt 30 enqueue cut 60 end 60 reach 9 end 100", "done"),
}
# What other tools never do.
OWN = {"stop", "end-again", "end-with-server", "wait-for-agent", "wake", "take-back", "clear"}
ANYONES = {name: story for name, story in STORIES.items() if not {*OWN, *FATES} & set(story[0].split())}
# Reports of other tools that are late or lost. Those of opencode come one after the other, none behind its end.
# Nobody sees what a tool without hooks does between two looks.
UNSEEN = ("a short turn behind one that was seen", "a turn while it is lost")


REPORTS = [
    ("copilot", "late prompt 5 end 100", "done"),
    ("copilot", "late prompt 3 end 2 look 100", ""),
    *(
        (tool, script, calls)
        for tool in ("copilot", "opencode")
        for script, calls in (
            ("prompt 30 ask 9 lost answer 30 lost end 100", "waiting done"),
            ("lost prompt 30 end 5 prompt 30 end 100", "done done"),
            ("prompt 30 lost fail 100", "failed"),
            ("prompt 30 enqueue lost escape 100", ""),
        )
    ),
]


def played(script: str, **world: object) -> World:
    with tempfile.TemporaryDirectory() as home, World(Path(home), **world).stage() as stage:  # type: ignore[arg-type]
        return stage.play(script)


def check_calls(script: str, calls: str, **world: object) -> None:
    """Play a story, which calls a person for these things, and leaves nothing undone."""
    found = played(script, **world)
    assert ([kind for _, kind in found.calls], found.wrong()) == (calls.split(), [])


@table("skew", [0.0, -360.0, 30.0])
@table(("script", "calls"), STORIES.values(), ids=STORIES.keys())
def test_a_person_is_called_once_for_each_thing(script, calls, skew):
    """The clock of the session's engine may be another one than the server's."""
    check_calls(script, calls, skew=skew)


@table("tool", OTHERS)
@table(("name", "story"), ANYONES.items(), ids=ANYONES.keys())
def test_a_person_is_called_once_whatever_tool_it_is(name, story, tool):
    if tool in TOLD or name not in UNSEEN:
        check_calls(*story, tool=tool, skew=-5.0)


@table(("tool", "script", "calls"), REPORTS)
def test_a_report_that_is_late_or_lost_calls_once_too(tool, script, calls):
    check_calls(script, calls, tool=tool, skew=-5.0)


# What may happen next, by what the tool does.
ALWAYS = ("look", "restart", "enqueue", "halt")
WORKING = ("end", "end", "end-with-server", "stop", "ask", "fail", "escape", "take-back", "crash", *ALWAYS)
NEXT = {
    "idle": ("prompt", "leave", "crash", *ALWAYS),
    "done": ("prompt", "wake", "leave", "crash", *ALWAYS),
    "failed": ("prompt", "clear", "leave", "crash", *ALWAYS),
    "interrupted": ("prompt", "clear", "leave", "crash", *ALWAYS),
    "working": WORKING,
    "waiting": ("answer", "answer", "escape", "crash", *ALWAYS),
    "ended": ALWAYS,
    "crashed": ALWAYS,
    "stopped": ("resume",),
}
AFTER = {
    **dict.fromkeys(("prompt", "wake", "answer"), "working"),
    **dict.fromkeys(("end", "end-with-server"), "done"),
    **dict.fromkeys(("escape", "take-back"), "interrupted"),
    **dict.fromkeys(("clear", "resume"), "idle"),
    "ask": "waiting",
    "fail": "failed",
    "crash": "crashed",
    "leave": "ended",
    "halt": "stopped",
}
# Nobody does the first ones while the engine is out of reach. An interruption behind one of the last two looks like the
# words of an answer, unless a look has seen that the tool worked on.
NOT_WHILE_CUT = {"look", "restart", "enqueue", "halt", "resume", "stop", "wake"}
HOOKED = {"prompt", "end", "end-with-server", "ask", "fail"}
# A turn of a tool without hooks that is short, or that goes on while the engine is lost, is seen by nobody.
PAUSES = ("0.3", "1", "3", "9", "30", "100")


class Teller:
    """Draws what happens next in a story: to the tool, and now and then to its container or to its engine."""

    def __init__(self, draw: st.DrawFn, tool: str) -> None:
        self._draw, self._left_out = draw, set() if tool == "claude" else OWN
        self._truth, self._is_cut = "idle", False
        self._is_heard = tool in TOLD

    def next(self) -> str:
        """What the tool does, or what is done to it."""
        left_out = {*self._left_out, *(NOT_WHILE_CUT if self._is_cut else ())}
        word = self._draw(st.sampled_from([word for word in NEXT[self._truth] if word not in left_out] or [""]))
        self._truth = AFTER.get(word, self._truth)
        return word

    def pause(self) -> str:
        """How much time passes."""
        return self._draw(st.sampled_from(PAUSES if self._is_heard else PAUSES[3:]))

    def aside(self) -> list[str]:
        """What happens to the container, or to its engine."""
        kind = self._draw(st.sampled_from(["", "", "", "", "freeze", "cut"]))
        if kind == "freeze" and not self._is_cut and self._truth != "stopped":
            return ["freeze", self.pause(), "thaw", self.pause()]
        if kind != "cut" or not self._is_heard or (self._truth == "stopped" and not self._is_cut):
            return []
        self._is_cut = not self._is_cut
        return ["cut" if self._is_cut else "reach", self.pause()]

    def end(self) -> list[str]:
        """The end, by when all is settled."""
        return [*(["reach"] if self._is_cut else []), "200"]


@st.composite
def stories(draw: st.DrawFn) -> tuple[str, str, float]:
    """A tool, a story, and the skew of a clock. After each thing some time passes.

    One hook of Claude Code does not come in time, once: two of them may look like a turn more or less.
    """
    tool = draw(st.sampled_from([*["claude"] * 4, *OTHERS]))
    teller, words = Teller(draw, tool), []
    fate, fated = draw(st.sampled_from(FATES)), draw(st.integers(0, 11))
    for number in range(draw(st.integers(1, 12))):
        word = teller.next()
        has_fate = tool == "claude" and number == fated and word in HOOKED
        if has_fate and (word, fate) != ("fail", "lost"):  # then it may be `done`
            words.append(fate)
        words += [word, teller.pause(), *teller.aside()]
    return tool, " ".join([*words, *teller.end()]), draw(st.sampled_from([0.0, -360.0, -3.0, 30.0]))


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
def test_no_story_calls_too_often_too_early_or_not_at_all(story):
    tool, script, skew = story
    world = played(script, tool=tool, skew=skew)
    assert world.wrong() == [], (world.calls, world.shown, world.needs)
