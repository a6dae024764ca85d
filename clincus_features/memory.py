"""Gives back to the system what the server needs for a moment only: a look at all sessions takes 200 KB for each.

glibc keeps what is freed in up to eight heaps for each core, and the threads of a server use all of them in turn. So 50
idle sessions cost 290 KB each, of which 6 KB are what is known of them.
"""

from __future__ import annotations

from contextlib import suppress

import clincus

# Parameters of mallopt(3), as in malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGE = (
    16 << 10
)  # bytes; a text of that size gets pages of its own, and the program of the wall in an instance has 28 KB
SPARE = 64 << 10  # bytes that stay free at the end of the heap


def install(extensions: clincus.Extensions) -> None:
    """Set the limits for this process. Another C library than glibc stays as it is."""
    import ctypes  # no command needs it

    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, SPARE)):
            mallopt(parameter, value)
