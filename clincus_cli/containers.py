"""`container`: works on any instance of the Incus project, step by step; and functions that other commands share."""

from __future__ import annotations

import functools
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import clincus
from clincus_cli import TYPE_CHECKING, console, names, run, shell
from clincus_cli import commands as cli
from clincus_cli.context import Context, is_listed
from clincus_cli.losses import loss_question

if TYPE_CHECKING:
    from typing import Any


def is_container_name(text: str) -> bool:
    """True if a text can be a container's name, or ENGINE:NAME."""
    return re.fullmatch(rf"({clincus.ENGINE_NAME}:)?[A-Za-z][A-Za-z0-9-]{{0,62}}", text) is not None


def container_name(text: str) -> str:
    """A container's name, or ENGINE:NAME. Raises UsageError for a name that Incus would refuse, or read as a flag."""
    if not is_container_name(text):
        rule = "it has up to 63 letters, digits and hyphens, and begins with a letter"
        raise cli.UsageError(f"'{text}' is no container's name: {rule}")
    return text


@contextmanager
def speaking_of(name: str) -> Iterator[None]:
    """Put the container before Incus's words, unless they say that Incus cannot be reached."""
    try:
        yield
    except clincus.IncusError as error:
        if error.status == 503:
            raise
        raise clincus.IncusError(f'container "{name}": {error.message}', error.status, error.kind) from error


def find_instance(incus: clincus.Incus, name: str) -> dict[str, Any]:
    """An instance of the project as Incus describes it, with the name that it has here as `id`.

    Raises UsageError for an impossible name, ClincusError(404).
    """
    container_name(name)
    try:
        instance = incus.query(incus.path(name))
    except clincus.IncusError as error:
        if error.status == 404:
            words = f'container "{name}" not found; `clincus container list` shows those that are there'
            raise clincus.ClincusError(words, 404) from error
        raise
    return {**instance, "id": name, "status": clincus.incus_status(instance)}


def running_instance(incus: clincus.Incus, name: str) -> dict[str, Any]:
    """A running instance. Raises ClincusError: 404, 409 for any other state, with advice."""
    instance = find_instance(incus, name)
    if instance["status"] != "Running":
        state = "paused" if instance["status"] == "Frozen" else "not running"
        raise clincus.ClincusError(f'container "{name}" is {state}: `clincus container start {name}` lets it run', 409)
    return instance


def status_of(incus: clincus.Incus, name: str) -> str:
    """The status of the instance of exactly this name, "" for an unknown one. Raises IncusError if Incus fails."""
    try:
        return str(find_instance(incus, name)["status"])
    except cli.UsageError:
        return ""
    except clincus.ClincusError as error:
        if error.status == 404:
            return ""
        raise


def instance_called(context: Context, word: str) -> str:
    """The name of an instance: of the one with this name, else of the session that the word means (see `names`).

    `.` is the session of this folder.

    Raises UsageError for an impossible name, ClincusError(409) if the word fits several sessions.
    """
    if word == names.HERE:
        return names.named_session(context, word)
    if names.is_whole_id(word, context.environ):
        return container_name(word)
    is_there = is_container_name(word) and status_of(context.door(word), word)
    found = [] if is_there else names.sessions_called(context.sessions.registry.all(), word)
    return names.only_one(found, "", f"'{word}' could be several sessions") if found else container_name(word)


def own_session(context: Context, instance: Mapping[str, Any]) -> clincus.Session | None:
    """The session of an instance, None for an instance that is not a session."""
    prefix = clincus.container_prefix(context.environ)
    engine = clincus.engine_of(instance["id"])
    session = clincus.session_from_instance(prefix, instance, engine)
    return session if session is not None and is_listed(session) else None


def code_mount(context: Context, instance: Mapping[str, Any]) -> str:
    """The path of the workspace in an instance."""
    session = own_session(context, instance)
    if session is not None:
        return clincus.Guest.of(session, context.config).mount
    device = (instance.get("expanded_devices") or {}).get("workspace") or {}
    return device.get("path") or "/workspace"


# -- Starting and ending one


def change_state(incus: clincus.Incus, name: str, action: str, *, force: bool = False, timeout: int = 60) -> None:
    """Start or stop an instance and wait for it. Raises IncusError."""
    body = {"action": action, "force": force, "timeout": timeout}
    with speaking_of(name):
        incus.query(incus.path(name, "/state"), "PUT", body, wait=True, timeout=timeout + 30)


def stop_instance(context: Context, instance: Mapping[str, Any], *, force: bool = False, timeout: int = 60) -> None:
    """Stop an instance, and save its conversation first if it is a session that runs. Raises ClincusError."""
    name = instance["id"]
    status = instance["status"]
    if status != "Stopped" and own_session(context, instance):
        context.sessions.end(name, timeout=0 if force else timeout)
    else:
        change_state(context.door(name), name, "stop", force=force or status == "Frozen", timeout=timeout)


def check_outlives_stop(instance: Mapping[str, Any], purpose: str) -> None:
    """Raise ClincusError(409) for an instance that is up, and that Incus deletes when it stops."""
    if instance["status"] != "Stopped" and instance.get("ephemeral"):
        reason = f"Incus deletes it when it stops, so it cannot be {purpose}; copy it with `incus copy` first"
        raise clincus.ClincusError(f'container "{instance["id"]}" is ephemeral: {reason}', 409)


@contextmanager
def stopped(context: Context, instance: Mapping[str, Any], *, force: bool = False) -> Iterator[None]:
    """Keep an instance stopped for the block; if it was up it is stopped as by `stop_instance`, and starts again."""
    if instance["status"] == "Stopped":
        yield
        return
    name = instance["id"]
    incus = context.door(instance["id"])
    stop_instance(context, instance, force=force)
    try:
        yield
    finally:
        is_stopped = find_instance(incus, name)["status"] == "Stopped"  # a stateful snapshot starts it itself
        if is_stopped and own_session(context, instance):
            context.sessions.resume(name)
        elif is_stopped:
            change_state(incus, name, "start")


def delete_instance(incus: clincus.Incus, name: str) -> None:
    """Delete an instance in any state; an ephemeral one is gone once it stops. Raises IncusError."""
    try:
        with speaking_of(name):
            incus.run("delete", "--force", incus.place(name), timeout=120)
    except clincus.IncusError as error:
        if error.status != 404:
            raise


NESTING = ("security.nesting", "security.syscalls.intercept.mknod", "security.syscalls.intercept.setxattr")


@cli.Command(
    "container launch IMAGE NAME",
    cli.Flag("--ephemeral", "let Incus delete it when it stops"),
    cli.RESULT_JSON,
    writes=True,
)
def run_container_launch(context: Context) -> int:
    """Create a container from an image and start it

    Containers can run in it (nesting). If the start fails, the command removes it.

    $ clincus container launch clincus test-box  # Start a bare container of the standard image.
    """
    options = context.options
    name = container_name(context.options.name)
    if options.image.startswith("-") or not options.image:
        raise cli.UsageError(f"'{options.image}' is no image's name")
    incus = context.door(name)
    if status_of(incus, name):
        raise clincus.ClincusError(f'container "{name}" already exists: choose another name, or delete it', 409)
    config = dict.fromkeys(NESTING, "true")
    if clincus.session_slot(clincus.container_prefix(context.environ), clincus.instance_name(name)) is not None:
        config[clincus.LABEL + "managed"] = "true"
    try:
        with console.progress(f"Launching {name}"), speaking_of(name):
            incus.launch(name, options.image, {"config": config}, ephemeral=options.ephemeral)
    except BaseException as error:
        if not (isinstance(error, clincus.IncusError) and error.status in (409, 503)):
            with suppress(clincus.IncusError):  # it never came to be
                delete_instance(incus, name)
        raise
    document = {"container": name, "image": options.image, "result": "launched"}
    return context.report(f"Container {name} launched from {options.image}", document)


@cli.Command("container start NAME", cli.RESULT_JSON, writes=True)
def run_container_start(context: Context) -> int:
    """Start a container, or unfreeze a paused one

    Only the container: `clincus resume` starts a session's tool as well.

    $ clincus container start box  # Start it, without a tool in it.
    """
    name = context.options.name
    incus = context.door(name)
    change_state(incus, name, "unfreeze" if find_instance(incus, name)["status"] == "Frozen" else "start")
    return context.report(f"Container {name} started", {"container": name, "result": "started"})


@cli.Command(
    "container stop NAME",
    cli.Flag("--force", "stop at once, as after a power cut"),
    cli.Flag("--timeout SECONDS", "how long it may take", check=cli.number_from(1, 86400), default=60),
    cli.RESULT_JSON,
    writes=True,
)
def run_container_stop(context: Context) -> int:
    """Stop a container

    Saves a session's conversation first.

    $ clincus container stop box --timeout 10  # Give it ten seconds. If it needs longer, it keeps running.
    """
    options = context.options
    name = context.options.name
    instance = find_instance(context.door(name), name)
    if instance["status"] == "Frozen" and not options.force:
        raise clincus.ClincusError(f'container "{name}" is paused and cannot stop cleanly: use --force', 409)
    with console.progress(f"Stopping {name}"):
        stop_instance(context, instance, force=options.force, timeout=options.timeout)
    words = f"Container {name} stopped" + (" and gone: it was an ephemeral one" if instance["ephemeral"] else "")
    return context.report(words, {"container": name, "result": "stopped", "gone": bool(instance["ephemeral"])})


@cli.Command(
    "container delete NAME",
    cli.YES,
    cli.Flag("-f, --force", "do not ask; a running one too"),
    cli.RESULT_JSON,
    writes=True,
)
def run_container_delete(context: Context) -> int:
    """Delete a container

    Saves a session's conversation first. At a terminal it asks, and lists other work in the container that is not on
    this machine. If you agree, or with --force, Clincus copies that work here first. Otherwise a session with such work
    stays.

    $ clincus container delete --force box  # Delete it, even while it runs.
    """
    options = context.options
    name = context.options.name
    instance = find_instance(context.door(name), name)
    if instance["status"] != "Stopped" and not options.force:
        raise clincus.ClincusError(f'container "{name}" is running or paused: stop it first, or use --force', 409)
    session = own_session(context, instance)
    is_asked = sys.stdin.isatty() and not cli.agreed(options)
    note = loss_question(context.sessions, session) if is_asked else ""
    question = f'Delete container "{name}" with all that is in it?{note}'
    if not console.confirm_named(question, yes=cli.agreed(options)):
        return 1
    with console.progress(f"Deleting {name}"):
        if session is not None:
            context.sessions.end(name, delete=True, keeps=is_asked or options.yes, even_unsaved=options.force)
        else:
            delete_instance(context.door(name), name)
    return context.report(f"Container {name} deleted", {"container": name, "result": "deleted"})


# -- Looking at one


def answer(context: Context, key: str, ask: Callable[[], bool]) -> int:
    """The exit code of a question: 0 yes, 1 no, 2 when it could not be asked. JSON has the answer under `key`."""
    try:
        is_so = ask()
    except clincus.ClincusError as error:
        console.complain(error.message)
        return 2
    context.show({key: is_so}, [])
    return 0 if is_so else 1


@cli.Command("container exists NAME", cli.RESULT_JSON, shows=True)
def run_container_exists(context: Context) -> int:
    """Check if a container exists, and answer by the exit code

    $ clincus container exists box || clincus container launch clincus box  # Make it if need be.

    Exits: 0 yes; 1 no; 2 Incus could not be asked
    """
    name = context.options.name
    return answer(context, "exists", lambda: status_of(context.door(name), name) != "")


@cli.Command("container running NAME", cli.RESULT_JSON, shows=True)
def run_container_running(context: Context) -> int:
    """Check if a container runs, and answer by the exit code

    A paused container does not run.

    $ clincus container running box && clincus container stop box  # Stop it if need be.

    Exits: 0 yes; 1 no; 2 Incus could not be asked
    """
    name = context.options.name
    return answer(context, "running", lambda: status_of(context.door(name), name) == "Running")


@cli.Command("container list", cli.format_flag("text", "json"), shows=True)
def run_container_list(context: Context) -> int:
    """List every instance of the Incus project

    Prints the table of `incus list`. `clincus list` shows sessions only.

    $ clincus container list --format json  # The same as a document for programs.
    """
    form = "json" if context.prints_json else "table"
    print(context.incus.run("list", "--format", form).decode("utf-8", "replace").rstrip("\n"))
    return 0


# -- Working in one


@cli.Command(
    "container mount NAME DEVICE SOURCE PATH",
    cli.Flag("--shift", "show the host's owners by the same numbers (default; off: --shift=false)", default=True),
    cli.Flag("--readonly", "do not let the container write"),
    cli.RESULT_JSON,
    writes=True,
)
def run_container_mount(context: Context) -> int:
    """Mount a directory or file of the host in a container

    If the mount is writable and shifted, root in the container writes there as root of the host. Mount only what it may
    change.

    $ clincus container mount box data ~/data /data --readonly  # Show ~/data to it as /data.
    """
    options = context.options
    name = context.options.name
    if clincus.engine_of(name):
        words = f"`incus config device add {context.door(name).place(name)}` mounts one of that machine"
        raise clincus.ClincusError(f'"{name}" is on an engine, which has no folder of this machine: {words}', 400)
    source = os.path.abspath(clincus.expand(options.source, context.environ))
    if not os.path.exists(source):
        raise clincus.ClincusError(f'"{source}" does not exist: name a directory or file that does', 400)
    if not options.path.startswith("/"):
        raise cli.UsageError(f"'{options.path}' is no absolute path: write where it is mounted in the container")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", options.device):
        raise cli.UsageError(f"'{options.device}' is no device's name: use letters, digits, dots, hyphens")
    if options.device in (find_instance(context.incus, name).get("expanded_devices") or {}):
        raise clincus.ClincusError(f'container "{name}" has a device "{options.device}" already: choose another', 409)
    device = {"type": "disk", "source": source, "path": options.path}
    device.update({key: "true" for key in ("shift", "readonly") if getattr(options, key)})
    with speaking_of(name):
        body = {"devices": {options.device: device}}
        context.incus.query(context.incus.path(name), "PATCH", body, wait=True)
    document = {"container": name, "device": options.device, **device, "result": "mounted"}
    return context.report(f"Disk mounted: {source} -> {name}:{options.path}", document)


@cli.Command(
    "container exec NAME COMMAND...",
    cli.Flag("--user UID", "run as this user (default: 0, root)", check=cli.number_from(0, 2**31 - 1)),
    cli.Flag("--group GID", "run as this group (default: as the user)", check=cli.number_from(0, 2**31 - 1)),
    cli.Flag("-e, --env KEY=VALUE", "variable for it; KEY alone copies yours", repeats=True),
    cli.Flag("--cwd PATH", "directory to run in (default: the workspace)", default=""),
    cli.Flag("-t, --tty", "give it a terminal"),
    cli.Flag("--capture", "hold back its output, and print it as --format says"),
    cli.format_flag("json", "raw", meaning="with --capture: json (default) or raw", default=None),
    passes_on=2,
    writes=True,
)
def run_container_exec(context: Context) -> int:
    """Run a command in a container

    The command uses your stdin, stdout and stderr, and Clincus returns its exit code. With --capture, Clincus prints
    stdout, stderr and exit code as JSON.

    The command line is visible in Incus's events. Pass secrets on stdin, or with -e KEY, which copies your variable and
    puts it into no argument list.

    $ clincus container exec box --user 1000 -- git status  # Run git as the code user in the workspace.
    $ clincus container exec box -t bash  # Open a shell.
    $ tar c src | clincus container exec box -- tar x -C /tmp  # Send data through.

    Exits: N the command's own; 0 with --capture and JSON: the command ran; 1 it could not run
    """
    options = context.options
    if options.format and not options.capture:
        raise cli.UsageError("--format needs --capture; put -- in front of a command with flags of its own")
    if options.tty and options.capture:
        raise cli.UsageError("--tty and --capture do not go together: a terminal mixes the two captured streams")
    if options.cwd and not options.cwd.startswith("/"):
        raise cli.UsageError(f"invalid cwd '{options.cwd}': write an absolute path")
    options.name = instance_called(context, options.name)
    incus = context.door(options.name)
    instance = running_instance(incus, options.name)
    user = options.user or 0
    how: dict[str, Any] = {
        "user": user,
        "group": options.group,
        "environment": exec_environment(context, user),
        "cwd": exec_directory(context, incus, instance),
    }
    given = cli.environment_flags(options.env, context.environ)
    with handed_variables(incus, options.name, given, user) as reader:
        return run_exec(context, incus, [*reader, *options.command], how)


def run_exec(context: Context, incus: clincus.Incus, command: Sequence[str], how: Mapping[str, Any]) -> int:
    """Run the command of `container exec` on our streams, or keep its output; returns the exit code."""
    options = context.options
    if options.tty:
        return shell.run_in_terminal(incus.exec_argv(options.name, command, terminal=True, **how))
    from clincus_cli import relay

    relayed = functools.partial(relay.run_relayed, incus, options.name, command, **how)
    if not options.capture:
        return relayed(passes=relay.END_SIGNALS)
    if options.format == "raw":
        return relayed(sinks=(relay.OUR_STREAMS[0], lambda piece: None), stdin=None, passes=relay.END_SIGNALS)
    held = relay.Held(), relay.Held()
    run.print_output(relayed(sinks=held, stdin=None), *held)
    return 0


def exec_environment(context: Context, user: int) -> dict[str, str]:
    """The variables that every command gets: the code user's, and the terminal's type."""
    config = context.config
    environment = {}
    if user == config.get("incus.code_uid"):
        environment = {"HOME": clincus.Guest.configured(config, "").home, "USER": config.get("incus.code_user")}
    if context.options.tty:
        environment["TERM"] = clincus.terminal_name(context.environ.get("TERM", ""))
    return environment


READ_VARIABLES = 'set -a; . "$1"; set +a; : >"$1"; shift; exec "$@"'
WRITE_VARIABLES = 'umask 077; cat >"$1" && chown "$2" "$1"'


@contextmanager
def handed_variables(incus: clincus.Incus, name: str, given: Mapping[str, str], user: int) -> Iterator[tuple[str, ...]]:
    """Put variables into a file of an instance, which only their user reads; the words before a command that reads it.

    They travel on stdin: every user of this machine can read the arguments of `incus`, and Incus logs them.
    """
    if not given:
        yield ()
        return
    path = f"/run/clincus-exec-{secrets.token_hex(8)}"
    words = ["sh", "-c", WRITE_VARIABLES, "clincus", path, str(user)]
    done = incus.exec(name, words, stdin=clincus.shell_assignments(given).encode("utf-8", "surrogateescape"))
    if done.code != 0:
        raise incus.guest_failure(name, done)
    try:
        yield "sh", "-c", READ_VARIABLES, "clincus", path
    finally:
        with suppress(clincus.ClincusError):
            incus.exec(name, ["rm", "-f", path])


def exec_directory(context: Context, incus: clincus.Incus, instance: Mapping[str, Any]) -> str:
    """The directory in which a command runs. Raises ClincusError if --cwd is no directory: Incus would run it in /."""
    wanted = context.options.cwd
    from clincus_cli import transfer

    if wanted and not transfer.container_directory(incus, context.options.name, wanted):
        raise clincus.ClincusError(
            f'"{wanted}" is no directory in container "{context.options.name}": choose one with --cwd', 400
        )
    return wanted or code_mount(context, instance)
