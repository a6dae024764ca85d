"""A session whose workspace is reviewed, as the tests of review and undo use it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.conftest import new_workspace
from tests.faults_bed import run_cli
from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import ROOT, Server, wait_until

# A tool that gets its prompt with its start, and writes before anybody can look.
HASTY_TOOL = """
[tools.hasty]
command = [
  "sh", "-c", "echo two >>README.md; rm -f gone; echo more >>uncommitted; echo new >at-once; exec sleep 600", "tool"
]
prompt = ["{prompt}"]
"""


# The command of a server whose tools wait for the record of a start for as long as it takes, on a machine of any load.
PATIENT = [
    sys.executable,
    "-c",
    f"""
import sys; sys.path[:0] = [{str(ROOT)!r}]
from clincus_features.review import recorder
recorder.BEFORE_TOOL = 60
from clincus_cli.main import main
sys.exit(main())
""",
]


class Reviewed:
    """A session whose workspace is reviewed."""

    def __init__(self, bed: Any, server: Server, workspace: Path, **fields: Any) -> None:
        self.bed, self.server, self.workspace = bed, server, workspace
        self.id = server.create(workspace, **fields)["id"]
        self.path = f"/api/sessions/{self.id}"
        wait_until(self.checkpoints, "the first checkpoint")

    def clear(self) -> None:
        """Let the workspace be as it was at the start, for another test; what is protected cannot be removed."""
        self.run("rm -rf .git/index .git/modules ~/elsewhere; git reset --quiet --hard; git clean -qffdx || true")
        assert self.run("git status --porcelain") == ""

    def checkpoints(self) -> list[dict[str, Any]]:
        return list(self.server.get(f"{self.path}/checkpoints").json)

    def whys(self) -> list[str]:
        """Why each checkpoint was taken, the first one first."""
        return [one["why"] for one in reversed(self.checkpoints())]

    def turn(self, script: str) -> None:
        """Let the tool have a turn, as far as its screen tells, in which it runs a script."""
        self.bed.draw(self.id, CLAUDE_RESTS)
        wait_until(lambda: self.server.get(f"{self.path}/agent").json["state"] in ("idle", "done"), "a tool at rest")
        before = self.whys()
        for drawn, why, work in ((CLAUDE_WORKS, "prompt", script), (CLAUDE_RESTS, "turn", "")):
            self.bed.draw(self.id, drawn)
            before.append(why)
            wait_until(lambda: self.whys() == before, lambda: f"checkpoints {before}; there are {self.whys()}")
            self.run(work)

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
        query = "&".join(f"{name}={value}" for name, value in {"path": quote(path), **scope}.items())
        answer = self.server.get(f"{self.path}/changes/file?{query}")
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def cli(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this session."""
        return run_cli(self.bed, self.server, command, self.id, *words, "--port", str(self.server.port))

    def restore(self, checkpoint: str, *paths: str) -> dict[str, Any]:
        """Go back to a checkpoint with these paths."""
        answer = self.server.post(f"{self.path}/restore", {"checkpoint": checkpoint, "paths": list(paths)})
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def run(self, script: str, user: int = 1000) -> str:
        """Run a script in the workspace, as the tool would."""
        return str(self.bed.shell(self.id, f"cd /workspace; {script}", user))


@contextlib.contextmanager
def kept_review(bed: Any, server: Server, folder: Path) -> Iterator[Reviewed]:
    """A session for the tests of a file, which outlives each of them."""
    session = Reviewed(bed, server, new_workspace(folder / "project"))
    with bed.keeping(session.id):
        yield session
