"""`list`, `info`, `resume`, and what is done to several sessions: `stop`, `shutdown`, `kill`, `persist`, `clean`."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any


@cli.Command("list", cli.Flag("--all", "saved conversations as well"), cli.format_flag("text", "json"), shows=True)
def run_list(context: Context) -> int:
    """List the sessions

    $ clincus list --all --format json  # Everything, for a program.
    """
    prefix = clincus.container_prefix(context.environ)
    instances = context.incus.query("/1.0/instances?recursion=2")
    active = []
    for instance in sorted(instances, key=lambda one: str(one["created_at"])):
        session = clincus.session_from_instance(prefix, instance)
        if session is not None and clincus.is_listed(session):
            active.append(active_entry(session, instance))
    kept = clincus.list_saved(context.config, context.environ) if context.options.all else []
    # The names of the Go program, and ours beside them.
    ours = (
        {"id": one.session_id, "saved_at": one.saved_at, "tool": one.tool, "workspace": one.workspace} for one in kept
    )
    saved = [{"ID": one["id"], "SavedAt": one["saved_at"], "Workspace": one["workspace"], **one} for one in ours]
    if context.options.format == "json":
        console.print_json({"active_containers": active, **({"saved_sessions": saved} if saved else {})})
    else:
        print("\n".join(list_lines(active, saved if context.options.all else None)))
    return 0


def active_entry(session: clincus.Session, instance: Mapping[str, Any]) -> dict[str, Any]:
    """A container in `list --format json`."""
    created = clincus.parse_time(session.created_at) or clincus.parse_time(instance["created_at"])
    entry = {
        "created_at": clincus.format_time(created)[:19].replace("T", " ") if created else "",
        "deadline": session.deadline,
        "image": (instance.get("config") or {}).get("image.description", session.image),
        "ipv4": ipv4_address(instance),
        "name": session.id,
        "persistent": session.persistent,
        "protection": session.protection,
        "session_id": session.session_id,
        "slot": session.slot,
        "status": clincus.incus_status(instance),
        "tool": session.tool,
        "workspace": session.workspace,
    }
    return {key: value for key, value in entry.items() if key not in ("deadline", "tool", "workspace") or value}


def ipv4_address(instance: Mapping[str, Any]) -> str:
    """The first IPv4 address of eth0, "" if there is none."""
    network = (instance.get("state") or {}).get("network") or {}
    addresses = (network.get("eth0") or {}).get("addresses") or []
    return next((str(one["address"]) for one in addresses if one.get("family") == "inet"), "")


def list_lines(active: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]] | None) -> Iterator[str]:
    """The text of `clincus list`."""
    colors = {"Running": "green", "Error": "red", "Frozen": "yellow"}
    facts = {"IPv4": "ipv4", "Created": "created_at", "Image": "image", "Tool": "tool", "Slot": "slot"}
    yield from (console.paint("Active Containers:", "bold"), "-" * 18)
    for entry in active:
        yield f"  {console.paint(entry['name'], 'bold')} ({'persistent' if entry['persistent'] else 'ephemeral'})"
        status = entry["status"]
        yield f"    Status:    {console.paint(status, colors[status]) if status in colors else status}"
        yield from fact_lines(entry, {**facts, "Workspace": "workspace", "Ends": "deadline"})
    if not active:
        yield "  (none)"
    if saved is None:
        return
    yield from ("", console.paint("Saved Sessions:", "bold"), "-" * 15)
    for entry in saved:
        yield f"  {console.paint(entry['ID'], 'bold')}"
        yield from fact_lines(entry, {"Saved": "SavedAt", "Tool": "tool", "Workspace": "Workspace"})
    if not saved:
        yield "  (none)"


def fact_lines(entry: Mapping[str, Any], facts: Mapping[str, str]) -> Iterator[str]:
    """What is known of an entry, by label and key."""
    for name, key in facts.items():
        if entry.get(key):
            yield f"    {name + ':':<10} {clincus.printable(str(entry[key]))}"


@cli.Command("info [SESSION_ID]", shows=True)
def run_info(context: Context) -> int:
    """Show a saved conversation

    SESSION_ID is the id of a session, or its container's name; without it, the newest is shown.

    $ clincus info clincus-ec0578-1  # What is saved of that container's session.
    """
    wanted = context.options.session_id
    found = clincus.list_saved(context.config, context.environ)
    if wanted:
        found = [one for one in found if wanted in (one.session_id, one.container_name)]
    if not found:
        raise clincus.ClincusError(f"session '{wanted}' not found" if wanted else "no saved session yet", 404)
    saved = found[0]
    files = clincus.saved_listing(saved.directory)
    size = sum(file.size for file in files.values())
    print(console.paint("Session Information", "bold"))
    print("-" * 19)
    rows = {
        "Session ID": saved.session_id,
        "Container": saved.container_name,
        "Workspace": saved.workspace,
        "Tool": saved.tool,
        "Mode": "persistent" if saved.persistent else "ephemeral",
        "Saved At": saved.saved_at,
        "Session Data": "✓ Present" if files else "✗ Missing",
        "Data Size": console.size_text(size),
        "Session Path": saved.directory,
        "Resume": f"clincus shell --resume={saved.session_id}",
    }
    print(console.facts(rows.items()))
    return 0


@cli.Command("resume [NAME]")
def run_resume(context: Context) -> int:
    """Let a paused or stopped session go on

    A paused container runs on, a stopped one is started, and its tool with the conversation that it had. Without
    NAME: all paused ones.

    $ clincus resume clincus-ec0578-1  # Go on after `clincus stop`; `clincus attach` shows it.
    """
    name, registry = context.options.name, context.sessions.registry
    if not name:
        paused = [session for session in registry.all() if session.paused]
        if not paused:
            console.say("No frozen clincus containers found")
            return 0
        done = attempt_each([one.id for one in paused], lambda id: resume_one(context, id))
        console.say(f"Resumed {len(done)} container(s)")
        return 0 if len(done) == len(paused) else 1
    if name not in [session.id for session in registry.all()] and cli.is_session_id([name]):
        raise clincus.ClincusError(f"'{name}' is a conversation, not a container: clincus shell --resume={name}", 409)
    resume_one(context, name)
    return 0


def resume_one(context: Context, name: str) -> None:
    """Resume one session."""
    session = context.sessions.registry.get(name)
    if session.status == "running":
        console.say(f"{name} is running already")
        return
    with console.progress(f"Resuming {name}"):
        context.sessions.resume(name)
    console.say(f"Resumed container: {name}")


# -- One thing done to several sessions


def attempt_each(names: Iterable[str], work: Callable[[str], object]) -> list[str]:
    """Do something for each name; a failure is told and stops only its own. Those for which it was done."""
    done = []
    for name in names:
        try:
            work(name)
        except clincus.ClincusError as error:
            console.warn(f"{name}: {error.message}")
        else:
            done.append(name)
    return done


# The words of a command that does one thing to several containers: kill, Killing, Killed; a note behind the name; what
# to do about those that it was not done to.
Verb = namedtuple("Verb", "plain doing done note hint", defaults=("", ""))


def for_each_session(
    context: Context,
    verb: Verb,
    work: Callable[[str], object],
    among: Callable[[clincus.Session], bool] = lambda session: True,
) -> int:
    """Do something for the sessions that are named, or for all; several, and all, are asked for first."""
    options = context.options
    known = [session.id for session in context.sessions.registry.all() if not options.all or among(session)]
    if options.all and not known:
        print(f"No containers to {verb.plain}")
        return 0
    by_name = dict.fromkeys(options.name or [context.environ.get("CLINCUS_CONTAINER", "")])
    names = known if options.all else list(by_name)
    if not any(names):
        raise clincus.ClincusError("no container names provided; `clincus list` shows them, --all means every one", 400)
    found = [name for name in names if name in known]
    for name in names:
        if name not in known:
            console.warn(f"Container {name} does not exist as a session; `clincus list` shows those that do")
    is_dry = getattr(options, "dry_run", False)
    if found and (options.all or len(names) > 1 or is_dry):
        print(f"Found {len(found)} container(s):")
        print("\n".join(f"  - {name}" for name in found))
        if is_dry:
            print("[Dry run] No changes made.")
            return 0
        if not console.confirm(f"{verb.plain.capitalize()} {len(found)} container(s)?", force=options.force):
            return 0

    def work_on(name: str) -> None:
        print(f"{verb.doing} container {name}{verb.note}...", flush=True)
        with console.progress(f"{verb.doing} {name}"):
            work(name)
        print(f"✓ {verb.done} {name}", flush=True)

    done = attempt_each(found, work_on)
    if done:
        print(f"{verb.done} {len(done)} container(s)")
    if len(done) < len(names):
        few = f"only {len(done)} of {len(names)} containers were" if done else "no containers were"
        hint = f": {verb.hint}" if verb.hint and len(done) < len(found) else ""
        raise clincus.ClincusError(f"{few} {verb.done.lower().replace('shutd', 'shut d')}{hint}", 500)
    return 0


def timeout_flag(default: int) -> cli.Flag:
    """How long a session has for a clean stop."""
    return cli.Flag(
        "--timeout SECONDS", "for a clean stop, then it is forced", check=cli.number_from(0, 3600), default=default
    )


ALL = cli.Flag("--all", "every session")
DRY_RUN = cli.Flag("--dry-run", "only show which ones")


@cli.Command("stop [NAME...]", timeout_flag(30), cli.Flag("--all", "every running session"), cli.FORCE)
def run_stop(context: Context) -> int:
    """Stop sessions and keep their containers

    The conversation is saved first. `clincus resume` starts the container again. Several names, and --all, are asked
    for first; --force agrees.

    $ clincus stop clincus-ec0578-1  # Stop it for the night.
    """
    verb, sessions = Verb("stop", "Stopping", "Stopped"), context.sessions

    def is_up(session: clincus.Session) -> bool:
        return session.status == "running" or session.paused

    return for_each_session(context, verb, lambda name: sessions.end(name, timeout=context.options.timeout), is_up)


@cli.Command(
    "shutdown [NAME...]", timeout_flag(60), cli.Flag("--delete", "delete persistent ones, too"), ALL, DRY_RUN, cli.FORCE
)
def run_shutdown(context: Context) -> int:
    """Stop sessions cleanly and delete those that are not persistent

    The conversation is saved first. Several names, and --all, are asked for first; --force agrees.

    $ clincus shutdown --all --force  # End every session cleanly, without a question.
    """
    timeout, sessions = context.options.timeout, context.sessions

    def shut_down(name: str) -> None:
        print("Attempting graceful shutdown...", flush=True)
        session = sessions.end(name, timeout=timeout)
        if session is not None and (not session.persistent or context.options.delete):
            sessions.end(name, delete=True)
        elif session is not None:
            print(f"{name} is persistent: it is stopped and kept (--delete removes it)")

    return for_each_session(
        context, Verb("shutdown", "Shutting down", "Shutdown", f" (timeout: {timeout}s)"), shut_down
    )


@cli.Command(
    "kill [NAME...]",
    ALL,
    DRY_RUN,
    cli.Flag("--force", "do not ask, and delete also a conversation that its container does not hand over"),
)
def run_kill(context: Context) -> int:
    """Delete sessions at once

    The conversation is saved first; where it cannot be, the container stays. Several names, and --all, are asked for
    first; --force agrees.

    $ clincus kill --all --force  # Delete every session without a question.
    """
    force, sessions = context.options.force, context.sessions
    hint = "" if force else "--force deletes also what a container does not hand over"
    verb = Verb("kill", "Killing", "Killed", hint=hint)
    return for_each_session(context, verb, lambda name: sessions.end(name, delete=True, even_unsaved=force))


@cli.Command("persist [NAME...]", ALL, cli.FORCE)
def run_persist(context: Context) -> int:
    """Keep the containers of sessions when these end

    Several names, and --all, are asked for first; --force agrees.

    $ clincus persist clincus-ec0578-1  # Keep what is installed in that container.
    """
    verb = Verb("persist", "Persisting", "Persisted")
    return for_each_session(context, verb, context.sessions.set_persistent, lambda session: not session.persistent)


# -- clean


# Things of one kind that `clean` may remove: what is looked for, what to say if there are none, names and what is said
# of each, a function that removes one.
CleanupGroup = namedtuple("CleanupGroup", "looking none items remove")


@cli.Command(
    "clean",
    cli.Flag("--sessions", "saved conversations without a container"),
    cli.Flag("--orphans", "stopped containers whose directory is gone"),
    cli.Flag("--all", "all of it, and stopped persistent containers too"),
    cli.Flag("--dry-run", "only show what would be removed"),
    cli.FORCE,
)
def run_clean(context: Context) -> int:
    """Remove what is left of ended sessions

    Without a switch: stopped containers that are not persistent, and what a crash left behind. Their conversations
    are saved first. Each kind is shown and asked for on its own.

    $ clincus clean --dry-run --all  # See what there is.
    """
    options = context.options
    is_plain = options.all or not (options.sessions or options.orphans)
    groups = list(cleanup_groups(context, is_plain=is_plain))
    found, done = sum(len(group.items) for group in groups), 0
    failed = False
    for group in groups:
        removed = clean_group(context, group)
        done += removed or 0
        failed = failed or (removed is not None and removed < len(group.items))
    for path in clincus.clean_stages() if is_plain and not options.dry_run else ():
        console.warn(f"{path} cannot be removed, though no session uses it: look what is in it")
    if options.dry_run:
        print("[Dry run] No changes made.")
    elif done:
        print(f"✓ Cleaned {done} item(s)")
    elif not found:
        print("Nothing to clean.")
    return 1 if failed else 0


def cleanup_groups(context: Context, *, is_plain: bool) -> Iterator[CleanupGroup]:
    """What the switches of `clean` name, each thing in one group only."""
    options = context.options
    stopped = stopped_containers(context)
    if is_plain:
        items = {one.id: text for one, text in stopped if options.all or not one.persistent}
        yield container_group(context, "stopped clincus containers", "no stopped containers found", items)
        left = [one for one in context.sessions.registry.all() if is_abandoned(one)]
        items = {one.id: "left by clincus run" for one in left if options.all or not one.persistent}
        yield container_group(context, "containers left by clincus run", "none found", items)
    if options.orphans and not options.all:  # with --all they are among the stopped ones
        items = {one.id: text for one, text in stopped if one.workspace and not os.path.isdir(one.workspace)}
        yield container_group(context, "orphaned containers", "no orphaned containers found", items)
    if options.sessions or options.all:
        yield saved_group(context)


def is_abandoned(session: clincus.Session) -> bool:
    """Whether a container is left from a command: its process is gone, since it was killed or is to be used again."""
    from clincus_cli.run import process_mark

    pid = session.command.partition(" ")[0]
    return pid.isdecimal() and session.command != process_mark(int(pid))


def stopped_containers(context: Context) -> list[tuple[clincus.Session, str]]:
    """The sessions whose container is stopped, each with what is said of it."""
    return [
        (one, f"{one.workspace or 'no workspace'} ({'persistent' if one.persistent else 'ephemeral'})")
        for one in context.sessions.registry.all()
        if one.status == "stopped" and not one.paused and clincus.is_listed(one)
    ]


def container_group(context: Context, kind: str, none: str, items: dict[str, str]) -> CleanupGroup:
    """Containers of sessions; the conversation is saved before one goes, or it stays."""
    sessions = context.sessions
    return CleanupGroup(f"Checking for {kind}...", none, items, lambda name: sessions.end(name, delete=True))


def saved_group(context: Context) -> CleanupGroup:
    """Saved conversations that no container goes with."""
    kept = {name for session in context.sessions.registry.all() for name in (session.id, session.session_id)}
    saved = clincus.list_saved(context.config, context.environ)
    found = {one.session_id: one for one in saved if not {one.session_id, one.container_name} & kept}
    items = {name: f"{one.tool}, {one.workspace}, saved {one.saved_at}" for name, one in found.items()}

    def remove(name: str) -> None:
        import shutil

        try:
            shutil.rmtree(found[name].directory)
        except OSError as error:
            raise clincus.ClincusError(f"cannot remove '{found[name].directory}': {error.strerror}", 500) from error

    return CleanupGroup("Checking for saved session data...", "no saved sessions found", items, remove)


def clean_group(context: Context, group: CleanupGroup) -> int | None:
    """Show a group, ask, and remove it; how many were removed, None where nothing was to be."""
    print(group.looking)
    if not group.items:
        print(f"  ({group.none})")
        return None
    print(console.table(None, group.items.items(), "  - "))
    question = f"Remove {len(group.items)} item(s)?"
    if context.options.dry_run or not console.confirm(question, force=context.options.force):
        return None
    with console.progress("Removing"):
        return len(attempt_each(group.items, group.remove))
