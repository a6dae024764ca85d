"""Part of the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timezone
from typing import Any

import clincus
from clincus_cli.console import confirm
from clincus_cli.console import paint
from clincus_cli.console import print_json
from clincus_cli.console import progress
from clincus_cli.console import say
from clincus_cli.console import size_text
from clincus_cli.console import table
from clincus_cli.console import warn
from clincus_cli.context import Context
from clincus_cli.words import is_session_id


def run_list(context: Context) -> int:
    """`clincus list`: one call to Incus."""
    prefix = clincus.container_prefix(context.environ)
    instances = context.incus.query("/1.0/instances?recursion=2")
    active = []
    for instance in sorted(instances, key=lambda one: str(one["created_at"])):
        session = clincus.session_from_instance(prefix, instance)
        if session is not None and clincus.is_listed(session):
            active.append(active_entry(session, instance))
    kept = clincus.list_saved(context.config, context.environ) if context.options.all else []
    saved = [saved_entry(one) for one in kept]
    if context.options.format == "json":
        document: dict[str, object] = {"active_containers": active}
        print_json({**document, "saved_sessions": saved} if saved else document)
    else:
        print("\n".join(list_lines(active, saved if context.options.all else None)))
    return 0


def active_entry(session: clincus.Session, instance: Mapping[str, Any]) -> dict[str, Any]:
    """A container in `list --format json`."""
    created = clincus.parse_time(session.created_at) or clincus.parse_time(instance["created_at"])
    entry = {
        "created_at": created.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S") if created else "",
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


def saved_entry(saved: clincus.SavedSession) -> dict[str, Any]:
    """A saved session in `list --format json`: the names of the Go program, and ours beside them."""
    return {
        "ID": saved.session_id,
        "SavedAt": saved.saved_at,
        "Workspace": saved.workspace,
        "id": saved.session_id,
        "saved_at": saved.saved_at,
        "tool": saved.tool,
        "workspace": saved.workspace,
    }


def list_lines(active: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]] | None) -> Iterator[str]:
    """The text of `clincus list`."""
    colors = {"Running": "green", "Error": "red", "Frozen": "yellow"}
    yield paint("Active Containers:", "bold")
    yield "-" * 18
    for entry in active:
        yield f"  {paint(entry['name'], 'bold')} ({'persistent' if entry['persistent'] else 'ephemeral'})"
        status = entry["status"]
        yield f"    Status:    {paint(status, colors[status]) if status in colors else status}"
        facts = {"IPv4": "ipv4", "Created": "created_at", "Image": "image", "Tool": "tool", "Slot": "slot"}
        for name, key in {**facts, "Workspace": "workspace", "Ends": "deadline"}.items():
            if entry.get(key):
                yield f"    {name + ':':<10} {entry[key]}"
    if not active:
        yield "  (none)"
    if saved is not None:
        yield ""
        yield paint("Saved Sessions:", "bold")
        yield "-" * 15
        for entry in saved:
            yield f"  {paint(entry['ID'], 'bold')}"
            for name, key in {"Saved": "SavedAt", "Tool": "tool", "Workspace": "Workspace"}.items():
                yield f"    {name + ':':<10} {entry[key]}"
        if not saved:
            yield "  (none)"


def run_info(context: Context) -> int:
    """`clincus info`: a saved session by its id or its container's name, else the newest."""
    wanted = context.options.session_id
    found = clincus.list_saved(context.config, context.environ)
    if wanted:
        found = [one for one in found if wanted in (one.session_id, one.container_name)]
    if not found:
        raise clincus.ClincusError(f"session '{wanted}' not found" if wanted else "no saved session yet", 404)
    saved = found[0]
    files = [path for path, _ in clincus.saved_listing(saved.directory) if path != "metadata.json"]
    size = sum(os.lstat(os.path.join(saved.directory, path)).st_size for path in files)
    facts = {
        "Session ID": saved.session_id,
        "Container": saved.container_name,
        "Workspace": saved.workspace,
        "Tool": saved.tool,
        "Mode": "persistent" if saved.persistent else "ephemeral",
        "Saved At": saved.saved_at,
        "Session Data": "✓ Present" if files else "✗ Missing",
        "Data Size": size_text(size),
        "Session Path": saved.directory,
        "Resume": f"clincus shell --resume={saved.session_id}",
    }
    print(paint("Session Information", "bold"))
    print("-" * 19)
    for name, value in facts.items():
        print(f"{name + ':':<14}{value}".rstrip())
    return 0


def run_resume(context: Context) -> int:
    """`clincus resume`: paused ones run on, a stopped one starts with its conversation."""
    name, registry = context.options.name, context.sessions.registry
    if not name:
        paused = [session for session in registry.all() if session.paused]
        if not paused:
            say("No frozen clincus containers found")
            return 0
        done = each([one.id for one in paused], lambda id: resume_one(context, id))
        say(f"Resumed {len(done)} container(s)")
        return 0 if len(done) == len(paused) else 1
    if name not in [session.id for session in registry.all()] and is_session_id([name]):
        raise clincus.ClincusError(f"'{name}' is a conversation, not a container: clincus shell --resume={name}", 409)
    resume_one(context, name)
    return 0


def resume_one(context: Context, name: str) -> None:
    """Resume one session."""
    session = context.sessions.registry.get(name)
    if session.status == "running":
        say(f"{name} is running already")
        return
    with progress(f"Resuming {name}"):
        context.sessions.resume(name)
    say(f"Resumed container: {name}")


def each(names: Iterable[str], work: Callable[[str], None]) -> list[str]:
    """Do something for each name; a failure is told and stops only its own. Those for which it was done."""
    done = []
    for name in names:
        try:
            work(name)
        except clincus.ClincusError as error:
            warn(f"{name}: {error.message}")
        else:
            done.append(name)
    return done


@dataclass(frozen=True)
class Verb:
    """The words of a command that does one thing to several containers."""

    plain: str  # kill
    doing: str  # Killing
    done: str  # Killed
    note: str = ""  # behind the name
    hint: str = ""  # what to do about those that it was not done to


def for_each_session(
    context: Context, verb: Verb, work: Callable[[str], None], among: Callable[[clincus.Session], bool] = lambda _: True
) -> int:
    """Do something for the sessions that are named, or for all; several, and all, are asked for first."""
    options, registry = context.options, context.sessions.registry
    names = list(dict.fromkeys(options.name or [context.environ.get("CLINCUS_CONTAINER", "")]))
    if options.all:
        names = [session.id for session in registry.all() if among(session)]
        if not names:
            print(f"No containers to {verb.plain}")
            return 0
    if not any(names):
        raise clincus.ClincusError("no container names provided; `clincus list` shows them, --all means every one", 400)
    known = {session.id for session in registry.all()}
    found = [name for name in names if name in known]
    for name in names:
        if name not in known:
            warn(f"Container {name} does not exist as a session; `clincus list` shows those that do")
    if found and (options.all or len(names) > 1 or getattr(options, "dry_run", False)):
        print(f"Found {len(found)} container(s):")
        print("\n".join(f"  - {name}" for name in found))
        if getattr(options, "dry_run", False):
            print("[Dry run] No changes made.")
            return 0
        if not confirm(f"{verb.plain.capitalize()} {len(found)} container(s)?", force=options.force):
            return 0

    def one(name: str) -> None:
        print(f"{verb.doing} container {name}{verb.note}...", flush=True)
        with progress(f"{verb.doing} {name}"):
            work(name)
        print(f"✓ {verb.done} {name}", flush=True)

    done = each(found, one)
    if done:
        print(f"{verb.done} {len(done)} container(s)")
    if len(done) < len(names):
        few = f"only {len(done)} of {len(names)} containers were" if done else "no containers were"
        hint = f": {verb.hint}" if verb.hint and len(done) < len(found) else ""
        raise clincus.ClincusError(f"{few} {verb.done.lower().replace('shutd', 'shut d')}{hint}", 500)
    return 0


def run_stop(context: Context) -> int:
    """`clincus stop`: save, stop, keep the container."""
    end = context.sessions.end
    return for_each_session(
        context,
        Verb("stop", "Stopping", "Stopped"),
        lambda name: clincus.void(end(name, timeout=context.options.timeout)),
        lambda session: session.status == "running" or session.paused,
    )


def run_kill(context: Context) -> int:
    """`clincus kill`: save, delete at once; without --force what cannot be saved keeps its container."""
    force, end = context.options.force, context.sessions.end
    hint = "" if force else "--force deletes also what a container does not hand over"
    verb = Verb("kill", "Killing", "Killed", hint=hint)
    return for_each_session(context, verb, lambda name: clincus.void(end(name, delete=True, even_unsaved=force)))


def run_shutdown(context: Context) -> int:
    """`clincus shutdown`: stop cleanly, then delete what is not persistent."""
    timeout, sessions = context.options.timeout, context.sessions

    def shut_down(name: str) -> None:
        print("Attempting graceful shutdown...", flush=True)
        session = sessions.end(name, timeout=timeout)
        if session is not None and (not session.persistent or context.options.delete):
            sessions.end(name, delete=True)
        elif session is not None:
            print(f"{name} is persistent: it is stopped and kept (--delete removes it)")

    verb = Verb("shutdown", "Shutting down", "Shutdown", f" (timeout: {timeout}s)")
    return for_each_session(context, verb, shut_down)


def run_persist(context: Context) -> int:
    """`clincus persist`."""
    keep = context.sessions.set_persistent
    return for_each_session(
        context,
        Verb("persist", "Persisting", "Persisted"),
        lambda name: clincus.void(keep(name)),
        lambda session: not session.persistent,
    )


def run_clean(context: Context) -> int:
    """`clincus clean`: stopped ephemeral containers, and what the switches name; each kind is asked for on its own."""
    options = context.options
    plain = not (options.sessions or options.orphans)
    heaps = []
    if plain or options.all:
        heaps.append(stopped_heap(context, persistent_too=options.all))
        heaps.append(command_heap(context))
    if options.orphans or options.all:
        heaps.append(orphan_heap(context))
    if options.sessions or options.all:
        heaps.append(saved_heap(context))
    total = sum(clean_heap(context, heap) for heap in heaps)
    if plain or options.all:
        for path in [] if options.dry_run else clincus.clean_stages():
            warn(f"{path} cannot be removed, though no session uses it: look what is in it")
    if options.dry_run:
        print("[Dry run] No changes made.")
    elif total:
        print(f"✓ Cleaned {total} item(s)")
    elif not any(heap.items for heap in heaps):
        print("Nothing to clean.")
    return 1 if any(heap.failed for heap in heaps) else 0


@dataclass
class Heap:
    """Things of one kind that `clean` may remove."""

    looking: str  # Checking for stopped clincus containers...
    none: str  # (no stopped containers found)
    items: dict[str, str]  # name and what is said of it
    remove: Callable[[str], None]
    failed: int = 0  # how many could not be removed


def clean_heap(context: Context, heap: Heap) -> int:
    """Show a heap, ask, and remove it; how many were removed."""
    print(heap.looking)
    if not heap.items:
        print(f"  ({heap.none})")
        return 0
    print(table(None, heap.items.items(), "  - "))
    if context.options.dry_run or not confirm(f"Remove {len(heap.items)} item(s)?", force=context.options.force):
        return 0
    with progress("Removing"):
        done = each(heap.items, heap.remove)
    heap.failed = len(heap.items) - len(done)
    return len(done)


def stopped_heap(context: Context, *, persistent_too: bool) -> Heap:
    """Stopped containers of sessions; the conversation is saved before one goes, or it stays."""
    sessions = context.sessions
    everything = filter(clincus.is_listed, sessions.registry.all())
    stopped = [one for one in everything if one.status == "stopped" and not one.paused]
    items = {
        one.id: f"{one.workspace or 'no workspace'} ({'persistent' if one.persistent else 'ephemeral'})"
        for one in stopped
        if persistent_too or not one.persistent
    }
    return Heap(
        "Checking for stopped clincus containers...",
        "no stopped containers found",
        items,
        lambda name: clincus.void(sessions.end(name, delete=True)),
    )


def orphan_heap(context: Context) -> Heap:
    """Stopped containers whose workspace is gone."""
    heap = stopped_heap(context, persistent_too=True)
    registry = context.sessions.registry
    workspaces = {session.id: session.workspace for session in registry.all() if session.workspace}
    orphans = {name: text for name, text in heap.items.items() if not os.path.isdir(workspaces.get(name, "/"))}
    return Heap("Checking for orphaned containers...", "no orphaned containers found", orphans, heap.remove)


def command_heap(context: Context) -> Heap:
    """Containers of `clincus run` whose process is gone."""
    sessions = context.sessions
    found = [
        one
        for one in filter(clincus.is_abandoned, sessions.registry.all())
        if context.options.all or not one.persistent
    ]
    items = dict.fromkeys([one.id for one in found], "left by clincus run")
    remove: Callable[[str], None] = lambda name: clincus.void(sessions.end(name, delete=True))  # noqa: E731
    return Heap("Checking for containers left by clincus run...", "none found", items, remove)


def saved_heap(context: Context) -> Heap:
    """Saved conversations that no container goes with."""
    kept = {name for session in context.sessions.registry.all() for name in (session.id, session.session_id)}
    saved = clincus.list_saved(context.config, context.environ)
    found = [one for one in saved if not {one.session_id, one.container_name} & kept]
    folders = {one.session_id: one.directory for one in found}
    items = {one.session_id: f"{one.tool}, {one.workspace}, saved {one.saved_at}" for one in found}
    return Heap(
        "Checking for saved session data...", "no saved sessions found", items, lambda id: remove_saved(folders[id])
    )


def remove_saved(directory: str) -> None:
    """Delete a saved conversation."""
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise clincus.ClincusError(f"cannot remove '{directory}': {error.strerror}", 500) from error
