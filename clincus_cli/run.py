"""`run`: one command in a container of its own. `tmux`: the terminal of a session from outside."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import clincus
from clincus_cli import TYPE_CHECKING, console, shell
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from clincus_cli import relay

TIMED_OUT = 124  # the exit code, as of timeout(1)


@cli.Command(
    "run COMMAND...",
    cli.Flag(
        "--timeout SECONDS", "kill it after this time, with exit code 124; 0: never", check=cli.number_from(0, 10**8)
    ),
    cli.Flag("--capture", "no effect: the output always passes through"),
    cli.format_flag("pretty", "json"),
    cli.Flag("-q, --quiet", "print no messages of Clincus on stderr"),
    starts=True,
    passes_on=1,
    writes=True,
)
def run_run(context: Context) -> int:
    """Run one command in a container of its own

    Clincus mounts, limits and protects the directory as in a session. A single argument goes through a shell; several
    arguments run as they are. Input and output pass through unchanged. Clincus always removes the container. With
    --persistent, it stops the container, and the next run in the same --slot uses it again.

    Put -- before COMMAND if COMMAND has flags that Clincus has too.

    $ clincus run 'npm ci && npm test'  # Through a shell.
    $ clincus run --timeout 600 make -j4 test  # With a time limit; -j4 belongs to make.
    $ clincus run --allow npm npm ci  # It reaches these names only.
    $ clincus run -q -- grep -e x README.md | wc -l  # -e belongs to grep.

    Exits: CODE that of the command; 1 also: it could not be started; 124 --timeout was over
    """
    from contextlib import ExitStack

    options = context.options
    request = shell.launch_request(context)._replace(command=process_mark(os.getpid()))
    sessions = context.sessions
    config = sessions.plan(request).config
    with ExitStack() as open_ways:
        context.on_starting = lambda session: open_ways.enter_context(before_command(context, session, config))
        session = shell.start_accepted(lambda asked: start_container(sessions, asked), request)
        try:
            if request.environment or request.slot:  # a slot's container may hold variables of an earlier command
                give_variables(sessions, session, dict(request.environment))
            talk(context, f"Executing: {shlex.join(options.command)}")
            limits = options.timeout, clincus.parse_duration(config.get("limits.runtime.max_duration") or "0")
            code, held = run_command(context, session, min(filter(None, limits), default=None))
        finally:
            sessions.end(session.id, delete=not session.persistent, keeps=session.mode == "mount")
    talk(context, "Command completed successfully" if code == 0 else f"Command exited with code {code}")
    if context.prints_json:
        print_output(code, *held)
    return code


def run_command(
    context: Context, session: clincus.Session, limit: float | None
) -> tuple[int, tuple[relay.Held, relay.Held]]:
    """Run the command in its container, `limit` seconds at most; returns its exit code, and the parts for JSON."""
    import subprocess

    from clincus_cli import relay

    options = context.options
    sessions = context.sessions
    held = (relay.Held(), relay.Held())
    command = ["sh", "-c", options.command[0]] if len(options.command) == 1 else list(options.command)
    guest = sessions.guest(session)
    program = clincus.guest_program("wait-for-boot", "command")
    try:
        if options.format == "pretty" and console.has_terminal() and sys.stderr.isatty():
            argv = sessions.guest_argv(session, program, guest.mount, *command, term="xterm-256color")
            return shell.run_in_terminal(argv, limit), held
        sinks = held if context.prints_json else relay.OUR_STREAMS
        command = ["sh", "-c", program, "clincus", guest.mount, *command]
        environment = guest.environment()
        code = relay.run_relayed(
            context.incus, session.id, command, sinks, limit=limit, user=guest.uid, environment=environment
        )
    except subprocess.TimeoutExpired:
        console.say(f"The time limit of {limit:g} s is over")
        code = TIMED_OUT
    return code, held


@contextmanager
def before_command(context: Context, session: clincus.Session, config: clincus.Config) -> Iterator[None]:
    """Name the container that is being started, and pass its allowed connections until the end of the block."""
    from clincus_features.network.own import own_proxy

    tell_command(context, session, config)
    with own_proxy(context.environ, session.id, config, session.tool) as records:
        yield
    for row in records.refused.values():
        talk(context, f"Refused {row.count}x: {row.reason}")


def talk(context: Context, text: str) -> None:
    """Print a text, unless --quiet is given."""
    if not context.options.quiet:
        console.say(text)


def process_mark(pid: int) -> str:
    """The number of a process and the time of its start (proc(5)), unique for each process; "" if it does not run."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:  # a process names itself as it likes
            return f"{pid} {file.read().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def start_container(sessions: clincus.Sessions, request: clincus.LaunchRequest) -> clincus.Session:
    """Start a container for one command: a new one, or the stopped persistent one of the slot that is named."""
    if request.slot:
        name = clincus.session_name(sessions.registry.prefix, sessions.plan(request).draft.workspace, request.slot)
        found = sessions.look(name)
        if found is not None and found.command and found.persistent and found.status == "stopped":
            return sessions.resume(name, request)
    return sessions.create(request)


def give_variables(sessions: clincus.Sessions, session: clincus.Session, environment: dict[str, str]) -> None:
    """Write the variables of a command to the file that guest/command.sh reads; those of an earlier command go."""
    script = 'umask 077; cat >/run/clincus-command && chown "$1" /run/clincus-command'
    command = ["sh", "-c", script, "clincus", str(sessions.guest(session).uid)]
    done = sessions.incus.exec(session.id, command, stdin=clincus.shell_assignments(environment).encode())
    if done.code != 0:
        raise sessions.incus.guest_failure(session.id, done)


def print_output(code: int, stdout: relay.Held, stderr: relay.Held) -> None:
    """Print the exit code and the output of a command as JSON. Raises ClincusError if the output is too large."""
    if stdout.is_full or stderr.is_full:
        raise clincus.ClincusError(
            "the command wrote more than Clincus can hold: send its output to a pipe or a file", 413
        )
    texts = {name: held.data.decode("utf-8", "replace") for name, held in (("stderr", stderr), ("stdout", stdout))}
    console.print_json({"exit_code": code, **texts})


def tell_command(context: Context, session: clincus.Session, config: clincus.Config) -> None:
    """Name the container in which a command will run, before the container exists."""
    if not context.options.slot:
        talk(context, f"Auto-allocated slot {session.slot}")
    if session.run:
        talk(context, f"Restarting existing persistent container {session.id}")
    else:
        talk(context, f"Launching container {session.id} from image {session.image}")
    protected = [*config.get("security.protected_paths"), *config.get("security.additional_protected_paths")]
    if protected and not config.get("security.disable_protection"):
        talk(context, f"Protected paths (mounted read-only): {', '.join(protected)}")


# -- tmux

NO_TMUX = 3  # the exit code of the programs in guest/ where there is no such tmux session


def run_on_tmux(context: Context, name: str, program: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run a program of guest/ on a session's tmux: that of the code user, else root's. Raises ClincusError."""
    sessions = context.sessions
    session = context.sessions.registry.get(name)
    if session.status != "running":
        raise clincus.ClincusError(f"container '{name}' is not running: `clincus resume {name}` starts it", 409)
    command = ["sh", "-c", clincus.guest_program(program), "clincus", clincus.tmux_name(name), *arguments]
    done = sessions.run(session, command, stdin=stdin)
    if done.code == NO_TMUX:
        done = sessions.door(name).exec(name, command, stdin=stdin)
    if done.code != 0:
        gone = f"it has no tmux session now; `clincus attach {name}` makes one"
        reason = gone if done.code == NO_TMUX else done.reason
        status = 404 if done.code == NO_TMUX else 500
        raise clincus.ClincusError(f"failed to reach the terminal of '{name}': {reason}", status)
    return done.stdout


@cli.Command("tmux send CONTAINER TEXT", cli.RESULT_JSON, writes=True)
def run_tmux_send(context: Context) -> int:
    """Type a line into a session

    TEXT is typed as it is, then Enter.

    $ clincus tmux send clincus-ec0578-1 'run the tests'  # Ask the tool for something.
    """
    name = context.options.container
    text = context.options.text
    run_on_tmux(context, name, "send", "text" if text else "", stdin=os.fsencode(text))
    return context.show({"result": "sent"}, [f"Sent command to session clincus-{name}"])


@cli.Command(
    "tmux capture [CONTAINER]",
    cli.Flag("--lines N", "also print this many lines above the screen", check=cli.number_from(0, 50_000), default=0),
    cli.Flag("-e, --escapes", "with colours"),
    cli.RESULT_JSON,
)
def run_tmux_capture(context: Context) -> int:
    """Print what a session's terminal shows

    In a pipe or file, the output does not end with a newline.

    $ clincus tmux capture clincus-ec0578-1 --lines 500  # The screen and the 500 lines above it.
    """
    options = context.options
    arguments = [*(["-S", f"-{options.lines}"] if options.lines else []), *(["-e"] if options.escapes else [])]
    shown = run_on_tmux(context, options.container, "capture", *arguments).decode("utf-8", "replace").strip()
    if context.prints_json:
        console.print_json({"text": shown})
    elif sys.stdout.isatty():
        print(screen_text(shown))
    else:
        print(shown, end="")
    return 0


def screen_text(shown: str) -> str:
    """The text of a session's terminal for ours: line ends and colours stay, other control characters are escaped."""
    parts = re.split(r"(\n|\x1b\[[\d;:]*m)", shown)  # every second part is one of them
    return "".join(part if at % 2 else clincus.printable(part) for at, part in enumerate(parts))


@cli.Command("tmux list", cli.format_flag("text", "json"), shows=True)
def run_tmux_list(context: Context) -> int:
    """List the sessions with a terminal

    $ clincus tmux list  # Which sessions `tmux send` can type into.
    """
    found = []
    running = [session for session in context.sessions.registry.all() if session.status == "running"]
    for session in running:
        try:
            run_on_tmux(context, session.id, "capture")
        except clincus.ClincusError as error:
            if error.status != 404 and not session.engine:
                raise
            if error.status != 404:
                console.warn(f"{session.id}: {error}")
        else:
            found.append({"name": session.id, "tmux_session": f"clincus-{session.id}"})
    lines = ["  - {name} (tmux session: {tmux_session})".format(**one) for one in found]
    head = "Active sessions:" if running else "No active sessions"
    return context.show({"sessions": found}, [head, *lines])
