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

    Lists each [logins.NAME] of your config, and never shows a value. The server must run (`clincus serve`).

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
    lines = [console.table(head, rows)] if rows else ["There are no logins: `clincus login add` adds one."]
    return context.show(found, lines)


def used_words(one: Mapping[str, Any]) -> str:
    """The use of a login today by all sessions, and its limits."""
    today = one["today"]
    used = f"{today['requests']:,} requests, {today['tokens']:,} tokens, ${today['usd']:.2f}"
    limits = ", ".join(f"{most:,g} {name.replace('_', ' ')}" for name, most in one["limit"].items())
    return used + (f" (at most {limits})" if limits else "")


ADD_FLAGS = (
    cli.Flag("--file PATH", "file with the value, which only you can read (mode 0600)", default=""),
    cli.Flag("--env NAME", "variable of the server with the value", default=""),
    cli.Flag("--command CMD", "command that prints the value, such as 'pass show anthropic'", default=""),
    cli.Flag("--lend", "lend the tool's own login on this host (claude, codex)"),
    cli.Flag("--service NAME", "service with the form of the value, if LOGIN is not its name", default=""),
    cli.Flag("--host NAME", "host of a login of your own", repeats=True),
    cli.Flag("--header NAME", "header that carries its value there", default=""),
    cli.Flag("--form TEXT", "form of the header, such as 'Bearer {secret}'", default=""),
    cli.Flag("--variable NAME", "variable in which a session gets its placeholder", default=""),
)


@cli.Command("login add LOGIN", *ADD_FLAGS, cli.RESULT_JSON, writes=True)
def run_login_add(context: Context) -> int:
    """Let sessions borrow a login of this host

    Writes [logins.LOGIN] to your config. It says where Clincus reads the value, and never holds the value. A running
    server reads it within a second. A session borrows it with --login LOGIN.

    $ clincus login add anthropic --file ~/.keys/anthropic  # An API key in a file of yours.
    $ clincus login add github --command 'gh auth token'  # What gh has signed in with.
    $ clincus login add claude --lend  # Your subscription. Read the vendor's terms before you do.
    $ clincus login add own --env KEY --host api.example.com --header x-key --form '{secret}'  # One of your own.
    """
    import json

    from clincus_cli.engines import append_table

    options = context.options
    name = options.login
    if name in context.config.get("logins"):
        raise clincus.ClincusError(f'there is a login "{name}" already: edit [logins.{name}] of your config', 409)
    row = login_row(options)
    check_login(name, row)
    source = {key: value for key, value in row.items() if key.startswith("from.")}
    lines = [f"[logins.{name}]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in row.items() if key not in source]
    lines += [f"from = {{ {key.removeprefix('from.')} = {json.dumps(value)} }}" for key, value in source.items()]
    path = append_table(context.environ, lines)
    return context.report(f'Added the login "{name}" to {path}', {"name": name, "path": path})


def login_row(options: Any) -> dict[str, object]:
    """The settings of a login that the flags give, by dotted key."""
    given = {
        "service": options.service,
        "hosts": [*options.host],
        **{key: getattr(options, key) for key in ("header", "form", "variable", "lend")},
        **{f"from.{key}": getattr(options, key) for key in ("file", "env", "command")},
    }
    return {key: value for key, value in given.items() if value}


def check_login(name: str, row: Mapping[str, object]) -> None:
    """Raise ClincusError(400) for a login that the config would not take."""
    from clincus_features.logins.settings import LOGIN, LOGIN_NAME, read_login

    try:
        LOGIN_NAME(name)
        read_login(name, {key: LOGIN[key].fit(value) for key, value in row.items()})
    except (ValueError, clincus.ConfigError) as error:
        raise clincus.ClincusError(f"the login {name}: {error}", 400) from None


@cli.Command("login check LOGIN", cli.RESULT_JSON, PORT)
def run_login_check(context: Context) -> int:
    """Read the value of a login now, and say whether it can be read

    The exit code is 1 if Clincus cannot read it. The command does not show the value, and does not ask the vendor.

    $ clincus login check github  # Does `gh auth token` give one?
    """
    one = ask(context, "POST", "check")
    words = f"{one['name']}: {one['state']}" + (f": {one['error']}" if one["error"] else "")
    context.show(one, [clincus.printable(words)])
    return 0 if one["state"] == "good" else 1


@cli.Command("login revoke LOGIN", cli.RESULT_JSON, PORT)
def run_login_revoke(context: Context) -> int:
    """Revoke a login, so that no session borrows it

    Takes effect at once, until `clincus login allow`. Clincus ends requests that use the login now.

    $ clincus login revoke github  # Nobody uses it from now on.
    """
    one = ask(context, "POST", "revoke")
    borrowers = ", ".join(one["sessions"])
    words = f"{one['name']}: revoked until `clincus login allow {one['name']}`"
    return context.show(
        one, [words + (f"; no longer lent to {borrowers}" if borrowers else "; no session borrowed it")]
    )


@cli.Command("login allow LOGIN", cli.RESULT_JSON, PORT)
def run_login_allow(context: Context) -> int:
    """Lend a revoked login again

    $ clincus login allow github  # Sessions may use it again.
    """
    one = ask(context, "DELETE", "revoke")
    return context.show(one, [f"{one['name']}: allowed; sessions that name it may use it again"])


def ask(context: Context, method: str, what: str) -> Any:
    """Ask the server about the login that the options name."""
    from urllib.parse import quote

    return ask_server(context, method, f"/api/logins/{quote(context.options.login, safe='')}/{what}")
