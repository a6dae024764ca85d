"""The services that logins are for: their hosts, and the place of a credential in a request to them. Pure.

The facts are what the tools showed on the wire (Claude Code 2.1, Codex 0.169, Copilot CLI 1.0, opencode 1.18,
gemini-cli 0.61, git 2.47, gh 2.46). A form is the value of a header with `{secret}` in it. `Basic ` is followed by user
and password before their encoding (RFC 7617), with `*` for any user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SECRET = "{secret}"


class Service(NamedTuple):
    """One kind of login."""

    title: str  # for people
    hosts: tuple[str, ...]  # `host`, `host:port` or `*.host`; the port is 443 if none is named
    header: str  # in lower case
    forms: tuple[str, ...]
    variables: tuple[str, ...] = ()  # the variables that hold the placeholder in a container
    settings: Mapping[str, str] = {}  # other variables that a program needs to use it
    files: Mapping[str, str] = {}  # in the home, with `{placeholder}`, and `{variable}` for the name of the first one
    shape: str = "clincus-{random}"  # of a placeholder, as the tools expect it; `{random}` is 32 hexadecimal digits
    git: tuple[str, str] = ("", "")  # for git: the URL for which it asks for a user and password, and the user
    refused: tuple[
        str, ...
    ] = ()  # paths whose answers hold another credential, with which a session would no longer need us


BEARER = f"Bearer {SECRET}"
GEMINI_VERSIONS = ("v1", "v1alpha", "v1beta")
GITHUB_FORMS = (BEARER, f"token {SECRET}", f"Basic *:{SECRET}")
SERVICES = {
    "anthropic": Service(
        "Anthropic API key",
        ("api.anthropic.com",),
        "x-api-key",
        (SECRET,),
        ("ANTHROPIC_API_KEY",),
        shape="sk-ant-api03-clincus-{random}",
    ),
    "claude": Service(
        "Claude subscription (claude setup-token)",
        ("api.anthropic.com", "mcp-proxy.anthropic.com"),
        "authorization",
        (BEARER,),
        ("CLAUDE_CODE_OAUTH_TOKEN",),
        shape="sk-ant-oat01-clincus-{random}",
        refused=("/api/oauth/claude_cli/create_api_key", "/v1/oauth/token"),
    ),
    "codex": Service(
        "ChatGPT subscription (codex login)",
        ("chatgpt.com",),
        "authorization",
        (BEARER,),
        shape="oai-oat01-clincus-{random}",
    ),
    "openai": Service(
        "OpenAI API key",
        ("api.openai.com",),
        "authorization",
        (BEARER,),
        ("OPENAI_API_KEY",),
        # Codex takes a key only from this file.
        files={".codex/auth.json": '{"auth_mode": "apikey", "OPENAI_API_KEY": "{placeholder}"}\n'},
        shape="sk-proj-clincus-{random}",
        refused=(
            *("/v1/realtime/client_secrets", "/v1/realtime/sessions", "/v1/realtime/transcription_sessions"),
            *("/v1/chatkit/sessions", "/v1/organization/admin_api_keys", "/v1/organization/projects"),
        ),
    ),
    "gemini": Service(
        "Gemini API key",
        ("generativelanguage.googleapis.com",),
        "x-goog-api-key",
        (SECRET,),
        ("GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"),
        shape="AIza{random}cli",
        refused=tuple(f"/{version}/{name}" for version in GEMINI_VERSIONS for name in ("auth_tokens", "authtokens")),
    ),
    "openrouter": Service(
        "OpenRouter API key",
        ("openrouter.ai",),
        "authorization",
        (BEARER,),
        ("OPENROUTER_API_KEY",),
        shape="sk-or-v1-clincus-{random}",
        refused=("/api/v1/keys", "/api/v1/auth/keys"),
    ),
    "github": Service(
        "GitHub token of git and gh",
        ("github.com", "api.github.com", "uploads.github.com"),
        "authorization",
        GITHUB_FORMS,
        ("GH_TOKEN", "GITHUB_TOKEN"),
        shape="ghp_{random}clin",
        git=("https://github.com", "x-access-token"),
        refused=("/copilot_internal/v2/token",),
    ),
    "copilot": Service(
        "GitHub token of Copilot CLI",
        (
            "api.github.com",
            "api.githubcopilot.com",
            "api.individual.githubcopilot.com",
            "api.business.githubcopilot.com",
            "api.enterprise.githubcopilot.com",
            "copilot.github.com",
        ),
        "authorization",
        (BEARER, f"token {SECRET}"),
        ("COPILOT_GITHUB_TOKEN",),
        shape="ghu_{random}clin",
        refused=("/copilot_internal/v2/token",),
    ),
    "npm": Service(
        "npm token",
        ("registry.npmjs.org",),
        "authorization",
        (BEARER,),
        ("NPM_TOKEN", "NODE_AUTH_TOKEN"),
        # npm takes a token from no variable, but a file of settings may name one. npm reads this file last.
        {"NPM_CONFIG_GLOBALCONFIG": "~/.clincus/npmrc"},
        {".clincus/npmrc": "//registry.npmjs.org/:_authToken=${{variable}}\n"},
        refused=("/-/npm/v1/tokens", "/-/npm/v1/oidc"),
    ),
    "pypi": Service(
        "PyPI token",
        ("upload.pypi.org",),
        "authorization",
        (f"Basic __token__:{SECRET}",),
        ("TWINE_PASSWORD", "UV_PUBLISH_TOKEN"),
        {"TWINE_USERNAME": "__token__"},
        shape="pypi-clincus-{random}",
    ),
}
