"""`help`, `man` and `version`: lay out a command's declaration and its function's docstring for a person.

A docstring has a summary in its first line, then paragraphs. A line `$ COMMAND  # meaning` is an example;
`Exits: CODE meaning; CODE meaning` gives the exit codes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

import clincus
from clincus_cli import commands as cli
from clincus_cli import console, names
from clincus_cli.all_commands import ALIASES, TOPICS
from clincus_cli.context import Context

EXITS = (("0", "done"), ("1", "failed; stderr says why"))
COMMON_EXITS = (
    ("2", "the command line cannot be understood"),
    ("130", "interrupted (143: by SIGTERM); a shell sees that a signal ended it"),
)
ABOUT = "Clincus runs AI coding tools at full permissions, each locked in its own Incus container."
PROGRAM_USAGE = (
    ("clincus [FLAGS]", "start a session here, as `clincus shell`"),
    ("clincus COMMAND [FLAGS]", "run a command"),
    ("clincus COMMAND --help", "show its help; also `clincus help COMMAND`"),
    ("clincus --version", "print the version"),
)
VARIABLES = (
    ("CLINCUS_CONFIG", "one more config file, after ~/.config/clincus/config.toml"),
    ("CLINCUS_PROFILE", "the profile if you give no --profile"),
    ("CLINCUS_CONTAINER", "the session of a command without a NAME"),
    ("CLINCUS_CONTAINER_PREFIX", "beginning of container names (default: clincus-)"),
    ("CLINCUS_...", "settings of the config, such as CLINCUS_LIMIT_MEMORY"),
    ("NO_COLOR", "no colours"),
)


def release() -> dict[str, str]:
    """The version, the commit and the day of this copy; read from the text of the core, which need not be loaded."""
    core = vars(clincus)
    source = core["__loader__"].get_data(core["__file__"])[:8192].decode(errors="replace")
    return dict(re.findall(r'(?m)^__(version|commit|built)__ = "([^"]*)"', source))


@cli.Command("version [ARGUMENT...]", cli.format_flag("text", "json"), shows=True)
def run_version(context: Context) -> int:
    """Print the version

    Arguments are ignored.

    $ clincus version  # The version, and the commit it was built from.
    """
    found = {**release(), "python": sys.version.split()[0]}
    words = "clincus {version} (commit: {commit}, built: {built})\nPython {python}"
    return context.show(found, [words.format(**found)])


@cli.Command("_version", hidden=True)
def run_version_flag(context: Context) -> int:
    """`clincus --version`."""
    print("clincus version {version} ({commit:.7})".format(**release()))
    return 0


@cli.Command("help [COMMAND...]", shows=True)
def run_help(context: Context) -> int:
    """Show help on a command

    $ clincus help snapshot create  # Show what `snapshot create` takes and does.
    """
    words = context.options.command
    print(help_text(" ".join(words[: 2 if words[:1] and words[0] in cli.GROUPS else 1])))
    return 0


def help_text(name: str) -> str:
    """The help of a command, a group, or of the whole program. Raises UsageError for an unknown name."""
    if not name:
        return program_help()
    name = ALIASES.get(name, name)
    return group_help(name) if name in cli.GROUPS else command_help(cli.command_named(name))


def page_of(command: cli.Command) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, str]]]:
    """The parts of a docstring after its summary: paragraphs, examples with meanings, exit codes with meanings."""
    about = []
    examples = []
    exits = []
    for paragraph in (command.run.__doc__ or "").strip().split("\n\n")[1:]:
        text = " ".join(paragraph.split())
        if text.startswith("$ "):
            lines = (line.strip()[2:].partition("  # ") for line in paragraph.strip().splitlines())
            examples += [(line, meaning) for line, _, meaning in lines]
        elif text.startswith("Exits: "):
            pairs = (one.strip().partition(" ") for one in text[len("Exits: ") :].split(";"))
            exits += [(code, meaning) for code, _, meaning in pairs]
        else:
            about.append(text)
    return about, examples, exits


def program_help() -> str:
    """The help of the program: all commands."""
    hint = "On a new machine begin with `clincus setup`; `clincus health` says what is wrong. Then `clincus` in a "
    hint += "project's directory starts a session there, and `clincus help shell` lists the flags of a start."
    parts = [wrapped(ABOUT), "Usage:\n" + columns(PROGRAM_USAGE), wrapped(hint), "Available Commands:"]
    parts += [f"{title}:\n{columns(topic_rows(files))}" for title, files in TOPICS.items()]
    return "\n\n".join([*parts, "Variables:\n" + columns(VARIABLES)])


def topic_rows(files: Iterable[str]) -> Iterable[tuple[str, str]]:
    """The commands and groups of some files of this package, each with its summary."""
    found = (one for file in files for one in cli.COMMANDS.values() if one.run.__module__ == f"{__package__}.{file}")
    return {one.group or one.name: cli.GROUPS.get(one.group, one.summary) for one in found if one.summary}.items()


def group_help(name: str) -> str:
    """The help of a group: its commands."""
    rows = [(one.name.split()[1], one.summary) for one in cli.COMMANDS.values() if one.group == name]
    usage = f"Usage:\n  clincus {name} COMMAND [ARGUMENTS] [FLAGS]"
    hint = f"`clincus {name} COMMAND --help` says more about each."
    return "\n\n".join([wrapped(f"{cli.GROUPS[name]}."), usage, "Available Commands:\n" + columns(rows), hint])


def command_help(command: cli.Command) -> str:
    """The help of a command: its purpose, flags, examples and exit codes."""
    about, examples, exits = page_of(command)
    usage = f"Usage:\n  clincus {command.name} {command.arguments} [FLAGS]".replace("  [", " [")
    parts = [wrapped(f"{command.summary}."), usage, *map(wrapped, about)]
    if command.other_words:
        also = " and ".join(f"`clincus {word}`" for word in command.other_words)
        verb = "is" if len(command.other_words) == 1 else "are"
        parts.append(wrapped(f"{also} {verb} the same."))
    if command.names_session:
        parts.append(wrapped(session_words(command)))
    parts.append("Flags:\n" + columns(flag.help for flag in (*command.flags, cli.HELP)))
    if command.starts:
        title = wrapped("Flags of a start (default: what the config says):")
        parts.append(title + "\n" + columns(flag.help for flag in cli.START))
    if examples:
        parts.append("Examples:\n" + "\n".join(f"  {line}\n      {meaning}" for line, meaning in examples))
    codes: dict[str, str] = {}
    for code, meaning in (*(exits or EXITS), *COMMON_EXITS):
        codes[code] = f"{codes[code]}; {meaning}" if code in codes else meaning
    parts.append("Exit codes:\n" + columns(codes.items()))
    return "\n\n".join(parts)


def session_words(command: cli.Command) -> str:
    """The sentences on how a command's session is named."""
    name = command.session_argument
    said = f"{name} is the id of a session as `clincus list` shows it, the beginning of one, or the session's own name."
    if command.name in names.OWN_DEFAULTS:
        return said
    if not command.arguments.startswith("["):
        return f"{said} `.` is $CLINCUS_CONTAINER, else the only session of this folder."
    more = " `.` stands for that, too." if " " in command.arguments else ""
    return f"{said} Without it: $CLINCUS_CONTAINER, else the only session of this folder.{more}"


@cli.Command("man", shows=True)
def run_man(context: Context) -> int:
    """Print the manual page

    In roff: the help of all commands on one page.

    $ clincus man | man -l -  # Read it.
    """
    print("\n".join(manual_lines()))
    return 0


def manual_lines() -> Iterator[str]:
    """The manual page in roff (man(7))."""
    yield f'.TH CLINCUS 1 "" "clincus {release()["version"]}"'
    yield from (".SH NAME", r"clincus \- run AI coding tools in Incus containers", ".SH SYNOPSIS")
    yield from roff_rows(PROGRAM_USAGE)
    yield from (".SH DESCRIPTION", roff(ABOUT), ".SH COMMANDS")
    for one in sorted(cli.COMMANDS.values(), key=lambda one: one.name):
        if one.summary:
            yield from (f".SS clincus {roff(one.name)}", ".nf", *map(roff, command_help(one).split("\n")), ".fi")
    yield ".SH ENVIRONMENT"
    yield from roff_rows(VARIABLES)


def roff_rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Names and their meanings as a list in roff."""
    for name, meaning in rows:
        yield from (".TP", rf"\fB{roff(name)}\fP", roff(meaning))


def roff(text: str) -> str:
    """A text for roff, which gives a meaning to a backslash, a dash, and a dot or quote at the beginning of a line."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


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


def wrapped(paragraph: str) -> str:
    """A paragraph within the terminal's width."""
    import textwrap

    return textwrap.fill(" ".join(paragraph.split()), help_width(), break_on_hyphens=False)


def help_width() -> int:
    """Columns that help uses."""
    return min(max(console.screen_width(), 40), 100)
