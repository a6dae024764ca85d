"""Review and undo on a real Incus: checkpoints, what they hold, and what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.programs import Server, git, wait_until


class Reviewed:
    """A session whose workspace is reviewed."""

    def __init__(self, bed: Any, server: Server, workspace: Path, **fields: Any) -> None:
        self.bed, self.server, self.workspace = bed, server, workspace
        self.id = server.create(workspace, **fields)["id"]
        self.path = f"/api/sessions/{self.id}"
        wait_until(self.checkpoints, "the first checkpoint")

    def checkpoints(self) -> list[dict[str, Any]]:
        return list(self.server.get(f"{self.path}/checkpoints").json)

    def keep(self, note: str = "") -> dict[str, Any]:
        answer = self.server.post(f"{self.path}/checkpoints", {"note": note})
        assert answer.status == 201, answer.body
        return dict(answer.json)

    def changes(self, **scope: str) -> dict[str, Any]:
        query = "&".join(f"{name}={value}" for name, value in scope.items())
        answer = self.server.get(f"{self.path}/changes?{query}")
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def files(self, **scope: str) -> dict[str, str]:
        """Path and status of each file that differs."""
        return {one["path"]: one["status"] for one in self.changes(**scope)["files"]}

    def file(self, path: str, **scope: str) -> dict[str, Any]:
        query = "&".join(
            f"{name}={value}"
            for name, value in {"path": quote(path.encode("utf-8", "surrogateescape")), **scope}.items()
        )
        answer = self.server.get(f"{self.path}/changes/file?{query}")
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def run(self, script: str, user: int = 1000) -> str:
        """Run a script in the workspace, as the tool would."""
        return str(self.bed.shell(self.id, f"cd /workspace; {script}", user))


@pytest.fixture
def session(bed, clincus_server, workspace) -> Reviewed:
    return Reviewed(bed, clincus_server, workspace)


def test_what_a_session_changes_is_seen_and_outlives_it(session, workspace):
    first = session.checkpoints()
    assert [(one["checkpoint"], one["why"], one["files"]) for one in first] == [("1", "start", 0)]
    session.run("echo two >>README.md; mkdir src; seq 3 >src/new.txt; printf '\\211PNG\\r\\n\\032\\n\\0' >a.png")
    found = session.changes()
    assert [(one["path"], one["status"], one["added"], one["removed"], one["binary"]) for one in found["files"]] == [
        ("README.md", "M", 1, 0, False),
        ("a.png", "A", 0, 0, True),
        ("src/new.txt", "A", 3, 0, False),
    ]
    assert (found["truncated"], found["skipped"], found["others"], found["stale"]) == (False, [], [], "")
    kept = session.keep("before the move")
    assert (kept["checkpoint"], kept["why"], kept["note"], kept["files"]) == ("2", "person", "before the move", 3)
    session.run("mv src/new.txt src/moved.txt; rm a.png")
    moved = session.changes(**{"from": "2"})["files"]
    assert [(one["path"], one["old_path"], one["status"]) for one in moved] == [
        ("a.png", "", "D"),
        ("src/moved.txt", "src/new.txt", "R"),
    ]
    shown = session.file("README.md")
    assert (shown["old"], shown["new"]) == ("# project\n", "# project\ntwo\n")
    picture = session.server.get(f"{session.path}/changes/image?path=a.png&to=2")
    assert (picture.headers["content-type"], picture.body) == ("image/png", b"\x89PNG\r\n\x1a\n\0")
    patch = session.server.get(f"{session.path}/changes/patch?path=README.md")
    assert b"+two\n" in patch.body
    one = next(one for one in session.server.get("/api/sessions").json if one["id"] == session.id)
    assert one["changes"] == {"files": 2, "added": 4, "removed": 0}
    session.run("rm -rf src; sudo rm -rf /home/code/.clincus/shadow")
    assert session.files() == {"README.md": "M"}
    assert git(workspace, "status", "--short") == " M README.md\n", "index and HEAD are as they were"
    assert session.server.delete(f"{session.path}?force=true").status == 204
    assert session.files(to="2") == {"README.md": "M", "a.png": "A", "src/new.txt": "A"}
    assert session.server.post(f"{session.path}/checkpoints").status == 404
