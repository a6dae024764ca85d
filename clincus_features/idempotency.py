"""Runs a repeated request once: `Idempotency-Key`, for the operations of openapi.json that take it.

The same key gets the same answer for ten minutes, also while the first request is still in progress. A failed request
did nothing, so its answer is not kept: the same key may try again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import clincus

KEPT = 600.0  # seconds that an answer is kept
LIMIT = 1000  # answers; the oldest goes first
KEY_LIMIT = 200  # characters


def install(extensions: clincus.Extensions) -> None:
    """Put the answers around the handlers of those operations."""
    answers = Answers()
    paths = clincus.load_contract()["paths"]

    def wrap(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
        known = paths.get(path, {}).get(method.lower(), {}).get("parameters", ())
        takes_key = {"$ref": "#/components/parameters/IdempotencyKey"} in known
        return (lambda request: answers.once(request, handler)) if takes_key else handler

    extensions.wrappers.append(wrap)


@dataclass
class Answer:
    """The answer to a request, or the one that it will have."""

    asked: str  # a hash of the request
    at: float  # time.monotonic of the request
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while the request is in progress
    is_there: bool = False
    value: object = None


class Answers:
    """The answers of the last ten minutes, by key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, Answer] = {}  # oldest first

    def once(self, request: clincus.Request, handler: clincus.Handler) -> object:
        """Handle a request, unless one with its key was handled. Raises ClincusError: 400, 409 for another request."""
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return handler(request)
        if not 0 < len(key) <= KEY_LIMIT:
            raise clincus.ClincusError(f"Idempotency-Key must have 1 to {KEY_LIMIT} characters", 400)
        import hashlib

        asked = hashlib.sha256(f"{request.method} {request.path}\n".encode() + request.body).hexdigest()
        with self._lock:
            self._forget()
            answer = self._answers.setdefault(key, Answer(asked, self._clock()))
        if answer.asked != asked:
            raise clincus.ClincusError(
                "this Idempotency-Key was used for another request: take a new one", "key_in_use"
            )
        with answer.lock:
            if not answer.is_there:
                try:
                    answer.value = handler(request)
                except BaseException:
                    with self._lock:
                        if self._answers.get(key) is answer:
                            del self._answers[key]
                    raise
                answer.is_there = True
        return answer.value

    def _forget(self) -> None:
        """Drop answers that are too old, and the oldest of too many."""
        now = self._clock()
        for key, answer in [*self._answers.items()]:
            if now - answer.at < KEPT and len(self._answers) < LIMIT:
                break
            if not answer.lock.locked():
                del self._answers[key]
