"""Completion: one hidden command prints the possible next words, and each shell has a few lines that call it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import clincus
from clincus_cli import commands as cli
from clincus_cli import help as help_pages
from clincus_cli.context import Context

SHELLS = ("bash", "fish", "zsh")


def completion_script(shell: str) -> str:
    """The script by which a shell asks `clincus __complete`. The core need not be loaded to read it."""
    path = os.path.join(os.path.dirname(__file__), "completion_scripts", f"clincus.{shell}")
    return str(globals()["__loader__"].get_data(path).decode())


@cli.Command("completion [SHELL]", shows=True)
def run_completion(context: Context) -> int:
    """Print the completion script for bash, zsh or fish

    $ . <(clincus completion bash)  # In ~/.bashrc.
    $ clincus completion zsh >~/.zfunc/_clincus  # With ~/.zfunc in $fpath.
    $ clincus completion fish >~/.config/fish/completions/clincus.fish  # For every new shell.
    """
    shell = context.options.shell
    if shell and shell not in SHELLS:
        raise cli.UsageError(f"unknown shell '{shell}': write bash, zsh or fish", "completion")
    print(completion_script(shell).rstrip("\n") if shell else help_pages.help_text("completion"))
    return 0


@cli.Command("__complete [WORD...]", hidden=True)
def run_complete(context: Context) -> int:
    """Print what may replace the last word: lines of a word, a tab, its meaning. Nothing if a file may stand there."""
    *before, current = context.options.word or [""]
    for word, meaning in offered_words(context, before, current):
        if word.startswith(current):
            print(f"{word}\t{meaning}" if meaning else word)
    return 0


def offered_words(context: Context, before: list[str], current: str) -> Iterable[tuple[str, str]]:
    """The words that may follow those `before`, each with its meaning; none where a file may follow."""
    at = cli.next_word(before, 0, "")
    group = before[at] if at is not None and before[at] in cli.GROUPS else ""
    if at is None or (group and cli.next_word(before, at + 1, group) is None):
        command = "help" if group else "shell"
        return flag_rows(cli.COMMANDS[command]) if current.startswith("-") else command_rows(group)
    try:
        found, rest = cli.find_command(before)
    except cli.UsageError:
        return []
    flag = found.all_flags.get(before[-1])
    if flag is not None and flag.value and not flag.bare:
        return value_rows(context, flag)
    name, is_joined, _ = current.partition("=")
    if is_joined and name in found.all_flags:
        return [(f"{name}={word}", meaning) for word, meaning in value_rows(context, found.all_flags[name])]
    if current.startswith("-"):
        return flag_rows(found)
    _, arguments = cli.sort_words([*rest, current], found.all_flags)
    return argument_rows(context, found, len(arguments) - 1)


def value_rows(context: Context, flag: cli.Flag) -> Iterable[tuple[str, str]]:
    """The known values of a flag."""
    if flag.key == "tool":
        return tool_rows(context)
    return session_rows(context) if flag.key == "container" else [(choice, "") for choice in flag.choices]


def command_rows(group: str) -> Iterator[tuple[str, str]]:
    """The commands of a group, or those of the program and the groups."""
    yield from () if group else cli.GROUPS.items()
    for one in cli.COMMANDS.values():
        if one.group == group and one.summary:
            yield one.name.rpartition(" ")[2], one.summary


def flag_rows(command: cli.Command) -> Iterator[tuple[str, str]]:
    """The flags of a command that its help shows."""
    for flag in dict.fromkeys([*command.flags, *(cli.START if command.starts else ()), cli.HELP]):
        yield from ((name, flag.meaning) for name in flag.names)


def argument_rows(context: Context, command: cli.Command, at: int) -> Iterable[tuple[str, str]]:
    """The words for the argument at a place: shells, or names of sessions."""
    places = command.arguments.split()
    place = places[min(at, len(places) - 1)] if places else ""
    if place == "[SHELL]":
        return [(shell, "") for shell in SHELLS]
    if place == "CONTAINER:PATH":
        return [(f"{id}:", meaning) for id, meaning in session_rows(context)]
    is_session = place and place.strip("[].") == command.session_argument
    return session_rows(context) if is_session else []


def tool_rows(context: Context) -> Iterator[tuple[str, str]]:
    """The tools to choose from; none where the config is broken."""
    with suppress(clincus.ClincusError):
        yield from ((name, "") for name in clincus.all_tools(context.config))


def session_rows(context: Context) -> Iterator[tuple[str, str]]:
    """The sessions, each with a description; none if Incus cannot be asked."""
    with suppress(clincus.ClincusError):
        for one in context.sessions.registry.all():
            yield one.id, clincus.printable(f"{one.tool}, {one.status}, {one.workspace}")
