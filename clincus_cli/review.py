"""`diff`, `checkpoints`, `undo`, `commit`: show a session's changes, undo them or commit them.

The server does the work.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.appeared import appeared_lines
from clincus_cli.context import Context
from clincus_cli.server import PORT, ask_session, fetch_from_server, session_path

if TYPE_CHECKING:
    from typing import Any

LOOK_WITHIN = 300  # seconds: the first look at a large workspace takes a while
ask = functools.partial(ask_session, within=LOOK_WITHIN)
WHYS = {"link": "a link or a folder is in the way", "readonly": "it is protected, or cannot be written to",
        "gone": "it is gone", "failed": "it cannot be written", "occupied": "a file is there that no checkpoint holds",
        "changed": "it has changed meanwhile"}  # fmt: skip


def check_scope(text: str) -> str:
    """A check for the name of a state."""
    if text not in ("start", "turn", "branch", "now") and not (text.isdecimal() and len(text) < 10):
        raise ValueError("write start, turn, branch, now or the number of a checkpoint")
    return text


@cli.Command(
    "diff [NAME] [PATH]",
    cli.Flag("--stat", "only the files, with their counts"),
    cli.Flag("--from STATE", "start, turn, branch or a checkpoint", check=check_scope, default="start"),
    cli.Flag("--to STATE", "now or a checkpoint", check=check_scope, default="now"),
    cli.Flag("--json", "the list of files as JSON"),
    PORT,
)
def run_diff(context: Context) -> int:
    """Show what a session has changed in its workspace

    Compares with the start of the session, unless --from names another STATE: `turn` is the beginning of the tool's
    last turn, `branch` is where the branch left its upstream or main, and a number is a checkpoint. It works for
    stopped and deleted sessions too. The server must run (`clincus serve`).

    $ clincus diff clincus-ec0578-1 --stat  # Which files, and how much.
    $ clincus diff clincus-ec0578-1 --from turn src/app.js  # One file, in the last turn.
    """
    options = context.options
    scope = {"from": getattr(options, "from"), "to": options.to}
    if options.stat or options.json:
        found = ask(context, "GET", "changes", query=scope)
        if options.path:
            found["files"] = [one for one in found["files"] if is_in(one["path"], [options.path.rstrip("/")])]
        return context.show(found, [*stat_lines(found)] or ["Nothing has changed."])
    query = {**scope, **({"path": options.path} if options.path else {})}
    patch = fetch_from_server(context, "GET", session_path(options.name, "changes/patch", query), None, LOOK_WITHIN)
    if sys.stdout.isatty():
        print("\n".join(painted(patch.decode("utf-8", "replace").split("\n"))))
    else:  # for `patch` and `git apply`, byte by byte
        sys.stdout.buffer.write(patch)
    return 0


@cli.Command(
    "checkpoints [NAME]",
    cli.Flag("--keep NOTE", "keep the present state, with a note"),
    cli.format_flag("text", "json"),
    PORT,
)
def run_checkpoints(context: Context) -> int:
    """List the checkpoints of a session's workspace, newest first

    `clincus diff --from` and `clincus undo --to` take their numbers. The server must run (`clincus serve`).

    $ clincus checkpoints clincus-ec0578-1  # What can I go back to?
    $ clincus checkpoints clincus-ec0578-1 --keep 'before the big move'  # Keep the present state.
    """
    if context.options.keep is not None:
        made = ask(context, "POST", "checkpoints", {"note": context.options.keep})
        console.say(f"Kept as checkpoint {made['checkpoint']}")
        return 0
    found = ask(context, "GET", "checkpoints")
    if not found:
        console.say("No checkpoints are kept of this session.")
    rows = [(one["checkpoint"], console.local_time(one["at"]), one["why"], count(one), one["note"]) for one in found]
    table = console.table(["NUMBER", "TIME", "WHY", "CHANGES", "NOTE"], rows)
    return context.show(found, [table])


@cli.Command(
    "undo [NAME] [PATH...]",
    cli.Flag("--to STATE", "start, turn or a checkpoint", check=check_scope, default="turn"),
    cli.YES,
    cli.FORCE,
    cli.RESULT_JSON,
    PORT,
)
def run_undo(context: Context) -> int:
    """Restore files of a session's workspace to an earlier state

    By default it restores the files that the tool's turns have touched, to the beginning of the last turn. With PATHs,
    it restores these files and folders. Clincus keeps the present state as a checkpoint first, so you can undo an undo.
    It leaves files that git ignores, and files that changed meanwhile. The server must run (`clincus serve`).

    $ clincus undo clincus-ec0578-1  # Take back the last turn.
    $ clincus undo clincus-ec0578-1 --to start src  # A folder, as it was when the session began.

    Exits: 0 all files were restored; 1 otherwise
    """
    options = context.options
    paths = [path.rstrip("/") for path in options.path]
    found = ask(context, "GET", "changes", query={"from": options.to, "to": "now"})
    files = [one for one in found["files"] if (is_in_change(one, paths) if paths else one["touched"])]
    for path in paths:
        if not any(is_in_change(one, [path]) for one in files):
            advice = f"`clincus diff {options.name} --from {options.to} --stat` lists what does"
            raise clincus.ClincusError(f"'{path}' does not differ from '{options.to}': {advice}", 409)
    if not files:
        console.say("These files are as they were then: there is nothing to undo.")
        nothing = {"checkpoint": "", "restored": [], "removed": [], "failed": []}
        return context.show(nothing, [])
    context.tell("\n".join(stat_lines({**found, "files": files, "appeared": []})))
    if found["others"]:
        console.warn(
            f"these sessions work in the same folder, and some changes may be theirs: {', '.join(found['others'])}"
        )
    if not console.confirm(f"Bring {len(files)} file(s) back to '{options.to}'?", yes=cli.agreed(options)):
        return 1
    done = ask(context, "POST", "restore", {"checkpoint": options.to, "paths": paths or None})
    for one in done["failed"]:
        console.warn(f"{one['path']} was left as it is: {WHYS.get(one['why'], one['why'])}")
    brought = len(done["restored"]) + len(done["removed"])
    console.say(f"{brought} file(s) brought back. To undo this: clincus undo {options.name} --to {done['checkpoint']}")
    context.show(done, [])
    return 1 if done["failed"] else 0


@cli.Command(
    "commit [NAME] [PATH...]",
    cli.Flag("-m, --message TEXT", "the message of the commit", default=""),
    cli.Flag("--author AUTHOR", "`Name <mail>` (default: as git has it)", default=""),
    cli.Flag("--no-hooks", "run no hooks of the repository"),
    cli.Flag("--json", "the commit as JSON"),
    PORT,
)
def run_commit(context: Context) -> int:
    """Commit what a session has changed, in its container and in your name

    Commits all files that differ from the last commit, or only PATHs. Git in the container makes the commit, and runs
    the hooks of the repository there. The commit has no signature. Your own git does not run, since it would work in a
    folder that an agent can change meanwhile. The server must run (`clincus serve`).

    $ clincus commit clincus-ec0578-1 -m 'Add the login page'  # All that differs.
    $ clincus commit clincus-ec0578-1 src -m 'Add the form'  # Only a folder.
    """
    options = context.options
    if not options.message.strip():
        raise clincus.ClincusError("write the message of the commit: -m 'Fix the login'", 400)
    draft = ask(context, "GET", "commit")
    name, email = author_of(options.author) if options.author else (draft["name"], draft["email"])
    if not (name and email):
        words = "git does not know your name: give it with --author 'Name <mail>', or set user.name and user.email"
        raise clincus.ClincusError(words, 400)
    paths = [path.rstrip("/") for path in options.path]
    for path in paths:
        if not any(is_in(one["path"], [path]) for one in draft["files"]):
            advice = f"`clincus diff {options.name} --stat` lists what has changed"
            raise clincus.ClincusError(f"'{path}' does not differ from the last commit: {advice}", 409)
    chosen = [one["path"] for one in draft["files"] if not paths or is_in(one["path"], paths)]
    body = {"message": options.message, "name": name, "email": email, "paths": chosen, "hooks": not options.no_hooks}
    made = ask(context, "POST", "commit", body)
    where = f" on {made['branch']}" if made["branch"] else ""
    return context.show(made, [f"{made['commit'][:12]}{where}"])


def author_of(text: str) -> tuple[str, str]:
    """Name and e-mail out of `Name <mail>`. Raises ClincusError(400)."""
    match = re.fullmatch(r"\s*([^<>]+?)\s*<([^<>\s]+)>\s*", text)
    if match is None:
        raise clincus.ClincusError(f"invalid author '{text}': write Name <mail>", 400)
    return match[1], match[2]


def is_in(path: str, chosen: Iterable[str]) -> bool:
    """True if a path is one of the chosen ones, or is in one of them."""
    return any(path == one or path.startswith(f"{one}/") for one in chosen)


def is_in_change(change: Mapping[str, Any], chosen: Iterable[str]) -> bool:
    """True if a changed file is among the chosen ones, by its present name or its old one."""
    return any(is_in(path, chosen) for path in (change["path"], change["old_path"]) if path)


def count(one: Mapping[str, Any]) -> str:
    """The number of changes, in one word or three."""
    return f"{one['files']} file(s) +{one['added']} -{one['removed']}" if one["files"] else "none"


def line_counts(one: Mapping[str, Any]) -> str:
    """The numbers of added and removed lines of a file; "" if they are not known."""
    if one["binary"]:
        return "binary"
    if one["added"] is None:
        return ""
    return f"+{one['added']} -{one['removed']}"


def stat_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The text of `clincus diff --stat`."""
    for one in found["files"]:
        lines = line_counts(one)
        path = f"{one['old_path']} -> {one['path']}" if one["old_path"] else one["path"]
        runs = f"  ({one['runs']})" if one["runs"] else ""
        yield f"{one['status']}  {clincus.printable(path)}  {lines}".rstrip() + runs
    if found["truncated"]:
        yield "… and more: this list is cut"
    for one in found["skipped"]:
        if one["why"] != "ignored":
            yield f"-  {clincus.printable(one['path'])}  not looked at: {one['why']}"
    if found["skipped_truncated"]:
        yield "-  … and more paths that were not looked at"
    yield from (f"!  {line}" for line in appeared_lines(found["appeared"]))
    if found["appeared_truncated"]:
        yield "!  … and perhaps more: this list is not whole"
    if found["stale"]:
        yield f"(not of now: {clincus.printable(found['stale'])})"


def painted(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a patch for a terminal: a container has written them, so nothing in them moves the cursor."""
    for line in lines:
        text = clincus.printable(line.replace("\t", "    "))
        style = {"+": "green", "-": "red", "@": "dim", "d": "bold"}.get(line[:1], "")
        yield console.paint(text, style) if style else text
