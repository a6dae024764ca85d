"""The hooks by which a tool reports its state from inside a container. A hook never slows, stops or answers a tool."""

from __future__ import annotations

import json
from collections.abc import Sequence

import clincus

SYSTEM = ".clincus/system"  # guest/tool.sh copies its content to the same paths below /
# Claude Code merges each file of this folder with all other settings. A user's settings cannot switch it off (Claude
# Code's docs, "Settings"; seen with 2.1.332).
CLAUDE_SETTINGS = f"{SYSTEM}/etc/claude-code/managed-settings.d/50-clincus.json"
# Event, its matcher (empty: all), and how guest/hook.sh handles it.
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


# The same for Copilot CLI, whose names in this form give the words of Claude Code (docs, "Hooks reference"; seen with
# 1.0.102). It sends PermissionRequest also for actions that are allowed anyway.
COPILOT_FILE = ".copilot/hooks/clincus.json"
COPILOT_HOOKS = (
    ("UserPromptSubmit", "ring"),
    ("PreToolUse", "only=AskUserQuestion ring"),
    ("PostToolUse", "only=AskUserQuestion brief ring"),
    ("Notification", "ring"),
    ("Stop", "ring"),
    ("ErrorOccurred", "ring"),
)
OPENCODE_FILE = ".config/opencode/plugins/clincus.js"


def claude_settings() -> dict[str, object]:
    """Claude Code's settings with our hooks. `async`: it does not wait for them."""
    hooks: dict[str, list[object]] = {}
    for event, asked_for, how in CLAUDE_HOOKS:
        command = f"[ ! -x ~/.clincus/hook ] || ~/.clincus/hook {event} {how} from=$PPID"
        run = {"type": "command", "command": command, "async": True, "timeout": 10}
        hooks.setdefault(event, []).append({**({"matcher": asked_for} if asked_for else {}), "hooks": [run]})
    return {"hooks": hooks}


def copilot_hooks() -> dict[str, object]:
    """Copilot CLI's file of our hooks. It waits for each, so the work runs in the background: an error is a "no"."""
    hooks = {}
    for event, how in COPILOT_HOOKS:
        run = f"~/.clincus/hook {event} {how} from=$PPID <&3 >/dev/null 2>&1 3<&-"  # behind an & stdin is /dev/null
        command = f"exec 3<&0; [ ! -x ~/.clincus/hook ] || {run} & exit 0"
        hooks[event] = [{"type": "command", "bash": command, "timeoutSec": 10}]
    return {"version": 1, "hooks": hooks}


def guest_files(session: clincus.Session) -> Sequence[clincus.ToolFile]:
    """The files for a session's container."""
    files = {f".clincus/{name}": (clincus.guest_program(name), 0o700) for name in ("hook", "left")}
    if session.tool == "claude":
        files[CLAUDE_SETTINGS] = (json.dumps(claude_settings(), indent=1), 0o644)
    elif session.tool == "copilot":
        files[COPILOT_FILE] = (json.dumps(copilot_hooks(), indent=1), 0o600)
    elif session.tool == "opencode":
        files[OPENCODE_FILE] = (clincus.packaged_text("guest/opencode.js"), 0o600)
    return [clincus.ToolFile(path, text.encode(), mode) for path, (text, mode) in files.items()]
