"""`kill -9` of the server in the middle of what it does: nothing stays half made, and nothing that was said is lost."""

from __future__ import annotations

import contextlib
import signal
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.faults_bed import broken_client, say, wait_for_screen
from tests.incus_bed import Bed
from tests.programs import DEADLINE, Server, wait_until


def is_being_deleted(id: str) -> bool:
    """Whether an `incus delete` of a container is under way. It outlives a server that is killed."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = process.read_bytes().split(b"\0")
            if {b"delete", id.encode()} <= set(words):
                return True
    return False


class Life:
    """One conversation, through all the servers that are killed."""

    def __init__(self, bed: Bed, start_server: Any, workspace: Any) -> None:
        self.bed, self.start_server, self.workspace = bed, start_server, workspace
        self.server: Server = start_server()
        self.session = self.server.create(workspace)
        self.said = 0
        wait_for_screen(bed, self.id, "STUB-READY")
        self.say_more()

    @property
    def id(self) -> str:
        return str(self.session["id"])

    @property
    def path(self) -> str:
        return f"/api/sessions/{self.id}"

    def say_more(self) -> None:
        self.said += 1
        say(self.bed, self.id, f"line {self.said}.")

    def prepare(self, action: str) -> None:
        """Bring the session to where the action begins."""
        if action == "create":
            assert self.server.delete(f"{self.path}?force=true").status == 204
        elif action == "resume":
            assert self.server.delete(self.path).status == 204
        elif action == "restore":
            taken = self.server.post(f"{self.path}/snapshots", {"name": f"at-{self.said}"})
            assert taken.status in (200, 201), taken.body
        elif action == "undo":
            (self.workspace / "work").write_text(f"{self.said}\n")

    def act(self, action: str) -> None:
        """Ask for the action; the server is killed meanwhile."""
        requests: dict[str, tuple[str, str, Any]] = {
            "create": (
                "POST",
                "/api/sessions",
                {"workspace": str(self.workspace), "resume": self.session["session_id"]},
            ),
            "stop": ("DELETE", self.path, None),
            "resume": ("POST", f"{self.path}/resume", None),
            "delete": ("DELETE", f"{self.path}?force=true", None),
            "restore": ("POST", f"{self.path}/snapshots/at-{self.said}/restore", {}),
            "undo": ("POST", f"{self.path}/restore", {"checkpoint": "start"}),
        }
        with contextlib.suppress(OSError, HTTPException):
            self.server.request(*requests[action])

    def go_on(self) -> None:
        """A new server: what is there is whole, and the conversation goes on by one call."""
        self.server = self.start_server()
        wait_until(lambda: self.server.get("/api/sessions").status == 200, "Incus")
        wait_until(lambda: not is_being_deleted(self.id), "a delete that goes on without its server")

        def found() -> bool:
            listed = self.server.get("/api/sessions").json
            assert len(listed) <= 1, listed
            return [one["id"] for one in listed] == self.bed.names() and all(
                one["status"] in ("running", "stopped") for one in listed
            )

        wait_until(found, "the list to be that of Incus")

        def resumed() -> Any:
            """The answer, once the restore that was broken off is finished."""
            answer = self.server.post(f"{self.path}/resume")
            is_early = answer.status == 409 and "a server (clincus serve) finishes it" in answer.json["error"]
            return None if is_early else answer

        if self.bed.names():
            answer = wait_until(resumed, "an answer to a resume")
        else:
            body = {"workspace": str(self.workspace), "resume": self.session["session_id"]}
            answer = self.server.post("/api/sessions", body)
        assert answer.status == 200, answer.body
        self.session = answer.json
        assert (self.session["slot"], self.session["status"]) == (1, "running")
        wait_for_screen(self.bed, self.id, "STUB-READY")
        wait_for_screen(self.bed, self.id, f": line {self.said}.")


DIE = "kill -9 $PPID"


class Death:
    """Lets the servers of a life die at a command."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "death"
        self.environ = broken_client(folder, f"[ ! -e {self._script} ] || source {self._script}")

    def comes(self, life: Life, action: str, words: str, what: str) -> None:
        """Let the server die amid an action, at the first command whose line has the words; a new one goes on."""
        life.prepare(action)
        self._script.write_text(f'[[ " $* " != *"{words}"* ]] || {{ rm {self._script}; {what}; }}')
        life.act(action)
        assert life.server.process.wait(timeout=DEADLINE) == -signal.SIGKILL
        life.go_on()
        life.say_more()


def test_a_clone_that_was_never_finished_is_not_worked_on(bed, start_server, workspace, tmp_path):
    done = tmp_path / "done"
    script = f'[[ "$*" != *"Lays the uncommitted changes"* || -e {done} ]] || {{ touch {done}; kill -9 $PPID; }}'
    server = start_server(environ=broken_client(tmp_path, script))
    with pytest.raises((OSError, HTTPException)):
        server.create(workspace, mode="clone")
    server.process.wait()
    server = start_server()
    (id,) = wait_until(bed.names, "the container")
    wait_until(lambda: server.get(f"/api/sessions/{id}").status == 200, "the session")
    refused = server.post(f"/api/sessions/{id}/resume")
    assert (refused.status, "is incomplete" in refused.json["error"]) == (409, True)
    assert server.delete(f"/api/sessions/{id}?force=true").status == 204
    assert server.create(workspace, mode="clone")["slot"] == 1


def test_a_server_that_dies_amid_an_action_loses_nothing(bed, start_server, workspace, tmp_path):
    """The command goes on without it, but for what the server would still have sent."""
    death = Death(tmp_path)
    life = Life(bed, partial(start_server, environ=death.environ), workspace)
    talk = f"/home/code/.claude/projects/-workspace/{life.session['session_id']}.jsonl"
    bed.shell(life.id, f"seq 90000 >>{talk}")
    part = '"$real" "$@" | { dd bs=1 count=150000 status=none; kill -9 $PPID; }'
    death.comes(life, "stop", "tool_processes()", part)  # the server gets a part of what is saved
    death.comes(life, "stop", " stop ", DIE)
    death.comes(life, "resume", "new-session", DIE)
    death.comes(life, "create", " launch ", DIE)
    death.comes(life, "delete", " delete ", DIE)
    death.comes(life, "restore", "--request PUT", DIE)
    death.comes(life, "undo", "Writes and removes files of the workspace", DIE)
    whole = bed.shell(life.id, f"cat {talk}")
    assert life.server.delete(f"{life.path}?force=true").status == 204
    (saved,) = (life.server.home / ".clincus" / "sessions-claude").rglob("*.jsonl")
    assert saved.read_text() == whole
