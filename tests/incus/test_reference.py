"""The API reference, call by call: by the whole program, and by clincus.py with no feature and no command line.

The core has to be complete: it serves every call of the reference with `clincus_cli/` and `clincus_features/` away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.programs import DEADLINE, NO_CHECKPOINTS, ROOT, connect, wait_until

pytestmark = pytest.mark.day

SESSION_FIELDS = {"workspace": str, "tool": str, "slot": int, "status": str, "persistent": bool, "id": str}
ALONE = [sys.executable, "-S"]  # an editable install would bring clincus_cli back by its .pth file
LIBRARIES = {"PYTHONPATH": sysconfig.get_path("purelib")}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's program without the command line and the features."""
    folder = tmp_path_factory.mktemp("core")
    for name in ("clincus.py", "openapi.json"):
        shutil.copy(ROOT / name, folder)
    for name in ("spa_dist", "guest", "wall"):
        shutil.copytree(ROOT / name, folder / name)
    return folder / "clincus.py"


@pytest.fixture(scope="module", params=["the whole program", "clincus.py alone"])
def server(request, start_shared, core, tmp_path_factory):
    """A server with one workspace root, for tests that leave its sessions and its configuration as they found them."""
    home = tmp_path_factory.mktemp("home")
    (home / "projects").mkdir()
    if os.geteuid() == 0:
        os.chown(home / "projects", 1000, 1000)
    config = f'[dashboard]\nworkspace_roots = ["{home}/projects"]\n'
    if request.param == "the whole program":
        return start_shared(config=config + NO_CHECKPOINTS, at=home)
    alone = start_shared(config=config, at=home, command=[*ALONE, str(core)], environ=LIBRARIES)
    alone.is_whole = False
    return alone


@pytest.fixture
def root(server):
    """The workspace root of the server."""
    return server.home / "projects"


@pytest.fixture
def events(server):
    """A function that gives the next event of a type, as any WebSocket client gets it."""
    with connect(server.socket_url + "/ws/events") as socket:

        def next_of(kind: str) -> dict:
            while True:
                event = json.loads(socket.recv(timeout=DEADLINE))
                if event["type"] == kind:
                    return event

        yield next_of


def has_the_fields_of(session: dict) -> bool:
    return {name: type(session[name]) for name in SESSION_FIELDS} == SESSION_FIELDS


# The configuration that the reference shows; its values are the defaults.
CONFIG = {
    "defaults": {"image": "clincus", "persistent": False, "model": str},
    "paths": {"sessions_dir": str, "storage_dir": str, "logs_dir": str, "preserve_workspace_path": False},
    "incus": {"project": "default", "group": "incus-admin", "code_uid": 1000, "code_user": "code"},
    "tool": {"name": "claude", "binary": "", "claude": {"effort_level": ""}},
    "mounts": {"default": []},
    "limits": {
        "cpu": {"count": "", "allowance": "", "priority": 0},
        "memory": {"limit": "", "enforce": str, "swap": "true"},
        "disk": {"read": "", "write": "", "max": "", "priority": 0, "tmpfs_size": ""},
        "runtime": {"max_duration": "", "max_processes": 0, "auto_stop": True, "stop_graceful": True},
    },
    "git": {"writable_hooks": False},
    "security": {"protected_paths": list, "additional_protected_paths": [], "disable_protection": False},
    "profiles": {},
    "dashboard": {"port": int, "workspace_roots": list},
}


def differences(expected: object, found: object, path: str = "") -> list[str]:
    """Where a document lacks a field of the expected one, or has another value; a type stands for any value of it."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            text
            for key, value in expected.items()
            for text in (differences(value, found[key], f"{path}.{key}") if key in found else [f"{path}.{key} lacks"])
        ]
    same = isinstance(found, expected) if isinstance(expected, type) else found == expected
    return [] if same else [f"{path}: {found!r}"]


def test_the_config_has_every_section_and_a_put_updates_the_roots_and_tells_every_subscriber(
    server, events, root, tmp_path
):
    assert differences(CONFIG, server.get("/api/config").json) == []
    assert server.get("/api/tools").json[:3] == ["claude", "copilot", "opencode"]
    answer = server.put("/api/config", {"workspace_roots": [str(tmp_path)]})
    assert (answer.status, answer.json) == (200, {"status": "updated"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", events("config.reloaded")["timestamp"])
    assert server.get("/api/config").json["dashboard"]["workspace_roots"] == [str(tmp_path)]
    assert server.put("/api/config", {"workspace_roots": [str(root)]}).status == 200
    wrong = (server.put("/api/config", {"port": 70000}), server.post("/api/sessions/clincus-ffffff-1/resume"))
    assert [(one.status, list(one.json)) for one in wrong] == [(400, ["error", "code"]), (404, ["error", "code"])]


def test_a_session_is_created_listed_stopped_resumed_and_deleted(server, events, workspace):
    assert server.get("/api/sessions").json == []
    answer = server.post("/api/sessions", {"workspace": str(workspace), "tool": "claude", "persistent": False})
    session = answer.json
    assert answer.status == 200
    assert has_the_fields_of(session)
    assert (session["workspace"], session["status"], session["slot"]) == (str(workspace), "running", 1)
    assert re.fullmatch(r"clincus-[0-9a-f]{6}-1", session["id"])
    assert events("session.started")["id"] == session["id"]
    (listed,) = server.get("/api/sessions").json
    assert has_the_fields_of(listed)

    one = f"/api/sessions/{session['id']}"
    assert server.delete(one).status == 204
    assert events("session.stopped")["id"] == session["id"]
    assert server.get("/api/sessions").json[0]["status"] == "stopped"
    resumed = server.post(f"{one}/resume")
    assert (resumed.status, resumed.json["id"], resumed.json["status"]) == (200, session["id"], "running")
    assert events("session.started")["id"] == session["id"]

    assert server.delete(f"{one}?force=true").status == 204
    assert events("session.stopped")["id"] == session["id"]
    assert server.get("/api/sessions").json == []
    (run, *_) = server.get("/api/sessions/history?limit=1&offset=0").json
    assert {"session_id", "workspace", "tool", "started_at", "ended_at"} <= set(run)


def test_workspaces_lists_roots_and_the_projects_in_them_and_takes_more(server, root, tmp_path):
    project = root / "my-app"
    project.mkdir()
    (project / ".clincus.toml").write_text("")
    document = server.get("/api/workspaces").json
    assert document["roots"] == document["expanded_roots"] == [str(root)]
    expected = {"path": str(project), "name": "my-app", "root": str(root), "has_config": True, "active_sessions": 0}
    assert expected in document["workspaces"]
    more = tmp_path / "more"
    more.mkdir()
    assert str(more) in server.post("/api/workspaces", {"path": str(more)}).json["roots"]
    assert str(more) not in server.delete("/api/workspaces", {"path": str(more)}).json["roots"]
    assert server.post("/api/workspaces", {"path": str(tmp_path / "nowhere")}).status == 400


def test_a_folder_is_made_in_a_root_only(server, root):
    root = str(root)
    made = server.post("/api/workspaces/folder", {"root": root, "name": "my-new-project"})
    assert (made.status, made.json) == (201, {"path": f"{root}/my-new-project"})
    assert server.post("/api/workspaces/folder", {"root": root, "name": "my-new-project"}).status == 409
    assert server.post("/api/workspaces/folder", {"root": root, "name": "Bad Name"}).status == 400
    assert server.post("/api/workspaces/folder", {"root": "/elsewhere", "name": "fine"}).status == 400


def test_a_terminal_carries_raw_bytes_both_ways(server, workspace):
    session = server.create(workspace)
    with connect(f"{server.socket_url}/ws/terminal/{session['id']}", max_size=None) as terminal:
        shown = b""
        while b"STUB-READY" not in shown:
            shown += terminal.recv(timeout=DEADLINE)
        terminal.send(b"hello\r")
        while b"hello" not in shown:
            shown += terminal.recv(timeout=DEADLINE)
    assert server.delete(f"/api/sessions/{session['id']}?force=true").status == 204


def test_a_path_without_a_route_is_the_dashboard(server):
    answer = server.get("/anything/else")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    script = re.search(rb'src="(/assets/[^"]+\.js)"', answer.body)
    assert script
    assert "javascript" in server.get(script[1].decode()).headers["content-type"]


def test_without_its_other_folders_the_program_only_serves(core):
    done = subprocess.run(
        [*ALONE, str(core), "list"], env=LIBRARIES, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 2
    assert "invalid choice: 'list'" in done.stderr


def test_a_file_of_the_config_that_changes_is_put_in_force(server, events):
    file = server.home / ".config" / "clincus" / "config.toml"
    before = file.read_text()
    for text, image in ((f'{before}\n[defaults]\nimage = "other"\n', "other"), (before, "clincus")):
        file.write_text(text)
        events("config.reloaded")
        wait_until(lambda image=image: server.get("/api/config").json["defaults"]["image"] == image, "the new image")
