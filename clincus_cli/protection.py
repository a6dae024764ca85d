"""`protection`: shows the sealed paths of a session and their changes, and resolves a frozen session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.appeared import command_words
from clincus_cli.context import Context
from clincus_cli.server import PORT, ask_session

if TYPE_CHECKING:
    from typing import Any


@cli.Command(
    "protection [NAME]",
    cli.Flag("--resolve HOW", "decide on a frozen session: continue or stop", choices=("continue", "stop")),
    cli.Flag("--json", "print it as a document for programs"),
    PORT,
)
def run_protection(context: Context) -> int:
    """Show the protected paths of a session, and what has changed

    If another file takes the place of a sealed one, Clincus freezes the session and restores the copy. With `--resolve
    continue` the session goes on without that seal until its next start, with `--resolve stop` it ends and its
    container is kept. The same applies to things that Clincus puts aside, such as a link in `.git`. If the session goes
    on, Clincus puts the commands of a rebase back. The server must run (`clincus serve`).

    $ clincus protection clincus-ec0578-1  # What is sealed, and why is it frozen?
    $ clincus protection clincus-ec0578-1 --resolve stop  # End it; the container stays.
    """
    options = context.options
    if options.resolve:
        ask_session(context, "POST", "protection/resolve", {"action": options.resolve})
    found = ask_session(context, "GET", "protection")
    return context.show(found, protection_lines(found))


def protection_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The text of `clincus protection`."""
    rows = {"Protection": found["level"], "Note": found["note"]}
    yield console.facts((name, value) for name, value in rows.items() if value)
    if found["sealed"]:
        yield "\n" + console.table(("SEALED", "WHY"), [(one["path"], one["why"]) for one in found["sealed"]])
    if found["changes"]:
        changes = [
            (one["path"], one["kind"], one["what"], one["by"], one["at"], what_became(one)) for one in found["changes"]
        ]
        yield "\n" + console.table(("CHANGED", "KIND", "WHAT", "BY", "AT", "NOW"), changes)
        for words in dict.fromkeys(one["words"] for one in found["changes"] if one["words"]):
            yield "\n" + clincus.printable(words)
    if found["appeared"]:
        appeared = [(one["path"], one["when"], commands_of(one)) for one in found["appeared"]]
        yield "\n" + console.table(("APPEARED", "RUNS ON YOUR MACHINE WHEN", "COMMANDS"), appeared)
    if found["appeared_truncated"]:
        yield "… and perhaps more: this list is not whole"


def what_became(change: Mapping[str, Any]) -> str:
    """The result of a change: a path without a seal was put aside, unless its words say otherwise."""
    if change["kind"] != "seal":
        return "see below"
    return "put back" if change["restored"] else "not put back"


def commands_of(appeared: Mapping[str, Any]) -> str:
    """The commands of something that has appeared, in one line."""
    more = ["…"] if appeared.get("truncated") else []
    return "; ".join([*map(command_words, appeared["commands"]), *more])
