"""What a command is: declared beside its function, found in a command line, and given its flags and arguments."""

from __future__ import annotations

import argparse
import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import clincus

if TYPE_CHECKING:
    from typing import Union

    from clincus_cli.context import Context

    Flags = Union["Flag", Callable[[], "Iterable[Flag]"]]  # a function where the core has to be loaded to know them

Options = argparse.Namespace  # a command's flags and arguments by name; a flag that was not given is its default


class UsageError(Exception):
    """The command line cannot be understood: exit code 2, with a hint where to read on."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.command = command  # the words that name the command, to point at its help


# -- Flags


class Flag(NamedTuple):
    """A flag: its names as they are typed, and what its value must be. Made by `flag`."""

    names: tuple[str, ...]  # the long one last
    meaning: str
    value: str = ""  # what its value is called; "" for a switch, which also takes =true and =false
    bare: str | None = None  # what it means without a value; None where it needs one
    check: Callable[[str], object] = str  # text to value; the ValueError says what would be right
    default: Any = None
    repeats: bool = False
    setting: str = ""  # the setting that it overrides
    choices: Sequence[str] = ()

    @property
    def key(self) -> str:
        """Its attribute in the options."""
        return self.names[-1].lstrip("-").replace("-", "_")

    @property
    def help(self) -> tuple[str, str]:
        """Its row in help: with the default, unless that is nothing, or the meaning tells it."""
        value = f"[={self.value}]" if self.bare else f" {self.value}" if self.value else ""
        is_silent = self.default in (None, "", ()) or self.default is False or "default" in self.meaning
        return ", ".join(self.names) + value, self.meaning + (
            "" if is_silent else f" (default: {str(self.default).lower()})"
        )

    def parse(self, text: str) -> object:
        """The value that a text stands for. Raises UsageError."""
        try:
            value = self.check(text)
            if self.setting and value != "":
                clincus.SETTING[self.setting].fit(value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            prefix = "validation failed: " if self.setting else ""
            raise UsageError(f"{prefix}invalid {self.key.replace('_', '-')} '{text}': {error}") from None
        return value


def flag(usage: str, meaning: str, **more: Any) -> Flag:
    """A flag from its usage: `-w, --workspace PATH`, `--force`, `--resume[=ID]` (a value that may be left out)."""
    names = tuple(re.findall(r"(?:^|(?<=, ))--?[a-z][a-z-]*", usage))
    value = re.sub(r".*--?[a-z][a-z-]*", "", usage).strip()
    bare = "auto" if value.startswith("[=") else None
    default = (() if more.get("repeats") else None) if value else False
    return Flag(names, meaning, value[2:-1] if bare else value, bare, **{"default": default, **more})


def format_flag(*formats: str, **more: Any) -> Flag:
    """The flag that chooses the form of the output; the first one is the default."""
    meaning = more.pop("meaning", " or ".join(formats))
    return flag("--format FORM", meaning, check=one_of(*formats), choices=formats, **{"default": formats[0], **more})


def one_of(*words: str) -> Callable[[str], str]:
    """A check for one of some words."""

    def check(text: str) -> str:
        if text not in words:
            raise ValueError("write " + " or ".join(words))
        return text

    return check


def number_from(low: int, high: int) -> Callable[[str], int]:
    """A check for whole numbers."""

    def check(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return check


def environment_flags(texts: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that `--env` flags set; KEY alone copies ours. Raises UsageError."""
    environment = {}
    for text in texts:
        key, joined, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise UsageError(f"invalid env '{text}': write KEY=VALUE, or KEY to copy yours")
        if not joined and key not in environ:
            raise UsageError(f"invalid env '{text}': {key} is not set here, so there is nothing to copy")
        value = value if joined else environ[key]
        environment[key] = clincus.terminal_name(value) if key == "TERM" else value
    return environment


MAX_SLOT = 10
WORKSPACE = flag("-w, --workspace PATH", "project directory (default: the current one)", default="")
SLOT = flag("--slot N", "slot of the workspace, 1 to 10; 0 chooses", check=number_from(0, MAX_SLOT), default=0)
FORCE = flag("--force", "do not ask")
FORCE_F = flag("-f, --force", "do not ask")
HELP = flag("-h, --help", "show this help")
PROFILE = flag("--profile NAME", "apply [profiles.NAME] of the config", default="")
ENV = flag("-e, --env KEY=VALUE", "variable for what runs inside; KEY alone copies yours", repeats=True)
RESUME = (
    flag("--resume[=ID]", "go on with a saved conversation: the newest of this workspace, or ID", default=""),
    flag("--continue[=ID]", "the same as --resume", default=""),
)
START = (
    WORKSPACE,
    SLOT,
    flag("--image ALIAS", "image to start from (default: the config's)", default=""),
    flag("--persistent", "keep the container when the session ends", default=None),
    PROFILE,
    ENV,
    flag("--mount HOST:PATH[:ro]", "mount a directory or file as PATH in the container", repeats=True),
    flag("--writable-git-hooks", "leave .git/hooks open to writing; all else stays protected"),
    flag("--limit-cpu N", "CPUs: a number, or a list to pin to such as 0-1,3", setting="limits.cpu.count"),
    flag("--limit-cpu-allowance SHARE", "50% under load, or 25ms/100ms at most", setting="limits.cpu.allowance"),
    flag("--limit-cpu-priority N", "0 to 10", check=number_from(0, 10), setting="limits.cpu.priority"),
    flag("--limit-memory SIZE", "such as 4GiB or 50%", setting="limits.memory.limit"),
    flag("--limit-memory-swap SIZE", "true, false or a size", setting="limits.memory.swap"),
    flag("--limit-memory-enforce HOW", "hard or soft", setting="limits.memory.enforce"),
    flag("--limit-disk-read RATE", "such as 10MiB/s or 1000iops", setting="limits.disk.read"),
    flag("--limit-disk-write RATE", "as above", setting="limits.disk.write"),
    flag("--limit-disk-max RATE", "both directions together", setting="limits.disk.max"),
    flag("--limit-disk-priority N", "0 to 10", check=number_from(0, 10), setting="limits.disk.priority"),
    flag(
        "--limit-processes N", "0 for no limit", check=number_from(0, 4194304), setting="limits.runtime.max_processes"
    ),
    flag("--limit-duration TIME", "longest run, such as 90m or 8h", setting="limits.runtime.max_duration"),
)

# -- Commands

GROUPS = {
    "container": "Work on any instance of the Incus project, one step at a time",
    "file": "Copy files into and out of a container",
    "image": "List, publish, delete and tidy up images",
    "service": "Run the dashboard as a systemd user service",
    "snapshot": "Keep and bring back states of a container",
    "tmux": "Type into a session's terminal, or read it",
}
COMMANDS: dict[str, Command] = {}  # by name, in the order of their files


class Command:
    """One command: what it is called, takes and does. Its function's docstring is its help (see `help.page_of`)."""

    def __init__(
        self,
        usage: str,
        run: Callable[[Context], int],
        parts: Sequence[Flags],
        *,
        starts: bool = False,
        shows: bool = False,
        hidden: bool = False,
        config: bool = True,
        passes_on: int = 0,
    ) -> None:
        self.name = " ".join(re.findall(r"^_*[a-z]+(?: [a-z]+)*", usage))  # one word, or a group and a word
        self.group = self.name.partition(" ")[0] if " " in self.name else ""
        self.arguments = usage[len(self.name) :].strip()  # `NAME`, `[NAME]`, `NAME...`, `[NAME...]`
        self.run = run
        self.summary = "" if hidden else (run.__doc__ or "").strip().partition("\n")[0]  # "": help does not show it
        self.starts = starts  # a session: it takes the flags of a start
        self.passes_on = passes_on  # behind so many words a flag that is not ours belongs to the command they are
        self._parts = parts
        # One that only shows something takes the flags of a start for nothing: scripts put them anywhere.
        self._common = [HELP, *([PROFILE] if config else []), *(START if starts or shows else ())]
        self._common += RESUME if shows else ()

    @property
    def known_flags(self) -> list[Flag]:
        """Its own flags that are known without the core."""
        return [part for part in self._parts if isinstance(part, Flag)]

    @functools.cached_property
    def flags(self) -> list[Flag]:
        """Its own flags, as its help shows them."""
        return [flag for part in self._parts for flag in ([part] if isinstance(part, Flag) else part())]

    @property
    def all_flags(self) -> dict[str, Flag]:
        """Every flag that it takes, by each name."""
        return by_name([*self._common, *self.flags])


def command(usage: str, *parts: Flags, **how: Any) -> Callable[[Callable[[Context], int]], Callable[[Context], int]]:
    """Declare a function as the command of a usage such as `tmux send CONTAINER TEXT`, with its flags.

    `how` is as in `Command`: it starts a session, only shows something, is hidden, reads no config, passes words on.
    """

    def declare(run: Callable[[Context], int]) -> Callable[[Context], int]:
        made = Command(usage, run, parts, **how)
        COMMANDS[made.name] = made
        return run

    return declare


def by_name(flags: Iterable[Flag]) -> dict[str, Flag]:
    """Flags by each of their names; a later one beats an earlier one."""
    return {name: flag for flag in flags for name in flag.names}


def command_named(name: str) -> Command:
    """The command of a name. Raises UsageError for one that there is not."""
    if name in COMMANDS:
        return COMMANDS[name]
    group, _, word = name.rpartition(" ")
    names = [one.name.rpartition(" ")[2] for one in COMMANDS.values() if one.group == group and one.summary]
    parent = f"clincus {group}".rstrip()
    raise UsageError(
        f"unknown command '{word}' for '{parent}'" + did_you_mean(word, [*names, *([] if group else GROUPS)]),
        group if group in GROUPS else "",
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that looks most like a wrong one."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


# -- From words to a command and its options


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command and the words beside its name. Without a name it is `shell`, with one that is only a group `help`."""
    if list(words) in (["--version"], ["-v"]):
        return COMMANDS["_version"], []
    rest, at = list(words), next_word(words, 0, "")
    if at is None:
        return (COMMANDS["shell"], rest) if {"--help", "-h"}.isdisjoint(words) else (COMMANDS["help"], [])
    name = rest.pop(at)
    if name not in GROUPS:
        return command_named(name), rest
    second = next_word(rest, at, name)
    if second is None:
        return COMMANDS["help"], [name]
    return command_named(f"{name} {rest.pop(second)}"), rest


def next_word(words: Sequence[str], at: int, group: str) -> int | None:
    """The place of the first word from `at` that is no flag and no flag's value, None if there is none."""
    known = flags_before_command(group)
    while at < len(words):
        word = words[at]
        if word == "--":
            return None
        if not word.startswith("-"):
            return at
        if word not in known and not group:
            known = {**by_name(COMMANDS["serve"].flags), **known}
        found = known.get(word)
        takes_next = found is not None and found.value and (found.bare is None or is_session_id(words[at + 1 : at + 2]))
        at += 2 if takes_next else 1
    return None


def flags_before_command(group: str) -> dict[str, Flag]:
    """The flags that may stand in front of a command's last word, which is not known yet; common ones win."""
    own = (flag for one in COMMANDS.values() if group in ("", one.group) for flag in one.known_flags)
    return by_name([*own, HELP, *START, *RESUME])


def is_session_id(words: Sequence[str]) -> bool:
    """Whether the first word is the id of a session (and not a workspace, or the next flag).

    Ids are UUIDs; the oldest saved sessions are called after their container or a time, with `-session` behind.
    """
    form = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]+-session|auto"
    return bool(words) and re.fullmatch(form, words[0]) is not None


def parse_words(command: Command, words: Sequence[str]) -> Options:
    """The options of a command from the words beside its name. Raises UsageError."""
    known = command.all_flags
    ours, arguments = sort_words(words, known, command.passes_on)
    try:
        options, left = flag_parser(known.values()).parse_known_args(ours)
    except argparse.ArgumentError as error:
        name, *_ = str(error.argument_name).split("/")
        if "ignored" in error.message:
            text = error.message.partition("'")[2].rstrip("'")
            raise UsageError(f"invalid {name.lstrip('-')} '{text}': write true or false") from None
        raise UsageError(f"flag needs a value: {name} {known[name].value}") from None
    if left:
        raise unknown_flag(left[0].partition("=")[0], command)
    for one in known.values():
        if one.repeats:
            setattr(options, one.key, tuple(getattr(options, one.key) or ()))
    if not options.help:
        vars(options).update(read_arguments(command, arguments))
    return options


def sort_words(words: Sequence[str], known: Mapping[str, Flag], passes_on: int) -> tuple[list[str], list[str]]:
    """The flags among the words, each with its value joined, and the arguments.

    With `passes_on`, an unknown flag behind so many arguments is one of them: it belongs to another program, and only
    the forms `-w PATH` and `--slot=2` are ours there.
    """
    flags: list[str] = []
    arguments: list[str] = []
    left = deque(words)
    while left:
        word = left.popleft()
        name = word.partition("=")[0]
        found = known.get(word)
        if word == "--":
            return flags, [*arguments, *left]
        if not word.startswith("-") or word == "-" or (0 < passes_on <= len(arguments) and name not in known):
            arguments.append(word)
        elif found is None or not found.value:
            last = known.get("-" + word[-1]) if re.fullmatch(r"-[a-z]{2,}", word) else None
            switches = (known.get(f"-{letter}", HELP._replace(value="?")) for letter in word[1:-1])
            takes_next = last is not None and last.value and not any(one.value for one in switches)
            flags += [word, left.popleft()] if takes_next and left else [word]  # -fc NAME
        elif found.bare and not is_session_id([*left][:1]):
            flags.append(f"{word}={found.bare}")
        elif left:
            flags.append(f"{word}={left.popleft()}")
        else:
            raise UsageError(f"flag needs a value: {word} {found.value}")
    return flags, arguments


SWITCH_WORDS = {True: ("true", "True", "TRUE", "t", "1"), False: ("false", "False", "FALSE", "f", "0")}


def flag_parser(flags: Iterable[Flag]) -> argparse.ArgumentParser:
    """The parser of a command's flags. A switch is also on and off by `--switch=true` and `--switch=false`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for one in dict.fromkeys(flags):
        names = one.names[::-1]
        if one.value:
            action = "append" if one.repeats else "store"
            default = None if one.repeats else one.default
            parser.add_argument(*names, dest=one.key, action=action, type=one.parse, default=default)
            continue
        for state, texts in SWITCH_WORDS.items():
            joined = [f"{name}={text}" for name in names for text in texts]
            parser.add_argument(
                *(names if state else ()), *joined, dest=one.key, action="store_const", const=state, default=one.default
            )
    return parser


def unknown_flag(name: str, command: Command) -> UsageError:
    """The error for a flag that the command does not have."""
    if name in by_name([*START, *RESUME]):
        return UsageError(f"unknown flag: {name} means nothing to `clincus {command.name}`, which would ignore it")
    behind = "; put -- in front of a command that has flags of its own" if command.passes_on else ""
    return UsageError(f"unknown flag: {name}{did_you_mean(name, command.all_flags)}{behind}")


def read_arguments(command: Command, words: list[str]) -> dict[str, Any]:
    """The words of a command by the names that its usage gives them: a text each, a list for `NAME...`."""
    places, left = command.arguments.split(), list(words)
    usage = f"clincus {command.name} {command.arguments}".rstrip()
    count = f"accepts {len(places)} arg(s), received {len(words)}"
    result: dict[str, Any] = {}
    for place in places:
        name = place.strip("[].")
        key = re.sub(r"\W", "_", name.lower())
        if not left and not place.startswith("["):
            raise UsageError(f"argument {name} is required: {usage} {count}")
        if "..." in place:
            result[key], left = left, []
        else:
            result[key], left = (left[0], left[1:]) if left else ("", [])
    if left:
        raise UsageError(f"unexpected argument '{left[0]}': {usage} {count}")
    return result
