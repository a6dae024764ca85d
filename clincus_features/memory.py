"""Returns memory to the system that the server needs only for a moment: a look at all sessions takes 200 KB for each.

glibc keeps freed memory in up to eight heaps for each core, and the threads of a server use all of them in turn. 50
idle sessions therefore cost 290 KB each, of which Clincus needs 6 KB. In one heap the process also keeps the pages
between objects that live on, unless it is asked to return them: 120 to 220 KB for each of 100 sessions.

Objects that refer to each other stay until Python's collector runs, which it does once there are a quarter more.
Commands and connections leave such objects: 2.7 MB after 900 subscribers were gone. A collection takes some
milliseconds, so there is one at the begin and at the end of a busy time.
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
PERIOD = 30.0  # seconds between two returns of free pages amid the heap: a millisecond each
BUSY = 0.05  # share of the kept memory that may change without a look at all objects


def install(extensions: clincus.Extensions) -> None:
    """Set the limits for this process, and keep it small. Only glibc has these limits."""
    import ctypes  # no command needs it

    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, SPARE)):
            library.mallopt(parameter, value)
        keeper = Keeper(library.malloc_trim)
        extensions.duties.append(clincus.Duty("giving back memory", PERIOD, keeper.give_back))


class Keeper:
    """Frees objects that refer to each other after a busy time, and returns memory by `trim`, malloc_trim(3)."""

    def __init__(self, trim: Callable[[int], object]) -> None:
        self._trim = trim
        self._blocks = 0  # pieces of memory that Python kept after the last look at all objects

    def give_back(self) -> None:
        """Do it once."""
        if abs(sys.getallocatedblocks() - self._blocks) > self._blocks * BUSY:
            gc.collect()
            self._blocks = sys.getallocatedblocks()
        self._trim(0)
