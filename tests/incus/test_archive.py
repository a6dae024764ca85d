"""The archive as people get it: `clincus.pyz` alone, under each Python, without any site packages."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_zipapp
from tests.interpreters import PYTHONS
from tests.programs import DEADLINE, connect


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, far from the checkout."""
    path = tmp_path_factory.mktemp("elsewhere") / "clincus.pyz"
    build_zipapp.write_program(path, build_zipapp.build())
    return path


@pytest.mark.parametrize("version", PYTHONS)
def test_serves_and_echoes_in_a_terminal_on_each_python(archive, start_server, workspace, version):
    server = start_server(command=[PYTHONS[version], "-I", str(archive)])
    assert server.get("/").headers["content-type"].startswith("text/html")
    session = server.create(workspace)
    with connect(f"{server.socket_url}/ws/shell/{session['id']}?cols=80&rows=24", max_size=None) as shell:
        shell.send(b"echo $((6 * 7))-is-it\n")
        shown = b""
        while b"42-is-it" not in shown:
            shown += shell.recv(timeout=DEADLINE)
