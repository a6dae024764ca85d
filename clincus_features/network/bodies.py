"""Finds the end of a plain HTTP request's body, so that no byte after it is passed on. Pure."""

from __future__ import annotations

from typing import Union

import clincus


class ChunkedBody(clincus.ChunkedBody):
    """A body that goes on in the same chunks."""

    def framing(self, size: int | None) -> bytes:
        """The lines around a chunk."""
        if size is None:
            return b"\r\n"
        return b"%x\r\n" % size if size else b"0\r\n\r\n"


Body = Union[clincus.SizedBody, ChunkedBody]
