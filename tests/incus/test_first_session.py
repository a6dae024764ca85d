"""docs/first-session.md: its commands print what the page shows, but for names, times and numbers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import clincus
from tests.programs import ROOT, Server, program, wait_until

PAGE = ROOT / "docs" / "first-session.md"
NAME = "clincus-098787-1"


def shown(command: str) -> str:
    """What the page shows below a command."""
    found = re.search(rf"^\$ {re.escape(command)}\n((?:(?!\$ |```).*\n)*)", PAGE.read_text(), re.MULTILINE)
    assert found, f"{PAGE.name} has no `{command}`"
    return found[1]


def without_values(text: str) -> list[str]:
    """The lines of a list without what differs from machine to machine."""
    return [re.sub(r"^( +[A-Z]\w+:).*", r"\1", line) for line in text.splitlines()]


@pytest.fixture
def first(start_server: Any, make_workspace: Any, bed: Any) -> Any:
    """A function that runs a command of the page in its project, as if the session had the page's name."""
    server: Server = start_server()
    workspace: Path = make_workspace("my-app")
    id = clincus.session_name("clincus-", str(workspace), 1)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLINCUS_", "XDG_"))}

    def run(command: str) -> str:
        words = command.replace(NAME, id).split()
        done = subprocess.run(
            [*program(), *words[1:]],
            env={**kept, **bed.environ, "HOME": str(server.home)},
            cwd=workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.replace(id, NAME)

    run.server = server  # type: ignore[attr-defined]
    run.path = f"/api/sessions/{id}"  # type: ignore[attr-defined]
    return run


def test_the_commands_of_the_first_session_print_what_the_page_shows(first):
    server, path = first.server, first.path
    first("clincus shell --background")
    assert without_values(first("clincus list")) == without_values(shown("clincus list"))

    wait_until(lambda: server.get(f"{path}/checkpoints").json, "the checkpoint of the start")
    read = server.get(f"{path}/files/content?path=README.md")
    for name, content, headers in (
        ("README.md", read.body + b"Much better.\n", {"If-Match": read.headers["etag"]}),
        ("notes.txt", b"buy milk\n", {"If-None-Match": "*"}),
    ):
        assert server.request("PUT", f"{path}/files/content?path={name}", content, headers=headers).status == 204

    assert first(f"clincus diff {NAME} --stat") == shown(f"clincus diff {NAME} --stat")

    undo = f"clincus undo {NAME} --to start notes.txt"
    listed, question, result = shown(undo).splitlines()
    assert question == "Bring 1 file(s) back to 'start'? [y/N] y"
    printed = first(f"{undo} --yes").splitlines()
    assert [re.sub(r"--to \d+$", "--to 2", line) for line in printed] == [listed, result]

    assert first(f"clincus stop {NAME}") == shown(f"clincus stop {NAME}")
