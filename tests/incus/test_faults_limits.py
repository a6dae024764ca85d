"""A server at its limits: no descriptors left, a clock that jumps, a history that is far too long."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import clincus
from tests.faults_bed import guest_says, saved, say, talk, wait_for_screen
from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, program, wait_until
from tests.push_service import PushService

HOUR = 3600
# Shifts what a process takes for the time by the seconds in the file CLOCK_SHIFT, which it maps into its memory.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *shift;
__attribute__((constructor)) static void find(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) shift = map;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME && shift) now->tv_sec += *shift;
    return failed;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""


class Clock:
    """The clock of a server, which a test sets; Incus and the containers have the real one."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or pytest.skip("no C compiler")
        self._shift, library = folder / "shift", folder / "clock.so"
        (folder / "clock.c").write_text(SHIM)
        argv = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "clock.c"), "-ldl"]
        subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, timeout=60)
        self._shift.write_bytes(bytes(8))
        self.environ = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._shift)}

    def set(self, seconds: int) -> None:
        """Let the server's time be the real one and so many seconds."""
        with open(self._shift, "r+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


@pytest.fixture
def clock(tmp_path) -> Clock:
    return Clock(tmp_path)


@contextlib.contextmanager
def idle_connections(server: Server, count: int) -> Iterator[None]:
    """So many connections that say nothing."""
    with contextlib.ExitStack() as held:
        for _ in range(count):
            held.enter_context(socket.create_connection((server.host, server.port), timeout=DEADLINE))
        yield


def test_a_server_without_descriptors_says_so_and_goes_on(bed, start_server, workspace):
    command = ["sh", "-c", 'ulimit -n 90; exec "$@"', "sh", *program()]
    server = start_server(command=command, config=NO_CHECKPOINTS)
    session, began = talk(bed, server, workspace), time.monotonic()
    with idle_connections(server, 150):
        wait_until(lambda: "no file descriptors are left" in server.log(), "the log to say it")
    wait_until(lambda: answer_of(server) == 200, "the server to answer again")
    id, path = session["id"], f"/api/sessions/{session['id']}"
    wait_until(lambda: server.get(path).json.get("unreachable_since") == "", "Incus to be reached")
    say(bed, id, "and the bread")
    assert server.delete(path).status == 204
    assert "and the bread" in saved(server, session)
    minutes = (time.monotonic() - began) / 60
    assert server.log().count("no file descriptors are left") <= 2 + minutes, "it is said once a minute"


def answer_of(server: Server) -> int:
    """The status of an answer, 0 if there is none."""
    with contextlib.suppress(OSError):
        return server.get("/api/sessions", timeout=5).status
    return 0


JUMPS = {"forward": HOUR, "back": -HOUR}


# The clock is set back again meanwhile, so that each of them shows both.
@pytest.mark.parametrize(
    "jump",
    [HOUR, -HOUR],
)
def test_a_clock_that_is_set_loses_nothing(bed, start_server, workspace, clock, jump):
    server = start_server(config=NO_CHECKPOINTS, environ=clock.environ)
    session = talk(bed, server, workspace)
    path = f"/api/sessions/{session['id']}"
    clock.set(jump)
    say(bed, session["id"], "after the jump")
    assert server.delete(path).status == 204
    clock.set(0)
    bed.incus.run("start", session["id"])  # by hand, so that nothing of ours knows of it
    guest_says(bed, session, "by hand")
    bed.stop(session["id"])
    wait_until(lambda: server.get(path).json["status"] == "stopped", "the stop")
    assert server.delete(f"{path}?force=true").status == 204
    assert [words in saved(server, session) for words in ("after the jump", "by hand")] == [True, True]
    again = server.create(workspace, resume=session["session_id"])
    wait_for_screen(bed, again["id"], "earlier: after the jump")
    page = server.get("/api/sessions/history?limit=50")
    assert (page.status, {run["id"] for run in page.json}) == (200, {session["id"]})
    assert "Traceback" not in server.log()


def test_a_session_ends_at_its_time_by_the_servers_clock(bed, start_server, workspace, clock):
    limit = '[limits.runtime]\nmax_duration = "30m"\n'
    server = start_server(config=NO_CHECKPOINTS + limit, environ=clock.environ)
    session = talk(bed, server, workspace)
    path = f"/api/sessions/{session['id']}"
    clock.set(-HOUR)
    assert server.get(path).json["status"] == "running"
    clock.set(HOUR)
    wait_until(lambda: server.get(path).json["status"] == "stopped", "the end of its time")
    assert "remember the milk" in saved(server, session)
    assert server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, session["id"], "earlier: remember the milk")
    assert server.get(path).json["status"] == "running"


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS.keys())
def test_a_clock_that_is_set_holds_no_call_no_save_and_no_checkpoint_back(bed, start_server, workspace, clock, jump):
    with PushService() as service:
        notify = f'[notify]\nwebhook = "{service.webhook("team")}"\n'
        server = start_server(config=notify, environ={**clock.environ, "no_proxy": "*"})
        session = talk(bed, server, workspace)
        path = f"/api/sessions/{session['id']}"

        def shows(lines: Sequence[str], *states: str) -> None:
            bed.draw(session["id"], lines)
            wait_until(lambda: server.get(f"{path}/agent").json["state"] in states, f"one of the states {states}")

        def reasons() -> list[str]:
            """Why each checkpoint was taken, newest first."""
            return [one["why"] for one in server.get(f"{path}/checkpoints").json]

        def ends_turn(calls: int) -> None:
            """The tool's turn is over, and a person is told of it and looks."""
            shows(CLAUDE_RESTS, "done")
            wait_until(lambda: len(service.messages) == calls, f"call {calls}")
            assert server.post(f"{path}/seen").status == 204

        shows(CLAUDE_RESTS, "idle")
        shows(CLAUDE_WORKS, "working")
        ends_turn(1)
        shows(CLAUDE_WORKS, "working")
        clock.set(jump)
        wait_until(lambda: is_now(server.get(f"{path}/agent").json["why"]["at"], jump), "a look after the jump")
        assert server.get(f"{path}/agent").json["state"] == "working", "it was not still for an hour"
        ends_turn(2)
        wait_until(lambda: reasons().count("turn") == 2, "the checkpoint of the second turn")
        before = reasons()
        guest_says(bed, session, "after the jump")
        shows(CLAUDE_WORKS, "working")
        shows(CLAUDE_RESTS, "done", "idle")  # by the clock of the container it was over before the person looked
        expected = ["turn", "prompt", *before]
        wait_until(lambda: reasons() == expected, f"{expected}")
        wait_until(lambda: "after the jump" in saved(server, session), "the save after the jump")
        assert "Traceback" not in server.log()


def is_now(at: str, jump: int) -> bool:
    """Whether a time of the API is that of a clock which was set by so many seconds."""
    moment = clincus.parse_time(at)
    return moment is not None and abs(moment.timestamp() - time.time() - jump) < HOUR / 2


RUNS = 100_000
NEVER_ENDED = 500


def write_history(path: Path) -> list[str]:
    """A history of 200,000 lines, as the Go program leaves one; the ids of its sessions, newest first.

    It never shortened its file, and did not see the end of each run: some containers of long ago have no stop.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    begin, ids = datetime(2025, 1, 1, tzinfo=timezone.utc), []
    with open(path, "wb") as file:
        for number in range(RUNS):
            moment = clincus.format_time(begin + timedelta(minutes=number))
            is_open = number >= RUNS - NEVER_ENDED
            name = f"clincus-{number if is_open else number % 1000:06x}-{number % 10}"
            run = clincus.Run(f"session-{number}", name, "/home/person/src/project", "claude", moment, moment)
            file.write(run.line("start") + (run.line("start") if is_open else run.line("stop")))
            ids.append(run.session_id)
    return ids[::-1]


def append_run(path: Path, session_id: str) -> None:
    """Append a run of now to a history."""
    now = clincus.format_time(datetime.now(timezone.utc))
    run = clincus.Run(session_id, "clincus-ffffff-1", "/home/person/src/other", "claude", now, now)
    with open(path, "ab") as file:
        file.write(run.line("start") + run.line("stop"))


def read_so_far(server: Server) -> int:
    """Bytes that a server has read from files and pipes."""
    return int(Path(f"/proc/{server.process.pid}/io").read_text().split("rchar:")[1].split()[0])


def most_memory(server: Server) -> int:
    """The most memory that a server has had so far, in MiB."""
    return int(Path(f"/proc/{server.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) >> 10


def test_of_a_history_of_200_000_lines_a_page_costs_what_the_page_holds(start_server, home):
    fresh = start_server()
    assert fresh.get("/api/sessions/history?limit=50").json == []
    usual = most_memory(fresh)
    fresh.stop()
    path = home / ".clincus" / "history.jsonl"
    ids = write_history(path)
    size = path.stat().st_size
    assert size > 7 * clincus.HISTORY_LIMIT

    server = start_server()
    # One connection: for each new one the server reads the kernel's table of all of them.
    with contextlib.closing(HTTPConnection(server.host, server.port, timeout=DEADLINE)) as connection:

        def page(**values: Any) -> list[dict[str, Any]]:
            connection.request("GET", f"/api/sessions/history?{urlencode({'limit': 50, **values})}")
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return list(json.loads(answer.read()))

        def are_ended() -> bool:
            return all(run["ended_at"] for run in page(limit=NEVER_ENDED))

        # The server ends the runs whose stop nobody saw, which shortens the file: once, and not for each of them.
        wait_until(are_ended, "the runs without a stop to be ended")
        assert read_so_far(server) < 2 * size
        assert path.stat().st_size < clincus.HISTORY_LIMIT
        assert [run["session_id"] for run in page()] == ids[:50]
        before = read_so_far(server)
        for number in range(50):
            assert [run["session_id"] for run in page(offset=number)] == ids[number : number + 50]
            assert len(page(q="project", offset=number)) == 50
        assert read_so_far(server) - before < path.stat().st_size, "a hundred pages read less than the file once"
        append_run(path, "newest")  # as a command line does
        wait_until(lambda: [run["session_id"] for run in page()] == ["newest", *ids[:49]], "the new run")
        assert read_so_far(server) - before < 2 * clincus.HISTORY_LIMIT, "of a file that grew, what is new is read"
    assert most_memory(server) - usual < 12 * clincus.HISTORY_LIMIT >> 20, "what is read of it, twice: not all of it"
