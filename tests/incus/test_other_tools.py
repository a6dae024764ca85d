"""A tool of the user's config, from its start to its resume in a new container, with a stub for it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from test_prompts import cli

from tests.programs import DEADLINE, NO_CHECKPOINTS, program, wait_until

# The stub runs as `opencode`, but Clincus knows it by this table only.
MINE = r"""
[tools.mine]
command = ["opencode", "two words"]
resume = ["--continue"]
prompt = ["--ask={prompt}"]
settings = [".mine"]
credentials = [".local/share/opencode/token"]
saved = [".local/share/opencode"]
rules = [
  { name = "asks", state = "waiting", reason = "question", pattern = '^echo: (?P<text>.+\?)$', last = 1 },
  { name = "counts", state = "working", pattern = '^\d+$', last = 1 },
  { state = "failed", reason = "auth", pattern = '^echo: (?P<text>no key.*)', last = 1 },
  { state = "ready", pattern = '^(STUB-READY|echo: ).*\Z', last = 1 },
]
[tools.absent]
command = ["no-such-tool"]
"""
ASKS = r"""
[tools.asks]
command = ["sh", "-c", 'printf "Your name? "; read -r n; printf "Your age? "; read -r a; echo "hello $n, $a"; cat']
rules = [
  { state = "waiting", reason = "question", pattern = '^(?P<text>Your \w+\?)', last = 1 },
  { state = "ready", pattern = '^hello .*\Z', last = 1 },
]
"""


def why(bed, server, session: str) -> str:
    """What `clincus why` prints; it asks no server."""
    environ = {**os.environ, **bed.environ, "HOME": str(server.home)}
    argv = [*program(), "why", session]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=True, timeout=DEADLINE).stdout


def test_a_tool_of_the_config_lives_as_the_others_do(bed, start_server, workspace, home):
    (home / ".mine").write_text("settings of mine")
    (home / ".local/share/opencode").mkdir(parents=True)
    (home / ".local/share/opencode/token").write_text("secret")
    server = start_server(config=MINE)
    assert server.get("/api/tools").json[-2:] == ["mine", "absent"]
    session = server.create(workspace, tool="mine", prompt="say 'hi'; $HOME")
    path = f"/api/sessions/{session['id']}"

    def becomes(state: str, reason: str = "", text: str = "") -> None:
        wanted = (state, reason, text)
        wait_until(
            lambda: tuple(server.get(path).json["agent"][name] for name in ("state", "reason", "text")) == wanted,
            lambda: f"the state {wanted}; now {json.dumps(server.get(path).json['agent'])}",
        )

    def type_line(line: str) -> None:
        bed.shell(session["id"], f"tmux send-keys -t =clincus-{session['id']}: '{line}' Enter")

    becomes("idle")
    screen = bed.screen(session["id"])
    assert "args=two words --ask=say 'hi'; $HOME" in screen
    assert bed.shell(session["id"], "cat ~/.mine ~/.local/share/opencode/token") == "settings of minesecret"
    type_line("Which one?")
    becomes("waiting", "question", "Which one?")
    waits = cli(server, "wait", session["id"], "--for", "waiting", environ=bed.environ)
    assert (waits.returncode, json.loads(waits.stdout)["reason"]) == (0, "question")
    refused = cli(server, "answer", session["id"], "1", environ=bed.environ)
    assert (refused.returncode, "has no options" in refused.stderr) == (1, True)
    said = why(bed, server, session["id"])
    assert "waiting (question)" in said
    assert "mine/asks (screen, " in said
    assert "| echo: Which one?" in said
    bed.shell(session["id"], f"tmux resize-window -t =clincus-{session['id']}: -x 12")
    type_line("Which one of these, then?")  # tmux breaks the line amid a word
    becomes("waiting", "question", "Which one of these, then?")
    type_line("no key")
    becomes("failed", "auth", "no key")
    assert server.get(f"{path}/agent").json["why"]["rule"] == "mine/rule-3"
    type_line("remember the milk")
    becomes("idle")

    # Nothing proves that this tool takes a prompt, so the comments stay.
    wait_until(lambda: server.get(f"{path}/checkpoints").json, "the first checkpoint")
    comment = {"path": "README.md", "line": 1, "text": "Not like this."}
    assert server.post(f"{path}/comments", comment).status == 201
    assert server.post(f"{path}/comments/send").json["result"] == "unconfirmed"
    assert [one["text"] for one in server.get(f"{path}/comments").json] == ["Not like this."]
    bed.await_screen(session["id"], "echo: Not like this.")

    config = home / ".config/clincus/config.toml"
    config.write_text(config.read_text().partition("[tools.mine]")[0])  # what runs keeps its conversation all the same
    wait_until(lambda: "mine" not in server.get("/api/tools").json, "the config")
    assert server.delete(f"{path}?force=true").status == 204
    saved = home / ".clincus/sessions-mine" / session["session_id"]
    assert "remember the milk" in (saved / ".local/share/opencode/opencode.db").read_text()
    assert not (saved / ".local/share/opencode/token").exists()

    config.write_text(config.read_text() + MINE)
    wait_until(lambda: "mine" in server.get("/api/tools").json, "the config")
    again = server.create(workspace, resume=session["session_id"])
    assert again["tool"] == "mine"
    bed.await_screen(again["id"], "earlier: remember the milk")
    assert "args=two words --continue" in bed.screen(again["id"])


def test_the_terminal_says_that_the_image_lacks_a_tool(bed, start_server, workspace):
    server = start_server(config=MINE)
    session = server.create(workspace, tool="absent")
    screen = wait_until(
        lambda: (text := bed.screen(session["id"])) and "absent has ended" in text and text, "the end of the tool"
    )
    assert "This image has no program no-such-tool, which starts absent." in screen
    wait_until(lambda: server.get(f"/api/sessions/{session['id']}").json["agent"]["state"] == "ended", "the state")


@pytest.mark.day
def test_questions_of_a_tool_of_the_config_are_answered_by_lines(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS + ASKS)
    session = server.create(workspace, tool="asks")["id"]
    path = f"/api/sessions/{session}"

    def asked(text: str) -> int:
        def number() -> int | None:
            agent = server.get(path).json["agent"]
            return agent["question"] if (agent["state"], agent["text"]) == ("waiting", text) else None

        return int(wait_until(number, text))

    first = asked("Your name?")
    refused = server.post(f"{path}/answer", {"option": 1})
    assert (refused.status, '"text"' in refused.json["error"]) == (409, True)
    given = {"text": "Ada Lovelace", "question": "Your name?", "number": first}
    assert server.post(f"{path}/answer", given).json == {"result": "answered"}
    assert asked("Your age?") == first + 1
    late = server.post(f"{path}/answer", {**given, "text": "Ada"})
    assert (late.status, late.json["code"]) == (409, "question_closed")
    by_command = cli(server, "answer", session, "--text", "36", environ=bed.environ)
    assert (by_command.returncode, "answered" in by_command.stdout) == (0, True), by_command.stderr
    bed.await_screen(session, "hello Ada Lovelace, 36")
    wait_until(lambda: server.get(path).json["agent"]["state"] == "done", "the end")
