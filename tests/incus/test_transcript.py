"""The conversation of a session in parts, on a real Incus."""

from __future__ import annotations

import json

import pytest

from tests.programs import NO_CHECKPOINTS

TALK = "~/.claude/projects/-workspace/{session_id}.jsonl"


def written(text: str) -> str:
    """A line of Claude Code's file."""
    return json.dumps({"parentUuid": None, "type": "user", "message": {"content": text}})


def texts(server, id: str, query: str = "") -> list[str]:
    return [one["text"] for one in server.get(f"/api/sessions/{id}/conversation{query}").json["messages"]]


@pytest.mark.day
def test_a_conversation_is_read_after_the_stop_and_after_the_delete_and_leads_to_no_file_of_the_host(
    bed, start_server, workspace, home
):
    """The container puts links in the place of the conversation, and of a folder on the way to it."""
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace)
    id, path, talk = session["id"], f"/api/sessions/{session['id']}", TALK.format(**session)
    assert server.get(f"{path}/conversation").json["state"] == "none"
    lines = "\n".join(map(written, ("remember the milk", "and the bread")))
    bed.shell(id, f"mkdir -p ~/.claude/projects/-workspace && cat >>{talk} <<'END'\n{lines}\nEND")
    assert server.delete(path).status == 204
    assert texts(server, id) == ["remember the milk", "and the bread"]
    assert server.delete(f"{path}?force=true").status == 204
    for one in (id, session["session_id"]):
        assert texts(server, one, "?q=BREAD&limit=1") == ["and the bread"]

    session = server.create(workspace)
    secret = home / "secret.jsonl"
    secret.write_text(written("secret") + "\n")
    links = f"mkdir -p ~/.claude/projects/-workspace; ln -sfn {home} ~/.claude/projects/-home"
    bed.shell(id, f"{links}; ln -sfn {secret} {TALK.format(**session)}")
    assert server.delete(path).status == 204
    assert texts(server, id) == []
