"""The tokens that a model's answer reports, read from the bytes as they pass. Pure.

The names are those of Anthropic's Messages, OpenAI's Chat Completions and Responses, and Gemini's generateContent. In a
text of the model the quotes are escaped, so the model cannot forge the numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_KEPT = 128  # bytes of one piece that are looked at again with the next
_NUMBER = re.compile(rb"\s*([0-9]{1,9})(?=[^0-9.])")
_MODEL = re.compile(rb'"model(?:Version)?"\s*:\s*"([\w.:/@-]{1,100})"')
# The end of each name, with the colon: this is found many times faster than a whole name.
ENDINGS = (b'ens":', b'unt":')
MODEL_ENDINGS = (b'del":', b'ersion":')
LONGEST = 40  # bytes of a name
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
        for ending in ENDINGS:
            at = data.find(ending)
            while at >= 0:
                self._read(data, at, at + len(ending))
                at = data.find(ending, at + 1)
        if not self.model and any(ending in data for ending in MODEL_ENDINGS):
            model = _MODEL.search(data)
            self.model = model[1].decode("ascii", "replace") if model else ""
        return self._tokens()

    def _read(self, data: bytes, within: int, end: int) -> None:
        """Read the number after a name, which is in quotes around a place; the colon after it is before `end`."""
        name = data[data.rfind(b'"', max(0, within - LONGEST), within) + 1 : end - 2]
        number = _NUMBER.match(data, end)
        if number and name in NAMES:
            self._highest[name] = max(self._highest.get(name, 0), int(number[1]))

    def _tokens(self) -> Tokens:
        def most(names: tuple[bytes, ...]) -> int:
            return max(self._highest.get(name, 0) for name in names)

        part = min(most(PART_READ), most(INPUT))
        return Tokens(most(INPUT) - part, most(OUTPUT) + most(THOUGHT), most(READ) + part, most(WRITTEN))
