"""`snapshot`: states of a container, kept and brought back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import clincus
from clincus_cli import commands as cli
from clincus_cli import console, containers, names, sessions
from clincus_cli.context import Context
from clincus_cli.losses import loss_question

CONTAINER = cli.Flag(
    "-c, --container NAME", "container (default: $CLINCUS_CONTAINER, or the workspace's only one)", default=""
)


def snapshot_container(context: Context) -> str:
    """The container that a snapshot command means: by --container, --workspace, $CLINCUS_CONTAINER or this folder."""
    options = context.options
    named_by = options.container or ("" if options.workspace else context.environ.get("CLINCUS_CONTAINER", ""))
    if named_by:
        return containers.instance_called(context, named_by)
    workspace = os.path.abspath(clincus.expand(options.workspace or ".", context.environ))
    found = [session.id for session in names.sessions_of_folder(context.sessions.registry.all(), workspace)]
    if not found:
        raise clincus.ClincusError(f'no Clincus containers found for "{workspace}": name one with --container', 404)
    if len(found) > 1:
        raise clincus.ClincusError(f"multiple Clincus containers found ({', '.join(found)}): use --container", 409)
    return found[0]


def snapshot_documents(snapshots: object) -> list[dict[str, object]]:
    """Snapshots as `--format json` shows them, oldest first. Those of another form are left out: an engine has any."""
    documents: list[dict[str, object]] = []
    listed = snapshots if isinstance(snapshots, list) else []
    plain = [one for one in listed if isinstance(one, dict) and isinstance(one.get("created_at"), str)]
    for one in sorted(plain, key=lambda one: str(one["created_at"])):
        expires = str(one.get("expires_at") or "")
        description = one.get("description") or ""
        documents.append(
            {
                "created_at": one["created_at"],
                **({"description": description} if description else {}),
                **({"expires_at": expires} if expires and not expires.startswith("0001-") else {}),  # that is never
                "name": str(one.get("name")).rpartition("/")[2],
                "stateful": bool(one.get("stateful")),
            }
        )
    return documents


def list_snapshots(incus: clincus.Incus, container: str) -> list[dict[str, object]]:
    """The snapshots of a container, oldest first. Raises ClincusError (404)."""
    containers.find_instance(incus, container)
    return snapshot_documents(incus.query(incus.path(container, "/snapshots?recursion=1")))


def find_snapshot(incus: clincus.Incus, container: str, name: str) -> dict[str, object]:
    """One snapshot of a container. Raises ClincusError (404)."""
    for snapshot in list_snapshots(incus, container):
        if snapshot["name"] == name:
            return snapshot
    advice = f"`clincus snapshot list -c {container}` shows those that are there"
    raise clincus.ClincusError(f'snapshot "{name}" not found in container "{container}"; {advice}', 404)


@cli.Command(
    "snapshot create [NAME]",
    CONTAINER,
    cli.WORKSPACE,
    cli.Flag("--stateful", "with its running programs"),
    cli.RESULT_JSON,
    writes=True,
)
def run_snapshot_create(context: Context) -> int:
    """Take a snapshot of a container

    Without NAME, the snapshot's name is the time. A mounted workspace is on the host, so the snapshot does not hold it.

    $ clincus snapshot create before-merge  # Keep the state of this workspace's container.
    """
    import time

    options = context.options
    container = snapshot_container(context)
    name = options.name or time.strftime("snap-%Y%m%d-%H%M%S")
    if "/" in name or name in (".", "..") or any(ord(letter) < 33 for letter in name):
        raise cli.UsageError(f"'{name}' is no snapshot's name: write it without slashes and spaces")
    incus = context.door(container)
    instance = containers.find_instance(incus, container)
    if options.stateful and instance.get("expanded_config", {}).get("migration.stateful") != "true":
        setting = f"`incus config set {incus.place(container)} migration.stateful=true`"
        advice = f"set it with {setting}, and restart the container"
        raise clincus.ClincusError(f'container "{container}" lacks migration.stateful: {advice}', 409)
    if any(snapshot["name"] == name for snapshot in list_snapshots(incus, container)):
        raise clincus.ClincusError(f'snapshot "{name}" of container "{container}" already exists: choose another', 409)
    with console.progress(f"Taking a snapshot of {container}"), containers.speaking_of(container):
        body = {"name": name, "stateful": options.stateful}
        incus.query(incus.path(container, "/snapshots"), "POST", body, wait=True, timeout=600)
    kind = "stateful snapshot" if options.stateful else "snapshot"
    document = {"container": container, "name": name, "stateful": options.stateful}
    return context.report(f"Created {kind} '{name}' for container '{container}'", document)


@cli.Command(
    "snapshot list",
    CONTAINER,
    cli.WORKSPACE,
    cli.Flag("--all", "of every Clincus container"),
    cli.format_flag("text", "json"),
    shows=True,
)
def run_snapshot_list(context: Context) -> int:
    """List the snapshots of a container

    $ clincus snapshot list --all --format json  # All snapshots, by container.
    """
    options = context.options
    container = ""
    if options.all:
        prefix = clincus.container_prefix(context.environ)
        found = {
            clincus.session_id_on(engine, instance["name"]): snapshot_documents(instance.get("snapshots"))
            for instance, engine in context.instances()
            if instance["name"].startswith(prefix)
        }
    else:
        container = snapshot_container(context)
        found = {container: list_snapshots(context.door(container), container)}
    single = {"container": container, "snapshots": found.get(container)}
    tables = [snapshot_table(name, found[name]) for name in sorted(found)] or ["(none)"]
    document = dict(sorted(found.items())) if options.all else single
    return context.show(document, ["\n\n".join(tables)])


def snapshot_table(container: str, snapshots: Sequence[Mapping[str, object]]) -> str:
    """The snapshots of a container as a person reads them."""
    rows = [("NAME", "CREATED", "STATEFUL")]
    for one in snapshots:
        stateful = "yes" if one["stateful"] else "no"
        rows.append((clincus.printable(str(one["name"])), console.local_time(one["created_at"]), stateful))
    lines = ["  {:<20} {:<26} {}".format(*row) for row in rows] if snapshots else ["  (none)"]
    total = f"Total: {len(snapshots)} snapshot{'' if len(snapshots) == 1 else 's'}"
    return "\n".join([f"Snapshots for {container}:", *lines, "", total])


@cli.Command(
    "snapshot restore NAME",
    CONTAINER,
    cli.WORKSPACE,
    cli.YES,
    cli.Flag("-f, --force", "do not ask; a running one is stopped first and started again"),
    cli.Flag("--stateful", "also restore the programs that ran then; not with a closed network"),
    cli.RESULT_JSON,
    writes=True,
)
def run_snapshot_restore(context: Context) -> int:
    """Restore a container to a snapshot

    Changes in the container since then are lost. The workspace stays as it is, and so does the conversation of a
    session. A clone goes back with the container. The question lists work in the container that is not on this machine.
    If you agree, or with --force, Clincus copies that work here first. If in doubt, take a snapshot of the present
    state before.

    $ clincus snapshot restore before-merge --force  # Stop it, go back, start it again.
    """
    options = context.options
    container = snapshot_container(context)
    incus = context.door(container)
    snapshot = find_snapshot(incus, container, options.name)
    if options.stateful and not snapshot["stateful"]:
        reason = "was taken without the programs that ran then, so --stateful cannot bring them back"
        raise clincus.ClincusError(f'snapshot "{options.name}" {reason}', 409)
    instance = containers.find_instance(incus, container)
    session = containers.own_session(context, instance)
    if instance["status"] != "Stopped" and not options.force:
        stop = "clincus stop" if session is not None else "clincus container stop"
        advice = f"stop it with `{stop} {container}`, or use --force to stop it, restore and start it again"
        raise clincus.ClincusError(f'container "{container}" must be stopped before restore: {advice}', 409)
    note = "" if cli.agreed(options) else loss_question(context.sessions, session)
    question = f"Restore container '{container}' from snapshot '{options.name}'? All later changes are lost.{note}"
    if not console.confirm(question, yes=cli.agreed(options)):
        return 1
    from clincus_features.snapshots import Keeper

    containers.check_outlives_stop(instance, "restored")
    with console.progress(f"Restoring {container}"), containers.speaking_of(container):
        if session is not None:
            Keeper(context.sessions).restore(container, options.name, stateful=options.stateful, force=True)
        else:
            with containers.stopped(context, instance, force=True):
                body = {"restore": options.name, "stateful": options.stateful}
                incus.query(incus.path(container), "PUT", body, wait=True, timeout=600)
    words = f"Restored container '{container}' from snapshot '{options.name}'"
    return context.report(words, {"container": container, "name": options.name, "result": "restored"})


@cli.Command(
    "snapshot delete [NAME]",
    CONTAINER,
    cli.WORKSPACE,
    cli.Flag("--all", "all snapshots of the container"),
    cli.YES,
    cli.FORCE_F,
    cli.RESULT_JSON,
    writes=True,
)
def run_snapshot_delete(context: Context) -> int:
    """Delete a snapshot, or all snapshots of a container

    $ clincus snapshot delete --all  # Ask, then delete all of them.
    """
    from urllib.parse import quote

    options = context.options
    if bool(options.name) == options.all:
        raise cli.UsageError("give a snapshot name or --all" if options.all else "snapshot name required, or --all")
    container = snapshot_container(context)
    incus = context.door(container)
    found = list_snapshots(incus, container) if options.all else [find_snapshot(incus, container, options.name)]
    taken = [str(snapshot["name"]) for snapshot in found]
    if not taken:
        return context.report("No snapshots to delete", {"container": container, "deleted": []})

    def delete(name: str) -> None:
        address = incus.path(container, f"/snapshots/{quote(name, safe='')}")
        incus.query(address, "DELETE", wait=True, timeout=120)
        console.say(f"Deleted snapshot '{name}'" + ("" if options.all else f" from container '{container}'"))

    if options.all:
        question = f"Delete {len(taken)} snapshot(s) of '{container}': {', '.join(taken)}?"
        if not console.confirm(question, yes=cli.agreed(options)):
            return 1
        deleted = sessions.attempt_each(taken, delete)
        context.show({"container": container, "deleted": deleted}, [])
        return 0 if deleted == taken else 1
    question = f"Delete snapshot '{options.name}' of container '{container}'?"
    if not console.confirm_named(question, yes=cli.agreed(options)):
        return 1
    delete(options.name)
    return context.show({"container": container, "deleted": taken}, [])


@cli.Command("snapshot info NAME", CONTAINER, cli.WORKSPACE, cli.format_flag("text", "json"), shows=True)
def run_snapshot_info(context: Context) -> int:
    """Show one snapshot

    $ clincus snapshot info before-merge  # When it was taken, and when it expires.
    """
    options = context.options
    container = snapshot_container(context)
    snapshot = find_snapshot(context.door(container), container, options.name)
    rows = {
        "Snapshot": snapshot["name"],
        "Container": container,
        "Created": console.local_time(snapshot["created_at"]),
        "Expires": console.local_time(snapshot["expires_at"]) if "expires_at" in snapshot else "never",
        "Stateful": "yes" if snapshot["stateful"] else "no",
        "Description": snapshot.get("description", "-"),
    }
    document = {"container": container, "snapshot": snapshot}
    return context.show(document, [console.facts(rows.items())])
