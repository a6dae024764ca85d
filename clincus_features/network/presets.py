"""Names that belong together: the hosts of a tool's vendor, or of a registry of packages."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """A set of names that one word allows."""

    title: str  # for people
    hosts: tuple[str, ...]  # entries, as in `network.allow`


# A tool's own name stands for the hosts that it needs, without hosts on which anybody could have a project, such as
# those for crash reports: an agent could send there what it has read.
PRESETS = {
    "claude": Preset(
        "Claude Code",
        (
            "api.anthropic.com",
            "claude.ai",
            "platform.claude.com",
            "console.anthropic.com",
            "statsig.anthropic.com",
        ),
    ),
    "copilot": Preset(
        "GitHub Copilot CLI",
        (
            "github.com",
            "api.github.com",
            "*.githubcopilot.com",
            "copilot-proxy.githubusercontent.com",
            "copilot-telemetry.githubusercontent.com",
            "origin-tracker.githubusercontent.com",
        ),
    ),
    "opencode": Preset(
        "opencode and its model vendors",
        (
            "opencode.ai",
            "*.opencode.ai",
            "models.dev",
            "registry.npmjs.org",
            "api.anthropic.com",
            "api.openai.com",
            "generativelanguage.googleapis.com",
            "openrouter.ai",
        ),
    ),
    "npm": Preset("npm", ("registry.npmjs.org", "registry.yarnpkg.com")),
    "pypi": Preset("PyPI", ("pypi.org", "files.pythonhosted.org")),
    "debian": Preset("Debian", ("deb.debian.org", "security.debian.org")),
    "github": Preset("GitHub", ("github.com", "api.github.com", "codeload.github.com", "*.githubusercontent.com")),
    "crates": Preset("crates.io", ("crates.io", "index.crates.io", "static.crates.io")),
    "go": Preset("Go modules", ("proxy.golang.org", "sum.golang.org")),
}
TOOL = "tool"  # stands for the preset of a session's own tool, if it has one
