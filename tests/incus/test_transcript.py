"""The conversation of a session in parts, on a real Incus."""

from __future__ import annotations

import json

import pytest
from test_sessions import guest

from tests.programs import NO_CHECKPOINTS

pytestmark = pytest.mark.day

MAKE_ROOM = "mkdir -p ~/.claude/projects/-workspace"
TALK = "~/.claude/projects/-workspace/{session_id}.jsonl"


def written(text: str) -> str:
    """A line of Claude Code's file."""
    return json.dumps({"parentUuid": None, "type": "user", "message": {"content": text}})


def texts(server, id: str, query: str = "") -> list[str]:
    return [one["text"] for one in server.get(f"/api/sessions/{id}/conversation{query}").json["messages"]]


def test_a_conversation_is_read_after_the_stop_and_after_the_delete(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace)
    path = f"/api/sessions/{session['id']}"
    assert server.get(f"{path}/conversation").json["state"] == "none"
    lines = "\n".join(map(written, ("remember the milk", "and the bread")))
    guest(bed, session, f"{MAKE_ROOM} && cat >>{TALK.format(**session)} <<'END'\n{lines}\nEND")
    assert server.delete(path).status == 204
    assert texts(server, session["id"]) == ["remember the milk", "and the bread"]
    assert server.delete(f"{path}?force=true").status == 204
    for id in (session["id"], session["session_id"]):
        assert texts(server, id) == ["remember the milk", "and the bread"]
        assert texts(server, id, "?q=BREAD&limit=1") == ["and the bread"]
    assert server.get("/api/sessions/clincus-000000-1/conversation").status == 404


def test_a_container_leads_to_no_file_of_the_host(bed, start_server, workspace, home):
    """A link in the place of the conversation, and of a folder on the way to it."""
    server = start_server(config=NO_CHECKPOINTS)
    secret = home / "secret.jsonl"
    secret.write_text(written("secret") + "\n")
    session = server.create(workspace)
    talk = TALK.format(**session)
    guest(
        bed,
        session,
        f"{MAKE_ROOM} && ln -sfn {home} ~/.claude/projects/-home && ln -sfn {secret} {talk}",
    )
    assert server.delete(f"/api/sessions/{session['id']}").status == 204
    assert texts(server, session["id"]) == []
