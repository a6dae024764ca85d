"""The tokens that a model's answer says it cost, read off the bytes as they pass. Pure.

The names are those of Anthropic's Messages, OpenAI's Chat Completions and Responses, and Gemini's generateContent. In a
text of the model the quotes are escaped, so that it cannot say what it cost.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_KEPT = 128  # bytes of one piece that are looked at again with the next
_COUNT = re.compile(rb'(?<!\\)"([A-Za-z_]{5,40})"\s*:\s*([0-9]{1,9})(?![0-9.])')
_MODEL = re.compile(rb'(?<!\\)"model(?:Version)?"\s*:\s*"([\w.:/@-]{1,100})"')
INPUT = (b"input_tokens", b"prompt_tokens", b"promptTokenCount")
OUTPUT = (b"output_tokens", b"completion_tokens", b"candidatesTokenCount")
THOUGHT = (b"thoughtsTokenCount",)  # beside the output
READ = (b"cache_read_input_tokens",)
PART_READ = (b"cached_tokens", b"cachedContentTokenCount")  # a part of the input
WRITTEN = (b"cache_creation_input_tokens",)
NAMES = frozenset((*INPUT, *OUTPUT, *THOUGHT, *READ, *PART_READ, *WRITTEN))


class Tokens(NamedTuple):
    """Numbers of tokens; each token is in one of them."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


class Meter:
    """Reads one answer. Its numbers grow in the course of a stream, so the highest ones count."""

    def __init__(self) -> None:
        self._kept = b""
        self._highest: dict[bytes, int] = {}
        self.model = ""

    def take(self, piece: bytes) -> Tokens:
        """The tokens so far, with one more piece."""
        data = self._kept + piece
        self._kept = data[-_KEPT:]
        if b"oken" in data:
            for name, number in _COUNT.findall(data[: len(data) - 1]):  # digits may follow the last byte
                if name in NAMES:
                    self._highest[name] = max(self._highest.get(name, 0), int(number))
        if not self.model and b'"model' in data:
            found = _MODEL.search(data)
            self.model = found[1].decode("ascii", "replace") if found else ""
        return self._tokens()

    def _tokens(self) -> Tokens:
        def most(names: tuple[bytes, ...]) -> int:
            return max(self._highest.get(name, 0) for name in names)

        part = min(most(PART_READ), most(INPUT))
        return Tokens(most(INPUT) - part, most(OUTPUT) + most(THOUGHT), most(READ) + part, most(WRITTEN))
