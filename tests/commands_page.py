"""Writes docs/commands.md, the help of every command on one page: `python -m tests.commands_page`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

from clincus_cli import commands as cli
from clincus_cli import help as help_pages
from clincus_cli.all_commands import TOPICS, load_commands
from tests.programs import ROOT

PAGE = ROOT / "docs" / "commands.md"
HEAD = """# Commands

The help of every command, as `clincus help COMMAND` prints it. `make docs` writes this page.
"""


@mock.patch.dict(os.environ, {"COLUMNS": "100"})
def page_text() -> str:
    """The page."""
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


if __name__ == "__main__":
    PAGE.write_text(page_text())
