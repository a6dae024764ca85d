"""The form in which each tool records the tokens of its models. Each line is data of a container, and may say anything.

claude      ~/.claude/projects/**/*.jsonl, `message.usage`, once for each block of an answer and while it comes in;
            `speed` fast, `inference_geo` us and web searches cost more (seen with 2.1.332).
copilot     ~/.copilot/session-state/*/events.jsonl, `session.usage_record`, once for each request; its `inputTokens`
            hold the cached ones too. It tells no dollars: its plans count requests (seen with 1.0.102).
opencode    ~/.local/share/opencode/clincus-usage.jsonl, which our plugin guest/opencode.js writes. opencode itself has
            a database, and the host opens no database that a container has written (seen with 1.18.34).
codex       ~/.codex/sessions/**/rollout-*.jsonl, `token_usage_record`, once for each answer; its `input_tokens` hold
            those of the cache too. Earlier lines tell the model, the tier and who works (seen with 0.169.0).
gemini      ~/.gemini/tmp/*/chats/**/session-*.jsonl, `tokens` of a message, which is written again when it changes;
            its `input` holds the cached ones, and neither `thoughts` nor `tool` (seen with 0.61.0). Older versions
            wrote one JSON object for each conversation, which is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, NamedTuple

import clincus

from .prices import IN_US, Message

MOST = 10**9  # tokens of one message
MOST_DOLLARS = 10**5  # of one message
MOST_SEARCHES = 10**4  # of one message
MOST_CONTEXT = 10**8  # tokens
COMMAS = 50_000  # of a line: the value behind each takes up to 200 bytes while the line is parsed
NAME = re.compile(r"[A-Za-z0-9._:/@\[\]<>-]{1,200}")  # of a model; an ARN of Bedrock is long
DIGITS = 30  # of a number: Python took minutes for a million of them before 3.10.7

# A parser gets the document of a line, and the facts of earlier lines of its file, to which it adds facts for later
# ones. It returns the key of the message ("" without one) and the message.
Parse = Callable[[Mapping[str, Any], "dict[str, Any]"], "tuple[str, Message] | None"]


class Dialect(NamedTuple):
    """The place where a tool writes, and the parser for its lines."""

    folder: str  # below the home
    suffix: str  # of the files' names
    marks: tuple[bytes, ...]  # one of them is in each line that counts
    parse: Parse


def parse_claude(entry: Mapping[str, Any], _told: dict[str, Any]) -> tuple[str, Message] | None:
    """The message of a line of Claude Code's."""
    message = clincus.as_object(entry.get("message"))
    usage = clincus.as_object(message.get("usage"))
    names = "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
    counts = counted(usage, names)
    hour = counted(clincus.as_object(usage.get("cache_creation")), ("ephemeral_1h_input_tokens",))
    if not usage or not counts or not hour or hour[0] > counts[3]:
        return None
    id = text(message.get("id"))
    request = text(entry.get("requestId"))
    searches = counted(clincus.as_object(usage.get("server_tool_use")), ("web_search_requests",))
    return f"{id}:{request}" if id else "", Message(
        model_name(message.get("model")),
        text(entry.get("timestamp")),
        is_main=entry.get("isSidechain") is not True,
        tokens=tuple(counts),
        hour=hour[0],
        is_fast=usage.get("speed") == "fast",
        factor=IN_US if usage.get("inference_geo") == "us" else 1.0,
        searches=searches[0] if searches and searches[0] <= MOST_SEARCHES else 0,
    )


def parse_copilot(entry: Mapping[str, Any], _told: dict[str, Any]) -> tuple[str, Message] | None:
    """The request of a line of Copilot's."""
    usage = clincus.as_object(clincus.as_object(entry.get("data")).get("usage"))
    counts = counted(usage, ("inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens"))
    if entry.get("type") != "session.usage_record" or not usage or not counts or counts[0] < counts[2] + counts[3]:
        return None
    counts[0] -= counts[2] + counts[3]
    is_main = usage.get("interactionType") in (None, "conversation-agent")
    sizes = counted(usage, ("maxPromptTokens", "maxOutputTokens"))
    size = sum(sizes) if sizes and all(sizes) else None
    at = text(entry.get("timestamp"))
    message = Message(model_name(usage.get("model")), at, is_main, tuple(counts), size=size, has_price=False)
    return text(entry.get("id")), message


def parse_opencode(entry: Mapping[str, Any], _told: dict[str, Any]) -> tuple[str, Message] | None:
    """The message of a line that our plugin wrote."""
    counts = counted(entry, ("input", "output", "reasoning", "cache_read", "cache_write"))
    at = entry.get("at")
    cost = entry.get("cost")
    id = text(entry.get("id"))
    if not counts or not id or not isinstance(at, int) or not 0 <= at < 10**14:
        return None
    plain, output, reasoning, read, write = counts
    tokens = (plain, output + reasoning, read, write)
    moment = datetime.fromtimestamp(at / 1000, timezone.utc)
    # It says 0 of models that it does not know, too, and does not tell subagents apart.
    dollars = float(cost) if isinstance(cost, (int, float)) and 0 < cost < MOST_DOLLARS else None
    return id, Message(model_name(entry.get("model")), moment.isoformat(), True, tokens, dollars=dollars)


def parse_codex(entry: Mapping[str, Any], told: dict[str, Any]) -> tuple[str, Message] | None:
    """The answer of a line of Codex', with the model that an earlier line named."""
    payload = clincus.as_object(entry.get("payload"))
    settings = clincus.as_object(payload.get("thread_settings"))
    kind = entry.get("type")
    if kind == "session_meta":
        told["is_main"] = payload.get("thread_source") in (None, "user")
    elif kind == "turn_context":
        told["model"] = model_name(payload.get("model"))
    elif settings:
        told["model"] = model_name(settings.get("model"))
        told["is_fast"] = settings.get("service_tier") == "priority"
    elif payload.get("type") == "task_started":
        size = payload.get("model_context_window")
        told["size"] = size if type(size) is int and 0 < size <= MOST_CONTEXT else None
    if kind != "token_usage_record":
        return None
    usage = clincus.as_object(payload.get("usage"))
    counts = counted(usage, ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_input_tokens"))
    if not usage or not counts or counts[0] < counts[2] + counts[3]:
        return None
    counts[0] -= counts[2] + counts[3]
    return text(payload.get("response_id")), Message(
        told.get("model", ""),
        text(entry.get("timestamp")),
        is_main=told.get("is_main", True),
        tokens=tuple(counts),
        size=told.get("size"),
        is_fast=told.get("is_fast", False),
    )


def parse_gemini(entry: Mapping[str, Any], told: dict[str, Any]) -> tuple[str, Message] | None:
    """The message of a line of Gemini CLI's; the first line of a file tells whether it is a subagent's."""
    if "sessionId" in entry and "kind" in entry:
        told["is_main"] = entry.get("kind") == "main"
    usage = clincus.as_object(entry.get("tokens"))
    counts = counted(usage, ("input", "output", "cached", "thoughts", "tool"))
    if entry.get("type") != "gemini" or not usage or not counts or counts[0] < counts[2]:
        return None
    plain, output, read, thoughts, tool = counts
    tokens = (plain - read + tool, output + thoughts, read, 0)
    at = text(entry.get("timestamp"))
    is_main = told.get("is_main", True)
    return text(entry.get("id")), Message(model_name(entry.get("model")), at, is_main, tokens)


CODEX_MARKS = (b'"token_usage_record"', b'"turn_context"', b'"thread_settings"', b'"task_started"', b'"session_meta"')
DIALECTS = {
    "claude": Dialect(".claude/projects", ".jsonl", (b'"usage"',), parse_claude),
    "copilot": Dialect(".copilot/session-state", "events.jsonl", (b'"session.usage_record"',), parse_copilot),
    "opencode": Dialect(".local/share/opencode", "clincus-usage.jsonl", (b'"cache_read"',), parse_opencode),
    "codex": Dialect(".codex/sessions", ".jsonl", CODEX_MARKS, parse_codex),
    "gemini": Dialect(".gemini/tmp", ".jsonl", (b'"tokens"', b'"kind"'), parse_gemini),
}


def parse_line(dialect: Dialect, line: bytes, told: dict[str, Any]) -> tuple[str, Message] | None:
    """The message of a line with its key, if the line tells a usage. OverflowError if it has more values than fit."""
    with suppress(ValueError, RecursionError):
        return dialect.parse(parse_object(line), told)
    return None


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that a container wrote, {} for other JSON.

    OverflowError if it has more values than fit; ValueError or RecursionError if it is no JSON.
    """
    if data.count(b",") > COMMAS:
        raise OverflowError
    return clincus.as_object(json.loads(data, parse_int=short(int), parse_float=short(float)))


def short(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of numbers that refuses those with too many digits."""

    def read(digits: str) -> Any:
        if len(digits) > DIGITS:
            raise ValueError("the number is too long")
        return kind(digits)

    return read


def counted(usage: Mapping[str, object], names: tuple[str, ...]) -> list[int]:
    """The counts of these names, 0 for a missing one or null; empty if one is not a count."""
    counts = []
    for name in names:
        count = usage.get(name)
        if count is None:  # the Messages API allows it, and gateways write it
            count = 0
        if type(count) is not int or not 0 <= count <= MOST:
            return []
        counts.append(count)
    return counts


def text(value: object) -> str:
    """A short text, "" for anything else."""
    return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else ""


def model_name(value: object) -> str:
    """The name of a model, "" for anything else: the page shows it, so it must not carry sentences of a container."""
    return value if isinstance(value, str) and NAME.fullmatch(value) else ""
