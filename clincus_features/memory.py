"""Gives back to the system what the server needs for a moment only: a look at all sessions takes 200 KB for each.

glibc keeps what is freed in up to eight heaps for each core, and the threads of a server use all of them in turn. So 50
idle sessions cost 290 KB each, of which 6 KB are what is known of them. In one heap the pages between what is kept stay
with the process, too, until it is told to give them back: 120 to 220 KB for each of 100 sessions without that.

Objects that refer to each other stay until Python looks at all that there are, which it does when they are a quarter of
them. Commands and connections leave such objects: after 900 subscribers that had gone, they were 2.7 MB. A look takes
some milliseconds, so there is one where a busy time has begun or ended.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress

import clincus

# Parameters of mallopt(3), as in malloc.h.
TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
ARENA_MAX = -8
LARGE = 16 << 10  # bytes of a text that gets pages of its own; the wall's program in an instance has 28 KB
SPARE = 64 << 10  # bytes that stay free at the end of the heap
PERIOD = 30.0  # seconds between two times to give back what is free amid the heap: a millisecond each
BUSY = 0.05  # share of what is kept by which that may change without a look at all objects


def install(extensions: clincus.Extensions) -> None:
    """Set the limits for this process, and keep it small. Another C library than glibc stays as it is."""
    import ctypes  # no command needs it

    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, SPARE)):
            library.mallopt(parameter, value)
        keeper = Keeper(library.malloc_trim)
        extensions.duties.append(clincus.Duty("giving back memory", PERIOD, keeper.give_back))


class Keeper:
    """Frees what refers to itself after a busy time, and gives free memory back by `trim`, which is malloc_trim(3)."""

    def __init__(self, trim: Callable[[int], object]) -> None:
        self._trim = trim
        self._blocks = 0  # pieces of memory that Python kept after the last look at all objects

    def give_back(self) -> None:
        """Do it once."""
        if abs(sys.getallocatedblocks() - self._blocks) > self._blocks * BUSY:
            gc.collect()
            self._blocks = sys.getallocatedblocks()
        self._trim(0)
