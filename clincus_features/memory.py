"""Gives back to the system what the server needs for a moment only: a look at all sessions takes 200 KB for each.

glibc keeps what is freed in up to eight heaps for each core, and the threads of a server use all of them in turn. So 50
idle sessions cost 290 KB each, of which 6 KB are what is known of them. In one heap the pages between what is kept stay
with the process, too, until it is told to give them back: 120 to 220 KB for each of 100 sessions without that.
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
PERIOD = 30.0  # seconds between two times to give back what is free amid the heap: a millisecond each


def install(extensions: clincus.Extensions) -> None:
    """Set the limits for this process, and keep it small. Another C library than glibc stays as it is."""
    import ctypes  # no command needs it

    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, SPARE)):
            library.mallopt(parameter, value)
        trim = library.malloc_trim
        extensions.duties.append(clincus.Duty("giving back memory", PERIOD, lambda: trim(0)))
