"""Part of the command line."""

from __future__ import annotations

import os

import clincus
from clincus_cli.console import progress
from clincus_cli.console import say
from clincus_cli.console import warn
from clincus_cli.containers import code_mount
from clincus_cli.containers import container_name
from clincus_cli.containers import running_instance
from clincus_cli.containers import speaking_of
from clincus_cli.context import Context
from clincus_cli.words import Command
from clincus_cli.words import UsageError
from clincus_cli.words import flag


def container_place(text: str) -> tuple[str, str]:
    """Container and absolute path of CONTAINER:PATH. Raises UsageError."""
    name, colon, path = text.partition(":")
    if not colon or not path:
        raise UsageError(f"'{text}' is no place in a container: write CONTAINER:PATH")
    return container_name(name), "/" + path.lstrip("/")


def run_file_push(context: Context) -> int:
    """`clincus file push`."""
    options = context.options
    name, path = container_place(options.container_path)
    if os.path.isdir(options.local) and not options.recursive:
        raise UsageError(f"'{options.local}' is a directory: use --recursive")
    instance = running_instance(context.incus, name)
    code = (code_mount(context, instance), clincus.guest_home(context.config))

    def owner(target: str) -> int | None:
        is_codes = any(clincus.path_inside(target, folder) for folder in code)
        return int(context.config.get("incus.code_uid")) if is_codes else None

    with progress(f"Copying to {name}"), speaking_of(f'container "{name}"'):
        done = clincus.push_files(context.incus, name, options.local, path, owner=owner, recursive=options.recursive)
    return report_transfer(done, "Pushed", options.local, f"{name}:{done.target}")


def run_file_pull(context: Context) -> int:
    """`clincus file pull`."""
    name, path = container_place(context.options.container_path)
    running_instance(context.incus, name)
    with progress(f"Copying from {name}"), speaking_of(f'container "{name}"'):
        done = clincus.pull_files(context.incus, name, path, context.options.local)
    return report_transfer(done, "Pulled", f"{name}:{path}", done.target)


def report_transfer(done: clincus.Transfer, verb: str, source: str, target: str) -> int:
    """Say what was copied, and what was not."""
    for text in done.left_out:
        warn(f"left out: {text}")
    say(f"{verb} {'directory' if done.is_tree else 'file'} {source} -> {target}")
    return 0


FILE_COMMANDS = (
    Command(
        "file push",
        run_file_push,
        "Copy a file or directory into a running container",
        arguments="LOCAL CONTAINER:PATH",
        flags=(flag("-r, --recursive", "copy a directory with all that is in it"),),
        about="As with cp, a directory that exists there takes the copy in under its own name; "
        "else PATH is the copy. Missing parents are made.\n\nIn the workspace and the code user's home the copy "
        "belongs to the code user, elsewhere to the host's numbers.",
        examples=(("clincus file push -r ./fixtures clincus-ec0578-1:/workspace/fixtures", "Copy a directory in."),),
    ),
    Command(
        "file pull",
        run_file_pull,
        "Copy a file or directory out of a running container",
        arguments="CONTAINER:PATH LOCAL",
        flags=(flag("-r, --recursive", "for a directory; it is copied without it as well"),),
        about="As with cp, a directory LOCAL that exists takes the copy in under its own name; "
        "nothing that is there already is removed, but a file of the same name gets the new content.\n\nWhat comes out "
        "of a container is not trusted: device files, named pipes and links that lead out of the copy are left out "
        "and named on stderr, setuid bits are dropped, and no link is ever written through.",
        examples=(("clincus file pull clincus-ec0578-1:/home/code/report.txt .", "Copy a file to this directory."),),
    ),
)
