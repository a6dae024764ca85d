"""Sessions on a cluster, each of whose members is a daemon of our own on a loopback address."""

from __future__ import annotations

import pytest
from test_engines import engine, listed, typed, unreachable

from tests.engines_bed import cluster
from tests.programs import Server, wait_until


def states(server: Server) -> dict[str, str]:
    """The members of the cluster and what Incus says of each."""
    return {one["name"]: one["status"] for one in engine(server, "cl")["members"]}


@pytest.mark.parametrize("down", ["m1", "m3"])
def test_a_member_that_goes_down_takes_its_own_sessions_along_and_brings_them_back(bed, start_server, workspace, down):
    """The client knows the address of m1: when that is down it finds another member. Two are the majority of three."""
    with cluster(bed) as members:
        server = start_server(config=f'[engines.cl]\nroots = ["{workspace.parent}"]\n', environ=members.environ)
        wait_until(lambda: len(states(server)) == 3, "the members")
        assert engine(server, "cl")["kind"] == "cluster"
        there, other = (server.create(workspace, engine="cl", mode="mount", target=name) for name in (down, "m2"))
        assert (there["member"], other["member"]) == (down, "m2")
        there, other = there["id"], other["id"]
        daemon = next(one for one in members.daemons if one.folder.name == down)
        daemon.kill()
        wait_until(lambda: unreachable(server, there) and not unreachable(server, other), "the loss to be seen", 120)
        assert listed(server)[there]["status"] == "running"
        assert down in server.delete(f"/api/sessions/{there}").json["error"]
        typed(server, other, "here", "echo: here")
        wait_until(lambda: states(server)[down] == "Offline", "the state of the member")
        daemon.start()
        wait_until(lambda: not unreachable(server, there), "the member to be back", 120)
        typed(server, there, "back", "echo: back")
        server.stop()
