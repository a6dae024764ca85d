"""The state of a session's tool, with the real tools, and a stand-in for their vendors' API."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults_bed import killed, run_cli
from tests.incus_bed import CLAUDE_WORKS
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until
from tests.real_tools import FRUGAL, real_tool
from tests.vendor_api import PLAN, QUESTION, VendorApi

KEY = "sk-ant-test-0123456789012345678901234567890"
TEXT = QUESTION["questions"][0]["question"]
COLOURS = [option["label"] for option in QUESTION["questions"][0]["options"]]


@contextlib.contextmanager
def vendor_on_bridge(bed) -> Iterator[VendorApi]:
    """The stand-in for the vendors' APIs, where containers reach it."""
    address = bed.ask(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
    server = VendorApi(address)
    yield server
    server.close()


@pytest.fixture(scope="module")
def api(bed) -> Iterator[VendorApi]:
    with vendor_on_bridge(bed) as made:
        yield made


def config(tool: str, **variables: str) -> str:
    """A configuration in which a tool is the real one; it runs with some variables."""
    file = real_tool(tool)
    environment = ", ".join(f'{name} = "{value}"' for name, value in variables.items())
    return f"""[tool]
name = "{tool}"
binary = "/opt/tools/{tool}"
[[mounts.default]]
host = "{file.parent}"
container = "/opt/tools"
readonly = true
[profiles.real]
environment = {{ {environment} }}
"""


class Tool:
    """A tool in a locked session on a mounted git workspace, with a person at its terminal."""

    def __init__(self, bed: Any, server: Server, session: str) -> None:
        self._bed = bed
        self.server = server
        self.id = session
        self.first: dict[str, Any] = {}  # the agent object right after the start
        [shown] = [one for one in server.get("/api/sessions").json if one["id"] == session]
        assert (shown["protection"], shown["mode"]) == ("locked", "mount"), shown["protection_note"]

    def sh(self, script: str, user: int = 1000) -> str:
        """Run a shell script in the container."""
        return str(self._bed.shell(self.id, script, user))

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self.sh(f"tmux send-keys -t =clincus-{self.id}: {' '.join(keys)}")

    def press_until(self, key: str, has_worked: Callable[[], object], what: str) -> None:
        """Press a key until it has worked: a tool loses one that comes while it draws what the key is for."""

        def again() -> bool:
            self.press(key)
            with contextlib.suppress(AssertionError):
                wait_until(has_worked, what, DEADLINE / 6)
                return True
            return False

        wait_until(again, lambda: f"{what}:\n{self.screen()}")

    def press_to_leave(self, key: str) -> None:
        """Press a key until it has ended what the tool waits for or does."""

        def kind() -> list[Any]:
            agent = self.agent()
            return [agent[name] for name in ("state", "reason", "question")]

        before = kind()
        self.press_until(key, lambda: kind() != before, f"the end of {before}")

    def type(self, text: str) -> None:
        """Type a prompt and Enter, once the text is in its input or more often on the screen than before.

        What was typed in a turn before may leave the screen just then.
        """
        screen = f"tmux capture-pane -p -J -t =clincus-{self.id}:"
        count = f"{screen} | grep -oF -- {shlex.quote(text)} | wc -l"
        is_in_input = f"{screen} | grep -F ❯ | tail -n 1 | grep -qF -- {shlex.quote(text)}"
        is_there = f'{is_in_input} || [ "$({count})" -gt "$before" ]'
        wait = f"for n in $(seq {DEADLINE * 5:.0f}); do {{ {is_there}; }} && exit; sleep 0.2; done; exit 1"
        keys = f"tmux send-keys -t =clincus-{self.id}: -l {shlex.quote(text)}"
        self._await_in_container(f"before=$({count}); {keys}; {wait}", f"{text!r} as it is typed")
        self.press("Enter")

    def screen(self) -> str:
        """What the terminal shows."""
        return self.sh(f"tmux capture-pane -p -J -t =clincus-{self.id}: || true")

    def shows(self, text: str) -> None:
        """Wait until the terminal shows a text: a tool tells its state before it has drawn what it says.

        The container looks itself: to ask it each time would cost more than all that is asked for.
        """
        look = f"tmux capture-pane -p -J -t =clincus-{self.id}: 2>/dev/null | grep -qF -- {shlex.quote(text)}"
        script = f"for n in $(seq {DEADLINE * 5:.0f}); do {look} && exit; sleep 0.2; done; exit 1"
        self._await_in_container(script, f"{text!r} on the screen")

    def _await_in_container(self, script: str, what: str) -> None:
        """Run a script that waits for something, and fails in the end."""
        done = self._bed.incus.exec(self.id, ["sh", "-c", script], user=1000, timeout=3 * DEADLINE)
        assert done.code == 0, f"waited in vain for {what}:\n{self.screen()}"

    def agent(self) -> dict[str, Any]:
        """The agent object with its reason why."""
        return dict(self.server.get(f"/api/sessions/{self.id}/agent").json)

    def becomes(self, state: str, reason: str = "", text: str = "", timeout: float = DEADLINE) -> dict[str, Any]:
        """Wait for a state, and return the agent object."""

        def found() -> dict[str, Any] | None:
            agent = self.agent()
            is_it = (agent["state"], agent["reason"]) == (state, reason) and text in agent["text"]
            return agent if is_it else None

        try:
            return dict(wait_until(found, f"{state} {reason} {text}", timeout))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.agent(), indent=1)}\n{self.screen()}") from None

    def is_ready(self) -> None:
        """Wait until it takes a prompt: its hook has said so, too, which a busy machine may run much later."""
        self.becomes("idle")
        wait_until(lambda: self.agent()["why"]["rule"].endswith("/SessionStart"), "the word of the hook of its start")
        # Keys that come before it reads any are one paste to it, and an Enter among them is a line break.
        self.press("x")
        self.shows("❯\u00a0x")
        self.press_until("BSpace", lambda: "❯\u00a0x" not in self.screen(), "the empty input")

    def ends_program(self, name: str) -> None:
        """End a program that the tool is to start: the tool's words may come before the program."""
        wait_until(lambda: self._bed.incus.exec(self.id, ["pkill", "-x", name]).code == 0, f"{name} runs")

    def tells(self, event: str, **data: object) -> None:
        """Let a hook run, as the tool would."""
        self.sh(f"echo '{json.dumps(data)}' | ~/.clincus/hook {event} ring")

    def has_written(self, text: str) -> None:
        """Wait until Claude Code has written an answer down: a turn is done before, and a stop gives it 3 seconds."""
        look = f"""grep -rqsF '"text":"{text}"' ~/.claude/projects && echo yes || true"""
        wait_until(lambda: self.sh(look), f"{text!r} in the conversation's file")

    def post(self, what: str, body: object = None) -> None:
        """A POST to the session."""
        answer = self.server.post(f"/api/sessions/{self.id}/{what}", body)
        expected = (204,) if what == "interrupt" else (200, 204)  # 200 is `unconfirmed` then
        assert answer.status in expected, f"{answer.body.decode()}\n{self.screen()}"

    def empties_input(self, text: str) -> None:
        """Delete a text from its input, a line at a time.

        Two Escapes do that too, but only if the tool handles the second one within a second of the first: a busy tool
        draws what the first one has changed, and then takes the second one for a first one.
        """
        keys = ("C-u", "BSpace") * (text.count("\n") + 1)
        ends = text[:5], text[-5:]

        def is_empty() -> bool:
            box = self.screen().rpartition("❯")[2]
            return not any(end in box for end in ends)

        self.press_until(" ".join(keys), is_empty, f"no {ends} in the input")

    def is_put_back(self, start: Callable[[], Server]) -> None:
        """Put what has happened back by ten minutes, and wait until a new server says that the tool is stuck.

        The clock is not moved. A tool and its first hooks keep the CPU busy, from when five minutes count. A new server
        saw none of that.
        """
        shift = r"""[ ! -e events ] || perl -pi -e 's/"at":(\d+)/q("at":) . ($1 - 600)/e' events"""
        back = f"cd ~/.clincus/agent; touch -d '-10 min' screen; {shift}"
        self.server.stop()
        self.sh(back)
        self.server = start()
        wait_until(lambda: not self.sh(back) and self.agent()["state"] == "stuck", "stuck")

    def answer(self, option: int) -> None:
        """Answer the question."""
        answer = self.server.post(f"/api/sessions/{self.id}/answer", {"option": option})
        assert (answer.status, answer.json) == (200, {"result": "answered"}), self.screen()

    def has_shell(self) -> None:
        """Wait for the shell that the tool leaves. The end of a tool's line may stand behind the prompt."""
        wait_until(lambda: re.search(r"^code@\S*\$.*\s*\Z", self.screen(), re.MULTILINE), "the shell's prompt")

    def start_again(self) -> None:
        """Start the tool from the shell that it has left: its prompt is the last line, others may be left above."""
        self.has_shell()
        self.press("C-u")  # a tool that was killed at its start leaves the answer to a question about the terminal
        self.type("~/.clincus/start")

    def choose_mode(self, words: str) -> None:
        """Let Claude Code change its mode until its screen says some words."""

        def is_chosen() -> bool:
            before = self.screen()
            if words in before:
                return True
            self.press_until("BTab", lambda: self.screen() != before, "another mode")
            return words in self.screen()

        wait_until(is_chosen, words)


def config_of_claude(api: VendorApi, **variables: str) -> str:
    """A configuration with the real Claude Code at the stand-in for its API; a variable that is empty is left out."""
    wanted = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": KEY, **FRUGAL, **variables}
    return config("claude", **{name: value for name, value in wanted.items() if value})


@pytest.fixture
def claude(bed, start_server, workspace, api) -> Callable[..., Tool]:
    """A function that starts the real Claude Code, with some variables, and waits until it takes a prompt."""

    def start(**variables: str) -> Tool:
        server = start_server(config=config_of_claude(api, **variables))
        tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
        tool.becomes("idle")
        return tool

    return start


@pytest.fixture(scope="module")
def shared_claude(bed, start_shared, keep_session, api) -> Tool:
    """One Claude Code: each start of it takes seconds of a core."""
    server = start_shared(config=NO_CHECKPOINTS + config_of_claude(api))
    tool = Tool(bed, server, keep_session(server, profile="real")["id"])
    tool.first = tool.agent()
    tool.is_ready()
    return tool


@pytest.fixture
def claude_at_rest(shared_claude) -> Tool:
    """The Claude Code of this file, at an empty prompt and in the mode that it starts in."""
    if shared_claude.agent()["state"] not in ("idle", "done", "ended"):  # a test has failed
        shared_claude.sh("pkill -KILL -x claude; pkill -x tail; true")
        shared_claude.becomes("ended", "crashed")
    if shared_claude.agent()["state"] == "ended":
        shared_claude.press("C-l")  # what is left of its screen stands below the shell's prompt
        shared_claude.start_again()
        shared_claude.is_ready()
    shared_claude.press("C-u")
    shared_claude.choose_mode("bypass permissions on")
    return shared_claude


def test_a_tool_starts_before_it_takes_a_prompt(shared_claude):
    assert (shared_claude.first["state"], shared_claude.first["options"]) == ("starting", [])


def test_a_turn_is_done_until_somebody_has_seen_it(bed, claude_at_rest):
    tool = claude_at_rest
    tool.type("say hello there")
    done = tool.becomes("done", text="hello there")
    assert (done["source"], done["seen"]) == ("hook", False)
    same = json.loads(run_cli(bed, tool.server, "why", tool.id, "--format", "json").stdout)
    assert [same[name] for name in ("state", "text", "since")] == [done[name] for name in ("state", "text", "since")]
    tool.post("seen")
    assert tool.becomes("idle")["seen"]


@pytest.fixture
def stub(bed, start_server, workspace) -> Tool:
    """The stand-in of a tool; its hooks run when a test says so, once it has started: that forgets earlier ones."""
    server = start_server(config=NO_CHECKPOINTS)
    tool = Tool(bed, server, server.create(workspace)["id"])
    tool.shows("STUB-READY")
    return tool


@pytest.mark.day
def test_what_was_seen_and_what_was_not_outlives_the_server(stub, start_server):
    stub.tells("Stop", last_assistant_message="hello there")
    stub.becomes("done", text="hello there")
    assert stub.server.post(f"/api/sessions/{stub.id}/seen").status == 204
    stub.server.stop()
    stub.server = start_server()
    assert stub.becomes("idle", text="hello there")["seen"]
    stub.tells("UserPromptSubmit", prompt="once more")
    stub.becomes("working")
    stub.tells("Stop", last_assistant_message="once more")
    stub.becomes("done", text="once more")
    stub.server.stop()
    stub.server = start_server()
    assert not stub.becomes("done", text="once more")["seen"]
    assert stub.server.delete(f"/api/sessions/{stub.id}").status == 204
    stub.becomes("none")


def test_a_question_is_told_with_its_choices_until_it_is_answered(claude_at_rest):
    tool = claude_at_rest
    tool.type("ask")
    assert tool.becomes("waiting", "question", TEXT)["options"] == COLOURS
    tool.shows("Enter to select")
    assert tool.agent()["source"] == "hook"
    tool.press_to_leave("2")
    tool.becomes("done", text="The tool has answered.")
    tool.shows("Green")
    tool.type("ask")
    tool.becomes("waiting", "question")
    tool.shows("Enter to select")
    tool.press_to_leave("Escape")
    tool.becomes("idle", "interrupted")


def test_a_plan_can_be_read_whole(claude_at_rest):
    tool = claude_at_rest
    tool.choose_mode("plan mode on")
    tool.type("plan")
    asked = tool.becomes("waiting", "plan")
    assert asked["detail"] == PLAN.strip() or asked["detail"] == PLAN.rstrip("\n")
    wait_until(lambda: tool.agent()["options"], "the choices on the screen")
    assert tool.agent()["options"][-1].startswith("Tell Claude")
    tool.press_to_leave("Escape")
    tool.becomes("idle", "interrupted")


def test_a_permission_is_told_and_given(claude_at_rest):
    tool = claude_at_rest
    tool.choose_mode("manual mode on")
    tool.type("bash touch made")
    asked = tool.becomes("waiting", "permission", "Bash: touch made")
    wait_until(lambda: tool.agent()["options"], "the choices on the screen")
    assert tool.agent()["options"][0] == "Yes"
    assert asked["source"] == "hook"
    tool.press_to_leave("1")
    tool.becomes("done")


def test_work_that_stalls_is_stuck_after_five_minutes(claude, api, start_server):
    tool = claude()
    tool.post("prompt", {"text": "stall"})
    tool.becomes("working")
    wait_until(lambda: re.search(r"[0-9]+s · ", tool.screen()), "the time that it has taken")
    tool.is_put_back(lambda: start_server(config=config_of_claude(api)))
    tool.becomes("stuck")
    assert tool.agent()["source"] == "screen"
    tool.press_to_leave("Escape")
    tool.becomes("idle", "interrupted")


def test_a_retry_is_told_with_the_error(claude_at_rest):
    """An interruption of it puts the prompt back, which is no end of a turn."""
    tool = claude_at_rest
    tool.type("say hello there")
    tool.becomes("done", text="hello there")
    tool.post("seen")
    text = "status 429 漢字\nand more"
    tool.post("prompt", {"text": text})
    assert "attempt" in tool.becomes("working", "retry", "429 stand-in")["text"]
    tool.press_to_leave("Escape")
    before = tool.becomes("idle", "interrupted")
    tool.empties_input(text)
    wait_until(lambda: tool.agent()["why"]["at"] > before["why"]["at"], "another look")
    assert (tool.agent()["state"], tool.agent()["reason"]) == ("idle", "interrupted")


def test_a_dialog_is_told_with_its_choices_and_answered(claude_at_rest):
    """The offer that Clincus answers beforehand has choices without numbers, and no line of hints."""
    tool = claude_at_rest
    tool.type("/exit")
    tool.becomes("ended", text="exit code 0")
    tool.sh("""sed -i 's/"hasSeenAutoDefaultNudge": *true/"hasSeenAutoDefaultNudge": false/' ~/.claude.json""")
    tool.start_again()
    asked = tool.becomes("waiting", "dialog", "Make auto mode your default permission mode?")
    assert asked["options"] == ["Yes, set auto mode as my default permission mode", "No, keep bypass permissions"]
    tool.answer(2)
    tool.becomes("idle")
    wait_until(lambda: "bypass permissions on" in tool.screen(), "the mode as it was")


REASONS = {401: "auth", 402: "billing", 429: "rate_limit", 500: "server_error", 529: "overloaded", 400: "other"}


def test_what_fails_at_once_is_told_with_its_reason(claude_at_rest):
    tool = claude_at_rest
    tool.type("status 400")
    assert tool.becomes("failed", "other", "400")["source"] == "hook"


def test_what_failed_is_told_with_its_reason(claude):
    tool = claude(CLAUDE_CODE_MAX_RETRIES="1")
    for status, reason in REASONS.items():
        tool.type(f"status {status}")
        assert tool.becomes("failed", reason, str(status))["source"] == "hook"
        tool.press("C-u")


def test_without_a_network_it_has_failed_by_that(claude):
    tool = claude(CLAUDE_CODE_MAX_RETRIES="1", ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    tool.type("say hello")
    tool.becomes("failed", "network", "ECONNREFUSED")


def test_the_state_is_known_without_a_network_card_and_after_restarts(bed, start_server, workspace):
    """The daemon dies and comes back, and then the container; a build without output is not stuck meanwhile.

    A daemon that is told to stop waits minutes for a command that began just then: its client cannot connect any more.
    """
    server = start_server(config=NO_CHECKPOINTS)
    stub = Tool(bed, server, server.create(workspace, network="none")["id"])
    stub.shows("STUB-READY")
    stub.tells("UserPromptSubmit", prompt="say hello")
    stub.becomes("working")
    with killed(bed):
        pass
    wait_until(lambda: stub.server.get("/api/sessions").status == 200, "the daemon that was started again")
    stub.tells("Stop", last_assistant_message="hello")
    stub.becomes("done", text="hello")
    bed.restart_instance(stub.id)
    stub.becomes("ended", "crashed")
    stub.post("resume")
    stub.shows("STUB-READY")
    stub.tells("Stop", last_assistant_message="hello at last")
    stub.becomes("done", text="hello at last")
    listed = {one["id"]: one["agent"] for one in stub.server.get("/api/sessions").json}[stub.id]
    assert (listed["state"], listed["text"]) == ("done", "hello at last"), "for a page that comes now"

    bed.draw(stub.id, CLAUDE_WORKS)
    stub.becomes("working")
    stub.sh("setsid sh -c 'while :; do :; done' build >/dev/null 2>&1 </dev/null &")
    stub.sh("touch -d '-10 min' ~/.clincus/agent/screen")  # the clock is not moved
    at = stub.agent()["why"]["at"]
    wait_until(lambda: stub.agent()["why"]["at"] > at, "another look")
    assert stub.agent()["state"] == "working"
    stub.sh("pkill -f ' [b]uild$'")
    stub.is_put_back(start_server)
    assert stub.becomes("stuck")["source"] == "screen"


def test_without_an_account_it_has_failed_and_a_login_waits(claude):
    tool = claude(ANTHROPIC_API_KEY="")
    tool.type("say hello")
    tool.becomes("failed", "auth", "Not logged in")
    tool.press("C-u")
    tool.type("/login")
    tool.becomes("waiting", "login")


def test_what_runs_in_the_background_is_told_and_asks(claude_at_rest):
    tool = claude_at_rest
    tool.type("background tail -f /dev/null")
    done = tool.becomes("done", text="(1 shell in the background)")
    tool.ends_program("tail")  # which wakes Claude Code
    wait_until(lambda: tool.agent()["turn"] > done["turn"], "the turn that the end of the server begins")
    tool.becomes("done")
    tool.post("prompt", {"text": "delegate bash tail -f /dev/null"})
    tool.becomes("working", text="Waiting for 1 background agent to finish")
    tool.ends_program("tail")
    assert "in the background" not in tool.becomes("done", text="The tool has answered.")["text"]
    tool.choose_mode("manual mode on")
    tool.post("prompt", {"text": "delegate bash touch made-behind"})
    tool.becomes("waiting", "permission", "touch made-behind")
    tool.answer(1)
    assert "in the background" not in tool.becomes("done", text="The tool has answered.")["text"]


OWN_HOOKS = {
    "Stop": "touch /tmp/own; grep -q '\"stop_hook_active\": *true' || { sleep 3; echo go on >&2; exit 2; }",
    "UserPromptSubmit": "! grep -q secret || { echo no secrets >&2; exit 2; }",
}


def test_hooks_of_the_project_and_the_image_stay_and_are_heard(claude_at_rest):
    """One lets Claude Code go on: its turn is done once. One refuses a prompt: Claude Code reports its begin only."""
    tool = claude_at_rest
    tool.type("/exit")
    tool.becomes("ended")
    own = {event: [{"hooks": [{"type": "command", "command": command}]}] for event, command in OWN_HOOKS.items()}
    settings = "/etc/claude-code/managed-settings.d/60-project.json"
    tool.sh(f"cat >{settings} <<'END'\n{json.dumps({'hooks': own})}\nEND", user=0)
    tool.start_again()
    tool.is_ready()
    tool.post("prompt", {"text": "say hello"})
    tool.becomes("done", text="hello")
    assert (tool.sh("ls /tmp/own"), tool.sh("grep -c Stop ~/.clincus/agent/events").strip()) == ("/tmp/own\n", "2")
    tool.type("say a secret")
    failed = tool.becomes("failed", "other", "blocked by hook")
    tool.sh(f"rm {settings}", user=0)
    assert "no secrets" in failed["text"]
    tool.empties_input("say a secret")


def test_words_of_an_agent_are_no_dialog_and_what_a_person_opens_is_one(claude_at_rest):
    tool = claude_at_rest
    for words in ("say Keep it?\n1. Yes, keep it\n2. No, drop it", "say Enter to confirm · Esc to cancel"):
        tool.post("prompt", {"text": words})
        assert tool.becomes("done", text=words.split("\n")[0][4:])["options"] == []
        tool.post("seen")
    tool.type("/model")
    opened = tool.becomes("waiting", "dialog", "Select model")
    assert (opened["source"], opened["why"]["rule"]) == ("screen", "claude/panel")
    tool.press_to_leave("Escape")


def test_a_person_who_types_while_it_works_does_not_end_its_work(claude_at_rest):
    """Its screen says nothing of an interruption then."""
    tool = claude_at_rest
    tool.post("prompt", {"text": "stall"})
    tool.becomes("working")
    tool.sh(f"tmux send-keys -t =clincus-{tool.id}: -l 'half a text'")
    tool.shows("❯\u00a0half a text")
    wait_until(lambda: re.search(r"\(1[0-9]s", tool.screen()), "ten seconds")
    assert "esc to interrupt" not in tool.screen()
    assert tool.agent()["state"] == "working"
    tool.press("C-u")
    tool.post("interrupt")
    tool.becomes("idle", "interrupted")


def test_a_tool_that_a_person_starts_again_by_its_name_is_watched_again(claude_at_rest):
    tool = claude_at_rest
    tool.type("say hello")
    tool.becomes("done", text="hello")
    tool.has_written("hello")
    tool.type("/exit")
    ended = tool.becomes("ended", text="exit code 0")

    def start_by_name() -> None:
        tool.has_shell()
        tool.press("C-u")
        tool.type("PATH=/opt/tools:$PATH; claude --dangerously-skip-permissions --continue")
        tool.is_ready()

    start_by_name()
    assert tool.agent()["turn"] > ended["turn"]
    tool.post("prompt", {"text": "say hello again"})
    assert tool.becomes("done", text="hello again")["source"] == "hook"
    tool.sh("pkill -KILL -x claude")
    tool.becomes("ended", "crashed", "exit code 137")
    start_by_name()
    tool.type("/exit")
    assert tool.becomes("ended", text="exit code 0")["reason"] == ""
    tool.start_again()
    tool.is_ready()


def test_a_tool_that_is_killed_leaves_a_shell(claude_at_rest):
    tool = claude_at_rest
    tool.sh("pkill -KILL -x claude")
    tool.becomes("ended", "crashed", "137")
    tool.start_again()
    tool.is_ready()


def conversations(tool: Tool) -> dict[str, str]:
    """The files of Claude Code's conversations in the container, with their contents."""
    names = tool.sh("cd ~/.claude/projects/-workspace 2>/dev/null && ls || true").split()
    return {name: tool.sh(f"cat ~/.claude/projects/-workspace/{name}") for name in names if ".jsonl" in name}


def test_a_tool_that_was_left_before_its_first_prompt_starts_afresh_and_nothing_is_deleted(
    bed, shared_claude, workspace
):
    """Claude Code writes a file without a message when it is left, and none when its session is stopped."""
    server = shared_claude.server
    created = server.create(workspace, profile="real")
    tool, name = Tool(bed, server, created["id"]), f"{created['session_id']}.jsonl"

    def leave() -> None:
        tool.is_ready()
        tool.type("/exit")
        tool.becomes("ended")

    def restart() -> None:
        assert server.delete(f"/api/sessions/{tool.id}").status == 204
        tool.becomes("none")
        tool.post("resume")

    leave()
    left = conversations(tool)
    restart()
    leave()
    asides = conversations(tool)
    tool.start_again()
    tool.is_ready()
    tool.type("say remember the milk")
    tool.becomes("done", text="remember the milk")
    tool.has_written("remember the milk")
    told = conversations(tool)
    for again in (restart, tool.start_again):
        again()
        tool.shows("say remember the milk")
        leave()
    after = conversations(tool)
    kept = [text for one, text in after.items() if one.startswith(f"{name}.aside-")]
    assert left.keys() == {name}
    assert sorted(kept) == sorted([left[name], asides[name]]), "each file without a message"
    assert after.keys() == told.keys()
    assert after[name].startswith(told[name])


def variables_of_copilot(api: VendorApi) -> dict[str, str]:
    """What makes Copilot CLI use the stand-in for its vendor's API."""
    return {
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_TYPE": "anthropic",
        "COPILOT_PROVIDER_BASE_URL": api.url,
        "COPILOT_PROVIDER_API_KEY": KEY,
        "COPILOT_MODEL": "claude-sonnet-4.5",
    }


@pytest.mark.timeout(1200)
def test_copilot_tells_the_same(bed, start_server, workspace, api):
    variables = variables_of_copilot(api)
    server = start_server(config=config("copilot", **variables))
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    assert tool.agent()["state"] == "starting"
    tool.becomes("idle")
    tool.type("ask")
    assert tool.becomes("waiting", "question", TEXT)["options"] == COLOURS
    tool.answer(2)
    tool.becomes("done")
    tool.shows("Green")
    tool.post("seen")
    tool.becomes("idle")
    for prompt in ("stall", "hush") * 3:
        tool.type(prompt)
        tool.becomes("working")
        tool.post("interrupt")
        assert tool.becomes("idle", "interrupted")["source"] == "screen"
        tool.press("C-u")  # it puts a prompt without an answer back into its input
    for status, reason in {401: "auth", 400: "other"}.items():
        tool.type(f"status {status}")
        assert tool.becomes("failed", reason, str(status))["source"] == "screen"
    for status in (429, 500):  # it tries for a minute
        tool.type(f"status {status}")
        tool.becomes("working", "retry", f"stand-in {status} (attempt 2 failed)")
        tool.post("interrupt")
        wait_until(lambda: "Working" not in tool.screen(), "the interruption")
        tool.press("C-u")
    tool.type("say hello")
    tool.becomes("done")
    tool.shows("● hello")
    tool.type("/exit")
    tool.becomes("ended", text="exit code 0")
    tool.start_again()
    tool.becomes("idle")
    tool.sh("pkill -KILL -f [/]opt/tools/copilot")
    tool.becomes("ended", "crashed")


@pytest.mark.timeout(1200)
def test_copilot_tells_of_its_dialogs_and_starts_again_by_its_name(bed, start_server, workspace, api):
    variables = variables_of_copilot(api)
    server = start_server(config=config("copilot", **variables))
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    tool.becomes("idle")
    tool.type("say hello")
    tool.becomes("done")
    tool.post("seen")
    tool.type("/model")
    assert tool.becomes("waiting", "dialog", "enter to select")["seen"], "a person has opened it"
    tool.press_to_leave("Escape")
    tool.becomes("idle")
    tool.choose_mode("Plan · ")
    tool.post("prompt", {"text": "plan"})
    asked = tool.becomes("waiting", "plan", "The plan")
    assert (asked["options"][0][:11], asked["options"][-1]) == ("Accept plan", "Suggest changes")
    answer = tool.server.post(f"/api/sessions/{tool.id}/answer", {"text": "make it shorter"})
    assert answer.json == {"result": "answered"}, tool.screen()
    tool.becomes("done")
    tool.choose_mode("Interactive · ")
    tool.type("stall")
    tool.becomes("working")
    tool.is_put_back(lambda: start_server(config=config("copilot", **variables)))
    tool.becomes("stuck")
    tool.post("interrupt")
    tool.becomes("idle", "interrupted")
    tool.press("C-u")
    tool.type("/exit")
    tool.becomes("ended", text="exit code 0")
    tool.has_shell()
    tool.press("C-l")
    tool.type("PATH=/opt/tools:$PATH; copilot")  # which asks for all
    tool.becomes("idle")
    tool.post("prompt", {"text": "bash touch made"})
    asked = tool.becomes("waiting", "permission")
    wait_until(lambda: tool.agent()["options"], "the choices on the screen")
    assert tool.agent()["options"][0] == "Yes"
    tool.answer(1)
    tool.becomes("done")
    assert (workspace / "made").exists()
    tool.type("/exit")
    tool.becomes("ended", text="a person had started it again")
    tool.has_shell()
    tool.press("C-l")
    tool.type("mkdir -p /tmp/other; cd /tmp/other; copilot")
    asked = tool.becomes("waiting", "dialog", "Do you trust the files in this folder?")
    tool.answer(asked["options"].index("Yes") + 1)
    tool.becomes("idle")
    tool.type("/exit")
    tool.becomes("ended")
    tool.has_shell()
    tool.press("C-l")
    tool.type("cd /workspace; env -u COPILOT_OFFLINE -u COPILOT_PROVIDER_TYPE copilot")
    tool.becomes("idle")
    tool.type("/login")
    asked = tool.becomes("waiting", "login", "What account do you want to log into?")
    tool.answer(asked["options"].index("GitHub.com") + 1)
    tool.becomes("waiting", "login", "How do you want to sign in?")
    tool.sh("pkill -KILL -f ^copilot")  # its main thread has a name of its own
    tool.becomes("ended")


@pytest.mark.timeout(1800)
def test_why_copilot_has_failed_is_told(bed, start_server, workspace, api):
    server = start_server(config=config("copilot", **variables_of_copilot(api)))
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    tool.becomes("idle")
    for status, reason in {402: "billing", 429: "rate_limit", 500: "server_error", 529: "overloaded"}.items():
        tool.type(f"status {status}")
        assert tool.becomes("failed", reason, str(status), timeout=4 * DEADLINE)["source"] == "screen"
    assert server.delete(f"/api/sessions/{tool.id}").status == 204
    tool.becomes("none")


@pytest.mark.timeout(1200)
def test_copilot_without_a_network_has_failed_by_that(bed, start_server, workspace, api):
    nowhere = {"COPILOT_PROVIDER_BASE_URL": "http://127.0.0.1:9"}
    server = start_server(config=config("copilot", **{**variables_of_copilot(api), **nowhere}))
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    tool.becomes("idle")
    tool.type("say hello")
    tool.becomes("failed", "network", timeout=4 * DEADLINE)


FIRST_TURN = 4 * DEADLINE  # opencode starts parts of itself in it, which took 92 s at a load of 45


def config_of_opencode(api: VendorApi, home: Path) -> str:
    """A configuration with the real opencode at the stand-in for its vendor's API."""
    folder = home / ".config" / "opencode"
    folder.mkdir(parents=True)
    provider = {"anthropic": {"options": {"baseURL": f"{api.url}/v1", "apiKey": KEY}}}
    (folder / "opencode.json").write_text(json.dumps({"model": "anthropic/claude-sonnet-4-5", "provider": provider}))
    return config("opencode", HTTPS_PROXY="http://127.0.0.1:9", OPENCODE_EXPERIMENTAL_PLAN_MODE="1")


@pytest.mark.timeout(1200)
def test_opencode_tells_the_same(bed, start_server, workspace, api, home):
    own = {"permission": {"bash": "ask"}}  # the project's own file beats ours
    (workspace / "opencode.json").write_text(json.dumps(own))
    server = start_server(config=config_of_opencode(api, home))
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    assert tool.agent()["state"] == "starting"
    tool.becomes("idle", timeout=4 * DEADLINE)  # it looks for its plugins in the registry first
    tool.type("ask")
    asked = tool.becomes("waiting", "question", TEXT, timeout=FIRST_TURN)
    assert asked["options"] == COLOURS
    tool.answer(2)
    tool.becomes("done")
    tool.shows("Green")
    for option, made in ((3, False), (1, True)):
        tool.type("bash touch made")
        asked = tool.becomes("waiting", "permission", "bash: touch made")
        tool.answer(option)
        tool.becomes("done")
        assert (workspace / "made").exists() == made
        assert asked["source"] == "hook"
    tool.type("ask more")
    for option, text in ((2, f"{TEXT} (1 of 2 questions)"), (1, "Which sizes do you want?"), (1, "Review")):
        assert tool.becomes("waiting", "question", text)["text"] == text
        tool.answer(option)
    tool.becomes("done")
    tool.type("stall")
    tool.becomes("working")
    tool.sh(f"tmux send-keys -t =clincus-{tool.id}: -l 'half a text'")
    tool.shows("half a text")
    tool.post("interrupt")
    tool.becomes("idle", "interrupted")
    tool.shows("half a text")
    tool.press("C-u")
    tool.type("status 401")
    tool.becomes("failed", "auth", "stand-in 401")
    for status in (429, 500):
        tool.type(f"status {status}")
        tool.becomes("working", "retry", f"stand-in {status}")
        tool.post("interrupt")
        tool.becomes("idle", "interrupted")
    tool.sh("pkill -KILL -f [/]opt/tools/opencode")
    tool.becomes("ended", "crashed")


# What opencode draws for it looks like a panel of its own, and stands there while a real one is opened over it.
PANEL_WORDS = f"say ```\n{' ' * 30}Commands{' ' * 40}esc\n{' ' * 30}Search\n```"


@pytest.mark.timeout(1200)
def test_opencode_tells_of_a_plan_of_what_a_person_opens_and_of_its_end(bed, start_server, workspace, api, home):
    config = config_of_opencode(api, home)
    server = start_server(config=config)
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    tool.becomes("idle", timeout=4 * DEADLINE)
    tool.post("prompt", {"text": PANEL_WORDS})
    tool.becomes("done", text="", timeout=FIRST_TURN)
    tool.shows("Search")
    tool.post("seen")
    tool.becomes("idle")
    assert tool.server.post(f"/api/sessions/{tool.id}/prompt", {"text": "say hello"}).json["result"] == "submitted"
    tool.becomes("done")
    tool.post("seen")
    tool.becomes("idle")
    tool.press("C-p")
    assert tool.becomes("waiting", "dialog", "Commands")["seen"], "a person has opened it"
    tool.press("Escape")
    tool.becomes("idle")
    tool.type("/connect")
    tool.becomes("waiting", "login", "Connect a provider")
    tool.press("Escape")
    tool.becomes("idle")
    tool.press("Tab")
    tool.shows("Plan · Claude")
    tool.post("prompt", {"text": "plan"})
    asked = tool.becomes("waiting", "plan", "Would you like to switch to the build agent")
    assert asked["options"] == ["Yes", "No"]
    tool.answer(2)
    tool.becomes("done")
    tool.type("stall")
    tool.becomes("working")
    tool.is_put_back(lambda: start_server(config=config))
    tool.becomes("stuck")
    tool.post("interrupt")
    tool.becomes("idle", "interrupted")
    tool.type("/exit")
    tool.becomes("ended", text="exit code 0")


@pytest.mark.timeout(1200)
def test_why_opencode_has_failed_is_told(bed, start_server, workspace, api, home):
    server = start_server(config=config_of_opencode(api, home))
    tool = Tool(bed, server, server.create(workspace, profile="real")["id"])
    tool.becomes("idle", timeout=4 * DEADLINE)
    for status, reason in {402: "billing", 400: "other"}.items():
        tool.type(f"status {status}")
        assert tool.becomes("failed", reason, f"stand-in {status}", timeout=FIRST_TURN)["source"] == "hook"
    assert server.delete(f"/api/sessions/{tool.id}").status == 204
    tool.becomes("none")
