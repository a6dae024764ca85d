"""`config show|set|path`: the settings in force, where each comes from, and changing one in the user's file."""

from __future__ import annotations

import os
import re
import stat
import sys

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any

FILE_LIMIT = 1 << 20  # bytes


@cli.Command("config show [KEY]", cli.format_flag("text", "json"), shows=True)
def run_config_show(context: Context) -> int:
    """Show the settings in force, and where each comes from

    Secrets are hidden. KEY is one setting, such as `limits.memory.limit`, or a table of them.

    $ clincus config show limits  # What every session is limited to.
    """
    key = context.options.key
    config = context.config
    names = [name for name in clincus.SETTING if not key or name == key or name.startswith(f"{key}.")]
    if not names:
        raise clincus.ClincusError(f"there is no setting '{key}'; `clincus config show` lists them", 404)
    values = {name: clincus.shown(clincus.SETTING[name], config.get(name)) for name in names}
    document = {name: {"value": value, "from": config.origins[name]} for name, value in values.items()}
    table = console.table(
        ("SETTING", "VALUE", "FROM"), [(name, literal(values[name]), config.origins[name]) for name in names]
    )
    return context.show(document, [table])


@cli.Command("config path", cli.format_flag("text", "json"), shows=True)
def run_config_path(context: Context) -> int:
    """List the configuration files; a later one overrides an earlier one

    The list includes files that do not exist yet. `config set` writes to your own file.

    $ clincus config path  # Which files does Clincus read?
    """
    rows = [(path, "" if exists else "not there") for path, exists in context.config.files.items()]
    return context.show(context.config.files, [console.table(None, rows)])


@cli.Command("config set KEY VALUE", cli.RESULT_JSON, writes=True)
def run_config_set(context: Context) -> int:
    """Set one setting in your config file

    Write VALUE as in TOML, such as true, 4 or ["pypi.org"]; anything else is a text. With -, the command reads it from
    stdin, which keeps a secret out of your shell's history. The rest of the file stays as it is.

    $ clincus config set limits.memory.limit 4GiB  # For every new session.
    """
    options = context.options
    environ = context.environ
    _ = context.extensions  # they may add keys
    setting = clincus.SETTING.get(options.key)
    if setting is None or setting.rows:
        advice = "`clincus config show` lists them; edit a table of your own names in the file"
        raise clincus.ClincusError(f"there is no single setting '{options.key}': {advice}", 404)
    text = read_line(options.key) if options.value == "-" else options.value
    value = read_value(text)
    try:
        setting.fit(value)
    except ValueError as error:
        raise clincus.ConfigError(f"invalid {options.key}: {error}") from None
    places = clincus.user_configs(environ)
    path = next(filter(os.path.exists, places), places[0])
    before = clincus.read_text(path, FILE_LIMIT) or ""
    after = with_setting(before, options.key, value, path)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o600
    clincus.replace_file(os.path.realpath(path), after.encode(), mode)
    console.say(f"Set {options.key} in {path}")
    now = clincus.load_config(environ, profile=getattr(options, "profile", ""))
    if now.get(options.key) != setting.fit(value):
        console.warn(f"{now.origins[options.key]} still sets it, and wins")
    return context.show({"key": options.key, "file": path}, [])


def read_line(key: str) -> str:
    """A value from stdin; a terminal does not show it, as it may be a secret."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass(f"{key}: ")
    return sys.stdin.readline().rstrip("\n")


def read_value(text: str) -> object:
    """A value in the syntax of TOML; any other text stands for itself."""
    try:
        found = clincus.parse_toml("VALUE", f"value = {text}")
    except clincus.ConfigError:
        return text
    return found["value"] if list(found) == ["value"] else text  # else it holds more than a value


def literal(value: Any) -> str:
    """A value as JSON and TOML write it; a table as JSON."""
    import json

    return json.dumps(value, ensure_ascii=False)


def with_setting(text: str, key: str, value: object, path: str) -> str:
    """The text of a config file with one key set, the rest unchanged. Raises ConfigError if that is uncertain.

    The line is found by its form, and the result is read again: nothing but that key may differ.
    """
    table, _, name = key.rpartition(".")
    line = f"{name} = {literal(value)}"
    lines = text.splitlines()
    head = next((at for at, one in enumerate(lines) if re.match(rf"\s*\[\s*{re.escape(table)}\s*\]", one)), None)
    if head is None:
        lines += [*([""] if lines else []), f"[{table}]", line]
    else:
        behind = range(head + 1, len(lines))
        end = next((at for at in behind if lines[at].lstrip().startswith("[")), len(lines))
        at = next((at for at in range(head + 1, end) if re.match(rf"\s*{re.escape(name)}\s*=", lines[at])), None)
        if at is None:
            lines.insert(head + 1, line)
        else:
            lines[at] = line
    after = "\n".join(lines) + "\n"
    try:
        wanted = clincus.parse_toml(path, text)
        place = wanted
        for part in table.split("."):
            place = place.setdefault(part, {})
        place[name] = value
        is_certain = clincus.parse_toml(path, after) == wanted
    except (clincus.ConfigError, AttributeError, TypeError):
        is_certain = False
    if not is_certain:
        raise clincus.ConfigError(f"{path} has a form that this cannot change: write `{line}` under [{table}]", 409)
    return after
