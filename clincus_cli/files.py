"""`file`: copies between the host and a running container."""

from __future__ import annotations

import functools
import os
import re

import clincus
from clincus_cli import TYPE_CHECKING, console, containers, names
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from clincus_cli import transfer


def container_place(text: str) -> tuple[str, str]:
    """Container and absolute path of CONTAINER:PATH, or of ENGINE:CONTAINER:/PATH. Raises UsageError."""
    name, colon, path = text.partition(":")
    there = re.fullmatch(rf"({clincus.ENGINE_NAME}:[^:/]+):(/.*)", text, re.DOTALL)
    if there:
        name, path = there.groups()
    if not colon or not path:
        raise cli.UsageError(f"'{text}' is no place in a container: write CONTAINER:PATH")
    if name != names.HERE:
        containers.container_name(clincus.instance_name(name))
    return name, "/" + path.lstrip("/")


@cli.Command(
    "file push LOCAL CONTAINER:PATH",
    cli.Flag("-r, --recursive", "copy a directory with all that is in it"),
    cli.RESULT_JSON,
    writes=True,
)
def run_file_push(context: Context) -> int:
    """Copy a file or directory into a running container

    As with cp: if PATH is an existing directory, the copy goes into it under its own name. Otherwise PATH is the name
    of the copy. Clincus makes missing parent directories.

    Links in the directory stay links. Clincus follows links on the way to LOCAL, except in a folder that a container
    can change.

    In the workspace and the code user's home, the copy belongs to the code user. Elsewhere it keeps the host's user and
    group ids.

    $ clincus file push -r ./fixtures clincus-ec0578-1:/workspace/fixtures  # Copy a directory in.
    """
    from clincus_cli import descent, transfer

    options = context.options
    place, path = container_place(options.container_path)
    if os.path.isdir(options.local) and not options.recursive:
        raise cli.UsageError(f"'{options.local}' is a directory: use --recursive")
    name = containers.instance_called(context, place)
    incus = context.door(name)
    instance = containers.running_instance(incus, name)
    code = (containers.code_mount(context, instance), clincus.Guest.configured(context.config, "").home)

    def owner(target: str) -> int | None:
        is_codes = any(clincus.path_inside(target, folder) for folder in code)
        return int(context.config.get("incus.code_uid")) if is_codes else None

    with console.progress(f"Copying to {name}"), containers.speaking_of(name):
        shared = functools.partial(descent.shared_folders, context)
        done = transfer.push_files(incus, name, options.local, path, owner=owner, shared=shared)
    session = containers.own_session(context, instance)
    if session is not None and not clincus.path_inside(done.target, code[0]):
        clincus.add_outside_file(incus, name, done.target)
    return report_transfer(context, done, "Pushed", options.local, f"{name}:{done.target}")


@cli.Command(
    "file pull CONTAINER:PATH LOCAL",
    cli.Flag("-r, --recursive", "no effect: a directory is copied without it, too"),
    cli.RESULT_JSON,
)
def run_file_pull(context: Context) -> int:
    """Copy a file or directory out of a running container

    As with cp: if LOCAL is an existing directory, the copy goes into it under its own name, and a file replaces a file.
    Clincus copies a directory only to an empty place, where it appears when it is complete.

    Clincus does not trust files from a container. It leaves out device files, named pipes and links that lead out of
    the copy, and names them on stderr. It drops setuid bits, and never writes through a link of the copy. It follows
    links on the way to LOCAL, except in a folder that a container can change.

    $ clincus file pull clincus-ec0578-1:/home/code/report.txt .  # Copy a file to this directory.
    """
    from clincus_cli import descent, transfer

    place, path = container_place(context.options.container_path)
    name = containers.instance_called(context, place)
    incus = context.door(name)
    containers.running_instance(incus, name)
    with console.progress(f"Copying from {name}"), containers.speaking_of(name):
        shared = functools.partial(descent.shared_folders, context)
        done = transfer.pull_files(incus, name, path, context.options.local, shared=shared)
    return report_transfer(context, done, "Pulled", f"{name}:{path}", done.target)


def report_transfer(context: Context, done: transfer.Transfer, verb: str, source: str, target: str) -> int:
    """Report the copied files, and those that were left out."""
    for text in done.left_out:
        console.warn(f"left out: {text}")
    kind = "directory" if done.is_tree else "file"
    document = {"source": source, "target": target, "kind": kind, "left_out": done.left_out}
    return context.report(f"{verb} {kind} {source} -> {target}", document)
