"""The cost of conversations: GET /api/sessions/{id}/cost, and GET /api/cost by project and day.

The sources are the copies of the conversations on the host (saved after each turn and every few minutes, kept when a
session is deleted), in the form of each tool (dialects.py), and for the limits of a person's plan Claude Code's status
line (status.py). A tool that writes nothing gets null. What a transcript says is data of a container, and bounded; a
lying agent can fake its own figures and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import clincus

from .ledger import MESSAGES, Ledger, merge
from .prices import AS_OF, Message, Prices, own_prices, totals, unpriced_models
from .status import Status, guest_files

DAYS = 30  # that are told unless more are asked for


def install(extensions: clincus.Extensions) -> None:
    """Add the routes."""
    app = extensions.app
    ledger = Ledger()

    def get_cost(request: clincus.Request) -> object:
        session = app.known_session(request.values["id"])
        directory = app.sessions.saved_directory(session)
        return document(ledger.read(session.tool, directory), prices_of(app.config), Status(directory))

    def get_costs(request: clincus.Request) -> object:
        saved = clincus.list_saved(app.config, app.environ)
        return spending(ledger, saved, request.values.get("days", DAYS), prices_of(app.config))

    extensions.guest_files.append(guest_files(os.environ if app is None else app.environ))
    extensions.routes.append(("GET", "/api/sessions/{id}/cost", get_cost))
    extensions.routes.append(("GET", "/api/cost", get_costs))


def prices_of(config: clincus.Config) -> Prices:
    """The prices that hold in a configuration."""
    return Prices(own_prices(config.get("cost.prices")))


def document(found: Mapping[str, Message] | None, prices: Prices, status: Status | None = None) -> Mapping[str, object]:
    """The answer of the API of one session; all is null where nothing is known."""
    nothing: dict[str, object] = {
        "model": None,
        "tokens": None,
        "cost_usd": None,
        "unpriced_tokens": 0,
        "unpriced_models": [],
        "prices_as_of": AS_OF,
        "context": None,
        "windows": status.windows(time.time()) if status else [],
        "days": [],
    }
    if not found:  # nothing was saved yet, or the tool writes nothing
        return nothing
    charged = [message for message in found.values() if sum(message.tokens)]
    last = max((one for one in charged if one.is_main), key=lambda one: one.at, default=None)
    price = prices.of(last.model) if last else None
    sizes = last and last.size, status and status.context_size, price and price.context
    return {
        **nothing,
        **totals(charged, prices),
        "unpriced_models": unpriced_models(charged, prices),
        "model": last.model or None if last else None,
        "context": {"used": sum(last.tokens), "size": next(filter(None, sizes), None)} if last else None,
        "days": [{"day": day, **totals(of_day, prices)} for day, of_day in by_day(charged)[:366]],
    }


def by_day(messages: Iterable[Message]) -> list[tuple[str, list[Message]]]:
    """The messages of each day (UTC), the newest first; those without a time are left out."""
    days: dict[str, list[Message]] = {}
    for message in messages:
        if clincus.parse_time(message.at):
            days.setdefault(message.at[:10], []).append(message)
    return sorted(days.items(), reverse=True)


def spending(ledger: Ledger, saved: Iterable[clincus.SavedSession], days: int, prices: Prices) -> Mapping[str, object]:
    """The answer of the API for all saved conversations, of the last `days` days (UTC).

    A conversation that went on in another session is saved twice: each of its messages counts once, for the project
    of the session that was saved last.
    """
    since = (datetime.now(timezone.utc) - timedelta(days=days - 1)).strftime("%Y-%m-%d")
    counted: dict[str, Message] = {}
    projects: dict[str, tuple[set[str], list[Message]]] = {}  # sessions of each, and messages that cost something
    silent: set[str] = set()
    is_cut = False
    for session in saved:
        found = ledger.read(session.tool, session.directory)
        if found is None:
            silent.add(session.tool)
            continue
        is_cut = is_cut or len(counted) > MESSAGES
        if is_cut:
            break
        fresh = {
            key: message
            for key, message in ((f"{session.tool}:{key}", message) for key, message in found.items())
            if key not in counted
            and message.at[:10] >= since
            and any(message.tokens)
            and clincus.parse_time(message.at)
        }
        merge(counted, fresh.items())
        if fresh:
            sessions, messages = projects.setdefault(session.workspace, (set(), []))
            sessions.add(session.session_id)
            messages.extend(fresh.values())
    documents: list[dict[str, Any]] = [
        {"workspace": workspace, "sessions": len(sessions), **summary(messages, prices)}
        for workspace, (sessions, messages) in projects.items()
    ]
    return {
        "since": since,
        **summary(counted.values(), prices),
        "unpriced_models": unpriced_models(counted.values(), prices),
        "prices_as_of": AS_OF,
        "projects": sorted(documents, key=lambda one: (-(one["cost_usd"] or 0), one["workspace"])),
        "silent_tools": sorted(silent),
        "truncated": is_cut,
    }


def summary(messages: Iterable[Message], prices: Prices) -> dict[str, Any]:
    """Tokens and dollars, in all and by day."""
    messages = list(messages)
    days = [{"day": day, **totals(of_day, prices)} for day, of_day in by_day(messages)]
    return {**totals(messages, prices), "days": days}
