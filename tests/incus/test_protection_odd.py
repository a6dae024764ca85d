"""Odd files, and a race with a start."""

from __future__ import annotations

from test_protection_watch import (
    await_watched,
    protection,
    pytestmark,
)

from tests.incus.review_box import Reviewed
from tests.incus.test_appeared import command
from tests.programs import NO_CHECKPOINTS

__all__ = ["pytestmark"]  # needs root on the host


# Links and pipes in .git are missing: git would follow them or wait at them, and test_protection_links.py has them.
ODD_FILES = """
mkdir docs
for folder in . docs .git .git/refs/heads; do
    mknod $folder/whiteout c 0 0
    perl -e 'use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])) or die' $folder/socket
    cp /bin/true $folder/setuid
    chmod 6755 $folder/setuid
done
for folder in . docs; do
    mkfifo $folder/pipe
    ln -s /proc/self/fd/0 $folder/link
done
mkfifo .gitattributes docs/.gitattributes
echo honest >docs/honest.txt
"""


def test_files_that_no_program_can_read_hold_up_neither_look_nor_review_nor_stop(bed, start_server, workspace):
    session = Reviewed(bed, start_server(), workspace)
    session.turn(ODD_FILES)
    assert "docs/honest.txt" in session.cli("diff", "--stat").stdout
    assert protection(session.server, {"id": session.id})["level"] == "locked"
    assert command(session, "stop").returncode == 0


SWAP = """
cd /workspace
mkdir -p other; echo '{}' >other/settings.json; file=.claude/settings.json
for run in $(seq 100000); do
    test -e stop && break
    mv .claude kept && { ln -s SECRET .claude; rm .claude; ln -s other .claude; rm .claude; mv kept .claude; }
    mv $file .claude/kept && {
        ln -s SECRET/settings.json $file; rm $file
        mkfifo $file; rm $file; mv .claude/kept $file
    }
done 2>/dev/null
"""


def test_a_folder_that_another_session_swaps_during_a_start_leads_a_seal_nowhere(
    bed, start_server, workspace, tmp_path
):
    """The other session began before the settings were there, so it may rename them."""
    secret = tmp_path / "secret"  # no container has this folder
    secret.mkdir()
    (secret / "settings.json").write_text("of the host")
    script = SWAP.replace("SECRET", str(secret)).replace("'", '"')
    server = start_server(config=NO_CHECKPOINTS)
    swapping = server.create(workspace)
    await_watched(server, swapping)
    make = "mkdir /workspace/.claude; echo '{}' >/workspace/.claude/settings.json"
    bed.incus.exec(swapping["id"], ["sh", "-c", make], user=1000)
    bed.incus.exec(swapping["id"], ["sh", "-c", f"nohup sh -c '{script}' >/dev/null 2>&1 &"], user=1000)
    started = 0
    session = None
    for _ in range(6):
        path = "/api/sessions" if session is None else f"/api/sessions/{session}/resume"
        answer = server.post(path, {"workspace": str(workspace)} if session is None else {})
        if answer.status not in (200, 201):
            assert answer.status == 409, answer.body
            continue
        started += 1
        session = answer.json["id"]
        mounts = bed.incus.exec(session, ["cat", "/proc/self/mountinfo"]).stdout.decode().splitlines()
        roots = [line.split()[3] for line in mounts if line.split()[4].startswith("/workspace")]
        assert roots
        assert all(f"/{workspace.name}" in root for root in roots), roots
        seen = bed.incus.exec(session, ["sh", "-c", "timeout 5 cat /workspace/.claude/*"])
        assert b"of the host" not in seen.stdout
        assert server.request("DELETE", f"/api/sessions/{session}").status in (200, 204)
    (workspace / "stop").touch()
    assert (workspace / ".git/config").exists()
    assert started or "changed" in answer.json["error"] or "symlink" in answer.json["error"]
