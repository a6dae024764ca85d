"""A client that openapi-python-client generates from the contract leads a session through its whole life."""

from __future__ import annotations

import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.programs import DEADLINE, Server

NAME = "generated_client"
# The generator knows no pictures.
UNSUPPORTED = {"/api/sessions/{id}/changes/image", "/api/sessions/{id}/files/image"}


@pytest.fixture(scope="module")
def package(contract: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The generated package, which can be imported in this file."""
    folder = tmp_path_factory.mktemp("generated")
    words = ["generate", "--path", str(contract), "--output-path", str(folder / NAME), "--meta", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *words],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"WARNING parsing [A-Z]+ (\S+)", done.stdout + done.stderr)) == UNSUPPORTED
    sys.path.insert(0, str(folder))
    yield folder / NAME
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def server(start_shared: Any) -> Server:
    """A server with checkpoints."""
    return start_shared()


@pytest.fixture(scope="module")
def contract(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description that the running server gives."""
    path = tmp_path_factory.mktemp("contract") / "openapi.json"
    path.write_bytes(server.get("/api/openapi.json").body)
    return path


@pytest.fixture
def client(package: Path, server: Server) -> Any:
    """What calls an operation by its tag and name, and gives the answer with its status, header fields and value."""
    connection = importlib.import_module(f"{NAME}.client").Client(base_url=server.url, timeout=DEADLINE)

    def call(tag: str, operation: str, *in_path: object, **fields: object) -> Any:
        module = importlib.import_module(f"{NAME}.api.{tag}.{operation}")
        return module.sync_detailed(*in_path, client=connection, **fields)

    return SimpleNamespace(
        call=call, models=importlib.import_module(f"{NAME}.models"), types=importlib.import_module(f"{NAME}.types")
    )


def test_a_generated_client_leads_a_session_through_its_life(client, workspace):
    call, models = client.call, client.models
    assert "agent" in call("server", "get_api").parsed.extensions

    body = models.CreateSessionBody(workspace=str(workspace), tool="claude", name="by a machine", persistent=True)
    session = call("sessions", "create_session", body=body, idempotency_key="once").parsed
    assert (session.status, session.name, session.workspace) == ("running", "by a machine", str(workspace))
    assert call("sessions", "create_session", body=body, idempotency_key="once").parsed.id == session.id
    assert [one.id for one in call("sessions", "list_sessions").parsed] == [session.id]

    assert call("agent", "get_agent", session.id).parsed.state in ("starting", "unknown")
    queued = call("prompts", "send_prompt", session.id, body=models.SendPromptBody(text="hello")).parsed
    assert queued.result == "queued"
    assert [one.text for one in call("prompts", "list_prompts", session.id).parsed] == ["hello"]
    taken_back = call("prompts", "cancel_prompt", session.id, queued.prompt_id)
    assert taken_back.status_code == HTTPStatus.NO_CONTENT

    new = client.types.File(payload=io.BytesIO(b"buy milk\n"))
    written = call("files", "write_file", session.id, body=new, path="notes.txt", if_none_match="*")
    assert written.status_code == HTTPStatus.NO_CONTENT
    read = call("files", "read_file", session.id, path="notes.txt")
    assert (read.content, read.headers["etag"]) == (b"buy milk\n", written.headers["etag"])
    assert "notes.txt" in [one.name for one in call("files", "list_files", session.id).parsed.entries]
    assert call("files", "list_files", session.id).parsed.truncated is False

    assert "notes.txt" in [one.path for one in call("review", "get_changes", session.id).parsed.files]
    made = call("review", "create_checkpoint", session.id, body=models.CreateCheckpointBody(note="with milk")).parsed
    assert made.checkpoint in [one.checkpoint for one in call("review", "list_checkpoints", session.id).parsed]

    assert call("network", "get_network", session.id).parsed.mode == "open"
    assert call("network", "mark_network_seen", session.id).status_code == HTTPStatus.NO_CONTENT
    assert call("sessions", "get_usage", session.id).parsed.memory_bytes > 0

    assert call("sessions", "stop_session", session.id).status_code == HTTPStatus.NO_CONTENT
    assert call("sessions", "get_session", session.id).parsed.status == "stopped"
    refused = call("files", "list_files", session.id)
    assert (refused.status_code, refused.parsed.code) == (HTTPStatus.CONFLICT, "session_not_running")
    assert call("sessions", "resume_session", session.id).parsed.status == "running"

    assert call("sessions", "delete_session", session.id, force=True).status_code == HTTPStatus.NO_CONTENT
    gone = call("sessions", "get_session", session.id)
    assert (gone.status_code, gone.parsed.code) == (HTTPStatus.NOT_FOUND, "session_not_found")
    assert "Create and start a session" in [one.what for one in call("history", "get_log", session.id).parsed]
    assert session.id in [one.id for one in call("history", "list_history").parsed]
