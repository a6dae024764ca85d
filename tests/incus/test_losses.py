"""What could lose, or half make, a person's work: each test is a fault that was found and mended."""

from __future__ import annotations

import os
import signal
from http.client import HTTPException

import pytest

import clincus
from tests.faults_bed import broken_client, guest_says, saved, say, talk, wait_for_screen
from tests.programs import DEADLINE, NO_CHECKPOINTS, wait_until

TALK = "~/.claude/projects/-workspace/{session_id}.jsonl"


def test_what_was_said_after_a_stop_that_failed(bed, start_server, workspace, tmp_path):
    script = f'[[ " $* " == *" stop "* && -e {tmp_path}/broken ]] && {{ echo "Error: No" >&2; exit 1; }}'
    server = start_server(config=NO_CHECKPOINTS, environ=broken_client(tmp_path, script))
    session = talk(bed, server, workspace)
    path = f"/api/sessions/{session['id']}"
    (tmp_path / "broken").touch()
    assert server.delete(path).status == 500
    (tmp_path / "broken").unlink()
    guest_says(bed, session, "and the bread")
    bed.stop(session["id"])
    wait_until(lambda: server.get(path).json["status"] == "stopped", "the stop")
    assert server.delete(f"{path}?force=true").status == 204
    assert "and the bread" in saved(server, session)


def test_a_resume_that_was_killed_while_the_conversation_went_in(bed, start_server, workspace, tmp_path):
    cut = 'dd bs=1 count=150000 status=none | "$real" "$@"; kill -9 $PPID'
    environ = broken_client(tmp_path, f'if [[ "$*" == *new-session* && -e {tmp_path}/broken ]]; then {cut}; fi')
    server = start_server(config=NO_CHECKPOINTS, environ=environ)
    session = talk(bed, server, workspace)
    id, path = session["id"], f"/api/sessions/{session['id']}"
    bed.shell(id, "seq 90000 >>" + TALK.format(**session))
    assert server.delete(f"{path}?force=true").status == 204
    whole = saved(server, session)
    assert whole.endswith("\n90000\n")

    (tmp_path / "broken").touch()
    with pytest.raises((OSError, HTTPException)):
        server.create(workspace, resume=session["session_id"])
    assert server.process.wait(timeout=DEADLINE) == -signal.SIGKILL
    (tmp_path / "broken").unlink()
    server = start_server(environ=environ)
    assert 0 < int(bed.shell(id, f"wc -c <{TALK.format(**session)}")) < len(whole)
    assert server.delete(path).status == 204
    assert saved(server, session) == whole
    assert server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, id, "earlier: remember the milk")
    assert bed.shell(id, "cat " + TALK.format(**session)) == whole


def command_line(bed, server) -> clincus.Sessions:
    """The sessions as a process of a command line sees them that begins now."""
    environ = {**os.environ, "HOME": str(server.home)}
    registry = clincus.Registry("clincus-", lambda change: None)
    sessions = clincus.Sessions(bed.incus, registry, lambda: clincus.load_config(environ), environ)
    sessions.refresh("")
    return sessions


def test_a_conversation_has_one_container_which_nobody_ends_who_saw_it_stopped(bed, shared_server, workspace):
    """Nor does its loss from outside lose more than the last turn."""
    session = talk(bed, shared_server, workspace)
    id, path = session["id"], f"/api/sessions/{session['id']}"
    assert shared_server.delete(path).status == 204
    body = {"workspace": session["workspace"], "resume": session["session_id"]}
    again = shared_server.post("/api/sessions", body)
    assert (again.status, id in again.json["error"]) == (409, True)
    late = command_line(bed, shared_server)  # then a person is asked, and thinks
    assert shared_server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, id, "earlier: remember the milk")
    with pytest.raises(clincus.ClincusError, match="started it meanwhile"):
        late.end(id, delete=True)
    assert shared_server.get(path).json["status"] == "running"

    say(bed, id, "and the bread")
    bed.await_screen(id, "rung", type=r'sh printf "\a"; echo rung')  # as at the end of a turn
    wait_until(lambda: "and the bread" in saved(shared_server, session), "the save")
    bed.incus.run("delete", "--force", id)
    wait_until(lambda: shared_server.get(path).status == 404, "the server to see that it is gone")
    shared_server.create(session["workspace"], resume=session["session_id"])
    wait_for_screen(bed, id, "and the bread")
