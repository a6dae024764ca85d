"""Prompts, answers and interruptions: with the stub where that will do, else with the real Claude Code."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clincus_features.agents import drafts
from clincus_features.agents.rules import RULES
from tests.programs import NO_CHECKPOINTS, Server, program, wait_until
from tests.real_tools import FRUGAL, real_tool
from tests.vendor_api import QUESTION, VendorApi

KEY = "sk-ant-test-0123456789012345678901234567890"
TEXT = QUESTION["questions"][0]["question"]
ANSWER = "●"  # stands before each answer that has begun; before that, an interruption puts the prompt back
TEN_KILOBYTES = 'é 👩‍🚀 漢字 {"json": [1, 2]} `code`\n' * 230 + "  the end"


def cli(server: Server, *words: str, stdin: str = "", environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command that asks the server."""
    return subprocess.run(
        [*program(), *words, "--port", str(server.port)],
        env={**os.environ, **environ, "HOME": str(server.home)},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# ---- without a real tool


@pytest.mark.day
def test_a_prompt_before_the_tool_is_ready_waits_in_a_queue_that_outlives_the_server(start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    path = f"/api/sessions/{server.create(workspace)['id']}"
    answers = [server.post(f"{path}/prompt", {"text": text}) for text in ("one", "two\r\n")]
    assert [one.status for one in answers] == [200, 200], [one.body for one in answers]
    first, second = (one.json for one in answers)
    assert [first["result"], second["result"]] == ["queued", "queued"]
    server.stop()
    server = start_server()
    wait_until(lambda: server.get("/api/sessions").status == 200, "Incus")
    found = server.get(f"{path}/prompts").json
    assert [(one["text"], one["result"]) for one in found] == [("one", "queued"), ("two\n", "queued")]
    changed = server.request(
        "PATCH", f"{path}/prompts/{second['prompt_id']}", {"text": "deux", "before": first["prompt_id"]}
    )
    assert (changed.status, changed.json["text"]) == (200, "deux")
    assert [one["text"] for one in server.get(f"{path}/prompts").json] == ["deux", "one"]
    cancelled = f"{path}/prompts/{first['prompt_id']}"
    assert [server.delete(cancelled).status, server.delete(cancelled).status] == [204, 404]
    assert [one["text"] for one in server.get(f"{path}/prompts").json] == ["deux"]
    assert server.post(f"{path}/answer", {"option": 1}).status == 409
    assert server.post(f"{path}/answer", {}).status == 400
    assert server.post(f"{path}/prompt", {"text": "compact", "command": True}).status == 400
    assert server.delete(f"{path}?force=true").status == 204
    assert list((server.home / ".clincus" / "prompts").glob("*.json")) == []


@pytest.mark.day
def test_one_key_makes_one_session_with_its_first_prompt(start_server, workspace, bed):
    server = start_server(config=NO_CHECKPOINTS)
    body = {"workspace": str(workspace), "prompt": "--help\r\nme"}
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(lambda _: server.post("/api/sessions", body, headers={"Idempotency-Key": "one"}), range(2))
        )
    assert [answer.status for answer in found] == [200, 200]
    assert found[0].json["id"] == found[1].json["id"]
    assert bed.names() == [found[0].json["id"]]
    bed.await_screen(found[0].json["id"], "-- --help")


@pytest.mark.day
def test_where_no_tool_runs_nothing_is_typed(start_server, workspace, bed):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace, tool="shell")["id"]
    for what, body in (("prompt", {"text": "ls"}), ("interrupt", None)):
        answer = server.post(f"/api/sessions/{session}/{what}", body)
        assert answer.status == 409
        assert "no tool runs" in answer.json["error"]
    done = cli(server, "prompt", session, "ls", environ=bed.environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no tool runs" in done.stderr
    assert cli(server, "wait", session, "--for", "done", "--timeout", "1", environ=bed.environ).returncode == 124


# ---- with the real Claude Code


@pytest.fixture(scope="module")
def api(bed) -> Iterator[VendorApi]:
    """The stand-in for the vendor's API, on the bridge of the bed."""
    address = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
    server = VendorApi(address)
    yield server
    server.close()


class Claude:
    """The real Claude Code in a session."""

    def __init__(self, bed: Any, server: Server, session: str) -> None:
        self.bed, self.server, self.id = bed, server, session
        self.path = f"/api/sessions/{session}"
        self.failures = 0  # tests that had failed when a test used it last
        self._given_up: set[str] = set()  # ids of prompts

    def post(self, what: str, body: object = None) -> Any:
        return self.server.post(f"{self.path}/{what}", body)

    def prompt(self, text: str) -> str:
        """Send a prompt; what became of it."""
        answer = self.post("prompt", {"text": text})
        assert answer.status == 200, f"{answer.body.decode()}\n{self.bed.screen(self.id)}"
        return str(answer.json["result"])

    def begins(self, text: str) -> None:
        """Send a prompt, and wait until the tool is at work on it: it waits for its turn if the last one is ending."""
        assert self.prompt(text) in ("submitted", "queued")
        wait_until(lambda: self.prompts()[-1] == (text, "submitted"), lambda: f"a proof of {text!r}; {self.now()}")
        self.becomes("working", "waiting")

    def shows(self, words: str, after: str) -> None:
        """Wait until its screen shows words below the last prompt with a text. They may stand above, of other turns."""

        def is_shown() -> bool:
            _, prompt, turn = self.bed.screen(self.id).rpartition(f"❯ {after}")
            return bool(prompt) and words in turn

        wait_until(is_shown, lambda: f"{words!r} below {after!r}; {self.now()}")

    def prompts(self) -> list[tuple[str, str]]:
        """The text of each prompt that was sent so far, and what became of it."""
        found = self.server.get(f"{self.path}/prompts").json
        return [(one["text"], one["result"]) for one in found if one["prompt_id"] not in self._given_up]

    def whys(self) -> list[str]:
        """Why each checkpoint was taken, the first one first."""
        return [one["why"] for one in reversed(self.server.get(f"{self.path}/checkpoints").json)]

    def now(self) -> str:
        """What there is to know of it, for a failure."""
        return f"{json.dumps(self.agent(), indent=1)}\n{self.prompts()}\n{self.bed.screen(self.id)}"

    def agent(self) -> dict[str, Any]:
        """The agent object."""
        return dict(self.server.get(f"{self.path}/agent").json)

    def press(self, *keys: str) -> None:
        """Press keys, as a person at its terminal would."""
        self.bed.shell(self.id, f"tmux send-keys -t =clincus-{self.id}: {' '.join(keys)}")

    def ends_program(self, name: str) -> None:
        """End a program that the tool is to start: it is at work before the program is there."""
        wait_until(lambda: self.bed.incus.exec(self.id, ["pkill", "-x", name]).code == 0, f"{name} runs")

    def input(self) -> str:
        """What stands in its input."""
        layout, screen = RULES["claude"].layout, self.bed.screen(self.id)
        return drafts.draft_of("claude", layout, screen) or ""

    def give_up(self) -> None:
        """Take away what a failed test has left: a queue, a turn, a dialog, a text in the input."""
        for one in self.server.get(f"{self.path}/prompts").json:
            self.server.delete(f"{self.path}/prompts/{one['prompt_id']}")  # 404 if it was sent
            self._given_up.add(one["prompt_id"])

        def rests() -> bool:
            return self.agent()["state"] in ("done", "idle", "failed") or not self.post("interrupt")

        wait_until(rests, "a tool at rest")
        self.press("C-u")

    def becomes(self, *states: str) -> dict[str, Any]:
        """Wait for one of some states."""

        def found() -> dict[str, Any] | None:
            agent = self.agent()
            return agent if agent["state"] in states else None

        return dict(wait_until(found, lambda: f"{states}; {self.now()}"))


FIRST = "-v is the first prompt"


@pytest.fixture(scope="module")
def shared_claude(bed, start_shared, keep_session, api) -> Claude:
    """One Claude Code, which was started with a prompt: each start of it takes seconds of a core."""
    file = real_tool("claude")
    frugal = "".join(f', {name} = "{value}"' for name, value in FRUGAL.items())
    server = start_shared(
        config=f"""[tool]
name = "claude"
binary = "/opt/tools/claude"
[[mounts.default]]
host = "{file.parent}"
container = "/opt/tools"
readonly = true
[profiles.real]
environment = {{ ANTHROPIC_BASE_URL = "{api.url}", ANTHROPIC_API_KEY = "{KEY}"{frugal} }}
"""
    )
    tool = Claude(bed, server, keep_session(server, profile="real", prompt=FIRST)["id"])
    wait_until(lambda: FIRST in api.texts, "the first prompt")
    tool.becomes("done")  # it was idle for a moment before
    return tool


@pytest.fixture
def tool(shared_claude, request) -> Claude:
    """The Claude Code of this file, once no prompt waits and it does nothing. It is done between two prompts, too."""
    if request.session.testsfailed > shared_claude.failures:
        shared_claude.failures = request.session.testsfailed
        shared_claude.give_up()
    wait_until(lambda: {how for _, how in shared_claude.prompts()} <= {"submitted"}, "a proof of each prompt")
    shared_claude.becomes("done", "idle")
    return shared_claude


def test_a_turn_has_a_checkpoint_before_and_after_it(bed, tool):
    # A turn that is over before the server has seen it at work has none, and so may the turns of other tests.
    tool.begins("stall")
    tool.shows(ANSWER, after="stall")
    assert tool.post("interrupt").status == 204
    wait_until(lambda: tool.whys()[-1:] == ["turn"], "the checkpoint after the turn before")
    tool.becomes("done", "idle")
    bed.shell(tool.id, "echo mine >/workspace/mine")
    tool.begins("stall")
    tool.shows(ANSWER, after="stall")
    wait_until(lambda: tool.whys()[-1] == "prompt", "the checkpoint before the prompt")
    bed.shell(tool.id, "echo its >/workspace/its")
    assert tool.post("interrupt").status == 204
    wait_until(lambda: tool.whys()[-2:] == ["prompt", "turn"], "the checkpoint after the turn")
    found = tool.server.get(f"{tool.path}/changes").json["files"]
    assert {one["path"]: one["touched"] for one in found} == {"its": True, "mine": False}
    assert [one["path"] for one in tool.server.get(f"{tool.path}/changes?from=turn").json["files"]] == ["its"]
    done = tool.server.post(f"{tool.path}/restore", {"checkpoint": "start"}).json
    assert (done["restored"], done["removed"]) == ([], ["its"])
    assert bed.shell(tool.id, "cat /workspace/mine") == "mine\n"


def test_prompts_arrive_as_they_were_written(tool, api):
    arriving = {
        "run the tests": "run the tests",
        "/help": "/help\n\n\n",
        "!ls": "!ls",
        "exit": "exit\n\n\n",
        "ends with \\": "ends with \\",
        "one\r\ntwo\x1b[201~": "one\ntwo",
        **{start + TEN_KILOBYTES: start + TEN_KILOBYTES for start in ("/", "!", "#", "@")},
    }
    for text, arrived in arriving.items():
        assert tool.prompt(text) in ("submitted", "queued"), text[:20]
        wait_until(lambda wanted=arrived: wanted in api.texts, f"{text[:20]!r} at the API")
    wait_until(lambda: {how for _, how in tool.prompts()} == {"submitted"}, "a proof of each")
    assert [api.texts.count(arrived) for arrived in (FIRST, *arriving.values())] == [1] * (1 + len(arriving))


def test_a_command_is_run_as_one_where_that_is_said(bed, tool, api):
    """One that only shows something, and one that opens a dialog; neither is sent to the model."""
    for command, shown in (("/context", "Context Usage"), ("/model", "Select model")):
        answer = tool.post("prompt", {"text": command, "command": True})
        # Claude Code's Stop hook tells of the end of a turn, and Claude Code still shows it for a moment after that.
        assert (answer.status, answer.json["result"] in ("submitted", "queued")) == (200, True), answer.body
        wait_until(lambda shown=shown: shown.lower() in bed.screen(tool.id).lower(), f"what {command} shows")
    tool.press("Escape")
    tool.becomes("done", "idle")
    assert not {"/context", "/model"} & set(api.texts)


def test_a_prompt_is_queued_while_the_tool_works_and_typed_when_its_turn_ends(bed, tool, api):
    tool.begins("bash tail -f /dev/null")
    done = cli(tool.server, "prompt", tool.id, "-", stdin="say it was queued", environ=bed.environ)
    assert (done.stdout, done.returncode) == ("queued\n", 0)
    refused = tool.post("prompt", {"text": "say not now", "queue": False})
    assert (refused.status, "send it later, or queue it" in refused.json["error"]) == (409, True)
    assert "say it was queued" not in api.texts
    tool.ends_program("tail")
    wait_until(lambda: "say it was queued" in api.texts, "the queued prompt")
    done = cli(tool.server, "wait", tool.id, "--timeout", "60", environ=bed.environ)
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] in ("done", "idle")
    sent = [("bash tail -f /dev/null", "submitted"), ("say it was queued", "submitted")]
    wait_until(lambda: tool.prompts()[-2:] == sent, "a proof of both")
    assert tool.post("interrupt").status == 204
    assert api.texts.count("say it was queued") == 1


def test_after_an_interruption_the_queue_waits_for_what_a_person_says_next(bed, tool, api):
    tool.begins("stall")
    tool.shows(ANSWER, after="stall")
    assert tool.prompt("say it was held") == "queued"
    assert cli(tool.server, "interrupt", tool.id, environ=bed.environ).returncode == 0
    tool.becomes("idle")
    assert tool.prompt("say it was meant") == "submitted"
    wait_until(lambda: "say it was held" in api.texts, "the queue after the next turn")
    said = [text for text in api.texts if text in ("say it was held", "say it was meant")]
    assert said == ["say it was meant", "say it was held"]


def test_a_prompt_that_was_interrupted_before_any_answer_is_not_sent_with_the_next(bed, tool, api):
    """Claude Code puts it back into its input."""
    tool.begins("hush now\nand these\nlines")
    assert tool.post("interrupt").status == 204
    wait_until(lambda: tool.input().startswith("hush"), "the prompt in the input")
    assert tool.prompt("say it was clean") == "submitted"
    wait_until(lambda: "say it was clean" in api.texts, "the next prompt")


@pytest.mark.parametrize(
    ("turn", "left"),
    [
        (("stall", ANSWER, None), ""),
        (("bash tail -f /dev/null", "Bash(tail -f", None), ""),
        (("ask", "Enter to select", None), ""),
        (("status 429", "retrying in", None), "status 429"),
        (("stall", ANSWER, ("-l 'half a text'", "half a text")), "half a text"),
        (("stall", ANSWER, ("-l /mod", "/model")), "/mod"),  # the menu of commands takes the first Esc
        (("stall", ANSWER, ("C-o", "ctrl+o to toggle")), ""),  # so does the transcript
    ],
    ids=["an answer", "a command", "a question", "a retry", "a person types", "a menu", "a view"],
)
def test_an_interruption_is_confirmed_by_the_screen_and_loses_nothing(bed, tool, turn, left):
    text, shown, typed = turn
    tool.begins(text)
    tool.shows(shown, after=text)
    if typed:
        keys, drawn = typed
        tool.press(keys)
        wait_until(lambda: drawn in bed.screen(tool.id), drawn)
    assert tool.post("interrupt").status == 204, bed.screen(tool.id)
    agent = tool.agent()
    assert (agent["state"], agent["reason"]) == ("idle", "interrupted"), bed.screen(tool.id)
    assert tool.input() == left
    if left:
        tool.press("C-u")
        wait_until(lambda: not tool.input(), "an empty input")


def test_a_prompt_is_not_pasted_behind_what_a_person_types(bed, tool, api):
    tool.press("-l", "'half a text'")
    wait_until(lambda: tool.input() == "half a text", "the text in the input")
    refused = tool.post("prompt", {"text": "say not now"})
    assert (refused.status, "half a text" in refused.json["error"]) == (409, True)
    assert tool.input() == "half a text"
    tool.press("C-u")
    wait_until(lambda: tool.input() == "", "an empty input")
    assert tool.prompt("say it was free") in ("submitted", "queued")
    wait_until(lambda: "say it was free" in api.texts, "the prompt")
    assert "say not now" not in api.texts


def test_a_question_is_answered_and_takes_no_prompt(bed, tool, api):
    answers = {"2": "Green", "--text=Purple": "Purple"}
    for words, answer in answers.items():
        tool.begins("ask")
        asked = tool.becomes("waiting")
        refused = tool.post("prompt", {"text": "not now"})
        assert (refused.status, TEXT in refused.json["error"]) == (409, True)
        for other in ({"question": "Which one?"}, {"number": asked["question"] - 1}):
            assert tool.post("answer", {"option": 1, **other}).status == 409
        done = cli(tool.server, "answer", tool.id, words, environ=bed.environ)
        assert (done.stdout, done.returncode) == ("answered\n", 0), f"{done.stderr}\n{bed.screen(tool.id)}"
        tool.becomes("done", "idle")
        bed.await_screen(tool.id, answer)
        assert tool.post("answer", {"option": 1}).status == 409
    assert "not now" not in api.texts


def test_a_person_who_is_told_of_options_can_answer_at_that_moment(tool):
    for _ in range(3):
        tool.begins("ask")
        asked = wait_until(lambda: (agent := tool.agent())["options"] and agent, "the options")
        body = {"option": 3, "question": asked["text"], "number": asked["question"]}
        assert tool.post("answer", body).json == {"result": "answered"}
        tool.becomes("done", "idle")


def test_an_answer_to_the_first_of_two_questions_does_not_meet_the_second(bed, tool):
    """In the second one boxes are ticked, which takes more than an option."""
    tool.begins("ask more")
    tool.becomes("waiting")
    asked = tool.agent()
    assert tool.post("answer", {"option": 1}).json == {"result": "answered"}
    bed.await_screen(tool.id, "Which sizes")
    second = wait_until(lambda: (agent := tool.agent())["text"] != asked["text"] and agent, "its words")
    assert (second["text"], second["options"][:2]) == ("Which sizes do you want?", ["[ ] Small", "[ ] Large"])
    late = {"option": 1, "question": asked["text"], "number": asked["question"]}
    assert tool.post("answer", late).status == 409
    assert "✔ Small" not in bed.screen(tool.id)
    assert tool.post("answer", {"option": 2}).json == {"result": "unconfirmed"}
    assert tool.post("interrupt").status == 204
