"""The prompts of each session, in a file of the server's own: those in the queue, and the last ones.

Every change reads the file and writes it, under a lock. So a restarted server continues where the last one
ended, and only one of two servers takes a prompt out of the queue.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import clincus

KEPT = 20  # prompts that are no longer in the queue
QUEUED = 100  # prompts in the queue
SENDING = 60.0  # seconds that sending takes at most
FILE_LIMIT = 32 << 20  # bytes


@dataclass(frozen=True)
class Prompt:
    """One prompt. `at` is in seconds since 1970."""

    prompt_id: str
    text: str
    result: str  # queued | sending | submitted | unconfirmed
    at: float
    command: bool = False  # of the tool's own, such as `/compact`

    def document(self) -> dict[str, object]:
        """The prompt for the API; one whose server ended while it was sent is unconfirmed."""
        is_lost = self.result == "sending" and time.time() - self.at > SENDING
        at = clincus.format_time(datetime.fromtimestamp(self.at, timezone.utc))
        return {**asdict(self), "result": "unconfirmed" if is_lost else self.result, "at": at}


class Prompts:
    """The prompts of all sessions, oldest first."""

    def __init__(self, folder: Callable[[], str]) -> None:
        self._folder = folder

    def of(self, session: clincus.Session) -> list[Prompt]:
        """A session's prompts. Raises ClincusError if they cannot be read."""

        def fit(document: dict[str, Any]) -> list[Prompt]:
            is_ours = document["session_id"] == session.session_id  # else an earlier session had this name
            return [Prompt(**one) for one in document["prompts"]] if is_ours else []

        return clincus.read_json(self._path(session), FILE_LIMIT, fit) or []

    def queue(self, session: clincus.Session) -> list[Prompt]:
        """The prompts in the queue."""
        return [one for one in self.of(session) if one.result == "queued"]

    def add(self, session: clincus.Session, text: str, result: str, *, command: bool = False) -> Prompt:
        """Keep a new prompt. Raises ClincusError: 409 when the queue is full."""
        prompt = Prompt(os.urandom(8).hex(), text, result, time.time(), command)
        with self._changing(session) as prompts:
            if result == "queued" and sum(one.result == "queued" for one in prompts) >= QUEUED:
                raise clincus.ClincusError(
                    f"{QUEUED} prompts are in the queue, which is full: wait, or cancel some", "limit_reached"
                )
            prompts.append(prompt)
        return prompt

    def mark(self, session: clincus.Session, prompt: Prompt, result: str) -> bool:
        """Change the result of a prompt if it is still the given one; returns True if it was."""
        with self._changing(session) as prompts:
            for at, one in enumerate(prompts):
                if (one.prompt_id, one.result) == (prompt.prompt_id, prompt.result):
                    prompts[at] = replace(one, result=result, at=time.time() if result == "sending" else one.at)
                    return True
        return False

    def cancel(self, session: clincus.Session, prompt_id: str) -> None:
        """Take a prompt out of the queue. Raises ClincusError: 404, 409 if it is not in there any more."""
        with self._changing(session) as prompts:
            prompts.remove(in_queue(prompts, prompt_id))

    def change(self, session: clincus.Session, prompt_id: str, text: str | None, before: str | None) -> Prompt:
        """Give a prompt of the queue another text, another place, or both; returns the new prompt.

        `before` is the id of the queued prompt that will follow it; "" is the end of the queue, None its present place.
        Raises ClincusError: 404, 409 if either is not in the queue any more.
        """
        with self._changing(session) as prompts:
            found = in_queue(prompts, prompt_id)
            changed = found if text is None else with_text(found, text)
            prompts[prompts.index(found)] = changed
            if before is not None and before != prompt_id:
                next_one = in_queue(prompts, before) if before else None
                prompts.remove(changed)
                prompts.insert(prompts.index(next_one) if next_one else len(prompts), changed)
        return changed

    def forget(self, session: clincus.Session) -> None:
        """Delete the prompts of a session that is gone."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(session))

    def _path(self, session: clincus.Session) -> str:
        return os.path.join(self._folder(), f"{session.id}.json")

    @contextmanager
    def _changing(self, session: clincus.Session) -> Iterator[list[Prompt]]:
        """The prompts, to be changed in place; they are written at the end of the block, unless that raises."""
        with clincus.locked_folder(self._folder()):
            prompts = self.of(session)
            before = list(prompts)
            yield prompts
            if prompts != before:
                done = [one for one in prompts if one.result not in ("queued", "sending")]
                kept = [one for one in prompts if one not in done[:-KEPT]]
                document = {"session_id": session.session_id, "prompts": [asdict(one) for one in kept]}
                clincus.replace_file(self._path(session), json.dumps(document).encode(), 0o600)


def in_queue(prompts: list[Prompt], prompt_id: str) -> Prompt:
    """The prompt of an id, if it is in the queue. Raises ClincusError: 404, 409 if it is not in there any more."""
    found = next((one for one in prompts if one.prompt_id == prompt_id), None)
    if found is None:
        raise clincus.ClincusError(
            f"prompt {clincus.shorten(prompt_id)} not found: the list of prompts has the last ones", 404
        )
    if found.result != "queued":
        raise clincus.ClincusError("the prompt has left the queue, as it was typed: interrupt the tool if need be", 409)
    return found


def with_text(prompt: Prompt, text: str) -> Prompt:
    """A prompt with another text. If a command's new text is no command, it becomes a plain prompt."""
    is_command = text.startswith("/") and "\n" not in text.strip()
    return replace(prompt, text=text, command=prompt.command and is_command)
