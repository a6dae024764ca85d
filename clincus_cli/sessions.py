"""`list`, `info`, `resume`, and the commands for several sessions: `stop`, `shutdown`, `kill`, `persist`, `clean`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.agents import agent_words, known_agents
from clincus_cli.appeared import end_session
from clincus_cli.beside import attempt_beside
from clincus_cli.context import Context, is_listed
from clincus_cli.losses import loss_note

if TYPE_CHECKING:
    from typing import Any


STATUS_LIMIT = 40  # characters of Incus's word for a state
QUIET = cli.Flag("-q, --quiet", "only the ids, a line each")


@cli.Command(
    "list", cli.Flag("--all", "saved conversations as well"), QUIET, cli.format_flag("text", "json"), shows=True
)
def run_list(context: Context) -> int:
    """List the sessions

    Prints a line for each session. It has the state of the tool if the server runs (`clincus serve`). --all adds the
    saved conversations. JSON also has addresses, images and times.

    $ clincus list  # Which of them waits for me?
    $ clincus list --all --json  # Everything, for a program.
    $ clincus kill $(clincus list -q)  # All of them.
    """
    active: list[dict[str, Any]] = []
    problem = ""
    try:
        active = active_entries(context)
    except clincus.IncusError as error:
        if context.options.quiet or not context.options.all:
            raise
        problem = error.message
        console.complain(problem)
    if context.options.quiet:
        return print_ids(active)
    kept = clincus.list_saved(context.basics, context.environ) if context.options.all else []
    saved = [
        # The names of the Go program, and ours beside them.
        {"ID": one.session_id, "SavedAt": one.saved_at, "Workspace": one.workspace}
        | {"id": one.session_id, "saved_at": one.saved_at, "workspace": one.workspace, "tool": one.tool}
        for one in kept
    ]
    document = {"active_containers": active, **({"saved_sessions": saved} if saved else {})}
    tables = [] if problem else [session_table(active)]
    if context.options.all:
        tables.append(saved_table(kept))
    return context.show(document, ["\n\n".join(tables)]) or int(bool(problem))


def print_ids(active: Iterable[Mapping[str, Any]]) -> int:
    """Print the ids of sessions for other programs. Returns the exit code."""
    for entry in active:
        print(entry["name"])
    return 0


def session_table(active: Sequence[Mapping[str, Any]]) -> str:
    """The text of `clincus list`."""
    rows = [
        (
            f"{entry['name']} ({entry['display_name']})" if "display_name" in entry else entry["name"],
            entry["status"].lower(),
            agent_words({**entry["agent"], "text": ""}) if "agent" in entry else "-",
            entry.get("tool", "-"),
            entry.get("workspace", "-"),
            age_text(entry["created_at"]),
        )
        for entry in active
    ]
    return console.table(("NAME", "STATE", "AGENT", "TOOL", "WORKSPACE", "AGE"), rows)


def age_text(created_at: str) -> str:
    """The age of a time of `list --format json`, in its largest unit."""
    import time

    moment = clincus.parse_time(f"{created_at.replace(' ', 'T')}Z")
    if moment is None:
        return "-"
    left = max(0, int(time.time() - moment.timestamp()))
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if left >= seconds:
            return f"{left // seconds}{unit}"
    return f"{left}s"


def active_entries(context: Context) -> list[dict[str, Any]]:
    """The sessions as `list --format json` shows them, the oldest first; their tools' states if a server runs."""
    prefix = clincus.container_prefix(context.environ)
    active = []
    for instance, engine in sorted(context.instances(), key=lambda one: str(one[0].get("created_at"))):
        session = clincus.session_from_instance(prefix, instance, engine)
        if session is not None and is_listed(session):
            active.append(active_entry(session, instance))
    is_asked = not context.options.quiet and any(one["status"] == "Running" for one in active)
    agents = known_agents(context) if is_asked else {}
    return [{**entry, **({"agent": agents[entry["name"]]} if entry["name"] in agents else {})} for entry in active]


OPTIONAL = (
    "deadline",
    "display_name",
    "mode",
    "nesting",
    "tool",
    "workspace",
)  # not in `list --format json` where they are empty


def active_entry(session: clincus.Session, instance: Mapping[str, Any]) -> dict[str, Any]:
    """A container in `list --format json`."""
    created = clincus.parse_time(session.created_at) or clincus.parse_time(instance.get("created_at"))
    entry = {
        "created_at": clincus.format_time(created)[:19].replace("T", " ") if created else "",
        "deadline": session.deadline,
        "display_name": session.name,
        "image": (instance.get("config") or {}).get("image.description", session.image),
        "mode": session.mode if session.mode == "clone" else "",
        "ipv4": address_of(instance),
        "name": session.id,
        "nesting": bool(session.nesting),
        "persistent": session.persistent,
        "protection": session.protection,
        "session_id": session.session_id,
        "slot": session.slot,
        "status": clincus.printable(clincus.incus_status(instance))[:STATUS_LIMIT],
        "tool": session.tool,
        "workspace": session.workspace,
    }
    return {key: value for key, value in entry.items() if key not in OPTIONAL or value}


def address_of(instance: Mapping[str, Any]) -> str:
    """The IPv4 address of an instance, "" without one. An engine may answer anything."""
    try:
        addresses = instance["state"]["network"]["eth0"]["addresses"]
        return next((str(one["address"]) for one in addresses if one["family"] == "inet"), "")
    except (KeyError, TypeError):
        return ""


def saved_table(saved: Iterable[clincus.SavedSession]) -> str:
    """The saved conversations in the text of `clincus list --all`."""
    rows = [(one.session_id, one.tool, one.workspace, console.local_time(one.saved_at)) for one in saved]
    return console.table(("CONVERSATION", "TOOL", "WORKSPACE", "SAVED"), rows)


@cli.Command("info [SESSION_ID]", cli.format_flag("text", "json"), shows=True)
def run_info(context: Context) -> int:
    """Show a saved conversation

    SESSION_ID is the id of a session, or its container's name. Without it, the command shows the newest conversation.

    $ clincus info clincus-ec0578-1  # The saved conversation of that container's session.
    """
    wanted = context.options.session_id
    found = clincus.list_saved(context.config, context.environ)
    if wanted:
        found = [one for one in found if wanted in (one.session_id, one.container_name)]
    if not found:
        none = f"session '{wanted}' not found; {clincus.LIST_SAVED}"
        raise clincus.ClincusError(none if wanted else "no saved session yet: `clincus shell` starts one", 404)
    saved = found[0]
    files = clincus.saved_listing(saved.directory)
    size = sum(file.size for file in files.values())
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
    lines = [console.paint("Session Information", "bold"), "-" * 19, console.facts(rows.items())]
    return context.show({**saved._asdict(), "has_data": bool(files), "size_bytes": size}, lines)


@cli.Command("resume [NAME]", cli.ACCEPT_CHANGES, cli.RESULT_JSON, writes=True)
def run_resume(context: Context) -> int:
    """Resume a paused or stopped session

    Unfreezes a paused container. Starts a stopped one, and continues the tool's conversation in it. Without NAME, it
    resumes all paused sessions.

    $ clincus resume clincus-ec0578-1  # Go on after `clincus stop`; `clincus attach` shows it.
    """
    name = context.options.name
    registry = context.sessions.registry

    from clincus_cli.shell import start_accepted

    def resume(name: str) -> None:
        if registry.get(name).status == "running":
            console.say(f"{name} is running already")
            return
        request = clincus.LaunchRequest("", accept_changes=context.options.accept_changes)
        start_accepted(lambda asked: context.sessions.resume(name, asked), request, f"Resuming {name}")
        console.say(f"Resumed container: {name}")

    if not name:
        paused = [session for session in registry.all() if session.paused]
        if not paused:
            console.say("No frozen clincus containers found")
            return show_done(context, [], [])
        names = [one.id for one in paused]
        done = attempt_each(names, resume)
        console.say(f"Resumed {len(done)} container(s)")
        show_done(context, names, done)
        return 0 if len(done) == len(paused) else 1
    if name not in [session.id for session in registry.all()] and cli.is_session_id([name]):
        raise clincus.ClincusError(f"'{name}' is a conversation, not a container: clincus shell --resume={name}", 409)
    resume(name)
    return show_done(context, [name], [name])


# -- One thing done to several sessions


def attempt_each(names: Iterable[str], work: Callable[[str], object]) -> list[str]:
    """Work on each name, and return the names of the successes; each failure becomes a warning."""
    done = []
    for name in names:
        try:
            work(name)
        except (clincus.ClincusError, OSError) as error:
            console.warn(f"{name}: {error}")
        else:
            done.append(name)
    return done


def show_done(context: Context, names: Iterable[str], done: Sequence[str]) -> int:
    """For programs: the names that were worked on with success, and the others. Returns 0."""
    return context.show({"done": [*done], "failed": [name for name in names if name not in done]}, [])


def for_each_session(
    context: Context,
    words: tuple[str, str, str],
    work: Callable[[str], object],
    among: Callable[[clincus.Session], bool] = lambda session: True,
    *,
    deletes: bool = False,
    note: str = "",
    hint: str = "",
) -> int:
    """Do something for the named sessions, or with --all for those `among` all.

    `words` are forms of the verb, such as kill, Killing, Killed. `note` follows the name in messages. `hint` says what
    to do if the work failed. See `is_agreed` for the question before the work.
    """
    plain, doing, did = words
    options = context.options
    known = [session.id for session in context.sessions.registry.all() if not options.all or among(session)]
    if options.all and not known:
        context.tell(f"No containers to {plain}")
        return show_done(context, [], [])
    names = known if options.all else options.name
    found = [name for name in names if name in known]
    for name in names:
        if name not in known:
            console.warn(f"Container {name} does not exist as a session; `clincus list` shows those that do")
    is_one = len(names) == 1 and not options.all
    if found and not is_agreed(context, plain, found, is_one=is_one, deletes=deletes):
        return 1

    def work_on(name: str) -> None:
        context.tell(f"{doing} container {name}{note}...")
        work(name)
        context.tell(f"✓ {did} {name}")

    with console.progress(f"{doing} {found[0] if len(found) == 1 else f'{len(found)} containers'}"):
        done = attempt_beside(context.sessions, found, work_on)
    if done:
        context.tell(f"{did} {len(done)} container(s)")
    show_done(context, names, done)
    if len(done) < len(names):
        few = f"only {len(done)} of {len(names)} containers were" if done else "no containers were"
        advice = f": {hint}" if hint and len(done) < len(found) else ""
        raise clincus.ClincusError(f"{few} {did.lower().replace('shutd', 'shut d')}{advice}", 500)
    return 0


def is_agreed(context: Context, verb: str, names: Sequence[str], *, is_one: bool, deletes: bool) -> bool:
    """Ask before work on several sessions; True if the user agrees.

    For one session, only work that `deletes` it asks: at a terminal, and always if the command line does not name it.
    """
    if is_one and not deletes:
        return True
    options = context.options
    yes = cli.agreed(options)
    if not is_one:
        context.tell("\n  - ".join([f"Found {len(names)} container(s):", *names]))
        return console.confirm(f"{verb.capitalize()} {len(names)} container(s)?", yes=yes)
    confirm = console.confirm if options.is_default else console.confirm_named
    return confirm(f"Delete {names[0]} with all that is in its container?", yes=yes)


def timeout_flag(default: int) -> cli.Flag:
    """The flag for the time that a session has for a clean stop."""
    return cli.Flag(
        "--timeout SECONDS",
        "time for a clean stop; after it, Clincus forces the stop",
        check=cli.number_from(0, 3600),
        default=default,
    )


ALL = cli.Flag("--all", "every session")


@cli.Command(
    "stop [NAME...]",
    timeout_flag(30),
    cli.Flag("--all", "every running session"),
    cli.YES,
    cli.FORCE,
    cli.RESULT_JSON,
    writes=True,
)
def run_stop(context: Context) -> int:
    """Stop sessions and keep their containers

    Saves the conversation first. `clincus resume` starts the container again. With several names or --all, it asks
    first; --yes skips the question.

    $ clincus stop clincus-ec0578-1  # Stop it for the night.
    """
    timeout = context.options.timeout
    return for_each_session(
        context,
        ("stop", "Stopping", "Stopped"),
        lambda name: end_session(context, name, timeout=timeout),
        lambda session: session.status == "running" or session.paused,
    )


@cli.Command(
    "shutdown [NAME...]",
    timeout_flag(60),
    cli.Flag("--delete", "also delete persistent sessions"),
    ALL,
    cli.YES,
    cli.FORCE,
    cli.RESULT_JSON,
    writes=True,
)
def run_shutdown(context: Context) -> int:
    """Stop sessions cleanly and delete those that are not persistent

    Saves the conversation first. If a session holds work that is not on this machine, Clincus stops it and keeps its
    container. With --force, Clincus copies that work here first, and deletes the container. With several names or
    --all, it asks first; --yes skips the question.

    $ clincus shutdown --all --force  # End every session cleanly, without a question.
    """
    timeout = context.options.timeout
    sessions = context.sessions
    force = context.options.force

    def shut_down(name: str) -> None:
        context.tell("Attempting graceful shutdown...")
        with clincus.patient(clincus.END_PATIENCE, clincus.END_WITHIN):  # for the stop and the delete together
            session = end_session(context, name, timeout=timeout)
            if session is not None and (not session.persistent or context.options.delete):
                sessions.end(name, delete=True, keeps=force)
                return
        if session is not None:
            context.tell(f"{name} is persistent: it is stopped and kept (--delete removes it)")

    words = ("shutdown", "Shutting down", "Shutdown")
    note = f" (timeout: {timeout}s)"
    return for_each_session(context, words, shut_down, note=note)


@cli.Command(
    "kill [NAME...]",
    ALL,
    cli.YES,
    cli.Flag("--force", "do not ask; copy what would be lost here, and delete even if that is not possible"),
    cli.RESULT_JSON,
    writes=True,
)
def run_kill(context: Context) -> int:
    """Delete sessions at once

    Saves the conversation first. If that fails, or if a session holds other work that is not on this machine, the
    container stays; --force copies the work here first, as far as possible. It asks first at a terminal, and everywhere
    with several names, with --all and without a name. --yes and --force skip the question.

    $ clincus kill --all --force  # Delete every session without a question.
    """
    force = context.options.force
    hint = "" if force else "--force copies what would be lost here first, and deletes even if that is not possible"
    words = ("kill", "Killing", "Killed")

    def kill(name: str) -> None:
        end_session(context, name, delete=True, even_unsaved=force)

    return for_each_session(context, words, kill, deletes=True, hint=hint)


@cli.Command("persist [NAME...]", ALL, cli.YES, cli.FORCE, cli.RESULT_JSON, writes=True)
def run_persist(context: Context) -> int:
    """Keep a session's container when the session ends

    With several names or --all, it asks first; --yes skips the question.

    $ clincus persist clincus-ec0578-1  # Keep what is installed in that container.
    """
    from clincus_features.naming import change_session

    words = ("persist", "Persisting", "Persisted")
    sessions = context.sessions
    return for_each_session(
        context,
        words,
        lambda name: change_session(sessions, name, {"persistent": True}),
        lambda session: not session.persistent,
    )


@cli.Command("rename CONTAINER NAME", cli.RESULT_JSON, writes=True)
def run_rename(context: Context) -> int:
    """Give a session a name of your own

    `clincus list` and the dashboard show it. An empty NAME takes it away.

    $ clincus rename clincus-ec0578-1 'login page'  # The container keeps its name.
    """
    from clincus_features.naming import change_session

    session = change_session(context.sessions, context.options.container, {"name": context.options.name})
    return context.show(session.document(), [f"{session.id}: {session.name or 'has no name now'}"])


# -- clean


@cli.Command(
    "clean",
    cli.Flag("--sessions", "saved conversations without a container"),
    cli.Flag("--orphans", "stopped containers whose directory is gone"),
    cli.Flag("--all", "all of it, and stopped persistent containers too"),
    cli.Flag("--dry-run", "only show what would be removed"),
    cli.PLAN_JSON,
    cli.YES,
    cli.FORCE,
    writes=True,
)
def run_clean(context: Context) -> int:
    """Remove the leftovers of ended sessions

    Without a flag, it removes stopped containers that are not persistent, and leftovers of a crash. It saves their
    conversations first. A container with other work that is not on this machine stays; with --force, Clincus copies the
    work here first. It shows each kind of leftovers and asks for each.

    $ clincus clean --dry-run --all  # See what there is.
    """
    options = context.options
    is_plain = options.all or not (options.sessions or options.orphans)
    found = cleaned = 0
    is_whole = True
    groups = cleanup_groups(context, is_plain=is_plain)
    if cli.prints_plan(options):
        console.print_json({kind: items for kind, _, items, _ in groups})
        return 0
    for kind, none, items, remove in groups:
        print(f"Checking for {kind}...")
        if not items:
            print(f"  ({none})")
            continue
        print(console.table(None, items.items(), "  - "))
        found += len(items)
        if options.dry_run:
            continue
        if not console.confirm(f"Remove {len(items)} item(s)?", yes=cli.agreed(options)):
            is_whole = False
            continue
        with console.progress("Removing"):
            removed = attempt_beside(context.sessions, items, remove)
        cleaned += len(removed)
        is_whole = is_whole and len(removed) == len(items)
    for path in clean_stages() if is_plain and not options.dry_run else ():
        console.warn(f"{path} cannot be removed, though no session uses it: look at its content")
    if options.dry_run:
        print("[Dry run] No changes made.")
    elif cleaned:
        print(f"✓ Cleaned {cleaned} item(s)")
    elif not found:
        print("Nothing to clean.")
    return 0 if is_whole else 1


def cleanup_groups(
    context: Context, *, is_plain: bool
) -> Iterator[tuple[str, str, dict[str, str], Callable[[str], object]]]:
    """The things that the switches of `clean` name, each in one group only.

    A group has: its title, the message if it is empty, names with a description of each, and a function that removes
    one. A container is removed once its conversation is saved.
    """
    import shutil

    options = context.options
    sessions = context.sessions
    known = sessions.registry.all()
    stopped = [one for one in known if one.status == "stopped" and not one.paused and is_listed(one)]
    about = {one.id: "; ".join(filter(None, (kind_words(one), loss_note(sessions, one)))) for one in stopped}

    def end(name: str) -> None:
        sessions.end(name, delete=True, keeps=options.force)

    if is_plain:
        items = {one.id: about[one.id] for one in stopped if options.all or not one.persistent}
        yield "stopped clincus containers", "no stopped containers found", items, end
        left = [one.id for one in known if is_abandoned(one) and (options.all or not one.persistent)]
        yield "containers left by clincus run", "none found", dict.fromkeys(left, "left by clincus run"), end
    if options.orphans and not options.all:  # with --all they are among the stopped ones
        items = {one.id: about[one.id] for one in stopped if one.workspace and not os.path.isdir(one.workspace)}
        yield "orphaned containers", "no orphaned containers found", items, end
    if options.sessions or options.all:
        kept = set()
        for session in sessions.registry.all():
            kept |= {session.id, session.session_id}
        saved = clincus.list_saved(context.config, context.environ)
        without = {one.session_id: one for one in saved if not {one.session_id, one.container_name} & kept}
        items = {name: f"{one.tool}, {one.workspace}, saved {one.saved_at}" for name, one in without.items()}
        yield (
            "saved session data",
            "no saved sessions found",
            items,
            lambda id: shutil.rmtree(without[id].directory),
        )


def kind_words(session: clincus.Session) -> str:
    """A session's workspace, and if it is kept when it stops."""
    return f"{session.workspace or 'no workspace'} ({'persistent' if session.persistent else 'ephemeral'})"


def is_abandoned(session: clincus.Session) -> bool:
    """True if a container was made by a `clincus run` that no longer runs: it was killed, or kept the container."""
    from clincus_cli.run import process_mark

    pid = session.command.partition(" ")[0]
    return pid.isdecimal() and session.command != process_mark(int(pid))


def clean_stages() -> list[str]:
    """Remove the stages that crashes left under /run/clincus; returns the paths of those that cannot be removed.

    Only root can, so for other users this does nothing: the next start or stop of any session does the same. Raises
    ClincusError.
    """
    if os.geteuid() != 0 or not os.path.isdir(clincus.protect.STAGES):
        return []
    program = clincus.packaged_text("wall/hook.py")
    done = clincus.run_child([sys.executable, "-I", "-S", "-c", program, "sweep"], timeout=60, cwd="/")
    if done.code:
        raise clincus.ClincusError(f"the stages under {clincus.protect.STAGES} cannot be swept: {done.reason}")
    return done.stdout.decode().split()
