"""What a session takes of the machine, on a real Incus."""

from __future__ import annotations

from tests.programs import wait_until


def test_a_session_that_works_takes_more(bed, clincus_server, workspace):
    session = clincus_server.create(workspace)
    path = f"/api/sessions/{session['id']}/usage"
    before = clincus_server.get(path).json
    unknown = [name for name, value in before.items() if value is None]
    assert unknown in ([], ["disk_bytes"])  # a directory as storage pool tells no disk use
    assert 0 < before["memory_bytes"] < before["memory_limit"]
    bed.shell(session["id"], "timeout 1 sh -c 'while :; do :; done' || true")
    wait_until(
        lambda: clincus_server.get(path).json["cpu_seconds"] > before["cpu_seconds"] + 0.1, "the work to be told"
    )
    assert clincus_server.delete(f"/api/sessions/{session['id']}").status == 204
    assert clincus_server.get(path).status == 409
