"""Makes texts of a container fit to be shown: on one line or as lines, without control characters, cut at a limit."""

from __future__ import annotations

import functools

TEXT_LIMIT = 500  # characters of a text
OPTION_LIMIT = 200  # characters of an option
OPTIONS = 12
DETAIL_LIMIT = 32_000  # characters of a plan
LINES = 40  # lines of a screen that count: a list that a person opens in opencode is 30 lines high


# Gives the same text as one object to all callers. Python 3.12 never frees a text that `sys.intern` was given.
kept_once = functools.lru_cache(256)(str)


def clean(text: object, limit: int = TEXT_LIMIT) -> str:
    """A text on one line, without control or invisible characters, cut at a limit."""
    words = " ".join(str(text).split()) if isinstance(text, (str, int, float)) else ""
    plain = "".join(char for char in words[: 4 * limit] if char.isprintable())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def clean_block(text: object) -> str:
    """A text of several lines, without control or invisible characters, cut at DETAIL_LIMIT."""
    lines = (text if isinstance(text, str) else "")[: 2 * DETAIL_LIMIT].expandtabs(4).splitlines()
    plain = "\n".join("".join(char for char in line if char.isprintable()) for line in lines)
    return plain if len(plain) <= DETAIL_LIMIT else plain[: DETAIL_LIMIT - 1] + "…"


def clean_lines(text: str, count: int = LINES) -> tuple[str, ...]:
    """The last lines of a screen that are not empty. Those that many screens have, such as a border, are kept once."""
    plain = ("".join(char for char in line if char.isprintable()).rstrip()[:300] for line in text.split("\n"))
    return tuple(map(kept_once, [line for line in plain if line][-count:]))
