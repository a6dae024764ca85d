"""Part of the command line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import clincus
from clincus_cli.console import print_json
from clincus_cli.console import progress
from clincus_cli.console import say
from clincus_cli.context import Context
from clincus_cli.shell import has_terminal
from clincus_cli.shell import launch_request
from clincus_cli.shell import run_in_terminal
from clincus_cli.words import Options

TIMED_OUT = 124  # the exit code, as of timeout(1)


def run_run(context: Context) -> int:
    """`clincus run`: one command in a new container, which is removed whatever happens."""
    options = context.options
    request = replace(launch_request(context), command=clincus.process_mark(os.getpid()))
    sessions = context.sessions
    talk: Callable[[str], None] = clincus.void if options.quiet else say
    command = ["sh", "-c", options.command[0]] if len(options.command) == 1 else list(options.command)
    is_terminal = options.format == "pretty" and has_terminal() and sys.stderr.isatty()
    held = clincus.Held(), clincus.Held()
    config = sessions.plan(request).config
    context.on_starting = lambda session: tell_command(session, config, options, talk)
    with progress("Starting the container"):
        session = sessions.start_command(request)
    limits = options.timeout, clincus.parse_duration(config.get("limits.runtime.max_duration") or "0")
    limit = min(filter(None, limits), default=None)
    try:
        talk(f"Executing: {shlex.join(options.command)}")
        argv = sessions.command_argv(session, command, term="xterm-256color" if is_terminal else "")
        sinks = held if options.format == "json" else clincus.OUR_STREAMS
        code = run_in_terminal(argv, limit) if is_terminal else clincus.run_relayed(argv, sinks, limit=limit)
    except subprocess.TimeoutExpired:
        say(f"The time limit of {limit:g} s is over")
        code = TIMED_OUT
    finally:
        sessions.end(session.id, delete=not session.persistent)
    talk("Command completed successfully" if code == 0 else f"Command exited with code {code}")
    if options.format == "json":
        print_output(code, *held)
    return code


def print_output(code: int, stdout: clincus.Held, stderr: clincus.Held) -> None:
    """Print how a command ended and what it wrote as JSON. Raises ClincusError where that was too much."""
    if stdout.is_full or stderr.is_full:
        raise clincus.ClincusError("the command wrote too much to be held: let it write to a pipe", 413)
    texts = {name: held.data.decode("utf-8", "replace") for name, held in (("stderr", stderr), ("stdout", stdout))}
    print_json({"exit_code": code, **texts})


def tell_command(
    session: clincus.Session, config: clincus.Config, options: Options, talk: Callable[[str], None]
) -> None:
    """Say which container a command runs in, before it is there."""
    if not options.slot:
        talk(f"Auto-allocated slot {session.slot}")
    if session.run:
        talk(f"Restarting existing persistent container {session.id}")
    else:
        talk(f"Launching container {session.id} from image {session.image}")
    protected = [*config.get("security.protected_paths"), *config.get("security.additional_protected_paths")]
    if protected and not config.get("security.disable_protection"):
        talk(f"Protected paths (mounted read-only): {', '.join(protected)}")


def tmux(context: Context, name: str, program: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run a program of guest/ on a session's tmux: that of the code user, else root's. Raises ClincusError."""
    sessions = context.sessions
    session = sessions.registry.get(name)
    if session.status != "running":
        raise clincus.ClincusError(f"container '{name}' is not running", 409)
    command = ["sh", "-c", clincus.guest_program(program), "clincus", clincus.tmux_name(name), *arguments]
    done = sessions.run(session, command, stdin=stdin)
    if done.code == 3:
        done = sessions.incus.exec(name, command, stdin=stdin)
    if done.code != 0:
        reason = "it has no tmux session now" if done.code == 3 else done.reason
        raise clincus.ClincusError(f"failed to reach the terminal of '{name}': {reason}", 500)
    return done.stdout


def run_tmux_send(context: Context) -> int:
    """`clincus tmux send`."""
    options = context.options
    tmux(context, options.container, "send", "text" if options.text else "", stdin=os.fsencode(options.text))
    print(f"Sent command to session clincus-{options.container}")
    return 0


def run_tmux_capture(context: Context) -> int:
    """`clincus tmux capture`."""
    options = context.options
    arguments = [*(["-S", f"-{options.lines}"] if options.lines else []), *(["-e"] if options.escapes else [])]
    text = tmux(context, options.container, "capture", *arguments).decode("utf-8", "replace").strip()
    print(text, end="\n" if sys.stdout.isatty() else "")
    return 0


def run_tmux_list(context: Context) -> int:
    """`clincus tmux list`."""
    sessions = context.sessions
    running = [session for session in sessions.registry.all() if session.status == "running"]
    if not running:
        print("No active sessions")
        return 0
    print("Active sessions:")
    for session in running:
        if sessions.has_terminal(session):
            print(f"  - {session.id} (tmux session: clincus-{session.id})")
    return 0
