"""A server at its limits: no descriptors left, a clock that jumps, a history that is far too long."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults_bed import guest_says, saved, say, talk, wait_for_screen
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, program, wait_until

HOUR = 3600
# Shifts what a process takes for the time by the seconds in the file CLOCK_SHIFT, which it maps into its memory.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
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


def test_a_server_without_descriptors_says_so_and_goes_on(bed, start_server, workspace):
    command = ["sh", "-c", 'ulimit -n 90; exec "$@"', "sh", *program()]
    server = start_server(command=command, config=NO_CHECKPOINTS)
    session, began = talk(bed, server, workspace), time.monotonic()
    with contextlib.ExitStack() as held:
        for _ in range(150):
            held.enter_context(socket.create_connection((server.host, server.port), timeout=DEADLINE))
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


# The clock is set back again meanwhile, so that each of them shows both.
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_loses_nothing(bed, start_server, workspace, *, tmp_path, jump):
    """The clock is set back again meanwhile, so that each of them shows both. A session ends at its time by it."""
    limit = '[limits.runtime]\nmax_duration = "90m"\n'
    clock = Clock(tmp_path)
    server = start_server(config=NO_CHECKPOINTS + limit, environ=clock.environ)
    session = talk(bed, server, workspace)
    id, path = session["id"], f"/api/sessions/{session['id']}"
    clock.set(jump)
    say(bed, id, "after the jump")
    assert server.delete(path).status == 204
    clock.set(0)
    bed.incus.run("start", id)  # by hand, so that nothing of ours knows of it
    guest_says(bed, session, "by hand")
    bed.stop(id)
    wait_until(lambda: server.get(path).json["status"] == "stopped", "the stop")
    assert server.delete(f"{path}?force=true").status == 204
    assert [words in saved(server, session) for words in ("after the jump", "by hand")] == [True, True]
    server.create(workspace, resume=session["session_id"])
    wait_for_screen(bed, id, "earlier: after the jump")
    assert {run["id"] for run in server.get("/api/sessions/history?limit=50").json} == {id}
    clock.set(2 * HOUR)
    wait_until(lambda: server.get(path).json["status"] == "stopped", "the end of its time")
    assert "Traceback" not in server.log()
