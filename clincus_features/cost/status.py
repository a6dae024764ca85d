"""The limits of a person's plan: Claude Code reports them to the program of its status line, and nowhere else.

guest/status.sh is that program if neither the person nor the project has one: Claude Code runs only one. It prints
nothing and writes the report beside the transcripts, so that it is saved with them. Seen with 2.1.332; the screen looks
the same as without a status line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone

import clincus

from .dialects import parse_object
from .ledger import open_plain

SETTINGS = ".clincus/system/etc/claude-code/managed-settings.d/60-clincus-status.json"
OWN_SETTINGS = ".claude/settings.json", ".claude/settings.local.json"
PROGRAM = ".clincus/status"
KEPT = ".claude/projects/clincus-status.json"
LONGEST = 1 << 20  # bytes of a settings file, and of the kept status
UNREADABLE = ValueError, RecursionError, OverflowError  # of `parse_object`
WINDOWS = {"five_hour": "5 h", "seven_day": "7 days"}  # as Claude Code names them, as people do
LARGEST = 10**8  # tokens of a context


def guest_files(environ: Mapping[str, str]) -> Callable[[clincus.Session], Sequence[clincus.ToolFile]]:
    """A function from a session to the files for its container.

    The settings are among them even if they are empty: they replace older ones.
    """

    def files(session: clincus.Session) -> Sequence[clincus.ToolFile]:
        if session.tool != "claude":
            return []
        settings = {}
        folders = (clincus.expand("~", environ), session.workspace)
        if not any(map(has_own_status_line, folders)):
            command = f"[ ! -x ~/{PROGRAM} ] || ~/{PROGRAM}"
            settings = {"statusLine": {"type": "command", "command": command}}
        return [
            clincus.ToolFile(SETTINGS, json.dumps(settings).encode(), 0o644),
            clincus.ToolFile(PROGRAM, clincus.guest_program("status").encode(), 0o700),
        ]

    return files


def has_own_status_line(folder: str) -> bool:
    """True if the settings in a home or a project name a status line."""
    return any(has_status_line(os.path.join(folder, name)) for name in OWN_SETTINGS)


def has_status_line(path: str) -> bool:
    """True if a settings file of Claude Code names a status line; false for a file that cannot be read."""
    with suppress(OSError, ValueError, RecursionError, clincus.ConfigError):
        settings = json.loads(clincus.read_plain_file(path, LONGEST) or b"{}")
        return bool(clincus.as_object(settings).get("statusLine"))
    return False


class Status:
    """The last status of Claude Code, from a saved conversation. It is data of a container, and may say anything."""

    def __init__(self, directory: str) -> None:
        self._told: Mapping[str, object] = {}
        with suppress(OSError, *UNREADABLE), open_plain(os.path.join(directory, KEPT)) as file:
            self._told = parse_object(file.read(LONGEST))

    @property
    def context_size(self) -> int | None:
        """Tokens of the context of the model in use."""
        size = clincus.as_object(self._told.get("context_window")).get("context_window_size")
        return size if type(size) is int and 0 < size < LARGEST else None

    def windows(self, now: float) -> list[dict[str, object]]:
        """The windows of the plan that have not ended by `now` (seconds since 1970): percents used, and their ends."""
        limits = clincus.as_object(self._told.get("rate_limits"))
        found: list[dict[str, object]] = []
        for key, name in WINDOWS.items():
            limit = clincus.as_object(limits.get(key))
            used = limit.get("used_percentage")
            end = limit.get("resets_at")
            fits = isinstance(used, (int, float)) and 0 <= used <= 1000
            if fits and type(end) is int and now < end < now + 10**7:
                at = clincus.format_time(datetime.fromtimestamp(end, timezone.utc))
                found.append({"name": name, "used": used, "resets_at": at})
        return found
