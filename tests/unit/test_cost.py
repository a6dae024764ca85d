"""What a conversation has cost: from the transcripts of a container, which may say anything, to the API."""

from __future__ import annotations

import functools
import json
import os
import tracemalloc
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest

import clincus
from clincus_cli.cost import cost_lines
from clincus_features import cost
from clincus_features.cost import dialects, ledger
from clincus_features.cost.prices import AS_OF, Price, Prices
from tests.table import table

MODEL = "claude-opus-4-5-20251101"
SCHEMAS = clincus.load_contract()["components"]["schemas"]
SCHEMA, SPENDING = (clincus.inlined(SCHEMAS[name], clincus.load_contract()) for name in ("Cost", "Spending"))


def line(id: str, *counts: object, **more: object) -> str:
    """A line of a transcript: input, output, cache read and cache write of a message."""
    names = "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
    message = {"id": id, "model": more.pop("model", MODEL), "usage": dict(zip(names, counts))}
    message["usage"].update(more.pop("usage", {}))
    entry = {"timestamp": "2026-11-25T10:00:00.000Z", "requestId": f"req_{id}", "message": message, **more}
    return json.dumps(entry) + "\n"


def transcript_of(home: Path) -> Path:
    folder = home / ".claude/projects/-workspace"
    folder.mkdir(parents=True)
    return folder / "a.jsonl"


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return transcript_of(tmp_path)


def document(tmp_path: Path, reader: ledger.Ledger | None = None, tool: str = "claude") -> dict:
    found = cost.document((reader or ledger.Ledger()).read(tool, str(tmp_path)))
    jsonschema.validate(found, SCHEMA)
    return dict(found)


def tokens_of(found: dict) -> list[int]:
    return list(found["tokens"].values())


def tokens(tmp_path: Path, reader: ledger.Ledger | None = None) -> list[int]:
    return tokens_of(document(tmp_path, reader))


def test_a_message_counts_once_with_its_largest_usage(tmp_path, talk):
    lines = [line("a", 10, 1, 0, 5), line("a", 10, 700, 0, 5), line("a", 10, 30, 0, 5), line("b", 1, 1, 1, 1)]
    hour = {"cache_creation": {"ephemeral_1h_input_tokens": None}}
    talk.write_text("".join([*lines, line("c", 10, 20, None, None, usage=hour)]))  # a count that is null is none
    assert tokens(tmp_path) == [21, 721, 1, 6]


def test_subagents_count_and_have_a_context_of_their_own(tmp_path, talk):
    (talk.parent / "a/subagents").mkdir(parents=True)
    talk.write_text(line("a", 100, 20, 3000, 400))
    side = line("s", 7, 7, 7, 7, isSidechain=True, timestamp="2026-11-26T10:00:00Z")
    (talk.parent / "a/subagents/agent-1.jsonl").write_text(side + line("a", 100, 20, 3000, 400))
    found = document(tmp_path)
    assert list(found["tokens"].values()) == [107, 27, 3007, 407]
    assert found["context"] == {"used": 3520, "size": 200_000}
    assert [day["day"] for day in found["days"]] == ["2026-11-26", "2026-11-25"]


@table(
    ("dollars", "counts", "model", "usage"),
    [
        ((5 + 25 + 0.5 + 6.25) / 1000, (1000, 1000, 1000, 1000), MODEL, {}),
        (10 / 1000, (0, 0, 0, 1000), MODEL, {"cache_creation": {"ephemeral_1h_input_tokens": 1000}}),
        (8 / 1000, (1000, 0, 0, 0), "claude-opus-5-5", {"speed": "fast"}),
        (5.5 / 1000, (1000, 0, 0, 0), MODEL, {"inference_geo": "us"}),
        (35 / 1000, (1000, 0, 0, 0), MODEL, {"server_tool_use": {"web_search_requests": 3}}),
    ],
)
def test_a_cost_is_told_where_the_price_is_known(tmp_path, dollars, counts, model, usage):
    transcript_of(tmp_path).write_text(line("a", *counts, model=model, usage=usage))
    assert document(tmp_path)["cost_usd"] == (dollars if dollars is None else pytest.approx(dollars))


@table(
    "text",
    [
        *(line("x", count, 0, 0, 0) for count in (-1, 10**10, True, "1")),
        line("x", 1, 0, 0, 1, usage={"cache_creation": {"ephemeral_1h_input_tokens": 2}}),
        '{"usage": ' * 100_000 + "\n",
        '{"usage": 1' + "0" * 10_000 + "}\n",
        '{"message": {"usage": []}}\n["usage"]\n"usage"\nnull "usage"\n',
    ],
)
def test_what_makes_no_sense_counts_nothing(tmp_path, text):
    transcript_of(tmp_path).write_text(line("a", 1, 2, 3, 4) + text + line("b", 1, 2, 3, 4))
    assert tokens(tmp_path) == [2, 4, 6, 8]


def test_links_and_pipes_are_not_followed(tmp_path, talk):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.jsonl").write_text(line("x", 9, 9, 9, 9))
    os.symlink(tmp_path / "elsewhere/secret.jsonl", talk.parent / "link.jsonl")
    os.symlink(tmp_path / "elsewhere", talk.parent / "folder")
    os.mkfifo(talk.parent / "pipe.jsonl")
    talk.write_text(line("a", 1, 1, 1, 1))
    assert tokens(tmp_path) == [1, 1, 1, 1]


@pytest.fixture
def parsed(monkeypatch):
    lines: list[bytes] = []
    real = dialects.parse_line

    def parse_line(dialect: dialects.Dialect, line: bytes, told: dict) -> object:
        lines.append(line)
        return real(dialect, line, told)

    monkeypatch.setattr(ledger, "parse_line", parse_line)
    return lines


def lying(number: int) -> str:
    """A message whose every text is as large as it may be, on a day and with a model that no other one has."""
    wide = "\N{PILE OF POO}" * 190
    day = (datetime(2020, 1, 1) + timedelta(days=number % 2000)).strftime("%Y-%m-%dT10:00:00Z")
    return line(f"{wide}{number}", number, 1, 1, 1, timestamp=day, model=f"{wide}{number}", requestId=wide)


@table(
    "lines",
    [
        [lying(number) for number in range(2_300)],
        ['{"usage":[' + "{}," * 300_000 + "1]}\n"],
        ['"usage"' + "\N{PILE OF POO}" * 200_000 + "\n"] * 3,
    ],
    ids=["texts", "many values", "a long text"],
)
def test_a_lying_session_takes_less_than_20_megabytes(tmp_path, lines, monkeypatch):
    """A message that is told apart takes less than 1 KB while it is read, and 42 bytes later; a line, what it takes."""
    monkeypatch.setattr(ledger, "MESSAGES", 2_000)
    monkeypatch.setattr(ledger, "SLACK", 200)
    transcript_of(tmp_path).write_text("".join(lines))
    reader = ledger.Ledger()
    reader.read("claude", str(tmp_path / "nothing"))  # what is imported and compiled once is not its own
    tracemalloc.start()
    try:
        account = reader.read("claude", str(tmp_path))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert account.messages in (0, 2_000)
    assert peak < (2_000_000 if account.messages else 20_000_000)
    assert kept < 2_000_000


def test_a_line_that_is_too_large_leaves_a_trace(tmp_path, talk):
    for content in ("x", "x" * ledger.LINE, [0] * (dialects.COMMAS + 1)):
        talk.write_text(line("a", 1, 1, 1, 1) + line("b", 9, 9, 9, 9, content=content))
        is_large = content != "x"
        assert (tokens(tmp_path)[0], document(tmp_path)["truncated"]) == (1 if is_large else 10, is_large)


def test_accounts_in_memory_are_bounded_and_other_prices_hold_for_them(saved, monkeypatch):
    monkeypatch.setattr(ledger, "KEPT", 5_000)
    reader = ledger.Ledger()
    for number in range(10):
        one = saved(str(number), "/w/app", CLAUDE_FILE, line(str(number), 1000, 0, 0, 0))
        assert document(Path(one.directory), reader)["cost_usd"] == 0.005
    assert 0 < sum(account.weight for account in reader._accounts.values()) == reader._weight <= 5_000
    reader.use(Prices((Price("claude-*", (1.0, 1.0, 1.0, 1.0)),)))
    assert document(Path(one.directory), reader)["cost_usd"] == 0.001


def test_only_what_is_new_is_read_until_a_file_is_another_one(tmp_path, talk, parsed):
    reader, first, second = ledger.Ledger(), line("a", 1, 1, 1, 1), line("b", 2, 2, 2, 2)
    for text, expected in (
        (first + second[:30], 1),
        (first + second, 3),
        (line("c", 5, 5, 5, 5) + second, 7),
    ):
        talk.write_text(text)
        assert tokens(tmp_path, reader) == [expected] * 4
        assert len(parsed) == {1: 1, 3: 2, 7: 4}[expected]
    talk.write_text("")
    assert document(tmp_path, reader)["tokens"] is None


# ---- the same transcript in ccusage ------------------------------------------------------------------------------

SONNET, HAIKU = "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"
WHOLE = (
    line("a", 12, 345, 20_000, 6_000, model=SONNET),
    line("b", 3, 1_200, 26_000, 900, model=SONNET),
    line("c", 7, 80, 1_000, 0, model=HAIKU),
    line("d", 9, 2_500, 40_000, 12_000, timestamp="2026-11-26T09:00:00.000Z"),
)


def test_tokens_and_dollars_equal_those_of_ccusage(tmp_path, talk):
    """What `ccusage claude daily --json --offline` 20.0.26 prints."""
    talk.write_text("".join(WHOLE))
    found = document(tmp_path)
    assert found["tokens"] == {"input": 31, "output": 4_125, "cache_read": 87_000, "cache_write": 18_900}
    days = [(day["day"], day["tokens"]["output"], day["cost_usd"]) for day in found["days"]]
    assert days == [("2026-11-26", 2_500, pytest.approx(0.157545)), ("2026-11-25", 1_625, pytest.approx(0.063402))]


# ---- the other tools ---------------------------------------------------------------------------------------------


def copilot_line(id: str, at: str = "2026-11-25T19:55:24.165Z", **counts: object) -> str:
    """A line of events.jsonl, as Copilot CLI 1.0.102 wrote it, cut to what counts."""
    usage = {"model": "claude-sonnet-4.5", "inputTokens": 1210, "outputTokens": 9, "cacheReadTokens": 1000}
    usage |= {"cacheWriteTokens": 200, "cost": 0.0, "interactionType": "conversation-agent"}
    usage |= {"maxPromptTokens": 168_000, "maxOutputTokens": 32_000, **counts}
    return json.dumps({"type": "session.usage_record", "data": {"usage": usage}, "id": id, "timestamp": at}) + "\n"


def opencode_line(id: str, **more: object) -> str:
    entry = {"id": id, "at": 1795636666243, "model": "claude-sonnet-4-5", "cost": 0.001215, "input": 10, "output": 9}
    return json.dumps({**entry, "reasoning": 4, "cache_read": 1000, "cache_write": 200, **more}) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_copilot_tells_tokens_and_context_but_no_dollars(tmp_path):
    """Its input holds the cached tokens; a record that comes twice counts once; other events count nothing."""
    other = '{"type":"session.shutdown","data":{"usage":{"inputTokens":5},"of":"session.usage_record"}}\n'
    lines = copilot_line("1") * 2 + copilot_line("2", outputTokens=1) + copilot_line("3", inputTokens=5) + other
    write(tmp_path / ".copilot/session-state/x/events.jsonl", lines)
    found = document(tmp_path, tool="copilot")
    assert found["tokens"] == {"input": 20, "output": 10, "cache_read": 2000, "cache_write": 400}
    assert (found["cost_usd"], found["model"], found["unpriced_models"]) == (None, "claude-sonnet-4.5", [])
    assert found["context"] == {"used": 1211, "size": 200_000}, "that of the later of two at the same time"


def test_opencode_tells_tokens_and_its_own_dollars(tmp_path):
    """Reasoning is output; a model that it knows no price of has the cost 0, which is none."""
    lines = opencode_line("a") * 2 + opencode_line("b", model="local", cost=0) + opencode_line("c", at="soon")
    write(tmp_path / ".local/share/opencode/clincus-usage.jsonl", lines)
    found = document(tmp_path, tool="opencode")
    assert found["tokens"] == {"input": 20, "output": 26, "cache_read": 2000, "cache_write": 400}
    assert found["cost_usd"] == pytest.approx(0.001215)
    assert (found["unpriced_tokens"], found["unpriced_models"]) == (1223, ["local"])
    assert found["days"][0]["day"] == "2026-11-25"
    write(tmp_path / ".local/share/opencode/clincus-usage.jsonl", opencode_line("a"))
    assert document(tmp_path, tool="opencode")["cost_usd"] == 0.001215


def codex_line(kind: str, **payload: object) -> str:
    """A line of a rollout, as Codex 0.169.0 wrote it, cut to what counts."""
    return json.dumps({"timestamp": "2026-11-25T00:51:57.582Z", "type": kind, "payload": payload}) + "\n"


def codex_usage(id: str) -> str:
    usage = {"input_tokens": 1000, "cached_input_tokens": 600, "cache_write_input_tokens": 100, "output_tokens": 50}
    usage |= {"reasoning_output_tokens": 20, "total_tokens": 1050}
    record = codex_line("token_usage_record", response_id=id, usage=usage, thread_token_usage=usage)
    return record + codex_line("event_msg", type="token_count", info={"last_token_usage": usage})


CODEX_FILE = ".codex/sessions/2026/11/25/rollout-2026-11-25T00-51-57-01a224c9.jsonl"
CODEX_TURN = codex_line("session_meta", thread_source="user") + codex_line(
    "event_msg", type="task_started", model_context_window=258_400
)


def test_codex_tells_tokens_and_in_earlier_lines_the_model(tmp_path):
    """Its input holds the tokens of the cache, those that are written too; its output holds the reasoning."""
    text = CODEX_TURN + codex_line("turn_context", model="gpt-6.1-sol") + codex_usage("resp_1") * 2
    write(tmp_path / CODEX_FILE, text)
    reader = ledger.Ledger()
    assert tokens_of(document(tmp_path, reader, tool="codex")) == [300, 50, 600, 100]
    write(tmp_path / CODEX_FILE, text + codex_usage("resp_2"))
    found = document(tmp_path, reader, tool="codex")
    assert tokens_of(found) == [600, 100, 1200, 200]
    assert found["cost_usd"] == pytest.approx((600 * 2 + 100 * 10 + 1200 * 0.1 + 200 * 2.5) / 10**6)
    assert (found["model"], found["context"]) == ("gpt-6.1-sol", {"used": 1050, "size": 258_400})


def test_codex_in_fast_mode_costs_twice_as_much(tmp_path):
    settings = {"model": "gpt-6.1-sol", "service_tier": "priority"}
    fast = codex_line("event_msg", type="thread_settings_applied", thread_settings=settings)
    write(tmp_path / CODEX_FILE, CODEX_TURN + fast + codex_usage("resp_1"))
    dollars = document(tmp_path, tool="codex")["cost_usd"]
    assert dollars == pytest.approx(2 * (300 * 2 + 50 * 10 + 600 * 0.1 + 100 * 2.5) / 10**6)


GEMINI_FILE = ".gemini/tmp/w/chats/session-2026-11-29T00-53-35818b4f.jsonl"


def gemini_line(id: str, **more: object) -> str:
    """A message, as Gemini CLI 0.61.0 wrote it."""
    counts = {"input": 1000, "output": 50, "cached": 600, "thoughts": 20, "tool": 7, "total": 1077}
    entry = {"id": id, "timestamp": "2026-11-25T00:53:05.001Z", "type": "gemini", "content": "hello", "thoughts": []}
    return json.dumps({**entry, "tokens": counts, "model": "gemini-2.5-pro", **more}) + "\n"


def test_gemini_tells_tokens_of_each_message_that_it_may_write_again(tmp_path):
    head = json.dumps({"sessionId": "35818b4f", "kind": "main"}) + "\n"
    again = json.dumps({"$set": {"messages": [json.loads(gemini_line("a"))]}}) + "\n"
    text = head + gemini_line("a", tokens=None) + gemini_line("a") * 2 + again + gemini_line("b")
    write(tmp_path / GEMINI_FILE, text)
    found = document(tmp_path, tool="gemini")
    assert tokens_of(found) == [814, 140, 1200, 0]
    assert found["cost_usd"] == pytest.approx((814 * 1.25 + 140 * 10 + 1200 * 0.125) / 10**6, abs=1e-6)
    assert (found["model"], found["context"]) == ("gemini-2.5-pro", {"used": 1077, "size": 1_048_576})
    head = json.dumps({"sessionId": "x", "kind": "subagent"}) + "\n"
    write((tmp_path / GEMINI_FILE).parent / "35818b4f/x.jsonl", head + gemini_line("c", model="gemini-2.5-flash"))
    found = document(tmp_path, tool="gemini")
    assert (tokens_of(found)[0], found["model"]) == (1221, "gemini-2.5-pro"), "a subagent has a context of its own"


# ---- all conversations -------------------------------------------------------------------------------------------


def save(home: Path, id: str, workspace: str, path: str, text: str, *, tool: str = "claude") -> clincus.SavedSession:
    write(home / id / path, text)
    return clincus.SavedSession(session_id=id, tool=tool, directory=str(home / id), workspace=workspace)


@pytest.fixture
def saved(tmp_path):
    return functools.partial(save, tmp_path)


def spending(*sessions: clincus.SavedSession, days: int = 30) -> dict:
    found = cost.Spendings(ledger.Ledger()).of(sessions, days)
    jsonschema.validate(found, SPENDING)
    return dict(found)


def today(hours_ago: int = 0) -> str:
    return (datetime.now(timezone.utc) - timedelta(hours=hours_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


CLAUDE_FILE, COPILOT_FILE = ".claude/projects/-workspace/a.jsonl", ".copilot/session-state/x/events.jsonl"


def test_what_was_spent_is_told_by_project_and_day(saved):
    now, before = today(), today(hours_ago=48)
    sessions = [
        saved("one", "/w/app", CLAUDE_FILE, line("a", 1000, 0, 0, 0, timestamp=now)),
        saved("two", "/w/app", CLAUDE_FILE, line("b", 1000, 0, 0, 0, timestamp=before)),
        saved("three", "/w/web", CLAUDE_FILE, line("c", 9000, 0, 0, 0, timestamp=now)),
        saved("four", "/w/web", COPILOT_FILE, copilot_line("d", at=now), tool="copilot"),
        saved("five", "/w/web", "talk.md", "hi", tool="aider"),
    ]
    found = spending(*sessions)
    projects = [(one["workspace"], one["sessions"], one["cost_usd"]) for one in found["projects"]]
    assert projects == [("/w/web", 2, 0.045), ("/w/app", 2, 0.01)]
    assert [(day["day"], day["cost_usd"]) for day in found["days"]] == [(now[:10], 0.05), (before[:10], 0.005)]
    assert (found["cost_usd"], found["unpriced_tokens"], found["silent_tools"]) == (0.055, 1219, ["aider"])
    rows = [clincus.Counted(now[:10], "claude-sonnet-4-5", (1000, 0, 0, 0))]  # what was counted of a silent tool
    found = cost.Spendings(ledger.Ledger(), lambda session_id: cost.counted(rows, Prices())).of(sessions[-1:], 30)
    jsonschema.validate(found, SPENDING)
    assert (found["cost_usd"], found["silent_tools"]) == (0.003, [])


def test_only_the_days_that_are_asked_for_count_and_what_is_older_is_not_read(saved, tmp_path, parsed):
    talk = line("a", 1000, 0, 0, 0, timestamp=today()) + line("b", 5, 0, 0, 0, timestamp=today(hours_ago=49))
    one = saved("one", "/w/app", CLAUDE_FILE, talk + line("c", 7, 0, 0, 0, timestamp="when?"))
    assert [spending(one, days=days)["tokens"]["input"] for days in (1, 30)] == [1000, 1005]
    parsed.clear()
    os.utime(tmp_path / "one" / CLAUDE_FILE, (1_767_000_000, 1_767_000_000))
    assert (spending(one)["projects"], parsed) == ([], [])


def test_a_conversation_that_went_on_in_another_session_counts_once(saved):
    talk, other = (line(id, count, 0, 0, 0, timestamp=today()) for id, count in (("a", 1000), ("b", 1)))
    texts = {"one": talk, "two": talk + other, "three": other}
    found = spending(*(saved(name, "/w/app", CLAUDE_FILE, text) for name, text in texts.items()))
    assert found["tokens"]["input"] == 1001


# ---- the command line --------------------------------------------------------------------------------------------


def test_the_command_tells_what_is_known_what_is_not_and_the_day_of_the_prices(saved):
    talk = line("a", 1_000_000, 0, 0, 0, timestamp=today()) + line("b", 7, 0, 0, 0, model="new-1", timestamp=today())
    found = spending(saved("one", "/w/app", CLAUDE_FILE, talk), saved("two", "/w/app", "talk.md", "hi", tool="aider"))
    _, row, total, prices, unknown, silent = "\n".join(cost_lines(found)).splitlines()
    assert row.split() == [today()[:10], "/w/app", "1M", "$5.00+"]
    assert total.split()[-2:] == ["1M", "$5.00+"]
    assert AS_OF in prices
    assert (unknown.split()[-1], silent.split()[-1]) == ("new-1", "aider")
    assert "not all" in [*cost_lines({**found, "truncated": True})][-1]
