"""Claude Code's conversation: a line of JSON for each block of a message. Seen with 2.1.332.

Lines and blocks of unknown types are left out: every version adds some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import clincus

from .messages import Message, message, short

FOLDER = (".claude", "projects")  # it has a folder for each working directory
NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.jsonl")
BLOCKS = 200  # of a line
TITLES = (
    "command",
    "file_path",
    "path",
    "pattern",
    "url",
    "query",
    "description",
    "skill",
    "prompt",
)  # the first counts
COMMAND = re.compile(r"<command-name>(.{1,200}?)</command-name>", re.DOTALL)
ARGUMENTS = re.compile(r"<command-args>(.{1,2000}?)</command-args>", re.DOTALL)
OUTPUT = re.compile(r"<local-command-std(?:out|err)>(.*?)</local-command-std(?:out|err)>", re.DOTALL)
PICTURE = "[picture]"
COMPACTED = "The conversation before was summed up for the tool."


def read(entry: Mapping[str, Any]) -> Iterator[Message]:
    """The messages of a line."""
    at = entry.get("timestamp")
    moment = at if isinstance(at, str) and len(at) < 40 and clincus.parse_time(at) else None
    for made in parts(entry):
        yield made._replace(at=moment)


def parts(entry: Mapping[str, Any]) -> Iterator[Message]:
    """The messages of a line, without their time."""
    kind = entry.get("type")
    content = clincus.as_object(entry.get("message")).get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
    if kind == "system" and entry.get("subtype") == "compact_boundary":
        yield message("system", "notice", COMPACTED)
    if entry.get("isMeta") is True or entry.get("isSidechain") is True:
        return
    for block in map(clincus.as_object, blocks[:BLOCKS]):
        made = None
        if kind == "user":
            made = of_person(block, is_summary=entry.get("isCompactSummary") is True)
        elif kind == "assistant":
            made = of_agent(block, is_error=entry.get("isApiErrorMessage") is True)
        if made is not None:
            yield made


def of_person(block: Mapping[str, Any], *, is_summary: bool) -> Message | None:
    """The message in a block of the person's side: the person's text, or the result of a call."""
    if block.get("type") == "tool_result":
        is_error = block.get("is_error") is True
        text = plain(block.get("content"))
        return message("agent", "result", text, call=short(block.get("tool_use_id")), failed=is_error)
    if block.get("type") == "image":
        return message("person", "text", PICTURE)
    typed = block.get("text")
    if block.get("type") != "text" or not isinstance(typed, str) or not typed.strip():
        return None
    return message("system", "notice", typed) if is_summary else of_typed(typed)


def of_typed(text: str) -> Message | None:
    """A prompt; a command of the tool and what that printed stand in tags."""
    output = OUTPUT.match(text)
    if output:
        return message("system", "notice", output[1]) if output[1].strip() else None
    command = COMMAND.search(text[:4000])
    if command and text.lstrip().startswith("<command-"):
        arguments = ARGUMENTS.search(text[:4000])
        return message("person", "text", f"{command[1]} {arguments[1] if arguments else ''}".strip())
    return message("person", "text", text)


def of_agent(block: Mapping[str, Any], *, is_error: bool) -> Message | None:
    """The message in a block of the agent's side: a text, a thought or a call."""
    kind = block.get("type")
    if kind == "tool_use":
        return of_call(block)
    text = block.get("thinking") if kind == "thinking" else block.get("text")
    if kind not in ("text", "thinking") or not isinstance(text, str) or not text.strip():
        return None
    if is_error:
        return message("system", "notice", text, failed=True)
    return message("agent", "thought" if kind == "thinking" else "text", text)


def of_call(block: Mapping[str, Any]) -> Message:
    """A call of a tool; a plan that waits for consent is one, too."""
    given = clincus.as_object(block.get("input"))
    name = short(block.get("name"))
    call = short(block.get("id"))
    if isinstance(given.get("plan"), str):
        return message("agent", "plan", given["plan"], tool=name, call=call)
    title = next(filter(None, (short(given.get(key)) for key in TITLES)), None)
    lines = [f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]
    return message("agent", "call", "\n".join(lines), tool=name, title=title, call=call)


def plain(content: object) -> str:
    """The text of a result: a text, or a list of blocks."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for block in map(clincus.as_object, content[:BLOCKS] if isinstance(content, list) else ()):
        text = block.get("text")
        if block.get("type") == "image":
            texts.append(PICTURE)
        elif isinstance(text, str):
            texts.append(text)
    return "\n".join(texts)
