"""`why`, and what `list` says of each session's tool: looked at now, whether or not a server runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any

LOOKERS = 8  # looks at the same time


@cli.Command("why NAME", cli.format_flag("text", "json"), shows=True)
def run_why(context: Context) -> int:
    """Say what a session's tool is doing, and why that is known

    The rule that matched is shown, with the event of the tool's hooks or the lines of its screen.

    $ clincus why clincus-ec0578-1  # Does it wait for me?
    """
    from clincus_features import agents

    session = context.sessions.registry.get(context.options.name)
    found = agents.explained(agents.examine(context.sessions, session, context.environ))
    if context.options.format == "json":
        console.print_json(found)
    else:
        print("\n".join(why_lines(session.id, found)))
    return 0


def why_lines(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """The text of `clincus why`."""
    why = found["why"]
    yield console.paint(name, "bold")
    yield console.facts({
        "State": agent_words({**found, "text": ""}),
        "Since": found["since"],
        "Text": found["text"],
        "Rule": f"{why['rule']} ({why['source']}, {why['at']})",
    }.items())  # fmt: skip
    yield from (f"  {number}. {clincus.printable(option)}" for number, option in enumerate(found["options"], 1))
    yield from (f"  | {clincus.printable(line)}" for line in why["lines"])


def agent_words(agent: Mapping[str, Any]) -> str:
    """An agent object in one line."""
    reason = f" ({agent['reason']})" if agent["reason"] else ""
    return f"{agent['state']}{reason}" + (f": {agent['text']}" if agent["text"] else "")


def agents_of(sessions: clincus.Sessions, environ: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """The agent object of each session that runs, by name; one that cannot be looked at is left out."""
    from concurrent.futures import ThreadPoolExecutor

    from clincus_features import agents

    def examine(session: clincus.Session) -> dict[str, object] | None:
        try:
            return agents.document(agents.examine(sessions, session, environ).agent)
        except clincus.ClincusError as error:
            console.warn(f"{session.id}: {error.message}")
            return None

    running = [one for one in sessions.registry.all() if one.status == "running" and clincus.is_session(one)]
    with ThreadPoolExecutor(LOOKERS) as pool:
        found = pool.map(examine, running)
    return {one.id: agent for one, agent in zip(running, found) if agent is not None}
