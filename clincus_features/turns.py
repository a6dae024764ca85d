"""Gives a thread that has something to do its turn soon.

Python gives a thread 5 ms before another one may run. So a key press would wait that long beside a terminal that
floods.
"""

from __future__ import annotations

import sys

import clincus

TURN = 0.0005  # seconds


def install(extensions: clincus.Extensions) -> None:
    """Set the time of a turn."""
    sys.setswitchinterval(TURN)
