"""Runs a command line: from its words to an exit code."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Sequence

import clincus
from clincus_cli import console, journal, names
from clincus_cli import help as help_pages
from clincus_cli.all_commands import load_commands
from clincus_cli.commands import UsageError, find_command, parse_words
from clincus_cli.context import Context

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 failed, 2 usage.

    Raises Ended if a signal ended it, once what was half done is undone.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    atexit.register(gc.freeze)  # else Python would search for cycles as it ends, and free them in vain
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115 (open till the end)
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(
                errors="backslashreplace"
            )  # a character that the locale lacks is escaped, as on stderr
        code = run_command_line(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise Ended(signal.SIGINT) from None
    except OSError as error:
        console.silence(1)
        if isinstance(error, BrokenPipeError):
            raise Ended(signal.SIGPIPE) from None
        console.complain(f"{error.filename or 'the output'}: {error.strerror}")
        return 1
    except clincus.ClincusError as error:
        is_unknown = error.message.startswith('session "') and error.message.endswith('" not found')
        console.complain(error.message + ("; `clincus list` shows all sessions" if is_unknown else ""))
        return 1
    return code


class Ended(SystemExit):
    """A signal has ended the command: the exit code is that of a shell, until `die_by` ends the process by it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def die_by(number: int) -> None:
    """End this process by a signal, so that the shell that runs a script ends that, too.

    A shell goes on after a command that was interrupted and only returns 130: it takes that for the command's choice.
    See "Proper handling of SIGINT/SIGQUIT" by Martin Cracauer.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)


def run_command_line(words: Sequence[str]) -> int:
    """Find the command, read its options and run it."""
    command = None
    load_commands(*words[:1])
    try:
        command, rest = find_command(words)
        options = parse_words(command, rest)
        if options.help:
            print(help_pages.help_text(command.name if rest or words else ""))
            return 0
        for number in END_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and & in a script, ignore it
                signal.signal(number, interrupted)
        sys.unraisablehook = interrupt_anew
        context = Context(command, options, os.environ)
        names.settle_names(context)
        return journal.run_noted(context) if command.writes else command.run(context)
    except UsageError as error:
        name = error.command or (command.name if command else "")
        console.complain(error.message)
        console.say(f'Run "clincus {name} --help" for usage.'.replace("  ", " "))
        return 2


def interrupted(number: int, frame: object) -> None:
    """End by an exception, so that what is half done is undone; a second signal does not interrupt that."""
    for one in END_SIGNALS:
        signal.signal(one, interrupted_again)
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)


def interrupt_anew(lost: sys.UnraisableHookArgs) -> None:
    """Raise an interruption once more that Python dropped, as it does in `__del__` and callbacks of weak references."""
    if not isinstance(lost.exc_value, (KeyboardInterrupt, SystemExit)):
        sys.__unraisablehook__(lost)
        return
    error = lost.exc_value

    def raise_it(number: int, frame: object) -> None:
        raise error

    signal.signal(signal.SIGALRM, raise_it)
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # this hook cannot raise it, and whatever dropped it must end first


def interrupted_again(number: int, frame: object) -> None:
    """Ask for patience; the next signal ends the process at once, with things half done."""
    for one in END_SIGNALS:
        signal.signal(one, lambda number, frame: die_by(number))
    console.say("Tidying up, one moment; once more ends it at once")
