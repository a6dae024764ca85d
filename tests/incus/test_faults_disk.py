"""A disk that is full or read-only: it is told, what was there stays, and all goes on once there is room."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults_bed import own, saved, say, talk, wait_for_screen
from tests.programs import DEADLINE, wait_until


class Disk:
    """A small file system of our own at the place where a server keeps its files."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._is_locked = False
        place.mkdir(mode=0o700)
        self._mount("-t", "tmpfs", "-o", "size=1g,mode=700", "tmpfs")

    def _is_mounted(self, *words: str) -> bool:
        argv = ["mount", *words, str(self.place)]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=DEADLINE, check=False).returncode == 0

    def _mount(self, *words: str) -> None:
        """Mount it; again where it is busy, as the server writes a file just then."""
        wait_until(lambda: self._is_mounted(*words), f"{words}")

    def _is_full(self) -> bool:
        """Whether nothing is free; takes away what is, for the next look to see."""
        now = os.statvfs(self.place)
        if now.f_bfree:
            self._is_mounted("-o", f"remount,size={(now.f_blocks - now.f_bfree) * now.f_frsize}")
        return now.f_bfree == 0

    def fill(self) -> None:
        """Take all that is free away; again where the server has written or removed a file just then."""
        wait_until(self._is_full, "the disk to be full")

    def lock(self) -> None:
        """Make it read-only: a view of it that lies over it, since files may be open."""
        self._mount("--bind", str(self.place))
        self._mount("-o", "remount,bind,ro")
        self._is_locked = True

    def mend(self) -> None:
        """Make it as it was."""
        if self._is_locked:
            subprocess.run(
                ["umount", "--lazy", str(self.place)], stdin=subprocess.DEVNULL, check=True, timeout=DEADLINE
            )
        self._is_locked = False
        self._mount("-o", "remount,size=1g")


@pytest.fixture
def disk(bed, home) -> Iterator[Disk]:
    own(bed)
    made = Disk(home / ".clincus")
    yield made
    made.mend()
    subprocess.run(["umount", "--lazy", str(made.place)], stdin=subprocess.DEVNULL, check=True, timeout=DEADLINE)


FAULTS: dict[str, tuple[Callable[[Disk], None], str]] = {
    "full": (Disk.fill, r"No space left on device|nearly full|no room"),
    "read-only": (Disk.lock, r"Read-only file system"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_takes_nothing_costs_nothing_that_is_there(disk, bed, start_server, make_workspace, fault):
    (harm, words), server, workspace = FAULTS[fault], start_server(), make_workspace()
    session, roots = talk(bed, server, workspace), [str(workspace.parent)]
    id, path = session["id"], f"/api/sessions/{session['id']}"
    assert server.put("/api/config", {"workspace_roots": roots}).status == 200
    assert server.post(f"{path}/checkpoints", {"note": "before"}).status == 201
    assert server.delete(path).status == 204
    assert server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, id, "earlier: remember the milk")
    assert "remember the milk" in saved(server, session)
    harm(disk)
    written = [file for file in disk.place.rglob("*.json*") if not file.name.startswith(".")]
    kept = {file: file.read_bytes() for file in written}  # earlier, the server might write one meanwhile

    say(bed, id, "and the bread")
    (workspace / "new").write_text("new\n")
    refused = {
        "a setting": server.put("/api/config", {"workspace_roots": []}),
        "a checkpoint": server.post(f"{path}/checkpoints", {"note": "later"}),
        "a comment": server.post(f"{path}/comments", {"path": "README.md", "line": 1, "text": "why?"}),
        "a prompt": server.post(f"{path}/prompt", {"text": "hello"}),
        "a session": server.post("/api/sessions", {"workspace": str(make_workspace("other"))}),
        "a delete": server.delete(f"{path}?force=true"),
    }
    unclear = {what: answer.json for what, answer in refused.items() if not re.search(words, answer.json["error"])}
    assert unclear == {}
    assert {answer.status for answer in refused.values()} <= {409, 500}
    assert server.get("/api/config").json["dashboard"]["workspace_roots"] == roots
    newcomer = start_server()
    wait_until(lambda: id in [one["id"] for one in newcomer.get("/api/sessions").json], "the list of a new server")
    newcomer.stop()
    assert {file: data for file, data in kept.items() if not file.read_bytes().startswith(data)} == {}
    assert server.delete(path).status == 204  # what was said is in the container
    assert "Traceback" not in server.log(), server.log()

    disk.mend()
    # The tool of the refused session had begun. Its container goes once all in it is kept, or a person decides.
    for left in {*bed.names()} - {id}:
        assert server.delete(f"/api/sessions/{left}?force=true").status in (204, 404)
    assert bed.names() == [id]
    assert server.post(f"{path}/resume").status == 200
    wait_for_screen(bed, id, "earlier: and the bread")
    assert server.put("/api/config", {"workspace_roots": []}).status == 200
    assert [one["note"] for one in server.get(f"{path}/checkpoints").json if one["why"] == "person"] == ["before"]
    assert server.post(f"{path}/checkpoints", {"note": "after"}).status == 201
    assert server.delete(f"{path}?force=true").status == 204
    assert "and the bread" in saved(server, session)
    runs = server.get("/api/sessions/history").json
    assert all(run["ended_at"] for run in runs), "also the run whose stop was not noted"
    assert id in {run["id"] for run in runs}
