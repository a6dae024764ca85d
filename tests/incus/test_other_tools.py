"""A tool of the user's config, from its start to its resume in a new container, with a stub for it."""

from __future__ import annotations

import pytest

from tests.faults_bed import run_cli
from tests.programs import NO_CHECKPOINTS, wait_until

ASKS = r"""
[tools.asks]
command = ["sh", "-c", 'printf "Your name? "; read -r n; printf "Your age? "; read -r a; echo "hello $n, $a"; cat']
rules = [
  { state = "waiting", reason = "question", pattern = '^(?P<text>Your \w+\?)', last = 1 },
  { state = "ready", pattern = '^hello .*\Z', last = 1 },
]
"""


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
    by_command = run_cli(bed, server, "answer", session, "--text", "36")
    assert (by_command.returncode, "answered" in by_command.stdout) == (0, True), by_command.stderr
    bed.await_screen(session, "hello Ada Lovelace, 36")
    wait_until(lambda: server.get(path).json["agent"]["state"] == "done", "the end")
