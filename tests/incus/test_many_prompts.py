"""Prompts and answers in a row to the real Claude Code on a busy machine: each arrives once, and where it belongs.

    CLINCUS_PROMPTS=100 CLINCUS_ANSWERS=30 .venv/bin/python -m pytest -m nightly tests/incus/test_many_prompts.py

The stand-in for the vendor's API sees what arrives. Both cores have something else to do meanwhile.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from test_prompts import KEY, Claude, api  # noqa: F401  # a fixture

from tests.programs import NO_CHECKPOINTS, wait_until
from tests.real_tools import FRUGAL, real_tool
from tests.vendor_api import QUESTION, VendorApi

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(6 * 3600)]
PROMPTS = int(os.environ.get("CLINCUS_PROMPTS", "1000"))
ANSWERS = int(os.environ.get("CLINCUS_ANSWERS", "300"))
ROUNDS = 10  # of some prompts, most of which go through the queue, and then some questions
FULL = 50  # prompts in the queue at which to wait
COLOURS = [option["label"] for option in QUESTION["questions"][0]["options"]]


@pytest.fixture
def busy() -> Iterator[None]:
    """Something that uses every core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.fixture
def tool(bed, start_server, workspace, api: VendorApi) -> Claude:  # noqa: F811
    """The real Claude Code, which takes a prompt."""
    environment = "".join(f', {name} = "{value}"' for name, value in FRUGAL.items())
    server = start_server(
        config=f"""{NO_CHECKPOINTS}[tool]
name = "claude"
binary = "/opt/tools/claude"
[[mounts.default]]
host = "{real_tool("claude").parent}"
container = "/opt/tools"
readonly = true
[profiles.real]
environment = {{ ANTHROPIC_BASE_URL = "{api.url}", ANTHROPIC_API_KEY = "{KEY}"{environment} }}
"""
    )
    found = Claude(bed, server, server.create(workspace, profile="real")["id"])
    found.becomes("idle")
    return found


def text_of(number: int) -> str:
    """A prompt of a few lines that no other one contains."""
    return f"prompt {number:06} 👩‍🚀\n    second line\nthe end of {number:06}"


def answer_of(number: int) -> str:
    """The answer to a question: one of its options, or each fourth time words."""
    return COLOURS[number % 4] if number % 4 < 3 else f"Purple {number}"


class Figures(NamedTuple):
    """What became of prompts and answers by what the vendor saw."""

    lost: int
    twice: int
    wrong: dict[int, str | None]  # answers that belong to another question, or never came


def arrived_by(api: VendorApi, prompts: int, answers: int) -> Figures:  # noqa: F811
    """Count what has arrived of so many prompts and answers."""
    wait_until(lambda: text_of(prompts - 1) in api.texts, "the last prompt")
    arrived = Counter(api.texts)
    counts = [arrived[text_of(number)] for number in range(prompts)]
    given = dict(re.findall(r"\((\d+)\)\W+=\W+([\w ]+)", "\n".join(api.results)))
    wrong = {number: given.get(str(number)) for number in range(answers) if given.get(str(number)) != answer_of(number)}
    return Figures(counts.count(0), sum(count > 1 for count in counts), wrong)


class Sums:
    """Sends prompts and answers, and counts what became of them."""

    def __init__(self, tool: Claude) -> None:
        self.tool = tool
        self.counts: Counter[str] = Counter()

    def open_prompts(self) -> int:
        """How many wait in the queue or are being typed."""
        return sum(how in ("queued", "sending") for _, how in self.tool.prompts())

    def prompt(self, text: str) -> None:
        """Send a prompt, again while it is refused."""

        def is_sent() -> bool:
            answer = self.tool.post("prompt", {"text": text})
            self.counts[f"prompt {answer.json.get('result', answer.json.get('error'))}"] += 1
            return bool(answer.status == 200)

        wait_until(is_sent, f"the prompt {text!r}")

    def answer(self, number: int) -> None:
        """Let the tool ask, and answer as soon as people are told of the options."""
        self.tool.becomes("done", "idle")
        self.prompt(f"ask {number}")
        words = f"({number})"
        asked = wait_until(lambda: (one := self.tool.agent())["options"] and words in one["text"] and one, words)
        option = COLOURS.index(answer_of(number)) + 1 if answer_of(number) in COLOURS else None
        given = {"text": answer_of(number)} if option is None else {"option": option}
        body = {**given, "question": asked["text"], "number": asked["question"]}
        answer = self.tool.post("answer", body)
        self.counts[f"answer {answer.json.get('result', answer.json.get('error'))}"] += 1
        if answer.json.get("result") != "answered":
            print(f"{number}: {answer.json}\n{self.tool.bed.screen(self.tool.id)}")
            self.tool.post("interrupt")
        self.tool.becomes("done", "idle")


def test_many_prompts_and_answers_arrive_once_and_where_they_belong(tool, api, busy):  # noqa: F811
    sums, begin = Sums(tool), time.monotonic()
    for turn in range(ROUNDS):
        for number in range(PROMPTS * turn // ROUNDS, PROMPTS * (turn + 1) // ROUNDS):
            wait_until(lambda: sums.open_prompts() < FULL, "room in the queue", 3600)
            sums.prompt(text_of(number))
        wait_until(lambda: not sums.open_prompts(), "an empty queue", 3600)
        for number in range(ANSWERS * turn // ROUNDS, ANSWERS * (turn + 1) // ROUNDS):
            sums.answer(number)
        figures = arrived_by(api, PROMPTS * (turn + 1) // ROUNDS, ANSWERS * (turn + 1) // ROUNDS)
        print(f"{turn + 1} of {ROUNDS} after {time.monotonic() - begin:.0f} s, busy: {dict(sums.counts)}", flush=True)
        print(f"  of {sum(sums.counts.values())} so far: {figures}", flush=True)
        assert figures == Figures(lost=0, twice=0, wrong={})
    assert sums.counts["answer answered"] == ANSWERS
