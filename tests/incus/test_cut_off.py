"""A program of a container is killed before it has sent everything. This host keeps nothing short, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from test_lying_programs import KEPT, replace_program, restore_programs, start_by_hand

from tests.faults_bed import run_cli, saved, say, talk
from tests.incus_bed import Bed
from tests.programs import git

# Each writes the beginning of what is asked for, and dies as if the container had no memory left.
ENDS = {
    "find": f'case $* in *%T@*) {KEPT}/find "$@" | head -c 30; kill -9 $$ ;; esac; exec {KEPT}/find "$@"',
    "tail": f'{KEPT}/tail "$@" | head -c 7; kill -9 $$',
    "git": f'case $* in \'bundle create\'*) {KEPT}/git "$@" | head -c 100000; kill -9 $$ ;; esac\nexec {KEPT}/git "$@"',
}
LARGE = """cd /workspace; head -c 3000000 /dev/urandom >large; git add large
git -c user.name=a -c user.email=a@b commit --quiet --message Large"""


def kept_beside(server: Any, session: dict[str, Any]) -> list[str]:
    """The files beside the saved conversation of a session."""
    return [path.name for path in (server.home / ".clincus/sessions-claude").glob(f"{session['session_id']}.*")]


def files_of(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_save_that_is_cut_off_keeps_the_copy_of_before_and_the_container(bed: Bed, shared_server, workspace):
    session = talk(bed, shared_server, workspace)
    id, path = session["id"], f"/api/sessions/{session['id']}"
    assert shared_server.delete(path).status == 204
    before = saved(shared_server, session)
    assert "remember the milk" in before
    assert shared_server.post(f"{path}/resume").status == 200
    say(bed, id, "and the bread")
    for name in ("find", "tail"):
        replace_program(bed, id, name, ENDS[name])
        refused = run_cli(bed, shared_server, "kill", id)
        assert (refused.returncode, "not saved" in refused.stderr) == (1, True), refused.stderr
        assert saved(shared_server, session) == before
        assert bed.names() == [id]
        start_by_hand(bed, id)
        restore_programs(bed, id)
    deleted = run_cli(bed, shared_server, "kill", id)
    assert (deleted.returncode, bed.names()) == (0, []), deleted.stderr
    assert "and the bread" in saved(shared_server, session)


def test_a_fetch_that_is_cut_off_brings_nothing_and_its_bundle_is_not_kept(bed: Bed, shared_server, workspace):
    session = shared_server.create(workspace, mode="clone")
    id, path = session["id"], f"/api/sessions/{session['id']}"
    bed.shell(id, LARGE)
    before = files_of(workspace / ".git")
    replace_program(bed, id, "git", ENDS["git"])
    refused = shared_server.post(f"{path}/fetch", {})
    assert refused.status >= 400, refused.body
    assert files_of(workspace / ".git") == before
    assert shared_server.delete(f"{path}?force=true").status == 204
    assert kept_beside(shared_server, session) == [], "half a bundle is no copy"
    assert f"{id}: what its container holds is lost" in shared_server.log()
    assert git(workspace, "branch", "--list") == "* main\n"
