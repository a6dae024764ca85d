"""Part of the command line."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from urllib.parse import quote

import clincus
from clincus_cli.context import Context


def run_serve(context: Context) -> int:
    """`clincus serve`: until Ctrl-C or SIGTERM; a second one ends at once."""
    options = context.options
    raise_descriptor_limit()
    gate = clincus.Gate(options.allowed_host, clincus.load_token(options.token_file, os.environ))
    hosts = clincus.listen_hosts(options.host, gate)
    app = clincus.Application(os.environ, {"dashboard.port": options.port}, hosts=hosts, gate=gate)
    app.start()
    end = catch_end_signals()
    # The token belongs on the screen of who started this, and in no log.
    link = f"{app.url}/?token={quote(gate.token, safe='')}" if gate.token else app.url
    clincus.log.info("Dashboard running at %s", link if sys.stderr.isatty() else app.url)
    clincus.tell_systemd(f"READY=1\nSTATUS=Dashboard running at {app.url}")
    if options.open:
        import webbrowser

        # Without the token: every user of this machine can read the browser's arguments. On loopback the page needs
        # none; elsewhere it asks for it.
        webbrowser.open(app.url)
    give_back_memory()
    os.read(end, 1)
    app.close()
    return 0


def give_back_memory() -> None:
    """Give the system back what compiling took, some 25 MB, where the C library can do that (malloc_trim(3))."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def catch_end_signals() -> int:
    """Return a descriptor that can be read once a signal has asked for the end; the next signal ends the process.

    Python writes to it as the signal comes (signal.set_wakeup_fd), so none is missed just before the wait begins.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    numbers = [number for number in clincus.END_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]

    def end_at_once(number: int, frame: object) -> None:
        os._exit(128 + number)

    def end(number: int, frame: object) -> None:
        for one in numbers:
            signal.signal(one, end_at_once)

    for number in numbers:
        signal.signal(number, end)
    return reader


def raise_descriptor_limit() -> None:
    """Allow this process all the file descriptors that it may have: each terminal takes five while it runs."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
