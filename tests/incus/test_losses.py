"""What could lose, or half make, a person's work: each test is a fault that was found and mended."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest
from test_sessions import guest, talk, type_line, wait_for_screen

import clincus
from tests.faults_bed import broken_client, saved
from tests.programs import DEADLINE, NO_CHECKPOINTS, wait_until

TALK = "~/.claude/projects/-workspace/{session_id}.jsonl"


@pytest.fixture(scope="module")
def talked(bed, shared_server, keep_session):
    """A session in which something was said. Each test leaves it, or one that goes on with it, running."""
    session = keep_session(shared_server)
    talk(bed, shared_server, session)
    return session


@pytest.fixture
def stopped(shared_server, talked):
    """The same session, stopped."""
    assert shared_server.delete(f"/api/sessions/{talked['id']}").status == 204
    return talked


def test_what_was_said_after_a_stop_that_failed(bed, start_server, workspace, tmp_path):
    script = f'[[ " $* " == *" stop "* && -e {tmp_path}/broken ]] && {{ echo "Error: No" >&2; exit 1; }}'
    server = start_server(config=NO_CHECKPOINTS, environ=broken_client(tmp_path, script))
    session = server.create(workspace)
    talk(bed, server, session)
    (tmp_path / "broken").touch()
    assert server.delete(f"/api/sessions/{session['id']}").status == 500
    (tmp_path / "broken").unlink()
    guest(bed, session, "echo and the bread >>" + TALK.format(**session))
    bed.stop(session["id"])
    wait_until(lambda: server.get(f"/api/sessions/{session['id']}").json["status"] == "stopped", "the stop")
    assert server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    assert "and the bread" in saved(server, session)


def test_a_container_that_is_lost_from_outside_loses_no_more_than_the_last_turn(bed, shared_server, talked):
    type_line(bed, talked, r'sh printf "\a"')  # as a tool rings at the end of a turn
    wait_until(lambda: "remember the milk" in saved(shared_server, talked), "the save")
    bed.incus.run("delete", "--force", talked["id"])
    path = f"/api/sessions/{talked['id']}"
    wait_until(lambda: shared_server.get(path).status == 404, "the server to see that it is gone")
    again = shared_server.create(talked["workspace"], resume=talked["session_id"])
    wait_for_screen(bed, again, "earlier: remember the milk")


def test_a_resume_that_was_killed_while_the_conversation_went_in(bed, start_server, workspace, tmp_path):
    cut = 'dd bs=1 count=150000 status=none | "$real" "$@"; kill -9 $PPID'
    environ = broken_client(tmp_path, f'if [[ "$*" == *new-session* && -e {tmp_path}/broken ]]; then {cut}; fi')
    server = start_server(config=NO_CHECKPOINTS, environ=environ)
    session = server.create(workspace)
    talk(bed, server, session)
    guest(bed, session, "seq 90000 >>" + TALK.format(**session))
    assert server.delete(f"/api/sessions/{session['id']}?force=true").status == 204
    whole = saved(server, session)
    assert whole.endswith("\n90000\n")

    (tmp_path / "broken").touch()
    with pytest.raises((OSError, HTTPException)):
        server.create(workspace, resume=session["session_id"])
    assert server.process.wait(timeout=DEADLINE) == -signal.SIGKILL
    (tmp_path / "broken").unlink()
    server = start_server(environ=environ)
    found = guest(bed, session, f"wc -c <{TALK.format(**session)}")
    assert 0 < int(found) < len(whole)
    assert server.delete(f"/api/sessions/{session['id']}").status == 204
    assert saved(server, session) == whole
    assert server.post(f"/api/sessions/{session['id']}/resume").status == 200
    wait_for_screen(bed, session, "earlier: remember the milk")
    assert guest(bed, session, "cat " + TALK.format(**session)) == whole


def command_line(bed, server) -> clincus.Sessions:
    """The sessions as a process of a command line sees them that begins now."""
    environ = {**os.environ, "HOME": str(server.home)}
    registry = clincus.Registry("clincus-", lambda change: None)
    sessions = clincus.Sessions(bed.incus, registry, lambda: clincus.load_config(environ), environ)
    sessions.refresh("")
    return sessions


# At night: once in some ten times btrfs does not let Incus lift the quota of a full disk (`btrfs qgroup limit none`:
# "Disk quota exceeded"), and Clincus has no other way to read it. The session is kept then, and says so, until a person
# gives it up. unit/test_sessions.py has what a save makes of the disk.
def test_a_guest_that_filled_its_disk_and_stopped(bed, shared_server, workspace):
    if bed.incus.query("/1.0/storage-pools/default")["driver"] == "dir":
        pytest.skip("a pool of the kind dir enforces no quota")
    session = shared_server.create(workspace)
    talk(bed, shared_server, session)
    bed.incus.run("config", "device", "override", session["id"], "root", "size=400MiB")
    guest(
        bed,
        session,
        "dd if=/dev/zero of=/home/code/much bs=1M; for n in $(seq 2000); do echo >~/$n || break; done; true",
    )
    with contextlib.suppress(clincus.IncusError):  # it stops, but there is no room to give the disk another owner
        bed.stop(session["id"])
    wait_until(lambda: bed.state(session["id"]) == "Stopped", "the container's end")

    lines = command_line(bed, shared_server)
    try:
        lines.end(session["id"], delete=True)
        assert "remember the milk" in saved(shared_server, session)
    except clincus.ClincusError as error:
        assert "Disk quota exceeded" in error.message  # noqa: PT017
        assert bed.state(session["id"]) == "Stopped"
        lines.end(session["id"], delete=True, even_unsaved=True)
    assert session["id"] not in bed.names()


def test_a_conversation_never_gets_a_second_container(shared_server, stopped):
    again = shared_server.post("/api/sessions", {"workspace": stopped["workspace"], "resume": stopped["session_id"]})
    assert (again.status, stopped["id"] in again.json["error"]) == (409, True)
    assert shared_server.post(f"/api/sessions/{stopped['id']}/resume").status == 200


def test_a_session_that_was_started_again_is_no_stopped_one(bed, shared_server, stopped):
    path = f"/api/sessions/{stopped['id']}"
    late = command_line(bed, shared_server)  # then a person is asked, and thinks
    assert shared_server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, stopped, "earlier: remember the milk")
    with pytest.raises(clincus.ClincusError, match="started it meanwhile"):
        late.end(stopped["id"], delete=True)
    assert shared_server.get(path).json["status"] == "running"
    wait_for_screen(bed, stopped, "earlier: remember the milk")


def test_two_that_resume_one_session_at_once(bed, shared_server, stopped):
    def resume(sessions: clincus.Sessions) -> str:
        try:
            return sessions.resume(stopped["id"]).status
        except clincus.ClincusError as error:
            return str(error)

    both = [command_line(bed, shared_server) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(resume, both))
    assert "running" in results
    wait_for_screen(bed, stopped, "earlier: remember the milk")
    path = f"/api/sessions/{stopped['id']}"
    wait_until(lambda: shared_server.get(path).json["status"] == "running", "the server to see it")


def test_a_delete_beside_a_resume(bed, shared_server, stopped):
    """Whichever comes first, what was said is in the container or on the host."""
    path = f"/api/sessions/{stopped['id']}"
    other = command_line(bed, shared_server)

    def delete() -> None:
        with contextlib.suppress(clincus.ClincusError):
            other.end(stopped["id"], delete=True, even_unsaved=True)

    with ThreadPoolExecutor() as pool:
        for work in [pool.submit(delete), pool.submit(shared_server.post, f"{path}/resume")]:
            work.result()
    if stopped["id"] in bed.names():
        state = bed.state(stopped["id"]).lower()
        wait_until(lambda: shared_server.get(path).json.get("status") == state, "the server to see what came of both")
        assert shared_server.post(f"{path}/resume").status == 200
    else:
        wait_until(lambda: shared_server.get(path).status == 404, "the server to see that it is gone")
        shared_server.create(stopped["workspace"], resume=stopped["session_id"])
    wait_for_screen(bed, stopped, "earlier: remember the milk")
