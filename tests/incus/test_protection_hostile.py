"""What somebody tries around the second line: floods, races, snapshots, and sessions that start together."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_protection_watch import (
    REPLACE,
    await_broken,
    await_frozen,
    await_watched,
    from_apart,
    protection,
    pytestmark,
)

from tests.programs import DEADLINE, NO_CHECKPOINTS, wait_until

__all__ = ["pytestmark"]  # needs root on the host

WRITE = """cd /workspace; for path in .git/config .git/hooks/evil .husky/evil .vscode/evil; do
    { echo evil >>$path; } 2>/dev/null && echo "$path is open"; done; :"""


@pytest.fixture
def server(start_server):
    return start_server(config=NO_CHECKPOINTS)


@pytest.fixture
def session(server, workspace):
    made = server.create(workspace)
    await_watched(server, made)
    return made


def written(bed, name):
    """The sealed paths that the agent, and root in its container, can write."""
    said = [bed.incus.exec(name, ["sh", "-c", WRITE], user=user).stdout for user in (0, 1000)]
    return b"".join(said).decode()


def test_two_sessions_that_start_at_the_same_moment_have_all_seals(bed, server, workspace):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: server.create(workspace), range(2)))
    for one in both:
        await_watched(server, one)
        assert written(bed, one["id"]) == ""
    server.delete(f"/api/sessions/{both[0]['id']}?force=true")
    wait_until(lambda: protection(server, both[1])["sealed"], "the other one to be watched")
    assert written(bed, both[1]["id"]) == ""
    assert protection(server, both[1])["changes"] == []


def test_a_restored_snapshot_has_its_seals(bed, server, session, workspace):
    path = f"/api/sessions/{session['id']}/snapshots"
    assert server.post(path, {"name": "before"}).status in (200, 201)
    (workspace / ".git/hooks/mine").write_text("true\n")
    answer = server.post(f"{path}/before/restore", {})
    assert answer.status == 200, answer.body
    if server.get(f"/api/sessions/{session['id']}").json["status"] != "running":
        answer = server.post(f"/api/sessions/{session['id']}/resume", {})
        assert answer.status == 200, answer.body
    await_watched(server, session)
    assert written(bed, session["id"]) == ""
    found = protection(server, session)
    assert (found["level"], found["changes"]) == ("locked", [])
    assert (workspace / ".git/hooks/mine").read_text() == "true\n"


def test_a_flood_of_swaps_leaves_the_server_to_the_person(bed, server, session, workspace):
    """A program of the host, which no freeze stops, goes on to replace what is sealed."""
    before = (workspace / ".git/config").read_text()
    loop = f"while [ ! -e stop ]; do {{ {REPLACE}; }} || :; sleep 0.01; done"
    flood = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", f"cd {workspace}; umount -l /run/clincus/*; {loop}"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_broken(server, session)
        for _ in range(20):
            assert server.get("/api/sessions").status == 200
            assert protection(server, session)["level"] == "broken"
        assert len(protection(server, session)["changes"]) <= 60
        answer = server.delete(f"/api/sessions/{session['id']}?force=true")
        assert answer.status == 204, answer.body
    finally:
        (workspace / "stop").touch()
        flood.wait(DEADLINE)
    assert server.get("/api/sessions").json == []
    refused = server.post("/api/sessions", {"workspace": str(workspace)})
    assert (refused.status, ".git/config" in refused.json["error"]) == (409, True)
    assert before.startswith("[core]")


def test_what_is_replaced_through_a_recursive_bind_is_seen_and_an_overlay_touches_nothing(
    bed,
    server,
    session,
    workspace,
    tmp_path,
):
    before = (workspace / ".git/config").read_text()
    for name in ("upper", "work", "merged", "bound"):
        (tmp_path / name).mkdir()
    folders = f"lowerdir={workspace},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    overlay = f"mount -t overlay overlay -o {folders} {tmp_path}/merged && cd {tmp_path}/merged"
    from_apart(workspace, f"{overlay} && {REPLACE}")
    assert protection(server, session)["changes"] == []
    assert written(bed, session["id"]) == ""
    from_apart(workspace, f"mount --rbind {workspace} {tmp_path}/bound && cd {tmp_path}/bound && {REPLACE}")
    await_broken(server, session)
    await_frozen(bed, session)
    assert (workspace / ".git/config").read_text() == before


def test_a_session_that_is_frozen_while_it_is_deleted_is_gone_at_once(server, session, workspace):
    """A save of its conversation would wait two minutes for a frozen container."""
    from_apart(workspace, REPLACE)
    answer = server.delete(f"/api/sessions/{session['id']}?force=true")
    assert answer.status == 204, answer.body
    assert server.get("/api/sessions").json == []
