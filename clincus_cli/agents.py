"""`why`, `log`, `prompt`, `answer`, `wait`, `interrupt`: commands that watch a session's tool, or type into it.

`why` looks for itself, whether or not a server runs. The others ask the server, which has the queue and types into each
session one thing at a time; `list` shows what the server knows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context
from clincus_cli.server import PORT, ask_server, ask_session

if TYPE_CHECKING:
    from typing import Any


@cli.Command("why [NAME]", cli.format_flag("text", "json"), shows=True)
def run_why(context: Context) -> int:
    """Show what a session's tool is doing, and how Clincus knows it

    Shows the rule that matched, with the event of the tool's hooks or the lines of its screen.

    $ clincus why clincus-ec0578-1  # Does it wait for me?
    """
    from clincus_features import agents

    session = context.sessions.registry.get(context.options.name)
    found = agents.explained(agents.examine(context.sessions, session, context.environ))
    return context.show(found, why_lines(session.id, found))


@cli.Command("log [NAME]", cli.format_flag("text", "json"), shows=True)
def run_log(context: Context) -> int:
    """Show the log of a session, newest last

    Shows each request with its sender and result, the times of the runs, and the activity of the tool. A running server
    (`clincus serve`) writes it. Works for deleted sessions too, and while Incus does not answer.

    $ clincus log clincus-ec0578-1  # Who stopped it?
    """
    from clincus_features import journal

    folder = journal.logs_directory(context.config, context.environ)
    found = journal.session_log(context.known_sessions, context.history, folder, context.options.name)
    lines = [*map(log_line, reversed(found))] or ["Nothing is written down yet."]
    return context.show(found, lines)


def log_line(entry: Mapping[str, Any]) -> str:
    """An entry of a session's log for people."""
    asked = f", asked by {entry['by']} from {entry['from']}: {entry['outcome']}" if entry["kind"] == "request" else ""
    return clincus.printable(f"{entry['at']}  {entry['what']}{asked}")


LIST_WITHIN = 2  # seconds: a list without states is better than none
STATES = ("starting", "working", "waiting", "done", "idle", "failed", "stuck", "ended", "unknown")
LOOK_EVERY = 0.5  # seconds
GONE = "the session was deleted"
TIMED_OUT = 124  # the exit code, as of timeout(1)


@cli.Command("prompt [NAME] [TEXT]", cli.RESULT_JSON, PORT)
def run_prompt(context: Context) -> int:
    """Give a session's tool a prompt

    Without TEXT, or with -, it reads the prompt from stdin. The command prints the result: `submitted` (the tool has
    taken it), `queued` (the tool works; it is typed when the turn ends) or `unconfirmed` (typed, but the tool did not
    confirm it). While the tool waits for an answer, the command types nothing. The server must run (`clincus serve`).

    $ clincus prompt clincus-ec0578-1 'run the tests'  # Ask for something.
    $ git diff | clincus prompt clincus-ec0578-1 -  # A text of many lines.

    Exits: 0 submitted or queued; 1 otherwise
    """
    text = context.options.text
    if text in ("", "-"):
        if sys.stdin.isatty():
            console.say("Write the prompt, then press Ctrl-D on a line of its own.")
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    found = ask_session(context, "POST", "prompt", {"text": text})
    context.show(found, [found["result"]])
    return 0 if found["result"] in ("submitted", "queued") else 1


@cli.Command(
    "answer [NAME] [OPTION]",
    cli.Flag("--text TEXT", "an answer of your own, where one is taken"),
    cli.RESULT_JSON,
    PORT,
)
def run_answer(context: Context) -> int:
    """Answer the question that a session's tool asks

    OPTION is the number of a choice, as `clincus why` lists them. The command types nothing if the screen no longer
    shows a question. The command prints the result: `answered` (the tool has taken it) or `unconfirmed` (typed, but
    nothing shows that the tool took it: look at its terminal). The server must run (`clincus serve`).

    $ clincus answer clincus-ec0578-1 2  # The second choice.
    $ clincus answer clincus-ec0578-1 --text 'none of these'  # Words of your own.

    Exits: 0 answered; 1 otherwise
    """
    option = context.options.option
    text = context.options.text
    if bool(option) == (text is not None):
        raise cli.UsageError("give either OPTION or --text TEXT", "answer")
    try:
        body = {"option": cli.number_from(1, 99)(option)} if option else {"text": text}
    except ValueError as error:
        raise cli.UsageError(f"invalid option '{option}': {error}", "answer") from None
    found = ask_session(context, "POST", "answer", body)
    context.show(found, [found["result"]])
    return 0 if found["result"] == "answered" else 1


@cli.Command("interrupt [NAME]", cli.RESULT_JSON, PORT)
def run_interrupt(context: Context) -> int:
    """Interrupt a session's tool

    Does what Esc does in its terminal. The command prints `unconfirmed` if the tool does not show that it has stopped:
    look at its terminal then. The server must run (`clincus serve`).

    $ clincus interrupt clincus-ec0578-1  # Not that way.

    Exits: 0 it has stopped, or was at rest; 1 otherwise
    """
    found = ask_session(context, "POST", "interrupt")
    if not found:
        return context.show({"result": "interrupted"}, [])
    context.show(found, [found["result"]])
    return 1


def check_states(text: str) -> str:
    """A check for a list of states, such as `waiting,done`."""
    for word in text.split(","):
        cli.one_of(*STATES)(word)
    return text


@cli.Command(
    "wait [NAME]",
    cli.Flag("--for STATES", f"some of: {', '.join(STATES)}", check=check_states, default="waiting,done,failed,ended"),
    cli.Flag("--timeout SECONDS", "give up after this time; 0: never", check=cli.number_from(0, 10**8), default=0),
    cli.ALWAYS_JSON,
    PORT,
)
def run_wait(context: Context) -> int:
    """Wait until a session's tool waits, is done, has failed or has ended

    Prints the tool's state as JSON. `done`: the turn is over, even if no person has looked yet. `ended`: the tool has
    ended, or its session does not run or was deleted. The server must run (`clincus serve`); while it restarts, this
    command keeps waiting.

    $ clincus wait clincus-ec0578-1 --timeout 600 && make check  # In a script, after `clincus prompt`.
    $ clincus wait clincus-ec0578-1 --for waiting  # Call me when it asks.

    Exits: 0 the tool is in one of the STATES; 124 --timeout was over; 1 otherwise
    """
    import time

    options = context.options
    wanted = set(getattr(options, "for").split(","))
    wanted |= {also for state, also in (("done", "idle"), ("ended", "none")) if state in wanted}
    deadline = time.monotonic() + options.timeout if options.timeout else float("inf")
    found: Mapping[str, Any] = {}
    while True:
        found = agent_now(context, found)
        is_so = found["state"] in wanted
        is_late = time.monotonic() > deadline
        if is_so or is_late:
            console.print_json({name: value for name, value in found.items() if name not in ("why", "detail")})
            return 0 if is_so else TIMED_OUT
        if found["state"] == "ended" and found["text"] == GONE:
            raise clincus.ClincusError(f"{options.name}: {GONE}", 404)
        time.sleep(LOOK_EVERY)


def agent_now(context: Context, before: Mapping[str, Any]) -> Mapping[str, Any]:
    """The agent object of the session; `before` is the last one, {} at first.

    A session that no longer exists has ended. If a server that has answered before does not answer now, for example
    while it restarts, the last answer counts.
    """
    try:
        found: Mapping[str, Any] = ask_session(context, "GET", "agent")
    except clincus.ClincusError as error:
        if not before or error.status not in (404, 503):
            raise
        return {**before, "state": "ended", "reason": "", "text": GONE} if error.status == 404 else before
    return found


def why_lines(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """The text of `clincus why`."""
    why = found["why"]
    yield console.paint(name, "bold")
    rows = {
        "State": agent_words({**found, "text": ""}),
        "Since": found["since"],
        "Text": found["text"],
        "Rule": f"{why['rule']} ({', '.join(filter(None, (why['source'], why['at'])))})",
    }
    yield console.facts((name, value) for name, value in rows.items() if value)
    yield from (f"  {number}. {clincus.printable(option)}" for number, option in enumerate(found["options"], 1))
    yield from (f"  | {clincus.printable(line)}" for line in why["lines"])


def agent_words(agent: Mapping[str, Any]) -> str:
    """An agent object in one line."""
    reason = f" ({agent['reason']})" if agent["reason"] else ""
    return f"{agent['state']}{reason}" + (f": {agent['text']}" if agent["text"] else "")


def known_agents(context: Context) -> dict[str, dict[str, object]]:
    """The agent object of each session by name, from the running server; empty without a server."""
    try:
        return {one["id"]: one["agent"] for one in ask_server(context, "GET", "/api/sessions", within=LIST_WITHIN)}
    except clincus.ClincusError:
        return {}
