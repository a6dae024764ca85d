"""Root of a container lets each program hang that Clincus runs there. That holds up nothing but that container.

By a clock of its own, tests/unit/test_ends.py has what each end and each answer waits for.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor

from test_lying_programs import replace_program, restore_programs

import clincus
from tests.faults_bed import saved, say, talk
from tests.programs import DEADLINE, wait_until

HANGS = "exec sleep 100000"
ANSWER_MARGIN = 20  # seconds for what is not the container's part in an answer, on a busy machine
WITHIN = clincus.END_PATIENCE + DEADLINE  # seconds for an end, with what Incus does for it


def test_answers_about_a_container_that_hangs_come_soon_and_say_what_to_do(bed, start_server, workspace, note):
    server = start_server()
    session = talk(bed, server, workspace, mode="clone")
    path = f"/api/sessions/{session['id']}"
    assert server.get(f"{path}/changes").json["stale"] == ""
    for name in ("find", "git", "tmux", "grep"):
        replace_program(bed, session["id"], name, HANGS)
    asked = ("changes", "unsaved", "files", "scrollback", "ports")
    with ThreadPoolExecutor(len(asked)) as pool:
        ask = functools.partial(server.get, timeout=clincus.ANSWER_PATIENCE + ANSWER_MARGIN)
        answers = dict(zip(asked, pool.map(ask, [f"{path}/{word}" for word in asked])))
    assert "ask again" in answers["changes"].json["stale"]
    told = answers["unsaved"].json
    assert (told["pending"], told["total"], "ask again" in told["unknown"]) == (True, None, True)
    for word in ("files", "scrollback", "ports"):
        assert (answers[word].status, "try again" in answers[word].json["error"]) == (504, True), word
    told = server.unsaved(session["id"])
    assert (told["total"], "try again" in told["unknown"]) == (None, True)
    for word in asked:  # from now on, nobody waits long for this container
        began = time.monotonic()
        server.get(f"{path}/{word}", timeout=clincus.ANSWER_PATIENCE)
        note(f"{word} of a container that hangs: {time.monotonic() - began:.1f} s")
    restore_programs(bed, session["id"])
    wait_until(lambda: server.get(f"{path}/files").status == 200, "the container that answers again")
    wait_until(lambda: server.unsaved(session["id"])["unknown"] == "", "all of it to be known")


def test_ends_of_containers_that_hang_call_off_what_reads_them_and_hold_up_no_other(bed, shared_server, make_workspace):
    server = shared_server
    hostile = [talk(bed, server, make_workspace(mode), mode=mode) for mode in ("mount", "clone")]
    honest = talk(bed, server, make_workspace("honest"))
    for session in hostile:
        for name in ("find", "git", "tar"):
            replace_program(bed, session["id"], name, HANGS)
    clone = hostile[1]["id"]
    with ThreadPoolExecutor(3) as pool:
        fetch = pool.submit(server.post, f"/api/sessions/{clone}/fetch", {}, timeout=2 * WITHIN)
        wait_until(lambda: bed.shell(clone, "pgrep -f '^sleep 100000' || true"), "git in the clone")
        ends = [pool.submit(server.delete, f"/api/sessions/{one['id']}?force=true", timeout=WITHIN) for one in hostile]
        assert (fetch.result().status, "being ended" in fetch.result().json["error"]) == (409, True)
        say(bed, honest["id"], "said meanwhile")
        assert server.delete(f"/api/sessions/{honest['id']}").status == 204
        assert "said meanwhile" in saved(server, honest)
        assert not any(end.done() for end in ends), "the others hang"
        assert [end.result().status for end in ends] == [204, 204]
    assert bed.names() == [honest["id"]]
