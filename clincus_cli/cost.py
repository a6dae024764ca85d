"""`cost`: the price of conversations by project and day, from the copies on the host. No server is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any


@cli.Command(
    "cost [NAME]",
    cli.Flag("--days N", "how many days, up to today", check=cli.number_from(1, 366), default=30),
    cli.format_flag("text", "json"),
    shows=True,
)
def run_cost(context: Context) -> int:
    """Show the cost of conversations, by project and day

    Shows tokens, and dollars at list prices, as far as the tools report them. It counts all conversations that are
    saved on this machine, also those of deleted sessions; with NAME, only those of that session. A + means tokens of
    unknown price: add the price to `[cost.prices]` of the configuration.

    $ clincus cost --days 7  # This week.
    $ clincus cost clincus-ec0578-1  # One session.
    """
    from clincus_features.cost import Spendings, prices_of
    from clincus_features.cost.ledger import Ledger

    saved = clincus.list_saved(context.config, context.environ)
    if context.options.name:
        directory = context.sessions.saved_directory(context.sessions.registry.get(context.options.name))
        saved = [one for one in saved if one.directory == directory]
    found = Spendings(Ledger(prices_of(context.config))).of(saved, context.options.days)
    return context.show(found, cost_lines(found))


def cost_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The text of `clincus cost`."""
    rows = []
    for project in found["projects"]:
        for day in project["days"]:
            rows.append((day["day"], project["workspace"], token_text(day), dollar_text(day)))
    if rows:
        total = ("in all", "", token_text(found), dollar_text(found))
        yield console.table(("DAY (UTC)", "PROJECT", "TOKENS", "COST"), [*sorted(rows, reverse=True), total])
    else:
        yield f"nothing was used since {found['since']}, as far as the tools tell"
    if rows:
        yield f"list prices of {found['prices_as_of']}, and those of [cost.prices] in your configuration"
    if found["unpriced_models"]:
        yield f"no price is known for: {', '.join(found['unpriced_models'])}"
    if found["silent_tools"]:
        yield f"not told by: {', '.join(found['silent_tools'])}"
    if found["truncated"]:
        yield "not all of the conversations was read: more was used than this"


def token_text(spent: Mapping[str, Any]) -> str:
    """The tokens of a row."""
    return console.scaled(sum(spent["tokens"].values()), 1000, ("", "k", "M", "G"))


def dollar_text(spent: Mapping[str, Any]) -> str:
    """The dollars of a row; `+` if more was used: tokens without a known price, or what was not read."""
    if spent["cost_usd"] is None:
        return "not known"
    return f"${spent['cost_usd']:.2f}" + ("+" if spent["unpriced_tokens"] or spent.get("truncated") else "")
