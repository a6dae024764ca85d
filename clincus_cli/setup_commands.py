"""Part of the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clincus
from clincus_cli.build import BuildContext
from clincus_cli.build import SetupOptions
from clincus_cli.build import build_custom
from clincus_cli.build import build_standard
from clincus_cli.console import confirm
from clincus_cli.console import paint
from clincus_cli.console import print_json
from clincus_cli.console import progress
from clincus_cli.console import say
from clincus_cli.console import warn
from clincus_cli.context import Context
from clincus_cli.host import Host
from clincus_cli.recipe import TOOL_PACKAGES
from clincus_cli.recipe import parse_tools
from clincus_cli.setup import setup
from clincus_cli.words import Command
from clincus_cli.words import UsageError
from clincus_cli.words import flag
from clincus_cli.words import format_flag
from clincus_features.health import health_report


class Stages:
    """Says what goes on during long work: a line for each stage, and on a terminal how long it takes."""

    def __init__(self) -> None:
        self._shown = contextlib.ExitStack()

    def __call__(self, text: str) -> None:
        """The stage before is over and this one begins."""
        self.close()
        say(f"  {text}")
        self._shown.enter_context(progress(text))

    def close(self) -> None:
        """The last stage is over."""
        self._shown.close()

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def setup_options(context: Context) -> SetupOptions:
    """What the config and the flags say about the installation."""
    tools = getattr(context.options, "tools", "")
    return SetupOptions(
        project=context.config.get("incus.project"),
        group=context.config.get("incus.group"),
        user=context.config.get("incus.code_user"),
        uid=context.config.get("incus.code_uid"),
        tools=parse_tools(tools) if tools else tuple(TOOL_PACKAGES),
    )


def run_setup(context: Context) -> int:
    """`clincus setup`."""
    options = context.options

    def ask(need: str) -> bool:
        stages.close()
        if options.yes:
            return True
        if not sys.stdin.isatty():
            words = f"setup has to {need}, and there is no terminal to ask at: give --yes to agree"
            raise clincus.ClincusError(words, 409)
        return confirm(f"{need[0].upper()}{need[1:]}?", force=False)

    with Stages() as stages:
        reports, notes = setup(
            setup_options(context), context.incus, context.environ, say=stages, ask=ask, dry_run=options.dry_run
        )
    planned = [report for report in reports if report.state == "planned"]
    for report in planned:
        print(f"{report.name}: {report.text}")
    for text in notes:
        say(f"Note: {text}.")
    if any(report.state == "declined" for report in reports):
        return 1
    if not planned:
        say("Clincus is ready. Start the dashboard with `clincus serve`, or a session with `clincus shell`.")
    return 0


def run_build(context: Context) -> int:
    """`clincus build` and `clincus build custom NAME`."""
    options = context.options
    if options.custom not in ("", "custom"):
        raise UsageError(f"unknown command '{options.custom}' for 'clincus build'; did you mean custom?", "build")
    with Stages() as stages:
        build = BuildContext(context.incus, Host(), stages, clincus.container_prefix(context.environ))
        if options.custom:
            return run_build_custom(context, build)
        print("Building clincus image...", flush=True)
        chosen = setup_options(context)
        built = build_standard(build, chosen, context.environ, force=options.force, source=options.__dict__["from"])
    if built.skipped:
        print(f"Image '{built.alias}' already exists. Use --force to build it anew.")
    else:
        print(f"Image '{built.alias}' built successfully!")
        print(f"  Version:     {built.version}")
        print(f"  Fingerprint: {built.fingerprint}")
    for text in built.notes:
        warn(f"{text}.")
    return 0


def run_build_custom(context: Context, build: BuildContext) -> int:
    """`clincus build custom NAME --script FILE`."""
    options = context.options
    if not options.name:
        raise UsageError("argument NAME is missing: clincus build custom NAME --script FILE", "build")
    if not options.script:
        raise UsageError("flag --script FILE is missing: the script that makes the image", "build")
    try:
        script = Path(options.script).read_bytes()
    except OSError as error:
        raise clincus.ClincusError(f"build script not found: '{options.script}': {error.strerror}", 400) from error
    built = build_custom(build, options.name, script, base=options.base, force=options.force)
    if isinstance(build.say, Stages):
        build.say.close()
    print_json(built.to_json())
    return 0


def run_health(context: Context) -> int:
    """`clincus health`."""
    config, reason = None, ""
    try:
        config = context.config
    except clincus.ClincusError as error:
        reason = error.message
    incus = context.incus if config else clincus.Incus()
    report = health_report(config, incus, context.environ, config_error=reason, verbose=context.options.verbose)
    if context.options.format == "json":
        print_json(report)
    else:
        print(health_text(report))
    return {"healthy": 0, "degraded": 1}.get(report["status"], 2)


HEALTH_SECTIONS = ("SYSTEM", "CRITICAL", "STORAGE", "CONFIGURATION", "STATUS", "OPTIONAL")
HEALTH_MARKS = {"ok": ("[OK]", "green"), "warning": ("[WARN]", "yellow"), "failed": ("[FAIL]", "red")}


def health_text(report: Mapping[str, Any]) -> str:
    """The health document for people."""
    lines = [paint("Clincus Health Check", "bold"), ""]
    for section in HEALTH_SECTIONS:
        checks = [check for check in report["checks"].values() if check["section"] == section]
        lines += [f"{section}:"] if checks else []
        for check in checks:
            mark, style = HEALTH_MARKS[check["status"]]
            lines.append(f"  {paint(mark.ljust(6), style)} {check['label'].ljust(20)} {check['message']}")
            lines += [paint(f"         fix: {check['fix']}", "dim")] if check["fix"] else []
        lines += [""] if checks else []
    summary = report["summary"]
    lines.append(paint(f"STATUS: {report['status'].upper()}", "bold"))
    if summary["failed"]:
        lines.append(f"{summary['failed']} of {summary['total']} checks failed")
    elif summary["warnings"]:
        lines.append(f"{summary['passed']} checks passed with {summary['warnings']} warnings")
    else:
        lines.append(f"All {summary['total']} checks passed")
    return "\n".join(lines)


TOOLS_FLAG = flag(
    "--tools LIST", "tools in the image: names with commas, each with @VERSION if need be; none (default: all three)"
)

SETUP_COMMANDS = (
    Command(
        "health",
        run_health,
        "Check all that sessions need",
        flags=(format_flag("text", "json"), flag("-v, --verbose", "also check that names can be looked up")),
        about="Each check that is not well comes with what to do.",
        examples=(("clincus health --format json", "The same as a document for programs."),),
        exits=(
            ("0", "healthy"),
            ("1", "degraded: sessions start, and something could be better"),
            ("2", "unhealthy"),
        ),
    ),
    Command(
        "setup",
        run_setup,
        "Install what is missing for sessions to start",
        flags=(
            flag("-y, --yes", "do not ask"),
            flag("--dry-run", "only list what would be done"),
            TOOLS_FLAG,
        ),
        about="Looks for Incus, its storage, network and group, and the image 'clincus', and does only what is "
        "missing, each step after asking. What a person made is never changed. Packages are installed on Debian and "
        "Ubuntu; on others it says what to install.",
        examples=(
            ("clincus setup --dry-run", "List what is missing."),
            ("sudo clincus setup --yes", "Do all of it."),
        ),
    ),
    Command(
        "build",
        run_build,
        "Build the image of the sessions, or one of your own",
        arguments="[custom] [NAME]",
        flags=(
            flag("--force", "build even if the image is there"),
            flag(
                "--from SOURCE", "host (this machine's packages), or an image such as images:debian/13", default="host"
            ),
            TOOLS_FLAG,
            flag("--script FILE", "with `custom`: the script, run as root in the image", default=""),
            flag("--base ALIAS", "with `custom`: the image to begin with", default="clincus"),
        ),
        about="Alone it builds the standard image 'clincus' and keeps the two before it as "
        "clincus-YYYYMMDD-HHMMSS. `build custom NAME` makes an image by a script of yours, run in a container that is "
        "always removed, and prints a JSON document.",
        examples=(
            ("clincus build --force", "Build the standard image anew, with the newest tools."),
            ("clincus build custom go --script install-go.sh", "Make an image 'go' for `clincus shell --image go`."),
        ),
    ),
)
