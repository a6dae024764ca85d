"""`login`: the logins that stay on this host and that sessions borrow. The server has them."""

from __future__ import annotations

from collections.abc import Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context
from clincus_cli.server import PORT, ask_server

if TYPE_CHECKING:
    from typing import Any


@cli.Command("login list", cli.format_flag("text", "json"), PORT)
def run_login_list(context: Context) -> int:
    """Show the logins that sessions may borrow

    They are those of [logins.NAME] in your config. Their values are never shown. The server must run (`clincus serve`).

    $ clincus login list  # Which are there, and who borrows them?
    """
    found = ask_server(context, "GET", "/api/logins")
    head = ("LOGIN", "STATE", "FROM", "HOSTS", "TODAY", "LAST USED", "SESSIONS")
    rows = [
        (
            *(one["name"], one["state"], one["source"], ", ".join(one["hosts"])),
            *(used_words(one), one["last_used"] or "never", ", ".join(one["sessions"]) or "none"),
        )
        for one in found
    ]
    lines = [console.table(head, rows)] if rows else ["There are no logins: [logins.NAME] in your config defines one."]
    return console.show(context.options.format, found, lines)


def used_words(one: Mapping[str, Any]) -> str:
    """The use of a login today by all sessions, and its limits."""
    today = one["today"]
    used = f"{today['requests']:,} requests, {today['tokens']:,} tokens, ${today['usd']:.2f}"
    limits = ", ".join(f"{most:,g} {name.replace('_', ' ')}" for name, most in one["limit"].items())
    return used + (f" (at most {limits})" if limits else "")


@cli.Command("login check LOGIN", cli.RESULT_JSON, PORT)
def run_login_check(context: Context) -> int:
    """Read the value of a login now, and say whether it can be read

    Exit code 1 if it cannot. The value is not shown, and its vendor is not asked.

    $ clincus login check github  # Does `gh auth token` give one?
    """
    one = ask(context, "POST", "check")
    words = f"{one['name']}: {one['state']}" + (f": {one['error']}" if one["error"] else "")
    console.show("json" if context.options.json else "text", one, [clincus.printable(words)])
    return 0 if one["state"] == "good" else 1


@cli.Command("login revoke LOGIN", PORT)
def run_login_revoke(context: Context) -> int:
    """Lend a login to no session any more

    Holds at once and until `clincus login allow`. Requests under way that use it end.

    $ clincus login revoke github  # Nobody uses it from now on.
    """
    ask(context, "POST", "revoke")
    return 0


@cli.Command("login allow LOGIN", PORT)
def run_login_allow(context: Context) -> int:
    """Lend a login again that was revoked

    $ clincus login allow github  # Sessions may use it again.
    """
    ask(context, "DELETE", "revoke")
    return 0


def ask(context: Context, method: str, what: str) -> Any:
    """Ask the server about the login that the options name."""
    from urllib.parse import quote

    return ask_server(context, method, f"/api/logins/{quote(context.options.login, safe='')}/{what}")
