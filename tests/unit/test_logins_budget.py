"""What is used of a login: read off the answers, kept over restarts, and held to limits."""

from __future__ import annotations

import json
import threading
from unittest.mock import Mock

import pytest

import clincus
from clincus_features.logins import budget
from clincus_features.logins.budget import Spending, Sum, reached
from clincus_features.logins.meter import Meter, Tokens
from clincus_features.logins.settings import Limit
from tests.table import table

CLAUDE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 7,
    "cache_creation_input_tokens": 3,
    "output_tokens": 5,
}
OPENAI = {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens": 5}
GEMINI = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 2}


@table(
    ("answer", "model", "tokens"),
    [
        ({"model": "claude-opus-4-6", "usage": CLAUDE}, "claude-opus-4-6", Tokens(10, 5, 7, 3)),
        ({"model": "gpt-5.5", "usage": OPENAI}, "gpt-5.5", Tokens(6, 5, 4)),
        ({"modelVersion": "gemini-2.5-pro", "usageMetadata": GEMINI}, "gemini-2.5-pro", Tokens(10, 7)),
        ({"text": 'I say "output_tokens": 999999, and "model": "cheap"'}, "", Tokens()),
    ],
)
@table("size", [1, 10000])
def test_the_answer_of_a_model_says_what_it_cost(answer, model, tokens, size):
    meter, data = Meter(), json.dumps(answer).encode() + b"\n"
    for start in range(0, len(data), size):
        found = meter.take(data[start : start + size])
    assert (found, meter.model) == (tokens, model)


def test_the_numbers_of_a_stream_grow():
    meter = Meter()
    found = [meter.take(b'{"output_tokens": %d}\n' % number) for number in (1, 20, 3)]
    assert [one.output for one in found] == [1, 20, 20]


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "Timer", Mock())  # a test writes when it wants
    (tmp_path / ".clincus").mkdir()
    return {"HOME": str(tmp_path)}


def test_what_was_used_is_there_after_a_restart_and_for_other_servers(environ):
    first = Spending(environ)
    first.add("anthropic", "one", Sum(1, 100, 0.5))
    first.add("anthropic", "two", Sum(1, 10, 0.25))
    first.write()
    second = Spending(environ)
    assert second.of_day("anthropic") == Sum(2, 110, 0.75)
    second.add("anthropic", "two", Sum(1))
    second.write()
    assert first.of_session("anthropic", "two") == Sum(2, 10, 0.25)


def test_each_day_begins_with_nothing(environ):
    days = iter(["2026-11-29"] * 2 + ["2026-11-30"] * 9)
    spending = Spending(environ, lambda: next(days))
    spending.add("github", "one", Sum(1))
    assert [spending.of_day("github").requests for _ in range(2)] == [1, 0]
    assert spending.of_session("github", "one").requests == 1


def test_tokens_are_kept_by_day_and_model_for_the_cost(environ, monkeypatch):
    days = iter(["2026-11-29", "2026-11-29", "2026-11-30"])
    monkeypatch.setattr(budget, "today_in_utc", lambda: next(days))
    first = Spending(environ)
    for tokens in (Tokens(5, 1), Tokens(7, 2), Tokens(1, 1, 3, 4)):
        first.add_tokens("one", "gpt-5.5", tokens)
    first.write()
    second = Spending(environ)
    assert second.tokens_of("one") == [
        clincus.Counted("2026-11-29", "gpt-5.5", (12, 3, 0, 0)),
        clincus.Counted("2026-11-30", "gpt-5.5", (1, 1, 3, 4)),
    ]
    assert second.tokens_of("two") == []


def test_a_container_that_names_ever_more_models_fills_no_file(environ):
    spending = Spending(environ)
    for number in range(3 * budget.MOST_ROWS):
        spending.add_tokens("one", f"model-{number}", Tokens(1))
    rows = spending.tokens_of("one")
    assert len(rows) == budget.MOST_ROWS + 1
    assert rows[-1] == clincus.Counted("", "", (2 * budget.MOST_ROWS, 0, 0, 0))


def test_a_file_without_tokens_is_read_and_one_that_cannot_be_read_is_put_aside(environ, tmp_path):
    file, torn = tmp_path / ".clincus" / budget.FILE, tmp_path / ".clincus" / f"{budget.FILE}.torn"
    file.write_text('{"days": {}, "sessions": {"one": {"github": [1, 2, 0.5]}}}')
    assert Spending(environ).of_session("github", "one") == Sum(1, 2, 0.5)
    rows = '{"days": {}, "sessions": {}, "tokens": {"one": %s}}'
    for text in ('{"days": {"a": 1}', rows % '{"no-day": [1, 2, 3, 4]}', rows % '{"2026-11-29 m": [1]}'):
        file.write_text(text)
        assert Spending(environ).tokens_of("one") == []
        torn.unlink()


@table(
    ("limit", "day", "session", "words"),
    [
        (Limit(), Sum(10**9, 10**9, 10**6), Sum(10**9), ""),
        (Limit(requests_per_day=2), Sum(2), Sum(1), "2 requests a day"),
        (Limit(tokens_per_session=2000), Sum(), Sum(1, 2000), "2,000 tokens a session"),
        (Limit(usd_per_session=1.5), Sum(), Sum(1, 1, 1.6), "1.5 dollars a session"),
    ],
)
def test_a_limit_that_is_reached_is_named(limit, day, session, words):
    said = reached("github", limit, day, session)
    assert words in said
    assert bool(words) == bool(said)
