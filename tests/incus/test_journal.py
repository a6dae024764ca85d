"""The log, the journal and what Incus itself writes down: each action has its line, and no secret is in any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults_bed import talk
from tests.programs import DEADLINE, NO_CHECKPOINTS, ROOT, program, wait_until
from tests.push_service import PushService

# Its push services are those of this machine.
SERVER = (sys.executable, str(ROOT / "tests" / "serve_with_local_push.py"))


class Secrets(dict[str, str]):
    """A word for each kind of secret that was asked for, which nothing may write down."""

    def __missing__(self, kind: str) -> str:
        self[kind] = f"secret-{kind}-{os.urandom(6).hex()}"
        return self[kind]

    def found(self, *texts: bytes) -> list[str]:
        """The kinds of those that are in any of the texts."""
        return [kind for kind, word in self.items() if any(word.encode() in text for text in texts)]


def log_lines(text: str) -> list[dict[str, object]]:
    """The objects of a log as JSON. What is printed before the server listens is for people."""
    _, _, rest = text.partition("Dashboard running at")
    return [json.loads(line) for line in rest.splitlines()[1:]]


@pytest.fixture
def service():
    with PushService() as running:
        yield running


@pytest.mark.day
def test_every_action_has_a_line_and_no_secret_is_in_any_log(bed, start_server, home, workspace, service):
    secrets, token_file = Secrets(), home / "token"
    token_file.write_text(f"{secrets['token']}\n")
    token_file.chmod(0o600)
    config = f"""{NO_CHECKPOINTS}[notify]
webhook = "{service.webhook(secrets["webhook"], 404)}"
template = {{ key = "{secrets["template"]}" }}
[profiles.mine]
environment = {{ API_KEY = "{secrets["profile"]}" }}
"""
    environ = {"GH_TOKEN": secrets["github"], "ANTHROPIC_API_KEY": secrets["environment"], "no_proxy": "*"}
    arguments = ["--log-format", "json", "--token-file", str(token_file)]
    server = start_server(config=config, environ=environ, arguments=arguments, command=SERVER)
    session = talk(bed, server, workspace, text=secrets["typed"], profile="mine")
    id, path = session["id"], f"/api/sessions/{session['id']}"

    key = {"Authorization": f"Bearer {secrets['token']}"}
    device = server.post("/api/push/subscriptions", {"endpoint": service.endpoint(secrets["endpoint"], 410)}).json["id"]
    for target in (device, "webhook"):
        assert server.post("/api/push/test", {"device": target, "delay": 0}).status == 202
    statuses = [
        server.post(f"{path}/prompt", {"text": secrets["prompt"]}, headers=key).status,
        server.post(f"{path}/comments", {"path": "README.md", "line": 1, "text": secrets["comment"]}).status,
        server.put("/api/config", {"workspace_roots": secrets["setting"]}).status,
        server.get("/api/sessions", headers={"Authorization": f"Bearer {secrets['wrong']}", "Host": "x"}).status,
        server.get(f"/api/sessions?token={secrets['query']}").status,
    ]
    command = [*program(), "prompt", id, secrets["command"], "--port", str(server.port)]
    own = {**os.environ, **bed.environ, "HOME": str(home)}
    none = subprocess.DEVNULL
    told = subprocess.run(command, env=own, stdin=none, capture_output=True, check=False, timeout=DEADLINE)
    assert server.delete(path).status == 204
    assert server.post(f"{path}/resume").status == 200
    assert server.delete(f"{path}?force=true").status == 204
    wait_until(lambda: service.messages and service.pushes, "the calls")

    kept = [file for file in (home / ".clincus" / "logs").rglob("*") if file.is_file()]
    logs = [server.log_file, *kept, *(Path(bed.folder, "logs").rglob("*") if bed.folder else ())]
    written = [file.read_bytes() for file in logs if file.is_file()]
    assert secrets.found(*written) == [], (statuses, told)
    fields = [line for line in log_lines(server.log()) if "action" in line]
    audit = [json.loads(line) for line in (home / ".clincus" / "logs" / "audit.jsonl").read_text().splitlines()]
    for lines in (fields, audit):
        mine = [line for line in lines if line["session"] == id]
        assert [line["action"] for line in mine if str(line["action"]).endswith("_session")] == [
            "create_session", "delete_session", "resume_session", "delete_session",
        ]  # fmt: skip
        assert {"by", "from", "outcome", "status", "milliseconds", "at"} <= mine[0].keys()
