"""Writes docs/commands.md, the help of every command, and the table of all calls in docs/api.md.

Run it as `python -m tests.commands_page`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from unittest import mock

import clincus
from clincus_cli import commands as cli
from clincus_cli import help as help_pages
from clincus_cli.all_commands import TOPICS, load_commands
from tests.programs import ROOT

PAGE = ROOT / "docs" / "commands.md"
API_PAGE = ROOT / "docs" / "api.md"
HEAD = """# Commands

The help of every command, as `clincus help COMMAND` prints it. `make docs` writes this page.
"""


@mock.patch.dict(os.environ, {"COLUMNS": "100"})
def page_text() -> str:
    load_commands()
    parts = [HEAD]
    for title, files in TOPICS.items():
        parts.append(f"## {title}\n")
        parts += [f"### {name}\n\n```\n{help_pages.help_text(name)}\n```\n" for name in names_in(files)]
    return "\n".join(parts)


def names_in(files: dict[str, str]) -> Iterator[str]:
    """The commands that have help in some files of clincus_cli, in the order of their declaration."""
    for file in files:
        for command in cli.COMMANDS.values():
            if command.run.__module__ == f"clincus_cli.{file}" and command.summary and not command.hidden:
                yield command.name


def calls_table() -> str:
    """A row for each call of openapi.json, by its resource, in the order of the tags there."""
    contract = clincus.load_contract()
    rows: dict[str, list[str]] = {tag["name"]: [] for tag in contract["tags"]}
    for path, item in contract["paths"].items():
        for method in [key for key in item if key != "parameters"]:
            (tag,) = item[method]["tags"]
            rows[tag].append(f"| {tag} | `{method.upper()} {path}` | {item[method]['summary']} |\n")
    head = "| resource | call | what it does |\n| --- | --- | --- |\n"
    return head + "".join(row for rows_of_tag in rows.values() for row in rows_of_tag)


def with_calls(page: str) -> str:
    """The page on the API with the table of the present calls below its heading."""
    return re.sub(r"(?<=^## All calls\n\n)(\|.*\n)*", lambda _: calls_table(), page, flags=re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(page_text())
    API_PAGE.write_text(with_calls(API_PAGE.read_text()))
