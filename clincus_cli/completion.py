"""Part of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from clincus_cli.context import Context
from clincus_cli.help import program_rows
from clincus_cli.words import COMMAND_TABLE
from clincus_cli.words import GROUPS
from clincus_cli.words import HELP_FLAG
from clincus_cli.words import START_FLAGS


def completion_table() -> dict[str, list[str]]:
    """What may follow each command, by the command's name: for a group its commands, for "" the first words."""
    common = [name for flag in (HELP_FLAG, *START_FLAGS) for name in flag.names]
    names: dict[str, list[str]] = {"": [*GROUPS, *(one.name for one in COMMAND_TABLE if not one.group and one.summary)]}
    for group in GROUPS:
        names[group] = [one.name.split()[1] for one in COMMAND_TABLE if one.group == group]
    for command in COMMAND_TABLE:
        if command.summary:
            own = [name for flag in command.flags for name in flag.names]
            names[command.name] = list(dict.fromkeys([*own, *(common if command.starts else HELP_FLAG.names)]))
    return names


def run_completion_bash(context: Context) -> int:
    """`clincus completion bash`."""
    cases = "\n".join(
        f"    {shlex.quote(name)}) words={shlex.quote(' '.join(words))} ;;"
        for name, words in completion_table().items()
    )
    groups = "|".join(GROUPS)
    print(f"""# bash completion for clincus: `. <(clincus completion bash)`
_clincus() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} name= word words=
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ $word == -* ]] && continue
    case $name in
    "") name=$word ;;
    {groups}) name="$name $word"; break ;;
    *) break ;;
    esac
  done
  case $name in
{cases}
  esac
  if [[ $current == -* || -z $name || " {groups.replace("|", " ")} " == *" $name "* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}}
complete -o filenames -F _clincus clincus""")
    return 0


def run_completion_zsh(context: Context) -> int:
    """`clincus completion zsh`."""
    cases = "\n".join(
        f"    {shlex.quote(name)}) offered=({' '.join(map(shlex.quote, words))}) ;;"
        for name, words in completion_table().items()
    )
    print(f"""#compdef clincus
# zsh completion for clincus: put it as _clincus into a directory of $fpath
_clincus() {{
  local name=
  local -a before offered
  before=(${{words[2,CURRENT-1]:#-*}})
  case $before[1] in
    {"|".join(GROUPS)}) name="$before[1]${{before[2]:+ $before[2]}}" ;;
    *) name=$before[1] ;;
  esac
  case $name in
{cases}
  esac
  compadd -a offered
  [[ -z $name ]] || _files
}}
if [[ $funcstack[1] == _clincus ]]; then _clincus "$@"; else compdef _clincus clincus; fi""")
    return 0


def run_completion_fish(context: Context) -> int:
    """`clincus completion fish`."""
    print("# fish completion for clincus: clincus completion fish >~/.config/fish/completions/clincus.fish")
    print("complete -c clincus -n __fish_use_subcommand -f")
    for name, summary in program_rows():
        print(f"complete -c clincus -n __fish_use_subcommand -f -a {name} -d {fish_text(summary)}")
    for command in COMMAND_TABLE:
        if not command.summary:
            continue
        group, _, word = command.name.rpartition(" ")
        if group:
            print(
                f"complete -c clincus -n '__fish_seen_subcommand_from {group}' -f -a {word} "
                f"-d {fish_text(command.summary)}"
            )
        seen = f"__fish_seen_subcommand_from {group}; and " if group else ""
        for one in (*command.flags, *(START_FLAGS if command.starts else ()), HELP_FLAG):
            forms = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in one.names)
            needs = " -r" if one.value and one.implied is None else ""
            condition = f"'{seen}__fish_seen_subcommand_from {word}'"
            print(f"complete -c clincus -n {condition} {forms}{needs} -d {fish_text(one.meaning)}")
    return 0


def run_completion_powershell(context: Context) -> int:
    """`clincus completion powershell`."""

    def quoted(words: Iterable[str]) -> str:
        return ", ".join(f"'{word}'" for word in words)

    rows = "\n".join(f"        '{name}' = @({quoted(words)})" for name, words in completion_table().items())
    print(f"""# powershell completion for clincus: clincus completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName clincus -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $offered = @{{
{rows}
    }}
    $name = ''
    foreach ($element in ($commandAst.CommandElements | Select-Object -Skip 1)) {{
        $word = $element.Extent.Text
        if ($element.Extent.EndOffset -ge $cursorPosition) {{ break }}
        if ($word.StartsWith('-')) {{ continue }}
        if ($name -eq '') {{ $name = $word; continue }}
        if (@({quoted(GROUPS)}) -contains $name) {{ $name = "$name $word" }}
        break
    }}
    $offered[$name] | Where-Object {{ $_ -and $_.StartsWith($wordToComplete) }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }}
}}""")
    return 0


def fish_text(text: str) -> str:
    """A text quoted for fish, whose single quotes only know \\\\ and \\'."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
