"""Completion: one hidden command says what may come next, and each shell has a few lines that ask it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import clincus
from clincus_cli import commands as cli
from clincus_cli import help as help_pages
from clincus_cli.context import Context

BASH = r"""# bash completion for clincus: . <(clincus completion bash)
_clincus() {
  local current=${COMP_WORDS[COMP_CWORD]} offered
  offered=$(clincus __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f 1)
  if [[ -n $offered ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -o filenames -F _clincus clincus"""

ZSH = r"""#compdef clincus
# zsh completion for clincus: put it as _clincus into a directory of $fpath
_clincus() {
  local -a offered
  offered=(${(f)"$(clincus __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
  offered=(${${offered//:/\\:}/$'\t'/:})
  if (( $#offered )); then _describe clincus offered; else _files; fi
}
if [[ $funcstack[1] == _clincus ]]; then _clincus "$@"; else compdef _clincus clincus; fi"""

FISH = r"""# fish completion for clincus: clincus completion fish >~/.config/fish/completions/clincus.fish
function __clincus_offered
  clincus __complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c clincus -n 'count (__clincus_offered) >/dev/null' -f -a '(__clincus_offered)'"""

POWERSHELL = r"""# powershell completion for clincus: clincus completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName clincus -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $before = @($commandAst.CommandElements | Select-Object -Skip 1 |
        Where-Object { $_.Extent.EndOffset -lt $cursorPosition } | ForEach-Object { $_.Extent.Text })
    & clincus __complete -- @before "$wordToComplete" 2>$null | ForEach-Object {
        $offered, $meaning = $_ -split "`t", 2
        if ($offered.StartsWith($wordToComplete)) {
            [System.Management.Automation.CompletionResult]::new($offered, $offered, 'ParameterValue', $meaning)
        }
    }
}"""


SCRIPTS = {"bash": BASH, "fish": FISH, "powershell": POWERSHELL, "zsh": ZSH}


@cli.Command("completion [SHELL]", shows=True)
def run_completion(context: Context) -> int:
    """Print the completion script for bash, zsh, fish or powershell

    $ . <(clincus completion bash)  # In ~/.bashrc.
    $ clincus completion zsh >~/.zfunc/_clincus  # With ~/.zfunc in $fpath.
    $ clincus completion fish >~/.config/fish/completions/clincus.fish  # For every new shell.
    $ clincus completion powershell | Out-String | Invoke-Expression  # In the file $PROFILE.
    """
    shell = context.options.shell
    if shell and shell not in SCRIPTS:
        raise cli.UsageError(f"unknown shell '{shell}': write bash, zsh, fish or powershell", "completion")
    print(SCRIPTS[shell] if shell else help_pages.help_text("completion"))
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
        is_flag = current.startswith("-")
        return flag_rows(cli.COMMANDS["help" if group else "shell"]) if is_flag else command_rows(group)
    try:
        found, rest = cli.find_command(before)
    except cli.UsageError:
        return []
    flag = found.all_flags.get(before[-1])
    if flag is not None and flag.value and not flag.bare:
        if flag.key == "tool":
            return tool_rows(context)
        return session_rows(context) if flag.key == "container" else [(choice, "") for choice in flag.choices]
    if current.startswith("-"):
        return flag_rows(found)
    _, arguments = cli.sort_words([*rest, current], found.all_flags)
    return argument_rows(context, found, len(arguments) - 1)


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
    """What the argument at a place may be: a shell, or the name of a session."""
    places = command.arguments.split()
    place = places[min(at, len(places) - 1)] if places else ""
    if place == "[SHELL]":
        return [(shell, "") for shell in SCRIPTS]
    is_session = place.strip("[].") in ("NAME", "CONTAINER") and "launch" not in command.name
    return session_rows(context) if is_session and command.group != "snapshot" else []


def tool_rows(context: Context) -> Iterable[tuple[str, str]]:
    """The tools to choose from; none where the config is broken."""
    try:
        return [(name, "") for name in clincus.all_tools(context.config)]
    except clincus.ClincusError:
        return []


def session_rows(context: Context) -> Iterable[tuple[str, str]]:
    """The sessions, each with what it is; none where Incus cannot be asked."""
    try:
        found = context.sessions.registry.all()
    except clincus.ClincusError:
        return []
    return [(one.id, clincus.printable(f"{one.tool}, {one.status}, {one.workspace}")) for one in found]
