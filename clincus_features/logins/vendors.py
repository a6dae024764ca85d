"""The logins that a tool's vendor renews: their files, their renewal, and the container's part of them. Pure.

Seen with Claude Code 2.1.332 and Codex 0.169. A refresh token is good for one use, so only one program may renew a
login: Clincus, on this host, in the tool's own file.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import clincus

YEAR = 365 * 86400
LASTS = 8 * 86400  # seconds after which Codex renews a login without an expiry
# The placeholder of a refresh token is the other placeholder with this suffix, so a search for that one finds both.
REFRESH = "-refresh"
_TOKEN = re.compile(r"[!-~]{8,8192}")
Document = Mapping[str, Any]


class Tokens(NamedTuple):
    """The content of a tool's file."""

    access: str
    refresh: str
    good_until: float  # seconds since 1970

    def __repr__(self) -> str:
        return "<tokens>"


class Vendor(NamedTuple):
    """The facts about one tool's login at its vendor."""

    tool: str  # for people: how to sign in on this host
    folder: tuple[str, str]  # the variable that names it, and its path without one
    file: str  # in that folder
    guest_file: str  # in a container's home
    token_url: str
    token_hosts: tuple[str, ...]  # all hosts that the tool's versions ask for new tokens
    token_path: str
    client: str  # its id there
    has_folder_lock: bool  # the tool locks FOLDER.lock while it renews, in the manner of proper-lockfile
    read: Callable[[Document], Tokens]
    request: Callable[[Document], dict[str, str]]  # fields of the request besides the token
    renewed: Callable[[Document, Document, float], dict[str, Any]]  # the file after an answer at a time
    lent: Callable[[Document, str, float], dict[str, Any]]  # the file of a container, with a placeholder


class UnreadableError(ValueError):
    """A file or an answer lacks an expected field."""


def text_in(document: Document, key: str) -> str:
    """A token of a document. Raises UnreadableError."""
    value = document.get(key)
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise UnreadableError(f"it has no {key}")
    return value


def chosen(document: Document, *keys: str) -> dict[str, Any]:
    """Some entries of a document."""
    return {key: document[key] for key in keys if key in document}


# -- Claude Code: ~/.claude/.credentials.json


def read_claude(document: Document) -> Tokens:
    """The tokens of its file. Raises UnreadableError."""
    login = clincus.as_object(document.get("claudeAiOauth"))
    until = login.get("expiresAt")
    if isinstance(until, bool) or not isinstance(until, (int, float)):
        raise UnreadableError("it has no expiresAt")
    return Tokens(text_in(login, "accessToken"), text_in(login, "refreshToken"), until / 1000)


def request_claude(document: Document) -> dict[str, str]:
    """The rights that the login has."""
    scopes = clincus.as_object(document.get("claudeAiOauth")).get("scopes")
    words = scopes if isinstance(scopes, list) else []
    return {"scope": " ".join(map(str, words))} if words else {}


def renewed_claude(document: Document, answer: Document, now: float) -> dict[str, Any]:
    """Its file after an answer. Raises UnreadableError."""
    login = clincus.as_object(document.get("claudeAiOauth"))
    seconds = answer.get("expires_in")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= 10 * YEAR:
        raise UnreadableError("it has no expires_in")
    fresh = {"accessToken": text_in(answer, "access_token"), "expiresAt": int((now + seconds) * 1000)}
    if "refresh_token" in answer:
        fresh["refreshToken"] = text_in(answer, "refresh_token")
    return {**document, "claudeAiOauth": {**login, **fresh}}


def lent_claude(document: Document, placeholder: str, now: float) -> dict[str, Any]:
    """The document for a container: placeholders, and the facts about the plan that the tool reads in its file."""
    login = clincus.as_object(document.get("claudeAiOauth"))
    tokens = {"accessToken": placeholder, "refreshToken": placeholder + REFRESH, "expiresAt": int((now + YEAR) * 1000)}
    return {"claudeAiOauth": {**tokens, **chosen(login, "scopes", "subscriptionType", "rateLimitTier")}}


# -- Codex: ~/.codex/auth.json


def claims(token: object) -> dict[str, Any]:
    """The claims of a JWT (RFC 7519), empty for any other text. Its signature is not checked."""
    if not isinstance(token, str) or token.count(".") != 2:
        return {}
    coded = token.split(".")[1]
    try:
        found = clincus.parse_json(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return clincus.as_object(found)


def coded(document: Document) -> str:
    """A part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def read_codex(document: Document) -> Tokens:
    """The tokens of its file. Raises UnreadableError."""
    tokens = clincus.as_object(document.get("tokens"))
    access = text_in(tokens, "access_token")
    refresh = text_in(tokens, "refresh_token")
    until = claims(access).get("exp")
    if isinstance(until, bool) or not isinstance(until, (int, float)):
        until = seconds_of(document.get("last_refresh")) + LASTS
    return Tokens(access, refresh, float(until))


def seconds_of(text: object) -> float:
    """A time of RFC 3339 in seconds since 1970, 0.0 for any other text. Codex writes it with nine digits, and Z."""
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)", text if isinstance(text, str) else ""
    )
    if not match:
        return 0.0
    try:
        return datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0


def request_codex(_document: Document) -> dict[str, str]:
    """The rights that it asks for."""
    return {"scope": "openid profile email"}


def renewed_codex(document: Document, answer: Document, now: float) -> dict[str, Any]:
    """Its file after an answer. Raises UnreadableError."""
    fresh = {"access_token": text_in(answer, "access_token")}
    for key in ("refresh_token", "id_token"):
        if answer.get(key) is not None:
            fresh[key] = text_in(answer, key)
    return {
        **document,
        "tokens": {**clincus.as_object(document.get("tokens")), **fresh},
        "last_refresh": written_time(now),
    }


def written_time(seconds: float) -> str:
    """A time in RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def lent_codex(document: Document, placeholder: str, now: float) -> dict[str, Any]:
    """The document for a container: placeholders, and the number and plan of the person's account.

    Codex reads the id token as a JWT, and sends the account's number in a header of its own.
    """
    tokens = clincus.as_object(document.get("tokens"))
    key = "https://api.openai.com/auth"
    account = chosen(
        clincus.as_object(claims(tokens.get("id_token")).get(key)), "chatgpt_plan_type", "chatgpt_account_id"
    )
    says = {"email": "lent@clincus.invalid", "iat": int(now), "exp": int(now + YEAR), key: account}
    return {
        **chosen(document, "auth_mode"),
        "OPENAI_API_KEY": None,
        "tokens": {
            "id_token": f"{coded({'alg': 'none', 'typ': 'JWT'})}.{coded(says)}.clincus",
            "access_token": placeholder,
            "refresh_token": placeholder + REFRESH,
            **chosen(tokens, "account_id"),
        },
        "last_refresh": written_time(now),
    }


VENDORS = {
    "claude": Vendor(
        "`claude` and type /login",
        ("CLAUDE_CONFIG_DIR", "~/.claude"),
        ".credentials.json",
        ".claude/.credentials.json",
        "https://platform.claude.com/v1/oauth/token",
        ("platform.claude.com", "console.anthropic.com"),
        "/v1/oauth/token",
        "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
        has_folder_lock=True,
        read=read_claude,
        request=request_claude,
        renewed=renewed_claude,
        lent=lent_claude,
    ),
    "codex": Vendor(
        "`codex login`",
        ("CODEX_HOME", "~/.codex"),
        "auth.json",
        ".codex/auth.json",
        "https://auth.openai.com/oauth/token",
        ("auth.openai.com",),
        "/oauth/token",
        "app_EMoamEEZ73f0CkXaXp7hrann",
        has_folder_lock=False,
        read=read_codex,
        request=request_codex,
        renewed=renewed_codex,
        lent=lent_codex,
    ),
}


# -- The answer to a container that asks for new tokens


def answer_tokens(placeholder: str, body: bytes, kind: str) -> tuple[int, dict[str, object]]:
    """Status and document for a request to a vendor's token endpoint, which never gets the request.

    `kind` is the Content-Type of `body`. The program gets the placeholders that it has.
    """
    asked = read_request(body, kind)
    if asked.get("grant_type") != "refresh_token":
        words = "this session borrows its login: sign in on the host that runs Clincus, not in here"
        return 403, {"error": "access_denied", "error_description": f"Clincus: {words}"}
    if asked.get("refresh_token") != placeholder + REFRESH:
        words = "that is not the placeholder of this session"
        return 400, {"error": "invalid_grant", "error_description": f"Clincus: {words}"}
    tokens = {"access_token": placeholder, "refresh_token": placeholder + REFRESH}
    return 200, {"token_type": "Bearer", **tokens, "expires_in": YEAR, "scope": str(asked.get("scope") or "")}


def read_request(body: bytes, kind: str) -> dict[str, Any]:
    """The fields of a request for tokens, in JSON or as a form (RFC 6749, 6)."""
    from urllib.parse import parse_qsl

    try:
        if "json" in kind.lower():
            return clincus.as_object(clincus.parse_json(body))
        return dict(parse_qsl(body.decode("ascii")))
    except ValueError:
        return {}
