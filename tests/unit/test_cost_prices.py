"""What a model costs: by the name that a tool writes, its day, the length of a request, and `[cost.prices]`."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

import clincus
from clincus_features import cost
from clincus_features.cost.prices import AS_OF, TABLE, Message, Prices, reduced
from tests.table import table

clincus.install_features(None)  # they add settings


def price(model: str, *tokens: int, prices: Prices | None = None, at: str = "2026-11-25T10:00:00Z") -> float | None:
    counts = (*tokens, 0, 0, 0)[:4]
    return (prices or Prices()).cost(Message(model, at, True, counts))


@table(
    ("written", "name"),
    [
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5"),
        ("anthropic/claude-opus-4.5-20251101:floor[1m]", "claude-opus-4-5"),
        ("anthropic/claude-4.5-sonnet-20250929", "claude-sonnet-4-5"),
        ("anthropic/claude-opus-4.5:online", "claude-opus-4-5:online"),
        ("openai/gpt-6.1-sol-2026-09-29", "gpt-6.1-sol"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
    ],
)
def test_a_name_of_any_provider_is_reduced_to_that_of_the_maker(written, name):
    assert reduced(written) == name


@table(
    ("model", "tokens", "dollars"),
    [
        ("claude-fable-5-2", 1000, 0.008),
        ("claude-sonnet-4-5", 200_001, None),
        ("claude-haiku-5-5", 100_000, 0.01),
        ("claude-haiku-5-5", 100_001, 0.0500005),
        ("gpt-6.1-sol", 272_000, 0.544),
        ("gpt-6.1-sol", 272_001, 1.088004),
        ("claude-opus-9", 1, None),
        ("anthropic/claude-opus-4.5:free", 1, 0),
        ("anthropic/claude-opus-4.5:extended", 1, None),
        ("claude-opus-4-5:free", 1, None),
    ],
)
def test_each_model_has_its_own_price_and_threshold(model, tokens, dollars):
    assert price(model, tokens) == (dollars if dollars is None else pytest.approx(dollars))


def test_above_a_threshold_all_kinds_cost_more():
    assert price("claude-haiku-5-5", 100_000, 1000, 1000, 1000) == pytest.approx(0.05 + 0.0025 + 0.00005 + 0.000625)
    for day, dollars in (("2026-10-06", 0.2), ("2026-10-07", 0.1)):  # a price holds for the days that it held
        assert price("claude-sonnet-5-5", 0, 0, 1_000_000, at=f"{day}T10:00:00Z") == pytest.approx(dollars)


def test_no_row_of_the_table_hides_another():
    patterns = [(row.pattern, row.until) for row in TABLE]
    assert len(set(patterns)) == len(patterns)
    for row in TABLE:
        name = re.sub(r"\[(.).*?\]", r"\1", row.pattern.replace("*", ""))
        assert Prices().of(name, row.until or AS_OF) == row


# ---- [cost.prices] -----------------------------------------------------------------------------------------------


@pytest.fixture
def configured(tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    return functools.partial(configuration, tmp_path)


def configuration(home: Path, text: str) -> clincus.Config:
    path = home / ".config/clincus/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[cost.prices]\n{text}\n")
    return clincus.load_config({"HOME": str(home)})


def test_own_prices_beat_the_table_and_the_longer_pattern_beats_the_shorter(configured):
    text = '"claude-*" = [1, 2, 3, 4]\n"claude-opus-5*" = [10, 20, 30, 40]\n"my/model:free" = [0, 0, 0, 0]'
    prices = cost.prices_of(configured(text))
    assert price("claude-haiku-5-5", 1_000_000, prices=prices) == 1
    assert price("us.anthropic.claude-opus-5-5", 1_000_000, 1_000_000, prices=prices) == 30
    assert price("my/model:free", 1_000_000, prices=prices) == 0
    assert price("gpt-6-sol", 1_000, prices=prices) == price("gpt-6-sol", 1_000)


def test_an_own_price_may_have_a_threshold(configured):
    prices = cost.prices_of(configured("local = [1.5, 2, 3, 4, 50_000, 10, 20, 30, 40]"))
    assert price("local", 50_000, prices=prices) == pytest.approx(0.075)
    assert price("local", 50_000, 0, 1, prices=prices) == pytest.approx(0.50003)


@table(
    ("text", "words"),
    [
        ("local = [1, 2, 3]", "write 4 prices"),
        ("local = [1, 2, 3, 4, 5]", "there are 5"),
        *((f"local = [1, 2, 3, {wrong}]", "0 or more") for wrong in ('"4"', "-1", "nan")),
        ("local = [1, 2, 3, 20000]", "at most 10000"),
        ("local = [1, 2, 3, 4, 1.5, 1, 2, 3, 4]", "entry 5 is a whole number"),
        ('"(a+)+" = [1, 2, 3, 4]', "a model's name in small letters"),
    ],
)
def test_a_price_that_does_not_fit_is_told_in_words(tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    with pytest.raises(clincus.ConfigError) as caught:
        configuration(tmp_path, text)
    assert words in str(caught.value)
    assert "cost.prices" in str(caught.value)
