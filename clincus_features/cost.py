"""What a session's conversation has cost: GET /api/sessions/{id}/cost. Tokens, context, dollars for known prices.

The source is the copy of the conversation on the host (saved after each turn and every 3 minutes). Claude Code writes
what the API charged into its transcripts. The other tools write nothing that is clear enough: they get null. What a
transcript says is data of a container, and bounded; a lying agent can fake its own figures and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import clincus

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
FILES = 10_000  # transcripts of a session
LINE = 8 << 20  # bytes of a line; a longer one tells no usage
READ = 1 << 30  # bytes of a session's transcripts
MOST = 10**9  # tokens of one message
MESSAGES = 200_000  # of a session
SESSIONS = 50  # whose messages are kept in memory
CHECKED = 4096  # bytes before the place where reading goes on: if they changed, the file is another one
KINDS = ("input", "output", "cache_read", "cache_write")


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app
    ledger = Ledger()

    def get_cost(request: clincus.Request) -> object:
        app.monitor.require()
        session = app.registry.get(request.values["id"])
        known = session.tool == "claude"
        return document(ledger.read(app.sessions.saved_directory(session)) if known else None)

    extensions.routes.append(("GET", "/api/sessions/{id}/cost", get_cost))


class Message(NamedTuple):
    """One answer of the model, as the transcript tells what was charged for it."""

    model: str
    at: str
    is_main: bool  # not a subagent's
    tokens: tuple[int, int, int, int]  # as KINDS
    hour: int  # of cache_write: those that are kept for an hour


@dataclass
class Transcript:
    """What was read of a file."""

    offset: int = 0  # bytes, up to the end of a line
    tail: bytes = b""  # hash of what stands before
    messages: dict[str, Message] = field(default_factory=dict)


class Ledger:
    """Reads transcripts, each only where it has grown."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, dict[str, Transcript]] = OrderedDict()  # by directory; the last used last

    def read(self, directory: str) -> list[Message] | None:
        """Every message of a saved conversation once, with the largest of its usages; None if there is too much."""
        with self._lock:
            before = self._sessions.pop(directory, {})
            now: dict[str, Transcript] = {}
            merged: dict[str, Message] = {}
            left = READ
            for path in transcripts(os.path.join(directory, ".claude", "projects")):
                with suppress(OSError), open_plain(path) as file:
                    left -= os.fstat(file.fileno()).st_size
                    now[path] = read_on(file, before.get(path, Transcript()))
                    merge(merged, now[path].messages.items())
                if left < 0 or len(merged) > MESSAGES or len(now) >= FILES:
                    return None
            self._sessions[directory] = now
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            return list(merged.values())


def transcripts(folder: str) -> Iterator[str]:
    """The transcripts in a folder and below, those of subagents too. No link is followed."""
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in sorted(names) if name.endswith(".jsonl"))


@contextmanager
def open_plain(path: str) -> Iterator[BinaryIO]:
    """Open a regular file that is no link. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no regular file")
        yield file


def read_on(file: BinaryIO, known: Transcript) -> Transcript:
    """Read what a transcript has beyond what is known of it, or all of it if it is another one by now."""
    if known.offset and tail_of(file, known.offset) != known.tail:
        known = Transcript()
    messages, offset = dict(known.messages), known.offset
    file.seek(offset)
    while line := file.readline(LINE):
        start, offset = offset, offset + len(line)
        if not line.endswith(b"\n"):
            if len(line) < LINE:  # it is not written to its end yet
                offset = start
                break
            while (rest := file.readline(LINE)) and not rest.endswith(b"\n"):
                offset += len(rest)
            offset += len(rest)
        elif b'"usage"' in line:
            merge(messages, parse_line(line, str(start)))
    return Transcript(offset, tail_of(file, offset), messages)


def tail_of(file: BinaryIO, offset: int) -> bytes:
    """The hash of what stands before a place in a file."""
    import hashlib

    begin = max(offset - CHECKED, 0)
    file.seek(begin)
    return hashlib.sha256(file.read(offset - begin)).digest()


def merge(into: dict[str, Message], found: Iterable[tuple[str, Message]]) -> None:
    """Keep the largest usage of each message: a transcript repeats it for each block and while it comes in."""
    for key, message in found:
        if key not in into or sum(message.tokens) > sum(into[key].tokens):
            into[key] = message


def parse_line(line: bytes, place: str) -> Iterator[tuple[str, Message]]:
    """The message of a line with its key, if the line tells a usage; `place` is the key of one without an id."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return
    message = clincus.as_object(clincus.as_object(entry).get("message"))
    usage = clincus.as_object(message.get("usage"))
    names = "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
    counts = [usage.get(name, 0) for name in names]
    hour = clincus.as_object(usage.get("cache_creation")).get("ephemeral_1h_input_tokens", 0)
    if not usage or not all(type(count) is int and 0 <= count <= MOST for count in (*counts, hour)) or hour > counts[3]:
        return
    model, at, id, request = (
        text(one) for one in (message.get("model"), entry.get("timestamp"), message.get("id"), entry.get("requestId"))
    )
    is_main = entry.get("isSidechain") is not True
    yield (
        f"{id}:{request}" if id else place,
        Message(model, at, is_main, (counts[0], counts[1], counts[2], counts[3]), hour),
    )


def text(value: object) -> str:
    """A short text, "" for anything else."""
    return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else ""


def cost_of(message: Message) -> float | None:
    """What a message has cost in dollars; None where the price of its model is not known."""
    if not sum(message.tokens):
        return 0.0
    price, request = price_of(message.model), sum(message.tokens) - message.tokens[1]
    if price is None or (request > LONG and not price.is_flat):
        return None
    dollars = sum(count * price for count, price in zip(message.tokens, price.dollars))
    return (dollars + message.hour * (2 * price.dollars[0] - price.dollars[3])) / 10**6


def price_of(model: str) -> Price | None:
    """The row of a model."""
    return next((price for price in PRICES if re.fullmatch(price.pattern, model)), None)


def totals(messages: Iterable[Message]) -> dict[str, Any]:
    """Tokens by kind, and dollars: None if the price of one message is not known."""
    messages = list(messages)
    costs = [cost_of(message) for message in messages]
    known = [cost for cost in costs if cost is not None]
    tokens = {kind: sum(message.tokens[at] for message in messages) for at, kind in enumerate(KINDS)}
    return {"tokens": tokens, "cost_usd": round(sum(known), 6) if len(known) == len(costs) else None}


def document(messages: list[Message] | None) -> Mapping[str, object]:
    """The answer of the API; None for a tool that tells nothing, or too much. Pure."""
    nothing: dict[str, object] = {
        "model": None,
        "tokens": None,
        "cost_usd": None,
        "context": None,
        "windows": [],
        "days": [],
    }
    if messages is None:
        return nothing
    charged = [message for message in messages if sum(message.tokens)]
    last = max((one for one in charged if one.is_main), key=lambda one: one.at, default=None)
    used = sum(last.tokens) if last else 0
    price = price_of(last.model) if last else None
    days = sorted({message.at[:10] for message in charged if clincus.parse_time(message.at)}, reverse=True)
    return {
        **nothing,
        **totals(charged),
        "model": last.model or None if last else None,
        "context": {"used": used, "size": price.context if price else None} if last else None,
        "days": [{"day": day, **totals(one for one in charged if one.at[:10] == day)} for day in days[:366]],
    }
