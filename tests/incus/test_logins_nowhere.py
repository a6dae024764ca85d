"""One search for the secrets over everything that sessions leave: nothing has them, and their placeholders are found.

The real Claude Code works with an API key and runs git with a token. Another one works with a subscription that is
renewed meanwhile. All secrets have a part in common, which nothing else has.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from login_box import ADDRESS, OTHER_ADDRESS, lending_server, put_secret, vendor_context, vendor_of
from search_box import Search, watched_commands
from test_agents import Tool, config
from websockets.exceptions import ConnectionClosed

from clincus_features.logins.renewal import EARLY
from tests.contract import DOCUMENT, resolved
from tests.one_use_vendor import OneUseVendor, claude_file
from tests.programs import DEADLINE, Server, connect
from tests.vendor_api import Handler, VendorApi

SECRET = f"OfTheHost{secrets.token_hex(12)}"
KEY = f"sk-ant-api03-{SECRET}"
LOGINS = f"""[network]
reachable = ["{ADDRESS}/32", "{OTHER_ADDRESS}/32"]
[logins.claude]
lend = true
[logins.anthropic]
from = {{ file = "~/keys/anthropic" }}
[logins.github]
from = {{ file = "~/keys/github" }}
"""
MODELS = ("api.anthropic.com", "platform.claude.com")
VARIABLES = {"key": "ANTHROPIC_API_KEY", "github": "GH_TOKEN"}
WORK = f"""git ls-remote https://github.com/me/thing
printenv {" ".join(VARIABLES.values())} | tee /workspace/placeholders.txt
"""
LENT = "cat ~/.claude/.credentials.json | tee /workspace/placeholders.txt"
PLACEHOLDERS = {*VARIABLES, "lent"}
# Each kind of place has to be seen with these, so that a search of nothing does not pass.
SHOWN = {
    "disk": PLACEHOLDERS,
    "environ": {*VARIABLES},
    "memory": PLACEHOLDERS,
    "cmdline": {"tool"},
    "argv": {"session"},
    "variables of all": {*VARIABLES},
    "config of the instance": PLACEHOLDERS,
    "folder of Incus": PLACEHOLDERS,
    "log": {"session"},
    "home": {"session", "journal"},
    "objects of git": PLACEHOLDERS,
    "API": {*PLACEHOLDERS, "journal"},
    "events": {"session"},
    "terminal": {"tool"},
    "home afterwards": PLACEHOLDERS,
    "API afterwards": {"session", "journal"},
}


class Models(Handler):
    """Anthropic's two names: they serve whoever brings the key, or a token that is good now."""

    server: Any

    def do_POST(self) -> None:
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.path == "/v1/oauth/token":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            tokens = self.server.logins.renew(asked["refresh_token"])
            self.send_json(200 if tokens else 400, tokens or {"error": "invalid_grant"})
        elif self.headers.get("X-Api-Key") == KEY or self.server.logins.takes(bearer):
            super().do_POST()
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_json(401, {"type": "error", "error": {"type": "authentication_error", "message": "who are you?"}})


def listen(search: Search, server: Server) -> None:
    """Look at all events of a server until it ends."""
    with suppress(ConnectionClosed, OSError), connect(f"{server.socket_url}/ws/events") as socket:
        for message in socket:
            search.look("events", message, str(message).encode())


def ask_all(search: Search, kind: str, server: Server, ids: list[str]) -> list[str]:
    """Send each GET that the API has; the requests that got an error."""
    failed = []
    for path, item in DOCUMENT["paths"].items():
        if "get" not in item or path.startswith("/ws/"):
            continue
        fields = [resolved(one) for one in (*item.get("parameters", ()), *item["get"].get("parameters", ()))]
        needs_file = any(one["name"] == "path" and one.get("required") for one in fields)
        for id in ids if "{id}" in path else ids[:1]:
            target = path.replace("{id}", id) + "?path=placeholders.txt" * needs_file
            answer = server.get(target)
            search.look(kind, target, repr(answer.headers).encode() + answer.body)
            failed += [path] if answer.status >= 400 else []
    return failed


def look_at_terminal(search: Search, server: Server, id: str) -> None:
    """Look at what a terminal shows to somebody who comes."""
    with connect(f"{server.socket_url}/ws/terminal/{id}?readonly=true") as socket, suppress(TimeoutError):
        while True:
            message = socket.recv(timeout=3)
            search.look("terminal", id, message if isinstance(message, bytes) else message.encode())


def work(bed: Any, server: Server, search: Search, keys: dict[str, Any], lent: dict[str, Any]) -> None:
    """Let both sessions work, after what they have as placeholders is known to the search."""
    search.mark("session", keys["id"])
    for name, variable in VARIABLES.items():
        search.mark(name, bed.shell(keys["id"], f"printenv {variable}").strip())
    placeholders = json.loads(bed.shell(lent["id"], "cat ~/.claude/.credentials.json"))["claudeAiOauth"]
    search.mark("lent", placeholders["accessToken"])
    (Path(keys["workspace"]) / "work.sh").write_text(WORK)
    tools = [Tool(bed, server, one["id"]) for one in (keys, lent)]
    for tool in tools:
        tool.becomes("idle", timeout=4 * DEADLINE)
    tools[0].works_a_turn("bash sh work.sh 2>&1 | tee said.txt")
    assert "refs/heads/main" in (Path(keys["workspace"]) / "said.txt").read_text()
    for prompt in (f"bash {LENT}", "say hello again"):
        tools[1].works_a_turn(prompt)


def look_everywhere(bed: Any, server: Server, search: Search, sessions: list[dict[str, Any]]) -> None:
    """Look at all places, while the sessions run and once they are stopped."""
    ids = [one["id"] for one in sessions]
    own = {server.home / name for name in ("keys", ".claude/.credentials.json", ".cache")}  # .cache is of all homes
    for id in ids:
        init = bed.ask(f"/1.0/instances/{id}/state")["pid"]
        root = Path(f"/proc/{init}/root")
        search.folder("disk", root, {root / name for name in ("proc", "sys", "dev", "opt/tools")})
        search.processes(init)
        search.look("config of the instance", id, bed.incus.run("config", "show", "--expanded", id))
        look_at_terminal(search, server, id)
    search.folder("folder of Incus", bed.folder)
    search.file("log", server.log_file)
    search.folder("home", server.home, own)
    for folder in (server.home, *(Path(one["workspace"]) for one in sessions)):
        for file in folder.rglob("HEAD"):
            if (file.parent / "objects").is_dir():
                search.repository("objects of git", file.parent)
    failed = ask_all(search, "API", server, ids)
    assert not [one for one in failed if not one.endswith("/image")]
    for id in ids:
        assert server.delete(f"/api/sessions/{id}").status == 204
    search.folder("home afterwards", server.home, own)
    ask_all(search, "API afterwards", server, ids)


@pytest.mark.timeout(1800)  # the tool is fetched
@pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
def test_no_secret_is_anywhere_once_each_kind_of_login_has_worked(bed, start_server, make_workspace, tmp_path):
    search = Search(SECRET)
    search.mark("journal", "uses the login")
    search.mark("tool", "claude")
    models: Any = VendorApi(OTHER_ADDRESS, 443)
    models.RequestHandlerClass = Models
    models.logins = OneUseVendor(EARLY + 2.0, SECRET)  # two seconds before it is time to renew
    with vendor_of(tmp_path, ("github.com", *MODELS)) as github:
        lines = ("127.0.0.1 localhost", f"{ADDRESS} github.com", f"{OTHER_ADDRESS} {' '.join(MODELS)}")
        (tmp_path / "hosts").write_text("\n".join((*lines, "")))
        context = vendor_context(tmp_path)
        models.socket = context.wrap_socket(models.socket, server_side=True, do_handshake_on_connect=False)
        server = lending_server(start_server, github, config("claude") + LOGINS, checkpoints=True)
        put_secret(server.home / "keys/anthropic", KEY)
        put_secret(server.home / "keys/github", f"ghp_{SECRET}")
        put_secret(server.home / ".claude/.credentials.json", json.dumps(claude_file(models.logins.issue())))
        threading.Thread(target=listen, args=(search, server), daemon=True).start()
        with watched_commands(search):
            keys = server.create(make_workspace("one"), profile="real", logins=["anthropic", "github"])
            lent = server.create(make_workspace("two"), profile="real", logins=["claude"])
            work(bed, server, search, keys, lent)
        assert (models.keys - {""}, models.logins.renewals >= 2) == ({KEY}, True)
        look_everywhere(bed, server, search, [keys, lent])
    models.close()
    assert search.leaks == set()
    missing = {kind: names - search.seen[kind] for kind, names in SHOWN.items() if names - search.seen[kind]}
    assert missing == {}
