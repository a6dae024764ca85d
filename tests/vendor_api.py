"""A stand-in for the vendors' APIs: it answers the tools' requests as the prompt tells it to.

It speaks the part of the Messages API (https://docs.anthropic.com/en/api/messages, streaming) that Claude Code,
Copilot CLI and opencode use, and what vendor_dialects.py translates into that. The first word of the last prompt says
what to answer:

    say TEXT          that text                       bash COMMAND      call of the shell tool
    ask               a question with three options   plan              a plan to approve
    stall             two words, then nothing more    status NUMBER     an error, at every try
    hush              nothing at all                  ask more          a second question, in which one ticks boxes
    background        a shell command that goes on in the background
    delegate A | B    a sub-agent for each of these prompts, at the same time (Claude Code and opencode)

Any other prompt is answered by `echo: PROMPT`, and the result of a tool by `The tool has answered.`
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.vendor_dialects import OTHER_DIALECTS, Dialect, event

Block = Mapping[str, Any]
# How much of a person's plan is used, as a subscriber is told it (seen with Claude Code 2.1.332).
LIMITS = {"status": "allowed", "representative-claim": "five_hour"}
LIMITS |= {"5h-status": "allowed", "5h-utilization": "0.42", "7d-status": "allowed", "7d-utilization": "0.17"}
QUESTION: dict[str, Any] = {
    "questions": [
        {
            "question": "Which colour do you want?",
            "header": "Colour",
            "multiSelect": False,
            "options": [
                {"label": "Red", "description": "Like a rose"},
                {"label": "Green", "description": "Like grass"},
                {"label": "Blue", "description": "Like the sky"},
            ],
        }
    ]
}
TICKED: Block = {
    "question": "Which sizes do you want?",
    "header": "Size",
    "multiSelect": True,
    "options": [{"label": label, "description": f"{label} ones"} for label in ("Small", "Large")],
}
PLAN = "# The plan\n\n" + "".join(f"{number}. Step number {number} of the plan\n" for number in range(1, 61))
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
NUMBERS = itertools.count(1)
# What Codex 0.169 asks ChatGPT first: with a login of that it does not start without an account and its server.
ACCOUNTS = {
    "accounts": [{"id": "acc-1", "workspace_backend_origin": "https://chatgpt.com", "account_routing_override": "us"}],
    "default_account_id": "acc-1",
    "account_ordering": ["acc-1"],
}

# The same of Copilot CLI 1.0 with GitHub's token: who that is of, where its models are, and which there are.
GITHUB_ANSWERS: Mapping[str, object] = {
    "/copilot_internal/user": {
        "login": "me-at-github",
        "copilot_plan": "individual",
        "chat_enabled": True,
        "cli_enabled": True,
        "endpoints": {"api": "https://api.individual.githubcopilot.com"},
    },
    "/models": {
        "data": [
            {
                "id": "claude-sonnet-4.5",
                "name": "Claude Sonnet 4.5",
                "object": "model",
                "vendor": "Anthropic",
                "version": "claude-sonnet-4.5",
                "model_picker_enabled": True,
                "policy": {"state": "enabled"},
                "capabilities": {
                    "family": "claude-sonnet-4.5",
                    "type": "chat",
                    "limits": {"max_context_window_tokens": 144_000, "max_prompt_tokens": 128_000},
                    "supports": {"streaming": True, "tool_calls": True},
                },
                "supported_endpoints": ["/chat/completions"],
            }
        ]
    },
}


def prompt_of(message: Mapping[str, Any]) -> str:
    """The text that a person wrote in a message; what a tool adds stands in tags."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
    plain = [re.sub(r"<(\S+)[^>]*>.*?</\1>", "", text, flags=re.DOTALL).strip() for text in texts]
    # What Copilot CLI writes before a prompt in its plan mode.
    plain = [re.sub(r"\A\[\[PLAN\]\] .*?\n\nMy request: ", "", text, flags=re.DOTALL) for text in plain]
    return next((text for text in reversed(plain) if text), "")


def current_turn(request: Mapping[str, Any]) -> tuple[str, int]:
    """The last prompt of a request, and how many tools have answered since."""
    prompt, results = "", 0
    for message in request["messages"]:
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for block in blocks if message.get("role") == "user" else ():
            if block.get("type") == "tool_result":
                results += 1
            elif prompt_of({"content": [block]}):
                prompt, results = prompt_of({"content": [block]}), 0
    return prompt.strip("\"'\n "), results


def tool_call(tools: Mapping[str, Any], names: tuple[str, ...], arguments: Mapping[str, object]) -> Block:
    """A call of the first of some tools that there is, by its name in lower case."""
    found = next((tools[name] for name in names if name in tools), names[0])
    return {"type": "tool_use", "id": f"toolu_{next(NUMBERS)}", "name": found, "input": arguments}


def answer(request: Mapping[str, Any], prompt: str, results: int) -> Block:
    tools = {str(tool.get("name", "")).lower(): tool["name"] for tool in request.get("tools") or ()}
    verb, _, rest = prompt.partition(" ")
    if not tools:
        verb = "title"
    if verb == "plan" and "request_user_input" in tools:  # Codex takes what stands in this tag
        return {"type": "text", "text": f"<proposed_plan>\n{PLAN}</proposed_plan>"}
    if verb == "plan" and (planned := plan_call(tools, json.dumps(request), results)):
        return planned
    if verb == "ask" and not results:
        asked = ask_arguments(tools)
        if rest == "more":
            asked = {**asked, "questions": [*asked["questions"], TICKED]}
        return tool_call(tools, ("askuserquestion", "question", "ask_user", "request_user_input"), asked)
    if verb == "delegate" and not results:
        return {"type": "several", "blocks": [sub_agent(tools, one) for one in rest.split(" | ")]}
    if verb in ("bash", "background") and not results:
        arguments: dict[str, object] = {"command": rest or "sleep 600", "description": "Run a command"}
        if verb == "background":
            arguments["run_in_background"] = True
        return tool_call(tools, ("bash", "exec_command", "run_shell_command"), arguments)
    texts = {"say": rest, "title": "A title"}
    return {"type": "text", "text": "The tool has answered." if results else texts.get(verb, f"echo: {prompt}")}


def plan_call(tools: Mapping[str, Any], request: str, results: int) -> Block | None:
    """The call that hands a plan to a person, as the tool at hand takes it; None once it was made."""
    folder = re.search(r"/[^\s\"'`]+/\.gemini/[^\s\"'`]+/plans/", request)
    if folder:  # Gemini CLI takes the plan from a file in this folder
        if results == 0:
            return tool_call(tools, ("write_file",), {"file_path": f"{folder[0]}plan.md", "content": PLAN})
        return tool_call(tools, ("exit_plan_mode",), {"plan_filename": "plan.md"}) if results == 1 else None
    place = re.search(r"/[^\s\"'`]+/\.claude/plans/[\w-]+\.md", request)
    if place and results == 0:  # Claude Code takes the plan from this file
        return tool_call(tools, ("write",), {"file_path": place[0], "content": PLAN})
    if results > bool(place):
        return None
    arguments = {} if "plan_exit" in tools else {"plan": PLAN, "summary": "The plan"}  # opencode has written a file
    return tool_call(tools, ("ExitPlanMode", "exit_plan_mode", "plan_exit"), arguments)


def sub_agent(tools: Mapping[str, Any], prompt: str) -> Block:
    kind = "general" if "task" in tools else "general-purpose"
    return tool_call(tools, ("task", "agent"), {"description": "A part", "prompt": prompt, "subagent_type": kind})


def ask_arguments(tools: Mapping[str, Any]) -> Block:
    one = QUESTION["questions"][0]
    if "ask_user" in tools and "run_shell_command" not in tools:  # of Copilot CLI; that of Gemini CLI is another
        colours = {"type": "string", "enum": [option["label"] for option in one["options"]]}
        schema = {"type": "object", "properties": {"colour": colours}, "required": ["colour"]}
        return {"message": one["question"], "requestedSchema": schema}
    if "request_user_input" in tools:  # of Codex
        return {"questions": [{**one, "id": "colour"}]}
    return {"questions": [{**one, "type": "choice"}]} if "ask_user" in tools else QUESTION


def messages(block: Block, model: str, stalls: bool) -> Iterator[bytes]:
    """The events of a streamed message; one that stalls ends amid its text."""
    usage = {"input_tokens": 10, "output_tokens": 1}

    def told(kind: str, **more: object) -> bytes:
        return event({"type": kind, **more}, kind)

    head = {
        "id": f"msg_{next(NUMBERS)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "usage": usage,
    }
    yield told("message_start", message={**head, "stop_reason": None, "stop_sequence": None})
    for index, one in enumerate(block["blocks"] if block["type"] == "several" else [block]):
        if one["type"] == "text":
            yield told("content_block_start", index=index, content_block={"type": "text", "text": ""})
            yield told("content_block_delta", index=index, delta={"type": "text_delta", "text": one["text"]})
        else:
            yield told("content_block_start", index=index, content_block={**one, "input": {}})
            delta = {"type": "input_json_delta", "partial_json": json.dumps(one["input"])}
            yield told("content_block_delta", index=index, delta=delta)
        if stalls:
            return
        yield told("content_block_stop", index=index)
    reason = "end_turn" if block["type"] == "text" else "tool_use"
    delta = {"stop_reason": reason, "stop_sequence": None}
    yield told("message_delta", delta=delta, usage={"output_tokens": 9})
    yield told("message_stop")


DIALECTS = (Dialect("/messages", dict, messages), *OTHER_DIALECTS)


class VendorApi(ThreadingHTTPServer):
    """The server; `url` is where a container on the bridge of this address finds it."""

    daemon_threads = True

    def __init__(self, host: str, port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.url = f"http://{host}:{self.server_address[1]}"
        self.stopping = threading.Event()
        self.requests: list[str] = []  # paths, and the last prompts
        self.texts: list[str] = []  # all texts of the last messages, as they arrived
        self.keys: set[str] = set()  # that requests brought
        self.tokens: set[str] = set()  # and those of their Authorization
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: VendorApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        if self.path.startswith("/backend-api/"):
            is_accounts = self.path.endswith("/accounts/check")
            self.send_json(200 if is_accounts else 404, ACCOUNTS if is_accounts else {})
            return
        self.send_json(200, GITHUB_ANSWERS.get(self.path, {"data": [], "has_more": False}))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.keys |= {self.headers.get(name) or "" for name in ("X-Api-Key", "X-Goog-Api-Key")}
        self.server.tokens.add((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if self.path == "/oauth/token":
            new = {"access_token": "the-real-token-of-new", "refresh_token": "the-real-token-of-next"}
            self.send_json(200, {**new, "token_type": "Bearer", "expires_in": 3600})
            return
        dialect = next((one for one in DIALECTS if one.path in self.path), None)
        if dialect is None:
            self.server.requests.append(f"POST {self.path}")
            self.send_json(200, {})
            return
        if re.search("count_?tokens", self.path, re.IGNORECASE):
            self.send_json(200, {"input_tokens": 10, "totalTokens": 10})
            return
        request = dialect.as_messages(json.loads(body))
        prompt, results = current_turn(request)
        verb, _, rest = prompt.partition(" ")
        last = [one.get("content") for one in request["messages"] if one.get("role") == "user"][-1]
        blocks = last if isinstance(last, list) else [{"text": last}]
        self.server.texts += [block["text"] for block in blocks if "text" in block]
        self.server.requests.append(f"POST {self.path} {prompt[:200]} ({results} results)")
        if verb == "status" and rest[:3].isdigit():
            status = int(rest[:3])
            error = {"type": ERRORS.get(status, "api_error"), "message": f"stand-in {status}", "code": status}
            self.send_json(status, {"type": "error", "error": error})
            return
        if verb == "hush" and request.get("tools"):
            self.server.stopping.wait()
        block = answer(request, prompt, results)
        if verb == "stall":
            block = {"type": "text", "text": "Let me think"}
        if request.get("stream"):
            self.send_stream(dialect.stream(block, request["model"], verb == "stall"), stalls=verb == "stall")
            return
        reason = "end_turn" if block["type"] == "text" else "tool_use"
        message = {"id": f"msg_{next(NUMBERS)}", "type": "message", "role": "assistant", "content": [block]}
        usage = {"input_tokens": 10, "output_tokens": 9}
        self.send_json(200, {**message, "model": request["model"], "stop_reason": reason, "usage": usage})

    def send_stream(self, events: Iterator[bytes], *, stalls: bool) -> None:
        """Send server-sent events, and hold the connection if the answer is not to end."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        resets = {f"{name}reset": str(int(time.time()) + 3600) for name in ("", "5h-", "7d-")}
        for name, value in {**LIMITS, **resets}.items():
            self.send_header(f"anthropic-ratelimit-unified-{name}", value)
        self.end_headers()
        for data in events:
            self.wfile.write(data)
            self.wfile.flush()
        if stalls:
            self.server.stopping.wait()
        self.close_connection = True

    def send_json(self, status: int, document: object) -> None:
        data = b"" if self.command == "HEAD" else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
