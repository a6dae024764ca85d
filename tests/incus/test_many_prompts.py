"""Prompts and answers in a row to the real Claude Code on a busy machine: each arrives once, and where it belongs.

    CLINCUS_PROMPTS=100 CLINCUS_ANSWERS=30 .venv/bin/python -m pytest -m nightly tests/incus/test_many_prompts.py

The stand-in for the vendor's API sees what arrives. All cores have something else to do meanwhile: CLINCUS_LOOPS
endless loops, one for each core unless told otherwise. With CLINCUS_FIGURES=FILE the figures outlive a run that is
stopped, and the next run with this file goes on behind them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from test_prompts import KEY, Claude, api  # noqa: F401  # a fixture

from tests.programs import NO_CHECKPOINTS, Answer, wait_until
from tests.real_tools import FRUGAL, real_tool
from tests.vendor_api import QUESTION, VendorApi

pytestmark = [pytest.mark.timeout(6 * 3600)]
PROMPTS = int(os.environ.get("CLINCUS_PROMPTS", "1000"))
ANSWERS = int(os.environ.get("CLINCUS_ANSWERS", "300"))
LOOPS = int(os.environ.get("CLINCUS_LOOPS", os.cpu_count() or 1))
FIGURES = os.environ.get("CLINCUS_FIGURES", "")
ROUNDS = 50  # of some prompts, most of which go through the queue, and then some questions
FULL = 50  # prompts in the queue at which to wait
COLOURS = [option["label"] for option in QUESTION["questions"][0]["options"]]


@pytest.fixture
def busy() -> Iterator[None]:
    """Something that uses every core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(LOOPS)]
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


@dataclass
class Figures:
    """What became of prompts and answers by what the vendor saw, in this run and those before."""

    prompts: int = 0  # sent, and looked for
    answers: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: dict[str, str | None] = field(default_factory=dict)  # answers to another question, or that never came
    results: dict[str, int] = field(default_factory=dict)  # what the server answered
    seconds: float = 0.0
    runs: int = 0

    @classmethod
    def load(cls) -> Figures:
        """Those of the runs before."""
        file = Path(FIGURES) if FIGURES else None
        return cls(**json.loads(file.read_text())) if file and file.exists() else cls()

    def keep(self) -> None:
        """Write them down for the next run."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        print(text, flush=True)
        if FIGURES:
            Path(f"{FIGURES}.new").write_text(text)
            Path(f"{FIGURES}.new").replace(FIGURES)

    def count(self, api: VendorApi, prompts: range, answers: range) -> None:  # noqa: F811
        """Add what has arrived of these prompts and answers."""
        if prompts:
            wait_until(lambda: text_of(prompts[-1]) in api.texts, "the last prompt")
        arrived = Counter(api.texts)
        counts = {text_of(number): arrived[text_of(number)] for number in prompts}
        self.lost += [text for text, count in counts.items() if count == 0]
        self.twice += [text for text, count in counts.items() if count > 1]
        given = dict(re.findall(r"\((\d+)\)\W+=\W+([\w ]+)", "\n".join(api.results)))
        found = {number: given.get(str(number)) for number in answers}
        self.wrong |= {str(number): answer for number, answer in found.items() if answer != answer_of(number)}
        self.prompts, self.answers = self.prompts + len(prompts), self.answers + len(answers)


class Sums:
    """Sends prompts and answers, and counts what the server says of them."""

    def __init__(self, tool: Claude, counts: dict[str, int]) -> None:
        self.tool = tool
        self._counts = counts  # what the server answered -> how often

    def count(self, what: str, answer: Answer) -> None:
        """Count an answer of the server."""
        word = f"{what} {answer.json.get('result', answer.json.get('error'))}"
        self._counts[word] = self._counts.get(word, 0) + 1

    def open_prompts(self) -> int:
        """How many wait in the queue or are being typed."""
        return sum(how in ("queued", "sending") for _, how in self.tool.prompts())

    def prompt(self, text: str) -> None:
        """Send a prompt, again while it is refused."""

        def is_sent() -> bool:
            answer = self.tool.post("prompt", {"text": text})
            self.count("prompt", answer)
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
        self.count("answer", answer)
        if answer.json.get("result") != "answered":
            print(f"{number}: {answer.json}\n{self.tool.bed.screen(self.tool.id)}")
            self.tool.post("interrupt")
        self.tool.becomes("done", "idle")


def test_many_prompts_and_answers_arrive_once_and_where_they_belong(tool, api, busy):  # noqa: F811
    figures = Figures.load()
    figures.runs += 1
    sums = Sums(tool, figures.results)
    while figures.prompts < PROMPTS or figures.answers < ANSWERS:
        begin = time.monotonic()
        prompts = range(figures.prompts, min(PROMPTS, figures.prompts + -(-PROMPTS // ROUNDS)))
        answers = range(figures.answers, min(ANSWERS, figures.answers + -(-ANSWERS // ROUNDS)))
        for number in prompts:
            wait_until(lambda: sums.open_prompts() < FULL, "room in the queue", 3600)
            sums.prompt(text_of(number))
        wait_until(lambda: not sums.open_prompts(), "an empty queue", 3600)
        for number in answers:
            sums.answer(number)
        figures.count(api, prompts, answers)
        figures.seconds += time.monotonic() - begin
        figures.keep()
        assert (figures.lost, figures.twice, figures.wrong) == ([], [], {})
    assert figures.results["answer answered"] == ANSWERS
