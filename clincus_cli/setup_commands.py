"""`health`, `setup`, `uninstall` and `build`: the commands for checking, installing and image building."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import groupby

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

# The functions below import the modules that do the work: to load them takes longer than most commands do.
if TYPE_CHECKING:
    from typing import Any

    from clincus_cli.build import SetupOptions

TOOLS = cli.Flag(
    "--tools LIST",
    "tools in the image, with commas between them, such as claude@2.1.0,copilot; none (default: all three)",
)


class Stages(ExitStack):
    """Reports the stages of long work: a line for each, and on a terminal its duration."""

    def __call__(self, text: str) -> None:
        """End the stage before, and begin this one. The text may come from a container."""
        self.close()
        words = clincus.printable(text)
        console.say(f"  {words}")
        self.enter_context(console.progress(words))


def setup_options(context: Context) -> SetupOptions:
    """The aims of the installation, from the flags and the config; under sudo, it is the config of the caller."""
    from clincus_cli.build import SetupOptions
    from clincus_cli.recipe import TOOL_PACKAGES, parse_tools
    from clincus_cli.setup import person_behind

    tools = context.options.tools
    person = person_behind(context.environ) if os.geteuid() == 0 else ""
    if person:
        home = os.path.expanduser(f"~{person}")
        context.basics = context.config = clincus.load_config({**context.environ, "HOME": home})
    config = context.config
    return SetupOptions(
        project=config.get("incus.project"),
        group=config.get("incus.group"),
        user=config.get("incus.code_user"),
        uid=config.get("incus.code_uid"),
        tools=parse_tools(tools) if tools else tuple(TOOL_PACKAGES),
    )


@contextmanager
def one_setup(environ: Mapping[str, str]) -> Iterator[None]:
    """Wait until no other `clincus setup` of this user runs: both would make what is missing, and one would fail."""
    # Not in the home, which belongs to another user after `sudo -E`.
    folder = clincus.own_file(environ, "setup") if os.geteuid() else "/run/clincus-setup"
    try:
        with clincus.locked_folder(folder, 0):
            pass
    except clincus.ClincusError as error:
        if error.status != 409:
            raise
        console.say("Another `clincus setup` runs. Waiting for it.")
    with clincus.directory_lock(folder, None):
        yield


@cli.Command(
    "setup",
    cli.Flag("-y, --yes", "do not ask"),
    cli.Flag("--dry-run", "only list what would be done"),
    cli.PLAN_JSON,
    TOOLS,
    writes=True,
)
def run_setup(context: Context) -> int:
    """Install everything that sessions need to start

    Looks for Incus, its storage, network and group, and the image 'clincus', and does only the missing steps, each
    after a question. It never changes settings that a person made. It installs packages on Debian and Ubuntu; elsewhere
    it lists what to install.

    $ clincus setup --dry-run  # List what is missing.
    $ sudo clincus setup --yes  # Do all of it.
    """
    from clincus_cli.host import Host
    from clincus_cli.setup import Setup

    options = context.options
    prints_plan = cli.prints_plan(options)

    def ask(need: str) -> bool:
        stages.close()
        if options.yes:
            return True
        if not sys.stdin.isatty():
            words = f"setup has to {need}, and there is no terminal to ask at: give --yes to agree"
            raise clincus.ClincusError(words, 409)
        return console.confirm(f"{need[0].upper()}{need[1:]}?", yes=False)

    with nullcontext() if options.dry_run else one_setup(context.environ), Stages() as stages:
        setup = Setup(setup_options(context), Host(), context.incus, stages, context.environ)
        planned = setup.plan() if options.dry_run else {}
        is_ready = not planned and (options.dry_run or setup.run(ask))
    if prints_plan:
        console.print_json({"steps": planned, "notes": setup.notes})
        return 0
    for name, need in planned.items():
        print(f"{name}: {need}")
    for text in setup.notes:
        console.say(f"Note: {text}.")
    if is_ready:
        console.say(ready_words(setup.notes))
    return 0 if is_ready or options.dry_run else 1


def ready_words(notes: Iterable[str]) -> str:
    """The last line of a setup. It sends people to the notes if sessions would start without their tool. Pure."""
    from clincus_cli.build import LACKS

    lacks_tool = any(text.startswith(LACKS) for text in notes)
    but = ", but the image lacks the tools that the notes above name" if lacks_tool else ""
    return f"Clincus is ready{but}. Start the dashboard with `clincus serve`, or a session with `clincus shell`."


@cli.Command(
    "uninstall",
    cli.Flag("--dry-run", "only list what is there, and the command that removes it"),
    cli.PLAN_JSON,
    cli.Flag("-y, --yes", "do not ask"),
)
def run_uninstall(context: Context) -> int:
    """Remove everything that Clincus has left on this machine

    Lists sessions, conversations, the service, the image, network and storage in Incus, settings and files, each with
    the command that removes it, and asks for each. Your projects and Incus stay. So does everything that `clincus
    setup` has no record of making, and a session with work that is not on this machine.

    $ clincus uninstall --dry-run  # List what there is; nothing is removed.
    $ clincus uninstall  # Remove it, part by part.

    Exits: 0 nothing is left; 1 something is left, and the output says why
    """
    from clincus_cli import leftovers
    from clincus_cli.host import Host

    options = context.options
    left = 0
    found = leftovers.Leftovers(context, Host()).parts()
    if cli.prints_plan(options):
        console.print_json([{"what": one.what, "command": one.command, "kept": one.kept} for one in found])
        return 0
    for part in found:
        if options.dry_run:
            print(leftovers.part_text(part))
        elif not leftovers.is_removed(part, yes=options.yes):
            left += 1
    if options.dry_run:
        print("[Dry run] No changes made.")
    elif left:
        console.say(f"{left} part(s) are left. `clincus uninstall --dry-run` lists them.")
    else:
        console.say("Nothing of Clincus is left on this machine but your projects and Incus.")
    return 1 if left else 0


@cli.Command(
    "build [custom] [NAME]",
    cli.Flag("--force", "build even if the image is there"),
    cli.Flag("--from SOURCE", "host (this machine's packages), or an image such as images:debian/13", default="host"),
    TOOLS,
    cli.Flag("--script FILE", "with `custom`: the script, run as root in the image", default=""),
    cli.Flag("--base ALIAS", "with `custom`: the image to begin with", default="clincus"),
    cli.RESULT_JSON,
    writes=True,
)
def run_build(context: Context) -> int:
    """Build the image of the sessions, or one of your own

    Without `custom`, it builds the standard image 'clincus', and keeps the previous two as clincus-YYYYMMDD-HHMMSS.
    `build custom NAME` runs your script in a temporary container, makes an image of that, and always prints JSON.

    $ clincus build --force  # Build the standard image anew, with the newest tools.
    $ clincus build custom go --script install-go.sh  # Make an image 'go' for `clincus shell --image go`.
    """
    from clincus_cli.build import BuildContext, build_custom, build_standard
    from clincus_cli.host import Host

    options = context.options
    if options.custom not in ("", "custom"):
        raise cli.UsageError(f"unknown command '{options.custom}' for 'clincus build'; did you mean custom?", "build")
    script = read_script(context) if options.custom else b""
    prints_json = options.custom or context.prints_json
    if not prints_json:
        print("Building clincus image...", flush=True)
    with Stages() as stages:
        build = BuildContext(context.incus, Host(), stages, clincus.container_prefix(context.environ))
        if options.custom:
            built = build_custom(build, options.name, script, base=options.base, force=options.force)
        else:
            chosen = setup_options(context)
            source = vars(options)["from"]
            built = build_standard(build, chosen, context.environ, force=options.force, source=source)
    if prints_json:
        document = {"alias": built.alias, "skipped": built.skipped}
        made = {"fingerprint": built.fingerprint, **({"version": built.version} if built.version else {})}
        console.print_json(document if built.skipped else {**document, **made})
    elif built.skipped:
        print(f"Image '{built.alias}' already exists. Use --force to build it anew.")
    else:
        print(f"Image '{built.alias}' built successfully!")
        print(f"  Version:     {built.version}")
        print(f"  Fingerprint: {built.fingerprint}")
    for text in built.notes:
        console.warn(f"{text}.")
    return 0


def read_script(context: Context) -> bytes:
    """The script of `clincus build custom NAME --script FILE`. Raises UsageError, or ClincusError (400)."""
    name = context.options.name
    path = context.options.script
    if not name or not path:
        missing = "flag --script FILE" if name else "argument NAME"
        raise cli.UsageError(f"{missing} is required: clincus build custom NAME --script FILE", "build")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise clincus.ClincusError(f"build script not found: '{path}': {error.strerror}", 400) from error


@cli.Command(
    "health",
    cli.format_flag("text", "json"),
    cli.Flag("-v, --verbose", "also check name resolution"),
    shows=True,
)
def run_health(context: Context) -> int:
    """Check everything that sessions need

    Each check that fails comes with advice.

    $ clincus health --format json  # The same as a document for programs.

    Exits: 0 healthy; 1 degraded: sessions start, and something could be better; 2 unhealthy
    """
    from clincus_features.health import health_report

    config = None
    reason = ""
    try:
        config = context.config
    except clincus.ClincusError as error:
        reason = error.message
    incus = context.incus if config else clincus.Incus()
    report = health_report(
        config, incus, context.environ, config_error=reason, verbose=context.options.verbose,
        examiners=context.extensions.examiners, sessions=lambda: sessions_now(context),
    )  # fmt: skip
    context.show(report, health_lines(report))
    return {"healthy": 0, "degraded": 1}.get(report["status"], 2)


def sessions_now(context: Context) -> list[clincus.Session]:
    """The sessions as Incus has them; none if it does not answer, which is a finding of its own."""
    try:
        return context.sessions.registry.all()
    except clincus.ClincusError:
        return []


HEALTH_MARKS = {"ok": ("[OK]", "green"), "warning": ("[WARN]", "yellow"), "failed": ("[FAIL]", "red")}


def health_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The health document for people."""
    yield from (console.paint("Clincus Health Check", "bold"), "")
    for section, checks in groupby(report["checks"].values(), lambda check: check["section"]):
        yield f"{section}:"
        for check in checks:
            mark, style = HEALTH_MARKS[check["status"]]
            yield f"  {console.paint(mark.ljust(6), style)} {check['label'].ljust(20)} {check['message']}"
            if check["fix"]:
                yield console.paint(f"         fix: {check['fix']}", "dim")
        yield ""
    summary = report["summary"]
    yield console.paint(f"STATUS: {report['status'].upper()}", "bold")
    if summary["failed"]:
        yield f"{summary['failed']} of {summary['total']} checks failed"
    elif summary["warnings"]:
        yield f"{summary['passed']} checks passed with {summary['warnings']} warnings"
    else:
        yield f"All {summary['total']} checks passed"
