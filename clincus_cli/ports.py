"""`ports`: lets a browser see a server in a session's container. The server knows the ports, and admits the browser."""

from __future__ import annotations

from collections.abc import Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context
from clincus_cli.server import PORT, ask_session

if TYPE_CHECKING:
    from typing import Any

REMAINS = (
    "the session's network is closed, and the app's pages load from and send to the session alone. What no policy "
    "forbids: a hostile page can lead your browser to another address, let it load one in advance unseen, or connect "
    "by WebRTC"
)


@cli.Command(
    "ports [NAME]",
    cli.Flag("--open N", "open this port and print a link that lets one browser in", check=cli.number_from(1, 65535)),
    cli.Flag("--close N", "close this port", check=cli.number_from(1, 65535)),
    cli.format_flag("text", "json"),
    PORT,
)
def run_ports(context: Context) -> int:
    """Show what serves in a session, or open it in a browser

    Works without a network in the container, too. The link is valid for a minute, for one browser on this machine. The
    server must run (`clincus serve`).

    $ clincus ports clincus-ec0578-1  # What listens there?
    $ xdg-open "$(clincus ports clincus-ec0578-1 --open 5173)"  # Look at it.
    """
    options = context.options
    if options.open:
        opened = ask_session(context, "POST", f"ports/{options.open}")
        if opened.get("confined"):  # a server of an older version does not say
            console.warn(REMAINS)
        return context.show(opened, [opened["url"]])
    if options.close:
        ask_session(context, "DELETE", f"ports/{options.close}")
        return 0
    found = ask_session(context, "GET", "ports")
    more = ["… and more"] if found.get("truncated") else []
    return context.show(found, [*map(port_line, found["ports"]), *more] or ["Nothing listens there."])


def port_line(one: Mapping[str, Any]) -> str:
    """A port for people."""
    state = "open" if one["open"] else ""
    places = ", ".join(one["addresses"])
    return clincus.printable(f"{one['port']:<6} {places:<24} {one['process']:<16} {state}".rstrip())
