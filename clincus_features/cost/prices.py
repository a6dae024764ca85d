"""List prices of models, as data. A model that is not here has no known price."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

KINDS = ("input", "output", "cache_read", "cache_write")
LONG = 200_000  # tokens of a request beyond which some models cost more, and the context of models that have no other


class Price(NamedTuple):
    """A row of PRICES."""

    pattern: str  # of a model's whole name
    dollars: tuple[float, float, float, float]  # for a million tokens, as KINDS; a cache write that lasts 5 minutes
    is_flat: bool = True  # else a request above LONG has another price, which is not known here
    context: int | None = None  # where the model has only one size


# As published at https://claude.com/pricing, as of 2026-04. A cache write that lasts an hour costs twice the input.
PRICES = (
    Price(r"claude-opus-4-5(-\d{8})?", (5.0, 25.0, 0.5, 6.25), context=LONG),
    Price(r"claude-opus-4-[67](-\d{8})?", (5.0, 25.0, 0.5, 6.25)),
    Price(r"claude-opus-4(-1)?(-\d{8})?", (15.0, 75.0, 1.5, 18.75), context=LONG),
    Price(r"claude-sonnet-4-6(-\d{8})?", (3.0, 15.0, 0.3, 3.75)),
    Price(r"claude-sonnet-4(-5)?(-\d{8})?", (3.0, 15.0, 0.3, 3.75), is_flat=False),
    Price(r"claude-haiku-4-5(-\d{8})?", (1.0, 5.0, 0.1, 1.25), context=LONG),
)


class Message(NamedTuple):
    """One answer of a model, as the tool tells what was charged for it."""

    model: str
    at: str  # RFC 3339
    is_main: bool  # not a subagent's
    tokens: tuple[int, ...]  # as KINDS; each token is in one of them
    hour: int = 0  # of cache_write: those that are kept for an hour
    dollars: float | None = None  # where the tool tells them
    size: int | None = None  # of the context, where the tool tells it


def price_of(model: str) -> Price | None:
    """The row of a model."""
    return next((price for price in PRICES if re.fullmatch(price.pattern, model)), None)


def cost_of(message: Message) -> float | None:
    """The dollars that a message cost; None if the tool does not tell them and the model has no known price."""
    if message.dollars is not None or not sum(message.tokens):
        return message.dollars or 0.0
    price, request = price_of(message.model), sum(message.tokens) - message.tokens[1]
    if price is None or (request > LONG and not price.is_flat):
        return None
    dollars = sum(count * price for count, price in zip(message.tokens, price.dollars))
    return (dollars + message.hour * (2 * price.dollars[0] - price.dollars[3])) / 10**6


def totals(messages: Iterable[Message]) -> dict[str, Any]:
    """Tokens by kind; dollars, None if no price is known; and the tokens whose price is not known."""
    messages = list(messages)
    costs = [(message, cost_of(message)) for message in messages]
    known = [cost for _, cost in costs if cost is not None]
    return {
        "tokens": {kind: sum(message.tokens[at] for message in messages) for at, kind in enumerate(KINDS)},
        "cost_usd": round(sum(known), 6) if known or not costs else None,
        "unpriced_tokens": sum(sum(message.tokens) for message, cost in costs if cost is None),
    }
