"""Part of the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import clincus
from clincus_cli.console import confirm
from clincus_cli.console import print_json
from clincus_cli.console import progress
from clincus_cli.console import say
from clincus_cli.containers import change_state
from clincus_cli.containers import confirm_named
from clincus_cli.containers import container_name
from clincus_cli.containers import find_instance
from clincus_cli.containers import own_session
from clincus_cli.containers import speaking_of
from clincus_cli.context import Context
from clincus_cli.sessions import each
from clincus_cli.words import WORKSPACE_FLAG
from clincus_cli.words import Command
from clincus_cli.words import UsageError
from clincus_cli.words import flag
from clincus_cli.words import format_flag


def snapshot_container(context: Context) -> str:
    """The container that a snapshot command means: the flag's, the variable's, or the workspace's only one."""
    named_by = context.options.container or context.environ.get("CLINCUS_CONTAINER", "")
    if named_by:
        return container_name(named_by)
    workspace = os.path.abspath(clincus.expand(context.options.workspace, context.environ))
    paths = {workspace, os.path.realpath(workspace)}
    found = [session.id for session in context.sessions.registry.all() if session.workspace in paths]
    if not found:
        raise clincus.ClincusError(f'no Clincus containers found for "{workspace}": name one with --container', 404)
    if len(found) > 1:
        raise clincus.ClincusError(f"multiple Clincus containers found ({', '.join(found)}): use --container", 409)
    return found[0]


def snapshot_path(container: str, name: str = "") -> str:
    """The address of a container's snapshot in Incus's API. Raises UsageError for a name that cannot be one."""
    if not name:
        return f"/1.0/instances/{container}/snapshots"
    if "/" in name or name in (".", "..") or any(ord(letter) < 33 for letter in name):
        raise UsageError(f"'{name}' is no snapshot's name: write it without slashes and spaces")
    return f"/1.0/instances/{container}/snapshots/{quote(name, safe='')}"


def snapshot_document(snapshot: Mapping[str, Any]) -> dict[str, object]:
    """A snapshot as `--format json` shows it."""
    document = {
        "name": str(snapshot["name"]).rpartition("/")[2],
        "created_at": snapshot["created_at"],
        "stateful": bool(snapshot.get("stateful")),
        "expires_at": snapshot.get("expires_at") or "",
        "description": snapshot.get("description") or "",
    }
    if str(document["expires_at"]).startswith("0001-"):  # Incus's word for never
        del document["expires_at"]
    return {key: value for key, value in sorted(document.items()) if value != ""}


def list_snapshots(incus: clincus.Incus, container: str) -> list[dict[str, object]]:
    """The snapshots of a container, oldest first. Raises ClincusError (404)."""
    find_instance(incus, container)
    return snapshot_documents(incus.query(f"{snapshot_path(container)}?recursion=1"))


def snapshot_documents(snapshots: Iterable[Mapping[str, Any]] | None) -> list[dict[str, object]]:
    """Snapshots as documents, oldest first."""
    return sorted(map(snapshot_document, snapshots or ()), key=lambda document: str(document["created_at"]))


def find_snapshot(incus: clincus.Incus, container: str, name: str) -> dict[str, object]:
    """One snapshot of a container. Raises ClincusError (404)."""
    find_instance(incus, container)
    try:
        return snapshot_document(incus.query(snapshot_path(container, name)))
    except clincus.IncusError as error:
        if error.status == 404:
            raise clincus.ClincusError(f'container "{container}" has no snapshot "{name}"', 404) from error
        raise


def local_time(text: object) -> str:
    """An RFC 3339 time for a person, with its zone."""
    moment = clincus.parse_time(text)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z") if moment else str(text)


def run_snapshot_create(context: Context) -> int:
    """`clincus snapshot create`."""
    options, container = context.options, snapshot_container(context)
    name = options.name or time.strftime("snap-%Y%m%d-%H%M%S")
    snapshot_path(container, name)
    instance = find_instance(context.incus, container)
    stateful = instance.get("expanded_config", {}).get("migration.stateful") == "true"
    if options.stateful and not stateful:
        advice = f"set it with `incus config set {container} migration.stateful=true`, and restart the container"
        raise clincus.ClincusError(f'container "{container}" lacks migration.stateful: {advice}', 409)
    if any(snapshot["name"] == name for snapshot in list_snapshots(context.incus, container)):
        raise clincus.ClincusError(f'snapshot "{name}" of container "{container}" already exists: choose another', 409)
    body = {"name": name, "stateful": options.stateful}
    with progress(f"Taking a snapshot of {container}"), speaking_of(f'container "{container}"'):
        context.incus.query(snapshot_path(container), "POST", body, wait=True, timeout=600)
    kind = "stateful snapshot" if options.stateful else "snapshot"
    say(f"Created {kind} '{name}' for container '{container}'")
    return 0


def run_snapshot_list(context: Context) -> int:
    """`clincus snapshot list`."""
    options = context.options
    if options.all:
        prefix = clincus.container_prefix(context.environ)
        found = {
            instance["name"]: snapshot_documents(instance.get("snapshots"))
            for instance in context.incus.query("/1.0/instances?recursion=2") or ()
            if instance["name"].startswith(prefix)
        }
    else:
        container = snapshot_container(context)
        found = {container: list_snapshots(context.incus, container)}
    if options.format == "json" and options.all:
        print_json(dict(sorted(found.items())))
    elif options.format == "json":
        print_json({"container": container, "snapshots": found[container]})
    else:
        print("\n\n".join(snapshot_table(name, found[name]) for name in sorted(found)) or "(none)")
    return 0


def snapshot_table(container: str, snapshots: Sequence[Mapping[str, object]]) -> str:
    """The snapshots of a container as a person reads them."""
    lines = [f"Snapshots for {container}:"]
    if not snapshots:
        return "\n".join([*lines, "  (none)"])
    row = "  {:<20} {:<26} {:<8}"
    lines.append(row.format("NAME", "CREATED", "STATEFUL").rstrip())
    for snapshot in snapshots:
        stateful = "yes" if snapshot["stateful"] else "no"
        lines.append(row.format(str(snapshot["name"]), local_time(snapshot["created_at"]), stateful).rstrip())
    return "\n".join([*lines, "", f"Total: {len(snapshots)} snapshot{'s' if len(snapshots) > 1 else ''}"])


def run_snapshot_restore(context: Context) -> int:
    """`clincus snapshot restore`: the state since the snapshot is lost, so it asks."""
    options, container = context.options, snapshot_container(context)
    snapshot = find_snapshot(context.incus, container, options.name)
    instance = find_instance(context.incus, container)
    was_running = instance["status"] != "Stopped"
    if was_running and not options.force:
        stop = "clincus stop" if own_session(context, instance) else "clincus container stop"
        advice = f"stop it with `{stop} {container}`, or use --force to stop it, restore and start it again"
        raise clincus.ClincusError(f'container "{container}" must be stopped before restore: {advice}', 409)
    question = f"Restore container '{container}' from snapshot '{options.name}'? What changed since is lost."
    if not confirm(question, force=options.force):
        return 0
    is_session = own_session(context, instance) is not None
    with progress(f"Restoring {container}"):
        if was_running and is_session:
            context.sessions.end(container)
        elif was_running:
            change_state(context.incus, container, "stop", force=True)
        body = {"restore": snapshot["name"], "stateful": options.stateful}
        with speaking_of(f'container "{container}"'):
            context.incus.query(f"/1.0/instances/{container}", "PUT", body, wait=True, timeout=600)
        if was_running and not options.stateful:
            start_again(context, container, is_session)
    say(f"Restored container '{container}' from snapshot '{options.name}'")
    return 0


def start_again(context: Context, container: str, is_session: bool) -> None:
    """Start a container that ran before: a session with its tool."""
    if not is_session:
        change_state(context.incus, container, "start")
        return
    context.sessions.refresh()  # its labels are the snapshot's now
    context.sessions.resume(container)


def run_snapshot_delete(context: Context) -> int:
    """`clincus snapshot delete`."""
    options = context.options
    if bool(options.name) == options.all:
        raise UsageError("snapshot name required, or --all" if not options.all else "give a snapshot name or --all")
    container = snapshot_container(context)
    if not options.all:
        find_snapshot(context.incus, container, options.name)
        if options.dry_run:
            say(f"[Dry run] Would delete snapshot '{options.name}' of container '{container}'")
        elif confirm_named(f"Delete snapshot '{options.name}' of container '{container}'?", force=options.force):
            delete_snapshot(context.incus, container, options.name)
            say(f"Deleted snapshot '{options.name}' from container '{container}'")
        return 0
    names = [str(snapshot["name"]) for snapshot in list_snapshots(context.incus, container)]
    if not names:
        say("No snapshots to delete")
        return 0
    if options.dry_run:
        say(f"[Dry run] Would delete from container '{container}': {', '.join(names)}")
        return 0
    if not confirm(f"Delete {len(names)} snapshot(s) of '{container}': {', '.join(names)}?", force=options.force):
        return 0
    deleted = each(names, lambda name: delete_snapshot(context.incus, container, name))
    for name in deleted:
        say(f"Deleted snapshot '{name}'")
    return 0 if deleted == names else 1


def delete_snapshot(incus: clincus.Incus, container: str, name: str) -> None:
    """Delete one snapshot. Raises IncusError."""
    incus.query(snapshot_path(container, name), "DELETE", wait=True, timeout=120)


def run_snapshot_info(context: Context) -> int:
    """`clincus snapshot info`."""
    options, container = context.options, snapshot_container(context)
    snapshot = find_snapshot(context.incus, container, options.name)
    if options.format == "json":
        print_json({"container": container, "snapshot": snapshot})
        return 0
    rows = [
        ("Snapshot:", snapshot["name"]),
        ("Container:", container),
        ("Created:", local_time(snapshot["created_at"])),
        ("Expires:", local_time(snapshot["expires_at"]) if "expires_at" in snapshot else "never"),
        ("Stateful:", "yes" if snapshot["stateful"] else "no"),
        ("Description:", snapshot.get("description", "-")),
    ]
    print("\n".join(f"{label:<13}{value}" for label, value in rows))
    return 0


CONTAINER_FLAG = flag(
    "-c, --container NAME", "container (default: $CLINCUS_CONTAINER, or the workspace's only one)", default=""
)

SNAPSHOT_COMMANDS = (
    Command(
        "snapshot create",
        run_snapshot_create,
        "Keep the present state of a container",
        arguments="[NAME]",
        flags=(CONTAINER_FLAG, WORKSPACE_FLAG, flag("--stateful", "with its running programs")),
        about="Without a name it is called after the time. The workspace is not in it: it lies on the host.",
        examples=(("clincus snapshot create before-merge", "Keep the state of this workspace's container."),),
    ),
    Command(
        "snapshot list",
        run_snapshot_list,
        "List the snapshots of a container",
        flags=(
            CONTAINER_FLAG,
            WORKSPACE_FLAG,
            flag("--all", "of every Clincus container"),
            format_flag("text", "json"),
        ),
        examples=(("clincus snapshot list --all --format json", "All snapshots, by container."),),
    ),
    Command(
        "snapshot restore",
        run_snapshot_restore,
        "Bring back the state of a container",
        arguments="NAME",
        flags=(
            CONTAINER_FLAG,
            WORKSPACE_FLAG,
            flag("-f, --force", "do not ask; a running one is stopped first and started again"),
            flag("--stateful", "with the programs that ran then"),
        ),
        about="What has changed in the container since is lost, the workspace stays as it is. Take a snapshot of the "
        "present state first if in doubt.",
        examples=(("clincus snapshot restore before-merge --force", "Stop it, go back, start it again."),),
    ),
    Command(
        "snapshot delete",
        run_snapshot_delete,
        "Delete a snapshot, or all of a container",
        arguments="[NAME]",
        flags=(
            CONTAINER_FLAG,
            WORKSPACE_FLAG,
            flag("--all", "all snapshots of the container"),
            flag("-f, --force", "do not ask"),
            flag("--dry-run", "only say what would go"),
        ),
        examples=(("clincus snapshot delete --all --dry-run", "What would go."),),
    ),
    Command(
        "snapshot info",
        run_snapshot_info,
        "Show one snapshot",
        arguments="NAME",
        flags=(CONTAINER_FLAG, WORKSPACE_FLAG, format_flag("text", "json")),
        examples=(("clincus snapshot info before-merge", "When it was taken, and when it expires."),),
    ),
)
