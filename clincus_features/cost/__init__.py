"""The cost of conversations: GET /api/sessions/{id}/cost, and GET /api/cost by project and day.

The sources are the copies of the conversations on the host (saved after each turn and every few minutes, kept when a
session is deleted), in the form of each tool (dialects.py), and for the limits of a person's plan Claude Code's status
line (status.py). For a tool that writes nothing, the answers to its lent logins count, as the proxy has read them; else
it gets null. A transcript is data of a container, and bounded; a lying agent can fake its own figures and nothing else.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import clincus

from .ledger import NOTHING, READ_ALL, Account, Budget, Ledger, Spent, by_day, joined
from .prices import AS_OF, Message, Prices, own_prices
from .status import Status, guest_files

DAYS = 30  # reported days unless a request asks for more
MESSAGES = 300_000  # of all conversations together
MODELS = 10  # models without a price that are named
READ_RUN = 8 << 20  # bytes of a run's transcripts that an answer of the history reads


def install(extensions: clincus.Extensions) -> None:
    """Add the routes."""
    app = extensions.app
    ledger = Ledger()

    def count(session_id: str) -> Account | None:
        rows = itertools.chain(*clincus.call_each(app.extensions.counters, session_id))
        return counted(rows, prices_of(app.config))

    spendings = Spendings(ledger, count)

    def get_cost(request: clincus.Request) -> object:
        session = app.known_session(request.values["id"])
        directory = app.sessions.saved_directory(session)
        ledger.use(prices_of(app.config))
        account = ledger.read(session.tool, directory)
        if account is None or not account.is_told:
            account = count(session.session_id) or account
        return document(account, Status(directory))

    def get_costs(request: clincus.Request) -> object:
        ledger.use(prices_of(app.config))
        return spendings.of(clincus.list_saved(app.config, app.environ), request.values.get("days", DAYS))

    def fields_of(run: clincus.Run) -> Mapping[str, object]:
        cost = None
        with suppress(clincus.ClincusError):
            directory = clincus.session_directory(app.config, app.environ, run.tool, run.session_id)
            account = ledger.read(run.tool, directory, Budget(READ_RUN))
            cost = cost_of(count(run.session_id) if account is None else account)
        return {"cost_usd": cost}

    def price(model: str, tokens: tuple[int, ...]) -> float | None:
        return prices_of(app.config).cost(Message(model, "", is_main=True, tokens=tokens)) if model else None

    extensions.pricers.append(price)
    extensions.run_fields.append(fields_of)
    extensions.guest_files.append(guest_files(os.environ if app is None else app.environ))
    extensions.routes.append(("GET", "/api/sessions/{id}/cost", get_cost))
    extensions.routes.append(("GET", "/api/cost", get_costs))


def counted(rows: Iterable[clincus.Counted], prices: Prices) -> Account | None:
    """The account of a session whose tool writes no usage, from what this host has counted; None for nothing."""
    sums: dict[str, Spent] = {}
    models: dict[str, bool] = {}  # with True for a known price
    for row in rows:
        message = Message(row.model, f"{row.day}T00:00:00Z" if row.day else "", is_main=True, tokens=row.tokens)
        dollars = prices.cost(message)
        models[row.model] = dollars is not None
        sums.setdefault(row.day, Spent()).add(row.tokens, math.nan if dollars is None else dollars)
    if not sums:
        return None
    unpriced = tuple(model for model, is_known in models.items() if model and not is_known)
    number = -sum(sum(spent.tokens) for spent in sums.values())  # no account of a transcript has it
    return Account(number, older=sums, sums=sums, unpriced=unpriced[:MODELS], is_told=True)


def cost_of(account: Account | None) -> object:
    """The dollars of a conversation; None if they are unknown, or if not all of it was read yet."""
    return None if account is None or account.is_partial else document(account)["cost_usd"]


def prices_of(config: clincus.Config) -> Prices:
    """The prices of a configuration."""
    return Prices(own_prices(config.get("cost.prices")))


def document(account: Account | None, status: Status | None = None) -> Mapping[str, object]:
    """The answer of the API for one session; all fields are null if nothing is known."""
    account = account or NOTHING
    nothing: dict[str, object] = {
        "model": None,
        "tokens": None,
        "cost_usd": None,
        "unpriced_tokens": 0,
        "unpriced_models": sorted(account.unpriced),
        "prices_as_of": AS_OF,
        "context": None,
        "windows": status.windows(time.time()) if status else [],
        "days": [],
        "truncated": account.is_partial,
    }
    if not account.is_told:  # nothing was saved yet, or the tool writes nothing
        return nothing
    last = account.last
    sizes = last and last.size, status and status.context_size
    return {
        **nothing,
        **joined(account.sums.values()).document(),
        "model": last.model or None if last else None,
        "context": {"used": last.used, "size": next(filter(None, sizes), None)} if last else None,
        "days": days_of(account.sums)[:366],
    }


def days_of(sums: Mapping[str, Spent]) -> list[dict[str, Any]]:
    """The sum of each day (UTC), newest first, without messages that have no day."""
    return [{"day": day, **sums[day].document()} for day in sorted(sums, reverse=True) if day]


class Spendings:
    """The answers of the API for all saved conversations."""

    def __init__(self, ledger: Ledger, count: Callable[[str], Account | None] = lambda session_id: None) -> None:
        """`count` gives the account of a session whose tool writes nothing, by its session id."""
        self._ledger = ledger
        self._count = count
        self._last: tuple[object, Mapping[str, object]] = None, {}  # the sources of the last answer, and the answer

    def of(self, saved: Iterable[clincus.SavedSession], days: int) -> Mapping[str, object]:
        """The answer for the last `days` days (UTC); the last answer if nothing has changed.

        A conversation that went on in another session is saved twice: each of its messages counts once, for the project
        of the session that was saved last.
        """
        since = (datetime.now(timezone.utc) - timedelta(days=days - 1)).strftime("%Y-%m-%d")
        accounts: list[tuple[clincus.SavedSession, Account]] = []
        silent: set[str] = set()
        budget = Budget(READ_ALL)
        messages = 0
        is_cut = False
        for session in saved:
            account = self._ledger.read(session.tool, session.directory, budget, since)
            if account is None:
                account = self._count(session.session_id)
            if account is None:
                silent.add(session.tool)
                continue
            messages += account.messages
            if messages > MESSAGES:
                is_cut = True
                break
            is_cut = is_cut or account.is_partial
            accounts.append((session, account))
        parts = [(session.session_id, session.workspace, account.number) for session, account in accounts]
        made_of = since, parts, silent, is_cut
        if self._last[0] != made_of:
            more = {"since": since, "prices_as_of": AS_OF, "silent_tools": sorted(silent), "truncated": is_cut}
            self._last = made_of, {**more, **add_up(accounts, since)}
        return self._last[1]


def add_up(accounts: Iterable[tuple[clincus.SavedSession, Account]], since: str) -> dict[str, Any]:
    """The sum of several accounts since a day (2026-11-29), each message once."""
    seen: set[bytes] = set()
    total: dict[str, Spent] = {}  # by day
    projects: dict[str, tuple[set[str], dict[str, Spent]]] = {}  # sessions of each, and sums by day
    unpriced: dict[str, None] = {}
    for session, account in accounts:
        keys = account.keys()
        sums = account.sums if seen.isdisjoint(keys) else by_day(account, seen)
        seen |= keys
        fresh = {day: spent for day, spent in sums.items() if day >= since}
        if fresh:
            sessions, of_project = projects.setdefault(session.workspace, (set(), {}))
            sessions.add(session.session_id)
            for day, spent in fresh.items():
                of_project.setdefault(day, Spent()).join(spent)
                total.setdefault(day, Spent()).join(spent)
            if any(spent.unpriced for spent in fresh.values()):
                unpriced.update(dict.fromkeys(account.unpriced))
    documents: list[dict[str, Any]] = [
        {"workspace": workspace, "sessions": len(sessions), **summary(sums)}
        for workspace, (sessions, sums) in projects.items()
    ]
    return {
        **summary(total),
        "unpriced_models": sorted(unpriced)[:MODELS],
        "projects": sorted(documents, key=lambda one: (-(one["cost_usd"] or 0), one["workspace"])),
    }


def summary(sums: Mapping[str, Spent]) -> dict[str, Any]:
    """Tokens and dollars, in total and by day."""
    return {**joined(sums.values()).document(), "days": days_of(sums)}
