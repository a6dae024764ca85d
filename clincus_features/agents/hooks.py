"""What is carried into a container so that its tool tells what it does: a hook never slows, stops or answers a tool."""

from __future__ import annotations

import json
from collections.abc import Sequence

import clincus

SYSTEM = ".clincus/system"  # guest/start.sh puts what lies in it into the place of the same path below /
# Each file of this folder merges with all other settings, and no user's settings switch it off (Claude Code's docs,
# "Settings"; seen with 2.1.332).
CLAUDE_SETTINGS = f"{SYSTEM}/etc/claude-code/managed-settings.d/50-clincus.json"
# Event, what it is asked for (all if empty), and how guest/hook.sh takes it.
CLAUDE_HOOKS = (
    ("SessionStart", "", "brief ring"),
    ("UserPromptSubmit", "", "ring"),
    ("PermissionRequest", "", "whole ring"),
    ("PostToolUse", "AskUserQuestion|ExitPlanMode", "brief ring"),
    ("PostToolUseFailure", "AskUserQuestion|ExitPlanMode", "brief ring"),
    ("Notification", "", "ring"),
    ("Elicitation", "", "ring"),
    ("ElicitationResult", "", "brief ring"),
    ("Stop", "", "ring"),
    ("StopFailure", "", "ring"),
)


def command(event: str, how: str) -> str:
    """A shell command that runs our hook if it is there, and is always a success."""
    return f"[ ! -x ~/.clincus/hook ] || ~/.clincus/hook {event} {how}".rstrip()


def claude_settings() -> bytes:
    """Claude Code's settings with our hooks. `async`: it goes on at once."""
    hooks: dict[str, list[object]] = {}
    for event, asked_for, how in CLAUDE_HOOKS:
        run = {"type": "command", "command": command(event, how), "async": True, "timeout": 10}
        matcher = {"matcher": asked_for} if asked_for else {}
        hooks.setdefault(event, []).append({**matcher, "hooks": [run]})
    return (json.dumps({"hooks": hooks}, indent=1) + "\n").encode()


def guest_files(session: clincus.Session) -> Sequence[clincus.ToolFile]:
    """The files for a session's container."""
    files = [clincus.ToolFile(".clincus/hook", clincus.guest_program("hook").encode(), 0o700)]
    if session.tool == "claude":
        files.append(clincus.ToolFile(CLAUDE_SETTINGS, claude_settings(), 0o644))
    return files
