"""The door to Incus of a command whose question may have been asked as the program started."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import clincus
from clincus_cli import TYPE_CHECKING, start

if TYPE_CHECKING:
    from typing import Any


class Door(clincus.Incus):
    """Takes the answer that `start` has, if there is one to the question."""

    def _answer(self, command: Sequence[str], stdin: Any, timeout: float, *, finish: bool = False) -> bytes:
        try:
            said = start.answer_to(command, clincus.OUTPUT_LIMIT, timeout)
        except TimeoutError:
            words = f"`{shlex.join(command[:6])} …` did not finish within {timeout:g} s: Incus hangs, or is very busy. "
            words += "Try again; `journalctl -u incus` has its log"
            raise clincus.IncusError(words, 504, clincus.FailureKind.HANGS) from None
        return super()._answer(command, stdin, timeout, finish=finish) if said is None else said
