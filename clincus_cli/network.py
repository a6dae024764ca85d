"""`network`: shows the names that a session can reach and those that were refused, and changes them while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context
from clincus_cli.server import PORT, ask_server, ask_session, session_path

if TYPE_CHECKING:
    from typing import Any

MODES = ("open", "allow-list", "none")
ASK_WITHIN = 2.0  # seconds


@cli.Command(
    "network [NAME]",
    cli.Flag("--mode MODE", " or ".join(MODES), choices=MODES),
    cli.Flag("--allow NAME", "allow a host, *.HOST, HOST:PORT, or a preset such as pypi", repeats=True),
    cli.Flag("--remove NAME", "take a name or a preset off the list", repeats=True),
    cli.format_flag("text", "json"),
    PORT,
)
def run_network(context: Context) -> int:
    """Show the network of a session and its refused connections, or change it

    A change takes effect at once, also while the session runs. Connections to names that are no longer allowed end.
    --allow also sets the mode `allow-list`, unless you give --mode. The server must run (`clincus serve`).

    $ clincus network clincus-ec0578-1  # Why does npm fail?
    $ clincus network clincus-ec0578-1 --allow registry.example.com  # Let it through.
    $ clincus network clincus-ec0578-1 --mode none  # No network from now on.
    """
    options = context.options
    ask_session(context, "POST", "network/seen")  # the page no longer counts what is listed here
    found = ask_session(context, "GET", "network")
    if options.mode or options.allow or options.remove:
        fields = changed_network(found, options.mode, options.allow, options.remove)
        warn_of_next_start(ask_session(context, "PATCH", "", fields))
        found = ask_session(context, "GET", "network")
    return context.show(found, network_lines(found))


def warn_of_next_start(session: Mapping[str, Any]) -> None:
    """Warn about the part of a change that holds only from the session's next start."""
    from clincus_features.network.devices import UNRULED

    if UNRULED in session["warnings"]:
        console.warn(UNRULED)


def split_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of hosts, and those that are presets."""
    from clincus_features.network.presets import PRESETS, TOOL

    presets = [name for name in names if name in PRESETS or name == TOOL]
    return [name for name in names if name not in presets], presets


def changed_network(
    found: Mapping[str, Any], mode: str | None, allowed: Sequence[str], removed: Sequence[str]
) -> dict[str, object]:
    """The fields of a PATCH for the given flags. Raises ClincusError(404) for a name that is not on the list."""
    hosts, presets = split_names(allowed)
    before = {"allow": found["allow"], "presets": found["presets"]}
    for name in removed:
        if name not in (*before["allow"], *before["presets"]):
            listed = ", ".join([*before["allow"], *before["presets"]]) or "nothing"
            raise clincus.ClincusError(f"'{name}' is not on the list: there is {listed}", 404)
    fields: dict[str, object] = {
        name: [one for one in dict.fromkeys([*before[name], *more]) if one not in removed]
        for name, more in (("allow", hosts), ("presets", presets))
    }
    if mode or allowed:
        fields["network"] = mode or "allow-list"
    return fields


def network_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The text of `clincus network`."""
    yield console.facts({
        "Mode": found["mode"],
        "Names": ", ".join(found["allow"]) or "none",
        "Presets": ", ".join(found["presets"]) or "none",
    }.items())  # fmt: skip
    if found["refused"]:
        rows = [(place(one), one["count"], one["last"], one["reason"]) for one in found["refused"]]
        yield "\n" + console.table(("REFUSED", "TIMES", "LAST", "WHY"), rows)
    if found["passed"]:
        passed = [(place(one), one["count"], one["last"], one["sent"], one["received"]) for one in found["passed"]]
        yield "\n" + console.table(("PASSED", "TIMES", "LAST", "BYTES SENT", "RECEIVED"), passed)


def place(row: Mapping[str, Any]) -> str:
    """Host and port of a row."""
    return f"{row['host']}:{row['port']}" if row["host"] else "(no host)"


# -- For starts


def network_settings(context: Context) -> dict[str, object]:
    """The settings that --network and --allow ask for; names come beside those of the config."""
    options = context.options
    settings: dict[str, object] = {"network.mode": options.network} if options.network else {}
    allowed = options.allow
    if allowed:
        hosts, presets = split_names(allowed)
        for key, more in (("network.allow", hosts), ("network.presets", presets)):
            settings[key] = list(dict.fromkeys([*context.config.get(key), *more]))
        settings.setdefault("network.mode", "allow-list")
    return settings


def warn_without_server(context: Context, session: clincus.Session) -> None:
    """Warn if a session has a list of names, or borrows logins, and no server passes its connections."""
    if '"allow-list"' not in session.network and not session.logins:
        return
    try:
        ask_server(context, "GET", session_path(session.id, "network"), within=ASK_WITHIN)
    except clincus.ClincusError as error:
        console.warn(f"nothing gets out of {session.id} until a server runs: {error.message}")
