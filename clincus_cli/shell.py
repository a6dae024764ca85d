"""`shell` and `attach`: choose and start a session, and connect this terminal to it until a person leaves it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import clincus
from clincus_cli import TYPE_CHECKING, console, names
from clincus_cli import commands as cli
from clincus_cli.appeared import warn_of_appeared
from clincus_cli.context import Context
from clincus_cli.network import network_settings, warn_without_server

if TYPE_CHECKING:
    from typing import IO


@cli.Command(
    "shell [DIRECTORY]",
    *cli.RESUME,
    cli.Flag("--tool NAME", "tool to start (default: the config's)", default=""),
    cli.Flag("--name TEXT", "a name for the session, shown by `list` and in the dashboard", default=""),
    cli.Flag("--background", "start without attaching"),
    cli.Flag("--debug", "start bash instead of the tool"),
    cli.Flag(
        "--tmux", "run the tool in tmux, where it outlives this terminal (default; off: --tmux=false)", default=True
    ),
    cli.Flag("--container NAME", "use this session's container", default=""),
    cli.Flag("--prompt TEXT", "the tool's first prompt", default=""),
    cli.Flag("--clone", "work on a clone in the container; `clincus fetch` brings its commits back"),
    cli.Flag("--branch NAME", "what --clone starts from (default: what is checked out, as it is)", default=""),
    cli.Flag("--engine NAME", "run it on an engine of the config (default: this host)", default=""),
    cli.Flag("--target MEMBER", "a member of the engine's cluster, or @ and a group of members", default=""),
    cli.Flag("--there", "with --engine: mount DIRECTORY of that host; it must be in one of the engine's roots"),
    cli.Flag("--json", "with --background: print the session as JSON"),
    starts=True,
    writes=True,
)
def run_shell(context: Context) -> int:
    """Start a session in a project directory, or go back to it

    Makes a container with the directory mounted, starts the tool in tmux there, and attaches. Clincus protects the
    files that your machine runs from changes inside. Ctrl-B D detaches, and the session keeps running.

    If a session of the directory already runs, the command attaches to it; --slot chooses one of several, or starts
    another one beside it. --persistent also resumes a stopped persistent session. When all programs in the terminal
    have ended, Clincus saves the conversation, then stops a persistent container and removes any other.

    --resume continues a saved conversation, in its old container if that still exists.

    $ clincus  # Start the configured tool in the current directory.
    $ clincus shell ~/src/app --tool copilot --persistent  # Another tool, in a container that is kept.
    $ clincus shell --resume  # Continue the last conversation of this directory.
    $ clincus shell --background -e API_KEY --limit-memory 4GiB  # Start without attaching.
    $ clincus shell --background --prompt 'fix the failing test'  # Let it begin at once.
    $ clincus shell --allow pypi --allow '*.example.com'  # It reaches only these names, and those of the tool's vendor.
    $ clincus shell --clone --name login  # On a clone: nothing of this directory is mounted.

    Exits: 0 the session ended, was detached, or runs in the background; 1 it could not be started
    """
    options = context.options
    if options.json and not options.background:
        raise cli.UsageError("--json prints the session of --background: give --background, too", "shell")
    if not options.background and not console.has_terminal():
        raise clincus.ClincusError("there is no terminal to attach to: give --background to start without one", 400)
    request = launch_request(context)
    named = (
        context.sessions.registry.get(names.named_session(context, options.container)) if options.container else None
    )
    start = named or choose_start(context, request)
    if isinstance(start, clincus.LaunchRequest):
        return present(context, start_new(context, start), is_direct=not request.tmux)
    if request.name:
        from clincus_features.naming import change_session

        change_session(context.sessions, start.id, {"name": request.name})
    is_direct = not request.tmux and start.status != "running"  # a tool that runs in tmux stays there
    return present(context, go_on(context, start, request), is_direct=is_direct)


# The flags that a request for a session has under the same name.
SAME_FIELDS = {
    *("tool", "persistent", "image", "profile", "slot", "name", "debug", "tmux", "branch", "engine", "target"),
    "accept_changes",
}


def launch_request(context: Context) -> clincus.LaunchRequest:
    """The request that the flags of a start make. Raises UsageError for flags that do not go together.

    Raises ClincusError(404) for an engine that is not in the config.
    """
    from clincus_features.agents.keys import clean_prompt

    options = context.options
    given = {one.setting: getattr(options, one.key) for one in cli.START if one.setting}
    settings = {setting: value for setting, value in given.items() if value is not None}
    settings.update(network_settings(context))
    if options.login:
        settings["defaults.logins"] = clincus.SETTING["defaults.logins"].fit(options.login)
    # `run` has fewer flags than `shell`.
    fields = {name: value for name, value in vars(options).items() if name in SAME_FIELDS}
    prompt = getattr(options, "prompt", "")
    mode = ""
    if getattr(options, "clone", False):
        mode = "clone"
    elif getattr(options, "there", False):
        mode = "mount"
    if fields.get("branch") and mode != "clone":
        raise cli.UsageError("--branch is for a clone: give --clone, too", "shell")
    if fields.get("engine"):
        context.engine_door(fields["engine"])
    if options.writable_git_hooks:
        settings["git.writable_hooks"] = True
    if options.mount:
        settings["mounts.default"] = [mount_argument(text, os.getcwd()) for text in options.mount]
    return clincus.LaunchRequest(
        workspace=chosen_workspace(options),
        settings=settings,
        environment=cli.environment_flags(options.env, context.environ),
        prompt=clean_prompt(prompt) if prompt else "",
        mode=mode,
        **fields,
    )


def chosen_workspace(options: cli.Options) -> str:
    """The absolute path of the workspace: an argument, or --workspace."""
    named = getattr(options, "directory", "")
    by_flag = options.workspace
    if named and by_flag not in ("", named):
        raise cli.UsageError(f"two workspaces are given: '{named}' and --workspace '{by_flag}'")
    if getattr(options, "there", False):
        return named or by_flag or os.getcwd()
    return os.path.realpath(os.path.expanduser(named or by_flag or "."))


def mount_argument(text: str, directory: str) -> dict[str, object]:
    """The mount that `--mount HOST:CONTAINER[:ro]` asks for; a relative HOST is below `directory`.

    UsageError for any other form.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or parts[2:] not in ([], ["ro"], ["rw"]):
        raise cli.UsageError(f"invalid mount {text!r}: write HOST:CONTAINER or HOST:CONTAINER:ro")
    host = parts[0] if parts[0].startswith(("/", "~")) else os.path.normpath(os.path.join(directory, parts[0]))
    try:
        return clincus.check_mount({"host": host, "container": parts[1], "readonly": parts[2:] == ["ro"]})
    except ValueError as error:
        raise cli.UsageError(f"invalid mount {text!r}: {error}") from None


# -- The session that a start means


def choose_start(context: Context, request: clincus.LaunchRequest) -> clincus.Session | clincus.LaunchRequest:
    """The session to come back to, or the request for a new one."""
    wanted = wanted_session(context.options)
    if wanted:
        return choose_resumed(context, request, wanted)
    place = (request.engine, request.workspace)
    here = [one for one in context.sessions.registry.all() if (one.engine, one.workspace) == place]
    persistent = request.persistent
    if persistent is None and not request.slot:
        from clincus_features.trust import project_config

        config = clincus.with_flags(context.config, {}, request.profile)
        persistent = project_config(config, context.environ, request.workspace).get("defaults.persistent")
    return choose_session(here, request, persistent=bool(persistent), background=context.options.background) or request


def wanted_session(options: cli.Options) -> str:
    """The session that --continue or --resume asks for: an id, `auto`, or "" where neither is given."""
    return str(getattr(options, "continue") or options.resume)


def choose_session(
    here: Sequence[clincus.Session], request: clincus.LaunchRequest, *, persistent: bool, background: bool
) -> clincus.Session | None:
    """Which of a workspace's sessions a start comes back to, None for a new one.

    A slot that is named decides. Else `shell` goes back to a running session; with --background, which attaches to
    nothing, it starts another one beside it. Else the lowest persistent session goes on.
    Raises ClincusError(409) where more than one fits.
    """
    if request.slot:
        there = next((one for one in here if one.slot == request.slot), None)
        if there is not None and request.tool and there.tool != request.tool:
            raise clincus.ClincusError(f"slot {there.slot} holds a session of {there.tool}: choose another slot", 409)
        return there
    fitting = [one for one in here if not request.tool or one.tool == request.tool]
    if request.mode:
        fitting = [one for one in fitting if one.mode == request.mode]
    live = [one for one in fitting if one.status == "running" or one.paused]
    if len(live) > 1 and not background:
        names = ", ".join(f"--slot {one.slot} ({one.tool})" for one in live)
        raise clincus.ClincusError(f"several sessions of this workspace are running: choose one with {names}", 409)
    if live and not background:
        return live[0]
    resting = [one for one in fitting if one.persistent and one.status == "stopped" and not one.paused]
    return min(resting, key=lambda one: one.slot, default=None) if persistent else None


def choose_resumed(
    context: Context, request: clincus.LaunchRequest, wanted: str
) -> clincus.Session | clincus.LaunchRequest:
    """The container that a saved session still has, or a request that goes on with its conversation in a new one."""
    if wanted == "auto":
        chosen = newest_saved(context, request)
        console.say(f"Auto-detected session: {chosen.session_id}")
    else:
        chosen = clincus.find_saved(context.config, context.environ, wanted)
    if chosen.workspace and os.path.realpath(chosen.workspace) != request.workspace:
        if getattr(context.options, "directory", "") or context.options.workspace:
            words = f"session '{wanted}' is of the workspace '{chosen.workspace}'"
            raise clincus.ClincusError(f"{words}: leave the directory out, or name that one", 409)
        request = request._replace(workspace=chosen.workspace)
    console.say(f"Resuming session: {chosen.session_id}")
    for one in context.sessions.registry.all():
        if one.session_id == chosen.session_id or one.id == one.session_id == chosen.container_name:
            return one
    if request.persistent is None and chosen.persistent:
        console.say("Inherited persistent mode")
        request = request._replace(persistent=True)
    image = chosen.image
    try:
        clincus.IMAGE(image)
    except clincus.Unfit:
        image = ""  # the Go program wrote a description there
    return request._replace(
        resume=chosen.session_id,
        tool=request.tool or chosen.tool,
        image=request.image or image,
        profile=request.profile or (chosen.profile if chosen.profile in context.config.get("profiles") else ""),
    )


def newest_saved(context: Context, request: clincus.LaunchRequest) -> clincus.SavedSession:
    """The newest saved session of a workspace, and of the tool if the request names one. Raises ClincusError(404)."""
    for one in clincus.list_saved(context.config, context.environ):
        is_tool = one.tool == request.tool if request.tool else one.tool != "shell"
        if is_tool and one.workspace and os.path.realpath(one.workspace) == request.workspace:
            return one
    raise clincus.ClincusError(f"no previous session to resume for '{request.workspace}'; {clincus.LIST_SAVED}", 404)


# -- Starting it


def start_new(context: Context, request: clincus.LaunchRequest) -> clincus.Session:
    """Create a session, and report each step."""

    def begun(session: clincus.Session) -> None:
        if not request.slot:
            console.say(f"Auto-allocated slot {session.slot}")
        console.say(f"Setting up session {session.session_id}...")
        console.say(f"[setup] Creating container {session.id} from image {session.image}")

    context.on_starting = begun
    session = start_accepted(context.sessions.create, request)
    console.say(f"[setup] Started {session.tool} (protection: {session.protection})")
    warn_without_server(context, session)
    return session


def start_accepted(
    start: Callable[[clincus.LaunchRequest], clincus.Session],
    request: clincus.LaunchRequest,
    words: str = "Starting the container",
) -> clincus.Session:
    """Start a session; ask at a terminal if something that is to be sealed was changed. Raises ClincusError."""
    from clincus_features.protection import ChangedError

    try:
        with console.progress(words):
            return start(request)
    except ChangedError as error:
        if not sys.stdin.isatty():
            raise
        console.warn(error.message)
        if not console.confirm("Start with it as it is now?", yes=False):
            raise
    with console.progress(words):
        return start(request._replace(accept_changes=True))


def go_on(context: Context, session: clincus.Session, request: clincus.LaunchRequest) -> clincus.Session:
    """Start the tool of an existing session; a running one is left as it is."""
    if session.status == "running":
        if request.prompt:
            advice = f"clincus prompt {session.id} types a prompt, --background starts a session beside it"
            raise clincus.ClincusError(f'session "{session.id}" is running already: {advice}', 409)
        ignored = [*request.settings, *(["-e"] if request.environment else []), *(["--image"] if request.image else [])]
        if ignored:
            console.warn(f"{session.id} is running already: {', '.join(ignored)} count at its next start")
        console.say(f"[setup] Session {session.id} is running, going back to it")
        return session
    if session.status != "stopped":
        raise clincus.ClincusError(f'session "{session.id}" is {session.status}: wait until that has finished', 409)
    console.say(f"Setting up session {session.session_id}...")
    console.say(f"[setup] {'Un-pausing' if session.paused else 'Starting'} container {session.id}")
    if request.persistent and not session.persistent:
        from clincus_features.naming import change_session

        change_session(context.sessions, session.id, {"persistent": True})
    return start_accepted(lambda asked: context.sessions.resume(session.id, asked), request)


def present(context: Context, session: clincus.Session, *, is_direct: bool) -> int:
    """Report what was started, and attach to it."""
    options = context.options
    mode = "Direct (no tmux)" if is_direct else "Interactive (tmux)"
    if options.background:
        mode = "Background (tmux)"
    console.say(console.paint("Starting session...", "bold", sys.stderr))
    facts = {"Session ID": session.session_id, "Container": session.id, "Workspace": session.workspace, "Mode": mode}
    if wanted_session(options):
        facts["Resume mode"] = wanted_session(options)
    for name, value in facts.items():
        console.say(f"  {name + ':':<13}{value}")
    if options.background:
        console.say(f"Created background tmux session: {clincus.tmux_name(session.id)}")
        console.say(f"  clincus attach {session.id}\n  clincus tmux capture {session.id}")
        return context.show(session.document(), [])
    return attach_terminal(context, session, is_direct=is_direct)


# -- This terminal


def attach_terminal(context: Context, session: clincus.Session, *, is_direct: bool = False) -> int:
    """Attach this terminal to a session; save its conversation and tidy up when the terminal is left."""
    sessions = context.sessions
    term = clincus.terminal_name(context.environ.get("TERM", ""))
    argv = shell_argv(context, session, "direct") if is_direct else sessions.terminal_argv(session, term=term)
    try:
        code = run_in_terminal(argv, is_screen=True) if is_direct else attach_in_terminal(argv)
    finally:
        runs_on = leave_session(context, session, is_direct=is_direct)
    if is_direct:
        return 0 if code in (0, 1, 130) else 1
    if runs_on and code:
        words = f"the terminal of {session.id} broke off (exit code {code}); `clincus attach` goes back"
        raise clincus.ClincusError(words, 500)
    return 0


def leave_session(context: Context, session: clincus.Session, *, is_direct: bool) -> bool:
    """Save the conversation of a session whose terminal was left. True if the session runs on.

    Detached, it does. When the last program in it has ended, or the container was powered off from inside, an
    ephemeral container is removed, once its conversation is saved, and a persistent one rests until the next start.
    """
    sessions = context.sessions
    console.say("Cleaning up session...")
    now, has_tmux = settled_session(sessions, session)
    if now is None:
        console.say("[cleanup] Container removed")
        return False
    console.say(f"[cleanup] Saving session data to {sessions.saved_directory(now)}")
    if now.paused or (has_tmux and not is_direct):
        if now.paused or sessions.save(now.id) is clincus.SaveResult.DONE:
            console.say("[cleanup] Session data saved")
        console.say(f"[cleanup] Container kept running: clincus attach {now.id}, or clincus stop {now.id}")
        return True
    if now.status == "stopped":
        console.say(f"[cleanup] Container was stopped{'' if now.persistent else ', removing...'}")
    with console.progress("Ending the session"):
        # A clone with work that was not fetched is a person's to decide on.
        sessions.end(now.id, delete=not now.persistent, keeps=now.mode == "mount")
    console.say("[cleanup] Session data saved")
    console.say(f"[cleanup] Container {'kept, stopped' if now.persistent else 'removed'}")
    console.say(f"  clincus shell --resume={now.session_id} goes on with the conversation")
    warn_of_appeared(context, now)
    return False


def settled_session(sessions: clincus.Sessions, session: clincus.Session) -> tuple[clincus.Session | None, bool]:
    """The session in its present state (None if it is gone), and True while its tmux has a running program.

    Incus calls a container running that is about to stop, and whose tmux cannot be asked: this waits for its end.
    """
    import time

    deadline = time.monotonic() + clincus.STOP_TIMEOUT
    while True:
        found = sessions.look(session.id)
        if found is None or found.paused or found.status == "stopped":
            return found, False
        try:
            sessions.output(found, "capture", clincus.tmux_name(found.id), refusals={3: LookupError()})
        except LookupError:
            return found, False
        except clincus.IncusError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # Incus has no event that this process would hear
        else:
            return found, True


def shell_argv(context: Context, session: clincus.Session, program: str = "") -> list[str]:
    """The command that gives this terminal a login shell in a session, or with "direct" the tool, until that ends."""
    guest = context.sessions.guest(session)
    term = clincus.terminal_name(context.environ.get("TERM", ""))
    return context.sessions.guest_argv(session, clincus.guest_program("shell"), guest.mount, program, term=term)


RESET_TERMINAL = (
    "\033[?1000;1002;1003;1004;1006;2004l"  # mouse, focus and paste reports
    "\033[?1049l\033[?25h\033[0m\r\n"  # the main screen, a cursor, plain colours
)


def attach_in_terminal(argv: Sequence[str]) -> int:
    """Attach our terminal by a command that may run twice, and return its exit code; again while Incus loses it."""
    import tempfile

    for left in reversed(range(clincus.BEGIN_TRIES)):
        # With a terminal all that the container writes comes on stdout: on stderr Incus's client speaks alone.
        with tempfile.TemporaryFile() as stderr:
            code = run_in_terminal(argv, is_screen=True, stderr=stderr)
            stderr.seek(0)
            said = stderr.read(1 << 16)
        if not (left and code in (1, 255) and clincus.has_not_begun(said)):
            break
    for line in said.decode("utf-8", "replace").splitlines():
        console.say(clincus.printable(line))
    return code


def run_in_terminal(
    argv: Sequence[str], limit: float | None = None, *, is_screen: bool = False, stderr: IO[bytes] | None = None
) -> int:
    """Run a program at our terminal, or with a `stderr` of its own, and return its exit code.

    The program ends with this call, however the call ends, and after `limit` seconds (subprocess.TimeoutExpired).
    Afterwards the terminal works as before: a killed program cannot restore it, nor can a failed one that draws on the
    whole screen (`is_screen`).
    """
    import subprocess
    import termios

    attributes = termios.tcgetattr(0) if sys.stdin.isatty() else None
    child = subprocess.Popen(argv, stderr=stderr)
    try:
        child.wait(limit)
    except BaseException:
        from clincus_cli import relay

        relay.end_with_children(child)
        raise
    finally:
        if attributes is not None:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, attributes)
            is_cut_off = child.returncode not in {0, *(() if is_screen else (*range(128), 128 + signal.SIGINT))}
            if is_cut_off and sys.stdout.isatty():
                sys.stdout.write(RESET_TERMINAL)  # the program could not do it
                sys.stdout.flush()
    return clincus.exit_code(child)


# -- attach


@cli.Command(
    "attach [NAME]",
    cli.Flag("--bash", "a new shell instead of the tool's terminal"),
    cli.Flag("--slot N", "the session in this slot of the workspace (default: none)", check=cli.SLOT.check, default=0),
    cli.WORKSPACE,
    writes=True,
)
def run_attach(context: Context) -> int:
    """Attach this terminal to a session

    Without NAME or --slot it takes $CLINCUS_CONTAINER, else the only running session of this folder, else the only one
    that runs; if there are several, it lists them.

    $ clincus attach clincus-ec0578-1  # Go to that session's tool.
    $ clincus attach --slot 2 --bash  # A shell beside the tool in slot 2 of this directory.
    """
    options = context.options
    session = session_to_attach(context)
    if session is None:
        return 0
    if session.status != "running":
        state = "paused" if session.paused else session.status
        advice = f"clincus resume {session.id}" if session.status == "stopped" else "try again in a moment"
        raise clincus.ClincusError(f'session "{session.id}" is {state}: {advice}', 409)
    if not console.has_terminal():
        raise clincus.ClincusError("there is no terminal here, and attach needs one: run it in a terminal", 400)
    slot = f" (slot {session.slot})" if options.slot else ""
    print(f"Attaching to {session.id}{slot}...", flush=True)
    return run_in_terminal(shell_argv(context, session)) if options.bash else attach_terminal(context, session)


def session_to_attach(context: Context) -> clincus.Session | None:
    """The session to attach to: by name or slot, else the only running one, of this folder or of all.

    None if several run, after a list.
    """
    options = context.options
    registry = context.sessions.registry
    is_here = bool(options.slot or options.workspace)
    if options.name:
        return registry.get(options.name)
    if not is_here and context.environ.get("CLINCUS_CONTAINER"):
        return registry.get(names.named_session(context, ""))
    workspace = chosen_workspace(options)
    fitting = [one for one in registry.all() if not is_here or one.workspace == workspace]
    if options.slot:
        found = next((one for one in fitting if one.slot == options.slot), None)
        if found is None:
            words = f"there is no session in slot {options.slot} of '{workspace}'"
            raise clincus.ClincusError(f"{words}; `clincus list` shows all sessions", 404)
        return found
    running = [session for session in fitting if session.status == "running"]
    here = names.sessions_of_folder(running, workspace)
    if len(here) == 1:
        return here[0]
    if len(running) == 1:
        return running[0]
    print("Active sessions:" if running else "No active sessions")
    if running:
        rows = [(f"{number}.", one.id, one.tool, one.workspace) for number, one in enumerate(running, 1)]
        print(console.table(None, rows, "  "))
        print("Choose one: clincus attach NAME")
    return None
