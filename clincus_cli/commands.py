"""Commands: each is declared beside its function, found in a command line, and given its flags and arguments."""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace

import clincus
from clincus_cli import TYPE_CHECKING
from clincus_cli.all_commands import ALIASES

if TYPE_CHECKING:
    from typing import Any

    from clincus_cli.context import Context

INVALID_SETTING = "validation failed: "  # words that scripts look for
Options = SimpleNamespace  # a command's flags and arguments by name; a flag that was not given is its default


class UsageError(Exception):
    """The command line cannot be understood: exit code 2, with a hint at the help."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.command = command  # the words that name the command, to point at its help


# -- Flags


class Flag:
    """A flag by its usage: `-w, --workspace PATH`, `--force`, `--resume[=ID]` (a value that may be left out)."""

    def __init__(
        self,
        usage: str,
        meaning: str,
        *,
        check: Callable[[str], object] = str,  # text to value; the ValueError says what would be right
        default: Any = ...,  # of a switch False, of a flag that repeats (), of any other None
        repeats: bool = False,
        setting: str = "",  # the setting that it overrides
        choices: Sequence[str] = (),  # the words that it takes, if it takes no others
    ) -> None:
        self.usage = usage
        self.meaning = meaning
        *short, long = usage.split(", ")
        long, _, value = long.rstrip("]").partition("[=") if "[=" in long else long.partition(" ")
        self.names = [*short, long]  # as they are typed
        self.key = long[2:].replace("-", "_")  # its attribute in the options
        self.value = value  # the name of its value; "" for a switch
        self.bare = "auto" if "[=" in usage else ""  # its value if none is given; "" if it needs one
        self.check = check if value else switch_state
        if choices:
            self.check = one_of(*choices)
        self.default = default
        if default is ...:
            self.default = None if value else False
            if repeats:
                self.default = ()
        self.repeats = repeats
        self.setting = setting
        self.choices = choices

    @property
    def help(self) -> tuple[str, str]:
        """The flag's row in help; the default is shown unless it is empty or the meaning names it."""
        is_silent = self.default in (None, "", ()) or self.default is False or "default" in self.meaning
        return self.usage, self.meaning + ("" if is_silent else f" (default: {str(self.default).lower()})")

    def parse(self, text: str) -> object:
        """The value that a text stands for. Raises UsageError."""
        try:
            value = self.check(text)
            if self.setting and value != "":
                clincus.SETTING[self.setting].fit(value)
        except ValueError as error:
            prefix = INVALID_SETTING if self.setting else ""
            raise UsageError(f"{prefix}invalid {self.key.replace('_', '-')} '{text}': {error}") from None
        return value


def switch_state(text: str) -> bool:
    """A check for the values of a switch, as in `--switch=true` and `--switch=false`."""
    states = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in states:
        raise ValueError("write true or false")
    return states[text.lower()]


def format_flag(*formats: str, **more: Any) -> Flag:
    """The flag that chooses the form of the output; the first one is the default."""
    meaning = more.pop("meaning", " or ".join(formats))
    return Flag("--format FORM", meaning, choices=formats, **{"default": formats[0], **more})


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
            raise UsageError(f"invalid env '{text}': {key} is not set here: set it, or write {key}=VALUE")
        value = value if joined else environ[key]
        environment[key] = clincus.terminal_name(value) if key == "TERM" else value
    return environment


def agreed(options: Options) -> bool:
    """True if the flags answer every question: --yes does, and so does --force, which may mean more than that."""
    return bool(options.yes or options.force)


def prints_plan(options: Options) -> bool:
    """True if --dry-run --json asks for the plan as JSON. Raises UsageError for --json alone."""
    if options.json and not options.dry_run:
        raise UsageError("--json prints the plan of --dry-run: give --dry-run, too")
    return bool(options.json)


WORKSPACE = Flag("-w, --workspace PATH", "project directory (default: the current one)", default="")
SLOT = Flag("--slot N", "slot of the workspace, 1 to 10; 0 chooses", check=number_from(0, 10), default=0)
YES = Flag("-y, --yes", "do not ask")
FORCE = Flag("--force", "the same as --yes")
FORCE_F = Flag("-f, --force", "the same as --yes")
JSON = Flag("--json", "the same as --format json")
RESULT_JSON = Flag("--json", "print the result as JSON")
PLAN_JSON = Flag("--json", "with --dry-run: print the plan as JSON")
ALWAYS_JSON = Flag("--json", "no effect: the output is always JSON")
HELP = Flag("-h, --help", "show this help")
PROFILE = Flag("--profile NAME", "apply [profiles.NAME] of the config", default="")
ENV = Flag("-e, --env KEY=VALUE", "variable for what runs inside; KEY alone copies yours", repeats=True)
ACCEPT_CHANGES = Flag("--accept-changes", "start even if a sealed file has changed since the last start")
RESUME = (
    Flag("--resume[=ID]", "go on with a saved conversation: the newest of this workspace, or ID", default=""),
    Flag("--continue[=ID]", "the same as --resume", default=""),
)
START = (
    WORKSPACE,
    SLOT,
    Flag("--image ALIAS", "image to start from (default: the config's)", default=""),
    Flag("--persistent", "keep the container when the session ends", default=None),
    PROFILE,
    ENV,
    Flag("--mount HOST:PATH[:ro]", "mount a directory or file as PATH in the container", repeats=True),
    Flag(
        "--network MODE",
        "what the session can reach: open, allow-list or none (default: the config's)",
        choices=("open", "allow-list", "none"),
    ),
    Flag("--allow NAME", "allow a host or a preset beside those of the config (--network allow-list)", repeats=True),
    Flag(
        "--login NAME",
        "login to borrow, instead of the config's; none for no login",
        repeats=True,
    ),
    Flag(
        "--nesting",
        "let Docker, Podman and bubblewrap run in it; with a mounted directory, protection is `basic` then",
        default=None,
        setting="security.nesting",
    ),
    ACCEPT_CHANGES,
    Flag("--writable-git-hooks", "leave .git/hooks open to writing; everything else stays protected"),
    Flag("--limit-cpu N", "CPUs: a number, or a list to pin to such as 0-1,3", setting="limits.cpu.count"),
    Flag("--limit-cpu-allowance SHARE", "50% under load, or 25ms/100ms at most", setting="limits.cpu.allowance"),
    Flag("--limit-cpu-priority N", "0 to 10", check=number_from(0, 10), setting="limits.cpu.priority"),
    Flag("--limit-memory SIZE", "such as 4GiB or 50%", setting="limits.memory.limit"),
    Flag("--limit-memory-swap SIZE", "true, false or a size", setting="limits.memory.swap"),
    Flag("--limit-memory-enforce HOW", "hard or soft", setting="limits.memory.enforce"),
    Flag("--limit-disk-read RATE", "such as 10MiB/s or 1000iops", setting="limits.disk.read"),
    Flag("--limit-disk-write RATE", "as above", setting="limits.disk.write"),
    Flag("--limit-disk-max RATE", "both directions together", setting="limits.disk.max"),
    Flag("--limit-disk-priority N", "0 to 10", check=number_from(0, 10), setting="limits.disk.priority"),
    Flag(
        "--limit-processes N", "0 for no limit", check=number_from(0, 4194304), setting="limits.runtime.max_processes"
    ),
    Flag("--limit-duration TIME", "longest run, such as 90m or 8h", setting="limits.runtime.max_duration"),
)

# -- Commands

GROUPS = {
    "config": "Show the settings, and change one",
    "container": "Work on any instance of the Incus project, one step at a time",
    "engine": "Run sessions on Incus servers and clusters elsewhere",
    "file": "Copy files into and out of a container",
    "image": "List, publish, delete and tidy up images",
    "login": "Look at the logins that sessions borrow, and take them back",
    "service": "Run the dashboard as a systemd user service",
    "snapshot": "Take and restore snapshots of a container",
    "tmux": "Type into a session's terminal, or read it",
}
COMMANDS: dict[str, Command] = {}  # by name, in the order of their files


class Command:
    """Declares a function as the command of a usage such as `tmux send CONTAINER TEXT`, with its flags.

    The function's docstring is its help (see `help.page_of`).
    """

    run: Callable[[Context], int]
    summary = ""  # the first line of the docstring; "": help does not show the command

    def __init__(
        self,
        usage: str,
        *flags: Flag,
        starts: bool = False,
        shows: bool = False,
        writes: bool = False,
        hidden: bool = False,
        config: bool = True,
        passes_on: int = 0,
    ) -> None:
        words = (word for word in usage.split() if word.islower() and "[" not in word)
        self.name = " ".join(words)  # one word, or a group and a word
        self.group = self.name.partition(" ")[0] if " " in self.name else ""
        self.arguments = usage[len(self.name) :].strip()  # `NAME`, `[NAME]`, `NAME...`, `[NAME...]`
        gives_json = any(flag.key == "format" and "json" in flag.choices for flag in flags)
        # After the words of another program, --json is that program's.
        self.flags = (*flags, JSON) if gives_json and not passes_on else flags  # its own, as its help shows them
        self.starts = starts  # whether it starts a session, and takes the flags of a start
        self.writes = writes  # it changes something by itself, so the journal has a line about it
        self.hidden = hidden
        self.passes_on = passes_on  # number of words: an unknown flag after them belongs to the program that they name
        self._shows = shows
        self._config = config

    @functools.cached_property
    def all_flags(self) -> dict[str, Flag]:
        """Every flag that it takes, by each name.

        A command that only shows something accepts the flags of a start and ignores them: scripts put them anywhere.
        """
        start = START if self.starts or self._shows else ()
        profile = (PROFILE,) if self._config else ()
        return by_name([HELP, *profile, *start, *(RESUME if self._shows else ()), *self.flags])

    @property
    def session_argument(self) -> str:
        """The argument that is a session or its container, always the first one; "" if it takes none."""
        first = self.arguments.partition(" ")[0].strip("[].")
        is_other = self.group in ("engine", "snapshot") or self.name == "container launch"
        return first if first in ("NAME", "CONTAINER") and not is_other else ""

    @property
    def other_words(self) -> list[str]:
        """The words that stand for its name."""
        return [word for word, name in ALIASES.items() if name == self.name]

    @property
    def names_session(self) -> bool:
        """True if it takes a session: a prefix or the session's own name will do, see `names`."""
        takes_any_instance = self.group == "container" or self.name == "image publish"
        return bool(self.session_argument) and not takes_any_instance

    def __call__(self, run: Callable[[Context], int]) -> Callable[[Context], int]:
        """Take the function."""
        COMMANDS[self.name] = self
        self.run = run
        self.summary = "" if self.hidden else (run.__doc__ or "").strip().partition("\n")[0]
        return run


def by_name(flags: Iterable[Flag]) -> dict[str, Flag]:
    """Flags by each of their names; a later one beats an earlier one."""
    return {name: flag for flag in flags for name in flag.names}


def command_named(name: str) -> Command:
    """The command of a name. Raises UsageError for an unknown one."""
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
    """A hint at the known word that is most similar to a wrong one."""
    import difflib

    plain = {one.lstrip("-"): one for one in known}  # dashes alone are no likeness
    near = difflib.get_close_matches(word.lstrip("-"), plain, 1, 0.6)
    return f"; did you mean '{plain[near[0]]}'?" if near else ""


# -- From words to a command and its options


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command, and the words besides its name: `shell` if no command is named, `help` if only a group is."""
    if list(words) in (["--version"], ["-v"]):
        return COMMANDS["_version"], []
    rest = list(words)
    at = next_word(words, 0, "")
    if at is None:
        return (COMMANDS["shell"], rest) if {"--help", "-h"}.isdisjoint(words) else (COMMANDS["help"], [])
    name = rest.pop(at)
    name = ALIASES.get(name, name)
    if name not in GROUPS:
        return command_named(name), rest
    second = next_word(rest, at, name)
    if second is None:
        return COMMANDS["help"], [name]
    return command_named(f"{name} {rest.pop(second)}"), rest


def next_word(words: Sequence[str], at: int, group: str) -> int | None:
    """The place of the first word from `at` that is neither a flag nor a flag's value; None without one.

    The command is not known yet, so every flag of a command of the group may stand in front of it. If two commands
    have a flag of the same name, that of START wins.
    """
    own = (flag for one in COMMANDS.values() if group in ("", one.group) for flag in one.flags)
    known = by_name([*own, HELP, *START, *RESUME])
    while at < len(words) and words[at] != "--":
        if not words[at].startswith("-"):
            return at
        found = known.get(words[at])
        takes_next = found is not None and found.value and (not found.bare or is_session_id(words[at + 1 : at + 2]))
        at += 2 if takes_next else 1
    return None


def is_session_id(words: Sequence[str]) -> bool:
    """True if the first word is the id of a session, not a workspace or the next flag.

    Ids are UUIDs; the oldest saved sessions have the name of their container, or a time, with `-session` after it.
    """
    form = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]+-session|auto"
    return bool(words) and re.fullmatch(form, words[0]) is not None


def parse_words(command: Command, words: Sequence[str]) -> Options:
    """The options of a command from the words beside its name. Raises UsageError."""
    known = command.all_flags
    flags, arguments = sort_words(words, known, command.passes_on)
    options = Options(**{one.key: one.default for one in known.values()})
    faults = []
    for name, text in flags:
        if name not in known:
            raise unknown_flag(name, command)
        try:
            key = known[name].key
            value = known[name].parse(text)
        except UsageError as error:
            faults.append(error.message)
        else:
            setattr(options, key, (*getattr(options, key), value) if known[name].repeats else value)
    if faults:
        first, *more = faults
        raise UsageError("; ".join([first, *(fault.removeprefix(INVALID_SETTING) for fault in more)]))
    if not options.help:
        vars(options).update(read_arguments(command, arguments))
    return options


def sort_words(
    words: Sequence[str], known: Mapping[str, Flag], passes_on: int = 0
) -> tuple[list[tuple[str, str]], list[str]]:
    """The flags among the words, each with the text of its value, and the arguments.

    The rules are those of pflag, which users' scripts were written for: `--force=false`, `--resume` with or without a
    value, flags between arguments, flags of another program behind ours. argparse has none of them, and cost 4 ms.

    After `passes_on` arguments an unknown flag is an argument, too: it belongs to another program. There our own flags
    have the forms `-w PATH` and `--slot=2` only.
    """
    flags: list[tuple[str, str]] = []
    arguments: list[str] = []
    left = deque(words)
    while left:
        word = left.popleft()
        if word == "--":
            return flags, [*arguments, *left]
        name, joined, text = word.partition("=")
        if not word.startswith("-") or word == "-" or (0 < passes_on <= len(arguments) and name not in known):
            arguments.append(word)
            continue
        if name not in known and word[:2] in known and word[2:] != "-":  # -w/srv, or -fc NAME for -f -c NAME
            name = word[:2]
            text = word[2:]
            if not known[name].value:
                left.appendleft(f"-{text}")
                text = "true"
        elif not joined and name in known:
            found = known[name]
            if not found.value:
                text = "true"
            elif found.bare and not is_session_id([*left][:1]):
                text = found.bare
            elif not left:
                raise UsageError(f"flag needs a value: {name} {found.value}")
            else:
                text = left.popleft()
        flags.append((name, text))
    return flags, arguments


def unknown_flag(name: str, command: Command) -> UsageError:
    """The error for a flag that the command does not have."""
    if name in by_name([*START, *RESUME]):
        return UsageError(f"unknown flag: {name} is no flag of `clincus {command.name}`")
    if name in ("--engine", "--target"):
        elsewhere = "a session on an engine is named by its whole id, ENGINE:NAME, as `clincus list` shows it"
        return UsageError(f"unknown flag: {name} is no flag of `clincus {command.name}`; {elsewhere}")
    behind = "; put -- in front of a command that has flags of its own" if command.passes_on else ""
    return UsageError(f"unknown flag: {name}{did_you_mean(name, command.all_flags)}{behind}")


def read_arguments(command: Command, words: list[str]) -> dict[str, Any]:
    """The arguments by their names in the command's usage: a text each, a list for `NAME...`. Raises UsageError."""
    places = command.arguments.split()
    left = list(words)
    usage = f"write `clincus {command.name} {command.arguments}".rstrip() + "`"
    usage += f" (accepts {len(places)} arg(s), received {len(words)})"  # words that scripts look for
    result: dict[str, Any] = {}
    for place in places:
        name = place.strip("[].")
        key = name.lower().replace(":", "_")
        if not left and not place.startswith("["):
            raise UsageError(f"argument {name} is required: {usage}")
        if "..." in place:
            result[key] = left
            left = []
        else:
            result[key], left = (left[0], left[1:]) if left else ("", [])
    if left:
        raise UsageError(f"unexpected argument '{left[0]}': {usage}")
    return result
