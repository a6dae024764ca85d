"""The archive as people get it: `clincus.pyz` alone, under each Python, without any site packages."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_zipapp
from tests.interpreters import PYTHONS
from tests.programs import DEADLINE, NO_CHECKPOINTS, connect

pytestmark = pytest.mark.day


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, far from the checkout."""
    path = tmp_path_factory.mktemp("elsewhere") / "clincus.pyz"
    build_zipapp.write_program(path, build_zipapp.build())
    return path


@pytest.fixture(scope="module")
def on_python(archive, start_shared):
    """A function that starts the archive's server on a Python."""
    return lambda version: start_shared(command=[PYTHONS[version], "-I", str(archive)], config=NO_CHECKPOINTS)


@pytest.fixture(scope="module")
def session(on_python, keep_session):
    """A session that a server on the oldest Python made."""
    server = on_python(next(iter(PYTHONS)))
    session = keep_session(server)
    server.stop()
    return session["id"]


@pytest.mark.parametrize("version", PYTHONS)
def test_serves_and_echoes_in_a_terminal_on_each_python(on_python, session, version):
    server = on_python(version)
    assert server.get("/").headers["content-type"].startswith("text/html")
    with connect(f"{server.socket_url}/ws/shell/{session}?cols=80&rows=24", max_size=None) as shell:
        shell.send(b"echo $((6 * 7))-is-it\n")
        shown = b""
        while b"42-is-it" not in shown:
            shown += shell.recv(timeout=DEADLINE)
    server.stop()
