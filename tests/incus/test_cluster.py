"""Sessions on a cluster, each of whose members is a daemon of our own on a loopback address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_engines import engine, listed, typed, unreachable

from tests.engines_bed import Engine, cluster
from tests.programs import NO_CHECKPOINTS, Server, wait_until


@pytest.fixture(scope="module")
def members(bed) -> Iterator[Engine]:
    """Three members, of which one may go: the others are the majority that a cluster needs."""
    with cluster(bed) as made:
        yield made


@pytest.fixture
def server(start_server, members, workspace) -> Iterator[Server]:
    """A server with the cluster as the engine `cl`."""
    yield start_server(config=f'[engines.cl]\nroots = ["{workspace.parent}"]\n', environ=members.environ)
    members.delete_all()


def states(server: Server) -> dict[str, str]:
    """The members of the cluster and what Incus says of each."""
    return {one["name"]: one["status"] for one in engine(server, "cl")["members"]}


def test_a_session_is_placed_where_a_person_wants_it(bed, start_server, workspace: Path):
    with cluster(bed, members=2) as two:
        config = f'{NO_CHECKPOINTS}[engines.cl]\nroots = ["{workspace.parent}"]\n'
        server = start_server(config=config, environ=two.environ)
        wait_until(lambda: states(server) == dict.fromkeys(("m1", "m2"), "Online"), "the members")
        assert (engine(server, "cl")["kind"], engine(server, "cl")["groups"]) == ("cluster", ["default"])
        second = server.create(workspace, engine="cl", mode="mount", target="m2")
        anywhere = server.create(workspace, engine="cl", mode="mount", target="@default")
        assert second["member"] == "m2"
        assert anywhere["member"] == "m1"  # the cluster chooses a member with fewer
        typed(server, second["id"], "hello", "echo: hello")
        assert {one["name"]: one["sessions"] for one in engine(server, "cl")["members"]} == {"m1": 1, "m2": 1}
        fields = {"workspace": str(workspace), "engine": "cl", "mode": "mount", "target": "m9"}
        refused = server.post("/api/sessions", fields)
        assert (refused.status, "m9" in refused.json["error"]) == (404, True)
        server.stop()


@pytest.mark.parametrize("down", ["m1", "m3"])
def test_a_member_that_goes_down_takes_its_own_sessions_along_and_brings_them_back(server, workspace, members, down):
    """The client knows the address of m1: when that is down it finds another member."""
    there = server.create(workspace, engine="cl", mode="mount", target=down)["id"]
    other = server.create(workspace, engine="cl", mode="mount", target="m2")["id"]
    wait_until(lambda: len(states(server)) == 3, "the members")
    daemon = next(one for one in members.daemons if one.folder.name == down)
    daemon.kill()
    try:
        wait_until(lambda: unreachable(server, there) and not unreachable(server, other), "the loss to be seen", 120)
        assert listed(server)[there]["status"] == "running"
        assert down in server.delete(f"/api/sessions/{there}").json["error"]
        typed(server, other, "here", "echo: here")
        wait_until(lambda: states(server)[down] == "Offline", "the state of the member")
    finally:
        daemon.start()
    wait_until(lambda: not unreachable(server, there), "the member to be back", 120)
    typed(server, there, "back", "echo: back")
