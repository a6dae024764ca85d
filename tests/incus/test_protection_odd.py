"""Odd things against the wall: names of any bytes, races with a start, and a kernel without watches."""

from __future__ import annotations

import os
import sys

import pytest
from test_protection_watch import (
    EVIL,
    REPLACE,
    await_broken,
    await_watched,
    from_apart,
    protection,
    pytestmark,
)

from tests.incus.review_box import Reviewed
from tests.incus.test_appeared import appeared, command, told
from tests.programs import NO_CHECKPOINTS, ROOT, wait_until

__all__ = ["pytestmark"]  # needs root on the host

NAMES = (b"line\nbreak", b"raw\xff\xfe", b"esc\x1b]0;mine\x07", b"-rf", b"quote\"'`")


def planted(name: bytes) -> str:
    """A script that makes a repository in a folder of that name."""
    written = "".join(map("\\{:03o}".format, name))
    return f"""
    folder=$(printf '{written}'); mkdir "./$folder"; git init -q "./$folder"
    git -C "./$folder" config core.fsmonitor evil-command
    """


def test_names_of_any_bytes_are_told_on_one_line_each(bed, start_server, workspace):
    session = Reviewed(bed, start_server(), workspace)
    script = "".join(planted(name) for name in NAMES)
    session.turn(script)
    wait_until(lambda: appeared(session) == len(NAMES), "the session to tell what appeared")
    assert {os.fsencode(path) for path in told(session)} == {name + b"/.git" for name in NAMES}
    shown = session.cli("diff", "--stat").stdout.splitlines()
    assert len([line for line in shown if line.startswith("!  ") and "/.git: " in line]) == len(NAMES)
    said = command(session, "stop").stderr
    assert all(line.isprintable() for line in (*shown, *said.splitlines()))
    assert said.count("/.git: ") == len(NAMES)


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
    [told] = [one for one in session.server.get("/api/sessions").json if one["id"] == session.id]
    assert told["status"] == "stopped"


def test_a_pipe_in_place_of_a_gitignore_costs_the_checkpoint_and_is_named(bed, start_server, workspace):
    """Git in the container waits there, as it does in a repository that an agent made in such a way."""
    session = Reviewed(bed, start_server(), workspace)
    session.run("mkdir docs; mkfifo docs/.gitignore")
    refused = session.server.post(f"{session.path}/checkpoints", {})
    assert refused.status >= 400, refused.body
    assert "named pipe" in refused.json["error"]
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


def server_without_watches(switch: str) -> list[str]:
    """The command of a server that gets no watch from the kernel while a file exists: another program has them all."""
    script = f"""
import errno, os, sys; sys.path[:0] = [{str(ROOT)!r}]
from clincus_features.protection import watch
real = watch.Instance.add
def add(instance, path, mask):
    if os.path.exists({switch!r}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(instance, path, mask)
watch.Instance.add = add
from clincus_cli.main import main
sys.exit(main())
"""
    return [sys.executable, "-c", script]


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_without_watches_a_session_says_so_and_a_seal_that_comes_off_is_found(start_server, workspace, tmp_path, when):
    switch = tmp_path / "no-watches"
    switch.touch()
    server = start_server(config=NO_CHECKPOINTS, command=server_without_watches(str(switch)))
    session = server.create(workspace)
    await_watched(server, session)

    def said():
        warnings = server.get(f"/api/sessions/{session['id']}").json["warnings"]
        return [text for text in warnings if "max_user_watches" in text]

    wait_until(said, "the warning")
    if when == "later":
        switch.unlink()
        wait_until(lambda: not said(), "the watches to be taken again")
    before = (workspace / ".git/config").read_text()
    from_apart(workspace, REPLACE)
    await_broken(server, session)
    assert (workspace / ".git/config").read_text() == before != EVIL
    assert protection(server, session)["level"] == "broken"
