"""What a conversation has cost: from the transcripts of a container, which may say anything, to the API."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

import clincus
from clincus_features import cost

MODEL = "claude-opus-4-5-20251101"
SCHEMA = clincus.inlined(clincus.load_contract()["components"]["schemas"]["Cost"], clincus.load_contract())


def line(id: str, *counts: object, **more: object) -> str:
    """A line of a transcript: input, output, cache read and cache write of a message."""
    names = "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
    message = {"id": id, "model": more.pop("model", MODEL), "usage": dict(zip(names, counts))}
    message["usage"].update(more.pop("usage", {}))
    entry = {"timestamp": "2026-11-25T10:00:00.000Z", "requestId": f"req_{id}", "message": message, **more}
    return json.dumps(entry) + "\n"


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """The transcript of a saved conversation."""
    folder = tmp_path / ".claude/projects/-workspace"
    folder.mkdir(parents=True)
    return folder / "a.jsonl"


def document(tmp_path: Path, ledger: cost.Ledger | None = None) -> dict:
    found = cost.document((ledger or cost.Ledger()).read(str(tmp_path)))
    jsonschema.validate(found, SCHEMA)
    return dict(found)


def tokens(tmp_path: Path, ledger: cost.Ledger | None = None) -> list[int]:
    return list(document(tmp_path, ledger)["tokens"].values())


def test_a_message_counts_once_with_its_largest_usage(tmp_path, talk):
    talk.write_text(line("a", 10, 1, 0, 5) + line("a", 10, 700, 0, 5) + line("a", 10, 30, 0, 5) + line("b", 1, 1, 1, 1))
    assert tokens(tmp_path) == [11, 701, 1, 6]


def test_subagents_count_and_have_a_context_of_their_own(tmp_path, talk):
    (talk.parent / "a/subagents").mkdir(parents=True)
    talk.write_text(line("a", 100, 20, 3000, 400))
    side = line("s", 7, 7, 7, 7, isSidechain=True, timestamp="2026-11-26T10:00:00Z")
    (talk.parent / "a/subagents/agent-1.jsonl").write_text(side + line("a", 100, 20, 3000, 400))
    found = document(tmp_path)
    assert list(found["tokens"].values()) == [107, 27, 3007, 407]
    assert found["context"] == {"used": 3520, "size": 200_000}
    assert [day["day"] for day in found["days"]] == ["2026-11-26", "2026-11-25"]


@pytest.mark.parametrize(
    ("message", "dollars"),
    [
        (line("a", 1000, 1000, 1000, 1000), (5 + 25 + 0.5 + 6.25) / 1000),
        (line("a", 1000, 0, 0, 0, model="claude-sonnet-4-5"), 3 / 1000),
        (line("a", 200_001, 0, 0, 0, model="claude-sonnet-4-5"), None),
        (line("a", 200_001, 0, 0, 0, model="claude-sonnet-4-6"), 0.600003),
        (line("a", 0, 0, 0, 1000, usage={"cache_creation": {"ephemeral_1h_input_tokens": 1000}}), 10 / 1000),
        (line("a", 1, 0, 0, 0, model="claude-opus-9"), None),
        (line("a", 0, 0, 0, 0, model="<synthetic>"), 0),
    ],
)
def test_a_cost_is_told_where_the_price_is_known(tmp_path, talk, message, dollars):
    talk.write_text(message)
    assert document(tmp_path)["cost_usd"] == (dollars if dollars is None else pytest.approx(dollars))


@pytest.mark.parametrize(
    "text",
    [
        line("x", -1, 0, 0, 0),
        line("x", 10**10, 0, 0, 0),
        line("x", 1.5, 0, 0, 0),
        line("x", True, 0, 0, 0),
        line("x", "1", 0, 0, 0),
        line("x", 1, 0, 0, 1, usage={"cache_creation": {"ephemeral_1h_input_tokens": 2}}),
        '{"usage": ' * 100_000 + "\n",
        '{"usage": 1' + "0" * 10_000 + "}\n",
        '{"message": {"usage": []}}\n["usage"]\n"usage"\nnull "usage"\n',
        '{"message": {"usage": {"input_tokens": NaN}}}\n',
        '"usage"' + "x" * (cost.LINE + 10) + "\n",
        "\0\n",
    ],
)
def test_what_makes_no_sense_counts_nothing(tmp_path, talk, text):
    talk.write_text(line("a", 1, 2, 3, 4) + text + line("b", 1, 2, 3, 4))
    assert tokens(tmp_path) == [2, 4, 6, 8]


def test_links_and_pipes_are_not_followed(tmp_path, talk):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.jsonl").write_text(line("x", 9, 9, 9, 9))
    os.symlink(tmp_path / "elsewhere/secret.jsonl", talk.parent / "link.jsonl")
    os.symlink(tmp_path / "elsewhere", talk.parent / "folder")
    os.mkfifo(talk.parent / "pipe.jsonl")
    talk.write_text(line("a", 1, 1, 1, 1))
    assert tokens(tmp_path) == [1, 1, 1, 1]


def test_only_what_is_new_is_read_until_a_file_is_another_one(tmp_path, talk, monkeypatch):
    parsed = []
    monkeypatch.setattr(cost, "parse_line", lambda text, place: parsed.append(text) or real(text, place))
    ledger, first, second = cost.Ledger(), line("a", 1, 1, 1, 1), line("b", 2, 2, 2, 2)
    talk.write_text(first + second[:30])
    assert tokens(tmp_path, ledger) == [1, 1, 1, 1]
    talk.write_text(first + second)
    assert tokens(tmp_path, ledger) == [3, 3, 3, 3]
    assert len(parsed) == 2
    talk.write_text(line("c", 5, 5, 5, 5) + second)
    assert tokens(tmp_path, ledger) == [7, 7, 7, 7]
    talk.write_text("")
    assert tokens(tmp_path, ledger) == [0, 0, 0, 0]


real = cost.parse_line


def test_of_a_tool_that_tells_nothing_nothing_is_known():
    found = dict(cost.document(None))
    jsonschema.validate(found, SCHEMA)
    assert set(map(str, found.values())) == {"None", "[]"}
