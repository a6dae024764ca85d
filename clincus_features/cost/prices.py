"""List prices of models: `[cost.prices]` of the configuration, and the table below. Others have no known price."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

import clincus

KINDS = ("input", "output", "cache_read", "cache_write")
Rates = tuple[float, float, float, float]  # dollars for a million tokens, as KINDS; a cache write lasts 5 minutes
HOUR = 2.0  # prices of the input for a cache write that lasts an hour, which only Anthropic sells
IN_US = 1.1  # the factor for inference that stays in the United States
SEARCH = 0.01  # dollars for a web search of Claude's


class Price(NamedTuple):
    """The prices of the models that a pattern matches."""

    pattern: str  # of a model's name; `*` stands for anything, `[…]` for one character of several
    rates: Rates
    above: int = 0  # tokens; a request with a longer prompt costs `longer` for all of its tokens. 0: no such limit
    longer: Rates | None = None  # None if it is not known
    fast: float = 0.0  # the factor for a request in fast mode; 0 if it is not known
    context: int | None = None  # tokens, where the model has only one size
    until: str = ""  # the last day of this price, if it has one; a later row has the next one


K = 1_000
M = 1_000_000


def anthropic(pattern: str, *rates: float, above: int = 0, times: float = 0, **more: Any) -> Price:
    """A row whose cache write costs 1.25 inputs.

    A request with more than `above` tokens costs `times` as much, if that is known.
    """
    plain, output, read = rates
    all_of = (plain, output, read, 1.25 * plain)
    longer = tuple(times * rate for rate in all_of) if times else None
    return Price(pattern, all_of, above, longer, **more)  # type: ignore[arg-type]


def openai(pattern: str, *rates: float, fast: float = 2.0) -> Price:
    """A row of GPT-5.5 and later. Above 272,000 tokens the prompt costs twice as much, the output 1.5 times."""
    plain, output, read = rates
    write = 1.25 * plain
    return Price(pattern, (plain, output, read, write), 272 * K, (2 * plain, 1.5 * output, 2 * read, 2 * write), fast)


def google(pattern: str, *rates: float, longer: tuple[float, ...] = (), until: str = "") -> Price:
    """A row of Gemini, which writes its cache by itself at no price of its own. Some cost more above 200,000 tokens."""
    plain, output, read = rates
    dearer = (longer[0], longer[1], longer[2], longer[0]) if longer else None
    return Price(
        pattern, (plain, output, read, plain), 200 * K if longer else 0, dearer, context=1_048_576, until=until
    )


# Dollars for a million tokens of input, output and cache read, as published at https://claude.com/pricing,
# https://developers.openai.com/api/docs/pricing and https://ai.google.dev/gemini-api/docs/pricing. Those of Claude are
# also the ones that Claude Code 2.1.332 uses. They are looked up again for each release.
AS_OF = "2026-11-29"
TABLE = (
    anthropic("claude-fable-5-2", 8, 40, 0.2, fast=2, context=M),
    anthropic("claude-mythos-5-2", 8, 40, 0.2, fast=2, context=M),
    anthropic("claude-fable-5-1", 10, 50, 0.25, context=M),
    anthropic("claude-mythos-5-1", 10, 50, 0.25, context=M),
    anthropic("claude-fable-5", 10, 50, 1, context=M),
    anthropic("claude-mythos-5", 10, 50, 1, context=M),
    anthropic("claude-opus-5-5", 4, 20, 0.2, fast=2, context=M),
    anthropic("claude-opus-5", 5, 25, 0.5, fast=2, context=M),
    anthropic("claude-opus-4-8", 5, 25, 0.5, fast=2, context=M),
    anthropic("claude-opus-4-7", 5, 25, 0.5, fast=6, context=M),
    anthropic("claude-opus-4-6", 5, 25, 0.5, fast=6),
    anthropic("claude-opus-4-5", 5, 25, 0.5, context=200 * K),
    anthropic("claude-opus-4", 15, 75, 1.5, context=200 * K),
    anthropic("claude-opus-4-[01]", 15, 75, 1.5, context=200 * K),
    anthropic("claude-sonnet-5-5", 2, 10, 0.2, context=M, until="2026-10-06"),
    anthropic("claude-sonnet-5-5", 2, 10, 0.1, context=M),
    anthropic("claude-sonnet-5", 2, 10, 0.2, context=M),
    anthropic("claude-sonnet-4-6", 3, 15, 0.3),
    anthropic("claude-sonnet-4-[05]", 3, 15, 0.3, above=200 * K),
    anthropic("claude-sonnet-4", 3, 15, 0.3, above=200 * K),
    anthropic("claude-3-[57]-sonnet", 3, 15, 0.3, context=200 * K),
    anthropic("claude-haiku-5-5", 0.1, 0.5, 0.01, above=100 * K, times=5, context=M),
    anthropic("claude-haiku-4-5", 1, 5, 0.1, context=200 * K),
    anthropic("claude-3-5-haiku", 0.8, 4, 0.08, context=200 * K),
    openai("gpt-6-astra", 10, 50, 1),
    openai("gpt-6.1-sol", 2, 10, 0.1),
    openai("gpt-6-sol", 2, 10, 0.2),
    openai("gpt-6.1-terra", 1, 5, 0.05),
    openai("gpt-6-luna", 0.1, 0.5, 0.01),
    openai("gpt-5.6-sol", 4, 20, 0.4),
    openai("gpt-5.6-terra", 2, 12, 0.2),
    openai("gpt-5.6-luna", 0.2, 1.2, 0.02),
    openai("gpt-5.5", 5, 30, 0.5, fast=2.5),
    google("gemini-3.[678]-flash", 0.75, 3.75, 0.075, until="2026-12-31"),
    google("gemini-3.5-flash", 1.5, 9, 0.15),
    google("gemini-3.1-pro-preview*", 2, 12, 0.2, longer=(4, 18, 0.4)),
    google("gemini-3-flash-preview", 0.5, 3, 0.05),
    google("gemini-2.5-pro", 1.25, 10, 0.125, longer=(2.5, 15, 0.25)),
    google("gemini-2.5-flash", 0.3, 2.5, 0.03),
    google("gemini-2.5-flash-lite", 0.1, 0.4, 0.01),
)


class Message(NamedTuple):
    """One answer of a model, with the usage that its tool wrote."""

    model: str
    at: str  # RFC 3339
    is_main: bool  # not a subagent's
    tokens: tuple[int, ...]  # as KINDS; each token is in one of them
    hour: int = 0  # of cache_write: those that are kept for an hour
    dollars: float | None = None  # if the tool reports them
    size: int | None = None  # of the context, if the tool reports it
    is_fast: bool = False
    factor: float = 1.0  # on the list price of its tokens
    searches: int = 0  # of the web
    has_price: bool = True  # false if a plan is charged for it, and no tokens


class Prices:
    """The prices in force: those of the configuration, then our table."""

    def __init__(self, own: tuple[Price, ...] = ()) -> None:
        self.own = own
        self._named = lru_cache(maxsize=1000)(self._find)  # a transcript names few models, again and again

    def of(self, model: str, day: str = "") -> Price | None:
        """The row of a model, by the name in the tool's transcript, on a day (2026-11-29; "" is now)."""
        return next((price for price in self._named(model) if not price.until or (day or AS_OF) <= price.until), None)

    def _find(self, model: str) -> tuple[Price, ...]:
        """The rows that may apply to a model. Those of the configuration also match the name as the tool writes it."""
        name = reduced(model)
        own = (price for price in self.own if fnmatchcase(model, price.pattern) or fnmatchcase(name, price.pattern))
        if FREE.fullmatch(model.lower()):
            return (*own, AT_NO_PRICE)
        return (*own, *(price for price in TABLE if fnmatchcase(name, price.pattern)))

    def cost(self, message: Message) -> float | None:
        """The dollars of a message; None if the tool does not write them and no price is known."""
        if message.dollars is not None:
            return message.dollars
        if not sum(message.tokens):
            return message.searches * SEARCH
        price = self.of(message.model, message.at[:10]) if message.has_price else None
        if price is None:
            return None
        prompt = sum(message.tokens) - message.tokens[1]
        is_longer = 0 < price.above < prompt
        rates = price.longer if is_longer else price.rates
        factor = message.factor * (price.fast if message.is_fast else 1.0)
        if rates is None or not factor:
            return None
        dollars = sum(count * rate for count, rate in zip(message.tokens, rates))
        dollars += message.hour * (HOUR * rates[0] - rates[3])
        return dollars * factor / 10**6 + message.searches * SEARCH


# OpenRouter's suffix of an entry without a price (its docs, "Model variants").
FREE = re.compile(r".+/.+:free")
AT_NO_PRICE = Price("*/*:free", (0.0, 0.0, 0.0, 0.0))

# Bedrock writes us.anthropic.claude-opus-4-5-20251101-v1:0, Vertex claude-opus-4-5@20251101, OpenRouter and others
# anthropic/claude-opus-4.5, Claude Code claude-opus-4-6[1m] for the larger context, OpenAI gpt-5.5-2026-04-23.
# OpenRouter's suffixes below choose an endpoint, and have the price of the model. Other suffixes have their own price,
# or add one: `:extended`, `:online`.
DRESS = (
    re.compile(r"^.*/"),
    re.compile(r"^([a-z-]+\.)?anthropic\."),
    re.compile(r"\[[^]]*\]$"),
    re.compile(r":(nitro|floor|exacto|thinking|beta)$"),
    re.compile(r"@.*$"),
    re.compile(r"-v\d+(:\d+)?$"),
    re.compile(r"-(\d{8}|\d{4}-\d\d-\d\d|latest)$"),
)


def reduced(model: str) -> str:
    """The maker's name of a model, without provider, version of an endpoint and date."""
    name = model.lower()
    for part in DRESS:
        name = part.sub("", name)
    if not name.startswith("claude-"):
        return name
    # OpenRouter's answers name anthropic/claude-4.5-sonnet-20250929. Before version 4, this order is the maker's own.
    return re.sub(r"^claude-([4-9](?:-\d)?)-([a-z]+)", r"claude-\2-\1", name.replace(".", "-"))


# -- [cost.prices]

MOST_DOLLARS = 10_000  # for a million tokens
FORM = "write 4 prices for a million tokens (input, output, cache read, cache write)"
LONGER = "or 9 numbers: these 4, a number of tokens, and the 4 prices of a request with a longer prompt"
NAME = r"(?=.*[a-z0-9])[a-z0-9._:/@*-]{1,100}"


def check_price(value: object) -> list[float]:
    """The numbers of a row of `[cost.prices]`."""
    if not isinstance(value, (list, tuple)):
        raise clincus.Unfit(f"{FORM}, {LONGER}")
    numbers: list[float] = clincus.list_of(check_number)(value)
    if len(numbers) not in (4, 9):
        raise clincus.Unfit(f"{FORM}, {LONGER}; there are {len(numbers)}")
    above = numbers[4] if len(numbers) == 9 else 1
    if above < 1 or above != int(above):
        raise clincus.Unfit(f"entry 5 is a whole number of tokens, 1 or more: {LONGER}")
    if any(number > MOST_DOLLARS for number in (*numbers[:4], *numbers[5:])):
        raise clincus.Unfit(f"a price is at most {MOST_DOLLARS} dollars for a million tokens")
    return numbers


def check_number(value: object) -> float:
    """A number that is not negative."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise clincus.Unfit("write a number, 0 or more")
    return value  # type: ignore[return-value]


ROWS: Callable[[Any], Any] = clincus.table_of(
    check_price, NAME, "write a model's name in small letters; * stands for anything"
)
clincus.register_settings(clincus.Setting("cost.prices", {}, ROWS, merge=clincus.merged))


def own_prices(rows: Mapping[str, list[float]]) -> tuple[Price, ...]:
    """The rows of `[cost.prices]`, the longest pattern first, as it is the most specific."""
    found = []
    for pattern in sorted(rows, key=lambda name: (-len(name), name)):
        numbers = rows[pattern]
        above, longer = (int(numbers[4]), tuple(numbers[5:])) if len(numbers) == 9 else (0, None)
        found.append(Price(pattern, tuple(numbers[:4]), above, longer))  # type: ignore[arg-type]
    return tuple(found)
