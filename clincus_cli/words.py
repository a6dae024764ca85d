"""Part of the command line."""

from __future__ import annotations

import dataclasses
import re
import types
from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

import clincus

if TYPE_CHECKING:
    from clincus_cli.context import Context


class UsageError(clincus.ClincusError):
    """The command line cannot be understood: exit code 2, with a hint where to read on."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message, 400)
        self.command = command  # the words that name the command, to point at its help


class HelpWanted(Exception):
    """`--help` was among the words."""


Options = types.SimpleNamespace  # a command's flags and arguments by name; a flag that was not given is its default


@dataclass(frozen=True)
class Flag:
    """A flag: its names as they are typed, and what its value must be. Made by `flag`."""

    names: tuple[str, ...]  # the long one last
    meaning: str
    value: str = ""  # what its value is called; "" for a switch, which also takes =true and =false
    implied: str | None = None  # the value of a bare `--flag`, where the value is optional
    check: Callable[[str], object] = str  # text to value; the ValueError says what would be right
    default: object = None
    repeats: bool = False
    setting: str = ""  # the setting that it overrides

    @property
    def key(self) -> str:
        """Its attribute in the options."""
        return self.names[-1].lstrip("-").replace("-", "_")

    @property
    def usage(self) -> str:
        """How help shows it."""
        value = f"[={self.value}]" if self.implied is not None else f" {self.value}" if self.value else ""
        return ", ".join(self.names) + value

    @property
    def help(self) -> tuple[str, str]:
        """Its row in help: with the default, unless that is nothing, or the meaning tells it."""
        is_silent = self.default in (None, "", ()) or self.default is False or "default" in self.meaning
        return self.usage, self.meaning + ("" if is_silent else f" (default: {str(self.default).lower()})")


def flag(
    usage: str,
    meaning: str,
    *,
    check: Callable[[str], object] = str,
    default: object = dataclasses.MISSING,
    repeats: bool = False,
    setting: str = "",
) -> Flag:
    """A flag from its usage: `-w, --workspace PATH`, `--force`, `--resume[=ID]` (a value that may be left out)."""
    names = tuple(re.findall(r"(?:^|(?<=, ))--?[a-z][a-z-]*", usage))
    value = re.sub(r".*--?[a-z][a-z-]*", "", usage).strip()
    implied = "auto" if value.startswith("[=") else None
    value = value[2:-1] if implied else value
    if default is dataclasses.MISSING:
        default = None if value else False

    def check_setting(text: str) -> object:
        chosen = check(text)
        if chosen != "":
            clincus.SETTING[setting].fit(chosen)
        return chosen

    return Flag(names, meaning, value, implied, check_setting if setting else check, default, repeats, setting)


@dataclass(frozen=True)
class Command:
    """One command: what it is called, takes and does, and all that its help says."""

    name: str  # one word, or a group and a word
    run: Callable[[Context], int]
    summary: str  # one line
    arguments: str = ""  # as usage shows them: `NAME`, `[NAME]`, `NAME...`, `[NAME...]`
    flags: tuple[Flag, ...] = ()
    about: str = ""  # paragraphs
    examples: tuple[tuple[str, str], ...] = ()  # a command line and what it does
    exits: tuple[tuple[str, str], ...] = ()  # beside those of every command
    starts: bool = False  # a session: its help shows the flags of a start
    passes_on: int = 0  # behind so many words a flag that is not ours belongs to the command that the words are

    @property
    def group(self) -> str:
        """The group that it is in, "" for none."""
        return self.name.partition(" ")[0] if " " in self.name else ""


COMMAND_TABLE: list[Command] = []  # every command; filled where the groups meet

GROUPS = {
    "completion": "Print a completion script for a shell",
    "container": "Work on any instance of the Incus project, one step at a time",
    "file": "Copy files into and out of a container",
    "image": "List, publish, delete and tidy up images",
    "service": "Run the dashboard as a systemd user service",
    "snapshot": "Keep and bring back states of a container",
    "tmux": "Type into a session's terminal, or read it",
}


def one_of(*words: str) -> Callable[[str], str]:
    """A check for one of some words."""

    def check(text: str) -> str:
        if text not in words:
            raise clincus.Unfit("write " + " or ".join(words))
        return text

    return check


def number_from(low: int, high: int) -> Callable[[str], int]:
    """A check for whole numbers."""

    def check(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
            raise clincus.Unfit(f"write a whole number from {low} to {high}")
        return int(text)

    return check


def switch_value(text: str) -> bool:
    """What follows the `=` of a switch."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise clincus.Unfit("write true or false")
    return text.lower() in ("true", "1")


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


def format_flag(*formats: str) -> Flag:
    """The flag that chooses the form of the output; the first one is the default."""
    return flag("--format FORM", " or ".join(formats), check=one_of(*formats), default=formats[0])


WORKSPACE_FLAG = flag("-w, --workspace PATH", "project directory (default: the current one)", default=".")
SLOT_FLAG = flag(
    "--slot N", "slot of the workspace, 1 to 10; 0 chooses", check=number_from(0, clincus.SLOTS[-1]), default=0
)
FORCE_FLAG = flag("--force", "do not ask")
HELP_FLAG = flag("-h, --help", "show this help")

# These and the next are accepted by every command, as scripts put them anywhere. They matter for `shell`,
RESUME_FLAGS = (
    flag("--resume[=ID]", "go on with a saved conversation: the newest of this workspace, or ID", default=""),
    flag("--continue[=ID]", "the same as --resume", default=""),
)
# and where a session or a command is started.
START_FLAGS = (
    WORKSPACE_FLAG,
    SLOT_FLAG,
    flag("--image ALIAS", "image to start from (default: the config's)", default=""),
    flag("--persistent", "keep the container when the session ends", default=None),
    flag("--profile NAME", "apply [profiles.NAME] of the config", default=""),
    flag("-e, --env KEY=VALUE", "variable for what runs inside; KEY alone copies yours", default=(), repeats=True),
    flag("--mount HOST:PATH[:ro]", "mount a directory or file as PATH in the container", default=(), repeats=True),
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

SHELL_FLAGS = (
    *RESUME_FLAGS,
    flag("--tool NAME", "tool to start (default: the config's)", default=""),
    flag("--background", "start without attaching"),
    flag("--debug", "start bash in the tool's place"),
    flag("--tmux", "run the tool in tmux, where it outlives this terminal (default; --tmux=false: not)", default=True),
    flag("--container NAME", "use this session's container", default=""),
)


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command and the words beside its name. Without a name it is `shell`, with one that is only a group `help`."""
    rest, at = list(words), next_word(words, 0, ())
    if at is None:
        if not {"--help", "-h"}.isdisjoint(words):
            return command_named("help"), []
        only = [word for word in words if word != "--"]
        return (
            (command_named("version-flag"), []) if only in (["--version"], ["-v"]) else (command_named("shell"), rest)
        )
    name = rest.pop(at)
    if name not in GROUPS:
        return command_named(name), rest
    second = next_word(rest, at, [command for command in COMMAND_TABLE if command.group == name])
    if second is None:
        return command_named("help"), [name]
    return command_named(f"{name} {rest.pop(second)}"), rest


def next_word(words: Sequence[str], at: int, commands: Iterable[Command]) -> int | None:
    """The place of the first word from `at` that is no flag and no flag's value, None if there is none."""
    known = {**flags_by_name(*commands), **{name: flag for flag in SHELL_FLAGS for name in flag.names}}
    while at < len(words):
        word = words[at]
        if word == "--":
            return None
        if not word.startswith("-"):
            return at
        found = known.get(word)
        takes_next = found is not None and found.value and found.implied is None
        is_id = found is not None and found.implied is not None and is_session_id(words[at + 1 : at + 2])
        at += 2 if takes_next or is_id else 1
    return None


def is_session_id(words: Sequence[str]) -> bool:
    """Whether the word behind a bare `--resume` is the id of a session (and not a workspace, or the next flag)."""
    return (
        bool(words)
        and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\S+-session|auto", words[0]) is not None
    )


def flags_by_name(*commands: Command) -> dict[str, Flag]:
    """Every flag that one of the commands takes, by each of its names; a command's own beat the common ones."""
    flags = [HELP_FLAG, *START_FLAGS, *RESUME_FLAGS, *(flag for command in commands for flag in command.flags)]
    return {name: flag for flag in flags for name in flag.names}


def parse_words(command: Command, words: Sequence[str]) -> Options:
    """The options of a command from the words beside its name."""
    known = flags_by_name(command)
    values: dict[str, Any] = {flag.key: flag.default for flag in known.values()}
    arguments: list[str] = []
    left = deque(words)
    while left:
        word = left.popleft()
        is_foreign = 0 < command.passes_on <= len(arguments)
        if word == "--":
            arguments += left
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            continue
        name, joined, text = split_flag(word, known, exact=is_foreign)
        found = known.get(name)
        if found is None and is_foreign:
            arguments.append(word)
        elif found is None:
            raise unknown_flag(name, known, command)
        else:
            read_flag(found, name, text if joined else None, left, values)
    if values["help"]:
        raise HelpWanted
    return Options(**{**values, **read_arguments(command, arguments)})


def split_flag(word: str, known: Mapping[str, Flag], *, exact: bool) -> tuple[str, bool, str]:
    """A flag's name, whether a value is joined to it, and that value: `--slot=2`, `-wPATH`, `-rf`.

    With `exact` only the forms `-w` and `--slot=2` are ours: the word may be another program's.
    """
    name, joined, text = word.partition("=")
    if word.startswith("--") or len(name) == 2 or exact:
        return name, bool(joined), text
    first = known.get(word[:2])
    if first is not None and first.value:
        return word[:2], True, word[2:]
    return word[:2], True, "-" + word[2:]  # switches in one word: `read_flag` takes the rest for the next one


def read_flag(flag: Flag, name: str, text: str | None, left: deque[str], values: dict[str, Any]) -> None:
    """Put a flag's value among the values; one that is not joined is the next of the words that are left."""
    if not flag.value:
        if text is not None and text.startswith("-"):
            left.appendleft(text)
            text = None
        values[flag.key] = True if text is None else checked(name, text, switch_value)
        return
    if text is None and flag.implied is None and not left:
        raise UsageError(f"flag needs a value: {name} {flag.value}")
    if text is None:
        takes_next = flag.implied is None or is_session_id([*left][:1])
        text = left.popleft() if takes_next else flag.implied
    value = checked(name, str(text), flag.check, "validation failed: " if flag.setting else "")
    values[flag.key] = (*values[flag.key], value) if flag.repeats else value


def checked(name: str, text: str, check: Callable[[str], object], prefix: str = "") -> object:
    """The value that a text stands for. Raises UsageError."""
    try:
        return check(text)
    except ValueError as error:
        raise UsageError(f"{prefix}invalid {name.lstrip('-')} '{text}': {error}") from None


def unknown_flag(name: str, known: Iterable[str], command: Command) -> UsageError:
    """The error for a flag that the command does not have."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1, 0.7)
    hint = f"; did you mean {near[0]}?" if near else ""
    behind = "; put -- in front of a command that has flags of its own" if command.passes_on else ""
    return UsageError(f"unknown flag: {name}{hint}{behind}")


def read_arguments(command: Command, words: list[str]) -> dict[str, Any]:
    """The words of a command by the names that its usage gives them: a text each, a list for `NAME...`."""
    result: dict[str, Any] = {}
    for place in command.arguments.split():
        name = place.strip("[].")
        key = re.sub(r"\W", "_", name.lower())
        if not words and not place.startswith("["):
            raise UsageError(f"argument {name} is missing: clincus {command.name} {command.arguments}")
        if "..." in place:
            result[key], words = words, []
        else:
            result[key], words = (words[0], words[1:]) if words else ("", [])
    if words:
        raise UsageError(f"unexpected argument '{words[0]}': clincus {command.name} {command.arguments}".rstrip())
    return result


def command_named(name: str) -> Command:
    """The command of a name. Raises UsageError for one that there is not."""
    for command in COMMAND_TABLE:
        if command.name == name:
            return command
    import difflib

    group, _, word = name.rpartition(" ")
    names = [command.name.rpartition(" ")[2] for command in COMMAND_TABLE if command.group == group]
    near = difflib.get_close_matches(word, [*names, *(GROUPS if not group else ())], 1, 0.6)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    parent = f"clincus {group}".rstrip()
    raise UsageError(f"unknown command '{word}' for '{parent}'{hint}", group if group in GROUPS else "")
