"""Output for a person: lines on stderr, tables, colours, questions, and a mark that turns while work is in progress."""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import clincus
from clincus_cli import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


CLEAR_LINE = "\r\033[K"
_turning: set[str] = set()  # the texts beside the marks that are turning

# Takes a line in place of stdout or stderr (True: stderr), for several pieces of work that print at the same time.
SPEAKER: contextvars.ContextVar[Callable[[str, bool], None] | None] = contextvars.ContextVar("SPEAKER", default=None)


def say(text: str) -> None:
    """Write a line to stderr: stdout holds only data. If stderr takes nothing, the work continues."""
    _speak(text, is_error=True)


def tell(text: str) -> None:
    """Write a line about work in progress to stdout. If stdout takes nothing, the work continues."""
    _speak(text, is_error=False)


def _speak(text: str, *, is_error: bool) -> None:
    speaker = SPEAKER.get()
    if speaker is None:
        show_line(text, is_error=is_error)
    else:
        speaker(text, is_error)


def show_line(text: str, *, is_error: bool) -> None:
    """Write a line to stdout or stderr at once. If that takes nothing, the work continues."""
    stream = sys.stderr if is_error else sys.stdout
    if is_error:
        _flush_stdout()
    try:
        if _turning:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
        print(text, file=stream, flush=True)
    except OSError:
        silence(2 if is_error else 1)


def _flush_stdout() -> None:
    """Write what stdout holds back, so that the lines are in order if both streams go to one file."""
    try:
        if sys.stdout is not None:  # None for a stream that the caller has closed
            sys.stdout.flush()
    except OSError:
        silence(1)


def silence(descriptor: int) -> None:
    """Redirect a descriptor that takes nothing to /dev/null: the interpreter can then flush its stream at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def warn(text: str) -> None:
    """Say what went wrong without ending the command."""
    say(paint("Warning: ", "yellow", sys.stderr) + clincus.printable(text))


def complain(message: str) -> None:
    """Print in one line why the command failed."""
    say(paint("Error: ", "red", sys.stderr) + clincus.printable(" ".join(message.split("\n"))))


STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style if the stream (default: stdout) is a terminal that shows it and NO_COLOR is not set."""
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\033[{STYLES[style]}m{text}\033[0m"


def table(head: Sequence[str] | None, rows: Iterable[Sequence[object]], indent: str = "") -> str:
    """Rows under a head, if there is one, each column as wide as its widest cell."""
    cells = [*([list(head)] if head else []), *([clincus.printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(columns, column)) for column in zip(*cells)]
    lines = (
        "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(row, widths)).rstrip() for row in cells
    )
    return "\n".join(indent + line for line in lines)


def columns(text: str) -> int:
    """The columns that a text takes on a terminal: two for each wide character, none for one that combines."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names with a colon and their values, a line each."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name + ':':<{width}}{clincus.printable(str(value))}".rstrip() for name, value in rows)


def size_text(size: float) -> str:
    """A size in bytes for a person."""
    return scaled(size, 1024, (" B", " KiB", " MiB", " GiB"))


def scaled(number: float, step: int, units: Sequence[str]) -> str:
    """A number in the unit in which it is below `step`, or in the last one."""
    power = 0
    while number >= step and power < len(units) - 1:
        number /= step
        power += 1
    return f"{number:.4g}{units[power]}"


def local_time(text: object) -> str:
    """An RFC 3339 time for a person, with its zone."""
    moment = clincus.parse_time(text)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z") if moment else str(text)


def print_json(document: object) -> None:
    """Print a document as JSON for programs, in ASCII where stdout has another encoding than JSON's, or a text is odd.

    JSON lets control characters above ASCII stand for themselves, and terminals obey them.
    """
    import json

    is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    text = json.dumps(document, indent=2, ensure_ascii=not is_utf8)
    print(text if text.replace("\n", "").isprintable() else json.dumps(document, indent=2))


def confirm(question: str, *, yes: bool) -> bool:
    """Ask a yes/no question on stderr; `yes` is the answer of a flag. Raises ClincusError if nobody can be asked.

    A command that gets a no ends with 1.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise clincus.ClincusError(f"{question} There is no terminal to ask at: give --yes to agree", 409)
    print(f"{question} [y/N]: ", end="", flush=True, file=sys.stderr)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        print(file=sys.stderr)  # so that the prompt of the shell begins a line
        raise
    agreed = answer.strip().lower() in ("y", "yes")
    if not agreed:
        say("Cancelled." if answer else "\nCancelled.")
    return agreed


def confirm_named(question: str, *, yes: bool) -> bool:
    """Ask a person before deleting the things that the command line names.

    A script, which has no terminal, is not asked.
    """
    return not sys.stdin.isatty() or confirm(question, yes=yes)


def has_terminal() -> bool:
    """True if a person is at a terminal, with keyboard and screen."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def screen_width() -> int:
    """Columns of the terminal, 100 without one: as shutil.get_terminal_size, which takes long to load."""
    with suppress(ValueError, OSError):
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size().columns or 100
    return 100


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show a turning mark and the seconds on a terminal while work takes longer than a moment."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    import itertools
    import threading
    import time

    done = threading.Event()

    def turn() -> None:
        began = time.monotonic()
        for mark in itertools.cycle("|/-\\"):
            if done.wait(0.2):
                break
            if time.monotonic() - began > 0.6:
                line = f"{mark} {text} ({time.monotonic() - began:.0f} s) "
                sys.stderr.write("\r" + line[: screen_width() - 1])  # a second line would stay
                sys.stderr.flush()
        sys.stderr.write(CLEAR_LINE)
        sys.stderr.flush()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    _turning.add(text)
    try:
        yield
    finally:
        _turning.discard(text)
        done.set()
        thread.join(timeout=2)
