"""How other vendors' APIs ask and answer, in terms of the Messages API that tests/vendor_api.py knows.

As far as the tools need them: the Responses API (Codex), generateContent (Gemini CLI), and chat completions (aider).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Json = Mapping[str, Any]
NUMBERS = itertools.count(1)


class Dialect(NamedTuple):
    """One vendor's API."""

    path: str  # what the path of a request contains
    as_messages: Callable[[Json], dict[str, Any]]  # a request in terms of the Messages API
    stream: Callable[[Json, str, bool], Iterator[bytes]]  # (block, model, whether it stalls) -> server-sent events


def event(data: Json, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(data)}\n\n".encode()


# -- Responses


def from_responses(request: Json) -> dict[str, Any]:
    """The messages and the results of tools in a request."""
    messages = []
    for item in request["input"]:
        if item.get("type") == "message":
            content = [{"type": "text", "text": part.get("text", "")} for part in item["content"]]
            messages.append({"role": item["role"], "content": content})
        elif str(item.get("type")).endswith("_call_output"):
            messages.append({"role": "user", "content": [{"type": "tool_result"}]})
    return {**request, "messages": messages, "tools": [one for one in request.get("tools") or () if "name" in one]}


def responses(block: Json, model: str, stalls: bool) -> Iterator[bytes]:
    number = next(NUMBERS)
    response = {"id": f"resp_{number}", "object": "response", "model": model, "output": []}
    item: dict[str, Any] = {"id": f"item_{number}", "type": "message", "role": "assistant", "status": "in_progress"}
    if block["type"] == "tool_use":
        given = dict(block["input"])
        if "command" in given:
            # That it asks for more than its sandbox gives lets it ask a person.
            more = {"sandbox_permissions": "require_escalated", "justification": "To see it"}
            given = {"cmd": given["command"], **more}
        call = {"call_id": block["id"], "name": block["name"], "arguments": json.dumps(given)}
        item |= {"type": "function_call", **call}

    def told(kind: str, **more: object) -> bytes:
        return event({"type": kind, "output_index": 0, **more}, kind)

    yield told("response.created", response={**response, "status": "in_progress"})
    yield told("response.output_item.added", item={**item, "content": []})
    if block["type"] == "text":
        yield told("response.output_text.delta", item_id=item["id"], content_index=0, delta=block["text"])
        item["content"] = [{"type": "output_text", "text": block["text"], "annotations": []}]
    if stalls:
        return
    usage = {"input_tokens": 10, "output_tokens": 9, "total_tokens": 19}
    yield told("response.output_item.done", item={**item, "status": "completed"})
    yield told("response.completed", response={**response, "status": "completed", "usage": usage})


# -- generateContent


def from_contents(request: Json) -> dict[str, Any]:
    """The same of a request for contents."""
    messages = []
    for one in request["contents"]:
        parts = one["parts"]
        content = [{"type": "tool_result"} for part in parts if "functionResponse" in part]
        content += [{"type": "text", "text": part["text"]} for part in parts if "text" in part]
        messages.append({"role": one.get("role", "user"), "content": content})
    tools = [one for group in request.get("tools") or () for one in group.get("functionDeclarations", ())]
    return {"messages": messages, "tools": tools, "model": "gemini", "stream": True}


def contents(block: Json, model: str, stalls: bool) -> Iterator[bytes]:
    """One piece, which ends the answer unless it stalls."""
    part = {"text": block.get("text")}
    if block["type"] == "tool_use":
        part = {"functionCall": {"name": block["name"], "args": block["input"], "id": block["id"]}}
    candidate = {"content": {"role": "model", "parts": [part]}, "index": 0}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 9, "totalTokenCount": 19}
    yield event({
        "candidates": [candidate if stalls else {**candidate, "finishReason": "STOP"}],
        "usageMetadata": usage,
        "modelVersion": model,
    })  # fmt: skip


# -- Chat completions


def from_chat(request: Json) -> dict[str, Any]:
    """The same of a chat. A tool that has no functions is given one: then it does not ask for a title."""
    return {**request, "tools": [one["function"] for one in request.get("tools") or ()] or [{"name": "none"}]}


def chat(block: Json, model: str, stalls: bool) -> Iterator[bytes]:
    """A text; a command stands in a fence, as aider takes it."""
    text = block.get("text") or f"```bash\n{block['input']['command']}\n```"
    head = {"id": f"chat-{next(NUMBERS)}", "object": "chat.completion.chunk", "created": 1, "model": model}
    delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    yield event({**head, "choices": [delta]})
    if not stalls:
        yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield b"data: [DONE]\n\n"


OTHER_DIALECTS = (
    Dialect("/responses", from_responses, responses),
    Dialect("enerateContent", from_contents, contents),
    Dialect("/chat/completions", from_chat, chat),
)
