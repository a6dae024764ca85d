"""Root of a container lets each program hang that Clincus runs there. That holds up nothing but that container."""

from __future__ import annotations

import functools
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from test_lying_programs import KEPT, replace_program, restore_programs

import clincus
from tests.faults_bed import saved, say, talk
from tests.incus_bed import Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, wait_until

COMMIT = "cd /workspace; echo >work; git add work; git -c user.name=a -c user.email=a@b commit -qm Work"
HANGS = "exec sleep 100000"
ANSWER_MARGIN = 20  # seconds for what is not the container's part in an answer, on a busy machine
WITHIN = clincus.END_PATIENCE + DEADLINE  # seconds for an end, with what Incus does for it


def hang(bed: Bed, session: dict[str, Any]) -> None:
    """Let the programs of a container hang from now on."""
    for name in ("find", "git", "tar"):
        replace_program(bed, session["id"], name, HANGS)


def test_answers_about_a_container_that_hangs_come_soon_and_say_what_to_do(bed, start_server, make_workspace, note):
    server = start_server()
    session = talk(bed, server, make_workspace(), mode="clone")
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
    assert (told["pending"], told["total"], told["commits"]["count"]) == (True, None, None)
    assert "ask again" in told["unknown"]
    for word in ("files", "scrollback", "ports"):
        assert (answers[word].status, "try again" in answers[word].json["error"]) == (504, True), word
    told = server.unsaved(session["id"])
    assert (told["total"], told["commits"]["count"], "try again" in told["unknown"]) == (None, None, True)
    # From now on, nobody waits long for this container.
    for _ in range(2):
        for word in ("files", "scrollback", "ports", "changes", "unsaved"):
            began = time.monotonic()
            server.get(f"{path}/{word}", timeout=clincus.ANSWER_PATIENCE)
            note(f"{word} of a container that hangs: {time.monotonic() - began:.1f} s")
    restore_programs(bed, session["id"])
    wait_until(lambda: server.get(f"{path}/files").status == 200, "the container that answers again")
    assert server.unsaved(session["id"])["unknown"] == ""


def test_a_stop_calls_off_a_fetch_from_a_clone_whose_git_hangs(bed, shared_server, make_workspace):
    session = talk(bed, shared_server, make_workspace(), mode="clone")
    path = f"/api/sessions/{session['id']}"
    replace_program(bed, session["id"], "git", HANGS)
    with ThreadPoolExecutor(1) as pool:
        fetch = pool.submit(shared_server.post, f"{path}/fetch", {}, timeout=2 * WITHIN)
        wait_until(lambda: bed.shell(session["id"], "pgrep -f '^sleep 100000' || true"), "git in the clone")
        assert shared_server.delete(path).status == 204
        answer = fetch.result()
    assert (answer.status, "being ended" in answer.json["error"]) == (409, True)
    assert "remember the milk" in saved(shared_server, session)


def test_a_stop_calls_off_what_git_of_this_host_does_with_a_bundle(bed, start_server, make_workspace, tmp_path):
    """A few bytes of a pack can unfold to so much that git is busy with it for many minutes."""
    workspace = make_workspace()
    begun = workspace / "begun"  # git runs as the folder's owner
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    slow = f'case " $* " in *" fetch "*) touch {begun}; exec sleep 1000 ;; esac'
    program.write_text(f'#!/bin/sh\n{slow}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    server = start_server(config=NO_CHECKPOINTS, environ={"PATH": f"{program.parent}:{os.environ['PATH']}"})
    session = talk(bed, server, workspace, mode="clone")
    bed.shell(session["id"], COMMIT)
    path = f"/api/sessions/{session['id']}"
    with ThreadPoolExecutor(1) as pool:
        fetch = pool.submit(server.post, f"{path}/fetch", {}, timeout=2 * WITHIN)
        wait_until(begun.exists, "git of this host")
        assert server.delete(path).status == 204
        answer = fetch.result()
    assert (answer.status, "being ended" in answer.json["error"]) == (409, True)
    assert "remember the milk" in saved(server, session)


def test_forced_deletes_of_containers_that_hang_come_to_an_end_and_others_are_saved_and_stopped_meanwhile(
    bed, shared_server, make_workspace
):
    server = shared_server
    hostile = [talk(bed, server, make_workspace(mode), mode=mode) for mode in ("mount", "clone")]
    honest = talk(bed, server, make_workspace("honest"))
    for session in hostile:
        hang(bed, session)
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(server.delete, f"/api/sessions/{one['id']}?force=true", timeout=WITHIN) for one in hostile]
        wait_until(lambda: [one["status"] for one in server.get("/api/sessions").json].count("stopping") == 2, "ends")
        say(bed, honest["id"], "said meanwhile")
        assert server.delete(f"/api/sessions/{honest['id']}").status == 204
        assert "said meanwhile" in saved(server, honest)
        assert not any(end.done() for end in ends), "the others hang"
        assert [end.result().status for end in ends] == [204, 204]
    assert bed.names() == [honest["id"]]


def test_a_clone_that_is_slow_and_answers_in_the_end_is_kept_whole_by_a_forced_delete(
    bed, shared_server, make_workspace
):
    """Each look at its clone takes long, and all together longer than a container may say nothing."""
    session = talk(bed, shared_server, make_workspace(), mode="clone")
    bed.shell(session["id"], COMMIT)
    late = 0.4 * clincus.END_PATIENCE
    # guest/clone-out.sh runs it once: for the first look, for the one after the tool's end, and for the bundle.
    replace_program(bed, session["id"], "mktemp", f'sleep {late}; exec {KEPT}/mktemp "$@"')
    answer = shared_server.delete(f"/api/sessions/{session['id']}?force=true", timeout=4 * WITHIN)
    assert (answer.status, bed.names()) == (204, [])
    assert answer.headers["clincus-kept"].endswith(".bundle")
    assert "remember the milk" in saved(shared_server, session)
