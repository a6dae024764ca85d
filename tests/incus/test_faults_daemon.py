"""The daemon stops, dies or hangs: every answer comes in time, and everything goes on by itself afterwards."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_sessions import Events
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.sync.client import ClientConnection

import clincus
from tests.faults_bed import answers, hung, stopping, talk, wait_for_screen
from tests.incus_bed import Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, connect, wait_until

# Seconds for any answer, whatever the daemon does: 8 as a rule, and more on a busy machine. Commands have 60.
IN_TIME = 45.0
UNANSWERED = "Incus does not answer: check the incus service"
LEAVING = "Incus is shutting down."


def requests_of(id: str, other: str, workspace: str) -> list[tuple[str, str, object]]:
    """One request of each kind: `id` is a session that runs, `other` another one that is to be stopped."""
    one = f"/api/sessions/{id}"
    reads = [
        "/api/sessions", one, "/api/sessions/history", "/api/health", "/api/engines", "/api/images", "/api/config",
        "/api/workspaces", "/api/tools", "/api/cost", "/api/push", f"{one}/files?path=", f"{one}/usage",
        f"{one}/agent", f"{one}/scrollback", f"{one}/changes", f"{one}/checkpoints", f"{one}/snapshots", f"{one}/log",
        f"{one}/prompts", f"{one}/cost", f"{one}/files/content?path=README.md", f"{one}/unsaved",
    ]  # fmt: skip
    return [
        *(("GET", path, None) for path in reads),
        ("POST", "/api/sessions", {"workspace": workspace}),
        ("POST", f"{one}/prompt", {"text": "hello"}),
        ("POST", f"{one}/interrupt", {}),
        ("POST", f"{one}/seen", {}),
        ("POST", f"{one}/checkpoints", {}),
        ("POST", f"{one}/snapshots", {"name": "now"}),
        ("PATCH", one, {"name": "mine"}),
        ("POST", f"{one}/resume", None),
        ("DELETE", f"/api/sessions/{other}", None),
        ("PUT", "/api/config", {"workspace_roots": []}),
    ]


def shown(server: Server, terminal: ClientConnection, line: str, words: str) -> None:
    """Type a line into a terminal, and wait for what it shows."""
    terminal.send(f"{line}\r".encode())
    seen = ""
    while words not in seen:
        seen += bytes(terminal.recv(timeout=DEADLINE)).decode("utf-8", "replace")


def no_half_made(bed: Bed, server: Server, expected: set[str]) -> None:
    """Wait until just these sessions are there, as Incus and the server say, and the server reaches Incus."""
    wait_until(lambda: server.get("/api/sessions").status == 200, "Incus to be reached again")
    wait_until(lambda: set(bed.names()) == expected, "the half-made container to be gone")
    wait_until(lambda: {one["id"] for one in server.get("/api/sessions").json} == expected, "the list to say so")


def wait_until_begun(bed: Bed, containers: int) -> None:
    """Wait until the last of a test's containers is being made. Incus is not asked: it might be done meanwhile."""
    assert bed.folder is not None
    folder = bed.folder / "containers"
    wait_until(lambda: len({*os.listdir(folder)} - bed.kept) == containers, "the container to be begun")


def test_a_daemon_that_hangs_keeps_nobody_waiting(bed, clincus_server, make_workspace, note):
    server = clincus_server
    id, other = (talk(bed, server, make_workspace(name))["id"] for name in ("one", "other"))
    asked = requests_of(id, other, str(make_workspace("third")))
    with connect(f"{server.socket_url}/ws/terminal/{id}") as terminal, ThreadPoolExecutor(1) as pool:
        events = Events(server, [clincus.EVENTS_SUBPROTOCOL])
        shown(server, terminal, "before", "echo: before")
        create = pool.submit(server.post, "/api/sessions", {"workspace": str(make_workspace("fourth"))})
        wait_until_begun(bed, 3)
        with hung(bed):
            first, then = (answers(server, asked) for _ in range(2))
            refused = create.result()
            assert (refused.status, refused.json["error"]) == (503, UNANSWERED)
            longest = max(one.seconds for one in first)
            note(f"longest wait for an answer while Incus hangs: {longest:.1f} s")
            assert longest < IN_TIME, first
            assert {one.error for one in (*first, *then) if one.status == 503} == {UNANSWERED}
            assert {one.status for one in then} <= {200, 204, 503}
        no_half_made(bed, server, {id, other})
        shown(server, terminal, "after", "echo: after")
    wait_until(lambda: {"incus.unreachable", "incus.reachable"} <= {one["type"] for one in events.seen}, "the events")
    assert server.delete(f"/api/sessions/{other}").status == 204
    wait_until(lambda: "session.stopped" in events.of(other), "the event of the stop")
    assert server.post(f"/api/sessions/{other}/resume").status == 200
    wait_for_screen(bed, other, "earlier: remember the milk")


def test_a_daemon_that_is_stopped_waits_for_no_terminal_and_all_goes_on(bed, start_server, make_workspace):
    """It would wait 5 minutes for the commands of open terminals to end."""
    server = start_server(config=NO_CHECKPOINTS)
    id = server.create(make_workspace("one"))["id"]
    events = Events(server, [clincus.EVENTS_SUBPROTOCOL])
    with connect(f"{server.socket_url}/ws/terminal/{id}") as terminal, ThreadPoolExecutor(1) as pool:
        shown(server, terminal, "before", "echo: before")
        create = pool.submit(server.post, "/api/sessions", {"workspace": str(make_workspace("other"))})
        wait_until_begun(bed, 2)
        with stopping(bed):
            refused = create.result()
            assert (refused.status, refused.json["error"]) == (503, LEAVING)
            with pytest.raises(ConnectionClosed) as closed:
                deque(iter(lambda: terminal.recv(timeout=DEADLINE), ""), maxlen=0)
            assert closed.value.rcvd == Close(clincus.CloseCode.TRY_AGAIN_LATER, LEAVING)
    no_half_made(bed, server, {id})

    def reached() -> list[str]:
        news = [one for one in events.seen if one["type"] in ("incus.unreachable", "incus.reachable")]
        return [one.get("error", "") for one in news]

    wait_until(lambda: reached()[-1:] == [""], "the event of its return")
    assert reached()[0] == LEAVING
    with connect(f"{server.socket_url}/ws/terminal/{id}") as terminal:
        shown(server, terminal, "after", "echo: after")
    assert server.delete(f"/api/sessions/{id}").status == 204
    wait_until(lambda: "session.stopped" in events.of(id), "the event of the stop")
