"""Prompts, answers and interruptions: with the stub where that will do, else with the real Claude Code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from test_agents import TEXT, Tool, config_of_claude, vendor_on_bridge

from clincus_features.agents import drafts
from clincus_features.agents.rules import RULES
from tests.faults_bed import run_cli
from tests.programs import NO_CHECKPOINTS, wait_until
from tests.table import table
from tests.vendor_api import VendorApi

ANSWER = "●"  # stands before each answer that has begun; before that, an interruption puts the prompt back
TEN_KILOBYTES = 'é 👩‍🚀 漢字 {"json": [1, 2]} `code`\n' * 230 + "  the end"


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
        assert (answer.status, "no tool runs" in answer.json["error"]) == (409, True)
    done = run_cli(bed, server, "prompt", session, "ls")
    assert (done.returncode, "no tool runs" in done.stderr) == (1, True)
    assert run_cli(bed, server, "wait", session, "--for", "done", "--timeout", "1").returncode == 124


# ---- with the real Claude Code


class Claude(Tool):
    """The real Claude Code in a session, which prompts are sent to."""

    def ask(self, what: str, body: object = None) -> Any:
        return self.server.post(f"/api/sessions/{self.id}/{what}", body)

    def prompt(self, text: str) -> str:
        """Send a prompt; what became of it."""
        answer = self.ask("prompt", {"text": text})
        assert answer.status == 200, f"{answer.body.decode()}\n{self.screen()}"
        return str(answer.json["result"])

    def begins(self, text: str) -> None:
        """Send a prompt, and wait until the tool is at work on it: it waits for its turn if the last one is ending."""
        assert self.prompt(text) in ("submitted", "queued")
        wait_until(lambda: self.prompts()[-1] == (text, "submitted"), f"a proof of {text!r}")
        wait_until(lambda: self.agent()["state"] in ("working", "waiting"), self.screen)

    def shows_below(self, words: str, after: str) -> None:
        """Wait until its screen shows words below the last prompt with a text. They may stand above, of other turns."""

        def is_shown() -> bool:
            _, prompt, turn = self.screen().rpartition(f"❯ {after}")
            return bool(prompt) and words in turn

        wait_until(is_shown, lambda: f"{words!r} below {after!r}:\n{self.screen()}")

    def prompts(self) -> list[tuple[str, str]]:
        """The text of each prompt that was sent so far, and what became of it."""
        return [(one["text"], one["result"]) for one in self.server.get(f"/api/sessions/{self.id}/prompts").json]

    def input(self) -> str:
        """What stands in its input."""
        return drafts.draft_of("claude", RULES["claude"].layout, self.screen()) or ""

    def rests(self) -> None:
        """Wait until no prompt waits and it does nothing. It is done between two prompts, too."""
        wait_until(lambda: {how for _, how in self.prompts()} <= {"submitted"}, "a proof of each prompt")
        wait_until(lambda: self.agent()["state"] in ("done", "idle"), self.screen)


FIRST = "-v is the first prompt"


@pytest.fixture(scope="module")
def api(bed) -> Iterator[VendorApi]:
    with vendor_on_bridge(bed) as made:
        yield made


@pytest.fixture(scope="module")
def shared_claude(bed, start_shared, keep_session, api) -> Claude:
    """One Claude Code, which was started with a prompt: each start of it takes seconds of a core."""
    server = start_shared(config=config_of_claude(api))
    tool = Claude(bed, server, keep_session(server, profile="real", prompt=FIRST)["id"])
    wait_until(lambda: FIRST in api.texts, "the first prompt")
    wait_until(lambda: tool.agent()["state"] == "done", tool.screen)  # it was idle for a moment before
    return tool


@pytest.fixture
def tool(shared_claude) -> Claude:
    """The Claude Code of this file, once no prompt waits and it does nothing."""
    shared_claude.rests()
    return shared_claude


def test_prompts_arrive_as_they_were_written(tool, api):
    """Also the one behind a prompt that was interrupted, which Claude Code has put back into its input."""
    tool.begins("hush now\nand these\nlines")
    assert tool.ask("interrupt").status == 204
    wait_until(lambda: tool.input().startswith("hush"), "the prompt in the input")
    arriving = {
        "run the tests": "run the tests",
        "/help": "/help\n\n\n",
        "exit": "exit\n\n\n",
        "ends with \\": "ends with \\",
        "one\r\ntwo\x1b[201~": "one\ntwo",
        **{start + TEN_KILOBYTES: start + TEN_KILOBYTES for start in ("/", "!", "@")},
    }
    for text, arrived in arriving.items():
        assert tool.prompt(text) in ("submitted", "queued"), text[:20]
        wait_until(lambda wanted=arrived: wanted in api.texts, f"{text[:20]!r} at the API")
    wait_until(lambda: {how for _, how in tool.prompts()} == {"submitted"}, "a proof of each")
    assert [api.texts.count(arrived) for arrived in (FIRST, *arriving.values())] == [1] * (1 + len(arriving))


def test_a_command_is_run_as_one_where_that_is_said(bed, tool, api):
    """One that only shows something, and one that opens a dialog; neither is sent to the model."""
    for command, shown in (("/context", "Context Usage"), ("/model", "Select model")):
        answer = tool.ask("prompt", {"text": command, "command": True})
        # Claude Code's Stop hook tells of the end of a turn, and Claude Code still shows it for a moment after that.
        assert (answer.status, answer.json["result"] in ("submitted", "queued")) == (200, True), answer.body
        wait_until(lambda shown=shown: shown.lower() in tool.screen().lower(), f"what {command} shows")
    tool.press("Escape")
    tool.rests()
    assert not {"/context", "/model"} & set(api.texts)


def test_a_prompt_is_queued_while_the_tool_works_and_typed_when_its_turn_ends(bed, tool, api):
    tool.begins("bash tail -f /dev/null")
    done = run_cli(bed, tool.server, "prompt", tool.id, "-", stdin="say it was queued")
    assert (done.stdout, done.returncode) == ("queued\n", 0)
    refused = tool.ask("prompt", {"text": "say not now", "queue": False})
    assert (refused.status, "send it later, or queue it" in refused.json["error"]) == (409, True)
    assert "say it was queued" not in api.texts
    tool.ends_program("tail")
    wait_until(lambda: "say it was queued" in api.texts, "the queued prompt")
    done = run_cli(bed, tool.server, "wait", tool.id, "--timeout", "60")
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] in ("done", "idle")
    sent = [("bash tail -f /dev/null", "submitted"), ("say it was queued", "submitted")]
    wait_until(lambda: tool.prompts()[-2:] == sent, "a proof of both")
    assert tool.ask("interrupt").status == 204
    assert api.texts.count("say it was queued") == 1


def test_after_an_interruption_the_queue_waits_for_what_a_person_says_next(bed, tool, api):
    tool.begins("stall")
    tool.shows_below(ANSWER, after="stall")
    assert tool.prompt("say it was held") == "queued"
    assert run_cli(bed, tool.server, "interrupt", tool.id).returncode == 0
    tool.becomes("idle", "interrupted")
    assert tool.prompt("say it was meant") == "submitted"
    wait_until(lambda: "say it was held" in api.texts, "the queue after the next turn")
    said = [text for text in api.texts if text in ("say it was held", "say it was meant")]
    assert said == ["say it was meant", "say it was held"]


# A turn, what its screen shows, keys that a person presses and what they draw, and what is left in the input.
TURNS = {
    "an answer": ("stall", ANSWER, None, ""),
    "a command": ("bash tail -f /dev/null", "Bash(tail -f", None, ""),
    "a question": ("ask", "Enter to select", None, ""),
    "a retry": ("status 429", "retrying in", None, "status 429"),
    "a menu of commands takes the first Esc": ("stall", ANSWER, ("-l /mod", "/model"), "/mod"),
    "so does the transcript": ("stall", ANSWER, ("C-o", "ctrl+o to toggle"), ""),
}


@table("turn", TURNS)
def test_an_interruption_is_confirmed_by_the_screen_and_loses_nothing(bed, shared_claude, turn):
    tool, (text, shown, typed, left) = shared_claude, TURNS[turn]
    tool.rests()
    tool.begins(text)
    tool.shows_below(shown, after=text)
    if typed:
        keys, drawn = typed
        tool.press(keys)
        wait_until(lambda: drawn in tool.screen(), drawn)
    assert tool.ask("interrupt").status == 204, tool.screen()
    agent = tool.agent()
    assert (agent["state"], agent["reason"]) == ("idle", "interrupted"), tool.screen()
    assert tool.input() == left
    if left:
        tool.press("C-u")
        wait_until(lambda: not tool.input(), "an empty input")


def test_a_prompt_is_not_pasted_behind_what_a_person_types(bed, tool, api):
    tool.press("-l", "'half a text'")
    wait_until(lambda: tool.input() == "half a text", "the text in the input")
    refused = tool.ask("prompt", {"text": "say not now"})
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
        asked = tool.becomes("waiting", "question")
        refused = tool.ask("prompt", {"text": "not now"})
        assert (refused.status, TEXT in refused.json["error"]) == (409, True)
        for other in ({"question": "Which one?"}, {"number": asked["question"] - 1}):
            assert tool.ask("answer", {"option": 1, **other}).status == 409
        done = run_cli(bed, tool.server, "answer", tool.id, words)
        assert (done.stdout, done.returncode) == ("answered\n", 0), f"{done.stderr}\n{tool.screen()}"
        tool.rests()
        bed.await_screen(tool.id, answer)
        assert tool.ask("answer", {"option": 1}).status == 409
    assert "not now" not in api.texts


def test_an_answer_to_the_first_of_two_questions_does_not_meet_the_second(bed, tool):
    """In the second one boxes are ticked, which takes more than an option."""
    tool.begins("ask more")
    tool.becomes("waiting", "question")
    asked = tool.agent()
    assert tool.ask("answer", {"option": 1}).json == {"result": "answered"}
    bed.await_screen(tool.id, "Which sizes")
    second = wait_until(lambda: (agent := tool.agent())["text"] != asked["text"] and agent, "its words")
    assert (second["text"], second["options"][:2]) == ("Which sizes do you want?", ["[ ] Small", "[ ] Large"])
    late = {"option": 1, "question": asked["text"], "number": asked["question"]}
    assert tool.ask("answer", late).status == 409
    assert "✔ Small" not in tool.screen()
    assert tool.ask("answer", {"option": 2}).json == {"result": "unconfirmed"}
    assert tool.ask("interrupt").status == 204
