"""Part of the command line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from collections.abc import Iterator

import clincus
from clincus_cli.context import Context
from clincus_cli.words import COMMAND_TABLE
from clincus_cli.words import GROUPS
from clincus_cli.words import HELP_FLAG
from clincus_cli.words import START_FLAGS
from clincus_cli.words import Command
from clincus_cli.words import command_named


def run_version(context: Context) -> int:
    """`clincus version`."""
    print(f"clincus {clincus.__version__} (commit: {clincus.__commit__}, built: {clincus.__built__})")
    print(f"Python {sys.version.split()[0]}")
    return 0


def run_version_flag(context: Context) -> int:
    """`clincus --version`."""
    print(f"clincus version {clincus.__version__} ({clincus.__commit__[:7]})")
    return 0


def run_help(context: Context) -> int:
    """`clincus help [COMMAND]`."""
    words = context.options.command
    print(help_text(" ".join(words[: 2 if words[:1] and words[0] in GROUPS else 1])))
    return 0


def help_text(name: str) -> str:
    """The help of a command, a group, or of the whole program. Raises UsageError for what there is not."""
    if not name:
        return program_help()
    return group_help(name) if name in GROUPS else command_help(command_named(name))


def program_help() -> str:
    """The help of the program: all commands."""
    return "\n\n".join(
        [
            wrapped(ABOUT),
            "Usage:\n" + columns(PROGRAM_USAGE),
            "Commands:\n" + columns(program_rows()),
            "Variables:\n" + columns(VARIABLES),
            wrapped(
                "`clincus help shell` lists the flags of a start. On a new machine begin with `clincus setup`; "
                "`clincus health` says what is wrong."
            ),
        ]
    )


def program_rows() -> list[tuple[str, str]]:
    """The commands and groups, and a line on each."""
    shown = [command for command in COMMAND_TABLE if not command.group and command.summary]
    return sorted([(command.name, command.summary) for command in shown] + list(GROUPS.items()))


def group_help(name: str) -> str:
    """The help of a group: its commands."""
    rows = [(command.name.split()[1], command.summary) for command in COMMAND_TABLE if command.group == name]
    usage = f"Usage:\n  clincus {name} COMMAND [ARGUMENTS] [FLAGS]"
    hint = f"`clincus {name} COMMAND --help` says more about each."
    return "\n\n".join([wrapped(f"{GROUPS[name]}."), usage, "Commands:\n" + columns(rows), hint])


def command_help(command: Command) -> str:
    """The help of a command: what it does, its flags, examples, exit codes."""
    parts = [
        wrapped(f"{command.summary}."),
        f"Usage:\n  clincus {command.name} {command.arguments} [FLAGS]".replace("  [", " ["),
    ]
    parts += map(wrapped, paragraphs(command.about))
    parts.append("Flags:\n" + columns(flag.help for flag in (*command.flags, HELP_FLAG)))
    if command.starts:
        parts.append(
            wrapped("Flags of a start (default: what the config says):")
            + "\n"
            + columns(flag.help for flag in START_FLAGS)
        )
    if command.examples:
        lines = (f"  {line}\n      {meaning}" for line, meaning in command.examples)
        parts.append("Examples:\n" + "\n".join(lines))
    exits: dict[str, str] = {}
    for code, meaning in (*(command.exits or EXITS), *COMMON_EXITS):
        exits[code] = f"{exits[code]}; {meaning}" if code in exits else meaning
    parts.append("Exit codes:\n" + columns(exits.items()))
    return "\n\n".join(parts)


def run_man(context: Context) -> int:
    """`clincus man`: the help of all commands as one page for man(1)."""
    print("\n".join(manual_lines()))
    return 0


def manual_lines() -> Iterator[str]:
    """The manual page in roff (man(7))."""
    yield f'.TH CLINCUS 1 "" "clincus {clincus.__version__}"'
    yield from (".SH NAME", r"clincus \- run AI coding tools in Incus containers", ".SH SYNOPSIS")
    yield from roff_rows(PROGRAM_USAGE)
    yield from (".SH DESCRIPTION", roff(ABOUT), ".SH COMMANDS")
    for command in sorted(COMMAND_TABLE, key=lambda command: command.name):
        if not command.summary:
            continue
        yield f".SS clincus {roff(f'{command.name} {command.arguments}')}"
        yield roff(f"{command.summary}.")
        for paragraph in paragraphs(command.about):
            yield from (".PP", roff(" ".join(paragraph.split())))
        yield from roff_rows(flag.help for flag in command.flags)
        if command.starts:
            yield from (".PP", roff("And the flags of a start, see below."))
        yield from (".PP", "Examples:")
        for line, meaning in command.examples:
            yield from (".TP", rf"\fB{roff(line)}\fP", roff(meaning))
        if command.exits:
            yield from (".PP", "Exit codes:")
            yield from roff_rows(command.exits)
    for title, rows in (
        ("FLAGS OF A START", [flag.help for flag in START_FLAGS]),
        ("EXIT STATUS", [*EXITS, *COMMON_EXITS]),
        ("ENVIRONMENT", VARIABLES),
    ):
        yield f".SH {title}"
        yield from roff_rows(rows)


def roff_rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Names and their meanings as a list in roff."""
    for name, meaning in rows:
        yield from (".TP", rf"\fB{roff(name)}\fP", roff(meaning))


def roff(text: str) -> str:
    """A text for roff, which takes a backslash, a dash, and a dot or quote at the beginning of a line for its own."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


EXITS = (("0", "done"), ("1", "failed; stderr says why"))
COMMON_EXITS = (("2", "the command line cannot be understood"), ("130", "interrupted (143: by SIGTERM)"))
ABOUT = "Clincus runs AI coding tools at full permissions, each locked in its own Incus container."
PROGRAM_USAGE = (
    ("clincus [FLAGS]", "start a session here, as `clincus shell`"),
    ("clincus COMMAND [FLAGS]", "run a command"),
    ("clincus COMMAND --help", "say more about it; also `clincus help COMMAND`"),
    ("clincus --version", "print the version"),
)
VARIABLES = (
    ("CLINCUS_CONFIG", "one more config file, read after ~/.config/clincus/config.toml"),
    ("CLINCUS_PROFILE", "the profile where --profile is not given"),
    ("CLINCUS_CONTAINER", "the container that attach, stop, kill, shutdown, persist and snapshot mean"),
    ("CLINCUS_CONTAINER_PREFIX", "how names of containers begin (default: clincus-)"),
    ("CLINCUS_...", "settings of the config, such as CLINCUS_LIMIT_MEMORY"),
    ("NO_COLOR", "no colours"),
)


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Names and their meanings, the meanings in a column of their own."""
    import textwrap

    rows = list(rows)
    width = min(max(len(name) for name, _ in rows), 32) + 2
    if help_width() - width < 32:
        width = 4  # no room for two columns
    lines = []
    for name, meaning in rows:
        first, *more = textwrap.wrap(meaning, help_width() - width - 2, break_on_hyphens=False)
        head = f"  {name.ljust(width)}" if len(name) <= width - 2 else f"  {name}\n  {' ' * width}"
        lines += [head + first, *(f"  {' ' * width}{line}" for line in more)]
    return "\n".join(lines)


def paragraphs(about: str) -> list[str]:
    """The paragraphs of a text."""
    return [paragraph for paragraph in about.strip().split("\n\n") if paragraph]


def wrapped(paragraph: str) -> str:
    """A paragraph within the terminal's width."""
    import textwrap

    return textwrap.fill(" ".join(paragraph.split()), help_width(), break_on_hyphens=False)


def help_width() -> int:
    """Columns that help uses."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, 40), 100)
