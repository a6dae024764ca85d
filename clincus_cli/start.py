"""Starts the program."""

from __future__ import annotations

import os
import sys


def ensure_utf8() -> None:
    """Start again in Python's UTF-8 mode, if the locale has another encoding, such as ASCII or Latin-1.

    Names in the config, in Incus and in containers are UTF-8: Python would find no file of such a name, or fail. The
    output stays in the encoding of the locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    encoding = sys.stdout.encoding if sys.stdout else "ascii"
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:surrogateescape")
    words = getattr(sys, "orig_argv", ["", *sys.argv])  # new in Python 3.10
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *words[1:]])


def main() -> int:
    """Run the command line and return its exit code; see main.py. A signal that ended it ends the process."""
    ensure_utf8()
    from clincus_cli import main as command_line

    try:
        return command_line.main(sys.argv[1:])
    except command_line.Ended as ended:
        number = ended.number
    command_line.die_by(number)
    return 128 + number
