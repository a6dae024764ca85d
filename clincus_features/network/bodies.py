"""Where the body of a plain HTTP request ends, so that nothing which comes after it goes on. Pure.

Both kinds have `take`, which takes off the bytes that came what may go on to the server, and `is_over`.
"""

from __future__ import annotations

import re
from typing import Union

LINE_LIMIT = 8 << 10  # bytes of a line between chunks
TRAILER_LIMIT = 32 << 10  # bytes


class SizedBody:
    """A body of so many bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def is_over(self) -> bool:
        """Whether all of it came."""
        return not self._left

    def take(self, held: bytearray) -> bytes:
        """Take off what belongs to it."""
        piece = bytes(held[: self._left])
        del held[: len(piece)]
        self._left -= len(piece)
        return piece


class ChunkedBody:
    """A body in chunks (RFC 9112, 7.1). It goes on in the same chunks, without extensions and trailers."""

    def __init__(self) -> None:
        self.is_over = False  # all of it came
        self._left = 0  # bytes of this chunk that are still to come
        self._is_after_data = False  # the line that ends a chunk comes next
        self._is_trailer = False
        self._trailer = 0  # bytes of trailers so far

    def take(self, held: bytearray) -> bytes:
        """Take off what belongs to it. Raises ValueError for what is not in chunks."""
        found = bytearray()
        while not self.is_over:
            if self._left:
                piece = held[: self._left]
                if not piece:
                    break
                del held[: len(piece)]
                found += piece
                self._left -= len(piece)
                self._is_after_data = not self._left
                continue
            end = held.find(b"\r\n", 0, LINE_LIMIT)
            if end < 0:
                if len(held) >= LINE_LIMIT:
                    raise ValueError("a line between the chunks of the body is too long")
                break
            line = bytes(held[:end])
            del held[: end + 2]
            found += self._line(line)
        return bytes(found)

    def _line(self, line: bytes) -> bytes:
        """The bytes that go on for a line that is no data."""
        if self._is_after_data:
            if line:
                raise ValueError("a chunk of the body is longer than it says")
            self._is_after_data = False
            return b"\r\n"
        if self._is_trailer:
            self._trailer += len(line)
            if self._trailer > TRAILER_LIMIT:
                raise ValueError("the trailer of the body is too long")
            self.is_over = not line
            return b""
        size = re.fullmatch(rb"([0-9a-fA-F]{1,15})[ \t]*(;[^\x00-\x08\x0a-\x1f\x7f]*)?", line)
        if not size:
            raise ValueError("the body is not in chunks")
        self._left = int(size[1], 16)
        self._is_trailer = not self._left
        return b"%x\r\n" % self._left if self._left else b"0\r\n\r\n"


Body = Union[SizedBody, ChunkedBody]
